"""Somebody who reads a page and types what stands there, block after block, in a folder of their own.

What one block leaves behind (variables, files, names) the next one finds. A command that fails, an HTTP answer of 400
or more (unless the page shows it) and a Python exception are failures of the page.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from gateway import embedded
from tests import suites
from tests.docs import pages

PATIENCE: Final = 300.0  # seconds that a block may take on a busy machine
CURL: Final = 'fail-with-body\nmax-time = 60\nwrite-out = "\\n"\n'  # of ~/.curlrc: 400 and more is exit code 22
_TESTS: Final = re.compile(r"^(async )?def (test_\w+)", re.MULTILINE)
STATE: Final = ".exported"  # the shell's variables, from one block to the next


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What a block printed."""

    block: pages.Block
    out: str
    code: int  # exit code
    errors: str = ""  # what stood on standard error


@dataclass(kw_only=True)
class Stranger:
    """The reader of one page."""

    folder: Path  # empty but for what the runner put there
    environment: Mapping[str, str]
    _python: list[subprocess.Popen[str]] = field(default_factory=list)  # none or one
    _tests: list[str] = field(default_factory=list)  # blocks with tests in them

    def type(self, block: pages.Block) -> Said:
        """Run a block of shell, Python or JavaScript."""
        if block.language == "python" and _TESTS.search(block.text):
            return self._test(block)
        return {"sh": self._shell, "python": self._interpret, "js": self._node}[block.language](block)

    def _shell(self, block: pages.Block) -> Said:
        before = f"set -euao pipefail\n[ ! -e {STATE} ] || . ./{STATE}\ntrap 'export -p >{STATE}' EXIT\n"
        return self._run(block, ["bash", "-c", before + block.text])

    def _node(self, block: pages.Block) -> Said:
        file = self.folder / "block.mjs"
        file.write_text(block.text)
        modules = self.folder / "node_modules"
        if not modules.exists():
            modules.symlink_to(suites.path(f"{suites.RESEND_NODE}/node_modules"))
        return self._run(block, [str(suites.node()), str(file)])

    def _test(self, block: pages.Block) -> Said:
        """By pytest, with our plugin, installed or not; what such blocks before it define is there."""
        self._tests.append(block.text)
        file = self.folder / "test_page.py"
        file.write_text("\n\n".join(self._tests))
        chosen = [f"{file}::{name}" for _, name in _TESTS.findall(block.text)]
        plugins = ["-p", "no:cacheprovider", "-p", "anyio.pytest_plugin", "-p", "gateway.client.pytest_plugin"]
        return self._run(block, [sys.executable, "-m", "pytest", "-q", *plugins, *chosen])

    def _run(self, block: pages.Block, command: list[str]) -> Said:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**self.environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return Said(block=block, out=done.stdout, code=done.returncode, errors=done.stderr)

    def _interpret(self, block: pages.Block) -> Said:
        if not self._python:
            self._python.append(self._interpreter())
        [process] = self._python
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"name": str(block), "text": block.text}) + "\n")
        process.stdin.flush()
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        line = process.stdout.readline()
        watchdog.cancel()
        assert line, f"{block}: no end within {PATIENCE:.0f} s"
        answer = json.loads(line)
        return Said(block=block, out=answer["out"], code=1 if answer["error"] else 0, errors=answer["error"])

    def _interpreter(self) -> subprocess.Popen[str]:
        command = [sys.executable, str(Path(__file__).parent / "interpreter.py")]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.folder, env=dict(self.environment), stdin=pipe, stdout=pipe, text=True
        )

    def leave(self) -> None:
        """End what runs."""
        for process in self._python:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def reading(folder: Path, environment: Mapping[str, str]) -> Iterator[Stranger]:
    """A stranger in this folder, with this environment added to little else."""
    folder.mkdir(exist_ok=True)
    (folder / ".curlrc").write_text(CURL)
    here = {name: os.environ[name] for name in ("LANG", "TMPDIR", "PYTHONPATH") if name in os.environ}
    ours = [str(Path(sys.executable).parent), str(embedded.postgres_binaries())]
    path = os.pathsep.join([*ours, os.environ.get("PATH", "")])
    stranger = Stranger(folder=folder, environment={**here, "PATH": path, "HOME": str(folder), **environment})
    try:
        yield stranger
    finally:
        stranger.leave()


# What a page says comes out


def fits(shown: Any, found: Any) -> bool:
    """Whether the JSON that a page shows is a part of what came: fields may be left out, `…` stands for anything."""
    if isinstance(shown, dict):
        return isinstance(found, dict) and all(name in found and fits(one, found[name]) for name, one in shown.items())
    if isinstance(shown, list):
        if shown[-1:] == ["…"]:
            shown, found = shown[:-1], found[: len(shown) - 1] if isinstance(found, list) else found
        return isinstance(found, list) and len(shown) == len(found) and all(map(fits, shown, found))
    if isinstance(shown, str) and "…" in shown:
        return found is not None and resembles(shown, str(found))
    return bool(shown == found)


def resembles(shown: str, found: str) -> bool:
    """Whether a text is as the page shows it, where `…` stands for anything."""
    pattern = "".join("*" if one == "…" else f"[{one}]" if one in "*?[" else one for one in shown)
    return fnmatch.fnmatchcase(found, pattern)


def last_json(text: str) -> Any:
    """The last JSON value that stands in an output, alone or on lines of its own."""
    decoder = json.JSONDecoder()
    starts = [0, *(place + 1 for place, one in enumerate(text) if one == "\n")]
    for start in reversed(starts):
        with contextlib.suppress(ValueError):
            return decoder.decode(text[start:].strip())
    raise AssertionError(f"no JSON in {text!r}")
