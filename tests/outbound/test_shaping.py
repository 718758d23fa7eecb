"""How many, how fast and when: a destination's state, by a clock that stands until it is moved."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from datetime import UTC, datetime

import pytest

from gateway.outbound import shaping, standing
from gateway.outbound.providers import contract

pytestmark = pytest.mark.anyio

NOW = datetime.now(UTC)
TAKEN = contract.Verdict(
    outcome="delivered", reply="250 ok", started_at=NOW, finished_at=NOW, stage="dot", code=250, of_one_domain=True
)
SILENCE = dataclasses.replace(TAKEN, outcome="deferred", reply="timed out", stage="connect", code=None)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def said(code: int, text: str, retry_after: float | None = None) -> contract.Verdict:
    """A temporary refusal."""
    return dataclasses.replace(
        TAKEN,
        outcome="deferred",
        reply=f"{code} {text}",
        stage="mail",
        code=code,
        retry_after=retry_after,
    )


BUSY = said(421, "4.7.0 too many connections")


def domain(clock: Clock, *, most: int = 20, patience: float = 0.0) -> shaping.Destination:
    return shaping.Destination("recipient.example", is_domain=True, most=most, clock=clock, patience=patience)


async def sent(destination: shaping.Destination, *verdicts: contract.Verdict) -> list[str]:
    """One after the other; "sent", or the reason for holding back."""
    found: list[str] = []
    for verdict in verdicts:
        turn = await destination.turn()
        found.append(turn.reason if isinstance(turn, shaping.HeldBack) else "sent")
        if not isinstance(turn, shaping.HeldBack):
            destination.hear(verdict, turn)
            destination.leave(turn)
    return found


async def at_once(destination: shaping.Destination) -> int:
    """How many turns are given out before somebody has to wait."""
    turns = []
    while not isinstance(turn := await destination.turn(), shaping.HeldBack):
        turns.append(turn)
    for turn in turns:
        destination.leave(turn)
    return len(turns)


async def test_a_domain_begins_with_few_at_once_and_gets_more_with_each_success() -> None:
    destination = domain(Clock())
    assert await at_once(destination) == shaping.INITIAL_LIMIT
    await sent(destination, TAKEN, TAKEN, TAKEN)
    assert await at_once(destination) == shaping.INITIAL_LIMIT + 3
    await sent(destination, *[TAKEN] * 50)
    assert await at_once(destination) == 20


async def test_a_provider_takes_all_there_are_until_it_complains() -> None:
    clock = Clock()
    provider = shaping.Destination("smtp:relay", is_domain=False, most=100, clock=clock, patience=0)
    assert await at_once(provider) == 100
    assert await sent(provider, *[SILENCE] * 20) == ["sent"] * 20  # its circuit's business
    assert await sent(provider, BUSY, TAKEN) == ["sent", "paced"]


async def test_five_in_a_row_without_an_answer_close_it_for_longer_each_time() -> None:
    clock = Clock()
    destination = domain(clock)
    assert await sent(destination, *[SILENCE] * 4, said(451, "not now"), *[SILENCE] * 6) == ["sent"] * 10 + ["closed"]
    for seconds in (30, 60, 120, 240, 480, 900, 900):
        clock.now += seconds - 1
        assert await sent(destination, TAKEN) == ["closed"]
        clock.now += 1
        assert await sent(destination, SILENCE, TAKEN) == ["sent", "closed"]


async def test_one_tries_when_the_time_is_up_and_its_success_opens_it() -> None:
    clock = Clock()
    destination = domain(clock)
    await sent(destination, *[SILENCE] * 5)
    clock.now += 30
    turn, another = await destination.turn(), await destination.turn()
    assert isinstance(another, shaping.HeldBack)
    assert another.reason == "closed"
    assert turn == clock.now
    destination.hear(TAKEN, turn)
    destination.leave(turn)
    assert await sent(destination, TAKEN, *[SILENCE] * 4, TAKEN) == ["sent"] * 6
    await sent(destination, *[SILENCE] * 5)
    assert destination.spread(1)[0] <= 30 + 15  # it begins anew


async def test_attempts_that_began_before_it_closed_do_not_close_it_for_longer() -> None:
    clock = Clock()
    destination = domain(clock)
    began = clock.now
    for _ in range(20):
        destination.hear(SILENCE, began)
        clock.now += 0.1
    assert max(destination.spread(100)) <= 30 + 15


async def test_a_closed_destinations_recipients_come_back_spread_behind_its_opening() -> None:
    clock = Clock()
    destination = domain(clock)
    await sent(destination, *[SILENCE] * 5)
    times = destination.spread(1000)
    assert times == sorted(times)
    assert 30 <= times[0] < 31
    assert 44 < times[-1] <= 45


async def test_a_word_about_rates_halves_the_pace_and_successes_bring_it_back() -> None:
    clock = Clock()
    destination = domain(clock)
    await sent(destination, *[TAKEN] * 15)
    assert await at_once(destination) == 20
    assert await sent(destination, BUSY, TAKEN) == ["sent", "paced"]
    slowed_at = clock.now
    while await sent(destination, TAKEN, TAKEN) != ["sent", "sent"]:
        clock.now += 0.04
    assert shaping.RECOVERY_SECONDS < clock.now - slowed_at < 4 * shaping.RECOVERY_SECONDS
    await sent(destination, *[TAKEN] * 400)
    assert await at_once(destination) == 20


async def test_many_words_about_rates_at_once_are_one() -> None:
    clock = Clock()
    one, many = domain(clock), domain(clock)
    for destination, times in ((one, 1), (many, 5)):
        for _ in range(5):
            assert await destination.turn() == clock.now
        for _ in range(times):
            destination.hear(said(421, "too many"), clock.now - 1)
        for _ in range(5):
            destination.leave(clock.now)
    assert abs(one.spread(10)[-1] - many.spread(10)[-1]) < 2


async def test_a_destination_that_says_when_to_come_again_is_not_asked_before() -> None:
    clock = Clock()
    destination = domain(clock)
    assert await sent(destination, said(450, "4.7.1 rate limited, try again in 120 seconds", 120)) == ["sent"]
    assert await sent(destination, TAKEN) == ["asked"]
    assert min(destination.spread(50)) >= 120
    clock.now += 119
    assert await sent(destination, TAKEN) == ["asked"]
    clock.now += 1
    assert await sent(destination, TAKEN) == ["sent"]


async def test_no_reply_makes_a_whole_destination_wait_for_a_day() -> None:
    clock = Clock()
    destination = domain(clock)
    await sent(destination, said(421, "come again tomorrow", 86_400))
    clock.now += shaping.ASKED_MOST_SECONDS
    assert await sent(destination, TAKEN) == ["sent"]


async def test_those_who_wait_are_sent_away_when_it_closes() -> None:
    destination = domain(Clock(), patience=60)
    for _ in range(5):
        await destination.turn()
    waiting = asyncio.create_task(destination.turn())
    await asyncio.sleep(0)
    for _ in range(5):
        destination.hear(SILENCE, 1000.0)
    held_back = await asyncio.wait_for(waiting, 5)
    assert isinstance(held_back, shaping.HeldBack)
    assert (held_back.reason, held_back.told) == ("closed", "timed out")


async def test_those_who_would_wait_in_vain_are_sent_away_when_it_is_slowed() -> None:
    """Seen to fail with nobody sent away by `_halve`: they waited on, in others' way."""
    destination = domain(Clock(), patience=60)
    for _ in range(5):
        await destination.turn()
    waiting = [asyncio.create_task(destination.turn()) for _ in range(100)]
    await asyncio.sleep(0)
    destination.hear(BUSY, 1000.0)
    for _ in range(5):
        await asyncio.sleep(0)
    assert sum(task.done() for task in waiting) == 100 - 60  # one a second
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_turn_passes_to_whoever_waits_first_and_none_is_lost_with_one_who_gave_up() -> None:
    destination = domain(Clock(), most=1, patience=60)
    await destination.turn()
    first, second, third = (asyncio.create_task(destination.turn()) for _ in range(3))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    destination.leave(1000.0)
    second.cancel()  # just when it has its turn
    await asyncio.gather(second, return_exceptions=True)
    assert not isinstance(await asyncio.wait_for(third, 5), shaping.HeldBack)
    destination.leave(1000.0)
    assert destination.idle


