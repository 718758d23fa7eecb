"""Accounts with many mailboxes and messages, loaded by SQL: what would take the API hours."""

from __future__ import annotations

from uuid import UUID

import asyncpg

from gateway.storage import accounts, search

# A UUIDv7 made of a number, as orderly as those that the application draws
_ID = "cast(lpad(to_hex(%s), 12, '0') || '7000' || '8' || substr(md5(%s), 1, 15) as uuid)"
_BEGAN = 1_780_000_000_000  # milliseconds: the time in the first id


def id_of(number: str, salt: str) -> str:
    """An SQL expression: the id of that number, another for each salt."""
    return _ID % (f"{_BEGAN} + {number}", f"'{salt}' || {number}")


async def account(dsn: str, name: str = "bench") -> UUID:
    """A new account."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            created: UUID = await accounts.create(connection, name)
            return created
    finally:
        await connection.close()


async def mailboxes(
    dsn: str, account_id: UUID, count: int, *, name: str = "box", expires: str = "now() + interval '1 day'"
) -> None:
    """Live mailboxes `<name><n>@postroom.test`, n from 1; `expires` is an SQL expression in n."""
    box = id_of("n", f"{account_id}{name}")
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            f"""insert into mailboxes (account_id, id, address, expires_at, created_at)
            select '{account_id}', {box}, '{name}' || n || '@postroom.test', {expires}, now()
            from generate_series(1, {count}) n"""  # noqa: S608 - numbers and names of our own
        )
        await connection.execute(
            f"""insert into addresses (address, account_id, mailbox_id)
            select '{name}' || n || '@postroom.test', '{account_id}', {box}
            from generate_series(1, {count}) n"""  # noqa: S608 - numbers and names of our own
        )
        await connection.execute("vacuum analyze mailboxes, addresses")
    finally:
        await connection.close()


def addresses(count: int, *, name: str = "box") -> list[str]:
    """The addresses of the mailboxes that `mailboxes` makes."""
    return [f"{name}{number}@postroom.test" for number in range(1, count + 1)]


async def messages(
    dsn: str, account_id: UUID, count: int, boxes: int, *, name: str = "box", came: str = "now()"
) -> None:
    """That many messages with contents, events and words, in turn in the mailboxes `<name>1` to `<name><boxes>`; `came`
    is an SQL expression."""
    connection = await asyncpg.connect(dsn)
    try:
        for statement in _messages(account_id, count, boxes, name, came):
            await connection.execute(statement, timeout=600)
        await connection.execute("vacuum analyze contents, messages, events, message_texts")
        await connection.execute("checkpoint")
    finally:
        await connection.close()


def _messages(account_id: UUID, count: int, boxes: int, name: str, came: str) -> list[str]:
    content, message = id_of("n", f"{account_id}content"), id_of("n", f"{account_id}message")
    event, box = id_of("n", f"{account_id}event"), id_of(f"(n % {boxes} + 1)", f"{account_id}{name}")
    series = f"from generate_series(1, {count}) n"
    prefix = f"'{search.tag(account_id)}' || n / {search.SEGMENT}"
    words = f"replace('''~wmessage'':1 ''~w' || n || ''':2 ''~wyour'':3 ''~wcode'':4', '~', {prefix})"
    return [
        f"""insert into contents (account_id, id, raw, size)
        select '{account_id}', {content}, cast(repeat('x', 400) as bytea), 400 {series}""",
        f"""insert into messages (account_id, id, mailbox_id, content_id, seq, received_at, size, mail_from, envelope,
          from_address, recipients, subject, snippet, codes, links, attachment_count, message_id, thread_id, parse,
          warnings)
        select '{account_id}', {message}, {box}, {content}, n, {came}, 400, 'a@example.com',
          '{{"rcpt_to": ["box@postroom.test"]}}', 'a@example.com', '[]', 'Message ' || n, 'Your code is 482913',
          '[{{"value": "482913"}}]', '[]', 0, n || '@example.com', {message}, 'ok', '[]' {series}""",
        f"""insert into events (account_id, seq, id, type, mailbox_id, message_id, data, created_at)
        select '{account_id}', n, {event}, 'message.received', {box}, {message},
          '{{"subject": "a message", "snippet": "Your code is 482913"}}', {came} {series}""",
        f"""insert into message_texts (account_id, seq, words)
        select '{account_id}', n, cast({words} as tsvector) {series}""",
        f"""update event_heads set last_seq = {count}, stored_bytes = {count}::bigint * 400
        where account_id = '{account_id}'""",  # noqa: S608 - our own names
        f"insert into indexing (account_id, indexed_seq) values ('{account_id}', {count})",  # noqa: S608 - our own names
    ]
