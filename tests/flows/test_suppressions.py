"""Suppressions: listed by hand, by lists, by bounces; left out or refused at acceptance, and before each attempt."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from tests import house, sending
from tests.flows import letters
from tests.flows.test_mailboxes import refused
from tests.outbound import sink

pytestmark = pytest.mark.anyio

RECIPIENT = "user@recipient.example"


async def suppress(client: httpx2.AsyncClient, address: str, **fields: Any) -> dict[str, Any]:
    answer = await client.post("/suppressions", json={"address": address, **fields})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def listed(client: httpx2.AsyncClient, **query: Any) -> list[str]:
    return [one["address"] for one in await letters.listed(client, "/suppressions", **query)]


# The list


async def test_an_address_is_listed_once_whatever_its_case(client: httpx2.AsyncClient) -> None:
    first = await suppress(client, "Ann@Bücher.Example")
    again = await suppress(client, "ANN@bücher.example", reason="complaint")
    assert first == again | {"reason": "manual"}
    assert first["address"] == "ann@xn--bcher-kva.example"
    assert await listed(client) == [first["address"]]
    assert (await client.get("/suppressions/aNN@b%C3%BCcher.example")).json() == again
    assert (await client.delete("/suppressions/Ann%40b%C3%BCcher.example")).status_code == 204
    assert await listed(client) == []
    refused(await client.delete(f"/suppressions/{first['address']}"), 404, "not_found")


async def test_an_address_with_a_slash_is_taken_off_by_the_query(client: httpx2.AsyncClient) -> None:
    await suppress(client, "a/b@x.example")
    answer = await client.delete("/suppressions", params={"address": "A/b@x.example"})
    assert (answer.status_code, await listed(client)) == (204, [])
    refused(await client.delete("/suppressions"), 422, "missing_required_field")


async def test_an_address_is_taken_off_as_it_was_listed_by_a_body(client: httpx2.AsyncClient) -> None:
    await suppress(client, "a@x.example")
    await suppress(client, "a@x.example", scope="topic:news")
    wish = {"address": "A@x.example", "scope": "topic:news"}
    assert [(await client.request("DELETE", "/suppressions", json=wish)).status_code for _ in range(2)] == [204, 404]
    assert (await client.request("DELETE", "/suppressions", json={"address": "a@x.example"})).status_code == 204
    assert await listed(client) == []


async def test_the_list_comes_in_pages_and_can_be_filtered(client: httpx2.AsyncClient) -> None:
    made = [
        (await suppress(client, f"u{n}@x.example", reason=("manual", "bounce")[n % 2]))["address"] for n in range(5)
    ]
    seen: list[str] = []
    cursor: dict[str, Any] = {}
    while True:
        page = (await client.get("/suppressions", params={"limit": 2} | cursor)).json()
        seen += [one["address"] for one in page["data"]]
        if not page["has_more"]:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == made[::-1]
    assert await listed(client, order="asc") == made
    assert await listed(client, reason="bounce") == [made[3], made[1]]
    assert await listed(client, address="U3@X.example") == [made[3]]


async def test_an_address_is_listed_for_all_mail_or_for_some_of_it(client: httpx2.AsyncClient) -> None:
    scopes = ["", "topic:news", "domain:shop.example"]
    made = [await suppress(client, "a@x.example", scope=scope) for scope in ("", "topic:news", "domain:Shop.Example")]
    assert [one["scope"] for one in made] == scopes
    path = "/suppressions/a@x.example"
    assert (await client.get(path)).json() == made[0]
    assert (await client.get(path, params={"scope": "topic:news"})).json() == made[1]
    assert await letters.listed(client, "/suppressions", scope="domain:shop.example") == made[2:]
    seen: list[dict[str, Any]] = []
    cursor: dict[str, Any] = {}
    while cursor.get("cursor", "") is not None:
        page = (await client.get("/suppressions", params={"limit": 1, **cursor})).json()
        seen, cursor = seen + page["data"], {"cursor": page["next_cursor"]}
    assert sorted(one["scope"] for one in seen) == sorted(scopes)
    assert (await client.delete(path)).status_code == 204
    refused(await client.get(path), 404, "not_found")
    assert (await client.delete("/suppressions", params={"address": "a@x.example", "scope": "topic:news"})).is_success
    assert [one["scope"] for one in await letters.listed(client, "/suppressions")] == ["domain:shop.example"]


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"address": "no address"}, "address"),
        ({"address": "a@x.example", "scope": "news"}, "scope"),
        ({"address": "a@x.example", "scope": "topic:NEWS"}, "scope"),
        ({"address": "a@x.example", "reason": "because"}, "reason"),
        ({"address": "a@x.example", "expires_at": "tomorrow"}, "expires_at"),
        ({"address": "a@x.example", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"address": "a@x.example", "unheard": 1}, "unheard"),
    ],
)
async def test_what_is_wrong_with_a_suppression_is_said(
    client: httpx2.AsyncClient, wish: dict[str, Any], field: str
) -> None:
    body = refused(await client.post("/suppressions", json=wish), 422, "validation_error")
    assert [error["field"] for error in body["errors"]] == [field]


async def test_the_same_idempotency_key_gives_the_same_answer_again(client: httpx2.AsyncClient) -> None:
    headers = {"Idempotency-Key": "once"}
    wish = {"address": "a@x.example"}
    first = await client.post("/suppressions", json=wish, headers=headers)
    await client.delete("/suppressions/a@x.example")
    again = await client.post("/suppressions", json=wish, headers=headers)
    assert (again.json(), again.headers["idempotent-replayed"]) == (first.json(), "true")
    assert await listed(client) == []


async def test_a_suppression_ends_by_the_databases_clock(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    await suppress(client, "a@x.example", expires_at=later)
    assert await listed(client) == ["a@x.example"]
    async with letters.sql(shared_house) as connection:
        await connection.execute("update suppressions set expires_at = now() where account_id = $1", tenant.account_id)
    assert await listed(client) == []
    refused(await client.get("/suppressions/a@x.example"), 404, "not_found")
    refused(await client.delete("/suppressions/a@x.example"), 404, "not_found")
    assert (await client.get("/suppressions/export")).content == b""
    email = await client.post("/emails", json=sending.letter(to="a@x.example", on_suppressed="reject"))
    assert email.status_code == 202


# Whole lists


async def bring(client: httpx2.AsyncClient, content: bytes, kind: str = "application/x-ndjson") -> dict[str, Any]:
    answer = await client.post("/suppressions/import", content=content, headers={"Content-Type": kind})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_what_is_exported_can_be_imported_elsewhere(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    about = [(f"u{n // 2:05}@x.example", ("", "topic:news")[n % 2]) for n in range(2345)]
    lines = [json.dumps({"address": address, "scope": scope, "reason": "bounce"}) for address, scope in about]
    assert await bring(client, "\n".join(lines).encode()) == {"imported": 2345, "failed": 0, "errors": []}
    exported = await client.get("/suppressions/export")
    found = [json.loads(line) for line in exported.text.splitlines()]
    assert [(one["address"], one["scope"]) for one in found] == about
    assert {one["reason"] for one in found} == {"bounce"}
    async with shared_house.client((await shared_house.tenant()).key) as other:
        assert (await bring(other, exported.content))["imported"] == 2345
        assert len((await other.get("/suppressions/export")).text.splitlines()) == 2345


async def test_wrong_lines_are_told_with_their_numbers_and_the_others_are_taken(client: httpx2.AsyncClient) -> None:
    long = b'{"address": "' + b"a" * 70_000 + b'"}'
    lines = [b'{"address": "a@x.example"}', b"", b"{", b'{"address": "none"}', long, b'{"address": "b@x.example"}\r']
    past = b'{"address": "c@x.example", "expires_at": "2020-01-01T00:00:00Z"}'
    found = await bring(client, b"\n".join([*lines, past, b'{"reason": "bounce"}']))
    assert (found["imported"], found["failed"]) == (2, 5)
    assert [problem["line"] for problem in found["errors"]] == [3, 4, 5, 7, 8]
    assert sorted(await listed(client)) == ["a@x.example", "b@x.example"]


@pytest.mark.parametrize(
    "content",
    [
        b'a@x.example,bounce,,topic:news\r\n"b@x.example",,2099-01-01T00:00:00Z\n',
        b"\xef\xbb\xbfExpires_at,Address,Reason,Scope\n,a@x.example,bounce,topic:news\n2099-01-01T00:00:00Z,b@x.example\n",
    ],
)
async def test_csv_has_columns_of_its_own_or_ours(client: httpx2.AsyncClient, content: bytes) -> None:
    assert await bring(client, content, "text/csv; charset=utf-8") == {"imported": 2, "failed": 0, "errors": []}
    found = {
        one["address"]: (one["reason"], one["expires_at"], one["scope"])
        for one in await letters.listed(client, "/suppressions")
    }
    assert found == {
        "a@x.example": ("bounce", None, "topic:news"),
        "b@x.example": ("manual", "2099-01-01T00:00:00Z", ""),
    }


async def test_wrong_csv_is_told(client: httpx2.AsyncClient) -> None:
    found = await bring(client, b'a@x.example,bounce,,too many\n"open\n\xff@x.example\nb@x.example\n', "text/csv")
    assert [problem["line"] for problem in found["errors"]] == [1, 2, 3]
    assert await listed(client) == ["b@x.example"]


async def test_progress_is_told_while_a_list_is_still_coming_in(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    """Negative control: with the lines kept back until the list was whole, none came, and the test gave up waiting."""
    head = (
        "POST /v1/suppressions/import HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n"
        f"Accept: application/x-ndjson\r\nAuthorization: Bearer {tenant.key}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    slices = ["".join(f'{{"address": "u{n}@x.example"}}\n' for n in range(at, at + 500)) for at in range(0, 1500, 500)]
    reader, writer = await asyncio.open_connection("127.0.0.1", shared_house.http_port)
    try:
        async with asyncio.timeout(sending.PATIENCE):
            writer.write(head.encode())
            for count, lines in enumerate(slices, 1):
                writer.write(f"{len(lines):x}\r\n{lines}\r\n".encode())
                if count == 1:
                    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
                assert await _chunk(reader) == {
                    "lines": count * 500,
                    "imported": count * 500,
                    "failed": 0,
                    "done": False,
                }
                assert len((await client.get("/suppressions/export")).text.splitlines()) == count * 500
            writer.write(b"3\r\nx@y\r\n0\r\n\r\n")
            assert (await _chunk(reader))["failed"] == 1
            last = await _chunk(reader)
    finally:
        writer.close()
    assert [problem["line"] for problem in last.pop("errors")] == [1501]
    assert last == {"lines": 1501, "imported": 1500, "failed": 1, "done": True}


async def _chunk(reader: asyncio.StreamReader) -> dict[str, Any]:
    """The line of JSON in the next chunk of an answer."""
    size = int(await reader.readline(), 16)
    found: dict[str, Any] = json.loads(await reader.readexactly(size))
    await reader.readline()
    return found


async def test_an_import_that_cannot_go_on_says_so_in_its_last_line(client: httpx2.AsyncClient) -> None:
    headers = {"Accept": "application/x-ndjson", "Content-Type": "application/x-ndjson"}
    content = b'{"address": "a@x.example"}' + b"\n" * 100_000 + b"x"
    answer = await client.post("/suppressions/import", content=content, headers=headers)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["lines"] for line in lines[:-1]] == list(range(500, 100_001, 500))
    assert (lines[-1]["done"], lines[-1]["imported"], lines[-1]["error"]["name"]) == (True, 1, "payload_too_large")
    empty = await client.post("/suppressions/import", content=b"", headers=headers)
    assert [json.loads(line)["done"] for line in empty.text.splitlines()] == [False, True]


async def test_an_import_ends_at_its_most_lines(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/suppressions/import", content=b'{"address": "a@x.example"}' + b"\n" * 100_000 + b"x")
    refused(answer, 413, "payload_too_large")
    assert await listed(client) == ["a@x.example"]


# Mail


async def test_the_description_says_that_an_address_named_by_query_may_be_unknown(client: httpx2.AsyncClient) -> None:
    assert (await client.delete("/suppressions", params={"address": "a/b@x.example"})).status_code == 404
    described = (await client.get(str(client.base_url.join("/openapi.json")))).json()["paths"]
    assert "404" in described["/v1/suppressions"]["delete"]["responses"]


async def test_suppressed_recipients_are_left_out_and_told(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    await suppress(sender, "user@recipient.example")
    email_id = await sending.send(sender, to=["USER@Recipient.example", "other@recipient.example"])
    shown = await sending.resting(sender, email_id)
    statuses = {one["address"]: one["status"] for one in shown["recipients"]}
    assert statuses == {"USER@recipient.example": "suppressed", "other@recipient.example": "sent"}
    assert [message.recipients for message in relay.messages] == [("other@recipient.example",)]
    (told,) = [event for event in await sending.timeline(sender, email_id) if event["type"] == "email.suppressed"]
    assert told["data"] == {
        "id": email_id,
        "recipient": "USER@recipient.example",
        "status": "suppressed",
        "attempt": 0,
        "reply": None,
        "provider": None,
        "next_attempt_in": None,
    }


async def test_who_is_suppressed_for_a_senders_domain_gets_mail_from_others(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """Negative controls: with the scope of all mail alone looked at in `emails._claimed`, the first was `sent`; with
    that in `send._is_suppressed`, `on_suppressed: "reject"` was accepted. Both failed."""
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    senders = ("a@Sender.example", "a@other.example")
    waiting = [
        await sending.send(sender, from_=who, to="User@recipient.example", scheduled_at=later) for who in senders
    ]
    await suppress(sender, RECIPIENT, scope="domain:sender.example")
    for email_id in waiting:
        assert (await sender.patch(f"/emails/{email_id}", json={"scheduled_at": "2020-01-01T00:00:00Z"})).is_success
    accepted = [await sending.send(sender, from_=who) for who in senders]
    found = [(await sending.resting(sender, email_id))["status"] for email_id in (*waiting, *accepted)]
    assert found == ["suppressed", "sent"] * 2
    assert {message.mail_from for message in relay.messages} == {"a@other.example"}
    wish = sending.letter(from_=senders[0], on_suppressed="reject")
    refused(await sender.post("/emails", json=wish), 422, "recipient_suppressed")
    mixed = [sending.letter(from_=who) for who in senders]
    batch = (await sender.post("/emails/batch", json=mixed)).json()["data"]
    assert [(await sending.resting(sender, one["id"]))["status"] for one in batch] == ["suppressed", "sent"]


async def test_who_wants_to_be_told_is_refused_with_every_name(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    for name in ("one", "two"):
        await suppress(sender, f"{name}@recipient.example")
    wish = sending.letter(
        to=["One@recipient.example", "three@recipient.example"], bcc="two@recipient.example", on_suppressed="reject"
    )
    headers = {"Idempotency-Key": "once"}
    for _ in range(2):
        body = refused(await sender.post("/emails", json=wish, headers=headers), 422, "recipient_suppressed")
        assert [error["field"] for error in body["errors"]] == ["to", "bcc"]
        assert "One@recipient.example" in body["message"]
        assert "two@recipient.example" in body["message"]
    refused(await sender.post("/emails/batch", json=[sending.letter(), wish]), 422, "recipient_suppressed")
    assert await letters.listed(sender, "/emails") == []
    for name in ("one", "two"):
        await sender.delete(f"/suppressions/{name}@recipient.example")
    answer = await sender.post("/emails", json=wish, headers=headers)
    assert answer.status_code == 202
    await sending.resting(sender, answer.json()["id"])


async def test_who_is_suppressed_after_acceptance_is_not_tried_again(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """Negative control: with no look at `claimed.suppressed` in `Carrier._attempt`, the relay got the mail, the
    recipient came to `sent`, and the test failed."""
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    email_id = await sending.send(sender, to="User@recipient.example", scheduled_at=later)
    await suppress(sender, RECIPIENT)
    answer = await sender.patch(f"/emails/{email_id}", json={"scheduled_at": "2020-01-01T00:00:00Z"})
    assert answer.status_code == 200
    shown = await sending.resting(sender, email_id)
    (recipient,) = shown["recipients"]
    assert (recipient["status"], relay.messages) == ("suppressed", [])
    assert [event["type"] for event in await sending.timeline(sender, email_id)][-1] == "email.suppressed"


async def test_an_address_that_does_not_exist_is_suppressed_from_its_bounce_on(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """Negative control: with no `suppressions.bounced` in `emails.settle`, the list stayed empty: it failed."""
    relay.next("rcpt", sink.reply("550 5.1.1 no such user"))
    first = await sending.send(sender, to="User@recipient.example")
    assert (await sending.resting(sender, first))["status"] == "bounced"
    told = (await sending.timeline(sender, first))[-1]
    assert (told["type"], told["data"]["suppressed"]) == ("email.bounced", True)
    (found,) = await letters.listed(sender, "/suppressions")
    assert (found["address"], found["reason"], found["expires_at"]) == (RECIPIENT, "bounce", None)
    second = await sending.send(sender)
    assert (await sending.resting(sender, second))["status"] == "suppressed"
    assert relay.count == 0


@pytest.mark.parametrize("reply", ["550 5.7.1 not from you", "552 5.2.2 mailbox full", "554 5.6.0 odd mail"])
async def test_policy_quota_and_content_suppress_nobody(
    sender: httpx2.AsyncClient, relay: sink.Sink, reply: str
) -> None:
    relay.next("rcpt", sink.reply(reply))
    email_id = await sending.send(sender)
    assert (await sending.resting(sender, email_id))["status"] == "bounced"
    assert (await sending.timeline(sender, email_id))[-1]["data"]["suppressed"] is False
    assert await listed(sender) == []


async def test_who_is_taken_off_the_list_is_written_to_again(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    relay.next("rcpt", sink.reply("550 5.1.1 no such user"))
    email_id = await sending.send(sender)
    await sending.resting(sender, email_id)
    assert (await sender.delete(f"/suppressions/{RECIPIENT}")).status_code == 204
    assert (await sender.post(f"/emails/{email_id}/retry")).status_code == 200
    assert (await sending.resting(sender, email_id))["status"] == "sent"
