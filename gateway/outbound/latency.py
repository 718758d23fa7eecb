"""How long mail took, in few numbers: a histogram with fixed buckets, and what quantiles it tells.

Bucket 0 holds what took up to 10 ms; each one after it reaches √2 times as far, up to 2.7 days; the last holds the
rest. So a quantile that is read from it is off by less than that factor, and histograms of several hours can be added.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from typing import Final

SHORTEST: Final = 0.01  # seconds
BOUNDS: Final[tuple[float, ...]] = tuple(
    SHORTEST * math.pow(2, number / 2) for number in range(50)
)  # upper ones, seconds; inclusive


def bucket_of(seconds: float) -> int:
    """0 … len(BOUNDS); clocks that disagree may say less than nothing, which is bucket 0."""
    return bisect.bisect_left(BOUNDS, seconds)


def quantile(counts: Mapping[int, int], share: float) -> float | None:
    """Seconds within which at least this share (0 … 1) of all was done; None = there was nothing.

    Within the bucket of that one (by nearest rank) it is read as if the bucket's were spread evenly over its logarithm.
    What lies in the last bucket is told as the bound that it passed.
    """
    total = sum(counts.values())
    if not total:
        return None
    rank, before = max(1, math.ceil(share * total)), 0
    for bucket in sorted(counts):
        if before + counts[bucket] >= rank:
            return _within(bucket, (rank - before) / counts[bucket])
        before += counts[bucket]
    raise AssertionError("a rank beyond the total")


def _within(bucket: int, part: float) -> float:
    if bucket >= len(BOUNDS):
        return BOUNDS[-1]
    upper = BOUNDS[bucket]
    if bucket == 0:
        return upper * part
    lower = BOUNDS[bucket - 1]
    return min(upper, lower * math.pow(upper / lower, part))
