"""Where a webhook may go: the public internet alone, whatever its URL says and its name servers answer.

    check_url     the URL itself: scheme, host, port; addresses written in it
    resolve       one look-up of the host's name, every address of the answer checked
    validate      both, for whoever creates a webhook: 422

A connection is made to an address that `resolve` returned, never to the name: a name server that answers with a public
address first and a loopback one later is asked once. Everybody who parses the URL uses the parts of `Target`; nothing
parses it a second time, so no two parsers can disagree.

Refusals of names say one thing, whether a name does not exist or leads inside: the guard is no oracle for inner names.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import httpx2

from gateway import errors, resolving
from gateway.addresses import Address, is_forbidden

__all__ = [
    "Address",
    "ForbiddenTarget",
    "Resolver",
    "Target",
    "check_url",
    "is_forbidden",
    "over_dns",
    "resolve",
    "system_resolver",
    "validate",
]

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]  # (host, port) -> addresses; OSError if there are none

URL_MAX_CHARACTERS: Final = 2048
ADDRESSES_MAX: Final = 16  # of one name; a longer answer is cut
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
# Where servers of other protocols listen, which must not be made to read a request as their own: those of mail above
# all, for what this host seemed to send would be counted against it. As browsers block them (fetch.spec.whatwg.org,
# "port blocking"), and databases besides.
_OTHER_PROTOCOLS: Final = frozenset(
    {
        *(1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109),
        *(110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530),
        *(531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3306, 3659),
        *(4045, 4190, 5060, 5061, 5432, 6000, 6379, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 11211),
    }
)
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_NUMERIC_LABEL: Final = re.compile(r"\d+|0x[0-9a-f]*")  # inet_aton reads such hosts as addresses: 127.1, 0x7f000001
_INSIDE: Final = "the host does not lead to a public address"


class ForbiddenTarget(errors.PostroomError):
    """The webhook's target is not allowed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A webhook's URL, taken apart once and for all."""

    scheme: str  # "http" or "https"
    host: str  # ASCII, lower case, no brackets, no dot at the end: a name, or an address in its usual spelling
    port: int  # 1 to 65535, the scheme's own where the URL has none
    path: str  # path and query, percent-encoded, beginning with "/"; a fragment is left out

    @property
    def authority(self) -> str:
        """The Host header (RFC 9110 7.2): the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def check_url(url: str, *, allow_private: bool) -> Target:
    """The parts of an http or https URL; ForbiddenTarget, with a message for a person, if it cannot be a target."""
    parsed = _parse(url)
    if parsed.scheme not in _DEFAULT_PORTS:
        raise ForbiddenTarget("the scheme must be http or https")
    if parsed.userinfo:
        raise ForbiddenTarget("a user name or password in the URL is not allowed")
    port = _DEFAULT_PORTS[parsed.scheme] if parsed.port is None else parsed.port
    if not 1 <= port <= 65535:
        raise ForbiddenTarget("the port must be 1 to 65535")
    if not allow_private and port in _OTHER_PROTOCOLS:
        raise ForbiddenTarget(f"port {port} belongs to another protocol")
    host = parsed.raw_host.decode("ascii").lower().removesuffix(".")
    address = _literal(host)
    if address is None:
        _check_name(host, allow_private)
    elif not allow_private and is_forbidden(address):
        raise ForbiddenTarget(_INSIDE)
    return Target(scheme=parsed.scheme, host=host, port=port, path=parsed.raw_path.decode("ascii"))


async def resolve(host: str, port: int, resolver: Resolver, *, allow_private: bool) -> list[Address]:
    """The addresses of a checked URL's host, 1 to 16 in the resolver's order, all allowed; else ForbiddenTarget.

    One forbidden address among them refuses all: who answers so is not to be trusted with the others.
    """
    addresses = await _look_up(host, port, resolver)
    if not addresses:
        raise ForbiddenTarget(_INSIDE)
    if not allow_private and any(is_forbidden(address) for address in addresses):
        raise ForbiddenTarget(_INSIDE)
    return addresses[:ADDRESSES_MAX]


async def validate(url: str, resolver: Resolver, *, allow_private: bool, field: str = "url") -> Target:
    """What somebody who creates or changes a webhook gave; ValidationFailed (422) on `field` if it cannot be one."""
    try:
        target = check_url(url, allow_private=allow_private)
        await resolve(target.host, target.port, resolver, allow_private=allow_private)
    except ForbiddenTarget as refusal:
        raise errors.invalid(field, str(refusal)) from None
    return target


def over_dns(resolver: resolving.Resolver) -> Resolver:
    """Names as the DNS has them, asked without a thread: one whose servers are silent keeps none of the others waiting.
    The hosts file is not read; what it names is inside."""

    async def look_up(host: str, port: int) -> Sequence[str]:
        try:
            return await resolver.addresses(host)
        except (resolving.NoSuchName, resolving.NamesAway):
            return []

    return look_up


async def system_resolver(host: str, port: int) -> list[str]:
    """The operating system's look-up (hosts file, then DNS), in a thread of the loop's executor."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for _family, _type, _proto, _name, sockaddr in found]


def _parse(url: str) -> httpx2.URL:
    if len(url) > URL_MAX_CHARACTERS:
        raise ForbiddenTarget(f"the URL has more than {URL_MAX_CHARACTERS} characters")
    try:
        return httpx2.URL(url)
    except (httpx2.InvalidURL, UnicodeError):
        raise ForbiddenTarget("not a valid URL") from None


def _literal(host: str) -> Address | None:
    """The address that a host is, in its one usual spelling; other spellings fall to `_check_name`."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _check_name(host: str, allow_private: bool) -> None:
    if not _HOST.fullmatch(host):
        raise ForbiddenTarget("not a valid host name")
    last = host.rpartition(".")[2]
    if _NUMERIC_LABEL.fullmatch(last):
        raise ForbiddenTarget("an address must be written as 192.0.2.1 or [2001:db8::1]")
    if last == "localhost" and not allow_private:  # RFC 6761 6.3
        raise ForbiddenTarget(_INSIDE)


async def _look_up(host: str, port: int, resolver: Resolver) -> list[Address]:
    literal = _literal(host)
    if literal is not None:
        return [literal]
    try:
        texts = await resolver(host, port)
        return list(dict.fromkeys(ipaddress.ip_address(text) for text in texts))
    except (OSError, ValueError):  # no such name; the resolver is away; an answer that is no address
        return []
