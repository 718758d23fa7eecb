"""What processes do about their garbage."""

from __future__ import annotations

import subprocess
import sys

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
