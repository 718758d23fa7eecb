"""Shaping: how many at once and how fast each destination is written to, and when it is left in peace.

A destination is what is shared at the other end: the recipient's domain where mail goes straight to its hosts, else the
provider. What is known of it is one worker process's, bounded in number, and forgotten with the process.

    open        as many at once as its limit, which begins low at a domain and grows with each success
    slowed      it said that we come too often (421, 429, 4.7.x about rates): half as many at once, half as fast; both
                grow back by a little with each success. Where it said for how long, nobody is sent to it before that
    closed      five attempts in a row without an answer: for 30 s, then for twice as long up to 15 min; one recipient
                tries when the time is up

Who may not go now waits a moment for a turn, then is held back: given back to the queue without an attempt, due when
the destination may take it, spread at the speed at which it took others.

Providers that take mail for all domains have their circuits for not being reached (gateway.outbound.route); here they
are only slowed, by their own words.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import prometheus_client
import structlog

from gateway.mail import classify
from gateway.outbound.providers.contract import Verdict
from gateway.outbound.providers.mx import MxProvider
from gateway.outbound.standing import DestinationState, Shaped

log = structlog.get_logger(__name__)

Reason = Literal[
    "closed",  # nobody answers there
    "asked",  # it said when to come again
    "paced",  # it is written to less often than it could be
    "full",  # it has as many as it may have, and does not get on
    "circuit",  # every provider for it is being left alone
]
ENDING: Final = frozenset(
    {"closed", "asked", "circuit"}
)  # no reason of ours: who is held back till the end is given up

# state: closed, slowed
DESTINATIONS = prometheus_client.Gauge(
    "postroom_destinations_shaped",
    "Destinations not written to freely",
    ["state"],
    multiprocess_mode="livesum",
)
# reason: closed, asked, paced, full, circuit
HELD_BACK = prometheus_client.Counter(
    "postroom_deliveries_held_back", "Recipients given back to the queue without an attempt", ["reason"]
)
# signal: silence (closed for it), rate (slowed for it)
SIGNALS = prometheus_client.Counter(
    "postroom_destination_signals", "Times a destination was closed or slowed", ["signal"]
)

MOST_DESTINATIONS: Final = 10_000  # known at once; the longest unused goes first
INITIAL_LIMIT: Final = 5  # at once at a domain of which nothing is known
FAILURES_TO_CLOSE: Final = 5  # in a row
CLOSED_SECONDS: Final = 30.0  # the first time; doubled each time nobody answers again
CLOSED_MOST_SECONDS: Final = 900.0
ASKED_MOST_SECONDS: Final = 3600.0  # a whole destination waits no longer on one recipient's reply
PROBE_SECONDS: Final = 60.0  # at most, that the others wait for the one that tries
PATIENCE: Final = 1.0  # seconds to wait for a turn in hand
MOVING: Final = 5  # times the patience, where turns come to their end
LEAST_HELD: Final = 0.5  # seconds
SPREAD_MOST_SECONDS: Final = 900.0  # over which those are spread whom a slowed destination cannot take in that time
SPREAD_FULL_SECONDS: Final = 60.0  # the same where it is merely full: how fast it is is known less well
FIRST_RATE: Final = 1.0  # a second: the first word about rates never slows below it
LEAST_RATE: Final = 0.1  # a second
LEAST_STEP: Final = 0.2  # a second: what the rate grows by in each second of successes, or more
RECOVERY_SECONDS: Final = 30.0  # in which the rate grows back to what it was before the word about it
MEASURED_SECONDS: Final = 5.0
LEAST_TURN_SECONDS: Final = 0.01
TURN_SECONDS: Final = 10.0  # that a turn is taken to last before any has ended

_RATE = re.compile(
    r"frequency limited|\brate\b|too (many|much|fast|quickly|often)|throttl|sending limit|slow down|\bbusy\b"
    r"|exceeded .{0,30}(connections|messages)|unusual(ly)? .{0,20}(rate|amount|volume)"
)
_ONE_RECIPIENT = re.compile(r"gr[ae]y ?-?list")  # it asks who writes to this recipient for the first time to come again


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldBack:
    """No turn now."""

    reason: Reason
    told: str  # why, in the last words about it; empty = for no fault of the destination
    spread: Callable[[int], list[float]]  # seconds from now at which so many of those held back should come again


class Destination:
    """One of them. `turn` is followed by `leave`, when what was sent is over; `hear` takes what it said meanwhile."""

    def __init__(
        self, name: str, *, is_domain: bool, most: int, clock: Callable[[], float], patience: float = PATIENCE
    ) -> None:
        """`most`: at once, ever."""
        self.name = name
        self.in_flight = 0
        self._is_domain = is_domain
        self._most = most
        self._limit = float(min(INITIAL_LIMIT, most) if is_domain else most)
        self._climb = float(most)  # up to here the limit grows by one with each success, beyond by one a round
        self._clock = clock
        self._patience = patience
        self._speed = _Speed()
        self._waiting: deque[asyncio.Future[float | HeldBack]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._is_stuck = False  # somebody waited for a turn in vain, and there was none to spare since
        self._booked_until = 0.0  # turns before this are promised to recipients that were held back
        self._told = ""
        self._failures = 0  # in a row
        self._closed_seconds = 0.0  # how long it was closed for last; 0 = it is not closed
        self._closed_at = -math.inf
        self._closed_until = -math.inf
        self._asked_until = -math.inf
        self._rate: float | None = None  # turns a second; None = as they come
        self._rate_before = 0.0  # when it was last told to slow down
        self._slowed_at = -math.inf
        self._next_at = -math.inf  # the next turn, where there is a rate

    @property
    def idle(self) -> bool:
        """Whether nobody is being sent to it, nor waits for that."""
        return not self.in_flight and not self._waiting

    # Turns

    async def turn(self) -> float | HeldBack:
        """When the turn was given, by the clock: send, tell `hear` of it, then `leave`. May wait a moment."""
        if held_back := self._held_back():
            return held_back
        if not self._waiting and self._wait() == 0:
            return self._go()
        in_time = self._patience * (self._rate or self._speed.of(self._clock()))
        if (self._rate or self._is_stuck) and len(self._waiting) >= in_time:
            return self._out_of_patience()  # whoever waits in vain is in others' way
        return await self._queue()

    def leave(self, turn: float) -> None:
        """What was sent in that turn is over."""
        now = self._clock()
        self.in_flight -= 1
        self._speed.add(now, now - turn)
        self._pass_turns()

    async def _queue(self) -> float | HeldBack:
        mine: asyncio.Future[float | HeldBack] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        self._pass_turns()
        try:
            for _ in range(MOVING):
                await asyncio.wait({mine}, timeout=self._patience)
                if mine.done() or not self._speed.is_known(self._clock()):
                    break
        except BaseException:
            self._withdraw(mine)
            raise
        if mine.done():
            return mine.result()
        self._withdraw(mine)
        return self._out_of_patience()

    def _withdraw(self, mine: asyncio.Future[float | HeldBack]) -> None:
        if not mine.done():
            self._waiting.remove(mine)
            mine.cancel()
        elif not isinstance(turn := mine.result(), HeldBack):
            self.leave(turn)

    def _out_of_patience(self) -> HeldBack:
        self._is_stuck = True
        reason: Reason = "full" if self._rate is None else "paced"
        return HeldBack(reason=reason, told="", spread=self.spread)

    def _go(self) -> float:
        now = self._clock()
        self.in_flight += 1
        if self._rate is not None:
            self._next_at = max(self._next_at, now) + 1 / self._rate
        return now

    def _wait(self) -> float:
        """Seconds to the next turn; 0 = now, infinite = when somebody leaves."""
        if self.in_flight >= int(self._limit):
            return math.inf
        return 0.0 if self._rate is None else max(0.0, self._next_at - self._clock())

    def _pass_turns(self) -> None:
        while self._waiting and (wait := self._wait()) == 0:
            self._waiting.popleft().set_result(self._go())
        if not self._waiting:
            self._is_stuck = self._is_stuck and self._wait() > 0
        elif self._timer is None and wait < math.inf:
            self._timer = asyncio.get_running_loop().call_later(wait, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._pass_turns()

    def _held_back(self) -> HeldBack | None:
        now = self._clock()
        if self._closed_seconds and (now < self._closed_until or self.in_flight):
            return HeldBack(reason="closed", told=self._told, spread=self.spread)
        if now < self._asked_until:
            return HeldBack(reason="asked", told=self._told, spread=self.spread)
        return None

    def _send_away(self) -> None:
        """Those who wait need not wait any longer."""
        held_back = self._held_back()
        while held_back and self._waiting:
            self._waiting.popleft().set_result(held_back)

    # When to come again

    def spread(self, count: int) -> list[float]:
        """Seconds from now at which so many of those held back should come again."""
        now = self._clock()
        if self._closed_seconds:
            opens = max(self._closed_until, now + min(self._closed_seconds, PROBE_SECONDS) if self.in_flight else now)
            return evenly(opens - now, self._closed_seconds / 2, count)
        most = SPREAD_MOST_SECONDS if self._rate else SPREAD_FULL_SECONDS
        per_second = self._rate or 2 * self._most / self._speed.turn_seconds  # too early costs less than idle turns
        opens = max(self._asked_until, now)
        begin = max(self._booked_until, opens)
        if begin + count / per_second > opens + most:
            return evenly(opens - now, most, count)
        self._booked_until = begin + count / per_second
        return evenly(begin - now, count / per_second, count)

    # What it says

    def hear(self, verdict: Verdict, began: float) -> None:
        """Take in what came of an attempt, and when its turn was given."""
        if speaks_of_rate(verdict):
            self._answered()
            self._slow_down(verdict, began)
        elif verdict.code is not None or verdict.outcome in {"sent", "delivered"}:
            self._answered()
            if verdict.outcome in {"sent", "delivered"}:
                self._speed_up()
        elif self._is_domain and verdict.outcome in {"deferred", "unknown"} and began >= self._closed_at:
            self._missed(verdict.reply)

    def _answered(self) -> None:
        self._failures = 0
        if self._closed_seconds:
            self._closed_seconds, self._closed_until = 0.0, -math.inf
            DESTINATIONS.labels("closed").dec()
            log.info("destination opened", destination=self.name)

    def _missed(self, told: str) -> None:
        self._failures += 1
        if self._closed_seconds or self._failures >= FAILURES_TO_CLOSE:
            self._close(told)

    def _close(self, told: str) -> None:
        if not self._closed_seconds:
            DESTINATIONS.labels("closed").inc()
        self._closed_seconds = min(2 * self._closed_seconds or CLOSED_SECONDS, CLOSED_MOST_SECONDS)
        self._closed_at = self._clock()
        self._closed_until = self._closed_at + self._closed_seconds
        self._limit, self._climb = 1.0, max(1.0, self._most / 2)
        self._told = told
        SIGNALS.labels("silence").inc()
        log.warning("destination closed", destination=self.name, seconds=self._closed_seconds)
        self._send_away()

    def _slow_down(self, verdict: Verdict, began: float) -> None:
        now = self._clock()
        if verdict.retry_after:
            until = now + min(verdict.retry_after, ASKED_MOST_SECONDS)
            self._asked_until, self._told = max(self._asked_until, until), verdict.reply
        if began >= self._slowed_at:  # what was under way when it was slowed says nothing of how it is since
            self._slowed_at = now
            self._halve(now)
            SIGNALS.labels("rate").inc()
            log.warning("destination slowed", destination=self.name, per_second=self._rate, asked=verdict.retry_after)
        self._send_away()

    def _halve(self, now: float) -> None:
        self._limit = self._climb = max(1.0, min(self._limit, self.in_flight) / 2)
        if self._rate is None:
            DESTINATIONS.labels("slowed").inc()
            self._rate_before = max(self._speed.of(now), 2 * FIRST_RATE)
        else:
            self._rate_before = self._rate
        self._rate = max(self._rate_before / 2, LEAST_RATE)
        self._next_at = now + 1 / self._rate
        while len(self._waiting) > self._patience * self._rate:
            self._waiting.pop().set_result(self._out_of_patience())

    def _speed_up(self) -> None:
        self._limit = min(self._limit + (1 if self._limit < self._climb else 1 / self._limit), float(self._most))
        if self._rate is None:
            return
        self._rate += max(LEAST_STEP, self._rate_before / 2 / RECOVERY_SECONDS) / self._rate
        if self._rate >= 1.5 * self._rate_before:
            self.forget_rate()

    def standing(self) -> Shaped | None:
        """How it stands; None = it is open."""
        now = self._clock()
        state: DestinationState
        if self._closed_seconds:
            state, wait = "closed", self._closed_until - now
        elif now < self._asked_until:
            state, wait = "asked", self._asked_until - now
        elif self._rate is not None:
            state, wait = "slowed", 0.0
        else:
            return None
        rate = None if self._rate is None else round(self._rate, 2)
        return Shaped(name=self.name, state=state, again_in=round(max(0.0, wait), 1), per_second=rate)

    def forget_rate(self) -> None:
        """As fast as they come, again."""
        if self._rate is not None:
            self._rate = None
            DESTINATIONS.labels("slowed").dec()
            log.info("destination no longer slowed", destination=self.name)

    def forget(self) -> None:
        """It is no longer kept."""
        if self._rate is not None:
            DESTINATIONS.labels("slowed").dec()
        if self._closed_seconds:
            DESTINATIONS.labels("closed").dec()


class Shaping:
    """All destinations of a worker process."""

    def __init__(self, *, in_hand: int, at_once: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`in_hand`: recipients that there are at all at a time; `at_once`: those of one domain."""
        self._in_hand = in_hand
        self._at_once = min(in_hand, at_once)
        self._clock = clock
        self._known: OrderedDict[str, Destination] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def destination(self, provider: str, domain: str) -> Destination:
        """Of a recipient in that domain to whom this provider carries mail."""
        is_domain = provider == MxProvider.name
        key = domain if is_domain else f"{provider}/"  # no domain has a slash
        found = self._known.get(key)
        if found is None:
            most = self._at_once if is_domain else self._in_hand
            found = Destination(key.rstrip("/"), is_domain=is_domain, most=most, clock=self._clock)
            self._known[key] = found
            self._forget_some()
        self._known.move_to_end(key)
        return found

    def hear(self, provider: str, domain: str, verdict: Verdict, began: float) -> None:
        """Take in what came of an attempt, and when its turn was given."""
        self.destination(provider, domain).hear(verdict, began)

    def standing(self) -> list[Shaped]:
        """Those that are not open."""
        return [told for one in self._known.values() if (told := one.standing()) is not None]

    def _forget_some(self) -> None:
        if len(self._known) <= MOST_DESTINATIONS:
            return
        oldest = next((key for key, one in self._known.items() if one.idle), None)
        if oldest is not None:
            self._known.pop(oldest).forget()


