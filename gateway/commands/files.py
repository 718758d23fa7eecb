"""Mail as it lies in files: mbox, maildir, .eml and NDJSON, with the envelopes that an export writes beside it.

An export keeps every byte. What it writes is known again by its marks, and is brought in as it is; mail from elsewhere
that has Unix line ends gets those of SMTP (RFC 5321 section 2.3.8).

    mbox     mboxrd (">From " is quoted with one more ">"), each mail under X-Postroom-Export, -Mail-From and -Rcpt-To
    maildir  and eml: a file for each; postroom-export.ndjson in the folder has the envelopes
    ndjson   one JSON object a line: raw (base64), envelope, and what the API tells of the message
"""

from __future__ import annotations

import base64
import binascii
import email.parser
import email.policy
import email.utils
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

INDEX: Final = "postroom-export.ndjson"
MARK: Final = b"X-Postroom-Export: size="
FROM_MARK: Final = b"X-Postroom-Mail-From: "
TO_MARK: Final = b"X-Postroom-Rcpt-To: "
_QUOTED: Final = re.compile(rb"^>(>*From )", re.MULTILINE)
_TO_QUOTE: Final = re.compile(rb"^(>*From )", re.MULTILINE)
_FROM_LINE: Final = re.compile(rb"From (\S*)")
_HEADER_END: Final = re.compile(rb"\r?\n\r?\n")
_FOR: Final = ("delivered-to", "x-original-to", "envelope-to", "x-envelope-to")
HEADER_BYTES: Final = 262_144  # looked at for an envelope


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A mail in a file."""

    source: str  # where: "mail.mbox#17", "cur/123.eml"
    raw: bytes
    mail_from: str | None  # None = not known
    rcpt_to: tuple[str, ...]  # empty = not known
    end: float  # how far into the source it reaches: bytes of an mbox, files of a folder


class Unreadable(Exception):
    """There is no mail in it."""


# mbox


def read_mbox(stream: BinaryIO, name: str) -> Iterator[Found]:
    """Mails in their order."""
    end = 0
    for number, (first, body) in enumerate(_apart(stream), 1):
        end += len(first) + len(body)
        yield _of_mbox(first, body, f"{name}#{number}", end)


def _apart(stream: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Each mail's From_ line, and what follows it, with the empty line at its end."""
    first, after_empty = b"", True
    lines: list[bytes] = []
    for line in stream:
        if after_empty and line.startswith(b"From "):
            if first:
                yield first, b"".join(lines)
            first, lines = line, []
        elif first:
            lines.append(line)
        elif line.strip():
            raise Unreadable("no mbox: its first line does not begin with From")
        after_empty = line in (b"\n", b"\r\n")
    if first:
        yield first, b"".join(lines)


