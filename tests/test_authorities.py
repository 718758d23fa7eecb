"""The machine's certificate authorities: read once in a process, whoever needs them."""

from __future__ import annotations

import pytest

from gateway import authorities, settings
from gateway.notify import webhooks
from gateway.outbound.providers import smtp, urls

pytestmark = pytest.mark.anyio


async def test_all_who_speak_tls_share_what_was_read() -> None:
    """50 ms of the loop for each mail exchanger, provider and connection to a webhook, before.

    Seen to fail with `functools.cache` taken from either function."""
    to_use = settings.load(smtp_hostname="gateway.example")
    first, second = (urls.from_url(url, to_use) for url in ("smtp://one.example?verify=1", "smtps://two.example"))
    assert isinstance(first, smtp.SmtpProvider)
    assert isinstance(second, smtp.SmtpProvider)
    assert first._context is second._context is authorities.for_smtp()
    poster = webhooks.Poster(allow_private=False, timeout_seconds=1)
    assert poster._pool._ssl_context is authorities.for_http()
    assert authorities.for_http() is not authorities.for_smtp(), "one of them offers HTTP"


async def test_who_checks_no_certificate_reads_none() -> None:
    relay = urls.from_url("smtp://relay.example?verify=0", settings.load())
    assert isinstance(relay, smtp.SmtpProvider)
    assert relay._context is not None
    assert relay._context.get_ca_certs() == []
