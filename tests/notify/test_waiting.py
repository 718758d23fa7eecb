"""Waiting for a message: the one that matches, as soon as it is there, and never past it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from gateway.errors import Unavailable
from gateway.mail import parse
from gateway.notify import live, waiting
from gateway.storage import db, mailboxes, messages
from tests.storage import rows

pytestmark = pytest.mark.anyio

RAW = b"Subject: Hello\r\n\r\nThe text of it, with an \xc3\x84nderung.\r\n"


class Post:
    """A mailbox that mail comes to, and somebody who waits at it."""

    def __init__(self, database: db.Database, tails: live.Live, account_id: UUID, mailbox_id: UUID) -> None:
        self.database = database
        self.tails = tails
        self.account_id = account_id
        self.mailbox_id = mailbox_id

    async def comes(self, *, raw: bytes = RAW, **fields: Any) -> UUID:
        content = messages.Content(id=uuid7(), raw=raw, size=len(raw))
        new = rows.message(self.mailbox_id, content.id, **fields)
        async with self.database.transaction() as connection:
            await mailboxes.live(connection, self.account_id, [self.mailbox_id])
            await messages.add_contents(connection, self.account_id, [content])
            await messages.store(connection, self.account_id, [new])
        self.tails.poke([self.account_id])
        return new.id

    async def wait(self, timeout: float = 20, **wanted: Any) -> waiting.Outcome:
        return await waiting.wait(
            self.tails,
            self.database,
            self.account_id,
            self.mailbox_id,
            wanted=waiting.Wanted(**wanted),
            timeout=timeout,
            read=read,
        )

    async def found(self, timeout: float = 20, **wanted: Any) -> UUID | None:
        outcome = await self.wait(timeout, **wanted)
        return outcome.message.id if outcome.message else None


async def read(raw: bytes) -> parse.Parsed:
    return parse.parse_slow(raw)


@pytest.fixture
async def post(database: db.Database, account_id: UUID) -> AsyncIterator[Post]:
    tails = live.Live(database)
    tails.open()
    yield Post(database, tails, account_id, await rows.mailbox(database, account_id))
    await tails.close()


async def test_what_is_there_already_counts_oldest_first(post: Post) -> None:
    first, second = await post.comes(), await post.comes()
    assert await post.found() == first
    assert await post.found(skip=frozenset({first})) == second


async def test_a_wait_of_no_time_looks_at_what_is_there(post: Post) -> None:
    """Seen to fail with the time limit laid over the look at the mailbox, too: it was over before the look."""
    assert (await post.wait(0)).message is None
    there = await post.comes()
    assert await post.found(0) == there


async def test_a_message_that_arrives_between_two_waits_is_not_missed(post: Post) -> None:
    """A caller that skips what it was given, mail that comes whenever it likes."""
    seen: list[UUID] = []

    async def collect() -> None:
        while len(seen) < 30:
            found = await post.found(skip=frozenset(seen))
            assert found is not None
            seen.append(found)

    async with asyncio.timeout(60):
        collecting = asyncio.create_task(collect())
        came = [await post.comes() for _ in range(30)]
        await collecting
    assert seen == came


async def test_a_message_that_arrives_while_a_wait_begins_is_not_missed(post: Post) -> None:
    """Mail and wait at once, many times. Seen to fail with the mailbox looked at before the listener was there
    (`_present` read to its end before `subscribe`): a wait slept over its message."""
    since = 0
    async with asyncio.timeout(60):
        for n in range(40):
            delays = [asyncio.sleep(0) for _ in range(n % 10)]
            waits = asyncio.create_task(post.wait(since=since))
            for delay in delays:
                await delay
            came = await post.comes()
            outcome = await waits
            assert outcome.message is not None
            assert outcome.message.id == came
            since = outcome.message.seq


async def test_with_a_cursor_only_later_messages_count(post: Post) -> None:
    await post.comes()
    first = await post.wait()
    assert first.message is not None
    assert await post.found(0, since=first.message.seq) is None
    later = await post.comes()
    assert await post.found(since=first.message.seq) == later


FITTING: tuple[tuple[dict[str, Any], bool], ...] = (
    ({"from_": "ann@example.com"}, True),
    ({"from_": "bob@example.com"}, False),
    ({"from_": "@example.com"}, True),
    ({"from_": "@ample.com"}, False),
    ({"subject": "SIGN IN"}, True),
    ({"subject": "sign out"}, False),
    ({"text": "änderung"}, True),
    ({"text": "none of it"}, False),
    ({"carries": "code"}, True),
    ({"carries": "link"}, True),
    ({"carries": "link", "kind": "verify"}, True),
    ({"carries": "link", "kind": "reset"}, False),
    ({"from_": "@example.com", "subject": "sign", "text": "TEXT", "carries": "code"}, True),
    ({"from_": "@example.com", "subject": "sign", "text": "TEXT", "carries": "link", "kind": "login"}, False),
)


async def test_a_message_that_fits_everything_asked_for_settles_the_wait(post: Post) -> None:
    await post.comes(subject="Nothing of the kind", raw=b"\r\nnothing", from_address="x@elsewhere.example")
    codes = [{"value": "1111", "confidence": 0.4}, {"value": "482913", "confidence": 0.9}]
    links = [
        {"url": "https://a.example/bye", "text": "", "kind": "unsubscribe"},
        {"url": "https://a.example/verify", "text": "", "kind": "verify"},
    ]
    came = await post.comes(
        from_address="Ann@Example.com", subject="Your sign in", codes=json.dumps(codes), links=json.dumps(links)
    )
    for wanted, fits in FITTING:
        outcome = await post.wait(0, **wanted)
        assert (outcome.message is not None) == fits, wanted
        if outcome.message is None:
            assert outcome.seen == ["Nothing of the kind", "Your sign in"]
        else:
            assert outcome.message.id == came
            assert (outcome.code, outcome.link, outcome.raw) == ("482913", "https://a.example/verify", RAW)
            assert outcome.seen == ["Nothing of the kind"]


async def test_a_message_of_another_mailbox_or_account_settles_nothing(
    post: Post, database: db.Database, account_id: UUID
) -> None:
    elsewhere = await rows.mailbox(database, account_id)
    await rows.store(database, account_id, elsewhere)
    assert await post.found(0) is None
    stranger = await rows.account(database)
    outcome = await waiting.wait(
        post.tails, database, stranger, post.mailbox_id, wanted=waiting.Wanted(), timeout=0, read=read
    )
    assert outcome.message is None


async def test_a_wait_ends_when_the_process_does_however_far_it_came(post: Post) -> None:
    """Seen to fail with `closed` looked at before the tail was started: a wait that began just then never ended."""
    async with asyncio.timeout(20):
        for steps in range(0, 300, 10):
            post.tails = live.Live(post.database)
            waits = asyncio.create_task(post.wait(timeout=600))
            for _ in range(steps):
                await asyncio.sleep(0)
            post.tails.end()
            with pytest.raises(Unavailable):
                await waits


async def test_more_messages_than_a_page_are_looked_at(post: Post) -> None:
    for _ in range(waiting.PAGE + 5):
        await post.comes()
    wanted = await post.comes(subject="the one")
    outcome = await post.wait(subject="the one")
    assert outcome.message is not None
    assert outcome.message.id == wanted
    assert len(outcome.seen) == waiting.SUBJECTS
