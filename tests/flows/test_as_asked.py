"""An e-mail leaves exactly as it was asked for: bodies, files, names, times, words about it; and comes back so."""

from __future__ import annotations

import asyncio
import base64
import email
import email.policy
from datetime import UTC, datetime, timedelta, timezone
from email.message import EmailMessage
from typing import Any

import httpx2
import pytest

from tests import sending
from tests.outbound import sink

pytestmark = pytest.mark.anyio

HTML = '<h1>Hi &amp; welcome</h1><p>Please <a href="https://app.example/v?t=1&amp;u=2">confirm</a>.</p>'
TEXT = "Hi & welcome\n\nPlease confirm (https://app.example/v?t=1&u=2)."
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
NAMES = (
    "plain.pdf",
    "Rechnung für März.pdf",
    "請求書.pdf",
    'say "cheese"; ok.txt',
    "100% *real*'s.csv",
    "very long " * 12 + "größe.docx",
    "🧾.zip",
)


def parsed(raw: bytes) -> EmailMessage:
    return email.message_from_bytes(raw, policy=email.policy.default)


def kinds(mail: EmailMessage) -> list[str]:
    return [part.get_content_type() for part in mail.walk()]


def body(mail: EmailMessage, kind: str) -> str | None:
    found = mail.get_body((kind,))
    return None if found is None else str(found.get_content()).replace("\r\n", "\n").strip()


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


async def sent(client: httpx2.AsyncClient, relay: sink.Sink, **wish: Any) -> tuple[dict[str, Any], EmailMessage]:
    """The e-mail as GET shows it, and as the relay got it."""
    email_id = await sending.send(client, **wish)
    shown = await sending.resting(client, email_id)
    assert shown["status"] == "sent", shown
    [raw] = {message.raw for message in relay.messages if message.message_id == shown["message_id"]}
    return shown, parsed(raw)


# Bodies


