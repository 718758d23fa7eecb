"""Who calls: the bearer token of a request, turned into a Caller."""

from __future__ import annotations

from typing import Final

from starlette.requests import HTTPConnection

from gateway.errors import MissingApiKey
from gateway.models import Caller
from gateway.storage.callers import Callers

SUBPROTOCOL: Final = "postroom.v1"


class Access:
    """Authenticates requests."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers

    async def __call__(self, request: HTTPConnection) -> Caller:
        """Raises MissingApiKey, InvalidApiKey."""
        return await self.caller(bearer(request))

    async def caller(self, token: str) -> Caller:
        """Whose token it is. Raises InvalidApiKey."""
        return await self._callers.of(token)


def bearer(request: HTTPConnection) -> str:
    """The token: from Authorization, or from a WebSocket's subprotocols (browsers can set no header there)."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    if request.scope["type"] == "websocket":
        for protocol in request.scope.get("subprotocols", ()):
            if protocol.startswith("bearer."):
                return str(protocol.removeprefix("bearer."))
    raise MissingApiKey
