"""An HTML body as a reader sees it: its text line by line, and its links with their names.

A small scanner of our own rather than a tree builder, because tree builders take quadratic time on nested tags
(64 KiB of `<div>`: 0.4 s in lexbor), and a message is read while others wait.
"""

from __future__ import annotations

import html as entities
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MAX_LOOK = 65_536  # characters of a body that are looked at
MAX_TAGS = 16_384  # of a page that are looked at; the rest is not
MAX_ANCHORS = 500  # links of a page that are looked at
_MAX_LABEL = 200  # characters of a link's text
_AROUND = 80  # characters before a link

_BLOCK_NAMES = (
    "address article aside blockquote body br center dd div dl dt fieldset footer form h1 h2 h3 h4 h5 h6 header hr li "
    "main nav ol p pre section table tbody td tfoot th thead tr ul"
)
BLOCKS: Final = frozenset(name for block in _BLOCK_NAMES.split() for name in (block, "/" + block))
_UNSEEN: Final = frozenset({"script", "style", "title", "template", "noscript", "svg", "object", "select", "textarea"})
_PLAIN: Final = BLOCKS | {"/a", "b", "/b", "i", "/i", "/span", "/strong", "strong", "/font"}  # as most are written
_ANCHORS: Final = frozenset({"a", "/a", "area"})
_TAG_NAME = re.compile(r"/?[a-zA-Z][a-zA-Z0-9]*")
_HREF = re.compile(r"(?:^|\s)href\s{0,9}=\s{0,9}(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+))", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Anchor:
    """A link of the page."""

    href: str  # entities decoded, as written otherwise
    text: str  # what stands within, one line; may be empty
    before: str  # the end of what stands before it in its line; may be empty


class Page:
    """An HTML body, taken apart when first asked; None counts as empty."""

    __slots__ = ("_anchors", "_html", "_text")

    def __init__(self, html: str | None) -> None:
        self._html = (html or "")[:MAX_LOOK]
        self._text: str | None = None
        self._anchors: list[Anchor] = []

    @property
    def text(self) -> str:
        """Tags, scripts and styles gone, blocks on lines of their own, entities decoded, no blank lines."""
        if self._text is None:
            self._read()
        return self._text or ""

    @property
    def anchors(self) -> list[Anchor]:
        """Its links, in their order."""
        if self._text is None:
            self._read()
        return self._anchors

    def may_hold(self, words: str) -> bool:
        """A cheap look at the source, before it is taken apart."""
        return words in self._html

    def _read(self) -> None:
        out: list[str] = []
        href, start = "", 0
        for tag, attributes, words in pieces(self._html, MAX_TAGS):
            if tag in BLOCKS:
                out.append("\n")
            elif tag in _ANCHORS:
                if href:
                    self._anchors.append(_anchor(href, out, start))
                wanted = tag != "/a" and len(self._anchors) < MAX_ANCHORS
                href, start = target_of(attributes) if wanted else "", len(out)
            if words:
                out.append(words.replace("\n", " ") if "\n" in words else words)
        if href:
            self._anchors.append(_anchor(href, out, start))
        seen = entities.unescape("".join(out))
        lines = (" ".join(line.split()) for line in seen.split("\n"))
        self._text = "\n".join(filter(None, lines))


def _anchor(href: str, out: list[str], start: int) -> Anchor:
    before = "".join(piece[-_AROUND:] for piece in out[max(start - 3, 0) : start]).rpartition("\n")[2]
    return Anchor(
        href=href,
        text=_one_line(entities.unescape("".join(out[start:]))),
        before=_one_line(entities.unescape(before[-_AROUND:])),
    )


def pieces(html: str, most: int) -> Iterator[tuple[str, str, str]]:
    """(tag name, attributes, text behind it) for every tag whose text is seen; the first has no tag.

    A '>' within an attribute ends the tag too early, which shows as some stray characters.
    """
    first, *rest = _without_comments(html).split("<")[:most]
    yield "", "", first
    unseen = ""
    for piece in rest:
        inside, closed, words = piece.partition(">")
        if inside in _PLAIN and closed and not unseen:
            yield inside, "", words
            continue
        match = _TAG_NAME.match(inside)
        tag = match[0].lower() if match else ""
        if unseen:
            unseen = "" if tag == "/" + unseen else unseen
            if unseen:
                continue
        if not tag:
            yield "", "", words if piece[:1] in {"!", "?", "/"} else "<" + piece
        elif tag in _UNSEEN and not inside.endswith("/"):
            unseen = tag
        else:
            yield tag, inside[len(tag) :] if closed else "", words


def _without_comments(html: str) -> str:
    if "<!--" not in html:
        return html
    first, *rest = html.split("<!--")
    return first + "".join(piece.partition("-->")[2] for piece in rest)


def target_of(attributes: str) -> str:
    """Where a link leads; empty = nowhere."""
    match = _HREF.search(attributes)
    return entities.unescape(match[1] or match[2] or match[3] or "").strip() if match else ""


def _one_line(text: str) -> str:
    return " ".join(text[: _MAX_LABEL * 4].split())[:_MAX_LABEL]
