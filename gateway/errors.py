"""What can go wrong, in the words that callers hear.

    PostroomError
    ├── ApiError                      has a status, a name and a message; the HTTP edge renders it
    │   ├── BadRequest                400 bad_request
    │   ├── InvalidJson               400 invalid_json
    │   ├── InvalidIdempotencyKey     400 invalid_idempotency_key
    │   ├── MissingApiKey             401 missing_api_key
    │   ├── InvalidApiKey             401 invalid_api_key (403 under /v1/emails)
    │   ├── RestrictedApiKey          403 restricted_api_key
    │   ├── NotFound                  404 not_found
    │   ├── MethodNotAllowed          405 method_not_allowed
    │   ├── WaitTimeout               408 wait_timeout
    │   ├── RequestTimeout            408 request_timeout
    │   ├── AddressTaken              409 address_taken
    │   ├── InvalidIdempotentRequest  409 invalid_idempotent_request
    │   ├── ConcurrentIdempotentRequests  409 concurrent_idempotent_requests
    │   ├── InvalidState              409 invalid_state
    │   ├── CursorExpired             410 cursor_expired
    │   ├── PayloadTooLarge           413 payload_too_large
    │   ├── ValidationFailed          422 validation_error
    │   ├── MissingRequiredField      422 missing_required_field
    │   ├── InvalidAttachment         422 invalid_attachment
    │   ├── RecipientSuppressed       422 recipient_suppressed
    │   ├── RateLimitExceeded         429 rate_limit_exceeded
    │   ├── QuotaExceeded             429 quota_exceeded
    │   ├── HeadersTooLarge           431 headers_too_large
    │   ├── InternalError             500 internal_error
    │   └── Unavailable               503 unavailable
    └── ConfigurationError            the process cannot start as it is set up; the message says what to change

A class's docstring is its default message. Drivers' errors are translated once, in storage, `from` their cause.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


class PostroomError(Exception):
    """Something went wrong."""


class ConfigurationError(PostroomError):
    """Postroom cannot start as it is configured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldError:
    """One thing wrong with a request."""

    field: str  # where: "to[1]", "attachments[0].content", "query.limit"
    message: str  # what is wrong with it, for a person


class ApiError(PostroomError):
    """The request could not be carried out."""

    status: ClassVar[int] = 500
    name: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str | None = None,
        *,
        errors: Sequence[FieldError] = (),
        retry_after: int | None = None,  # seconds; becomes the Retry-After header
        extra: Mapping[str, Any] | None = None,  # further members of the answer, such as a cursor's bounds
    ) -> None:
        self.message = message or (type(self).__doc__ or "").strip()
        self.errors = tuple(errors)
        self.retry_after = retry_after
        self.extra = dict(extra or {})
        super().__init__(self.message)

    def body(self, request_id: str, status: int | None = None) -> dict[str, Any]:
        """The answer's JSON object; `status` where the edge answers with another one than the class's own."""
        body: dict[str, Any] = {"statusCode": status or self.status, "name": self.name, "message": self.message}
        if self.errors:
            body["errors"] = [{"field": e.field, "message": e.message} for e in self.errors]
        return {**body, **self.extra, "request_id": request_id}


class BadRequest(ApiError):
    """The request is not HTTP as it should be."""

    status, name = 400, "bad_request"


class InvalidJson(ApiError):
    """The body is not valid JSON."""

    status, name = 400, "invalid_json"


class InvalidIdempotencyKey(ApiError):
    """Idempotency-Key must be 1 to 255 printable characters."""

    status, name = 400, "invalid_idempotency_key"


class MissingApiKey(ApiError):
    """Give an API key: Authorization: Bearer <key>."""

    status, name = 401, "missing_api_key"


class InvalidApiKey(ApiError):
    """The API key is not valid."""

    status, name = 401, "invalid_api_key"


class RestrictedApiKey(ApiError):
    """The API key may not do this."""

    status, name = 403, "restricted_api_key"


class NotFound(ApiError):
    """There is no such thing."""

    status, name = 404, "not_found"


class MethodNotAllowed(ApiError):
    """This path does not take that method."""

    status, name = 405, "method_not_allowed"


class WaitTimeout(ApiError):
    """No matching message arrived in time."""

    status, name = 408, "wait_timeout"


class RequestTimeout(ApiError):
    """The request came too slowly."""

    status, name = 408, "request_timeout"


class AddressTaken(ApiError):
    """The address is taken."""

    status, name = 409, "address_taken"


class InvalidIdempotentRequest(ApiError):
    """The Idempotency-Key was used with another payload."""

    status, name = 409, "invalid_idempotent_request"


class ConcurrentIdempotentRequests(ApiError):
    """A request with this Idempotency-Key is still running."""

    status, name = 409, "concurrent_idempotent_requests"


class InvalidState(ApiError):
    """That cannot be done in its present state."""

    status, name = 409, "invalid_state"


class CursorExpired(ApiError):
    """The cursor lies outside the event log."""

    status, name = 410, "cursor_expired"


class PayloadTooLarge(ApiError):
    """The body is too large."""

    status, name = 413, "payload_too_large"


class ValidationFailed(ApiError):
    """The request is not valid."""

    status, name = 422, "validation_error"


class MissingRequiredField(ApiError):
    """A required field is missing."""

    status, name = 422, "missing_required_field"


class InvalidAttachment(ApiError):
    """An attachment cannot be used."""

    status, name = 422, "invalid_attachment"


class RecipientSuppressed(ApiError):
    """A recipient is on the suppression list."""

    status, name = 422, "recipient_suppressed"


class RateLimitExceeded(ApiError):
    """Too many requests."""

    status, name = 429, "rate_limit_exceeded"


class QuotaExceeded(ApiError):
    """The account's quota is used up."""

    status, name = 429, "quota_exceeded"


class HeadersTooLarge(ApiError):
    """The request's head is too large."""

    status, name = 431, "headers_too_large"


class InternalError(ApiError):
    """Something went wrong on our side; the log has the rest under this request id."""

    status, name = 500, "internal_error"


class Unavailable(ApiError):
    """The database cannot be reached; try again."""

    status, name = 503, "unavailable"


def invalid(field: str, message: str) -> ValidationFailed:
    """A 422 about one field, which its message names too: "to[1]: not an e-mail address"."""
    return ValidationFailed(f"{field}: {message}", errors=[FieldError(field=field, message=message)])
