"""Whether a webhook comes from Postroom: Standard Webhooks' signatures, with nothing but the standard library."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping

from . import errors, records

TOLERANCE_SECONDS = 300.0  # between the sender's clock and ours


def verify_webhook(
    body: bytes | str,
    headers: Mapping[str, str],
    secret: str,
    *,
    tolerance: float = TOLERANCE_SECONDS,
    now: Callable[[], float] = time.time,
) -> records.Event:
    """The event that a webhook tells of. Raises InvalidSignature; the message says what is wrong.

    `body` as it came, byte for byte, not parsed and written anew; `secret` is the webhook's whsec_…; while it is being
    changed, either of the two secrets verifies. `event.id` stays the same over retries: remember it to act once.
    """
    content = body.encode() if isinstance(body, str) else body
    found = {name.lower(): value for name, value in headers.items()}
    missing = [name for name in ("webhook-id", "webhook-timestamp", "webhook-signature") if not found.get(name)]
    if missing:
        raise errors.InvalidSignature(f"the request has no header {', '.join(missing)}: it is no webhook of Postroom's")
    signed_at = _age(found["webhook-timestamp"], now(), tolerance)
    signed = b"%s.%s.%s" % (found["webhook-id"].encode(), signed_at.encode(), content)
    expected = base64.b64encode(hmac.digest(_key(secret), signed, hashlib.sha256)).decode()
    given = [one.partition(",") for one in found["webhook-signature"].split()]
    if not any(version == "v1" and _same(signature, expected) for version, _, signature in given):
        raise errors.InvalidSignature(
            "the signature does not fit: another webhook's secret, or the body was changed on its way (frameworks that "
            "parse JSON and write it anew do that: verify the bytes as they came)"
        )
    return records.read(records.Event, json.loads(content))


def _age(timestamp: str, now: float, tolerance: float) -> str:
    """The timestamp, if it is fresh: otherwise whoever saw a webhook once could send it again."""
    try:
        away = now - float(int(timestamp))
    except ValueError:
        raise errors.InvalidSignature(f"webhook-timestamp is no number of seconds: {timestamp[:40]!r}") from None
    if abs(away) > tolerance:
        when = f"{away:.0f} s ago" if away > 0 else f"{-away:.0f} s ahead"
        raise errors.InvalidSignature(f"it was signed {when}, and {tolerance:.0f} s are allowed: a replay, or a clock?")
    return timestamp


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        raise errors.InvalidSignature("the secret is none: it begins with whsec_ and goes on in base64") from None


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
