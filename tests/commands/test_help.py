"""The commands explain themselves (docs/cli.md is made of that), and none waits for what another one needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from gateway import cli
from gateway.commands import completion, lazily
from tests.commands import reference

PROJECT = Path(__file__).parents[2]


def test_every_command_has_a_meaning_options_with_help_and_examples() -> None:
    lacking = []
    for words, command, context in reference.commands():
        if "Examples:" not in (command.epilog or "") or not command.help:
            lacking.append(words)
        lacking += [f"{words} {one.name}" for one in command.params if not one.help and one.name != "help"]
        for line in (command.epilog or "").splitlines()[2:]:
            assert words.split()[-1] in line or line.startswith(("      ", "  POSTROOM")) or "\\" in line, (words, line)
        assert context.command_path == words
    assert lacking == []


def test_the_first_page_of_the_help_lists_every_command_once() -> None:
    group: Any = get_command(cli.app)
    listed = group.list_commands(None)
    assert len(listed) == len(set(listed))
    assert set(listed) == set(group.commands)
    for name, (module, meaning) in cli.ELSEWHERE.items():
        assert lazily.load(name, module).help, meaning


def test_no_line_of_the_first_page_breaks_off_on_a_terminal_of_80_columns() -> None:
    """Seen to fail with the first sentences of eight commands as long as they were."""
    group: Any = get_command(cli.app)
    assert [name for name in group.commands if group.commands[name].get_short_help_str(60).endswith("...")] == []


def test_help_and_a_listing_read_nothing_that_they_do_not_need() -> None:
    heavy = "{'asyncio', 'httpx2', 'rich', 'pydantic', 'starlette', 'asyncpg', 'structlog', 'sqlalchemy'}"
    program = (
        "import sys\nfrom gateway import cli\n"
        "try: cli.app(['--help'])\nexcept SystemExit: pass\n"
        f"print('LOADED', *({heavy} & set(sys.modules)))\n"
        "try: cli.app(['inbox', 'list'])\nexcept SystemExit: pass\n"
        f"print('LOADED', *({heavy} - {{'asyncio', 'httpx2', 'pydantic'}} & set(sys.modules)))\n"  # typer's own
    )
    environment = {"POSTROOM_URL": "http://127.0.0.1:9", "POSTROOM_API_KEY": "x", "PYTHONPATH": sys.path[0]}
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert [line for line in said.stdout.splitlines() if line.startswith("LOADED")] == ["LOADED", "LOADED"], said.stdout
    assert "Nothing answers" in said.stderr


@pytest.mark.parametrize("shell", list(completion.Shell))
def test_each_shell_gets_a_script(shell: completion.Shell) -> None:
    assert "_POSTROOM_COMPLETE=complete_" + shell in completion.SCRIPTS[shell]
