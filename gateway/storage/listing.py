"""The log of e-mails, searched: page by page, in the order of ids, without an index for every question.

E-mails are looked through slice by slice from where the page begins: each slice is one statement over a range of the
primary key (or of one recipient's e-mails, where an address is asked for), so no snapshot is held for long. A page is
over when it is full, or BUDGET_SECONDS after it began: then it is shorter, and `next_id` says where to go on. Nothing
is left out, and nothing comes twice, whatever is written meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from asyncpg import Record

from gateway.storage import db, emails, period
from gateway.storage.sql import load

sql = load("listing")

WIDTHS: Final = (200, 1000, 4000)  # e-mails looked at by one statement; the last again and again
BUDGET_SECONDS: Final = 1.0  # for one page
_BESIDES: Final = ("seen", "lowest", "highest")  # columns of a slice that are not an e-mail's


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which e-mails a list shows; None = whatever."""

    status: str | None = None  # one of emails.ORDER
    to: str | None = None  # a recipient's address
    from_addresses: Collection[str] | None = None  # one of these, in lower case
    from_domains: Collection[str] | None = None  # at one of these, in lower case
    subject: str | None = None  # a part of it, in any case
    tag: str | None = None  # a tag's name, value, or name:value
    metadata: tuple[str, str] | None = None  # a member, and its value as text
    provider: str | None = None  # of a recipient's last attempt: its whole name, or what stands before the first colon
    reply: str | None = None  # a part of what a peer said to any attempt, in any case
    since: datetime | None = None
    until: datetime | None = None  # exclusive
    after: UUID | None = None  # behind this one in the list's order
    before: UUID | None = None  # in front of this one in the list's order

    @property
    def is_selective(self) -> bool:
        """Whether e-mails of the range are asked whether they match."""
        asked = (self.status, self.from_addresses, self.from_domains, self.subject, self.tag, self.metadata)
        return any(one is not None for one in (*asked, self.provider, self.reply))


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A page."""

    emails: list[emails.Email]
    next_id: UUID | None  # the next page is behind this one; None = there is none


async def page(connection: db.Connection, account_id: UUID, wanted: Wanted, *, limit: int, ascending: bool) -> Found:
    """E-mails that match, in the order asked for."""
    low, high = _bounds(wanted, ascending)
    values = {"account_id": account_id, "ascending": ascending, **_filters(wanted)}
    found: list[emails.Email] = []
    begun, step = time.monotonic(), 0
    while True:
        width = WIDTHS[min(step, len(WIDTHS) - 1)] if wanted.is_selective else limit + 1
        rows = await sql.slice.fetch(
            connection, low=low, high=high, width=width, limit=limit + 1 - len(found), **values
        )
        found += [_email(row) for row in rows if row["id"] is not None]
        if len(found) > limit:
            return Found(emails=found[:limit], next_id=found[limit - 1].id)
        if rows[0]["seen"] < width:
            return Found(emails=found, next_id=None)
        low, high = (rows[0]["highest"], high) if ascending else (low, rows[0]["lowest"])
        if time.monotonic() > begun + BUDGET_SECONDS:
            return Found(emails=found, next_id=low if ascending else high)
        step += 1


def _email(row: Record) -> emails.Email:
    return emails.Email.from_values({name: value for name, value in row.items() if name not in _BESIDES})


def _bounds(wanted: Wanted, ascending: bool) -> tuple[UUID, UUID]:
    """The range of ids, both ends outside. Where a time begins and ends in it is told roughly; `created_at` decides."""
    begin, end = (wanted.after, wanted.before) if ascending else (wanted.before, wanted.after)
    made = period.of(wanted).ids
    return max(begin or period.FIRST, made["first"]), min(end or period.LAST, made["last"])


def _filters(wanted: Wanted) -> dict[str, Any]:
    names = ("status", "to", "subject", "tag", "provider", "reply", "since", "until")
    name, value = wanted.metadata or (None, None)
    senders = {one: getattr(wanted, one) for one in ("from_addresses", "from_domains")}
    return {
        **{one: getattr(wanted, one) for one in names},
        **{one: None if found is None else list(found) for one, found in senders.items()},
        "metadata_name": name,
        "metadata_value": value,
    }
