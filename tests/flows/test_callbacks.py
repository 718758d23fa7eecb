"""Delivery events of Mailgun, Postmark and SES, posted as they post them, and what the account hears of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import pytest
from uuid_utils.compat import uuid7

from tests import amazon, conftest, house, sending
from tests.flows import letters
from tests.flows.test_inbound_http import POSTMARK_AUTH, SIGNING_KEY, listening_to, mailgun_form
from tests.flows.test_mailboxes import refused
from tests.outbound import posts

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("a house that any provider may call")]


@pytest.fixture(scope="module")
def open_house(postgres_dsn: str, redis_url: str) -> Iterator[house.House]:
    """A house that Mailgun and Postmark may tell something."""
    yield from conftest._standing(
        postgres_dsn, redis_url, MAILGUN_SIGNING_KEY=SIGNING_KEY, POSTMARK_WEBHOOK_AUTH=":".join(POSTMARK_AUTH)
    )


@pytest.fixture
async def owner(open_house: house.House) -> AsyncIterator[httpx2.AsyncClient]:
    """An account of the test's own there."""
    async with open_house.client((await open_house.tenant()).key) as client:
        yield client


@pytest.fixture
async def provider(open_house: house.House) -> AsyncIterator[httpx2.AsyncClient]:
    """Somebody without a key."""
    async with httpx2.AsyncClient(base_url=f"{open_house.url}/v1", timeout=30, verify=house.NOBODY) as client:
        yield client


async def sent_by(home: house.House, client: httpx2.AsyncClient, provider: str, provider_id: str) -> str:
    """An e-mail that this provider took under this id."""
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    email_id = await sending.send(client, to="user@recipient.example", scheduled_at=later)
    async with letters.sql(home) as connection:
        await connection.execute(
            "update deliveries set status = 'sent', due_at = null, attempts = 1, provider = $2, provider_id = $3 "
            "where email_id = $1",
            *(UUID(email_id), provider, provider_id),
        )
        await connection.execute(
            "insert into provider_messages (provider, provider_id, account_id, delivery_id) "
            "select $2, $3, account_id, id from deliveries where email_id = $1",
            *(UUID(email_id), provider, provider_id),
        )
    return email_id


async def news_of(client: httpx2.AsyncClient, email_id: str) -> list[dict[str, Any]]:
    """What was told of it after it was scheduled."""
    return (await letters.listed(client, "/events", email=email_id))[1:]


async def kept(home: house.House, provider_id: str) -> int:
    named = "select count(*) from callbacks where split_part(provider_id, ' ', 1) = $1"
    async with letters.sql(home) as connection:
        count: int = await connection.fetchval(named, provider_id)
    return count


def heard(answer: httpx2.Response) -> str:
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"object", "event_id"}
    return str(answer.json()["event_id"])


async def test_what_mailgun_tells_reaches_the_account(
    open_house: house.House, provider: httpx2.AsyncClient, owner: httpx2.AsyncClient
) -> None:
    message_id = f"{uuid7().hex}@mg.example"
    email_id = await sent_by(open_house, owner, "mailgun", message_id)
    for event in (
        posts.mailgun_event("accepted", message_id),
        posts.mailgun_event("delivered", message_id, **{"delivery-status": {"code": 250, "message": "OK"}}),
        posts.mailgun_event("opened", message_id, ip="192.0.2.1", **{"client-info": {"user-agent": "Mozilla"}}),
        posts.mailgun_event("clicked", message_id, url="https://example.com/a"),
        posts.mailgun_event("complained", message_id),
    ):
        heard(await provider.post("/callbacks/mailgun", json=posts.mailgun(event, SIGNING_KEY)))
    told = await news_of(owner, email_id)
    assert [event["type"] for event in told] == [
        *("email.delivered", "email.opened", "email.clicked", "email.complained"),
    ]
    data = told[0]["data"]
    assert (data["id"], data["recipient"], data["status"]) == (email_id, "user@recipient.example", "delivered")
    assert (data["provider"], data["attempt"], data["reply"]) == ("mailgun", 1, "250 OK")
    assert data["occurred_at"].startswith("2018-03-19T15:11:02")
    assert (told[1]["data"]["ip"], told[1]["data"]["user_agent"]) == ("192.0.2.1", "Mozilla")
    assert told[2]["data"]["url"] == "https://example.com/a"
    assert (await sending.read(owner, email_id))["status"] == "complained"
    assert await kept(open_house, message_id) == 5


