"""Declared operations: who may call them, what reaches their handlers, what is refused on the way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

import httpx2
import pytest
from pydantic import BaseModel, Field, JsonValue
from starlette.requests import Request
from starlette.responses import Response

from gateway import models
from gateway.web import api, edge, openapi, reading
from tests.web import sample
from tests.web.serving import client_of
from tests.web.test_edge import error_of

pytestmark = pytest.mark.anyio

LETTER = {"to": "a@b.c", "subject": "hello"}


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(sample.application()) as client:
        yield client


def key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


# Access


@pytest.mark.parametrize(
    ("caller", "method", "path", "status"),
    [
        ("pr_key_send", "POST", "/v1/letters", 201),
        ("pr_key_read", "POST", "/v1/letters", 403),
        ("pr_key_all", "POST", "/v1/letters", 201),
        ("pr_mbx_one", "POST", "/v1/letters", 403),
        ("pr_key_read", "GET", "/v1/letters", 200),
        ("pr_key_send", "GET", "/v1/letters", 200),
        ("pr_mbx_one", "GET", "/v1/letters", 200),
        ("pr_key_send", "GET", f"/v1/letters/{sample.LETTER}", 403),
        ("pr_mbx_one", "GET", f"/v1/letters/{sample.LETTER}", 403),
    ],
)
async def test_a_scope_that_the_operation_names_suffices_and_no_other(
    client: httpx2.AsyncClient, caller: str, method: str, path: str, status: int
) -> None:
    """Control: with `_authorize` left out, each 403 here came as 200 or 201."""
    content = json.dumps(LETTER) if method == "POST" else None
    answer = await client.request(method, path, content=content, headers=key(caller))
    assert answer.status_code == status
    assert status != 403 or error_of(answer)["name"] == "restricted_api_key"


async def test_who_is_unknown_is_refused_before_anything_is_read(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/v1/letters?unknown=1", content=b"{not json", headers=key("pr_key_stolen"))
    assert answer.status_code == 401


async def test_a_public_operation_asks_for_no_key(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/v1/hello", headers=key("nonsense"))).status_code == 200


# Paths


@pytest.mark.parametrize(
    "bad", ["x", "42", "%00", "01890a5dac96774bbcceb302099a8058", f"%7B{sample.LETTER}%7D", f"urn:uuid:{sample.LETTER}"]
)
async def test_an_id_that_cannot_be_one_is_as_unknown_as_one_that_nobody_has(
    client: httpx2.AsyncClient, bad: str
) -> None:
    with_id = {"x-request-id": "same"}
    unknown = await client.get(f"/v1/letters/{sample.ACCOUNT}", headers=with_id)
    answer = await client.get(f"/v1/letters/{bad}", headers=with_id)
    assert (answer.status_code, answer.content) == (404, unknown.content)
    kept = [(name, value) for name, value in answer.headers.multi_items() if name != "date"]
    assert kept == [(name, value) for name, value in unknown.headers.multi_items() if name != "date"]


async def test_a_control_character_in_a_path_is_not_found(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/v1/names/a%00b")).status_code == 404
    assert (await client.get("/v1/names/a%40b.c")).json() == {"values": {"name": "a@b.c"}}


async def test_a_literal_path_is_found_however_the_list_is_ordered(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/v1/names/newest")).json() == {"values": {"newest": True}}


# Bodies


@pytest.mark.parametrize(
    ("body", "name", "message", "fields"),
    [
        ({}, "missing_required_field", "to: required; subject: required", ["to", "subject"]),
        ({"to": "a@b.c"}, "missing_required_field", "subject: required", ["subject"]),
        ({"to": ["a@b.c", "x"], "subject": ""}, "validation_error", "to[1]: not an e-mail address", ["to[1]"]),
        ({"to": "x", "subject": ""}, "validation_error", "to: not an e-mail address", ["to"]),
        ({**LETTER, "colour": 1}, "validation_error", "colour: unknown field", ["colour"]),
        ({"colour": 1}, "validation_error", None, ["to", "subject", "colour"]),
        (
            {**LETTER, "attachments": [{"filename": "x" * 21}]},
            "validation_error",
            "attachments[0].filename: string should have at most 20 characters",
            ["attachments[0].filename"],
        ),
        (
            {**LETTER, "attachments": [{"filename": "x", "path": "/etc/passwd"}]},
            "validation_error",
            "attachments[0].path: unknown field",
            ["attachments[0].path"],
        ),
        (
            {**LETTER, "attachments": [{}]},
            "missing_required_field",
            "attachments[0].filename: required",
            ["attachments[0].filename"],
        ),
        ([], "validation_error", "body: must be an object", ["body"]),
        ("text", "validation_error", "body: must be an object", ["body"]),
        (None, "validation_error", "body: must be an object", ["body"]),
        ({**LETTER, "metadata": {"a": "\0"}}, "validation_error", "metadata.a: holds a NUL character", ["metadata.a"]),
        ({**LETTER, "metadata": {"\0": 1}}, "validation_error", None, ["metadata.\\u0000"]),
        ({**LETTER, "to": ["a@b.c", "a\0@b.c"]}, "validation_error", "to[1]: holds a NUL character", ["to[1]"]),
    ],
)
async def test_what_is_wrong_with_a_body_is_said_field_by_field(
    client: httpx2.AsyncClient, body: Any, name: str, message: str | None, fields: list[str]
) -> None:
    answer = await client.post("/v1/letters", content=json.dumps(body))
    error = error_of(answer)
    assert (answer.status_code, error["name"]) == (422, name)
    assert [found["field"] for found in error["errors"]] == fields
    assert message is None or error["message"] == message


async def test_a_thousand_errors_are_told_as_a_hundred(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/v1/emails", json=[{}] * 1000)
    assert len(error_of(answer)["errors"]) == reading.MAX_ERRORS
    assert len(answer.content) < 20_000


async def test_a_body_over_the_limit_is_413_whether_its_length_is_declared_or_not(client: httpx2.AsyncClient) -> None:
    """Control: with the running count in `reading.body` left out, the undeclared one was taken (400, not 413)."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100_000

    declared = await client.post("/v1/letters", content=b"x" * 2_000_000)
    undeclared = await client.post("/v1/letters", content=chunks())
    for answer in (declared, undeclared):
        assert (answer.status_code, error_of(answer)["name"]) == (413, "payload_too_large")


