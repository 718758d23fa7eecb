"""Kill -9 in the middle of the work, again and again: what was confirmed is there, and nothing is there twice.

Each proof has a short form for every day and a storm of fifty kills (`make faults`). A process is killed in the moment
in which something it did is seen outside: a 250, a 202, a mail at the relay. That is when a confirmation that came too
early, or a verdict that comes too late, would be found out.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import random
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Literal
from uuid import UUID, uuid4

import asyncpg
import httpx2
import pytest

from tests import house, sending
from tests.faults import strain
from tests.flows import letters
from tests.outbound import sink

pytestmark = pytest.mark.anyio

KILLS = [pytest.param(3, id="short"), pytest.param(50, id="storm", marks=pytest.mark.faults)]
STORM = [pytest.param(50, id="storm", marks=pytest.mark.faults)]  # every day, tests.faults.test_storm does the same
SESSIONS = 6
LEASES = {"LEASE_SECONDS": "1", "HEARTBEAT_SECONDS": "0.2", "SWEEP_INTERVAL_SECONDS": "0.2"}
UNFINISHED = "('scheduled', 'queued', 'sending', 'deferred')"


class Count:
    """Goes up; can be waited for."""

    def __init__(self) -> None:
        self.value = 0
        self._changed = asyncio.Condition()

    async def up(self) -> None:
        async with self._changed:
            self.value += 1
            self._changed.notify_all()

    async def reaches(self, value: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.value >= value)


@contextlib.asynccontextmanager
async def _busy(work: Sequence[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """With these under way; their errors come out, at the latest at the end."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
        yield
        for task in tasks:
            task.cancel()


async def _kill_serve(home: house.House, kills: int, acknowledged: Count) -> None:
    """Each time after a few confirmations more, in the moment of the last."""
    chance = random.Random(kills)
    for _ in range(kills):
        async with asyncio.timeout(60):
            await acknowledged.reaches(acknowledged.value + chance.randint(1, 60))
        home.kill("serve")
        home.start("serve")
    async with asyncio.timeout(60):
        await acknowledged.reaches(acknowledged.value + 10)


def _assert_gapless(events: Sequence[dict[str, Any]]) -> None:
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


# Mail in


async def _send_mail(port: int, recipients: Sequence[str], told: dict[str, UUID], acknowledged: Count) -> None:
    for recipient in itertools.cycle(recipients):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            session = strain.Session(reader, writer)
            await session.greet()
            while True:
                subject = uuid4().hex  # another one for each try: what was not confirmed is not asked for again
                told[subject] = await session.send(recipient, subject)
                await acknowledged.up()
        except (strain.PutOff, ValueError, OSError):  # it is gone, or answered something else than was hoped for
            pass
        finally:
            writer.transport.abort()


@pytest.mark.parametrize("kills", STORM)
async def test_mail_that_was_confirmed_is_stored_whenever_the_web_process_is_killed(
    dsn: str, redis_url: str, kills: int
) -> None:
    """With Reception.deliver answering 250 and committing afterwards, the test found confirmed receipt ids that were
    nowhere stored."""
    told: dict[str, UUID] = {}  # subject → receipt id
    acknowledged = Count()
    async with house.standing(dsn, redis_url, programs=("serve",)) as home:
        tenant = await home.tenant()
        async with home.client(tenant.key) as client:
            boxes = [(await client.post("/mailboxes", json={})).json() for _ in range(3)]
            addresses = [box["address"] for box in boxes]
            work = [_send_mail(home.smtp_port, addresses, told, acknowledged) for _ in range(SESSIONS)]
            async with _busy(work):
                await _kill_serve(home, kills, acknowledged)
            await home.ready()
            listed = [one for box in boxes for one in await letters.every(client, f"/mailboxes/{box['id']}/messages")]
            events = await letters.every_event(client)
            sample = next(one for one in listed if one["subject"] in told)
            shown = (await client.get(f"/messages/{sample['id']}")).json()
        stored = await _rows(dsn, "select m.subject, c.id from messages m join contents c on c.id = m.content_id")
    assert told.items() <= dict(stored).items()
    assert len(stored) == len(dict(stored)) == len(listed)
    assert {one["subject"] for one in listed} == dict(stored).keys()
    assert shown["envelope"]["receipt_id"] == str(told[sample["subject"]])
    _assert_gapless(events)
    received = [event["data"]["id"] for event in events if event["type"] == "message.received"]
    assert sorted(received) == sorted(one["id"] for one in listed)


