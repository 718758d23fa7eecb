"""schema.sql and the migrations give the same database."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from gateway.storage import migrate, sql
from gateway.storage.sql import load
from tests import databases

pytestmark = pytest.mark.anyio

FILES = sorted(path.stem for path in Path(sql.__file__).parent.glob("*.sql"))
CATALOG = """
select 'column ' || c.table_name || '.' || c.column_name || ' ' || c.udt_name || ' ' || c.is_nullable
  || ' ' || coalesce(c.column_default, '') || ' ' || cast(a.attstorage as text) as line
from information_schema.columns c
join pg_attribute a on a.attrelid = to_regclass(c.table_name) and a.attname = c.column_name
where c.table_schema = 'public'
union all select 'index ' || indexdef from pg_indexes where schemaname = 'public'
union all select 'constraint ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
  from pg_constraint where connamespace = 'public'::regnamespace
union all select 'table ' || relname || ' ' || coalesce(array_to_string(reloptions, ','), '') from pg_class
  where relnamespace = 'public'::regnamespace and relkind = 'r'
union all select 'enum ' || t.typname || ' ' || e.enumsortorder || ' ' || e.enumlabel
  from pg_enum e join pg_type t on t.oid = e.enumtypid
union all select 'account ' || id || ' ' || name || ' ' || is_void from accounts
union all select 'head ' || account_id || ' ' || last_seq from event_heads
union all select 'mailbox ' || account_id || ' ' || id || ' ' || is_active from mailboxes
union all select 'event ' || account_id || ' ' || seq || ' ' || type from events
"""


async def described(dsn: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    try:
        return sorted(row["line"] for row in await connection.fetch(CATALOG))
    finally:
        await connection.close()


async def migrated_from_nothing(dsn: str) -> None:
    """Every migration in its turn, as a database that has lived through them all."""
    connection = await asyncpg.connect(dsn)
    try:
        for file in migrate._migration_files():
            for statement in migrate.statements(file.read_text("utf-8")):
                await connection.execute(statement)
    finally:
        await connection.close()


async def test_schema_sql_and_the_migrations_give_the_same_database(postgres_dsn: str) -> None:
    """Seen to fail with a column's type changed in schema.sql (integer to bigint), and with an index left out there."""
    server = await asyncpg.connect(postgres_dsn)
    try:
        await server.execute("create database by_migrations")
        async with databases.fresh(postgres_dsn) as by_schema:
            by_migrations = databases.named(postgres_dsn, "by_migrations")
            await migrated_from_nothing(by_migrations)
            assert await described(by_schema) == await described(by_migrations)
    finally:
        await server.execute("drop database if exists by_migrations with (force)")
        await server.close()


async def test_migrating_twice_changes_nothing(dsn: str) -> None:
    before = await described(dsn)
    assert await migrate.run(dsn) == []
    assert await migrate.pending(dsn) == []
    assert await described(dsn) == before


async def test_every_named_statement_is_one_that_the_database_takes(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for file in FILES:
            for query in load(file):
                await connection.prepare(query.text)
    finally:
        await connection.close()


async def test_every_statement_that_changes_a_tenants_rows_names_the_account() -> None:
    """Look-ups by hash or address and plain looks over all accounts apart, every statement is keyed by account_id."""
    lookups = {
        *("accounts.create", "accounts.first", "accounts.by_name", "accounts.voids", "accounts.credential"),
        *("mailboxes.routes", "mailboxes.due_accounts", "mailboxes.gone", "emails.due_accounts", "emails.late"),
        "emails.all_due_accounts",
        *("old_emails.accounts_with_emails", "old_emails.accounts_with_attempts"),
        *("domains.find", "domains.hold_owner", "domains.holder", "domains.take_turn"),
        *("idempotency.old_accounts", "suppressions.over_accounts", "webhooks.due_accounts", "webhooks.hearing"),
        *("callbacks.keep", "callbacks.delivery_of", "callbacks.use", "callbacks.waiting", "callbacks.forget"),
        *("statistics.behind", "statistics.old_accounts", "statistics.queue", "statistics.oldest_due"),
        *("callbacks.count_of", "callbacks.unapplied", "callbacks.abandon", "callbacks.forget_messages"),
        *("callbacks.reports", "callbacks.report", "old_emails.remove_reports"),  # by an account's own deliveries
        *("dkim_keys.sealed", "search.by_index", "search.behind", "judgements.unjudged", "judgements.due_accounts"),
        *("clock.now", "condition.server", "condition.connections", "condition.held", "condition.count_held"),
        *(
            "condition.oldest_due",
            "condition.oldest_webhook",
            "condition.webhooks",
            "condition.dead",
            "condition.fates",
        ),
    }
    for file in FILES:
        for query in load(file):
            named = {"account_id", "account_ids"} & set(query.parameters)
            assert named or query.name in lookups or query.name == "events.aged_accounts", query.name


def test_statements_are_split_at_semicolons_outside_quotes_and_comments() -> None:
    script = "create table a (x int); -- a comment; with one\ninsert into a values ('x;y');\n\n-- only; this\n"
    assert migrate.statements(script) == ["create table a (x int)", "insert into a values ('x;y')"]
