"""Charts, drawn on the server from plain numbers: SVG that needs no script, and the same numbers as a table.

    bars        counts of several kinds over time, one on top of the other
    lines       several measures over time
    bands       percentiles over time, the room between them filled
    ranked      groups, longest bar first
    sparkline   the shape of one measure, in a line of text

Widths are per cent and heights pixels, so that a chart takes the room there is while its texts keep their size. Nothing
carries a style of its own, which the dashboard's policy forbids: colours come from the class `tone-…` (charts.css).
Whatever stands in names and labels is escaped. A number that is none (NaN, infinite) counts as unknown.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, TypeVar

from markupsafe import Markup

Unit = Literal["count", "seconds", "share"]
TONES: Final = frozenset(
    {
        *("received", "dropped", "accepted", "sent", "delivered", "deferred", "bounced", "failed", "suppressed"),
        *("complained", "p50", "p90", "p99", "other"),
    }
)
HEIGHT: Final = 184  # pixels, of a plot with the labels under its axis
TOP: Final = 14  # where the highest value lies
BASE: Final = 156  # where 0 lies
SCALE_WIDTH: Final = 52  # pixels, of the labels at the left
SPARK_HEIGHT: Final = 28
STRETCH: Final = 1000  # user units across, of what is stretched to the plot's width
MOST_MARKS: Final = 8  # under an axis
MOST: Final = 1e15  # a larger number is drawn as this one
LEAST: Final = 1e-9  # a smaller number is drawn as 0
WIDE: Final = 50.0  # times the smallest value: from here on durations are drawn on a logarithmic scale
_LADDER: Final = (0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 36_000.0, 360_000.0)  # seconds
_STRIDES: Final = {"hour": (1, 2, 3, 6, 12, 24), "day": (1, 2, 7, 14, 28, 56)}

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One measure: a number for each point of the axis."""

    name: str  # in the legend, and its column's heading
    tone: str  # one of TONES
    values: Sequence[float | None]  # None = not known


