"""Webhooks: who is told of what, whose attempt counts, and when nobody is told any more."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from gateway.storage import db, events, messages, webhooks
from tests.storage import rows

pytestmark = pytest.mark.anyio


async def hook(database: db.Database, account_id: UUID, *types: str, mailbox_id: UUID | None = None) -> UUID:
    id = uuid7()
    async with database.transaction() as connection:
        await webhooks.create(
            connection, account_id, id=id, url="https://h.example", types=types or ("*",), mailbox_id=mailbox_id
        )
    return id


async def happen(database: db.Database, account_id: UUID, type: str = "message.received", **fields: Any) -> None:
    async with database.transaction() as connection:
        await events.append(connection, account_id, [events.NewEvent(type=type, **fields)])


async def claim(
    database: db.Database, account_id: UUID, *, lease_seconds: float = 60, each: int = 100, limit: int = 100
) -> list[webhooks.Claimed]:
    async with database.transaction() as connection:
        got = await webhooks.claim(
            connection, account_id, lease_id=uuid7(), lease_seconds=lease_seconds, each=each, limit=limit
        )
    return list(got.claimed)


def ended(
    claimed: webhooks.Claimed, status: str, *, again_in: float = 0, disable: str | None = None
) -> webhooks.Settled:
    return webhooks.Settled(
        claimed=claimed,
        status=status,
        again_in=again_in,
        started_at=datetime.now(UTC),
        latency=0.01,
        answered=200 if status == "delivered" else 500,
        answer="said",
        error=None,
        disable=disable,
    )


async def settle(
    database: db.Database, claimed: webhooks.Claimed, status: str, *, again_in: float = 0, disable: str | None = None
) -> None:
    settled = ended(claimed, status, again_in=again_in, disable=disable)
    async with database.transaction() as connection:
        await webhooks.settle(connection, settled)


async def deliveries(database: db.Database, account_id: UUID, id: UUID) -> list[webhooks.Delivery]:
    async with database.connection() as connection:
        return await webhooks.deliveries(connection, account_id, id, status=None, after=None, limit=100)


async def get(database: db.Database, account_id: UUID, id: UUID) -> webhooks.Webhook:
    async with database.connection() as connection:
        found = await webhooks.get(connection, account_id, id)
    assert found is not None
    return found


# Who is told of what


async def test_a_webhook_is_told_of_its_types_and_its_mailbox_alone(database: db.Database, account_id: UUID) -> None:
    box, elsewhere = uuid7(), uuid7()
    everything = await hook(database, account_id)
    received = await hook(database, account_id, "message.received", "message.deleted")
    of_box = await hook(database, account_id, mailbox_id=box)
    foreign = await hook(database, await rows.account(database))
    await happen(database, account_id, mailbox_id=box)
    await happen(database, account_id, "mailbox.created", mailbox_id=elsewhere)
    told = {id: len(await deliveries(database, account_id, id)) for id in (everything, received, of_box, foreign)}
    assert told == {everything: 2, received: 1, of_box: 1, foreign: 0}


async def test_a_message_is_told_by_the_statement_that_stores_it(database: db.Database, account_id: UUID) -> None:
    box = await rows.mailbox(database, account_id)
    received, other = (
        await hook(database, account_id, "message.received"),
        await hook(database, account_id, "email.sent"),
    )
    [id] = await rows.store(database, account_id, box)
    [claimed] = await claim(database, account_id)
    assert claimed.event is not None
    assert (claimed.webhook.id, claimed.event.message_id, claimed.event.type) == (received, id, "message.received")
    assert claimed.event_id == claimed.event.id
    assert await deliveries(database, account_id, other) == []


async def test_neither_a_disabled_nor_a_deleted_webhook_is_told(database: db.Database, account_id: UUID) -> None:
    disabled, deleted = [await hook(database, account_id, "message.received") for _ in range(2)]
    async with database.transaction() as connection:
        assert await webhooks.hearing(connection) == {account_id}
        await webhooks.disable(connection, account_id, disabled, "why")
        assert await webhooks.delete(connection, account_id, deleted)
        assert not await webhooks.delete(connection, account_id, deleted)
        assert await webhooks.get(connection, account_id, deleted) is None
        assert await webhooks.hearing(connection) == set()
    await happen(database, account_id)
    assert await claim(database, account_id) == []
    assert [d for id in (disabled, deleted) for d in await deliveries(database, account_id, id)] == []


async def test_what_is_told_of_a_deleted_message_is_its_id(database: db.Database, account_id: UUID) -> None:
    box, _ = await rows.mailbox(database, account_id), await hook(database, account_id, "message.received")
    [id] = await rows.store(database, account_id, box)
    async with database.transaction() as connection:
        await messages.delete(connection, account_id, [id])
    [claimed] = await claim(database, account_id)
    assert claimed.event is not None
    assert json.loads(claimed.event.data) == {"id": str(id), "redacted": True}


async def test_an_event_that_was_forgotten_meanwhile_is_none(database: db.Database, account_id: UUID) -> None:
    await hook(database, account_id, "message.received")
    await happen(database, account_id)
    async with database.connection() as connection:
        await connection.execute("delete from events where account_id = $1", account_id)
    [claimed] = await claim(database, account_id)
    assert claimed.event is None


# Leases


async def test_a_due_delivery_is_claimed_once_and_no_more_than_the_limit(
    database: db.Database, account_id: UUID
) -> None:
    await hook(database, account_id)
    for _ in range(5):
        await happen(database, account_id)
    async with database.connection() as connection:
        assert await webhooks.due_accounts(connection, 10) == [account_id]
    got = [await claim(database, account_id, limit=2) for _ in range(4)]
    assert [len(claimed) for claimed in got] == [2, 2, 1, 0]
    assert len({claimed.event_id for some in got for claimed in some}) == 5
    async with database.connection() as connection:
        assert await webhooks.due_accounts(connection, 10) == []


async def test_only_the_holder_of_the_token_decides_and_every_attempt_is_written_down(
    database: db.Database, account_id: UUID
) -> None:
    """Seen to fail with `d.lease_id = :lease_id` taken out of `settle`: the late failure made it dead."""
    id = await hook(database, account_id)
    await happen(database, account_id)
    [late] = await claim(database, account_id, lease_seconds=0)
    [holder] = await claim(database, account_id)
    await settle(database, late, "dead", disable="the late one says so")
    assert [(d.status, d.attempts) for d in await deliveries(database, account_id, id)] == [("pending", 2)]
    await settle(database, holder, "delivered")
    await settle(database, late, "dead")
    [delivery] = await deliveries(database, account_id, id)
    assert (delivery.status, delivery.last_status, delivery.lease_id) == ("delivered", 200, None)
    assert (await get(database, account_id, id)).status == "active"
    async with database.connection() as connection:
        tried = await webhooks.attempts(connection, account_id, id, [late.event_id])
    assert [(a["number"], a["status"]) for a in tried[late.event_id]] == [(1, 500), (1, 500), (2, 200)]


async def test_a_failed_delivery_is_due_again_when_it_was_said(database: db.Database, account_id: UUID) -> None:
    id = await hook(database, account_id)
    await happen(database, account_id)
    [claimed] = await claim(database, account_id)
    await settle(database, claimed, "pending", again_in=3600)
    assert await claim(database, account_id) == []
    assert (await get(database, account_id, id)).failing_since is not None
    async with database.connection() as connection:
        await connection.execute("update webhook_deliveries set due_at = due_at - interval '1 hour'")
    [again] = await claim(database, account_id)
    assert again.number == 2
    await settle(database, again, "delivered")
    assert (await get(database, account_id, id)).failing_since is None


async def test_an_attempt_that_is_written_again_for_nobody_knew_is_one(database: db.Database, account_id: UUID) -> None:
    """With an id made anew by each writing, it was listed twice."""
    id = await hook(database, account_id)
    await happen(database, account_id)
    [claimed] = await claim(database, account_id)
    settled = ended(claimed, "delivered")
    for _ in range(2):
        async with database.transaction() as connection:
            await webhooks.settle(connection, settled)
    async with database.connection() as connection:
        listed = await webhooks.attempts(connection, account_id, id, [claimed.event_id])
    assert [one["id"] for one in listed[claimed.event_id]] == [settled.attempt_id]


# The end


async def test_disabling_is_told_once_and_drops_what_waits(database: db.Database, account_id: UUID) -> None:
    id = await hook(database, account_id, "message.received")
    for _ in range(3):
        await happen(database, account_id)
    first, second, _ = await claim(database, account_id)
    await settle(database, first, "dead", disable="410")
    await settle(database, second, "dead", disable="410")
    webhook = await get(database, account_id, id)
    assert (webhook.status, webhook.disabled_reason) == ("disabled", "410")
    assert {d.status for d in await deliveries(database, account_id, id)} == {"dead"}
    types = [event.type for event in await rows.log_of(database, account_id)]
    assert types.count("webhook.disabled") == 1


async def test_changing_a_webhook_makes_it_work_again(database: db.Database, account_id: UUID) -> None:
    id, other = await hook(database, account_id), await rows.account(database)
    changes = {"url": "https://new.example", "types": ["*"], "mailbox_id": None, "ordered": False}
    async with database.transaction() as connection:
        await webhooks.disable(connection, account_id, id, "why")
        assert not await webhooks.change(connection, other, id, changes)
        assert await webhooks.change(connection, account_id, id, changes)
    webhook = await get(database, account_id, id)
    assert (webhook.status, webhook.disabled_reason, webhook.url) == ("active", None, "https://new.example")
    await happen(database, account_id)
    assert len(await claim(database, account_id)) == 1


async def test_nobody_sees_or_ends_anothers_webhook(database: db.Database, account_id: UUID) -> None:
    id, other = await hook(database, account_id), await rows.account(database)
    async with database.transaction() as connection:
        assert await webhooks.get(connection, other, id) is None
        assert await webhooks.page(connection, other, after=None, limit=10) == []
        assert not await webhooks.delete(connection, other, id)
        await webhooks.disable(connection, other, id, "why")
        assert [one.id for one in await webhooks.page(connection, account_id, after=None, limit=10)] == [id]
    assert (await get(database, account_id, id)).status == "active"
