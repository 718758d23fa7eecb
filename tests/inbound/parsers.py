"""Parsers that behave badly on demand, for the children of a ParsingPool."""

from __future__ import annotations

import os
import time
from dataclasses import replace

from gateway.mail import parse

LIES = {b"lie": "this is not a Parsed", b"flood": "x" * 50_000_000}  # the flood is more than any mail can become


def obedient(raw: bytes) -> object:
    """Does what the mail says."""
    order, _, argument = raw.partition(b" ")
    if order == b"hang":
        time.sleep(3600)
    elif order == b"touch":  # says that it began, then hangs
        with open(argument.rstrip(b"\0"), "wb") as began:  # noqa: PTH123 - bytes are a path here
            began.write(str(os.getpid()).encode())
        time.sleep(3600)
    elif order == b"exit":
        os._exit(1)
    elif order == b"raise":
        raise RecursionError
    elif order == b"eat":
        bytearray(2 << 30)
    elif order in LIES:
        return LIES[order]
    elif order == b"print":
        os.write(1, b"stray output")
    elif order == b"environment":
        return parse.parse_slow(b"Subject: " + ",".join(sorted(os.environ)).encode() + b"\r\n\r\n")
    elif order == b"process":
        return parse.parse_slow(b"Subject: %d\r\n\r\n" % os.getpid())
    return parse.parse_slow(raw)


def spinning(raw: bytes) -> object:
    """Is kept busy by some mail; writes a line for each time that somebody tries."""
    order, _, argument = raw.partition(b" ")
    if order != b"spin":
        return obedient(raw)
    with open(argument, "ab") as tries:  # noqa: PTH123 - bytes are a path here
        tries.write(b"again\n")
    while True:
        pass


def poisonous(raw: bytes) -> object:
    """Finds what no database takes."""
    return replace(parse.parse_slow(raw), subject="a\0b")


def cutting(raw: bytes, index: int) -> object:
    """The same for attachments."""
    if raw.startswith(b"Subject: odd"):
        return parse.attachment_slow(raw, index)
    return obedient(raw)
