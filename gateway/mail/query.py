"""What somebody searches mail for: `from:shop.example "order 4711" -is:seen larger:10k`, taken apart.

    word, "a phrase"              in the subject or the text
    from: to:                     a whole address, a whole domain (`@shop.example`), or words of the display name
    subject: tag: label:          words of the subject; the tag behind the +; a label as it was given
    has:attachment is:seen is:unseen before: after: larger: smaller:

Everything given must be true, each negated by a `-` in front. What stands behind an unknown name with a colon is no
mistake, since words have colons, too (`https://…`, `12:30`): it is searched for as the words that it is made of.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final, Literal
from uuid import UUID

from gateway.mail import address, terms

MAX_LENGTH: Final = 500  # characters
MAX_TERMS: Final = 20
MAX_SIZE: Final = 2**31 - 1  # bytes

Kind = Literal["words", "subject", "from", "from_domain", "from_name", "to", "to_domain", "to_name", "tag", "thread"]

_TERM = re.compile(r'(?P<minus>-?)(?:(?P<name>[A-Za-z]+):)?(?:"(?P<quoted>[^"]*)"|(?P<bare>[^\s"]+))?(?=\s|\Z)')
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]")
_SIZE = re.compile(r"(\d{1,12})([kmg]?)b?", re.IGNORECASE)
_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?(?:[Zz]|[+-]\d{2}:\d{2})")


class InvalidQuery(ValueError):
    """The query cannot be read; the message says why, for a person."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """Something that the index of words knows."""

    kind: Kind
    negated: bool = False
    value: str = ""  # what must be equal; empty = the words count
    words: tuple[terms.Term, ...] = ()  # what must be there, at these distances


@dataclass(frozen=True, kw_only=True, slots=True)
class Filters:
    """What a message's own row knows; None = does not matter."""

    labelled: tuple[str, ...] = ()  # all of these
    unlabelled: tuple[str, ...] = ()  # none of these
    seen: bool | None = None
    attached: bool | None = None
    since: datetime | None = None  # received at this time or later
    until: datetime | None = None  # received before
    size_min: int = 0  # bytes
    size_max: int = MAX_SIZE
    impossible: bool = False  # contradicts itself, such as is:seen is:unseen


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """All of it must be true."""

    conditions: tuple[Condition, ...] = ()
    filters: Filters = field(default_factory=Filters)


def parse(text: str) -> Query:
    """Read a query; nothing but white space asks for everything. Raises InvalidQuery."""
    if len(text) > MAX_LENGTH:
        raise InvalidQuery(f"longer than {MAX_LENGTH} characters")
    if _UNPRINTABLE.search(text):
        raise InvalidQuery("control characters are not allowed")
    given = _terms(text)
    query = Query()
    for term in given:
        query = _with(query, term)
    if given and query == Query():
        raise InvalidQuery("it holds no letter and no digit to search for")
    return query


def also(query: Query, own: Filters, *, thread: UUID | None = None) -> Query:
    """The same with what a list's own fields ask for; None = nothing."""
    of_thread = () if thread is None else (Condition(kind="thread", value=thread.hex),)
    return replace(query, conditions=(*query.conditions, *of_thread), filters=_both(query.filters, own))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Given:
    """One term as it was written."""

    negated: bool
    name: str  # lower-case; empty = a word
    value: str


def _terms(text: str) -> list[_Given]:
    given: list[_Given] = []
    position = _after_spaces(text, 0)
    while position < len(text):
        match = _TERM.match(text, position)
        if match is None:
            raise InvalidQuery(_what_is_wrong(text[position:]))
        given.append(_given(match))
        position = _after_spaces(text, match.end())
    if len(given) > MAX_TERMS:
        raise InvalidQuery(f"more than {MAX_TERMS} terms")
    return given


