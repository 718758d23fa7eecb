"""HTTP connections as the server holds them: uvicorn's, with an end to everything that a caller may draw out.

A head has a size and a deadline, a body a pace and a deadline, an answer must be read, requests that wait behind each
other and connections are counted. What is over a limit is answered in the contract's shape and closed.

A request that comes whole costs no timer; only what is begun and unfinished is watched.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import uuid_utils
from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway import errors
from gateway.settings import Settings

# reason: "connections" (too many open), "head" (too large or too slow), "body" (too slow), "malformed" (no HTTP),
# "pipeline" (too many requests at once), "unread" (an answer that its caller does not read)
CUT: Final = Counter("postroom_http_cut", "HTTP connections that were cut", ["reason"])

MAX_HEAD: Final = 65_536  # bytes of a request's head
MAX_FIELDS: Final = 200  # header fields of a request
MAX_PIPELINED: Final = 32  # requests that wait on one connection for the answer to those before
LINGER_SECONDS: Final = 2.0  # in which a caller over the count may read that it is
MOST_LINGERING: Final = 100  # beyond them connections over the count are closed without a word


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one process allows."""

    connections: int  # open at once, streams and WebSockets among them
    head_seconds: float  # from a connection's beginning, or a head's first byte, to the head's end
    body_seconds: float  # from the head's end to the body's
    body_rate: int  # bytes a second that a body must bring
    pace_seconds: float = 30.0  # over which its pace is taken: a line that stalls for a while may go on
    unread_seconds: float = 60.0  # in which a caller has to read something of an answer that waits for it

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        return cls(
            connections=settings.http_max_connections,
            head_seconds=settings.http_head_seconds,
            body_seconds=settings.http_body_seconds,
            body_rate=settings.http_min_body_rate,
        )


def protocol(limits: Limits) -> Any:
    """uvicorn's `http`: what makes a Connection for each that is accepted."""
    return functools.partial(Connection, limits=limits)


class Refused(Exception):
    """Raised inside the parser's callbacks; the connection has what it is refused with."""


