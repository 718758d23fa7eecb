"""What waits to go out, as gauges for whoever watches at night.

They are sampled by the process that is asked for its metrics, not by the workers: a queue that grows because no worker
lives must show. Two statements, bounded, at most once in SAMPLE_SECONDS; while the database is away the gauges are NaN.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Final

import prometheus_client
import structlog

from gateway.errors import Unavailable
from gateway.storage import db, statistics

log = structlog.get_logger(__name__)

# status: "scheduled" (its time may have come), "queued", "sending", "deferred"
WAITING: Final = prometheus_client.Gauge(
    "postroom_queue_recipients",
    "Recipients that wait to be written to, those due first counted up to 100,000",
    ["status"],
    multiprocess_mode="mostrecent",
)
OLDEST: Final = prometheus_client.Gauge(
    "postroom_queue_oldest_due_seconds",
    "For how long somebody has been due whom no worker took in hand",
    multiprocess_mode="mostrecent",
)

STATUSES: Final = ("scheduled", "queued", "sending", "deferred")
MOST: Final = 100_000  # recipients that are counted
SAMPLE_SECONDS: Final = 5.0
PATIENCE_SECONDS: Final = 3.0  # shorter than a scrape may take


class Backlog:
    """The gauges of one process."""

    def __init__(self, database: db.Database) -> None:
        self._database = database
        self._sampled = float("-inf")  # monotonic time
        self._turn = asyncio.Lock()

    async def sample(self) -> None:
        """Look, unless that was done just now. Never raises for a database that is away or slow."""
        async with self._turn:
            if time.monotonic() < self._sampled + SAMPLE_SECONDS:
                return
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    counts, oldest = await self._look()
            except (Unavailable, TimeoutError):
                log.warning("queue not sampled: database away")
                counts, oldest = dict.fromkeys(STATUSES, math.nan), math.nan
            for status in STATUSES:
                WAITING.labels(status).set(counts.get(status, 0))
            OLDEST.set(oldest)
            self._sampled = time.monotonic()

    async def _look(self) -> tuple[dict[str, float], float]:
        async with self._database.connection() as connection:
            counts = await statistics.queue(connection, MOST)
            return dict(counts), await statistics.oldest_due(connection)