async def test_html_alone_brings_a_text_made_of_it_unless_the_text_is_empty(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    shown, mail = await sent(sender, relay, text=None, html=HTML)
    assert kinds(mail) == ["multipart/alternative", "text/plain", "text/html"]
    assert (body(mail, "plain"), body(mail, "html")) == (TEXT, HTML)
    assert (shown["text"].replace("\r\n", "\n").strip(), shown["html"].strip()) == (TEXT, HTML)
    _, mail = await sent(sender, relay, text="", html=HTML)
    assert (kinds(mail), body(mail, "html")) == (["text/html"], HTML)
    _, mail = await sent(sender, relay, text=None, html='<img src="https://x.example/only.png">')
    assert kinds(mail) == ["text/html"]
    _, mail = await sent(sender, relay, text="my own", html=HTML)
    assert body(mail, "plain") == "my own"
    _, mail = await sent(sender, relay, html=None)
    assert kinds(mail) == ["text/plain"]
    long = "<p>a word</p>" * 10_000
    _, mail = await sent(sender, relay, text=None, html=long)
    assert body(mail, "plain") == "\n\n".join(["a word"] * 10_000)
    answer = await sender.post("/emails/batch", json=[sending.letter(text=None, html=HTML)])
    batched = await sending.resting(sender, answer.json()["data"][0]["id"])
    assert batched["text"].replace("\r\n", "\n").strip() == TEXT


async def test_pictures_stand_beside_the_html_that_names_them_and_files_after_it(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    files = [
        {"filename": "list.csv", "content": encoded(b"a;b\r\n1;2\r\n")},
        {"filename": "logo.png", "content": encoded(PIXEL), "content_id": "logo"},
        {"filename": "nothing.txt", "content": ""},
        {"filename": "data.tar.gz", "content": list(b"\x1f\x8b")},
        {"filename": "odd", "content": encoded(b"?"), "content_type": "application/x-odd; v=1"},
    ]
    shown, mail = await sent(sender, relay, html='<p>Hi</p><img src="cid:logo">', text=None, attachments=files)
    assert kinds(mail) == [
        *("multipart/mixed", "multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png"),
        *("text/csv", "text/plain", "application/gzip", "application/x-odd"),
    ]
    [logo] = [part for part in mail.walk() if part["Content-ID"] == "<logo>"]
    assert (logo.get_content_disposition(), logo.get_payload(decode=True)) == ("inline", PIXEL)
    attached = {part.get_filename(): part.get_payload(decode=True) for part in mail.iter_attachments()}
    assert attached == {
        "list.csv": b"a;b\r\n1;2\r\n",
        "nothing.txt": b"",
        "data.tar.gz": b"\x1f\x8b",
        "odd": b"?",
    }
    assert {(one["filename"], one["size"]) for one in shown["attachments"]} == {
        ("list.csv", 10),
        ("logo.png", len(PIXEL)),
        ("nothing.txt", 0),
        ("data.tar.gz", 2),
        ("odd", 1),
    }


async def test_files_keep_their_names_whatever_is_in_them(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    """RFC 2231: read by the standard library, and by the gateway itself where an own mailbox gets the mail."""
    files = [{"filename": name, "content": encoded(name.encode())} for name in NAMES]
    shown, mail = await sent(sender, relay, attachments=files)
    assert [part.get_filename() for part in mail.iter_attachments()] == list(NAMES)
    assert [part.get_payload(decode=True) for part in mail.iter_attachments()] == [name.encode() for name in NAMES]
    assert [one["filename"] for one in shown["attachments"]] == list(NAMES)
    assert max(map(len, relay.messages[-1].raw.split(b"\r\n"))) <= 998
    box = (await sender.post("/mailboxes", json={})).json()
    await sending.send(sender, to=box["address"], attachments=files)
    waited = (await sender.get(f"/mailboxes/{box['id']}/wait", params={"timeout": 25})).json()["message"]
    assert [one["size"] for one in waited["attachments"]] == [len(name.encode()) for name in NAMES]


# Names and addresses beyond ASCII


async def test_names_are_encoded_and_addresses_beyond_ascii_stand_as_they_are(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """RFC 2047 for words; RFC 6531 and 6532 for local parts, which need SMTPUTF8; A-labels for domains alone."""
    shown, mail = await sent(
        sender,
        relay,
        from_="Zoë Łukasz 山田 <app@sender.example>",
        to="Müller, Jörg <joerg@bücher.example>",
        reply_to=["Désk <desk@sender.example>", "two@sender.example"],
        subject="Zażółć 🧾 " + "wort " * 40,
    )
    assert relay.messages[-1].recipients == ("joerg@xn--bcher-kva.example",)
    assert not any("SMTPUTF8" in line for line in relay.lines("MAIL"))
    assert relay.messages[-1].raw.partition(b"\r\n\r\n")[0].isascii()
    assert mail["From"] == "Zoë Łukasz 山田 <app@sender.example>"
    assert [(one.display_name, one.addr_spec) for one in mail["To"].addresses] == [
        ("Müller, Jörg", "joerg@xn--bcher-kva.example")
    ]
    assert [one.addr_spec for one in mail["Reply-To"].addresses] == ["desk@sender.example", "two@sender.example"]
    assert str(mail["Subject"]) == shown["subject"] == ("Zażółć 🧾 " + "wort " * 40)
    shown, _ = await sent(sender, relay, to="jörg@bücher.example")
    assert "SMTPUTF8" in relay.lines("MAIL")[-1]
    assert "jörg@".encode() in relay.messages[-1].raw
    assert (shown["to"], shown["recipients"][0]["address"]) == (["jörg@bücher.example"], "jörg@bücher.example")


# Words about it


async def test_tags_and_metadata_come_back_wherever_the_email_is_shown(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    tags = [{"name": "kind", "value": "receipt"}, {"name": "kind", "value": "second"}]
    metadata = {"order": 17, "who": {"name": "Zoë", "vip": True}, "list": [1, None, "x"], "empty": ""}
    shown, mail = await sent(sender, relay, tags=tags, metadata=metadata)
    [listed] = (await sender.get("/emails", params={"tag": "kind:second", "metadata": "order:17"})).json()["data"]
    for one in (shown, listed):
        assert (one["tags"], one["metadata"]) == (tags, metadata)
    queued = (await sending.timeline(sender, shown["id"]))[0]
    assert queued["data"]["tags"] == tags
    assert "receipt" not in str(mail)
    for wrong, field in (({"tags": [{"name": "a b", "value": "c"}]}, "tags[0].name"), ({"metadata": [1]}, "metadata")):
        sending.refused(await sender.post("/emails", json=sending.letter(**wrong)), field)


# Times


async def test_a_time_is_taken_in_any_zone_and_changed_until_it_has_come(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    at = (datetime.now(UTC) + timedelta(hours=5)).replace(microsecond=0)
    east = at.astimezone(timezone(timedelta(hours=9))).isoformat()
    email_id = await sending.send(sender, scheduled_at=east)
    shown = await sending.read(sender, email_id)
    assert (shown["status"], datetime.fromisoformat(shown["scheduled_at"])) == ("scheduled", at)
    assert datetime.fromisoformat(shown["recipients"][0]["next_attempt_at"]) == at
    later = at + timedelta(hours=1)
    changed = await sender.patch(f"/emails/{email_id}", json={"scheduled_at": later.isoformat()})
    assert changed.json() == {"object": "email", "id": email_id}
    shown = await sending.read(sender, email_id)
    assert datetime.fromisoformat(shown["scheduled_at"]) == later
    assert relay.messages == []
    past = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    await sender.patch(f"/emails/{email_id}", json={"scheduled_at": past})
    assert (await sending.resting(sender, email_id))["status"] == "sent"
    for act in (
        sender.patch(f"/emails/{email_id}", json={"scheduled_at": "in 1 hour"}),
        sender.post(f"/emails/{email_id}/cancel"),
    ):
        answer = await act
        assert (answer.status_code, answer.json()["name"]) == (409, "invalid_state")
    at_once, _ = await sent(sender, relay, scheduled_at=past)
    assert at_once["scheduled_at"] is None
    told = [event["type"] for event in await sending.timeline(sender, email_id)]
    assert told == ["email.scheduled", "email.scheduled", "email.scheduled", "email.sent"]


async def test_a_time_may_be_far_away_but_not_beyond_all_times(sender: httpx2.AsyncClient) -> None:
    """With the weeks counted before they are bounded, the answer was 500: no datetime can hold them."""
    for far in ("2099-12-31T23:59:59Z", "in 200 weeks"):
        shown = await sending.read(sender, await sending.send(sender, scheduled_at=far, expires_in=2_592_000))
        assert shown["status"] == "scheduled"
    for never in ("9999-12-31T23:59:59Z", "in 999999 weeks", "in ² weeks"):
        sending.refused(await sender.post("/emails", json=sending.letter(scheduled_at=never)), "scheduled_at")


async def test_null_is_as_good_as_nothing(sender: httpx2.AsyncClient) -> None:
    """As clients say it that leave no field out."""
    optional = ("cc", "bcc", "reply_to", "html", "headers", "attachments", "tags", "metadata")
    others = ("expires_in", "template", "on_unknown", "on_suppressed", "unsubscribe")
    later = sending.letter(scheduled_at="in 1 hour")
    answer = await sender.post("/emails", json=later | dict.fromkeys((*optional, *others)))
    assert answer.status_code == 202, answer.text
    assert (await sending.read(sender, answer.json()["id"]))["on_unknown"] == "retry"


# Batches


async def test_a_batch_takes_all_that_one_email_takes_and_names_what_is_wrong_with_each(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    file = {"filename": "größe.txt", "content": encoded(b"x" * 1000)}
    batch = [
        sending.letter(to="a@x.example", attachments=[file], tags=[{"name": "n", "value": "0"}], metadata={"n": 0}),
        sending.letter(to="b@x.example", attachments=[{"filename": "x", "content": "not base64!"}]),
        sending.letter(to="c@x.example", scheduled_at="in 1 day", html='<img src="cid:l">'),
        sending.letter(to="d@x.example", subject=None),
        sending.letter(to="e@x.example", headers={"X-Number": "4"}, reply_to="r@sender.example"),
        sending.letter(to="f@x.example", template={"id": "01890000-0000-7000-8000-000000000000"}, text=None),
    ]
    strict = await sender.post("/emails/batch", json=batch)
    sending.refused(strict, "[1].attachments[0].content", "invalid_attachment")
    headers = {"x-batch-validation": "permissive"}
    answer = await sender.post("/emails/batch", json=batch, headers=headers)
    assert answer.status_code == 202
    told = {problem["index"]: problem["message"] for problem in answer.json()["errors"]}
    assert list(told) == [1, 3, 5]
    for index, field in ((1, "attachments[0].content"), (3, "subject"), (5, "template.id")):
        assert field in told[index]
    first, later, last = [one["id"] for one in answer.json()["data"]]
    shown = await asyncio.gather(sending.resting(sender, first), sending.resting(sender, last))
    assert [one["status"] for one in shown] == ["sent", "sent"]
    assert (shown[0]["metadata"], shown[0]["attachments"][0]["filename"]) == ({"n": 0}, "größe.txt")
    assert ["X-Number", "4"] in shown[1]["headers"]
    assert (await sending.read(sender, later))["status"] == "scheduled"
    assert sorted(message.recipients for message in relay.messages) == [("a@x.example",), ("e@x.example",)]
    await sender.post(f"/emails/{later}/cancel")
