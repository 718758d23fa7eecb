"""The dispatcher in the running worker: what is tried again, what is given up, what is written down about it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import asyncpg
import httpx2
import pytest
import standardwebhooks
from uuid_utils.compat import uuid7

from gateway import tokens
from gateway.notify import dispatch
from gateway.notify import webhooks as posting
from gateway.storage import webhooks
from tests import house
from tests.flows import receiver

pytestmark = pytest.mark.anyio

T = TypeVar("T")


@pytest.fixture
async def listener() -> AsyncIterator[receiver.Receiver]:
    async with receiver.Receiver() as somebody:
        yield somebody


async def _hook(client: httpx2.AsyncClient, url: str, types: list[str] | None = None) -> dict[str, Any]:
    answer = await client.post("/webhooks", json={"url": url, "types": types or ["mailbox.created"]})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def _happen(client: httpx2.AsyncClient, count: int = 1) -> None:
    """Something to tell."""
    for _ in range(count):
        assert (await client.post("/mailboxes", json={})).status_code == 201


async def _deliveries(client: httpx2.AsyncClient, hook: dict[str, Any], **query: str) -> list[dict[str, Any]]:
    answer = await client.get(f"/webhooks/{hook['id']}/deliveries", params=query)
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


async def _until(look: Callable[[], Awaitable[T]], true: Callable[[T], object]) -> T:
    """What `look` finds, once it is `true`. No event tells of a delivery's end, so it is looked at again and again."""
    async with asyncio.timeout(30):
        while not true(found := await look()):
            pass
    return found


async def _finished(client: httpx2.AsyncClient, hook: dict[str, Any]) -> list[dict[str, Any]]:
    """The webhook's deliveries, once none is pending."""
    return await _until(
        lambda: _deliveries(client, hook), lambda found: all(one["status"] != "pending" for one in found)
    )


