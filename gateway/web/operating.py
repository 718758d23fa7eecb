"""What a platform asks of a process: does it live, is it ready, what does it count."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gateway import telemetry
from gateway.errors import InvalidApiKey, MissingApiKey, RestrictedApiKey, Unavailable
from gateway.lifecycle import Gateway
from gateway.outbound.backlog import Backlog
from gateway.storage import vitals
from gateway.web import edge
from gateway.web.access import Access, bearer


class Operating:
    """/healthz, /readyz, /metrics."""

    def __init__(self, gateway: Gateway, access: Access, listening: Callable[[], dict[str, bool]]) -> None:
        self._gateway = gateway
        self._access = access
        self._backlog = Backlog(gateway.database)
        self._listening = listening  # name of each listener that is configured → does it listen?

    def routes(self) -> Sequence[Route]:
        return [
            Route("/healthz", _named("/healthz", self.healthz)),
            Route("/readyz", _named("/readyz", self.readyz)),
            Route("/metrics", _named("/metrics", self.metrics)),
        ]

    async def healthz(self, request: Request) -> Response:
        """The process lives; whether its database does is another question."""
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """Database reachable and migrated, Redis and living workers told, listeners listening. 503 names what is
        missing: no worker is no reason to turn mail away, which waits for the next one."""
        problems, workers = await self._gateway.problems(), await self._workers()
        listening = self._listening()
        problems += [f"{name} does not listen" for name, listens in listening.items() if not listens]
        body = {
            "status": "unready" if problems else "ready",
            "problems": problems,
            "redis": self._gateway.redis_state,
            "workers": workers,
            "listeners": listening,
        }
        status = 503 if problems else 200
        return Response(msgspec.json.encode(body), status_code=status, media_type="application/json")

    async def _workers(self) -> int | None:
        """How many live; None = not known."""
        try:
            async with self._gateway.database.connection() as connection:
                return (await vitals.workers(connection)).alive
        except Unavailable:
            return None

    async def metrics(self, request: Request) -> Response:
        """Prometheus exposition; open in dev, else by METRICS_TOKEN or an admin key."""
        if not self._gateway.settings.postroom_dev:
            await self._admit(request)
        self._gateway.observe()
        await asyncio.gather(self._backlog.sample(), self._gateway.vitals.sample())
        body, content_type = telemetry.exposition()
        return Response(body, headers={"content-type": content_type})

    async def _admit(self, request: Request) -> None:
        token = self._gateway.settings.metrics_token.get_secret_value()
        given = bearer(request)
        if token and hmac.compare_digest(given.encode(), token.encode()):
            return
        try:
            caller = await self._access.caller(given)
        except (InvalidApiKey, MissingApiKey):
            raise InvalidApiKey from None
        if not caller.has_any(()):
            raise RestrictedApiKey


def _named(path: str, handler: Any) -> Any:
    async def answer(request: Request) -> Response:
        edge.exchange(request.scope).route = path
        response: Response = await handler(request)
        return response

    return answer
