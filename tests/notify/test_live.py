"""The live log: whoever listens hears everything, in order, once, whatever happens between the log and the listener."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from gateway.errors import CursorExpired, Unavailable
from gateway.notify import live
from gateway.storage import db, events
from tests import databases, line
from tests.storage import rows

pytestmark = pytest.mark.anyio

ALL = events.Filter()
PATIENCE = 20.0  # seconds until a test gives up on what never comes


@pytest.fixture
async def tails(database: db.Database) -> AsyncIterator[live.Live]:
    opened = live.Live(database, buffer_events=1000)
    opened.open()
    yield opened
    await opened.close()


async def happen(
    database: db.Database,
    account_id: UUID,
    count: int = 1,
    type: str = "mailbox.created",
    mailbox_id: UUID | None = None,
) -> None:
    async with database.transaction() as connection:
        news = [events.NewEvent(type=type, mailbox_id=mailbox_id) for _ in range(count)]
        await events.append(connection, account_id, news)


async def hear(tails: live.Live, account_id: UUID, subscription: live.Subscription, until: int) -> list[int]:
    """Everything behind the subscription's cursor up to this seq: the log, then the tail."""
    heard: list[int] = []
    async for slice in tails.catch_up(account_id, subscription):
        heard += [told.event.seq for told in slice]
    while not heard or heard[-1] < until:
        heard += [told.event.seq for told in await subscription.next()]
    return heard


