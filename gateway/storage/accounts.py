"""Accounts, their API keys, and whose a bearer token is. Tokens are derived, never stored; here are their hashes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from asyncpg import Record
from uuid_utils.compat import uuid7

from gateway.storage import db, events
from gateway.storage.sql import load

sql = load("accounts")

SCOPES: Final = ("mailboxes", "send", "inbound", "read", "admin")


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """An API key's description; the key itself is told once, when it is made."""

    id: UUID
    name: str
    scopes: tuple[str, ...]  # of SCOPES
    domains: tuple[str, ...]  # sender domains it may use; empty = all
    expires_at: datetime | None  # None = never
    revoked_at: datetime | None  # None = in use
    created_at: datetime

    @classmethod
    def from_row(cls, row: Record) -> Key:
        values = dict(row)
        return cls(**{**values, "scopes": tuple(values["scopes"]), "domains": tuple(values["domains"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class Credential:
    """What a bearer token stands for."""

    account_id: UUID
    kind: str  # "key" or "mailbox"
    object_id: UUID  # the API key's or the mailbox's id


async def create(connection: db.Connection, name: str) -> UUID:
    """A new account with an empty event log; its id."""
    account_id = uuid7()
    await sql.create.run(connection, id=account_id, name=name)
    await events.open_log(connection, account_id)
    return account_id


async def first(connection: db.Connection) -> UUID | None:
    """The oldest account: whom mail belongs to that nobody asked for (`unknown_recipients=create`)."""
    row = await sql.first.row(connection)
    return row["id"] if row else None


async def by_name(connection: db.Connection, name: str) -> UUID | None:
    row = await sql.by_name.row(connection, name=name)
    return row["id"] if row else None


async def voids(connection: db.Connection) -> list[UUID]:
    """The 16 accounts that dropped mail goes through."""
    return [row["id"] for row in await sql.voids.fetch(connection)]


async def create_key(
    connection: db.Connection,
    account_id: UUID,
    *,
    id: UUID,
    hash: bytes,
    name: str,
    scopes: Sequence[str],
    domains: Sequence[str] = (),
    expires_at: datetime | None = None,
) -> datetime:
    """Make a key known; when that was. To be called in a transaction."""
    created_at: datetime = await sql.create_key.value(
        connection,
        account_id=account_id,
        id=id,
        name=name,
        scopes=list(scopes),
        domains=list(domains),
        expires_at=expires_at,
    )
    await add_credential(connection, account_id, hash=hash, kind="key", object_id=id)
    return created_at


async def add_credential(
    connection: db.Connection,
    account_id: UUID,
    *,
    hash: bytes,
    kind: str,
    object_id: UUID,
) -> None:
    await sql.create_credential.run(connection, hash=hash, account_id=account_id, kind=kind, object_id=object_id)


async def credential(connection: db.Connection, hash: bytes) -> Credential | None:
    row = await sql.credential.row(connection, hash=hash)
    return Credential(**dict(row)) if row else None


async def usable_key(connection: db.Connection, account_id: UUID, key_id: UUID) -> Key | None:
    """The key, unless it is revoked or has expired."""
    row = await sql.usable_key.row(connection, account_id=account_id, id=key_id)
    return Key.from_row(row) if row else None


async def key(connection: db.Connection, account_id: UUID, key_id: UUID) -> Key | None:
    row = await sql.key.row(connection, account_id=account_id, id=key_id)
    return Key.from_row(row) if row else None


async def keys(connection: db.Connection, account_id: UUID, *, before: UUID | None, limit: int) -> list[Key]:
    """Keys in use or expired, newest first, older than `before`."""
    rows = await sql.keys.fetch(connection, account_id=account_id, before=before, limit=limit)
    return [Key.from_row(row) for row in rows]


async def revoke_key(connection: db.Connection, account_id: UUID, key_id: UUID) -> bool:
    """Whether there was such a key in use. To be called in a transaction."""
    revoked = await sql.revoke_key.run(connection, account_id=account_id, id=key_id)
    await drop_credentials(connection, account_id, [key_id])
    return revoked > 0


async def drop_credentials(connection: db.Connection, account_id: UUID, object_ids: Sequence[UUID]) -> None:
    await sql.drop_credentials.run(connection, account_id=account_id, object_ids=list(object_ids))
