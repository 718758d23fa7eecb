"""The gauges of what waits."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from uuid import UUID

import prometheus_client
import pytest

from gateway.outbound import backlog
from gateway.outbound.backlog import Backlog
from gateway.storage import db
from tests import databases
from tests.storage import rows

pytestmark = pytest.mark.anyio


def gauge(name: str, **labels: str) -> float:
    found = prometheus_client.REGISTRY.get_sample_value(f"postroom_queue_{name}", labels)
    assert found is not None
    return found


def queued() -> dict[str, float]:
    return {status: gauge("recipients", status=status) for status in backlog.STATUSES}


async def test_what_waits_is_told_by_status_and_how_long_the_first_has_waited(
    database: db.Database, account_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "SAMPLE_SECONDS", 0.0)
    waiting = Backlog(database)
    await waiting.sample()
    assert (queued(), gauge("oldest_due_seconds")) == (dict.fromkeys(backlog.STATUSES, 0), 0)
    later = datetime.now(UTC) + timedelta(hours=1)
    await rows.email(database, account_id, rows.delivery(), rows.delivery(), rows.delivery("suppressed"))
    await rows.email(database, await rows.account(database), rows.delivery("scheduled"), scheduled_at=later)
    async with database.connection() as connection:
        await connection.execute(
            "update deliveries set due_at = due_at - interval '10 minutes' where status = 'queued'"
        )
    await waiting.sample()
    assert queued() == {"scheduled": 1, "queued": 2, "sending": 0, "deferred": 0}
    assert 600 <= gauge("oldest_due_seconds") < 660
    monkeypatch.setattr(backlog, "MOST", 1)
    await waiting.sample()
    assert queued() == {"scheduled": 0, "queued": 1, "sending": 0, "deferred": 0}


async def test_while_the_database_is_away_nothing_is_claimed() -> None:
    async with databases.opened("postgresql://127.0.0.1:1/nothing") as away:
        await Backlog(away).sample()
    assert math.isnan(gauge("oldest_due_seconds"))
    assert all(math.isnan(count) for count in queued().values())
