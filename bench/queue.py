"""The queue of one account with 1,000 to 1,000,000 recipients waiting: what it costs to claim 100 of them.

As a worker does it: claimed, all that is to be sent read along, and settled as `sent` before the next claim, so that
what is claimed leaves the queue; as many come anew. The claim alone is timed. The limit is the run's smallest queue.
"""

from __future__ import annotations

import statistics
import time
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import asyncpg
from uuid_utils.compat import uuid7

from bench import tenants
from bench.report import Row
from bench.setting import Setting
from gateway.storage import db, emails, events

NAME = "queue"
SIZES: Final = (1_000, 100_000, 1_000_000)
QUICK: Final = (1_000, 20_000)
CLAIM: Final = 100
CLAIMS: Final = 50  # of each size, in turns
TO_REACH: Final = 0.005  # seconds
BYTES: Final = 400  # of each mail
# One recipient each, due in the order in which they came; `%s` are ids in that order, counted from $2
QUEUED: Final = """with wished as (
  select n, %s as email_id, %s as id from generate_series($2::bigint, $2::bigint + $3::integer - 1) n
), added as (
  insert into emails
    (account_id, id, from_address, mail_from, recipients, subject, message_id, size, source, created_at)
  select $1, email_id, 'a@sender.example', 'a@sender.example', '{}', 'Hello', email_id || '@sender.example', $4,
    'api', now()
  from wished
), kept as (
  insert into contents (account_id, id, raw, size)
  select $1, email_id, convert_to(rpad('Subject: Hello', $4, 'x'), 'UTF8'), $4 from wished
)
insert into deliveries
  (account_id, id, email_id, kind, address, domain, status, due_at, created_at, updated_at)
select $1, id, email_id, 'to', 'user' || n || '@recipient.example', 'recipient.example', 'queued',
  now() - interval '1 hour' + (n - $2) * interval '1 ms', now(), now() from wished"""


async def run(setting: Setting) -> list[Row]:
    """All queues stand in one database; they are claimed from by turns."""
    sizes = QUICK if setting.quick else SIZES
    async with setting.database() as dsn:
        accounts = {size: await tenants.account(dsn) for size in sizes}
        connection = await asyncpg.connect(dsn)
        for size, account_id in accounts.items():
            await connection.execute(_queued(account_id), account_id, 1, size, BYTES)
        await connection.execute("vacuum analyze")
        database = db.Database(dsn)
        await database.open()
        try:
            seconds: dict[int, list[float]] = {size: [] for size in sizes}
            for turn in range(setting.rounds(CLAIMS)):
                for size, account_id in accounts.items():
                    seconds[size].append(await _claim(database, account_id))
                    await connection.execute(_queued(account_id), account_id, size + turn * CLAIM + 1, CLAIM, BYTES)
        finally:
            await database.close()
            await connection.close()
    return [_row(size, times, seconds[sizes[0]]) for size, times in seconds.items()]


def _queued(account_id: UUID) -> str:
    return QUEUED % (tenants.id_of("n", f"{account_id}mail"), tenants.id_of("n", f"{account_id}delivery"))


async def _claim(database: db.Database, account_id: UUID) -> float:
    lease_id, begun = uuid7(), time.perf_counter()
    async with database.connection() as connection:
        claimed = await emails.claim(connection, account_id, lease_id=lease_id, lease_seconds=60, limit=CLAIM)
    took = time.perf_counter() - begun
    assert len(claimed) == CLAIM
    async with database.transaction() as connection:
        await emails.settle(connection, [_sent(one) for one in claimed])
    return took


def _sent(claimed: emails.Claimed) -> emails.Settled:
    now = datetime.now(UTC)
    return emails.Settled(
        attempt_id=uuid7(),
        account_id=claimed.account_id,
        delivery_id=claimed.id,
        email_id=claimed.email_id,
        lease_id=claimed.lease_id,
        number=claimed.number,
        status="sent",
        again_in=None,
        provider="smtp:relay.example:25",
        provider_id="A1",
        started_at=now,
        finished_at=now,
        outcome="sent",
        code=250,
        reply="250 2.0.0 Ok: queued as A1",
        transcript="[]",
        recipient=claimed.address,
        event=events.NewEvent(type="email.sent", email_id=claimed.email_id),
    )


def _row(size: int, times: list[float], least: list[float]) -> Row:
    median, smallest = statistics.median(times), statistics.median(least)
    return Row(
        what=f"{CLAIM} recipients claimed where {size:,} wait in the account",
        ours=f"{median * 1000:.2f} ms",
        limit_name="the smallest queue",
        limit=f"{smallest * 1000:.2f} ms",
        ratio=median / smallest,
        target=f"≤ {TO_REACH * 1000:.0f} ms",
        met=median <= TO_REACH,
        note=f"median of {len(times)}, slowest {max(times) * 1000:.1f} ms; mails of {BYTES:,} bytes read along",
    )
