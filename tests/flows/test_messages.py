"""Messages over HTTP: lists, the whole message and its parts, changing, deleting; and waiting for one."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from typing import Any

import httpx2
import pytest

from tests import house
from tests.flows import letters
from tests.flows.test_mailboxes import MISSING, TIME, UUID7, refused

pytestmark = pytest.mark.anyio

SUMMARY = {
    *("id", "mailbox_id", "seq", "from", "to", "subject", "snippet", "received_at", "size", "seen", "labels"),
    *("attachment_count", "codes", "thread_id"),
}
MESSAGE = SUMMARY | {
    *("cc", "reply_to", "message_id", "in_reply_to", "references", "date", "envelope", "headers", "text", "html"),
    *("attachments", "links", "auth", "authentication_results", "tag", "parse", "warnings"),
}
PDF = b"%PDF-1.7\n\0\xff\xfe binary\n"
RICH = (
    "Received: from x by y; Sat, 31 Jan 2026 12:00:01 +0000\r\n"
    "From: =?utf-8?q?Gr=C3=BC=C3=9Fe?= <Hello@Shop.example>\r\n"
    "To: Ann <ann@postroom.test>, bob@postroom.test\r\n"
    "Cc: cc@c.example\r\nReply-To: help@shop.example\r\n"
    "Subject: =?utf-8?q?Best=C3=A4tigen?=\r\n"
    "Date: Sat, 31 Jan 2026 13:00:00 +0100\r\n"
    "Message-ID: <m1@shop.example>\r\nIn-Reply-To: <m0@shop.example>\r\nReferences: <r@x.example> <m0@shop.example>\r\n"
    "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=M\r\n\r\n"
    "--M\r\nContent-Type: multipart/alternative; boundary=A\r\n\r\n"
    "--A\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    "Ihr Code: 739204. Grüße\r\n"
    "--A\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    '<p>Ihr Code: <b>739204</b> <a href="https://shop.example/verify?t=1">Verify your address</a> '
    '<a href="https://shop.example/unsubscribe">unsubscribe</a></p>\r\n'
    "--A--\r\n"
    "--M\r\nContent-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n"
    "Content-Disposition: attachment; filename*=utf-8''R%C3%A9sum%C3%A9.pdf\r\nContent-ID: <pdf@shop.example>\r\n\r\n"
    f"{base64.b64encode(PDF).decode()}\r\n"
    "--M--\r\n"
).encode()


# Reading


async def test_a_message_tells_all_that_the_contract_says(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    made = await letters.mailbox(client)
    await letters.hand_in(shared_house, RICH, made["address"])
    [summary] = await letters.listed(client, f"/mailboxes/{made['id']}/messages")
    message = await letters.only_message(client, made["id"])
    assert set(summary) == SUMMARY
    assert set(message) == MESSAGE
    assert {name: message[name] for name in SUMMARY} == summary
    assert UUID7.fullmatch(message["id"])
    assert TIME.fullmatch(message["received_at"])
    assert message["from"] == {"name": "Grüße", "address": "Hello@Shop.example"}
    assert message["to"] == [
        {"name": "Ann", "address": "ann@postroom.test"},
        {"name": None, "address": "bob@postroom.test"},
    ]
    assert [person["address"] for person in message["cc"] + message["reply_to"]] == [
        "cc@c.example",
        "help@shop.example",
    ]
    assert (message["subject"], message["date"]) == ("Bestätigen", "2026-01-31T12:00:00Z")
    assert (message["message_id"], message["in_reply_to"]) == ("<m1@shop.example>", "<m0@shop.example>")
    assert message["references"] == ["<r@x.example>", "<m0@shop.example>"]
    assert message["headers"][0] == ["Received", "from x by y; Sat, 31 Jan 2026 12:00:01 +0000"]
    assert message["text"].strip() == "Ihr Code: 739204. Grüße"
    assert message["snippet"].startswith("Ihr Code: 739204.")
    code = message["codes"][0]
    assert set(code) == {"value", "confidence", "source", "context"}
    assert (code["value"], code["source"]) == ("739204", "text")
    kinds = {link["url"]: link["kind"] for link in message["links"]}
    assert kinds == {"https://shop.example/verify?t=1": "verify", "https://shop.example/unsubscribe": "unsubscribe"}
    assert message["attachments"] == [
        {
            "index": message["attachments"][0]["index"],
            "filename": "Résumé.pdf",
            "content_type": "application/pdf",
            "size": len(PDF),
            "content_id": "pdf@shop.example",
            "disposition": "attachment",
            "sha256": hashlib.sha256(PDF).hexdigest(),
        }
    ]
    assert (message["attachment_count"], message["size"], message["parse"]) == (1, len(RICH), "ok")
    assert {"spf", "dkim", "dmarc"} <= set(message["auth"])
    assert (message["seen"], message["labels"], message["tag"], message["warnings"]) == (False, [], None, [])
    [event] = await letters.listed(client, "/events", types="message.received")
    assert event["seq"] == message["seq"]
    assert event["data"] == summary


async def test_the_parts_can_be_had_by_themselves(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    made = await letters.mailbox(client)
    await letters.hand_in(shared_house, RICH, made["address"])
    message = await letters.only_message(client, made["id"])
    at = f"/messages/{message['id']}"
    text, html, raw = [await client.get(f"{at}/{part}") for part in ("text", "html", "raw")]
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert text.text == message["text"]
    assert html.headers["content-type"] == "text/html; charset=utf-8"
    assert html.text == message["html"]
    assert raw.content == RICH
    attachment = await client.get(f"{at}/attachments/{message['attachments'][0]['index']}")
    assert attachment.content == PDF
    assert "attachment" in attachment.headers["content-disposition"]
    assert "R%C3%A9sum%C3%A9.pdf" in attachment.headers["content-disposition"]
    for index in ("99", "-1", "x"):
        refused(await client.get(f"{at}/attachments/{index}"), 404, "not_found")
    for path in ("", "/raw", "/text", "/html", "/attachments/0"):
        refused(await client.get(f"/messages/{MISSING}{path}"), 404, "not_found")


async def test_mail_that_is_no_mail_is_stored_listed_and_readable(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    made = await letters.mailbox(client)
    broken = b"\0\xff\x01: \xfe\r\nContent-Type: multipart/mixed; boundary=\r\n=?x?q?\0?=\r\n\r\n--\r\n\0\r\n"
    await letters.hand_in(shared_house, broken, made["address"])
    message = await letters.only_message(client, made["id"])
    assert set(message) == MESSAGE
    assert message["parse"] in ("ok", "repaired", "raw_only")
    assert (await client.get(f"/messages/{message['id']}/raw")).content == broken


async def test_a_message_without_a_text_has_none(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    made = await letters.mailbox(client)
    html = b"From: a@b.example\r\nContent-Type: text/html\r\n\r\n<p>Hi</p>\r\n"
    await letters.hand_in(shared_house, html, made["address"])
    message = await letters.only_message(client, made["id"])
    assert message["subject"] == ""
    assert (await client.get(f"/messages/{message['id']}/html")).text.strip() == "<p>Hi</p>"
    if message["text"] is None:
        refused(await client.get(f"/messages/{message['id']}/text"), 404, "not_found")


async def test_lists_are_newest_first_paged_and_narrowed(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    one, other = await letters.mailbox(client), await letters.mailbox(client)
    for n in range(6):
        await letters.hand_in(shared_house, letters.letter(str(n)), (one, other)[n % 2]["address"])
    assert [m["subject"] for m in await letters.listed(client, "/messages")] == ["5", "4", "3", "2", "1", "0"]
    assert [m["subject"] for m in await letters.listed(client, f"/mailboxes/{other['address']}/messages")] == [
        "5",
        "3",
        "1",
    ]
    page = (await client.get("/messages", params={"limit": 4, "order": "asc"})).json()
    await letters.hand_in(shared_house, letters.letter("6"), one["address"])
    rest = (await client.get("/messages", params={"order": "asc", "cursor": page["next_cursor"]})).json()
    assert [m["subject"] for m in page["data"] + rest["data"]] == ["0", "1", "2", "3", "4", "5", "6"]
    assert (page["has_more"], rest["has_more"], rest["next_cursor"]) == (True, False, None)
    seen = page["data"][0]["id"]
    assert (await client.patch(f"/messages/{seen}", json={"seen": True})).json()["seen"] is True
    assert [m["subject"] for m in await letters.listed(client, "/messages", seen="true")] == ["0"]
    assert len(await letters.listed(client, f"/mailboxes/{one['id']}/messages", seen="false")) == 3


async def test_the_same_message_id_twice_is_two_messages(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    made = await letters.mailbox(client)
    raw = letters.letter(Message_ID="<same@b.example>")
    for _ in range(2):
        await letters.hand_in(shared_house, raw, made["address"])
    found = await letters.listed(client, f"/mailboxes/{made['id']}/messages")
    assert len({message["id"] for message in found}) == 2
    assert len({message["thread_id"] for message in found}) == 1


# Parts


def parted(*parts: tuple[str, bytes], subtype: str = "mixed") -> bytes:
    """A multipart message of (header fields, octets), each in base64 unless its fields say otherwise."""
    written = b"".join(
        b"--M\r\n"
        + fields.replace("\n", "\r\n").encode()
        + b"\r\n"
        + (
            b"\r\n" + content
            if "Encoding" in fields or "message/" in fields
            else b"Content-Transfer-Encoding: base64\r\n\r\n" + base64.encodebytes(content).replace(b"\n", b"\r\n")
        )
        + b"\r\n"
        for fields, content in parts
    )
    head = f"From: a@b.example\r\nMIME-Version: 1.0\r\nContent-Type: multipart/{subtype}; boundary=M\r\n\r\n"
    return head.encode() + written + b"--M--\r\n"


async def received(home: house.House, client: httpx2.AsyncClient, raw: bytes) -> dict[str, Any]:
    made = await letters.mailbox(client)
    await letters.hand_in(home, raw, made["address"])
    return await letters.only_message(client, made["id"])


async def test_attachments_are_to_be_saved_and_never_run(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    contents = {
        "text/html": b"<script>alert(1)</script>",
        "image/svg+xml": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        "image/png": b"\x89PNG\r\n\x1a\n" + b"\0" * 9,
        "application/pdf": PDF,
    }
    fields = 'Content-Type: {}\nContent-Disposition: attachment; filename="../..\\\\evil {}.html. "'
    raw = parted(*((fields.format(kind, n), content) for n, (kind, content) in enumerate(contents.items())))
    message = await received(shared_house, client, raw)
    assert [found["content_type"] for found in message["attachments"]] == list(contents)
    for found, content in zip(message["attachments"], contents.values(), strict=True):
        at = f"/messages/{message['id']}/attachments/{found['index']}"
        for inline in (False, True):
            answer = await client.get(at, params={"inline": "1"} if inline else {})
            shown = inline and content.startswith(b"\x89PNG")
            assert answer.content == content
            assert answer.headers["content-type"] == ("image/png" if shown else "application/octet-stream")
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
            disposition = answer.headers["content-disposition"]
            assert disposition.startswith("inline; " if shown else "attachment; ")
            assert not re.search(r"\.\.|[/\\]|%2F|%5C", disposition)
            assert f'evil {found["index"]}.html"' in disposition
        again = await client.get(at, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        head = await client.head(at)
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(content)))


async def test_sanitized_html_shows_its_own_pictures_and_nothing_elses(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    png = b"\x89PNG\r\n\x1a\n" + b"\0" * 9
    html = (
        '<p onclick="x()" style="color:red;background:url(https://evil.example)">Hi<script>alert(1)</script>'
        '<img src="cid:a@b.example"><img src="https://evil.example/pixel.gif"><a href="javascript:x()">a</a>'
        '<a href="https://shop.example/">b</a></p>'
    )
    raw = parted(
        ("Content-Type: text/html", html.encode()),
        ("Content-Type: image/png\nContent-ID: <a@b.example>\nContent-Disposition: inline", png),
        subtype="related",
    )
    at = f"/messages/{(await received(shared_house, client, raw))['id']}/html"
    as_sent = await client.get(at)
    assert as_sent.text.strip() == html
    clean = await client.get(at, params={"sanitized": "1"})
    assert clean.headers["content-type"] == "text/html; charset=utf-8"
    for answer in (as_sent, clean):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "allow-scripts" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert clean.text.count("<img") == 2
    assert f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}">' in clean.text
    assert 'style="color:red"' in clean.text
    assert re.findall(r'href="([^"]*)"', clean.text) == ["https://shop.example/"]
    for gone in ("evil", "script", "onclick"):
        assert gone not in clean.text


async def test_html_that_keeps_a_parser_busy_is_shown_as_text(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    """64 KB that nh3 alone takes half a minute for; and 6 MB. Others are answered meanwhile.

    Negative control: with `sanitize.serve` called in a thread of the server instead of a child process, no answer came
    within the 30 s that the client waits, and the test failed."""
    busy = "".join(f"<b id={n}><p>" for n in range(4700))
    for html in (busy, "<b>long</b>" + "x" * 6_000_000):
        raw = parted(("Content-Type: text/html", html.encode()))
        at = f"/messages/{(await received(shared_house, client, raw))['id']}/html"
        task = asyncio.create_task(client.get(at, params={"sanitized": "1"}))
        assert (await client.get("/mailboxes")).status_code == 200
        answer = await task
        assert answer.status_code == 200
        assert answer.text.startswith('<pre style="white-space:pre-wrap">&lt;b')
        assert answer.text.count("<") == 2


async def test_messages_in_messages_invitations_and_what_is_sealed_can_be_had_whole(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    inner = (
        b"From: c@d.example\r\nSubject: inside\r\nContent-Type: multipart/mixed; boundary=I\r\n\r\n"
        b"--I\r\n\r\nInside.\r\n--I\r\nContent-Type: application/pdf\r\n\r\n%PDF\r\n--I--\r\n"
    )
    invitation = b"BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nEND:VCALENDAR\r\n"
    sealed = b"-----BEGIN PGP MESSAGE-----\r\n\r\nwcBM\r\n-----END PGP MESSAGE-----\r\n"
    named = {
        "message/rfc822": inner,
        "text/calendar": invitation,
        "application/pgp-encrypted": b"Version: 1\r\n",
        "application/octet-stream": sealed,
        "application/pkcs7-signature": PDF,
        "application/pkcs7-mime": PDF,
    }
    fields = {"text/calendar": "Content-Type: text/calendar; method=REQUEST; charset=utf-8"}
    raw = parted(
        ("Content-Type: text/plain", b"See below."),
        *((fields.get(kind, f"Content-Type: {kind}"), content) for kind, content in named.items()),
    )
    message = await received(shared_house, client, raw)
    assert message["text"].strip() == "See below."
    assert [found["content_type"] for found in message["attachments"]] == list(named)
    for found in message["attachments"]:
        answer = await client.get(f"/messages/{message['id']}/attachments/{found['index']}")
        content = named[found["content_type"]]
        assert answer.content.rstrip() == content.rstrip(), found
        assert found["size"] == len(answer.content)
        assert found["sha256"] == hashlib.sha256(answer.content).hexdigest()


async def test_a_message_tells_the_dialogue_it_came_by(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    made = await letters.mailbox(client)
    receipt = await letters.hand_in(shared_house, letters.letter(), made["address"])
    message = await letters.only_message(client, made["id"])
    async with shared_house.client(made["token"]) as holder:
        body = (await holder.get(f"/messages/{message['id']}/transcript")).json()
    assert set(body) == {"object", "lines"}
    assert body["object"] == "transcript"
    lines = body["lines"]
    assert lines[0].startswith("S: 220 ")
    assert [line for line in lines if line.startswith("C: RCPT")] == [f"C: RCPT TO:<{made['address']}>"]
    assert lines[-1] == f"S: 250 2.0.0 queued as {receipt}"
    assert message["envelope"]["receipt_id"] == receipt
    refused(await client.get(f"/messages/{MISSING}/transcript"), 404, "not_found")


async def test_mail_that_stayed_in_the_house_has_no_dialogue(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    made = await letters.mailbox(client)
    mail = {"from": "me@postroom.test", "to": made["address"], "subject": "s", "text": "t"}
    assert (await client.post("/emails", json=mail)).status_code == 202
    message = (await wait(client, made, since=made["cursor"])).json()["message"]
    body = (await client.get(f"/messages/{message['id']}/transcript")).json()
    assert body == {"object": "transcript", "lines": []}


# Changing and deleting


async def changes(client: httpx2.AsyncClient) -> list[dict[str, Any]]:
    """What message.updated told, besides verdicts over senders, which come when they come."""
    told = [event["data"] for event in await letters.listed(client, "/events", types="message.updated")]
    return [data for data in told if "auth" not in data]


async def test_only_what_changes_is_told(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    """Labels are trimmed, each stands once, and they come instead of those that were there.

    Negative control: with no comparison in `messages.change` the first of these PATCHes, which changes nothing, was
    told, and the test failed."""
    message = await received(shared_house, client, letters.letter())
    at = f"/messages/{message['id']}"
    for change, told in (
        ({"seen": False, "labels": []}, {}),
        ({"labels": [" work ", "b", "work"]}, {"labels": ["work", "b"]}),
        ({"labels": ["work", "b"]}, {}),
        ({"labels": ["b"], "seen": False}, {"labels": ["b"]}),
        ({"seen": True, "labels": ["b"]}, {"seen": True}),
        ({}, {}),
    ):
        before = await changes(client)
        answer = await client.patch(at, json=change)
        assert answer.status_code == 200
        after = await changes(client)
        assert after[len(before) :] == ([{"id": message["id"], **told}] if told else [])
    assert (answer.json()["seen"], answer.json()["labels"]) == (True, ["b"])
    for labels in (["  "], ["x" * 101], ["x"] * 51):
        refused(await client.patch(at, json={"labels": labels}), 422, "validation_error")


async def test_a_message_can_be_seen_and_labelled(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    made = await letters.mailbox(client)
    await letters.hand_in(shared_house, letters.letter(), made["address"])
    at = f"/messages/{(await letters.only_message(client, made['id']))['id']}"
    changed = (await client.patch(at, json={"seen": True, "labels": ["work", "äöü"]})).json()
    assert (changed["seen"], changed["labels"]) == (True, ["work", "äöü"])
    assert (await client.patch(at, json={"seen": False})).json()["labels"] == ["work", "äöü"]
    for wrong in ({"subject": "x"}, {"seen": "perhaps"}, {"labels": [""]}, {"labels": ["a\nb"]}):
        refused(await client.patch(at, json=wrong), 422, "validation_error")
    refused(await client.patch(f"/messages/{MISSING}", json={"seen": True}), 404, "not_found")
    assert [{name: data.get(name) for name in ("seen", "labels")} for data in await changes(client)] == [
        {"seen": True, "labels": ["work", "äöü"]},
        {"seen": False, "labels": None},
    ]


async def test_deleting_a_message_leaves_only_ids_of_it(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    """In the log, and in what webhooks still have to be told."""
    await client.post("/webhooks", json={"url": "http://127.0.0.1:9/", "types": ["*"]})
    made = await letters.mailbox(client)
    await letters.hand_in(shared_house, letters.letter("top secret 482913"), made["address"])
    message = await letters.only_message(client, made["id"])
    await client.patch(f"/messages/{message['id']}", json={"labels": ["top secret"]})
    assert (await client.delete(f"/messages/{message['id']}")).status_code == 204
    refused(await client.get(f"/messages/{message['id']}"), 404, "not_found")
    refused(await client.delete(f"/messages/{message['id']}"), 404, "not_found")
    answer = await client.get("/events")
    assert "secret" not in answer.text
    about = [e for e in answer.json()["data"] if e.get("message_id") == message["id"]]
    types = [e["type"] for e in about]
    assert (types[0], set(types[1:-1]), types[-1]) == ("message.received", {"message.updated"}, "message.deleted")
    assert [e["data"] for e in about[:-1]] == [{"id": message["id"], "redacted": True}] * (len(about) - 1)
    async with letters.sql(shared_house) as connection:
        tables = await connection.fetch("select tablename from pg_tables where schemaname = 'public'")
        for (table,) in tables:  # nor is it anywhere else
            found = await connection.fetchval(f'select count(*) from "{table}" t where t::text like $1', "%top secret%")  # noqa: S608 - a table's name
            assert found == 0, table


async def test_a_mailbox_can_be_emptied(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    one, other = await letters.mailbox(client), await letters.mailbox(client)
    for n in range(3):
        await letters.hand_in(shared_house, letters.letter(f"secret {n}"), one["address"])
    await letters.hand_in(shared_house, letters.letter("kept"), other["address"])
    assert (await client.delete(f"/mailboxes/{one['id']}/messages")).status_code == 204
    assert (await client.get(f"/mailboxes/{one['id']}")).json()["message_count"] == 0
    assert [m["subject"] for m in await letters.listed(client, "/messages")] == ["kept"]
    assert "secret" not in (await client.get("/events")).text
    assert len(await letters.listed(client, "/events", types="message.deleted")) == 3
    await letters.hand_in(shared_house, letters.letter("fresh"), one["address"])
    assert (await letters.only_message(client, one["id"]))["subject"] == "fresh"


# Waiting


async def wait(client: httpx2.AsyncClient, mailbox: dict[str, Any], **query: Any) -> httpx2.Response:
    return await client.get(f"/mailboxes/{mailbox['id']}/wait", params=query)


async def test_a_message_that_is_there_already_answers_at_once(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    """Oldest first; also where there is no time to wait."""
    made = await letters.mailbox(client)
    for n in range(3):
        await letters.hand_in(shared_house, letters.letter(str(n)), made["address"])
    for timeout in (0, 25):
        answer = await wait(client, made, timeout=timeout)
        body = answer.json()
        assert answer.status_code == 200, body
        assert set(body) == {"message", "code", "link", "cursor"}
        assert set(body["message"]) == MESSAGE
        assert (body["message"]["subject"], body["cursor"]) == ("0", str(body["message"]["seq"]))
    later = (await wait(client, made, since=body["cursor"], timeout=0)).json()
    assert later["message"]["subject"] == "1"
    skipped = (await wait(client, made, skip=f"{body['message']['id']},{later['message']['id']}", timeout=0)).json()
    assert skipped["message"]["subject"] == "2"
    refused(await wait(client, made, since=skipped["cursor"], timeout=0), 408, "wait_timeout")


async def test_no_message_falls_between_two_waits(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    """Before, during and between: 60 messages of six senders at once, taken one a wait by two who wait.

    Each keeps the mailbox's first cursor and skips what it was given, and so gets every message once."""
    made = await letters.mailbox(client)
    total, senders = 60, 6

    async def send(first: int) -> None:
        async with letters.session(shared_house) as peer:
            for n in range(first, total, senders):
                await letters.give(peer, letters.letter(str(n)), made["address"])

    async def take() -> list[str]:
        given: dict[str, str] = {}
        while len(given) < total:
            answer = await wait(client, made, since=made["cursor"], skip=",".join(given), timeout=10)
            assert answer.status_code == 200, (answer.text, len(given))
            message = answer.json()["message"]
            assert message["id"] not in given
            given[message["id"]] = message["subject"]
        return list(given.values())

    sending = asyncio.gather(*(send(n) for n in range(senders)))
    for taken in await asyncio.gather(take(), take()):
        assert sorted(taken, key=int) == [str(n) for n in range(total)]
    await sending


