"""What each way out says when it is asked without sending anything."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway import settings
from gateway.outbound.providers import contract, http, mx, ses, smtp, urls
from gateway.resolving import DnsResolver
from tests import nameserver
from tests.outbound import api, sink

pytestmark = pytest.mark.anyio

SETTINGS = settings.load(smtp_hostname="gateway.example")
URLS = {
    "mailgun": "mailgun://key-1234@mg.example?endpoint={}",
    "postmark": "postmark://token-1234@?endpoint={}",
    "ses": "ses://AKIA1234:secret-1234@eu-west-1?endpoint={}",
}
PATHS = {"mailgun": "/v3/domains/mg.example", "postmark": "/server", "ses": "/v2/email/account"}
SECRETS = ("key-1234", "token-1234", "secret-1234", "AKIA1234")


async def examined(provider: str, act: api.Act) -> tuple[contract.Health, api.Request]:
    async with api.Api(act) as server:
        made = urls.from_url(URLS[provider].format(server.url), SETTINGS)
        assert isinstance(made, http.HttpProvider)
        health = await made.examine()
        await made.close()
    return health, server.requests[0]


@pytest.mark.parametrize(
    ("provider", "status", "body", "standing"),
    [
        ("mailgun", 200, {"domain": {"name": "mg.example", "state": "active"}}, "well"),
        ("mailgun", 200, {"domain": {"name": "mg.example", "state": "unverified"}}, "unwell"),
        ("mailgun", 200, {}, "unwell"),
        ("mailgun", 401, {"message": "Forbidden"}, "doubtful"),  # as a sending key hears it, too
        ("mailgun", 404, {"message": "Domain not found: mg.example"}, "unwell"),
        ("postmark", 200, {"ID": 1, "Name": "Staging", "ApiTokens": ["token-9"], "DeliveryType": "Live"}, "well"),
        (
            "postmark",
            200,
            {"ID": 1, "Name": "Staging", "ApiTokens": ["token-9"], "DeliveryType": "Sandbox"},
            "doubtful",
        ),
        ("postmark", 401, {"ErrorCode": 10, "Message": "Bad or missing token"}, "unwell"),
        ("postmark", 200, {"odd": 1}, "unwell"),
        ("ses", 200, {"SendingEnabled": True, "ProductionAccessEnabled": True}, "well"),
        ("ses", 200, {"SendingEnabled": True, "ProductionAccessEnabled": False}, "doubtful"),
        ("ses", 200, {"SendingEnabled": False, "EnforcementStatus": "SHUTDOWN"}, "unwell"),
        ("ses", 403, {"__type": "x#AccessDeniedException", "message": "not authorized"}, "doubtful"),
        ("ses", 403, {"__type": "x#InvalidClientTokenId", "message": "The token is invalid"}, "unwell"),
        *((provider, 429, {}, "doubtful") for provider in URLS),
        *((provider, 503, {}, "doubtful") for provider in URLS),
        *((provider, 302, {}, "unwell") for provider in URLS),
    ],
)
async def test_an_answer_means(provider: str, status: int, body: dict[str, Any], standing: str) -> None:
    health, request = await examined(provider, api.Act(status=status, body=json.dumps(body).encode()))
    assert (health.standing, request.method, request.path) == (standing, "GET", PATHS[provider])
    assert request.body == b""
    assert health.advice or standing == "well" or status == 302
    assert "token-9" not in health.said


@pytest.mark.parametrize("provider", URLS)
async def test_an_answer_that_repeats_our_credentials_does_not_tell_them(provider: str) -> None:
    body = json.dumps({"message": "no: " + " ".join(SECRETS), "Message": "no: " + " ".join(SECRETS)}).encode()
    health, request = await examined(provider, api.Act(status=403, body=body))
    assert health.standing != "well"
    own = re.findall(r"://([^@?]*)@", URLS[provider])[0].split(":")
    assert not any(secret in health.said for secret in own)
    assert "authorization" in request.headers or "x-postmark-server-token" in request.headers


@pytest.mark.parametrize("line", ["cut", "half"])
async def test_a_line_that_breaks_is_unwell_or_read_as_far_as_it_came(line: Any) -> None:
    health, _ = await examined("postmark", api.Act(line=line))
    assert health.standing == "unwell"


async def test_what_ses_is_asked_is_signed_as_a_get_of_that_path() -> None:
    """The signature is checked against one computed from what arrived."""
    _, request = await examined("ses", api.Act(body=b'{"SendingEnabled": true}'))
    stamp = request.headers["x-amz-date"]
    from_them = ses.signed_headers(
        ses.Credentials(access_key="AKIA1234", secret_key="secret-1234"),
        "GET",
        "/v2/email/account",
        {"host": request.headers["host"]},
        b"",
        region="eu-west-1",
        service="ses",
        now=datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC),
    )
    assert request.headers["authorization"] == from_them["authorization"]


# SMTP


async def relay(url: str) -> contract.Health:
    made = urls.from_url(url, SETTINGS)
    assert isinstance(made, smtp.SmtpProvider)
    health = await made.examine()
    await made.close()
    return health


@pytest.fixture
async def secured(tmp_path: Path) -> AsyncIterator[sink.Sink]:
    async with sink.Sink(tls=sink.server_tls(tmp_path), credentials=("app", "hunter2")) as found:
        yield found


async def test_a_relay_is_greeted_encrypted_logged_in_to_and_left(secured: sink.Sink) -> None:
    health = await relay(secured.url("verify=0", user="app:hunter2"))
    await secured.until(lambda: secured.open == 0)
    assert (health.standing, health.tls) == ("well", True)
    assert health.said.endswith("encrypted, logged in")
    assert [line.split()[0] for line in secured.lines()] == ["EHLO", "STARTTLS", "EHLO", "AUTH", "QUIT"]


async def test_a_relay_in_the_clear_is_said_to_be() -> None:
    async with sink.Sink() as plain:
        health = await relay(plain.url())
    assert (health.standing, health.tls) == ("well", False)
    assert "in the clear" in health.said


@pytest.mark.parametrize(
    ("stage", "reply", "said"),
    [
        ("greeting", "554 5.7.1 go away", "GREETING: 554 5.7.1 go away"),
        ("auth", "535 5.7.8 not hunter2", "AUTH: 535 5.7.8 not ****"),
        ("starttls", "454 4.7.0 later", "TLS: 454 4.7.0 later"),
    ],
)
async def test_a_relay_that_refuses_is_quoted_without_the_password(
    secured: sink.Sink, stage: Any, reply: str, said: str
) -> None:
    secured.always(stage, sink.reply(reply))
    health = await relay(secured.url("verify=0", user="app:hunter2"))
    assert (health.standing, health.said) == ("unwell", said)


async def test_a_certificate_that_is_not_trusted_is_unwell(secured: sink.Sink) -> None:
    health = await relay(secured.url(user="app:hunter2"))
    assert (health.standing, health.said[:9]) == ("unwell", "TLS: TLS:")


async def test_nobody_there_is_unwell() -> None:
    assert (await relay("smtp://127.0.0.1:1")).standing == "unwell"


async def test_hosts_of_a_domain_are_asked_until_one_answers() -> None:
    zone: nameserver.Zone = {
        "peer.example": {"MX": ["5 gone.peer.example.", "10 mx.peer.example."]},
        "gone.peer.example": {"A": ["127.0.0.9"]},
        "mx.peer.example": {"A": ["127.0.0.1"]},
    }
    async with sink.Sink() as peer, nameserver.serving(zone) as server:
        url = f"mx://?port={peer.port}&allow_private=1"
        made = urls.from_url(url, SETTINGS, DnsResolver([server.address]))
        assert isinstance(made, mx.MxProvider)
        reached, unknown = await made.examine("peer.example"), await made.examine("none.example")
        await made.close()
        assert peer.lines("MAIL") == []
    assert (reached.standing, unknown.standing) == ("well", "unwell")
    assert "no such domain" in unknown.said
