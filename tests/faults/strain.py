"""A house under load, and a record of what it confirmed.

Mail comes in by SMTP, e-mails are asked for by HTTP under keys, somebody waits for mail, somebody reads the events as a
stream, and a webhook is told of them. What is confirmed is kept with the time of its confirmation; what is neither
confirmed nor put off in the contract's words is a fault (`odd`), and so is an answer that does not come.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

import asyncpg
import httpx2

from tests import house, sending

Key = TypeVar("Key")
PATIENCE: Final = 90.0  # seconds; who is not answered by then hangs
UNFINISHED: Final = "('scheduled', 'queued', 'sending', 'deferred')"
PAUSE: Final = 0.02  # seconds between tries of who was put off


@dataclass(frozen=True, slots=True)
class Confirmed:
    """Something that the house said it has."""

    id: str
    at: float  # monotonic


@dataclass(kw_only=True)
class Record:
    """What was heard."""

    mails: dict[str, Confirmed] = field(default_factory=dict)  # by subject; id = receipt
    emails: dict[str, Confirmed] = field(default_factory=dict)  # by key, which is the subject, too
    events: dict[int, Confirmed] = field(default_factory=dict)  # by seq, as the stream told them
    waited: list[str] = field(default_factory=list)  # ids of messages that waits gave
    put_off: collections.Counter[str] = field(default_factory=collections.Counter)  # beginnings of such answers
    odd: list[str] = field(default_factory=list)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def count(self) -> int:
        return len(self.mails) + len(self.emails)

    async def heard(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, true: Callable[[], bool], seconds: float = PATIENCE) -> None:
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(true)

    async def more(self, count: int) -> None:
        """So many confirmations from now on, of mails and of e-mails each."""
        wanted = {"mails": len(self.mails) + count, "emails": len(self.emails) + count}
        await self.until(lambda: all(len(getattr(self, name)) >= number for name, number in wanted.items()))

    def until_then(self, at: float) -> Record:
        """What had been confirmed by that time."""
        return Record(mails=_before(self.mails, at), emails=_before(self.emails, at), events=_before(self.events, at))


def _before(confirmed: dict[Key, Confirmed], at: float) -> dict[Key, Confirmed]:
    return {key: one for key, one in confirmed.items() if one.at < at}


def figure(text: str) -> None:
    """What was measured, for whoever runs the proof with -s."""
    print(text)  # noqa: T201 - that is what it is for


# SMTP


class PutOff(Exception):
    """A reply of the 4xx kind."""


class Session:
    """An SMTP client that sends one mail after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def greet(self) -> None:
        await self._hear("220")
        await self._say("EHLO client.example", "250")

    async def send(self, recipient: str, subject: str) -> UUID:
        """The receipt id. Raises PutOff, ConnectionError, and ValueError for any other answer."""
        await self._say("MAIL FROM:<a@b.example>", "250")
        await self._say(f"RCPT TO:<{recipient}>", "250")
        await self._say("DATA", "354")
        text = f"From: a@b.example\r\nSubject: {subject}\r\n\r\n{subject}\r\n."
        return UUID((await self._say(text, "250 2.0.0 queued as ")).rpartition(" ")[2])

    async def reset(self) -> None:
        await self._say("RSET", "250")

    async def _say(self, line: str, hoped: str) -> str:
        self._writer.write(f"{line}\r\n".encode())
        return await self._hear(hoped)

    async def _hear(self, hoped: str) -> str:
        line = "-" * 4
        while line[3:4] == "-":
            async with asyncio.timeout(PATIENCE):
                line = (await self._reader.readline()).decode().rstrip("\r\n")
        if line.startswith(hoped):
            return line
        if not line:
            raise ConnectionResetError
        raise PutOff(line) if line.startswith("4") else ValueError(line)


