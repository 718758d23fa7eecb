"""Operations: typed handlers, declared in lists, run as Starlette routes.

A module of the API declares what it offers in one list,

    [
        api.op("POST", "/mailboxes", self.create, scope="mailboxes", status=201, idempotent=True, tags=["Mailboxes"]),
        api.op("GET", "/mailboxes/{mailbox}", self.get, scope={"mailboxes", "read"}, mailbox_token=True, …),
    ]

and handlers ask for what they need by the names of their parameters:

    request                     starlette.requests.Request
    caller: models.Caller       who calls (not on public operations)
    body: SomeInput             the JSON body; `bytes` for a body that is not JSON (`consumes`)
    query: SomeQuery            the query string
    idempotency_key: str | None, fingerprint: bytes | None     where `idempotent`; both None without the header
    anything else               a parameter of the path: UUID, str or int

They return a model (of the annotated type), a Starlette Response, a `models.Answer`, or None (204). What they raise,
the edge answers. `Api` checks every declaration when it is made, so that a mistake stops the process, not a request.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import structlog
from pydantic import BaseModel, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, compile_path
from starlette.types import Receive, Scope, Send

from gateway import errors, models
from gateway.web import edge, origins, reading

JSON: Final = "application/json"
MEBIBYTE: Final = 1_048_576

Authenticate = Callable[[Request], Awaitable[models.Caller]]  # raises MissingApiKey or InvalidApiKey
Handler = Callable[..., Awaitable[Any]]


def send_body_limit(max_message_bytes: int) -> int:
    """`max_body_bytes` of an operation whose body holds a whole message: base64 takes a third more."""
    return max_message_bytes * 4 // 3 + 65_536


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path, as declared."""

    method: str
    path: str  # below the API's prefix: "/mailboxes/{mailbox}"
    handler: Handler
    scope: str | Collection[str] = field(default=(), kw_only=True)  # any one of them suffices; `admin` always does
    public: bool = field(default=False, kw_only=True)  # no key is asked for; then there is no scope
    mailbox_token: bool = field(default=False, kw_only=True)  # a mailbox's token may call it; the handler checks which
    status: int = field(default=200, kw_only=True)  # of success; 204, whatever this is, where the handler returns None
    idempotent: bool = field(default=False, kw_only=True)  # takes Idempotency-Key
    tags: Sequence[str] = field(default=(), kw_only=True)  # the first is the operation's chapter in the docs
    errors: Sequence[type[errors.ApiError]] = field(default=(), kw_only=True)  # beyond those that every one has
    max_body_bytes: int = field(default=MEBIBYTE, kw_only=True)
    consumes: str = field(default=JSON, kw_only=True)  # the body's media type
    produces: str = field(default=JSON, kw_only=True)  # the answer's, where the handler returns a Response
    returns: Any = field(default=None, kw_only=True)  # the answer's model, where the handler returns it as bytes
    reads_body: bool = field(default=False, kw_only=True)  # the handler reads `request` itself, within max_body_bytes
    available: bool = field(default=True, kw_only=True)
    """False: a setting is missing for it; it is described, and answered as if it were not there."""
    headers: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    """Request headers that change what is done, with a description each; they count in the fingerprint."""

    @property
    def scopes(self) -> frozenset[str]:
        return frozenset((self.scope,) if isinstance(self.scope, str) else self.scope)

    @property
    def title(self) -> str:
        return f"{self.method} {self.path}"


op = Operation  # reads well in lists: api.op("POST", …)


class DeclarationError(TypeError):
    """An operation is declared wrongly."""


# From declaration to plan

