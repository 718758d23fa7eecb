"""Unsubscribing from end to end: the link in each recipient's copy, a mail program's post, the page, what follows."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from tests import house, sending
from tests.flows import letters
from tests.outbound import sink

pytestmark = pytest.mark.anyio

ONE_CLICK = {"List-Unsubscribe": "One-Click"}
NEWS = {"topic": "newsletter"}
ANN, BOB = "ann@recipient.example", "bob@recipient.example"
_FIELDS = re.compile(rb"List-Unsubscribe: <(http://127\.0\.0\.1:\d+/u/[A-Za-z0-9_-]+)>\r\n")
_POST = b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"


def link(raw: bytes) -> str:
    """Where a copy's List-Unsubscribe leads; it stands there once, with its companion."""
    [found] = _FIELDS.findall(raw)
    assert raw.count(_POST) == 1
    return str(found, "ascii")


async def links(client: httpx2.AsyncClient, relay: sink.Sink, *recipients: str, **letter: Any) -> dict[str, str]:
    """The links in the copies of an e-mail, by recipient."""
    before = len(relay.messages)
    email_id = await sending.send(client, to=list(recipients), **{"unsubscribe": NEWS} | letter)
    assert (await sending.resting(client, email_id))["status"] == "sent"
    return {message.recipients[0]: link(message.raw) for message in relay.messages[before:]}


async def fate(client: httpx2.AsyncClient, **letter: Any) -> str:
    """What an e-mail comes to."""
    return str((await sending.resting(client, await sending.send(client, **letter)))["status"])


async def suppressed(client: httpx2.AsyncClient) -> list[tuple[str, str, str]]:
    found = await letters.listed(client, "/suppressions", order="asc")
    return [(one["address"], one["scope"], one["reason"]) for one in found]


async def told(client: httpx2.AsyncClient) -> list[tuple[str, str, str | None]]:
    found = await letters.listed(client, "/events", types="email.unsubscribed,email.resubscribed")
    return [(one["type"], one["data"]["recipient"], one["data"]["topic"]) for one in found]


@pytest.fixture
async def reader() -> AsyncIterator[httpx2.AsyncClient]:
    """A mail program or a browser: no key, follows nothing by itself."""
    async with httpx2.AsyncClient(timeout=30, follow_redirects=False, verify=house.NOBODY) as reader:
        yield reader


# One click


async def test_each_recipient_leaves_the_topic_alone_by_a_link_of_their_own(
    sender: httpx2.AsyncClient, relay: sink.Sink, reader: httpx2.AsyncClient
) -> None:
    """Negative control: with no topic in `Request.scopes`, `on_suppressed: "reject"` was accepted, and it failed."""
    found = await links(sender, relay, "Ann@recipient.example", BOB)
    assert len(set(found.values())) == 2
    for _ in range(2):
        answer = await reader.post(found["Ann@recipient.example"], data=ONE_CLICK)
        assert (answer.status_code, answer.text, answer.cookies) == (200, "Unsubscribed\n", httpx2.Cookies())
    assert await suppressed(sender) == [(ANN, "topic:newsletter", "unsubscribe")]
    assert await told(sender) == [("email.unsubscribed", ANN, "newsletter")]
    assert await fate(sender, to=ANN, unsubscribe=NEWS) == "suppressed"
    refusal = await sender.post("/emails", json=sending.letter(to=ANN, unsubscribe=NEWS, on_suppressed="reject"))
    sending.refused(refusal, "to", "recipient_suppressed")
    assert await fate(sender, to=ANN, unsubscribe={"topic": "offers"}) == "sent"
    assert await fate(sender, to=ANN, subject="Reset your password") == "sent"
    assert await fate(sender, to=BOB, unsubscribe=NEWS) == "sent"


async def test_without_a_topic_it_is_the_senders_domain_that_is_left(
    sender: httpx2.AsyncClient, relay: sink.Sink, reader: httpx2.AsyncClient
) -> None:
    found = await links(sender, relay, ANN, unsubscribe={})
    multipart = {"List-Unsubscribe": (None, "One-Click")}
    assert (await reader.post(found[ANN], files=multipart)).status_code == 200  # RFC 8058 3.2
    assert await suppressed(sender) == [(ANN, "domain:sender.example", "unsubscribe")]
    assert await told(sender) == [("email.unsubscribed", ANN, None)]
    assert await fate(sender, to=ANN) == "suppressed"
    assert await fate(sender, to=ANN, from_="app@accounts.sender.example") == "sent"


async def test_who_leaves_after_acceptance_gets_nothing_of_what_waits(
    sender: httpx2.AsyncClient, relay: sink.Sink, reader: httpx2.AsyncClient
) -> None:
    """Negative control: with no topic handed to `scopes_of` in `emails._claimed`, the first was `sent`: it failed."""
    found = await links(sender, relay, ANN)
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    waiting = [await sending.send(sender, to=ANN, scheduled_at=later, unsubscribe=wish) for wish in (NEWS, None)]
    assert (await reader.post(found[ANN], data=ONE_CLICK)).status_code == 200
    for email_id in waiting:
        assert (await sender.patch(f"/emails/{email_id}", json={"scheduled_at": "2020-01-01T00:00:00Z"})).is_success
    assert [(await sending.resting(sender, email_id))["status"] for email_id in waiting] == ["suppressed", "sent"]


