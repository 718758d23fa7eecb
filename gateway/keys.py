"""Accounts and keys from the operator's side, where there is the database and no API key yet: for `postroom dev`,
`postroom accounts` and `postroom keys`, and what is encrypted under SECRET_KEY.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from uuid_utils.compat import uuid7

from gateway import tokens
from gateway.errors import ConfigurationError, PostroomError
from gateway.mail import address
from gateway.storage import accounts, audit, db, dkim_keys, events

PAGE: Final = 1000  # accounts read at once


async def issue(
    dsn: str,
    keyring: tokens.Keyring,
    *,
    account: str,
    name: str,
    scopes: Sequence[str],
    domains: Sequence[str] = (),
    expires_at: datetime | None = None,
) -> str:
    """A new key of the account of that name, which is made if there is none. `domains`: that it is limited to."""
    if unknown := set(scopes) - set(accounts.SCOPES):
        raise ConfigurationError(
            f"no such scope: {', '.join(sorted(unknown))} (there are {', '.join(accounts.SCOPES)})"
        )
    async with _transaction(dsn) as connection:
        account_id = await _account(connection, account)
        limited_to = [_domain(domain) for domain in domains]
        return await _issue(connection, keyring, account_id, name, scopes, domains=limited_to, expires_at=expires_at)


async def ensure_admin(dsn: str, keyring: tokens.Keyring, *, account: str, name: str) -> str:
    """The admin key of that name: the one issued earlier, as long as it is valid, else a new one."""
    async with _transaction(dsn) as connection:
        account_id = await _account(connection, account)
        for key in await accounts.keys(connection, account_id, after=None, limit=200):
            token = keyring.api_key(key.id)
            usable = key.name == name and "admin" in key.scopes and not key.domains and key.expires_at is None
            if usable and await accounts.credential(connection, tokens.hash_token(token)):  # not of another SECRET_KEY
                return token
        return await _issue(connection, keyring, account_id, name, ["admin"])


async def listing(dsn: str, *, account: str) -> list[accounts.Key]:
    """The account's newest 200 keys, newest first; none if there is no such account."""
    async with _transaction(dsn) as connection:
        account_id = await accounts.by_name(connection, account)
        return await accounts.keys(connection, account_id, after=None, limit=200) if account_id else []


async def revoke(dsn: str, key_id: UUID, *, account: str) -> bool:
    """Whether the account had such a key in use; now it has not."""
    async with _transaction(dsn) as connection:
        account_id = await accounts.by_name(connection, account)
        if account_id is None or not await accounts.revoke_key(connection, account_id, key_id):
            return False
        await audit.write(connection, account_id, "api_key.revoked", audit.OPERATOR, id=key_id)
        return True


async def open_account(dsn: str, *, name: str) -> UUID:
    """A new account. PostroomError where there is one of that name."""
    async with _transaction(dsn) as connection:
        if await accounts.by_name(connection, name) is not None:
            raise PostroomError(f"there is an account {name!r} already")
        return await _account(connection, name)


async def all_accounts(dsn: str) -> list[accounts.Account]:
    """All but the void, oldest first."""
    found: list[accounts.Account] = []
    async with _transaction(dsn) as connection:
        while page := await accounts.accounts_after(connection, found[-1].id if found else None, PAGE):
            found += page
    return found


async def suspend(dsn: str, *, account: str) -> bool:
    """False = it was suspended already. `account`: name or id. PostroomError where that is none, or several."""
    async with _transaction(dsn) as connection:
        account_id = await _named(connection, account)
        done = await accounts.suspend(connection, account_id)
        if done:
            await audit.write(connection, account_id, "account.updated", audit.OPERATOR, status="suspended")
        return done


async def resume(dsn: str, *, account: str) -> bool:
    """False = it was not suspended. Raises like `suspend`."""
    async with _transaction(dsn) as connection:
        account_id = await _named(connection, account)
        done = await accounts.resume(connection, account_id)
        if done:
            await audit.write(connection, account_id, "account.updated", audit.OPERATOR, status="active")
        return done


async def delete(dsn: str, *, account: str) -> None:
    """Nothing of it is worth anything from now on; a worker removes what it has. Raises like `suspend`, and for the
    first account."""
    async with _transaction(dsn) as connection:
        account_id = await _named(connection, account)
        if not await accounts.mark_deleted(connection, account_id):
            raise PostroomError("the first account cannot be deleted: mail that nobody asked for belongs to it")


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


async def _named(connection: db.Connection, account: str) -> UUID:
    try:
        account_id = UUID(account)
    except ValueError:
        account_id = None
    found = await accounts.named(connection, account, account_id)
    if len(found) != 1:
        raise PostroomError(
            f"several accounts are called {account!r}: give the id" if found else f"no account {account!r}"
        )
    return found[0].id


def _domain(name: str) -> str:
    try:
        return address.parse(f"postmaster@{name}").ascii_domain
    except address.InvalidAddress:
        raise ConfigurationError(f"not a domain: {name}") from None


async def _account(connection: db.Connection, name: str) -> UUID:
    if found := await accounts.by_name(connection, name):
        return found
    account_id = await accounts.create(connection, name)
    await audit.write(connection, account_id, "account.created", audit.OPERATOR, name=name)
    return account_id


async def _issue(
    connection: db.Connection,
    keyring: tokens.Keyring,
    account_id: UUID,
    name: str,
    scopes: Sequence[str],
    **limits: Any,  # domains and expires_at, where it has any
) -> str:
    key_id = uuid7()
    token = keyring.api_key(key_id)
    about: dict[str, Any] = {
        "id": key_id,
        "name": name,
        "scopes": list(scopes),
        "domains": limits.get("domains", []),
        "expires_at": limits.get("expires_at"),
    }
    await accounts.create_key(connection, account_id, hash=tokens.hash_token(token), **about)
    await audit.write(connection, account_id, "api_key.created", audit.OPERATOR, **about)
    return token


@contextlib.asynccontextmanager
async def _transaction(dsn: str) -> AsyncIterator[db.Connection]:
    async with db.connected(dsn) as connection, connection.transaction():
        yield connection