async def test_nobody_waits_in_hand_for_a_destination_that_got_stuck() -> None:
    """Those who would not get their turn in time are in others' way. Seen to fail with `_is_stuck` never set."""
    destination = domain(Clock(), patience=0.01)
    for _ in range(5):
        await destination.turn()
    assert isinstance(await destination.turn(), shaping.HeldBack)  # after a moment
    waiting = [asyncio.create_task(destination.turn()) for _ in range(20)]
    await asyncio.sleep(0)
    assert all(task.done() for task in waiting)
    destination.leave(1000.0)
    assert not isinstance(await destination.turn(), shaping.HeldBack)


async def test_a_full_destinations_recipients_come_back_faster_than_it_takes_them_but_not_all_at_once() -> None:
    clock = Clock()
    destination = domain(clock)
    for _ in range(20):
        turn = await destination.turn()
        assert not isinstance(turn, shaping.HeldBack)
        clock.now += 2
        destination.leave(turn)
    times = destination.spread(200)
    assert 9 < times[-1] <= 10  # 20 at once, two seconds each, twice as fast
    assert 10 <= destination.spread(200)[0] < 11  # behind those who were promised a turn already
    assert max(destination.spread(1_000_000)) <= shaping.SPREAD_FULL_SECONDS


@pytest.mark.parametrize(
    ("code", "text", "speaks"),
    [
        (421, "4.3.2 closing down", True),
        (429, "Too many requests", True),
        (450, "4.7.28 Our system has detected an unusual rate of mail", True),
        (451, "4.7.650 The mail server has been temporarily rate limited", True),
        (451, "4.7.500 Server busy. Please try again later", True),
        (452, "too many messages in this hour", True),
        (451, "4.7.1 Greylisted for 5 minutes, too many unknown senders", False),
        (451, "4.7.1 Please try again later", False),
        (450, "4.2.1 The user you are trying to contact is receiving mail at a rate that prevents it", False),
        (452, "4.2.2 mailbox full", False),
        (550, "5.7.1 too many complaints", False),
    ],
)
def test_what_speaks_of_rates(code: int, text: str, speaks: bool) -> None:
    outcome: contract.Outcome = "bounced" if code >= 500 else "deferred"
    verdict = dataclasses.replace(said(code, text), outcome=outcome)
    assert shaping.speaks_of_rate(verdict) is speaks


