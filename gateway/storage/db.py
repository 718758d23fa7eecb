"""The database: one pool a process, connections by task, transactions whose end is known, errors in our own words.

The pool is `databases`' own (one connection a task: code that asks again within a transaction gets the transaction's);
statements run on the asyncpg connection that it holds. Nothing outside this package sees a driver's exception.

    Unavailable           the database cannot be reached, or takes no writes: nothing was stored
    ├── Collided          a deadlock, a lock or a statement that took too long
    ├── NoRoom            its disk or memory is full
    └── CommitUnknown     the line broke during COMMIT: look the ids up, never guess; perhaps all of it was stored

Nobody waits for ever: a connection is given or refused within WAITING_SECONDS, and a statement is answered within
COMMAND_SECONDS or its line is taken for dead and dropped, as is one that leads to a server which takes no writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from typing import Any, Final, NoReturn
from urllib.parse import parse_qs, urlsplit

import asyncpg
import databases
import structlog
from asyncpg import Connection as Connection  # noqa: PLC0414 - told to the rest of storage under this name
from prometheus_client import Gauge

from gateway.errors import ConfigurationError, Unavailable
from gateway.storage.clock import LOOK_SECONDS, Clock
from gateway.storage.sql import load

# state: "in_use", "idle"
CONNECTIONS: Final = Gauge(
    "postroom_db_connections", "Connections of the pools", ["state"], multiprocess_mode="livesum"
)
CONNECTIONS_LIMIT: Final = Gauge(
    "postroom_db_connections_limit", "Connections that the pools may have (DB_POOL_SIZE)", multiprocess_mode="livesum"
)
WAITING: Final = Gauge("postroom_db_waiting", "Who waits for a connection of the pools", multiprocess_mode="livesum")

log = structlog.get_logger(__name__)
sql = load("clock")

STATEMENT_TIMEOUT: Final = "15s"  # shorter than any peer waits for our reply
LOCK_TIMEOUT: Final = "2s"  # also how long a repeated Idempotency-Key waits for the first in another process
CONNECT_SECONDS: Final = 5.0
WAITING_SECONDS: Final = 10.0  # for a connection: a free one of the pool, or a new one
COMMAND_SECONDS: Final = 17.0  # until the server's answer; it gives up on a statement earlier, so the line is dead
CLOSE_SECONDS: Final = 3.0  # that connections have to come back and say good-bye, when the pool is closed
RETRIED: Final = ("40001", "40P01")  # serialization failure, deadlock: the same again may well succeed
LOCK_NOT_AVAILABLE: Final = "55P03"
COLLISIONS: Final = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
)
OUT_OF_ORDER: Final = (
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,  # its disk fails
    asyncpg.ReadOnlySQLTransactionError,  # it has become a standby, or its operator stopped writes
    asyncpg.IdleInTransactionSessionTimeoutError,  # this process was halted for too long
)
CONNECTION_ERRORS: Final = (
    *(OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, TimeoutError),
    asyncpg.InternalClientError,  # the line broke while the driver was between two states
)
BROKEN_OFF: Final = (asyncpg.OperatorInterventionError, *CONNECTION_ERRORS)  # of a COMMIT: nobody knows
UNFIT: Final = (TimeoutError, asyncpg.ReadOnlySQLTransactionError)  # after these a connection is of no more use
# Of a TCP line on which nothing comes back, seconds: silence until it is asked, between asking, times it is asked.
KEEPALIVE: Final = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
UNACKNOWLEDGED_MS: Final = 15_000  # what was sent and not acknowledged for so long never will be


UNREADABLE: Final = (
    "DATABASE_URL cannot be read. It is written postgresql://user:password@host:5432/database, with special characters "
    "of the password percent-encoded."
)


class CommitUnknown(Unavailable):
    """The database went away in the moment of writing: whether it was done is not known; look, or try again."""


class Collided(Unavailable):
    """Others were in the way for too long; try again."""


class NoRoom(Unavailable):
    """The database has no room left; try again later."""


class _Held(asyncpg.Connection):  # type: ignore[misc] # asyncpg ships no types for subclassing
    """A connection without session state of its own, so that handing it back needs no round trip."""

    def get_reset_query(self) -> str:
        return ""

    def notice_death(self) -> None:
        """Have the kernel find out that the other end is gone, also while nobody waits for it."""
        line = self._transport.get_extra_info("socket")
        if line is None or line.family == socket.AF_UNIX:
            return
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        options = (*KEEPALIVE, ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_MS))
        for name, value in options:
            if hasattr(socket, name):  # not every system has all of them
                line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def _prepare(connection: Connection) -> None:
    connection.notice_death()
    for kind in ("jsonb", "json"):
        await connection.set_type_codec(kind, encoder=_to_json, decoder=json.loads, schema="pg_catalog")


def _to_json(value: Any) -> str:
    """Text that is JSON already is passed on as it is; everything else is written as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


