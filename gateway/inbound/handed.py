"""Mail that a provider hands in by HTTP, turned into what SMTP would have brought: an envelope and octets.

Where the provider gives the message as it came, those octets are taken; where it gives only what it read in it, a
message is written from that: the header fields as they were, but for those of MIME, bodies and files encoded anew. (A
DKIM signature is left out then, since what it was made for is gone.)

Each mail's receipt id is derived from what the provider does not change when it posts again, so that a repeated post
finds its content stored and changes nothing:

    a caller    the account, a word of its own, SHA-256 of the mail and its envelope; without a word each post is a mail
    Mailgun     SHA-256 of the mail as posted: nowhere it says whether a repeated post has the same token
    Postmark    its MessageID and the recipients
    SES         its messageId and the recipients; an SNS MessageId would differ where two topics carry the same mail

This is pure: nothing is verified (gateway.signatures) or stored (gateway.inbound.receive) here.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid5, uuid7

from gateway.inbound.forms import Part
from gateway.mail import address, compose

MAX_RECIPIENTS: Final = 100  # RFC 5321 section 4.5.3.1.8
RECEIPTS: Final = uuid.UUID("0f3c8a2e-6d1b-5b7a-9c40-2e7d5a91c6b4")  # namespace of receipt ids of handed-in mail

Field = tuple[str, str]  # a header field: name, value


class Unusable(ValueError):
    """There is no mail in it that could be taken, now or later; the text says why, for a person."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Handed:
    """One mail as it was handed in."""

    receipt_id: UUID  # the same whenever a provider posts this mail again
    mail_from: str  # reverse path; empty for <> and where it is no address
    rcpt_to: tuple[str, ...]  # for whom it came; at most MAX_RECIPIENTS, none twice, never empty
    named: tuple[str, ...] = ()  # whom its header names, where rcpt_to may be an address of the provider's own
    raw: bytes  # the message
    fingerprint: bytes  # SHA-256 of all that was posted but for the signature


def from_caller(raw: bytes, mail_from: str, rcpt_to: Sequence[str]) -> Handed:
    """Mail from a caller of our own, each post a mail of its own; the envelope is checked already."""
    envelope = msgspec.json.encode([mail_from, *rcpt_to])
    return Handed(
        receipt_id=uuid7(),
        mail_from=mail_from,
        rcpt_to=tuple(dict.fromkeys(rcpt_to)),
        raw=raw,
        fingerprint=hashlib.sha256(hashlib.sha256(raw).digest() + envelope).digest(),
    )


def once(mail: Handed, account_id: UUID, word: str) -> Handed:
    """The same under a receipt id that it has whenever the account hands it in under this word."""
    return replace(mail, receipt_id=_receipt("raw", str(account_id), word, mail.fingerprint.hex()))


# Mailgun: https://documentation.mailgun.com/docs/mailgun/user-manual/receive-forward-store/receive-http

_SIGNATURE: Final = frozenset(("timestamp", "token", "signature"))


def field(parts: Sequence[Part], name: str) -> str:
    """A field's text; the last one's, for mail can bring fields of the same name, and Mailgun puts its own last."""
    return next((part.text for part in reversed(parts) if part.name == name and part.filename is None), "")


def mailgun(parts: Sequence[Part]) -> Handed:
    """A route's post: `body-mime` as it came, or what Mailgun read in the message. Raises Unusable."""
    recipients = _recipients(field(parts, "recipient").split(","))
    fingerprint = _fingerprint(parts)
    mime = next((part.content for part in reversed(parts) if part.name == "body-mime"), None)
    return Handed(
        receipt_id=_receipt("mailgun", fingerprint.hex()),
        mail_from=_reverse_path(field(parts, "sender")),
        rcpt_to=recipients,
        raw=_mailgun_composed(parts) if mime is None else mime,
        fingerprint=fingerprint,
    )


def _fingerprint(parts: Sequence[Part]) -> bytes:
    digest = hashlib.sha256()
    for part in sorted(parts, key=lambda part: (part.name, part.filename or "")):
        if part.name not in _SIGNATURE:
            head = msgspec.json.encode([part.name, part.filename, len(part.content)])
            digest.update(head + b"\n" + part.content)
    return digest.digest()


def _mailgun_composed(parts: Sequence[Part]) -> bytes:
    if field(parts, "attachments"):  # store(): a list of URLs that only Mailgun's API key opens
        raise Unusable("attachments that Mailgun stored cannot be fetched: use forward(), not store()")
    fields = _mailgun_fields(parts)
    content_ids = _mailgun_content_ids(field(parts, "content-id-map"))
    files = [
        _attachment(part.filename, part.content, part.content_type, content_ids.get(part.name))
        for part in parts
        if part.filename is not None and part.name.startswith(("attachment", "inline"))
    ]
    return _composed(fields, field(parts, "body-plain"), field(parts, "body-html"), files)


