"""/v1/statistics: what became of an account's mail; sums of what `gateway.outbound.record` counts by the hour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from pydantic import Field

from gateway import errors
from gateway.lifecycle import Gateway
from gateway.mail import address
from gateway.models import Caller, Input, Output, Time
from gateway.outbound import latency
from gateway.storage import statistics
from gateway.storage.statistics import OTHERS, TOTAL
from gateway.web import api

MAX_ITEMS: Final = 5000  # of one answer: intervals, times groups
MAX_DAYS: Final = 400  # of one question
MAX_DAYS_BY_HOUR: Final = 31  # of one that tells hours apart, for which every hour is read
USUAL: Final = timedelta(days=1)  # how far back is looked where nobody says
HOUR: Final = timedelta(hours=1)
LENGTHS: Final[Mapping[str, timedelta]] = {"hour": HOUR, "day": timedelta(days=1), "total": timedelta(days=MAX_DAYS)}


class StatisticsQuery(Input):
    """Which mail, and how it is added up. Hours and days are UTC's."""

    since: Time | None = Field(None, description="From the hour of this time on; default: a day before `until`")
    until: Time | None = Field(None, description="To the end of the hour that this time lies in; default: now")
    interval: Literal["hour", "day", "total"] = "total"
    group_by: Literal["none", "provider", "sender_domain", "recipient_domain", "tag"] = "none"
    provider: str | None = Field(None, min_length=1, max_length=300, description="As `provider` of a recipient has it")
    domain: str | None = Field(None, min_length=1, max_length=255, description="The sender's")
    recipient_domain: str | None = Field(None, min_length=1, max_length=255)
    tag: str | None = Field(None, max_length=513, pattern=r"^[^:]+:[^:]+$", description="name:value")
    limit: int = Field(50, ge=1, le=200, description="Groups; those with the most mail")


class Latency(Output):
    """Seconds within which that share of what was taken had been handed over; null = nothing was taken."""

    p50: float | None
    p90: float | None
    p99: float | None


class Statistic(Output):
    """What the log holds of one interval and group."""

    object: Literal["statistic"] = "statistic"
    begins: Time = Field(serialization_alias="from")
    until: Time = Field(description="Exclusive")
    group: str | None = Field(description="null = not grouped, none, or those that are not told apart")
    accepted: int = Field(description="Recipients of e-mails that were taken from their callers")
    sent: int = Field(description="The next hop took it; from here on events of that name")
    delivered: int
    deferred: int
    bounced: int
    failed: int
    suppressed: int
    complained: int
    opened: int
    clicked: int
    unknown: int
    delivery_rate: float | None = Field(description="Recipients that were taken for good, of those that were decided")
    bounce_rate: float | None = Field(description="`bounced`, of those that were decided")
    complaint_rate: float | None = Field(description="`complained`, of those that were taken")
    latency_seconds: Latency = Field(description="From when a recipient was due to when the next hop had it")


class Statistics(Output):
    """The answer, and how far it reaches."""

    object: Literal["list"] = "list"
    data: list[Statistic] = Field(
        description="Oldest first; intervals and groups in which nothing happened are left out"
    )
    has_more: bool = Field(description="There are more groups than `limit`")
    next_cursor: None = None
    since: Time
    until: Time
    counted_until: Time = Field(description="What happened before is in these numbers; later events may be missing")
    cursor: str = Field(description="The same as a cursor of the event log")
    complete: bool = Field(description="Nothing waited to be counted")


class ArrivalsQuery(Input):
    """Which time, and how it is added up. Hours and days are UTC's."""

    since: Time | None = Field(None, description="From the hour of this time on; default: a day before `until`")
    until: Time | None = Field(None, description="To the end of the hour that this time lies in; default: now")
    interval: Literal["hour", "day", "total"] = "total"


class Arrival(Output):
    """Mail that came in in one interval."""

    object: Literal["arrival"] = "arrival"
    begins: Time = Field(serialization_alias="from")
    until: Time = Field(description="Exclusive")
    received: int = Field(description="Messages, one for each mailbox that a mail came to")
    dropped: int = Field(description="By an owner's policy or quota")


class Arrivals(Output):
    """The answer, and how far it reaches."""

    object: Literal["list"] = "list"
    data: list[Arrival] = Field(description="Oldest first; intervals in which nothing came are left out")
    has_more: bool = False
    next_cursor: None = None
    since: Time
    until: Time
    counted_until: Time = Field(description="What came before is in these numbers; later mail may be missing")
    cursor: str = Field(description="The same as a cursor of the event log")
    complete: bool = Field(description="Nothing waited to be counted")


