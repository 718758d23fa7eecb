"""Who hangs up in the middle of a statement ends that statement, and nobody else's."""

from __future__ import annotations

import asyncio

import pytest

from gateway.storage import db

pytestmark = pytest.mark.anyio

SIZE = 2  # connections of the pool
ENOUGH = 60  # statements that were ended in their middle
SHORT = "select count(*) from generate_series(1, 400)"
LONG = "select pg_sleep(10)"


async def _hangs_up(database: db.Database, statement: str, turns: int) -> bool:
    """Whether it was still at it so many turns of the loop after it had its connection."""
    begun = asyncio.Event()

    async def work() -> None:
        async with database.connection() as connection:
            begun.set()
            await connection.fetchval(statement)

    task = asyncio.create_task(work())
    await begun.wait()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    [end] = await asyncio.gather(task, return_exceptions=True)
    return isinstance(end, asyncio.CancelledError)


async def _reads(database: db.Database, done: asyncio.Event) -> int:
    count = 0
    while not done.is_set():
        async with database.connection() as connection:
            await connection.fetchval(SHORT)
        count += 1
    return count


async def _meet(database: db.Database, together: asyncio.Barrier) -> None:
    async with database.connection():
        await together.wait()


async def test_a_statement_that_is_ended_for_who_hung_up_ends_nobody_elses(dsn: str) -> None:
    """The driver asks for it on a line of its own, and the pool hands nothing out before that was answered.

    Seen to fail:"""
    database = db.Database(dsn, pool_size=SIZE)
    await database.open()
    try:
        done = asyncio.Event()
        readers = [asyncio.create_task(_reads(database, done)) for _ in range(2)]
        ended = 0
        turn = 0
        while ended < ENOUGH:
            turn += 1
            ended += await _hangs_up(database, LONG if turn % 8 == 0 else SHORT, turn % 12)
        done.set()
        assert all([await reader for reader in readers])
        async with asyncio.timeout(20):  # a pool that has shrunk never gives so many at once
            together = asyncio.Barrier(SIZE)
            await asyncio.gather(*(_meet(database, together) for _ in range(SIZE)))
    finally:
        await database.close()
