"""Quotas of mail in: over them nothing is evicted, nobody learns who lives where, and the owner is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx2
import pytest

from tests import conftest, house
from tests.flows import letters
from tests.flows.test_mailboxes import refused

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("houses with quotas")]

ROOM = 3  # messages that fit


@pytest.fixture(scope="module", params=["MAX_STORED_BYTES", "MAX_MESSAGES_PER_MINUTE"])
def home(postgres_dsn: str, redis_url: str, request: pytest.FixtureRequest) -> Iterator[house.House]:
    """One of each kind for all tests here; each takes accounts of its own."""
    most = {"MAX_STORED_BYTES": str(ROOM * len(letters.letter("n"))), "MAX_MESSAGES_PER_MINUTE": str(ROOM)}
    name: str = request.param
    yield from conftest._standing(postgres_dsn, redis_url, programs=("serve", "worker"), **{name: most[name]})


async def kinds(client: httpx2.AsyncClient) -> list[str]:
    return [event["type"] for event in await letters.listed(client, "/events", limit=200)]


async def filled(home: house.House, client: httpx2.AsyncClient, address: str) -> None:
    for _ in range(ROOM):
        await letters.hand_in(home, letters.letter("n"), address)
    async with letters.sql(home) as connection:  # the minute may end at any moment; for this test it does not
        await connection.execute(
            "update event_heads set minute_began = date_trunc('minute', now() + interval '1 minute')"
        )
        await connection.execute("update event_heads set minute_began = date_trunc('minute', now())")


async def told_of_dropped(client: httpx2.AsyncClient, count: int) -> None:
    """Until so many mails were dropped; a worker does it, after the sender has heard its 250."""
    after, left = "0", count
    async with asyncio.timeout(60):
        while left > 0:
            query = {"types": "message.dropped", "after": after, "wait": "20"}
            page = (await client.get("/events", params=query)).json()
            left -= len(page["data"])
            after = page["next_cursor"] or (page["data"][-1]["cursor"] if page["data"] else after)


async def test_at_a_shared_domain_mail_over_quota_hears_what_any_mail_hears_and_its_owner_is_told(
    home: house.House,
) -> None:
    """Seen to fail with the quota never found spent: five messages were stored."""
    tenant, neighbour = await home.tenant(), await home.tenant()
    async with home.client(tenant.key) as client, home.client(neighbour.key) as other:
        box, theirs = await letters.mailbox(client), await letters.mailbox(other)
        await filled(home, client, box["address"])
        for count in (1, 2):
            await letters.hand_in(home, letters.letter("n"), box["address"], theirs["address"])
            await told_of_dropped(client, count)
        stored = await letters.listed(client, f"/mailboxes/{box['id']}/messages")
        assert len(stored) == ROOM
        assert len(await letters.listed(other, f"/mailboxes/{theirs['id']}/messages")) == 2
        assert await kinds(client) == [
            *["mailbox.created"],
            *["message.received"] * ROOM,
            *["message.dropped", "quota.exceeded", "message.dropped"],
        ]
        dropped = [e for e in await letters.listed(client, "/events") if e["type"] == "message.dropped"]
        told = dropped[0]["data"]
        assert (told["reason"], told["subject"], told["rcpt_to"]) == ("quota_exceeded", "n", [box["address"]])
        assert await kinds(other) == ["mailbox.created", "message.received", "message.received"]


async def test_at_a_domain_of_one_account_every_recipient_is_put_off(home: house.House) -> None:
    """Which addresses live there is not told by it."""
    tenant = await home.tenant()
    async with home.client(tenant.key) as client:
        await letters.owns(home, tenant, "own.example")
        box = await letters.mailbox(client, address="box@own.example")
        await filled(home, client, box["address"])
        async with asyncio.timeout(20):  # for a second what was looked up is held to be true
            while await letters.sent(home, letters.letter("n"), "nobody@own.example") == "250":
                pass
        names = ("box@own.example", "nobody@own.example")
        replies = {await letters.sent(home, letters.letter("n"), name) for name in names}
        assert replies == {"452 4.2.2 Over quota, try again later"}
        assert len(await letters.listed(client, f"/mailboxes/{box['id']}/messages")) == ROOM
        assert "quota.exceeded" in await kinds(client)


async def test_what_is_deleted_makes_room(home: house.House) -> None:
    tenant = await home.tenant()
    async with home.client(tenant.key) as client:
        box = await letters.mailbox(client)
        await filled(home, client, box["address"])
        assert (await client.delete(f"/mailboxes/{box['id']}/messages")).status_code == 204
        async with letters.sql(home) as connection:
            await connection.execute("update event_heads set minute_began = minute_began - interval '1 minute'")
            query = "select stored_bytes from event_heads where account_id = $1"
            assert await connection.fetchval(query, tenant.account_id) == 0
        await letters.hand_in(home, letters.letter("n"), box["address"])
        assert len(await letters.listed(client, f"/mailboxes/{box['id']}/messages")) == 1


async def test_an_account_may_have_so_many_live_mailboxes(postgres_dsn: str, redis_url: str) -> None:
    async with letters.own_house(postgres_dsn, redis_url, settings={"MAX_MAILBOXES": "2"}) as home:
        tenant = await home.tenant()
        async with home.client(tenant.key) as client:
            boxes = [await letters.mailbox(client) for _ in range(2)]
            assert refused(await client.post("/mailboxes"), 429, "quota_exceeded")
            assert (await client.delete(f"/mailboxes/{boxes[0]['id']}")).status_code == 204
            while (answer := await client.post("/mailboxes")).status_code == 429:
                assert answer.headers["retry-after"]  # the count is believed for a second
            assert answer.status_code == 201
