"""What axe-core finds on a page: WCAG 2.2 A and AA, as far as a program can tell."""

from __future__ import annotations

import functools
from typing import Any, Final

from playwright.async_api import Page

from tests import suites

_TAGS: Final = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
_ALIKE: Final = 12  # rows of a table: those behind them look the same
_RUN: Final = """async ([tags, most, frame]) => {
  for (const row of document.querySelectorAll(`main tbody > tr:nth-child(n + ${most + 1})`)) row.remove();
  const part = frame ? document : { exclude: [["header.top"], ["nav.rail"]] };
  const found = await axe.run(part, { runOnly: tags, resultTypes: ["violations"], iframes: false });
  return found.violations.map(({ id, impact, help, nodes }) =>
    ({ id, impact, help, where: nodes.slice(0, 3).map((node) => `${node.target} ${node.failureSummary}`) }));
}"""


@functools.cache
def _source() -> str:
    return suites.path(f"{suites.AXE}/node_modules/axe-core/axe.min.js").read_text()


async def problems(page: Page, *, frame: bool = False) -> list[Any]:
    """What is serious or critical, each with where it is. Of long tables the first rows; what stands around
    the content is the same on all pages: with `frame`."""
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(_source())
    found = await page.evaluate(_RUN, [_TAGS, _ALIKE, frame])
    return [one for one in found if one["impact"] in ("serious", "critical")]
