"""Queued e-mails delivered to an SMTP relay by one worker, from the first arrival to the last: as they are, and signed.

The limit is a bare aiosmtplib loop: as many kept connections, the same mail, nothing read from a database, nothing
signed and nothing written down. All send to the same sink, tests.outbound.sink in a process of its own. What is queued
is queued by the API before the worker starts, and every delivery must be `sent` in the end. What is signed is signed
twice, by RSA-2048 and by Ed25519, as mail from any verified domain is.
"""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Final

import aiosmtplib
import asyncpg
import uvloop

from bench import http_client, sends, setting
from bench.report import Row
from tests import house, nameserver
from tests.outbound import sink

NAME = "delivered"
SIGNED: Final = "signed.example"
CONNECTIONS: Final = 50
EMAILS: Final = 3000
ROUNDS: Final = 5
PATIENCE: Final = 120.0  # seconds until a round is given up


async def run(where: setting.Setting) -> list[Row]:
    """Interleaved rounds: the bare loop, then a worker with mail of each sender."""
    emails = where.scaled(EMAILS, 500)
    rates: dict[str, list[float]] = defaultdict(list)
    zone: nameserver.Zone = {}
    async with (
        where.database() as dsn,
        _relay() as relay,
        http_client.started() as client,
        nameserver.serving(zone) as names,
    ):
        settings = {
            **sends.SETTINGS,
            "OUTBOUND": f"smtp://127.0.0.1:{relay.port}?tls=none",
            "OUTBOUND_CONCURRENCY": str(CONNECTIONS),
            "DNS_SERVERS": names.address,
        }
        async with where.house(dsn, settings=settings) as home:
            signing = await home.tenant()
            await _own(home, signing, zone)
            for cycle in range(1 + where.rounds(ROUNDS)):
                plain = await home.tenant()
                for sender, tenant in (("sender.example", plain), (SIGNED, signing)):
                    since = await _now(dsn)
                    await _queue(home, client, tenant, emails, sender)
                    if tenant is plain:
                        raw = await _raw(dsn, tenant)
                        bare = await relay.rate(_bare_loop(relay.port, raw, emails), emails)
                    rate = await relay.rate(_worker(home), emails)
                    await _check(dsn, tenant, emails, since)
                    if cycle:  # the first one warms up
                        rates[sender].append(rate)
                if cycle:
                    rates["bare"].append(bare)
    return [
        _row("", rates["sender.example"], rates["bare"], emails, 0.45),
        _row(", signed by RSA-2048 and Ed25519", rates[SIGNED], rates["bare"], emails, 0.3),
    ]


async def _own(home: house.House, tenant: house.Tenant, zone: nameserver.Zone) -> None:
    """The tenant's own domain, verified: from here on its mail is signed."""
    async with home.client(tenant.key) as client:
        shown = (await client.post("/domains", json={"name": SIGNED})).json()
        nameserver.publish(zone, shown["records"])
        shown = (await client.post(f"/domains/{SIGNED}/verify")).json()
    assert sorted(key["status"] for key in shown["dkim"]) == ["active", "active"], shown


async def _now(dsn: str) -> datetime:
    connection = await asyncpg.connect(dsn)
    try:
        now: datetime = await connection.fetchval("select now()")
    finally:
        await connection.close()
    return now


class Relay:
    """The sink's process."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port

    async def rate(self, sending: AbstractAsyncContextManager[None], emails: int) -> float:
        """Arrivals a second while `sending` brings so many."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"%d\n" % emails)
        async with sending, asyncio.timeout(PATIENCE):
            first, last = json.loads(await self._process.stdout.readline())
        return (emails - 1) / float(last - first)


@asynccontextmanager
async def _relay() -> AsyncIterator[Relay]:
    async with setting.program("bench.delivered", "sink") as process:
        assert process.stdout is not None
        yield Relay(process, int(await process.stdout.readline()))


@asynccontextmanager
async def _worker(home: house.House) -> AsyncIterator[None]:
    """A worker, until what is queued has arrived; it ends by itself, so that it has written down what it did."""
    home.start("worker")
    yield
    await asyncio.to_thread(home.stop, "worker")


