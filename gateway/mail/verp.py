"""Return paths that tell which delivery a bounce is about, and that nobody else can make up.

    bounces+<26 characters: the delivery's id><16 characters: 80 bits of an HMAC>@<a return domain>

Variable envelope return paths: one for each recipient. The id is no secret, the HMAC makes it a proof: whoever sends
to such an address has seen a mail of ours to that recipient (or is a server on its way). Anything else at
`bounces+…` is somebody's invention. Base32 without case, since servers change it; 51 octets before the @, where RFC
5321 4.5.3.1.1 allows 64.

There is one return domain for all mail, and others of tenants' own, for mail from their domains. The HMAC is over the
domain, too: a path of one is none at another, and a path that is genuine was given out at the domain where it stands.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import re
from typing import Final
from uuid import UUID

from gateway import tokens

LOCAL: Final = "bounces"
MAC_BYTES: Final = 10  # 80 bits: a guess must be sent as a mail, one at a time
MAX_DOMAIN: Final = 254 - 51  # octets: with its brackets a path has at most 256 (RFC 5321 4.5.3.1.3)
COMPLAINTS: Final = "complaints"  # the address at the usual domain that feedback loops are registered with
MAX_LOOKED_AT: Final = 20  # paths in one mail
_TOKEN: Final = re.compile(r"[a-z2-7]{26}[a-z2-7]{16}")


class ReturnPaths:
    """Makes and checks return paths."""

    __slots__ = ("_keys", "domain")

    def __init__(self, keyring: tokens.Keyring, domain: str) -> None:
        """`domain`: of those that name no other; lower-case A-labels; mail for it comes here."""
        self._keys = [one.derive("return-path") for one in (keyring, *keyring.previous)]  # made with the first
        self.domain = domain

    def address(self, delivery_id: UUID, domain: str = "") -> str:
        """Where bounces of this delivery go; `domain`: another than usual, lower-case A-labels."""
        domain = domain or self.domain
        return f"{LOCAL}+{_token(self._keys[0], delivery_id, domain)}@{domain}"

    def is_ours(self, address: str) -> bool:
        """Whether it looks like one of the usual domain; says nothing of whether it is."""
        local, _, domain = address.lower().rpartition("@")
        return domain == self.domain and local.startswith(f"{LOCAL}+")

    def delivery(self, address: str) -> UUID | None:
        """Which delivery it is about; None where such an address was never given out. Letters' case is free."""
        local, _, domain = address.lower().rpartition("@")
        prefix, _, token = local.partition("+")
        if prefix != LOCAL or not _TOKEN.fullmatch(token):
            return None
        delivery_id = UUID(bytes=base64.b32decode(token[:26].upper() + "=" * 6))
        made = (_token(key, delivery_id, domain) for key in self._keys)
        return delivery_id if any(hmac.compare_digest(token, one) for one in made) else None

    def named(self, raw: bytes) -> UUID | None:
        """The delivery of the first path in a mail that is genuine: complaints name it, or return its mail's header."""
        found = dict.fromkeys(one[0].lower() for one in itertools.islice(_ANYWHERE.finditer(raw), MAX_LOOKED_AT))
        return next(filter(None, (self.delivery(path.decode().rstrip(".-")) for path in found)), None)


def _token(key: bytes, delivery_id: UUID, domain: str) -> str:
    mac = hmac.digest(key, delivery_id.bytes + domain.encode(), hashlib.sha256)
    return _base32(delivery_id.bytes) + _base32(mac[:MAC_BYTES])


_ANYWHERE: Final = re.compile(rb"bounces\+[a-z2-7]{42}@[a-z0-9.-]{1,203}", re.IGNORECASE)


def own_domain(name: str) -> str:
    """The return domain of a tenant's domain."""
    return f"{LOCAL}.{name}"


def _base32(octets: bytes) -> str:
    return base64.b32encode(octets).decode("ascii").rstrip("=").lower()
