"""What wears out or piles up: Postgres's upkeep, Redis's memory, workers, work that nobody does; and, where it is asked
for, one mail of our own through our own port.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import aiosmtplib
import redis.asyncio
from uuid_utils.compat import uuid7

from gateway.doctor import listening
from gateway.doctor.report import Finding, ok, problem, warning
from gateway.errors import ConfigurationError, Unavailable
from gateway.notify import nudges
from gateway.settings import Settings
from gateway.storage import accounts, condition, db, events, mailboxes, vitals

GIB: Final = 1_073_741_824
MANY_DEAD: Final = 100_000  # rows: of fewer nobody takes notice
LONG: Final = timedelta(minutes=5)  # that a transaction is open: ours take seconds
VERY_LONG: Final = timedelta(hours=1)
MUCH_WAL: Final = GIB  # that a replication slot keeps
TOO_MUCH_WAL: Final = 10 * GIB
WRAPAROUND: Final = 2_000_000_000  # transactions until Postgres takes no writes any more, but for some
NEAR: Final = 0.5  # of these: autovacuum should have frozen them at a tenth
SLOW: Final = 0.25  # seconds for Redis's quickest answer to a PING, among PINGS: half of what is waited for it
PINGS: Final = 5
FULL: Final = 0.9  # of its memory
OVERDUE: Final = timedelta(minutes=15)
LOOP_SECONDS: Final = 15.0  # from the final dot to the event


async def database(database: db.Database) -> Sequence[Finding]:
    """How Postgres is kept."""
    try:
        async with database.connection() as connection:
            found = await condition.upkeep(connection)
            slots, tables = await condition.slots(connection), await condition.tables(connection)
    except Unavailable:
        return []  # what is wrong with the database is a finding of its own
    return [size(found, tables), vacuum(found, tables), transactions(found), replication(slots)]


def size(found: condition.Upkeep, tables: Sequence[condition.Table]) -> Finding:
    """For people: what room there is on its disk, Postgres does not tell."""
    largest = ", ".join(f"{one.name} {_gib(one.bytes)}" for one in sorted(tables, key=lambda one: -one.bytes)[:3])
    told = f"most of it in {largest}" if largest else "empty"
    return ok("database.size", f"{_gib(found.bytes)}, {told}; its disk is not seen from here")


def vacuum(found: condition.Upkeep, tables: Sequence[condition.Table]) -> Finding:
    """Whether what is deleted is cleared away, and old transaction numbers are frozen in time."""
    name = "database.vacuum"
    if found.frozen_age > NEAR * WRAPAROUND:
        said = f"the oldest transaction number is {found.frozen_age:,} old; at {WRAPAROUND:,} Postgres takes no writes"
        return problem(name, said, "Run VACUUM FREEZE now, and find what holds it up (see database.transactions).")
    if not found.autovacuum:
        return warning(name, "autovacuum is off: the database grows and gets slow", "Set autovacuum = on.")
    bloated = [one for one in tables if one.dead > max(MANY_DEAD, one.living)]
    if bloated:
        told = ", ".join(f"{one.name} ({one.dead:,} of {one.living + one.dead:,})" for one in bloated)
        todo = "Find what holds vacuum up (a long transaction, a replication slot), then VACUUM these tables."
        return warning(name, f"more dead rows than living ones: {told}", todo)
    return ok(name, f"no table has more dead rows than living ones; oldest transaction number {found.frozen_age:,}")


def transactions(found: condition.Upkeep) -> Finding:
    """What keeps vacuum from clearing away, and locks from being given back."""
    name, oldest = "database.transactions", found.oldest_transaction
    if oldest is None or oldest < LONG:
        return ok(name, "none is open for long")
    said = f"one has been open for {_told(oldest)}: nothing that was deleted since then is cleared away"
    todo = "See pg_stat_activity (and pg_prepared_xacts) for whose it is, and end it."
    return problem(name, said, todo) if oldest >= VERY_LONG else warning(name, said, todo)


def replication(slots: Sequence[condition.Slot]) -> Finding:
    """Whether somebody who does not read fills the disk."""
    name = "database.replication"
    worst = max(slots, key=lambda one: one.retained, default=None)
    if worst is None or worst.retained < MUCH_WAL:
        return ok(name, f"{len(slots)} replication slots, none far behind" if slots else "no replication slots")
    state = "is read slowly" if worst.is_active else "is read by nobody"
    said = f"slot {worst.name} {state} and keeps {_gib(worst.retained)} of WAL, which fills the disk"
    todo = "Start its reader, or drop the slot: a full disk stops Postgres."
    return problem(name, said, todo) if worst.retained >= TOO_MUCH_WAL else warning(name, said, todo)


async def workers(database: db.Database, settings: Settings) -> Sequence[Finding]:
    """Whether anybody does the work, and what is left undone besides queues."""
    try:
        async with database.connection() as connection:
            return [alive(await vitals.workers(connection)), undone(await vitals.overdue(connection, settings))]
    except Unavailable:
        return []


def alive(found: vitals.Workers) -> Finding:
    name = "workers"
    if not found.alive and found.silent:
        said = f"none lives; {found.silent} fell silent within a day and did not end as they should"
        return problem(name, said, "Start `postroom worker`, and see why they died: nothing goes out meanwhile.")
    if not found.alive:
        return warning(
            name, "none runs, and none has within a day", "Start `postroom worker`: nothing goes out without."
        )
    if found.silent:
        said = f"{found.alive} live; {found.silent} fell silent within a day and did not end as they should"
        return warning(name, said, "See why they died: out of memory, a host that is gone, a lost database.")
    return ok(name, f"{found.alive} live")


def undone(overdue: Mapping[str, timedelta]) -> Finding:
    """`overdue`: by what it is, how late the oldest is."""
    late = {what: by for what, by in overdue.items() if by >= OVERDUE}
    if not late:
        return ok("housekeeping", "mailboxes expire, held mail is judged and old keys are forgotten in time")
    told = ", ".join(f"{what} by {_told(by)}" for what, by in sorted(late.items()))
    return warning("housekeeping", f"late: {told}", 'See that a worker lives, and look for "work failed" in its log.')


async def redis_memory(settings: Settings) -> Sequence[Finding]:
    """How Redis is; whether it is there is a finding of its own."""
    if not settings.redis_url:
        return []
    with contextlib.suppress(*nudges.AWAY, ConfigurationError):
        client = nudges.redis_from_url(settings.redis_url, tls_verify=settings.redis_tls_verify, answer_seconds=3.0)
        try:
            info = await _info(client)
            return [memory(info), answering(min([await _ping(client) for _ in range(PINGS)]))]
        finally:
            await client.aclose()
    return []


async def _ping(client: redis.asyncio.Redis) -> float:
    began = time.monotonic()
    await client.ping()
    return time.monotonic() - began


async def _info(client: redis.asyncio.Redis) -> Mapping[str, Any]:
    found: Mapping[str, Any] = await client.info("memory")
    return found


def memory(info: Mapping[str, Any]) -> Finding:
    """`info`: INFO memory."""
    name, limit, used = "redis.memory", int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if limit and used > FULL * limit and policy == "noeviction":
        said = f"{used / limit:.0%} of its memory is used, and then it takes nothing more ({policy})"
        return warning(name, said, "Give it more memory, or look what else is kept there: nudges take a few kilobytes.")
    if limit and policy.startswith("allkeys"):
        said = f"maxmemory-policy is {policy}: under pressure it forgets nudges, and news take up to a second"
        return warning(name, said, "Set maxmemory-policy to noeviction, or give Postroom a Redis of its own.")
    return ok(name, f"{used / 2**20:.0f} MiB used, {policy}")


def answering(latency: float) -> Finding:
    name = "redis.latency"
    if latency > SLOW:
        said = f"it takes {latency * 1000:.0f} ms to answer: listeners hear so much later"
        return warning(name, said, "Put Redis near the processes, or find what keeps it busy (SLOWLOG GET).")
    return ok(name, f"answers in {latency * 1000:.1f} ms")


# One mail through our own port


async def loop(database: db.Database, settings: Settings) -> Sequence[Finding]:
    """A mailbox, a mail to it by SMTP, its event in the log; both are deleted again."""
    name = "inbound.loop"
    port = next((one for one in listening.ports(settings) if one.name == "smtp"), None)
    if port is None or settings.trusted_proxies:
        why = "SMTP_PORT is not set" if port is None else "connections must begin with a PROXY header"
        return [warning(name, f"not tried: {why}", "Try it with a mail from outside.")]
    account_id = await _account(database)
    box = uuid7()
    address = f"doctor-{box}@{settings.first_domain}"
    try:
        cursor = await _mailbox(database, account_id, box, address)
        began = time.monotonic()
        reply = await _send(port, address, str(settings.hostname))
        taken = time.monotonic() - began
        if not await _arrives(database, account_id, box, cursor):
            said = f"the mail was taken ({reply}), but its event did not come within {LOOP_SECONDS:g} s"
            return [problem(name, said, "Does `serve` store into the database of this DATABASE_URL?")]
        seconds = time.monotonic() - began
        said = (
            f"a mail to {address} was taken in {taken * 1000:.0f} ms and told {seconds * 1000:.0f} ms after it was sent"
        )
        return [ok(name, said)]
    except (aiosmtplib.SMTPException, OSError) as error:
        said = f"{port.place} did not take a mail: {str(error) or type(error).__name__}"
        return [problem(name, said, "See `listener.smtp`, and the log of `postroom serve` for the reason of a 4xx.")]
    finally:
        await _remove(database, account_id, box)


async def _account(database: db.Database) -> UUID:
    async with database.transaction() as connection:
        return await accounts.by_name(connection, "postroom doctor") or await accounts.create(
            connection, "postroom doctor"
        )


async def _mailbox(database: db.Database, account_id: UUID, box: UUID, address: str) -> int:
    async with database.transaction() as connection:
        await mailboxes.create(
            connection, account_id, id=box, address=address, ttl_seconds=600, metadata={}, token_hash=None
        )
        created = mailboxes.created(box, address, None)
        return await events.append(connection, account_id, [created])


async def _send(port: listening.Port, address: str, hostname: str) -> str:
    async with aiosmtplib.SMTP(
        hostname=port.host, port=port.number, timeout=listening.SECONDS, start_tls=False, local_hostname="localhost"
    ) as client:
        text = f"From: doctor@{hostname}\r\nTo: {address}\r\nSubject: Is it well?\r\n\r\nThe doctor asks.\r\n"
        _, reply = await client.sendmail(f"doctor@{hostname}", [address], text.encode())
    return reply


async def _arrives(database: db.Database, account_id: UUID, box: UUID, cursor: int) -> bool:
    until = time.monotonic() + LOOP_SECONDS
    while time.monotonic() < until:
        async with database.connection() as connection:
            told = await events.after(connection, account_id, cursor, 100)
        if any(event.type == "message.received" and event.mailbox_id == box for event in told):
            return True
        await asyncio.sleep(0.02)
    return False


async def _remove(database: db.Database, account_id: UUID, box: UUID) -> None:
    with contextlib.suppress(Unavailable):
        async with database.transaction() as connection:
            await mailboxes.delete(connection, account_id, box)


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.0f} MiB"


def _told(time: timedelta) -> str:
    minutes = int(time.total_seconds() // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"
