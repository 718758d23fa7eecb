"""Many recipients moved at once: each once, whoever else is at them, and in slices of bounded length."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from gateway.storage import db, emails, events, many
from tests.storage import rows
from tests.storage.test_emails import put, recipients

pytestmark = pytest.mark.anyio

FAILED = many.Wanted(statuses=("failed",))


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "SLICE", 5)


async def failed(database: db.Database, account_id: UUID, count: int) -> list[UUID]:
    ids = []
    for _ in range(count):
        email = await rows.email(database, account_id, rows.delivery(), rows.delivery(address="e@f.example"))
        await put(database, email.id, "failed")
        ids.append(email.id)
    return ids


async def retry(database: db.Database, account_id: UUID, **values: Any) -> many.Moved:
    async with database.transaction() as connection:
        moved = await many.retry(connection, account_id, FAILED, **{"limit": 1000} | values)
        await events.append(connection, account_id, moved.news)
    return moved


async def test_who_is_moved_by_another_meanwhile_is_not_moved_again(database: db.Database, account_id: UUID) -> None:
    """Seen to fail with the second look at the status, under the lock, taken out of `_move`: the e-mail that its sender
    had tried again was queued, and told to be, twice."""
    ids = await failed(database, account_id, 3)

    async def write(connection: db.Connection) -> None:
        await emails.retry(connection, account_id, ids[1])

    async with rows.held(database, write):
        retrying = asyncio.create_task(retry(database, account_id))
        await rows.until_it_waits(database, retrying)
    assert (await retrying).recipients == 4
    told = [event.email_id for event in await rows.log_of(database, account_id) if event.type == "email.queued"]
    assert sorted(told, key=str) == sorted(ids, key=str)


async def test_a_look_that_takes_too_long_says_where_to_go_on(
    database: db.Database, account_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many, "BUDGET_SECONDS", -1.0)
    ids = await failed(database, account_id, 6)
    await put(database, ids[0], "sent")
    calls, after = [], many.FIRST
    while True:
        moved = await retry(database, account_id, after=after)
        calls.append(moved.recipients)
        if moved.next_id is None:
            break
        after = moved.next_id
    assert calls == [3, 5, 2]


async def test_a_call_moves_no_more_than_its_limit_and_the_next_goes_on(
    database: db.Database, account_id: UUID
) -> None:
    await failed(database, account_id, 5)
    first = await retry(database, account_id, limit=7)
    assert (first.recipients, first.next_id is None) == (7, False)
    assert first.next_id is not None
    rest = await retry(database, account_id, limit=7, after=first.next_id)
    assert (rest.recipients, rest.next_id) == (3, None)


@pytest.mark.parametrize(
    ("act", "movable", "becomes"),
    [(many.retry, emails.RETRYABLE, "queued"), (many.cancel, emails.CANCELABLE, "canceled")],
)
async def test_no_status_is_moved_that_one_email_s_act_would_not_move(
    database: db.Database, account_id: UUID, act: Any, movable: frozenset[str], becomes: str
) -> None:
    ids = {}
    for status in emails.ORDER:
        email = await rows.email(database, account_id)
        await put(database, email.id, status)
        ids[status] = email.id
    async with database.transaction() as connection:
        moved = await act(connection, account_id, many.Wanted(statuses=emails.ORDER), limit=100)
    assert moved.recipients == len(movable)
    for status, id in ids.items():
        [recipient] = await recipients(database, account_id, id)
        assert recipient.status == (becomes if status in movable else status)
