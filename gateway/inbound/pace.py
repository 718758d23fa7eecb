"""Keeping back: reading and judging after the 250 rest the longer the faster mail comes in. Accepting goes first."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from typing import Final
from uuid import UUID

RUSH: Final = 300.0  # events a second, of all accounts together; from here on it is a rush
REST: Final = 0.3  # seconds of rest for each second of work
RUSH_REST: Final = 40.0  # the same in a rush
LONGEST_REST_SECONDS: Final = 4.0
MEMORY_SECONDS: Final = 2.0  # over which the rate is told
MAX_ACCOUNTS: Final = 1000  # whose heads are remembered


class Pace:
    """One for all such work of a process."""

    def __init__(self) -> None:
        self._heads: OrderedDict[UUID, int] = OrderedDict()
        self._rate = 0.0  # events a second when it was last told
        self._told = time.monotonic()

    def saw(self, account_id: UUID, head: int) -> None:
        """So far the account's log reaches now."""
        grown = head - self._heads.get(account_id, head)
        self._heads[account_id] = head
        self._heads.move_to_end(account_id)
        if len(self._heads) > MAX_ACCOUNTS:
            self._heads.popitem(last=False)
        self._rate = self.rate() + grown / MEMORY_SECONDS
        self._told = time.monotonic()

    def rate(self) -> float:
        """Events a second, what was longer ago counting less."""
        return self._rate * math.exp((self._told - time.monotonic()) / MEMORY_SECONDS)

    async def rest(self, worked: float) -> None:
        """After so many seconds of work."""
        share = RUSH_REST if self.rate() > RUSH else REST
        await asyncio.sleep(min(worked * share, LONGEST_REST_SECONDS))
