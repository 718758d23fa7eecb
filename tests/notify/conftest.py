"""What the tests of notify may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from gateway import embedded
from tests.notify.certificates import Authority


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[embedded.Valkey]:
    """A server of this test's own, to be stopped and started at will."""
    with embedded.Valkey(tmp_path) as server:
        yield server


@pytest.fixture
def namespace() -> str:
    """Keeps this test apart from all others on the run's server."""
    return f"test-{uuid4()}"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Signs this test's certificates."""
    return Authority(tmp_path)
