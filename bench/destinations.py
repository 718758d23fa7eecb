"""Mail for one domain beside as much for two that are dead: one takes connections and never answers, one refuses them.

The limit is the same mail without the dead ones, sent by the same worker over the same MX look-ups to the same host.
Dead and living recipients stand in turns in one account's queue, so that every claim meets both. Afterwards all of the
dead ones' recipients must wait still, nearly all of them untried; claims beside them are timed, each rolled back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

import asyncpg
import uvloop
from uuid_utils.compat import uuid7

from bench import http_client, sends, setting
from bench.report import Row, quantile
from gateway.storage import db, emails
from tests import databases, house, nameserver
from tests.outbound import sink

NAME = "destinations"
EMAILS: Final = 100_000  # for the living domain; and as many for the dead ones
ROUNDS: Final = 3
PATIENCE: Final = 3600.0  # seconds until a round is given up
LIVE: Final = "live.example"
DEAD: Final = ("hanging.example", "refusing.example")
TRIED_MOST: Final = 100  # recipients of the dead ones; the others are never tried
CLAIMED: Final = 100  # at once
CLAIMS: Final = 50
SETTINGS: Final = {**sends.SETTINGS, "MAIL_DOMAINS": "postroom.test", "OUTBOUND_TIMEOUT_SECONDS": "10"}


async def run(where: setting.Setting) -> list[Row]:
    """Interleaved rounds: the living alone, then beside the dead."""
    count = where.scaled(EMAILS, 1000)
    alone: list[float] = []
    beside: list[float] = []
    async with (
        where.database() as dsn,
        _hosts() as hosts,
        http_client.started() as client,
        where.house(dsn, settings=SETTINGS | hosts.settings) as home,
    ):
        for cycle in range(1 + where.rounds(ROUNDS)):
            pair = [await _round(home, hosts, client, count, dead) for dead in ((), DEAD)]
            if cycle:  # the first one warms up
                alone.append(pair[0])
                beside.append(pair[1])
        claims = await _claims(dsn)
    return [_row(alone, beside, count), _claim_row(*claims, count)]


class Hosts:
    """The process of the name server and the domains' hosts."""

    def __init__(self, process: asyncio.subprocess.Process, told: dict[str, Any]) -> None:
        self._process = process
        self.settings = {
            "OUTBOUND": f"mx://?hostname=mail.sender.invalid&allow_private=1&port={told['port']}",
            "DNS_SERVERS": told["names"],
        }

    async def rate(self, count: int, worker: contextlib.AbstractAsyncContextManager[None]) -> float:
        """Arrivals a second at the living host while the worker brings so many."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"%d\n" % count)
        async with worker, asyncio.timeout(PATIENCE):
            first, last = json.loads(await self._process.stdout.readline())
        return (count - 1) / float(last - first)


@asynccontextmanager
async def _hosts() -> AsyncIterator[Hosts]:
    async with setting.program("bench.destinations") as process:
        assert process.stdout is not None
        yield Hosts(process, json.loads(await process.stdout.readline()))


async def _round(home: house.House, hosts: Hosts, client: http_client.Load, count: int, dead: Sequence[str]) -> float:
    await _forget(home.dsn)
    tenant = await home.tenant()
    await _queue(home, client, tenant, _recipients(count, dead))
    rate = await hosts.rate(count, _worker(home))
    await _check(home.dsn, tenant, count, count if dead else 0)
    return rate


def _recipients(count: int, dead: Sequence[str]) -> list[str]:
    """In the order in which they are queued: one of the living, one of the dead, and so on."""
    found: list[str] = []
    for number in range(count):
        found.append(f"user{number}@{LIVE}")
        if dead:
            found.append(f"user{number}@{dead[number % len(dead)]}")
    return found


@asynccontextmanager
async def _worker(home: house.House) -> AsyncIterator[None]:
    home.start("worker")
    yield
    await asyncio.to_thread(home.stop, "worker")


async def _queue(home: house.House, client: http_client.Load, tenant: house.Tenant, recipients: Sequence[str]) -> None:
    size = sends.BATCH
    batches = [
        http_client.post(
            "/v1/emails/batch",
            tenant.key,
            [sends.email(number) | {"to": to} for number, to in enumerate(recipients[first : first + size])],
        )
        for first in range(0, len(recipients), size)
    ]
    result = await client.round(home.http_port, batches, connections=4)  # the order is kept well enough
    assert result.count(202) == len(batches), result.statuses


async def _forget(dsn: str) -> None:
    """Recipients that wait since the round before wait no more."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("update deliveries set status = 'canceled', due_at = null where due_at is not null")
        await connection.execute("vacuum analyze deliveries", timeout=600)
    finally:
        await connection.close()