async def _rows(dsn: str, query: str) -> list[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


# Mail out, the worker killed


async def _post_many(client: httpx2.AsyncClient, count: int) -> dict[str, str]:
    """E-mails, every other one to be held when nobody knows; id → on_unknown."""
    posted: dict[str, str] = {}
    for start in range(0, count, 100):
        wishes = ["retry" if number % 2 else "hold" for number in range(start, min(start + 100, count))]
        batch = [sending.letter(on_unknown=wish) for wish in wishes]
        answer = await client.post("/emails/batch", json=batch)
        assert answer.status_code == 202, answer.text
        posted.update(zip((one["id"] for one in answer.json()["data"]), wishes, strict=True))
    return posted


async def _rested(dsn: str) -> None:
    """Until no recipient waits for anything."""
    async with asyncio.timeout(120):
        while True:
            if not await _rows(dsn, f"select 1 from deliveries where status in {UNFINISHED} limit 1"):  # noqa: S608 - a constant
                return
            await asyncio.sleep(0.1)  # other processes' doings, of which Postgres does not tell


async def _kill_workers(home: house.House, kills: int, relay: sink.Sink, share: int) -> None:
    """One of two at a time, when the relay has got some mails more, in the moment of the last."""
    chance = random.Random(kills)
    for name, _ in zip(itertools.cycle(("worker", "worker-2")), range(kills), strict=False):
        wanted = relay.count + chance.randint(1, share)
        async with asyncio.timeout(60):
            await relay.until(_reached(relay, wanted))
        home.kill(name)
        home.start(name)


def _reached(relay: sink.Sink, wanted: int) -> Callable[[], bool]:
    return lambda: relay.count >= wanted


@pytest.mark.parametrize("kills", KILLS)
async def test_each_recipient_comes_to_one_end_whenever_a_worker_is_killed(
    dsn: str, redis_url: str, kills: int
) -> None:
    """With `retry` no e-mail is missing at the relay, with `hold` none is there twice.

    With a claim that does not push `due_at`, e-mails came to an end twice ([sent, sent]). With Carrier._guard taken
    out, so that nobody knows of an attempt that was in DATA, a held e-mail was at the relay twice."""
    share = 20
    async with sink.Sink(keep=False) as relay:
        settings = {**LEASES, "OUTBOUND": relay.url("tls=none")}
        async with house.standing(dsn, redis_url, settings=settings) as home:
            home.start("worker-2")
            tenant = await home.tenant()
            async with home.client(tenant.key) as client:
                posting = asyncio.create_task(_post_many(client, kills * share * 3))
                await _kill_workers(home, kills, relay, share)
                posted = await posting
                await _rested(dsn)
                shown = {one["id"]: one for one in await letters.every(client, "/emails")}
                events = await letters.every_event(client)
        copies = collections.Counter({message_id: count for (message_id, _), count in relay.taken.items()})
    assert shown.keys() == posted.keys()
    ends: dict[str, list[str]] = collections.defaultdict(list)
    for event in events:
        if event["type"] not in {"email.queued", "email.deferred"}:
            ends[event["email_id"]].append(event["type"].removeprefix("email."))
    for email_id, wish in posted.items():
        count, status = copies[shown[email_id]["message_id"]], shown[email_id]["status"]
        assert ends[email_id] == [status]
        if wish == "retry":
            assert (status, count >= 1) == ("sent", True)
        elif status == "sent":
            assert count == 1
        else:
            assert (status, count <= 1) == ("unknown", True)
    _assert_gapless(events)


# Mail out, to a relay that is no better


class Moody(sink.Sink):
    """A relay that now and then refuses, falls silent, hangs up before or after the final dot, or answers late."""

    def __init__(self, seed: int) -> None:
        super().__init__(keep=False)
        self._chance = random.Random(seed)
        self._moods: dict[sink.Stage, tuple[sink.Act, ...]] = {
            "mail": (sink.reply("451 4.3.0 later"), sink.cut()),
            "rcpt": (sink.reply("451 4.3.0 later"), sink.cut(), sink.stall()),
            "data": (sink.reply("451 4.3.0 later"), sink.cut(reset=True)),
            "body": (sink.cut(), sink.cut(reset=True)),
            "dot": (sink.cut(), sink.cut(reset=True), sink.cut(after=b"250 2.0"), sink.stall()),
        }

    def act(self, stage: sink.Stage) -> sink.Act | None:
        """One time in fifty; at the final dot, where it matters most, one in ten."""
        moods = self._moods.get(stage, ())
        often = 0.1 if stage == "dot" else 0.02
        return self._chance.choice(moods) if moods and self._chance.random() < often else None


@pytest.mark.parametrize(
    "kills", [pytest.param(3, id="short"), pytest.param(100, id="storm", marks=pytest.mark.faults)]
)
async def test_a_bad_relay_and_killed_workers_lose_nothing_and_double_nothing_that_is_held(
    dsn: str, redis_url: str, kills: int
) -> None:
    """With `hold` never two for one e-mail, with `retry` never none; all at rest within 60 s of the last kill.

    With `unknown` put off like any other trouble in Carrier._fate, a held e-mail was at the relay twice. With a claim
    that has no end (`due_at = null`), what a killed worker had in hand never came to rest."""
    share = 20
    impatient = {"OUTBOUND_TIMEOUT_SECONDS": "0.5", "OUTBOUND_DATA_TIMEOUT_SECONDS": "0.5", "RETRY_SCHEDULE": "0.2"}
    async with Moody(kills) as relay:
        settings = {**LEASES, **impatient, "OUTBOUND": relay.url("tls=none")}
        async with house.standing(dsn, redis_url, settings=settings) as home:
            home.start("worker-2")
            async with home.client((await home.tenant()).key) as client:
                posting = asyncio.create_task(_post_many(client, kills * share * 2))
                await _kill_workers(home, kills, relay, share)
                posted = await posting
                async with asyncio.timeout(60):
                    await _rested(dsn)
                shown = {one["id"]: one for one in await letters.every(client, "/emails")}
                events = await letters.every_event(client)
        copies = collections.Counter({message_id: count for (message_id, _), count in relay.taken.items()})
    ends = collections.Counter(
        event["email_id"] for event in events if event["type"] in {"email.sent", "email.unknown"}
    )
    assert ends.keys() == posted.keys() == shown.keys()
    assert set(ends.values()) == {1}
    for email_id, wish in posted.items():
        count, status = copies[shown[email_id]["message_id"]], shown[email_id]["status"]
        if wish == "retry":
            assert (status, count >= 1) == ("sent", True)
        else:
            assert (status, count) == ("sent", 1) or (status == "unknown" and count <= 1)
    _assert_gapless(events)


# Mail out, a worker stopped for longer than its lease


class Asked(asyncio.Event):
    """An event that tells that somebody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.awaited = asyncio.Event()

    async def wait(self) -> Literal[True]:
        self.awaited.set()
        return await super().wait()


@contextlib.asynccontextmanager
async def _overtaken(
    dsn: str, redis_url: str, relay: sink.Sink, stage: sink.Stage, on_unknown: str
) -> AsyncIterator[tuple[httpx2.AsyncClient, str]]:
    """An e-mail that one worker sent while another was stopped in the middle of sending it, and then went on."""
    settings = {**LEASES, "OUTBOUND": relay.url("tls=none")}
    answer = Asked()
    relay.next(stage, sink.late(answer))
    async with (
        house.standing(dsn, redis_url, settings=settings) as home,
        home.client((await home.tenant()).key) as client,
        asyncio.timeout(60),
    ):
        email_id = await sending.send(client, on_unknown=on_unknown)
        await answer.awaited.wait()
        home.processes["worker"].send_signal(signal.SIGSTOP)
        home.start("worker-2")
        await sending.resting(client, email_id)
        answer.set()
        home.processes["worker"].send_signal(signal.SIGCONT)
        await asyncio.to_thread(home.stop, "worker")  # it ends what it has begun
        yield client, email_id


async def test_a_worker_that_lost_its_lease_does_not_send_what_is_to_be_held(dsn: str, redis_url: str) -> None:
    """With the token left out of `enter_data` and `settle` (and with it the look at the status), the late worker sent
    it, too, and its attempt was listed."""
    async with sink.Sink() as relay:
        async with _overtaken(dsn, redis_url, relay, "rcpt", "hold") as (client, email_id):
            assert (await sending.read(client, email_id))["status"] == "sent"
            assert [one["number"] for one in await sending.attempts(client, email_id)] == [2]
        assert relay.count == 1


async def test_a_verdict_that_comes_after_the_lease_is_written_down_and_decides_nothing(
    dsn: str, redis_url: str
) -> None:
    """With the token left out of `settle` (and with it the look at the status), the late verdict was not stale."""
    async with sink.Sink() as relay:
        async with _overtaken(dsn, redis_url, relay, "dot", "retry") as (client, email_id):
            made = await sending.attempts(client, email_id)
            assert [(one["number"], one["is_stale"]) for one in made] == [(2, False), (1, True)]
            events = [event["type"] for event in await sending.timeline(client, email_id)]
            assert events == ["email.queued", "email.sent"]
            shown = await sending.read(client, email_id)
            assert shown["recipients"][0]["attempts"] == 2
        assert [message.message_id for message in relay.messages] == [shown["message_id"]] * 2


# Mail out, the web process killed


async def _post_with_keys(
    client: httpx2.AsyncClient, told: dict[str, str], acknowledged: Count, done: asyncio.Event
) -> None:
    """One e-mail after the other, each asked for under its key until it is confirmed."""
    while not done.is_set():
        key = uuid4().hex
        while key not in told:
            with contextlib.suppress(httpx2.TransportError):
                answer = await client.post(
                    "/emails", json=sending.letter(subject=key), headers={"Idempotency-Key": key}
                )
                assert answer.status_code in {202, 409, 503}, answer.text
                if answer.status_code == 202:
                    told[key] = answer.json()["id"]
        await acknowledged.up()


@pytest.mark.parametrize("kills", STORM)
async def test_a_key_is_one_email_and_one_mail_whenever_the_web_process_is_killed(
    dsn: str, redis_url: str, kills: int
) -> None:
    """With Outbox answering 202 and committing afterwards, confirmed ids were missing. With every key taken for a new
    one, other e-mails were listed than those confirmed first."""
    told: dict[str, str] = {}  # key → the id that was confirmed
    acknowledged, done = Count(), asyncio.Event()
    async with sink.Sink(keep=False) as relay:
        settings = {"OUTBOUND": relay.url("tls=none"), "SWEEP_INTERVAL_SECONDS": "0.2"}
        async with house.standing(dsn, redis_url, settings=settings) as home:
            tenant = await home.tenant()
            async with home.client(tenant.key) as client:
                async with asyncio.TaskGroup() as group:
                    for _ in range(SESSIONS):
                        group.create_task(_post_with_keys(client, told, acknowledged, done))
                    await _kill_serve(home, kills, acknowledged)
                    done.set()
                await home.ready()
                await _rested(dsn)
                shown = await letters.every(client, "/emails")
                events = await letters.every_event(client)
        stored = await _rows(dsn, "select id from emails")
        assert {one["subject"]: one["id"] for one in shown} == told
        assert len(stored) == len(shown) == len(told)
        assert {one["status"] for one in shown} == {"sent"}
        assert relay.taken == {(one["message_id"], "user@recipient.example"): 1 for one in shown}
        _assert_gapless(events)
        queued = [event["email_id"] for event in events if event["type"] == "email.queued"]
        assert sorted(queued) == sorted(told.values())
