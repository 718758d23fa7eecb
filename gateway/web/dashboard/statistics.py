"""Charts of what came in and what became of what went out, over a time that is chosen."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from markupsafe import Markup
from starlette.responses import Response

from gateway.web.dashboard import charts, layout, shell

Numbers = Mapping[datetime, Mapping[str, Any]]  # an interval's, by its beginning

OUTCOMES: Final = (
    *(("delivered", "Delivered"), ("sent", "Sent to the next hop"), ("deferred", "Put off")),
    *(("bounced", "Bounced"), ("failed", "Given up"), ("suppressed", "Suppressed")),
)
GROUPS: Final = {
    "provider": "Provider",
    "recipient_domain": "Recipient domain",
    "sender_domain": "Sender domain",
    "tag": "Tag",
}
MOST_GROUPS: Final = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A time to look at."""

    label: str
    step: Literal["hour", "day"]
    steps: int


WINDOWS: Final[Mapping[str, Window]] = {
    "day": Window(label="24 hours", step="hour", steps=24),
    "week": Window(label="7 days", step="hour", steps=168),
    "month": Window(label="30 days", step="day", steps=30),
    "quarter": Window(label="90 days", step="day", steps=90),
}


class Statistics:
    """/statistics."""

    def routes(self) -> Sequence[shell.Door]:
        return [shell.get("/statistics", self.look)]

    async def look(self, visit: shell.Visit) -> Response:
        name, group = _chosen(visit, "over", WINDOWS, "day"), _chosen(visit, "by", GROUPS, "provider")
        window = WINDOWS[name]
        instants = _instants(window, datetime.now(UTC))
        asked: dict[str, Any] = {"since": _text(instants[0]), "interval": window.step}
        out = await _asked(visit, "/statistics", ("send", "read"), **asked)
        come = await _asked(visit, "/statistics/inbound", ("mailboxes", "read"), **asked)
        since = {"since": asked["since"]}
        grouped = await _asked(visit, "/statistics", ("send", "read"), **since, group_by=group, limit=MOST_GROUPS)
        whole = await _asked(visit, "/statistics", ("send", "read"), **since)
        total = next(iter(whole["data"]), None) if whole else None
        return visit.show(
            "statistics.html",
            drawn=_drawn(charts.over_time(instants, window.step), instants, out, come),
            rankings=_rankings(grouped, GROUPS[group]),
            total=total,
            latency=charts.in_words(total["latency_seconds"]["p50"] if total else None, "seconds"),
            came=sum(one["received"] for one in come["data"]) if come else None,
            behind=next((one for one in (out, come) if one is not None and not one["complete"]), None),
            windows=WINDOWS,
            over=name,
            groups=GROUPS,
            by=group,
        )


def _chosen(visit: shell.Visit, name: str, choice: Mapping[str, Any], usual: str) -> str:
    asked = visit.query(name) or usual
    return asked if asked in choice else usual


async def sparks(visit: shell.Visit) -> dict[str, tuple[int, Markup]]:
    """The last day in small, in all and as a line, by what it shows: "received", "accepted"; without what the key may
    not see."""
    instants = _instants(WINDOWS["day"], datetime.now(UTC))
    asked: dict[str, Any] = {"since": _text(instants[0]), "interval": "hour"}
    found = {}
    for name, path, scope, title in (
        ("received", "/statistics/inbound", "mailboxes", "Mail in, the last 24 hours"),
        ("accepted", "/statistics", "send", "Mail out, the last 24 hours"),
    ):
        if (told := await _asked(visit, path, (scope, "read"), **asked)) is not None:
            values = _values(_numbers(told), instants, name)
            found[name] = (int(sum(value or 0 for value in values)), charts.sparkline(title, values, tone=name))
    return found


async def _asked(visit: shell.Visit, path: str, scopes: tuple[str, ...], **query: Any) -> Any:
    """None where the key may not ask."""
    return await visit.desk.get(path, **query) if visit.may(*scopes) else None


def _instants(window: Window, now: datetime) -> list[datetime]:
    """Beginnings of the intervals, the present one last."""
    last = now.replace(minute=0, second=0, microsecond=0)
    if window.step == "day":
        last = last.replace(hour=0)
    step = timedelta(hours=1) if window.step == "hour" else timedelta(days=1)
    return [last - step * (window.steps - 1 - number) for number in range(window.steps)]


def _text(instant: datetime) -> str:
    return instant.isoformat()


def _numbers(found: Mapping[str, Any]) -> Numbers:
    return {layout.parsed(one["from"]): one for one in found["data"]}


