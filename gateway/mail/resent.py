"""A composed message as it is sent anew: the same words to the same or other people, and yet another message.

Message-ID and Date are its own: under the old ones, servers that have the message already would drop the second as the
same, unseen. Where it goes to others, To names them instead, and Cc nobody. A signature over what changed would not
hold: DKIM-Signature goes, and the worker signs what leaves, as ever. All else stays, octet for octet.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import re
from collections.abc import Iterator, Sequence
from typing import Final

from gateway.mail import compose, header
from gateway.mail.address import Mailbox

_NEXT_FIELD: Final = re.compile(rb"\r\n(?![ \t])")  # RFC 5322 2.2.3: a line that starts with white space goes on


def written(raw: bytes, *, message_id: str, date: dt.datetime, to: Sequence[Mailbox] | None = None) -> bytes:
    """`raw` under another Message-ID (in brackets) and Date; `to`: its new recipients, None = as it was.

    Raises compose.ComposeMismatch where a reader would not find these recipients."""
    block, separator, body = raw.partition(b"\r\n\r\n")
    ours = {b"message-id": f"Message-ID: {message_id}".encode(), b"date": _date(date)}
    if to is not None:
        ours |= {b"to": compose.addressed("To", to), b"cc": b"", b"bcc": b""}
    fields = [*_kept(block, ours), *filter(None, ours.values())]
    made = b"\r\n".join(fields) + separator + body
    if to is not None:
        _check(made, to)
    return made


def _kept(block: bytes, ours: dict[bytes, bytes]) -> Iterator[bytes]:
    for field in _NEXT_FIELD.split(block):
        name = field.partition(b":")[0].strip().lower()
        if name not in ours and name != b"dkim-signature":
            yield field


def _date(date: dt.datetime) -> bytes:
    return f"Date: {email.utils.format_datetime(date.astimezone(dt.UTC).replace(microsecond=0))}".encode()


def _check(raw: bytes, to: Sequence[Mailbox]) -> None:
    values = [value for name, value in header.scan(raw).fields if name.lower() == "to"]
    asked = [(mailbox.address.local, mailbox.address.ascii_domain) for mailbox in to]
    found = [one.address.rpartition("@") for value in values for one in header.addresses(value)]
    if [(local, domain.lower()) for local, _, domain in found] != asked:
        raise compose.ComposeMismatch("to is not what was asked for")
