"""Leases that a claim may have taken: its answer was lost, so nobody holds what it leased, if it leased anything."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from uuid import UUID

from uuid_utils.compat import uuid7

from gateway.errors import Unavailable
from gateway.storage import db


class Unheard:
    """Those of one process."""

    def __init__(self, database: db.Database, let_go: Callable[[db.Connection, UUID, UUID], Awaitable[object]]) -> None:
        """`let_go(connection, account_id, lease_id)`: what is under the lease is due at once."""
        self._database = database
        self._let_go = let_go
        self._leases: dict[UUID, UUID] = {}  # the account of each

    @contextlib.contextmanager
    def claiming(self, account_id: UUID) -> Iterator[UUID]:
        """A new lease's id, for a claim; remembered where the claim is Unavailable."""
        lease_id = uuid7()
        try:
            yield lease_id
        except Unavailable:
            self._leases[lease_id] = account_id
            raise

    async def let_go(self) -> None:
        """What they may hold need not wait until they run out."""
        for lease_id, account_id in list(self._leases.items()):
            async with self._database.connection() as connection:
                await self._let_go(connection, account_id, lease_id)
            del self._leases[lease_id]
