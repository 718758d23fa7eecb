"""A flood at the SMTP port: silent, slow and countless connections, beside a sender who means well.

First 50 mails a second, a new connection for each, alone; then the same while 1,000 connections say nothing and 200
send a byte a second, half of them within a message. Then 5,000 connections in a row over a house with its usual caps,
and whether somebody from elsewhere is answered. Every mail is timed from when it should have begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final

import uvloop

from bench import client, report, setting, tenants
from bench.report import Row
from bench.setting import Setting
from tests import house

NAME = "flood"
BOXES: Final = 20
PER_SECOND: Final = 50
SECONDS: Final = 10
SILENT: Final = 1_000
SLOW: Final = 200
CONNECTIONS: Final = 5_000  # in a row
FROM_EACH: Final = 180  # connections of one address; the cap is 200
CAPS: Final = {"SMTP_MAX_CONNECTIONS": "2000"}  # room for those who are there at once
TARGET: Final = 0.5  # seconds
FILES: Final = 16_384
SETTLE_SECONDS: Final = 6.0  # from the flood to whoever comes then: longer than listener.IDLE_FLOOR


async def run(setting: Setting) -> list[Row]:
    async with setting.database() as dsn:
        account_id = await tenants.account(dsn)
        await tenants.mailboxes(dsn, account_id, BOXES)
        async with setting.house(dsn, settings=CAPS) as home, client.running() as sender, _attacker() as attacker:
            slow = await _slow(setting, home, sender, attacker)
        async with setting.house(dsn) as home, client.running() as sender, _attacker() as attacker:
            return [*slow, await _many(setting, home, sender, attacker)]


async def _slow(given: Setting, home: house.House, sender: client.Client, attacker: Attacker) -> list[Row]:
    pid = home.processes["serve"].pid
    await sender.send(_order(given, home, seconds=2))  # warm
    alone = await sender.send(_order(given, home))
    before = setting.resident(pid)
    counts = await attacker.ask(
        "hold", port=home.smtp_port, silent=given.scaled(SILENT, 200), slow=given.scaled(SLOW, 40)
    )
    grown = setting.resident(pid) - before
    flooded = await sender.send(_order(given, home))
    over = await attacker.ask("burst", port=home.smtp_port, count=2 * FROM_EACH, each=2 * FROM_EACH)
    calm, busy = report.quantile(alone.delays(), 0.99), report.quantile(flooded.delays(), 0.99)
    held = sum(counts.values())
    return [
        Row(
            what="mails of others beside connections that are silent or slow",
            ours=_times(flooded),
            limit_name="alone",
            limit=_times(alone),
            ratio=busy / calm,
            target=f"p99 < {TARGET * 1000:.0f} ms",
            met=busy < TARGET and not flooded.refusals,
            note=f"{PER_SECOND} a second, a connection each; {len(flooded.refusals)} refused; {counts}",
        ),
        Row(
            what=f"RSS growth by {held:,} such connections",
            ours=f"{grown / 2**20:.1f} MiB",
            limit_name="",
            limit="",
            ratio=None,
            target="≤ 64 MiB",
            met=grown <= 64 * 2**20,
            note=f"{grown / max(held, 1) / 1024:.1f} KiB each; {2 * FROM_EACH} more from one address: {over}",
        ),
    ]


async def _many(given: Setting, home: house.House, sender: client.Client, attacker: Attacker) -> Row:
    pid = home.processes["serve"].pid
    before = setting.resident(pid)
    began = time.monotonic()
    count = given.scaled(CONNECTIONS, 1_500)
    told = await attacker.ask("burst", port=home.smtp_port, count=count, each=FROM_EACH)
    took = time.monotonic() - began
    await asyncio.sleep(SETTLE_SECONDS)
    after = await sender.send(_order(given, home, seconds=2))
    answered = sum(1 for one in after.answers if one)
    return Row(
        what=f"{count:,} connections in a row from {count // FROM_EACH + 1} addresses, then somebody else's mail",
        ours=f"{answered} of {len(after.answers)} mails taken, {_times(after) if answered else ''}",
        limit_name="",
        limit="",
        ratio=None,
        target=f"all, p99 < {TARGET * 1000:.0f} ms",
        met=answered == len(after.answers) and report.quantile(after.delays(), 0.99) < TARGET,
        note=f"{told} in {took:.1f} s, RSS {(setting.resident(pid) - before) / 2**20:+.1f} MiB",
    )


def _order(given: Setting, home: house.House, *, seconds: int = SECONDS) -> client.Order:
    mails = PER_SECOND * given.scaled(seconds, 2)
    return client.Order(
        port=home.smtp_port,
        recipients=tenants.addresses(BOXES),
        mails=mails,
        size=5_000,
        fresh=True,
        per_second=PER_SECOND,
    )


def _times(outcome: client.Outcome) -> str:
    delays = outcome.delays()
    return f"p50 {report.quantile(delays, 0.5) * 1000:.0f} ms, p99 {report.quantile(delays, 0.99) * 1000:.0f} ms"


# Who floods, in a process of its own


class Attacker:
    """That process, as whoever measures sees it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, what: str, **details: Any) -> dict[str, int]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps({"what": what, **details}).encode() + b"\n")
        answer: dict[str, int] = json.loads(await stdout.readline())
        return answer


@contextlib.asynccontextmanager
async def _attacker() -> AsyncIterator[Attacker]:
    async with setting.program("bench.flood") as process:
        yield Attacker(process)


class Flood:
    """Connections, kept open until the process ends."""

    def __init__(self) -> None:
        self._open: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._from = 0  # connections made so far; decides their address

    async def hold(self, port: int, silent: int, slow: int) -> Counter[str]:
        """Connections that say nothing, and some that send a byte a second."""
        found: Counter[str] = Counter()
        for _ in range(silent):
            found["silent" if await self._connect(port, FROM_EACH) else "turned away"] += 1
        for number in range(slow):
            reader = await self._connect(port, FROM_EACH)
            if reader is None:
                found["turned away"] += 1
                continue
            in_data = bool(number % 2)
            found["slow in DATA" if in_data else "slow in a command"] += 1
            self._tasks.append(asyncio.ensure_future(_drip(reader, self._open[-1], in_data=in_data)))
        return found

    async def burst(self, port: int, count: int, each: int) -> Counter[str]:
        """So many in a row, a hundred at once; all that are not turned away stay."""
        found: Counter[str] = Counter()
        self._from = 0
        for _ in range(0, count, 100):
            made = await asyncio.gather(*(self._connect(port, each) for _ in range(min(100, count))))
            found.update("taken" if reader else "turned away" for reader in made)
        return found

    async def _connect(self, port: int, each: int) -> asyncio.StreamReader | None:
        """None where it is turned away. So many come from each address; never from that of those who mean well."""
        place = 2 + self._from // each
        self._from += 1
        address = f"127.0.{place // 250}.{place % 250 + 1}"
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
            banner = await reader.readline()
        except OSError:
            return None
        if not banner.startswith(b"220"):
            writer.close()
            return None
        self._open.append(writer)
        return reader


async def _drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, in_data: bool) -> None:
    with contextlib.suppress(OSError):
        if in_data:
            writer.write(b"EHLO slow\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<box1@postroom.test>\r\nDATA\r\n")
            await reader.readuntil(b"354")
        while not reader.at_eof():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(1)


async def _serve() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, most) if most > 0 else FILES, most))
    flood, loop = Flood(), asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
        order = json.loads(line)
        found = await getattr(flood, order.pop("what"))(**order)
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(_serve())
