"""/v1/suppressions: whom an account does not write to; one by one, and as a whole list that comes in or goes out."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from gateway import errors, models
from gateway.lifecycle import Gateway
from gateway.mail import address
from gateway.models import Caller, Input, ListQuery, Origin, Output, Page, Time
from gateway.storage import audit, db, period, suppressions
from gateway.web import api, edge, once, reading, room

CREATE: Final = "POST /v1/suppressions"
NDJSON: Final = "application/x-ndjson"
SLICE: Final = 500  # lines of one transaction of an import, and of one look into the database of an export
MAX_LINES: Final = 100_000  # of one import
MAX_LINE_BYTES: Final = 4096
MAX_IMPORT_BYTES: Final = 33_554_432
MAX_PROBLEMS: Final = 1000  # of one import's lines that its answer tells
COLUMNS: Final = ("address", "reason", "expires_at", "scope")  # of a CSV that does not name its own
_cursors: Final[models.Cursor[tuple[datetime, str, str]]] = models.Cursor(tuple[Time, str, str])
_encode: Final = msgspec.json.Encoder().encode

Reason = Literal["bounce", "complaint", "unsubscribe", "manual"]
SCOPE: Final = (
    "Which mail: empty = all of the account's, `topic:<name>` = e-mails that offer to unsubscribe from that topic, "
    "`domain:<name>` = e-mails from that very domain"
)
Scope = Annotated[str, Field(max_length=262, description=SCOPE), AfterValidator(suppressions.read_scope)]


class NewSuppression(Input):
    """An address that is not to be written to."""

    address: str = Field(max_length=320)
    reason: Reason = "manual"
    expires_at: Time | None = Field(None, description="null = never")
    scope: Scope = ""


class Suppression(Output):
    """An address that is not written to."""

    address: str = Field(description="In lower case, the domain in A-labels")
    reason: Reason
    expires_at: Time | None
    created_at: Time
    scope: str = Field(description=SCOPE)


class SuppressionsQuery(ListQuery):
    """Which part of the list."""

    reason: Reason | None = None
    address: str | None = Field(None, max_length=320, description="This one, if it is on the list")
    scope: Scope | None = None


class ScopeQuery(Input):
    """For which mail."""

    scope: Scope = ""


class AddressQuery(Input):
    """Which one; or the body says it."""

    address: str | None = Field(None, max_length=320)
    scope: Scope | None = None


class NamedAddress(Input):
    """Which one, instead of in the query."""

    address: str | None = Field(None, max_length=320)
    scope: Scope | None = None


class BadLine(Output):
    """A line that could not be taken."""

    line: int = Field(description="1 = first")
    message: str


class Imported(Output):
    """What came of an import."""

    imported: int = Field(description="Lines that are on the list now")
    failed: int
    errors: list[BadLine] = Field(description=f"The first {MAX_PROBLEMS:,} lines that could not be taken")


class Suppressions:
    """The operations."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._creations = once.Creations(gateway.database, gateway.settings.idempotency_seconds)
        self._room = room.Room("suppressions", gateway.settings)

    def operations(self) -> Sequence[api.Operation]:
        changing: dict[str, Any] = {"scope": "admin", "tags": ["Suppressions"]}
        reading: dict[str, Any] = {"scope": {"admin", "read"}, "tags": ["Suppressions"]}
        making: dict[str, Any] = {"status": 201, "idempotent": True, "errors": [errors.QuotaExceeded]}
        return [
            api.op("POST", "/suppressions", self.create, returns=Suppression, **making, **changing),
            api.op("GET", "/suppressions", self.list, **reading),
            api.op("DELETE", "/suppressions", self.delete_named, errors=[errors.NotFound], **changing),
            api.op(
                "POST",
                "/suppressions/import",
                self.import_,
                reads_body=True,
                consumes=NDJSON,
                max_body_bytes=MAX_IMPORT_BYTES,
                errors=[errors.QuotaExceeded],
                **changing,
            ),
            api.op("GET", "/suppressions/export", self.export, produces=NDJSON, **reading),
            api.op("GET", "/suppressions/{address}", self.get, **reading),
            api.op("DELETE", "/suppressions/{address}", self.delete, **changing),
        ]

    async def create(
        self,
        caller: Caller,
        body: NewSuppression,
        idempotency_key: str | None,
        fingerprint: bytes | None,
        origin: Origin,
    ) -> models.Answer:
        """Write to this address no more; what was said of it before is replaced."""
        wish = once.wish(CREATE, idempotency_key, fingerprint)
        listing = _wish(body)

        async def create(connection: db.Connection, keep: once.Keep) -> dict[str, Any]:
            await self._room.take(connection, caller.account_id)
            found = await suppressions.put(connection, caller.account_id, [listing])
            if not found:
                raise errors.invalid("expires_at", "is over already")
            answer = _shown(found[0]).model_dump(mode="json")
            await keep(answer)
            await audit.write(connection, caller.account_id, "suppression.created", origin, **answer)
            return answer

        answer, replayed = await self._creations.create(caller.account_id, wish, create)
        if not replayed:
            self._gateway.tell([caller.account_id])
        return once.answered(201, answer, replayed=replayed)

    async def list(self, caller: Caller, query: SuppressionsQuery) -> Page[Suppression]:
        """Addresses that are not written to, newest first."""
        async with self._gateway.database.connection() as connection:
            found = await suppressions.page(
                connection,
                caller.account_id,
                after=_cursors.decode(query.cursor) if query.cursor else None,
                reason=query.reason,
                address=_canonical(query.address) if query.address is not None else None,
                scope=query.scope,
                limit=query.limit + 1,
                ascending=query.order == "asc",
                listed=period.of(query),
            )
        return models.page(
            found, query.limit, _shown, lambda one: _cursors.encode((one.created_at, one.address, one.scope))
        )

    async def get(self, caller: Caller, address: str, query: ScopeQuery) -> Suppression:
        """One of them."""
        async with self._gateway.database.connection() as connection:
            found = await suppressions.get(connection, caller.account_id, _named(address), query.scope)
        if found is None:
            raise errors.NotFound
        return _shown(found)

    async def delete(self, caller: Caller, address: str, query: ScopeQuery, origin: Origin) -> None:
        """Write to it again. What was suppressed before is not sent, and what other scopes say of it stays."""
        about = {"address": _named(address), "scope": query.scope}
        async with self._gateway.database.transaction() as connection:
            if not await suppressions.delete(connection, caller.account_id, **about):
                raise errors.NotFound
            await audit.write(connection, caller.account_id, "suppression.deleted", origin, **about)
        self._gateway.tell([caller.account_id])

    async def delete_named(self, caller: Caller, query: AddressQuery, body: NamedAddress, origin: Origin) -> None:
        """The same for addresses that do not fit into a path, such as those with a slash."""
        address = query.address if query.address is not None else body.address
        if address is None:
            raise errors.MissingRequiredField(
                "address: required", errors=[errors.FieldError(field="address", message="required")]
            )
        scope = query.scope if query.scope is not None else body.scope
        await self.delete(caller, address, ScopeQuery(scope=scope or ""), origin)

    async def import_(self, caller: Caller, request: Request, origin: Origin) -> Imported | Response:
        """Add a whole list: up to 100,000 lines, each a JSON object as for one address, or CSV (`text/csv`).

        CSV has the columns address, reason, expires_at, scope, or those that its first line names. Lines that are wrong
        are told and left out. An import that breaks off has listed what came before; the same again changes nothing.

        With `Accept: application/x-ndjson` progress is told while the list still comes in: after each 500 lines that
        are stored `{"lines", "imported", "failed", "done": false}`, then the last line, which is the answer with
        `"done": true`, and with `"error"` (as other answers have errors) where it could not go on.
        """
        content_type = request.headers.get("content-type", "")
        read = _Csv().read if content_type.partition(";")[0].strip().lower() == "text/csv" else _json_line
        done = _Import(read)
        steps = self._import(caller.account_id, request, done, origin)
        if NDJSON in request.headers.get("accept", ""):
            await anext(steps, None)  # what is wrong with the beginning is answered as anywhere
            return _Progress(_told(steps, done, edge.exchange(request.scope).request_id))
        async for _ in steps:
            pass
        return done.answer()

    async def _import(self, account_id: UUID, request: Request, done: _Import, origin: Origin) -> AsyncIterator[None]:
        """One step is a slice that is stored."""
        async for lines in _slices(request):
            wishes = done.wishes(lines)
            if wishes:
                async with self._gateway.database.transaction() as connection:
                    await self._room.take(connection, account_id, len(wishes))
                    listed = await suppressions.put(connection, account_id, list(wishes.values()))
                    about = {"lines": [min(wishes), max(wishes)], "count": len(listed)}
                    await audit.write(connection, account_id, "suppression.imported", origin, **about)
                done.note(wishes, listed)
                self._gateway.tell([account_id])
            yield

    async def export(self, caller: Caller) -> Response:
        """The whole list by address, one JSON object a line; what changes meanwhile may be in it or not."""
        first = await self._behind(caller.account_id, ("", ""))
        return StreamingResponse(self._lines(caller.account_id, first), media_type=NDJSON)

    async def _lines(self, account_id: UUID, found: Sequence[suppressions.Suppression]) -> AsyncIterator[bytes]:
        while found:
            yield b"".join(_line(one) for one in found)
            if len(found) < SLICE:
                return
            found = await self._behind(account_id, (found[-1].address, found[-1].scope))

    async def _behind(self, account_id: UUID, after: tuple[str, str]) -> Sequence[suppressions.Suppression]:
        async with self._gateway.database.connection() as connection:
            return await suppressions.behind(connection, account_id, after, SLICE)


