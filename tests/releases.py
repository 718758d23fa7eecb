"""The release before this one, as its commit has it: what a deployment runs while it changes to today's."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PREVIOUS: Final = "295fc6407389ee479b258590019b9906f2340d8d"  # set anew with each release
PARTS: Final = ("gateway", "workers", "schema.sql")


def previous(folder: Path) -> Path | None:
    """Its code, below `folder`; None where there is no history to take it from, such as in a source archive."""
    command = ["git", "-C", str(ROOT), "archive", PREVIOUS, *PARTS]
    try:
        packed = subprocess.run(command, check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder
