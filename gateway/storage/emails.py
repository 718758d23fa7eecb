"""E-mails out: what was asked, one row a recipient, one append-only row an attempt.

The rows are the queue. A recipient is due when `due_at` has come; a worker leases it by pushing `due_at` ahead
under a token of its own (`lease_id`), so a lease that runs out is simply due again. A verdict counts only while the
token still stands; otherwise the attempt is recorded and decides nothing.

    from        to          by
    scheduled   sending     claim, once scheduled_at has come
    queued      sending     claim
    deferred    sending     claim, once due
    sending     sending     claim after the lease ran out (another token)
    sending     scheduled, queued, deferred     give_back, by the holder of the token: not tried after all
    sending     sent, delivered, deferred, bounced, failed, unknown, suppressed     settle, by the holder of the token
    scheduled, queued, deferred, unknown    canceled    cancel
    scheduled   scheduled   reschedule
    deferred, unknown, failed, bounced      queued      retry
    sent, delivered, canceled, suppressed, complained   nothing here moves them (news of providers may)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, Final, TypeAlias
from uuid import UUID

from asyncpg import Record

from gateway.errors import InvalidState, NotFound, invalid
from gateway.mail import address, classify
from gateway.storage import callbacks, db, events, suppressions
from gateway.storage.sql import load

sql = load("emails")

ORDER: Final = (
    *("scheduled", "queued", "sending", "deferred", "unknown"),  # unfinished
    *("sent", "delivered", "canceled", "suppressed", "failed", "bounced", "complained"),
)
UNFINISHED: Final = frozenset(ORDER[:5])
CANCELABLE: Final = frozenset({"scheduled", "queued", "deferred", "unknown"})
RETRYABLE: Final = frozenset({"deferred", "unknown", "failed", "bounced"})
LARGE: Final = 262_144  # bytes; from here on mail is read when it is sent, not when it is claimed
HANDED_OVER: Final = frozenset({"sent", "delivered", "unknown"})  # outcomes of attempts

Claim: TypeAlias = tuple[UUID, UUID]  # of a delivery, under a lease


def overall(statuses: Iterable[str]) -> str:
    """An e-mail's status: its lowest unfinished recipient's, else the highest."""
    ranked = sorted(statuses, key=ORDER.index)
    return next((status for status in ranked if status in UNFINISHED), ranked[-1])


@dataclass(frozen=True, kw_only=True, slots=True)
class NewDelivery:
    """A recipient of an e-mail to be stored."""

    id: UUID
    kind: str  # to, cc, bcc
    address: str  # as it is said in RCPT TO
    domain: str  # lower-case A-labels
    status: str  # queued, scheduled or suppressed


@dataclass(frozen=True, kw_only=True, slots=True)
class NewEmail:
    """An e-mail to be stored; JSON fields are text already."""

    id: UUID  # also its content's
    from_name: str | None
    from_address: str
    mail_from: str  # reverse path
    recipients: str  # JSON object: to, cc, bcc, reply_to
    subject: str
    message_id: str  # without brackets
    tags: str  # JSON list
    metadata: str  # JSON object
    size: int  # bytes of the composed mail
    on_unknown: str  # retry, hold
    scheduled_at: datetime | None
    expires_at: datetime | None
    source: str  # api, smtp
    topic: str | None = None  # that its recipients can unsubscribe from; empty = the sender's domain; None = nothing
    trace: str | None = None  # gateway.tracing's, of the request that it came by; None = it had none
    deliveries: tuple[NewDelivery, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Email:
    """An e-mail as it was asked for."""

    id: UUID
    from_name: str | None
    from_address: str
    mail_from: str  # reverse path
    recipients: dict[str, Any]  # to, cc, bcc, reply_to: lists of name, address
    subject: str
    message_id: str  # without brackets
    tags: list[dict[str, str]]
    metadata: dict[str, Any]
    size: int  # bytes of the composed mail
    on_unknown: str  # retry, hold
    scheduled_at: datetime | None  # None = at once
    expires_at: datetime | None  # None = the retry schedule decides
    source: str  # api, smtp
    created_at: datetime
    topic: str | None  # that its recipients can unsubscribe from; empty = the sender's domain; None = nothing

    @classmethod
    def from_row(cls, row: Record) -> Email:
        return cls.from_values(row)

    @classmethod
    def from_values(cls, row: Mapping[str, Any]) -> Email:
        """Columns that are no field of it, such as one that a later version added, are left out."""
        return cls(**{one.name: row[one.name] for one in fields(cls)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """One recipient of an e-mail."""

    id: UUID
    email_id: UUID
    kind: str  # to, cc, bcc
    address: str
    domain: str
    status: str  # one of ORDER
    attempts: int
    due_at: datetime | None  # next attempt, or the lease's end; None = finished or held
    lease_id: UUID | None
    in_data: bool
    provider: str | None  # that made the last attempt
    provider_id: str | None
    reply: str | None  # last thing the peer said
    created_at: datetime
    updated_at: datetime
    waits_since: datetime | None  # first due, or retried by its sender; None = never due
    delayed_told_at: datetime | None  # None = never

    @classmethod
    def from_row(cls, row: Record) -> Delivery:
        return cls(**{one.name: row[one.name] for one in fields(cls)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Claimed:
    """A recipient that this worker has the lease of, and what is to be sent there."""

    account_id: UUID
    id: UUID  # of the delivery
    email_id: UUID
    address: str
    domain: str
    number: int  # of this attempt; 1 = first
    was_in_data: bool  # an attempt before this one broke off after DATA and nobody knows how it ended
    lease_id: UUID
    mail_from: str
    author: str  # the address in From
    tags: list[dict[str, str]]  # name, value
    on_unknown: str
    expires_at: datetime | None
    queued_at: datetime  # first due, or retried by its sender: the age counts from here
    canonical: str  # address, as suppression lists have it
    suppressed: bool  # on the suppression list by now, for mail like this one
    topic: str | None  # that can be unsubscribed from; empty = the sender's domain; None = nothing
    composed_here: bool  # so that From is known to say `author`
    size: int  # bytes of the composed mail
    raw: bytes | None  # None = it is LARGE
    trace: str | None  # gateway.tracing's, of the request that it came by; None = it had none
    before: str  # status when it was claimed: scheduled, queued, deferred; sending = somebody's lease ran out

    @property
    def untried(self) -> str:
        """Status of the recipient, should this attempt not be made."""
        return "deferred" if self.before == "sending" else self.before


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """How an attempt ended, and what becomes of its recipient."""

    attempt_id: UUID
    account_id: UUID
    delivery_id: UUID
    email_id: UUID
    lease_id: UUID
    recipient: str  # the delivery's address
    number: int
    status: str | None  # what the recipient becomes; None = this attempt did not decide (another provider went on)
    again_in: float | None  # seconds to the next attempt; None = none
    provider: str
    provider_id: str | None
    started_at: datetime
    finished_at: datetime
    outcome: str  # the provider's word: sent, delivered, deferred, bounced, failed, unknown, provider_fault
    code: int | None
    reply: str
    transcript: str  # JSON list of lines
    event: events.NewEvent | None  # told if the lease still stands
    suppress: str | None = None  # canonical address that is not to be written to again, if the lease still stands
    classification: classify.Classified | None = None  # what a refusal was read as; None = it is none
    has_return_path: bool = False  # whether reports of this mail may come by mail, to a return path of its own

    @property
    def claim(self) -> Claim:
        """Verdicts of a claim that was overtaken may stand in one batch with those of the one that holds."""
        return self.delivery_id, self.lease_id


async def add(connection: db.Connection, account_id: UUID, emails: Sequence[NewEmail]) -> None:
    """Store one account's e-mails and their recipients; contents and events are the caller's."""
    await sql.add_emails.run(
        connection,
        account_id=account_id,
        ids=[email.id for email in emails],
        from_names=[email.from_name for email in emails],
        from_addresses=[email.from_address for email in emails],
        mail_froms=[email.mail_from for email in emails],
        recipients=[email.recipients for email in emails],
        subjects=[email.subject for email in emails],
        message_ids=[email.message_id for email in emails],
        tags=[email.tags for email in emails],
        metadata=[email.metadata for email in emails],
        sizes=[email.size for email in emails],
        on_unknowns=[email.on_unknown for email in emails],
        scheduled_ats=[email.scheduled_at for email in emails],
        expires_ats=[email.expires_at for email in emails],
        sources=[email.source for email in emails],
        topics=[email.topic for email in emails],
        traces=[email.trace for email in emails],
    )
    rows = [(email, delivery) for email in emails for delivery in email.deliveries]
    await sql.add_deliveries.run(
        connection,
        account_id=account_id,
        ids=[delivery.id for _, delivery in rows],
        email_ids=[email.id for email, _ in rows],
        kinds=[delivery.kind for _, delivery in rows],
        addresses=[delivery.address for _, delivery in rows],
        domains=[delivery.domain for _, delivery in rows],
        statuses=[delivery.status for _, delivery in rows],
        scheduled_ats=[email.scheduled_at for email, _ in rows],
    )


async def waiting(connection: db.Connection, account_id: UUID, limit: int) -> int:
    """Recipients that wait to be sent to, counted up to `limit`."""
    count: int = await sql.waiting.value(connection, account_id=account_id, limit=limit)
    return count


async def suppressed(
    connection: db.Connection, account_id: UUID, addresses: Sequence[str], scopes: Sequence[str]
) -> set[tuple[str, str]]:
    """Which of these canonical addresses are on the account's suppression list, each with which of these scopes."""
    rows = await sql.suppressed.fetch(connection, account_id=account_id, addresses=list(addresses), scopes=list(scopes))
    return {(row["address"], row["scope"]) for row in rows}


