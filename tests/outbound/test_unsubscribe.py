"""Links to unsubscribe by: what is in them, and that nobody reads, makes or changes one."""

from __future__ import annotations

import base64
import string
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from gateway import errors, settings, tokens
from gateway.mail import address
from gateway.outbound import deliver, send, signing, unsubscribe
from gateway.outbound.providers import local, urls
from gateway.outbound.providers.contract import Outgoing
from gateway.outbound.route import Router
from gateway.storage import db
from tests.outbound import sink

KEYRING = tokens.Keyring(b"a secret for tests, long enough to be one")
LINKS = unsubscribe.Links(KEYRING, "https://mail.example")


def offer(**changes: Any) -> unsubscribe.Offer:
    usual: dict[str, Any] = {
        "account_id": uuid7(),
        "email_id": uuid7(),
        "sender": "shop.example",
        "topic": "newsletter",
        "address": "ann@recipient.example",
    }
    return unsubscribe.Offer(**usual | changes)


@pytest.mark.parametrize("changes", [{}, {"topic": ""}, {"address": "grüße@recipient.example"}])
def test_a_token_says_what_it_was_given(changes: dict[str, Any]) -> None:
    given = offer(**changes)
    assert LINKS.read(LINKS.token(given)) == given


def test_the_same_offer_has_the_same_token_in_every_process_and_another_offer_another() -> None:
    given = offer()
    assert LINKS.token(given) == unsubscribe.Links(KEYRING, "https://elsewhere.example").token(given)
    assert len({LINKS.token(offer(address=f"u{n}@recipient.example")) for n in range(50)}) == 50


def test_nobody_reads_the_address_in_a_token() -> None:
    token = LINKS.token(offer())
    octets = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    assert b"ann" not in octets
    assert b"recipient" not in octets


def test_a_token_that_is_changed_anywhere_is_none() -> None:
    """Negative control: with AES-SIV's tag not checked (its CTR half alone), changed octets were read: it failed."""
    token = LINKS.token(offer())
    for at, character in enumerate(token):
        for other in set(string.ascii_letters[:8] + "A9-_") - {character}:
            with pytest.raises(tokens.Unreadable):
                LINKS.read(token[:at] + other + token[at + 1 :])
    for changed in (token[:-1], token + "A", token + "=", token[1:], token.swapcase()):
        with pytest.raises(tokens.Unreadable):
            LINKS.read(changed)


@pytest.mark.parametrize(
    "token", ["", "A", "AQ", "AQAA", "=", "ä", "../..", "A" * 100_000, "AQ" + "A" * 100, "a b", "AQ\0"]
)
def test_what_is_no_token_is_unreadable(token: str) -> None:
    with pytest.raises(tokens.Unreadable):
        LINKS.read(token)


def test_a_token_of_another_secret_key_is_none() -> None:
    other = unsubscribe.Links(tokens.Keyring(b"another secret that is long enough, too"), "https://mail.example")
    with pytest.raises(tokens.Unreadable):
        LINKS.read(other.token(offer()))


def test_the_fields_are_those_of_one_click() -> None:
    given = offer()
    assert LINKS.fields(given).decode() == (
        f"List-Unsubscribe: <https://mail.example/u/{LINKS.token(given)}>\r\n"
        "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
    )


def test_no_line_is_longer_than_a_line_may_be() -> None:
    """RFC 5322 2.1.1: 998 octets."""
    domain = ".".join(["d" * 63] * 3)
    given = offer(sender=f"{domain}.{'d' * 63}", topic="t" * 64, address=f"{'a' * 62}@{domain}")
    links = unsubscribe.Links(KEYRING, "https://" + "h" * 92)
    assert max(map(len, links.fields(given).split(b"\r\n"))) <= 998
    assert links.read(links.token(given)) == given


def test_without_a_public_url_there_is_no_link() -> None:
    with pytest.raises(unsubscribe.NoLink, match="PUBLIC_URL"):
        unsubscribe.Links(KEYRING, "").fields(offer())


def _outbox(database: db.Database, public_url: str) -> send.Outbox:
    return send.Outbox(database, settings.load(public_url=public_url), told=lambda _: None, due=lambda _: None)


REQUEST = send.Request(
    from_=address.parse_mailbox("app@sender.example"),
    to=(address.parse_mailbox("user@recipient.example"),),
    text="hello",
    topic="news",
)


@pytest.mark.anyio
async def test_without_a_public_url_nothing_is_accepted_that_offers_to_unsubscribe() -> None:
    outbox = _outbox(db.Database("postgresql://127.0.0.1:1/never-asked"), "")
    with pytest.raises(errors.ValidationFailed, match="PUBLIC_URL") as refusal:
        await outbox.prepare(REQUEST)
    assert [error.field for error in refusal.value.errors] == ["unsubscribe"]


@pytest.mark.anyio
async def test_a_worker_without_a_public_url_sends_nothing_whose_link_is_missing(
    database: db.Database, account_id: UUID
) -> None:
    """Negative control: with no field in place of NoLink, the relay was connected to: it failed."""
    await _outbox(database, "https://mail.example").send(account_id, REQUEST, None)
    made = settings.load()
    async with sink.Sink() as relay:
        router = Router([urls.from_url(relay.url("tls=none"), made)], (), local.LocalProvider(_nowhere))
        signer = signing.Signer(database, KEYRING, made)
        links = unsubscribe.Links(KEYRING, made.public_url)
        carrier = deliver.Carrier(database, made, router, signer, links, told=lambda _: None)
        await carrier.drain(account_id)
        assert await carrier.close(30) == 0
        assert relay.connections == 0
    async with database.connection() as connection:
        [found] = await connection.fetch("select status, reply, due_at > now() as waits from deliveries")
    assert (found["status"], found["waits"]) == ("deferred", True)
    assert found["reply"].startswith("451 4.3.5 PUBLIC_URL is not set")


async def _nowhere(_: Outgoing) -> str:
    raise AssertionError("nothing here is for an own domain")
