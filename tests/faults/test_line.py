"""What one process does over a bad line to Postgres: nothing waits for ever, and a bad connection is not kept."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import psutil
import pytest
from uuid_utils.compat import uuid7

from gateway.errors import Unavailable
from gateway.storage import db, messages
from gateway.storage.committer import Committer
from tests import databases
from tests.faults import wire
from tests.storage import rows

pytestmark = pytest.mark.anyio

INSERT = "insert into accounts"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that are seconds in earnest, so that nobody has to wait for them here."""
    monkeypatch.setattr(db, "COMMAND_SECONDS", 0.3)
    monkeypatch.setattr(db, "WAITING_SECONDS", 0.3)


@contextlib.asynccontextmanager
async def _single(dsn: str) -> AsyncIterator[db.Database]:
    """A database whose one connection is all there is: what is not given back is missing."""
    database = db.Database(dsn, pool_size=1)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def _pid(database: db.Database) -> int:
    async with database.connection() as connection:
        return int(await connection.fetchval("select pg_backend_pid()"))


async def _broken_off(database: db.Database, line: wire.Wire) -> None:
    async with database.transaction() as connection:
        line.silence()
        await connection.execute("select 1")


@pytest.mark.usefixtures("impatient")
async def test_a_line_on_which_nothing_comes_back_is_given_up_and_another_one_made(dsn: str) -> None:
    """In a statement, in the middle of a transaction, at its COMMIT, and where not even a connection can be made.

    Without the drop in Database.connection each of them took twice as long: the driver waited for an answer to its
    request to cancel, too.
    """
    async with wire.laid(dsn) as line, _single(line.dsn) as database:
        first = await _pid(database)
        line.silence()
        with pytest.raises(Unavailable):
            await _pid(database)
        with pytest.raises(Unavailable):  # there is no connection any more, and none is to be had
            await _pid(database)
        line.speak()
        second = await _pid(database)
        assert second != first
        line.judge = wire.once("silent", INSERT)
        with pytest.raises(db.CommitUnknown):
            await rows.account(database, "a")
        assert await rows.count(database, "select count(*) from accounts where name = 'a'") == 1
        with pytest.raises(Unavailable):
            await _broken_off(database, line)
        line.speak()
        assert await _pid(database) not in (first, second)


@pytest.mark.usefixtures("impatient")
async def test_who_gets_no_connection_of_the_pool_in_time_is_told_so_and_takes_none_away(dsn: str) -> None:
    """With no limit (asyncio.timeout(None) in Database._taken) the test waited for ever."""
    async with _single(dsn) as database:
        async with database.connection():
            with pytest.raises(Unavailable):
                await asyncio.create_task(_pid(database))
        assert await _pid(database)


async def test_a_server_that_has_no_connection_left_is_unavailable_for_that_moment(dsn: str) -> None:
    server = await asyncpg.connect(dsn)
    name = urlsplit(dsn).path[1:]
    async with _single(dsn) as database:
        await server.execute(f"alter database {name} with connection limit 0")
        await server.execute("create role plain login")
        try:
            with pytest.raises(Unavailable) as refused:
                async with _single(dsn.replace("postroom@", "plain@")) as crowded:
                    await _pid(crowded)
        finally:
            await server.execute("drop role plain")
            await server.close()
        assert isinstance(refused.value.__cause__, asyncpg.TooManyConnectionsError)
        assert await _pid(database)


async def test_a_server_that_takes_no_writes_any_more_is_unavailable_and_its_connection_dropped(dsn: str) -> None:
    """With the drop taken out, the second look found the same connection. With the error untranslated, the caller saw
    the driver's, which is a 500."""
    async with wire.laid(dsn) as line, _single(line.dsn) as database:
        before = await _pid(database)
        line.judge = wire.once("25006", INSERT)
        with pytest.raises(Unavailable):
            await rows.account(database)
        assert await _pid(database) != before
        await rows.account(database, "a")


async def test_a_server_that_takes_no_writes_is_not_connected_to_unless_the_dsn_asks_for_it(dsn: str) -> None:
    """With no target_session_attrs the process connected, and stayed."""
    server = await asyncpg.connect(dsn)
    name = urlsplit(dsn).path[1:]
    await server.execute(f"alter database {name} set default_transaction_read_only = on")
    try:
        async with _single(dsn) as database:
            with pytest.raises(Unavailable):
                await _pid(database)
            async with _single(f"{dsn}&target_session_attrs=any") as reading:
                assert await _pid(reading)
            await server.execute("set default_transaction_read_only = off")
            await server.execute(f"alter database {name} reset default_transaction_read_only")
            assert await _pid(database)
    finally:
        await server.close()


async def test_the_kernel_looks_after_the_line_while_nobody_does(dsn: str) -> None:
    async with wire.laid(dsn) as line, _single(line.dsn) as database:
        await _pid(database)
        [held] = [one for one in psutil.Process().net_connections("tcp4") if one.raddr[1:] == (line.port,)]
        with socket.fromfd(held.fd, socket.AF_INET, socket.SOCK_STREAM) as copy:
            assert copy.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == db.UNACKNOWLEDGED_MS


async def test_who_has_no_more_patience_is_told_so_and_what_had_not_begun_is_never_committed(dsn: str) -> None:
    """With what waits left in the queue, it was stored after its sender had been told that it was not."""
    async with databases.opened(dsn) as database:
        account_id = await rows.account(database)
        begun, go = asyncio.Event(), asyncio.Event()

        async def commit(ids: Sequence[UUID]) -> list[str]:
            begun.set()
            await go.wait()
            async with database.transaction() as connection:
                contents = [messages.Content(id=id, raw=b"", size=0) for id in ids]
                await messages.add_contents(connection, account_id, contents)
            return ["stored"] * len(ids)

        async def find(_: UUID) -> str | None:
            return None

        desk: Committer[UUID, str] = Committer(commit, find=find, size=lambda _: 0, patience=0.2)
        first, second = uuid7(), uuid7()
        waiting = [asyncio.create_task(desk.submit(first))]
        await begun.wait()
        waiting.append(asyncio.create_task(desk.submit(second)))
        told = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in told] == [Unavailable, Unavailable]
        go.set()
        await desk.drain()
        async with database.connection() as connection:
            assert await messages.content_exists(connection, account_id, first)
            assert not await messages.content_exists(connection, account_id, second)