async def due_accounts(connection: db.Connection, limit: int) -> list[UUID]:
    """Accounts with somebody to write to now: of the `limit` first recipients, or where there are more, of all."""
    rows = await sql.due_accounts.fetch(connection, limit=limit)
    if sum(row["recipients"] for row in rows) >= limit:
        return [row["account_id"] for row in await sql.all_due_accounts.fetch(connection)]
    return [row["account_id"] for row in rows if not row["is_suspended"]]


async def claim(
    connection: db.Connection, account_id: UUID, *, lease_id: UUID, lease_seconds: float, limit: int
) -> list[Claimed]:
    """Lease up to `limit` due recipients: committed, outside a transaction, before anything touches the network."""
    rows = await sql.claim.fetch(
        connection, account_id=account_id, lease_id=lease_id, lease_seconds=lease_seconds, limit=limit
    )
    if not rows:
        return []
    ids = list({row["email_id"] for row in rows})
    canonical = {row["id"]: address.canonical_of(row["address"]) for row in rows}
    addresses = sorted(set(canonical.values()))
    found = await sql.claimed_emails.fetch(
        connection, account_id=account_id, ids=ids, addresses=addresses, at_once=LARGE - 1
    )
    emails = {row["id"]: row for row in found}
    listed = {(recipient, scope) for scope, _, recipient in (text.partition(" ") for text in found[0]["listed"])}
    return [_claimed(account_id, row, emails[row["email_id"]], canonical[row["id"]], listed) for row in rows]


