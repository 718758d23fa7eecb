"""The event log has no gaps, whatever the order in which transactions begin and end."""

from __future__ import annotations

import asyncio
import contextlib
import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from gateway.errors import CursorExpired
from gateway.storage import accounts, db, events

pytestmark = pytest.mark.anyio


class TakenBackError(Exception):
    """What ends a transaction that is not to be."""


async def write(database: db.Database, account_id: UUID, count: int, *, takes_back: bool = False) -> None:
    async with database.transaction() as connection:
        await events.append(connection, account_id, [happened()] * count)
        if takes_back:
            raise TakenBackError


def happened(kind: str = "mailbox.created") -> events.NewEvent:
    return events.NewEvent(type=kind)


async def test_events_get_the_next_numbers_of_their_account(database: db.Database, account_id: UUID) -> None:
    async with database.transaction() as connection:
        other = await accounts.create(connection, "other")
    async with database.transaction() as connection:
        assert await events.append(connection, account_id, [happened(), happened()]) == 1
        assert await events.append(connection, other, [happened()]) == 1
    async with database.transaction() as connection:
        assert await events.append(connection, account_id, [happened()]) == 3


async def test_a_transaction_that_is_taken_back_leaves_no_gap(database: db.Database, account_id: UUID) -> None:
    with pytest.raises(TakenBackError):
        await write(database, account_id, 1, takes_back=True)
    async with database.transaction() as connection:
        assert await events.append(connection, account_id, [happened()]) == 1


async def test_a_reader_never_steps_over_an_event_that_commits_later(database: db.Database, account_id: UUID) -> None:
    """Writers on eight connections, some of which roll back; a reader that goes on from its cursor sees 1, 2, 3, …

    Seen to fail with seq drawn from a sequence instead of the head's row (`nextval` in the statement `append`):
    the reader saw 2, 3, 5, 6, … and never 1 and 4.
    """
    seen: list[int] = []
    done = asyncio.Event()

    async def write_many(writer: int) -> None:
        chance = random.Random(writer)
        for _ in range(40):
            with contextlib.suppress(TakenBackError):
                await write(database, account_id, chance.randint(1, 3), takes_back=chance.random() < 0.2)

    async def read() -> None:
        finished = False
        while not finished:
            finished = done.is_set()
            async with database.connection() as connection:
                seen.extend(e.seq for e in await events.after(connection, account_id, seen[-1] if seen else 0, 1000))

    reader = asyncio.create_task(read())
    await asyncio.gather(*(write_many(n) for n in range(8)))
    done.set()
    await reader
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) > 300


async def test_transactions_over_several_accounts_never_deadlock(database: db.Database) -> None:
    """Seen to fail with `sorted` taken out of `append_all`: DeadlockDetectedError."""
    async with database.transaction() as connection:
        ids = [await accounts.create(connection, f"a{n}") for n in range(6)]

    async def write(writer: int) -> None:
        chance = random.Random(writer)
        for _ in range(40):
            chosen = chance.sample(ids, 4)
            async with database.transaction() as connection:
                await events.append_all(connection, {account: [happened()] for account in chosen})

    await asyncio.gather(*(write(n) for n in range(8)))
    async with database.connection() as connection:
        heads = await events.heads(connection, ids)
    assert sum(heads.values()) == 8 * 40 * 4


async def test_only_a_prefix_is_forgotten_and_never_the_newest_event(database: db.Database, account_id: UUID) -> None:
    async with database.transaction() as connection:
        await events.append(connection, account_id, [happened()] * 5)
        await connection.execute("update events set created_at = created_at - interval '9 days' where seq in (1, 2, 4)")
    before = datetime.now(UTC) - timedelta(days=7)
    async with database.transaction() as connection:
        assert await events.forget(connection, account_id, before, 100) == 2
        assert await events.bounds(connection, account_id) == events.Bounds(oldest=3, newest=5)
    async with database.transaction() as connection:
        await events.forget(connection, account_id, datetime.now(UTC) + timedelta(days=1), 100)
        assert await events.bounds(connection, account_id) == events.Bounds(oldest=5, newest=5)


@pytest.mark.parametrize(("cursor", "is_inside"), [(0, False), (1, False), (2, True), (4, True), (5, True), (6, False)])
def test_a_cursor_is_good_from_right_before_the_oldest_event_to_the_newest(cursor: int, is_inside: bool) -> None:
    bounds = events.Bounds(oldest=3, newest=5)
    if is_inside:
        bounds.check(cursor)
    else:
        with pytest.raises(CursorExpired) as refusal:
            bounds.check(cursor)
        assert refusal.value.extra == {"oldest": "2", "newest": "5"}


async def test_webhook_deliveries_are_rows_of_the_events_own_transaction(
    database: db.Database, account_id: UUID
) -> None:
    async with database.transaction() as connection:
        await connection.execute(
            "insert into webhooks (account_id, id, url, types) values ($1, $2, 'http://a', '{mailbox.created}'),"
            " ($1, $3, 'http://b', '{*}'), ($1, $4, 'http://c', '{message.received}')",
            account_id,
            *(UUID(int=n) for n in (1, 2, 3)),
        )
        await events.append(connection, account_id, [happened()])
        rows = await connection.fetch("select webhook_id, seq, status from webhook_deliveries order by webhook_id")
    assert [(row["webhook_id"].int, row["seq"], row["status"]) for row in rows] == [
        (1, 1, "pending"),
        (2, 1, "pending"),
    ]


async def test_webhooks_are_told_of_what_is_committed_and_of_nothing_else(
    database: db.Database, account_id: UUID
) -> None:
    """Seen to fail with the rows written by a connection of its own: what was taken back was to be told. And with them
    left to somebody afterwards who never came: what was committed was not."""
    query = "select seq from webhook_deliveries where account_id = $1 order by seq"
    async with database.connection() as connection:
        await connection.execute(
            "insert into webhooks (account_id, id, url, types) values ($1, $1, 'http://a', '{*}')", account_id
        )
    with pytest.raises(TakenBackError):
        await write(database, account_id, 1, takes_back=True)
    async with database.connection() as connection:
        assert await connection.fetch(query, account_id) == []
    async with database.transaction() as connection:
        await events.append(connection, account_id, [happened(), happened()])
    async with database.connection() as connection:
        assert [row["seq"] for row in await connection.fetch(query, account_id)] == [1, 2]
