"""One process's house: what it refuses to start with, what it does without, and that it closes behind its last mail."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import structlog.testing
from uuid_utils.compat import uuid7

from gateway import embedded, lifecycle
from gateway.errors import ConfigurationError
from gateway.inbound import protocol, receive
from gateway.notify import live
from gateway.outbound.providers import contract
from gateway.settings import Settings
from gateway.storage import db, events, migrate
from tests import databases, house, line, servers
from tests.storage import rows

pytestmark = pytest.mark.anyio

PATIENCE = 20.0  # seconds until a test gives up on what never comes


def settings(dsn: str, **others: Any) -> Settings:
    usual: dict[str, Any] = {"secret_key": house.SECRET_KEY, "mail_domains": ("postroom.test",), "redis_url": ""}
    return Settings(database_url=dsn, **usual | others)


def mail(*rcpt_to: str) -> protocol.Incoming:
    return protocol.Incoming(
        receipt_id=uuid7(),
        mail_from="a@b.example",
        rcpt_to=rcpt_to,
        helo="peer.example",
        remote_ip="192.0.2.1",
        tls=False,
        smtputf8=False,
        raw=b"Subject: Hello\r\n\r\nHello\r\n",
    )


async def happen(database: db.Database, account_id: UUID) -> None:
    async with database.transaction() as connection:
        await events.append(connection, account_id, [events.NewEvent(type="mailbox.created")])


# A server that could lose mail


@pytest.fixture(scope="module")
def careless() -> Iterator[str]:
    """The DSN of a Postgres that confirms what a power cut would take."""
    with tempfile.TemporaryDirectory(prefix="postroom-careless-", dir=servers.in_memory()) as folder:
        Path(folder).chmod(0o711)
        options = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "16MB"}
        with embedded.Postgres(Path(folder) / "postgres", options=options) as server:
            yield server.dsn


@pytest.mark.xdist_group("a careless Postgres")
async def test_a_server_that_could_lose_confirmed_mail_is_refused(careless: str) -> None:
    """Seen to fail with `durability` answering that nothing is lacking: the gateway started."""
    async with databases.opened(careless) as database, database.connection() as connection:
        assert await db.durability(connection) == ["fsync", "full_page_writes"]
    with pytest.raises(ConfigurationError, match=r"fsync and full_page_writes off.*DATABASE_UNSAFE"):
        async with lifecycle.opened(settings(careless)):
            pass


@pytest.mark.xdist_group("a careless Postgres")
async def test_whoever_says_that_it_does_not_matter_may_use_it(careless: str) -> None:
    await migrate.run(careless)
    gateway = lifecycle.Gateway(settings(careless))
    await gateway.database.open()
    off = [f"Postgres runs with {name} off" for name in ("fsync", "full_page_writes")]
    assert await gateway.problems() == off
    await gateway.database.close()
    async with lifecycle.opened(settings(careless, database_unsafe=True)) as gateway:
        assert await gateway.problems() == []


# What is missing


def test_without_a_secret_key_nothing_starts() -> None:
    with pytest.raises(ConfigurationError, match="SECRET_KEY"):
        lifecycle.Gateway(settings("postgresql://x", secret_key=""))


async def test_with_a_database_url_that_cannot_be_read_nothing_starts() -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL cannot be read"):
        async with lifecycle.opened(settings("postgresql://user@127.0.0.1/db?sslmode=perhaps")):
            pass


async def test_a_database_that_is_away_is_waited_for(dsn: str) -> None:
    async with line.laid(dsn) as wire:
        wire.cut()
        async with lifecycle.opened(settings(wire.dsn)) as gateway:
            assert await gateway.problems() == ["The database cannot be reached; try again."]
            wire.mend()
            assert await gateway.problems() == []


async def test_a_database_that_is_not_migrated_is_told_so(postgres_dsn: str) -> None:
    with structlog.testing.capture_logs() as logs:
        async with lifecycle.opened(settings(postgres_dsn)) as gateway:
            problems = await gateway.problems()
    assert problems == [f"database lacks migration {name}" for name in migrate.names()]
    assert any("run `postroom migrate`" in line["event"] for line in logs)


async def test_without_redis_and_with_one_that_is_away_everything_runs(dsn: str, account_id: UUID) -> None:
    async with lifecycle.opened(settings(dsn)) as gateway:
        assert gateway.redis_state == "off"
    async with lifecycle.opened(settings(dsn, redis_url="redis://127.0.0.1:1")) as gateway:
        assert gateway.redis_state == "away"
        assert (await gateway.reception.deliver(mail("x@postroom.test"))).startswith("250 ")
        gateway.tell([account_id])
        gateway.nudge_deliveries([account_id])


# Telling


async def test_what_one_process_tells_the_others_hear(
    dsn: str, database: db.Database, account_id: UUID, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "POLL_SECONDS", 3600.0)
    shared = settings(dsn, redis_url=redis_url, redis_namespace=f"test-{uuid7().hex}")
    heard: asyncio.Queue[list[UUID]] = asyncio.Queue()
    async with (
        asyncio.timeout(PATIENCE),
        lifecycle.opened(shared) as one,
        lifecycle.opened(shared) as other,
        other.live.subscribe(account_id, events.Filter()) as subscription,
    ):
        other.add_hearer(lambda account_ids: heard.put_nowait(list(account_ids)))
        while other.redis_state != "connected":  # noqa: ASYNC110 - it connects by itself, and says so to nobody
            await asyncio.sleep(0.001)
        await happen(database, account_id)
        one.tell([account_id])
        assert [told.event.seq for told in await subscription.next()] == [1]
        assert await heard.get() == [account_id]


# Mail that stays in the house


async def test_mail_to_an_own_mailbox_arrives_once_however_often_it_is_delivered(
    dsn: str, database: db.Database, account_id: UUID
) -> None:
    await rows.mailbox(database, account_id, address="box@postroom.test")
    outgoing = contract.Outgoing(
        delivery_id=uuid7(),
        account_id=account_id,
        mail_from="",
        rcpt_to="box@postroom.test",
        raw=b"Subject: Hello\r\n\r\nHello\r\n",
    )
    async with lifecycle.opened(settings(dsn)) as gateway:
        answers = [await gateway.deliver_local(outgoing) for _ in range(3)]
    assert answers == [f"250 2.0.0 queued as {outgoing.delivery_id}"] * 3
    assert await rows.count(database, "select count(*) from messages where account_id = $1", account_id) == 1


async def test_mail_for_elsewhere_does_not_come_in_this_way(dsn: str, account_id: UUID) -> None:
    outgoing = contract.Outgoing(
        delivery_id=uuid7(), account_id=account_id, mail_from="", rcpt_to="x@elsewhere.example", raw=b""
    )
    async with lifecycle.opened(settings(dsn)) as gateway:
        assert await gateway.deliver_local(outgoing) == receive.RELAYING_DENIED


# Closing


async def test_closing_waits_for_mail_that_is_being_committed_and_mail_that_waits_behind_it(
    dsn: str, database: db.Database, account_id: UUID
) -> None:
    """Seen to fail with the reception's drain left out of closing: the second mail heard 451."""
    await rows.mailbox(database, account_id, address="box@postroom.test")
    reached, may_go_on = asyncio.Event(), asyncio.Event()
    delivering: list[asyncio.Task[str]] = []

    async def hold() -> line.At:
        reached.set()
        await may_go_on.wait()
        return "pass"

    async def live_and_end(dsn: str) -> None:
        async with lifecycle.opened(settings(dsn)) as gateway:
            delivering.append(asyncio.create_task(gateway.reception.deliver(mail("box@postroom.test"))))
            await reached.wait()
            delivering.append(asyncio.create_task(gateway.reception.deliver(mail("box@postroom.test"))))
            await asyncio.sleep(0)

    async with asyncio.timeout(PATIENCE), line.laid(dsn) as wire:
        wire.at_commit = hold
        ending = asyncio.create_task(live_and_end(wire.dsn))
        await reached.wait()
        await asyncio.wait({ending}, timeout=0.05)  # it has all the time to end too early
        assert not ending.done()
        may_go_on.set()
        await ending
        assert [(await task)[:4] for task in delivering] == ["250 ", "250 "]
    assert await rows.count(database, "select count(*) from messages where account_id = $1", account_id) == 2
