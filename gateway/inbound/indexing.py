"""The reading that happens after the 250: words into the index, conversations put together, hard mail read at last.

The log is the queue. An account's messages behind `indexed_seq` are read in their order, a slice at a time; a slice is
one transaction that holds the account's row, so that two workers never read the same account, and a worker that dies
has its slice read again. Nothing is written for it when mail comes in.

A slice is small (SLICE_MESSAGES, SLICE_BYTES, SLICE_SECONDS), and after it the reader rests (inbound.pace): accepting
mail goes before finding it. Where one fails for what its messages hold, they are read one at a time, and the one that
cannot be indexed is set aside: it is shown as before, found by no word of its own, and stands in nobody's way.

Beside the words, a slice does two things, each told as `message.updated`:

    raw_only    mail that found no parsing worker free when it came is parsed, and shows what it holds
    threads     a reply whose references do not reach the conversation's first message joins the conversation of what it
                answers; one without any references that of the latest message of the mailbox with the same subject
                (`Re:` and its like taken off) and somebody in common
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from uuid import UUID

import msgspec
import prometheus_client
import structlog

from gateway.inbound import reading
from gateway.inbound.pace import Pace
from gateway.inbound.parsing import ParsingPool
from gateway.mail import extract, parse, query, terms
from gateway.storage import committer, db, events, search
from gateway.storage.messages import Message

log = structlog.get_logger(__name__)

INDEXED = prometheus_client.Counter("postroom_indexed_messages", "Messages put into the index of words")
SLICE_TIME = prometheus_client.Histogram("postroom_indexing_slice_seconds", "Time of one slice of indexing")

SLICE_MESSAGES: Final = 200
SLICE_BYTES: Final = 4 << 20
SLICE_SECONDS: Final = 0.5  # of reading; whatever is left is the next slice's
LOOK_ACCOUNTS: Final = 1000  # of one look
CANDIDATES: Final = 20  # messages of the same subject that are compared

# Reply prefixes of mail programs in their languages, with counters (Re[2]:, Re^2:) and full-width colons. Forwards are
# no replies, but lose their prefix likewise.
_REPLY: Final = (
    "re|aw|sv|vs|antw|ant|odp|ref|rif|r|ynt|atb|res|ha|vá|bls|απ|σχετ|отв|отг|回复|回覆|答复|答覆|返信|返|רה|رد"
)
_PREFIX = re.compile(rf"\s*(?:{_REPLY}|rv)\s*(?:\[\d{{1,3}}\]|\^\d{{1,3}}|\(\d{{1,3}}\))?\s*[:：]\s*", re.IGNORECASE)
MAX_PREFIXES: Final = 20

_encode: Final = msgspec.json.Encoder().encode


@dataclass(kw_only=True, slots=True)
class _Read:
    """One message of a slice."""

    message: Message  # as it shows itself now; fields change as the slice goes on
    parsed: parse.Parsed
    changes: dict[str, Any] = field(default_factory=dict)  # what message.updated will tell


class AfterwardsReader:
    """Reads accounts' mail once it is stored."""

    def __init__(
        self, database: db.Database, pool: ParsingPool, pace: Pace, *, told: Callable[[Iterable[UUID]], None]
    ) -> None:
        """`told` is called after a commit with the accounts whose logs grew."""
        self._pace = pace
        self._database = database
        self._pool = pool
        self._told = told
        self._ending = False

    def end(self) -> None:
        """No slice after those under way."""
        self._ending = True

    async def look(self) -> list[UUID]:
        """Accounts with messages to read, among all there are; in pages, so that nothing is held for long."""
        found: list[UUID] = []
        after: UUID | None = UUID(int=0)
        while after is not None:
            async with self._database.connection() as connection:
                some, after = await search.behind(connection, after_id=after, limit=LOOK_ACCOUNTS)
            found += some
        return found

    async def drain(self, account_id: UUID) -> None:
        """Everything of one account that is not indexed, slice by slice, with rests."""
        async with self._database.connection() as connection:
            await search.begin(connection, account_id)
        singly = 0  # messages that are read one at a time, since one of them may be to blame
        while True:
            work_began = time.monotonic()
            slice_ = await self._next(account_id, 1 if singly else SLICE_MESSAGES)
            worked = time.monotonic() - work_began
            if slice_ is None:
                return
            singly = SLICE_MESSAGES if slice_ is _FAILED else max(singly - 1, 0)
            SLICE_TIME.observe(worked)
            if slice_ is not _FAILED:
                self._pace.saw(account_id, slice_.head)
            await self._pace.rest(worked)
            if self._ending or slice_.until >= slice_.head:
                return

    async def _next(self, account_id: UUID, limit: int) -> _Slice | None:
        """The next slice; one message alone that fails is set aside."""
        try:
            return await self._slice(account_id, limit)
        except Exception as error:
            if not committer.blames_content(error):
                raise
            if limit > 1:
                return _FAILED
            log.exception("message not indexed", account_id=account_id)
            return await self._slice(account_id, limit, aside=True)

    async def _slice(self, account_id: UUID, limit: int, *, aside: bool = False) -> _Slice | None:
        """One transaction; None where there is nothing to do, or somebody else does it."""
        async with self._database.transaction() as connection:
            after = await search.take(connection, account_id)
            if after is None:
                return None
            unread, until, head = await search.unread(connection, account_id, after, limit=limit, max_bytes=SLICE_BYTES)
            if until <= after or (not unread and until - after < search.SEGMENT):
                return None  # what else the log tells need not be written down each time
            if aside:
                await search.add(connection, account_id, _bare(account_id, unread), until)
                return _Slice(until=until, head=head)
            reads = await self._read(unread)
            if len(reads) < len(unread):
                until = reads[-1].message.seq
            await _find_threads(connection, account_id, reads)
            vectors = {read.message.seq: await _vector(account_id, read) for read in reads}
            await search.add(connection, account_id, vectors, until)
            changed = await _write_changes(connection, account_id, reads)
        INDEXED.inc(len(reads))
        if changed:
            self._told([account_id])
        return _Slice(until=until, head=head + changed)

    async def _read(self, unread: Sequence[search.Unread]) -> list[_Read]:
        """As many as SLICE_SECONDS allow, one at least. Between two of them others have their turn."""
        reads: list[_Read] = []
        end = time.monotonic() + SLICE_SECONDS
        for one in unread:
            if reads and time.monotonic() > end:
                break
            reads.append(_again(_Read(message=one.message, parsed=await self._pool.front(one.raw))))
            await asyncio.sleep(0)
        return reads


