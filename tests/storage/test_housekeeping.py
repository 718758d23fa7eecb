"""What the clock does, by two at once and with nothing done twice."""

from __future__ import annotations

import asyncio
import hashlib
import json
from datetime import timedelta
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from gateway.storage import accounts, db, events, housekeeping, mailboxes, messages, webhooks
from tests.storage import rows

pytestmark = pytest.mark.anyio

ADDRESS = "box@postroom.test"
DAY = 86_400.0


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that everything takes several."""
    for name in ("EXPIRE_SLICE", "RECLAIM_SLICE", "FORGET_SLICE", "ACCOUNTS"):
        monkeypatch.setattr(housekeeping, name, 3)


async def expire(database: db.Database) -> list[UUID]:
    return [account_id async for account_id in housekeeping.expire(database)]


async def over(database: db.Database, *mailbox_ids: UUID, seconds: float = 1) -> None:
    """Their time was up so many seconds ago."""
    async with database.connection() as connection:
        query = "update mailboxes set expires_at = statement_timestamp() - cast($2 as interval) where id = any($1)"
        await connection.execute(query, mailbox_ids, timedelta(seconds=seconds))


async def age(database: db.Database, table: str, seconds: float, column: str = "created_at") -> None:
    async with database.connection() as connection:
        query = f"update {table} set {column} = {column} - cast($1 as interval)"  # noqa: S608 - names of the tests' own
        await connection.execute(query, timedelta(seconds=seconds))


# Expiry


async def test_two_sweepers_at_once_tell_every_expiry_once(database: db.Database) -> None:
    ids = [await rows.account(database) for _ in range(5)]
    boxes = {id: [await rows.mailbox(database, id) for _ in range(8)] for id in ids}
    live = await rows.mailbox(database, ids[0])
    await over(database, *(box for some in boxes.values() for box in some))
    yielded = await asyncio.gather(*(expire(database) for _ in range(3)))
    assert {account_id for some in yielded for account_id in some} == set(ids)
    for id in ids:
        told = [e.mailbox_id for e in await rows.log_of(database, id) if e.type == "mailbox.expired"]
        assert len(told) == 8
        assert set(told) == set(boxes[id])
    assert await rows.count(database, "select count(*) from mailboxes where is_active and id = $1", live) == 1
    assert await expire(database) == []


async def test_a_mailbox_that_mail_is_being_stored_in_is_left_for_the_next_sweep(
    database: db.Database, account_id: UUID
) -> None:
    """Seen to fail with SKIP LOCKED taken out of `expire`: the sweep waited for the mail, and collided."""
    busy, idle = await rows.mailbox(database, account_id, ttl=0.2), await rows.mailbox(database, account_id)
    await over(database, idle)
    async with database.transaction() as connection:
        await mailboxes.live(connection, account_id, [busy])
        await rows.over(database, busy)
        assert await asyncio.create_task(expire(database)) == [account_id]
        told = [e.mailbox_id for e in await rows.log_of(database, account_id) if e.type == "mailbox.expired"]
        assert told == [idle]
    assert await expire(database) == [account_id]


# Reclaim


async def test_reclaim_leaves_nothing_of_what_is_over_and_everything_of_what_is_not(
    database: db.Database, account_id: UUID
) -> None:
    """A deleted mailbox, one that expired long ago, one that expired just now, a live one; some mail in several."""
    deleted, old, young, live = [
        await rows.mailbox(database, account_id, address=f"{name}@postroom.test", token=name.encode())
        for name in ("deleted", "old", "young", "live")
    ]
    for _ in range(7):
        await rows.store(database, account_id, deleted, old)
    shared = await rows.store(database, account_id, deleted, live)
    kept = await rows.store(database, account_id, young)
    await rows.delete(database, account_id, deleted)
    await over(database, old, seconds=2 * DAY)
    await over(database, young, seconds=60)
    await expire(database)
    assert await housekeeping.reclaim(database, DAY) == 2

    async with database.connection() as connection:
        left = {
            row["id"] for row in await connection.fetch("select id from mailboxes where account_id = $1", account_id)
        }
        assert left == {young, live}
        found = await messages.page(connection, account_id, after=None, limit=100, ascending=True)
        assert [m.id for m in found] == [shared[1], *kept]
        contents = [row["id"] for row in await connection.fetch("select id from contents")]
        assert sorted(contents, key=str) == sorted((m.content_id for m in found), key=str)
        addresses = {row["address"] for row in await connection.fetch("select address from addresses")}
        assert addresses == {"young@postroom.test", "live@postroom.test"}
        for name, has_token in (("deleted", False), ("old", False), ("young", True), ("live", True)):
            whose = await accounts.credential(connection, hashlib.sha256(name.encode()).digest())
            assert (whose is not None) == has_token
    for event in await rows.log_of(database, account_id):
        if event.type == "message.received":
            said = json.loads(event.data)
            gone = event.mailbox_id in {deleted, old}
            assert said == {"id": str(event.message_id), "redacted": True} if gone else said["subject"] == "Hello"


async def test_large_mail_is_removed_in_slices_that_a_statement_has_time_for(
    database: db.Database, account_id: UUID
) -> None:
    box = await rows.mailbox(database, account_id)
    ids = [(await rows.store(database, account_id, box))[0] for _ in range(4)]
    async with database.connection() as connection:
        one = await connection.fetchval("select size from messages where id = $1", ids[0])
        for limit, most_bytes, expected in (
            (9, one * 2, (ids[:2], False)),
            (9, 1, (ids[:1], False)),  # at least one, however large
            (4, one * 9, (ids, False)),
            (9, one * 9, (ids, True)),
        ):
            found = await messages.slice_of(connection, account_id, box, limit, most_bytes=most_bytes)
            assert found == expected


async def test_a_reclaimed_mailboxs_address_is_free_for_anybody(database: db.Database, account_id: UUID) -> None:
    await over(database, await rows.mailbox(database, account_id, address=ADDRESS), seconds=2 * DAY)
    await expire(database)
    await housekeeping.reclaim(database, DAY)
    await rows.mailbox(database, await rows.account(database), address=ADDRESS)


async def test_an_address_that_was_taken_again_stays_with_the_new_mailbox(
    database: db.Database, account_id: UUID
) -> None:
    """Seen to fail with `mailbox_id = :mailbox_id` taken out of `release_addresses`: the new one had no address."""
    await rows.delete(database, account_id, await rows.mailbox(database, account_id, address=ADDRESS))
    new = await rows.mailbox(database, account_id, address=ADDRESS)
    assert await housekeeping.reclaim(database, DAY) == 1
    async with database.connection() as connection:
        assert (await mailboxes.routes(connection, [ADDRESS]))[ADDRESS].mailbox_id == new


async def test_two_may_reclaim_at_once(database: db.Database, account_id: UUID) -> None:
    for _ in range(8):
        box = await rows.mailbox(database, account_id)
        for _ in range(4):
            await rows.store(database, account_id, box)
        await rows.delete(database, account_id, box)
    await asyncio.gather(*(housekeeping.reclaim(database, DAY) for _ in range(3)))
    for table in ("mailboxes", "messages"):
        assert await rows.count(database, f"select count(*) from {table} where account_id = $1", account_id) == 0  # noqa: S608
    assert await rows.count(database, "select count(*) from contents") == 0


async def test_a_mailbox_is_never_reclaimed_before_the_sweep_has_told_its_end(
    database: db.Database, account_id: UUID
) -> None:
    await over(database, await rows.mailbox(database, account_id), seconds=9 * DAY)
    assert await housekeeping.reclaim(database, 0) == 0


# The void, events, keys


async def test_dropped_mail_is_removed_when_it_has_lain_and_the_void_stays(database: db.Database) -> None:
    async with database.connection() as connection:
        voids = await accounts.voids(connection)
    for void in voids[:2]:
        for _ in range(5):
            await rows.store(database, void, void)
    await age(database, "messages", housekeeping.VOID_SECONDS + 1, "received_at")
    await age(database, "events", housekeeping.VOID_SECONDS + 1)
    [young] = await rows.store(database, voids[0], voids[0])
    assert await housekeeping.empty_void(database) == 10
    assert await rows.count(database, "select count(*) from messages") == 1
    assert await rows.count(database, "select count(*) from contents") == 1
    assert [e.message_id for e in await rows.log_of(database, voids[0])] == [young]
    assert len(await rows.log_of(database, voids[1])) == 1
    assert await rows.store(database, voids[1], voids[1])
    async with database.connection() as connection:
        assert await accounts.voids(connection) == voids


async def test_events_are_forgotten_from_the_beginning_and_never_the_newest(database: db.Database) -> None:
    ids = [await rows.account(database) for _ in range(5)]

    async def happen(account_id: UUID, count: int) -> None:
        async with database.transaction() as connection:
            await events.append(connection, account_id, [events.NewEvent(type="mailbox.created")] * count)

    for id in ids:
        await happen(id, 7)
    await age(database, "events", 8 * DAY)
    for id in ids[:2]:
        await happen(id, 2)
    assert await housekeeping.forget_events(database, 7 * DAY) == 2 * 7 + 3 * 6
    left = [[e.seq for e in await rows.log_of(database, id)] for id in ids]
    assert left == [[8, 9], [8, 9], [7], [7], [7]]
    assert await housekeeping.forget_events(database, 7 * DAY) == 0


async def test_an_old_event_behind_a_young_one_stays(
    database: db.Database, account_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with `forget` going on behind the first young event: three went, and the log had a hole at 4."""
    monkeypatch.setattr(housekeeping, "FORGET_SLICE", 10)
    async with database.transaction() as connection:
        await events.append(connection, account_id, [events.NewEvent(type="mailbox.created")] * 6)
        old = "update events set created_at = created_at - interval '9 days' where seq in (1, 2, 4)"
        await connection.execute(old)
    assert await housekeeping.forget_events(database, 7 * DAY) == 2
    assert [e.seq for e in await rows.log_of(database, account_id)] == [3, 4, 5, 6]


