"""What a request says, read with suspicion: its body, its query, its idempotency key.

Everything here either returns a checked value or raises an ApiError; no input reaches anything deeper unchecked.
A body must be I-JSON (RFC 7493): UTF-8, no member twice, no lone surrogates, no NaN; and nested at most 200 deep.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from gateway import errors

T = TypeVar("T")

Headers = Sequence[tuple[bytes, bytes]]  # ASGI's: names in lower case

SMALL_BODY: Final = 262_144  # bytes; too few for MAX_MEMBERS to matter
MAX_MEMBERS: Final = 100_000  # of all objects of one body; a batch of 1,000 e-mails has some 20,000
MAX_ERRORS: Final = 100  # listed in one answer; a batch can hold thousands
MAX_FIELD_NAME: Final = 200  # characters of a field's name that are said back


# Bytes


async def body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body. PayloadTooLarge over `limit` bytes, before reading where its length is declared."""
    _refuse_declared_length(scope["headers"], limit)
    message = await receive()
    chunks = [_chunk(message)]
    size = len(chunks[0])
    while message.get("more_body") and size <= limit:
        message = await receive()
        chunks.append(_chunk(message))
        size += len(chunks[-1])
    if size > limit:
        raise _too_large(limit)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def capped(scope: Scope, receive: Receive, limit: int) -> Receive:
    """`receive` for handlers that read the body themselves, with the same limit."""
    _refuse_declared_length(scope["headers"], limit)
    size = 0

    async def counting() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise _too_large(limit)
        return message

    return counting


def replayed(raw: bytes, receive: Receive) -> Receive:
    """`receive` that gives the body, which was read already, once more; without it a second reader waits for ever."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": raw, "more_body": False}

    return again


def _refuse_declared_length(headers: Headers, limit: int) -> None:
    length = header(headers, b"content-length")
    if length is not None and length.isdigit() and (len(length) > 18 or int(length) > limit):
        raise _too_large(limit)


def _chunk(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    chunk: bytes = message.get("body", b"")
    return chunk


def _too_large(limit: int) -> errors.PayloadTooLarge:
    return errors.PayloadTooLarge(f"The body is larger than {limit:,} bytes.")


def header(headers: Headers, name: bytes) -> bytes | None:
    """The first value of the header `name` (lower case)."""
    for key, value in headers:
        if key == name:
            return value
    return None


# JSON


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object has a member twice")
    return members


def _constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is out of range")
    return number


def _decoder(members: Callable[[list[tuple[str, Any]]], dict[str, Any]]) -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=members, parse_constant=_constant, parse_float=_float)


_DECODER: Final = _decoder(_members)


def _counting_decoder() -> json.JSONDecoder:
    """For big bodies: each member may become an error, and a million errors fill the memory."""
    count = 0

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal count
        count += len(pairs)
        if count > MAX_MEMBERS:
            raise ValueError(f"it has over {MAX_MEMBERS:,} members")
        return _members(pairs)

    return _decoder(members)


def document(raw: bytes) -> Any:
    """The JSON value of a body. InvalidJson says why there is none."""
    decoder = _DECODER if len(raw) <= SMALL_BODY else _counting_decoder()
    try:
        return decoder.decode(raw.decode())
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except RecursionError:
        reason = "it is nested too deeply"
    except json.JSONDecodeError as error:
        reason = f"{error.msg[:1].lower()}{error.msg[1:]}, at line {error.lineno}, column {error.colno}"
    except ValueError as error:
        reason = "a number is too long" if "int_max_str_digits" in str(error) else str(error)
    raise errors.InvalidJson(f"The body is not valid JSON: {reason}.")


def validated(adapter: TypeAdapter[T], raw: bytes, value: Any) -> T:
    """The body `raw`, whose JSON value is `value`, as `adapter`'s type. 422 names each field that is wrong."""
    try:
        model = adapter.validate_json(raw, extra="forbid")
    except ValidationError as error:
        raise failed(error, value, whole="body") from None
    if b"\\u0000" in raw:  # raw ones are not JSON; the escape may itself be escaped, so look at the strings
        _refuse_nul(value)
    return model


def _refuse_nul(value: Any) -> None:
    """Postgres has no NUL in text, and mail has none either."""
    for field, text in _strings(value):
        if "\0" in text:
            raise errors.invalid(_shown(field).replace("\0", "\\u0000") or "body", "holds a NUL character")


def _strings(value: Any) -> Iterator[tuple[str, str]]:
    """Each string of a JSON value, member names among them, with its field: ("to[1]", "a@b.c")."""
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        field, item = waiting.pop()
        if isinstance(item, str):
            yield field, item
        elif isinstance(item, list):
            waiting.extend((f"{field}[{index}]", member) for index, member in enumerate(item))
        elif isinstance(item, dict):
            waiting.extend((_joined(field, name), member) for name, member in item.items())
            yield from ((_joined(field, name), name) for name in item)


# What was wrong


def failed(error: ValidationError, value: Any, whole: str) -> errors.ApiError:
    """The ApiError that says what pydantic found in `value`; `whole` names the value itself: "body", "query"."""
    details = error.errors(include_url=False, include_input=False)
    if details[0]["type"] == "json_invalid":  # what pydantic refuses beyond `document`: lone surrogates, deep nesting
        return errors.InvalidJson(f"The body is not valid JSON: {details[0]['ctx']['error']}.")
    found = _distinct([_located(detail, value, whole) for detail in details[: 2 * MAX_ERRORS]])
    missing = all(detail["type"] == "missing" for detail in details)
    kind = errors.MissingRequiredField if missing else errors.ValidationFailed
    return kind(_summary(found), errors=found[:MAX_ERRORS])


