"""A few worker processes that parse what may take too long, and can be killed when it does.

Hostile mail keeps a parser busy for minutes, or makes it eat all memory. So whatever is not parsed in the session is
parsed in a child process with a time limit, a memory limit and no secrets in its environment. Nobody waits for a free
one: mail that finds none is stored as it is, and parsed again later.

The child (`python -m gateway.inbound.parsing module:reader module:cutter seconds`) reads frames from its standard
input and writes frames to its standard output. It ends with its parent: at the end of its input when idle, by its alarm
when not.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import resource
import signal
import struct
import sys
from asyncio import subprocess
from collections.abc import Callable
from typing import BinaryIO, TypeVar

import msgspec
import structlog

from gateway import settings
from gateway.mail import parse

log = structlog.get_logger(__name__)

START_SECONDS = 20.0  # for a child to start and import the parser
ALARM_MARGIN = 1.0  # seconds after its parent should have killed it that a child ends itself
MEMORY_BYTES = 1 << 30  # address space of a child
INHERITED = frozenset({"PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ"})

_REQUEST = struct.Struct(">iI")  # index of the attachment that is wanted, or _WHOLE, and size; then the mail
_WHOLE = -1
_ANSWER = struct.Struct(">cI")  # kind, size; then that many bytes of MessagePack
_READY, _PARSED, _MISSING, _FAILED = b"R", b"P", b"M", b"F"
_MAX_INDEX = 0x7FFFFFFF
_MAX_GROWTH = 8  # bytes of an answer for each of the mail's, at most; decoding makes at most 3 of one
_MAX_EXTRA = 16_777_216  # and these, for what does not grow with the mail


Cut = tuple[parse.Attachment, bytes]  # an attachment and its octets
LARGE = 524_288  # bytes; from here on even the fast reader takes milliseconds


def _fast(raw: bytes) -> parse.Parsed | None:
    """None = the fallback must decide; so too where the parser fails in a way that nobody foresaw."""
    try:
        return parse.parse_fast(raw)
    except Exception:  # no mail is lost because it cannot be read
        log.exception("parser failed", size=len(raw))
        return None


def _fast_cut(raw: bytes, index: int) -> Cut | None:
    """None = the fallback must decide, as in `_fast`."""
    try:
        return parse.attachment_fast(raw, index)
    except IndexError:
        raise
    except Exception:  # what its parser makes of it does not matter: another one is asked
        log.exception("parser failed", size=len(raw))
        return None


_parsed: msgspec.msgpack.Decoder[parse.Parsed] = msgspec.msgpack.Decoder(parse.Parsed)
_cut: msgspec.msgpack.Decoder[Cut] = msgspec.msgpack.Decoder(Cut)
_T = TypeVar("_T")


def _decoded(answer: bytes, decoder: msgspec.msgpack.Decoder[_T]) -> _T | None:
    try:
        return decoder.decode(answer)
    except msgspec.MsgspecError as error:  # a child may have been taken over by what it parsed
        log.warning("parser's answer is not what it should be", error=type(error).__name__)
        return None


class ParsingPool:
    """Runs `function` ("module:function", bytes to Parsed) and `cutter` (bytes and an index to an attachment and its
    octets) in at most `workers` children, started when needed."""

    def __init__(
        self,
        function: str = "gateway.mail.parse:parse_slow",
        cutter: str = "gateway.mail.parse:attachment_slow",
        *,
        workers: int = 2,
        seconds: float = 2.0,
    ) -> None:
        self._workers = [_Worker((function, cutter), seconds) for _ in range(workers)]
        self._free = list(self._workers)

    async def read(self, raw: bytes) -> parse.Parsed:
        """The message, by whichever reader can: the fast one (off the event loop where it is large), a child, or the
        header fields alone. Never raises for what the mail is."""
        parsed = _fast(raw) if len(raw) < LARGE else await asyncio.to_thread(_fast, raw)
        return parsed or await self.parse(raw) or parse.raw_only(raw)

    async def parse(self, raw: bytes) -> parse.Parsed | None:
        """What the parser made of it; None at once where no child is free, or where it failed or took too long."""
        answer = await self._ask(raw, _WHOLE)
        return None if answer is None else _decoded(answer, _parsed)

    async def attachment(self, raw: bytes, index: int) -> Cut | None:
        """An attachment and its octets, by the index that `read` gave it; read as `read` reads, within the same
        bounds. None where it cannot be had now: no child is free, or it failed or took too long. Raises IndexError
        where the message has no such attachment."""
        if not 0 <= index <= _MAX_INDEX:
            raise IndexError(index)
        cut = _fast_cut(raw, index) if len(raw) < LARGE else await asyncio.to_thread(_fast_cut, raw, index)
        if cut is not None:
            return cut
        answer = await self._ask(raw, index)
        return None if answer is None else _decoded(answer, _cut)

    async def ask(self, request: bytes) -> bytes | None:
        """What `function` makes of `request`, as MessagePack (`inbound.cleaning` asks so); None as in `parse`."""
        return await self._ask(request, _WHOLE)

    async def _ask(self, raw: bytes, wanted: int) -> bytes | None:
        if not self._free:
            return None
        worker = self._free.pop()
        try:
            return await worker.ask(raw, wanted)
        finally:
            self._free.insert(len(self._free) if worker.running else 0, worker)  # those that run are asked first

    async def close(self) -> None:
        """Kills the children; parses under way give None, and so do all later ones."""
        for worker in self._workers:
            await worker.close()


class _Worker:
    """One child, or the place for one."""

    def __init__(self, functions: tuple[str, str], seconds: float) -> None:
        self._functions = functions  # what reads, what cuts an attachment out
        self._seconds = seconds  # for one mail
        self._process: subprocess.Process | None = None  # None until needed, and after a kill
        self._closed = False

    @property
    def running(self) -> bool:
        return self._process is not None

    async def ask(self, raw: bytes, wanted: int) -> bytes | None:
        """The parser's answer, encoded; None where there is none. After a failure the child is another one. Raises
        IndexError where the child finds no attachment of the index `wanted`."""
        if self._closed:
            return None
        try:
            async with asyncio.timeout(START_SECONDS):
                process = self._process or await self._start()
            async with asyncio.timeout(self._seconds):
                return await _exchange(process, raw, wanted)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, _TooLong) as error:
            log.warning("parser killed", size=len(raw), reason=type(error).__name__)
            await self._kill(unread=isinstance(error, _TooLong))
        except asyncio.CancelledError:  # an answer may be on its way: nobody must take it for the next one's
            await self._kill()
            raise
        return None

    async def close(self) -> None:
        self._closed = True
        await self._kill()

    async def _start(self) -> subprocess.Process:
        environment = settings.process_environment()
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.inbound.parsing", *self._functions, str(self._seconds + ALARM_MARGIN)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: environment[name] for name in INHERITED & environment.keys()},
        )
        if self._closed:
            raise BrokenPipeError
        await _read_answer(process, 0)
        return process

    async def _kill(self, *, unread: bool = False) -> None:
        """`unread`: the pipe is full of what nobody waits for, and is not closed before that is taken out."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await (process.communicate() if unread else process.wait())


