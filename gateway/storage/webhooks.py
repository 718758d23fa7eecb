"""Webhooks, what they are to be told, and every attempt to tell them.

A delivery is written by the statement that writes its event (storage.events.append). From there it is leased and
settled like an e-mail's recipient: due when `due_at` has come, pushed ahead while a worker has it, decided by the
holder of the token alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from asyncpg import Record
from uuid_utils.compat import uuid7

from gateway.storage import db, events
from gateway.storage.sql import load

sql = load("webhooks")

PATIENCE: Final = timedelta(days=5)  # with nothing but failures, then the webhook is disabled


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """Somebody who wants to be told."""

    id: UUID
    url: str
    types: tuple[str, ...]  # ("*",) = all
    mailbox_id: UUID | None  # None = of every mailbox
    status: str  # active, disabled
    disabled_reason: str | None
    secret_generation: int
    previous_secret_until: datetime | None  # until then the secret before signs too
    failing_since: datetime | None  # None = it works
    created_at: datetime
    deleted_at: datetime | None

    @classmethod
    def from_row(cls, row: Record) -> Webhook:
        values = dict(row)
        values.pop("account_id")
        return cls(**{**values, "types": tuple(values["types"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class Claimed:
    """An event to be told to a webhook, by the holder of the lease."""

    account_id: UUID
    webhook: Webhook
    event: events.Event | None  # None = forgotten meanwhile
    event_id: UUID
    number: int  # of this attempt; 1 = first
    lease_id: UUID


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """How an attempt ended."""

    claimed: Claimed
    status: str  # pending, delivered, dead
    again_in: float  # seconds; 0 where there is no next attempt
    started_at: datetime
    latency: float  # seconds
    answered: int | None  # HTTP status
    answer: str
    error: str | None
    disable: str | None  # the reason, where the webhook is to be disabled
    tried: bool = True  # the receiver was asked, so that the outcome speaks of the webhook itself
    attempt_id: UUID = field(default_factory=uuid7)  # what is written again, for nobody knows, is one attempt


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """An event and a webhook."""

    webhook_id: UUID
    event_id: UUID
    seq: int
    event_type: str
    status: str  # pending, delivered, dead
    attempts: int
    due_at: datetime
    lease_id: UUID | None
    last_status: int | None
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def from_row(cls, row: Record) -> Delivery:
        values = dict(row)
        values.pop("account_id")
        return cls(**values)


async def create(
    connection: db.Connection,
    account_id: UUID,
    *,
    id: UUID,
    url: str,
    types: Sequence[str],
    mailbox_id: UUID | None,
) -> datetime:
    """Tell this URL from now on; when that was."""
    created_at: datetime = await sql.create.value(
        connection, account_id=account_id, id=id, url=url, types=list(types), mailbox_id=mailbox_id
    )
    return created_at


async def get(connection: db.Connection, account_id: UUID, webhook_id: UUID) -> Webhook | None:
    row = await sql.get.row(connection, account_id=account_id, id=webhook_id)
    return Webhook.from_row(row) if row else None


async def page(connection: db.Connection, account_id: UUID, *, after: UUID | None, limit: int) -> list[Webhook]:
    """Newest first, behind `after`."""
    rows = await sql.page.fetch(connection, account_id=account_id, after=after, limit=limit)
    return [Webhook.from_row(row) for row in rows]


async def change(connection: db.Connection, account_id: UUID, webhook_id: UUID, changes: dict[str, Any]) -> bool:
    """Set url, types and mailbox_id, all three; whether there is such a webhook."""
    return await sql.change.run(connection, account_id=account_id, id=webhook_id, **changes) > 0


async def delete(connection: db.Connection, account_id: UUID, webhook_id: UUID) -> bool:
    """Whether there was such a webhook. What it had not been told it will not be."""
    deleted = await sql.delete.run(connection, account_id=account_id, id=webhook_id)
    await sql.drop_pending.run(connection, account_id=account_id, webhook_id=webhook_id)
    return deleted > 0


async def hearing(connection: db.Connection) -> set[UUID]:
    """Accounts that have a webhook."""
    return {row["account_id"] for row in await sql.hearing.fetch(connection)}


async def due_accounts(connection: db.Connection, limit: int) -> list[UUID]:
    """Accounts with somebody to tell now."""
    return [row["account_id"] for row in await sql.due_accounts.fetch(connection, limit=limit)]


async def claim(
    connection: db.Connection, account_id: UUID, *, lease_id: UUID, lease_seconds: float, limit: int
) -> list[Claimed]:
    """Lease up to `limit` due deliveries. In a transaction that is committed before anything touches the network."""
    rows = await sql.claim.fetch(
        connection, account_id=account_id, lease_id=lease_id, lease_seconds=lease_seconds, limit=limit
    )
    if not rows:
        return []
    hooks = await _webhooks(connection, account_id, [row["webhook_id"] for row in rows])
    said = await _events(connection, account_id, [row["seq"] for row in rows])
    return [
        Claimed(
            account_id=account_id,
            webhook=hooks[row["webhook_id"]],
            event=said.get(row["seq"]),
            event_id=row["event_id"],
            number=row["attempts"],
            lease_id=row["lease_id"],
        )
        for row in rows
    ]


async def let_go(connection: db.Connection, account_id: UUID, lease_id: UUID) -> int:
    """Deliveries of a claim whose answer nobody heard are due again, if it was carried out; how many."""
    return await sql.let_go.run(connection, account_id=account_id, lease_id=lease_id)


async def _webhooks(connection: db.Connection, account_id: UUID, ids: Sequence[UUID]) -> dict[UUID, Webhook]:
    rows = await sql.claimed_webhooks.fetch(connection, account_id=account_id, ids=list(set(ids)))
    return {row["id"]: Webhook.from_row(row) for row in rows}


async def _events(connection: db.Connection, account_id: UUID, seqs: Sequence[int]) -> dict[int, events.Event]:
    rows = await sql.claimed_events.fetch(connection, account_id=account_id, seqs=list(set(seqs)))
    return {row["seq"]: events.Event.from_row(row) for row in rows}


async def settle(connection: db.Connection, settled: Settled) -> bool:
    """Write down how an attempt ended, in a transaction; whether that disabled the webhook, of which its event tells.

    The webhook's row first, then its deliveries', as whoever disables or deletes a webhook does: else they deadlock."""
    claimed = settled.claimed
    keys = {"account_id": claimed.account_id, "webhook_id": claimed.webhook.id, "event_id": claimed.event_id}
    holds = await sql.holds.value(connection, **keys, lease_id=claimed.lease_id)
    reason = await _note_health(connection, settled) if holds and settled.tried else None
    await sql.add_attempt.run(
        connection,
        **keys,
        id=settled.attempt_id,
        number=claimed.number,
        started_at=settled.started_at,
        latency_ms=round(settled.latency * 1000),
        status=settled.answered,
        answer=settled.answer,
        error=settled.error,
    )
    await sql.settle.run(
        connection,
        **keys,
        lease_id=claimed.lease_id,
        status=settled.status,
        again_in=settled.again_in,
        last_status=settled.answered,
    )
    if reason is not None:
        await _end(connection, claimed.account_id, claimed.webhook.id, reason)
    return reason is not None


async def _note_health(connection: db.Connection, settled: Settled) -> str | None:
    """Why the webhook is told nothing more from now on; None = it goes on, or was disabled before."""
    account_id, webhook_id = settled.claimed.account_id, settled.claimed.webhook.id
    if settled.status == "delivered":
        await sql.mark_working.run(connection, account_id=account_id, id=webhook_id)
        return None
    since = await sql.mark_failing.value(connection, account_id=account_id, id=webhook_id, now=settled.started_at)
    reason = settled.disable
    if reason is None and since is not None and settled.started_at - since >= PATIENCE:
        reason = f"nothing but failures for {PATIENCE.days} days"
    if reason is None or not await sql.disable.run(connection, account_id=account_id, id=webhook_id, reason=reason):
        return None
    return reason


async def disable(connection: db.Connection, account_id: UUID, webhook_id: UUID, reason: str) -> None:
    """Tell it nothing more, and its owner that this is so."""
    if await sql.disable.run(connection, account_id=account_id, id=webhook_id, reason=reason):
        await _end(connection, account_id, webhook_id, reason)


async def _end(connection: db.Connection, account_id: UUID, webhook_id: UUID, reason: str) -> None:
    await sql.drop_pending.run(connection, account_id=account_id, webhook_id=webhook_id)
    data = events.encode({"id": webhook_id, "reason": reason})
    await events.append(connection, account_id, [events.NewEvent(type="webhook.disabled", data=data)])


async def deliveries(
    connection: db.Connection, account_id: UUID, webhook_id: UUID, *, status: str | None, after: UUID | None, limit: int
) -> list[Delivery]:
    """Newest first, behind `after`."""
    rows = await sql.deliveries.fetch(
        connection, account_id=account_id, webhook_id=webhook_id, status=status, after=after, limit=limit
    )
    return [Delivery.from_row(row) for row in rows]


async def attempts(
    connection: db.Connection, account_id: UUID, webhook_id: UUID, event_ids: Sequence[UUID]
) -> dict[UUID, list[dict[str, Any]]]:
    """Every attempt at each of these deliveries, in order; columns of webhook_attempts."""
    found: dict[UUID, list[dict[str, Any]]] = {event_id: [] for event_id in event_ids}
    rows = await sql.attempts.fetch(connection, account_id=account_id, webhook_id=webhook_id, event_ids=list(event_ids))
    for row in rows:
        found[row["event_id"]].append(dict(row))
    return found
