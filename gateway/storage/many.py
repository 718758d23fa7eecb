"""What a caller does with many recipients at once: those that match are tried again, or not written to any more.

An account's recipients are looked through in the order of their ids, a slice a statement, for no longer than
BUDGET_SECONDS; what matches is locked, looked at again and changed in the caller's transaction, which ends with one
event an e-mail. Where more may match, `next_id` says where to go on.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from gateway.storage import db, emails, events
from gateway.storage.sql import load

sql = load("many")

SLICE: Final = 5000  # recipients that one statement looks at
BUDGET_SECONDS: Final = 2.0  # for looking
FIRST: Final = UUID(int=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which recipients; None = whichever."""

    statuses: Collection[str]  # of emails.ORDER
    to: str | None = None  # its address
    provider: str | None = None  # that made the last attempt: its whole name, or what stands before the first colon
    tag: str | None = None  # of its e-mail: a tag's name, value, or name:value
    since: datetime | None = None  # its e-mail was accepted from here on
    until: datetime | None = None  # … and before
    recipient_domain: str | None = None  # A-labels, lower case
    domains: Collection[str] | None = None  # its e-mail's From is at one of these, as they may be written


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """What was done."""

    emails: int
    recipients: int
    next_id: UUID | None  # behind this recipient there may be more; None = there are none
    news: Sequence[events.NewEvent]  # to be appended, last in the transaction


async def retry(
    connection: db.Connection, account_id: UUID, wanted: Wanted, *, limit: int, after: UUID = FIRST
) -> Moved:
    """Try up to `limit` recipients again now. Statuses that are not emails.RETRYABLE match nobody."""
    return await _move(connection, account_id, wanted, emails.RETRYABLE, "queued", limit=limit, after=after)


async def cancel(
    connection: db.Connection, account_id: UUID, wanted: Wanted, *, limit: int, after: UUID = FIRST
) -> Moved:
    """Do not write to up to `limit` recipients. Statuses that are not emails.CANCELABLE match nobody."""
    return await _move(connection, account_id, wanted, emails.CANCELABLE, "canceled", limit=limit, after=after)


async def _move(
    connection: db.Connection,
    account_id: UUID,
    wanted: Wanted,
    movable: Collection[str],
    becomes: str,
    *,
    limit: int,
    after: UUID,
) -> Moved:
    wanted = dataclasses.replace(wanted, statuses=frozenset(wanted.statuses).intersection(movable))
    found, next_id = await _found(connection, account_id, wanted, limit, after)
    rows = await sql.lock.fetch(connection, account_id=account_id, ids=found) if found else []
    standing = [row for row in rows if row["status"] in wanted.statuses]
    if standing:
        ids = [row["id"] for row in standing]
        await emails.set_status(connection, account_id, ids, becomes)
    by_email = Counter(row["email_id"] for row in standing)
    news = [emails.told(email_id, f"email.{becomes}", {"recipients": n}) for email_id, n in by_email.items()]
    return Moved(emails=len(by_email), recipients=len(standing), next_id=next_id, news=news)


async def _found(
    connection: db.Connection, account_id: UUID, wanted: Wanted, limit: int, after: UUID
) -> tuple[list[UUID], UUID | None]:
    """Ids of up to `limit` that match, and behind which id there may be more."""
    filters = {name: getattr(wanted, name) for name in Wanted.__dataclass_fields__}
    filters |= {name: None if filters[name] is None else list(filters[name]) for name in ("statuses", "domains")}
    found: list[UUID] = []
    begun = time.monotonic()
    while wanted.statuses:
        row = await sql.among.row(connection, account_id=account_id, after=after, width=SLICE, **filters)
        if row is None or not row["seen"]:
            break
        found += row["ids"]
        after = row["last"]
        if len(found) > limit:
            return found[:limit], found[limit - 1]
        if row["seen"] < SLICE:
            break
        if time.monotonic() > begun + BUDGET_SECONDS:
            return found, after
    return found, None
