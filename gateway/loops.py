"""The event loop that processes run on: uvloop where there is one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run to the end on a new loop."""
    if sys.platform == "win32":
        asyncio.run(coroutine)
        return
    import uvloop  # noqa: PLC0415 - there is none on Windows

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(coroutine)
