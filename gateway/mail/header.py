"""Header blocks of mail that others wrote: fields in their order, duplicates and all, and what stands in them.

Nothing here raises, and everything here takes time linear in what it is given: a stranger chose the bytes.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gateway.mail import charsets, words

MAX_BLOCK = 262_144  # octets of a header block that are looked at
MAX_FIELDS = 1000
MAX_HOPS = 50  # Received fields; mail with more goes in circles (RFC 5321 6.3)
MAX_MAILBOXES = 1000  # read from one field
_MAX_ADDRESSES = 65_536  # characters of an address field that are looked at
_MAX_TOKENS = 20_000
MAX_IDS = 200  # read from one References; the newest are at its end

# One field with what RFC 5322 2.2.3 folds into it, or else one line that is none; 4.5 allows space before the colon.
_LINE = re.compile(r"([!-9;-~]+)[ \t]*:[ \t]*(.*(?:\n[ \t].*)*)\n?|(.+)\n?|\n")
_CONTROLS = re.compile("[\x01-\x1f\x7f-\x9f\u2028\u2029]")
# The mailboxes that nearly everybody writes: "a name" <a@b.c>, a name <a@b.c>, a@b.c.
# No two neighbours in it can match the same character, so that a failed attempt is linear.
_MAILBOX = re.compile(
    r'(?:(?:[ \t]*"([^"\\]*)"[ \t]*|([^"<>,;:()\\]*))<([^<>":@\s]+@[^<>":@\s]+)>'
    r'|[ \t]*([^\s"<>,;:()\\@]+@[^\s"<>,;:()\\@]+))[ \t]*(?:,|\Z)'
)
_TOKENS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*\\?(?:"|\Z)|[<>,;:()]|[^"<>,;:()]+', re.DOTALL)
_PAIR = re.compile(r"\\(.)", re.DOTALL)
_ID = re.compile(r"<[^<>\s]+>")
_DATE = re.compile(
    r"(?:[A-Za-z]{3},? )? ?(\d{1,2}) ([A-Za-z]{3}) (\d{4}) "
    r"(\d\d):(\d\d)(?::(\d\d))? (?:([+-])(\d\d)(\d\d)|GMT|UTC?|Z)\b"
)
# One parameter of a structured field (RFC 2045 5.1, RFC 2231 3): name, section, "*", value. A quote that nothing but
# more value follows belongs to the value: senders forget the backslash.
_PARAMETER = re.compile(
    r';\s*([^\s=;"*]{1,64})(?:\*(\d{1,3}))?(\*)?\s*=\s*(?:"([^"\\]*(?:(?:\\.|"(?!\s*(?:;|\Z)))[^"\\]*)*)"?|([^;]*))',
    re.DOTALL,
)
_QUOTED_PAIR = re.compile(r'\\(["\\])')  # no other: Windows' paths come with single backslashes
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")
_MAX_PARAMETERS = 200
_RECEIVED = re.compile(rb"^received[ \t]*:", re.IGNORECASE | re.MULTILINE)
_MAX_STRUCTURED = 16_384  # characters of a field that are searched for parameters
# What makes a name look like another one: the direction of writing turned round, marks that cannot be seen.
_DECEPTIVE = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_PATH = re.compile(r"\\|\A(?:/|[A-Za-z]:)|(?:\A|/)\.\.?(?:/|\Z)")
_HARMLESS = re.compile(r"\w[\w .,()+-]{0,250}\w", re.ASCII)
_MAX_FILENAME = 255  # characters
_MAX_SUFFIX = 16
_MAX_DATE = 200  # characters; the forgiving parser sees no more
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedAddress:
    """A mailbox as somebody's header has it; neither part need be valid."""

    name: str | None  # decoded; never empty
    address: str  # as it stands in the header; empty where there was only a name


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """The header block of a message, unfolded, its encoded words not yet decoded."""

    fields: tuple[tuple[str, str], ...]  # (name, value) in their order; at most MAX_FIELDS
    size: int  # octets of the block, up to and without the empty line; all of the message where there is none
    complete: bool  # False: the block is longer than was looked at, or has more fields than MAX_FIELDS
    malformed: int  # lines that are no field, and were left out; a From line of a mbox at the front does not count

    def first(self, name: str) -> str | None:
        """The undecoded value of the first field of that lower-case name."""
        for field, value in self.fields:
            if field.lower() == name:
                return value
        return None


