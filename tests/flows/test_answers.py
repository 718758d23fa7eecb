"""Replies and forwards: from the address that was written to, in the thread, once, and only for who may."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import httpx2
import pytest

from tests import house
from tests.flows import letters
from tests.flows.test_mailboxes import MISSING, refused

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
PDF = b"%PDF-1.7\n\0\xff\xfe binary\n"
WHOLE = (
    "From: Ann <ann@shop.example>\r\nTo: x@postroom.test\r\nSubject: Your =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n"
    "Message-ID: <m1@shop.example>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=M\r\n\r\n"
    "--M\r\nContent-Type: multipart/related; boundary=R\r\n\r\n"
    "--R\r\nContent-Type: multipart/alternative; boundary=A\r\n\r\n"
    "--A\r\nContent-Type: text/plain\r\n\r\nThe text.\r\n"
    '--A\r\nContent-Type: text/html\r\n\r\n<p onclick="x()">The <b>HTML</b><script>alert(1)</script>'
    '<img src="cid:logo@shop.example"><img src="https://shop.example/pixel.gif"></p>\r\n--A--\r\n'
    "--R\r\nContent-Type: image/png\r\nContent-ID: <logo@shop.example>\r\nContent-Disposition: inline\r\n"
    f"Content-Transfer-Encoding: base64\r\n\r\n{base64.b64encode(PNG).decode()}\r\n--R--\r\n"
    "--M\r\nContent-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n"
    "Content-Disposition: attachment; filename*=utf-8''..%2FR%C3%A9sum%C3%A9.pdf\r\n\r\n"
    f"{base64.b64encode(PDF).decode()}\r\n"
    "--M\r\nContent-Type: message/rfc822\r\nContent-Disposition: attachment\r\n\r\n"
    "From: c@d.example\r\nSubject: inside\r\n\r\nInside.\r\n"
    "--M--\r\n"
).encode()


async def accepted(client: httpx2.AsyncClient, message: dict[str, Any], how: str, **body: Any) -> dict[str, Any]:
    """The e-mail that came of it, as GET /emails/{id} tells of it."""
    answer = await client.post(f"/messages/{message['id']}/{how}", json=body)
    assert answer.status_code == 202, answer.text
    assert set(answer.json()) == {"id", "status"}
    email: dict[str, Any] = (await client.get(f"/emails/{answer.json()['id']}")).json()
    return email


async def arrived(client: httpx2.AsyncClient, mailbox: dict[str, Any], since: str | int) -> dict[str, Any]:
    """The next message of a mailbox."""
    answer = await client.get(f"/mailboxes/{mailbox['id']}/wait", params={"since": since, "timeout": 25})
    assert answer.status_code == 200, answer.text
    message: dict[str, Any] = answer.json()["message"]
    return message


async def received(home: house.House, client: httpx2.AsyncClient, raw: bytes, *, tag: str = "") -> dict[str, Any]:
    """A message in a new mailbox; `tag` with its plus sign."""
    made = await letters.mailbox(client)
    await letters.hand_in(home, raw, made["address"].replace("@", f"{tag}@"))
    message = await letters.only_message(client, made["id"])
    return message | {"mailbox": made}


def field(email: dict[str, Any], name: str) -> str | None:
    return next((value for given, value in email["headers"] if given == name), None)


async def test_three_mails_between_two_mailboxes_are_one_thread(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    """Sent, replied to and replied to again, through the house itself; the last by a mailbox's own token."""
    ann, bob = await letters.mailbox(client), await letters.mailbox(client)
    mail = {"from": f"Ann <{ann['address']}>", "to": bob["address"], "subject": "Lunch?", "text": "At noon?"}
    assert (await client.post("/emails", json=mail)).status_code == 202
    first = await arrived(client, bob, bob["cursor"])
    await accepted(client, first, "reply", text="Yes.")
    second = await arrived(client, ann, ann["cursor"])
    async with shared_house.client(ann["token"]) as holder:
        answer = await holder.post(f"/messages/{second['id']}/reply", json={"text": "Good."})
    assert answer.status_code == 202, answer.text
    third = await arrived(client, bob, first["seq"])
    assert len({message["thread_id"] for message in (first, second, third)}) == 1
    assert [message["subject"] for message in (first, second, third)] == ["Lunch?", "Re: Lunch?", "Re: Lunch?"]
    assert [message["from"]["address"] for message in (second, third)] == [bob["address"], ann["address"]]
    assert [message["in_reply_to"] for message in (second, third)] == [first["message_id"], second["message_id"]]
    assert second["references"] == [first["message_id"]]
    assert third["references"] == [first["message_id"], second["message_id"]]
    assert third["text"].startswith("Good.\n\nOn ")
    assert "\n> Yes." in third["text"]
    assert "\n>> At noon?" in third["text"]


