"""Accounts, keys, and whose a bearer token is."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from gateway.storage import accounts, db, events
from tests.storage import rows

pytestmark = pytest.mark.anyio


async def key(
    database: db.Database, account_id: UUID, secret: bytes = b"secret", expires_at: datetime | None = None
) -> UUID:
    id = uuid7()
    async with database.transaction() as connection:
        await accounts.create_key(
            connection,
            account_id,
            id=id,
            hash=hashlib.sha256(secret).digest(),
            name="a key",
            scopes=["send", "read"],
            domains=["b.example"],
            expires_at=expires_at,
        )
    return id


async def whose(database: db.Database, secret: bytes = b"secret") -> accounts.Credential | None:
    async with database.connection() as connection:
        return await accounts.credential(connection, hashlib.sha256(secret).digest())


async def test_a_new_account_has_an_empty_log(database: db.Database) -> None:
    account_id = await rows.account(database, "new")
    async with database.connection() as connection:
        assert await events.bounds(connection, account_id) == events.Bounds(oldest=1, newest=0)
        assert await accounts.by_name(connection, "new") == account_id


async def test_the_void_is_sixteen_accounts_that_nobody_is_given(database: db.Database) -> None:
    async with database.connection() as connection:
        voids = await accounts.voids(connection)
        assert len(voids) == 16
        assert await accounts.first(connection) is None
        assert await accounts.by_name(connection, "void") is None
    first = await rows.account(database, "twin")
    await rows.account(database, "twin")
    async with database.connection() as connection:
        assert await accounts.first(connection) == await accounts.by_name(connection, "twin") == first


async def test_a_key_is_found_by_its_hash_alone_until_it_is_revoked(database: db.Database, account_id: UUID) -> None:
    id = await key(database, account_id)
    assert await whose(database) == accounts.Credential(account_id=account_id, kind="key", object_id=id)
    assert await whose(database, b"Secret") is None
    async with database.transaction() as connection:
        usable = await accounts.usable_key(connection, account_id, id)
        assert usable is not None
        assert (usable.scopes, usable.domains, usable.expires_at) == (("send", "read"), ("b.example",), None)
        assert [await accounts.revoke_key(connection, account_id, id) for _ in range(2)] == [True, False]
        assert await accounts.usable_key(connection, account_id, id) is None
        revoked = await accounts.key(connection, account_id, id)
        assert revoked is not None
        assert revoked.revoked_at is not None
    assert await whose(database) is None


async def test_an_expired_key_is_not_usable_though_it_is_found(database: db.Database, account_id: UUID) -> None:
    now = datetime.now(UTC)
    over = await key(database, account_id, b"over", now - timedelta(seconds=1))
    good = await key(database, account_id, b"good", now + timedelta(hours=1))
    async with database.connection() as connection:
        assert await accounts.usable_key(connection, account_id, over) is None
        assert await accounts.usable_key(connection, account_id, good) is not None
        listed = await accounts.keys(connection, account_id, before=None, limit=10)
        assert [one.id for one in listed] == [good, over]
        assert [one.id for one in await accounts.keys(connection, account_id, before=good, limit=10)] == [over]


async def test_nobody_sees_or_revokes_anothers_key(database: db.Database, account_id: UUID) -> None:
    id, other = await key(database, account_id), await rows.account(database)
    async with database.transaction() as connection:
        assert await accounts.key(connection, other, id) is None
        assert await accounts.usable_key(connection, other, id) is None
        assert await accounts.keys(connection, other, before=None, limit=10) == []
        assert not await accounts.revoke_key(connection, other, id)
    assert await whose(database) is not None


async def test_nothing_stored_is_the_secret(database: db.Database, account_id: UUID) -> None:
    await key(database, account_id, b"a secret of some length")
    async with database.connection() as connection:
        for table in ("api_keys", "credentials"):
            stored = await connection.fetchval(f"select string_agg(cast(t as text), '') from {table} t")  # noqa: S608
            assert "a secret of some length" not in stored
            assert b"a secret of some length".hex() not in stored
