"""/v1/emails: sending, a superset of Resend's requests; lists, what was sent, attempts, rescheduling."""

from __future__ import annotations

import asyncio
import base64
import binascii
import dataclasses
import mimetypes
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from starlette.requests import Request
from starlette.responses import Response

from gateway import errors, models
from gateway.lifecycle import Gateway
from gateway.mail import address, classify, compose
from gateway.models import Caller, Input, ListQuery, Output, Page, Time
from gateway.outbound import moments
from gateway.outbound import send as sending
from gateway.storage import callbacks, db, emails, listing, suppressions
from gateway.storage.idempotency import Once, Turns
from gateway.web import api, messages, once, parts, reading, templates

SEND: Final = "POST /v1/emails"
SEND_BATCH: Final = "POST /v1/emails/batch"
MAX_BATCH: Final = 1000
TURN: Final = 20  # e-mails of a batch that are composed before other callers get their turn: some 5 ms
MAX_BYTE_VALUES: Final = (
    10_485_760  # of one attachment given as a list, which costs seconds to read; base64 may be larger
)
FILE: Final = "application/octet-stream"
_TYPES: Final = mimetypes.MimeTypes()  # Python's own table, the same on every host
_OFFICE: Final = "application/vnd.openxmlformats-officedocument"
_MORE_TYPES: Final = {
    "docx": f"{_OFFICE}.wordprocessingml.document",
    "xlsx": f"{_OFFICE}.spreadsheetml.sheet",
    "pptx": f"{_OFFICE}.presentationml.presentation",
    "ics": "text/calendar",
    "webp": "image/webp",
}
_cursors: Final[models.Cursor[tuple[UUID]]] = models.Cursor(tuple[UUID])

Recipients = str | Annotated[list[str], Field(max_length=sending.MAX_RECIPIENTS)]
HeaderName = Annotated[str, StringConstraints(min_length=1, max_length=76)]
TagText = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9_-]+$")]
Byte = Annotated[int, Field(ge=0, le=255)]
ByteValues = Annotated[list[Byte], Field(max_length=MAX_BYTE_VALUES, fail_fast=True)]
Status = Literal[
    "scheduled",
    "queued",
    "sending",
    "deferred",
    "unknown",
    "sent",
    "delivered",
    "canceled",
    "suppressed",
    "failed",
    "bounced",
    "complained",
]


