"""An HTTP server that is told what to answer and remembers what it was asked.

async with api.Api() as server:
    server.next(api.Act(status=429, headers={"Retry-After": "30"}))       # once; else `usual` is answered
    …
    assert server.requests[0].path == "/email"
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Literal, Self


@dataclass(frozen=True, kw_only=True, slots=True)
class Act:
    """One answer, or none."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    # cut: the request is read and the connection closed unanswered; half: closed within the answer's body;
    # silent: the request is read and never answered; endless: the body goes on until the client hangs up
    line: Literal["kept", "cut", "half", "silent", "endless"] = "kept"
    until: asyncio.Event | None = None  # nothing is answered before it is set


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What was asked."""

    method: str
    path: str  # and query
    headers: dict[str, str]  # names in lower case
    body: bytes
    connection: int  # from 1
    taken: bool  # answered 2xx


class Api:
    """The server; an async context manager."""

    def __init__(
        self,
        usual: Act | Callable[[Request], Act] | None = None,  # what is answered, or what makes it of the request
        *,
        listener: socket.socket | None = None,  # one that others go on listening with
        tls: ssl.SSLContext | None = None,  # with it: https://localhost
    ) -> None:
        self.usual = usual or Act()
        self._listener = listener
        self._tls = tls
        self.requests: list[Request] = []
        self.url = ""
        self.connections = 0
        self.open = 0  # connections
        self.endless_octets = 0  # that went out of endless bodies
        self.hung_up = asyncio.Event()  # a client closed
        self.asked = asyncio.Event()  # a request was read
        self._next: collections.deque[Act] = collections.deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def next(self, act: Act) -> None:
        """Answer the next request so."""
        self._next.append(act)

    async def __aenter__(self) -> Self:
        where: dict[str, Any] = {"host": "127.0.0.1", "port": 0}
        if self._listener is not None:
            where = {"sock": self._listener.dup()}
        self._server = await asyncio.start_server(self._serve, ssl=self._tls, **where)
        self.url = (
            f"{'https://localhost' if self._tls else 'http://127.0.0.1'}:{self._server.sockets[0].getsockname()[1]}"
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        self.open += 1
        number = self.connections
        try:
            while await self._one(number, reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):  # the last by __aexit__ alone
            pass
        finally:
            self.open -= 1
            self.hung_up.set()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _one(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = Request(method=method, path=path, headers=headers, body=body, connection=number, taken=False)
        usual = self.usual if isinstance(self.usual, Act) else self.usual(request)
        act = self._next.popleft() if self._next else usual
        taken = 200 <= act.status < 300 and act.line in {"kept", "half", "endless"}
        self.requests.append(replace(request, taken=taken))
        self.asked.set()
        return await self._answer(act, reader, writer)

    async def _answer(self, act: Act, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if act.until is not None:
            await act.until.wait()
        if act.line == "cut":
            return False
        if act.line == "silent":
            await reader.read()
            return False
        length = len(act.body) + (100 if act.line == "half" else 0) if act.line != "endless" else 1 << 40
        headers = {"Content-Length": str(length), **act.headers}
        lines = [f"HTTP/1.1 {act.status} Said", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode() + act.body)
        while act.line == "endless":
            writer.write(b" " * 65_536)
            await writer.drain()
            self.endless_octets += 65_536
        await writer.drain()
        return act.line == "kept"
