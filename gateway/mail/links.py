"""The links of a message, and what each is for.

What a link is for is told by its name, then by its path and query, then by what stands before it: by the rest of its
line in plain text, and in HTML where the name is no more than "here".
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import unquote

from gateway.mail import page, vocabulary

MAX_LINKS = 100
MAX_LOOKS = 1000  # URLs of a text that are looked at; the same one may come often
_MAX_URL = 2048  # characters; longer ones are left out, a cut link is worse than none
_AROUND = 100  # characters of plain text before a link

Kind = Literal["verify", "login", "reset", "invite", "unsubscribe", "other"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """An http or https link."""

    url: str  # as the message has it, entities decoded
    text: str  # what it is called in HTML, one line; empty in plain text
    kind: Kind


# Where a name says two things, the first of these is meant: "reset" before "log in".
_LISTED: Final[tuple[tuple[Kind, str], ...]] = (
    ("unsubscribe", vocabulary.UNSUBSCRIBE),
    ("reset", vocabulary.RESET),
    ("verify", vocabulary.VERIFY),
    ("invite", vocabulary.INVITE),
    ("login", vocabulary.LOGIN),
)
_WORDS: Final = [(kind, vocabulary.words(listed)) for kind, listed in _LISTED]
_EVERY: Final = [word for _, words in _WORDS for word in words]
# Asked of text in lower case: ignoring case makes alternatives ten times as slow. All words at once find the places.
_ANY_WORD = re.compile(vocabulary.pattern(_EVERY))
_ANY_WORD_ASCII = re.compile(vocabulary.pattern(vocabulary.ascii_alone(_EVERY)))
_KINDS: Final = tuple((kind, re.compile(vocabulary.pattern(words))) for kind, words in _WORDS)
_NAMELESS: Final = frozenset(vocabulary.words(vocabulary.HERE))
_ANY_URL = re.compile("https?://", re.IGNORECASE)
_URL = re.compile(r"https?://[^\s<>\"'`{}|\\^\x00-\x1f\u3000-\u303f\uff01-\uff60]+", re.IGNORECASE)


def found(text: str, html: page.Page) -> tuple[Link, ...]:
    """At most 100 links, those of the HTML first (they have names), each URL once. Linear in both."""
    links: dict[str, Link] = {}
    for url, label, before in _candidates(text, html):
        if len(links) == MAX_LINKS:
            break
        if url not in links and len(url) <= _MAX_URL and url.isprintable():
            links[url] = Link(url=url, text=label, kind=_kind(url, label, before))
    return tuple(links.values())


def _candidates(text: str, html: page.Page) -> Iterator[tuple[str, str, str]]:
    """(URL, its name, what stands before it)."""
    if html.may_hold("://"):
        for anchor in html.anchors:
            if _ANY_URL.match(anchor.href):
                nameless = anchor.text.lower().strip(" .:>»→") in _NAMELESS or _ANY_URL.match(anchor.text)
                yield anchor.href, anchor.text, anchor.before if nameless else ""
    for match in itertools.islice(_urls(text), MAX_LOOKS):
        start = match.start()
        yield _trimmed(match[0]), "", text[max(start - _AROUND, 0) : start]


def _urls(text: str) -> Iterator[re.Match[str]]:
    """What `_URL.finditer` finds, tried only where :// stands."""
    end = 0
    while (colon := text.find("://", end)) >= 0:
        starts = (colon - 5, colon - 4)  # https, http
        match = next(filter(None, (_URL.match(text, start) for start in starts if start >= end)), None)
        if match:
            yield match
        end = match.end() if match else colon + 3


def _introduction(before: str) -> str:
    """The rest of a link's line; where it stands alone, the line above that ends in a colon."""
    *above, line = before.rsplit("\n", 3)
    if line.strip(" \t<(*-"):
        return line
    introduction = next((each.strip() for each in reversed(above) if each.strip()), "")
    return introduction if introduction.endswith((":", "：")) else ""


def _trimmed(url: str) -> str:
    """Without the punctuation of the sentence around it; a closing bracket stays if the URL opened it."""
    for _ in range(8):
        opening = {")": "(", "]": "["}.get(url[-1])
        opened = opening is not None and url.count(opening) >= url.count(url[-1])
        if url[-1] in ".,;:!?*_)]" and not opened:
            url = url[:-1]
        else:
            break
    return url


def _kind(url: str, label: str, before: str) -> Kind:
    path = url.partition("://")[2].partition("/")[2][:300]
    kind = _named(label) or _named(unquote(path) if "%" in path else path)
    return kind or _named(_introduction(before)) or "other"


def _named(words: str) -> Kind | None:
    words = words.lower()
    pattern = _ANY_WORD_ASCII if words.isascii() else _ANY_WORD
    places = [match.start() for match in pattern.finditer(words)] if words else []
    if not places:
        return None
    return next((kind for kind, one in _KINDS if any(one.match(words, place) for place in places)), None)
