"""What became of mail, added up by hours and by days; and how much of it waits.

The event log is the queue: `counting` says up to which seq an account's log is in `delivery_statistics`, and both are
written in one transaction under the lock of the account's row there, so that every event is counted once, whoever dies.
Rows are read, added to and written back whole; nobody else writes them meanwhile.

Each hour, and each day once more, has rows for the total, split by sender domain, recipient domain and provider, and
rows for each tag, split by sender domain and provider. Whole days are summed from the days' rows, and what asks for
no domain from rows of the total that know of none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

from gateway.storage import db
from gateway.storage.sql import load

sql = load("statistics")

OUTCOMES: Final = (
    *("sent", "delivered", "deferred", "bounced", "failed", "suppressed"),
    *("complained", "opened", "clicked", "unknown"),
)
COUNTERS: Final = ("accepted", *OUTCOMES, "taken", "returned")  # columns
TYPES: Final = [f"email.{what}" for what in ("queued", "scheduled", *OUTCOMES)]  # of events that are looked at
ARRIVALS: Final = ["message.received", "message.dropped"]  # of those that are merely counted
ALL_TYPES: Final = [*TYPES, *ARRIVALS]
SPAN: Final = 5000  # events behind the last counted one that are looked through at once for those
DAY: Final = timedelta(days=1)
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
Recipient = tuple[UUID, str]  # an e-mail's id and one of its addresses

TOTAL: Final = ""  # the tag of rows in which each event counts once
SUMMARY: Final = "~"  # the tag of rows of the total by provider alone: few to add up where nothing else is asked for
OTHERS: Final = "*"  # the tag, and the provider, of what an hour has no room for


class Key(NamedTuple):
    """Which row."""

    is_day: bool  # else of an hour
    hour: datetime  # the beginning of either, UTC
    tag: str  # name:value, TOTAL, SUMMARY or OTHERS
    sender_domain: str  # empty = others
    recipient_domain: str  # empty = others, or not told apart
    provider: str  # empty = none was asked; OTHERS


@dataclass(kw_only=True, slots=True)
class Tally:
    """A row's numbers, as far as they are not 0."""

    counts: Counter[str] = field(default_factory=Counter)  # by COUNTERS
    latencies: Counter[int] = field(default_factory=Counter)  # by bucket


@dataclass(frozen=True, kw_only=True, slots=True)
class News:
    """An event that is to be counted."""

    seq: int
    type: str  # one of TYPES
    email_id: UUID
    created_at: datetime
    recipient: str | None  # None = it is about the whole e-mail
    provider: str | None  # None = none was asked
    is_new: bool  # of email.queued and email.scheduled: the e-mail was accepted, and not changed


@dataclass(frozen=True, kw_only=True, slots=True)
class Mail:
    """What an e-mail's events are counted under."""

    from_address: str
    tags: list[dict[str, str]]  # name, value
    due_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A recipient as it is now, which may be later than what is counted."""

    provider: str | None  # that it left by last; None = none yet
    due_at: datetime | None  # first, or since its sender asked for a retry; None = never


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """How far an account is counted."""

    seq: int  # everything up to here
    until: datetime  # everything that happened before
    is_complete: bool  # nothing waits to be counted


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What somebody asks for; None = whatever."""

    since: datetime  # a full hour
    until: datetime  # a full hour, exclusive
    interval: str  # hour, day, total
    group_by: str  # none, provider, sender_domain, recipient_domain, tag
    tag: str | None  # None = every one; TOTAL = none of them: each event once
    provider: str | None = None
    sender_domain: str | None = None
    recipient_domain: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sum:
    """One group in one interval."""

    start: datetime  # of the interval; may lie before what was asked for
    name: str  # of the group; empty where there are none
    place: int  # of the group, 1 = the one with the most mail
    counts: dict[str, int]  # by COUNTERS
    latencies: dict[int, int]  # by bucket


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrivals:
    """Mail that came in in one interval."""

    start: datetime  # of the interval; may lie before what was asked for
    received: int  # messages, one a mailbox
    dropped: int  # by an owner's policy or quota


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """A group of recipients that wait to be written to."""

    kind: str  # all, status, domain, provider
    name: str  # of the group; of a provider empty where there was no attempt yet
    recipients: int = 0
    due: int = 0  # whom nobody has in hand though their time has come
    sending: int = 0
    deferred: int = 0
    oldest_due_at: datetime | None = None  # None = nobody is due
    waits_since: datetime | None = None  # the longest, since first due or a retry; None = all are for later
    next_at: datetime | None = None  # when the next of those not due yet is; None = there is none
    reply: str | None = None  # what a peer last said to any of them; None = nothing yet


