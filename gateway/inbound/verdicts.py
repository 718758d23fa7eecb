"""Who sent it? SPF, DKIM, ARC and DMARC of one message, judged together within a deadline.

    examine   what the raw mail has to say, hashed: no look-ups, all of the work that grows with the mail
    judge     asks the DNS for all that is needed, everything at once; what is not known in time is `temperror`

Nothing that arrived as an Authentication-Results field is ever believed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import structlog

from gateway.inbound import spf
from gateway.mail import charsets
from gateway.mail.auth import arc, dkim, dmarc
from gateway.resolving import NamesAway, NoSuchName, Resolver

log = structlog.get_logger(__name__)

SECONDS: Final = 5.0  # for all of a message
MAX_SIGNATURES: Final = 5  # judged; those that speak for the author's domain first
MAX_LOOKED_AT: Final = 50  # signatures that are read at all
LATE: Final = "the DNS did not answer in time"
_RANKS: Final = ("pass", "temperror", "fail", "permerror")  # which of several signatures speaks for the message


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """Who handed the message in, as the envelope has it."""

    remote_ip: str  # empty = nobody over SMTP
    mail_from: str  # empty = <>
    helo: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Signed:
    """One DKIM signature, and what came of it."""

    result: str  # pass, fail, temperror, permerror
    domain: str = ""  # empty = it could not be read
    selector: str = ""
    algorithm: str = ""
    reason: str = ""  # for people; empty = nothing to say


@dataclass(frozen=True, kw_only=True, slots=True)
class Chained:
    """What the received chain is worth."""

    result: str  # none, pass, fail, temperror
    sealer: str = ""  # domain of the newest seal; empty = none
    length: int = 0
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """The DMARC record that holds for a domain."""

    record: dmarc.Record
    domain: str  # where it was found
    policy: str  # that holds for the domain asked about


@dataclass(frozen=True, kw_only=True, slots=True)
class Claimed:
    """What DMARC says."""

    result: str  # pass, fail, none, temperror, permerror
    domain: str = ""  # in From; empty = not one
    policy: str = ""  # none, quarantine, reject; empty = no record
    reason: str = ""
    by: tuple[str, ...] = ()  # what proved it: spf, dkim, arc
    percent: int = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """A message, as far as its sender's proofs go."""

    author: str  # domain in From; empty = there is not exactly one
    no_author: str  # why; empty = there is one
    hashed: tuple[dkim.Hashed, ...]  # signatures that a key can decide
    refused: tuple[Signed, ...]  # those that no key can help
    chain: arc.Chain


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """All of it."""

    spf: spf.Outcome
    signatures: tuple[Signed, ...]
    chain: Chained
    dmarc: Claimed

    @property
    def dkim(self) -> str:
        """One word for all signatures: the best there is."""
        results = {signed.result for signed in self.signatures}
        return next((rank for rank in _RANKS if rank in results), "none")

    @property
    def fails(self) -> bool:
        """Whether the sender is not who the message says: DMARC fails; or From names not exactly one author; or nobody
        published what DMARC should say, SPF forbids the client, and no signature holds. Not knowing is no failure."""
        if self.dmarc.result in {"fail", "permerror"}:
            return True
        unproved = self.dmarc.result == "none" and self.dkim not in {"pass", "temperror"}
        return unproved and self.spf.result == "fail"

    def told(self) -> dict[str, str]:
        """The words alone, as events tell them."""
        return {"spf": self.spf.result, "dkim": self.dkim, "dmarc": self.dmarc.result, "arc": self.chain.result}

    def stored(self) -> dict[str, Any]:
        """With what they come from, as messages.auth keeps it."""
        return {**self.told(), "details": self._details()}

    def _details(self) -> dict[str, Any]:
        claimed, chain = self.dmarc, self.chain
        details: dict[str, Any] = {
            "spf": _said(domain=self.spf.domain, identity=self.spf.identity, reason=self.spf.reason),
            "dkim": [
                {"result": one.result}
                | _said(domain=one.domain, selector=one.selector, algorithm=one.algorithm, reason=one.reason)
                for one in self.signatures
            ],
            "dmarc": _said(domain=claimed.domain, policy=claimed.policy, reason=claimed.reason)
            | {"by": list(claimed.by), "pct": claimed.percent},
        }
        if chain.length:
            details["arc"] = _said(sealer=chain.sealer, reason=chain.reason) | {"length": chain.length}
        return details


def _said(**values: str) -> dict[str, str]:
    """Those that say something, storable and no longer than need be."""
    return {name: charsets.clean(value[:255]) for name, value in values.items() if value}


