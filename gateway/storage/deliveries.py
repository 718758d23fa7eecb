"""The delivery log: every attempt at every recipient, in the order in which they were written down."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from gateway.storage import db, emails
from gateway.storage.sql import load

sql = load("deliveries")

# Ids are UUIDv7, drawn by the clock of a worker when an attempt ended. Where a period begins or ends among the ids is
# told by their time, with room for clocks that differ; `finished_at` decides.
CLOCKS_DIFFER: Final = timedelta(minutes=5)
FIRST: Final = UUID(int=0)
LAST: Final = UUID(int=(1 << 128) - 1)


def first_id(at: datetime) -> UUID:
    """The least UUIDv7 (RFC 9562 5.7) of that time."""
    return UUID(int=max(int(at.timestamp() * 1000), 0) << 80)


async def page(
    connection: db.Connection,
    account_id: UUID,
    *,
    since: datetime | None,
    until: datetime | None,
    after: UUID | None,
    limit: int,
) -> list[dict[str, Any]]:
    """Attempts that ended from `since` on and before `until`, behind the id `after`."""
    rows = await sql.export.fetch(
        connection,
        account_id=account_id,
        after=after or (first_id(since - CLOCKS_DIFFER) if since else FIRST),
        until=first_id(until + CLOCKS_DIFFER) if until else LAST,
        since=since,
        before=until,
        limit=limit,
    )
    return [emails.with_classification(dict(row)) for row in rows]
