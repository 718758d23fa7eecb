"""What the operator's commands have in common: the database of DATABASE_URL, and coroutines run to their end."""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

import typer

from gateway.errors import ConfigurationError, PostroomError, Unavailable

T = TypeVar("T")
AccountName = Annotated[str, typer.Option("--account", help="The account's name")]


def run(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns."""
    import asyncio  # noqa: PLC0415 - takes longer than most commands

    try:
        return asyncio.run(work)
    except Unavailable as error:
        raise PostroomError(_why(error)) from error


def _why(error: Unavailable) -> str:
    """What an operator can do about it; the message itself, where that says so."""
    from gateway.storage import db  # noqa: PLC0415 - see gateway.commands

    said = db.reason(error)
    if said == error.message:
        return said
    return f"DATABASE_URL does not lead to a database that can be used: {said}. Start it, or correct DATABASE_URL."


def database_url() -> str:
    """DATABASE_URL. ConfigurationError where it is not set."""
    from gateway import settings  # noqa: PLC0415 - see gateway.commands

    if not (url := settings.load().database_url):
        raise ConfigurationError("DATABASE_URL must be set, such as postgresql://user:pass@host:5432/postroom")
    return url


def end(text: str) -> datetime:
    """An RFC 3339 time, or so many minutes, hours or days from now."""
    from gateway import models  # noqa: PLC0415 - see gateway.commands

    unit = {"m": "minutes", "h": "hours", "d": "days"}.get(text[-1])
    try:
        return datetime.now(UTC) + timedelta(**{unit: int(text[:-1])}) if unit else models.time_of(text)
    except (ValueError, OverflowError):
        raise ConfigurationError(f"--expires {text}: not an RFC 3339 time, nor one from now on such as 90d") from None


def moment(at: datetime) -> str:
    """A time as the API writes it."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
