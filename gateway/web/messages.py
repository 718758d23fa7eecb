"""/v1/messages, and the messages of a mailbox: lists, the whole message, its raw bytes and parts, seen and labels."""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Sequence
from datetime import UTC
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
import nh3
from pydantic import Field, StringConstraints
from starlette.responses import Response

from gateway import errors, models
from gateway.lifecycle import Gateway
from gateway.mail import parse
from gateway.models import Caller, Input, ListQuery, Output, Page, Time
from gateway.storage import messages
from gateway.web import api
from gateway.web.paths import Paths

DELETE_SLICE: Final = 500  # messages of one transaction
MAX_LABELS: Final = 50
_cursors: Final[models.Cursor[tuple[int]]] = models.Cursor(tuple[int])

Label = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]


class MessagesQuery(ListQuery):
    """Which messages."""

    seen: bool | None = Field(None, description="Only those that are seen, or only those that are not")


class MessageChanges(Input):
    """What is to change."""

    seen: bool | None = None
    labels: list[Label] | None = Field(None, max_length=MAX_LABELS)


class HtmlQuery(Input):
    """How the HTML is wanted."""

    sanitized: bool = Field(False, description="Without scripts, forms and anything loaded from elsewhere")


class NamedAddress(Output):
    """Somebody in a header field."""

    name: str | None
    address: str | None


class Code(Output):
    """A code that the message carries."""

    value: str
    confidence: float
    source: Literal["text", "html", "subject"]
    context: str


class Summary(Output):
    """A message as lists show it."""

    id: UUID
    mailbox_id: UUID
    seq: int = Field(description="Of its message.received, and so a cursor")
    sender: NamedAddress = Field(serialization_alias="from")
    to: list[NamedAddress]
    subject: str
    snippet: str
    received_at: Time
    size: int
    seen: bool
    labels: list[str]
    attachment_count: int
    codes: list[Code]
    thread_id: UUID


class Attachment(Output):
    """A part that is no body."""

    index: int
    filename: str | None
    content_type: str
    size: int
    content_id: str | None
    disposition: str
    sha256: str


class Link(Output):
    """A link that the message carries."""

    url: str
    text: str
    kind: Literal["verify", "login", "reset", "invite", "unsubscribe", "other"]


class Envelope(Output):
    """What was said over SMTP."""

    mail_from: str = Field(description="Empty for the null reverse path")
    rcpt_to: list[str] = Field(description="Those that lead to this mailbox")
    helo: str
    remote_ip: str
    tls: bool
    receipt_id: UUID


class Auth(Output):
    """What the sender could prove; null = not judged."""

    spf: str | None
    dkim: str | None
    dmarc: str | None


class Message(Summary):
    """A whole message."""

    cc: list[NamedAddress]
    reply_to: list[NamedAddress]
    message_id: str | None = Field(description="The RFC 5322 header, which senders may repeat")
    in_reply_to: str | None
    references: list[str]
    date: Time | None
    envelope: Envelope
    headers: list[tuple[str, str]]
    text: str | None
    html: str | None
    attachments: list[Attachment]
    links: list[Link]
    auth: Auth
    tag: str | None
    parse: Literal["ok", "repaired", "raw_only"]
    warnings: list[str]


async def full(gateway: Gateway, message: messages.Message, raw: bytes) -> dict[str, Any]:
    """The whole message, as Message says, ready for msgspec."""
    parsed = await gateway.parsing.read(raw)
    return {
        **message.summary(),
        "cc": _people(parsed.cc),
        "reply_to": _people(parsed.reply_to),
        "message_id": parsed.message_id,
        "in_reply_to": parsed.in_reply_to,
        "references": parsed.references,
        "date": parsed.date.astimezone(UTC) if parsed.date else None,
        "envelope": message.envelope,
        "headers": parsed.headers,
        "text": parsed.text,
        "html": parsed.html,
        "attachments": parsed.attachments,
        "links": message.links,
        "auth": {"spf": None, "dkim": None, "dmarc": None, **message.auth},
        "tag": message.tag,
        "parse": message.parse,
        "warnings": message.warnings,
    }


def _people(people: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"name": person.name, "address": person.address} for person in people]


