"""JSON as attackers write it: always an answer in the contract's shape, never a 500."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from gateway import errors
from gateway.web import reading
from tests.web import sample
from tests.web.serving import client_of
from tests.web.test_edge import error_of

pytestmark = pytest.mark.anyio

DEEP = 100_000


def letter(**members: str) -> bytes:
    """A valid letter but for `members`, which are JSON text."""
    parts = {"to": '"a@b.c"', "subject": '"s"', **members}
    return ("{" + ",".join(f'"{name}":{text}' for name, text in parts.items()) + "}").encode()


INVALID_JSON = {
    "empty": b"",
    "white space": b" \n",
    "truncated": b'{"to":',
    "trailing comma": b'{"to":"a@b.c",}',
    "trailing text": letter() + b"x",
    "two values": letter() + letter(),
    "single quotes": b"{'to':'a@b.c'}",
    "comment": b"{/* */}",
    "unquoted name": b"{to:1}",
    "NaN": letter(weight="NaN"),
    "NaN in metadata": letter(metadata='{"a":NaN}'),
    "Infinity": letter(metadata='{"a":[Infinity]}'),
    "-Infinity": letter(metadata='{"a":-Infinity}'),
    "1e999": letter(metadata='{"a":1e999}'),
    "-1e999": letter(weight="-1e999"),
    "5,000 digits": letter(size="1" * 5000),
    "5,000 digits in metadata": letter(metadata='{"a":' + "1" * 5000 + "}"),
    "leading zero": letter(size="007"),
    "hexadecimal": letter(size="0x1F"),
    "a member twice": b'{"to":"a@b.c","subject":"s","to":"evil@b.c"}',
    "a member twice, spelt differently": b'{"to":"a@b.c","subject":"s","\\u0074o":"evil@b.c"}',
    "a member twice, deep inside": letter(metadata='{"a":[{"b":1,"b":2}]}'),
    "lone high surrogate": letter(subject=r'"\ud800"'),
    "lone low surrogate": letter(subject=r'"\udc00"'),
    "reversed surrogates": letter(subject=r'"\udc00\ud800"'),
    "lone surrogate in metadata": letter(metadata=r'{"a":"\ud800"}'),
    "lone surrogate as a name": letter(metadata=r'{"\ud800":1}'),
    "lone surrogate in UTF-8": b'{"to":"a@b.c","subject":"\xed\xa0\x80"}',
    "bad escape": letter(subject=r'"\x41"'),
    "raw NUL": letter(subject='"\0"'),
    "raw line feed": letter(subject='"\n"'),
    "BOM": b"\xef\xbb\xbf" + letter(),
    "UTF-16": letter().decode().encode("utf-16"),
    "UTF-32": letter().decode().encode("utf-32"),
    "latin-1": b'{"subject":"caf\xe9"}',
    "overlong UTF-8": b'{"subject":"\xc0\xaf"}',
    "deep arrays": b"[" * DEEP + b"]" * DEEP,
    "deep arrays, open": b"[" * DEEP,
    "deep objects": b'{"a":' * DEEP,
    "deep metadata": letter(metadata='{"a":' + "[" * 900 + "]" * 900 + "}"),
    "metadata over pydantic's depth": letter(metadata='{"a":' + "[" * 250 + "]" * 250 + "}"),
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "form": b"to=a%40b.c&subject=s",
}
INVALID = {
    "escaped NUL": letter(subject=r'"a\u0000b"'),
    "escaped NUL in metadata": letter(metadata=r'{"a":["\u0000"]}'),
    "escaped NUL as a name": letter(metadata=r'{"\u0000":1}'),
    "wrong type": letter(subject="1"),
    "negative": letter(size="-1"),
    "400 digits": letter(size="1" * 400),
    "fraction": letter(size="1.5"),
    "scalar": b"1",
    "array": b"[]",
    "null": b"null",
    "prototype": letter(__proto__="{}"),
}
VALID = {
    "plain": letter(),
    "escaped backslash before u0000": letter(subject=r'"\\u0000"'),
    "a pair of surrogates": letter(subject=r'"\ud83d\ude00"'),
    "any white space": b' \t\r\n{ "to" : "a@b.c" , "subject" : "s" } \n',
    "400 digits in metadata": letter(metadata='{"a":' + "1" * 400 + "}"),
    "smallest fraction": letter(metadata='{"a":1e-999}'),
    "depth 100": letter(metadata='{"a":' + "[" * 100 + "]" * 100 + "}"),
    "one name in two objects": letter(metadata='{"a":{"x":1},"b":{"x":1}}'),
}


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with client_of(sample.application()) as client:
        yield client


@pytest.mark.parametrize("body", INVALID_JSON.values(), ids=INVALID_JSON.keys())
async def test_what_is_not_json_is_400_invalid_json(client: httpx2.AsyncClient, body: bytes) -> None:
    """Controls: without the decoder's hooks nine failed (NaN, infinities and members given twice were taken, or 422);
    with validate_python in place of validate_json seven (surrogates and depth: 201, 422 or 500); without
    `except RecursionError` three (500).
    """
    answer = await client.post("/v1/letters", content=body)
    assert (answer.status_code, error_of(answer)["name"]) == (400, "invalid_json")
    assert "sys." not in answer.text


@pytest.mark.parametrize("body", INVALID.values(), ids=INVALID.keys())
async def test_json_that_is_no_letter_is_422(client: httpx2.AsyncClient, body: bytes) -> None:
    """Control: without `_refuse_nul` the three with a NUL were taken."""
    answer = await client.post("/v1/letters", content=body)
    assert (answer.status_code, error_of(answer)["name"]) == (422, "validation_error")


@pytest.mark.parametrize("body", VALID.values(), ids=VALID.keys())
async def test_unusual_json_is_json(client: httpx2.AsyncClient, body: bytes) -> None:
    assert (await client.post("/v1/letters", content=body, headers={"idempotency-key": "k"})).status_code == 201


async def test_a_body_of_endless_members_is_refused_before_each_becomes_an_error(client: httpx2.AsyncClient) -> None:
    """Control: without the count it came as 422, after 100,001 errors had been made."""
    members = ",".join(f'"{number}":1' for number in range(reading.MAX_MEMBERS + 1))
    answer = await client.post("/v1/emails", content=f"[{{{members}}}]")
    assert (answer.status_code, error_of(answer)["name"]) == (400, "invalid_json")
    assert "100,000 members" in answer.text


async def test_a_list_over_its_bound_is_one_error(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/v1/emails", content=f'[{{"subject":"s","to":[{",".join(["1"] * 100_000)}]}}]')
    assert answer.status_code == 422
    assert len(error_of(answer)["errors"]) == 1


async def test_an_empty_answer_to_a_required_body_names_what_is_missing_only_if_it_is_json(
    client: httpx2.AsyncClient,
) -> None:
    assert error_of(await client.post("/v1/letters", content=b""))["name"] == "invalid_json"
    assert error_of(await client.post("/v1/letters", content=b"{}"))["name"] == "missing_required_field"


LETTERS: TypeAdapter[Any] = TypeAdapter(sample.Letter)
TEXTS = st.text() | st.sampled_from(["a@b.c", "\0", "2026-01-31T12:00:00Z", "9999-12-31T23:59:59-23:59"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)
NAMES = st.sampled_from([*sample.Letter.model_fields, "filename", "content"]) | TEXTS
OBJECTS = st.dictionaries(NAMES, VALUES | st.dictionaries(NAMES, VALUES, max_size=3), max_size=8)


def read(raw: bytes) -> None:
    try:
        reading.validated(LETTERS, raw, reading.document(raw))
    except (errors.InvalidJson, errors.ValidationFailed, errors.MissingRequiredField) as error:
        json.dumps(error.body("id")).encode()


@given(st.binary())
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    read(raw)


@given(OBJECTS, st.booleans(), st.integers(min_value=0), st.binary(max_size=3))
@settings(max_examples=150, deadline=None)
def test_any_object_even_a_damaged_one_is_read_or_refused(
    value: dict[str, Any], ascii_only: bool, where: int, damage: bytes
) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    read(raw)
    place = where % (len(raw) + 1)
    read(raw[:place] + damage + raw[place + len(damage) :])


def test_a_field_that_is_called_like_a_branch_of_a_union_is_still_found() -> None:
    raw = b'{"to":["x"],"subject":"s","metadata":{"str":1}}'
    with pytest.raises(errors.ValidationFailed) as refused:
        reading.validated(LETTERS, raw, reading.document(raw))
    assert [error.field for error in refused.value.errors] == ["to[0]"]