async def test_an_operation_has_its_own_limit(client: httpx2.AsyncClient) -> None:
    for path in ("/v1/raw", "/v1/streamed"):
        assert (await client.post(path, content=b"\xff" * 1000)).json() == {"values": {"bytes": 1000}}
        assert (await client.post(path, content=b"\xff" * 1001)).status_code == 413
    assert api.send_body_limit(26_214_400) == 26_214_400 // 3 * 4 + 1 + 65_536


async def test_where_no_body_is_wanted_none_an_empty_object_or_null_will_do(client: httpx2.AsyncClient) -> None:
    path = f"/v1/letters/{sample.LETTER}/cancel"
    for body in (b"", b"{}", b"null", b" {} "):
        answer = await client.post(path, content=body)
        assert (answer.status_code, answer.json()) == (200, {"values": {"again": body.decode()}})
    assert error_of(await client.post(path, content=b'{"a":1}'))["message"] == "a: unknown field"
    assert (await client.post(path, content=b"[]")).status_code == 422


async def test_nothing_to_say_is_204_without_content(client: httpx2.AsyncClient) -> None:
    answer = await client.delete(f"/v1/letters/{sample.LETTER}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-length" not in answer.headers


async def test_times_come_in_with_any_offset_and_go_out_in_utc(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/v1/letters", json={**LETTER, "at": "2026-01-31T12:00:00.5+02:00"})
    assert answer.json()["at"] == "2026-01-31T10:00:00.500000Z"


@pytest.mark.parametrize(
    "bad", ["2026-01-31", "1769860800", 1769860800, "2026-01-31T12:00:00", "0001-01-01T00:00:00+14:00", "tomorrow", ""]
)
async def test_what_is_no_rfc_3339_time_is_refused(client: httpx2.AsyncClient, bad: Any) -> None:
    answer = await client.post("/v1/letters", json={**LETTER, "at": bad})
    assert [found["field"] for found in error_of(answer)["errors"]] == ["at"]


# Queries


async def test_a_query_is_read_as_its_model_says(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/v1/letters?limit=5&from=a%40b.c&types=x,y&types=z&seen=true&since=2026-01-31T12:00:00Z")
    told = answer.json()["values"]
    assert (told["limit"], told["from"], told["types"], told["seen"]) == (5, "a@b.c", ["x", "y", "z"], True)
    assert (told["since"], told["order"], told["cursor"]) == ("2026-01-31T12:00:00Z", "desc", None)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("colour=1", "colour"),
        ("sender=a", "sender"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=ten", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=2", "limit"),
        ("order=up", "order"),
        ("since=yesterday", "since"),
        ("cursor=" + "a" * 513, "cursor"),
        ("from=%00", "from"),
        ("%00=1", "\\u0000"),
        ("&".join(f"a{n}=1" for n in range(300)), "query"),
    ],
)
async def test_a_query_field_that_is_wrong_is_named(client: httpx2.AsyncClient, query: str, field: str) -> None:
    answer = await client.get(f"/v1/letters?{query}")
    assert answer.status_code == 422
    assert [found["field"] for found in error_of(answer)["errors"]] == [field]


async def test_an_operation_without_query_fields_refuses_all(client: httpx2.AsyncClient) -> None:
    answer = await client.get(f"/v1/letters/{sample.LETTER}?fields=id")
    assert error_of(answer)["message"] == "fields: unknown field"


# Idempotency


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("k", "k"),
        ("x" * 255, "x" * 255),
        ("two words", "two words"),
        ('"k"', "k"),
        (r'"a\"b\\c"', r"a\c".replace("a", 'a"b')),
        ('a"b', 'a"b'),
    ],
)
async def test_an_idempotency_key_is_kept_and_its_quoted_form_is_the_same_key(
    client: httpx2.AsyncClient, given: str, kept: str
) -> None:
    answer = await client.post("/v1/letters", json=LETTER, headers={"idempotency-key": given})
    assert answer.json()["key"] == kept


