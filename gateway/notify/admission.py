"""Who is still let in: streams and waits end within a second of the end of the key or token that they were opened with.

Once a second every process asks Postgres about the keys and tokens of all that is open in it, in one query; so nothing
depends on Redis, nor on which process a key was revoked in. While the database is away, everything stays open.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final
from uuid import UUID

import structlog

from gateway.errors import InvalidApiKey, Unavailable
from gateway.models import Caller
from gateway.storage import accounts, db
from gateway.storage.callers import Callers

log = structlog.get_logger(__name__)

POLL_SECONDS: Final = 1.0
SLICE: Final = 5000  # holders asked about at once

Holder = tuple[UUID, UUID]  # account; API key or mailbox


class Admission:
    """What is open in this process, by who opened it."""

    def __init__(self, database: db.Database, callers: Callers) -> None:
        self._database = database
        self._callers = callers
        self._open: defaultdict[Holder, list[Callable[[], None]]] = defaultdict(list)
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        self._task = asyncio.create_task(self._poll(), name="admission")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @contextlib.contextmanager
    def watched(self, caller: Caller, end: Callable[[], None]) -> Iterator[None]:
        """Within, `end` is called once the caller is let in no more; perhaps again a second later."""
        holder = (caller.account_id, caller.key_id or caller.mailbox_id or caller.account_id)
        self._open[holder].append(end)
        try:
            yield
        finally:
            self._open[holder].remove(end)
            if not self._open[holder]:
                del self._open[holder]

    @contextlib.asynccontextmanager
    async def required(self, caller: Caller) -> AsyncIterator[None]:
        """Breaks off what is within, and raises InvalidApiKey, once the caller is let in no more."""
        loop = asyncio.get_running_loop()
        ending = asyncio.timeout(None)

        def end() -> None:
            if ending.when() is None:
                ending.reschedule(loop.time())

        try:
            async with ending:
                with self.watched(caller, end):
                    yield
        except TimeoutError:
            if not ending.expired():
                raise
            raise InvalidApiKey from None

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self._look()
                await self._callers.note_used()
            except Unavailable:
                continue  # whoever asks for something hears of it; the next look is a second away
            except Exception:  # one bad look must not end the poll
                log.exception("looking who is let in failed")

    async def _look(self) -> None:
        holders = list(self._open)
        for start in range(0, len(holders), SLICE):
            part = holders[start : start + SLICE]
            async with self._database.connection() as connection:
                standing = await accounts.standing(connection, part)
            for holder in set(part) - standing:
                self._end(holder)

    def _end(self, holder: Holder) -> None:
        ends = list(self._open.get(holder, ()))
        if ends:
            log.info(
                "streams ended with their key", account_id=str(holder[0]), holder_id=str(holder[1]), count=len(ends)
            )
        for end in ends:
            end()
