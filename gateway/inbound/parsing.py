"""A few worker processes that parse what may take too long, and can be killed when it does.

Hostile mail keeps a parser busy for minutes, or makes it eat all memory. So whatever is not parsed in the session is
parsed in a child process with a time limit, a memory limit and no secrets in its environment. Nobody waits for a free
one: mail that finds none is stored as it is, and parsed again later.

What a mail may take is a time of the processor as well as one of the clock. One that has taken all it may of the
processor, however busy the machine is, is not tried again for a while, however often somebody asks for it.

Large mail stops the event loop whoever parses it, in a thread, too, for parsers hold Python's lock. It goes to children
of its own, and waits there for its turn, but not for long. Nor do they answer with all of it where less is wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
import sys
import time
from asyncio import subprocess
from collections import OrderedDict
from typing import Final, TypeVar

import msgspec
import structlog

from gateway import settings
from gateway.inbound import child
from gateway.mail import parse

log = structlog.get_logger(__name__)

START_SECONDS = 20.0  # for a child to start and import the parser
ENDING_SECONDS = 5.0  # for a child to be gone that has closed its pipe
ALARM_MARGIN = 1.0  # seconds after its parent should have killed it that a child ends itself
INHERITED = frozenset({"PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ"})

_MAX_INDEX = 0x7FFFFFFF
_MAX_GROWTH = 8  # bytes of an answer for each of the mail's, at most; decoding makes at most 3 of one
_MAX_EXTRA = 16_777_216  # and these, for what does not grow with the mail


Cut = tuple[parse.Attachment, bytes]  # an attachment and its octets
LARGE = 262_144  # bytes; from here on even the fast reader takes milliseconds
LARGE_WAIT_SECONDS = 5.0  # that large mail waits for its turn
PROCESSOR_SECONDS: Final = 1.2  # that a child may take for one mail; 25 MB of the usual kind take half of one
FORGOTTEN_SECONDS: Final = 600.0  # after which a mail that took too much is tried again
MAX_REMEMBERED: Final = 1000  # such mails
_LONG_HEAD = 16_384  # bytes; a longer header may take milliseconds


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
_shown: msgspec.msgpack.Decoder[parse.Shown] = msgspec.msgpack.Decoder(parse.Shown)
_body: msgspec.msgpack.Decoder[bytes | None] = msgspec.msgpack.Decoder(bytes | None)
_T = TypeVar("_T")


def _decoded(answer: bytes, decoder: msgspec.msgpack.Decoder[_T]) -> _T | None:
    try:
        return decoder.decode(answer)
    except msgspec.MsgspecError as error:  # a child may have been taken over by what it parsed
        log.warning("parser's answer is not what it should be", error=type(error).__name__)
        return None


class ParsingPool:
    """Runs `function` ("module:function", bytes to Parsed) and `cutter` (bytes and an index to an attachment and its
    octets) in at most `workers` children, started when needed; for large mail those of `large` in as many more."""

    def __init__(
        self,
        function: str = "gateway.mail.parse:parse_slow",
        cutter: str = "gateway.mail.parse:attachment_slow",
        *,
        large: tuple[str, str] = ("gateway.mail.parse:parse", "gateway.mail.parse:attachment"),
        workers: int = 2,
        seconds: float = 2.0,
        processor: float = PROCESSOR_SECONDS,
        patience: float = LARGE_WAIT_SECONDS,
    ) -> None:
        self._crew = _Crew((function, cutter), workers, seconds, processor)
        self._large = _Crew(large, workers, seconds, processor)
        self._patience = patience
        self._hopeless = _Hopeless()

    async def read(self, raw: bytes) -> parse.Parsed:
        """The message, by whichever reader can: the fast one, a child, or the header fields alone. Never raises for
        what the mail is."""
        if len(raw) >= LARGE:
            return await self._of_large(raw, child.WHOLE, _parsed) or await _header(raw)
        return _fast(raw) or await self.parse(raw) or await _header(raw)

    async def front(self, raw: bytes) -> parse.Parsed:
        """The same; of a large message's bodies only the front, as `parse.front` leaves it."""
        if len(raw) >= LARGE:
            return await self._of_large(raw, child.FRONT, _parsed) or await _header(raw)
        return await self.read(raw)

    async def shown(self, raw: bytes) -> parse.Shown:
        """The same, its bodies ready to be put into JSON."""
        if len(raw) >= LARGE:
            return await self._of_large(raw, child.SHOWN, _shown) or parse.shown(await _header(raw))
        return parse.shown(await self.read(raw))

    async def text(self, raw: bytes) -> bytes | None:
        """The text body in UTF-8; None where there is none, or where it cannot be had."""
        return await self._body(raw, child.TEXT)

    async def html(self, raw: bytes) -> bytes | None:
        """The HTML body likewise."""
        return await self._body(raw, child.HTML)

    async def _body(self, raw: bytes, wanted: int) -> bytes | None:
        if len(raw) >= LARGE:
            return await self._of_large(raw, wanted, _body)
        parsed = await self.read(raw)
        return child.octets(parsed.text if wanted == child.TEXT else parsed.html)

    async def parse(self, raw: bytes) -> parse.Parsed | None:
        """What the parser made of it; None at once where no child is free, or where it failed or took too long."""
        answer = await self._asked(self._crew, raw, child.WHOLE)
        return None if answer is None else _decoded(answer, _parsed)

    async def attachment(self, raw: bytes, index: int) -> Cut | None:
        """An attachment and its octets, by the index that `read` gave it; read as `read` reads, within the same
        bounds. None where it cannot be had now: no child is free, or it failed or took too long. Raises IndexError
        where the message has no such attachment."""
        if not 0 <= index <= _MAX_INDEX:
            raise IndexError(index)
        if len(raw) >= LARGE:
            return await self._of_large(raw, index, _cut)
        cut = _fast_cut(raw, index)
        if cut is not None:
            return cut
        answer = await self._asked(self._crew, raw, index)
        return None if answer is None else _decoded(answer, _cut)

    async def _of_large(self, raw: bytes, wanted: int, decoder: msgspec.msgpack.Decoder[_T]) -> _T | None:
        answer = await self._asked(self._large, raw, wanted, patience=self._patience)
        return None if answer is None else _decoded(answer, decoder)

    async def _asked(self, crew: _Crew, raw: bytes, wanted: int, *, patience: float = 0) -> bytes | None:
        if await self._hopeless.has(raw):
            return None
        try:
            return await crew.ask(raw, wanted, patience=patience)
        except _TooMuch:
            await self._hopeless.add(raw)
            return None

    async def ask(self, request: bytes) -> bytes | None:
        """What `function` makes of `request`, as MessagePack (`inbound.cleaning` asks so); None as in `parse`."""
        return await self._asked(self._crew, request, child.WHOLE)

    async def close(self) -> None:
        """Kills the children; parses under way give None, and so do all later ones."""
        await self._crew.close()
        await self._large.close()


