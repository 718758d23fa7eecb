"""Provider URLs."""

from __future__ import annotations

import urllib.parse

import pytest

from gateway import settings
from gateway.errors import ConfigurationError
from gateway.outbound import providers
from gateway.outbound.providers import smtp_session, urls

SETTINGS = settings.load(
    smtp_hostname="gateway.example", outbound_concurrency=7, outbound_timeout_seconds=5, outbound_data_timeout_seconds=9
)


def _relay(url: str) -> smtp_session.Relay:
    return urls.relay_of(urllib.parse.urlsplit(url), SETTINGS)


@pytest.mark.parametrize(
    ("url", "name", "tls", "verify"),
    [
        ("smtp://relay.example", "smtp:relay.example:25", "opportunistic", False),
        ("smtp://relay.example?verify=1", "smtp:relay.example:25", "opportunistic", True),
        ("smtp://relay.example:587", "smtp:relay.example:587", "starttls", True),
        ("smtp://u:p@relay.example", "smtp:relay.example:587", "starttls", True),
        ("smtp://u:p@relay.example:2525/", "smtp:relay.example:2525", "starttls", True),
        ("smtp://u:p@relay.example?tls=none", "smtp:relay.example:587", "none", True),
        ("smtp://relay.example?tls=starttls&verify=0", "smtp:relay.example:25", "starttls", False),
        ("SMTPS://u:p@Relay.Example", "smtps:relay.example:465", "implicit", True),
        ("smtps://relay.example?verify=0", "smtps:relay.example:465", "implicit", False),
        ("smtp://[::1]:2525", "smtp:[::1]:2525", "opportunistic", False),
        ("smtp://bücher.example", "smtp:xn--bcher-kva.example:25", "opportunistic", False),
    ],
)
def test_an_smtp_url_says_where_and_how(url: str, name: str, tls: str, verify: bool) -> None:
    relay = _relay(url)
    assert (relay.name, relay.tls, relay.verify) == (name, tls, verify)
    assert providers.from_url(url, SETTINGS).name == name


def test_credentials_are_percent_decoded_and_not_shown() -> None:
    relay = _relay("smtp://user%40x:p%40ss%2Fw%3Ard%25%C3%BC@relay.example")
    assert (relay.username, relay.password) == ("user@x", "p@ss/w:rd%ü")
    assert "p@ss" not in repr(relay)


def test_limits_come_from_the_settings() -> None:
    relay = _relay("smtp://relay.example")
    assert (relay.connections, relay.step_seconds, relay.dot_seconds) == (7, 5, 9)
    assert relay.local_hostname == "gateway.example"
    assert _relay("smtp://relay.example?connections=2").connections == 2
    assert _relay("smtp://relay.example?connections=200").connections == 7


@pytest.mark.parametrize("scheme", ["mailgun", "postmark", "ses"])
def test_what_is_not_there_yet_says_so(scheme: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{scheme}:// is not available in this version"):
        providers.from_url(f"{scheme}://hunter2@domain?region=eu", SETTINGS)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "relay.example:25",
        "hunter2@relay.example",
        "user:hunter2@relay.example",
        "smtp:relay.example",
        "smtp://",
        "smtp:///hunter2",
        "smtp://:25",
        "ftp://user:hunter2@relay.example",
        "hunter2hunter2hunter2://relay.example",
        "smtp://user@relay.example",
        "smtp://user:@relay.example",
        "smtp://:hunter2@relay.example",
        "smtp://user:hunter2@",
        "smtp://user:hunter2/x@relay.example",
        "smtp://user:hunter2#x@relay.example",
        "smtp://user:hunter2?x@relay.example",
        "smtp://user:hunter2%FF@relay.example",
        "smtp://user:hunter2%00@relay.example",
        "smtp://user:hunter2[@relay.example",
        "smtp://user:hunter2@relay.example:port",
        "smtp://user:hunter2@relay.example:0",
        "smtp://user:hunter2@relay.example:65536",
        "smtp://user:hunter2@relay .example",
        "smtp://user:hunter2@relay.example/path",
        "smtp://user:hunter2@relay.example?tls=maybe",
        "smtp://user:hunter2@relay.example?tls",
        "smtp://user:hunter2@relay.example?TLS=none",
        "smtp://user:hunter2@relay.example?tls=none&tls=starttls",
        "smtp://user:hunter2@relay.example?verify=no",
        "smtp://user:hunter2@relay.example?connections=0",
        "smtp://user:hunter2@relay.example?connections=many",
        "smtp://user:hunter2@relay.example?password=hunter2",
        "smtps://user:hunter2@relay.example?tls=none",
        "smtp://bücher..example",
        "mx://hunter2",
        "mx:///hunter2",
        "mx://?hostname=hunter2%20x",
        "mx://?hostname=",
        "mx://?port=hunter2",
        "mx://?port=0",
        "mx://?tls=none",
        "mx://?allow_private=maybe",
        "capture://hunter2",
        "capture:///x",
        "capture://?x=1",
    ],
)
def test_a_malformed_url_is_refused_and_not_repeated(url: str) -> None:
    """Broken on purpose: with the port's ValueError let through, the two with a wrong number failed."""
    with pytest.raises(ConfigurationError, match="OUTBOUND") as caught:
        providers.from_url(url, SETTINGS)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_capture_is_a_url_too() -> None:
    assert providers.from_url("capture://", SETTINGS).name == "capture"
