"""The worker process: deliveries, webhooks, the index of words, expiry, reclaim.

Three ways in to the same work, so that none of them must be reliable:

    a nudge     an arq job (somebody to write to) or a message (somebody to tell), within milliseconds
    a look      the sweeper asks Postgres every second which accounts have something due
    the clock   expiry and reclaim, each in this process's own time; they may run in several workers at once

Redis carries nudges alone: while it is away the arq worker is started again and again, and the looks do the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from uuid import UUID

import structlog

from gateway import lifecycle, loops, telemetry
from gateway.errors import Unavailable
from gateway.inbound.indexing import AfterwardsReader
from gateway.notify import guard
from gateway.notify.dispatch import Dispatcher
from gateway.notify.webhooks import Poster
from gateway.outbound import standing
from gateway.outbound.deliver import Carrier
from gateway.outbound.feedback import Feedback
from gateway.outbound.record import Record
from gateway.outbound.returning import Returning
from gateway.settings import Settings
from gateway.storage import db, housekeeping, vitals
from workers import window
from workers.drains import Drains
from workers.nudged import NudgedWorker, run_forever

log = structlog.get_logger(__name__)

HEARING_SECONDS = 1.0  # how long it is believed which accounts have webhooks
INDEXING_ACCOUNTS = 2  # read at once: more would take the processors from those who accept mail
ABANDONED_SECONDS = 86_400.0  # after the last attempt of what a report may be about, it is nobody's
UNREAD_SECONDS = 30.0  # between looks for mail that no nudge told of
UNREAD_SECONDS_ALONE = 1.0  # the same without Redis
COUNTING_ACCOUNTS = 2  # counted at once
COUNTING_SECONDS = 1.0  # between counts of an account whose log grows
REVOKED_SECONDS = 2_592_000.0  # how long a revoked key is remembered
UNREAD_SHARE = 0.05  # of the time that looking may take


class Work:
    """Everything a worker process does."""

    def __init__(self, gateway: lifecycle.Gateway) -> None:
        settings = gateway.settings
        self._gateway = gateway
        self._settings = settings
        self._carrier = Carrier(
            gateway.database,
            settings,
            gateway.router(),
            gateway.signer(),
            gateway.links,
            told=gateway.tell,
            returning=Returning(gateway.database, gateway.return_paths),
        )
        self._feedback = Feedback(gateway.database, told=gateway.tell)
        poster = Poster(
            allow_private=settings.webhook_allow_private,
            timeout_seconds=settings.webhook_timeout_seconds,
            resolver=guard.system_resolver if settings.webhook_allow_private else guard.over_dns(gateway.resolver),
        )
        self._dispatcher = Dispatcher(
            gateway.database, settings, gateway.keyring, poster, told=gateway.tell, again=self._tell_again
        )
        self._deliveries = Drains(self._carrier.drain, name="deliver")
        self._webhooks = Drains(self._dispatcher.drain, name="webhooks")
        self._reader = AfterwardsReader(gateway.database, gateway.parsing, gateway.pace, told=gateway.tell)
        self._indexing = Drains(self._reader.drain, name="index", concurrency=INDEXING_ACCOUNTS)
        self._judging = Drains(gateway.judging.drain, name="judge")
        self._held = Drains(gateway.judging.drain_held, name="judge held")
        self._record = Record(gateway.database, rest=gateway.pace.rest, saw=gateway.pace.saw)
        self._counting = Drains(self._record.drain, name="count", concurrency=COUNTING_ACCOUNTS)
        self._grown: set[UUID] = set()  # accounts whose logs have grown since they were last counted
        self._looked = float("-inf")  # when all accounts were last looked at for mail to read
        self._looking = 0.0  # seconds that it took
        self._hearing: set[UUID] = set()
        self.window_port: int | None = None  # of /metrics and /healthz; None = it has none
        self._heart = vitals.Heart(gateway.database, lambda: standing.written(self._carrier.standing()))

    def rounds(self) -> Sequence[Awaitable[None]]:
        """What runs until the process ends."""
        settings = self._settings
        return [
            self._carrier.renew_leases(),
            _every(vitals.BEAT_SECONDS, self._heart.beat),
            _every(settings.sweep_interval_seconds, self._sweep),
            _every(settings.sweep_interval_seconds, self._feedback.apply_reports),
            _every(HEARING_SECONDS, self._learn_who_hears),
            _every(UNREAD_SECONDS_ALONE, self._index),
            _every(COUNTING_SECONDS, self._count),
            _every(settings.expiry_interval_seconds, self._expire),
            _every(settings.expiry_interval_seconds, self._tell_late),
            _every(settings.reclaim_interval_seconds, self._reclaim),
            *([run_forever(self._arq)] if settings.redis_url else []),
        ]

    def hear(self, account_ids: Sequence[UUID]) -> None:
        """These accounts' logs have grown: some have webhooks to be told by, all may have mail to be read."""
        for account_id in self._hearing.intersection(account_ids):
            self._webhooks.poke(account_id)
        self._grown.update(account_ids)
        for account_id in account_ids:
            self._indexing.poke(account_id)
            if self._settings.sender_auth:
                self._judging.poke(account_id)

    async def close(self) -> None:
        """Begin nothing new; what runs has DRAIN_SECONDS to end, all in all: platforms kill who takes longer."""
        seconds = self._settings.drain_seconds
        until = time.monotonic() + seconds
        self._reader.end()
        self._record.end()
        await asyncio.gather(*(drains.close(seconds) for drains in self._drains()))
        rest = max(0.0, until - time.monotonic())
        left = await asyncio.gather(
            self._carrier.close(rest), self._dispatcher.close(rest), self._gateway.judging.close(rest)
        )
        with contextlib.suppress(Unavailable):
            await self._heart.stop()
        log.info("worker drained", deliveries_left=left[0], webhooks_left=left[1], held_left=left[2])

    def _tell_again(self, account_id: UUID) -> None:
        self._webhooks.poke(account_id)

    def _drains(self) -> Sequence[Drains]:
        return self._deliveries, self._webhooks, self._indexing, self._judging, self._held, self._counting

    def _arq(self) -> NudgedWorker:
        return NudgedWorker(
            self._settings.redis_url,
            pokes={lifecycle.DELIVER: self._deliveries.poke, lifecycle.JUDGE: self._held.poke},
            tls_verify=self._settings.redis_tls_verify,
            namespace=self._settings.redis_namespace,
        )

    async def _sweep(self) -> None:
        for account_id in await self._carrier.look():
            self._deliveries.poke(account_id)
        for account_id in await self._dispatcher.look():
            self._webhooks.poke(account_id)
        for account_id in await self._gateway.judging.look_held():
            self._held.poke(account_id)

    async def _index(self) -> None:
        """Mail, and news of mail, that no nudge told of. While Redis is there, that is next to none."""
        began = time.monotonic()
        connected = self._gateway.redis_state == "connected"
        if began < self._looked + (UNREAD_SECONDS if connected else self._looking / UNREAD_SHARE):
            return
        for account_id in await self._reader.look():
            self._indexing.poke(account_id)
        for account_id in await self._gateway.judging.look():
            self._judging.poke(account_id)
        self._grown.update(await self._record.look())
        self._looked = time.monotonic()
        self._looking = self._looked - began

    async def _count(self) -> None:
        """Now and then, not at once: what a second brings is added to the same few rows."""
        grown, self._grown = self._grown, set()
        for account_id in grown:
            self._counting.poke(account_id)

    async def _learn_who_hears(self) -> None:
        self._hearing = await self._dispatcher.hearing()

    async def _expire(self) -> None:
        async for account_id in housekeeping.expire(self._gateway.database):
            self._gateway.tell([account_id])

    async def _tell_late(self) -> None:
        if seconds := self._settings.delay_warning_seconds:
            async for account_id in housekeeping.tell_late(self._gateway.database, seconds):
                self._gateway.tell([account_id])

    async def _reclaim(self) -> None:
        """One after the other, each by itself: what fails stands in no other's way."""
        for step in self._forgetting():
            await _guarded(step)

    async def _tidy_webhooks(self) -> None:
        async for account_id in housekeeping.tidy_webhooks(self._gateway.database):
            self._gateway.tell([account_id])

    def _forgetting(self) -> Iterator[Callable[[], Awaitable[object]]]:
        settings, forget = self._settings, functools.partial
        database = self._gateway.database
        yield forget(housekeeping.reclaim, database, settings.retention_seconds)
        yield forget(housekeeping.empty_void, database)
        yield forget(housekeeping.forget_keys, database, settings.idempotency_seconds)
        yield forget(housekeeping.forget_events, database, settings.event_retention_seconds)
        yield forget(housekeeping.abandon_reports, database, settings.retry_max_age_seconds + ABANDONED_SECONDS)
        yield forget(housekeeping.forget_callbacks, database, settings.feedback_retention_seconds)
        yield forget(housekeeping.forget_handed_over, database, settings.feedback_retention_seconds)
        yield forget(housekeeping.forget_suppressions, database)
        yield forget(housekeeping.forget_revoked, database, REVOKED_SECONDS)
        yield forget(housekeeping.close_accounts, database)
        if settings.email_retention_seconds:
            yield forget(housekeeping.forget_emails, database, settings.email_retention_seconds)
        if settings.attempt_retention_seconds:
            yield forget(housekeeping.forget_attempts, database, settings.attempt_retention_seconds)
        yield forget(housekeeping.forget_deliveries, database)
        yield self._tidy_webhooks
        yield forget(housekeeping.forget_statistics, database, settings.statistics_retention_seconds)


