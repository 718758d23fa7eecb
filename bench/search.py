"""Search in an account of 100,000 messages among a million, and what indexing costs those who accept mail.

The messages are loaded by SQL, their words drawn so that some are in every message and most in few. Each kind of query
is asked of all accounts in turn, as the API asks it: one page of 50, newest first. Then mail comes in as fast as it is
answered, without and with a worker that indexes it: how much less is accepted, and how far the index is behind.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from bench import accept, client, report, tenants
from bench.report import Row
from bench.setting import Setting
from gateway.mail import query
from gateway.storage import db, search

NAME = "search"
ACCOUNTS = 10
MESSAGES = 100_000  # of each account
BOXES = 100
TEXTS = 5_000  # different ones; each message has one of them, and words of its own
WORDS = 40  # of each
REPEATS = 40  # of each query, in each account
P99_SECONDS = 0.050  # to reach
FLOOD = 12_000  # mails
CATCH_UP_SECONDS = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of query."""

    what: str
    q: str  # {n}: a number, another each time
    target: bool = True
    mailbox: bool = False  # of one mailbox, and not of the account


KINDS = (
    Kind(what="a word of one message", q="own{n}"),
    Kind(what="a word of one message in a thousand", q="mid{m}"),
    Kind(what="a word of every message", q="every"),
    Kind(what="a word of the oldest tenth alone", q="past"),
    Kind(what="a word that nothing holds", q="none{n}"),
    Kind(what="two words, in all and in one of a thousand", q="every mid{m}"),
    Kind(what="a negation alone, true of all", q="-none{n}"),
    Kind(what="a negation alone, true of nothing", q="-every"),
    Kind(what="from: an address, and a word", q="from:sender{m}@example.com every"),
    Kind(what="from: a domain, and a word of the oldest", q="from:example.com past"),
    Kind(what="a phrase of common words, in one of fifty", q='"quick brown"'),
    Kind(what="a phrase of common words that nothing holds", q='"brown quick"', target=False),
    Kind(what="a word of one message, in a mailbox", q="own{n}", mailbox=True),
    Kind(what="a word of every message, in a mailbox", q="every", mailbox=True),
    Kind(what="a word of every message with a label that few have", q="every label:few", target=False),
    Kind(what="a label alone", q="label:few"),
    Kind(what="has:attachment alone, true of nothing", q="has:attachment", target=False),
)


async def run(setting: Setting) -> list[Row]:
    return [*await _finding(setting), *await _flooding(setting)]


# Finding


async def _finding(setting: Setting) -> list[Row]:
    count = setting.scaled(MESSAGES, 10_000)
    async with setting.database() as dsn:
        began = time.monotonic()
        accounts = [await tenants.account(dsn) for _ in range(setting.scaled(ACCOUNTS, 2))]
        await _load(dsn, accounts, count)
        loaded = time.monotonic() - began
        database = db.Database(dsn, pool_size=2)
        await database.open()
        try:
            return [await _ask(setting, database, accounts, kind, loaded) for kind in KINDS]
        finally:
            await database.close()


async def _ask(setting: Setting, database: db.Database, accounts: list[UUID], kind: Kind, loaded: float) -> Row:
    count = setting.scaled(MESSAGES, 10_000)
    seconds: list[float] = []
    found = 0
    for number in range(setting.scaled(REPEATS, 5)):
        for account_id in accounts:
            n = (number * 7919 + 13) % count + 1
            wanted = query.parse(kind.q.format(n=n, m=n % 1000))
            mailbox_id = await _mailbox(database, account_id, n) if kind.mailbox else None
            began = time.monotonic()
            async with database.transaction() as connection:
                page = await search.page(
                    connection, account_id, wanted, mailbox_id=mailbox_id, after=None, limit=50, ascending=False
                )
            seconds.append(time.monotonic() - began)
            found += len(page.messages)
    p50, p99 = (report.quantile(seconds, share) for share in (0.5, 0.99))
    return Row(
        what=f"search, {kind.what}: `{kind.q}`",
        ours=f"p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms",
        limit_name="",
        limit="",
        ratio=None,
        target=f"p99 ≤ {P99_SECONDS * 1000:.0f} ms" if kind.target else "",
        met=p99 <= P99_SECONDS if kind.target else None,
        note=f"{len(accounts)} × {count:,} messages, loaded in {loaded:.0f} s; {found / len(seconds):.1f} found a page",
    )


async def _mailbox(database: db.Database, account_id: UUID, seq: int) -> UUID:
    async with database.connection() as connection:
        found: UUID = await connection.fetchval(
            "select mailbox_id from messages where account_id = $1 and seq = $2", account_id, seq
        )
    return found


async def _load(dsn: str, accounts: list[UUID], count: int) -> None:
    connection = await asyncpg.connect(dsn, command_timeout=1200)
    try:
        await connection.execute("set synchronous_commit = off")
        await connection.execute("set maintenance_work_mem = '512MB'")
        index = await connection.fetchval("select pg_get_indexdef('message_texts_words'::regclass)")
        await connection.execute("drop index message_texts_words")
        await connection.execute(_DRAWN)
        for account_id in accounts:
            await tenants.mailboxes(dsn, account_id, BOXES, name=f"box{account_id.hex[-6:]}x")
            for statement in _account(account_id, count):
                await connection.execute(statement)
        await connection.execute(index)
        await connection.execute("vacuum analyze messages, message_texts")
        await connection.execute("checkpoint")
    finally:
        await connection.close()


