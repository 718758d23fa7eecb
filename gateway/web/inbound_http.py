"""/v1/inbound: mail that comes in by HTTP, where no port 25 can be had.

    raw         anybody with a key of the scope `inbound` posts a message and its envelope
    mailgun     a route's forward() · postmark  an inbound webhook · ses  a receipt rule's SNS action

Each is turned into what SMTP would have brought and given to the same desk, which says 250 after the commit and for
unknown addresses too. Providers post again what was not answered with 200, so they hear 503 of a fault of ours, and of
mail that never can be taken the one status that makes them stop and keep it where their users see it: 406 for Mailgun,
403 for Postmark, any 4xx for SNS.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, Literal, TypeVar
from uuid import UUID

import structlog
from pydantic import Field
from starlette.requests import Request

from gateway import errors, models, signatures
from gateway.inbound import forms, handed
from gateway.inbound.protocol import Hold, HungUp, Incoming
from gateway.lifecycle import Gateway
from gateway.mail import address
from gateway.models import Answer, Caller, Input, Output
from gateway.settings import Settings
from gateway.storage import accounts, idempotency
from gateway.storage.idempotency import Once, Turns
from gateway.web import api, once

log = structlog.get_logger(__name__)

T = TypeVar("T")

RAW: Final = "POST /v1/inbound/raw"
SIGNED: Final = ("timestamp", "token", "signature")  # what Mailgun signs with
TOKENS: Final = "POST /v1/inbound/mailgun"  # whose tokens are remembered like idempotency keys
LARGE: Final = 262_144  # bytes of a body; from here on it is read in a thread
RETRY_SECONDS: Final = 5
TRY_AGAIN: Final = "The mail cannot be taken now; try again."


class Unsigned(errors.InvalidApiKey):
    """The signature, user name or password is not the provider's."""


class MailgunStops(errors.ValidationFailed):
    """The mail cannot be taken, now or later; Mailgun does not post it again."""

    status = 406


class PostmarkStops(errors.ValidationFailed):
    """The mail cannot be taken, now or later; Postmark does not post it again."""

    status = 403


class RawQuery(Input):
    """The envelope."""

    mail_from: str = Field("", max_length=320, description="Reverse path; empty for the null path")
    rcpt_to: models.Words = Field(
        min_length=1, max_length=handed.MAX_RECIPIENTS, description="Recipients: repeated, or separated by commas"
    )
    once: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="A word of yours: the same mail under the same word is stored once, as long as it is kept",
    )


class Received(Output):
    """The mail is stored, or dropped as it would be after DATA."""

    object: Literal["inbound"] = "inbound"
    receipt_id: UUID


class Notified(Output):
    """What SNS said was heard."""

    object: Literal["inbound"] = "inbound"
    receipt_id: UUID | None = Field(description="null where there was no mail in it: a subscription was confirmed")


