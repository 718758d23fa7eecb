"""DKIM signatures (RFC 6376, 8301, 8463): what a message carries, hashed as each signature says, and checked by a key.

Two steps, so that the raw mail need not be held while the DNS is asked: `Letter` hashes what a signature covers, which
leaves digests; `verify` compares these with what the key says. No look-ups. A stranger chose every byte: time is linear
in what is given, and nothing here raises but `Unacceptable`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import load_der_public_key

from gateway.mail.auth import tags

ALGORITHMS: Final = {"rsa-sha256": "rsa", "ed25519-sha256": "ed25519"}  # with the k= that each needs
MINIMUM_BITS: Final = 1024  # of an RSA key (RFC 8301 3.2)
MAXIMUM_BITS: Final = 8192
MAX_BLOCK: Final = 1_048_576  # octets of header fields
MAX_FIELDS: Final = 2000
MAX_SIGNED: Final = 500  # names in h=
CLOCK_SECONDS: Final = 3600  # by which others' clocks may differ

_DOMAIN: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*")
_FIELD: Final = re.compile(rb"([!-9;-~]+)[ \t]*:")
_SPACES: Final = re.compile(rb"[ \t]+")
_BARE: Final = re.compile(rb"(?<!\r)\n")
_EMPTY_LINES: Final = re.compile(rb"(?:\n\r)*")  # backwards


class Unacceptable(Exception):
    """A signature that does not hold."""

    def __init__(self, reason: str, *, result: str = "permerror") -> None:
        super().__init__(reason)
        self.result = result  # fail, permerror


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One header field."""

    name: bytes  # as it stands
    value: bytes  # what follows the colon, folding and last CRLF included

    @property
    def key(self) -> bytes:
        return self.name.lower()

    def text(self) -> str:
        return self.value.decode("utf-8", "replace")


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """What a signature says of itself, checked as far as that goes without a key."""

    algorithm: str  # one of ALGORITHMS
    domain: str  # d=, lower case
    selector: str  # s=, lower case
    identity: str  # i=: the domain in it, lower case; that of d= where there is none
    value: bytes  # b=
    body_hash: bytes  # bh=; empty for an ARC-Seal, which covers no body
    header: str  # canonicalization: simple, relaxed
    body: str
    signed: tuple[bytes, ...]  # h=, lower case
    length: int | None  # l=; None = the whole body
    timestamp: int | None  # t=
    expires: int | None  # x=

    @property
    def key_name(self) -> str:
        return f"{self.selector}._domainkey.{self.domain}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Hashed:
    """A signature with the digest of what it covers: all that a key is needed for."""

    signature: Signature
    digest: bytes  # SHA-256 of the header fields
    uncovered: int = 0  # octets of the body behind l=


class Letter:
    """A message taken apart for its signatures."""

    def __init__(self, raw: bytes) -> None:
        block, body = _divided(raw)
        self.fields = _fields(block)  # in their order; lines that are no field are left out
        self.too_large = len(block) > MAX_BLOCK or len(self.fields) > MAX_FIELDS
        self._raw_body = body
        self._bodies: dict[str, bytes] = {}
        self._body_hashes: dict[tuple[str, int | None], bytes] = {}
        self._header_hashes: dict[tuple[str, tuple[bytes, ...]], hashlib._Hash] = {}

    def named(self, name: bytes) -> list[Field]:
        return [field for field in self.fields if field.key == name]

    def hashed(self, signature: Signature, carrier: Field) -> Hashed:
        """`carrier`: the field that the signature stands in. Raises Unacceptable where the body is another one."""
        uncovered = self._check_body(signature)
        digest = self.header_digest(signature.header, signature.signed, carrier)
        return Hashed(signature=signature, digest=digest, uncovered=uncovered)

    def header_digest(self, form: str, signed: Sequence[bytes], carrier: Field) -> bytes:
        """SHA-256 of the header fields that h= names, and of the signature itself without its b=."""
        digest = self._covered(form, tuple(signed)).copy()
        digest.update(HEADER_FORMS[form](unsigned(carrier)).removesuffix(b"\r\n"))
        return digest.digest()

    def _covered(self, form: str, signed: tuple[bytes, ...]) -> hashlib._Hash:
        """Several signatures mostly cover the same fields."""
        if (form, signed) not in self._header_hashes:
            canonical = HEADER_FORMS[form]
            covered = b"".join(map(canonical, _selected(self.fields, signed)))
            self._header_hashes[form, signed] = hashlib.sha256(covered)
        return self._header_hashes[form, signed]

    def body_hash(self, form: str) -> bytes:
        """SHA-256 of all of the body."""
        return hashlib.sha256(BODY_FORMS[form](self._raw_body)).digest()

    def _check_body(self, signature: Signature) -> int:
        """Octets that l= leaves out."""
        if signature.body not in self._bodies:
            self._bodies[signature.body] = BODY_FORMS[signature.body](self._raw_body)
        body, length = self._bodies[signature.body], signature.length
        if length is not None and length > len(body):
            raise Unacceptable("l= is more than the body", result="fail")
        key = (signature.body, length)
        if key not in self._body_hashes:
            covered = memoryview(body)[: len(body) if length is None else length]
            self._body_hashes[key] = hashlib.sha256(covered).digest()
        if self._body_hashes[key] != signature.body_hash:
            raise Unacceptable("the body is not what was signed", result="fail")
        return 0 if length is None else len(body) - length