def _canonical(text: str) -> str:
    try:
        return address.parse(text).canonical
    except address.InvalidAddress as error:
        raise errors.invalid("address", str(error)) from None


def _named(text: str) -> str:
    """What a path names. What cannot be an address is as unknown as one that nobody has listed."""
    try:
        return address.parse(text).canonical
    except address.InvalidAddress:
        raise errors.NotFound from None


def _wish(body: NewSuppression) -> suppressions.Wish:
    return suppressions.Wish(
        address=_canonical(body.address), reason=body.reason, expires_at=body.expires_at, scope=body.scope
    )


def _shown(one: suppressions.Suppression) -> Suppression:
    return Suppression(
        address=one.address,
        reason=one.reason,
        expires_at=one.expires_at,
        created_at=one.created_at,
        scope=one.scope,
    )


def _line(one: suppressions.Suppression) -> bytes:
    expires_at = one.expires_at.astimezone(UTC) if one.expires_at else None
    shown = {"address": one.address, "scope": one.scope, "reason": one.reason, "expires_at": expires_at}
    return _encode(shown | {"created_at": one.created_at.astimezone(UTC)}) + b"\n"


# Lists that come in

_NEW: Final = TypeAdapter(NewSuppression)
Lines = Sequence[bytes]


class _Import:
    """How far an import has come."""

    def __init__(self, read: Callable[[bytes], NewSuppression | None]) -> None:
        self._read = read  # raises ValueError or ApiError; None = the line says nothing
        self._line = 0
        self._imported = 0
        self._failed = 0
        self._problems: list[BadLine] = []

    def wishes(self, lines: Lines) -> dict[int, suppressions.Wish]:
        """What a slice asks for, by number of line; of several lines about an address and scope the last one."""
        last: dict[tuple[str, str], tuple[int, suppressions.Wish]] = {}
        for raw in lines:
            self._line += 1
            if self._line > MAX_LINES:
                raise errors.PayloadTooLarge(f"More than {MAX_LINES:,} lines; those before are on the list.")
            wish = self._wish(raw)
            if wish is not None:
                about = (wish.address, wish.scope)
                self._imported += about in last
                last[about] = (self._line, wish)
        return dict(last.values())

    def _wish(self, raw: bytes) -> suppressions.Wish | None:
        if len(raw) > MAX_LINE_BYTES:
            self._fail(self._line, f"longer than {MAX_LINE_BYTES:,} bytes")
            return None
        try:
            body = self._read(raw)
            return _wish(body) if body is not None else None
        except errors.ApiError as error:
            self._fail(self._line, error.message)
        except ValueError as error:
            self._fail(self._line, str(error))
        return None

    def note(self, wishes: dict[int, suppressions.Wish], stored: Sequence[suppressions.Suppression]) -> None:
        """What the database made of a slice."""
        listed = {(one.address, one.scope) for one in stored}
        self._imported += len(listed)
        for line, wish in wishes.items():
            if (wish.address, wish.scope) not in listed:
                self._fail(line, "expires_at: is over already")

    def _fail(self, line: int, message: str) -> None:
        self._failed += 1
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(BadLine(line=line, message=message))

    def progress(self) -> dict[str, Any]:
        return {"lines": self._line, "imported": self._imported, "failed": self._failed, "done": False}

    def answer(self) -> Imported:
        problems = sorted(self._problems, key=lambda problem: problem.line)
        return Imported(imported=self._imported, failed=self._failed, errors=problems)


