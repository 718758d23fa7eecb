"""Bombs: mails made to keep a parser busy, read and shown, while another tenant's mail is timed.

Each goes by SMTP into one tenant's mailbox and is then asked for by HTTP in every form; a worker indexes and judges it.
Beside it another tenant gets 20 mails a second, each timed from its dot to the reply and to the WebSocket's frame, and
the loops of both processes tell how late they are. Before the first bomb the same is timed without any.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import httpx2
import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from bench import bomb_letters, client, lag, report, setting, tenants
from bench.report import Row
from bench.setting import Setting
from tests import house, nameserver
from tests.inbound import dialogue

NAME = "bombs"
PER_SECOND: Final = 20
QUIET_SECONDS: Final = 8
SIZE: Final = 5_000
PATIENCE: Final = 180.0  # seconds for a bomb to be taken, read and shown
TARGET: Final = 2.0  # seconds from the dot to the reply
LOOP: Final = "1,000 Received"  # refused, as RFC 5321 6.3 wants of loops
QUICK: Final = (  # bombs of a quick run
    "50,000 encoded words in a Subject",
    "multiparts 3,000 deep",
    "5 DKIM signatures over 25 MB",
    "HTML of 25 MB, deep",
    "text of 25 MB",
    "CRs and NULs, 25 MB",
    "base64 of 25 MB",
)
ZONE: Final[nameserver.Zone] = {"example.com": {"TXT": ["v=spf1 -all"]}}


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What came of one bomb."""

    name: str
    reply: str = ""
    taken: float = 0.0  # seconds from the dot to the reply
    shown: dict[str, float] = field(default_factory=dict)  # seconds for each form
    parse: str = ""


@dataclass(kw_only=True, slots=True)
class Others:
    """The other tenant's mail."""

    answered: list[float]  # seconds from the dot to the reply
    heard: list[float]  # seconds from the dot to the frame
    cut: int = 0  # times that the stream broke off

    def __str__(self) -> str:
        return f"250 p99 {_p99(self.answered)}, frame p99 {_p99(self.heard)}"


def _p99(seconds: Sequence[float]) -> str:
    return f"{report.quantile(seconds, 0.99) * 1000:.0f} ms"


async def run(setting: Setting) -> list[Row]:
    async with setting.database() as dsn, nameserver.serving(dict(ZONE)) as names:
        victim, other = await tenants.account(dsn, "victim"), await tenants.account(dsn, "other")
        await tenants.mailboxes(dsn, victim, 1, name="victim")
        await tenants.mailboxes(dsn, other, 10)
        settings = {"SENDER_AUTH": "true", "DNS_SERVERS": names.address}
        async with lag.telling_house(setting, dsn, settings=settings) as home, _bomber() as bomber:
            keys = [(await home.tenant(account_id=account)).key for account in (victim, other)]
            return await _measure(setting, home, bomber, keys)


async def _measure(given: Setting, home: house.House, bomber: Bomber, keys: Sequence[str]) -> list[Row]:
    names = QUICK if given.quick else tuple(bomb_letters.BOMBS)
    connection = await asyncpg.connect(home.dsn)
    try:
        calm = await lag.read(home)
        async with _others(home, keys[1]) as ended:
            await asyncio.sleep(given.scaled(QUIET_SECONDS, 2))
        quiet = ended[0]
        start = await lag.read(home)
        calm = lag.since(calm, start)
        outcomes, worst = [], {}
        async with _others(home, keys[1]) as ended:
            for name in names:
                before = await lag.read(home)
                outcomes.append(await bomber.drop(home, keys[0], name))
                await _digested(connection)
                worst[name] = lag.since(before, await lag.read(home))
                _tell(outcomes[-1], worst[name])
        lags = lag.since(start, await lag.read(home))
    finally:
        await connection.close()
    return [_bomb_row(outcomes), *_lag_rows(lags, calm, worst), _others_row(quiet, ended[0])]


def _tell(outcome: Outcome, lags: lag.Lags) -> None:
    shown = max(outcome.shown.items(), key=lambda one: one[1], default=("", 0.0))
    late = [f"{process} late {one.late:.2f} s, worst ≤ {one.quantile(1):g} s" for process, one in lags.items()]
    taken = f"{outcome.reply[:3]} {outcome.taken:.2f} s {outcome.parse}"
    print(f"  {outcome.name}: {taken}; {shown[0]} {shown[1]:.2f} s; {'; '.join(late)}", file=sys.stderr, flush=True)


async def _digested(connection: asyncpg.Connection) -> None:
    """All of it is indexed and judged."""
    left = """select exists (select from messages m where auth = '{}' or not exists
        (select from message_texts t where t.account_id = m.account_id and t.seq = m.seq))"""
    async with asyncio.timeout(PATIENCE):
        while await connection.fetchval(left):  # noqa: ASYNC110 - a database tells of no event
            await asyncio.sleep(0.1)


# The other tenant


@contextlib.asynccontextmanager
async def _others(home: house.House, key: str) -> AsyncIterator[list[Others]]:
    """Mail of the other tenant meanwhile; what came of it stands in the list afterwards."""
    ended: list[Others] = []
    stop = asyncio.Event()
    async with client.running() as sender:
        steady = asyncio.create_task(_steady(home, key, sender, stop, ended))
        try:
            yield ended
        finally:
            stop.set()
            await steady


async def _steady(home: house.House, key: str, sender: client.Client, stop: asyncio.Event, ended: list[Others]) -> None:
    others, first = Others(answered=[], heard=[]), 0
    url = f"ws://127.0.0.1:{home.http_port}/v1/events?types=message.received"
    headers = {"Authorization": f"Bearer {key}"}
    while not stop.is_set():
        async with connect(url, additional_headers=headers, compression=None) as socket:
            try:
                while not stop.is_set():
                    await _second(home, sender, socket, first, others)
                    first += PER_SECOND
            except ConnectionClosed:
                others.cut += 1
                first += PER_SECOND
    ended.append(others)


