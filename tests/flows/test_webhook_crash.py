"""Kill -9 of workers that are telling webhooks: every event is told, signed, under one id; in order where asked."""

from __future__ import annotations

import asyncio
import collections
import itertools
import random
from uuid import UUID

import pytest
import standardwebhooks
from uuid_utils.compat import uuid7

from gateway.storage import db, webhooks
from tests import house
from tests.flows import receiver
from tests.notify import tellers

pytestmark = pytest.mark.anyio

KILLS = [pytest.param(3, id="short"), pytest.param(30, id="storm", marks=pytest.mark.faults)]
SETTINGS = {
    "LEASE_SECONDS": "0.5",
    "WEBHOOK_TIMEOUT_SECONDS": "1.5",
    "SWEEP_INTERVAL_SECONDS": "0.1",
    "WEBHOOK_RETRY_SCHEDULE": " ".join(["0.1"] * 20),
}
SHARE = 12  # events of each kind for a kill


async def _kill_in_mid_post(home: house.House, kills: int, listener: receiver.Receiver) -> None:
    """One of two workers at a time, while what it has posted waits for its answer."""
    chance = random.Random(kills)
    for name, _ in zip(itertools.cycle(("worker", "worker-2")), range(kills), strict=False):
        listener.hold = hold = asyncio.Event()
        await listener.until(len(listener.told) + chance.randint(1, 4), seconds=60)
        home.kill(name)
        listener.hold = None
        hold.set()
        home.start(name)


def _secret(hook: UUID) -> standardwebhooks.Webhook:
    return standardwebhooks.Webhook(house.KEYRING.webhook_secret(hook, webhooks.FIRST_GENERATION))


@pytest.mark.parametrize("kills", KILLS)
async def test_every_event_is_told_under_its_id_and_in_turn_whenever_a_worker_is_killed(
    dsn: str, database: db.Database, redis_url: str, kills: int
) -> None:
    """Every fifth answer is a failure besides; the receiver verifies each post as receivers do.

    With a claim that settles before it posts (`status = 'delivered'` in the statement), what killed workers had was
    told no more, and the test waited for it in vain."""
    chance = random.Random(kills)
    boxes = [uuid7() for _ in range(6)]
    async with (
        receiver.Receiver() as listener,
        house.standing(dsn, redis_url, programs=("worker", "worker-2"), settings=SETTINGS) as home,
    ):
        account_id = (await home.tenant()).account_id
        hooks = {
            f"/{name}": await tellers.hook(database, account_id, listener.url(f"/{name}"), ordered=name == "ordered")
            for name in ("any", "ordered")
        }
        secrets = {path: _secret(hook) for path, hook in hooks.items()}
        verified = []

        def decide(told: receiver.Told) -> str | None:
            verified.append(secrets[told.path].verify(told.body, told.headers) == told.event)  # good for five minutes
            return "503 Not now" if chance.random() < 0.2 else None

        listener.decide = decide
        happened = [
            str(id)
            for _ in range(kills * SHARE // len(boxes))
            for id in await tellers.happen(database, account_id, boxes)
        ]
        await _kill_in_mid_post(home, kills, listener)
        await tellers.ended(database)
        for path, hook in hooks.items():
            told = [one for one in listener.told if one.path == path]
            assert all(one.id == one.event["id"] for one in told)
            assert {one.id for one in told} == set(happened)
            async with database.connection() as connection:
                made = await webhooks.deliveries(connection, account_id, hook, status=None, after=None, limit=100_000)
            assert {one.status for one in made} == {"delivered"}
    assert verified == [True] * len(listener.told)
    turns = collections.defaultdict(list)
    for one in listener.told:
        if one.path == "/ordered":
            turns[one.event["mailbox_id"]].append(one.event["seq"])
    assert len(turns) == len(boxes)
    assert all(seqs == sorted(seqs) for seqs in turns.values())
