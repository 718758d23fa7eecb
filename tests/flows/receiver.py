"""Somebody who is told by webhook: a small HTTP server that keeps what comes and answers as a test says."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

OK: Final = "200 OK"


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """One request."""

    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event


class Receiver:
    """The server; an async context manager."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.answers: collections.deque[str] = collections.deque()  # status lines to come, with further header lines
        self.otherwise = OK
        self.hold: asyncio.Event | None = None  # nothing is answered before it is set
        self.at_once = 0  # requests that wait for their answer
        self.most_at_once = 0
        self.decide: Callable[[Told], str | None] = lambda told: (
            None
        )  # the status line for one request; None = the usual
        self._changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for talk in tuple(self._talks):
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    def url(self, path: str = "/hook") -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}{path}"

    async def until(self, count: int, seconds: float = 30) -> list[Told]:
        """What was told, once there is so much of it."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(lambda: len(self.told) >= count)
        return self.told

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk is not None
        self._talks.add(talk)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    await self._answer(reader, writer)
        finally:
            self._talks.discard(talk)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers["content-length"]))
        told = Told(path=head[0].split(" ")[1], headers=headers, body=body)
        answer = self.decide(told) or (self.answers.popleft() if self.answers else self.otherwise)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        async with self._changed:
            self.told.append(told)
            self._changed.notify_all()
        try:
            if self.hold is not None:
                await self.hold.wait()
        finally:
            self.at_once -= 1
        writer.write(f"HTTP/1.1 {answer}\r\nContent-Length: 4\r\n\r\nseen".encode())
        await writer.drain()
