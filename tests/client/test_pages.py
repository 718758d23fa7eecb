"""The tests that docs/pytest.md shows pass."""

from __future__ import annotations

import pytest

from tests.client.test_plugin import OPTIONS, connected, installed
from tests.docs import pages

__all__ = ["connected", "installed"]
pytest_plugins = ["pytester"]


def test_the_tests_that_the_page_shows_pass(connected: pytest.Pytester) -> None:
    shown = [block.text for block in pages.blocks(pages.ROOT / "docs/pytest.md") if block.language == "python"]
    text = "\n\n".join(shown).replace(
        '"stock@shop.example"', "mailbox.address"
    )  # this house makes no mailboxes by itself
    connected.makepyfile(text.replace("(smtp_sink, monkeypatch)", "(smtp_sink, monkeypatch, mailbox)"))
    connected.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=3)
