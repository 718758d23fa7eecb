"""The arq worker of Postroom: woken by a message instead of polling fast, and restarted when Redis comes back.

A job is a nudge, nothing more: it says which account has work of which kind, and pokes that kind's drains. arq does
the carrying, cron included; the work itself, and all that must not be lost, is in Postgres.

What is overridden of arq 0.28, pinned by tests/workers/test_nudged.py:
- `main`, its polling loop, waits for the wake-up or the poll delay, whichever comes first;
- `start_jobs` and the release of a slot: with jobs left over, free slots are a reason to look again at once;
- `close` holds where Redis is away, and calls nothing that redis-py has deprecated.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn
from uuid import UUID

import arq.connections
import arq.worker
import prometheus_client
import structlog
from arq.cron import CronJob  # not arq.cron.CronJob: in arq, that name is a function

from gateway.notify import nudges

log = structlog.get_logger(__name__)

RESTARTS: Final = prometheus_client.Counter("postroom_worker_restarts", "Times the arq worker was started again")

POLL_SECONDS: Final = 1.0  # between looks at the queue that no wake-up causes: deferred jobs, lost wake-ups
JOB_SECONDS: Final = 5.0  # a killed worker's job is another's after this and 10 s more; cron jobs may say otherwise
MAX_JOBS: Final = 10  # at once; each may hold a connection to Redis, and small plans have few
ANSWER_SECONDS: Final = 2.0  # a Redis that takes longer for one command is away, and the worker starts anew
END_SECONDS: Final = 1.0  # for cancelled jobs to say so to Redis
PAUSE_SECONDS: Final = 0.5  # before a restart; doubled up to the maximum while Redis stays away
PAUSE_MAX_SECONDS: Final = 5.0
_POKE: Final = "poke"  # in a job's context: whom to poke once the job has left the queue


class NudgedWorker(arq.worker.Worker):
    """An arq worker of one namespace. Run it by `run_forever`; it handles no signals and knows no burst mode."""

    def __init__(
        self,
        redis_url: str,
        *,
        pokes: Mapping[str, Callable[[UUID], None]],
        cron_jobs: Sequence[CronJob] = (),
        tls_verify: bool = True,
        namespace: str = nudges.NAMESPACE,
        poll_seconds: float = POLL_SECONDS,
        max_jobs: int = MAX_JOBS,
        ctx: dict[Any, Any] | None = None,
    ) -> None:
        """`pokes`: for each kind of job, what is told its account (`Drains.poke`); must not raise.
        `ctx`: what cron jobs are handed.
        """
        self.names = nudges.Names(namespace)
        self.connected = False  # whether it ever got as far as looking at the queue
        self._pokes = dict(pokes)
        self._woken = asyncio.Event()
        self._stopping = False
        self._left_over = False  # the queue held more than there were slots
        pool = nudges.pool_from_url(redis_url, tls_verify=tls_verify, answer_seconds=ANSWER_SECONDS)
        super().__init__(
            [_function(job) for job in pokes],
            redis_pool=arq.connections.ArqRedis(
                pool,
                job_serializer=nudges.encode,
                job_deserializer=nudges.decode,
                default_queue_name=self.names.queue,
            ),
            queue_name=self.names.queue,
            cron_jobs=[_named(job, namespace) for job in cron_jobs],
            after_job_end=self._poke,
            handle_signals=False,
            max_jobs=max_jobs,
            job_timeout=JOB_SECONDS,
            keep_result=0,
            poll_delay=poll_seconds,
            ctx=ctx,
            job_serializer=nudges.encode,
            job_deserializer=nudges.decode,
            log_results=False,
        )

    async def main(self) -> None:
        """Run jobs until `stop`, or until Redis goes away (RedisError or OSError)."""
        self.ctx["redis"] = self.pool
        listening = asyncio.create_task(self._listen(), name="worker wake-ups")
        try:
            while not self._stopping:
                self._woken.clear()  # before looking: what is queued from here on means another look
                await self._poll_iteration()
                self.connected = True
                await self._sleep()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    def stop(self) -> None:
        """Let `main` end after its present look at the queue: redis-py leaves connections open if cancelled in one."""
        self._stopping = True
        self._woken.set()

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        await super().start_jobs(job_ids)
        self._left_over = self.job_counter >= self.max_jobs or len(job_ids) >= self.queue_read_limit

    async def close(self, timeout: float = 0) -> None:
        """Pick no more jobs, give the running ones `timeout` seconds, close the connections; Redis may be away."""
        self.allow_pick_jobs = False
        jobs = list(self.tasks.values())
        await _wait(jobs, timeout)
        for job in jobs:
            job.cancel()
        await _wait(jobs, END_SECONDS)  # a cancelled job still writes that it is to be run again
        if self._pool is not None:
            with contextlib.suppress(*nudges.AWAY):
                await self._disconnect(self._pool)
            self._pool = None
        await _wait(jobs, END_SECONDS)  # what hung on a silent Redis hangs no more

    def _release_sem_dec_counter_on_complete(self) -> None:
        super()._release_sem_dec_counter_on_complete()
        if self._left_over and self.job_counter <= self.max_jobs // 2:
            self._woken.set()

    async def _listen(self) -> None:
        await nudges.follow(
            self.pool,
            self.names.wake,
            on_message=lambda _data: self._woken.set(),
            on_subscribed=self._woken.set,  # something may have been queued before
        )

    async def _disconnect(self, pool: arq.connections.ArqRedis) -> None:
        try:
            await pool.delete(self.health_check_key)
        finally:
            await pool.aclose(close_connection_pool=True)

    async def _sleep(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.poll_delay_s):
                await self._woken.wait()

    async def _poke(self, ctx: dict[Any, Any]) -> None:
        """After arq has taken the job off the queue. Earlier, a nudge that came between poke and removal would find
        its job still there and be left out, while the drain may have looked already.
        """
        if _POKE in ctx:
            job, account_id = ctx[_POKE]
            self._pokes[job](account_id)


async def run_forever(
    make_worker: Callable[[], NudgedWorker],
    *,
    pause_seconds: float = PAUSE_SECONDS,
    pause_max_seconds: float = PAUSE_MAX_SECONDS,
    stop_seconds: float = END_SECONDS,
) -> NoReturn:
    """Run workers, one after the other, until cancelled; then the last one's jobs have `stop_seconds` to end."""
    pause = pause_seconds
    while True:
        worker = make_worker()
        try:
            await _run(worker, stop_seconds)
        except nudges.AWAY as error:
            log.warning("worker lost redis", error=type(error).__name__)
        except Exception:  # whatever breaks the loop, the next worker begins anew; Postgres is polled meanwhile
            log.exception("worker broke")
        pause = pause_seconds if worker.connected else min(pause * 2, pause_max_seconds)
        RESTARTS.inc()
        await asyncio.sleep(pause)


async def _run(worker: NudgedWorker, stop_seconds: float) -> None:
    looking = asyncio.create_task(worker.main(), name="worker")
    try:
        await asyncio.shield(looking)
    finally:
        worker.stop()
        await _wait([looking], END_SECONDS)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await worker.close(stop_seconds)


async def _wait(jobs: Sequence[asyncio.Task[Any]], timeout: float) -> None:
    if jobs:
        await asyncio.wait(jobs, timeout=timeout)


def _function(job: str) -> arq.worker.Function:
    async def remember(ctx: dict[Any, Any], account_id: str) -> None:
        ctx[_POKE] = (job, UUID(account_id))  # arq hands this same context to `after_job_end`

    return arq.worker.func(remember, name=job)


def _named(job: CronJob, namespace: str) -> CronJob:
    """The job under a name of this namespace, for arq makes a cron job's id of its name."""
    return dataclasses.replace(job, name=f"{namespace}:{job.name}")
