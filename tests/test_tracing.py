"""Trace Context: what is accepted, what is passed on, what becomes of the rest; lines that a flood would repeat."""

from __future__ import annotations

import time
from typing import Any

import pytest
import structlog

from gateway import telemetry, tracing

ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("parents", "flags"),
    [
        ([f"00-{ID}-{SPAN}-01"], "01"),
        ([f"00-{ID}-{SPAN}-00"], "00"),
        ([f"00-{ID}-{SPAN}-ff"], "01"),  # bits that nobody knows yet are not passed on
        ([f" 00-{ID}-{SPAN}-01 "], "01"),
        ([f"cc-{ID}-{SPAN}-01"], "01"),
        ([f"cc-{ID}-{SPAN}-01-what-the-future-brings"], "01"),
        ([], None),
        ([f"00-{ID}-{SPAN}-01", f"00-{ID}-{SPAN}-01"], None),
        ([f"ff-{ID}-{SPAN}-01"], None),
        ([f"00-{ID}-{SPAN}-01-more"], None),
        ([f"00-{ID.upper()}-{SPAN}-01"], None),
        ([f"00-{'0' * 32}-{SPAN}-01"], None),
        ([f"00-{ID}-{'0' * 16}-01"], None),
        ([f"00-{ID}-{SPAN}"], None),
        ([f"00-{ID[1:]}-{SPAN}-01"], None),
        ([f"00-{ID}-{SPAN}-01\r\nx: y"], None),
        (["x" * 100_000], None),
    ],
)
def test_a_traceparent_is_taken_where_it_is_a_good_one(parents: list[str], flags: str | None) -> None:
    trace = tracing.of_headers(parents, ["vendor=value"])
    if flags is None:
        assert trace is None
        return
    assert trace is not None
    assert (trace.trace_id, trace.flags, trace.state) == (ID, flags, "vendor=value")
    assert trace.span_id != SPAN
    assert trace.headers() == {"traceparent": f"00-{ID}-{trace.span_id}-{flags}", "tracestate": "vendor=value"}


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        (["a=1, b@c=2"], "a=1,b@c=2"),
        (["a=1", "b=2,"], "a=1,b=2"),
        (["a=1,a=2"], ""),
        (["A=1"], ""),
        (["a"], ""),
        (["a=1\r\nx: y"], ""),
        (["a=ü"], ""),
        ([",".join(f"k{number}=1" for number in range(33))], ""),
        (["a=" + "1" * 600], ""),
    ],
)
def test_a_tracestate_is_passed_on_whole_or_not_at_all(fields: list[str], state: str) -> None:
    trace = tracing.of_headers([f"00-{ID}-{SPAN}-01"], fields)
    assert trace is not None
    assert trace.state == state
    kept = tracing.of_stored(trace.stored())
    assert kept is not None
    assert (kept.trace_id, kept.state) == (ID, state)
    assert kept.span_id != trace.span_id


def test_lines_and_what_is_kept_know_the_trace_within_it_and_not_behind_it() -> None:
    trace = tracing.of_headers([f"00-{ID}-{SPAN}-01"], [])
    assert trace is not None
    with tracing.within(trace), tracing.within(None):
        assert tracing.stored() == trace.parent
        assert structlog.contextvars.get_contextvars() == {"trace_id": ID, "span_id": trace.span_id}
    assert tracing.stored() is None
    assert structlog.contextvars.get_contextvars() == {}
    assert tracing.of_stored(None) is None


class Lines:
    """A logger that remembers."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def warning(self, event: str, **context: Any) -> None:
        self.said.append({"event": event, **context})


def test_what_a_flood_would_repeat_is_said_a_few_times_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    lines, now = Lines(), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    seldom = telemetry.Seldom(lines, most=3, seconds=10)
    for _ in range(1000):
        seldom.warning("turned away", remote_ip="192.0.2.1")
    seldom.warning("another")
    assert [line["event"] for line in lines.said] == ["turned away"] * 3 + ["another"]
    now[0] = 10.0
    seldom.warning("turned away", remote_ip="192.0.2.2")
    assert lines.said[-1] == {"event": "turned away", "remote_ip": "192.0.2.2", "left_out": 997}
