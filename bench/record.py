"""The track record: what counting an event costs, how fast 30 days of it are asked, what sampling the queue costs.

Events are counted in this process, by the reader that workers run, without its rests; beside it, the same log is read
and nothing else. The 30 days are made by SQL: each hour as full as that of an account that writes from two domains,
with two providers and five tags, to more domains than an hour tells apart.
"""

from __future__ import annotations

import statistics as averages
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg

from bench import report, tenants
from bench.report import Row
from bench.setting import Setting
from gateway.outbound.record import Record
from gateway.storage import db, events, statistics
from gateway.storage.statistics import TOTAL, Wanted

NAME = "record"
EMAILS = 10_000  # each accepted, sent, every tenth put off before
TRICKLE = 100  # events that come one by one
DAYS = 30
WAITING = 200_000
QUERY_SECONDS = 0.5  # to reach

MAIL: Final = """
insert into emails (account_id, id, from_address, mail_from, recipients, subject, message_id, tags, size, source,
  created_at)
select $1, gen_random_uuid(), 'a@s' || n % 2 || '.example', '', '{}', '', '',
  json_build_array(json_build_object('name', 'kind', 'value', 'k' || n % 5)), 1, 'api', now() - interval '1 second'
from generate_series(1, $2) n"""
RECIPIENTS: Final = """
insert into deliveries (account_id, id, email_id, kind, address, domain, status, due_at, created_at, updated_at)
select $1, gen_random_uuid(), e.id, 'to', 'x@d' || n % 60 || '.example', 'd' || n % 60 || '.example',
  cast($2 as delivery_status), case $2 when 'queued' then now() - make_interval(secs => n) end, now(), now()
from (select id, row_number() over () as n from emails where account_id = $1) e"""
LOG: Final = """
with told as (
  select e.id, u.type, u.data, row_number() over (order by e.created_at, e.id, u.n) as seq
  from (select id, created_at, row_number() over () as r from emails where account_id = $1) e
  join deliveries d on d.account_id = $1 and d.email_id = e.id
  cross join lateral (values
    (1, 'email.queued', json_build_object('from', 'a@s.example')),
    (2, 'email.deferred', json_build_object('recipient', d.address, 'provider', 'mx')),
    (3, 'email.sent', json_build_object('recipient', d.address, 'provider', 'mx'))) u (n, type, data)
  where u.n <> 2 or e.r % 10 = 0
), written as (
  insert into events (account_id, seq, id, type, email_id, data, created_at)
  select $1, seq, gen_random_uuid(), type, id, data, now() from told returning seq
) update event_heads set last_seq = (select max(seq) from written) where account_id = $1"""
MONTH: Final = """
insert into delivery_statistics
select $1, h.hour, k.tag, k.sender, k.recipient, k.provider, case k.provider when '' then 20 else 0 end,
  c.n, c.n / 2, c.n / 5, c.n / 20, 0, 0, 0, 0, 0, 0, c.n, 0, 6,
  case when c.n > 0 then '{3,4,5,3,2,1,1,1}'::int[] else '{}' end, $4
from generate_series($2::timestamptz, $3::timestamptz - interval '1 hour',
  make_interval(hours => case when $4 then 24 else 1 end)) h (hour)
cross join (
  select '' as tag, 's' || s || '.example' as sender,
    case d when 0 then '' else 'd' || d || '.example' end as recipient, p as provider
  from generate_series(1, 2) s, generate_series(0, 50) d, unnest('{"",mx,smtp:relay}'::text[]) p
  union all
  select '~', '', '', p from unnest('{"",mx,smtp:relay}'::text[]) p
  union all
  select 'kind:k' || t, 's' || s || '.example', '', p
  from generate_series(1, 5) t, generate_series(1, 2) s, unnest('{"",mx,smtp:relay}'::text[]) p) k
cross join lateral (select case k.provider when '' then 0 else 20 end as n) c"""
QUESTIONS: Final = {
    "in all": ("total", "none", TOTAL),
    "by day": ("day", "none", TOTAL),
    "by hour": ("hour", "none", TOTAL),
    "by day and provider": ("day", "provider", TOTAL),
    "in all, by recipient domain": ("total", "recipient_domain", TOTAL),
    "by day and tag": ("day", "tag", None),
}


async def run(setting: Setting) -> list[Row]:
    async with setting.database() as dsn:
        database = db.Database(dsn, pool_size=2)
        await database.open()
        try:
            return [
                *await _counting(setting, dsn, database),
                *await _asking(setting, dsn, database),
                await _sampling(setting, dsn, database),
            ]
        finally:
            await database.close()


async def _no_rest(worked: float) -> None:
    """Nobody else is there."""


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    began = time.monotonic()
    await work()
    return time.monotonic() - began


# Counting


