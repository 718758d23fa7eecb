"""What README says of Postroom beside others leads to a test that shows it."""

from __future__ import annotations

import re
from typing import Final

from tests.docs import pages

README: Final = pages.ROOT / "README.md"


def _rows() -> list[list[str]]:
    """Of the tables of the comparison, without their heads."""
    text = README.read_text().partition("## How it compares")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:2] == "| "]
    return [row for row in rows if row[0] not in {"", "|"}]


def test_each_claim_about_postroom_names_a_test_that_there_is() -> None:
    rows = _rows()
    assert len(rows) > 20
    for what, ours, *_ in rows:
        claims = pages.claims(ours)
        assert claims or ours.startswith("○"), f"{what}: no test shows it"
        for path, name in claims:
            source = (pages.ROOT / path).read_text()
            assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), f"{what}: {path}::{name}"


def test_each_row_has_a_cell_for_everybody() -> None:
    widths = {len(row) for row in _rows()}
    assert widths == {5, 6}, widths
