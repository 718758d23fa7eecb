"""E-mails and attempts that are old: found in slices, by the time in their ids, and removed where they are over.

An e-mail is over when all of its recipients came to their end (and none is held as `unknown`) longer ago than the
retention. Attempts go before their e-mail, by an age of their own, but not those of a recipient that is not at its end.
Events, statistics and idempotency keys are others' and stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from asyncpg import Record

from gateway.storage import callbacks, db, period
from gateway.storage.sql import load

sql = load("old_emails")


def until(before: datetime) -> UUID:
    """All that is from before then has a smaller id, and some that is a little younger."""
    return period.first_id(before, period.CLOCKS_DIFFER)


async def accounts_with_emails(connection: db.Connection, *, after: UUID, until: UUID, limit: int) -> list[UUID]:
    rows = await sql.accounts_with_emails.fetch(connection, after=after, until=until, limit=limit)
    return [row["id"] for row in rows]


async def accounts_with_attempts(connection: db.Connection, *, after: UUID, until: UUID, limit: int) -> list[UUID]:
    rows = await sql.accounts_with_attempts.fetch(connection, after=after, until=until, limit=limit)
    return [row["id"] for row in rows]


async def remove(
    connection: db.Connection,
    account_id: UUID,
    *,
    after: UUID,
    until: UUID,
    seconds: float,
    limit: int,
    most_bytes: int,
) -> tuple[int, UUID | None]:
    """Look at a slice behind `after` and remove what is over in it, with its contents, recipients and attempts: no more
    than `most_bytes` of mail, or one. How many, and where the next slice begins; None = nowhere."""
    looked = await sql.emails.fetch(
        connection, account_id=account_id, after=after, until=until, seconds=seconds, limit=limit
    )
    rows = _up_to(looked, most_bytes)
    last = rows[-1]["id"] if len(rows) < len(looked) or len(rows) == limit else None
    over = {row["id"] for row in rows if row["is_over"]}
    if not over:
        return 0, last
    found = await sql.lock.fetch(connection, account_id=account_id, ids=sorted(over), seconds=seconds)
    over -= {row["email_id"] for row in found if row["is_open"]}  # its sender has asked for a retry meanwhile
    ids = sorted(over)
    await _remove_provider_messages(connection, account_id, (row for row in found if row["email_id"] in over))
    for statement in (sql.remove_attempts_of, sql.remove_contents, sql.remove_deliveries, sql.remove_emails):
        await statement.run(connection, account_id=account_id, ids=ids)
    return len(ids), last


def _up_to(rows: Sequence[Record], most_bytes: int) -> Sequence[Record]:
    """The first ones, of which those that are over have no more bytes, or are one."""
    total = 0
    for place, row in enumerate(rows):
        size = row["size"] if row["is_over"] else 0
        if total and total + size > most_bytes:
            return rows[:place]
        total += size
    return rows


async def _remove_provider_messages(connection: db.Connection, account_id: UUID, recipients: Iterable[Record]) -> None:
    """As they are written down today, and as they were without the recipient; and reports that came by mail."""
    named: list[tuple[str, str]] = []
    for row in recipients:
        handed = callbacks.Handed(
            provider=row["provider"] or "",
            provider_id=row["provider_id"] or "",
            recipient=row["address"],
            account_id=account_id,
            delivery_id=row["id"],
        )
        if handed.called is not None:
            named += [handed.called, (handed.called[0], callbacks.bare(handed.provider_id))]
        named.append((callbacks.MAIL, str(row["id"])))
    if named:
        providers, names = [provider for provider, _ in named], [name for _, name in named]
        await sql.remove_provider_messages.run(
            connection, account_id=account_id, providers=providers, provider_ids=names
        )
        reported = [name for provider, name in named if provider == callbacks.MAIL]
        await sql.remove_reports.run(connection, provider_ids=reported)


async def remove_attempts(
    connection: db.Connection, account_id: UUID, *, after: UUID, until: UUID, limit: int
) -> tuple[int, UUID | None]:
    """The same for attempts alone: those whose recipient has come to its end."""
    rows = await sql.attempts.fetch(connection, account_id=account_id, after=after, until=until, limit=limit)
    ids = [row["id"] for row in rows if not row["is_open"]]
    if ids:
        await sql.remove_attempts.run(connection, account_id=account_id, ids=ids)
    return len(ids), rows[-1]["id"] if len(rows) == limit else None