class _TooLong(Exception):
    """The child says that it will send more than any mail can become."""


async def _exchange(process: subprocess.Process, raw: bytes, wanted: int) -> bytes | None:
    stdin = process.stdin
    if stdin is None:
        raise BrokenPipeError
    stdin.write(_REQUEST.pack(wanted, len(raw)))
    stdin.write(raw)
    await stdin.drain()
    kind, body = await _read_answer(process, len(raw) * _MAX_GROWTH + _MAX_EXTRA)
    if kind == _MISSING and wanted != _WHOLE:
        raise IndexError(wanted)
    return body if kind == _PARSED else None


async def _read_answer(process: subprocess.Process, most: int) -> tuple[bytes, bytes]:
    """Kind and body; never reads more than `most` bytes of it."""
    stdout = process.stdout
    if stdout is None:
        raise BrokenPipeError
    kind, size = _ANSWER.unpack(await stdout.readexactly(_ANSWER.size))
    if size > most:
        raise _TooLong
    return kind, await stdout.readexactly(size)


# The child


def serve(function: str, cutter: str, seconds: float) -> None:
    """Answers mails until its input ends. One that takes longer than `seconds` ends the process."""
    parser, cut = _load(function), _load(cutter)
    requests, answers = _channels()
    for name in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, who decides
        signal.signal(name, signal.SIG_IGN)
    _write(answers, _READY, b"")
    while head := requests.read(_REQUEST.size):
        wanted, size = _REQUEST.unpack(head)
        raw = requests.read(size)
        signal.setitimer(signal.ITIMER_REAL, seconds)  # SIGALRM, never caught
        kind, body = _answer(parser, raw) if wanted == _WHOLE else _answer(cut, raw, wanted)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _write(answers, kind, body)


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
        return _PARSED, msgspec.msgpack.encode(function(*arguments))
    except IndexError:
        return _MISSING, b""
    except Exception:  # noqa: BLE001 - whatever hostile mail does to a parser, the next mail is parsed
        return _FAILED, b""


def _write(answers: BinaryIO, kind: bytes, body: bytes) -> None:
    answers.write(_ANSWER.pack(kind, len(body)))
    answers.write(body)
    answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], float(sys.argv[3]))
