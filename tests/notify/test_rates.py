"""Rate limits: what one process lets in, what many let in together, and what becomes of them without Redis."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from os import kill
from typing import Any
from uuid import uuid4

import pytest

from gateway import embedded
from gateway.models import Caller
from gateway.notify import rates
from gateway.settings import Settings

pytestmark = pytest.mark.anyio

SLOW = rates.Limit(name="key", per_second=0.01, burst=40)  # nothing comes back while a test runs
ALICE, BOB = uuid4(), uuid4()


class Clock:
    """Stands still but for what a test moves it by."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, Redis is there."""
    monkeypatch.setattr(rates, "ANSWER_SECONDS", 10.0)


@contextlib.asynccontextmanager
async def processes(count: int, url: str, **options: Any) -> AsyncIterator[list[rates.Rates]]:
    made = [rates.Rates(url, processes=count, **options) for _ in range(count)]
    try:
        async with asyncio.timeout(30):
            yield made
    finally:
        for one in made:
            await one.close()


async def until_shared(*those: rates.Rates, shared: bool = True) -> None:
    """A request of nobody's makes each of them ask Redis."""
    while any(one.shared is not shared for one in those):
        for one in those:
            one.take((SLOW, uuid4()))
        await asyncio.sleep(0.01)


async def until_told(*those: rates.Rates) -> None:
    """All that they let in was reported, and answered."""
    await asyncio.gather(*(one._reporting for one in those if one._reporting is not None))


def let_in(those: list[rates.Rates], limit: rates.Limit, tries: int) -> int:
    return sum(one.take((limit, ALICE)).allowed for _ in range(tries) for one in those)


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    clock = Clock()
    alone = rates.Rates("", clock=clock)
    limit = rates.Limit(name="key", per_second=10, burst=5)
    standings = [alone.take((limit, ALICE)) for _ in range(6)]
    assert [one.allowed for one in standings] == [True] * 5 + [False]
    assert [one.remaining for one in standings] == [4, 3, 2, 1, 0, 0]
    assert (standings[-1].limit, standings[-1].reset, standings[-1].retry_after) == (5, 1, 1)
    assert alone.take((limit, BOB)).remaining == 4
    let = 0
    for _ in range(1000):  # ten seconds
        clock.now += 0.01
        let += alone.take((limit, ALICE)).allowed
    assert let == pytest.approx(100, abs=1)
    clock.now += 3600
    assert alone.look(limit, ALICE).remaining == 5
    assert alone.look(limit, ALICE).reset == 0


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "REMEMBERED", 100)
    monkeypatch.setattr(rates, "_FORGOTTEN", 10)
    clock = Clock()
    alone = rates.Rates("", clock=clock)
    for number in range(1000):
        alone.take((SLOW, str(number)))
    assert len(alone._buckets) <= 100
    assert not [alone.take((SLOW, "999")) for _ in range(SLOW.burst)][-1].allowed  # the newest are remembered
    clock.now += 10_000
    alone.take((SLOW, "another"))
    alone.take((SLOW, "and another"))
    assert len(alone._buckets) <= 100


async def test_without_redis_every_process_lets_in_its_share(redis_url: str) -> None:
    """Neither all of it for each of them nor nothing; and a limit lower than the processes still lets somebody in."""
    for url in ("", "redis://127.0.0.1:1"):  # none, and nobody answers there
        async with processes(4, url) as those:
            assert let_in(those, SLOW, 100) == SLOW.burst
            lowest = rates.Limit(name="lowest", per_second=0.01, burst=2)
            assert let_in(those, lowest, 10) == 4


@pytest.mark.usefixtures("patient")
async def test_processes_that_share_a_redis_let_in_no_more_than_they_say(redis_url: str, namespace: str) -> None:
    """At most one burst for each process that did not know of the others yet; what was too much is owed.

    Negative control: with reports that are not sent (`_tell_some` returning at once) what the others let in was never
    known, and the test did not come to its end.
    """
    async with processes(4, redis_url, namespace=namespace) as those:
        await until_shared(*those)
        one, other, *_ = those
        assert all(one.take((SLOW, ALICE)).allowed for _ in range(30))
        await until_told(one)
        assert other.take((SLOW, ALICE)).remaining == SLOW.burst - 1  # it does not know yet
        await until_told(other)
        assert other.look(SLOW, ALICE).remaining == SLOW.burst - 31
        total = 31 + let_in(those, SLOW, 200)
        assert SLOW.burst < total <= len(those) * SLOW.burst
        await until_told(*those)
        assert let_in(those, SLOW, 200) == 0
        owed = max(one.look(SLOW, ALICE).reset for one in those)
        assert owed == pytest.approx(total / SLOW.per_second, rel=0.05)


@pytest.mark.usefixtures("patient")
async def test_processes_learn_from_redis_how_many_there_are(redis_url: str, namespace: str) -> None:
    """Those of other hosts, which no setting counts."""
    async with (
        processes(1, redis_url, namespace=namespace) as [one],
        processes(1, redis_url, namespace=namespace) as [two],
    ):
        await until_shared(one, two)
        while one._processes < 2:
            one.take((SLOW, uuid4()))
            await asyncio.sleep(0.01)


async def test_a_redis_that_goes_away_leaves_each_process_its_share(
    valkey: embedded.Valkey, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, silent (SIGSTOP) and back: neither open nor shut at any time.

    Negative control: with `_away` leaving `shared` as it is, each process went on by the whole limit, and the test did
    not come to its end.
    """
    monkeypatch.setattr(rates, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(rates, "GATHER_SECONDS", 0.01)
    async with processes(4, valkey.url, namespace=namespace) as those:
        await until_shared(*those)
        assert valkey.pid is not None
        kill(valkey.pid, signal.SIGSTOP)
        try:
            await until_shared(*those, shared=False)
            assert let_in(those, SLOW, 100) == SLOW.burst
        finally:
            kill(valkey.pid, signal.SIGCONT)
        await until_shared(*those)
        valkey.stop()
        await until_shared(*those, shared=False)
        assert let_in(those, rates.Limit(name="another", per_second=0.01, burst=40), 100) == 40


def test_a_caller_hears_of_the_limit_that_is_closer_to_its_end() -> None:
    settings = Settings(
        rate_limit_per_second=0.01, rate_limit_burst=3, account_rate_limit_per_second=0.01, account_rate_limit_burst=4
    )
    limiter = rates.Limiter(rates.Rates(""), rates.Limits.of(settings))
    key, other = (Caller(account_id=ALICE, key_id=uuid4()) for _ in range(2))
    standings = [limiter.request(key) for _ in range(4)] + [limiter.request(other) for _ in range(2)]
    told = [(one.name, one.allowed, one.remaining) for one in standings if one is not None]
    assert told == [
        ("key", True, 2),
        ("key", True, 1),
        ("key", True, 0),
        ("key", False, 0),
        ("account", True, 0),
        ("account", False, 0),
    ]
    off = Settings(rate_limit_per_second=0, account_rate_limit_per_second=0, auth_failures_per_minute=0)
    nothing = rates.Limiter(rates.Rates(""), rates.Limits.of(off))
    nothing.failed("192.0.2.1")
    assert (nothing.request(key), nothing.shut_out("192.0.2.1")) == (None, 0)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", ""),
        ("", ""),
    ],
)
def test_a_client_is_told_apart_by_what_it_has_for_itself(address: str, network: str) -> None:
    assert rates.network(address) == network
