"""Suppressions as the database keeps them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from gateway.storage import db, suppressions

pytestmark = pytest.mark.anyio

LATER = datetime.now(UTC) + timedelta(days=1)


async def test_a_bounce_leaves_what_is_on_the_list_as_it_is_unless_its_time_is_over(
    database: db.Database, account_id: UUID
) -> None:
    """Negative control: with no WHERE behind `do update` in `bounced`, "asked@x.example" became a bounce: it failed."""
    wishes = [
        suppressions.Wish(address="asked@x.example", reason="unsubscribe", expires_at=LATER),
        suppressions.Wish(address="over@x.example", reason="manual", expires_at=LATER),
    ]
    async with database.transaction() as connection:
        await suppressions.put(connection, account_id, wishes)
        await connection.execute("update suppressions set expires_at = now() where address = 'over@x.example'")
    async with database.transaction() as connection:
        await suppressions.bounced(connection, account_id, ["asked@x.example", "new@x.example", "over@x.example"])
        found = await suppressions.behind(connection, account_id, "", 10)
    assert [(one.address, one.reason, one.expires_at) for one in found] == [
        ("asked@x.example", "unsubscribe", LATER),
        ("new@x.example", "bounce", None),
        ("over@x.example", "bounce", None),
    ]


async def test_whose_time_is_over_already_is_not_listed(database: db.Database, account_id: UUID) -> None:
    past = datetime.now(UTC) - timedelta(days=1)
    wishes = [
        suppressions.Wish(address="a@x.example", reason="manual", expires_at=past),
        suppressions.Wish(address="b@x.example", reason="manual", expires_at=LATER),
    ]
    async with database.transaction() as connection:
        assert [one.address for one in await suppressions.put(connection, account_id, wishes)] == ["b@x.example"]
        assert not await suppressions.delete(connection, account_id, "a@x.example")
        assert await suppressions.delete(connection, account_id, "b@x.example")
