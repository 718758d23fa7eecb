"""Accounts that are suspended, resumed and deleted: nothing of theirs is left, nothing of anybody else's is missing."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from gateway.storage import accounts, closing, db, emails, housekeeping, webhooks
from tests.storage import rows

pytestmark = pytest.mark.anyio

ROWS = 5  # in each table
COLUMNS = """
select c.table_name, c.column_name, c.data_type, c.udt_name, (
  select pg_get_constraintdef(k.oid) from pg_constraint k
  where k.contype = 'c' and k.conrelid = to_regclass(c.table_name)
    and pg_get_constraintdef(k.oid) like '%(' || c.column_name || ' %' limit 1) as rule
from information_schema.columns c
where c.table_schema = 'public' and c.is_nullable = 'NO' and (c.column_default is null or c.column_name = 'account_id')
  and exists (select 1 from information_schema.columns a
    where a.table_schema = 'public' and a.table_name = c.table_name and a.column_name = 'account_id')
order by c.table_name, c.ordinal_position
"""


def some(column: asyncpg.Record, number: int) -> Any:
    """Anything that the column takes, another for each number."""
    if literal := re.search(r"'(\w+)'", column["rule"] or ""):
        return literal[1]
    by_type = {
        "uuid": uuid4(),
        "text": f"text-{number}-{uuid4()}",
        "bytea": uuid4().bytes,
        "boolean": False,
        "timestamp with time zone": datetime.now(UTC),
        "json": "{}",
        "jsonb": "{}",
        "tsvector": None,
        "ARRAY": [],
        "USER-DEFINED": "queued",
    }
    return by_type.get(column["data_type"], number)


async def tables(connection: asyncpg.Connection) -> dict[str, list[asyncpg.Record]]:
    """Every table that is keyed by account, with the columns that must be given."""
    found: dict[str, list[asyncpg.Record]] = {}
    for column in await connection.fetch(COLUMNS):
        found.setdefault(column["table_name"], []).append(column)
    return found


async def fill(database: db.Database, account_id: UUID) -> None:
    """Rows in every table there is, whatever they mean."""
    async with database.connection() as connection:
        await connection.execute("set session_replication_role = replica")  # no foreign keys are looked at
        for table, columns in (await tables(connection)).items():
            names = ", ".join(column["column_name"] for column in columns)
            places = ", ".join(_place(column, number) for number, column in enumerate(columns, 1))
            query = f"insert into {table} ({names}) values ({places}) on conflict do nothing"  # noqa: S608 - our own names
            for number in range(ROWS):
                values = [
                    account_id if column["column_name"] == "account_id" else some(column, number) for column in columns
                ]
                await connection.execute(query, *values)
        await connection.execute("set session_replication_role = origin")


def _place(column: asyncpg.Record, number: int) -> str:
    if column["data_type"] == "tsvector":
        return f"coalesce(cast(${number} as text), '')::tsvector"
    return f"${number}"


async def held(database: db.Database, account_id: UUID) -> dict[str, int]:
    """Rows of the account, by table."""
    async with database.connection() as connection:
        found = {
            table: await connection.fetchval(f"select count(*) from {table} where account_id = $1", account_id)  # noqa: S608
            for table in await tables(connection)
        }
        found["accounts"] = await connection.fetchval("select count(*) from accounts where id = $1", account_id)
    return found


async def mark(database: db.Database, account_id: UUID) -> bool:
    async with database.transaction() as connection:
        return await accounts.mark_deleted(connection, account_id)


async def test_nothing_is_left_of_a_deleted_account_in_any_table(
    database: db.Database, account_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every table of the database that has an account_id, whichever there are, in slices of two rows.

    Negative control: with `held_messages` taken out of the list in gateway.storage.closing the five rows of it stayed,
    and the test failed naming that table.
    """
    monkeypatch.setattr(closing, "SLICE", 2)
    monkeypatch.setattr(closing, "PAGE", 2)
    ours, theirs = await rows.account(database, "ours"), await rows.account(database, "theirs")
    for one in (ours, theirs):
        await fill(database, one)
    before = await held(database, theirs)
    assert all(await held(database, ours)), await held(database, ours)
    assert len(before) > 25
    assert await mark(database, ours)
    assert not await mark(database, ours)
    assert await housekeeping.close_accounts(database) == 0  # whoever looked it up a moment ago may still be at it
    assert await housekeeping.close_accounts(database, grace=0) > 20 * ROWS
    assert (await held(database, ours))["accounts"] == 1  # what came meanwhile is found in another round
    assert await housekeeping.close_accounts(database, grace=0) == 0
    assert {table: count for table, count in (await held(database, ours)).items() if count} == {}
    assert await held(database, theirs) == before
    async with database.connection() as connection:
        assert await accounts.first(connection) == account_id


