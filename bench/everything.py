"""Durable acceptance with all that comes after the 250: words indexed, senders judged, quotas counted.

As `accept`, but the house has a worker, asks a name server about every sender, and is given time after each round to
read what came: neither the peer nor the next round pays for it. How far reading lay behind at the end of a round is
told, too.
"""

from __future__ import annotations

import asyncio
import statistics
import time

import asyncpg

from bench import accept, client, peer, report, tenants
from bench.report import Row
from bench.setting import Setting
from tests import nameserver

NAME = "everything"
MAILS = 6_000  # of one round
TARGET = 0.7
CATCH_UP_SECONDS = 600
ZONE: nameserver.Zone = {
    "example.com": {"TXT": ["v=spf1 ip4:127.0.0.1 -all"]},
    "_dmarc.example.com": {"TXT": ["v=DMARC1; p=none"]},
}


async def run(setting: Setting) -> list[Row]:
    async with setting.database() as dsn, nameserver.serving(ZONE) as names:
        account_id = await tenants.account(dsn)
        await tenants.mailboxes(dsn, account_id, accept.BOXES)
        settings = {"SENDER_AUTH": "true", "DNS_SERVERS": names.address}
        async with (
            setting.house(dsn, programs=("serve", "worker"), settings=settings) as home,
            peer.running() as port,
            client.running() as sender,
        ):
            return await _compare(setting, sender, dsn, home.smtp_port, port)


async def _compare(setting: Setting, sender: client.Client, dsn: str, ours: int, theirs: int) -> list[Row]:
    mails = setting.scaled(MAILS, 1_500)
    found: list[float] = []
    limits: list[float] = []
    behind: list[int] = []
    caught_up: list[float] = []
    connection = await asyncpg.connect(dsn)
    try:
        for port in (ours, theirs):
            await _rate(sender, port, mails // 10)  # warm
        await _caught_up(connection)
        for _ in range(setting.rounds(5)):
            limits.append(await _rate(sender, theirs, mails))
            found.append(await _rate(sender, ours, mails))
            behind.append(await _unread(connection))
            caught_up.append(await _caught_up(connection))
    finally:
        await connection.close()
    ratios = report.interval([one / other for one, other in zip(found, limits, strict=True)])
    return [
        Row(
            what="durable accept, 5 KB, 20 kept sessions, with a worker that indexes and judges all of it",
            ours=f"{report.interval(found).median:,.0f} mails/s",
            limit_name="stock aiosmtpd, stores nothing",
            limit=f"{report.interval(limits).median:,.0f} mails/s",
            ratio=ratios.median,
            target=f"≥ {TARGET}",
            met=ratios.median >= TARGET,
            note=f"median of {len(found)} rounds, ratio {ratios.low:.2f} … {ratios.high:.2f}",
        ),
        Row(
            what=f"words not yet in the index after {mails:,} mails at that rate",
            ours=f"{statistics.median(behind):,.0f} messages",
            limit_name="",
            limit="",
            ratio=None,
            target="",
            met=None,
            note=f"read within {statistics.median(caught_up):.1f} s more",
        ),
    ]


async def _rate(sender: client.Client, port: int, mails: int) -> float:
    return await accept.rate(sender, port, accept.TEXT, mails)


async def _unread(connection: asyncpg.Connection) -> int:
    left: int = await connection.fetchval(
        "select (select count(*) from messages) - (select count(*) from message_texts)"
    )
    return left


async def _caught_up(connection: asyncpg.Connection) -> float:
    """Seconds until everything is in the index and judged."""
    began = time.monotonic()
    while await _unread(connection) or await connection.fetchval("select count(*) from messages where auth = '{}'"):
        if time.monotonic() - began > CATCH_UP_SECONDS:
            raise RuntimeError("reading does not catch up")
        await asyncio.sleep(0.1)
    return time.monotonic() - began
