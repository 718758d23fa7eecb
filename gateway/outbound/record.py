"""The track record: what became of mail, counted by hour and day, sender domain, recipient domain, provider and tag.

The event log is the queue. An account's events behind `counted_seq` are counted in their order, a slice at a time; a
slice is one transaction that holds the account's row and writes the counts and how far they reach, so that a worker
that dies has its slice counted again, and nothing of it twice. Nothing is written for it when mail goes out. Where the
log's beginning was removed before it was counted, counting goes on where the log begins.

Each event counts in the hour and in the day (UTC) in which the log holds it:

    accepted    recipients of an e-mail that was taken from its caller, suppressed ones among them
    sent, delivered, deferred, bounced, failed, suppressed, complained, opened, clicked, unknown
                events of these names: who is put off twice counts twice
    taken       recipients that the next hop took: sent, or delivered without having been sent
    returned    bounced or failed after they were taken
    latencies   of those that were taken: seconds since they were due, first or by their sender's retry

Mail that came in is merely counted by its hour, in the same transaction: received, or dropped by its owner's wish.

How many rows an hour or a day may have is bounded. The busiest of what a slice brings take the places that are free;
what finds none is counted among the others for the rest of it, so that a number is the whole of it or is not told.
Only where there are over ROWS combinations a number may be a part; those of the total and of providers never are.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import prometheus_client
import structlog

from gateway.mail import address
from gateway.outbound import latency
from gateway.storage import callbacks, db, events, statistics
from gateway.storage.statistics import OTHERS, SUMMARY, TOTAL, Key, Mail, News, Recipient, Standing, Tally

log = structlog.get_logger(__name__)

COUNTED = prometheus_client.Counter("postroom_counted_events", "Events that were added to the delivery statistics")
SLICE_TIME = prometheus_client.Histogram("postroom_counting_slice_seconds", "Time of one slice of counting")

SLICE_EVENTS: Final = 500
LOOK_ACCOUNTS: Final = 1000  # of one look
ROWS: Final = 1000  # of one account and hour (or day); what has no row then is told apart by provider alone
# Values of one account and hour (or day) that are told apart.
PLACES: Final[Mapping[str, int]] = {"sender_domain": 25, "recipient_domain": 50, "provider": 25, "tag": 50}
OVERFLOW: Final[Mapping[str, str]] = {"sender_domain": "", "recipient_domain": "", "provider": OTHERS, "tag": OTHERS}
_ENDINGS: Final = frozenset({"email.sent", "email.delivered", "email.bounced", "email.failed"})
_LATER: Final = frozenset({f"email.{what}" for what in ("delivered", "bounced", "complained", "opened", "clicked")})


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """Something to be added to the total and to each tag."""

    hour: datetime
    sender_domain: str
    recipient_domain: str
    provider: str
    tags: tuple[str, ...]  # name:value, each once
    counts: Mapping[str, int]  # by statistics.COUNTERS
    seconds: float | None = None  # that it took; None = it was not taken now

    def units(self) -> Sequence[tuple[bool, datetime]]:
        """The hour and the day that it belongs to, as keys have them."""
        return (False, self.hour), (True, self.hour.replace(hour=0))


class Record:
    """Counts what accounts' logs tell."""

    def __init__(
        self,
        database: db.Database,
        *,
        rest: Callable[[float], Awaitable[None]],  # awaited after so many seconds of work: others go first
        saw: Callable[[UUID, int], None],  # called with how far an account's log reaches: how fast it grows
    ) -> None:
        self._database = database
        self._rest = rest
        self._saw = saw
        self._ending = False

    def end(self) -> None:
        """No slice after those under way."""
        self._ending = True

    async def look(self) -> list[UUID]:
        """Accounts with events to count, among all there are; in pages, so that nothing is held for long."""
        found: list[UUID] = []
        after: UUID | None = UUID(int=0)
        while after is not None:
            async with self._database.connection() as connection:
                some, after = await statistics.behind(connection, after_id=after, limit=LOOK_ACCOUNTS)
            found += some
        return found

    async def drain(self, account_id: UUID) -> None:
        """Everything of one account that is not counted, slice by slice, with rests."""
        async with self._database.connection() as connection:
            more = await statistics.has_news(connection, account_id)
            if more:
                await statistics.begin(connection, account_id)
        while more and not self._ending:
            began = time.monotonic()
            more = await self._slice(account_id)
            worked = time.monotonic() - began
            SLICE_TIME.observe(worked)
            await self._rest(worked)

    async def _slice(self, account_id: UUID) -> bool:
        """One transaction; whether there may be more."""
        async with self._database.transaction() as connection:
            counted = await statistics.take(connection, account_id)
            if counted is None:
                return False
            bounds = await events.bounds(connection, account_id)
            self._saw(account_id, bounds.newest)
            after = max(counted, bounds.oldest - 1)
            until = min(after + statistics.SPAN, bounds.newest)
            news = await statistics.news(connection, account_id, after, until, SLICE_EVENTS)
            if len(news) == SLICE_EVENTS:
                until = news[-1].seq
            has_arrivals = await statistics.add_arrivals(connection, account_id, after, until)
            is_quiet = not news and not has_arrivals
            if is_quiet and until < counted + statistics.SPAN:
                return False  # what else the log tells need not be written down each time
            if is_quiet:  # behind a gap, such as restoring a backup leaves, it may begin far away
                until = await events.end_of_gap(connection, account_id, until)
            await _count(connection, account_id, after, until, news)
        if after > counted:
            log.info("the log begins behind what was counted", account_id=account_id, counted=counted, begins=after + 1)
        COUNTED.inc(len(news))
        return until < bounds.newest


