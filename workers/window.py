"""A worker's own window: /metrics and /healthz on WORKER_METRICS_PORT, for where no web process shares its metrics.

`healthz` is 503 once one of the rounds that a worker consists of has ended: whoever looks may start it again. /metrics
asks for METRICS_TOKEN or an admin key, as the web process does.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Generator, Sequence
from typing import Any, Final

import structlog
import uvicorn

from gateway import sockets, telemetry
from gateway.errors import InvalidApiKey, RestrictedApiKey, Unavailable
from gateway.lifecycle import Gateway
from gateway.outbound.backlog import Backlog
from gateway.settings import Settings

log = structlog.get_logger(__name__)

PLAIN: Final = "text/plain; charset=utf-8"
Answer = tuple[int, bytes, str]  # status, body, content type


class Window:
    """The ASGI application."""

    def __init__(self, gateway: Gateway, rounds: Sequence[asyncio.Future[None]]) -> None:
        self._gateway = gateway
        self._backlog = Backlog(gateway.database)
        self._rounds = rounds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        status, body, content_type = await self._answer(scope)
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, scope: Any) -> Answer:
        if scope["method"] not in ("GET", "HEAD"):
            return 405, b"method not allowed\n", PLAIN
        if scope["path"] == "/healthz":
            return self._health()
        if scope["path"] == "/metrics":
            return await self._metrics(scope)
        return 404, b"not found\n", PLAIN

    def _health(self) -> Answer:
        ended = sum(one.done() for one in self._rounds)
        return (503, b"%d rounds have ended\n" % ended, PLAIN) if ended else (200, b"ok\n", PLAIN)

    async def _metrics(self, scope: Any) -> Answer:
        try:
            if not await self._may_look(scope):
                return 401, b"METRICS_TOKEN or an admin key is needed\n", PLAIN
        except Unavailable:
            return 503, b"database away: METRICS_TOKEN alone is known without it\n", PLAIN
        self._gateway.observe()
        await asyncio.gather(self._backlog.sample(), self._gateway.vitals.sample())
        body, content_type = telemetry.exposition()
        return 200, body, content_type

    async def _may_look(self, scope: Any) -> bool:
        """Raises Unavailable."""
        settings = self._gateway.settings
        if settings.postroom_dev:
            return True
        given = b"".join(value for name, value in scope["headers"] if name == b"authorization")
        scheme, _, token = given.decode("latin-1").partition(" ")
        known = settings.metrics_token.get_secret_value()
        if scheme.lower() != "bearer":
            return False
        if known and hmac.compare_digest(token.strip().encode(), known.encode()):
            return True
        try:
            return (await self._gateway.callers.of(token.strip())).has_any(())
        except (InvalidApiKey, RestrictedApiKey):  # nobody's, or of a suspended account
            return False


class _Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to the worker."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@contextlib.asynccontextmanager
async def opened(
    settings: Settings, gateway: Gateway, rounds: Sequence[asyncio.Future[None]]
) -> AsyncIterator[int | None]:
    """The window, as long as it is wanted; its port, None where there is none. Raises ConfigurationError where the port
    is taken."""
    if settings.worker_metrics_port is None:
        yield None
        return
    bound = sockets.bind(settings.host, settings.worker_metrics_port, "a worker's metrics (WORKER_METRICS_PORT)")
    server = _Server(
        uvicorn.Config(
            Window(gateway, rounds),
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    log.info("worker's metrics", port=sockets.port_of(bound))
    try:
        yield sockets.port_of(bound)
    finally:
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
        bound.close()
