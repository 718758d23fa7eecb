"""What each figure means: thresholds, and what is said of a server without asking one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from gateway import settings
from gateway.doctor import deployment, traffic
from gateway.doctor.report import Finding
from gateway.storage import condition, db
from tests import databases
from tests.storage import rows

pytestmark = pytest.mark.anyio

SERVER = condition.Server(
    version="16.4",
    number=160_004,
    is_replica=False,
    now=datetime(2026, 1, 1, tzinfo=UTC),
    fsync="on",
    full_page_writes="on",
    synchronous_commit="on",
    room=97,
    role_limit=-1,
    database_limit=-1,
)
CONNECTIONS = condition.Connections(everybody=12, as_role=12, to_database=12, ours=10)
ACCOUNT = UUID("018f0000-0000-7000-8000-000000000001")


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "ok"),
        ({"version": "14.0", "number": 140_000}, "ok"),
        ({"version": "13.9", "number": 130_009}, "problem"),
        ({"version": "19.0", "number": 190_000}, "warning"),
        ({"is_replica": True}, "problem"),
    ],
)
def test_a_version_is(changes: dict[str, Any], state: str) -> None:
    assert deployment.version(replace(SERVER, **changes)).state == state


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes", "synchronous_commit"])
def test_what_may_lose_confirmed_mail_is_a_problem_unless_it_was_meant(setting: str) -> None:
    server = replace(SERVER, **{setting: "off"})  # type: ignore[arg-type] # a text
    assert deployment.durability(SERVER, unsafe=False).state == "ok"
    found = deployment.durability(server, unsafe=False)
    assert (found.state, setting in found.found) == ("problem", True)
    assert deployment.durability(server, unsafe=True).state == "warning"


@pytest.mark.parametrize(
    ("changes", "used", "state"),
    [
        ({}, {}, "ok"),  # 20 of 97, of which others use 2
        ({"room": 19}, {}, "problem"),
        ({"room": 20}, {}, "warning"),  # others use 2
        ({"role_limit": 20}, {"as_role": 10}, "ok"),
        ({"role_limit": 20}, {"as_role": 11}, "warning"),
        ({"role_limit": 19}, {}, "problem"),
        ({"database_limit": 19}, {}, "problem"),
    ],
)
def test_the_tightest_limit_of_connections_counts(changes: dict[str, Any], used: dict[str, Any], state: str) -> None:
    asked = settings.load(db_pool_size=10, web_concurrency=1)
    found = deployment.room(replace(SERVER, **changes), replace(CONNECTIONS, **used), asked)
    assert found.state == state, found


@pytest.mark.parametrize(("seconds", "state"), [(0.5, "ok"), (-1.9, "ok"), (2, "warning"), (-61, "problem")])
def test_clocks_that_are_apart(seconds: float, state: str) -> None:
    found = deployment.clock(timedelta(seconds=seconds))
    assert found.state == state
    assert state == "ok" or ("behind" in found.found) == (seconds < 0)


@pytest.mark.parametrize(
    ("secret", "state"),
    [
        ("", "problem"),
        ("hunter2", "problem"),
        ("k" * 40, "problem"),
        ("changeme" * 5, "problem"),
        ("0123456789abcdef0123456789abcdef"[::-1], "ok"),
        ("W7mGk2xPq9vTz4RbYc6NfJh8sDaLe3Uo", "ok"),
    ],
)
def test_a_secret_key_is(secret: str, state: str) -> None:
    found = deployment.secret_key(settings.load(secret_key=secret))
    assert found.state == state
    assert not secret or secret not in f"{found.found}{found.todo}"


def fates(taken: int, complained: int, suppressed: int = 0) -> condition.Fates:
    return condition.Fates(
        account_id=ACCOUNT,
        recipients=taken + suppressed,
        taken=taken,
        complained=complained,
        suppressed=suppressed,
    )


@pytest.mark.parametrize(
    ("taken", "complained", "state"),
    [
        (999, 900, "ok"),  # too few
        (1000, 0, "ok"),
        (10_000, 9, "ok"),
        (10_000, 10, "warning"),  # 0.1 %
        (10_000, 29, "warning"),
        (10_000, 30, "problem"),  # 0.3 %
    ],
)
def test_a_complaint_rate_is(taken: int, complained: int, state: str) -> None:
    [found] = traffic.complaints([fates(taken, complained), fates(5, 5)])
    assert found.state == state


def test_every_account_that_is_complained_of_is_named() -> None:
    other = replace(fates(1000, 2), account_id=UUID(int=7))
    found = traffic.complaints([other, fates(1000, 3), replace(fates(1000, 0), account_id=UUID(int=8))])
    assert [one.state for one in found] == ["problem", "warning"]
    assert str(ACCOUNT) in found[0].found
    assert str(UUID(int=7)) in found[1].found


@pytest.mark.parametrize(
    ("taken", "suppressed", "state"), [(50, 49, "ok"), (96, 4, "ok"), (95, 5, "warning"), (0, 0, "ok")]
)
def test_a_share_of_suppressed_recipients_is(taken: int, suppressed: int, state: str) -> None:
    assert traffic.suppressed([fates(taken, 0, suppressed)]).state == state


@pytest.mark.parametrize(
    ("late", "state"),
    [(None, "ok"), (timedelta(seconds=59), "ok"), (timedelta(seconds=61), "warning"), (timedelta(hours=3), "problem")],
)
def test_a_queue_is_late(late: timedelta | None, state: str) -> None:
    assert traffic.queue(late).state == state


@pytest.mark.parametrize(
    ("late", "failing", "disabled", "dead", "state"),
    [
        (None, 0, 0, 0, "ok"),
        (timedelta(minutes=11), 0, 0, 0, "problem"),
        (None, 1, 0, 0, "warning"),
        (None, 0, 1, 0, "warning"),
        (None, 0, 0, 1, "warning"),
    ],
)
def test_webhooks_are(late: timedelta | None, failing: int, disabled: int, dead: int, state: str) -> None:
    receivers = condition.Webhooks(active=2, failing=failing, disabled=disabled)
    assert traffic.webhooks(late, receivers, dead).state == state


def test_our_signatures_cover_what_one_click_needs() -> None:
    """With `list-unsubscribe-post` taken out of what is signed this failed."""
    assert traffic.covers_unsubscribing()


async def test_what_waits_and_what_became_of_mail_is_read_from_the_database(
    database: db.Database, account_id: UUID
) -> None:
    await rows.account(database)  # of another, who sent nothing
    statuses = ["sent", "delivered", "complained", "suppressed", "queued", "bounced"]
    await rows.email(database, account_id, *(rows.delivery(status) for status in statuses))
    async with database.connection() as connection:
        assert await condition.oldest_due(connection) is not None
        assert await condition.oldest_webhook(connection) is None
        assert await condition.webhooks(connection) == condition.Webhooks(active=0, failing=0, disabled=0)
        assert await condition.dead(connection) == 0
        found = await condition.fates(connection, datetime.now(UTC) - timedelta(days=30))
        later = await condition.fates(connection, datetime.now(UTC) + timedelta(days=1))
    wanted = condition.Fates(account_id=account_id, recipients=6, taken=3, complained=1, suppressed=1)
    assert (found, later) == ([wanted], [])


async def test_a_recipient_that_waits_is_told_with_how_long(database: db.Database, account_id: UUID) -> None:
    await rows.email(database, account_id, rows.delivery())
    async with database.transaction() as connection:
        await connection.execute("update deliveries set due_at = now() - interval '3 hours'")
    queue: Finding = (await traffic.queues(database))[0]
    assert (queue.state, "3 h" in queue.found) == ("problem", True)


async def test_what_cannot_be_counted_in_time_is_a_warning(dsn: str, database: db.Database) -> None:
    async with databases.opened(dsn) as other, other.transaction() as connection:
        await connection.execute("lock table deliveries in access exclusive mode")
        found = [*await traffic.queues(database), *await traffic.reputation(database)]
    assert [(one.name, one.state) for one in found] == [("queue", "warning"), ("complaints", "warning")]
