"""Accounts, keys, and whose a bearer token is."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from gateway.storage import accounts, db, events, housekeeping
from tests.storage import rows

pytestmark = pytest.mark.anyio


HASH = hashlib.sha256(b"secret").digest()


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
        holder = await accounts.holder(connection, HASH)
        assert holder is not None
        assert (holder.account_id, holder.key_id, holder.mailbox_id) == (account_id, id, None)
        assert (holder.scopes, holder.domains, holder.is_suspended) == (("send", "read"), ("b.example",), False)
        assert await accounts.standing(connection, [(account_id, id), (id, account_id)]) == {(account_id, id)}
        assert [await accounts.revoke_key(connection, account_id, id) for _ in range(2)] == [True, False]
        assert await accounts.holder(connection, HASH) is None
        assert await accounts.standing(connection, [(account_id, id)]) == set()
        revoked = await accounts.key(connection, account_id, id)
        assert revoked is not None
        assert revoked.revoked_at is not None
    assert await whose(database) is None


async def test_an_expired_key_is_not_usable_though_it_is_found(database: db.Database, account_id: UUID) -> None:
    now = datetime.now(UTC)
    over = await key(database, account_id, b"over", now - timedelta(seconds=1))
    good = await key(database, account_id, b"good", now + timedelta(hours=1))
    async with database.connection() as connection:
        found = [await accounts.holder(connection, hashlib.sha256(secret).digest()) for secret in (b"over", b"good")]
        assert [holder and holder.key_id for holder in found] == [None, good]
        both = [(account_id, over), (account_id, good)]
        assert await accounts.standing(connection, both) == {(account_id, good)}
        listed = await accounts.keys(connection, account_id, after=None, limit=10)
        assert [one.id for one in listed] == [good, over]
        assert [one.id for one in await accounts.keys(connection, account_id, after=good, limit=10)] == [over]


async def test_nobody_sees_or_revokes_anothers_key(database: db.Database, account_id: UUID) -> None:
    id, other = await key(database, account_id), await rows.account(database)
    async with database.transaction() as connection:
        assert await accounts.key(connection, other, id) is None
        assert not await accounts.rename_key(connection, other, id, "mine")
        assert await accounts.keys(connection, other, after=None, limit=10) == []
        assert not await accounts.revoke_key(connection, other, id)
    assert await whose(database) is not None


async def test_nothing_stored_is_the_secret(database: db.Database, account_id: UUID) -> None:
    await key(database, account_id, b"a secret of some length")
    async with database.connection() as connection:
        for table in ("api_keys", "credentials"):
            stored = await connection.fetchval(f"select string_agg(cast(t as text), '') from {table} t")  # noqa: S608
            assert "a secret of some length" not in stored
            assert b"a secret of some length".hex() not in stored


async def test_a_suspended_accounts_tokens_are_known_and_open_nothing(database: db.Database, account_id: UUID) -> None:
    id = await key(database, account_id)
    box = await rows.mailbox(database, account_id, token=b"token")
    both = {(account_id, id), (account_id, box)}
    hashes = [HASH, hashlib.sha256(b"token").digest()]
    async with database.transaction() as connection:
        assert await accounts.standing(connection, sorted(both)) == both
        for change, expected in ((accounts.suspend, True), (accounts.resume, False)):
            assert await change(connection, account_id)
            holders = [await accounts.holder(connection, hash) for hash in hashes]
            assert [holder and holder.is_suspended for holder in holders] == [expected] * 2
            assert await accounts.standing(connection, sorted(both)) == (set() if expected else both)
    assert [holder and holder.mailbox_id for holder in holders] == [None, box]


async def test_a_keys_last_use_is_written_once_in_a_while(database: db.Database, account_id: UUID) -> None:
    id = await key(database, account_id)
    used = "select last_used_at from api_keys where id = $1"
    async with database.connection() as connection:
        moments = [await connection.fetchval(used, id)]
        for seconds in (60.0, 60.0, 0.0):
            await accounts.note_used(connection, [(account_id, id)], seconds)
            moments.append(await connection.fetchval(used, id))
    assert moments[0] is None
    assert moments[1] == moments[2] < moments[3]


async def test_keys_that_were_revoked_long_ago_are_forgotten(database: db.Database, account_id: UUID) -> None:
    old, recent, used = [await key(database, account_id, secret) for secret in (b"1", b"2", b"3")]
    async with database.transaction() as connection:
        for id in (old, recent):
            assert await accounts.revoke_key(connection, account_id, id)
        await connection.execute("update api_keys set revoked_at = now() - interval '31 days' where id = $1", old)
    assert await housekeeping.forget_revoked(database, 30 * 86_400) == 1
    async with database.connection() as connection:
        assert {row["id"] for row in await connection.fetch("select id from api_keys")} == {recent, used}
