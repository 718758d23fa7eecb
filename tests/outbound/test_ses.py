"""SES's words, and AWS's signatures."""

from __future__ import annotations

import base64
import dataclasses
import json
from datetime import UTC, datetime

import pytest

from gateway import settings
from gateway.outbound import providers
from gateway.outbound.providers import ses
from tests.outbound import api, outgoing

pytestmark = pytest.mark.anyio

SETTINGS = settings.load()
# Those of AWS's published test suite of Signature Version 4
CREDENTIALS = ses.Credentials(access_key="AKIDEXAMPLE", secret_key="wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
NOW = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
HOST = {"host": "example.amazonaws.com"}
FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize(
    ("method", "target", "headers", "content", "signature"),
    [
        ("GET", "/", {}, b"", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "/", {}, b"", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        (
            "GET",
            "/?Param2=value2&Param1=value1",
            {},
            b"",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        ("POST", "/", FORM, b"Param1=value1", "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"),
    ],
    ids=["get-vanilla", "post-vanilla", "get-vanilla-query-order-key-case", "post-x-www-form-urlencoded"],
)
def test_a_signature_is_that_of_awss_test_suite(
    method: str, target: str, headers: dict[str, str], content: bytes, signature: str
) -> None:
    """The expected values are the suite's `.authz` files."""
    signed = ses.signed_headers(
        CREDENTIALS, method, target, {**HOST, **headers}, content, region="us-east-1", service="service", now=NOW
    )
    names = ";".join(sorted({**HOST, **headers, "x-amz-date": ""}))
    assert signed["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders={names}, Signature={signature}"
    )


def test_the_documented_example_of_list_users_has_its_signature() -> None:
    """AWS General Reference, "Create a signed request": GET iam ListUsers."""
    signed = ses.signed_headers(
        CREDENTIALS,
        "GET",
        "/?Action=ListUsers&Version=2010-05-08",
        {"host": "iam.amazonaws.com", "content-type": "application/x-www-form-urlencoded; charset=utf-8"},
        b"",
        region="us-east-1",
        service="iam",
        now=NOW,
    )
    assert signed["authorization"].endswith("5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7")


def test_spaces_in_headers_are_folded_and_the_path_is_encoded_once_more() -> None:
    canonical = ses.canonical_request("GET", "/a%20b", {"host": "h", "my": "  a   b "}, b"")
    assert canonical.split("\n")[1:5] == ["/a%2520b", "", "host:h", "my:a b"]


def test_a_session_token_is_said_and_signed() -> None:
    credentials = ses.Credentials(access_key="A", secret_key="s", session_token="t")
    signed = ses.signed_headers(credentials, "GET", "/", HOST, b"", region="r", service="ses", now=NOW)
    assert signed["x-amz-security-token"] == "t"
    assert "SignedHeaders=host;x-amz-date;x-amz-security-token," in signed["authorization"]


async def test_a_message_goes_raw_and_signed_as_it_is_sent() -> None:
    message = outgoing.message(b"\xff\r\n")
    async with api.Api(api.Act(body=b'{"MessageId": "0100-1"}')) as server:
        url = f"ses://AKID:s%2Fcret@eu-west-1?configuration_set=mails&endpoint={server.url}"
        provider = providers.from_url(url, SETTINGS)
        verdict = await provider.send(message)
        await provider.close()
    [request] = server.requests
    assert (request.method, request.path) == ("POST", "/v2/email/outbound-emails")
    assert json.loads(request.body) == {
        "FromEmailAddress": "app@sender.example",
        "Destination": {"ToAddresses": ["user@recipient.example"]},
        "Content": {"Raw": {"Data": base64.b64encode(message.raw).decode()}},
        "ConfigurationSetName": "mails",
    }
    said = {name: request.headers[name] for name in ("host", "content-type")}
    signed = ses.signed_headers(
        ses.Credentials(access_key="AKID", secret_key="s/cret"),
        request.method,
        request.path,
        said,
        request.body,
        region="eu-west-1",
        service="ses",
        now=datetime.strptime(request.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC),
    )
    assert request.headers["authorization"] == signed["authorization"]
    assert (verdict.outcome, verdict.provider_id) == ("sent", "0100-1")


async def test_feedback_goes_to_the_return_path_and_the_author_stays_who_it_is() -> None:
    message = dataclasses.replace(outgoing.message(), return_path="bounces+x@bounces.example.com")
    async with api.Api() as server:
        provider = providers.from_url(f"ses://AKID:secret@eu-west-1?endpoint={server.url}", SETTINGS)
        await provider.send(message)
        await provider.close()
    asked = json.loads(server.requests[0].body)
    assert asked["FromEmailAddress"] == "app@sender.example"
    assert asked["FeedbackForwardingEmailAddress"] == "bounces+x@bounces.example.com"


async def test_a_bounce_names_no_sender() -> None:
    async with api.Api() as server:
        provider = providers.from_url(f"ses://AKID:secret@eu-west-1?endpoint={server.url}", SETTINGS)
        await provider.send(outgoing.message(mail_from=""))
        await provider.close()
    assert "FromEmailAddress" not in json.loads(server.requests[0].body)


@pytest.mark.parametrize(
    ("status", "error", "message", "outcome", "stage"),
    [
        (429, "TooManyRequestsException", "Too many requests", "deferred", "dot"),
        (429, "TooManyRequestsException", "Daily message quota exceeded.", "provider_fault", "auth"),
        (400, "ThrottlingException", "Maximum sending rate exceeded.", "deferred", "dot"),
        (400, "ThrottlingException", "Daily message quota exceeded.", "provider_fault", "auth"),
        (400, "LimitExceededException", "limit", "provider_fault", "auth"),
        (400, "AccountSuspendedException", "suspended", "provider_fault", "auth"),
        (400, "SendingPausedException", "paused", "provider_fault", "auth"),
        (400, "MailFromDomainNotVerifiedException", "not verified", "provider_fault", "mail"),
        (400, "MessageRejected", "Email address is not verified. x@y.example", "provider_fault", "mail"),
        (400, "MessageRejected", "Virus found", "bounced", "dot"),
        (400, "BadRequestException", "Illegal address in recipient", "bounced", "rcpt"),
        (400, "BadRequestException", "Message length is more than 41943040 bytes long", "failed", "rcpt"),
        (403, "InvalidSignatureException", "The request signature", "provider_fault", "auth"),
        (403, "UnrecognizedClientException", "The security token is invalid.", "provider_fault", "auth"),
        (403, "AccessDeniedException", "not authorized to perform ses:SendEmail", "provider_fault", "mail"),
        (404, "NotFoundException", "Configuration set <x> does not exist.", "provider_fault", "mail"),
        (500, "InternalFailure", "oops", "deferred", "dot"),
    ],
)
@pytest.mark.parametrize("named", ["header", "body"])
async def test_an_answer_means(  # noqa: PLR0917 - a table's columns
    status: int, error: str, message: str, outcome: str, stage: str, named: str
) -> None:
    members = {"message": message}
    headers = {}
    if named == "header":
        headers["x-amzn-ErrorType"] = f"{error}:http://internal.amazon.com/coral/com.amazonaws.sesv2/"
    else:
        members["__type"] = f"com.amazonaws.sesv2#{error}"
    act = api.Act(status=status, headers=headers, body=json.dumps(members).encode())
    async with api.Api(act) as server:
        provider = providers.from_url(f"ses://AKID:secret@eu-west-1?endpoint={server.url}", SETTINGS)
        verdict = await provider.send(outgoing.message())
        await provider.close()
    assert (verdict.outcome, verdict.stage) == (outcome, stage)
    assert message in verdict.reply
