"""The arq worker against a real server: woken, restarted, and no nudge lost between a poke and the queue."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import inspect
import os
import pickle
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID, uuid4

import arq
import arq.constants
import arq.jobs
import arq.version
import arq.worker
import pytest
from arq.cron import cron

from gateway import embedded
from gateway.notify import nudges
from workers import drains, nudged

pytestmark = pytest.mark.anyio

ALICE, BOB = uuid4(), uuid4()
NEVER = 3600.0  # a poll delay that no test lives to see: what happens, a wake-up caused

# What of arq `nudged` overrides, calls or counts on, as it was read when the overrides were written.
ARQ_VERSION = "0.28.0"
ARQ_SOURCES = {
    "Worker.main": "45ca1591c9717466",
    "Worker._poll_iteration": "f8d39d823a0a59f2",
    "Worker.start_jobs": "b45797cfa40bed7f",
    "Worker.run_job": "589a19059ff84ee7",
    "Worker.finish_job": "903f09c92830d3fd",
    "Worker._release_sem_dec_counter_on_complete": "0ed101482e942c33",
    "Worker.heart_beat": "2e9959bea66dc551",
    "Worker.run_cron": "7d2d3784e6567fb2",
    "Worker.close": "5bcc9cb356680829",
    "ArqRedis.enqueue_job": "7da8706a747c1171",
    "serialize_job": "1fc854cc50e16e5c",
}


class Pokes:
    """What was poked, in order."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[UUID] = asyncio.Queue()

    def __call__(self, account_id: UUID) -> None:
        self.queue.put_nowait(account_id)


@contextlib.asynccontextmanager
async def working(make_worker: Callable[[], nudged.NudgedWorker]) -> AsyncIterator[asyncio.Task[Any]]:
    """A supervised worker, for at most 20 s."""
    task = asyncio.create_task(nudged.run_forever(make_worker, pause_seconds=0.01, pause_max_seconds=0.05))
    try:
        async with asyncio.timeout(20):
            yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def nudging(url: str, namespace: str) -> AsyncIterator[nudges.Nudger]:
    nudger = nudges.Nudger(url, namespace=namespace, pause_seconds=0.01)
    try:
        yield nudger
    finally:
        await nudger.close()


async def flushed(nudger: nudges.Nudger) -> None:
    """Until Redis has what was nudged."""
    if nudger._sending is not None:
        await nudger._sending


async def queue_length(url: str, namespace: str) -> int:
    connected = nudges.redis_from_url(url)
    try:
        return int(await connected.zcard(nudges.Names(namespace).queue))
    finally:
        await connected.aclose()


async def test_a_nudge_wakes_a_worker_that_does_not_poll(redis_url: str, namespace: str) -> None:
    """With `on_message` made to do nothing, only the first nudge was seen, at the worker's start."""
    pokes = Pokes()

    def make() -> nudged.NudgedWorker:
        return nudged.NudgedWorker(redis_url, pokes={"deliver": pokes}, namespace=namespace, poll_seconds=NEVER)

    async with working(make), nudging(redis_url, namespace) as nudger:
        for account in (ALICE, BOB, ALICE):
            nudger.nudge("deliver", account)
            assert await pokes.queue.get() == account
    assert await queue_length(redis_url, namespace) == 0


async def test_what_was_queued_before_the_worker_came_is_found(redis_url: str, namespace: str) -> None:
    pokes = Pokes()
    async with nudging(redis_url, namespace) as nudger:
        nudger.nudge("deliver", ALICE)
    async with working(
        lambda: nudged.NudgedWorker(redis_url, pokes={"deliver": pokes}, namespace=namespace, poll_seconds=NEVER)
    ):
        assert await pokes.queue.get() == ALICE


async def test_each_kind_of_job_pokes_its_own(redis_url: str, namespace: str) -> None:
    deliver, tell = Pokes(), Pokes()
    pokes = {"deliver": deliver, "tell": tell}
    async with (
        working(lambda: nudged.NudgedWorker(redis_url, pokes=pokes, namespace=namespace)),
        nudging(redis_url, namespace) as nudger,
    ):
        nudger.nudge("tell", BOB)
        nudger.nudge("deliver", ALICE)
        assert (await deliver.queue.get(), await tell.queue.get()) == (ALICE, BOB)
    assert deliver.queue.empty()
    assert tell.queue.empty()