class Database:
    """A pool of connections to Postgres. Opening it does not need the server to be there."""

    def __init__(self, dsn: str, *, pool_size: int = 10) -> None:
        if not dsn:
            raise ConfigurationError("DATABASE_URL must be set, such as postgresql://user:pass@host:5432/postroom")
        self._dsn = dsn
        self.clock = Clock()
        self._size = pool_size
        self._asking = 0  # who waits for a connection now
        # `databases` reads only part of a URL (sslmode, for one, not at all): asyncpg gets the whole of it as dsn.
        self._pool = databases.Database(
            "postgresql://",
            dsn=dsn,
            database=None,
            min_size=0,
            max_size=pool_size,
            max_inactive_connection_lifetime=300,
            connection_class=_Held,
            init=self._begin,
            timeout=CONNECT_SECONDS,
            command_timeout=COMMAND_SECONDS,
            **_target(dsn),
            server_settings={
                "application_name": "postroom",
                "timezone": "UTC",
                "jit": "off",
                "synchronous_commit": "on",  # 250 and 202 mean durable, whatever the server's default
                "statement_timeout": STATEMENT_TIMEOUT,
                "lock_timeout": LOCK_TIMEOUT,
                "idle_in_transaction_session_timeout": "30s",
            },
        )

    async def open(self) -> None:
        await self._pool.connect()

    async def close(self) -> None:
        """What is still at work CLOSE_SECONDS later is broken off."""
        if self._pool.is_connected:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._pool.disconnect()

    async def keep_time(self) -> NoReturn:
        """Look at the database's clock now and then, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            with contextlib.suppress(Unavailable):
                async with self.connection() as connection:
                    await self._look_at_clock(connection)

    async def _begin(self, connection: Connection) -> None:
        await _prepare(connection)
        if not self.clock.is_set:
            await self._look_at_clock(connection)

    async def _look_at_clock(self, connection: Connection) -> None:
        asked = time.monotonic()
        told = await sql.now.value(connection)
        self.clock.set(told, asked, time.monotonic())

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """This task's connection; asked for again within, the same one."""
        with translated():
            async with contextlib.AsyncExitStack() as stack:
                connection = (await self._taken(stack)).raw_connection
                try:
                    yield connection
                except BaseException as error:
                    if _is_unfit(error):
                        log.warning("connection dropped", reason=type(error.__cause__ or error).__name__)
                        with contextlib.suppress(asyncpg.InterfaceError):  # dropped within already
                            connection.terminate()
                    raise

    async def _taken(self, stack: contextlib.AsyncExitStack) -> Any:
        """Whatever the server says to who asks for a connection, it is no fault of a statement."""
        self._asking += 1
        try:
            async with asyncio.timeout(WAITING_SECONDS):
                return await stack.enter_async_context(self._pool.connection())
        except asyncpg.PostgresError as error:  # such as: closed to connections, password changed, no such database
            raise Unavailable(retry_after=2) from error
        except ValueError:  # what cannot be read may hold a part of the password
            raise ConfigurationError(UNREADABLE) from None
        finally:
            self._asking -= 1

    def observe(self) -> None:
        """Tell of the pool as it is now."""
        pool = getattr(getattr(self._pool, "_backend", None), "_pool", None)  # asyncpg's, which `databases` keeps
        size, idle = (pool.get_size(), pool.get_idle_size()) if pool is not None else (0, 0)
        CONNECTIONS.labels("in_use").set(size - idle)
        CONNECTIONS.labels("idle").set(idle)
        CONNECTIONS_LIMIT.set(self._size)
        WAITING.set(self._asking)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A transaction, READ COMMITTED. Raises CommitUnknown where the line breaks during COMMIT."""
        async with self.connection() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                yield connection
            except BaseException as error:
                if not _is_unfit(error):
                    with contextlib.suppress(*CONNECTION_ERRORS):  # the line is gone: the server rolls back by itself
                        await transaction.rollback()
                raise
            await _commit(transaction)

    @contextlib.asynccontextmanager
    async def statement(self) -> AsyncIterator[Connection]:
        """A connection for one statement that is a transaction of its own. Raises CommitUnknown where the line breaks
        before its answer."""
        async with self.connection() as connection:
            try:
                yield connection
            except asyncpg.QueryCanceledError:  # the server's own word that it did nothing
                raise
            except BROKEN_OFF as error:
                raise CommitUnknown(retry_after=2) from error


def _target(dsn: str) -> dict[str, Any]:
    """A standby that takes no writes is not connected to, unless the DSN says itself what it wants."""
    wanted = "target_session_attrs"
    return {} if wanted in parse_qs(urlsplit(dsn).query) else {wanted: "read-write"}


def _is_unfit(error: BaseException) -> bool:
    """Whether the connection is to be dropped: no answer came, or its server takes no writes (any more)."""
    return isinstance(error, UNFIT) or isinstance(error.__cause__, UNFIT)


async def _commit(transaction: Any) -> None:
    try:
        await transaction.commit()
    except BROKEN_OFF as error:
        raise CommitUnknown(retry_after=2) from error


@contextlib.contextmanager
def translated() -> Any:
    """Drivers' errors become ours, once: out of reach, out of room. Anything else is a mistake and stays as it is."""
    try:
        yield
    except (asyncpg.DiskFullError, asyncpg.OutOfMemoryError) as error:
        raise NoRoom(retry_after=30) from error
    except COLLISIONS as error:
        raise Collided(retry_after=1) from error
    except (*OUT_OF_ORDER, *CONNECTION_ERRORS) as error:
        raise Unavailable(retry_after=2) from error
    except asyncpg.UndefinedTableError as error:
        raise Unavailable("The database is not migrated; run postroom migrate.", retry_after=30) from error


@contextlib.asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[Connection]:
    """A connection of one's own, for a command. Unavailable where there is none, whatever the reason."""
    with translated():
        try:
            connection = await asyncpg.connect(dsn, timeout=2 * CONNECT_SECONDS)
        except asyncpg.PostgresError as error:  # see Database._taken
            raise Unavailable(retry_after=2) from error
        except ValueError:
            raise ConfigurationError(UNREADABLE) from None
        try:
            yield connection
        finally:
            await connection.close()


def reason(error: Unavailable) -> str:
    """Why, for logs and operators: what the server, the driver or the system said."""
    cause = error.__cause__
    if cause is None or error.message != Unavailable().message:
        return error.message
    return str(cause) or type(cause).__name__


def sqlstate(error: BaseException) -> str:
    """Five characters, of the error or of its cause; empty where neither is Postgres's."""
    return getattr(error, "sqlstate", None) or getattr(error.__cause__, "sqlstate", None) or ""


async def durability(connection: Connection) -> list[str]:
    """What the server is set to that could lose what it confirmed: names of settings that are off."""
    names = ("fsync", "full_page_writes")
    values = [await connection.fetchval("select current_setting($1)", name) for name in names]
    return [name for name, value in zip(names, values, strict=True) if value != "on"]
