"""Webhooks from end to end: somebody is told of what happens, signed, in the event's own words, and nothing else."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import aiosmtplib
import httpx2
import pytest
import standardwebhooks

from tests import house, sending
from tests.flows import letters, receiver
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


async def test_private_targets_are_refused_at_creation_and_at_a_change(guarded: httpx2.AsyncClient) -> None:
    """With allow_private=True in Webhooks._check, the first of them was created."""
    made = await guarded.post("/webhooks", json={"url": "https://8.8.8.8/hook", "types": ["*"]})
    at = f"/webhooks/{made.json()['id']}"
    for host in ("127.0.0.1", "localhost", "10.1.2.3", "169.254.169.254", "[::1]", "[fd00::1]", "0x7f.1", "2130706433"):
        wish = {"url": f"http://{host}/"}
        sending.refused(await guarded.post("/webhooks", json={**wish, "types": ["*"]}), "url")
        sending.refused(await guarded.patch(at, json=wish), "url")
    assert (await guarded.get(at)).json()["url"] == "https://8.8.8.8/hook"
    await guarded.delete(at)
    assert (await guarded.get("/webhooks")).json()["data"] == []


# Secrets


def _verified(told: receiver.Told, secret: str) -> bool:
    try:
        standardwebhooks.Webhook(secret).verify(told.body, told.headers)
    except standardwebhooks.WebhookVerificationError:
        return False
    return True


async def _age_secrets(home: house.House, hook: dict[str, Any]) -> None:
    """A day passes."""
    async with letters.sql(home) as connection:
        await connection.execute(
            """update webhooks set previous_secret_until = previous_secret_until - interval '24 hours',
            earlier_secrets_until = array(select t - interval '24 hours' from unnest(earlier_secrets_until) t)
            where id = $1""",
            UUID(hook["id"]),
        )


async def test_after_a_rotation_both_secrets_verify_for_a_day_and_then_the_new_one_alone(
    sending_house: house.House, sender: httpx2.AsyncClient, listener: receiver.Receiver
) -> None:
    """Verified as receivers do, by the library of Standard Webhooks. A second rotation takes nothing from the first.

    With the new generation alone in `signing_generations`, the old secret verified nothing; with no look at the time,
    it verified after the day, too."""
    hook = await _hook(sender, listener.url(), ["webhook.test"])
    at = f"/webhooks/{hook['id']}"
    headers = {"Idempotency-Key": "rotate"}
    first, again = [await sender.post(f"{at}/rotate", headers=headers) for _ in range(2)]
    assert (first.status_code, again.json()) == (200, first.json())
    assert again.headers["Idempotent-Replayed"] == "true"
    second = (await sender.post(f"{at}/rotate")).json()
    secrets = [hook["secret"], first.json()["secret"], second["secret"]]
    assert len(set(secrets)) == 3
    assert second["previous_secret_until"] is not None
    assert "secret" not in (await sender.get(at)).json()
    await sender.post(f"{at}/test")
    (told,) = await listener.until(1)
    assert [_verified(told, secret) for secret in secrets] == [True, True, True]
    await _age_secrets(sending_house, hook)
    await sender.post(f"{at}/test")
    told = (await listener.until(2))[1]
    assert [_verified(told, secret) for secret in secrets] == [False, False, True]


# Tests and telling again


async def _ended(client: httpx2.AsyncClient, hook: dict[str, Any], count: int, status: str) -> list[dict[str, Any]]:
    """The webhook's deliveries, once so many have this status. No event tells of that."""
    async with asyncio.timeout(30):
        while True:
            found = await letters.listed(client, f"/webhooks/{hook['id']}/deliveries", status=status)
            if len(found) == count:
                return found


