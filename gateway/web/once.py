"""Idempotency at the HTTP edge: what a request's key asks for, and the answer that says whether it was given before."""

from __future__ import annotations

import msgspec

from gateway.models import Answer
from gateway.storage.idempotency import Once, Turns

__all__ = ["REPLAYED", "Turns", "answered", "wish"]

REPLAYED = (("Idempotent-Replayed", "true"),)


def wish(endpoint: str, key: str | None, fingerprint: bytes | None) -> Once | None:
    """None where the request carries no Idempotency-Key."""
    if key is None or fingerprint is None:
        return None
    return Once(endpoint=endpoint, key=key, fingerprint=fingerprint)


def answered(status: int, body: object, *, replayed: bool = False) -> Answer:
    """An answer that is written once, here."""
    return Answer(status=status, body=msgspec.json.encode(body), headers=REPLAYED if replayed else ())
