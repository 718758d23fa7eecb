"""The rules of OUTBOUND_ROUTES: which providers a message goes by, whom it is for, from whom, and with which tags.

    to:*.example.com=relay,backup     recipients below example.com: relay, and where that is at fault backup
    from:acme.example=mailgun         the address in From is at acme.example
    tag:newsletter=bulk               one of its tags has this name, this value, or is it as name:value
    from:acme.example&to:*=relay      all of them must fit

Spaces part the rules, and the first that fits decides; where none does, all of OUTBOUND that is not `only=routed` is
tried in its order. Rules speak of a provider by its `name=`, or by its URL's scheme where only one has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.errors import ConfigurationError
from gateway.mail import address
from gateway.outbound.providers import urls
from gateway.outbound.providers.contract import Outgoing, Provider
from gateway.resolving import Resolver
from gateway.settings import Settings

_TAG = re.compile(r"[A-Za-z0-9_-]{1,256}(?::[A-Za-z0-9_-]{1,256})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """One thing that a rule asks."""

    kind: str  # to, from, tag
    pattern: str  # domain in lower-case A-labels, below one as *.domain, or *; of a tag as it is written

    def fits(self, outgoing: Outgoing) -> bool:
        """Whether it is so."""
        return _FITS[self.kind](outgoing, self.pattern)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What must fit, and where the message goes then."""

    conditions: tuple[Condition, ...]  # all of them; at least one
    ways: tuple[int, ...]  # positions in OUTBOUND, in the order in which they are tried; at least one

    def fits(self, outgoing: Outgoing) -> bool:
        """Whether it is about this message."""
        return all(condition.fits(outgoing) for condition in self.conditions)

    @property
    def is_for_all(self) -> bool:
        """Whether nothing gets past it."""
        return all(one.pattern == "*" and one.kind == "to" for one in self.conditions)


@dataclass(frozen=True, kw_only=True, slots=True)
class Routes:
    """The providers of OUTBOUND, and which of them a message tries."""

    providers: tuple[Provider, ...]  # in OUTBOUND's order
    rules: tuple[Rule, ...] = ()  # the first that fits decides
    unrouted: tuple[int, ...]  # positions of those that take what no rule is about

    def ways(self, outgoing: Outgoing) -> tuple[int, ...]:
        """Positions of the providers to try, in order; empty where nobody takes such a message."""
        return next((rule.ways for rule in self.rules if rule.fits(outgoing)), self.unrouted)


def of_providers(providers: Sequence[Provider]) -> Routes:
    """All of them for every message."""
    return Routes(providers=tuple(providers), unrouted=tuple(range(len(providers))))


def read(settings: Settings, resolver: Resolver | None = None) -> Routes:
    """Those of OUTBOUND and OUTBOUND_ROUTES. ConfigurationError says what is wrong with them."""
    ways = [urls.way(url, settings, resolver) for url in settings.outbound]
    called = _names(ways)
    rules = tuple(_rule(word, called) for word in settings.outbound_routes)
    unrouted = tuple(position for position, way in enumerate(ways) if not way.only_routed)
    if ways and not unrouted and not any(rule.is_for_all for rule in rules):
        raise ConfigurationError(
            "OUTBOUND: every provider is only=routed, so that mail that no rule of OUTBOUND_ROUTES is about could "
            "never leave: end the rules with one such as to:*=name, or take only=routed from a provider"
        )
    return Routes(providers=tuple(way.provider for way in ways), rules=rules, unrouted=unrouted)


def _names(ways: Sequence[urls.Way]) -> dict[str, list[int]]:
    """Positions by what rules may call them; more than one where nobody can tell which is meant."""
    called: dict[str, list[int]] = {}
    for position, way in enumerate(ways):
        called.setdefault(way.name or way.scheme, []).append(position)
    given = [way.name for way in ways if way.name]
    if twice := next((name for name in given if len(called[name]) > 1), None):
        raise ConfigurationError(f"OUTBOUND: two providers are called {twice}")
    return called


def _rule(word: str, called: dict[str, list[int]]) -> Rule:
    asked, equals, names = word.partition("=")
    if not equals or not names:
        raise _wrong(word, "a rule is to:domain=name, from:domain=name or tag:tag=name, several names with commas")
    conditions = tuple(_condition(word, text) for text in asked.split("&"))
    ways = tuple(_position(word, name, called) for name in names.split(","))
    if len(set(ways)) != len(ways):
        raise _wrong(word, "a provider is named twice")
    return Rule(conditions=conditions, ways=ways)


def _condition(word: str, text: str) -> Condition:
    kind, _, pattern = text.partition(":")
    if kind not in _FITS or not pattern:
        raise _wrong(word, "what it asks for begins with to:, from: or tag:")
    if kind == "tag":
        if not _TAG.fullmatch(pattern):
            raise _wrong(word, "a tag is letters, digits, _ and -, or two such words with : between")
        return Condition(kind=kind, pattern=pattern)
    return Condition(kind=kind, pattern=_domain_pattern(word, pattern))


def _domain_pattern(word: str, pattern: str) -> str:
    if pattern == "*":
        return pattern
    star = "*." if pattern.startswith("*.") else ""
    domain = address.normal_domain(pattern.removeprefix("*."))
    try:
        address.parse(f"x@{domain}")
    except address.InvalidAddress:
        raise _wrong(word, "not a domain; there are example.com, *.example.com (all below it) and *") from None
    return star + domain


def _position(word: str, name: str, called: dict[str, list[int]]) -> int:
    positions = called.get(name, [])
    if not positions:
        known = ", ".join(sorted(called)) or "none"
        raise _wrong(word, f"no provider of OUTBOUND is called {name!r}; there are: {known}")
    if len(positions) > 1:
        raise _wrong(word, f"{len(positions)} providers of OUTBOUND are {name}://: give them names with ?name=")
    return positions[0]


def _wrong(word: str, what: str) -> ConfigurationError:
    return ConfigurationError(f"OUTBOUND_ROUTES: {word}: {what}")


def _domain_fits(domain: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return domain.endswith(pattern[1:])
    return pattern in {"*", domain}


def _to(outgoing: Outgoing, pattern: str) -> bool:
    return _domain_fits(address.domain_of(outgoing.rcpt_to), pattern)


def _from(outgoing: Outgoing, pattern: str) -> bool:
    return _domain_fits(address.domain_of(outgoing.author or outgoing.mail_from), pattern)


def _tag(outgoing: Outgoing, pattern: str) -> bool:
    return any(pattern in {name, value, f"{name}:{value}"} for name, value in outgoing.tags)


_FITS: Final[dict[str, Callable[[Outgoing, str], bool]]] = {"to": _to, "from": _from, "tag": _tag}
