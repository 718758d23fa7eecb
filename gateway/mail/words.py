"""Encoded words (RFC 2047): how text that is not ASCII stands in a header, both ways, in linear time."""

from __future__ import annotations

import binascii
import itertools
import re
from collections.abc import Iterator
from typing import Final

from gateway.mail import charsets

MAX_WORDS = 1000  # decoded per value; what stands behind them stays as it came

# How a word begins. Every repetition is bounded: linear. RFC 2231 5 adds "*language".
_HEAD = re.compile(r"=\?([^?*\s]{1,64})(?:\*[^?\s]{0,64})?\?([bBqQ])\?")
_WORD = re.compile(_HEAD.pattern + r"([^?]*)\?=")  # each '?' ends a group, so that this is linear, too
_NO_BASE64 = re.compile(rb"[^A-Za-z0-9+/]")
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
    because senders cut characters in two. Words may hold spaces and question marks, which they should not.
    """
    if "=?" not in value:
        return value
    out: list[str] = []
    pending: list[bytes] = []
    charset, position = "", 0
    for count, (start, end, charset_of, encoding, payload) in enumerate(_words(value)[:MAX_WORDS]):
        between = value[position:start]
        gap = bool(count) and _GAP.fullmatch(between) is not None
        if not gap or charset_of.lower() != charset:
            out.append(_joined(pending, charset))
            pending = []
            charset = charset_of.lower()
        if not gap:
            out.append(between)
        pending.append(_octets(encoding, payload))
        position = end
    out += (_joined(pending, charset), value[position:])
    return "".join(out)


def _words(value: str) -> list[tuple[int, int, str, str, str]]:
    """The encoded words in their order: where each begins and ends, its charset, encoding and payload."""
    found = [(word.start(), word.end(), word[1], word[2], word[3]) for word in _WORD.finditer(value)]
    return found if value.count("?") == len(found) * 4 else list(_odd_words(value))


def _odd_words(value: str) -> Iterator[tuple[int, int, str, str, str]]:
    """The same where question marks stand in words. A beginning without an end before the next beginning is none."""
    end = close = 0
    heads = _HEAD.finditer(value)
    for head, following in itertools.pairwise(itertools.chain(heads, [None])):
        if head is None or head.start() < end:
            continue
        if close < head.end():
            close = value.find("?=", head.end())
        if close < 0:
            return
        payload = value[head.end() : close]
        if (following and following.start() < close) or ("?" in payload and head[2] in "bB"):
            continue
        end = close + 2
        yield head.start(), end, head[1], head[2], payload


def unbase64(data: bytes) -> bytes:
    """Octets out of base64 as it comes: without padding, with strange characters, cut off anywhere. Never raises."""
    if b"=" in data.rstrip(b"= \t\r\n"):  # several texts, each with its padding
        return b"".join(map(_one_base64, data.split(b"=")))
    return _one_base64(data)


def _one_base64(data: bytes) -> bytes:
    try:
        return binascii.a2b_base64(data + b"==")
    except binascii.Error:  # one character too many: what it belonged to is lost
        return binascii.a2b_base64(_NO_BASE64.sub(b"", data)[:-1] + b"==")


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
    return unbase64(data)


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
