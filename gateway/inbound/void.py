"""The void: accounts of nobody, into which mail for nobody is stored, so that it costs as much time as any other."""

from __future__ import annotations

import random
import time
from typing import Final
from uuid import UUID

from gateway.storage import accounts, db, messages

LOOK_SECONDS: Final = 10  # how often it is looked up what dropped mail holds


class Void:
    """The accounts of the void, and how full they are."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._ids: list[UUID] = []
        self._bytes = 0
        self._looked = float("-inf")

    async def look(self, connection: db.Connection) -> None:
        """Learn what there is; to be called before anything else, and seldom asks."""
        if not self._ids:
            self._ids = await accounts.voids(connection)
        now = time.monotonic()
        if now - self._looked > LOOK_SECONDS:
            self._looked = now
            self._bytes = await messages.bytes_in_void(connection, self._ids)

    def pick(self) -> UUID:
        """One of its accounts; its only mailbox has the same id."""
        return random.choice(self._ids)  # noqa: S311 - spreads load; nothing secret

    def __contains__(self, account_id: UUID) -> bool:
        return account_id in self._ids

    def kept(self, raw: bytes) -> bytes:
        """What is stored of dropped mail: all of it, or nothing when the void is full."""
        kept = raw if self._bytes < self._max_bytes else b""
        self._bytes += len(kept)
        return kept
