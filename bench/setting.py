"""Where measurements are made: servers of the run's own, fresh databases, the real processes."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests import databases, house, servers


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What a measurement is given."""

    postgres_dsn: str  # the run's Postgres, as superuser, at its maintenance database
    redis_url: str  # the run's Valkey
    seconds: float | None = None  # how long a soak takes; None = as it says itself
    quick: bool  # fewer and shorter rounds, smaller loads: a look whether everything still runs

    def rounds(self, full: int) -> int:
        """How often to measure; `full` where there is time."""
        return 2 if self.quick else full

    def scaled(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def database(self) -> AbstractAsyncContextManager[str]:
        """The DSN of a fresh, migrated database, gone afterwards: tests.databases."""
        return databases.fresh(self.postgres_dsn)

    def house(
        self,
        dsn: str,
        *,
        programs: tuple[str, ...] = ("serve",),
        settings: Mapping[str, str] | None = None,  # by the names of their environment variables
        folder: Path | None = None,  # where logs go; None = nowhere
    ) -> AbstractAsyncContextManager[house.House]:
        """The real processes over that database, ready; killed afterwards: tests.house."""
        roomy = {"LOG_LEVEL": "warning", "SMTP_MAX_MESSAGES_PER_SESSION": "1000000"}
        return house.standing(
            dsn, self.redis_url, programs=programs, folder=folder, settings=roomy | dict(settings or {}), forked=False
        )


@contextlib.contextmanager
def opened(*, quick: bool, seconds: float | None = None) -> Iterator[Setting]:
    """A Postgres and a Valkey for this run, stopped and forgotten afterwards."""
    run = servers.Run(servers.on_disk())
    try:
        addresses = servers.await_addresses(run.begin())
        yield Setting(
            postgres_dsn=addresses.postgres, redis_url=f"{addresses.redis}?db=0", quick=quick, seconds=seconds
        )
    finally:
        run.end()


@contextlib.asynccontextmanager
async def program(module: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python -m module arguments` with pipes at both ends, killed afterwards."""
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 26,
    )
    try:
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            started.kill()
        await started.wait()


def resident(pid: int) -> int:
    """Bytes of memory that a process holds now (RSS)."""
    return int(psutil.Process(pid).memory_info().rss)
