"""After a backup was restored: what the database says of itself is older than what the world has seen of it.

Mail that came in between is gone, which no program can mend. What can be mended is here, to be done once, before
anything else runs over the database:

- A consumer that has read further than the backup reaches would take the events that come now for those that it has
  read already. Each account's log goes on behind a gap that no cursor reaches into, with an event that says so.
- Mail that waited in the backup may have been sent since. Nobody knows: those recipients are held as `unknown` where
  their sender asked for that (`on_unknown`), the others are tried, as after any other outcome that nobody heard.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from asyncpg import Record

from gateway.storage import db, emails, events
from gateway.storage.sql import load

sql = load("restoring")

GAP: Final = 1_000_000_000  # more events than an account has between a backup and its restoring; far below 2**53
SLICE: Final = 500
_NOBODY: Final = UUID(int=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """What was done."""

    accounts: int  # whose logs go on
    held: int  # recipients that are now `unknown`
    due: int  # recipients that are tried as they stood


async def run(dsn: str, *, hold_all: bool = False) -> Restored:
    """Do it, account by account, each in one transaction. `hold_all`: whatever senders asked for."""
    async with db.connected(dsn) as connection:
        return await _restored(connection, hold_all)


async def _restored(connection: db.Connection, hold_all: bool) -> Restored:
    accounts = held = due = 0
    after = _NOBODY
    while found := await sql.accounts.fetch(connection, after=after, limit=SLICE):
        after = found[-1]["id"]
        for row in found:
            async with connection.transaction():
                done = await account(connection, row["id"], hold_all=hold_all)
            held, due = held + done.held, due + done.due
        accounts += len(found)
    return Restored(accounts=accounts, held=held, due=due)


async def account(connection: db.Connection, account_id: UUID, *, hold_all: bool) -> Restored:
    """One account, within a transaction of the caller's."""
    ended = (await sql.jump.row(connection, account_id=account_id, gap=GAP) or {"ended": 0})["ended"]
    held: list[events.NewEvent] = []
    due = 0
    after = _NOBODY
    while found := await sql.due.fetch(connection, account_id=account_id, after=after, limit=SLICE):
        after = found[-1]["id"]
        unsure = [row for row in found if hold_all or row["on_unknown"] == "hold"]
        await sql.hold.run(connection, account_id=account_id, ids=[row["id"] for row in unsure])
        held += [_held(row) for row in unsure]
        due += len(found) - len(unsure)
    said = events.NewEvent(type="log.restored", data=events.encode({"ended": ended, "held": len(held)}))
    await events.append(connection, account_id, [said, *held])
    return Restored(accounts=1, held=len(held), due=due)


def _held(row: Record) -> events.NewEvent:
    return emails.told_of(
        row["email_id"],
        "unknown",
        row["address"],
        status="unknown",
        attempt=row["attempts"],
        reply=row["reply"],
        provider=row["provider"],
        again_in=None,
    )