class InboundHttp:
    """The way in by HTTP."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._settings = gateway.settings
        self._certificates = signatures.Certificates(gateway.fetch)
        self._turns = Turns()

    def operations(self) -> Sequence[api.Operation]:
        most, settings = self._settings.max_message_bytes, self._settings
        posted: dict[str, Any] = {"public": True, "tags": ["Inbound"], "reads_body": True}
        mailgun = posted | {
            "available": bool(settings.mailgun_signing_key.get_secret_value()),
            "consumes": "multipart/form-data",
            "max_body_bytes": api.send_body_limit(most),
            "errors": [Unsigned, MailgunStops],
        }
        return [
            api.op(
                "POST",
                "/inbound/raw",
                self.raw,
                scope="inbound",
                idempotent=True,
                tags=["Inbound"],
                reads_body=True,
                consumes="message/rfc822",
                max_body_bytes=most,
            ),
            api.op(
                "POST",
                "/inbound/mailgun",
                self.mailgun,
                **mailgun,
            ),
            api.op("POST", "/inbound/mailgun/mime", self.mailgun_mime, **mailgun),
            api.op(
                "POST",
                "/inbound/postmark",
                self.postmark,
                available=bool(settings.postmark_webhook_auth.get_secret_value()),
                max_body_bytes=2 * api.send_body_limit(most),  # the raw message, and what was read in it
                errors=[Unsigned, PostmarkStops],
                **posted,
            ),
            api.op(
                "POST",
                "/inbound/ses",
                self.ses,
                available=bool(settings.sns_topic_arns),
                consumes="text/plain",
                errors=[Unsigned],
                **posted,
            ),
        ]

    # By key

    async def raw(
        self, request: Request, caller: Caller, query: RawQuery, idempotency_key: str | None
    ) -> Received | Answer:
        """Hand in a message with its envelope, byte for byte.

        The answer is the same whether anybody lives at the addresses or not.
        """
        mail_from = _reverse_path(query.mail_from)
        with self._held() as hold:
            raw = await self._body(request, hold)
            if not raw:
                raise errors.invalid("body", "empty")
            await self._check_recipients(caller, query.rcpt_to, mail_from)
            mail = handed.from_caller(raw, mail_from, query.rcpt_to)
            if query.once is not None:
                mail = handed.once(mail, caller.account_id, query.once)
            wish = once.wish(RAW, idempotency_key, mail.fingerprint)
            async with self._turns.turn(caller.account_id, wish):
                return await self._raw_once(caller.account_id, wish, mail, hold)

    async def hand_in(self, caller: Caller, raw: bytes, mail_from: str, rcpt_to: Sequence[str]) -> UUID:
        """Store a message that was written for the caller; its receipt id. Raises as `raw` does."""
        mail_from = _reverse_path(mail_from)
        with self._held() as hold:
            if not hold.resize(len(raw)):
                raise errors.Unavailable("Too much mail is on its way in; try again.", retry_after=RETRY_SECONDS)
            if len(raw) > self._settings.max_message_bytes:
                raise errors.PayloadTooLarge(f"The message is larger than {self._settings.max_message_bytes:,} bytes.")
            await self._check_recipients(caller, rcpt_to, mail_from)
            mail = handed.from_caller(raw, mail_from, rcpt_to)
            await self._deliver(mail, hold, errors.ValidationFailed)
            return mail.receipt_id

    async def _raw_once(
        self, account_id: UUID, wish: Once | None, mail: handed.Handed, hold: Hold
    ) -> Received | Answer:
        """The key is claimed with a receipt id before the mail is stored under that id, and answered for afterwards:
        whoever comes again after a crash between the two stores it under the same id, which is once."""
        first = await self._claim(account_id, wish, mail.receipt_id) if wish is not None else {}
        if "object" in first:
            return once.answered(200, first, replayed=True)
        receipt_id = UUID(first["receipt_id"]) if first else mail.receipt_id
        await self._deliver(dataclasses.replace(mail, receipt_id=receipt_id), hold, errors.ValidationFailed)
        received = Received(receipt_id=receipt_id)
        if wish is not None:
            async with self._gateway.database.transaction() as connection:
                await idempotency.keep(connection, account_id, wish, received.model_dump(mode="json"))
        return received

    async def _claim(self, account_id: UUID, wish: Once, receipt_id: UUID) -> dict[str, Any]:
        """What the first request with this key wrote down: its answer, or the receipt id alone if it never came so far;
        empty = this is the first."""
        pending = {"receipt_id": str(receipt_id)}
        seconds = self._settings.idempotency_seconds
        async with self._gateway.database.transaction() as connection:
            first = await idempotency.claim(connection, account_id, wish, status=200, answer=pending, seconds=seconds)
        return first.answer if first is not None else {}

    async def _check_recipients(self, caller: Caller, rcpt_to: Sequence[str], mail_from: str) -> None:
        """All of them, or nothing is taken."""
        for to in rcpt_to:
            if said := await self._refusal(to, mail_from):
                raise errors.invalid("rcpt_to", said)
        if caller.domains and not {_domain(to) for to in rcpt_to} <= set(caller.domains):
            raise errors.RestrictedApiKey("The API key is limited to other domains.")

    # By provider

    async def mailgun(self, request: Request) -> Received:
        """A message from a Mailgun route, as Mailgun read it: `forward("https://…/v1/inbound/mailgun")`.

        Signed with MAILGUN_SIGNING_KEY; not there without it. 406 says that the mail can never be taken.
        """
        return await self._mailgun(request)

    async def mailgun_mime(self, request: Request) -> Received:
        """The same, as it came: Mailgun posts that to URLs that end with `mime`."""
        return await self._mailgun(request)

    async def _mailgun(self, request: Request) -> Received:
        with self._held() as hold:
            body = await self._body(request, hold)
            content_type = request.headers.get("content-type", "")
            try:
                parts = await _apart(body, lambda: forms.read(content_type, body))
                signed = {name: handed.field(parts, name) for name in SIGNED}
                check_mailgun(self._settings, self._gateway.database.clock.now(), **signed)
                mail = await _apart(body, lambda: handed.mailgun(parts))
            except forms.NotAForm as error:
                raise Unsigned from error
            except handed.Unusable as error:
                raise _stops(MailgunStops, error) from error
            await spend(self._gateway, handed.field(parts, "token"), mail.fingerprint)
            return Received(receipt_id=await self._take(mail, hold, MailgunStops))

    async def postmark(self, request: Request) -> Received:
        """An inbound message from Postmark.

        Give Postmark the URL with the user name and password of POSTMARK_WEBHOOK_AUTH in it; not there without it. Tick
        "Include raw email content" to have messages as they came. 403 says that the mail can never be taken.
        """
        with told("postmark"):  # before the body is read
            expected = self._settings.postmark_webhook_auth.get_secret_value()
            signatures.basic(expected, request.headers.get("authorization", ""))
        with self._held() as hold:
            body = await self._body(request, hold)
            try:
                mail = await _apart(body, lambda: handed.postmark(body))
            except handed.Unusable as error:
                raise _stops(PostmarkStops, error) from error
            return Received(receipt_id=await self._take(mail, hold, PostmarkStops))

    async def ses(self, request: Request) -> Notified:
        """A message from SES, by a receipt rule with the SNS action (encoding Base64) and an HTTPS subscription.

        Topics must be in SNS_TOPIC_ARNS; not there without it. Their subscriptions are confirmed. Messages that SES put
        into S3 cannot be fetched: 422.
        """
        with self._held() as hold:
            body = await self._body(request, hold)
            with told("sns"):
                given = signatures.notification(body)
                await signatures.sns(given, self._certificates, self._settings.sns_topic_arns)
                if given.is_confirmation:
                    return await self._subscribed(given)
            try:
                mail = handed.ses(given.message)
            except handed.Unusable as error:
                raise _stops(errors.ValidationFailed, error) from error
            receipt_id = await self._take(mail, hold, errors.ValidationFailed) if mail is not None else None
            return Notified(receipt_id=receipt_id)

    async def _subscribed(self, given: signatures.Notification) -> Notified:
        if given.type == "SubscriptionConfirmation":
            await signatures.confirm(given, self._gateway.fetch)
        log.info("sns subscription", type=given.type, topic=given.topic_arn)
        return Notified(receipt_id=None)

    async def _take(self, mail: handed.Handed, hold: Hold, stops: type[errors.ValidationFailed]) -> UUID:
        """Store what is for us; the receipt id. Raises `stops` where nothing of it is, or it is too big."""
        if len(mail.raw) > self._settings.max_message_bytes:
            raise stops(f"The message is larger than {self._settings.max_message_bytes:,} bytes.")
        rcpt_to = await self._ours(mail.rcpt_to, mail.mail_from) or await self._ours(mail.named, mail.mail_from)
        if not rcpt_to:
            log.warning("handed-in mail refused", receipt_id=str(mail.receipt_id))
            raise stops("No recipient is at a domain of this gateway.")
        await self._deliver(dataclasses.replace(mail, rcpt_to=rcpt_to), hold, stops)
        return mail.receipt_id

    async def _ours(self, recipients: Sequence[str], mail_from: str) -> tuple[str, ...]:
        return tuple([to for to in recipients if await self._refusal(to, mail_from) is None])

    # What all of them do

    async def _refusal(self, recipient: str, mail_from: str) -> str | None:
        """Why the desk does not take the recipient, for a person; None = it does. Raises Unavailable."""
        with _put_off():
            refusal = await self._gateway.reception.recipient(recipient, mail_from)
        if refusal is not None and refusal.startswith("4"):
            raise errors.Unavailable(TRY_AGAIN, retry_after=RETRY_SECONDS)
        return None if refusal is None else _SAID.get(refusal[:9], "this address is not taken")

    async def _deliver(self, mail: handed.Handed, hold: Hold, stops: type[errors.ValidationFailed]) -> None:
        """Returns after the commit."""
        await hold.store()
        incoming = Incoming(
            receipt_id=mail.receipt_id,
            mail_from=mail.mail_from,
            rcpt_to=mail.rcpt_to,
            helo="",
            remote_ip="",
            tls=False,
            smtputf8=True,
            raw=mail.raw,
        )
        with _put_off():
            reply = await self._gateway.reception.deliver(incoming)
        if reply.startswith("5"):
            raise stops("The message is not taken.")
        if not reply.startswith("2"):
            raise errors.Unavailable(TRY_AGAIN, retry_after=RETRY_SECONDS)

    @contextlib.contextmanager
    def _held(self) -> Iterator[Hold]:
        """The mail's share of the bytes in flight, which the SMTP listeners count against, too."""
        hold = self._gateway.in_flight.hold()
        try:
            yield hold
        finally:
            hold.release()

    async def _body(self, request: Request, hold: Hold) -> bytes:
        chunks, size = [], 0
        async for chunk in request.stream():
            size += len(chunk)
            if not hold.resize(size):
                raise errors.Unavailable("Too much mail is on its way in; try again.", retry_after=RETRY_SECONDS)
            chunks.append(chunk)
        return b"".join(chunks)


