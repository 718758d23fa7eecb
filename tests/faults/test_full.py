"""The disk under Postgres runs full while the house is at work: senders are put off, and it goes on when there is room.

The data have a small filesystem in memory, or the write-ahead log has; a file that is as large as what is left is put
there, and removed again. Without room for its data Postgres refuses statements; without room for its log it gives up,
cannot even recover, and is started again by its supervisor (here: the test) until it can.

It is told to leave that to its supervisor (`restart_after_crash`). Left to itself Postgres 18.6 was seen, once in some
fifty times, to lose the process that recovers it when that finds no room: the postmaster stayed, without one, and
answered everybody that it is "not yet accepting connections", with room and for good. Nobody but who starts it anew can
mend that.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from gateway import embedded
from gateway.errors import ConfigurationError
from gateway.storage import migrate
from tests import house, servers
from tests.faults import images, strain

pytestmark = [pytest.mark.anyio, pytest.mark.faults]

TIMES = 5
SMALL = {
    "max_wal_size": "64MB",
    "min_wal_size": "32MB",
    "shared_buffers": "16MB",
    "wal_recycle": "off",
    "restart_after_crash": "off",
}
DATA_MEGABYTES = 120
LOG_MEGABYTES = 160
LEFT = 1 << 17  # bytes that the file leaves


@pytest.fixture
def folder() -> Iterator[Path]:
    """A place for small filesystems, where they can be mounted."""
    if why := images.problem():
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="postroom-full-", dir=servers.in_memory()) as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def _separate(server: embedded.Postgres, home: Path, part: str, volume: Path) -> None:
    """Move one folder of a server that has stopped to the volume."""
    inside, outside = home / "data" / part, volume / part
    owner = inside.stat()
    shutil.copytree(inside, outside)
    for path in (outside, *outside.rglob("*")):
        path.chmod(path.stat().st_mode & 0o700)
        shutil.chown(path, owner.st_uid, owner.st_gid)
    shutil.rmtree(inside)
    inside.symlink_to(outside)


@contextlib.contextmanager
def _on_volume(folder: Path, part: str, megabytes: int) -> Iterator[tuple[embedded.Postgres, Path]]:
    """A server with `base` (the tables) or `pg_wal` (the log) of its data on a small volume, and the volume."""
    with images.small(folder / "volume", megabytes) as volume:
        server = embedded.Postgres(folder / "postgres", options=SMALL)
        with server:
            asyncio.run(migrate.run(server.dsn))
        _separate(server, folder / "postgres", part, volume)
        with server:
            yield server, volume


@contextlib.asynccontextmanager
async def _small(folder: Path, part: str, megabytes: int) -> AsyncIterator[tuple[embedded.Postgres, Path]]:
    with contextlib.ExitStack() as stack:
        yield await asyncio.to_thread(stack.enter_context, _on_volume(folder, part, megabytes))
        await asyncio.to_thread(stack.close)


def _fill(volume: Path) -> None:
    """So that next to nothing is left there."""
    size = max(0, shutil.disk_usage(volume).free - LEFT)
    with contextlib.suppress(OSError), (volume / "ballast").open("wb", buffering=0) as file:
        while size > 0:  # Postgres writes meanwhile: there may be less room than there was
            size -= file.write(bytes(min(size, 1 << 20)))


async def _supervise(server: embedded.Postgres) -> None:
    """Start the server again whenever it has ended, until it can be started."""
    while True:
        if server.pid is None:
            with contextlib.suppress(ConfigurationError):
                await asyncio.to_thread(server.start)
        await asyncio.sleep(0.2)


async def _go_on_to_the_next_file(dsn: str) -> None:
    """Of the write-ahead log: 16 MB, which there is no room for where the log has run full."""
    with contextlib.suppress(asyncpg.PostgresError, OSError):
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute("select pg_switch_wal()")
        finally:
            connection.terminate()


def _refused(record: strain.Record, code: str) -> int:
    return sum(count for told, count in record.put_off.items() if told.startswith(code))


async def _fills_up(server: embedded.Postgres, volume: Path, record: strain.Record, code: str) -> float:
    """It is full until senders by SMTP and by HTTP have heard of it; seconds until everything works again after."""
    smtp, http = _refused(record, code), _refused(record, "503")
    await record.more(5)
    await asyncio.to_thread(_fill, volume)
    await _go_on_to_the_next_file(server.dsn)
    async with asyncio.timeout(strain.PATIENCE):
        while True:
            if _refused(record, code) > smtp and _refused(record, "503") > http:
                break
            await asyncio.sleep(strain.PAUSE)
    (volume / "ballast").unlink()
    free = time.monotonic()
    await record.more(1)
    return time.monotonic() - free


async def _assert_kept(dsn: str, record: strain.Record) -> None:
    await strain.rested(dsn)  # what is written to recipients is told of, too
    kept = await strain.stored(dsn)
    await record.until(lambda: len(record.events) == len(kept.events))
    assert record.odd == []
    assert kept.lost(record) == {"mails": 0, "emails": 0, "events": 0}
    assert kept.copies == len(kept.mails)
    assert kept.requests == len(kept.emails) == len(record.emails)
    assert sorted(kept.events) == list(range(1, len(kept.events) + 1))


@pytest.mark.parametrize(
    ("part", "megabytes", "code"), [("base", DATA_MEGABYTES, "452 4.3.1"), ("pg_wal", LOG_MEGABYTES, "451 4.3.0")]
)
async def test_a_disk_that_runs_full_puts_senders_off_and_loses_nothing_and_with_room_it_goes_on(
    folder: Path, redis_url: str, part: str, megabytes: int, code: str
) -> None:
    async with _small(folder, part, megabytes) as (server, volume):
        supervisor = asyncio.create_task(_supervise(server))
        try:
            async with house.standing(server.dsn, redis_url) as home, strain.on(home) as under:
                seconds = [await _fills_up(server, volume, under.record, code) for _ in range(TIMES)]
                await under.end()
                await _assert_kept(server.dsn, under.record)
        finally:
            supervisor.cancel()
            await asyncio.gather(supervisor, return_exceptions=True)
        put_off = dict(under.record.put_off)
    strain.figure(
        f"{part} full {TIMES} times: {under.record.count} confirmed, {put_off}, on again in ≤ {max(seconds):.1f} s"
    )
