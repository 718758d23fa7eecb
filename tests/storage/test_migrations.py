"""schema.sql and the migrations give the same database."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import asyncpg
import pytest

from gateway.storage import db, migrate, sql
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
    assert (await migrate.state(dsn)).missing == ()
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
        "mailboxes.count_gone",
        "emails.all_due_accounts",
        *("old_emails.accounts_with_emails", "old_emails.accounts_with_attempts"),
        *("domains.find", "domains.hold_owner", "domains.holder", "domains.take_turn"),
        *("idempotency.old_accounts", "suppressions.over_accounts", "webhooks.due_accounts", "webhooks.hearing"),
        *("webhooks.all_due_accounts", "webhooks.accounts"),
        *("callbacks.keep", "callbacks.delivery_of", "callbacks.use", "callbacks.waiting", "callbacks.forget"),
        *(
            "statistics.behind",
            "statistics.old_accounts",
            "statistics.old_arrivals",
            "statistics.queue",
            "statistics.oldest_due",
        ),
        "restoring.accounts",
        *("accounts.named", "accounts.list", "accounts.holder", "accounts.forget_keys", "closing.due"),
        *("callbacks.count_of", "callbacks.unapplied", "callbacks.abandon", "callbacks.forget_messages"),
        *("callbacks.reports", "callbacks.report", "old_emails.remove_reports"),  # by an account's own deliveries
        *("dkim_keys.sealed", "search.by_index", "search.behind", "judgements.unjudged", "judgements.due_accounts"),
        *("clock.now", "condition.server", "condition.connections", "condition.held", "condition.count_held"),
        *(
            "vitals.beat",
            "vitals.leave",
            "vitals.workers",
            "vitals.standings",
            "vitals.work",
            "vitals.tables",
            "vitals.room",
            "vitals.lags",
        ),
        *("condition.upkeep", "condition.slots", "condition.tables"),
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


# For one release back

GENTLE = (  # what the code of the release before need not know of, and what keeps nobody waiting
    r"create table \w+ ",
    r"alter table \w+ add column \w+ (?!.*primary key)(?!.*references)(?:(?!not null).)*$",
    r"alter table \w+ add column \w+ .*not null default (?:'[^']*'|[-\w]+)(?: check \(.*\))?$",
    r"alter table \w+ add constraint \w+ .* not valid$",
    r"alter table \w+ validate constraint \w+$",
    r"alter table \w+ set \(",
    r"alter type \w+ add value ",
    r"(?:create(?: unique)?|drop) index concurrently ",
    r"insert into ",
)
BEFORE_THE_RULE = 15  # the migrations up to this number were made when nobody ran Postroom yet


def hasty(script: Sequence[str]) -> list[str]:
    """Statements that are not gentle; an index of a table that the same script makes is."""
    made = {found[1] for statement in script if (found := re.match(r"create table (\w+) ", statement))}
    flat = [" ".join(statement.split()) for statement in script]
    return [
        statement
        for statement in flat
        if not any(re.match(form, statement) for form in GENTLE)
        and not ((found := re.match(r"create (?:unique )?index \w+ on (\w+) ", statement)) and found[1] in made)
    ]


def test_the_code_of_one_release_back_works_on_what_a_migration_leaves() -> None:
    for file in migrate._migration_files():
        if int(file.name[:4]) > BEFORE_THE_RULE:
            assert hasty(migrate.statements(file.read_text("utf-8"))) == [], file.name


@pytest.mark.parametrize(
    "statement",
    [
        "alter table emails drop column topic",
        "alter table emails rename column topic to list",
        "alter table emails alter column topic set not null",
        "alter table emails add column topic text not null",
        "alter table emails add column id2 uuid not null default gen_random_uuid()",
        "alter table suppressions drop constraint suppressions_pkey",
        "create index emails_by_topic on emails (account_id, topic)",
        "update deliveries set waits_since = created_at",
        "drop table counting",
    ],
)
def test_what_would_stop_the_release_before_or_its_mail_is_not_gentle(statement: str) -> None:
    assert hasty([statement]) == [statement]


# While mail flows


@pytest.fixture
async def connection(dsn: str) -> AsyncIterator[db.Connection]:
    opened = await asyncpg.connect(dsn)
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
async def other(dsn: str) -> AsyncIterator[db.Connection]:
    opened = await asyncpg.connect(dsn, server_settings={"application_name": "a long report"})
    try:
        yield opened
    finally:
        await opened.close()


HERE = "(select oid from pg_database where datname = current_database())"
WAITS = f"select count(*) from pg_locks where not granted and relation = 'emails'::regclass and database = {HERE}"  # noqa: S608 - a constant
ASKS = f"""select count(*) from pg_stat_activity
where datid = {HERE} and pid <> pg_backend_pid() and query like '%pg_try_advisory_lock%'"""  # noqa: S608 - a constant


async def until(connection: db.Connection, query: str, count: int) -> None:
    """Other sessions' doings, of which Postgres does not tell."""
    while await connection.fetchval(query) != count:  # noqa: ASYNC110 - there is nothing to wait on
        await asyncio.sleep(0)


