"""Arrival: from the last byte of DATA to the WebSocket's frame, at 100 mails a second.

Beside it, what cannot be less in the same run: one commit of such a mail and one round trip to Redis. Once the stream
hangs on the process that takes the mail, once on another one, which hears of it through Redis.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence

import asyncpg
from uuid_utils.compat import uuid7
from websockets.asyncio.client import connect

from bench import client, report, tenants
from bench.report import Row
from bench.setting import Setting
from gateway.notify import nudges
from tests import house

NAME = "arrival"
BOXES = 50
PER_SECOND = 100
MAILS = 3_000
SIZE = 5_000
P50, P99 = 0.005, 0.025  # seconds, to reach


async def run(setting: Setting) -> list[Row]:
    same_channel = {"REDIS_NAMESPACE": "bench-arrival"}
    async with setting.database() as dsn:
        account_id = await tenants.account(dsn)
        await tenants.mailboxes(dsn, account_id, BOXES)
        async with (
            setting.house(dsn, settings=same_channel) as taking,
            setting.house(dsn, settings=same_channel) as telling,
            client.running() as sender,
        ):
            key = (await taking.tenant(account_id=account_id)).key
            floor = await _floor(dsn, setting.redis_url)
            rows = []
            for what, home in (("same process", taking), ("another process, through Redis", telling)):
                seconds = await _measure(setting, sender, taking.smtp_port, home, key)
                rows.append(_row(what, seconds, floor))
            return rows


async def _measure(setting: Setting, sender: client.Client, smtp_port: int, home: house.House, key: str) -> list[float]:
    """Seconds from each dot to its frame."""
    mails = setting.scaled(MAILS, 500)
    url = f"ws://127.0.0.1:{home.http_port}/v1/events?types=message.received"
    arrived: dict[int, float] = {}
    headers = {"Authorization": f"Bearer {key}"}
    async with connect(url, additional_headers=headers, compression=None) as socket:
        order = client.Order(
            port=smtp_port, recipients=tenants.addresses(BOXES), mails=mails, size=SIZE, per_second=PER_SECOND
        )
        sending = asyncio.create_task(sender.send(order))
        while len(arrived) < mails:
            frame = await socket.recv()
            now = time.monotonic()
            subject = json.loads(frame)["data"]["subject"]
            arrived[int(subject[2 : subject.index("]")])] = now
        outcome = await sending
    return [arrived[number] - outcome.dots[number] for number in range(mails)]


async def _floor(dsn: str, redis_url: str) -> float:
    """Seconds: the median of one commit of a mail's bytes and one round trip to Redis."""
    connection = await asyncpg.connect(dsn)
    redis = nudges.redis_from_url(redis_url)
    account_id, raw, seconds = uuid7(), b"x" * SIZE, []
    try:
        for _ in range(300):
            begun = time.monotonic()
            await connection.execute(
                "insert into contents (account_id, id, raw, size) values ($1, $2, $3, $4)",
                *(account_id, uuid7(), raw, SIZE),
            )
            await redis.ping()
            seconds.append(time.monotonic() - begun)
    finally:
        await connection.close()
        await redis.aclose()
    return report.quantile(seconds, 0.5)


def _row(what: str, seconds: Sequence[float], floor: float) -> Row:
    p50, p99 = report.quantile(seconds, 0.5), report.quantile(seconds, 0.99)
    return Row(
        what=f"arrival → WebSocket frame at {PER_SECOND}/s, {what}",
        ours=f"p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms",
        limit_name="one commit and one Redis round trip",
        limit=f"p50 {floor * 1000:.1f} ms",
        ratio=p50 / floor,
        target=f"p50 ≤ {P50 * 1000:.0f} ms, p99 ≤ {P99 * 1000:.0f} ms",
        met=p50 <= P50 and p99 <= P99,
        note=f"{len(seconds):,} mails of {SIZE // 1000} KB",
    )
