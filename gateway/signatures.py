"""Whether a request comes from the mail provider that it names: Mailgun's, Postmark's and Amazon SNS's own schemes.

    mailgun     HMAC-SHA256 over timestamp and token. The body is not covered: whoever calls it must see to it that a
                token is good for one body only
    basic       Postmark signs nothing: a user name and password in the webhook's URL
    sns         RSA over named members of the JSON body, by a certificate that Amazon shows at an address of its own;
                anybody may rent a topic there, so the topic must be one that is known

They raise Unverified, whose text is for the log: the caller hears only that the signature is not good.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import httpcore2
import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from gateway import authorities
from gateway.errors import PostroomError, Unavailable

MAILGUN_SECONDS: Final = 900  # how far a timestamp may be from now, either way
_TOKEN: Final = re.compile(r"[!-~]{1,128}")  # Mailgun's have 50 characters
_SECONDS: Final = re.compile(r"[0-9]{1,12}")

FETCH_SECONDS: Final = 10.0
FETCH_BYTES: Final = 65_536
CERTIFICATE_SECONDS: Final = 86_400.0  # how long a certificate is kept
MAX_CERTIFICATES: Final = 16  # kept at once; Amazon shows one for each region

# A whole URL each, so that nobody can parse it differently afterwards: no port, no user, no fragment.
_SNS: Final = r"https://sns\.[a-zA-Z0-9-]{3,63}\.amazonaws\.com(?:\.cn)?"
_CERTIFICATE_URL: Final = re.compile(rf"{_SNS}/[A-Za-z0-9._-]{{1,200}}\.pem")
_SUBSCRIBE_URL: Final = re.compile(rf"{_SNS}/\?[!$-;=?A-~]{{1,2000}}")


class Unverified(PostroomError):
    """The request cannot be shown to come from the provider."""


# Mailgun


def mailgun(
    key: str, *, timestamp: str, token: str, signature: str, now: float, within: float = MAILGUN_SECONDS
) -> None:
    """Check the three fields that Mailgun signs with: Unix seconds, 50 characters, hex.

    `now` in Unix seconds; `within` is how far from it the timestamp may be: remember tokens for twice as long.

    https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks
    """
    if not _SECONDS.fullmatch(timestamp) or not _TOKEN.fullmatch(token):
        raise Unverified("the timestamp or the token is none")
    expected = hmac.new(key.encode(), f"{timestamp}{token}".encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
        raise Unverified("the signature is wrong")
    if abs(now - int(timestamp)) > within:
        raise Unverified("the timestamp is too far from now")


# Postmark


def basic(expected: str, authorization: str) -> None:
    """Check HTTP Basic credentials (RFC 7617). `expected` is `user:password`, `authorization` the header's value."""
    scheme, _, encoded = authorization.strip().partition(" ")
    try:
        given = base64.b64decode(encoded.strip(), validate=True) if scheme.lower() == "basic" else b""
    except ValueError:  # binascii.Error is one
        given = b""
    if not hmac.compare_digest(given, expected.encode()):
        raise Unverified("the user name or password is wrong")


# Amazon SNS