def _of_mbox(first: bytes, body: bytes, source: str, end: int) -> Found:
    sender = _FROM_LINE.match(first)
    said = sender[1].decode("utf-8", "replace") if sender else ""
    mail_from = "" if said in {"<>", "MAILER-DAEMON", "-"} else said
    if body.startswith(MARK):
        size, mail_from, rcpt_to, rest = _marks(body)
        return Found(source=source, raw=_QUOTED.sub(rb"\1", rest)[:size], mail_from=mail_from, rcpt_to=rcpt_to, end=end)
    raw = _QUOTED.sub(rb"\1", re.sub(rb"\r?\n\r?\n\Z", lambda found: found[0][: len(found[0]) // 2], body))
    return _foreign(source, raw, mail_from if "@" in mail_from or not mail_from else None, end)


def _marks(body: bytes) -> tuple[int, str, tuple[str, ...], bytes]:
    """What an export wrote above a mail, and what follows it."""
    line, _, rest = body.partition(b"\n")
    size, rcpt_to = int(line.removeprefix(MARK)), []
    line, _, rest = rest.partition(b"\n")
    mail_from = line.removeprefix(FROM_MARK).decode()
    while rest.startswith(TO_MARK):
        line, _, rest = rest.partition(b"\n")
        rcpt_to.append(line.removeprefix(TO_MARK).decode())
    return size, mail_from, tuple(rcpt_to), rest


def write_mbox(raw: bytes, *, mail_from: str, rcpt_to: Sequence[str], at: str) -> bytes:
    """A mail as it stands in an mbox; `at` as asctime has it."""
    sender = "".join(mail_from.split()) or "MAILER-DAEMON"
    marks = [f"From {sender} {at}\n".encode(), MARK + b"%d\n" % len(raw), FROM_MARK + mail_from.encode() + b"\n"]
    marks += [TO_MARK + one.encode() + b"\n" for one in rcpt_to]
    return b"".join([*marks, _TO_QUOTE.sub(rb">\1", raw), b"" if raw.endswith(b"\n") else b"\n", b"\n"])


# Folders


def mails_in(folder: Path, pattern: str) -> list[Path]:
    """Files with mail below a folder, in the order of their names."""
    return sorted(one for one in folder.rglob(pattern) if one.is_file() and one.name != INDEX)


def maildir_files(folder: Path) -> list[Path]:
    """A maildir's mails, and those of the folders in it; what is in `tmp` was never delivered."""
    if not any((folder / name).is_dir() for name in ("cur", "new")):
        raise Unreadable(f"{folder} is no maildir: there is neither cur nor new in it")
    return [one for one in mails_in(folder, "*") if one.parent.name in {"cur", "new"}]


def read_files(files: Iterable[Path], folder: Path) -> Iterator[Found | tuple[str, OSError]]:
    """A mail of each; or why it cannot be read."""
    known = envelopes(folder)
    for number, file in enumerate(files, 1):
        name = str(file.relative_to(folder)) if file != folder else file.name
        try:
            raw = file.read_bytes()
        except OSError as error:
            yield name, error
            continue
        about = known.get(name.partition(":")[0])
        if about is None:
            yield _foreign(name, raw, None, number)
        else:
            to = tuple(about["rcpt_to"])
            yield Found(source=name, raw=raw, mail_from=about["mail_from"], rcpt_to=to, end=number)


def envelopes(folder: Path) -> Mapping[str, Any]:
    """What an export wrote down about its files, by their names."""
    found: dict[str, Any] = {}
    index = folder / INDEX
    if index.is_file():
        for line in index.read_bytes().splitlines():
            try:
                one = json.loads(line)
            except ValueError:  # the last line of an export that was killed
                continue
            found[one["file"].partition(":")[0]] = {**one["envelope"], "id": one["id"]}
    return found


# NDJSON


def read_ndjson(stream: BinaryIO, name: str) -> Iterator[Found]:
    """A mail of each line."""
    end = 0
    for number, line in enumerate(stream, 1):
        end += len(line)
        if not line.strip():
            continue
        try:
            one = json.loads(line)
            raw = base64.b64decode(one["raw"], validate=True)
            envelope = one.get("envelope") or {}
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            raise Unreadable(f"{name}#{number}: no JSON object with `raw` in base64 ({type(error).__name__})") from None
        to = tuple(envelope.get("rcpt_to") or ())
        yield Found(source=f"{name}#{number}", raw=raw, mail_from=envelope.get("mail_from"), rcpt_to=to, end=end)


# Mail from elsewhere


def read_one(raw: bytes, name: str) -> Found:
    """A single mail."""
    return _foreign(name, raw, None, len(raw))


def _foreign(source: str, raw: bytes, mail_from: str | None, end: float) -> Found:
    """Its envelope as far as its header still has it, and line ends as SMTP has them."""
    if b"\r\n" not in raw:
        raw = raw.replace(b"\n", b"\r\n")
    header = email.parser.BytesHeaderParser(policy=email.policy.compat32).parsebytes(
        _HEADER_END.split(raw[:HEADER_BYTES], 1)[0] + b"\n\n"
    )
    fields = [(name.lower(), str(value)) for name, value in header.items()]
    if mail_from is None:
        mail_from = next((_bare(value) for name, value in fields if name == "return-path"), None)
    rcpt_to = tuple(dict.fromkeys(_bare(value) for name, value in fields if name in _FOR))
    if not rcpt_to:
        named = [value for name, value in fields if name in {"to", "cc", "bcc"}]
        rcpt_to = tuple(dict.fromkeys(address for _, address in email.utils.getaddresses(named) if "@" in address))
    return Found(source=source, raw=raw, mail_from=mail_from, rcpt_to=rcpt_to, end=end)


def _bare(value: str) -> str:
    return value.strip().removeprefix("<").removesuffix(">")
