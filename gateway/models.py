"""The shapes that every room shares: who calls, what an answer is, times, lists and their cursors."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
)

from gateway import errors

Scope = Literal["mailboxes", "send", "inbound", "read", "admin"]
SCOPES: Final[frozenset[str]] = frozenset(("mailboxes", "send", "inbound", "read", "admin"))

T = TypeVar("T")
MAX_SEQ_DIGITS: Final = 18  # so that it fits into a bigint
BIGINT_BITS: Final = 64  # of Postgres', its sign included


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who calls: the holder of an account's key, or of one mailbox's token."""

    account_id: UUID
    key_id: UUID | None = None  # the API key; None for a mailbox token
    mailbox_id: UUID | None = None  # the one mailbox that a mailbox token reaches; None for a key
    scopes: frozenset[str] = frozenset()  # of SCOPES; empty for a mailbox token
    domains: tuple[str, ...] = ()  # sender and mailbox domains that the key is limited to; empty = every one

    def has_any(self, scopes: Iterable[str]) -> bool:
        """Whether one of `scopes` is held; `admin` stands for all of them."""
        return "admin" in self.scopes or not self.scopes.isdisjoint(scopes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Who changed something, and from where: what the audit trail keeps."""

    key_id: UUID | None = None  # the API key; None = the operator, at the command line
    remote_ip: str = ""  # the client's address; empty = it is not known, or there is none


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """An HTTP answer that is already bytes, such as one that an idempotent replay gives again."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()  # besides content-type (JSON unless given here) and content-length


# Times


def _text_of_a_time(value: Any) -> Any:
    """Only RFC 3339's date-time: pydantic would also read seconds since 1970, and dates."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not _RFC3339.match(value):
        raise ValueError("not an RFC 3339 time, such as 2026-01-31T12:00:00Z")
    return value


def _to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:  # year 1 or 9999, moved over the edge by its offset
        raise ValueError("out of range") from None


_RFC3339: Final = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}", re.ASCII)

# RFC 3339 in; a UTC datetime inside; `2026-01-31T12:00:00Z` out, from pydantic and from msgspec alike.
Time = Annotated[AwareDatetime, BeforeValidator(_text_of_a_time), AfterValidator(_to_utc)]


_TIME: Final[TypeAdapter[datetime]] = TypeAdapter(Time)


def time_of(text: str) -> datetime:
    """RFC 3339's date-time in UTC. ValueError for anything else."""
    return _TIME.validate_python(text)


# Requests and replies


class Input(BaseModel):
    """A request's body or query. Unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class Output(BaseModel):
    """What an answer holds."""

    model_config = ConfigDict(frozen=True)


class Page(Output, Generic[T]):
    """One page of a list."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool = False
    next_cursor: str | None = None  # give it as `cursor` for the next page; null on the last

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        return f"{params[0].__name__}Page"


class ListQuery(Input):
    """What every list takes."""

    limit: int = Field(50, ge=1, le=200, description="Items of a page")
    cursor: str | None = Field(None, max_length=512, description="`next_cursor` of the page before")
    order: Literal["asc", "desc"] = Field("desc", description="Oldest first, or newest first")
    since: Time | None = Field(None, description="From this time on, inclusive")
    until: Time | None = Field(None, description="Before this time, exclusive")


def _split(value: Any) -> Any:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        return value
    return tuple(word for text in texts for word in (part.strip() for part in text.split(",")) if word)


# A query field of several words: `types=a,b`, `types=a&types=b`, or both.
Words = Annotated[tuple[str, ...], BeforeValidator(_split, json_schema_input_type=list[str])]


class Cursor(Generic[T]):
    """Where a page ended, as an opaque word: base64url of a compact JSON array.

    `shape` is what it holds, such as `tuple[Time, UUID]`; make one Cursor for each kind of list, and once.
    """

    def __init__(self, shape: Any) -> None:
        self._adapter: TypeAdapter[T] = TypeAdapter(shape)

    def encode(self, position: T) -> str:
        return base64.urlsafe_b64encode(self._adapter.dump_json(position)).rstrip(b"=").decode()

    def decode(self, cursor: str) -> T:
        """The position that `encode` was given. ValidationFailed on the field `cursor` for anything else."""
        try:
            padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
            position = self._adapter.validate_json(base64.b64decode(padded, altchars=b"-_", validate=True))
            _refuse_unstorable(position)
        except ValueError:  # no ASCII, no base64, no JSON, another shape, or nothing that Postgres could have given
            raise errors.invalid("cursor", "not a cursor that this list gave") from None
        return position


def _refuse_unstorable(position: object) -> None:
    for part in position if isinstance(position, tuple) else (position,):
        if isinstance(part, str) and "\0" in part:
            raise ValueError("a NUL")
        if isinstance(part, int) and part.bit_length() >= BIGINT_BITS:
            raise ValueError("no bigint")


Row = TypeVar("Row")


def page(rows: Sequence[Row], limit: int, show: Callable[[Row], T], cursor: Callable[[Row], str]) -> Page[T]:
    """One page of `rows`, of which one more than `limit` was asked for to know whether there are more."""
    shown, has_more = rows[:limit], len(rows) > limit
    next_cursor = cursor(shown[-1]) if has_more else None
    return Page(data=[show(row) for row in shown], has_more=has_more, next_cursor=next_cursor)


def seq(cursor: str, field: str) -> int:
    """An event cursor's number. ValidationFailed on `field` for anything else."""
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= MAX_SEQ_DIGITS):
        raise errors.invalid(field, "not a cursor")
    return int(cursor)
