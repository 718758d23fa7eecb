"""Addresses: what may stand behind MAIL FROM and RCPT TO, in an API call and in a header that we write.

`parse` is strict (RFC 5321 4.1.2, with UTF-8 and IDN of RFC 6531) because an address that two programs read
differently is how mail reaches the wrong place. What other people's headers say is read by `gateway.mail.header`,
which forgives everything.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import unicodedata
from dataclasses import dataclass

import idna

MAX_LOCAL = 64  # octets, RFC 5321 4.5.3.1.1
MAX_DOMAIN = 255  # octets, RFC 5321 4.5.3.1.2
MAX_ADDRESS = 254  # octets: a path has 256 with its brackets, RFC 5321 4.5.3.1.3

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"  # RFC 5322 3.2.3
_UTEXT = _ATEXT + r"\u00a1-\ud7ff\ue000-\U0010ffff"  # RFC 6531 3.3; C1 controls stay out
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"  # RFC 5321 sub-domain, RFC 1034 label
_PLAIN = re.compile(rf"([{_ATEXT}]+(?:\.[{_ATEXT}]+)*)@((?:{_LABEL}\.)*{_LABEL})")
_DOT_ATOM = re.compile(rf"[{_UTEXT}]+(?:\.[{_UTEXT}]+)*")
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"@(.*)')
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_PAIR = re.compile(r"\\(.)")


class InvalidAddress(ValueError):
    """Not an e-mail address; the message says why, for a person."""


@dataclass(frozen=True, slots=True)
class Address:
    """One address. Made by `parse`, which has checked it; equal by what was written, so compare `canonical`."""

    local: str  # as it goes over the wire: a dot-atom, or a quoted string where it must be one
    domain: str  # as written, U-labels or A-labels; or an address literal in brackets

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}"

    @property
    def canonical(self) -> str:
        """The key under which mail for it is routed: lower-case, NFC, the domain in A-labels."""
        text = f"{self.local}@{self.domain}"
        if text.isascii():
            return text.lower()
        return f"{_fold(self.local)}@{_ascii_domain(self.domain)}"

    @property
    def ascii_domain(self) -> str:
        """The domain as DNS and SMTP servers without SMTPUTF8 know it: lower-case A-labels."""
        return self.domain.lower() if self.domain.isascii() else _ascii_domain(self.domain)

    @property
    def tag(self) -> str | None:
        """What stands behind the first '+' of the local part; None where there is none, or nothing before it."""
        base, plus, tag = _unquote(self.local).partition("+")
        return tag if base and plus else None

    @property
    def without_tag(self) -> Address:
        """The address with '+' and tag taken out; itself where it has none."""
        if self.tag is None:
            return self
        return Address(_quote(_unquote(self.local).partition("+")[0]), self.domain)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mailbox:
    """A display name and an address (RFC 5322 3.4), as callers give them and as we write them."""

    name: str | None = None  # never empty; no control characters, no comments
    address: Address


def parse(text: str, *, literals: bool = False) -> Address:
    """Read exactly one addr-spec, nothing around it. `literals` lets `user@[192.0.2.1]` in (RFC 5321 4.1.3).

    Raises InvalidAddress.
    """
    match = _PLAIN.fullmatch(text) if len(text) <= MAX_ADDRESS else None
    if match is None:
        return _parse_rare(text, literals)
    local, domain = match.groups()
    if len(local) > MAX_LOCAL or domain[-1].isdigit():
        _check(local, domain, literals)
    return Address(local, domain)


def parse_mailbox(text: str) -> Mailbox:
    """Read `a@b.c`, `<a@b.c>`, `Name <a@b.c>` or `"Name" <a@b.c>`; one mailbox only. Raises InvalidAddress."""
    if _UNPRINTABLE.search(text):
        raise InvalidAddress("control characters are not allowed")
    text = text.strip()
    if not text.endswith(">"):
        return Mailbox(address=parse(text))
    name, _, spec = text[:-1].rpartition("<")
    return Mailbox(name=_display_name(name.strip()), address=parse(spec.strip()))


def format_mailbox(mailbox: Mailbox) -> str:
    """Write it for people and API answers, such that `parse_mailbox` reads it back; not for headers."""
    if mailbox.name is None:
        return str(mailbox.address)
    if re.search(r'["\\<>@,;]', mailbox.name):
        return f'"{_escape(mailbox.name)}" <{mailbox.address}>'
    return f"{mailbox.name} <{mailbox.address}>"


def recipient(text: str, *, literals: bool = False) -> Address:
    """Read a forward or reverse path of SMTP: brackets optional, a source route dropped. Raises InvalidAddress.

    The empty path and the bare `<postmaster>` are the caller's business.
    """
    path = text
    if path.startswith("<") or path.endswith(">"):
        if not (len(path) > 1 and path[0] == "<" and path[-1] == ">"):
            raise InvalidAddress("unbalanced angle brackets")
        path = path[1:-1]
    if path.startswith("@"):  # RFC 5321 4.1.2 A-d-l and appendix C: accept and ignore
        path = _without_route(path)
    return parse(path, literals=literals)


def _without_route(path: str) -> str:
    route, colon, rest = path.partition(":")
    if not colon or not all(hop[:1] == "@" and _DOMAIN.fullmatch(hop[1:]) for hop in route.split(",")):
        raise InvalidAddress("not a source route")
    return rest


def _parse_rare(text: str, literals: bool) -> Address:
    """What the one regex of the hot path does not know: quoted and UTF-8 local parts, IDN, literals, mistakes."""
    if len(text) > MAX_LOCAL + 1 + MAX_DOMAIN:
        raise InvalidAddress("too long")
    if _UNPRINTABLE.search(text):
        raise InvalidAddress("control characters are not allowed")
    quoted = _QUOTED.fullmatch(text)
    if quoted:
        return _check(_quote(_PAIR.sub(r"\1", quoted[1])), quoted[2], literals)
    local, at, domain = text.rpartition("@")
    if not at:
        raise InvalidAddress("not an e-mail address: it has no @")
    if not _DOT_ATOM.fullmatch(local):
        raise InvalidAddress("not an e-mail address: the part before the @ is not valid")
    return _check(local, domain, literals)


def _check(local: str, domain: str, literals: bool) -> Address:
    if domain.startswith("["):
        _check_literal(domain, literals)
        ascii_domain = domain
    else:
        ascii_domain = domain if domain.isascii() else _ascii_domain(domain)
        if not _DOMAIN.fullmatch(ascii_domain) or ascii_domain.rpartition(".")[2].isdigit():
            raise InvalidAddress("not an e-mail address: the domain is not valid")
    octets = len(local.encode())
    if octets > MAX_LOCAL:
        raise InvalidAddress(f"the part before the @ is longer than {MAX_LOCAL} octets")
    if len(ascii_domain) > MAX_DOMAIN or octets + 1 + len(ascii_domain) > MAX_ADDRESS:
        raise InvalidAddress(f"longer than {MAX_ADDRESS} octets")
    return Address(local, domain)


def _check_literal(domain: str, literals: bool) -> None:
    if not literals:
        raise InvalidAddress("address literals are not accepted")
    inner = domain[1:-1]
    try:
        if not domain.endswith("]"):
            raise ValueError(domain)  # noqa: TRY301 (one answer for whatever is wrong with it)
        if inner[:5].lower() == "ipv6:":
            ipaddress.IPv6Address(inner[5:])
        else:
            ipaddress.IPv4Address(inner)
    except ValueError:
        raise InvalidAddress("not an address literal") from None


def domain_of(text: str) -> str:
    """The domain of an address as `normal_domain` has it, whatever else is wrong with it; empty where there is no @."""
    _, at, domain = text.rpartition("@")
    return normal_domain(domain) if at else ""


def normal_domain(domain: str) -> str:
    """A domain as it is compared: lower-case A-labels, no dot at the end; one that has no A-labels in lower case."""
    domain = domain.lower().rstrip(".")
    try:
        return Address(local="", domain=domain).ascii_domain
    except InvalidAddress:
        return domain


def canonical_of(text: str) -> str:
    """The canonical form of an address that was taken once, perhaps by other rules than today's: then in lower case."""
    try:
        return recipient(text, literals=True).canonical
    except InvalidAddress:
        return text.lower()


