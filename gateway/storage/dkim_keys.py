"""Keys that mail from a tenant's domain is signed with; their private halves are encrypted under SECRET_KEY.

    from       to        when
    (nothing)  waiting   the domain is claimed, or its keys are rotated: an RSA and an Ed25519 key, made together
    waiting    active    its record was seen in the DNS
    active     retired   a newer key of its kind became active; the private half is destroyed
    waiting    (gone)    the keys are rotated again
    retired    (gone)    OVERLAP_SECONDS later, at the next look at the DNS

The active keys sign. Where there are none yet, the waiting ones do: a signature whose key cannot be found counts as
none (RFC 6376 6.1), and as one from the moment that the record is there.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from asyncpg import Record
from uuid_utils.compat import uuid7

from gateway import tokens
from gateway.mail import dkim
from gateway.storage import db
from gateway.storage.sql import load

sql = load("dkim_keys")

OVERLAP_SECONDS: Final = 604_800  # mail waits up to days for its receiver, who looks for the key then
PURPOSE: Final = "dkim-key"  # of what the private halves are encrypted with

Status = Literal["waiting", "active", "retired"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NewKey:
    """A key to be stored."""

    id: UUID
    selector: str
    algorithm: dkim.Algorithm
    private_key: bytes = field(repr=False)  # encrypted
    record: str  # for the DNS


@dataclass(frozen=True, kw_only=True, slots=True)
class DkimKey:
    """A key of a domain."""

    id: UUID
    selector: str
    algorithm: str  # rsa, ed25519
    private_key: bytes | None = field(repr=False)  # encrypted; None = destroyed
    record: str  # the TXT record that is to stand in the DNS
    created_at: datetime
    activated_at: datetime | None  # when its record was first seen
    retired_at: datetime | None  # when a newer one took over

    @classmethod
    def from_row(cls, row: Record) -> DkimKey:
        values = dict(row)
        values.pop("domain")
        return cls(**values)

    @property
    def status(self) -> Status:
        if self.retired_at is not None:
            return "retired"
        return "waiting" if self.activated_at is None else "active"

    @property
    def pair(self) -> str:
        """What the selectors of keys made together have in common."""
        return self.selector.rpartition("-")[2]

    def private(self, keyring: tokens.Keyring) -> dkim.Private:
        """Raises tokens.Unreadable, dkim.UnusableKey."""
        return dkim.from_der(keyring.unseal(PURPOSE, self.id.bytes, self.private_key or b""))


def new_pair(keyring: tokens.Keyring) -> tuple[NewKey, ...]:
    """One key of each kind, under selectors that nobody had before. Takes some 0.2 s: off the event loop."""
    stem = secrets.token_hex(4)
    return tuple(_new(keyring, algorithm, stem) for algorithm in dkim.ALGORITHMS)


def _new(keyring: tokens.Keyring, algorithm: dkim.Algorithm, stem: str) -> NewKey:
    key_id, private = uuid7(), dkim.generate(algorithm)
    return NewKey(
        id=key_id,
        selector=f"{algorithm}-{stem}",
        algorithm=algorithm,
        private_key=keyring.seal(PURPOSE, key_id.bytes, dkim.to_der(private)),
        record=dkim.public_record(private),
    )


def signing(keys: Sequence[DkimKey]) -> list[DkimKey]:
    """Those that sign now: the active ones, else the waiting ones; RSA first."""
    by_status = defaultdict(list)
    for key in keys:
        by_status[key.status].append(key)
    chosen = by_status["active"] or by_status["waiting"]
    return sorted(chosen, key=lambda key: key.algorithm, reverse=True)


async def of_domain(connection: db.Connection, account_id: UUID, domain: str) -> list[DkimKey]:
    """Oldest first."""
    return (await of_domains(connection, account_id, [domain]))[domain]


async def of_domains(connection: db.Connection, account_id: UUID, domains: Collection[str]) -> dict[str, list[DkimKey]]:
    """The same for several; one that has none has an empty list."""
    found: dict[str, list[DkimKey]] = {domain: [] for domain in domains}
    for row in await sql.of_domains.fetch(connection, account_id=account_id, domains=list(domains)):
        found[row["domain"]].append(DkimKey.from_row(row))
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Sealed:
    """A private half, whose ever it is."""

    account_id: UUID
    id: UUID
    domain: str
    selector: str
    private_key: bytes = field(repr=False)  # encrypted


async def sealed(connection: db.Connection) -> list[Sealed]:
    """All there are, over all accounts."""
    return [Sealed(**dict(row)) for row in await sql.sealed.fetch(connection)]


async def reseal(connection: db.Connection, key: Sealed, anew: bytes) -> int:
    """Put another encryption in its place: 1; 0 where it has gone or was changed meanwhile."""
    return await sql.reseal.run(
        connection, account_id=key.account_id, id=key.id, private_key=key.private_key, anew=anew
    )


# In a transaction that has taken the domain's turn (gateway.storage.domains.take_turn)


async def add(connection: db.Connection, account_id: UUID, domain: str, keys: Sequence[NewKey]) -> None:
    """The claim of the domain must be there."""
    columns: dict[str, list[Any]] = {
        "ids": [key.id for key in keys],
        "selectors": [key.selector for key in keys],
        "algorithms": [key.algorithm for key in keys],
        "private_keys": [key.private_key for key in keys],
        "records": [key.record for key in keys],
    }
    await sql.add.run(connection, account_id=account_id, domain=domain, **columns)


async def seen(connection: db.Connection, account_id: UUID, domain: str, selectors: Collection[str]) -> bool:
    """The records of these stand in the DNS: they take over; whether that is news. Forgets who was retired long ago."""
    news = await sql.activate.run(connection, account_id=account_id, domain=domain, selectors=list(selectors)) > 0
    if news:
        await sql.retire.run(connection, account_id=account_id, domain=domain)
    await sql.forget.run(connection, account_id=account_id, domain=domain, overlap=OVERLAP_SECONDS)
    return news


async def replace_waiting(connection: db.Connection, account_id: UUID, domain: str, keys: Sequence[NewKey]) -> None:
    """Instead of those whose records were never seen."""
    await sql.remove_waiting.run(connection, account_id=account_id, domain=domain)
    await add(connection, account_id, domain, keys)
