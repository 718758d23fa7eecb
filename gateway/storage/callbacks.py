"""What is told of mail that left: each callback as it was posted, each report as it came, and the way to our own ids.

Two look-ups by the providers' own ids, without an account: `provider_messages`, written with the verdict, and
`callbacks`, kept before anything is done with them. A callback may overtake the verdict; whichever is committed later
finds the other one, so that no news is lost between them.

Reports that come by mail, to return paths, stand there under the provider MAIL, which calls mails by the ids of their
deliveries. They are applied by whoever looks for what is not applied yet, again and again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from gateway.mail import address
from gateway.storage import db
from gateway.storage.sql import load

sql = load("callbacks")

PROVIDERS: Final = ("mailgun", "postmark", "ses")
MAIL: Final = "mail"  # the provider of reports that come to return paths
MAX_REPORTS: Final = 20  # kept about one delivery: whoever got the mail could send as many as it likes
AT_ONCE: Final = 100  # callbacks that are caught up with after one batch of verdicts
# Their relays, by which mail can leave, too: `smtp:smtp.postmarkapp.com:587`
_RELAYS: Final = (
    (re.compile(r"smtps?:[\w.-]*\.mailgun\.org(:\d+)?"), "mailgun"),
    (re.compile(r"smtps?:[\w.-]*\.postmarkapp\.com(:\d+)?"), "postmark"),
    (re.compile(r"smtps?:[\w.-]*\.amazonaws\.com(:\d+)?"), "ses"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Callback:
    """One callback."""

    provider: str  # one of PROVIDERS, or MAIL
    event_id: str  # the provider's own, or a digest of what it posted
    provider_id: str | None  # of the mail it speaks of; None = of none
    payload: bytes  # the body as it was posted, the mail as it came
    received_at: datetime | None = None  # None = it is not kept yet, or nobody needs to know


@dataclass(frozen=True, kw_only=True, slots=True)
class Handed:
    """A mail that a provider took, under the name it has there."""

    provider: str  # as the verdict has it, such as `postmark` or `mailgun:example.com`; or MAIL
    provider_id: str
    recipient: str  # whom it was for
    account_id: UUID
    delivery_id: UUID

    @property
    def called(self) -> tuple[str, str] | None:
        """Whose callbacks or reports speak of it, and as what; None = nobody's do."""
        if self.provider == MAIL:
            return MAIL, self.provider_id
        provider = provider_of(self.provider)
        if provider is None or not bare(self.provider_id):
            return None
        return provider, name_of(provider, self.provider_id, self.recipient)


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A recipient that news are about; its row is locked."""

    account_id: UUID
    id: UUID
    email_id: UUID
    address: str
    status: str  # one of emails.ORDER
    attempts: int
    provider: str | None  # that made the last attempt; None = none yet


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A mail that came to a return path."""

    id: str  # 64 hexadecimal digits
    delivery_id: UUID
    received_at: datetime
    applied_at: datetime | None  # None = not yet
    size: int  # bytes that were kept


def provider_of(name: str) -> str | None:
    """Which of PROVIDERS posts callbacks about mail that left by the provider of this name; None = nobody does."""
    kind = name.partition(":")[0]
    if kind in PROVIDERS:
        return kind
    return next((provider for pattern, provider in _RELAYS if pattern.fullmatch(name.lower())), None)


def bare(provider_id: str) -> str:
    """A provider's id as callbacks are found by: Mailgun writes it with brackets here and without there."""
    return provider_id.strip().removeprefix("<").removesuffix(">")


def name_of(provider: str, provider_id: str, recipient: str) -> str:
    """What a mail is found by. Mailgun keeps our Message-ID as its id, which all recipients of an e-mail share."""
    name = bare(provider_id)
    if provider != "mailgun" or not name or not recipient:
        return name
    return f"{name} {address.canonical_of(recipient)}"


async def note_messages(connection: db.Connection, handed: Sequence[Handed]) -> None:
    """Write down whose mail their ids are; those that nobody calls back about are left out."""
    rows = sorted((*one.called, one.account_id, one.delivery_id) for one in handed if one.called)
    if not rows:
        return
    providers, provider_ids, account_ids, delivery_ids = zip(*rows, strict=True)
    await sql.note_messages.run(
        connection,
        providers=list(providers),
        provider_ids=list(provider_ids),
        account_ids=list(account_ids),
        delivery_ids=list(delivery_ids),
    )


