"""Sending by HTTP, for tests: letters, and what becomes of them as the event log tells it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
import httpx2

from tests import house

LETTER: Final[dict[str, Any]] = {
    "from": "App <app@sender.example>",
    "to": "user@recipient.example",
    "subject": "Hello",
    "text": "hello",
}
FINAL: Final = frozenset({"sent", "delivered", "canceled", "suppressed", "failed", "bounced", "complained"})
RESTING: Final = FINAL | {"unknown"}  # nothing happens to it by itself any more
PATIENCE: Final = 120.0  # seconds until a test gives up on what never comes: a worker may still be starting


@contextlib.asynccontextmanager
async def at_home(
    dsn: str, redis_url: str, folder: Path | None = None, **settings: str
) -> AsyncIterator[httpx2.AsyncClient]:
    """The client of an account in a house of the test's own with these settings."""
    async with (
        house.standing(dsn, redis_url, settings=settings, folder=folder) as home,
        home.client((await home.tenant()).key) as client,
    ):
        yield client


def letter(**changes: Any) -> dict[str, Any]:
    """A request for an e-mail; None leaves a member out, `from_` is "from"."""
    wanted = LETTER | {name.rstrip("_"): value for name, value in changes.items()}
    return {name: value for name, value in wanted.items() if value is not None}


async def send(client: httpx2.AsyncClient, key: str | None = None, **changes: Any) -> str:
    """Send a letter; its id."""
    headers = {"Idempotency-Key": key} if key else {}
    answer = await client.post("/emails", json=letter(**changes), headers=headers)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def read(client: httpx2.AsyncClient, email_id: str) -> dict[str, Any]:
    """An e-mail as GET shows it."""
    answer = await client.get(f"/emails/{email_id}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def resting(client: httpx2.AsyncClient, email_id: str, at: Collection[str] = RESTING) -> dict[str, Any]:
    """The e-mail once all of its recipients have a status out of `at`; a failure where that never comes."""
    after: str | None = None
    async with asyncio.timeout(3 * PATIENCE):
        while True:
            found = await read(client, email_id)
            if all(recipient["status"] in at for recipient in found["recipients"]):
                return found
            after = await _news(client, email_id, after)


async def nothing_left(home: house.House, account_id: UUID) -> None:
    """Returns once no recipient of the account is being tried, nor will be within a few seconds."""
    query = """select count(*) from deliveries
        where account_id = $1 and (lease_id is not null or due_at < now() + interval '5 seconds')"""
    connection = await asyncpg.connect(home.dsn)
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                if not await connection.fetchval(query, account_id):
                    return
                await asyncio.sleep(0.02)  # other processes' doings
    finally:
        await connection.close()


async def _news(client: httpx2.AsyncClient, email_id: str, after: str | None) -> str:
    """The log's cursor, once there is something behind `after` about this e-mail."""
    query = {"email": email_id, "wait": "10", **({} if after is None else {"after": after})}
    answer = await client.get("/events", params=query)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["next_cursor"])


async def timeline(client: httpx2.AsyncClient, email_id: str) -> list[dict[str, Any]]:
    """The events of an e-mail, in order."""
    answer = await client.get("/events", params={"email": email_id, "limit": "200"})
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


async def attempts(client: httpx2.AsyncClient, email_id: str) -> list[dict[str, Any]]:
    """Every attempt at every recipient, in order."""
    answer = await client.get(f"/emails/{email_id}/attempts")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def refused(answer: httpx2.Response, field: str, name: str = "validation_error") -> None:
    """Assert that this was refused for what stands in `field`."""
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert problem["name"] == name
    assert field in {error["field"] for error in problem["errors"]}