@dataclass(frozen=True, kw_only=True, slots=True)
class Points:
    """What the axis below counts: one label a point."""

    labels: Sequence[str]  # whole, for the table
    marks: Mapping[int, str] = field(default_factory=dict)  # those under the axis, by place, short
    heading: str = "Time (UTC)"  # of their column


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One group of a ranking."""

    name: str
    value: float | None  # None = not known
    note: str = ""  # behind the value; may be empty


# Where things lie


class Scale:
    """From values to pixels, and the lines across."""

    def __init__(self, values: Sequence[float], unit: Unit) -> None:
        """`values`: all that are drawn, 0 or more each."""
        self._unit = unit
        positive = [value for value in values if value > 0]
        top = max(positive, default=0.0)
        self._is_log = unit == "seconds" and len(positive) > 0 and top > WIDE * min(positive)
        self.ticks = _rungs(min(positive), top) if self._is_log else _even_ticks(top, unit)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        low, high = self.ticks[0], self.ticks[-1]
        share = math.log(max(value, low) / low) / math.log(high / low) if self._is_log else value / high
        return round(BASE - (BASE - TOP) * min(max(share, 0.0), 1.0), 2)


def _rungs(least: float, most: float) -> list[float]:
    first = max((rung for rung in _LADDER[:-1] if rung <= least), default=_LADDER[0])
    last = min((rung for rung in _LADDER if rung >= most and rung > first), default=_LADDER[-1])
    return [rung for rung in _LADDER if first <= rung <= last]


def _even_ticks(top: float, unit: Unit) -> list[float]:
    """0 and up to five steps of 1, 2 or 5 times a power of ten, in the unit that the labels are in."""
    if top <= 0:
        return [0.0, 1.0]
    base = _second_base(top) if unit == "seconds" else 0.01 if unit == "share" else 1.0
    raw = top / base / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    if unit == "count":
        step = max(1.0, step)
    steps = max(1, math.ceil(top / base / step - 1e-9))
    return [step * base * number for number in range(steps + 1)]


def _second_base(seconds: float) -> float:
    return next(base for least, base in ((7200, 3600.0), (120, 60.0), (1, 1.0), (0, 0.001)) if seconds >= least)


def _known(values: Sequence[float | None]) -> list[float | None]:
    """None for what is no number; nothing below 0 or beyond MOST."""
    return [None if value is None or not math.isfinite(value) else _within(value) for value in values]


def _within(value: float) -> float:
    return 0.0 if value < LEAST else min(float(value), MOST)


# In words


def in_words(value: float | None, unit: Unit, *, short: bool = False) -> str:
    """A value as people read it: 1,234 or 1.2k; 250 ms, 1.5 s, 3 min; 2.5 %."""
    if value is None or not math.isfinite(value):
        return "–"
    if unit == "seconds":
        return _duration(_within(value))
    if unit == "share":
        return f"{_plain(_within(value) * 100)} %"
    return _short(_within(value)) if short else f"{_within(value):,.10g}"


def _duration(seconds: float) -> str:
    for least, divisor, name in ((172_800, 86_400, "d"), (7200, 3600, "h"), (120, 60, "min"), (1, 1, "s")):
        if seconds >= least or (least == 120 and seconds == 60):
            return f"{_plain(seconds / divisor)} {name}"
    return f"{_plain(seconds * 1000)} ms"


def _short(count: float) -> str:
    for least, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if count >= least:
            return f"{_plain(count / (1e3 if name == 'k' else least))}{name}"
    return f"{count:,.10g}"


def _plain(number: float) -> str:
    """Three digits that count."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def over_time(instants: Sequence[datetime], step: Literal["hour", "day"]) -> Points:
    """The axis of these instants, one an hour or a day, in their order."""
    whole = "%d %b %Y" if step == "day" else "%d %b %H:%M"
    units = [one.toordinal() if step == "day" else one.toordinal() * 24 + one.hour for one in instants]
    stride = next((s for s in _STRIDES[step] if sum(u % s == 0 for u in units) <= MOST_MARKS), _STRIDES[step][-1])
    places = [place for place, unit in enumerate(units) if unit % stride == 0]
    places = places[:: max(1, math.ceil(len(places) / MOST_MARKS))]
    return Points(
        labels=[one.strftime(whole).lstrip("0") for one in instants],
        marks={place: _mark(instants[place], step) for place in places},
    )


def _mark(one: datetime, step: str) -> str:
    return one.strftime("%d %b").lstrip("0") if step == "day" or one.hour == 0 else one.strftime("%H:%M")


# Elements