async def _header(raw: bytes) -> parse.Parsed:
    if len(raw) < _LONG_HEAD:
        return parse.raw_only(raw)
    return await asyncio.to_thread(parse.raw_only, raw)


class _Crew:
    """Children that do the same."""

    def __init__(self, functions: tuple[str, str], workers: int, seconds: float, processor: float) -> None:
        self._workers = [_Worker(functions, seconds, processor) for _ in range(workers)]
        self._free = list(self._workers)
        self._turns = asyncio.Semaphore(workers)  # as many as are free

    async def ask(self, raw: bytes, wanted: int, *, patience: float = 0) -> bytes | None:
        """The answer of one of them; None where none is free within `patience` seconds, and as in _Worker.ask. Raises
        _TooMuch likewise."""
        if self._turns.locked() and not patience:
            return None
        try:
            async with asyncio.timeout(patience or None):
                await self._turns.acquire()
        except TimeoutError:
            log.warning("nobody free to parse", size=len(raw))
            return None
        worker = self._free.pop()
        try:
            return await worker.ask(raw, wanted)
        finally:
            self._free.insert(len(self._free) if worker.running else 0, worker)  # those that run are asked first
            self._turns.release()

    async def close(self) -> None:
        for worker in self._workers:
            await worker.close()


class _Worker:
    """One child, or the place for one."""

    def __init__(self, functions: tuple[str, str], seconds: float, processor: float) -> None:
        self._functions = functions  # what reads, what cuts an attachment out
        self._seconds = seconds  # for one mail
        self._processor = processor  # seconds of it for one mail
        self._process: subprocess.Process | None = None  # None until needed, and after a kill
        self._closed = False

    @property
    def running(self) -> bool:
        return self._process is not None

    async def ask(self, raw: bytes, wanted: int) -> bytes | None:
        """The parser's answer, encoded; None where there is none. After a failure the child is another one. Raises
        IndexError where the child finds no attachment of the index `wanted`; _TooMuch where there is no use in asking
        again."""
        if self._closed:
            return None
        try:
            async with asyncio.timeout(START_SECONDS):
                process = self._process or await self._start()
            async with asyncio.timeout(self._seconds):
                return await _exchange(process, raw, wanted)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, _TooLong) as error:
            log.warning("parser killed", size=len(raw), reason=type(error).__name__)
            is_ending = isinstance(error, asyncio.IncompleteReadError)
            status = await self._kill(unread=isinstance(error, _TooLong), is_ending=is_ending)
            if status == -signal.SIGPROF:
                raise _TooMuch from None
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
            *(sys.executable, "-m", "gateway.inbound.child", *self._functions),
            *(str(self._seconds + ALARM_MARGIN), str(self._processor)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: environment[name] for name in INHERITED & environment.keys()},
        )
        if self._closed:
            raise BrokenPipeError
        await _read_answer(process, 0)
        return process

    async def _kill(self, *, unread: bool = False, is_ending: bool = False) -> int | None:
        """What it ended by. `unread`: the pipe is full of what nobody waits for, and is not closed before that is taken
        out. `is_ending`: it has closed its pipe."""
        process, self._process = self._process, None
        if process is None:
            return None
        with contextlib.suppress(TimeoutError, ProcessLookupError):
            if is_ending:  # asked once more, it would lose what it ended by (subprocess.Popen.send_signal)
                async with asyncio.timeout(ENDING_SECONDS):
                    return await process.wait()
            process.kill()
        await (process.communicate() if unread else process.wait())
        return process.returncode


