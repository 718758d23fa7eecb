"""Redis fails in every way it can, under load: nobody waits for it, nothing is lost with it, and it is found again.

Mail comes in at one host and is followed at another, which hears of it by Redis or by its own look at the log each
second. A worker sends e-mails and tells a webhook's receiver. Everything is to go on while Redis is away, and to hear
of it again by Redis once it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest
import redis.asyncio
from redis.exceptions import RedisError

from gateway import embedded
from tests import house, sending
from tests.faults import load
from tests.faults.redis_line import RedisLine
from tests.flows import receiver
from tests.outbound import sink

pytestmark = pytest.mark.anyio

SUBSCRIBERS: Final = {"wake": 1, "events": 3}  # of each channel: a worker; it and two web processes
WRONG: Final = (
    "-LOADING Redis is loading the dataset in memory",
    "-READONLY You can't write against a read only replica.",
    "-OOM command not allowed when used memory > 'maxmemory'.",
    "-NOAUTH Authentication required.",
)
IMPATIENT: Final = {"WEBHOOK_RETRY_SCHEDULE": " ".join(["0.1"] * 20)}  # a busy machine may miss an attempt
KINDS: Final = ("killed", "flushed", "stopped", "swallow", "slow", "full", *WRONG)
SHORT: Final = ("killed", "swallow", WRONG[0])


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[embedded.Valkey]:
    """A server of the test's own, which remembers nothing when it ends."""
    with embedded.Valkey(tmp_path, options={"appendonly": "no"}) as server:
        yield server