def _divided(raw: bytes) -> tuple[bytes, bytes]:
    """Header block and body, every line's end CRLF."""
    if _BARE.search(raw):
        raw = _BARE.sub(b"\r\n", raw)
    if raw.startswith(b"\r\n"):
        return b"", raw[2:]
    block, _, body = raw.partition(b"\r\n\r\n")
    return block + b"\r\n", body


def _fields(block: bytes) -> list[Field]:
    found: list[tuple[bytes, list[bytes]]] = []
    for line in block[:MAX_BLOCK].split(b"\r\n")[:-1]:
        match = _FIELD.match(line)
        if line[:1] in {b" ", b"\t"} and found:
            found[-1][1].append(line)
        elif match:
            found.append((line[: match.end() - 1], [line[match.end() :]]))
    return [Field(name=name.rstrip(), value=b"\r\n".join(lines) + b"\r\n") for name, lines in found]


def parse(field: Field, *, arc: bool = False) -> Signature:
    """A DKIM-Signature, or with `arc` an ARC-Message-Signature. Raises Unacceptable."""
    given = read_tags(field)
    if not arc and given.get("v") != "1":
        raise Unacceptable("v= is not 1")
    domain, selector = names(given)
    signed = tuple(name.strip().lower().encode() for name in _needed(given, "h").split(":"))
    if len(signed) > MAX_SIGNED:
        raise Unacceptable("h= is too long")
    if not arc and b"from" not in signed:  # RFC 6376 5.4
        raise Unacceptable("From is not signed")
    if "dns/txt" not in given.get("q", "dns/txt").split(":"):
        raise Unacceptable("q= is not dns/txt")
    header, body = _forms(given.get("c", "relaxed/relaxed" if arc else "simple/simple"))
    try:
        length, timestamp, expires = (tags.number(given, name) for name in ("l", "t", "x"))
    except tags.InvalidTags as error:
        raise Unacceptable(str(error)) from None
    return Signature(
        algorithm=algorithm(given),
        domain=domain,
        selector=selector,
        identity=domain if arc else _identity(given.get("i"), domain),
        value=decoded(given, "b"),
        body_hash=decoded(given, "bh"),
        header=header,
        body=body,
        signed=signed,
        length=length,
        timestamp=timestamp,
        expires=expires,
    )


def read_tags(field: Field) -> dict[str, str]:
    """Raises Unacceptable."""
    try:
        return tags.parse(field.value.decode("ascii"))
    except UnicodeDecodeError:
        raise Unacceptable("not ASCII") from None
    except tags.InvalidTags as error:
        raise Unacceptable(str(error)) from None


def names(given: Mapping[str, str]) -> tuple[str, str]:
    """d= and s=. Raises Unacceptable."""
    domain, selector = _needed(given, "d").lower(), _needed(given, "s").lower()
    for name in (domain, selector):
        if not is_domain(name):
            raise Unacceptable(f"{name[:60]!r} is no domain name")
    return domain, selector


