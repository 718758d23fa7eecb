"""Databases for tests: each its own, cloned from one that is migrated already."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from uuid_utils.compat import uuid7

from gateway.storage import db, migrate

TEMPLATE = "postroom_template"
STRATEGY = "strategy file_copy"  # two thirds of the processor time of writing the same into the log
TEMPLATE_LOCK = 0x7465737473  # "tests": one worker of the run makes the template


def named(dsn: str, name: str) -> str:
    """The DSN of another database of the same server."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


def _strategy(server: asyncpg.Connection) -> str:
    """Before version 15 there was no other, and no word for it."""
    return STRATEGY if server.get_server_version().major >= 15 else ""


async def _make_template(server: asyncpg.Connection, dsn: str) -> None:
    if await server.fetchval("select 1 from pg_database where datname = $1", TEMPLATE):
        return
    await server.execute(f"create database {TEMPLATE}_unfinished")
    await migrate.run(named(dsn, f"{TEMPLATE}_unfinished"))
    await server.execute(f"alter database {TEMPLATE}_unfinished rename to {TEMPLATE}")


@contextlib.asynccontextmanager
async def fresh(dsn: str) -> AsyncIterator[str]:
    """The DSN of a migrated database of one's own, gone afterwards."""
    name = f"test_{uuid7().hex}"
    server = await asyncpg.connect(dsn)
    try:
        await server.execute("select pg_advisory_lock($1)", TEMPLATE_LOCK)
        try:
            await _make_template(server, dsn)
            await server.execute(f"create database {name} template {TEMPLATE} {_strategy(server)}")
        finally:
            await server.execute("select pg_advisory_unlock($1)", TEMPLATE_LOCK)
        try:
            yield named(dsn, name)
        finally:
            await server.execute(f"drop database {name} with (force)")
    finally:
        await server.close()


@contextlib.asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[db.Database]:
    """An open Database."""
    database = db.Database(dsn, pool_size=10)
    await database.open()
    try:
        yield database
    finally:
        await database.close()