def examine(raw: bytes) -> Evidence:
    """What the message has to say. Takes time linear in its size: off the event loop where it is large."""
    letter = dkim.Letter(raw)
    author, no_author = "", ""
    try:
        author = dmarc.author(letter)
    except dmarc.NoAuthor as error:
        no_author = str(error)
    if letter.too_large:
        refused = Signed(result="permerror", reason="the header is too large")
        return Evidence(author=author, no_author=no_author, hashed=(), refused=(refused,), chain=arc.Chain())
    hashed, refused_ones = _signatures(letter, author)
    return Evidence(author=author, no_author=no_author, hashed=hashed, refused=refused_ones, chain=arc.read(letter))


def _signatures(letter: dkim.Letter, author: str) -> tuple[tuple[dkim.Hashed, ...], tuple[Signed, ...]]:
    read: list[tuple[dkim.Signature, dkim.Field]] = []
    refused: list[Signed] = []
    for carrier in letter.named(b"dkim-signature")[:MAX_LOOKED_AT]:
        try:
            read.append((dkim.parse(carrier), carrier))
        except dkim.Unacceptable as error:
            refused.append(Signed(result=error.result, reason=str(error)))
    read.sort(key=lambda one: not dmarc.aligned(one[0].domain, author, strict=False))
    hashed: list[dkim.Hashed] = []
    for signature, carrier in read[:MAX_SIGNATURES]:
        try:
            hashed.append(letter.hashed(signature, carrier))
        except dkim.Unacceptable as error:
            refused.append(_signed(signature, error.result, str(error)))
    return tuple(hashed), tuple(refused[:MAX_SIGNATURES])


def _signed(signature: dkim.Signature, result: str, reason: str = "") -> Signed:
    return Signed(
        result=result,
        domain=signature.domain,
        selector=signature.selector,
        algorithm=signature.algorithm,
        reason=reason,
    )


@dataclass(kw_only=True, slots=True)
class _Keys:
    """Public keys, each asked for once a message."""

    resolver: Resolver
    asked: dict[str, asyncio.Task[dkim.Key]] = field(default_factory=dict)

    async def get(self, name: str) -> dkim.Key:
        """Raises Unacceptable, NamesAway."""
        if name not in self.asked:
            self.asked[name] = asyncio.create_task(self._fetch(name))
        return await asyncio.shield(self.asked[name])

    async def _fetch(self, name: str) -> dkim.Key:
        try:
            texts = await self.resolver.txt(name)
        except NoSuchName:
            texts = []
        return dkim.key(texts)

    async def close(self) -> None:
        for task in self.asked.values():
            task.cancel()
        await asyncio.gather(*self.asked.values(), return_exceptions=True)


class Judge:
    """Judges messages, one by one, any number at once."""

    def __init__(self, resolver: Resolver, *, trusted_sealers: Sequence[str] = ()) -> None:
        """`trusted_sealers`: domains whose word counts for mail that they changed on its way (ARC)."""
        self._resolver = resolver
        self._trusted = frozenset(domain.lower() for domain in trusted_sealers)

    async def judge(self, peer: Peer, evidence: Evidence, *, now: datetime, seconds: float = SECONDS) -> Verdict:
        """Never raises for what the message or the DNS is; what is not known after `seconds` is temperror."""
        keys = _Keys(resolver=self._resolver)
        asked = [
            asyncio.create_task(self._spf(peer)),
            asyncio.create_task(self.published(evidence.author)),
            asyncio.create_task(self._chain(evidence.chain, keys, now)),
        ]
        verified = [asyncio.create_task(self._verified(one, keys, now)) for one in evidence.hashed]
        try:
            await asyncio.wait([*asked, *verified], timeout=max(seconds, 0))
        finally:
            await _end([*asked, *verified])
            await keys.close()
        return self._concluded(evidence, asked, verified)

    def _concluded(self, evidence: Evidence, asked: Sequence[Any], verified: Sequence[Any]) -> Verdict:
        sender = _outcome(asked[0], spf.Outcome(result="temperror", reason=LATE))
        published: Published | str | None = _outcome(asked[1], LATE)
        chain = _outcome(asked[2], Chained(result="temperror", length=evidence.chain.length, reason=LATE))
        signatures = [
            _outcome(task, _signed(one.signature, "temperror", LATE))
            for one, task in zip(evidence.hashed, verified, strict=True)
        ]
        signatures += evidence.refused
        claimed = _claim(evidence, published, sender, signatures)
        claimed = self._vouched(claimed, chain, evidence.chain)
        return Verdict(spf=sender, signatures=tuple(signatures), chain=chain, dmarc=claimed)

    def _vouched(self, claimed: Claimed, chain: Chained, read: arc.Chain) -> Claimed:
        """Somebody trusted passed it on, and says that it was in order when it came (RFC 8617 7.2.1)."""
        if claimed.result != "fail" or chain.result != "pass" or chain.sealer not in self._trusted:
            return claimed
        reported = read.reported or {}
        if reported.get("dmarc") == "fail" and reported.get("arc") != "pass":
            return claimed
        return Claimed(
            result="pass",
            domain=claimed.domain,
            policy=claimed.policy,
            reason=f"arc: {chain.sealer} vouches for it",
            by=("arc",),
            percent=claimed.percent,
        )

    async def _spf(self, peer: Peer) -> spf.Outcome:
        return await spf.check(self._resolver, remote_ip=peer.remote_ip, mail_from=peer.mail_from, helo=peer.helo)

    async def _verified(self, hashed: dkim.Hashed, keys: _Keys, now: datetime) -> Signed:
        signature = hashed.signature
        try:
            key = await keys.get(signature.key_name)
            dkim.verify(hashed, key, now)
        except dkim.Unacceptable as error:
            return _signed(signature, error.result, str(error))
        except NamesAway:
            return _signed(signature, "temperror", "the DNS did not answer")
        notes = ["the key is marked as a test"] if key.testing else []
        if hashed.uncovered:
            notes.append(f"the last {hashed.uncovered} octets of the body are not signed (l=)")
        return _signed(signature, "pass", "; ".join(notes))

    async def _chain(self, chain: arc.Chain, keys: _Keys, now: datetime) -> Chained:
        if not chain.length:
            return Chained(result="none")
        result, reason = "fail", chain.broken
        if not reason:
            result, reason = await _links(chain, keys, now)
        return Chained(result=result, sealer=chain.sealer, length=chain.length, reason=reason)

    async def published(self, author: str) -> Published | str | None:
        """The record for a domain; a text = it cannot be known, and why."""
        if not author:
            return None
        organization = dmarc.organization(author)
        try:
            for domain in dict.fromkeys((author, organization)):
                record = dmarc.select(await self._texts(f"_dmarc.{domain}"))
                if record is not None:
                    policy = record.policy if domain == author else await self._for_subdomain(record, author)
                    return Published(record=record, domain=domain, policy=policy)
        except NamesAway:
            return "the DNS did not answer"
        return None

    async def _texts(self, name: str) -> list[bytes]:
        try:
            return await self._resolver.txt(name)
        except NoSuchName:
            return []

    async def _for_subdomain(self, record: dmarc.Record, author: str) -> str:
        if record.absent != record.subdomains:
            try:
                await self._resolver.a(author)
            except NoSuchName:
                return record.absent
        return record.subdomains


