"""What happens after the 250: mail is found by its words, conversations come together, hard mail is read at last."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import AsyncIterator, Iterable
from typing import Any
from uuid import UUID, uuid4

import pytest
from uuid_utils.compat import uuid7

from gateway.inbound import indexing, reading
from gateway.inbound.indexing import AfterwardsReader
from gateway.inbound.pace import Pace
from gateway.inbound.parsing import ParsingPool
from gateway.inbound.protocol import Incoming
from gateway.mail import parse, query
from gateway.storage import accounts, db, mailboxes, messages, search
from tests.storage import rows

pytestmark = pytest.mark.anyio


@pytest.fixture
async def pool() -> AsyncIterator[ParsingPool]:
    pool = ParsingPool()
    yield pool
    await pool.close()


@pytest.fixture
def reader(database: db.Database, pool: ParsingPool) -> AfterwardsReader:
    return AfterwardsReader(database, pool, Pace(), told=lambda accounts: None)


def letter(subject: str = "Hello", text: str = "", *, sender: str = "Ann <ann@x.example>", **fields: str) -> bytes:
    header = {"From": sender, "To": "box@postroom.test", "Subject": subject}
    header |= {name.replace("_", "-"): value for name, value in fields.items()}
    lines = [*(f"{name}: {value}" for name, value in header.items()), "Content-Type: text/plain; charset=utf-8"]
    return "\r\n".join([*lines, "", text, ""]).encode()


def new_message(
    box: UUID, raw: bytes, parsed: parse.Parsed, **fields: Any
) -> tuple[messages.NewMessage, messages.Content]:
    incoming = Incoming(
        receipt_id=uuid7(),
        mail_from="ann@x.example",
        rcpt_to=("box@postroom.test",),
        helo="x",
        remote_ip="127.0.0.1",
        tls=False,
        smtputf8=False,
        raw=raw,
    )
    new = reading.copy_for(box, incoming, reading.read(parsed, incoming), ["box@postroom.test"], None)
    content = messages.Content(id=incoming.receipt_id, raw=raw, size=len(raw))
    values = {name: getattr(new, name) for name in new.__struct_fields__}
    return messages.NewMessage(**values | fields), content


async def give(
    database: db.Database, account_id: UUID, box: UUID, *raws: bytes, parsed: parse.Parsed | None = None, **fields: Any
) -> list[UUID]:
    """Mail as it is stored when it comes in, all of it at once; ids of the messages."""
    new = [new_message(box, raw, parsed or parse.parse_fast(raw) or parse.parse_slow(raw), **fields) for raw in raws]
    async with database.transaction() as connection:
        await mailboxes.live(connection, account_id, [box])
        await messages.store(connection, account_id, [one for one, _ in new], [content for _, content in new])
    return [one.id for one, _ in new]


async def find(database: db.Database, account_id: UUID, q: str, **place: Any) -> list[UUID]:
    """Everything that is found, by pages of two."""
    found: list[UUID] = []
    after: int | None = None
    while True:
        page = await find_page(database, account_id, q, after=after, **place)
        found += [message.id for message in page.messages]
        after = page.next_seq
        if after is None:
            return found


async def find_page(
    database: db.Database,
    account_id: UUID,
    q: str,
    *,
    box: UUID | None = None,
    after: int | None = None,
    limit: int = 2,
    ascending: bool = False,
    seen: bool | None = None,
    thread: UUID | None = None,
) -> search.Found:
    wanted = query.also(query.parse(q), query.Filters(seen=seen), thread=thread)
    async with database.transaction() as connection:
        return await search.page(
            connection, account_id, wanted, mailbox_id=box, after=after, limit=limit, ascending=ascending
        )


async def threads(database: db.Database, account_id: UUID, ids: Iterable[UUID]) -> list[UUID]:
    async with database.connection() as connection:
        found = [await messages.summary(connection, account_id, id) for id in ids]
    return [message.thread_id for message in found if message is not None]


# Words


async def test_mail_is_found_by_words_of_its_subject_and_text(
    database: db.Database, account_id: UUID, reader: AfterwardsReader
) -> None:
    box = await rows.mailbox(database, account_id)
    one, two, three = await give(
        database,
        account_id,
        box,
        letter("Your order", "Grüße aus Köln. The quick brown fox, again and again."),
        letter("Re: lunch", "東京タワーで会いましょう. Привет, Ёлка!"),
        letter("=?utf-8?q?Best=C3=A4tigung?=", "quick: no fox is brown"),
    )
    assert await find(database, account_id, "order") == [one]  # by its subject at once
    await reader.drain(account_id)
    asked = {
        "gruesse": [],
        "grusse KOLN": [one],
        "quick": [three, one],
        '"quick brown"': [one],
        "quick brown": [three, one],
        "quick -again": [three],
        "-quick": [two],
        "-nothing": [three, two, one],
        "東京": [two],
        "京": [two],
        "タワーで会": [two],
        "東会": [],
        "привет елка": [two],
        "subject:order": [one],
        "subject:quick": [],
        "-subject:lunch quick": [three, one],
        "bestatigung": [three],
        '"again again"': [],
        '"order grusse"': [],  # one ends the subject, the other begins the text
        "quic": [],
    }
    for q, expected in asked.items():
        assert await find(database, account_id, q) == expected, q
        assert await find(database, account_id, q, box=box) == expected, q
        assert await find(database, account_id, q, ascending=True) == expected[::-1], q


async def test_the_text_of_html_is_found_and_its_markup_is_not(
    database: db.Database, account_id: UUID, reader: AfterwardsReader
) -> None:
    box = await rows.mailbox(database, account_id)
    raw = b"Subject: s\r\nContent-Type: text/html\r\n\r\n<p class=hidden>visible <b>wor</b>d</p><style>css</style>\r\n"
    [id] = await give(database, account_id, box, raw)
    await reader.drain(account_id)
    assert await find(database, account_id, "visible word") == [id]
    assert await find(database, account_id, "hidden") == []
    assert await find(database, account_id, "css") == []


@pytest.mark.parametrize("indexed", [False, True])
async def test_addresses_are_exact_and_filters_work_before_and_after_indexing(
    database: db.Database, account_id: UUID, reader: AfterwardsReader, indexed: bool
) -> None:
    box = await rows.mailbox(database, account_id)
    senders = ("Ann Lee <alice@x.example>", "malice@x.example", "alice@x.example.org", "Alice@X.example")
    ids = await give(database, account_id, box, *(letter(f"n {n}", "t", sender=s) for n, s in enumerate(senders)))
    [tagged] = await give(database, account_id, box, letter("tagged", "x" * 2000), tag="Sign+up", attachment_count=1)
    async with database.transaction() as connection:
        await messages.change(connection, account_id, ids[0], changes={"seen": True, "labels": ["to do", "b"]})
    if indexed:
        await reader.drain(account_id)
    asked = {
        "from:alice@x.example": [ids[3], ids[0]],
        "from:ALICE@X.EXAMPLE": [ids[3], ids[0]],
        "from:lice@x.example": [],
        "from:@x.example": [tagged, ids[3], ids[1], ids[0]],
        "from:x.example": [tagged, ids[3], ids[1], ids[0]],
        "from:example": [],
        "from:lee": [ids[0]],
        "-from:@x.example": [ids[2]],
        "to:box@postroom.test -from:x.example": [ids[2]],
        "to:ox@postroom.test": [],
        "to:@postroom.test subject:n": [*reversed(ids)],
        "subject:tagged": [tagged],
        "-subject:n": [tagged],
        "tag:sign+up": [tagged],
        "tag:sign": [],
        'label:"to do"': [ids[0]],
        "label:b is:seen": [ids[0]],
        "label:c": [],
        "-label:b from:@x.example": [tagged, ids[3], ids[1]],
        "is:unseen subject:n": [ids[3], ids[2], ids[1]],
        "has:attachment": [tagged],
        "-has:attachment": [*reversed(ids)],
        "larger:1k": [tagged],
        "smaller:1k": [*reversed(ids)],
        "before:2020-01-01": [],
        "after:2020-01-01 tag:sign+up": [tagged],
        "is:seen is:unseen": [],
    }
    for q, expected in asked.items():
        assert await find(database, account_id, q) == expected, q
        assert await find(database, account_id, q, box=box) == expected, q
        assert await find(database, account_id, q, box=uuid4()) == [], q
        assert await find(database, account_id, q, ascending=True) == expected[::-1], q


async def test_a_word_that_only_the_body_could_hold_is_not_guessed_before_it_is_read(
    database: db.Database, account_id: UUID, reader: AfterwardsReader
) -> None:
    """Seen to fail with a negated word decided by subject and snippet: both messages were found too early."""
    box = await rows.mailbox(database, account_id)
    long = "word " * 100 + "secret"
    with_it, without = await give(database, account_id, box, letter("one", long), letter("two", "word"))
    assert await find(database, account_id, "-secret") == []
    await reader.drain(account_id)
    assert await find(database, account_id, "-secret") == [without]
    assert await find(database, account_id, "secret") == [with_it]


async def test_pages_meet_in_every_segment_and_across_the_end_of_the_index(
    database: db.Database, account_id: UUID, reader: AfterwardsReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SEGMENT", 3)
    monkeypatch.setattr(search, "TAIL_SLICE", 2)
    monkeypatch.setattr(indexing, "SLICE_MESSAGES", 4)
    box, other = await rows.mailbox(database, account_id), await rows.mailbox(database, account_id)
    raws = [letter(f"needle {n}" if n % 3 else "hay", "common") for n in range(40)]
    ids = []
    for raw in raws[:33]:
        ids += await give(database, account_id, box if raw[0] % 2 else other, raw)
    await reader.drain(account_id)
    for raw in raws[33:]:
        ids += await give(database, account_id, box, raw)
    expected = [id for n, id in enumerate(ids) if n % 3]
    for limit in (1, 2, 7, 100):
        for ascending in (False, True):
            found: list[UUID] = []
            after = None
            for _ in itertools.count():
                page = await find_page(database, account_id, "needle", after=after, limit=limit, ascending=ascending)
                assert len(page.messages) <= limit
                found += [message.id for message in page.messages]
                if (after := page.next_seq) is None:
                    break
            assert found == (expected if ascending else expected[::-1])


@pytest.mark.parametrize("few", [1000, 3], ids=["few labels", "many labels"])
async def test_words_and_labels_are_found_alike_however_many_messages_have_labels(
    database: db.Database, account_id: UUID, reader: AfterwardsReader, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """Over segments, pages, mailboxes, and what is not indexed yet.

    Seen to fail, in both forms, with the look at the words taken out of `found_among`: mail of another subject, or of
    another mailbox, was found.
    """
    monkeypatch.setattr(search, "SEGMENT", 3)
    monkeypatch.setattr(search, "LABELLED", few)
    box, other = await rows.mailbox(database, account_id), await rows.mailbox(database, account_id)
    ids = []
    for n in range(30):
        if n == 24:
            await reader.drain(account_id)
        ids += await give(database, account_id, box if n % 2 else other, letter("needle" if n % 3 else "hay", "common"))
    async with database.transaction() as connection:
        for n in range(0, 30, 2):
            labels = ["a", "b"] if n % 4 else ["b"]
            await messages.change(connection, account_id, ids[n], changes={"labels": labels, "seen": n > 20})
        await messages.change(connection, account_id, ids[23], changes={"labels": ["a"]})

    asked = {
        "needle label:a": [n for n in range(30) if n % 3 and (n % 4 == 2 or n == 23)],
        "needle label:a label:b": [n for n in range(30) if n % 3 and n % 4 == 2],
        "needle label:b -label:a": [n for n in range(30) if n % 3 and n % 4 == 0],
        "-needle label:b common is:unseen": [n for n in range(0, 21, 2) if not n % 3],
        "needle label:none": [],
        "nothing label:b": [],
    }
    for q, numbers in asked.items():
        expected = [ids[n] for n in numbers]
        assert await find(database, account_id, q) == expected[::-1], q
        assert await find(database, account_id, q, ascending=True) == expected, q
        assert await find(database, account_id, q, box=box) == [ids[n] for n in numbers if n % 2][::-1], q
        assert await find(database, account_id, q, box=other, ascending=True) == [
            ids[n] for n in numbers if not n % 2
        ], q


async def test_a_page_whose_time_is_over_says_where_to_go_on(
    database: db.Database, account_id: UUID, reader: AfterwardsReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SEGMENT", 3)
    monkeypatch.setattr(search, "BUDGET_SECONDS", 0.0)
    box = await rows.mailbox(database, account_id)
    ids = await give(database, account_id, box, *(letter("needle" if n < 2 else "hay") for n in range(30)))
    await reader.drain(account_id)
    first = await find_page(database, account_id, "needle")
    assert first.messages == []
    assert first.next_seq
    assert await find(database, account_id, "needle") == [ids[1], ids[0]]
    assert await find(database, account_id, "needle", ascending=True) == ids[:2]


# Isolation, deleting, dying


async def colliding_accounts(database: db.Database) -> tuple[UUID, UUID]:
    """Two accounts whose lexemes begin alike."""
    seen: dict[str, UUID] = {}
    while True:
        candidate = uuid7()
        other = seen.setdefault(search.tag(candidate), candidate)
        if other != candidate:
            break
    async with database.transaction() as connection:
        for id in (candidate, other):
            made = await accounts.create(connection, "colliding")
            await connection.execute("update accounts set id = $1 where id = $2", id, made)
            await connection.execute("update event_heads set account_id = $1 where account_id = $2", id, made)
            await connection.execute("update events set account_id = $1 where account_id = $2", id, made)
    return candidate, other


async def test_accounts_whose_lexemes_begin_alike_do_not_see_each_others_mail(
    database: db.Database, reader: AfterwardsReader
) -> None:
    """Both logs begin alike, so that the messages have the same seqs, too.

    Seen to fail with the account's condition taken out of `found`: the other account's word found a message of mine.
    """
    mine, theirs = await colliding_accounts(database)
    boxes = {account: await rows.mailbox(database, account) for account in (mine, theirs)}
    await give(database, mine, boxes[mine], letter("plain", "nothing"))
    await give(database, theirs, boxes[theirs], letter("theirs", "secret", Message_ID="<s@x.example>"))
    [reply] = await give(database, mine, boxes[mine], letter("r", "", In_Reply_To="<s@x.example>"))
    for account in (mine, theirs):
        await reader.drain(account)
    for q in ("secret", "subject:theirs"):
        assert await find(database, mine, q) == [], q
        assert len(await find(database, theirs, q)) == 1, q
    assert len(await find(database, mine, "from:ann@x.example")) == 2
    assert reply not in await find(database, theirs, "-nothing")


async def test_what_is_deleted_is_found_no_more_and_leaves_no_row(
    database: db.Database, account_id: UUID, reader: AfterwardsReader
) -> None:
    """Seen to fail with `delete_texts` left out: three rows were left instead of one."""
    box, other = await rows.mailbox(database, account_id), await rows.mailbox(database, account_id)
    one, two = await give(database, account_id, box, letter("needle"), letter("needle"))
    await give(database, account_id, other, letter("needle"))
    await reader.drain(account_id)
    assert await rows.delete(database, account_id, other)
    assert await find(database, account_id, "needle") == [two, one]
    async with database.transaction() as connection:
        await messages.delete(connection, account_id, [one])
    assert await find(database, account_id, "needle") == [two]
    async with database.transaction() as connection:
        ids, _ = await messages.slice_of(connection, account_id, other, 10)
        await messages.remove(connection, account_id, ids)
    assert await rows.count(database, "select count(*) from message_texts") == 1


class Deleting(ParsingPool):
    """Whoever reads the first mail finds a message deleted when that is done."""

    def __init__(self, database: db.Database, account_id: UUID, message_id: UUID, pool: ParsingPool) -> None:
        self._of = database, account_id, message_id
        self._reading = pool

    async def read(self, raw: bytes) -> parse.Parsed:
        await asyncio.create_task(self._delete())  # on a connection of its own
        return await self._reading.read(raw)

    async def _delete(self) -> None:
        database, account_id, message_id = self._of
        async with database.transaction() as connection:
            await messages.delete(connection, account_id, [message_id])


async def test_a_message_deleted_while_it_is_read_leaves_no_row(
    database: db.Database, account_id: UUID, pool: ParsingPool
) -> None:
    """Deleted after the slice has read it, and before it is written.

    Seen to fail with `add` writing without a look at the messages: two rows were left instead of one.
    """
    box = await rows.mailbox(database, account_id)
    one, two = await give(database, account_id, box, letter("needle"), letter("needle"))
    deleting = Deleting(database, account_id, one, pool)
    await AfterwardsReader(database, deleting, Pace(), told=lambda accounts: None).drain(account_id)
    assert await rows.count(database, "select count(*) from message_texts") == 1
    assert await find(database, account_id, "needle") == [two]


async def test_of_a_message_deleted_while_it_is_read_nothing_is_told(
    database: db.Database, account_id: UUID, pool: ParsingPool
) -> None:
    """Seen to fail with changes told whether or not they found a message: after the deletion the log said what the
    message held, and nothing would have blanked that."""
    box = await rows.mailbox(database, account_id)
    raw = letter("Code", "Your code is 482913")
    one, two = await give(database, account_id, box, raw, raw, parsed=parse.raw_only(raw))
    deleting = Deleting(database, account_id, one, pool)
    await AfterwardsReader(database, deleting, Pace(), told=lambda accounts: None).drain(account_id)
    log = await rows.log_of(database, account_id)
    assert [event.message_id for event in log if event.type == "message.updated"] == [two]
    assert all("482913" not in event.data for event in log if event.message_id == one)


async def test_a_reader_that_dies_between_two_messages_has_its_slice_read_again(
    database: db.Database,
    account_id: UUID,
    pool: ParsingPool,
    reader: AfterwardsReader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seen to fail with slices that say they came to the log's head, however far they came: the rest was never read."""
    monkeypatch.setattr(indexing, "SLICE_MESSAGES", 3)
    box = await rows.mailbox(database, account_id)
    ids = await give(database, account_id, box, *(letter(f"needle {n}", f"body{n}") for n in range(9)))
    reads = itertools.count(1)

    class Dying(ParsingPool):
        async def read(self, raw: bytes) -> parse.Parsed:
            if next(reads) == 5:
                raise asyncio.CancelledError
            return await pool.read(raw)

    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.create_task(
            AfterwardsReader(database, Dying(), Pace(), told=lambda accounts: None).drain(account_id)
        )
    assert await rows.count(database, "select count(*) from message_texts") == 3
    assert await reader.look() == [account_id]
    await reader.drain(account_id)
    assert await reader.look() == []
    assert await find(database, account_id, "needle") == ids[::-1]
    assert await rows.count(database, "select count(*) from message_texts") == 9
    for n, id in enumerate(ids):
        assert await find(database, account_id, f"body{n}") == [id]