async def test_no_event_falls_between_the_log_and_the_tail(
    database: db.Database, account_id: UUID, tails: live.Live
) -> None:
    """Listeners that begin at random moments, while events are written, each from a cursor of its own.

    Seen to fail with the subscription handed to the tail ten milliseconds late (`tail.add` by `call_later`): events
    fell between, and the listener waited for them in vain. (After two milliseconds the look at the log still made up.)
    """
    rounds, newest = 25, 0

    async def listen(cursor: int, seed: int) -> list[int]:
        chance = random.Random(seed)
        for _ in range(chance.randrange(20)):
            await asyncio.sleep(0)
        async with tails.subscribe(account_id, ALL, cursor) as subscription:
            return await hear(tails, account_id, subscription, newest)

    async def write() -> None:
        for _ in range(4):
            await happen(database, account_id, 2)
            tails.poke([account_id])

    async with asyncio.timeout(PATIENCE * 2):
        for n in range(rounds):
            before, newest = newest, newest + 8
            cursors = [before, before // 2, 0]
            *heard, _ = await asyncio.gather(*(listen(cursor, n * 10 + i) for i, cursor in enumerate(cursors)), write())
            assert heard == [list(range(cursor + 1, newest + 1)) for cursor in cursors]


async def test_without_a_cursor_a_listener_hears_what_comes_from_now_on(
    database: db.Database, account_id: UUID, tails: live.Live
) -> None:
    await happen(database, account_id, 3)
    async with asyncio.timeout(PATIENCE), tails.subscribe(account_id, ALL) as subscription:
        await happen(database, account_id)
        tails.poke([account_id])
        [told] = await subscription.next()
        assert told.event.seq == 4
        assert told.body == told.event.json()


async def test_a_listener_hears_its_account_its_mailbox_and_its_types_alone(
    database: db.Database, account_id: UUID, tails: live.Live
) -> None:
    box, other = uuid7(), await rows.account(database)
    wanted = events.Filter(types=("message.received",), mailbox_id=box)
    async with asyncio.timeout(PATIENCE), tails.subscribe(account_id, wanted) as subscription:
        await happen(database, other, type="message.received", mailbox_id=box)
        await happen(database, account_id, type="message.received", mailbox_id=uuid7())
        await happen(database, account_id, type="message.deleted", mailbox_id=box)
        await happen(database, account_id, type="message.received", mailbox_id=box)
        tails.poke([other, account_id])
        assert [told.event.seq for told in await subscription.next()] == [3]


async def test_nothing_in_time_is_an_empty_answer_and_the_next_one_is_not_lost(
    database: db.Database, account_id: UUID, tails: live.Live
) -> None:
    async with asyncio.timeout(PATIENCE), tails.subscribe(account_id, ALL) as subscription:
        assert await subscription.next(timeout=0) == []
        await happen(database, account_id)
        tails.poke([account_id])
        assert len(await subscription.next()) == 1


async def test_what_another_process_commits_is_found_though_nobody_says_so(
    database: db.Database, account_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with `_look` poking nobody: the listener waited in vain."""
    monkeypatch.setattr(live, "POLL_SECONDS", 0.01)
    tails = live.Live(database)
    tails.open()
    async with asyncio.timeout(PATIENCE), tails.subscribe(account_id, ALL) as subscription:
        await happen(database, account_id)
        assert [told.event.seq for told in await subscription.next()] == [1]
    await tails.close()


async def test_a_cursor_outside_the_log_is_told_so(database: db.Database, account_id: UUID, tails: live.Live) -> None:
    await happen(database, account_id, 5)
    async with database.connection() as connection:
        await connection.execute("delete from events where seq < 3")
    for cursor in (1, 6):
        async with tails.subscribe(account_id, ALL, cursor) as subscription:
            with pytest.raises(CursorExpired):
                await hear(tails, account_id, subscription, 5)
    async with tails.subscribe(account_id, ALL, 2) as subscription:
        assert await hear(tails, account_id, subscription, 5) == [3, 4, 5]


async def test_a_long_log_is_caught_up_with_in_slices(
    database: db.Database, account_id: UUID, tails: live.Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SLICE", 3)
    await happen(database, account_id, 10)
    async with tails.subscribe(account_id, ALL, 0) as subscription:
        sizes = [len(slice) async for slice in tails.catch_up(account_id, subscription)]
    assert sizes == [3, 3, 3, 1]


# Who does not read


async def test_a_listener_that_does_not_read_is_cut_and_goes_on_from_its_cursor_without_a_gap(
    database: db.Database, account_id: UUID
) -> None:
    """Seen to fail with a full buffer dropping its oldest event instead: the listener never heard of a gap."""
    tails = live.Live(database, buffer_events=10)
    tails.open()
    cut = asyncio.Event()
    async with asyncio.timeout(PATIENCE):
        async with tails.subscribe(account_id, ALL) as slow, tails.subscribe(account_id, ALL) as quick:
            slow.on_lagging = cut.set
            await happen(database, account_id, 4)
            tails.poke([account_id])
            heard = [told.event.seq for told in await slow.next()]
            read: list[int] = []
            for _ in range(4):
                await happen(database, account_id, 4)
                tails.poke([account_id])
                while not read or read[-1] % 4:
                    read += [told.event.seq for told in await quick.next()]
                read += [told.event.seq for told in await quick.next()]
            await cut.wait()
            with pytest.raises(live.Lagging):
                await slow.next()
            with pytest.raises(live.Lagging):
                slow.take()
        async with tails.subscribe(account_id, ALL, slow.cursor) as again:
            heard += await hear(tails, account_id, again, 20)
    assert heard == read == list(range(1, 21))
    await tails.close()


# Tails


async def test_a_tail_ends_with_its_last_listener_and_begins_again(
    database: db.Database, account_id: UUID, tails: live.Live
) -> None:
    before = len(asyncio.all_tasks())
    async with asyncio.timeout(PATIENCE):
        for seq in (1, 2):
            async with tails.subscribe(account_id, ALL) as one:
                async with tails.subscribe(account_id, ALL):
                    assert len(asyncio.all_tasks()) == before + 1
                await happen(database, account_id)
                tails.poke([account_id])
                assert [told.event.seq for told in await one.next()] == [seq]
            await asyncio.sleep(0)
            assert len(asyncio.all_tasks()) == before


async def test_many_who_begin_at_once_share_one_tail(database: db.Database, account_id: UUID, tails: live.Live) -> None:
    before, begun, may_end = len(asyncio.all_tasks()), [asyncio.Event() for _ in range(10)], asyncio.Event()

    async def listen(n: int) -> list[int]:
        async with tails.subscribe(account_id, ALL) as subscription:
            begun[n].set()
            await may_end.wait()
            return [told.event.seq for told in await subscription.next()]

    async with asyncio.timeout(PATIENCE):
        listening = [asyncio.create_task(listen(n)) for n in range(10)]
        for event in begun:
            await event.wait()
        assert len(asyncio.all_tasks()) == before + 11
        await happen(database, account_id)
        tails.poke([account_id])
        may_end.set()
        assert await asyncio.gather(*listening) == [[1]] * 10


async def test_closing_ends_every_subscription_and_begins_no_other(database: db.Database, account_id: UUID) -> None:
    tails = live.Live(database)
    tails.open()
    async with asyncio.timeout(PATIENCE), tails.subscribe(account_id, ALL) as subscription:
        waiting = asyncio.create_task(subscription.next())
        await asyncio.sleep(0)
        await tails.close()
        with pytest.raises(live.Lagging):
            await waiting
    with pytest.raises(Unavailable):
        async with tails.subscribe(account_id, ALL):
            pass


# The database away


async def test_after_the_database_was_away_a_listener_goes_on_and_has_missed_nothing(
    dsn: str, database: db.Database, account_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listener's line to Postgres is cut while others write; it is poked, and cannot read.

    Seen to fail with the tail ending at Unavailable: it never heard of anything again.
    """
    monkeypatch.setattr(live, "RETRY_SECONDS", 0.01)
    async with line.laid(dsn) as wire, databases.opened(wire.dsn) as far:
        tails = live.Live(far)
        tails.open()
        async with asyncio.timeout(PATIENCE), tails.subscribe(account_id, ALL) as subscription:
            await happen(database, account_id)
            tails.poke([account_id])
            heard = [told.event.seq for told in await subscription.next()]
            refused = asyncio.Event()
            wire.on_refusal = refused.set
            wire.cut()
            await happen(database, account_id, 3)
            tails.poke([account_id])
            await refused.wait()
            await happen(database, account_id, 3)
            wire.mend()
            while heard[-1] < 7:
                heard += [told.event.seq for told in await subscription.next()]
        await tails.close()
    assert heard == list(range(1, 8))


async def test_a_listener_cannot_begin_while_the_database_is_away_and_leaves_nothing_behind(
    dsn: str, account_id: UUID
) -> None:
    async with line.laid(dsn) as wire, databases.opened(wire.dsn) as far:
        tails = live.Live(far)
        wire.cut()
        with pytest.raises(Unavailable):
            async with tails.subscribe(account_id, ALL):
                pass
        wire.mend()
        async with tails.subscribe(account_id, ALL) as subscription:
            assert subscription.take() == []
        await tails.close()
