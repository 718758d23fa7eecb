"""Reclaiming a million expired messages: what mail that comes in meanwhile feels, and whether the room comes back.

First a house takes mail as fast as its sender can, without anything to reclaim and then while a worker's reclaim goes
through all there is. Then the same room is filled, given up and reclaimed three times; what the database weighs after
the third time is compared with what it weighed after the first. Between the times a plain VACUUM does what autovacuum
would do, twice.
"""

from __future__ import annotations

import asyncio
import time

import asyncpg

from bench import client, report, tenants
from bench.report import Row
from bench.setting import Setting
from gateway.storage import db, housekeeping

NAME = "reclaim"
EXPIRED = 1_000_000
ROUND = 200_000  # messages of one filling
BOXES = 1_000
TAKING = 100
MAILS = 20_000  # of one measurement of the accept rate
RETENTION = 86_400.0
OVER = "now() - interval '3 days'"  # mailboxes ended then: longer ago than the retention
LONG_AGO = "now() - interval '9 days'"  # and their mail came then: longer ago than events are kept
EVENTS_KEPT = 604_800.0
TIMES = 3
P99_RATIO, SIZE_RATIO = 2.0, 1.3  # to reach


async def run(setting: Setting) -> list[Row]:
    return [*await _beside_mail(setting), await _in_cycles(setting)]


async def _fill(dsn: str, count: int, boxes: int, *, name: str) -> None:
    """An account with messages in mailboxes that are long over, as the sweep has marked them."""
    account_id = await tenants.account(dsn)
    await tenants.mailboxes(dsn, account_id, boxes, name=name, expires=OVER)
    await tenants.messages(dsn, account_id, count, boxes, name=name, came=LONG_AGO)
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("update mailboxes set is_active = false where account_id = $1", account_id)
        await connection.execute("vacuum analyze mailboxes")
    finally:
        await connection.close()


async def _beside_mail(setting: Setting) -> list[Row]:
    count = setting.scaled(EXPIRED, 20_000)
    async with setting.database() as dsn:
        taking = await tenants.account(dsn)
        await tenants.mailboxes(dsn, taking, TAKING, name="taking")
        await _fill(dsn, count, BOXES, name="old")
        database = db.Database(dsn)
        await database.open()
        try:
            async with setting.house(dsn) as home, client.running() as sender:
                await _waits(sender, home.smtp_port, MAILS // 10)  # warm
                quiet = await _waits(sender, home.smtp_port, setting.scaled(MAILS, MAILS // 10))
                reclaiming = asyncio.create_task(_reclaim(database))
                busy, rounds = [], 0
                while not reclaiming.done() or not rounds:
                    busy += await _waits(sender, home.smtp_port, setting.scaled(MAILS // 4, MAILS // 20))
                    rounds += 1
                took = await reclaiming
        finally:
            await database.close()
    before, during = report.quantile(quiet, 0.99), report.quantile(busy, 0.99)
    return [
        Row(
            what=f"slowest 250 in a hundred while {count:,} expired messages are reclaimed",
            ours=f"{during * 1000:.0f} ms",
            limit_name="without reclaim",
            limit=f"{before * 1000:.0f} ms",
            ratio=during / before,
            target=f"≤ {P99_RATIO}",
            met=during / before <= P99_RATIO,
            note=f"accepting as fast as it can; {len(busy):,} mails meanwhile",
        ),
        Row(
            what=f"reclaiming {count:,} messages meanwhile",
            ours=f"{took:.0f} s, {count / took:,.0f}/s",
            limit_name="",
            limit="",
            ratio=None,
            target="",
            met=None,
            note="with contents, words and what events told, in slices, each its own transaction",
        ),
    ]


async def _reclaim(database: db.Database) -> float:
    """Seconds that it took."""
    began = time.monotonic()
    await housekeeping.reclaim(database, RETENTION)
    return time.monotonic() - began


async def _waits(sender: client.Client, port: int, mails: int) -> list[float]:
    order = client.Order(port=port, recipients=tenants.addresses(TAKING, name="taking"), mails=mails, size=5_000)
    return (await sender.send(order)).waits()


async def _in_cycles(setting: Setting) -> Row:
    count = setting.scaled(ROUND, 5_000)
    sizes = []
    async with setting.database() as dsn:
        database = db.Database(dsn)
        await database.open()
        try:
            for number in range(TIMES):
                await _fill(dsn, count, BOXES, name=f"cycle{number}x")
                await housekeeping.reclaim(database, RETENTION)
                await housekeeping.forget_events(database, EVENTS_KEPT)
                sizes.append(await _size(dsn))
        finally:
            await database.close()
    return Row(
        what=f"database after {TIMES} times {count:,} messages, expired and reclaimed",
        ours=f"{sizes[-1] / 1e6:.0f} MB",
        limit_name="after the first time",
        limit=f"{sizes[0] / 1e6:.0f} MB",
        ratio=sizes[-1] / sizes[0],
        target=f"≤ {SIZE_RATIO}",
        met=sizes[-1] / sizes[0] <= SIZE_RATIO,
        note="plain VACUUM twice after each time, as autovacuum comes again and again",
    )


async def _size(dsn: str) -> int:
    connection = await asyncpg.connect(dsn, command_timeout=600)
    try:
        for _ in range(2):  # what the first one frees in B-trees the second one makes fit for use
            await connection.execute("vacuum")
        found: int = await connection.fetchval("select pg_database_size(current_database())")
        return found
    finally:
        await connection.close()
