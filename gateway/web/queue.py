"""What callers do with e-mails that are accepted: try again, leave, send anew; one recipient, one e-mail, or many."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import Field

from gateway import errors, models
from gateway.lifecycle import Gateway
from gateway.mail import address, resent
from gateway.models import Caller, Input, Output, Time
from gateway.outbound import moments
from gateway.outbound import send as sending
from gateway.storage import db, events, many
from gateway.storage import emails as stored
from gateway.storage.clock import Clock
from gateway.storage.idempotency import Once, Turns
from gateway.web import api, emails, once

RETRY: Final = "POST /v1/emails/retry"
CANCEL: Final = "POST /v1/emails/cancel"
MAX_AT_ONCE: Final = 10_000  # recipients of one call
WAITING: Final = frozenset({"deferred"})  # of those that can be retried
TAKEN_UNASKED: Final = {RETRY: ("deferred", "failed"), CANCEL: ("scheduled", "queued", "deferred")}
_cursors: Final[models.Cursor[tuple[UUID]]] = models.Cursor(tuple[UUID])

Move = Callable[..., Awaitable[many.Moved]]  # many.retry, many.cancel


class Some(Input):
    """Whom of an e-mail's recipients it is about."""

    recipients: Annotated[list[str], Field(min_length=1, max_length=sending.MAX_RECIPIENTS)] | None = Field(
        None, description="Addresses; without them, all whom it can be done to"
    )


class Filter(Input):
    """Which recipients of which e-mails."""

    to: str | None = Field(None, max_length=320, description="A recipient's address")
    tag: str | None = Field(None, max_length=513, description="A tag's name, its value, or name:value")
    since: Time | None = Field(None, description="E-mails from this time on, inclusive")
    until: Time | None = Field(None, description="E-mails before this time, exclusive")
    provider: str | None = Field(
        None, max_length=320, description="That made the last attempt, whole or up to its first colon"
    )
    recipient_domain: str | None = Field(None, min_length=1, max_length=255, description="Of the recipient's address")
    limit: int = Field(1000, ge=1, le=MAX_AT_ONCE, description="Recipients of this call")
    cursor: str | None = Field(None, max_length=512, description="`next_cursor` of the call before")


class RetryFilter(Filter):
    """Whom to try again."""

    status: Literal["deferred", "failed", "unknown", "bounced"] | None = Field(
        None, description="Default: deferred and failed. Held ones (unknown) may get it twice"
    )


class CancelFilter(Filter):
    """Whom not to write to any more."""

    status: Literal["scheduled", "queued", "deferred", "unknown"] | None = Field(
        None, description="Default: scheduled, queued and deferred"
    )


class Moved(Output):
    """How many it was done to."""

    emails: int
    recipients: int
    has_more: bool  # more may match
    next_cursor: str | None  # give it as `cursor` to go on; null = nothing is left


class Anew(Input):
    """To whom, and when."""

    to: emails.Recipients | None = Field(None, description="Instead of the recipients it had")
    scheduled_at: str | None = Field(None, max_length=100, description='RFC 3339, or "in 10 min"')


