"""Every block of the documentation is what it says: commands and programs run against a running gateway and print what
the page shows, and configuration is read by what will read it.

A block of `json` or `text` that follows another one without a word between is what that one prints: fields may be left
out, and `…` stands for anything. Pages are read one by one, each by a stranger with an account and a folder of their
own, who has what `postroom dev` gives: `.postroom/env`, and its variables; some by somebody who runs Postroom, and has
its settings, too.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import dns.zone
import pytest
import yaml

from gateway import dev
from gateway.outbound import rules
from tests.docs import conftest, pages, stranger

pytestmark = pytest.mark.xdist_group("docs")  # one gateway for all pages

RUN: Final = {"sh", "python", "js"}
TIMED_OUT: Final = 28  # curl's exit code
LEFT_OUT: Final[Mapping[str, str]] = {  # first line of a block that is not run: why
    "make dev": "starts what runs here already; tests/test_dev.py starts it",
    "make help     # every chore": "each chore takes minutes, and this is one of them",
    "postroom serve      # HTTP and SMTP": "run until they are stopped",
    "useradd --system --home-dir /nonexistent postroom": "changes the machine that it runs on",
    "/opt/postroom/bin/postroom migrate     # while everything runs, with the settings as above": "likewise",
    "docker compose up --detach": "needs a container engine",
}


def _ran(said: stranger.Said, shown: Any) -> None:
    """A block that ran has not failed, unless the page shows its failure, or ends a stream by the clock."""
    refused = isinstance(shown, dict) and shown.get("statusCode", 0) >= 400
    timed = said.code == TIMED_OUT and "--max-time" in said.block.text
    assert refused or timed or said.code == 0, f"{said.block}: exit code {said.code}\n{said.errors}\n{said.out}"


def _shown(block: pages.Block | None) -> Any:
    """What a page shows as the output of the block before."""
    if block is None or not block.follows or block.language not in {"json", "text"}:
        return None
    return json.loads(block.text) if block.language == "json" else block.text.strip()


def _compare(shown: Any, said: stranger.Said) -> None:
    if isinstance(shown, str):
        assert stranger.resembles(shown, said.out.strip()), f"{said.block} printed\n{said.out}"
    elif shown is not None:
        found = stranger.last_json(said.out)
        assert stranger.fits(shown, found), f"{said.block} printed\n{json.dumps(found, indent=2)}"


@pytest.mark.parametrize("page", pages.files(), ids=lambda page: page.name)
def test_a_stranger_who_types_what_stands_on_the_page_sees_what_it_shows(
    page: Path, gateway: conftest.Gateway, tmp_path: Path
) -> None:
    """Seen to fail with a field misspelt in a request, a code changed in an output, and a name misspelt in Python."""
    todo = [block for block in pages.blocks(page) if block.text.partition("\n")[0] not in LEFT_OUT]
    if not any(block.language in RUN for block in todo):
        return
    with stranger.reading(tmp_path / "s", gateway.environment(page, tmp_path / "s")) as reader:
        for block, behind in zip(todo, [*todo[1:], None], strict=True):
            if block.language in RUN:
                said, shown = reader.type(block), _shown(behind)
                _ran(said, shown)
                _compare(shown, said)


# What nobody runs


def _variables(text: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(text, comments=True) if word != "export")


def _reads_as_settings(text: str) -> None:
    rules.read(dev.settings_of(_variables(text)))


def _reads_as_a_zone(text: str) -> None:
    assert dns.zone.from_text(f"$ORIGIN .\n$TTL 300\n{text}", relativize=False, check_origin=False, origin=".").nodes


READERS: Final[Mapping[str, Callable[[str], object]]] = {
    "json": json.loads,
    "yaml": yaml.safe_load,
    "env": _reads_as_settings,
    "dns": _reads_as_a_zone,
    "text": str,  # diagrams, and outputs
    "sh": str,  # run above, as are the next two
    "python": lambda text: compile(text, "page", "exec", flags=0x2000),
    "js": str,
}


@pytest.mark.parametrize("page", pages.files(), ids=lambda page: page.name)
def test_every_block_names_its_language_and_reads_as_that(page: Path) -> None:
    for block in pages.blocks(page):
        assert block.language in READERS, f"{block}: ```{block.language}"
        try:
            READERS[block.language](block.text)
        except Exception as error:
            raise AssertionError(f"{block}: {error}") from error


def test_what_is_left_out_is_there_and_says_why() -> None:
    first = {block.text.partition("\n")[0] for page in pages.files() for block in pages.blocks(page)}
    assert set(LEFT_OUT) - first == set()