async def keep(connection: db.Connection, callback: Callback) -> bool:
    """Store it as it came; False = it had come before."""
    return (
        await sql.keep.run(
            connection,
            provider=callback.provider,
            event_id=callback.event_id,
            provider_id=callback.provider_id,
            payload=callback.payload,
        )
        > 0
    )


async def delivery_of(connection: db.Connection, provider: str, provider_id: str) -> tuple[UUID, UUID] | None:
    """Account and delivery of the mail that a provider calls so; None = nobody's, or not written down yet.

    Mail that Mailgun took before recipients were part of what it is found by has its bare id."""
    names = list(dict.fromkeys((provider_id, provider_id.partition(" ")[0])))
    row = await sql.delivery_of.row(connection, provider=provider, provider_ids=names)
    return (row["account_id"], row["delivery_id"]) if row else None


async def use(connection: db.Connection, callback: Callback) -> bool:
    """Note that its news are applied; False = they had been."""
    return await sql.use.run(connection, provider=callback.provider, event_id=callback.event_id) > 0


async def waiting(connection: db.Connection, provider: str, provider_ids: Sequence[str]) -> list[Callback]:
    """Callbacks about these mails whose news are not applied yet, oldest first; the payload says which mail."""
    rows = await sql.waiting.fetch(connection, provider=provider, provider_ids=list(provider_ids), limit=AT_ONCE)
    return [
        Callback(provider=provider, event_id=row["event_id"], provider_id=None, payload=row["payload"]) for row in rows
    ]


async def lock(connection: db.Connection, account_id: UUID, delivery_id: UUID) -> Standing | None:
    row = await sql.lock.row(connection, account_id=account_id, id=delivery_id)
    return Standing(account_id=account_id, **dict(row)) if row else None


async def move(connection: db.Connection, standing: Standing, status: str, reply: str) -> None:
    """Another status, for good: nobody writes there again."""
    await sql.move.run(connection, account_id=standing.account_id, id=standing.id, status=status, reply=reply)


async def suppress(connection: db.Connection, account_id: UUID, address: str, reason: str) -> None:
    """Put a canonical address on the account's list, if it is not there."""
    await sql.suppress.run(connection, account_id=account_id, address=address, reason=reason)


async def forget(connection: db.Connection, before: datetime, limit: int) -> int:
    """Remove one slice of those that came before; how many."""
    return await sql.forget.run(connection, before=before, limit=limit)


async def forget_messages(connection: db.Connection, before: datetime, limit: int) -> int:
    """Remove one slice of what says whose mail it was, of mail handed over before; how many."""
    return await sql.forget_messages.run(connection, before=before, limit=limit)


# Reports that came by mail


async def has_room(connection: db.Connection, delivery_id: UUID) -> bool:
    """Whether another report about this delivery is kept."""
    count: int = await sql.count_of.value(connection, provider=MAIL, provider_id=str(delivery_id), limit=MAX_REPORTS)
    return count < MAX_REPORTS


async def unapplied(connection: db.Connection, after: Callback | None, limit: int) -> list[Callback]:
    """Reports that can be applied, oldest first, behind one of them."""
    since, last = (after.received_at, after.event_id) if after else (None, None)
    rows = await sql.unapplied.fetch(connection, since=since, after=last, limit=limit)
    return [Callback(provider=MAIL, **dict(row)) for row in rows]


async def abandon(connection: db.Connection, before: datetime) -> int:
    """Give up the reports that came before and are about no mail that is known; how many."""
    return await sql.abandon.run(connection, before=before)


async def reports(connection: db.Connection, delivery_ids: Sequence[UUID]) -> list[Report]:
    """What is kept about these deliveries, oldest first."""
    rows = await sql.reports.fetch(connection, provider_ids=[str(id) for id in delivery_ids])
    return [
        Report(
            id=row["event_id"],
            delivery_id=UUID(row["provider_id"]),
            received_at=row["received_at"],
            applied_at=row["applied_at"],
            size=row["size"],
        )
        for row in rows
    ]


async def report(connection: db.Connection, delivery_ids: Sequence[UUID], id: str) -> bytes | None:
    """One of them, as it came."""
    found: bytes | None = await sql.report.value(
        connection, provider_ids=[str(one) for one in delivery_ids], event_id=id
    )
    return found