async def test_every_attempt_sends_the_same_and_what_is_stored_has_no_link(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    relay.next("dot", sink.reply("451 4.3.0 not now"))
    email_id = await sending.send(sender, to=ANN, unsubscribe=NEWS)
    shown = await sending.resting(sender, email_id)
    assert (shown["status"], shown["unsubscribe"]) == ("sent", NEWS)
    first, second = (message.raw for message in relay.messages)
    assert link(first)
    assert first == second
    stored = (await sender.get(f"/emails/{email_id}/raw")).content
    assert b"List-Unsubscribe" not in stored
    assert first.endswith(stored)


async def test_batches_and_templates_offer_it_too(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    made = await sender.post("/templates", json={"name": "t", "subject": "s", "text": "Hello {{ name }}"})
    template = {"id": made.json()["id"], "variables": {"name": "Ann"}}
    of_template = sending.letter(to=ANN, text=None, subject=None, template=template, unsubscribe=NEWS)
    answer = await sender.post("/emails/batch", json=[sending.letter(to=BOB, unsubscribe={}), of_template])
    for one, topic in zip(answer.json()["data"], (None, "newsletter"), strict=True):
        assert (await sending.resting(sender, one["id"]))["unsubscribe"] == {"topic": topic}
    assert {message.recipients[0] for message in relay.messages if link(message.raw)} == {ANN, BOB}


async def test_a_link_works_when_the_email_and_its_account_are_gone(
    sending_house: house.House, relay: sink.Sink, reader: httpx2.AsyncClient
) -> None:
    tenant = await sending_house.tenant()
    async with sending_house.client(tenant.key) as client:
        found = await links(client, relay, ANN)
        async with letters.sql(sending_house) as connection:
            for table in ("emails", "contents", "events", "provider_messages"):
                await connection.execute(f"delete from {table} where account_id = $1", tenant.account_id)  # noqa: S608 - the test's own words
            assert (await reader.post(found[ANN], data=ONE_CLICK)).status_code == 200
            assert await suppressed(client) == [(ANN, "topic:newsletter", "unsubscribe")]
            await connection.execute("delete from accounts where id = $1", tenant.account_id)
            assert (await reader.post(found[ANN], data=ONE_CLICK)).text == "Unsubscribed\n"
            count = "select count(*) from suppressions where account_id = $1"
            assert await connection.fetchval(count, tenant.account_id) == 0


async def test_a_link_is_about_its_own_account_alone_and_no_other_can_be_made_of_it(
    sending_house: house.House, sender: httpx2.AsyncClient, relay: sink.Sink, reader: httpx2.AsyncClient
) -> None:
    """Negative control: with AES-SIV's tag not checked (its CTR half alone), a link with a bit of the address flipped
    answered 200, and it failed."""
    async with sending_house.client((await sending_house.tenant()).key) as stranger:
        found = await links(sender, relay, ANN)
        unknown = await reader.get(f"{sending_house.url}/u/nonsense")
        base, _, token = found[ANN].rpartition("/")
        octets = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        listed = await _unsubscribed(sending_house)
        for at in (len(octets) - 1, len(octets) - len(ANN), 20, 1, 0):  # the address, the account, the tag, the kind
            forged = octets[:at] + bytes([octets[at] ^ 1]) + octets[at + 1 :]
            url = f"{base}/{base64.urlsafe_b64encode(forged).decode().rstrip('=')}"
            answers = [await reader.get(url), await reader.post(url, data=ONE_CLICK)]
            assert [(answer.status_code, answer.content) for answer in answers] == [(404, unknown.content)] * 2
        assert await _unsubscribed(sending_house) == listed
        assert (await reader.post(found[ANN], data=ONE_CLICK)).status_code == 200
        assert len(await suppressed(sender)) == 1
        assert (await suppressed(stranger), await told(stranger)) == ([], [])
        assert await fate(stranger, to=ANN, unsubscribe=NEWS) == "sent"


async def _unsubscribed(home: house.House) -> int:
    """Over all accounts."""
    async with letters.sql(home) as connection:
        return int(await connection.fetchval("select count(*) from suppressions where reason = 'unsubscribe'"))


# The page


async def test_whoever_looks_changes_nothing_and_the_page_is_harmless(
    sender: httpx2.AsyncClient, relay: sink.Sink, reader: httpx2.AsyncClient
) -> None:
    """Negative control: with GET doing what the post does, the address was on the list: it failed."""
    found = await links(sender, relay, ANN)
    pages = [await reader.get(found[ANN]), await reader.get(found[ANN]), await reader.head(found[ANN])]
    for page in pages:
        assert page.status_code == 200
        policy = page.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "script-src" not in policy
        assert page.headers["referrer-policy"] == "no-referrer"
        assert page.headers["cache-control"] == "no-store"
    assert "<script" not in pages[0].text
    assert "newsletter" in pages[0].text
    assert "a…@recipient.example" in pages[0].text
    assert "ann@" not in pages[0].text
    for body in ({}, {"List-Unsubscribe": "Two-Clicks"}, {"list-unsubscribe": "One-Click"}):
        assert (await reader.post(found[ANN], data=body)).status_code == 400
    assert (await reader.post(found[ANN], content=b"List-Unsubscribe=One-Click")).status_code == 400
    assert (await reader.post(found[ANN], data=ONE_CLICK | {"x": "y" * 5000})).status_code == 413
    assert (await reader.delete(found[ANN])).status_code == 405
    assert (await suppressed(sender), await told(sender)) == ([], [])


async def test_what_the_page_shows_is_escaped(
    sender: httpx2.AsyncClient, relay: sink.Sink, reader: httpx2.AsyncClient
) -> None:
    found = await links(sender, relay, '"<script>"@recipient.example', "&amp@recipient.example")
    for url in found.values():
        text = (await reader.get(url)).text
        assert "<script" not in text
        assert "&…" not in text
        assert re.search("<strong>&(quot|amp);…@recipient.example</strong>", text)


async def test_what_the_button_did_can_be_taken_back_and_no_other_suppression_with_it(
    sender: httpx2.AsyncClient, relay: sink.Sink, reader: httpx2.AsyncClient
) -> None:
    found = await links(sender, relay, ANN, BOB)
    for url in (found[ANN], found[BOB]):
        asked = await reader.get(url)
        done = await reader.post(url, data=_form(asked.text))
        assert (done.status_code, "You are unsubscribed" in done.text) == (200, True)
    manual = {"address": BOB, "scope": "topic:newsletter", "reason": "manual"}
    assert (await sender.post("/suppressions", json=manual)).status_code == 201
    for url in (found[ANN], found[ANN], found[BOB]):
        back = await reader.post(url, data=_form(done.text))
        assert (back.status_code, "You are subscribed again" in back.text) == (200, True)
    assert await suppressed(sender) == [(BOB, "topic:newsletter", "manual")]
    news = [("email.unsubscribed", ANN), ("email.unsubscribed", BOB), ("email.resubscribed", ANN)]
    assert [event[:2] for event in await told(sender)] == news
    assert await fate(sender, to=ANN, unsubscribe=NEWS) == "sent"


def _form(page: str) -> dict[str, str]:
    return dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]+)">', page))