async def _links(chain: arc.Chain, keys: _Keys, now: datetime) -> tuple[str, str]:
    """Whether every link holds: the newest message signature and all seals (RFC 8617 5.2)."""
    for number, hashed in enumerate(chain.signatures):
        name = "the newest message signature" if number == 0 else f"seal {chain.length - number + 1}"
        try:
            dkim.verify(hashed, await keys.get(hashed.signature.key_name), now)
        except dkim.Unacceptable as error:
            return "fail", f"{name}: {error}"
        except NamesAway:
            return "temperror", f"{name}: the DNS did not answer"
    return "pass", ""


def _claim(
    evidence: Evidence, published: Published | str | None, sender: spf.Outcome, signatures: Sequence[Signed]
) -> Claimed:
    """DMARC (RFC 7489 6.6.2) of what is known."""
    author = evidence.author
    if not author:
        return Claimed(result="permerror", reason=evidence.no_author)
    if isinstance(published, str):
        return Claimed(result="temperror", domain=author, reason=published)
    if published is None:
        return Claimed(result="none", domain=author, reason="no DMARC record")
    record = published.record
    results = {
        "spf": {sender.result} if dmarc.aligned(sender.domain, author, strict=record.strict_spf) else set(),
        "dkim": {one.result for one in signatures if dmarc.aligned(one.domain, author, strict=record.strict_dkim)},
    }
    by = tuple(name for name, found in results.items() if "pass" in found)
    if by:
        result, reason = "pass", ""
    elif sender.unknown_client:  # mail handed in by HTTP: SPF, which might prove it, cannot be asked
        result, reason = "none", "no signature proves it, and the client's address is not known"
    elif "temperror" in results["spf"] | results["dkim"]:
        result, reason = "temperror", "a proof for this domain could not be looked up"
    else:
        result, reason = "fail", f"nothing proves that it is from {author}"
    return Claimed(result=result, domain=author, policy=published.policy, reason=reason, by=by, percent=record.percent)


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _outcome(task: asyncio.Task[Any], late: Any) -> Any:
    """What came of it; `late` where nothing did."""
    if task.cancelled():
        return late
    error = task.exception()
    if error is not None:  # a mistake of ours must not keep the message from its reader
        log.error("judging failed", exc_info=error)
        return late
    return task.result()


def unknown(reason: str) -> Verdict:
    """The verdict where nobody could say anything."""
    return Verdict(
        spf=spf.Outcome(result="temperror", reason=reason),
        signatures=(Signed(result="temperror", reason=reason),),
        chain=Chained(result="none"),
        dmarc=Claimed(result="temperror", reason=reason),
    )
