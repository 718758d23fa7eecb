"""A TCP line to Postgres that tests can cut: at any time, or in the moment of a COMMIT."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from gateway.embedded import SOCKET

COMMITS = (b"COMMIT;", b'"event_id":')  # how one is known; the second stands in the statement that stores mail at once
At = Literal["pass", "lost", "unanswered"]  # what becomes of a COMMIT: nothing odd; never arrives; its answer does not


async def passing() -> At:
    return "pass"


@dataclass(kw_only=True)
class Line:
    """The line; `dsn` leads through it."""

    upstream: str
    server: Path
    port: int = 0
    is_cut: bool = False  # nobody gets through, until it is mended
    connections: int = 0  # that were ever made
    at_commit: Callable[[], Awaitable[At]] = passing
    on_refusal: Callable[[], None] = lambda: None  # somebody tried to connect while it was cut
    _ends: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def dsn(self) -> str:
        return self.dsn_with("sslmode=disable")

    def dsn_with(self, query: str) -> str:
        return f"postgresql://postroom@127.0.0.1:{self.port}{urlsplit(self.upstream).path}?{query}"

    def cut(self) -> None:
        """All connections break, and no new one is made."""
        self.is_cut = True
        for end in list(self._ends):
            end.transport.abort()

    def mend(self) -> None:
        self.is_cut = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            writer.transport.abort()
            self.on_refusal()
            return
        self.connections += 1
        from_server, to_server = await asyncio.open_unix_connection(self.server)
        self._ends |= {writer, to_server}
        muted = asyncio.Event()
        with contextlib.suppress(OSError):
            await asyncio.wait(
                [
                    asyncio.create_task(self._say(reader, to_server, muted)),
                    asyncio.create_task(self._answer(from_server, writer, muted)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        for end in (writer, to_server):
            end.transport.abort()
            self._ends.discard(end)

    async def _say(self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter, muted: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if any(commit in data for commit in COMMITS):
                    what = await self.at_commit()
                    if what == "lost":
                        return
                    if what == "unanswered":
                        muted.set()
                to_server.write(data)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, muted: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if muted.is_set():
                    return
                writer.write(data)


@contextlib.asynccontextmanager
async def laid(dsn: str) -> AsyncIterator[Line]:
    """A line to the database at `dsn`, which names a unix socket's folder."""
    folder = parse_qs(urlsplit(dsn).query)["host"][0]
    line = Line(upstream=dsn, server=Path(folder) / SOCKET)
    server = await asyncio.start_server(line.serve, "127.0.0.1", 0)
    line.port = server.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        server.close()
        line.cut()
        await server.wait_closed()
