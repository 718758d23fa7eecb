"""Who waits for whom: nobody for a slow receiver, and the events of an `ordered` webhook for each other."""

from __future__ import annotations

import asyncio
import collections
import itertools
import random
from collections.abc import Sequence
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from gateway.notify import dispatch
from gateway.storage import db, webhooks
from tests.flows import receiver
from tests.notify import tellers
from tests.storage import rows

pytestmark = pytest.mark.anyio

BACKLOG = [pytest.param(60, id="short"), pytest.param(2000, id="backlog", marks=pytest.mark.faults)]
EVENTS = [pytest.param(12, id="short"), pytest.param(300, id="storm", marks=pytest.mark.faults)]


# Slow receivers


@pytest.mark.parametrize("backlog", BACKLOG)
async def test_a_receiver_that_does_not_answer_delays_nobody_and_is_asked_no_more_than_so_often_at_once(
    database: db.Database, account_id: UUID, backlog: int
) -> None:
    """Two workers. Neither another webhook of the account nor one of another account waits for it.

    With nothing found under way (`_free` giving each its whole number), the slow one was asked 51 times at once.
    """
    other = await rows.account(database)
    async with receiver.Receiver() as slow, receiver.Receiver() as quick:
        slow.hold = asyncio.Event()
        await tellers.hook(database, account_id, slow.url())
        await tellers.happen(database, account_id, [None] * backlog)
        for id in (account_id, other):
            await tellers.hook(database, id, quick.url())
        async with tellers.telling(database, webhook_concurrency=3) as workers:
            await slow.until(3)
            for id in (account_id, other):
                await tellers.happen(database, id, [None] * 40)
                for worker in workers:
                    worker.drains.poke(id)
            await quick.until(80)
            assert (len(slow.told), slow.most_at_once) == (3, 3)
            slow.hold.set()
            await tellers.ended(database)
        assert slow.most_at_once == 3
        assert len({told.id for told in slow.told}) == len(slow.told) == backlog + 40
        assert len({told.id for told in quick.told}) == len(quick.told) == 80


