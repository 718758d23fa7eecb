"""What is encrypted under SECRET_KEY: read by it alone, for its own object alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import tokens

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
