"""Mailgun's words."""

from __future__ import annotations

import base64
import json

import pytest

from gateway import settings
from gateway.outbound import providers
from gateway.outbound.providers import mailgun
from tests.outbound import api, outgoing
from tests.outbound.test_conformance import form_of

pytestmark = pytest.mark.anyio

SETTINGS = settings.load()


async def test_a_message_goes_as_a_file_with_its_octets_and_whom_it_is_for() -> None:
    message = outgoing.message(b"\xff\xfe\r\n--x--\r\nno line end", rcpt_to="jörg@bücher.example")
    async with api.Api(api.Act(body=b'{"id": "<a@mg.example>", "message": "Queued. Thank you."}')) as server:
        provider = providers.from_url(f"mailgun://key-1@mg.example?endpoint={server.url}", SETTINGS)
        verdict = await provider.send(message)
        await provider.close()
    [request] = server.requests
    assert (request.method, request.path) == ("POST", "/v3/mg.example/messages.mime")
    assert request.headers["authorization"] == "Basic " + base64.b64encode(b"api:key-1").decode()
    assert form_of(request) == {
        "to": "jörg@xn--bcher-kva.example".encode(),
        "o:tracking": b"no",
        "message": message.raw,
    }
    assert (verdict.outcome, verdict.code, verdict.provider_id) == ("sent", 200, "<a@mg.example>")
    assert verdict.reply == "200 Queued. Thank you."


def test_a_region_has_its_own_address() -> None:
    assert mailgun.ENDPOINTS == {"us": "https://api.mailgun.net", "eu": "https://api.eu.mailgun.net"}


@pytest.mark.parametrize(
    ("status", "message", "outcome", "stage"),
    [
        (401, "Forbidden", "provider_fault", "auth"),
        (402, "Request Failed", "provider_fault", "auth"),
        (403, "Domain mg.example is not allowed to send: Account suspended", "provider_fault", "auth"),
        (404, "Domain not found: mg.example", "provider_fault", "auth"),
        (400, "Free accounts are for test purposes only. Please upgrade", "provider_fault", "auth"),
        (400, "Domain mg.example is not allowed to send: recipient limit exceeded", "provider_fault", "auth"),
        (400, "'to' parameter is not a valid address. please check documentation", "bounced", "rcpt"),
        (400, "'from' parameter is not a valid address. please check documentation", "failed", "dot"),
        (413, "Attachment size is too big", "failed", "dot"),
        (408, "timed out", "deferred", "dot"),
        (429, "Too many requests", "deferred", "dot"),
        (500, "Internal Server Error", "deferred", "dot"),
    ],
)
async def test_an_answer_means(status: int, message: str, outcome: str, stage: str) -> None:
    async with api.Api(api.Act(status=status, body=json.dumps({"message": message}).encode())) as server:
        provider = providers.from_url(f"mailgun://key-1@mg.example?endpoint={server.url}", SETTINGS)
        verdict = await provider.send(outgoing.message())
        await provider.close()
    assert (verdict.outcome, verdict.stage, verdict.reply) == (outcome, stage, f"{status} {message}")


async def test_an_answer_that_is_no_json_is_read_as_it_is() -> None:
    """As Mailgun says a bad key."""
    async with api.Api(api.Act(status=401, body=b"Forbidden")) as server:
        provider = providers.from_url(f"mailgun://key-1@mg.example?endpoint={server.url}", SETTINGS)
        verdict = await provider.send(outgoing.message())
        await provider.close()
    assert (verdict.outcome, verdict.reply) == ("provider_fault", "401 Forbidden")