# Texts with `~` where account and segment will stand; the smaller a word's number, the more texts have it
_DRAWN = f"""create table drawn as
select k, (select string_agg('''~wv' || floor(20000 * power(random(), 3)) || ''':' || p, ' ')
  from generate_series(20, {20 + WORDS}) p where k >= 0) as words
from generate_series(0, {TEXTS - 1}) k"""  # noqa: S608 - numbers of our own


def _account(account_id: UUID, count: int) -> list[str]:
    name = f"box{account_id.hex[-6:]}x"
    box = tenants.id_of(f"(n % {BOXES} + 1)", f"{account_id}{name}")
    message = tenants.id_of("n", f"{account_id}message")
    prefix = f"'{search.tag(account_id)}' || m.seq / {search.SEGMENT}"
    own = (
        "'''~a'' ''~b' || replace(cast(m.mailbox_id as text), '-', '') || ''' ''~dexample.com'' ''~f' || m.from_address"
        " || ''' ''~wevery'':1 ''~wmid' || m.seq % 1000 || ''':2 ''~wown' || m.seq || ''':3 ''~wquick'':5 ''~wbrown'':'"
        " || case when m.seq % 50 = 0 then 6 else 9 end"
        f" || case when m.seq <= {count // 10} then ' ''~wpast'':8' else '' end"
    )
    return [
        f"insert into contents (account_id, id, raw, size) values ('{account_id}', '{account_id}', 'x', 1)",  # noqa: S608 - our own names
        f"""insert into messages (account_id, id, mailbox_id, content_id, seq, received_at, size, mail_from, envelope,
          from_address, recipients, subject, snippet, codes, links, attachment_count, message_id, thread_id, parse,
          warnings, labels)
        select '{account_id}', {message}, {box}, '{account_id}', n, now(), 400, 'a@example.com',
          '{{"rcpt_to": ["box@postroom.test"]}}', 'sender' || n % 1000 || '@example.com', '[]', 'Message ' || n,
          'Your code is 482913', '[{{"value": "482913"}}]', '[]', 0, n || '@example.com', {message}, 'ok', '[]',
          case when n % 1000 = 7 then '{{few}}'::text[] else '{{}}' end
        from generate_series(1, {count}) n""",  # noqa: S608 - our own names
        f"""insert into message_texts (account_id, seq, words)
        select m.account_id, m.seq,
          cast(replace({own} || ' ' || d.words, '~', {prefix}) as tsvector)
        from messages m join drawn d on d.k = m.seq % {TEXTS} where m.account_id = '{account_id}'""",  # noqa: S608 - our own names
        f"update event_heads set last_seq = {count} where account_id = '{account_id}'",  # noqa: S608 - our own names
        f"insert into indexing (account_id, indexed_seq) values ('{account_id}', {count})",  # noqa: S608 - our own names
    ]


# Flooding


async def _flooding(setting: Setting) -> list[Row]:
    mails = setting.scaled(FLOOD, 2_000)
    async with client.running() as sender:
        alone = await _flood(setting, sender, mails, indexing=False)
        beside = await _flood(setting, sender, mails, indexing=True)
    return [
        Row(
            what="durable accept, 5 KB, 20 kept sessions, while a worker indexes",
            ours=f"{beside.rate:,.0f} mails/s",
            limit_name="without a worker",
            limit=f"{alone.rate:,.0f} mails/s",
            ratio=beside.rate / alone.rate,
            target="",
            met=None,
            note=f"{mails:,} mails for one account; all of it on one machine",
        ),
        Row(
            what="index behind the log at the end of that flood",
            ours=f"{beside.behind:,} messages, caught up in {beside.catching_up:.1f} s",
            limit_name="",
            limit="",
            ratio=None,
            target="",
            met=None,
            note=f"indexed {mails / (beside.seconds + beside.catching_up):,.0f}/s over all",
        ),
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Flood:
    """What came of one."""

    rate: float  # mails a second
    seconds: float
    behind: int  # messages not indexed at its end
    catching_up: float  # seconds from its end to the last message's index row


async def _flood(setting: Setting, sender: client.Client, mails: int, *, indexing: bool) -> Flood:
    programs = ("serve", "worker") if indexing else ("serve",)
    async with setting.database() as dsn:
        account_id = await tenants.account(dsn)
        await tenants.mailboxes(dsn, account_id, accept.BOXES)
        async with setting.house(dsn, programs=programs) as home:
            order = client.Order(
                port=home.smtp_port, recipients=tenants.addresses(accept.BOXES), mails=mails, size=accept.TEXT.size
            )
            outcome = await sender.send(order)
            began = time.monotonic()
            if not indexing:
                return Flood(rate=outcome.rate, seconds=outcome.seconds, behind=0, catching_up=0.0)
            connection = await asyncpg.connect(dsn)
            try:
                behind = left = mails - await _indexed(connection)
                while left and time.monotonic() - began < CATCH_UP_SECONDS:
                    await asyncio.sleep(0.1)
                    left = mails - await _indexed(connection)
            finally:
                await connection.close()
            ended = time.monotonic() - began
    return Flood(rate=outcome.rate, seconds=outcome.seconds, behind=behind, catching_up=ended)


async def _indexed(connection: asyncpg.Connection) -> int:
    found: int = await connection.fetchval("select count(*) from message_texts")
    return found
