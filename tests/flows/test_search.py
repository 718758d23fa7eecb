"""Search over HTTP, of mail that came over SMTP."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests import house
from tests.flows import letters
from tests.flows.test_mailboxes import refused

pytestmark = pytest.mark.anyio


async def until_found(client: httpx2.AsyncClient, path: str, **query: Any) -> list[dict[str, Any]]:
    """What a search answers as soon as it finds something."""
    async with asyncio.timeout(20):
        while not (found := await letters.listed(client, path, **query)):
            pass
    return found


async def test_mail_is_found_by_what_it_says(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    made, other = await letters.mailbox(client), await letters.mailbox(client)
    hidden = "x " * 200 + "Straußenei"  # behind the snippet: only the index knows it
    await letters.hand_in(
        shared_house,
        letters.letter(
            "Your order", hidden, sender="Shop <hello@shop.example>", Content_Type="text/plain; charset=utf-8"
        ),
        made["address"].replace("@", "+promo@"),
    )
    [by_address] = await letters.listed(client, "/messages", q="from:hello@shop.example tag:promo subject:order")
    [found] = await until_found(client, "/messages", q="strausSENEI")
    assert found == by_address
    at = f"/mailboxes/{made['id']}/messages"
    assert await letters.listed(client, at, q='"x straussenei" -label:done is:unseen') == [found]
    assert await letters.listed(client, at, q="straussenei", seen="true") == []
    assert await letters.listed(client, f"/mailboxes/{other['id']}/messages", q="straussenei") == []
    async with shared_house.client(made["token"]) as holder:
        assert await letters.listed(holder, at, q="straussenei") == [found]
        assert (await holder.get("/messages", params={"q": "straussenei"})).status_code in {401, 403, 404}
    async with shared_house.client((await shared_house.tenant()).key) as stranger:
        assert await letters.listed(stranger, "/messages", q="straussenei") == []
    assert (await client.patch(f"/messages/{found['id']}", json={"labels": ["done"]})).status_code == 200
    assert await letters.listed(client, "/messages", q="-label:done straussenei") == []
    assert [m["id"] for m in await letters.listed(client, "/messages", q="label:done")] == [found["id"]]
    assert (await client.delete(f"/messages/{found['id']}")).status_code == 204
    assert await letters.listed(client, "/messages", q="straussenei") == []


async def test_a_deleted_mailbox_is_found_no_more(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    made = await letters.mailbox(client)
    await letters.hand_in(shared_house, letters.letter("s", "x " * 200 + "needle"), made["address"])
    await until_found(client, "/messages", q="needle")
    assert (await client.delete(f"/mailboxes/{made['id']}")).status_code == 204
    for q in ("needle", "from:b.example", "is:unseen", "-other"):
        assert await letters.listed(client, "/messages", q=q) == [], q


async def test_what_is_found_comes_in_pages(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    made = await letters.mailbox(client)
    async with letters.session(shared_house) as peer:
        for number in range(7):
            await letters.give(peer, letters.letter(f"number {number}"), made["address"])
    for order in ("asc", "desc"):
        found: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            query = {"q": "subject:number", "limit": "3", "order": order, **cursor}
            page = (await client.get("/messages", params=query)).json()
            found += page["data"]
            assert page["has_more"] is (page["next_cursor"] is not None)
            if not page["has_more"]:
                break
            cursor = {"cursor": page["next_cursor"]}
        subjects = [f"number {number}" for number in range(7)]
        assert [m["subject"] for m in found] == (subjects if order == "asc" else subjects[::-1])


async def test_a_conversation_is_listed_and_told(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    made = await letters.mailbox(client)
    mails = (
        letters.letter("a", Message_ID="<a@x.example>"),
        letters.letter("b", Message_ID="<b@x.example>", In_Reply_To="<a@x.example>"),
        letters.letter("c", Message_ID="<c@x.example>", In_Reply_To="<b@x.example>"),
    )
    for mail in mails:
        await letters.hand_in(shared_house, mail, made["address"])
    [told] = await until_found(client, "/events", types="message.updated")
    c, b, a = await letters.listed(client, f"/mailboxes/{made['id']}/messages")
    assert a["thread_id"] == b["thread_id"] == c["thread_id"]
    assert told["data"] == {"id": c["id"], "thread_id": a["thread_id"]}
    assert await letters.listed(client, "/messages", thread=a["thread_id"]) == [c, b, a]
    assert await letters.listed(client, "/messages", thread=a["thread_id"], q="subject:b") == [b]
    assert await letters.listed(client, "/messages", thread=str(uuid4())) == []


@pytest.mark.parametrize("q", ['"', "from:", "before:soon", "larger:big", "x" * 501, "x " * 30, "!!!", "a\0b"])
async def test_a_broken_query_is_refused_with_a_reason(client: httpx2.AsyncClient, q: str) -> None:
    body = refused(await client.get("/messages", params={"q": q}), 422, "validation_error")
    [error] = body["errors"]
    assert error["field"] == "q"
    assert error["message"]


async def test_an_empty_query_lists_everything(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    made = await letters.mailbox(client)
    await letters.hand_in(shared_house, letters.letter(), made["address"])
    assert len(await letters.listed(client, "/messages", q=" ")) == 1


async def test_without_redis_mail_is_found_as_well(postgres_dsn: str) -> None:
    """Nobody tells the worker of new mail: it looks for it."""
    async with (
        letters.own_house(postgres_dsn, "", programs=("serve", "worker")) as home,
        home.client((await home.tenant()).key) as client,
    ):
        made = await letters.mailbox(client)
        await letters.hand_in(home, letters.letter("s", "x " * 200 + "needle"), made["address"])
        assert [m["subject"] for m in await until_found(client, "/messages", q="needle")] == ["s"]