async def test_more_jobs_than_slots_are_all_done_without_another_wake_up(redis_url: str, namespace: str) -> None:
    """Without the look when slots come free, the worker took one job and waited for the poll that never came."""
    pokes = Pokes()
    accounts = {uuid4() for _ in range(20)}
    async with nudging(redis_url, namespace) as nudger:
        for account in accounts:
            nudger.nudge("deliver", account)

    def make() -> nudged.NudgedWorker:
        return nudged.NudgedWorker(
            redis_url, pokes={"deliver": pokes}, namespace=namespace, poll_seconds=NEVER, max_jobs=1
        )

    async with working(make):
        assert {await pokes.queue.get() for _ in accounts} == accounts


async def test_two_workers_do_each_nudge_once(redis_url: str, namespace: str) -> None:
    pokes = Pokes()

    def make() -> nudged.NudgedWorker:
        return nudged.NudgedWorker(redis_url, pokes={"deliver": pokes}, namespace=namespace, poll_seconds=NEVER)

    accounts = [uuid4() for _ in range(50)]
    async with working(make), working(make), nudging(redis_url, namespace) as nudger:
        for account in accounts:
            nudger.nudge("deliver", account)
        done = [await pokes.queue.get() for _ in accounts]
        while await queue_length(redis_url, namespace):
            pass
    assert sorted(done) == sorted(accounts)
    assert pokes.queue.empty()


async def test_work_that_is_nudged_while_its_job_is_leaving_the_queue_is_looked_at(
    redis_url: str, namespace: str
) -> None:
    """The second nudge finds the first one's job still in the queue and adds none. So the drain must look only after
    the job is gone. With the poke made by the job itself, the drain had looked already and "second" stayed undone.
    """
    due, done = ["first"], asyncio.Queue[str]()

    async def drain(_account_id: UUID) -> None:
        while due:
            done.put_nowait(due.pop())

    deliveries = drains.Drains(drain)
    async with nudging(redis_url, namespace) as nudger:

        async def job_ends(ctx: dict[Any, Any]) -> None:
            if await queue_length(redis_url, namespace) and not second.is_set():
                second.set()
                due.append("second")
                nudger.nudge("deliver", ALICE)
                await flushed(nudger)

        def make() -> nudged.NudgedWorker:
            worker = nudged.NudgedWorker(
                redis_url, pokes={"deliver": deliveries.poke}, namespace=namespace, poll_seconds=NEVER
            )
            worker.on_job_end = job_ends  # arq calls it after the job's function, before it takes the job away
            return worker

        second = asyncio.Event()
        async with working(make):
            nudger.nudge("deliver", ALICE)
            assert {await done.get(), await done.get()} == {"first", "second"}
    await deliveries.close(timeout=1)


async def test_a_worker_comes_back_after_redis_and_the_process_goes_on_meanwhile(
    valkey: embedded.Valkey, namespace: str
) -> None:
    """With `run_forever` reduced to one `worker.main()`, as arq has it, the task was dead after the first stop."""
    pokes = Pokes()
    made = 0

    def make() -> nudged.NudgedWorker:
        nonlocal made
        made += 1
        return nudged.NudgedWorker(valkey.url, pokes={"deliver": pokes}, namespace=namespace, poll_seconds=0.01)

    deliveries = drains.Drains(lambda _account_id: asyncio.sleep(0))
    async with working(make) as task, nudging(valkey.url, namespace) as nudger:
        for _ in range(2):
            nudger.nudge("deliver", ALICE)
            assert await pokes.queue.get() == ALICE
            valkey.stop()
            before = made
            while made < before + 2:  # it has tried again in vain
                deliveries.poke(BOB)
                await deliveries.idle()
            valkey.start()
            while pokes.queue.empty():  # a first nudge may still be lost
                nudger.nudge("deliver", ALICE)
                await flushed(nudger)
            while not pokes.queue.empty() or await queue_length(valkey.url, namespace):
                assert await pokes.queue.get() == ALICE
        assert not task.done()


