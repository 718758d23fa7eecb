"""How many objects of a kind an account may have: keys, domains, webhooks, templates, suppressions.

Counted in the database, no further than to the limit. Where there is plenty of room the count is believed for a while,
so that a long list is not counted for each of its lines; where it costs, for a second at the least, or who is over the
limit could have a million rows counted by each request. What is made meanwhile, or elsewhere, may pass the limit.
"""

from __future__ import annotations

import time
from typing import Final
from uuid import UUID

from gateway import errors
from gateway.settings import Settings
from gateway.storage import db, quotas

PLENTY: Final = 100  # objects; with less room than that each is counted
CHEAP: Final = 10_000  # objects, of which counting costs nothing to speak of
BELIEVED_SECONDS: Final = 10.0
NEAR_SECONDS: Final = 1.0  # the same with less room than plenty, of more than CHEAP
MAX_REMEMBERED: Final = 10_000  # accounts

# Kind: what it is called, and what to do about too many.
_WORDS: Final[dict[quotas.Kind, tuple[str, str]]] = {
    "api_keys": ("API keys in use", "revoke some"),
    "domains": ("domains", "delete some"),
    "webhooks": ("webhooks", "delete some"),
    "templates": ("templates", "delete some"),
    "suppressions": ("suppressions", "delete some, or let them expire"),
}


class Room:
    """What accounts may still make of one kind."""

    def __init__(self, kind: quotas.Kind, settings: Settings) -> None:
        self._kind = kind
        self._most: int = getattr(settings, f"max_{kind}")
        self._counted: dict[
            UUID, tuple[float, int, int]
        ] = {}  # when that was; room that there was, and that is left of it

    async def take(self, connection: db.Connection, account_id: UUID, count: int = 1) -> None:
        """So many more. Raises QuotaExceeded, which says of what, and what to do."""
        if not self._most:
            return
        at, found, left = self._counted.get(account_id, (float("-inf"), 0, 0))
        since = time.monotonic() - at
        if since >= BELIEVED_SECONDS or (left < PLENTY and (self._most <= CHEAP or since >= NEAR_SECONDS)):
            found = left = self._most - await quotas.objects(connection, self._kind, account_id, self._most)
            at = time.monotonic()
        if len(self._counted) >= MAX_REMEMBERED:
            self._counted.clear()
        self._counted[account_id] = (at, found, left - count)
        if found <= 0:
            what, advice = _WORDS[self._kind]
            raise errors.QuotaExceeded(
                f"The account has {self._most} {what} and may have no more (MAX_{self._kind.upper()}): {advice}.",
                retry_after=60,
            )
