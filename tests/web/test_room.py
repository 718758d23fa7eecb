"""How much an account may have of everything is looked up as often as it has to be, and no more often."""

from __future__ import annotations

from uuid import UUID

import pytest

from gateway.errors import QuotaExceeded
from gateway.settings import load
from gateway.storage import db
from gateway.web import room

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("is_cheap", [True, False])
async def test_a_long_list_that_is_full_is_not_counted_for_each_who_asks_in_vain(
    database: db.Database, account_id: UUID, monkeypatch: pytest.MonkeyPatch, is_cheap: bool
) -> None:
    """Of a short one whoever made room has it at once. Seen to fail before: the long one was counted, too."""
    monkeypatch.setattr(room, "CHEAP", 3 if is_cheap else 2)
    monkeypatch.setattr(room, "NEAR_SECONDS", 3600.0)
    monkeypatch.setattr(room, "BELIEVED_SECONDS", 3600.0)
    place = room.Room("suppressions", load(secret_key="x" * 40, max_suppressions=3))
    async with database.connection() as connection:
        await connection.execute(
            "insert into suppressions (account_id, address, reason) select $1, n, '' from unnest('{a,b,c}'::text[]) n",
            account_id,
        )
        with pytest.raises(QuotaExceeded):
            await place.take(connection, account_id)
        await connection.execute("delete from suppressions")
        if is_cheap:
            await place.take(connection, account_id)
        else:
            with pytest.raises(QuotaExceeded):
                await place.take(connection, account_id)
