"""Whether a tenant owns a domain: what must stand in its DNS, what stands there, and who has the domain then.

    ownership   _postroom.<domain> TXT, a value of the account's own: who can put it there owns the domain
    mx          the domain's mail comes here
    dkim        the keys that mail from the domain is signed with, at <selector>._domainkey.<domain>
    spf, dmarc  advice for mail that is sent from the domain
    return_path bounces.<domain>, an alias of RETURN_PATH_DOMAIN: once it was seen, bounces of mail from the domain go
                there, so that SPF is aligned with From (gateway.outbound.returning)

The domain goes to the account whose proof is found. From the account that has it, it passes to another one only when
the DNS shows the other's proof and not its own any more; while the DNS does not answer nothing changes. What the DNS
shows at other times takes a domain from nobody: a record that is removed after the proof harms nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeVar
from uuid import UUID

import structlog

from gateway import errors, tokens
from gateway.inbound import spf
from gateway.mail import address, dkim, verp
from gateway.mail.auth import dmarc
from gateway.models import Origin
from gateway.outbound import signing
from gateway.resolving import Exchanger, NamesAway, NoSuchName, Resolver
from gateway.settings import Settings
from gateway.storage import audit, db, dkim_keys, domains, events

log = structlog.get_logger(__name__)

T = TypeVar("T")
Purpose = Literal["ownership", "mx", "spf", "dkim", "dmarc", "return_path"]
State = Literal["missing", "ok", "wrong", "unknown"]

LABEL: Final = "_postroom"  # below the domain, where the proof stands
MAX_NAME: Final = 225  # octets, so that ed25519-00000000._domainkey.<name> is none that is too long (RFC 1035 2.3.4)
LOOK_SECONDS: Final = 5.0  # one look at the DNS, all questions at once
PRIORITY: Final = 10  # of our MX record
MAX_FOUND: Final = 5  # records of a kind that are told
MAX_FOUND_LENGTH: Final = 300  # characters of each


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A DNS record that should be there."""

    type: Literal["TXT", "MX", "CNAME"]
    name: str
    value: str
    purpose: Purpose
    priority: int | None = None  # MX only
    required: bool = False  # without it no mail comes in
    state: State = "unknown"  # at the last look; unknown = there was none, or the DNS did not say
    found: tuple[str, ...] = ()  # what stands there instead


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What the DNS said."""

    records: tuple[Record, ...]
    proofs: frozenset[str] | None  # all that stands where the proof should; None = the DNS did not say


def canonical(name: str) -> str:
    """A domain as it is kept: lower-case A-labels. ValueError says for a person what is wrong with it."""
    name = name.removesuffix(".")
    if len(name.encode()) > MAX_NAME:
        raise ValueError(f"longer than {MAX_NAME} octets")
    try:
        found = address.parse(f"a@{name}").ascii_domain
    except address.InvalidAddress:
        raise ValueError("not a domain name") from None
    if len(found) > MAX_NAME:
        raise ValueError(f"longer than {MAX_NAME} octets")
    if "." not in found:
        raise ValueError("not a domain that anybody could own")
    return found


class Domains:
    """Looks at the DNS and judges claims."""

    def __init__(
        self,
        database: db.Database,
        resolver: Resolver,  # without a cache: who has just changed a record wants it seen
        keyring: tokens.Keyring,
        settings: Settings,
        *,
        told: Callable[[Iterable[UUID]], None],  # called after a commit with the accounts whose logs grew
    ) -> None:
        self._database = database
        self._resolver = resolver
        self._keyring = keyring
        self._host = settings.hostname.lower().rstrip(".")
        self._return_domain = settings.return_path_domain
        self._shared = (*settings.mail_domains, *filter(None, [self._return_domain]))
        self._told = told

    def check(self, name: str, *, wildcard: bool) -> None:
        """Raises ValidationFailed where the domain, or one that it would cover, is the public's or all accounts'.

        The first call reads the public suffix list, which takes a while."""
        if dmarc.is_public(name):
            raise errors.invalid("name", "a public suffix: everybody registers domains below it")
        for shared in self._shared:
            if name == shared or name.endswith(f".{shared}"):
                raise errors.invalid("name", f"{shared} is shared by all accounts here: nobody can claim it")
            if wildcard and shared.endswith(f".{name}"):
                raise errors.invalid("wildcard", f"{shared} is shared by all accounts here: nobody can claim it")

    def records(self, account_id: UUID, claim: domains.Claim, keys: Sequence[dkim_keys.DkimKey]) -> list[Record]:
        """What should stand in the DNS, with what the last look found."""
        known = {(found["purpose"], found["name"]): found for found in claim.records}
        shown = []
        for record in self._wanted(account_id, claim, keys):
            found = known.get((record.purpose, record.name))
            shown.append(replace(record, state=found["state"], found=tuple(found["found"])) if found else record)
        return shown

    async def verify(self, account_id: UUID, name: str) -> None:
        """Look now, and let the domain have whom it belongs to. Raises NotFound where there is no such claim."""
        async with self._database.connection() as connection:
            claim = await domains.get(connection, account_id, name)
        if claim is None:
            raise errors.NotFound
        keys = await signing.ensure_keys(self._database, self._keyring, account_id, name)
        look = await self._look(account_id, claim, keys)
        async with self._database.transaction() as connection:
            grown = await self._settle(connection, account_id, name, look)
            await events.append_all(connection, grown)
        self._told(grown)

    async def new_keys(self) -> Sequence[dkim_keys.NewKey]:
        """What a domain's mail is signed with, still nobody's."""
        return await asyncio.to_thread(dkim_keys.new_pair, self._keyring)

    async def rotate(self, account_id: UUID, name: str, origin: Origin) -> None:
        """New keys, which take over once `verify` has seen their records. Raises NotFound, and InvalidState where the
        newest ones were not seen yet: what was just published must not become worthless."""
        pair = await self.new_keys()
        async with self._database.transaction() as connection:
            await domains.take_turn(connection, name)
            if await domains.get(connection, account_id, name) is None:
                raise errors.NotFound
            if self._wait_to_be_seen(await dkim_keys.of_domain(connection, account_id, name)):
                raise errors.InvalidState("The newest DKIM keys were not seen in the DNS yet: publish and verify them.")
            await dkim_keys.replace_waiting(connection, account_id, name, pair)
            selectors = sorted(key.selector for key in pair)
            await audit.write(connection, account_id, "domain.keys_rotated", origin, name=name, selectors=selectors)
        self._told([account_id])
        log.info("dkim keys rotated", account_id=str(account_id), domain=name)

    def _wait_to_be_seen(self, keys: Sequence[dkim_keys.DkimKey]) -> bool:
        """Whether there are keys, made together, that could sign and of which none was ever seen."""
        seen = {key.pair for key in keys if key.activated_at is not None}
        waiting = [key for key in keys if key.status == "waiting" and key.pair not in seen]
        return any(self._can_sign(key) for key in waiting)

    def _can_sign(self, key: dkim_keys.DkimKey) -> bool:
        try:
            key.private(self._keyring)
        except (tokens.Unreadable, dkim.UnusableKey):
            return False
        return True

    # Judging

    async def _settle(
        self, connection: db.Connection, account_id: UUID, name: str, look: Look
    ) -> dict[UUID, list[events.NewEvent]]:
        """Write down what was seen and who has the domain by it; the events, by account."""
        await domains.take_turn(connection, name)
        claim = await domains.get(connection, account_id, name)
        if claim is None:
            raise errors.NotFound
        await domains.looked(connection, account_id, name, [_kept(record) for record in look.records])
        await self._settle_keys(connection, account_id, name, look)
        holder = await domains.holder(connection, name)
        if look.proofs is None or holder == account_id:
            return {}
        if self.proof(account_id, name) not in look.proofs:
            return await _failed(connection, account_id, name, "the ownership record is not there")
        if holder is not None and self.proof(holder, name) in look.proofs:
            return await _failed(connection, account_id, name, "another account has the domain and its record is there")
        return await _passed(connection, claim, account_id, holder)

    async def _settle_keys(self, connection: db.Connection, account_id: UUID, name: str, look: Look) -> None:
        """Keys whose records were seen take over."""
        selectors = [_selector(record) for record in look.records if record.purpose == "dkim" and record.state == "ok"]
        if await dkim_keys.seen(connection, account_id, name, selectors):
            log.info("dkim keys in use", account_id=str(account_id), domain=name, selectors=selectors)

    def proof(self, account_id: UUID, name: str) -> str:
        """What only this account is told to put below this domain."""
        return f"postroom-verification={self._keyring.derive('domain', account_id.bytes + name.encode())[:20].hex()}"

    # Looking

    async def look(self, wanted: Sequence[Record]) -> list[Record]:
        """The records with what the DNS says of them now. Nothing is written down."""
        answers = await asyncio.gather(*(self._ask(record) for record in wanted))
        judged = zip(wanted, answers, strict=True)
        return list(await asyncio.gather(*(self._verdict(record, answer) for record, answer in judged)))

    def mail_records(self, name: str, keys: Iterable[Record], *, wildcard: bool = False) -> list[Record]:
        """What mail to and from a domain needs, whoever has it."""
        mx = Record(type="MX", name=name, value=self._host, priority=PRIORITY, purpose="mx", required=True)
        return [
            mx,
            *([replace(mx, name=f"*.{name}")] if wildcard else []),
            Record(type="TXT", name=name, value=f"v=spf1 a:{self._host} ~all", purpose="spf"),
            Record(type="TXT", name=f"_dmarc.{name}", value="v=DMARC1; p=none", purpose="dmarc"),
            *keys,
        ]

    def _wanted(self, account_id: UUID, claim: domains.Claim, keys: Sequence[dkim_keys.DkimKey]) -> list[Record]:
        name = claim.name
        proof = Record(
            type="TXT",
            name=f"{LABEL}.{name}",
            value=self.proof(account_id, name),
            purpose="ownership",
            required=True,
        )
        published = [dkim_record(name, key.selector, key.record) for key in keys]
        records = self.mail_records(name, published, wildcard=claim.wildcard)
        return [proof, *records, *self.return_path(name)]

    def return_path(self, name: str) -> Iterable[Record]:
        """MX and SPF at once. Not asked for where there are no return paths, or an address there would be too long."""
        own = verp.own_domain(name)
        if self._return_domain and len(own) <= verp.MAX_DOMAIN:
            yield Record(type="CNAME", name=own, value=self._return_domain, purpose="return_path")

    async def _look(self, account_id: UUID, claim: domains.Claim, keys: Sequence[dkim_keys.DkimKey]) -> Look:
        wanted = self._wanted(account_id, claim, keys)
        answers = await asyncio.gather(*(self._ask(record) for record in wanted))
        proofs = answers[0]
        judged = zip(wanted, answers, strict=True)
        return Look(
            records=tuple(await asyncio.gather(*(self._verdict(record, answer) for record, answer in judged))),
            proofs=None if proofs is None else frozenset(proofs),
        )

    async def _ask(self, record: Record) -> list[str] | None:
        """What stands there, as text; None = the DNS did not say."""
        if record.type == "MX":
            exchangers = await _answer(self._resolver.mx(record.name))
            return None if exchangers is None else _best(exchangers)
        if record.type == "CNAME":
            return await _answer(self._alias(record.name))
        texts = await _answer(self._resolver.txt(record.name))
        return None if texts is None else [text.decode("utf-8", "replace").strip() for text in texts]

    async def _alias(self, name: str) -> list[str]:
        target = await self._resolver.cname(name)
        return [] if target is None else [target]

    async def _verdict(self, record: Record, answer: list[str] | None) -> Record:
        judged = self._judged(record, answer)
        if record.purpose != "spf" or judged.state != "wrong" or len(judged.found) != 1:
            return judged
        return replace(judged, state="ok", found=()) if await self._passes(record.name) else judged

    async def _passes(self, name: str) -> bool:
        """Whether SPF lets every address of our host send for the domain, in whichever words its record says so."""
        addresses = await _answer(self._resolver.addresses(self._host)) or []
        asked = [spf.check(self._resolver, remote_ip=one, mail_from=f"a@{name}", helo=self._host) for one in addresses]
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                outcomes = await asyncio.gather(*asked)
        except TimeoutError:
            return False
        return bool(outcomes) and all(outcome.result == "pass" for outcome in outcomes)

    def _judged(self, record: Record, answer: list[str] | None) -> Record:
        if answer is None:
            return record
        kind = _PREFIXES.get(record.purpose, "")
        found = [text for text in answer if text.lower().startswith(kind)]
        if not found:
            return replace(record, state="missing")
        if self._serves(record, found):
            return replace(record, state="ok")
        return replace(record, state="wrong", found=tuple(text[:MAX_FOUND_LENGTH] for text in found[:MAX_FOUND]))

    def _serves(self, record: Record, found: Sequence[str]) -> bool:
        """Whether what is there does what the record is for."""
        if record.purpose == "spf":  # more than one record is an error (RFC 7208 4.5)
            terms = found[0].lower().split()
            return len(found) == 1 and bool({f"a:{self._host}", f"+a:{self._host}", f"include:{self._host}"} & {*terms})
        if record.purpose == "dmarc":  # any policy is the owner's right; two are none (RFC 7489 6.6.3)
            return len(found) == 1
        if record.purpose == "dkim":
            return dkim.is_published(record.value, found)
        return record.value in found


def dkim_record(name: str, selector: str, value: str) -> Record:
    """Where a key's public half stands."""
    return Record(type="TXT", name=f"{selector}._domainkey.{name}", value=value, purpose="dkim")


