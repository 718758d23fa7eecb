"""Workers that do nothing but tell webhooks, several of them in one process, over one database."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from gateway import settings, tokens
from gateway.notify.dispatch import Dispatcher
from gateway.notify.webhooks import Poster
from gateway.storage import db, events, webhooks
from tests import house
from workers.drains import Drains

LOOK_SECONDS = 0.02


class Teller:
    """One worker: a dispatcher, its drains, and a look now and then."""

    def __init__(self, database: db.Database, wanted: settings.Settings) -> None:
        poster = Poster(allow_private=True, timeout_seconds=wanted.webhook_timeout_seconds)
        keyring = tokens.Keyring(house.SECRET_KEY.encode())
        self.dispatcher = Dispatcher(
            database, wanted, keyring, poster, told=lambda account_ids: None, again=self._again
        )
        self.drains = Drains(self.dispatcher.drain, name="tell")
        self._looking = asyncio.create_task(self._look())

    def _again(self, account_id: UUID) -> None:
        self.drains.poke(account_id)

    async def _look(self) -> None:
        while True:
            for account_id in await self.dispatcher.look():
                self.drains.poke(account_id)
            await asyncio.sleep(LOOK_SECONDS)

    async def close(self) -> None:
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)
        await self.drains.close(5)
        await self.dispatcher.close(5)


@contextlib.asynccontextmanager
async def telling(database: db.Database, *, workers: int = 2, **wanted: Any) -> AsyncIterator[Sequence[Teller]]:
    """So many of them at work, under these settings."""
    tellers = [Teller(database, settings.load(**wanted)) for _ in range(workers)]
    try:
        yield tellers
    finally:
        await asyncio.gather(*(teller.close() for teller in tellers))


async def hook(
    database: db.Database, account_id: UUID, url: str, *, types: Sequence[str] = ("*",), **more: Any
) -> UUID:
    """A webhook as the API makes it; its id."""
    id = uuid7()
    values: dict[str, Any] = {"mailbox_id": None, **more}
    async with database.transaction() as connection:
        await webhooks.create(connection, account_id, id=id, url=url, types=types, **values)
    return id


async def happen(database: db.Database, account_id: UUID, mailbox_ids: Sequence[UUID | None]) -> list[UUID]:
    """An event of each mailbox, in this order, one after the other in the log; their ids."""
    new = [events.NewEvent(type="message.updated", mailbox_id=mailbox_id) for mailbox_id in mailbox_ids]
    async with database.transaction() as connection:
        await events.append(connection, account_id, new)
    return [event.id for event in new]


async def ended(database: db.Database) -> None:
    """Until nobody waits to be told. No event tells of that, so it is looked at again and again."""
    async with asyncio.timeout(150):
        while True:
            async with database.connection() as connection:
                row = await connection.fetchrow("select 1 from webhook_deliveries where status = 'pending' limit 1")
            if row is None:
                return
            await asyncio.sleep(LOOK_SECONDS)
