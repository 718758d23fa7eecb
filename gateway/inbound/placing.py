"""Where each copy of a message goes: into the mailbox its recipients lead to, into a catch-all, or into the void."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

from gateway.errors import AddressTaken, Unavailable
from gateway.inbound.protocol import Incoming
from gateway.inbound.reading import Reading, copy_for
from gateway.inbound.territory import Ground, Territory
from gateway.inbound.void import Void
from gateway.mail import address
from gateway.settings import Settings
from gateway.storage import accounts, db, events, mailboxes, messages, quotas

UNBOUNDED: Final = 1 << 31
Routes = dict[str, mailboxes.Route]  # by address


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipient:
    """Somebody that a message is for."""

    given: str  # as it stood in RCPT TO
    address: str  # canonical, without the tag: what mailboxes are found by
    domain: str  # lower-case A-labels
    tag: str | None  # what stood behind the +
    is_nobody: bool = False  # leads into the void, whatever mailboxes there are

    def to_nobody(self) -> Recipient:
        """The same, leading into the void."""
        return replace(self, is_nobody=True)


@dataclass(kw_only=True, slots=True)
class Arrival:
    """A message on its way into the next batch."""

    incoming: Incoming
    recipients: tuple[Recipient, ...]
    reading: Reading
    accounts: list[UUID] = field(default_factory=list)  # where the batch puts it; any of them proves the commit


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """One mailbox's copy of a message."""

    arrival: Arrival
    mailbox_id: UUID
    recipients: tuple[Recipient, ...]  # those of the message that lead to this mailbox

    def lost(self, void_id: UUID) -> Placement:
        """The same in the void."""
        return Placement(arrival=self.arrival, mailbox_id=void_id, recipients=self.recipients)

    def message(self) -> messages.NewMessage:
        """What is stored of it."""
        given = [recipient.given for recipient in self.recipients]
        tag = next((recipient.tag for recipient in self.recipients if recipient.tag), None)
        return copy_for(self.mailbox_id, self.arrival.incoming, self.arrival.reading, given, tag)


Plan = dict[UUID, list[Placement]]  # by account


@dataclass(kw_only=True, slots=True)
class Sorting:
    """What one transaction does with the copies of its messages."""

    stored: Plan = field(default_factory=lambda: defaultdict(list))  # shown at once, or in the void
    held: dict[UUID, list[tuple[Placement, str]]] = field(default_factory=lambda: defaultdict(list))  # with the policy

    def accounts(self) -> set[UUID]:
        """Whose rows are written."""
        return {*self.stored, *self.held}


@functools.lru_cache(maxsize=4096)  # asked at RCPT, and again when the message is there
def recipient(given: str, first_domain: str) -> Recipient | None:
    """Whom RCPT TO means; None where it is no address at all."""
    path = f"postmaster@{first_domain}" if given.lower() == "postmaster" else given  # RFC 5321 4.5.1
    try:
        parsed = address.recipient(path)
    except address.InvalidAddress:
        return None
    bare = parsed.without_tag
    return Recipient(given=given, address=bare.canonical, domain=bare.ascii_domain, tag=parsed.tag)


