"""What time it is: by the database, whose clock all processes share, whatever the clock of this machine says.

A process looks at the database's clock when it first connects and every half minute from there on, and goes on by its
own monotonic clock in between, which nobody can set. So a host whose clock is wrong, or is stepped by an hour, sends
and signs at the right time, and the ids that it draws stand where they belong among those of other hosts: lists by id
are lists by time. Before the first look there is only the machine's clock to go by. What must be exact (expiry,
leases, how long a key is remembered) is compared by Postgres itself, in the statement that it decides.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

SURE_SECONDS: Final = 1.0  # of a look; what took longer says no more than the last look and the monotonic clock do
LOOK_SECONDS: Final = 30.0  # between looks; monotonic clocks differ by some milliseconds in that time
_COUNTER_BITS: Final = 12  # RFC 9562 6.2, method 1: rand_a counts the ids of one millisecond
_TOLERATED: Final = 1000 << _COUNTER_BITS  # by so much ids may be ahead of a clock that was set a little back: a second


class Clock:
    """The database's time, as one process knows it."""

    def __init__(self) -> None:
        self._ahead: float | None = None  # Unix time less monotonic time; None = the database was not asked yet
        self._drawn = 0  # milliseconds and counter of the last id

    @property
    def is_set(self) -> bool:
        """Whether the database was ever asked."""
        return self._ahead is not None

    def set(self, told: datetime, asked: float, heard: float) -> None:
        """The database said `told` between these two monotonic times. Half of what lies between them may be an error,
        minutes in a process that was halted meanwhile: then an earlier look is believed on."""
        if self.is_set and heard - asked > SURE_SECONDS:
            return
        self._ahead = told.timestamp() - (asked + heard) / 2

    def now(self) -> datetime:
        """UTC."""
        return datetime.fromtimestamp(self._seconds(), UTC)

    def corrected(self, moment: datetime) -> datetime:
        """By the database's clock, what this machine's said a moment ago."""
        return moment + timedelta(seconds=self._seconds() - time.time()) if self.is_set else moment

    def uuid7(self) -> UUID:
        """A UUIDv7 (RFC 9562 5.7) of now, greater than any drawn here before, unless the clock was set far back."""
        at = int(self._seconds() * 1000) << _COUNTER_BITS
        ahead = self._drawn - at
        self._drawn = self._drawn + 1 if 0 <= ahead < _TOLERATED else at
        milliseconds, count = divmod(self._drawn, 1 << _COUNTER_BITS)
        tail = int.from_bytes(os.urandom(8), "big") & ((1 << 62) - 1)
        return UUID(int=milliseconds << 80 | 0x7 << 76 | count << 64 | 0b10 << 62 | tail)

    def _seconds(self) -> float:
        return time.time() if self._ahead is None else time.monotonic() + self._ahead
