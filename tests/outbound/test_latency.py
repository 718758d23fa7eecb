"""What quantiles a histogram of latencies tells."""

from __future__ import annotations

import itertools
import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.outbound import latency

SECONDS = st.floats(min_value=0, max_value=400_000, allow_nan=False)


@given(st.lists(SECONDS, min_size=1, max_size=200), st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_lies_in_the_bucket_of_the_exact_one(seconds: list[float], share: float) -> None:
    """Seen to fail where the rank was the next one (floor + 1)."""
    exact = sorted(seconds)[max(1, math.ceil(share * len(seconds))) - 1]
    told = latency.quantile(Counter(map(latency.bucket_of, seconds)), share)
    assert told is not None
    bucket = latency.bucket_of(exact)
    lower = latency.BOUNDS[bucket - 1] if bucket else 0.0
    upper = latency.BOUNDS[min(bucket, len(latency.BOUNDS) - 1)]
    assert lower <= told <= upper


@given(st.lists(SECONDS, max_size=50), st.lists(SECONDS, max_size=50))
def test_histograms_add_up(some: list[float], others: list[float]) -> None:
    added = Counter(map(latency.bucket_of, some)) + Counter(map(latency.bucket_of, others))
    assert added == Counter(map(latency.bucket_of, some + others))


def test_of_nothing_there_is_no_quantile() -> None:
    assert latency.quantile({}, 0.5) is None
    assert latency.quantile({3: 0}, 0.5) is None


def test_buckets_are_each_less_than_half_as_long_again_as_the_one_before_and_reach_beyond_the_last_attempt() -> None:
    assert all(one < other < one * 1.5 for one, other in itertools.pairwise(latency.BOUNDS))
    assert latency.BOUNDS[-1] > 172_800
    assert [latency.bucket_of(value) for value in (-1.0, 0.0, 0.01, 0.010001, 1e9)] == [0, 0, 0, 1, 50]
