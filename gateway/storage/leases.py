"""Leases that a claim may have taken: its answer was lost, so nobody holds what it leased, if it leased anything."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from uuid import UUID

from uuid_utils.compat import uuid7

from gateway.errors import Unavailable
from gateway.storage import db


class Unheard:
    """Those of one process, while they may stand."""

    def __init__(
        self,
        database: db.Database,
        let_go: Callable[[db.Connection, UUID, UUID], Awaitable[object]],
        *,
        seconds: float,  # for which a lease stands
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`let_go(connection, account_id, lease_id)`: what is under the lease is due at once."""
        self._database = database
        self._let_go = let_go
        self._seconds = seconds + db.COMMAND_SECONDS  # a claim may have been carried out as late as that
        self._clock = clock
        self._leases: dict[UUID, tuple[UUID, float]] = {}  # the account of each, and until when; the eldest first

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._leases)

    @contextlib.contextmanager
    def claiming(self, account_id: UUID) -> Iterator[UUID]:
        """A new lease's id, for a claim; remembered where the claim is Unavailable."""
        lease_id = uuid7()
        try:
            yield lease_id
        except Unavailable:
            self._forget_those_over()
            self._leases[lease_id] = account_id, self._clock() + self._seconds
            raise

    async def let_go(self) -> None:
        """What they may hold need not wait until they run out."""
        self._forget_those_over()
        for lease_id, (account_id, _) in list(self._leases.items()):
            async with self._database.connection() as connection:
                await self._let_go(connection, account_id, lease_id)
            self._leases.pop(lease_id, None)

    def _forget_those_over(self) -> None:
        """While the database is away each claim adds one, and nobody can be let go."""
        now = self._clock()
        while self._leases:
            eldest = next(iter(self._leases))
            if self._leases[eldest][1] > now:
                return
            del self._leases[eldest]
