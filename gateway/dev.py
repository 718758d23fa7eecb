"""`postroom dev`: everything in one command, under one supervisor.

It takes the data folder for itself, binds the ports, starts Postgres and Valkey (unless DATABASE_URL and REDIS_URL name
others), prepares the database, and keeps `postroom serve` and `postroom worker` running on the sockets it bound. When
all is ready it writes `dev.json` there, and `env` for shells, and says how to use it. What dies is started again, with
growing pauses; what dies five times within 30 s ends everything. The log of the programs goes to standard error, each
line after its program's name; the servers' own logs lie in the data folder.

SIGINT, SIGTERM and SIGHUP stop it: programs first, which end what they are doing, then the servers; a second one does
not wait for the programs. SIGKILL of the supervisor takes all of them along.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import fcntl
import importlib
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from gateway import embedded, settings, sockets
from gateway.errors import ConfigurationError, PostroomError

DEFAULTS: Mapping[str, str] = {
    "HOST": "127.0.0.1",  # whoever reaches a development gateway may read all its mail
    "SMTP_HOST": "127.0.0.1",
    "PORT": "8025",
    "SMTP_PORT": "1025",
    "SUBMISSION_PORT": "1587",
    "MAIL_DOMAINS": "postroom.test,*",
    "UNKNOWN_RECIPIENTS": "create",
    "ALLOW_PERMANENT_MAILBOXES": "1",
    "WEBHOOK_ALLOW_PRIVATE": "1",
    "ALLOW_FAULTS": "1",
    "OUTBOUND": "capture://",
    "SENDER_AUTH": "0",  # nobody here has a record in the DNS; with DNS_SERVERS set it is on
}
DEATHS = 5  # of one program …
DEATHS_SECONDS = 30.0  # … within this time end everything
READY_SECONDS = 60.0  # from the programs' start to the first 200 of /readyz
READY_POLL_SECONDS = 0.05
STOP_SECONDS = 5.0  # what a program may take beyond DRAIN_SECONDS before it is killed
LAST_LINES = 15  # of a program's log, told once more when it is given up


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the command line says; None: what the environment says."""

    data_dir: Path
    http_port: int | None = None
    smtp_port: int | None = None
    submission_port: int | None = None
    outbound: tuple[str, ...] = ()  # provider URLs, in order of preference


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """A child process that is kept running."""

    name: str  # what its log lines begin with
    command: Sequence[str]
    listens: bool  # whether it inherits the listening sockets


