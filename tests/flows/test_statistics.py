"""The track record by HTTP: what really happened to mail, counted by a worker that may be killed; and what waits."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx2
import pytest
from uuid_utils.compat import uuid7

import gateway.app  # noqa: F401 - beside the worker, everything that declares metrics
import workers.main  # noqa: F401 - the same
from gateway import sockets
from gateway.storage import events
from tests import conftest, databases, house, sending
from tests.flows import letters
from tests.flows.test_inbound_http import POSTMARK_AUTH
from tests.flows.test_mailboxes import refused
from tests.outbound import posts, sink
from tests.storage import rows

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("a house that counts")]

PATIENCE = 30.0  # seconds until a test gives up on what never comes
HALT = 7_357  # the lock at which it halts


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    with sockets.bind("127.0.0.1", 0, "a relay") as bound:
        yield bound


@pytest.fixture(scope="module")
def counting_house(
    postgres_dsn: str, redis_url: str, listener: socket.socket, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[house.House]:
    """Its mail leaves through the test's relay, Postmark may tell something, its processes tell metrics together."""
    yield from conftest._standing(
        postgres_dsn,
        redis_url,
        OUTBOUND=f"smtp://127.0.0.1:{sockets.port_of(listener)}?tls=none",
        RETRY_SCHEDULE="0.05",
        SWEEP_INTERVAL_SECONDS="0.1",
        POSTMARK_WEBHOOK_AUTH=":".join(POSTMARK_AUTH),
        PROMETHEUS_MULTIPROC_DIR=str(tmp_path_factory.mktemp("metrics")),
    )


@pytest.fixture
async def relay(listener: socket.socket) -> AsyncIterator[sink.Sink]:
    async with sink.Sink(listener=listener) as relay:
        yield relay


@pytest.fixture
async def owner(counting_house: house.House) -> AsyncIterator[httpx2.AsyncClient]:
    async with counting_house.client((await counting_house.tenant()).key) as client:
        yield client


async def counted(client: httpx2.AsyncClient, **query: Any) -> dict[str, Any]:
    """The statistics, once everything is in them that had happened when they were asked for."""
    async with asyncio.timeout(PATIENCE):
        while True:
            answer = await client.get("/statistics", params=query)
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = answer.json()
            if found["complete"]:
                return found
            await asyncio.sleep(0.05)


def numbers(one: dict[str, Any]) -> str:
    """What is not 0: "accepted 2, sent 1"."""
    return ", ".join(f"{name} {value}" for name, value in one.items() if type(value) is int and value)


async def happened(owner: httpx2.AsyncClient, home: house.House, relay: sink.Sink) -> str:
    """Mail that is sent, put off, refused, suppressed and complained of; the id of the one that was complained of."""
    relay.next("rcpt", sink.reply("451 4.3.0 not now"))
    tags = [{"name": "kind", "value": "welcome"}, {"name": "list", "value": "a"}]
    late = await sending.send(owner, to="a@one.example", tags=tags)
    await sending.resting(owner, late)
    relay.next("rcpt", sink.reply("550 5.1.1 no such user"))
    await sending.resting(owner, await sending.send(owner, to="b@two.example", tags=tags[:1]))
    await sending.resting(owner, await sending.send(owner, to=["b@two.example", "c@two.example"]))
    postmark_id = str(uuid7())
    async with letters.sql(home) as connection:
        await connection.execute(
            "insert into provider_messages (provider, provider_id, account_id, delivery_id) "
            "select 'postmark', $2, account_id, id from deliveries where email_id = $1",
            *(UUID(late), postmark_id),
        )
    async with httpx2.AsyncClient(base_url=f"{home.url}/v1", timeout=30, verify=house.NOBODY) as provider:
        for record in ("Delivery", "SpamComplaint"):
            post = posts.postmark(record, postmark_id)
            assert (await provider.post("/callbacks/postmark", json=post, auth=POSTMARK_AUTH)).status_code == 200
    return late