def _claimed(account_id: UUID, row: Record, email: Record, canonical: str, listed: set[tuple[str, str]]) -> Claimed:
    scopes = suppressions.scopes_of(email["from_address"], email["topic"])
    return Claimed(
        account_id=account_id,
        id=row["id"],
        email_id=row["email_id"],
        address=row["address"],
        domain=row["domain"],
        number=row["attempts"],
        was_in_data=row["in_data"],
        lease_id=row["lease_id"],
        mail_from=email["mail_from"],
        author=email["from_address"],
        trace=email["trace"],
        tags=email["tags"],
        on_unknown=email["on_unknown"],
        expires_at=email["expires_at"],
        queued_at=row["waits_since"] or email["scheduled_at"] or email["created_at"],
        canonical=canonical,
        suppressed=any((canonical, scope) in listed for scope in scopes),
        topic=email["topic"],
        composed_here=email["source"] == "api",
        size=email["size"],
        raw=email["raw"],
        before=row["before"],
    )


async def let_go(connection: db.Connection, account_id: UUID, lease_id: UUID) -> int:
    """Recipients of a claim whose answer nobody heard are due again, if it was carried out; how many."""
    return await sql.let_go.run(connection, account_id=account_id, lease_id=lease_id)


async def renew(
    connection: db.Connection, account_id: UUID, lease_id: UUID, ids: Sequence[UUID], lease_seconds: float
) -> set[UUID]:
    """Those of the leases that still stand, now for `lease_seconds` more."""
    rows = await sql.renew.fetch(
        connection, account_id=account_id, lease_id=lease_id, ids=list(ids), lease_seconds=lease_seconds
    )
    return {row["id"] for row in rows}


async def enter_data(connection: db.Connection, account_id: UUID, delivery_id: UUID, lease_id: UUID) -> bool:
    """Note, before DATA, that from here on the outcome may be unknown. False = the lease is lost: do not send."""
    return await sql.enter_data.run(connection, account_id=account_id, id=delivery_id, lease_id=lease_id) > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class InLine:
    """A recipient that is due, and that nobody has in hand."""

    id: UUID
    domain: str
    address: str
    mail_from: str
    author: str  # the address in From
    tags: list[dict[str, str]]  # name, value
    seconds_left: float  # until it is given up; negative = it is to be given up now


