"""Scripts of failures that mailboxes' owners have asked for, so that senders can be tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from gateway.storage import db
from gateway.storage.sql import load

sql = load("rehearsals")


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One failure of a script."""

    stage: str  # rcpt, data
    reply: str  # an SMTP reply, "drop" or "tarpit:<seconds>"
    times: int  # as asked for
    remaining: int  # 0 = over


async def put(connection: db.Connection, account_id: UUID, mailbox_id: UUID, steps: Sequence[Step]) -> None:
    """This is the mailbox's script from now on, in a transaction; no steps = none."""
    await sql.clear.run(connection, account_id=account_id, mailbox_id=mailbox_id)
    await sql.add.run(
        connection,
        account_id=account_id,
        mailbox_id=mailbox_id,
        stages=[step.stage for step in steps],
        replies=[step.reply for step in steps],
        times=[step.times for step in steps],
    )


async def script(connection: db.Connection, account_id: UUID, mailbox_id: UUID) -> list[Step]:
    """The mailbox's script and what is left of it."""
    rows = await sql.list.fetch(connection, account_id=account_id, mailbox_id=mailbox_id)
    return [Step(**dict(row)) for row in rows]


async def take(connection: db.Connection, account_id: UUID, mailbox_id: UUID, stage: str) -> str | None:
    """The reply of the step whose turn it is, if it belongs to this stage; in a transaction."""
    rows = await sql.hold.fetch(connection, account_id=account_id, mailbox_id=mailbox_id)
    if not rows or rows[0]["stage"] != stage:
        return None
    await sql.take.run(connection, account_id=account_id, mailbox_id=mailbox_id, number=rows[0]["number"])
    reply: str = rows[0]["reply"]
    return reply
