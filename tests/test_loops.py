"""What processes do about their garbage, and what they tell of their lateness."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gateway import loops

SETTLED = """
import gc
from gateway import loops
loops.settle()
assert gc.isenabled()
assert gc.get_freeze_count() > 10_000, gc.get_freeze_count()
assert len(gc.get_objects()) < 1_000, len(gc.get_objects())
"""


def test_what_is_there_when_a_process_settles_is_not_looked_at_again() -> None:
    subprocess.run([sys.executable, "-c", SETTLED], check=True)


@pytest.mark.parametrize(
    ("late", "told"), [(-0.001, [0.0]), (0.0, [0.0]), (0.03, [0.03]), (0.12, [0.12, 0.07, 0.02]), (1e9, [1e9])]
)
def test_a_stop_counts_by_what_those_wait_who_come_during_it(late: float, told: list[float]) -> None:
    waits = loops.waits(late)
    assert waits[: len(told)] == pytest.approx(told)
    assert len(waits) <= loops.MOST_WAITS