class _Speed:
    """How many turns a second came to their end lately, and how long they took."""

    def __init__(self) -> None:
        self.turn_seconds = TURN_SECONDS
        self._count = 0.0  # what is older counts less
        self._since = 0.0
        self._at = -math.inf  # the last one

    def add(self, now: float, turn_seconds: float) -> None:
        before = self.turn_seconds if self._at > -math.inf else turn_seconds
        self.turn_seconds = max(LEAST_TURN_SECONDS, before + (turn_seconds - before) / 8)
        if now - self._at > MEASURED_SECONDS:
            self._count, self._since = 0.0, now
        self._count = self._count * math.exp((self._at - now) / MEASURED_SECONDS) + 1
        self._at = now

    def is_known(self, now: float) -> bool:
        return now - self._at <= MEASURED_SECONDS

    def of(self, now: float) -> float:
        faded = self._count * math.exp((self._at - now) / MEASURED_SECONDS)
        return faded / min(max(now - self._since, PATIENCE), MEASURED_SECONDS)


def speaks_of_rate(verdict: Verdict) -> bool:
    """Whether the reply says that we come too often, and so is about the whole destination, not one recipient."""
    if verdict.outcome not in {"deferred", "provider_fault"} or verdict.code is None:
        return False
    if verdict.code in {421, 429}:  # RFC 5321 section 4.2.2, RFC 6585 section 4
        return True
    said = classify.taken_apart(verdict.reply, verdict.enhanced or "")
    if verdict.code >= 500 or _ONE_RECIPIENT.search(said.words):
        return False
    if said.enhanced and not said.enhanced.startswith("4.7."):  # 4.2.x: one mailbox; 4.3.x: its system's own trouble
        return said.enhanced.endswith(".0.0") and _RATE.search(said.words) is not None
    return _RATE.search(said.words) is not None


def evenly(begin: float, width: float, count: int) -> list[float]:
    """So many times, one in each equal part of the width, at least LEAST_HELD from now."""
    part = width / max(count, 1)
    chances = (random.random() for _ in range(count))  # noqa: S311 - spreads load, keeps no secret
    return [max(LEAST_HELD, begin + part * (number + chance)) for number, chance in enumerate(chances)]
