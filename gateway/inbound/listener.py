"""A listening SMTP port: its sockets, how many may come in, and how it stops.

Sockets are bound elsewhere (gateway.sockets) and handed to each process, which opens a `Listener` on them.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final

import prometheus_client
import structlog

from gateway import telemetry
from gateway.inbound import doorway, protocol
from gateway.settings import Settings
from gateway.sockets import BACKLOG

log = structlog.get_logger(__name__)
seldom: Final = telemetry.Seldom(log)

# listener: "inbound", "inbound_tls", "submission", "submission_tls", as named by whoever opened it
OPEN = prometheus_client.Gauge(
    "postroom_smtp_connections_open", "SMTP connections open now", ["listener"], multiprocess_mode="livesum"
)
# outcome: "taken", "full" (all of them), "full_address" (the client's own), "draining", "unnamed" (by a proxy that said
# nothing of its client), "made_room" (taken before, and sent away for another)
ARRIVED = prometheus_client.Counter("postroom_smtp_connections", "SMTP connections made", ["listener", "outcome"])

FULL = "421 4.7.0 Too many connections, try again later"
MAKE_ROOM = "421 4.7.0 Idle while others wait, closing"
IDLE_FLOOR = 5.0  # seconds of silence; where all places are taken, who is silent for longer may have to go
LOOKS = 20  # sessions that are looked at for such a one
FULL_ADDRESS = "421 4.7.0 Too many connections from your address, try again later"


def budget(settings: Settings) -> protocol.Budget:
    """This process's share of the bytes in flight; at least what one message of the largest size takes to arrive."""
    share = settings.inbound_bytes_in_flight // settings.web_concurrency
    return protocol.Budget(max(share, 2 * settings.max_message_bytes))


async def open(
    sockets: Sequence[socket.socket],
    desk: protocol.Desk,
    settings: Settings,
    tls: Callable[[], ssl.SSLContext] | None,
    *,
    implicit_tls: bool = False,
    name: str = "inbound",
    session: type[protocol.InboundSMTP] = protocol.InboundSMTP,
    bytes_in_flight: protocol.Budget | None = None,
    limits: protocol.Limits | None = None,
) -> Listener:
    """Starts answering on sockets that are bound already.

    `tls` gives the context of each handshake; with `implicit_tls` that comes first, without it when STARTTLS is said.
    `name` is the metrics' label, `session` the class that speaks; listeners of one process share `bytes_in_flight`.
    """
    service = protocol.Service(
        desk=desk,
        limits=limits or protocol.Limits.of(settings),
        budget=bytes_in_flight or budget(settings),
        hostname=settings.hostname,
        context=tls,
        implicit_tls=implicit_tls,
        proxies=settings.trusted_proxies,
        listener=name,
    )
    opened = Listener(service, _share(settings, "smtp_max_connections"), _share(settings, _PER_ADDRESS))
    await opened.start(sockets, session)
    return opened


_PER_ADDRESS = "smtp_max_connections_per_address"