async def send_mail(port: int, recipients: Sequence[str], record: Record) -> None:
    """Mail after mail; what was put off is sent again under another subject, so that a copy can be told."""
    for recipient in itertools.cycle(recipients):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await _send_many(Session(reader, writer), recipient, record)
        except (ValueError, ConnectionError, TimeoutError) as error:
            record.odd.append(f"SMTP: {error!r}")
        except PutOff as error:  # 421: it hung up
            record.put_off[str(error)[:9]] += 1
        finally:
            writer.transport.abort()
        await asyncio.sleep(PAUSE)


async def _send_many(session: Session, recipient: str, record: Record) -> None:
    await session.greet()
    while True:
        subject = uuid4().hex
        try:
            receipt = await session.send(recipient, subject)
        except PutOff as error:
            if str(error).startswith("421"):
                raise
            record.put_off[str(error)[:9]] += 1
            await session.reset()
            await asyncio.sleep(PAUSE)
        else:
            record.mails[subject] = Confirmed(str(receipt), time.monotonic())
            await record.heard()


# HTTP


async def post_emails(client: httpx2.AsyncClient, record: Record, done: asyncio.Event) -> None:
    """E-mail after e-mail, each asked for under its key until it is confirmed."""
    while not done.is_set():
        key = uuid4().hex
        while key not in record.emails:
            await _post(client, key, record)
        await record.heard()


async def _post(client: httpx2.AsyncClient, key: str, record: Record) -> None:
    letter = sending.letter(subject=key)
    answer = await _asked(record, client.post("/emails", json=letter, headers={"Idempotency-Key": key}))
    if answer is None:
        return
    if answer.status_code == 202:
        record.emails[key] = Confirmed(answer.json()["id"], time.monotonic())
    elif not _is_put_off(answer, record, {409, 503}):
        record.odd.append(f"POST /emails: {answer.status_code} {answer.text}")


async def _asked(record: Record, request: Any) -> httpx2.Response | None:
    try:
        async with asyncio.timeout(PATIENCE):
            answer: httpx2.Response = await request
            return answer
    except (httpx2.TransportError, TimeoutError) as error:
        record.odd.append(f"HTTP: {error!r}")
        await asyncio.sleep(PAUSE)
        return None


def _is_put_off(answer: httpx2.Response, record: Record, statuses: set[int]) -> bool:
    """As the contract has it: a status of these, and when to come back."""
    if answer.status_code not in statuses or int(answer.headers.get("retry-after", "0")) < 1:
        return False
    record.put_off[f"{answer.status_code} {answer.json()['name']}"] += 1
    return True


async def wait_for_mail(client: httpx2.AsyncClient, box: dict[str, Any], record: Record) -> None:
    """Wait after wait, each for the next message of the mailbox."""
    cursor = box["cursor"]
    while True:
        query = {"since": cursor, "timeout": "5"}
        answer = await _asked(record, client.get(f"/mailboxes/{box['id']}/wait", params=query))
        if answer is None:
            continue
        if answer.status_code == 200:
            found = answer.json()
            record.waited.append(found["message"]["id"])
            cursor = str(found["message"]["seq"])
        elif answer.status_code != 408 and not _is_put_off(answer, record, {503}):
            record.odd.append(f"wait: {answer.status_code} {answer.text}")
        await asyncio.sleep(PAUSE)


async def read_stream(client: httpx2.AsyncClient, record: Record) -> None:
    """The account's events from the first, over any number of streams."""
    while True:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(max(record.events, default=0))}
        try:
            async with client.stream("GET", "/events", headers=headers, timeout=PATIENCE) as answer:
                if answer.status_code == 200:
                    await _read(answer, record)
                else:
                    await answer.aread()
                    if not _is_put_off(answer, record, {503}):
                        record.odd.append(f"stream: {answer.status_code} {answer.text}")
        except httpx2.TransportError as error:
            record.put_off[f"stream: {type(error).__name__}"] += 1  # it resumes
        await asyncio.sleep(PAUSE)