@pytest.mark.parametrize("given", ["", "x" * 256, '""', '"', '"open', '"a"b"', r'"\a"', '"k";p=1', "caf\u00e9", "a\tb"])
async def test_another_idempotency_key_is_refused(client: httpx2.AsyncClient, given: str) -> None:
    answer = await client.post("/v1/letters", json=LETTER, headers={b"idempotency-key": given.encode("latin-1")})
    assert (answer.status_code, error_of(answer)["name"]) == (400, "invalid_idempotency_key")


async def test_two_idempotency_keys_are_refused(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/v1/letters", json=LETTER, headers=[("idempotency-key", "a"), ("idempotency-key", "b")])
    assert answer.status_code == 400


async def test_the_fingerprint_is_of_what_is_asked_not_of_how_it_is_spelt(client: httpx2.AsyncClient) -> None:
    async def fingerprint(body: str, **headers: str) -> str:
        answer = await client.post("/v1/letters", content=body, headers={"idempotency-key": "k", **headers})
        found: str = answer.json()["fingerprint"]
        assert len(bytes.fromhex(found)) == hashlib.sha256().digest_size
        return found

    first = await fingerprint('{"to":"a@b.c","subject":"caf\u00e9"}')
    assert await fingerprint('{ "subject": "caf\\u00e9",\n"to": "a@b.c" }') == first
    assert await fingerprint('{"to":"a@b.c","subject":"cafe"}') != first
    assert await fingerprint('{"to":["a@b.c"],"subject":"caf\u00e9"}') != first
    assert await fingerprint('{"to":"a@b.c","subject":"caf\u00e9"}', **{"x-batch-validation": "strict"}) != first


async def test_without_a_key_there_is_no_fingerprint(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/v1/letters", json=LETTER)
    assert (answer.json()["key"], answer.json()["fingerprint"]) == (None, None)


async def test_a_handler_may_answer_with_bytes_and_headers_of_its_own(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/v1/letters", json={**LETTER, "subject": "replay"})
    assert (answer.status_code, answer.content) == (201, b'{"replayed":true}')
    assert answer.headers["idempotent-replayed"] == "true"
    assert answer.headers["content-type"] == "application/json"


# Declarations


class Loose(BaseModel):
    name: str


class Unbounded(models.Input):
    words: list[str]


class BesideAUnion(models.Input):
    words: Annotated[str | list[str], Field(max_length=5)]


class Long(models.Input):
    numbers: Annotated[list[int], Field(max_length=1_000_000)]


class Quick(models.Input):
    numbers: Annotated[list[int], Field(max_length=1_000_000, fail_fast=True)]
    anything: dict[str, JsonValue] = Field({})


async def plain() -> None: ...
async def with_caller(caller: models.Caller) -> None: ...
async def with_key(idempotency_key: str | None) -> None: ...
async def with_stranger(stranger: str) -> None: ...
async def with_float(id: float) -> None: ...
async def with_id(id: UUID) -> None: ...
async def with_loose(body: Loose) -> None: ...
async def with_unbounded(body: Unbounded) -> None: ...
async def with_union(body: BesideAUnion) -> None: ...
async def with_long(body: Long) -> None: ...
async def with_quick(body: Quick) -> None: ...
async def with_bytes(body: bytes) -> None: ...
async def with_request_and_bytes(request: Request, body: bytes) -> None: ...


async def counting(request: Request) -> Response:
    return Response(str(len(await request.body())))


async def test_an_operation_may_read_its_body_itself_within_its_limit() -> None:
    operation = api.op("POST", "/x", counting, public=True, reads_body=True, max_body_bytes=1000)
    described = api.Api([operation], authenticate=sample.authenticate)
    async with client_of(edge.application(described.routes())) as client:
        answer = await client.post("/v1/x", content=b"x" * 1000)
        assert (answer.status_code, answer.text) == (200, "1000")
        assert error_of(await client.post("/v1/x", content=b"x" * 1001))["name"] == "payload_too_large"


async def test_an_operation_that_is_not_available_is_described_and_not_there() -> None:
    operation = api.op("POST", "/x", counting, public=True, reads_body=True, available=False)
    described = api.Api([operation], authenticate=sample.authenticate)
    paths = openapi.document(described, title="", version="")["paths"]
    assert "requestBody" in paths["/v1/x"]["post"]
    async with client_of(edge.application(described.routes())) as client:
        assert (await client.post("/v1/x")).status_code == (await client.get("/v1/x")).status_code == 404


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (api.op("GET", "/x", plain), "either a scope or public"),
        (api.op("GET", "/x", plain, scope="read", public=True), "either a scope or public"),
        (api.op("GET", "/x", plain, scope="reed"), "unknown scopes"),
        (api.op("POST", "/x", plain, scope={"send", "read"}), "changes something"),
        (api.op("GET", "/x", with_caller, public=True), "no caller"),
        (api.op("POST", "/x", with_key, scope="send"), "go together"),
        (api.op("POST", "/x", plain, scope="send", idempotent=True), "go together"),
        (api.op("GET", "/x", with_stranger, scope="read"), "stranger"),
        (api.op("GET", "/x/{id}", plain, scope="read"), "must take"),
        (api.op("GET", "/x/{id}", with_float, scope="read"), "must take"),
        (api.op("POST", "/x", with_loose, scope="send"), "unknown fields"),
        (api.op("POST", "/x", with_unbounded, scope="send"), "max_length"),
        (api.op("POST", "/x", with_union, scope="send"), "max_length"),
        (api.op("POST", "/x", with_long, scope="send"), "fail_fast"),
        (api.op("POST", "/x", with_bytes, scope="send"), "consumes"),
        (api.op("POST", "/x", plain, scope="send", reads_body=True), "itself"),
        (api.op("POST", "/x", with_request_and_bytes, scope="send", reads_body=True, consumes="x/y"), "itself"),
    ],
)
def test_a_wrong_declaration_stops_the_process(operation: api.Operation, message: str) -> None:
    with pytest.raises(api.DeclarationError, match=message):
        api.Api([operation], authenticate=sample.authenticate)


def test_what_is_bounded_may_be_declared() -> None:
    declared = [api.op("POST", "/x", with_quick, scope="send"), api.op("GET", "/x/{id}", with_id, scope="read")]
    assert len(api.Api(declared, authenticate=sample.authenticate).plans) == 2


def test_an_operation_cannot_be_declared_twice() -> None:
    with pytest.raises(api.DeclarationError, match="twice"):
        api.Api([api.op("GET", "/x", plain, public=True)] * 2, authenticate=sample.authenticate)
