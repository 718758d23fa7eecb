"""One request to the gateway and its retries, over httpx2, blocking or not.

What is written here once, as coroutines, serves both clients: a `Link` asks through a `Line`, of which there are two.
The asynchronous one waits as coroutines do. The blocking one never waits inside a coroutine at all (its methods do
their work and return), so that `finish` runs such a coroutine to its end by one step, with an event loop or without.

Tried again is what may be: whatever changes nothing or changes to the same, and what creates something under an
Idempotency-Key, which stays the same over its tries; any other POST only where the gateway surely did nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

import httpx2

from . import errors, records

T = TypeVar("T")
BUSY: Final = frozenset({429, 502, 503, 504})  # come back later; nothing was done, or it may be done again
CONNECT_SECONDS: Final = 10.0  # a connection may take, with its TLS
HTTP_SECONDS: Final = 30.0  # an answer may take where it was not asked to wait
SLACK_SECONDS: Final = 15.0  # an answer may take beyond what it was asked to wait
SILENCE_SECONDS: Final = 45.0  # on a stream, on which the gateway says something each 15 s
DEV_FILE: Final = ".postroom/dev.json"
BAD_KEY: Final = "invalid_idempotency_key"  # as the gateway says it, where HTTP lets such a key through
BAD_KEY_SAYS: Final = "An idempotency key is of 1 to 255 printable ASCII characters"


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long a client tries again by itself."""

    attempts: int = 6  # of one request
    first_pause: float = 0.2  # seconds, before the second; doubled for each further one, and jittered
    longest_pause: float = 5.0
    total: float = 30.0  # seconds, beyond what it was asked to wait, after which a request is not tried again
    retry_after: float = 30.0  # a Retry-After of more seconds is not slept through: the error is raised
    stream: float = 300.0  # seconds without a connection after which a stream gives up


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """What a client knows of time; to be replaced in tests."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep  # the blocking client's
    asleep: Callable[[float], Awaitable[object]] = asyncio.sleep  # the other one's
    jitter: Callable[[], float] = lambda: random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, guards nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is asked."""

    method: str
    path: str  # below /v1
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None  # JSON; None = no body
    content: bytes | None = None  # instead of JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True  # may be sent twice
    wait: float = 0.0  # seconds that the gateway was asked to hold it

    def __str__(self) -> str:
        return f"{self.method} /v1{self.path}"

    @property
    def patience(self) -> float:
        """Seconds for which nothing may be heard."""
        return self.wait + SLACK_SECONDS if self.wait else HTTP_SECONDS


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What was answered."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    content: bytes
    asked: str = ""  # "GET /v1/emails"

    def json(self) -> Any:
        """What it holds. Raises ApiError where it is no JSON: some other server's."""
        try:
            return json.loads(self.content)
        except ValueError:
            raise self.refusal from None

    @property
    def refusal(self) -> errors.ApiError:
        """What it says, where it is no success."""
        return errors.of(self.status, self.headers, self.content, self.asked)


Events = AsyncIterator[httpx2.ServerSentEvent]


