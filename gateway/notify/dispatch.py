"""The dispatcher: takes due webhook deliveries under a lease, posts each, and writes down what came of it.

A worker that dies while posting lets its lease run out, and the event is told again under the same webhook-id: at least
once, never zero times. The lease is longer than an attempt can take, so it needs no heartbeat.

Nobody waits for a slow receiver: of one webhook a few posts are under way at once, at all workers together, and no
more is claimed. Of a process's slots an account has no more than are left for all others, so that there always are
some.
"""

from __future__ import annotations

import asyncio
import collections
import random
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog

from gateway import loops, tracing
from gateway.errors import Unavailable
from gateway.notify import webhooks as posting
from gateway.settings import Settings
from gateway.storage import db, events, leases, webhooks
from gateway.tokens import Keyring

log = structlog.get_logger(__name__)

AT_ONCE: Final = 400  # posts under way in one process
AGAIN_SECONDS: Final = 0.5  # between tries to write down what came of it, while the database is away
JITTER: Final = 0.1


class Dispatcher:
    """All webhooks of one worker process."""

    def __init__(
        self,
        database: db.Database,
        settings: Settings,
        keyring: Keyring,
        poster: posting.Poster,
        *,
        told: Callable[[Iterable[UUID]], None],
        again: Callable[[UUID], None],
    ) -> None:
        """`told`: called with accounts whose logs grew. `again`: with one that is to be drained once more."""
        self._database = database
        self._settings = settings
        self._keyring = keyring
        self._poster = poster
        self._told = told
        self._lease = settings.webhook_timeout_seconds + settings.lease_seconds
        self._unheard = leases.Unheard(database, webhooks.let_go, seconds=self._lease)
        self._again = again
        self._under_way: collections.Counter[UUID] = collections.Counter()  # posts of each account
        self._held_back: set[UUID] = set()  # accounts of which more may be due than their webhooks had room for
        self._crowded_out: set[UUID] = set()  # accounts that had no slot
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    async def drain(self, account_id: UUID) -> None:
        """Begin to tell everything of the account that is due and may be told now; what may not be is drained again
        when a post has ended."""
        while not self._closing:
            slots = self._slots(account_id)
            if slots <= 0:
                self._crowded_out.add(account_id)
                return
            self._held_back.add(account_id)  # before looking: a post that ends from here on means another look
            got = await self._claim(account_id, slots)
            for one in got.claimed:
                self._begin(one)
            if not got.more:
                self._held_back.discard(account_id)
            if len(got.claimed) < slots:
                return

    def _slots(self, account_id: UUID) -> int:
        """How many more posts the account may begin, so that it has no more in all than are left for the others."""
        left = AT_ONCE - len(self._tasks)
        return (left - self._under_way[account_id] + 1) // 2

    def _begin(self, claimed: webhooks.Claimed) -> None:
        self._under_way[claimed.account_id] += 1
        task = asyncio.create_task(self._tell(claimed))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, claimed.account_id))

    def _ended(self, task: asyncio.Task[None], account_id: UUID) -> None:
        self._tasks.discard(task)
        self._under_way[account_id] -= 1
        if not self._under_way[account_id]:
            del self._under_way[account_id]
        waiting, self._crowded_out = self._crowded_out, set()
        for another in waiting | ({account_id} & self._held_back):
            self._again(another)

    async def look(self) -> list[UUID]:
        """Accounts with somebody to tell now."""
        await self._unheard.let_go()
        async with self._database.connection() as connection:
            return await webhooks.due_accounts(connection, 1000)

    async def hearing(self) -> set[UUID]:
        """Accounts that have a webhook at all."""
        async with self._database.connection() as connection:
            return await webhooks.hearing(connection)

    async def close(self, seconds: float) -> int:
        """Begin nothing new; how many posts were still under way after `seconds` (their leases run out)."""
        self._closing = True
        left = await loops.end(self._tasks, seconds)
        await self._poster.close()
        return left

    async def _claim(self, account_id: UUID, limit: int) -> webhooks.Slice:
        each = self._settings.webhook_concurrency
        with self._unheard.claiming(account_id) as lease_id:
            async with self._database.transaction() as connection:
                return await webhooks.claim(
                    connection, account_id, lease_id=lease_id, lease_seconds=self._lease, each=each, limit=limit
                )

    async def _tell(self, claimed: webhooks.Claimed) -> None:
        try:
            await self._write(await self._attempt(claimed))
        except Exception:  # this delivery alone; its lease runs out and somebody tries again
            log.exception("webhook delivery failed", webhook_id=str(claimed.webhook.id), event_id=str(claimed.event_id))
        if claimed.turn_id is not None:
            self._again(claimed.account_id)

    async def _attempt(self, claimed: webhooks.Claimed) -> webhooks.Settled:
        started_at = self._database.clock.now()
        if claimed.event is None or claimed.webhook.status != "active" or claimed.webhook.deleted_at is not None:
            return _given_up(claimed, started_at, "the event or the webhook is gone")
        body = claimed.event.json()
        secrets = secrets_of(self._keyring, claimed.webhook, started_at)
        headers = posting.sign(secrets, str(claimed.event_id), started_at, body)
        trace = await self._trace(claimed.account_id, claimed.event)
        with tracing.within(trace):
            traced = trace.headers() if trace is not None else {}
            attempt = await self._poster.post(claimed.webhook.url, {**headers, **traced}, body)
            if trace is not None or attempt.outcome != "delivered":
                _log_attempt(claimed, attempt)
        return self._judge(claimed, attempt, started_at)

    async def _trace(self, account_id: UUID, event: events.Event) -> tracing.Trace | None:
        """Of the request that caused what the event is about; None where there is none, or it cannot be looked up."""
        if event.email_id is None and event.message_id is None:
            return None
        try:
            async with self._database.connection() as connection:
                return tracing.of_stored(await events.trace(connection, account_id, event))
        except Unavailable:
            return None

    def _judge(self, claimed: webhooks.Claimed, attempt: posting.Attempt, started_at: datetime) -> webhooks.Settled:
        status, again_in = "dead", None
        if attempt.outcome == "delivered":
            status = "delivered"
        elif attempt.outcome == "failed":
            spread = random.uniform(-JITTER, JITTER)  # noqa: S311 - spreads load; nothing secret
            again_in = posting.next_attempt(
                claimed.tries, self._settings.webhook_retry_schedule, attempt.retry_after, spread
            )
            status = "dead" if again_in is None else "pending"
        return webhooks.Settled(
            claimed=claimed,
            status=status,
            again_in=again_in or 0.0,
            started_at=started_at,
            latency=attempt.latency,
            answered=attempt.status,
            answer=attempt.answer,
            error=attempt.error,
            disable="its receiver answered 410 Gone" if attempt.outcome == "gone" else None,
        )

    async def _write(self, settled: webhooks.Settled) -> None:
        while True:
            try:
                async with self._database.transaction() as connection:
                    disabled = await webhooks.settle(connection, settled)
            except Unavailable:  # done or not: what was written is not written again
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                break
        if disabled:
            self._told([settled.claimed.account_id])


def _log_attempt(claimed: webhooks.Claimed, attempt: posting.Attempt) -> None:
    """What was not taken, and whatever somebody follows."""
    log.info(
        "webhook attempt",
        account_id=str(claimed.account_id),
        webhook_id=str(claimed.webhook.id),
        event_id=str(claimed.event_id),
        number=claimed.number,
        outcome=attempt.outcome,
        status=attempt.status,
        error=attempt.error,
    )


def _given_up(claimed: webhooks.Claimed, started_at: datetime, reason: str) -> webhooks.Settled:
    return webhooks.Settled(
        claimed=claimed,
        status="dead",
        again_in=0.0,
        started_at=started_at,
        latency=0.0,
        answered=None,
        answer="",
        error=reason,
        tried=False,
        disable=None,
    )


def secrets_of(keyring: Keyring, webhook: webhooks.Webhook, now: datetime) -> list[str]:
    """What a post to it is signed with: the current secret, while it is being rotated those before, and the same of
    SECRET_KEYs before this one, for its receiver knows only what it was told once. `now` by the database's clock."""
    generations = webhook.signing_generations(now)
    keyrings = (keyring, *keyring.previous)
    return [one.webhook_secret(webhook.id, number) for one in keyrings for number in generations]
