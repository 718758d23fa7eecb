"""How late the loops of a house's processes are, as the processes tell it themselves (postroom_loop_lag_seconds)."""

from __future__ import annotations

import asyncio
import contextlib
import math
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final

import httpx2
from prometheus_client import parser

from bench.setting import Setting
from gateway import loops
from tests import house

METRIC: Final = "postroom_loop_lag_seconds"
KEY: Final = "metrics-for-the-bench"
LIMIT: Final = 0.05  # seconds that p99 is to stay under

Buckets = dict[float, float]  # looks that found at most so many seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Lag:
    """Of one process, over some time."""

    buckets: Buckets

    @property
    def looks(self) -> float:
        return self.buckets.get(math.inf, 0)

    def quantile(self, share: float) -> float:
        """Seconds: the bound of the bucket in which it lies."""
        found = [bound for bound, count in sorted(self.buckets.items()) if count >= share * self.looks]
        return found[0] if found and self.looks else 0.0

    @property
    def late(self) -> float:
        """Seconds for which somebody who came waited longer than LIMIT."""
        return (self.looks - self.buckets.get(LIMIT, 0)) * loops.LOOK_SECONDS

    def since(self, before: Lag) -> Lag:
        return Lag(buckets={bound: count - before.buckets.get(bound, 0) for bound, count in self.buckets.items()})

    def __str__(self) -> str:
        return f"p50 {_ms(self.quantile(0.5))}, p99 {_ms(self.quantile(0.99))}, worst {_ms(self.quantile(1))}"


def _ms(seconds: float) -> str:
    return f"≤ {seconds * 1000:g} ms"


NONE: Final = Lag(buckets={})
Lags = Mapping[str, Lag]  # by process: "serve", "worker"


@contextlib.asynccontextmanager
async def telling_house(
    given: Setting, dsn: str, *, programs: tuple[str, ...] = ("serve", "worker"), settings: Mapping[str, str]
) -> AsyncIterator[house.House]:
    """A house whose processes tell their metrics together."""
    with tempfile.TemporaryDirectory(prefix="bench-metrics-") as folder:
        telling = {"PROMETHEUS_MULTIPROC_DIR": folder, "METRICS_TOKEN": KEY}
        async with given.house(dsn, programs=programs, settings={**telling, **settings}) as home:
            async with asyncio.timeout(60):
                while set(await read(home)) < set(programs):  # noqa: ASYNC110 - a process tells of no event
                    await asyncio.sleep(0.1)
            yield home


async def read(home: house.House) -> Lags:
    """What was told so far."""
    async with httpx2.AsyncClient(base_url=home.url, headers={"Authorization": f"Bearer {KEY}"}) as client:
        text = (await client.get("/metrics")).text
    found: dict[str, Buckets] = {}
    for family in parser.text_string_to_metric_families(text):
        if family.name == METRIC:
            for sample in family.samples:
                if sample.name.endswith("_bucket"):
                    buckets = found.setdefault(sample.labels["process"], {})
                    buckets[float(sample.labels["le"])] = sample.value
    return {process: Lag(buckets=buckets) for process, buckets in found.items()}


def since(before: Lags, after: Lags) -> Lags:
    return {process: lag.since(before.get(process, NONE)) for process, lag in after.items()}
