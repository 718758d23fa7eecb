"""Whose a request is, by its address: proxies that are named are believed, and nobody pays for others."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from starlette.requests import Request

from gateway.errors import InvalidApiKey, RateLimitExceeded
from gateway.notify import rates
from gateway.storage import db
from gateway.storage.callers import Callers
from gateway.web import access, origins

pytestmark = pytest.mark.anyio

TRUSTED = (ipaddress.ip_network("10.0.0.0/8"),)


def scope(peer: str | None, forwarded: str | None = None) -> dict[str, Any]:
    headers = [(b"authorization", b"Bearer garbage")]
    headers += [(b"x-forwarded-for", forwarded.encode())] if forwarded is not None else []
    return {"type": "http", "client": (peer, 1) if peer else None, "headers": headers}


@pytest.mark.parametrize(
    ("peer", "forwarded", "found"),
    [
        ("10.0.0.1", "203.0.113.9, 192.0.2.1", "192.0.2.1"),
        ("::ffff:10.0.0.1", "::ffff:192.0.2.1", "192.0.2.1"),  # a socket for IPv6 takes IPv4, too
        ("192.0.2.7", "203.0.113.9", "192.0.2.7"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        (None, "203.0.113.9", ""),
    ],
)
def test_the_client_is_whom_the_last_named_proxy_saw(peer: str | None, forwarded: str | None, found: str) -> None:
    assert origins.remote_ip(scope(peer, forwarded), TRUSTED) == found


def guard(trusted: origins.Networks) -> access.Access:
    """Two failures, and none comes back."""
    one = rates.Limit(name="key", per_second=0, burst=1)
    failed = rates.Limit(name="failed_authentication", per_second=0.001, burst=2)
    limiter = rates.Limiter(rates.Rates(""), rates.Limits(key=one, account=one, failed=failed))
    return access.Access(Callers(db.Database("postgresql://127.0.0.1:9/none")), limiter, trusted)


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "is_shut_out"),
    [
        ("10.0.0.1", "192.0.2.1", (), False),  # nobody named it: with its address shut out, all the world would be
        ("10.0.0.1", "192.0.2.1", TRUSTED, True),
        ("10.0.0.1", None, (), True),
        ("8.8.8.8", "192.0.2.1", (), True),  # what a stranger says of itself helps nobody
    ],
)
async def test_nobody_is_shut_out_by_the_address_of_a_proxy_inside_that_was_not_named(
    peer: str, forwarded: str | None, trusted: origins.Networks, is_shut_out: bool
) -> None:
    """Seen to fail before: 120 guesses a minute by anybody shut out every key that a process had not seen yet."""
    door = guard(trusted)
    for _ in range(2):
        with pytest.raises(InvalidApiKey):
            await door(Request(scope(peer, forwarded)))
    with pytest.raises(RateLimitExceeded if is_shut_out else InvalidApiKey):
        await door(Request(scope(peer, forwarded)))
