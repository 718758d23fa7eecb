"""The Authenticated Received Chain (RFC 8617): what those say who passed a message on, each sealing what was before."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.mail.auth import dkim, tags

MAX_SETS: Final = 50  # RFC 8617 4.2.1
_INSTANCE: Final = re.compile(rb"\s*i\s*=\s*(\d{1,2})\s*(?:;|\Z)")
_RESULT: Final = re.compile(rb"[;\s](arc|dmarc)\s*=\s*([a-z]+)", re.IGNORECASE)
_RESULTS, _MESSAGE, _SEAL = b"arc-authentication-results", b"arc-message-signature", b"arc-seal"

Set = Mapping[bytes, dkim.Field]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """A message's chain, hashed; all that is left is to ask for the keys."""

    length: int = 0  # sets; 0 = no chain
    broken: str = ""  # why it cannot hold, whatever the keys are; empty = the keys decide
    sealer: str = ""  # domain of the newest seal; empty = none
    signatures: tuple[dkim.Hashed, ...] = ()  # newest message signature first, then all seals
    reported: Mapping[str, str] | None = None  # arc and dmarc, as the newest sealer saw them


def read(letter: dkim.Letter) -> Chain:
    """The chain of a message (RFC 8617 5.2)."""
    try:
        sets = _sets(letter)
        if not sets:
            return Chain()
        signatures = (_message(letter, sets[-1]), *(_seal(sets[: n + 1]) for n in reversed(range(len(sets)))))
    except dkim.Unacceptable as error:
        return Chain(length=1, broken=str(error))
    return Chain(
        length=len(sets),
        sealer=signatures[1].signature.domain,
        signatures=signatures,
        reported={
            name.decode().lower(): value.decode().lower() for name, value in _RESULT.findall(sets[-1][_RESULTS].value)
        },
    )


def _sets(letter: dkim.Letter) -> list[Set]:
    """Oldest first. Raises Unacceptable."""
    found: dict[int, dict[bytes, dkim.Field]] = {}
    for field in letter.fields:
        if field.key not in {_RESULTS, _MESSAGE, _SEAL}:
            continue
        members = found.setdefault(_instance(field), {})
        if field.key in members:
            raise dkim.Unacceptable("a set has a field twice")
        members[field.key] = field
    if len(found) > MAX_SETS or sorted(found) != list(range(1, len(found) + 1)):
        raise dkim.Unacceptable("the sets are not numbered without a gap")
    if any(len(members) < 3 for members in found.values()):
        raise dkim.Unacceptable("a set lacks a field")
    return [found[number] for number in sorted(found)]


def _instance(field: dkim.Field) -> int:
    if field.key == _RESULTS:
        match = _INSTANCE.match(field.value)
        number = int(match[1]) if match else None
    else:
        try:
            number = tags.number(dkim.read_tags(field), "i")
        except tags.InvalidTags:
            number = None
    if not number:
        raise dkim.Unacceptable("a field has no i=")
    return number


def _message(letter: dkim.Letter, newest: Set) -> dkim.Hashed:
    signature = dkim.parse(newest[_MESSAGE], arc=True)
    if _SEAL in signature.signed:  # RFC 8617 4.1.2
        raise dkim.Unacceptable("the message signature covers a seal")
    return letter.hashed(signature, newest[_MESSAGE])


def _seal(sets: list[Set]) -> dkim.Hashed:
    """The last one's seal, which covers all sets up to its own (RFC 8617 5.1.1)."""
    field = sets[-1][_SEAL]
    given = dkim.read_tags(field)
    if "h" in given:  # RFC 8617 4.1.3
        raise dkim.Unacceptable("a seal has h=")
    if given.get("cv") != ("none" if len(sets) == 1 else "pass"):
        raise dkim.Unacceptable(f"seal {len(sets)} says cv={given.get('cv', '')[:20]}")
    domain, selector = dkim.names(given)
    canonical = dkim.HEADER_FORMS["relaxed"]
    covered = [members[name] for members in sets for name in (_RESULTS, _MESSAGE, _SEAL)][:-1]
    digest = hashlib.sha256(b"".join(canonical(member) for member in covered))
    digest.update(canonical(dkim.unsigned(field)).removesuffix(b"\r\n"))
    signature = dkim.Signature(
        algorithm=dkim.algorithm(given),
        domain=domain,
        selector=selector,
        identity=domain,
        value=dkim.decoded(given, "b"),
        body_hash=b"",
        header="relaxed",
        body="relaxed",
        signed=(),
        length=None,
        timestamp=None,
        expires=None,
    )
    return dkim.Hashed(signature=signature, digest=digest.digest())
