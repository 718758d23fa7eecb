"""Every list: newest first, oldest first where that is asked for, page by page, and of a time alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import httpx2
import pytest
from uuid_utils.compat import uuid7

from tests import house
from tests.flows import letters

pytestmark = pytest.mark.anyio

COUNT = 4
Make = Callable[[int], Awaitable[Any]]


def poster(client: httpx2.AsyncClient, path: str, body: Callable[[int], Any]) -> Make:
    async def make(number: int) -> None:
        answer = await client.post(path, json=body(number))
        assert answer.status_code in (201, 202), answer.text

    return make


async def lists(home: house.House, client: httpx2.AsyncClient) -> dict[str, tuple[Make, str]]:
    """How to put something into each, and when what it shows was made."""
    box = await letters.mailbox(client)
    name = uuid7().hex
    hook = (await client.post("/webhooks", json={"url": "http://127.0.0.1:9/", "types": ["domain.failed"]})).json()

    async def deliver(number: int) -> None:
        await letters.hand_in(home, letters.letter(f"Number {number}"), box["address"])

    email = {"from": "a@postroom.test", "to": box["address"], "subject": "…", "text": "…", "scheduled_at": "in 1 hour"}
    template = {"name": "one", "subject": "…", "text": "…"}
    made = "created_at"
    return {
        "/mailboxes": (poster(client, "/mailboxes", lambda _: {}), made),
        "/messages": (deliver, "received_at"),
        f"/mailboxes/{box['id']}/messages": (deliver, "received_at"),
        "/emails": (poster(client, "/emails", lambda _: email), made),
        "/webhooks": (poster(client, "/webhooks", lambda _: {"url": "http://127.0.0.1:9/", "types": ["*"]}), made),
        f"/webhooks/{hook['id']}/deliveries": (poster(client, f"/webhooks/{hook['id']}/test", lambda _: {}), made),
        "/domains": (poster(client, "/domains", lambda number: {"name": f"{name}{number}.example"}), made),
        "/suppressions": (poster(client, "/suppressions", lambda number: {"address": f"{number}@b.example"}), made),
        "/templates": (poster(client, "/templates", lambda _: template), made),
        "/api-keys": (poster(client, "/api-keys", lambda _: {"name": "one", "scopes": ["read"]}), made),
    }


async def pages(client: httpx2.AsyncClient, path: str, **query: str) -> list[dict[str, Any]]:
    """All of a list, two a page."""
    return await letters.every(client, path, limit="2", **query)


def key(item: dict[str, Any]) -> str:
    return str(item.get("id") or item.get("address") or item["name"])


async def test_every_list_has_its_order_its_pages_and_its_time(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    """Seen to fail with the lists of webhooks, their deliveries and keys as they were: newest first, whatever `order`
    said; and with `since` unknown to all lists but that of e-mails."""
    for path, (make, at) in (await lists(shared_house, client)).items():
        for number in range(COUNT):
            await make(number)
        newest = await pages(client, path)
        oldest = await pages(client, path, order="asc")
        assert len(newest) >= COUNT, path
        assert [key(one) for one in newest] == [key(one) for one in reversed(oldest)], path
        times = [one[at] for one in oldest]
        assert times == sorted(times), path
        middle = times[-2]
        late = [key(one) for one in oldest if one[at] >= middle]
        assert [key(one) for one in await pages(client, path, since=middle, order="asc")] == late, path
        early = [key(one) for one in newest if one[at] < middle]
        assert [key(one) for one in await pages(client, path, until=middle)] == early, path
        later = (datetime.fromisoformat(times[-1]) + timedelta(seconds=1)).isoformat()
        assert await pages(client, path, since=later) == [], path
        assert (await client.get(path, params={"since": "yesterday"})).status_code == 422, path
