"""The outbox: what a caller asks for becomes composed bytes, one row a recipient and an event, committed before 202.

    send, send_all → suppress → compose, read back and compare → join the next batch → one transaction → nudge

The composed bytes are made once, here: every attempt sends the same, under the same Message-ID.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import prometheus_client
import structlog

from gateway import errors, tracing
from gateway.mail import address, compose, plain
from gateway.outbound import signing, unsubscribe
from gateway.settings import Settings
from gateway.storage import db, emails, events, idempotency, messages, suppressions
from gateway.storage.clock import Clock
from gateway.storage.committer import Committer

log = structlog.get_logger(__name__)

# source: "api", "smtp"
ACCEPTED = prometheus_client.Counter("postroom_emails_accepted", "E-mails committed", ["source"])

MAX_RECIPIENTS: Final = 50
MAX_TAGS: Final = 50
MAX_METADATA_BYTES: Final = 16_384  # as JSON
LARGE: Final = 262_144  # bytes of bodies and attachments; from here on composing leaves the event loop
LONG: Final = 32_768  # characters of HTML; making text of so much leaves it, too
COUNT_SECONDS: Final = 1.0  # how long a count of waiting recipients is believed
MAX_COUNTED: Final = 10_000  # accounts whose count is believed at once
PATIENCE_SECONDS: Final = 25.0  # from the request; Heroku's router hangs up after 30
_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """An e-mail as a caller asks for it; addresses are checked already."""

    from_: address.Mailbox
    to: tuple[address.Mailbox, ...] = ()
    cc: tuple[address.Mailbox, ...] = ()
    bcc: tuple[address.Mailbox, ...] = ()
    reply_to: tuple[address.Mailbox, ...] = ()
    subject: str = ""
    text: str | None = None
    html: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    in_reply_to: str | None = None  # in angle brackets
    references: tuple[str, ...] = ()  # each in angle brackets, oldest first
    attachments: tuple[compose.Attachment, ...] = ()
    tags: tuple[Mapping[str, str], ...] = ()  # name, value
    metadata: Mapping[str, Any] = field(default_factory=dict)
    scheduled_at: datetime | None = None  # None = at once
    expires_in: int | None = None  # seconds from when it is due; None = the retry schedule decides
    on_unknown: str = "retry"  # or "hold"
    on_suppressed: str = "skip"  # or "reject"
    source: str = "api"  # or "smtp"
    topic: str | None = None  # that recipients can unsubscribe from; empty = the sender's domain; None = nothing

    @property
    def scopes(self) -> tuple[str, ...]:
        """What a suppression may be about to be about this e-mail."""
        return suppressions.scopes_of(str(self.from_.address), self.topic)

    @property
    def size(self) -> int:
        """Roughly, in bytes."""
        bodies = len(self.text or "") + len(self.html or "")
        return bodies + sum(len(attachment.content) for attachment in self.attachments)

    @property
    def recipient_count(self) -> int:
        return len(self.to) + len(self.cc) + len(self.bcc)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """An e-mail ready to be stored."""

    id: UUID
    request: Request
    raw: bytes
    message_id: str  # without brackets
    mail_from: str | None = None  # reverse path; empty = nobody is to be told of bounces; None = the address of From
    trace: str | None = field(default_factory=tracing.stored)  # of the request that asks for it; None = it has none


@dataclass(kw_only=True, slots=True)
class Submission:
    """What one call asks for: all of it is committed, or nothing."""

    account_id: UUID
    prepared: tuple[Prepared, ...]
    once: idempotency.Once | None
    answer: dict[str, Any]  # what a repeated call is told

    @property
    def recipient_count(self) -> int:
        return sum(prepared.request.recipient_count for prepared in self.prepared)


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What the caller is told."""

    answer: dict[str, Any]
    replayed: bool  # it is the first answer again; nothing was sent now


Answer = Receipt | errors.ApiError  # an error is this submission's own
Listed = set[tuple[str, str]]  # canonical addresses that are on the suppression list, each with a scope


