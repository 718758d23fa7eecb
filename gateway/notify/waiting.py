"""Waiting for a message: one call that cannot miss it.

The listener is there before the mailbox is looked at, so a message that arrives between the two is in one or the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final, Literal
from uuid import UUID

from gateway.errors import Unavailable
from gateway.mail import parse
from gateway.notify.live import Lagging, Live
from gateway.storage import db, events, messages

PAGE: Final = 50  # messages looked at at once
SUBJECTS: Final = 20  # named in the answer of a wait that found nothing
RECEIVED: Final = ("message.received",)


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
    live: Live, database: db.Database, account_id: UUID, mailbox_id: UUID, *, wanted: Wanted, timeout: float
) -> Outcome:
    """The first message that matches, oldest first, as soon as there is one within `timeout` seconds."""
    outcome = Outcome()
    heard = events.Filter(types=RECEIVED, mailbox_id=mailbox_id)
    try:
        async with asyncio.timeout(timeout) as limit, live.subscribe(account_id, heard) as subscription:
            async for message in _present(database, account_id, mailbox_id, wanted.since or 0):
                if await _settles(database, account_id, message, wanted, outcome):
                    return outcome
            while True:
                for told in await subscription.next():
                    found = await _by_id(database, account_id, told.event.message_id)
                    if found and await _settles(database, account_id, found, wanted, outcome):
                        limit.reschedule(None)
                        return outcome
    except TimeoutError:
        return outcome
    except Lagging:
        raise Unavailable("The server is restarting; try again.", retry_after=1) from None


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


async def _settles(
    database: db.Database, account_id: UUID, message: messages.Message, wanted: Wanted, outcome: Outcome
) -> bool:
    """Whether this is the message; then the outcome has it."""
    if message.id in wanted.skip or message.seq <= (wanted.since or 0):
        return False
    code, link = best_code(message), best_link(message, wanted.kind)
    if not (_matches(message, wanted) and _carries(wanted, code, link)):
        _note(outcome, message)
        return False
    async with database.connection() as connection:
        found = await messages.get(connection, account_id, message.id)
    if found is None:  # deleted meanwhile
        return False
    if wanted.text is not None and not _says(found[1], wanted.text):
        _note(outcome, message)
        return False
    outcome.message, outcome.raw = found
    outcome.code, outcome.link = code, link
    return True


def _note(outcome: Outcome, message: messages.Message) -> None:
    if len(outcome.seen) < SUBJECTS:
        outcome.seen.append(message.subject)


def _carries(wanted: Wanted, code: str | None, link: str | None) -> bool:
    return {"message": True, "code": code is not None, "link": link is not None}[wanted.carries]


def _matches(message: messages.Message, wanted: Wanted) -> bool:
    sender = (message.from_address or "").lower()
    if wanted.from_ is not None and not (
        sender.endswith(wanted.from_) if wanted.from_.startswith("@") else sender == wanted.from_
    ):
        return False
    return wanted.subject is None or wanted.subject.casefold() in message.subject.casefold()


def _says(raw: bytes, text: str) -> bool:
    parsed = parse.parse_fast(raw) or parse.raw_only(raw)
    return text.casefold() in (parsed.text or parsed.html or "").casefold()


def best_code(message: messages.Message) -> str | None:
    """The code with the highest confidence; the first of several."""
    return max(message.codes, key=lambda code: code["confidence"])["value"] if message.codes else None


def best_link(message: messages.Message, kind: str | None) -> str | None:
    """The first link of the kind; of any kind, those that do something come before `other` and `unsubscribe`."""
    links = [link for link in message.links if kind is None or link["kind"] == kind]
    links.sort(key=lambda link: link["kind"] in {"other", "unsubscribe"})
    return links[0]["url"] if links else None