async def test_two_readers_of_one_account_do_not_wait_for_each_other(
    database: db.Database, account_id: UUID, reader: AfterwardsReader
) -> None:
    """Seen to fail without `skip locked`: the second one waited until its time was over."""
    box = await rows.mailbox(database, account_id)
    await give(database, account_id, box, letter("needle"))
    async with database.connection() as connection:
        await search.begin(connection, account_id)
    async with database.transaction() as connection:
        assert await search.take(connection, account_id) == 0
        await asyncio.create_task(reader.drain(account_id))  # has nothing to do, and does not wait
    assert await rows.count(database, "select count(*) from message_texts") == 0
    await reader.drain(account_id)
    assert await rows.count(database, "select count(*) from message_texts") == 1


async def test_the_void_is_never_read(database: db.Database, reader: AfterwardsReader) -> None:
    async with database.transaction() as connection:
        void = (await accounts.voids(connection))[0]
    await give(database, void, void, letter("nobody"))
    assert await reader.look() == []


# Conversations


async def test_a_reply_joins_the_conversation_of_what_it_answers(
    database: db.Database, account_id: UUID, reader: AfterwardsReader
) -> None:
    """A ← B ← C, each knowing only the one before; the first two come alone, the others in one slice."""
    box, other = await rows.mailbox(database, account_id), await rows.mailbox(database, account_id)
    a = await give(database, account_id, box, letter("a", Message_ID="<a@x>"))
    await reader.drain(account_id)
    b = await give(database, account_id, box, letter("b", Message_ID="<b@x>", In_Reply_To="<a@x>"))
    await reader.drain(account_id)
    rest = [letter("c", Message_ID="<c@x>", In_Reply_To="<b@x>"), letter("d", References="<c@x>")]
    cd = await give(database, account_id, box, *rest)
    elsewhere = await give(database, account_id, other, letter("e", In_Reply_To="<b@x>"))
    await reader.drain(account_id)
    found = await threads(database, account_id, [*a, *b, *cd])
    assert len(set(found)) == 1
    assert await threads(database, account_id, elsewhere) != found[:1]
    told = [e for e in await rows.log_of(database, account_id) if e.type == "message.updated"]
    assert [(e.message_id, json.loads(e.data)) for e in told] == [
        (id, {"id": str(id), "thread_id": str(found[0])}) for id in cd
    ]
    assert await find(database, account_id, "", thread=found[0]) == [*cd[::-1], *b, *a]