async def test_a_late_delivered_does_not_undo_a_bounce(
    open_house: house.House, provider: httpx2.AsyncClient, owner: httpx2.AsyncClient
) -> None:
    """Providers post in any order.

    Negative control: with `bounced` among the statuses that `delivered` ends it failed, with status "delivered".
    """
    message_id = str(uuid7())
    email_id = await sent_by(open_house, owner, "postmark", message_id)
    for record in ("Bounce", "Delivery"):
        heard(await provider.post("/callbacks/postmark", json=posts.postmark(record, message_id), auth=POSTMARK_AUTH))
    shown = await sending.read(owner, email_id)
    assert shown["status"] == "bounced"
    assert shown["recipients"][0]["reply"] == f"smtp;{posts.GONE}"
    [bounced] = await news_of(owner, email_id)
    assert bounced["type"] == "email.bounced"
    assert bounced["data"]["classification"] == {"rule": "5.1.1", "class": "hard", "suppresses": True}


async def test_an_accounts_own_rule_reads_what_a_provider_tells(
    open_house: house.House, provider: httpx2.AsyncClient, owner: httpx2.AsyncClient
) -> None:
    """It cannot be tried again, for the provider has given up; but nobody is listed by it.

    Negative control: with no `own` handed to `classify` in `_tell` the address was listed, by 5.1.1.
    """
    wish = {"words": "does not exist", "kind": "soft", "action": "retry"}
    rule = (await owner.post("/bounces/rules", json=wish)).json()
    message_id = str(uuid7())
    email_id = await sent_by(open_house, owner, "postmark", message_id)
    bounce = posts.postmark("Bounce", message_id, ID=uuid7().int >> 66)
    heard(await provider.post("/callbacks/postmark", json=bounce, auth=POSTMARK_AUTH))
    [bounced] = await news_of(owner, email_id)
    assert bounced["type"] == "email.bounced"
    assert bounced["data"]["classification"] == {"rule": rule["id"], "class": "soft", "suppresses": False}
    assert await letters.listed(owner, "/suppressions") == []


async def test_a_callback_that_is_repeated_changes_nothing(
    open_house: house.House, provider: httpx2.AsyncClient, owner: httpx2.AsyncClient
) -> None:
    """Signed anew or not, one after the other or at once.

    Negative control: without the look at `callbacks.use` it failed, with more than one event of each kind.
    """
    message_id = f"{uuid7().hex}@mg.example"
    email_id = await sent_by(open_house, owner, "mailgun", message_id)
    event = posts.mailgun_event("clicked", message_id, url="https://example.com/a")
    first = posts.mailgun(event, SIGNING_KEY)
    again = [first, first, posts.mailgun(event, SIGNING_KEY), posts.mailgun(event, SIGNING_KEY, age=60)]
    answers = await asyncio.gather(*(provider.post("/callbacks/mailgun", json=given) for given in again))
    assert len({heard(answer) for answer in answers}) == 1
    opened = await sent_by(open_house, owner, "postmark", str(uuid7()))
    record = posts.postmark("Open", (await sending.read(owner, opened))["recipients"][0]["provider_id"])
    for _ in range(3):
        heard(await provider.post("/callbacks/postmark", json=record, auth=POSTMARK_AUTH))
    assert [told["type"] for told in await news_of(owner, email_id)] == ["email.clicked"]
    assert [told["type"] for told in await news_of(owner, opened)] == ["email.opened"]
    assert await kept(open_house, message_id) == 1


async def test_what_is_about_nobodys_mail_is_kept_and_answered_200(
    open_house: house.House, provider: httpx2.AsyncClient, owner: httpx2.AsyncClient
) -> None:
    """And is applied when it is posted again after it is known whose mail it was."""
    message_id = str(uuid7())
    record = posts.postmark("Delivery", message_id)
    heard(await provider.post("/callbacks/postmark", json=record, auth=POSTMARK_AUTH))
    assert await kept(open_house, message_id) == 1
    email_id = await sent_by(open_house, owner, "postmark", message_id)
    heard(await provider.post("/callbacks/postmark", json=record, auth=POSTMARK_AUTH))
    assert [told["type"] for told in await news_of(owner, email_id)] == ["email.delivered"]
    assert await kept(open_house, message_id) == 1


@pytest.mark.parametrize("forgery", ["key", "old", "token", "other body", "inbound's", "none", "no JSON"])
async def test_what_mailgun_did_not_sign_is_not_heard(
    open_house: house.House, provider: httpx2.AsyncClient, owner: httpx2.AsyncClient, forgery: str
) -> None:
    """Negative control: with what `check_mailgun` finds left unheard those of key, old and token failed, with what
    `spend` finds those of another body and of inbound's token: each was taken."""
    message_id = f"{uuid7().hex}@mg.example"
    email_id = await sent_by(open_house, owner, "mailgun", message_id)
    opened, clicked = posts.mailgun_event("opened", "x@mg.example"), posts.mailgun_event("clicked", message_id)
    good = posts.mailgun(opened, SIGNING_KEY)
    form = mailgun_form("x@postroom.test", {"body-mime": "Subject: x\r\n\r\n"})
    if forgery == "other body":
        heard(await provider.post("/callbacks/mailgun", json=good))
    if forgery == "inbound's":
        assert (await provider.post("/inbound/mailgun", data=form)).status_code in (200, 406)
    body = {
        "key": posts.mailgun(clicked, "another"),
        "old": posts.mailgun(clicked, SIGNING_KEY, age=1000),
        "token": {**good, "signature": good["signature"] | {"token": "x" * 50}, "event-data": clicked},
        "other body": {**good, "event-data": clicked},
        "inbound's": {"signature": {n: form[n] for n in ("timestamp", "token", "signature")}, "event-data": clicked},
        "none": {"event-data": clicked},
        "no JSON": "event-data",
    }[forgery]
    refused(await provider.post("/callbacks/mailgun", json=body), 401, "invalid_api_key")
    assert await news_of(owner, email_id) == []
    assert await kept(open_house, message_id) == 0


