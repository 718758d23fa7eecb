"""Return paths that tell which delivery a bounce is about, and that nobody else can make up.

    bounces+<26 characters: the delivery's id><16 characters: 80 bits of an HMAC>@<return domain>

Variable envelope return paths: one for each recipient. The id is no secret, the HMAC makes it a proof: whoever sends
to such an address has seen a mail of ours to that recipient (or is a server on its way). Anything else at
`bounces+…` is somebody's invention. Base32 without case, since servers change it; 51 octets before the @, where RFC
5321 4.5.3.1.1 allows 64.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Final
from uuid import UUID

from gateway import tokens

LOCAL: Final = "bounces"
MAC_BYTES: Final = 10  # 80 bits: a guess must be sent as a mail, one at a time
_TOKEN: Final = re.compile(r"[a-z2-7]{26}[a-z2-7]{16}")


class ReturnPaths:
    """Makes and checks the return paths of one domain."""

    __slots__ = ("_domain", "_key")

    def __init__(self, keyring: tokens.Keyring, domain: str) -> None:
        """`domain`: lower-case A-labels; mail for it comes here."""
        self._key = keyring.derive("return-path")
        self._domain = domain

    def address(self, delivery_id: UUID) -> str:
        """Where bounces of this delivery go."""
        return f"{LOCAL}+{self._token(delivery_id)}@{self._domain}"

    def is_ours(self, address: str) -> bool:
        """Whether it looks like one; says nothing of whether it is."""
        local, _, domain = address.lower().rpartition("@")
        return domain == self._domain and local.startswith(f"{LOCAL}+")

    def delivery(self, address: str) -> UUID | None:
        """Which delivery it is about; None where this domain never gave out such an address. Letters' case is free."""
        if not self.is_ours(address):
            return None
        token = address.lower().rpartition("@")[0].removeprefix(f"{LOCAL}+")
        if not _TOKEN.fullmatch(token):
            return None
        delivery_id = UUID(bytes=base64.b32decode(token[:26].upper() + "=" * 6))
        return delivery_id if hmac.compare_digest(token, self._token(delivery_id)) else None

    def _token(self, delivery_id: UUID) -> str:
        """The HMAC is over the domain, too: a path of one domain is none at another."""
        mac = hmac.digest(self._key, delivery_id.bytes + self._domain.encode(), hashlib.sha256)
        return _base32(delivery_id.bytes) + _base32(mac[:MAC_BYTES])


def _base32(octets: bytes) -> str:
    return base64.b32encode(octets).decode("ascii").rstrip("=").lower()