async def test_a_worker_leaves_a_server_that_has_fallen_silent_and_finds_it_again(
    valkey: embedded.Valkey, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, not killed: without the bound of each command, the first worker waited for ever."""
    monkeypatch.setattr(nudged, "ANSWER_SECONDS", 0.2)
    pokes, made = Pokes(), asyncio.Semaphore(0)

    def make() -> nudged.NudgedWorker:
        made.release()
        return nudged.NudgedWorker(valkey.url, pokes={"deliver": pokes}, namespace=namespace, poll_seconds=0.01)

    async with working(make), nudging(valkey.url, namespace) as nudger:
        nudger.nudge("deliver", ALICE)
        assert (await made.acquire(), await pokes.queue.get()) == (True, ALICE)
        assert valkey.pid is not None
        os.kill(valkey.pid, signal.SIGSTOP)
        try:
            await made.acquire()
        finally:
            os.kill(valkey.pid, signal.SIGCONT)
        while pokes.queue.empty():
            nudger.nudge("deliver", BOB)
            await flushed(nudger)


async def test_a_bug_in_the_loop_is_logged_and_the_next_worker_begins_anew(redis_url: str, namespace: str) -> None:
    pokes = Pokes()
    broken = [RuntimeError("a bug"), None]

    class Worker(nudged.NudgedWorker):
        async def heart_beat(self) -> None:
            error = broken.pop(0) if broken else None
            if error is not None:
                raise error
            await super().heart_beat()

    async with (
        working(lambda: Worker(redis_url, pokes={"deliver": pokes}, namespace=namespace)),
        nudging(redis_url, namespace) as nudger,
    ):
        nudger.nudge("deliver", ALICE)
        assert await pokes.queue.get() == ALICE


async def test_cron_jobs_run_under_their_namespace_with_their_context(redis_url: str, namespace: str) -> None:
    ran = asyncio.Queue[tuple[str, str]]()

    async def sweep(ctx: dict[Any, Any]) -> None:
        ran.put_nowait((ctx["desk"], ctx["job_id"]))

    def make() -> nudged.NudgedWorker:
        return nudged.NudgedWorker(
            redis_url,
            pokes={},
            cron_jobs=[cron(sweep, name="sweep", run_at_startup=True)],
            namespace=namespace,
            ctx={"desk": "the desk"},
            poll_seconds=0.05,
        )

    async with working(make):
        desk, job_id = await ran.get()
    assert desk == "the desk"
    assert job_id.startswith(f"{namespace}:sweep:")


async def test_a_pickle_in_the_queue_is_refused_and_not_run(redis_url: str, namespace: str) -> None:
    names, pokes = nudges.Names(namespace), Pokes()
    job_id = names.job_id("deliver", ALICE)
    connected = nudges.redis_from_url(redis_url)
    job: dict[str, object] = {"t": None, "f": "deliver", "a": (str(ALICE),), "k": {}, "et": 1}
    await connected.set(arq.constants.job_key_prefix + job_id, pickle.dumps(job), px=60_000)
    await connected.zadd(names.queue, {job_id: 1})
    await connected.aclose()
    async with working(lambda: nudged.NudgedWorker(redis_url, pokes={"deliver": pokes}, namespace=namespace)):
        while await queue_length(redis_url, namespace):
            pass
    assert pokes.queue.empty()


async def test_nothing_is_left_in_redis_of_a_job_that_was_done(valkey: embedded.Valkey, namespace: str) -> None:
    pokes = Pokes()
    async with (
        working(lambda: nudged.NudgedWorker(valkey.url, pokes={"deliver": pokes}, namespace=namespace)),
        nudging(valkey.url, namespace) as nudger,
    ):
        nudger.nudge("deliver", ALICE)
        await pokes.queue.get()
    connected = nudges.redis_from_url(valkey.url)
    assert await connected.keys("*") == []
    await connected.aclose()


async def test_stopping_gives_running_jobs_their_time(redis_url: str, namespace: str) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def slow(ctx: dict[Any, Any]) -> None:
        began.set()
        await asyncio.sleep(0.05)
        ended.set()

    def make() -> nudged.NudgedWorker:
        jobs = [cron(slow, name="slow", run_at_startup=True)]
        return nudged.NudgedWorker(redis_url, pokes={}, cron_jobs=jobs, namespace=namespace, poll_seconds=0.05)

    task = asyncio.create_task(nudged.run_forever(make, stop_seconds=10))
    async with asyncio.timeout(20):
        await began.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert ended.is_set()


async def test_a_worker_registers_no_signal_handlers(redis_url: str, namespace: str) -> None:
    worker = nudged.NudgedWorker(redis_url, pokes={"deliver": Pokes()}, namespace=namespace)
    assert not worker._handle_signals
    assert not worker.loop.remove_signal_handler(15)
    await worker.close()


def test_arq_is_the_one_that_was_read() -> None:
    """The overrides repeat parts of arq. If this fails: read arq's change, adapt workers/nudged.py and
    gateway/notify/nudges.py, then write down the new digests.
    """
    assert arq.version.VERSION == ARQ_VERSION
    assert {name: _digest(name) for name in ARQ_SOURCES} == ARQ_SOURCES


def _digest(name: str) -> str:
    owner: Any = {"Worker": arq.worker, "ArqRedis": arq.connections}.get(name.partition(".")[0], arq.jobs)
    for part in name.split("."):
        owner = getattr(owner, part)
    return hashlib.sha256(inspect.getsource(owner).encode()).hexdigest()[:16]
