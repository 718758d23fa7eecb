"""What the shell says to commands that are clients, whose variables are no settings of a gateway."""

from __future__ import annotations

import os


def variable(name: str) -> str:
    """A variable of the environment; empty where it is not set."""
    return os.environ.get(name, "")
