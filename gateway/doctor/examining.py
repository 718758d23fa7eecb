"""All checks of one deployment, at the same time, each within its bound."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from gateway import tokens
from gateway.doctor import deployment, listening, own_domains, report, traffic, upkeep, ways_out
from gateway.doctor.report import Finding, Report, ok, problem, warning
from gateway.errors import ConfigurationError, Unavailable
from gateway.inbound.domains import Domains
from gateway.mail import address
from gateway.outbound import signing
from gateway.resolving import DnsResolver
from gateway.settings import Settings
from gateway.storage import db

SECONDS: Final = 20.0  # for a check that has no time of its own
QUESTION_SECONDS: Final = 3.0  # for one question to the DNS
CONNECTIONS: Final = 4  # to Postgres, at most


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the command line says."""

    domains: tuple[str, ...] = ()  # only these; empty = all
    addresses: tuple[str, ...] = ()  # from which mail leaves; empty = those of SMTP_HOSTNAME
    reach: str = ""  # a domain whose hosts are connected to, to see whether port 25 is open; empty = none
    send_test: str = ""  # who gets a test mail through each provider; empty = none is sent
    loop: bool = False  # whether a mail of our own goes in through our own port
    sender: str = ""  # who it is from; empty = postmaster at the first domain
    trusted: ssl.SSLContext | None = None  # whom clients trust; None = the system's authorities


def refused(error: ConfigurationError) -> Report:
    """The report where the settings cannot even be read."""
    return report.made([problem("settings", str(error), "Correct them; postroom settings lists all.")], None)


async def examine(settings: Settings, options: Options) -> Report:
    """Look at everything. Raises ConfigurationError for options that mean nothing."""
    to, from_ = _mailbox("--send-test", options.send_test), _mailbox("--from", _sender(settings, options))
    async with _House.of(settings) as house:
        checks = [
            report.bounded("settings", house.settings_found(), seconds=SECONDS),
            report.bounded("secret_key.previous", house.previous_found(), seconds=SECONDS),
            report.bounded("database", house.database_found(), seconds=SECONDS),
            report.bounded("redis", deployment.redis(settings), seconds=SECONDS),
            report.bounded("redis.memory", upkeep.redis_memory(settings), seconds=SECONDS),
            report.bounded("database.upkeep", house.upkeep(), seconds=SECONDS),
            report.bounded("workers", house.workers(), seconds=SECONDS),
            report.bounded("inbound.loop", house.loop(options), seconds=SECONDS + upkeep.LOOP_SECONDS),
            report.bounded("listeners", listening.listeners(settings), seconds=SECONDS),
            report.bounded("certificate", house.certificate(options), seconds=SECONDS),
            report.bounded("queue", house.queues(), seconds=SECONDS),
            report.bounded("complaints", house.reputation(), seconds=SECONDS),
            report.bounded("one_click", house.one_click(options), seconds=SECONDS),
            report.bounded("dns", house.names(options), seconds=own_domains.ALL_SECONDS + SECONDS),
            house.providers(options.reach, (to, from_) if to and from_ else None),
        ]
        found = await asyncio.gather(*checks)
    return report.made([finding for findings in found for finding in findings], settings)


def _sender(settings: Settings, options: Options) -> str:
    return options.sender or (f"postmaster@{settings.first_domain}" if options.send_test else "")


def _mailbox(option: str, text: str) -> address.Mailbox | None:
    if not text:
        return None
    try:
        return address.Mailbox(address=address.parse(text))
    except address.InvalidAddress as error:
        raise ConfigurationError(f"{option}: {error}") from None


