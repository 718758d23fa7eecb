"""/v1/messages, and the messages of a mailbox: lists, the whole message, its raw bytes and parts, seen and labels."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from pydantic import Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from gateway import errors, models
from gateway.lifecycle import Gateway
from gateway.mail import query, sanitize
from gateway.mail.auth import results
from gateway.models import Caller, Input, ListQuery, Output, Page, Time
from gateway.storage import messages, search
from gateway.web import api, parts
from gateway.web.paths import Paths

DELETE_SLICE: Final = 500  # messages of one transaction
MAX_LABELS: Final = 50
NO_HTML: Final = "The message has no HTML body."
_cursors: Final[models.Cursor[tuple[int]]] = models.Cursor(tuple[int])

Label = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")
]


class MessagesQuery(ListQuery):
    """Which messages."""

    seen: bool | None = Field(None, description="Only those that are seen, or only those that are not")
    q: str | None = Field(
        None,
        max_length=query.MAX_LENGTH,
        description="""Words and "phrases", from: to: subject: tag: label: has:attachment is:seen is:unseen """
        "before: after: larger: smaller:, each negated by a - in front; all of them must be true",
    )
    thread: UUID | None = Field(None, description="Only those of this conversation: a message's thread_id")

    def wanted(self) -> query.Query | None:
        """What is searched for; None = nothing: a plain list. Raises ValidationFailed."""
        asked = self.thread or self.since or self.until
        if asked is None and not (self.q and self.q.strip()):
            return None
        own = query.Filters(seen=self.seen, since=self.since, until=self.until)
        try:
            return query.also(query.parse(self.q or ""), own, thread=self.thread)
        except query.InvalidQuery as error:
            raise errors.invalid("q", str(error)) from None


class MessageChanges(Input):
    """What is to change."""

    seen: bool | None = None
    labels: list[Label] | None = Field(None, max_length=MAX_LABELS, description="Instead of those it has")


class HtmlQuery(Input):
    """How the HTML is wanted."""

    sanitized: bool = Field(
        False, description="Nothing runs and nothing is loaded from elsewhere; pictures that came along are shown"
    )
    remote: bool = Field(
        False,
        description="With `sanitized`: pictures of other hosts, too, which tells those that, and where, it is read",
    )


class AttachmentQuery(Input):
    """How the attachment is wanted."""

    inline: bool = Field(False, description="Shown in its place, where it is a PNG, JPEG, GIF or WebP picture")


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
    session_id: str | None = Field(None, description="Of the SMTP session, as the operator's log names it")


class Auth(Output):
    """What the sender could prove; null = not judged."""

    spf: str | None
    dkim: str | None
    dmarc: str | None
    arc: str | None = Field(description="Of those who passed it on")
    details: dict[str, Any] = Field(description="What the words come from, for people: domains, selectors, reasons")


class Transcript(Output):
    """The SMTP dialogue that a message came by, as far as it is this mailbox's business."""

    object: Literal["transcript"] = "transcript"
    lines: list[str] = Field(description='"C: …" and "S: …"; none where the message came another way')


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
    authentication_results: str | None = Field(description="The same as one header field's value (RFC 8601)")
    tag: str | None
    parse: Literal["ok", "repaired", "raw_only"]
    warnings: list[str]


def behind(seq: int) -> str:
    """The lists' cursor behind the message of this number, in either order."""
    return _cursors.encode((seq,))


