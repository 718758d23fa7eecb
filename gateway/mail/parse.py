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
import email.errors
import email.message
import email.policy
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import msgspec

from gateway.mail import charsets, header, words
from gateway.mail.header import NamedAddress

rust: Any
try:
    import fast_mail_parser

    rust = fast_mail_parser
except ImportError:  # no wheel for this platform: everything is read by parse_slow
    rust = None

MAX_PARTS = 1000
MAX_DEPTH = 50
MAX_WARNINGS = 50
MAX_FRONT = 131_072  # characters of a body that `front` leaves; mail.page looks at half of them
_MAX_EMBEDDED = 262_144  # octets of attached messages; each level of them is copied by the parser
_SMALL = 65_536  # octets of a message in which no such copying can hurt
_WORD_BUDGET = 100_000_000  # encoded words × octets of their line: the parser's time grows with it; about 20 ms
_MAX_WORD_LINES = 20_000
_MAX_SCANNED = 268_435_456  # octets searched for boundaries, over all multiparts
_MAX_SHOWN = 255  # characters of a type or disposition
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([^\s\"';]{1,64})", re.IGNORECASE)
# Boundaries that every parser finds alike: no white space, no comments, no RFC 2231.
_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"\\\s]+)"|([^\s"\\;()]+))\s*(?:;|\Z)', re.IGNORECASE)
# The names that most attachments have, read quickly.
_FILENAME = re.compile(r';\s*filename="([\w .,()+-]+)"\s*(?:;|\Z)', re.IGNORECASE | re.ASCII)
_NAME = re.compile(r';\s*name="([\w .,()+-]+)"\s*(?:;|\Z)', re.IGNORECASE | re.ASCII)
_FIELD_NAME = re.compile(r"[!-9;-~]+")
_ENDS = frozenset([b"--", b"--\r", b"--\n"])  # what may stand behind the last boundary
_ENCODINGS = frozenset(["", "7bit", "8bit", "binary", "quoted-printable", "base64"])  # RFC 2045 6.1
_TNEF = frozenset(["application/ms-tnef", "application/vnd.ms-tnef"])
_TNEF_NAME = "winmail.dat"
_UNCLOSED = "a closing boundary is missing; the message may have been cut off"

_USUAL_FIELDS = frozenset(["Content-Type", "Content-Transfer-Encoding", "Content-Disposition", "Content-ID"])

Status = Literal["ok", "repaired", "raw_only"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Attachment:
    """What a part is that is no body; its octets are cut out of the raw message when wanted."""

    index: int  # position among the message's attachments, from 0
    filename: str | None  # the sender's label as `header.filename` leaves it; never a path to use
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A message as it is put into JSON."""

    parsed: Parsed  # without its bodies
    text: bytes  # the text body as JSON: a string, or null
    html: bytes  # the HTML body likewise


class Part(NamedTuple):
    """A leaf of the MIME tree, whichever reader found it."""

    content_type: str  # lower-case; "text/plain" where none was given
    charset: str | None  # as labelled
    filename: str | None  # None where there is none
    content_id: str | None  # without angle brackets
    disposition: str | None  # lower-case
    content: bytes  # transfer encoding undone
    fields: tuple[str, ...]  # names of its header fields
    branches: tuple[tuple[int, int], ...] = ()  # (which multipart/alternative, which of its children), outermost first
    aside: bool = False  # stands in a multipart/related, and is not its root (RFC 2387 3.2)

    @property
    def is_body(self) -> bool:
        """Text to be read in the message itself: not marked as attachment, without a file name, not what HTML shows."""
        if self.content_type not in {"text/plain", "text/html"} or (self.aside and self.content_id):
            return False
        return self.disposition != "attachment" and self.filename is None


class _Place(NamedTuple):
    """Where in the tree a part stands."""

    depth: int = 1
    branches: tuple[tuple[int, int], ...] = ()  # as in Part
    aside: bool = False

    def below(self) -> _Place:
        return _Place(self.depth + 1, self.branches, self.aside)


_TOP = _Place()


class _Lost(Exception):
    """The fast parser's tree is not all of the message."""


def parse(raw: bytes) -> Parsed:
    """Read any bytes at all, by whichever reader takes them; as slow as `parse_slow`."""
    try:
        return parse_fast(raw) or parse_slow(raw)
    except Exception:  # noqa: BLE001 - where the fast one fails in a way that nobody foresaw the other is asked
        return parse_slow(raw)


def front(parsed: Parsed) -> Parsed:
    """The same, of its bodies no more than is looked at for codes, links and words."""
    text, html = parsed.text, parsed.html
    return replace(parsed, text=text and text[:MAX_FRONT], html=html and html[:MAX_FRONT])


def shown(parsed: Parsed) -> Shown:
    """The same with its bodies as JSON."""
    text, html = msgspec.json.encode(parsed.text), msgspec.json.encode(parsed.html)
    return Shown(parsed=replace(parsed, text=None, html=None), text=text, html=html)


def parse_fast(raw: bytes) -> Parsed | None:
    """Read a message of the usual kind; None where the caps, the parser or what it left out say: not me."""
    head = header.scan(raw)
    found = _tree_fast(raw, head)
    return None if found is None else _assemble(head, *found, "ok")


def parse_slow(raw: bytes) -> Parsed:
    """Read any bytes at all, however long that takes; never raises, but can be made to take many seconds."""
    head = header.scan(raw)
    try:
        parts, repairs = parts_slow(raw)
        return _assemble(head, parts, repairs, "repaired" if rust else "ok")
    except Exception as error:  # noqa: BLE001 (the stdlib raises almost anything on hostile mail)
        only = raw_only(raw)
        return replace(only, warnings=(*only.warnings, f"its parts cannot be read: {type(error).__name__}"))


def raw_only(raw: bytes) -> Parsed:
    """Read the header fields and nothing else; never raises, and takes time by the header block's length alone."""
    return _assemble(header.scan(raw), [], [], "raw_only")


def attachment(raw: bytes, index: int) -> tuple[Attachment, bytes]:
    """An attachment and its octets, by the index that `Parsed` gave it. Raises IndexError where there is none such.

    For mail that `parse_fast` refuses this is as slow as `parse_slow`, and belongs where that runs.
    """
    return attachment_fast(raw, index) or attachment_slow(raw, index)


def attachment_fast(raw: bytes, index: int) -> tuple[Attachment, bytes] | None:
    """The same of a message of the usual kind; None where `parse_fast` gives None. Raises IndexError."""
    parts = parts_fast(raw, header.scan(raw))
    return None if parts is None else _cut_out(parts, index)


def attachment_slow(raw: bytes, index: int) -> tuple[Attachment, bytes]:
    """The same of any bytes at all, as slow as `parse_slow`. Raises IndexError."""
    try:
        parts, _ = parts_slow(raw)
    except Exception as error:  # the stdlib raises almost anything on hostile mail
        raise IndexError(index) from error  # as parse_slow, which finds no attachment then
    return _cut_out(parts, index)


def _cut_out(parts: list[Part], index: int) -> tuple[Attachment, bytes]:
    _, attached = _chosen(_placed(parts))
    if not 0 <= index < len(attached):
        raise IndexError(index)
    return _attachment(index, attached[index]), attached[index].content


def parts_fast(raw: bytes, head: header.Head) -> list[Part] | None:
    """The leaves of the message in their order, by the Rust parser; None where it must not decide."""
    found = _tree_fast(raw, head)
    return None if found is None else found[0]


def _tree_fast(raw: bytes, head: header.Head) -> tuple[list[Part], list[str]] | None:
    """The leaves, and what was repaired."""
    if rust is None or not head.complete or head.malformed > 1 or not _within_caps(raw):
        return None
    try:
        root = rust.parse_email_tree(raw)
        return _leaves(root, raw, head)
    except (rust.ParseError, _Lost):
        return None


def _within_caps(raw: bytes) -> bool:
    """Cheap looks at the octets, before a parser sees them. None is needed where they are few."""
    if len(raw) <= MAX_PARTS * 2 * len(b"\n--"):
        return True
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


def _leaves(root: Any, raw: bytes, head: header.Head) -> tuple[list[Part], list[str]]:
    """Flatten the tree; attached messages stay whole. _Lost: too deep, too many, or content was lost on the way."""
    parts: list[Part] = []
    repairs: list[str] = []
    stack = [(root, _TOP)]
    multiparts = 0
    while stack:
        node, place = stack.pop()
        content = node.content
        if content is None:
            label = (head.first("content-type") or "") if node is root else _first(node, "Content-Type")
            multiparts += 1
            if place.depth > MAX_DEPTH or multiparts * len(raw) > _MAX_SCANNED:
                raise _Lost
            children = node.children
            if not _closed(raw, label, len(children)):
                repairs.append(_UNCLOSED)
            places = _places(place.below(), node.content_type, label, multiparts, children)
            stack += list(zip(children, places, strict=True))[::-1]
            continue
        if _is_empty(raw, head, content) if node is root else _lost_body(node):
            raise _Lost
        parts.append(_part(node, content, place))
        if len(parts) > MAX_PARTS:
            raise _Lost
    return parts, repairs


def _is_empty(raw: bytes, head: header.Head, content: bytes) -> bool:
    """Nothing was found in a message that is not empty."""
    return not content and bool(raw[head.size : head.size + _SMALL].strip())


def _closed(raw: bytes, label: str, count: int) -> bool:
    """Is there a last boundary behind these `count` parts? _Lost where boundaries and parts do not tally: one is the
    beginning of another, stands where lines end with CR alone, or is written in a way that parsers read differently."""
    match = _BOUNDARY.search(label)
    if match is None or not count:
        raise _Lost
    seen, closed = 0, False
    for behind in _delimiters(raw, b"--" + (match[1] or match[2]).encode()):
        if closed or (behind[:2] == b"--" and behind not in _ENDS):
            raise _Lost
        closed = behind in _ENDS
        seen += behind.startswith((b"\r\n", b"\n"))
    if seen != count:
        raise _Lost
    return closed


def _delimiters(raw: bytes, line: bytes) -> Iterator[bytes]:
    """The three octets behind each `line` that begins a line."""
    position, end = raw.find(line, 1), -3
    for _ in range(MAX_PARTS * 4):
        if position < 0:
            return
        before, nothing, end = raw[position - 1], position - end <= 2, position + len(line)
        if before == 0x0D or nothing:  # two boundaries with no part between them: parsers differ on what that is
            raise _Lost
        if before == 0x0A:
            yield raw[end : end + 3]
        position = raw.find(line, end)
    raise _Lost


def _places(place: _Place, kind: str, label: str, number: int, children: Sequence[Any]) -> list[_Place]:
    """Where the children of a multipart stand; `place` is that of all of them, `number` that of no other multipart."""
    if kind.lower() == "multipart/alternative":
        return [_Place(place.depth, (*place.branches, (number, at)), place.aside) for at in range(len(children))]
    if kind.lower() == "multipart/related":
        start = header.parameters(label).get("start", "").strip("<> ") if "start" in label.lower() else ""
        ids = [_first(child, "Content-ID").strip("<> ") for child in children] if start else []
        root = ids.index(start) if start in ids else 0
        return [place if at == root else place._replace(aside=True) for at in range(len(children))]
    return [place] * len(children)


def _lost_body(node: Any) -> bool:
    """A part whose text, or the front of it, was taken for header fields: the empty line between them is missing.

    A line without a colon comes as a name with an empty value.
    """
    headers = node.headers
    if _USUAL_FIELDS.issuperset(headers):
        return not all(map(all, headers.values()))
    return not all(_FIELD_NAME.fullmatch(name.strip()) and all(values) for name, values in headers.items())


def _first(node: Any, name: str) -> str:
    """The first field of that name, of a part as either parser has it; empty where there is none."""
    if isinstance(node, email.message.Message):
        lower = name.lower()
        return next((_wire(value) for field, value in node.raw_items() if field.lower() == lower), "")
    return _value(node.headers, name)


def _value(headers: dict[str, list[str]], name: str) -> str:
    """The same of a dict by names as they were sent."""
    values = headers.get(name)
    if values is not None:
        return values[0]
    length, lower = len(name), name.lower()
    for field, values in headers.items():
        if len(field) == length and field.lower() == lower:
            return values[0]
    return ""


def _part(node: Any, content: bytes, place: _Place) -> Part:
    headers = node.headers
    kind = node.content_type.lower()
    label = _value(headers, "Content-Type")
    charset = None
    if kind.startswith("text/"):
        match = _CHARSET.search(label)
        charset = match[1] if match else None
    if _value(headers, "Content-Transfer-Encoding").strip().lower() not in _ENCODINGS:
        raise _Lost
    disposition = node.disposition
    return Part(
        content_type=kind if "/" in kind else "text/plain",  # RFC 2045 5.2
        charset=charset,
        filename=_filename(_value(headers, "Content-Disposition") if disposition else "", label),
        content_id=node.content_id or None,
        disposition=disposition.lower() if disposition else None,
        content=content,
        fields=tuple(headers),
        branches=place.branches,
        aside=place.aside,
    )


def _filename(disposition: str, label: str) -> str | None:
    """The name that a part's Content-Disposition or, failing that, its Content-Type gives it; as sent."""
    for value, parameter, plain in ((disposition, "filename", _FILENAME), (label, "name", _NAME)):
        if not value:
            continue
        if (match := plain.search(value)) and "*" not in value:
            return match[1]
        if parameter in value.lower() and (name := header.parameters(header.as_sent(value)).get(parameter)):
            return name
    return None


class _Message(email.message.Message):
    """A part for the stdlib's parser, which takes attached messages apart: to it they look like something else, and so
    stay as they came."""

    def get_content_type(self) -> str:
        kind = super().get_content_type()
        return "application/octet-stream" if kind.startswith("message/") else kind


_DEFECTS = {
    email.errors.NoBoundaryInMultipartDefect: "a multipart names no boundary; it was read as text",
    email.errors.StartBoundaryNotFoundDefect: "a boundary was not found; what it should divide was read as text",
    email.errors.CloseBoundaryNotFoundDefect: _UNCLOSED,
    email.errors.MissingHeaderBodySeparatorDefect: "no empty line stands between a header and what follows it",
    email.errors.FirstHeaderLineIsContinuationDefect: "a header begins with a continuation line",
    email.errors.MisplacedEnvelopeHeaderDefect: "a From line stands in the middle of a header",
    email.errors.InvalidBase64PaddingDefect: "base64 lacks its padding",
    email.errors.InvalidBase64CharactersDefect: "base64 holds characters that it cannot",
    email.errors.InvalidBase64LengthDefect: "base64 was cut off; its last characters were left out",
}


def parts_slow(raw: bytes) -> tuple[list[Part], list[str]]:
    """The leaves of any message, and what was repaired. May raise almost anything, and take long."""
    message = email.message_from_bytes(raw, _class=_Message, policy=email.policy.compat32)
    parts: list[Part] = []
    repairs: list[str] = []
    for part, place in _walk(message):
        if len(parts) == MAX_PARTS:
            repairs.append(f"only the first {MAX_PARTS} parts were read")
            break
        try:
            if not _is_multipart(part):
                parts.append(_part_slow(part, place))
        except Exception as error:  # noqa: BLE001 (the stdlib raises almost anything on hostile mail)
            repairs.append(f"a part cannot be read: {type(error).__name__}")
        repairs += [_DEFECTS[type(defect)] for defect in part.defects if type(defect) in _DEFECTS]
    return parts, repairs or ["its form is unusual; the forgiving reader read it"] * bool(rust)


def _walk(message: email.message.Message) -> Iterator[tuple[email.message.Message, _Place]]:
    """Every part, depth first, without recursion; attached messages stay whole."""
    stack = [(message, _TOP)]
    multiparts = 0
    while stack:
        part, place = stack.pop()
        yield part, place
        if _is_multipart(part):
            multiparts += 1
            children = [child for child in part.get_payload() if isinstance(child, email.message.Message)]
            places = _places(place.below(), part.get_content_type(), _first(part, "Content-Type"), multiparts, children)
            stack += list(zip(children, places, strict=True))[::-1]


def _is_multipart(part: email.message.Message) -> bool:
    return part.get_content_maintype() == "multipart" and isinstance(part.get_payload(), list)


def _part_slow(part: email.message.Message, place: _Place) -> Part:
    kind = email.message.Message.get_content_type(part)
    if kind.startswith("multipart/"):  # whose boundary was never found: all of it is text
        kind = "text/plain"
    label = _first(part, "Content-Type")
    charset = _CHARSET.search(label)
    return Part(
        content_type=kind,
        charset=charset[1] if charset else None,
        filename=_filename(_first(part, "Content-Disposition"), label),
        content_id=header.decode(_first(part, "Content-ID")).strip().strip("<>") or None,
        disposition=_disposition(part),
        content=_content_slow(part),
        fields=tuple(part.keys()),
        branches=place.branches,
        aside=place.aside,
    )


def _disposition(part: email.message.Message) -> str | None:
    return _first(part, "Content-Disposition").partition(";")[0].strip().lower() or None


def _content_slow(part: email.message.Message) -> bytes:
    """The octets, transfer encoding undone as far as it can be."""
    payload = part.get_payload()
    decoded = part.get_payload(decode=True)
    if not isinstance(decoded, bytes):
        return str(payload).encode("utf-8", "surrogateescape")
    if any(isinstance(defect, email.errors.InvalidBase64LengthDefect) for defect in part.defects):
        return words.unbase64(decoded)
    return decoded


def _wire(value: str) -> str:
    """A field as the stdlib's parser keeps it, octets hidden in surrogates: unfolded, in UTF-8 or windows-1252."""
    text = value.replace("\r\n", "").replace("\n", "").strip()
    return text if text.isascii() else charsets.decode(text.encode("utf-8", "surrogateescape"), None)[0]


def _placed(parts: list[Part]) -> list[Part]:
    """A message that is nothing but one text part is its body, whatever its disposition and name say."""
    if len(parts) == 1 and parts[0].content_type in {"text/plain", "text/html"} and not parts[0].is_body:
        return parts if parts[0].disposition == "attachment" else [parts[0]._replace(filename=None)]
    return parts


def _chosen(parts: list[Part]) -> tuple[list[Part], list[Part]]:
    """The bodies, and what is none. Of the branches of a multipart/alternative the first that has text gives the text,
    the first that has HTML the HTML (RFC 2046 5.1.4); what others hold is not lost, but attached."""
    bodies: list[Part] = []
    attached: list[Part] = []
    branches: dict[tuple[str, int], int] = {}
    for part in parts:
        (bodies if part.is_body and _is_chosen(part, branches) else attached).append(part)
    return bodies, attached


def _is_chosen(part: Part, branches: dict[tuple[str, int], int]) -> bool:
    """Does the part stand in the branches that were taken, or in the first of their kind, which are taken so?"""
    for multipart, branch in part.branches:
        if branches.setdefault((part.content_type, multipart), branch) != branch:
            return False
    return True


def _assemble(head: header.Head, parts: list[Part], repairs: list[str], status: Status) -> Parsed:
    bodies, attached = _chosen(_placed(parts))
    if head.malformed:
        lines = "1 line of the header is" if head.malformed == 1 else f"{head.malformed} lines of the header are"
        repairs.append(f"{lines} no header field")
    if not head.complete:
        repairs.append("the header is too long and was cut")
    text, html = _body(bodies, "text/plain", repairs), _body(bodies, "text/html", repairs)
    if repairs and status == "ok":
        status = "repaired"
    found = _Fields(head.fields)
    attachments = tuple([_attachment(index, part) for index, part in enumerate(attached)])
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
        text=text,
        html=html,
        attachments=attachments,
        status=status,
        warnings=tuple(dict.fromkeys([*repairs, *_remarks(attachments)]))[:MAX_WARNINGS] if repairs or attached else (),
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


def _remarks(attachments: tuple[Attachment, ...]) -> list[str]:
    """What a reader of the message should know, though nothing had to be repaired."""
    return [
        "an attachment is in Outlook's own format, TNEF (winmail.dat): what it holds is not unpacked"
        for found in attachments
        if found.content_type in _TNEF or (found.filename or "").lower() == _TNEF_NAME
    ]


def _body(bodies: list[Part], kind: str, repairs: list[str]) -> str | None:
    texts: list[str] = []
    for part in bodies:
        if part.content_type == kind:
            text, odd = charsets.decode(part.content, part.charset)
            if odd:
                repairs.append(f"the {kind} body {header.decode(odd)}")
            texts.append(text.replace("\r\n", "\n").replace("\r", "\n"))
    return "\n".join(texts) if texts else None


def _attachment(index: int, part: Part) -> Attachment:
    filename = header.filename(part.filename) if part.filename else None
    return Attachment(
        index=index,
        filename=_TNEF_NAME if filename is None and part.content_type in _TNEF else filename,
        content_type=header.decode(part.content_type)[:_MAX_SHOWN],
        size=len(part.content),
        content_id=header.decode(part.content_id) if part.content_id else None,
        disposition=header.decode(part.disposition or ("inline" if part.content_id else "attachment"))[:_MAX_SHOWN],
        sha256=hashlib.sha256(part.content).hexdigest(),
    )
