"""What is known of senders: verdicts on messages that are shown already, and mail that is held until there is one.

Mail that there is no room for is held, too, until it is dropped and its owner is told: at the door it costs what any
mail costs.

An account's messages are judged in the order of the log, slice by slice; `judgements` says how far that is, and who is
at it: a claim that runs out. Held mail is claimed message by message in the same way. A claim decides nothing: what
counts is who moves `judged_seq` from where it was, and who deletes the held row, in the transaction that tells of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from gateway.storage import db, events, messages
from gateway.storage.sql import load

sql = load("judgements")

OVER_QUOTA: Final = "over-quota:"  # the policy of mail that its account has no room for, in front of the quota's name


def is_over_quota(policy: str) -> bool:
    """Whether mail under it is to be dropped, whoever sent it."""
    return policy.startswith(OVER_QUOTA)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A message that is to be judged after it was told of."""

    seq: int
    id: UUID
    content_id: UUID
    size: int  # bytes
    mail_from: str  # empty = <>
    envelope: dict[str, Any]  # helo, remote_ip
    raw: bytes | None  # None = large: to be read on its own


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A message that nobody sees yet."""

    id: UUID
    mailbox_id: UUID
    content_id: UUID
    message: messages.NewMessage
    policy: str  # of its mailbox when it came: flag, drop-on-fail; or OVER_QUOTA and the quota
    created_at: datetime
    age: float  # seconds since then, by the database's clock when it was claimed

    @property
    def quota(self) -> str | None:
        """The quota for which it is to be dropped; None = its sender is to be judged."""
        return self.policy.removeprefix(OVER_QUOTA) if is_over_quota(self.policy) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """Messages of one claim."""

    after: int  # seq behind which it begins
    until: int  # seq up to which everything is in it that is to be judged
    messages: Sequence[Shown]
    full: bool  # perhaps there is more


async def unjudged(connection: db.Connection, *, after_id: UUID, limit: int) -> tuple[list[UUID], UUID | None]:
    """Accounts with messages to judge among the next `limit`, and where to go on; None = these were the last ones."""
    rows = await sql.unjudged.fetch(connection, after=after_id, limit=limit)
    found = [row["account_id"] for row in rows if row["has_work"]]
    return found, rows[-1]["account_id"] if len(rows) == limit else None


async def claim(connection: db.Connection, account_id: UUID, *, lease: float) -> int | None:
    """The seq behind which to judge, for `lease` seconds; None = there is nothing, or somebody else is at it."""
    if not await sql.has_unjudged.value(connection, account_id=account_id):
        return None
    found: int | None = await sql.claim.value(connection, account_id=account_id, lease=lease)
    return found


async def slice_of(
    connection: db.Connection, account_id: UUID, after: int, *, age: float, small: int, limit: int
) -> Slice:
    """The next messages, those older than `age` seconds left out; with their contents of up to `small` bytes."""
    until = await sql.head.value(connection, account_id=account_id) or after
    rows = await sql.slice.fetch(
        connection, account_id=account_id, after=after, until=until, age=age, small=small, limit=limit
    )
    found = [Shown(**dict(row)) for row in rows]
    full = len(found) == limit
    return Slice(after=after, until=found[-1].seq if full else max(until, after), messages=found, full=full)


async def raw(connection: db.Connection, account_id: UUID, content_id: UUID) -> bytes | None:
    """A content; None = it went meanwhile."""
    found: bytes | None = await sql.raw.value(connection, account_id=account_id, id=content_id)
    return found


async def settle(
    connection: db.Connection,
    account_id: UUID,
    judged: Slice,
    verdicts: Mapping[UUID, tuple[dict[str, Any], dict[str, str]]],  # by message: what is stored, and what is told
) -> int | None:
    """Write a slice's verdicts down and tell of them, in a transaction; how many, None = somebody else was quicker."""
    values = {"account_id": account_id, "after": judged.after, "until": judged.until}
    if await sql.advance.value(connection, **values) is None:
        return None
    if not verdicts:
        return 0
    ids = sorted(verdicts)
    auths = [msgspec.json.encode(verdicts[id][0]).decode() for id in ids]
    rows = await sql.set_auth.fetch(connection, account_id=account_id, ids=ids, auths=auths)
    told = [
        _updated(row["id"], row["mailbox_id"], verdicts[row["id"]][1])
        for row in sorted(rows, key=lambda row: int(row["seq"]))
    ]
    if told:
        await events.append(connection, account_id, told)
    return len(told)


