"""What every test may ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from gateway.storage import accounts, db
from tests import databases, servers

RUN = pytest.StashKey[servers.Run]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RUN] = servers.Run()


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's: once per worker, in the process that starts them
def pytest_configure_node(node: Any) -> None:
    node.workerinput["servers"] = str(node.config.stash[RUN].begin())


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[RUN].end()


@pytest.fixture
def anyio_backend() -> str:
    """Postroom runs on asyncio alone."""
    return "asyncio"


@pytest.fixture(scope="session")
def server_addresses(pytestconfig: pytest.Config) -> servers.Addresses:
    """The run's Postgres and Valkey, started by whoever asks first."""
    worker: dict[str, str] = getattr(pytestconfig, "workerinput", {})
    folder = Path(worker["servers"]) if "servers" in worker else pytestconfig.stash[RUN].begin()
    return servers.await_addresses(folder)


@pytest.fixture(scope="session")
def postgres_dsn(server_addresses: servers.Addresses) -> str:
    """The run's Postgres, as superuser, at its maintenance database: make a database of your own there."""
    return server_addresses.postgres


@pytest.fixture(scope="session")
def redis_url(pytestconfig: pytest.Config, server_addresses: servers.Addresses) -> str:
    """The run's Valkey, at this worker's own database number. Channels have none: pub/sub reaches all workers."""
    worker = str(getattr(pytestconfig, "workerinput", {}).get("workerid", "gw0"))
    return f"{server_addresses.redis}?db={int(worker.removeprefix('gw'))}"


@pytest.fixture
async def dsn(postgres_dsn: str) -> AsyncIterator[str]:
    """A migrated database of the test's own."""
    async with databases.fresh(postgres_dsn) as dsn:
        yield dsn


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[db.Database]:
    """The same, opened."""
    async with databases.opened(dsn) as database:
        yield database


@pytest.fixture
async def account_id(database: db.Database) -> UUID:
    """An account in it."""
    async with database.transaction() as connection:
        return await accounts.create(connection, "test")
