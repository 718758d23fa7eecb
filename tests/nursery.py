"""A process that has imported everything, and forks those that tests ask for.

A `serve` or a `worker` takes two seconds of processor time to import, and a suite starts more than a hundred of them.
What is forked from here is a process of its own in all that a test may do to it: it is killed, stopped and looked at
like any other, and dies when the nursery does, which ends when nobody holds the other end of its socket. (Not by
gateway.lifeline: whichever thread asks first starts it, and some fixtures have threads that end before the tests do.)
Whether the commands can be started from a shell is shown elsewhere (tests.test_dev, tests.test_cli).

    python -m tests.nursery FD     answers one request at a time on that socket: fork, or reap
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from gateway import authorities

EVERYTHING: Final = (
    *("gateway.cli", "gateway.app", "gateway.settings", "gateway.lifeline", "workers.main"),
    # what those import when they start, a third of the start's processor time
    *("databases.backends.postgres", "anyio._backends._asyncio", "uvicorn.lifespan.on", "uvloop"),
)
ALONE: Final = ("PROMETHEUS_MULTIPROC_DIR", "WEB_CONCURRENCY")  # decide at import, or concern children of its own
PATIENCE: Final = 5.0  # seconds until it has ended that was told to
HIGH: Final = 500  # file descriptors are moved here first, out of each other's way
MESSAGE: Final = 1 << 18  # bytes; an environment, as JSON


class Process(Protocol):
    """What tests need of a process."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, number: int, /) -> None: ...

    def kill(self) -> None: ...


def start(
    program: str,
    environment: Mapping[str, str],
    *,
    passed: Sequence[int],
    output: Any,
    forked: bool = True,
    tree: Path | None = None,
) -> Process:
    """`postroom <program>`, with those descriptors under the same numbers; `output`: as subprocess.Popen has it.

    Not `forked`: from a shell's point of view, as measurements need it. `tree`: where its code is; None = here."""
    if tree or not forked or not hasattr(os, "pidfd_open") or any(name in environment for name in ALONE):
        environment = {**environment, "POSTROOM_PARENT": str(os.getpid())}
        command = [sys.executable, "-m", "gateway.cli", program]
        if tree:
            environment["PYTHONPATH"] = str(tree)
            command.insert(1, "-P")  # not the folder that the tests run in
        return subprocess.Popen(command, env=environment, pass_fds=passed, stdout=output, stderr=output)
    return _nursery().fork(program, environment, passed, output)


class Forked:
    """A process that the nursery has forked."""

    def __init__(self, pid: int, nursery: Nursery) -> None:
        self.pid = pid
        self._nursery = nursery
        self._ended = os.pidfd_open(pid)
        self._code: int | None = None

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("postroom", timeout or 0)
        return code

    def send_signal(self, number: int, /) -> None:
        if self._code is None:
            signal.pidfd_send_signal(self._ended, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _look(self, seconds: float | None) -> int | None:
        if self._code is None and select.select([self._ended], [], [], seconds)[0]:
            self._code = self._nursery.reap(self.pid)
            os.close(self._ended)
        return self._code


class Nursery:
    """The way to it."""

    def __init__(self) -> None:
        self._line, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            command = [sys.executable, "-m", "tests.nursery", str(far.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[far.fileno()])
        self._lock = threading.Lock()

    def end(self) -> None:
        """It, and all that came from it."""
        self._line.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:  # somebody else holds the line, too
            self._process.kill()
            self._process.wait()

    def fork(self, program: str, environment: Mapping[str, str], passed: Sequence[int], output: Any) -> Forked:
        with open(os.devnull, "ab") as nothing:  # noqa: PTH123 - a device
            said = nothing.fileno() if output == subprocess.DEVNULL else output.fileno()
            wish = {"program": program, "environment": dict(environment), "numbers": [1, 2, *passed]}
            return Forked(self._ask(wish, [said, said, *passed]), self)

    def reap(self, pid: int) -> int:
        """Its exit code, negative for a signal, as subprocess.Popen has it."""
        return self._ask({"reap": pid}, [])

    def _ask(self, wish: dict[str, Any], descriptors: Sequence[int]) -> int:
        with self._lock:
            socket.send_fds(self._line, [json.dumps(wish).encode()], list(descriptors))
            return int(self._line.recv(64))


@functools.cache
def _nursery() -> Nursery:
    """One for this process of the tests; it ends when that does."""
    nursery = Nursery()
    atexit.register(nursery.end)
    return nursery


# In the nursery


def _serve(line: socket.socket) -> None:
    while True:
        message, descriptors, _, _ = socket.recv_fds(line, MESSAGE, 64)
        if not message:
            return
        wish = json.loads(message)
        if "reap" in wish:
            answer = os.waitstatus_to_exitcode(os.waitpid(wish["reap"], 0)[1])
        else:
            answer = _fork(line, wish, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        line.send(str(answer).encode())


def _fork(line: socket.socket, wish: dict[str, Any], descriptors: Sequence[int]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        line.close()
        _put_in_place(descriptors, wish["numbers"])
        os.environ.clear()
        os.environ.update(wish["environment"], POSTROOM_PARENT=str(parent))
        sys.argv = ["postroom", wish["program"]]
        importlib.import_module("gateway.cli").main()
    except SystemExit as ended:
        os._exit(ended.code if isinstance(ended.code, int) else 1)
    except BaseException:  # noqa: BLE001 - said where the process would have said it
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def _put_in_place(descriptors: Sequence[int], numbers: Sequence[int]) -> None:
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, HIGH) for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    for descriptor, number in zip(moved, numbers, strict=True):
        os.dup2(descriptor, number, inheritable=True)
        os.close(descriptor)


def _main() -> None:
    for name in EVERYTHING:
        importlib.import_module(name)
    authorities.for_http()  # 50 ms each; a process whose environment names other ones reads those
    authorities.for_smtp()
    gc.collect()
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)


if __name__ == "__main__":
    _main()
