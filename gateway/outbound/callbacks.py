"""Callbacks of Mailgun, Postmark and SES, read: whatever they post becomes news of one mail, in our own words.

    delivered   the final hop took it
    deferred    the provider was put off, and tries again by itself
    bounced     refused for good
    failed      the provider would not send it: its own list, a bad template, a rejected content
    complained  its reader called it spam
    opened, clicked

What says none of this (accepted, unsubscribed, an autoresponder) is kept and tells nothing. Nothing is verified here,
and nothing raises but Unreadable: members that are missing or of another type are as if they were empty.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from gateway.mail import charsets
from gateway.storage import callbacks

Kind = Literal["delivered", "deferred", "bounced", "failed", "complained", "opened", "clicked"]

LONGEST: Final = 1000  # characters that are taken over of anything
MAX_NEWS: Final = 50  # recipients of one callback; an e-mail has no more


class Unreadable(ValueError):
    """It is no callback of that provider's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class News:
    """What became of a mail, as its provider tells it."""

    kind: Kind
    recipient: str  # as the provider writes it; may be another address than was written to
    reply: str  # what the server over there said, or why it was not tried; empty = not told
    enhanced: str = ""  # RFC 3463 code that was told apart from the reply; empty = none
    at: datetime | None = None  # when it happened, by the provider's clock; None = not told
    details: Mapping[str, str] = field(default_factory=dict)  # url, user_agent, ip, report: only those that were told


@dataclass(frozen=True, kw_only=True, slots=True)
class Post:
    """A callback, read."""

    event_id: str  # the same whenever the provider posts this again
    provider_id: str  # of the mail, as callbacks.name_of has it; empty = it is about none
    news: tuple[News, ...]  # at most MAX_NEWS


def read(provider: str, body: bytes) -> Post:
    """Read what one of `callbacks.PROVIDERS` posted. Raises Unreadable."""
    try:
        given = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable("it is no JSON") from error
    if not isinstance(given, dict):
        raise Unreadable("it is no JSON object")
    return _READERS[provider](given)


# Mailgun: https://documentation.mailgun.com/docs/mailgun/user-manual/events/event-structure


def _mailgun(given: dict[str, Any]) -> Post:
    data = _member(given, "event-data")
    kind = _mailgun_kind(data)
    status, id = _member(data, "delivery-status"), _text(data, "id")
    if not id:
        raise Unreadable("it has no event-data.id")
    news = News(
        kind=kind or "delivered",
        recipient=_text(data, "recipient"),
        reply=_mailgun_reply(status) or _text(data, "reason"),
        enhanced=_text(status, "enhanced-code"),
        at=_time(data.get("timestamp")),
        details=_details(
            url=_text(data, "url"), ip=_text(data, "ip"), user_agent=_text(data, "client-info", "user-agent")
        ),
    )
    return Post(
        event_id=f"{id}:{_text(data, 'timestamp')}"[:LONGEST],  # an id is unique within a day
        provider_id=callbacks.name_of(
            "mailgun", _text(data, "message", "headers", "message-id"), _text(data, "recipient")
        ),
        news=(news,) if kind else (),
    )


def _mailgun_kind(data: Mapping[str, Any]) -> Kind | None:
    event = _text(data, "event")
    if event == "failed" and _text(data, "severity") == "temporary":
        return "deferred"
    if event == "failed":
        return "failed" if _text(data, "reason").startswith("suppress") else "bounced"
    return _MAILGUN.get(event)


_MAILGUN: Final[Mapping[str, Kind]] = {
    "delivered": "delivered",
    "rejected": "failed",
    "complained": "complained",
    "opened": "opened",
    "clicked": "clicked",
}


def _mailgun_reply(status: Mapping[str, Any]) -> str:
    code, said = _text(status, "code"), _text(status, "message") or _text(status, "description")
    if not said or said.startswith(code):
        return said
    return f"{code} {said}" if len(code) == 3 and code[0] in "245" else said  # 6xx are Mailgun's own


# Postmark: https://postmarkapp.com/developer/webhooks/webhooks-overview


