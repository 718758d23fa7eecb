"""Callers of several kinds at once, each as a careful client: it keeps what was confirmed and asks again for the rest.

Every caller knows two hosts or more of one gateway and goes to another when the one it talks to is gone. What they were
told is kept in a Ledger; what the database and the relay hold is compared with that, by whoever made the load.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import itertools
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from uuid import UUID, uuid4

import httpx2
import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from gateway import sockets
from tests import house, sending


class HungUp(Exception):
    """The server is gone, or has answered something else than was hoped for."""


BROKEN: Final = (HungUp, OSError, TimeoutError, EOFError, httpx2.TransportError, WebSocketException)
AGAIN: Final = frozenset({409, 429, 503})  # answers after which a client asks again
SIZES: Final = (200, 700, 1500, 4000)  # bytes of bodies, more or less
PATIENCE: Final = 30.0  # seconds that a client waits for an answer before it calls the line dead
ENOUGH: Final = "421 4.7.0 Too many messages in one session"  # as documented: the next ones go by another


class Tally:
    """Goes up; can be waited for."""

    def __init__(self) -> None:
        self.value = 0
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    def up(self, by: int = 1) -> None:
        self.value += by
        for wanted, waiter in self._waiters:
            if wanted <= self.value and not waiter.done():
                waiter.set_result(None)

    async def reaches(self, value: int) -> None:
        if self.value >= value:
            return
        waiting = (value, asyncio.get_running_loop().create_future())
        self._waiters.append(waiting)
        try:
            await waiting[1]
        finally:
            self._waiters.remove(waiting)


@dataclass(kw_only=True, slots=True)
class Ledger:
    """What was confirmed to anybody."""

    confirmed: Tally = field(default_factory=Tally)  # of any kind; what a storm counts by
    mails: dict[UUID, tuple[tuple[str, ...], bytes]] = field(default_factory=dict)  # receipt → addresses, SHA-256
    emails: dict[str, tuple[str, str]] = field(default_factory=dict)  # idempotency key → e-mail, on_unknown
    waited: int = 0  # waits that gave their message
    refusals: set[str] = field(default_factory=set)  # replies to senders that were neither 2xx nor 3xx


@contextlib.asynccontextmanager
async def beside(home: house.House) -> AsyncIterator[house.House]:
    """Another host of the same gateway, with a web process and listeners of its own."""
    listeners = {name: sockets.bind("127.0.0.1", 0, name) for name in ("http", "smtp")}
    other = dataclasses.replace(home, listeners=listeners, processes={})
    try:
        other.start("serve")
        await other.ready()
        yield other
    finally:
        for name in list(other.processes):
            other.kill(name)
        for listener in listeners.values():
            listener.close()


# Mail in


class Wire:
    """An SMTP session in which each mail takes two round trips (RFC 2920)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ledger: Ledger) -> None:
        self._reader, self._writer, self._ledger = reader, writer, ledger

    async def greet(self) -> None:
        await self._hear("220")
        self._writer.write(b"EHLO client.example\r\n")
        await self._hear("250")

    async def send(self, addresses: Sequence[str], stuffed: bytes) -> UUID:
        """The receipt id of the 250."""
        lines = ["MAIL FROM:<a@b.example>", *(f"RCPT TO:<{address}>" for address in addresses), "DATA"]
        self._writer.write("".join(f"{line}\r\n" for line in lines).encode())
        for _ in lines[:-1]:
            await self._hear("250")
        await self._hear("354")
        self._writer.write(stuffed)
        return UUID((await self._hear("250 2.0.0 queued as ")).rpartition(" ")[2])

    async def _hear(self, hoped: str) -> str:
        line = "-" * 4
        async with asyncio.timeout(PATIENCE):
            while line[3:4] == "-":
                line = (await self._reader.readline()).decode().rstrip("\r\n")
        if not line.startswith(hoped):
            if line and not line.startswith(ENOUGH):
                self._ledger.refusals.add(line)
            raise HungUp(line)
        return line


