"""The web process: HTTP, WebSockets and SMTP listeners on one event loop, from start-up to the last drained session.

With WEB_CONCURRENCY > 1 a parent binds the sockets once and hands them down to as many children, which accept on them
in turn; a child that dies is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from typing import Any, Final

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.routing import BaseRoute
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gateway import __version__, lifecycle, loops, sockets, telemetry
from gateway.inbound import certificates, listener, submission
from gateway.settings import Settings, process_environment
from gateway.web import (
    access,
    account,
    agents,
    answering,
    api,
    bounces,
    callbacks,
    connections,
    deliveries,
    docs,
    domains,
    edge,
    emails,
    events,
    faults,
    inbound_http,
    mailboxes,
    messages,
    openapi,
    operating,
    queue,
    statistics,
    suppressions,
    templates,
    unsubscribe,
    waiting,
    webhooks,
)
from gateway.web.dashboard import rooms as dashboard
from gateway.web.mailpit import desk as mailpit
from gateway.web.paths import Paths

log = structlog.get_logger(__name__)

PREFIX: Final = "/v1"
MAX_FRAME_BYTES: Final = 65_536  # of what WebSocket clients send; nothing of it is used
MAX_FRAGMENTS: Final = 1000  # of one message; empty ones take no bytes of it
MAX_PONGS_BYTES: Final = 1_048_576  # that wait for a client which does not read them
CUT_SECONDS: Final = 5.0  # how long a client that was cut off has to read why
ANSWERED: Final = 0.8  # of DRAIN_SECONDS: by then who waits for a commit is answered, so that there is time to say it
RESPAWN_SECONDS: Final = 0.5

# Name of the sockets, setting that holds the port, what it is for.
SMTP_PORTS: Final = (
    ("smtp", "smtp_port", "the SMTP listener"),
    ("smtps", "smtps_port", "the SMTP listener over TLS"),
    ("submission", "submission_port", "the submission listener"),
    ("submissions", "submissions_port", "the submission listener over TLS"),
)


class Sockets(WebSocketsSansIOProtocol):
    """uvicorn's WebSockets, which can also be cut off while their client does not read."""

    async def run_asgi(self) -> None:
        self.scope[events.CUT] = self.cut  # type: ignore[typeddict-unknown-key] # an extension of our own
        await super().run_asgi()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        unread = self.transport.get_write_buffer_size()  # events wait elsewhere: these are answers to pings
        if len(self.frames) > MAX_FRAGMENTS or unread > MAX_PONGS_BYTES:
            self.transport.abort()

    def cut(self, code: int) -> None:
        """Close with `code`, past what waits to be read; the connection goes even if nobody ever reads."""
        if self.close_sent or self.transport.is_closing():
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": ""})
        self.conn.send_close(code, "")
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.close_timer = self.loop.call_later(CUT_SECONDS, self.transport.abort)
        self.writable.set()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()  # who answers no ping will not read the rest either


def entry(gateway: lifecycle.Gateway) -> access.Access:
    """Who comes in, for all routes."""
    return access.Access(gateway.callers, gateway.limiter, gateway.settings.trusted_proxies)


def routes(gateway: lifecycle.Gateway, listening: Any, authenticate: access.Access) -> list[BaseRoute]:
    """Every route there is, but for the agents' (which ask these)."""
    trusted = gateway.settings.trusted_proxies
    paths = Paths(gateway)
    streams = events.Events(gateway, paths, authenticate)
    inbound = inbound_http.InboundHttp(gateway)
    rooms: list[Any] = [
        mailboxes.Mailboxes(gateway, paths),
        faults.Faults(gateway, paths),
        messages.Messages(gateway, paths),
        answering.Answering(gateway),
        streams,
        emails.Emails(gateway),
        queue.Queue(gateway),
        waiting.WaitingLine(gateway),
        deliveries.Deliveries(gateway),
        statistics.TrackRecord(gateway),
        inbound,
        callbacks.Callbacks(gateway),
        bounces.Bounces(gateway),
        webhooks.Webhooks(gateway, paths),
        domains.Domains(gateway, paths),
        suppressions.Suppressions(gateway),
        templates.Templates(gateway),
        account.Keys(gateway),
    ]
    operations = [operation for room in rooms for operation in room.operations()]
    described = api.Api(operations, authenticate=authenticate, prefix=PREFIX, trusted=trusted)
    document = openapi.encoded(openapi.document(described, title="Postroom", version=__version__))
    return [
        *streams.routes(PREFIX),
        *described.routes(),
        *operating.Operating(gateway, authenticate, listening).routes(),
        *unsubscribe.Unsubscribe(gateway).routes(),
        *mailpit.Desk(gateway, authenticate, inbound).routes(),
        *docs.routes(document),
        *dashboard.routes(gateway, described, authenticate),
    ]