class Placer:
    """Finds the way of each message of a batch."""

    def __init__(
        self,
        database: db.Database,
        settings: Settings,
        territory: Territory,
        void: Void,
        *,
        told: Callable[[Iterable[UUID]], None],
    ) -> None:
        self._database = database
        self._settings = settings
        self._territory = territory
        self._void = void
        self._told = told
        self._default_account: UUID | None = None

    async def plan(self, batch: Sequence[Arrival]) -> Plan:
        """Which mailbox of which account each message goes to, by what the addresses say now."""
        recipients = {r.address: r for arrival in batch for r in arrival.recipients if not r.is_nobody}
        async with self._database.connection() as connection:
            await self._void.look(connection)
            routes = await mailboxes.routes(connection, sorted(recipients))
        grounds = {name: await self._territory.find(r.domain) for name, r in recipients.items()}
        foreign = [name for name, route in routes.items() if not may_lead(grounds[name], route)]
        for name in foreign:
            del routes[name], grounds[name]
        routes = await self._fill(routes, grounds)
        plan: Plan = defaultdict(list)
        void_id = self._void.pick()
        lost = mailboxes.Route(account_id=void_id, mailbox_id=void_id)
        for arrival in batch:
            _place(plan, arrival, routes, lost)
        return plan

    async def _fill(self, routes: Routes, grounds: Mapping[str, Ground | None]) -> Routes:
        """Mailboxes for addresses that nobody has, or whose mailbox is over, where the ground says so."""
        asked = {name: g for name, g in grounds.items() if g and (g.catch_all or g.unknown_recipients == "create")}
        if not asked:
            return routes
        missing = await self._missing(sorted(asked), routes)
        caught = {
            name: mailboxes.Route(account_id=ground.owner, mailbox_id=ground.catch_all)
            for name in missing
            if (ground := asked[name]).owner and ground.catch_all
        }
        to_create = [name for name in missing if name not in caught]
        return {**routes, **caught, **await self._create(to_create, routes, asked)}

    async def _missing(self, wanted: Sequence[str], routes: Routes) -> list[str]:
        by_account: dict[UUID, list[UUID]] = defaultdict(list)
        for route in routes.values():
            by_account[route.account_id].append(route.mailbox_id)
        living: set[UUID] = set()
        async with self._database.connection() as connection:
            for account_id, ids in by_account.items():
                living |= await mailboxes.living(connection, account_id, ids)
        return [name for name in wanted if name not in routes or routes[name].mailbox_id not in living]

    async def _create(self, names: Sequence[str], routes: Routes, grounds: Mapping[str, Ground]) -> Routes:
        if not names:
            return {}
        told: dict[UUID, list[events.NewEvent]] = defaultdict(list)
        async with self._database.transaction() as connection:
            default = await self._default(connection)
            room: dict[UUID, int] = {}
            for name in names:
                account_id = routes[name].account_id if name in routes else grounds[name].owner or default
                if account_id not in room:
                    room[account_id] = await self._room(connection, account_id)
                room[account_id] -= 1
                new_id = self._database.clock.uuid7()
                event = await _create_mailbox(connection, account_id, name, new_id) if room[account_id] >= 0 else None
                if event is not None:
                    told[account_id].append(event)
            await events.append_all(connection, told)
        self._told(told)
        async with self._database.connection() as connection:
            found = await mailboxes.routes(connection, names)
        return {name: route for name, route in found.items() if may_lead(grounds[name], route)}

    async def _room(self, connection: db.Connection, account_id: UUID) -> int:
        """How many mailboxes more the account may have."""
        if await accounts.is_suspended(connection, account_id):
            return 0
        limit = self._settings.max_mailboxes
        return limit - await quotas.live_mailboxes(connection, account_id, limit) if limit else UNBOUNDED

    async def _default(self, connection: db.Connection) -> UUID:
        """The account that owns what mail itself creates at shared domains: the oldest one."""
        if self._default_account is None:
            self._default_account = await accounts.first(connection)
        if self._default_account is None:
            raise Unavailable("There is no account yet; make one with: postroom keys create")
        return self._default_account

    async def hold_live(self, connection: db.Connection, plan: Plan) -> Plan:
        """Lock the mailboxes against expiry; what is for one that is over goes to the void instead."""
        held: Plan = defaultdict(list)
        void_id = self._void.pick()
        for account_id in sorted(plan):
            live = await mailboxes.live(connection, account_id, [p.mailbox_id for p in plan[account_id]])
            for placement in plan[account_id]:
                if placement.mailbox_id in live:
                    held[account_id].append(placement)
                else:
                    held[void_id].append(placement.lost(void_id))
        return held


def may_lead(ground: Ground | None, route: mailboxes.Route) -> bool:
    """An address that was somebody else's stays so while it is remembered, whoever has the domain now."""
    return ground is None or ground.owner is None or ground.owner == route.account_id


def _place(plan: Plan, arrival: Arrival, routes: Routes, lost: mailboxes.Route) -> None:
    """One copy for each mailbox that the recipients lead to, one to the void for all who lead nowhere."""
    by_route: dict[mailboxes.Route, list[Recipient]] = defaultdict(list)
    for one in arrival.recipients:
        by_route[lost if one.is_nobody else routes.get(one.address, lost)].append(one)
    for route, recipients in by_route.items():
        placement = Placement(arrival=arrival, mailbox_id=route.mailbox_id, recipients=tuple(recipients))
        plan[route.account_id].append(placement)


async def _create_mailbox(
    connection: db.Connection, account_id: UUID, name: str, mailbox_id: UUID
) -> events.NewEvent | None:
    """None where somebody else was quicker."""
    try:
        box = await mailboxes.create(
            connection, account_id, id=mailbox_id, address=name, ttl_seconds=None, metadata={}, token_hash=None
        )
    except AddressTaken:
        return None
    return mailboxes.created(mailbox_id, name, box.expires_at)
