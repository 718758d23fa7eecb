"""A message as its author's program submits it: read for what it asks of us, and completed without being rewritten.

Taken out are fields that no recipient may see: blind copies, a return path, and what is said to the gateway alone,
which must be something that it understands, for nobody would notice a misspelt wish. Added are Message-ID and Date
where they are missing (RFC 6409 8.3 and 8.4). All else stays, octet for octet, but for line ends: bare CR and LF become
CRLF first, so that what is looked at here is what every later reader sees.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import email.utils
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.mail import address, header
from gateway.mail.address import Mailbox

MAX_SUBJECT = 20_000  # characters that are kept beside the message
_MAX_SENDER = 2000  # characters of a From or Sender field
_MAX_ID = 900  # characters of a Message-ID

TAG: Final = "x-postroom-tag"
METADATA: Final = "x-postroom-metadata"
IDEMPOTENCY_KEY: Final = "x-postroom-idempotency-key"
UNSUBSCRIBE: Final = "x-postroom-unsubscribe"
SCHEDULED_AT: Final = "x-postroom-scheduled-at"
EXPIRES_IN: Final = "x-postroom-expires-in"
ON_UNKNOWN: Final = "x-postroom-on-unknown"
ON_SUPPRESSED: Final = "x-postroom-on-suppressed"
WISHES: Final = (TAG, METADATA, IDEMPOTENCY_KEY, SCHEDULED_AT, EXPIRES_IN, ON_UNKNOWN, ON_SUPPRESSED, UNSUBSCRIBE)
_TO_GATEWAY: Final = "x-postroom-"
_TAKEN_OUT: Final = frozenset(("bcc", "resent-bcc", "return-path", *WISHES))
_MAX_NAME: Final = 60  # characters of a field's name that are repeated

_LINE_END = re.compile(rb"\r\n|\r|\n")
_NEXT_FIELD = re.compile(rb"\r\n(?![ \t])")  # RFC 5322 2.2.3: a line that starts with white space goes on
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029]")


class Unusable(ValueError):
    """The message cannot be sent; the text says why, for a person, and quotes none of it."""


class GoesInCircles(Unusable):
    """It has been through too many hosts already."""


class UnknownWish(Unusable):
    """It asks for something that there is not; the text names the field, and those that there are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """What the message says, and what will be sent."""

    raw: bytes  # as it goes out: CRLF line ends, complete, without the fields that were taken out
    from_: Mailbox
    sender: Mailbox | None  # of the Sender field; None = there is none
    to: tuple[Mailbox, ...]  # like the next two, those of the header that are valid; their names decoded
    cc: tuple[Mailbox, ...]
    reply_to: tuple[Mailbox, ...]
    subject: str  # decoded, one line; may be empty
    message_id: str  # without brackets
    tags: tuple[str, ...]  # values of X-Postroom-Tag
    metadata: str | None  # value of X-Postroom-Metadata
    idempotency_key: str | None  # value of X-Postroom-Idempotency-Key
    unsubscribe: str | None  # value of X-Postroom-Unsubscribe; then there is no List-Unsubscribe field
    scheduled_at: str | None  # value of X-Postroom-Scheduled-At, and so on
    expires_in: str | None
    on_unknown: str | None
    on_suppressed: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Field:
    name: str  # lower-case
    value: str  # unfolded, undecoded; may be empty
    octets: bytes  # as it stands, folds and all, without the last line end


def read(raw: bytes, *, name: str, now: dt.datetime) -> Submitted:
    """Read and complete a message. `name` is its id, the local part of a Message-ID that it lacks. Raises Unusable."""
    if b"\0" in raw:  # RFC 2045 2.8: not even in 8-bit data
        raise Unusable("the message holds a NUL")
    block, body = _parted(_with_crlf(raw))
    fields = _fields(block)
    if sum(field.name == "received" for field in fields) > header.MAX_HOPS:  # RFC 5321 6.3
        raise GoesInCircles(f"it has more than {header.MAX_HOPS} Received fields")
    _check_wishes(fields)
    from_ = _mailbox(fields, "from")
    if from_ is None:
        raise Unusable("it has no From field")
    message_id = _message_id(fields)
    added = []
    if message_id is None:
        message_id = f"{name}@{from_.address.ascii_domain}"
        added.append(f"Message-ID: <{message_id}>".encode())
    if not any(field.name == "date" and field.value for field in fields):
        added.append(f"Date: {email.utils.format_datetime(now)}".encode())
    return Submitted(
        raw=b"\r\n".join([*(field.octets for field in fields if _stays(field)), *added, b"", body]),
        from_=from_,
        sender=_mailbox(fields, "sender"),
        to=_mailboxes(fields, "to"),
        cc=_mailboxes(fields, "cc"),
        reply_to=_mailboxes(fields, "reply-to"),
        subject=header.decode(next(_values(fields, "subject"), ""))[:MAX_SUBJECT],
        message_id=message_id,
        tags=tuple(header.decode(value) for value in _values(fields, TAG)),
        metadata=_single(fields, METADATA),
        idempotency_key=_single(fields, IDEMPOTENCY_KEY),
        unsubscribe=_unsubscribe(fields),
        scheduled_at=_single(fields, SCHEDULED_AT),
        expires_in=_single(fields, EXPIRES_IN),
        on_unknown=_single(fields, ON_UNKNOWN),
        on_suppressed=_single(fields, ON_SUPPRESSED),
    )


