"""/v1/messages/{id}/reply and /forward: mail that came in, answered from the address that it was sent to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from pydantic import Field

from gateway import errors, models
from gateway.lifecycle import Gateway
from gateway.mail import address, answer, compose, parse
from gateway.models import Caller, Input
from gateway.outbound import send as sending
from gateway.storage import events, idempotency, mailboxes, messages
from gateway.storage.idempotency import Once, Turns
from gateway.web import api, emails, once, parts

MAX_FILES: Final = 50  # of the original that a forward takes along one by one; with more it goes as one file
MESSAGE: Final = "message/rfc822"
NOTHING_SAID: Final = "text or html is needed"
_TYPE = re.compile(r"(?!multipart/)[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}")
_CONTENT_ID = re.compile(r"[!-;=?-~]{1,900}")


class Reply(Input):
    """What to say to who wrote; the original is quoted below."""

    text: str | None = Field(None, description="This or html is needed")
    html: str | None = None
    attachments: list[emails.NewAttachment] | None = Field(None, max_length=500)
    reply_all: bool = Field(False, description="To everybody else the message was to, too, in Cc")


class Forward(Input):
    """To whom the message goes on, with its attachments, and what to say above it."""

    to: emails.Recipients
    cc: emails.Recipients | None = None
    bcc: emails.Recipients | None = None
    text: str | None = None
    html: str | None = None
    attachments: list[emails.NewAttachment] | None = Field(None, max_length=500)


class Answering:
    """The operations."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._turns = Turns()

    def operations(self) -> Sequence[api.Operation]:
        answering: dict[str, Any] = {
            "scope": "send",
            "tags": ["Messages"],
            "status": 202,
            "idempotent": True,
            "returns": emails.Accepted,
            "max_body_bytes": api.send_body_limit(self._gateway.settings.max_message_bytes),
            "errors": [errors.InvalidAttachment, errors.QuotaExceeded, errors.NotFound],
        }
        return [
            api.op("POST", "/messages/{id}/reply", self.reply, mailbox_token=True, **answering),
            api.op("POST", "/messages/{id}/forward", self.forward, **answering),
        ]

    async def reply(
        self, caller: Caller, id: UUID, body: Reply, idempotency_key: str | None, fingerprint: bytes | None
    ) -> models.Answer:
        """Reply to the sender, in the message's thread: 202 once it is committed.

        From the address that the message was sent to. A key needs `mailboxes` or `read` besides `send`."""
        if not body.text and not body.html:
            raise errors.MissingRequiredField(
                NOTHING_SAID, errors=[errors.FieldError(field="text", message=NOTHING_SAID)]
            )
        wish = once.wish(f"POST /v1/messages/{id}/reply", idempotency_key, fingerprint)
        found = await self._find(caller, id)
        if found is None:
            return await self._again(caller, id, wish)
        message, raw, parsed = found
        html = await self._gateway.cleaning.html(raw, "none") if body.html and parsed.html else None
        original = answer.Original(parsed=parsed, mail_from=message.mail_from, html=html)
        sender, own = await self._own(caller, message)
        try:
            made = answer.reply(original, _words(body), own=own, to_all=body.reply_all)
        except answer.Unanswerable as error:
            raise errors.ValidationFailed(str(error)) from error
        request = _request(made, sender, to=made.to, cc=made.cc, attachments=emails.attached(body.attachments))
        return await self._send(caller, request, wish)

    async def forward(
        self, caller: Caller, id: UUID, body: Forward, idempotency_key: str | None, fingerprint: bytes | None
    ) -> models.Answer:
        """Send the message on, with its attachments: 202 once it is committed.

        From the address that the message was sent to. A key needs `mailboxes` or `read` besides `send`."""
        wish = once.wish(f"POST /v1/messages/{id}/forward", idempotency_key, fingerprint)
        found = await self._find(caller, id)
        if found is None:
            return await self._again(caller, id, wish)
        message, raw, parsed = found
        files = await self._files(raw, parsed)
        html = await self._gateway.cleaning.html(raw, "named" if files is not None else "none") if parsed.html else None
        made = answer.forward(answer.Original(parsed=parsed, mail_from=message.mail_from, html=html), _words(body))
        sender, _ = await self._own(caller, message)
        request = _request(
            made,
            sender,
            to=emails.mailboxes("to", body.to),
            cc=emails.mailboxes("cc", body.cc),
            bcc=emails.mailboxes("bcc", body.bcc),
            attachments=(*emails.attached(body.attachments), *([_whole(raw, parsed)] if files is None else files)),
        )
        return await self._send(caller, request, wish)

    async def _find(self, caller: Caller, id: UUID) -> tuple[messages.Message, bytes, parse.Parsed] | None:
        """The message; None = it is not there, or no more."""
        if caller.mailbox_id is None and not caller.has_any(("mailboxes", "read")):  # quoting shows what it says
            raise errors.RestrictedApiKey("The API key may not do this: it needs the scope mailboxes or read, too.")
        async with self._gateway.database.connection() as connection:
            found = await messages.get(connection, caller.account_id, id, caller.mailbox_id)
        if found is None:
            return None
        message, raw = found
        return message, raw, await self._gateway.parsing.read(raw)

    async def _again(self, caller: Caller, id: UUID, wish: Once | None) -> models.Answer:
        """The first answer to the same request, though its message has been deleted since. Raises NotFound."""
        if wish is None:
            raise errors.NotFound
        async with self._gateway.database.connection() as connection:
            if not await idempotency.is_taken(connection, caller.account_id, wish):
                raise errors.NotFound
            if caller.mailbox_id is not None and not await events.tell_of(
                connection, caller.account_id, caller.mailbox_id, id
            ):
                raise errors.NotFound
            first = await idempotency.first(connection, caller.account_id, wish)
        return once.answered(first.status, first.answer, replayed=True)

    async def _own(self, caller: Caller, message: messages.Message) -> tuple[address.Mailbox, frozenset[str]]:
        """Whom the answer is from, the tag included; and all addresses, tags taken off, that are the same mailbox."""
        retention = self._gateway.settings.retention_seconds
        async with self._gateway.database.connection() as connection:
            box = await mailboxes.get(connection, caller.account_id, message.mailbox_id, retention=retention)
        if box is None:
            raise errors.NotFound
        reached = [*_readable(message.envelope["rcpt_to"]), address.parse(box.address)]
        sender = address.Mailbox(address=reached[0])
        emails.check_sender(caller, sender)
        return sender, frozenset(own.without_tag.canonical for own in reached)

    async def _files(self, raw: bytes, parsed: parse.Parsed) -> list[compose.Attachment] | None:
        """Its attachments; None where they cannot be had one by one: too many, or the mail is odd."""
        if parsed.status != "ok" or len(parsed.attachments) > MAX_FILES:
            return None
        files = []
        for index in range(len(parsed.attachments)):
            cut = await self._gateway.parsing.attachment(raw, index)
            if cut is None:
                return None
            files.append(_file(*cut))
        return files

    async def _send(self, caller: Caller, request: sending.Request, wish: Once | None) -> models.Answer:
        emails.check_whole(request)
        most = self._gateway.settings.max_message_bytes
        if request.size > most:
            raise errors.PayloadTooLarge(f"With its attachments the e-mail is larger than {most} bytes.")
        prepared = await self._gateway.outbox.prepare(request)
        if len(prepared.raw) > most:
            raise errors.PayloadTooLarge(f"With its attachments the e-mail is larger than {most} bytes.")
        async with self._turns.turn(caller.account_id, wish):
            receipt = await self._gateway.outbox.send_written(caller.account_id, prepared, wish)
        return once.answered(202, receipt.answer, replayed=receipt.replayed)


