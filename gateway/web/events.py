"""/v1/events: the log by page, long poll, SSE and WebSocket; the same for one mailbox, open to its token.

All four read the log from a cursor and none loses or reorders what it holds. A stream that does not read is cut off and
resumes by its cursor.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final
from uuid import UUID

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from gateway import errors, models
from gateway.lifecycle import Gateway
from gateway.models import Caller, Input, Output, Time
from gateway.notify.live import Lagging, Subscription, Told
from gateway.storage import events
from gateway.web import access, api, edge, reading
from gateway.web.paths import Paths

SCOPES: Final = frozenset({"mailboxes", "send", "read"})
SCOPES_OF_MAILBOX: Final = frozenset({"mailboxes", "read"})
OPEN: Final = {"mailboxes": ("mailbox.", "message."), "send": ("email.",)}  # what a key without `read` hears of
COMMENT_SECONDS: Final = 15.0  # silence on an SSE stream, then a comment
REVOKED: Final = 1008  # RFC 6455's "policy": the key or token is worth nothing any more
CUT_OFF: Final = 1013  # RFC 6455's "try again later": resume by cursor
GOING_AWAY: Final = 1012  # the server restarts
CUT: Final = "postroom.cut"  # in the scope: closes with a code although the client does not read (gateway.app)
HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no"}


class StreamQuery(Input):
    """Which events, and from where."""

    after: str | None = Field(None, description="A cursor; default the log's beginning for pages, now for streams")
    types: models.Words | None = Field(None, description="Only these types")
    limit: int = Field(50, ge=1, le=200, description="Events of a page")
    wait: float = Field(0, ge=0, le=60, description="Seconds to wait for the first event (long poll)")


class EventsQuery(StreamQuery):
    """The same over the whole account."""

    mailbox: str | None = Field(None, description="Only of this mailbox (id or address)")
    email: UUID | None = Field(None, description="Only of this e-mail")


class Event(Output):
    """Something that happened."""

    id: UUID
    seq: int
    cursor: str
    type: str
    created_at: Time
    mailbox_id: UUID | None = None
    email_id: UUID | None = None
    message_id: UUID | None = None
    data: dict[str, Any]


class EventsPage(Output):
    """Events, oldest first; `next_cursor` goes on behind them, also where there are none yet."""

    object: str = "list"
    data: list[Event]
    has_more: bool
    next_cursor: str


class Events:
    """The operations, and the WebSockets."""

    def __init__(self, gateway: Gateway, paths: Paths, authenticate: access.Access) -> None:
        self._gateway = gateway
        self._paths = paths
        self._authenticate = authenticate

    def operations(self) -> Sequence[api.Operation]:
        common: dict[str, Any] = {"tags": ["Events"], "returns": EventsPage, "errors": [errors.CursorExpired]}
        missing = [errors.CursorExpired, errors.NotFound]  # the latter of `mailbox`
        return [
            api.op("GET", "/events", self.of_account, scope=SCOPES, **{**common, "errors": missing}),
            api.op(
                "GET",
                "/mailboxes/{mailbox}/events",
                self.of_mailbox,
                scope=SCOPES_OF_MAILBOX,
                mailbox_token=True,
                **common,
            ),
        ]

    def routes(self, prefix: str) -> list[WebSocketRoute]:
        """The WebSockets, at the same paths."""
        return [
            WebSocketRoute(f"{prefix}/events", self._account_socket),
            WebSocketRoute(f"{prefix}/mailboxes/{{mailbox}}/events", self._mailbox_socket),
        ]

    async def of_account(self, request: Request, caller: Caller, query: EventsQuery) -> Response:
        """A page, a long poll (`wait`), or a stream (`Accept: text/event-stream`)."""
        return await self._answer(request, caller, query, await self._wanted(caller, query))

    async def of_mailbox(self, request: Request, caller: Caller, mailbox: str, query: StreamQuery) -> Response:
        """The same for one mailbox; its token suffices."""
        box = await self._paths.mailbox(caller, mailbox)
        return await self._answer(request, caller, query, _filter(caller, query, box.id, None))

    async def _wanted(self, caller: Caller, query: EventsQuery) -> events.Filter:
        mailbox_id = await self._paths.mailbox_id(caller, query.mailbox) if query.mailbox is not None else None
        return _filter(caller, query, mailbox_id, query.email)

    async def _answer(self, request: Request, caller: Caller, query: StreamQuery, wanted: events.Filter) -> Response:
        if "text/event-stream" in request.headers.get("accept", ""):
            return await self._sse(request, caller, query, wanted)
        async with self._gateway.admission.required(caller):
            return await self._page(caller.account_id, query, wanted)

    # Pages and long polls

    async def _page(self, account_id: UUID, query: StreamQuery, wanted: events.Filter) -> Response:
        if not query.wait:
            return (await self._read(account_id, query, wanted))[1]
        async with self._gateway.live.subscribe(account_id, wanted) as subscription:
            count, answer = await self._read(account_id, query, wanted)
            if not count:
                with contextlib.suppress(Lagging):
                    await subscription.next(query.wait)
                _, answer = await self._read(account_id, query, wanted)
        return answer

    async def _read(self, account_id: UUID, query: StreamQuery, wanted: events.Filter) -> tuple[int, Response]:
        """How many events, and the page of them."""
        async with self._gateway.database.connection() as connection:
            bounds = await events.bounds(connection, account_id)
            cursor = bounds.oldest - 1
            if query.after is not None:
                cursor = models.seq(query.after, "after")
                bounds.check(cursor)
            found = await events.page(
                connection, account_id, wanted, cursor=cursor, until=bounds.newest, limit=query.limit + 1
            )
        shown, has_more = found[: query.limit], len(found) > query.limit
        following = shown[-1].seq if has_more else bounds.newest
        flags = b"true" if has_more else b"false"
        body = b'{"object":"list","data":[%s],"has_more":%s,"next_cursor":"%d"}' % (
            b",".join(event.json() for event in shown),
            flags,
            following,
        )
        return len(shown), Response(body, media_type="application/json", headers=HEADERS)

    # Server-sent events

    async def _sse(self, request: Request, caller: Caller, query: StreamQuery, wanted: events.Filter) -> Response:
        last = request.headers.get("last-event-id")
        cursor = await self._start(
            caller.account_id, query if last is None else query.model_copy(update={"after": last})
        )
        stream = self._lines(caller, wanted, cursor)
        return StreamingResponse(stream, media_type="text/event-stream", headers=HEADERS)

    async def _lines(self, caller: Caller, wanted: events.Filter, cursor: int | None) -> AsyncIterator[bytes]:
        """WHATWG HTML 9.2: `id` is the cursor, so that a browser that reconnects goes on where it was."""
        account_id, gateway = caller.account_id, self._gateway
        async with gateway.live.subscribe(account_id, wanted, cursor) as subscription:
            watched = gateway.admission.watched(caller, subscription.end)
            yield b": connected\n\n"  # only now: from here on nothing is missed
            with watched, contextlib.suppress(Lagging):
                async for told in self._told(account_id, subscription, COMMENT_SECONDS):
                    yield b"".join(_frame(one) for one in told) or b": still here\n\n"

    async def _told(
        self, account_id: UUID, subscription: Subscription, silence: float | None
    ) -> AsyncIterator[Sequence[Told]]:
        """What the log holds, then what it gets; empty after `silence` seconds without anything. Raises Lagging."""
        async for told in self._gateway.live.catch_up(account_id, subscription):
            yield told
        while True:
            yield await subscription.next(silence)

    async def _start(self, account_id: UUID, query: StreamQuery) -> int | None:
        """The cursor to begin behind; None = now. Raises CursorExpired while there can still be an answer."""
        if query.after is None:
            return None
        cursor = models.seq(query.after, "after")
        async with self._gateway.database.connection() as connection:
            (await events.bounds(connection, account_id)).check(cursor)
        return cursor

    # WebSockets

    async def _account_socket(self, websocket: WebSocket) -> None:
        edge.exchange(websocket.scope).route = "/v1/events"
        caller = await self._admit(websocket, SCOPES)
        if caller.mailbox_id is not None:
            raise errors.RestrictedApiKey("A mailbox's token cannot do this: use an API key.")
        query: EventsQuery = _ACCOUNT_QUERY.read(reading.query_pairs(websocket.scope["query_string"]))
        await self._serve(websocket, caller, query, await self._wanted(caller, query))

    async def _mailbox_socket(self, websocket: WebSocket) -> None:
        edge.exchange(websocket.scope).route = "/v1/mailboxes/{mailbox}/events"
        caller = await self._admit(websocket, SCOPES_OF_MAILBOX)
        query: StreamQuery = _MAILBOX_QUERY.read(reading.query_pairs(websocket.scope["query_string"]))
        box = await self._paths.mailbox(caller, websocket.path_params["mailbox"])
        await self._serve(websocket, caller, query, _filter(caller, query, box.id, None))

    async def _admit(self, websocket: WebSocket, scopes: frozenset[str]) -> Caller:
        caller = await self._authenticate(websocket)
        if caller.mailbox_id is None and not caller.has_any(scopes):
            raise errors.RestrictedApiKey
        return caller

    async def _serve(self, websocket: WebSocket, caller: Caller, query: StreamQuery, wanted: events.Filter) -> None:
        cursor = await self._start(caller.account_id, query)
        offered = websocket.scope.get("subprotocols", ())
        async with self._gateway.live.subscribe(caller.account_id, wanted, cursor) as subscription:
            await websocket.accept(subprotocol=access.SUBPROTOCOL if access.SUBPROTOCOL in offered else None)
            sending = asyncio.create_task(self._send(websocket, caller.account_id, subscription))
            subscription.on_lagging = lambda: self._cut(websocket, sending)
            try:
                with self._gateway.admission.watched(caller, lambda: self._cut(websocket, sending, REVOKED)):
                    await _gone(websocket)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, websocket: WebSocket, account_id: UUID, subscription: Subscription) -> None:
        """One frame an event. For who does not read, frames pile up in the socket, then in the subscription."""
        try:
            async for told in self._told(account_id, subscription, None):
                for one in told:
                    await websocket.send({"type": "websocket.send", "text": one.body.decode()})
        except (Lagging, errors.CursorExpired):
            self._cut(websocket, None)

    def _cut(self, websocket: WebSocket, sending: asyncio.Task[None] | None, code: int = CUT_OFF) -> None:
        """At once, past whatever the client has not read."""
        if sending is not None:
            sending.cancel()
        websocket.scope[CUT](GOING_AWAY if self._gateway.live.closed else code)


async def _gone(websocket: WebSocket) -> None:
    """Returns when the client is gone, or cut off. What it says meanwhile is not listened to."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


