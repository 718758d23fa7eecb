"""The writer of mail: a draft becomes the octets that are stored, signed and sent.

`compose` refuses what no field may hold, and writes. `check` reads those octets again, with the parsers that read
other people's mail and not with this code's own idea of them, and compares: a trick that smuggles a field, a
recipient or a part into them is found by what it did, whichever trick it was.
"""

from __future__ import annotations

import binascii
import datetime as dt
import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.mail import header, parse, words
from gateway.mail.address import Address, Mailbox

MAX_LINE = 998  # octets, RFC 5322 2.1.1
_AIM = 76  # columns; RFC 5322 2.1.1 asks for 78
_LONGEST = 990  # octets of a body line that goes out as it is: room for the relays that count differently
_MAX_VALUE = 32_768  # characters of a caller's header value
_MAX_HEADERS = 200
_MAX_FILENAME = 255  # characters
_MAX_NAME = 320  # characters of a display name written as a quoted string

_MAX_DASHES = 500  # lines of a body that look like delimiters; more would have to be read by the slow parser
_MAX_MESSAGES = 200_000  # octets of attached mail that go out as mail; more go as files
_MAX_REFERENCES = 100

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_ODD: Final = bytes([*range(9), *range(11, 32), 127])  # controls but for TAB and LF
_FIELD_NAME = re.compile(r"[!-9;-~]{1,76}")  # RFC 5322 2.2
_ID = re.compile(r"<[!-;=?-~]{1,900}>")
_CONTENT_ID = re.compile(r"[!-;=?-~]{1,900}")
_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]{1,127}"  # noqa: S105 (a token of RFC 2045 5.1)
_CONTENT_TYPE = re.compile(rf'{_TOKEN}/{_TOKEN}(?:; ?{_TOKEN}=(?:{_TOKEN}|"[ !#-\[\]-~]{{0,200}}"))*')
_FORBIDDEN_TYPE = re.compile(r"^multipart/|; ?name\b", re.IGNORECASE)
_PHRASE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")  # RFC 5322 atoms
_PLAIN_FILENAME = re.compile(r"[ !#-:<-\[\]-~]{1,60}")  # without semicolons, at which some readers cut
_FILENAME_SAFE: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$&+-.^_`{|}~")

# What callers may not set: it is written from the draft's own fields, belongs to the transport, or is a promise
# about who sent this that only we can make.
_REFUSED: Final = frozenset(
    [
        *("from", "sender", "to", "cc", "bcc", "subject", "date", "message-id", "mime-version", "return-path"),
        *("received", "dkim-signature", "resent-from", "resent-sender", "resent-to", "resent-cc", "resent-bcc"),
    ]
)
# Callers may set these where the draft's own field is empty.
_ONCE: Final = {"reply-to": "reply_to", "in-reply-to": "in_reply_to", "references": "references"}
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class InvalidDraft(ValueError):
    """A field of the draft cannot be written."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field  # as an API caller names it: "subject", "headers.X-Tag", "attachments[0].filename"
        self.message = message


class ComposeMismatch(ValueError):
    """The composed octets do not say what the draft says: a bug or an attack; they must not be stored or sent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attachment:
    """A file to go along, or a picture that the HTML names."""

    filename: str | None = None  # a label; None only makes sense with a content_id
    content: bytes
    content_type: str = "application/octet-stream"  # type/subtype, parameters allowed; no multipart
    content_id: str | None = None  # without angle brackets; makes it inline where there is HTML


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """An e-mail as asked for. Blind copies are nobody's business here: they are recipients, not header fields."""

    from_: Mailbox
    to: tuple[Mailbox, ...] = ()
    cc: tuple[Mailbox, ...] = ()
    reply_to: tuple[Mailbox, ...] = ()
    subject: str = ""
    text: str | None = None  # None or empty with HTML: no text part
    html: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)  # more fields, by name
    attachments: tuple[Attachment, ...] = ()
    message_id: str  # in angle brackets; ours, unique
    date: dt.datetime  # aware; written in UTC
    in_reply_to: str | None = None  # in angle brackets
    references: tuple[str, ...] = ()  # each in angle brackets, oldest first


def compose(draft: Draft) -> bytes:
    """Write the message: CRLF, no line over 998 octets. Raises InvalidDraft."""
    validate(draft)
    lines = list(_fields(draft))
    lines.append("MIME-Version: 1.0")
    return ("\r\n".join(lines) + "\r\n").encode() + _ended(_root(draft))


def entity(*, text: str, html: str, attachments: tuple[Attachment, ...]) -> bytes:
    """A body with its MIME fields, to stand behind header fields that somebody else wrote. Raises InvalidDraft."""
    nobody = Mailbox(address=Address(local="nobody", domain="invalid"))
    epoch = dt.datetime.fromtimestamp(0, dt.UTC)
    draft = Draft(
        from_=nobody, text=text, html=html, attachments=attachments, message_id="<nothing@invalid>", date=epoch
    )
    validate(draft)
    return b"MIME-Version: 1.0\r\n" + _ended(_root(draft))


def check(raw: bytes, draft: Draft) -> None:
    """Read `raw` again and raise ComposeMismatch unless it is what `draft` asks for, and nothing more."""
    lines = raw.count(b"\n")
    if raw.count(b"\r") != lines or raw.count(b"\r\n") != lines:
        raise ComposeMismatch("a line ends in something else than CRLF")  # which some readers take for a line's end
    head = header.scan(raw)
    if head.malformed or not head.complete:
        raise ComposeMismatch("the header block cannot be read")
    parts = parse.parts_fast(raw, head)
    _check_head(head, draft)
    _check_parts(parse.parts_slow(raw)[0] if parts is None else parts, draft)


def validate(draft: Draft) -> None:
    """Raise InvalidDraft for the first field that cannot be written as it is."""
    for name, text in _texts(draft):
        if not text.isprintable() and _CONTROLS.search(text):  # nearly all is printable, and then has no controls
            raise InvalidDraft(name, "line breaks and control characters are not allowed")
    for name, body in (("text", draft.text), ("html", draft.html)):
        if body and ("\0" in body or (not body.isascii() and _SURROGATES.search(body))):
            raise InvalidDraft(name, "NUL and lone surrogates are not allowed")
    if draft.date.tzinfo is None:
        raise InvalidDraft("date", "it has no time zone")
    _validate_ids(draft)
    if draft.headers:
        _validate_headers(draft)
    for index, attachment in enumerate(draft.attachments):
        _validate_attachment(f"attachments[{index}]", attachment)


# --- what may be written ---


def _texts(draft: Draft) -> Iterator[tuple[str, str]]:
    """Every text that ends up in a header, with the name of its field."""
    yield "subject", draft.subject
    yield "from", _mailbox_text(draft.from_)
    for name, mailboxes in (("to", draft.to), ("cc", draft.cc), ("reply_to", draft.reply_to)):
        for index, mailbox in enumerate(mailboxes):
            yield f"{name}[{index}]", _mailbox_text(mailbox)
    for name, value in draft.headers.items():
        yield f"headers.{name}", value
    for index, attachment in enumerate(draft.attachments):
        yield f"attachments[{index}].filename", attachment.filename or ""
        yield f"attachments[{index}].content_type", attachment.content_type
        yield f"attachments[{index}].content_id", attachment.content_id or ""


def _mailbox_text(mailbox: Mailbox) -> str:
    return f"{mailbox.name or ''}{mailbox.address.local}{mailbox.address.domain}"


def _validate_ids(draft: Draft) -> None:
    for name, ids in (
        ("message_id", (draft.message_id,)),
        ("in_reply_to", (draft.in_reply_to,) if draft.in_reply_to is not None else ()),
        ("references", draft.references),
    ):
        if not all(_ID.fullmatch(found) for found in ids):
            raise InvalidDraft(name, "not a message id in angle brackets")
    if len(draft.references) > _MAX_REFERENCES:
        raise InvalidDraft("references", f"more than {_MAX_REFERENCES}")


def _validate_headers(draft: Draft) -> None:
    if len(draft.headers) > _MAX_HEADERS:
        raise InvalidDraft("headers", f"more than {_MAX_HEADERS}")
    for name, value in draft.headers.items():
        where, known = f"headers.{name}", name.lower()
        if not _FIELD_NAME.fullmatch(name):
            raise InvalidDraft(where, "not a header name")
        if known in _REFUSED or known.startswith("content-"):
            raise InvalidDraft(where, "may not be set through headers")
        if known in _ONCE and getattr(draft, _ONCE[known]):
            raise InvalidDraft(where, f"is set by {_ONCE[known]} already")
        longest = max(map(len, value.encode().split(b" ")))
        if len(value) > _MAX_VALUE or (value.isascii() and longest > MAX_LINE - len(name) - 2):
            raise InvalidDraft(where, "too long")


def _validate_attachment(where: str, attachment: Attachment) -> None:
    if not _CONTENT_TYPE.fullmatch(attachment.content_type):
        raise InvalidDraft(f"{where}.content_type", "not a content type")
    if _FORBIDDEN_TYPE.search(attachment.content_type):
        raise InvalidDraft(f"{where}.content_type", "multipart types and a name parameter cannot be attached")
    if attachment.content_id is not None and not _CONTENT_ID.fullmatch(attachment.content_id):
        raise InvalidDraft(f"{where}.content_id", "not a content id")
    if attachment.filename is not None and len(attachment.filename) > _MAX_FILENAME:
        raise InvalidDraft(f"{where}.filename", f"longer than {_MAX_FILENAME} characters")


# --- header fields ---


def _fields(draft: Draft) -> Iterator[str]:
    yield _addressed("From", (draft.from_,))
    for name, mailboxes in (("Reply-To", draft.reply_to), ("To", draft.to), ("Cc", draft.cc)):
        if mailboxes:
            yield _addressed(name, mailboxes)
    yield _unstructured("Subject", draft.subject)
    yield f"Date: {_date(_second(draft.date))}"
    yield f"Message-ID: {draft.message_id}"
    if draft.in_reply_to:
        yield f"In-Reply-To: {draft.in_reply_to}"
    if draft.references:
        yield "References: " + "\r\n ".join(draft.references)
    for name, value in draft.headers.items():
        yield _unstructured(name, value)


def _second(moment: dt.datetime) -> dt.datetime:
    """The moment as Date fields can say it: in UTC, without fractions."""
    return moment.astimezone(dt.UTC).replace(microsecond=0)


@functools.lru_cache(maxsize=16)  # all mail of one second says the same
def _date(utc: dt.datetime) -> str:
    """RFC 5322 3.3."""
    return (
        f"{_DAYS[utc.weekday()]}, {utc.day:02} {_MONTHS[utc.month - 1]} {utc.year:04} "
        f"{utc.hour:02}:{utc.minute:02}:{utc.second:02} +0000"
    )


def _unstructured(name: str, value: str) -> str:
    """`Name: value`, folded; encoded words only where ASCII cannot say it as it is."""
    room = _AIM - len(name) - 2
    if value.isascii() and value.strip() == value and not words.looks_encoded(value):
        if len(value) <= room:
            return f"{name}: {value}"
        folded = _folded(name, value)
        if folded is not None:
            return folded
    return f"{name}: " + "\r\n ".join(words.encode(value, len(name) + 2))


def _folded(name: str, value: str) -> str | None:
    """Fold before spaces (RFC 5322 2.2.3), so that taking the CRLFs out gives `value` back; None: a word too long."""
    lines: list[str] = []
    line, begun = f"{name}:", False
    for word in value.split(" "):
        if begun and word and len(line) + 1 + len(word) > _AIM:
            lines.append(line)
            line, begun = "", False
        line += " " + word
        begun = begun or bool(word)
        if len(line) > MAX_LINE:
            return None
    return "\r\n".join([*lines, line])


def addressed(name: str, mailboxes: Sequence[Mailbox]) -> bytes:
    """A field of addresses, folded, without its last line end."""
    return _addressed(name, mailboxes).encode()


def _addressed(name: str, mailboxes: Sequence[Mailbox]) -> str:
    lines: list[str] = []
    line = f"{name}: "
    for index, mailbox in enumerate(mailboxes):
        written = _mailbox(mailbox, len(line)) + ("," if index + 1 < len(mailboxes) else "")
        if index and len(line) + len(written) > _AIM:
            lines.append(line.rstrip(" "))
            line = " "
        line += written + " "
    return "\r\n".join([*lines, line.rstrip(" ")])


def _mailbox(mailbox: Mailbox, column: int) -> str:
    """RFC 5322 3.4. The domain goes in A-labels; a UTF-8 local part stays, for SMTPUTF8 (RFC 6532)."""
    spec = f"{mailbox.address.local}@{_domain(mailbox)}"
    name = (mailbox.name or "").strip()
    if not name:
        return spec
    if name.isascii() and len(name) <= _MAX_NAME and not words.looks_encoded(name):
        if not _PHRASE.fullmatch(name):
            escaped = name.replace("\\", "\\\\").replace('"', '\\"')
            name = f'"{escaped}"'
        return f"{name} <{spec}>"
    encoded = words.encode(name, column % _AIM)
    last = " " if column + len(encoded[-1]) + len(spec) + 4 <= _AIM else "\r\n "
    return "\r\n ".join(encoded) + f"{last}<{spec}>"


def _domain(mailbox: Mailbox) -> str:
    domain = mailbox.address.domain
    return domain if domain.isascii() else mailbox.address.ascii_domain


# --- bodies and parts; each is its fields, an empty line and its content ---


def _root(draft: Draft) -> bytes:
    inline = [file for file in draft.attachments if _is_inline(draft, file)]
    attached = [file for file in draft.attachments if not _is_inline(draft, file)]
    body = _bodies(draft, inline)
    return _multipart("mixed", [body, *(_file(draft, file) for file in attached)]) if attached else body


def _is_inline(draft: Draft, file: Attachment) -> bool:
    return bool(draft.html) and file.content_id is not None


def _bodies(draft: Draft, inline: list[Attachment]) -> bytes:
    if not draft.html:
        return _text("plain", draft.text or "")
    shown = _text("html", draft.html)
    if inline:  # RFC 2387
        shown = _multipart("related", [shown, *(_file(draft, file) for file in inline)], '; type="text/html"')
    return _multipart("alternative", [_text("plain", draft.text), shown]) if draft.text else shown


def _multipart(subtype: str, parts: list[bytes], parameter: str = "") -> bytes:
    """RFC 2046 5.1. The boundary is drawn, not searched for: 96 random bits."""
    boundary = "=_" + os.urandom(12).hex()
    opening = f'Content-Type: multipart/{subtype}{parameter};\r\n boundary="{boundary}"\r\n\r\n'.encode()
    delimiter = f"\r\n--{boundary}\r\n".encode()
    return b"".join([opening, delimiter[2:], delimiter.join(parts), delimiter[:-2], b"--\r\n"])


def _text(subtype: str, text: str) -> bytes:
    text = _lf(text)
    octets = text.replace("\n", "\r\n").encode()
    if not text.isascii():
        return f"Content-Type: text/{subtype}; charset=utf-8\r\n".encode() + _base64(octets)
    opening = f"Content-Type: text/{subtype}; charset=us-ascii\r\n".encode()
    if _is_7bit(text):
        return opening + b"Content-Transfer-Encoding: 7bit\r\n\r\n" + octets
    return opening + _base64(octets)


def _is_7bit(text: str) -> bool:
    """Short lines, and none that mailbox files or old relays would change (which would break its DKIM signature)."""
    octets = text.encode()
    if len(octets.translate(None, _ODD)) != len(octets) or text.count("\n--") > _MAX_DASHES:
        return False
    if text.startswith("From ") or "\nFrom " in text:
        return False
    return len(text) <= _LONGEST or max(map(len, text.split("\n"))) <= _LONGEST


def _file(draft: Draft, file: Attachment) -> bytes:
    disposition = "inline" if _is_inline(draft, file) else "attachment"
    lines = [f"Content-Type: {_type(draft, file)}", f"Content-Disposition: {disposition}{_filename(file.filename)}"]
    if file.content_id is not None:
        lines.append(f"Content-ID: <{file.content_id}>")
    opening = ("\r\n".join(lines) + "\r\n").encode()
    if _type(draft, file).lower().startswith("message/"):
        return opening + b"Content-Transfer-Encoding: 7bit\r\n\r\n" + file.content
    return opening + _base64(file.content)


def _type(draft: Draft, file: Attachment) -> str:
    """Its content type; attached mail must stand there unencoded (RFC 2046 5.2.1), and is a mere file if it cannot."""
    if not _is_message(file):
        return file.content_type
    total = sum(len(other.content) for other in draft.attachments if _is_message(other))
    return file.content_type if total <= _MAX_MESSAGES and _is_plain(file.content) else "application/octet-stream"


def _is_message(file: Attachment) -> bool:
    return file.content_type.lower().startswith("message/")


def _is_plain(content: bytes) -> bool:
    """May it stand in a message unencoded?"""
    bare = content.replace(b"\r\n", b"")
    if not content.isascii() or b"\r" in bare or b"\n" in bare or b"\x00" in bare:
        return False
    return max(map(len, content.split(b"\r\n"))) <= MAX_LINE


def _filename(filename: str | None) -> str:
    """The parameter, on lines of its own: quoted where it is plain, else as RFC 2231 3 and 4 have it."""
    if not filename:
        return ""
    if _PLAIN_FILENAME.fullmatch(filename) and filename.strip() == filename and not words.looks_encoded(filename):
        return f';\r\n filename="{filename}"'
    pieces = [""]
    for character in filename:
        unit = "".join(chr(o) if o in _FILENAME_SAFE else f"%{o:02X}" for o in character.encode())
        if len(pieces[-1]) + len(unit) > 54:
            pieces.append("")
        pieces[-1] += unit
    if len(pieces) == 1:
        return f";\r\n filename*=utf-8''{pieces[0]}"
    start = [f";\r\n filename*0*=utf-8''{pieces[0]}"]
    return "".join(start + [f";\r\n filename*{index}*={piece}" for index, piece in enumerate(pieces[1:], start=1)])


def _base64(content: bytes) -> bytes:
    """The transfer encoding's field, the empty line, and lines of 76 (RFC 2045 6.8)."""
    encoded = binascii.b2a_base64(content, newline=False)
    lines = [encoded[start : start + 76] for start in range(0, len(encoded), 76)]
    return b"Content-Transfer-Encoding: base64\r\n\r\n" + b"\r\n".join(lines)


def _ended(message: bytes) -> bytes:
    return message if message.endswith(b"\r\n") else message + b"\r\n"


def _lf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


# --- reading it again ---


def _check_head(head: header.Head, draft: Draft) -> None:
    found: dict[str, list[str]] = {}
    for name, value in head.fields:
        found.setdefault(name.lower(), []).append(value)
    _same("the list of headers", {name: len(values) for name, values in found.items()}, _counted_names(draft))
    for name, mailboxes in (("from", (draft.from_,)), ("to", draft.to), ("cc", draft.cc), ("reply-to", draft.reply_to)):
        if mailboxes:
            _same(name, header.addresses(found[name][0]), tuple(map(_expected, mailboxes)))
    _same("subject", header.decode(found["subject"][0]), draft.subject)
    _same("date", _date_read(found["date"][0]), _second(draft.date))
    _same("message-id", found["message-id"][0], draft.message_id)
    if draft.in_reply_to:
        _same("in-reply-to", found["in-reply-to"][0], draft.in_reply_to)
    if draft.references:
        _same("references", found["references"][0], " ".join(draft.references))
    for name, value in draft.headers.items():
        if value not in [header.decode(written) for written in found[name.lower()]]:
            raise ComposeMismatch(f"header {name} is not what was asked for")


def _counted_names(draft: Draft) -> dict[str, int]:
    """How often there must be a field of each lower-case name."""
    counted = dict(_ALWAYS)
    if not draft.attachments and not (draft.text and draft.html):  # one part, which has an encoding
        counted["content-transfer-encoding"] = 1
    for name, asked in (
        ("to", draft.to),
        ("cc", draft.cc),
        ("reply-to", draft.reply_to),
        ("in-reply-to", draft.in_reply_to),
        ("references", draft.references),
    ):
        if asked:
            counted[name] = 1
    for name in map(str.lower, draft.headers):
        counted[name] = counted.get(name, 0) + 1
    return counted


@functools.lru_cache(maxsize=16)  # as for `_date`
def _date_read(value: str) -> dt.datetime | None:
    return header.date(value)


def _expected(mailbox: Mailbox) -> header.NamedAddress:
    name = (mailbox.name or "").strip() or None
    return header.NamedAddress(name=name, address=f"{mailbox.address.local}@{_domain(mailbox)}")


_ALWAYS: Final = dict.fromkeys(("from", "subject", "date", "message-id", "mime-version", "content-type"), 1)
_PART_FIELDS: Final = frozenset(
    ["content-type", "content-transfer-encoding", "content-disposition", "content-id", "mime-version"]
)


def _check_parts(parts: list[parse.Part], draft: Draft) -> None:
    bodies = [(kind, text) for kind, text in (("text/plain", draft.text), ("text/html", draft.html)) if text]
    bodies = bodies or [("text/plain", "")]
    files = sorted(draft.attachments, key=lambda file: not _is_inline(draft, file))
    _same("number of parts", len(parts), len(bodies) + len(files))
    for part, (kind, text) in zip(parts, bodies, strict=False):
        read, asked = part.content.decode(errors="replace").replace("\r\n", "\n"), _lf(text)
        if part.content_type != kind or not part.is_body or (read != asked and read != asked + "\n"):
            raise ComposeMismatch(f"the {kind} body is not what was asked for")
    for part, file in zip(parts[len(bodies) :], files, strict=True):
        kind = _type(draft, file).partition(";")[0].lower()
        told = (kind, file.content_id, file.filename or None)
        _same("attachment", (part.content_type, part.content_id, part.filename), told)
        _same("attachment's content", part.content == file.content, True)
        if not _PART_FIELDS.issuperset(map(str.lower, part.fields)):
            raise ComposeMismatch("an attachment has more fields than were asked for")


def _same(what: str, found: object, asked: object) -> None:
    if found != asked:
        raise ComposeMismatch(f"{what} is not what was asked for")
