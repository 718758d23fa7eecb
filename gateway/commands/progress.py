"""How far long work is: a bar on a terminal with its rate and what remains, nothing in a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Progress:
    """Counts; shows them where somebody looks."""

    _bar: Any = field(default=None, repr=False)  # rich's; None: nobody looks
    _task: Any = None
    done: int = 0  # items

    def advance(self, items: int = 1, units: float = 1) -> None:
        """So many items more, which are so many units of the total."""
        self.done += items
        if self._bar is not None:
            self._bar.update(self._task, advance=units, items=self.done)


@contextlib.contextmanager
def shown(title: str, total: float | None, noun: str, *, quiet: bool = False) -> Iterator[Progress]:
    """A bar on standard error. `total`: in units; None = not known."""
    if quiet or not sys.stderr.isatty():
        yield Progress()
        return
    from rich import console, progress  # noqa: PLC0415 - see gateway.commands

    class Rate(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Any:
            items, seconds = task.fields["items"], task.elapsed or 0.0
            rate = f", {items / seconds:,.0f}/s" if seconds > 1 else ""
            return progress.Text(f"{items:,} {noun}{rate}")  # type: ignore[attr-defined] # rich imports it there

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        Rate(),
        progress.TimeRemainingColumn(compact=True),
    )
    with progress.Progress(*columns, console=console.Console(stderr=True), transient=True) as bar:
        yield Progress(bar, bar.add_task(title, total=total, items=0))