@contextlib.asynccontextmanager
async def wire(host: house.House, ledger: Ledger) -> AsyncIterator[Wire]:
    """A greeted session. Raises what BROKEN names."""
    reader, writer = await asyncio.open_connection("127.0.0.1", host.smtp_port)
    try:
        session = Wire(reader, writer, ledger)
        await session.greet()
        yield session
    finally:
        writer.transport.abort()


class Letters:
    """Mails, no two alike, with lines that begin with dots and octets that are no ASCII."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._bodies = [self._body(size) for size in SIZES * 4]
        self._name = uuid4().hex

    def next(self, number: int) -> bytes:
        head = f"From: a@b.example\r\nSubject: {self._name} {number}\r\n\r\n".encode()
        return head + self._chance.choice(self._bodies)

    def _body(self, size: int) -> bytes:
        lines = []
        while size > 0:
            start = self._chance.choice((b".", b"..", b"", b"\xc3\xa4\xff", b"word "))
            line = start + self._chance.randbytes(20).hex().encode()
            lines.append(line)
            size -= len(line) + 2
        return b"\r\n".join(lines) + b"\r\n"


def stuffed(raw: bytes) -> bytes:
    """As it goes over the wire (RFC 5321 section 4.5.2)."""
    return b"." * raw.startswith(b".") + raw.replace(b"\r\n.", b"\r\n..") + b".\r\n"


async def send_mail(
    hosts: Sequence[house.House], addresses: Sequence[str], ledger: Ledger, done: asyncio.Event, seed: int
) -> None:
    """Mail after mail, some to several; what was not confirmed is not asked for again, so that nothing is there twice
    unless it was confirmed twice."""
    letters, chance, numbers = Letters(seed), random.Random(seed), itertools.count()
    for host in itertools.cycle([*hosts[seed % len(hosts) :], *hosts[: seed % len(hosts)]]):
        with contextlib.suppress(*BROKEN):
            async with wire(host, ledger) as session:
                while not done.is_set():
                    raw = letters.next(next(numbers))
                    many = 3 if chance.random() < 0.1 else 1
                    to = tuple(chance.sample(list(addresses), many))
                    receipt = await session.send(to, stuffed(raw))
                    assert receipt not in ledger.mails
                    ledger.mails[receipt] = (to, hashlib.sha256(raw).digest())
                    ledger.confirmed.up()
        if done.is_set():
            return


# Callers by HTTP


class Caller:
    """Asks one host after the other until it is answered."""

    def __init__(self, hosts: Sequence[house.House], key: str, seed: int = 0) -> None:
        self._clients = [host.client(key) for host in hosts]
        self._next = seed

    async def __aenter__(self) -> Caller:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            await client.aclose()

    async def ask(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """The first answer that is one, of whichever host."""
        while True:
            self._next += 1
            with contextlib.suppress(httpx2.TransportError):
                answer = await self._clients[self._next % len(self._clients)].request(method, path, **options)
                if answer.status_code not in AGAIN:
                    assert answer.status_code < 500, answer.text
                    return answer


async def send_emails(caller: Caller, ledger: Ledger, done: asyncio.Event, seed: int) -> None:
    """E-mails, each asked for under its key until it is confirmed, and some once more after that."""
    chance = random.Random(seed)
    while not done.is_set():
        key, wish = uuid4().hex, chance.choice(("retry", "hold"))
        options = {"json": sending.letter(subject=key, on_unknown=wish), "headers": {"Idempotency-Key": key}}
        answer = await caller.ask("POST", "/emails", **options)
        assert answer.status_code == 202, answer.text
        ledger.emails[key] = (answer.json()["id"], wish)
        ledger.confirmed.up()
        if chance.random() < 0.2:
            again = await caller.ask("POST", "/emails", **options)
            assert again.json() == answer.json()
            assert again.headers["Idempotent-Replayed"] == "true"


async def come_and_go(
    hosts: Sequence[house.House], caller: Caller, ledger: Ledger, done: asyncio.Event, seed: int
) -> None:
    """Mailboxes: made, written to, waited on, emptied and deleted."""
    letters, numbers = Letters(seed), itertools.count()
    while not done.is_set():
        made = await caller.ask("POST", "/mailboxes", json={}, headers={"Idempotency-Key": uuid4().hex})
        assert made.status_code == 201, made.text
        box, raw = made.json(), letters.next(next(numbers))
        await _hand_in(hosts, box["address"], raw, ledger)
        found = await caller.ask("GET", f"/mailboxes/{box['id']}/wait", params={"timeout": 20, "since": box["cursor"]})
        assert found.status_code == 200, found.text
        ledger.waited += 1
        for path in (f"/messages/{found.json()['message']['id']}", f"/mailboxes/{box['id']}"):
            gone = await caller.ask("DELETE", path)
            assert gone.status_code in {200, 204, 404}, gone.text
        ledger.confirmed.up()


async def _hand_in(hosts: Sequence[house.House], address: str, raw: bytes, ledger: Ledger) -> None:
    for host in itertools.cycle(hosts):
        with contextlib.suppress(*BROKEN):
            async with wire(host, ledger) as session:
                await session.send([address], stuffed(raw))
                return


# Those who follow the log


class Heard(msgspec.Struct):
    """What is looked at of an event."""

    id: UUID
    seq: int
    type: str
    created_at: str = ""


_decode: Final = msgspec.json.Decoder(Heard).decode
_decode_page: Final = msgspec.json.Decoder(dict[str, Any]).decode

Way = Literal["sse", "websocket", "poll"]


class Follower:
    """Hears an account's log by one of its ways, and goes on by its cursor at the next host when a line breaks."""

    def __init__(
        self, hosts: Sequence[house.House], key: str, way: Way, on_heard: Callable[[Heard], None] = lambda _: None
    ) -> None:
        self.way = way
        self.heard: list[UUID] = []  # ids, in the order in which they came
        self.cursor = Tally()
        self.lines = 0  # connections, or polls
        self._hosts = hosts
        self._key = key
        self._on_heard = on_heard
        self._follow = {"sse": self._sse, "websocket": self._websocket, "poll": self._poll}[way]

    async def run(self) -> None:
        """Until cancelled."""
        for host in itertools.cycle(self._hosts):
            self.lines += 1
            with contextlib.suppress(*BROKEN):
                await self._follow(host)

    def _hear(self, body: str | bytes) -> None:
        event = _decode(body)
        assert event.seq == self.cursor.value + 1, f"{self.way}: {event.seq} after {self.cursor.value}"
        self.heard.append(event.id)
        self._on_heard(event)
        self.cursor.up()

    async def _sse(self, host: house.House) -> None:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(self.cursor.value)}
        async with host.client(self._key) as client, client.stream("GET", "/events", headers=headers) as answer:
            if answer.status_code in AGAIN:
                return
            assert answer.status_code == 200, await answer.aread()
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    self._hear(line.removeprefix("data: "))

    async def _websocket(self, host: house.House) -> None:
        url = f"ws://127.0.0.1:{host.http_port}/v1/events?after={self.cursor.value}"
        headers = {"Authorization": f"Bearer {self._key}"}
        async with connect(url, additional_headers=headers, proxy=None, max_queue=None) as line:
            async for frame in line:
                self._hear(frame)

    async def _poll(self, host: house.House) -> None:
        query = {"after": str(self.cursor.value), "wait": "5", "limit": "200"}
        async with host.client(self._key) as client:
            while True:
                answer = await client.get("/events", params=query)
                if answer.status_code in AGAIN:
                    return
                assert answer.status_code == 200, answer.text
                page = _decode_page(answer.content)
                for event in page["data"]:
                    self._hear(msgspec.json.encode(event))
                assert page["next_cursor"] == str(self.cursor.value)
                query["after"] = page["next_cursor"]
