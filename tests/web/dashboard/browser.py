"""A real Chromium for tests of the dashboard: one for each test process, a signed-in page for each test.

    async def test_…(page: Page, tenant: house.Tenant, client: httpx2.AsyncClient) -> None:
        await page.goto("/mail")

`page` belongs to `tenant`'s admin key in the shared house, and `client` is the same account's API. At its end nothing
may have gone wrong in it: no script failed, no policy was violated, no dialog came, and nothing was asked of any other
host. `seen` has what it asked for. `visitor` makes further pages: of another key, a phone, without scripts.

What a browser's window costs is paid once: the pages of a module's tests are tabs of one, whose cookies and permissions
are gone between two tests; the files that it has cached stay, as they do for people. Chromium's headless shell is the
same engine without the windows, and a quarter of the work: it is taken where it is installed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Page,
    Request,
    ViewportSize,
    async_playwright,
    expect,
)

from gateway import tokens
from gateway.web.dashboard import seals
from tests import house

NAMES = (
    *("chromium-headless-shell", "chrome-headless-shell", "chromium", "chromium-browser"),
    *("google-chrome", "google-chrome-stable"),
)
MISSING = "there is no Chromium (POSTROOM_CHROMIUM, or chromium on the PATH): `make browser` installs one"
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions", "--mute-audio"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-port=0"),
)
START_SECONDS = 180.0
PATIENCE_MS = 180_000  # of everything that is waited for: other tests want the processors, too
SIZE: Final[ViewportSize] = {"width": 1280, "height": 800}
PHONE: Final[ViewportSize] = {"width": 390, "height": 844}

Visitor = Callable[..., Awaitable[Page]]


def find() -> str | None:
    """The program; None = there is none."""
    named = os.environ.get("POSTROOM_CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="session")
def chromium() -> Iterator[str]:
    """Where the process's Chromium can be spoken to. Without one tests are skipped; in CI they fail."""
    program = find()
    if program is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(MISSING)
    with tempfile.TemporaryDirectory(prefix="postroom-chromium-", ignore_cleanup_errors=True) as folder:
        command = [program, *OPTIONS, f"--user-data-dir={folder}", "about:blank"]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            yield f"http://127.0.0.1:{_port(process, Path(folder))}"
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it started: Debian's headless shell is a script that Chromium does not take the place of."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _port(process: subprocess.Popen[bytes], folder: Path) -> int:
    """Chromium writes down which one it has taken."""
    written, deadline = folder / "DevToolsActivePort", time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if written.exists() and (text := written.read_text()).count("\n"):
            return int(text.partition("\n")[0])
        time.sleep(0.02)
    raise RuntimeError("Chromium did not start")


@pytest.fixture(scope="module")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    """The same, as Playwright has it; on the loop of the module's tests."""
    expect.set_options(timeout=PATIENCE_MS)
    async with async_playwright() as playwright:
        yield await playwright.chromium.connect_over_cdp(chromium)


class Window:
    """What most pages of a module are tabs of. One tab stays: with the last one the window would go, too."""

    def __init__(self, context: BrowserContext, url: str, tab: Page) -> None:
        self._context = context
        self._url = url
        self._tab = tab
        self._key: str | None = None
        self._is_taken = False

    async def page(self, key: str | None, color_scheme: Any = "light", viewport: ViewportSize = SIZE) -> Page | None:
        """A tab of who signed in with the key (None = nobody); None = the test's other pages are somebody else's."""
        if self._is_taken and key != self._key:
            return None
        if not self._is_taken and key is not None:
            await signed_in(self._context, self._url, key)
        self._key, self._is_taken = key, True
        page = await self._context.new_page()
        await page.emulate_media(color_scheme=color_scheme)
        if viewport != SIZE:
            await page.set_viewport_size(viewport)
        return page

    async def clear(self) -> None:
        """Nobody was here."""
        for page in [page for page in self._context.pages if page is not self._tab]:
            await page.close()
        await self._context.clear_cookies()
        await self._context.clear_permissions()
        self._is_taken = False


async def opened(browser: Browser, url: str, **options: Any) -> BrowserContext:
    """A browser of its own."""
    found = {"base_url": url, "viewport": SIZE, "reduced_motion": "reduce", **options}
    context = await browser.new_context(**found)
    context.set_default_timeout(PATIENCE_MS)
    return context


async def signed_in(context: BrowserContext, url: str, key: str) -> None:
    """From now on it is this key's."""
    await context.add_cookies([{**session_cookie(key), "url": url}])  # type: ignore[typeddict-item] # name and value


@pytest.fixture(scope="module")
async def window(browser: Browser, shared_house: house.House) -> AsyncIterator[Window]:
    """The module's."""
    context = await opened(browser, shared_house.url)
    yield Window(context, shared_house.url, await context.new_page())
    await context.close()


@dataclass(kw_only=True)
class Seen:
    """What pages of one test did."""

    origin: str
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)  # of scripts, and of the policy
    dialogs: list[str] = field(default_factory=list)

    @property
    def elsewhere(self) -> list[str]:
        """Requests that went to another host."""
        return [url for url in self.requests if not url.startswith((self.origin + "/", "data:", "blob:", "about:"))]

    def watch(self, page: Page) -> None:
        page.on("request", self._request)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", self._dialog)

    def check(self) -> None:
        assert self.errors == []
        assert self.dialogs == []
        assert self.elsewhere == []

    def _request(self, request: Request) -> None:
        self.requests.append(request.url)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.errors.append(message.text)

    async def _dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        await dialog.dismiss()


@pytest.fixture
def seen(shared_house: house.House) -> Seen:
    """What the test's pages do."""
    return Seen(origin=shared_house.url)


@pytest.fixture
async def visitor(
    browser: Browser, window: Window, shared_house: house.House, tenant: house.Tenant, seen: Seen
) -> AsyncIterator[Visitor]:
    """Makes pages: `key` signs in (None = nobody); the rest is Playwright's new_context. Those of the first key are
    tabs of the module's window, where only size and colours differ; each of the others is a browser of its own."""
    contexts = []

    async def visit(key: str | None = tenant.key, **options: Any) -> Page:
        page = await window.page(key, **options) if options.keys() <= {"color_scheme", "viewport"} else None
        if page is None:
            context = await opened(browser, shared_house.url, **options)
            contexts.append(context)
            if key is not None:
                await signed_in(context, shared_house.url, key)
            page = await context.new_page()
        seen.watch(page)
        return page

    yield visit
    for context in contexts:
        await context.close()
    await window.clear()


@pytest.fixture
async def page(visitor: Visitor, seen: Seen) -> AsyncIterator[Page]:
    """A page of a browser that has signed in with the tenant's key."""
    yield await visitor()
    seen.check()


def session_cookie(key: str) -> dict[str, str]:
    """Name and value of what a browser keeps that has signed in with this key in a house under test."""
    sealing = seals.Seals(house.KEYRING)
    session = sealing.session(seals.signed_in(tokens.hash_token(key)))
    return {"name": f"postroom-{sealing.instance}-session", "value": session}
