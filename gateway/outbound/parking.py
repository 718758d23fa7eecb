"""Recipients that may not be written to now go back to the queue as they were, and those behind them wait with them.

Who was claimed and held back is given back under its lease. In the same transaction the account's next recipients for
the same destinations are put off, a bounded number of them, so that whoever stands behind a hundred thousand of them is
not reached by claiming them all. Those whom the rules send by other providers go on: their destination is another. A
worker that dies in between leaves leases that run out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from gateway.outbound.providers.contract import Outgoing
from gateway.outbound.shaping import HELD_BACK, HeldBack
from gateway.storage import db, emails
from gateway.storage.committer import Committer

LOOKED_AT: Final = 2000  # recipients in the front of the queue, for each time that some are given back
RENEWED_SECONDS: Final = 20.0  # of a lease of which nobody knows whether it was given back

_Going = tuple[str, tuple[int, ...]]  # the recipient's domain, and the providers by which mail goes there


@dataclass(frozen=True, kw_only=True, slots=True)
class _Untried:
    claimed: emails.Claimed
    held_back: HeldBack


class Parking:
    """Gives recipients back, many in one transaction."""

    def __init__(self, database: db.Database, *, max_age: float, ways: Callable[[Outgoing], tuple[int, ...]]) -> None:
        """`max_age`: seconds after which recipients are given up; nobody is put off beyond. `ways`: which providers
        there are for a message."""
        self._database = database
        self._ways = ways
        self._max_age = max_age
        self._committer: Committer[_Untried, bool] = Committer(self._commit, find=self._find, size=lambda _: 1)

    async def give_back(self, claimed: emails.Claimed, held_back: HeldBack) -> None:
        """Once it is committed. Raises Unavailable."""
        await self._committer.submit(_Untried(claimed=claimed, held_back=held_back))
        HELD_BACK.labels(held_back.reason).inc()

    def seconds_left(self, claimed: emails.Claimed) -> float:
        """Until the recipient is given up; negative = since then."""
        now = self._database.clock.now()
        left = self._max_age - (now - claimed.queued_at).total_seconds()
        return left if claimed.expires_at is None else min(left, (claimed.expires_at - now).total_seconds())

    async def _commit(self, batch: Sequence[_Untried]) -> list[bool]:
        by_account: dict[UUID, list[_Untried]] = defaultdict(list)
        for one in sorted(batch, key=lambda one: one.claimed.id):
            by_account[one.claimed.account_id].append(one)
        async with self._database.transaction() as connection:
            for account_id in sorted(by_account):
                await self._give_back(connection, account_id, by_account[account_id])
                await self._park(connection, account_id, by_account[account_id])
        return [True] * len(batch)

    async def _give_back(self, connection: db.Connection, account_id: UUID, untried: Iterable[_Untried]) -> None:
        alike: dict[_Going, list[_Untried]] = defaultdict(list)
        for one in untried:
            alike[self._going(account_id, one.claimed)].append(one)
        later: list[tuple[emails.Claimed, float]] = []
        for those in alike.values():
            times = those[0].held_back.spread(len(those))
            pairs = zip(those, times, strict=True)
            later += [(one.claimed, _capped(again_in, self.seconds_left(one.claimed))) for one, again_in in pairs]
        await emails.give_back(connection, account_id, later)

    async def _park(self, connection: db.Connection, account_id: UUID, untried: Iterable[_Untried]) -> None:
        held_back = {self._going(account_id, one.claimed): one.held_back for one in untried}
        domains = {domain for domain, _ in held_back}
        found = await emails.first_in_line(connection, account_id, domains, max_age=self._max_age, limit=LOOKED_AT)
        alike: dict[_Going, list[emails.InLine]] = defaultdict(list)
        for one in found:
            going = self._going(account_id, one)
            if going in held_back and one.seconds_left > 0:  # the others are given up when they are claimed
                alike[going].append(one)
        later: list[tuple[UUID, float]] = []
        for going, those in alike.items():
            times = held_back[going].spread(len(those))
            later += [(one.id, _capped(again_in, one.seconds_left)) for one, again_in in zip(those, times, strict=True)]
        if later:
            await emails.park(connection, account_id, later)

    def _going(self, account_id: UUID, one: emails.Claimed | emails.InLine) -> _Going:
        outgoing = Outgoing(
            delivery_id=one.id,
            account_id=account_id,
            mail_from=one.mail_from,
            rcpt_to=one.address,
            raw=b"",
            author=one.author,
            tags=tuple((tag["name"], tag["value"]) for tag in one.tags),
        )
        return one.domain, self._ways(outgoing)

    async def _find(self, untried: _Untried) -> bool | None:
        """Whether it was given back: its lease stands no more."""
        claimed = untried.claimed
        async with self._database.connection() as connection:
            standing = await emails.renew(
                connection, claimed.account_id, claimed.lease_id, [claimed.id], RENEWED_SECONDS
            )
        return None if standing else True


def _capped(again_in: float, seconds_left: float) -> float:
    """Not later than the moment at which the recipient is given up."""
    return min(again_in, seconds_left) if seconds_left > 0 else again_in