async def full(gateway: Gateway, message: messages.Message, raw: bytes) -> dict[str, Any]:
    """The whole message, as Message says, ready for msgspec."""
    shown = await gateway.parsing.shown(raw)
    parsed = shown.parsed
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
        "text": msgspec.Raw(shown.text),
        "html": msgspec.Raw(shown.html),
        "attachments": parsed.attachments,
        "links": message.links,
        "auth": {"spf": None, "dkim": None, "dmarc": None, "arc": None, "details": {}, **message.auth},
        "authentication_results": results.value(
            gateway.settings.hostname, message.auth, message.mail_from, message.envelope.get("helo", "")
        ),
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
                produces=parts.OPAQUE,
                **reading,
            ),
            api.op("GET", "/messages/{id}/transcript", self.transcript, **reading),
        ]

    async def of_mailbox(self, caller: Caller, mailbox: str, query: MessagesQuery) -> Response:
        """A mailbox's messages, newest first."""
        box = await self._paths.mailbox(caller, mailbox)
        return await self._list(caller.account_id, box.id, query)

    async def of_account(self, caller: Caller, query: MessagesQuery) -> Response:
        """All messages of the account, newest first."""
        return await self._list(caller.account_id, None, query)

    async def _list(self, account_id: UUID, mailbox_id: UUID | None, asked: MessagesQuery) -> Response:
        after = _cursors.decode(asked.cursor)[0] if asked.cursor else None
        wanted = asked.wanted()
        if wanted is not None:
            return await self._search(account_id, mailbox_id, asked, wanted, after)
        async with self._gateway.database.connection() as connection:
            found = await messages.page(
                connection,
                account_id,
                mailbox_id=mailbox_id,
                after=after,
                limit=asked.limit + 1,
                ascending=asked.order == "asc",
                seen=asked.seen,
            )
        shown = found[: asked.limit]
        return _listed(shown, shown[-1].seq if len(found) > asked.limit else None)

    async def _search(
        self, account_id: UUID, mailbox_id: UUID | None, asked: MessagesQuery, wanted: query.Query, after: int | None
    ) -> Response:
        async with self._gateway.database.transaction() as connection:
            found = await search.page(
                connection,
                account_id,
                wanted,
                mailbox_id=mailbox_id,
                after=after,
                limit=asked.limit,
                ascending=asked.order == "asc",
            )
        return _listed(found.messages, found.next_seq)

    async def empty(self, caller: Caller, mailbox: str) -> None:
        """Delete all messages of a mailbox."""
        box = await self._paths.mailbox(caller, mailbox)
        while True:
            async with self._gateway.database.transaction() as connection:
                ids, is_last = await messages.slice_of(connection, caller.account_id, box.id, DELETE_SLICE)
                await messages.delete(connection, caller.account_id, ids)
            self._gateway.tell([caller.account_id])
            if is_last:
                return

    async def get(self, caller: Caller, id: UUID) -> Response:
        """The whole message."""
        message, raw = await self._find(caller, id)
        return _json(await full(self._gateway, message, raw))

    async def change(self, caller: Caller, id: UUID, body: MessageChanges) -> Response:
        """Mark it seen or not, or label it."""
        given = {"seen": body.seen, "labels": None if body.labels is None else list(dict.fromkeys(body.labels))}
        changes = {name: value for name, value in given.items() if value is not None}
        if changes:
            async with self._gateway.database.transaction() as connection:
                told = await messages.change(
                    connection, caller.account_id, id, changes=changes, mailbox_id=caller.mailbox_id
                )
            if told:
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
        return parts.download(raw, "message/rfc822", f"{id}.eml")

    async def text(self, caller: Caller, id: UUID) -> Response:
        """The text body."""
        _, raw = await self._find(caller, id)
        text = await self._gateway.parsing.text(raw)
        if text is None:
            raise errors.NotFound("The message has no text body.")
        return Response(text, media_type="text/plain")

    async def html(self, caller: Caller, id: UUID, query: HtmlQuery) -> Response:
        """The HTML body, as sent or made harmless."""
        _, raw = await self._find(caller, id)
        return await html_of(self._gateway, raw, query)

    async def attachment(
        self, request: Request, caller: Caller, id: UUID, index: int, query: AttachmentQuery
    ) -> Response:
        """A part, as a download."""
        _, raw = await self._find(caller, id)
        try:
            cut = await self._gateway.parsing.attachment(raw, index)
        except IndexError:
            raise errors.NotFound from None
        if cut is None:
            raise errors.Unavailable("The attachment cannot be cut out now; /raw has all of it.", retry_after=2)
        found, content = cut
        etag = f'"{found.sha256}"'
        if etag in request.headers.get("if-none-match", ""):  # RFC 9110 13.1.2
            return Response(status_code=304, headers={"etag": etag})
        filename = found.filename or f"attachment-{index}"
        if query.inline:
            return parts.shown(content, filename, etag=etag)
        return parts.download(content, parts.OPAQUE, filename, etag=etag)

    async def transcript(self, caller: Caller, id: UUID) -> Transcript:
        """The SMTP dialogue that it came by."""
        async with self._gateway.database.connection() as connection:
            message = await messages.summary(connection, caller.account_id, id, caller.mailbox_id)
        if message is None:
            raise errors.NotFound
        last = [f"S: 250 2.0.0 queued as {message.envelope['receipt_id']}"] if message.transcript else []
        return Transcript(lines=[*message.transcript, *last])

    async def _find(self, caller: Caller, message_id: UUID) -> tuple[messages.Message, bytes]:
        async with self._gateway.database.connection() as connection:
            found = await messages.get(connection, caller.account_id, message_id, caller.mailbox_id)
        if found is None:
            raise errors.NotFound
        return found


async def html_of(gateway: Gateway, raw: bytes, query: HtmlQuery) -> Response:
    """The HTML body of a mail as an answer. Raises NotFound where it has none."""
    if not query.sanitized:
        found = await gateway.parsing.html(raw)
        if found is None:
            raise errors.NotFound(NO_HTML)
        return _page(found, parts.NO_LOADING)
    parsed = await gateway.parsing.front(raw)
    if parsed.html is None:
        raise errors.NotFound(NO_HTML)
    html = await gateway.cleaning.html(raw, "remote" if query.remote else "shown")
    if html is None:  # too large, or made to keep a parser busy
        html = sanitize.text_as_html((parsed.text or parsed.html)[: sanitize.MAX_HTML])
    return _page(html, parts.REMOTE_PICTURES if query.remote else parts.LINKS_LEAD_OUT)


def _page(html: str | bytes, policy: str) -> Response:
    return Response(html, media_type="text/html", headers={"content-security-policy": policy})


def _listed(shown: Sequence[messages.Message], next_seq: int | None) -> Response:
    body = {
        "object": "list",
        "data": [message.summary() for message in shown],
        "has_more": next_seq is not None,
        "next_cursor": None if next_seq is None else _cursors.encode((next_seq,)),
    }
    return _json(body)


def _json(body: Any) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
