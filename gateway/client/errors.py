"""What can go wrong, by the contract's names; each message is for a person, and none of them ever holds a key.

PostroomError
├── ConfigurationError           it is not said where the gateway is, or with which key
├── Unreachable                  nothing answers there, however often it was tried
├── WaitTimeout                  nothing that matches came in time (also a TimeoutError); lists what did
├── UnexpectedMail               mail came although none was expected (also an AssertionError)
├── NotDelivered                 an e-mail's story ended otherwise than it was waited for
├── NoCode, NoLink               the message carries none
├── InvalidSignature             a webhook that was not signed with the secret, or too long ago
└── ApiError                     the gateway refused; .status .name .message .errors .request_id
    ├── InvalidApiKey            401 missing_api_key, invalid_api_key
    ├── RestrictedApiKey         403 restricted_api_key
    ├── NotFound                 404 not_found
    ├── Conflict                 409 invalid_state, invalid_idempotent_request, concurrent_idempotent_requests
    │   └── AddressTaken         409 address_taken
    ├── CursorExpired            410 cursor_expired; .oldest .newest
    ├── PayloadTooLarge          413 payload_too_large
    ├── ValidationError          422 validation_error, missing_required_field, invalid_attachment; .errors
    │   └── RecipientSuppressed  422 recipient_suppressed
    ├── RateLimited              429 rate_limit_exceeded; .retry_after
    │   └── QuotaExceeded        429 quota_exceeded
    └── ServerError              500 internal_error, 503 unavailable, and what proxies say
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .records import Email, Summary

SHOWN = 300  # characters of an answer that is not ours


class PostroomError(Exception):
    """Something went wrong."""


class ConfigurationError(PostroomError):
    """It is not said where the gateway is, or with which key."""


class Unreachable(PostroomError):
    """Nothing answers there."""


class WaitTimeout(PostroomError, TimeoutError):
    """Nothing that matches came in time."""

    def __init__(self, message: str, arrived: Sequence[Summary] = ()) -> None:
        super().__init__(message)
        self.arrived = tuple(arrived)  # what is in the mailbox, newest first, at most 20; empty where mail was sent


class UnexpectedMail(PostroomError, AssertionError):
    """Mail came although none was expected."""

    def __init__(self, message: str, arrived: Summary) -> None:
        super().__init__(message)
        self.arrived = arrived


class NotDelivered(PostroomError):
    """An e-mail's story ended otherwise than it was waited for."""

    def __init__(self, message: str, email: Email) -> None:
        super().__init__(message)
        self.email = email


class NoCode(PostroomError, LookupError):
    """The message carries no code."""


class NoLink(PostroomError, LookupError):
    """The message carries no such link."""


class InvalidSignature(PostroomError, ValueError):
    """A webhook that was not signed with the secret, or too long ago."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldError:
    """One thing wrong with a request."""

    field: str  # where: "to[1]", "attachments[0].content"
    message: str  # for a person


class ApiError(PostroomError):
    """The gateway refused."""

    def __init__(
        self,
        *,
        status: int,
        name: str,
        message: str,
        asked: str,
        errors: Sequence[FieldError] = (),
        request_id: str = "",
        retry_after: float | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.status = status  # of HTTP
        self.name = name  # the contract's: "validation_error"; empty where something in between answered
        self.message = message  # for a person
        self.asked = asked  # "POST /v1/emails"
        self.errors = tuple(errors)  # each field that is wrong
        self.request_id = request_id  # as the server's log has it; empty where it is not known
        self.retry_after = retry_after  # seconds; None = not said
        self.extra = dict(extra or {})  # further members of the answer
        super().__init__(self._told())

    def _told(self) -> str:
        lines = [f"{self.message} ({self.status} {self.name or 'not an answer of Postroom'}, to {self.asked})"]
        lines += [f"  {e.field}: {e.message}" for e in self.errors if e.message not in self.message]
        if self.retry_after is not None:
            lines.append(f"  try again in {self.retry_after:g} s")
        lines += [f"  {hint}" for hint in [self._hint()] if hint]
        if self.request_id:
            lines.append(f"  request id {self.request_id}")
        return "\n".join(lines)

    def _hint(self) -> str:
        """What a person may do about it; empty = the message says it."""
        return "" if self.name else "is POSTROOM_URL right? something else answers there, or in between"


class InvalidApiKey(ApiError):
    """401, 403: there is no such key."""

    def _hint(self) -> str:
        return "the key comes from api_key= or POSTROOM_API_KEY; does it belong to the gateway at that URL?"


class RestrictedApiKey(ApiError):
    """403: the key may not do this."""


class NotFound(ApiError):
    """404: there is no such thing, or it is somebody else's."""