async def test_a_test_event_is_told_to_one_webhook_signed_and_kept_in_the_log(
    sender: httpx2.AsyncClient, listener: receiver.Receiver
) -> None:
    hook = await _hook(sender, listener.url("/this"), ["email.bounced"])
    await _hook(sender, listener.url("/others"))
    headers = {"Idempotency-Key": "test"}
    answers = [await sender.post(f"/webhooks/{hook['id']}/test", headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    asked = answers[0].json()
    (told,) = await listener.until(1)
    assert (told.path, told.id) == ("/this", asked["id"])
    assert standardwebhooks.Webhook(hook["secret"]).verify(told.body, told.headers) == told.event
    assert (told.event["type"], told.event["data"]) == ("webhook.test", {"id": hook["id"]})
    [shown] = await _ended(sender, hook, 1, "delivered")
    assert (shown["id"], shown["event_type"], shown["attempts"][0]["status"]) == (asked["id"], "webhook.test", 200)
    assert [event for event in await _log(sender) if event["type"] == "webhook.test"] == [told.event]
    assert len(listener.told) == 1
    await sender.patch(f"/webhooks/{hook['id']}", json={"status": "disabled"})
    refusal = await sender.post(f"/webhooks/{hook['id']}/test")
    assert (refusal.status_code, refusal.json()["name"]) == (409, "invalid_state")


async def test_what_was_delivered_or_given_up_is_told_again_under_its_id_and_from_the_schedules_beginning(
    sending_house: house.House, sender: httpx2.AsyncClient, listener: receiver.Receiver
) -> None:
    """The house tries three times. With all attempts counted in the schedule, the second round had one."""
    hook = await _hook(sender, listener.url())
    at = f"/webhooks/{hook['id']}"
    await _box(sender)
    [delivered] = await _ended(sender, hook, 1, "delivered")
    again = await sender.post(f"{at}/deliveries/{delivered['id']}/redeliver")
    assert (again.status_code, again.json()["id"], again.json()["finished_at"]) == (202, delivered["id"], None)
    await listener.until(2)
    assert [len(one["attempts"]) for one in await _ended(sender, hook, 1, "delivered")] == [2]
    listener.otherwise = "500 Oops"
    await sender.post(f"{at}/deliveries/{delivered['id']}/redeliver")
    [dead] = await _ended(sender, hook, 1, "dead")
    assert [one["number"] for one in dead["attempts"]] == [1, 2, 3, 4, 5]
    for _ in range(2):
        await _box(sender)
    given_up = await _ended(sender, hook, 3, "dead")
    listener.otherwise = receiver.OK
    since = given_up[1]["created_at"]
    assert (await sender.post(f"{at}/redeliver", params={"since": since})).json() == {"count": 2, "has_more": False}
    await _ended(sender, hook, 2, "delivered")
    assert (await sender.post(f"{at}/redeliver")).json() == {"count": 1, "has_more": False}
    await _ended(sender, hook, 3, "delivered")
    assert (await sender.post(f"{at}/redeliver")).json() == {"count": 0, "has_more": False}
    assert {told.id for told in listener.told} == {one["id"] for one in given_up}
    async with sending_house.client((await sending_house.tenant()).key) as stranger:
        for path in ("redeliver", f"deliveries/{dead['id']}/redeliver", "rotate", "test"):
            assert (await stranger.post(f"{at}/{path}")).status_code == 404
    other = await _hook(sender, listener.url())
    assert (await sender.post(f"/webhooks/{other['id']}/deliveries/{dead['id']}/redeliver")).status_code == 404


async def test_an_event_that_the_log_has_forgotten_cannot_be_told_again(
    sending_house: house.House, sender: httpx2.AsyncClient, listener: receiver.Receiver
) -> None:
    listener.otherwise = "500 Oops"
    hook = await _hook(sender, listener.url())
    await _box(sender)
    [dead] = await _ended(sender, hook, 1, "dead")
    async with letters.sql(sending_house) as connection:
        await connection.execute("delete from events where id = $1", UUID(dead["id"]))
    refusal = await sender.post(f"/webhooks/{hook['id']}/deliveries/{dead['id']}/redeliver")
    assert (refusal.status_code, refusal.json()["name"]) == (409, "invalid_state")
    assert (await sender.post(f"/webhooks/{hook['id']}/redeliver")).json() == {"count": 0, "has_more": False}


# Off and on


async def test_a_webhook_that_its_owner_disables_is_told_nothing_until_it_is_active_and_others_hear_of_it(
    sender: httpx2.AsyncClient, listener: receiver.Receiver
) -> None:
    """What happens meanwhile is not told later. Other changes do not switch it on."""
    hook = await _hook(sender, listener.url("/this"), ["mailbox.created"])
    await _hook(sender, listener.url("/others"), ["webhook.disabled"])
    off = (await sender.patch(f"/webhooks/{hook['id']}", json={"status": "disabled"})).json()
    assert (off["status"], off["disabled_reason"]) == ("disabled", "its owner disabled it")
    await _box(sender)
    still = (await sender.patch(f"/webhooks/{hook['id']}", json={"types": ["*"], "ordered": True})).json()
    assert (still["status"], still["types"], still["ordered"]) == ("disabled", ["*"], True)
    on = (await sender.patch(f"/webhooks/{hook['id']}", json={"status": "active"})).json()
    assert (on["status"], on["disabled_reason"], on["types"]) == ("active", None, ["*"])
    last = await _box(sender)
    told = await listener.until(2)
    assert [(one.path, one.event["type"]) for one in told if one.path == "/others"] == [("/others", "webhook.disabled")]
    assert [one.event["mailbox_id"] for one in told if one.path == "/this"] == [last["id"]]


async def test_a_webhook_of_a_deleted_mailbox_hears_of_the_deletion_and_can_hear_of_another(
    sender: httpx2.AsyncClient, listener: receiver.Receiver
) -> None:
    box = await _box(sender)
    hook = await _hook(sender, listener.url(), mailbox=box["id"])
    await sender.delete(f"/mailboxes/{box['id']}")
    (told,) = await listener.until(1)
    assert (told.event["type"], told.event["mailbox_id"]) == ("mailbox.deleted", box["id"])
    changed = (await sender.patch(f"/webhooks/{hook['id']}", json={"mailbox": None})).json()
    assert (changed["status"], changed["mailbox_id"]) == ("active", None)
    other = await _box(sender)
    assert (await listener.until(2))[1].event["mailbox_id"] == other["id"]
