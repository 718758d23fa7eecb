"""The event loop that processes run on, uvloop where there is one; and when the garbage collector may stop it."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Collection, Coroutine
from typing import Any, Final

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


def settle() -> None:
    """To be called once everything is open: what is here now stays as long as the process, and is looked at no more.

    Modules, models and routes are 100,000 objects and more; a look at all of them stops the loop for 50 ms. Those of
    requests come and go by the hundred, with hardly a cycle among them, and are looked at less often than Python would.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
