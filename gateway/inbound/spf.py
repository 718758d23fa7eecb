"""SPF (RFC 7208): may this client send mail in this domain's name? `check_host`, asynchronously, within its limits."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from gateway.mail.auth import spf
from gateway.resolving import NamesAway, NoSuchName, Resolver

MAX_LOOKUPS: Final = 10  # terms that ask the DNS (RFC 7208 4.6.4)
MAX_VOID: Final = 2  # of them, those that find nothing
MAX_NAMES: Final = 10  # exchangers of one mx, names of one client
Found = TypeVar("Found")
RESULTS: Final = {"+": "pass", "-": "fail", "~": "softfail", "?": "neutral"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What SPF says."""

    result: str  # pass, fail, softfail, neutral, none, temperror, permerror
    domain: str = ""  # whose record it was about; empty = there was nobody to ask
    identity: str = "mailfrom"  # mailfrom, or helo where the reverse path is empty
    reason: str = ""  # for people; empty = nothing to say
    unknown_client: bool = False  # there was no address to ask about


class _Permanent(Exception):
    """permerror, and why."""


async def check(resolver: Resolver, *, remote_ip: str, mail_from: str, helo: str) -> Outcome:
    """Judge a client. `mail_from`: the reverse path; where it is empty, `helo` is asked instead (RFC 7208 2.4)."""
    identity = "mailfrom" if mail_from else "helo"
    local_part, _, domain = (mail_from or helo).rpartition("@")
    domain = domain.removesuffix(".")
    try:
        ip = _plain(remote_ip)
    except ValueError:
        return Outcome(
            result="none", identity=identity, reason="the client's address is not known", unknown_client=True
        )
    if not spf.is_domain(domain):
        return Outcome(result="none", identity=identity, reason="no domain to ask")
    question = spf.Question(ip=ip, local_part=local_part or "postmaster", sender_domain=domain, helo=helo)
    try:
        result, reason = await _Check(resolver=resolver, question=question).host(domain)
    except (_Permanent, spf.InvalidRecord) as error:
        result, reason = "permerror", str(error)
    except NamesAway:
        result, reason = "temperror", "the DNS did not answer"
    return Outcome(result=result, domain=domain, identity=identity, reason=reason)


def _plain(address: str) -> spf.IPAddress:
    """A v4 address that came mapped into v6 is one (RFC 7208 5)."""
    ip = ipaddress.ip_address(address)
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip


@dataclass(kw_only=True, slots=True)
class _Check:
    """One evaluation, over all records that it leads to."""

    resolver: Resolver
    question: spf.Question
    lookups: int = 0
    voids: int = 0
    validated: list[str] | None = None  # the client's names that lead back to it; None = not asked yet

    async def host(self, domain: str) -> tuple[str, str]:
        """check_host: the result and what it comes from. Raises _Permanent, InvalidRecord, NamesAway."""
        record = await self._record(domain)
        if record is None:
            return "none", "no SPF record"
        for mechanism in record.mechanisms:
            if await self._matches(mechanism, domain):
                return RESULTS[mechanism.qualifier], f"{mechanism.name} of {domain}"
        if not record.redirect:
            return "neutral", "nothing matches"
        self._count()
        target = await self._expanded(record.redirect, domain)
        result, reason = await self.host(target) if spf.is_domain(target) else ("none", "")
        if result == "none":
            raise _Permanent(f"redirect to {target}, which has no record")
        return result, reason

    async def _record(self, domain: str) -> spf.Record | None:
        try:
            text = spf.select(await self.resolver.txt(domain))
        except NoSuchName:
            return None
        return spf.parse(text) if text is not None else None

    async def _matches(self, mechanism: spf.Mechanism, domain: str) -> bool:
        if mechanism.name == "all":
            return True
        if mechanism.network is not None:
            return self.question.ip in mechanism.network
        self._count()
        target = await self._expanded(mechanism.domain, domain) if mechanism.domain else domain
        return await _MATCHES[mechanism.name](self, target, mechanism)

    async def includes(self, target: str, _mechanism: spf.Mechanism) -> bool:
        result = (await self.host(target))[0] if spf.is_domain(target) else "none"
        if result == "none":
            raise _Permanent(f"include of {target}, which has no record")
        return result == "pass"

    async def exists(self, target: str, _mechanism: spf.Mechanism) -> bool:
        return bool(await self._found(self.resolver.a(target)))

    async def is_named(self, target: str, _mechanism: spf.Mechanism) -> bool:
        return any(_is_below(name, target) for name in await self._validated())

    async def has_address(self, target: str, mechanism: spf.Mechanism) -> bool:
        return self._holds(await self._found(self._addresses(target)), mechanism)

    def _count(self) -> None:
        self.lookups += 1
        if self.lookups > MAX_LOOKUPS:
            raise _Permanent(f"more than {MAX_LOOKUPS} look-ups")

    async def exchanges(self, target: str, mechanism: spf.Mechanism) -> bool:
        exchangers = await self._found(self.resolver.mx(target))
        if len(exchangers) > MAX_NAMES:
            raise _Permanent(f"{target} has more than {MAX_NAMES} mail exchangers")
        for exchanger in exchangers:
            try:
                if exchanger.host and self._holds(await self._addresses(exchanger.host), mechanism):
                    return True
            except NoSuchName:
                continue
        return False

    def _holds(self, addresses: Sequence[str], mechanism: spf.Mechanism) -> bool:
        ip = self.question.ip
        prefix = mechanism.prefix4 if ip.version == 4 else mechanism.prefix6
        return any(ip in ipaddress.ip_network((address, prefix), strict=False) for address in addresses)

    def _addresses(self, name: str) -> Awaitable[list[str]]:
        return self.resolver.a(name) if self.question.ip.version == 4 else self.resolver.aaaa(name)

    async def _found(self, asked: Awaitable[Sequence[Found]]) -> Sequence[Found]:
        """Records, or none. Raises NamesAway; _Permanent where too many questions found nothing."""
        try:
            answer = await asked
        except NoSuchName:
            answer = ()
        if not answer:
            self.voids += 1
            if self.voids > MAX_VOID:
                raise _Permanent(f"more than {MAX_VOID} look-ups found nothing")
        return answer

    async def _expanded(self, spec: str, domain: str) -> str:
        name = _best(await self._validated(), domain) if spf.needs_name(spec) else ""
        return spf.expand(spec, self.question, domain, name=name)

    async def _validated(self) -> list[str]:
        """The client's names that lead back to its address (RFC 7208 5.5); what cannot be asked does not count."""
        if self.validated is None:
            try:
                names = (await self._found(self.resolver.names(str(self.question.ip))))[:MAX_NAMES]
            except NamesAway:
                names = ()
            self.validated = [name for name in names if await self._leads_back(name)]
        return self.validated

    async def _leads_back(self, name: str) -> bool:
        try:
            addresses = await self._addresses(name)
        except (NoSuchName, NamesAway):
            return False
        return any(ipaddress.ip_address(address) == self.question.ip for address in addresses)


_MATCHES: Final[dict[str, Callable[[_Check, str, spf.Mechanism], Awaitable[bool]]]] = {
    "include": _Check.includes,
    "exists": _Check.exists,
    "ptr": _Check.is_named,
    "mx": _Check.exchanges,
    "a": _Check.has_address,
}


def _is_below(name: str, domain: str) -> bool:
    name, domain = name.lower().rstrip("."), domain.lower().rstrip(".")
    return name == domain or name.endswith("." + domain)


def _best(names: Sequence[str], domain: str) -> str:
    """For the macro p: the domain itself, else a name below it, else any (RFC 7208 7.3)."""
    exact = [name for name in names if name.lower() == domain.lower()]
    below = [name for name in names if _is_below(name, domain)]
    return next(iter([*exact, *below, *names]), "unknown")
