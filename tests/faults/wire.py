"""A line to Postgres that understands what is said on it, and fails where the test wants it to.

It follows the frontend's protocol far enough to know of each transaction what its statements were, and when it ends: at
the COMMIT, or at the Sync of a statement that is a transaction of its own. Of an end, `judge` decides what becomes:

    pass          nothing odd
    lost          it never arrives, and the connection breaks
    unanswered    it arrives and is carried out, and the connection breaks before anybody hears of it
    silent        the same, but nothing breaks: nothing comes back any more, ever
    five digits   it never arrives: the server answers with this error, and ends the transaction

Besides, the line can be cut, or made silent both ways: connections are taken, and nothing gets through. And statements
of one kind can be held, each on its connection, until they are let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from gateway.embedded import SOCKET

Judge = Callable[[Sequence[str]], str]  # of the statements of a transaction that is about to end


def passing(_: Sequence[str]) -> str:
    return "pass"


def once(what: str, part: str, times: int = 1) -> Judge:
    """This, the first so many times that a transaction with a statement that has this part ends."""
    left = [what] * times

    def judge(statements: Sequence[str]) -> str:
        return left.pop() if left and any(part in statement for statement in statements) else "pass"

    return judge


def each(judges: Sequence[Judge]) -> Judge:
    """What the first of them says that does not let it pass."""

    def judge(statements: Sequence[str]) -> str:
        return next((what for one in judges if (what := one(statements)) != "pass"), "pass")

    return judge


@dataclass(kw_only=True)
class Wire:
    """The line; `dsn` leads through it."""

    upstream: str  # DSN that names a unix socket's folder
    port: int = 0
    judge: Judge = passing
    is_cut: bool = False
    refused: int = 0  # connections that came while it was cut
    judged: list[str] = field(default_factory=list)  # ends that did not just pass
    connections: set[_Connection] = field(default_factory=set)
    talks: set[asyncio.Task[None]] = field(default_factory=set)
    open: asyncio.Event = field(default_factory=asyncio.Event)  # not set: nothing gets through
    holds: str = ""  # statements with this part get no further; empty = none
    holding: asyncio.Event = field(default_factory=asyncio.Event)  # one has come
    let_go: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def dsn(self) -> str:
        return f"postgresql://postroom@127.0.0.1:{self.port}{urlsplit(self.upstream).path}?sslmode=disable"

    @property
    def server(self) -> Path:
        return Path(parse_qs(urlsplit(self.upstream).query)["host"][0]) / SOCKET

    def silence(self) -> None:
        """From here on nothing gets through, of what is and of what will be connected; nothing breaks."""
        self.open.clear()

    def speak(self) -> None:
        """What was held gets through after all, and everything from here on."""
        self.open.set()

    def hold(self, part: str) -> None:
        """From here on statements with this part wait."""
        self.holds = part
        self.holding.clear()
        self.let_go.clear()

    def release(self) -> None:
        """They wait no longer, nor do those to come."""
        self.holds = ""
        self.let_go.set()

    async def held_up(self, statement: str) -> None:
        if self.holds and self.holds in statement:
            self.holding.set()
            await self.let_go.wait()

    def cut(self) -> None:
        self.is_cut = True
        for connection in list(self.connections):
            connection.abort()

    def mend(self) -> None:
        self.is_cut = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk is not None
        self.talks.add(talk)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await self._carry(reader, writer)
        finally:
            self.talks.discard(talk)
            writer.transport.abort()

    async def close(self) -> None:
        """Nobody is served any more."""
        for talk in list(self.talks):
            talk.cancel()
        await asyncio.gather(*self.talks)
        await asyncio.sleep(0)  # what was aborted is closed in the loop's next round

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            self.refused += 1
            return
        with contextlib.suppress(OSError):
            from_server, to_server = await asyncio.open_unix_connection(self.server)
            connection = _Connection(self, writer, to_server)
            self.connections.add(connection)
            try:
                await connection.carry(reader, from_server)
            finally:
                connection.abort()
                self.connections.discard(connection)


class _Connection:
    """One connection, both ways."""

    def __init__(self, wire: Wire, to_client: asyncio.StreamWriter, to_server: asyncio.StreamWriter) -> None:
        self._wire = wire
        self._to_client, self._to_server = to_client, to_server
        self._prepared: dict[bytes, str] = {}
        self._bound: dict[bytes, str] = {}
        self._statements: list[str] = []  # of the transaction
        self._in_transaction = False
        self._held = b""  # said, but not yet to be carried out
        self._instead = b""  # of the server's next CommandComplete
        self._muted = False  # the answer to what was sent last is to be lost; what else comes is, too
        self._silent = False

    def abort(self) -> None:
        self._to_client.transport.abort()
        self._to_server.transport.abort()

    async def carry(self, from_client: asyncio.StreamReader, from_server: asyncio.StreamReader) -> None:
        """Until either end hangs up, or the line fails."""
        tasks = [asyncio.create_task(self._up(from_client)), asyncio.create_task(self._down(from_server))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # how it ended is nothing new

    async def _up(self, reader: asyncio.StreamReader) -> None:
        size = await reader.readexactly(4)  # StartupMessage: without a type
        await self._send(size + await reader.readexactly(int.from_bytes(size) - 4))
        while True:
            head = await reader.readexactly(5)
            body = await reader.readexactly(int.from_bytes(head[1:]) - 4)
            if not await self._pass(head[:1], head + body, body):
                return

    async def _pass(self, kind: bytes, frame: bytes, body: bytes) -> bool:
        """Take one message, and send what is complete; whether the connection stands."""
        is_end = self._note(kind, body)
        if kind == b"E":
            await self._wire.held_up(self._statements[-1])
        self._held += frame
        if kind not in b"SHQX":
            return True
        held, self._held = self._held, b""
        what = self._wire.judge(self._statements) if is_end else "pass"
        if what == "pass":
            await self._send(held)
            return True
        self._wire.judged.append(what)
        if what == "lost":
            return False
        if what in ("unanswered", "silent"):
            self._muted, self._silent = True, what == "silent"
            await self._send(held)
        else:
            await self._refuse(kind, what)
        return True

    def _note(self, kind: bytes, body: bytes) -> bool:
        """Keep what is said; whether it ends a transaction that has done something."""
        if kind == b"P":
            name, sql, _ = body.split(b"\0", 2)
            self._prepared[name] = sql.decode()
        elif kind == b"B":
            portal, name, _ = body.split(b"\0", 2)
            self._bound[portal] = self._prepared.get(name, "")
        elif kind == b"E":
            self._statements.append(self._bound[body.split(b"\0", 1)[0]])
        elif kind == b"Q":
            query = body.rstrip(b"\0").decode().upper()
            if query.startswith("COMMIT"):
                return True
            self._in_transaction |= query.startswith("BEGIN")
            self._statements.append(query)
            return not self._in_transaction
        return kind == b"S" and not self._in_transaction and bool(self._statements)

    async def _refuse(self, kind: bytes, state: str) -> None:
        """Play the server: an error, and a transaction that is over, as it is there."""
        fields = f"SERROR\0VERROR\0C{state}\0Mas the test wants it\0\0".encode()
        error = b"E" + struct.pack("!I", len(fields) + 4) + fields
        if kind == b"Q":  # a COMMIT
            self._instead = error
            await self._send(b"Q" + struct.pack("!I", 13) + b"ROLLBACK\0")
        else:
            self._statements = []
            self._to_client.write(error + b"Z" + struct.pack("!I", 5) + b"I")

    async def _send(self, data: bytes) -> None:
        await self._wire.open.wait()
        self._to_server.write(data)
        await self._to_server.drain()

    async def _down(self, reader: asyncio.StreamReader) -> None:
        while True:
            head = await reader.readexactly(5)
            body = await reader.readexactly(int.from_bytes(head[1:]) - 4)
            await self._wire.open.wait()
            if self._silent:
                continue
            if self._muted:
                return
            if head[:1] == b"Z":
                self._in_transaction = body != b"I"
                if not self._in_transaction:
                    self._statements = []
            if head[:1] == b"C" and self._instead:
                head, body, self._instead = self._instead, b"", b""
            self._to_client.write(head + body)
            await self._to_client.drain()


@contextlib.asynccontextmanager
async def laid(dsn: str) -> AsyncIterator[Wire]:
    """A line to the database at `dsn`, which names a unix socket's folder."""
    wire = Wire(upstream=dsn)
    wire.open.set()
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        server.close()
        wire.is_cut = True
        await wire.close()
        await server.wait_closed()
