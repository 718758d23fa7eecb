"""What is encrypted under SECRET_KEY: read by it alone, for its own object alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from gateway import settings, tokens
from gateway.errors import ConfigurationError
from gateway.mail import verp
from gateway.outbound import unsubscribe

SECRET = b"a secret key of thirty-two bytes!"
KEYRING = tokens.Keyring(SECRET)


@given(st.binary(max_size=3000), st.binary(max_size=20))
def test_what_is_sealed_is_read_again(secret: bytes, object_id: bytes) -> None:
    sealed = KEYRING.seal("dkim-key", object_id, secret)
    assert tokens.Keyring(SECRET).unseal("dkim-key", object_id, sealed) == secret
    assert len(secret) < 8 or secret not in sealed


def test_the_same_secret_is_never_sealed_the_same() -> None:
    assert len({KEYRING.seal("dkim-key", b"1", b"secret") for _ in range(100)}) == 100


def test_another_secret_key_cannot_read_it_and_says_so() -> None:
    """With one constant key in place of the derived one, on both sides, nothing was raised."""
    sealed = KEYRING.seal("dkim-key", b"1", b"secret")
    for keyring, purpose, object_id in (
        (tokens.Keyring(SECRET + b"!"), "dkim-key", b"1"),
        (KEYRING, "webhook-secret", b"1"),
        (KEYRING, "dkim-key", b"2"),
    ):
        with pytest.raises(tokens.Unreadable, match="SECRET_KEY is not the one"):
            keyring.unseal(purpose, object_id, sealed)


@given(st.data())
def test_a_changed_octet_is_noticed(data: st.DataObject) -> None:
    sealed = KEYRING.seal("dkim-key", b"1", b"secret")
    at = data.draw(st.integers(0, len(sealed) - 1))
    octet = data.draw(st.integers(0, 255).filter(lambda value: value != sealed[at]))
    with pytest.raises(tokens.Unreadable):
        KEYRING.unseal("dkim-key", b"1", sealed[:at] + bytes([octet]) + sealed[at + 1 :])


@pytest.mark.parametrize("length", range(30))
def test_what_is_cut_short_is_noticed(length: int) -> None:
    with pytest.raises(tokens.Unreadable):
        KEYRING.unseal("dkim-key", b"1", KEYRING.seal("dkim-key", b"1", b"secret")[:length])


# Changing SECRET_KEY

NEW = tokens.Keyring(b"another secret key of many bytes!", [b"one between that sealed nothing!!", SECRET])


def test_what_was_sealed_under_a_key_before_is_read_and_new_things_are_sealed_under_the_newest() -> None:
    """With `unseal` asking the newest key alone the first line failed."""
    assert NEW.unseal("dkim-key", b"1", KEYRING.seal("dkim-key", b"1", b"secret")) == b"secret"
    sealed = NEW.seal("dkim-key", b"1", b"secret")
    assert NEW.unseal("dkim-key", b"1", sealed) == b"secret"
    for keyring in (KEYRING, *NEW.previous):
        with pytest.raises(tokens.Unreadable):
            keyring.unseal("dkim-key", b"1", sealed)


def test_nothing_is_derived_from_a_key_before() -> None:
    alone = tokens.Keyring(b"another secret key of many bytes!")
    assert NEW.derive("api-key", b"1") == alone.derive("api-key", b"1")


def test_what_is_sealed_anew_needs_the_key_before_no_more() -> None:
    sealed = NEW.reseal("dkim-key", b"1", KEYRING.seal("dkim-key", b"1", b"secret"))
    assert sealed is not None
    assert tokens.Keyring(b"another secret key of many bytes!").unseal("dkim-key", b"1", sealed) == b"secret"
    assert NEW.reseal("dkim-key", b"1", sealed) is None
    with pytest.raises(tokens.Unreadable):
        NEW.reseal("dkim-key", b"2", sealed)


def test_the_keyring_of_settings_has_the_keys_before_in_their_order() -> None:
    keys = ["abcdefghijklmnopqrstuvwxyz012345", "543210zyxwvutsrqponmlkjihgfedcba"]
    asked = settings.load(secret_key="n" * 32, secret_key_previous=", ".join(keys))
    assert not any(key in repr(asked) for key in keys)
    found = [keyring.derive("a") for keyring in tokens.keyring(asked).previous]
    assert found == [tokens.Keyring(key.encode()).derive("a") for key in keys]
    with pytest.raises(ConfigurationError, match="SECRET_KEY_PREVIOUS"):
        tokens.keyring(settings.load(secret_key="n" * 32, secret_key_previous="short"))


def test_links_and_return_paths_of_a_key_before_still_work_and_new_ones_are_of_the_newest() -> None:
    """With the newest key alone in either of them its half failed."""
    delivery_id = uuid7()
    old, new = (verp.ReturnPaths(one, "bounces.example") for one in (KEYRING, NEW))
    assert new.delivery(old.address(delivery_id)) == new.delivery(new.address(delivery_id)) == delivery_id
    assert old.delivery(new.address(delivery_id)) is None
    offer = unsubscribe.Offer(account_id=uuid7(), email_id=uuid7(), sender="a.example", topic="", address="b@c.example")
    before, after = (unsubscribe.Links(one, "https://a.example") for one in (KEYRING, NEW))
    assert after.read(before.token(offer)) == after.read(after.token(offer)) == offer
    with pytest.raises(tokens.Unreadable):
        before.read(after.token(offer))