def scan(raw: bytes, limit: int = MAX_BLOCK) -> Head:
    """Read the header block at the front of `raw`; looks at no more than `limit` octets."""
    size, complete = _block(raw, limit)
    block = raw[:size]
    try:
        lines, repair = _LINE.findall(block.decode()), False  # RFC 6532: header fields may be UTF-8
    except UnicodeDecodeError:
        lines, repair = _LINE.findall(block.decode("latin-1")), True
    fields = [(name, _unfolded(value) if "\n" in value else value.rstrip()) for name, value, _ in lines if name]
    if repair:
        fields = [(name, _repaired(value)) for name, value in fields]
    return Head(
        fields=tuple(fields[:MAX_FIELDS]),
        size=size,
        complete=complete and len(fields) <= MAX_FIELDS,
        malformed=sum(1 for _, _, junk in lines if junk and not junk.isspace()) - block.startswith(b"From "),
    )


def loops(raw: bytes) -> bool:
    """Whether the message has come through more than MAX_HOPS hosts; looks at the same octets as `scan`."""
    size, _ = _block(raw, MAX_BLOCK)
    if raw.count(b"\n", 0, size) <= MAX_HOPS:  # nearly always
        return False
    return sum(1 for _ in itertools.islice(_RECEIVED.finditer(raw, 0, size), MAX_HOPS + 1)) > MAX_HOPS


def decode(value: str) -> str:
    """An unfolded value as a person reads it: encoded words decoded, one line, storable."""
    if "=?" in value:
        value = words.decode(value)
    if value.isprintable():  # neither controls nor surrogates, which is nearly always so
        return value
    return charsets.clean(_CONTROLS.sub(" ", value))


def parameters(value: str) -> dict[str, str]:
    """The parameters of a Content-Type or Content-Disposition by lower-case name, continuations joined, percent signs
    and charsets undone (RFC 2231). Where a name comes twice the extended form counts, else the first."""
    plain: dict[str, str] = {}
    sections: dict[str, list[tuple[int, bool, str]]] = {}
    for match in itertools.islice(_PARAMETER.finditer(value[:_MAX_STRUCTURED]), _MAX_PARAMETERS):
        name, number, extended, quoted, bare = match.groups()
        text = bare.strip() if quoted is None else _QUOTED_PAIR.sub(r"\1", quoted)
        if number or extended:
            sections.setdefault(name.lower(), []).append((int(number or 0), bool(extended), text))
        else:
            plain.setdefault(name.lower(), text)
    return plain | {name: _extended(found) for name, found in sections.items()}


def _extended(sections: list[tuple[int, bool, str]]) -> str:
    """RFC 2231 3 and 4: the sections in their order; the first may begin with charset'language'."""
    sections.sort(key=lambda section: section[0])
    charset: str | None = None
    octets = b""
    for index, (_, encoded, section) in enumerate(sections):
        text = section
        if encoded and index == 0 and section.count("'") >= 2:
            charset, _, text = section.split("'", 2)
        data = text.encode("utf-8", "surrogateescape")
        octets += _PERCENT.sub(lambda match: bytes.fromhex(match[1].decode()), data) if encoded else data
    return charsets.decode(octets, charset)[0]


def filename(text: str) -> str | None:
    """A sender's file name as a label that misleads nobody: one decoded line without a path or marks that turn the
    direction of writing, at most 255 characters, its suffix kept. None where nothing is left. Never a path to use."""
    if _HARMLESS.fullmatch(text):
        return text
    text = _DECEPTIVE.sub("", decode(text)).strip()
    if _PATH.search(text):
        text = text.replace("\\", "/").rstrip("/").rpartition("/")[2].rpartition(":")[2]
    text = text.replace("/", "_").replace("\\", "_").strip()
    if len(text) > _MAX_FILENAME:
        stem, dot, suffix = text.rpartition(".")
        kept = dot + suffix if stem and len(suffix) < _MAX_SUFFIX else ""
        text = text[: _MAX_FILENAME - len(kept)] + kept
    return None if text in {"", ".", ".."} else text


def addresses(value: str) -> tuple[NamedAddress, ...]:
    """Every mailbox of an unfolded address field, groups flattened (RFC 5322 3.4); keeps what can be kept."""
    value = value[:_MAX_ADDRESSES]
    found: list[NamedAddress] = []
    position = 0
    while position < len(value) and len(found) < MAX_MAILBOXES:
        match = _MAILBOX.match(value, position)
        if match is None:  # comments, groups, routes, mistakes
            return tuple(itertools.islice(_tokenized(value), MAX_MAILBOXES))
        quoted, phrase, angle, bare = match.groups()
        found.append(_named(quoted or phrase or "", bare or angle))
        position = match.end()
    return tuple(found)


def ids(value: str) -> tuple[str, ...]:
    """The message ids of a Message-ID, In-Reply-To or References field, angle brackets included."""
    return tuple(decode(found) for found in _ID.findall(value)[-MAX_IDS:])


