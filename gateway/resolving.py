"""Names: everything that is asked of the DNS, asynchronously, with a deadline, and of the servers that were configured.

Who judges senders, verifies domains or looks for a mail exchanger is handed a `Resolver`; what it learns is records, or
one of two exceptions: there is none (`NoSuchName`), or it cannot be known now (`NamesAway`).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype
import dns.resolver
import dns.reversename

from gateway.errors import ConfigurationError, PostroomError

LIFETIME_SECONDS: Final = 4.0  # one question, over all servers and tries
CACHE_ENTRIES: Final = 10_000


class NoSuchName(PostroomError):
    """The name does not exist (NXDOMAIN), or cannot exist."""


class NamesAway(PostroomError):
    """No server could tell: time-out, SERVFAIL, refusal."""


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Exchanger:
    """One MX record."""

    preference: int  # lower is tried first
    host: str  # lower case, without the dot at its end; empty = the null MX (RFC 7505)


class Resolver(Protocol):
    """What can be asked. An empty answer means that the name is there without such a record."""

    async def txt(self, name: str) -> list[bytes]:
        """Each TXT record, its strings joined. Raises NoSuchName, NamesAway."""

    async def addresses(self, name: str) -> list[str]:
        """A and AAAA records. Raises NoSuchName, NamesAway."""

    async def a(self, name: str) -> list[str]:
        """A records. Raises NoSuchName, NamesAway."""

    async def aaaa(self, name: str) -> list[str]:
        """AAAA records. Raises NoSuchName, NamesAway."""

    async def mx(self, name: str) -> list[Exchanger]:
        """MX records, best first. Raises NoSuchName, NamesAway."""

    async def cname(self, name: str) -> str | None:
        """Where the name is an alias to; None = it is none. Raises NoSuchName, NamesAway."""

    async def names(self, address: str) -> list[str]:
        """PTR records of an IP address. Raises NoSuchName, NamesAway."""


class DnsResolver:
    """A Resolver over the DNS, with a cache that keeps answers for as long as they say."""

    def __init__(
        self, servers: Sequence[str] = (), *, lifetime: float = LIFETIME_SECONDS, cache_entries: int = CACHE_ENTRIES
    ) -> None:
        """`servers`: addresses or address:port ([v6]:port); none = those of the system. `cache_entries`: 0 = each
        question is asked anew. ConfigurationError."""
        self._servers = [_endpoint(server) for server in servers]
        self._lifetime = lifetime
        self._cache_entries = cache_entries
        self._resolver: dns.asyncresolver.Resolver | None = None

    def _asked(self) -> dns.asyncresolver.Resolver:
        """Made when first asked: a machine without a name server's address runs well until somebody asks."""
        if self._resolver is None:
            try:
                resolver = dns.asyncresolver.Resolver(configure=not self._servers)
            except dns.resolver.NoResolverConfiguration as error:
                raise NamesAway("no name server is configured") from error
            if self._servers:
                resolver.nameservers = [
                    dns.nameserver.Do53Nameserver(str(address), port) for address, port in self._servers
                ]
            resolver.cache = dns.resolver.LRUCache(self._cache_entries) if self._cache_entries else None
            resolver.search = []
            self._resolver = resolver
        return self._resolver

    async def _ask(self, name: str | dns.name.Name, kind: dns.rdatatype.RdataType) -> dns.resolver.Answer | None:
        """None = the name is there, but no such record."""
        try:
            return await self._asked().resolve(name, kind, lifetime=self._lifetime, search=False)
        except dns.resolver.NoAnswer:
            return None
        except dns.resolver.NXDOMAIN as error:
            raise NoSuchName(f"{name}: no such name") from error
        except (dns.exception.Timeout, dns.resolver.NoNameservers, OSError) as error:
            raise NamesAway(f"{name}: {type(error).__name__}") from error
        except (dns.exception.DNSException, UnicodeError, ValueError) as error:  # a name that no server could have
            raise NoSuchName(f"{name}: {type(error).__name__}") from error

    async def txt(self, name: str) -> list[bytes]:
        answer = await self._ask(name, dns.rdatatype.TXT)
        return [b"".join(record.strings) for record in answer] if answer else []

    async def a(self, name: str) -> list[str]:
        answer = await self._ask(name, dns.rdatatype.A)
        return [record.address for record in answer] if answer else []

    async def aaaa(self, name: str) -> list[str]:
        answer = await self._ask(name, dns.rdatatype.AAAA)
        return [record.address for record in answer] if answer else []

    async def addresses(self, name: str) -> list[str]:
        four, six = await asyncio.gather(self.a(name), self.aaaa(name))
        return [*four, *six]

    async def mx(self, name: str) -> list[Exchanger]:
        answer = await self._ask(name, dns.rdatatype.MX)
        return sorted(Exchanger(preference=r.preference, host=_text(r.exchange)) for r in answer) if answer else []

    async def cname(self, name: str) -> str | None:
        answer = await self._ask(name, dns.rdatatype.CNAME)
        return next((_text(record.target) for record in answer), None) if answer else None

    async def names(self, address: str) -> list[str]:
        answer = await self._ask(dns.reversename.from_address(address), dns.rdatatype.PTR)
        return [_text(record.target) for record in answer] if answer else []


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower() if name != dns.name.root else ""


def _endpoint(server: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    host, _, port = server.rpartition(":") if server.count(":") == 1 or "]:" in server else (server, "", "53")
    try:
        return ipaddress.ip_address(host.strip("[]")), int(port)
    except ValueError:
        raise ConfigurationError(f"DNS_SERVERS: {server!r} is no address[:port]") from None
