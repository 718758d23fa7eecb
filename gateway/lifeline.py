"""Lets a child process die with its parent, even where the parent is killed and can say nothing.

For processes that lose nothing by SIGKILL: what they acknowledged is committed. On Linux the kernel sends it
(PR_SET_PDEATHSIG); it does so when the parent's *thread* that started the child ends, so start children from the main
thread. Elsewhere a thread looks who the parent is, five times a second.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1  # linux/prctl.h
LOOK_SECONDS = 0.2


def die_with(parent: int) -> None:
    """From now on, end this process by SIGKILL when the process `parent`, which started it, ends. 0: no parent."""
    if not parent:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    else:
        threading.Thread(target=_watch, args=(parent,), name="lifeline", daemon=True).start()
    if os.getppid() != parent:  # it died before we asked
        _die()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
