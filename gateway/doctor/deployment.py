"""What everything stands on: the secret, Postgres, Redis, the clocks."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway import tokens
from gateway.doctor.report import Finding, ok, problem, warning
from gateway.errors import ConfigurationError, Unavailable
from gateway.notify import nudges
from gateway.settings import Settings
from gateway.storage import condition, db, dkim_keys, migrate

LEAST_BITS: Final = 100.0  # of SECRET_KEY, by how its characters are spread; 32 random hex digits have some 115
LEAST_CHARACTERS: Final = 8  # different ones in it
OLDEST: Final = 14  # versions of Postgres that Postroom is tried with: from this one
NEWEST: Final = 18  # … to this one
APART: Final = timedelta(seconds=2)  # of clocks: noticed by people who compare logs and times
FAR_APART: Final = timedelta(seconds=60)  # wrong for signatures, whose times receivers check
REDIS_SECONDS: Final = 3.0  # for its answer

MAKE_ONE: Final = "Make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"


def secret_key(settings: Settings) -> Finding:
    """Whether SECRET_KEY can be guessed; it is never shown."""
    name, secret = "secret_key", settings.secret_key.get_secret_value()
    if len(secret) < 32:
        return problem(name, "SECRET_KEY is not set" if not secret else "SECRET_KEY is too short", f"{MAKE_ONE}.")
    if len(set(secret)) < LEAST_CHARACTERS or _bits(secret) < LEAST_BITS:
        todo = f"Every token is derived from it, so choose one at random before there is any. {MAKE_ONE}."
        return problem(name, "SECRET_KEY looks guessable: few different characters, or a pattern", todo)
    if any(len(key) < tokens.SECRET_KEY_MIN_BYTES for key in tokens.previous_keys(settings)):
        todo = "Write the former SECRET_KEYs into it whole, with spaces between; no process starts so."
        return problem(name, "SECRET_KEY_PREVIOUS holds something too short to have been one", todo)
    return ok(name, f"{len(secret)} characters, of which nothing is shown")


async def previous(database: db.Database, keyring: tokens.Keyring) -> Sequence[Finding]:
    """What is still encrypted under a SECRET_KEY before this one."""
    try:
        async with database.connection() as connection:
            found = await dkim_keys.sealed(connection)
    except Unavailable:
        return []
    name, old = "secret_key.previous", sum(_is_old(key, keyring) for key in found)
    if old:
        said = f"{old} DKIM keys are encrypted under a SECRET_KEY before this one"
        return [warning(name, said, "Run: postroom keys reseal.")]
    if keyring.previous:
        return [ok(name, "no DKIM key needs SECRET_KEY_PREVIOUS any more; webhooks are signed for it, too")]
    return []


def _is_old(key: dkim_keys.Sealed, keyring: tokens.Keyring) -> bool:
    """What cannot be read at all is told of its domain."""
    try:
        return keyring.reseal(dkim_keys.PURPOSE, key.id.bytes, key.private_key) is not None
    except tokens.Unreadable:
        return False


def _bits(secret: str) -> float:
    """An upper bound of what it holds, by how often each character is there."""
    counts, total = collections.Counter(secret).values(), len(secret)
    return -sum(count * math.log2(count / total) for count in counts)


async def database(database: db.Database, settings: Settings) -> Sequence[Finding]:
    """Postgres: there, migrated, safe, with room for all of us, and at the same time of day."""
    try:
        async with database.connection() as connection:
            asked = datetime.now(UTC)
            server = await condition.server(connection)
            here = asked + (datetime.now(UTC) - asked) / 2
            missing = await migrate.lacking(connection)
            connections = await condition.connections(connection)
    except Unavailable as error:
        return [problem("database", f"not reached: {db.reason(error)}", "Start Postgres, or correct DATABASE_URL.")]
    return [
        version(server),
        migrations(missing),
        durability(server, unsafe=settings.database_unsafe),
        room(server, connections, settings),
        clock(server.now - here),
    ]


def version(server: condition.Server) -> Finding:
    name, major = "database", server.number // 10_000
    if server.is_replica:
        return problem(name, "DATABASE_URL names a replica, which stores nothing", "Name the primary server.")
    if major < OLDEST:
        return problem(name, f"Postgres {server.version} is too old", f"Use Postgres {OLDEST} to {NEWEST}.")
    if major > NEWEST:
        todo = f"Postroom is tried with {OLDEST} to {NEWEST}: try newer ones before you rely on them."
        return warning(name, f"Postgres {server.version} is newer than what Postroom was tried with", todo)
    return ok(name, f"Postgres {server.version} answers")


def migrations(missing: Sequence[str]) -> Finding:
    if missing:
        return problem("database.schema", f"it lacks {', '.join(missing)}", "Run: postroom migrate.")
    return ok("database.schema", "migrated")


def durability(server: condition.Server, *, unsafe: bool) -> Finding:
    """Whether what was confirmed outlives a power cut. `unsafe`: the operator said that it need not."""
    name = "database.durability"
    given = {"fsync": server.fsync, "full_page_writes": server.full_page_writes}
    off = [setting for setting, value in given.items() if value != "on"]
    if server.synchronous_commit == "off":
        off.append("synchronous_commit (Postroom turns it on for itself: something between drops that)")
    if not off:
        return ok(name, "fsync, full_page_writes and synchronous_commit are on: what is confirmed is on disk")
    said = f"off: {', '.join(off)}; confirmed mail can be lost in a power cut"
    if unsafe:
        return warning(name, f"{said}, which DATABASE_UNSAFE allows", "Turn them on where mail matters.")
    return problem(name, said, "Turn them on in Postgres; Postroom does not start without them.")


def room(server: condition.Server, connections: condition.Connections, settings: Settings) -> Finding:
    """Whether all processes can have their connections: those of the web and one worker."""
    name, needed = "database.connections", settings.db_pool_size * (settings.web_concurrency + 1)
    limits = [(server.room, connections.everybody)]
    if server.role_limit is not None and server.role_limit >= 0:
        limits.append((server.role_limit, connections.as_role))
    if server.database_limit is not None and server.database_limit >= 0:
        limits.append((server.database_limit, connections.to_database))
    most, used = min(limits, key=lambda pair: pair[0] - pair[1])
    others = max(used - connections.ours, 0)
    sum_ = f"DB_POOL_SIZE {settings.db_pool_size} × {settings.web_concurrency + 1} processes (web and one worker)"
    said = f"{needed} may be needed ({sum_}); {most} are allowed, of which others use {others}"
    if needed > most:
        return problem(name, said, "Lower DB_POOL_SIZE or WEB_CONCURRENCY, or allow more connections.")
    if needed > most - others:
        return warning(name, said, "Lower DB_POOL_SIZE, or allow more connections: under load some will be refused.")
    return ok(name, said)


def clock(ahead: timedelta) -> Finding:
    """`ahead`: how far the database's clock is before this host's."""
    seconds = ahead.total_seconds()
    said = f"the database's clock is {abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} this host's"
    todo = "Let both hosts set their clocks by NTP."
    if abs(ahead) >= FAR_APART:
        return problem("clock", f"{said}: signatures and callbacks will be refused", todo)
    if abs(ahead) >= APART:
        return warning("clock", said, todo)
    return ok("clock", "the database and this host agree on the time")


async def redis(settings: Settings) -> Sequence[Finding]:
    """Redis is optional: the worst is a second's delay."""
    name = "redis"
    if not settings.redis_url:
        return [ok(name, "REDIS_URL is not set: everything works, told within a second by polling Postgres")]
    try:
        client = nudges.redis_from_url(
            settings.redis_url, tls_verify=settings.redis_tls_verify, answer_seconds=REDIS_SECONDS
        )
    except ConfigurationError as error:
        return [problem(name, str(error), "Correct REDIS_URL: no process starts with it.")]
    try:
        await client.ping()
    except nudges.AWAY as error:
        todo = "Start Redis, correct REDIS_URL, or unset it: meanwhile news take up to a second, and nothing is lost."
        return [warning(name, f"not reached: {str(error) or type(error).__name__}", todo)]
    finally:
        await client.aclose()
    return [ok(name, "answers")]