async def _check(dsn: str, tenant: house.Tenant, living: int, dead: int) -> None:
    """The living's were delivered at the first attempt; the dead ones' wait, and hardly any was tried."""
    connection = await asyncpg.connect(dsn)
    try:
        found = await connection.fetchrow(
            """select count(*) filter (where domain = $2 and status = 'delivered' and attempts = 1) as delivered,
              count(*) filter (where domain <> $2 and status in ('queued', 'deferred', 'sending')
                and due_at is not null) as waiting,
              count(*) filter (where domain <> $2 and attempts > 0) as tried
            from deliveries where account_id = $1""",
            tenant.account_id,
            LIVE,
        )
    finally:
        await connection.close()
    if found["delivered"] != living or found["waiting"] != dead or found["tried"] > TRIED_MOST:
        raise RuntimeError(f"{living} living and {dead} dead recipients ended as {dict(found)}")


async def _claims(dsn: str) -> tuple[list[float], list[float]]:
    """Milliseconds that claims take in the account whose dead recipients wait, and in one where nobody waits."""
    async with databases.opened(dsn) as database, database.connection() as connection:
        query = "select account_id from deliveries group by account_id order by count(due_at) desc"
        accounts = [row["account_id"] for row in await connection.fetch(query)]
        accounts = [accounts[0], accounts[-1]]
        for account_id in accounts:
            await connection.execute(
                """update deliveries set due_at = now() where account_id = $1
                and id in (select id from deliveries where account_id = $1 and domain = $2 limit $3)""",
                account_id,
                LIVE,
                10 * CLAIMED,
            )
        pairs = [[await _claim(connection, account_id) for account_id in accounts] for _ in range(CLAIMS)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


async def _claim(connection: db.Connection, account_id: UUID) -> float:
    transaction = connection.transaction()
    await transaction.start()
    begun = time.perf_counter()
    got = await emails.claim(connection, account_id, lease_id=uuid7(), lease_seconds=60, limit=CLAIMED)
    took = time.perf_counter() - begun
    await transaction.rollback()
    assert len(got) == CLAIMED
    return 1000 * took


def _row(alone: list[float], beside: list[float], count: int) -> Row:
    ratio = statistics.median(ours / limit for ours, limit in zip(beside, alone, strict=True))
    return Row(
        what=f"{count:,} e-mails for a living domain among {count:,} for two dead ones, one worker",
        ours=f"{statistics.median(beside):,.0f} e-mails/s",
        limit_name="the same without the dead",
        limit=f"{statistics.median(alone):,.0f}/s",
        ratio=ratio,
        target="≥ 0.9",
        met=ratio >= 0.9,
        note="median of the pairs' ratios; nobody of the dead ones' is lost, at most 100 were tried",
    )


def _claim_row(beside: list[float], alone: list[float], count: int) -> Row:
    ratio = statistics.median(alone) / statistics.median(beside)
    return Row(
        what=f"claim of {CLAIMED} in an account where {count:,} wait for dead destinations",
        ours=f"{statistics.median(beside):.1f} ms (p95 {quantile(beside, 0.95):.1f} ms)",
        limit_name="where nobody waits",
        limit=f"{statistics.median(alone):.1f} ms (p95 {quantile(alone, 0.95):.1f} ms)",
        ratio=ratio,
        target="≥ 0.8",
        met=ratio >= 0.8,
        note="in turns; the mails themselves are read in it",
    )


# The other process


async def _serve() -> None:
    """Each line that comes is a number of mails; it is answered with when the first and the last arrived."""
    hosts = (LIVE, *DEAD)
    zone: nameserver.Zone = {host: {"A": [f"127.0.0.{number}"]} for number, host in enumerate(hosts, 1)}
    async with (
        sink.Sink(keep=False) as live,
        sink.Sink(host="127.0.0.2", port=live.port, keep=False) as hanging,
        nameserver.serving(zone) as names,
    ):
        hanging.always("greeting", sink.stall())
        print(json.dumps({"port": live.port, "names": names.address}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            before, wanted = live.count, int(line)
            await live.until(lambda: live.count > before)  # noqa: B023 - awaited within the round
            first = time.monotonic()
            await live.until(lambda: live.count >= before + wanted)  # noqa: B023 - likewise
            print(json.dumps([first, time.monotonic()]), flush=True)


if __name__ == "__main__":
    uvloop.run(_serve())
