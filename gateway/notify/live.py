"""The event log as it grows, for everybody in this process who listens.

One tail an account: a task that reads what is new from Postgres when somebody says "look again", and hands it to
the account's subscriptions in the log's order. Who says so: this process after its own commits, others by Redis,
and a poll of the watched accounts' heads once a second, so that nothing depends on Redis. The log is the truth; a
subscription that falls behind is told so and resumes by its cursor, from the log.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import prometheus_client
import structlog

from gateway.errors import PostroomError, Unavailable
from gateway.storage import db, events

log = structlog.get_logger(__name__)

SUBSCRIPTIONS = prometheus_client.Gauge(
    "postroom_live_subscriptions", "Streams and waits open now", multiprocess_mode="livesum"
)
LAG = prometheus_client.Histogram(
    "postroom_live_lag_seconds",
    "Time from an event to its being handed to who listens, by the clocks of database and host",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
TOLD = prometheus_client.Counter("postroom_live_events", "Events handed to subscriptions")
CUT = prometheus_client.Counter("postroom_live_cut", "Subscriptions cut because they did not read")

SLICE: Final = 500  # events read at once
POLL_SECONDS: Final = 1.0  # between looks at the heads, whatever Redis says
RETRY_SECONDS: Final = 0.5  # after the database could not be reached


class Lagging(PostroomError):
    """The subscriber did not read; it resumes from the log by its cursor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """An event, with the bytes that every stream sends."""

    event: events.Event
    body: bytes  # JSON


class Subscription:
    """What one listener has not read yet. Made by Live.subscribe."""

    __slots__ = ("_buffer", "_limit", "_waiter", "cursor", "lagging", "on_lagging", "wanted")

    def __init__(self, wanted: events.Filter, cursor: int, limit: int) -> None:
        self.wanted = wanted
        self.cursor = cursor  # seq up to which everything has been looked at
        self.lagging = False
        self.on_lagging: Callable[[], None] | None = None  # told at once, for who hangs in a send
        self._limit = limit
        self._buffer: deque[Told] | None = None  # None = empty: most streams are idle most of the time
        self._waiter: asyncio.Future[None] | None = None

    def hand(self, told: Told) -> None:
        """Called by the tail. Over the limit the subscription is lagging from here on."""
        if self.lagging or told.event.seq <= self.cursor:
            return
        if self._buffer is None:
            self._buffer = deque()
        if len(self._buffer) >= self._limit:
            CUT.inc()
            self.end()
        else:
            self._buffer.append(told)
            self.wake()

    def end(self) -> None:
        """No more from here: the subscriber resumes by its cursor, later or elsewhere."""
        self.lagging = True
        self._buffer = None
        self.wake()
        if self.on_lagging is not None:
            self.on_lagging()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take(self) -> list[Told]:
        """What is there, oldest first. Raises Lagging."""
        if self.lagging:
            raise Lagging
        taken = [told for told in self._buffer or () if told.event.seq > self.cursor]
        self._buffer = None
        if taken:
            self.cursor = taken[-1].event.seq
            TOLD.inc(len(taken))
        return taken

    async def next(self, timeout: float | None = None) -> list[Told]:
        """What is there, or what comes within `timeout` seconds; empty = nothing did. Raises Lagging."""
        if self._buffer is None and not self.lagging:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(timeout):
                    await self._waiter
            except TimeoutError:
                return []
            finally:
                self._waiter = None
        return self.take()


