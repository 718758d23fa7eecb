"""What operators see: log lines and metrics.

One line a log event, JSON (in dev: coloured text), on standard output; what libraries say through stdlib logging
takes the same way. Every line passes `redact` last, so that a secret that slipped into one is masked.
A full or closed standard output loses lines, never requests.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import MutableMapping, Sequence
from datetime import datetime
from typing import Any, BinaryIO, Final
from uuid import UUID

import prometheus_client
import structlog
from prometheus_client import multiprocess
from structlog.typing import Processor

from gateway.settings import Settings

Event = MutableMapping[str, Any]

MASK: Final = "***"


def configure(settings: Settings, stream: BinaryIO | None = None) -> None:
    """Send structlog's and stdlib logging's events to `stream` (standard output).

    Call it once, before the first event. Run uvicorn with `log_config=None, access_log=False`.
    """
    stream = stream or sys.stdout.buffer
    redact = Redact(literals=_secrets(settings))
    render: Processor = _console(stream) if settings.postroom_dev else _as_json
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([] if settings.postroom_dev else [structlog.processors.format_exc_info]),
        render,
        redact,
    ]
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    lines = Lines(stream)
    structlog.configure(
        processors=[_logger_name, *processors],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *names: NamedLines(lines, *names),
        cache_logger_on_first_use=True,
    )
    _route_stdlib(Bridge(processors, lines), level)


class Lines:
    """Writes whole lines, one call each, from any thread."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, line: str) -> None:
        with self._lock, contextlib.suppress(OSError, ValueError):  # a broken pipe, a full disk, a closed stream
            self._stream.write(line.encode("utf-8", "backslashreplace") + b"\n")
            self._stream.flush()


class NamedLines:
    """What structlog takes for a logger: the lines, and the name of the module that writes them."""

    def __init__(self, lines: Lines, name: str = "") -> None:
        self.name = name
        self.debug = self.info = self.warning = self.error = self.critical = self.msg = lines.write
        self.exception = self.fatal = self.warn = self.log = lines.write


class Bridge(logging.Handler):
    """Stdlib logging's records, as events of the same chain."""

    def __init__(self, processors: Sequence[Processor], lines: Lines) -> None:
        super().__init__()
        self._processors = processors
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.write(self._rendered(record))
        except Exception:  # noqa: BLE001 - logging's own rule: a line that cannot be rendered ends here
            self.handleError(record)

    def _rendered(self, record: logging.LogRecord) -> str:
        event: Any = {"event": record.getMessage(), "logger": record.name}
        if record.exc_info:
            event["exc_info"] = record.exc_info
        for process in self._processors:
            event = process(None, record.levelname.lower(), event)
        return str(event)


# Libraries that say more than is wanted: aiosmtpd a line for each command, AUTH's arguments among them; arq two for
# each nudge; HTTP clients each URL; uvicorn each request, which the HTTP edge logs itself.
_QUIET: Final = {
    "mail": logging.WARNING,
    "arq": logging.WARNING,
    "databases": logging.WARNING,
    "httpx2": logging.WARNING,
    "httpcore": logging.WARNING,
    "uvicorn.access": logging.CRITICAL,
}


def _route_stdlib(bridge: Bridge, level: int) -> None:
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.handlers[:] = [bridge]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "arq", "arq.worker", "mail.log"):
        library = logging.getLogger(name)
        library.handlers[:] = []
        library.propagate = True
    for name, quiet in _QUIET.items():
        logging.getLogger(name).setLevel(max(level, quiet))
    logging.getLogger("mail.log").setLevel(logging.NOTSET)  # aiosmtpd sets its own: let it follow "mail"


def _logger_name(logger: Any, _: str, event: Event) -> Event:
    if logger.name:
        event["logger"] = logger.name
    return event


def _as_text(value: object) -> str:
    if isinstance(value, UUID | datetime):
        return str(value)
    try:
        return value if isinstance(value, str) else repr(value)
    except Exception:  # noqa: BLE001 - any code may stand in a repr
        return f"<{type(value).__name__}>"


# Not msgspec: it writes bytes as base64, where redaction cannot see a secret.
_ENCODER: Final = json.JSONEncoder(default=_as_text, separators=(",", ":"))


def _as_json(_: Any, __: str, event: Event) -> str:
    """The event as one line of JSON; whatever a value is, there is a line."""
    head = {"timestamp": event.pop("timestamp"), "level": event.pop("level"), "event": event.pop("event")}
    try:
        return _ENCODER.encode({**head, **event})
    except Exception:  # noqa: BLE001 - circles, keys that are no text, integers of 5,000 digits, a repr that fails
        return json.dumps({str(key): _as_text(value) for key, value in {**head, **event}.items()})


def _console(stream: BinaryIO) -> Processor:
    # Not rich's tracebacks: those print local variables, secrets among them.
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
    )


