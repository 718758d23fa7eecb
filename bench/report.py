"""What a measurement says: rows, and the table that they make."""

from __future__ import annotations

import math
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

HEADS = ("what", "ours", "limit", "ratio", "target", "met", "note")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One figure beside its limit."""

    what: str  # such as "durable accept, 5 KB, 20 kept sessions"
    ours: str  # with its unit, such as "2,310 mails/s"
    limit_name: str  # such as "stock aiosmtpd that stores nothing"; empty = nothing was measured beside it
    limit: str  # with its unit; empty likewise
    ratio: float | None  # ours to limit, as the target means it; None = the target is none of a ratio
    target: str  # such as "≥ 0.8"; empty = none
    met: bool | None  # None = there is no target
    note: str = ""  # conditions, spread; may be empty


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A median with the interval in which it lies with 95 % confidence (or as near as so few values allow)."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} … {self.high:.2f})"


def interval(values: Sequence[float]) -> Interval:
    """By order statistics: whatever the distribution, the median lies between the k-th values from both ends."""
    ordered = sorted(values)
    count = len(ordered)
    cut, outside = 0, 1 / 2**count  # values to leave out at each end; chance that the median lies beyond what is left
    while cut + 1 < (count + 1) // 2 and outside + math.comb(count, cut + 1) / 2**count <= 0.025:
        cut += 1
        outside += math.comb(count, cut) / 2**count
    return Interval(median=statistics.median(ordered), low=ordered[cut], high=ordered[-1 - cut])


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def machine() -> str:
    """Date, processor, memory and Python, for the table's head."""
    memory = psutil.virtual_memory().total / 2**30
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    python = platform.python_version()
    return (
        f"{now} · {_processor()}, {psutil.cpu_count()} cores, {memory:.0f} GiB · {platform.system()} · Python {python}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [HEADS, tuple("---" for _ in HEADS), *(_cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(row: Row) -> tuple[str, ...]:
    limit = f"{row.limit_name}: {row.limit}" if row.limit_name else row.limit
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    met = {None: "", True: "yes", False: "**no**"}[row.met]
    return (row.what, row.ours, limit, ratio, row.target, met, row.note)
