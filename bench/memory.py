"""Memory of one `postroom serve`: whether it grows with the mails it has taken, and its peak under the largest ones."""

from __future__ import annotations

import asyncio
import contextlib

from bench import client, setting, tenants
from bench.report import Row
from bench.setting import Setting
from tests import house

NAME = "memory"
BOXES = 100
MAILS = 50_000  # of each half
SENDERS = 50
BIG = 25_000_000  # octets
BUDGET = 268_435_456  # INBOUND_BYTES_IN_FLIGHT
BASE = 150 * 2**20  # bytes, to stay under, with the budget
GROWTH = 8 * 2**20  # bytes that count as nothing
LOOK_SECONDS = 0.02


async def run(setting: Setting) -> list[Row]:
    async with setting.database() as dsn:
        account_id = await tenants.account(dsn)
        await tenants.mailboxes(dsn, account_id, BOXES)
        async with setting.house(dsn) as home, client.running() as sender:
            growth = await _growth(setting, home, sender)
        async with (
            setting.house(dsn, settings={"INBOUND_BYTES_IN_FLIGHT": str(BUDGET)}) as home,
            client.running() as sender,
        ):
            return [growth, await _peak(setting, home, sender)]


def _pid(home: house.House) -> int:
    return home.processes["serve"].pid


async def _growth(given: Setting, home: house.House, sender: client.Client) -> Row:
    mails = given.scaled(MAILS, 2_000)
    order = client.Order(port=home.smtp_port, recipients=tenants.addresses(BOXES), mails=mails, size=5_000)
    await sender.send(order)
    half = setting.resident(_pid(home))
    await sender.send(order)
    grown = setting.resident(_pid(home)) - half
    return Row(
        what=f"RSS growth over the last {mails:,} of {2 * mails:,} mails",
        ours=f"{grown / 2**20:+.1f} MiB",
        limit_name="after the first half",
        limit=f"{half / 2**20:.0f} MiB",
        ratio=None,
        target="~0",
        met=grown <= GROWTH,
        note="5 KB each, 20 sessions",
    )


async def _peak(given: Setting, home: house.House, sender: client.Client) -> Row:
    highest = 0

    async def watch() -> None:
        nonlocal highest
        while True:
            highest = max(highest, setting.resident(_pid(home)))
            await asyncio.sleep(LOOK_SECONDS)

    watching = asyncio.create_task(watch())
    order = client.Order(
        port=home.smtp_port,
        recipients=tenants.addresses(BOXES),
        mails=given.scaled(SENDERS, 10),
        sessions=SENDERS,
        size=BIG,
    )
    outcome = await sender.send(order)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    taken = sum(1 for answer in outcome.answers if answer)
    return Row(
        what=f"peak RSS, {SENDERS} senders of 25 MB at once",
        ours=f"{highest / 2**20:.0f} MiB",
        limit_name="150 MiB + INBOUND_BYTES_IN_FLIGHT",
        limit=f"{(BASE + BUDGET) / 2**20:.0f} MiB",
        ratio=highest / (BASE + BUDGET),
        target="≤ 1",
        met=highest <= BASE + BUDGET,
        note=f"{taken} taken, {len(outcome.refusals)} told to come again (452)",
    )
