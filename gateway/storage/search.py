"""Search: the index of words, how it is asked, and how far it has come.

**What is indexed.** Each message's words stand in `message_texts` as a `tsvector` that we write ourselves (the words of
gateway.mail.terms with their places; no dictionary, no language), under a GIN index. GIN knows nothing of accounts and
nothing of order, so each lexeme says both: four characters made of the account's id, then the *segment*, which is the
message's seq divided by SEGMENT, then what kind of word it is. So a lexeme's list is never longer than a segment, and a
page of the newest messages reads the newest segments alone, be the word in every message or in none. (With one list for
each word and account, a word that all of 100,000 messages hold meant 100,000 rows read for every page.)

Addresses, domains, tags, conversations and the mailbox are lexemes of the same kind. What changes (seen, labels) is not
in the index: it is asked of the message's row. Four characters can be those of two accounts: every row is checked.

**How it is asked.** Segments that hold messages, 1, 4, 16 and then 32 at a time, until the page is full or
BUDGET_SECONDS have passed: then the page is shorter, and its cursor says where to go on. Where a label is asked for and
few messages have any, it is the other way round: the words of those are looked at, and of no other.

**What is not indexed yet** (`indexing` says how far an account is) is matched message by message, on what its row
knows: addresses, tags, words of the subject and of the snippet. A `-word` that only the body could hold is not decided
by guessing: such a message is found once it is indexed.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import operator
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from gateway.mail import query, terms
from gateway.storage import db
from gateway.storage.messages import Message
from gateway.storage.sql import Query as Statement
from gateway.storage.sql import load

sql = load("search")

# Seqs whose messages share lexemes: what one look costs at most. The larger, the dearer is a word of every message, and
# the smaller, a word of none: 100,000 messages are 49 looks.
SEGMENT: Final = 2048
BUDGET_SECONDS: Final = 1.0  # for one page; what is not found until then, its cursor finds
LABELLED: Final = 1000  # messages with labels that may be looked at one by one
TAIL_SLICE: Final = 500  # messages not indexed yet that are matched at once
TAIL_ROWS: Final = 4000  # and for one page
SEGMENTS: Final = 64  # looked up at once
STEPS: Final = (1, 4, 16, 32)  # segments of one statement; the last again and again
MAX_SEQ: Final = 2**63 - 1
MAX_VALUE: Final = 254  # characters of an exact value; longer ones stand there as their hash
SUBJECT_SEGMENTS: Final = 8  # how far back a reply without references looks for what it answers
MAX_PLACES: Final = 255  # of one word; Postgres keeps no more
MAX_VECTOR: Final = 1_000_000  # octets of what a message can be found by; Postgres takes 1,048,575
LEXEME_BYTES: Final = 5  # of a word's kind, how many places it has, and what aligns them
UTF8_BYTES: Final = 4  # of a character, at most

# Kinds of lexemes; none is a digit, since the segment's number stands before it
_KINDS: Final[dict[str, str]] = {
    "words": "w",
    "subject": "s",
    "from": "f",
    "from_domain": "d",
    "from_name": "n",
    "to": "t",
    "to_domain": "e",
    "to_name": "m",
    "tag": "g",
    "thread": "h",
    "mailbox": "b",
    "base_subject": "r",
}
_ALL: Final = "a"  # every message has it
_ID: Final = "i"  # Message-ID; without a segment, since it is looked for in all of them


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """What a message can be found by."""

    exact: frozenset[tuple[str, str]]  # kind and value
    words: dict[str, terms.Places]  # by kind
    message_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A page."""

    messages: list[Message]
    next_seq: int | None  # where the next page begins; None = there is none


def tag(account_id: UUID) -> str:
    """Four characters that tell most accounts apart."""
    return base64.urlsafe_b64encode(hashlib.sha256(account_id.bytes).digest()[:3]).decode()


# What a message can be found by


