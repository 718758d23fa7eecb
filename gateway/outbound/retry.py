"""When an attempt that did not succeed is made again. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from gateway.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The waits between attempts, and the age at which the last one is made."""

    waits: tuple[float, ...]  # seconds; the last one repeats
    max_age: float  # seconds since the mail was due; the last attempt is made then
    jitter: float  # share by which each wait is spread, both ways
    chance: Callable[[], float] = random.random  # 0 … 1

    @classmethod
    def of(cls, settings: Settings) -> Schedule:
        return cls(
            waits=tuple(float(word) for word in settings.retry_schedule),
            max_age=settings.retry_max_age_seconds,
            jitter=settings.retry_jitter,
        )

    def next(self, attempts: int, *, age: float, retry_after: float | None = None) -> float | None:
        """Seconds until the next attempt after `attempts` of them at `age` seconds; None = that was the last.

        A peer that says when to come again is not asked sooner. A wait that would go past the maximal age is cut so
        that one last attempt is made at it."""
        if age >= self.max_age or not self.waits:
            return None
        wait = self.waits[min(attempts, len(self.waits)) - 1]
        wait *= 1 + self.jitter * (2 * self.chance() - 1)
        return min(max(wait, retry_after or 0.0), self.max_age - age)
