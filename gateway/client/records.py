"""What answers hold, as frozen dataclasses; and what an e-mail to be sent may hold.

Times are datetimes in UTC, ids are strings, sizes bytes, durations seconds. `read` makes a record of JSON: members that
a record does not know (a newer server's) are left out, missing ones have their defaults.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import mimetypes
import os
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar

from . import errors

R = TypeVar("R")
LinkKind = Literal["verify", "login", "reset", "invite", "unsubscribe", "other"]
Json = Mapping[str, Any]


# Mail that came


@dataclass(frozen=True, kw_only=True)
class Address:
    """Somebody in a header field; `str()` of it is "Name <address>"."""

    name: str | None = None
    address: str | None = None

    def __str__(self) -> str:
        if self.name and self.address:
            return f"{self.name} <{self.address}>"
        return self.address or self.name or ""


@dataclass(frozen=True, kw_only=True)
class Code:
    """A code that a message carries."""

    value: str
    confidence: float = 0.0  # 0 … 1
    source: str = ""  # text, html or subject
    context: str = ""  # the words around it


@dataclass(frozen=True, kw_only=True)
class Link:
    """A link that a message carries."""

    url: str
    text: str = ""  # what stands where one clicks
    kind: str = "other"  # LinkKind, or what a newer server tells apart


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """A part that is no body; `message.download(attachment)` gets its bytes."""

    index: int
    filename: str | None = None
    content_type: str = "application/octet-stream"
    size: int = 0
    content_id: str | None = None
    disposition: str = "attachment"
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What was said over SMTP."""

    mail_from: str = ""  # empty = the null reverse path
    rcpt_to: tuple[str, ...] = ()  # those that lead to this mailbox
    helo: str = ""
    remote_ip: str = ""
    tls: bool = False
    receipt_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Auth:
    """What the sender could prove; None = not judged."""

    spf: str | None = None
    dkim: str | None = None
    dmarc: str | None = None
    arc: str | None = None
    details: Json = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A message as lists show it."""

    id: str
    mailbox_id: str = ""
    seq: int = 0  # of its message.received event, and so a cursor
    from_: Address = Address()
    to: tuple[Address, ...] = ()
    subject: str = ""
    snippet: str = ""  # the text's beginning
    received_at: datetime | None = None
    size: int = 0
    seen: bool = False
    labels: tuple[str, ...] = ()
    attachment_count: int = 0
    codes: tuple[Code, ...] = ()
    thread_id: str = ""

    @property
    def code(self) -> str:
        """The code in it that is surest to be one. Raises NoCode."""
        if not self.codes:
            raise errors.NoCode(f"no code in {self.subject!r} from {self.from_}: {self.snippet!r}")
        return max(self.codes, key=lambda code: code.confidence).value


@dataclass(frozen=True, kw_only=True)
class Message(Summary):
    """A whole message."""

    cc: tuple[Address, ...] = ()
    reply_to: tuple[Address, ...] = ()
    message_id: str | None = None  # the RFC 5322 header, which senders may repeat; `id` is ours
    in_reply_to: str | None = None
    references: tuple[str, ...] = ()
    date: datetime | None = None
    envelope: Envelope = Envelope()
    headers: tuple[tuple[str, str], ...] = ()  # in their order
    text: str | None = None
    html: str | None = None
    attachments: tuple[Attachment, ...] = ()
    links: tuple[Link, ...] = ()
    auth: Auth = Auth()
    tag: str | None = None  # what stood behind the + in the address
    parse: str = "ok"  # ok, repaired or raw_only
    warnings: tuple[str, ...] = ()
    waited_link: str | None = field(default=None, repr=False)  # the link that a wait of this kind was for

    @property
    def link(self) -> str:
        """The link that was waited for; else the first one that does something. Raises NoLink."""
        if self.waited_link is not None:
            return self.waited_link
        return self.link_of()

    def link_of(self, kind: LinkKind | None = None) -> str:
        """The first link of this kind; of any kind, one that does something before `other` and `unsubscribe`."""
        found = sorted(
            (link for link in self.links if kind in {None, link.kind}),
            key=lambda link: link.kind in {"other", "unsubscribe"},
        )
        if not found:
            there = ", ".join(f"{link.kind} {link.url}" for link in self.links[:10]) or "none at all"
            raise errors.NoLink(
                f"no link{f' of kind {kind!r}' if kind else ''} in {self.subject!r} from {self.from_}; it has: {there}"
            )
        return found[0].url

    def header(self, name: str) -> str | None:
        """The first header field of this name, in any case; None = there is none."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)


@dataclass(frozen=True, kw_only=True)
class Mailbox:
    """A mailbox."""

    id: str
    address: str
    status: str = "active"  # or expired
    created_at: datetime | None = None
    expires_at: datetime | None = None  # None = never
    message_count: int = 0
    metadata: Json = field(default_factory=dict, hash=False)
    sender_policy: str = "accept"
    cursor: str = "0"  # where its events begin
    token: str | None = field(default=None, repr=False)  # reaches this mailbox alone; only told when it is made


