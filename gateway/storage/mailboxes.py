"""Mailboxes and the addresses that lead to them.

A mailbox's life is judged by the database's clock alone. `is_active` is bookkeeping of the expiry sweep; nothing that
decides over mail reads it. Deleting marks; reclaim (storage.reclaim) removes rows later, in slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from asyncpg import Record
from uuid_utils.compat import uuid7

from gateway.errors import AddressTaken, InvalidState, NotFound
from gateway.storage import accounts, db, events, period, quotas, rehearsals
from gateway.storage.sql import load

sql = load("mailboxes")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mailbox:
    """A mailbox that is not gone."""

    id: UUID
    address: str  # canonical
    is_live: bool  # takes mail now
    expires_at: datetime | None  # None = never
    created_at: datetime
    message_count: int  # counted, never stored
    metadata: dict[str, Any]  # the owner's
    cursor: int  # seq of its mailbox.created; where its events begin
    sender_policy: str  # what becomes of mail whose sender is not who it says: accept, flag, drop-on-fail

    @classmethod
    def from_row(cls, row: Record) -> Mailbox:
        return cls(**dict(row))

    @property
    def status(self) -> str:
        return "active" if self.is_live else "expired"


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """Where an address leads; the mailbox may be over."""

    account_id: UUID
    mailbox_id: UUID


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What must be known of mailboxes of one account before mail is stored into them."""

    policies: dict[UUID, str]  # sender policy of each mailbox that takes mail now
    usage: quotas.Usage | None  # None = no mailbox takes mail


def created(mailbox_id: UUID, address: str, expires_at: datetime | None) -> events.NewEvent:
    """The event of a new mailbox."""
    data = {"id": mailbox_id, "address": address, "expires_at": expires_at}
    return events.NewEvent(type="mailbox.created", mailbox_id=mailbox_id, data=events.encode(data))


async def routes(connection: db.Connection, addresses: Sequence[str]) -> dict[str, Route]:
    """Where each address leads; those that lead nowhere are missing."""
    rows = await sql.routes.fetch(connection, addresses=list(addresses))
    return {row["address"]: Route(account_id=row["account_id"], mailbox_id=row["mailbox_id"]) for row in rows}


async def create(
    connection: db.Connection,
    account_id: UUID,
    *,
    id: UUID,
    address: str,
    ttl_seconds: float | None,
    metadata: dict[str, Any],
    token_hash: bytes | None,  # SHA-256 of its token; None = it has none (mail itself created it)
    sender_policy: str = "accept",
) -> Mailbox:
    """A new mailbox without its event, which the caller appends last and whose seq is its cursor (0 here).

    Raises AddressTaken where the address leads to a live mailbox, or to one of another account."""
    await _take(connection, account_id, address, id)
    row = await sql.create.row(
        connection,
        account_id=account_id,
        id=id,
        address=address,
        ttl_seconds=ttl_seconds,
        metadata=metadata,
        sender_policy=sender_policy,
    )
    assert row is not None  # noqa: S101 - an INSERT without ON CONFLICT returns its row
    if token_hash is not None:
        await accounts.add_credential(connection, account_id, hash=token_hash, kind="mailbox", object_id=id)
    times = dict(row)
    return Mailbox(
        id=id,
        address=address,
        is_live=True,
        message_count=0,
        metadata=metadata,
        cursor=0,
        sender_policy=sender_policy,
        **times,
    )


async def _take(connection: db.Connection, account_id: UUID, address: str, mailbox_id: UUID) -> None:
    values = {"address": address, "account_id": account_id, "mailbox_id": mailbox_id}
    if await sql.take_address.value(connection, **values) is not None:
        return
    route = (await routes(connection, [address])).get(address)
    if route is None or route.account_id != account_id:
        raise AddressTaken
    if await sql.living.fetch(connection, account_id=account_id, ids=[route.mailbox_id]):
        raise AddressTaken
    if not await sql.retake_address.run(connection, old_mailbox_id=route.mailbox_id, **values):
        raise AddressTaken


async def live(connection: db.Connection, account_id: UUID, mailbox_ids: Sequence[UUID]) -> set[UUID]:
    """Which of these take mail, locked FOR SHARE so that none of them expires or goes before the transaction ends."""
    rows = await sql.live.fetch(connection, account_id=account_id, ids=sorted(set(mailbox_ids)))
    return {row["id"] for row in rows}


async def living(connection: db.Connection, account_id: UUID, mailbox_ids: Sequence[UUID]) -> set[UUID]:
    """Which of these take mail now, without a lock: a hint, not a promise."""
    rows = await sql.living.fetch(connection, account_id=account_id, ids=list(mailbox_ids))
    return {row["id"] for row in rows}


async def standing(connection: db.Connection, account_id: UUID, mailbox_ids: Sequence[UUID]) -> Standing:
    """The same as `living`, with the mailboxes' policies and what the account holds."""
    rows = await sql.standing.fetch(connection, account_id=account_id, ids=list(mailbox_ids))
    usage = quotas.Usage(**{name: rows[0][name] for name in quotas.Usage.__slots__}) if rows else None
    return Standing(policies={row["id"]: row["sender_policy"] for row in rows}, usage=usage)


async def get(connection: db.Connection, account_id: UUID, mailbox_id: UUID, *, retention: float) -> Mailbox | None:
    """The mailbox, live or expired within the retention (seconds)."""
    row = await sql.get.row(connection, account_id=account_id, id=mailbox_id, retention=retention)
    return Mailbox.from_row(row) if row else None


