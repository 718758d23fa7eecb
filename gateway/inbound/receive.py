"""Mail in, from the final dot to the commit: read it, find its mailboxes, join the next batch, answer.

    recipient   is this a domain of ours? Whether anybody lives there is not told (unless the policy is `reject`)
    deliver     parse → batch → one transaction → "250 2.0.0 queued as <receipt id>"

Mail for an unknown or an expired address is dropped *after* DATA, with the same answer and by the same work: it is
parsed and stored like any other, into an account of the void, and removed from there by reclaim.
"""

from __future__ import annotations

import functools
import random
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import msgspec
import prometheus_client
import structlog
from uuid_utils.compat import uuid5, uuid7

from gateway.errors import AddressTaken, Unavailable
from gateway.inbound.parsing import ParsingPool
from gateway.inbound.protocol import Incoming
from gateway.mail import address, charsets, extract, parse
from gateway.settings import Settings
from gateway.storage import accounts, db, events, mailboxes, messages
from gateway.storage.committer import Committer

log = structlog.get_logger(__name__)

# outcome: "stored" (somebody's mailbox), "dropped" (unknown or expired recipient)
STORED = prometheus_client.Counter("postroom_inbound_messages", "Messages committed, by recipient", ["outcome"])
BATCH = prometheus_client.Histogram(
    "postroom_inbound_batch_size", "DATAs of one transaction", buckets=(1, 2, 4, 8, 16, 32, 64)
)

RELAYING_DENIED: Final = "550 5.7.1 Relaying denied"
NO_SUCH_MAILBOX: Final = "550 5.1.1 No such mailbox"
BAD_ADDRESS: Final = "501 5.1.3 Bad recipient address syntax"
TRY_AGAIN: Final = "451 4.3.0 Try again later"
NO_ROOM: Final = "452 4.3.1 Insufficient system storage, try again later"

VOID_LOOK_SECONDS: Final = 10  # how often it is looked up what dropped mail holds
THREADS: Final = uuid.UUID("6f1c5f0a-52b0-5c3e-9d3c-4d5e7a0b1c2d")  # namespace of thread ids
_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipient:
    """Somebody that a message is for."""

    given: str  # as it stood in RCPT TO
    address: str  # canonical, without the tag: what mailboxes are found by
    domain: str  # lower-case A-labels
    tag: str | None  # what stood behind the +


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What every mailbox's copy of a message shows, made once; JSON fields are text."""

    from_name: str | None
    from_address: str | None
    recipients: str
    subject: str
    snippet: str
    codes: str
    links: str
    attachment_count: int
    message_id: str | None
    thread_id: UUID
    parse: str
    warnings: str
    tail: str  # the summary's members that are the same for all, closing brace included


@dataclass(kw_only=True, slots=True)
class Arrival:
    """A message on its way into the next batch."""

    incoming: Incoming
    recipients: tuple[Recipient, ...]
    reading: Reading
    accounts: list[UUID] = field(
        default_factory=list
    )  # where the batch under way puts it; any of them proves the commit


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """One mailbox's copy of a message."""

    arrival: Arrival
    mailbox_id: UUID
    recipients: tuple[Recipient, ...]  # those of the message that lead to this mailbox


Plan = dict[UUID, list[Placement]]  # by account


