"""SPF records (RFC 7208): which TXT record is one, what stands in it, and what its macros say. No look-ups."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_VERSION: Final = re.compile(rb"v=spf1(?: |\Z)", re.IGNORECASE)  # RFC 7208 4.5
_MODIFIER: Final = re.compile(r"([A-Za-z][A-Za-z0-9._-]*)=(.*)")
_DIRECTIVE: Final = re.compile(r"([-+?~]?)(all|include|a|mx|ptr|ip4|ip6|exists)(?=[:/]|\Z)(.*)", re.IGNORECASE)
_CIDR: Final = re.compile(r"(?:/(0|[1-9]\d?))?(?://(0|[1-9]\d{0,2}))?\Z")
_NETWORK: Final = re.compile(r":([^/]+)(?:/(0|[1-9]\d{0,2}))?")
_MACRO: Final = re.compile(r"%(?:([%_-])|\{([A-Za-z])(\d*)(r?)([-.+,/_=]*)\})", re.IGNORECASE)
_TOP_LABEL: Final = re.compile(r"(?=.*[A-Za-z-])[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")  # RFC 7208 7.1
_LETTERS: Final = "slodiphv"  # c, r and t are for explanations alone
_LITERALS: Final = {"%": "%", "_": " ", "-": "%20"}
MAX_NAME: Final = 253  # characters of a name; longer expansions lose labels at their left (RFC 7208 7.3)
MAX_LABEL: Final = 63


class InvalidRecord(ValueError):
    """There is a record, and it cannot be read: permerror. Says why, for people."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mechanism:
    """One directive of a record."""

    qualifier: str  # + - ~ ?
    name: str  # all, include, a, mx, ptr, ip4, ip6, exists
    domain: str = ""  # domain-spec, macros not yet expanded; empty = the domain in question
    network: IPNetwork | None = None  # of ip4 and ip6
    prefix4: int = 32  # of a and mx
    prefix6: int = 128  # of a and mx


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What a domain publishes."""

    mechanisms: tuple[Mechanism, ...]
    redirect: str = ""  # domain-spec; empty = none
    explanation: str = ""  # domain-spec of exp=, which nobody here asks for; empty = none


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What macros are made of."""

    ip: IPAddress  # of the client; v4 where it came mapped into v6
    local_part: str  # of the sender
    sender_domain: str  # of the sender
    helo: str


def select(texts: Sequence[bytes]) -> bytes | None:
    """The one SPF record among a name's TXT records (RFC 7208 4.5); None = there is none. Raises InvalidRecord."""
    found = [text for text in texts if _VERSION.match(text)]
    if len(found) > 1:
        raise InvalidRecord("more than one SPF record")
    return found[0] if found else None


def parse(text: bytes) -> Record:
    """Raises InvalidRecord."""
    try:
        terms = text.decode("ascii").split(" ")[1:]
    except UnicodeDecodeError:
        raise InvalidRecord("not ASCII") from None
    mechanisms: list[Mechanism] = []
    modifiers: dict[str, str] = {}
    for term in filter(None, terms):
        modifier = _MODIFIER.fullmatch(term)
        if modifier is None:
            mechanisms.append(_mechanism(term))
        else:
            _modify(modifiers, modifier[1].lower(), modifier[2])
    return Record(
        mechanisms=tuple(mechanisms),
        redirect=modifiers.get("redirect", ""),
        explanation=modifiers.get("exp", ""),
    )


def _modify(modifiers: dict[str, str], name: str, value: str) -> None:
    if name not in {"redirect", "exp"}:
        _check_macros(value)
        return
    if name in modifiers:
        raise InvalidRecord(f"{name}= stands twice")
    _check_domain(value, f"{name}=")
    modifiers[name] = value


def _mechanism(term: str) -> Mechanism:
    match = _DIRECTIVE.fullmatch(term)
    if match is None:
        raise InvalidRecord(f"unknown mechanism {term[:60]!r}")
    qualifier, name, rest = match[1] or "+", match[2].lower(), match[3]
    if name == "all":
        if rest:
            raise InvalidRecord("all takes nothing")
        return Mechanism(qualifier=qualifier, name=name)
    if name in {"ip4", "ip6"}:
        return Mechanism(qualifier=qualifier, name=name, network=_network(name, rest))
    prefix4, prefix6 = 32, 128
    if name in {"a", "mx"}:
        rest, prefix4, prefix6 = _prefixes(rest)
    if rest or name in {"include", "exists"}:
        if not rest.startswith(":"):
            raise InvalidRecord(f"{name} without a domain")
        _check_domain(rest[1:], name)
    return Mechanism(qualifier=qualifier, name=name, domain=rest[1:], prefix4=prefix4, prefix6=prefix6)