def date(value: str) -> dt.datetime | None:
    """A Date field's instant in UTC; None where nobody could say which it is."""
    match = _DATE.match(value)
    try:
        if match:
            return _plain_date(match)
        parsed = email.utils.parsedate_to_datetime(value[:_MAX_DATE])
        if parsed.tzinfo is None:
            parsed = parsed.replace(tzinfo=dt.UTC)  # RFC 5322 3.3: -0000, of an unknown zone, in UTC
        return parsed.astimezone(dt.UTC)
    except (ValueError, TypeError, IndexError, OverflowError, KeyError, AttributeError):
        return None  # the stdlib raises all of these on dates found in the wild


def _block(raw: bytes, limit: int) -> tuple[int, bool]:
    if raw[:1] == b"\n" or raw[:2] == b"\r\n":
        return 0, True
    end = raw.find(b"\n\r\n", 0, limit)
    bare = raw.find(b"\n\n", 0, limit if end < 0 else end)
    end = bare if bare >= 0 else end
    if end >= 0:
        return end + 1, True
    return min(len(raw), limit), len(raw) <= limit


def _unfolded(value: str) -> str:
    return value.replace("\r\n", "").replace("\n", "").replace("\t", " ").strip()


def as_sent(value: str) -> str:
    """A value in which a parser took octets above 127 for latin-1: read as UTF-8 or windows-1252 if it can be."""
    if value.isascii():
        return value
    try:
        return charsets.decode(value.encode("latin-1"), None)[0]
    except UnicodeEncodeError:
        return value


def _repaired(value: str) -> str:
    return value if value.isascii() else charsets.decode(value.encode("latin-1"), None)[0]


def _plain_date(match: re.Match[str]) -> dt.datetime:
    day, month, year, hour, minute, second, sign, hours, minutes = match.groups()
    seconds = min(int(second or 0), 59)  # RFC 5322 3.3 allows the leap second that datetime does not
    moment = dt.datetime(
        int(year), _MONTHS.index(month.lower()) + 1, int(day), int(hour), int(minute), seconds, tzinfo=dt.UTC
    )
    if sign is None:
        return moment
    offset = dt.timedelta(0, int(hours) * 3600 + int(minutes) * 60)
    return moment - offset if sign == "+" else moment + offset


def _bare(text: str) -> NamedAddress:
    """A mailbox without angle brackets: the word with the @ is the address; else all of it is one or a name."""
    tokens = text.split()
    spec = next((token for token in tokens if "@" in token), "")
    if not spec and len(tokens) == 1:
        spec = tokens[0]
    return _named(" ".join(token for token in tokens if token is not spec), spec)


def _named(name: str, spec: str) -> NamedAddress:
    spec = spec.strip()
    if spec.startswith("@"):  # RFC 5322 4.4 obs-route
        spec = spec.rpartition(":")[2] or spec
    name = decode(name.strip()).strip() if name else ""
    return NamedAddress(name=name or None, address=spec if spec.isprintable() else decode(spec))


@dataclass(slots=True)
class _Mailbox:
    """A mailbox while its tokens come in."""

    phrase: str = ""  # what came so far, quotes taken off
    spec: str | None = None  # what stood between < and >, or a quoted local part with its domain
    comment: str = ""
    quoted: str = ""  # the last quoted string as it came; it may turn out to be a local part

    def named(self) -> NamedAddress | None:
        if self.spec is not None:
            found = _named(self.phrase or self.comment, self.spec)
            return found if found.name or found.address else None
        if not self.phrase.strip():
            return None
        if self.quoted and "@" not in self.phrase:
            return _named(self.phrase, "")
        bare = _bare(self.phrase)
        return bare if bare.name else _named(self.comment, bare.address)

    def add(self, piece: str) -> None:
        if piece.startswith('"'):
            self.quoted = piece
            self.phrase += _PAIR.sub(r"\1", piece[1:-1] if piece[-1] == '"' and len(piece) > 1 else piece[1:])
        elif self.quoted and piece.startswith("@"):  # "john doe"@example.com
            self.phrase, self.spec = "", self.quoted + piece.strip()
        else:
            self.phrase += piece


def _tokenized(value: str) -> Iterator[NamedAddress]:
    depth, angle = 0, False
    current = _Mailbox()
    for piece in (match[0] for match in itertools.islice(_TOKENS.finditer(value), _MAX_TOKENS)):
        if depth or piece in "()":
            depth = max(depth + (piece == "(") - (piece == ")"), 0)
            current.comment += "" if piece in "()" else piece
        elif angle and piece != ">":
            current.spec = (current.spec or "") + piece
        elif piece in "<>":
            angle = piece == "<"
            current.spec = current.spec or ""
        elif piece in ":,;":
            mailbox, current = current.named(), _Mailbox()
            if mailbox and piece != ":":  # before a colon stands the name of a group, which is structure
                yield mailbox
        else:
            current.add(piece)
    if mailbox := current.named():
        yield mailbox