def text_of(message: Message, *, body: str | None = None) -> Text:
    """`body`: the text as it was read; None = not read yet, and the snippet stands for it."""
    sender = _parties("from", [{"name": message.from_name, "address": message.from_address}])
    given = [{"address": address} for address in message.envelope.get("rcpt_to", ())]
    recipients = _parties("to", [*message.recipients, *given])
    exact = {
        *sender.exact,
        *recipients.exact,
        ("thread", message.thread_id.hex),
        ("mailbox", message.mailbox_id.hex),
    }
    if message.tag:
        exact.add(("tag", message.tag.casefold()))
    words = {
        "words": terms.of_texts([message.subject, message.snippet if body is None else body]),
        "subject": terms.of_text(message.subject),
    }
    return Text(exact=frozenset(exact), words=words | sender.words | recipients.words, message_id=message.message_id)


def in_mailbox(mailbox_id: UUID) -> Text:
    """What any message of a mailbox can be found by, whatever it holds."""
    return Text(exact=frozenset({("mailbox", mailbox_id.hex)}), words={})


def _parties(kind: str, people: Iterable[dict[str, Any]]) -> Text:
    exact: set[tuple[str, str]] = set()
    names: list[str] = []
    for person in people:
        address = query.canonical(person.get("address") or "")
        if address:
            exact.add((kind, address))
            exact.add((f"{kind}_domain", address.rpartition("@")[2]))
        if person.get("name"):
            names.append(person["name"])
    return Text(exact=frozenset(exact), words={f"{kind}_name": terms.of_texts(names)})


def vector(account_id: UUID, seq: int, text: Text, *, base_subject: str = "") -> str:
    """The tsvector as text."""
    prefix = f"{tag(account_id)}{seq // SEGMENT}"
    exact = [prefix + _ALL, *(prefix + _KINDS[kind] + _bounded(value) for kind, value in text.exact)]
    if base_subject:
        exact.append(prefix + _KINDS["base_subject"] + _bounded(base_subject))
    if text.message_id:
        exact.append(_id_lexeme(account_id, text.message_id))
    lexemes = [_quoted(lexeme) for lexeme in exact]
    for kind, places in _within(MAX_VECTOR - sum(map(len, lexemes)) * UTF8_BYTES, len(prefix), text.words).items():
        begin = f"'{prefix}{_KINDS[kind]}"  # words are letters and digits: nothing in them needs quoting
        lexemes += [f"{begin}{word}':{str(at[:MAX_PLACES])[1:-1].replace(' ', '')}" for word, at in places.items()]
    return " ".join(lexemes)


def _within(room: int, prefix: int, words: Mapping[str, terms.Places]) -> Mapping[str, terms.Places]:
    """As many words as a vector has room for, of each kind the first ones: nearly always all."""
    count = sum(map(len, words.values()))
    if count * (prefix + terms.MAX_WORD * UTF8_BYTES + LEXEME_BYTES) < room:
        return words
    share, kept = room // max(len(words), 1), {}
    for kind, places in words.items():
        costs = (prefix + LEXEME_BYTES + 2 * len(at[:MAX_PLACES]) + len(word.encode()) for word, at in places.items())
        fitting = itertools.takewhile(lambda total: total <= share, itertools.accumulate(costs))
        kept[kind] = dict(itertools.islice(places.items(), sum(1 for _ in fitting)))
    return kept


def _id_lexeme(account_id: UUID, message_id: str) -> str:
    return tag(account_id) + _ID + _bounded(message_id)


def _bounded(value: str) -> str:
    if len(value) <= MAX_VALUE:
        return value
    return hashlib.sha256(value.encode("utf-8", "replace")).hexdigest()


def _quoted(lexeme: str) -> str:
    escaped = lexeme.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


# What is asked


def matches(conditions: Sequence[query.Condition], text: Text) -> bool:
    """Whether a message that is not indexed yet is surely meant. Its body is not known: what only that could decide,
    decides against it."""
    return all(_matches(condition, text) for condition in conditions)


def _matches(condition: query.Condition, text: Text) -> bool:
    if not condition.words:
        return ((condition.kind, condition.value) in text.exact) != condition.negated
    held = terms.holds(text.words.get(condition.kind, {}), condition.words)
    return held != condition.negated and not (condition.negated and condition.kind == "words")


