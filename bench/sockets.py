"""10,000 idle WebSockets on one `serve` process: what each costs in memory, and how soon an event is heard.

The limit is a bare echo WebSocket of the same uvicorn with as many clients. Memory is the server process's RSS with the
sockets open, less that with none. An event's time runs from the request that causes it to its frame, so the commit is
in it; one account of a hundred hears it, on a hundred sockets.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import resource
import struct
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import uvloop

from bench import echo, http_client, report, setting
from bench.report import Row

NAME = "sockets"
SOCKETS: Final = 10_000
ACCOUNTS: Final = 100
EVENTS: Final = 100
SPARE_FILES: Final = 500  # descriptors that a process needs besides its sockets
TARGET_BYTES: Final = 45 * 1024
TARGET_MS: Final = 100.0
AT_ONCE: Final = 100  # handshakes under way
SETTLED_SECONDS: Final = 3.0  # after the last handshake, before memory is read


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What was measured with all sockets open."""

    bytes_each: float
    latencies: list[float]  # seconds; one for each frame


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """Whose memory is measured."""

    port: int
    pid: int
    handshakes: Sequence[str]  # sockets take them in turn


async def run(where: setting.Setting) -> list[Row]:
    """First the limit, then ours."""
    count = min(where.scaled(SOCKETS, 1000), _files() - SPARE_FILES)
    events = where.scaled(EVENTS, 20)
    async with echo.started() as bare, _clients() as clients:
        server = Server(port=bare.port, pid=bare.pid, handshakes=[_handshake("/ws", "none")])
        limit = await _measure(clients, server, count, [])
    async with where.database() as dsn, where.house(dsn) as home, _clients() as clients:
        tenants = [await home.tenant() for _ in range(ACCOUNTS)]
        handshakes = [_handshake("/v1/events", tenant.key) for tenant in tenants]
        causes = [http_client.post("/v1/mailboxes", tenants[0].key, {})] * events
        server = Server(port=home.http_port, pid=home.processes["serve"].pid, handshakes=handshakes)
        ours = await _measure(clients, server, count, causes)
    return _rows(ours, limit, count)


def _files() -> int:
    """Descriptors that this process and its children may have; raised as far as that goes."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = SOCKETS + 2 * SPARE_FILES if most == resource.RLIM_INFINITY else most
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    return wanted


class Clients:
    """The clients' process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, what: str, **details: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"what": what, **details}).encode() + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the clients' process died")
        return json.loads(line)


@asynccontextmanager
async def _clients() -> AsyncIterator[Clients]:
    async with setting.program("bench.sockets") as process:
        yield Clients(process)


async def _measure(clients: Clients, server: Server, count: int, causes: Sequence[bytes]) -> Outcome:
    where: dict[str, Any] = {"port": server.port, "handshakes": server.handshakes}
    await clients.ask("open", count=20, **where)  # what the first ones cost once
    await clients.ask("close")
    await asyncio.sleep(SETTLED_SECONDS)
    before = setting.resident(server.pid)
    opened = await clients.ask("open", count=count, **where)
    assert opened == count, f"{opened} of {count} sockets opened"
    await asyncio.sleep(SETTLED_SECONDS)
    after = setting.resident(server.pid)
    hearers = len(range(0, count, len(server.handshakes)))
    latencies: list[float] = []
    for number, cause in enumerate(causes):
        request = base64.b64encode(cause).decode()
        heard = await clients.ask("cause", port=server.port, request=request, frames=hearers)
        latencies += heard if number else []  # the first one warms up
        await asyncio.sleep(0.02)
    still_open = await clients.ask("count")
    assert still_open == count, f"{still_open} of {count} sockets are still open"
    return Outcome(bytes_each=(after - before) / count, latencies=latencies)


def _handshake(path: str, key: str) -> str:
    nonce = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {nonce}\r\nAuthorization: Bearer {key}\r\n\r\n"
    )


def _rows(ours: Outcome, limit: Outcome, count: int) -> list[Row]:
    p50, p99 = (report.quantile(ours.latencies, share) * 1000 for share in (0.5, 0.99))
    return [
        Row(
            what=f"memory of each of {count:,} idle WebSockets, 1 process, {ACCOUNTS} accounts",
            ours=f"{ours.bytes_each / 1024:.1f} KiB",
            limit_name="bare uvicorn echo WebSocket",
            limit=f"{limit.bytes_each / 1024:.1f} KiB",
            ratio=ours.bytes_each / limit.bytes_each,
            target="≤ 45 KiB",
            met=ours.bytes_each <= TARGET_BYTES,
            note="RSS of the server; no permessage-deflate on either side",
        ),
        Row(
            what=f"an event to one account's {count // ACCOUNTS} of these sockets, p99",
            ours=f"{p99:.0f} ms",
            limit_name="",
            limit="",
            ratio=None,
            target="≤ 100 ms",
            met=p99 <= TARGET_MS,
            note=f"p50 {p50:.0f} ms; from the request that causes it to the frame, commit included",
        ),
    ]


