"""Events as they happen, as JSON has them; connections that break are made anew by the client."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Generator, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from gateway.commands import calling, operating

T = TypeVar("T")


def events(api: calling.Api, after: str | None, query: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
    """The account's events behind a cursor; None: from now on."""
    from gateway.client import blocking, streams  # noqa: PLC0415 - see gateway.commands

    with contextlib.closing(blocking.Events(streams.of_account(api.link, after, **query))) as told:
        for event in told:
            yield {name: _json(value) for name, value in _members(event) if value is not None}


def first(items: Iterable[T], count: int) -> Iterable[T]:
    """So many of them; 0: all."""
    return itertools.islice(items, count) if count else items


def _members(event: Any) -> Iterable[tuple[str, Any]]:
    return ((one.name, getattr(event, one.name)) for one in dataclasses.fields(event))


def _json(value: Any) -> Any:
    return operating.moment(value) if isinstance(value, datetime) else value