class _TooLong(Exception):
    """The child says that it will send more than any mail can become."""


class _TooMuch(Exception):
    """The mail takes more of the processor than it may, whoever tries."""


class _Hopeless:
    """What took too much, for as long as it is remembered. By digests, which nobody can make alike; they are made where
    a mail is as long as one of those alone."""

    def __init__(self) -> None:
        self._until: OrderedDict[tuple[int, bytes], float] = OrderedDict()  # by size and digest, the oldest first

    async def has(self, raw: bytes) -> bool:
        if not any(size == len(raw) for size, _ in self._until):
            return False
        return self._until.get((len(raw), await _digest(raw)), 0.0) > time.monotonic()

    async def add(self, raw: bytes) -> None:
        key = (len(raw), await _digest(raw))
        self._until.pop(key, None)
        self._until[key] = time.monotonic() + FORGOTTEN_SECONDS
        if len(self._until) > MAX_REMEMBERED:
            self._until.popitem(last=False)


async def _digest(raw: bytes) -> bytes:
    """It takes 25 MB some ten milliseconds, for which Python's lock is let go."""
    made = await asyncio.to_thread(hashlib.sha256, raw) if len(raw) >= LARGE else hashlib.sha256(raw)
    return made.digest()


async def _exchange(process: subprocess.Process, raw: bytes, wanted: int) -> bytes | None:
    stdin = process.stdin
    if stdin is None:
        raise BrokenPipeError
    stdin.write(child.REQUEST.pack(wanted, len(raw)))
    stdin.write(raw)
    await stdin.drain()
    kind, body = await _read_answer(process, len(raw) * _MAX_GROWTH + _MAX_EXTRA)
    if kind == child.MISSING and wanted >= 0:
        raise IndexError(wanted)
    return body if kind == child.PARSED else None


async def _read_answer(process: subprocess.Process, most: int) -> tuple[bytes, bytes]:
    """Kind and body; never reads more than `most` bytes of it."""
    stdout = process.stdout
    if stdout is None:
        raise BrokenPipeError
    kind, size = child.ANSWER.unpack(await stdout.readexactly(child.ANSWER.size))
    if size > most:
        raise _TooLong
    return kind, await stdout.readexactly(size)
