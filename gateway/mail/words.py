"""Encoded words (RFC 2047): how text that is not ASCII stands in a header, both ways, in linear time."""

from __future__ import annotations

import binascii
import re
from typing import Final

from gateway.mail import charsets

MAX_WORDS = 1000  # decoded per value; what stands behind them stays as it came

# Each '?' ends a group, so that a failed attempt looks at four of them at most: linear. RFC 2231 5 adds "*language".
_WORD = re.compile(r"=\?([^?*\s]{1,64})(?:\*[^?\s]{0,64})?\?([bBqQ])\?([^?]*)\?=")
_HALF_WORD = re.compile(r"=\?[^?]*\?[bBqQ]\?")
_GAP = re.compile(r"[ \t\r\n]*")
_Q_ESCAPE = re.compile(rb"=([0-9A-Fa-f]{2})")
_MAX_WORD = 75  # octets, RFC 2047 2
_PREFIX: Final = "=?utf-8?"
_B_OCTETS = (_MAX_WORD - len("=?utf-8?b??=")) // 4 * 3
_Q_CHARS = _MAX_WORD - len("=?utf-8?q??=")
# Safe in a phrase as well as in a Subject (RFC 2047 5 (3)).
_Q_SAFE: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")
_Q_TABLE: Final = [
    chr(octet) if octet in _Q_SAFE else "_" if octet == 0x20 else f"={octet:02X}" for octet in range(256)
]


def decode(value: str) -> str:
    """Decode every encoded word in an unfolded header value; leave alone what is none. Never raises.

    White space between two words is dropped (RFC 2047 6.2), and neighbours of one charset are decoded together,
    because senders cut characters in two.
    """
    if "=?" not in value:
        return value
    out: list[str] = []
    pending: list[bytes] = []
    charset, position = "", 0
    for count, word in enumerate(_WORD.finditer(value)):
        if count == MAX_WORDS:
            break
        between = value[position : word.start()]
        gap = bool(count) and _GAP.fullmatch(between) is not None
        if not gap or word[1].lower() != charset:
            out.append(_joined(pending, charset))
            pending = []
            charset = word[1].lower()
        if not gap:
            out.append(between)
        pending.append(_octets(word[2], word[3]))
        position = word.end()
    out += (_joined(pending, charset), value[position:])
    return "".join(out)


def looks_encoded(text: str) -> bool:
    """Would some reader take a piece of this for an encoded word? Then it must be written as one."""
    return "=?" in text and _HALF_WORD.search(text) is not None


def encode(text: str, first: int = 0) -> list[str]:
    """Cut text into encoded words of at most 75 octets, to be joined by white space or folds.

    `first` is how many columns of the first word's line are taken already.
    """
    data = text.encode()
    quoted = "".join(map(_Q_TABLE.__getitem__, data))
    if len(quoted) * 3 <= len(data) * 4 + 8:
        return [f"{_PREFIX}q?{piece}?=" for piece in _cut_q(text, len(quoted), quoted, first)]
    return [f"{_PREFIX}b?{binascii.b2a_base64(piece, newline=False).decode()}?=" for piece in _cut_b(data, first)]


def _joined(pending: list[bytes], charset: str) -> str:
    return charsets.decode(b"".join(pending), charset)[0] if pending else ""


def _octets(encoding: str, payload: str) -> bytes:
    data = payload.encode("utf-8", "replace")
    if encoding in "qQ":
        return _Q_ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()), data.replace(b"_", b" "))
    try:
        return binascii.a2b_base64(data + b"=" * (-len(data) % 4))
    except binascii.Error:
        return data


def _cut_q(text: str, length: int, quoted: str, first: int) -> list[str]:
    room = max(_Q_CHARS - first, 12)
    if length <= room:
        return [quoted]
    pieces: list[str] = []
    line: list[str] = []
    used = 0
    for character in text:
        unit = "".join(map(_Q_TABLE.__getitem__, character.encode()))
        if used + len(unit) > room:
            pieces.append("".join(line))
            line, used, room = [], 0, _Q_CHARS
        line.append(unit)
        used += len(unit)
    return [*pieces, "".join(line)]


def _cut_b(data: bytes, first: int) -> list[bytes]:
    pieces: list[bytes] = []
    position, room = 0, max(_B_OCTETS - (first + 3) // 4 * 3, 6)
    while position < len(data):
        end = position + room
        while end < len(data) and data[end] & 0xC0 == 0x80:  # not within a character (RFC 2047 5)
            end -= 1
        pieces.append(data[position:end])
        position, room = end, _B_OCTETS
    return pieces