WIDER = ("create table extra (id uuid primary key)", "alter table emails add column extra text")


async def columns(connection: db.Connection) -> int:
    found: int = await connection.fetchval(
        "select count(*) from information_schema.columns where column_name = 'extra'"
    )
    return found


async def test_a_migration_gives_way_and_is_tried_again(
    connection: db.Connection, other: db.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two tries nobody waits behind it. With a single try it was Blocked."""
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT", "20ms")
    monkeypatch.setattr(migrate, "PAUSE_SECONDS", 0.02)
    report = other.transaction()
    await report.start()
    await other.execute("select 1 from emails")
    migrating = asyncio.create_task(migrate._migrate(connection, "9999_wider", WIDER, 60))
    async with asyncio.timeout(30):
        await until(other, WAITS, 1)
        await until(other, WAITS, 0)
    assert not migrating.done()
    await report.rollback()
    await migrating
    assert await columns(connection) == 1
    assert await connection.fetchval("select 1 from schema_migrations where name = '9999_wider'")


async def test_a_migration_that_gets_no_locks_says_who_has_them_and_leaves_nothing(
    connection: db.Connection, other: db.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT", "20ms")
    async with other.transaction():
        await other.execute("select 1 from emails")
        with pytest.raises(migrate.Blocked, match=r"9999_wider did not .*\(a long report, 0 s\)"):
            await migrate._migrate(connection, "9999_wider", WIDER, 0)
    assert await columns(connection) == 0
    assert await connection.fetchval("select to_regclass('extra')") is None
    assert not await connection.fetchval("select 1 from schema_migrations where name = '9999_wider'")


async def test_releases_that_start_together_take_turns(
    dsn: str, connection: db.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "PAUSE_SECONDS", 0.02)
    await connection.execute("select pg_advisory_lock($1)", migrate.LOCK)
    second = asyncio.create_task(migrate.run(dsn))
    async with asyncio.timeout(30):
        await until(connection, ASKS, 1)
    assert not second.done()
    await connection.execute("select pg_advisory_unlock($1)", migrate.LOCK)
    assert await second == []


BY_SIZE = ("create index concurrently emails_by_size on emails (account_id, size)",)


async def test_an_index_is_built_while_others_write_and_one_that_was_broken_off_is_built_anew(
    connection: db.Connection,
) -> None:
    """With the invalid one left where it was, there was one of that name already."""
    await connection.execute("create index emails_by_size on emails (account_id, size)")
    await connection.execute("update pg_index set indisvalid = false where indexrelid = 'emails_by_size'::regclass")
    await migrate._migrate(connection, "9999_by_size", BY_SIZE, 0)
    assert await connection.fetchval("select indisvalid from pg_index where indexrelid = 'emails_by_size'::regclass")
    await connection.execute("delete from schema_migrations where name = '9999_by_size'")  # killed before it was noted
    await migrate._migrate(connection, "9999_by_size", BY_SIZE, 0)
    assert await connection.fetchval("select 1 from schema_migrations where name = '9999_by_size'")


async def test_migrations_of_a_newer_version_are_told_of(dsn: str, connection: db.Connection) -> None:
    await connection.execute("insert into schema_migrations (name) values ('9999_later')")
    await connection.execute("delete from schema_migrations where name = '0002_receiving'")
    assert await migrate.state(dsn) == migrate.State(missing=("0002_receiving",), unknown=("9999_later",))
