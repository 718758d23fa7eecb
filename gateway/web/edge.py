"""The outermost layer of HTTP: what every request and every answer have in common.

A request id on each answer, errors in the contract's one shape whatever raised them, a log line and two metrics
for each request. Pure ASGI: bodies and streams pass through untouched.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import structlog
import uuid_utils
from prometheus_client import Counter, Histogram
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Lifespan, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from gateway import errors, telemetry, tracing
from gateway.models import Origin

log = structlog.get_logger(__name__)
seldom: Final = telemetry.Seldom(log)

# method: the standard ones, else OTHER; route: the path's template, else "unmatched"; status: as answered,
# 499 where the client left first.
REQUESTS: Final = Counter("postroom_http_requests_total", "HTTP requests answered", ("method", "route", "status"))
SECONDS: Final = Histogram(
    "postroom_http_request_seconds",
    "Seconds from a request's head to the end of its answer",
    ("route",),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120),
)
_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_KEY: Final = "postroom.exchange"
_QUIET: Final = frozenset(("/healthz", "/readyz", "/metrics"))  # asked every few seconds, of no interest while well
_REQUEST_ID: Final = re.compile(rb"[!-~]{1,128}")
_CLIENT_LEFT: Final = 499  # nginx's word for it; never sent

Headers = list[tuple[bytes, bytes]]  # ASGI's: names in lower case


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request and its answer, as far as the edge must know them. Inner layers fill it in."""

    request_id: str
    route: str = "unmatched"  # the path's template; set by whoever matches the path
    account_id: UUID | None = None  # set once the caller is known
    origin: Origin | None = None  # who calls, from where; set for operations that ask for it
    headers: Headers = field(default_factory=list)  # added to the answer, such as RateLimit-*
    status: int = 0  # of the answer; 0 until it starts


def exchange(scope: Scope) -> Exchange:
    """The exchange that the edge began for this request."""
    found: Exchange = scope[_KEY]
    return found


def application(routes: Sequence[BaseRoute], lifespan: Lifespan[Starlette] | None = None) -> Starlette:
    """A Starlette application behind the edge. `/x/` is not `/x`: 404 rather than a redirect."""
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(Edge)],
        exception_handlers={HTTPException: _leave_to_the_edge},
    )
    app.router.redirect_slashes = False
    app.router.default = _nothing_there
    return app


async def _nothing_there(_: Scope, __: Receive, ___: Send) -> None:
    raise errors.NotFound  # Starlette's own would close a WebSocket without a word


async def _leave_to_the_edge(_: Request, error: Exception) -> Response:
    raise error


class Edge:
    """The middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        current = scope[_KEY] = Exchange(request_id=_request_id(scope))

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                current.status = message["status"]
                message = _with_headers(message, current)
            await send(message)

        tokens = structlog.contextvars.bind_contextvars(request_id=current.request_id)
        with tracing.within(_trace(scope)):
            try:
                await self._app(scope, receive, answer)
            except ClientDisconnect:
                current.status = _CLIENT_LEFT
            except Exception as error:  # noqa: BLE001 - the edge: whatever it was, it is answered in the contract's shape
                await _answer_error(error, scope, answer)
            finally:
                _record(scope, current, time.perf_counter() - started)
                structlog.contextvars.reset_contextvars(**tokens)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        current = scope[_KEY] = Exchange(request_id=_request_id(scope))

        async def answer(message: Message) -> None:
            if message["type"] in ("websocket.accept", "websocket.http.response.start"):
                current.status = message.get("status", 101)
                message = _with_headers(message, current)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=current.request_id), tracing.within(_trace(scope)):
            try:
                await self._app(scope, receive, answer)
            except WebSocketDisconnect:
                pass  # how sockets end
            except Exception as error:  # noqa: BLE001 - as for HTTP
                await _refuse_or_close(error, scope, answer)


def _request_id(scope: Scope) -> str:
    """The caller's X-Request-Id where it is a sane one, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return str(uuid_utils.uuid7())


def _trace(scope: Scope) -> tracing.Trace | None:
    """The caller's, where there is one."""
    parents = [str(value, "latin-1") for name, value in scope["headers"] if name == b"traceparent"]
    if not parents:
        return None
    states = [str(value, "latin-1") for name, value in scope["headers"] if name == b"tracestate"]
    return tracing.of_headers(parents, states)


