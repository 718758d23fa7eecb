"""Waiting for a message: one call that cannot miss it.

The listener is there before the mailbox is looked at, so a message that arrives between the two is in one or the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Literal
from uuid import UUID

from gateway.errors import Unavailable
from gateway.mail import parse
from gateway.notify.live import Lagging, Live, Subscription
from gateway.storage import db, events, messages

PAGE: Final = 50  # messages looked at at once
SUBJECTS: Final = 20  # named in the answer of a wait that found nothing
RECEIVED: Final = ("message.received",)

Read = Callable[[bytes], Awaitable[parse.Parsed]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which message somebody waits for."""

    since: int | None = None  # a cursor: only messages behind it; None = those that are there already count
    skip: frozenset[UUID] = frozenset()  # messages that the caller has seen
    from_: str | None = None  # an exact address, or "@example.com" for a whole domain; lower case
    subject: str | None = None  # case-insensitive substring
    text: str | None = None  # case-insensitive substring of the text body, or of the HTML where there is no text
    carries: Literal["message", "code", "link"] = "message"
    kind: str | None = None  # of the link: verify, login, reset, unsubscribe, other; None = any


@dataclass(kw_only=True, slots=True)
class Outcome:
    """How a wait ended."""

    message: messages.Message | None = None  # None = nothing that matches came in time
    raw: bytes = b""
    code: str | None = None  # the best code, where the message carries one
    link: str | None = None  # the best link of the kind asked for
    seen: list[str] = field(default_factory=list)  # subjects that came and did not match


async def wait(
    live: Live,
    database: db.Database,
    account_id: UUID,
    mailbox_id: UUID,
    *,
    wanted: Wanted,
    timeout: float,
    read: Read,
) -> Outcome:
    """The first message that matches, oldest first, as soon as there is one within `timeout` seconds.

    What is there already is looked at whatever the timeout: 0 means look, do not wait. `read` makes raw bytes
    readable. Raises Unavailable where the process is about to end."""
    look = _Look(database, account_id, wanted, read)
    heard = events.Filter(types=RECEIVED, mailbox_id=mailbox_id)
    until = asyncio.get_running_loop().time() + timeout
    try:
        async with live.subscribe(account_id, heard) as subscription:
            async for message in _present(database, account_id, mailbox_id, wanted.since or 0):
                if await look.settles(message):
                    return look.outcome
            async with asyncio.timeout_at(until):
                await _arriving(database, account_id, subscription, look)
    except TimeoutError:
        pass  # how a wait ends in vain; or at the very moment at which it is settled
    except Lagging:
        raise Unavailable("The server is restarting; try again.", retry_after=1) from None
    return look.outcome


async def _arriving(database: db.Database, account_id: UUID, subscription: Subscription, look: _Look) -> None:
    """Returns when something that comes from now on has settled it. Raises Lagging."""
    while True:
        for told in await subscription.next():
            found = await _by_id(database, account_id, told.event.message_id)
            if found and await look.settles(found):
                return


async def _present(
    database: db.Database, account_id: UUID, mailbox_id: UUID, since: int
) -> AsyncIterator[messages.Message]:
    """The mailbox's messages behind a cursor, oldest first."""
    while True:
        async with database.connection() as connection:
            page = await messages.page(
                connection, account_id, mailbox_id=mailbox_id, after=since, limit=PAGE, ascending=True
            )
        for message in page:
            yield message
        if len(page) < PAGE:
            return
        since = page[-1].seq


async def _by_id(database: db.Database, account_id: UUID, message_id: UUID | None) -> messages.Message | None:
    if message_id is None:
        return None
    async with database.connection() as connection:
        return await messages.summary(connection, account_id, message_id)


class _Look:
    """One wait's look at messages, each once."""

    def __init__(self, database: db.Database, account_id: UUID, wanted: Wanted, read: Read) -> None:
        self.outcome = Outcome()
        self._database = database
        self._account_id = account_id
        self._wanted = wanted
        self._read = read
        self._looked: set[UUID] = set()

    async def settles(self, message: messages.Message) -> bool:
        """Whether this is the message; then the outcome has it."""
        wanted = self._wanted
        if message.id in wanted.skip or message.id in self._looked or message.seq <= (wanted.since or 0):
            return False
        self._looked.add(message.id)
        code, link = best_code(message), best_link(message, wanted.kind)
        fits = _matches(message, wanted) and _carries(wanted, code, link)
        found = await self._get(message.id) if fits else None
        if found is None or not await self._says(found[1]):
            self._note(message)
            return False
        self.outcome.message, self.outcome.raw = found
        self.outcome.code, self.outcome.link = code, link
        return True

    async def _get(self, message_id: UUID) -> tuple[messages.Message, bytes] | None:
        async with self._database.connection() as connection:
            return await messages.get(connection, self._account_id, message_id)

    async def _says(self, raw: bytes) -> bool:
        if self._wanted.text is None:
            return True
        parsed = await self._read(raw)
        return self._wanted.text.casefold() in (parsed.text or parsed.html or "").casefold()

    def _note(self, message: messages.Message) -> None:
        if len(self.outcome.seen) < SUBJECTS:
            self.outcome.seen.append(message.subject)


def _carries(wanted: Wanted, code: str | None, link: str | None) -> bool:
    return {"message": True, "code": code is not None, "link": link is not None}[wanted.carries]


def _matches(message: messages.Message, wanted: Wanted) -> bool:
    sender = (message.from_address or "").lower()
    if wanted.from_ is not None and not (
        sender.endswith(wanted.from_) if wanted.from_.startswith("@") else sender == wanted.from_
    ):
        return False
    return wanted.subject is None or wanted.subject.casefold() in message.subject.casefold()


def best_code(message: messages.Message) -> str | None:
    """The code with the highest confidence; the first of several."""
    return max(message.codes, key=lambda code: code["confidence"])["value"] if message.codes else None


def best_link(message: messages.Message, kind: str | None) -> str | None:
    """The first link of the kind; of any kind, those that do something come before `other` and `unsubscribe`."""
    links = [link for link in message.links if kind is None or link["kind"] == kind]
    links.sort(key=lambda link: link["kind"] in {"other", "unsubscribe"})
    return links[0]["url"] if links else None