@asynccontextmanager
async def _bare_loop(port: int, raw: bytes, emails: int) -> AsyncIterator[None]:
    async with setting.program("bench.delivered", "bare", str(port), str(emails)) as process:
        assert process.stdin is not None
        process.stdin.write(base64.b64encode(raw) + b"\n")
        yield
        await process.wait()


async def _queue(home: house.House, client: http_client.Load, tenant: house.Tenant, emails: int, sender: str) -> None:
    per_batch = sends.BATCH
    author = {"from": f"Example <no-reply@{sender}>"}
    batches = [
        http_client.post(
            "/v1/emails/batch", tenant.key, [sends.email(first + number) | author for number in range(per_batch)]
        )
        for first in range(0, emails, per_batch)
    ]
    result = await client.round(home.http_port, batches, connections=4)
    assert result.count(202) * per_batch == emails, result.statuses


async def _raw(dsn: str, tenant: house.Tenant) -> bytes:
    """One of the queued, as composed."""
    connection = await asyncpg.connect(dsn)
    try:
        raw: bytes = await connection.fetchval(
            "select raw from contents where account_id = $1 limit 1", tenant.account_id
        )
    finally:
        await connection.close()
    return raw


async def _check(dsn: str, tenant: house.Tenant, emails: int, since: datetime) -> None:
    """Every delivery since then was made at the first attempt, and the log says so."""
    connection = await asyncpg.connect(dsn)
    try:
        sent = await connection.fetchval(
            "select count(*) from deliveries"
            " where account_id = $1 and status = 'sent' and attempts = 1 and created_at >= $2",
            tenant.account_id,
            since,
        )
        told = await connection.fetchval(
            "select count(*) from events where account_id = $1 and type = 'email.sent' and created_at >= $2",
            tenant.account_id,
            since,
        )
    finally:
        await connection.close()
    if not sent == told == emails:
        raise RuntimeError(f"{emails} e-mails arrived, {sent} are sent, {told} events say so")


def _row(how: str, ours: list[float], bare: list[float], emails: int, target: float) -> Row:
    rate, limit = statistics.median(ours), statistics.median(bare)
    return Row(
        what=f"{emails:,} queued e-mails delivered by one worker{how}, {CONNECTIONS} connections",
        ours=f"{rate:,.0f} e-mails/s",
        limit_name="bare aiosmtplib loop, same connections, same sink",
        limit=f"{limit:,.0f}/s",
        ratio=rate / limit,
        target=f"≥ {target}",
        met=rate >= target * limit,
        note="from the first arrival to the last; every attempt, verdict and event is stored",
    )


# The other processes


async def _serve() -> None:
    """The sink. Each line that comes is a number of mails; it is answered with when the first and the last arrived."""
    async with sink.Sink(keep=False) as server:
        print(server.port, flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            before, wanted = server.count, int(line)
            await server.until(lambda: server.count > before)  # noqa: B023 - awaited within the round
            first = time.monotonic()
            await server.until(lambda: server.count >= before + wanted)  # noqa: B023 - likewise
            print(json.dumps([first, time.monotonic()]), flush=True)


async def _send_bare(port: int, emails: int) -> None:
    raw = base64.b64decode(sys.stdin.readline())
    clients = [
        aiosmtplib.SMTP(hostname="127.0.0.1", port=port, local_hostname="bench.example", start_tls=False)
        for _ in range(CONNECTIONS)
    ]
    await asyncio.gather(*(client.connect() for client in clients))
    numbers = iter(range(emails))

    async def send(client: aiosmtplib.SMTP) -> None:
        for number in numbers:
            await client.sendmail("no-reply@sender.example", [f"user{number}@recipient.example"], raw)

    await asyncio.gather(*map(send, clients))


if __name__ == "__main__":
    uvloop.run(_serve() if sys.argv[1] == "sink" else _send_bare(int(sys.argv[2]), int(sys.argv[3])))
