"""The expiry sweep over a million live mailboxes: what it costs with nothing to do, and with 100,000 at once.

While it marks, mail goes on coming in at a steady pace: how long the slowest delivery waits for its 250, with the sweep
and without it.
"""

from __future__ import annotations

import asyncio
import statistics
import time

import asyncpg

from bench import client, tenants
from bench.report import Row
from bench.setting import Setting
from gateway.storage import db, housekeeping

NAME = "sweep"
ACCOUNTS = 20
LIVE = 1_000_000
EXPIRED = 100_000
IDLE_SECONDS, FULL_SECONDS, WAIT_SECONDS = 0.020, 5.0, 0.050  # to reach
PER_SECOND = 50
EXPIRE = """update mailboxes set expires_at = now() - interval '1 second'
where (account_id, id) in (select account_id, id from mailboxes where address like 'old%')"""


async def run(setting: Setting) -> list[Row]:
    live, expired = setting.scaled(LIVE, 50_000), setting.scaled(EXPIRED, 5_000)
    async with setting.database() as dsn:
        taking = await tenants.account(dsn)
        await tenants.mailboxes(dsn, taking, 20, name="taking")
        for number in range(ACCOUNTS):
            account_id = await tenants.account(dsn)
            await tenants.mailboxes(dsn, account_id, live // ACCOUNTS, name=f"live{number}x")
            await tenants.mailboxes(dsn, account_id, expired // ACCOUNTS, name=f"old{number}x")
        database = db.Database(dsn)
        await database.open()
        try:
            return [await _idle(setting, database), *await _full(setting, dsn, database, expired)]
        finally:
            await database.close()


async def _sweep(database: db.Database) -> float:
    """Seconds of one whole sweep."""
    begun = time.monotonic()
    async for _ in housekeeping.expire(database):
        pass
    return time.monotonic() - begun


async def _idle(setting: Setting, database: db.Database) -> Row:
    seconds = [await _sweep(database) for _ in range(setting.rounds(50))]
    median = statistics.median(seconds)
    return Row(
        what="expiry sweep, 1,000,000 live mailboxes, none expired" if not setting.quick else "expiry sweep, idle",
        ours=f"{median * 1000:.2f} ms",
        limit_name="",
        limit="",
        ratio=None,
        target=f"≤ {IDLE_SECONDS * 1000:.0f} ms",
        met=median <= IDLE_SECONDS,
        note=f"median of {len(seconds)}, slowest {max(seconds) * 1000:.1f} ms",
    )


async def _full(setting: Setting, dsn: str, database: db.Database, expired: int) -> list[Row]:
    async with setting.house(dsn) as home, client.running() as sender:
        quiet = await _slowest(sender, home.smtp_port, seconds=6)
        connection = await asyncpg.connect(dsn)
        await connection.execute(EXPIRE)
        await connection.execute("vacuum analyze mailboxes")
        await connection.execute("checkpoint")
        await connection.close()
        deliveries = asyncio.create_task(_slowest(sender, home.smtp_port, seconds=6))
        await asyncio.sleep(1)
        took = await _sweep(database)
        swept = await deliveries
    return [
        Row(
            what=f"expiry sweep, {expired:,} expired at once",
            ours=f"{took:.2f} s",
            limit_name="",
            limit="",
            ratio=None,
            target=f"≤ {FULL_SECONDS:.0f} s",
            met=took <= FULL_SECONDS,
            note="with their events, in slices, each its own transaction",
        ),
        Row(
            what=f"slowest live delivery meanwhile, at {PER_SECOND}/s",
            ours=f"{swept * 1000:.0f} ms",
            limit_name="without the sweep",
            limit=f"{quiet * 1000:.0f} ms",
            ratio=swept / quiet,
            target=f"≤ {WAIT_SECONDS * 1000:.0f} ms longer",
            met=swept - quiet <= WAIT_SECONDS,
            note="from the dot to the 250",
        ),
    ]


async def _slowest(sender: client.Client, port: int, *, seconds: int) -> float:
    """The longest wait for a 250 at a steady pace."""
    order = client.Order(
        port=port,
        recipients=tenants.addresses(20, name="taking"),
        mails=PER_SECOND * seconds,
        size=5_000,
        per_second=PER_SECOND,
    )
    return max((await sender.send(order)).waits())
