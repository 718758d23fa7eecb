"""The delivery log as NDJSON: whole, in order, of a time, and of nobody else."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx2
import pytest
from uuid_utils.compat import uuid7

from gateway.storage import db, deliveries, period
from gateway.web.deliveries import PAGE
from tests import house, sending
from tests.flows import letters
from tests.outbound import sink
from tests.storage import rows

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


@pytest.mark.parametrize("path", ["/emails", "/deliveries/export"])
async def test_the_first_and_the_last_moment_there_is_may_be_asked_for(client: httpx2.AsyncClient, path: str) -> None:
    """Seen to fail with the room for clocks added to the time itself, which then was none: 500."""
    await sending.resting(client, await sending.send(client, to=(await letters.mailbox(client))["address"]))
    ends = {"since": "0001-01-01T00:00:00Z", "until": "9999-12-31T23:59:59Z"}
    for name, moment in ends.items():
        assert (await client.get(path, params={name: moment})).status_code == 200
    whole, asked = await client.get(path), await client.get(path, params=ends)
    assert asked.content == whole.content
    assert b"finished_at" in asked.content or len(asked.json()["data"]) == 1


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
            drawn = period.first_id(ended + timedelta(minutes=3 if number % 2 else -3)).int | uuid7().int % (1 << 62)
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


async def test_what_a_process_wrote_whose_clock_is_ahead_is_in_the_log_at_once(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    """Clocks of processes differ by milliseconds at the least, and who reads the log has seen the event already.

    Control: with the log read up to the reader's own clock, the attempt was missing for a minute."""
    email_id = await sending.send(client, to=(await letters.mailbox(client))["address"])
    await sending.resting(client, email_id)
    async with letters.sql(shared_house) as connection:
        await connection.execute(
            "update attempts set finished_at = finished_at + interval '1 minute' where email_id = $1", UUID(email_id)
        )
    assert [line["email_id"] for line in await exported(client)] == [email_id]


async def test_a_part_of_the_log_is_exported_by_what_it_is_asked_for(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    relay.next("rcpt", sink.reply("451 4.3.0 not now"), sink.reply("550 5.7.1 not from you"))
    spring = await sending.send(sender, to="Ann@x.example", tags=[{"name": "campaign", "value": "spring"}])
    await sending.resting(sender, spring)
    box = (await sender.post("/mailboxes", json={})).json()
    local = await sending.send(sender, to=box["address"])
    await sending.resting(sender, local)
    everything = [(line["email_id"], line["outcome"]) for line in await exported(sender)]
    assert everything == [(spring, "deferred"), (spring, "bounced"), (local, "delivered")]
    for query, found in (
        ({"outcome": "deferred"}, everything[:1]),
        ({"status": "bounced"}, everything[:2]),
        ({"status": "bounced", "outcome": "deferred"}, everything[:1]),
        ({"provider": "local"}, everything[2:]),
        ({"provider": "smtp"}, everything[:2]),
        ({"provider": f"smtp:127.0.0.1:{relay.port}"}, everything[:2]),
        ({"recipient": "Ann@X.example"}, everything[:2]),
        ({"recipient": "bob@x.example"}, []),
        ({"email": local}, everything[2:]),
        ({"tag": "campaign:spring"}, everything[:2]),
        ({"tag": "autumn"}, []),
    ):
        lines = await exported(sender, **query)
        assert [(line["email_id"], line["outcome"]) for line in lines] == found, query
        assert all(line["transcript"] for line in lines if line["provider"] != "local")
    sending.refused(await sender.get("/deliveries/export", params={"status": "lost"}), "status")
    sending.refused(await sender.get("/deliveries/export", params={"recipient": "?"}), "recipient")


async def test_what_matches_is_found_however_little_a_look_takes_in(database: db.Database, account_id: UUID) -> None:
    """Seen to fail with `Part.next_id` the last that matched, or none: the first look without one was the last."""
    numbers = range(30)
    email = await rows.email(database, account_id)
    async with database.connection() as connection:
        for number in numbers:
            insert = (
                "insert into attempts (account_id, id, delivery_id, email_id, number, provider, started_at,"
                " finished_at, outcome, reply, transcript)"
                " values ($1, $2, $3, $4, $5, 'smtp', now(), now(), $6, '', '[]')"
            )
            outcome = "bounced" if number in {3, 20, 21, 22, 29} else "sent"
            delivery = email.deliveries[0].id
            await connection.execute(insert, account_id, uuid7(), delivery, email.id, number, outcome)
        found, after = [], None
        wanted = deliveries.Wanted(outcome="bounced")
        while True:
            part = await deliveries.page(connection, account_id, wanted, after=after, width=5, limit=2)
            found += [row["number"] for row in part.rows]
            after = part.next_id
            if after is None:
                break
    assert found == [3, 20, 21, 22, 29]