async def test_old_idempotency_keys_are_forgotten(database: db.Database, account_id: UUID) -> None:
    async with database.connection() as connection:
        insert = (
            "insert into idempotency_keys (account_id, endpoint, key, fingerprint, status, answer, created_at)"
            " select $1, 'e', cast(n as text), '', 201, '{}', statement_timestamp() - interval '1 hour' * n"
            " from generate_series(1, 10) n"
        )
        await connection.execute(insert, account_id)
    assert await housekeeping.forget_keys(database, 5.5 * 3600) == 5
    assert await rows.count(database, "select count(*) from idempotency_keys") == 5


async def test_suppressions_that_are_over_are_swept_by_several_at_once_and_none_that_counts(
    database: db.Database,
) -> None:
    """Negative control: with only "it has an end" left of `expires_at <= :before` in `suppressions.forget`, 72 rows
    went instead of 56, and it failed."""
    ids = [await rows.account(database) for _ in range(4)]
    insert = (
        "insert into suppressions (account_id, address, reason, scope, expires_at)"
        " select $1, n || '@x.example', 'manual', scope, statement_timestamp() + cast($3 as interval) * n"
        " from generate_series(1, 7) n, unnest(cast($2 as text[])) scope"
    )
    async with database.connection() as connection:
        for id in ids:
            await connection.execute(insert, id, ["", "topic:news"], timedelta(hours=-1))
            await connection.execute(insert, id, ["topic:other"], timedelta(hours=1))
            await connection.execute(insert, id, ["domain:x.example"], None)
    swept = await asyncio.gather(*(housekeeping.forget_suppressions(database) for _ in range(3)))
    assert sum(swept) + await housekeeping.forget_suppressions(database) == 4 * 7 * 2
    left = "select count(*) from suppressions where scope in ('topic:other', 'domain:x.example')"
    assert await rows.count(database, left) == await rows.count(database, "select count(*) from suppressions") == 56


