"""verify_webhook against signatures that the reference implementation makes."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest
import standardwebhooks

from gateway.client import InvalidSignature, verify_webhook

SECRET = "whsec_" + base64.b64encode(b"a secret of twenty-four!").decode()
OTHER = "whsec_" + base64.b64encode(b"another secret, longer..").decode()
AT = 1_780_000_000
BODY = json.dumps({"id": "e-1", "seq": 7, "cursor": "7", "type": "message.received", "data": {"subject": "Ünï"}})


def headers(secret: str = SECRET, body: str = BODY, at: int = AT) -> dict[str, str]:
    signature = standardwebhooks.Webhook(secret).sign("e-1", datetime.fromtimestamp(at, UTC), body)
    return {"Webhook-Id": "e-1", "Webhook-Timestamp": str(at), "Webhook-Signature": signature}


def test_a_signed_webhook_is_an_event() -> None:
    event = verify_webhook(BODY.encode(), headers(), SECRET, now=lambda: AT + 299)
    assert (event.id, event.seq, event.type, event.data["subject"]) == ("e-1", 7, "message.received", "Ünï")
    both = headers(OTHER)["Webhook-Signature"] + " " + headers()["Webhook-Signature"]
    assert verify_webhook(BODY, {**headers(), "Webhook-Signature": both}, SECRET, now=lambda: AT).id == "e-1"


def test_nothing_else_is() -> None:
    good = headers()
    for body, given, secret, now, why in [
        (BODY + " ", good, SECRET, AT, "the signature does not fit"),
        (BODY, good, OTHER, AT, "the signature does not fit"),
        (BODY, {**good, "Webhook-Id": "e-2"}, SECRET, AT, "the signature does not fit"),
        (BODY, {**good, "Webhook-Timestamp": str(AT + 1)}, SECRET, AT, "the signature does not fit"),
        (BODY, {**good, "Webhook-Signature": "v2" + good["Webhook-Signature"][2:]}, SECRET, AT, "does not fit"),
        (BODY, {**good, "Webhook-Signature": "v1,ü"}, SECRET, AT, "does not fit"),
        (BODY, good, SECRET, AT + 301, "signed 301 s ago, and 300 s are allowed"),
        (BODY, good, SECRET, AT - 301, "signed 301 s ahead"),
        (BODY, {**good, "Webhook-Timestamp": "soon"}, SECRET, AT, "no number of seconds: 'soon'"),
        (BODY, {"Webhook-Id": "e-1"}, SECRET, AT, "no header webhook-timestamp, webhook-signature"),
        (BODY, good, "whsec_?", AT, "the secret is none"),
    ]:
        with pytest.raises(InvalidSignature, match=why) as caught:
            verify_webhook(body, given, secret, now=lambda now=now: now)  # type: ignore[misc] # a lambda's default
        assert secret not in str(caught.value)
