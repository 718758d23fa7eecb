"""Domains of tenants: who proved to own which, and what they want done with mail there.

A domain may be claimed by several accounts (`domains`), but only one has it (`domain_names`): who put the proof into
its DNS. Mail is taken for domains that somebody has.

Whoever changes who has a domain takes its turn first (`take_turn`), so that a claim and its name go together. Whoever
makes a mailbox there holds the name (`hold_owner`), so that the domain does not pass to somebody else meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from asyncpg import Record

from gateway.storage import db, period
from gateway.storage.sql import load

sql = load("domains")

MAX_LABELS: Final = 20  # of a domain's parents that are looked at


@dataclass(frozen=True, kw_only=True, slots=True)
class Owned:
    """A tenant's domain, as mail that comes in for it sees it."""

    name: str  # lower-case A-labels; the domain itself, or a wildcard above it
    account_id: UUID
    unknown_recipients: str  # drop, reject, create
    catch_all: UUID | None  # mailbox that takes what nobody else does
    is_suspended: bool = False  # the account is


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A tenant's domain, as the tenant sees it; perhaps another account has it."""

    name: str  # lower-case A-labels
    wildcard: bool  # all names below it, too
    unknown_recipients: str  # drop, reject, create
    catch_all: UUID | None  # mailbox that takes what nobody else does; None = none, or it lives no more
    verified_at: datetime | None  # None = the account does not have the domain
    failed_at: datetime | None  # when it was last found that the account cannot have it; None = never, or it has it
    checked_at: datetime | None  # last look at the DNS; None = never
    records: Sequence[dict[str, Any]]  # what that look found, as gateway.inbound.domains wrote it
    created_at: datetime

    @classmethod
    def from_row(cls, row: Record) -> Claim:
        return cls(**dict(row))

    @property
    def status(self) -> Literal["pending", "verified", "failed"]:
        if self.verified_at is not None:
            return "verified"
        return "failed" if self.failed_at is not None else "pending"


# As mail sees them


def _itself_and_above(name: str) -> list[str]:
    labels = name.split(".")[-MAX_LABELS:]
    return [name, *(".".join(labels[at:]) for at in range(1, len(labels) - 1))]


async def find(connection: db.Connection, name: str) -> Owned | None:
    """Whose domain this is (lower-case A-labels), by its own name or by a wildcard above; None = nobody's."""
    row = await sql.find.row(connection, name=name, names=_itself_and_above(name))
    if row is None:
        return None
    policy = await sql.policy.row(connection, account_id=row["account_id"], name=row["name"])
    return Owned(
        name=row["name"],
        account_id=row["account_id"],
        unknown_recipients=policy["unknown_recipients"] if policy else "drop",
        catch_all=policy["catch_all"] if policy else None,
        is_suspended=row["is_suspended"],
    )


async def owner(connection: db.Connection, name: str) -> tuple[str, UUID] | None:
    """The domain that covers this one (itself, or a wildcard above), and the account that has it; None = nobody has."""
    row = await sql.find.row(connection, name=name, names=_itself_and_above(name))
    return (row["name"], row["account_id"]) if row else None


async def hold_owner(connection: db.Connection, name: str) -> UUID | None:
    """The account that has this domain, which stays so until the transaction ends; None = nobody has it."""
    found: UUID | None = await sql.hold_owner.value(connection, name=name, names=_itself_and_above(name))
    return found


async def is_alias(connection: db.Connection, account_id: UUID, name: str, *, purpose: str, value: str) -> bool:
    """Whether the last look found that the account's domain has the alias (CNAME) to `value` that it should have."""
    wanted = [{"purpose": purpose, "state": "ok", "value": value}]
    found: bool = await sql.is_alias.value(connection, account_id=account_id, name=name, wanted=wanted)
    return found


# As tenants see them


async def create(
    connection: db.Connection,
    account_id: UUID,
    *,
    name: str,  # lower-case A-labels
    wildcard: bool,
    unknown_recipients: str,
    catch_all: UUID | None,
) -> bool:
    """Whether it is a new claim; False = the account has claimed the domain before."""
    return (
        await sql.create.run(
            connection,
            account_id=account_id,
            name=name,
            wildcard=wildcard,
            unknown_recipients=unknown_recipients,
            catch_all=catch_all,
        )
        > 0
    )


async def get(connection: db.Connection, account_id: UUID, name: str) -> Claim | None:
    row = await sql.get.row(connection, account_id=account_id, name=name)
    return Claim.from_row(row) if row else None


async def page(
    connection: db.Connection,
    account_id: UUID,
    *,
    after: tuple[datetime, str] | None,
    limit: int,
    ascending: bool,
    claimed: period.Period = period.ALWAYS,
) -> list[Claim]:
    """The account's claims behind `after` (created_at and name) in the order asked for."""
    query = sql.list_asc if ascending else sql.list_desc
    made, name = after or (None, None)
    position = {"made": made, "after": name}
    rows = await query.fetch(connection, account_id=account_id, limit=limit, **position, **claimed.values)
    return [Claim.from_row(row) for row in rows]


async def change(
    connection: db.Connection,
    account_id: UUID,
    name: str,
    *,
    wildcard: bool,
    unknown_recipients: str,
    catch_all: UUID | None,
) -> None:
    """Set all three, in a transaction that has taken its turn."""
    await sql.change.run(
        connection,
        account_id=account_id,
        name=name,
        wildcard=wildcard,
        unknown_recipients=unknown_recipients,
        catch_all=catch_all,
    )
    await sql.widen.run(connection, account_id=account_id, name=name, wildcard=wildcard)


async def delete(connection: db.Connection, account_id: UUID, name: str) -> bool:
    """Whether there was such a claim; in a transaction that has taken its turn. Mail for it is refused from here on."""
    await sql.release.run(connection, account_id=account_id, name=name)
    return await sql.delete.run(connection, account_id=account_id, name=name) > 0


async def caught_by(connection: db.Connection, account_id: UUID, mailbox_id: UUID) -> str | None:
    """One of the domains whose catch-all the mailbox is."""
    found: str | None = await sql.caught_by.value(connection, account_id=account_id, mailbox_id=mailbox_id)
    return found


# Who has them


async def take_turn(connection: db.Connection, name: str) -> None:
    """Alone with this domain until the transaction ends; the first thing in it."""
    await sql.take_turn.fetch(connection, name=name)


async def holder(connection: db.Connection, name: str) -> UUID | None:
    """The account that has the domain by its own name."""
    found: UUID | None = await sql.holder.value(connection, name=name)
    return found


async def looked(connection: db.Connection, account_id: UUID, name: str, records: Sequence[dict[str, Any]]) -> None:
    """Write down what the DNS said."""
    await sql.looked.run(connection, account_id=account_id, name=name, records=list(records))


async def win(connection: db.Connection, account_id: UUID, name: str, *, wildcard: bool) -> None:
    """The account has the domain from here on, whoever had it before."""
    await sql.hold.run(connection, account_id=account_id, name=name, wildcard=wildcard)
    await sql.verified.run(connection, account_id=account_id, name=name)


async def fail(connection: db.Connection, account_id: UUID, name: str) -> bool:
    """The account cannot have the domain, or has it no more; False = that was known, or there is no such claim."""
    return await sql.failed.run(connection, account_id=account_id, name=name) > 0