def test_destinations_are_domains_or_providers_and_bounded_in_number() -> None:
    all_of_them = shaping.Shaping(in_hand=100, at_once=20, clock=Clock())
    assert all_of_them.destination("mx", "a.example") is not all_of_them.destination("mx", "b.example")
    relay = all_of_them.destination("smtp:relay.example:25", "a.example")
    assert all_of_them.destination("smtp:relay.example:25", "b.example") is relay
    busy = all_of_them.destination("mx", "busy.example")
    busy.in_flight = 1
    for number in range(shaping.MOST_DESTINATIONS + 10):
        all_of_them.destination("mx", f"{number}.example")
    assert len(all_of_them) == shaping.MOST_DESTINATIONS
    assert all_of_them.destination("mx", "busy.example") is busy


async def test_what_is_not_open_tells_how_it_stands() -> None:
    clock = Clock()
    known = shaping.Shaping(in_hand=50, at_once=20, clock=clock)
    for name, verdict, times in (
        *(("silent.example", SILENCE, 5), ("fine.example", TAKEN, 1), ("busy.example", BUSY, 1)),
        ("later.example", said(421, "4.7.0 come again", 90.0), 1),
    ):
        assert await sent(known.destination("mx", name), *[verdict] * times) == ["sent"] * times
    clock.now += 10
    told = {one.name: (one.state, one.again_in, one.per_second) for one in known.standing()}
    assert told == {
        "silent.example": ("closed", 20.0, None),
        "busy.example": ("slowed", 0.0, 1.0),
        "later.example": ("asked", 80.0, 1.0),
    }


def test_of_several_workers_the_worst_is_told_and_what_another_version_tells_is_passed_over() -> None:
    closed = standing.Shaped(name="a.example", state="closed", again_in=20.0)
    slowed = standing.Shaped(name="a.example", state="slowed", per_second=0.5)
    ways = [standing.Way(name="mx", state="left_alone", again_in=12.0)]
    told = [standing.Standing(destinations=[slowed]), standing.Standing(ways=ways, destinations=[closed])]
    as_read = [standing.read(json.loads(standing.written(one)), 5.0) for one in told]
    ways_found, found = standing.worst([*as_read, standing.read({"ways": [{"name": 1}]}, 0.0), standing.read({}, 0.0)])
    assert found == {"a.example": standing.Shaped(name="a.example", state="closed", again_in=15.0)}
    assert ways_found == {"mx": standing.Way(name="mx", state="left_alone", again_in=7.0)}
