"""Disks for tests: small ext4 images behind loop devices, and copies as a power cut would leave them. Root only.

What a process wrote and did not sync is in the mounted filesystem's memory and not in its image. A copy of the image,
taken while it is mounted, holds what a disk would hold whose power failed in that moment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

MOUNT = "mount"
MAKE = "mkfs.ext4"


def problem() -> str:
    """Why there can be no such disks here; empty = there can."""
    if os.geteuid() != 0:
        return "mounting an image takes root"
    missing = [name for name in (MOUNT, "umount", MAKE) if shutil.which(name) is None]
    if missing:
        return f"mounting an image takes {', '.join(missing)}"
    with tempfile.TemporaryDirectory(prefix="postroom-mount-") as folder, contextlib.ExitStack() as stack:
        try:
            stack.enter_context(mounted(make(Path(folder) / "image", 8), Path(folder) / "on"))
        except subprocess.CalledProcessError as error:
            return f"mounting an image fails here: {error.stderr.decode(errors='replace').strip()}"
    return ""


def make(image: Path, megabytes: int) -> Path:
    """A new filesystem in a file."""
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    _run(MAKE, "-q", "-F", "-m", "0", str(image))
    return image


def copy(image: Path, to: Path) -> Path:
    """The image as it is in this moment; nothing is synced first."""
    _run("cp", "--sparse=always", str(image), str(to))
    return to


@contextlib.contextmanager
def mounted(image: Path, on: Path) -> Iterator[Path]:
    """The image's filesystem, there; its journal is replayed where it has to be."""
    on.mkdir(exist_ok=True)
    _run(MOUNT, "-o", "loop", str(image), str(on))
    try:
        on.chmod(0o711)
        yield on
    finally:
        _run("umount", str(on))


@contextlib.contextmanager
def small(on: Path, megabytes: int) -> Iterator[Path]:
    """A filesystem in memory that has room for so much."""
    on.mkdir(exist_ok=True)
    _run(MOUNT, "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0711", "tmpfs", str(on))
    try:
        yield on
    finally:
        _run("umount", str(on))


def sync(on: Path) -> None:
    """All of this filesystem to its image."""
    _run("sync", "-f", str(on))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
