"""Provider `mx`: straight to the hosts that take the recipient's mail.

They are tried in their order until one has an opinion: it took the mail, refused it for good, or was sent the body.
What ends before that (nobody there, 4yz, no TLS that will do) is a reason to ask the next one (RFC 5321 section 5.1).
What ends after it never is: the mail may have been taken.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import random
import ssl
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from gateway import authorities
from gateway.outbound.providers import exchangers, replies, smtp, smtp_session, sts
from gateway.outbound.providers.contract import AboutToCommit, Health, Outcome, Outgoing, Verdict

MOST_FOUND: Final = 10_000  # domains whose hosts are believed
MOST_PEERS: Final = 64  # hosts to which connections are kept at once; the longest unused goes first

_BEFORE_MAIL: Final = frozenset({"connect", "greeting", "ehlo", "tls"})
_FINAL: Final = frozenset({"data", "dot"})  # stages after which no other host is asked: the body may be on its way


@dataclass(frozen=True, kw_only=True, slots=True)
class Direct:
    """How to speak with the hosts."""

    hostname: str  # said in EHLO; ASCII
    port: int  # 25, but in tests
    connections: int  # to one address, at once
    step_seconds: float  # for each reply but the last
    dot_seconds: float  # for the reply to the final dot
    believed_seconds: float = 3.0  # what was found of a domain
    trusted: ssl.SSLContext = field(default_factory=authorities.for_smtp)  # for MTA-STS; the system's authorities


@dataclass(frozen=True, slots=True)
class _Peer:
    host: str
    address: str
    tls: smtp_session.Tls  # starttls = with a certificate that is good for the host


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """What was found of a domain."""

    hosts: tuple[exchangers.Host, ...]  # not empty
    tls: smtp_session.Tls
    until: float  # monotonic time; so long it is believed


class MxProvider:
    """Delivers to any domain."""

    name = "mx"

    def __init__(self, direct: Direct, hosts: exchangers.Exchangers, policies: sts.Policies) -> None:
        self._direct = direct
        self._hosts = hosts
        self._policies = policies
        self._pools: collections.OrderedDict[_Peer, smtp.SmtpProvider] = collections.OrderedDict()
        self._farewells: set[asyncio.Task[None]] = set()  # pools that close
        self._found: collections.OrderedDict[str, _Found] = collections.OrderedDict()

    async def send(self, outgoing: Outgoing, *, about_to_commit: AboutToCommit | None = None) -> Verdict:
        """Ask one host after the other; the verdict is that of the last one asked, with all dialogues."""
        journey = _Journey()
        try:
            sayable = smtp_session.sayable(outgoing)
            peers = await self._peers(sayable.rcpt_to.rpartition("@")[2].lower())
        except smtp_session.DialogueError as ended:
            return journey.nowhere(ended.outcome or "failed", ended.text)
        except exchangers.NoWayThere as no_way:
            return journey.nowhere(no_way.outcome, no_way.text, no_way.enhanced)
        for peer in peers[:-1]:
            verdict = journey.add(await self._ask(peer, sayable, about_to_commit, journey))
            if verdict.outcome != "deferred" or verdict.stage in _FINAL:
                return journey.whole(verdict)
        return journey.whole(journey.add(await self._ask(peers[-1], sayable, about_to_commit, journey)))

    async def examine(self, domain: str) -> Health:
        """Whether a host that takes the domain's mail can be reached, and how: EHLO and STARTTLS, then QUIT."""
        try:
            peers = await self._peers(domain)
        except exchangers.NoWayThere as no_way:
            return Health(standing="unwell", said=f"{domain}: {no_way.text}")
        for peer in peers[:-1]:
            health = await self._pool(peer).examine()
            if health.standing == "well":
                return health
        return await self._pool(peers[-1]).examine()

    async def close(self) -> None:
        """Say QUIT on what is kept."""
        while self._pools:
            self._let_go(self._pools.popitem()[1])
        await asyncio.gather(*self._farewells)

    async def _peers(self, domain: str) -> list[_Peer]:
        """Addresses in the order in which they are asked, equal hosts in another each time (RFC 5321 section 5.1);
        NoWayThere."""
        found = await self._looked_up(domain)
        hosts = sorted(random.sample(found.hosts, len(found.hosts)), key=lambda host: host.preference)
        return [_Peer(host.name, address, found.tls) for host in hosts for address in host.addresses]

    async def _looked_up(self, domain: str) -> _Found:
        """Believed for a moment: mail after mail asks for the same."""
        now = time.monotonic()
        found = self._found.get(domain)
        if found is None or found.until <= now:
            found = await self._look_up(domain, until=now + self._direct.believed_seconds)
            self._found[domain] = found
            self._found.move_to_end(domain)
            if len(self._found) > MOST_FOUND:
                self._found.popitem(last=False)
        return found

    async def _look_up(self, domain: str, until: float) -> _Found:
        hosts = await self._hosts.find(domain)
        policy = await self._policies.policy(domain)
        enforced = policy is not None and policy.mode == "enforce"
        if policy is not None and enforced:
            hosts = [host for host in hosts if policy.covers(host.name)]  # RFC 8461 section 4.1
        if not hosts:
            raise exchangers.NoWayThere("deferred", "4.7.5", "its MTA-STS policy lists none of its mail exchangers")
        return _Found(hosts=tuple(hosts), tls="starttls" if enforced else "opportunistic", until=until)

    async def _ask(
        self, peer: _Peer, outgoing: Outgoing, about_to_commit: AboutToCommit | None, journey: _Journey
    ) -> Verdict:
        verdict = await self._pool(peer).send(outgoing, about_to_commit=about_to_commit)
        if peer.tls != "opportunistic" or verdict.stage != "tls":
            return verdict
        journey.add(verdict)  # RFC 7435: no TLS is no worse than what anybody on the line can bring about
        return await self._pool(dataclasses.replace(peer, tls="none")).send(outgoing, about_to_commit=about_to_commit)

    def _pool(self, peer: _Peer) -> smtp.SmtpProvider:
        pool = self._pools.get(peer)
        if pool is None:
            relay = self._relay(peer)
            pool = smtp.SmtpProvider(relay, context=self._direct.trusted if relay.verify else None)
            self._pools[peer] = pool
        self._pools.move_to_end(peer)
        while len(self._pools) > MOST_PEERS:
            self._let_go(self._pools.popitem(last=False)[1])
        return pool

    def _relay(self, peer: _Peer) -> smtp_session.Relay:
        return smtp_session.Relay(
            host=peer.host,
            address=peer.address,
            port=self._direct.port,
            tls=peer.tls,
            verify=peer.tls == "starttls",
            username=None,
            password="",
            local_hostname=self._direct.hostname,
            connections=self._direct.connections,
            step_seconds=self._direct.step_seconds,
            dot_seconds=self._direct.dot_seconds,
        )

    def _let_go(self, pool: smtp.SmtpProvider) -> None:
        farewell = asyncio.get_running_loop().create_task(pool.close())
        self._farewells.add(farewell)
        farewell.add_done_callback(self._farewells.discard)