async def _counting(setting: Setting, dsn: str, database: db.Database) -> list[Row]:
    account_id = await tenants.account(dsn)
    connection = await asyncpg.connect(dsn)
    await connection.execute(MAIL, account_id, setting.scaled(EMAILS, 1_000))
    await connection.execute(RECIPIENTS, account_id, "sent")
    await connection.execute(LOG, account_id)
    await connection.execute("analyze")
    count = await connection.fetchval("select last_seq from event_heads where account_id = $1", account_id)
    record = Record(database, rest=_no_rest, saw=lambda account_id, head: None)
    reading = await _timed(lambda: _read(database, account_id))
    counting = await _timed(lambda: record.drain(account_id))
    singly = [await _one(connection, record, account_id) for _ in range(setting.scaled(TRICKLE, 10))]
    await connection.close()
    return [
        Row(
            what=f"counting {count:,} events in slices of 500",
            ours=f"{counting / count * 1e6:.0f} µs an event",
            limit_name="reading the same log",
            limit=f"{reading / count * 1e6:.0f} µs an event",
            ratio=reading / counting,
            target="",
            met=None,
            note=f"{count / counting:,.0f} events/s",
        ),
        Row(
            what="counting one event that comes alone, into a full hour",
            ours=f"{averages.median(singly) * 1000:.1f} ms",
            limit_name="",
            limit="",
            ratio=None,
            target="",
            met=None,
            note=f"median of {len(singly)}, slowest {max(singly) * 1000:.1f} ms; at most once a second and account",
        ),
    ]


async def _read(database: db.Database, account_id: UUID) -> None:
    after = 0
    while True:
        async with database.connection() as connection:
            page = await events.after(connection, account_id, after, 500)
        if not page:
            return
        after = page[-1].seq


async def _one(connection: asyncpg.Connection, record: Record, account_id: UUID) -> float:
    email = await connection.fetchval("select id from emails where account_id = $1 limit 1", account_id)
    data = events.encode({"recipient": "x@d1.example", "provider": "mx"})
    async with connection.transaction():
        await events.append(connection, account_id, [events.NewEvent(type="email.opened", email_id=email, data=data)])
    return await _timed(lambda: record.drain(account_id))


# Asking


async def _asking(setting: Setting, dsn: str, database: db.Database) -> list[Row]:
    until = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    since = until - timedelta(days=DAYS)
    connection = await asyncpg.connect(dsn)
    accounts = [await tenants.account(dsn) for _ in range(setting.scaled(3, 1))]
    for account_id in accounts:
        for is_day in (False, True):
            begins = since.replace(hour=0) if is_day else since
            await connection.execute(MONTH, account_id, begins, until, is_day)
    await connection.execute("vacuum analyze delivery_statistics")
    count = await connection.fetchval("select count(*) from delivery_statistics where account_id = $1", accounts[0])
    await connection.close()
    found = []
    for what, (interval, group_by, tag) in QUESTIONS.items():
        wanted = Wanted(since=since, until=until, interval=interval, group_by=group_by, tag=tag)
        seconds = [await _timed(lambda: _ask(database, accounts[0], wanted)) for _ in range(setting.rounds(10))]  # noqa: B023 - awaited here
        found.append(_answered(f"{DAYS} days of statistics, {count:,} rows: {what}", seconds))
    return found


async def _ask(database: db.Database, account_id: UUID, wanted: Wanted) -> None:
    async with database.connection() as connection:
        await statistics.coverage(connection, account_id)
        await statistics.sums(connection, account_id, wanted, limit=51)


def _answered(what: str, seconds: list[float]) -> Row:
    slowest = report.quantile(seconds, 0.99)
    return Row(
        what=what,
        ours=f"p50 {averages.median(seconds) * 1000:.0f}, p99 {slowest * 1000:.0f} ms",
        limit_name="",
        limit="",
        ratio=None,
        target=f"p99 ≤ {QUERY_SECONDS * 1000:.0f} ms",
        met=slowest <= QUERY_SECONDS,
    )


# Sampling


async def _sampling(setting: Setting, dsn: str, database: db.Database) -> Row:
    account_id = await tenants.account(dsn)
    count = setting.scaled(WAITING, 5_000)
    connection = await asyncpg.connect(dsn)
    await connection.execute(MAIL, account_id, count)
    await connection.execute(RECIPIENTS, account_id, "queued")
    await connection.execute("vacuum analyze deliveries")
    await connection.close()
    seconds = [await _timed(lambda: _sample(database)) for _ in range(setting.rounds(10))]
    return Row(
        what=f"sampling a queue of {count:,} recipients for /metrics",
        ours=f"{averages.median(seconds) * 1000:.0f} ms",
        limit_name="",
        limit="",
        ratio=None,
        target="",
        met=None,
        note=f"slowest of {len(seconds)}: {max(seconds) * 1000:.0f} ms; at most once in 5 s",
    )


async def _sample(database: db.Database) -> None:
    async with database.connection() as connection:
        await statistics.queue(connection, 100_000)
        await statistics.oldest_due(connection)
