"""Recipients that wait for long: told of once, whoever looks and whoever is killed, and nobody else."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from gateway.errors import Unavailable
from gateway.storage import db, emails, events, housekeeping
from tests.storage import rows
from tests.storage.test_emails import asking, claim, put, settle, verdict

pytestmark = pytest.mark.anyio

HOURS = 3600.0


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "LATE_SLICE", 7)


async def tell(database: db.Database, seconds: float = 4 * HOURS) -> list[UUID]:
    return [account_id async for account_id in housekeeping.tell_late(database, seconds)]


async def waited(database: db.Database, hours: float) -> None:
    """Everybody has waited for so much longer."""
    async with database.connection() as connection:
        await connection.execute(
            "update deliveries set waits_since = waits_since - cast($1 as interval)", timedelta(hours=hours)
        )


async def told(database: db.Database, account_id: UUID) -> list[dict[str, Any]]:
    return [json.loads(e.data) for e in await rows.log_of(database, account_id) if e.type == "email.delayed"]


async def test_who_waits_too_long_is_told_of_with_what_is_known_and_only_once(
    database: db.Database, account_id: UUID
) -> None:
    email = await rows.email(database, account_id)
    [claimed] = await claim(database, account_id)
    await settle(database, verdict(claimed, "deferred", again_in=600))
    await waited(database, 3.9)
    assert await tell(database) == []
    await waited(database, 0.2)
    assert await tell(database) == [account_id]
    [data] = await told(database, account_id)
    assert data.pop("next_attempt_in") == pytest.approx(600, abs=30)
    assert datetime.fromisoformat(data.pop("waits_since")) < datetime.now(UTC) - timedelta(hours=4)
    assert data == {
        "id": str(email.id),
        "recipient": "c@d.example",
        "status": "deferred",
        "attempt": 1,
        "reply": "250 ok",
        "provider": "smtp",
    }
    await waited(database, 100)
    assert await tell(database) == []
    await asking(emails.retry)(database, account_id, email.id)
    await waited(database, 100)
    assert await tell(database) == []
    assert len(await told(database, account_id)) == 1


async def test_those_who_wait_are_told_of_and_nobody_else(database: db.Database, account_id: UUID) -> None:
    """Seen to fail with `due_at is not null` taken out of `late` and `mark_late`: the sweep broke on one at its end."""
    for status in emails.ORDER:
        email = await rows.email(database, account_id, rows.delivery(address=f"{status}@d.example"))
        await put(database, email.id, status, uuid7() if status == "sending" else None)
    later = datetime.now(UTC) + timedelta(hours=6)
    await rows.email(database, account_id, rows.delivery("scheduled", "later@d.example"), scheduled_at=later)
    await waited(database, 5)
    await tell(database)
    said = {data["recipient"] for data in await told(database, account_id)}
    assert said == {f"{status}@d.example" for status in ("scheduled", "queued", "deferred")}
    await waited(database, 6)
    await tell(database)
    assert (await told(database, account_id))[-1]["recipient"] == "later@d.example"


async def test_several_sweepers_at_once_tell_of_everybody_once(database: db.Database) -> None:
    """Seen to fail with `delayed_told_at is null` taken out of `mark_late`: some were told of twice or more."""
    ids = [await rows.account(database) for _ in range(3)]
    for id in ids:
        await rows.email(database, id, *(rows.delivery(address=f"c{n}@d.example") for n in range(20)))
    await waited(database, 5)
    await asyncio.gather(*(tell(database) for _ in range(4)))
    for id in ids:
        said = [data["recipient"] for data in await told(database, id)]
        assert sorted(said) == sorted(f"c{n}@d.example" for n in range(20))


async def test_a_sweeper_that_dies_between_the_mark_and_the_event_has_done_neither(
    database: db.Database, account_id: UUID
) -> None:
    """Its connection is cut while it waits for the log. Seen to fail with `tell_late` on a connection instead of in a
    transaction: the mark stood, and nobody was ever told of."""
    await rows.email(database, account_id)
    await waited(database, 5)

    async def write(connection: db.Connection) -> None:
        await events.append(connection, account_id, [events.NewEvent(type="mailbox.created")])

    async with rows.held(database, write):
        sweeper = asyncio.create_task(tell(database))
        await rows.until_it_waits(database, sweeper)
        async with database.connection() as connection:
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and wait_event_type = 'Lock'"
            )
        with pytest.raises(Unavailable) as died:
            await sweeper
        assert not isinstance(died.value, db.Collided)
    assert await told(database, account_id) == []
    assert await tell(database) == [account_id]
    assert len(await told(database, account_id)) == 1


async def test_who_is_in_a_workers_hand_is_left_for_the_next_look(database: db.Database, account_id: UUID) -> None:
    """Seen to fail with SKIP LOCKED taken out of `mark_late`: the sweep waited for the claim, and collided."""
    await rows.email(database, account_id, rows.delivery(), rows.delivery(address="e@f.example"))
    await waited(database, 5)
    async with database.transaction() as connection:
        [claimed] = await emails.claim(connection, account_id, lease_id=uuid7(), lease_seconds=60, limit=1)
        assert await asyncio.create_task(tell(database)) == [account_id]
        assert len(await told(database, account_id)) == 1
    assert await tell(database) == []
    await settle(database, verdict(claimed, "deferred", again_in=60))
    assert await tell(database) == [account_id]


async def test_a_retry_lets_who_was_given_up_wait_from_now_on(database: db.Database, account_id: UUID) -> None:
    """And count its age from now on; who was put off has waited all along."""
    failed, deferred = await rows.email(database, account_id), await rows.email(database, account_id)
    await waited(database, 100)
    await put(database, failed.id, "failed")
    await put(database, deferred.id, "deferred")
    for email in (failed, deferred):
        await asking(emails.retry)(database, account_id, email.id)
    await tell(database)
    assert [data["id"] for data in await told(database, account_id)] == [str(deferred.id)]
    ages = {one.email_id: datetime.now(UTC) - one.queued_at for one in await claim(database, account_id)}
    assert ages[failed.id] < timedelta(hours=1) < timedelta(hours=99) < ages[deferred.id]
