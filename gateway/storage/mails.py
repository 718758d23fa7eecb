"""Mail as it came: each DATA once, however many mailboxes hold a copy of it.

That is how those see an account who know one inbox alone (gateway.web.mailpit). A mail's id is its content's: the
receipt id that its sender heard. What concerns all of an account's mail (lists, counts, searches) looks at its newest
WINDOW copies and no further, so that counting and skipping cost no more in an account with a million of them.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from asyncpg import Record

from gateway.mail import query, terms
from gateway.storage import db, messages, search
from gateway.storage.messages import Message
from gateway.storage.sql import load

sql = load("mails")

WINDOW: Final = 10_000  # newest copies that lists, counts and searches look at
HEAD: Final = 65_536  # bytes of a mail that its header is read from
NAMES: Final = 16_384  # bytes of a mail in which whoever its header names is looked for
WORDS: Final = 1000  # mails that a term finds by the index of words
TAGS: Final = 1000  # that are listed
SLICE: Final = 100  # copies that are changed in one transaction
EVERYTHING: Final = 2**31 - 1

# anybody: From, To, Cc, Bcc and Reply-To at once; what is found there is to be looked at again, with `Mail.head`
Place = Literal["from", "to", "subject", "message-id", "text", "anybody"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """Something that must be there, or must not."""

    place: Place
    value: str  # a part of what is there, in any case
    negated: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which mails; None = does not matter."""

    terms: tuple[Term, ...] = ()
    with_tags: tuple[str, ...] = ()  # all of these, in lower case
    without_tags: tuple[str, ...] = ()  # none of these
    seen: bool | None = None
    tagged: bool | None = None
    attached: bool | None = None
    since: datetime | None = None  # received then or later
    until: datetime | None = None  # received then or before
    larger: int = -1  # bytes; larger than this
    smaller: int = EVERYTHING


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A mail that is wanted."""

    id: UUID
    seen: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How much there is."""

    total: int
    unread: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Mail:
    """A mail as lists show it."""

    id: UUID  # of its content
    copy: Message  # the first one
    rcpt_to: tuple[str, ...]  # of all copies
    seen: bool  # every copy is
    tags: tuple[str, ...]  # labels and the words behind a +, of all copies
    head: bytes = field(repr=False)  # the front of the raw mail

    @classmethod
    def from_row(cls, row: Record) -> Mail:
        return cls(
            id=row["content_id"],
            copy=Message.from_row(row),
            rcpt_to=tuple(dict.fromkeys(_flat(row["rcpt_to"]))),
            seen=row["read"],
            tags=tuple(sorted({word for word in _flat(row["words"]) if word})),
            head=row["head"],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """One mailbox's copy, as far as a change must know it."""

    id: UUID  # the message's
    size: int  # bytes
    seen: bool
    labels: list[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """Whose mail is looked at."""

    account_id: UUID
    mailbox_id: UUID | None = None  # of one mailbox alone; None = of all


def _flat(lists: Sequence[Sequence[Any] | None] | None) -> Iterable[Any]:
    return itertools.chain.from_iterable(one for one in lists or () if one)


def _values(view: View) -> dict[str, Any]:
    return {"account_id": view.account_id, "mailbox_id": view.mailbox_id}


async def standing(connection: db.Connection, view: View) -> Standing:
    """How many mails, and how many unread."""
    row = await sql.standing.row(connection, window=WINDOW, **_values(view))
    assert row is not None  # noqa: S101 - a count without GROUP BY returns its row
    return Standing(**dict(row))


async def tags(connection: db.Connection, view: View) -> dict[str, int]:
    """Every tag, with how many mails have it."""
    rows = await sql.tags.fetch(connection, window=WINDOW, limit=TAGS, **_values(view))
    return {row["word"]: row["mails"] for row in rows}


async def matching(connection: db.Connection, view: View, wanted: Wanted) -> list[Found]:
    """All that are wanted, newest first. To be called in a transaction, for what it sets."""
    found = await _by_words(connection, view, wanted.terms)
    rows = await sql.matching.fetch(
        connection,
        **_values(view),
        window=WINDOW,
        head=NAMES,
        seen=wanted.seen,
        tagged=wanted.tagged,
        attached=wanted.attached,
        with_tags=list(wanted.with_tags),
        without_tags=list(wanted.without_tags),
        since=wanted.since,
        until=wanted.until,
        larger=wanted.larger,
        smaller=wanted.smaller,
        places=[term.place for term in wanted.terms],
        patterns=[_pattern(term.value) for term in wanted.terms],
        negated=[term.negated for term in wanted.terms],
        found_by=[number for number, _ in found],
        found=[id for _, id in found],
    )
    return [Found(id=row["content_id"], seen=row["seen"]) for row in rows]


async def _by_words(connection: db.Connection, view: View, wanted: Sequence[Term]) -> list[tuple[int, UUID]]:
    """What the index of words finds for each term that looks into the text: the term's number, from 1, and a mail."""
    found = []
    for number, term in enumerate(wanted, start=1):
        words = tuple(terms.of_query(term.value)) if term.place == "text" else ()
        if words:
            asked = query.Query(conditions=(query.Condition(kind="words", words=words),))
            page = await search.page(
                connection,
                view.account_id,
                asked,
                mailbox_id=view.mailbox_id,
                after=None,
                limit=WORDS,
                ascending=False,
            )
            found += [(number, message.content_id) for message in page.messages]
    return found


def _pattern(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


async def newest(connection: db.Connection, view: View) -> UUID | None:
    """The mail that came last; None = there is none."""
    found: UUID | None = await sql.newest.value(connection, **_values(view))
    return found


async def named(connection: db.Connection, view: View, ids: Sequence[UUID]) -> list[UUID]:
    """Those mails of which these are the ids, or a copy's."""
    rows = await sql.named.fetch(connection, ids=list(ids), **_values(view))
    return [row["content_id"] for row in rows]


async def shown(connection: db.Connection, view: View, ids: Sequence[UUID]) -> list[Mail]:
    """These mails, in this order; those that are gone are missing."""
    rows = await sql.shown.fetch(connection, ids=list(ids), head=HEAD, **_values(view))
    return [Mail.from_row(row) for row in rows]


# Changing


async def copies(connection: db.Connection, view: View, ids: Sequence[UUID]) -> list[Copy]:
    """All copies of these mails."""
    return [_copy(row) for row in await sql.copies.fetch(connection, ids=list(ids), **_values(view))]


async def slices(database: db.Database, view: View, ids: Sequence[UUID] | None) -> AsyncIterator[list[Copy]]:
    """All copies of these mails, or (None) of all that are there now, in pieces that one transaction can change."""
    if ids is None:
        async for found in _everything(database, view):
            yield found
        return
    for start in range(0, len(ids), SLICE):
        async with database.connection() as connection:
            found = await copies(connection, view, ids[start : start + SLICE])
        for piece in _pieces(found):
            yield piece


async def _everything(database: db.Database, view: View) -> AsyncIterator[list[Copy]]:
    async with database.connection() as connection:
        until = await sql.last.value(connection, account_id=view.account_id) or 0
    after = 0
    while True:
        async with database.connection() as connection:
            rows = await sql.copies_after.fetch(connection, after=after, until=until, limit=SLICE, **_values(view))
        for piece in _pieces([_copy(row) for row in rows]):
            yield piece
        if len(rows) < SLICE:
            return
        after = rows[-1]["seq"]


def _copy(row: Record) -> Copy:
    return Copy(id=row["id"], size=row["size"], seen=row["seen"], labels=row["labels"])


def _pieces(found: Sequence[Copy]) -> Iterable[list[Copy]]:
    """At most SLICE copies, and no more bytes than may be removed together."""
    piece: list[Copy] = []
    held = 0
    for copy in found:
        if piece and (len(piece) >= SLICE or held + copy.size > messages.SLICE_BYTES):
            yield piece
            piece, held = [], 0
        piece.append(copy)
        held += copy.size
    if piece:
        yield piece