async def behind(connection: db.Connection, *, after_id: UUID, limit: int) -> tuple[list[UUID], UUID | None]:
    """Accounts with events to count among the next `limit`, and where to go on; None = these were the last ones."""
    rows = await sql.behind.fetch(connection, after=after_id, limit=limit, span=SPAN, types=ALL_TYPES)
    found = [row["account_id"] for row in rows if row["has_work"]]
    return found, rows[-1]["account_id"] if len(rows) == limit else None


async def has_news(connection: db.Connection, account_id: UUID) -> bool:
    """Whether there are events of the account to count; a look that locks and writes nothing."""
    found: bool | None = await sql.has_news.value(connection, account_id=account_id, span=SPAN, types=ALL_TYPES)
    return bool(found)


async def begin(connection: db.Connection, account_id: UUID) -> None:
    """Make the account's row, where it is not there yet; a transaction of its own, or two readers would wait here."""
    await sql.begin.run(connection, account_id=account_id)


async def take(connection: db.Connection, account_id: UUID) -> int | None:
    """The seq up to which the account is counted, locked against all others; None = somebody else is at it."""
    taken: int | None = await sql.take.value(connection, account_id=account_id)
    return taken


async def news(connection: db.Connection, account_id: UUID, after: int, until: int, limit: int) -> list[News]:
    """Events to count between two seqs, oldest first."""
    rows = await sql.news.fetch(connection, account_id=account_id, after=after, until=until, types=TYPES, limit=limit)
    return [News(**dict(row)) for row in rows]


async def add_arrivals(connection: db.Connection, account_id: UUID, after: int, until: int) -> bool:
    """Count mail that came in between two seqs, in the transaction that says so; whether there was any."""
    rows = await sql.add_arrivals.fetch(connection, account_id=account_id, after=after, until=until, types=ARRIVALS)
    return bool(rows)


async def mails(connection: db.Connection, account_id: UUID, ids: Iterable[UUID]) -> dict[UUID, Mail]:
    """Those of the e-mails that are there."""
    rows = await sql.emails.fetch(connection, account_id=account_id, ids=list(ids))
    return {row["id"]: Mail(**{name: row[name] for name in Mail.__dataclass_fields__}) for row in rows}


async def recipients(
    connection: db.Connection, account_id: UUID, ids: Sequence[UUID]
) -> dict[UUID, list[tuple[str, int]]]:
    """By e-mail, the domains of its recipients and how many they are at each."""
    found: dict[UUID, list[tuple[str, int]]] = {id: [] for id in ids}
    for row in await sql.recipients.fetch(connection, account_id=account_id, ids=list(ids)):
        found[row["email_id"]].append((row["domain"], row["count"]))
    return found


async def standings(connection: db.Connection, account_id: UUID, ids: Iterable[UUID]) -> dict[Recipient, Standing]:
    """How the recipients of these e-mails stand."""
    rows = await sql.standings.fetch(connection, account_id=account_id, ids=list(ids))
    return {
        (row["email_id"], row["address"]): Standing(provider=row["provider"], due_at=row["waits_since"]) for row in rows
    }


async def taken(connection: db.Connection, account_id: UUID, ids: Iterable[UUID], until: int) -> set[Recipient]:
    """E-mails and recipients that stood as sent or delivered at a seq, as far back as the log goes."""
    rows = await sql.outcomes.fetch(connection, account_id=account_id, ids=list(ids), until=until)
    return {(row["email_id"], row["recipient"] or "") for row in rows if row["is_taken"]}


async def held(connection: db.Connection, account_id: UUID, units: Sequence[tuple[bool, datetime]]) -> dict[Key, Tally]:
    """Everything that is counted in these hours and days (is_day, beginning)."""
    is_days, hours = [is_day for is_day, _ in units], [hour for _, hour in units]
    rows = await sql.units.fetch(connection, account_id=account_id, is_days=is_days, hours=hours)
    return {Key(**{name: row[name] for name in Key._fields}): _tally(row) for row in rows}


def _tally(row: Any) -> Tally:
    latencies = {row["first_bucket"] + place: count for place, count in enumerate(row["latencies"])}
    return Tally(counts=Counter({name: row[name] for name in COUNTERS}), latencies=Counter(latencies))


async def save(connection: db.Connection, account_id: UUID, tallies: Mapping[Key, Tally], until: int) -> None:
    """Write these rows as they are now, and that everything up to a seq is counted."""
    if tallies:
        rows = sorted(tallies.items())
        spans = [_span(tally.latencies) for _, tally in rows]
        await sql.save.run(
            connection,
            account_id=account_id,
            **{f"{name}s": [getattr(key, name) for key, _ in rows] for name in Key._fields},
            **{name: [tally.counts[name] for _, tally in rows] for name in COUNTERS},
            first_buckets=[first for first, _ in spans],
            latencies=[f"{{{','.join(map(str, counts))}}}" for _, counts in spans],
        )
    await sql.advance.run(connection, account_id=account_id, until=until)


