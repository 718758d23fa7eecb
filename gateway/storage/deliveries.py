"""The delivery log: every attempt at every recipient, in the order in which they were written down."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from asyncpg import Record

from gateway.storage import db, emails
from gateway.storage.sql import load

sql = load("deliveries")

# Ids are UUIDv7, drawn by the clock of a worker when an attempt ended. Where a period begins or ends among the ids is
# told by their time, with room for clocks that differ; `finished_at` decides.
CLOCKS_DIFFER: Final = timedelta(minutes=5)
FIRST: Final = UUID(int=0)
LAST: Final = UUID(int=(1 << 128) - 1)


def first_id(at: datetime, later: timedelta = timedelta(0)) -> UUID:
    """The least UUIDv7 (RFC 9562 5.7) of so much later than that time, which no datetime may be able to hold."""
    return UUID(int=max(int((at.timestamp() + later.total_seconds()) * 1000), 0) << 80)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which attempts; None = whichever."""

    since: datetime | None = None  # ended from here on
    until: datetime | None = None  # … and before
    outcome: str | None = None  # of the attempt
    status: str | None = None  # of its recipient by now, one of emails.ORDER
    provider: str | None = None  # its whole name, or what stands before the first colon
    recipient: str | None = None  # an address
    email_id: UUID | None = None
    tag: str | None = None  # of the e-mail: a tag's name, value, or name:value

    @property
    def is_selective(self) -> bool:
        """Whether attempts of the time are asked whether they match."""
        asked = (self.outcome, self.status, self.provider, self.recipient, self.email_id, self.tag)
        return any(one is not None for one in asked)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A part of the log."""

    rows: list[dict[str, Any]]  # attempts that match, oldest first
    next_id: UUID | None  # it goes on behind this one; None = that was all


async def page(
    connection: db.Connection, account_id: UUID, wanted: Wanted, *, after: UUID | None, width: int, limit: int
) -> Part:
    """Up to `limit` attempts out of the next `width` behind the id `after`."""
    since, until = wanted.since, wanted.until
    rows = await sql.export.fetch(
        connection,
        account_id=account_id,
        after=after or (first_id(since, -CLOCKS_DIFFER) if since else FIRST),
        until_id=first_id(until, CLOCKS_DIFFER) if until else LAST,
        width=width,
        limit=limit,
        **{name: getattr(wanted, name) for name in Wanted.__dataclass_fields__},
    )
    seen, last = rows[0]["seen"], rows[0]["last"]
    found = [_attempt(row) for row in rows if row["id"] is not None]
    if len(found) == limit:
        return Part(rows=found, next_id=found[-1]["id"])
    return Part(rows=found, next_id=last if seen == width else None)


def _attempt(row: Record) -> dict[str, Any]:
    columns = {name: value for name, value in row.items() if name not in {"seen", "last"}}
    return emails.with_classification(columns)
