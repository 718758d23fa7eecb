"""Group commit: whatever arrived during the last commit is the next transaction; no timer.

One committer is one kind of work in one process (mail in, sends, verdicts). Those who submit wait for the answer of
their own item; hanging up cancels nothing, for the committer's own task does the work.

What an error means, decided by SQLSTATE alone:
    40001, 40P01            done again, up to three times
    classes 21 to 23, 55P03, 54000   the batch is halved to find the item that is to blame
    the line broke          before COMMIT: Unavailable for all; during COMMIT: `find` looks up what is true

A look-up takes as long as the database is away, and concerns its own batch alone: the next ones go on beside it, on
other connections. What that transaction may still hold locked is not waited for twice, and where several look-ups are
under way already, who comes is turned away: the database is not well.

Who has less time than the database takes to come back says so (`patience`): what still waits then is taken back and
never committed. A process that ends says when (`end_within`), and nobody is left without an answer.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import structlog

from gateway.errors import ApiError, Unavailable
from gateway.storage import db

log = structlog.get_logger(__name__)

Item = TypeVar("Item")
Answer = TypeVar("Answer")

MAX_ITEMS: Final = 64
MAX_BYTES: Final = 4_194_304  # a bigger item goes alone
LOOKUP_SECONDS: Final = 40.0  # for which a commit whose end is unknown is looked for: longer than one can take
LOOKUPS: Final = 4  # batches that are looked for at once, each on one connection
LOOKUP_DELAYS: Final = (0.05, 0.2, 0.5, 1.0)  # seconds between looks; the last one again and again
DIVISIBLE: Final = ("21", "22", "23")  # a row twice in a batch, bad data, broken constraint: one item's fault
DIVISIBLE_STATES: Final = ("55P03", "54000", "54001", "57014")  # lock not available, too complex, cancelled: likewise


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Item, Answer]):
    item: Item
    size: int
    answer: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Committer(Generic[Item, Answer]):
    """Joins items to batches and commits them, one batch at a time."""

    def __init__(
        self,
        commit: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],  # one transaction; an answer for each item
        *,
        find: Callable[[Item], Awaitable[Answer | None]],  # was this item committed? its answer, or None
        size: Callable[[Item], int],  # bytes
        max_items: int = MAX_ITEMS,
        max_bytes: int = MAX_BYTES,
        patience: float | None = None,  # seconds after which a submitter hears Unavailable; None = it waits
    ) -> None:
        self._commit = commit
        self._find = find
        self._size = size
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._patience = patience
        self._waiting: list[_Waiting[Item, Answer]] = []
        self._batch: list[_Waiting[Item, Answer]] = []  # that is being committed
        self._lookups: dict[asyncio.Task[None], list[_Waiting[Item, Answer]]] = {}
        self._has_ended = False  # nobody is let in any more
        self._runner: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Answer:
        """The item's answer once it is committed. Raises Unavailable, or what is wrong with this item alone."""
        if self._has_ended:
            raise Unavailable(retry_after=2)
        waiting: _Waiting[Item, Answer] = _Waiting(item, self._size(item))
        self._waiting.append(waiting)
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(self._patience):
                return await asyncio.shield(waiting.answer)
        except TimeoutError as error:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            raise Unavailable(retry_after=2) from error

    async def drain(self) -> None:
        """Returns when nothing is under way."""
        while tasks := {*self._lookups, *([self._runner] if self._runner is not None else [])}:
            await asyncio.wait(tasks)

    def end_within(self, seconds: float) -> None:
        """Whoever has no answer by then hears Unavailable, and nothing is looked up any more."""
        asyncio.get_running_loop().call_later(seconds, self._end)

    def _end(self) -> None:
        self._has_ended = True
        for batch in (self._waiting, self._batch, *self._lookups.values()):
            _fail(batch, Unavailable(retry_after=2))
        self._waiting = []
        for lookup in self._lookups:
            lookup.cancel()
        self._lookups = {}  # their connections may take their time; nobody waits for that

    async def _run(self) -> None:
        try:
            while self._waiting:
                self._batch = self._next_batch()
                if len(self._lookups) < LOOKUPS:
                    await self._settle(self._batch)
                else:
                    _fail(self._batch, Unavailable(retry_after=2))
        finally:
            self._batch, self._runner = [], None

    def _next_batch(self) -> list[_Waiting[Item, Answer]]:
        count, total = 0, 0
        for waiting in self._waiting[: self._max_items]:
            total += waiting.size
            if count and total > self._max_bytes:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def _settle(self, batch: list[_Waiting[Item, Answer]]) -> None:
        """Every one of the batch gets an answer or an error, whatever happens; perhaps later, where it is looked up."""
        try:
            answers = await self._attempt([waiting.item for waiting in batch])
        except db.CommitUnknown:
            lookup = asyncio.create_task(self._look_up(batch))
            self._lookups[lookup] = batch
            lookup.add_done_callback(lambda done: self._lookups.pop(done, None))
        except db.Collided as error:
            await self._divide(batch, error)
        except ApiError as error:
            _fail(batch, error)
        except BaseException as error:  # noqa: BLE001 - nobody may wait for ever, whatever went wrong
            await self._divide(batch, error)
        else:
            for waiting, answer in zip(batch, answers, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(answer)

    async def _attempt(self, items: list[Item]) -> Sequence[Answer]:
        for _ in range(3):
            try:
                return await self._commit(items)
            except Exception as error:
                if db.sqlstate(error) not in db.RETRIED:
                    raise
                log.info("transaction repeated", sqlstate=db.sqlstate(error), items=len(items))
        return await self._commit(items)

    async def _divide(self, batch: list[_Waiting[Item, Answer]], error: BaseException) -> None:
        if self._lookups and db.sqlstate(error) == db.LOCK_NOT_AVAILABLE:
            _fail(batch, Unavailable(retry_after=2))  # held by what is being looked for, probably: each would wait
            return
        if len(batch) > 1 and blames_item(error):
            half = len(batch) // 2
            await self._settle(batch[:half])
            await self._settle(batch[half:])
            return
        log.error("batch not committed", sqlstate=db.sqlstate(error), items=len(batch), exc_info=error)
        _fail(batch, error)

    async def _look_up(self, batch: list[_Waiting[Item, Answer]]) -> None:
        """The truth about items whose COMMIT broke off, one after the other. Where it cannot be had, Unavailable."""
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                for waiting in batch:
                    answer = await self._found(waiting.item)
                    if answer is not None and not waiting.answer.done():
                        waiting.answer.set_result(answer)
        except TimeoutError:
            log.warning("commit neither seen nor ruled out", items=len(batch))
        finally:
            _fail(batch, Unavailable(retry_after=2))

    async def _found(self, item: Item) -> Answer | None:
        for delay in itertools.chain(LOOKUP_DELAYS, itertools.repeat(LOOKUP_DELAYS[-1])):
            try:
                return await self._find(item)
            except Unavailable:
                await asyncio.sleep(delay)
            except Exception:  # nobody may wait for ever, whatever went wrong
                log.exception("look-up failed")
                break
        return None


def blames_item(error: BaseException) -> bool:
    """Whether one item may be to blame; ValueError: its text cannot even be written to the wire."""
    state = db.sqlstate(error)
    return state[:2] in DIVISIBLE or state in DIVISIBLE_STATES or isinstance(error, ValueError)


def blames_content(error: BaseException) -> bool:
    """Whether an item that failed by itself may do so for what it holds, rather than for the database's state."""
    return not isinstance(error, ApiError) and (not db.sqlstate(error) or blames_item(error))


def _fail(batch: Sequence[_Waiting[Item, Answer]], error: BaseException) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)
            waiting.answer.exception()  # seen: a submitter that hung up leaves nobody to read it
