"""A lean SMTP sender in a process of its own: the same load for Postroom and for whatever it is compared with.

It says what a plain MTA says (EHLO, MAIL, RCPT, DATA, the message; nothing pipelined) and waits for each reply. Orders
come as lines of JSON on standard input, one after the other; each is answered by a line of JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import cast

import msgspec
import uvloop

from bench import letters, setting

PATIENCE = 600.0  # seconds that an order may take


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What is to be sent."""

    port: int  # on 127.0.0.1
    recipients: list[str]  # taken in turn, one for each mail
    mails: int
    size: int  # octets of a mail, about
    sessions: int = 20
    fresh: bool = False  # a new connection for each mail; else sessions are kept
    per_second: float = 0  # pace, whatever the answers (`fresh`: a connection for each); 0 = as fast as they come
    kind: str = "text"  # see bench.letters
    first: int = 0  # number of the first mail: it stands in the subject


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What came of it. Times are seconds of the machine's monotonic clock, which all processes share."""

    seconds: float = 0.0  # from the first command (or the first connection, where they are fresh) to the last reply
    due: list[float] = field(default_factory=list)  # when each mail should have begun, by number, where there is a pace
    dots: list[float] = field(default_factory=list)  # when each mail's last byte was handed to the socket, by number
    answers: list[float] = field(default_factory=list)  # when the reply to it came, by number; 0 = none
    refusals: list[str] = field(default_factory=list)  # replies to the dot that were not 250, and lines that broke

    @property
    def rate(self) -> float:
        """Mails answered with 250 a second."""
        return sum(1 for answer in self.answers if answer) / self.seconds

    def delays(self) -> list[float]:
        """Seconds from when it should have begun to the reply, by number, of those that were answered with 250."""
        return [answer - due for due, answer in zip(self.due, self.answers, strict=True) if answer]

    def waits(self) -> list[float]:
        """Seconds from the dot to the reply, by number, of those that were answered with 250."""
        return [answer - dot for dot, answer in zip(self.dots, self.answers, strict=True) if answer]