async def _second(home: house.House, sender: client.Client, socket: Any, first: int, others: Others) -> None:
    order = client.Order(
        port=home.smtp_port,
        recipients=tenants.addresses(10),
        mails=PER_SECOND,
        size=SIZE,
        sessions=PER_SECOND,
        per_second=PER_SECOND,
        first=first,
    )
    sending = asyncio.create_task(sender.send(order))
    arrived: dict[int, float] = {}
    try:
        async with asyncio.timeout(PATIENCE):
            while len(arrived) < PER_SECOND:
                frame = await socket.recv()
                now = time.monotonic()
                subject = json.loads(frame)["data"]["subject"]
                arrived[int(subject[2 : subject.index("]")])] = now
    finally:
        outcome = await sending
    others.answered += outcome.waits()
    others.heard += [arrived[first + number] - dot for number, dot in enumerate(outcome.dots)]


# Who sends the bombs, in a process of its own


class Bomber:
    """That process, as whoever measures sees it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def drop(self, home: house.House, key: str, name: str) -> Outcome:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps({"smtp": home.smtp_port, "url": home.url, "key": key, "name": name}).encode() + b"\n")
        async with asyncio.timeout(PATIENCE):
            return msgspec.json.decode(await stdout.readline(), type=Outcome)


@contextlib.asynccontextmanager
async def _bomber() -> AsyncIterator[Bomber]:
    async with setting.program("bench.bombs") as process:
        yield Bomber(process)


async def _drop(order: dict[str, Any]) -> Outcome:
    outcome = Outcome(name=order["name"])
    await _hand_in(order["smtp"], bomb_letters.BOMBS[order["name"]](), outcome)
    headers = {"Authorization": f"Bearer {order['key']}"}
    async with httpx2.AsyncClient(base_url=f"{order['url']}/v1", headers=headers, timeout=PATIENCE) as caller:
        if outcome.reply.startswith("250"):
            await _look(caller, outcome)
    return outcome


async def _hand_in(port: int, raw: bytes, outcome: Outcome) -> None:
    wire = bomb_letters.stuffed(raw)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    peer = dialogue.Peer(reader, writer)
    await peer.greet()
    for line in (b"MAIL FROM:<a@example.com>", b"RCPT TO:<victim1@postroom.test>", b"DATA"):
        await peer.send(line + b"\r\n")
        await peer.reply()
    writer.write(wire)
    await writer.drain()
    began = time.monotonic()
    outcome.reply = (await peer.reply()).strip()
    outcome.taken = time.monotonic() - began
    peer.close()


async def _look(caller: httpx2.AsyncClient, outcome: Outcome) -> None:
    """Ask for it in every form."""
    [summary] = (await caller.get("/messages?limit=1")).json()["data"]
    forms = ("", "/text", "/html?sanitized=true", "/attachments/0")
    for form in forms:
        began = time.monotonic()
        answer = await caller.get(f"/messages/{summary['id']}{form}")
        outcome.shown[f"GET{form}"] = time.monotonic() - began
        if answer.status_code >= 500 and answer.status_code != 503:
            raise RuntimeError(f"{outcome.name}{form}: {answer.status_code}")
        if not form:
            outcome.parse = answer.json()["parse"]


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
        outcome = await _drop(json.loads(line))
        sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
        sys.stdout.buffer.flush()


# Rows


def _bomb_row(outcomes: Sequence[Outcome]) -> Row:
    slowest = max(outcomes, key=lambda one: one.taken)
    refused = [one for one in outcomes if not one.reply.startswith("554" if one.name == LOOP else "250")]
    form, seconds = max((one for each in outcomes for one in each.shown.items()), key=lambda one: one[1])
    return Row(
        what=f"{len(outcomes)} bombs, from the dot to the reply",
        ours=f"slowest {slowest.taken:.2f} s",
        limit_name="",
        limit="",
        ratio=None,
        target=f"all 250 and the loop 554, ≤ {TARGET:g} s and what storing takes",
        met=not refused and slowest.taken <= TARGET + 1,
        note=f"{slowest.name}; {len(refused)} refused; slowest answer by HTTP {seconds:.2f} s ({form})",
    )


def _lag_rows(lags: lag.Lags, calm: lag.Lags, worst: dict[str, lag.Lags]) -> list[Row]:
    rows = []
    for process, found in lags.items():
        name = max(worst, key=lambda one: worst[one][process].late)
        rows.append(
            Row(
                what=f"lag of the loop of {process} meanwhile",
                ours=str(found),
                limit_name="without bombs",
                limit=str(calm[process]),
                ratio=None,
                target=f"p99 ≤ {lag.LIMIT * 1000:g} ms",
                met=found.quantile(0.99) <= lag.LIMIT,
                note=f"most of it: {name}",
            )
        )
    return rows


def _others_row(quiet: Others, bombed: Others) -> Row:
    return Row(
        what=f"another tenant's mail meanwhile, {PER_SECOND} a second",
        ours=str(bombed),
        limit_name="without bombs",
        limit=str(quiet),
        ratio=report.quantile(bombed.heard, 0.99) / report.quantile(quiet.heard, 0.99),
        target="p99 < 500 ms",
        met=report.quantile(bombed.heard, 0.99) < 0.5,
        note=f"p50 {report.quantile(bombed.heard, 0.5) * 1000:.0f} ms; the stream was cut {bombed.cut} times",
    )


if __name__ == "__main__":
    asyncio.run(_serve())
