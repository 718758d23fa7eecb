"""Log lines are JSON, carry their context, hold no secrets, and never fail; metrics add up over processes."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import structlog

from gateway import settings, telemetry

KEY = "pr_key_3xAmPlE-0123456789_abcdef"
TOKEN = "pr_mbx_3xAmPlE-0123456789_abcdef"
WEBHOOK = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw+/="
BEARER = "Bearer abcdef0123456789"
BASIC = "Basic cG9zdHJvb206aHVudGVyMg=="
SECRET_KEY = "of-forty-characters-which-nobody-guesses"
HIDDEN = ("3xAmPlE", "MfKQ9r8", "abcdef0123456789", "cG9zdHJvb206", "hunter2", SECRET_KEY)

Configured = Callable[..., io.BytesIO]


@pytest.fixture
def configured() -> Iterator[Configured]:
    """Configures logging for one test; everything it touches is put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def configure(**overrides: Any) -> io.BytesIO:
        stream = io.BytesIO()
        telemetry.configure(settings.load(secret_key=SECRET_KEY, **overrides), stream)
        return stream

    yield configure
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def fail(error: Exception) -> None:
    raise error


def lines(stream: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_of_json_with_its_context(configured: Configured) -> None:
    stream = configured()
    structlog.contextvars.bind_contextvars(request_id="r1")
    structlog.get_logger("gateway.example").info(
        "message stored", message_id=UUID(int=1), at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    (line,) = lines(stream)
    assert datetime.fromisoformat(line.pop("timestamp")).tzinfo is not None
    assert line == {
        "level": "info",
        "event": "message stored",
        "logger": "gateway.example",
        "request_id": "r1",
        "message_id": "00000000-0000-0000-0000-000000000001",
        "at": "2026-01-01 00:00:00+00:00",
    }


def test_what_libraries_log_takes_the_same_way(configured: Configured) -> None:
    stream = configured()
    structlog.contextvars.bind_contextvars(request_id="r1")
    logging.getLogger("arq.worker").warning("job %s failed", "j1")
    try:
        fail(ValueError("inner"))
    except ValueError:
        logging.getLogger("uvicorn.error").exception("outer")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old ways", UserWarning, stacklevel=1)
    job, failure, warning = lines(stream)
    assert (job["event"], job["logger"], job["level"], job["request_id"]) == (
        "job j1 failed",
        "arq.worker",
        "warning",
        "r1",
    )
    assert "ValueError: inner" in failure["exception"]
    assert "old ways" in warning["event"]


def test_what_libraries_chatter_is_left_out(configured: Configured) -> None:
    stream = configured(log_level="debug")
    for name in ("mail.log", "mail.debug", "httpx2", "uvicorn.access"):
        logging.getLogger(name).info("AUTH PLAIN AGEAYg==")
    logging.getLogger("asyncio").debug("kept")
    assert [line["event"] for line in lines(stream)] == ["kept"]


def test_the_level_is_the_settings(configured: Configured) -> None:
    stream = configured(log_level="warning")
    log = structlog.get_logger("gateway.example")
    log.info("no")
    log.warning("yes")
    logging.getLogger("arq").info("no")
    assert [line["event"] for line in lines(stream)] == ["yes"]


SECRETS = {
    "key": {"key": KEY},
    "token inside a text": {"text": f"sent {TOKEN}, then left"},
    "webhook secret": {"hook": {"nested": [WEBHOOK]}},
    "authorization header": {"header": f"Authorization: {BEARER}"},
    "authorization, lower case": {"header": f"authorization: {BASIC}"},
    "headers as a dict": {"headers": {"authorization": BASIC}},
    "ASGI's headers": {"headers": [(b"host", b"x"), (b"authorization", BASIC.encode())]},
    "headers as a text": {"headers": repr([(b"authorization", BEARER.encode())])},
    "headers as JSON in JSON": {"headers": json.dumps({"Authorization": BASIC})},
    "bearer alone": {"reason": f"bad token: {BEARER}"},
    "subprotocol": {"protocols": "postroom.v1, bearer.abcdef0123456789"},
    "bytes": {"raw": KEY.encode()},
    "userinfo": {"url": "postgresql://postroom:hunter2@db.internal:5432/x?a=b"},
    "userinfo without user": {"url": "redis://:hunter2@cache:6379/0"},
    "userinfo with an at": {"url": "smtp://me@corp:hunter2@relay:587"},
    "provider's key": {"url": "postmark://hunter2@"},
    "password member": {"config": {"password": "hunter2"}},
    "password in a repr": {"config": str({"password": "hunter2", "user": "x"})},
    "password in JSON in JSON": {"config": json.dumps({"password": "hunter2"})},
    "the secret key": {"environment": f"SECRET_KEY={SECRET_KEY}"},
}  # fmt: skip


@pytest.mark.parametrize("event", SECRETS.values(), ids=SECRETS.keys())
@pytest.mark.parametrize("dev", [False, True], ids=["json", "console"])
@pytest.mark.parametrize("way", ["structlog", "stdlib", "exception"])
def test_no_secret_reaches_a_line(configured: Configured, event: dict[str, Any], dev: bool, way: str) -> None:
    """Control: with `redact` taken out of the processors all 120 cases failed."""
    assert any(hidden in repr(event) for hidden in HIDDEN)
    stream = configured(postroom_dev=dev)
    if way == "structlog":
        structlog.get_logger("gateway.example").warning("something", **event)
    elif way == "stdlib":
        logging.getLogger("library").warning("something %s", event)
    else:
        try:
            fail(RuntimeError(*event.values()))
        except RuntimeError:
            structlog.get_logger("gateway.example").exception("failed")
    written = stream.getvalue().decode()
    assert telemetry.MASK in written
    assert [hidden for hidden in HIDDEN if hidden in written] == []
    assert dev or json.loads(written)


def test_what_is_no_secret_stays_readable() -> None:
    line = '{"event":"a@b.c wrote https://example.com/path: basic token, bearer, authorization required","tokens":3,"url":"http://x/?to=y"}'
    assert telemetry.redact(line) == line


def test_an_exceptions_local_variables_are_not_printed(configured: Configured) -> None:
    for dev in (False, True):
        stream = configured(postroom_dev=dev)
        try:
            local = "only a local variable holds this".upper()
            fail(RuntimeError(len(local)))
        except RuntimeError:
            structlog.get_logger("gateway.example").exception("failed")
        assert "ONLY A LOCAL" not in stream.getvalue().decode()


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("not even a repr")


def test_whatever_a_value_is_there_is_a_line(configured: Configured) -> None:
    stream = configured()
    log = structlog.get_logger("gateway.example")
    circle: list[Any] = []
    circle.append(circle)
    values = ["\ud800", b"\xff", 10**6000, circle, Hostile(), {(1, 2): 3}, float("nan"), object(), Path("/x"), "\n\0"]
    for value in values:
        log.warning("odd", value=value)
    assert len(stream.getvalue().splitlines()) == len(values)
    assert all(line["event"] == "odd" for line in lines(stream))


def test_a_closed_or_broken_output_loses_lines_and_raises_nothing(configured: Configured) -> None:
    stream = configured()
    log = structlog.get_logger("gateway.example")
    stream.close()
    log.warning("lost")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb", buffering=0) as broken:
        telemetry.Lines(broken).write("lost")


def test_a_long_hostile_line_is_masked_in_linear_time() -> None:
    """Patterns that back-track would take hours here."""
    for piece in ("://", "://a", "authorization:", "authorization", "bearer ", "pr_key_", '"password": "', "\\", "'"):
        assert telemetry.redact(piece * 100_000)


CHILD = """
import sys
from prometheus_client import Counter
counted = Counter("example_total", "Counted")
counted.inc(int(sys.argv[1]))
from gateway import telemetry
content, kind = telemetry.exposition()
assert kind.startswith("text/plain")
print(content.decode())
"""


def exposed_by_a_child(count: int, folder: Path | None) -> str:
    environment = {"PATH": os.environ["PATH"]} | ({"PROMETHEUS_MULTIPROC_DIR": str(folder)} if folder else {})
    command = [sys.executable, "-c", CHILD, str(count)]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def test_metrics_are_summed_over_processes_where_they_share_a_folder(tmp_path: Path) -> None:
    assert "example_total 2.0" in exposed_by_a_child(2, tmp_path)
    assert "example_total 5.0" in exposed_by_a_child(3, tmp_path)


def test_metrics_are_the_processs_own_where_they_share_none() -> None:
    alone = exposed_by_a_child(3, None)
    assert "example_total 3.0" in alone
    assert "process_cpu_seconds_total" in alone