async def _every(seconds: float, work: Callable[[], Awaitable[object]]) -> None:
    """Now and then again, whatever happens meanwhile."""
    while True:
        await _guarded(work)
        await asyncio.sleep(seconds)


async def _guarded(work: Callable[[], Awaitable[object]]) -> None:
    name = getattr(getattr(work, "func", work), "__name__", "")
    try:
        await work()
    except Unavailable as error:
        log.warning("database away", work=name, reason=db.reason(error))
    except Exception:  # one bad round must not end the loop
        log.exception("work failed", work=name)


@contextlib.asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[Work]:
    """A worker at work."""
    async with lifecycle.opened(settings) as gateway:
        work = Work(gateway)
        gateway.add_hearer(work.hear)
        tasks = [asyncio.ensure_future(round_) for round_ in work.rounds()]
        log.info("worker started")
        try:
            async with window.opened(settings, gateway, tasks) as work.window_port:
                yield work
        finally:
            renewing, *others = tasks
            for task in others:
                task.cancel()
            await work.close()
            renewing.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _work(settings: Settings) -> None:
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    async with loops.watched("worker"), working(settings):
        loops.settle()
        await ending.wait()


def run(settings: Settings) -> None:
    """Run the worker process until SIGTERM or SIGINT."""
    telemetry.configure(settings)
    loops.run(_work(settings))
