"""The story that `postroom demo` tells is what happened, and nothing of it stays."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.commands import output
from tests import house
from tests.commands.terminal import Typist

pytestmark = pytest.mark.anyio

PROJECT = Path(__file__).parents[2]


async def test_the_story_is_told_recorded_and_cleaned_up(
    typist: Typist, shared_house: house.House, tmp_path: Path
) -> None:
    cast = tmp_path / "casts" / "story.cast"
    told = (await typist.say("demo", "--fast", "--record", str(cast))).out
    code = re.search(r"  code +(\d{6})  ", told)
    assert code is not None
    assert told.count(code[1]) >= 4  # in the mail, the wait and the webhook
    assert re.search(r"S: 250 2\.0\.0 queued as [0-9a-f-]{36}", told)
    assert "https://shop.example/verify?token=" in told
    assert re.search(r"email\.delivered +\S+@postroom\.test 250 ", told)
    assert re.search(r"webhook-signature: v1,\S+", told)
    assert "verified" in told
    async with shared_house.client(typist.environment["POSTROOM_API_KEY"]) as client:
        for what in ("mailboxes", "webhooks"):
            assert (await client.get(f"/{what}")).json()["data"] == [], what
    head, *events = [json.loads(line) for line in cast.read_text().splitlines()]
    assert head["version"] == 2
    assert (
        "".join(text for _, kind, text in events if kind == "o").replace("\r\n", "\n") == told.removesuffix("\n") + "\n"
    )
    assert [at for at, *_ in events] == sorted(at for at, *_ in events)


async def test_a_gateway_that_refuses_its_webhook_or_has_no_smtp_is_told_of(typist: Typist) -> None:
    """The key may make mailboxes, send and hand in, and no webhooks."""
    made = (await typist.say("keys", "create", "k", *words("mailboxes", "send", "inbound", "read"), "--json")).json
    less = Typist(environment={**typist.environment, "POSTROOM_API_KEY": made["key"], "POSTROOM_SMTP": ""})
    told = (await less.say("demo", "--fast", "--no-colour")).out
    assert "over HTTP instead" in told
    assert "Webhooks are left out: " in told


def words(*scopes: str) -> list[str]:
    return [word for scope in scopes for word in ("--scope", scope)]


# As a shell has them


HEARS_CTRL_C = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)  # it is ignored by what is started behind `&`, such as these tests
os.execv(sys.executable, [sys.executable, "-m", "gateway.cli", *sys.argv[1:]])
"""


async def test_a_script_gets_the_code_a_pipe_may_close_and_ctrl_c_is_silent(typist: Typist) -> None:
    """As real processes: CODE=$(…), `| head -1`, and SIGINT."""
    await asyncio.to_thread(_script, typist)


def _script(typist: Typist) -> None:
    environment = {
        **os.environ,
        **typist.environment,
        "PYTHONPATH": str(PROJECT),
        "P": f"{sys.executable} -m gateway.cli",
    }
    script = """
        set -eu
        BOX=$($P inbox new --ttl 10m)
        echo "Your code is 482913" | $P send --from s@postroom.test --to "$BOX" -s "mail" -q >/dev/null
        CODE=$($P inbox wait "$BOX" --for code)
        echo "$CODE"
        $P events list --json | head -1 >/dev/null
    """
    said = subprocess.run(
        ["bash", "-c", script], cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )
    assert (said.stdout, said.stderr) == ("482913\n", "")
    tail = subprocess.Popen(
        [sys.executable, "-c", HEARS_CTRL_C, "events", "tail", "--after", "0"],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert tail.stdout is not None
    assert b"\tmailbox.created\t" in tail.stdout.readline()
    tail.send_signal(signal.SIGINT)
    _, complaint = tail.communicate(timeout=60)
    assert (tail.returncode, complaint) == (130, b"")


async def test_bash_completes_commands_options_and_addresses(typist: Typist, tmp_path: Path) -> None:
    """In bash itself, as it calls the function; where @ breaks words, only what stands behind it is put in."""
    run = typist.environment["POSTROOM_API_KEY"][-8:].lower()
    await typist.say("inbox", "new", "--address", f"jo-{run}@postroom.test")
    (tmp_path / "completion").write_text((await typist.say("completion", "bash")).out)
    await asyncio.to_thread(_complete, typist, tmp_path, run)


def _complete(typist: Typist, tmp_path: Path, run: str) -> None:
    (tmp_path / "postroom").write_text(f'#!/bin/sh\nexec {sys.executable} -m gateway.cli "$@"\n')
    (tmp_path / "postroom").chmod(0o755)
    environment = {**os.environ, **typist.environment, "PYTHONPATH": str(PROJECT)}
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    script = """
        source ./completion
        ask() {
            COMP_LINE="$1" COMP_POINT=${#1} COMPREPLY=()
            _postroom_completion postroom
            echo "${COMPREPLY[*]}"
        }
        ask "postroom inb"
        ask "postroom inbox wait --ki"
        ask "postroom inbox wait jo-$RUN"
        ask "postroom inbox wait jo-$RUN@post"
    """
    said = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**environment, "RUN": run},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.stdout.splitlines() == ["inbox", "--kind", f"jo-{run}@postroom.test", "postroom.test"], said.stderr


def test_controls_are_marked_and_lines_stay_lines() -> None:
    assert output.clean("a\x1b[31mb\r\nc\td\u202e\x85") == "a\ufffd[31mb\nc\td\ufffd\ufffd"
    assert output.cell("a\tb\nc\u2028d") == "a b c d"
