"""What every answer has in common, over real HTTP."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any
from uuid import UUID

import httpx2
import prometheus_client
import pytest
from structlog.testing import capture_logs
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.web import sample
from tests.web.serving import client_of, serving

pytestmark = pytest.mark.anyio


def error_of(answer: httpx2.Response) -> dict[str, Any]:
    """The answer's error, once its shape was found to be the contract's."""
    body: dict[str, Any] = answer.json()
    assert body["statusCode"] == answer.status_code
    assert body["name"]
    assert body["message"]
    assert body["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/json"
    return body


async def test_every_answer_carries_a_request_id() -> None:
    async with client_of(sample.application()) as client:
        ids = set()
        for path in ("/v1/hello", "/v1/nowhere", "/v1/broken", "/v1/letters?limit=0", "/docs", "/openapi.json"):
            answer = await client.get(path)
            UUID(answer.headers["x-request-id"])
            ids.add(answer.headers["x-request-id"])
        assert len(ids) == 6


@pytest.mark.parametrize("given", ["trace-1", "!" * 128])
async def test_a_sane_request_id_of_the_caller_is_kept(given: str) -> None:
    async with client_of(sample.application()) as client:
        answer = await client.get("/v1/nowhere", headers={"x-request-id": given})
        assert answer.headers["x-request-id"] == given
        assert answer.json()["request_id"] == given


@pytest.mark.parametrize("given", ["", "a" * 129, "two words", "caf\u00e9"])
async def test_another_request_id_is_replaced(given: str) -> None:
    async with client_of(sample.application()) as client:
        answer = await client.get("/v1/hello", headers={b"x-request-id": given.encode("latin-1")})
        UUID(answer.headers["x-request-id"])


async def test_starlettes_own_404_has_the_contracts_shape() -> None:
    async with client_of(sample.application()) as client:
        for path in ("/nowhere", "/v1/nowhere", "/v1/letters/", "/docs/../../../etc/passwd", "/docs/LICENSE"):
            assert error_of(await client.get(path))["name"] == "not_found"


async def test_a_method_that_a_path_does_not_take_is_answered_with_those_it_does() -> None:
    async with client_of(sample.application()) as client:
        answer = await client.put("/v1/letters")
        assert (answer.status_code, error_of(answer)["name"]) == (405, "method_not_allowed")
        assert answer.headers["allow"] == "GET, HEAD, POST"
        starlettes = await client.post("/openapi.json")
        assert (starlettes.status_code, error_of(starlettes)["name"]) == (405, "method_not_allowed")
        assert set(starlettes.headers["allow"].split(", ")) == {"GET", "HEAD"}


async def test_head_answers_as_get_does_without_content() -> None:
    async with client_of(sample.application()) as client:
        head, got = await client.head("/v1/hello"), await client.get("/v1/hello")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == got.headers["content-length"]


async def test_a_bug_answers_500_with_the_request_id_and_logs_the_rest() -> None:
    """Control: with `InternalError(str(error))` in `edge.api_error` this failed on the secret in the answer."""
    async with client_of(sample.application()) as client:
        with capture_logs() as logs:
            answer = await client.get("/v1/broken")
    assert (answer.status_code, error_of(answer)["name"]) == (500, "internal_error")
    assert sample.SECRET not in answer.text
    assert "Traceback" not in answer.text
    (failure,) = [line for line in logs if line["event"] == "request failed"]
    assert sample.SECRET in str(failure["exc_info"])
    assert failure["route"] == "/v1/broken"


async def test_an_unreachable_database_answers_503_and_says_when_to_come_back() -> None:
    async with client_of(sample.application()) as client:
        answer = await client.get("/v1/away")
    assert (answer.status_code, error_of(answer)["name"]) == (503, "unavailable")
    assert answer.headers["retry-after"] == "7"
    assert "db-3" not in answer.text


async def test_every_429_says_when_to_come_back_and_headers_set_inside_reach_it() -> None:
    async with client_of(sample.application()) as client:
        answer = await client.get("/v1/limited")
    assert (answer.status_code, error_of(answer)["name"]) == (429, "rate_limit_exceeded")
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["ratelimit-limit"] == "10"


async def test_an_invalid_key_is_401_but_403_where_resends_clients_look_for_it() -> None:
    async with client_of(sample.application(), key="pr_key_unknown") as client:
        letters, emails = await client.get("/v1/letters"), await client.post("/v1/emails", json=[])
    assert (letters.status_code, error_of(letters)["name"]) == (401, "invalid_api_key")
    assert letters.headers["www-authenticate"] == "Bearer"
    assert (emails.status_code, error_of(emails)["name"]) == (403, "invalid_api_key")
    async with client_of(sample.application(), key=None) as client:
        answer = await client.post("/v1/emails", json=[])
    assert (answer.status_code, error_of(answer)["name"]) == (401, "missing_api_key")


async def test_an_answer_that_breaks_off_is_seen_to_break_off() -> None:
    async with client_of(sample.application()) as client:
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get("/v1/half")
        assert (await client.get("/v1/hello")).status_code == 200


async def test_each_request_is_logged_with_its_ids_and_its_routes_template() -> None:
    async with client_of(sample.application()) as client:
        with capture_logs() as logs:
            await client.get(f"/v1/letters/{sample.LETTER}")
            await client.get("/v1/nowhere")
    found, unmatched = [line for line in logs if line["event"] == "http request"]
    assert found["route"] == "/v1/letters/{letter}"
    assert found["account_id"] == str(sample.ACCOUNT)
    assert (found["method"], found["status"]) == ("GET", 200)
    assert found["duration_ms"] > 0
    assert (unmatched["route"], unmatched["status"]) == ("unmatched", 404)


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_error_of_ours() -> None:
    with capture_logs() as logs:
        async with serving(sample.application()) as url:
            host, port = url.removeprefix("http://").split(":")
            _, writer = await asyncio.open_connection(host, int(port))
            head = b"POST /v1/letters HTTP/1.1\r\nhost: x\r\nauthorization: Bearer pr_key_all\r\ncontent-length: 99"
            writer.write(head + b"\r\n\r\n{")
            await writer.drain()
            writer.close()
    (line,) = logs
    assert (line["event"], line["status"]) == ("http request", 499)


async def test_metrics_count_by_template_never_by_path() -> None:
    labels = {"method": "GET", "route": "/v1/letters/{letter}", "status": "404"}
    odd = {"method": "OTHER", "route": "unmatched", "status": "404"}

    def counted(which: dict[str, str]) -> float:
        return prometheus_client.REGISTRY.get_sample_value("postroom_http_requests_total", which) or 0

    before, odd_before = counted(labels), counted(odd)
    async with client_of(sample.application()) as client:
        await client.get(f"/v1/letters/{sample.ACCOUNT}")
        await client.request("PROPFIND", "/v1/anything")
    assert (counted(labels), counted(odd)) == (before + 1, odd_before + 1)


async def test_a_socket_refused_before_its_handshake_is_told_why_over_http() -> None:
    async with serving(sample.application()) as url:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{url.replace('http', 'ws')}/v1/socket?fail=before")
    answer = refused.value.response
    assert answer.status_code == 401
    assert json.loads(answer.body or b"")["request_id"] == answer.headers["x-request-id"]


async def test_a_socket_that_fails_is_closed_with_1011_and_no_detail() -> None:
    async with serving(sample.application()) as url:
        with capture_logs() as logs:
            async with connect(f"{url.replace('http', 'ws')}/v1/socket?fail=after") as ws:
                with pytest.raises(ConnectionClosed) as closed:
                    await ws.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1011, "internal_error")
    assert any(line["event"] == "websocket failed" for line in logs)


async def test_a_socket_that_works_carries_a_request_id() -> None:
    async with serving(sample.application()) as url, connect(f"{url.replace('http', 'ws')}/v1/socket") as ws:
        assert ws.response is not None
        assert re.fullmatch(r"[0-9a-f-]{36}", ws.response.headers["x-request-id"])
        assert json.loads(await ws.recv()) == {"hello": True}
