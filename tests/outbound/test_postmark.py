"""Postmark's words, and what of a message they can say."""

from __future__ import annotations

import base64
import dataclasses
import json
from email.message import EmailMessage
from typing import Any

import pytest

from gateway import settings
from gateway.outbound import providers
from gateway.outbound.providers import contract
from tests.outbound import api, outgoing

pytestmark = pytest.mark.anyio

SETTINGS = settings.load()


async def _sent(message: contract.Outgoing, options: str = "") -> tuple[api.Request, contract.Verdict]:
    async with api.Api(api.Act(body=b'{"ErrorCode": 0, "Message": "OK", "MessageID": "b7bc-1"}')) as server:
        provider = providers.from_url(f"postmark://token-1@?endpoint={server.url}{options}", SETTINGS)
        verdict = await provider.send(message)
        await provider.close()
    [request] = server.requests
    return request, verdict


def _composed() -> contract.Outgoing:
    mail = EmailMessage()
    mail["From"] = "Jörg <app@sender.example>"
    mail["To"] = "Ann <user@recipient.example>, other@elsewhere.example"
    mail["Cc"] = "third@elsewhere.example"
    mail["Bcc"] = "hidden@elsewhere.example"
    mail["Reply-To"] = "Desk <desk@sender.example>"
    mail["Subject"] = "Grüße 💌"
    mail["Message-ID"] = "<m-1@sender.example>"
    mail["DKIM-Signature"] = "v=1; b=abc"
    mail["X-One"] = "1"
    mail["X-One"] = "zwei ü"
    mail["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    mail.set_content("text ü\n")
    mail.add_alternative("<img src='cid:logo@x'>\n", subtype="html")
    html = mail.get_payload()[1]  # type: ignore[index] # a list, for it is multipart
    assert isinstance(html, EmailMessage)
    html.add_related(b"\x89PNG", "image", "png", cid="<logo@x>", filename="logo.png")
    mail.add_attachment("a,b\n", subtype="csv", filename="über.csv")
    mail.add_attachment(outgoing_message())
    return dataclasses.replace(outgoing.message(), raw=mail.as_bytes().replace(b"\n", b"\r\n"))


def outgoing_message() -> EmailMessage:
    """A message to be attached."""
    mail = EmailMessage()
    mail["Subject"] = "within"
    mail.set_content("inner\n")
    return mail


async def test_a_composed_message_becomes_fields() -> None:
    request, verdict = await _sent(_composed(), "&stream=mails")
    assert (request.method, request.path) == ("POST", "/email")
    assert request.headers["x-postmark-server-token"] == "token-1"
    asked: dict[str, Any] = json.loads(request.body)
    attachments = asked.pop("Attachments")
    assert asked == {
        "From": "Jörg <app@sender.example>",
        "To": "user@recipient.example",
        "ReplyTo": "Desk <desk@sender.example>",
        "Subject": "Grüße 💌",
        "TextBody": "text ü\r\n",
        "HtmlBody": "<img src='cid:logo@x'>\r\n",
        "MessageStream": "mails",
        "TrackOpens": False,
        "TrackLinks": "None",
        "Headers": [
            {"Name": "Message-ID", "Value": "<m-1@sender.example>"},
            {"Name": "X-One", "Value": "1"},
            {"Name": "X-One", "Value": "zwei ü"},
            {"Name": "List-Unsubscribe-Post", "Value": "List-Unsubscribe=One-Click"},
        ],
    }
    told = [(a["Name"], a["ContentType"], a.get("ContentID")) for a in attachments]
    assert told == [
        ("logo.png", "image/png", "cid:logo@x"),
        ("über.csv", "text/csv", None),
        ("attachment-3.eml", "message/rfc822", None),
    ]
    contents = [base64.b64decode(a["Content"], validate=True) for a in attachments]
    assert contents[0] == b"\x89PNG"
    assert contents[1].replace(b"\r\n", b"\n") == b"a,b\n"
    assert b"Subject: within" in contents[2]
    assert (verdict.outcome, verdict.provider_id) == ("sent", "b7bc-1")


async def test_nobody_else_is_told_of_or_sent_to() -> None:
    """To, Cc and Bcc would each be sent to: the other recipients have requests of their own."""
    request, _ = await _sent(_composed())
    assert b"elsewhere.example" not in request.body


async def test_a_message_without_text_still_has_a_body() -> None:
    raw = b"From: app@sender.example\r\nContent-Type: application/pdf\r\n\r\n%PDF"
    request, _ = await _sent(dataclasses.replace(outgoing.message(), raw=raw))
    asked = json.loads(request.body)
    assert asked["TextBody"] == " "
    assert asked["Attachments"][0]["ContentType"] == "application/pdf"


@pytest.mark.parametrize(
    ("status", "code", "message", "outcome", "stage"),
    [
        (401, 10, "Bad or missing API token.", "provider_fault", "auth"),
        (404, 0, "no such address", "provider_fault", "auth"),
        (422, 405, "Not allowed to send: you ran out of credits", "provider_fault", "auth"),
        (422, 412, "Account is pending approval", "provider_fault", "auth"),
        (422, 413, "Account may not send", "provider_fault", "auth"),
        (422, 1235, "The stream provided does not exist", "provider_fault", "auth"),
        (422, 400, "Sender signature not found", "provider_fault", "mail"),
        (422, 401, "Sender signature not confirmed", "provider_fault", "mail"),
        (422, 406, "marked as inactive", "bounced", "rcpt"),
        (422, 300, "Invalid 'To' address: 'x'.", "bounced", "rcpt"),
        (422, 300, "Invalid 'From' address: 'x'.", "failed", "dot"),
        (422, 402, "Invalid JSON", "failed", "dot"),
        (200, 406, "marked as inactive", "bounced", "rcpt"),
        (422, 100, "Maintenance", "deferred", "dot"),
        (413, 0, "Payload too large", "failed", "dot"),
    ],
)
async def test_an_answer_means(status: int, code: int, message: str, outcome: str, stage: str) -> None:
    body = json.dumps({"ErrorCode": code, "Message": message}).encode()
    async with api.Api(api.Act(status=status, body=body)) as server:
        provider = providers.from_url(f"postmark://token-1@?endpoint={server.url}", SETTINGS)
        verdict = await provider.send(outgoing.message())
        await provider.close()
    assert (verdict.outcome, verdict.stage, verdict.code) == (outcome, stage, status)
    assert verdict.reply.startswith(f"{status} {message}")
