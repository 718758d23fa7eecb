"""docs/examples: the module for JavaScript in Node, Playwright's fixture in a real Chromium, Cypress' tasks alone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import playwright
import pytest

from tests import house, suites
from tests.web.dashboard.browser import chromium

__all__ = ["chromium"]

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "docs" / "examples"
CORE = Path(str(playwright.__file__)).parent / "driver" / "package" / "index.mjs"  # Playwright's own for Node
PATIENCE = 120.0  # seconds


def run(shared_house: house.House, tenant: house.Tenant, *arguments: str) -> str:
    environment = {
        "PATH": os.environ["PATH"],
        "POSTROOM_URL": shared_house.url,
        "POSTROOM_API_KEY": tenant.key,
    }
    command = [str(suites.node()), str(HERE / "examples.mjs"), str(EXAMPLES), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE)
    return done.stdout + done.stderr


@pytest.mark.parametrize("what", ["api", "cypress"])
def test_the_module_and_what_is_made_of_it(
    shared_house: house.House, anyio_backend: str, tenant: house.Tenant, what: str
) -> None:
    out = run(shared_house, tenant, what)
    assert out == "done\n", out


def test_playwrights_fixture_signs_up_in_chromium(
    shared_house: house.House,
    anyio_backend: str,
    tenant: house.Tenant,
    chromium: str,
) -> None:
    assert run(shared_house, tenant, "playwright", str(CORE), chromium) == "done\n"


def test_the_module_is_short_enough_to_be_copied() -> None:
    assert len((EXAMPLES / "postroom.mjs").read_text().splitlines()) <= 60
