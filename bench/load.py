"""Load in absolute figures: 250s a second, megabytes a second, and how long a steady 300 mails a second wait.

Every 250 is said after the commit. At a steady rate each mail has a connection of its own, is begun when it is due,
however many are open already, and is timed from then to its 250.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from bench import accept, client, report, tenants
from bench.report import Row
from bench.setting import Setting
from tests import house

NAME = "load"
SMALL: Final = accept.Load(
    what="4 KB, a connection for each", size=4_000, mails=3_000, fresh=True, kind="text", target=500
)
LARGE: Final = replace(SMALL, what="100 KB, 20 kept sessions", size=100_000, mails=1_500, fresh=False, target=15)
STEADY: Final = 300  # mails a second
SECONDS: Final = 15
P99: Final = 0.1  # seconds, to reach


async def run(setting: Setting) -> list[Row]:
    async with setting.database() as dsn:
        await tenants.mailboxes(dsn, await tenants.account(dsn), accept.BOXES)
        async with setting.house(dsn) as home, client.running() as sender:
            return [
                await _rate(setting, sender, home, SMALL, "mails/s"),
                await _rate(setting, sender, home, LARGE, "MB/s"),
                await _steady(setting, sender, home),
            ]


async def _rate(given: Setting, sender: client.Client, home: house.House, load: accept.Load, unit: str) -> Row:
    each = load.size / 1e6 if unit == "MB/s" else 1
    mails = given.scaled(load.mails, load.mails // 5)
    await accept.rate(sender, home.smtp_port, load, mails // 10)  # warm
    found = [each * await accept.rate(sender, home.smtp_port, load, mails) for _ in range(given.rounds(5))]
    median = report.interval(found).median
    return Row(
        what=f"durable 250s, {load.what}",
        ours=f"{median:,.0f} {unit}",
        limit_name="",
        limit="",
        ratio=None,
        target=f"≥ {load.target:g} {unit}",
        met=median >= (load.target or 0),
        note=f"median of {len(found)} rounds, {min(found):,.0f} … {max(found):,.0f}",
    )


async def _steady(given: Setting, sender: client.Client, home: house.House) -> Row:
    order = client.Order(
        port=home.smtp_port,
        recipients=tenants.addresses(accept.BOXES),
        mails=STEADY * given.scaled(SECONDS, 3),
        size=SMALL.size,
        fresh=True,
        per_second=STEADY,
    )
    outcome = await sender.send(order)
    delays = outcome.delays()
    p50, p99 = report.quantile(delays, 0.5), report.quantile(delays, 0.99)
    return Row(
        what=f"from when a mail is due to its 250, {STEADY} a second, 4 KB, a connection for each",
        ours=f"p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms",
        limit_name="",
        limit="",
        ratio=None,
        target=f"p99 < {P99 * 1000:.0f} ms",
        met=p99 < P99 and not outcome.refusals,
        note=f"{len(delays):,} mails, {len(outcome.refusals)} refused",
    )
