"""Whose a bearer token is: what HTTP requests and SMTP sessions authenticate by.

A token's checksum is looked at before the database is, so that typos and garbage cost nothing. What is found is held
to be true for a second, so that a busy caller does not look its key up for every request; those who ask while it is
being looked up wait for the same answer.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from gateway import tokens
from gateway.errors import InvalidApiKey
from gateway.models import Caller
from gateway.storage import accounts, db

BELIEVED_SECONDS: Final = 1.0
REMEMBERED: Final = 10_000  # callers; over it all are forgotten


class Callers:
    """The holders of keys and mailbox tokens; one for each process."""

    def __init__(self, database: db.Database) -> None:
        self._database = database
        self._known: dict[bytes, tuple[float, Caller]] = {}  # by the token's hash; until when, on the monotonic clock
        self._looking: dict[bytes, asyncio.Task[Caller]] = {}  # look-ups under way

    async def of(self, token: str) -> Caller:
        """Whose token it is. Raises InvalidApiKey, Unavailable."""
        hashed = tokens.hash_token(token)
        if hashed not in self._known and not tokens.looks_like_key(token):
            raise InvalidApiKey
        return await self.holding(hashed)

    def remembers(self, token: str) -> bool:
        """Whether it was somebody's a while ago: not a stranger's, though it may be nobody's by now."""
        return tokens.hash_token(token) in self._known

    async def holding(self, hashed: bytes) -> Caller:
        """Whose the token of this hash is, for who has seen it before. Raises InvalidApiKey, Unavailable."""
        until, caller = self._known.get(hashed, (0.0, None))
        if caller is not None and time.monotonic() < until:
            return caller
        looking = self._looking.get(hashed)
        if looking is None:
            looking = self._looking[hashed] = asyncio.create_task(self._learn(hashed))
        return await asyncio.shield(looking)  # one who hangs up takes nobody else's answer along

    async def _learn(self, hashed: bytes) -> Caller:
        try:
            caller = await self._look_up(hashed)
        except InvalidApiKey:
            self._known.pop(hashed, None)  # a stranger's from now on
            raise
        finally:
            del self._looking[hashed]
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