class Reception:
    """The desk of the inbound port, and the way in for mail that stays in the house."""

    def __init__(
        self,
        database: db.Database,
        settings: Settings,
        pool: ParsingPool,
        *,
        told: Callable[[Iterable[UUID]], None],  # called after each commit with the accounts whose logs grew
    ) -> None:
        self._database = database
        self._settings = settings
        self._pool = pool
        self._told = told
        self._domains = frozenset(settings.mail_domains)
        self._first_domain = settings.first_domain
        self._committer: Committer[Arrival, str] = Committer(self._commit, find=self._find, size=_size)
        self._void_ids: list[UUID] = []
        self._void_bytes = 0
        self._void_looked = float("-inf")
        self._default_account: UUID | None = None

    async def recipient(self, address: str, envelope_from: str) -> str | None:
        """None takes the recipient; else the reply that refuses it."""
        recipient = _recipient(address, self._first_domain)
        if recipient is None:
            return BAD_ADDRESS
        if not self.is_own(recipient.domain):
            return RELAYING_DENIED
        if self._settings.unknown_recipients == "reject":
            return await self._reject_unknown(recipient)
        return None

    def is_own(self, domain: str) -> bool:
        """Whether mail for this domain (lower-case A-labels) stays here."""
        return self._settings.captures_every_domain or domain in self._domains

    async def _reject_unknown(self, recipient: Recipient) -> str | None:
        try:
            async with self._database.connection() as connection:
                route = (await mailboxes.routes(connection, [recipient.address])).get(recipient.address)
                if route and await mailboxes.living(connection, route.account_id, [route.mailbox_id]):
                    return None
        except Unavailable:
            return TRY_AGAIN
        return NO_SUCH_MAILBOX

    async def deliver(self, incoming: Incoming) -> str:
        """The reply to the final dot. 250 is said after the commit and for every outcome; a fault of ours is 4xx."""
        named = (_recipient(given, self._first_domain) for given in incoming.rcpt_to)
        recipients = tuple(recipient for recipient in named if recipient is not None)
        reading = await self._read(incoming)
        try:
            return await self._committer.submit(Arrival(incoming=incoming, recipients=recipients, reading=reading))
        except db.NoRoom:
            return NO_ROOM
        except Unavailable:
            return TRY_AGAIN

    async def drain(self) -> None:
        """Returns when no batch is under way."""
        await self._committer.drain()

    # Reading

    async def _read(self, incoming: Incoming) -> Reading:
        return _reading(await self._pool.read(incoming.raw), incoming)

    # Committing

    async def _commit(self, batch: Sequence[Arrival]) -> list[str]:
        BATCH.observe(len(batch))
        for arrival in batch:
            arrival.accounts = []
        async with self._database.connection():  # the same one for every step
            plan = await self._plan(batch)
            stored = (len(plan) == 1 and await self._store_at_once(plan)) or await self._store_together(plan)
        self._after(stored)
        return [_queued(arrival.incoming.receipt_id) for arrival in batch]

    async def _store_at_once(self, plan: Plan) -> Plan | None:
        """What is for one account in one statement, its own transaction; None = nothing was stored: some mailboxes are
        over and others are not, or one came to its end in this moment."""
        [(account_id, placements)] = plan.items()
        async with self._database.statement() as connection:
            ids = {placement.mailbox_id for placement in placements}
            living = await mailboxes.living(connection, account_id, list(ids))
            if not living:
                account_id = random.choice(self._void_ids)  # noqa: S311 - spreads load; nothing secret
                placements = [_lost(placement, account_id) for placement in placements]
            elif living != ids:
                return None
            new = [_new_message(placement) for placement in placements]
            contents = self._contents(account_id, placements)
            if await messages.store_whole(connection, account_id, new, contents):
                return {account_id: placements}
        return None

    async def _store_together(self, plan: Plan) -> Plan:
        """What is for several accounts, in one transaction."""
        async with self._database.transaction() as connection:
            held = await self._hold_live(connection, plan)
            for account_id in sorted(held):
                new = [_new_message(placement) for placement in held[account_id]]
                contents = self._contents(account_id, held[account_id])
                await messages.store(connection, account_id, new, contents)
        return held

    async def _find(self, arrival: Arrival) -> str | None:
        if not arrival.accounts:  # it was a mailbox's making whose COMMIT broke; the mail was not stored yet
            return None
        account_id = arrival.accounts[0]
        async with self._database.connection() as connection:
            if await messages.content_exists(connection, account_id, arrival.incoming.receipt_id):
                return _queued(arrival.incoming.receipt_id)
        return None

    async def _plan(self, batch: Sequence[Arrival]) -> Plan:
        """Which mailbox of which account each message goes to, by what the addresses say now."""
        wanted = sorted({r.address for arrival in batch for r in arrival.recipients})
        async with self._database.connection() as connection:
            await self._look_at_void(connection)
            routes = await mailboxes.routes(connection, wanted)
        if self._settings.unknown_recipients == "create":
            routes = await self._create_missing(wanted, routes)
        plan: Plan = defaultdict(list)
        void_id = random.choice(self._void_ids)  # noqa: S311 - spreads load; nothing secret
        for arrival in batch:
            _place(plan, arrival, routes, void_id)
        return plan

    async def _create_missing(
        self, wanted: Sequence[str], routes: dict[str, mailboxes.Route]
    ) -> dict[str, mailboxes.Route]:
        """Mailboxes for addresses that nobody has, or whose mailbox is over (`unknown_recipients=create`)."""
        missing = await self._missing(wanted, routes)
        if not missing:
            return routes
        told: dict[UUID, list[events.NewEvent]] = defaultdict(list)
        async with self._database.transaction() as connection:
            default = await self._default(connection)
            for name in missing:
                account_id = routes[name].account_id if name in routes else default
                event = await _create_mailbox(connection, account_id, name)
                if event is not None:
                    told[account_id].append(event)
            await events.append_all(connection, told)
        self._told(told)
        async with self._database.connection() as connection:
            return await mailboxes.routes(connection, wanted)

    async def _missing(self, wanted: Sequence[str], routes: dict[str, mailboxes.Route]) -> list[str]:
        by_account: dict[UUID, list[UUID]] = defaultdict(list)
        for route in routes.values():
            by_account[route.account_id].append(route.mailbox_id)
        living: set[UUID] = set()
        async with self._database.connection() as connection:
            for account_id, ids in by_account.items():
                living |= await mailboxes.living(connection, account_id, ids)
        return [name for name in wanted if name not in routes or routes[name].mailbox_id not in living]

    async def _default(self, connection: db.Connection) -> UUID:
        """The account that owns what mail itself creates: the oldest one."""
        if self._default_account is None:
            self._default_account = await accounts.first(connection)
        if self._default_account is None:
            raise Unavailable("There is no account yet; make one with: postroom keys create")
        return self._default_account

    async def _hold_live(self, connection: db.Connection, plan: Plan) -> Plan:
        """Lock the mailboxes against expiry; what is for one that is over goes to the void instead."""
        held: Plan = defaultdict(list)
        void_id = random.choice(self._void_ids)  # noqa: S311 - spreads load; nothing secret
        for account_id in sorted(plan):
            ids = [placement.mailbox_id for placement in plan[account_id]]
            live = await mailboxes.live(connection, account_id, ids)
            for placement in plan[account_id]:
                if placement.mailbox_id in live:
                    held[account_id].append(placement)
                else:
                    held[void_id].append(_lost(placement, void_id))
        return held

    def _contents(self, account_id: UUID, placements: Sequence[Placement]) -> list[messages.Content]:
        """Each message's bytes, once for the account."""
        arrivals = {p.arrival.incoming.receipt_id: p.arrival for p in placements}
        for arrival in arrivals.values():
            arrival.accounts.append(account_id)
        return [self._content(account_id, arrival.incoming) for arrival in arrivals.values()]

    def _content(self, account_id: UUID, incoming: Incoming) -> messages.Content:
        size, raw = len(incoming.raw), incoming.raw
        if account_id in self._void_ids:
            raw = raw if self._void_bytes < self._settings.void_max_bytes else b""
            self._void_bytes += len(raw)
        return messages.Content(id=incoming.receipt_id, raw=raw, size=size)

    def _after(self, plan: Plan) -> None:
        voids = set(self._void_ids)
        for account_id, placements in plan.items():
            STORED.labels("dropped" if account_id in voids else "stored").inc(len(placements))
        self._told(account_id for account_id in plan if account_id not in voids)

    async def _look_at_void(self, connection: db.Connection) -> None:
        if not self._void_ids:
            self._void_ids = await accounts.voids(connection)
        now = time.monotonic()
        if now - self._void_looked > VOID_LOOK_SECONDS:
            self._void_looked = now
            self._void_bytes = await messages.bytes_in_void(connection, self._void_ids)