def _words(body: Reply | Forward) -> answer.Words:
    return answer.Words(text=body.text or None, html=body.html or None)


def _request(made: answer.Answer, sender: address.Mailbox, **recipients_and_files: Any) -> sending.Request:
    return sending.Request(
        from_=sender,
        subject=made.subject,
        text=made.text,
        html=made.html,
        in_reply_to=made.in_reply_to,
        references=made.references,
        **recipients_and_files,
    )


def _readable(given: Sequence[str]) -> list[address.Address]:
    """Recipients as they stood in RCPT TO."""
    found = []
    for text in given:
        try:
            found.append(address.recipient(text))
        except address.InvalidAddress:
            continue
    return found


# The original's files


def _file(found: parse.Attachment, content: bytes) -> compose.Attachment:
    known = found.content_id is not None and _CONTENT_ID.fullmatch(found.content_id)
    extension = ".eml" if found.content_type == MESSAGE else ""
    return compose.Attachment(
        filename=parts.safe_name(found.filename or "", f"attachment-{found.index}{extension}"),
        content=content,
        content_type=found.content_type if _TYPE.fullmatch(found.content_type) else parts.OPAQUE,
        content_id=found.content_id if known else None,
    )


def _whole(raw: bytes, parsed: parse.Parsed) -> compose.Attachment:
    """The message itself as a file; where it is odd, no reader of the forward is to take it apart."""
    kind = MESSAGE if parsed.status == "ok" else parts.OPAQUE
    return compose.Attachment(filename="message.eml", content=raw, content_type=kind)
