"""Whether requests come from whom they name, by the providers' real algorithms; and what is refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway import signatures
from gateway.errors import Unavailable
from gateway.signatures import Unverified
from tests import amazon

pytestmark = pytest.mark.anyio

KEY = "key-3ax6xnjp29jd6fds4gc373sgvjxteol0"
NOW = 1_529_006_854
TOKEN = "a8ce0edb2dd8301dee6c2405235584e45aa91d1e9f979f3de0"


def digest(timestamp: object, token: str, key: str = KEY) -> str:
    return hmac.new(key.encode(), f"{timestamp}{token}".encode(), hashlib.sha256).hexdigest()


# Mailgun


@pytest.mark.parametrize("off", [0, 899, -899])
def test_mailguns_own_signature_is_good(off: int) -> None:
    signatures.mailgun(KEY, timestamp=str(NOW), token=TOKEN, signature=digest(NOW, TOKEN), now=NOW + off)


@pytest.mark.parametrize(
    "wrong",
    [
        {"signature": digest(NOW, TOKEN, "another key")},
        {"signature": digest(NOW, TOKEN)[:-1]},
        {"signature": digest(NOW, TOKEN).upper()},
        {"signature": ""},
        {"signature": "\udcff"},
        {"token": TOKEN[:-1] + "1"},
        {"timestamp": str(NOW + 1)},
        {"timestamp": str(NOW)[:-1], "token": str(NOW)[-1] + TOKEN},  # the same text is signed
        {"timestamp": ""},
        {"timestamp": "-1"},
        {"timestamp": "٣"},
        {"token": ""},
        {"token": "x" * 200, "signature": digest(NOW, "x" * 200)},
        {"token": "a\nb", "signature": digest(NOW, "a\nb")},
        {"now": NOW + 31, "within": 30},
        {"now": NOW + 901},
        {"now": NOW - 901},
    ],
)
def test_what_mailgun_did_not_sign_now_is_refused(wrong: dict[str, Any]) -> None:
    """Negative control: without the comparison the first seven failed, without the look at the clock the last three and
    the one whose timestamp lends a digit to its token."""
    given: dict[str, Any] = {"timestamp": str(NOW), "token": TOKEN, "signature": digest(NOW, TOKEN), "now": NOW}
    with pytest.raises(Unverified):
        signatures.mailgun(KEY, **given | wrong)


# Postmark


@pytest.mark.parametrize("pair", ["user:password", "user:pass:word", "ü:é"])
def test_the_right_user_and_password_are_good(pair: str) -> None:
    encoded = base64.b64encode(pair.encode()).decode()
    for header in (f"Basic {encoded}", f"basic  {encoded} "):
        signatures.basic(pair, header)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic ",
        "Basic %%%",
        "Basic ü",
        "Bearer " + base64.b64encode(b"user:password").decode(),
        *(
            "Basic " + base64.b64encode(pair).decode()
            for pair in (b"user:passwor", b"user:password ", b"User:password")
        ),
        *("Basic " + base64.b64encode(pair).decode() for pair in (b"user", b":", b"password", b"user:")),
    ],
)
def test_any_other_user_or_password_is_refused(header: str) -> None:
    """Negative control: without the comparison every one of them failed."""
    with pytest.raises(Unverified):
        signatures.basic("user:password", header)


# Amazon SNS


@pytest.fixture
async def sns(tmp_path: Path) -> AsyncIterator[amazon.Amazon]:
    """SNS on loopback."""
    region = amazon.Amazon(tmp_path)
    async with region.serving():
        yield region


async def verified(region: amazon.Amazon, given: dict[str, Any], topics: tuple[str, ...] = (amazon.TOPIC,)) -> None:
    certificates = signatures.Certificates(region.fetcher())
    await signatures.sns(signatures.notification(amazon.body(given)), certificates, topics)


@pytest.mark.parametrize("version", ["1", "2"])
async def test_what_sns_signed_is_good(sns: amazon.Amazon, version: str) -> None:
    """Negative control: with `Subject` left out of what the code takes for signed, both failed."""
    await verified(sns, sns.notification("Mail", SignatureVersion=version))
    await verified(sns, sns.notification("Grüße\n\n", Subject=None, SignatureVersion=version))
    await verified(sns, sns.notification("", Subject="", SignatureVersion=version))
    await verified(sns, sns.confirmation(SignatureVersion=version))
    await verified(sns, sns.confirmation("UnsubscribeConfirmation", SignatureVersion=version))


BOTH = ("Message", "MessageId", "Timestamp", "Type", "SignatureVersion", "Signature")


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        *(("Notification", name) for name in (*BOTH, "Subject")),
        *(("SubscriptionConfirmation", name) for name in (*BOTH, "Token", "SubscribeURL")),
    ],
)
async def test_every_signed_member_counts(sns: amazon.Amazon, kind: str, changed: str) -> None:
    """Negative control: with `key.verify` left out, all of these failed (DID NOT RAISE), and so did the tests of moved
    members and of somebody else's certificate."""
    given = sns.notification("Mail") if kind == "Notification" else sns.confirmation()
    other = base64.b64encode(b"x" * 256).decode()
    values = {"Type": "UnsubscribeConfirmation", "SignatureVersion": "1", "Signature": other}
    with pytest.raises(Unverified, match="signature is wrong"):
        await verified(sns, given | {changed: values.get(changed, "something else")})
    for version in ("0", "3", ""):
        with pytest.raises(Unverified, match="version"):
            await verified(sns, given | {"SignatureVersion": version})