async def _read(answer: httpx2.Response, record: Record) -> None:
    async for line in answer.aiter_lines():
        if line.startswith("data:"):
            event = json.loads(line.removeprefix("data:"))
            if event["seq"] != max(record.events, default=0) + 1:
                record.odd.append(f"stream: {event['seq']} after {max(record.events, default=0)}")
            record.events[event["seq"]] = Confirmed(event["id"], time.monotonic())
            await record.heard()


@dataclass(kw_only=True)
class Load:
    """The load that a house is under."""

    record: Record
    client: httpx2.AsyncClient
    boxes: list[dict[str, Any]]
    listeners: list[asyncio.Task[None]] = field(default_factory=list)
    senders: list[asyncio.Task[None]] = field(default_factory=list)
    posters: list[asyncio.Task[None]] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def end(self) -> None:
        """Nobody asks for anything more; who asked under a key goes on until it is confirmed."""
        self.done.set()
        await _ended(self.senders)
        await asyncio.gather(*self.posters)

    async def leave(self) -> None:
        await _ended([*self.senders, *self.posters, *self.listeners])


async def _ended(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


@contextlib.asynccontextmanager
async def on(home: house.House, *, sessions: int = 4, posters: int = 3, hook: str | None = None) -> AsyncIterator[Load]:
    """A house under load."""
    async with home.client((await home.tenant()).key) as client:
        boxes = [(await client.post("/mailboxes", json={})).json() for _ in range(3)]
        if hook is not None:
            made = await client.post("/webhooks", json={"url": hook, "types": ["*"]})
            assert made.status_code == 201, made.text
        load = Load(record=Record(), client=client, boxes=boxes)
        addresses, start = [box["address"] for box in boxes], asyncio.create_task
        load.listeners = [
            start(read_stream(client, load.record)),
            start(wait_for_mail(client, boxes[0], load.record)),
        ]
        load.senders = [start(send_mail(home.smtp_port, addresses, load.record)) for _ in range(sessions)]
        load.posters = [start(post_emails(client, load.record, load.done)) for _ in range(posters)]
        try:
            yield load
        finally:
            await load.leave()


# What is stored


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """What a database holds of it."""

    mails: dict[str, str]  # subject → receipt
    copies: int  # of messages
    emails: dict[str, str]  # subject → id
    requests: int  # for e-mails
    events: dict[int, str]  # seq → id

    def lost(self, record: Record) -> dict[str, int]:
        """How much is missing of what was confirmed."""
        return {
            name: sum(getattr(self, name).get(key) != one.id for key, one in getattr(record, name).items())
            for name in ("mails", "emails", "events")
        }


async def stored(dsn: str) -> Stored:
    connection = await asyncpg.connect(dsn)
    try:
        mails = await connection.fetch(
            "select m.subject, cast(c.id as text) from messages m join contents c on c.id = m.content_id "
            "where length(c.raw) = c.size"
        )
        emails = await connection.fetch("select subject, cast(id as text) from emails")
        events = await connection.fetch("select seq, cast(id as text) from events")
        return Stored(
            mails=dict(mails), copies=len(mails), emails=dict(emails), requests=len(emails), events=dict(events)
        )
    finally:
        await connection.close()


async def rested(dsn: str, seconds: float = PATIENCE) -> None:
    """Until no recipient waits to be written to, and no webhook to be told."""
    connection = await asyncpg.connect(dsn)
    waiting = (
        f"select exists (select from deliveries where status in {UNFINISHED}) "  # noqa: S608 - a constant
        "or exists (select from webhook_deliveries where status = 'pending')"
    )
    try:
        async with asyncio.timeout(seconds):
            while True:
                if not await connection.fetchval(waiting):
                    return
                await asyncio.sleep(PAUSE)  # other processes' doings, of which Postgres does not tell
    finally:
        await connection.close()
