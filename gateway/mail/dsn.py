"""Mail that is about other mail: delivery reports (RFC 3464), complaints (RFC 5965), and bounces in words of their own.

Which mail it is about, the return path tells that it came to (gateway.mail.verp); nothing in the report itself can be
trusted, for anybody can write one. So what is read here is what became of it: action, RFC 3463 status and what the
server said, recipient by recipient where a report has them.

Nothing here raises, and everything takes time linear in what it is given: strangers choose the bytes. MIME is not
undone but for the report's own part, which is found by its type wherever it stands; so broken reports are read, too.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import quopri
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from gateway.mail import bounce_words, charsets, header

Kind = Literal["report", "complaint", "bounce", "other"]
Action = Literal["failed", "delayed", "delivered", "relayed", "expanded"]  # RFC 3464 2.3.3

MAX_READ: Final = 1_048_576  # octets; reports stand in front of the mail that they return
MAX_RECIPIENTS: Final = 100
LONGEST: Final = 1000  # characters of any value
_ACTIONS: Final[frozenset[str]] = frozenset({"failed", "delayed", "delivered", "relayed", "expanded"})
_SAME: Final = {"failure": "failed", "fail": "failed", "delay": "delayed"}  # as some write it
_PART: Final = re.compile(
    r"^content-type:[ \t]*(?:\n[ \t]+)?message/(?:global-)?(delivery-status|feedback-report)\b",
    re.IGNORECASE | re.MULTILINE,
)
_BOUNDARY: Final = re.compile(r"^--\S", re.MULTILINE)
_EMPTY_LINE: Final = re.compile(r"\n[ \t]*\n")
_ADDRESS: Final = re.compile(r"[^\s<>@,;:\"'()\[\]]{1,64}@[A-Za-z0-9.-]{1,254}[A-Za-z]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fate:
    """What a report says of one recipient."""

    recipient: str  # the address that was written to, as far as it is told; else the last one known; may be empty
    action: Action
    status: str  # RFC 3463; empty = not told
    diagnostic: str  # what the server said, without its type; empty = not told


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a mail says of another."""

    kind: Kind  # "other" = nothing: an ordinary mail, or an automatic answer
    fates: tuple[Fate, ...] = ()  # of a report or a bounce; at most MAX_RECIPIENTS
    feedback: str = ""  # of a complaint: abuse, fraud, virus, not-spam, other (RFC 5965 7.3)


def read(raw: bytes) -> Report:
    """Read any mail."""
    head = header.scan(raw)
    text = _text(raw[:MAX_READ])
    if bounce_words.is_persons(head):
        return Report(kind="other")
    for kind, blocks in _parts(text):
        if kind == "feedback-report" and (feedback := _first(blocks[:1], "feedback-type")):
            return Report(kind="complaint", feedback=feedback.lower())
        if kind == "delivery-status" and (fates := tuple(_fates(blocks))[:MAX_RECIPIENTS]):
            return Report(kind="report", fates=fates)
    return _in_words(head, _text(raw[head.size :][: 2 * bounce_words.MAX_PROSE]))


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")


# Reports


def _parts(text: str) -> Iterator[tuple[str, list[str]]]:
    """The first of each kind of report in it, as blocks of fields."""
    seen: set[str] = set()
    for found in itertools.islice(_PART.finditer(text), 10):
        kind = found[1].lower()
        if kind in seen:  # the returned mail may be a report, too
            continue
        seen.add(kind)
        ends = _EMPTY_LINE.search(text, found.end())
        start = text.rfind("\n--", max(0, found.start() - 4000), found.start()) + 1 or found.start()
        if ends is None:
            continue
        over = _BOUNDARY.search(text, ends.end())
        body = text[ends.end() : over.start() if over else len(text)]
        yield kind, _EMPTY_LINE.split(_decoded(text[start : ends.start()], body))


def _decoded(fields: str, body: str) -> str:
    """RFC 3464 2.1 wants 7bit; some encode it nevertheless."""
    encoding = re.search(r"^content-transfer-encoding:[ \t]*([\w-]+)", fields, re.IGNORECASE | re.MULTILINE)
    name = encoding[1].lower() if encoding else ""
    octets = body.encode("utf-8", "replace")
    try:
        if name == "base64":
            octets = base64.b64decode(octets)
        elif name == "quoted-printable":
            octets = quopri.decodestring(octets)
    except binascii.Error:
        return body
    return octets.decode("utf-8", "replace").replace("\r\n", "\n")


def _fates(blocks: Sequence[str]) -> Iterator[Fate]:
    """One for each block that names an action; the first block is about the whole mail, but some leave it out."""
    for block in itertools.islice(blocks, MAX_RECIPIENTS + 1):
        fields = _fields(block)
        said = fields.get("action", "").split("(")[0].strip().lower()
        action = _SAME.get(said, said)
        status = _status(fields.get("status", ""))
        if action not in _ACTIONS:
            action = {"5": "failed", "4": "delayed", "2": "delivered"}.get(status[:1], "") if "status" in fields else ""
        if not action:
            continue
        yield Fate(
            recipient=_address(fields.get("original-recipient", "")) or _address(fields.get("final-recipient", "")),
            action=action,  # type: ignore[arg-type] # one of _ACTIONS
            status=status,
            diagnostic=without_type(fields.get("diagnostic-code", "")),
        )


def _fields(block: str) -> dict[str, str]:
    """The first value of each field, by lower-case name."""
    found: dict[str, str] = {}
    for name, value in header.scan(block.strip("\n").encode("utf-8", "replace") + b"\n\n").fields:
        found.setdefault(name.lower(), charsets.clean(" ".join(value.split())[:LONGEST]))
    return found


def _first(blocks: Sequence[str], name: str) -> str:
    return next((value for block in blocks if (value := _fields(block).get(name, ""))), "")


def _status(value: str) -> str:
    found = re.search(r"(?<![\d.])[245]\.\d{1,3}\.\d{1,3}(?![\d.])", value)
    return found[0] if found else ""


def _address(value: str) -> str:
    """`rfc822; a@b.example` without its type (RFC 3464 2.3.2), brackets or comments."""
    found = _ADDRESS.search(value.partition(";")[2] or value)
    return found[0] if found else ""


def without_type(diagnostic: str) -> str:
    """A Diagnostic-Code (RFC 3464 2.3.6) without its `smtp;`."""
    kind, semicolon, said = diagnostic.partition(";")
    return said.strip() if semicolon and kind.strip().lower() in ("smtp", "x-unix", "x-postfix", "lmtp") else diagnostic


# Bounces in words of their own


def _in_words(head: header.Head, text: str) -> Report:
    told = bounce_words.read(head, text)
    if told is None:
        return Report(kind="other")
    fates = [
        Fate(recipient=one.address, action=told.action, status=_status(one.said), diagnostic=one.said)
        for one in told.refused[:MAX_RECIPIENTS]
    ]
    return Report(kind="bounce", fates=tuple(fates))
