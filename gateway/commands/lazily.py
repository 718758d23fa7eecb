"""Groups of commands whose members are imported when they are called, so that none waits for the others' modules."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

Elsewhere = Mapping[str, tuple[str, str]]  # a command's name -> the module that has it as `app`, its line in the help


def group(elsewhere: Elsewhere, chapters: Mapping[str, Sequence[str]]) -> type[TyperGroup]:
    """The class of a group that has these commands beside its own; its help lists all of them in chapters, those that
    stand in none in the last."""

    class Lazy(TyperGroup):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            for name, (_, meaning) in elsewhere.items():  # to be listed; `get_command` has the real ones
                self.add_command(TyperCommand(name, help=meaning))

        def list_commands(self, ctx: Any) -> list[str]:
            return [name for names in self._chapters().values() for name in names]

        def _chapters(self) -> Mapping[str, Sequence[str]]:
            listed = {name for names in chapters.values() for name in names}
            last = list(chapters)[-1]
            return {**chapters, last: [*chapters[last], *(name for name in self.commands if name not in listed)]}

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            return (
                load(cmd_name, elsewhere[cmd_name][0]) if cmd_name in elsewhere else super().get_command(ctx, cmd_name)
            )

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            width = max(map(len, self.commands))
            for title, names in self._chapters().items():
                with formatter.section(title):
                    limit = formatter.width - width - 6
                    told = {name: self.commands[name].get_short_help_str(limit) for name in names}
                    formatter.write_dl([(f"{name:<{width}}", _without_stop(line)) for name, line in told.items()])

        def shell_complete(self, ctx: Any, incomplete: str) -> Any:
            listed = TyperGroup(name=self.name, commands=dict(self.commands), params=self.params)
            return listed.shell_complete(ctx, incomplete)

    return Lazy


def _without_stop(line: str) -> str:
    """A line of a list; one that was cut keeps its dots."""
    return line if line.endswith("...") else line.removesuffix(".")


def load(name: str, module: str) -> Any:
    """The command that a module has as `app`."""
    command = get_command(importlib.import_module(module).app)
    command.name = name
    return command