def _postmark(given: dict[str, Any]) -> Post:
    record = _text(given, "RecordType")
    if not record:
        raise Unreadable("it has no RecordType")
    kind = _postmark_bounce(given) if record == "Bounce" else _POSTMARK.get(record)
    news = News(
        kind=kind or "delivered",
        recipient=_text(given, "Recipient") or _text(given, "Email"),
        reply=_text(given, "Details") or _text(given, "Description"),
        at=_time(next((given[name] for name in _POSTMARK_TIMES if given.get(name)), None)),
        details=_details(
            url=_text(given, "OriginalLink"), ip=_text(given, "Geo", "IP"), user_agent=_text(given, "UserAgent")
        ),
    )
    return Post(
        event_id=_postmark_id(record, given),
        provider_id=_text(given, "MessageID"),
        news=(news,) if kind else (),
    )


_POSTMARK: Final[Mapping[str, Kind]] = {
    "Delivery": "delivered",
    "SpamComplaint": "complained",
    "Open": "opened",
    "Click": "clicked",
}
_POSTMARK_TIMES: Final = ("DeliveredAt", "BouncedAt", "ReceivedAt", "ChangedAt")
_POSTMARK_BOUNCES: Final[Mapping[str, Kind | None]] = {  # what is not here was refused for good
    "Transient": "deferred",
    "SpamComplaint": "complained",
    "SMTPApiError": "failed",
    "InboundError": "failed",
    "TemplateRenderingFailed": "failed",
    "ManuallyDeactivated": "failed",  # on the server's own list
    "Unsubscribe": None,
    "Subscribe": None,
    "AutoResponder": None,
    "AddressChange": None,
    "OpenRelayTest": None,
    "ChallengeVerification": None,
}


def _postmark_bounce(given: Mapping[str, Any]) -> Kind | None:
    return _POSTMARK_BOUNCES.get(_text(given, "Type"), "bounced")


def _postmark_id(record: str, given: Mapping[str, Any]) -> str:
    """Bounces and complaints have an id; else a mail, its recipient, the moment and the link make one."""
    if id := _text(given, "ID"):
        return f"{record}:{id}"
    parts = [record, *(_text(given, name) for name in ("MessageID", "Recipient", *_POSTMARK_TIMES, "OriginalLink"))]
    return f"{record}:{_digest(msgspec.json.encode(parts))}"


# SES, by SNS: https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html


def _ses(given: dict[str, Any]) -> Post:
    message = given.get("Message")
    try:
        told = msgspec.json.decode(message) if isinstance(message, str) else None
    except msgspec.DecodeError:
        told = None
    if not isinstance(message, str) or not isinstance(told, dict):
        raise Unreadable("its message is no JSON object")
    event = _text(told, "eventType") or _text(told, "notificationType")  # event publishing, or feedback of an identity
    reader = _SES.get(event)
    found = tuple(reader(told))[:MAX_NEWS] if reader else ()
    return Post(
        event_id=_digest(
            message.encode("utf-8", "replace")
        ),  # an SNS MessageId differs where two topics carry the same
        provider_id=_text(told, "mail", "messageId"),
        news=found,
    )


def _ses_bounce(told: Mapping[str, Any]) -> Iterator[News]:
    bounce = _member(told, "bounce")
    listed = _text(bounce, "bounceSubType") in {"Suppressed", "OnAccountSuppressionList"}  # SES did not try
    lasting = _text(bounce, "bounceType") != "Transient"
    for one in _members(bounce, "bouncedRecipients"):
        reported = lasting or _text(one, "status").startswith("5")  # an out-of-office note counts as Transient, too
        yield News(
            kind="failed" if listed else "bounced" if reported else "deferred",
            recipient=_text(one, "emailAddress"),
            reply=_without_type(_text(one, "diagnosticCode"))
            or " ".join(_words(bounce, "bounceType", "bounceSubType")),
            enhanced=_text(one, "status"),
            at=_time(bounce.get("timestamp")),
        )


def _ses_complaint(told: Mapping[str, Any]) -> Iterator[News]:
    complaint = _member(told, "complaint")
    if _text(complaint, "complaintFeedbackType") == "not-spam":
        return
    listed = _text(complaint, "complaintSubType") == "OnAccountSuppressionList"
    for one in _members(complaint, "complainedRecipients"):
        yield News(
            kind="failed" if listed else "complained",
            recipient=_text(one, "emailAddress"),
            reply=" ".join(_words(complaint, "complaintSubType", "complaintFeedbackType")),
            at=_time(complaint.get("timestamp")),
        )