class Queue:
    """The operations."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._turns = Turns()
        self._creations = once.Creations(gateway.database, gateway.settings.idempotency_seconds)

    def operations(self) -> Sequence[api.Operation]:
        writing: dict[str, Any] = {"scope": "send", "tags": ["E-mails"]}
        stuck = [errors.InvalidState]
        anew = {**writing, "status": 202, "idempotent": True, "returns": emails.Accepted}
        at_once: dict[str, Any] = {**writing, "idempotent": True, "returns": Moved}
        return [
            api.op("POST", "/emails/{id}/cancel", self.cancel, errors=stuck, **writing),
            api.op("POST", "/emails/{id}/retry", self.retry, errors=stuck, **writing),
            api.op("POST", "/emails/{id}/resend", self.resend, errors=[errors.QuotaExceeded], **anew),
            api.op("POST", "/emails/retry", self.retry_many, errors=[errors.QuotaExceeded], **at_once),
            api.op("POST", "/emails/cancel", self.cancel_many, **at_once),
        ]

    async def cancel(self, caller: Caller, id: UUID, body: Some | None) -> emails.Changed:
        """Do not send it to whom it was not sent yet. Whom it is held for (`unknown`) is taken to have it."""
        only = _canonical(body)
        try:
            await self._cancel(caller, id, only)
        except db.CommitUnknown:
            await self._cancel_after_all(caller, id, only)
        self._gateway.tell([caller.account_id])
        return emails.Changed(id=id)

    async def _cancel(self, caller: Caller, id: UUID, only: Sequence[str] | None) -> None:
        async with self._gateway.database.transaction() as connection:
            await emails.check_reach(connection, caller, id)
            await stored.cancel(connection, caller.account_id, id, only)

    async def _cancel_after_all(self, caller: Caller, id: UUID, only: Sequence[str] | None) -> None:
        """Where nobody knows whether it was done: do it again, which cannot be done only because it was."""
        try:
            await self._cancel(caller, id, only)
        except errors.InvalidState:
            async with self._gateway.database.connection() as connection:
                if not await stored.is_canceled(connection, caller.account_id, id, only):
                    raise

    async def retry(self, caller: Caller, id: UUID, body: Some | None) -> emails.Changed:
        """Try again now for whom it failed, bounced, was put off or is held. Whom it is held for may get it twice."""
        only = _canonical(body)
        async with self._gateway.database.transaction() as connection:
            await emails.check_reach(connection, caller, id)
            await stored.retry(connection, caller.account_id, id, only)
        self._gateway.tell([caller.account_id])
        self._gateway.nudge_deliveries([caller.account_id])
        return emails.Changed(id=id)

    async def retry_many(
        self, caller: Caller, body: RetryFilter, idempotency_key: str | None, fingerprint: bytes | None
    ) -> models.Answer:
        """Try again now for everybody who matches, up to `limit` recipients.

        While MAX_QUEUED recipients wait, those who were put off alone, for they wait already; 429 for others by name.
        """
        wish = once.wish(RETRY, idempotency_key, fingerprint)
        wanted = _wanted(caller, body, (body.status,) if body.status else TAKEN_UNASKED[RETRY])

        async def retry(connection: db.Connection, account_id: UUID, *, limit: int, after: UUID) -> many.Moved:
            asked, most = await self._within_quota(connection, account_id, wanted, limit)
            return await many.retry(connection, account_id, asked, limit=most, after=after)

        answer = await self._move(caller, body, wish, retry)
        self._gateway.nudge_deliveries([caller.account_id])
        return answer

    async def _within_quota(
        self, connection: db.Connection, account_id: UUID, wanted: many.Wanted, limit: int
    ) -> tuple[many.Wanted, int]:
        """Who may be tried again, and how many of them. Who was put off waits already, so that no number of them is too
        many; others only while MAX_QUEUED lets more wait. Raises QuotaExceeded."""
        if set(wanted.statuses) <= WAITING:
            return wanted, limit
        most = self._gateway.settings.max_queued
        waiting = await stored.waiting(connection, account_id, most)
        if waiting < most:
            return wanted, min(limit, most - waiting)
        if only := WAITING.intersection(wanted.statuses):
            return dataclasses.replace(wanted, statuses=only), limit
        raise errors.QuotaExceeded(
            f"{waiting} recipients wait to be sent to; at most {most} may (MAX_QUEUED): try again later.",
            retry_after=5,
        )

    async def cancel_many(
        self, caller: Caller, body: CancelFilter, idempotency_key: str | None, fingerprint: bytes | None
    ) -> models.Answer:
        """Do not write to anybody who matches, up to `limit` recipients."""
        wish = once.wish(CANCEL, idempotency_key, fingerprint)
        wanted = _wanted(caller, body, (body.status,) if body.status else TAKEN_UNASKED[CANCEL])

        async def cancel(connection: db.Connection, account_id: UUID, *, limit: int, after: UUID) -> many.Moved:
            return await many.cancel(connection, account_id, wanted, limit=limit, after=after)

        return await self._move(caller, body, wish, cancel)

    async def _move(self, caller: Caller, body: Filter, wish: Once | None, move: Move) -> models.Answer:
        after = _cursors.decode(body.cursor)[0] if body.cursor else many.FIRST

        async def create(connection: db.Connection, keep: once.Keep) -> dict[str, Any]:
            moved = await move(connection, caller.account_id, limit=body.limit, after=after)
            answer = _shown(moved)
            await keep(answer)
            if moved.news:
                await events.append(connection, caller.account_id, moved.news)
            return answer

        answer, replayed = await self._creations.create(caller.account_id, wish, create, status=200)
        self._gateway.tell([caller.account_id])
        return once.answered(200, answer, replayed=replayed)

    async def resend(
        self, caller: Caller, id: UUID, body: Anew, idempotency_key: str | None, fingerprint: bytes | None
    ) -> models.Answer:
        """Send the same again, as another e-mail, to the same or to other recipients: 202 once it is committed.

        Its words and files are the same, its Message-ID and Date its own; with `to`, To names them, and Cc nobody.
        """
        wish = once.wish(f"POST /v1/emails/{id}/resend", idempotency_key, fingerprint)
        async with self._gateway.database.connection() as connection:
            email = await stored.get(connection, caller.account_id, id)
            raw = await stored.raw(connection, caller.account_id, id)
        if email is None or raw is None:
            return await once.as_before(self._gateway.database, caller.account_id, wish, errors.NotFound())
        emails.check_from(caller, email)
        prepared = _anew(email, raw, body, self._gateway.database.clock)
        async with self._turns.turn(caller.account_id, wish):
            receipt = await self._gateway.outbox.send_written(caller.account_id, prepared, wish)
        return once.answered(202, receipt.answer, replayed=receipt.replayed)


def _shown(moved: many.Moved) -> dict[str, Any]:
    return {
        "emails": moved.emails,
        "recipients": moved.recipients,
        "has_more": moved.next_id is not None,
        "next_cursor": _cursors.encode((moved.next_id,)) if moved.next_id is not None else None,
    }


def _canonical(body: Some | None) -> list[str] | None:
    """Whom it is about; None = all. Raises ValidationFailed, which names the field."""
    if body is None or body.recipients is None:
        return None
    return [mailbox.address.canonical for mailbox in emails.mailboxes("recipients", body.recipients)]


def _wanted(caller: Caller, body: Filter, statuses: Sequence[str]) -> many.Wanted:
    return many.Wanted(
        statuses=statuses,
        to=emails.as_listed(body.to) if body.to else None,
        provider=body.provider,
        recipient_domain=address.normal_domain(body.recipient_domain) if body.recipient_domain else None,
        tag=body.tag,
        since=body.since,
        until=body.until,
        domains=[one for domain in caller.domains for one in address.spellings(domain)] or None,
    )


def _anew(email: stored.Email, raw: bytes, body: Anew, clock: Clock) -> sending.Prepared:
    """The e-mail under an id of its own. Raises ValidationFailed, which names the field."""
    new_id = clock.uuid7()
    sender = address.Mailbox(name=email.from_name, address=address.parse(email.from_address))
    to = None if body.to is None else emails.mailboxes("to", body.to)
    request = sending.Request(
        from_=sender,
        to=_people(email, "to") if to is None else to,
        cc=_people(email, "cc") if to is None else (),
        bcc=_people(email, "bcc") if to is None else (),
        reply_to=_people(email, "reply_to"),
        subject=email.subject,
        tags=tuple(email.tags),
        metadata=email.metadata,
        scheduled_at=moments.read(body.scheduled_at, clock.now()),
        expires_in=_expires_in(email),
        on_unknown=email.on_unknown,
        topic=email.topic,
        source=email.source,  # who composed it: what is read in it depends on that
    )
    emails.check_recipients(request)
    message_id = f"{new_id}@{sender.address.ascii_domain}"
    written = resent.written(raw, message_id=f"<{message_id}>", date=clock.now(), to=to)
    return sending.Prepared(id=new_id, request=request, raw=written, message_id=message_id, mail_from=email.mail_from)


def _people(email: stored.Email, kind: str) -> tuple[address.Mailbox, ...]:
    return tuple(
        address.Mailbox(name=person["name"], address=address.parse(person["address"]))
        for person in email.recipients.get(kind, ())
    )


def _expires_in(email: stored.Email) -> int | None:
    """As long as it was given, from when it is due."""
    if email.expires_at is None:
        return None
    return max(1, round((email.expires_at - (email.scheduled_at or email.created_at)).total_seconds()))
