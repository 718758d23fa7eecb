"""Where a story is told: a terminal, at the pace of somebody who reads, or a recording of one (asciicast v2)."""

from __future__ import annotations

import json
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gateway.commands import output

WIDTH: Final = 96
LINES: Final = 40
KEY_SECONDS: Final = 0.028  # between two letters that are typed
LINE_SECONDS: Final = 0.05


@dataclass(slots=True)
class Stage:
    """Prints, and remembers when, for a recording."""

    is_fast: bool
    is_coloured: bool
    is_recorded: bool = False
    _began: float = field(default_factory=time.monotonic)
    _told: list[tuple[float, str]] = field(default_factory=list)

    def chapter(self, title: str) -> None:
        """What comes next, for a reader."""
        self._print(f"\n{self.style(f'# {title}', 'bold', 'cyan')}\n")
        self.pause(0.9)

    def typed(self, command: str) -> None:
        """A command line, as somebody types it."""
        self._print(self.style("$ ", "dim"))
        for letter in command:
            self._print(letter)
            self.pause(KEY_SECONDS)
        self._print("\n")
        self.pause(0.3)

    def line(self, text: str = "", *styles: str) -> None:
        """What is printed; what came from elsewhere in it does nothing to the terminal."""
        clean = output.clean(text)
        self._print(f"{self.style(clean, *styles) if styles else clean}\n")
        self.pause(LINE_SECONDS)

    def marked(self, name: str, value: str, took: float | None = None, *styles: str) -> None:
        """A name, what it is, and how long that took."""
        shown = self.style(output.cell(value), *(styles or ("bold",)))
        timing = self.style(f"   {milliseconds(took)}", "dim") if took is not None else ""
        self._print(f"  {self.style(f'{name:<11}', 'dim')} {shown}{timing}\n")
        self.pause(LINE_SECONDS * 4)

    def told(self, text: str) -> None:
        """A remark, wrapped."""
        for line in textwrap.wrap(text, WIDTH - 4):
            self._print(f"  {self.style(line, 'dim')}\n")
        self.pause(0.4)

    def pause(self, seconds: float) -> None:
        """For the reader."""
        if not self.is_fast:
            time.sleep(seconds)

    def style(self, text: str, *styles: str) -> str:
        return output.styled(text, *styles, always=True) if self.is_coloured else text

    def _print(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
        if self.is_recorded:
            self._told.append((time.monotonic() - self._began, text))

    def save(self, file: Path, title: str) -> None:
        """The recording: https://docs.asciinema.org/manual/asciicast/v2/"""
        head: dict[str, Any] = {"version": 2, "width": WIDTH, "height": LINES, "title": title}
        head["timestamp"] = int(time.time())
        events = [json.dumps([round(at, 6), "o", text.replace("\n", "\r\n")]) for at, text in self._told]
        file.write_text("\n".join([json.dumps(head), *events]) + "\n", "utf-8")


def milliseconds(seconds: float) -> str:
    """As people say it."""
    return f"{seconds * 1000:,.0f} ms" if seconds < 10 else f"{seconds:,.1f} s"
