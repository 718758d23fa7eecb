"""The carrier: takes due recipients under a lease, hands each to a provider, and writes down what came of it.

    claim (committed) → provider → verdict (committed with the verdicts of others) → event

The lease is committed before the network is touched and renewed while it is; a worker that dies simply stops renewing,
and another takes over. Some are claimed ahead, so that the network need not wait for claims, nor for verdicts to be
written; whose lease ran out meanwhile, as in a process that was halted, is not sent. A verdict that could not be
written yet is kept and tried again, for the mail is out. Whose destination may not be written to now goes back untried.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import prometheus_client
import structlog

from gateway import loops, tracing
from gateway.errors import PostroomError, Unavailable
from gateway.mail import address, classify
from gateway.outbound import refusals, signing, unsubscribe
from gateway.outbound.feedback import Feedback
from gateway.outbound.parking import Parking
from gateway.outbound.providers import replies
from gateway.outbound.providers.contract import AboutToCommit, Outcome, Outgoing, Verdict
from gateway.outbound.providers.local import LocalProvider
from gateway.outbound.retry import Schedule
from gateway.outbound.returning import Returning
from gateway.outbound.route import OPEN_SECONDS, Router, Try
from gateway.outbound.shaping import ENDING, HeldBack, Shaping, evenly
from gateway.outbound.standing import Standing
from gateway.settings import Settings
from gateway.storage import db, emails, events, leases
from gateway.storage.clock import Clock
from gateway.storage.committer import Committer

log = structlog.get_logger(__name__)

# outcome: the provider's word (sent, delivered, deferred, bounced, failed, unknown, provider_fault)
ATTEMPTS = prometheus_client.Counter("postroom_delivery_attempts", "Attempts at one recipient", ["provider", "outcome"])
# class: the rule's (hard, quota, policy, content, network, soft, unknown); status: what became of the recipient
REFUSALS: Final = prometheus_client.Counter(
    "postroom_delivery_refusals", "Attempts after which a recipient was not taken", ["class", "status"]
)
SECONDS = prometheus_client.Histogram(
    "postroom_delivery_seconds",
    "Length of an attempt",
    ["provider"],
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 30, 120, 600),
)
HANDOVER: Final = prometheus_client.Histogram(
    "postroom_handover_seconds",
    "Time from when a recipient was due to when the next hop had it",
    ["provider"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800, 7200, 28_800, 86_400),
)

CHUNK: Final = 50  # recipients of one claim; small, so that accounts take turns
AHEAD: Final = 4  # recipients in hand, times those that the network may have at once
LARGE_AT_ONCE: Final = 67_108_864  # bytes of large mail in memory, but for signatures and the form on the wire
VERDICTS: Final = 200  # written in one transaction
REPLY_KEPT: Final = 1000  # characters
KEEP_THEIR_OWN: Final = ("local", "mailgun", "postmark")  # providers that do not use return paths of ours
AGAIN_SECONDS: Final = 0.5  # between tries to write a verdict while the database is away
_encode: Final = msgspec.json.Encoder().encode


class LeaseLost(PostroomError):
    """Another worker has taken the recipient over: nothing may be sent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fate:
    """What becomes of a recipient."""

    status: str
    again_in: float | None = None  # seconds; None = no more attempts
    outcome: Outcome | None = None  # what the rules make of the attempt's; None = what its provider said


@dataclass(kw_only=True, slots=True)
class Held:
    """A recipient in hand."""

    claimed: emails.Claimed
    until: float  # monotonic time at which the lease may run out


class Slots:
    """How many recipients may be in hand in this process. They are taken by several, for each taking is a claim."""

    def __init__(self, count: int, least: int) -> None:
        self._free = count
        self._least = least
        self._changed = asyncio.Condition()

    async def take(self, most: int) -> int:
        """Up to `most`, as soon as `least` are free."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._free >= self._least)
            taken = min(self._free, most)
            self._free -= taken
            return taken

    async def give(self, count: int) -> None:
        if count:
            async with self._changed:
                self._free += count
                self._changed.notify_all()


class Room:
    """Bytes of large mail that this process holds at once. Nobody is overtaken; who wants more than there is has it
    alone."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._free = most
        self._first = asyncio.Lock()
        self._changed = asyncio.Event()

    @contextlib.asynccontextmanager
    async def of(self, size: int) -> AsyncIterator[None]:
        """Entered when there is so much room."""
        taken = min(size, self._most)
        async with self._first:
            while self._free < taken:
                self._changed.clear()
                await self._changed.wait()
            self._free -= taken
        try:
            yield
        finally:
            self._free += taken
            self._changed.set()


