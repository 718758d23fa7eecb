"""The power fails under a house that is at work: what was confirmed by then is on the disk."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from gateway import embedded
from gateway.errors import ConfigurationError
from gateway.storage import migrate
from tests import house, servers
from tests.faults import images, strain

pytestmark = [pytest.mark.anyio, pytest.mark.faults]

MEGABYTES = 400
# Nothing reaches the disk by chance: no write-ahead log is flushed by its writer before somebody asks for it.
LAZY = {"wal_writer_delay": "10s", "wal_writer_flush_after": "64MB", "max_wal_size": "64MB", "shared_buffers": "32MB"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Room for images, where they can be mounted."""
    if why := images.problem():
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="postroom-power-", dir=servers.in_memory()) as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


@contextlib.contextmanager
def _on_disk(folder: Path, **options: str) -> Iterator[embedded.Postgres]:
    """A server whose data lie on a disk of their own, which holds all of what was done so far."""
    with (
        images.mounted(images.make(folder / "disk", MEGABYTES), folder / "on") as on,
        embedded.Postgres(on / "postgres", options={**LAZY, **options}) as server,
    ):
        asyncio.run(migrate.run(server.dsn))
        images.sync(on)
        yield server


def _cut(folder: Path, server: embedded.Postgres) -> tuple[float, Path]:
    """The power fails: when, and what is left. The server is halted meanwhile, so that the copy is of one moment."""
    assert server.pid is not None
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)
    at = time.monotonic()
    try:
        return at, images.copy(folder / "disk", folder / "left")
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def _started_again(folder: Path, left: Path) -> Iterator[embedded.Postgres | None]:
    """The server that finds what is left; None where it cannot even start."""
    with images.mounted(left, folder / "after") as on:
        (on / "postgres/data/postmaster.pid").unlink(missing_ok=True)  # its process is no more
        server = embedded.Postgres(on / "postgres", options={"shared_buffers": "32MB"})
        try:
            found = server.start()
        except ConfigurationError:
            found = None
        try:
            yield found
        finally:
            server.stop()
    left.unlink()


async def _lost(folder: Path, left: Path, confirmed: strain.Record) -> collections.Counter[str]:
    """How much of what was confirmed is not there any more."""
    with contextlib.ExitStack() as stack:
        server = await asyncio.to_thread(stack.enter_context, _started_again(folder, left))
        empty = strain.Stored(mails={}, copies=0, emails={}, requests=0, events={})
        try:
            found = await strain.stored(server.dsn) if server else empty
        except asyncpg.PostgresError:
            found = empty
        lost = collections.Counter(found.lost(confirmed))
        await asyncio.to_thread(stack.close)
    return lost


async def _cut_again_and_again(
    folder: Path, server: embedded.Postgres, record: strain.Record, cuts: int
) -> tuple[int, collections.Counter[str]]:
    """How much had been confirmed at the cuts, and how much of it was lost, over all of them."""
    chance, confirmed, lost = random.Random(cuts), 0, collections.Counter[str]()
    for _ in range(cuts):
        await record.more(chance.randint(1, 30))
        at, left = await asyncio.to_thread(_cut, folder, server)
        before = record.until_then(at)
        confirmed += before.count
        lost += await _lost(folder, left, before)
    return confirmed, lost


async def _confirmed_and_lost(
    folder: Path, server: embedded.Postgres, redis_url: str, cuts: int, **settings: str
) -> tuple[int, collections.Counter[str]]:
    async with house.standing(server.dsn, redis_url, settings=settings) as home, strain.on(home) as under:
        found = await _cut_again_and_again(folder, server, under.record, cuts)
        await under.end()
    assert under.record.odd == []
    strain.figure(f"{cuts} power cuts: {found[0]} confirmed by then, lost {dict(found[1])}")
    return found


@contextlib.asynccontextmanager
async def _disk(folder: Path, **options: str) -> AsyncIterator[embedded.Postgres]:
    with contextlib.ExitStack() as stack:
        yield await asyncio.to_thread(stack.enter_context, _on_disk(folder, **options))
        await asyncio.to_thread(stack.close)


async def test_what_was_confirmed_before_a_power_cut_is_there_afterwards(folder: Path, redis_url: str) -> None:
    """Of mail in, e-mails and events that a reader was told of. What the test can tell is shown by the next two."""
    async with _disk(folder) as server:
        confirmed, lost = await _confirmed_and_lost(folder, server, redis_url, 20)
    assert confirmed > 500
    assert lost.total() == 0


async def test_a_server_that_does_not_sync_loses_it_which_is_why_it_is_refused(folder: Path, redis_url: str) -> None:
    """The negative control: with fsync off, and DATABASE_UNSAFE so that the house starts at all."""
    async with _disk(folder, fsync="off") as server:
        confirmed, lost = await _confirmed_and_lost(folder, server, redis_url, 2, DATABASE_UNSAFE="true")
    assert confirmed > 0
    assert lost["mails"] > 0
    assert lost["emails"] > 0


async def test_a_role_that_does_not_wait_for_the_disk_loses_nothing_of_ours_and_something_of_others(
    folder: Path, redis_url: str
) -> None:
    """Because every connection of ours has synchronous_commit on: with that taken out of gateway.storage.db, 317 mails,
    185 e-mails and 688 events were lost."""
    async with _disk(folder) as server:
        connection = await asyncpg.connect(server.dsn)
        await connection.execute("alter role postroom set synchronous_commit = off")
        await connection.execute("create table careless (number int)")
        await connection.close()
        confirmed, lost = await _confirmed_and_lost(folder, server, redis_url, 5)
        written = await _careless_writes(server.dsn, 100)
        _, left = await asyncio.to_thread(_cut, folder, server)
        found = await _careless_rows(folder, left)
    strain.figure(f"a careless program: {written} confirmed, lost {written - found}")
    assert confirmed > 0
    assert lost.total() == 0
    assert found < written


async def _careless_writes(dsn: str, count: int) -> int:
    """A program that takes its server's word for a commit: how many rows were confirmed."""
    connection = await asyncpg.connect(dsn)
    for number in range(count):
        await connection.execute("insert into careless values ($1)", number)
    await connection.close()
    return count


async def _careless_rows(folder: Path, left: Path) -> int:
    with contextlib.ExitStack() as stack:
        server = await asyncio.to_thread(stack.enter_context, _started_again(folder, left))
        assert server is not None
        connection = await asyncpg.connect(server.dsn)
        found = int(await connection.fetchval("select count(*) from careless"))
        await connection.close()
        await asyncio.to_thread(stack.close)
    return found