def _values(numbers: Numbers, instants: Sequence[datetime], name: str) -> list[float | None]:
    """Counts: intervals that are left out are 0."""
    return [numbers[instant][name] if instant in numbers else 0 for instant in instants]


def _known(numbers: Numbers, instants: Sequence[datetime], name: str) -> list[float | None]:
    """Shares: of nothing there is none."""
    return [numbers[instant][name] if instant in numbers else None for instant in instants]


def _latencies(numbers: Numbers, instants: Sequence[datetime], name: str) -> list[float | None]:
    return [numbers[instant]["latency_seconds"][name] if instant in numbers else None for instant in instants]


# Charts


def _drawn(
    points: charts.Points, instants: Sequence[datetime], out: Mapping[str, Any] | None, come: Mapping[str, Any] | None
) -> list[Markup]:
    drawn = []
    if come is not None:
        drawn.append(_arrivals(points, instants, _numbers(come)))
    if out is not None:
        numbers = _numbers(out)
        drawn += [draw(points, instants, numbers) for draw in (_outcomes, _latency, _rates)]
    return drawn


def _arrivals(points: charts.Points, instants: Sequence[datetime], numbers: Numbers) -> Markup:
    named = (("received", "Received"), ("dropped", "Dropped"))
    series = [charts.Series(name=label, tone=name, values=_values(numbers, instants, name)) for name, label in named]
    return charts.bars("Mail that came in", points, series)


def _outcomes(points: charts.Points, instants: Sequence[datetime], numbers: Numbers) -> Markup:
    series = [charts.Series(name=label, tone=name, values=_values(numbers, instants, name)) for name, label in OUTCOMES]
    return charts.bars("What became of mail that went out", points, series)


def _latency(points: charts.Points, instants: Sequence[datetime], numbers: Numbers) -> Markup:
    named = (("p50", "Half of it"), ("p90", "90 %"), ("p99", "99 %"))
    series = [charts.Series(name=label, tone=name, values=_latencies(numbers, instants, name)) for name, label in named]
    return charts.bands("From due to handed over, within", points, series)


def _rates(points: charts.Points, instants: Sequence[datetime], numbers: Numbers) -> Markup:
    named = (("bounce_rate", "Bounces", "bounced"), ("complaint_rate", "Complaints", "complained"))
    series = [
        charts.Series(name=label, tone=tone, values=_known(numbers, instants, name)) for name, label, tone in named
    ]
    return charts.lines("Bounces and complaints", points, series, unit="share")


def _taken(one: Mapping[str, Any]) -> float:
    """An e-mail may be sent to the next hop and delivered by it: the larger of the two is what left at least."""
    return float(max(one["sent"], one["delivered"]))


def _slow(one: Mapping[str, Any]) -> float | None:
    found: float | None = one["latency_seconds"]["p90"]
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """Something that groups are compared by."""

    title: str
    tone: str  # of charts.TONES
    unit: charts.Unit
    value: Callable[[Mapping[str, Any]], float | None]  # of a statistic
    note: str = ""  # the count that is told beside it; empty = none


MEASURES: Final = (
    Measure(title="Handed over or delivered", tone="delivered", unit="count", value=_taken),
    Measure(
        title="Bounce rate", tone="bounced", unit="share", value=operator.itemgetter("bounce_rate"), note="bounced"
    ),
    Measure(
        title="Complaint rate",
        tone="complained",
        unit="share",
        value=operator.itemgetter("complaint_rate"),
        note="complained",
    ),
    Measure(title="90 % handed over within", tone="p90", unit="seconds", value=_slow),
)


def _rankings(grouped: Mapping[str, Any] | None, heading: str) -> list[tuple[str, Markup]]:
    """Title and table of each measure."""
    if grouped is None:
        return []
    groups = [one for one in grouped["data"] if one["group"] is not None]
    return [(measure.title, _ranking(measure, groups, heading)) for measure in MEASURES]


def _ranking(measure: Measure, groups: Sequence[Mapping[str, Any]], heading: str) -> Markup:
    rows = [charts.Row(name=one["group"], value=measure.value(one), note=_note(one, measure)) for one in groups]
    known = sorted((row for row in rows if row.value is not None), key=lambda row: -(row.value or 0))
    return charts.ranked(measure.title, known, heading=heading, tone=measure.tone, unit=measure.unit)


def _note(one: Mapping[str, Any], measure: Measure) -> str:
    return f"({one[measure.note]:,})" if measure.note else ""
