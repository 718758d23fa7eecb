"""Cleans the HTML of messages in child processes, each with a time limit, and never keeps a caller waiting for long."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
import structlog

from gateway.inbound.parsing import ParsingPool
from gateway.mail import sanitize

log = structlog.get_logger(__name__)

SECONDS: Final = 5.0  # for one message; 5 MB of harmless HTML take one to three
WORKERS: Final = 2
WAIT_SECONDS: Final = 12.0  # for a free child: two hostile messages may be in front, and two more

_decoder = msgspec.msgpack.Decoder(str)


class Cleaning:
    """Asks the children, one message each at a time."""

    def __init__(self, *, workers: int = WORKERS, seconds: float = SECONDS) -> None:
        self._pool = ParsingPool("gateway.mail.sanitize:serve", workers=workers, seconds=seconds)
        self._turns = asyncio.Semaphore(workers)

    async def html(self, raw: bytes, pictures: sanitize.Pictures = "shown") -> str | None:
        """The HTML body of a message made harmless; None where it has none, is too large or takes too long."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            log.warning("nobody free to clean HTML", size=len(raw))
            return None
        try:
            answer = await self._pool.ask(sanitize.request(raw, pictures))
        finally:
            self._turns.release()
        return (_read(answer) or None) if answer is not None else None

    async def close(self) -> None:
        """Kills the children; what is under way gives None, and so does all that follows."""
        await self._pool.close()


def _read(answer: bytes) -> str | None:
    try:
        return _decoder.decode(answer)
    except msgspec.MsgspecError:  # a child may have been taken over by what it read
        log.warning("cleaner's answer is not what it should be")
        return None