async def give_back(connection: db.Connection, account_id: UUID, untried: Sequence[tuple[Claimed, float]]) -> set[UUID]:
    """Claimed recipients go back as if they had not been claimed, each due after so many seconds. Those whose lease
    still stood, and so were given back."""
    rows = await sql.give_back.fetch(
        connection,
        account_id=account_id,
        ids=[claimed.id for claimed, _ in untried],
        lease_ids=[claimed.lease_id for claimed, _ in untried],
        statuses=[claimed.untried for claimed, _ in untried],
        again_ins=[again_in for _, again_in in untried],
    )
    return {row["id"] for row in rows}


async def first_in_line(
    connection: db.Connection, account_id: UUID, domains: Iterable[str], *, max_age: float, limit: int
) -> list[InLine]:
    """Out of the `limit` recipients that are due first, those in these domains, locked for `park` in this transaction.
    `max_age`: seconds after which recipients are given up."""
    rows = await sql.first_in_line.fetch(
        connection, account_id=account_id, domains=list(domains), max_age=max_age, limit=limit
    )
    return [InLine(**row) for row in rows]


async def park(connection: db.Connection, account_id: UUID, later: Sequence[tuple[UUID, float]]) -> None:
    """These recipients are due after so many seconds each."""
    await sql.park.run(
        connection, account_id=account_id, ids=[id for id, _ in later], again_ins=[again_in for _, again_in in later]
    )


async def settle(connection: db.Connection, verdicts: Sequence[Settled]) -> None:
    """Verdicts of a batch: states and attempts in the order of accounts, what the mails are called, then events."""
    by_account: dict[UUID, list[Settled]] = defaultdict(list)
    for verdict in sorted(verdicts, key=lambda verdict: verdict.delivery_id):
        by_account[verdict.account_id].append(verdict)
    told: dict[UUID, list[events.NewEvent]] = {}
    for account_id in sorted(by_account):
        standing = await _settle_states(connection, account_id, by_account[account_id])
        await _add_attempts(connection, account_id, by_account[account_id], standing)
        deciding = [v for v in by_account[account_id] if v.claim in standing]
        if gone := sorted({v.suppress for v in deciding if v.suppress}):
            await suppressions.bounced(connection, account_id, gone)
        news = [v.event for v in deciding if v.event]
        if news:
            told[account_id] = news
    handed = [*map(handed_over, verdicts), *map(reported_on, verdicts)]
    await callbacks.note_messages(connection, [one for one in handed if one])
    await events.append_all(connection, told)


def handed_over(verdict: Settled) -> callbacks.Handed | None:
    """The mail as its provider has it, lease or no lease: it may tell of it later. None = it gave no id."""
    if not verdict.provider_id or verdict.outcome not in HANDED_OVER:
        return None
    return callbacks.Handed(
        provider=verdict.provider,
        provider_id=verdict.provider_id,
        recipient=verdict.recipient,
        account_id=verdict.account_id,
        delivery_id=verdict.delivery_id,
    )


def reported_on(verdict: Settled) -> callbacks.Handed | None:
    """The mail as reports know it that come to its return path. None = it has none, or nobody took it."""
    if not verdict.has_return_path or verdict.outcome not in HANDED_OVER:
        return None
    return callbacks.Handed(
        provider=callbacks.MAIL,
        provider_id=str(verdict.delivery_id),
        recipient=verdict.recipient,
        account_id=verdict.account_id,
        delivery_id=verdict.delivery_id,
    )


async def _settle_states(connection: db.Connection, account_id: UUID, verdicts: Sequence[Settled]) -> set[Claim]:
    deciding = [v for v in verdicts if v.status is not None]
    rows = await sql.settle.fetch(
        connection,
        account_id=account_id,
        ids=[v.delivery_id for v in deciding],
        lease_ids=[v.lease_id for v in deciding],
        statuses=[v.status for v in deciding],
        again_ins=[v.again_in for v in deciding],
        providers=[v.provider for v in deciding],
        provider_ids=[v.provider_id for v in deciding],
        replies=[v.reply for v in deciding],
    )
    return {(row["id"], row["lease_id"]) for row in rows}