def is_domain(name: str) -> bool:
    """Whether a name can be looked up: labels of letters, digits, hyphens and underscores."""
    return _DOMAIN.fullmatch(name) is not None


def algorithm(given: Mapping[str, str]) -> str:
    """a=. Raises Unacceptable."""
    name = _needed(given, "a").lower()
    if name not in ALGORITHMS:  # rsa-sha1 as well (RFC 8301 3.1)
        raise Unacceptable(f"{name[:30]!r} is no algorithm that counts")
    return name


def decoded(given: Mapping[str, str], name: str) -> bytes:
    """A tag in base64. Raises Unacceptable."""
    try:
        return base64.b64decode(tags.dense(_needed(given, name)), validate=True)
    except (binascii.Error, ValueError):
        raise Unacceptable(f"{name}= is no base64") from None


def _needed(given: Mapping[str, str], name: str) -> str:
    value = given.get(name)
    if not value:
        raise Unacceptable(f"{name}= is missing")
    return value


def _forms(text: str) -> tuple[str, str]:
    header, _, body = text.lower().partition("/")
    if header not in HEADER_FORMS or (body or "simple") not in BODY_FORMS:
        raise Unacceptable("c= names no canonicalization")
    return header, body or "simple"


def _identity(given: str | None, domain: str) -> str:
    """RFC 6376 3.5: i= lies at d= or below it."""
    if given is None:
        return domain
    found = given.rpartition("@")[2].lower()
    if found != domain and not found.endswith("." + domain):
        raise Unacceptable("i= is not at d=")
    return found


def _selected(fields: Sequence[Field], signed: Sequence[bytes]) -> list[Field]:
    """Each name in h= takes the next field of that name, from the last one up (RFC 6376 5.4.2)."""
    by_name: dict[bytes, list[Field]] = defaultdict(list)
    for field in fields:
        by_name[field.key].append(field)
    if Counter(signed)[b"from"] < len(by_name[b"from"]) and b"from" in signed:
        raise Unacceptable("a From field is not signed", result="fail")
    return [by_name[name].pop() for name in signed if by_name.get(name)]


def unsigned(field: Field) -> Field:
    """The field as it was when it was signed: b= was empty (RFC 6376 3.5)."""
    pieces = field.value.split(b";")
    for index, piece in enumerate(pieces):
        name, equals, _ = piece.partition(b"=")
        if equals and name.strip() == b"b":
            pieces[index] = name + equals
    return Field(name=field.name, value=b";".join(pieces))


def _relaxed_header(field: Field) -> bytes:
    """RFC 6376 3.4.2."""
    words = field.value.replace(b"\r\n", b"").replace(b"\t", b" ").split(b" ")
    unfolded = b" ".join(filter(None, words))
    return field.key + b":" + unfolded + b"\r\n"


def _simple_header(field: Field) -> bytes:
    """RFC 6376 3.4.1."""
    return field.name + b":" + field.value


def _simple_body(body: bytes) -> bytes:
    """RFC 6376 3.4.3: empty lines at the end do not count; the last line ends in CRLF."""
    return _without_empty_lines(body) + b"\r\n"


def _relaxed_body(body: bytes) -> bytes:
    """RFC 6376 3.4.4."""
    dense = _SPACES.sub(b" ", body).replace(b" \r\n", b"\r\n").removesuffix(b" ")
    kept = _without_empty_lines(dense)
    return kept + b"\r\n" if kept else b""


def _without_empty_lines(body: bytes) -> bytes:
    ending = body[len(body.rstrip(b"\r\n")) :]
    match = _EMPTY_LINES.match(ending[::-1])
    return body[: len(body) - match.end()] if match else body


HEADER_FORMS: Final[dict[str, Callable[[Field], bytes]]] = {"simple": _simple_header, "relaxed": _relaxed_header}
BODY_FORMS: Final[dict[str, Callable[[bytes], bytes]]] = {"simple": _simple_body, "relaxed": _relaxed_body}