def _filter(caller: Caller, query: StreamQuery, mailbox_id: UUID | None, email_id: UUID | None) -> events.Filter:
    """Raises ValidationFailed, RestrictedApiKey."""
    unknown = sorted(set(query.types or ()) - events.TYPES)
    if unknown:
        raise errors.invalid("types", f"there are no events of type {unknown[0][:64]!r}")
    types, allowed = query.types, _allowed(caller)
    if allowed is not None:
        if closed := sorted(set(types or ()) - allowed):
            raise errors.RestrictedApiKey(f"The API key may not hear of {closed[0]}: it needs the scope read.")
        types = types if types is not None else tuple(sorted(allowed))
    return events.Filter(types=types, mailbox_id=mailbox_id, email_id=email_id)


def _allowed(caller: Caller) -> frozenset[str] | None:
    """Types that the caller may hear of; None = all. Who may only send must not read codes that come in."""
    if caller.mailbox_id is not None or caller.has_any({"read"}):
        return None
    prefixes = ("log.", *(prefix for scope in caller.scopes for prefix in OPEN.get(scope, ())))
    return frozenset(name for name in events.TYPES if name.startswith(prefixes))


def _frame(told: Told) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (told.event.seq, told.event.type.encode(), told.body)


_ACCOUNT_QUERY: Final = reading.Query(EventsQuery)
_MAILBOX_QUERY: Final = reading.Query(StreamQuery)