class Notification(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """What SNS posts, whichever of the three types; https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html"""

    type: str  # Notification, SubscriptionConfirmation, UnsubscribeConfirmation
    message_id: str  # the same for every attempt to deliver it
    topic_arn: str
    message: str
    timestamp: str
    signature_version: str  # "1" or "2"
    signature: str  # base64
    signing_cert_url: str = msgspec.field(name="SigningCertURL")
    subject: str | None = None  # of a Notification that has one
    token: str | None = None  # of a confirmation
    subscribe_url: str | None = msgspec.field(default=None, name="SubscribeURL")  # likewise

    @property
    def is_confirmation(self) -> bool:
        return self.type in ("SubscriptionConfirmation", "UnsubscribeConfirmation")


def notification(body: bytes) -> Notification:
    """Read a request's body. Raises Unverified: what SNS did not write, it did not sign."""
    try:
        return msgspec.json.decode(body, type=Notification)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unverified(f"the body is no notification: {error}") from None


def signed(given: Notification) -> bytes:
    """The octets that SNS signs: names and values of some members in byte order, a line each; absent ones left out."""
    members = {
        "Message": given.message,
        "MessageId": given.message_id,
        "Subject": None if given.is_confirmation else given.subject,
        "SubscribeURL": given.subscribe_url if given.is_confirmation else None,
        "Timestamp": given.timestamp,
        "Token": given.token if given.is_confirmation else None,
        "TopicArn": given.topic_arn,
        "Type": given.type,
    }
    return "".join(f"{name}\n{value}\n" for name, value in members.items() if value is not None).encode()


async def sns(given: Notification, certificates: Certificates, topics: Collection[str]) -> None:
    """Check that it comes from SNS, and from one of `topics` (ARNs). Raises Unverified, or Unavailable where Amazon's
    certificate cannot be had."""
    if given.topic_arn not in topics:
        raise Unverified("the topic is not one of SNS_TOPIC_ARNS")
    if given.type != "Notification" and not given.is_confirmation:
        raise Unverified("the type is unknown")
    algorithm = _ALGORITHMS.get(given.signature_version)
    if algorithm is None:
        raise Unverified("the signature version is unknown")
    key = await certificates.key(given.signing_cert_url)
    try:
        key.verify(base64.b64decode(given.signature, validate=True), signed(given), padding.PKCS1v15(), algorithm)
    except (InvalidSignature, binascii.Error, ValueError):
        raise Unverified("the signature is wrong") from None


_ALGORITHMS: Final[dict[str, hashes.HashAlgorithm]] = {
    "1": hashes.SHA1(),  # noqa: S303 - what SNS signs with unless the topic says otherwise
    "2": hashes.SHA256(),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """An answer from the web."""

    status: int
    body: bytes  # at most FETCH_BYTES


Fetch = Callable[[str], Awaitable[Fetched]]  # GET of an https URL, no redirect followed; Unavailable if none answers


class Certificates:
    """Amazon's signing certificates, fetched when first named and kept for a day."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._turn = asyncio.Lock()  # strangers name the URLs: one is fetched at a time
        self._kept: dict[str, tuple[float, rsa.RSAPublicKey]] = {}  # by URL; until when (monotonic)

    async def key(self, url: str) -> rsa.RSAPublicKey:
        """The key of the certificate at `url`. Raises Unverified where that is no address of SNS's or shows none."""
        if not _CERTIFICATE_URL.fullmatch(url):
            raise Unverified("the certificate's URL is not one of SNS")
        async with self._turn:
            until, key = self._kept.get(url, (0.0, None))
            if key is None or until < time.monotonic():
                key = _key(await self._fetch(url))
                self._keep(url, key)
        return key

    def _keep(self, url: str, key: rsa.RSAPublicKey) -> None:
        self._kept.pop(url, None)
        if len(self._kept) >= MAX_CERTIFICATES:
            self._kept.pop(next(iter(self._kept)))
        self._kept[url] = (time.monotonic() + CERTIFICATE_SECONDS, key)


def _key(fetched: Fetched) -> rsa.RSAPublicKey:
    if fetched.status >= 500:
        raise Unavailable("Amazon does not show its certificate; try again.")
    try:
        certificate = x509.load_pem_x509_certificate(fetched.body if fetched.status == 200 else b"")
    except ValueError:
        raise Unverified("there is no certificate at the URL") from None
    if not certificate.not_valid_before_utc <= datetime.now(UTC) <= certificate.not_valid_after_utc:
        raise Unverified("the certificate is not valid today")
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        raise Unverified("the certificate's key is not RSA")
    return key


async def confirm(given: Notification, fetch: Fetch) -> None:
    """Confirm a subscription whose notification was verified. Raises Unverified, or Unavailable where it failed."""
    if given.subscribe_url is None or not _SUBSCRIBE_URL.fullmatch(given.subscribe_url):
        raise Unverified("the subscription's URL is not one of SNS")
    if (await fetch(given.subscribe_url)).status != 200:
        raise Unavailable("Amazon did not confirm the subscription; try again.")


class Fetcher:
    """Fetches from the web: https alone, certificates checked, no redirects, no proxies, in bounded time and size."""

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,  # None = the system's authorities
        network_backend: httpcore2.AsyncNetworkBackend | None = None,  # who makes connections; None = as usual
    ) -> None:
        self._ssl_context = ssl_context
        self._network_backend = network_backend

    async def __call__(self, url: str) -> Fetched:
        """Raises Unavailable."""
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                return await self._get(url)
        except (TimeoutError, OSError, *_FETCH_ERRORS) as error:
            raise Unavailable("The provider cannot be reached; try again.") from error

    async def _get(self, url: str) -> Fetched:
        if not url.startswith("https://"):
            raise ValueError("only https is fetched")
        async with (
            httpcore2.AsyncConnectionPool(
                ssl_context=self._ssl_context or authorities.for_http(), network_backend=self._network_backend
            ) as pool,
            pool.stream("GET", url, headers=[("User-Agent", "postroom")]) as response,
        ):
            body = b""
            async for chunk in response.aiter_stream():
                body += chunk
                if len(body) > FETCH_BYTES:
                    raise httpcore2.RemoteProtocolError("the answer is too long")
            return Fetched(status=response.status, body=body)


_FETCH_ERRORS: Final = (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException)
