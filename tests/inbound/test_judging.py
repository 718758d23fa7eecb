"""The worker's side of judging: what is held is let go in time, whoever is or is not there to do it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import msgspec
import prometheus_client
import pytest
from uuid_utils.compat import uuid7

from gateway.inbound import judging, verdicts
from gateway.inbound.pace import Pace
from gateway.settings import Settings
from gateway.storage import db, judgements, messages
from tests.inbound.records import Records
from tests.storage import rows

pytestmark = pytest.mark.anyio

ZONE: dict[str, list[Any]] = {
    "good.example": [{"TXT": "v=spf1 ip4:127.0.0.1 -all"}],
    "bad.example": [{"TXT": "v=spf1 -all"}],
    "_dmarc.good.example": [{"TXT": "v=DMARC1; p=reject"}],
}


class Silent(Records):
    """A resolver that never answers."""

    async def txt(self, name: str) -> list[bytes]:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return] # never comes


class Told:
    """Who was told of what."""

    def __init__(self) -> None:
        self.accounts: list[UUID] = []

    def __call__(self, account_ids: Iterable[UUID]) -> None:
        self.accounts += account_ids


def desk(database: db.Database, told: Told, resolver: Records | None = None, **settings: Any) -> judging.Judging:
    given = Settings(mail_domains=("postroom.test",), **settings)
    return judging.Judging(database, given, resolver or Records(ZONE), Pace(), told=told)


def letter(domain: str, size: int = 0) -> bytes:
    return f"From: a@{domain}\r\nSubject: Hello\r\n\r\n{'x' * size}\r\n".encode()


async def hold(
    database: db.Database,
    account_id: UUID,
    domain: str,
    *,
    policy: str = "flag",
    raw: bytes = b"",
    remote_ip: str = "127.0.0.1",
    helo: str = "client.example",
) -> UUID:
    """Mail from that domain, held; the mailbox's id."""
    mailbox_id = await rows.mailbox(database, account_id)
    raw = raw or letter(domain)
    content = messages.Content(id=uuid7(), raw=raw, size=len(raw))
    id = uuid7()
    new = rows.message(
        mailbox_id,
        content.id,
        id=id,
        size=len(raw),
        mail_from=f"a@{domain}",
        envelope=msgspec.json.encode({"remote_ip": remote_ip, "helo": helo, "rcpt_to": []}).decode(),
        data=f'"id":"{id}","subject":"Hello","labels":[]}}',
    )
    async with database.transaction() as connection:
        await messages.add_contents(connection, account_id, [content])
        await messages.hold(connection, account_id, [(new, policy)])
    return mailbox_id


async def shown(database: db.Database, account_id: UUID) -> list[messages.Message]:
    async with database.connection() as connection:
        return await messages.page(connection, account_id, after=None, limit=100, ascending=True)


async def drained(desk: judging.Judging, account_id: UUID) -> None:
    await desk.drain_held(account_id)
    assert await desk.close(30) == 0


async def test_mail_that_nobody_has_looked_at_is_let_go(database: db.Database, account_id: UUID) -> None:
    """As every process does where no worker runs. It is not dropped, for nobody knows whether it fails."""
    await hold(database, account_id, "bad.example", policy="drop-on-fail")
    told = Told()
    letting = desk(database, told)
    assert await letting.let_go(overdue=3600) == 0
    assert await letting.let_go(overdue=0) == 1
    [message] = await shown(database, account_id)
    assert (message.auth["spf"], message.labels) == ("temperror", [])
    assert told.accounts == [account_id]
    assert await letting.let_go(overdue=0) == 0


async def test_what_is_overdue_is_shown_without_asking_the_dns(database: db.Database, account_id: UUID) -> None:
    await hold(database, account_id, "bad.example", policy="drop-on-fail")
    async with database.connection() as connection:
        await connection.execute("update held_messages set created_at = created_at - interval '6 seconds'")
    await drained(desk(database, Told(), Silent(ZONE)), account_id)
    [message] = await shown(database, account_id)
    assert message.auth["dmarc"] == "temperror"


@pytest.mark.parametrize("way", ["a worker", "nobody looked"])
async def test_mail_that_there_is_no_room_for_is_dropped_and_told_of_once(
    database: db.Database, account_id: UUID, way: str
) -> None:
    """Whoever sent it: nobody is asked about its sender."""
    for _ in range(2):
        await hold(database, account_id, "good.example", policy="over-quota:stored_bytes")
    told = Told()
    looking = desk(database, told, Silent(ZONE), max_stored_bytes=10)
    if way == "a worker":
        await drained(looking, account_id)
    else:
        assert await looking.let_go(overdue=0) == 2
    assert await looking.let_go(overdue=0) == 0
    assert await shown(database, account_id) == []
    assert await rows.count(database, "select count(*) from contents where account_id = $1", account_id) == 0
    log = [event for event in await rows.log_of(database, account_id) if not event.type.startswith("mailbox.")]
    assert sorted(event.type for event in log) == ["message.dropped", "message.dropped", "quota.exceeded"]
    data = msgspec.json.decode(next(event.data for event in log if event.type == "message.dropped"))
    assert (data["reason"], data["quota"], data["rcpt_to"]) == ("quota_exceeded", "stored_bytes", [])
    assert msgspec.json.decode(log[-1].data if log[-1].type == "quota.exceeded" else log[1].data)["limit"] == 10
    assert told.accounts == [account_id, account_id]


