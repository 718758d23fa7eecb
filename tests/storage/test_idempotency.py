"""Idempotency keys: one creation a key, whoever asks again, whenever, from wherever."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from gateway.errors import ConcurrentIdempotentRequests, InvalidIdempotentRequest
from gateway.storage import db, idempotency
from tests import databases
from tests.storage import rows

pytestmark = pytest.mark.anyio

DAY = 86_400
ONCE = idempotency.Once(endpoint="POST /v1/mailboxes", key="k", fingerprint=b"payload")


class TakenBackError(Exception):
    """What ends a transaction that is not to be."""


async def claim(
    database: db.Database,
    account_id: UUID,
    once: idempotency.Once = ONCE,
    *,
    answer: str = "first",
    seconds: int = DAY,
    fails: bool = False,
) -> idempotency.First | None:
    async with database.transaction() as connection:
        first = await idempotency.claim(
            connection, account_id, once, status=201, answer={"is": answer}, seconds=seconds
        )
        if fails:
            raise TakenBackError
    return first


async def age(database: db.Database, seconds: float) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "update idempotency_keys set created_at = created_at - cast($1 as interval)", timedelta(seconds=seconds)
        )


async def test_the_first_has_the_key_and_whoever_comes_again_gets_the_first_answer(
    database: db.Database, account_id: UUID
) -> None:
    assert await claim(database, account_id) is None
    again = await claim(database, account_id, answer="second")
    assert again == idempotency.First(status=201, answer={"is": "first"})


async def test_a_key_with_another_payload_is_refused(database: db.Database, account_id: UUID) -> None:
    await claim(database, account_id)
    other = idempotency.Once(endpoint=ONCE.endpoint, key=ONCE.key, fingerprint=b"another")
    with pytest.raises(InvalidIdempotentRequest):
        await claim(database, account_id, other)


async def test_a_key_belongs_to_its_account_and_endpoint(database: db.Database, account_id: UUID) -> None:
    await claim(database, account_id)
    assert await claim(database, await rows.account(database)) is None
    elsewhere = idempotency.Once(endpoint="POST /v1/emails", key=ONCE.key, fingerprint=b"another")
    assert await claim(database, account_id, elsewhere) is None


async def test_what_is_taken_back_takes_its_key_back(database: db.Database, account_id: UUID) -> None:
    with pytest.raises(TakenBackError):
        await claim(database, account_id, fails=True)
    assert await claim(database, account_id) is None


async def test_a_key_is_forgotten_after_its_time_whether_or_not_it_was_removed(
    database: db.Database, account_id: UUID
) -> None:
    await claim(database, account_id)
    await age(database, DAY - 60)
    assert await claim(database, account_id) is not None
    await age(database, 120)
    other = idempotency.Once(endpoint=ONCE.endpoint, key=ONCE.key, fingerprint=b"another")
    assert await claim(database, account_id, other, answer="anew") is None
    again = await claim(database, account_id, other)
    assert again is not None
    assert again.answer == {"is": "anew"}


async def test_an_answer_that_was_not_known_is_kept_and_a_key_given_back_is_free(
    database: db.Database, account_id: UUID
) -> None:
    async with database.transaction() as connection:
        await idempotency.claim(connection, account_id, ONCE, status=201, answer={}, seconds=DAY)
        await idempotency.keep(connection, account_id, ONCE, {"id": "x"})
    again = await claim(database, account_id)
    assert again is not None
    assert again.answer == {"id": "x"}
    async with database.transaction() as connection:
        await idempotency.give_back(connection, account_id, ONCE)
    assert await claim(database, account_id) is None


@pytest.mark.parametrize("commits", [True, False])
async def test_what_another_process_is_still_doing_is_waited_for(dsn: str, commits: bool) -> None:
    """Two databases, each a process's. Seen to fail with `claim` as a plain look and an INSERT that follows it:
    the second broke on the first's key instead of getting its answer."""
    async with databases.opened(dsn) as here, databases.opened(dsn) as there:
        account_id = await rows.account(here)
        claimed, may_end = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            async with here.transaction() as connection:
                await idempotency.claim(connection, account_id, ONCE, status=201, answer={"is": "first"}, seconds=DAY)
                claimed.set()
                await may_end.wait()
                if not commits:
                    raise TakenBackError

        first = asyncio.create_task(work())
        await claimed.wait()
        second = asyncio.create_task(claim(there, account_id, answer="second"))
        await rows.until_it_waits(here, second)
        may_end.set()
        await asyncio.gather(first, return_exceptions=True)
        answer = await second
    assert (answer is not None) == commits
    if answer is not None:
        assert answer.answer == {"is": "first"}


