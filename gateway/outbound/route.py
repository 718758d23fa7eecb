"""Which way a message goes: the own domains stay here, everything else tries the providers of OUTBOUND in order, or
those that the first rule of OUTBOUND_ROUTES about it names.

A provider with trouble of its own is passed over for the next one, and left alone for a while by a circuit breaker.
No other verdict is a reason to try the next: a refusal is a refusal, and what may have been taken is not sent twice.

A provider that goes to each domain's own hosts never says that the trouble is its own: a domain that cannot be reached
says nothing of the others. Three of them in a row, at three hosts, with nobody reached between, are taken as a sign
that we reach nobody (port 25 closed, say). Then the next provider takes over, for the message that shows it, too: it
was not mentioned to anybody yet. Where there is none, or none that may be tried, the mail goes on as it did.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog

from gateway.mail import address
from gateway.outbound import rules
from gateway.outbound.providers.contract import AboutToCommit, Outgoing, Provider, Verdict
from gateway.outbound.standing import Way

log = structlog.get_logger(__name__)

OPEN_SECONDS: Final = 30.0  # how long a circuit stays open; then one message tries
FAILURES_TO_OPEN: Final = 5  # in a row, of those that may be one message's doing or pass by themselves
MOST_UNREACHED: Final = 100  # domains that are remembered while they are too few hosts'
DOMAINS_TO_DOUBT: Final = 3  # in a row, at as many hosts, that could not be reached
_BEFORE_MAIL: Final = frozenset({"connect", "greeting", "ehlo", "tls", "auth"})  # no message was mentioned yet

IsCustomDomain = Callable[[str], Awaitable[bool]]  # whether an account receives mail for the domain here


@dataclass(frozen=True, kw_only=True, slots=True)
class Try:
    """One provider's answer."""

    provider: str  # its name; empty where none could be tried
    verdict: Verdict