def _bounded(metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if len(msgspec.json.encode(metadata)) > sending.MAX_METADATA_BYTES:
        raise ValueError(f"more than {sending.MAX_METADATA_BYTES} bytes of JSON")
    return metadata


class NewAttachment(Input):
    """A file, or a picture that the HTML names by `cid:`."""

    filename: str | None = Field(None, max_length=255)
    content: str | ByteValues | None = Field(None, description="Base64, or a list of byte values")
    content_type: str | None = Field(None, max_length=255, description="Without it, by the ending of the file's name")
    content_id: str | None = Field(None, max_length=900)
    path: str | None = Field(None, description="Refused: nothing is fetched from URLs")


class Tag(Input):
    """A word about an e-mail, to find it by."""

    name: TagText
    value: TagText


class TemplateUse(Input):
    """A template that says what the e-mail says."""

    id: UUID
    variables: templates.Given = Field({})


class UnsubscribeOffer(Input):
    """What recipients can unsubscribe from."""

    topic: str | None = Field(
        None,
        pattern=f"^{suppressions.TOPIC_NAME}$",
        description="Unsubscribing is from e-mails with this topic alone; without one, from all of the sender's domain",
    )


class NewEmail(Input):
    """An e-mail to be sent."""

    from_: str = Field(alias="from", max_length=998)
    to: Recipients
    subject: str | None = Field(None, max_length=20_000, description="Needed where no template has one")
    cc: Recipients | None = None
    bcc: Recipients | None = None
    reply_to: Recipients | None = None
    text: str | None = Field(None, description="Without it one is made of the HTML; an empty one for none")
    html: str | None = None
    template: TemplateUse | None = Field(None, description="Instead of text and html")
    headers: dict[HeaderName, str] | None = Field(None, max_length=200)
    attachments: list[NewAttachment] | None = Field(None, max_length=500)
    tags: list[Tag] | None = Field(None, max_length=sending.MAX_TAGS)
    metadata: Annotated[dict[str, JsonValue], AfterValidator(_bounded)] | None = None
    scheduled_at: str | None = Field(None, max_length=100, description='RFC 3339, or "in 10 min"')
    expires_in: int | None = Field(None, ge=1, le=2_592_000, description="Seconds from when it is due")
    on_unknown: Literal["retry", "hold"] = Field("retry", description="When the line breaks after the final dot")
    on_suppressed: Literal["skip", "reject"] = "skip"
    unsubscribe: UnsubscribeOffer | None = Field(
        None,
        description=(
            "Give each recipient's copy a List-Unsubscribe of its own that works with one click (RFC 8058): "
            '`{}` or `{"topic": "newsletter"}`, where Resend has `topic_id`. Needs the setting PUBLIC_URL'
        ),
    )

    @field_validator("on_unknown", "on_suppressed", mode="before")
    @classmethod
    def _null_is_the_default(cls, value: Any, field: ValidationInfo) -> Any:
        return cls.model_fields[str(field.field_name)].default if value is None else value


class EmailChanges(Input):
    """Another time."""

    scheduled_at: str = Field(max_length=100)
    id: str | None = Field(None, description="Resend's clients repeat it; allowed if equal")


class EmailsQuery(ListQuery):
    """Which e-mails."""

    status: Status | None = None
    to: str | None = Field(None, max_length=320, description="A recipient's address")
    from_: str | None = Field(None, alias="from", max_length=320, description="An address, or a whole @domain")
    subject: str | None = Field(None, min_length=1, max_length=1000, description="A part of it, in any case")
    tag: str | None = Field(None, max_length=513, description="A tag's name, its value, or name:value")
    metadata: str | None = Field(None, max_length=1000, description="name:value of a member, as text")
    provider: str | None = Field(
        None, max_length=320, description="That made a recipient's last attempt, whole or up to its first colon"
    )
    reply: str | None = Field(
        None, min_length=1, max_length=1000, description="A part of what a peer said to any attempt, in any case"
    )
    after: UUID | None = Field(None, description="Behind this e-mail in the list's order, as Resend does")
    before: UUID | None = Field(None, description="In front of this e-mail in the list's order")


class Accepted(Output):
    """It is committed and will be sent."""

    id: UUID
    status: Literal["queued", "scheduled"]


class Reference(Output):
    """An e-mail's id."""

    id: UUID


class BatchProblem(Output):
    """One that could not be taken."""

    index: int
    message: str


class AcceptedBatch(Output):
    """Those that are committed."""

    data: list[Reference]
    errors: list[BatchProblem] | None = None


class Recipient(Output):
    """One recipient and what became of it."""

    address: str
    kind: Literal["to", "cc", "bcc"]
    status: Status
    attempts: int
    next_attempt_at: Time | None
    provider: str | None
    provider_id: str | None
    reply: str | None


class Unsubscribing(Output):
    """What recipients can unsubscribe from."""

    topic: str | None = Field(description="null = all mail from the sender's domain")


class EmailSummary(Output):
    """An e-mail as lists show it."""

    object: Literal["email"] = "email"
    id: UUID
    sender: str = Field(serialization_alias="from")
    to: list[str]
    cc: list[str]
    bcc: list[str]
    reply_to: list[str]
    subject: str
    status: Status
    last_event: Status
    message_id: str
    tags: list[Tag]
    metadata: dict[str, JsonValue]
    size: int
    on_unknown: Literal["retry", "hold"]
    created_at: Time
    scheduled_at: Time | None
    expires_at: Time | None
    unsubscribe: Unsubscribing | None = Field(description="null = nothing: it has no List-Unsubscribe of ours")
    recipients: list[Recipient]


class Email(EmailSummary):
    """What was sent, and what became of it."""

    text: str | None
    html: str | None
    headers: list[tuple[str, str]]
    attachments: list[messages.Attachment]


class Reading(Output):
    """What a refusal was read as."""

    rule: str = Field(description="A built-in rule, or the id of a bounce rule of the account's")
    class_: classify.Kind = Field(alias="class")
    suppresses: bool


class Attempt(Output):
    """One attempt at one recipient."""

    id: UUID
    recipient: str
    number: int
    provider: str
    started_at: Time
    finished_at: Time
    outcome: str
    code: int | None
    reply: str
    transcript: list[str]
    is_stale: bool
    classification: Reading | None = Field(description="null = no refusal")


class Report(Output):
    """What came back by mail about a recipient: a bounce, a complaint, or an answer that is neither."""

    object: Literal["report"] = "report"
    id: str = Field(description="As `report` in the data of the events that it caused")
    recipient: str
    received_at: Time
    applied_at: Time | None = Field(description="When what it says was told; null = not yet")
    size: int = Field(description="Bytes that are kept: its first mebibyte")


class Changed(Output):
    """Resend's answer to a change."""

    object: Literal["email"] = "email"
    id: UUID


BATCH_MODE: Final = "x-batch-validation"


class Emails:
    """The operations."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._turns = Turns()

    def operations(self) -> Sequence[api.Operation]:
        limit = api.send_body_limit(self._gateway.settings.max_message_bytes)
        writing: dict[str, Any] = {"scope": "send", "tags": ["E-mails"]}
        reading: dict[str, Any] = {"scope": {"send", "read"}, "tags": ["E-mails"]}
        refusals = [errors.InvalidAttachment, errors.RecipientSuppressed, errors.QuotaExceeded]
        creating: dict[str, Any] = {**writing, "status": 202, "idempotent": True, "max_body_bytes": limit}
        modes = {BATCH_MODE: "strict (default): all or none; permissive: the good ones go, `errors` lists the rest"}
        return [
            api.op("POST", "/emails", self.send, returns=Accepted, errors=refusals, **creating),
            api.op(
                "POST", "/emails/batch", self.batch, returns=AcceptedBatch, errors=refusals, headers=modes, **creating
            ),
            api.op("GET", "/emails", self.list, returns=Page[EmailSummary], **reading),
            api.op("GET", "/emails/{id}", self.get, returns=Email, **reading),
            api.op("PATCH", "/emails/{id}", self.reschedule, errors=[errors.InvalidState], **writing),
            api.op("GET", "/emails/{id}/attempts", self.attempts, returns=Page[Attempt], **reading),
            api.op("GET", "/emails/{id}/raw", self.raw, produces="message/rfc822", **reading),
            api.op("GET", "/emails/{id}/html", self.html, produces="text/html", **reading),
            api.op("GET", "/emails/{id}/reports", self.reports, returns=Page[Report], **reading),
            api.op("GET", "/emails/{id}/reports/{report}", self.report, produces="message/rfc822", **reading),
        ]

    async def send(
        self, caller: Caller, body: NewEmail, idempotency_key: str | None, fingerprint: bytes | None
    ) -> models.Answer:
        """Send an e-mail: 202 once it is committed."""
        wish = once.wish(SEND, idempotency_key, fingerprint)
        try:
            body = await _written(body, templates.Fillings(self._gateway, caller.account_id))
        except errors.ApiError as error:
            return await self._as_before(caller, wish, error)
        request = _request(caller, body, self._gateway.database.clock.now())
        async with self._turns.turn(caller.account_id, wish):
            receipt = await self._gateway.outbox.send(caller.account_id, request, wish)
        return once.answered(202, receipt.answer, replayed=receipt.replayed)

    async def _as_before(self, caller: Caller, wish: Once | None, error: errors.ApiError) -> models.Answer:
        """The first answer to a call whose template has gone or changed since; else raises `error`."""
        return await once.as_before(self._gateway.database, caller.account_id, wish, error)

    async def batch(
        self,
        request: Request,
        caller: Caller,
        body: Annotated[list[JsonValue], Field(min_length=1, max_length=MAX_BATCH)],
        idempotency_key: str | None,
        fingerprint: bytes | None,
    ) -> models.Answer:
        """Send up to 1,000 e-mails: all or none, or the good ones (`x-batch-validation: permissive`)."""
        permissive = request.headers.get(BATCH_MODE, "strict").lower() == "permissive"
        wish = once.wish(SEND_BATCH, idempotency_key, fingerprint)
        try:
            prepared, problems = await self._prepare_all(caller, body, permissive)
        except errors.ApiError as error:
            return await self._as_before(caller, wish, error)
        async with self._turns.turn(caller.account_id, wish):
            receipt = await self._gateway.outbox.send_all(
                caller.account_id, prepared, wish, problems if permissive else None
            )
        return once.answered(202, receipt.answer, replayed=receipt.replayed)

    async def _prepare_all(
        self, caller: Caller, body: Sequence[Any], permissive: bool
    ) -> tuple[list[sending.Prepared], list[dict[str, Any]]]:
        prepared: list[sending.Prepared] = []
        problems: list[dict[str, Any]] = []
        fillings = templates.Fillings(self._gateway, caller.account_id)
        for index, item in enumerate(body):
            if index % TURN == TURN - 1:
                await asyncio.sleep(0)
            try:
                email = await _written(_email(item), fillings)
                one = await self._gateway.outbox.prepare(_request(caller, email, self._gateway.database.clock.now()))
                await self._gateway.outbox.check_sender(caller.account_id, one)
                prepared.append(one)
            except errors.ApiError as error:
                if not permissive:
                    raise _of_item(index, error) from error
                problems.append({"index": index, "message": error.message})
        return prepared, problems

    async def list(self, caller: Caller, query: EmailsQuery) -> Response:
        """E-mails, newest first. A page on which looking took a second ends there, full or not: its cursor goes on."""
        wanted = _wanted(query)
        back = wanted.before is not None and wanted.after is None
        async with self._gateway.database.connection() as connection:
            found = await _page(connection, caller.account_id, wanted, query.limit, query.order == "asc")
            of_email = await emails.recipients(connection, caller.account_id, [email.id for email in found.emails])
        body = {
            "object": "list",
            "data": [_summary(email, of_email[email.id]) for email in found.emails],
            "has_more": found.next_id is not None,
            "next_cursor": _cursors.encode((found.next_id,)) if found.next_id is not None and not back else None,
        }
        return _json(body)

    async def get(self, caller: Caller, id: UUID) -> Response:
        """What was sent, and what became of it, recipient by recipient."""
        async with self._gateway.database.connection() as connection:
            email = await emails.get(connection, caller.account_id, id)
            raw = await emails.raw(connection, caller.account_id, id)
            of_email = await emails.recipients(connection, caller.account_id, [id])
        if email is None or raw is None:
            raise errors.NotFound
        shown = await self._gateway.parsing.shown(raw)
        return _json(
            {
                **_summary(email, of_email[id]),
                "text": msgspec.Raw(shown.text),
                "html": msgspec.Raw(shown.html),
                "headers": shown.parsed.headers,
                "attachments": shown.parsed.attachments,
            }
        )

    async def attempts(self, caller: Caller, id: UUID) -> Response:
        """Every attempt, with its dialogue."""
        async with self._gateway.database.connection() as connection:
            if await emails.get(connection, caller.account_id, id) is None:
                raise errors.NotFound
            found = await emails.attempts(connection, caller.account_id, id)
        return _json(
            {"object": "list", "data": [_attempt(row) for row in found], "has_more": False, "next_cursor": None}
        )

    async def raw(self, caller: Caller, id: UUID) -> Response:
        """The composed mail, as every attempt sends it but for signatures and a recipient's own List-Unsubscribe."""
        async with self._gateway.database.connection() as connection:
            raw = await emails.raw(connection, caller.account_id, id)
        if raw is None:
            raise errors.NotFound
        return parts.download(raw, "message/rfc822", f"{id}.eml")

    async def html(self, caller: Caller, id: UUID, query: messages.HtmlQuery) -> Response:
        """The HTML body, as composed or made harmless."""
        async with self._gateway.database.connection() as connection:
            raw = await emails.raw(connection, caller.account_id, id)
        if raw is None:
            raise errors.NotFound
        return await messages.html_of(self._gateway, raw, query)

    async def reports(self, caller: Caller, id: UUID) -> Page[Report]:
        """What came to its return paths, oldest first; at most 20 a recipient, for FEEDBACK_RETENTION_SECONDS."""
        async with self._gateway.database.connection() as connection:
            addresses = await self._addresses(connection, caller, id)
            found = await callbacks.reports(connection, list(addresses))
        return Page[Report](
            data=[
                Report(
                    id=one.id,
                    recipient=addresses[one.delivery_id],
                    received_at=one.received_at,
                    applied_at=one.applied_at,
                    size=one.size,
                )
                for one in found
            ],
            has_more=False,
            next_cursor=None,
        )

    async def report(self, caller: Caller, id: UUID, report: str) -> Response:
        """One of them, as it came."""
        async with self._gateway.database.connection() as connection:
            addresses = await self._addresses(connection, caller, id)
            named = re.fullmatch(r"[0-9a-f]{64}", report) is not None
            raw = await callbacks.report(connection, list(addresses), report) if named else None
        if raw is None:
            raise errors.NotFound
        return parts.download(raw, "message/rfc822", f"{id}-report.eml")

    async def _addresses(self, connection: db.Connection, caller: Caller, id: UUID) -> dict[UUID, str]:
        """An e-mail's recipients, by delivery. Raises NotFound."""
        found = (await emails.recipients(connection, caller.account_id, [id]))[id]
        if not found:
            raise errors.NotFound
        return {one.id: one.address for one in found}

    async def reschedule(self, caller: Caller, id: UUID, body: EmailChanges) -> Changed:
        """Send it at another time."""
        if body.id is not None and body.id != str(id):
            raise errors.invalid("id", "not the e-mail of the path")
        now = self._gateway.database.clock.now()
        at = moments.read(body.scheduled_at, now) or now
        async with self._gateway.database.transaction() as connection:
            await check_reach(connection, caller, id)
            await emails.reschedule(connection, caller.account_id, id, at)
        self._gateway.tell([caller.account_id])
        return Changed(id=id)


# From the wire to a request

_NEW_EMAIL: Final = TypeAdapter(NewEmail)


def _email(item: Any) -> NewEmail:
    """One of a batch, whose fields are named as if it stood alone."""
    try:
        return _NEW_EMAIL.validate_python(item)
    except ValidationError as error:
        raise reading.failed(error, item, whole="email") from None


async def _written(body: NewEmail, fillings: templates.Fillings) -> NewEmail:
    """The e-mail with what its template says. Raises ValidationFailed, MissingRequiredField."""
    if body.template is None:
        if body.subject is None:
            raise errors.MissingRequiredField(
                "subject: required", errors=[errors.FieldError(field="subject", message="required")]
            )
        return body
    for name in ("text", "html"):
        if getattr(body, name) is not None:
            raise errors.invalid(name, "cannot be given together with a template")
    made = await fillings.rendered(body.template.id, body.template.variables)
    subject = made.subject if body.subject is None else body.subject
    return body.model_copy(update={"subject": subject, "html": made.html or None, "text": made.text})


def _request(caller: Caller, body: NewEmail, now: datetime) -> sending.Request:
    """Raises ApiErrors that name the field."""
    sender = _mailbox("from", body.from_)
    check_sender(caller, sender)
    request = sending.Request(
        from_=sender,
        to=mailboxes("to", body.to),
        cc=mailboxes("cc", body.cc),
        bcc=mailboxes("bcc", body.bcc),
        reply_to=mailboxes("reply_to", body.reply_to),
        subject=body.subject or "",
        text=body.text,
        html=body.html,
        headers=body.headers or {},
        attachments=attached(body.attachments),
        tags=tuple({"name": tag.name, "value": tag.value} for tag in body.tags or ()),
        metadata=body.metadata or {},
        scheduled_at=moments.read(body.scheduled_at, now),
        expires_in=body.expires_in,
        on_unknown=body.on_unknown,
        on_suppressed=body.on_suppressed,
        topic=None if body.unsubscribe is None else body.unsubscribe.topic or "",
    )
    check_whole(request)
    return request


def check_sender(caller: Caller, sender: address.Mailbox) -> None:
    """Raises RestrictedApiKey where the caller may not send from there."""
    if caller.domains and sender.address.ascii_domain not in caller.domains:
        raise errors.RestrictedApiKey(f"The API key may not send from {sender.address.domain}.")


def check_from(caller: Caller, email: emails.Email) -> None:
    """Raises RestrictedApiKey where the caller may not send from where this one was sent."""
    for text in (email.from_address, email.mail_from):
        if text:
            check_sender(caller, address.Mailbox(address=address.parse(text)))


async def check_reach(connection: db.Connection, caller: Caller, id: UUID) -> None:
    """A key that is limited to domains decides nothing about mail from elsewhere. Raises RestrictedApiKey, NotFound."""
    if not caller.domains:
        return
    email = await emails.get(connection, caller.account_id, id)
    if email is None:
        raise errors.NotFound
    check_from(caller, email)


def check_whole(request: sending.Request) -> None:
    """Raises ValidationFailed, MissingRequiredField: somebody to send it to, not too many, and something to say."""
    check_recipients(request)
    if not request.text and not request.html:
        message = "text or html is needed"
        raise errors.MissingRequiredField(message, errors=[errors.FieldError(field="text", message=message)])


def check_recipients(request: sending.Request) -> None:
    """Raises ValidationFailed where there is nobody to send it to, or too many are."""
    if not request.recipient_count:
        raise errors.invalid("to", "at least one recipient is needed")
    if request.recipient_count > sending.MAX_RECIPIENTS:
        raise errors.invalid("to", f"at most {sending.MAX_RECIPIENTS} recipients in all")


def _mailbox(field: str, text: str) -> address.Mailbox:
    try:
        return address.parse_mailbox(text)
    except address.InvalidAddress as error:
        raise errors.invalid(field, str(error)) from error


def mailboxes(field: str, given: str | list[str] | None) -> tuple[address.Mailbox, ...]:
    """Raises ValidationFailed, which names the field."""
    if given is None:
        return ()
    if isinstance(given, str):
        return (_mailbox(field, given),)
    return tuple(_mailbox(f"{field}[{index}]", text) for index, text in enumerate(given))


def attached(given: Sequence[NewAttachment] | None) -> tuple[compose.Attachment, ...]:
    """Raises InvalidAttachment, which names the field."""
    return tuple(_attachment(f"attachments[{index}]", one) for index, one in enumerate(given or ()))


def _attachment(field: str, given: NewAttachment) -> compose.Attachment:
    if given.path is not None:
        raise _bad_attachment(f"{field}.path", "files are not fetched from URLs; give their content")
    if given.content is None:
        raise _bad_attachment(f"{field}.content", "required")
    content = bytes(given.content) if isinstance(given.content, list) else _decoded(f"{field}.content", given.content)
    return compose.Attachment(
        filename=given.filename,
        content=content,
        content_type=given.content_type or _type_of(given.filename or ""),
        content_id=given.content_id,
    )


def _type_of(filename: str) -> str:
    """By its ending, as for Resend; what is packed or may be mail is just a file."""
    _, dot, ending = filename.lower().rpartition(".")
    if not dot:
        return FILE
    found, packed = _TYPES.guess_type(f"a.{ending}")
    if packed == "gzip":
        return "application/gzip"
    known = found if packed is None and found and not found.startswith(("message/", "multipart/")) else FILE
    return _MORE_TYPES.get(ending, known)


def _decoded(field: str, text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise _bad_attachment(field, "not base64") from None


def _bad_attachment(field: str, message: str) -> errors.InvalidAttachment:
    return errors.InvalidAttachment(f"{field}: {message}", errors=[errors.FieldError(field=field, message=message)])


def _of_item(index: int, error: errors.ApiError) -> errors.ApiError:
    """The same refusal, its fields named from the list's point of view."""
    fields = [errors.FieldError(field=f"[{index}].{e.field}", message=e.message) for e in error.errors]
    return type(error)(f"[{index}]: {error.message}", errors=fields)


def _wanted(query: EmailsQuery) -> listing.Wanted:
    from_addresses, from_domains = _from(query.from_)
    return listing.Wanted(
        status=query.status,
        to=as_listed(query.to) if query.to else None,
        from_addresses=from_addresses,
        from_domains=from_domains,
        subject=query.subject,
        tag=query.tag,
        metadata=_member(query.metadata) if query.metadata is not None else None,
        provider=query.provider,
        reply=query.reply,
        since=query.since,
        until=query.until,
        after=_cursors.decode(query.cursor)[0] if query.cursor else query.after,
        before=query.before,
    )


def _from(text: str | None) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """An address, or a domain, in each way to write it. Raises ValidationFailed."""
    if not text:
        return None, None
    if text.startswith("@"):
        return None, address.spellings(text[1:])
    try:
        sender = address.parse(text)
        return tuple(f"{sender.local.lower()}@{domain}" for domain in address.spellings(sender.domain)), None
    except address.InvalidAddress:
        raise errors.invalid("from", "neither an e-mail address nor a @domain") from None


def _member(text: str) -> tuple[str, str]:
    """Raises ValidationFailed."""
    name, colon, value = text.partition(":")
    if not name or not colon:
        raise errors.invalid("metadata", "wanted is name:value")
    return name, value


async def _page(
    connection: db.Connection, account_id: UUID, wanted: listing.Wanted, limit: int, ascending: bool
) -> listing.Found:
    """In the list's order. `before` alone asks for those next to it: they are read from there, the other way round."""
    if wanted.before is None or wanted.after is not None:
        return await listing.page(connection, account_id, wanted, limit=limit, ascending=ascending)
    turned = dataclasses.replace(wanted, after=wanted.before, before=None)
    found = await listing.page(connection, account_id, turned, limit=limit, ascending=not ascending)
    return dataclasses.replace(found, emails=found.emails[::-1])


def as_listed(text: str, field: str = "to") -> str:
    """A recipient's address as it is looked for. Raises ValidationFailed."""
    try:
        return sending.as_listed(address.parse(text))
    except address.InvalidAddress:
        raise errors.invalid(field, "not an e-mail address") from None


# From storage to the wire


def _summary(email: emails.Email, deliveries: Sequence[emails.Delivery]) -> dict[str, Any]:
    status = emails.overall(delivery.status for delivery in deliveries)
    return {
        "object": "email",
        "id": email.id,
        "from": _shown({"name": email.from_name, "address": email.from_address}),
        **{kind: [_shown(person) for person in email.recipients[kind]] for kind in ("to", "cc", "bcc", "reply_to")},
        "subject": email.subject,
        "status": status,
        "last_event": status,
        "message_id": f"<{email.message_id}>",
        "tags": email.tags,
        "metadata": email.metadata,
        "size": email.size,
        "on_unknown": email.on_unknown,
        "created_at": email.created_at.astimezone(UTC),
        "scheduled_at": email.scheduled_at.astimezone(UTC) if email.scheduled_at else None,
        "expires_at": email.expires_at.astimezone(UTC) if email.expires_at else None,
        "unsubscribe": None if email.topic is None else {"topic": email.topic or None},
        "recipients": [_recipient(delivery) for delivery in deliveries],
    }


def _recipient(delivery: emails.Delivery) -> dict[str, Any]:
    waits = delivery.due_at is not None and delivery.status in {"scheduled", "queued", "deferred"}
    return {
        "address": delivery.address,
        "kind": delivery.kind,
        "status": delivery.status,
        "attempts": delivery.attempts,
        "next_attempt_at": delivery.due_at.astimezone(UTC) if waits and delivery.due_at else None,
        "provider": delivery.provider or None,
        "provider_id": delivery.provider_id,
        "reply": delivery.reply,
    }


def _attempt(row: Mapping[str, Any]) -> dict[str, Any]:
    names = (
        "id",
        "number",
        "provider",
        "started_at",
        "finished_at",
        "outcome",
        "code",
        "reply",
        "transcript",
        "is_stale",
        "classification",
    )
    shown = {name: row[name] for name in names}
    times = {name: row[name].astimezone(UTC) for name in ("started_at", "finished_at")}
    return {**shown, **times, "recipient": row["address"]}


def _shown(person: Mapping[str, str | None]) -> str:
    name, where = person["name"], person["address"] or ""
    return address.format_mailbox(address.Mailbox(name=name, address=address.parse(where)))


def _json(body: Any) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