def _selector(record: Record) -> str:
    return record.name.partition("._domainkey.")[0]


_PREFIXES: Final = {"spf": "v=spf1", "dmarc": "v=dmarc1"}  # of the texts that matter; others stand beside them


async def _answer(question: Awaitable[list[T]]) -> list[T] | None:
    """None = the DNS did not say."""
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            return await question
    except NoSuchName:
        return []
    except (NamesAway, TimeoutError):
        return None


def _best(exchangers: Sequence[Exchanger]) -> list[str]:
    """The hosts that are tried first (RFC 5321 5.1): where all is well, ours is among them."""
    return [one.host for one in exchangers if one.preference == exchangers[0].preference]


def _kept(record: Record) -> dict[str, Any]:
    kept = {"purpose": record.purpose, "name": record.name, "state": record.state, "found": list(record.found)}
    return kept | {"value": record.value} if record.type == "CNAME" else kept  # an alias is good for what it leads to


async def _failed(
    connection: db.Connection, account_id: UUID, name: str, reason: str
) -> dict[UUID, list[events.NewEvent]]:
    """Told once, until it is verified again."""
    if not await domains.fail(connection, account_id, name):
        return {}
    log.info("domain failed", account_id=str(account_id), domain=name, reason=reason)
    return {account_id: [_event("domain.failed", {"name": name, "reason": reason})]}


async def _passed(
    connection: db.Connection, claim: domains.Claim, account_id: UUID, holder: UUID | None
) -> dict[UUID, list[events.NewEvent]]:
    """The domain is the account's. Addresses there that were somebody else's stay so until they are reclaimed."""
    grown: dict[UUID, list[events.NewEvent]] = {}
    if holder is not None:
        grown |= await _failed(connection, holder, claim.name, "another account has proved to own the domain")
    await domains.win(connection, account_id, claim.name, wildcard=claim.wildcard)
    log.info("domain verified", account_id=str(account_id), domain=claim.name)
    return {**grown, account_id: [_event("domain.verified", {"name": claim.name})]}


def _event(type: str, data: dict[str, Any]) -> events.NewEvent:
    return events.NewEvent(type=type, data=events.encode(data))
