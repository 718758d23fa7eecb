"""Mail in: from a real SMTP client to a mailbox, a waiting call, a stream."""

from __future__ import annotations

import asyncio

import aiosmtplib
import httpx2
import pytest

from tests import house

pytestmark = pytest.mark.anyio


async def test_mail_that_is_waited_for_answers_the_wait(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    made = (await client.post("/mailboxes", json={})).json()
    waiting = asyncio.create_task(client.get(f"/mailboxes/{made['id']}/wait", params={"for": "code"}))
    message = "From: a@b.example\r\nSubject: Sign in\r\n\r\nYour code is 482913.\r\n"
    await aiosmtplib.send(
        message, sender="a@b.example", recipients=[made["address"]], hostname="127.0.0.1", port=shared_house.smtp_port
    )
    answer = await waiting
    assert answer.status_code == 200
    assert answer.json()["code"] == "482913"
