"""Deliveries in the very moment in which mailboxes expire: nothing is stored after it, nothing is lost before it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from datetime import datetime
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from gateway.inbound import parsing
from gateway.storage import db, housekeeping
from tests.inbound.test_receive import Desk, incoming
from tests.storage import rows

pytestmark = pytest.mark.anyio

DELIVERIES = [pytest.param(300, id="short"), pytest.param(10_000, id="long", marks=pytest.mark.faults)]
BOXES = 6  # that expire at a time
WRITERS = 4  # to each, at a time
LIVES = (0.02, 0.3, 0.6)  # seconds that mailboxes live
STORED_LATE = (
    "select count(*) from messages g join mailboxes m on m.id = g.mailbox_id and m.account_id = g.account_id"
    " where g.received_at >= m.expires_at"
)
Sent = dict[UUID, tuple[datetime, datetime, datetime]]  # its mailbox's end; the time before the delivery and after it


@pytest.fixture
async def desk(database: db.Database) -> AsyncIterator[Desk]:
    pool = parsing.ParsingPool()
    yield Desk(database, pool)
    await pool.close()


async def now(database: db.Database) -> datetime:
    async with database.connection() as connection:
        found: datetime = await connection.fetchval("select clock_timestamp()")
    return found


async def _box(desk: Desk, database: db.Database, account_id: UUID, life: float, sent: Sent) -> None:
    """A mailbox that is written to from several sides all its life and a little longer."""
    address = f"{uuid7()}@postroom.test"
    box = await rows.mailbox(database, account_id, address=address, ttl=life)
    async with database.connection() as connection:
        end: datetime = await connection.fetchval("select expires_at from mailboxes where id = $1", box)
    await asyncio.gather(*(_write(desk, database, address, end, sent) for _ in range(WRITERS)))


async def _write(desk: Desk, database: db.Database, address: str, end: datetime, sent: Sent) -> None:
    late = 0
    while late < 2:
        mail, before = incoming(address), await now(database)
        assert (await desk.deliver(mail)).startswith("250 ")
        sent[mail.receipt_id] = (end, before, await now(database))
        late += before >= end


async def _sweep(database: db.Database) -> None:
    while True:
        async for _ in housekeeping.expire(database):
            pass
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def _swept(database: db.Database, *, is_swept: bool) -> AsyncIterator[None]:
    task = asyncio.create_task(_sweep(database)) if is_swept else None
    yield
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("is_swept", [False, True], ids=["clean-up off", "clean-up racing"])
@pytest.mark.parametrize("count", DELIVERIES)
async def test_the_database_s_clock_alone_says_whether_mail_came_in_time(
    desk: Desk, database: db.Database, account_id: UUID, count: int, is_swept: bool
) -> None:
    """With no look at the clock in `live`, `standing` and `store`, 220 of 300 were stored late; with 50 ms of grace in
    `store` alone, one was."""
    sent: Sent = {}

    async def boxes() -> None:
        for life in itertools.cycle(LIVES):
            if len(sent) >= count:
                return
            await _box(desk, database, account_id, life, sent)

    async with _swept(database, is_swept=is_swept), asyncio.TaskGroup() as group:
        for _ in range(BOXES):
            group.create_task(boxes())
    async with database.connection() as connection:
        found = await connection.fetch("select content_id from messages where account_id = $1", account_id)
        late = await connection.fetchval(STORED_LATE)
    stored = [row["content_id"] for row in found]
    assert len(stored) == len(set(stored))
    in_time = {id for id, (end, _, after) in sent.items() if after < end}
    too_late = {id for id, (end, before, _) in sent.items() if before >= end}
    assert late == 0
    assert too_late.isdisjoint(stored)
    assert in_time <= set(stored)
    assert in_time
    assert too_late
    print(f"{len(in_time)} before, {len(too_late)} after, {len(sent) - len(in_time) - len(too_late)} at the edge")  # noqa: T201