@dataclass(kw_only=True)
class Watch:
    """How long after it happened each event was heard, by way and by what was wrong with Redis then."""

    wrong: str = "nothing"
    late: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def of(self, way: str) -> Callable[[load.Heard], None]:
        def heard(event: load.Heard) -> None:
            happened = datetime.fromisoformat(event.created_at)
            self.late[self.wrong, way].append((datetime.now(UTC) - happened).total_seconds())

        return heard

    def told(self) -> str:
        lines = []
        for (wrong, way), seconds in self.late.items():
            ordered = sorted(seconds)
            p50, p99 = (ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
            lines.append(
                f"{wrong[:10]:10} {way:9} {len(ordered):6} heard after {p50:.3f} s (median), {p99:.3f} s (p99),"
                f" {ordered[-1]:.3f} s (last)"
            )
        return "\n".join(lines)


@dataclass(kw_only=True)
class Scene:
    """What stands."""

    valkey: embedded.Valkey
    line: RedisLine
    hosts: list[house.House]
    tenant: house.Tenant
    relay: sink.Sink
    listener: receiver.Receiver
    ledger: load.Ledger
    watch: Watch

    async def spoil(self, kind: str) -> None:
        self.watch.wrong = kind
        if kind == "killed":
            os.kill(self.valkey.pid or 0, signal.SIGKILL)
        elif kind == "flushed":
            async with self._direct() as client:
                await client.flushall()
        elif kind == "stopped":
            os.kill(self.valkey.pid or 0, signal.SIGSTOP)
        else:
            self.line.mode = kind
            if kind == "full":
                self.line.cut()

    async def mend(self, kind: str) -> None:
        self.watch.wrong = "nothing"
        if kind == "killed":
            self.valkey.wait()
            await asyncio.to_thread(self.valkey.start)
        elif kind == "stopped":
            os.kill(self.valkey.pid or 0, signal.SIGCONT)
        self.line.mode = "pass"

    async def all_hear_by_redis(self) -> None:
        """Until every process has subscribed again."""
        async with asyncio.timeout(60):
            while True:
                if await self._are_subscribed():
                    return
                await asyncio.sleep(0.05)  # other processes' doings, of which nobody tells

    async def _are_subscribed(self) -> bool:
        namespace = self.hosts[0].environment["REDIS_NAMESPACE"]
        with contextlib.suppress(RedisError, OSError):
            async with self._direct() as client:
                found = await client.pubsub_numsub(*(f"{namespace}:{name}" for name in SUBSCRIBERS))
                return [count for _, count in found] == list(SUBSCRIBERS.values())
        return False

    @contextlib.asynccontextmanager
    async def _direct(self) -> AsyncIterator[redis.asyncio.Redis]:
        client = redis.asyncio.Redis.from_url(self.valkey.url)
        try:
            yield client
        finally:
            await client.aclose()


@contextlib.asynccontextmanager
async def _standing(dsn: str, valkey: embedded.Valkey, **settings: str) -> AsyncIterator[Scene]:
    server = Path(valkey.url.removeprefix("unix://").partition("?")[0].replace("%2F", "/"))
    async with contextlib.AsyncExitStack() as stack:
        line = await stack.enter_async_context(RedisLine(server))
        relay = await stack.enter_async_context(sink.Sink(keep=False))
        listener = await stack.enter_async_context(receiver.Receiver())
        home = await stack.enter_async_context(
            house.standing(dsn, line.url, settings={"OUTBOUND": relay.url("tls=none"), **IMPATIENT, **settings})
        )
        hosts = [home, await stack.enter_async_context(load.beside(home))]
        yield Scene(
            valkey=valkey,
            line=line,
            hosts=hosts,
            tenant=await home.tenant(),
            relay=relay,
            listener=listener,
            ledger=load.Ledger(),
            watch=Watch(),
        )


async def _boxes(client: Any, count: int) -> list[str]:
    return [(await client.post("/mailboxes", json={})).json()["address"] for _ in range(count)]


@pytest.mark.parametrize(
    ("kinds", "mails"),
    [
        pytest.param(SHORT, 60, id="short"),
        pytest.param(KINDS, 1000, id="storm", marks=pytest.mark.faults),
    ],
)
async def test_nothing_is_lost_and_nobody_waits_while_redis_is_away(
    dsn: str, valkey: embedded.Valkey, kinds: Sequence[str], mails: int
) -> None:
    """No sender hears a refusal, and each event comes to each follower, once and in order, before Redis is back.

    With the look at the log each second taken out, followers had not caught up after a minute of a killed Redis."""
    ways: Sequence[load.Way] = ("sse", "websocket", "poll")
    async with _standing(dsn, valkey) as scene:
        hosts, ledger, watch, done = scene.hosts, scene.ledger, scene.watch, asyncio.Event()
        async with hosts[0].client(scene.tenant.key) as client:
            hook = {"url": scene.listener.url(), "types": ["*", "webhook.created"]}  # the log from its beginning
            assert (await client.post("/webhooks", json=hook)).status_code == 201
            boxes = await _boxes(client, 5)
        followers = [load.Follower(hosts[1:], scene.tenant.key, way, watch.of(way)) for way in ways]
        async with load.Caller(hosts[:1], scene.tenant.key) as caller, asyncio.TaskGroup() as group:
            following = [group.create_task(one.run()) for one in followers]
            callers = [group.create_task(load.send_mail(hosts[:1], boxes, ledger, done, seed)) for seed in range(4)]
            callers.append(group.create_task(load.send_emails(caller, ledger, done, 0)))
            slowest = {}
            for kind in kinds:
                await scene.all_hear_by_redis()
                await scene.spoil(kind)
                slowest[kind] = await _work_goes_on(scene, mails, scene.relay.count)
                await _caught_up(dsn, scene, followers)
                await scene.mend(kind)
            await scene.all_hear_by_redis()
            done.set()
            await asyncio.gather(*callers)
            newest = await _everything_told(dsn, scene, followers)
            for task in following:
                task.cancel()
    assert not ledger.refusals
    print(f"\n{len(ledger.mails)} mails, {newest} events, {len(scene.listener.told)} posts\n{watch.told()}")  # noqa: T201
    print("\n".join(f"{kind[:10]}: slowest 250 after {seconds:.3f} s" for kind, seconds in slowest.items()))  # noqa: T201


async def _work_goes_on(scene: Scene, mails: int, relayed: int) -> float:
    """So many mails are confirmed, and e-mails are sent; the longest time between two confirmations."""
    ledger, longest = scene.ledger, 0.0
    async with asyncio.timeout(120):
        for _ in range(mails):
            began = time.monotonic()
            await ledger.confirmed.reaches(ledger.confirmed.value + 1)
            longest = max(longest, time.monotonic() - began)
        await scene.relay.until(lambda: scene.relay.count > relayed)
    return longest


async def _caught_up(dsn: str, scene: Scene, followers: Sequence[load.Follower]) -> None:
    """Until each follower has heard what has happened until now, with Redis as it is."""
    connection = await asyncpg.connect(dsn)
    try:
        query = "select last_seq from event_heads where account_id = $1"
        newest = await connection.fetchval(query, scene.tenant.account_id)
    finally:
        await connection.close()
    async with asyncio.timeout(60):
        await asyncio.gather(*(one.cursor.reaches(newest) for one in followers))


async def _everything_told(dsn: str, scene: Scene, followers: Sequence[load.Follower]) -> int:
    """All events, to each follower exactly and to the receiver, at least once, under their ids; how many."""
    query = "select id from events where account_id = $1 order by seq"
    async with asyncio.timeout(200):
        ids = await _settled(
            dsn, query, scene.tenant.account_id
        )  # the first is that there is a webhook: not told to it
        await asyncio.gather(*(one.cursor.reaches(len(ids)) for one in followers))
    await _posted(dsn, scene, {str(one) for one in ids[1:]})
    for one in followers:
        assert one.heard == ids, one.way
    return len(ids)


async def _posted(dsn: str, scene: Scene, ids: set[str]) -> None:
    """Until the receiver was told of all of them, however many wait: it is told one after the other."""
    while missing := ids - {post.id for post in scene.listener.told}:
        try:
            await scene.listener.until(len(scene.listener.told) + 1, seconds=100)
        except TimeoutError:
            connection = await asyncpg.connect(dsn)
            query = "select event_id, status, due_at, attempts from webhook_deliveries where event_id = any($1) limit 9"
            found = [dict(row) for row in await connection.fetch(query, [UUID(one) for one in missing])]
            await connection.close()
            raise AssertionError(f"{len(missing)} of {len(ids)} events are told to nobody: {found}") from None


async def _settled(dsn: str, query: str, account_id: UUID) -> list[UUID]:
    """The log, once the worker has sent everything."""
    connection = await asyncpg.connect(dsn)
    try:
        while True:
            if not await connection.fetchval("select 1 from deliveries where due_at is not null limit 1"):
                return [row["id"] for row in await connection.fetch(query, account_id)]
            await asyncio.sleep(0.05)  # other processes' doings, of which Postgres does not tell
    finally:
        await connection.close()


async def test_processes_end_when_they_are_told_to_whoever_has_fallen_silent(dsn: str, valkey: embedded.Valkey) -> None:
    """Redis, the relay and the webhook's receiver take connections and say nothing more, ever."""
    async with _standing(dsn, valkey, DRAIN_SECONDS="1") as scene, asyncio.timeout(100):
        home = scene.hosts[0]
        await scene.all_hear_by_redis()
        scene.relay.always("greeting", sink.stall())
        scene.listener.hold = asyncio.Event()
        await scene.spoil("swallow")
        async with home.client(scene.tenant.key) as client:
            hook = {"url": scene.listener.url(), "types": ["*"]}
            assert (await client.post("/webhooks", json=hook)).status_code == 201
            await sending.send(client)
        await scene.listener.until(1)
        await scene.relay.until(lambda: scene.relay.open > 0)
        for name in ("worker", "serve"):
            assert await asyncio.to_thread(home.stop, name) == 0
