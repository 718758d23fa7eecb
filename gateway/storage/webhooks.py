"""Webhooks, what they are to be told, and every attempt to tell them.

A delivery is written by the statement that writes its event (storage.events.append). From there it is leased and
settled like an e-mail's recipient: due when `due_at` has come, pushed ahead while a worker has it, decided by the
holder of the token alone.

Of one webhook only so many deliveries are under way at once, over all workers: its row is locked by whoever claims,
and the leases that stand are counted. In an `ordered` one deliveries have turns: those of one mailbox, or of one
e-mail, are told in the log's order, each when the one before has ended. What waits is put off until then, and woken by
that end.
"""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from asyncpg import Record
from uuid_utils.compat import uuid7

from gateway.storage import db, events, period
from gateway.storage.sql import load

sql = load("webhooks")

DROPPED: Final = 5000  # deliveries given up in one statement; a receiver that was away for days may have millions
PATIENCE: Final = timedelta(days=5)  # with nothing but failures, then the webhook is disabled
ROTATION: Final = timedelta(hours=24)  # for which the secret before signs, too
OWNERS_WISH: Final = "its owner disabled it"  # the reason why it is told nothing
BEREFT: Final = "its mailbox is gone"  # likewise
FIRST_GENERATION: Final = 1  # of a webhook's secret
TEST: Final = "webhook.test"  # the type of an event that is told to one webhook because its owner asked for it
PUT_OFF: Final = 1000  # deliveries of one claim that are found to wait for others
PUT_OFF_SECONDS: Final = 600.0  # until they are looked at again, if nothing wakes them
SHOWN_ATTEMPTS: Final = 50  # of one delivery: the last ones


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
    ordered: bool = False  # one event of a mailbox, or of an e-mail, after the other
    earlier_secrets_until: tuple[datetime, ...] = ()  # the same of those before the secret before, newest first

    @classmethod
    def from_row(cls, row: Record) -> Webhook:
        """Columns that a later version added are left out, so that both may run while one replaces the other."""
        values = {one.name: row[one.name] for one in fields(cls)}
        for name in ("types", "earlier_secrets_until"):
            values[name] = tuple(values[name])
        return cls(**values)

    def signing_generations(self, now: datetime) -> list[int]:
        """The secrets that sign, newest first."""
        before = enumerate((self.previous_secret_until, *self.earlier_secrets_until), start=1)
        still = [self.secret_generation - age for age, until in before if until is not None and until > now]
        return [self.secret_generation, *still]


@dataclass(frozen=True, kw_only=True, slots=True)
class Claimed:
    """An event to be told to a webhook, by the holder of the lease."""

    account_id: UUID
    webhook: Webhook
    event: events.Event | None  # None = forgotten meanwhile
    event_id: UUID
    number: int  # of this attempt; 1 = first
    tries: int  # the same since it was last asked for; the schedule counts these
    turn_id: UUID | None  # the mailbox or e-mail whose later events wait for this one; None = nothing waits
    lease_id: UUID


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """What a claim got."""

    claimed: Sequence[Claimed] = ()
    more: bool = False  # more may be due, but not now: a webhook has no room, or somebody else claims of it


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
    turn_id: UUID | None
    told_before: int  # attempts made before somebody asked to have it told again

    @classmethod
    def from_row(cls, row: Record) -> Delivery:
        return cls(**{one.name: row[one.name] for one in fields(cls)})


async def create(
    connection: db.Connection,
    account_id: UUID,
    *,
    id: UUID,
    url: str,
    types: Sequence[str],
    mailbox_id: UUID | None,
    ordered: bool = False,
) -> datetime:
    """Tell this URL from now on; when that was."""
    created_at: datetime = await sql.create.value(
        connection, account_id=account_id, id=id, url=url, types=list(types), mailbox_id=mailbox_id, ordered=ordered
    )
    return created_at


async def get(connection: db.Connection, account_id: UUID, webhook_id: UUID) -> Webhook | None:
    row = await sql.get.row(connection, account_id=account_id, id=webhook_id)
    return Webhook.from_row(row) if row else None


async def page(
    connection: db.Connection,
    account_id: UUID,
    *,
    after: UUID | None,
    limit: int,
    ascending: bool = False,
    made: period.Period = period.ALWAYS,
) -> list[Webhook]:
    """Newest first unless `ascending`, behind `after`."""
    query = sql.page_asc if ascending else sql.page_desc
    rows = await query.fetch(connection, account_id=account_id, after=after, limit=limit, **made.values)
    return [Webhook.from_row(row) for row in rows]