# Mail that goes


class Tag(TypedDict):
    """A word about an e-mail, to find it by."""

    name: str
    value: str


@dataclass(frozen=True, kw_only=True)
class File:
    """An attachment of bytes. Where it is a path, the path itself is enough."""

    filename: str
    content: bytes = field(repr=False)
    content_type: str | None = None  # None = by the name's ending
    content_id: str | None = None  # by which the HTML names a picture: <img src="cid:…">


class _Needed(TypedDict):
    from_: str  # "shop@example.com" or "Shop <shop@example.com>"
    to: str | Sequence[str]


class NewEmail(_Needed, total=False):
    """An e-mail to be sent: what POST /v1/emails takes, `from` spelled `from_`."""

    subject: str
    text: str  # without it one is made of the HTML
    html: str
    cc: str | Sequence[str]
    bcc: str | Sequence[str]
    reply_to: str | Sequence[str]
    headers: Mapping[str, str]
    attachments: Sequence[File | os.PathLike[str] | str]  # paths, or bytes as `File`
    tags: Sequence[Tag] | Mapping[str, str]
    metadata: Json
    scheduled_at: datetime | str  # a datetime with a zone, RFC 3339, or "in 10 min"
    expires_in: int  # seconds from when it is due
    template: str  # its id, instead of text and html
    variables: Json  # of the template
    on_unknown: Literal["retry", "hold"]
    on_suppressed: Literal["skip", "reject"]
    unsubscribe: Mapping[str, str]  # {} or {"topic": "newsletter"}


class Answer(TypedDict, total=False):
    """What a reply or a forward may say."""

    text: str
    html: str
    attachments: Sequence[File | os.PathLike[str] | str]


@dataclass(frozen=True, kw_only=True)
class Sent:
    """An e-mail that is committed and will be sent."""

    id: str
    status: str = "queued"  # or scheduled


@dataclass(frozen=True, kw_only=True)
class Recipient:
    """One recipient and what became of it."""

    address: str
    kind: str = "to"  # to, cc or bcc
    status: str = "queued"
    attempts: int = 0
    next_attempt_at: datetime | None = None
    provider: str | None = None
    provider_id: str | None = None
    reply: str | None = None  # what the peer said last


@dataclass(frozen=True, kw_only=True)
class Email:
    """What was sent, and what became of it; from a list, without text, html, headers and attachments."""

    id: str
    from_: str = ""
    to: tuple[str, ...] = ()
    cc: tuple[str, ...] = ()
    bcc: tuple[str, ...] = ()
    reply_to: tuple[str, ...] = ()
    subject: str = ""
    status: str = "queued"  # its lowest unfinished recipient's, else the highest
    last_event: str = ""
    message_id: str = ""
    tags: tuple[Json, ...] = field(default=(), hash=False)
    metadata: Json = field(default_factory=dict, hash=False)
    size: int = 0
    created_at: datetime | None = None
    scheduled_at: datetime | None = None
    expires_at: datetime | None = None
    recipients: tuple[Recipient, ...] = ()
    text: str | None = None
    html: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt at one recipient."""

    id: str
    recipient: str = ""
    number: int = 0
    provider: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    outcome: str = ""
    code: int | None = None
    reply: str = ""
    transcript: tuple[str, ...] = ()  # "C: …" and "S: …", without secrets
    is_stale: bool = False


@dataclass(frozen=True, kw_only=True)
class BatchProblem:
    """One e-mail of a permissive batch that was not taken."""

    index: int
    message: str


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What was taken, in order, and what was not."""

    ids: tuple[str, ...]
    errors: tuple[BatchProblem, ...] = ()


# The log


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened."""

    id: str
    seq: int = 0
    cursor: str = "0"  # give it as `after` to go on behind this event
    type: str = ""  # message.received, email.bounced …
    created_at: datetime | None = None
    mailbox_id: str | None = None
    email_id: str | None = None
    message_id: str | None = None
    data: Json = field(default_factory=dict, hash=False)  # as the contract says for each type


# The rest of an account


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """Who is told."""

    id: str
    url: str = ""
    types: tuple[str, ...] = ()
    mailbox_id: str | None = None
    status: str = "active"  # or disabled
    disabled_reason: str | None = None
    failing_since: datetime | None = None
    created_at: datetime | None = None
    ordered: bool = False
    secret: str | None = field(default=None, repr=False)  # only told when it is made or rotated


@dataclass(frozen=True, kw_only=True)
class WebhookAttempt:
    """One attempt to tell."""

    number: int
    started_at: datetime | None = None
    latency_ms: int = 0
    status: int | None = None  # of HTTP; None = no answer
    answer: str = ""  # its first 1 KiB
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class WebhookDelivery:
    """One event for one webhook; its id is the webhook-id under which it is told."""

    id: str
    event_type: str = ""
    seq: int = 0
    status: str = "pending"  # delivered or dead
    created_at: datetime | None = None
    next_attempt_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: tuple[WebhookAttempt, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DnsRecord:
    """A record that should stand in a domain's DNS."""

    type: str
    name: str
    value: str
    priority: int | None = None
    purpose: str = ""
    required: bool = False
    state: str = "unknown"  # missing, ok, wrong, unknown
    found: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A domain that the account has claimed."""

    name: str
    status: str = "pending"  # verified or failed
    wildcard: bool = False
    catch_all: str | None = None  # a mailbox's id
    unknown_recipients: str = "drop"
    created_at: datetime | None = None
    verified_at: datetime | None = None
    checked_at: datetime | None = None
    records: tuple[DnsRecord, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Key:
    """An API key's description."""

    id: str
    name: str = ""
    scopes: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    expires_at: datetime | None = None
    created_at: datetime | None = None
    last_used_at: datetime | None = None
    key: str | None = field(default=None, repr=False)  # the key itself; only told when it is made