class Outbox:
    """Takes e-mails of this process's callers."""

    def __init__(
        self,
        database: db.Database,
        settings: Settings,
        *,
        told: Callable[[Iterable[UUID]], None],  # called after each commit with the accounts whose logs grew
        due: Callable[[Iterable[UUID]], None],  # … and with those that have somebody to write to now
    ) -> None:
        self._database = database
        self._settings = settings
        self._told = told
        self._due = due
        self._committer: Committer[Submission, Answer] = Committer(
            self._commit, find=self._find, size=_size, patience=PATIENCE_SECONDS
        )
        self._senders = signing.Senders(database, settings)
        self._waiting: dict[UUID, tuple[float, int]] = {}  # until when it is believed, and how many wait

    async def send(self, account_id: UUID, request: Request, once: idempotency.Once | None) -> Receipt:
        """One e-mail; the receipt says {"id", "status"}. Raises ApiErrors that name the field."""
        return await self.send_written(account_id, await self._prepare(request), once)

    async def send_written(self, account_id: UUID, prepared: Prepared, once: idempotency.Once | None) -> Receipt:
        """One e-mail whose bytes are there already, such as its author's own; the receipt says {"id", "status"}."""
        self._check_link(prepared.request)
        answer = {"id": str(prepared.id), "status": _first_status(prepared.request)}
        return await self._submit(Submission(account_id=account_id, prepared=(prepared,), once=once, answer=answer))

    async def prepare(self, request: Request) -> Prepared:
        """Compose an e-mail of a batch. Raises ApiErrors that name the field."""
        return await self._prepare(request)

    async def send_all(
        self,
        account_id: UUID,
        prepared: Sequence[Prepared],
        once: idempotency.Once | None,
        problems: Sequence[Mapping[str, Any]] | None = None,
    ) -> Receipt:
        """Several e-mails, all or none; {"data": [{"id"}, …]} and, where given, `problems` as "errors"."""
        answer: dict[str, Any] = {"data": [{"id": str(one.id)} for one in prepared]}
        if problems is not None:
            answer["errors"] = list(problems)
        submission = Submission(account_id=account_id, prepared=tuple(prepared), once=once, answer=answer)
        return await self._submit(submission)

    @property
    def clock(self) -> Clock:
        """What e-mails get their ids and times by."""
        return self._database.clock

    def end_within(self, seconds: float) -> None:
        """Nobody waits for an answer any longer than that."""
        self._committer.end_within(seconds)

    async def drain(self) -> None:
        """Returns when no batch is under way."""
        await self._committer.drain()

    async def check_sender(self, account_id: UUID, prepared: Prepared) -> None:
        """Raises RestrictedApiKey where another account has verified a domain that the e-mail is said to be from."""
        await self._senders.check(account_id, (str(prepared.request.from_.address), prepared.mail_from or ""))

    async def _submit(self, submission: Submission) -> Receipt:
        answer = await self._commit_where_there_is_room(submission)
        if isinstance(answer, errors.ApiError):
            raise answer
        return answer

    async def _commit_where_there_is_room(self, submission: Submission) -> Answer:
        try:
            for prepared in submission.prepared:
                await self.check_sender(submission.account_id, prepared)
            await self._make_room(submission)
        except (errors.QuotaExceeded, errors.RestrictedApiKey) as refusal:
            return await self._first_of(submission) or refusal  # a repetition makes nobody wait, nor sends anything
        try:
            answer = await self._committer.submit(submission)
        except db.Collided as error:
            if submission.once is not None and db.sqlstate(error) == db.LOCK_NOT_AVAILABLE:
                raise errors.ConcurrentIdempotentRequests(retry_after=1) from error
            raise
        if isinstance(answer, errors.ApiError) or answer.replayed:
            self._give_room_back(submission)
        return answer

    async def _first_of(self, submission: Submission) -> Answer | None:
        """What was answered before to the same call; None where there was none."""
        if submission.once is None:
            return None
        async with self._database.connection() as connection:
            if await idempotency.is_taken(connection, submission.account_id, submission.once):
                return await _first(connection, submission.account_id, submission.once)
        return None

    # Before the commit

    async def _prepare(self, request: Request) -> Prepared:
        self._check_link(request)
        makes_text = request.text is None and len(request.html or "") > LONG
        if request.size < LARGE and not makes_text:
            return _prepared(request, self._database.clock)
        return await asyncio.to_thread(_prepared, request, self._database.clock)

    def _check_link(self, request: Request) -> None:
        """Raises ValidationFailed where recipients could not unsubscribe by our link, or would be told of two ways."""
        if request.topic is None:
            return
        if not self._settings.public_url:
            raise errors.invalid("unsubscribe", "PUBLIC_URL is not set here: the link would lead nowhere")
        for name in request.headers:
            if name.lower() in unsubscribe.FIELDS:
                raise errors.invalid(f"headers.{name}", "cannot be given together with unsubscribe, which writes it")

    async def _make_room(self, submission: Submission) -> None:
        """Refuse what would make more than MAX_QUEUED recipients of the account wait."""
        account_id, most = submission.account_id, self._settings.max_queued
        until, waiting = self._waiting.get(account_id, (0.0, 0))
        if time.monotonic() >= until:
            if account_id in self._waiting:  # who comes while it is being counted believes the count before
                self._waiting[account_id] = (time.monotonic() + COUNT_SECONDS, waiting)
            async with self._database.connection() as connection:
                waiting = await emails.waiting(connection, account_id, most + 1)
            until = time.monotonic() + COUNT_SECONDS
        wanted = submission.recipient_count
        if waiting + wanted > most:
            self._waiting[account_id] = (until, waiting)
            raise errors.QuotaExceeded(
                f"{waiting} recipients wait to be sent to; at most {most} may (MAX_QUEUED): try again later.",
                retry_after=5,
            )
        if len(self._waiting) >= MAX_COUNTED:
            self._waiting.clear()
        self._waiting[account_id] = (until, waiting + wanted)

    def _give_room_back(self, submission: Submission) -> None:
        until, waiting = self._waiting.get(submission.account_id, (0.0, 0))
        self._waiting[submission.account_id] = (until, max(0, waiting - submission.recipient_count))

    # The commit

    async def _commit(self, batch: Sequence[Submission]) -> list[Answer]:
        by_account: dict[UUID, list[Submission]] = defaultdict(list)
        for submission in batch:
            by_account[submission.account_id].append(submission)
        answers: dict[int, Answer] = {}
        told: dict[UUID, list[events.NewEvent]] = {}
        async with self._database.transaction() as connection:
            for account_id in sorted(by_account):
                fresh = await self._claim(connection, account_id, by_account[account_id], answers)
                by_account[account_id] = fresh
            for account_id in sorted(by_account):
                news = await self._store(connection, account_id, by_account[account_id], answers)
                if news:
                    told[account_id] = news
            await events.append_all(connection, told)
        self._after(told, by_account, answers)
        return [answers[id(submission)] for submission in batch]

    async def _claim(
        self, connection: db.Connection, account_id: UUID, batch: Sequence[Submission], answers: dict[int, Answer]
    ) -> list[Submission]:
        """Take the idempotency keys; those that are taken get their first answer. What is left is new."""
        wishes = [(s.once, 202, _encode(s.answer).decode()) for s in batch if s.once is not None]
        if not wishes:
            return list(batch)
        seconds = self._settings.idempotency_seconds
        won = await idempotency.claim_all(connection, account_id, wishes, seconds=seconds)
        fresh = []
        for submission in batch:
            once = submission.once
            if once is None or (once.endpoint, once.key) in won:
                fresh.append(submission)
            else:
                answers[id(submission)] = await _first(connection, account_id, once)
        return fresh

    async def _store(
        self, connection: db.Connection, account_id: UUID, batch: Sequence[Submission], answers: dict[int, Answer]
    ) -> list[events.NewEvent]:
        """Contents, e-mails and recipients of one account; the events to tell."""
        if not batch:
            return []
        suppressed = await self._suppressed(connection, account_id, batch)
        new: list[emails.NewEmail] = []
        contents: list[messages.Content] = []
        news: list[events.NewEvent] = []
        for submission in batch:
            answers[id(submission)] = _rejection(submission, suppressed) or Receipt(
                answer=submission.answer, replayed=False
            )
            if isinstance(answers[id(submission)], errors.ApiError):
                if submission.once is not None:
                    await idempotency.give_back(connection, account_id, submission.once)
                continue
            for prepared in submission.prepared:
                email = _new_email(prepared, suppressed, self._database.clock)
                new.append(email)
                contents.append(messages.Content(id=prepared.id, raw=prepared.raw, size=len(prepared.raw)))
                news.extend(_news(prepared, email))
        if new:
            await messages.add_contents(connection, account_id, contents)
            await emails.add(connection, account_id, new)
        return news

    async def _suppressed(self, connection: db.Connection, account_id: UUID, batch: Sequence[Submission]) -> Listed:
        requests = [prepared.request for submission in batch for prepared in submission.prepared]
        wanted = {mailbox.address.canonical for request in requests for _, mailbox in _all(request)}
        scopes = {scope for request in requests for scope in request.scopes}
        return await emails.suppressed(connection, account_id, sorted(wanted), sorted(scopes))

    async def _find(self, submission: Submission) -> Answer | None:
        """After a COMMIT whose end is unknown. A submission of nothing, or one that was refused, is done again."""
        if not submission.prepared:
            return None
        async with self._database.connection() as connection:
            if await messages.content_exists(connection, submission.account_id, submission.prepared[0].id):
                return Receipt(answer=submission.answer, replayed=False)
        return None

    def _after(
        self,
        told: Mapping[UUID, Sequence[events.NewEvent]],
        stored: Mapping[UUID, Sequence[Submission]],
        answers: Mapping[int, Answer],
    ) -> None:
        for submissions in stored.values():
            for submission in submissions:
                if isinstance(answers[id(submission)], Receipt):
                    for prepared in submission.prepared:
                        ACCEPTED.labels(prepared.request.source).inc()
        self._told(told)
        self._due(account for account, news in told.items() if any(event.type == "email.queued" for event in news))