class Line(Protocol):
    """How requests get there. Raises httpx2.TransportError."""

    async def ask(self, request: Request) -> Answer: ...
    def listen(self, request: Request) -> contextlib.AbstractAsyncContextManager[Answer | Events]:
        """The stream; or the answer, where it is a refusal."""

    async def sleep(self, seconds: float) -> None: ...
    def now(self) -> float: ...
    def jitter(self) -> float: ...
    async def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where the gateway is, and the key to it."""

    url: str  # without /v1 and without a slash at its end
    api_key: str = field(repr=False)  # or a mailbox's token

    @classmethod
    def find(cls, url: str | None, api_key: str | None) -> Place:
        """What is given, else what the environment says. Raises ConfigurationError."""
        found = {"POSTROOM_URL": (url or os.environ.get("POSTROOM_URL", "")).strip()}
        found["POSTROOM_API_KEY"] = (api_key or os.environ.get("POSTROOM_API_KEY", "")).strip()  # a file's last line
        missing = [name for name, value in found.items() if not value]
        if missing:
            raise errors.ConfigurationError(
                f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set. Set POSTROOM_URL (such as "
                "http://127.0.0.1:8025) and POSTROOM_API_KEY; in Python url= and api_key= do as well. `postroom dev` "
                f"starts a gateway and prints both; {DEV_FILE} has them, too."
            )
        plain = found["POSTROOM_URL"].rstrip("/").removesuffix("/v1")
        if not plain.startswith(("http://", "https://")) or not _is_url(plain):
            raise errors.ConfigurationError(f"{plain!r} is no URL of a gateway: http://… or https://… is wanted.")
        if not is_header_value(found["POSTROOM_API_KEY"]):
            raise errors.ConfigurationError(
                "POSTROOM_API_KEY (or api_key=) holds what no key has: spaces, line breaks, or other than ASCII."
            )
        return cls(url=plain, api_key=found["POSTROOM_API_KEY"])

    @property
    def is_secure(self) -> bool:
        """Whether there are certificates to verify; reading whom to trust costs 50 ms for nothing otherwise."""
        return self.url.startswith("https://")

    @property
    def headers(self) -> dict[str, str]:
        agent = f"postroom-python (Python {platform.python_version()})"
        return {"authorization": f"Bearer {self.api_key}", "user-agent": agent, "accept": "application/json"}


def _is_url(text: str) -> bool:
    try:
        return bool(httpx2.URL(text).host)
    except httpx2.InvalidURL:
        return False


def is_header_value(text: str) -> bool:
    """Whether it can stand in a header as one word; httpx2's own refusals tell what they refuse, secrets too."""
    return text.isascii() and text.isprintable() and " " not in text


# The two lines


class BlockingLine:
    """Over httpx2.Client. Its coroutines never wait: `finish` runs what is made of them."""

    def __init__(self, place: Place, timing: Timing, transport: httpx2.BaseTransport | None) -> None:
        self._timing = timing
        transport = transport or (None if place.is_secure else httpx2.HTTPTransport(verify=False))
        self._client = httpx2.Client(base_url=f"{place.url}/v1", headers=place.headers, transport=transport)
        self.now, self.jitter = timing.now, timing.jitter

    async def ask(self, request: Request) -> Answer:
        return _answer(request, self._client.request(**_arguments(request)))

    @contextlib.asynccontextmanager
    async def listen(self, request: Request) -> AsyncIterator[Answer | Events]:
        with self._client.stream(**_streaming(request)) as response:
            if response.status_code != 200:
                response.read()
                yield _answer(request, response)
            else:
                yield _stepwise(httpx2.EventSource(response))

    async def sleep(self, seconds: float) -> None:
        self._timing.sleep(seconds)

    async def close(self) -> None:
        self._client.close()


class WaitingLine:
    """Over httpx2.AsyncClient."""

    def __init__(self, place: Place, timing: Timing, transport: httpx2.AsyncBaseTransport | None) -> None:
        self._timing = timing
        transport = transport or (None if place.is_secure else httpx2.AsyncHTTPTransport(verify=False))
        self._client = httpx2.AsyncClient(base_url=f"{place.url}/v1", headers=place.headers, transport=transport)
        self.now, self.jitter = timing.now, timing.jitter

    async def ask(self, request: Request) -> Answer:
        return _answer(request, await self._client.request(**_arguments(request)))

    @contextlib.asynccontextmanager
    async def listen(self, request: Request) -> AsyncIterator[Answer | Events]:
        async with self._client.stream(**_streaming(request)) as response:
            if response.status_code != 200:
                await response.aread()
                yield _answer(request, response)
            else:
                yield aiter(httpx2.EventSource(response))

    async def sleep(self, seconds: float) -> None:
        await self._timing.asleep(seconds)

    async def close(self) -> None:
        await self._client.aclose()


async def _stepwise(events: httpx2.EventSource) -> Events:
    for event in events:
        yield event


def _arguments(request: Request) -> dict[str, Any]:
    return {
        "method": request.method,
        "url": request.path,
        "params": dict(request.query),
        "headers": dict(request.headers),
        "timeout": httpx2.Timeout(request.patience, connect=CONNECT_SECONDS),
        **({} if request.body is None else {"json": request.body}),
        **({} if request.content is None else {"content": request.content}),
    }