_OURS: Final = frozenset(("request", "caller", "body", "query", "idempotency_key", "fingerprint", "origin"))
_PATH_TYPES: Final[dict[Any, Callable[[str], Any]]] = {
    UUID: reading.path_id,
    str: reading.path_word,
    int: reading.path_number,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """An operation with everything about its handler looked up once."""

    operation: Operation
    status: int  # of success: 204 where the handler returns nothing
    wants: frozenset[str]  # names of the handler's parameters
    path: Mapping[str, Callable[[str], Any]]  # parameters of the path, each with what reads it
    path_types: Mapping[str, Any]
    query: reading.Query | None
    query_model: Any
    body: TypeAdapter[Any] | None  # None: no body, or one that is not JSON
    body_may_be_empty: bool  # then {} is meant: every field has a default
    result: TypeAdapter[Any] | None  # None: the handler answers with bytes, or nothing


class Nothing(models.Input):
    """The body of an operation that takes none."""


def plan(operation: Operation) -> Plan:
    """Look everything up. DeclarationError says what is wrong with the declaration."""
    hints = typing.get_type_hints(operation.handler, include_extras=True)
    returned = hints.pop("return", None)
    names = list(inspect.signature(operation.handler).parameters)
    in_path = list(compile_path(operation.path)[2])
    _check_access(operation, names)
    _check_parameters(operation, names, hints, in_path)
    body = _body_type(operation, hints)
    adapter = TypeAdapter(body) if body is not None else None
    if adapter is not None:
        _check_lists(operation, adapter.core_schema)
    return Plan(
        operation=operation,
        status=204 if returned is type(None) else operation.status,
        wants=frozenset(names),
        path={name: _PATH_TYPES[hints[name]] for name in in_path},
        path_types={name: hints[name] for name in in_path},
        query=reading.Query(hints["query"]) if "query" in hints else None,
        query_model=hints.get("query"),
        body=adapter,
        body_may_be_empty=_all_optional(body),
        result=_result(operation, returned),
    )


def _check_access(operation: Operation, names: Sequence[str]) -> None:
    scopes = operation.scopes
    if bool(scopes) == operation.public:
        raise DeclarationError(f"{operation.title} must have either a scope or public=True")
    if not scopes <= models.SCOPES:
        raise DeclarationError(f"{operation.title} names unknown scopes: {sorted(scopes - models.SCOPES)}")
    if "read" in scopes and operation.method != "GET":
        raise DeclarationError(f"{operation.title} changes something, so that `read` cannot suffice")
    if operation.public and ("caller" in names or "origin" in names or operation.mailbox_token):
        raise DeclarationError(f"{operation.title} is public: there is no caller")


def _check_parameters(
    operation: Operation, names: Sequence[str], hints: Mapping[str, Any], in_path: Sequence[str]
) -> None:
    if unknown := set(names) - _OURS - set(in_path):
        raise DeclarationError(f"the handler of {operation.title} asks for {sorted(unknown)}, which nothing provides")
    if missing := [name for name in in_path if hints.get(name) not in _PATH_TYPES]:
        raise DeclarationError(f"the handler of {operation.title} must take {missing} as UUID, str or int")
    if operation.idempotent != ("idempotency_key" in names):
        raise DeclarationError(f"{operation.title}: `idempotent` and the parameter idempotency_key go together")
    for name in ("body", "query"):
        _check_forbids_unknown(operation, name, hints.get(name))


def _check_forbids_unknown(operation: Operation, name: str, model: Any) -> None:
    """Checked here so that the OpenAPI document says the same as validation does."""
    if isinstance(model, type) and issubclass(model, BaseModel) and model.model_config.get("extra") != "forbid":
        raise DeclarationError(f"the {name} of {operation.title} must refuse unknown fields: derive it from Input")


def _body_type(operation: Operation, hints: Mapping[str, Any]) -> Any:
    body = hints.get("body")
    if operation.reads_body:
        if body is not None or "request" not in hints:
            raise DeclarationError(f"{operation.title} reads its body itself: it takes `request`, and no `body`")
        return None
    if body is bytes or operation.consumes != JSON:
        if body not in (None, bytes) or operation.consumes == JSON:
            raise DeclarationError(f"{operation.title}: a body of bytes goes with `consumes`, a model with JSON")
        return None
    if body is None and operation.method not in ("GET", "DELETE"):
        return Nothing | None  # some clients send {} or null where nothing is wanted
    return body


def _all_optional(body: Any) -> bool:
    union = typing.get_origin(body) in (typing.Union, types.UnionType)
    options = [option for option in typing.get_args(body) if option is not types.NoneType] if union else [body]
    if len(options) != 1 or not (isinstance(options[0], type) and issubclass(options[0], BaseModel)):
        return False
    return not any(found.is_required() for found in options[0].model_fields.values())


_LONG_LIST: Final = 10_000


def _check_lists(operation: Operation, schema: Any) -> None:
    """Every list in a body is bounded: pydantic keeps half a kilobyte for each item that is wrong.

    The bound must stand on the list itself; beside a union it is looked at only after all items.
    """
    for found in _lists(schema):
        length = found.get("max_length")
        if length is None or (length > _LONG_LIST and not found.get("fail_fast")):
            raise DeclarationError(
                f"a list in the body of {operation.title} needs Field(max_length=…) on the list itself; "
                f"above {_LONG_LIST:,} also fail_fast=True"
            )


def _lists(schema: Any) -> Iterable[Mapping[str, Any]]:
    if isinstance(schema, Mapping):
        if schema.get("type") in ("list", "set", "frozenset") or schema.get("variadic_item_index") is not None:
            yield schema
        skipped = ("metadata", "serialization", "python_schema")  # bodies are validated as JSON
        parts: Iterable[Any] = [part for key, part in schema.items() if key not in skipped]
    else:
        parts = schema if isinstance(schema, list | tuple) else ()
    for part in parts:
        yield from _lists(part)


def _result(operation: Operation, returned: Any) -> TypeAdapter[Any] | None:
    if operation.returns is not None:
        return TypeAdapter(operation.returns)
    union = typing.get_origin(returned) in (typing.Union, types.UnionType)
    options = typing.get_args(returned) if union else (returned,)
    shapes = [option for option in options if not _is_bytes_or_nothing(option)]
    shape: Any = typing.Union[tuple(shapes)] if shapes else None  # noqa: UP007 - made of a list
    return TypeAdapter(shape) if shapes else None


def _is_bytes_or_nothing(option: Any) -> bool:
    if option in (None, types.NoneType, models.Answer):
        return True
    return isinstance(option, type) and issubclass(option, Response)


# Running


class Endpoint:
    """All methods of one path, as the ASGI application of its route."""

    def __init__(self, path: str, plans: Sequence[Plan], authenticate: Authenticate, trusted: origins.Networks) -> None:
        self._path = path
        self._trusted = trusted
        self._plans = {found.operation.method: found for found in plans}
        if "GET" in self._plans:
            self._plans["HEAD"] = self._plans["GET"]  # RFC 9110 section 9.3.2; the server drops the content
        self._allow = ", ".join(sorted(self._plans)).encode()
        self._authenticate = authenticate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        current = edge.exchange(scope)
        current.route = self._path
        found = self._plans.get(scope["method"])
        if found is None:
            current.headers.append((b"allow", self._allow))  # RFC 9110 section 15.5.6
            raise errors.MethodNotAllowed
        if found.operation.public:
            await _run(found, None, scope, receive, send)
            return
        caller = await self._authenticate(Request(scope, receive))
        current.account_id = caller.account_id
        _authorize(found.operation, caller)
        if "origin" in found.wants:
            current.origin = origins.of(scope, caller, self._trusted)
        bound = structlog.contextvars.bind_contextvars(account_id=str(caller.account_id))
        try:
            await _run(found, caller, scope, receive, send)
        finally:
            structlog.contextvars.reset_contextvars(**bound)


def _authorize(operation: Operation, caller: models.Caller) -> None:
    if caller.mailbox_id is not None and not operation.mailbox_token:
        raise errors.RestrictedApiKey("A mailbox's token cannot do this: use an API key.")
    if caller.mailbox_id is None and not caller.has_any(operation.scopes):
        needed = " or ".join(sorted(operation.scopes | {"admin"}))
        raise errors.RestrictedApiKey(f"The API key may not do this: it needs the scope {needed}.")


async def _run(found: Plan, caller: models.Caller | None, scope: Scope, receive: Receive, send: Send) -> None:
    arguments: dict[str, Any] = {name: read(scope["path_params"][name]) for name, read in found.path.items()}
    if caller is not None and "caller" in found.wants:
        arguments["caller"] = caller
    if "origin" in found.wants:
        arguments["origin"] = edge.exchange(scope).origin
    raw = await _read_request(found, scope, receive, arguments)
    if "request" in found.wants:
        arguments["request"] = Request(scope, _again(found, raw, scope, receive), send)
    result = await found.operation.handler(**arguments)
    if isinstance(result, Response):
        await result(scope, receive, send)
    else:
        await _send(_answer(found, result), send)


async def _read_request(found: Plan, scope: Scope, receive: Receive, arguments: dict[str, Any]) -> bytes | None:
    """Check headers, query and body, in this order, and put into `arguments` what the handler wants of them.

    The body's bytes, if it was read.
    """
    operation, headers = found.operation, scope["headers"]
    key = reading.idempotency_key(headers) if operation.idempotent else None
    pairs = reading.query_pairs(scope["query_string"])
    if found.query is not None:
        arguments["query"] = found.query.read(pairs)
    elif pairs:
        raise errors.invalid(pairs[0][0][: reading.MAX_FIELD_NAME] or "query", "unknown field")
    raw = await reading.body(scope, receive, operation.max_body_bytes) if _has_body(found) else None
    document = _read_body(found, raw, arguments) if raw is not None else None
    if operation.idempotent:
        arguments["idempotency_key"] = key
    if "fingerprint" in found.wants:
        named = [reading.header(headers, name.lower().encode()) for name in operation.headers]
        arguments["fingerprint"] = reading.fingerprint(document, pairs, named) if key is not None else None
    return raw


def _has_body(found: Plan) -> bool:
    return found.body is not None or "body" in found.wants


def _read_body(found: Plan, raw: bytes, arguments: dict[str, Any]) -> Any:
    """The body as it was sent, a JSON value or bytes; as the handler wants it, it goes into `arguments`."""
    if found.body is None:
        arguments["body"] = raw
        return raw
    text = raw if raw or not found.body_may_be_empty else b"{}"
    document = reading.document(text)
    body = reading.validated(found.body, text, document)
    if "body" in found.wants:
        arguments["body"] = body
    return document


def _again(found: Plan, raw: bytes | None, scope: Scope, receive: Receive) -> Receive:
    """What the handler's own `request.body()` or `request.stream()` receives."""
    if raw is not None:
        return reading.replayed(raw, receive)
    return reading.capped(scope, receive, found.operation.max_body_bytes)


def _answer(found: Plan, result: Any) -> models.Answer:
    if isinstance(result, models.Answer):
        return result
    if result is None:
        return models.Answer(status=204, body=b"")
    if found.result is None:
        raise TypeError(f"the handler of {found.operation.title} returned a {type(result).__name__}, unannounced")
    return models.Answer(status=found.operation.status, body=found.result.dump_json(result, by_alias=True))


async def _send(answer: models.Answer, send: Send) -> None:
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    if answer.body and reading.header(headers, b"content-type") is None:
        headers.append((b"content-type", b"application/json"))
    if answer.status != 204:  # RFC 9110 section 8.6
        headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


class Api:
    """All operations: the one list, checked."""

    def __init__(
        self,
        operations: Iterable[Operation],
        *,
        authenticate: Authenticate,
        prefix: str = "/v1",
        trusted: origins.Networks = (),  # load balancers, who may say for whom they ask
    ) -> None:
        self.prefix = prefix
        self.plans = [plan(operation) for operation in operations]
        self._authenticate = authenticate
        self._trusted = trusted
        self._refuse_doubles()

    def routes(self, authenticate: Authenticate | None = None) -> list[Route]:
        """One route a path. Literal segments come before parameters, so that no order of declaration hides one.

        `authenticate`: in place of that of the API, for those who come another way."""
        authenticate = authenticate or self._authenticate
        paths: dict[str, list[Plan]] = {}
        for found in (plan for plan in self.plans if plan.operation.available):
            paths.setdefault(self.prefix + found.operation.path, []).append(found)
        ordered = sorted(paths, key=lambda path: [segment.startswith("{") for segment in path.split("/")])
        return [Route(path, Endpoint(path, paths[path], authenticate, self._trusted)) for path in ordered]

    def _refuse_doubles(self) -> None:
        seen: set[str] = set()
        for found in self.plans:
            if found.operation.title in seen:
                raise DeclarationError(f"{found.operation.title} is declared twice")
            seen.add(found.operation.title)