async def change(
    connection: db.Connection, account_id: UUID, webhook_id: UUID, changes: Mapping[str, Any], *, revive: bool = True
) -> bool:
    """Set url, types, mailbox_id and ordered, all four; whether there is such a webhook. `revive`: it is active now."""
    statement = sql.change if revive else sql.change_disabled
    return await statement.run(connection, account_id=account_id, id=webhook_id, **changes) > 0


async def rotate(connection: db.Connection, account_id: UUID, webhook_id: UUID) -> Webhook | None:
    """Another secret signs from now on, for ROTATION with the one before, too."""
    row = await sql.rotate.row(connection, account_id=account_id, id=webhook_id, seconds=ROTATION.total_seconds())
    return Webhook.from_row(row) if row else None


async def delete(connection: db.Connection, account_id: UUID, webhook_id: UUID) -> bool:
    """Whether there was such a webhook. What it had not been told it will not be."""
    deleted = await sql.delete.run(connection, account_id=account_id, id=webhook_id)
    await sql.drop_pending.run(connection, account_id=account_id, webhook_id=webhook_id, limit=DROPPED)
    return deleted > 0


async def silenced(connection: db.Connection, account_id: UUID) -> list[UUID]:
    """Disabled and deleted ones for which something waits all the same: one slice of it went with the change."""
    return [row["id"] for row in await sql.silenced.fetch(connection, account_id=account_id)]


async def drop_pending(connection: db.Connection, account_id: UUID, webhook_id: UUID) -> bool:
    """Give up another slice of what waits; whether there may be more. In a transaction."""
    await sql.lock_webhook.row(connection, account_id=account_id, id=webhook_id)  # like whoever disables or deletes it
    keys = {"account_id": account_id, "webhook_id": webhook_id}
    return await sql.drop_pending.run(connection, **keys, limit=DROPPED) == DROPPED


async def hearing(connection: db.Connection) -> set[UUID]:
    """Accounts that have a webhook."""
    return {row["account_id"] for row in await sql.hearing.fetch(connection)}


async def due_accounts(connection: db.Connection, limit: int) -> list[UUID]:
    """Accounts with somebody to tell now: of the `limit` first deliveries, or where there are more, of all."""
    rows = await sql.due_accounts.fetch(connection, limit=limit)
    if sum(row["deliveries"] for row in rows) >= limit:
        return [row["account_id"] for row in await sql.all_due_accounts.fetch(connection)]
    return [row["account_id"] for row in rows if not row["is_suspended"]]


async def claim(
    connection: db.Connection, account_id: UUID, *, lease_id: UUID, lease_seconds: float, each: int, limit: int
) -> Slice:
    """Lease due deliveries, `limit` in all, so that of one webhook no more than `each` are under way at all workers.

    In a transaction that is committed before anything touches the network."""
    due = [row["id"] for row in await sql.due_webhooks.fetch(connection, account_id=account_id)]
    if not due:
        return Slice()
    locked = await sql.lock_webhooks.fetch(connection, account_id=account_id, ids=due)
    hooks = {row["id"]: Webhook.from_row(row) for row in locked}
    free = await _free(connection, account_id, list(hooks), each)
    rooms = share(free, limit)
    await _put_off(connection, account_id, [id for id, hook in hooks.items() if hook.ordered])
    lease = {"lease_id": lease_id, "lease_seconds": lease_seconds}
    rows = await sql.claim.fetch(
        connection, account_id=account_id, ids=list(rooms), rooms=list(rooms.values()), **lease
    )
    said = await _events(connection, account_id, [row["seq"] for row in rows]) if rows else {}
    claimed = [_claimed(account_id, row, hooks[row["webhook_id"]], said.get(row["seq"])) for row in rows]
    got = collections.Counter(row["webhook_id"] for row in rows)
    return Slice(claimed=claimed, more=len(hooks) < len(due) or any(got[id] >= room for id, room in free.items()))


async def let_go(connection: db.Connection, account_id: UUID, lease_id: UUID) -> int:
    """Deliveries of a claim whose answer nobody heard are due again, if it was carried out; how many."""
    return await sql.let_go.run(connection, account_id=account_id, lease_id=lease_id)