@dataclass(frozen=True, kw_only=True)
class Suppression:
    """An address that is not written to."""

    address: str
    reason: str = "manual"
    expires_at: datetime | None = None
    created_at: datetime | None = None
    scope: str = ""


@dataclass(frozen=True, kw_only=True)
class Template:
    """Mail that is written once and filled in for each e-mail."""

    id: str
    name: str = ""
    subject: str = ""
    html: str | None = None
    text: str | None = None
    variables: Json = field(default_factory=dict, hash=False)
    created_at: datetime | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What an e-mail made of a template would say."""

    subject: str = ""
    html: str | None = None
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Seconds within which that share had been handed over; None = nothing was taken."""

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None


@dataclass(frozen=True, kw_only=True)
class Statistic:
    """What became of the mail of one interval and group; counts are of recipients."""

    from_: datetime | None = None
    until: datetime | None = None
    group: str | None = None
    accepted: int = 0
    sent: int = 0
    delivered: int = 0
    deferred: int = 0
    bounced: int = 0
    failed: int = 0
    suppressed: int = 0
    complained: int = 0
    opened: int = 0
    clicked: int = 0
    unknown: int = 0
    delivery_rate: float | None = None
    bounce_rate: float | None = None
    complaint_rate: float | None = None
    latency_seconds: Latency = Latency()


@dataclass(frozen=True, kw_only=True)
class Page(typing.Generic[R]):
    """One page of a list."""

    data: tuple[R, ...]
    next_cursor: str | None = None  # None = it is the last one


# Reading JSON


def read(record: type[R], found: Json) -> R:
    """The record that a JSON object holds."""
    values = {}
    for name, of in _fields(record).items():  # type: ignore[arg-type] # a class is hashable
        key = name.removesuffix("_")
        if key in found:
            values[name] = _value(of, found[key])
    return record(**values)


@functools.cache
def _fields(record: type[Any]) -> Mapping[str, Any]:
    hints = typing.get_type_hints(record)
    return {one.name: hints[one.name] for one in dataclasses.fields(record)}


def _value(of: Any, found: Any) -> Any:
    """A member as its field's type has it."""
    if found is None:
        return None
    origin, arguments = typing.get_origin(of), typing.get_args(of)
    if origin in {types.UnionType, typing.Union}:
        return _value(next(one for one in arguments if one is not types.NoneType), found)
    if origin is tuple:
        kinds = arguments[:1] * len(found) if arguments[-1] is Ellipsis else arguments
        return tuple(_value(kind, one) for kind, one in zip(kinds, found, strict=False))
    if of is datetime:
        return datetime.fromisoformat(found)
    return read(of, found) if dataclasses.is_dataclass(of) and isinstance(of, type) else found


# Writing it


def email_body(email: Mapping[str, Any]) -> dict[str, Any]:
    """A NewEmail as JSON says it. Reads files that are given by their paths."""
    body = {name.removesuffix("_"): value for name, value in email.items() if value is not None}
    if "attachments" in body:
        body["attachments"] = [attachment_body(one) for one in body["attachments"]]
    if isinstance(tags := body.get("tags"), Mapping):
        body["tags"] = [{"name": name, "value": value} for name, value in tags.items()]
    if isinstance(at := body.get("scheduled_at"), datetime):
        body["scheduled_at"] = time_text(at)
    variables = body.pop("variables", {})
    if "template" in body:
        body["template"] = {"id": body["template"], "variables": variables}
    return body


def attachment_body(given: File | os.PathLike[str] | str) -> dict[str, str]:
    """A file as JSON says it."""
    if not isinstance(given, File):
        path = Path(given)
        given = File(filename=path.name, content=path.read_bytes(), content_type=mimetypes.guess_type(path.name)[0])
    body = {"filename": given.filename, "content": base64.b64encode(given.content).decode()}
    optional = {"content_type": given.content_type, "content_id": given.content_id}
    return {**body, **{name: value for name, value in optional.items() if value is not None}}


def time_text(at: datetime | str) -> str:
    """RFC 3339. ValueError for a datetime without a zone: nobody knows which moment it means."""
    if isinstance(at, str):
        return at
    if at.tzinfo is None:
        raise ValueError(f"{at!r} has no time zone: say which one, as datetime.now(timezone.utc) does")
    return at.isoformat()
