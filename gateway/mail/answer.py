"""Answers to mail that came in: to whom a reply goes, what ties it to its thread, and what is quoted below.

    reply      To, Cc, "Re: ", In-Reply-To, References, the original below every line's ">"
    forward    "Fwd: ", the original's header block and body below

Pure: what is here knows the parsed message and, where somebody made it harmless, its HTML.
"""

from __future__ import annotations

import html as entities
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gateway.mail import address, extract, parse, plain, sanitize
from gateway.mail.address import Mailbox
from gateway.mail.header import NamedAddress

MAX_QUOTED: Final = 262_144  # characters of the original's text that are quoted
MAX_QUOTED_HTML: Final = 1_048_576  # characters of its HTML; where it is longer, its text stands in for it
MAX_REFERENCES: Final = 50  # ids; the oldest one and the newest ones stay
MAX_SUBJECT: Final = 900  # characters
MAX_NAME: Final = 200  # characters of a display name
LEFT_OUT: Final = "[…]"

_ID = re.compile(r"<[!-;=?-~]{1,900}>")
# As mail programs write it in their users' languages; some count: "Re[2]:". The colon may be a wide one.
_REPLIED = re.compile(
    r"(?:re|aw|antw|sv|vs|ref|odp|rif|res|r|ynt|atb|回复|答复|回覆|返信)\s?(?:\[\d+\])?\s?[:：]", re.IGNORECASE
)
_FORWARDED = re.compile(r"(?:fwd?|wg|tr|rv|enc|i|vl|doorst|pd|vb|转发|轉寄|転送)\s?[:：]", re.IGNORECASE)
_NOT_IN_NAMES = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Unanswerable(ValueError):
    """There is nobody to reply to; the message says why, for a person."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Original:
    """The message that is answered."""

    parsed: parse.Parsed
    mail_from: str  # reverse path; empty = <>
    html: str | None  # its HTML, made harmless; None where there is none or it could not be made so


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """What the caller says above the original; either may be missing."""

    text: str | None = None
    html: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What makes an e-mail an answer."""

    to: tuple[Mailbox, ...] = ()  # empty for a forward: its caller says to whom
    cc: tuple[Mailbox, ...] = ()
    subject: str
    text: str | None
    html: str | None
    in_reply_to: str | None  # in angle brackets; None where the original has no id that could be named
    references: tuple[str, ...]


def reply(original: Original, words: Words, *, own: frozenset[str], to_all: bool) -> Answer:
    """A reply; `own` are the canonical addresses, tags taken off, that are the replying mailbox's. Raises
    Unanswerable."""
    to, cc = _recipients(original, own, to_all)
    parsed = original.parsed
    attribution = _attribution(parsed)
    text = html = None
    if words.text is not None or words.html is None:
        text = _joined(words.text or "", f"{attribution}\n{_quoted(_text(parsed))}")
    if words.html is not None:
        quote = f'<blockquote style="margin:0 0 0 .8em;border-left:1px solid #ccc;padding-left:1em">{_html(original)}'
        html = f"{words.html}<br><div>{entities.escape(attribution)}</div>{quote}</blockquote>"
    return Answer(
        to=to,
        cc=cc,
        subject=_subject(parsed.subject, _REPLIED, "Re: "),
        text=text,
        html=html,
        in_reply_to=_parent(parsed),
        references=_references(parsed),
    )


def forward(original: Original, words: Words) -> Answer:
    """A forward, in text, and in HTML where either side has it."""
    parsed = original.parsed
    block = _header_block(parsed)
    above = words.text if words.text is not None else plain.of_html(words.html or "") or ""
    html = None
    if words.html is not None or original.html is not None:
        said = words.html if words.html is not None else (sanitize.text_as_html(words.text) if words.text else "")
        lines = "<br>".join(map(entities.escape, block))
        html = f"{said}<br><div>{lines}</div><br><div>{_html(original)}</div>"
    return Answer(
        subject=_subject(parsed.subject, _FORWARDED, "Fwd: "),
        text=_joined(above, "\n".join([*block, "", _text(parsed)])),
        html=html,
        in_reply_to=None,
        references=_references(parsed),
    )


# To whom


def _recipients(
    original: Original, own: frozenset[str], to_all: bool
) -> tuple[tuple[Mailbox, ...], tuple[Mailbox, ...]]:
    parsed = original.parsed
    _check_answerable(original)
    authors = _mailboxes(parsed.reply_to) or _mailboxes([parsed.from_] if parsed.from_ else [])
    if not authors:
        raise Unanswerable("The message names nobody to reply to: it has no valid From or Reply-To address.")
    if not to_all:
        return authors, ()
    seen = set(own)
    others = _without(authors, seen), _without(_mailboxes([*parsed.to, *parsed.cc]), seen)  # RFC 5322 3.6.3
    if not others[0]:  # one's own mail: whom it was sent to is whom one goes on to write to
        return others[1] or authors, ()
    return others


