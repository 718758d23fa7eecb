"""One gateway for all processes of a test run, started by whoever asks first, gone when nobody uses it any more.

Each user holds a shared lock on a file; a keeper, a process of its own, waits for the exclusive one. The kernel lets a
process's locks go when it ends, however it ends: so the keeper gets its lock when the last user is gone, be it killed,
and then stops the gateway and removes all that it left. By itself (`python -m …shared FOLDER COMMAND…`) this is the
keeper. POSIX only, as the gateway is.

A run's folder:
    lock         held while somebody begins, or the keeper ends
    users        held by every user
    dev/         the gateway's data folder; dev.json is there when it is ready
    log          what the gateway said
    failed       why there is none; written by the keeper
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from . import errors

READY_SECONDS = 120.0  # a first start makes a database
STOP_SECONDS = 10.0  # to end by itself; then it is killed, and all that is its
POLL_SECONDS = 0.02
LOG_LINES = 15  # shown of a gateway that did not start
PASSED = ("HOME", "LANG", "LOGNAME", "PATH", "PYTHONPATH", "SHELL", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV")
PASSED_PREFIXES = ("LC_", "UV_", "PIP_", "SSL_CERT_")  # not the rest: a DATABASE_URL is the tested application's


@dataclass(frozen=True, kw_only=True, slots=True)
class Gateway:
    """A run's gateway, as this process uses it."""

    described: Mapping[str, Any]  # what dev.json says
    folder: Path
    hold: IO[str]  # while it is open, the gateway stays

    def leave(self) -> None:
        """Use it no more."""
        self.hold.close()


def folder_of(run: str) -> Path:
    """Where the run has its folder: the same for all its processes, and no other user's."""
    return Path(tempfile.gettempdir()) / f"postroom-{os.getuid()}-{run}"


def join(folder: Path, command: Sequence[str], settings: Mapping[str, str]) -> Gateway:
    """Use the run's gateway; start it where there is none. Raises ConfigurationError, which says why there is none."""
    with _locked(folder):
        hold = (folder / "users").open("a")
        fcntl.flock(hold, fcntl.LOCK_SH)
        if not (folder / "keeper").exists():
            _start_keeper(folder, command, settings)
    try:
        return Gateway(described=_await_ready(folder, command), folder=folder, hold=hold)
    except BaseException:
        hold.close()
        raise


def await_end(folder: Path, seconds: float = STOP_SECONDS + 5.0) -> None:
    """Returns when the keeper has cleared away everything, or after so many seconds."""
    until = time.monotonic() + seconds
    while folder.exists() and time.monotonic() < until:
        time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder, made if need be, with nobody else beginning or ending there."""
    while True:
        lock = _lock(folder)
        if lock is not None:
            break
    with lock:
        yield


def _lock(folder: Path) -> IO[str] | None:
    """The lock's file, locked; None = a keeper removed it while we waited."""
    try:
        folder.mkdir(mode=0o711 if os.getuid() == 0 else 0o700, exist_ok=True)  # root's Postgres is another user
        if folder.stat().st_uid != os.getuid():
            raise errors.ConfigurationError(f"{folder} belongs to somebody else; set TMPDIR to a folder of your own.")
        lock = (folder / "lock").open("a")
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.samestat(os.fstat(lock.fileno()), (folder / "lock").stat()):
            return lock
        lock.close()
    except FileNotFoundError:
        pass
    return None


def _start_keeper(folder: Path, command: Sequence[str], settings: Mapping[str, str]) -> None:
    kept = {name: value for name, value in os.environ.items() if name in PASSED or name.startswith(PASSED_PREFIXES)}
    package = str(__package__)
    root = Path(__file__).parents[package.count(".") + 1]
    code = f"import sys; sys.path.insert(0, {str(root)!r}); from {package} import shared; shared.main()"
    keeper = subprocess.Popen(  # noqa: S603 - the test run's own command
        [sys.executable, "-I", "-c", code, str(folder), *command],
        env={**kept, **settings},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in the terminal is not for it
    )
    (folder / "keeper").write_text(str(keeper.pid))
    keeper.returncode = 0  # nobody waits for it: it outlives whoever started it


def _await_ready(folder: Path, command: Sequence[str]) -> Mapping[str, Any]:
    until = time.monotonic() + READY_SECONDS
    told, failed = folder / "dev" / "dev.json", folder / "failed"
    while time.monotonic() < until:
        with contextlib.suppress(FileNotFoundError):
            found: Mapping[str, Any] = json.loads(told.read_text())
            return found
        with contextlib.suppress(FileNotFoundError):
            raise errors.ConfigurationError(failed.read_text())
        time.sleep(POLL_SECONDS)
    raise errors.ConfigurationError(
        f"`{shlex.join(command)}` was not ready after {READY_SECONDS:g} s. It said:\n{_log(folder)}"
    )


def _log(folder: Path) -> str:
    try:
        lines = (folder / "log").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    return "\n".join(f"  {line}" for line in lines[-LOG_LINES:]) or "  nothing"


# The keeper


def main() -> None:
    """Keep a gateway until nobody uses it."""
    folder, command = Path(sys.argv[1]), sys.argv[2:]
    gateway = _start(folder, command)
    with (folder / "users").open("a") as users:
        while True:
            fcntl.flock(users, fcntl.LOCK_EX)  # the last one has gone …
            fcntl.flock(users, fcntl.LOCK_UN)
            with _locked(folder), contextlib.suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)  # … and nobody has come meanwhile
                _stop(gateway)
                shutil.rmtree(folder, ignore_errors=True)
                return


def _start(folder: Path, command: Sequence[str]) -> subprocess.Popen[bytes] | None:
    """The gateway, whose end is written down whenever it comes; None = it cannot be started."""
    with (folder / "log").open("wb") as log:
        try:
            gateway = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603
        except OSError as error:
            _fail(folder, f"`{shlex.join(command)}` cannot be started: {error}")
            return None

    def watch() -> None:
        status = gateway.wait()
        with contextlib.suppress(FileNotFoundError):  # it was stopped, and the folder is gone
            _fail(folder, f"`{shlex.join(command)}` ended with {status}. It said:\n{_log(folder)}")

    threading.Thread(target=watch, daemon=True).start()
    return gateway


def _fail(folder: Path, why: str) -> None:
    fresh = folder / "failed.new"
    fresh.write_text(why)
    fresh.replace(folder / "failed")


def _stop(gateway: subprocess.Popen[bytes] | None) -> None:
    """At first by SIGTERM; a second one does not wait for what it has to do still; SIGKILL takes all that is its."""
    if gateway is None:
        return
    for order, seconds in (
        (signal.SIGTERM, STOP_SECONDS / 2),
        (signal.SIGTERM, STOP_SECONDS / 2),
        (signal.SIGKILL, None),
    ):
        gateway.send_signal(order)
        with contextlib.suppress(subprocess.TimeoutExpired):
            gateway.wait(seconds)
            return
