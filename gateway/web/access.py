"""Who calls: the bearer token of a request, turned into a Caller, as often as the caller's limits let it.

Who fails to authenticate too often from one address is not listened to any more, unless it shows a token that was good
a moment ago: so that guessing costs no look-ups, and a stranger behind the same address locks nobody out. Behind
a proxy inside that PROXY_TRUSTED does not name, everybody has its address: nobody is shut out, or one would be for all.
"""

from __future__ import annotations

from typing import Final

import structlog
from starlette.requests import HTTPConnection

from gateway import telemetry
from gateway.errors import InvalidApiKey, MissingApiKey, RateLimitExceeded
from gateway.models import Caller
from gateway.notify.rates import Limiter
from gateway.storage.callers import Callers
from gateway.web import edge, origins

seldom: Final = telemetry.Seldom(structlog.get_logger(__name__), most=1, seconds=60.0)

SUBPROTOCOL: Final = "postroom.v1"
COUNTED: Final = "postroom.counted"  # in the ASGI scope of what another request of the caller's asks in this process
SHUT_OUT: Final = "Too many failed authentications from this address."


class Access:
    """Authenticates requests."""

    def __init__(self, callers: Callers, limiter: Limiter, trusted: origins.Networks = ()) -> None:
        """`trusted`: proxies that are believed who their client is."""
        self._callers = callers
        self._limiter = limiter
        self._trusted = trusted

    async def __call__(self, request: HTTPConnection) -> Caller:
        """One request of the caller's, counted; what is left goes into the answer's headers.

        Raises MissingApiKey, InvalidApiKey, RestrictedApiKey, RateLimitExceeded."""
        caller = await self.admitted(bearer(request), request)
        if not request.scope.get(COUNTED):
            self.count(caller, edge.exchange(request.scope))
        return caller

    async def admitted(self, token: str, request: HTTPConnection) -> Caller:
        """Whose token it is, uncounted; a failure counts against the client's address.

        Raises InvalidApiKey, RestrictedApiKey, RateLimitExceeded."""
        return await (self.caller(token) if self._callers.remembers(token) else self._stranger(token, request))

    async def holding(self, hashed: bytes) -> Caller:
        """Whose the token of this hash is, uncounted, for who has shown it before. Raises like `caller`."""
        return await self._callers.holding(hashed)

    async def caller(self, token: str) -> Caller:
        """Whose token it is, uncounted. Raises InvalidApiKey, RestrictedApiKey."""
        return await self._callers.of(token)

    async def _stranger(self, token: str, request: HTTPConnection) -> Caller:
        client = origins.remote_ip(request.scope, self._trusted)
        if origins.comes_through_a_stranger(request.scope, self._trusted):
            seldom.warning("a proxy is not in PROXY_TRUSTED: who guesses keys is not shut out", address=client)
            return await self.caller(token)
        if seconds := self._limiter.shut_out(client):
            raise RateLimitExceeded(SHUT_OUT, retry_after=seconds)
        try:
            return await self.caller(token)
        except InvalidApiKey:
            self._limiter.failed(client)
            raise

    def guessed(self, request: HTTPConnection) -> None:
        """What was shown was made up: a failed authentication of the client's address. Raises RateLimitExceeded."""
        if origins.comes_through_a_stranger(request.scope, self._trusted):
            return
        client = origins.remote_ip(request.scope, self._trusted)
        if seconds := self._limiter.shut_out(client):
            raise RateLimitExceeded(SHUT_OUT, retry_after=seconds)
        self._limiter.failed(client)

    def count(self, caller: Caller, current: edge.Exchange) -> None:
        """One request of the caller's; what is left goes into the answer's headers. Raises RateLimitExceeded."""
        standing = self._limiter.request(caller)
        if standing is None:
            return
        current.headers += [
            (b"ratelimit-limit", b"%d" % standing.limit),
            (b"ratelimit-remaining", b"%d" % standing.remaining),
            (b"ratelimit-reset", b"%d" % standing.reset),
        ]
        if not standing.allowed:
            current.account_id = caller.account_id
            most = f"{standing.per_second:g} a second, {standing.limit} at once"
            whose = "key" if standing.name == "key" else "account"
            raise RateLimitExceeded(f"Too many requests for one {whose} ({most}).", retry_after=standing.retry_after)


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
