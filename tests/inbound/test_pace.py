"""Reading after the 250 keeps back while mail comes in fast, and only then."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from gateway.inbound import pace

pytestmark = pytest.mark.anyio


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was rested; nobody sleeps."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return slept


async def test_what_trickles_in_is_read_with_short_rests(rests: list[float]) -> None:
    one = pace.Pace()
    for head in range(0, 200, 10):
        one.saw(UUID(int=1), head)
    await one.rest(0.1)
    assert rests == [pytest.approx(0.1 * pace.REST)]


async def test_in_a_rush_of_many_accounts_together_the_rests_are_long_and_bounded(rests: list[float]) -> None:
    """No single account's mail is a rush here. Seen to fail with the rate made of the account last seen alone."""
    one = pace.Pace()
    accounts = [uuid7() for _ in range(20)]
    for head in (0, 100):
        for account_id in accounts:
            one.saw(account_id, head)
    await one.rest(0.1)
    await one.rest(10)
    assert rests == [pytest.approx(0.1 * pace.RUSH_REST), pace.LONGEST_REST_SECONDS]


async def test_an_account_that_is_seen_for_the_first_time_is_no_rush() -> None:
    """Its log may be years long."""
    one = pace.Pace()
    one.saw(uuid7(), 1_000_000)
    assert one.rate() == 0


async def test_accounts_are_forgotten_in_turn() -> None:
    one = pace.Pace()
    for _ in range(pace.MAX_ACCOUNTS + 5):
        one.saw(uuid7(), 1)
    assert len(one._heads) == pace.MAX_ACCOUNTS
