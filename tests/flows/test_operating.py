"""Operating: health, readiness, metrics, the documents; and a database that goes away and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import httpx2
import pytest

from tests import house
from tests.flows import letters
from tests.flows.test_mailboxes import refused

pytestmark = pytest.mark.anyio

PATIENCE = 20.0  # seconds until a test gives up on what never comes


@pytest.fixture
async def anybody(shared_house: house.House) -> AsyncIterator[httpx2.AsyncClient]:
    """Without a key, at the root."""
    async with httpx2.AsyncClient(base_url=shared_house.url, verify=house.NOBODY) as client:
        yield client


async def test_health_and_readiness_are_open_to_anybody(anybody: httpx2.AsyncClient) -> None:
    health = await anybody.get("/healthz")
    assert (health.status_code, health.text.strip()) == (200, "ok")
    assert health.headers["x-request-id"]
    ready = await anybody.get("/readyz")
    body = ready.json()
    assert (ready.status_code, body["status"], body["problems"]) == (200, "ready", [])
    assert body["listeners"]["smtp"] is True
    async with asyncio.timeout(PATIENCE):  # ready without it, so it may still be on its way
        while (await anybody.get("/readyz")).json()["redis"] != "connected":
            pass


async def test_metrics_want_an_admin(
    shared_house: house.House, tenant: house.Tenant, anybody: httpx2.AsyncClient, client: httpx2.AsyncClient
) -> None:
    made = await letters.mailbox(client)
    await letters.hand_in(shared_house, letters.letter(), made["address"])
    refused(await anybody.get("/metrics"), 401, "missing_api_key")
    refused(await anybody.get("/metrics", headers={"Authorization": "Bearer nonsense"}), 401, "invalid_api_key")
    reader = await shared_house.tenant(("read",), account_id=tenant.account_id)
    for key in (reader.key, made["token"]):
        answer = await anybody.get("/metrics", headers={"Authorization": f"Bearer {key}"})
        refused(answer, 403, "restricted_api_key")
    answer = await anybody.get("/metrics", headers=tenant.headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    stored = re.search(r'^postroom_inbound_messages_total\{outcome="stored"\} (\S+)$', answer.text, re.MULTILINE)
    assert stored
    assert float(stored[1]) >= 1
    for secret in (made["address"], made["id"], str(tenant.account_id)):  # labels are few, and nobody's
        assert secret not in answer.text


async def test_openapi_describes_every_operation_of_the_contract(anybody: httpx2.AsyncClient) -> None:
    answer = await anybody.get("/openapi.json")
    document = answer.json()
    assert document["openapi"].startswith("3.1")
    there = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    mailbox, message = "/v1/mailboxes/{mailbox}", "/v1/messages/{id}"
    assert there >= {
        *("POST /v1/mailboxes", "GET /v1/mailboxes", f"GET {mailbox}", f"PATCH {mailbox}", f"DELETE {mailbox}"),
        *(f"GET {mailbox}/messages", f"DELETE {mailbox}/messages", f"GET {mailbox}/wait", f"GET {mailbox}/events"),
        *("GET /v1/messages", f"GET {message}", f"PATCH {message}", f"DELETE {message}", f"GET {message}/raw"),
        *(f"GET {message}/text", f"GET {message}/html", f"GET {message}/attachments/{{index}}", "GET /v1/events"),
        *("POST /v1/api-keys", "GET /v1/api-keys", "GET /v1/api-keys/{id}", "DELETE /v1/api-keys/{id}"),
    }


async def test_the_docs_work_offline(anybody: httpx2.AsyncClient) -> None:
    """Nothing that the page loads lies elsewhere."""
    page = await anybody.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert not [url for url in loaded if urlsplit(url).netloc]
    for url in loaded:
        if not url.startswith(("#", "data:")):
            assert (await anybody.get(url)).status_code == 200, url


@contextlib.asynccontextmanager
async def _database_away(postgres_dsn: str, name: str) -> AsyncIterator[None]:
    """Nobody is let in, and who was is thrown out."""
    server = await asyncpg.connect(postgres_dsn)
    try:
        await server.execute(f"alter database {name} with allow_connections false")
        await server.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", name)
        yield
    finally:
        await server.execute(f"alter database {name} with allow_connections true")
        await server.close()


async def test_a_database_that_goes_away_is_said_and_its_return_is_noticed(postgres_dsn: str) -> None:
    """Without Redis, with METRICS_TOKEN: 503 and 451 meanwhile, alive all the time, and then as before."""
    async with letters.own_house(postgres_dsn, "", settings={"METRICS_TOKEN": "a token for metrics"}) as home:
        tenant = await home.tenant()
        async with (
            httpx2.AsyncClient(base_url=home.url, verify=house.NOBODY) as anybody,
            home.client(tenant.key) as client,
        ):
            assert (await anybody.get("/readyz")).json()["redis"] == "off"
            token = {"Authorization": "Bearer a token for metrics"}
            assert (await anybody.get("/metrics", headers=token)).status_code == 200
            made = await letters.mailbox(client)
            async with letters.sql(home) as connection:  # a database that was not migrated is not ready either
                kept = await connection.fetch("delete from schema_migrations returning *")
                unready = await anybody.get("/readyz")
                assert (unready.status_code, unready.json()["status"]) == (503, "unready")
                assert kept[0]["name"] in unready.json()["problems"][0]
                await connection.executemany("insert into schema_migrations values ($1, $2)", kept)
            assert (await anybody.get("/readyz")).status_code == 200
            async with letters.session(home) as peer:
                async with _database_away(postgres_dsn, urlsplit(home.dsn).path.removeprefix("/")):
                    answer = await client.get("/mailboxes")
                    refused(answer, 503, "unavailable")
                    assert int(answer.headers["retry-after"]) >= 1
                    unready = await anybody.get("/readyz")
                    assert (unready.status_code, len(unready.json()["problems"])) == (503, 1)
                    assert (await anybody.get("/healthz")).status_code == 200
                    replies = await letters.give(peer, letters.letter("1"), made["address"])
                    assert replies[-1].startswith("451 4.3.0 ")
                replies = await letters.give(peer, letters.letter("2"), made["address"])
                assert letters.QUEUED.fullmatch(replies[-1])
            assert (await anybody.get("/readyz")).json()["status"] == "ready"
            assert [m["subject"] for m in await letters.listed(client, "/messages")] == ["2"]
