"""A line to Redis that fails in the ways in which lines and servers do, while connections stay as they are.

pass        nothing odd
swallow     what is said is taken, nothing comes back, new connections too
slow        every answer comes late, sooner than anybody gives up on it
<text>      every command is answered with this error: "-LOADING …"
full        new connections hear that there are too many and are closed; those that stand are closed, too
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path
from types import TracebackType
from typing import Final, Self

SLOW_SECONDS: Final = 0.2
FULL: Final = b"-ERR max number of clients reached\r\n"
_COMMAND: Final = re.compile(rb"^\*\d+\r$", re.MULTILINE)  # where a command begins


class RedisLine:
    """The line, from a TCP port to a server's unix socket; an async context manager."""

    def __init__(self, server: Path) -> None:
        self.mode = "pass"
        self._server = server
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listening is not None
        self._listening.close()
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        assert self._listening is not None
        return f"redis://127.0.0.1:{self._listening.sockets[0].getsockname()[1]}/0"

    def cut(self) -> None:
        """Break every connection."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk is not None
        self._tasks.add(talk)
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                if self.mode == "full":
                    writer.write(FULL)
                    await writer.drain()
                else:
                    await self._carry(reader, writer)
        finally:
            self._tasks.discard(talk)
            self._writers.discard(writer)
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, far = await asyncio.open_unix_connection(str(self._server))
        back = asyncio.create_task(self._answer(answers, writer))
        try:
            while said := await reader.read(65_536):
                if self.mode.startswith("-"):
                    writer.write(f"{self.mode}\r\n".encode() * max(1, len(_COMMAND.findall(said))))
                elif self.mode != "swallow":
                    far.write(said)
        finally:
            back.cancel()
            far.transport.abort()

    async def _answer(self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while said := await answers.read(65_536):
                if self.mode == "slow":
                    await asyncio.sleep(SLOW_SECONDS)
                if self.mode in {"pass", "slow"}:
                    writer.write(said)
        writer.transport.abort()  # the server is gone
