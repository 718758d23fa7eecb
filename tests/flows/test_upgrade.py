"""A new release takes the place of the one before, under load; and a backup takes the place of the database."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx2
import pytest
from uuid_utils.compat import uuid7

from gateway import embedded
from gateway.storage import migrate
from tests import databases, house, releases, sending
from tests.flows import letters
from tests.outbound import sink

pytestmark = pytest.mark.anyio

TABLES = ("accounts", "api_keys", "mailboxes", "messages", "emails", "deliveries", "webhooks", "events", "event_heads")


@contextlib.asynccontextmanager
async def empty(postgres_dsn: str) -> AsyncIterator[str]:
    """The DSN of a database with nothing in it, gone afterwards."""
    server, name = await asyncpg.connect(postgres_dsn), f"upgrade_{uuid7().hex}"
    await server.execute(f"create database {name}")
    try:
        yield databases.named(postgres_dsn, name)
    finally:
        await server.execute(f"drop database {name} with (force)")
        await server.close()


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """The code of the release before."""
    tree = releases.previous(tmp_path / "before")
    if tree is None:
        pytest.skip("no history here to take the release before from: a clone has it, a source archive has not")
    return tree


def migrated(tree: Path, dsn: str) -> None:
    """Its database."""
    command = [sys.executable, "-P", "-m", "gateway.cli", "migrate"]
    environment = house.environment(dsn, "") | {"PYTHONPATH": str(tree)}
    subprocess.run(command, env=environment, check=True, capture_output=True)


@dataclass(kw_only=True)
class Load:
    """Mail in and mail out, without a pause, and what was confirmed of it."""

    home: house.House
    client: httpx2.AsyncClient
    address: str
    mails: set[str] = field(default_factory=set)  # subjects that heard 250
    emails: dict[str, str] = field(default_factory=dict)  # Idempotency-Key and subject → the id of the 202
    refused: list[str] = field(default_factory=list)  # whatever else was heard
    over: bool = False  # begin nothing more; aiosmtplib may swallow a task's cancellation

    async def give(self) -> None:
        while not self.over:
            subject = uuid4().hex
            heard = await letters.sent(self.home, letters.letter(subject), self.address)
            if heard == "250":
                self.mails.add(subject)
            else:
                self.refused.append(heard)

    async def post(self) -> None:
        while not self.over:
            key = uuid4().hex
            while key not in self.emails and not self.over:
                await self._ask(key)

    async def _ask(self, key: str) -> None:
        with contextlib.suppress(httpx2.TransportError):
            answer = await self.client.post(
                "/emails", json=sending.letter(subject=key), headers={"Idempotency-Key": key}
            )
            if answer.status_code == 202:
                self.emails[key] = answer.json()["id"]
            else:
                self.refused.append(f"{answer.status_code} {answer.text}")

    async def goes_on(self, relay: sink.Sink, count: int = 5) -> None:
        """Until so many more of each were confirmed, and have left."""
        mails, emails, left = len(self.mails) + count, len(self.emails) + count, relay.count + count
        await _true(lambda: len(self.mails) >= mails and len(self.emails) >= emails)
        async with asyncio.timeout(60):
            await relay.until(lambda: relay.count >= left)


async def _true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - two counts of four tasks, which have other things to do
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def _under(load: Load) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(work()) for work in (load.give, load.give, load.post, load.post)]
    try:
        yield
    finally:
        load.over = True
        await asyncio.gather(*tasks)


async def _migrate_beside_a_report(dsn: str, load: Load, relay: sink.Sink) -> None:
    """A transaction that has read every table lasts until mail has gone on beside the migration that waits for it."""
    report = await asyncpg.connect(dsn)
    try:
        reading = report.transaction()
        await reading.start()
        for table in TABLES:
            await report.execute(f"select 1 from {table} limit 1")  # noqa: S608 - the test's own words
        migrating = asyncio.create_task(migrate.run(dsn))
        await load.goes_on(relay)
        await reading.rollback()
        await migrating
    finally:
        await report.close()


async def test_a_release_takes_the_place_of_the_one_before_while_mail_flows(
    postgres_dsn: str, redis_url: str, before: Path
) -> None:
    """Nothing confirmed is lost, nothing is sent twice, and nobody hears of it but by 421 and connections that end.

    The processes of the release before go on over today's schema. With a column of deliveries dropped by a migration,
    no e-mail was confirmed any more."""
    async with empty(postgres_dsn) as dsn, sink.Sink(keep=False) as relay:
        migrated(before, dsn)
        async with house.standing(
            dsn, redis_url, programs=(), settings={"OUTBOUND": relay.url("tls=none"), "DRAIN_SECONDS": "30"}
        ) as home:
            home.start("serve", before)
            home.start("worker", before)
            await home.ready()
            async with home.client((await home.tenant()).key) as client:
                made = await letters.mailbox(client)
                load = Load(home=home, client=client, address=made["address"])
                async with _under(load):
                    await load.goes_on(relay)
                    await _migrate_beside_a_report(dsn, load, relay)
                    await load.goes_on(relay)
                    home.start("serve-2")
                    home.start("worker-2")
                    await load.goes_on(relay)
                    ends = [asyncio.to_thread(home.stop, name) for name in ("serve", "worker")]
                    assert await asyncio.gather(*ends) == [0, 0]
                    await load.goes_on(relay)
                await _check(load, client, made["id"], relay)


async def _check(load: Load, client: httpx2.AsyncClient, mailbox_id: str, relay: sink.Sink) -> None:
    assert [heard for heard in load.refused if not heard.startswith(("421", "gone"))] == []
    stored = [one["subject"] for one in await letters.every(client, f"/mailboxes/{mailbox_id}/messages")]
    assert load.mails <= set(stored)
    assert len(stored) == len(set(stored))
    for email_id in load.emails.values():
        await sending.resting(client, email_id)
    shown = {one["id"]: one for one in await letters.every(client, "/emails")}
    assert set(load.emails.values()) <= shown.keys()
    assert len(shown) == len({one["subject"] for one in shown.values()})
    assert {one["status"] for one in shown.values()} == {"sent"}
    twice = {name for (name, _), count in relay.taken.items() if count > 1}
    of_twice = [one["id"] for one in shown.values() if one["message_id"] in twice]
    assert [await letters.listed(client, f"/emails/{email_id}/attempts") for email_id in of_twice] == []
    seqs = [event["seq"] for event in await letters.every_event(client)]
    assert seqs == list(range(1, len(seqs) + 1))


# A backup


def dumped(dsn: str, file: Path) -> None:
    """A backup as docs/operations.md says to make it."""
    command = [str(embedded.postgres_binaries() / "pg_dump"), "--format=custom", f"--file={file}", dsn]
    subprocess.run(command, check=True, capture_output=True)


def restored(dsn: str, file: Path, *options: str) -> str:
    """The backup in an empty database, and what `postroom restored` said."""
    command = [str(embedded.postgres_binaries() / "pg_restore"), "--no-owner", f"--dbname={dsn}", str(file)]
    subprocess.run(command, check=True, capture_output=True)
    command = [sys.executable, "-m", "gateway.cli", "restored", *options]
    done = subprocess.run(command, env=house.environment(dsn, ""), check=True, capture_output=True, text=True)
    return done.stdout


async def _head(client: httpx2.AsyncClient) -> str:
    cursor: str = (await client.get("/events", params={"limit": "200"})).json()["next_cursor"]
    return cursor


async def test_after_a_restore_no_reader_of_the_log_misses_anything(
    dsn: str, postgres_dsn: str, redis_url: str, tmp_path: Path
) -> None:
    """Cursors from before the backup are as good as ever; one from after it is behind everything that comes now, and
    the first that its reader hears is that the log was restored. Mail that may have been sent since is held where its
    sender asked for that. With GAP = 0 the reader that was ahead never heard of the mail that came."""
    backup = tmp_path / "backup"
    async with house.standing(dsn, redis_url, programs=("serve",)) as home:
        tenant = await home.tenant()
        async with home.client(tenant.key) as client:
            made = await letters.mailbox(client, ttl_seconds=None)
            await letters.hand_in(home, letters.letter("kept"), made["address"])
            held = await sending.send(client, on_unknown="hold")
            tried = await sending.send(client, on_unknown="retry")
            later = await sending.send(client, on_unknown="hold", scheduled_at="in 1 hour")
            known = await _head(client)
            dumped(dsn, backup)
            for number in range(3):
                await letters.hand_in(home, letters.letter(f"lost {number}"), made["address"])
            ahead = await _head(client)
    async with empty(postgres_dsn) as anew:
        assert "1 logs go on, 1 recipients held, 1 will be tried" in restored(anew, backup)
        async with house.standing(anew, redis_url, programs=("serve",)) as home, home.client(tenant.key) as client:
            await letters.hand_in(home, letters.letter("new"), made["address"])
            for cursor in (made["cursor"], known, ahead):
                told = (await client.get("/events", params={"after": cursor, "limit": "200"})).json()["data"]
                await _assert_told(told, int(cursor), int(known))
            kept = await letters.listed(client, f"/mailboxes/{made['id']}/messages", order="asc")
            raw = (await client.get(f"/messages/{kept[0]['id']}/raw")).content
            statuses = [(await sending.read(client, one))["status"] for one in (held, tried, later)]
    assert [one["subject"] for one in kept] == ["kept", "new"]
    assert raw.endswith(letters.letter("kept"))
    assert statuses == ["unknown", "queued", "scheduled"]


async def _assert_told(told: list[dict[str, Any]], cursor: int, ended: int) -> None:
    """Everything behind the cursor that the backup knew, then that it was one, then what came since."""
    old = [event["seq"] for event in told if event["seq"] <= ended]
    assert old == list(range(cursor + 1, ended + 1))
    new = told[len(old) :]
    assert [event["type"] for event in new] == ["log.restored", "email.unknown", "message.received"]
    assert new[0]["data"] == {"ended": ended, "held": 1}
    assert [event["seq"] for event in new] == list(range(new[0]["seq"], new[0]["seq"] + 3))
