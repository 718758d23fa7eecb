"""From when until when what a list shows was made, and where that begins and ends among ids.

Ids are UUIDv7, drawn by the clock of the process that made them; the times in rows are the database's. So ids only say
roughly where to look, with room for clocks that differ: a row's own time decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol
from uuid import UUID

CLOCKS_DIFFER: Final = timedelta(minutes=5)
FIRST: Final = UUID(int=0)
LAST: Final = UUID(int=(1 << 128) - 1)


def first_id(at: datetime, later: timedelta = timedelta(0)) -> UUID:
    """The least UUIDv7 (RFC 9562 5.7) of so much later than that time, which no datetime may be able to hold."""
    milliseconds = int((at.timestamp() + later.total_seconds()) * 1000)
    return UUID(int=min(max(milliseconds, 0), (1 << 48) - 1) << 80)


@dataclass(frozen=True, kw_only=True, slots=True)
class Period:
    """A time; None = it has no such end."""

    since: datetime | None = None  # inclusive
    until: datetime | None = None  # exclusive

    @property
    def values(self) -> dict[str, Any]:
        """For a statement that asks its rows."""
        return {"since": self.since, "until": self.until}

    @property
    def ids(self) -> dict[str, Any]:
        """For a statement that looks through ids: both are outside."""
        since, until = self.since, self.until
        first = first_id(since, -CLOCKS_DIFFER) if since else FIRST
        return {"first": first, "last": first_id(until, CLOCKS_DIFFER) if until else LAST}


ALWAYS: Final = Period()


class Asked(Protocol):
    """A list's query."""

    @property
    def since(self) -> datetime | None: ...
    @property
    def until(self) -> datetime | None: ...


def of(query: Asked) -> Period:
    return Period(since=query.since, until=query.until)
