"""Which addresses are of the public internet: what nobody else may make this host connect to is not.

Names that strangers choose (a webhook's host, the mail exchanger of a recipient's domain) lead where their name servers
say. Whoever connects to such a name connects to an address that was looked up once and checked here.
"""

from __future__ import annotations

import ipaddress
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# The IANA IPv4 Special-Purpose Address Registry in full, with multicast, and one address that a cloud serves inside.
_SPECIAL_V4: Final = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network (RFC 791)
        "10.0.0.0/8",  # private (RFC 1918)
        "100.64.0.0/10",  # shared, carrier-grade NAT (RFC 6598); a cloud's metadata at 100.100.100.200
        "127.0.0.0/8",  # loopback (RFC 1122)
        "169.254.0.0/16",  # link-local (RFC 3927); most clouds' metadata at 169.254.169.254
        "172.16.0.0/12",  # private (RFC 1918)
        "192.0.0.0/24",  # IETF protocol assignments (RFC 6890); a cloud's metadata at 192.0.0.192
        "192.0.2.0/24",  # documentation (RFC 5737)
        "192.31.196.0/24",  # AS112 (RFC 7535)
        "192.52.193.0/24",  # AMT (RFC 7450)
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "192.168.0.0/16",  # private (RFC 1918)
        "192.175.48.0/24",  # AS112 (RFC 7534)
        "198.18.0.0/15",  # benchmarking (RFC 2544)
        "198.51.100.0/24",  # documentation (RFC 5737)
        "203.0.113.0/24",  # documentation (RFC 5737)
        "224.0.0.0/4",  # multicast (RFC 5771)
        "240.0.0.0/4",  # reserved and broadcast (RFC 1112, RFC 8190)
        "168.63.129.16/32",  # Azure's own service, in a public range and reached from inside alone
    )
)

# IPv6 the other way round: only 2000::/3 is handed out for the internet (RFC 4291 2.4). What is not in it is refused:
# ::, ::1, v4-compatible ::/96, local NAT64 64:ff9b:1::/48 (RFC 8215), discard 100::/64, SRv6 5f00::/16 (RFC 9602),
# ULA fc00::/7, link-local fe80::/10, site-local fec0::/10, multicast ff00::/8, and whatever will be assigned.
_INTERNET_V6: Final = ipaddress.IPv6Network("2000::/3")
_SPECIAL_V6: Final = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # IETF protocol assignments (RFC 2928): Teredo 2001::/32, benchmarking, AMT, ORCHID, drone ids
        "2001:db8::/32",  # documentation (RFC 3849)
        "2002::/16",  # 6to4 (RFC 3056): carries any IPv4 address
        "2620:4f:8000::/48",  # AS112 (RFC 7534)
        "3fff::/20",  # documentation (RFC 9637)
    )
)

# Here the IPv4 address in the last 32 bits is the one that is reached, so it decides.
_CARRIES_V4: Final = (
    ipaddress.IPv6Network("::ffff:0:0/96"),  # v4-mapped (RFC 4291 2.5.5.2)
    ipaddress.IPv6Network("64:ff9b::/96"),  # NAT64 (RFC 6052): how hosts without IPv4 reach all of it
)


def is_forbidden(address: Address) -> bool:
    """Whether an address is anything but an ordinary one of the public internet.

    `ipaddress`'s `is_global` would not do: Python 3.11 calls multicast, NAT64 of loopback, 6to4 and others global.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return any(address in network for network in _SPECIAL_V4)
    if address.scope_id is not None:
        return True
    if any(address in network for network in _CARRIES_V4):
        return is_forbidden(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address not in _INTERNET_V6 or any(address in network for network in _SPECIAL_V6)
