"""Leases whose claim was never answered are remembered for as long as they may stand, and no longer."""

from __future__ import annotations

import contextlib
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from gateway.errors import Unavailable
from gateway.storage import db, leases

pytestmark = pytest.mark.anyio

SECONDS = 20.0


async def test_a_claim_that_was_never_answered_is_remembered_until_its_lease_is_over(database: db.Database) -> None:
    """Seen to fail with nothing forgotten: a thousand were remembered, and each was let go of."""
    now = 0.0
    told: list[UUID] = []

    async def let_go(_: db.Connection, __: UUID, lease_id: UUID) -> None:
        told.append(lease_id)

    unheard = leases.Unheard(database, let_go, seconds=SECONDS, clock=lambda: now)

    def claim_in_vain() -> UUID:
        with contextlib.suppress(Unavailable), unheard.claiming(uuid7()) as lease_id:
            raise Unavailable
        return lease_id

    claimed = []
    for second in range(1000):
        now = float(second)
        claimed.append(claim_in_vain())
    standing = int(SECONDS + db.COMMAND_SECONDS)
    assert len(unheard) == standing
    await unheard.let_go()
    assert told == claimed[-standing:]
    assert len(unheard) == 0
    with unheard.claiming(uuid7()):
        pass
    assert len(unheard) == 0
