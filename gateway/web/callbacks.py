"""/v1/callbacks: what Mailgun, Postmark and SES tell of mail that they took.

Verified as mail that comes in by HTTP is, by the same settings. Whatever is verified is answered 200 once it is kept,
also where it is about nobody's mail: providers post again what is not, for hours. A fault of ours is 503.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
import structlog
from pydantic import Field
from starlette.requests import Request

from gateway import errors, signatures
from gateway.lifecycle import Gateway
from gateway.models import Output
from gateway.outbound import callbacks
from gateway.outbound.feedback import Feedback
from gateway.web import api, inbound_http
from gateway.web.inbound_http import MailgunStops, Unsigned

log = structlog.get_logger(__name__)

MAX_BYTES: Final = 1_048_576  # of a callback; Postmark's bounces may hold the message


class Heard(Output):
    """The callback is kept, and what it tells is told."""

    object: Literal["callback"] = "callback"
    event_id: str | None = Field(description="The provider's, or a digest; null where a subscription was confirmed")


class Callbacks:
    """The operations."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._settings = gateway.settings
        self._feedback = Feedback(gateway.database, told=gateway.tell)
        self._certificates = signatures.Certificates(gateway.fetch)

    def operations(self) -> Sequence[api.Operation]:
        settings = self._settings
        posted: dict[str, Any] = {
            "public": True,
            "tags": ["E-mails"],
            "reads_body": True,
            "max_body_bytes": MAX_BYTES,
        }
        return [
            api.op(
                "POST",
                "/callbacks/mailgun",
                self.mailgun,
                available=bool(settings.mailgun_signing_key.get_secret_value()),
                errors=[Unsigned, MailgunStops],
                **posted,
            ),
            api.op(
                "POST",
                "/callbacks/postmark",
                self.postmark,
                available=bool(settings.postmark_webhook_auth.get_secret_value()),
                errors=[Unsigned],
                **posted,
            ),
            api.op(
                "POST",
                "/callbacks/ses",
                self.ses,
                available=bool(settings.sns_topic_arns),
                consumes="text/plain",
                errors=[Unsigned],
                **posted,
            ),
        ]

    async def mailgun(self, request: Request) -> Heard:
        """Events of Mailgun's webhooks: delivered, failed, complained, opened, clicked.

        Signed with MAILGUN_SIGNING_KEY; not there without it. 406 says that it is no event.
        """
        body = await request.body()
        signature, data = _mailgun_parts(body)
        inbound_http.check_mailgun(self._settings, self._gateway.database.clock.now(), **signature)
        await inbound_http.spend(self._gateway, signature["token"], hashlib.sha256(data).digest())
        return await self._take("mailgun", body, MailgunStops)

    async def postmark(self, request: Request) -> Heard:
        """Postmark's webhooks: Delivery, Bounce, SpamComplaint, Open, Click.

        Give Postmark the URL with the user name and password of POSTMARK_WEBHOOK_AUTH in it; not there without it.
        """
        with inbound_http.told("postmark"):  # before the body is read
            expected = self._settings.postmark_webhook_auth.get_secret_value()
            signatures.basic(expected, request.headers.get("authorization", ""))
        return await self._take("postmark", await request.body(), errors.ValidationFailed)

    async def ses(self, request: Request) -> Heard:
        """Events of SES by SNS: event publishing, or the feedback of an identity.

        Topics must be in SNS_TOPIC_ARNS; not there without it. Their subscriptions are confirmed.
        """
        body = await request.body()
        with inbound_http.told("sns"):
            given = signatures.notification(body)
            await signatures.sns(given, self._certificates, self._settings.sns_topic_arns)
            if given.type == "SubscriptionConfirmation":
                await signatures.confirm(given, self._gateway.fetch)
        if given.is_confirmation:
            log.info("sns subscription", type=given.type, topic=given.topic_arn)
            return Heard(event_id=None)
        return await self._take("ses", body, errors.ValidationFailed)

    async def _take(self, provider: str, body: bytes, stops: type[errors.ValidationFailed]) -> Heard:
        try:
            post = await self._feedback.take(provider, body)
        except callbacks.Unreadable as error:
            log.warning("callback unreadable", provider=provider, reason=str(error))
            raise stops(f"The callback cannot be read: {error}.") from error
        return Heard(event_id=post.event_id)


class _Signature(msgspec.Struct):
    timestamp: str
    token: str
    signature: str


class _Event(msgspec.Struct):
    signature: _Signature
    data: msgspec.Raw = msgspec.field(name="event-data")


def _mailgun_parts(body: bytes) -> tuple[dict[str, str], bytes]:
    """What it is signed with, and what the signature does not cover. Raises Unsigned."""
    try:
        event = msgspec.json.decode(body, type=_Event)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unsigned from error
    return msgspec.structs.asdict(event.signature), bytes(event.data)
