"""The database's time, and what is drawn by it."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime, timedelta

import pytest

from gateway.storage import clock, db

pytestmark = pytest.mark.anyio

AWAY = timedelta(days=1)


async def test_the_first_connection_tells_the_time(database: db.Database) -> None:
    assert not database.clock.is_set
    async with database.connection() as connection:
        before = await db.sql.now.value(connection)
        told = database.clock.now()
        after = await db.sql.now.value(connection)
    assert database.clock.is_set
    assert before - timedelta(seconds=0.5) < told < after + timedelta(seconds=0.5)  # half a round trip is guessed


def test_ids_stand_at_the_databases_time_in_the_order_in_which_they_were_drawn() -> None:
    kept = clock.Clock()
    kept.set(datetime.now(UTC) + AWAY, time.monotonic(), time.monotonic())
    ids = [kept.uuid7() for _ in range(20_000)]  # more than one millisecond has room for in its counter
    assert all(one < other for one, other in itertools.pairwise(ids))
    assert {(one.version, one.variant) for one in ids} == {(7, "specified in RFC 4122")}
    for one in (ids[0], ids[-1]):
        told = datetime.fromtimestamp((one.int >> 80) / 1000, UTC)
        assert abs(told - kept.now()) < timedelta(minutes=1)


def test_what_the_machine_said_is_told_by_the_databases_clock() -> None:
    kept, said = clock.Clock(), datetime.now(UTC)
    assert kept.corrected(said) == said
    kept.set(said - AWAY, time.monotonic(), time.monotonic())
    assert abs(kept.corrected(datetime.now(UTC)) - kept.now()) < timedelta(minutes=1)
    assert abs(kept.now() - (said - AWAY)) < timedelta(minutes=1)


def test_an_answer_that_took_long_moves_no_clock_that_was_set() -> None:
    """Such as of a process that was halted between its question and the answer."""
    kept, said = clock.Clock(), datetime.now(UTC)
    asked = time.monotonic()
    kept.set(said - AWAY, asked - 20, asked)  # better than the machine's own
    assert abs(kept.now() - (said - AWAY)) < timedelta(minutes=1)
    kept.set(said, asked - 3600, asked)
    assert abs(kept.now() - (said - AWAY)) < timedelta(minutes=1)
    kept.set(said, asked, asked)
    assert abs(kept.now() - said) < timedelta(minutes=1)


def test_ids_follow_the_clock_where_it_is_set_back() -> None:
    kept = clock.Clock()
    before = kept.uuid7()
    kept.set(datetime.now(UTC) - AWAY, time.monotonic(), time.monotonic())
    assert kept.uuid7() < before
