"""Drains: one task for each account that has work, run again as long as somebody pokes it.

Nudges and the sweeper both say "this account may have work". Whoever says so twice while the account is being drained
causes one more run, not two at once; nobody who says so is ever ignored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

import structlog

log = structlog.get_logger(__name__)

CONCURRENCY: Final = 50


class Drains:
    """Runs `drain(account_id)` for every account that is poked, at most once at a time for each."""

    def __init__(
        self, drain: Callable[[UUID], Awaitable[object]], *, name: str = "drain", concurrency: int = CONCURRENCY
    ) -> None:
        """`drain` does all of an account's work that is due when it looks. What it raises is logged, and forgotten:
        the sweeper pokes again. `concurrency`: accounts at once.
        """
        self._drain = drain
        self._name = name
        self._slots = asyncio.Semaphore(concurrency)
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._again: set[UUID] = set()  # poked since their drain last began to look
        self._closed = False

    def __len__(self) -> int:
        """Accounts being drained, or waiting for a slot."""
        return len(self._tasks)

    def poke(self, account_id: UUID) -> None:
        """The account may have work: look after this, even if a drain of it is just ending."""
        if self._closed:
            return
        self._again.add(account_id)
        if account_id not in self._tasks:
            name = f"{self._name} {account_id}"
            self._tasks[account_id] = asyncio.create_task(self._run(account_id), name=name)

    async def idle(self) -> None:
        """Until no account is being drained."""
        while self._tasks:
            await asyncio.wait(self._tasks.values())

    async def close(self, timeout: float) -> int:
        """Take no more pokes, wait up to `timeout` seconds for what runs, cancel the rest; how many were cancelled."""
        self._closed = True
        self._again.clear()
        tasks = list(self._tasks.values())
        if not tasks:
            return 0
        _done, running = await asyncio.wait(tasks, timeout=timeout)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        return len(running)

    async def _run(self, account_id: UUID) -> None:
        try:
            while account_id in self._again:
                async with self._slots:
                    await self._drain_once(account_id)
        finally:
            del self._tasks[account_id]  # in the same step as the last look at _again: no poke falls between

    async def _drain_once(self, account_id: UUID) -> None:
        if self._closed:  # while this one waited for its slot
            return
        self._again.discard(account_id)  # before looking: a poke from here on means another look
        try:
            await self._drain(account_id)
        except Exception:  # one account's trouble is not another's; the sweeper comes back to it
            log.exception("drain failed", drain=self._name, account_id=account_id)