async def test_what_does_not_come_from_postmark_is_not_heard(
    open_house: house.House, provider: httpx2.AsyncClient, owner: httpx2.AsyncClient
) -> None:
    """Negative control: without `signatures.basic` it failed, for the bounce was taken."""
    message_id = str(uuid7())
    email_id = await sent_by(open_house, owner, "postmark", message_id)
    record = posts.postmark("Bounce", message_id)
    refused(await provider.post("/callbacks/postmark", json=record), 401, "invalid_api_key")
    for auth in (("postmark", "another"), ("another", POSTMARK_AUTH[1])):
        refused(await provider.post("/callbacks/postmark", json=record, auth=auth), 401, "invalid_api_key")
    assert await news_of(owner, email_id) == []


async def test_what_is_signed_and_no_callback_is_refused_for_good(provider: httpx2.AsyncClient) -> None:
    odd = posts.mailgun({"event": "delivered"}, SIGNING_KEY)
    refused(await provider.post("/callbacks/mailgun", json=odd), 406, "validation_error")
    bodies: list[Any] = [{}, [], {"RecordType": ""}]
    for body in bodies:
        refused(await provider.post("/callbacks/postmark", json=body, auth=POSTMARK_AUTH), 422, "validation_error")


async def test_what_ses_tells_reaches_the_account_and_what_it_did_not_sign_does_not(dsn: str, tmp_path: Path) -> None:
    """Negative control: without `signatures.sns` it failed, for what was changed was taken."""
    region, home = amazon.Amazon(tmp_path), house.House(dsn=dsn, environment={}, listeners={})
    key = (await home.tenant()).key
    async with listening_to(region, dsn) as client:
        headers = {"Content-Type": "text/plain; charset=UTF-8"}

        async def post(given: dict[str, Any]) -> httpx2.Response:
            return await client.post("/callbacks/ses", content=amazon.body(given), headers=headers)

        async with httpx2.AsyncClient(
            base_url=client.base_url, headers={"Authorization": f"Bearer {key}"}, timeout=30
        ) as owner:
            email_id = await sent_by(home, owner, "ses", "0102-s1")
            confirmed = await post(region.confirmation())
            assert (confirmed.status_code, confirmed.json()) == (200, {"object": "callback", "event_id": None})
            forged = region.notification(posts.ses("Complaint", "0102-s1"))
            for changed in (
                forged | {"Message": posts.ses("Bounce", "0102-s1")},
                region.notification(forged["Message"], TopicArn="arn:aws:sns:eu-west-1:666666666666:mail-in"),
            ):
                refused(await post(changed), 401, "invalid_api_key")
            assert await news_of(owner, email_id) == []
            for event in ("Send", "DeliveryDelay", "Delivery", "Open", "Click", "Bounce", "Delivery"):
                given = region.notification(posts.ses(event, "0102-s1"))
                heard(await post(given))
                heard(await post(given))
            told = await news_of(owner, email_id)
            assert [one["type"] for one in told] == [
                *("email.deferred", "email.delivered", "email.opened", "email.clicked", "email.bounced"),
            ]
            assert told[0]["data"]["status"] == "sent"  # SES tries again itself
            assert told[0]["data"]["reply"] == "421 4.4.1 Unable to connect to remote host"
            assert (await sending.read(owner, email_id))["status"] == "bounced"
            refused(await post(region.notification("no JSON")), 422, "validation_error")


async def test_where_a_provider_is_not_configured_there_is_nothing(shared_house: house.House) -> None:
    async with httpx2.AsyncClient(
        base_url=f"{shared_house.url}/v1", headers={"X-Request-Id": "the-same"}, verify=house.NOBODY
    ) as anybody:
        nothing = await anybody.post("/callbacks/nothing-here", content=b"x")
        for path in ("mailgun", "postmark", "ses"):
            answer = await anybody.post(f"/callbacks/{path}", content=b"x")
            assert answer.status_code == 404
            assert (dict(answer.headers), answer.content) == (dict(nothing.headers), nothing.content)
