"""Does a full house accept as fast as an empty one? A million messages stored, beside an empty database.

Two houses on one Postgres take the same mails from the same sender in turns, so that whatever the machine does
meanwhile happens to both.
"""

from __future__ import annotations

from bench import client, report, tenants
from bench.report import Row
from bench.setting import Setting

NAME = "stored"
STORED = 1_000_000
BOXES = 500
MAILS = 4_000
TARGET = 0.9


async def run(setting: Setting) -> list[Row]:
    stored = setting.scaled(STORED, 20_000)
    async with setting.database() as full, setting.database() as empty:
        for dsn in (full, empty):
            account_id = await tenants.account(dsn)
            await tenants.mailboxes(dsn, account_id, BOXES)
            if dsn == full:
                await tenants.messages(dsn, account_id, stored, BOXES)
        async with setting.house(full) as crowded, setting.house(empty) as bare, client.running() as sender:
            ratios, rates = [], []
            for number in range(setting.rounds(11)):
                ports = (crowded.smtp_port, bare.smtp_port)
                measured = {port: await _rate(sender, port) for port in (ports if number % 2 else ports[::-1])}
                ratios.append(measured[ports[0]] / measured[ports[1]])
                rates.append(measured)
        return [_row(stored, report.interval(ratios), [list(pair.values()) for pair in rates])]


async def _rate(sender: client.Client, port: int) -> float:
    order = client.Order(port=port, recipients=tenants.addresses(BOXES), mails=MAILS, size=5_000)
    return (await sender.send(order)).rate


def _row(stored: int, ratio: report.Interval, rates: list[list[float]]) -> Row:
    every = [rate for pair in rates for rate in pair]
    return Row(
        what=f"accept rate with {stored:,} messages stored",
        ours=f"{report.interval(every).median:,.0f} mails/s (both)",
        limit_name="an empty database",
        limit="",
        ratio=ratio.median,
        target=f"≥ {TARGET}",
        met=ratio.median >= TARGET,
        note=f"{len(rates)} interleaved pairs, 95 % interval {ratio.low:.2f} … {ratio.high:.2f}",
    )
