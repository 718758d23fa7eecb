"""The wheel postroom-client, alone with httpx2 and pytest: no other package of ours can be imported there."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client import plugged

PROJECT = Path(__file__).parents[2]
NEEDED = ("httpx2", "pytest", "pytest-xdist")

SUITE = (
    plugged.DELIVER
    + """
import os, sys

import pytest


@pytest.mark.parametrize("number", range(2))
def test_shared(number, postroom, mailbox, smtp_sink):
    deliver(postroom, mailbox.address, "Your code", "Your verification code is 482913.")
    assert mailbox.wait(code=True).code == "482913"
    deliver(smtp_sink, f"anybody-{number}@anywhere.example", "To nobody we know")
    assert smtp_sink.wait().subject == "To nobody we know"
    assert {name.partition(".")[0] for name in sys.modules}.isdisjoint({"gateway", "workers", "tests"})
    assert type(mailbox).__module__ == "postroom_client.blocking"
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(f"{postroom.http_url} {os.environ['PYTEST_XDIST_WORKER']} {number}\\n")
"""
)

PROGRAM = """
from postroom_client import AsyncPostroom, Event, Mailbox, Message, NewEmail, Postroom, verify_webhook


def sign_up(postroom: Postroom) -> int:
    with postroom.mailbox(ttl=600) as inbox:
        found: Message = inbox.wait(code=True, from_="@shop.example", timeout=10)
        inbox.expect_no_mail(2)
        subjects: list[str] = [one.subject for one in inbox.messages("is:unseen")]
        email: NewEmail = {"from_": "a@b.example", "to": [inbox.address], "subject": subjects[0], "text": "…"}
        sent = postroom.send(idempotency_key="order-17", **email)
        postroom.send(from_="a@b.example", to="c@d.example", subject="…", html="…", tags={"kind": "order"})
        status: str = sent.wait("sent").recipients[0].status
        return len(status) + len(found.code)


async def listen() -> Event:
    async with AsyncPostroom() as postroom, postroom.mailbox() as inbox:
        await (await postroom.send(from_="a@b.example", to=inbox.address, subject="…", text="…")).wait()
        async for event in postroom.events(types=["email.bounced"]):
            return event
    raise AssertionError


def hook(body: bytes, headers: dict[str, str]) -> str:
    return verify_webhook(body, headers, "whsec_x").type


def box(postroom: Postroom) -> Mailbox:
    return postroom.mailboxes.get("a@b.example")
"""
WRONG = """
from postroom_client import Postroom

Postroom().mailbox(ttl="600")
Postroom().send(to="c@d.example", subject="…")
Postroom().send(from_="a@b.example", to="c@d.example", subjekt="…")
Postroom().mailbox().wait(kode=True)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without a network from a copy of the tree."""
    tree = tmp_path_factory.mktemp("tree")
    shutil.copytree(PROJECT / "gateway/client", tree / "gateway/client", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PROJECT / "client", tree / "client")
    shutil.copy(PROJECT / "pyproject.toml", tree)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tree)]
    built = subprocess.run(command, cwd=tree / "client", capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    [wheel] = tree.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages with the wheel, and what httpx2 and pytest need; Python's own are elsewhere."""
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for distribution in _with_all_they_need(NEEDED):
        for top in {Path(file.parts[0]) for file in distribution.files or () if ".." not in file.parts}:
            found = Path(str(distribution.locate_file(str(top))))
            if top.name != "__pycache__" and not (site / top).exists():
                (site / top).symlink_to(found)
    return site


def _with_all_they_need(names: tuple[str, ...]) -> Iterator[importlib.metadata.Distribution]:
    todo, seen = list(names), set[str]()
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # needed on other systems
            continue
        yield found
        needed = [need for need in found.requires or () if "extra ==" not in need]
        todo += [re.split(r"[^A-Za-z0-9._-]", need, maxsplit=1)[0] for need in needed]


def python(site: Path, *arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Python that knows no other packages than the site's."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    environment = {**kept, "PYTHONPATH": str(site), **variables}
    command = [sys.executable, "-S", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_it_has_the_gateways_version_and_no_module_but_its_own(wheel: Path, site: Path) -> None:
    own = importlib.metadata.PathDistribution(next(site.glob("postroom_client-*.dist-info")))
    [version] = re.findall(r'^version = "(.*)"$', (PROJECT / "pyproject.toml").read_text(), re.MULTILINE)
    assert own.version == version
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {Path(name).parts[0].partition("-")[0] for name in names} == {"postroom_client"}
    ours = {path.name for path in (PROJECT / "gateway/client").iterdir() if path.name != "__pycache__"}
    assert ours == {Path(name).parts[1] for name in names if name.startswith("postroom_client/")}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_it_runs_alone_and_needs_nothing_for_the_plugin_to_be_loaded(site: Path, tmp_path: Path) -> None:
    code = """
import sys
import postroom_client.pytest_plugin
assert not {"httpx2", "ssl", "asyncio", "postroom_client.fixtures"} & set(sys.modules), "the plugin is not lazy"
for name in postroom_client._HOME_OF:
    getattr(postroom_client, name)
assert {name.partition(".")[0] for name in sys.modules}.isdisjoint({"gateway", "workers", "tests"})
try:
    import gateway
except ModuleNotFoundError:
    print("alone")
"""
    result = python(site, "-c", code, cwd=tmp_path)
    assert (result.stdout, result.stderr) == ("alone\n", "")


def test_its_plugin_starts_one_gateway_for_all_workers_and_leaves_nothing_behind(site: Path, tmp_path: Path) -> None:
    """`postroom dev` itself, with Postgres and Valkey."""
    before = plugged.leftovers()
    (tmp_path / "test_suite.py").write_text(SUITE)
    command = ["env", f"PYTHONPATH={PROJECT}", sys.executable, "-m", "gateway.cli"]
    variables = {
        "POSTROOM_COMMAND": shlex.join(command),
        "DATABASE_URL": "postgresql://the-applications-own/database",  # not for the gateway
        "NOTES": str(tmp_path / "notes"),
        "TMPDIR": tempfile.gettempdir(),
    }
    options = ["-q", "-W", "error", "-p", "no:cacheprovider", "-n", "2", "--dist", "each"]
    result = python(site, "-m", "pytest", *options, cwd=tmp_path, **variables)
    assert result.returncode == 0, result.stdout + result.stderr
    notes = [line.split() for line in (tmp_path / "notes").read_text().splitlines()]
    assert {(worker, number) for _, worker, number in notes} == {(w, n) for w in ("gw0", "gw1") for n in ("0", "1")}
    assert len({url for url, _, _ in notes}) == 1
    assert plugged.leftovers() <= before


def test_programs_that_use_it_are_checked_by_mypy(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "wrong.py").write_text(WRONG)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-version", "3.11", "--cache-dir", os.devnull]
    environment = {**os.environ, "MYPYPATH": str(site)}
    result = subprocess.run(
        [*command, "program.py", "wrong.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    found = [line.partition(": error:")[0] for line in result.stdout.splitlines() if ": error:" in line]
    assert found == [f"wrong.py:{line}" for line in (4, 5, 6, 7)], result.stdout
