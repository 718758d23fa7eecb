"""The DNS of the domains that mail comes to and goes out from, as the code that verifies domains judges it.

A domain is one of MAIL_DOMAINS, or one that an account has proved to own. Where the DNS does not answer at all, that is
the one finding, and no domain is looked at.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from gateway import tokens
from gateway.doctor import report
from gateway.doctor.report import Finding, ok, problem, warning
from gateway.inbound import domains as judging
from gateway.inbound import verdicts
from gateway.inbound.domains import Record
from gateway.mail import dkim, verp
from gateway.mail.auth import dmarc
from gateway.outbound import signing
from gateway.resolving import NamesAway, NoSuchName, Resolver
from gateway.settings import Settings
from gateway.storage import condition, db, dkim_keys, domains

MOST: Final = 100  # domains of accounts that are looked at without being named
AT_ONCE: Final = 10
DOMAIN_SECONDS: Final = 15.0  # for one of them …
ALL_SECONDS: Final = 45.0  # … and for all of them
_RESERVED: Final = (".test", ".localhost", ".invalid", ".local")  # RFC 6761, RFC 6762: not in the public DNS

_PROVIDERS_OWN: Final = {  # reverse paths that these write instead of ours
    "mailgun": "Mailgun's own",
    "postmark": "Postmark's own",
    "ses": "Amazon's own, unless the identity has a MAIL FROM domain",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """One whose DNS is looked at."""

    name: str  # lower-case A-labels
    signed: tuple[Record, ...]  # the records of the keys that sign its mail
    wildcard: bool = False
    trouble: str = ""  # why its mail cannot be signed; empty = it can, or is not to be
    is_tenants: bool = False  # an account's, with a return domain of its own
    returns: str = ""  # the domain of its mail's return paths; empty = From's own


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """How mail leaves, as far as the DNS of its sender is concerned."""

    host: str  # our name
    directly: bool  # from our own address, be it by mx:// or by a relay on this machine
    receives: bool  # an SMTP listener is configured
    provider: str  # the first way out's kind: mx, smtp, mailgun, …; empty = none

    @classmethod
    def of(cls, settings: Settings) -> Way:
        kinds = [url.partition(":")[0].lower() for url in settings.outbound]
        local = any(f"{mark}{host}" in url for url in settings.outbound for host in _LOCAL for mark in ("@", "//"))
        return cls(
            host=settings.hostname.lower().rstrip("."),
            directly="mx" in kinds or local,
            receives=settings.smtp_port is not None or settings.smtps_port is not None,
            provider=kinds[0] if kinds else "",
        )


_LOCAL: Final = ("localhost", "127.", "[::1]")


class Looking:
    """Looks at domains."""

    def __init__(self, settings: Settings, resolver: Resolver, judge: judging.Domains) -> None:
        self._settings = settings
        self._resolver = resolver
        self._judge = judge
        self._way = Way.of(settings)
        self._verdicts = verdicts.Judge(resolver)

    async def answers(self) -> Finding:
        """Whether there is a DNS to ask."""
        try:
            await self._resolver.txt(".")
        except NamesAway:
            todo = "Set DNS_SERVERS to name servers that answer from here, or let DNS through."
            return problem("dns", "the DNS does not answer: no domain was looked at", todo)
        except NoSuchName:
            pass
        return ok("dns", "name servers answer")

    async def look(self, found: Iterable[Domain]) -> list[Finding]:
        """Everything about these domains; within ALL_SECONDS, so that of many the last ones may stay unknown."""
        slots, end = asyncio.Semaphore(AT_ONCE), time.monotonic() + ALL_SECONDS

        async def one(domain: Domain) -> Sequence[Finding]:
            async with slots:
                seconds = max(min(DOMAIN_SECONDS, end - time.monotonic()), 0.0)
                return await report.bounded("domain", self.domain(domain), seconds=seconds, subject=domain.name)

        return [finding for findings in await asyncio.gather(*map(one, found)) for finding in findings]

    async def domain(self, domain: Domain) -> Sequence[Finding]:
        if is_reserved(domain.name):
            said = "a name for tests, which is in no public DNS: nobody outside can write to it"
            return [ok("domain", said, subject=domain.name)]
        wanted = self._judge.mail_records(domain.name, domain.signed, wildcard=domain.wildcard)
        wanted += self._judge.return_path(domain.name) if domain.is_tenants else []
        records, published = await asyncio.gather(self._judge.look(wanted), self._verdicts.published(domain.name))
        return [
            *(self.mx(record, domain) for record in records if record.purpose == "mx"),
            *(self.spf(record, domain) for record in records if record.purpose == "spf"),
            *self.dkim(records, domain),
            *(self.dmarc(record, published, domain) for record in records if record.purpose == "dmarc"),
            *(self.return_path(record, domain) for record in records if record.purpose == "return_path"),
            self.alignment(records, published, domain),
        ]

    async def return_domain(self) -> Sequence[Finding]:
        """RETURN_PATH_DOMAIN, to which bounces come, and whose SPF record speaks for mail with return paths there."""
        name = self._settings.return_path_domain
        if not name or is_reserved(name):
            return []
        itself = Domain(name=name, signed=())
        records = await self._judge.look([one for one in self._judge.mail_records(name, ()) if one.purpose != "dmarc"])
        judged = {"mx": self.mx, "spf": self.spf}
        return [judged[record.purpose](record, itself) for record in records]

    def return_path(self, record: Record, domain: Domain) -> Finding:
        """The alias by which bounces come here, and by which SPF is aligned with From."""
        if record.state == "unknown":
            return _unknown("return_path", record, domain)
        if record.state != "ok":
            said = f"{record.name} does not lead to {record.value}: SPF will not be aligned, and DKIM alone must do"
            todo = f"Publish: {record.name}. CNAME {record.value}."
            return warning("return_path", said, todo, subject=domain.name)
        if domain.returns != record.name:
            said = f"{record.name} leads to {record.value}, which was not seen yet by whom it matters to"
            return warning("return_path", said, f"Call POST /v1/domains/{domain.name}/verify.", subject=domain.name)
        return ok("return_path", f"bounces come to {record.name}", subject=domain.name)

    def mx(self, record: Record, domain: Domain) -> Finding:
        todo = f"Publish: {record.name}. MX {record.priority} {record.value}."
        if record.state == "ok":
            return ok("mx", f"mail for {record.name} comes to {record.value}", subject=domain.name)
        if record.state == "unknown":
            return _unknown("mx", record, domain)
        there = f"leads to {', '.join(record.found)}" if record.found else "is not there"
        said = f"the MX record of {record.name} {there}: mail does not come here"
        if not self._way.receives:  # mail is taken in by HTTP, or by another host
            return warning("mx", f"{said}; no SMTP listener is configured here, either", todo, subject=domain.name)
        return problem("mx", said, todo, subject=domain.name)

    def spf(self, record: Record, domain: Domain) -> Finding:
        if record.state == "unknown":
            return _unknown("spf", record, domain)
        if record.state == "ok":
            return ok("spf", f"one record, which lets {self._way.host} send", subject=domain.name)
        if record.state == "missing":
            said = "there is no SPF record"
            return self._spf_lacks(said, f'Publish: {record.name}. TXT "{record.value}".', domain)
        if len(record.found) > 1:
            said = f"there are {len(record.found)} SPF records, which is none (RFC 7208 4.5)"
            return problem("spf", said, "Make one of them.", subject=domain.name)
        if not self._way.directly:
            said = f"one record, {record.found[0]!r}; whether it names the relay's servers is for the relay to say"
            return ok("spf", said, subject=domain.name)
        said = f"the record does not let {self._way.host} send: {record.found[0]!r}"
        return problem("spf", said, f"Add a:{self._way.host} to it.", subject=domain.name)

    def _spf_lacks(self, said: str, todo: str, domain: Domain) -> Finding:
        if self._way.directly:
            return problem("spf", said, todo, subject=domain.name)
        todo = "Publish one that names the servers of your relay or provider; they say what to write."
        return warning("spf", said, todo, subject=domain.name)

    def dkim(self, records: Sequence[Record], domain: Domain) -> list[Finding]:
        keys = [record for record in records if record.purpose == "dkim"]
        if domain.trouble:
            todo = (
                "Set SECRET_KEY_PREVIOUS to the key that they were encrypted under, or rotate the domain's DKIM keys."
            )
            return [problem("dkim", domain.trouble, todo, subject=domain.name)]
        if not keys:
            todo = "Set DKIM_KEY_FILE and DKIM_SELECTOR, unless your relay or provider signs."
            return [warning("dkim", "its mail goes out unsigned", todo, subject=domain.name)]
        return [_key(record, domain) for record in keys]

    def dmarc(self, record: Record, published: verdicts.Published | str | None, domain: Domain) -> Finding:
        if record.state == "unknown" or isinstance(published, str):
            return _unknown("dmarc", record, domain)
        if published is None and len(record.found) > 1:
            said = f"there are {len(record.found)} DMARC records, which is none (RFC 7489 6.6.3)"
            return warning("dmarc", said, "Leave one of them.", subject=domain.name)
        if published is None:
            there = record.state != "missing"
            said = "the DMARC record cannot be read: it has no valid p=" if there else "there is no DMARC record"
            todo = f'Publish: {record.name}. TXT "{record.value}".'
            return warning("dmarc", said, todo, subject=domain.name)
        where = "" if published.domain == domain.name else f", by the record of {published.domain}"
        return ok("dmarc", f"p={published.policy}{where}", subject=domain.name)

    def alignment(
        self, records: Sequence[Record], published: verdicts.Published | str | None, domain: Domain
    ) -> Finding:
        """Whether a receiver can tell by the reverse path or by the signature that From is not forged."""
        policy = published.record if isinstance(published, verdicts.Published) else None
        signed = self._way.provider != "postmark" and any(record.purpose == "dkim" for record in records)
        path = None if self._way.provider in _PROVIDERS_OWN else domain.returns or domain.name
        said = [f"From @{domain.name}"]
        by_path = by_key = False
        if path is None:
            said.append(f"return path {_PROVIDERS_OWN[self._way.provider]}")
        else:
            by_path = dmarc.aligned(path, domain.name, strict=bool(policy and policy.strict_spf))
            said.append(f"return path @{path} {_told(by_path, bool(policy and policy.strict_spf))}")
        if signed:
            by_key = not (domain.wildcard and policy is not None and policy.strict_dkim)
            said.append(f"DKIM d={domain.name} {_told(by_key, bool(policy and policy.strict_dkim))}")
        else:
            said.append("signed by the provider" if self._way.provider in _PROVIDERS_OWN else "not signed")
        return _alignment("; ".join(said), domain, sure=by_path or by_key, proved=by_key or not signed)


def _alignment(said: str, domain: Domain, *, sure: bool, proved: bool) -> Finding:
    if not proved:
        said += "; names below it are signed with the same d=, which adkim=s does not count"
        return warning("alignment", said, "Take adkim=s out of the DMARC record.", subject=domain.name)
    if sure:
        return ok("alignment", said, subject=domain.name)
    todo = f"Let the provider sign with d={domain.name}: verify the domain there."
    return warning("alignment", f"{said}: the provider alone knows whether it is aligned", todo, subject=domain.name)


def _told(aligned: bool, strict: bool) -> str:
    return f"({'strict' if strict else 'relaxed'}: {'' if aligned else 'not '}aligned)"


def _key(record: Record, domain: Domain) -> Finding:
    if record.state == "ok":
        return ok("dkim", f"{record.name} holds the key that signs", subject=domain.name)
    if record.state == "unknown":
        return _unknown("dkim", record, domain)
    there = "holds another key than the one that signs" if record.state == "wrong" else "is not there"
    said = f"{record.name} {there}: the signatures count as none"
    return problem("dkim", said, f'Publish: {record.name}. TXT "{record.value}".', subject=domain.name)


def _unknown(name: str, record: Record, domain: Domain) -> Finding:
    todo = "Look at the domain's name servers, then run the doctor again."
    return warning(name, f"not known: the DNS did not answer for {record.name}", todo, subject=domain.name)


# Which domains


def is_reserved(name: str) -> bool:
    """Whether no public DNS has it."""
    return f".{name.lower()}".endswith(_RESERVED)


def shared(settings: Settings) -> list[Domain]:
    """MAIL_DOMAINS that are names. Raises ConfigurationError where DKIM_KEY_FILE is no key."""
    house, names = signing.house_key(settings), sorted(signing.shared_domains(settings))
    returns = settings.return_path_domain
    return [Domain(name=name, signed=_of_house(name, house), returns=returns) for name in names]


def _of_house(name: str, house: tuple[str, dkim.Private] | None) -> tuple[Record, ...]:
    if house is None:
        return ()
    selector, private = house
    return (judging.dkim_record(name, selector, dkim.public_record(private)),)


async def of_accounts(
    database: db.Database, keyring: tokens.Keyring, settings: Settings, names: Sequence[str] | None
) -> tuple[list[Domain], int]:
    """Verified domains, MOST of them at most, and how many there are. Raises Unavailable."""
    async with database.connection() as connection:
        held, count = await condition.held(connection, names, MOST)
        found = [
            await _claimed(connection, keyring, settings.return_path_domain, account_id, name)
            for name, account_id in held
        ]
    return [domain for domain in found if domain is not None], count


async def _claimed(
    connection: db.Connection, keyring: tokens.Keyring, returns: str, account_id: UUID, name: str
) -> Domain | None:
    claim = await domains.get(connection, account_id, name)
    if claim is None:
        return None
    keys = dkim_keys.signing(await dkim_keys.of_domain(connection, account_id, name))
    readable = [key for key in keys if _is_readable(key, keyring)]
    is_own = bool(returns) and await domains.is_alias(
        connection, account_id, name, purpose="return_path", value=returns
    )
    trouble = "the keys that sign its mail cannot be read with this SECRET_KEY: its mail waits"
    return Domain(
        name=name,
        signed=tuple(judging.dkim_record(name, key.selector, key.record) for key in readable),
        wildcard=claim.wildcard,
        trouble=trouble if keys and not readable else "",
        is_tenants=True,
        returns=verp.own_domain(name) if is_own else returns,
    )


def _is_readable(key: dkim_keys.DkimKey, keyring: tokens.Keyring) -> bool:
    try:
        key.private(keyring)
    except (tokens.Unreadable, dkim.UnusableKey):
        return False
    return True
