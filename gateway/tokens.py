"""Secrets that can be made again: mailbox tokens, API keys and webhook secrets, derived from SECRET_KEY and an id.

Nothing here is random and nothing is stored but hashes: the same id under the same SECRET_KEY gives the same secret,
so an idempotent replay can show a creation's secret once more (HKDF-SHA256, RFC 5869).

What a leaked token tells: nothing about another. Each is an output of HMAC-SHA256 under a key that only SECRET_KEY
gives, for an `info` that no other object shares (purpose, id and generation, each with its length in front). To learn
a second token from a first one would be to tell HMAC-SHA256 from a random function. SECRET_KEY itself opens them all.

A token is written `pr_key_` + 43 characters + 6 characters: 256 bits in base62, then a CRC-32 of all that stands
before it, also in base62. The checksum is no secret. It lets secret scanners tell a leaked token from a look-alike,
and lets the gateway refuse a typo without asking the database.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import string
import zlib
from collections.abc import Sequence
from typing import Final, Literal
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway import errors
from gateway.settings import Settings, require_secret_key

Kind = Literal["key", "mailbox"]

SECRET_KEY_MIN_BYTES: Final = 32
_SALT: Final = b"postroom/v1"  # another one would change every secret there is
_SEALED: Final = b"\x01"  # how it is encrypted: a version, so that there can be another way
_NONCE_BYTES: Final = 12
_DIGITS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_BODY_DIGITS: Final = 43  # 62**43 > 2**256
_CHECKSUM_DIGITS: Final = 6  # 62**6 > 2**32
_PREFIXES: Final[dict[Kind, str]] = {"key": "pr_key_", "mailbox": "pr_mbx_"}
_TOKEN: Final = re.compile(rf"pr_(key|mbx)_[0-9A-Za-z]{{{_BODY_DIGITS + _CHECKSUM_DIGITS}}}", re.ASCII)


class Unreadable(Exception):
    """It was encrypted under another SECRET_KEY than this process has, or for another object, or it was changed."""

    def __init__(self) -> None:
        super().__init__("SECRET_KEY is not the one that it was encrypted with, or it was changed since")


class Keyring:
    """Derives every secret of one SECRET_KEY, and reads what was made under those before it."""

    __slots__ = ("_secret_key", "previous")

    def __init__(self, secret_key: bytes, previous: Sequence[bytes] = ()) -> None:
        """`secret_key`: at least 32 bytes, else ConfigurationError. `previous`: likewise, the newest first; nothing new
        is made with them."""
        if len(secret_key) < SECRET_KEY_MIN_BYTES:
            raise errors.ConfigurationError(f"SECRET_KEY must have at least {SECRET_KEY_MIN_BYTES} bytes")
        self._secret_key = secret_key
        self.previous = tuple(Keyring(key) for key in previous)  # one for each, without any before it

    def api_key(self, key_id: UUID) -> str:
        """`pr_key_…`: an account key."""
        return _write("key", self.derive("api-key", key_id.bytes))

    def mailbox_token(self, mailbox_id: UUID) -> str:
        """`pr_mbx_…`: the token of one mailbox."""
        return _write("mailbox", self.derive("mailbox-token", mailbox_id.bytes))

    def webhook_secret(self, webhook_id: UUID, generation: int = 0) -> str:
        """`whsec_<base64 of 32 bytes>`, as Standard Webhooks writes it; each rotation counts `generation` up by one."""
        secret = self.derive("webhook-secret", webhook_id.bytes, generation)
        return "whsec_" + base64.b64encode(secret).decode("ascii")

    def derive(self, purpose: str, object_id: bytes = b"", generation: int = 0) -> bytes:
        """32 bytes for one purpose, object and generation; for keys that never leave the process, too."""
        info = b"".join(_framed(part) for part in (purpose.encode(), object_id, generation.to_bytes(4, "big")))
        return HKDF(algorithm=hashes.SHA256(), length=32, salt=_SALT, info=info).derive(self._secret_key)

    def seal(self, purpose: str, object_id: bytes, secret: bytes) -> bytes:
        """Encrypt what cannot be derived (AES-256-GCM), for this purpose and object alone."""
        nonce = os.urandom(_NONCE_BYTES)
        return _SEALED + nonce + AESGCM(self.derive(purpose, object_id)).encrypt(nonce, secret, _SEALED)

    def unseal(self, purpose: str, object_id: bytes, sealed: bytes) -> bytes:
        """What was sealed, under this SECRET_KEY or one before it. Raises Unreadable."""
        for keyring in (self, *self.previous):
            try:
                return keyring._unseal(purpose, object_id, sealed)  # noqa: SLF001 - one of its own kind
            except Unreadable:
                continue
        raise Unreadable

    def reseal(self, purpose: str, object_id: bytes, sealed: bytes) -> bytes | None:
        """The same under this SECRET_KEY; None where it is already. Raises Unreadable."""
        try:
            self._unseal(purpose, object_id, sealed)
        except Unreadable:
            return self.seal(purpose, object_id, self.unseal(purpose, object_id, sealed))
        return None

    def _unseal(self, purpose: str, object_id: bytes, sealed: bytes) -> bytes:
        version, nonce = sealed[:1], sealed[1 : 1 + _NONCE_BYTES]
        if version != _SEALED or len(nonce) < _NONCE_BYTES:
            raise Unreadable
        try:
            return AESGCM(self.derive(purpose, object_id)).decrypt(nonce, sealed[1 + _NONCE_BYTES :], version)
        except InvalidTag:
            raise Unreadable from None


def keyring(settings: Settings) -> Keyring:
    """That of SECRET_KEY and SECRET_KEY_PREVIOUS. ConfigurationError where they are none, or too short."""
    previous = [key.encode() for key in previous_keys(settings)]
    if any(len(key) < SECRET_KEY_MIN_BYTES for key in previous):
        raise errors.ConfigurationError(f"SECRET_KEY_PREVIOUS: keys have at least {SECRET_KEY_MIN_BYTES} characters")
    return Keyring(require_secret_key(settings), previous)


def previous_keys(settings: Settings) -> list[str]:
    """Those of SECRET_KEY_PREVIOUS, the newest first."""
    return settings.secret_key_previous.get_secret_value().replace(",", " ").split()


def hash_token(token: str) -> bytes:
    """What the database holds of a token: its SHA-256. 256 random bits need neither salt nor a slow hash."""
    return hashlib.sha256(token.encode()).digest()


def matches(token: str, token_hash: bytes) -> bool:
    """Whether `token` has that hash; the time taken tells nothing."""
    return hmac.compare_digest(hash_token(token), token_hash)


def kind_of(text: str) -> Kind | None:
    """Which kind of token this is by its form and checksum; None if it is none. Says nothing of whether it is valid."""
    if not _TOKEN.fullmatch(text):
        return None
    body, checksum = text[:-_CHECKSUM_DIGITS], text[-_CHECKSUM_DIGITS:]
    if _checksum(body) != checksum:
        return None
    return "key" if body.startswith(_PREFIXES["key"]) else "mailbox"


def looks_like_key(text: str) -> bool:
    """Whether it is worth asking the database about `text`, an account key or a mailbox token."""
    return kind_of(text) is not None


def _write(kind: Kind, secret: bytes) -> str:
    body = _PREFIXES[kind] + _base62(int.from_bytes(secret, "big"), _BODY_DIGITS)
    return body + _checksum(body)


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode("ascii")), _CHECKSUM_DIGITS)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


def _framed(part: bytes) -> bytes:
    return len(part).to_bytes(2, "big") + part