async def test_what_happened_to_mail_is_counted_exactly(
    counting_house: house.House, owner: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """Through the real processes: a relay that puts off and refuses, the suppression list, a provider that tells."""
    await happened(owner, counting_house, relay)
    answer = await counted(owner)
    [everything] = answer["data"]
    told = (await owner.get("/events", params={"limit": "200"})).json()["data"]
    assert answer["cursor"] == told[-1]["cursor"]
    assert answer["counted_until"] >= told[-1]["created_at"]
    assert numbers(everything) == ("accepted 4, sent 2, delivered 1, deferred 1, bounced 1, suppressed 1, complained 1")
    assert (everything["delivery_rate"], everything["bounce_rate"]) == (0.666667, 0.333333)
    assert everything["complaint_rate"] == 0.5
    latency = everything["latency_seconds"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] < PATIENCE
    smtp = f"smtp:127.0.0.1:{relay.port}"
    by_provider = {one["group"]: numbers(one) for one in (await counted(owner, group_by="provider"))["data"]}
    assert by_provider == {
        None: "accepted 4, suppressed 1",
        smtp: "sent 2, deferred 1, bounced 1",
        "postmark": "delivered 1, complained 1",
    }
    by_domain = {one["group"]: numbers(one) for one in (await counted(owner, group_by="recipient_domain"))["data"]}
    assert by_domain == {
        "one.example": "accepted 1, sent 1, delivered 1, deferred 1, complained 1",
        "two.example": "accepted 3, sent 1, bounced 1, suppressed 1",
    }
    by_tag = {one["group"]: numbers(one) for one in (await counted(owner, group_by="tag"))["data"]}
    assert by_tag == {
        "kind:welcome": "accepted 2, sent 1, delivered 1, deferred 1, bounced 1, complained 1",
        "list:a": "accepted 1, sent 1, delivered 1, deferred 1, complained 1",
    }
    [by_sender] = (await counted(owner, group_by="sender_domain", domain="SENDER.example"))["data"]
    assert (by_sender["group"], numbers(by_sender)) == ("sender.example", numbers(everything))
    [tagged] = (await counted(owner, tag="list:a", provider=smtp))["data"]
    assert numbers(tagged) == "sent 1, deferred 1"


async def test_somebody_elses_mail_is_in_nobodys_numbers(
    counting_house: house.House, owner: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """Seen to fail, with a statistic where there is none, where `totals` did not ask for the account."""
    await sending.resting(owner, await sending.send(owner, tags=[{"name": "a", "value": "b"}]))
    assert numbers((await counted(owner))["data"][0]) == "accepted 1, sent 1"
    async with counting_house.client((await counting_house.tenant(("read",))).key) as stranger:
        for query in ({}, {"group_by": "tag"}, {"tag": "a:b"}, {"interval": "hour", "group_by": "provider"}):
            answer = await counted(stranger, **query)
            assert answer["data"] == []
            assert answer["cursor"] == "0"


async def test_hours_and_days_are_told_with_their_bounds(
    counting_house: house.House, owner: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    email_id = await sending.send(owner)
    await sending.resting(owner, email_id)
    [everything] = (await counted(owner))["data"]
    now = datetime.fromisoformat((await sending.timeline(owner, email_id))[0]["created_at"])
    hour = now.replace(minute=0, second=0, microsecond=0)
    query = {"since": f"{now.isoformat().replace('+00:00', 'Z')}", "until": _text(now + timedelta(seconds=1))}
    answer = await counted(owner, interval="hour", **query)
    assert answer["since"] == _text(hour)
    assert all(one["from"] >= _text(hour) for one in answer["data"])
    assert answer["data"][0]["until"] == _text(hour + timedelta(hours=1))
    [day, *_] = (await counted(owner, interval="day", since=_text(hour - timedelta(days=3))))["data"]
    assert day["from"] == _text(hour.replace(hour=0))
    [total] = (await counted(owner, since=_text(hour - timedelta(days=3))))["data"]
    assert (total["from"], numbers(total)) == (_text(hour - timedelta(days=3)), numbers(everything))
    assert (await counted(owner, until=_text(hour - timedelta(hours=1))))["data"] == []


def _text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


async def test_of_many_groups_those_with_the_most_mail_are_told(
    counting_house: house.House, owner: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    recipients = [
        "a@most.example",
        "b@most.example",
        "c@most.example",
        "a@some.example",
        "b@some.example",
        "a@few.example",
    ]
    await sending.resting(owner, await sending.send(owner, to=recipients))
    answer = await counted(owner, group_by="recipient_domain", limit=2)
    assert [(one["group"], one["accepted"]) for one in answer["data"]] == [("most.example", 3), ("some.example", 2)]
    assert (answer["has_more"], answer["next_cursor"]) == (True, None)
    assert (await counted(owner, group_by="recipient_domain", limit=3))["has_more"] is False


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"group_by": "subject"}, "group_by"),
        ({"interval": "minute"}, "interval"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2026-03-02T00:00:00Z", "until": "2026-03-01T00:00:00Z"}, "since"),
        ({"since": "2020-03-02T00:00:00Z", "until": "2026-03-01T00:00:00Z"}, "since"),
        (
            {"since": "2026-01-01T00:00:00Z", "until": "2026-03-01T00:00:00Z", "interval": "hour", "group_by": "tag"},
            "interval",
        ),
        ({"since": "2025-03-01T00:00:00Z", "until": "2026-03-01T00:00:00Z", "interval": "hour"}, "interval"),
        ({"until": "0001-01-01T00:00:00Z"}, "until"),
        ({"until": "9999-12-31T23:30:00Z"}, "until"),
        ({"tag": "welcome"}, "tag"),
        ({"tag": "a:b", "recipient_domain": "one.example"}, "recipient_domain"),
        ({"tag": "a:b", "group_by": "recipient_domain"}, "group_by"),
        ({"group_by": "tag", "recipient_domain": "one.example"}, "recipient_domain"),
        ({"limit": "0"}, "limit"),
        ({"limit": "201"}, "limit"),
        ({"cursor": "1"}, "cursor"),
    ],
)
async def test_what_has_no_answer_is_refused_with_its_field(
    client: httpx2.AsyncClient, query: dict[str, str], field: str
) -> None:
    body = refused(await client.get("/statistics", params=query), 422, "validation_error")
    assert [error["field"] for error in body["errors"]] == [field]


async def test_a_domain_is_meant_in_either_writing(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    """Seen to fail with the domain looked for as it was written: what is counted is counted by A-labels."""
    async with letters.sql(shared_house) as connection:
        await connection.execute(
            "insert into delivery_statistics select $1, date_trunc('hour', now(), 'UTC'), '', 'xn--bcher-kva.example',"
            " 'xn--bcher-kva.example', '', 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, '{}', false",
            tenant.account_id,
        )
    for name in ("domain", "recipient_domain"):
        for written in ("B\u00fcCHER.example", "XN--bcher-kva.example."):
            answer = await client.get("/statistics", params={name: written})
            assert [one["accepted"] for one in answer.json()["data"]] == [7], (name, written)


async def test_statistics_want_a_key_that_may_read_or_send(shared_house: house.House, tenant: house.Tenant) -> None:
    for scope, status in {"read": 200, "send": 200, "mailboxes": 403, "inbound": 403}.items():
        async with shared_house.client((await shared_house.tenant((scope,))).key) as limited:
            assert (await limited.get("/statistics")).status_code == status, scope


# Whoever is killed


async def _halting(connection: asyncpg.Connection, writing: str) -> None:
    """From now on whoever does this waits for the lock first."""
    await connection.execute(
        f"""create function halt() returns trigger language plpgsql as
        'begin perform pg_advisory_xact_lock({HALT}); return new; end';
        create trigger halt before {writing} for each row execute function halt()"""
    )


async def until(connection: asyncpg.Connection, query: str, *values: Any) -> Any:
    """What the query finds, once it finds something."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if (found := await connection.fetchval(query, *values)) is not None:
                return found
            await asyncio.sleep(0.01)


async def _kill_in_the_middle(home: house.House, connection: asyncpg.Connection) -> None:
    """Kill the worker once its transaction waits at the lock; what it had not committed is gone with it."""
    waiting = (
        "select pid from pg_locks where locktype = 'advisory' and not granted and objid = $1 "
        "and database = (select oid from pg_database where datname = current_database())"
    )
    found = await until(connection, waiting, HALT)
    home.kill("worker")
    await connection.execute("select pg_terminate_backend($1, 5000)", found)


async def test_a_worker_that_is_killed_while_it_counts_loses_nothing_and_counts_nothing_twice(
    dsn: str, redis_url: str
) -> None:
    """It is killed when it is about to write counts, another when it is about to write the cursor, each with its
    connection; a third goes on.

    Seen to fail with the cursor in a transaction of its own: 1,700 where it was written after the counts, 500 where it
    was written before them."""
    async with databases.opened(dsn) as database, house.standing(dsn, redis_url, programs=()) as home:
        account_id = await rows.account(database)
        email = await rows.email(database, account_id)
        data = [events.encode({"recipient": f"{number}@d.example"}) for number in range(1200)]
        came = [events.NewEvent(type="message.received", data="{}")] * 300
        told = [*(events.NewEvent(type="email.deferred", email_id=email.id, data=one) for one in data), *came]
        async with database.transaction() as connection:
            await events.append(connection, account_id, told)
        async with database.connection() as watcher:
            await watcher.execute("insert into counting (account_id, counted_seq) values ($1, 0)", account_id)
            for writing, table in (("insert on", "delivery_statistics"), ("update on", "counting")):
                await _halting(watcher, f"{writing} {table}")
                await watcher.execute("select pg_advisory_lock($1)", HALT)
                home.start("worker")
                await _kill_in_the_middle(home, watcher)
                await watcher.execute("select pg_advisory_unlock($1)", HALT)
                await watcher.execute(f"drop trigger halt on {table}; drop function halt()")
            home.start("worker")
            counted = "select 1 from counting where account_id = $1 and counted_seq >= $2"
            await until(watcher, counted, account_id, len(told))
            sums = "select sum(deferred) from delivery_statistics where account_id = $1 group by is_day, tag"
            found = await watcher.fetch(sums, account_id)
            assert [row["sum"] for row in found] == [len(data)] * 4  # by hour and day, with domains and without
            arrived = "select sum(received) from inbound_statistics where account_id = $1"
            assert await watcher.fetchval(arrived, account_id) == len(came)


# Metrics


async def test_the_metrics_tell_what_waits_and_how_long_mail_took(
    counting_house: house.House, owner: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """The web process of what waits, the worker of what it did."""
    await sending.send(owner, scheduled_at=_text(datetime.now(UTC) + timedelta(hours=1)))
    await sending.resting(owner, await sending.send(owner))
    lines = (
        r'postroom_queue_recipients\{status="scheduled"\} [1-9]',
        r"postroom_queue_oldest_due_seconds \d",
        rf'postroom_handover_seconds_count\{{provider="smtp:127.0.0.1:{relay.port}"\}} [1-9]',
        r"postroom_counted_events_total [1-9]",
        r'postroom_loop_lag_seconds_count\{process="serve"\} [1-9]',
        r'postroom_loop_lag_seconds_count\{process="worker"\} [1-9]',
    )
    async with httpx2.AsyncClient(base_url=counting_house.url, headers=owner.headers, verify=house.NOBODY) as operator:
        async with asyncio.timeout(PATIENCE):
            while True:
                metrics = (await operator.get("/metrics")).text
                if all(re.search(f"^{line}", metrics, re.MULTILINE) for line in lines):
                    break
                await asyncio.sleep(0.05)
