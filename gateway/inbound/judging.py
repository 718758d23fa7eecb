"""The judging of senders once their mail is stored: verdicts on what is shown, and what becomes of what is held.

    drain        an account's shown messages behind `judged_seq`, a slice at once, each slice one transaction
    drain_held   held mail, each message by itself: judged within HOLD_SECONDS of its arrival, then shown or dropped
    let_go       held mail that no worker has looked at is shown without a verdict; every process sees to it

Mail that its account has no room for is held likewise, and dropped without a look at its sender.

A worker that dies leaves a claim that runs out; whoever takes over does the same again, and only one of them is heard
(storage.judgements). Mail that never left the house is not judged: its `auth` stays empty.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final
from uuid import UUID

import msgspec
import prometheus_client
import structlog

from gateway import loops
from gateway.errors import ApiError, Unavailable
from gateway.inbound import allowance, verdicts
from gateway.inbound.pace import Pace
from gateway.inbound.parsing import ParsingPool
from gateway.resolving import Resolver
from gateway.settings import Settings
from gateway.storage import db, judgements, messages

log = structlog.get_logger(__name__)

# check: spf, dkim, dmarc, arc; result: the words of RFC 8601
VERDICTS: Final = prometheus_client.Counter("postroom_sender_verdicts", "Verdicts on senders", ["check", "result"])
# outcome: "shown", "flagged", "dropped"
HELD: Final = prometheus_client.Histogram(
    "postroom_held_seconds",
    "Time that mail was held until its sender was judged",
    ["outcome"],
    buckets=(0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 60, 600),
)

HOLD_SECONDS: Final = 5.0  # after its arrival a held message is shown, whatever is known by then
MARGIN_SECONDS: Final = 0.3  # of them, for writing it down
LEASE_SECONDS: Final = 7.0  # of a claim: longer than a verdict and its writing take
SLICE: Final = 50  # shown messages judged at once
CLAIM: Final = 100  # held messages of one claim
HELD_AT_ONCE: Final = 500  # in one process; nearly all of them wait for the DNS
RECENT_SECONDS: Final = 3600.0  # older mail is not judged any more: keys and records may have changed since
WORK_SECONDS: Final = 0.1  # of a slice, at most; what is longer was waiting for the DNS
SMALL: Final = 65_536  # octets; larger mail is read on its own, and hashed in a child process
LARGE_AT_ONCE: Final = 2
WRITING_AT_ONCE: Final = 3  # connections of the pool that releases may take
ACCOUNTS: Final = 1000  # of one look
OVERDUE_SECONDS: Final = 20.0  # then any process lets held mail go
LET_GO_SECONDS: Final = 10.0  # between looks for such mail
EXAMINER: Final = "gateway.inbound.verdicts:examine"  # what the child runs
evidence: Final = msgspec.msgpack.Decoder(verdicts.Evidence).decode  # what it answers
UNAUTHENTICATED: Final = "unauthenticated"  # the label of mail whose sender is not who it says


class Judging:
    """All judging of one process."""

    def __init__(
        self,
        database: db.Database,
        settings: Settings,
        resolver: Resolver,
        pace: Pace,
        *,
        told: Callable[[Iterable[UUID]], None],  # called after each commit with the accounts whose logs grew
    ) -> None:
        self._database = database
        self._judge = verdicts.Judge(resolver, trusted_sealers=settings.arc_trusted_sealers)
        self._judges = settings.sender_auth
        self._hostname = settings.hostname
        self._told = told
        self._allowance = allowance.Allowance(database, settings, told=told)
        self._pace = pace
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._examiners = ParsingPool(EXAMINER, workers=LARGE_AT_ONCE)
        self._slots = asyncio.Semaphore(HELD_AT_ONCE)
        self._writing = asyncio.Semaphore(WRITING_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    # What is shown already

    async def look(self) -> list[UUID]:
        """Accounts with shown messages to judge, among all there are."""
        found: list[UUID] = []
        after: UUID | None = UUID(int=0)
        while after is not None and self._judges:
            async with self._database.connection() as connection:
                some, after = await judgements.unjudged(connection, after_id=after, limit=ACCOUNTS)
            found += some
        return found

    async def drain(self, account_id: UUID) -> None:
        """Everything of the account that is shown and not judged."""
        while self._judges and not self._closing:
            async with self._database.connection() as connection:
                after = await judgements.claim(connection, account_id, lease=LEASE_SECONDS)
                if after is None:
                    return
                todo = await judgements.slice_of(
                    connection, account_id, after, age=RECENT_SECONDS, small=SMALL, limit=SLICE
                )
            began = time.monotonic()
            found = await asyncio.gather(*(self._of_shown(account_id, one) for one in todo.messages))
            await self._settle(account_id, todo, dict(zip((one.id for one in todo.messages), found, strict=True)))
            await self._pace.rest(min(time.monotonic() - began, WORK_SECONDS))
            if not todo.full:
                return

    async def _settle(
        self, account_id: UUID, todo: judgements.Slice, found: dict[UUID, verdicts.Verdict | None]
    ) -> None:
        written = {id: (one.stored(), one.told()) for id, one in found.items() if one is not None}
        async with self._database.transaction() as connection:
            told = await judgements.settle(connection, account_id, todo, written)
        if told is None:
            return
        for one in found.values():
            _count(one)
        if told:
            self._told([account_id])

    async def _of_shown(self, account_id: UUID, one: judgements.Shown) -> verdicts.Verdict | None:
        """None = there is nothing to judge. A message that cannot be judged stands in no other's way."""
        peer = self._peer(one.mail_from, one.envelope)
        try:
            return await self._verdict(account_id, peer, one.content_id, one.raw, seconds=verdicts.SECONDS)
        except ApiError:
            raise
        except Exception:  # this message alone
            log.exception("message not judged", account_id=account_id, message_id=one.id)
            return verdicts.unknown("it could not be read")

    # What is held

    async def look_held(self) -> list[UUID]:
        """Accounts with held mail that nobody judges."""
        async with self._database.connection() as connection:
            return await judgements.due_accounts(connection, overdue=0, limit=ACCOUNTS)

    async def drain_held(self, account_id: UUID) -> None:
        """Begin to judge everything of the account that is held and due; returns when nothing more is."""
        while not self._closing:
            async with self._database.transaction() as connection:
                claimed = await judgements.claim_held(connection, account_id, lease=LEASE_SECONDS, limit=CLAIM)
            began = time.monotonic()
            for one in claimed:
                await self._begin(self._held(account_id, one, began))
            if len(claimed) < CLAIM:
                return

    async def _begin(self, work: Awaitable[None]) -> None:
        await self._slots.acquire()
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._slots.release())

    async def _held(self, account_id: UUID, held: judgements.Held, began: float) -> None:
        """`began`: when its age was told. What goes wrong is logged; the claim runs out and somebody tries again."""
        try:
            if held.quota is not None:
                await self._drop(account_id, held, held.quota)
                return
            left = HOLD_SECONDS - MARGIN_SECONDS - held.age - (time.monotonic() - began)
            verdict = await self._of_held(account_id, held, left)
            async with self._writing:
                await self._release(account_id, held, verdict, time.monotonic() - began)
        except Unavailable:
            log.warning("database away", message_id=held.id)
        except Exception:  # this message alone
            log.exception("held message failed", account_id=account_id, message_id=held.id)

    async def _of_held(self, account_id: UUID, held: judgements.Held, left: float) -> verdicts.Verdict | None:
        peer = self._peer(held.message.mail_from, msgspec.json.decode(held.message.envelope))
        if not self._judges or peer is None:
            return None
        if left <= 0:
            return verdicts.unknown("nobody judged it in time")
        return await self._verdict(account_id, peer, held.content_id, None, seconds=left)

    async def _release(
        self, account_id: UUID, held: judgements.Held, verdict: verdicts.Verdict | None, waited: float
    ) -> None:
        """The message is shown, or it is dropped; exactly once, whoever else tries to."""
        fails = verdict is not None and verdict.fails
        dropped = fails and held.policy == "drop-on-fail"
        labels = [UNAUTHENTICATED] if fails and not dropped else []
        async with self._database.transaction() as connection:
            if dropped and verdict is not None:
                done = await judgements.drop(connection, account_id, held, _why(held, verdict))
            else:
                auth = verdict.stored() if verdict is not None else {}
                shown = _telling(held, verdict, labels)
                done = await judgements.show(connection, account_id, shown, auth=auth, labels=labels)
        if not done:
            return
        _count(verdict)
        HELD.labels("dropped" if dropped else "flagged" if labels else "shown").observe(held.age + waited)
        self._told([account_id])

    async def _drop(self, account_id: UUID, held: judgements.Held, quota: str) -> bool:
        """There is no room for the message: it goes, and its owner is told. False = somebody else was quicker."""
        async with self._writing, self._database.transaction() as connection:
            more = functools.partial(self._allowance.exceeded, connection, account_id, quota)
            done = await judgements.drop(connection, account_id, held, _too_much(held, quota), more)
        if done:
            allowance.EXCEEDED.labels(quota).inc()
            self._told([account_id])
        return done

    async def let_go(self, overdue: float = OVERDUE_SECONDS) -> int:
        """Show held mail that nobody has looked at for `overdue` seconds, without a verdict; how many messages."""
        async with self._database.connection() as connection:
            due = await judgements.due_accounts(connection, overdue=overdue, limit=ACCOUNTS)
        count = 0
        for account_id in due:
            async with self._database.transaction() as connection:
                claimed = await judgements.claim_held(
                    connection, account_id, lease=LEASE_SECONDS, limit=CLAIM, overdue=overdue
                )
            for held in claimed:
                count += await self._shown_unjudged(account_id, held)
        return count

    async def _shown_unjudged(self, account_id: UUID, held: judgements.Held) -> bool:
        """Whether it could be shown; one that cannot stands in no other's way."""
        verdict = verdicts.unknown("nobody was there to judge it") if self._judges else None
        try:
            if held.quota is not None:
                return await self._drop(account_id, held, held.quota)
            await self._release(account_id, held, verdict, 0.0)
        except Unavailable:
            raise
        except Exception:  # this message alone
            log.exception("held message failed", account_id=account_id, message_id=held.id)
            return False
        return True

    async def keep_letting_go(self) -> None:
        """`let_go` now and then, until cancelled: no mail is held for ever because no worker runs."""
        while True:
            await asyncio.sleep(LET_GO_SECONDS)
            try:
                await self.let_go()
            except Unavailable as error:
                log.warning("database away", work="let go", reason=db.reason(error))
            except Exception:  # one bad round must not end the loop
                log.exception("letting go failed")

    async def close(self, seconds: float) -> int:
        """Begin nothing new; how many held messages were still being judged after `seconds` (their claims run out)."""
        self._closing = True
        left = await loops.end(self._tasks, seconds)
        await self._examiners.close()
        return left

    # Both

    def _peer(self, mail_from: str, envelope: dict[str, Any]) -> verdicts.Peer | None:
        """None = the message came from this house: there is nobody to judge."""
        remote_ip, helo = envelope.get("remote_ip", ""), envelope.get("helo", "")
        if not remote_ip and helo == self._hostname:
            return None
        return verdicts.Peer(remote_ip=remote_ip, mail_from=mail_from, helo=helo)

    async def _verdict(
        self, account_id: UUID, peer: verdicts.Peer | None, content_id: UUID, raw: bytes | None, *, seconds: float
    ) -> verdicts.Verdict | None:
        """What is known within so many seconds, reading and hashing included. None = there is nothing to judge."""
        if peer is None:
            return None
        until = time.monotonic() + seconds
        try:
            async with asyncio.timeout(seconds):
                evidence = await self._examined(account_id, content_id, raw)
        except TimeoutError:
            return verdicts.unknown("it could not be read in time")
        if evidence is None:
            return None
        return await self._judge.judge(peer, evidence, now=self._database.clock.now(), seconds=until - time.monotonic())

    async def _examined(self, account_id: UUID, content_id: UUID, raw: bytes | None) -> verdicts.Evidence | None:
        """None = the message went meanwhile. Raises TimeoutError where it takes too long."""
        if raw is not None:
            return verdicts.examine(raw)
        async with self._large:
            async with self._database.connection() as connection:
                raw = await judgements.raw(connection, account_id, content_id)
            if raw is None:
                return None
            if len(raw) <= SMALL:
                return verdicts.examine(raw)
            answer = await self._examiners.ask(raw)
        if answer is None:
            raise TimeoutError
        return evidence(answer)


