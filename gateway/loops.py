"""The event loop that processes run on, uvloop where there is one; when the garbage collector may stop it, and how late
it is."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import time
from collections.abc import AsyncIterator, Collection, Coroutine
from typing import Any, Final

import prometheus_client

# process: "serve", "worker"
LAG: Final = prometheus_client.Histogram(
    "postroom_loop_lag_seconds",
    "What whoever needs the event loop waits for it",
    ["process"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
LOOK_SECONDS: Final = 0.05  # between looks at how late the loop is
MOST_WAITS: Final = 1000  # told of one stop
THRESHOLDS: Final = (10_000, 20, 20)  # allocations before a look at the young; looks before one at the older, at all


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run to the end on a new loop."""
    if sys.platform == "win32":
        asyncio.run(coroutine)
        return
    import uvloop  # noqa: PLC0415 - there is none on Windows

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(coroutine)


async def end(tasks: Collection[asyncio.Task[None]], seconds: float) -> int:
    """Give tasks `seconds` to end, and cancel the rest; how many that were."""
    if tasks:
        await asyncio.wait(tasks, timeout=seconds)
    left = [task for task in tasks if not task.done()]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    return len(left)


@contextlib.asynccontextmanager
async def watched(process: str) -> AsyncIterator[None]:
    """Within, LAG tells how late the loop is, under the label `process`."""
    watching = asyncio.create_task(_watch(process))
    try:
        yield
    finally:
        await end([watching], 0)


async def _watch(process: str) -> None:
    lag = LAG.labels(process)
    while True:
        due = time.monotonic() + LOOK_SECONDS
        await asyncio.sleep(LOOK_SECONDS)
        for seconds in waits(time.monotonic() - due):
            lag.observe(seconds)


def waits(late: float) -> list[float]:
    """What those would have waited, in seconds, who came every LOOK_SECONDS while the loop stood still for `late`; at
    least one, for a loop that is in time is told of, too. Were each stop told once, the longest would count least."""
    count = min(1 + int(max(late, 0) / LOOK_SECONDS), MOST_WAITS)
    return [max(0.0, late - number * LOOK_SECONDS) for number in range(count)]


def settle() -> None:
    """To be called once everything is open: what is here now stays as long as the process, and is looked at no more.

    Modules, models and routes are 100,000 objects and more; a look at all of them stops the loop for 50 ms. Those of
    requests come and go by the hundred, with hardly a cycle among them, and are looked at less often than Python would.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
