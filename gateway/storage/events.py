"""The event log: one durable, ordered list an account of everything that somebody could wait for.

`append` is the last statement of every transaction that changes something: it takes the lock on the account's head, so
that seq order is commit order and has no gaps, and a reader at `seq > cursor` can never step over an event. Where one
transaction touches several accounts their heads are taken in the order of the accounts' ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from asyncpg import Record
from uuid_utils.compat import uuid7

from gateway.errors import CursorExpired
from gateway.storage import db
from gateway.storage.sql import load

sql = load("events")
_encode = msgspec.json.Encoder().encode

# Who changed what of an account's set-up (gateway.storage.audit). Keys without `read` do not hear of these, nor do
# webhooks that do not name them: `*` stands for what happens to mail. The statement `append` lists them, too.
AUDITED: Final = frozenset(
    {
        *("account.created", "account.updated", "api_key.created", "api_key.revoked"),
        *(f"domain.{what}" for what in ("created", "updated", "deleted", "keys_rotated")),
        *(f"webhook.{what}" for what in ("created", "updated", "deleted", "rotated")),
        *(f"suppression.{what}" for what in ("created", "deleted", "imported")),
        *(f"template.{what}" for what in ("created", "updated", "deleted")),
        *(f"bounce_rule.{what}" for what in ("created", "updated", "deleted")),
    }
)
TYPES: Final = frozenset(
    {
        *(f"mailbox.{what}" for what in ("created", "updated", "expired", "deleted")),
        *(f"message.{what}" for what in ("received", "updated", "deleted", "dropped")),
        *(f"email.{what}" for what in ("queued", "scheduled", "canceled", "sent", "delivered", "deferred", "delayed")),
        *(
            f"email.{what}"
            for what in ("bounced", "failed", "suppressed", "complained", "unknown", "opened", "clicked")
        ),
        *("email.unsubscribed", "email.resubscribed"),
        *("domain.verified", "domain.failed", "webhook.disabled", "webhook.test", "quota.exceeded"),
        *AUDITED,
        "log.restored",
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class NewEvent:
    """Something that happened in the transaction under way."""

    type: str  # one of TYPES
    mailbox_id: UUID | None = None
    email_id: UUID | None = None
    message_id: UUID | None = None
    data: str = "{}"  # JSON object, as it will be told
    id: UUID = field(default_factory=uuid7)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened, as the log holds it."""

    seq: int  # 1 = the account's first
    id: UUID
    type: str
    mailbox_id: UUID | None  # None = not about a mailbox
    email_id: UUID | None  # None = not about an e-mail
    message_id: UUID | None  # None = not about a message
    data: str  # JSON object
    created_at: datetime

    @classmethod
    def from_row(cls, row: Record) -> Event:
        return cls(**dict(row))

    def json(self) -> bytes:
        """The event as every stream and webhook tells it."""
        head: dict[str, Any] = {"id": self.id, "seq": self.seq, "cursor": str(self.seq), "type": self.type}
        head["created_at"] = self.created_at.astimezone(UTC)
        for name in ("mailbox_id", "email_id", "message_id"):
            value = getattr(self, name)
            if value is not None:
                head[name] = value
        head["data"] = msgspec.Raw(self.data.encode())
        return _encode(head)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What an account's log holds now."""

    oldest: int  # seq of the first event kept; newest + 1 when there is none
    newest: int  # 0 = nothing ever happened

    def check(self, cursor: int) -> None:
        """A cursor may stand right before the oldest event and up to the newest one. Raises CursorExpired."""
        if not self.oldest - 1 <= cursor <= self.newest:
            raise CursorExpired(extra={"oldest": str(self.oldest - 1), "newest": str(self.newest)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """Which events somebody wants to hear of; everything None = all."""

    types: tuple[str, ...] | None = None
    mailbox_id: UUID | None = None
    email_id: UUID | None = None

    def matches(self, event: Event) -> bool:
        return (
            (self.types is None or event.type in self.types)
            and (self.mailbox_id is None or event.mailbox_id == self.mailbox_id)
            and (self.email_id is None or event.email_id == self.email_id)
        )


def encode(data: Mapping[str, Any]) -> str:
    """An event's data as JSON text."""
    return _encode(data).decode()


async def open_log(connection: db.Connection, account_id: UUID) -> None:
    """A new account's log."""
    await sql.open_head.run(connection, account_id=account_id)


async def append(connection: db.Connection, account_id: UUID, events: Sequence[NewEvent]) -> int:
    """Write `events`, the last statement before COMMIT; the seq of the first (the others follow without a gap)."""
    row = await sql.append.row(
        connection,
        account_id=account_id,
        ids=[event.id for event in events],
        types=[event.type for event in events],
        mailbox_ids=[event.mailbox_id for event in events],
        email_ids=[event.email_id for event in events],
        message_ids=[event.message_id for event in events],
        data=[event.data for event in events],
    )
    if row is None:
        raise LookupError(f"account {account_id} has no event log")
    return int(row["base"]) + 1


async def append_all(connection: db.Connection, by_account: Mapping[UUID, Sequence[NewEvent]]) -> dict[UUID, int]:
    """Write several accounts' events in the one order that cannot deadlock; each account's first seq."""
    return {account: await append(connection, account, by_account[account]) for account in sorted(by_account)}


async def heads(connection: db.Connection, account_ids: Iterable[UUID]) -> dict[UUID, int]:
    """The newest seq of each account."""
    rows = await sql.heads.fetch(connection, account_ids=list(account_ids))
    return {row["account_id"]: row["last_seq"] for row in rows}


async def bounds(connection: db.Connection, account_id: UUID) -> Bounds:
    row = await sql.bounds.row(connection, account_id=account_id)
    newest = (row["newest"] or 0) if row else 0
    return Bounds(oldest=(row["oldest"] if row and row["oldest"] else newest + 1), newest=newest)


async def after(connection: db.Connection, account_id: UUID, cursor: int, limit: int) -> list[Event]:
    """All events behind a cursor, oldest first."""
    rows = await sql.after.fetch(connection, account_id=account_id, after=cursor, limit=limit)
    return [Event.from_row(row) for row in rows]


async def end_of_gap(connection: db.Connection, account_id: UUID, cursor: int) -> int:
    """The cursor, or where seqs are left out behind it, the last of those."""
    following: int | None = await sql.following.value(connection, account_id=account_id, after=cursor)
    return cursor if following is None else following - 1


async def page(
    connection: db.Connection, account_id: UUID, wanted: Filter, *, cursor: int, until: int, limit: int
) -> list[Event]:
    """Events behind `cursor` and up to `until` that are wanted, oldest first."""
    values: dict[str, Any] = {"account_id": account_id, "after": cursor, "until": until, "limit": limit}
    values["types"] = list(wanted.types) if wanted.types is not None else None
    if wanted.mailbox_id is not None and wanted.email_id is None:
        rows = await sql.page_of_mailbox.fetch(connection, mailbox_id=wanted.mailbox_id, **values)
    elif wanted.email_id is not None and wanted.mailbox_id is None:
        rows = await sql.page_of_email.fetch(connection, email_id=wanted.email_id, **values)
    else:
        rows = await sql.page.fetch(connection, mailbox_id=wanted.mailbox_id, email_id=wanted.email_id, **values)
    return [Event.from_row(row) for row in rows]


async def one(connection: db.Connection, account_id: UUID, seq: int) -> Event | None:
    row = await sql.one.row(connection, account_id=account_id, seq=seq)
    return Event.from_row(row) if row else None


async def tell_of(connection: db.Connection, account_id: UUID, mailbox_id: UUID, message_id: UUID) -> bool:
    """Whether the message is, or was, the mailbox's, as far back as the log goes."""
    told: bool = await sql.tell_of.value(
        connection, account_id=account_id, mailbox_id=mailbox_id, message_id=message_id
    )
    return told


async def trace(connection: db.Connection, account_id: UUID, event: Event) -> str | None:
    """Of the request that caused what the event is about, as gateway.tracing keeps it; None = there was none."""
    found: str | None = await sql.trace.value(
        connection, account_id=account_id, email_id=event.email_id, message_id=event.message_id
    )
    return found


async def redact(connection: db.Connection, account_id: UUID, mailbox_id: UUID, message_ids: Sequence[UUID]) -> None:
    """Leave only ids in what was told of deleted messages; webhooks that still wait tell the same."""
    await sql.redact.run(connection, account_id=account_id, mailbox_id=mailbox_id, message_ids=list(message_ids))


async def forget(connection: db.Connection, account_id: UUID, before: datetime, limit: int) -> int:
    """Remove one slice of the log's beginning that is older than `before`; rows removed, 0 = nothing left to do."""
    rows = await sql.oldest.fetch(connection, account_id=account_id, limit=limit)
    aged = 0
    for row in rows:
        if row["created_at"] >= before:
            break
        aged = row["seq"]
    return await sql.forget.run(connection, account_id=account_id, until=aged) if aged else 0


async def aged_accounts(connection: db.Connection, before: datetime, *, after_id: UUID, limit: int) -> list[UUID]:
    """Accounts whose log begins before `before`, in the order of ids behind `after_id`."""
    rows = await sql.aged_accounts.fetch(connection, before=before, after=after_id, limit=limit)
    return [row["account_id"] for row in rows]