def _count(verdict: verdicts.Verdict | None) -> None:
    if verdict is not None:
        for check, result in verdict.told().items():
            VERDICTS.labels(check, result).inc()


def _telling(held: judgements.Held, verdict: verdicts.Verdict | None, labels: list[str]) -> judgements.Held:
    """The same, with what its event is to say: the labels, and what is known of the sender."""
    data = msgspec.json.decode("{" + held.message.data)
    data["labels"] = labels
    if verdict is not None:
        data["auth"] = verdict.told()
    message: messages.NewMessage = msgspec.structs.replace(
        held.message, data=msgspec.json.encode(data).decode().removeprefix("{")
    )
    return dataclasses.replace(held, message=message)


def _why(held: judgements.Held, verdict: verdicts.Verdict) -> dict[str, Any]:
    """What its owner hears of a message that was dropped."""
    message = held.message
    return {
        "id": message.id,
        "reason": "sender_unauthenticated",
        "from": {"name": message.from_name, "address": message.from_address},
        "subject": message.subject,
        "size": message.size,
        "receipt_id": held.content_id,
        "auth": verdict.told(),
    }


def _too_much(held: judgements.Held, quota: str) -> dict[str, Any]:
    """What its owner hears of a message that there was no room for."""
    message = held.message
    return {
        "reason": "quota_exceeded",
        "quota": quota,
        "from": {"name": message.from_name, "address": message.from_address},
        "rcpt_to": msgspec.json.decode(message.envelope)["rcpt_to"],
        "subject": message.subject,
        "size": message.size,
        "receipt_id": held.content_id,
    }