# Webhooks


async def hook(database: db.Database, account_id: UUID, mailbox_id: UUID | None = None) -> UUID:
    id = uuid7()
    async with database.transaction() as connection:
        await webhooks.create(
            connection, account_id, id=id, url="https://h.example", types=["*"], mailbox_id=mailbox_id
        )
    return id


async def test_what_webhooks_were_told_is_kept_while_its_event_is_in_the_log_and_what_waits_for_longer(
    database: db.Database, account_id: UUID
) -> None:
    """In slices of three, by two at once."""
    await hook(database, account_id)
    for _ in range(20):
        await rows.mailbox(database, account_id)
    async with database.connection() as connection:
        await connection.execute(
            "update webhook_deliveries set status = 'delivered', finished_at = now() where seq not in (4, 5, 19)"
        )
        await connection.execute(
            """insert into webhook_attempts
            (account_id, id, webhook_id, event_id, number, started_at, latency_ms, answer)
            select account_id, gen_random_uuid(), webhook_id, event_id, n, now(), 1, '' from webhook_deliveries,
            generate_series(1, 2) n"""
        )
        await connection.execute("delete from events where seq <= 15")
    removed = await asyncio.gather(*(housekeeping.forget_deliveries(database) for _ in range(2)))
    assert sum(removed) >= 13
    async with database.connection() as connection:
        left = await connection.fetch("select seq, event_id from webhook_deliveries order by seq")
        tried = await connection.fetch("select event_id, count(*) from webhook_attempts group by 1")
    assert [row["seq"] for row in left] == [4, 5, 16, 17, 18, 19, 20]
    assert {row["event_id"]: row["count"] for row in tried} == {row["event_id"]: 2 for row in left}
    assert await housekeeping.forget_deliveries(database) == 0


