"""The log of e-mails as its owners search it."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tests import house, sending
from tests.outbound import sink

pytestmark = pytest.mark.anyio


async def ids(client: httpx2.AsyncClient, **query: Any) -> list[str]:
    answer = await client.get("/emails", params={"order": "asc", **query})
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json()["data"]]


async def test_emails_are_found_by_what_they_say_who_sent_them_and_what_peers_said(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    relay.next("rcpt", sink.reply("550 5.7.1 Not from YOU"))
    refused = await sending.send(
        sender, subject="Ihre Bestellung: 100% Zufriedenheit", metadata={"order": 17, "a:b": True}
    )
    await sending.resting(sender, refused)
    box = (await sender.post("/mailboxes", json={})).json()
    local = await sending.send(sender, from_="Desk <DESK@other.example>", to=box["address"], metadata={"order": "17"})
    await sending.resting(sender, local)
    later = await sending.send(sender, scheduled_at="in 1 day", metadata={"order": {"n": 17}})
    for query, found in (
        ({"subject": "bestellung: 100%"}, [refused]),
        ({"subject": "1__%"}, []),
        ({"subject": "hello"}, [local, later]),
        ({"from": "desk@OTHER.example"}, [local]),
        ({"from": "@other.example"}, [local]),
        ({"from": "@example"}, []),
        ({"from": "app@sender.example"}, [refused, later]),
        ({"metadata": "order:17"}, [refused, local]),
        ({"metadata": "order:1"}, []),
        ({"provider": "smtp"}, [refused]),
        ({"provider": "local"}, [local]),
        ({"reply": "not from you"}, [refused]),
        ({"reply": "not from you", "subject": "hello"}, []),
        ({"subject": "hello", "status": "scheduled"}, [later]),
        ({"subject": "hello", "to": box["address"]}, [local]),
    ):
        assert await ids(sender, **query) == found, query
        assert await ids(sender, **query, order="desc") == found[::-1], query
    for query, field in (
        ({"from": "nobody"}, "from"),
        ({"metadata": "order"}, "metadata"),
        ({"subject": ""}, "subject"),
    ):
        sending.refused(await sender.get("/emails", params=query), field)


async def test_a_sender_beyond_ascii_is_found_and_left_alone_in_every_writing_of_its_domain(
    sending_house: house.House, sender: httpx2.AsyncClient
) -> None:
    """Seen to fail with only the writing that was asked for looked for: nothing was found by A-labels, and a key of the
    domain, which keeps it so, canceled nobody."""
    sent = [
        await sending.send(sender, from_=f"App@{domain}", scheduled_at="in 1 hour")
        for domain in ("b\u00fccher.example", "xn--bcher-kva.example", "other.example")
    ]
    for domain in ("b\u00fccher.example", "B\u00dcCHER.example", "XN--bcher-kva.example"):
        for asked in (f"@{domain}", f"app@{domain}"):
            assert await ids(sender, **{"from": asked}) == sent[:2], asked
    wish = {"name": "one", "scopes": ["send"], "domains": ["b\u00fccher.example"]}
    key = (await sender.post("/api-keys", json=wish)).json()["key"]
    async with sending_house.client(key) as limited:
        assert (await limited.post("/emails/cancel", json={})).json()["emails"] == 2
    assert await ids(sender, status="canceled") == sent[:2]