def as_listed(recipient: address.Address) -> str:
    """How recipients are kept and looked for: the domain in lower case, the local part as given (RFC 5321 2.4)."""
    return f"{recipient.local}@{recipient.domain.lower()}"


def _size(submission: Submission) -> int:
    return sum(len(prepared.raw) for prepared in submission.prepared)


def _first_status(request: Request) -> str:
    return "scheduled" if request.scheduled_at is not None else "queued"


def _text(request: Request) -> str | None:
    """Made of the HTML where none is given; an empty one says that there is to be none, as for Resend."""
    return plain.of_html(request.html) if request.text is None and request.html else request.text


def _prepared(request: Request, clock: Clock) -> Prepared:
    email_id = clock.uuid7()
    message_id = f"{email_id}@{request.from_.address.ascii_domain}"
    draft = compose.Draft(
        from_=request.from_,
        to=request.to,
        cc=request.cc,
        reply_to=request.reply_to,
        subject=request.subject,
        text=_text(request),
        html=request.html,
        headers=request.headers,
        in_reply_to=request.in_reply_to,
        references=request.references,
        attachments=request.attachments,
        message_id=f"<{message_id}>",
        date=clock.now(),
    )
    try:
        raw = compose.compose(draft)
        compose.check(raw, draft)
    except compose.InvalidDraft as error:
        kind = errors.InvalidAttachment if error.field.startswith("attachments") else errors.ValidationFailed
        problem = errors.FieldError(field=error.field, message=error.message)
        raise kind(f"{error.field}: {error.message}", errors=[problem]) from error
    except compose.ComposeMismatch as error:
        log.exception("composed mail differs from its draft", email_id=str(email_id))
        raise errors.ValidationFailed("The e-mail cannot be written so that every reader reads the same.") from error
    return Prepared(id=email_id, request=request, raw=raw, message_id=message_id)


