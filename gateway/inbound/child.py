"""The child of `inbound.parsing`: parses, cleans or renders what may take too long, until it is killed.

    python -m gateway.inbound.child module:reader module:cutter seconds seconds-of-processor

It reads frames from its standard input and writes frames to its standard output. It ends with its parent: at the end of
its input when idle, by its alarm when not; and by SIGPROF where one mail has taken all the processor that it may. It
imports little, since whoever waits for it waits for that, too.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from typing import BinaryIO

import msgspec

from gateway.mail import parse

MEMORY_BYTES = 1 << 30  # address space of a child

REQUEST = struct.Struct(">iI")  # index of the attachment that is wanted, or one of _SHAPES, and size; then the mail
WHOLE, FRONT, SHOWN, TEXT, HTML = -1, -2, -3, -4, -5
_SHAPES: dict[int, Callable[[parse.Parsed], object]] = {
    FRONT: parse.front,
    SHOWN: parse.shown,
    TEXT: lambda parsed: octets(parsed.text),
    HTML: lambda parsed: octets(parsed.html),
}
ANSWER = struct.Struct(">cI")  # kind, size; then that many bytes of MessagePack
READY, PARSED, MISSING, FAILED = b"R", b"P", b"M", b"F"


def octets(body: str | None) -> bytes | None:
    """A body in UTF-8."""
    return None if body is None else body.encode()


def serve(function: str, cutter: str, seconds: float, processor: float) -> None:
    """Answers mails until its input ends. One that takes longer than `seconds`, or more than `processor` seconds of
    the processor, ends the process (0 = as much as it wants)."""
    parser, cut = _load(function), _load(cutter)
    requests, answers = _channels()
    for name in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, who decides
        signal.signal(name, signal.SIG_IGN)
    _write(answers, READY, b"")
    while head := requests.read(REQUEST.size):
        wanted, size = REQUEST.unpack(head)
        raw = requests.read(size)
        signal.setitimer(signal.ITIMER_REAL, seconds)  # SIGALRM, never caught
        signal.setitimer(signal.ITIMER_PROF, processor)  # SIGPROF likewise
        kind, body = _answer(cut, raw, wanted) if wanted >= 0 else _answer(_shaped, parser, raw, wanted)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(answers, kind, body)


def _shaped(parser: Callable[..., object], raw: bytes, wanted: int) -> object:
    found = parser(raw)
    return _SHAPES[wanted](found) if wanted in _SHAPES and isinstance(found, parse.Parsed) else found


def _load(function: str) -> Callable[..., object]:
    module, _, name = function.partition(":")
    loaded: Callable[..., object] = getattr(importlib.import_module(module), name)
    return loaded


def _channels() -> tuple[BinaryIO, BinaryIO]:
    """Input and output for frames alone. What a library prints goes nowhere: it could be somebody's mail."""
    with contextlib.suppress(ValueError, OSError):  # not every system limits it
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    return requests, answers


def _answer(function: Callable[..., object], *arguments: object) -> tuple[bytes, bytes]:
    try:
        return PARSED, msgspec.msgpack.encode(function(*arguments))
    except IndexError:
        return MISSING, b""
    except Exception:  # noqa: BLE001 - whatever hostile mail does to a parser, the next mail is parsed
        return FAILED, b""


def _write(answers: BinaryIO, kind: bytes, body: bytes) -> None:
    answers.write(ANSWER.pack(kind, len(body)))
    answers.write(body)
    answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