def asked(account_id: UUID, segment: int, conditions: Sequence[query.Condition], mailbox_id: UUID | None = None) -> str:
    """The tsquery of one segment, as text."""
    prefix = f"{tag(account_id)}{segment}"
    pieces = [_asked(prefix, condition) for condition in conditions]
    if mailbox_id is not None:
        pieces.append(_quoted(prefix + _KINDS["mailbox"] + mailbox_id.hex))
    elif all(condition.negated for condition in conditions):
        pieces.append(_quoted(prefix + _ALL))  # else Postgres would walk the whole index
    return " & ".join(pieces)


def _asked(prefix: str, condition: query.Condition) -> str:
    letter = prefix + _KINDS[condition.kind]
    piece = _phrase(letter, condition.words) if condition.words else _quoted(letter + _bounded(condition.value))
    return f"!({piece})" if condition.negated else f"({piece})"


def _phrase(letter: str, words: Sequence[terms.Term]) -> str:
    pieces = [_quoted(letter + words[0].word)]
    for before, term in itertools.pairwise(words):
        pieces.append(f"<{term.place - before.place}> {_quoted(letter + term.word)}")
    return " ".join(pieces)


# Finding


async def page(
    connection: db.Connection,
    account_id: UUID,
    wanted: query.Query,
    *,
    mailbox_id: UUID | None = None,
    after: int | None,
    limit: int,
    ascending: bool,
) -> Found:
    """Messages behind the seq `after` in the order asked for. To be called in a transaction, for what it sets."""
    if wanted.filters.impossible:
        return Found(messages=[], next_seq=None)
    await sql.by_index.run(connection)
    low, high = (after or 0, MAX_SEQ) if ascending else (0, MAX_SEQ if after is None else after)
    looking = _Looking(
        connection=connection,
        account_id=account_id,
        wanted=wanted,
        mailbox_id=mailbox_id,
        limit=limit,
        ascending=ascending,
    )
    await looking.between(low, high)
    return looking.found()


