"""Traces: which request of somebody else's system caused what happens here (W3C Trace Context).

A request that carries `traceparent` is followed: its ids are in every line that is logged for it, and with what it
causes they go on into the worker and out with webhooks. A request without one has no trace; a malformed one is as none.
"""

from __future__ import annotations

import contextlib
import contextvars
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import structlog

MAX_STATE: Final = 512  # characters of tracestate that are passed on (Trace Context 3.3.1.5)
MAX_MEMBERS: Final = 32  # of its list (3.3.1.1)

_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_KEY: Final = r"[a-z0-9][_0-9a-z\-*/]{0,240}(?:@[a-z][_0-9a-z\-*/]{0,13})?"
_MEMBER: Final = re.compile(rf"{_KEY}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """A place in a trace."""

    trace_id: str  # 32 hex digits
    span_id: str  # 16; of what happens here
    flags: str  # two hex digits; 01 = sampled
    state: str  # tracestate as it came; empty = none

    @property
    def parent(self) -> str:
        """`traceparent` for what this causes."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"

    def child(self) -> Trace:
        """What this causes, as a place of its own."""
        return replace(self, span_id=secrets.token_hex(8))

    def headers(self) -> dict[str, str]:
        """For a request to somebody else."""
        return {"traceparent": self.parent, **({"tracestate": self.state} if self.state else {})}

    def stored(self) -> str:
        """As it is kept with what it causes; `of_stored` reads it."""
        return f"{self.parent} {self.state}".rstrip()


def of_stored(text: str | None) -> Trace | None:
    """What was kept, as a new place; None = there was none."""
    if not text:
        return None
    parent, _, state = text.partition(" ")
    return of_headers([parent], [state] if state else [])


def of_headers(parents: Iterable[str], states: Iterable[str]) -> Trace | None:
    """A new place below that of a request's `traceparent` (3.2); None where there is none, or not just a good one."""
    found = list(parents)
    match = _PARENT.fullmatch(found[0].strip()) if len(found) == 1 else None
    if match is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(parent_id, 16):
        return None
    flags = f"{int(flags, 16) & 1:02x}"  # what else there may be in it one day nobody here knows (3.2.2.5)
    return Trace(trace_id=trace_id, span_id=secrets.token_hex(8), flags=flags, state=_state(states))


def _state(fields: Iterable[str]) -> str:
    """Passed on as a whole, or not at all (3.3)."""
    members = [member for field in fields for one in field.split(",") if (member := one.strip())]
    state = ",".join(members)
    keys = {member.partition("=")[0] for member in members}
    good = len(members) <= MAX_MEMBERS and len(state) <= MAX_STATE and len(keys) == len(members)
    return state if good and all(_MEMBER.fullmatch(member) for member in members) else ""


_here: Final[contextvars.ContextVar[Trace | None]] = contextvars.ContextVar("postroom_trace", default=None)


def stored() -> str | None:
    """The trace of what runs now, as it is kept with what it causes; None = it has none."""
    trace = _here.get()
    return trace.stored() if trace is not None else None


_NOWHERE: Final = contextlib.nullcontext()


def within(trace: Trace | None) -> contextlib.AbstractContextManager[None]:
    """Whatever runs within, in this task and those that it starts, belongs to the trace; None changes nothing."""
    return _within(trace) if trace is not None else _NOWHERE


@contextlib.contextmanager
def _within(trace: Trace) -> Iterator[None]:
    token = _here.set(trace)
    try:
        with structlog.contextvars.bound_contextvars(trace_id=trace.trace_id, span_id=trace.span_id):
            yield
    finally:
        _here.reset(token)
