"""A database that an older version has filled, brought to today and read by today's code."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from gateway.mail import query
from gateway.storage import (
    accounts,
    db,
    emails,
    housekeeping,
    judgements,
    listing,
    mailboxes,
    messages,
    migrate,
    quotas,
    search,
    webhooks,
)
from tests import databases
from tests.storage import rows

pytestmark = pytest.mark.anyio

RAW: Final = b"From: ann@x.example\r\nSubject: Old mail\r\n\r\nYour code is 482913.\r\n"
ACCOUNT, BOX, OVER, ONE, TWO, SENT, WAITING = (uuid7() for _ in range(7))
# Written out, for it is what the first version wrote, not what today's code would.
FILLED: Final = (
    ("insert into accounts (id, name) values ($1, 'old')", ACCOUNT),
    ("insert into event_heads (account_id, last_seq) values ($1, 4)", ACCOUNT),
    (
        """insert into mailboxes (account_id, id, address, expires_at, created_at) values
        ($1, $2, 'box@postroom.test', null, now()),
        ($1, $3, 'over@postroom.test', now() - interval '1 minute', now())""",
        ACCOUNT,
        BOX,
        OVER,
    ),
    (
        """insert into addresses (address, account_id, mailbox_id) values
        ('box@postroom.test', $1, $2), ('over@postroom.test', $1, $3)""",
        ACCOUNT,
        BOX,
        OVER,
    ),
    ("insert into contents (account_id, id, raw, size) values ($1, $2, $3, $4)", ACCOUNT, ONE, RAW, len(RAW)),
    (
        """insert into messages (account_id, id, mailbox_id, content_id, seq, received_at, size, mail_from, envelope,
          from_name, from_address, recipients, subject, snippet, codes, links, attachment_count, message_id, thread_id,
          tag, parse, warnings)
        select $1, u.id, u.mailbox_id, $2, u.seq, now(), $3, 'ann@x.example',
          '{"rcpt_to":["box@postroom.test"],"helo":"x","remote_ip":"192.0.2.1","tls":false}', null, 'ann@x.example',
          '[]', 'Old mail', 'Your code is 482913.',
          '[{"value":"482913","confidence":0.9,"source":"text","context":"x"}]', '[]',
          0, null, u.id, null, 'ok', '[]'
        from unnest($4::uuid[], $5::uuid[], $6::bigint[]) as u (id, mailbox_id, seq)""",
        ACCOUNT,
        ONE,
        len(RAW),
        [ONE, TWO],
        [BOX, OVER],
        [3, 4],
    ),
    (
        """insert into events (account_id, seq, id, type, mailbox_id, message_id, data, created_at)
        select $1, u.seq, gen_random_uuid(), u.type, u.mailbox_id, u.message_id, '{"subject":"Old mail"}', now()
        from unnest($2::bigint[], $3::text[], $4::uuid[], $5::uuid[]) as u (seq, type, mailbox_id, message_id)""",
        ACCOUNT,
        [1, 2, 3, 4],
        ["mailbox.created", "mailbox.created", "message.received", "message.received"],
        [BOX, OVER, BOX, OVER],
        [None, None, ONE, TWO],
    ),
    ("insert into contents (account_id, id, raw, size) values ($1, $2, $3, $4)", ACCOUNT, SENT, RAW, len(RAW)),
    (
        """insert into emails (account_id, id, from_address, mail_from, recipients, subject, message_id, size, source,
          created_at) values ($1, $2, 'a@x.example', 'a@x.example', '{"to":[],"cc":[],"bcc":[],"reply_to":[]}', 'Old',
          'old@x.example', 10, 'api', now() - interval '5 hours')""",
        ACCOUNT,
        SENT,
    ),
    (
        """insert into deliveries (account_id, id, email_id, kind, address, domain, status, attempts, due_at,
          created_at, updated_at)
        values ($1, $2, $4, 'to', 'b@y.example', 'y.example', 'deferred', 3, now() - interval '1 minute', now(), now()),
          ($1, $3, $4, 'to', 'c@y.example', 'y.example', 'sent', 1, null, now(), now())""",
        ACCOUNT,
        WAITING,
        uuid7(),
        SENT,
    ),
)


async def first_version(dsn: str) -> None:
    """The database as the first migration alone makes it, with mail in it."""
    connection = await asyncpg.connect(dsn)
    try:
        file = migrate._migration_files()[0]
        async with connection.transaction():
            for statement in migrate.statements(file.read_text("utf-8")):
                await connection.execute(statement)
            await connection.execute("insert into schema_migrations (name) values ('0001_initial')")
            for query_, *values in FILLED:
                await connection.execute(query_, *values)
    finally:
        await connection.close()


@pytest.mark.parametrize("kind", [emails.Email, emails.Delivery, messages.Message, webhooks.Webhook, webhooks.Delivery])
def test_a_column_that_a_later_version_added_is_left_out(kind: Any) -> None:
    """Of what is read by `select *`: else this version's reads fail while a later one's processes take their place."""
    row = {one.name: [] for one in dataclasses.fields(kind)} | {"account_id": ACCOUNT, "of_a_later_version": True}
    assert dataclasses.fields(kind.from_row(row)) == dataclasses.fields(kind)


@pytest.fixture
async def old(postgres_dsn: str) -> AsyncIterator[db.Database]:
    """Such a database, migrated and opened."""
    server, name = await asyncpg.connect(postgres_dsn), f"old_{uuid7().hex}"
    dsn = databases.named(postgres_dsn, name)
    await server.execute(f"create database {name}")
    try:
        await first_version(dsn)
        assert (await migrate.state(dsn)).missing == tuple(migrate.names()[1:])
        assert await migrate.run(dsn) == migrate.names()[1:]
        assert (await migrate.state(dsn)).missing == ()
        async with databases.opened(dsn) as database:
            yield database
    finally:
        await server.execute(f"drop database if exists {name} with (force)")
        await server.close()


async def usage(database: db.Database, account_id: UUID) -> int:
    async with database.connection() as connection:
        return (await quotas.usage(connection, account_id)).stored_bytes


async def test_mail_that_an_older_version_stored_is_read_found_judged_and_counted(old: db.Database) -> None:
    async with old.transaction() as connection:
        box = await mailboxes.get(connection, ACCOUNT, BOX, retention=60)
        assert box is not None
        assert (box.status, box.sender_policy, box.message_count, box.cursor) == ("active", "accept", 1, 1)
        found = await messages.get(connection, ACCOUNT, ONE)
        assert found is not None
        message, raw = found
        assert (raw, message.subject, message.transcript, message.auth) == (RAW, "Old mail", [], {})
        wanted = query.parse("subject:mail 482913 from:ann@x.example")
        page = await search.page(connection, ACCOUNT, wanted, mailbox_id=None, after=None, limit=5, ascending=True)
        assert [one.id for one in page.messages] == [ONE, TWO]
        assert await search.behind(connection, after_id=UUID(int=0), limit=100) == ([ACCOUNT], None)
        assert await judgements.unjudged(connection, after_id=UUID(int=0), limit=100) == ([ACCOUNT], None)
        assert await accounts.voids(connection)
    assert await usage(old, ACCOUNT) == 2 * len(RAW)


async def test_mail_of_both_versions_is_stored_deleted_and_reclaimed_alike(old: db.Database) -> None:
    """Seen to fail with the line of 0002_receiving that adds up what is stored taken out: usage began at nothing."""
    [new] = await rows.store(old, ACCOUNT, BOX, size=100)
    assert await usage(old, ACCOUNT) == 2 * len(RAW) + 100
    async with old.transaction() as connection:
        assert await messages.delete(connection, ACCOUNT, [ONE]) == 1
    assert await usage(old, ACCOUNT) == len(RAW) + 100
    assert [account_id async for account_id in housekeeping.expire(old)] == [ACCOUNT]
    assert await housekeeping.reclaim(old, retention=0) == 1
    assert await usage(old, ACCOUNT) == 100
    assert await rows.count(old, "select count(*) from contents where id <> $1", SENT) == 1
    log = await rows.log_of(old, ACCOUNT)
    assert [(event.seq, event.type) for event in log[4:]] == [
        (5, "message.received"),
        (6, "message.deleted"),
        (7, "mailbox.expired"),
    ]
    assert log[4].message_id == new
    assert all("Old mail" not in event.data for event in log[2:4])


async def test_who_waited_when_the_version_changed_waits_on_and_is_told_of(old: db.Database) -> None:
    """Seen to fail with the update taken out of 0012_queue: nobody was told of."""
    assert [account_id async for account_id in housekeeping.tell_late(old, 4 * 3600)] == [ACCOUNT]
    [told] = [event for event in await rows.log_of(old, ACCOUNT) if event.type == "email.delayed"]
    assert json.loads(told.data)["recipient"] == "b@y.example"
    async with old.transaction() as connection:
        [claimed] = await emails.claim(connection, ACCOUNT, lease_id=uuid7(), lease_seconds=60, limit=10)
        assert (claimed.id, claimed.raw, claimed.number) == (WAITING, RAW, 4)
        assert claimed.queued_at < datetime.now(UTC) - timedelta(hours=4)
        page = await listing.page(connection, ACCOUNT, listing.Wanted(subject="old"), limit=5, ascending=False)
        assert [email.id for email in page.emails] == [SENT]