async def _add_attempts(
    connection: db.Connection, account_id: UUID, verdicts: Sequence[Settled], standing: set[Claim]
) -> None:
    await sql.add_attempts.run(
        connection,
        account_id=account_id,
        ids=[v.attempt_id for v in verdicts],
        delivery_ids=[v.delivery_id for v in verdicts],
        email_ids=[v.email_id for v in verdicts],
        numbers=[v.number for v in verdicts],
        providers=[v.provider for v in verdicts],
        started_ats=[v.started_at for v in verdicts],
        finished_ats=[v.finished_at for v in verdicts],
        outcomes=[v.outcome for v in verdicts],
        codes=[v.code for v in verdicts],
        replies=[v.reply for v in verdicts],
        transcripts=[v.transcript for v in verdicts],
        stales=[v.claim not in standing for v in verdicts],
        rules=[v.classification.rule if v.classification else None for v in verdicts],
        classes=[v.classification.kind if v.classification else None for v in verdicts],
        suppresses=[v.classification.suppresses if v.classification else None for v in verdicts],
    )


async def attempt_exists(connection: db.Connection, account_id: UUID, attempt_id: UUID) -> bool:
    """Whether the attempt was committed; a transaction that is committing it is waited for."""
    probe = connection.transaction()
    await probe.start()
    try:
        return await sql.probe_attempt.value(connection, account_id=account_id, id=attempt_id) is None
    finally:
        await probe.rollback()


async def cancel(
    connection: db.Connection, account_id: UUID, email_id: UUID, only: Sequence[str] | None = None
) -> None:
    """Recipients that nobody wrote to yet are not written to; those that are held stay unanswered.

    `only`: canonical addresses; None = whoever can be. Raises NotFound, InvalidState, ValidationFailed."""
    ids = await _choose(connection, account_id, email_id, CANCELABLE, only)
    if not ids:
        raise InvalidState("The e-mail cannot be canceled any more.")
    await set_status(connection, account_id, ids, "canceled")
    await _tell(connection, account_id, email_id, "email.canceled", {"recipients": len(ids)})


async def is_canceled(
    connection: db.Connection, account_id: UUID, email_id: UUID, only: Sequence[str] | None = None
) -> bool:
    """Whether of these recipients (None = all) some are canceled and none waits any more."""
    rows = await sql.statuses.fetch(connection, account_id=account_id, email_id=email_id)
    found = {row["status"] for row in rows if only is None or address.canonical_of(row["address"]) in only}
    return "canceled" in found and not found & CANCELABLE


async def reschedule(connection: db.Connection, account_id: UUID, email_id: UUID, scheduled_at: datetime) -> None:
    """Another time for an e-mail that waits for its time. Raises NotFound, InvalidState."""
    ids = await _choose(connection, account_id, email_id, frozenset({"scheduled"}))
    if not ids:
        raise InvalidState("Only a scheduled e-mail can be rescheduled.")
    await sql.set_schedule.run(connection, account_id=account_id, id=email_id, scheduled_at=scheduled_at)
    await set_status(connection, account_id, ids, "scheduled", scheduled_at=scheduled_at)
    await _tell(connection, account_id, email_id, "email.scheduled", {"scheduled_at": scheduled_at.astimezone(UTC)})


async def retry(connection: db.Connection, account_id: UUID, email_id: UUID, only: Sequence[str] | None = None) -> None:
    """Recipients that were given up, held or put off are tried again now.

    `only`: canonical addresses; None = whoever can be. Raises NotFound, InvalidState, ValidationFailed."""
    ids = await _choose(connection, account_id, email_id, RETRYABLE, only)
    if not ids:
        raise InvalidState("No recipient of the e-mail can be tried again.")
    await set_status(connection, account_id, ids, "queued")
    await _tell(connection, account_id, email_id, "email.queued", {"recipients": len(ids)})


async def set_status(
    connection: db.Connection,
    account_id: UUID,
    ids: Sequence[UUID],
    status: str,
    *,
    scheduled_at: datetime | None = None,
) -> None:
    """Change recipients by the caller's word: canceled, queued again, scheduled anew. Their rows are locked."""
    await sql.set_status.run(connection, account_id=account_id, ids=list(ids), status=status, scheduled_at=scheduled_at)


async def _choose(
    connection: db.Connection,
    account_id: UUID,
    email_id: UUID,
    statuses: frozenset[str],
    only: Sequence[str] | None = None,
) -> list[UUID]:
    rows = await sql.lock.fetch(connection, account_id=account_id, email_id=email_id)
    if not rows:
        raise NotFound
    if only is not None:
        by_address = {address.canonical_of(row["address"]): row for row in rows}
        _check_named(only, {address: row["status"] for address, row in by_address.items()}, statuses)
        rows = [by_address[address] for address in dict.fromkeys(only)]
    return [row["id"] for row in rows if row["status"] in statuses]


