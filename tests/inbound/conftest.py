"""What the tests of mail coming in have in common."""

from __future__ import annotations

import pytest

from gateway import telemetry
from gateway.inbound import doorway, listener, protocol, submission


@pytest.fixture(autouse=True)
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said a few times in a while was not said yet, whatever the tests before this one did."""
    for module in (doorway, listener, protocol, submission):
        monkeypatch.setattr(module, "seldom", telemetry.Seldom(module.log))
