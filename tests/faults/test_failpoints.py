"""A request's key is one e-mail, and an e-mail held when nobody knows is at most one mail, wherever anything stops.

The points at which it is stopped, and what is known there:

    point         how                                                      retry    hold
    uncommitted   the web process is killed while its commit waits         1 mail   1 mail
    lost          its COMMIT never arrives at the database                 1 mail   1 mail
    unanswered    … is carried out, and the answer is lost                 1 mail   1 mail
    committed     … likewise, and the process is killed before its answer  1 mail   1 mail
    claim         the worker is killed when it has claimed, unheard        1 mail   1 mail
    connect       … while it waits for the relay's greeting                1 mail   1 mail
    MAIL, RCPT    … for the reply to these                                 1 mail   1 mail
    DATA          … to DATA: nobody knows any more                         1 mail   unknown, 0 mails
    dot           … to the final dot                                       2 mails  unknown, 1 mail
    verdict       … when its verdict is written, unheard                   1 mail   1 mail
    closed, reset the relay hangs up before its reply to the final dot     2 mails  unknown, 1 mail
    late          … answers when nobody waits any more                     2 mails  unknown, 1 mail
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

import asyncpg
import httpx2
import pytest

from tests import house, sending
from tests.faults import load, wire
from tests.outbound import sink

pytestmark = pytest.mark.anyio

SETTINGS: Final = {
    "LEASE_SECONDS": "4",  # not so short that a busy machine loses one
    "HEARTBEAT_SECONDS": "0.5",
    "SWEEP_INTERVAL_SECONDS": "0.2",
    "OUTBOUND_DATA_TIMEOUT_SECONDS": "4",  # longer than it takes to bring all to their stages
    "RETRY_SCHEDULE": "0.1",
    "OUTBOUND_CONCURRENCY": "100",
    "DESTINATION_CONCURRENCY": "100",
}
ENQUEUE: Final = "insert into emails"
CLAIM: Final = "set status = 'sending'"
SETTLE: Final = "insert into attempts"
SENT, UNKNOWN = "sent", "unknown"
# Of each stage of the dialogue: copies and status with `retry`, then with `hold`
STAGES: Final[dict[sink.Stage, tuple[tuple[int, str], tuple[int, str]]]] = {
    "greeting": ((1, SENT), (1, SENT)),
    "mail": ((1, SENT), (1, SENT)),
    "rcpt": ((1, SENT), (1, SENT)),
    "data": ((1, SENT), (0, UNKNOWN)),
    "dot": ((2, SENT), (1, UNKNOWN)),
}
LOST_REPLIES: Final = {"closed": sink.cut(), "reset": sink.cut(reset=True), "late": sink.stall()}


class Trap:
    """Does something to the first transaction that has such a statement, and tells when."""

    def __init__(self, what: str, part: str) -> None:
        self.sprung = asyncio.Event()
        self._what, self._part = what, part

    def __call__(self, statements: Sequence[str]) -> str:
        if self.sprung.is_set() or not any(self._part in statement for statement in statements):
            return "pass"
        self.sprung.set()
        return self._what


class Asked(asyncio.Event):
    """An event that tells that somebody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.awaited = asyncio.Event()

    async def wait(self) -> Any:
        self.awaited.set()
        return await super().wait()


@dataclass(kw_only=True)
class Scene:
    """A house whose line to its database, and whose relay, stop where they are told to."""

    home: house.House
    line: wire.Wire
    relay: sink.Sink
    client: httpx2.AsyncClient
    caller: load.Caller
    tenant: house.Tenant

    async def ask(self, key: str, wish: str) -> str:
        """An e-mail under its key, asked for until it is confirmed; its id."""
        body = sending.letter(subject=key, on_unknown=wish)
        answer = await self.caller.ask("POST", "/emails", json=body, headers={"Idempotency-Key": key})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def crash(self, name: str) -> None:
        self.home.kill(name)
        self.home.start(name)

    async def ended(self, key: str, email_id: str) -> tuple[int, str]:
        """How often the relay has it, and its status, once it rests; and that its key made this one e-mail alone."""
        shown = await self._resting(email_id)
        listed = (await self.client.get("/emails", params={"subject": key})).json()["data"]
        assert [one["id"] for one in listed] == [email_id]
        return self.relay.taken[shown["message_id"], "user@recipient.example"], shown["status"]

    async def _resting(self, email_id: str) -> dict[str, Any]:
        async with asyncio.timeout(60):
            return await sending.resting(self.client, email_id)


@contextlib.asynccontextmanager
async def _scene(dsn: str, redis_url: str) -> AsyncIterator[Scene]:
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(sink.Sink())
        line = await stack.enter_async_context(wire.laid(dsn))
        settings = {**SETTINGS, "OUTBOUND": relay.url("tls=none")}
        home = await stack.enter_async_context(house.standing(line.dsn, redis_url, settings=settings))
        tenant = await home.tenant()
        yield Scene(
            home=home,
            line=line,
            relay=relay,
            client=await stack.enter_async_context(home.client(tenant.key)),
            caller=await stack.enter_async_context(load.Caller([home], tenant.key)),
            tenant=tenant,
        )


# The web process


async def _uncommitted(scene: Scene, dsn: str) -> None:
    """Killed while its last statement waits for a lock."""
    async with contextlib.AsyncExitStack() as stack:
        other = await asyncpg.connect(dsn)
        stack.push_async_callback(other.close)
        await stack.enter_async_context(other.transaction())
        await other.execute("select 1 from event_heads where account_id = $1 for update", scene.tenant.account_id)
        key, wishing = uuid4().hex, "select 1 from pg_stat_activity where wait_event_type = 'Lock' limit 1"
        asking = asyncio.create_task(scene.ask(key, "hold"))
        looking = await asyncpg.connect(dsn)
        stack.push_async_callback(looking.close)
        while True:
            if await looking.fetchval(wishing):
                break
            await asyncio.sleep(0.01)  # another process's doings, of which Postgres does not tell
        scene.crash("serve")
    assert await scene.ended(key, await asking) == (1, SENT)


async def _commit(scene: Scene, what: str, *, kill: bool) -> None:
    trap = scene.line.judge = Trap(what, ENQUEUE)
    key = uuid4().hex
    asking = asyncio.create_task(scene.ask(key, "hold"))
    await trap.sprung.wait()
    if kill:
        scene.crash("serve")
    assert await scene.ended(key, await asking) == (1, SENT)
    scene.line.judge = wire.passing


# The worker


async def _of_statement(scene: Scene, part: str, wishes: Sequence[str]) -> None:
    """Killed when it has said this to the database, which did it."""
    for wish in wishes:
        trap = scene.line.judge = Trap("silent", part)
        key = uuid4().hex
        email_id = await scene.ask(key, wish)
        await trap.sprung.wait()
        scene.crash("worker")
        assert await scene.ended(key, email_id) == (1, SENT), (part, wish)
        scene.line.judge = wire.passing


async def _of_dialogue(scene: Scene, each: int) -> None:
    """Killed once while e-mails wait at all stages, so many of each wish at each."""
    asked: list[tuple[sink.Stage, str, tuple[int, str], str, str]] = []
    for stage, outcomes in STAGES.items():
        for wish, outcome in list(zip(("retry", "hold"), outcomes, strict=True)) * each:
            answer, key = Asked(), uuid4().hex
            scene.relay.next(stage, sink.late(answer))
            asked.append((stage, wish, outcome, key, await scene.ask(key, wish)))
            await answer.awaited.wait()
    scene.crash("worker")
    for stage, wish, outcome, key, email_id in asked:
        assert await scene.ended(key, email_id) == outcome, (stage, wish)


# The relay


async def _lost_replies(scene: Scene) -> None:
    for name, act in LOST_REPLIES.items():
        for wish, outcome in (("retry", (2, SENT)), ("hold", (1, UNKNOWN))):
            scene.relay.next("dot", act)
            key = uuid4().hex
            assert await scene.ended(key, await scene.ask(key, wish)) == outcome, (name, wish)


@pytest.mark.parametrize(
    ("rounds", "each"),
    [pytest.param(1, 1, id="short"), pytest.param(4, 5, id="storm", marks=pytest.mark.faults)],
)
async def test_a_key_is_one_email_and_a_held_one_at_most_one_mail_wherever_anything_stops(
    dsn: str, redis_url: str, rounds: int, each: int
) -> None:
    """See the table above: copies are counted at the relay.

    Without Carrier._guard, a held e-mail that was stopped at DATA was sent again, (1, sent) for (0, unknown)."""
    wishes = ("retry", "hold") if each > 1 else ("hold",)
    async with _scene(dsn, redis_url) as scene:
        points: Sequence[Callable[[], Awaitable[None]]] = (
            lambda: _uncommitted(scene, dsn),
            lambda: _commit(scene, "lost", kill=False),
            lambda: _commit(scene, "unanswered", kill=False),
            lambda: _commit(scene, "silent", kill=True),
            lambda: _of_statement(scene, CLAIM, wishes),
            lambda: _of_statement(scene, SETTLE, wishes),
            lambda: _of_dialogue(scene, each),
            lambda: _lost_replies(scene),
        )
        for _ in range(rounds):
            for point in points:
                async with asyncio.timeout(120):
                    await point()
