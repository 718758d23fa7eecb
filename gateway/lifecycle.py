"""The one place where the house is wired: resources are opened in order, handed to what needs them, closed in reverse.

A `Gateway` is what one process holds. The web process adds listeners and routes to it (gateway.app), the worker process
its loops (workers.main); neither is known here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Final
from uuid import UUID

import prometheus_client
import structlog

from gateway import signatures, tokens
from gateway.errors import ConfigurationError, Unavailable
from gateway.inbound import listener
from gateway.inbound.cleaning import Cleaning
from gateway.inbound.domains import Domains
from gateway.inbound.judging import Judging
from gateway.inbound.pace import Pace
from gateway.inbound.parsing import ParsingPool
from gateway.inbound.protocol import HungUp, Incoming
from gateway.inbound.receive import Reception
from gateway.inbound.rendering import Rendering
from gateway.inbound.submission import Submissions
from gateway.mail import verp
from gateway.notify import nudges, rates
from gateway.notify.admission import Admission
from gateway.notify.live import Live
from gateway.outbound import rules, unsubscribe
from gateway.outbound.providers.contract import Outgoing
from gateway.outbound.providers.local import LocalProvider
from gateway.outbound.route import Router
from gateway.outbound.send import Outbox
from gateway.outbound.signing import Signer
from gateway.resolving import DnsResolver
from gateway.settings import Settings
from gateway.storage import db, migrate, vitals
from gateway.storage.callers import Callers

log = structlog.get_logger(__name__)

# state: "connected", "away", "off" (no REDIS_URL)
REDIS: Final = prometheus_client.Gauge(
    "postroom_redis_processes", "Processes by how they stand with Redis", ["state"], multiprocess_mode="livesum"
)
IN_FLIGHT: Final = prometheus_client.Gauge(
    "postroom_inbound_bytes_in_flight", "Bytes that mail being received holds in memory", multiprocess_mode="livesum"
)
IN_FLIGHT_LIMIT: Final = prometheus_client.Gauge(
    "postroom_inbound_bytes_limit", "Bytes that it may hold (INBOUND_BYTES_IN_FLIGHT)", multiprocess_mode="livesum"
)
REDIS_STATES: Final = ("connected", "away", "off")
OBSERVE_SECONDS: Final = 5.0  # between looks at what a process holds

DELIVER = "deliver"  # the job that says: this account has somebody to write to
JUDGE = "judge"  # the job that says: this account has mail that is held until its sender is judged


class Gateway:
    """Everything that a process of Postroom holds."""

    def __init__(self, settings: Settings, *, fetch: signatures.Fetch | None = None) -> None:
        self.settings = settings
        self.fetch = fetch or signatures.Fetcher()  # from the web: what providers' signatures are checked by
        self.in_flight = listener.budget(settings)  # bytes of mail being received, by whichever way it comes
        self.keyring = tokens.keyring(settings)
        self.database = db.Database(settings.database_url, pool_size=settings.db_pool_size)
        self.vitals = vitals.Vitals(self.database, settings)
        self.links = unsubscribe.Links(self.keyring, settings.public_url)
        self.live = Live(self.database, buffer_events=settings.stream_buffer_events)
        self.parsing = ParsingPool()
        self.cleaning = Cleaning()
        self.rendering = Rendering()
        self.resolver = DnsResolver(settings.dns_servers)
        self._hearers: list[Callable[[Sequence[UUID]], None]] = [self.live.poke]
        self.nudger = nudges.Nudger(
            settings.redis_url, tls_verify=settings.redis_tls_verify, namespace=settings.redis_namespace
        )
        self._listener = nudges.Listener(
            settings.redis_url,
            on_nudge=self._hear,
            on_reconnect=self.live.poke_all,
            tls_verify=settings.redis_tls_verify,
            namespace=settings.redis_namespace,
        )
        self.return_paths = (
            verp.ReturnPaths(self.keyring, settings.return_path_domain) if settings.return_path_domain else None
        )
        self.reception = Reception(
            self.database,
            settings,
            self.parsing,
            told=self.tell,
            judge=self.nudge_judging,
            return_paths=self.return_paths,
        )
        self.pace = Pace()
        self.judging = Judging(self.database, settings, self.resolver, self.pace, told=self.tell)
        self.outbox = Outbox(self.database, settings, told=self.tell, due=self.nudge_deliveries)
        self.callers = Callers(self.database)
        self.admission = Admission(self.database, self.callers)
        self.rates = rates.Rates(
            settings.redis_url,
            processes=settings.web_concurrency,
            tls_verify=settings.redis_tls_verify,
            namespace=settings.redis_namespace,
        )
        self.limiter = rates.Limiter(self.rates, rates.Limits.of(settings))
        self.domains = Domains(
            self.database, DnsResolver(settings.dns_servers, cache_entries=0), self.keyring, settings, told=self.tell
        )
        self.submissions = Submissions(self.outbox, self.callers, self.limiter, settings)

    def tell(self, account_ids: Iterable[UUID]) -> None:
        """These accounts' logs have grown: whoever listens, here or in another process, looks again."""
        grown = list(account_ids)
        self._hear(grown)
        self.nudger.tell(grown)

    def add_hearer(self, hearer: Callable[[Sequence[UUID]], None]) -> None:
        """Call this, too, with accounts whose logs grew, here or in another process; it must not block or raise."""
        self._hearers.append(hearer)

    def _hear(self, account_ids: Sequence[UUID]) -> None:
        for hearer in self._hearers:
            hearer(account_ids)

    async def deliver_local(self, outgoing: Outgoing) -> str:
        """The way in for mail that stays in the house, answered as by the port; a delivery done twice is one mail."""
        incoming = Incoming(
            receipt_id=outgoing.delivery_id,
            mail_from=outgoing.mail_from,
            rcpt_to=(outgoing.rcpt_to,),
            helo=self.settings.hostname,
            remote_ip="",
            tls=False,
            smtputf8=outgoing.smtputf8,
            raw=outgoing.raw,
        )
        try:
            refusal = await self.reception.recipient(outgoing.rcpt_to, outgoing.mail_from)
            return refusal or await self.reception.deliver(incoming)
        except HungUp:  # rehearsed: what the peer would have seen is a broken line
            return "451 4.4.2 Connection lost"

    def router(self) -> Router:
        """The ways out that OUTBOUND, OUTBOUND_ROUTES and the own domains give. Raises ConfigurationError."""
        routes = rules.read(self.settings, self.resolver)
        local = LocalProvider(self.deliver_local)
        own = (*self.settings.mail_domains, *filter(None, [self.settings.return_path_domain]))
        return Router(routes, own, local, is_custom_domain=self._is_custom_domain)

    async def _is_custom_domain(self, domain: str) -> bool:
        """Whether an account here has proved to own it: mail for it never leaves. Raises Unavailable."""
        ground = await self.reception.owner(domain)
        return ground is not None and ground.owner is not None

    def signer(self) -> Signer:
        """What signs mail that leaves. Raises ConfigurationError."""
        return Signer(self.database, self.keyring, self.settings)

    async def listen(self) -> None:
        """Hear of what other processes commit, until cancelled."""
        await self._listener.run()

    @property
    def redis_state(self) -> str:
        """For people: "off" (no REDIS_URL), "connected", or "away" (everything works, told within a second)."""
        if not self.settings.redis_url:
            return "off"
        return "connected" if self._listener.connected else "away"

    def observe(self) -> None:
        """Tell of what this process holds, as gauges."""
        self.database.observe()
        IN_FLIGHT.set(self.in_flight.used)
        IN_FLIGHT_LIMIT.set(self.in_flight.limit)
        for state in REDIS_STATES:
            REDIS.labels(state).set(state == self.redis_state)

    async def keep_observing(self) -> None:
        """`observe` now and then, until cancelled: whoever is scraped may be another process of this host."""
        while True:
            self.observe()
            await asyncio.sleep(OBSERVE_SECONDS)

    def nudge_deliveries(self, account_ids: Iterable[UUID]) -> None:
        """These accounts have somebody to write to now."""
        for account_id in account_ids:
            self.nudger.nudge(DELIVER, account_id)

    def nudge_judging(self, account_ids: Iterable[UUID]) -> None:
        """These accounts have mail that waits for a verdict."""
        for account_id in account_ids:
            self.nudger.nudge(JUDGE, account_id)

    async def check_database(self) -> None:
        """Refuse a server that may lose what it has confirmed. One that is away is waited for while serving, and so
        are migrations."""
        try:
            async with self.database.connection() as connection:
                lacking = await db.durability(connection)
                missing = await migrate.lacking(connection)
        except Unavailable as error:
            log.warning("database away at start", reason=db.reason(error))
            return
        if missing:
            log.warning("the database is not migrated: run `postroom migrate`", missing=len(missing), first=missing[0])
        if lacking and not self.settings.database_unsafe:
            raise ConfigurationError(
                f"Postgres runs with {' and '.join(lacking)} off: confirmed mail could be lost in a power cut. "
                "Turn it on, or set DATABASE_UNSAFE=true if that does not matter."
            )

    def end_within(self, seconds: float) -> None:
        """Who waits for something to be committed is answered by then, one way or the other."""
        self.reception.end_within(seconds)
        self.outbox.end_within(seconds)

    async def problems(self) -> list[str]:
        """What keeps this process from working; empty = ready."""
        try:
            async with self.database.connection() as connection:
                missing = await migrate.lacking(connection)
                lacking = await db.durability(connection)
        except Unavailable as error:
            return [error.message]
        found = [f"database lacks migration {name}" for name in missing]
        if not self.settings.database_unsafe:
            found += [f"Postgres runs with {name} off" for name in lacking]
        return found


