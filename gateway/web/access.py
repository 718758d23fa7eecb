"""Who calls: the bearer token of a request, turned into a Caller.

A token's checksum is looked at before the database is, so that typos and garbage cost nothing. What is found is held
to be true for a second, so that a busy caller does not look its key up for every request.
"""

from __future__ import annotations

import time
from typing import Final

from starlette.requests import HTTPConnection

from gateway import tokens
from gateway.errors import InvalidApiKey, MissingApiKey
from gateway.models import Caller
from gateway.storage import accounts, db

BELIEVED_SECONDS: Final = 1.0
REMEMBERED: Final = 10_000  # callers; over it all are forgotten
SUBPROTOCOL: Final = "postroom.v1"


class Access:
    """Authenticates requests."""

    def __init__(self, database: db.Database) -> None:
        self._database = database
        self._known: dict[bytes, tuple[float, Caller]] = {}  # by the token's hash; until when, on the monotonic clock

    async def __call__(self, request: HTTPConnection) -> Caller:
        """Raises MissingApiKey, InvalidApiKey."""
        return await self.caller(bearer(request))

    async def caller(self, token: str) -> Caller:
        """Whose token it is. Raises InvalidApiKey."""
        if not tokens.looks_like_key(token):
            raise InvalidApiKey
        hashed = tokens.hash_token(token)
        until, caller = self._known.get(hashed, (0.0, None))
        if caller is not None and time.monotonic() < until:
            return caller
        caller = await self._look_up(hashed)
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[hashed] = (time.monotonic() + BELIEVED_SECONDS, caller)
        return caller

    async def _look_up(self, hashed: bytes) -> Caller:
        async with self._database.connection() as connection:
            credential = await accounts.credential(connection, hashed)
            if credential is None:
                raise InvalidApiKey
            if credential.kind == "mailbox":
                return Caller(account_id=credential.account_id, mailbox_id=credential.object_id)
            key = await accounts.usable_key(connection, credential.account_id, credential.object_id)
        if key is None:
            raise InvalidApiKey
        scopes = frozenset(key.scopes)
        return Caller(account_id=credential.account_id, key_id=key.id, scopes=scopes, domains=key.domains)


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