def _all(request: Request) -> Iterable[tuple[str, address.Mailbox]]:
    """Every recipient once, under the first kind that names it."""
    seen: set[str] = set()
    for kind, mailboxes in (("to", request.to), ("cc", request.cc), ("bcc", request.bcc)):
        for mailbox in mailboxes:
            if mailbox.address.canonical not in seen:
                seen.add(mailbox.address.canonical)
                yield kind, mailbox


async def _first(connection: db.Connection, account_id: UUID, once: idempotency.Once) -> Answer:
    try:
        first = await idempotency.first(connection, account_id, once)
    except errors.ApiError as error:
        return error
    return Receipt(answer=first.answer, replayed=True)


def _is_suppressed(request: Request, recipient: address.Mailbox, suppressed: Listed) -> bool:
    return any((recipient.address.canonical, scope) in suppressed for scope in request.scopes)


def _rejection(submission: Submission, suppressed: Listed) -> errors.ApiError | None:
    """Where the caller wants to be told rather than have suppressed recipients left out."""
    for prepared in submission.prepared:
        if prepared.request.on_suppressed != "reject":
            continue
        listed = [one for one in _all(prepared.request) if _is_suppressed(prepared.request, one[1], suppressed)]
        if listed:
            names = ", ".join(str(mailbox.address) for _, mailbox in listed)
            found = [
                errors.FieldError(field=kind, message=f"{mailbox.address} is on the suppression list")
                for kind, mailbox in listed
            ]
            return errors.RecipientSuppressed(f"On the suppression list: {names}.", errors=found)
    return None


