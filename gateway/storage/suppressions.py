"""Addresses that an account does not write to, and why; canonical, so that the case of letters does not count.

Whether one counts is decided by the database's clock in each statement; a row whose time is over is as if it were not
there, and is overwritten by the next one for its address.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from asyncpg import Record

from gateway.storage import db
from gateway.storage.sql import load

sql = load("suppressions")

REASONS: Final = ("bounce", "complaint", "unsubscribe", "manual")


@dataclass(frozen=True, kw_only=True, slots=True)
class Suppression:
    """An address that is not written to."""

    address: str  # canonical
    reason: str  # of REASONS
    expires_at: datetime | None  # None = never
    created_at: datetime

    @classmethod
    def from_row(cls, row: Record) -> Suppression:
        return cls(**dict(row))


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """An address that is to be listed."""

    address: str  # canonical
    reason: str  # of REASONS
    expires_at: datetime | None = None  # None = never


async def put(connection: db.Connection, account_id: UUID, wishes: Sequence[Wish]) -> list[Suppression]:
    """List them, each address once; those whose time is over already are left out, and out of the answer."""
    rows = await sql.put.fetch(
        connection,
        account_id=account_id,
        addresses=[wish.address for wish in wishes],
        reasons=[wish.reason for wish in wishes],
        expires_ats=[wish.expires_at for wish in wishes],
    )
    return [Suppression.from_row(row) for row in rows]


async def bounced(connection: db.Connection, account_id: UUID, addresses: Sequence[str]) -> None:
    """List canonical addresses that a bounce has shown not to exist; what is on the list stays as it is."""
    await sql.bounced.run(connection, account_id=account_id, addresses=list(addresses))


async def get(connection: db.Connection, account_id: UUID, address: str) -> Suppression | None:
    row = await sql.get.row(connection, account_id=account_id, address=address)
    return Suppression.from_row(row) if row else None


async def delete(connection: db.Connection, account_id: UUID, address: str) -> bool:
    """Whether the canonical address was on the list."""
    return await sql.delete.run(connection, account_id=account_id, address=address) > 0


async def page(
    connection: db.Connection,
    account_id: UUID,
    *,
    after: tuple[datetime, str] | None,  # time and address of the last one of the page before
    reason: str | None,  # None = whatever
    address: str | None,  # canonical; None = whatever
    limit: int,
    ascending: bool,
) -> list[Suppression]:
    """Those that count, by when they were listed."""
    query = sql.page_asc if ascending else sql.page_desc
    made, behind = after or (None, None)
    rows = await query.fetch(
        connection, account_id=account_id, made=made, after=behind, reason=reason, address=address, limit=limit
    )
    return [Suppression.from_row(row) for row in rows]


async def behind(connection: db.Connection, account_id: UUID, after: str, limit: int) -> list[Suppression]:
    """A slice of the whole list in the order of addresses; the first begins behind the empty one."""
    rows = await sql.behind.fetch(connection, account_id=account_id, after=after, limit=limit)
    return [Suppression.from_row(row) for row in rows]
