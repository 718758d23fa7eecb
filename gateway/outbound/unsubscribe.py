"""Unsubscribing, hosted here (RFC 2369, RFC 8058): the fields that offer it, what their link says, what comes of it.

A link's token holds all that is needed to follow it: account, e-mail, the sender's domain, the topic, the recipient. So
it works for as long as somebody keeps the mail, whatever rows are gone by then. It is encrypted and authenticated under
a key that SECRET_KEY gives (AES-SIV, RFC 5297): nobody reads an address in it, and nobody makes or changes one. It is
the same at every attempt, for nothing in it is random.

There is no mailto: beside the link: a local part has 64 octets (RFC 5321 4.5.3.1.1), which cannot hold all that, and a
row that it would name does not last as long.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from gateway import tokens
from gateway.errors import PostroomError
from gateway.storage import db, events, suppressions

PATH: Final = "/u/"
FIELDS: Final = frozenset({"list-unsubscribe", "list-unsubscribe-post"})
ONE_CLICK: Final = ("List-Unsubscribe", "One-Click")  # RFC 8058 3.1: the form that is posted
MAX_TOKEN: Final = 875  # characters; with the longest PUBLIC_URL a line of 998 (RFC 5322 2.1.1)
_VERSION: Final = b"\x01"  # so that there can be another kind of token


class NoLink(PostroomError):
    """The e-mail offers to unsubscribe, and there is nowhere for the link to lead."""

    outcome = "deferred"  # the fault is ours


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """What one recipient of one e-mail can leave."""

    account_id: UUID
    email_id: UUID
    sender: str  # the domain in From, lower-case A-labels
    topic: str  # empty = none: all mail from the sender's domain
    address: str  # the recipient's, canonical

    @property
    def scope(self) -> str:
        """What is suppressed: the topic alone, or without one the sender's domain."""
        return suppressions.TOPIC + self.topic if self.topic else suppressions.DOMAIN + self.sender


class Links:
    """Writes the links of one SECRET_KEY; reads those of the ones before it, too."""

    def __init__(self, keyring: tokens.Keyring, public_url: str) -> None:
        self._public_url = public_url  # without a slash at its end; empty = there is none
        self._ciphers = [_cipher(one) for one in (keyring, *keyring.previous)]  # written with the first

    def token(self, offer: Offer) -> str:
        """Some 150 characters of base64url."""
        words = "\0".join((offer.sender, offer.topic, offer.address)).encode()
        sealed = self._ciphers[0].encrypt(offer.account_id.bytes + offer.email_id.bytes + words, [_VERSION])
        return base64.urlsafe_b64encode(_VERSION + sealed).rstrip(b"=").decode()

    def read(self, token: str) -> Offer:
        """What `token` was given. Raises tokens.Unreadable for anything else."""
        sealed = _octets(token)
        if sealed[:1] != _VERSION:
            raise tokens.Unreadable
        plain = self._opened(sealed[1:])
        sender, topic, address = plain[32:].decode().split("\0")
        ids = {"account_id": UUID(bytes=plain[:16]), "email_id": UUID(bytes=plain[16:32])}
        return Offer(**ids, sender=sender, topic=topic, address=address)

    def _opened(self, sealed: bytes) -> bytes:
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(sealed, [_VERSION])
            except (InvalidTag, ValueError):  # the latter where it is too short to have a tag
                continue
        raise tokens.Unreadable

    def fields(self, offer: Offer) -> bytes:
        """Both header fields, to stand in front of the message before it is signed. Raises NoLink."""
        if not self._public_url:
            raise NoLink("451 4.3.5 PUBLIC_URL is not set: the link to unsubscribe would lead nowhere")
        link = f"{self._public_url}{PATH}{self.token(offer)}"
        name, value = ONE_CLICK
        return f"{name}: <{link}>\r\n{name}-Post: {name}={value}\r\n".encode("ascii")


def _cipher(keyring: tokens.Keyring) -> AESSIV:
    return AESSIV(b"".join(keyring.derive("unsubscribe", generation=half) for half in range(2)))


def _octets(token: str) -> bytes:
    if len(token) > MAX_TOKEN or not token.isascii():
        raise tokens.Unreadable
    try:
        octets = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise tokens.Unreadable from None
    if base64.urlsafe_b64encode(octets).rstrip(b"=").decode() != token:  # bits of the last character that mean nothing
        raise tokens.Unreadable
    return octets


async def leave(database: db.Database, offer: Offer) -> bool:
    """Suppress what the offer is about, and tell it; False where it was so already: that changes and tells nothing."""
    async with database.transaction() as connection:
        changed = await suppressions.unsubscribe(connection, offer.account_id, offer.address, offer.scope)
        if changed:
            await events.append(connection, offer.account_id, [_event("email.unsubscribed", offer)])
    return changed


async def come_back(database: db.Database, offer: Offer) -> bool:
    """Take that back; False where nobody had unsubscribed. What was suppressed for another reason stays so."""
    async with database.transaction() as connection:
        changed = await suppressions.resubscribe(connection, offer.account_id, offer.address, offer.scope)
        if changed:
            await events.append(connection, offer.account_id, [_event("email.resubscribed", offer)])
    return changed


def _event(kind: str, offer: Offer) -> events.NewEvent:
    data: dict[str, Any] = {
        "id": offer.email_id,
        "recipient": offer.address,
        "topic": offer.topic or None,
        "scope": offer.scope,
    }
    return events.NewEvent(type=kind, email_id=offer.email_id, data=events.encode(data))
