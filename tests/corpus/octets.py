"""The corpora's mails as octets: as a client would send them, and spoilt at random."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Final

from tests.corpus import fetch

PATHS: Final = [path for corpus in fetch.CORPORA for path in fetch.mails(corpus)]

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BOUNDARY = re.compile(rb"\r\n(--[^\r\n]+)\r\n")
_STRUCTURE = re.compile(rb"(?i)content-|boundary=|\r\n--")
_TOKENS: Final = (
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\r\n--", b"--", b" ", b"\t", b"\x00", b"\xff", b"\xc3\xa9"),
    *(b"=?", b"?=", b"=?utf-8?b?", b'"', b";", b":", b"=", b"<", b"(", b"%00", b"filename*=", b"filename*0*="),
    *(b"boundary", b"multipart/mixed", b"multipart/alternative", b"multipart/related", b"message/rfc822"),
    *(b"base64", b"quoted-printable", b"x-uuencode", b"charset=utf-7", b"text/html", b"Content-Type: "),
)


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def sent(path: Path) -> bytes:
    """The mail as it goes over the wire: every line ends with CRLF, the last one, too."""
    raw = _LINE_END.sub(b"\r\n", path.read_bytes())
    return raw if raw.endswith(b"\r\n") else raw + b"\r\n"


def spoilt(raw: bytes, chance: random.Random) -> bytes:
    """The mail with octets changed, left out, doubled, put in, boundaries above all; sometimes cut off."""
    out = bytearray(raw)
    boundaries = _BOUNDARY.findall(raw)
    spots = [match.start() for match in _STRUCTURE.finditer(raw)]
    for _ in range(chance.randint(1, 6)):
        start = chance.randrange(len(out) + 1)
        if spots and chance.random() < 0.6:
            start = min(chance.choice(spots) + chance.randint(0, 40), len(out))
        end = min(len(out), start + chance.choice([0, 0, 1, 2, 10, 40]))
        pieces = [b"", chance.choice(_TOKENS), bytes(out[start:end]) * 2, chance.randbytes(end - start)]
        if boundaries:
            pieces.append(b"\r\n" + chance.choice(boundaries) + b"\r\n")
        out[start:end] = chance.choice(pieces)
    if chance.random() < 0.1:
        del out[chance.randrange(len(out) + 1) :]
    return bytes(out)