def _element(name: str, *content: str | Markup, **attributes: object) -> Markup:
    """An element; `class_` is its class, and of other attributes _ is a -. Everything is escaped but Markup."""
    given = [(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None]
    opening = Markup("").join(Markup(' {}="{}"').format(_attribute(key), value) for key, value in given)
    return Markup("<{0}{1}>{2}</{0}>").format(
        Markup(name),  # noqa: S704 - names are this module's own
        opening,
        Markup("").join(content),
    )


def _attribute(key: str) -> Markup:
    return Markup({"viewBox": "viewBox", "preserveAspectRatio": "preserveAspectRatio"}.get(key, key))  # noqa: S704 - this module's own


def _percent(share: float) -> str:
    return f"{round(share, 3):g}%"


def _middle(place: int, count: int) -> float:
    """Per cent from the left."""
    return (place + 0.5) / count * 100


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plot:
    """What is to be drawn, checked."""

    title: str
    points: Points
    series: Sequence[Series]
    unit: Unit
    known: Sequence[Sequence[float | None]]  # of each series
    scale: Scale

    @property
    def count(self) -> int:
        """Points."""
        return len(self.points.labels)

    def at(self, place: int) -> list[tuple[Series, float | None]]:
        """Each series with its value at a point."""
        return [(one, values[place]) for one, values in zip(self.series, self.known, strict=True)]

    def said(self, place: int) -> Markup:
        """What a pointer over the point is told, and the room in which it is."""
        told = [f"{one.name}: {in_words(value, self.unit)}" for one, value in self.at(place)]
        room = {"x": _percent(place * 100 / self.count), "width": _percent(100 / self.count)}
        hit = _element("rect", class_="hit", y=TOP, height=BASE - TOP, **room)
        return _element("title", "\n".join([self.points.labels[place], *told])) + hit


# Charts


def bars(title: str, points: Points, series: Sequence[Series], *, unit: Unit = "count") -> Markup:
    """Stacked columns: one a point, the first series lowest. A value that is not known takes no room."""
    known = _checked(points, series)
    heights = [_within(sum(values[place] or 0.0 for values in known)) for place in range(len(points.labels))]
    plot = _Plot(title=title, points=points, series=series, unit=unit, known=known, scale=Scale(heights, unit))
    return _figure(plot, [_column(plot, place) for place in range(plot.count)], is_empty=not any(heights))


def _column(plot: _Plot, place: int) -> Markup:
    slot = 100 / plot.count
    x, width = _percent((place + 0.12) * slot), _percent(slot * 0.76)
    below, parts = 0.0, []
    for one, value in plot.at(place):
        if value:
            bottom, top = plot.scale.y(below), plot.scale.y(_within(below + value))
            height = round(bottom - top, 2)
            parts.append(_element("rect", class_=f"tone-{one.tone}", x=x, y=top, width=width, height=height))
            below = _within(below + value)
    return _element("g", plot.said(place), *parts, class_="point")


def lines(title: str, points: Points, series: Sequence[Series], *, unit: Unit = "count") -> Markup:
    """A line a series, broken where nothing is known."""
    return _curves(title, points, series, unit, filled=False)


def bands(title: str, points: Points, series: Sequence[Series], *, unit: Unit = "seconds") -> Markup:
    """Percentiles, the lowest first: a line each, and the room up to the next one filled."""
    return _curves(title, points, series, unit, filled=True)


def _curves(title: str, points: Points, series: Sequence[Series], unit: Unit, *, filled: bool) -> Markup:
    known = _checked(points, series)
    there = [value for values in known for value in values if value is not None]
    plot = _Plot(title=title, points=points, series=series, unit=unit, known=known, scale=Scale(there, unit))
    pairs = zip(series[1:], known, known[1:], strict=False)
    fills = [_fill(one.tone, low, high, plot.scale) for one, low, high in pairs] if filled else []
    curves = [_curve(one.tone, values, plot.scale) for one, values in zip(series, known, strict=True)]
    dots = [dot for one, values in zip(series, known, strict=True) for dot in _lonely(one.tone, values, plot.scale)]
    rooms = [_element("g", plot.said(place), class_="point") for place in range(plot.count)]
    return _figure(plot, [*rooms, _stretched(*fills, *curves), *dots], is_empty=not there)


def _stretched(*content: Markup) -> Markup:
    return _element(
        "svg",
        *content,
        class_="curves",
        width="100%",
        height=HEIGHT,
        viewBox=f"0 0 {STRETCH} {HEIGHT}",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def _runs(values: Sequence[T | None]) -> Iterator[list[tuple[int, T]]]:
    """Stretches without a gap, each value with its place."""
    for is_there, group in itertools.groupby(enumerate(values), key=lambda one: one[1] is not None):
        if is_there:
            yield [(place, value) for place, value in group if value is not None]


def _curve(tone: str, values: Sequence[float | None], scale: Scale) -> Markup:
    x = _across(len(values))
    runs = [[f"{x(place)} {scale.y(value)}" for place, value in run] for run in _runs(values) if len(run) > 1]
    path = "".join(f"M{'L'.join(run)}" for run in runs)
    return _element("path", class_=f"curve tone-{tone}", d=path, fill="none", vector_effect="non-scaling-stroke")


def _fill(tone: str, low: Sequence[float | None], high: Sequence[float | None], scale: Scale) -> Markup:
    x = _across(len(low))
    both = [None if a is None or b is None else (a, b) for a, b in zip(low, high, strict=True)]
    path = ""
    for run in _runs(both):
        there = [f"{x(place)} {scale.y(b)}" for place, (_, b) in run]
        back = [f"{x(place)} {scale.y(a)}" for place, (a, _) in reversed(run)]
        path += f"M{'L'.join([*there, *back])}Z"
    return _element("path", class_=f"fill tone-{tone}", d=path)


def _across(count: int) -> Callable[[int], float]:
    return lambda place: round(_middle(place, count) * STRETCH / 100, 2)


def _lonely(tone: str, values: Sequence[float | None], scale: Scale) -> Iterator[Markup]:
    """A dot for what has no neighbour, which a line does not show."""
    for run in _runs(values):
        if len(run) == 1:
            [(place, value)] = run
            at = {"cx": _percent(_middle(place, len(values))), "cy": scale.y(value)}
            yield _element("circle", class_=f"dot tone-{tone}", r=3, **at)


def ranked(title: str, rows: Sequence[Row], *, heading: str, tone: str = "accepted", unit: Unit = "count") -> Markup:
    """A table of groups, with a bar in each row as long as its value. `heading`: what the groups are."""
    measure = Series(name=title, tone=tone, values=[row.value for row in rows])
    [known] = _checked(Points(labels=[row.name for row in rows]), [measure])
    most = max((value for value in known if value is not None), default=0.0)
    if not rows:
        return _element("p", "Nothing in this time.", class_="chart-empty")
    head = _element("tr", _element("th", heading, scope="col"), _element("th", title, scope="col", colspan=2))
    return _element(
        "table",
        _element("caption", f"{title}, by {heading.lower()}", class_="visually-hidden"),
        _element("thead", head),
        _element(
            "tbody", *(_ranked_row(row, value, most, measure, unit) for row, value in zip(rows, known, strict=True))
        ),
        class_="ranked",
    )


def _ranked_row(row: Row, value: float | None, most: float, measure: Series, unit: Unit) -> Markup:
    share = (value or 0.0) / most * 100 if most else 0.0
    bar = _element("rect", class_=f"tone-{measure.tone}", x=0, y=0, width=_percent(share), height=10, rx=2)
    drawn = _element("svg", bar, width="100%", height=10, aria_hidden="true")
    note = (" ", _element("span", row.note, class_="muted")) if row.note else ()
    said = _element("td", in_words(value, unit), *note, class_="number")
    return _element("tr", _element("th", row.name, scope="row"), _element("td", drawn, class_="bar"), said)


def sparkline(title: str, values: Sequence[float | None], *, tone: str = "accepted", unit: Unit = "count") -> Markup:
    """A small line with its reading in words, for the side of a number. `title`: of what, and over which time."""
    [known] = _checked(Points(labels=[""] * len(values)), [Series(name=title, tone=tone, values=values)])
    heights = [value or 0.0 for value in known]
    top = max(heights, default=0.0)
    said = [f"{title}: at most {in_words(top, unit)}"]
    if unit == "count":
        said.append(f"{in_words(sum(heights), unit)} in all")
    return _element(
        "svg",
        _element("title", ", ".join(said)),
        *_spark(heights, top, tone),
        class_="spark",
        role="img",
        viewBox=f"0 0 {STRETCH} {SPARK_HEIGHT}",
        preserveAspectRatio="none",
    )


def _spark(heights: Sequence[float], top: float, tone: str) -> list[Markup]:
    if not heights:
        return []
    base, room = SPARK_HEIGHT - 1, SPARK_HEIGHT - 4
    ys = [round(base - 1 - room * (height / top if top else 0.0), 2) for height in heights]
    x = _across(len(ys))
    spots = [f"0 {ys[0]}", *(f"{x(place)} {y}" for place, y in enumerate(ys)), f"{STRETCH} {ys[-1]}"]
    path = "L".join(spots)
    area = _element("path", class_=f"fill tone-{tone}", d=f"M0 {base}L{path}L{STRETCH} {base}Z")
    stroke = {"fill": "none", "vector_effect": "non-scaling-stroke"}
    return [area, _element("path", class_=f"curve tone-{tone}", d=f"M{path}", **stroke)]


# What they have in common


def _checked(points: Points, series: Sequence[Series]) -> list[list[float | None]]:
    """The values, known ones. Raises ValueError for a mistake of the caller's."""
    for one in series:
        if one.tone not in TONES:
            raise ValueError(f"{one.tone!r} is no tone")
        if len(one.values) != len(points.labels):
            raise ValueError(f"{one.name!r} has {len(one.values)} values for {len(points.labels)} points")
    return [_known(one.values) for one in series]


def _figure(plot: _Plot, content: Sequence[Markup], *, is_empty: bool) -> Markup:
    if is_empty:
        at = {"x": "50%", "y": (TOP + BASE) // 2, "text_anchor": "middle"}
        content = [_element("text", "Nothing in this time", class_="nothing", **at)]
    drawn = _element(
        "svg",
        _element("title", plot.title),
        _element("desc", _description(plot, is_empty=is_empty)),
        *_grid(plot.scale),
        *content,
        *_marks(plot.points),
        class_="plot-field",
        role="img",
        width="100%",
        height=HEIGHT,
    )
    return _element(
        "figure",
        _element("figcaption", plot.title),
        _legend(plot),
        _element("div", _labels(plot), drawn, class_="plot"),
        _numbers(plot),
        class_="chart",
    )


def _description(plot: _Plot, *, is_empty: bool) -> str:
    if is_empty:
        return "Nothing in this time."
    parts = [f"From {plot.points.labels[0]} to {plot.points.labels[-1]}."]
    for one, values in zip(plot.series, plot.known, strict=True):
        known = [value for value in values if value is not None]
        if known and plot.unit == "count":
            total, most = in_words(sum(known), plot.unit), in_words(max(known), plot.unit)
            parts.append(f"{one.name}: {total} in all, at most {most}.")
        elif known:
            parts.append(f"{one.name}: {in_words(min(known), plot.unit)} to {in_words(max(known), plot.unit)}.")
    return " ".join(parts)


def _grid(scale: Scale) -> Iterator[Markup]:
    for place, tick in enumerate(scale.ticks):
        y = scale.y(tick)
        yield _element("line", class_="grid" if place else "axis", x1="0", x2="100%", y1=y, y2=y)


def _labels(plot: _Plot) -> Markup:
    at = {"x": SCALE_WIDTH - 8, "text_anchor": "end"}
    texts = [
        _element("text", in_words(tick, plot.unit, short=True), y=plot.scale.y(tick) + 4, **at)
        for tick in plot.scale.ticks
    ]
    return _element("svg", *texts, class_="plot-scale", width=SCALE_WIDTH, height=HEIGHT, aria_hidden="true")


def _marks(points: Points) -> Iterator[Markup]:
    count = len(points.labels)
    for order, (place, text) in enumerate(points.marks.items()):
        at = _middle(place, count)
        anchor = "start" if at < 4 else "end" if at > 96 else "middle"
        kind = "tick minor" if order % 2 else "tick"  # on a phone every other one is left out
        yield _element("text", text, class_=kind, x=_percent(at), y=BASE + 18, text_anchor=anchor)


def _legend(plot: _Plot) -> Markup:
    items = []
    for one, values in zip(plot.series, plot.known, strict=True):
        swatch = _element("rect", class_=f"tone-{one.tone}", width=10, height=10, rx=2)
        drawn = _element("svg", swatch, width=10, height=10, aria_hidden="true")
        total = in_words(sum(value or 0.0 for value in values), "count")
        items.append(
            _element("li", drawn, " ", one.name, *([" ", _element("b", total)] if plot.unit == "count" else []))
        )
    return _element("ul", *items, class_="legend")


def _numbers(plot: _Plot) -> Markup:
    """The same as a table, for whoever would rather read."""
    names = (plot.points.heading, *(one.name for one in plot.series))
    head = _element("tr", *(_element("th", name, scope="col") for name in names))
    rows = [_numbers_row(plot, place) for place in range(plot.count)]
    caption = _element("caption", plot.title, class_="visually-hidden")
    table = _element("table", caption, _element("thead", head), _element("tbody", *rows))
    named = {"role": "region", "aria_label": f"{plot.title}: numbers", "tabindex": 0}
    return _element("details", _element("summary", "Numbers"), _element("div", table, class_="chart-numbers", **named))


def _numbers_row(plot: _Plot, place: int) -> Markup:
    cells = [_element("td", in_words(value, plot.unit), class_="number") for _, value in plot.at(place)]
    return _element("tr", _element("th", plot.points.labels[place], scope="row"), *cells)
