"""Provider URLs."""

from __future__ import annotations

import urllib.parse

import pytest

from gateway import settings
from gateway.errors import ConfigurationError
from gateway.outbound import providers
from gateway.outbound.providers import smtp_session, urls

pytestmark = pytest.mark.anyio

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


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("mailgun://key-1@mg.example.com", "mailgun:mg.example.com"),
        ("mailgun://key-1@mg.example.com?region=eu", "mailgun:mg.example.com"),
        ("postmark://0000-token@", "postmark"),
        ("postmark://0000-token@?stream=outbound-2", "postmark:outbound-2"),
        ("ses://AKIDEXAMPLE:se%2Fcr+et@eu-west-1?configuration_set=mails", "ses:eu-west-1"),
        ("ses://AKIDEXAMPLE:secret@us-gov-west-1?session_token=abc", "ses:us-gov-west-1"),
        ("postmark://token@?endpoint=https://api.example", "postmark"),
        ("postmark://token@?endpoint=http://127.0.0.1:8080", "postmark"),
        ("postmark://token@?endpoint=http://[::1]:8080", "postmark"),
    ],
)
async def test_the_url_of_an_api_says_whose_it_is(url: str, name: str) -> None:
    provider = providers.from_url(url, SETTINGS)
    await provider.close()
    assert provider.name == name


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
        "mailgun://hunter2",
        "mailgun://hunter2@",
        "mailgun://user:hunter2@domain.example",
        "mailgun://hunter2%0d%0a@domain.example",
        "mailgun://hunter2@domain.example/path",
        "mailgun://hunter2@domain.example:443",
        "mailgun://hunter2@domain.example?region=mars",
        "mailgun://hunter2@domain.example?region=eu&region=us",
        "mailgun://hunter2@domain.example?endpoint=http://api.example",
        "mailgun://hunter2@domain.example?endpoint=http://127.0.0.1.example",
        "mailgun://hunter2@domain.example?endpoint=https://user@api.example",
        "mailgun://hunter2@domain.example?endpoint=https://api.example/v4",
        "mailgun://hunter2@domain.example?endpoint=https://[",
        "mailgun://hunter2@domain.example?endpoint=ftp://127.0.0.1",
        "postmark://hunter2",
        "postmark://@",
        "postmark://hunter2@host.example",
        "postmark://hunter2@?stream=a%20b",
        "ses://hunter2@eu-west-1",
        "ses://user:hunter2@",
        "ses://user:hunter2@host.example",
        "ses://user:hunter2%0a@eu-west-1",
        "ses://user:hunter2@eu-west-1?password=x",
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
