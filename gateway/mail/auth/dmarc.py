"""DMARC (RFC 7489): whose mail it says it is, what that domain asks for, and whether a proof is about that domain."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import idna
from publicsuffixlist import PublicSuffixList

from gateway.mail import header
from gateway.mail.auth import dkim, tags

POLICIES: Final = ("none", "quarantine", "reject")


class NoAuthor(ValueError):
    """The message does not say of one domain that it is from there. Says why, for people."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What a domain asks for."""

    policy: str  # p=: none, quarantine, reject
    subdomains: str  # sp=; p= where there is none
    absent: str  # np= for names that do not exist (RFC 9091); sp= where there is none
    strict_dkim: bool  # adkim=s
    strict_spf: bool  # aspf=s
    percent: int  # pct=: told, and otherwise not heeded, for it is about what is done and not about what is true


def author(letter: dkim.Letter) -> str:
    """The domain in From, as A-labels (RFC 7489 6.6.1). Raises NoAuthor."""
    fields = letter.named(b"from")
    if len(fields) != 1:
        raise NoAuthor("there is no From field" if not fields else "there are several From fields")
    people = header.addresses(fields[0].text().replace("\r\n", ""))
    domains = {_ascii(person.address.rpartition("@")[2]) for person in people if "@" in person.address}
    if len(domains) != 1:
        raise NoAuthor("From has no address" if not domains else "From names several domains")
    [domain] = domains
    if not domain:
        raise NoAuthor("From has no domain name")
    return domain


def _ascii(domain: str) -> str:
    """Empty where it is no domain name."""
    try:
        name = domain.rstrip(".").lower()
        name = name if name.isascii() else idna.encode(name, uts46=True).decode()
    except (idna.IDNAError, UnicodeError):
        return ""
    return name if dkim.is_domain(name) else ""


def select(texts: Sequence[bytes]) -> Record | None:
    """The one DMARC record among a name's TXT records; None = there is none that counts (RFC 7489 6.6.3)."""
    found = [text for text in texts if text.startswith(b"v=DMARC1") and text[8:].lstrip()[:1] in {b";", b""}]
    if len(found) != 1:
        return None
    try:
        given = tags.parse(found[0].decode("utf-8", "replace"))
    except tags.InvalidTags:
        return None
    policy = given.get("p", "").lower()
    if policy not in POLICIES:
        if "rua" not in given:
            return None
        policy = "none"
    subdomains = _policy(given.get("sp"), policy)
    return Record(
        policy=policy,
        subdomains=subdomains,
        absent=_policy(given.get("np"), subdomains),
        strict_dkim=given.get("adkim", "r").lower() == "s",
        strict_spf=given.get("aspf", "r").lower() == "s",
        percent=_percent(given.get("pct", "100")),
    )


def _policy(given: str | None, otherwise: str) -> str:
    return given.lower() if given and given.lower() in POLICIES else otherwise


def _percent(text: str) -> int:
    return min(int(text), 100) if text.isascii() and text.isdigit() and len(text) < 4 else 100


@functools.cache
def _suffixes() -> PublicSuffixList:
    return PublicSuffixList()


@functools.lru_cache(maxsize=4096)
def organization(domain: str) -> str:
    """The organizational domain (RFC 7489 3.2), by the public suffix list; of a public suffix, itself."""
    return _suffixes().privatesuffix(domain.lower()) or domain.lower()


def is_public(domain: str) -> bool:
    """Whether strangers register their domains below this one (lower-case A-labels): com, co.uk, github.io."""
    return bool(_suffixes().is_public(domain))


def aligned(domain: str, author: str, *, strict: bool) -> bool:
    """Whether a proof for `domain` is one for `author` (RFC 7489 3.1)."""
    domain, author = domain.lower().rstrip("."), author.lower()
    return domain == author or (not strict and organization(domain) == organization(author))
