"""Mail out: from a request over HTTP through the worker to a real relay, to a second one, or to an own mailbox."""

from __future__ import annotations

import asyncio
import base64
import email
import email.policy
from email.message import EmailMessage
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx2
import pytest

from tests import house, sending
from tests.flows import letters
from tests.outbound import bounces, sink

pytestmark = pytest.mark.anyio

PASSWORD = "correct-horse-battery"


def _parsed(raw: bytes) -> EmailMessage:
    return email.message_from_bytes(raw, policy=email.policy.default)


async def test_an_email_leaves_with_its_envelope_and_its_headers(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    email_id = await sending.send(
        sender,
        to=["Ann Lee <ann@one.example>", "bob@two.example"],
        cc="carl@three.example",
        bcc="dora@four.example",
        reply_to="desk@sender.example",
        subject="Grüße, Zoë",
        text="plain",
        html="<p>rich</p>",
        headers={"X-Campaign": "spring", "List-Unsubscribe": "<https://sender.example/u>"},
    )
    shown = await sending.resting(sender, email_id)
    await relay.until(lambda: len(relay.messages) == 4)
    assert {message.recipients for message in relay.messages} == {
        ("ann@one.example",),
        ("bob@two.example",),
        ("carl@three.example",),
        ("dora@four.example",),
    }
    assert {message.mail_from for message in relay.messages} == {"app@sender.example"}
    assert len({message.raw for message in relay.messages}) == 1
    mail = _parsed(relay.messages[0].raw)
    assert mail["From"] == "App <app@sender.example>"
    assert mail["To"] == "Ann Lee <ann@one.example>, bob@two.example"
    assert mail["Cc"] == "carl@three.example"
    assert mail["Reply-To"] == "desk@sender.example"
    assert mail["Subject"] == "Grüße, Zoë"
    assert mail["X-Campaign"] == "spring"
    assert mail["List-Unsubscribe"] == "<https://sender.example/u>"
    assert mail["Message-ID"] == shown["message_id"] == f"<{email_id}@sender.example>"
    assert mail["Date"] is not None
    assert b"dora" not in relay.messages[0].raw
    plain, rich = mail.get_body(("plain",)), mail.get_body(("html",))
    assert plain is not None
    assert rich is not None
    assert plain.get_content().strip() == "plain"
    assert rich.get_content().strip() == "<p>rich</p>"


async def test_without_a_return_domain_bounces_go_to_the_author(
    sending_house: house.House, sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    email_id = await sending.send(sender)
    await sending.resting(sender, email_id)
    assert relay.messages[0].mail_from == "app@sender.example"
    async with letters.sql(sending_house) as connection:
        assert await connection.fetchval("select count(*) from provider_messages where provider = 'mail'") == 0
        delivery_id = await connection.fetchval("select id from deliveries where email_id = $1", UUID(email_id))
    path = bounces.PATHS.address(UUID(str(delivery_id)))
    assert (await letters.sent(sending_house, bounces.report("user@recipient.example"), path)).startswith("550 5.7.1")
    made = (await sender.post("/domains", json={"name": "without-return-paths.example"})).json()
    assert "return_path" not in {record["purpose"] for record in made["records"]}


async def test_what_the_relay_got_is_what_raw_shows(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    text = "a dot on its own:\r\n.\r\n..two\r\nand lines that end in \\n alone\nlast"
    email_id = await sending.send(sender, text=text)
    await sending.resting(sender, email_id)
    answer = await sender.get(f"/emails/{email_id}/raw")
    assert answer.headers["content-type"] == "message/rfc822"
    assert answer.content == relay.messages[0].raw


async def test_a_sent_email_tells_its_status_its_event_and_its_provider(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    email_id = await sending.send(sender, tags=[{"name": "kind", "value": "hello"}], metadata={"order": [7]})
    shown = await sending.resting(sender, email_id)
    assert (shown["status"], shown["last_event"]) == ("sent", "sent")
    assert shown["tags"] == [{"name": "kind", "value": "hello"}]
    assert shown["metadata"] == {"order": [7]}
    (recipient,) = shown["recipients"]
    assert recipient["address"] == "user@recipient.example"
    assert (recipient["status"], recipient["attempts"], recipient["next_attempt_at"]) == ("sent", 1, None)
    assert recipient["provider"] == f"smtp:127.0.0.1:{relay.port}"
    assert recipient["reply"] == "250 2.0.0 queued as S1"
    queued, sent = await sending.timeline(sender, email_id)
    assert (queued["type"], sent["type"]) == ("email.queued", "email.sent")
    assert sent["email_id"] == email_id
    assert sent["data"]["recipient"] == "user@recipient.example"
    assert (sent["data"]["status"], sent["data"]["attempt"]) == ("sent", 1)
    assert sent["data"]["reply"] == recipient["reply"]
    assert sent["data"]["provider"] == recipient["provider"]


async def test_attachments_arrive_as_base64_and_as_lists_of_bytes(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    content = bytes(range(256))
    encoded = base64.b64encode(content).decode()
    email_id = await sending.send(
        sender,
        html='<img src="cid:logo">',
        attachments=[
            {"filename": "naïve.bin", "content": encoded},
            {"filename": "list.txt", "content": list(content), "content_type": "text/plain"},
            {"filename": "logo.png", "content": encoded, "content_type": "image/png", "content_id": "logo"},
        ],
    )
    shown = await sending.resting(sender, email_id)
    mail = _parsed(relay.messages[0].raw)
    parts = {part.get_filename(): part for part in mail.walk() if part.get_filename()}
    assert parts.keys() == {"naïve.bin", "list.txt", "logo.png"}
    assert all(part.get_payload(decode=True) == content for part in parts.values())
    assert parts["naïve.bin"].get_content_type() == "application/octet-stream"
    assert parts["logo.png"]["Content-ID"] == "<logo>"
    assert {(one["filename"], one["size"]) for one in shown["attachments"]} == {(name, 256) for name in parts}


async def test_a_relay_with_starttls_and_auth_is_spoken_to_in_its_order_and_its_password_stays_here(
    dsn: str, redis_url: str, tmp_path: Path
) -> None:
    relay = sink.Sink(tls=sink.server_tls(tmp_path), credentials=("app", PASSWORD))
    async with relay:
        outbound, authority = relay.url("tls=starttls", user=f"app:{PASSWORD}"), str(tmp_path / "ca.pem")
        async with sending.at_home(dsn, redis_url, tmp_path, OUTBOUND=outbound, SSL_CERT_FILE=authority) as client:
            email_id = await sending.send(client)
            shown = await sending.resting(client, email_id)
            made = await sending.attempts(client, email_id)
    assert shown["status"] == "sent"
    assert (relay.messages[0].tls, relay.messages[0].user) == (True, "app")
    assert [line.partition(" ")[0] for line in relay.lines()][:6] == [
        "EHLO",
        "STARTTLS",
        "EHLO",
        "AUTH",
        "MAIL",
        "RCPT",
    ]
    told = "\n".join(made[0]["transcript"])
    assert "AUTH" in told
    assert "RCPT TO:<user@recipient.example>" in told
    logs = "".join((tmp_path / f"{name}.log").read_text() for name in ("serve", "worker"))
    assert "worker started" in logs
    for secret in (PASSWORD, _base64(PASSWORD), _base64(f"\0app\0{PASSWORD}")):
        assert secret not in told + str(shown) + logs


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


async def test_a_provider_that_refuses_our_password_is_passed_over_and_blames_no_recipient(
    dsn: str, redis_url: str
) -> None:
    async with sink.Sink(credentials=("app", "another")) as first, sink.Sink() as second:
        outbound = f"{first.url('tls=none', user=f'app:{PASSWORD}')} {second.url('tls=none')}"
        async with sending.at_home(dsn, redis_url, OUTBOUND=outbound) as client:
            email_id = await sending.send(client)
            shown = await sending.resting(client, email_id)
            made = await sending.attempts(client, email_id)
            events = [event["type"] for event in await sending.timeline(client, email_id)]
            await sending.resting(
                client, await sending.send(client)
            )  # the first one's circuit is open: not asked again
        assert shown["status"] == "sent"
        assert shown["recipients"][0]["provider"] == f"smtp:127.0.0.1:{second.port}"
        assert events == ["email.queued", "email.sent"]
        assert [(one["outcome"], one["code"]) for one in made] == [("provider_fault", 535), ("sent", 250)]
        assert PASSWORD not in str(made)
        assert (len(first.messages), len(second.messages)) == (0, 2)
        assert len(first.lines("AUTH")) == 1


async def test_mail_for_an_own_mailbox_stays_in_the_house_and_is_delivered(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    box = (await sender.post("/mailboxes", json={})).json()
    email_id = await sending.send(sender, to=box["address"], subject="In house")
    waited = (await sender.get(f"/mailboxes/{box['id']}/wait", params={"timeout": 25})).json()
    shown = await sending.resting(sender, email_id)
    assert waited["message"]["subject"] == "In house"
    assert waited["message"]["envelope"]["mail_from"] == "app@sender.example"
    assert waited["message"]["message_id"] == shown["message_id"]
    assert shown["status"] == "delivered"
    assert shown["recipients"][0]["provider"] == "local"
    assert [event["type"] for event in await sending.timeline(sender, email_id)] == ["email.queued", "email.delivered"]
    assert relay.messages == []


async def test_mail_for_nobody_at_an_own_domain_is_delivered_too(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    email_id = await sending.send(sender, to="nobody-at-all@postroom.test")
    assert (await sending.resting(sender, email_id))["status"] == "delivered"
    assert relay.messages == []


async def test_a_local_delivery_whose_verdict_was_lost_is_one_mail(
    sending_house: house.House, sender: httpx2.AsyncClient
) -> None:
    """The row is put back as a worker leaves it that dies between the delivery's commit and the verdict's.

    With a fresh receipt id for each attempt in Gateway.deliver_local, two messages were listed."""
    box = (await sender.post("/mailboxes", json={})).json()
    email_id = await sending.send(sender, to=box["address"])
    await sending.resting(sender, email_id)
    connection = await asyncpg.connect(sending_house.dsn)
    try:
        await connection.execute(
            "update deliveries set status = 'sending', due_at = now() where email_id = $1", email_id
        )
    finally:
        await connection.close()
    shown = await sending.resting(sender, email_id)
    assert shown["recipients"][0]["attempts"] == 2
    assert shown["status"] == "delivered"
    listed = (await sender.get(f"/mailboxes/{box['id']}/messages")).json()["data"]
    assert len(listed) == 1


async def test_mail_without_redis_is_found_by_the_sweeper(dsn: str) -> None:
    async with sink.Sink() as relay, sending.at_home(dsn, "", OUTBOUND=relay.url("tls=none")) as client:
        sent = [await sending.send(client) for _ in range(3)]
        shown = [await sending.resting(client, email_id) for email_id in sent]
        assert [one["status"] for one in shown] == ["sent"] * 3
        assert relay.count == 3


async def test_a_nudge_is_enough_where_the_sweeper_sleeps(dsn: str, redis_url: str) -> None:
    """The sweeper looks once at the start and then not for an hour; only the nudge is left to tell of the mail.

    With the outbox given a `due` that does nothing, the first e-mail stayed queued until the timeout."""
    async with sink.Sink() as relay:
        outbound = relay.url("tls=none")
        async with sending.at_home(dsn, redis_url, OUTBOUND=outbound, SWEEP_INTERVAL_SECONDS="3600") as client:
            async with asyncio.timeout(sending.PATIENCE):
                shown = [await sending.resting(client, await sending.send(client)) for _ in range(3)]
        assert [one["status"] for one in shown] == ["sent"] * 3
