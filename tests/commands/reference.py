"""What the commands say of themselves, as docs/cli.md has it: `python -m tests.commands.reference` writes it there."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer
from typer.main import get_command

from gateway import cli

PAGE: Final = Path(__file__).parents[2] / "docs" / "cli.md"
BEGIN: Final = "<!-- what follows is what the commands say of themselves: python -m tests.commands.reference -->\n"
TYPE: Final = re.compile(r" <(?:list\[)?(?:str|path|int|float|uuid)(?: range)?\]?>", re.IGNORECASE)


def commands() -> Iterator[tuple[str, Any, Any]]:
    """Every command that does something: its words, itself, its context."""
    yield from _below(get_command(cli.app), typer.Context(get_command(cli.app), info_name="postroom"))


def _below(command: Any, context: Any) -> Iterator[tuple[str, Any, Any]]:
    if not hasattr(command, "commands"):
        yield context.command_path, command, context
        return
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        yield from _below(child, typer.Context(child, info_name=name, parent=context))


def lines() -> Iterator[str]:
    """A section for each command."""
    for words, command, context in commands():
        yield from _section(words, command, context)


def _section(words: str, command: Any, context: Any) -> Iterator[str]:
    pieces = [piece.strip("{}").upper() for piece in command.collect_usage_pieces(context)[1:]]
    usage = " ".join([words, *pieces])
    records = [one.get_help_record(context) for one in command.params if one.name != "help"]
    rows = [f"| `{_cell(TYPE.sub('', name))}` | {_cell(meaning)} |" for name, meaning in filter(None, records)]
    meaning = inspect.cleandoc(command.help or "")
    yield from (f"### `{usage}`", "", *meaning.splitlines(), "")
    if rows:
        yield from ("| option | meaning |", "|---|---|", *rows, "")


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


def main() -> None:
    """Write it."""
    before = PAGE.read_text().partition(BEGIN)[0]
    PAGE.write_text(before + BEGIN + "\n" + "\n".join(lines()).rstrip() + "\n")


if __name__ == "__main__":
    main()