async def test_leaving_is_for_good_where_a_suppression_would_have_ended(
    sender: httpx2.AsyncClient, relay: sink.Sink, reader: httpx2.AsyncClient
) -> None:
    found = await links(sender, relay, ANN)
    ends = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    wish = {"address": ANN, "scope": "topic:newsletter", "expires_at": ends}
    assert (await sender.post("/suppressions", json=wish)).status_code == 201
    assert (await reader.post(found[ANN], data=ONE_CLICK)).status_code == 200
    [shown] = await letters.listed(sender, "/suppressions")
    assert (shown["reason"], shown["expires_at"]) == ("unsubscribe", None)


# What is refused


@pytest.mark.parametrize(
    ("letter", "field"),
    [
        ({"unsubscribe": True}, "unsubscribe"),
        ({"unsubscribe": {"topic": "News"}}, "unsubscribe.topic"),
        ({"unsubscribe": {"topic": ""}}, "unsubscribe.topic"),
        ({"unsubscribe": {"topic": "a\r\nBcc: x@y.example"}}, "unsubscribe.topic"),
        ({"unsubscribe": {"topic_id": "a"}}, "unsubscribe.topic_id"),
        ({"unsubscribe": {}, "headers": {"list-unsubscribe": "<https://x.example>"}}, "headers.list-unsubscribe"),
        ({"unsubscribe": {}, "headers": {"List-Unsubscribe-Post": "x"}}, "headers.List-Unsubscribe-Post"),
    ],
)
async def test_what_is_wrong_with_an_offer_is_said(
    client: httpx2.AsyncClient, letter: dict[str, Any], field: str
) -> None:
    sending.refused(await client.post("/emails", json=sending.letter(**letter)), field)


async def test_an_own_header_goes_out_as_it_is_where_nothing_is_offered(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    await fate(sender, headers={"List-Unsubscribe": "<https://x.example/u>"})
    assert relay.messages[0].raw.count(b"List-Unsubscribe") == 1


async def test_a_webhook_can_be_told_of_it_alone(client: httpx2.AsyncClient) -> None:
    types = ["email.unsubscribed", "email.resubscribed"]
    answer = await client.post("/webhooks", json={"url": "http://127.0.0.1:9/", "types": types})
    assert answer.status_code == 201
