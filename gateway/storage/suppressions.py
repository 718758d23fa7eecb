"""Addresses that an account does not write to, and why; canonical, so that the case of letters does not count.

Each is about some of the account's mail, its scope:

    ""                      all of it: bounces, complaints, and what an owner lists without saying more
    "topic:newsletter"      e-mails with that topic, which their recipients can unsubscribe from
    "domain:shop.example"   e-mails whose From is at that very domain

Whether one counts is decided by the database's clock in each statement; a row whose time is over is as if it were not
there, is overwritten by the next one for its address and scope, and is swept some time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from asyncpg import Record

from gateway.mail import address
from gateway.storage import db, period
from gateway.storage.sql import load

sql = load("suppressions")

REASONS: Final = ("bounce", "complaint", "unsubscribe", "manual")
EVERYTHING: Final = ""  # the scope that is all mail
TOPIC: Final = "topic:"
DOMAIN: Final = "domain:"
TOPIC_NAME: Final = r"[a-z0-9][a-z0-9._-]{0,63}"
_TOPIC: Final = re.compile(TOPIC_NAME)


@dataclass(frozen=True, kw_only=True, slots=True)
class Suppression:
    """An address that is not written to."""

    address: str  # canonical
    scope: str  # which mail it is about
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
    scope: str = EVERYTHING  # which mail it is about


def scopes_of(sender: str, topic: str | None) -> tuple[str, ...]:
    """The scopes that an e-mail is in, by the address in its From and its topic; None or empty = no topic."""
    found = (EVERYTHING, DOMAIN + address.domain_of(sender))
    return (*found, TOPIC + topic) if topic else found


def read_scope(text: str) -> str:
    """A scope as it is kept. ValueError says, for a person, why it is none."""
    if not text:
        return EVERYTHING
    if text.startswith(DOMAIN):
        try:
            return DOMAIN + address.parse(f"postmaster@{text.removeprefix(DOMAIN)}").ascii_domain
        except address.InvalidAddress:
            raise ValueError("not a domain behind domain:") from None
    if text.startswith(TOPIC) and is_topic(text.removeprefix(TOPIC)):
        return text
    raise ValueError('neither empty (all mail) nor "topic:<name>" nor "domain:<sender\'s domain>"')


def is_topic(text: str) -> bool:
    return _TOPIC.fullmatch(text) is not None


async def put(connection: db.Connection, account_id: UUID, wishes: Sequence[Wish]) -> list[Suppression]:
    """List them, each address and scope once; those whose time is over already are left out, and out of the answer."""
    rows = await sql.put.fetch(
        connection,
        account_id=account_id,
        addresses=[wish.address for wish in wishes],
        scopes=[wish.scope for wish in wishes],
        reasons=[wish.reason for wish in wishes],
        expires_ats=[wish.expires_at for wish in wishes],
    )
    return [Suppression.from_row(row) for row in rows]


async def bounced(connection: db.Connection, account_id: UUID, addresses: Sequence[str]) -> None:
    """List canonical addresses that a bounce has shown not to exist; what is on the list stays as it is."""
    await sql.bounced.run(connection, account_id=account_id, addresses=list(addresses))


async def unsubscribe(connection: db.Connection, account_id: UUID, address: str, scope: str) -> bool:
    """List a canonical address for good, because its owner says so; False where it was so already."""
    return await sql.unsubscribe.row(connection, account_id=account_id, address=address, scope=scope) is not None


async def resubscribe(connection: db.Connection, account_id: UUID, address: str, scope: str) -> bool:
    """Whether the address was listed because its owner had said so; then it is no more."""
    return await sql.resubscribe.run(connection, account_id=account_id, address=address, scope=scope) > 0


async def get(connection: db.Connection, account_id: UUID, address: str, scope: str) -> Suppression | None:
    row = await sql.get.row(connection, account_id=account_id, address=address, scope=scope)
    return Suppression.from_row(row) if row else None


async def delete(connection: db.Connection, account_id: UUID, address: str, scope: str) -> bool:
    """Whether the canonical address was on the list with this scope; what others there are stay."""
    return await sql.delete.run(connection, account_id=account_id, address=address, scope=scope) > 0


async def page(
    connection: db.Connection,
    account_id: UUID,
    *,
    after: tuple[datetime, str, str] | None,  # time, address and scope of the last one of the page before
    reason: str | None,  # None = whatever
    address: str | None,  # canonical; None = whatever
    scope: str | None,  # None = whatever
    limit: int,
    ascending: bool,
    listed: period.Period = period.ALWAYS,
) -> list[Suppression]:
    """Those that count, by when they were listed."""
    query = sql.page_asc if ascending else sql.page_desc
    made, behind, behind_scope = after or (None, None, None)
    wanted = {"reason": reason, "address": address, "scope": scope, **listed.values}
    position = {"made": made, "after": behind, "after_scope": behind_scope}
    rows = await query.fetch(connection, account_id=account_id, limit=limit, **wanted, **position)
    return [Suppression.from_row(row) for row in rows]


async def behind(connection: db.Connection, account_id: UUID, after: tuple[str, str], limit: int) -> list[Suppression]:
    """A slice of the whole list in the order of addresses and scopes; the first begins behind two empty ones."""
    last, scope = after
    rows = await sql.behind.fetch(connection, account_id=account_id, after=last, after_scope=scope, limit=limit)
    return [Suppression.from_row(row) for row in rows]


async def forget(connection: db.Connection, before: datetime, limit: int) -> int:
    """Remove a slice of those whose time was over before then; how many."""
    removed = 0
    for row in await sql.over_accounts.fetch(connection, before=before, limit=limit):
        removed += await sql.forget.run(connection, account_id=row["account_id"], before=before, limit=limit)
    return removed
