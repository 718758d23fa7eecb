"""Messages that are made to fill memory, at the real process: how much of it they ever take."""

from __future__ import annotations

import sys

import pytest

from bench import hostile, setting
from tests import house

pytestmark = pytest.mark.anyio


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of another process's memory is told by Linux alone")
async def test_a_message_without_an_end_takes_a_bounded_amount_of_memory(shared_house: house.House) -> None:
    """With neither the size nor the budget looked at while bytes come in, a line of 150 MB took 144 MiB: it failed."""
    pid = shared_house.processes["serve"].pid
    for kind in ("a line without an end", "line ends", "chunks without a last one"):
        before = setting.resident(pid)
        hostile.forget_peak(pid)
        await hostile.attack(shared_house.smtp_port, kind, 150_000_000)
        assert hostile.peak(pid) - before <= hostile.LIMIT_ONE, kind
