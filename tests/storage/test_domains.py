"""Domains: who has them, what their owners want, and that the two never disagree."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest

from gateway.storage import db, domains
from tests.storage import rows

pytestmark = pytest.mark.anyio

NAME = "example.com"


async def claimed(database: db.Database, account_id: UUID, name: str = NAME, **wish: Any) -> bool:
    usual: dict[str, Any] = {"wildcard": False, "unknown_recipients": "drop", "catch_all": None}
    async with database.transaction() as connection:
        return await domains.create(connection, account_id, name=name, **usual | wish)


async def won(database: db.Database, account_id: UUID, name: str = NAME, **wish: Any) -> None:
    await claimed(database, account_id, name, **wish)
    async with database.transaction() as connection:
        await domains.win(connection, account_id, name, wildcard=wish.get("wildcard", False))


async def found(database: db.Database, name: str) -> domains.Owned | None:
    async with database.connection() as connection:
        return await domains.find(connection, name)


async def owner(database: db.Database, name: str) -> UUID | None:
    owned = await found(database, name)
    async with database.transaction() as connection:
        assert await domains.hold_owner(connection, name) == (owned.account_id if owned else None)
    return owned.account_id if owned else None


async def claim(database: db.Database, account_id: UUID, name: str = NAME) -> domains.Claim | None:
    async with database.connection() as connection:
        return await domains.get(connection, account_id, name)


async def test_a_claim_proves_nothing_and_is_made_once(database: db.Database, account_id: UUID) -> None:
    other = await rows.account(database)
    assert [await claimed(database, account) for account in (account_id, other, account_id)] == [True, True, False]
    assert await owner(database, NAME) is None
    made = await claim(database, account_id)
    assert made is not None
    assert (made.status, made.verified_at, made.checked_at, made.records) == ("pending", None, None, [])


async def test_a_wildcard_covers_what_stands_below_and_the_longest_name_wins(
    database: db.Database, account_id: UUID
) -> None:
    other = await rows.account(database)
    await won(database, account_id, NAME, wildcard=True, unknown_recipients="reject")
    await won(database, other, "deep.example.com")
    for name in (NAME, "a.example.com", "b.a.example.com", "a.deep.example.com"):
        assert await owner(database, name) == account_id, name
    assert await owner(database, "deep.example.com") == other
    for name in ("com", "anexample.com", "example.com.evil", "example.org", ""):
        assert await owner(database, name) is None, name
    owned = await found(database, "a.example.com")
    assert owned == domains.Owned(name=NAME, account_id=account_id, unknown_recipients="reject", catch_all=None)


async def test_a_domain_is_widened_and_narrowed_where_the_account_has_it(
    database: db.Database, account_id: UUID
) -> None:
    other = await rows.account(database)
    await won(database, account_id)
    await claimed(database, other)
    for account, wildcard, covered in ((other, True, None), (account_id, True, account_id), (account_id, False, None)):
        async with database.transaction() as connection:
            await domains.take_turn(connection, NAME)
            await domains.change(
                connection, account, NAME, wildcard=wildcard, unknown_recipients="create", catch_all=None
            )
        assert await owner(database, "a.example.com") == covered


async def test_a_failure_is_told_once_and_a_success_ends_it(database: db.Database, account_id: UUID) -> None:
    await claimed(database, account_id)
    async with database.transaction() as connection:
        assert [await domains.fail(connection, account_id, NAME) for _ in range(2)] == [True, False]
    failed = await claim(database, account_id)
    assert failed is not None
    assert failed.status == "failed"
    await won(database, account_id)
    verified = await claim(database, account_id)
    assert verified is not None
    assert (verified.status, verified.failed_at) == ("verified", None)
    async with database.transaction() as connection:
        assert not await domains.fail(connection, await rows.account(database), NAME)


async def test_deleting_gives_up_the_claim_and_what_was_proved_but_nobody_elses(
    database: db.Database, account_id: UUID
) -> None:
    other = await rows.account(database)
    await won(database, account_id)
    await claimed(database, other)

    async def delete(account: UUID) -> bool:
        async with database.transaction() as connection:
            await domains.take_turn(connection, NAME)
            return await domains.delete(connection, account, NAME)

    assert await delete(other)
    assert await owner(database, NAME) == account_id
    assert [await delete(account_id) for _ in range(2)] == [True, False]
    assert await owner(database, NAME) is None


async def test_lists_are_complete_in_both_orders_and_end_at_the_account(
    database: db.Database, account_id: UUID
) -> None:
    names = [f"d{number}.example" for number in range(5)]
    async with database.transaction() as connection:
        for name in names:
            await domains.create(
                connection, account_id, name=name, wildcard=False, unknown_recipients="drop", catch_all=None
            )
        await connection.execute("update domains set created_at = now()")  # names decide where times do not
    await claimed(database, await rows.account(database), "else.example")
    for ascending in (True, False):
        after, seen = None, []
        async with database.connection() as connection:
            while page := await domains.page(connection, account_id, after=after, limit=2, ascending=ascending):
                seen += [one.name for one in page]
                after = (page[-1].created_at, page[-1].name)
        assert seen == (names if ascending else names[::-1])


async def test_a_catch_all_that_takes_no_mail_is_none(database: db.Database, account_id: UUID) -> None:
    box = await rows.mailbox(database, account_id, ttl=None)
    await won(database, account_id, catch_all=box)
    async with database.connection() as connection:
        assert await domains.caught_by(connection, account_id, box) == NAME
        assert await domains.caught_by(connection, await rows.account(database), box) is None
    for expected in (box, None):
        for shown in (await claim(database, account_id), await found(database, NAME)):
            assert shown is not None
            assert shown.catch_all == expected
        await rows.delete(database, account_id, box)


async def test_a_domain_does_not_pass_while_a_mailbox_is_made_there(database: db.Database, account_id: UUID) -> None:
    """Seen to fail with FOR SHARE taken out of `hold_owner`: the domain had passed before the mailbox was there."""
    other = await rows.account(database)
    await won(database, account_id)
    await claimed(database, other)
    held, may_end = asyncio.Event(), asyncio.Event()

    async def make() -> UUID | None:
        async with database.transaction() as connection:
            holder = await domains.hold_owner(connection, NAME)
            held.set()
            await may_end.wait()
            async with database.connection() as same:
                assert await domains.holder(same, NAME) == holder
            return holder

    making = asyncio.create_task(make())
    await held.wait()
    passing = asyncio.create_task(won(database, other))
    await rows.until_it_waits(database, passing)
    assert not passing.done()
    may_end.set()
    assert await making == account_id
    await passing
    assert await owner(database, NAME) == other


async def test_whoever_changes_who_has_a_domain_is_alone_with_it(database: db.Database, account_id: UUID) -> None:
    """A claim that is deleted while it wins: the name must not stay behind.

    Seen to fail with no lock in `take_turn`: the name was still the account's, whose claim was gone."""
    await claimed(database, account_id)
    held, may_end = asyncio.Event(), asyncio.Event()

    async def win() -> None:
        async with database.transaction() as connection:
            await domains.take_turn(connection, NAME)
            held.set()
            await domains.win(connection, account_id, NAME, wildcard=False)
            await may_end.wait()

    async def delete() -> None:
        async with database.transaction() as connection:
            await domains.take_turn(connection, NAME)
            await domains.delete(connection, account_id, NAME)

    winning = asyncio.create_task(win())
    await held.wait()
    deleting = asyncio.create_task(delete())
    await rows.until_it_waits(database, deleting)
    may_end.set()
    await asyncio.gather(winning, deleting)
    assert await owner(database, NAME) is None
    assert await claim(database, account_id) is None
