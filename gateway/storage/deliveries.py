"""The delivery log: every attempt at every recipient, in the order in which they were written down."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from asyncpg import Record

from gateway.storage import db, emails, period
from gateway.storage.sql import load

sql = load("deliveries")


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
    among = period.of(wanted).ids
    rows = await sql.export.fetch(
        connection,
        account_id=account_id,
        after=after or among["first"],
        until_id=among["last"],
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