async def test_each_held_message_is_judged_and_told_of(database: db.Database, account_id: UUID) -> None:
    for domain in ("good.example", "bad.example", "unknown.example"):
        await hold(database, account_id, domain)
    await hold(database, account_id, "bad.example", policy="drop-on-fail")
    told = Told()
    before = _verdicts("spf", "fail")
    await drained(desk(database, told), account_id)
    found = {message.mail_from: (message.auth["spf"], message.labels) for message in await shown(database, account_id)}
    assert found == {
        "a@good.example": ("pass", []),
        "a@bad.example": ("fail", ["unauthenticated"]),
        "a@unknown.example": ("none", []),
    }
    assert len(told.accounts) == 4
    assert _verdicts("spf", "fail") == before + 2
    events = await rows.log_of(database, account_id)
    [dropped] = [event for event in events if event.type == "message.dropped"]
    assert msgspec.json.decode(dropped.data)["reason"] == "sender_unauthenticated"
    [flagged] = [msgspec.json.decode(e.data) for e in events if '"unauthenticated"' in e.data]
    assert flagged["auth"]["spf"] == "fail"
    async with database.connection() as connection:
        assert await judgements.due_accounts(connection, overdue=0, limit=10) == []


async def test_large_mail_is_judged_as_well_and_in_a_child(
    database: db.Database, account_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with all mail examined in the process itself: the message was not judged."""

    def examine(_: bytes) -> verdicts.Evidence:
        raise AssertionError("it would have been examined on the loop")

    monkeypatch.setattr(verdicts, "examine", examine)  # the child has its own
    monkeypatch.setattr(judging, "HOLD_SECONDS", 60.0)  # a child takes its time to begin, on a busy machine
    await hold(database, account_id, "good.example", raw=letter("good.example", size=2 * judging.SMALL))
    await drained(desk(database, Told()), account_id)
    [message] = await shown(database, account_id)
    assert message.auth["dmarc"] == "pass"


async def test_mail_of_the_house_is_not_judged(database: db.Database, account_id: UUID) -> None:
    await hold(database, account_id, "bad.example", remote_ip="", helo="postroom.test", policy="drop-on-fail")
    await drained(desk(database, Told()), account_id)
    [message] = await shown(database, account_id)
    assert (message.auth, message.labels) == ({}, [])


async def test_what_was_held_when_judging_was_turned_off_is_shown(database: db.Database, account_id: UUID) -> None:
    await hold(database, account_id, "bad.example", policy="drop-on-fail")
    off = desk(database, Told(), sender_auth=False)
    await off.drain(account_id)
    assert await off.look() == []
    await drained(off, account_id)
    [message] = await shown(database, account_id)
    assert message.auth == {}


async def test_two_workers_show_everything_once(database: db.Database, account_id: UUID) -> None:
    for _ in range(30):
        await hold(database, account_id, "good.example")
    one, other = desk(database, Told()), desk(database, Told())
    await asyncio.gather(*(desk.drain_held(account_id) for desk in (one, other, one, other)))
    await asyncio.gather(one.close(30), other.close(30))
    events = [event.type for event in await rows.log_of(database, account_id)]
    assert events.count("message.received") == len(await shown(database, account_id)) == 30


async def test_a_message_that_cannot_be_examined_stands_in_no_others_way(
    database: db.Database, account_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail without the guard around each message: nothing of the slice was judged."""
    mailbox_id = await rows.mailbox(database, account_id)
    for _ in range(3):
        await rows.store(database, account_id, mailbox_id, envelope='{"remote_ip":"127.0.0.1","helo":"c"}')
    examine, turn = verdicts.examine, itertools.count()

    def fails_first(raw: bytes) -> verdicts.Evidence:
        if next(turn) == 0:
            raise ValueError
        return examine(raw)

    monkeypatch.setattr(verdicts, "examine", fails_first)
    worker = desk(database, Told())
    await worker.drain(account_id)
    assert await worker.look() == []
    assert sorted(message.auth["spf"] for message in await shown(database, account_id)) == ["none", "none", "temperror"]


async def test_shown_mail_is_judged_where_a_worker_finds_it(database: db.Database, account_id: UUID) -> None:
    mailbox_id = await rows.mailbox(database, account_id)
    for _ in range(judging.SLICE + 5):  # more than one slice
        await rows.store(database, account_id, mailbox_id, envelope='{"remote_ip":"127.0.0.1","helo":"c"}')
    told = Told()
    one, other = desk(database, told), desk(database, told)
    assert await one.look() == [account_id]
    await asyncio.gather(one.drain(account_id), other.drain(account_id))
    await one.drain(account_id)
    assert await one.look() == []
    assert {message.auth["spf"] for message in await shown(database, account_id)} == {"none"}
    events = [event.type for event in await rows.log_of(database, account_id)]
    assert events.count("message.updated") == judging.SLICE + 5


def _verdicts(check: str, result: str) -> float:
    labels = {"check": check, "result": result}
    return prometheus_client.REGISTRY.get_sample_value("postroom_sender_verdicts_total", labels) or 0.0