def _summary(found: Sequence[errors.FieldError]) -> str:
    said = "; ".join(f"{error.field}: {error.message}" for error in found[:3])
    return said if len(found) <= 3 else f"{said}; and {len(found) - 3} more"


def _located(detail: ErrorDetails, value: Any, whole: str) -> tuple[bool, errors.FieldError]:
    """What is wrong where; and whether it was found in one branch of a union, where other branches complain, too.

    pydantic's `loc` names union branches among the members; only what leads somewhere in `value` is a member.
    """
    field, branch = "", False
    missing = detail["type"] == "missing"
    for position, step in enumerate(detail["loc"]):
        last = position == len(detail["loc"]) - 1
        if isinstance(step, int) and isinstance(value, list | tuple) and step < len(value):
            field, value = f"{field}[{step}]", value[step]
        elif isinstance(step, str) and isinstance(value, Mapping) and (step in value or (missing and last)):
            field, value = _joined(field, step), value.get(step)
        else:
            branch = True
    return branch, errors.FieldError(field=_shown(field) or whole, message=_message(detail))


def _distinct(located: Sequence[tuple[bool, errors.FieldError]]) -> list[errors.FieldError]:
    """Each field once; of a union's branches only what the one that came furthest says."""
    furthest: dict[str, errors.FieldError] = {}
    for branch, error in located:
        deeper = branch and any(other.field.startswith((f"{error.field}[", f"{error.field}.")) for _, other in located)
        if not deeper:
            furthest.setdefault(error.field, error)
    return list(furthest.values())


_WORDS: Final = {"missing": "required", "extra_forbidden": "unknown field", "model_type": "must be an object"}


def _message(detail: ErrorDetails) -> str:
    if detail["type"] in _WORDS:
        return _WORDS[detail["type"]]
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    text = detail["msg"]
    return f"{text[:1].lower()}{text[1:]}"


def _joined(field: str, member: str) -> str:
    return f"{field}.{member}" if field else member


def _shown(field: str) -> str:
    return field if len(field) <= MAX_FIELD_NAME else f"{field[:MAX_FIELD_NAME]}…"


# Query and path


class Query:
    """The query string as a model. Unknown fields and repeated single ones are errors."""

    def __init__(self, model: Any) -> None:
        self._adapter: TypeAdapter[Any] = TypeAdapter(model)
        properties = self._adapter.json_schema().get("properties", {})
        self._lists = {name for name, schema in properties.items() if _takes_a_list(schema)}

    def read(self, pairs: Sequence[tuple[str, str]]) -> Any:
        value = self._gathered(pairs)
        try:
            return self._adapter.validate_python(value, extra="forbid")
        except ValidationError as error:
            raise failed(error, value, whole="query") from None

    def _gathered(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for name, text in pairs:
            if name in self._lists:
                value.setdefault(name, []).append(text)
            elif name in value:
                raise errors.invalid(_shown(name), "given more than once")
            else:
                value[name] = text
        return value


def _takes_a_list(schema: Mapping[str, Any]) -> bool:
    return any(option.get("type") == "array" for option in (schema, *schema.get("anyOf", ())))


def query_pairs(query_string: bytes) -> list[tuple[str, str]]:
    """The query string's fields in order, percent-decoded."""
    if not query_string:
        return []
    try:
        pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=200)
    except ValueError:
        raise errors.invalid("query", "too many fields") from None
    for name, text in pairs:
        if "\0" in name or "\0" in text:
            raise errors.invalid(_shown(name).replace("\0", "\\u0000"), "holds a NUL character")
    return pairs


_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def path_id(text: str) -> UUID:
    """An id from a path. One that cannot be an id is as unknown as one that nobody has."""
    if not _UUID.fullmatch(text):
        raise errors.NotFound
    return UUID(text)


def path_word(text: str) -> str:
    if _CONTROL.search(text):
        raise errors.NotFound
    return text


def path_number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise errors.NotFound
    return int(text)


# Idempotency

_KEY: Final = re.compile(rb"[\x20-\x7e]{1,255}")
_QUOTED: Final = re.compile(rb'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')  # RFC 8941 section 3.3.3
_ESCAPED: Final = re.compile(rb'\\(["\\])')


def idempotency_key(headers: Headers) -> str | None:
    """The Idempotency-Key, if there is one. `"k"` (an RFC 8941 string, as the header's draft wants it) is the key k."""
    values = [value.strip(b" \t") for name, value in headers if name == b"idempotency-key"]
    if not values:
        return None
    key = values[0]
    if key.startswith(b'"'):
        quoted = _QUOTED.fullmatch(key)
        key = _ESCAPED.sub(rb"\1", quoted[1]) if quoted else b""
    if len(values) > 1 or not _KEY.fullmatch(key):
        raise errors.InvalidIdempotencyKey
    return key.decode()


def fingerprint(value: Any, pairs: Sequence[tuple[str, str]] = (), named: Sequence[bytes | None] = ()) -> bytes:
    """SHA-256 of what a request asks for: its body (a JSON value, or raw bytes), its query and the headers that count.

    Spelling does not count: white space, the order of members, escapes.
    """
    content = hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else value
    headers = [text.decode("latin-1") if text is not None else None for text in named]
    canonical = msgspec.json.encode([content, sorted(pairs), headers], order="deterministic")
    return hashlib.sha256(canonical).digest()