def _after_spaces(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _what_is_wrong(rest: str) -> str:
    return 'a " is not closed' if rest.count('"') % 2 else 'a " stands in the middle of a word'


def _given(match: re.Match[str]) -> _Given:
    name, quoted = (match["name"] or "").lower(), match["quoted"]
    value = (match["bare"] or "") if quoted is None else quoted
    if name and name in _READERS and not value.strip():
        raise InvalidQuery(f"{name}: needs a value")
    if name and name not in _READERS:
        name, value = "", f"{name}:{value}"
    if not name and quoted is not None and not value.strip():
        raise InvalidQuery('"" holds nothing to search for')
    return _Given(negated=bool(match["minus"]), name=name, value=value)


def _with(query: Query, term: _Given) -> Query:
    read = _READERS[term.name](term)
    if read is None:
        return query
    if isinstance(read, Condition):
        return replace(query, conditions=(*query.conditions, read))
    return replace(query, filters=_both(query.filters, read))


# Words and addresses


def _words(term: _Given) -> Condition | None:
    """None where it is punctuation alone."""
    words = tuple(terms.of_query(term.value))
    return Condition(kind="words", negated=term.negated, words=words) if words else None


def _subject(term: _Given) -> Condition:
    return _named(term, "subject")


def _named(term: _Given, kind: Kind) -> Condition:
    words = tuple(terms.of_query(term.value))
    if not words:
        raise InvalidQuery(f"{term.name}: {term.value} holds no letter and no digit")
    return Condition(kind=kind, negated=term.negated, words=words)


def _from(term: _Given) -> Condition:
    return _party(term, "from", "from_domain", "from_name")


def _to(term: _Given) -> Condition:
    return _party(term, "to", "to_domain", "to_name")


def _party(term: _Given, whole: Kind, domain: Kind, name: Kind) -> Condition:
    """`a@b.c` is an address, `@b.c` and `b.c` are domains, everything else is words of a name."""
    value = term.value.strip().removeprefix("<").removesuffix(">")
    if "@" in value[1:]:
        return Condition(kind=whole, negated=term.negated, value=canonical(value))
    if value.startswith("@") or ("." in value.strip(".") and " " not in value):
        return Condition(kind=domain, negated=term.negated, value=_domain(term.name, value.removeprefix("@")))
    return _named(term, name)


def canonical(text: str) -> str:
    """An address as it is compared, whatever a sender wrote: case and the domain's writing do not count."""
    try:
        return address.parse(text, literals=True).canonical
    except address.InvalidAddress:
        return text.strip().casefold()


def _domain(name: str, text: str) -> str:
    try:
        return address.parse(f"a@{text}", literals=True).ascii_domain
    except address.InvalidAddress:
        raise InvalidQuery(f"{name}: {text or '@'} is neither an address nor a domain") from None


def _tag(term: _Given) -> Condition:
    return Condition(kind="tag", negated=term.negated, value=term.value.casefold())


# Filters


def _label(term: _Given) -> Filters:
    return Filters(unlabelled=(term.value,)) if term.negated else Filters(labelled=(term.value,))


def _has(term: _Given) -> Filters:
    if term.value.lower() not in {"attachment", "attachments"}:
        raise InvalidQuery(f"has: knows attachment, not {term.value}")
    return Filters(attached=not term.negated)


def _is(term: _Given) -> Filters:
    states = {"seen": True, "read": True, "unseen": False, "unread": False}
    if term.value.lower() not in states:
        raise InvalidQuery(f"is: knows seen and unseen, not {term.value}")
    return Filters(seen=states[term.value.lower()] != term.negated)


def _before(term: _Given) -> Filters:
    moment = _moment(term)
    return Filters(since=moment) if term.negated else Filters(until=moment)


def _after(term: _Given) -> Filters:
    moment = _moment(term)
    return Filters(until=moment) if term.negated else Filters(since=moment)


def _moment(term: _Given) -> datetime:
    """A day begins at midnight UTC."""
    text = term.value.strip()
    try:
        if _DATE.fullmatch(text):
            return datetime.fromisoformat(text).replace(tzinfo=UTC)
        if _TIME.fullmatch(text):
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise InvalidQuery(f"{term.name}: {term.value} is no date (2026-01-31) and no RFC 3339 time (2026-01-31T12:00:00Z)")


def _larger(term: _Given) -> Filters:
    size = _size(term)
    return Filters(size_max=size) if term.negated else Filters(size_min=min(size + 1, MAX_SIZE))


def _smaller(term: _Given) -> Filters:
    size = _size(term)
    return Filters(size_min=size) if term.negated else Filters(size_max=max(size - 1, 0), impossible=size == 0)


def _size(term: _Given) -> int:
    match = _SIZE.fullmatch(term.value.strip())
    if match is None:
        raise InvalidQuery(f"{term.name}: {term.value} is no size, such as 500, 10k or 5M")
    return min(int(match[1]) * _UNITS[match[2].lower()], MAX_SIZE)


def _both(one: Filters, other: Filters) -> Filters:
    """What satisfies the one and the other."""
    contradictory = any({getattr(one, name), getattr(other, name)} == {True, False} for name in ("seen", "attached"))
    return Filters(
        labelled=one.labelled + other.labelled,
        unlabelled=one.unlabelled + other.unlabelled,
        seen=other.seen if one.seen is None else one.seen,
        attached=other.attached if one.attached is None else one.attached,
        since=max(filter(None, (one.since, other.since)), default=None),
        until=min(filter(None, (one.until, other.until)), default=None),
        size_min=max(one.size_min, other.size_min),
        size_max=min(one.size_max, other.size_max),
        impossible=one.impossible or other.impossible or contradictory,
    )


_READERS: Final[dict[str, Callable[[_Given], Condition | Filters | None]]] = {
    "": _words,
    "from": _from,
    "to": _to,
    "subject": _subject,
    "tag": _tag,
    "label": _label,
    "has": _has,
    "is": _is,
    "before": _before,
    "after": _after,
    "larger": _larger,
    "smaller": _smaller,
}