def spellings(domain: str) -> tuple[str, ...]:
    """A domain as it may have been written, in lower case: in A-labels and, where that is another, in U-labels."""
    lower = domain.lower()
    try:
        in_ascii = lower if lower.isascii() else _ascii_domain(lower)
        return tuple(dict.fromkeys((in_ascii, idna.decode(in_ascii))))
    except (idna.IDNAError, UnicodeError, InvalidAddress):  # no such name, or one that only DNS knows: a_b.example
        return (lower,)


@functools.lru_cache(maxsize=1024)
def _ascii_domain(domain: str) -> str:
    if len(domain) > MAX_DOMAIN:  # before idna, whose work grows faster than the name
        raise InvalidAddress("the domain is too long")
    try:
        return idna.encode(domain, uts46=True).decode("ascii").lower()
    except (idna.IDNAError, UnicodeError):
        raise InvalidAddress("not an e-mail address: the domain is not valid") from None


def _fold(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())  # RFC 6532 3.1


def _unquote(local: str) -> str:
    return _PAIR.sub(r"\1", local[1:-1]) if local.startswith('"') else local


def _quote(content: str) -> str:
    """The local part that means `content`: quotes only where they must be (RFC 5321 4.1.2: SHOULD avoid)."""
    return content if _DOT_ATOM.fullmatch(content) else f'"{_escape(content)}"'


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _display_name(text: str) -> str | None:
    if len(text) > 1 and text[0] == text[-1] == '"':
        inner = _QUOTED.fullmatch(text + "@")
        if inner is None:
            raise InvalidAddress("the quotes around the name are not balanced")
        return _PAIR.sub(r"\1", inner[1]).strip() or None
    if re.search("[<>]", text) or ("@" in text and re.search("[,;]", text)):
        raise InvalidAddress("exactly one address is wanted")
    return text or None
