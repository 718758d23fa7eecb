"""The same API for agents: the Model Context Protocol by streamable HTTP at /mcp, where the extra `mcp` is installed.

Its tools are a client of the API like any other (`gateway.client.mcp`): each call asks the operations of this very
process, with the key and the address of whoever called, so that scopes, limits, isolation and errors are the API's; of
the key's rate it takes one, whatever it asks. No session is kept between two calls: any process can answer the next.
The SDK is imported, in a thread, when the first call comes: it takes longer than all the rest of a process's start, and
most processes never need it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

import httpx2
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import __version__, errors
from gateway.client import AsyncPostroom
from gateway.web import access, api, edge, origins

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

PATH: Final = "/mcp"
MAX_BODY_BYTES: Final = 1_048_576


class Agents:
    """/mcp, over the application whose API is asked."""

    def __init__(self, app: ASGIApp, authenticate: api.Authenticate, trusted: origins.Networks) -> None:
        self._app = app
        self._authenticate = authenticate
        self._trusted = trusted
        self._opening = asyncio.Lock()
        self._manager: StreamableHTTPSessionManager | None = None  # set by the first call
        self._running: asyncio.Task[None] | None = None  # in it the SDK's task group lives

    def routes(self) -> list[Route]:
        """None where the extra is not installed."""
        return [Route(PATH, _Endpoint(self))] if importlib.util.find_spec("mcp") is not None else []

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Calls under way end with this."""
        try:
            yield
        finally:
            if self._running is not None:
                self._running.cancel()
                await asyncio.wait([self._running])

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One call."""
        current = edge.exchange(scope)
        current.route = PATH
        if scope["method"] != "POST":  # there is no session whose events could be listened to, or that could be ended
            current.headers.append((b"allow", b"POST"))
            raise errors.MethodNotAllowed
        current.account_id = (await self._authenticate(Request(scope, receive))).account_id
        await (await self._managed()).handle_request(scope, receive, send)

    async def _managed(self) -> StreamableHTTPSessionManager:
        async with self._opening:
            if self._manager is None:
                made = await asyncio.to_thread(self._make)
                ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._running = asyncio.create_task(_run(made, ready))
                await asyncio.wait([ready, self._running], return_when=asyncio.FIRST_COMPLETED)
                if self._running.done():
                    self._running.result()
                self._manager = made
            return self._manager

    def _make(self) -> StreamableHTTPSessionManager:
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager  # noqa: PLC0415 - see above

        from gateway.client import mcp as tools  # noqa: PLC0415 - likewise

        server = tools.server(self._client, __version__)
        return StreamableHTTPSessionManager(
            server._lowlevel_server,  # noqa: SLF001 - what its own streamable_http_app hands to the manager
            stateless=True,
            max_request_body_size=MAX_BODY_BYTES,
        )

    def _client(self, ctx: Any) -> AsyncPostroom:
        request: Request = ctx.request_context.request
        address = origins.remote_ip(request.scope, self._trusted)
        asking = httpx2.ASGITransport(self._uncounted, raise_app_exceptions=False, client=(address, 0))
        return AsyncPostroom("http://postroom.invalid", access.bearer(request), transport=asking)

    async def _uncounted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What a call asks was counted with the call."""
        await self._app({**scope, access.COUNTED: True}, receive, send)


async def _run(manager: StreamableHTTPSessionManager, ready: asyncio.Future[None]) -> None:
    async with manager.run():
        ready.set_result(None)
        await asyncio.Event().wait()


class _Endpoint:
    """An ASGI application, so that Starlette leaves the method and the answer to it."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._agents.answer(scope, receive, send)