def _streaming(request: Request) -> dict[str, Any]:
    headers = {**request.headers, "accept": "text/event-stream", "cache-control": "no-store"}
    timeout = httpx2.Timeout(CONNECT_SECONDS, read=SILENCE_SECONDS)
    return {**_arguments(request), "headers": headers, "timeout": timeout}


def _answer(request: Request, response: httpx2.Response) -> Answer:
    headers = dict(response.headers.items())
    return Answer(status=response.status_code, headers=headers, content=response.content, asked=str(request))


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine over a BlockingLine returns."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("a coroutine of the blocking client waited for an event loop")  # a fault of this package


# Asking


class Link:
    """A client's way to its gateway."""

    def __init__(self, line: Line, place: Place, patience: Patience) -> None:
        self.line, self.place, self.patience = line, place, patience

    def __repr__(self) -> str:
        return f"Link({self.place.url!r})"

    async def ask(self, request: Request, *, until: float | None = None) -> Answer:
        """The answer, tried again as `Patience` says, or until this time. Raises ApiError, Unreachable."""
        tries = Tries(self, until)
        while True:
            try:
                answer = await self.line.ask(request)
            except httpx2.TransportError as error:
                await tries.after_break(request, error)
                continue
            if answer.status < 300:
                return answer
            if answer.status == 404 and request.method == "DELETE" and tries.were_cut:
                return answer  # the try before, whose answer was lost, did it
            await tries.after_refusal(request, answer.refusal)

    async def get(self, path: str, *, wait: float = 0.0, **query: Any) -> Any:
        """The JSON at a path; members of the query that are None are left out."""
        return (await self.ask(Request(method="GET", path=path, query=query_of(query), wait=wait))).json()

    async def content(self, path: str, **query: Any) -> bytes:
        """The bytes at a path."""
        return (await self.ask(Request(method="GET", path=path, query=query_of(query)))).content

    async def create(self, path: str, body: Any, *, key: str | None = None, **headers: str) -> Any:
        """POST that creates something, once: under `key`, or an Idempotency-Key drawn for it where that is None."""
        headers["idempotency-key"] = str(uuid.uuid4()) if key is None else key
        request = Request(method="POST", path=path, body={} if body is None else body, headers=headers)
        if key is not None and not (key.strip() and key.isascii() and key.isprintable()):
            raise errors.ApiError(status=400, name=BAD_KEY, message=BAD_KEY_SAYS, asked=str(request))
        return (await self.ask(request)).json()

    async def call(self, path: str, body: Any = None, **query: Any) -> Any:
        """POST that creates nothing, and so is not sent again when its answer is lost."""
        request = Request(method="POST", path=path, body=body, query=query_of(query), repeatable=False)
        return (await self.ask(request)).json()

    async def change(self, path: str, body: Any, method: str = "PATCH") -> Any:
        """PATCH or PUT; doing it twice is doing it once."""
        return (await self.ask(Request(method=method, path=path, body=body))).json()

    async def delete(self, path: str, **query: Any) -> None:
        await self.ask(Request(method="DELETE", path=path, query=query_of(query)))

    async def each(self, record: type[records.R], path: str, **query: Any) -> AsyncIterator[records.R]:
        """Every item of a list, page after page."""
        cursor: str | None = None
        while True:
            page = await self.page(record, path, **{**query, **({"cursor": cursor} if cursor else {})})
            for one in page.data:
                yield one
            cursor = page.next_cursor
            if cursor is None:
                return

    async def page(self, record: type[records.R], path: str, **query: Any) -> records.Page[records.R]:
        """One page of a list."""
        found = await self.get(path, **query)
        data = tuple(records.read(record, one) for one in found["data"])
        return records.Page(data=data, next_cursor=found.get("next_cursor"))