async def test_an_account_of_slow_receivers_leaves_slots_to_all_others(
    database: db.Database, account_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker with twelve slots. With `_slots` counting the free ones alone, all twelve were the slow account's and
    the other one heard nothing."""
    monkeypatch.setattr(dispatch, "AT_ONCE", 12)
    other = await rows.account(database)
    async with receiver.Receiver() as slow, receiver.Receiver() as quick:
        slow.hold = asyncio.Event()
        for _ in range(10):
            await tellers.hook(database, account_id, slow.url())
        await tellers.happen(database, account_id, [None] * 5)
        await tellers.hook(database, other, quick.url())
        async with tellers.telling(database, workers=1):
            await slow.until(6)
            await tellers.happen(database, other, [None] * 20)
            await quick.until(20)
            assert slow.most_at_once == 6
            slow.hold.set()
            await tellers.ended(database)
        assert len({(told.id, told.headers["webhook-signature"]) for told in slow.told}) == len(slow.told) == 50


async def test_a_backlog_of_one_account_hides_nobody_from_the_look(database: db.Database, account_id: UUID) -> None:
    """With `all_due_accounts` left out, the second account was not found."""
    other = await rows.account(database)
    for id in (account_id, other):
        await tellers.hook(database, id, "http://127.0.0.1:9/")
        await tellers.happen(database, id, [None] * 10)
    async with database.connection() as connection:
        assert set(await webhooks.due_accounts(connection, 10)) == {account_id, other}


def test_room_is_shared_evenly() -> None:
    one, two, three = (uuid7() for _ in range(3))
    assert webhooks.share({one: 5, two: 5, three: 0}, 6) == {one: 3, two: 3, three: 0}
    assert webhooks.share({one: 1, two: 5}, 100) == {one: 1, two: 5}
    assert webhooks.share({one: 5, two: 5}, 1) == {one: 1, two: 0}
    assert webhooks.share({}, 10) == {}


# Turns


def _unpunctual(seed: int) -> receiver.Receiver:
    """Refuses every third time, by chance, and every seventh event for good."""
    chance = random.Random(seed)
    somebody = receiver.Receiver()
    somebody.decide = lambda told: "500 Not now" if told.event["seq"] % 7 == 0 or chance.random() < 1 / 3 else None
    return somebody


def _by_mailbox(told: Sequence[receiver.Told]) -> dict[str, list[int]]:
    seqs: dict[str, list[int]] = collections.defaultdict(list)
    for one in told:
        seqs[one.event["mailbox_id"]].append(one.event["seq"])
    return seqs


@pytest.mark.parametrize("count", EVENTS)
async def test_an_ordered_webhook_is_told_each_mailboxs_events_in_the_logs_order_whatever_fails(
    database: db.Database, account_id: UUID, count: int
) -> None:
    """Two workers, a receiver that fails every third time, a schedule after which some are given up. Of each mailbox
    what came later was told later, retries included, and everything was told.

    With neither the look at earlier ones in `claim` nor `put_off`, later events overtook those that had failed.
    """
    boxes = [uuid7() for _ in range(4)]
    async with _unpunctual(count) as listener:
        id = await tellers.hook(database, account_id, listener.url(), ordered=True)
        happened = list(itertools.chain(*([box] * 3 for box in boxes))) * (count // 3)
        schedule = ("0.01", "0.01")
        async with tellers.telling(database, webhook_retry_schedule=schedule):
            for start in range(0, len(happened), 24):
                await tellers.happen(database, account_id, happened[start : start + 24])
            await tellers.ended(database)
        told = _by_mailbox(listener.told)
        async with database.connection() as connection:
            made = await webhooks.deliveries(connection, account_id, id, status=None, after=None, limit=100_000)
    assert told.keys() == {str(box) for box in boxes}
    for seqs in told.values():
        assert seqs == sorted(seqs)
        assert len(set(seqs)) == count // 3 * 3
    assert len(made) == len(happened)
    assert {one.status for one in made if one.seq % 7 == 0} == {"dead"}
    assert "delivered" in {one.status for one in made}


async def test_what_waits_its_turn_is_told_at_once_when_the_one_before_ends(
    database: db.Database, account_id: UUID
) -> None:
    """It is put off for ten minutes. With `wake` left out of `settle`, nothing more was told."""
    box, other = uuid7(), uuid7()
    async with receiver.Receiver() as listener:
        listener.hold = asyncio.Event()
        id = await tellers.hook(database, account_id, listener.url(), ordered=True)
        await tellers.happen(database, account_id, [box] * 5 + [other])
        async with tellers.telling(database):
            await listener.until(2)
            async with database.connection() as connection:
                waiting = await webhooks.deliveries(connection, account_id, id, status="pending", after=None, limit=9)
            assert sorted(one.seq for one in waiting if one.lease_id) == [1, 6]
            listener.hold.set()
            await listener.until(6)
            await tellers.ended(database)
        assert [seq for seq in (told.event["seq"] for told in listener.told) if seq != 6] == [1, 2, 3, 4, 5]


async def test_events_of_no_mailbox_and_of_webhooks_that_are_not_ordered_wait_for_nobody(
    database: db.Database, account_id: UUID
) -> None:
    box = uuid7()
    async with receiver.Receiver() as listener:
        listener.hold = asyncio.Event()
        await tellers.hook(database, account_id, listener.url("/ordered"), ordered=True)
        await tellers.hook(database, account_id, listener.url("/any"))
        await tellers.happen(database, account_id, [box, box, None, None])
        async with tellers.telling(database):
            await listener.until(7)
            paths = collections.Counter(told.path for told in listener.told)
            listener.hold.set()
            await tellers.ended(database)
        assert paths == {"/ordered": 3, "/any": 4}
