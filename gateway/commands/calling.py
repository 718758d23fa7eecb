"""The way to a running gateway: where it is, one request of its API after the other, what a person hears of a refusal.

POSTROOM_URL, POSTROOM_API_KEY and POSTROOM_SMTP say where. Where neither of the first two is set, and a `postroom dev`
runs over `.postroom` in the working directory, that one is meant: both come from its dev.json, never one of them, so
that no key is sent to a place that a folder names.

Exit codes: 0 done, 1 failed or refused, 2 called wrongly or nothing configured, 3 a wait that timed out, 4 done but for
some, which are listed; 130 after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

import typer

from gateway.commands import output, surroundings

T = TypeVar("T")
DEV_FOLDER: Final = Path(".postroom")
PAGE: Final = 200  # items of one request
FAILED, TIMED_OUT, PARTLY = 1, 3, 4
HIDDEN: Final = ("statusCode", "name", "message", "errors", "request_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where the gateway is. Empty strings: not said."""

    url: str
    api_key: str = field(repr=False)
    smtp: str  # host:port


def target(variable: Callable[[str], str] = surroundings.variable, folder: Path = DEV_FOLDER) -> Target:
    """What the environment says, else the `postroom dev` of the working directory."""
    url, api_key, smtp = map(variable, ("POSTROOM_URL", "POSTROOM_API_KEY", "POSTROOM_SMTP"))
    if url or api_key:
        return Target(url=url, api_key=api_key, smtp=smtp)
    with contextlib.suppress(OSError, ValueError, KeyError):
        told = json.loads((folder / "dev.json").read_text("utf-8"))
        host = told["smtp_host"]
        its_smtp = f"{f'[{host}]' if ':' in host else host}:{told['smtp_port']}"
        return Target(url=told["http_url"], api_key=told["api_key"], smtp=smtp or its_smtp)
    return Target(url="", api_key="", smtp=smtp)


class Api:
    """The API, as JSON."""

    def __init__(self, link: Any) -> None:
        self.link = link  # gateway.client.transport.Link

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What an operation of the client returns."""
        from gateway.client import transport  # noqa: PLC0415 - see gateway.commands

        return transport.finish(work)

    def get(self, path: str, *, wait: float = 0.0, **query: Any) -> Any:
        """The JSON at a path; members of the query that are None are left out."""
        return self.run(self.link.get(path, wait=wait, **query))

    def content(self, path: str, **query: Any) -> bytes:
        """The bytes at a path."""
        found: bytes = self.run(self.link.content(path, **query))
        return found

    def create(self, path: str, body: Any = None, *, key: str | None = None) -> Any:
        """POST that creates something, once."""
        return self.run(self.link.create(path, body, key=key))

    def call(self, path: str, body: Any = None, **query: Any) -> Any:
        """POST that creates nothing."""
        return self.run(self.link.call(path, body, **query))

    def post(self, path: str, content: bytes, kind: str, **query: Any) -> Any:
        """POST of bytes that are no JSON."""
        from gateway.client import transport  # noqa: PLC0415 - see gateway.commands

        headers = {"content-type": kind}
        asked = transport.Request(
            method="POST", path=path, query=transport.query_of(query), content=content, headers=headers
        )
        return self.run(self.link.ask(asked)).json()

    def change(self, path: str, body: Any) -> Any:
        """PATCH."""
        return self.run(self.link.change(path, body))

    def delete(self, path: str, **query: Any) -> None:
        """DELETE."""
        self.run(self.link.delete(path, **query))

    def items(self, path: str, limit: int = 0, **query: Any) -> Iterator[Any]:
        """The first `limit` of a list, page after page; 0: all."""
        found = self._items(path, min(limit, PAGE) if limit else PAGE, query)
        return itertools.islice(found, limit) if limit else found

    def _items(self, path: str, size: int, query: Mapping[str, Any]) -> Iterator[Any]:
        cursor: str | None = None
        while True:
            page = self.get(path, **{**query, "limit": size, "cursor": cursor})
            yield from page["data"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return


def path(*segments: str) -> str:
    """A path of words, ids and addresses."""
    return "".join(f"/{quote(segment, safe='@')}" for segment in segments)


@contextlib.contextmanager
def gateway(attempts: int = 3, at: Target | None = None, total: float = 30.0) -> Iterator[Api]:
    """The gateway that is meant, or the one there; what it refuses ends the command, with a line or two on standard
    error."""
    from gateway.client import transport  # noqa: PLC0415 - see gateway.commands

    with heard():
        to_call = at or target()
        place = transport.Place.find(to_call.url or None, to_call.api_key or None)
        line = transport.BlockingLine(place, transport.Timing(), None)
        try:
            yield Api(transport.Link(line, place, transport.Patience(attempts=attempts, total=total)))
        finally:
            transport.finish(line.close())


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """A refusal as a person hears it, and the exit code that goes with it."""
    from gateway.client import errors  # noqa: PLC0415 - see gateway.commands

    try:
        yield
    except errors.ConfigurationError as error:
        fail(f"{error}", code=2)
    except errors.WaitTimeout as error:
        fail(f"{error}", code=TIMED_OUT)
    except errors.ApiError as error:
        fail(told(error))
    except errors.PostroomError as error:
        fail(f"{error}")


def told(error: Any) -> str:
    """An ApiError in one line, or two where more is to be said than the message."""
    name = error.name or f"status {error.status}"
    more = [f"{one.field}: {one.message}" for one in error.errors if one.message not in error.message]
    if error.retry_after is not None:
        more.append(f"try again in {error.retry_after:g} s")
    if error.status in {401, 403} and name in {"missing_api_key", "invalid_api_key"}:
        more.append("the key is POSTROOM_API_KEY's: does it belong to the gateway at POSTROOM_URL?")
    if error.name == "not_found":
        more.append(f"asked for: {error.asked}; what belongs to another account is not there either")
    if error.status >= 500 and error.request_id:
        more.append(f"request {error.request_id}")
    return "\n".join([f"{error.message.rstrip('.')} ({name})", *(["  " + "; ".join(more)] if more else [])])


def fail(words: str, *, code: int = FAILED) -> None:
    """Say why, and end."""
    output.said(f"postroom: {words}")
    raise typer.Exit(code)
