"""What tests of the dashboard may ask for."""

from __future__ import annotations

import pytest

from tests.web.dashboard.browser import browser, chromium, page, seen, visitor, window

__all__ = ["browser", "chromium", "page", "seen", "visitor", "window"]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One loop for a module: Playwright's connection lives as long."""
    return "asyncio"