class Tries:
    """The tries of one request, or of one stream's connection, and the pauses between them."""

    def __init__(self, link: Link, until: float | None = None) -> None:
        self._link = link
        self._until = until  # by the line's clock; None = so many attempts, for so long
        self._began = link.line.now()
        self._made = 0
        self.were_cut = False  # a try broke off, so that nobody knows whether it was carried out

    async def after_break(self, request: Request, error: httpx2.TransportError) -> None:
        """Returns when it is time to try again. Raises Unreachable."""
        self._made += 1
        unsent = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
        self.were_cut = self.were_cut or not unsent
        pause = self._pause()
        if self._ends_with(pause) or self._took_long(request, pause) or not (request.repeatable or unsent):
            raise unreachable(self._link.place, request, error, self._made) from error
        await self._link.line.sleep(pause)

    async def after_refusal(self, request: Request, refusal: errors.ApiError) -> None:
        """Returns when it is time to try again. Raises the refusal."""
        self._made += 1
        asked = refusal.retry_after or 0.0
        pause = self._pause(asked)
        ends = self._ends_with(pause) or self._took_long(request)
        if not _helps(request, refusal) or asked > self._link.patience.retry_after or ends:
            raise refusal
        await self._link.line.sleep(pause)

    async def after_end(self, request: Request) -> None:
        """Returns when it is time to connect again, where a stream was ended in good order. Raises Unreachable."""
        self._made += 1
        pause = self._pause()
        if self._ends_with(pause):
            raise errors.Unreachable(
                f"{self._link.place.url} ended {request} as soon as it began, {self._made} times. Is "
                "POSTROOM_URL right?"
            )
        await self._link.line.sleep(pause)

    def _pause(self, at_least: float = 0.0) -> float:
        """Seconds: as many as it was said, or more each time."""
        patience = self._link.patience
        grown = min(patience.longest_pause, patience.first_pause * 2.0 ** (self._made - 1))
        return max(at_least, grown * self._link.line.jitter())

    def _ends_with(self, pause: float) -> bool:
        """Whether there is no other try behind such a pause."""
        if self._until is None:
            return self._made >= self._link.patience.attempts
        return self._link.line.now() + pause > self._until

    def _took_long(self, request: Request, pause: float = 0.0) -> bool:
        """Whether whoever asked has waited long enough, where nobody said until when."""
        spent = self._link.line.now() + pause - self._began
        return self._until is None and spent > self._link.patience.total + request.wait


def _helps(request: Request, refusal: errors.ApiError) -> bool:
    """Whether the same request may be answered otherwise later, and may be sent again."""
    if isinstance(refusal, errors.QuotaExceeded):
        return False  # room is made by deleting something, not by waiting
    if not request.repeatable:
        return refusal.status == 429  # of all others nobody knows whether it was carried out
    return refusal.status in BUSY or refusal.name in {"concurrent_idempotent_requests", "request_timeout"}


def unreachable(place: Place, request: Request, error: Exception, tries: int) -> errors.Unreachable:
    """What a person can do about a connection that was not had."""
    often = f", {tries} times" if tries > 1 else ""
    why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return errors.Unreachable(
            f"Nothing answers at {place.url} ({request}{often}; {why}). Is the gateway running, and is POSTROOM_URL "
            "right? `postroom dev` starts one here."
        )
    unclear = "" if request.repeatable else " It may have been carried out, so it was not sent again."
    if isinstance(error, httpx2.ReadTimeout):
        why = f"it took the connection, and said nothing for {request.patience:g} s. Is it a gateway that listens there"
    elif isinstance(error, httpx2.RemoteProtocolError):
        why = f"{why}. Is it a gateway's HTTP port"
    else:
        return errors.Unreachable(f"No answer from {place.url} to {request}{often}; {why}.{unclear}")
    return errors.Unreachable(f"No answer from {place.url} to {request}{often}; {why}, is POSTROOM_URL right?{unclear}")


def query_of(given: Mapping[str, Any]) -> dict[str, str]:
    """A query's members as text; those that are None are left out, a name's last underscore is taken off."""
    return {name.removesuffix("_"): _text(value) for name, value in given.items() if value is not None}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return records.time_text(value)
    if isinstance(value, str) or not isinstance(value, Sequence):
        return str(value)
    return ",".join(value)