PROGRAMS = (
    Program(name="serve", command=(sys.executable, "-m", "gateway.cli", "serve"), listens=True),
    Program(name="worker", command=(sys.executable, "-m", "gateway.cli", "worker"), listens=False),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Listener:
    """One of the ports."""

    name: str  # of sockets.NAMES
    port: str  # the setting that holds its port …
    host: str  # … and its address
    option: str  # of the command line, or the variable, that chooses another port
    purpose: str


LISTENERS = (
    Listener(name="http", port="PORT", host="HOST", option="--http-port", purpose="the HTTP listener"),
    Listener(name="smtp", port="SMTP_PORT", host="SMTP_HOST", option="--smtp-port", purpose="the SMTP listener"),
    Listener(
        name="submission",
        port="SUBMISSION_PORT",
        host="SMTP_HOST",
        option="--submission-port",
        purpose="the submission listener",
    ),
    Listener(
        name="smtps",
        port="SMTPS_PORT",
        host="SMTP_HOST",
        option="SMTPS_PORT",
        purpose="the SMTP listener over TLS",
    ),
    Listener(
        name="submissions",
        port="SUBMISSIONS_PORT",
        host="SMTP_HOST",
        option="SUBMISSIONS_PORT",
        purpose="the submission listener over TLS",
    ),
)


async def _prepare(to_use: settings.Settings) -> str:
    """Bring the database up to date; the admin key of the account "dev", the same one at each start."""
    from gateway import keys, tokens  # noqa: PLC0415 - loaded while Postgres starts, see `_preload`
    from gateway.storage import migrate  # noqa: PLC0415 - likewise

    await migrate.run(to_use.database_url)
    keyring = tokens.keyring(to_use)
    return await keys.ensure_admin(to_use.database_url, keyring, account="dev", name="dev")


def _preload() -> None:
    """Import what `_prepare` and `_ticket` use."""
    for module in ("gateway.keys", "gateway.storage.migrate", "gateway.web.dashboard.seals"):
        importlib.import_module(module)


def main(options: Options, environment: Mapping[str, str]) -> int:
    """Run until stopped; the exit code. ConfigurationError where it cannot start."""
    return asyncio.run(Supervisor(options, environment).run())


class Supervisor:
    """Starts, watches and stops all that `postroom dev` consists of."""

    def __init__(
        self,
        options: Options,
        environment: Mapping[str, str],
        *,
        programs: Sequence[Program] = PROGRAMS,
        prepare: Callable[[settings.Settings], Awaitable[str]] = _prepare,
        pause_seconds: float = 0.2,  # before the first new start; doubled for each further one
        out: TextIO = sys.stdout,
        err: TextIO = sys.stderr,
    ) -> None:
        self._options = options
        self._folder = options.data_dir.absolute()
        self._environment = _layered(options, environment)
        self._programs = programs
        self._prepare = prepare
        self._pause = pause_seconds
        self._out, self._err = out, err
        self._stop = asyncio.Event()  # end everything …
        self._force = asyncio.Event()  # … without waiting for the programs
        self._failure = ""  # why it ends by itself
        self._servers: list[_Kept] = []
        self._children: list[_Kept] = []
        self._keepers: list[asyncio.Task[None]] = []

    async def run(self) -> int:
        """Run until a signal comes (0) or something cannot be kept running (1)."""
        settings_of(self._environment)  # what is wrong there is said before anything starts
        with _signals(self._on_signal), _data_folder(self._folder), _bound(self._environment) as listeners:
            beginning = asyncio.create_task(self._begin(listeners))
            stopping = asyncio.create_task(self._stop.wait())
            try:
                await asyncio.wait({beginning, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if beginning.done():
                    beginning.result()
                    await stopping
            finally:
                await _cancelled(beginning, stopping)
                await self._end()
        if self._failure:
            self._say(self._failure)
        return 1 if self._failure else 0

    async def _begin(self, listeners: Mapping[str, socket.socket]) -> None:
        self._complete(listeners)
        await asyncio.gather(self._start_servers(), asyncio.to_thread(_preload))
        api_key = await self._prepare(settings_of(self._environment))
        self._children = [self._child(program, listeners) for program in self._programs]
        await self._start(self._children)
        await _until_ready(listeners["http"])
        described = self._describe(listeners, api_key)
        publish(self._folder, described)
        self._greet(described)

    async def _end(self) -> None:
        await _cancelled(*self._keepers)
        await asyncio.gather(*(child.stop() for child in self._children))
        await asyncio.gather(*(server.stop() for server in self._servers))
        _withdraw(self._folder)

    def _complete(self, listeners: Mapping[str, socket.socket]) -> None:
        """Add to the environment what is only known here."""
        for listener in LISTENERS:
            if listener.name in listeners:
                self._environment[listener.port] = str(sockets.port_of(listeners[listener.name]))
        if "SECRET_KEY" not in self._environment:
            self._environment["SECRET_KEY"] = _secret_key(self._folder)
        self._environment.setdefault("PUBLIC_URL", _url(listeners["http"]))
        self._environment["POSTROOM_PARENT"] = str(os.getpid())
        if "PROMETHEUS_MULTIPROC_DIR" not in self._environment:
            metrics = self._folder / "metrics"  # files of processes that are gone would still be summed up
            shutil.rmtree(metrics, ignore_errors=True)
            metrics.mkdir(mode=0o700)
            self._environment["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)

    async def _start_servers(self) -> None:
        postgres = embedded.Postgres(self._folder / "postgres")
        valkey = embedded.Valkey(self._folder / "valkey")
        wanted: dict[str, embedded.Postgres | embedded.Valkey] = {"DATABASE_URL": postgres, "REDIS_URL": valkey}
        for given in [variable for variable in wanted if self._environment.get(variable)]:
            self._say(f"uses {given} of the environment")
            del wanted[given]
        self._servers = [_Server(server) for server in wanted.values()]
        await self._start(self._servers)
        if "DATABASE_URL" in wanted:
            self._environment["DATABASE_URL"] = postgres.dsn
        if "REDIS_URL" in wanted:
            self._environment["REDIS_URL"] = valkey.url

    def _child(self, program: Program, listeners: Mapping[str, socket.socket]) -> _Child:
        inherited = listeners if program.listens else {}
        return _Child(
            program,
            environment=self._environment | {"POSTROOM_SOCKETS": sockets.describe(inherited), "PYTHONUNBUFFERED": "1"},
            descriptors=[listener.fileno() for listener in inherited.values()],
            patience=settings_of(self._environment).drain_seconds + STOP_SECONDS,
            force=self._force,
            write=self._write,
        )

    async def _start(self, group: Sequence[_Kept]) -> None:
        await asyncio.gather(*(kept.start() for kept in group))
        self._keepers += [asyncio.create_task(self._keep(kept)) for kept in group]

    async def _keep(self, kept: _Kept) -> None:
        """Start it again whenever it ends, until it has ended too often."""
        deaths: collections.deque[float] = collections.deque(maxlen=DEATHS)
        while True:
            how = await kept.ended()
            now = time.monotonic()
            deaths.append(now)
            recent = sum(now - death < DEATHS_SECONDS for death in deaths)
            if recent == DEATHS:
                return self._give_up(f"{kept.name} died {DEATHS} times within {DEATHS_SECONDS:.0f} s ({how})", kept)
            pause = self._pause * 2 ** (recent - 1)
            self._say(f"{kept.name} died ({how}); it is started again in {pause:.1f} s")
            await asyncio.sleep(pause)
            try:
                await kept.start()
            except (OSError, PostroomError) as error:
                return self._give_up(f"{kept.name} cannot be started again: {error}", kept)

    def _give_up(self, why: str, kept: _Kept) -> None:
        last = "".join(f"\n    {line}" for line in kept.last_lines())
        self._failure = f"{why}; everything is stopped.{' Its last words:' if last else ''}{last}"
        self._stop.set()

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._force.set()
        else:
            self._say("stopping; data stay in " + str(self._folder))
        self._stop.set()

    def _describe(self, listeners: Mapping[str, socket.socket], api_key: str) -> dict[str, Any]:
        """What `dev.json` holds."""
        http_url = _url(listeners["http"])
        return {
            "http_url": http_url,
            "smtp_host": sockets.reachable_host(listeners["smtp"]),
            "smtp_port": sockets.port_of(listeners["smtp"]),
            "submission_port": sockets.port_of(listeners["submission"]),
            "api_key": api_key,
            "database_url": self._environment["DATABASE_URL"],
            "redis_url": self._environment["REDIS_URL"],
            "pid": os.getpid(),
            "dashboard_url": f"{http_url}/sign-in/{self._ticket(api_key)}",
        }

    def _ticket(self, api_key: str) -> str:
        """What signs a browser in, for a day."""
        from gateway import tokens  # noqa: PLC0415 - loaded while Postgres starts, see `_preload`
        from gateway.web.dashboard import seals  # noqa: PLC0415 - likewise

        return seals.Seals(tokens.keyring(settings_of(self._environment))).ticket(api_key)

    def _greet(self, described: Mapping[str, Any]) -> None:
        domain = settings_of(self._environment).first_domain
        self._print(self._out, GREETING.format(address=f"hello@{domain}", folder=self._folder, **described))

    def _say(self, text: str) -> None:
        self._write("dev", text)

    def _write(self, name: str, line: str) -> None:
        self._print(self._err, f"{name:<6} | {line}\n")

    def _print(self, stream: TextIO, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads any more: that is no reason to stop
            stream.write(text)
            stream.flush()


GREETING = """
Postroom is ready.
  open        {dashboard_url}
  API         {http_url}/v1   key {api_key}
  SMTP        {smtp_host}:{smtp_port}   takes mail for every address
  submission  {smtp_host}:{submission_port}   any user name, the key as password
  details     {folder}/dev.json
  for shells  . {folder}/env   sets POSTROOM_URL, POSTROOM_API_KEY, POSTROOM_SMTP

Make a mailbox, send to it, wait for the code:
  curl -X POST {http_url}/v1/mailboxes -H 'Authorization: Bearer {api_key}' \\
    -H 'Content-Type: application/json' -d '{{"address": "{address}"}}'
  swaks --server {smtp_host}:{smtp_port} --to {address} --header 'Subject: Your code' --body 'Your code is 482913.'
  python3 -c "import smtplib; smtplib.SMTP('{smtp_host}', {smtp_port}).sendmail('me@example.com', '{address}',
    'Subject: Your code\\r\\n\\r\\nYour code is 482913.')"
  curl '{http_url}/v1/mailboxes/{address}/wait?for=code' -H 'Authorization: Bearer {api_key}'

Ctrl-C stops everything; data stay.
"""


# --- What is kept running -------------------------------------------------------------------------------------------


class _Kept:
    """Something that is started, ends, and is stopped. A start that is under way is never abandoned half-way."""

    name: str

    def __init__(self) -> None:
        self._starting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._starting = asyncio.create_task(self._start())
        await asyncio.shield(self._starting)

    async def stop(self) -> None:
        """Stop it, if it runs or is about to."""
        if self._starting is None:
            return
        await asyncio.wait({self._starting})
        if not self._starting.cancelled() and self._starting.exception() is None:
            await self._stop()

    async def ended(self) -> str:
        """Wait until it ends; how it did."""
        raise NotImplementedError

    def last_lines(self) -> list[str]:
        return []

    async def _start(self) -> None:
        raise NotImplementedError

    async def _stop(self) -> None:
        raise NotImplementedError


class _Server(_Kept):
    """An embedded server."""

    def __init__(self, server: embedded.Postgres | embedded.Valkey) -> None:
        super().__init__()
        self.name = server.name
        self._server = server

    async def ended(self) -> str:
        return _how(await asyncio.to_thread(self._server.wait))

    async def _start(self) -> None:
        await asyncio.to_thread(self._server.start)

    async def _stop(self) -> None:
        await asyncio.to_thread(self._server.stop)


class _Child(_Kept):
    """A program: a process, in a session of its own so that the terminal's Ctrl-C reaches the supervisor alone."""

    _process: asyncio.subprocess.Process  # the latest; there is one from the first start on
    _relaying: asyncio.Task[None]  # passes its log on

    def __init__(
        self,
        program: Program,
        *,
        environment: Mapping[str, str],
        descriptors: Sequence[int],
        patience: float,  # seconds from SIGTERM to SIGKILL
        force: asyncio.Event,  # no more patience
        write: Callable[[str, str], None],  # takes the name and a line of the log
    ) -> None:
        super().__init__()
        self.name = program.name
        self._command = program.command
        self._environment = environment
        self._descriptors = descriptors
        self._patience = patience
        self._force = force
        self._write = write
        self._lines: collections.deque[str] = collections.deque(maxlen=LAST_LINES)

    async def ended(self) -> str:
        code = await self._process.wait()
        await asyncio.wait({self._relaying}, timeout=1)  # for its last words; a grandchild may keep the pipe open
        return _how(code)

    def last_lines(self) -> list[str]:
        return list(self._lines)

    async def _start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=self._descriptors,
            start_new_session=True,
        )
        self._relaying = asyncio.create_task(self._relay(self._process.stdout))

    async def _stop(self) -> None:
        ended = asyncio.create_task(self._process.wait())
        forced = asyncio.create_task(self._force.wait())
        self._signal(signal.SIGTERM)
        await asyncio.wait({ended, forced}, timeout=self._patience, return_when=asyncio.FIRST_COMPLETED)
        self._signal(signal.SIGKILL)
        await ended
        await asyncio.wait({self._relaying}, timeout=1)
        await _cancelled(forced, self._relaying)

    def _signal(self, number: signal.Signals) -> None:
        """Tell the program, if it runs. Its own children die with it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def _relay(self, log: asyncio.StreamReader | None) -> None:
        rest = b""
        while chunk := await log.read(65536) if log else b"":
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._pass_on(line)
        if rest:
            self._pass_on(rest)

    def _pass_on(self, line: bytes) -> None:
        text = line.decode(errors="replace")
        self._lines.append(text)
        self._write(self.name, text)


def _how(code: int) -> str:
    """What an exit code says: negative ones are signals."""
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they have ended, however."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# --- Environment, ports, readiness ----------------------------------------------------------------------------------


def _layered(options: Options, environment: Mapping[str, str]) -> dict[str, str]:
    """The programs' environment: defaults, over them the user's environment (empty is unset), over it the options."""
    given = {
        "PORT": options.http_port,
        "SMTP_PORT": options.smtp_port,
        "SUBMISSION_PORT": options.submission_port,
        "OUTBOUND": " ".join(options.outbound) or None,
    }
    chosen = {name: str(value) for name, value in given.items() if value is not None}
    theirs = {name: value for name, value in environment.items() if value}
    defaults = {**DEFAULTS, "SENDER_AUTH": "1"} if "DNS_SERVERS" in theirs else DEFAULTS
    return {**defaults, **theirs, **chosen, "POSTROOM_DEV": "1"}


def running(data_dir: Path, environment: Mapping[str, str]) -> settings.Settings:
    """The settings of the gateway that runs over this data folder. ConfigurationError where none does."""
    try:
        described = json.loads((data_dir / "dev.json").read_text("utf-8"))
        secret_key = environment.get("SECRET_KEY") or (data_dir / "secret_key").read_text("utf-8").strip()
    except (OSError, ValueError):
        raise ConfigurationError(f"no `postroom dev` runs over {data_dir}") from None
    options = Options(
        data_dir=data_dir,
        http_port=int(described["http_url"].rpartition(":")[2]),
        smtp_port=described["smtp_port"],
        submission_port=described["submission_port"],
    )
    known = {name.upper(): described[name] for name in ("database_url", "redis_url")} | {"SECRET_KEY": secret_key}
    return settings_of({"PUBLIC_URL": described["http_url"], **_layered(options, environment), **known})


def settings_of(environment: Mapping[str, str]) -> settings.Settings:
    """The settings that a program with this environment has. ConfigurationError names what is wrong."""
    fields = settings.Settings.model_fields
    return settings.load(**{name.lower(): value for name, value in environment.items() if name.lower() in fields})


@contextlib.contextmanager
def _bound(environment: Mapping[str, str]) -> Iterator[dict[str, socket.socket]]:
    """All listening sockets. ConfigurationError names every port that cannot be had, and the option that changes it."""
    with contextlib.ExitStack() as opened:
        listeners: dict[str, socket.socket] = {}
        refusals: list[str] = []
        for listener in LISTENERS:
            if listener.port not in environment:  # those over TLS
                continue
            hosts, port = environment[listener.host].replace(",", " ").split(), int(environment[listener.port])
            try:
                bound = sockets.bind_all(hosts, port, listener.name, listener.purpose)
            except ConfigurationError as refusal:
                refusals.append(f"{refusal} (choose another with {listener.option})")
            else:
                listeners |= {name: opened.enter_context(each) for name, each in bound.items()}
        if refusals:
            raise ConfigurationError("; ".join(refusals))
        yield listeners


def _url(listener: socket.socket) -> str:
    host = sockets.reachable_host(listener)
    return f"http://{f'[{host}]' if ':' in host else host}:{sockets.port_of(listener)}"


async def _until_ready(http: socket.socket) -> None:
    """Ask /readyz until it says 200. The socket listens already: the first question waits for who will answer."""
    deadline = time.monotonic() + READY_SECONDS
    while not (answer := await _ask_readyz(http)).startswith("200"):
        if time.monotonic() > deadline:
            raise PostroomError(f"not ready after {READY_SECONDS:.0f} s; /readyz says: {answer or 'nothing'}")
        await asyncio.sleep(READY_POLL_SECONDS)


async def _ask_readyz(http: socket.socket) -> str:
    """Status and body of /readyz, in one line; "" where there is no answer."""
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(sockets.reachable_host(http), sockets.port_of(http))
            with contextlib.closing(writer):
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                answer = await reader.read(4096)
    except (OSError, TimeoutError):
        return ""
    head, _, body = answer.decode(errors="replace").partition("\r\n\r\n")
    return f"{head.partition(' ')[2].partition(' ')[0]} {' '.join(body.split())}"


@contextlib.contextmanager
def _signals(act: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    which = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        which.append(signal.SIGHUP)
    for number in which:
        loop.add_signal_handler(number, act)
    try:
        yield
    finally:
        for number in which:
            loop.remove_signal_handler(number)


# --- The data folder ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _data_folder(folder: Path) -> Iterator[None]:
    """Have the folder for ourselves. ConfigurationError names the supervisor that has it already."""
    try:
        lock = _open_folder(folder)
    except OSError as error:
        raise ConfigurationError(
            f"{folder} cannot be the data folder: {error.strerror}; choose another --data-dir"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(_occupied(folder, lock.read().strip())) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        _withdraw(folder)  # what one that was killed has left
        yield


def variables(described: Mapping[str, Any]) -> dict[str, str]:
    """By which every client finds the gateway that `dev.json` describes."""
    host = described["smtp_host"]
    bracketed = f"[{host}]" if ":" in host else host
    return {
        "POSTROOM_URL": described["http_url"],
        "POSTROOM_API_KEY": described["api_key"],
        "POSTROOM_SMTP": f"{bracketed}:{described['smtp_port']}",
        "POSTROOM_SUBMISSION": f"{bracketed}:{described['submission_port']}",
    }


def publish(folder: Path, described: Mapping[str, Any]) -> None:
    """Write `dev.json`, and for shells the variables as `env`."""
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables(described).items())
    _write_private(folder / "env", exports)
    _write_private(folder / "dev.json", json.dumps(described, indent=2) + "\n")


def _withdraw(folder: Path) -> None:
    for name in ("dev.json", "env"):
        (folder / name).unlink(missing_ok=True)


def _open_folder(folder: Path) -> TextIO:
    """Make the folder, if there is none; its lock's file."""
    if not folder.exists():
        folder.mkdir(parents=True)
        folder.chmod(0o711 if os.geteuid() == 0 else 0o700)  # root's Postgres, another user, has to pass
        (folder / ".gitignore").write_text("*\n")
    return open(os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600), "r+")  # noqa: PTH123 - a mode; the caller closes


def _occupied(folder: Path, pid: str) -> str:
    try:
        where = json.loads((folder / "dev.json").read_text())["http_url"]
    except (OSError, ValueError, KeyError):
        where = "not ready yet"
    return f"postroom dev already runs in {folder}: process {pid}, {where}; stop it, or choose another --data-dir"


def _secret_key(folder: Path) -> str:
    """The folder's own SECRET_KEY: keys and tokens stay valid from one start to the next."""
    path = folder / "secret_key"
    if not path.exists():
        _write_private(path, secrets.token_urlsafe(48) + "\n")
    return path.read_text().strip()


def _write_private(path: Path, text: str) -> None:
    """Write a file that only we can read; there is never half of it."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123 - a mode
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
