"""Accounts with many mailboxes and messages, loaded by SQL: what would take the API hours."""

from __future__ import annotations

from uuid import UUID

import asyncpg

from gateway.storage import accounts

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