async def _shown(client: httpx2.AsyncClient, hook: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = (await client.get(f"/webhooks/{hook['id']}")).json()
    return shown


async def test_a_failure_is_tried_again_under_the_same_id(
    sender: httpx2.AsyncClient, listener: receiver.Receiver
) -> None:
    """With the attempt's lease in place of the event's id as webhook-id, three different ids came."""
    listener.answers.extend(["500 Oops", "302 Found\r\nLocation: /elsewhere"])
    hook = await _hook(sender, listener.url())
    await _happen(sender)
    told = await listener.until(3)
    (delivery,) = await _finished(sender, hook)
    assert {one.id for one in told} == {delivery["id"]}
    assert len({one.body for one in told}) == 1
    assert {one.path for one in told} == {"/hook"}
    for one in told:
        standardwebhooks.Webhook(hook["secret"]).verify(one.body, one.headers)
    assert delivery["status"] == "delivered"
    assert (delivery["event_type"], delivery["next_attempt_at"]) == ("mailbox.created", None)
    assert delivery["finished_at"] >= delivery["created_at"]
    made = delivery["attempts"]
    assert [(one["number"], one["status"], one["answer"]) for one in made] == [
        (1, 500, "seen"),
        (2, 302, "seen"),
        (3, 200, "seen"),
    ]
    assert all(one["latency_ms"] >= 0 for one in made)


async def test_after_the_schedule_a_delivery_is_dead(sender: httpx2.AsyncClient, listener: receiver.Receiver) -> None:
    """WEBHOOK_RETRY_SCHEDULE of the house has two waits: three attempts in all."""
    listener.otherwise = "503 Away"
    hook = await _hook(sender, listener.url())
    await _happen(sender)
    await listener.until(3)
    (delivery,) = await _finished(sender, hook)
    assert (delivery["status"], len(delivery["attempts"])) == ("dead", 3)
    assert await _deliveries(sender, hook, status="delivered") == []
    assert await _deliveries(sender, hook, status="dead") == [delivery]
    shown = await _shown(sender, hook)
    assert shown["status"] == "active"
    assert shown["failing_since"] is not None
    listener.otherwise = receiver.OK
    await _happen(sender)
    await listener.until(4)
    assert [one["status"] for one in await _finished(sender, hook)] == ["delivered", "dead"]
    assert (await _shown(sender, hook))["failing_since"] is None


async def test_a_target_that_nobody_listens_at_is_an_attempt_without_a_status(sender: httpx2.AsyncClient) -> None:
    async with receiver.Receiver() as gone:
        url = gone.url()
    hook = await _hook(sender, url)
    await _happen(sender)
    (delivery,) = await _finished(sender, hook)
    assert delivery["status"] == "dead"
    assert [one["status"] for one in delivery["attempts"]] == [None] * 3
    assert all(one["error"] for one in delivery["attempts"])


async def test_410_disables_the_webhook_and_says_so_once(
    sender: httpx2.AsyncClient, listener: receiver.Receiver
) -> None:
    """Several deliveries hear 410 at the same time; each of them wants to disable.

    With the second disabling told like the first, three events of it were in the log."""
    listener.otherwise = "410 Gone"
    listener.hold = asyncio.Event()
    hook = await _hook(sender, listener.url())
    await _happen(sender, 5)
    await listener.until(5)
    listener.hold.set()
    deliveries = await _finished(sender, hook)
    assert {one["status"] for one in deliveries} == {"dead"}
    shown = await _until(lambda: _shown(sender, hook), lambda shown: shown["status"] != "active")
    assert (shown["status"], shown["disabled_reason"]) == ("disabled", "its receiver answered 410 Gone")
    await _happen(sender)
    events = (await sender.get("/events", params={"types": "webhook.disabled"})).json()["data"]
    assert [event["data"]["id"] for event in events] == [hook["id"]]
    assert "410" in events[0]["data"]["reason"]
    assert len(await _deliveries(sender, hook)) == 5
    again = await sender.patch(f"/webhooks/{hook['id']}", json={"types": ["mailbox.created"]})
    assert (again.json()["status"], again.json()["disabled_reason"]) == ("active", None)
    listener.otherwise = receiver.OK
    await _happen(sender)
    await listener.until(6)
    assert (await _finished(sender, hook))[0]["status"] == "delivered"


async def test_five_days_of_nothing_but_failure_disable_the_webhook(
    sending_house: house.House, sender: httpx2.AsyncClient, listener: receiver.Receiver
) -> None:
    listener.otherwise = "500 Oops"
    hook = await _hook(sender, listener.url())
    await _happen(sender)
    await listener.until(3)
    await _finished(sender, hook)
    assert (await _shown(sender, hook))["status"] == "active"
    connection = await asyncpg.connect(sending_house.dsn)
    try:
        await connection.execute(
            "update webhooks set failing_since = failing_since - interval '5 days' where id = $1", hook["id"]
        )
    finally:
        await connection.close()
    after = (await sender.get("/events")).json()["next_cursor"]
    await _happen(sender)
    query = {"types": "webhook.disabled", "after": after, "wait": "25"}
    (event,) = (await sender.get("/events", params=query)).json()["data"]
    assert event["data"]["id"] == hook["id"]
    shown = await _shown(sender, hook)
    assert (shown["status"], shown["disabled_reason"]) == ("disabled", event["data"]["reason"])
    assert {one["status"] for one in await _deliveries(sender, hook)} == {"dead"}


async def test_a_deleted_webhook_is_not_told_what_still_waits(
    sender: httpx2.AsyncClient, listener: receiver.Receiver
) -> None:
    """It is deleted while the verdict is being written. When that took the rows in another order than the deletion,
    they deadlocked, and the deletion was answered 503."""
    listener.otherwise = "500 Oops\r\nRetry-After: 3600"
    hook = await _hook(sender, listener.url("/gone"))
    await _happen(sender)
    await listener.until(1)
    assert (await sender.delete(f"/webhooks/{hook['id']}")).status_code == 204
    listener.otherwise = receiver.OK
    await _hook(sender, listener.url("/here"))
    await _happen(sender)
    told = await listener.until(2)
    assert [one.path for one in told] == ["/gone", "/here"]


async def test_retry_after_is_honoured(sender: httpx2.AsyncClient, listener: receiver.Receiver) -> None:
    listener.otherwise = "503 Away\r\nRetry-After: 3600"
    hook = await _hook(sender, listener.url())
    await _happen(sender)
    await listener.until(1)
    (delivery,) = await _until(lambda: _deliveries(sender, hook), lambda found: _wait(found[0]) > timedelta(minutes=55))
    assert (delivery["status"], [one["status"] for one in delivery["attempts"]]) == ("pending", [503])
    assert _wait(delivery) < timedelta(minutes=65)


def _wait(delivery: dict[str, Any]) -> timedelta:
    if delivery["next_attempt_at"] is None:
        return timedelta()
    return datetime.fromisoformat(delivery["next_attempt_at"]) - datetime.fromisoformat(delivery["created_at"])


async def test_events_are_told_with_the_log_s_order_in_them(
    sender: httpx2.AsyncClient, listener: receiver.Receiver
) -> None:
    hook = await _hook(sender, listener.url(), ["*"])
    await _happen(sender, 25)
    told = await listener.until(25)
    log = (await sender.get("/events", params={"limit": "200", "types": "mailbox.created"})).json()["data"]
    assert sorted((one.event for one in told), key=lambda event: event["seq"]) == log
    await _finished(sender, hook)
    page = (await sender.get(f"/webhooks/{hook['id']}/deliveries", params={"limit": "20"})).json()
    rest = (
        await sender.get(f"/webhooks/{hook['id']}/deliveries", params={"cursor": page["next_cursor"], "limit": "20"})
    ).json()
    assert [one["seq"] for one in page["data"] + rest["data"]] == [event["seq"] for event in reversed(log)]


async def test_a_target_that_became_private_is_refused_at_the_connection(dsn: str, redis_url: str) -> None:
    """The webhook was made where private targets are allowed; the worker that is to tell it does not allow them.

    With allow_private=True in Poster, both of its looks, the delivery was `delivered`."""
    settings = {"WEBHOOK_RETRY_SCHEDULE": "0.05"}
    async with (
        receiver.Receiver() as listener,
        house.standing(dsn, redis_url, programs=("serve",)) as open_,
        house.standing(dsn, redis_url, programs=("worker",), settings={**settings, "WEBHOOK_ALLOW_PRIVATE": "false"}),
        open_.client((await open_.tenant()).key) as client,
    ):
        hooks = [await _hook(client, listener.url()), await _hook(client, "http://localhost:8009/")]
        await _happen(client)
        for hook in hooks:
            (delivery,) = await _finished(client, hook)
            assert delivery["status"] == "dead"
            assert [one["status"] for one in delivery["attempts"]] == [None, None]
            assert all("public" in one["error"] for one in delivery["attempts"])
        assert listener.told == []


@pytest.mark.parametrize("rotating", [False, True])
def test_after_secret_key_was_changed_posts_are_signed_for_receivers_that_know_the_secret_before(
    rotating: bool,
) -> None:
    """With the newest key alone the receiver's own library refused the post."""
    now = datetime.now(UTC)
    webhook = webhooks.Webhook(
        id=uuid7(),
        url="https://receiver.example",
        types=("*",),
        mailbox_id=None,
        status="active",
        disabled_reason=None,
        secret_generation=2,
        previous_secret_until=now + timedelta(hours=1) if rotating else None,
        failing_since=None,
        created_at=now,
        deleted_at=None,
    )
    before, after = tokens.Keyring(b"b" * 32), tokens.Keyring(b"a" * 32, [b"b" * 32])
    headers = posting.sign(dispatch.secrets_of(after, webhook, now), "id", now, b"{}")
    for keyring in (before, after):
        for generation in (2, 1) if rotating else (2,):
            receiver_ = standardwebhooks.Webhook(keyring.webhook_secret(webhook.id, generation))
            assert receiver_.verify(b"{}", headers) == {}
    assert len(dispatch.secrets_of(before, webhook, now)) == 1 + rotating
