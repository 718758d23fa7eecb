"""Tokens: derived, told apart, checked before any look-up."""

from __future__ import annotations

import base64
import hashlib
import hmac
import string
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import errors, tokens

SECRET = b"a secret key of thirty-two bytes!"
SOME_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
FIXED_API_KEY = "pr_key_cjFuE0IMfi3fIkspdZ6Jjfy23toL4ilhmJKs1bktVw811Rfpx"
FIXED_MAILBOX_TOKEN = "pr_mbx_OVvjfauGIqYALo6EYECGFn5SVa8inmnfjnaizuGccKM4MpQ9O"
FIXED_WEBHOOK_SECRET = "whsec_KF/rZapLUeBgVfa/zUDoCOY+kFwgtlS7XioyNvcODD4="
BASE62 = string.digits + string.ascii_letters

secret_keys = st.binary(min_size=32, max_size=64)
ids = st.uuids()
parts = st.text("ab", max_size=2)
generations = st.integers(min_value=0, max_value=2**32 - 1)


def every_secret(keyring: tokens.Keyring, object_id: UUID, generation: int) -> list[str]:
    return [
        keyring.api_key(object_id),
        keyring.mailbox_token(object_id),
        keyring.webhook_secret(object_id, generation),
    ]


@given(secret_keys, ids, generations)
def test_the_same_secret_id_and_generation_give_the_same_tokens(
    secret: bytes, object_id: UUID, generation: int
) -> None:
    first = every_secret(tokens.Keyring(secret), object_id, generation)
    assert first == every_secret(tokens.Keyring(secret), object_id, generation)


@given(st.lists(st.tuples(parts, parts.map(str.encode), st.integers(0, 1)), unique=True))
def test_no_two_purposes_ids_or_generations_share_a_secret(objects: list[tuple[str, bytes, int]]) -> None:
    """With the parts of `info` joined without their lengths this failed: ("", b"a") and ("a", b"") shared one."""
    keyring = tokens.Keyring(SECRET)
    assert len({keyring.derive(*one) for one in objects}) == len(objects)


@given(st.lists(ids, min_size=2, max_size=5, unique=True))
def test_no_two_kinds_or_ids_share_a_token(some: list[UUID]) -> None:
    keyring = tokens.Keyring(SECRET)
    bodies = {text[7:50] for one in some for text in (keyring.api_key(one), keyring.mailbox_token(one))}
    assert len(bodies) == 2 * len(some)


@given(st.lists(secret_keys, min_size=2, max_size=4, unique_by=lambda key: hashlib.sha256(key).digest()), ids)
def test_another_secret_key_gives_other_tokens(secrets: list[bytes], object_id: UUID) -> None:
    assert len({tokens.Keyring(secret).api_key(object_id) for secret in secrets}) == len(secrets)


@given(ids)
def test_a_token_is_known_by_its_form_and_kind(object_id: UUID) -> None:
    keyring = tokens.Keyring(SECRET)
    key, token = keyring.api_key(object_id), keyring.mailbox_token(object_id)
    assert (tokens.kind_of(key), tokens.kind_of(token)) == ("key", "mailbox")
    assert key.startswith("pr_key_")
    assert token.startswith("pr_mbx_")
    assert len(key) == len(token) == 7 + 43 + 6


@given(ids, st.integers(min_value=0, max_value=55), st.sampled_from(BASE62))
def test_one_changed_character_is_noticed_without_a_look_up(object_id: UUID, where: int, digit: str) -> None:
    key = tokens.Keyring(SECRET).api_key(object_id)
    changed = key[:where] + digit + key[where + 1 :]
    assert tokens.looks_like_key(changed) == (changed == key)


@given(st.text())
def test_other_text_is_no_key(text: str) -> None:
    assert not tokens.looks_like_key(text)
    assert not tokens.looks_like_key("pr_key_" + text)


@pytest.mark.parametrize("tail", ["\n", " ", "x", "\x00"])
def test_nothing_may_stand_behind_a_key(tail: str) -> None:
    assert not tokens.looks_like_key(tokens.Keyring(SECRET).api_key(SOME_ID) + tail)


def test_a_key_of_one_kind_relabelled_as_the_other_is_none() -> None:
    key = tokens.Keyring(SECRET).api_key(SOME_ID)
    assert tokens.kind_of(key.replace("pr_key_", "pr_mbx_")) is None


def test_a_webhook_secret_is_32_bytes_as_standard_webhooks_writes_them() -> None:
    secret = tokens.Keyring(SECRET).webhook_secret(SOME_ID)
    assert secret.startswith("whsec_")
    assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32


def test_rotating_a_webhook_secret_gives_another_and_leaves_the_old_one_known() -> None:
    keyring = tokens.Keyring(SECRET)
    old, new = keyring.webhook_secret(SOME_ID, 0), keyring.webhook_secret(SOME_ID, 1)
    assert old != new
    assert old == keyring.webhook_secret(SOME_ID)


def test_what_was_handed_out_once_stays_the_same_in_every_later_version() -> None:
    """Written down: a change here would lock every client out."""
    keyring = tokens.Keyring(bytes(range(32)))
    assert keyring.api_key(SOME_ID) == FIXED_API_KEY
    assert keyring.mailbox_token(SOME_ID) == FIXED_MAILBOX_TOKEN
    assert keyring.webhook_secret(SOME_ID, 3) == FIXED_WEBHOOK_SECRET


def test_the_derivation_is_rfc_5869() -> None:
    """Extract and expand, written out with HMAC alone."""
    info = b"\x00\x07api-key" + b"\x00\x10" + SOME_ID.bytes + b"\x00\x04" + bytes(4)
    pseudorandom_key = hmac.digest(b"postroom/v1", SECRET, "sha256")
    assert tokens.Keyring(SECRET).derive("api-key", SOME_ID.bytes) == hmac.digest(
        pseudorandom_key, info + b"\x01", "sha256"
    )


def test_a_hash_matches_its_token_alone() -> None:
    token = tokens.Keyring(SECRET).api_key(SOME_ID)
    assert tokens.hash_token(token) == hashlib.sha256(token.encode()).digest()
    assert tokens.matches(token, tokens.hash_token(token))
    assert not tokens.matches(token + "x", tokens.hash_token(token))


def test_a_short_secret_key_is_refused() -> None:
    with pytest.raises(errors.ConfigurationError):
        tokens.Keyring(b"short")


def test_a_keyring_does_not_show_its_secret() -> None:
    assert SECRET.decode() not in repr(tokens.Keyring(SECRET))