async def test_what_takes_longer_than_a_statement_may_goes_in_smaller_slices(
    database: db.Database, account_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that each take long to remove, as the largest mails do; all of them at once are too much for a statement."""
    monkeypatch.setattr(closing, "SLICE", 8)
    other = await rows.account(database)
    await fill(database, other)
    async with database.connection() as connection:
        await connection.execute(
            "create function linger() returns trigger language plpgsql as "
            "$$ begin perform pg_sleep(0.2); return old; end $$"
        )
        await connection.execute(
            "create trigger heavy before delete on contents for each row execute function linger()"
        )
        await connection.execute("set statement_timeout = '600ms'")  # of the one connection of this task's pool
    assert await closing.empty(database, other) > 20 * ROWS
    assert (await held(database, other))["contents"] == 0


async def test_what_a_worker_has_in_hand_is_waited_for(database: db.Database, account_id: UUID) -> None:
    other = await rows.account(database)
    await rows.email(database, other)
    async with database.connection() as connection:
        [claimed] = await emails.claim(connection, other, lease_id=uuid4(), lease_seconds=60, limit=5)
    assert await mark(database, other)
    assert await housekeeping.close_accounts(database, grace=0) == 0
    assert (await held(database, other))["deliveries"] == 1
    async with database.connection() as connection:
        await connection.execute("update deliveries set due_at = now() where id = $1", claimed.id)  # the lease is over
        assert await emails.claim(connection, other, lease_id=uuid4(), lease_seconds=60, limit=5) == []
    assert await housekeeping.close_accounts(database, grace=0) > 0


async def test_the_void_and_the_first_account_cannot_be_deleted(database: db.Database, account_id: UUID) -> None:
    """Seen to fail with either of the two conditions left out of `mark_deleted`."""
    async with database.connection() as connection:
        voids = await accounts.voids(connection)
    assert [await mark(database, id) for id in (account_id, voids[0], voids[-1], uuid4())] == [False] * 4
    async with database.connection() as connection:
        assert [await accounts.suspend(connection, id) for id in (voids[0], account_id)] == [False, True]


async def test_what_a_suspended_account_has_to_send_and_to_tell_waits(database: db.Database, account_id: UUID) -> None:
    """Negative control: with the look at `suspended_at` taken out of `claim` its recipient was leased."""
    await rows.email(database, account_id)
    hook = uuid4()
    async with database.transaction() as connection:
        await connection.execute(
            "insert into webhooks (account_id, id, url, types) values ($1, $2, 'http://x.example/', '{*}')",
            account_id,
            hook,
        )
        await connection.execute(
            "insert into webhook_deliveries (account_id, webhook_id, event_id, seq, event_type, due_at, created_at) "
            "values ($1, $2, $2, 1, 'x', now(), now())",
            account_id,
            hook,
        )
        assert await accounts.suspend(connection, account_id)
        assert not await accounts.suspend(connection, account_id)

    async def due() -> list[Any]:
        async with database.connection() as connection:
            return [
                *await emails.due_accounts(connection, 10),
                *await emails.due_accounts(connection, 1),
                *await webhooks.due_accounts(connection, 10),
            ]

    assert await due() == []
    async with database.transaction() as connection:
        lease: dict[str, Any] = {"lease_id": uuid4(), "lease_seconds": 60, "limit": 5}
        assert await emails.claim(connection, account_id, **lease) == []
        assert (await webhooks.claim(connection, account_id, each=5, **lease)).claimed == ()
        await connection.execute("update deliveries set waits_since = now() - interval '1 month'")
        assert await accounts.resume(connection, account_id)
        assert not await accounts.resume(connection, account_id)
    assert len(await due()) == 3
    async with database.transaction() as connection:
        [claimed] = await emails.claim(connection, account_id, **lease)
        assert (datetime.now(UTC) - claimed.queued_at).total_seconds() < 3600  # it did not wait for that month
        assert len((await webhooks.claim(connection, account_id, each=5, **lease)).claimed) == 1


async def test_looks_for_work_read_no_more_however_much_waits_for_suspended_accounts(
    database: db.Database, account_id: UUID
) -> None:
    """What they have stands in front of everybody's for as long as they are suspended.

    Seen to fail with the suspended left out while looking, rather than afterwards: 3,032 recipients were read in place
    of 10, and 3,030 of what waits for webhooks."""
    email, other, hook = await rows.email(database, account_id), await rows.account(database), uuid4()
    await rows.email(database, other)
    more = (
        """insert into deliveries
          (account_id, id, email_id, kind, address, domain, status, due_at, created_at, updated_at)
        select account_id, gen_random_uuid(), email_id, kind, address, domain, status, now() - interval '1 hour',
          created_at, updated_at
        from deliveries, generate_series(1, cast($2 as integer)) where email_id = $1 limit $2""",
        """insert into webhook_deliveries (account_id, webhook_id, event_id, seq, event_type, due_at, created_at)
        select account_id, id, gen_random_uuid(), n, 'x', now() - interval '1 hour', now()
        from webhooks, generate_series(1, cast($2 as integer)) n where id = $1""",
    )
    async with database.connection() as connection:
        query = "insert into webhooks (account_id, id, url, types) values ($1, $2, 'http://x.example/', '{*}')"
        await connection.execute(query, account_id, hook)
        assert await accounts.suspend(connection, account_id)
        read = []
        for count in (30, 3000):
            for query, id in zip(more, (email.id, hook), strict=True):
                await connection.execute(query, id, count)
            await connection.execute("analyze deliveries, webhook_deliveries")
            assert await emails.due_accounts(connection, 10) == [other]
            assert await webhooks.due_accounts(connection, 10) == []
            read.append([await _read(connection, query.text) for query in LOOKS])
    assert max(read[1]) <= max(read[0]) + 10, read


LOOKS = (
    emails.sql.due_accounts,
    emails.sql.all_due_accounts,
    webhooks.sql.due_accounts,
    webhooks.sql.all_due_accounts,
)


async def _read(connection: db.Connection, query: str) -> int:
    """Rows of what is due that the statement reads, with a limit of 10."""
    arguments = [10] if "$1" in query else []
    [plan] = await connection.fetchval(f"explain (analyze, format json) {query}", *arguments)
    return _scanned(plan["Plan"])


def _scanned(node: dict[str, Any]) -> int:
    own = 0
    if node.get("Relation Name") in {"deliveries", "webhook_deliveries"}:
        rows_of_it = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        own = int(rows_of_it * node["Actual Loops"])
    return own + sum(_scanned(child) for child in node.get("Plans", []))
