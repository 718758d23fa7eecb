"""The audit trail: who changed what of an account's set-up, and from where; events of its log like all others.

Each is written in the transaction of the change, its last statement, so that there is neither a change without its
event nor an event without its change. It names the API key or the operator, the client's address, and what it is about:
never a secret, and of a webhook's URL neither user nor query. It is kept as long as the log (EVENT_RETENTION_SECONDS).
"""

from __future__ import annotations

import urllib.parse
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID

from gateway.models import Origin
from gateway.storage import db, events
from gateway.storage.sql import load

sql = load("audit")

OPERATOR: Final = Origin()
SPAN: Final = 10_000  # events of the log that one statement looks at
TOLD: Final = (*sorted(events.AUDITED), "domain.verified", "domain.failed", "webhook.disabled")  # what a trail shows


def event(type: str, origin: Origin, **about: Any) -> events.NewEvent:
    """`type` is one of events.AUDITED; `about` says what was changed, as JSON will."""
    actor = {"type": "api_key", "id": origin.key_id} if origin.key_id is not None else {"type": "operator"}
    return events.NewEvent(
        type=type, data=events.encode({"actor": actor, "remote_ip": origin.remote_ip or None, **about})
    )


async def write(connection: db.Connection, account_id: UUID, type: str, origin: Origin, **about: Any) -> None:
    """The last statement of a transaction that changes something."""
    await events.append(connection, account_id, [event(type, origin, **about)])


def shown_url(url: str) -> str:
    """A webhook's URL without what may be a secret in it."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


async def trail(database: db.Database, account_id: UUID, *, limit: int) -> AsyncIterator[events.Event]:
    """The account's newest `limit` changes, newest first; the log is walked in short statements."""
    async with database.connection() as connection:
        bounds = await events.bounds(connection, account_id)
        until, left = bounds.newest, limit
        while left > 0 and until >= bounds.oldest:
            rows = await sql.span.fetch(
                connection, account_id=account_id, until=until, after=until - SPAN, types=list(TOLD), limit=left
            )
            for row in rows:
                yield events.Event.from_row(row)
            left -= len(rows)
            until = await sql.newest.value(connection, account_id=account_id, until=until - SPAN) or 0
