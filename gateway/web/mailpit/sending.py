"""POST /send: a message is written and put into the account's mailboxes, as if it had come by SMTP."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from gateway import errors
from gateway.inbound import handed
from gateway.mail import address, compose
from gateway.web import emails, reading

MAX_FILES: Final = 500


def _lowered(value: Any) -> Any:
    """Member names in lower case: Mailpit takes them in any."""
    return {name.lower(): member for name, member in value.items()} if isinstance(value, dict) else value


class _Shape(BaseModel):
    """Something in the body. What Mailpit does not know it ignores."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Person(_Shape):
    email: str = Field("", max_length=998)
    name: str = Field("", max_length=998)


class File(_Shape):
    content: str = ""
    filename: str = Field("", max_length=255)
    contenttype: str = Field("", max_length=255)
    contentid: str = Field("", max_length=900)


_Person = Annotated[Person, BeforeValidator(_lowered)]
_People = Annotated[list[_Person], Field(max_length=handed.MAX_RECIPIENTS)]
_File = Annotated[File, BeforeValidator(_lowered)]


class Message(_Shape):
    """What is to be put there."""

    from_: _Person = Field(alias="from")
    to: _People | None = None
    cc: _People | None = None
    bcc: Annotated[list[str], Field(max_length=handed.MAX_RECIPIENTS)] | None = None
    replyto: _People | None = None
    subject: str = Field("", max_length=20_000)
    text: str | None = None
    html: str | None = None
    headers: dict[str, str] | None = Field(None, max_length=200)
    attachments: Annotated[list[_File], Field(max_length=MAX_FILES)] | None = None
    tags: Annotated[list[str], Field(max_length=50)] | None = None


_adapter: Final[TypeAdapter[Message]] = TypeAdapter(Message)


def read(raw: bytes) -> Message:
    """The body. Raises InvalidJson, ValidationFailed, which name the fields in lower case."""
    value = _lowered(reading.document(raw))
    try:
        return _adapter.validate_python(value)
    except ValidationError as error:
        raise reading.failed(error, value, whole="body") from None


def recipients(message: Message) -> list[str]:
    """Whom it is for, each once."""
    people = [*(message.to or ()), *(message.cc or ())]
    found = dict.fromkeys([*(person.email for person in people), *(message.bcc or ())])
    if not found:
        raise errors.invalid("To", "at least one recipient is needed")
    return list(found)


def written(message: Message, id: UUID, now: datetime) -> bytes:
    """The message. Raises ValidationFailed, InvalidAttachment."""
    sender = _mailbox("From", message.from_)
    draft = compose.Draft(
        from_=sender,
        to=_mailboxes("To", message.to),
        cc=_mailboxes("Cc", message.cc),
        reply_to=_mailboxes("ReplyTo", message.replyto),
        subject=message.subject,
        text=message.text or ("" if message.html else "\n"),
        html=message.html,
        headers=message.headers or {},
        attachments=_files(message.attachments or ()),
        message_id=f"<{id}@{sender.address.ascii_domain}>",
        date=now,
    )
    try:
        raw = compose.compose(draft)
        compose.check(raw, draft)
    except compose.InvalidDraft as error:
        raise errors.invalid(error.field, error.message) from error
    except compose.ComposeMismatch as error:
        raise errors.ValidationFailed("The message cannot be written so that every reader reads the same.") from error
    return raw


def _mailbox(field: str, person: Person) -> address.Mailbox:
    try:
        return address.Mailbox(name=person.name or None, address=address.parse(person.email))
    except address.InvalidAddress as error:
        raise errors.invalid(field, f"{person.email[:100]!r} is {error}") from error


def _mailboxes(field: str, people: Sequence[Person] | None) -> tuple[address.Mailbox, ...]:
    return tuple(_mailbox(field, person) for person in people or ())


def _files(files: Sequence[File]) -> tuple[compose.Attachment, ...]:
    """Browsers put `data:…;base64,` in front of what they read from a file."""
    return emails.attached(
        [
            emails.NewAttachment(
                filename=one.filename or None,
                content=one.content.rpartition(",")[2],
                content_type=one.contenttype or None,
                content_id=one.contentid or None,
            )
            for one in files
        ]
    )