class Work:
    """An order being carried out by several sessions."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.outcome = Outcome(dots=[0.0] * order.mails, answers=[0.0] * order.mails)
        self.body = letters.body(order.kind, order.size)
        self.done = asyncio.get_running_loop().create_future()
        self._next = 0
        self._open = order.mails

    def take(self) -> int | None:
        """The number of the next mail; None when there is none."""
        if self._next >= self.order.mails:
            return None
        self._next += 1
        return self._next - 1

    def recipient(self, number: int) -> bytes:
        recipients = self.order.recipients
        return recipients[number % len(recipients)].encode()

    def answered(self, number: int, reply: bytes) -> None:
        if reply.startswith(b"250"):
            self.outcome.answers[number] = time.monotonic()
        else:
            self.outcome.refusals.append(reply.decode("utf-8", "replace"))
        self._open -= 1
        if not self._open and not self.done.done():
            self.done.set_result(None)


class Session(asyncio.Protocol):
    """One connection: each reply calls what comes next."""

    transport: asyncio.Transport

    def __init__(self, work: Work, idle: Callable[[Session], None]) -> None:
        self._work = work
        self._idle = idle  # called whenever the session could send a mail
        self._next: Callable[[bytes], None] = self._greeted
        self._pending = b""
        self.number: int | None = None  # of the mail under way

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        data = self._pending + data if self._pending else data
        *lines, self._pending = data.split(b"\r\n")
        for line in lines:
            if line[3:4] != b"-":
                self._next(line)

    def connection_lost(self, error: Exception | None) -> None:
        if self.number is not None:
            self._work.answered(self.number, f"line broke: {error}".encode())

    def send(self, number: int) -> None:
        """Begin a mail; only when idle."""
        self.number = number
        self._say(b"MAIL FROM:<sender@example.com>\r\n", self._mail_taken)

    def close(self) -> None:
        """QUIT, and wait for the other side to close."""
        self._say(b"QUIT\r\n", lambda _: self.transport.close())

    def _say(self, command: bytes, then: Callable[[bytes], None]) -> None:
        self._next = then
        self.transport.write(command)

    def _greeted(self, reply: bytes) -> None:
        if not reply.startswith(b"220"):
            self._turned_away(reply)
            return
        self._say(b"EHLO bench.example\r\n", lambda _: self._idle(self))

    def _turned_away(self, reply: bytes) -> None:
        raise RuntimeError(f"turned away: {reply!r}")

    def _mail_taken(self, _: bytes) -> None:
        assert self.number is not None
        self._say(b"RCPT TO:<%s>\r\n" % self._work.recipient(self.number), self._recipient_taken)

    def _recipient_taken(self, _: bytes) -> None:
        self._say(b"DATA\r\n", self._data_wanted)

    def _data_wanted(self, reply: bytes) -> None:
        if not reply.startswith(b"354"):
            self._answered(reply)
            return
        work, number = self._work, self.number
        assert number is not None
        self._next = self._answered
        self.transport.write(letters.head(work.order.first + number, work.recipient(number)))
        self.transport.write(work.body)
        work.outcome.dots[number] = time.monotonic()

    def _answered(self, reply: bytes) -> None:
        number, self.number = self.number, None
        assert number is not None
        self._work.answered(number, reply)
        self._idle(self)


async def _connect(work: Work, idle: Callable[[Session], None]) -> Session:
    loop = asyncio.get_running_loop()
    _, session = await loop.create_connection(lambda: Session(work, idle), "127.0.0.1", work.order.port)
    return session


async def _kept(work: Work) -> None:
    """As fast as the answers come, over sessions that stay open; their opening and closing is not timed."""
    ready: list[Session] = []
    all_ready = asyncio.Event()

    def idle(session: Session) -> None:
        if not all_ready.is_set():
            ready.append(session)
            if len(ready) == work.order.sessions:
                all_ready.set()
        elif (number := work.take()) is not None:
            session.send(number)

    for _ in range(work.order.sessions):
        await _connect(work, idle)
    await all_ready.wait()
    begun = time.monotonic()
    for session in ready:
        idle(session)
    await work.done
    work.outcome.seconds = time.monotonic() - begun
    for session in ready:
        session.close()


async def _fresh(work: Work) -> None:
    """A connection for each mail, so many at once; connecting and QUIT are timed along."""

    async def one_after_the_other() -> None:
        while (number := work.take()) is not None:
            await _one(work, number)

    begun = time.monotonic()
    await asyncio.gather(*(one_after_the_other() for _ in range(work.order.sessions)))
    work.outcome.seconds = time.monotonic() - begun


async def _one(work: Work, number: int) -> None:
    ended = asyncio.get_running_loop().create_future()

    class Single(Session):
        def connection_lost(self, error: Exception | None) -> None:
            super().connection_lost(error)
            if not ended.done():
                ended.set_result(None)

        def _turned_away(self, reply: bytes) -> None:
            work.answered(number, reply)
            self.transport.close()

    def idle(session: Session) -> None:
        if work.outcome.dots[number]:
            session.close()
        else:
            session.send(number)

    await asyncio.get_running_loop().create_connection(lambda: Single(work, idle), "127.0.0.1", work.order.port)
    await ended


async def _arriving(work: Work) -> None:
    """So many a second, a connection for each, however many are open already."""
    begun = time.monotonic()
    sending = []
    for place in range(work.order.mails):
        work.outcome.due.append(begun + place / work.order.per_second)
        await asyncio.sleep(work.outcome.due[place] - time.monotonic())
        number = work.take()
        assert number is not None
        sending.append(asyncio.create_task(_one(work, number)))
    await asyncio.gather(*sending)
    work.outcome.seconds = time.monotonic() - begun


async def _paced(work: Work) -> None:
    """So many a second, whatever the answers: a mail whose time has come takes an idle session, or waits for one."""
    ready: asyncio.Queue[Session] = asyncio.Queue()
    sessions = [await _connect(work, ready.put_nowait) for _ in range(work.order.sessions)]
    begun = time.monotonic()
    for place in range(work.order.mails):
        work.outcome.due.append(begun + place / work.order.per_second)
        await asyncio.sleep(work.outcome.due[place] - time.monotonic())
        number = work.take()
        assert number is not None
        (await ready.get()).send(number)
    await work.done
    work.outcome.seconds = time.monotonic() - begun
    for session in sessions:
        session.close()


async def carry_out(order: Order) -> Outcome:
    """Send what is ordered, in this process."""
    work = Work(order)
    if order.per_second:
        await (_arriving(work) if order.fresh else _paced(work))
    else:
        await (_fresh(work) if order.fresh else _kept(work))
    return work.outcome


class Client:
    """The sender's process, as whoever measures sees it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def send(self, order: Order, *, patience: float = PATIENCE) -> Outcome:
        """Carry out an order over there, within so many seconds."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(msgspec.json.encode(order) + b"\n")
        await stdin.drain()
        async with asyncio.timeout(patience):
            return msgspec.json.decode(await stdout.readline(), type=Outcome)


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Client]:
    """A sender of one's own."""
    async with setting.program("bench.client") as process:
        yield Client(process)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.buffer.readline):
        outcome = await carry_out(msgspec.json.decode(line, type=Order))
        sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    uvloop.run(_serve())