class Circuit:
    """Closed: messages pass. Open: none does. After 30 s half-open: one passes each 30 s, until one gets through.

    A fault before any message was mentioned opens it at once. Failures to reach the provider, and faults that a
    single sender may have brought about, open it when they come five times in a row: else one tenant's refused
    sender would stop everybody's mail.
    """

    def __init__(self, provider: Provider, clock: Callable[[], float]) -> None:
        self.provider = provider
        self._clock = clock
        self._failures = 0  # in a row
        self._unreached: dict[str, str] = {}  # domains that could not be reached, in a row: the host asked last
        self._open_until: float | None = None  # by the clock; None = closed

    def admits(self) -> bool:
        """Whether a message may try now. Where the circuit is half-open, asking takes the one place."""
        if self._open_until is None:
            return True
        if self._clock() < self._open_until:
            return False
        self._open_until = self._clock() + OPEN_SECONDS
        return True

    def record(self, verdict: Verdict) -> None:
        """Open or close it by what came of a message."""
        before_mail = verdict.stage is None or verdict.stage in _BEFORE_MAIL
        fault = verdict.outcome == "provider_fault"
        if not fault and not (verdict.outcome == "deferred" and before_mail):
            self._failures, self._open_until = 0, None
            return
        self._failures += 1
        if (fault and before_mail) or self._failures >= FAILURES_TO_OPEN or self._open_until is not None:
            log.warning("provider left alone", provider=self.provider.name, stage=verdict.stage, code=verdict.code)
            self._open_until = self._clock() + OPEN_SECONDS

    def record_at(self, domain: str, verdict: Verdict) -> None:
        """Open or close it by what came of a message at its domain's own hosts, where those were asked at all."""
        if verdict.stage is None:
            return
        if not _reached_nobody(verdict):
            self._unreached, self._open_until = {}, None
            return
        if not self.is_doubted:
            self._unreached[domain] = verdict.remote
            if len(self._unreached) > MOST_UNREACHED:
                del self._unreached[next(iter(self._unreached))]
        if self.is_doubted:
            log.warning("nobody is reached", provider=self.provider.name, stage=verdict.stage, code=verdict.code)
            self._open_until = self._clock() + OPEN_SECONDS

    @property
    def is_doubted(self) -> bool:
        """Whether it is open on the word of destinations alone, which may be all at fault themselves."""
        return min(len(self._unreached), len(set(self._unreached.values()))) >= DOMAINS_TO_DOUBT

    def opens_again_in(self) -> float:
        """Seconds until a message may try; 0 where one may now."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - self._clock())


class Router:
    """Knows the providers and their state in this process."""

    def __init__(
        self,
        providers: rules.Routes | Sequence[Provider],  # without rules all of them are tried in order
        own_domains: Iterable[str],  # settings.mail_domains; "*" is no domain to send to
        local: Provider,
        *,
        is_custom_domain: IsCustomDomain | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._routes = providers if isinstance(providers, rules.Routes) else rules.of_providers(providers)
        self._circuits = tuple(Circuit(provider, clock) for provider in self._routes.providers)
        self._own_domains = frozenset(address.normal_domain(domain) for domain in own_domains if domain != "*")
        self._local = Circuit(local, clock)
        self._is_custom_domain = is_custom_domain

    def ways(self, outgoing: Outgoing) -> tuple[int, ...]:
        """Positions of the providers that a message may go by, should it not stay: the same where two go alike."""
        return self._routes.ways(outgoing)

    async def providers_for(self, outgoing: Outgoing) -> tuple[Provider, ...]:
        """Those to try for a message, in order, whatever the state of their circuits."""
        return tuple(circuit.provider for circuit in await self._circuits_for(outgoing))

    async def first(self, outgoing: Outgoing) -> str | None:
        """Name of the provider it would go by now, if not a doubted one; None = it stays, or nobody may be tried."""
        circuits = await self._circuits_for(outgoing)
        doubted = [circuit for circuit in circuits if circuit.is_doubted]
        ready = [circuit for circuit in circuits if not circuit.opens_again_in() and circuit not in doubted]
        chosen = next(iter(ready or doubted), self._local)
        return None if chosen is self._local else chosen.provider.name

    async def send(self, outgoing: Outgoing, *, about_to_commit: AboutToCommit | None = None) -> tuple[Try, ...]:
        """Try the providers until one is not itself at fault; never empty, and the last one decides.

        `about_to_commit` may be awaited once for each. Where the last verdict is `provider_fault` nobody took the
        message and nobody refused it: it waits, as if deferred.
        """
        tries: list[Try] = []
        circuits = await self._circuits_for(outgoing)
        for circuit in _admitting(circuits):
            verdict = await circuit.provider.send(outgoing, about_to_commit=about_to_commit)
            self._record(circuit, outgoing, verdict)
            tries.append(Try(provider=circuit.provider.name, verdict=verdict))
            if verdict.outcome != "provider_fault" and not (circuit.is_doubted and _reached_nobody(verdict)):
                break
        return tuple(tries) or (Try(provider="", verdict=_nobody(circuits)),)

    def standing(self) -> list[Way]:
        """How each provider of OUTBOUND stands in this process."""
        return [
            Way(name=one.provider.name, state="left_alone" if wait else "ready", again_in=round(wait, 1))
            for one in self._circuits
            for wait in [one.opens_again_in()]
        ]

    async def close(self) -> None:
        """Close every provider."""
        for circuit in (*self._circuits, self._local):
            await circuit.provider.close()

    def _record(self, circuit: Circuit, outgoing: Outgoing, verdict: Verdict) -> None:
        if circuit is self._local:
            return
        if verdict.of_one_domain:
            circuit.record_at(address.domain_of(outgoing.rcpt_to), verdict)
        else:
            circuit.record(verdict)

    async def _circuits_for(self, outgoing: Outgoing) -> tuple[Circuit, ...]:
        if await self._is_own(address.domain_of(outgoing.rcpt_to)):
            return (self._local,)
        return tuple(self._circuits[position] for position in self._routes.ways(outgoing))

    async def _is_own(self, domain: str) -> bool:
        if domain in self._own_domains:
            return True
        return self._is_custom_domain is not None and await self._is_custom_domain(domain)


def _reached_nobody(verdict: Verdict) -> bool:
    """Whether a provider that goes to each domain's own hosts asked some, and none heard of the message."""
    return verdict.of_one_domain and verdict.outcome == "deferred" and verdict.stage in _BEFORE_MAIL


def _admitting(circuits: Sequence[Circuit]) -> Iterator[Circuit]:
    """Those that a message may try now, asked one after the other; else the first that is merely doubted."""
    left_alone = True
    for circuit in circuits:
        if circuit.admits():
            left_alone = False
            yield circuit
    if left_alone:
        yield from [circuit for circuit in circuits if circuit.is_doubted][:1]


def _nobody(circuits: Sequence[Circuit]) -> Verdict:
    now = datetime.now(UTC)
    wait = min((circuit.opens_again_in() for circuit in circuits), default=None)
    none = "no provider is configured for it (OUTBOUND, OUTBOUND_ROUTES)"
    reply = none if wait is None else "every provider is being left alone"
    return Verdict(outcome="deferred", reply=reply, started_at=now, finished_at=now, retry_after=wait)
