"""The supervisor of `postroom dev`: what it takes, what it keeps running, what it leaves behind.

The programs here stand in for `postroom serve` and `postroom worker`; Postgres, Valkey and the database's preparation
are the real ones. That the real programs come up and drain is tested where the whole of `postroom dev` is.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from gateway import dev
from gateway.errors import ConfigurationError
from tests import servers
from tests.processes import gone, until

PROJECT = Path(__file__).parents[1]
PATIENCE = 180  # seconds for what starts or stops everything

# Answers every request with its environment, /die by dying and /stay by ignoring SIGTERM from then on.
SERVE = """
import asyncio, json, os, signal
from gateway import lifeline, sockets

lifeline.die_with(int(os.environ["POSTROOM_PARENT"]))

async def answer(reader, writer):
    request = await reader.readuntil(b"\\r\\n\\r\\n")
    if b" /die " in request:
        os._exit(3)
    if b" /stay " in request:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, print, "stays")
    body = json.dumps({**os.environ, "pid": os.getpid()}).encode()
    writer.write(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
    writer.close()

async def greet(reader, writer):
    writer.write(b"220 a stand-in\\r\\n")
    await reader.readline()
    writer.write(b"250 hello\\r\\n")
    await reader.readline()
    writer.close()

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    listeners = sockets.receive(os.environ["POSTROOM_SOCKETS"])
    print("serves", *sorted(listeners), flush=True)
    for name, listener in listeners.items():
        await asyncio.start_server(answer if name == "http" else greet, sock=listener)
    await stop.wait()
    print("drained", flush=True)

asyncio.run(main())
"""

WORKER = """
import os, signal
from gateway import lifeline
lifeline.die_with(int(os.environ["POSTROOM_PARENT"]))
assert os.environ["POSTROOM_SOCKETS"] == ""
signal.sigwait([signal.SIGTERM])
"""

# A supervisor in a process of its own, so that it can be signalled and killed.
SUPERVISOR = """
import asyncio, os, pathlib, sys
from gateway import dev
from gateway.errors import PostroomError

folder, worker, serve, port, smtp_port = sys.argv[1:]
options = dev.Options(data_dir=pathlib.Path(folder), http_port=int(port), smtp_port=int(smtp_port), submission_port=0)
programs = [
    dev.Program(name="serve", command=[sys.executable, "-c", serve], listens=True),
    dev.Program(name="worker", command=[sys.executable, "-c", worker], listens=False),
]

async def main():
    return await dev.Supervisor(options, dict(os.environ), programs=programs, pause_seconds=0.01).run()

try:
    sys.exit(asyncio.run(main()))
except PostroomError as error:
    sys.exit(f"refused: {error}")
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A data folder below one that every user may enter, as Postgres needs it when the tests run as root."""
    path = Path(tempfile.mkdtemp(prefix="pr-", dir=servers.in_memory()))
    path.chmod(0o755)
    yield path / "data"
    shutil.rmtree(path)


def command(folder: Path, *, serve: str = SERVE, worker: str = WORKER, port: int = 0, smtp_port: int = 0) -> list[str]:
    return [sys.executable, "-c", SUPERVISOR, str(folder), worker, serve, str(port), str(smtp_port)]


def environment(more: Mapping[str, str]) -> dict[str, str]:
    ours = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "OUTBOUND", "HOST", "SMTP_HOST", "PROMETHEUS_MULTIPROC_DIR")
    return {name: value for name, value in os.environ.items() if name not in ours} | dict(more)


class Running:
    """A supervisor that has said it is ready."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.told: dict[str, Any] = {}

    def begin(self) -> None:
        until(lambda: (self.folder / "dev.json").exists() or self.process.poll() is not None, PATIENCE)
        assert self.process.poll() is None, self.log
        self.told = json.loads((self.folder / "dev.json").read_text())

    @property
    def log(self) -> str:
        return self.folder.with_name("log").read_text()

    def get(self, path: str = "/") -> dict[str, Any]:
        with urllib.request.urlopen(self.told["http_url"] + path, timeout=30) as answer:  # noqa: S310 - our own
            found: dict[str, Any] = json.loads(answer.read())
            return found

    def die(self) -> int:
        """Let the program that serves die; its process id."""
        pid = int(self.get()["pid"])
        with contextlib.suppress(OSError), contextlib.closing(self.connect()) as connection:
            connection.sendall(b"GET /die HTTP/1.1\r\n\r\n")
            connection.recv(1)
        return pid

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", int(self.told["http_url"].rpartition(":")[2])), timeout=30)

    def family(self) -> list[int]:
        return [process.pid for process in psutil.Process(self.process.pid).children(recursive=True)]


@contextlib.contextmanager
def running(
    folder: Path, *, serve: str = SERVE, worker: str = WORKER, smtp_port: int = 0, more: Mapping[str, str] | None = None
) -> Iterator[Running]:
    folder.parent.mkdir(exist_ok=True)
    with folder.with_name("log").open("w") as log:
        process = subprocess.Popen(
            command(folder, serve=serve, worker=worker, smtp_port=smtp_port),
            cwd=PROJECT,
            env=environment(more or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            text=True,
        )
        it = Running(process, folder)
        try:
            it.begin()
            yield it
        finally:
            process.terminate()
            process.wait(PATIENCE)


def ended(command: list[str], more: Mapping[str, str] | None = None) -> str:
    """What a supervisor says that ends by itself, for a reason that it tells."""
    said = subprocess.run(
        command, cwd=PROJECT, env=environment(more or {}), capture_output=True, text=True, check=False
    )
    assert said.returncode == 1, said
    return str(said.stderr)


def test_dev_json_tells_all_that_a_program_needs(folder: Path) -> None:
    with running(folder) as it:
        assert set(it.told) == {
            *("http_url", "smtp_host", "smtp_port", "submission_port", "api_key", "database_url", "redis_url", "pid"),
            "dashboard_url",
        }
        assert it.told["pid"] == it.process.pid
        for name in ("dev.json", "env"):
            assert (folder / name).stat().st_mode & 0o777 == 0o600
        shown = 'echo "$POSTROOM_URL $POSTROOM_API_KEY $POSTROOM_SMTP"'
        said = subprocess.run(["sh", "-c", f". {folder}/env; {shown}"], capture_output=True, text=True, check=True)
        smtp = f"{it.told['smtp_host']}:{it.told['smtp_port']}"
        assert said.stdout.split() == [it.told["http_url"], it.told["api_key"], smtp]
        assert it.get("/readyz")["POSTROOM_DEV"] == "1"
        for port in ("smtp_port", "submission_port"):
            with smtplib.SMTP(it.told["smtp_host"], it.told[port], timeout=30) as client:
                assert client.noop()[0] == 250
        with redis.Redis.from_url(it.told["redis_url"]) as client_of_redis:
            assert client_of_redis.ping()
        assert it.told["api_key"].startswith("pr_key_")
        until(lambda: it.told["api_key"] in it.log or None)  # and the person is told the same
        found, theirs = dev.running(folder, {}), it.get()
        for name in ("database_url", "redis_url", "port", "smtp_port", "submission_port", "public_url", "mail_domains"):
            said = theirs[name.upper()].replace(",", " ")
            assert str(getattr(found, name)) in {said, str(tuple(said.split()))}, name
        assert found.secret_key.get_secret_value() == theirs["SECRET_KEY"]
    with pytest.raises(ConfigurationError, match="no `postroom dev` runs"):
        dev.running(folder, {})


def test_the_programs_find_the_settings_of_development(folder: Path) -> None:
    with running(folder) as it:
        found = it.get()
        assert {name: found[name] for name in dev.DEFAULTS if "PORT" not in name} == {
            name: value for name, value in dev.DEFAULTS.items() if "PORT" not in name
        }
        assert found["DATABASE_URL"] == it.told["database_url"]
        assert found["SMTP_PORT"] == str(it.told["smtp_port"])
        assert found["PUBLIC_URL"] == it.told["http_url"]
        assert list(Path(found["PROMETHEUS_MULTIPROC_DIR"]).iterdir()) == []


def test_what_the_environment_sets_is_honoured_and_options_win(folder: Path) -> None:
    given = {"MAIL_DOMAINS": "mine.test", "SECRET_KEY": "x" * 40, "PORT": "1", "OUTBOUND": "", "DRAIN_SECONDS": "3"}
    with running(folder, more=given) as it:
        found = it.get()
        assert (found["MAIL_DOMAINS"], found["SECRET_KEY"], found["DRAIN_SECONDS"]) == ("mine.test", "x" * 40, "3")
        assert found["PORT"] == it.told["http_url"].rpartition(":")[2] != "1"
        assert found["OUTBOUND"] == "capture://", "an empty variable is none"
        assert not (folder / "secret_key").exists()


@pytest.mark.anyio
async def test_servers_of_the_environment_are_used_in_place_of_embedded_ones(
    folder: Path, dsn: str, redis_url: str
) -> None:
    with running(folder, more={"DATABASE_URL": dsn, "REDIS_URL": redis_url}) as it:
        assert (it.told["database_url"], it.told["redis_url"]) == (dsn, redis_url)
        assert not (folder / "postgres").exists()
        assert "uses DATABASE_URL of the environment" in it.log


def test_the_key_stays_the_same_from_one_start_to_the_next(folder: Path) -> None:
    """Negative control: with the SECRET_KEY made anew at each start, the keys differed."""
    with running(folder) as first:
        pass
    assert first.process.returncode == 0
    assert (folder / "secret_key").stat().st_mode & 0o777 == 0o600
    with running(folder) as second:
        assert second.told["api_key"] == first.told["api_key"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_cleanly(folder: Path, number: signal.Signals) -> None:
    with running(folder) as it:
        family = it.family()
        assert len(family) >= 4, "two programs and two servers"
        it.process.send_signal(number)
        assert it.process.wait(PATIENCE) == 0
        assert all(gone(pid) for pid in family)
        assert not (folder / "dev.json").exists()
        assert "serve  | drained" in it.log


def test_a_second_signal_does_not_wait_for_programs_that_take_their_time(folder: Path) -> None:
    with running(folder, more={"DRAIN_SECONDS": "600"}) as it:
        it.get("/stay")
        it.process.send_signal(signal.SIGINT)
        until(lambda: "serve  | stays" in it.log or None)
        assert it.process.poll() is None
        it.process.send_signal(signal.SIGINT)
        assert it.process.wait(PATIENCE) == 0, "DRAIN_SECONDS are 600"


def test_all_of_it_dies_with_a_killed_supervisor(folder: Path) -> None:
    """Negative control: with POSTROOM_PARENT=0 the programs, tied to nobody, still ran after 30 s."""
    with running(folder) as it:
        family = it.family()
        it.process.kill()
        for pid in family:
            until(lambda pid=pid: gone(pid))  # type: ignore[misc] # mypy does not infer a lambda's default
    with running(folder) as again:
        assert again.told["api_key"] == it.told["api_key"], "and what it leaves behind is no obstacle"


def test_a_second_start_is_refused_and_told_where_the_first_is(folder: Path) -> None:
    """Negative control: with the folder's lock not taken, the second got as far as Valkey's own lock."""
    with running(folder) as it:
        said = ended(command(folder))
        assert f"process {it.process.pid}" in said
        assert it.told["http_url"] in said
        assert it.get(), "the first goes on"
        assert json.loads((folder / "dev.json").read_text()) == it.told


def test_every_taken_port_is_named_with_the_option_that_changes_it(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as http, socket.create_server(("127.0.0.1", 0)) as smtp:
        taken = http.getsockname()[1], smtp.getsockname()[1]
        said = ended(command(folder, port=taken[0], smtp_port=taken[1]))
    assert all(f"port {port} is taken" in said for port in taken)
    assert "--http-port" in said
    assert "--smtp-port" in said
    assert "--submission-port" not in said


def test_a_program_that_died_is_started_again_and_said_so(folder: Path) -> None:
    with running(folder) as it:
        first = it.die()
        assert it.get()["pid"] != first, "on the same socket: nobody was refused meanwhile"
        assert "dev    | serve died (exit code 3)" in it.log


def test_a_postgres_that_was_killed_is_started_again_at_the_same_address(folder: Path) -> None:
    """Negative control: with the new start left out, no other server had appeared after 30 s."""
    with running(folder) as it:
        pid = int((folder / "postgres" / "server.lock").read_text())
        os.kill(pid, signal.SIGKILL)
        until(lambda: int((folder / "postgres" / "server.lock").read_text() or pid) != pid)
        until(lambda: "dev    | Postgres died (signal SIGKILL)" in it.log or None)
        assert it.get()["DATABASE_URL"] == it.told["database_url"]


def test_a_program_that_dies_again_and_again_ends_everything_with_its_last_words(folder: Path) -> None:
    with running(folder, worker=WORKER) as it:
        family = it.family()
        for _ in range(dev.DEATHS):
            it.die()
        assert it.process.wait(PATIENCE) == 1
        assert all(gone(pid) for pid in family)
        assert "serve died 5 times within 30 s (exit code 3)" in it.log
        assert "    serves http smtp submission" in it.log
        assert not (folder / "dev.json").exists()


def test_a_program_that_never_comes_up_ends_everything_too(folder: Path) -> None:
    """Not only after dev.json is written."""
    said = ended(command(folder, serve="import sys; sys.exit('broken on purpose')"))
    assert said.count("serve  | broken on purpose") == dev.DEATHS
    assert said.rstrip().endswith("broken on purpose"), "its last words come last"


def test_a_wrong_setting_is_told_before_anything_starts(folder: Path) -> None:
    said = ended(command(folder), {"DRAIN_SECONDS": "soon"})
    assert "refused: DRAIN_SECONDS" in said
    assert not folder.exists()


def test_a_data_folder_keeps_out_of_version_control(folder: Path) -> None:
    with running(folder):
        assert (folder / ".gitignore").read_text() == "*\n"
