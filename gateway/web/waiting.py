"""/v1/queue: what waits to go out, where to, and how the ways there stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from pydantic import Field

from gateway.lifecycle import Gateway
from gateway.models import Caller, Input, Output, Time
from gateway.outbound import standing
from gateway.outbound.providers.local import LocalProvider
from gateway.storage import emails, statistics, vitals
from gateway.web import api

MOST: Final = 10_000  # recipients that are counted
_NO_WAY_OUT: Final = frozenset({"", statistics.OTHERS, LocalProvider.name})  # nobody was asked, others, it stays here
RECENT: Final = timedelta(days=1)  # in which a provider was used that is told of


class QueueQuery(Input):
    """How much is told."""

    limit: int = Field(50, ge=1, le=200, description="Destinations; those with the most recipients")


class Line(Output):
    """Recipients that wait to be written to."""

    recipients: int
    due: int = Field(description="Whose time has come, and whom no worker has in hand")
    sending: int
    deferred: int = Field(description="Tried, and to be tried again")
    oldest_due_at: Time | None = Field(description="null = nobody is due")
    waits_since: Time | None = Field(description="Of who waits longest, first due or retried; null = all are for later")
    next_attempt_at: Time | None = Field(description="Of those who are not due yet; null = there are none")
    reply: str | None = Field(description="What a peer last said to any of them; null = nothing yet")


class Pace(Line):
    """The same, and how fast it can become less."""

    again_at: Time | None = Field(description="Not written to before; null = it is being written to")
    per_second: float | None = Field(description="Attempts of one worker; null = as they come")


class Destination(Pace):
    """One recipient domain."""

    domain: str
    state: Literal["open", "slowed", "asked", "closed"] = Field(
        description="Of the domain's hosts, where mail goes straight to them: slowed = it said that we come too often; "
        "asked = it said when to come again; closed = nobody answers there"
    )


class Provider(Pace):
    """One provider, and the recipients whose last attempt it made."""

    name: str
    state: Literal["ready", "slowed", "asked", "left_alone", "unknown"] = Field(
        description="left_alone = it has trouble of its own; unknown = no worker tells of it"
    )


class Backlog(Line):
    """Everything that waits."""

    object: Literal["queue"] = "queue"
    is_cut: bool = Field(description=f"More than {MOST:,} wait: these numbers are of those who are due first")
    statuses: dict[str, int] = Field(description="Recipients by status")
    destinations: list[Destination] = Field(description="Those with the most recipients first")
    providers: list[Provider] = Field(description="By which mail waits, or went in the last day")
    workers: int = Field(description="Worker processes that live; with 0 nothing is sent")
    checked_at: Time


class WaitingLine:
    """The operation."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def operations(self) -> Sequence[api.Operation]:
        return [api.op("GET", "/queue", self.queue, scope={"send", "read"}, tags=["E-mails"])]

    async def queue(self, caller: Caller, query: QueueQuery) -> Backlog:
        """What waits to go out: how much, since when, where to, and how the ways there stand.

        Workers tell every five seconds how providers and destinations stand; of several workers the worst is told.
        """
        now = self._gateway.database.clock.now()
        groups = max(query.limit, len(emails.ORDER))
        async with self._gateway.database.connection() as connection:
            found = await statistics.waiting(connection, caller.account_id, limit=MOST + 1, groups=groups)
            told = await vitals.standings(connection)
            used = await statistics.sums(connection, caller.account_id, _recent(now), limit=query.limit)
        ways, shaped = standing.worst(standing.read(one, age) for one, age in told)
        by_kind = {kind: [one for one in found if one.kind == kind] for kind in ("all", "status", "domain", "provider")}
        whole = by_kind["all"][0]
        names = dict.fromkeys((*(one.name for one in by_kind["provider"]), *(one.name for one in used)))
        waiting = {one.name: one for one in by_kind["provider"]}
        return Backlog(
            **_line(whole, most=MOST),
            is_cut=whole.recipients > MOST,
            statuses={one.name: one.recipients for one in by_kind["status"]},
            destinations=[_destination(one, shaped, now) for one in by_kind["domain"][: query.limit]],
            providers=[
                _provider(waiting.get(name, statistics.Waiting(kind="provider", name=name)), ways, shaped, now)
                for name in names
                if name not in _NO_WAY_OUT
            ],
            workers=len(told),
            checked_at=now,
        )


def _recent(now: datetime) -> statistics.Wanted:
    until = now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    return statistics.Wanted(
        since=until - RECENT, until=until, interval="total", group_by="provider", tag=statistics.TOTAL
    )


def _line(one: statistics.Waiting, most: int | None = None) -> dict[str, Any]:
    recipients = one.recipients if most is None else min(one.recipients, most)
    return {
        "recipients": recipients,
        **{name: getattr(one, name) for name in ("due", "sending", "deferred", "reply")},
        "oldest_due_at": _utc(one.oldest_due_at),
        "waits_since": _utc(one.waits_since),
        "next_attempt_at": _utc(one.next_at),
    }


def _destination(one: statistics.Waiting, shaped: Mapping[str, standing.Shaped], now: datetime) -> Destination:
    found = shaped.get(one.name)
    state = "open" if found is None else found.state
    return Destination(**_line(one), **_pace(found, now), domain=one.name, state=state)


def _provider(
    one: statistics.Waiting,
    ways: Mapping[str, standing.Way],
    shaped: Mapping[str, standing.Shaped],
    now: datetime,
) -> Provider:
    way, slow = ways.get(one.name), shaped.get(one.name)
    if way is not None and (way.state == "left_alone" or slow is None):
        return Provider(**_line(one), **_pace(way, now), name=one.name, state=way.state)
    if slow is not None and slow.state != "closed":
        return Provider(**_line(one), **_pace(slow, now), name=one.name, state=slow.state)
    return Provider(**_line(one), **_pace(None, now), name=one.name, state="unknown")


def _pace(found: standing.Way | standing.Shaped | None, now: datetime) -> dict[str, Any]:
    again_in = 0.0 if found is None else found.again_in
    return {
        "again_at": now + timedelta(seconds=again_in) if again_in else None,
        "per_second": found.per_second if isinstance(found, standing.Shaped) else None,
    }


def _utc(time: datetime | None) -> datetime | None:
    return None if time is None else time.astimezone(UTC)