def _check_answerable(original: Original) -> None:
    if not original.mail_from:
        raise Unanswerable("The message came from the null reverse path: nobody reads replies to it (RFC 5321 4.5.5).")
    for name, value in original.parsed.headers:
        if name.lower() == "auto-submitted" and value.partition(";")[0].strip().lower() != "no":
            raise Unanswerable("The message was sent by a program (Auto-Submitted, RFC 3834): it takes no replies.")


def _mailboxes(named: Iterable[NamedAddress]) -> tuple[Mailbox, ...]:
    """Those that have an address which mail can go to, each once."""
    found: dict[str, Mailbox] = {}
    for person in named:
        try:
            spec = address.parse(person.address or "")
        except address.InvalidAddress:
            continue
        name = _NOT_IN_NAMES.sub("", person.name or "").strip()[:MAX_NAME].strip()
        found.setdefault(spec.canonical, Mailbox(name=name or None, address=spec))
    return tuple(found.values())


def _without(mailboxes: Iterable[Mailbox], seen: set[str]) -> tuple[Mailbox, ...]:
    """Those whose address was not seen yet; it is from now on."""
    kept = []
    for mailbox in mailboxes:
        if not {mailbox.address.canonical, mailbox.address.without_tag.canonical} & seen:
            seen.add(mailbox.address.canonical)
            kept.append(mailbox)
    return tuple(kept)


# The thread


def _parent(parsed: parse.Parsed) -> str | None:
    found = _ID.search(parsed.message_id or "")
    return found[0] if found else None


def _references(parsed: parse.Parsed) -> tuple[str, ...]:
    """The parent's, or else whom it replies to, and then the parent itself (RFC 5322 3.6.4)."""
    line = parsed.references or ((parsed.in_reply_to,) if parsed.in_reply_to else ())
    parent = _parent(parsed)
    ids = list(dict.fromkeys(found for found in [*line, *([parent] if parent else [])] if _ID.fullmatch(found)))
    if len(ids) > MAX_REFERENCES:
        ids = [ids[0], *ids[1 - MAX_REFERENCES :]]
    return tuple(ids)


def _subject(subject: str, known: re.Pattern[str], prefix: str) -> str:
    subject = _NOT_IN_NAMES.sub(" ", subject).strip()
    return (subject if known.match(subject) else f"{prefix}{subject}".strip())[:MAX_SUBJECT].strip()


# What is quoted


def _text(parsed: parse.Parsed) -> str:
    text = parsed.text if parsed.text is not None else extract.html_to_text(parsed.html or "")
    return _cut(text.strip("\n"))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}\n{LEFT_OUT}"


def _html(original: Original) -> str:
    if original.html is not None and len(original.html) <= MAX_QUOTED_HTML:
        return original.html
    return sanitize.text_as_html(_text(original.parsed))


def _quoted(text: str) -> str:
    """RFC 3676 4.5: what is quoted already gets no space between the marks."""
    return "\n".join(f">{line}" if line.startswith(">") else f"> {line}".rstrip(" ") for line in text.split("\n"))


def _joined(above: str, below: str) -> str:
    said = above.rstrip()
    return f"{said}\n\n{below}" if said else below


def _attribution(parsed: parse.Parsed) -> str:
    who = _person(parsed.from_) if parsed.from_ else "somebody"
    return f"On {parsed.date:%Y-%m-%d at %H:%M} UTC, {who} wrote:" if parsed.date else f"{who} wrote:"


def _header_block(parsed: parse.Parsed) -> list[str]:
    lines = ["---------- Forwarded message ----------"]
    for name, value in (
        ("From", _people([parsed.from_] if parsed.from_ else [])),
        ("Date", f"{parsed.date:%a, %d %b %Y %H:%M:%S} +0000" if parsed.date else ""),
        ("Subject", parsed.subject),
        ("To", _people(parsed.to)),
        ("Cc", _people(parsed.cc)),
    ):
        if value:
            lines.append(f"{name}: {value[:MAX_QUOTED]}")
    return lines


def _people(named: Iterable[NamedAddress]) -> str:
    return ", ".join(map(_person, named))


def _person(named: NamedAddress) -> str:
    if named.name and named.address:
        return f"{named.name} <{named.address}>"
    return named.address or named.name or ""