async def test_a_reply_without_references_joins_by_its_subject_and_who_takes_part(
    database: db.Database, account_id: UUID, reader: AfterwardsReader
) -> None:
    box = await rows.mailbox(database, account_id)
    first = await give(database, account_id, box, letter("Invoice 17"))
    stranger = await give(database, account_id, box, letter("Re: Invoice 17", sender="eve@y.example"))
    await reader.drain(account_id)
    subjects = ("Re: Invoice 17", "AW: Re[2]: invoice  17", "回复：Invoice 17", "Invoice 17", "Re: Invoice 18")
    later = await give(database, account_id, box, *(letter(subject) for subject in subjects))
    await reader.drain(account_id)
    [thread] = await threads(database, account_id, first)
    assert [found == thread for found in await threads(database, account_id, stranger + later)] == [
        *(False, True, True, True),
        *(False, False),  # the same subject, but no reply; a reply to something else
    ]


@pytest.mark.parametrize(
    ("subject", "base", "is_reply"),
    [
        ("Re: Hello", "hello", True),
        ("RE: AW: SV: Antw: Hello", "hello", True),
        ("Odp: Cześć", "czesc", True),
        ("Re[3]: x", "x", True),
        ("回覆: 你好", "", True),
        ("Research: x", "research x", False),
        ("Hello", "hello", False),
        ("Re:", "", True),
    ],
)
def test_a_subject_without_its_prefixes(subject: str, base: str, is_reply: bool) -> None:
    found, replied = indexing.base_subject(subject)
    assert (found, replied) == (base, is_reply) or (base == "" and replied == is_reply)