async def _count(connection: db.Connection, account_id: UUID, after: int, until: int, news: Sequence[News]) -> None:
    entries = await _entries(connection, account_id, after, news)
    units = sorted({unit for entry in entries for unit in entry.units()})
    tallies = await statistics.held(connection, account_id, units)
    await statistics.save(connection, account_id, added(tallies, entries), until)


# What is to be counted


async def _entries(connection: db.Connection, account_id: UUID, after: int, news: Sequence[News]) -> list[Entry]:
    mails = await statistics.mails(connection, account_id, {one.email_id for one in news})
    accepted = [one.email_id for one in news if one.is_new]
    recipients = await statistics.recipients(connection, account_id, accepted) if accepted else {}
    ending = {one.email_id for one in news if one.type in _ENDINGS}
    taken = await statistics.taken(connection, account_id, ending, after) if ending else set()
    left = ending | {one.email_id for one in news if _is_later(one)}
    standings = await statistics.standings(connection, account_id, left) if left else {}
    entries: list[Entry] = []
    for one in news:
        mail = mails.get(one.email_id)
        if one.is_new:
            for domain, count in recipients[one.email_id]:
                entries.append(_entry(one, mail, (domain, ""), {"accepted": count}))
        elif one.recipient is not None:
            standing = standings.get((one.email_id, one.recipient))
            where = (address.domain_of(one.recipient), _provider(one, standing))
            counts = _outcome(one, (one.email_id, one.recipient), taken)
            entries.append(_entry(one, mail, where, counts, _due(one, mail, standing) if "taken" in counts else None))
    return entries


def _entry(
    one: News, mail: Mail | None, where: tuple[str, str], counts: Mapping[str, int], due_at: datetime | None = None
) -> Entry:
    """`where`: the recipient's domain and the provider."""
    return Entry(
        hour=one.created_at.astimezone(UTC).replace(minute=0, second=0, microsecond=0),
        sender_domain=address.domain_of(mail.from_address) if mail else "",
        recipient_domain=where[0],
        provider=where[1],
        tags=tuple(dict.fromkeys(f"{tag['name']}:{tag['value']}" for tag in mail.tags)) if mail else (),
        counts=counts,
        seconds=(one.created_at - due_at).total_seconds() if due_at else None,
    )


def _due(one: News, mail: Mail | None, standing: Standing | None) -> datetime | None:
    """When the recipient was due that was taken now; a retry that came after this is none of its."""
    if standing is not None and standing.due_at is not None and standing.due_at <= one.created_at:
        return standing.due_at
    return mail.due_at if mail else None