async def test_a_reply_is_from_the_address_that_was_written_to(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    raw = letters.letter("Hi", To="others@c.example", Cc="d@c.example", Reply_To="Help <help@shop.example>")
    message = await received(shared_house, client, raw, tag="+Shop")
    email = await accepted(client, message, "reply", text="Thanks.", reply_all=True)
    assert email["from"] == message["mailbox"]["address"].replace("@", "+Shop@")
    assert email["to"] == ["Help <help@shop.example>"]
    assert email["cc"] == ["others@c.example", "d@c.example"]
    alone = await accepted(client, message, "reply", html="<b>Thanks</b>", reply_all=False)
    assert (alone["to"], alone["cc"]) == (["Help <help@shop.example>"], [])
    assert "<blockquote" in alone["html"]
    told = await letters.listed(client, "/events", email=email["id"])
    assert told[0]["type"] == "email.queued"


async def test_a_reply_may_carry_files_of_its_own(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    message = await received(shared_house, client, WHOLE)
    file = {"filename": "a.txt", "content": base64.b64encode(b"A").decode(), "content_type": "text/plain"}
    email = await accepted(client, message, "reply", html="<b>Thanks</b>", attachments=[file])
    assert [found["filename"] for found in email["attachments"]] == ["a.txt"]
    assert "The <b>HTML</b>" in email["html"]
    for gone in ("script", "onclick", "pixel.gif", "cid:"):
        assert gone not in email["html"]
    bad = await client.post(f"/messages/{message['id']}/reply", json={"text": "x", "attachments": [{"content": "?"}]})
    refused(bad, 422, "invalid_attachment")


async def test_the_same_key_replies_once(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    message, other = [await received(shared_house, client, letters.letter("Hi")) for _ in range(2)]
    headers, at = {"Idempotency-Key": "once"}, f"/messages/{message['id']}/reply"
    answers = await asyncio.gather(*(client.post(at, json={"text": "Yes."}, headers=headers) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sorted(answer.headers.get("idempotent-replayed", "") for answer in answers) == [""] + ["true"] * 4
    refused(await client.post(at, json={"text": "No."}, headers=headers), 409, "invalid_idempotent_request")
    elsewhere = await client.post(f"/messages/{other['id']}/reply", json={"text": "Yes."}, headers=headers)
    assert elsewhere.status_code == 202
    assert elsewhere.json()["id"] != answers[0].json()["id"]
    assert len(await letters.listed(client, "/emails")) == 2


async def test_the_same_key_hears_the_first_answer_though_the_message_is_deleted(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    """Seen to fail without the look whose message it was: another mailbox's token heard the answer."""
    made, other = [await letters.mailbox(client) for _ in range(2)]
    await letters.hand_in(shared_house, letters.letter("Hi"), made["address"])
    message = await letters.only_message(client, made["id"])
    headers = {"Idempotency-Key": "once"}
    said = {"reply": {"text": "Yes."}, "forward": {"to": "x@c.example"}}
    paths = {kind: f"/messages/{message['id']}/{kind}" for kind in said}
    first = {kind: await client.post(paths[kind], json=said[kind], headers=headers) for kind in said}
    assert (await client.delete(f"/messages/{message['id']}")).status_code == 204
    for kind, path in paths.items():
        again = await client.post(path, json=said[kind], headers=headers)
        assert (again.status_code, again.content) == (202, first[kind].content)
        assert again.headers["idempotent-replayed"] == "true"
        refused(await client.post(path, json=said[kind]), 404, "not_found")
        refused(await client.post(path, json=said[kind], headers={"Idempotency-Key": "new"}), 404, "not_found")
        changed = said[kind] | {"text": "No."}
        refused(await client.post(path, json=changed, headers=headers), 409, "invalid_idempotent_request")
    async with shared_house.client(made["token"]) as own, shared_house.client(other["token"]) as foreign:
        assert (await own.post(paths["reply"], json=said["reply"], headers=headers)).content == first["reply"].content
        for text in ("Yes.", "No."):
            answer = await foreign.post(paths["reply"], json={"text": text}, headers=headers)
            refused(answer, 404, "not_found")
    assert len(await letters.listed(client, "/emails")) == 2


@pytest.mark.parametrize(
    ("fields", "sender"),
    [
        ({}, ""),
        ({"Auto_Submitted": "auto-generated"}, "a@b.example"),
        ({"sender": "nobody"}, "a@b.example"),
    ],
)
async def test_who_takes_no_replies_is_not_replied_to_but_can_be_forwarded(
    shared_house: house.House, client: httpx2.AsyncClient, fields: dict[str, str], sender: str
) -> None:
    made = await letters.mailbox(client)
    await letters.hand_in(shared_house, letters.letter("Hi", **fields), made["address"], sender=sender)
    message = await letters.only_message(client, made["id"])
    at = f"/messages/{message['id']}/reply"
    told = refused(await client.post(at, json={"text": "x"}), 422, "validation_error")
    assert "repl" in told["message"]
    assert (await accepted(client, message, "forward", to="x@c.example"))["subject"] == "Fwd: Hi"
    assert len(await letters.listed(client, "/emails")) == 1


async def test_a_forward_takes_everything_along(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    message = await received(shared_house, client, WHOLE)
    there = await letters.mailbox(client)
    file = {"filename": "own.txt", "content": base64.b64encode(b"own").decode()}
    body = {"to": [there["address"]], "bcc": "b@c.example", "text": "Look!", "attachments": [file]}
    email = await accepted(client, message, "forward", **body)
    assert (email["subject"], email["bcc"]) == ("Fwd: Your Grüße", ["b@c.example"])
    came = await arrived(client, there, there["cursor"])
    assert came["text"].startswith("Look!\n\n---------- Forwarded message ----------\nFrom: Ann <ann@shop.example>\n")
    assert came["text"].rstrip().endswith("The text.")
    assert 'src="cid:logo@shop.example"' in came["html"]
    for gone in ("<script", "onclick", "pixel.gif"):
        assert gone not in came["html"]
    shown = (await client.get(f"/messages/{came['id']}/html", params={"sanitized": "1"})).text
    assert f'src="data:image/png;base64,{base64.b64encode(PNG).decode()}"' in shown
    found = {(a["content_type"], a["filename"]): a for a in came["attachments"]}
    assert set(found) == {
        ("image/png", found["image/png", came["attachments"][0]["filename"]]["filename"]),
        ("text/plain", "own.txt"),
        ("application/pdf", "Résumé.pdf"),
        ("message/rfc822", "attachment-2.eml"),
    }
    sums = {a["sha256"] for a in message["attachments"]}
    assert sums <= {a["sha256"] for a in came["attachments"]}


async def test_odd_mail_is_forwarded_as_one_file(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    raw = b"From: a@b.example\r\nContent-Type: multipart/mixed; boundary*=utf-8''M\r\n\r\n--M\r\n\r\nHi\r\n--M--\r\n"
    message = await received(shared_house, client, raw)
    assert message["parse"] != "ok"
    there = await letters.mailbox(client)
    await accepted(client, message, "forward", to=there["address"])
    came = await arrived(client, there, there["cursor"])
    [whole] = came["attachments"]
    assert whole["filename"] == "message.eml"
    assert (await client.get(f"/messages/{came['id']}/attachments/{whole['index']}")).content == raw


async def test_what_would_be_too_large_is_not_forwarded(postgres_dsn: str, redis_url: str) -> None:
    file = base64.b64encode(bytes(range(256)) * 160).decode()
    raw = (
        "From: a@b.example\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=M\r\n\r\n"
        "--M\r\n\r\nHi\r\n"
        "--M\r\nContent-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + "\r\n".join(file[start : start + 900] for start in range(0, len(file), 900))
        + "\r\n--M--\r\n"
    )
    own = {"filename": "x", "content": base64.b64encode(b"x" * 9000).decode()}
    async with (
        letters.own_house(postgres_dsn, redis_url, settings={"MAX_MESSAGE_BYTES": "60000"}) as home,
        home.client((await home.tenant()).key) as client,
    ):
        at = f"/messages/{(await received(home, client, raw.encode()))['id']}/forward"
        assert (await client.post(at, json={"to": "x@c.example"})).status_code == 202
        more = await client.post(at, json={"to": "x@c.example", "attachments": [own]})
        refused(more, 413, "payload_too_large")


async def test_what_is_wrong_with_an_answer_is_said(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    message = await received(shared_house, client, letters.letter("Hi"))
    at = f"/messages/{message['id']}"
    refused(await client.post(f"{at}/reply", json={}), 422, "missing_required_field")
    wrong: list[dict[str, Any]] = [{"text": "x", "to": "a@b.example"}, {"text": 1}, {"text": "x", "subject": "y"}]
    for body in wrong:
        refused(await client.post(f"{at}/reply", json=body), 422, "validation_error")
    wrong = [{}, {"to": "nobody"}, {"to": []}, {"to": ["x@c.example"] * 60}]
    for body in wrong:
        assert (await client.post(f"{at}/forward", json=body)).status_code == 422, body
    for how, body in (("reply", {"text": "x"}), ("forward", {"to": "x@c.example"})):
        refused(await client.post(f"/messages/{MISSING}/{how}", json=body), 404, "not_found")
    assert await letters.listed(client, "/emails") == []


# Who may


async def test_who_may_not_read_a_message_may_not_quote_it(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    """Negative control: without the look at `mailboxes` and `read` in `Answering._find`, a key that may only send was
    answered 202 instead of 403, and the test failed."""
    message = await received(shared_house, client, letters.letter("Hi"))
    for scopes, status in (
        (("send",), 403),
        (("mailboxes", "read"), 403),
        (("send", "read"), 202),
        (("send", "mailboxes"), 202),
        (("admin",), 202),
    ):
        key = (await shared_house.tenant(scopes, account_id=tenant.account_id)).key
        async with shared_house.client(key) as limited:
            for how, body in (("reply", {"text": "x"}), ("forward", {"to": "x@c.example"})):
                answer = await limited.post(f"/messages/{message['id']}/{how}", json=body)
                assert answer.status_code == status, (scopes, how, answer.text)


async def test_a_mailboxs_token_replies_from_it_and_forwards_nothing(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    message = await received(shared_house, client, letters.letter("Hi"))
    other = await received(shared_house, client, letters.letter("Hi"))
    async with shared_house.client(message["mailbox"]["token"]) as holder:
        assert (await holder.post(f"/messages/{message['id']}/reply", json={"text": "x"})).status_code == 202
        refused(await holder.post(f"/messages/{other['id']}/reply", json={"text": "x"}), 404, "not_found")
        forward = await holder.post(f"/messages/{message['id']}/forward", json={"to": "x@c.example"})
        refused(forward, 403, "restricted_api_key")


async def test_a_key_answers_only_from_its_domains(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    message = await received(shared_house, client, letters.letter("Hi"))
    for domains, status in ((["postroom.test"], 202), (["two.test"], 403)):
        wish = {"name": "k", "scopes": ["send", "mailboxes"], "domains": domains}
        key = (await client.post("/api-keys", json=wish)).json()["key"]
        async with shared_house.client(key) as limited:
            for how, body in (("reply", {"text": "x"}), ("forward", {"to": "x@c.example"})):
                answer = await limited.post(f"/messages/{message['id']}/{how}", json=body)
                assert answer.status_code == status, (domains, how, answer.text)
