"""Postgres ends at once under a house that is at work, again and again, and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from gateway import embedded
from gateway.storage import migrate
from tests import house, servers
from tests.faults import strain
from tests.flows import receiver
from tests.outbound import sink

pytestmark = pytest.mark.anyio

RESTARTS = [pytest.param(2, id="short"), pytest.param(50, id="storm", marks=pytest.mark.faults)]
SETTINGS = {"SWEEP_INTERVAL_SECONDS": "0.2", "RETRY_SCHEDULE": "0.5", "WEBHOOK_RETRY_SCHEDULE": "0.5"}


@pytest.fixture
def postgres() -> Iterator[embedded.Postgres]:
    """A server of the test's own, empty."""
    with tempfile.TemporaryDirectory(prefix="postroom-restarts-", dir=servers.in_memory()) as folder:
        Path(folder).chmod(0o711)
        with embedded.Postgres(Path(folder) / "postgres") as server:
            yield server


def _end(server: embedded.Postgres, how: signal.Signals) -> None:
    """Immediate shutdown (SIGQUIT), or every one of its processes killed."""
    assert server.pid is not None
    processes = [psutil.Process(server.pid)]
    if how == signal.SIGKILL:
        processes += processes[0].children(recursive=True)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(how)
    server.wait()


async def _restart(server: embedded.Postgres, how: signal.Signals, record: strain.Record) -> float:
    """Seconds from when it is back until mail and e-mails are confirmed again."""
    await asyncio.to_thread(_end, server, how)
    await asyncio.to_thread(server.start)
    back = time.monotonic()
    await record.more(1)
    return time.monotonic() - back


@pytest.mark.parametrize("restarts", RESTARTS)
async def test_whenever_postgres_is_restarted_nothing_that_was_confirmed_is_lost_or_doubled_and_nobody_hears_5xx(
    postgres: embedded.Postgres, redis_url: str, restarts: int
) -> None:
    await migrate.run(postgres.dsn)
    chance, seconds = random.Random(restarts), list[float]()
    async with sink.Sink(keep=False) as relay, receiver.Receiver() as told:
        settings = {**SETTINGS, "OUTBOUND": relay.url("tls=none")}
        async with (
            house.standing(postgres.dsn, redis_url, settings=settings) as home,
            strain.on(home, hook=told.url()) as under,
        ):
            record = under.record
            for number in range(restarts):
                await record.more(chance.randint(1, 20))
                how = signal.SIGKILL if number % 2 else signal.SIGQUIT
                seconds.append(await _restart(postgres, how, record))
            await under.end()
            await strain.rested(postgres.dsn)
            kept = await strain.stored(postgres.dsn)
            await record.until(lambda: len(record.events) == len(kept.events))
        copies = dict(relay.taken)
    strain.figure(f"accepting again after {statistics.median(seconds):.2f} s, at most {max(seconds):.2f} s")
    strain.figure(f"{record.count} confirmed, {sum(record.put_off.values())} put off: {dict(record.put_off)}")
    assert record.odd == []
    assert kept.lost(record) == {"mails": 0, "emails": 0, "events": 0}
    assert kept.copies == len(kept.mails)
    assert kept.requests == len(kept.emails) == len(record.emails)
    assert sorted(kept.events) == list(range(1, len(kept.events) + 1))
    assert set(copies.values()) == {1}
    assert len(copies) == len(kept.emails)
    assert {one.id for one in told.told} >= {id for seq, id in kept.events.items() if seq > 4}
    assert len(record.waited) == len(set(record.waited)) > 0