@dataclass(kw_only=True, slots=True)
class _Looking:
    """One page being filled."""

    connection: db.Connection
    account_id: UUID
    wanted: query.Query
    mailbox_id: UUID | None  # None = the whole account
    limit: int
    ascending: bool
    messages: list[Message] = field(default_factory=list)
    stopped: int | None = None  # seq up to which was looked when the time was over
    until: float = field(default_factory=lambda: time.monotonic() + BUDGET_SECONDS)

    async def between(self, low: int, high: int) -> None:
        """Everything with low < seq < high, until there is one more than the page takes."""
        if not self.wanted.conditions:
            self.messages = await self._rows(low, high, self.limit + 1)
            return
        indexed = await sql.indexed.value(self.connection, account_id=self.account_id) or 0
        old, new = (low, min(high, indexed + 1)), (max(low, indexed), high)
        if self.ascending:
            await self._index(*old)
            await self._tail(*new)
        else:
            await self._tail(*new)
            await self._index(*old)

    def found(self) -> Found:
        if len(self.messages) > self.limit:
            shown = self.messages[: self.limit]
            return Found(messages=shown, next_seq=shown[-1].seq)
        return Found(messages=self.messages, next_seq=self.stopped)

    @property
    def _open(self) -> bool:
        return len(self.messages) <= self.limit and self.stopped is None

    async def _rows(self, low: int, high: int, limit: int) -> list[Message]:
        """By the messages' rows alone."""
        source = "labelled" if self.wanted.filters.labelled else "account" if self.mailbox_id is None else "mailbox"
        values = {"low": low, "high": high, "limit": limit, **self._filters()}
        if source != "account":
            values["mailbox_id"] = self.mailbox_id
        rows = await self._statement(f"of_{source}").fetch(self.connection, **values)
        return [Message.from_row(row) for row in rows]

    async def _tail(self, low: int, high: int) -> None:
        """What is not indexed yet, of which no more is looked at than TAIL_ROWS."""
        for _ in range(TAIL_ROWS // TAIL_SLICE):
            if not self._open or low + 1 >= high:
                return
            rows = await self._rows(low, high, TAIL_SLICE)
            self.messages += [row for row in rows if matches(self.wanted.conditions, text_of(row))]
            if len(rows) < TAIL_SLICE:
                return
            low, high = (rows[-1].seq, high) if self.ascending else (low, rows[-1].seq)

    async def _index(self, low: int, high: int) -> None:
        """Segment by segment, further and further."""
        if self._open and self.wanted.filters.labelled and await self._among_labelled(low, high):
            return
        step, segments = 0, await self._segments(low, high)
        while segments and self._open:
            count = STEPS[min(step, len(STEPS) - 1)]
            await self._look(segments[:count], low, high)
            low, high = self._behind(segments[:count][-1], low, high)
            segments = segments[count:] or await self._segments(low, high)
            step += 1

    async def _among_labelled(self, low: int, high: int) -> bool:
        """Look at the words of messages with these labels, and at nothing else; False = too many have labels."""
        values = {"account_id": self.account_id, "low": low, "high": high}
        labels = list(self.wanted.filters.labelled)
        rows = await sql.labelled.fetch(self.connection, labelled=labels, limit=LABELLED + 1, **values)
        if len(rows) > LABELLED:
            return False
        seqs = [row["seq"] for row in rows if row["is_asked_for"]]
        by_segment = {
            segment: asked(self.account_id, segment, self.wanted.conditions, self.mailbox_id)
            for segment in {seq // SEGMENT for seq in seqs}
        }
        queries = [by_segment[seq // SEGMENT] for seq in seqs]
        limit = self.limit + 1 - len(self.messages)
        found = await self._statement("found_among").fetch(
            self.connection, seqs=seqs, queries=queries, limit=limit, **self._filters()
        )
        self.messages += [Message.from_row(row) for row in found]
        return True

    async def _look(self, segments: Sequence[int], low: int, high: int) -> None:
        conditions = self.wanted.conditions
        queries = [asked(self.account_id, segment, conditions, self.mailbox_id) for segment in segments]
        limit = self.limit + 1 - len(self.messages)
        values = {"queries": queries, "low": low, "high": high, "limit": limit, **self._filters()}
        rows = await self._statement("found").fetch(self.connection, **values)
        found = [Message.from_row(row) for row in rows]
        self.messages += sorted(found, key=operator.attrgetter("seq"), reverse=not self.ascending)
        if time.monotonic() > self.until and len(self.messages) <= self.limit:
            new_low, new_high = self._behind(segments[-1], low, high)
            self.stopped = new_low if self.ascending else new_high

    def _behind(self, segment: int, low: int, high: int) -> tuple[int, int]:
        """The bounds without this segment and those before it."""
        if self.ascending:
            return (segment + 1) * SEGMENT - 1, high
        return low, segment * SEGMENT

    async def _segments(self, low: int, high: int) -> list[int]:
        values: dict[str, Any] = {"account_id": self.account_id, "low": low, "high": high, "limit": SEGMENTS}
        source = "segments_of_account"
        if self.mailbox_id is not None:
            source, values["mailbox_id"] = "segments_of_mailbox", self.mailbox_id
        rows = await self._statement(source).fetch(self.connection, span=SEGMENT, **values)
        return [row["segment"] for row in rows]

    def _statement(self, name: str) -> Statement:
        found: Statement = getattr(sql, f"{name}_{'asc' if self.ascending else 'desc'}")
        return found

    def _filters(self) -> dict[str, Any]:
        filters = self.wanted.filters
        return {
            "account_id": self.account_id,
            "seen": filters.seen,
            "attached": filters.attached,
            "labelled": list(filters.labelled),
            "unlabelled": list(filters.unlabelled),
            "since": filters.since,
            "until": filters.until,
            "size_min": filters.size_min,
            "size_max": filters.size_max,
        }


# Indexing: what the afterwards-reader needs


@dataclass(frozen=True, kw_only=True, slots=True)
class Unread:
    """A message that is not indexed yet."""

    message: Message
    raw: bytes  # empty where it was not kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """Whose thread does this message belong to?"""

    mailbox_id: UUID
    seq: int  # only earlier messages count
    message_id: str


async def behind(connection: db.Connection, *, after_id: UUID, limit: int) -> tuple[list[UUID], UUID | None]:
    """Of the next `limit` accounts behind an id those with messages to read, and where to go on; None = at the end."""
    rows = await sql.behind.fetch(connection, after=after_id, limit=limit)
    last = rows[-1]["account_id"] if len(rows) == limit else None
    return [row["account_id"] for row in rows if row["has_work"]], last


async def begin(connection: db.Connection, account_id: UUID) -> None:
    """Make the account's row, where it is not there yet; a transaction of its own, or two readers would wait here."""
    await sql.begin.run(connection, account_id=account_id)


async def take(connection: db.Connection, account_id: UUID) -> int | None:
    """The seq up to which the account is read, locked against all others; None = somebody else is at it. The
    transaction can do without plans that read tables from end to end."""
    await sql.by_index.run(connection)
    taken: int | None = await sql.take.value(connection, account_id=account_id)
    return taken


async def unread(
    connection: db.Connection, account_id: UUID, after: int, *, limit: int, max_bytes: int
) -> tuple[list[Unread], int, int]:
    """The next messages, one at least of those that there are; the seq up to which nothing else lies; the head."""
    head: int = await sql.head.value(connection, account_id=account_id) or 0
    rows = await sql.next.fetch(connection, account_id=account_id, after=after, until=head, limit=limit)
    until, total = head if len(rows) < limit else after, 0
    for number, row in enumerate(rows):
        total += row["size"]
        if number and total > max_bytes:
            until = rows[number - 1]["seq"]
            break
        until = max(until, row["seq"])
    if not rows:
        return [], until, head
    found = await sql.slice.fetch(connection, account_id=account_id, after=after, until=until)
    return [Unread(message=Message.from_row(row), raw=row["raw"] or b"") for row in found], until, head


async def add(connection: db.Connection, account_id: UUID, vectors: Mapping[int, str], until: int) -> None:
    """Put messages, by seq, into the index; everything up to `until` is read."""
    if vectors:
        seqs = sorted(vectors)
        words = [vectors[seq] for seq in seqs]
        await sql.add.run(connection, account_id=account_id, seqs=seqs, words=words)
    await sql.advance.run(connection, account_id=account_id, until=until)


async def parents(connection: db.Connection, account_id: UUID, asks: Sequence[Ask]) -> dict[int, UUID]:
    """By the place of each in `asks`: the thread of the latest earlier message of its mailbox with that Message-ID."""
    if not asks:
        return {}
    rows = await sql.parents.fetch(
        connection,
        account_id=account_id,
        queries=[_quoted(_id_lexeme(account_id, ask.message_id)) for ask in asks],
        mailbox_ids=[ask.mailbox_id for ask in asks],
        seqs=[ask.seq for ask in asks],
    )
    return {row["n"] - 1: row["thread_id"] for row in rows}


async def same_subject(
    connection: db.Connection, account_id: UUID, mailbox_id: UUID, base_subject: str, *, before: int, limit: int
) -> list[dict[str, Any]]:
    """Earlier messages of the mailbox with that base subject, newest first, of the last few segments: thread_id,
    from_address, recipients, envelope."""
    newest = before // SEGMENT
    queries = [
        " & ".join(
            _quoted(f"{tag(account_id)}{segment}{_KINDS[kind]}{value}")
            for kind, value in (("base_subject", _bounded(base_subject)), ("mailbox", mailbox_id.hex))
        )
        for segment in range(newest, max(newest - SUBJECT_SEGMENTS, -1), -1)
    ]
    rows = await sql.same_subject.fetch(
        connection, account_id=account_id, mailbox_id=mailbox_id, queries=queries, before=before, limit=limit
    )
    return [dict(row) for row in rows]


async def set_thread(connection: db.Connection, account_id: UUID, message_id: UUID, thread_id: UUID) -> bool:
    """The message belongs to that conversation; False = it is deleted."""
    return await sql.set_thread.run(connection, account_id=account_id, id=message_id, thread_id=thread_id) > 0


async def set_reading(connection: db.Connection, account_id: UUID, message_id: UUID, shown: Mapping[str, Any]) -> bool:
    """What a message shows, once it could be read; the columns' values, JSON as text. False = it is deleted."""
    return await sql.set_reading.run(connection, account_id=account_id, id=message_id, **shown) > 0