# Keys


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """A public key as the DNS has it."""

    kind: str  # rsa, ed25519
    public: rsa.RSAPublicKey | ed25519.Ed25519PublicKey
    bits: int
    strict: bool  # t=s: i= must be d= itself
    testing: bool  # t=y


def key(texts: Sequence[bytes]) -> Key:
    """The key among a name's TXT records. Raises Unacceptable."""
    if not texts:
        raise Unacceptable("there is no key")
    given = _key_tags(texts)
    if given.get("v", "DKIM1") != "DKIM1" or ("v" in given and next(iter(given)) != "v"):  # RFC 6376 3.6.1
        raise Unacceptable("the key's v= is not DKIM1")
    if not set(given.get("s", "*").replace(" ", "").split(":")) & {"*", "email"}:
        raise Unacceptable("the key is not for e-mail")
    if "h" in given and "sha256" not in given["h"].replace(" ", "").lower().split(":"):
        raise Unacceptable("the key is not for SHA-256")
    flags = given.get("t", "").replace(" ", "").split(":")
    kind = given.get("k", "rsa").lower()
    public, bits = _public(kind, _material(given))
    return Key(kind=kind, public=public, bits=bits, strict="s" in flags, testing="y" in flags)


def _key_tags(texts: Sequence[bytes]) -> dict[str, str]:
    """Those of the first record that is a list of tags; several keys under one name are a mistake of theirs."""
    for text in texts:
        try:
            return tags.parse(text.decode("ascii"))
        except ValueError:
            continue
    raise Unacceptable("the key cannot be read")


def _material(given: Mapping[str, str]) -> bytes:
    if "p" not in given:
        raise Unacceptable("the key has no p=")
    if not given["p"]:
        raise Unacceptable("the key is revoked")
    try:
        return base64.b64decode(tags.dense(given["p"]), validate=True)
    except (binascii.Error, ValueError):
        raise Unacceptable("the key's p= is no base64") from None


def _public(kind: str, material: bytes) -> tuple[rsa.RSAPublicKey | ed25519.Ed25519PublicKey, int]:
    try:
        if kind == "ed25519":
            return ed25519.Ed25519PublicKey.from_public_bytes(material), 256
        loaded = load_der_public_key(material) if kind == "rsa" else None
    except (ValueError, UnsupportedAlgorithm):
        raise Unacceptable("the key cannot be read") from None
    if not isinstance(loaded, rsa.RSAPublicKey):
        raise Unacceptable(f"the key's kind is {kind[:20]!r}")
    return loaded, loaded.key_size


def verify(hashed: Hashed, found: Key, now: datetime, *, minimum_bits: int = MINIMUM_BITS) -> None:
    """Raises Unacceptable where the signature does not hold at this time."""
    signature = hashed.signature
    if ALGORITHMS[signature.algorithm] != found.kind:
        raise Unacceptable("the key is of another kind than the signature")
    if found.kind == "rsa" and not minimum_bits <= found.bits <= MAXIMUM_BITS:
        raise Unacceptable(f"an RSA key of {found.bits} bits does not count")
    if found.strict and signature.identity != signature.domain:
        raise Unacceptable("i= is not d=, as the key wants")
    _check_times(signature, now.timestamp())
    if not _holds(hashed, found):
        raise Unacceptable("the signature is not by this key, or the header was changed", result="fail")


def _check_times(signature: Signature, now: float) -> None:
    begins, ends = signature.timestamp, signature.expires
    if begins is not None and ends is not None and ends <= begins:
        raise Unacceptable("x= is before t=")
    if begins is not None and begins > now + CLOCK_SECONDS:
        raise Unacceptable("t= is in the future", result="fail")
    if ends is not None and ends < now:
        raise Unacceptable("the signature has expired", result="fail")


def _holds(hashed: Hashed, found: Key) -> bool:
    value = hashed.signature.value
    try:
        if isinstance(found.public, ed25519.Ed25519PublicKey):
            found.public.verify(value, hashed.digest)  # RFC 8463 3: it signs the digest
        else:
            found.public.verify(value, hashed.digest, padding.PKCS1v15(), utils.Prehashed(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