def _span(latencies: Counter[int]) -> tuple[int, list[int]]:
    """The first bucket that holds anything, and what it and the following ones hold, up to the last that does."""
    held = [bucket for bucket, count in latencies.items() if count]
    if not held:
        return 0, []
    first = min(held)
    return first, [latencies[bucket] for bucket in range(first, max(held) + 1)]


# Reading


async def coverage(connection: db.Connection, account_id: UUID) -> Coverage:
    """How far the account is counted. Asked before the sums, it never says too much."""
    row = await sql.coverage.row(connection, account_id=account_id, span=SPAN, types=ALL_TYPES)
    if row is None:
        raise LookupError(f"account {account_id} has no event log")
    since = row["waiting_since"]
    if since is None and row["last_seq"] > row["counted_seq"] + SPAN:
        since = row["next_at"]
    if since is None:
        return Coverage(seq=row["last_seq"], until=row["now"], is_complete=True)
    return Coverage(seq=row["counted_seq"], until=since, is_complete=False)


async def sums(connection: db.Connection, account_id: UUID, wanted: Wanted, *, limit: int) -> list[Sum]:
    """What happened, by interval and then by group; of the groups the `limit` with the most mail."""
    names = ("since", "interval", "group_by", "provider", "sender_domain", "recipient_domain")
    values = {name: getattr(wanted, name) for name in names} | {"tag": _tag(wanted)} | _pieces(wanted)
    rows = await sql.totals.fetch(connection, account_id=account_id, limit=limit, **values)
    groups = list({row["name"] for row in rows})
    latencies: dict[tuple[datetime, str], dict[int, int]] = {(row["start"], row["name"]): {} for row in rows}
    for row in await sql.latencies.fetch(connection, account_id=account_id, names=groups, **values):
        latencies.setdefault((row["start"], row["name"]), {})[row["bucket"]] = row["count"]
    return [
        Sum(
            start=row["start"],
            name=row["name"],
            place=row["place"],
            counts={name: row[name] for name in COUNTERS},
            latencies=latencies[row["start"], row["name"]],
        )
        for row in rows
    ]


async def arrivals(
    connection: db.Connection, account_id: UUID, *, since: datetime, until: datetime, interval: str
) -> list[Arrivals]:
    """Mail that came in, interval by interval; those without any are left out."""
    values = {"since": since, "until": until, "interval": interval}
    rows = await sql.arrivals.fetch(connection, account_id=account_id, **values)
    return [Arrivals(start=row["start"], received=row["received"], dropped=row["dropped"]) for row in rows]


def _tag(wanted: Wanted) -> str | None:
    """The tag of the rows that answer."""
    no_domain = wanted.sender_domain is None and wanted.recipient_domain is None
    summary = wanted.tag == TOTAL and no_domain and wanted.group_by in ("none", "provider")
    return SUMMARY if summary else wanted.tag


def _pieces(wanted: Wanted) -> dict[str, list[Any]]:
    """The time that is asked for: whole days by their rows unless hours are told apart, and the rest by hours."""
    first = -((EPOCH - wanted.since) // DAY) * DAY + EPOCH
    last = (wanted.until - EPOCH) // DAY * DAY + EPOCH
    if wanted.interval == "hour" or first >= last:
        return {"is_days": [False], "sinces": [wanted.since], "untils": [wanted.until]}
    return {
        "is_days": [False, True, False],
        "sinces": [wanted.since, first, last],
        "untils": [first, last, wanted.until],
    }


async def forget(connection: db.Connection, before: datetime, limit: int) -> int:
    """Remove a slice of the hours that began before `before`; rows removed."""
    removed = 0
    for row in await sql.old_accounts.fetch(connection, before=before, limit=limit):
        removed += await sql.forget.run(connection, account_id=row["account_id"], before=before, limit=limit)
    return removed


async def forget_arrivals(connection: db.Connection, before: datetime, limit: int) -> int:
    """The same of mail that came in."""
    removed = 0
    for row in await sql.old_arrivals.fetch(connection, before=before, limit=limit):
        removed += await sql.forget_arrivals.run(connection, account_id=row["account_id"], before=before, limit=limit)
    return removed


# What waits


async def queue(connection: db.Connection, limit: int) -> dict[str, int]:
    """Recipients of all accounts that wait to be written to, by status; those due first, counted up to `limit`."""
    return {row["status"]: row["count"] for row in await sql.queue.fetch(connection, limit=limit)}


async def oldest_due(connection: db.Connection) -> float:
    """Seconds for which somebody has been due and was not taken in hand; 0 = nobody waits."""
    return float(await sql.oldest_due.value(connection))


async def waiting(connection: db.Connection, account_id: UUID, *, limit: int, groups: int) -> list[Waiting]:
    """Recipients of an account that wait, those due first counted up to `limit`; of each kind so many `groups`."""
    rows = await sql.waiting.fetch(connection, account_id=account_id, limit=limit, groups=groups)
    return [Waiting(**{name: row[name] for name in Waiting.__dataclass_fields__}) for row in rows]