def _with_crlf(raw: bytes) -> bytes:
    pairs = raw.count(b"\r\n")
    if raw.count(b"\r") == pairs == raw.count(b"\n"):
        return raw
    return _LINE_END.sub(b"\r\n", raw)


def _parted(raw: bytes) -> tuple[bytes, bytes]:
    """Header block, without its last line end, and body."""
    if raw.startswith(b"\r\n"):
        raise Unusable("it has no header")
    block, _, body = raw.partition(b"\r\n\r\n")
    return block.removesuffix(b"\r\n"), body


def _fields(block: bytes) -> list[_Field]:
    """Every field. Refused is what two readers might take for different fields."""
    head = header.scan(block)
    if not head.complete:
        raise Unusable("its header is too long")
    try:
        text = block.decode()
    except UnicodeDecodeError:
        raise Unusable("its header is neither ASCII nor UTF-8") from None
    if _CONTROLS.search(text):
        raise Unusable("its header holds a control character")
    octets = _NEXT_FIELD.split(block)
    if head.malformed or len(octets) != len(head.fields):
        raise Unusable("its header has a line that is no field")
    pairs = zip(head.fields, octets, strict=True)
    return [_Field(name=name.lower(), value=value, octets=whole) for (name, value), whole in pairs]


def _check_wishes(fields: Sequence[_Field]) -> None:
    for field in fields:
        if field.name.startswith(_TO_GATEWAY) and field.name not in WISHES:
            known = ", ".join(wish.title() for wish in WISHES)
            raise UnknownWish(f"there is no field {field.name.title()[:_MAX_NAME]}; there are {known}")


def _stays(field: _Field) -> bool:
    if field.name in {"message-id", "date"}:
        return bool(field.value)  # an empty one is as good as missing
    return field.name not in _TAKEN_OUT


def _values(fields: Sequence[_Field], name: str) -> Iterator[str]:
    return (field.value for field in fields if field.name == name)


def _single(fields: Sequence[_Field], name: str) -> str | None:
    """The decoded value of a field that may stand there once."""
    values = list(_values(fields, name))
    if len(values) > 1:
        raise Unusable(f"it has more than one {name.title()} field")
    return header.decode(values[0]) if values else None


def _unsubscribe(fields: Sequence[_Field]) -> str | None:
    """What is asked of us; a reader who is told of two ways to unsubscribe may take the wrong one."""
    asked = _single(fields, UNSUBSCRIBE)
    if asked is not None and any(field.name in {"list-unsubscribe", "list-unsubscribe-post"} for field in fields):
        raise Unusable("it has both an X-Postroom-Unsubscribe and a List-Unsubscribe field")
    return asked


def _mailbox(fields: Sequence[_Field], name: str) -> Mailbox | None:
    """The one mailbox of a field that says who sends; None where there is no such field.

    Two readers must find the same one: who sends is what keys are limited by.
    """
    values = list(_values(fields, name))
    if not values:
        return None
    if len(values) == 1 and len(values[0]) <= _MAX_SENDER:
        found, again = header.addresses(values[0]), email.utils.getaddresses(values)
        if len(found) == len(again) == 1 and found[0].address == again[0][1]:
            with contextlib.suppress(address.InvalidAddress):
                return Mailbox(name=found[0].name, address=address.parse(found[0].address))
    raise Unusable(f"exactly one {name.title()} field with exactly one valid address is wanted")


def _mailboxes(fields: Sequence[_Field], name: str) -> tuple[Mailbox, ...]:
    found: list[Mailbox] = []
    for value in _values(fields, name):
        for one in header.addresses(value):
            with contextlib.suppress(address.InvalidAddress):
                found.append(Mailbox(name=one.name, address=address.parse(one.address)))
    return tuple(found)


def _message_id(fields: Sequence[_Field]) -> str | None:
    """What the author's program wrote, brackets off; None where it wrote none."""
    value = next((value for value in _values(fields, "message-id") if value), None)
    if value is None:
        return None
    ids = header.ids(value)
    return (ids[0].strip("<>") if ids else header.decode(value))[:_MAX_ID]
