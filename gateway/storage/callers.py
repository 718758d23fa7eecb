"""Whose a bearer token is: what HTTP requests and SMTP sessions authenticate by.

A token's checksum is looked at before the database is, so that typos and garbage cost nothing. What is found is held
to be true for a second, so that a busy caller does not look its key up for every request; those who ask while it is
being looked up wait for the same answer.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final
from uuid import UUID

from gateway import tokens
from gateway.errors import InvalidApiKey, RestrictedApiKey
from gateway.models import Caller
from gateway.storage import accounts, db

BELIEVED_SECONDS: Final = 1.0
REMEMBERED: Final = 10_000  # callers; over it all are forgotten
USED_SECONDS: Final = 60.0  # between two notes that a key is used
SUSPENDED: Final = "The account is suspended."


class Callers:
    """The holders of keys and mailbox tokens; one for each process."""

    def __init__(self, database: db.Database) -> None:
        self._database = database
        # By the token's hash: until when that is believed, on the monotonic clock, and who it is; None = suspended.
        self._known: dict[bytes, tuple[float, Caller | None]] = {}
        self._looking: dict[bytes, asyncio.Task[Caller | None]] = {}  # look-ups under way
        self._used: set[tuple[UUID, UUID]] = set()  # accounts and keys, since the last note
        self._noted: dict[tuple[UUID, UUID], float] = {}  # until when they need no other note

    async def of(self, token: str) -> Caller:
        """Whose token it is. Raises InvalidApiKey, RestrictedApiKey (its account is suspended), Unavailable."""
        hashed = tokens.hash_token(token)
        if hashed not in self._known and not tokens.looks_like_key(token):
            raise InvalidApiKey
        return await self.holding(hashed)

    def remembers(self, token: str) -> bool:
        """Whether it was somebody's a while ago: not a stranger's, though it may be nobody's by now."""
        return tokens.hash_token(token) in self._known

    async def holding(self, hashed: bytes) -> Caller:
        """Whose the token of this hash is, for who has seen it before. Raises like `of`."""
        until, caller = self._known.get(hashed, (0.0, None))
        if time.monotonic() < until:
            return _let_in(caller)
        looking = self._looking.get(hashed)
        if looking is None:
            looking = self._looking[hashed] = asyncio.create_task(self._learn(hashed))
        return _let_in(await asyncio.shield(looking))  # one who hangs up takes nobody else's answer along

    async def _learn(self, hashed: bytes) -> Caller | None:
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

    async def _look_up(self, hashed: bytes) -> Caller | None:
        async with self._database.connection() as connection:
            holder = await accounts.holder(connection, hashed)
        if holder is None:
            raise InvalidApiKey
        if holder.is_suspended:
            return None
        if holder.key_id is not None:
            self._used.add((holder.account_id, holder.key_id))
        return Caller(
            account_id=holder.account_id,
            key_id=holder.key_id,
            mailbox_id=holder.mailbox_id,
            scopes=frozenset(holder.scopes),
            domains=holder.domains,
        )

    async def note_used(self) -> None:
        """Write down which keys were used since the last note, each once in USED_SECONDS. Raises Unavailable."""
        used, self._used = self._used, set()
        now = time.monotonic()
        due = sorted(key for key in used if self._noted.get(key, 0.0) <= now)
        if not due:
            return
        if len(self._noted) >= REMEMBERED:
            self._noted.clear()
        async with self._database.connection() as connection:
            await accounts.note_used(connection, due, USED_SECONDS)
        self._noted.update(dict.fromkeys(due, now + USED_SECONDS))


def _let_in(caller: Caller | None) -> Caller:
    if caller is None:
        raise RestrictedApiKey(SUSPENDED)
    return caller
