"""What waits and what came in, by HTTP: the queue with the ways out, and arrivals by the hour."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from uuid_utils.compat import uuid7

from tests import house, sending
from tests.flows import letters

pytestmark = pytest.mark.anyio

PATIENCE = 30.0  # seconds until a test gives up on what never comes
STANDING = {
    "ways": [{"name": "capture", "state": "left_alone", "again_in": 20.0}],
    "destinations": [
        {"name": "slow.example", "state": "closed", "again_in": 600.0},
        {"name": "elsewhere.example", "state": "slowed", "per_second": 0.5},
    ],
}


async def test_the_queue_tells_what_waits_where_and_how_the_ways_there_stand(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    """Another worker tells of its ways: one that this account's mail uses, and one that is others' business."""
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    await sending.send(client, to=["a@slow.example", "b@slow.example", "c@fast.example"], scheduled_at=later)
    worker = uuid7()
    async with letters.sql(shared_house) as connection:
        await connection.execute(
            "update deliveries set status = 'deferred', reply = '451 4.3.0 not now', provider = 'capture', "
            "waits_since = now() - interval '1 hour' where account_id = $1 and address = 'b@slow.example'",
            tenant.account_id,
        )
        try:
            await connection.execute(
                "insert into workers values ($1, 'elsewhere', '1', now(), now(), $2)", worker, json.dumps(STANDING)
            )
            found = (await client.get("/queue")).json()
        finally:
            await connection.execute("delete from workers where id = $1", worker)
    assert (found["recipients"], found["deferred"], found["due"], found["is_cut"]) == (3, 1, 0, False)
    assert found["statuses"] == {"scheduled": 2, "deferred": 1}
    assert found["next_attempt_at"] is not None
    assert found["oldest_due_at"] is None
    slow, fast = found["destinations"]
    assert (slow["domain"], slow["recipients"], slow["state"]) == ("slow.example", 2, "closed")
    assert slow["reply"] == "451 4.3.0 not now"
    assert _seconds(slow["again_at"], found["checked_at"]) == pytest.approx(600, abs=30)
    assert slow["waits_since"] < found["checked_at"]
    assert (fast["domain"], fast["state"], fast["again_at"], fast["waits_since"]) == (
        "fast.example",
        "open",
        None,
        None,
    )
    [provider] = found["providers"]
    assert (provider["name"], provider["recipients"], provider["state"]) == ("capture", 1, "left_alone")
    assert "elsewhere.example" not in json.dumps(found)
    assert found["workers"] >= 1


def _seconds(later: str, earlier: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


async def test_nothing_waits_in_an_empty_queue(client: httpx2.AsyncClient) -> None:
    found = (await client.get("/queue")).json()
    assert (found["recipients"], found["statuses"], found["destinations"], found["providers"]) == (0, {}, [], [])


async def test_mail_that_came_in_is_counted_by_its_hour(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    box = await letters.mailbox(client)
    other = await letters.mailbox(client)
    await letters.hand_in(shared_house, letters.letter("one"), box["address"])
    await letters.hand_in(shared_house, letters.letter("two"), box["address"], other["address"])
    [by_hour] = (await counted(client, interval="hour", since=_hours_ago(2)))["data"]
    assert (by_hour["received"], by_hour["dropped"]) == (3, 0)
    assert by_hour["from"].endswith(":00:00Z")
    assert _seconds(by_hour["until"], by_hour["from"]) == 3600
    whole = await counted(client)
    assert [one["received"] for one in whole["data"]] == [3]
    assert whole["data"][0]["from"] == whole["since"]
    too_long = await client.get("/statistics/inbound", params={"interval": "hour", "since": _hours_ago(24 * 40)})
    assert too_long.status_code == 422


def _hours_ago(hours: int) -> str:
    return (datetime.now(UTC) - timedelta(hours=hours)).isoformat()


async def counted(client: httpx2.AsyncClient, **query: str) -> dict[str, Any]:
    """Arrivals, once all that had come is in them."""
    async with asyncio.timeout(PATIENCE):
        while True:
            answer = await client.get("/statistics/inbound", params=query)
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = answer.json()
            if found["complete"] and found["data"]:
                return found
            await asyncio.sleep(0.05)
