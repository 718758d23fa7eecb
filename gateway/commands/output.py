"""Results as programs and people want them: JSON, a table on a terminal, tab-separated lines in a pipe.

Nothing that came from elsewhere reaches a terminal as it is: what could move its cursor, colour it or turn its text
round is shown as a mark instead. JSON escapes such characters by itself; what is raw is printed raw.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import typer

from gateway.commands import surroundings

Item = Mapping[str, Any]
SHORTENED: Final = 12  # characters that are left of what is shortened
GAP: Final = 3  # characters between columns
_CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_BREAKS: Final = re.compile(r"[\t\r\n\v\f\u2028\u2029]+")


@dataclass(frozen=True, slots=True)
class Column:
    """One member of a list's items, as a table shows it."""

    title: str
    value: str | Callable[[Any], object]  # a member's name, or what makes it of an item
    is_whole: bool = True  # never shortened to fit a terminal
    rank: int = 0  # what has the highest is left out first, where a terminal is too narrow; 0: never


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """How a command was asked to print."""

    as_json: bool = False
    quiet: bool = False

    def one(self, item: Item, shown: str, *, quietly: str = "") -> None:
        """A single thing: as JSON, as a script would ask for it, or as a person reads it."""
        if self.as_json:
            document(item)
        elif not self.quiet:
            typer.echo(shown)
        elif quietly:
            typer.echo(clean(quietly))

    def many(self, items: Iterable[Item], columns: Sequence[Column], *, name: str = "id") -> None:
        """A list: objects, `name`s alone, a table, or tab-separated lines without a head."""
        if self.as_json:
            for item in items:
                line(item)
        elif self.quiet:
            for item in items:
                typer.echo(clean(str(item[name])))
        elif sys.stdout.isatty():
            _table(list(items), columns)
        else:
            for item in items:
                typer.echo("\t".join(_cells(item, columns)))

    def said(self, words: str) -> None:
        """What was done, for people."""
        if not self.quiet and not self.as_json:
            typer.echo(clean(words))


def document(item: Any) -> None:
    """One JSON document."""
    typer.echo(json.dumps(item, indent=2, ensure_ascii=not _is_unicode()))


def line(item: Any) -> None:
    """One JSON object on a line of its own."""
    typer.echo(json.dumps(item, separators=(",", ":"), ensure_ascii=not _is_unicode()))


def raw(content: bytes) -> None:
    """Bytes, as they are."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def said(words: str) -> None:
    """For people, beside the results: on standard error."""
    typer.echo(clean(words), err=True)


def clean(text: str) -> str:
    """Nothing in it does anything to a terminal; lines stay lines."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def cell(value: object) -> str:
    """A value on one line."""
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(cell(one) for one in value)
    if isinstance(value, dict):
        return ", ".join(f"{name}={cell(one)}" for name, one in value.items())
    return clean(_BREAKS.sub(" ", str(value)))


def details(rows: Iterable[tuple[str, object]]) -> str:
    """Names and values under each other; those without a value are left out."""
    shown = [(name, cell(value)) for name, value in rows if value not in (None, "", [], {}, ())]
    width = max((len(name) for name, _ in shown), default=0)
    return "\n".join(f"{styled(f'{name:<{width}}', 'dim')}  {value}" for name, value in shown)


def is_coloured(stream: Any = None) -> bool:
    """Whether colours are wanted there: on terminals that have them, unless NO_COLOR says otherwise (no-color.org)."""
    stream = stream or sys.stdout
    return bool(stream.isatty()) and not surroundings.variable("NO_COLOR") and surroundings.variable("TERM") != "dumb"


_STYLES: Final = {"dim": "2", "bold": "1", "green": "32", "yellow": "33", "red": "31", "cyan": "36", "magenta": "35"}


def styled(text: str, *styles: str, always: bool = False) -> str:
    """Coloured, where that is wanted."""
    if not always and not is_coloured():
        return text
    return f"\x1b[{';'.join(_STYLES[style] for style in styles)}m{text}\x1b[0m"


_STATES: Final = {
    "green": {"active", "delivered", "sent", "verified", "ok", "accept", "pass"},
    "yellow": {"queued", "scheduled", "sending", "deferred", "pending", "unknown", "missing", "suspended", "expired"},
    "red": {"bounced", "failed", "complained", "dead", "disabled", "wrong", "suppressed", "deleted", "fail"},
}
_STYLE_OF: Final = {state: style for style, states in _STATES.items() for state in states}


def state(word: str) -> str:
    """A status in its colour."""
    style = _STYLE_OF.get(word)
    return styled(word, style) if style else cell(word)


def _cells(item: Item, columns: Sequence[Column]) -> Iterator[str]:
    for column in columns:
        yield cell(item.get(column.value) if isinstance(column.value, str) else column.value(item))


def _table(items: Sequence[Item], columns: Sequence[Column]) -> None:
    if not items:
        said("nothing there")
        return
    from rich import box, console, table, text  # noqa: PLC0415 - takes as long as all the rest together

    screen = console.Console(no_color=not is_coloured(), highlight=False)
    shown = table.Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False)
    rows = [list(_cells(item, columns)) for item in items]
    kept = _fitting(columns, rows, screen.width)
    for place in kept:
        column = columns[place]
        least = max(len(row[place]) for row in rows) if column.is_whole else SHORTENED
        shown.add_column(column.title, no_wrap=True, overflow="ellipsis", min_width=least)
    for row in rows:
        shown.add_row(*(text.Text(row[place], style=_STYLE_OF.get(row[place], "")) for place in kept))
    screen.print(shown)


def _fitting(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """The places of the columns that there is room for."""
    needed = [
        max(len(column.title), *(len(row[place]) for row in rows)) + GAP if column.is_whole else SHORTENED + GAP
        for place, column in enumerate(columns)
    ]
    kept = list(range(len(columns)))
    for place in sorted(kept, key=lambda place: -columns[place].rank):
        if columns[place].rank and sum(needed[one] for one in kept) > width:
            kept.remove(place)
    return kept


def _is_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def is_seen() -> bool:
    """Whether somebody sees it as it is printed: standard output is a terminal."""
    return sys.stdout.isatty()
