"""Mailpit's search language: `subject:"Reset your password" -is:read to:jane@`.

Words and "phrases" with spaces in them, each negated by - or !; all of them must be true. All but tags, dates and sizes
is a part of what is there, in any case: `to:a@b.test` finds ba@b.test, too. A double quote cannot be searched for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo
from typing import Final, Literal, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway import errors
from gateway.storage import mails

MAX_LENGTH: Final = 1000  # characters of a query
MAX_TERMS: Final = 20

Field = Literal["addressed", "cc", "bcc", "reply-to"]

_WORD = re.compile(r"[^\W_]")  # what has no letter and no digit asks for nothing
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]")
_PUNCTUATION = re.compile(r'[\s<>",;()]+')
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s?(k|kb|m|mb)?", re.IGNORECASE)
_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20}
_DAY = re.compile(r"(\d{4})[-/](\d{2})[-/](\d{2})")


@dataclass(frozen=True, kw_only=True, slots=True)
class HeaderTerm:
    """Somebody whom the header must name, or must not."""

    field: Field
    value: str
    negated: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A query: what the database knows, and what only a mail's header does."""

    wanted: mails.Wanted = field(default_factory=mails.Wanted)
    header: tuple[HeaderTerm, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Given:
    """One term as it was written."""

    name: str  # lower-case; empty = text
    value: str
    negated: bool


def read(text: str, timezone: str = "") -> Asked:
    """The query; `timezone` is where days and times without a zone are meant, UTC where it is empty. Raises
    ValidationFailed."""
    if len(text) > MAX_LENGTH:
        raise errors.invalid("query", f"longer than {MAX_LENGTH} characters")
    if _UNPRINTABLE.search(text):
        raise errors.invalid("query", "control characters are not allowed")
    zone, asked = _zone(timezone), Asked()
    given = [term for term in map(_given, _pieces(text)) if term is not None]
    if len(given) > MAX_TERMS:
        raise errors.invalid("query", f"more than {MAX_TERMS} terms")
    for term in given:
        asked = _TAKEN.get(term.name, _text)(asked, term) if term.name not in _MOMENTS else _moment(asked, term, zone)
    return asked


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name) if name else UTC
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise errors.invalid("tz", f"{name[:64]!r} is no time zone") from None


def _pieces(text: str) -> list[str]:
    """Cut at spaces that stand in no quotes; the quotes go."""
    pieces, current, quoted = [], "", False
    for character in text:
        if character == '"':
            quoted = not quoted
        elif character.isspace() and not quoted:
            pieces.append(current)
            current = ""
        else:
            current += character
    return [piece for piece in (*pieces, current) if piece]


def _given(piece: str) -> _Given | None:
    """None where there is nothing to look for."""
    negated = len(piece) > 1 and piece[0] in "-!"
    bare = piece[1:] if negated else piece
    if not _WORD.search(bare):
        return None
    name, colon, value = bare.partition(":")
    name = name.lower()
    if not colon or (name not in _TAKEN and name not in _MOMENTS):
        return _Given(name="", value=bare, negated=negated)
    return _Given(name=name, value=value.strip(), negated=negated) if value.strip() else None


def _text(asked: Asked, term: _Given) -> Asked:
    cleaned = _PUNCTUATION.sub(" ", term.value).strip()
    return _with(asked, mails.Term(place="text", value=cleaned, negated=term.negated)) if cleaned else asked


def _place(asked: Asked, term: _Given) -> Asked:
    place = cast("mails.Place", term.name)
    return _with(asked, mails.Term(place=place, value=term.value, negated=term.negated))


def _with(asked: Asked, term: mails.Term) -> Asked:
    return replace(asked, wanted=replace(asked.wanted, terms=(*asked.wanted.terms, term)))


def _header(asked: Asked, term: _Given) -> Asked:
    """The database looks through the header's octets, in which an encoded word hides what it says."""
    field = cast("Field", term.name)
    asked = replace(asked, header=(*asked.header, HeaderTerm(field=field, value=term.value, negated=term.negated)))
    if term.negated or not term.value.isascii():
        return asked
    return _with(asked, mails.Term(place="anybody", value=term.value))


def _tag(asked: Asked, term: _Given) -> Asked:
    wanted, tag = asked.wanted, term.value.lower()
    if term.negated:
        return replace(asked, wanted=replace(wanted, without_tags=(*wanted.without_tags, tag)))
    return replace(asked, wanted=replace(wanted, with_tags=(*wanted.with_tags, tag)))


def _is(asked: Asked, term: _Given) -> Asked:
    state = term.value.lower()
    if state in {"read", "unread"}:
        return replace(asked, wanted=replace(asked.wanted, seen=(state == "read") != term.negated))
    if state == "tagged":
        return replace(asked, wanted=replace(asked.wanted, tagged=not term.negated))
    return _text(asked, replace(term, value=f"is:{term.value}"))


def _has(asked: Asked, term: _Given) -> Asked:
    if term.value.lower() in {"attachment", "attachments"}:
        return replace(asked, wanted=replace(asked.wanted, attached=not term.negated))
    if term.value.lower() in {"inline", "inlines"}:
        raise errors.invalid("query", "has:inline cannot be searched for here")
    return _text(asked, replace(term, value=f"has:{term.value}"))


def _larger(asked: Asked, term: _Given) -> Asked:
    size, wanted = _size(term), asked.wanted
    if term.negated:
        return replace(asked, wanted=replace(wanted, smaller=min(wanted.smaller, size)))
    return replace(asked, wanted=replace(wanted, larger=max(wanted.larger, size)))


def _smaller(asked: Asked, term: _Given) -> Asked:
    size, wanted = _size(term), asked.wanted
    if term.negated:
        return replace(asked, wanted=replace(wanted, larger=max(wanted.larger, size)))
    return replace(asked, wanted=replace(wanted, smaller=min(wanted.smaller, size)))


def _size(term: _Given) -> int:
    match = _SIZE.fullmatch(term.value)
    if match is None:
        raise errors.invalid("query", f"{term.name}:{term.value} is no size, such as 500, 10k or 1.5M")
    return min(int(float(match[1]) * _UNITS[(match[2] or "").lower()[:1]]), mails.EVERYTHING)


def _moment(asked: Asked, term: _Given, zone: tzinfo) -> Asked:
    """after: and before: hold the moment itself, too, negated or not."""
    moment, wanted = _time(term, zone), asked.wanted
    if (term.name == "after") != term.negated:
        return replace(asked, wanted=replace(wanted, since=max(moment, wanted.since or moment)))
    return replace(asked, wanted=replace(wanted, until=min(moment, wanted.until or moment)))


def _time(term: _Given, zone: tzinfo) -> datetime:
    text = _DAY.sub(r"\1-\2-\3", term.value, count=1)
    try:
        moment = datetime.fromisoformat(text)
        placed = moment if moment.tzinfo else moment.replace(tzinfo=zone)
        return placed.astimezone(UTC)
    except (ValueError, OverflowError):
        raise errors.invalid("query", f"{term.name}:{term.value} is no date (2026-01-31) and no time") from None


_MOMENTS: Final = frozenset(("after", "before"))
_TAKEN: Final[Mapping[str, Callable[[Asked, _Given], Asked]]] = {
    "from": _place,
    "to": _place,
    "subject": _place,
    "message-id": _place,
    "addressed": _header,
    "cc": _header,
    "bcc": _header,
    "reply-to": _header,
    "tag": _tag,
    "is": _is,
    "has": _has,
    "larger": _larger,
    "smaller": _smaller,
}
