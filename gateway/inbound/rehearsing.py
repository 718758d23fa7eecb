"""Failing on purpose: a mailbox's script of refusals, hang-ups and delays, one step for each delivery, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gateway.inbound.placing import may_lead
from gateway.inbound.protocol import HungUp
from gateway.inbound.territory import Ground
from gateway.storage import db, mailboxes, rehearsals


class Rehearsals:
    """The scripts of all mailboxes, for a desk where they are allowed."""

    def __init__(self, database: db.Database) -> None:
        self._database = database

    async def due(self, addresses: Sequence[tuple[str, Ground | None]], stage: str) -> str | None:
        """The refusal that a script wants now from any of these addresses (canonical, each with its domain's ground);
        None = go on. Whoever has the domain no more has no say.

        Sleeps where it wants a delay; raises HungUp where it wants the line to break. Raises Unavailable."""
        for route in await self._routes(addresses):
            step = await self._take(route, stage)
            if step == "drop":
                raise HungUp
            if step and step.startswith("tarpit:"):
                await asyncio.sleep(float(step.removeprefix("tarpit:")))
            elif step:
                return step
        return None

    async def _routes(self, addresses: Sequence[tuple[str, Ground | None]]) -> list[mailboxes.Route]:
        async with self._database.connection() as connection:
            found = await mailboxes.routes(connection, [address for address, _ in addresses])
        led = [(found[address], ground) for address, ground in addresses if address in found]
        return list(dict.fromkeys(route for route, ground in led if may_lead(ground, route)))

    async def _take(self, route: mailboxes.Route, stage: str) -> str | None:
        async with self._database.transaction() as connection:
            return await rehearsals.take(connection, route.account_id, route.mailbox_id, stage)
