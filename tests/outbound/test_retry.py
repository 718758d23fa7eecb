"""When the next attempt is made: the schedule's own promises, and the settings it comes from."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import settings
from gateway.outbound import retry

# The contract: 30 s, 2 m, 10 m, 30 m, 1, 2, 4, 8, 16 h, then a last attempt at 48 h
WAITS = (30, 120, 600, 1800, 3600, 7200, 14_400, 28_800, 57_600)
LAST = 172_800


def _schedule(**changes: object) -> retry.Schedule:
    values = {"waits": WAITS, "max_age": LAST, "jitter": 0.2, "chance": lambda: 0.5, **changes}
    return retry.Schedule(**values)  # type: ignore[arg-type] # mixed values of one record


def test_the_default_settings_are_the_schedule_of_the_contract() -> None:
    schedule = retry.Schedule.of(settings.load())
    assert schedule.waits == WAITS
    assert (schedule.max_age, schedule.jitter) == (LAST, 0.2)


def test_the_waits_follow_one_another_and_the_last_attempt_is_made_at_the_maximal_age() -> None:
    schedule, age, made = _schedule(), 0.0, [0.0]
    while (wait := schedule.next(len(made), age=age)) is not None:
        age += wait
        made.append(age)
    assert [later - earlier for earlier, later in itertools.pairwise(made)][: len(WAITS)] == list(WAITS)
    assert made[-1] == LAST


@pytest.mark.parametrize(("chance", "share"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)])
def test_jitter_spreads_each_wait_both_ways(chance: float, share: float) -> None:
    assert _schedule(chance=lambda: chance).next(3, age=0) == pytest.approx(600 * share)


def test_a_peer_that_says_when_is_not_asked_sooner_but_never_puts_the_end_off() -> None:
    schedule = _schedule()
    assert schedule.next(1, age=0, retry_after=300) == 300
    assert schedule.next(3, age=0, retry_after=5) == 600
    assert schedule.next(1, age=LAST - 100, retry_after=1e9) == 100


def test_there_is_no_attempt_after_the_last() -> None:
    assert _schedule().next(11, age=LAST) is None
    assert _schedule().next(1, age=LAST + 1, retry_after=1) is None
    assert _schedule(waits=()).next(1, age=0) is None


@given(
    attempts=st.integers(1, 1000),
    age=st.floats(0, LAST * 2),
    chance=st.floats(0, 1),
    retry_after=st.none() | st.floats(0, 1e9),
)
def test_no_wait_is_negative_or_goes_past_the_maximal_age(
    attempts: int, age: float, chance: float, retry_after: float | None
) -> None:
    wait = _schedule(chance=lambda: chance).next(attempts, age=age, retry_after=retry_after)
    if age >= LAST:
        assert wait is None
    else:
        assert wait is not None
        assert 0 <= wait <= LAST - age
