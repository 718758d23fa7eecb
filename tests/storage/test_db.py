"""The database away, broken off, or slow: what is said is what is true."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from gateway import sockets
from gateway.errors import ConfigurationError, Unavailable
from gateway.storage import accounts, db, messages
from gateway.storage.committer import Committer
from tests import databases, line
from tests.storage import rows

pytestmark = pytest.mark.anyio


async def names(database: db.Database) -> set[str]:
    async with database.connection() as connection:
        return {row["name"] for row in await connection.fetch("select name from accounts where not is_void")}


async def create(database: db.Database, name: str) -> None:
    async with database.transaction() as connection:
        await accounts.create(connection, name)


def says(what: line.At) -> Callable[[], Awaitable[line.At]]:
    async def say() -> line.At:
        return what

    return say


# Reaching it


def test_without_a_dsn_it_says_what_to_set() -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL"):
        db.Database("")


async def test_a_database_that_nobody_listens_for_is_unavailable() -> None:
    with sockets.bind("127.0.0.1", 0, "nobody") as bound:
        port = sockets.port_of(bound)
    async with databases.opened(f"postgresql://postroom@127.0.0.1:{port}/none") as database:
        with pytest.raises(Unavailable) as away:
            await names(database)
    assert away.value.retry_after == 2


async def test_an_empty_database_is_unavailable_and_says_what_to_do(postgres_dsn: str) -> None:
    async with databases.opened(postgres_dsn) as database:
        with pytest.raises(Unavailable, match="postroom migrate"):
            await names(database)


async def test_sslmode_of_the_dsn_is_obeyed(dsn: str) -> None:
    """Seen to fail with the DSN given to `databases` as its URL and not as `dsn`: it connected in the clear."""
    async with line.laid(dsn) as wire:
        async with databases.opened(wire.dsn_with("sslmode=disable")) as database:
            assert await names(database) == set()
        async with databases.opened(wire.dsn_with("sslmode=require")) as database:
            with pytest.raises(Unavailable) as refused:
                await names(database)
    assert isinstance(refused.value.__cause__, ConnectionError)
    assert "SSL" in str(refused.value.__cause__)


async def test_a_commit_is_durable_whatever_the_servers_default(dsn: str) -> None:
    """Seen to fail with synchronous_commit left out of the connection's settings: it was "off"."""
    server = await asyncpg.connect(dsn)
    await server.execute(f"alter database {urlsplit(dsn).path[1:]} set synchronous_commit = off")
    await server.close()
    async with databases.opened(dsn) as database, database.connection() as connection:
        assert await connection.fetchval("show synchronous_commit") == "on"
        assert await db.durability(connection) == []


# Connections and transactions


async def test_code_that_asks_again_within_a_transaction_is_in_it(database: db.Database) -> None:
    async with database.transaction() as outer:
        await accounts.create(outer, "a")
        assert "a" in await names(database)
        assert "a" not in await asyncio.create_task(names(database))


async def test_a_task_that_is_cancelled_takes_its_transaction_back_and_leaves_the_connection_in_order(
    dsn: str,
) -> None:
    database = db.Database(dsn, pool_size=1)
    await database.open()
    begun = asyncio.Event()

    async def slow() -> None:
        async with database.transaction() as connection:
            await accounts.create(connection, "a")
            begun.set()
            await connection.execute("select pg_sleep(60)")

    task = asyncio.create_task(slow())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await create(database, "b")
    assert await names(database) == {"b"}
    await database.close()


async def test_a_statement_that_waits_too_long_for_a_lock_has_collided(database: db.Database, account_id: UUID) -> None:
    async def impatient() -> None:
        async with database.transaction() as connection:
            await connection.execute("set local lock_timeout = '1ms'")
            await connection.execute("select 1 from accounts where id = $1 for update", account_id)

    async with database.transaction() as connection:
        await connection.execute("select 1 from accounts where id = $1 for update", account_id)
        with pytest.raises(db.Collided):
            await asyncio.create_task(impatient())