async def cursor(connection: db.Connection, account_id: UUID, mailbox_id: UUID) -> int:
    """Where the mailbox's events begin, whether or not it still is."""
    found: int = await sql.cursor.value(connection, account_id=account_id, id=mailbox_id)
    return found


async def id_of(connection: db.Connection, account_id: UUID, address: str) -> UUID | None:
    """The newest mailbox that had the address."""
    found: UUID | None = await sql.by_address.value(connection, account_id=account_id, address=address)
    return found


async def page(
    connection: db.Connection,
    account_id: UUID,
    *,
    after: UUID | None,
    limit: int,
    ascending: bool,
    retention: float,
    made: period.Period = period.ALWAYS,
    words: Sequence[str] = (),
    is_live: bool | None = None,
) -> list[Mailbox]:
    """Mailboxes behind `after` in the order asked for: those that have each of `words` somewhere in their address or
    metadata, in letters of any case; live or expired ones (None = either)."""
    query = sql.list_asc if ascending else sql.list_desc
    values: dict[str, Any] = {
        "after": after,
        "limit": limit,
        "retention": retention,
        "live": is_live,
        **made.values,
        **made.ids,
    }
    rows = await query.fetch(connection, account_id=account_id, words=[word.lower() for word in words], **values)
    return [Mailbox.from_row(row) for row in rows]


async def change(
    connection: db.Connection,
    account_id: UUID,
    mailbox_id: UUID,
    *,
    changes: dict[
        str, Any
    ],  # "ttl_seconds" (None = for ever), "metadata" and "sender_policy", those that are to change
    retention: float,
) -> None:
    """Raises NotFound; InvalidState where a new life is asked for a mailbox that has expired."""
    row = await sql.lock.row(connection, account_id=account_id, id=mailbox_id, retention=retention)
    if row is None:
        raise NotFound
    if "ttl_seconds" in changes:
        if not row["is_live"]:
            raise InvalidState("The mailbox has expired and cannot come back.")
        ttl = changes["ttl_seconds"]
        await sql.set_life.run(connection, account_id=account_id, id=mailbox_id, ttl_seconds=ttl)
    if "metadata" in changes:
        await sql.set_metadata.run(connection, account_id=account_id, id=mailbox_id, metadata=changes["metadata"])
    if "sender_policy" in changes:
        policy = changes["sender_policy"]
        await sql.set_sender_policy.run(connection, account_id=account_id, id=mailbox_id, sender_policy=policy)
    data = events.encode({"id": mailbox_id, "changed": sorted(changes)})
    event = events.NewEvent(type="mailbox.updated", mailbox_id=mailbox_id, data=data)
    await events.append(connection, account_id, [event])


async def delete(connection: db.Connection, account_id: UUID, mailbox_id: UUID) -> bool:
    """Whether there was such a mailbox. It takes no mail from here on, and its token is worth nothing."""
    if not await sql.delete.run(connection, account_id=account_id, id=mailbox_id):
        return False
    await accounts.drop_credentials(connection, account_id, [mailbox_id])
    data = events.encode({"id": mailbox_id})
    await events.append(
        connection, account_id, [events.NewEvent(type="mailbox.deleted", mailbox_id=mailbox_id, data=data)]
    )
    return True


@dataclass(frozen=True, kw_only=True, slots=True)
class Gone:
    """A mailbox whose rows may go."""

    account_id: UUID
    id: UUID
    address: str


async def gone(connection: db.Connection, retention: float, limit: int) -> list[Gone]:
    """Mailboxes that were deleted, or expired more than `retention` seconds ago."""
    rows = await sql.gone.fetch(connection, retention=retention, limit=limit)
    return [Gone(**dict(row)) for row in rows]


@dataclass(frozen=True, kw_only=True, slots=True)
class Leavings:
    """What `gone` mailboxes leave behind."""

    mailboxes: int
    messages: int


async def count_gone(connection: db.Connection, retention: float) -> Leavings:
    """How much there is to remove; takes as long as it is much."""
    [row] = await sql.count_gone.fetch(connection, retention=retention)
    return Leavings(**dict(row))


async def remove(connection: db.Connection, mailbox: Gone) -> None:
    """The mailbox's own rows, in a transaction; from here on its address is free for anybody."""
    values = {"account_id": mailbox.account_id, "address": mailbox.address, "mailbox_id": mailbox.id}
    await sql.release_addresses.run(connection, **values)
    await rehearsals.put(connection, mailbox.account_id, mailbox.id, [])
    await accounts.drop_credentials(connection, mailbox.account_id, [mailbox.id])
    await sql.reclaim.run(connection, account_id=mailbox.account_id, id=mailbox.id)


async def due_accounts(connection: db.Connection, limit: int) -> list[UUID]:
    """Accounts with a mailbox whose time is up and that nobody has marked yet."""
    return [row["account_id"] for row in await sql.due_accounts.fetch(connection, limit=limit)]


async def expire(connection: db.Connection, account_id: UUID, limit: int) -> int:
    """Mark one slice of an account's expired mailboxes and tell of it, in a transaction; 0 = nothing left."""
    rows = await sql.expire.fetch(connection, account_id=account_id, limit=limit)
    if rows:
        told = [_expired(row["id"]) for row in rows]
        await events.append(connection, account_id, told)
    return len(rows)


def _expired(mailbox_id: UUID) -> events.NewEvent:
    data = events.encode({"id": mailbox_id})
    return events.NewEvent(id=uuid7(), type="mailbox.expired", mailbox_id=mailbox_id, data=data)
