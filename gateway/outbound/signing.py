"""DKIM at delivery: whose key a message is signed with, and that it is never sent unsigned in silence.

    From's domain                                    what happens
    in MAIL_DOMAINS                                  signed with DKIM_KEY_FILE; as it is, where that is not set
    verified by the account, or below its wildcard   signed with the keys of the verified domain (d=)
    verified by another account                      not sent: failed
    any other                                        as it is: a relay may sign it, or nobody

Where a key is there and cannot be used, the fault is ours: the mail waits. Each attempt signs anew, so that mail that
waited is signed with the keys of the day.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

import prometheus_client
import structlog

from gateway import tokens
from gateway.errors import ConfigurationError, PostroomError, RestrictedApiKey, Unavailable
from gateway.mail import address, dkim
from gateway.settings import Settings
from gateway.storage import db, dkim_keys, domains

log = structlog.get_logger(__name__)

# outcome: "signed", "unsigned" (nobody here has keys for the domain), "deferred" (a fault of ours), "failed"
SIGNED = prometheus_client.Counter(
    "postroom_dkim", "Attempts at a delivery, by what became of its signature", ["outcome"]
)

BELIEVED_SECONDS: Final = 3.0  # how long it is believed who has a domain, and with which keys
MAX_KNOWN: Final = 10_000  # domains in memory
LARGE: Final = 262_144  # bytes; from here on a message is signed off the event loop


class NotSigned(PostroomError):
    """The message must not go out as it is; the text says why, to its sender."""

    def __init__(self, reply: str, *, outcome: str = "deferred") -> None:
        super().__init__(reply)
        self.outcome = outcome  # deferred: a fault of ours, which may pass; failed


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What is known of mail from a domain."""

    keys: tuple[dkim.Key, ...] = ()  # to sign with; empty = as it is
    refusal: str = ""  # why nothing may be sent; empty = it may
    outcome: str = "deferred"  # of the refusal


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    """An answer, or the question under way."""

    choosing: asyncio.Task[Choice]
    until: float  # monotonic time


class Signer:
    """Signs what a worker process sends."""

    def __init__(self, database: db.Database, keyring: tokens.Keyring, settings: Settings) -> None:
        """Raises ConfigurationError where DKIM_KEY_FILE is no key."""
        self._database = database
        self._keyring = keyring
        self._shared = shared_domains(settings)
        self._house_key = house_key(settings)
        self._known: dict[tuple[UUID, str], _Known] = {}

    async def signed(self, account_id: UUID, raw: bytes, *, author: str | None = None) -> bytes:
        """The message as it goes out; `author`: the address in From, where it is known. Raises NotSigned."""
        try:
            signed = await self._sign(account_id, raw, author)
        except NotSigned as error:
            SIGNED.labels(error.outcome).inc()
            raise
        SIGNED.labels("unsigned" if signed is raw else "signed").inc()
        return signed

    async def _sign(self, account_id: UUID, raw: bytes, author: str | None) -> bytes:
        try:
            choice = await self._choice(account_id, address.domain_of(author) if author else dkim.author(raw))
        except dkim.Unsignable as error:
            raise NotSigned(f"554 5.6.0 {error}", outcome="failed") from error
        except Unavailable as error:
            raise NotSigned("451 4.3.0 the DKIM key cannot be looked up now; not sent unsigned") from error
        if choice.refusal:
            raise NotSigned(choice.refusal, outcome=choice.outcome)
        if not choice.keys:
            return raw
        now = self._database.clock.now()
        try:
            if len(raw) < LARGE:  # in threads a small one costs more than it takes: they wait for one another
                return dkim.sign(raw, choice.keys, now)
            return await asyncio.to_thread(dkim.sign, raw, choice.keys, now)
        except dkim.Unsignable as error:
            raise NotSigned(f"554 5.6.0 the message cannot be signed: {error}", outcome="failed") from error

    async def _choice(self, account_id: UUID, domain: str) -> Choice:
        """One look at the database for all who ask at the same time, and for some seconds."""
        if domain in self._shared:
            return Choice(keys=self._house_keys(domain))
        key, now = (account_id, domain), time.monotonic()
        known = self._known.get(key)
        if known is None or known.until <= now:
            self._forget(now)
            known = _Known(choosing=asyncio.create_task(self._choose(account_id, domain)), until=now + BELIEVED_SECONDS)
            self._known[key] = known
        try:
            return await asyncio.shield(known.choosing)
        except Unavailable:
            if self._known.get(key) is known:
                del self._known[key]
            raise

    def _forget(self, now: float) -> None:
        if len(self._known) < MAX_KNOWN:
            return
        self._known = {key: known for key, known in self._known.items() if known.until > now}
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()

    async def _choose(self, account_id: UUID, domain: str) -> Choice:
        async with self._database.connection() as connection:
            owned = await domains.owner(connection, domain)
        if owned is None:
            return Choice()
        name, owner = owned
        if owner != account_id:
            return Choice(refusal=f"550 5.7.1 another account has verified {name}", outcome="failed")
        keys = dkim_keys.signing(await ensure_keys(self._database, self._keyring, account_id, name))
        usable = [key for key in (self._usable(account_id, name, key) for key in keys) if key is not None]
        if not usable:
            reason = f"451 4.3.5 the DKIM key of {name} cannot be read: SECRET_KEY is not the one it was encrypted with"
            return Choice(refusal=f"{reason}; not sent unsigned")
        return Choice(keys=tuple(usable))

    def _usable(self, account_id: UUID, domain: str, key: dkim_keys.DkimKey) -> dkim.Key | None:
        try:
            return dkim.Key(domain=domain, selector=key.selector, private=key.private(self._keyring))
        except (tokens.Unreadable, dkim.UnusableKey) as error:
            log.error(  # noqa: TRY400 - what happened is known, and where
                "dkim key unusable", account_id=str(account_id), domain=domain, selector=key.selector, reason=str(error)
            )
            return None

    def _house_keys(self, domain: str) -> tuple[dkim.Key, ...]:
        if self._house_key is None:
            return ()
        selector, private = self._house_key
        return (dkim.Key(domain=domain, selector=selector, private=private),)