def _network(name: str, rest: str) -> IPNetwork:
    match = _NETWORK.fullmatch(rest)
    if match is None:
        raise InvalidRecord(f"{name}{rest[:60]}: not a network")
    address, prefix = match[1], match[2]
    try:
        if name == "ip4":
            return ipaddress.IPv4Network((ipaddress.IPv4Address(address), int(prefix or 32)), strict=False)
        return ipaddress.IPv6Network((ipaddress.IPv6Address(address), int(prefix or 128)), strict=False)
    except ValueError:
        raise InvalidRecord(f"{name}{rest[:60]}: not a network") from None


def _prefixes(rest: str) -> tuple[str, int, int]:
    match = _CIDR.search(rest)
    assert match is not None  # noqa: S101 - it matches the empty end, too
    four, six = int(match[1] or 32), int(match[2] or 128)
    if four > 32 or six > 128:
        raise InvalidRecord("no such prefix length")
    return rest[: match.start()], int(match[1]) if match[1] else 32, int(match[2]) if match[2] else 128


def _check_domain(spec: str, what: str) -> None:
    """RFC 7208 7.1: domain-spec = macro-string, and it ends in a top label or in a macro."""
    last = _check_macros(spec)
    if last < len(spec):
        label = spec.removesuffix(".").rpartition(".")
        if not label[1] or last > len(label[0]) + 1 or not _TOP_LABEL.fullmatch(label[2]):
            raise InvalidRecord(f"{what}: {spec[:60]!r} is not a domain")
    elif not spec or not spec.endswith("}"):
        raise InvalidRecord(f"{what}: {spec[:60]!r} is not a domain")


def _check_macros(text: str) -> int:
    """Where the last macro ends; 0 = there is none."""
    end = 0
    for match in _MACRO.finditer(text):
        _check_literal(text[end : match.start()])
        if match[2] and (match[2].lower() not in _LETTERS or (match[3] and not int(match[3]))):
            raise InvalidRecord(f"no such macro: {match[0]}")
        end = match.end()
    _check_literal(text[end:])
    return end


def _check_literal(text: str) -> None:
    if "%" in text or not all("!" <= char <= "~" for char in text):
        raise InvalidRecord(f"{text[:60]!r} holds what is no macro")


def needs_name(spec: str) -> bool:
    """Whether the client's validated name (p) must be known to expand it."""
    return any((match[2] or "").lower() == "p" for match in _MACRO.finditer(spec))


def expand(spec: str, question: Question, domain: str, *, name: str = "unknown") -> str:
    """A domain-spec's domain. `domain`: the one in question; `name`: the client's validated name (RFC 7208 7.3)."""

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return _LITERALS[match[1]]
        raw = _LETTER[match[2].lower()](question, domain, name)
        parts = re.split("[" + re.escape(match[5] or ".") + "]", raw)
        if match[4]:
            parts.reverse()
        kept = ".".join(parts[-int(match[3]) :] if match[3] else parts)
        return urllib.parse.quote(kept, safe="-._~") if match[2].isupper() else kept

    return _shortened(_MACRO.sub(value, spec).removesuffix("."))


_LETTER: Final[dict[str, Callable[[Question, str, str], str]]] = {
    "s": lambda q, _domain, _name: f"{q.local_part}@{q.sender_domain}",
    "l": lambda q, _domain, _name: q.local_part,
    "o": lambda q, _domain, _name: q.sender_domain,
    "d": lambda _q, domain, _name: domain,
    "i": lambda q, _domain, _name: _dotted(q.ip),
    "p": lambda _q, _domain, name: name,
    "h": lambda q, _domain, _name: q.helo,
    "v": lambda q, _domain, _name: "in-addr" if q.ip.version == 4 else "ip6",
}


def _dotted(ip: IPAddress) -> str:
    return str(ip) if ip.version == 4 else ".".join(ip.exploded.replace(":", ""))


def _shortened(name: str) -> str:
    while len(name) > MAX_NAME and "." in name:
        name = name.partition(".")[2]
    return name


def is_domain(name: str) -> bool:
    """Whether check_host can be asked about it (RFC 7208 4.3): several labels, none empty or too long."""
    labels = name.removesuffix(".").split(".")
    return (
        len(labels) > 1
        and len(name) <= MAX_NAME
        and all(0 < len(label) <= MAX_LABEL for label in labels)
        and "[" not in name
        and name.isascii()
    )
