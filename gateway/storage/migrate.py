"""Bringing a database to today's schema: schema.sql on an empty one, the missing migrations in order on an older one.

It may be done while mail flows. One migration is one transaction, one statement at a time (several in one query are
refused on distributed tables). It asks for its locks with a short timeout, for whoever waits for a table keeps those
behind it waiting, too; where somebody else has the table, it takes everything back, lets mail pass and tries again.
Releases that start together take turns.

A migration with `create index concurrently` or `drop index concurrently` holds nothing else: each of its statements
runs outside of a transaction, and keeps nobody from writing. What an interrupted one left behind is done away with.

For one release back, the code of before works on today's schema: a migration only ever adds what that code need not
know of (tests/storage/test_migrations.py reads each one).
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

import asyncpg
import structlog

from gateway.errors import PostroomError
from gateway.storage import db

log = structlog.get_logger(__name__)

LOCK: Final = 0x706F7374726F6F6D  # "postroom": the advisory lock's number
LOCK_TIMEOUT: Final = "1s"  # that live mail may have to wait behind a migration that waits
PATIENCE_SECONDS: Final = 120.0  # for the locks of one migration, then it is given up
TURN_SECONDS: Final = 3600.0  # for another process that migrates
PAUSE_SECONDS: Final = 1.0  # on average, between two tries
_CONCURRENTLY: Final = re.compile(
    r"(?P<verb>create|drop)(?: unique)? index concurrently (?:if (?:not )?exists )?(?P<name>\w+)"
)
_BLOCKING: Final = """
select pid, application_name, cast(extract(epoch from clock_timestamp() - xact_start) as int) as seconds
from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and xact_start is not null
order by xact_start limit 3
"""


class Blocked(PostroomError):
    """A migration did not get its locks; nothing of it is done, and it may be run again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """A database beside this version's migrations."""

    missing: tuple[str, ...]  # the database lacks them, oldest first
    unknown: tuple[str, ...]  # the database has them from a newer version


def _migration_files() -> list[Traversable]:
    folder = resources.files("gateway.storage").joinpath("migrations")
    return sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)


def names() -> list[str]:
    """All migrations there are, oldest first."""
    return [file.name.removesuffix(".sql") for file in _migration_files()]


def schema() -> str:
    """schema.sql: in the wheel beside this module, in a checkout at the project's root."""
    packaged = resources.files("gateway.storage").joinpath("schema.sql")
    if packaged.is_file():
        return packaged.read_text("utf-8")
    return (Path(__file__).parents[2] / "schema.sql").read_text("utf-8")


def statements(script: str) -> list[str]:
    """The statements of a script without dollar quotes; comments go, quoted semicolons stay."""
    bare = "\n".join(_without_comment(line) for line in script.splitlines())
    found, start, quoted = [], 0, False
    for position, character in enumerate(bare):
        if character == "'":
            quoted = not quoted
        elif character == ";" and not quoted:
            found.append(bare[start:position].strip())
            start = position + 1
    return [statement for statement in (*found, bare[start:].strip()) if statement]


def _without_comment(line: str) -> str:
    """The line up to `--`; no literal in our scripts holds two dashes."""
    return line.partition("--")[0]


async def _applied(connection: db.Connection) -> set[str] | None:
    """Names of the migrations that the database has; None on an empty database."""
    if await connection.fetchval("select to_regclass('schema_migrations')") is None:
        return None
    return {row["name"] for row in await connection.fetch("select name from schema_migrations")}


async def apply(connection: db.Connection, *, patience: float = PATIENCE_SECONDS) -> list[str]:
    """Do what is missing, on a connection of one's own; names of the migrations that the database now has anew.

    `patience`: seconds for the locks of each. Raises Blocked, with what was done before it standing."""
    await connection.execute("set statement_timeout = 0")
    await _take_turn(connection)
    try:
        applied = await _applied(connection)
        if applied is None:
            await _run_all(connection, statements(schema()), names())
            return names()
        done = []
        for file in _migration_files():
            if (name := file.name.removesuffix(".sql")) not in applied:
                await _migrate(connection, name, statements(file.read_text("utf-8")), patience)
                done.append(name)
        return done
    finally:
        await connection.execute("select pg_advisory_unlock($1)", LOCK)


async def _take_turn(connection: db.Connection) -> None:
    """Asked for, not waited for: whoever waits within a statement keeps an index of another from being built."""
    until = time.monotonic() + TURN_SECONDS
    while not await connection.fetchval("select pg_try_advisory_lock($1)", LOCK):
        if time.monotonic() > until:
            raise Blocked("another process migrates this database, for an hour now")
        await asyncio.sleep(PAUSE_SECONDS / 4)


async def _migrate(connection: db.Connection, name: str, script: Sequence[str], patience: float) -> None:
    if any(_CONCURRENTLY.match(statement) for statement in script):
        await _run_apart(connection, script, name)
        return
    until = time.monotonic() + patience
    while True:
        try:
            await _run_all(connection, script, [name])
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            holders = await _holders(connection)
            log.warning("migration waits for its locks", migration=name, holders=holders)
            if time.monotonic() > until:
                raise Blocked(f"{name} did not get its locks; longest transactions: {holders}") from error
            await asyncio.sleep(random.uniform(0.5, 1.5) * PAUSE_SECONDS)  # noqa: S311 - spreads tries; nothing secret
        else:
            return


async def _holders(connection: db.Connection) -> str:
    """Who may be in the way: process id, application and age of the longest transactions, never what they say."""
    rows = await connection.fetch(_BLOCKING)
    return ", ".join(f"pid {row['pid']} ({row['application_name']}, {row['seconds']} s)" for row in rows) or "none now"


async def _run_all(connection: db.Connection, script: Sequence[str], done: list[str]) -> None:
    async with connection.transaction():
        await connection.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
        for statement in script:
            await connection.execute(statement)
        await connection.executemany("insert into schema_migrations (name) values ($1)", [(name,) for name in done])


async def _run_apart(connection: db.Connection, script: Sequence[str], name: str) -> None:
    for statement in script:
        await _change_index(connection, statement)
    await connection.execute("insert into schema_migrations (name) values ($1)", name)


async def _change_index(connection: db.Connection, statement: str) -> None:
    found = _CONCURRENTLY.match(statement)
    if found is None:
        raise ValueError(f"not beside an index that is changed concurrently: {statement}")
    valid = await connection.fetchval(
        "select indisvalid from pg_index where indexrelid = to_regclass($1)", found["name"]
    )
    if valid is False:  # its building was interrupted
        await connection.execute(f"drop index concurrently if exists {found['name']}")
    if (found["verb"] == "create") != bool(valid):
        await connection.execute(statement)


async def run(dsn: str, *, patience: float = PATIENCE_SECONDS) -> list[str]:
    """Migrate the database at `dsn`; names of what was applied. Raises Blocked."""
    async with db.connected(dsn) as connection:
        return await apply(connection, patience=patience)


async def state(dsn: str) -> State:
    """How far the database at `dsn` is."""
    async with db.connected(dsn) as connection:
        applied = await _applied(connection) or set()
    known = names()
    missing = tuple(name for name in known if name not in applied)
    return State(missing=missing, unknown=tuple(sorted(applied.difference(known))))


async def lacking(connection: db.Connection) -> list[str]:
    """Names of the migrations that the connected database lacks."""
    applied = await _applied(connection) or set()
    return [name for name in names() if name not in applied]
