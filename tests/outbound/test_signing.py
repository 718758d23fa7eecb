"""Who signs mail that leaves: with the right keys, or the mail does not leave. Nothing goes unsigned in silence."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives import serialization

from gateway import keys, settings, tokens
from gateway.mail import dkim
from gateway.mail.auth import dkim as checking
from gateway.outbound import signing
from gateway.storage import accounts, db, dkim_keys, domains

pytestmark = pytest.mark.anyio

NAME = "shop.example"
SHARED = "house.example"
KEYRING = tokens.Keyring(b"the secret key of this deployment")
OTHER = tokens.Keyring(b"the secret key of another deployment")
BODY = b"To: user@recipient.example\r\nSubject: hello\r\n\r\nhello\r\n"
SETTINGS = settings.load(mail_domains=SHARED)


@functools.cache
def pair() -> tuple[dkim_keys.NewKey, ...]:
    return dkim_keys.new_pair(KEYRING)


def letter(from_: str = f"App <app@{NAME}>", *, more: bytes = b"") -> bytes:
    return f"From: {from_}\r\n".encode() + more + BODY


@pytest.fixture
async def owner(database: db.Database, account_id: UUID) -> UUID:
    """The account that has NAME, with keys in use."""
    async with database.transaction() as connection:
        await domains.take_turn(connection, NAME)
        await domains.create(
            connection, account_id, name=NAME, wildcard=False, unknown_recipients="drop", catch_all=None
        )
        await domains.win(connection, account_id, NAME, wildcard=False)
        await dkim_keys.add(connection, account_id, NAME, pair())
        await dkim_keys.seen(connection, account_id, NAME, [key.selector for key in pair()])
    return account_id


def house(folder: Path) -> settings.Settings:
    """Settings by which mail from SHARED is signed."""
    pem = dkim.generate("ed25519").private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "dkim.pem").write_bytes(pem)
    return settings.load(mail_domains=SHARED, dkim_key_file=str(folder / "dkim.pem"), dkim_selector="house")


def signers(raw: bytes) -> list[tuple[str, str]]:
    """Domain and selector of each signature."""
    read = map(checking.parse, checking.Letter(raw).named(b"dkim-signature"))
    return [(one.domain, one.selector) for one in read]


async def test_mail_is_signed_with_the_keys_of_its_domain(database: db.Database, owner: UUID, tmp_path: Path) -> None:
    signer = signing.Signer(database, KEYRING, house(tmp_path))
    assert signers(await signer.signed(owner, letter())) == [(NAME, key.selector) for key in pair()]
    large = letter() + b"x\r\n" * 100_000
    assert signers(await signer.signed(owner, large)) == [(NAME, key.selector) for key in pair()]
    assert signers(await signer.signed(owner, letter(f"a@{SHARED}"))) == [(SHARED, "house")]
    known = await signer.signed(owner, letter(), author=f"app@{NAME.upper()}")
    assert signers(known) == [(NAME, key.selector) for key in pair()]
    foreign = letter("a@relayed.example")
    assert await signer.signed(owner, foreign) is foreign


@pytest.mark.parametrize("size", [0, signing.LARGE])
async def test_mail_that_cannot_be_signed_is_refused(
    database: db.Database, owner: UUID, tmp_path: Path, size: int
) -> None:
    """With `return raw` in place of each of the two `raise NotSigned` of a message that is Unsignable, this failed:
    the first where From names nobody or several domains, the second where there are too many fields."""
    signer = signing.Signer(database, KEYRING, house(tmp_path))
    padding = b"x" * size
    too_many = b"".join(b"Cc: a%d@b.example\r\n" % number for number in range(dkim.MAX_FIELDS + 1))
    for raw in (BODY + padding, letter(f"a@{NAME}, b@other.example") + padding, letter(more=too_many) + padding):
        with pytest.raises(signing.NotSigned) as refused:
            await signer.signed(owner, raw)
        assert (refused.value.outcome, str(refused.value)[:9]) == ("failed", "554 5.6.0")


async def test_mail_of_a_domain_that_another_account_has_is_refused(database: db.Database, owner: UUID) -> None:
    """With choices' refusals not looked at, the mail came back as it was and this failed."""
    async with database.transaction() as connection:
        stranger = await accounts.create(connection, "stranger")
    with pytest.raises(signing.NotSigned, match=r"550 5\.7\.1") as refused:
        await signing.Signer(database, KEYRING, SETTINGS).signed(stranger, letter())
    assert refused.value.outcome == "failed"


