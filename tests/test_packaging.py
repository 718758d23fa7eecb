"""The wheel: everything that runs is in it, nothing else is, and it migrates a database from where it lies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from gateway.storage import accounts, migrate
from tests import databases

pytestmark = pytest.mark.xdist_group("the wheel")

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without a network from a copy of the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tree.mkdir()
    for name in ("gateway", "workers"):
        shutil.copytree(PROJECT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "schema.sql"):
        shutil.copy(PROJECT / name, tree)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    built = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    [wheel] = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(unpacked: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Python with the unpacked wheel in front of everything else, away from the project's folder."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment = {**kept, "PYTHONPATH": str(unpacked), **variables}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=unpacked, env=environment, capture_output=True, text=True, check=False)


def test_every_file_of_the_packages_is_in_the_wheel_and_the_schema_too(unpacked: Path) -> None:
    for package in ("gateway", "workers"):
        ours = {p.relative_to(PROJECT) for p in (PROJECT / package).rglob("*") if p.is_file() and "pyc" not in p.suffix}
        theirs = {p.relative_to(unpacked) for p in (unpacked / package).rglob("*") if p.is_file()}
        assert theirs - ours == ({Path("gateway/storage/schema.sql")} if package == "gateway" else set())
        assert ours - theirs == set()
    for name in ("storage/sql/events.sql", "storage/migrations/0001_initial.sql", "py.typed"):
        assert (unpacked / "gateway" / name).is_file()
    assert list((unpacked / "gateway/web/static").rglob("*.js"))
    assert (unpacked / "gateway/storage/schema.sql").read_bytes() == (PROJECT / "schema.sql").read_bytes()


def test_nothing_else_is_in_it_but_its_description_and_license(unpacked: Path) -> None:
    assert {path.name.partition("-")[0] for path in unpacked.iterdir()} == {"gateway", "workers", "postroom"}
    [description] = unpacked.glob("postroom-*.dist-info")
    assert (description / "licenses/LICENSE").is_file()
    assert "postroom = gateway.entry:main" in (description / "entry_points.txt").read_text()


@pytest.fixture
async def empty_dsn(postgres_dsn: str) -> AsyncIterator[str]:
    """A database of the test's own with nothing in it."""
    name = f"test_{uuid7().hex}"
    server = await asyncpg.connect(postgres_dsn)
    await server.execute(f"create database {name}")
    yield databases.named(postgres_dsn, name)
    await server.execute(f"drop database {name} with (force)")
    await server.close()


@pytest.mark.anyio
async def test_from_the_wheel_a_database_is_migrated(unpacked: Path, empty_dsn: str) -> None:
    """Seen to fail with schema.sql left out of the wheel (`force-include` in pyproject.toml): it exited with 1."""
    where = run(unpacked, "-c", "import gateway; print(gateway.__file__)")
    assert where.stdout.strip() == str(unpacked / "gateway/__init__.py")
    first = run(unpacked, "-m", "gateway.cli", "migrate", DATABASE_URL=empty_dsn)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.splitlines() == [f"applied  {name}" for name in migrate.names()]
    again = run(unpacked, "-m", "gateway.cli", "migrate", "--check", DATABASE_URL=empty_dsn)
    assert (again.returncode, again.stdout) == (0, "up to date\n")
    async with databases.opened(empty_dsn) as database, database.connection() as connection:
        assert len(await accounts.voids(connection)) == 16
