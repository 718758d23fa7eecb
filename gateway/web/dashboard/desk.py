"""The desk: where a page asks the API to do something, in this process, as the key that signed in.

The operations are those of the API, each behind its own checks; a call costs the key one request of its rate.
"""

from __future__ import annotations

import asyncio
import json
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Router
from starlette.types import Message, Receive, Scope, Send

from gateway import errors, models
from gateway.web import access, api, edge

log = structlog.get_logger(__name__)

_CALLER: Final = "postroom.dashboard.caller"
_EXCHANGE: Final = "postroom.exchange"
_FROM: Final = (b"x-forwarded-for", b"user-agent")  # what of the browser's request the operation is told

Query = Mapping[str, Any]  # None is left out; lists are repeated


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the API answered."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    content: bytes

    @property
    def is_good(self) -> bool:
        return self.status < 400

    @property
    def json(self) -> Any:
        return json.loads(self.content) if self.content else None


class Refused(Exception):
    """The API said no."""

    def __init__(self, answer: Answer) -> None:
        self.status = answer.status
        said = answer.json or {}
        self.name: str = said.get("name", "")  # of the contract's: "not_found"
        self.message: str = said.get("message", "")  # for a person
        self.fields: dict[str, str] = {one["field"]: one["message"] for one in said.get("errors", ())}
        self.retry_after: str = next((v.decode() for name, v in answer.headers if name == b"retry-after"), "")
        self.body: dict[str, Any] = said
        super().__init__(self.message)


class Operations:
    """The API's routes, for callers who are known already."""

    def __init__(self, described: api.Api, access: access.Access) -> None:
        self._access = access
        self.prefix = described.prefix
        self._router = Router(routes=described.routes(self._known))
        self._router.redirect_slashes = False
        self._router.default = _nothing_there

    async def _known(self, request: Request) -> models.Caller:
        caller: models.Caller = request.scope[_CALLER]
        self._access.count(caller, edge.exchange(request.scope))
        return caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises what the operation raises."""
        await self._router(scope, receive, send)


async def _nothing_there(_: Scope, __: Receive, ___: Send) -> None:
    raise errors.NotFound


class Desk:
    """One caller's, for one request."""

    def __init__(self, operations: Operations, caller: models.Caller, scope: Scope) -> None:
        self._operations = operations
        self._scope = scope  # of the page's own request
        self.caller = caller

    async def get(self, path: str, **query: Any) -> Any:
        """The JSON value. Raises Refused. A field whose name is a keyword of Python's ends with `_`."""
        return await self._wanted("GET", path, query)

    async def post(self, path: str, body: Any = None, *, once: str = "", **query: Any) -> Any:
        """`once`: the Idempotency-Key; empty = none. Raises Refused."""
        return await self._wanted("POST", path, query, body, once)

    async def put(self, path: str, body: Any = None, **query: Any) -> Any:
        """Raises Refused."""
        return await self._wanted("PUT", path, query, body)

    async def patch(self, path: str, body: Any = None, **query: Any) -> Any:
        """Raises Refused."""
        return await self._wanted("PATCH", path, query, body)

    async def delete(self, path: str, body: Any = None, **query: Any) -> Any:
        """Raises Refused."""
        return await self._wanted("DELETE", path, query, body)

    async def _wanted(self, method: str, path: str, query: Query, body: Any = None, once: str = "") -> Any:
        answer = await self.ask(
            method, path, query={name.rstrip("_"): v for name, v in query.items()}, body=body, once=once
        )
        if not answer.is_good:
            raise Refused(answer)
        return answer.json

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Any = None,
        raw: tuple[str, bytes] | None = None,
        once: str = "",
    ) -> Answer:
        """The whole answer, whatever it is. `raw`: a body that is not JSON, behind its media type."""
        kind, content = raw or ("application/json", json.dumps(body).encode() if body is not None else b"")
        headers = [(b"content-type", kind.encode())] if content else []
        headers += [(b"idempotency-key", once.encode("latin-1", "replace"))] if once else []
        scope = self.scope(method, path, query or {}, headers)
        collected = _Collected()
        try:
            await self._operations(scope, _giving(content), collected)
        except Exception as error:  # as at the edge: whatever it was, it is answered in the contract's shape
            known = edge.api_error(error)
            if isinstance(known, errors.InternalError):
                log.exception("an operation failed for the dashboard", method=method)
            status, rendered, text = edge.rendered(known, scope)
            extra = edge.exchange(scope).headers
            return Answer(status=status, headers=(*rendered, *extra), content=text)
        return collected.answer(edge.exchange(scope).headers)

    def passed_on(
        self,
        path: str,
        query: Query | None = None,
        *,
        headers: Sequence[tuple[bytes, bytes]] = (),
        instead: Mapping[str, str] | None = None,
    ) -> Response:
        """A GET's answer as it is, streamed, not gathered; `instead`: headers in place of the operation's."""
        scope = self.scope("GET", path, query or {}, headers)
        return PassedOn(self._operations, scope, instead or {})

    def scope(self, method: str, path: str, query: Query, headers: Sequence[tuple[bytes, bytes]]) -> Scope:
        """What the operation sees of the request."""
        whole, own = self._operations.prefix + path, edge.exchange(self._scope)
        pairs = {name: _text(value) for name, value in query.items() if value is not None}
        told = [(name, value) for name, value in self._scope["headers"] if name in _FROM]
        return {
            "type": "http",
            "asgi": self._scope["asgi"],
            "http_version": "1.1",
            "method": method,
            "scheme": self._scope["scheme"],
            "path": whole,
            "raw_path": urllib.parse.quote(whole).encode(),
            "root_path": "",
            "query_string": urllib.parse.urlencode(pairs, doseq=True).encode(),
            "headers": [*told, *headers],
            "client": self._scope.get("client"),
            "server": self._scope.get("server"),
            "extensions": {},
            _CALLER: self.caller,
            _EXCHANGE: edge.Exchange(request_id=own.request_id, account_id=self.caller.account_id),
        }


class PassedOn(Response):
    """The operation's answer, on its way to the browser."""

    def __init__(self, operations: Operations, scope: Scope, instead: Mapping[str, str]) -> None:
        super().__init__()
        self._operations = operations
        self._inner = scope
        self._instead = [(name.lower().encode(), value.encode()) for name, value in instead.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        replaced = {name for name, _ in self._instead}

        async def pass_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message.get("headers", ()) if name not in replaced]
                message = {**message, "headers": [*kept, *self._instead]}
            await send(message)

        await self._operations(self._inner, receive, pass_on)


class _Collected:
    """An ASGI `send` that keeps what it is given."""

    def __init__(self) -> None:
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._chunks: list[bytes] = []

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status, self._headers = message["status"], list(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            self._chunks.append(message.get("body", b""))

    def answer(self, extra: edge.Headers) -> Answer:
        return Answer(status=self._status, headers=(*self._headers, *extra), content=b"".join(self._chunks))


def _giving(content: bytes) -> Receive:
    waiting: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()  # nobody hangs up here
        return waiting.pop()

    return receive


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value
