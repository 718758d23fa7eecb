"""What a path names: a mailbox by its id or its address. What the caller does not reach is not found."""

from __future__ import annotations

from uuid import UUID

from gateway import errors
from gateway.lifecycle import Gateway
from gateway.mail import address
from gateway.models import Caller
from gateway.storage import mailboxes
from gateway.web import reading


class Paths:
    """Looks up what stands in a path."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def mailbox_id(self, caller: Caller, text: str) -> UUID:
        """The mailbox's id; whether it still is must be looked at by whoever uses it. Raises NotFound."""
        mailbox_id = await self._named(caller.account_id, text)
        if mailbox_id is None or (caller.mailbox_id is not None and mailbox_id != caller.mailbox_id):
            raise errors.NotFound
        return mailbox_id

    async def mailbox(self, caller: Caller, text: str) -> mailboxes.Mailbox:
        """The mailbox, active or expired. Raises NotFound."""
        mailbox_id = await self.mailbox_id(caller, text)
        retention = self._gateway.settings.retention_seconds
        async with self._gateway.database.connection() as connection:
            box = await mailboxes.get(connection, caller.account_id, mailbox_id, retention=retention)
        if box is None:
            raise errors.NotFound
        return box

    async def _named(self, account_id: UUID, text: str) -> UUID | None:
        if "@" not in text:
            return reading.path_id(text)
        try:
            canonical = address.parse(text).canonical
        except address.InvalidAddress:
            return None
        async with self._gateway.database.connection() as connection:
            return await mailboxes.id_of(connection, account_id, canonical)