async def test_no_member_is_taken_for_another(sns: amazon.Amazon) -> None:
    """Names and values are lines, so a value with line ends in it must not become other members."""
    given = sns.notification("Mail", Subject=None)
    moved = given | {"Message": "Mail\nMessageId\nx", "MessageId": "y"}
    with pytest.raises(Unverified):
        await verified(sns, moved)


async def test_only_topics_that_are_listed_count_however_well_signed(sns: amazon.Amazon) -> None:
    """Negative control: without the look at the topic it failed (DID NOT RAISE)."""
    for topic in ("arn:aws:sns:eu-west-1:666666666666:mail-in", amazon.TOPIC + "x", amazon.TOPIC.upper()):
        with pytest.raises(Unverified, match="topic"):
            await verified(sns, sns.notification("Mail", TopicArn=topic))
    assert sns.asked == []  # nor is anything fetched for a stranger


@pytest.mark.parametrize(
    "url",
    [
        "http://sns.eu-west-1.amazonaws.com/x.pem",
        "https://sns.eu-west-1.amazonaws.com.evil.example/x.pem",
        "https://evil.example/sns.eu-west-1.amazonaws.com/x.pem",
        "https://sns.eu-west-1.amazonaws.com@evil.example/x.pem",
        "https://sns.eu-west-1.amazonaws.com:8443/x.pem",
        "https://xsns.eu-west-1.amazonaws.com/x.pem",
        "https://sns.eu-west-1xamazonaws.com/x.pem",
        "https://sns.a.b.amazonaws.com/x.pem",
        "https://s3.eu-west-1.amazonaws.com/x.pem",
        "https://sns.eu-west-1.amazonaws.com/?Action=ListTopics&.pem",
        "https://sns.eu-west-1.amazonaws.com/x.pem#",
        "https://sns.eu-west-1.amazonaws.com/x.pem\n",
        "https://sns.eu-west-1.amazonaws.com/x.cer",
        "https://sns.eu-west-1.amazonaws.com\\@evil.example/x.pem",
        "",
    ],
)
async def test_certificates_are_fetched_from_sns_alone(sns: amazon.Amazon, url: str) -> None:
    """Negative control: without the look at the URL every one of them failed."""
    with pytest.raises(Unverified, match="URL"):
        await verified(sns, sns.notification("Mail", SigningCertURL=url))
    assert sns.asked == []