def _mailgun_fields(parts: Sequence[Part]) -> list[Field]:
    with contextlib.suppress(msgspec.DecodeError):
        return msgspec.json.decode(field(parts, "message-headers"), type=list[Field])
    names = ("From", "To", "Cc", "Reply-To", "Subject", "Date", "Message-Id", "In-Reply-To", "References")
    given = ((name, field(parts, name) or field(parts, name.lower())) for name in names)
    return [(name, value) for name, value in given if value]


def _mailgun_content_ids(text: str) -> dict[str, str]:
    """Content ids by the names of the parts that have them."""
    with contextlib.suppress(msgspec.DecodeError):
        return {name: content_id for content_id, name in msgspec.json.decode(text, type=dict[str, str]).items()}
    return {}


# Postmark: https://postmarkapp.com/developer/webhooks/inbound-webhook


class _Person(msgspec.Struct, rename="pascal"):
    email: str = ""
    name: str = ""


class _Header(msgspec.Struct, rename="pascal"):
    name: str = ""
    value: str = ""


class _File(msgspec.Struct, rename="pascal"):
    name: str = ""
    content: str | None = None  # base64
    data: str | None = None  # what its test posts call `Content`
    content_type: str = ""
    content_id: str | None = msgspec.field(default=None, name="ContentID")


class _Posted(msgspec.Struct, rename="pascal"):
    """Members that are absent are empty; those that are not named here say nothing more."""

    message_id: str = msgspec.field(default="", name="MessageID")
    original_recipient: str | None = None
    from_full: _Person | None = None
    to_full: list[_Person] = []
    cc_full: list[_Person] = []
    bcc_full: list[_Person] = []
    reply_to: str | None = None
    subject: str | None = None
    date: str | None = None
    text_body: str | None = None
    html_body: str | None = None
    raw_email: str | None = None
    headers: list[_Header] = []
    attachments: list[_File] = []


def postmark(body: bytes) -> Handed:
    """An inbound webhook's JSON: `RawEmail` where the server includes it, else what Postmark read. Raises Unusable."""
    try:
        posted = msgspec.json.decode(body, type=_Posted)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unusable(f"not what Postmark posts: {error}") from None
    named = _distinct(person.email for person in (*posted.to_full, *posted.cc_full, *posted.bcc_full))
    recipients = _recipients([posted.original_recipient] if posted.original_recipient else named)
    fingerprint = hashlib.sha256(body).digest()
    return Handed(
        receipt_id=_receipt("postmark", posted.message_id or fingerprint.hex(), *recipients),
        mail_from=_reverse_path(_postmark_sender(posted)),
        rcpt_to=recipients,
        named=named[:MAX_RECIPIENTS],  # mail that was forwarded to Postmark comes for an address of theirs
        raw=_octets(posted.raw_email) if posted.raw_email else _postmark_composed(posted),
        fingerprint=fingerprint,
    )


def _postmark_sender(posted: _Posted) -> str:
    """The reverse path, where the header still has it (RFC 5321 section 4.4); else the author."""
    found = next((header.value for header in posted.headers if header.name.lower() == "return-path"), None)
    if found is not None:
        return found
    return posted.from_full.email if posted.from_full else ""


def _postmark_composed(posted: _Posted) -> bytes:
    fields = [(header.name, header.value) for header in posted.headers if header.name.lower() != "return-path"]
    there = {name.lower() for name, _ in fields}
    fields += [(name, value) for name, value in _postmark_fields(posted) if value and name.lower() not in there]
    files = [
        _attachment(file.name, _base64(file.content or file.data or ""), file.content_type, file.content_id)
        for file in posted.attachments
    ]
    return _composed(fields, posted.text_body or "", posted.html_body or "", files)


def _postmark_fields(posted: _Posted) -> list[Field]:
    """Those that Postmark shows apart from the others."""
    return [
        ("From", _named([posted.from_full] if posted.from_full else [])),
        ("To", _named(posted.to_full)),
        ("Cc", _named(posted.cc_full)),
        ("Reply-To", posted.reply_to or ""),
        ("Subject", posted.subject or ""),
        ("Date", posted.date or ""),
    ]


def _named(people: Iterable[_Person]) -> str:
    """An address field's value (RFC 5322 section 3.4; UTF-8 by RFC 6532)."""
    return ", ".join(f"{_quoted(person.name)} <{person.email}>" if person.name else person.email for person in people)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


# SES: https://docs.aws.amazon.com/ses/latest/dg/receiving-email-notifications-contents.html


class _Action(msgspec.Struct):
    type: str = ""
    encoding: str = "UTF8"  # or BASE64; of the SNS action


class _Receipt(msgspec.Struct):
    recipients: list[str] = []
    action: _Action = msgspec.field(default_factory=_Action)


class _Mail(msgspec.Struct, rename="camel"):
    message_id: str = ""
    source: str = ""  # reverse path


