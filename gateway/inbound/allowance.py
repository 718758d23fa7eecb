"""Quotas of accounts for mail in: what is spent, and saying so. Over them mail is refused or dropped, never evicted."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final
from uuid import UUID

import prometheus_client

from gateway.settings import Settings
from gateway.storage import db, events, quotas

# quota: "stored_bytes", "messages_per_minute"
EXCEEDED = prometheus_client.Counter("postroom_quota_exceeded", "Mail refused or dropped over quota", ["quota"])

BELIEVED_SECONDS: Final = 1.0  # how long what was looked up at RCPT is believed
MAX_REMEMBERED: Final = 10_000  # accounts


class Allowance:
    """What accounts may get. A batch under way may take an account over its quota by its own size."""

    def __init__(self, database: db.Database, settings: Settings, *, told: Callable[[Iterable[UUID]], None]) -> None:
        self._database = database
        self._told = told
        self._limits = {
            "stored_bytes": settings.max_stored_bytes,
            "messages_per_minute": settings.max_messages_per_minute,
        }
        self._remembered: OrderedDict[UUID, tuple[float, str | None]] = OrderedDict()

    def spent(self, usage: quotas.Usage) -> str | None:
        """The quota that nothing is left of; None = there is room."""
        held = {"stored_bytes": usage.stored_bytes, "messages_per_minute": usage.minute_messages}
        return next((name for name, limit in self._limits.items() if limit and held[name] >= limit), None)

    async def is_spent(self, account_id: UUID) -> bool:
        """Whether the account is to get nothing more now; its owner is told. Raises Unavailable."""
        if not any(self._limits.values()):
            return False
        known = self._remembered.get(account_id)
        quota = known[1] if known is not None and known[0] > time.monotonic() else await self._look_up(account_id)
        if quota is not None:
            EXCEEDED.labels(quota).inc()
        return quota is not None

    async def _look_up(self, account_id: UUID) -> str | None:
        async with self._database.connection() as connection:
            quota = self.spent(await quotas.usage(connection, account_id))
        if quota is not None:
            await self._tell(account_id, quota)
        self._remembered[account_id] = (time.monotonic() + BELIEVED_SECONDS, quota)
        self._remembered.move_to_end(account_id)
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return quota

    async def _tell(self, account_id: UUID, quota: str) -> None:
        async with self._database.transaction() as connection:
            news = await self.exceeded(connection, account_id, quota)
            if news:
                await events.append(connection, account_id, news)
        if news:
            self._told([account_id])

    async def exceeded(self, connection: db.Connection, account_id: UUID, quota: str) -> list[events.NewEvent]:
        """The event to be appended in this transaction, where it is time for it."""
        return await quotas.exceeded(connection, account_id, quota, self._limits[quota])