def _outcome(one: News, recipient: Recipient, taken: set[Recipient]) -> Mapping[str, int]:
    """What the event adds; `taken` is whom the next hop has at this point of the log, and is kept up to date."""
    what = one.type.removeprefix("email.")
    counts = {what: 1}
    if what == "sent" or (what == "delivered" and recipient not in taken):
        counts["taken"] = 1
    if what in ("bounced", "failed") and recipient in taken:
        counts["returned"] = 1
    if what in ("sent", "delivered"):
        taken.add(recipient)
    elif what in ("bounced", "failed"):
        taken.discard(recipient)
    return counts


def _is_later(one: News) -> bool:
    """Whether it is news of mail that had left: those name the provider's kind alone, or nobody."""
    return one.type in _LATER and (one.provider is None or one.provider in callbacks.PROVIDERS)


def _provider(one: News, standing: Standing | None) -> str:
    """The name under which its attempts are counted, too."""
    left_by = standing.provider if standing is not None and _is_later(one) else None
    if left_by is not None and one.provider in (None, callbacks.provider_of(left_by)):
        return left_by
    return one.provider or ""


# Adding up


def added(tallies: Mapping[Key, Tally], entries: Iterable[Entry]) -> dict[Key, Tally]:
    """The rows that the entries change or make. `tallies`: their hours and days as they are; those are changed."""
    held: dict[tuple[bool, datetime], dict[Key, Tally]] = defaultdict(dict)
    for key, tally in tallies.items():
        held[key.is_day, key.hour][key] = tally
    fresh: dict[tuple[bool, datetime], list[Entry]] = defaultdict(list)
    for entry in entries:
        for unit in entry.units():
            fresh[unit].append(entry)
    touched: dict[Key, Tally] = {}
    for unit, some in fresh.items():
        touched |= _added(unit, held[unit], some)
    return touched


def _added(unit: tuple[bool, datetime], held: dict[Key, Tally], entries: Sequence[Entry]) -> dict[Key, Tally]:
    """The same in one hour or day."""
    places, touched = _Places(unit, held, entries), {}
    for entry in entries:
        for key in places.keys(entry):
            touched[key] = tally = held.setdefault(key, Tally())
            tally.counts.update(entry.counts)
            if entry.seconds is not None:
                tally.latencies[latency.bucket_of(entry.seconds)] += 1
    return touched


class _Places:
    """What one account's hour or day tells apart."""

    def __init__(self, unit: tuple[bool, datetime], tallies: Mapping[Key, Tally], entries: Sequence[Entry]) -> None:
        self._unit = unit
        self._tallies = tallies  # grows meanwhile
        self._told: dict[str, set[str]] = {
            name: {getattr(key, name) for key in tallies} - {OVERFLOW[name]} for name in PLACES
        }
        wanted: dict[str, Counter[str]] = {name: Counter() for name in PLACES}
        for entry in entries:
            for name in ("sender_domain", "recipient_domain", "provider"):
                wanted[name][getattr(entry, name)] += 1
            wanted["tag"].update(entry.tags)
        self._told["tag"] -= {TOTAL, SUMMARY}
        for name, counts in wanted.items():
            self._admit(name, counts)

    def _admit(self, name: str, counts: Counter[str]) -> None:
        told = self._told[name]
        fresh = [value for value, _ in counts.most_common() if value not in told]
        told.update(fresh[: max(0, PLACES[name] - len(told))])

    def keys(self, entry: Entry) -> Iterator[Key]:
        """The rows that the entry counts in, each once: two of the total, and one for each tag."""
        sender, provider = self._place("sender_domain", entry.sender_domain), self._place("provider", entry.provider)
        recipient = self._place("recipient_domain", entry.recipient_domain)
        yield Key(*self._unit, SUMMARY, "", "", provider)
        yield self._row(Key(*self._unit, TOTAL, sender, recipient, provider))
        given: set[Key] = set()
        for tag in {self._place("tag", tag) for tag in entry.tags}:
            key = self._row(Key(*self._unit, tag, sender, "", provider))
            if key not in given:
                given.add(key)
                yield key

    def _place(self, name: str, value: str) -> str:
        return value if value in self._told[name] else OVERFLOW[name]

    def _row(self, key: Key) -> Key:
        if key in self._tallies or len(self._tallies) < ROWS:
            return key
        tag = TOTAL if key.tag == TOTAL else OTHERS
        return key._replace(tag=tag, sender_domain="", recipient_domain="")
