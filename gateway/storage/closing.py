"""Accounts that were deleted: everything that was theirs goes, slice by slice, and last the account's own row.

An account that is deleted is suspended as well: nothing new comes to it, and no worker takes up anything of its. What
workers have in hand by then is waited for. The account's row goes only when a whole round found nothing left, so that
whatever was being written meanwhile is found by the next round. Every step may be repeated or break off anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from gateway.storage import db
from gateway.storage.sql import Query, load

sql = load("closing")

GRACE_SECONDS: Final = 5.0  # so long a process may go by what it looked up before
SLICE: Final = 500  # rows of one transaction; each may be megabytes
PAGE: Final = 10_000  # rows of a look-up that are looked at in one transaction

# Each removes one slice of a table: first what leads to an account, then what others point to after what points there.
_SLICES: Final[Sequence[Query]] = (
    *(sql.credentials, sql.domain_names),
    *(sql.rehearsals, sql.held_messages, sql.messages, sql.message_texts, sql.mailboxes),
    *(sql.webhook_attempts, sql.webhook_deliveries, sql.webhooks),
    *(sql.attempts, sql.deliveries, sql.emails, sql.contents),
    *(sql.dkim_keys, sql.domains, sql.idempotency_keys, sql.suppressions, sql.bounce_rules, sql.templates),
    *(sql.delivery_statistics, sql.inbound_statistics, sql.api_keys, sql.events),
)
# Look-ups that have no index by account, by what they are ordered by.
_LOOK_UPS: Final[Sequence[tuple[Query, Sequence[str]]]] = (
    (sql.addresses, ("address",)),
    (sql.provider_messages, ("provider", "provider_id")),
)
_LAST: Final[Sequence[Query]] = (
    *(sql.last_judgements, sql.last_indexing, sql.last_counting, sql.last_event_heads),
    sql.account,
)


async def due(connection: db.Connection, limit: int, grace: float = GRACE_SECONDS) -> list[UUID]:
    """Accounts that were deleted more than `grace` seconds ago and still have rows, at least their own."""
    return [row["id"] for row in await sql.due.fetch(connection, grace=grace, limit=limit)]


async def is_in_hand(connection: db.Connection, account_id: UUID) -> bool:
    """Whether a worker still holds one of the account's deliveries."""
    return bool(await sql.in_hand.value(connection, account_id=account_id))


async def empty(database: db.Database, account_id: UUID) -> int:
    """Remove all that there is, each slice a transaction of its own; how many rows."""
    removed = sum([await _emptied(database, query, account_id) for query in _SLICES])
    return removed + sum([await _left_over(database, query, account_id, columns) for query, columns in _LOOK_UPS])


async def _emptied(database: db.Database, query: Query, account_id: UUID) -> int:
    """The same of one table. What takes longer than a statement may, as hundreds of the largest mails do, is tried
    again in smaller slices. Raises Collided where not even one row goes."""
    removed, limit = 0, SLICE
    while True:
        try:
            async with database.transaction() as connection:
                count: int = await query.value(connection, account_id=account_id, limit=limit)
        except db.Collided:
            if limit == 1:
                raise
            limit = max(1, limit // 8)
            continue
        removed += count
        if count < limit:
            return removed


async def _left_over(database: db.Database, query: Query, account_id: UUID, columns: Sequence[str]) -> int:
    """The same of what is left in a look-up: all of it is gone through, a page at a time."""
    removed, after = 0, dict.fromkeys(columns, "")
    while True:
        async with database.transaction() as connection:
            row = await query.row(connection, account_id=account_id, limit=PAGE, **after)
        if row is None:
            return removed
        removed += row["removed"]
        after = {column: row[column] for column in columns}


async def remove(database: db.Database, account_id: UUID) -> None:
    """The account itself, of which nothing is left."""
    async with database.transaction() as connection:
        for query in _LAST:
            await query.run(connection, account_id=account_id)