def _with_headers(message: Message, current: Exchange) -> Message:
    own = ((b"x-request-id", current.request_id.encode()), (b"x-content-type-options", b"nosniff"))
    return {**message, "headers": [*message.get("headers", ()), *current.headers, *own]}


def _record(scope: Scope, current: Exchange, seconds: float) -> None:
    method = scope["method"] if scope["method"] in _METHODS else "OTHER"
    status = current.status or _CLIENT_LEFT  # 0: cancelled before there was an answer
    _counter(method, current.route, status).inc()
    _histogram(current.route).observe(seconds)
    ids = {"account_id": str(current.account_id)} if current.account_id else {}
    duration = round(seconds * 1000, 3)
    say = log.debug if current.route in _QUIET and status < 400 else log.info
    say("http request", method=method, route=current.route, status=status, duration_ms=duration, **ids)


@functools.cache  # as many as there are series
def _counter(method: str, route: str, status: int) -> Counter:
    return REQUESTS.labels(method, route, str(status))


@functools.cache
def _histogram(route: str) -> Histogram:
    return SECONDS.labels(route)


# Errors


async def _answer_error(error: Exception, scope: Scope, answer: Send) -> None:
    current = exchange(scope)
    known = api_error(error)
    if isinstance(known, errors.InternalError):
        log.error("request failed", route=current.route, exc_info=error)
    if isinstance(known, errors.Unavailable):
        seldom.warning("answered unavailable", route=current.route, cause=type(error.__cause__).__name__)
    if current.status == 0:  # else the answer has begun: the server breaks it off, which its reader notices
        status, headers, body = rendered(known, scope)
        headers += _allowed(error)
        await answer({"type": "http.response.start", "status": status, "headers": headers})
        await answer({"type": "http.response.body", "body": body})


async def _refuse_or_close(error: Exception, scope: Scope, answer: Send) -> None:
    """Before the handshake an HTTP answer, where the server can send one; after it a close code (RFC 6455 7.4.1)."""
    known = api_error(error)
    if isinstance(known, errors.InternalError):
        log.error("websocket failed", route=exchange(scope).route, exc_info=error)
    if exchange(scope).status == 0 and "websocket.http.response" in scope.get("extensions", {}):
        status, headers, body = rendered(known, scope)
        await answer({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await answer({"type": "websocket.http.response.body", "body": body})
    else:
        code = 1011 if known.status >= 500 else 1008
        with contextlib.suppress(RuntimeError, OSError):  # it is closed already
            await answer({"type": "websocket.close", "code": code, "reason": known.name})


def api_error(error: Exception) -> errors.ApiError:
    """`error` in the contract's words. What nobody foresaw is an InternalError, which says nothing of it."""
    if isinstance(error, errors.ApiError):
        return error
    if not isinstance(error, HTTPException) or error.status_code >= 500:
        return errors.InternalError()
    return _OF_STATUS.get(error.status_code, errors.ValidationFailed)()


# What Starlette itself raises.
_OF_STATUS: Final[dict[int, type[errors.ApiError]]] = {
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    413: errors.PayloadTooLarge,
}


def rendered(error: errors.ApiError, scope: Scope) -> tuple[int, Headers, bytes]:
    """Status, headers and body of the answer."""
    status = _status(error, scope["path"])
    fields = error.body(exchange(scope).request_id, status)
    body = json.dumps(fields, ensure_ascii=False, default=str).encode("utf-8", "replace")
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status in (429, 503):
        headers.append((b"retry-after", str(error.retry_after or 1).encode()))
    elif error.retry_after is not None:
        headers.append((b"retry-after", str(error.retry_after).encode()))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))  # RFC 9110 section 11.6.1
    return status, headers, body


def _status(error: errors.ApiError, path: str) -> int:
    """Resend's clients take an invalid key for one only when it comes as 403."""
    if isinstance(error, errors.InvalidApiKey) and (path == "/v1/emails" or path.startswith("/v1/emails/")):
        return 403
    return error.status


def _allowed(error: Exception) -> Headers:
    """Starlette's Allow header (RFC 9110 section 15.5.6)."""
    headers = (error.headers or {}) if isinstance(error, HTTPException) else {}
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
