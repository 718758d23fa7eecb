"""What wears out or piles up: what each figure means; the figures are had from a real Postgres and a real port."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from gateway import settings
from gateway.doctor import upkeep
from gateway.storage import condition, db, vitals
from tests import house
from tests.storage import rows

pytestmark = pytest.mark.anyio

GIB = 1_073_741_824
WELL = {"bytes": GIB, "frozen_age": 1_000_000, "autovacuum": True, "oldest_transaction": None}
PLAIN = settings.load(secret_key=house.SECRET_KEY)


def kept(**changes: Any) -> condition.Upkeep:
    return condition.Upkeep(**{**WELL, **changes})


def table(living: int, dead: int) -> condition.Table:
    return condition.Table(name="events", living=living, dead=dead, bytes=GIB)


@pytest.mark.parametrize(
    ("changes", "living", "dead", "state"),
    [
        ({}, 1_000_000, 999_999, "ok"),
        ({}, 10, 99_999, "ok"),
        ({}, 1_000_000, 1_000_001, "warning"),
        ({"autovacuum": False}, 0, 0, "warning"),
        ({"frozen_age": 1_000_000_001}, 0, 0, "problem"),
    ],
)
def test_a_vacuum_is(changes: dict[str, Any], living: int, dead: int, state: str) -> None:
    found = upkeep.vacuum(kept(**changes), [table(living, dead)])
    assert (found.state, bool(found.todo)) == (state, state != "ok")


@pytest.mark.parametrize(("minutes", "state"), [(None, "ok"), (4, "ok"), (5, "warning"), (60, "problem")])
def test_a_transaction_that_is_open_is(minutes: int | None, state: str) -> None:
    open_for = timedelta(minutes=minutes) if minutes is not None else None
    assert upkeep.transactions(kept(oldest_transaction=open_for)).state == state


@pytest.mark.parametrize(("gib", "state"), [((), "ok"), ((0.5,), "ok"), ((0.5, 1), "warning"), ((10,), "problem")])
def test_a_replication_slot_is(gib: tuple[float, ...], state: str) -> None:
    slots = [condition.Slot(name="s", is_active=False, retained=int(one * GIB)) for one in gib]
    assert upkeep.replication(slots).state == state


@pytest.mark.parametrize(
    ("alive", "silent", "state"), [(1, 0, "ok"), (2, 1, "warning"), (0, 0, "warning"), (0, 1, "problem")]
)
def test_workers_are(alive: int, silent: int, state: str) -> None:
    assert upkeep.alive(vitals.Workers(alive=alive, silent=silent)).state == state


@pytest.mark.parametrize(("minutes", "state"), [(14, "ok"), (15, "warning")])
def test_housekeeping_is(minutes: int, state: str) -> None:
    assert upkeep.undone({"expiry of mailboxes": timedelta(minutes=minutes), "held mail": timedelta()}).state == state


@pytest.mark.parametrize(
    ("info", "state"),
    [
        ({"used_memory": 1000}, "ok"),
        ({"used_memory": 89, "maxmemory": 100, "maxmemory_policy": "noeviction"}, "ok"),
        ({"used_memory": 91, "maxmemory": 100, "maxmemory_policy": "noeviction"}, "warning"),
        ({"used_memory": 1, "maxmemory": 100, "maxmemory_policy": "allkeys-lru"}, "warning"),
        ({"used_memory": 1, "maxmemory": 100, "maxmemory_policy": "volatile-lru"}, "ok"),
    ],
)
def test_the_memory_of_redis_is(info: dict[str, Any], state: str) -> None:
    assert upkeep.memory(info).state == state
    assert upkeep.answering(0.001).state == "ok"
    assert upkeep.answering(0.26).state == "warning"


async def test_the_figures_are_those_of_the_database(dsn: str, database: db.Database, redis_url: str) -> None:
    found = {one.name: one.state for one in await upkeep.database(database)}
    assert found == dict.fromkeys(
        ("database.size", "database.vacuum", "database.transactions", "database.replication"), "ok"
    )
    other = await asyncpg.connect(dsn)
    async with other.transaction(), database.connection() as connection:
        await other.execute("select 1")
        assert (await condition.upkeep(connection)).oldest_transaction is not None
    await other.close()
    assert [one.state for one in await upkeep.workers(database, PLAIN)] == ["warning", "ok"]
    heart = vitals.Heart(database)
    await heart.beat()
    assert [one.state for one in await upkeep.workers(database, PLAIN)] == ["ok", "ok"]
    box = await rows.mailbox(database, await rows.account(database))
    async with database.connection() as connection:
        await connection.execute("update workers set beat_at = now() - interval '1 minute'")
        await connection.execute("update mailboxes set expires_at = now() - interval '1 hour' where id = $1", box)
    assert [one.state for one in await upkeep.workers(database, PLAIN)] == ["problem", "warning"]
    asked = settings.load(secret_key=house.SECRET_KEY, redis_url=redis_url)
    assert [one.name for one in await upkeep.redis_memory(asked)] == ["redis.memory", "redis.latency"]


async def test_one_mail_goes_in_through_the_own_port_and_nothing_is_left(shared_house: house.House) -> None:
    asked = settings.load(
        secret_key=house.SECRET_KEY, mail_domains="postroom.test", host="127.0.0.1", smtp_host="127.0.0.1"
    )
    own = db.Database(shared_house.dsn, pool_size=2)
    await own.open()
    try:
        here = asked.model_copy(update={"smtp_port": shared_house.smtp_port})
        [found] = await upkeep.loop(own, here)
        assert (found.name, found.state) == ("inbound.loop", "ok"), found
        [refused] = await upkeep.loop(own, here.model_copy(update={"mail_domains": ("elsewhere.example",)}))
        assert (refused.state, "550" in refused.found) == ("problem", True)
        [nobody] = await upkeep.loop(own, here.model_copy(update={"smtp_port": 1}))
        assert nobody.state == "problem"
        [untried] = await upkeep.loop(own, asked)
        assert untried.state == "warning"
        async with own.connection() as connection:
            left = "select count(*) from mailboxes where address like 'doctor-%' and deleted_at is null"
            assert await connection.fetchval(left) == 0
    finally:
        await own.close()
