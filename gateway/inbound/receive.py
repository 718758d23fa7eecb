"""Mail in, from the final dot to the commit: read it, find its mailboxes, join the next batch, answer.

    recipient   is mail for this domain taken? Whether anybody lives there is not told (unless the policy is `reject`)
    deliver     parse → batch → one transaction → "250 2.0.0 queued as <receipt id>"

Mail for an unknown or an expired address is dropped *after* DATA, with the same answer and by the same work: it is
parsed and stored like any other, into an account of the void, and removed from there by reclaim. Mail for an account
over its quota is held as mail is whose sender is to be judged, by the same work again, until a worker drops it and
tells its owner (gateway.inbound.judging). What comes to return paths is kept apart from messages
(gateway.inbound.returned).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

import prometheus_client
import structlog

from gateway.errors import Unavailable
from gateway.inbound import placing, reading
from gateway.inbound.allowance import Allowance
from gateway.inbound.parsing import ParsingPool
from gateway.inbound.placing import Arrival, Placement, Plan, Recipient, Sorting
from gateway.inbound.protocol import Incoming
from gateway.inbound.rehearsing import Rehearsals
from gateway.inbound.returned import Returned
from gateway.inbound.territory import Ground, Territory
from gateway.inbound.void import Void
from gateway.mail import header, parse, verp
from gateway.settings import Settings
from gateway.storage import committer, db, judgements, mailboxes, messages

log = structlog.get_logger(__name__)

# outcome: "stored" (somebody's mailbox), "held" (until its sender is judged), "dropped" (nobody's), "over_quota"
# (held until it is dropped and its owner told)
STORED = prometheus_client.Counter("postroom_inbound_messages", "Messages committed, by recipient", ["outcome"])
BATCH = prometheus_client.Histogram(
    "postroom_inbound_batch_size", "DATAs of one transaction", buckets=(1, 2, 4, 8, 16, 32, 64)
)
COMMIT = prometheus_client.Histogram(
    "postroom_inbound_commit_seconds",
    "Time of one transaction of mail, its look-ups included",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15),
)

TURNS_TO_REPLY: Final = 6  # of the event loop, from the commit until the senders' sessions have replied
RELAYING_DENIED: Final = "550 5.7.1 Relaying denied"
NO_SUCH_MAILBOX: Final = "550 5.1.1 No such mailbox"
BAD_ADDRESS: Final = "501 5.1.3 Bad recipient address syntax"
SUSPENDED = "451 4.2.1 Mail for this domain is not taken for the moment, try again later"
OVER_QUOTA: Final = "452 4.2.2 Over quota, try again later"
TRY_AGAIN: Final = "451 4.3.0 Try again later"
LOOPS: Final = f"554 5.4.6 The message goes in circles: it has more than {header.MAX_HOPS} Received fields"
UNSHOWN: Final = "what it says cannot be shown; it is kept as it came"
PATIENCE_SECONDS: Final = 60.0  # from the final dot; a sender that gives up before us gets its mail stored twice
NO_ROOM: Final = "452 4.3.1 Insufficient system storage, try again later"


class Reception:
    """The desk of the inbound port, and the way in for mail that stays in the house or comes by HTTP."""

    def __init__(
        self,
        database: db.Database,
        settings: Settings,
        pool: ParsingPool,
        *,
        told: Callable[[Iterable[UUID]], None],  # called after each commit with the accounts whose logs grew
        judge: Callable[[Iterable[UUID]], None] = lambda _: None,  # likewise: accounts with mail held for a verdict
        return_paths: verp.ReturnPaths | None = None,  # of mail that leaves; None = there are none
    ) -> None:
        self._database = database
        self._pool = pool
        self._told = told
        self._judge = judge
        self._first_domain = settings.first_domain
        self._judges = settings.sender_auth
        self._territory = Territory(database, settings)
        self._allowance = Allowance(database, settings, told=told)
        self._rehearsals = Rehearsals(database) if settings.allow_faults else None
        self._returned = Returned(database, return_paths)
        self._void = Void(settings.void_max_bytes)
        self._placer = placing.Placer(database, settings, self._territory, self._void, told=told)
        self._committer: committer.Committer[Arrival, str] = committer.Committer(
            self._commit, find=self._find, size=_size, patience=PATIENCE_SECONDS
        )

    # Recipients

    async def recipient(self, address: str, envelope_from: str) -> str | None:
        """None takes the recipient; else the reply that refuses it."""
        recipient = placing.recipient(address, self._first_domain)
        if recipient is None:
            return BAD_ADDRESS
        if self._returned.takes(recipient):
            return None
        try:
            ground = await self._territory.find(recipient.domain)
            return await self._refusal(recipient, ground) if ground else RELAYING_DENIED
        except Unavailable:
            return TRY_AGAIN

    async def owner(self, domain: str) -> Ground | None:
        """Whose domain (lower-case A-labels) this is; None = mail for it is not taken. Raises Unavailable."""
        return await self._territory.find(domain)

    async def _refusal(self, recipient: Recipient, ground: Ground) -> str | None:
        if ground.is_suspended:
            return SUSPENDED
        if ground.owner is not None and await self._allowance.is_spent(ground.owner):
            return OVER_QUOTA
        if ground.unknown_recipients == "reject" and not ground.catch_all and not await self._lives(recipient, ground):
            return NO_SUCH_MAILBOX
        return await self._rehearsals.due([(recipient.address, ground)], "rcpt") if self._rehearsals else None

    async def _lives(self, recipient: Recipient, ground: Ground) -> bool:
        async with self._database.connection() as connection:
            route = (await mailboxes.routes(connection, [recipient.address])).get(recipient.address)
            if route is None or not placing.may_lead(ground, route):
                return False
            return bool(await mailboxes.living(connection, route.account_id, [route.mailbox_id]))

    # Messages

    async def deliver(self, incoming: Incoming) -> str:
        """The reply to the final dot. 250 is said after the commit and for every outcome; a fault of ours is 4xx."""
        if header.loops(incoming.raw):
            return LOOPS
        named = (placing.recipient(given, self._first_domain) for given in incoming.rcpt_to)
        known = [recipient for recipient in named if recipient is not None]
        recipients = tuple(self._returned.others(known))
        try:
            if reply := await self._rehearsed(recipients):
                return reply
            await self._returned.keep(known, incoming.raw)
            if known and not recipients:
                return _queued(incoming.receipt_id)
            return await self._taken(incoming, recipients)
        except db.NoRoom:
            return NO_ROOM
        except Unavailable:
            return TRY_AGAIN

    async def _taken(self, incoming: Incoming, recipients: tuple[Recipient, ...]) -> str:
        """The reply once it is stored. What would be shown of it is no reason to put it off for ever: where that fails,
        the mail is stored without."""
        try:
            read = reading.read(await self._pool.front(incoming.raw), incoming)
            return await self._committer.submit(Arrival(incoming=incoming, recipients=recipients, reading=read))
        except Exception as error:
            if not committer.blames_content(error):
                raise
            log.exception("message cannot be shown", receipt_id=str(incoming.receipt_id), size=len(incoming.raw))
        nothing = replace(parse.raw_only(b""), warnings=(UNSHOWN,))
        bare = reading.read(nothing, incoming)
        return await self._committer.submit(Arrival(incoming=incoming, recipients=recipients, reading=bare))

    async def _rehearsed(self, recipients: Sequence[Recipient]) -> str | None:
        """The refusal of the whole message that a script wants; None = go on."""
        if self._rehearsals is None:
            return None
        grounds = [(one.address, await self._territory.find(one.domain)) for one in recipients if not one.is_nobody]
        return await self._rehearsals.due(grounds, "data")

    def end_within(self, seconds: float) -> None:
        """Nobody waits for a reply any longer than that."""
        self._committer.end_within(seconds)

    async def drain(self) -> None:
        """Returns when no batch is under way."""
        await self._committer.drain()

    # Committing

    async def _commit(self, batch: Sequence[Arrival]) -> list[str]:
        BATCH.observe(len(batch))
        began = time.monotonic()
        distinct: dict[UUID, Arrival] = {}  # what is handed in again may meet itself here
        for arrival in batch:
            arrival.accounts = []
            arrival.accounts = distinct.setdefault(arrival.incoming.receipt_id, arrival).accounts
        async with self._database.connection():  # the same one for every step
            plan = await self._placer.plan(list(distinct.values()))
            stored = (len(plan) == 1 and await self._store_at_once(plan)) or await self._store_together(plan)
        COMMIT.observe(time.monotonic() - began)
        self._after(stored)
        return [_queued(arrival.incoming.receipt_id) for arrival in batch]

    async def _store_at_once(self, plan: Plan) -> Sorting | None:
        """What is for one account in one statement, its own transaction; None = nothing was stored, for not all of it
        has the same fate: some mailboxes are over or hold their mail and others do not, or one came to its end in this
        moment."""
        [(account_id, placements)] = plan.items()
        async with self._database.statement() as connection:
            ids = {placement.mailbox_id for placement in placements}
            standing = await mailboxes.standing(connection, account_id, list(ids))
            if standing.usage is None:
                account_id = self._void.pick()
                placements = [placement.lost(account_id) for placement in placements]
            elif len(standing.policies) < len(ids):
                return None
            sorting = Sorting()
            self._put(sorting, account_id, placements, standing)
            return sorting if await self._stored_whole(connection, account_id, sorting) else None

    async def _stored_whole(self, connection: db.Connection, account_id: UUID, sorting: Sorting) -> bool:
        shown, held = sorting.stored.get(account_id, []), sorting.held.get(account_id, [])
        if held and shown:
            return False
        contents = self._contents(account_id, sorting)
        if shown:
            return await messages.store_whole(connection, account_id, [p.message() for p in shown], contents)
        waiting = [(placement.message(), policy) for placement, policy in held]
        return await messages.hold_whole(connection, account_id, waiting, contents, void_id=self._void.pick())

    async def _store_together(self, plan: Plan) -> Sorting:
        """Anything else, in one transaction."""
        async with self._database.transaction() as connection:
            live = await self._placer.hold_live(connection, plan)
            sorting = await self._sort(connection, live)
            for account_id in sorted(sorting.accounts()):
                await self._store(connection, account_id, sorting)
        return sorting

    async def _sort(self, connection: db.Connection, live: Plan) -> Sorting:
        """What is stored, and what waits: for a verdict, or for being dropped where its account has no room."""
        sorting = Sorting()
        for account_id, placements in live.items():
            if account_id in self._void:
                sorting.stored[account_id] += placements
            else:
                standing = await mailboxes.standing(connection, account_id, [p.mailbox_id for p in placements])
                self._put(sorting, account_id, placements, standing)
        return sorting

    def _put(
        self, sorting: Sorting, account_id: UUID, placements: Sequence[Placement], standing: mailboxes.Standing
    ) -> None:
        usage = None if account_id in self._void else standing.usage
        quota = self._allowance.spent(usage) if usage else None
        for placement in placements:
            policy = standing.policies.get(placement.mailbox_id, "accept") if self._judges else "accept"
            if quota is not None:
                sorting.held[account_id].append((placement, judgements.OVER_QUOTA + quota))
            elif policy != "accept":
                sorting.held[account_id].append((placement, policy))
            else:
                sorting.stored[account_id].append(placement)

    async def _store(self, connection: db.Connection, account_id: UUID, sorting: Sorting) -> None:
        shown, held = sorting.stored.get(account_id, []), sorting.held.get(account_id, [])
        contents = self._contents(account_id, sorting)
        if held:  # a content may be for a mailbox that shows it, too
            added = await messages.add_contents(connection, account_id, contents)
            waiting = [(p.message(), policy) for p, policy in held if p.arrival.incoming.receipt_id in added]
            await messages.hold(connection, account_id, waiting)
            shown = [p for p in shown if p.arrival.incoming.receipt_id in added]
            contents = []
        if shown:
            await messages.store(connection, account_id, [p.message() for p in shown], contents)

    async def _find(self, arrival: Arrival) -> str | None:
        if not arrival.accounts:  # it was a mailbox's making whose COMMIT broke; the mail was not stored yet
            return None
        account_id = arrival.accounts[0]
        async with self._database.connection() as connection:
            if await messages.content_exists(connection, account_id, arrival.incoming.receipt_id):
                return _queued(arrival.incoming.receipt_id)
        return None

    def _contents(self, account_id: UUID, sorting: Sorting) -> list[messages.Content]:
        """Each message's bytes, once for the account."""
        held = sorting.held.get(account_id, [])
        is_lost = account_id in self._void or any(judgements.is_over_quota(policy) for _, policy in held)
        placements = [*sorting.stored.get(account_id, []), *(placement for placement, _ in held)]
        arrivals = {p.arrival.incoming.receipt_id: p.arrival for p in placements}
        for arrival in arrivals.values():
            arrival.accounts.append(account_id)
        return [self._content(arrival.incoming, is_lost=is_lost) for arrival in arrivals.values()]

    def _content(self, incoming: Incoming, *, is_lost: bool) -> messages.Content:
        raw = self._void.kept(incoming.raw) if is_lost else incoming.raw
        return messages.Content(id=incoming.receipt_id, raw=raw, size=len(incoming.raw))

    def _after(self, sorting: Sorting) -> None:
        for account_id, placements in sorting.stored.items():
            STORED.labels("dropped" if account_id in self._void else "stored").inc(len(placements))
        for held in sorting.held.values():
            for _, policy in held:
                STORED.labels("over_quota" if judgements.is_over_quota(policy) else "held").inc()
        grown = [account_id for account_id in sorting.stored if account_id not in self._void]
        _after_replies(lambda: self._told(grown))
        if sorting.held:
            _after_replies(lambda: self._judge(sorting.held))


def _after_replies(work: Callable[[], None], turns: int = TURNS_TO_REPLY) -> None:
    """Telling takes time, and nobody is told of dropped mail: done before the replies, it would show who lives."""
    if turns:
        asyncio.get_running_loop().call_soon(_after_replies, work, turns - 1)
    else:
        work()


def _size(arrival: Arrival) -> int:
    return len(arrival.incoming.raw)


def _queued(receipt_id: UUID) -> str:
    return f"250 2.0.0 queued as {receipt_id}"