def _claimed(account_id: UUID, row: Record, webhook: Webhook, event: events.Event | None) -> Claimed:
    return Claimed(
        account_id=account_id,
        webhook=webhook,
        event=event,
        event_id=row["event_id"],
        number=row["attempts"],
        tries=row["attempts"] - row["told_before"],
        turn_id=row["turn_id"],
        lease_id=row["lease_id"],
    )


async def _free(connection: db.Connection, account_id: UUID, ids: Sequence[UUID], each: int) -> dict[UUID, int]:
    """How many more of each may be under way."""
    rows = await sql.under_way.fetch(connection, account_id=account_id, ids=ids)
    busy = {row["webhook_id"]: row["deliveries"] for row in rows}
    return {id: max(each - busy.get(id, 0), 0) for id in ids}


async def _put_off(connection: db.Connection, account_id: UUID, ids: Sequence[UUID]) -> None:
    if ids:
        await sql.put_off.run(connection, account_id=account_id, ids=ids, limit=PUT_OFF, seconds=PUT_OFF_SECONDS)


def share(free: Mapping[UUID, int], limit: int) -> dict[UUID, int]:
    """`limit` over all of them, evenly, to none more than it has room for."""
    rooms = dict.fromkeys(free, 0)
    hungry = [id for id, room in free.items() if room]
    while hungry and limit > 0:
        for id in hungry[:limit]:
            rooms[id] += 1
        limit -= len(hungry)
        hungry = [id for id in hungry if rooms[id] < free[id]]
    return rooms


async def _events(connection: db.Connection, account_id: UUID, seqs: Sequence[int]) -> dict[int, events.Event]:
    rows = await sql.claimed_events.fetch(connection, account_id=account_id, seqs=list(set(seqs)))
    return {row["seq"]: events.Event.from_row(row) for row in rows}


