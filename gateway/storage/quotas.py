"""What an account holds, for its quotas, and telling its owner that one is spent.

Bytes and messages are counted in the head of the account's log, whose row every commit of the account updates anyway;
nothing stored is ever removed to make room.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from gateway.storage import db, events
from gateway.storage.sql import load

sql = load("quotas")

Kind = Literal["api_keys", "domains", "webhooks", "templates", "suppressions"]
TOLD_SECONDS: Final = 3600.0  # between two events that say the same


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What an account holds."""

    stored_bytes: int = 0  # sizes of its messages, added up
    minute_messages: int = 0  # that came in the minute under way


async def usage(connection: db.Connection, account_id: UUID) -> Usage:
    """What the account holds now."""
    row = await sql.usage.row(connection, account_id=account_id)
    return Usage(**dict(row)) if row else Usage()


async def exceeded(connection: db.Connection, account_id: UUID, quota: str, limit: int) -> list[events.NewEvent]:
    """The event that says so, to be appended in this transaction; empty where it was told within the hour."""
    if await sql.due.value(connection, account_id=account_id, pause=TOLD_SECONDS) is None:
        return []
    return [events.NewEvent(type="quota.exceeded", data=events.encode({"quota": quota, "limit": limit}))]


async def objects(connection: db.Connection, kind: Kind, account_id: UUID, limit: int) -> int:
    """Objects of a kind that the account has, counted no further than to `limit`."""
    query = {
        "api_keys": sql.api_keys,
        "domains": sql.domains,
        "webhooks": sql.webhooks,
        "templates": sql.templates,
        "suppressions": sql.suppressions,
    }[kind]
    count: int = await query.value(connection, account_id=account_id, limit=limit)
    return count


async def live_mailboxes(connection: db.Connection, account_id: UUID, limit: int) -> int:
    """Live mailboxes of the account, counted no further than to `limit`."""
    count: int = await sql.live_mailboxes.value(connection, account_id=account_id, limit=limit)
    return count
