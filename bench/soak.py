"""A soak: mail in, waits, sends, a stream and webhooks, for `--seconds`; how memory, descriptors and threads go.

100 mails a second come in, 5 e-mails a second go out, four callers wait for mail all the time, one reads the stream,
and a webhook is told of everything. RSS is looked at twice a second; its slope is that of the medians of ten stretches,
the first fifth of the time left out, with twice its standard error. A minute tells of large leaks alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
import psutil
from websockets.asyncio.client import connect

from bench import client, lag, report, sends, tenants
from bench.report import Row
from bench.setting import Setting
from tests import house

NAME = "soak"
SECONDS: Final = 60
BOXES: Final = 50
PER_SECOND: Final = 100
SENDS_PER_SECOND: Final = 5
WAITERS: Final = 4
LOOK_SECONDS: Final = 0.5
STRETCHES: Final = 10
LEFT_OUT: Final = 0.2  # of the time: pools fill, caches warm
LONG: Final = 600  # seconds; from here on the slope has a target
PROCESSES: Final = ("serve", "worker")


@dataclass(kw_only=True, slots=True)
class Watched:
    """What was seen of one process, look by look."""

    at: list[float] = field(default_factory=list)  # seconds from the beginning
    resident: list[int] = field(default_factory=list)  # bytes
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def slope(self) -> tuple[float, float]:
        """MiB an hour, and twice its standard error."""
        begin = self.at[-1] * LEFT_OUT
        kept = [(at, size / 2**20) for at, size in zip(self.at, self.resident, strict=True) if at >= begin]
        step = max(1, len(kept) // STRETCHES)
        stretches = [kept[place : place + step] for place in range(0, step * STRETCHES, step)]
        x = [statistics.fmean(at for at, _ in one) / 3600 for one in stretches if one]
        y = [statistics.median(size for _, size in one) for one in stretches if one]
        slope, level = statistics.linear_regression(x, y)
        left = sum((size - slope * at - level) ** 2 for at, size in zip(x, y, strict=True))
        mean = statistics.fmean(x)
        return slope, 2 * (left / max(1, len(x) - 2) / sum((at - mean) ** 2 for at in x)) ** 0.5


async def run(setting: Setting) -> list[Row]:
    seconds = setting.seconds or setting.scaled(SECONDS, 15)
    async with setting.database() as dsn, _receiver() as hook:
        account_id = await tenants.account(dsn)
        await tenants.mailboxes(dsn, account_id, BOXES)
        async with lag.telling_house(setting, dsn, settings=sends.SETTINGS) as home, client.running() as sender:
            tenant = await home.tenant(account_id=account_id)
            before = await lag.read(home)
            watched, outcome = await _soak(home, tenant, sender, hook, seconds)
            lags = lag.since(before, await lag.read(home))
    rows = [_row(name, watched[name], seconds) for name in PROCESSES]
    return [*rows, _mail_row(outcome, seconds, hook, lags)]


async def _soak(
    home: house.House, tenant: house.Tenant, sender: client.Client, hook: Hook, seconds: float
) -> tuple[dict[str, Watched], client.Outcome]:
    watched = {name: Watched() for name in PROCESSES}
    async with home.client(tenant.key) as caller:
        answer = await caller.post("/webhooks", json={"url": hook.url, "types": ["*"]})
        assert answer.status_code == 201, answer.text
        works = [
            _watch(home, watched),
            _send(caller),
            _stream(home, tenant.key),
            *(_wait(caller, number) for number in range(WAITERS)),
        ]
        tasks = [asyncio.ensure_future(work) for work in works]
        order = client.Order(
            port=home.smtp_port,
            recipients=tenants.addresses(BOXES),
            mails=int(PER_SECOND * seconds),
            size=5_000,
            per_second=PER_SECOND,
        )
        try:
            outcome = await sender.send(order, patience=seconds * 3 + 60)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            raise error
    return watched, outcome


async def _watch(home: house.House, watched: dict[str, Watched]) -> None:
    processes = {name: psutil.Process(home.processes[name].pid) for name in watched}
    began = time.monotonic()
    while True:
        for name, process in processes.items():
            one = watched[name]
            one.at.append(time.monotonic() - began)
            one.resident.append(process.memory_info().rss)
            one.files.append(process.num_fds())
            one.threads.append(process.num_threads())
        await asyncio.sleep(LOOK_SECONDS)


async def _send(caller: httpx2.AsyncClient) -> None:
    number = 0
    while True:
        answer = await caller.post("/emails", json=sends.email(number))
        assert answer.status_code == 202, answer.text
        number += 1
        await asyncio.sleep(1 / SENDS_PER_SECOND)


async def _wait(caller: httpx2.AsyncClient, number: int) -> None:
    since = None
    path = f"/mailboxes/box{number + 1}@postroom.test/wait"
    while True:
        answer = await caller.get(path, params={"timeout": 5} | ({"since": since} if since else {}))
        if answer.status_code == 200:
            since = answer.json()["cursor"]


async def _stream(home: house.House, key: str) -> None:
    url = f"ws://127.0.0.1:{home.http_port}/v1/events"
    async with connect(url, additional_headers={"Authorization": f"Bearer {key}"}, compression=None) as socket:
        async for _ in socket:
            pass


@dataclass(kw_only=True, slots=True)
class Hook:
    """Who is told by webhook, and keeps nothing of it."""

    url: str
    told: int = 0


@contextlib.asynccontextmanager
async def _receiver() -> AsyncIterator[Hook]:
    hook = Hook(url="")
    answering: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] = _answering(hook)
    server: Any = await asyncio.start_server(answering, "127.0.0.1", 0)
    hook.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server:
        yield hook


def _answering(hook: Hook) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
                hook.told += 1
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
        writer.close()

    return answer


def _row(name: str, watched: Watched, seconds: float) -> Row:
    slope, error = watched.slope()
    last = watched.resident[-1] / 2**20
    return Row(
        what=f"RSS slope of {name} over {seconds:,.0f} s at {PER_SECOND} mails a second",
        ours=f"{slope:+.0f} ± {error:.0f} MiB/h",
        limit_name="at the end",
        limit=f"{last:.0f} MiB",
        ratio=None,
        target="none but by chance" if seconds >= LONG else "",
        met=slope <= error if seconds >= LONG else None,
        note=f"descriptors {_way(watched.files)}, threads {_way(watched.threads)}",
    )


def _way(counts: list[int]) -> str:
    return f"{counts[0]} → {counts[-1]}"


def _mail_row(outcome: client.Outcome, seconds: float, hook: Hook, lags: lag.Lags) -> Row:
    delays = outcome.delays()
    late = "; ".join(f"lag of {name} {found}" for name, found in lags.items())
    return Row(
        what=f"250s meanwhile, {PER_SECOND} a second for {seconds:,.0f} s",
        ours=f"p50 {report.quantile(delays, 0.5) * 1000:.0f} ms, p99 {report.quantile(delays, 0.99) * 1000:.0f} ms",
        limit_name="",
        limit="",
        ratio=None,
        target="none refused",
        met=not outcome.refusals,
        note=f"{len(outcome.refusals)} refused; {hook.told:,} webhooks told; {late}",
    )