class House:
    """One web process at work."""

    def __init__(self, settings: Settings, listeners: Mapping[str, socket.socket]) -> None:
        self._settings = settings
        self._sockets = listeners
        self._smtp: dict[str, listener.Listener] = {}
        self.gateway: lifecycle.Gateway | None = None

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Starlette]:
        """The application, with the SMTP listeners answering."""
        async with lifecycle.opened(self._settings) as gateway:
            self.gateway = gateway
            await self._listen(gateway)
            authenticate = entry(gateway)
            app = edge.application(routes(gateway, self._listening, authenticate))
            asked_by = agents.Agents(app, authenticate, self._settings.trusted_proxies)
            app.router.routes[:0] = asked_by.routes()
            async with asked_by.opened():
                yield app

    async def _listen(self, gateway: lifecycle.Gateway) -> None:
        settings, found = self._settings, certificates.of(self._settings)
        tls, budget = found.context if found is not None else None, gateway.in_flight
        for name in ("smtp", "smtps"):
            if bound := sockets.named(self._sockets, name):
                self._smtp[name] = await listener.open(
                    bound,
                    gateway.reception,
                    settings,
                    tls,
                    implicit_tls=name == "smtps",
                    name="inbound" if name == "smtp" else "inbound_tls",
                    bytes_in_flight=budget,
                )
        for name in ("submission", "submissions"):
            if bound := sockets.named(self._sockets, name):
                if tls is None and not settings.postroom_dev:
                    log.warning("nobody can log in at the submission port: TLS_CERT_FILE is not set")
                self._smtp[name] = await listener.open(
                    bound,
                    gateway.submissions,
                    settings,
                    tls,
                    implicit_tls=name == "submissions",
                    name="submission" if name == "submission" else "submission_tls",
                    session=submission.SubmissionSMTP,
                    bytes_in_flight=budget,
                    limits=submission.limits(settings),
                )

    def _listening(self) -> dict[str, bool]:
        return {name: name in self._smtp for name, _, _ in SMTP_PORTS if sockets.named(self._sockets, name)}

    def end_streams(self) -> None:
        """New mail and streams elsewhere, please; what runs may end, and is answered while there is time."""
        for smtp in self._smtp.values():
            smtp.close()
        if self.gateway is not None:
            self.gateway.live.end()
            self.gateway.end_within(ANSWERED * self._settings.drain_seconds)

    async def drain(self) -> None:
        """Returns when SMTP sessions have ended, at the latest after DRAIN_SECONDS."""
        await asyncio.gather(*(smtp.drain(self._settings.drain_seconds) for smtp in self._smtp.values()))


class Server(uvicorn.Server):
    """uvicorn's server, which takes the SMTP sessions along when it ends."""

    def __init__(self, config: uvicorn.Config, house: House) -> None:
        super().__init__(config)
        self._house = house

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """uvicorn's, without its end: there the signal would be raised again and kill what has not closed yet."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("draining")
        self._house.end_streams()
        await asyncio.gather(super().shutdown(sockets), self._house.drain())


def config(settings: Settings, app: Starlette) -> uvicorn.Config:
    """uvicorn as it is used here."""
    return uvicorn.Config(
        app,
        loop="none",
        http=connections.protocol(connections.Limits.of(settings)),
        ws=Sockets,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        ws_max_size=MAX_FRAME_BYTES,
        ws_max_queue=4,
        ws_per_message_deflate=False,
        ws_ping_interval=20,
        ws_ping_timeout=20,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(settings.drain_seconds) or 1,
        backlog=sockets.BACKLOG,
    )


async def _serve(settings: Settings, listeners: Mapping[str, socket.socket]) -> None:
    house = House(settings, listeners)
    async with loops.watched("serve"), house.opened() as app:
        loops.settle()
        await Server(config(settings, app), house).serve(sockets=[listeners["http"]])


def bind(settings: Settings) -> dict[str, socket.socket]:
    """The sockets that the settings ask for, unless a parent handed them down."""
    inherited = sockets.receive(settings.postroom_sockets)
    if inherited:
        return inherited
    bound = {"http": sockets.bind(settings.host, settings.port, "the HTTP listener (PORT)")}
    for name, setting, purpose in SMTP_PORTS:
        port = getattr(settings, setting)
        if port is not None:
            bound |= sockets.bind_all(settings.smtp_hosts, port, name, f"{purpose} ({setting.upper()})")
    return bound


def serve(settings: Settings) -> None:
    """Run the web process until SIGTERM or SIGINT."""
    telemetry.configure(settings)
    listeners = bind(settings)
    if settings.web_concurrency > 1 and not settings.postroom_child:
        Parent(settings.web_concurrency, listeners).run()
    else:
        loops.run(_serve(settings, listeners))


class Parent:
    """Keeps as many children as asked for; ends when they have."""

    def __init__(self, count: int, listeners: Mapping[str, socket.socket]) -> None:
        self._count = count
        self._listeners = listeners
        self._ending = False
        self._children: list[subprocess.Popen[bytes]] = []
        self._environment = process_environment() | {
            "POSTROOM_SOCKETS": sockets.describe(listeners),
            "POSTROOM_PARENT": str(os.getpid()),
            "POSTROOM_CHILD": "1",
        }

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        with tempfile.TemporaryDirectory(prefix="postroom-metrics-") as metrics:
            self._environment.setdefault("PROMETHEUS_MULTIPROC_DIR", metrics)  # metrics are summed over the children
            for _ in range(self._count):
                self._add()
            while self._children:
                self._look_after(self._children)

    def _look_after(self, children: list[subprocess.Popen[bytes]]) -> None:
        for child in list(children):
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = child.wait(RESPAWN_SECONDS)
                children.remove(child)
                telemetry.forget(child.pid, self._environment["PROMETHEUS_MULTIPROC_DIR"])
                if not self._ending:
                    log.error("web process died", pid=child.pid, status=status)
                    self._add()

    def _add(self) -> None:
        child = self._start()
        self._children.append(child)
        if self._ending:  # told so while it was being started: nobody else has told the child
            child.send_signal(signal.SIGTERM)

    def _start(self) -> subprocess.Popen[bytes]:
        descriptors: Sequence[int] = [listener.fileno() for listener in self._listeners.values()]
        command = [sys.executable, "-m", "gateway.cli", "serve"]
        return subprocess.Popen(command, env=self._environment, pass_fds=descriptors)  # noqa: S603 - our own program

    def _end(self, number: int, _: Any) -> None:
        self._ending = True
        for child in self._children:
            child.send_signal(number)
