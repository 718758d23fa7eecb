"""Signers for tests: DKIM signatures made plainly, with keys of the test's own, and what the DNS has of them."""

from __future__ import annotations

import base64
import functools
import hashlib

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

from gateway.mail.auth import dkim

Private = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@functools.cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@functools.cache
def ed25519_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def record(private: Private, **more: str) -> str:
    """The TXT record of its public key; `more` tags come before p=."""
    if isinstance(private, ed25519.Ed25519PrivateKey):
        kind, public = "ed25519", private.public_key().public_bytes_raw()
    else:
        kind = "rsa"
        public = private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    given = {"v": "DKIM1", "k": kind, **more, "p": base64.b64encode(public).decode()}
    return "; ".join(f"{name}={value}" for name, value in given.items())


def signed(
    raw: bytes,
    private: Private,
    *,
    domain: str,
    selector: str = "s",
    form: str = "relaxed/relaxed",
    names: str = "from:to:subject:date",
    length: int | None = None,
    **more: str,
) -> bytes:
    """The message with a signature before it; `more` tags may be any."""
    letter = dkim.Letter(raw)
    header, body = form.split("/")
    canonical = dkim.BODY_FORMS[body](raw.partition(b"\r\n\r\n")[2])
    algorithm = "ed25519-sha256" if isinstance(private, ed25519.Ed25519PrivateKey) else "rsa-sha256"
    given = {"v": "1", "a": algorithm, "c": form, "d": domain, "s": selector, "h": names, **more}
    if length is not None:
        given["l"] = str(length)
        canonical = canonical[:length]
    given["bh"] = base64.b64encode(hashlib.sha256(canonical).digest()).decode()
    value = "; ".join(f"{name}={text}" for name, text in given.items()) + "; b="
    carrier = dkim.Field(name=b"DKIM-Signature", value=b" " + value.encode() + b"\r\n")
    made = base64.b64encode(_sign(private, _covered(letter, carrier, header, names))).decode()
    return b"DKIM-Signature: " + value.encode() + made.encode() + b"\r\n" + raw


def _covered(letter: dkim.Letter, carrier: dkim.Field, header: str, names: str) -> bytes:
    """What the signature is over, each field named at most as often as it is there."""
    form = dkim.HEADER_FORMS[header]
    left = list(letter.fields)
    chosen: list[dkim.Field] = []
    for name in names.split(":"):
        at = max((n for n, one in enumerate(left) if one.key == name.strip().lower().encode()), default=None)
        if at is not None:
            chosen.append(left.pop(at))
    return b"".join(map(form, chosen)) + form(carrier).removesuffix(b"\r\n")


def _sign(private: Private, covered: bytes) -> bytes:
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign(hashlib.sha256(covered).digest())
    return private.sign(covered, padding.PKCS1v15(), hashes.SHA256())
