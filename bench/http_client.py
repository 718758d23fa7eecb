"""A load generator for HTTP/1.1, in a process of its own: as many keep-alive connections as asked for, each with one
request under way, nothing else. Lean on purpose, for it shares the machine with what it measures.

    async with http_client.started() as load:
        result = await load.round(port, [http_client.post("/v1/emails", key, body)], connections=50, seconds=3)

By itself (`python -m bench.http_client`) it reads one JSON object a line, `Round`'s fields, and answers each with a
line that holds `Result`'s.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, cast

import uvloop

from bench import setting

UNIQUE: Final = b"{unique}"  # in a request: replaced by a number that no other request of this process has
PATIENCE: Final = 30.0  # seconds until answers still owed at the end of a round are given up


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What is to be asked."""

    port: int
    requests: Sequence[str]  # base64 of whole requests; connections take them in turn
    connections: int
    seconds: float  # after which no request is begun; 0 = each request of the list once


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What came of it."""

    seconds: float  # from the first request to the last answer
    statuses: dict[str, int]  # how many answers had each
    p50_ms: float
    p99_ms: float
    bodies: list[str]  # where each request was sent once: what was answered, in no order

    def count(self, status: int) -> int:
        """How many answers there were; raises where any had another status."""
        if set(self.statuses) != {str(status)}:
            raise RuntimeError(f"not all answers were {status}: {self.statuses}")
        return self.statuses[str(status)]


def post(path: str, key: str, body: Any, *, idempotent: bool = False) -> bytes:
    """A request with a JSON body; `idempotent` gives each sending of it an Idempotency-Key of its own."""
    content = json.dumps(body).encode()
    once = b"Idempotency-Key: bench-%s\r\n" % UNIQUE if idempotent else b""
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n".encode() + once
    return head + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content) + content


class Load:
    """The generator's process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def round(self, port: int, requests: Sequence[bytes], *, connections: int, seconds: float = 0) -> Result:
        """One round of load; with `seconds` = 0 each request once."""
        encoded = [base64.b64encode(request).decode() for request in requests]
        asked = Round(port=port, requests=encoded, connections=connections, seconds=seconds)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(asked)).encode() + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load generator died")
        return Result(**json.loads(line))


@contextlib.asynccontextmanager
async def started() -> AsyncIterator[Load]:
    """A generator, ended afterwards."""
    async with setting.program("bench.http_client") as process:
        yield Load(process)


# The process


class _Tally:
    """What all connections of a round share."""

    def __init__(self, asked: Round) -> None:
        requests = [base64.b64decode(request) for request in asked.requests]
        self._requests: Iterator[bytes] = itertools.cycle(requests) if asked.seconds else iter(requests)
        self._until = time.perf_counter() + asked.seconds if asked.seconds else float("inf")
        self.statuses: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.bodies: list[str] | None = None if asked.seconds else []

    def next(self) -> bytes | None:
        """The next request; None = the round is over."""
        if time.perf_counter() >= self._until:
            return None
        request = next(self._requests, None)
        if request is not None and UNIQUE in request:
            request = request.replace(UNIQUE, b"%016x" % time.monotonic_ns())
        return request


class _Connection(asyncio.Protocol):
    """One request at a time; `done` when the round is over or the connection breaks."""

    def __init__(self) -> None:
        self._buffer = b""
        self._begun = 0.0
        self._tally: _Tally | None = None
        self._transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are no subclasses

    def connection_lost(self, exc: Exception | None) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_exception(exc or ConnectionError("closed before the answer"))

    def begin(self, tally: _Tally) -> asyncio.Future[None]:
        self._tally = tally
        self.done = asyncio.get_running_loop().create_future()
        self._ask()
        return self.done

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _ask(self) -> None:
        assert self._tally is not None
        assert self._transport is not None
        assert self.done is not None
        request = self._tally.next()
        if request is None:
            self.done.set_result(None)
            return
        self._begun = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer = buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = buffer[:end].lower()
        at = head.find(b"\r\ncontent-length:")
        length = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(buffer) < end + 4 + length:
            return
        self._buffer = b""
        self._record(buffer[9:12].decode(), buffer[end + 4 :])
        self._ask()

    def _record(self, status: str, body: bytes) -> None:
        assert self._tally is not None
        self._tally.latencies.append(time.perf_counter() - self._begun)
        self._tally.statuses[status] += 1
        if self._tally.bodies is not None:
            self._tally.bodies.append(body.decode())


async def _round(asked: Round) -> Result:
    loop = asyncio.get_running_loop()
    made = await asyncio.gather(
        *(loop.create_connection(_Connection, "127.0.0.1", asked.port) for _ in range(asked.connections))
    )
    connections = [connection for _, connection in made]
    tally = _Tally(asked)
    begun = time.perf_counter()
    async with asyncio.timeout(asked.seconds + PATIENCE):
        await asyncio.gather(*(connection.begin(tally) for connection in connections))
    seconds = time.perf_counter() - begun
    for connection in connections:
        connection.close()
    latencies = sorted(tally.latencies) or [0.0]
    return Result(
        seconds=seconds,
        statuses=dict(tally.statuses),
        p50_ms=latencies[len(latencies) // 2] * 1000,
        p99_ms=latencies[len(latencies) * 99 // 100] * 1000,
        bodies=tally.bodies or [],
    )


async def _work() -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        result = await _round(Round(**json.loads(line)))
        print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    uvloop.run(_work())
