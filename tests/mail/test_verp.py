"""Return paths: they tell their delivery, and cannot be made up."""

from __future__ import annotations

import string

import pytest
from uuid_utils.compat import uuid7

from gateway import tokens
from gateway.mail import address, verp

PATHS = verp.ReturnPaths(tokens.Keyring(b"k" * 32), "bounces.example.com")


def test_a_return_path_tells_its_delivery_whatever_becomes_of_its_case() -> None:
    for _ in range(100):
        delivery_id = uuid7()
        path = PATHS.address(delivery_id)
        assert path.startswith("bounces+")
        assert len(path.partition("@")[0]) <= 64  # RFC 5321 4.5.3.1.1
        assert str(address.parse(path)) == path
        for written in (path, path.upper(), path.title()):
            assert PATHS.is_ours(written)
            assert PATHS.delivery(written) == delivery_id


def test_a_return_path_with_any_other_character_is_none() -> None:
    """Negative control: with no comparison of the HMAC it failed at the first character of the id."""
    path = PATHS.address(uuid7())
    start, end = path.index("+") + 1, path.index("@")
    for place in range(start, end):
        for other in string.ascii_lowercase + "234567":
            changed = path[:place] + other + path[place + 1 :]
            if changed != path:
                assert PATHS.delivery(changed) is None, changed


@pytest.mark.parametrize("domain", ["bounces.example.com", "other.example.com"])
def test_a_return_path_of_another_key_is_none(domain: str) -> None:
    foreign = verp.ReturnPaths(tokens.Keyring(b"x" * 32), domain).address(uuid7())
    assert PATHS.delivery(foreign) is None
    assert PATHS.is_ours(foreign) is (domain == "bounces.example.com")


def test_a_return_path_of_one_domain_is_none_at_another() -> None:
    """Negative control: with the domain left out of what the HMAC is over it failed, at the first look at home."""
    delivery_id = uuid7()
    theirs = PATHS.address(delivery_id, "bounces.tenant.example")
    assert theirs.endswith("@bounces.tenant.example")
    assert PATHS.delivery(theirs) == PATHS.delivery(theirs.upper()) == delivery_id
    at_home = theirs.partition("@")[0] + "@bounces.example.com"
    assert PATHS.is_ours(at_home)
    assert PATHS.delivery(at_home) is None
    assert PATHS.delivery(PATHS.address(delivery_id).partition("@")[0] + "@bounces.tenant.example") is None


@pytest.mark.parametrize(
    "odd", ["", "@", "bounces@bounces.example.com", "bounces+@bounces.example.com", "bounces+ä@bounces.example.com"]
)
def test_what_is_no_return_path_is_none(odd: str) -> None:
    assert PATHS.delivery(odd) is None


def test_the_first_genuine_path_in_a_mail_is_found() -> None:
    delivery_id = uuid7()
    path, forged = PATHS.address(delivery_id), f"bounces+{'a' * 42}@bounces.example.com"
    raw = f"Original-Mail-From: <{forged}>\r\n\r\nReturn-Path: <{path.upper()}>\r\n\r\n".encode()
    assert PATHS.named(raw) == delivery_id
    assert PATHS.named(b"see %s." % path.encode()) == delivery_id
    assert PATHS.named(b"") is PATHS.named(forged.encode()) is None
    assert PATHS.named(b" ".join(b"bounces+%042d@a" % 0 for _ in range(5)) + b"\xff" * 1000) is None