async def test_what_another_process_does_for_too_long_is_concurrent(dsn: str) -> None:
    async with databases.opened(dsn) as here, databases.opened(dsn) as there:
        account_id = await rows.account(here)
        async with here.transaction() as connection:
            await idempotency.claim(connection, account_id, ONCE, status=201, answer={}, seconds=DAY)

            async def ask() -> None:
                async with there.transaction() as other:
                    await other.execute("set local lock_timeout = '10ms'")
                    await idempotency.claim(other, account_id, ONCE, status=201, answer={}, seconds=DAY)

            with pytest.raises(ConcurrentIdempotentRequests) as refused:
                await asyncio.create_task(ask())
    assert refused.value.retry_after == 1


async def test_of_a_batch_the_keys_that_are_free_are_taken(database: db.Database, account_id: UUID) -> None:
    await claim(database, account_id)
    wishes = [
        (idempotency.Once(endpoint=ONCE.endpoint, key=key, fingerprint=b"payload"), 202, '{"n": 1}') for key in "zka"
    ]
    async with database.transaction() as connection:
        won = await idempotency.claim_all(connection, account_id, wishes, seconds=DAY)
        assert won == {(ONCE.endpoint, "z"), (ONCE.endpoint, "a")}
        assert await idempotency.first(connection, account_id, wishes[0][0]) == idempotency.First(
            status=202, answer={"n": 1}
        )
        none = idempotency.Once(endpoint=ONCE.endpoint, key="none", fingerprint=b"")
        with pytest.raises(ConcurrentIdempotentRequests):
            await idempotency.first(connection, account_id, none)


async def test_batches_that_share_keys_never_deadlock(database: db.Database, account_id: UUID) -> None:
    """Seen to fail with ORDER BY taken out of `claim_all`: Collided, by a deadlock."""

    async def batch(n: int) -> int:
        keys = [f"{key:02}" for key in range(40)]
        wishes = [
            (idempotency.Once(endpoint="e", key=key, fingerprint=b""), 202, "{}")
            for key in (keys if n % 2 else reversed(keys))
        ]
        async with database.transaction() as connection:
            return len(await idempotency.claim_all(connection, account_id, wishes, seconds=DAY))

    for _ in range(10):
        assert sum(await asyncio.gather(*(batch(n) for n in range(8)))) == 40
        async with database.connection() as connection:
            await connection.execute("delete from idempotency_keys")


async def test_old_keys_are_removed_in_slices_and_young_ones_stay(database: db.Database, account_id: UUID) -> None:
    other = await rows.account(database)
    for n in range(5):
        once = idempotency.Once(endpoint="e", key=str(n), fingerprint=b"")
        await claim(database, account_id, once)
        await claim(database, other, once)
    await age(database, DAY)
    await claim(database, account_id)
    removed: list[int] = []
    async with database.connection() as connection:
        while not removed or removed[-1]:
            removed.append(await idempotency.forget(connection, datetime.now(UTC) - timedelta(hours=1), 3))
    assert sum(removed) == 10
    assert max(removed) <= 6
    assert await rows.count(database, "select count(*) from idempotency_keys") == 1