# Mail that found no parser


async def test_mail_that_found_no_parser_free_is_read_later_and_told(
    database: db.Database, account_id: UUID, reader: AfterwardsReader
) -> None:
    box = await rows.mailbox(database, account_id)
    raw = letter("Code", "Your code is 482913", Message_ID="<m@x>")
    [id] = await give(database, account_id, box, raw, parsed=parse.raw_only(raw))
    assert await find(database, account_id, "482913") == []
    await reader.drain(account_id)
    async with database.connection() as connection:
        message = await messages.summary(connection, account_id, id)
    assert message is not None
    assert (message.parse, message.snippet) == ("ok", "Your code is 482913")
    assert message.codes[0]["value"] == "482913"
    assert await find(database, account_id, "482913") == [id]
    [event] = [e for e in await rows.log_of(database, account_id) if e.type == "message.updated"]
    data = json.loads(event.data)
    assert data["codes"][0]["value"] == "482913"
    assert (data["id"], data["snippet"]) == (str(id), "Your code is 482913")


# Mail that nobody can index


async def test_mail_of_more_words_than_a_row_takes_is_found_by_as_many_as_fit(
    database: db.Database, account_id: UUID, reader: AfterwardsReader
) -> None:
    """Postgres takes 1 MiB. Before they were counted the reader failed at this mail each time, and never came to the
    next one."""
    box = await rows.mailbox(database, account_id)
    dice = random.Random(0)
    names, subject, text = ["".join(map(chr, dice.choices(range(0x4E00, 0x9FFF), k=15_900))) for _ in range(3)]
    ids = await give(database, account_id, box, letter(subject, text, sender=f"{names} <a@x>"), letter("Next"))
    await reader.drain(account_id)
    assert await find(database, account_id, "next") == ids[1:]
    for words in (subject[:20], f"from:{names[:5]}", "-subject:nothing"):
        assert ids[0] in await find(database, account_id, words)


async def test_a_message_that_cannot_be_indexed_is_set_aside_and_the_others_are_found(
    database: db.Database, account_id: UUID, reader: AfterwardsReader
) -> None:
    """With nothing set aside the reader failed here, and none of the three was ever found."""
    box = await rows.mailbox(database, account_id)
    senseless = letter("Second")
    ids = [*await give(database, account_id, box, letter("First"))]
    ids += await give(database, account_id, box, senseless, recipients='[{"address": 5}]')
    ids += await give(database, account_id, box, letter("Third"))
    await reader.drain(account_id)
    assert [await find(database, account_id, word) for word in ("first", "second", "third")] == [ids[:1], [], ids[2:]]
    assert await find(database, account_id, "-subject:first", box=box) == ids[:0:-1]
