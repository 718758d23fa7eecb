"""MTA-STS (RFC 8461): what a domain says of the hosts that take its mail, and of their certificates.

A policy is asked for by name (a TXT record tells its id), fetched over https when the id is new, and kept in memory for
as long as it says. What cannot be fetched does not undo a policy that is kept.
"""

from __future__ import annotations

import collections
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeVar, cast

import httpcore2
import structlog

from gateway import signatures
from gateway.errors import Unavailable
from gateway.outbound.providers import exchangers
from gateway.resolving import NamesAway, NoSuchName, Resolver

log = structlog.get_logger(__name__)

T = TypeVar("T")

Mode = Literal["enforce", "testing", "none"]

MOST_POLICIES: Final = 10_000  # kept at once; the longest unused goes first
LONGEST_AGE: Final = 31_557_600  # seconds; RFC 8461 section 3.2
REFUSED_SECONDS: Final = 300.0  # how long a policy that could not be fetched is not asked for again (section 3.3)
CONNECT_SECONDS: Final = 5.0

_ID: Final = re.compile(rb"v=STSv1;\s*id=([A-Za-z0-9]{1,32})\s*(?:;.*)?", re.DOTALL)  # RFC 8461 section 3.1
_AGE: Final = re.compile(r"[0-9]{1,10}")


class NoPolicy(Exception):
    """What was fetched is no policy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What a domain wants."""

    mode: Mode
    max_age: int  # seconds
    mx: tuple[str, ...]  # lower case; `*.` stands for one label; empty only where the mode is `none`

    def covers(self, host: str) -> bool:
        """Whether the host is one of those listed (section 4.1)."""
        host = host.lower().rstrip(".")
        return host in self.mx or f"*.{host.partition('.')[2]}" in self.mx


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kept:
    id: bytes  # as the TXT record told it when the policy was fetched
    policy: Policy
    until: float  # by the clock


class Policies:
    """Those of all domains, as far as they were needed."""

    def __init__(self, resolver: Resolver, fetch: signatures.Fetch, *, clock: Callable[[], float] = time.time) -> None:
        self._resolver = resolver
        self._fetch = fetch
        self._clock = clock
        self._kept: collections.OrderedDict[str, _Kept] = collections.OrderedDict()
        self._refused: collections.OrderedDict[str, float] = collections.OrderedDict()  # not asked again until then

    async def policy(self, domain: str) -> Policy | None:
        """The one that holds now; None = the domain has none."""
        kept = self._unexpired(domain)
        published = await self._id(domain)
        if kept is not None and published in {None, kept.id}:
            return kept.policy
        fetched = await self._fetched(domain) if published is not None else None
        if published is None or fetched is None:  # RFC 8461 section 5: what is kept holds, though none can be had
            return None if kept is None else kept.policy
        _remember(self._kept, domain, _Kept(id=published, policy=fetched, until=self._clock() + fetched.max_age))
        return fetched

    async def _fetched(self, domain: str) -> Policy | None:
        if self._refused.get(domain, 0.0) > self._clock():
            return None
        try:
            return parse(await self._body(domain))
        except (Unavailable, NoPolicy) as error:
            log.info("no MTA-STS policy", domain=domain, reason=str(error))
            _remember(self._refused, domain, self._clock() + REFUSED_SECONDS)
            return None

    async def _id(self, domain: str) -> bytes | None:
        """None unless there is exactly one record (section 3.1)."""
        try:
            texts = await self._resolver.txt(f"_mta-sts.{domain}")
        except (NoSuchName, NamesAway):
            return None
        records = [text for text in texts if text.startswith(b"v=STSv1;")]
        found = _ID.fullmatch(records[0]) if len(records) == 1 else None
        return found and found[1]

    async def _body(self, domain: str) -> bytes:
        fetched = await self._fetch(f"https://mta-sts.{domain}/.well-known/mta-sts.txt")
        if fetched.status != 200:  # section 3.3: redirects are not followed
            raise NoPolicy(f"status {fetched.status}")
        return fetched.body

    def _unexpired(self, domain: str) -> _Kept | None:
        kept = self._kept.get(domain)
        if kept is None or kept.until <= self._clock():
            return None
        self._kept.move_to_end(domain)
        return kept


def _remember(kept: collections.OrderedDict[str, T], domain: str, value: T) -> None:
    kept[domain] = value
    kept.move_to_end(domain)
    while len(kept) > MOST_POLICIES:
        kept.popitem(last=False)


def parse(body: bytes) -> Policy:
    """A policy's text (RFC 8461 section 3.2). Raises NoPolicy."""
    try:
        lines = body.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise NoPolicy("not UTF-8") from None
    pairs = [(key.strip(), value.strip()) for key, colon, value in (line.partition(":") for line in lines) if colon]
    fields: dict[str, str] = {}
    for key, value in pairs:
        fields.setdefault(key, value)  # section 3.2: of all but mx the first counts
    mode, age = fields.get("mode"), fields.get("max_age", "")
    mx = tuple(value.lower().rstrip(".") for key, value in pairs if key == "mx")
    if fields.get("version") != "STSv1" or mode not in {"enforce", "testing", "none"} or not _AGE.fullmatch(age):
        raise NoPolicy("version, mode or max_age is wrong")
    if mode != "none" and not mx:
        raise NoPolicy("no mx")
    return Policy(mode=cast("Mode", mode), max_age=min(int(age), LONGEST_AGE), mx=mx)


class PublicConnections(httpcore2.AsyncNetworkBackend):
    """Connects to public addresses alone: the name that is asked is a stranger's."""

    def __init__(self, names: exchangers.Exchangers, *, port: int | None = None) -> None:
        """`port`: instead of the URL's, for tests."""
        self._names = names
        self._port = port
        self._plain = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        for address in await self._names.public_addresses(host):
            try:
                return await self._plain.connect_tcp(address, self._port or port, CONNECT_SECONDS, None, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        raise httpcore2.ConnectError("no public address answers")
