"""Idempotency keys: written in the same transaction as what they create; there is never one without the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from gateway.errors import ConcurrentIdempotentRequests, InvalidIdempotentRequest
from gateway.storage import db
from gateway.storage.sql import load

sql = load("idempotency")


@dataclass(frozen=True, kw_only=True, slots=True)
class Once:
    """A caller's wish that something happens once."""

    endpoint: str  # method and path
    key: str  # the caller's
    fingerprint: bytes  # SHA-256 of the payload


@dataclass(frozen=True, kw_only=True, slots=True)
class First:
    """What was answered the first time."""

    status: int
    answer: dict[str, Any]  # without secrets


class Turns:
    """Those of this process who come with the same key go one after the other: who is at work on which key now.

    The first does the work and stores its answer in the same transaction; whoever waited finds the key taken and gets
    the first answer again. What another process is still committing is waited for in the database.
    """

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


async def claim(
    connection: db.Connection, account_id: UUID, once: Once, *, status: int, answer: dict[str, Any], seconds: int
) -> First | None:
    """Take the key, first thing in the transaction: None = it is ours, else what the first request was answered.

    Raises InvalidIdempotentRequest (same key, other payload) and, where another process has not finished the first
    request within the lock timeout, ConcurrentIdempotentRequests."""
    try:
        taken = await sql.claim.value(
            connection,
            account_id=account_id,
            endpoint=once.endpoint,
            key=once.key,
            fingerprint=once.fingerprint,
            status=status,
            answer=answer,
            seconds=seconds,
        )
    except asyncpg.LockNotAvailableError as error:
        raise ConcurrentIdempotentRequests(retry_after=1) from error
    return None if taken is not None else await first(connection, account_id, once)


async def claim_all(
    connection: db.Connection, account_id: UUID, wishes: Sequence[tuple[Once, int, str]], *, seconds: int
) -> set[tuple[str, str]]:
    """Take one account's keys of a batch, each with its status and answer (JSON); (endpoint, key) of those now ours.

    The wishes must differ in (endpoint, key). Raises the driver's LockNotAvailableError, which divides the batch."""
    rows = await sql.claim_all.fetch(
        connection,
        account_id=account_id,
        endpoints=[once.endpoint for once, _, _ in wishes],
        keys=[once.key for once, _, _ in wishes],
        fingerprints=[once.fingerprint for once, _, _ in wishes],
        statuses=[status for _, status, _ in wishes],
        answers=[answer for _, _, answer in wishes],
        seconds=seconds,
    )
    return {(row["endpoint"], row["key"]) for row in rows}


async def first(connection: db.Connection, account_id: UUID, once: Once) -> First:
    """What the first request with this key was answered."""
    row = await sql.find.row(connection, account_id=account_id, endpoint=once.endpoint, key=once.key)
    if row is None:
        raise ConcurrentIdempotentRequests(retry_after=1)
    if row["fingerprint"] != once.fingerprint:
        raise InvalidIdempotentRequest
    return First(status=row["status"], answer=row["answer"])


async def is_taken(connection: db.Connection, account_id: UUID, once: Once) -> bool:
    """Whether a request with this key was carried out."""
    return await sql.find.row(connection, account_id=account_id, endpoint=once.endpoint, key=once.key) is not None


async def give_back(connection: db.Connection, account_id: UUID, once: Once) -> None:
    """The key is free again: what it was claimed for is refused."""
    await sql.give_back.run(connection, account_id=account_id, endpoint=once.endpoint, key=once.key)


async def keep(connection: db.Connection, account_id: UUID, once: Once, answer: dict[str, Any]) -> None:
    """Write the answer, where it was not known when the key was claimed."""
    await sql.keep.run(connection, account_id=account_id, endpoint=once.endpoint, key=once.key, answer=answer)


async def forget(connection: db.Connection, before: datetime, limit: int) -> int:
    """Remove a slice of the keys older than `before`; rows removed."""
    accounts = await sql.old_accounts.fetch(connection, before=before, limit=limit)
    removed = 0
    for row in accounts:
        removed += await sql.forget.run(connection, account_id=row["account_id"], before=before, limit=limit)
    return removed