_SAID: Final = {  # by SMTP's reply
    "550 5.7.1": "not at a domain of this gateway",
    "550 5.1.1": "no such mailbox",
    "501 5.1.3": "not an e-mail address",
}


async def _apart(body: bytes, read: Callable[[], T]) -> T:
    """What is long to read, in a thread."""
    return await asyncio.to_thread(read) if len(body) > LARGE else read()


@contextlib.contextmanager
def _put_off() -> Iterator[None]:
    """Where a rehearsal has the desk hang up, the peer must come again."""
    try:
        yield
    except HungUp as error:
        raise errors.Unavailable(TRY_AGAIN, retry_after=RETRY_SECONDS) from error


def check_mailgun(settings: Settings, now: datetime, *, timestamp: str, token: str, signature: str) -> None:
    """Raises Unsigned where Mailgun did not sign these, or not now."""
    with told("mailgun"):
        signatures.mailgun(
            settings.mailgun_signing_key.get_secret_value(),
            timestamp=timestamp,
            token=token,
            signature=signature,
            now=now.timestamp(),
            within=min(signatures.MAILGUN_SECONDS, settings.idempotency_seconds / 2),
        )


async def spend(gateway: Gateway, token: str, fingerprint: bytes) -> None:
    """A token of Mailgun's is good for one body, however often that is posted: the signature says nothing of the body.

    Remembered where idempotency keys are, in the name of an account that nobody has.
    """
    seconds = gateway.settings.idempotency_seconds
    wish = Once(endpoint=TOKENS, key=token, fingerprint=fingerprint)
    try:
        async with gateway.database.transaction() as connection:
            nobody = (await accounts.voids(connection))[0]
            await idempotency.claim(connection, nobody, wish, status=200, answer={}, seconds=seconds)
    except errors.InvalidIdempotentRequest as error:
        log.warning("request not verified", provider="mailgun", reason="the token was used for another body")
        raise Unsigned from error


@contextlib.contextmanager
def told(provider: str) -> Iterator[None]:
    """The log hears why a request is not verified, the caller only that it is not."""
    try:
        yield
    except signatures.Unverified as error:
        log.warning("request not verified", provider=provider, reason=str(error))
        raise Unsigned from error


def _stops(kind: type[errors.ValidationFailed], error: handed.Unusable) -> errors.ValidationFailed:
    log.warning("handed-in mail unusable", reason=str(error))
    return kind(f"The mail cannot be taken: {error}.")


def _reverse_path(given: str) -> str:
    bare = given.strip().removeprefix("<").removesuffix(">")
    try:
        return str(address.recipient(bare)) if bare else ""
    except address.InvalidAddress as error:
        raise errors.invalid("mail_from", str(error)) from None


def _domain(recipient: str) -> str:
    """Empty for the bare `postmaster`, which is at no key's domain."""
    try:
        return address.recipient(recipient).ascii_domain
    except address.InvalidAddress:
        return ""
