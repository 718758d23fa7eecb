"""Finds the hosts that take a domain's mail, and the addresses that may be connected to (RFC 5321 section 5.1)."""

from __future__ import annotations

import asyncio
import ipaddress
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway import addresses
from gateway.outbound.providers.contract import Outcome
from gateway.resolving import Exchanger, NamesAway, NoSuchName, Resolver

MOST_HOSTS: Final = 5  # of one domain, the preferred ones; no others are looked up
MOST_ADDRESSES: Final = 3  # of one host
MOST_ALIASES: Final = 8  # CNAMEs that are followed from one name


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """One that takes the domain's mail."""

    name: str  # as its MX record says; the domain itself where it has none
    preference: int  # lower is tried first
    addresses: tuple[str, ...]  # allowed ones, 1 to 3; IPv6 first


class NoWayThere(Exception):
    """Nobody can be connected to."""

    def __init__(self, outcome: Outcome, enhanced: str, text: str) -> None:
        super().__init__(text)
        self.outcome = outcome
        self.enhanced = enhanced  # RFC 3463
        self.text = text


class Exchangers:
    """Asks the DNS for them."""

    def __init__(self, resolver: Resolver, *, ours: Iterable[str], allow_private: bool) -> None:
        """`ours`: our own names, by which mail that would come back to us is known; `allow_private`: tests only."""
        self._resolver = resolver
        self._ours = frozenset(name.lower() for name in ours)
        self._allow_private = allow_private

    async def find(self, domain: str) -> list[Host]:
        """Hosts in the order in which they are tried; never empty. Raises NoWayThere."""
        if domain.startswith("["):
            raise NoWayThere("bounced", "5.1.2", "mail is not sent to address literals")
        records = await self._records(domain.lower())
        looked_up = await asyncio.gather(*(self._addresses(record.host) for record in records))
        mine = await self._preference_of_ours(records, looked_up)
        hosts = [
            Host(name=record.host, preference=record.preference, addresses=allowed)
            for record, found in zip(records, looked_up, strict=True)
            if (mine is None or record.preference < mine) and (allowed := self._allowed(found or ()))
        ]
        if not hosts:
            raise _nobody(looped=mine is not None, away=None in looked_up)
        return hosts

    async def public_addresses(self, name: str) -> tuple[str, ...]:
        """Those of a name that may be connected to; may be empty, whatever the reason."""
        return self._allowed(await self._addresses(name) or ())

    async def _records(self, domain: str) -> list[Exchanger]:
        """The MX records, equal ones shuffled; the domain itself where it has none (RFC 5321 section 5.1)."""
        try:
            records = await self._mx(domain)
        except NoSuchName:
            raise NoWayThere("bounced", "5.1.2", f"{domain}: no such domain") from None
        except NamesAway:
            raise NoWayThere("deferred", "4.4.3", f"{domain}: its name servers cannot be asked now") from None
        if not records:
            return [Exchanger(preference=0, host=domain)]
        named = [record for record in records if record.host]
        if not named:  # RFC 7505 section 3
            raise NoWayThere("bounced", "5.1.10", f"{domain} takes no mail (null MX)")
        random.shuffle(named)
        return sorted(named, key=lambda record: record.preference)[:MOST_HOSTS]

    async def _mx(self, name: str) -> list[Exchanger]:
        """Those of the name, or of what it is an alias to."""
        for _ in range(MOST_ALIASES):
            if records := await self._resolver.mx(name):
                return records
            alias = await self._resolver.cname(name)
            if alias is None:
                return []
            name = alias
        raise NoSuchName(f"{name}: too many aliases")

    async def _addresses(self, name: str) -> list[str] | None:
        """IPv6 first; empty where there are none, None where nobody could tell."""
        try:
            for _ in range(MOST_ALIASES):
                found = await self._of_both_kinds(name)
                alias = None if found else await self._resolver.cname(name)
                if alias is None:
                    return found
                name = alias
        except NoSuchName:
            return []
        except NamesAway:
            return None
        return []

    async def _of_both_kinds(self, name: str) -> list[str]:
        """One kind is enough: some name servers fail when they are asked for the other."""
        answers = await asyncio.gather(self._resolver.aaaa(name), self._resolver.a(name), return_exceptions=True)
        found = [address for answer in answers if not isinstance(answer, BaseException) for address in answer]
        trouble = [answer for answer in answers if isinstance(answer, BaseException)]
        if trouble and not found:
            raise next((error for error in trouble if isinstance(error, NamesAway)), trouble[0])
        return found

    def _allowed(self, found: Sequence[str]) -> tuple[str, ...]:
        """Whoever answers with addresses of the inside makes us connect to none of those."""
        parsed = [ipaddress.ip_address(text) for text in found]
        public = [one for one in parsed if self._allow_private or not addresses.is_forbidden(one)]
        return tuple(map(str, public[:MOST_ADDRESSES]))

    async def _preference_of_ours(
        self, records: Sequence[Exchanger], looked_up: Sequence[Sequence[str] | None]
    ) -> int | None:
        """The best preference at which we are listed: that host, its equals and worse are left out (RFC 5321 5.1)."""
        looked_up_of_ours = await asyncio.gather(*map(self._addresses, self._ours))
        own = frozenset(address for found in looked_up_of_ours for address in found or ())
        ours = [
            record.preference
            for record, found in zip(records, looked_up, strict=True)
            if record.host in self._ours or not own.isdisjoint(found or ())
        ]
        return min(ours, default=None)


def _nobody(*, looped: bool, away: bool) -> NoWayThere:
    if away:
        return NoWayThere("deferred", "4.4.3", "the addresses of its mail exchangers cannot be looked up now")
    if looped:
        return NoWayThere("bounced", "5.4.6", "its mail exchanger is this host: mail would loop")
    return NoWayThere("bounced", "5.4.4", "none of its mail exchangers has a public address")
