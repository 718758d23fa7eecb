"""Provider `ses`: raw messages by SES v2's `POST /v2/email/outbound-emails`, signed with AWS Signature Version 4.

The message arrives as it was composed, but for its Message-ID and Date, which SES replaces by its own. The reverse
path is said as FromEmailAddress: it has to be of an identity that SES has verified. SES knows no idempotency key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from gateway.outbound.providers import http
from gateway.outbound.providers.contract import Health, Outgoing

PATH: Final = "/v2/email/outbound-emails"
ACCOUNT_PATH: Final = "/v2/email/account"

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_ACCOUNT: Final = frozenset({"AccountSuspendedException", "SendingPausedException", "LimitExceededException"})
_SENDER: Final = frozenset({"MailFromDomainNotVerifiedException", "AccessDeniedException", "NotFoundException"})
_THROTTLED: Final = frozenset({"TooManyRequestsException", "ThrottlingException", "Throttling"})
_QUOTA = re.compile(r"(?:daily|24.?hour).{0,40}(?:quota|limit)|sending quota", re.IGNORECASE)
_SPACES = re.compile(r" +")
# MessageRejected says so of senders, and in the sandbox of recipients: both are the account's state
_UNVERIFIED = re.compile(r"not verified|sandbox", re.IGNORECASE)
_RECIPIENT = re.compile(r"recipient|destination|\bto\b.{0,20}address|Missing final '@domain'", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """Of an IAM user or role."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)  # empty but for temporary ones


@dataclass(frozen=True, kw_only=True, slots=True)
class Ses:
    """SES of one region."""

    credentials: Credentials
    region: str
    host: str  # as the Host header says it, with a port that is not the scheme's own
    configuration_set: str = ""  # empty = the identity's own, or none
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC), repr=False)

    @property
    def name(self) -> str:
        """`ses:region`."""
        return f"ses:{self.region}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """Of the credentials all."""
        told = self.credentials
        return tuple(filter(None, (told.secret_key, told.session_token, told.access_key)))

    def request(self, outgoing: Outgoing) -> http.Request:
        """The message in base64, for one recipient."""
        asked: dict[str, Any] = {
            "Destination": {"ToAddresses": [outgoing.rcpt_to]},
            "Content": {"Raw": {"Data": base64.b64encode(outgoing.raw).decode()}},
        }
        if outgoing.mail_from:
            asked["FromEmailAddress"] = outgoing.mail_from
        if outgoing.return_path:
            asked["FeedbackForwardingEmailAddress"] = outgoing.return_path  # its domain must be an identity there, too
        if self.configuration_set:
            asked["ConfigurationSetName"] = self.configuration_set
        content = msgspec.json.encode(asked)
        headers = {"host": self.host, "content-type": "application/json"}
        signed = signed_headers(
            self.credentials, "POST", PATH, headers, content, region=self.region, service="ses", now=self.clock()
        )
        return http.Request(path=PATH, headers=signed, content=content)

    def is_spent(self, text: str) -> bool:
        """By the words that name the day's quota."""
        return _QUOTA.search(text) is not None

    def question(self) -> http.Request:
        """The account's state in this region (GetAccount)."""
        signed = signed_headers(
            *(self.credentials, "GET", ACCOUNT_PATH, {"host": self.host}, b""),
            region=self.region,
            service="ses",
            now=self.clock(),
        )
        return http.Request(method="GET", path=ACCOUNT_PATH, headers=signed, content=b"")

    def health(self, answer: http.Answer) -> Health:
        """By SendingEnabled and ProductionAccessEnabled. Credentials that may only send cannot ask."""
        if answer.status == 200:
            return _standing(answer.members(), self.region)
        error = _error(answer)
        said = f"{answer.status} {error}: {answer.text('message', 'Message')}"
        if error == "AccessDeniedException":
            advice = "Allow ses:GetAccount to these credentials, or use --send-test to be sure."
            return Health(standing="doubtful", said=said, advice=advice)
        return Health(standing="unwell", said=said, advice="Check access key, secret, region and this host's clock.")

    def read(self, answer: http.Answer) -> http.Reading:
        """By the error's name, which comes in a header or as `__type`; its words where the name covers several."""
        text = answer.text("message", "Message")
        if answer.status < 300:
            found = answer.members().get("MessageId")
            return http.Reading(outcome="sent", text=text, provider_id=found if isinstance(found, str) else None)
        return _refused(answer.status, _error(answer), text)