# A line that breaks


async def test_a_line_that_breaks_within_a_transaction_stores_nothing_and_the_next_one_works(dsn: str) -> None:
    async def broken_off(database: db.Database) -> None:
        async with database.transaction() as connection:
            await accounts.create(connection, "a")
            wire.cut()
            await accounts.create(connection, "b")

    async with line.laid(dsn) as wire, databases.opened(wire.dsn) as database:
        with pytest.raises(Unavailable) as broken:
            await broken_off(database)
        assert not isinstance(broken.value, db.CommitUnknown)
        with pytest.raises(Unavailable):
            await names(database)
        wire.mend()
        await create(database, "c")
        assert await names(database) == {"c"}


async def test_a_server_that_ends_its_connections_is_unavailable_for_that_moment(database: db.Database) -> None:
    with pytest.raises(Unavailable):
        await rows.count(database, "select cast(pg_terminate_backend(pg_backend_pid()) as int)")
    await create(database, "a")


@pytest.mark.parametrize(("what", "stored"), [("lost", False), ("unanswered", True)])
async def test_a_line_that_breaks_during_commit_is_not_taken_for_one_end_or_the_other(
    dsn: str, what: line.At, stored: bool
) -> None:
    """Seen to fail with `_commit` as a plain commit: Unavailable was raised, as if nothing had been stored."""
    async with line.laid(dsn) as wire, databases.opened(wire.dsn) as database:
        wire.at_commit = says(what)
        with pytest.raises(db.CommitUnknown):
            await create(database, "a")
        assert await rows.count(database, "select count(*) from accounts where name = 'a'") == stored


async def test_a_task_that_is_cancelled_during_commit_ends(dsn: str) -> None:
    """Seen to fail with CancelledError taken for a broken line: the task heard CommitUnknown and could go on."""
    reached, may_go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> line.At:
        reached.set()
        await may_go_on.wait()
        return "pass"

    async with line.laid(dsn) as wire, databases.opened(wire.dsn) as database:
        wire.at_commit = hold
        task = asyncio.create_task(create(database, "a"))
        await reached.wait()
        wire.at_commit = line.passing
        task.cancel()
        may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        await create(database, "b")
        assert "b" in await names(database)


@pytest.mark.parametrize(("what", "is_stored"), [("lost", False), ("unanswered", True)])
async def test_whoever_waits_for_a_batch_whose_commit_breaks_off_hears_what_is_true(
    dsn: str, what: line.At, is_stored: bool
) -> None:
    """The committer as mail uses it, over a line that breaks as the COMMIT goes through, three times.

    Seen to fail with CommitUnknown answered like Unavailable: those who were stored were told that they were not.
    """
    async with line.laid(dsn) as wire, databases.opened(wire.dsn) as database:
        account_id = await rows.account(database)

        async def commit(ids: Sequence[UUID]) -> list[str]:
            async with database.transaction() as connection:
                contents = [messages.Content(id=id, raw=b"", size=0) for id in ids]
                await messages.add_contents(connection, account_id, contents)
            return ["stored"] * len(ids)

        async def find(id: UUID) -> str | None:
            async with database.connection() as connection:
                return "found" if await messages.content_exists(connection, account_id, id) else None

        committer: Committer[UUID, str] = Committer(commit, find=find, size=lambda _: 0)
        for _ in range(3):
            wire.at_commit = says(what)
            ids = [uuid7() for _ in range(5)]
            answers = await asyncio.gather(*(committer.submit(id) for id in ids), return_exceptions=True)
            query = "select count(*) from contents where id = any($1)"
            assert await rows.count(database, query, ids) == (5 if is_stored else 0)
            if is_stored:
                assert answers == ["found"] * 5
            else:
                assert [type(answer) for answer in answers] == [Unavailable] * 5
            wire.at_commit = line.passing
            assert await committer.submit(uuid7()) == "stored"