def _new_email(prepared: Prepared, suppressed: Listed, clock: Clock) -> emails.NewEmail:
    request = prepared.request
    due_at = request.scheduled_at or clock.now()
    recipients = {
        kind: [_person(mailbox) for mailbox in mailboxes]
        for kind, mailboxes in (
            ("to", request.to),
            ("cc", request.cc),
            ("bcc", request.bcc),
            ("reply_to", request.reply_to),
        )
    }
    from_address = str(request.from_.address)
    return emails.NewEmail(
        id=prepared.id,
        from_name=request.from_.name,
        from_address=from_address,
        mail_from=from_address if prepared.mail_from is None else prepared.mail_from,
        recipients=_encode(recipients).decode(),
        subject=request.subject,
        message_id=prepared.message_id,
        tags=_encode(request.tags).decode(),
        metadata=_encode(request.metadata).decode(),
        size=len(prepared.raw),
        on_unknown=request.on_unknown,
        scheduled_at=request.scheduled_at,
        expires_at=due_at + timedelta(seconds=request.expires_in) if request.expires_in is not None else None,
        source=request.source,
        topic=request.topic,
        trace=prepared.trace,
        deliveries=tuple(
            emails.NewDelivery(
                id=clock.uuid7(),
                kind=kind,
                address=as_listed(mailbox.address),
                domain=mailbox.address.ascii_domain,
                status="suppressed" if _is_suppressed(request, mailbox, suppressed) else _first_status(request),
            )
            for kind, mailbox in _all(request)
        ),
    )


def _person(mailbox: address.Mailbox) -> dict[str, str | None]:
    return {"name": mailbox.name, "address": str(mailbox.address)}


def _news(prepared: Prepared, email: emails.NewEmail) -> Iterable[events.NewEvent]:
    """email.queued or email.scheduled once; email.suppressed for each recipient that is."""
    request = prepared.request
    data: dict[str, Any] = {
        "id": prepared.id,
        "from": email.from_address,
        "to": [str(mailbox.address) for mailbox in request.to],
        "subject": request.subject,
        "tags": request.tags,
    }
    if request.scheduled_at is not None:
        data["scheduled_at"] = request.scheduled_at.astimezone(UTC)
    kind = f"email.{_first_status(request)}"
    yield events.NewEvent(type=kind, email_id=prepared.id, data=events.encode(data))
    for delivery in email.deliveries:
        if delivery.status == "suppressed":
            yield emails.told_of(
                prepared.id,
                "suppressed",
                delivery.address,
                status="suppressed",
                attempt=0,
                reply=None,
                provider=None,
                again_in=None,
            )