async def test_a_webhook_whose_mailbox_is_gone_is_disabled_once_it_was_told_so(
    database: db.Database, account_id: UUID
) -> None:
    box = await rows.mailbox(database, account_id)
    id, other = await hook(database, account_id, box), await hook(database, account_id)
    assert await rows.delete(database, account_id, box)
    await housekeeping.reclaim(database, 0)
    assert [one async for one in housekeeping.tidy_webhooks(database)] == []  # it waits to be told of the deletion
    async with database.connection() as connection:
        await connection.execute("update webhook_deliveries set status = 'delivered' where webhook_id = $1", id)
    assert [one async for one in housekeeping.tidy_webhooks(database)] == [account_id]
    assert [one async for one in housekeeping.tidy_webhooks(database)] == []
    async with database.connection() as connection:
        found = {one.id: one for one in await webhooks.page(connection, account_id, after=None, limit=9)}
    assert (found[id].status, found[id].disabled_reason, found[other].status) == ("disabled", webhooks.BEREFT, "active")
    [told] = [one for one in await rows.log_of(database, account_id) if one.type == "webhook.disabled"]
    assert json.loads(told.data) == {"id": str(id), "reason": webhooks.BEREFT}


async def test_what_waits_for_a_webhook_that_is_told_nothing_is_given_up_in_slices(
    database: db.Database, account_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "DROPPED", 2)
    deleted, disabled, active = [await hook(database, account_id) for _ in range(3)]
    for _ in range(5):
        await rows.mailbox(database, account_id)
    query = "select count(*) from webhook_deliveries where status = 'pending' and webhook_id = $1"
    async with database.transaction() as connection:
        await webhooks.delete(connection, account_id, deleted)
        assert await webhooks.disable(connection, account_id, disabled, "gone")
        before = [await connection.fetchval(query, id) for id in (deleted, disabled, active)]
    assert before[:2] == [3, 3]
    assert [one async for one in housekeeping.tidy_webhooks(database)] == []
    async with database.connection() as connection:
        assert [await connection.fetchval(query, id) for id in (deleted, disabled, active)] == [0, 0, before[2]]


async def test_a_deleted_webhook_goes_when_nothing_of_it_is_left(database: db.Database, account_id: UUID) -> None:
    told, untold, fresh = [await hook(database, account_id) for _ in range(3)]
    await rows.mailbox(database, account_id)
    async with database.transaction() as connection:
        for id in (told, untold, fresh):
            await webhooks.delete(connection, account_id, id)
    await age(database, "webhooks", housekeeping.DELETED_SECONDS + 1, "deleted_at")
    async with database.connection() as connection:
        await connection.execute("delete from webhook_deliveries where webhook_id <> $1", told)
        await connection.execute("update webhooks set deleted_at = now() where id = $1", fresh)
    assert [one async for one in housekeeping.tidy_webhooks(database)] == []
    async with database.connection() as connection:
        assert {row["id"] for row in await connection.fetch("select id from webhooks")} == {told, fresh}