class Watch:
    """A call that is due later, unless it is called off."""

    def __init__(self, loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
        self._loop = loop
        self._act = act
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_on(self) -> bool:
        return self._timer is not None

    def begin(self, seconds: float) -> None:
        """Anew, if it was on."""
        self.end()
        self._timer = self._loop.call_later(seconds, self._due)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        self._act()


class Connection(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, limits: Limits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._refusal: tuple[str, errors.ApiError] | None = None  # why, for CUT; and what is answered
        self._closing = False
        self._in_head = False
        self._silent = 0  # bytes since the parser last had a whole head or a piece of a body
        self._stepped = False  # whether the present bytes brought that
        self._fields = 0  # of the present head
        self._head_size = 0
        self._read = 0  # of the present body, since its pace was last looked at
        self._body_ends = 0.0  # by the loop's clock
        self._head_watch = Watch(self.loop, self._head_is_late)
        self._body_watch = Watch(self.loop, self._look_at_body)
        self._reader_watch = Watch(self.loop, self._look_at_reader)
        self._unread = 0  # bytes that waited for the caller when that was last looked at

    # From the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        super().connection_made(transport)
        over = len(self.connections) - self._limits.connections
        if over > MOST_LINGERING:
            CUT.labels("connections").inc()
            transport.abort()
        elif over > 0:
            self._linger(transport)
        else:
            self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._stepped = False
        super().data_received(data)
        if self._closing:  # refused, or another protocol's from now on
            return
        self._silent = 0 if self._stepped else self._silent + len(data)
        if self._silent > MAX_HEAD:
            self._refuse("head", errors.HeadersTooLarge())
        elif self._is_waiting_for_a_head():
            self._watch_head()
        elif not self._body_watch.is_on and self._present is not None and self._present.more_body:
            self._watch_body()

    def _is_waiting_for_a_head(self) -> bool:
        """Between requests only where something of the next has come: uvicorn's own timer is off then."""
        cycle = self._present
        return self._in_head or cycle is None or (cycle.response_complete and not cycle.more_body)

    @property
    def _present(self) -> RequestResponseCycle | None:
        """The newest request; None before the first."""
        return self.cycle

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.transport.get_write_buffer_size()
        self._reader_watch.begin(self._limits.unread_seconds)

    def resume_writing(self) -> None:
        self._reader_watch.end()
        super().resume_writing()

    # From the parser

    def on_message_begin(self) -> None:
        self._in_head, self._fields, self._head_size = True, 0, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:  # a trailer (RFC 9110 6.5.1): what was decided by the head stays decided
            return
        self._fields += 1
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._stepped = False, True
        self._head_watch.end()
        if len(self.pipeline) >= MAX_PIPELINED:
            self._fail("pipeline", errors.BadRequest("Too many requests at once on one connection."))
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._stepped = True
        self._read += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stepped = True
        self._body_watch.end()
        if self._present is not None and self._present.response_complete:
            self._present.more_body = False  # of which uvicorn takes no note where the answer came first
        super().on_message_complete()

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > MAX_HEAD or self._fields > MAX_FIELDS:
            self._fail("head", errors.HeadersTooLarge())

    def _fail(self, reason: str, error: errors.ApiError) -> None:
        self._refusal = (reason, error)
        raise Refused

    def send_400_response(self, msg: str) -> None:
        """What uvicorn does about bytes that are no HTTP, and about what a callback raised."""
        self._refuse(*(self._refusal or ("malformed", errors.BadRequest())))

    def handle_websocket_upgrade(self) -> None:
        self._closing = True  # for this protocol: another one has the connection now
        self._stop_watching()
        super().handle_websocket_upgrade()

    # Deadlines

    def _watch_head(self) -> None:
        if not self._head_watch.is_on:
            self._head_watch.begin(self._limits.head_seconds)

    def _head_is_late(self) -> None:
        if self._in_head:
            self._refuse("head", errors.RequestTimeout())
        else:  # nothing was said: an answer would be taken for that to the next request
            CUT.labels("head").inc()
            self.transport.close()

    def _watch_body(self) -> None:
        self._read, self._body_ends = 0, self.loop.time() + self._limits.body_seconds
        self._body_watch.begin(min(self._limits.pace_seconds, self._limits.body_seconds))

    def _look_at_body(self) -> None:
        """While nobody here reads it, its sender cannot be blamed."""
        left, pace = self._body_ends - self.loop.time(), self._limits.pace_seconds
        is_late = left <= 0 or self._read < self._limits.body_rate * pace
        if is_late and not self.flow.read_paused:
            self._refuse("body", errors.RequestTimeout())
            return
        self._read = 0
        self._body_watch.begin(min(pace, left) if left > 0 else pace)

    def _look_at_reader(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        if waiting >= self._unread:
            CUT.labels("unread").inc()
            self.transport.abort()
        else:
            self._unread = waiting
            self._reader_watch.begin(self._limits.unread_seconds)

    def _stop_watching(self) -> None:
        for watch in (self._head_watch, self._body_watch, self._reader_watch):
            watch.end()

    # Refusals

    def _refuse(self, reason: str, error: errors.ApiError) -> None:
        """Answer, if no other answer has begun, and close."""
        if self._closing:
            return
        CUT.labels(reason).inc()
        self._closing = True
        self._head_watch.end()
        self._body_watch.end()
        cycle = self._present
        answering = cycle is not None and not cycle.response_complete and (cycle.response_started or self.pipeline)
        if not answering:
            self.transport.write(answer(error))
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # whoever waits for its body hears that the caller has left
            cycle.message_event.set()
        self.transport.close()

    def _linger(self, transport: asyncio.Transport) -> None:
        """Say that there are too many; closed at once, with its request unread, the answer would be lost."""
        CUT.labels("connections").inc()
        self._closing = True
        transport.write(answer(errors.Unavailable("Too many connections; try again.", retry_after=1)))
        transport.write_eof()
        self._head_watch = Watch(self.loop, transport.abort)
        self._head_watch.begin(LINGER_SECONDS)


def answer(error: errors.ApiError) -> bytes:
    """The whole answer, after which the connection is closed."""
    request_id = str(uuid_utils.uuid7())
    body = json.dumps(error.body(request_id)).encode()
    retry = f"retry-after: {error.retry_after}\r\n" if error.retry_after is not None else ""
    head = (
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n{retry}x-request-id: {request_id}\r\n"
        "x-content-type-options: nosniff\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
