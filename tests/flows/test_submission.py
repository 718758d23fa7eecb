"""Mail handed in at the submission port, through the worker, to an own mailbox."""

from __future__ import annotations

from email.message import EmailMessage

import aiosmtplib
import httpx2
import pytest

from tests import house, sending

pytestmark = pytest.mark.anyio

DEV = {"POSTROOM_DEV": "true"}  # AUTH without TLS


async def test_what_is_submitted_arrives_and_shows_no_blind_copies(dsn: str, redis_url: str) -> None:
    async with house.standing(dsn, redis_url, settings=DEV) as home, httpx2.AsyncClient(base_url=home.url) as anybody:
        assert (await anybody.get("/readyz")).json()["listeners"] == {"smtp": True, "submission": True}
        tenant = await home.tenant()
        sender = await home.tenant(("send",), account_id=tenant.account_id)
        async with home.client(tenant.key) as client:
            addressee, hidden = [(await client.post("/mailboxes", json={})).json() for _ in range(2)]
            message = _letter(addressee["address"], hidden["address"])
            queued = await _submit(home, sender.key, message, addressee["address"], hidden["address"])
            assert await _submit(home, sender.key, message, addressee["address"], hidden["address"]) == queued
            for mailbox in (addressee, hidden):
                answer = await client.get(f"/mailboxes/{mailbox['id']}/wait", params={"for": "code"})
                assert answer.json()["code"] == "482913"
                raw = await client.get(f"/messages/{answer.json()['message']['id']}/raw")
                assert hidden["address"].encode() not in raw.content
                assert b"X-Postroom" not in raw.content
                stored = (await client.get(f"/emails/{queued}/raw")).content
                assert raw.content.endswith(stored)
                assert raw.content.startswith(f"List-Unsubscribe: <{home.url}/u/".encode())
                listed = (await client.get(f"/mailboxes/{mailbox['id']}/messages")).json()["data"]
                assert len(listed) == 1
            shown = await sending.resting(client, queued)
    assert {one["address"]: (one["kind"], one["status"]) for one in shown["recipients"]} == {
        addressee["address"]: ("to", "delivered"),
        hidden["address"]: ("bcc", "delivered"),
    }
    assert shown["tags"] == [{"name": "kind", "value": "sign-in"}]
    assert shown["metadata"] == {"user": 7}
    assert shown["unsubscribe"] == {"topic": "sign-ins"}


def _letter(to: str, bcc: str) -> bytes:
    message = EmailMessage()
    message["From"], message["To"], message["Bcc"] = "App <app@sender.example>", to, bcc
    message["Subject"] = "Sign in"
    message["X-Postroom-Tag"] = "kind=sign-in"
    message["X-Postroom-Metadata"] = '{"user": 7}'
    message["X-Postroom-Idempotency-Key"] = "sign-in-7"
    message["X-Postroom-Unsubscribe"] = "sign-ins"
    message.set_content("Your code is 482913.")
    return message.as_bytes()


async def _submit(home: house.House, key: str, message: bytes, *recipients: str) -> str:
    """The e-mail's id."""
    _, reply = await aiosmtplib.send(
        message,
        sender="app@sender.example",
        recipients=list(recipients),
        hostname="127.0.0.1",
        port=home.submission_port,
        username="app",
        password=key,
        start_tls=False,
    )
    return reply.split()[-1]