# The clients' process


class _Socket(asyncio.Protocol):
    """One WebSocket that listens, and answers pings (RFC 6455 section 5.5.2)."""

    def __init__(self, crowd: _Crowd, handshake: bytes) -> None:
        self._crowd = crowd
        self._handshake = handshake
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._gone: asyncio.Future[None] | None = None  # while it is being closed
        self.accepted: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are no subclasses
        self._transport.write(self._handshake)

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.sockets.discard(self)
        if self._gone is not None:
            self._gone.set_result(None)
        if self.accepted is not None and not self.accepted.done():
            self.accepted.set_exception(exc or ConnectionError(f"refused: {self._buffer[:200]!r}"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self.accepted is not None and not self._shake_hands():
            return
        while frame := self._frame():
            self._take(*frame)

    async def close(self) -> None:
        assert self._transport is not None
        self._gone = asyncio.get_running_loop().create_future()
        self._transport.abort()
        await self._gone

    def _shake_hands(self) -> bool:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end or self.accepted is None:
            return False
        if head[9:12] == b"101":
            self._crowd.sockets.add(self)
            self.accepted.set_result(None)
        else:
            self.accepted.set_exception(ConnectionError(f"refused: {head[:200]!r}"))
        self.accepted, self._handshake, self._buffer = None, b"", rest
        return True

    def _frame(self) -> tuple[int, bytes] | None:
        """The next one: opcode and payload (RFC 6455 section 5.2; servers do not mask)."""
        if len(self._buffer) < 2:
            return None
        length, start = self._buffer[1], 2
        if length == 126:
            if len(self._buffer) < 4:
                return None
            length, start = struct.unpack_from("!H", self._buffer, 2)[0], 4
        if len(self._buffer) < start + length:
            return None
        opcode, payload = self._buffer[0] & 0x0F, self._buffer[start : start + length]
        self._buffer = self._buffer[start + length :]
        return opcode, payload

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == 0x9 and self._transport is not None:
            self._transport.write(bytes([0x8A, 0x80 | len(payload), 0, 0, 0, 0]) + payload)  # masked with zeros
        elif opcode == 0x1:
            self._crowd.hear()


class _Crowd:
    """All sockets of the process, and what they heard since something was caused."""

    def __init__(self) -> None:
        self.sockets: set[_Socket] = set()
        self._begun = 0.0
        self._wanted = 0
        self._heard: list[float] = []
        self._complete = asyncio.Event()

    async def open(self, port: int, handshakes: Sequence[str], count: int) -> int:
        slots = asyncio.Semaphore(AT_ONCE)
        encoded = [handshake.encode() for handshake in handshakes]

        async def one(number: int) -> None:
            async with slots:
                socket = _Socket(self, encoded[number % len(encoded)])
                await asyncio.get_running_loop().create_connection(lambda: socket, "127.0.0.1", port)
                if socket.accepted is not None:
                    await socket.accepted

        await asyncio.gather(*(one(number) for number in range(count)))
        return len(self.sockets)

    async def close(self) -> int:
        await asyncio.gather(*(socket.close() for socket in tuple(self.sockets)))
        return len(self.sockets)

    async def count(self) -> int:
        return len(self.sockets)

    async def cause(self, port: int, request: str, frames: int) -> list[float]:
        """Seconds from the request to each of so many frames."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        self._heard, self._wanted = [], frames
        self._complete.clear()
        self._begun = time.perf_counter()
        writer.write(base64.b64decode(request))
        async with asyncio.timeout(30):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head[9:12] == b"201", head
            await self._complete.wait()
        writer.close()
        return self._heard

    def hear(self) -> None:
        self._heard.append(time.perf_counter() - self._begun)
        if len(self._heard) == self._wanted:
            self._complete.set()


async def _work() -> None:
    crowd = _Crowd()
    while line := await asyncio.to_thread(sys.stdin.readline):
        details = json.loads(line)
        print(json.dumps(await getattr(crowd, details.pop("what"))(**details)), flush=True)


if __name__ == "__main__":
    uvloop.run(_work())