@dataclass(frozen=True, kw_only=True, slots=True)
class _Slice:
    """How far one came."""

    until: int
    head: int  # of the log when the slice began, and its own events


_FAILED: Final = _Slice(until=-1, head=0)  # nothing was done: it goes on message by message


def _bare(account_id: UUID, unread: Iterable[search.Unread]) -> dict[int, str]:
    """What may not be missing in the index, and cannot fail: which mailbox's these messages are."""
    texts = {one.message.seq: search.in_mailbox(one.message.mailbox_id) for one in unread}
    return {seq: search.vector(account_id, seq, text) for seq, text in texts.items()}


def _again(read: _Read) -> _Read:
    """A message that nobody could read when it came shows now what it holds."""
    message, parsed = read.message, read.parsed
    if message.parse != "raw_only" or parsed.status == "raw_only":
        return read
    found = extract.everything(parsed.subject, parsed.text, parsed.html)
    sender = parsed.from_
    shown: dict[str, Any] = {
        "from_name": sender.name if sender else None,
        "from_address": sender.address if sender else None,
        "recipients": [{"name": to.name, "address": to.address} for to in parsed.to],
        "subject": parsed.subject,
        "snippet": found.snippet,
        "codes": [msgspec.to_builtins(code) for code in found.codes],
        "links": [msgspec.to_builtins(link) for link in found.links],
        "attachment_count": len(parsed.attachments),
        "message_id": parsed.message_id,
        "parse": parsed.status,
        "warnings": list(parsed.warnings),
    }
    message = replace(message, **shown)
    names = ("from", "to", "subject", "snippet", "attachment_count", "codes")
    summary = message.summary()
    return _Read(message=message, parsed=parsed, changes={name: summary[name] for name in names})


async def _vector(account_id: UUID, read: _Read) -> str:
    """What it is found by; others have their turn first."""
    await asyncio.sleep(0)
    message, parsed = read.message, read.parsed
    body = parsed.text if parsed.text and parsed.text.strip() else extract.html_to_text(parsed.html or "")
    text = search.text_of(message, body=body)
    return search.vector(account_id, message.seq, text, base_subject=base_subject(message.subject)[0])


async def _write_changes(connection: db.Connection, account_id: UUID, reads: Sequence[_Read]) -> int:
    """What turned out otherwise than it was stored, last before COMMIT; how many events. Of a message that was deleted
    meanwhile nothing is told: what its events said is blanked already."""
    told = []
    for read in reads:
        message = read.message
        if not read.changes or not await _write(connection, account_id, read):
            continue
        data = events.encode({"id": message.id, **read.changes})
        event = events.NewEvent(type="message.updated", mailbox_id=message.mailbox_id, message_id=message.id, data=data)
        told.append(event)
    if told:
        await events.append(connection, account_id, told)
    return len(told)


