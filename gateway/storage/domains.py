"""Domains of tenants: who proved to own which, and what they want done with mail there.

A domain may be claimed by several accounts (`domains`), but only one has it (`domain_names`): who put the proof into its
DNS. Mail is taken for domains that somebody has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from gateway.storage import db
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


async def find(connection: db.Connection, name: str) -> Owned | None:
    """Whose domain this is (lower-case A-labels), by its own name or by a wildcard above; None = nobody's."""
    labels = name.split(".")[-MAX_LABELS:]
    above = [".".join(labels[at:]) for at in range(1, len(labels) - 1)]
    row = await sql.find.row(connection, name=name, names=[name, *above])
    if row is None:
        return None
    policy = await sql.policy.row(connection, account_id=row["account_id"], name=row["name"])
    return Owned(
        name=row["name"],
        account_id=row["account_id"],
        unknown_recipients=policy["unknown_recipients"] if policy else "drop",
        catch_all=policy["catch_all"] if policy else None,
    )