async def test_a_certificate_is_fetched_once_a_day(sns: amazon.Amazon, monkeypatch: pytest.MonkeyPatch) -> None:
    certificates = signatures.Certificates(sns.fetcher())
    given = signatures.notification(amazon.body(sns.notification("Mail")))
    for _ in range(3):
        await signatures.sns(given, certificates, [amazon.TOPIC])
    assert len(sns.asked) == 1
    monkeypatch.setattr(signatures, "CERTIFICATE_SECONDS", -1.0)
    certificates = signatures.Certificates(sns.fetcher())
    await signatures.sns(given, certificates, [amazon.TOPIC])
    await signatures.sns(given, certificates, [amazon.TOPIC])
    assert len(sns.asked) == 3


async def test_only_so_many_certificates_are_kept(sns: amazon.Amazon) -> None:
    certificates = signatures.Certificates(sns.fetcher())
    for number in range(40):
        sns.pages[f"/{number}.pem"] = (200, amazon.certificate(sns.key))
        await certificates.key(f"https://{amazon.HOST}/{number}.pem")
    assert len(certificates._kept) == signatures.MAX_CERTIFICATES


async def test_a_certificate_that_is_none_or_over_or_somebody_elses_is_refused(sns: amazon.Amazon) -> None:
    path = amazon.CERTIFICATE.removeprefix(f"https://{amazon.HOST}")
    other = amazon.certificate(amazon.new_key())
    pages = [(404, b""), (200, b"<html>"), (200, amazon.certificate(sns.key, days=-1)), (200, other)]
    for page in [*pages, (302, sns.pages[path][1])]:
        sns.pages[path] = page
        with pytest.raises(Unverified):
            await verified(sns, sns.notification("Mail"))


async def test_what_cannot_be_fetched_is_no_fault_of_the_senders(sns: amazon.Amazon, tmp_path: Path) -> None:
    path = amazon.CERTIFICATE.removeprefix(f"https://{amazon.HOST}")
    for page in ((503, b""), (200, b"x" * 100_000)):
        sns.pages[path] = page
        with pytest.raises(Unavailable):
            await verified(sns, sns.notification("Mail"))
    (tmp_path / "other").mkdir()
    stranger = amazon.Amazon(tmp_path / "other")  # of another authority, and listening nowhere
    with pytest.raises(Unavailable):
        await verified(stranger, sns.notification("Mail"))


async def test_a_server_that_cannot_show_who_it_is_is_not_believed(sns: amazon.Amazon, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    stranger = amazon.Amazon(tmp_path / "other")
    stranger._port = sns._port  # trusts another authority than the one that made the server's certificate
    with pytest.raises(Unavailable):
        await verified(stranger, stranger.notification("Mail"))
    assert sns.asked == []


async def test_a_subscription_is_confirmed_at_sns_alone(sns: amazon.Amazon) -> None:
    """Negative control: without the look at the URL it failed: the URL was fetched."""
    confirmation = signatures.notification(amazon.body(sns.confirmation()))
    await signatures.confirm(confirmation, sns.fetcher())
    assert sns.asked == [amazon.SUBSCRIBE.removeprefix(f"https://{amazon.HOST}")]
    for url in (
        "https://evil.example/?Action=ConfirmSubscription",
        "http://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription",
        "https://sns.eu-west-1.amazonaws.com.evil.example/?x",
        "https://sns.eu-west-1.amazonaws.com/?x@y",
        None,
    ):
        elsewhere = signatures.notification(amazon.body(sns.confirmation(SubscribeURL=url)))
        with pytest.raises(Unverified):
            await signatures.confirm(elsewhere, sns.fetcher())
    sns.pages.clear()
    with pytest.raises(Unavailable):
        await signatures.confirm(confirmation, sns.fetcher())
    assert len(sns.asked) == 2


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'"x"', b"\xff", b'{"Type": 1}', b"[" * 5000])
def test_what_is_no_notification_is_refused(body: bytes) -> None:
    with pytest.raises(Unverified):
        signatures.notification(body)


async def test_nothing_but_https_is_fetched() -> None:
    with pytest.raises(ValueError, match="https"):
        await signatures.Fetcher()("http://127.0.0.1/")
