"""What every test may ask for."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Postroom runs on asyncio alone."""
    return "asyncio"
