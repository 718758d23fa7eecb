"""When an e-mail is to be sent, as callers say it: RFC 3339, or "in 10 min"."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

from gateway import errors, models

MAX_AHEAD: Final = timedelta(days=36_525)  # all that may be added to it is still a time
_UNITS: Final = {"second": 1, "sec": 1, "minute": 60, "min": 60, "hour": 3600, "day": 86_400, "week": 604_800}
_IN: Final = re.compile(r"in (\d{1,6}|an?) (second|sec|minute|min|hour|day|week)s?", re.IGNORECASE)


def read(text: str | None, now: datetime) -> datetime | None:
    """When to send; None = at once, which a time that has passed means too. Raises ValidationFailed."""
    if text is None:
        return None
    moment = _relative(text, now) or _absolute(text)
    if moment > now + MAX_AHEAD:
        raise errors.invalid("scheduled_at", "more than a hundred years ahead")
    return moment if moment > now else None


def _relative(text: str, now: datetime) -> datetime | None:
    match = _IN.fullmatch(text.strip())
    if match is None:
        return None
    count = int(match[1]) if match[1].isdecimal() else 1
    ahead = timedelta(seconds=count * _UNITS[match[2].lower()])
    return now + min(ahead, MAX_AHEAD + timedelta(days=1))


def _absolute(text: str) -> datetime:
    try:
        return models.time_of(text)
    except ValueError:
        raise errors.invalid("scheduled_at", 'neither an RFC 3339 time nor like "in 10 min"') from None