async def _write(connection: db.Connection, account_id: UUID, read: _Read) -> bool:
    """Whether the message is there yet."""
    message = read.message
    if "subject" in read.changes:
        return await search.set_reading(connection, account_id, message.id, _columns(message))
    return await search.set_thread(connection, account_id, message.id, message.thread_id)


def _columns(message: Message) -> dict[str, Any]:
    plain = ("from_name", "from_address", "subject", "snippet", "attachment_count", "message_id", "thread_id", "parse")
    coded = ("recipients", "codes", "links", "warnings")
    return {
        **{name: getattr(message, name) for name in plain},
        **{name: _encode(getattr(message, name)).decode() for name in coded},
    }


# Threads


def base_subject(subject: str) -> tuple[str, bool]:
    """What a subject is without `Re:` and its like, as search knows words; and whether there was any."""
    rest = subject
    for _ in range(MAX_PREFIXES):
        match = _PREFIX.match(rest)
        if match is None:
            break
        rest = rest[match.end() :]
    return " ".join(term.word for term in terms.of_query(rest)), rest != subject


async def _find_threads(connection: db.Connection, account_id: UUID, reads: Sequence[_Read]) -> None:
    """Give each message the thread of what it answers, where that is another than it was stored with."""
    asks, askers = [], []
    for read in reads:
        for name in _answered(read.parsed):
            asks.append(search.Ask(mailbox_id=read.message.mailbox_id, seq=read.message.seq, message_id=name))
            askers.append(read)
    known = await search.parents(connection, account_id, asks)
    parents: dict[int, UUID] = {}  # by seq; the first id that is known counts
    for number, found in sorted(known.items(), reverse=True):
        parents[askers[number].message.seq] = found
    here: dict[tuple[UUID, str], UUID] = {}  # what this slice itself has, by mailbox and Message-ID
    for place, read in enumerate(reads):
        message = read.message
        names = _answered(read.parsed)
        thread_id: UUID | None = next(
            (here[key] for name in names if (key := (message.mailbox_id, name)) in here), None
        )
        if thread_id is None:
            thread_id = parents.get(message.seq)
        if thread_id is None and not names:
            thread_id = await _by_subject(connection, account_id, read, reads[:place])
        _join(read, _own_thread(read) if thread_id is None else thread_id)
        if read.message.message_id:
            here[message.mailbox_id, read.message.message_id] = read.message.thread_id


def _answered(parsed: parse.Parsed) -> list[str]:
    """Message-IDs that lead to the conversation: its first one (RFC 5322 3.6.4), and what this one answers."""
    names = [*parsed.references[:1], *([parsed.in_reply_to] if parsed.in_reply_to else [])]
    return list(dict.fromkeys(names))


def _own_thread(read: _Read) -> UUID:
    """What stands on the message, or what its own references say where they could not be read before."""
    if not read.changes:
        return read.message.thread_id
    return reading.thread(read.parsed, read.message.content_id)


def _join(read: _Read, thread_id: UUID) -> None:
    if thread_id != read.message.thread_id:
        read.message = replace(read.message, thread_id=thread_id)
        read.changes["thread_id"] = thread_id


async def _by_subject(connection: db.Connection, account_id: UUID, read: _Read, before: Sequence[_Read]) -> UUID | None:
    """The thread of the latest earlier message of the mailbox with the same subject and somebody in common."""
    message = read.message
    subject, is_reply = base_subject(message.subject)
    if not is_reply or not subject:
        return None
    people = _people(message.from_address, message.recipients, message.envelope)
    for earlier in reversed(before):
        other = earlier.message
        if (other.mailbox_id, base_subject(other.subject)[0]) == (message.mailbox_id, subject) and (
            people & _people(other.from_address, other.recipients, other.envelope)
        ):
            return other.thread_id
    candidates = await search.same_subject(
        connection, account_id, message.mailbox_id, subject, before=message.seq, limit=CANDIDATES
    )
    for row in candidates:
        if people & _people(row["from_address"], row["recipients"], row["envelope"]):
            found: UUID = row["thread_id"]
            return found
    return None


def _people(sender: str | None, recipients: Iterable[dict[str, Any]], envelope: dict[str, Any]) -> set[str]:
    """Who takes part, the mailbox itself left out: it has all of its mail in common."""
    own = {query.canonical(address) for address in envelope.get("rcpt_to", ())}
    people = {query.canonical(person["address"]) for person in recipients if person.get("address")}
    return (people | ({query.canonical(sender)} if sender else set())) - own
