"""A house under test: the real processes, `postroom serve` and `postroom worker`, over a database of their own.

    async with house.standing(dsn, redis_url) as home:          # serve and worker, ready
        tenant = await home.tenant()                             # an account of the test's own, with an admin key
        async with home.client(tenant.key) as client: …          # HTTP as a caller speaks it

Processes die with the test's. `home.kill("serve")` is SIGKILL; `home.start("serve")` starts it again on the same ports.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx2
from uuid_utils.compat import uuid7

from gateway import sockets, tokens
from gateway.storage import accounts
from tests import nursery

SECRET_KEY = "a secret for tests, long enough to be one"
KEYRING = tokens.Keyring(SECRET_KEY.encode())
READY_SECONDS = 180.0
PATIENCE = 120.0  # seconds until a caller gives up on an answer
NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # a client that trusts the system's authorities takes 50 ms to make
PASSED = {"PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH"}  # with the last, a copy of the tree tests itself


@dataclass(frozen=True, kw_only=True, slots=True)
class Tenant:
    """An account and its admin key."""

    account_id: UUID
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@dataclass(kw_only=True)
class House:
    """The processes, and how to reach them."""

    dsn: str
    environment: dict[str, str]
    listeners: dict[str, socket.socket]
    folder: Path | None = None  # where logs go; None = nowhere
    forked: bool = True  # from tests.nursery, which has everything imported
    processes: dict[str, nursery.Process] = field(default_factory=dict)

    @property
    def http_port(self) -> int:
        return sockets.port_of(self.listeners["http"])

    @property
    def smtp_port(self) -> int:
        return sockets.port_of(self.listeners["smtp"])

    @property
    def submission_port(self) -> int:
        return sockets.port_of(self.listeners["submission"])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def start(self, name: str, tree: Path | None = None) -> nursery.Process:
        """`serve` or `worker`; more of the same under names such as "worker-2". `tree`: another release's code."""
        program = name.partition("-")[0]
        environment = dict(self.environment)
        passed: list[int] = []
        if program == "serve":
            environment["POSTROOM_SOCKETS"] = sockets.describe(self.listeners)
            passed = [listener.fileno() for listener in self.listeners.values()]
        output: Any = (self.folder / f"{name}.log").open("ab") if self.folder else subprocess.DEVNULL
        with output if self.folder else contextlib.nullcontext():
            started = nursery.start(program, environment, passed=passed, output=output, forked=self.forked, tree=tree)
        self.processes[name] = started
        return started

    def kill(self, name: str) -> None:
        """SIGKILL: nothing it held is written down by it any more."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self, name: str) -> int:
        """SIGTERM, and the exit code."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        return process.wait(60)

    async def ready(self) -> None:
        """Until GET /readyz says so."""
        async with asyncio.timeout(READY_SECONDS), httpx2.AsyncClient(base_url=self.url, verify=NOBODY) as client:
            while True:
                with contextlib.suppress(httpx2.TransportError):
                    if (await client.get("/readyz")).status_code == 200:
                        return
                await asyncio.sleep(0.02)

    async def tenant(self, scopes: tuple[str, ...] = ("admin",), *, account_id: UUID | None = None) -> Tenant:
        """A new account (or another key of `account_id`) with a key that may do this."""
        connection = await asyncpg.connect(self.dsn)
        try:
            async with connection.transaction():
                account_id = account_id or await accounts.create(connection, "tenant")
                key_id = uuid7()
                key = KEYRING.api_key(key_id)
                await accounts.create_key(
                    connection, account_id, id=key_id, hash=tokens.hash_token(key), name="test", scopes=scopes
                )
        finally:
            await connection.close()
        return Tenant(account_id=account_id, key=key)

    def client(self, key: str, **options: Any) -> httpx2.AsyncClient:
        """A caller."""
        headers = {"Authorization": f"Bearer {key}"}
        return httpx2.AsyncClient(
            base_url=f"{self.url}/v1", headers=headers, timeout=PATIENCE, verify=NOBODY, **options
        )


def environment(dsn: str, redis_url: str, **settings: str) -> dict[str, str]:
    """What a process of the house is told; `settings` by the names of their variables."""
    own = {name: value for name, value in os.environ.items() if name in PASSED}
    return {
        **own,
        "DATABASE_URL": dsn,
        "REDIS_URL": redis_url,
        "REDIS_NAMESPACE": f"test-{uuid7().hex}",
        "SECRET_KEY": SECRET_KEY,
        "MAIL_DOMAINS": "postroom.test",
        "WEBHOOK_ALLOW_PRIVATE": "true",
        "ALLOW_PERMANENT_MAILBOXES": "true",
        "OUTBOUND": "capture://",
        "DRAIN_SECONDS": "5",
        "AUTH_FAILURES_PER_MINUTE": "1000000",  # all tests come from one address
        "SENDER_AUTH": "false",  # there is no DNS to ask, unless the test brings one
        **settings,
    }


@contextlib.asynccontextmanager
async def standing(
    dsn: str,
    redis_url: str,
    *,
    programs: tuple[str, ...] = ("serve", "worker"),
    folder: Path | None = None,
    settings: Mapping[str, str] | None = None,
    forked: bool = True,
) -> AsyncIterator[House]:
    """A house with these programs running, ready; all of them gone afterwards."""
    listeners = {name: sockets.bind("127.0.0.1", 0, name) for name in ("http", "smtp", "submission")}
    reachable = {"PUBLIC_URL": f"http://127.0.0.1:{sockets.port_of(listeners['http'])}"}
    home = House(
        dsn=dsn,
        environment=environment(dsn, redis_url, **reachable | dict(settings or {})),
        listeners=listeners,
        folder=folder,
        forked=forked,
    )
    try:
        for name in programs:
            home.start(name)
        if "serve" in programs:
            await home.ready()
        yield home
    finally:
        for name in list(home.processes):
            home.kill(name)
        for listener in listeners.values():
            listener.close()
