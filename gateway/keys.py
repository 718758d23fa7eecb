"""Keys from the operator's side, where there is the database and no API key yet: those of accounts, for `postroom dev`
and `postroom keys`, and what is encrypted under SECRET_KEY.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg
from uuid_utils.compat import uuid7

from gateway import tokens
from gateway.errors import ConfigurationError
from gateway.storage import accounts, audit, db, dkim_keys, events


async def issue(dsn: str, keyring: tokens.Keyring, *, account: str, name: str, scopes: Sequence[str]) -> str:
    """A new key of the account of that name, which is made if there is none."""
    if unknown := set(scopes) - set(accounts.SCOPES):
        raise ConfigurationError(
            f"no such scope: {', '.join(sorted(unknown))} (there are {', '.join(accounts.SCOPES)})"
        )
    async with _transaction(dsn) as connection:
        return await _issue(connection, keyring, await _account(connection, account), name, scopes)


async def ensure_admin(dsn: str, keyring: tokens.Keyring, *, account: str, name: str) -> str:
    """The admin key of that name: the one issued earlier, as long as it is valid, else a new one."""
    async with _transaction(dsn) as connection:
        account_id = await _account(connection, account)
        for key in await accounts.keys(connection, account_id, before=None, limit=200):
            token = keyring.api_key(key.id)
            usable = key.name == name and "admin" in key.scopes and not key.domains and key.expires_at is None
            if usable and await accounts.credential(connection, tokens.hash_token(token)):  # not of another SECRET_KEY
                return token
        return await _issue(connection, keyring, account_id, name, ["admin"])


async def listing(dsn: str, *, account: str) -> list[accounts.Key]:
    """The account's newest 200 keys, newest first; none if there is no such account."""
    async with _transaction(dsn) as connection:
        account_id = await accounts.by_name(connection, account)
        return await accounts.keys(connection, account_id, before=None, limit=200) if account_id else []


async def revoke(dsn: str, key_id: UUID, *, account: str) -> bool:
    """Whether the account had such a key in use; now it has not."""
    async with _transaction(dsn) as connection:
        account_id = await accounts.by_name(connection, account)
        if account_id is None or not await accounts.revoke_key(connection, account_id, key_id):
            return False
        await audit.write(connection, account_id, "api_key.revoked", audit.OPERATOR, id=key_id)
        return True


async def trail(database_url: str, *, account: str, limit: int) -> list[events.Event] | None:
    """The newest changes of an account's set-up, newest first; None = there is no such account."""
    database = db.Database(database_url, pool_size=1)
    await database.open()
    try:
        async with database.connection() as connection:
            account_id = await accounts.by_name(connection, account)
        return [event async for event in audit.trail(database, account_id, limit=limit)] if account_id else None
    finally:
        await database.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class Resealed:
    """What became of DKIM keys."""

    resealed: int  # were under a SECRET_KEY before this one
    current: int
    unreadable: tuple[tuple[str, str], ...]  # domain and selector of those that no key at hand can read


async def reseal(dsn: str, keyring: tokens.Keyring) -> Resealed:
    """Encrypt under the current SECRET_KEY whatever is under one before it. It may run while mail is sent, or twice."""
    async with _transaction(dsn) as connection:
        found = await dkim_keys.sealed(connection)
    resealed, unreadable = 0, []
    for key in found:
        try:
            anew = keyring.reseal(dkim_keys.PURPOSE, key.id.bytes, key.private_key)
        except tokens.Unreadable:
            unreadable.append((key.domain, key.selector))
            continue
        if anew is not None:
            async with _transaction(dsn) as connection:
                resealed += await dkim_keys.reseal(connection, key, anew)
    current = len(found) - resealed - len(unreadable)
    return Resealed(resealed=resealed, current=current, unreadable=tuple(unreadable))


async def _account(connection: db.Connection, name: str) -> UUID:
    if found := await accounts.by_name(connection, name):
        return found
    account_id = await accounts.create(connection, name)
    await audit.write(connection, account_id, "account.created", audit.OPERATOR, name=name)
    return account_id


async def _issue(
    connection: db.Connection, keyring: tokens.Keyring, account_id: UUID, name: str, scopes: Sequence[str]
) -> str:
    key_id = uuid7()
    token = keyring.api_key(key_id)
    await accounts.create_key(
        connection, account_id, id=key_id, hash=tokens.hash_token(token), name=name, scopes=scopes
    )
    about = {"id": key_id, "name": name, "scopes": list(scopes), "domains": [], "expires_at": None}
    await audit.write(connection, account_id, "api_key.created", audit.OPERATOR, **about)
    return token


@contextlib.asynccontextmanager
async def _transaction(dsn: str) -> AsyncIterator[db.Connection]:
    with db.translated():
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            async with connection.transaction():
                yield connection
        finally:
            await connection.close()