class Carrier:
    """All deliveries of one worker process."""

    def __init__(
        self,
        database: db.Database,
        settings: Settings,
        router: Router,
        signer: signing.Signer,
        links: unsubscribe.Links,
        *,
        told: Callable[[Iterable[UUID]], None],
        returning: Returning | None = None,  # None = bounces go to the author
    ) -> None:
        self._database = database
        self._clock = database.clock
        self._settled = functools.partial(_settled, database.clock)
        self._settings = settings
        self._router = router
        self._signer = signer
        self._links = links
        self._told = told
        self._returning = returning or Returning(database, None)
        self._feedback = Feedback(database, told=told)
        self._rules = refusals.Rules(database)
        self._schedule = Schedule.of(settings)
        self._parking = Parking(database, max_age=settings.retry_max_age_seconds, ways=router.ways)
        at_once = settings.outbound_concurrency
        self._shaping = Shaping(in_hand=AHEAD * at_once, at_once=settings.destination_concurrency)
        self._network = asyncio.Semaphore(at_once)
        self._large = Room(LARGE_AT_ONCE)
        self._slots = Slots(AHEAD * at_once, least=max(1, at_once // 2))  # fewer are free: the network has enough
        self._held: dict[UUID, Held] = {}  # by delivery
        self._unheard = leases.Unheard(database, emails.let_go, seconds=settings.lease_seconds)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._committer: Committer[Sequence[emails.Settled], bool] = Committer(
            self._commit,
            find=self._find,
            size=lambda verdicts: sum(len(v.transcript) for v in verdicts),
            max_items=VERDICTS,
        )

    def standing(self) -> Standing:
        """How the ways out stand in this process."""
        return Standing(ways=self._router.standing(), destinations=self._shaping.standing())

    async def drain(self, account_id: UUID) -> None:
        """Begin to deliver everything of the account that is due; returns when nothing more is."""
        while not self._closing:
            free = await self._slots.take(CHUNK)
            claimed: list[emails.Claimed] = []
            until = time.monotonic() + self._settings.lease_seconds
            try:
                claimed = await self._claim(account_id, free)
            finally:
                await self._slots.give(free - len(claimed))
            for one in claimed:
                self._start(Held(claimed=one, until=until))
            if len(claimed) < free:
                return

    async def look(self) -> list[UUID]:
        """Accounts with somebody to write to now, whoever should have said so."""
        await self._unheard.let_go()
        async with self._database.connection() as connection:
            return await emails.due_accounts(connection, 1000)

    async def renew_leases(self) -> None:
        """Heartbeat, until cancelled."""
        while True:
            await asyncio.sleep(self._settings.heartbeat_seconds)
            try:
                await self._renew()
            except Unavailable:
                log.warning("leases not renewed: database away", leases=len(self._held))

    async def close(self, seconds: float) -> int:
        """Begin nothing new; how many deliveries were still under way after `seconds` (their leases run out)."""
        self._closing = True
        left = await loops.end(self._tasks, seconds)
        await self._router.close()
        return left

    async def _claim(self, account_id: UUID, limit: int) -> list[emails.Claimed]:
        with self._unheard.claiming(account_id) as lease_id:
            async with self._database.connection() as connection:
                return await emails.claim(
                    connection, account_id, lease_id=lease_id, lease_seconds=self._settings.lease_seconds, limit=limit
                )

    def _start(self, held: Held) -> None:
        self._held[held.claimed.id] = held
        task = asyncio.create_task(self._carry(held))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _renew(self) -> None:
        by_lease: dict[tuple[UUID, UUID], list[UUID]] = defaultdict(list)
        for held in self._held.values():
            by_lease[held.claimed.account_id, held.claimed.lease_id].append(held.claimed.id)
        for (account_id, lease_id), ids in by_lease.items():
            until = time.monotonic() + self._settings.lease_seconds
            async with self._database.connection() as connection:
                seconds = self._settings.lease_seconds
                standing = await emails.renew(connection, account_id, lease_id, sorted(ids), seconds)
            self._note(lease_id, ids, standing, until)

    def _note(self, lease_id: UUID, ids: Sequence[UUID], standing: set[UUID], until: float) -> None:
        """Of the leases, those that stand hold until then; the others are lost, unless their verdict came meanwhile."""
        for delivery_id in ids:
            held = self._held.get(delivery_id)
            if held is None or held.claimed.lease_id != lease_id:  # its verdict came, or it was claimed anew
                continue
            held.until = until if delivery_id in standing else 0
            if not held.until:
                log.warning("lease lost", account_id=str(held.claimed.account_id), delivery_id=str(delivery_id))

    async def _carry(self, held: Held) -> None:
        with tracing.within(tracing.of_stored(held.claimed.trace)):
            await self._carry_on(held)

    async def _carry_on(self, held: Held) -> None:
        claimed = held.claimed
        try:
            done = self._over(claimed) or await self._in_turn(held)
            if isinstance(done, HeldBack):
                await self._hold_back(held, done)
            else:
                await self._write(done)
        except LeaseLost:
            log.warning("not sent: lease lost", delivery_id=str(claimed.id), email_id=str(claimed.email_id))
        except Exception:  # this recipient alone; its lease runs out and somebody tries again
            log.exception("delivery failed", delivery_id=str(claimed.id), email_id=str(claimed.email_id))
        finally:
            self._let_go(held)
            await self._slots.give(1)

    def _let_go(self, held: Held) -> None:
        """It is in hand no more. Where the recipient was claimed anew meanwhile, that claim still is."""
        if self._held.get(held.claimed.id) is held:
            del self._held[held.claimed.id]

    async def _in_turn(self, held: Held) -> list[emails.Settled] | HeldBack:
        """What is to be written, unless the recipient's destination may not be written to now."""
        claimed = held.claimed
        provider = await self._router.first(_outgoing(claimed, claimed.raw or b""))
        if provider is None:
            return await self._over_network(held, time.monotonic())
        destination = self._shaping.destination(provider, claimed.domain)
        turn = await destination.turn()
        if isinstance(turn, HeldBack):
            return turn
        try:
            return await self._over_network(held, turn)
        finally:
            destination.leave(turn)

    async def _over_network(self, held: Held, turn: float) -> list[emails.Settled] | HeldBack:
        claimed = held.claimed
        room = contextlib.nullcontext() if claimed.raw is not None else self._large.of(claimed.size)
        async with room, self._network:
            _check_lease(held)
            return await self._attempt(held, turn)

    async def _hold_back(self, held: Held, held_back: HeldBack) -> None:
        """Give the recipient back untried, or up, where its time is over and its destination at fault."""
        if held_back.reason in ENDING and self._parking.seconds_left(held.claimed) <= 0:
            verdict = _without_network("failed", f"given up: {held_back.told}")
            await self._write([self._settled(held.claimed, verdict, Fate(status="failed"))])
            return
        self._let_go(held)  # a lease that is given back is not renewed
        while time.monotonic() < held.until:
            try:
                await self._parking.give_back(held.claimed, held_back)
            except Unavailable:
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                return

    def _over(self, claimed: emails.Claimed) -> list[emails.Settled] | None:
        """What is to be written of a recipient whose fate needs no network."""
        if claimed.was_in_data and claimed.on_unknown == "hold":
            lost = "the worker was lost after DATA and before the reply; held, as asked"
            returns = self._returning.applies(claimed)
            return [self._settled(claimed, _without_network("unknown", lost), Fate(status="unknown"), returns=returns)]
        if claimed.expires_at is not None and claimed.expires_at <= self._clock.now():
            late = _without_network("failed", "expired before it could be sent")
            return [self._settled(claimed, late, Fate(status="failed"))]
        if claimed.suppressed:
            listed = "on the suppression list since it was accepted"
            return [self._settled(claimed, _without_network("failed", listed), Fate(status="suppressed"))]
        return None

    async def _attempt(self, held: Held, turn: float) -> list[emails.Settled] | HeldBack:
        """What is to be written: one row for each provider tried, the last of which decides. `turn`: when it came."""
        claimed = held.claimed
        try:
            raw = await self._ready(claimed)
        except (signing.NotSigned, unsubscribe.NoLink) as error:
            verdict = _without_network(error.outcome, str(error))
            return [self._settled(claimed, verdict, self._fate(claimed, verdict.verdict))]
        return_path = await self._returning.path(claimed)
        _check_lease(held)  # again: a slow database may have taken longer than it lasts
        tries = await self._router.send(_outgoing(claimed, raw, return_path), about_to_commit=self._guard(claimed))
        if left_alone := _left_alone(tries):
            return left_alone
        for one in tries:
            if one.provider not in {"", LocalProvider.name}:
                self._shaping.hear(one.provider, claimed.domain, one.verdict, turn)
            _counter(one.provider, one.verdict.outcome).inc()
            _histogram(one.provider).observe((one.verdict.finished_at - one.verdict.started_at).total_seconds())
        if tries[-1].verdict.outcome in ("sent", "delivered"):
            taken_at = self._clock.corrected(tries[-1].verdict.finished_at)
            _handover(tries[-1].provider).observe((taken_at - claimed.queued_at).total_seconds())
        return await self._judged(claimed, tries, returns=return_path != "")

    async def _judged(self, claimed: emails.Claimed, tries: Sequence[Try], *, returns: bool) -> list[emails.Settled]:
        own = (
            await self._own_rules(claimed.account_id)
            if any(one.verdict.outcome in refusals.READ for one in tries)
            else ()
        )
        found = [refusals.explained(one, own) for one in tries]
        fates = [*(None for _ in tries[:-1]), self._fate_by_rules(claimed, tries[-1], found[-1])]
        if found[-1] is not None and fates[-1] is not None:
            REFUSALS.labels(found[-1].kind, fates[-1].status).inc()
        _log_attempts(claimed, tries, found)
        judged = zip(tries, fates, found, strict=True)
        return [self._settled(claimed, one, fate, said, returns=returns) for one, fate, said in judged]

    async def _own_rules(self, account_id: UUID) -> Sequence[classify.Own]:
        """Waits while the database is away, as the verdict would have to: it is not guessed at."""
        while True:
            try:
                return await self._rules.of(account_id)
            except Unavailable:
                await asyncio.sleep(AGAIN_SECONDS)

    async def _ready(self, claimed: emails.Claimed) -> bytes:
        """The message as it goes out. Signatures cover the recipient's link (RFC 8058 4). Raises NotSigned, NoLink."""
        raw = claimed.raw if claimed.raw is not None else await self._read(claimed)
        if claimed.topic is not None:
            raw = self._links.fields(_offer(claimed, claimed.topic)) + raw
        author = claimed.author if claimed.composed_here else None
        return await self._signer.signed(claimed.account_id, raw, author=author)

    async def _read(self, claimed: emails.Claimed) -> bytes:
        """Raises Unavailable: the lease runs out, and somebody tries again."""
        async with self._database.connection() as connection:
            raw = await emails.raw(connection, claimed.account_id, claimed.email_id)
        if raw is None:  # while somebody has it in hand nobody removes it
            raise LeaseLost
        return raw

    def _guard(self, claimed: emails.Claimed) -> AboutToCommit | None:
        """For `hold`: what must be committed before DATA, so that a lost worker leaves the truth behind."""
        if claimed.on_unknown != "hold":
            return None

        async def enter_data() -> None:
            async with self._database.connection() as connection:
                if not await emails.enter_data(connection, claimed.account_id, claimed.id, claimed.lease_id):
                    raise LeaseLost

        return enter_data

    def _fate_by_rules(self, claimed: emails.Claimed, tried: Try, found: classify.Classified | None) -> Fate:
        """A refusal that a rule puts off ends as what it was, once the schedule is through."""
        outcome = refusals.outcome(tried, found)
        if outcome == tried.verdict.outcome:
            return self._fate(claimed, tried.verdict)
        wait = replies.retry_after(tried.verdict.reply)
        fate = self._fate(claimed, dataclasses.replace(tried.verdict, outcome=outcome, retry_after=wait))
        if fate.status == "failed":
            return Fate(status=tried.verdict.outcome)
        return dataclasses.replace(fate, outcome=outcome)

    def _fate(self, claimed: emails.Claimed, verdict: Verdict) -> Fate:
        if verdict.outcome in {"sent", "delivered", "bounced", "failed"}:
            return Fate(status=verdict.outcome)
        if verdict.outcome == "unknown" and claimed.on_unknown == "hold":
            return Fate(status="unknown")
        now = self._clock.now()
        age = (now - claimed.queued_at).total_seconds()
        again_in = self._schedule.next(claimed.number, age=age, retry_after=verdict.retry_after)
        if again_in is not None and _expires_within(claimed, now, again_in):
            again_in = None
        return Fate(status="failed") if again_in is None else Fate(status="deferred", again_in=again_in)

    async def _write(self, verdicts: list[emails.Settled]) -> None:
        """Until it is written: the mail is out, and a verdict that is lost would send it again."""
        while True:
            try:
                await self._committer.submit(verdicts)
            except Unavailable:
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                return

    async def _commit(self, batch: Sequence[Sequence[emails.Settled]]) -> list[bool]:
        verdicts = [verdict for one in batch for verdict in one]
        async with self._database.transaction() as connection:
            await emails.settle(connection, verdicts)
        self._told({verdict.account_id for verdict in verdicts})
        await self._catch_up(verdicts)
        return [True] * len(batch)

    async def _catch_up(self, verdicts: Iterable[emails.Settled]) -> None:
        """Callbacks that were faster than the verdict; while the database is away they wait to be posted again."""
        by_provider: dict[str, list[str]] = defaultdict(list)
        for handed in filter(None, map(emails.handed_over, verdicts)):
            if handed.called:
                by_provider[handed.called[0]].append(handed.called[1])
        for provider, provider_ids in by_provider.items():
            try:
                await self._feedback.catch_up(provider, provider_ids)
            except Unavailable:
                log.warning("early callbacks not applied: database away", provider=provider)

    async def _find(self, verdicts: Sequence[emails.Settled]) -> bool | None:
        last = verdicts[-1]
        async with self._database.connection() as connection:
            return await emails.attempt_exists(connection, last.account_id, last.attempt_id) or None


def _log_attempts(claimed: emails.Claimed, tries: Sequence[Try], found: Sequence[classify.Classified | None]) -> None:
    """What was not taken, and whatever somebody follows. Never what was said: a reply may repeat an address."""
    for one, rule in zip(tries, found, strict=True):
        verdict = one.verdict
        if claimed.trace is None and verdict.outcome in ("sent", "delivered"):
            continue
        log.info(
            "delivery attempt",
            account_id=str(claimed.account_id),
            email_id=str(claimed.email_id),
            delivery_id=str(claimed.id),
            number=claimed.number,
            provider=one.provider,
            outcome=verdict.outcome,
            code=verdict.code,
            status=verdict.enhanced,
            rule=rule.rule if rule is not None else None,
        )


def _check_lease(held: Held) -> None:
    """Raises LeaseLost where it may have run out."""
    if time.monotonic() >= held.until:
        raise LeaseLost


def _offer(claimed: emails.Claimed, topic: str) -> unsubscribe.Offer:
    return unsubscribe.Offer(
        account_id=claimed.account_id,
        email_id=claimed.email_id,
        sender=address.domain_of(claimed.author),
        topic=topic,
        address=claimed.canonical,
    )


def _outgoing(claimed: emails.Claimed, raw: bytes, return_path: str = "") -> Outgoing:
    return Outgoing(
        delivery_id=claimed.id,
        account_id=claimed.account_id,
        mail_from=claimed.mail_from,
        rcpt_to=claimed.address,
        raw=raw,
        return_path=return_path,
        smtputf8=not raw.isascii() and not raw.partition(b"\r\n\r\n")[0].isascii(),  # RFC 6532 3.2
        author=claimed.author,
        tags=tuple((tag["name"], tag["value"]) for tag in claimed.tags),
    )


def _left_alone(tries: Sequence[Try]) -> HeldBack | None:
    """Where nobody could be tried at all: until when."""
    verdict = tries[0].verdict
    if tries[0].provider or verdict.retry_after is None:  # somebody was tried; there is nobody who could be
        return None
    spread = functools.partial(evenly, verdict.retry_after, OPEN_SECONDS / 2)
    return HeldBack(reason="circuit", told=verdict.reply, spread=spread)


@functools.cache  # as many as there are series
def _counter(provider: str, outcome: str) -> prometheus_client.Counter:
    return ATTEMPTS.labels(provider, outcome)


@functools.cache
def _histogram(provider: str) -> prometheus_client.Histogram:
    return SECONDS.labels(provider)


@functools.cache
def _handover(provider: str) -> prometheus_client.Histogram:
    return HANDOVER.labels(provider)


def _expires_within(claimed: emails.Claimed, now: datetime, seconds: float) -> bool:
    return claimed.expires_at is not None and now + timedelta(seconds=seconds) >= claimed.expires_at


def _without_network(outcome: str, reply: str) -> Try:
    now = datetime.now(UTC)
    return Try(provider="", verdict=Verdict(outcome=outcome, reply=reply, started_at=now, finished_at=now))  # type: ignore[arg-type] # one of Outcome


def _settled(
    clock: Clock,
    claimed: emails.Claimed,
    tried: Try,
    fate: Fate | None,
    found: classify.Classified | None = None,
    *,
    returns: bool = False,
) -> emails.Settled:
    """`found`: the rule that a refusal is read by; None = it is none, or nobody was asked. `returns`: bounces of what
    was tried come to a return path, if the provider uses it."""
    verdict = tried.verdict
    found = found or refusals.explained(tried)
    suppress = _to_suppress(claimed, tried, fate, found)
    return emails.Settled(
        attempt_id=clock.uuid7(),
        account_id=claimed.account_id,
        delivery_id=claimed.id,
        email_id=claimed.email_id,
        lease_id=claimed.lease_id,
        recipient=claimed.address,
        number=claimed.number,
        status=fate.status if fate else None,
        again_in=fate.again_in if fate else None,
        provider=tried.provider,
        provider_id=verdict.provider_id,
        started_at=clock.corrected(verdict.started_at),
        finished_at=clock.corrected(verdict.finished_at),
        outcome=(fate.outcome if fate else None) or verdict.outcome,
        code=verdict.code,
        reply=_storable(verdict.reply),
        transcript=_encode([_storable(line) for line in verdict.transcript]).decode(),
        event=_event(claimed, tried, fate, suppress, found) if fate else None,
        suppress=suppress,
        classification=found,
        has_return_path=returns and tried.provider.partition(":")[0] not in KEEP_THEIR_OWN,
    )


def _to_suppress(
    claimed: emails.Claimed, tried: Try, fate: Fate | None, found: classify.Classified | None
) -> str | None:
    """The canonical address, where the refusal says that it is at fault. Own mailboxes come and go: never those."""
    if fate is None or fate.status != "bounced" or tried.provider == LocalProvider.name:
        return None
    return claimed.canonical if found is not None and found.suppresses else None


def _storable(text: str) -> str:
    """What Postgres takes: a peer's odd bytes must never keep a verdict from being written."""
    text = text[:REPLY_KEPT]
    return text if text.isprintable() else text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _event(
    claimed: emails.Claimed, tried: Try, fate: Fate, suppress: str | None, found: classify.Classified | None
) -> events.NewEvent:
    more: dict[str, Any] = {}
    if fate.status == "bounced":
        more["suppressed"] = suppress is not None  # whether the address is on the suppression list from here on
    if fate.status in ("bounced", "deferred", "failed") and found is not None:
        more["classification"] = refusals.shown(found)
    return emails.told_of(
        claimed.email_id,
        fate.status,
        claimed.address,
        status=fate.status,
        attempt=claimed.number,
        reply=_storable(tried.verdict.reply),
        provider=tried.provider,
        again_in=fate.again_in,
        more=more,
    )