async def test_a_message_that_races_its_wait_is_not_missed(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    """The final dot and eight waits at the same moment, 25 times over; no further message comes to the rescue.

    Negative control: with `notify.waiting.wait` subscribing only after its look at what is present, a wait ended in
    408 in the first round of one run and in the ninth of another.
    """
    boxes = [await letters.mailbox(client) for _ in range(8)]
    cursors = [made["cursor"] for made in boxes]
    async with letters.session(shared_house) as peer:
        for n in range(25):
            await peer.talk(
                ("MAIL FROM:<a@b.example>", "250"),
                *((f"RCPT TO:<{made['address']}>", "250") for made in boxes),
                ("DATA", "354"),
            )
            waits = [
                asyncio.create_task(wait(client, made, since=cursor, timeout=25))
                for made, cursor in zip(boxes, cursors, strict=True)
            ]
            await peer.talk((letters.stuffed(letters.letter(str(n))), "250"))
            answers = await asyncio.gather(*waits)
            assert [answer.status_code for answer in answers] == [200] * 8, n
            assert {answer.json()["message"]["subject"] for answer in answers} == {str(n)}
            cursors = [answer.json()["cursor"] for answer in answers]


async def test_many_who_wait_are_all_answered_by_one_message(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    made = await letters.mailbox(client)
    waits = [asyncio.create_task(wait(client, made, subject="here")) for _ in range(20)]
    await letters.hand_in(shared_house, letters.letter("not this one"), made["address"])
    await letters.hand_in(shared_house, letters.letter("It is HERE"), made["address"])
    answers = await asyncio.gather(*waits)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["message"]["id"] for answer in answers}) == 1


