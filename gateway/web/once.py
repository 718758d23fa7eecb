"""Idempotency at the HTTP edge: what a request's key asks for, and the answer that says whether it was given before."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import msgspec

from gateway import errors
from gateway.models import Answer
from gateway.storage import db, idempotency
from gateway.storage.idempotency import Once, Turns

REPLAYED = (("Idempotent-Replayed", "true"),)

Keep = Callable[[dict[str, Any]], Awaitable[None]]  # writes the answer down, in the transaction, before its events
Create = Callable[[db.Connection, Keep], Awaitable[dict[str, Any]]]  # the answer, without secrets


def wish(endpoint: str, key: str | None, fingerprint: bytes | None) -> Once | None:
    """None where the request carries no Idempotency-Key."""
    if key is None or fingerprint is None:
        return None
    return Once(endpoint=endpoint, key=key, fingerprint=fingerprint)


def answered(status: int, body: object, *, replayed: bool = False) -> Answer:
    """An answer that is written once, here."""
    return Answer(status=status, body=msgspec.json.encode(body), headers=REPLAYED if replayed else ())


async def as_before(database: db.Database, account_id: UUID, wish: Once | None, error: errors.ApiError) -> Answer:
    """The first answer to a call that can no longer be carried out as it was; else raises `error`."""
    if wish is None:
        raise error
    async with database.connection() as connection:
        if not await idempotency.is_taken(connection, account_id, wish):
            raise error
        first = await idempotency.first(connection, account_id, wish)
    return answered(first.status, first.answer, replayed=True)


class Creations:
    """Creates things, each once for its key: the key, the answer and what is created are one transaction."""

    def __init__(self, database: db.Database, seconds: int) -> None:
        self._database = database
        self._seconds = seconds  # how long a key is remembered
        self._turns = Turns()

    async def create(
        self, account_id: UUID, once: Once | None, create: Create, *, status: int = 201
    ) -> tuple[dict[str, Any], bool]:
        """The answer without its secrets, and whether it is the first one again."""
        async with self._turns.turn(account_id, once), self._database.transaction() as connection:
            if once is not None:
                first = await idempotency.claim(
                    connection, account_id, once, status=status, answer={}, seconds=self._seconds
                )
                if first is not None:
                    return first.answer, True

            async def keep(answer: dict[str, Any]) -> None:
                if once is not None:
                    await idempotency.keep(connection, account_id, once, answer)

            return await create(connection, keep), False
