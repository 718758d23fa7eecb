"""How the database and what waits in it are: for an operator who wants to know whether a deployment is well.

Nothing is written. Some of it counts whole months over all accounts: who asks has time, and a statement timeout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from asyncpg import Record

from gateway.storage import db
from gateway.storage.sql import load

sql = load("condition")

MOST_DEAD: Final = 1000  # deliveries that are counted; more are "1000 or more"


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """Postgres, as a connection of Postroom's own sees it."""

    version: str  # such as 16.4
    number: int  # such as 160004
    is_replica: bool
    now: datetime  # its clock, when it answered
    fsync: str  # on, off
    full_page_writes: str  # on, off
    synchronous_commit: str  # on, off, local, remote_write, remote_apply
    room: int  # connections that everybody together may have, without those kept for superusers
    role_limit: int | None  # connections of this role; negative or None = any
    database_limit: int | None  # to this database; negative or None = any

    @classmethod
    def from_row(cls, row: Record) -> Server:
        return cls(**dict(row))


@dataclass(frozen=True, kw_only=True, slots=True)
class Upkeep:
    """How the database is kept."""

    bytes: int
    frozen_age: int  # transactions since the oldest one that is not frozen
    autovacuum: bool
    oldest_transaction: timedelta | None  # for how long it has been open, or prepared; None = there is none

    @classmethod
    def from_row(cls, row: Record) -> Upkeep:
        return cls(**dict(row))


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """A replication slot."""

    name: str
    is_active: bool  # somebody reads it
    retained: int  # bytes of WAL that are kept for it

    @classmethod
    def from_row(cls, row: Record) -> Slot:
        return cls(**dict(row))


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One of our tables; rows are estimates."""

    name: str
    living: int
    dead: int  # rows that a vacuum will remove
    bytes: int  # indexes and TOAST included

    @classmethod
    def from_row(cls, row: Record) -> Table:
        return cls(**dict(row))


@dataclass(frozen=True, kw_only=True, slots=True)
class Connections:
    """How many there are now."""

    everybody: int
    as_role: int  # as the role that asks
    to_database: int  # to the database that is asked
    ours: int  # of Postroom's processes to this database, the asking one included

    @classmethod
    def from_row(cls, row: Record) -> Connections:
        return cls(**dict(row))


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhooks:
    """How many receivers there are."""

    active: int
    failing: int  # of the active ones
    disabled: int  # they answered 410, failed for days, or somebody switched them off

    @classmethod
    def from_row(cls, row: Record) -> Webhooks:
        return cls(**dict(row))


@dataclass(frozen=True, kw_only=True, slots=True)
class Fates:
    """What became of one account's recipients."""

    account_id: UUID
    recipients: int  # all of them
    taken: int  # by the next hop or the final one
    complained: int  # of those taken
    suppressed: int

    @classmethod
    def from_row(cls, row: Record) -> Fates:
        return cls(**dict(row))


async def server(connection: db.Connection) -> Server:
    return Server.from_row(await sql.server.row(connection))


async def upkeep(connection: db.Connection) -> Upkeep:
    return Upkeep.from_row(await sql.upkeep.row(connection))


async def slots(connection: db.Connection) -> list[Slot]:
    return [Slot.from_row(row) for row in await sql.slots.fetch(connection)]


async def tables(connection: db.Connection) -> list[Table]:
    return [Table.from_row(row) for row in await sql.tables.fetch(connection)]


async def connections(connection: db.Connection) -> Connections:
    return Connections.from_row(await sql.connections.row(connection))


async def held(
    connection: db.Connection, names: Sequence[str] | None, limit: int
) -> tuple[list[tuple[str, UUID]], int]:
    """Verified domains with their accounts, those of `names` or (None) any; and how many there are in all."""
    rows = await sql.held.fetch(connection, names=list(names) if names is not None else None, limit=limit)
    return [(row["name"], row["account_id"]) for row in rows], await sql.count_held.value(connection)


async def oldest_due(connection: db.Connection) -> datetime | None:
    """Since when the recipient waits that should have been written to first; None = nobody is late."""
    found: datetime | None = await sql.oldest_due.value(connection)
    return found


async def oldest_webhook(connection: db.Connection) -> datetime | None:
    """The same of deliveries to webhooks."""
    found: datetime | None = await sql.oldest_webhook.value(connection)
    return found


async def webhooks(connection: db.Connection) -> Webhooks:
    return Webhooks.from_row(await sql.webhooks.row(connection))


async def dead(connection: db.Connection) -> int:
    """Deliveries to webhooks that were given up; at most MOST_DEAD are counted."""
    found: int = await sql.dead.value(connection, limit=MOST_DEAD)
    return found


async def fates(connection: db.Connection, since: datetime) -> list[Fates]:
    """Of e-mails accepted since then, by account; none of accounts that sent nothing."""
    first = UUID(int=int(since.timestamp() * 1000) << 80)  # UUIDv7 begins with milliseconds (RFC 9562 5.7)
    return [Fates.from_row(row) for row in await sql.fates.fetch(connection, since=first)]