def _standing(account: dict[str, Any], region: str) -> Health:
    if not account.get("SendingEnabled", True):
        said = f"SES does not let this account send in {region}: {account.get('EnforcementStatus', 'no reason given')}"
        return Health(standing="unwell", said=said, advice="Ask AWS to let the account send again.")
    if not account.get("ProductionAccessEnabled", True):
        advice = "Ask AWS for production access: until then only verified recipients get mail."
        return Health(
            standing="doubtful", said=f"SES knows the credentials, but in {region} is a sandbox", advice=advice
        )
    return Health(standing="well", said=f"SES knows the credentials and lets the account send in {region}")


def _refused(status: int, error: str, words: str) -> http.Reading:
    text = f"{error}: {words}" if error else words
    if error in _THROTTLED and not _QUOTA.search(text):
        return http.Reading(outcome="deferred", text=text)
    if error in _SENDER or (error == "MessageRejected" and _UNVERIFIED.search(text)):
        return http.Reading(outcome="provider_fault", text=text, stage="mail")
    if error in _ACCOUNT or status in {401, 403, 404} or _QUOTA.search(text):
        return http.Reading(outcome="provider_fault", text=text, stage="auth")
    if error == "MessageRejected":
        return http.Reading(outcome="bounced", text=text)
    about_recipient = error == "BadRequestException" and _RECIPIENT.search(text)
    return http.Reading(outcome="bounced" if about_recipient else "failed", text=text, stage="rcpt")


def _error(answer: http.Answer) -> str:
    """The error's bare name: `x-amzn-errortype: Name:http://…`, or `"__type": "com.amazonaws…#Name"`."""
    kind = answer.members().get("__type")
    name = answer.headers.get("x-amzn-errortype") or (kind if isinstance(kind, str) else "")
    return name.partition(":")[0].rpartition("#")[2]


def signed_headers(
    credentials: Credentials,
    method: str,
    target: str,
    headers: dict[str, str],
    content: bytes,
    *,
    region: str,
    service: str,
    now: datetime,
) -> dict[str, str]:
    """The headers (names in lower case, `host` among them) with date and signature added.

    "Signature Version 4 signing process", AWS General Reference. `target` is path and query as they are sent, both
    percent-encoded once; the path is encoded once more, as every service but S3 wants it.
    """
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    all_headers = {**headers, "x-amz-date": stamp}
    if credentials.session_token:
        all_headers["x-amz-security-token"] = credentials.session_token
    names = ";".join(sorted(all_headers))
    canonical = canonical_request(method, target, all_headers, content)
    to_sign = f"{_ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = hmac.digest(_key(credentials.secret_key, scope), to_sign.encode(), "sha256").hex()
    all_headers["authorization"] = (
        f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return all_headers


def canonical_request(method: str, target: str, headers: dict[str, str], content: bytes) -> str:
    """What is signed of a request."""
    path, _, query = target.partition("?")
    pairs = sorted(tuple(pair.partition("=")[::2]) for pair in query.split("&") if pair)
    lines = [f"{name}:{_SPACES.sub(' ', headers[name].strip())}\n" for name in sorted(headers)]
    return "\n".join(
        [
            method,
            urllib.parse.quote(path, safe="/-_.~"),
            "&".join(f"{name}={value}" for name, value in pairs),
            "".join(lines),
            ";".join(sorted(headers)),
            hashlib.sha256(content).hexdigest(),
        ]
    )


def _key(secret: str, scope: str) -> bytes:
    key = b"AWS4" + secret.encode()
    for word in scope.split("/"):
        key = hmac.digest(key, word.encode(), "sha256")
    return key
