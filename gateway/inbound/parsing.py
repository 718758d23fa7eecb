"""A few worker processes that parse what may take too long, and can be killed when it does.

Hostile mail keeps a parser busy for minutes, or makes it eat all memory. So whatever is not parsed in the session is
parsed in a child process with a time limit, a memory limit and no secrets in its environment. Nobody waits for a free
one: mail that finds none is stored as it is, and parsed again later.

The child (`python -m gateway.inbound.parsing module:function seconds`) reads frames from its standard input and writes
frames to its standard output. It ends with its parent: at the end of its input when idle, by its alarm when not.
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
from typing import Any, BinaryIO

import msgspec
import structlog

from gateway import settings
from gateway.mail import parse

log = structlog.get_logger(__name__)

START_SECONDS = 20.0  # for a child to start and import the parser
ALARM_MARGIN = 1.0  # seconds after its parent should have killed it that a child ends itself
MEMORY_BYTES = 1 << 30  # address space of a child
INHERITED = frozenset({"PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ"})

_REQUEST = struct.Struct(">I")  # size; then that many bytes of mail
_ANSWER = struct.Struct(">cI")  # kind, size; then that many bytes of MessagePack
_READY, _PARSED, _FAILED = b"R", b"P", b"F"


LARGE = 524_288  # bytes; from here on even the fast reader takes milliseconds


def _fast(raw: bytes) -> parse.Parsed | None:
    """None = the fallback must decide; so too where the parser fails in a way that nobody foresaw."""
    try:
        return parse.parse_fast(raw)
    except Exception:  # no mail is lost because it cannot be read
        log.exception("parser failed", size=len(raw))
        return None


_decoder = msgspec.msgpack.Decoder(parse.Parsed)


def _decoded(answer: bytes) -> parse.Parsed | None:
    try:
        return _decoder.decode(answer)
    except msgspec.MsgspecError as error:  # a child may have been taken over by what it parsed
        log.warning("parser's answer is not what it should be", error=type(error).__name__)
        return None


class ParsingPool:
    """Runs `function` ("module:function", bytes to Parsed) in at most `workers` children, started when needed."""

    def __init__(
        self, function: str = "gateway.mail.parse:parse_slow", *, workers: int = 2, seconds: float = 2.0
    ) -> None:
        self._workers = [_Worker(function, seconds) for _ in range(workers)]
        self._free = list(self._workers)

    async def read(self, raw: bytes) -> parse.Parsed:
        """The message, by whichever reader can: the fast one (off the event loop where it is large), a child, or the
        header fields alone. Never raises for what the mail is."""
        parsed = _fast(raw) if len(raw) < LARGE else await asyncio.to_thread(_fast, raw)
        return parsed or await self.parse(raw) or parse.raw_only(raw)

    async def parse(self, raw: bytes) -> parse.Parsed | None:
        """What the parser made of it; None at once where no child is free, or where it failed or took too long."""
        answer = await self.ask(raw)
        return None if answer is None else _decoded(answer)

    async def ask(self, request: bytes) -> bytes | None:
        """The function's answer as MessagePack, likewise."""
        if not self._free:
            return None
        worker = self._free.pop()
        try:
            return await worker.ask(request)
        finally:
            self._free.insert(len(self._free) if worker.running else 0, worker)  # those that run are asked first

    async def close(self) -> None:
        """Kills the children; parses under way give None, and so do all later ones."""
        for worker in self._workers:
            await worker.close()


class _Worker:
    """One child, or the place for one."""

    def __init__(self, function: str, seconds: float) -> None:
        self._function = function
        self._seconds = seconds  # for one mail
        self._process: subprocess.Process | None = None  # None until needed, and after a kill
        self._closed = False

    @property
    def running(self) -> bool:
        return self._process is not None

    async def ask(self, raw: bytes) -> bytes | None:
        """The parser's answer, encoded; None where there is none. After a failure the child is another one."""
        if self._closed:
            return None
        try:
            async with asyncio.timeout(START_SECONDS):
                process = self._process or await self._start()
            async with asyncio.timeout(self._seconds):
                return await _exchange(process, raw)
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            log.warning("parser killed", size=len(raw), reason=type(error).__name__)
            await self._kill()
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
            *(sys.executable, "-m", "gateway.inbound.parsing", self._function, str(self._seconds + ALARM_MARGIN)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: environment[name] for name in INHERITED & environment.keys()},
        )
        if self._closed:
            raise BrokenPipeError
        await _read_answer(process)
        return process

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _exchange(process: subprocess.Process, raw: bytes) -> bytes | None:
    stdin = process.stdin
    if stdin is None:
        raise BrokenPipeError
    stdin.write(_REQUEST.pack(len(raw)))
    stdin.write(raw)
    await stdin.drain()
    return await _read_answer(process)


async def _read_answer(process: subprocess.Process) -> bytes | None:
    stdout = process.stdout
    if stdout is None:
        raise BrokenPipeError
    kind, size = _ANSWER.unpack(await stdout.readexactly(_ANSWER.size))
    body = await stdout.readexactly(size)
    return body if kind == _PARSED else None


# The child


def serve(function: str, seconds: float) -> None:
    """Answers mails until its input ends. One that takes longer than `seconds` ends the process."""
    parser = _load(function)
    requests, answers = _channels()
    for name in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, who decides
        signal.signal(name, signal.SIG_IGN)
    _write(answers, _READY, b"")
    while head := requests.read(_REQUEST.size):
        raw = requests.read(*_REQUEST.unpack(head))
        signal.setitimer(signal.ITIMER_REAL, seconds)  # SIGALRM, never caught
        kind, body = _answer(parser, raw)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _write(answers, kind, body)


def _load(function: str) -> Callable[[bytes], object]:
    module, _, name = function.partition(":")
    loaded: Callable[[bytes], object] = getattr(importlib.import_module(module), name)
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


def _answer(parser: Callable[[bytes], Any], raw: bytes) -> tuple[bytes, bytes]:
    try:
        return _PARSED, msgspec.msgpack.encode(parser(raw))
    except Exception:  # noqa: BLE001 - whatever hostile mail does to a parser, the next mail is parsed
        return _FAILED, b""


def _write(answers: BinaryIO, kind: bytes, body: bytes) -> None:
    answers.write(_ANSWER.pack(kind, len(body)))
    answers.write(body)
    answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1], float(sys.argv[2]))
