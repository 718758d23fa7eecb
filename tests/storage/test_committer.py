"""Group commit: everybody gets the answer to their own item, whatever happens to the batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from gateway.errors import Unavailable
from gateway.storage import committer as group_commit
from gateway.storage import db, messages
from gateway.storage.committer import Committer
from tests.storage import rows

pytestmark = pytest.mark.anyio


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    id: UUID
    text: str = "good"
    size: int = 10


class Desk:
    """Commits items as contents of an account, as the real users do."""

    def __init__(self, database: db.Database, account_id: UUID) -> None:
        self.database = database
        self.account_id = account_id
        self.batches: list[int] = []
        self.entered = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()
        self.break_after_commit = False
        self.break_before_commit = False

    async def commit(self, items: Sequence[Item]) -> list[str]:
        self.batches.append(len(items))
        self.entered.set()
        await self.go.wait()
        async with self.database.transaction() as connection:
            for item in items:
                await connection.execute("select cast($1 as text)", item.text)
            contents = [messages.Content(id=item.id, raw=item.text.encode(), size=1) for item in items]
            await messages.add_contents(connection, self.account_id, contents)
            if self.break_before_commit:
                raise db.CommitUnknown
        if self.break_after_commit:
            raise db.CommitUnknown
        return [f"stored {item.id}" for item in items]

    async def find(self, item: Item) -> str | None:
        async with self.database.connection() as connection:
            found = await messages.content_exists(connection, self.account_id, item.id)
        return f"found {item.id}" if found else None

    def committer(self, **limits: int) -> Committer[Item, str]:
        return Committer(self.commit, find=self.find, size=lambda item: item.size, **limits)


@pytest.fixture
def desk(database: db.Database, account_id: UUID) -> Desk:
    return Desk(database, account_id)


async def stored(desk: Desk) -> set[UUID]:
    async with desk.database.connection() as connection:
        rows = await connection.fetch("select id from contents where account_id = $1", desk.account_id)
    return {row["id"] for row in rows}


async def test_what_arrives_during_a_commit_is_the_next_transaction(desk: Desk) -> None:
    desk.go.clear()
    committer = desk.committer()
    first = asyncio.create_task(committer.submit(Item(id=uuid7())))
    await desk.entered.wait()
    rest = [asyncio.create_task(committer.submit(Item(id=uuid7()))) for _ in range(10)]
    await asyncio.sleep(0)
    desk.go.set()
    await asyncio.gather(first, *rest)
    assert desk.batches == [1, 10]


async def test_a_batch_is_bounded_in_items_and_bytes_and_a_big_item_goes_alone(desk: Desk) -> None:
    desk.go.clear()
    committer = desk.committer(max_items=4, max_bytes=100)
    sizes = [1, 10, 10, 10, 10, 10, 500, 60, 60]
    tasks = [asyncio.create_task(committer.submit(Item(id=uuid7(), size=size))) for size in sizes]
    await desk.entered.wait()
    desk.go.set()
    await asyncio.gather(*tasks)
    assert desk.batches == [4, 2, 1, 1, 1]


async def test_hanging_up_cancels_nothing(desk: Desk) -> None:
    """Seen to fail with the commit run in the submitter's own task (`await self._run()` in `submit`): none was stored.

    Without asyncio.shield alone it passes, for the work is the committer's task's."""
    desk.go.clear()
    committer = desk.committer()
    item = Item(id=uuid7())
    submitter = asyncio.create_task(committer.submit(item))
    await desk.entered.wait()
    submitter.cancel()
    await asyncio.wait({submitter})
    desk.go.set()
    await committer.drain()
    assert await stored(desk) == {item.id}


async def test_one_bad_item_fails_alone(desk: Desk) -> None:
    """Seen to fail with `_divide` failing the whole batch: all eight raised."""
    desk.go.clear()
    committer = desk.committer()
    items = [Item(id=uuid7(), text="NUL \0" if n == 5 else "good") for n in range(8)]
    tasks = [asyncio.create_task(committer.submit(item)) for item in items]
    await desk.entered.wait()
    desk.go.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [n for n, answer in enumerate(answers) if isinstance(answer, BaseException)] == [5]
    assert isinstance(answers[5], (asyncpg.DataError, ValueError))
    assert await stored(desk) == {item.id for item in items if item.text == "good"}


async def test_a_commit_whose_end_is_unknown_is_looked_up_and_was_done(desk: Desk) -> None:
    """Seen to fail with CommitUnknown answered like Unavailable: the submitter heard so of an item that is stored."""
    desk.break_after_commit = True
    item = Item(id=uuid7())
    assert await desk.committer().submit(item) == f"found {item.id}"


async def test_a_commit_whose_end_is_unknown_is_looked_up_and_was_not_done(desk: Desk) -> None:
    desk.break_before_commit = True
    with pytest.raises(Unavailable):
        await desk.committer().submit(Item(id=uuid7()))
    assert await stored(desk) == set()


async def test_a_look_up_that_fails_itself_leaves_nobody_waiting(desk: Desk) -> None:
    """Seen to fail with `_look_up` passing on every error but Unavailable: the submitter waited for ever."""
    desk.break_after_commit = True

    async def find(item: Item) -> str | None:
        raise LookupError

    committer: Committer[Item, str] = Committer(desk.commit, find=find, size=lambda item: item.size)
    async with asyncio.timeout(20):
        with pytest.raises(Unavailable):
            await committer.submit(Item(id=uuid7()))
        await committer.drain()


class Lost:
    """Whose commits break off until `is_well`, and whose look-ups wait for `known`."""

    def __init__(self, database: db.Database, account_id: UUID) -> None:
        self.database = database
        self.account_id = account_id
        self.batches: list[int] = []
        self.broke = asyncio.Event()
        self.known = asyncio.Event()
        self.is_well = False

    async def commit(self, items: Sequence[Item]) -> list[str]:
        self.batches.append(len(items))
        if not self.is_well:
            self.broke.set()
            raise db.CommitUnknown
        async with self.database.transaction() as connection:
            await connection.execute("set local lock_timeout = '10ms'")
            await connection.execute("select 1 from accounts where id = $1 for update", self.account_id)
        return ["stored"] * len(items)

    async def find(self, item: Item) -> str:
        await self.known.wait()
        return "found"

    def committer(self) -> Committer[Item, str]:
        return Committer(self.commit, find=self.find, size=lambda item: item.size)

    async def break_off(self, committer: Committer[Item, str]) -> asyncio.Task[str]:
        self.broke.clear()
        task = asyncio.create_task(committer.submit(Item(id=uuid7())))
        async with asyncio.timeout(20):
            await self.broke.wait()
        return task


async def test_look_ups_hold_nobody_up_until_there_are_so_many_that_newcomers_are_turned_away(
    database: db.Database, account_id: UUID
) -> None:
    """Seen to fail with the look-up waited for by the batch behind it (that one never began), and with LOOKUPS not
    looked at (the newcomer was let in)."""
    lost = Lost(database, account_id)
    committer = lost.committer()
    unknown = [await lost.break_off(committer) for _ in range(group_commit.LOOKUPS)]
    with pytest.raises(Unavailable):
        await committer.submit(Item(id=uuid7()))
    assert lost.batches == [1] * group_commit.LOOKUPS
    lost.known.set()
    assert set(await asyncio.gather(*unknown)) == {"found"}
    await committer.drain()
    lost.is_well = True
    assert await committer.submit(Item(id=uuid7())) == "stored"


async def test_what_an_unknown_commit_may_hold_locked_is_not_waited_for_by_one_after_the_other(
    database: db.Database, account_id: UUID
) -> None:
    """Seen to fail with the batch halved as for any other lock."""
    lost = Lost(database, account_id)
    committer = lost.committer()
    unknown = await lost.break_off(committer)
    lost.is_well = True
    async with database.transaction() as other:
        await other.execute("select 1 from accounts where id = $1 for update", account_id)
        behind = [committer.submit(Item(id=uuid7())) for _ in range(8)]
        heard = await asyncio.gather(*behind, return_exceptions=True)
    assert [type(one) for one in heard] == [Unavailable] * 8
    assert lost.batches == [1, 8]
    lost.known.set()
    assert await unknown == "found"


async def test_who_still_waits_at_the_end_hears_so_and_nobody_is_let_in_any_more(
    database: db.Database, account_id: UUID
) -> None:
    lost = Lost(database, account_id)
    committer = lost.committer()
    unknown = await lost.break_off(committer)
    committer.end_within(0)
    with pytest.raises(Unavailable):
        await unknown
    await committer.drain()
    with pytest.raises(Unavailable):
        await committer.submit(Item(id=uuid7()))
    assert lost.batches == [1]


async def test_looking_up_waits_for_a_transaction_that_is_still_committing(desk: Desk) -> None:
    """Seen to fail with `probe_content` as a plain SELECT: it said "not there", and then the content was committed."""
    item = Item(id=uuid7())
    inserted, release = asyncio.Event(), asyncio.Event()

    async def slow_commit() -> None:
        async with desk.database.transaction() as connection:
            content = messages.Content(id=item.id, raw=b"", size=0)
            await messages.add_contents(connection, desk.account_id, [content])
            inserted.set()
            await release.wait()

    slow = asyncio.create_task(slow_commit())
    await inserted.wait()
    look = asyncio.create_task(desk.find(item))
    await rows.until_it_waits(desk.database, look)
    release.set()
    await slow
    assert await look == f"found {item.id}"