class Senders:
    """Knows which domains nobody but their owner may send from."""

    def __init__(self, database: db.Database, settings: Settings) -> None:
        self._database = database
        self._shared = shared_domains(settings)
        self._known: dict[str, tuple[float, UUID | None]] = {}  # until when it is believed, and who has the domain

    async def check(self, account_id: UUID, addresses: Iterable[str]) -> None:
        """Raises RestrictedApiKey for the first whose domain another account has verified."""
        for domain in sorted({address.domain_of(text) for text in addresses if text} - self._shared):
            owner = await self._owner(domain)
            if owner is not None and owner != account_id:
                raise RestrictedApiKey(f"Another account has verified {domain}: mail from there is its own.")

    async def _owner(self, domain: str) -> UUID | None:
        now = time.monotonic()
        until, owner = self._known.get(domain, (0.0, None))
        if until > now:
            return owner
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        async with self._database.connection() as connection:
            owned = await domains.owner(connection, domain)
        owner = owned[1] if owned else None
        self._known[domain] = (now + BELIEVED_SECONDS, owner)
        return owner


async def ensure_keys(
    database: db.Database, keyring: tokens.Keyring, account_id: UUID, domain: str
) -> list[dkim_keys.DkimKey]:
    """The domain's keys; of a claim older than keys are, new ones. Empty where there is no such claim."""
    async with database.connection() as connection:
        found = await dkim_keys.of_domain(connection, account_id, domain)
    if any(key.status != "retired" for key in found):
        return found
    pair = await asyncio.to_thread(dkim_keys.new_pair, keyring)
    async with database.transaction() as connection:
        await domains.take_turn(connection, domain)
        found = await dkim_keys.of_domain(connection, account_id, domain)
        if not found and await domains.get(connection, account_id, domain) is not None:
            await dkim_keys.add(connection, account_id, domain, pair)
            found = await dkim_keys.of_domain(connection, account_id, domain)
    return found


def shared_domains(settings: Settings) -> frozenset[str]:
    """MAIL_DOMAINS that are names, as lower-case A-labels."""
    return frozenset(address.domain_of(f"postmaster@{name}") for name in settings.mail_domains if name != "*")


def house_key(settings: Settings) -> tuple[str, dkim.Private] | None:
    """Selector and key of MAIL_DOMAINS; None = none is set. Raises ConfigurationError."""
    if not settings.dkim_key_file:
        return None
    try:
        return settings.dkim_selector, dkim.from_pem(Path(settings.dkim_key_file).read_bytes())
    except (OSError, dkim.UnusableKey) as error:
        raise ConfigurationError(f"DKIM_KEY_FILE: {error}") from error
