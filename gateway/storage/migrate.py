"""Bringing a database to today's schema: schema.sql on an empty one, the missing migrations in order on an older one.

One statement at a time (several in one query are refused on distributed tables), under an advisory lock so that two
releases starting together take turns, with a short lock timeout so that a migration never queues in front of live mail.
"""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

import asyncpg

from gateway.storage import db

LOCK: Final = 0x706F7374726F6F6D  # "postroom": the advisory lock's number


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


async def _run_all(connection: db.Connection, script: str, done: list[str]) -> None:
    async with connection.transaction():
        for statement in statements(script):
            await connection.execute(statement)
        await connection.executemany("insert into schema_migrations (name) values ($1)", [(name,) for name in done])


async def apply(connection: db.Connection) -> list[str]:
    """Do what is missing, on a connection of one's own; names of the migrations that the database now has anew."""
    await connection.execute("set lock_timeout = '4s'")
    await connection.execute("select pg_advisory_lock($1)", LOCK)
    try:
        applied = await _applied(connection)
        if applied is None:
            await _run_all(connection, schema(), names())
            return names()
        missing = [file for file in _migration_files() if file.name.removesuffix(".sql") not in applied]
        for file in missing:
            await _run_all(connection, file.read_text("utf-8"), [file.name.removesuffix(".sql")])
        return [file.name.removesuffix(".sql") for file in missing]
    finally:
        await connection.execute("select pg_advisory_unlock($1)", LOCK)


async def run(dsn: str) -> list[str]:
    """Migrate the database at `dsn`; names of what was applied."""
    with db.translated():
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            return await apply(connection)
        finally:
            await connection.close()


async def pending(dsn: str) -> list[str]:
    """Names of the migrations that the database at `dsn` lacks."""
    with db.translated():
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            return await lacking(connection)
        finally:
            await connection.close()


async def lacking(connection: db.Connection) -> list[str]:
    """Names of the migrations that the connected database lacks."""
    applied = await _applied(connection) or set()
    return [name for name in names() if name not in applied]