def _size(arrival: Arrival) -> int:
    return len(arrival.incoming.raw)


def _queued(receipt_id: UUID) -> str:
    return f"250 2.0.0 queued as {receipt_id}"


@functools.lru_cache(maxsize=4096)  # asked at RCPT, and again when the message is there
def _recipient(given: str, first_domain: str) -> Recipient | None:
    """None where it is no address at all."""
    path = f"postmaster@{first_domain}" if given.lower() == "postmaster" else given  # RFC 5321 4.5.1
    try:
        parsed = address.recipient(path)
    except address.InvalidAddress:
        return None
    bare = parsed.without_tag
    return Recipient(given=given, address=bare.canonical, domain=bare.ascii_domain, tag=parsed.tag)


def _reading(parsed: parse.Parsed, incoming: Incoming) -> Reading:
    sender = parsed.from_
    thread_id = _thread(parsed, incoming.receipt_id)
    found = extract.everything(parsed.subject, parsed.text, parsed.html)
    shown = {
        "from": {"name": sender.name if sender else None, "address": sender.address if sender else None},
        "to": [{"name": to.name, "address": to.address} for to in parsed.to],
        "subject": parsed.subject,
        "snippet": found.snippet,
        "size": len(incoming.raw),
        "seen": False,
        "labels": [],
        "attachment_count": len(parsed.attachments),
        "codes": found.codes,
        "thread_id": thread_id,
    }
    return Reading(
        from_name=sender.name if sender else None,
        from_address=sender.address if sender else None,
        recipients=_encode(shown["to"]).decode(),
        subject=parsed.subject,
        snippet=found.snippet,
        codes=_encode(found.codes).decode(),
        links=_encode(found.links).decode(),
        attachment_count=len(parsed.attachments),
        message_id=parsed.message_id,
        thread_id=thread_id,
        parse=parsed.status,
        warnings=_encode(parsed.warnings).decode(),
        tail=_encode(shown).decode()[1:],
    )