async def _told(steps: AsyncIterator[None], done: _Import, request_id: str) -> AsyncIterator[bytes]:
    """Lines of JSON: how far it is, after each step, and in the end what came of it."""
    stopped: dict[str, Any] = {}
    try:
        yield _encode(done.progress()) + b"\n"  # of the first step, which was awaited already
        async for _ in steps:
            yield _encode(done.progress()) + b"\n"
    except errors.ApiError as error:  # its status cannot be told any more
        stopped = {"error": error.body(request_id)}
    yield _encode(done.progress() | done.answer().model_dump() | {"done": True} | stopped) + b"\n"


class _Progress(Response):
    """Lines that are sent as they come, while the request is still being read."""

    media_type = NDJSON

    def __init__(self, lines: AsyncIterator[bytes]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._lines = lines

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for line in self._lines:
            await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _slices(request: Request) -> AsyncIterator[Lines]:
    """The body's lines without their ends, SLICE at a time; a line that is too long comes cut, but too long."""
    rest, waiting = b"", []
    async for chunk in request.stream():
        *whole, rest = (rest + chunk).split(b"\n")
        rest = rest[: MAX_LINE_BYTES + 1]
        waiting += [line.rstrip(b"\r") for line in whole]
        while len(waiting) >= SLICE:
            yield waiting[:SLICE]
            del waiting[:SLICE]
    if rest:
        waiting.append(rest.rstrip(b"\r"))
    if waiting:
        yield waiting


def _json_line(raw: bytes) -> NewSuppression | None:
    if not raw.strip():
        return None
    value = reading.document(raw)
    if isinstance(value, dict):
        value.pop("created_at", None)  # an export has it
    return _validated(value)


def _validated(value: Any) -> NewSuppression:
    try:
        return _NEW.validate_python(value)
    except ValidationError as error:
        raise reading.failed(error, value, whole="line") from None


class _Csv:
    """Reads lines of one CSV."""

    def __init__(self) -> None:
        self._columns: Sequence[str] | None = None  # None = no line was read yet

    def read(self, raw: bytes) -> NewSuppression | None:
        """Raises ValueError, ApiError; None for empty lines and for the names of columns."""
        cells = _cells(raw)
        if not any(cells):
            return None
        if self._columns is None:
            named = [cell.lower() for cell in cells]
            self._columns = named if "address" in named else COLUMNS
            if self._columns is named:
                return None
        if len(cells) > len(self._columns):
            raise ValueError(f"more than {len(self._columns)} columns")
        return _validated({name: cell for name, cell in zip(self._columns, cells, strict=False) if cell})


def _cells(raw: bytes) -> Sequence[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([raw.decode("utf-8-sig")], strict=True), [])]
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"not CSV: {error}") from error
