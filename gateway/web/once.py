"""Idempotency at the HTTP edge: requests with the same key take turns within this process.

The first does the work and stores its answer in the same transaction; whoever waited finds the key taken in storage and
gets the first answer again. What another process is still committing is waited for in the database.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import UUID

import msgspec

from gateway.models import Answer
from gateway.storage.idempotency import Once

REPLAYED = (("Idempotent-Replayed", "true"),)


class Turns:
    """Who is at work on which key now."""

    def __init__(self) -> None:
        self._locks: dict[tuple[UUID, str, str], tuple[asyncio.Lock, list[None]]] = {}

    @contextlib.asynccontextmanager
    async def turn(self, account_id: UUID, once: Once | None) -> AsyncIterator[None]:
        """Alone with this key; at once where there is none."""
        if once is None:
            yield
            return
        name = (account_id, once.endpoint, once.key)
        lock, users = self._locks.setdefault(name, (asyncio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                yield
        finally:
            users.pop()
            if not users:
                del self._locks[name]


def wish(endpoint: str, key: str | None, fingerprint: bytes | None) -> Once | None:
    """None where the request carries no Idempotency-Key."""
    if key is None or fingerprint is None:
        return None
    return Once(endpoint=endpoint, key=key, fingerprint=fingerprint)


def answered(status: int, body: object, *, replayed: bool = False) -> Answer:
    """An answer that is written once, here."""
    return Answer(status=status, body=msgspec.json.encode(body), headers=REPLAYED if replayed else ())