async def test_a_wait_that_ends_in_vain_says_what_came_instead(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    made = await letters.mailbox(client)
    body = refused(await wait(client, made, timeout=0), 408, "wait_timeout")
    assert "nothing arrived" in body["message"]
    await letters.hand_in(shared_house, letters.letter("Your receipt"), made["address"])
    for seconds in (
        1.5,
        15,
    ):  # the newsletter is to come before the wait is over, which on a busy machine may take longer
        waiting = asyncio.create_task(wait(client, made, subject="sign in", timeout=seconds))
        await letters.hand_in(shared_house, letters.letter("Our newsletter"), made["address"])
        if not waiting.done():
            break
        await waiting
    body = refused(await waiting, 408, "wait_timeout")
    assert "Your receipt" in body["message"]
    assert "Our newsletter" in body["message"]


MATCHES = [
    ({"from": "Bob@Shop.example"}, "2"),
    ({"from": "@shop.example"}, "1"),
    ({"from": "@hop.example"}, None),
    ({"from": "shop.example"}, None),
    ({"from": "ob@shop.example"}, None),
    ({"subject": "WELCOME"}, "3"),
    ({"text": "drei äpfel"}, "3"),
    ({"text": "nowhere"}, None),
    ({"for": "code"}, "2"),
    ({"for": "link"}, "3"),
    ({"for": "link", "kind": "verify"}, "4"),
    ({"for": "link", "kind": "reset"}, None),
    ({"kind": "verify"}, "4"),
    ({"kind": "reset"}, None),
    ({"for": "message", "kind": "reset"}, "0"),
    ({"from": "bob@shop.example", "for": "link"}, None),
    ({"from": "@shop.example", "subject": "2", "for": "code"}, "2"),
]


async def test_a_wait_takes_only_what_it_was_asked_for(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    made = await letters.mailbox(client)
    utf8 = {"Content_Type": "text/plain; charset=utf-8"}
    for raw in (
        letters.letter("0", sender="eve@not-shop.example"),
        letters.letter("1", sender="Ann <ANN@Shop.Example>"),
        letters.letter("2", "Your code is 482913.", sender="bob@shop.example"),
        letters.letter("3 Welcome", "Drei Äpfel: https://shop.example/catalogue", sender="c@sub.shop.example", **utf8),
        letters.letter("4", "Verify your address: https://shop.example/verify?token=abc", sender="d@x.example"),
    ):
        await letters.hand_in(shared_house, raw, made["address"])
    for query, subject in MATCHES:
        answer = await wait(client, made, timeout=0, **query)
        found = answer.json()["message"]["subject"][0] if answer.status_code == 200 else None
        assert found == subject, (query, answer.text)
    assert (await wait(client, made, **{"for": "code"})).json()["code"] == "482913"
    link = (await wait(client, made, **{"for": "link", "kind": "verify"})).json()["link"]
    assert link == "https://shop.example/verify?token=abc"
    plain = (await wait(client, made)).json()
    assert (plain["code"], plain["link"]) == (None, None)


async def test_what_a_wait_cannot_mean_is_refused(client: httpx2.AsyncClient) -> None:
    made = await letters.mailbox(client)
    for query, field in (
        ({"timeout": 121}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"since": "yesterday"}, "since"),
        ({"skip": "x"}, "skip"),
        ({"skip": ",".join([MISSING] * 101)}, "skip"),
        ({"for": "money"}, "for"),
        ({"kind": "love"}, "kind"),
        ({"form": "a@b.example"}, "form"),
    ):
        body = refused(await wait(client, made, **query), 422, "validation_error")
        assert [re.split(r"[.\[]", error["field"])[0] for error in body["errors"]] == [field]
    refused(await client.get(f"/mailboxes/{MISSING}/wait"), 404, "not_found")
    ahead = str(int(made["cursor"]) + 1000)
    assert refused(await wait(client, made, since=ahead), 410, "cursor_expired")["newest"] == made["cursor"]
