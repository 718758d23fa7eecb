"""What the tests of storage put into a database, and how they wait for what it does."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from gateway.storage import accounts, callbacks, db, emails, events, mailboxes, messages


async def account(database: db.Database, name: str = "another") -> UUID:
    async with database.transaction() as connection:
        return await accounts.create(connection, name)


async def mailbox(
    database: db.Database,
    account_id: UUID,
    *,
    address: str | None = None,
    ttl: float | None = 3600,
    token: bytes | None = None,
) -> UUID:
    """A mailbox and its event, as the API makes them; its id."""
    id, address = uuid7(), address or f"{uuid7()}@postroom.test"
    async with database.transaction() as connection:
        box = await mailboxes.create(
            connection,
            account_id,
            id=id,
            address=address,
            ttl_seconds=ttl,
            metadata={},
            token_hash=hashlib.sha256(token).digest() if token else None,
        )
        await events.append(connection, account_id, [mailboxes.created(id, address, box.expires_at)])
    return id


async def delete(database: db.Database, account_id: UUID, mailbox_id: UUID) -> bool:
    async with database.transaction() as connection:
        return await mailboxes.delete(connection, account_id, mailbox_id)


def message(mailbox_id: UUID, content_id: UUID, **fields: Any) -> messages.NewMessage:
    id = uuid7()
    usual: dict[str, Any] = {
        "id": id,
        "event_id": uuid7(),
        "mailbox_id": mailbox_id,
        "content_id": content_id,
        "size": 4,
        "mail_from": "a@b.example",
        "envelope": '{"rcpt_to":[]}',
        "from_name": None,
        "from_address": "a@b.example",
        "recipients": "[]",
        "subject": "Hello",
        "snippet": "",
        "codes": "[]",
        "links": "[]",
        "attachment_count": 0,
        "message_id": None,
        "thread_id": id,
        "tag": None,
        "parse": "ok",
        "warnings": "[]",
        "data": f'"id":"{id}","subject":"Hello"}}',
    }
    return messages.NewMessage(**usual | fields)


async def store(database: db.Database, account_id: UUID, *mailbox_ids: UUID, **fields: Any) -> list[UUID]:
    """One content, and a message of it in each of these mailboxes as mail brings it; ids of those that were stored."""
    content = messages.Content(id=uuid7(), raw=b"mail", size=4)
    async with database.transaction() as connection:
        live = await mailboxes.live(connection, account_id, mailbox_ids)
        new = [message(id, content.id, **fields) for id in mailbox_ids if id in live]
        if not new:
            return []
        await messages.add_contents(connection, account_id, [content])
        stored = await messages.store(connection, account_id, new)
        await messages.drop_contents(connection, account_id, [content.id])
    return [one.id for one in new if one.id in stored]


async def log_of(database: db.Database, account_id: UUID) -> list[events.Event]:
    async with database.connection() as connection:
        return await events.after(connection, account_id, 0, 10_000)


async def count(database: db.Database, query: str, *values: Any) -> int:
    async with database.connection() as connection:
        found: int = await connection.fetchval(query, *values)
    return found


async def over(database: db.Database, mailbox_id: UUID) -> None:
    """Returns once the database's clock says that the mailbox's time is up."""
    query = "select count(*) from mailboxes where id = $1 and expires_at <= clock_timestamp()"
    while not await count(database, query, mailbox_id):
        pass


async def until_it_waits(database: db.Database, task: asyncio.Task[Any], *, waiting: int = 1) -> None:
    """Returns once so many of this database's transactions wait for a lock, or the task is done without waiting."""
    query = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    while not task.done() and await count(database, query) < waiting:
        pass


@contextlib.asynccontextmanager
async def held(database: db.Database, write: Callable[[db.Connection], Awaitable[Any]]) -> AsyncIterator[None]:
    """Somebody else's transaction that has written, and is committed at the end."""
    written, may_commit = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with database.transaction() as connection:
            await write(connection)
            written.set()
            await may_commit.wait()

    holding = asyncio.create_task(hold())
    await written.wait()
    try:
        yield
    finally:
        may_commit.set()
        await holding


def delivery(status: str = "queued", address: str = "c@d.example") -> emails.NewDelivery:
    return emails.NewDelivery(id=uuid7(), kind="to", address=address, domain=address.partition("@")[2], status=status)


async def email(
    database: db.Database, account_id: UUID, *recipients: emails.NewDelivery, **fields: Any
) -> emails.NewEmail:
    """An e-mail to these recipients (to one where none are given), stored."""
    usual: dict[str, Any] = {
        "id": uuid7(),
        "from_name": None,
        "from_address": "a@b.example",
        "mail_from": "a@b.example",
        "recipients": "{}",
        "subject": "Hello",
        "message_id": f"{uuid7()}@b.example",
        "tags": "[]",
        "metadata": "{}",
        "size": 4,
        "on_unknown": "retry",
        "scheduled_at": None,
        "expires_at": None,
        "source": "api",
        "deliveries": recipients or (delivery(),),
    }
    new = emails.NewEmail(**usual | fields)
    async with database.transaction() as connection:
        await messages.add_contents(connection, account_id, [messages.Content(id=new.id, raw=b"mail", size=4)])
        await emails.add(connection, account_id, [new])
    return new


async def handed_over(database: db.Database, account_id: UUID, email: emails.NewEmail, status: str = "sent") -> None:
    """Each recipient of the e-mail is in this status since somebody took it, and reports about it may come by mail."""
    async with database.transaction() as connection:
        handed = [
            callbacks.Handed(
                provider=callbacks.MAIL,
                provider_id=str(one.id),
                recipient=one.address,
                account_id=account_id,
                delivery_id=one.id,
            )
            for one in email.deliveries
        ]
        await callbacks.note_messages(connection, handed)
        query = "update deliveries set status = $2, attempts = 1 where email_id = $1"
        await connection.execute(query, email.id, status)
