"""Dashboard: from the final dot to the row on the page, in Chromium; and scrolling through 10,000 rows.

Beside the first, what cannot be less in the same run: the time to the event's frame on the API's own stream, which the
page hears of before it asks for its rows.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Page, async_playwright
from websockets.asyncio.client import connect

from bench import report
from bench.report import Row
from bench.setting import Setting
from tests import house
from tests.flows import letters
from tests.web.dashboard import browser

NAME = "dashboard"
MAILS = 200  # one after the other
ROWS = 10_000
P99 = 0.5  # seconds, to reach
FRAME = 1 / 60  # seconds
STEP = 300  # pixels a frame: seven rows

_WATCH = """() => {
  window.shownAt = {};
  const look = () => {
    for (const row of document.querySelectorAll("#list .subject")) {
      window.shownAt[row.textContent] ??= Date.now() / 1000;
    }
  };
  new MutationObserver(look).observe(document.getElementById("list"), { childList: true, subtree: true });
}"""
_SCROLL = """async (step) => {
  const frames = [], rows = [];
  let still = 0, last = await new Promise(requestAnimationFrame);
  while (still < 120) {
    const before = scrollY;
    scrollBy(0, step);
    const now = await new Promise(requestAnimationFrame);
    if (scrollY > before) { frames.push(now - last); still = 0; } else still += 1;
    if (frames.length % 20 === 0) rows.push(document.querySelectorAll("[data-rows] > li").length);
    last = now;
  }
  const rest = [...document.querySelectorAll("[data-rows] > li .subject")].at(-1).textContent;
  return { frames, most: Math.max(...rows), height: document.body.scrollHeight, rest };
}"""


async def run(setting: Setting) -> list[Row]:
    async with setting.database() as dsn, setting.house(dsn) as home, _page(home) as (page, tenant):
        async with home.client(tenant.key) as client:
            address = (await letters.mailbox(client, ttl_seconds=86_400))["address"]
        return [
            await _arrivals(page, home, tenant, address, setting.scaled(MAILS, 40)),
            await _scrolling(page, home, address, setting.scaled(ROWS, 2_000)),
        ]


@asynccontextmanager
async def _page(home: house.House) -> AsyncIterator[tuple[Page, house.Tenant]]:
    tenant, program = await home.tenant(), browser.find()
    if program is None:
        raise FileNotFoundError(browser.MISSING)
    options = [option for option in browser.OPTIONS if not option.startswith(("--headless", "--remote-debugging"))]
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=program, args=options)
        context = await chromium.new_context(base_url=home.url, viewport={"width": 1280, "height": 800})
        await context.add_cookies([{**browser.session_cookie(tenant.key), "url": home.url}])  # type: ignore[typeddict-item] # name and value
        yield await context.new_page(), tenant
        await chromium.close()


async def _arrivals(page: Page, home: house.House, tenant: house.Tenant, address: str, mails: int) -> Row:
    await page.goto("/mail")
    await page.get_by_text("Live", exact=True).wait_for()
    await page.evaluate(_WATCH)
    shown, told = [], []
    url = f"ws://127.0.0.1:{home.http_port}/v1/events?types=message.received"
    async with connect(url, additional_headers=tenant.headers) as socket, letters.session(home) as peer:
        for number in range(mails):
            subject = f"Number {number}"
            begun = time.time()
            await letters.give(peer, letters.letter(subject, "It is here."), address)
            json.loads(await socket.recv())
            told.append(time.time() - begun)
            shown.append(await _shown(page, subject) - begun)
    p50, p99, floor = report.quantile(shown, 0.5), report.quantile(shown, 0.99), report.quantile(told, 0.5)
    return Row(
        what="arrival → row on the page, in Chromium",
        ours=f"p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms",
        limit_name="the same mail's WebSocket frame",
        limit=f"p50 {floor * 1000:.1f} ms",
        ratio=p50 / floor,
        target=f"p99 ≤ {P99 * 1000:.0f} ms",
        met=p99 <= P99,
        note=f"{mails} mails, from MAIL FROM on; the list shows 50",
    )


async def _shown(page: Page, subject: str) -> float:
    """When its row was there."""
    while True:
        at: Any = await page.evaluate("(subject) => window.shownAt[subject] ?? 0", subject)
        if at:
            return float(at)
        await asyncio.sleep(0.005)


async def _scrolling(page: Page, home: house.House, address: str, rows: int) -> Row:
    await page.goto("about:blank")
    async with letters.session(home) as peer:
        for number in range(rows):
            await letters.give(peer, letters.letter(f"Row {number}", "Some text that stands in the list."), address)
    await page.goto("/mail?q=row")
    await page.get_by_text("Live", exact=True).wait_for()
    found = await page.evaluate(_SCROLL, STEP)
    assert found["rest"] == "Row 0", f"it ended at {found['rest']}"
    frames = [milliseconds / 1000 for milliseconds in found["frames"]]
    p50, p99 = report.quantile(frames, 0.5), report.quantile(frames, 0.99)
    late = sum(frame > 3 * FRAME for frame in frames) / len(frames)
    return Row(
        what=f"scrolling through {rows:,} rows, {STEP} pixels a frame",
        ours=f"frames p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms",
        limit_name="60 frames a second",
        limit=f"{FRAME * 1000:.0f} ms",
        ratio=p50 / FRAME,
        target="p99 ≤ 50 ms, ≤ 600 rows in the document",
        met=p99 <= 3 * FRAME and found["most"] <= 600,
        note=f"{found['most']} rows in the document at the most, {late:.1%} of {len(frames):,} frames took over 50 ms",
    )
