"""The log of e-mails, searched slice by slice: nothing left out, nothing twice, and no page that takes long."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from gateway.storage import db, emails, listing, period
from tests.storage import rows
from tests.storage.test_emails import claim, settle, verdict

pytestmark = pytest.mark.anyio

COUNT = 23


@pytest.fixture
async def ids(database: db.Database, account_id: UUID) -> list[UUID]:
    """E-mails of the last hours, oldest first; every fifth is about an invoice. Others have some, too."""
    other = await rows.account(database)
    found = []
    for number in range(COUNT):
        drawn = period.first_id(datetime.now(UTC) - timedelta(hours=COUNT - number))
        subject = "Your INVOICE, 100% paid" if number % 5 == 0 else "Hello"
        for owner in (other, account_id):
            id = UUID(int=drawn.int | uuid7().int % (1 << 62))
            await rows.email(database, owner, rows.delivery(address=f"{number % 3}@d.example"), id=id, subject=subject)
        found.append(id)
    return found


async def pages(
    database: db.Database, account_id: UUID, *, limit: int, ascending: bool, **wanted: Any
) -> AsyncIterator[list[UUID]]:
    while True:
        async with database.connection() as connection:
            asked = listing.Wanted(**wanted)
            found = await listing.page(connection, account_id, asked, limit=limit, ascending=ascending)
        yield [email.id for email in found.emails]
        if found.next_id is None:
            return
        wanted["after"] = found.next_id


@pytest.mark.parametrize("ascending", [True, False])
async def test_pages_hold_everything_that_matches_once_and_in_order(
    database: db.Database, account_id: UUID, ids: list[UUID], ascending: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With slices of two and three e-mails, and with all the time or none for a page.

    Seen to fail with the last e-mail that matched, or none, taken for the place where a look ended: the first page
    without one was the last."""
    monkeypatch.setattr(listing, "WIDTHS", (2, 3))
    for budget in (1000.0, -1.0):
        monkeypatch.setattr(listing, "BUDGET_SECONDS", budget)
        for wanted, matching in (
            ({}, ids),
            ({"subject": "invoice"}, ids[::5]),
            ({"subject": "100% PAID"}, ids[::5]),
            ({"subject": "1__%"}, []),
            ({"to": "1@d.example"}, ids[1::3]),
            ({"to": "0@d.example", "subject": "Invoice"}, ids[::15]),
        ):
            shown = [page async for page in pages(database, account_id, limit=4, ascending=ascending, **wanted)]
            found = [id for page in shown for id in page]
            assert found == (matching if ascending else matching[::-1]), wanted
            assert {len(page) for page in shown} <= {0, 1, 2, 3, 4}
            assert budget < 0 or all(len(page) == 4 for page in shown[:-1])


async def test_a_look_without_time_ends_after_one_slice_and_says_so(
    database: db.Database, account_id: UUID, ids: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "WIDTHS", (10,))
    monkeypatch.setattr(listing, "BUDGET_SECONDS", -1.0)
    async with database.connection() as connection:
        wanted = listing.Wanted(subject="no such words")
        found = await listing.page(connection, account_id, wanted, limit=50, ascending=False)
    assert (found.emails, found.next_id) == ([], ids[-10])


async def test_what_peers_said_to_any_attempt_is_found_and_by_which_provider(
    database: db.Database, account_id: UUID, ids: list[UUID]
) -> None:
    for claimed, status in zip(await claim(database, account_id), ("deferred", *["sent"] * COUNT), strict=False):
        await settle(database, verdict(claimed, status, again_in=0 if status == "deferred" else None))
    for one in await claim(database, account_id):
        await settle(database, verdict(one, "bounced"))
    async with database.connection() as connection:
        await connection.execute(
            "update attempts set reply = '451 4.7.1 Greylisted, come back' where outcome = 'deferred'"
        )
        query = "select email_id from attempts where outcome = 'deferred'"
        greylisted = await connection.fetchval(query)

        async def found(**wanted: Any) -> list[emails.Email]:
            page = await listing.page(connection, account_id, listing.Wanted(**wanted), limit=50, ascending=True)
            return page.emails

        assert [email.id for email in await found(reply="greylisted")] == [greylisted]
        assert [email.id for email in await found(reply="greylisted", status="bounced")] == [greylisted]
        assert await found(reply="greylisted", status="sent") == []
        assert len(await found(reply="250 OK")) == len(await found(provider="smtp")) == len(ids)
        assert await found(provider="smt") == []