@contextlib.asynccontextmanager
async def opened(settings: Settings, *, fetch: signatures.Fetch | None = None) -> AsyncIterator[Gateway]:
    """A gateway at work; closing waits for what is being committed."""
    gateway = Gateway(settings, fetch=fetch)
    async with contextlib.AsyncExitStack() as stack:
        await gateway.database.open()
        stack.push_async_callback(gateway.database.close)
        await gateway.check_database()
        stack.push_async_callback(gateway.nudger.close)
        stack.push_async_callback(gateway.rates.close)
        stack.push_async_callback(gateway.parsing.close)
        stack.push_async_callback(gateway.cleaning.close)
        stack.push_async_callback(gateway.rendering.close)
        gateway.live.open()
        stack.push_async_callback(gateway.live.close)
        gateway.admission.open()
        stack.push_async_callback(gateway.admission.close)
        stack.push_async_callback(_end, asyncio.create_task(gateway.listen()))
        stack.push_async_callback(_end, asyncio.create_task(gateway.database.keep_time()))
        stack.push_async_callback(_end, asyncio.create_task(gateway.keep_observing()))
        stack.push_async_callback(_end, asyncio.create_task(gateway.judging.keep_letting_go()))
        stack.push_async_callback(gateway.outbox.drain)
        stack.push_async_callback(gateway.reception.drain)
        yield gateway


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