async def settle(connection: db.Connection, settled: Settled) -> bool:
    """Write down how an attempt ended, in a transaction; whether that disabled the webhook, of which its event tells.

    The webhook's row first, then its deliveries', as whoever disables or deletes a webhook does: else they deadlock."""
    claimed = settled.claimed
    keys = {"account_id": claimed.account_id, "webhook_id": claimed.webhook.id, "event_id": claimed.event_id}
    if claimed.turn_id is not None:
        await sql.lock_webhook.run(connection, account_id=claimed.account_id, id=claimed.webhook.id)
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
    if claimed.turn_id is not None and settled.status != "pending":
        await sql.wake.run(
            connection, account_id=claimed.account_id, webhook_id=claimed.webhook.id, turn_id=claimed.turn_id
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
    await sql.mark_failing.run(connection, account_id=account_id, id=webhook_id, now=settled.started_at)
    since = await sql.failing_since.value(connection, account_id=account_id, id=webhook_id)
    reason = settled.disable
    if reason is None and since is not None and settled.started_at - since >= PATIENCE:
        reason = f"nothing but failures for {PATIENCE.days} days"
    if reason is None or not await sql.disable.run(connection, account_id=account_id, id=webhook_id, reason=reason):
        return None
    return reason


async def disable(connection: db.Connection, account_id: UUID, webhook_id: UUID, reason: str) -> bool:
    """Tell it nothing more, and its owner that this is so; whether it was active."""
    disabled = await sql.disable.run(connection, account_id=account_id, id=webhook_id, reason=reason) > 0
    if disabled:
        await _end(connection, account_id, webhook_id, reason)
    return disabled


async def _end(connection: db.Connection, account_id: UUID, webhook_id: UUID, reason: str) -> None:
    await sql.drop_pending.run(connection, account_id=account_id, webhook_id=webhook_id, limit=DROPPED)
    data = events.encode({"id": webhook_id, "reason": reason})
    await events.append(connection, account_id, [events.NewEvent(type="webhook.disabled", data=data)])


async def deliveries(
    connection: db.Connection,
    account_id: UUID,
    webhook_id: UUID,
    *,
    status: str | None,
    after: UUID | None,
    limit: int,
    ascending: bool = False,
    made: period.Period = period.ALWAYS,
) -> list[Delivery]:
    """Newest first unless `ascending`, behind `after`."""
    query = sql.deliveries_asc if ascending else sql.deliveries_desc
    wanted = {"status": status, "after": after, "limit": limit, **made.values, **made.ids}
    rows = await query.fetch(connection, account_id=account_id, webhook_id=webhook_id, **wanted)
    return [Delivery.from_row(row) for row in rows]


async def attempts(
    connection: db.Connection, account_id: UUID, webhook_id: UUID, event_ids: Sequence[UUID]
) -> dict[UUID, list[dict[str, Any]]]:
    """The last SHOWN_ATTEMPTS at each of these deliveries, in order; columns of webhook_attempts."""
    found: dict[UUID, list[dict[str, Any]]] = {event_id: [] for event_id in event_ids}
    keys = {"account_id": account_id, "webhook_id": webhook_id}
    rows = await sql.attempts.fetch(connection, **keys, event_ids=list(event_ids), limit=SHOWN_ATTEMPTS)
    for row in rows:
        found[row["event_id"]].append(dict(row))
    return found


async def delivery(connection: db.Connection, account_id: UUID, webhook_id: UUID, event_id: UUID) -> Delivery | None:
    row = await sql.delivery.row(connection, account_id=account_id, webhook_id=webhook_id, event_id=event_id)
    return Delivery.from_row(row) if row else None


async def can_be_told(connection: db.Connection, account_id: UUID, seq: int) -> bool:
    """Whether the event is still in the log."""
    return await sql.told_of.row(connection, account_id=account_id, seq=seq) is not None


async def tell_again(connection: db.Connection, account_id: UUID, webhook_id: UUID, event_id: UUID) -> None:
    """Tell it now: what had ended begins its schedule anew, what waits keeps its place; what is under way is left."""
    await sql.lock_webhook.run(connection, account_id=account_id, id=webhook_id)
    await sql.tell_again.run(connection, account_id=account_id, webhook_id=webhook_id, event_id=event_id)


async def tell_dead_again(
    connection: db.Connection, account_id: UUID, webhook_id: UUID, *, since: datetime | None, limit: int
) -> int:
    """The same for up to `limit` that were given up; how many."""
    await sql.lock_webhook.run(connection, account_id=account_id, id=webhook_id)
    return await sql.tell_dead_again.run(
        connection, account_id=account_id, webhook_id=webhook_id, since=since, limit=limit
    )


async def test(connection: db.Connection, account_id: UUID, webhook_id: UUID, event_id: UUID) -> None:
    """An event that is told to this webhook alone; the last statement before COMMIT."""
    await sql.test.row(
        connection,
        account_id=account_id,
        webhook_id=webhook_id,
        event_id=event_id,
        type=TEST,
        data=events.encode({"id": webhook_id}),
    )


async def accounts(connection: db.Connection, *, after: UUID, limit: int) -> list[UUID]:
    """Accounts that have or had webhooks, in the order of ids."""
    return [row["account_id"] for row in await sql.accounts.fetch(connection, after=after, limit=limit)]


async def forget(
    connection: db.Connection, account_id: UUID, *, after: int, oldest: int, limit: int
) -> tuple[int, int | None]:
    """Remove a slice of what ended and was about events before `oldest` in the log, with its attempts, behind the seq
    `after`: how many, and where the next slice begins; None = nowhere."""
    rows = await sql.forgotten.fetch(connection, account_id=account_id, after=after, oldest=oldest, limit=limit)
    over = [row for row in rows if not row["is_open"]]
    if over:
        ids = {"webhook_ids": [row["webhook_id"] for row in over], "event_ids": [row["event_id"] for row in over]}
        await sql.remove_attempts.run(connection, account_id=account_id, **ids)
        await sql.remove_deliveries.run(connection, account_id=account_id, **ids)
    # the last seq may go on in the next slice
    return len(over), max(rows[-1]["seq"] - 1, after + 1) if len(rows) == limit else None


async def remove_deleted(connection: db.Connection, account_id: UUID, seconds: float) -> int:
    """Remove webhooks that were deleted `seconds` ago and of which nothing is left; how many."""
    return await sql.remove_deleted.run(connection, account_id=account_id, seconds=seconds)


async def bereft(connection: db.Connection, account_id: UUID) -> list[UUID]:
    """Active webhooks of mailboxes that are gone for good."""
    return [row["id"] for row in await sql.bereft.fetch(connection, account_id=account_id)]
