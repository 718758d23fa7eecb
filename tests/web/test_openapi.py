"""The OpenAPI document says what the API does, and its page works without the internet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.web import api, docs, openapi
from tests.web import sample
from tests.web.serving import client_of
from tests.web.test_api import plain

pytestmark = pytest.mark.anyio


def document() -> dict[str, Any]:
    return openapi.document(sample.described(), title="Sample", version="1", description="For tests.")


def test_the_document_is_valid_openapi_3_1() -> None:
    found = document()
    assert found["openapi"].startswith("3.1.")
    assert [str(error) for error in OpenAPIV31SpecValidator(found).iter_errors()] == []


def test_every_route_is_described_and_every_operation_says_who_may_call_it() -> None:
    found = document()
    described = {(path, method.upper()) for path, item in found["paths"].items() for method in item}
    declared = {(f"/v1{plan.operation.path}", plan.operation.method) for plan in sample.described().plans}
    assert described == declared
    assert {route.path for route in sample.described().routes()} == set(found["paths"])
    public = {path for path, item in found["paths"].items() for operation in item.values() if not operation["security"]}
    assert public == {"/v1/hello"}


def test_security_lists_each_scope_that_suffices() -> None:
    got = document()["paths"]["/v1/letters"]["get"]["security"]
    assert got == [{"apiKey": ["admin"]}, {"apiKey": ["read"]}, {"apiKey": ["send"]}, {"mailboxToken": []}]


def test_what_validation_refuses_the_document_forbids() -> None:
    schemas = document()["components"]["schemas"]
    assert schemas["Letter"]["additionalProperties"] is False
    assert schemas["Attachment"]["additionalProperties"] is False
    assert schemas["Letter"]["required"] == ["to", "subject"]


def test_query_parameters_come_from_the_query_model() -> None:
    parameters = {one["name"]: one for one in document()["paths"]["/v1/letters"]["get"]["parameters"]}
    assert set(parameters) == {"limit", "cursor", "order", "since", "until", "from", "types", "seen"}
    assert parameters["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}
    assert parameters["cursor"]["schema"] == {"type": "string", "maxLength": 512}
    assert (parameters["types"]["style"], parameters["types"]["explode"]) == ("form", False)


def test_errors_are_listed_by_status_with_their_names() -> None:
    responses = document()["paths"]["/v1/letters"]["post"]["responses"]
    assert set(responses) == {"201", "400", "401", "403", "408", "409", "413", "422", "429", "500", "503"}
    for name in ("address_taken", "invalid_idempotent_request", "concurrent_idempotent_requests"):
        assert f"`{name}`" in responses["409"]["description"]


def test_what_answers_nothing_is_described_so() -> None:
    responses = document()["paths"]["/v1/letters/{letter}"]["delete"]["responses"]
    assert responses["204"] == {"description": "No Content"}
    assert "200" not in responses


def test_two_operations_cannot_share_an_id() -> None:
    operations = [api.op("GET", path, plain, public=True) for path in ("/a", "/b")]
    with pytest.raises(api.DeclarationError, match="operationId"):
        openapi.document(api.Api(operations, authenticate=sample.authenticate), title="x", version="1")


async def test_the_page_loads_only_files_that_are_served_here() -> None:
    async with client_of(sample.application(), key=None) as client:
        assert (await client.get("/openapi.json")).json() == openapi.document(
            sample.described(), title="Sample", version="1"
        )
        page = await client.get("/docs")
        assert '<meta charset="utf-8">' in page.text
        policy = page.headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "unsafe-eval" not in policy
        assert re.findall(r"<script(?![^>]*src=)", page.text) == []
        references = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert references
        for reference in references:
            assert reference.startswith(("/", "data:"))
            assert reference.startswith("data:") or (await client.get(reference)).status_code == 200


def test_what_others_wrote_keeps_its_licence() -> None:
    folder = Path(docs.__file__).parent / "static" / "docs"
    assert (folder / "swagger-ui-bundle.js").read_bytes().startswith(b"/*! For license information please see")
    assert (folder / "swagger-ui-bundle.js.LICENSE.txt").exists()
    assert "Apache License" in (folder / "LICENSE").read_text()
    assert "Swagger UI" in (Path(docs.__file__).parents[2] / "NOTICE").read_text()
