"""Accounts, their API keys, and whose a bearer token is. Tokens are derived, never stored; here are their hashes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from asyncpg import Record
from uuid_utils.compat import uuid7

from gateway.storage import db, events, period
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
    last_used_at: datetime | None  # to a minute; None = never

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Whom a bearer token lets in."""

    account_id: UUID
    key_id: UUID | None  # None for a mailbox's token
    mailbox_id: UUID | None  # None for a key
    scopes: tuple[str, ...]  # none for a mailbox's token
    domains: tuple[str, ...]  # sender domains it may use; empty = all
    is_suspended: bool  # its account is: it is known, and opens nothing

    @classmethod
    def from_row(cls, row: Record) -> Holder:
        values = dict(row)
        return cls(**{**values, "scopes": tuple(values["scopes"] or ()), "domains": tuple(values["domains"] or ())})


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """An account, as an operator sees it."""

    id: UUID
    name: str
    created_at: datetime
    suspended_at: datetime | None  # None = at work
    deleted_at: datetime | None  # None = not deleted; else its rows are going

    @property
    def state(self) -> str:
        """active, suspended or deleted."""
        return "deleted" if self.deleted_at else "suspended" if self.suspended_at else "active"


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


async def named(connection: db.Connection, name: str, id: UUID | None) -> list[Account]:
    """Those that are meant by a name or by an id, at most two."""
    return [Account(**dict(row)) for row in await sql.named.fetch(connection, name=name, id=id)]


async def accounts_after(connection: db.Connection, after: UUID | None, limit: int) -> list[Account]:
    """All but the void, oldest first, those that are being deleted among them."""
    return [Account(**dict(row)) for row in await sql.list.fetch(connection, after=after, limit=limit)]


async def suspend(connection: db.Connection, account_id: UUID) -> bool:
    """Its keys open nothing, its mail waits; False = it was suspended already."""
    return await sql.suspend.run(connection, account_id=account_id) > 0


async def resume(connection: db.Connection, account_id: UUID) -> bool:
    """It is at work again, and what waited has not waited for that; False = it was not suspended. In a transaction."""
    if not await sql.resume.run(connection, account_id=account_id):
        return False
    await sql.wait_anew.run(connection, account_id=account_id)
    return True


async def mark_deleted(connection: db.Connection, account_id: UUID) -> bool:
    """It is worth nothing from now on; gateway.storage.closing removes what it has. False for the first account, which
    mail for nobody belongs to, and where there is none."""
    return await sql.mark_deleted.run(connection, account_id=account_id) > 0


async def is_suspended(connection: db.Connection, account_id: UUID) -> bool:
    return bool(await sql.is_suspended.value(connection, account_id=account_id))


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


async def holder(connection: db.Connection, hash: bytes) -> Holder | None:
    """Whose the token of this hash is; None where it is nobody's, revoked, expired, or its account is deleted."""
    row = await sql.holder.row(connection, hash=hash)
    return Holder.from_row(row) if row else None


async def standing(connection: db.Connection, holders: Sequence[tuple[UUID, UUID]]) -> set[tuple[UUID, UUID]]:
    """Which of these, accounts with their keys and mailboxes, are still let in by their tokens."""
    columns = {"account_ids": [account_id for account_id, _ in holders], "object_ids": [id for _, id in holders]}
    return {(row["account_id"], row["object_id"]) for row in await sql.standing.fetch(connection, **columns)}


async def note_used(connection: db.Connection, keys: Sequence[tuple[UUID, UUID]], seconds: float) -> None:
    """These keys, with their accounts, were used now; written where it was not within so many seconds."""
    columns = {"account_ids": [account_id for account_id, _ in keys], "ids": [id for _, id in keys]}
    await sql.used.run(connection, seconds=seconds, **columns)


async def key(connection: db.Connection, account_id: UUID, key_id: UUID) -> Key | None:
    row = await sql.key.row(connection, account_id=account_id, id=key_id)
    return Key.from_row(row) if row else None


async def keys(
    connection: db.Connection,
    account_id: UUID,
    *,
    after: UUID | None,
    limit: int,
    ascending: bool = False,
    made: period.Period = period.ALWAYS,
) -> list[Key]:
    """Keys in use or expired that were made in this time, newest first unless `ascending`, behind `after`."""
    query = sql.keys_asc if ascending else sql.keys_desc
    rows = await query.fetch(connection, account_id=account_id, after=after, limit=limit, **made.values)
    return [Key.from_row(row) for row in rows]


async def rename_key(connection: db.Connection, account_id: UUID, key_id: UUID, name: str) -> bool:
    """Whether there was such a key in use."""
    return await sql.rename.run(connection, account_id=account_id, id=key_id, name=name) > 0


async def forget_keys(connection: db.Connection, before: datetime, limit: int) -> int:
    """Remove one slice of the keys that were revoked before; how many."""
    return await sql.forget_keys.run(connection, before=before, limit=limit)


async def revoke_key(connection: db.Connection, account_id: UUID, key_id: UUID) -> bool:
    """Whether there was such a key in use. To be called in a transaction."""
    revoked = await sql.revoke_key.run(connection, account_id=account_id, id=key_id)
    await drop_credentials(connection, account_id, [key_id])
    return revoked > 0


async def drop_credentials(connection: db.Connection, account_id: UUID, object_ids: Sequence[UUID]) -> None:
    await sql.drop_credentials.run(connection, account_id=account_id, object_ids=list(object_ids))
