"""The pytest plugin, in runs of pytest of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests import house
from tests.client import plugged
from tests.processes import gone, until

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0  # seconds, on a busy machine
OPTIONS = ("-p", "no:schemathesis", "-p", "no:hypothesispytest", "-p", "no:cacheprovider", "-q", "-W", "error")

# Says that it is ready, as `postroom dev` does, and nothing more.
STAND_IN = """
import json, os, pathlib, signal, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--data-dir") + 1])
folder.mkdir()
print("environment", sorted(os.environ), flush=True)
(folder / "pid").write_text(str(os.getpid()))
fresh = folder / "new"
fresh.write_text(json.dumps({"http_url": "http://127.0.0.1:9", "api_key": "pr_key_x", "smtp_host": "127.0.0.1",
                             "smtp_port": 9}))
fresh.replace(folder / "dev.json")
signal.pause()
"""


@pytest.fixture
def installed(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Where pytest finds the plugin by its entry point, as after an installation."""
    about = pytester.path / "installed" / "postroom_as_tested-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: postroom-as-tested\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[pytest11]\npostroom = gateway.client.pytest_plugin\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(about.parent), str(ROOT)]))
    for name in ("POSTROOM_URL", "POSTROOM_API_KEY", "POSTROOM_SMTP", "PYTEST_ADDOPTS", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", tempfile.gettempdir())
    return pytester


@pytest.fixture
def connected(
    installed: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    shared_house: house.House,
    anyio_backend: str,
    tenant: house.Tenant,
) -> pytest.Pytester:
    """The same, with a running gateway."""
    monkeypatch.setenv("POSTROOM_URL", shared_house.url)
    monkeypatch.setenv("POSTROOM_API_KEY", tenant.key)
    monkeypatch.setenv("POSTROOM_SMTP", f"127.0.0.1:{shared_house.smtp_port}")
    return installed


@pytest.fixture
def stand_in(installed: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Where a gateway that only says that it is ready is started."""
    program = installed.path / "stand_in.py"
    program.write_text(STAND_IN)
    monkeypatch.setenv("POSTROOM_COMMAND", f"{sys.executable} {program}")
    return installed


def test_mailboxes_sinks_and_their_asynchronous_forms(connected: pytest.Pytester) -> None:
    connected.makepyfile(
        plugged.DELIVER
        + """
import pytest

def test_one(postroom, mailbox, mailboxes):
    deliver(postroom, mailbox.address, "Your code", "Your verification code is 482913.")
    assert mailbox.wait(code=True).code == "482913"
    assert mailbox.metadata["test"].endswith("::test_one")
    other = mailboxes(ttl=60, metadata={"more": 1})
    assert other.address != mailbox.address
    assert other.metadata.keys() == {"test", "more"}
    other.expect_no_mail(0)
    test_one.mailbox = mailbox.id

def test_it_is_gone(postroom):
    assert test_one.mailbox not in [box.id for box in postroom.client.mailboxes.list()]

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asynchronously(postroom, async_mailbox, anyio_backend):
    deliver(postroom, async_mailbox.address, "Hello")
    assert (await async_mailbox.wait()).subject == "Hello"

def test_a_sink(smtp_sink, mailboxes, postroom):
    known, other = mailboxes(), mailboxes()
    deliver(postroom, known.address, "past it")
    assert smtp_sink.env["EMAIL_PORT"] == str(smtp_sink.port)
    deliver(smtp_sink, known.address, "first")
    deliver(smtp_sink, other.address, "second", "Your verification code is 482913.")
    assert smtp_sink.wait(to=other.address).code == "482913"
    assert [one.subject for one in smtp_sink.messages()] == ["first", "second"]
    with pytest.raises(TimeoutError, match="'second' to"):
        smtp_sink.wait(subject="third", timeout=0)
"""
    )
    connected.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=4)


def test_a_failing_test_shows_its_mails_and_keeps_its_mailbox(connected: pytest.Pytester) -> None:
    connected.makepyfile(
        plugged.DELIVER
        + """
def test_failing(postroom, mailbox, mailboxes):
    deliver(postroom, mailbox.address, "Your code", "Your verification code is 482913.")
    mailboxes()
    mailbox.wait(subject="Welcome", timeout=0)

def test_it_is_there(postroom):
    assert [box.metadata["test"] for box in postroom.client.mailboxes.list()][1].endswith("::test_failing")
"""
    )
    result = connected.runpytest_subprocess(*OPTIONS)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*WaitTimeout: No message with 'Welcome' in its subject arrived at *@postroom.test within 0 s.*",
            "*- mail that arrived -*",
            "*@postroom.test  (mailbox * at http://127.0.0.1:*)",
            "  *'Your code' from Shop <shop@example.com> to *@postroom.test",
            "      code 482913",
            "      | Your verification code is 482913.",
            "*@postroom.test  (mailbox *",
            "  nothing arrived",
        ]
    )
    result.stdout.no_fnmatch_line("*pr_key_*")
    result.stdout.no_fnmatch_line("*pr_mbx_*")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_gateway_goes_when_pytest_is_killed(stand_in: pytest.Pytester, workers: str) -> None:
    """Seen to fail with a keeper that waits for its users to say that they leave, not for their locks: keeper, gateway
    and the run's folder were still there."""
    stand_in.makepyfile(
        """
import pathlib, pytest, time

@pytest.mark.parametrize("number", range(2))
def test_hanging(number, postroom, request):
    from gateway.client import shared
    folder = shared.folder_of(request.config.stash[request.config.pluginmanager.getplugin("postroom").FOLDER])
    pathlib.Path(f"folder-{number}").write_text(str(folder))
    time.sleep(600)
"""
    )
    run = subprocess.Popen([sys.executable, "-m", "pytest", *OPTIONS, "-n", workers], cwd=stand_in.path)
    folder = Path(until(lambda: _read(stand_in.path / "folder-0"), PATIENCE))
    if workers == "2":
        assert until(lambda: _read(stand_in.path / "folder-1"), PATIENCE) == str(folder)
    gateway = int((folder / "dev" / "pid").read_text())
    keeper = int((folder / "keeper").read_text())
    assert not gone(gateway)
    run.send_signal(signal.SIGKILL)
    run.wait()
    until(lambda: gone(gateway) and gone(keeper) and not folder.exists(), PATIENCE)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