class Messages:
    """The operations."""

    def __init__(self, gateway: Gateway, paths: Paths) -> None:
        self._gateway = gateway
        self._paths = paths

    def operations(self) -> Sequence[api.Operation]:
        reading: dict[str, Any] = {"scope": {"mailboxes", "read"}, "tags": ["Messages"], "mailbox_token": True}
        changing: dict[str, Any] = {"scope": "mailboxes", "tags": ["Messages"], "mailbox_token": True}
        return [
            api.op("GET", "/mailboxes/{mailbox}/messages", self.of_mailbox, returns=Page[Summary], **reading),
            api.op("DELETE", "/mailboxes/{mailbox}/messages", self.empty, **changing),
            api.op("GET", "/messages", self.of_account, returns=Page[Summary], **{**reading, "mailbox_token": False}),
            api.op("GET", "/messages/{id}", self.get, returns=Message, **reading),
            api.op("PATCH", "/messages/{id}", self.change, returns=Message, **changing),
            api.op("DELETE", "/messages/{id}", self.delete, **changing),
            api.op("GET", "/messages/{id}/raw", self.raw, produces="message/rfc822", **reading),
            api.op("GET", "/messages/{id}/text", self.text, produces="text/plain", **reading),
            api.op("GET", "/messages/{id}/html", self.html, produces="text/html", **reading),
            api.op(
                "GET",
                "/messages/{id}/attachments/{index}",
                self.attachment,
                produces="application/octet-stream",
                **reading,
            ),
        ]

    async def of_mailbox(self, caller: Caller, mailbox: str, query: MessagesQuery) -> Response:
        """A mailbox's messages, newest first."""
        box = await self._paths.mailbox(caller, mailbox)
        return await self._list(caller.account_id, box.id, query)

    async def of_account(self, caller: Caller, query: MessagesQuery) -> Response:
        """All messages of the account, newest first."""
        return await self._list(caller.account_id, None, query)

    async def _list(self, account_id: UUID, mailbox_id: UUID | None, query: MessagesQuery) -> Response:
        async with self._gateway.database.connection() as connection:
            found = await messages.page(
                connection,
                account_id,
                mailbox_id=mailbox_id,
                after=_cursors.decode(query.cursor)[0] if query.cursor else None,
                limit=query.limit + 1,
                ascending=query.order == "asc",
                seen=query.seen,
            )
        shown = found[: query.limit]
        has_more = len(found) > query.limit
        body = {
            "object": "list",
            "data": [message.summary() for message in shown],
            "has_more": has_more,
            "next_cursor": _cursors.encode((shown[-1].seq,)) if has_more else None,
        }
        return _json(body)

    async def empty(self, caller: Caller, mailbox: str) -> None:
        """Delete all messages of a mailbox."""
        box = await self._paths.mailbox(caller, mailbox)
        while True:
            async with self._gateway.database.transaction() as connection:
                ids = await messages.slice_of(connection, caller.account_id, box.id, DELETE_SLICE)
                await messages.delete(connection, caller.account_id, ids)
            self._gateway.tell([caller.account_id])
            if len(ids) < DELETE_SLICE:
                return

    async def get(self, caller: Caller, id: UUID) -> Response:
        """The whole message."""
        message, raw = await self._find(caller, id)
        return _json(await full(self._gateway, message, raw))

    async def change(self, caller: Caller, id: UUID, body: MessageChanges) -> Response:
        """Mark it seen or not, or label it."""
        given = {"seen": body.seen, "labels": body.labels}
        changes = {name: value for name, value in given.items() if value is not None}
        if changes:
            async with self._gateway.database.transaction() as connection:
                await messages.change(connection, caller.account_id, id, changes=changes, mailbox_id=caller.mailbox_id)
            self._gateway.tell([caller.account_id])
        return await self.get(caller, id)

    async def delete(self, caller: Caller, id: UUID) -> None:
        """Delete it, and what events told of it."""
        async with self._gateway.database.transaction() as connection:
            if await messages.summary(connection, caller.account_id, id, caller.mailbox_id) is None:
                raise errors.NotFound
            if not await messages.delete(connection, caller.account_id, [id]):
                raise errors.NotFound
        self._gateway.tell([caller.account_id])

    async def raw(self, caller: Caller, id: UUID) -> Response:
        """What came over the wire, byte for byte (dots unstuffed)."""
        _, raw = await self._find(caller, id)
        return download(raw, "message/rfc822", f"{id}.eml")

    async def text(self, caller: Caller, id: UUID) -> Response:
        """The text body."""
        _, raw = await self._find(caller, id)
        parsed = await self._gateway.parsing.read(raw)
        if parsed.text is None:
            raise errors.NotFound("The message has no text body.")
        return Response(parsed.text, media_type="text/plain")

    async def html(self, caller: Caller, id: UUID, query: HtmlQuery) -> Response:
        """The HTML body, as sent or made harmless."""
        _, raw = await self._find(caller, id)
        parsed = await self._gateway.parsing.read(raw)
        if parsed.html is None:
            raise errors.NotFound("The message has no HTML body.")
        html = (
            nh3.clean(parsed.html, url_schemes={"http", "https", "mailto"}, tags=_TAGS)
            if query.sanitized
            else parsed.html
        )
        return Response(html, media_type="text/html", headers={"content-security-policy": _NOTHING_RUNS})

    async def attachment(self, caller: Caller, id: UUID, index: int) -> Response:
        """A part, as a download."""
        _, raw = await self._find(caller, id)
        try:
            found, content = await asyncio.to_thread(parse.attachment, raw, index)  # slow where the mail is odd
        except IndexError:
            raise errors.NotFound from None
        return download(content, "application/octet-stream", found.filename or f"attachment-{index}")

    async def _find(self, caller: Caller, message_id: UUID) -> tuple[messages.Message, bytes]:
        async with self._gateway.database.connection() as connection:
            found = await messages.get(connection, caller.account_id, message_id, caller.mailbox_id)
        if found is None:
            raise errors.NotFound
        return found


# Whatever a browser is shown of a stranger's HTML can neither run nor load anything.
_NOTHING_RUNS: Final = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_TAGS: Final = nh3.ALLOWED_TAGS - {"img"}  # images are loaded from elsewhere, and tell who read the mail


def _json(body: Any) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")


def download(content: bytes, media_type: str, filename: str) -> Response:
    """A stranger's bytes: to be saved, never shown in place, under a name that is only a label (RFC 6266, 8187)."""
    ascii_name = "".join(c if c.isascii() and (c.isalnum() or c in "._- ") else "_" for c in filename)[:100]
    quoted = urllib.parse.quote(filename.replace("/", "_").replace("\\", "_"), safe="")
    disposition = f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quoted}"
    headers = {"content-disposition": disposition, "content-security-policy": "sandbox; default-src 'none'"}
    return Response(content, media_type=media_type, headers=headers)