def _ses_delivery(told: Mapping[str, Any]) -> Iterator[News]:
    delivery = _member(told, "delivery")
    for recipient in _list(delivery, "recipients"):
        yield News(
            kind="delivered",
            recipient=_plain(recipient),
            reply=_text(delivery, "smtpResponse"),
            at=_time(delivery.get("timestamp")),
        )


def _ses_delay(told: Mapping[str, Any]) -> Iterator[News]:
    delay = _member(told, "deliveryDelay")
    for one in _members(delay, "delayedRecipients"):
        yield News(
            kind="deferred",
            recipient=_text(one, "emailAddress"),
            reply=_without_type(_text(one, "diagnosticCode")) or _text(delay, "delayType"),
            enhanced=_text(one, "status"),
            at=_time(delay.get("timestamp")),
        )


def _ses_refusal(told: Mapping[str, Any]) -> Iterator[News]:
    reason = _text(told, "reject", "reason") or _text(told, "failure", "errorMessage")
    for recipient in _list(_member(told, "mail"), "destination"):
        yield News(
            kind="failed", recipient=_plain(recipient), reply=reason, at=_time(_member(told, "mail").get("timestamp"))
        )


def _ses_reading(told: Mapping[str, Any]) -> Iterator[News]:
    """Which of several recipients it was, SES does not say: there is one in each mail of ours."""
    kind: Kind = "opened" if _text(told, "eventType") == "Open" else "clicked"
    seen = _member(told, "open" if kind == "opened" else "click")
    yield News(
        kind=kind,
        recipient=next((_plain(one) for one in _list(_member(told, "mail"), "destination")), ""),
        reply="",
        at=_time(seen.get("timestamp")),
        details=_details(url=_text(seen, "link"), ip=_text(seen, "ipAddress"), user_agent=_text(seen, "userAgent")),
    )


_SES: Final = {
    "Bounce": _ses_bounce,
    "Complaint": _ses_complaint,
    "Delivery": _ses_delivery,
    "DeliveryDelay": _ses_delay,
    "Reject": _ses_refusal,
    "Rendering Failure": _ses_refusal,
    "Open": _ses_reading,
    "Click": _ses_reading,
}
_READERS: Final = {"mailgun": _mailgun, "postmark": _postmark, "ses": _ses}


# JSON of strangers


def _member(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The object at the end of a path; empty where there is none."""
    found: Any = given
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _list(given: Mapping[str, Any], name: str) -> list[Any]:
    found = given.get(name)
    return found[:MAX_NEWS] if isinstance(found, list) else []


def _members(given: Mapping[str, Any], name: str) -> Iterable[dict[str, Any]]:
    return [one for one in _list(given, name) if isinstance(one, dict)]


def _text(given: Mapping[str, Any], *names: str) -> str:
    """The string or number at the end of a path; empty where there is none."""
    return _plain(_member(given, *names[:-1]).get(names[-1]))


def _plain(found: Any) -> str:
    if isinstance(found, str):
        return charsets.clean(found[:LONGEST])
    return str(found) if isinstance(found, int | float) and not isinstance(found, bool) else ""


def _words(given: Mapping[str, Any], *names: str) -> list[str]:
    return [word for name in names if (word := _text(given, name))]


def _details(**told: str) -> dict[str, str]:
    return {name: value for name, value in told.items() if value}


def _time(found: Any) -> datetime | None:
    """Unix seconds, or RFC 3339."""
    try:
        if isinstance(found, int | float):
            return datetime.fromtimestamp(found, UTC)
        at = datetime.fromisoformat(found[:64])
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _without_type(diagnostic: str) -> str:
    """A Diagnostic-Code (RFC 3464 2.3.6) without its `smtp;`."""
    kind, semicolon, said = diagnostic.partition(";")
    return said.strip() if semicolon and kind.strip().lower() == "smtp" else diagnostic


def _digest(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()
