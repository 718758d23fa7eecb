"""Keys of domains: which of them sign, and how they follow one another."""

from __future__ import annotations

from uuid import UUID

import pytest

from gateway import tokens
from gateway.storage import db, dkim_keys, domains
from tests.storage import rows

pytestmark = pytest.mark.anyio

NAME = "example.com"
KEYRING = tokens.Keyring(b"a secret key of thirty-two bytes!")


async def claimed(database: db.Database, account_id: UUID) -> None:
    async with database.transaction() as connection:
        await domains.create(
            connection, account_id, name=NAME, wildcard=False, unknown_recipients="drop", catch_all=None
        )


async def paired(database: db.Database, account_id: UUID) -> list[str]:
    """A new pair; its selectors, RSA first."""
    pair = dkim_keys.new_pair(KEYRING)
    async with database.transaction() as connection:
        await dkim_keys.replace_waiting(connection, account_id, NAME, pair)
    return [key.selector for key in pair]


async def seen(database: db.Database, account_id: UUID, *selectors: str) -> bool:
    async with database.transaction() as connection:
        return await dkim_keys.seen(connection, account_id, NAME, selectors)


async def kept(database: db.Database, account_id: UUID) -> list[dkim_keys.DkimKey]:
    async with database.connection() as connection:
        return await dkim_keys.of_domain(connection, account_id, NAME)


async def signing(database: db.Database, account_id: UUID) -> list[str]:
    return [key.selector for key in dkim_keys.signing(await kept(database, account_id))]


async def test_a_pair_is_read_with_its_secret_key_alone(database: db.Database, account_id: UUID) -> None:
    await claimed(database, account_id)
    await paired(database, account_id)
    other = tokens.Keyring(b"another secret key of many bytes!")
    for key in await kept(database, account_id):
        assert key.private(KEYRING).public_key() is not None
        with pytest.raises(tokens.Unreadable):
            key.private(other)
        assert key.private_key is not None
        assert str(key.private_key) not in repr(key)


async def test_waiting_keys_sign_until_one_was_seen(database: db.Database, account_id: UUID) -> None:
    await claimed(database, account_id)
    rsa, ed25519 = await paired(database, account_id)
    assert await signing(database, account_id) == [rsa, ed25519]
    assert await seen(database, account_id, rsa)
    assert await signing(database, account_id) == [rsa]
    assert not await seen(database, account_id, rsa)
    assert await seen(database, account_id, rsa, ed25519)
    assert await signing(database, account_id) == [rsa, ed25519]


async def test_an_old_key_signs_until_the_new_one_of_its_kind_was_seen(database: db.Database, account_id: UUID) -> None:
    await claimed(database, account_id)
    old = await paired(database, account_id)
    await seen(database, account_id, *old)
    new = await paired(database, account_id)
    assert await signing(database, account_id) == old
    await seen(database, account_id, *old, new[0])
    assert await signing(database, account_id) == [new[0], old[1]]
    await seen(database, account_id, *old, *new)
    assert await signing(database, account_id) == new
    shown = {key.selector: (key.status, key.private_key is None) for key in await kept(database, account_id)}
    assert shown == dict.fromkeys(old, ("retired", True)) | dict.fromkeys(new, ("active", False))


async def test_a_retired_key_never_signs_again_though_its_record_stands(
    database: db.Database, account_id: UUID
) -> None:
    await claimed(database, account_id)
    old = await paired(database, account_id)
    await seen(database, account_id, *old)
    new = await paired(database, account_id)
    await seen(database, account_id, *new)
    assert not await seen(database, account_id, *old)
    assert await signing(database, account_id) == new


async def test_a_retired_key_is_forgotten_after_the_overlap(
    database: db.Database, account_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    await claimed(database, account_id)
    old = await paired(database, account_id)
    await seen(database, account_id, *old)
    new = await paired(database, account_id)
    await seen(database, account_id, *new)
    await seen(database, account_id)
    assert len(await kept(database, account_id)) == 4
    monkeypatch.setattr(dkim_keys, "OVERLAP_SECONDS", 0)
    await seen(database, account_id)
    assert [key.selector for key in await kept(database, account_id)] == new


async def test_keys_go_with_their_claim_and_each_account_has_its_own(database: db.Database, account_id: UUID) -> None:
    other = await rows.account(database)
    for account in (account_id, other):
        await claimed(database, account)
    [mine, theirs] = [await paired(database, account) for account in (account_id, other)]
    assert set(mine).isdisjoint(theirs)
    await seen(database, other, *mine)
    assert {key.status for key in [*await kept(database, account_id), *await kept(database, other)]} == {"waiting"}
    async with database.transaction() as connection:
        await domains.delete(connection, account_id, NAME)
    assert await kept(database, account_id) == []
    assert len(await kept(database, other)) == 2
