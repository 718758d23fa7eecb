"""How long a stranger takes: from `git clone` in an empty folder, with nothing installed, to the first code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.report import Row
from bench.setting import Setting

NAME = "stranger"
ROOT: Final = Path(__file__).parents[1]
SECONDS: Final = 180.0  # until the code is there
PATIENCE: Final = 1200.0  # until it is given up
KEPT: Final = (
    "PATH",
    "LANG",
    "TMPDIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "PIP_INDEX_URL",
    "PIP_CERT",
    "SSL_CERT_FILE",
)
ANY_PORTS: Final = {"PORT": "0", "SMTP_PORT": "0", "SUBMISSION_PORT": "0"}  # somebody may have README's


@dataclass(frozen=True, kw_only=True, slots=True)
class Walk:
    """What it took, in seconds."""

    clone: float
    ready: float  # from the clone's end until `postroom dev` is ready: almost all of it is pip
    code: float  # from there until the code is printed

    @property
    def whole(self) -> float:
        return self.clone + self.ready + self.code


async def run(_: Setting) -> list[Row]:
    """pip keeps no cache from before; the registry is the one that pip is configured for."""
    load = os.getloadavg()[0]
    walk = await asyncio.to_thread(_walk)
    return [
        Row(
            what="from git clone to the first code, nothing installed",
            ours=f"{walk.whole:.0f} s",
            limit_name="three minutes",
            limit=f"{SECONDS:.0f} s",
            ratio=walk.whole / SECONDS,
            target="≤ 1",
            met=walk.whole <= SECONDS,
            note=f"clone {walk.clone:.1f} s, make dev {walk.ready:.1f} s, mailbox, mail and code {walk.code:.1f} s; "
            f"load average at its beginning {load:.1f}",
        )
    ]


def _walk() -> Walk:
    parent = "/tmp" if os.geteuid() == 0 else None  # noqa: S108 - mkdtemp makes a folder of our own there
    with tempfile.TemporaryDirectory(prefix="postroom-stranger-", dir=parent, ignore_cleanup_errors=True) as made:
        folder = Path(made)
        folder.chmod(0o755)  # root's Postgres, another user, has to pass
        tree = folder / "postroom"
        begun = time.monotonic()
        _said(["git", "clone", "--quiet", f"file://{ROOT}", str(tree)], folder)
        cloned = time.monotonic()
        with _make_dev(tree) as process:
            _appears(tree / ".postroom" / "env", process)
            ready = time.monotonic()
            said = _said(["sh", "-ec", tour((tree / "README.md").read_text())], tree)
            assert said.endswith("482913\n"), said
            return Walk(clone=cloned - begun, ready=ready - cloned, code=time.monotonic() - ready)


def tour(readme: str) -> str:
    """README's commands up to the one that prints the code."""
    block = next(each for each in readme.split("```sh\n")[1:] if ".postroom/env" in each).partition("```")[0]
    before, mark, _ = block.partition('echo "$CODE"\n')
    assert mark, "README's tour prints a code"
    return before + mark


@contextlib.contextmanager
def _make_dev(tree: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = _environment(tree.parent) | ANY_PORTS
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(["make", "dev"], cwd=tree, env=environment, stdout=quiet, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.wait(PATIENCE)


def _appears(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None, "make dev ended"
        assert time.monotonic() < deadline, "make dev is not ready"
        time.sleep(0.05)


def _said(command: list[str], folder: Path) -> str:
    environment = _environment(folder)
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=True
    )
    return done.stdout


def _environment(home: Path) -> dict[str, str]:
    """Of somebody whose home is empty: no cache of pip's, no settings of Postroom's."""
    return {name: os.environ[name] for name in KEPT if name in os.environ} | {"HOME": str(home)}