def _share(settings: Settings, name: str) -> int:
    return max(1, int(getattr(settings, name)) // settings.web_concurrency)


class Listener:
    """One port of one process. `close`, then `drain`, ends it."""

    def __init__(self, service: protocol.Service, connections: int, connections_per_address: int) -> None:
        self.service = service
        self.sessions: set[protocol.InboundSMTP] = set()
        self._eldest: collections.deque[protocol.InboundSMTP] = (
            collections.deque()
        )  # sessions, perhaps over, to look at
        self._dismissed: set[protocol.InboundSMTP] = set()  # sessions that have a few seconds to hear why
        self._connections = connections
        self._per_address = connections_per_address
        self._from: collections.Counter[str] = collections.Counter()  # sessions by client network; no zeros
        self._networks: dict[protocol.InboundSMTP, str] = {}  # of the sessions whose client is known
        self._servers: list[asyncio.Server] = []
        self._changed = asyncio.Event()  # a session or a commit ended
        self._open = OPEN.labels(service.listener)
        service.arrive, service.identify, service.depart = self._arrive, self._identify, self._depart

    async def start(self, sockets: Sequence[socket.socket], session: type[protocol.InboundSMTP]) -> None:
        loop = asyncio.get_running_loop()
        for bound in sockets:
            server = await loop.create_server(self._entrance(session), sock=bound, backlog=BACKLOG)
            self._servers.append(server)

    def _entrance(self, session: type[protocol.InboundSMTP]) -> Callable[[], asyncio.BaseProtocol]:
        """What makes each connection's protocol: a session, where nothing has to come before."""
        service = self.service
        if service.implicit_tls or service.proxies:
            return lambda: doorway.Doorway(session(service), service)
        return lambda: session(service)

    def close(self) -> None:
        """Takes no more connections; those that are there go on."""
        for server in self._servers:
            server.close()

    async def drain(self, seconds: float) -> None:
        """Ends every session: idle ones at once with 421, the others after their message or after `seconds`.

        Commits that are still under way then are left to themselves, and logged.
        """
        self.close()
        self.service.draining = True
        for session in tuple(self.sessions):
            session.retire()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._quiet()
        for session in tuple(self.sessions):
            session.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._closed()
        if self.service.commits:
            log.warning("deliveries not ended in time", listener=self.service.listener, count=len(self.service.commits))

    async def _quiet(self) -> None:
        while self.sessions or self.service.commits:
            if self.service.commits:
                await asyncio.wait(self.service.commits)
            else:
                await self._departure()

    async def _closed(self) -> None:
        while self.sessions:
            await self._departure()
        for server in self._servers:
            await server.wait_closed()

    async def _departure(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # Who comes and goes

    def _arrive(self, session: protocol.InboundSMTP) -> str | None:
        """The reply that turns the connection away, or None where it is counted in."""
        if self.service.draining:
            return self._outcome("draining", protocol.SHUTTING_DOWN)
        if len(self.sessions) - len(self._dismissed) >= self._connections and not self._make_room(session.remote_ip):
            return self._outcome("full", FULL, session.remote_ip)
        self.sessions.add(session)
        self._open.inc()
        return None

    def _make_room(self, address: str) -> bool:
        """Sends somebody away who has been silent for long: a flood of silent connections keeps nobody out for long.
        Looks at a few of the sessions each time, in turns; not for an address that has its share already."""
        if not self.service.proxies and self._from[_network(address)] >= self._per_address:
            return False
        for _ in range(LOOKS):
            if not self._eldest:
                self._eldest.extend(self.sessions)
            one = self._eldest.popleft()
            if one in self.sessions and one not in self._dismissed and one.silent_for() > IDLE_FLOOR:
                self._outcome("made_room", None)
                self._dismissed.add(one)
                one.dismiss(MAKE_ROOM)
                return True
        return False

    def _identify(self, session: protocol.InboundSMTP) -> str | None:
        """The same, now that it is known whose connection it is. Those that are turned away depart."""
        network = _network(session.remote_ip)
        self._networks[session] = network
        self._from[network] += 1
        if self._from[network] > self._per_address:
            return self._outcome("full_address", FULL_ADDRESS, session.remote_ip)
        return self._outcome("taken", None)

    def _outcome(self, outcome: str, reply: str | None, remote_ip: str = "") -> str | None:
        ARRIVED.labels(self.service.listener, outcome).inc()
        if outcome in ("full", "full_address"):
            told = {"listener": self.service.listener, "outcome": outcome, "open": len(self.sessions)}
            seldom.warning("connection turned away", remote_ip=remote_ip, **told)
        return reply

    def _depart(self, session: protocol.InboundSMTP) -> None:
        network = self._networks.pop(session, None)
        if network is None:
            self._outcome("unnamed", None)
        else:
            self._from[network] -= 1
            if not self._from[network]:
                del self._from[network]
        self.sessions.discard(session)
        self._dismissed.discard(session)
        self._open.dec()
        self._changed.set()


def _network(address: str) -> str:
    """What one client is counted by: its IPv4 address, or the /64 that an IPv6 one is given."""
    if ":" not in address:
        return address
    packed = ipaddress.IPv6Address(address).packed
    return packed[:8].hex()
