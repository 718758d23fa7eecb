"""Mail that came in, made readable: three readers of one message, and one shape for what they find.

    parse_fast   the Rust parser, for mail within the caps: some tens of microseconds; None where it must not decide
    parse_slow   the standard library, for all the rest: may take seconds, so run it in a process that can be killed
    raw_only     header fields alone, when neither could be had

The raw bytes stay the truth. What is here is derived, may be lost and made again: its line ends are LF, and NULs and
lone surrogates, which Postgres refuses, are U+FFFD.
"""

from __future__ import annotations

import datetime as dt
import email
import email.message
import email.policy
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from gateway.mail import charsets, header
from gateway.mail.header import NamedAddress

rust: Any
try:
    import fast_mail_parser

    rust = fast_mail_parser
except ImportError:  # no wheel for this platform: everything is read by parse_slow
    rust = None

MAX_PARTS = 1000
MAX_DEPTH = 50
_MAX_EMBEDDED = 262_144  # octets of attached messages; each level of them is copied by the parser
_SMALL = 65_536  # octets of a message in which no such copying can hurt
_WORD_BUDGET = 100_000_000  # encoded words × octets of their line: the parser's time grows with it; about 20 ms
_MAX_WORD_LINES = 20_000
_MAX_FILENAME = 255  # characters
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([^\s\"';]{1,64})", re.IGNORECASE)
_FILENAME = ("filename", re.compile(r';\s*filename\s*=\s*"([^"\\]*(?:\\.[^"\\]*)*)"', re.IGNORECASE))
_NAME = ("name", re.compile(r';\s*name\s*=\s*"([^"\\]*(?:\\.[^"\\]*)*)"', re.IGNORECASE))
_PAIR = re.compile(r'\\(["\\])')
_FIELD_NAME = re.compile(r"[!-9;-~]+")

_USUAL_FIELDS = frozenset(["Content-Type", "Content-Transfer-Encoding", "Content-Disposition", "Content-ID"])

Status = Literal["ok", "repaired", "raw_only"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Attachment:
    """What a part is that is no body; its octets are cut out of the raw message when wanted."""

    index: int  # position among the message's attachments, from 0
    filename: str | None  # the sender's label, decoded, at most 255 characters; never a path to use
    content_type: str  # lower-case type/subtype, parameters left off
    size: int  # octets, transfer encoding undone
    content_id: str | None  # without angle brackets; what cid: URLs name
    disposition: str  # "attachment" or "inline", or what else the sender wrote
    sha256: str  # of the decoded octets, in hex


@dataclass(frozen=True, kw_only=True, slots=True)
class Parsed:
    """A message as people and programs read it."""

    subject: str  # decoded, one line; empty where there is none
    from_: NamedAddress | None  # the first mailbox of the first From
    to: tuple[NamedAddress, ...]  # like the next two, from every field of that name
    cc: tuple[NamedAddress, ...]
    reply_to: tuple[NamedAddress, ...]
    message_id: str | None  # as the sender wrote it, in angle brackets where it has them; senders repeat them
    in_reply_to: str | None  # the first id of that field
    references: tuple[str, ...]  # oldest first
    date: dt.datetime | None  # UTC; what the sender claims
    headers: tuple[tuple[str, str], ...]  # (name, decoded value), in their order, duplicates and all
    text: str | None  # every text/plain body, joined by a line end; None where there is none
    html: str | None  # every text/html body, as sent
    attachments: tuple[Attachment, ...]
    status: Status
    warnings: tuple[str, ...]  # what was repaired or left out, for a person


class Part(NamedTuple):
    """A leaf of the MIME tree, whichever reader found it."""

    content_type: str  # lower-case; "text/plain" where none was given
    charset: str | None  # as labelled
    filename: str | None  # None where there is none
    content_id: str | None  # without angle brackets
    disposition: str | None  # lower-case
    content: bytes  # transfer encoding undone
    fields: tuple[str, ...]  # names of its header fields

    @property
    def is_body(self) -> bool:
        """Text to be read in the message itself: not marked as attachment, and without a file name."""
        if self.content_type not in {"text/plain", "text/html"}:
            return False
        return self.disposition != "attachment" and self.filename is None


def parse_fast(raw: bytes) -> Parsed | None:
    """Read a message of the usual kind; None where the caps, the parser or what it left out say: not me."""
    head = header.scan(raw)
    parts = parts_fast(raw, head)
    return None if parts is None else _assemble(head, parts, "ok", [])


def parse_slow(raw: bytes) -> Parsed:
    """Read any bytes at all, however long that takes; never raises, but can be made to take many seconds."""
    head = header.scan(raw)
    try:
        parts, warnings = parts_slow(raw)
        return _assemble(head, parts, "repaired", warnings)
    except Exception as error:  # noqa: BLE001 (the stdlib raises almost anything on hostile mail)
        only = raw_only(raw)
        return replace(only, warnings=(*only.warnings, f"its parts cannot be read: {type(error).__name__}"))


def raw_only(raw: bytes) -> Parsed:
    """Read the header fields and nothing else; never raises, and takes time by the header block's length alone."""
    return _assemble(header.scan(raw), [], "raw_only", [])


def attachment(raw: bytes, index: int) -> tuple[Attachment, bytes]:
    """An attachment and its octets, by the index that `Parsed` gave it. Raises IndexError where there is none such.

    For mail whose status is not "ok" this is as slow as `parse_slow`, and belongs where that runs.
    """
    parts = parts_fast(raw, header.scan(raw))
    if parts is None:
        parts, _ = parts_slow(raw)
    attached = [part for part in _placed(parts) if not part.is_body]
    if not 0 <= index < len(attached):
        raise IndexError(index)
    return _attachment(index, attached[index]), attached[index].content


def parts_fast(raw: bytes, head: header.Head) -> list[Part] | None:
    """The leaves of the message in their order, by the Rust parser; None where it must not decide."""
    if rust is None or not head.complete or not _within_caps(raw):
        return None
    try:
        root = rust.parse_email_tree(raw)
    except rust.ParseError:
        return None
    if "boundary*" in (head.first("content-type") or "").lower():  # RFC 2231 form: parsers do not agree on it
        return None
    return _leaves(root, has_body=bool(raw[head.size : head.size + _SMALL].strip()))


def _within_caps(raw: bytes) -> bool:
    """Cheap looks at the octets, before a parser sees them."""
    if raw.count(b"\n--") > MAX_PARTS * 2 or _word_cost(raw) > _WORD_BUDGET:
        return False
    return len(raw) <= _SMALL or _embedded(raw) <= _MAX_EMBEDDED


def _word_cost(raw: bytes) -> int:
    """A bound for what encoded words can cost: the parser takes quadratic time for many of them in one line."""
    count = raw.count(b"=?")
    if count * len(raw) <= _WORD_BUDGET:
        return 0
    cost = position = lines = 0
    while (position := raw.find(b"=?", position)) >= 0:
        start, end = raw.rfind(b"\n", 0, position) + 1, raw.find(b"\n", position)
        end = len(raw) if end < 0 else end
        cost += raw.count(b"=?", start, end) * (end - start)
        lines += 1
        if cost > _WORD_BUDGET or lines > _MAX_WORD_LINES:
            return _WORD_BUDGET + 1
        position = end
    return cost


def _embedded(raw: bytes) -> int:
    """Octets of attached messages: 200 of them nested in 7 MB took the tree parser 1.5 GB."""
    try:
        found = rust.parse_email(raw, mode="metadata").attachments
    except rust.ParseError:
        return _MAX_EMBEDDED + 1
    return sum(part.encoded_size for part in found if part.mimetype.lower().startswith("message/"))


def _leaves(root: Any, *, has_body: bool) -> list[Part] | None:
    """Flatten the tree; attached messages stay whole. None: too deep, too many, or content was lost on the way."""
    parts: list[Part] = []
    stack = [(root, 1)]
    while stack:
        node, depth = stack.pop()
        content = node.content
        if content is None:
            children = node.children
            if not children or depth > MAX_DEPTH or (node is not root and _odd_boundary(node)):
                return None
            stack += [(child, depth + 1) for child in reversed(children)]
            continue
        if (has_body and not content) if node is root else _lost_body(node):
            return None
        parts.append(_part(node, content))
        if len(parts) > MAX_PARTS:
            return None
    return parts


def _odd_boundary(node: Any) -> bool:
    return any("boundary*" in value.lower() for value in _values(node, "content-type"))


def _lost_body(node: Any) -> bool:
    """A part whose text, or the front of it, was taken for header fields: the empty line between them is missing.

    A line without a colon comes as a name with an empty value.
    """
    headers = node.headers
    if _USUAL_FIELDS.issuperset(headers):
        return not all(map(all, headers.values()))
    return not all(_FIELD_NAME.fullmatch(name.strip()) and all(values) for name, values in headers.items())


def _values(node: Any, name: str) -> list[str]:
    return [value for field, values in node.headers.items() if field.lower() == name for value in values]


def _part(node: Any, content: bytes) -> Part:
    headers = node.headers
    kind = node.content_type.lower()
    charset = None
    if kind.startswith("text/"):
        labels = headers.get("Content-Type") or _values(node, "content-type")
        match = _CHARSET.search(labels[0]) if labels else None
        charset = match[1] if match else None
    filename = node.filename
    if filename and not filename.isalnum():
        filename = _quoted_filename(node) or filename
    disposition = node.disposition
    return Part(
        content_type=kind if "/" in kind else "text/plain",  # RFC 2045 5.2
        charset=charset,
        filename=filename or None,
        content_id=node.content_id or None,
        disposition=disposition.lower() if disposition else None,
        content=content,
        fields=tuple(headers),
    )


def _quoted_filename(node: Any) -> str | None:
    """A file name in a quoted string: the parser cuts it at semicolons, and leaves its backslashes in."""
    for field, parameter in (("content-disposition", _FILENAME), ("content-type", _NAME)):
        for value in _values(node, field)[:1]:
            if f"{parameter[0]}*" in value.lower():  # RFC 2231, which the parser knows
                return None
            if match := parameter[1].search(value):
                return _PAIR.sub(r"\1", match[1])
            if parameter[0] + "=" in value.lower():
                return None
    return None


def parts_slow(raw: bytes) -> tuple[list[Part], list[str]]:
    message = email.message_from_bytes(raw, policy=email.policy.compat32)
    parts: list[Part] = []
    warnings: list[str] = []
    for part in _walk(message):
        if len(parts) == MAX_PARTS:
            warnings.append(f"only the first {MAX_PARTS} parts were read")
            break
        try:
            parts.append(_part_slow(part))
        except Exception as error:  # noqa: BLE001 (the stdlib raises almost anything on hostile mail)
            warnings.append(f"a part cannot be read: {type(error).__name__}")
    return parts, warnings


def _walk(message: email.message.Message) -> Iterator[email.message.Message]:
    """The leaves, depth first, without recursion; attached messages stay whole."""
    stack = [message]
    while stack:
        part = stack.pop()
        children = part.get_payload()
        if part.get_content_maintype() == "multipart" and isinstance(children, list):
            stack += [child for child in reversed(children) if isinstance(child, email.message.Message)]
        else:
            yield part


def _part_slow(part: email.message.Message) -> Part:
    kind = part.get_content_type()
    if part.get_content_maintype() == "multipart":  # whose boundary was never found: all of it is text
        kind = "text/plain"
    payload = part.get_payload()
    if isinstance(payload, list):  # message/rfc822 and message/delivery-status
        content = b"\n".join(_flat(inner) for inner in payload if isinstance(inner, email.message.Message))
    else:
        decoded = part.get_payload(decode=True)
        content = decoded if isinstance(decoded, bytes) else str(payload).encode("utf-8", "surrogateescape")
    label = _CHARSET.search(str(part.get("Content-Type", "")))
    content_id = header.decode(_wire(part.get("Content-ID"))).strip().strip("<>")
    return Part(
        content_type=kind,
        charset=label[1] if label else None,
        filename=header.decode(_wire(part.get_filename())) or None,
        content_id=content_id or None,
        disposition=part.get_content_disposition(),
        content=content,
        fields=tuple(part.keys()),
    )


def _flat(message: email.message.Message) -> bytes:
    """An attached message as octets, as near to what came as the stdlib keeps it."""
    try:
        return message.as_bytes(unixfrom=False)
    except Exception:  # noqa: BLE001 (its generator fails on what its parser took)
        return str(message.get_payload()).encode("utf-8", "surrogateescape")


def _wire(value: object) -> str:
    """What compat32 gives for a field: None, text with octets hidden in surrogates, or a Header around it."""
    text = "" if value is None else str(value)
    return text if text.isascii() else charsets.decode(text.encode("utf-8", "surrogateescape"), None)[0]


def _placed(parts: list[Part]) -> list[Part]:
    """A message that is nothing but one text part is its body, whatever its disposition and name say."""
    if len(parts) == 1 and parts[0].content_type in {"text/plain", "text/html"} and not parts[0].is_body:
        return parts if parts[0].disposition == "attachment" else [parts[0]._replace(filename=None)]
    return parts


def _assemble(head: header.Head, parts: list[Part], status: Status, warnings: list[str]) -> Parsed:
    parts = _placed(parts)
    if head.malformed:
        warnings.append(f"{head.malformed} lines of the header are no header fields")
    if not head.complete:
        warnings.append("the header is too long and was cut")
    found = _Fields(head.fields)
    attached = [part for part in parts if not part.is_body]
    decoded = [
        (name, value if value.isprintable() and "=?" not in value else header.decode(value))
        for name, value in head.fields
    ]
    return Parsed(
        subject=decoded[found.position("subject")][1] if found.first("subject") else "",
        from_=next(iter(found.mailboxes("from")), None),
        to=found.mailboxes("to"),
        cc=found.mailboxes("cc"),
        reply_to=found.mailboxes("reply-to"),
        message_id=_message_id(found.first("message-id")),
        in_reply_to=_message_id(found.first("in-reply-to")),
        references=header.ids(found.first("references")),
        date=header.date(found.first("date")) if found.first("date") else None,
        headers=tuple(decoded),
        text=_body(parts, "text/plain", warnings),
        html=_body(parts, "text/html", warnings),
        attachments=tuple(_attachment(index, part) for index, part in enumerate(attached)),
        status=status,
        warnings=tuple(warnings),
    )


class _Fields:
    """The fields by lower-case name, undecoded."""

    __slots__ = ("_fields", "_first", "_names")

    def __init__(self, fields: tuple[tuple[str, str], ...]) -> None:
        self._fields = fields
        self._names = [name.lower() for name, _ in fields]
        self._first = {name: value for name, (_, value) in zip(reversed(self._names), reversed(fields), strict=True)}

    def first(self, name: str) -> str:
        return self._first.get(name, "")

    def position(self, name: str) -> int:
        return self._names.index(name)

    def mailboxes(self, name: str) -> tuple[NamedAddress, ...]:
        if name not in self._first:
            return ()
        if self._names.count(name) == 1:
            return header.addresses(self._first[name])
        values = [value for known, (_, value) in zip(self._names, self._fields, strict=True) if known == name]
        found = tuple(mailbox for value in values for mailbox in header.addresses(value))
        return found[: header.MAX_MAILBOXES]


def _message_id(value: str) -> str | None:
    found = header.ids(value)
    return found[0] if found else header.decode(value) or None


def _body(parts: list[Part], kind: str, warnings: list[str]) -> str | None:
    texts: list[str] = []
    for part in parts:
        if part.content_type == kind and part.is_body:
            text, odd = charsets.decode(part.content, part.charset)
            if odd:
                warnings.append(f"a {kind} body is not valid {header.decode(part.charset or 'UTF-8')}")
            texts.append(text.replace("\r\n", "\n"))
    return "\n".join(texts) if texts else None


def _attachment(index: int, part: Part) -> Attachment:
    return Attachment(
        index=index,
        filename=header.decode(part.filename)[:_MAX_FILENAME] if part.filename else None,
        content_type=header.decode(part.content_type)[:_MAX_FILENAME],
        size=len(part.content),
        content_id=header.decode(part.content_id) if part.content_id else None,
        disposition=header.decode(part.disposition or ("inline" if part.content_id else "attachment")),
        sha256=hashlib.sha256(part.content).hexdigest(),
    )
