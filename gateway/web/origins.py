"""Where a request came from: the client's address, behind load balancers that are trusted to tell it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from starlette.types import Scope

from gateway.models import Caller, Origin

Networks = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]


def of(scope: Scope, caller: Caller | None, trusted: Networks) -> Origin:
    """Who calls, and from where."""
    return Origin(key_id=caller.key_id if caller is not None else None, remote_ip=remote_ip(scope, trusted))


def remote_ip(scope: Scope, trusted: Networks) -> str:
    """The address of the connection; of `trusted` ones, what they say in X-Forwarded-For. Empty = not known.

    The field grows to the right: what stands left of an untrusted address is that client's own invention."""
    found = ""
    for text in _from_near_to_far(scope):
        address = _parsed(text)
        if address is None:
            break
        found = str(address)
        if not any(address in network for network in trusted):
            break
    return found


def comes_through_a_stranger(scope: Scope, trusted: Networks) -> bool:
    """Whether a proxy inside asks for somebody else whom it may not tell: all of the world has its one address then."""
    peer = _parsed((scope.get("client") or ("",))[0])
    if peer is None or not peer.is_private or any(peer in network for network in trusted):
        return False
    return any(name == b"x-forwarded-for" for name, _ in scope["headers"])


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IPv4 address as itself also where a socket for IPv6 has it (RFC 4291 2.5.5.2); None = it is no address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _from_near_to_far(scope: Scope) -> Iterator[str]:
    client = scope.get("client")
    if not client:
        return
    yield client[0]
    fields = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
    for value in reversed(b",".join(fields).decode("latin-1").split(",")):
        yield value.strip()