class TrackRecord:
    """The operations."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def operations(self) -> Sequence[api.Operation]:
        return [
            api.op("GET", "/statistics", self.read, scope={"send", "read"}, tags=["E-mails"]),
            api.op("GET", "/statistics/inbound", self.arrivals, scope={"mailboxes", "read"}, tags=["Messages"]),
        ]

    async def read(self, caller: Caller, query: StatisticsQuery) -> Statistics:
        """What became of mail: counts, rates and latencies, by hour, day or in all, by provider, domain or tag.

        An e-mail counts under each of its tags; every other sum counts it once. An event counts in the hour in which it
        was told.
        """
        wanted = _wanted(query, self._gateway.database.clock.now())
        async with self._gateway.database.connection() as connection:
            reached = await statistics.coverage(connection, caller.account_id)
            found = await statistics.sums(connection, caller.account_id, wanted, limit=query.limit + 1)
        return Statistics(
            data=[_shown(one, wanted) for one in found if one.place <= query.limit],
            has_more=any(one.place > query.limit for one in found),
            since=wanted.since,
            until=wanted.until,
            counted_until=reached.until.astimezone(UTC),
            cursor=str(reached.seq),
            complete=reached.is_complete,
        )

    async def arrivals(self, caller: Caller, query: ArrivalsQuery) -> Arrivals:
        """Mail that came in, by hour, day or in all. A message counts in the hour in which its owner was told of it."""
        asked = StatisticsQuery(since=query.since, until=query.until, interval=query.interval)
        wanted = _wanted(asked, self._gateway.database.clock.now())
        time = {"since": wanted.since, "until": wanted.until}
        async with self._gateway.database.connection() as connection:
            reached = await statistics.coverage(connection, caller.account_id)
            found = await statistics.arrivals(connection, caller.account_id, interval=wanted.interval, **time)
        return Arrivals(
            data=[_arrived(one, wanted) for one in found],
            counted_until=reached.until.astimezone(UTC),
            cursor=str(reached.seq),
            complete=reached.is_complete,
            **time,
        )


def _arrived(one: statistics.Arrivals, wanted: statistics.Wanted) -> Arrival:
    start = one.start.astimezone(UTC)
    return Arrival(
        begins=max(start, wanted.since),
        until=min(start + LENGTHS[wanted.interval], wanted.until),
        received=one.received,
        dropped=one.dropped,
    )


def _wanted(query: StatisticsQuery, now: datetime) -> statistics.Wanted:
    """Raises ValidationFailed for what has no answer, or too long a one."""
    try:
        until = _hour(query.until or now, up=True)
        since = _hour(query.since or until - USUAL)
    except OverflowError:
        raise errors.invalid("until", "out of range") from None
    if since >= until:
        raise errors.invalid("since", "not before until")
    if until - since > timedelta(days=MAX_DAYS):
        raise errors.invalid("since", f"more than {MAX_DAYS} days before until")
    if query.interval == "hour" and until - since > timedelta(days=MAX_DAYS_BY_HOUR):
        raise errors.invalid("interval", f"hours are told apart over at most {MAX_DAYS_BY_HOUR} days")
    groups = 1 if query.group_by == "none" else query.limit
    if (intervals := _intervals(query.interval, since, until)) * groups > MAX_ITEMS:
        problem = f"{intervals} intervals of up to {groups} groups are more than {MAX_ITEMS:,} items"
        raise errors.invalid("interval", f"{problem}: ask for a longer interval, a shorter time or a lower limit")
    by_tag = query.tag is not None or query.group_by == "tag"
    if by_tag and (query.recipient_domain is not None or query.group_by == "recipient_domain"):
        field = "group_by" if query.recipient_domain is None else "recipient_domain"
        raise errors.invalid(field, "tags are not counted by recipient domain")
    return statistics.Wanted(
        since=since,
        until=until,
        interval=query.interval,
        group_by=query.group_by,
        tag=query.tag if query.tag is not None else None if query.group_by == "tag" else TOTAL,
        provider=query.provider,
        sender_domain=address.normal_domain(query.domain) if query.domain else None,
        recipient_domain=address.normal_domain(query.recipient_domain) if query.recipient_domain else None,
    )


def _hour(time: datetime, *, up: bool = False) -> datetime:
    full = time.replace(minute=0, second=0, microsecond=0)
    return full + HOUR if up and full < time else full


def _intervals(interval: str, since: datetime, until: datetime) -> int:
    first = since.replace(hour=0) if interval == "day" else since
    return -((first - until) // LENGTHS[interval])


def _shown(one: statistics.Sum, wanted: statistics.Wanted) -> Statistic:
    start = one.start.astimezone(UTC)
    counts = one.counts
    decided = counts["taken"] - counts["returned"] + counts["bounced"] + counts["failed"]
    return Statistic(
        begins=max(start, wanted.since),
        until=min(start + LENGTHS[wanted.interval], wanted.until),
        group=None if one.name in ("", OTHERS) else one.name,
        **{name: counts[name] for name in ("accepted", *statistics.OUTCOMES)},
        delivery_rate=_rate(counts["taken"] - counts["returned"], decided),
        bounce_rate=_rate(counts["bounced"], decided),
        complaint_rate=_rate(counts["complained"], counts["taken"]),
        latency_seconds=Latency(**{f"p{share}": _seconds(one.latencies, share / 100) for share in (50, 90, 99)}),
    )


def _rate(part: int, whole: int) -> float | None:
    """0 … 1: of mail that went out before the interval news may come within it."""
    return min(1.0, max(0.0, round(part / whole, 6))) if whole > 0 else None


def _seconds(latencies: Mapping[int, int], share: float) -> float | None:
    found = latency.quantile(latencies, share)
    return None if found is None else round(found, 4)