class Seldom:
    """A logger for what a flood would say again and again: of each event a few lines in a while; how many were left out
    stands in the first line of a later while (`left_out`)."""

    def __init__(self, log: Any, *, most: int = 10, seconds: float = 10.0) -> None:
        self._log = log
        self._most = most
        self._seconds = seconds
        self._whiles: dict[str, tuple[float, int]] = {}  # by event: when its while began (monotonic), lines asked for

    def info(self, event: str, **context: Any) -> None:
        self._say(self._log.info, event, context)

    def warning(self, event: str, **context: Any) -> None:
        self._say(self._log.warning, event, context)

    def _say(self, say: Any, event: str, context: dict[str, Any]) -> None:
        began, count = self._whiles.get(event, (float("-inf"), 0))
        if time.monotonic() >= began + self._seconds:
            left_out = max(count - self._most, 0)
            self._whiles[event] = (time.monotonic(), 1)
            say(event, **context, **({"left_out": left_out} if left_out else {}))
            return
        self._whiles[event] = (began, count + 1)
        if count < self._most:
            say(event, **context)


# Redaction

_TOKENS: Final = re.compile(r"(pr_key_|pr_mbx_|pr_tkt_|pr_ses_|whsec_)[A-Za-z0-9+/=_-]+")
_BEARER: Final = re.compile(r"(\bbearer[\s.]+)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
# `Authorization: …`, `"authorization": "…"`, `(b'authorization', b'…')`, with quotes escaped or not; but not
# "authorization required".
_AUTHORIZATION: Final = re.compile(
    r"""(\bauthorization(?!\s\w)(?:[\\"'\s:=,]|b(?=[\\"'])){1,12})[^"'\\\r\n]+""", re.IGNORECASE
)
_NAMED: Final = re.compile(
    r"""(["'](?:password|secret|secret_key|api_key|token)\\?["']:\s{0,4}\\?["'])[^"'\\]+""", re.IGNORECASE
)
_USERINFO: Final = re.compile(r"""(://)[^\s"'/\\<>]*@""")
_PRIVATE_KEY: Final = re.compile(r"(-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----)[A-Za-z0-9+/=\s\\]*")


class Redact:
    """Masks what looks like a secret of ours in a finished line: the last line of defence, not a licence to log.

    `literals` are secrets known by value. Plain look-ups come first: nearly every line has nothing to mask.
    """

    def __init__(self, literals: Sequence[str] = ()) -> None:
        self._literals = tuple(literals)

    def __call__(self, _: Any, __: str, rendered: Any) -> str:
        line = str(rendered)
        for literal in self._literals:
            if literal in line:
                line = line.replace(literal, MASK)
        return redact(line)


def redact(line: str) -> str:
    """`line` with keys, tokens, sessions, webhook secrets, Authorization headers and URLs' userinfo masked."""
    lower = line.lower()
    if "pr_" in lower or "whsec_" in lower:
        line = _TOKENS.sub(rf"\g<1>{MASK}", line)
    if "://" in lower:
        line = _USERINFO.sub(rf"\g<1>{MASK}@", line)
    if "authorization" in lower:
        line = _AUTHORIZATION.sub(rf"\g<1>{MASK}", line)
    if "bearer" in lower:
        line = _BEARER.sub(rf"\g<1>{MASK}", line)
    if "private key-----" in lower:
        line = _PRIVATE_KEY.sub(rf"\g<1>{MASK}", line)
    if "password" in lower or "secret" in lower or "api_key" in lower or "token" in lower:
        line = _NAMED.sub(rf"\g<1>{MASK}", line)
    return line


def _secrets(settings: Settings) -> list[str]:
    """Secrets known by value. Short ones are left out: a one-letter secret would mask every line."""
    previous = settings.secret_key_previous.get_secret_value().replace(",", " ").split()
    values = (settings.secret_key.get_secret_value(), settings.metrics_token.get_secret_value(), *previous)
    return [value for value in values if len(value) >= 8]


# Metrics


def exposition() -> tuple[bytes, str]:
    """Every metric in Prometheus's text format, and its content type.

    With PROMETHEUS_MULTIPROC_DIR (prometheus_client's own variable: an empty folder, set before any process of ours
    imports it) the sum over all processes, else those of this process.
    """
    registry = prometheus_client.REGISTRY
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        registry = prometheus_client.CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call] # the library leaves it untyped
    return prometheus_client.generate_latest(registry), prometheus_client.CONTENT_TYPE_LATEST


def forget(pid: int, folder: str) -> None:
    """A process of those that share `folder` (PROMETHEUS_MULTIPROC_DIR) has ended: what it held, nobody holds now."""
    multiprocess.mark_process_dead(pid, folder)  # type: ignore[no-untyped-call] # the library leaves it untyped
