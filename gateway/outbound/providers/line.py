"""The line to a peer once it has been greeted: what is written is answered in that order (RFC 2920).

aiosmtplib opens connections and agrees on their terms; it reads one reply at a time, though, and drops what comes
while nobody waits. From there on this protocol takes the connection over, so that a group of commands goes out in one
write and each reply finds the command that it answers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final, cast

MAX_LINE: Final = 8192  # octets of one line of a reply; RFC 5321 section 4.5.3.1.5 allows 512
MAX_REPLY: Final = 65_536  # octets of a reply, or of what stands unread


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete reply."""

    code: int  # three digits
    text: str  # without code; lines joined by \n; octets that are no UTF-8 as surrogates

    def __str__(self) -> str:
        return f"{self.code} {self.text}"


class Lost(Exception):
    """No reply will come: the connection is gone, or what came is none."""


class Line(asyncio.Protocol):
    """Replies of one connection, in the order of what was written. Use it from the task that has the connection."""

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        """Takes the connection over from whoever had it."""
        self._transport = transport
        self._buffer = bytearray()
        self._text: list[str] = []  # lines of a reply that is not complete
        self._replies: deque[Reply] = deque()  # not read yet
        self._unread = 0  # octets that came since nothing stood unread
        self._waiter: asyncio.Future[None] | None = None
        self._lost: str | None = None  # why no more will come
        transport.set_protocol(self)

    @property
    def quiet(self) -> bool:
        """Whether it stands, and nothing lies there that nobody asked for."""
        return self._lost is None and not (self._buffer or self._text or self._replies or self._transport.is_closing())

    @property
    def all_sent(self) -> bool:
        """Whether everything written has left this process."""
        return self._transport.get_write_buffer_size() == 0

    def write(self, octets: bytes) -> None:
        """Send it as soon as the peer takes it. Raises Lost, and then nothing was written."""
        if self._lost is not None or self._transport.is_closing():
            raise Lost(self._lost or "Connection lost")
        self._transport.write(octets)

    async def reply(self, seconds: float) -> Reply:
        """The next one. Raises Lost; after that no reply can be told from another any more."""
        if not self._replies:
            await self._wait(seconds)
        reply = self._replies.popleft()
        if not self._replies:
            self._unread = len(self._buffer)
        return reply

    def abort(self) -> None:
        """Close at once; what has not left yet never will."""
        self._transport.abort()

    async def _wait(self, seconds: float) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        if self._lost is not None:
            self._wake()
        try:
            async with asyncio.timeout(seconds):
                await self._waiter
        except TimeoutError as error:
            raise Lost("Timed out waiting for server response") from error
        finally:
            self._waiter = None
        if not self._replies:
            raise Lost(self._lost)

    # What the loop calls

    def data_received(self, data: bytes) -> None:
        if self._lost is not None:  # nobody reads it
            return
        self._unread += len(data)
        if self._unread > MAX_REPLY:
            self._give_up()
            return
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._take(line)
        if len(self._buffer) > MAX_LINE:
            self._give_up()

    def eof_received(self) -> bool:
        self._end("Unexpected EOF received")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("Connection lost" if exc is None else f"Connection lost: {exc}")

    def _take(self, line: bytes) -> None:
        code, mark, text = line[:3], line[3:4], line[4:].decode("utf-8", "surrogateescape").strip(" \t\r")
        if not (len(code) == 3 and code.isdigit()):
            self._end(f"Malformed SMTP response line: {line.decode('utf-8', 'replace').strip()}")
            return
        self._text.append(text)
        if mark == b"-":
            return
        joined, self._text = "\n".join(self._text), []
        if self._lost is None:
            self._replies.append(Reply(int(code), joined))
            self._wake()

    def _give_up(self) -> None:
        self._end("Response too long")
        self.abort()

    def _end(self, reason: str) -> None:
        """The first reason counts."""
        if self._lost is None:
            self._lost = reason
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def taken_over(transport: object) -> Line:
    """The line over aiosmtplib's transport; uvloop's are no subclasses of asyncio's."""
    return Line(cast("asyncio.WriteTransport", transport))