def _updated(message_id: UUID, mailbox_id: UUID, auth: Mapping[str, str]) -> events.NewEvent:
    data = events.encode({"id": message_id, "auth": auth})
    return events.NewEvent(type="message.updated", mailbox_id=mailbox_id, message_id=message_id, data=data)


# Held mail


async def due_accounts(connection: db.Connection, *, overdue: float, limit: int) -> list[UUID]:
    """Accounts with held mail that nobody judges, for at least `overdue` seconds."""
    return [row["account_id"] for row in await sql.due_accounts.fetch(connection, overdue=overdue, limit=limit)]


async def claim_held(
    connection: db.Connection, account_id: UUID, *, lease: float, limit: int, overdue: float = 0.0
) -> list[Held]:
    """Held mail that nobody judges, from now on ours for `lease` seconds."""
    rows = await sql.claim_held.fetch(connection, account_id=account_id, lease=lease, limit=limit, overdue=overdue)
    decode = msgspec.json.Decoder(messages.NewMessage).decode
    return [Held(**{**dict(row), "message": decode(row["message"])}) for row in rows]


async def show(
    connection: db.Connection, account_id: UUID, held: Held, *, auth: dict[str, Any], labels: Sequence[str]
) -> bool:
    """The message takes its place in the log, in a transaction; False = somebody else decided, or its mailbox is
    deleted, and it went with it. `held.message.data` must say what the event is to say."""
    if not await _take(connection, account_id, held):
        return False
    message = msgspec.json.encode(held.message).decode()
    await sql.show.run(
        connection,
        account_id=account_id,
        message=message,
        received_at=held.created_at,
        auth=auth,
        labels=list(labels),
    )
    return True


async def drop(
    connection: db.Connection,
    account_id: UUID,
    held: Held,
    data: dict[str, Any],
    also: Callable[[], Awaitable[Sequence[events.NewEvent]]] | None = None,  # events to be told behind it
) -> bool:
    """The message goes, with its content, and its owner is told `data`, in a transaction; False as above."""
    if not await _take(connection, account_id, held):
        return False
    await _drop_contents(connection, account_id, [held.content_id])
    event = events.NewEvent(
        type="message.dropped", mailbox_id=held.mailbox_id, message_id=held.id, data=events.encode(data)
    )
    await events.append(connection, account_id, [event, *(await also() if also is not None else [])])
    return True


async def _take(connection: db.Connection, account_id: UUID, held: Held) -> bool:
    """Whether the message is ours to show or drop: its row is deleted by this transaction, and its mailbox is there."""
    mailbox = await sql.hold_mailbox.value(connection, account_id=account_id, mailbox_id=held.mailbox_id)
    if await sql.let_go.value(connection, account_id=account_id, id=held.id) is None:
        return False
    if mailbox is None:
        await _drop_contents(connection, account_id, [held.content_id])
        return False
    return True


async def forget_mailbox(connection: db.Connection, account_id: UUID, mailbox_id: UUID) -> int:
    """Held mail of a mailbox that goes, with its contents, in a transaction; how many."""
    rows = await sql.let_go_of_mailbox.fetch(connection, account_id=account_id, mailbox_id=mailbox_id)
    if rows:
        await _drop_contents(connection, account_id, [row["content_id"] for row in rows])
    return len(rows)


async def _drop_contents(connection: db.Connection, account_id: UUID, content_ids: Sequence[UUID]) -> None:
    await messages.sql.lock_contents.fetch(connection, account_id=account_id, ids=list(content_ids))
    await messages.drop_contents(connection, account_id, content_ids)