def _thread(parsed: parse.Parsed, receipt_id: UUID) -> UUID:
    """The same for all messages whose References (RFC 5322 3.6.4) begin with the same message."""
    root = next(iter(parsed.references), None) or parsed.in_reply_to or parsed.message_id or str(receipt_id)
    return uuid5(THREADS, root)


def _place(plan: Plan, arrival: Arrival, routes: dict[str, mailboxes.Route], void_id: UUID) -> None:
    """One copy for each mailbox that the recipients lead to, one to the void for all who lead nowhere."""
    lost = mailboxes.Route(account_id=void_id, mailbox_id=void_id)
    by_route: dict[mailboxes.Route, list[Recipient]] = defaultdict(list)
    for recipient in arrival.recipients:
        by_route[routes.get(recipient.address, lost)].append(recipient)
    for route, recipients in by_route.items():
        placement = Placement(arrival=arrival, mailbox_id=route.mailbox_id, recipients=tuple(recipients))
        plan[route.account_id].append(placement)


def _lost(placement: Placement, void_id: UUID) -> Placement:
    """The same in the void."""
    return Placement(arrival=placement.arrival, mailbox_id=void_id, recipients=placement.recipients)


async def _create_mailbox(connection: db.Connection, account_id: UUID, name: str) -> events.NewEvent | None:
    """None where somebody else was quicker."""
    mailbox_id = uuid7()
    try:
        box = await mailboxes.create(
            connection, account_id, id=mailbox_id, address=name, ttl_seconds=None, metadata={}, token_hash=None
        )
    except AddressTaken:
        return None
    return mailboxes.created(mailbox_id, name, box.expires_at)


def _new_message(placement: Placement) -> messages.NewMessage:
    incoming, reading = placement.arrival.incoming, placement.arrival.reading
    message_id = uuid7()
    mail_from = charsets.clean(incoming.mail_from)
    envelope = {
        "mail_from": mail_from,
        "rcpt_to": [charsets.clean(recipient.given) for recipient in placement.recipients],
        "helo": charsets.clean(incoming.helo),
        "remote_ip": charsets.clean(incoming.remote_ip),
        "tls": incoming.tls,
        "receipt_id": incoming.receipt_id,
    }
    return messages.NewMessage(
        id=message_id,
        event_id=uuid7(),
        mailbox_id=placement.mailbox_id,
        content_id=incoming.receipt_id,
        size=len(incoming.raw),
        mail_from=mail_from,
        envelope=_encode(envelope).decode(),
        from_name=reading.from_name,
        from_address=reading.from_address,
        recipients=reading.recipients,
        subject=reading.subject,
        snippet=reading.snippet,
        codes=reading.codes,
        links=reading.links,
        attachment_count=reading.attachment_count,
        message_id=reading.message_id,
        thread_id=reading.thread_id,
        tag=next((recipient.tag for recipient in placement.recipients if recipient.tag), None),
        parse=reading.parse,
        warnings=reading.warnings,
        data=f'"id":"{message_id}","mailbox_id":"{placement.mailbox_id}",{reading.tail}',
    )
