"""What every test may ask for.

Tests that do not hang on the clock, on a machine that is twenty times slower than yours, too:

- Wait for an event (`relay.until`, `receiver.until`, the log, a future), never for a time; give up after minutes, not
  seconds: `processes.until`, `sending.PATIENCE`, `house.PATIENCE`. Patience costs nothing where the test succeeds.
- What has not happened yet may just be late. To show that something does not happen, let something happen behind it
  that comes the same way, and wait for that.
- A limit that is to be reached is short; whatever is to succeed under it may need more: try again with a longer one
  until the limit was reached where it should be (tests.outbound.test_smtp). Leases and heartbeats, too, run out on a
  slow machine: what a test says of them must be true then.
- Never compare what moves by itself between two answers: `ratelimit-*`, `date`, ages, what is due. A rate of next to
  nothing (tests.flows.test_limits) makes a bucket stand still.
- `loop.time()` has milliseconds under uvloop and need not have moved; processes do not start in the order in which they
  were asked to; a port that was closed may be another's: bind port 0 and hand the socket on.
- A client, a house, a database cost 50 ms to 3 s of processor time each: share the session's, or the module's under
  an `xdist_group`, for without one each worker makes its own; give httpx2 clients `verify=house.NOBODY`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import pytest

from gateway import sockets
from gateway.storage import accounts, db
from tests import databases, house, scheduling, sending, servers
from tests.outbound import sink

RUN = pytest.StashKey[servers.Run]()
LONGEST = 900.0  # seconds of a test, which waits for no one thing as long as that


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RUN] = servers.Run(servers.in_memory())


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's: once per worker, in the process that starts them
def pytest_configure_node(node: Any) -> None:
    node.workerinput["servers"] = str(node.config.stash[RUN].begin())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return scheduling.ByModule(config, log) if config.getvalue("dist") == "loadgroup" else None


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[RUN].end()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Thousands of tests, which stay: the collector of garbage need not look at them again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    scheduling.slow_first(items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A coroutine that hangs becomes a failure, whose traceback tells where it waited; slow proofs may take longer."""
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj) and "faults" not in item.keywords:
        item.obj = _limited(item.obj)


def _limited(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    @functools.wraps(test)
    async def limited(*arguments: Any, **fixtures: Any) -> None:
        async with asyncio.timeout(LONGEST):
            await test(*arguments, **fixtures)

    return limited


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


def _standing(
    postgres_dsn: str, redis_url: str, *, programs: tuple[str, ...] = ("serve", "worker"), **settings: str
) -> Iterator[house.House]:
    """A house on a loop of its own, since the tests' loops come and go."""
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()

        async def begin() -> house.House:
            dsn = await stack.enter_async_context(databases.fresh(postgres_dsn))
            return await stack.enter_async_context(house.standing(dsn, redis_url, programs=programs, settings=settings))

        try:
            yield runner.run(begin())
        finally:
            runner.run(stack.aclose())


@pytest.fixture(scope="session")
def shared_house(postgres_dsn: str, redis_url: str) -> Iterator[house.House]:
    """One running house for all tests of this worker that kill nothing; each test takes an account of its own."""
    yield from _standing(postgres_dsn, redis_url)


@pytest.fixture(scope="session")
def relay_listener() -> Iterator[socket.socket]:
    """Where the relay of `sending_house` listens, over all tests; a test's `relay` accepts on it."""
    with sockets.bind("127.0.0.1", 0, "a relay") as listener:
        yield listener


@pytest.fixture(scope="session")
def sending_house(postgres_dsn: str, redis_url: str, relay_listener: socket.socket) -> Iterator[house.House]:
    """Another one, whose mail leaves through the test's `relay`, and which tries again soon."""
    yield from _standing(
        postgres_dsn,
        redis_url,
        OUTBOUND=f"smtp://127.0.0.1:{sockets.port_of(relay_listener)}?tls=none",
        RETRY_SCHEDULE="0.05",
        WEBHOOK_RETRY_SCHEDULE="0.05 0.05",
        SWEEP_INTERVAL_SECONDS="0.1",
    )


@pytest.fixture
async def relay(relay_listener: socket.socket) -> AsyncIterator[sink.Sink]:
    """The relay of `sending_house`, obliging unless the test says otherwise; end with nothing left to be sent."""
    async with sink.Sink(listener=relay_listener) as relay:
        yield relay


@pytest.fixture
async def sender(sending_house: house.House, relay: sink.Sink) -> AsyncIterator[httpx2.AsyncClient]:
    """The HTTP client of an account of the test's own in `sending_house`, at /v1; its mail comes to `relay`, all of it
    before the next test has one."""
    tenant = await sending_house.tenant()
    async with sending_house.client(tenant.key) as client:
        yield client
    await sending.nothing_left(sending_house, tenant.account_id)


@pytest.fixture
async def tenant(shared_house: house.House) -> house.Tenant:
    """An account of the test's own in the shared house, with an admin key."""
    return await shared_house.tenant()


@pytest.fixture
async def client(shared_house: house.House, tenant: house.Tenant) -> AsyncIterator[httpx2.AsyncClient]:
    """That account's HTTP client, at /v1."""
    async with shared_house.client(tenant.key) as client:
        yield client
