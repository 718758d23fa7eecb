"""One Postgres and one Valkey for a whole test run, shared by all of its processes.

The process that reads the command line starts them, in the background, and stops them when the run ends; pytest-xdist's
workers are told the folder in which their addresses will appear. However that process ends, the servers end with it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from gateway import embedded

ADDRESSES = "addresses.json"
WAIT_SECONDS = 120.0
MEMORY = "/dev/shm"  # noqa: S108 - mkdtemp makes a folder of our own there
ROOM = 2 * 2**30  # bytes that a run may take there


@dataclass(frozen=True, kw_only=True, slots=True)
class Addresses:
    """Where the servers of this run are."""

    postgres: str  # DSN of the maintenance database
    redis: str  # URL without a database number


def in_memory() -> str | None:
    """A folder in memory, where there is room: making and dropping a database for each test waits for no disk there.

    What survives a power cut is tried elsewhere; a killed process loses nothing that was written to memory."""
    if not Path(MEMORY).is_dir() or shutil.disk_usage(MEMORY).free < ROOM:
        return on_disk()
    return MEMORY


def on_disk() -> str | None:
    """As root, Postgres runs as another user, to whom pytest's temporary folders (and perhaps TMPDIR) are closed."""
    return "/tmp" if os.geteuid() == 0 else None  # noqa: S108 - mkdtemp makes a folder of our own there


class Run:
    """The servers of one run: begun at most once, ended once."""

    def __init__(self, parent: str | None = None) -> None:
        """`parent`: where the data lie for as long as the run takes; None = the system's temporary folder."""
        self._parent = parent
        self._folder: Path | None = None
        self._starting: threading.Thread | None = None
        self._servers: list[embedded.Postgres | embedded.Valkey] = []

    def begin(self) -> Path:
        """Start the servers, if that has not happened yet; the folder to give to `await_addresses`."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="postroom-tests-", dir=self._parent))
            self._folder.chmod(0o711)
            self._starting = threading.Thread(target=self._start, args=(self._folder,), name="test servers")
            self._starting.start()
        return self._folder

    def end(self) -> None:
        """Stop what runs and remove its data."""
        if self._folder is None or self._starting is None:
            return
        self._starting.join()
        for server in reversed(self._servers):
            server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, folder: Path) -> None:
        postgres = embedded.Postgres(folder / "postgres", options={"max_connections": 800})
        valkey = embedded.Valkey(folder / "valkey", options={"databases": 256})
        self._servers = [postgres, valkey]
        try:
            found = {"postgres": postgres.start().dsn, "redis": valkey.start().url_of(0).partition("?")[0]}
        except Exception as error:  # noqa: BLE001 - whoever waits is told, whatever it is
            found = {"error": str(error)}
        _publish(folder / ADDRESSES, found)


def await_addresses(folder: Path) -> Addresses:
    """The addresses, once the servers are ready; RuntimeError says why they did not start."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (folder / ADDRESSES).exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"the test servers were not ready after {WAIT_SECONDS:.0f} s")
        time.sleep(0.01)
    found = json.loads((folder / ADDRESSES).read_text())
    if "error" in found:
        raise RuntimeError(f"the test servers did not start: {found['error']}")
    return Addresses(**found)


def _publish(path: Path, content: dict[str, str]) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(content))
    fresh.replace(path)