class _Journey:
    """The hosts that were asked, and what they said."""

    def __init__(self) -> None:
        self._started_at = datetime.now(UTC)
        self._transcript: list[str] = []

    def add(self, verdict: Verdict) -> Verdict:
        """One host's, as what it means for the recipient."""
        self._transcript += verdict.transcript
        return dataclasses.replace(verdict, outcome=_outcome(verdict))

    def whole(self, last: Verdict) -> Verdict:
        """The last one, for all."""
        return dataclasses.replace(
            last, started_at=self._started_at, transcript=tuple(self._transcript), of_one_domain=True
        )

    def nowhere(self, outcome: Outcome, text: str, enhanced: str | None = None) -> Verdict:
        """Nobody was asked."""
        return Verdict(
            outcome=outcome,
            reply=replies.one_line(f"{enhanced} {text}" if enhanced else text),
            started_at=self._started_at,
            finished_at=datetime.now(UTC),
            enhanced=enhanced,
            of_one_domain=True,
        )


def _outcome(verdict: Verdict) -> Outcome:
    """What a relay's words mean where it is no relay of ours but the recipient's own host."""
    if verdict.outcome == "sent":
        return "delivered"
    if verdict.outcome != "provider_fault":
        return verdict.outcome
    if verdict.stage in _BEFORE_MAIL or verdict.code is None or verdict.code < 500:
        return "deferred"
    if verdict.code == replies.OUT_OF_SEQUENCE:
        return "deferred"
    return "failed" if verdict.stage == "mail" else "bounced"