Spoil = Callable[[db.Connection], Awaitable[object]]
SPOILED: dict[str, Spoil] = {
    "cut short": lambda connection: connection.execute("update dkim_keys set private_key = '\\x01'"),
    "gone": lambda connection: connection.execute("update dkim_keys set private_key = null"),
    "of another key": lambda connection: connection.execute(
        "update dkim_keys k set private_key = o.private_key from dkim_keys o where o.id <> k.id"
    ),
}


@pytest.mark.parametrize("how", SPOILED)
async def test_mail_waits_while_its_keys_cannot_be_read(database: db.Database, owner: UUID, how: str) -> None:
    """With `Choice()` in place of the refusal where no key is usable, the mail came back unsigned and this failed."""
    async with database.transaction() as connection:
        await SPOILED[how](connection)
    with pytest.raises(signing.NotSigned, match=r"451 4\.3\.5") as refused:
        await signing.Signer(database, KEYRING, SETTINGS).signed(owner, letter())
    assert refused.value.outcome == "deferred"


async def test_mail_waits_where_secret_key_is_another_one(database: db.Database, owner: UUID) -> None:
    with pytest.raises(signing.NotSigned, match="SECRET_KEY is not the one") as refused:
        await signing.Signer(database, OTHER, SETTINGS).signed(owner, letter())
    assert refused.value.outcome == "deferred"


async def test_mail_waits_while_the_database_is_away() -> None:
    """With `return raw` in place of the refusal where the database is Unavailable, this failed."""
    away = db.Database("postgresql://nobody@127.0.0.1:1/none")
    await away.open()
    with pytest.raises(signing.NotSigned, match=r"451 4\.3\.0") as refused:
        await signing.Signer(away, KEYRING, SETTINGS).signed(UUID(int=1), letter())
    assert refused.value.outcome == "deferred"
    await away.close()


AFTER = tokens.Keyring(b"the secret key after that one was changed", [b"the secret key of this deployment"])


async def test_after_secret_key_was_changed_mail_is_signed_with_the_same_keys(
    database: db.Database, owner: UUID
) -> None:
    """With `unseal` asking the newest key alone the mail waited, and this failed."""
    raw = await signing.Signer(database, AFTER, SETTINGS).signed(owner, letter())
    assert signers(raw) == [(NAME, key.selector) for key in pair()]


async def test_keys_sealed_anew_need_the_secret_key_before_no_more(
    dsn: str, database: db.Database, owner: UUID
) -> None:
    newest = tokens.Keyring(b"the secret key after that one was changed")
    assert await keys.reseal(dsn, newest) == keys.Resealed(
        resealed=0, current=0, unreadable=tuple(sorted((NAME, key.selector) for key in pair()))
    )
    assert await keys.reseal(dsn, AFTER) == keys.Resealed(resealed=2, current=0, unreadable=())
    assert await keys.reseal(dsn, AFTER) == keys.Resealed(resealed=0, current=2, unreadable=())
    raw = await signing.Signer(database, newest, SETTINGS).signed(owner, letter())
    assert signers(raw) == [(NAME, key.selector) for key in pair()]


async def test_a_key_that_was_destroyed_while_it_was_sealed_anew_stays_destroyed(
    database: db.Database, owner: UUID
) -> None:
    """With the comparison taken out of the statement both rows were written, and this failed."""
    async with database.transaction() as connection:
        found = await dkim_keys.sealed(connection)
        await connection.execute("update dkim_keys set private_key = null")
        assert [await dkim_keys.reseal(connection, key, b"anew") for key in found] == [0, 0]
    async with database.connection() as connection:
        assert await dkim_keys.sealed(connection) == []