class Conflict(ApiError):
    """409: not in its present state."""


class AddressTaken(Conflict):
    """409: there is a mailbox with this address."""


class CursorExpired(ApiError):
    """410: the cursor lies outside the log."""

    @property
    def oldest(self) -> str | None:
        """The oldest cursor that there is."""
        return _text(self.extra.get("oldest"))

    @property
    def newest(self) -> str | None:
        """The newest one: go on from here, having missed what lies between."""
        return _text(self.extra.get("newest"))

    def _hint(self) -> str:
        return f"the log reaches from {self.oldest} to {self.newest}; go on with after=…, what lies between is gone"


class PayloadTooLarge(ApiError):
    """413."""


class ValidationError(ApiError):
    """422: `.errors` says which fields are wrong."""


class RecipientSuppressed(ValidationError):
    """422: a recipient is on the suppression list, and `on_suppressed` is "reject"."""


class RateLimited(ApiError):
    """429: too many requests; `.retry_after` says when to come back."""


class QuotaExceeded(RateLimited):
    """429: the account has as many of these as it may have."""


class ServerError(ApiError):
    """5xx: a fault of the gateway's, or of something in between."""


_BY_NAME: Mapping[str, type[ApiError]] = {
    "missing_api_key": InvalidApiKey,
    "invalid_api_key": InvalidApiKey,
    "restricted_api_key": RestrictedApiKey,
    "not_found": NotFound,
    "address_taken": AddressTaken,
    "invalid_state": Conflict,
    "invalid_idempotent_request": Conflict,
    "concurrent_idempotent_requests": Conflict,
    "cursor_expired": CursorExpired,
    "payload_too_large": PayloadTooLarge,
    "validation_error": ValidationError,
    "missing_required_field": ValidationError,
    "invalid_attachment": ValidationError,
    "recipient_suppressed": RecipientSuppressed,
    "rate_limit_exceeded": RateLimited,
    "quota_exceeded": QuotaExceeded,
}
_BY_STATUS: Mapping[int, type[ApiError]] = {
    401: InvalidApiKey,
    404: NotFound,
    409: Conflict,
    410: CursorExpired,
    413: PayloadTooLarge,
    422: ValidationError,
    429: RateLimited,
}


def of(status: int, headers: Mapping[str, str], content: bytes, asked: str) -> ApiError:
    """What an answer that is no success says; `asked` is "GET /v1/emails"."""
    body = _object(content)
    name = str(body.get("name", ""))
    known = {"statusCode", "name", "message", "errors", "request_id"}
    fallback = ServerError if status >= 500 else ApiError
    return _BY_NAME.get(name, _BY_STATUS.get(status, fallback))(
        status=status,
        name=name,
        message=str(body.get("message") or _excerpt(content) or "It said nothing"),
        asked=asked,
        errors=[FieldError(field=str(e.get("field", "")), message=str(e.get("message", ""))) for e in _errors(body)],
        request_id=str(body.get("request_id") or headers.get("x-request-id", "")),
        retry_after=seconds(headers.get("retry-after")),
        extra={key: value for key, value in body.items() if key not in known},
    )


def seconds(retry_after: str | None) -> float | None:
    """What a Retry-After says; None where it is missing, or a date (which Postroom never sends)."""
    try:
        return max(0.0, float(retry_after)) if retry_after else None
    except ValueError:
        return None


def _object(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _errors(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = body.get("errors")
    return [e for e in found if isinstance(e, dict)] if isinstance(found, list) else []


def _excerpt(content: bytes) -> str:
    return " ".join(content[:SHOWN].decode(errors="replace").split())


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
