"""DKIM signatures that we make (RFC 6376, 8301, 8463), and the keys that they are made with.

What a signature covers is hashed by the code that checks other people's (gateway.mail.auth.dkim): one idea of
canonical forms. relaxed/relaxed, for relays fold headers and trim lines. No l=: all of the body is covered.
"""

from __future__ import annotations

import base64
import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa, utils

from gateway.mail.auth import dkim as checking
from gateway.mail.auth import dmarc

Algorithm = Literal["rsa", "ed25519"]
Private = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

ALGORITHMS: Final[tuple[Algorithm, ...]] = ("rsa", "ed25519")
RSA_BITS: Final = 2048  # RFC 8301 3.2
MAX_FIELDS: Final = 200  # names in h=; whoever wrote more of the fields below than that means no good
SIGNED: Final = (  # each as often as it is there; List-Unsubscribe-Post must be covered (RFC 8058 4)
    *(b"from", b"to", b"cc", b"subject", b"date", b"message-id", b"reply-to", b"mime-version", b"content-type"),
    *(b"list-unsubscribe", b"list-unsubscribe-post", b"references", b"in-reply-to"),
)
_COLUMNS: Final = 76


class UnusableKey(ValueError):
    """It is no private key that can sign."""


class Unsignable(ValueError):
    """The message cannot be signed so that a checker would take it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """What signs, and under which name its public half stands in the DNS."""

    domain: str  # d=, lower-case A-labels
    selector: str  # s=
    private: Private = field(repr=False)


def generate(algorithm: Algorithm) -> Private:
    """A new key. RSA takes some 0.1 s of processor time, outside the interpreter's lock."""
    if algorithm == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)


def to_der(private: Private) -> bytes:
    """PKCS #8, unencrypted."""
    return private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def from_der(octets: bytes) -> Private:
    """What `to_der` wrote of a key made here, whose numbers need no second look. Raises UnusableKey."""
    try:
        return _usable(serialization.load_der_private_key(octets, password=None, unsafe_skip_rsa_key_validation=True))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UnusableKey("it cannot be read") from error


def from_pem(octets: bytes) -> Private:
    """Raises UnusableKey."""
    try:
        return _usable(serialization.load_pem_private_key(octets, password=None))
    except UnusableKey:
        raise
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UnusableKey("it is no private key in PEM without a password") from error


def _usable(private: object) -> Private:
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private
    if not isinstance(private, rsa.RSAPrivateKey):
        raise UnusableKey("it is neither RSA nor Ed25519")
    if not checking.MINIMUM_BITS <= private.key_size <= checking.MAXIMUM_BITS:
        raise UnusableKey(f"an RSA key of {private.key_size} bits does not count")
    return private


def public_record(private: Private) -> str:
    """The TXT record (RFC 6376 3.6.1; RFC 8463 4.2: Ed25519's is the bare key)."""
    public = private.public_key()
    if isinstance(public, ed25519.Ed25519PublicKey):
        return f"v=DKIM1; k=ed25519; p={_base64(public.public_bytes_raw())}"
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"v=DKIM1; k=rsa; p={_base64(der)}"


def is_published(record: str, found: Sequence[str]) -> bool:
    """Whether a checker that finds these texts has the key of `record`, however they are written."""
    try:
        wanted, there = checking.key([record.encode()]), checking.key([text.encode() for text in found])
    except checking.Unacceptable:
        return False
    return wanted.kind == there.kind and wanted.public == there.public


def author(raw: bytes) -> str:
    """The domain in From, as A-labels, which d= must be aligned with. Raises Unsignable."""
    end = raw.find(b"\r\n\r\n")
    try:
        return dmarc.author(checking.Letter(raw[: end + 4] if end >= 0 else raw))
    except dmarc.NoAuthor as error:
        raise Unsignable(str(error)) from error


def sign(raw: bytes, keys: Sequence[Key], now: datetime) -> bytes:
    """The message (CRLF line ends) with one signature of each key on top, the first key's highest. Raises Unsignable.

    About 0.6 ms with RSA-2048 and Ed25519 for a small mail; off the event loop where it is large.
    """
    letter = checking.Letter(raw)
    if letter.too_large or not raw.startswith(letter.fields[0].name if letter.fields else b"\0"):
        raise Unsignable("its header is too large, or no header")
    signed = _covered(letter)
    lines = (f"h={_folded_names(signed)};", f"bh={_base64(letter.body_hash('relaxed'))};", "b=")
    made = [_signature(letter, key, signed, lines, int(now.timestamp())) for key in keys]
    return b"".join([*made, raw])


def _covered(letter: checking.Letter) -> tuple[bytes, ...]:
    """h=. From stands once more than it is there, so that nobody can add one (RFC 6376 8.15)."""
    counts = Counter(one.key for one in letter.fields)
    if not counts[b"from"]:
        raise Unsignable("it has no From field")
    names = tuple(name for name in SIGNED for _ in range(counts[name] + (name == b"from")))
    if len(names) > MAX_FIELDS:
        raise Unsignable("it has too many header fields of one name")
    return names


def _signature(letter: checking.Letter, key: Key, signed: tuple[bytes, ...], lines: Sequence[str], now: int) -> bytes:
    """A whole DKIM-Signature field."""
    kind = "ed25519" if isinstance(key.private, ed25519.Ed25519PrivateKey) else "rsa"
    tags = (
        f"v=1; a={kind}-sha256; c=relaxed/relaxed; d={key.domain};",
        f"s={key.selector}; t={now};",
        *lines,
    )
    value = " " + "\r\n ".join(tags)
    unsigned = checking.Field(name=b"DKIM-Signature", value=value.encode() + b"\r\n")
    digest = letter.header_digest("relaxed", signed, unsigned)
    return f"DKIM-Signature:{value}{_folded(_base64(_signed(key.private, digest)))}\r\n".encode()


def _signed(private: Private, digest: bytes) -> bytes:
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign(digest)  # RFC 8463 3: it signs the digest
    return private.sign(digest, padding.PKCS1v15(), utils.Prehashed(hashes.SHA256()))


@functools.lru_cache(maxsize=256)  # the same few, mail after mail
def _folded_names(names: tuple[bytes, ...]) -> str:
    """Names with colons between, in lines; a fold may stand before each name (RFC 6376 3.5, h=)."""
    lines, width = [""], 2
    for at, name in enumerate(names):
        text = name.decode() + (":" if at < len(names) - 1 else "")
        if width + len(text) > _COLUMNS:
            lines.append("")
            width = 1
        lines[-1] += text
        width += len(text)
    return "\r\n ".join(lines)


def _folded(text: str) -> str:
    def pieces() -> Iterator[str]:
        for at in range(0, len(text), _COLUMNS - 4):
            yield text[at : at + _COLUMNS - 4]

    return "\r\n ".join(pieces())


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()
