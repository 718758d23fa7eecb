"""Webhooks from end to end: somebody is told of what happens, signed, in the event's own words, and nothing else."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import aiosmtplib
import httpx2
import pytest
import standardwebhooks

from tests import house, sending
from tests.flows import receiver
from tests.outbound import sink

pytestmark = pytest.mark.anyio


@pytest.fixture
async def listener() -> AsyncIterator[receiver.Receiver]:
    async with receiver.Receiver() as somebody:
        yield somebody


async def _hook(client: httpx2.AsyncClient, url: str, types: list[str] | None = None, **more: Any) -> dict[str, Any]:
    answer = await client.post("/webhooks", json={"url": url, "types": types or ["*"], **more})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def _box(client: httpx2.AsyncClient) -> dict[str, Any]:
    made: dict[str, Any] = (await client.post("/mailboxes", json={})).json()
    return made


async def _mail(home: house.House, address: str, subject: str = "Hello") -> None:
    message = f"From: a@b.example\r\nSubject: {subject}\r\n\r\nYour code is 482913.\r\n"
    await aiosmtplib.send(
        message, sender="a@b.example", recipients=[address], hostname="127.0.0.1", port=home.smtp_port
    )


async def _log(client: httpx2.AsyncClient) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = (await client.get("/events", params={"limit": "200"})).json()["data"]
    return events


async def test_a_webhook_is_told_the_event_signed_with_the_secret_of_its_creation(
    sending_house: house.House, sender: httpx2.AsyncClient, listener: receiver.Receiver
) -> None:
    hook = await _hook(sender, listener.url("/in?x=1"), ["message.received"])
    assert hook["secret"].startswith("whsec_")
    assert len(base64.b64decode(hook["secret"].removeprefix("whsec_"))) >= 24
    box = await _box(sender)
    await _mail(sending_house, box["address"])
    (told,) = await listener.until(1)
    event = standardwebhooks.Webhook(hook["secret"]).verify(told.body, told.headers)
    assert event == told.event == next(one for one in await _log(sender) if one["type"] == "message.received")
    assert told.id == event["id"]
    assert event["data"]["subject"] == "Hello"
    assert event["data"]["codes"][0]["value"] == "482913"
    assert (told.path, told.headers["content-type"]) == ("/in?x=1", "application/json")
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(hook["secret"]).verify(told.body.replace(b"Hello", b"Hullo"), told.headers)


async def test_a_webhook_hears_its_types_alone_and_a_star_hears_all(
    sender: httpx2.AsyncClient, relay: sink.Sink, listener: receiver.Receiver
) -> None:
    await _hook(sender, listener.url("/sent"), ["email.sent"])
    await _hook(sender, listener.url("/all"), ["*"])
    email_id = await sending.send(sender)
    await sending.resting(sender, email_id)
    told = await listener.until(3)
    heard = sorted((one.path, one.event["type"]) for one in told)
    assert heard == [("/all", "email.queued"), ("/all", "email.sent"), ("/sent", "email.sent")]
    assert {one.event["email_id"] for one in told} == {email_id}
    assert relay.count == 1


async def test_a_webhook_of_a_mailbox_hears_of_it_alone(
    sending_house: house.House, sender: httpx2.AsyncClient, listener: receiver.Receiver
) -> None:
    mine, other = await _box(sender), await _box(sender)
    by_id = await _hook(sender, listener.url("/id"), mailbox=mine["id"])
    by_address = await _hook(sender, listener.url("/address"), mailbox=mine["address"])
    assert by_id["mailbox_id"] == by_address["mailbox_id"] == mine["id"]
    await _mail(sending_house, other["address"])
    await sender.delete(f"/mailboxes/{other['id']}")
    await _mail(sending_house, mine["address"], "For me")
    told = await listener.until(2)
    assert sorted((one.path, one.event["data"]["subject"]) for one in told) == [
        ("/address", "For me"),
        ("/id", "For me"),
    ]
    listed = (await sender.get(f"/webhooks/{by_id['id']}/deliveries")).json()["data"]
    assert len(listed) == 1


async def test_a_webhook_hears_what_happens_after_its_creation_and_nothing_after_its_deletion(
    sender: httpx2.AsyncClient, listener: receiver.Receiver
) -> None:
    await _box(sender)
    hook = await _hook(sender, listener.url("/first"))
    heard = await _box(sender)
    await listener.until(1)
    assert (await sender.delete(f"/webhooks/{hook['id']}")).status_code == 204
    await _hook(sender, listener.url("/second"))
    last = await _box(sender)
    told = await listener.until(2)
    assert [(one.path, one.event["mailbox_id"]) for one in told] == [("/first", heard["id"]), ("/second", last["id"])]
    for answer in (
        await sender.get(f"/webhooks/{hook['id']}"),
        await sender.get(f"/webhooks/{hook['id']}/deliveries"),
        await sender.delete(f"/webhooks/{hook['id']}"),
    ):
        assert (answer.status_code, answer.json()["name"]) == (404, "not_found")


async def test_webhooks_are_listed_without_their_secrets(
    sending_house: house.House, sender: httpx2.AsyncClient, listener: receiver.Receiver
) -> None:
    made = [await _hook(sender, listener.url(f"/{number}"), ["email.sent"]) for number in range(3)]
    page = (await sender.get("/webhooks", params={"limit": 2})).json()
    rest = (await sender.get("/webhooks", params={"cursor": page["next_cursor"]})).json()
    assert [one["id"] for one in page["data"] + rest["data"]] == [one["id"] for one in reversed(made)]
    assert (page["has_more"], rest["has_more"]) == (True, False)
    one = (await sender.get(f"/webhooks/{made[0]['id']}")).json()
    assert one == {name: value for name, value in made[0].items() if name != "secret"}
    assert (one["url"], one["types"], one["status"]) == (listener.url("/0"), ["email.sent"], "active")
    assert not any("secret" in shown for shown in page["data"])
    async with sending_house.client((await sending_house.tenant()).key) as stranger:
        assert (await stranger.get("/webhooks")).json()["data"] == []
        assert (await stranger.delete(f"/webhooks/{made[0]['id']}")).status_code == 404


async def test_a_creation_repeated_with_its_key_shows_the_same_secret(
    sender: httpx2.AsyncClient, listener: receiver.Receiver
) -> None:
    body, headers = {"url": listener.url(), "types": ["*"]}, {"Idempotency-Key": "k"}
    first, again = [await sender.post("/webhooks", json=body, headers=headers) for _ in range(2)]
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["Idempotent-Replayed"] == "true"
    assert len((await sender.get("/webhooks")).json()["data"]) == 1


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("url", {"url": "ftp://x.example/", "types": ["*"]}),
        ("url", {"url": "http://user:pass@x.example/", "types": ["*"]}),
        ("url", {"url": "not a url", "types": ["*"]}),
        ("types", {"url": "http://127.0.0.1:9/", "types": []}),
        ("types[1]", {"url": "http://127.0.0.1:9/", "types": ["email.sent", "email.lost"]}),
        ("mailbox", {"url": "http://127.0.0.1:9/", "types": ["*"], "mailbox": "nobody@postroom.test"}),
    ],
)
async def test_a_webhook_that_makes_no_sense_is_refused_by_the_field(
    sender: httpx2.AsyncClient, field: str, body: dict[str, Any]
) -> None:
    sending.refused(await sender.post("/webhooks", json=body), field)


async def test_webhooks_are_for_admins(sending_house: house.House) -> None:
    tenant = await sending_house.tenant(("send", "mailboxes", "read"))
    async with sending_house.client(tenant.key) as client:
        answer = await client.post("/webhooks", json={"url": "http://127.0.0.1:9/", "types": ["*"]})
    assert (answer.status_code, answer.json()["name"]) == (403, "restricted_api_key")


@pytest.fixture
async def guarded(sending_house: house.House, redis_url: str) -> AsyncIterator[httpx2.AsyncClient]:
    """A client at a web process that lets no webhook go to private addresses, as in production."""
    settings = {"WEBHOOK_ALLOW_PRIVATE": "false"}
    tenant = await sending_house.tenant()
    async with (
        house.standing(sending_house.dsn, redis_url, programs=("serve",), settings=settings) as home,
        home.client(tenant.key) as client,
    ):
        yield client


async def test_private_targets_are_refused_at_creation(guarded: httpx2.AsyncClient) -> None:
    """With allow_private=True in Webhooks._check, the first of them was created."""
    for host in ("127.0.0.1", "localhost", "10.1.2.3", "169.254.169.254", "[::1]", "[fd00::1]", "0x7f.1", "2130706433"):
        answer = await guarded.post("/webhooks", json={"url": f"http://{host}/", "types": ["*"]})
        sending.refused(answer, "url")
    assert (await guarded.get("/webhooks")).json()["data"] == []