def _check_named(only: Sequence[str], known: Mapping[str, str], statuses: frozenset[str]) -> None:
    """All that are named are recipients, and such as this can be done to; else nothing is done."""
    for index, name in enumerate(only):
        if name not in known:
            raise invalid(f"recipients[{index}]", "not a recipient of this e-mail")
    if stuck := [f"{name} is {known[name]}" for name in only if known[name] not in statuses]:
        raise InvalidState(f"That cannot be done any more: {', '.join(stuck)}.")


async def _tell(connection: db.Connection, account_id: UUID, email_id: UUID, kind: str, data: dict[str, Any]) -> None:
    await events.append(connection, account_id, [told(email_id, kind, data)])


def told(email_id: UUID, kind: str, data: Mapping[str, Any]) -> events.NewEvent:
    """An event about a whole e-mail."""
    return events.NewEvent(type=kind, email_id=email_id, data=events.encode({"id": email_id, **data}))


def told_of(
    email_id: UUID,
    kind: str,
    recipient: str,
    *,
    status: str,
    attempt: int,
    reply: str | None,
    provider: str | None,
    again_in: float | None,
    more: Mapping[str, Any] | None = None,
) -> events.NewEvent:
    """An event about one recipient. `attempt`: how many there were; `again_in`: seconds to the next, None = none."""
    data = {
        "id": email_id,
        "recipient": recipient,
        "status": status,
        "attempt": attempt,
        "reply": reply,
        "provider": provider or None,
        "next_attempt_in": again_in,
        **(more or {}),
    }
    return events.NewEvent(type=f"email.{kind}", email_id=email_id, data=events.encode(data))


async def late(connection: db.Connection, seconds: float, limit: int) -> dict[UUID, list[UUID]]:
    """Recipients by account that wait for more than so many seconds and were not told of."""
    found: dict[UUID, list[UUID]] = defaultdict(list)
    for row in await sql.late.fetch(connection, seconds=seconds, limit=limit):
        found[row["account_id"]].append(row["id"])
    return found


async def tell_late(connection: db.Connection, account_id: UUID, ids: Sequence[UUID], seconds: float) -> int:
    """Tell of those that still wait, each once: the mark and the event are one transaction. How many."""
    rows = await sql.mark_late.fetch(connection, account_id=account_id, ids=list(ids), seconds=seconds)
    if rows:
        await events.append(connection, account_id, [_delayed(row) for row in sorted(rows, key=itemgetter("id"))])
    return len(rows)


def _delayed(row: Record) -> events.NewEvent:
    return told_of(
        row["email_id"],
        "delayed",
        row["address"],
        status=row["status"],
        attempt=row["attempts"],
        reply=row["reply"],
        provider=row["provider"],
        again_in=max(0.0, float(row["due_in"])),
        more={"waits_since": row["waits_since"].astimezone(UTC)},
    )


async def get(connection: db.Connection, account_id: UUID, email_id: UUID) -> Email | None:
    row = await sql.get.row(connection, account_id=account_id, id=email_id)
    return Email.from_row(row) if row else None


async def raw(connection: db.Connection, account_id: UUID, email_id: UUID) -> bytes | None:
    """The composed mail, as every attempt sends it."""
    found: bytes | None = await sql.raw.value(connection, account_id=account_id, id=email_id)
    return found


async def recipients(
    connection: db.Connection, account_id: UUID, email_ids: Sequence[UUID]
) -> dict[UUID, list[Delivery]]:
    """The recipients of each of these e-mails."""
    found: dict[UUID, list[Delivery]] = {email_id: [] for email_id in email_ids}
    for row in await sql.recipients.fetch(connection, account_id=account_id, email_ids=list(email_ids)):
        found[row["email_id"]].append(Delivery.from_row(row))
    return found


async def attempts(connection: db.Connection, account_id: UUID, email_id: UUID) -> list[dict[str, Any]]:
    """Every attempt at every recipient, oldest first; columns of `attempts`, and the recipient's address."""
    rows = await sql.attempts.fetch(connection, account_id=account_id, email_id=email_id)
    return [with_classification(dict(row)) for row in rows]


def with_classification(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `attempts` with what its refusal was read as in one member; None = it was none, or is of old."""
    found = {name: row.pop(name) for name in ("rule", "class", "suppresses")}
    return {**row, "classification": found if found["rule"] is not None else None}
