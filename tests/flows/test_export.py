"""The delivery log as NDJSON: whole, in order, of a time, and of nobody else."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx2
import pytest
from uuid_utils.compat import uuid7

from gateway.storage import deliveries
from gateway.web.deliveries import PAGE
from tests import house, sending
from tests.flows import letters

pytestmark = pytest.mark.anyio


async def exported(client: httpx2.AsyncClient, **query: str) -> list[dict[str, Any]]:
    answer = await client.get("/deliveries/export", params=query)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_every_attempt_is_a_line_with_its_recipient_and_its_dialogue(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    box = await letters.mailbox(client)
    ids = [await sending.send(client, to=box["address"]) for _ in range(2)]
    for email_id in ids:
        await sending.resting(client, email_id)
    lines = await exported(client)
    assert [(line["email_id"], line["recipient"], line["number"]) for line in lines] == [
        (email_id, box["address"], 1) for email_id in ids
    ]
    [attempt] = (await client.get(f"/emails/{ids[0]}/attempts")).json()["data"]
    assert {name: lines[0][name] for name in attempt if name in lines[0]} == {
        name: value for name, value in attempt.items() if name in lines[0]
    }
    stranger = await shared_house.tenant()
    async with shared_house.client(stranger.key) as other:
        assert await exported(other) == []


async def test_a_long_log_comes_in_pages_whole_and_in_order_and_a_time_of_it_alone(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    """More than two pages; the ids' own times differ from the log's, as clocks do.

    Seen to fail with the bounds taken from the ids alone: attempts whose ids were drawn minutes off were missing."""
    email_id = await sending.send(client, to="x@elsewhere.example", scheduled_at="in 1 hour")
    begun = datetime.now(UTC) - timedelta(days=1)
    count = 2 * PAGE + 10
    async with letters.sql(shared_house) as connection:
        [delivery] = await connection.fetch("select id from deliveries where account_id = $1", tenant.account_id)
        rows = []
        for number in range(1, count + 1):
            ended = begun + timedelta(seconds=number)
            drawn = deliveries.first_id(ended + timedelta(minutes=3 if number % 2 else -3)).int | uuid7().int % (
                1 << 62
            )
            rows.append((tenant.account_id, UUID(int=drawn), delivery["id"], email_id, number, ended))
        await connection.executemany(
            "insert into attempts (account_id, id, delivery_id, email_id, number, provider, started_at, finished_at,"
            " outcome, reply, transcript) values ($1, $2, $3, $4, $5, 'smtp', $6, $6, 'deferred', '451 later', '[]')",
            rows,
        )
    assert sorted(line["number"] for line in await exported(client)) == list(range(1, count + 1))
    part = await exported(
        client, since=(begun + timedelta(seconds=100)).isoformat(), until=(begun + timedelta(seconds=110)).isoformat()
    )
    assert sorted(line["number"] for line in part) == list(range(100, 110))