class _House:
    """What the checks share."""

    def __init__(self, settings: Settings, database: db.Database | None) -> None:
        self._settings = settings
        self._database = database
        self._keyring = _keyring(settings)
        self._resolver = DnsResolver(settings.dns_servers, lifetime=QUESTION_SECONDS)

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, settings: Settings) -> AsyncIterator[_House]:
        async with contextlib.AsyncExitStack() as stack:
            database = None
            if settings.database_url:
                database = db.Database(settings.database_url, pool_size=CONNECTIONS)
                await database.open()
                stack.push_async_callback(database.close)
            yield cls(settings, database)

    async def settings_found(self) -> Sequence[Finding]:
        given = len(self._settings.model_fields_set)
        return [ok("settings", f"valid; {given} are set"), deployment.secret_key(self._settings)]

    async def previous_found(self) -> Sequence[Finding]:
        if self._database is None or self._keyring is None:
            return []
        return await deployment.previous(self._database, self._keyring)

    async def database_found(self) -> Sequence[Finding]:
        if self._database is None:
            todo = "Set it, such as postgresql://user:pass@host:5432/postroom."
            return [problem("database", "DATABASE_URL is not set", todo)]
        return await deployment.database(self._database, self._settings)

    async def certificate(self, options: Options) -> Sequence[Finding]:
        return [await asyncio.to_thread(listening.certificate, self._settings, options.trusted)]

    async def queues(self) -> Sequence[Finding]:
        return await traffic.queues(self._database) if self._database else []

    async def upkeep(self) -> Sequence[Finding]:
        return await upkeep.database(self._database) if self._database else []

    async def workers(self) -> Sequence[Finding]:
        return await upkeep.workers(self._database, self._settings) if self._database else []

    async def loop(self, options: Options) -> Sequence[Finding]:
        return await upkeep.loop(self._database, self._settings) if self._database and options.loop else []

    async def reputation(self) -> Sequence[Finding]:
        return await traffic.reputation(self._database) if self._database else []

    async def one_click(self, options: Options) -> Sequence[Finding]:
        return await traffic.one_click(self._settings, options.trusted)

    # Names

    async def names(self, options: Options) -> Sequence[Finding]:
        """Our own, and those of the domains."""
        judge = Domains(
            self._database or db.Database("postgresql://"),  # of which nothing is asked here
            self._resolver,
            self._keyring or tokens.Keyring(bytes(tokens.SECRET_KEY_MIN_BYTES)),  # likewise
            self._settings,
            told=lambda _: None,
        )
        looking = own_domains.Looking(self._settings, self._resolver, judge)
        try:
            listed, more = await self._listed(options)
        except ConfigurationError as error:
            return [problem("settings", str(error), "Correct it: no worker starts with it.")]
        if all(own_domains.is_reserved(domain.name) for domain in listed) and own_domains.is_reserved(
            self._settings.hostname
        ):
            return [*more, *await looking.look(listed)]
        answering = await looking.answers()
        if answering.state != "ok":
            return [answering, *more]
        ours, returning, theirs = await asyncio.gather(
            report.bounded(
                "hostname",
                ways_out.names(self._settings, self._resolver, options.addresses),
                seconds=ways_out.NAMES_SECONDS,
            ),
            report.bounded("return_path", looking.return_domain(), seconds=ways_out.NAMES_SECONDS),
            looking.look(listed),
        )
        return [answering, *ours, *more, *returning, *theirs]

    async def _listed(self, options: Options) -> tuple[list[own_domains.Domain], list[Finding]]:
        """The domains to look at, and what is to be said of the others. Raises ConfigurationError."""
        wanted = [name.lower().rstrip(".") for name in options.domains] or None
        shared = [one for one in own_domains.shared(self._settings) if wanted is None or one.name in wanted]
        if self._database is None or self._keyring is None:
            return shared, []
        try:
            theirs, count = await own_domains.of_accounts(self._database, self._keyring, self._settings, wanted)
        except Unavailable:
            return shared, []
        known = {one.name for one in (*shared, *theirs)}
        more = [_strange(name) for name in wanted or () if name not in known]
        if wanted is None and count > len(theirs):
            said = f"accounts have {count} domains, of which {len(theirs)} were looked at"
            more.append(warning("domains", said, "Name others with --domain."))
        return [*shared, *theirs], more

    # Ways out

    async def providers(self, reach: str, test: tuple[address.Mailbox, address.Mailbox] | None) -> Sequence[Finding]:
        try:
            letter = self._test(*test) if test else None
        except ConfigurationError as error:
            return [problem("send_test", str(error), "Correct the settings first.")]
        return await ways_out.providers(self._settings, self._resolver, reach=reach, test=letter)

    def _test(self, to: address.Mailbox, from_: address.Mailbox) -> ways_out.Test:
        database = self._database or db.Database("")
        keyring = self._keyring or tokens.keyring(self._settings)
        return ways_out.Test(to=to, from_=from_, signer=signing.Signer(database, keyring, self._settings))


def _strange(name: str) -> Finding:
    todo = "Add it to MAIL_DOMAINS, or let an account verify it."
    return warning("domain", "it is neither in MAIL_DOMAINS nor verified by an account", todo, subject=name)


def _keyring(settings: Settings) -> tokens.Keyring | None:
    """None where SECRET_KEY is none, which is a finding of its own."""
    try:
        return tokens.keyring(settings)
    except ConfigurationError:
        return None
