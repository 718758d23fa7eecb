"""What is shown of a message before anybody opens it, made once on arrival: its line in lists, what its event says."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid5, uuid7

from gateway.inbound.protocol import Incoming
from gateway.mail import charsets, extract, parse
from gateway.storage import messages

THREADS: Final = uuid.UUID("6f1c5f0a-52b0-5c3e-9d3c-4d5e7a0b1c2d")  # namespace of thread ids
_encode: Final = msgspec.json.Encoder().encode


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What every mailbox's copy of a message shows; JSON fields are text."""

    from_name: str | None
    from_address: str | None
    recipients: str
    subject: str
    snippet: str
    codes: str
    links: str
    attachment_count: int
    message_id: str | None
    thread_id: UUID
    parse: str
    warnings: str
    tail: str  # the summary's members that are the same for all, closing brace included


def read(parsed: parse.Parsed, incoming: Incoming) -> Reading:
    """What is shown of it."""
    sender = parsed.from_
    thread_id = thread(parsed, incoming.receipt_id)
    found = extract.everything(parsed.subject, parsed.text, parsed.html)
    shown = {
        "from": {"name": sender.name if sender else None, "address": sender.address if sender else None},
        "to": [{"name": to.name, "address": to.address} for to in parsed.to],
        "subject": parsed.subject,
        "snippet": found.snippet,
        "size": len(incoming.raw),
        "seen": False,
        "labels": [],
        "attachment_count": len(parsed.attachments),
        "codes": found.codes,
        "thread_id": thread_id,
    }
    return Reading(
        from_name=sender.name if sender else None,
        from_address=sender.address if sender else None,
        recipients=_encode(shown["to"]).decode(),
        subject=parsed.subject,
        snippet=found.snippet,
        codes=_encode(found.codes).decode(),
        links=_encode(found.links).decode(),
        attachment_count=len(parsed.attachments),
        message_id=parsed.message_id,
        thread_id=thread_id,
        parse=parsed.status,
        warnings=_encode(parsed.warnings).decode(),
        tail=_encode(shown).decode()[1:],
    )


def thread(parsed: parse.Parsed, receipt_id: UUID) -> UUID:
    """The same for all messages whose References (RFC 5322 3.6.4) begin with the same message."""
    root = next(iter(parsed.references), None) or parsed.in_reply_to or parsed.message_id or str(receipt_id)
    return uuid5(THREADS, root)


def copy_for(
    mailbox_id: UUID, incoming: Incoming, reading: Reading, recipients: Sequence[str], tag: str | None
) -> messages.NewMessage:
    """One mailbox's copy; `recipients` are those that lead there, as given."""
    message_id = uuid7()
    mail_from = charsets.clean(incoming.mail_from)
    envelope = {
        "mail_from": mail_from,
        "rcpt_to": [charsets.clean(given) for given in recipients],
        "helo": charsets.clean(incoming.helo),
        "remote_ip": charsets.clean(incoming.remote_ip),
        "tls": incoming.tls,
        "receipt_id": incoming.receipt_id,
    }
    if incoming.session_id:
        envelope["session_id"] = incoming.session_id
    if incoming.trace:
        envelope["trace"] = incoming.trace
    return messages.NewMessage(
        id=message_id,
        event_id=uuid7(),
        mailbox_id=mailbox_id,
        content_id=incoming.receipt_id,
        size=len(incoming.raw),
        mail_from=mail_from,
        envelope=_encode(envelope).decode(),
        from_name=reading.from_name,
        from_address=reading.from_address,
        recipients=reading.recipients,
        subject=reading.subject,
        snippet=reading.snippet,
        codes=reading.codes,
        links=reading.links,
        attachment_count=reading.attachment_count,
        message_id=reading.message_id,
        thread_id=reading.thread_id,
        tag=tag,
        parse=reading.parse,
        warnings=reading.warnings,
        transcript=_transcript(incoming, recipients),
        data=f'"id":"{message_id}","mailbox_id":"{mailbox_id}",{reading.tail}',
    )


def _transcript(incoming: Incoming, recipients: Sequence[str]) -> str:
    """The dialogue without what was said about others: who else got a copy is not this mailbox's business."""
    if not incoming.transcript:
        return "[]"
    own = set(recipients)
    return _encode(
        [charsets.clean(line) for line, about in incoming.transcript if about is None or about in own]
    ).decode()