class _Received(msgspec.Struct, rename="camel"):
    notification_type: str = ""
    mail: _Mail = msgspec.field(default_factory=_Mail)
    receipt: _Receipt = msgspec.field(default_factory=_Receipt)
    content: str | None = None


_SET_UP: Final = ("AmazonSnsSubscriptionSucceeded", "AMAZON_SES_SETUP_NOTIFICATION")  # "the topic works"


def ses(message: str) -> Handed | None:
    """A receipt rule's notification, as it stands in the SNS message; None where SES only tried the topic.

    Raises Unusable, also where the message lies in S3, which only the account's own credentials open."""
    try:
        received = msgspec.json.decode(message, type=_Received)
    except (msgspec.DecodeError, UnicodeError):
        if message.startswith("Successfully validated SNS topic"):
            return None
        raise Unusable("not what SES publishes for received mail") from None
    if received.notification_type in _SET_UP:
        return None
    recipients = _recipients(received.receipt.recipients)
    return Handed(
        receipt_id=_receipt("ses", received.mail.message_id, *recipients),
        mail_from=_reverse_path(received.mail.source),
        rcpt_to=recipients,
        raw=_ses_content(received),
        fingerprint=hashlib.sha256(message.encode("utf-8", "replace")).digest(),
    )


def _ses_content(received: _Received) -> bytes:
    action = received.receipt.action
    if received.notification_type != "Received" or not received.mail.message_id:
        raise Unusable("not a notification of received mail")
    if received.content is None:
        raise Unusable(
            f"the message is not in the notification (action {action.type or 'unknown'}): use the SNS action, "
            "not S3, which cannot be read from here"
        )
    return _base64(received.content) if action.encoding.upper() == "BASE64" else _octets(received.content)


# Envelopes


def _receipt(*words: str) -> UUID:
    return uuid5(RECEIPTS, msgspec.json.encode(words).decode())


def _recipients(given: Iterable[str]) -> tuple[str, ...]:
    found = _distinct(given)
    if not found or len(found) > MAX_RECIPIENTS:
        raise Unusable(f"it names no recipient, or more than {MAX_RECIPIENTS}")
    return found


def _distinct(given: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in (text.strip() for text in given) if text))


def _reverse_path(given: str) -> str:
    """Empty where it is no address: then nobody is told of anything, which is right for what cannot be answered."""
    bare = given.strip().removeprefix("<").removesuffix(">")
    try:
        return str(address.recipient(bare)) if bare else ""
    except address.InvalidAddress:
        return ""


# Messages written from what a provider read

_FIELD_NAME: Final = re.compile(r"[!-9;-~]{1,76}")  # RFC 5322 section 2.2
_REMADE: Final = re.compile(r"content-|mime-version$|dkim-signature$", re.IGNORECASE)
_BREAKS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]+")
_TYPE: Final = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,100}/[A-Za-z0-9!#$&^_.+-]{1,100}")
_CONTENT_ID: Final = re.compile(r"[!-;=?-~]{1,900}")
_MAX_FIELD_LINE: Final = 900  # octets, below the 998 of RFC 5322 section 2.1.1


def _composed(fields: Sequence[Field], text: str, html: str, files: Sequence[compose.Attachment]) -> bytes:
    lines = [_line(name, value) for name, value in fields if _FIELD_NAME.fullmatch(name) and not _REMADE.match(name)]
    entity = compose.entity(text=_clean(text), html=_clean(html), attachments=tuple(files))
    return b"".join(lines) + entity


def _line(name: str, value: str) -> bytes:
    """One field, UTF-8 where need be (RFC 6532), folded before spaces (RFC 5322 section 2.2.3)."""
    lines, line = [], _octets(name) + b":"
    for word in _octets(_BREAKS.sub(" ", value).strip()).split(b" "):
        if len(line) + 1 + len(word) > _MAX_FIELD_LINE and word and line.strip():
            lines.append(line)
            line = b""
        line += b" " + word
    return b"\r\n".join([*lines, line]) + b"\r\n"


def _attachment(filename: str | None, content: bytes, content_type: str, content_id: str | None) -> compose.Attachment:
    """What a stranger says of a file, where it can be written; a file of unknown kind where not."""
    kind = content_type.partition(";")[0].strip().lower()
    bare = (content_id or "").strip().removeprefix("<").removesuffix(">")
    usable = _TYPE.fullmatch(kind) and not kind.startswith("multipart/")
    return compose.Attachment(
        filename=_BREAKS.sub(" ", _clean(filename or ""))[:255] or None,
        content=content,
        content_type=kind if usable else "application/octet-stream",
        content_id=bare if _CONTENT_ID.fullmatch(bare) else None,
    )


def _clean(text: str) -> str:
    return _octets(text.replace("\0", "")).decode()


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Unusable("a part of it is not base64") from None
