"""The PROXY protocol, versions 1 and 2: what a load balancer says of its client before the client's first byte.

Only bytes are read here (haproxy.org/download/3.0/doc/proxy-protocol.txt). Who is to be believed is the listener's
business; how the bytes are fetched, one header and not a byte more, is the doorway's.
"""

from __future__ import annotations

import ipaddress
from typing import Final

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"  # of version 2, section 2.2
LINE_BYTES: Final = 107  # longest line of version 1, section 2.1
SHORTEST_LINE: Final = 15  # b"PROXY UNKNOWN\r\n"
FIXED_BYTES: Final = 16  # of version 2, before the addresses
MAX_BYTES: Final = 4096  # longest header of version 2 that is taken; the addresses' 216 and TLVs
_WORD: Final = b"PROXY "
_LOCAL: Final = 0x20
_PROXY: Final = 0x21
_UNIX_BYTES: Final = 216
_UNSPECIFIED: Final = 0

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Malformed(Exception):
    """Not a PROXY header, and not the beginning of one."""


def is_trusted(proxies: tuple[Network, ...], address: str) -> bool:
    """Whether the peer at `address` (may be empty) is one of these."""
    if not proxies or not address:
        return False
    peer = ipaddress.ip_address(address)
    return any(peer in network for network in proxies)


def missing(header: bytes) -> int:
    """How many bytes the header wants at least; 0 where it is whole. Reading as many never reads past its end."""
    if not header:
        return SHORTEST_LINE
    if _WORD.startswith(header[: len(_WORD)]):
        return _missing_of_line(header)
    if SIGNATURE.startswith(header[: len(SIGNATURE)]):
        return _missing_of_binary(header)
    raise Malformed


def source(header: bytes) -> str | None:
    """The client's address in a whole header; None where the connection is the proxy's own, or has no IP address."""
    return _source_of_line(header) if header.startswith(_WORD) else _source_of_binary(header)


def _missing_of_line(header: bytes) -> int:
    if header.endswith(b"\r\n"):
        return 0
    if b"\n" in header or len(header) >= LINE_BYTES - 1:
        raise Malformed
    if len(header) < SHORTEST_LINE:
        return SHORTEST_LINE - len(header)
    return 1 if header.endswith(b"\r") else 2


def _missing_of_binary(header: bytes) -> int:
    if len(header) < FIXED_BYTES:
        return FIXED_BYTES - len(header)
    if header[12] not in {_LOCAL, _PROXY}:
        raise Malformed
    whole = FIXED_BYTES + int.from_bytes(header[14:16], "big")
    if whole > MAX_BYTES:
        raise Malformed
    return whole - len(header)


def _source_of_line(header: bytes) -> str | None:
    try:
        words = header.decode("ascii").removesuffix("\r\n").split(" ")
    except UnicodeDecodeError:
        raise Malformed from None
    if words[1] == "UNKNOWN":  # whatever follows is to be ignored
        return None
    if len(words) != 6 or words[1] not in {"TCP4", "TCP6"}:
        raise Malformed
    for port in words[4:]:
        _check_port(port)
    client, _ = (_address(word, words[1]) for word in words[2:4])
    return client


def _check_port(word: str) -> None:
    if not word.isdigit() or str(int(word[:6])) != word or int(word) > 65535:
        raise Malformed


def _address(word: str, family: str) -> str:
    try:
        if family == "TCP4":
            return str(ipaddress.IPv4Address(word))
        if "%" in word:
            raise Malformed
        return _plain(ipaddress.IPv6Address(word))
    except ValueError:
        raise Malformed from None


def _source_of_binary(header: bytes) -> str | None:
    family, transport = header[13] >> 4, header[13] & 15
    if header[12] == _LOCAL or _UNSPECIFIED in {family, transport}:
        return None
    addresses = header[FIXED_BYTES:]  # TLVs may follow; they are not looked at
    match header[13]:
        case 0x11 if len(addresses) >= 12:
            return str(ipaddress.IPv4Address(addresses[:4]))
        case 0x21 if len(addresses) >= 36:
            return _plain(ipaddress.IPv6Address(addresses[:16]))
        case 0x31 if len(addresses) >= _UNIX_BYTES:
            return None
    raise Malformed  # datagrams are no mail; other families must be dropped (section 2.2)


def _plain(address: ipaddress.IPv6Address) -> str:
    """An IPv4 address also where it was written as an IPv6 one."""
    return str(address.ipv4_mapped or address)
