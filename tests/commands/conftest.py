"""Somebody at a terminal."""

from __future__ import annotations

import pytest

from tests import house
from tests.commands import terminal


@pytest.fixture
def typist(shared_house: house.House, tenant: house.Tenant) -> terminal.Typist:
    """With an account of the test's own in the shared house."""
    return terminal.Typist(environment=terminal.environment(shared_house, tenant))