class _Tail:
    """One account's log, followed by one task while anybody listens."""

    def __init__(self, database: db.Database, account_id: UUID) -> None:
        self._database = database
        self._account_id = account_id
        self._subscriptions: dict[UUID | None, set[Subscription]] = defaultdict(set)  # by mailbox; None = of all
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.cursor = 0  # seq up to which the subscriptions were handed everything
        self.users = 0  # listeners that have it or are about to; at 0 it ends
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Know the head; only then can anybody subscribe."""
        async with self._starting:
            if self._task is None:
                async with self._database.connection() as connection:
                    found = await events.heads(connection, [self._account_id])
                self.cursor = found.get(self._account_id, 0)
                self._task = asyncio.create_task(self._follow())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def end(self) -> None:
        for subscription in [s for subscriptions in self._subscriptions.values() for s in subscriptions]:
            subscription.end()

    def add(self, subscription: Subscription) -> None:
        self._subscriptions[subscription.wanted.mailbox_id].add(subscription)

    def remove(self, subscription: Subscription) -> None:
        key = subscription.wanted.mailbox_id
        self._subscriptions[key].discard(subscription)
        if not self._subscriptions[key]:
            del self._subscriptions[key]

    def poke(self) -> None:
        self._wake.set()

    async def _follow(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._read()
            except Unavailable:
                await asyncio.sleep(RETRY_SECONDS)
                self._wake.set()
            except Exception:  # one bad look must not end the account's stream; the next one tries again
                log.exception("tail failed", account_id=str(self._account_id))
                await asyncio.sleep(RETRY_SECONDS)

    async def _read(self) -> None:
        while True:
            async with self._database.connection() as connection:
                found = await events.after(connection, self._account_id, self.cursor, SLICE)
            for event in found:
                self._hand(event)
            if found:
                LAG.observe(max(0.0, (self._database.clock.now() - found[0].created_at).total_seconds()))
            if len(found) < SLICE:
                return

    def _hand(self, event: events.Event) -> None:
        self.cursor = event.seq
        listening = [s for key in {None, event.mailbox_id} for s in self._subscriptions.get(key, ())]
        wanting = [s for s in listening if s.wanted.matches(event)]
        if wanting:
            told = Told(event=event, body=event.json())
            for subscription in wanting:
                subscription.hand(told)


class Live:
    """All tails of this process."""

    def __init__(self, database: db.Database, *, buffer_events: int = 1000) -> None:
        self._database = database
        self._buffer_events = buffer_events
        self._tails: dict[UUID, _Tail] = {}
        self._poller: asyncio.Task[None] | None = None
        self.closed = False  # the process ends; subscriptions are cut and resume elsewhere

    def open(self) -> None:
        self._poller = asyncio.create_task(self._poll())

    def end(self) -> None:
        """End all subscriptions, as the process is about to."""
        self.closed = True
        for tail in list(self._tails.values()):
            tail.end()

    async def close(self) -> None:
        """End everything."""
        self.end()
        tasks = [task for task in (self._poller,) if task is not None]
        for task in tasks:
            task.cancel()
        for tail in self._tails.values():
            tail.stop()
        await asyncio.gather(*tasks, return_exceptions=True)

    def poke(self, account_ids: Iterable[UUID]) -> None:
        """These accounts' logs have grown: look again. Never blocks."""
        for account_id in account_ids:
            tail = self._tails.get(account_id)
            if tail is not None:
                tail.poke()

    def poke_all(self) -> None:
        """Anything may have happened, such as while Redis was away."""
        self.poke(list(self._tails))

    @contextlib.asynccontextmanager
    async def subscribe(
        self, account_id: UUID, wanted: events.Filter, cursor: int | None = None
    ) -> AsyncIterator[Subscription]:
        """Everything wanted behind `cursor` (None = from now on). Without a gap: what the log held when the
        subscription began is read by `catch_up`, everything after it is handed over by the tail."""
        async with self._tail(account_id) as tail:
            if self.closed:  # looked at where nothing comes between it and `add`: an end is heard by all or none
                raise Unavailable("The server is restarting; try again.", retry_after=1)
            subscription = Subscription(wanted, tail.cursor if cursor is None else cursor, self._buffer_events)
            tail.add(subscription)
            try:
                yield subscription
            finally:
                tail.remove(subscription)

    @contextlib.asynccontextmanager
    async def _tail(self, account_id: UUID) -> AsyncIterator[_Tail]:
        """The account's tail, running; it ends with its last user."""
        tail = self._tails.setdefault(account_id, _Tail(self._database, account_id))
        tail.users += 1
        SUBSCRIPTIONS.inc()
        try:
            await tail.start()
            yield tail
        finally:
            SUBSCRIPTIONS.dec()
            tail.users -= 1
            if not tail.users:
                del self._tails[account_id]
                tail.stop()

    async def catch_up(self, account_id: UUID, subscription: Subscription) -> AsyncIterator[Sequence[Told]]:
        """What the log already holds behind the subscription's cursor, slice by slice. Raises CursorExpired."""
        async with self._database.connection() as connection:
            bounds = await events.bounds(connection, account_id)
        bounds.check(subscription.cursor)
        while subscription.cursor < bounds.newest:
            async with self._database.connection() as connection:
                found = await events.page(
                    connection,
                    account_id,
                    subscription.wanted,
                    cursor=subscription.cursor,
                    until=bounds.newest,
                    limit=SLICE,
                )
            subscription.cursor = found[-1].seq if len(found) == SLICE else bounds.newest
            if found:
                yield [Told(event=event, body=event.json()) for event in found]

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                await self._look()
            except Unavailable:
                continue  # whoever asks for something hears of it; the next look is a second away
            except Exception:  # one bad look must not end the poll
                log.exception("poll failed")

    async def _look(self) -> None:
        watched = list(self._tails)
        if not watched:
            return
        async with self._database.connection() as connection:
            heads = await events.heads(connection, watched)
        for account_id, newest in heads.items():
            tail = self._tails.get(account_id)
            if tail is not None and newest > tail.cursor:
                tail.poke()
