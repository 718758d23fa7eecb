"""The routes of Mailpit's API, at /compat/mailpit and in dev at / too: who asks, what for, what is refused how.

A key or a mailbox's token comes as a bearer token, or as the password of HTTP Basic, whatever the user name. The token
sees its mailbox as if it were all of Mailpit. In dev nobody needs any: who names none is the account that mail for
unknown addresses belongs to. Pages of the web must not profit from that: requests for a name that could be anybody's
(DNS rebinding) and changes asked for by another site's page need a key there, too.

Refusals are text, as Mailpit's are, or `{"Error": …}` where Mailpit has that; what is wrong with a request is 400.
"""

from __future__ import annotations

import base64
import binascii
import email.utils
import ipaddress
import re
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

import gateway
from gateway import errors
from gateway.inbound import parsing
from gateway.lifecycle import Gateway
from gateway.mail import parse
from gateway.models import Caller
from gateway.storage import accounts, db, mails, messages
from gateway.web import access, api, edge, inbound_http, parts, reading
from gateway.web.mailpit import asking, sending, showing

PREFIX: Final = "/compat/mailpit"
MAX_LIMIT: Final = 1000  # messages of a page
MAX_IDS: Final = 10_000  # of one request
VERIFIED: Final = 500  # mails whose header is read for one search
MAX_BODY: Final = 1_048_576
MAX_HASHED: Final = 20  # attachments of a message that MD5 and SHA-1 are made of
MAX_TAGS: Final = 50
NO_QUERY: Final = "Error: no search query"
READERS: Final = frozenset(("mailboxes", "read"))
CHANGERS: Final = frozenset(("mailboxes",))
_TAG = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,100}")
_CID = re.compile(r"\bcid:([^\"'\s)>]{1,900})", re.IGNORECASE)
# What a stranger wrote, and the pictures that came along with it.
_PAGE: Final = parts.NO_LOADING.replace("img-src data:", "img-src 'self' data:")
# What browsers run, itself or as a script of a page of this origin: the dashboard's policy believes those.
_RUNS: Final = re.compile(r".*(?:html|xml|xsl|script|multipart/).*")
_ANY_HOST: Final = re.compile(r"[^.]+|.+\.(?:localhost|internal|local|test)")

_Handler = Callable[["Asker"], Awaitable[Response]]


class Refused(errors.ApiError):
    """Postroom does not offer this."""

    status, name = 501, "not_offered"


class ChaosIsOff(errors.ApiError):
    """Chaos is not enabled: /v1/mailboxes/{mailbox}/faults makes one mailbox fail on purpose."""

    status, name = 400, "not_offered"


@dataclass(frozen=True, kw_only=True, slots=True)
class Asker:
    """A request, and whose it is."""

    request: Request
    caller: Caller
    body: bytes

    @property
    def view(self) -> mails.View:
        return mails.View(account_id=self.caller.account_id, mailbox_id=self.caller.mailbox_id)

    @property
    def may_change(self) -> bool:
        return self.caller.mailbox_id is not None or self.caller.has_any(CHANGERS)

    def query(self, name: str) -> str:
        return self.request.query_params.get(name, "").strip()

    def number(self, name: str, default: int, most: int) -> int:
        """What is no number is the default, as for Mailpit."""
        text = self.query(name)
        return min(int(text), most) if text.isascii() and text.isdigit() and len(text) < 10 else default


@dataclass(frozen=True, kw_only=True, slots=True)
class _Operation:
    """One method of one path."""

    method: str
    path: str  # below the prefix
    handler: _Handler
    scopes: Collection[str]  # any of them suffices
    mailbox_token: bool = True  # a mailbox's token may call it
    max_body_bytes: int = MAX_BODY


class _Endpoint:
    """All methods of one path, as the ASGI application of its route."""

    def __init__(self, desk: Desk, template: str, operations: Sequence[_Operation]) -> None:
        self._desk = desk
        self._template = template
        self._operations = {operation.method: operation for operation in operations}
        if "GET" in self._operations:
            self._operations["HEAD"] = self._operations["GET"]  # RFC 9110 section 9.3.2

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        current = edge.exchange(scope)
        current.route = self._template
        try:
            operation = self._operations.get(scope["method"])
            if operation is None:
                raise errors.MethodNotAllowed
            response = await self._desk.answer(operation, Request(scope, receive), current)
        except errors.ApiError as error:
            response = _refusal(error, as_json=self._template.endswith("/send"))
        await response(scope, receive, send)


def _refusal(error: errors.ApiError, *, as_json: bool) -> Response:
    status = 400 if error.status == 422 else error.status
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
    if status == 401:
        headers["www-authenticate"] = 'Basic realm="Postroom", charset="UTF-8"'  # RFC 7617
    if status == 503:
        headers.setdefault("retry-after", "1")
    if as_json:
        content = msgspec.json.encode({"Error": error.message})
        return Response(content, status, headers, "application/json")
    return PlainTextResponse(error.message, status, headers)


class Desk:
    """Answers what Mailpit's clients ask."""

    def __init__(self, gateway: Gateway, known: access.Access, inbound: inbound_http.InboundHttp) -> None:
        self._gateway = gateway
        self._database = gateway.database
        self._access = known
        self._inbound = inbound
        self._began = time.monotonic()
        self._default: UUID | None = None  # account of those who name no key, in dev

    def routes(self) -> list[Route]:
        """At the prefix; in dev at the root, too, for helpers that know a host and a port alone."""
        prefixes = (PREFIX, "") if self._gateway.settings.postroom_dev else (PREFIX,)
        by_path: dict[str, list[_Operation]] = {}
        for operation in self._operations():
            by_path.setdefault(operation.path, []).append(operation)
        found = [
            Route(prefix + path, _Endpoint(self, prefix + path, operations))
            for prefix in prefixes
            for path, operations in by_path.items()
        ]
        probes = [Route(f"{prefix}/livez", _probe(f"{prefix}/livez", self._live)) for prefix in prefixes]
        return [*found, *probes, Route(f"{PREFIX}/readyz", _probe(f"{PREFIX}/readyz", self._ready))]

    def _operations(self) -> list[_Operation]:
        limit = api.send_body_limit(self._gateway.settings.max_message_bytes)
        reading_ = [
            ("/api/v1/messages", self.all_mail),
            ("/api/v1/search", self.search),
            ("/api/v1/message/{id}", self.message),
            ("/api/v1/message/{id}/headers", self.headers),
            ("/api/v1/message/{id}/raw", self.raw),
            ("/api/v1/message/{id}/part/{part}", self.part),
            ("/api/v1/message/{id}/part/{part}/thumb", self.not_offered),
            ("/api/v1/message/{id}/html-check", self.not_offered),
            ("/api/v1/message/{id}/link-check", self.not_offered),
            ("/api/v1/message/{id}/sa-check", self.not_offered),
            ("/api/v1/tags", self.tags),
            ("/api/v1/info", self.info),
            ("/api/v1/webui", self.webui),
            ("/api/v1/chaos", self.chaos),
            ("/view/{name}", self.view),
            ("//view/{name}", self.view),  # as cypress-mailpit asks for it; Mailpit leads it to the other
        ]
        changing = [
            ("PUT", "/api/v1/messages", self.set_read),
            ("DELETE", "/api/v1/messages", self.delete),
            ("DELETE", "/api/v1/search", self.delete_found),
            ("PUT", "/api/v1/tags", self.set_tags),
            ("PUT", "/api/v1/tags/{tag}", self.rename_tag),
            ("DELETE", "/api/v1/tags/{tag}", self.delete_tag),
            ("PUT", "/api/v1/chaos", self.chaos),
            ("POST", "/api/v1/message/{id}/release", self.not_offered),
        ]
        return [
            *(_Operation(method="GET", path=path, handler=handler, scopes=READERS) for path, handler in reading_),
            *(
                _Operation(method=method, path=path, handler=handler, scopes=CHANGERS)
                for method, path, handler in changing
            ),
            _Operation(
                method="POST",
                path="/api/v1/send",
                handler=self.send,
                scopes={"inbound"},
                mailbox_token=False,
                max_body_bytes=limit,
            ),
        ]

    # Who asks

    async def answer(self, operation: _Operation, request: Request, current: edge.Exchange) -> Response:
        """Raises ApiErrors."""
        caller = await self._caller(request)
        current.account_id = caller.account_id
        if caller.mailbox_id is not None and not operation.mailbox_token:
            raise errors.RestrictedApiKey("A mailbox's token cannot do this: use an API key.")
        if caller.mailbox_id is None and not caller.has_any(operation.scopes):
            needed = " or ".join(sorted({*operation.scopes, "admin"}))
            raise errors.RestrictedApiKey(f"The API key may not do this: it needs the scope {needed}.")
        body = b""
        if operation.method != "GET":
            body = await reading.body(request.scope, request.receive, operation.max_body_bytes)
        with structlog.contextvars.bound_contextvars(account_id=str(caller.account_id)):
            return await operation.handler(Asker(request=request, caller=caller, body=body))

    async def _caller(self, request: Request) -> Caller:
        token = _token(request)
        if token:
            if _is_basic(request) and not _is_own(request):
                raise errors.RestrictedApiKey("Another site's page may not use the password that a browser remembers.")
            caller = await self._access.admitted(token, request)
        else:
            caller = await self._nobody(request)
        self._access.count(caller, edge.exchange(request.scope))
        return caller

    async def _nobody(self, request: Request) -> Caller:
        """Who shows no key. Raises MissingApiKey outside dev, and where it could be a page of the web."""
        if not self._gateway.settings.postroom_dev or not _asks_here(request, self._gateway.settings.public_url):
            raise errors.MissingApiKey("Give an API key: as a bearer token, or as the password of HTTP Basic.")
        return Caller(account_id=await self._default_account(), scopes=frozenset(("mailboxes", "inbound")))

    async def _default_account(self) -> UUID:
        if self._default is None:
            async with self._database.connection() as connection:
                self._default = await accounts.first(connection)
        if self._default is None:
            raise errors.Unavailable("There is no account yet.")
        return self._default

    # Lists

    async def all_mail(self, asker: Asker) -> Response:
        """All mail, newest first."""
        return await self._listed(asker, asking.Asked())

    async def search(self, asker: Asker) -> Response:
        """The mail that a query finds, newest first."""
        return await self._listed(asker, self._asked(asker))

    def _asked(self, asker: Asker) -> asking.Asked:
        if not asker.query("query"):
            raise errors.ValidationFailed(NO_QUERY)
        return asking.read(asker.query("query"), asker.query("tz"))

    async def _listed(self, asker: Asker, asked: asking.Asked) -> Response:
        start, limit = asker.number("start", 0, mails.WINDOW), asker.number("limit", 50, MAX_LIMIT)
        async with self._database.transaction() as connection:
            found = await self._found(connection, asker.view, asked)
            shown = await mails.shown(connection, asker.view, [one.id for one in found[start : start + limit]])
            standing = await mails.standing(connection, asker.view)
            tags = await mails.tags(connection, asker.view)
        return _json(showing.page(standing, tags, shown, found, start))

    async def _found(self, connection: db.Connection, view: mails.View, asked: asking.Asked) -> Sequence[mails.Found]:
        found = await mails.matching(connection, view, asked.wanted)
        if not asked.header:
            return found
        candidates = await mails.shown(connection, view, [one.id for one in found[:VERIFIED]])
        named = {mail.id for mail in candidates if showing.names(mail, asked.header)}
        return [one for one in found if one.id in named]

    async def _ids(self, asker: Asker, query: str) -> list[UUID]:
        """All that a query finds."""
        asked = asking.read(query, asker.query("tz"))
        async with self._database.transaction() as connection:
            return [one.id for one in await self._found(connection, asker.view, asked)]

    # One message

    async def message(self, asker: Asker) -> Response:
        """The whole message; it is read now, unless the caller may change nothing."""
        mail, raw = await self._opened(asker)
        if asker.may_change:
            await self._mark(asker.view, [mail.id], seen=True)
        shown = await self._gateway.parsing.shown(raw)
        return _json(showing.message(mail, shown, await self._contents(raw, shown.parsed.attachments)))

    async def _contents(self, raw: bytes, attachments: Sequence[parse.Attachment]) -> dict[int, bytes]:
        """Of small mail with few attachments, so that nobody waits for checksums that hardly anybody looks at."""
        if len(raw) >= parsing.LARGE or len(attachments) > MAX_HASHED:
            return {}
        cuts = {one.index: await self._gateway.parsing.attachment(raw, one.index) for one in attachments}
        return {index: cut[1] for index, cut in cuts.items() if cut is not None}

    async def _opened(self, asker: Asker, name: str | None = None) -> tuple[mails.Mail, bytes]:
        """The mail that the path names. Raises NotFound."""
        name = name if name is not None else asker.request.path_params["id"]
        id = await self._newest(asker) if name == "latest" else _uuid(name)
        async with self._database.connection() as connection:
            ids = await mails.named(connection, asker.view, [id]) if id is not None else []
            found = await mails.shown(connection, asker.view, ids[:1])
            opened = None
            if found:
                copy = found[0].copy
                opened = await messages.get(connection, asker.view.account_id, copy.id, asker.view.mailbox_id)
        if opened is None:
            raise errors.NotFound("message not found")
        return found[0], opened[1]

    async def _newest(self, asker: Asker) -> UUID | None:
        if query := asker.query("query"):
            return next(iter(await self._ids(asker, query)), None)
        async with self._database.connection() as connection:
            return await mails.newest(connection, asker.view)

    async def headers(self, asker: Asker) -> Response:
        """Every header field."""
        _, raw = await self._opened(asker)
        return _json(showing.headers(raw))

    async def raw(self, asker: Asker) -> Response:
        """What came over the wire, byte for byte."""
        mail, raw = await self._opened(asker)
        if asker.query("dl") == "1":
            return parts.download(raw, "message/rfc822", f"{mail.id}.eml")
        return Response(raw, media_type="text/plain", headers={"content-security-policy": parts.NO_SCRIPTS})

    async def part(self, asker: Asker) -> Response:
        """An attachment as what its sender says it is, unless a browser would run that."""
        _, raw = await self._opened(asker)
        number = asker.request.path_params["part"]
        if not (number.isascii() and number.isdigit() and len(number) < 6 and int(number)):
            raise errors.NotFound("attachment not found")
        try:
            cut = await self._gateway.parsing.attachment(raw, int(number) - 1)
        except IndexError:
            raise errors.NotFound("attachment not found") from None
        if cut is None:
            raise errors.Unavailable("The attachment cannot be cut out now; /raw has all of it.", retry_after=2)
        found, content = cut
        if _RUNS.fullmatch(found.content_type.lower()) or not found.content_type.isascii():
            return parts.download(content, parts.OPAQUE, found.filename or f"part-{number}")
        response = parts.download(content, found.content_type, found.filename or f"part-{number}")
        response.headers["content-disposition"] = response.headers["content-disposition"].replace(
            "attachment;", "inline;", 1
        )
        return response

    async def view(self, asker: Asker) -> Response:
        """`<id>.html` as it was sent, its own pictures shown, or `<id>.txt`."""
        name, _, kind = asker.request.path_params["name"].rpartition(".")
        if kind not in {"html", "txt"}:
            raise errors.NotFound("404 page not found")
        mail, raw = await self._opened(asker, name)
        body = await (self._gateway.parsing.html(raw) if kind == "html" else self._gateway.parsing.text(raw))
        if kind == "txt":
            return PlainTextResponse(body or b"")
        if body is None:
            raise errors.NotFound("This message does not contain a HTML part")
        parsed = await self._gateway.parsing.front(raw)
        return Response(
            _with_pictures(body.decode("utf-8", "replace"), mail.id, parsed.attachments),
            media_type="text/html",
            headers={"content-security-policy": _PAGE},
        )

    # Changes

    async def set_read(self, asker: Asker) -> Response:
        """Read or unread: some by their ids, those that a search finds, or all."""
        given = _given(asker)
        ids, query = _named(given), str(given.get("search") or "").strip()
        if ids and query:
            raise errors.ValidationFailed("You may specify either IDs or a search query, not both")
        wanted = await self._ids(asker, query) if query else await self._of_ids(asker, ids) if ids else None
        await self._mark(asker.view, wanted, seen=str(given.get("read", "")).lower() == "true")
        return _ok()

    async def delete(self, asker: Asker) -> Response:
        """Some by their ids; without ids all."""
        ids = _named(_given(asker))
        await self._delete(asker.view, await self._of_ids(asker, ids) if ids else None)
        return _ok()

    async def delete_found(self, asker: Asker) -> Response:
        """All that a search finds."""
        if not asker.query("query"):
            raise errors.ValidationFailed(NO_QUERY)
        await self._delete(asker.view, await self._ids(asker, asker.query("query")))
        return _ok()

    async def _of_ids(self, asker: Asker, ids: Sequence[str]) -> list[UUID]:
        known = [found for found in map(_uuid, ids) if found is not None]
        async with self._database.connection() as connection:
            return await mails.named(connection, asker.view, known)

    async def _mark(self, view: mails.View, ids: Sequence[UUID] | None, *, seen: bool) -> None:
        async for piece in mails.slices(self._database, view, ids):
            await self._change(view, {copy.id: {"seen": seen} for copy in piece if copy.seen != seen})

    async def _change(self, view: mails.View, changes: Mapping[UUID, dict[str, Any]]) -> None:
        """What is gone meanwhile needs no change."""
        if not changes:
            return
        async with self._database.transaction() as connection:
            for id, change in sorted(changes.items()):
                if await messages.summary(connection, view.account_id, id, view.mailbox_id) is not None:
                    await messages.change(connection, view.account_id, id, changes=change, mailbox_id=view.mailbox_id)
        self._gateway.tell([view.account_id])

    async def _delete(self, view: mails.View, ids: Sequence[UUID] | None) -> None:
        async for piece in mails.slices(self._database, view, ids):
            async with self._database.transaction() as connection:
                await messages.delete(connection, view.account_id, [copy.id for copy in piece])
            self._gateway.tell([view.account_id])

    # Tags

    async def tags(self, asker: Asker) -> Response:
        """Every tag."""
        async with self._database.connection() as connection:
            return _json(list(await mails.tags(connection, asker.view)))

    async def set_tags(self, asker: Asker) -> Response:
        """These tags instead of those that the messages have."""
        given = _given(asker)
        tags = _tags(given.get("tags"))
        ids = await self._of_ids(asker, _named(given))
        async for piece in mails.slices(self._database, asker.view, ids):
            await self._change(asker.view, {copy.id: {"labels": tags} for copy in piece})
        return _ok()

    async def rename_tag(self, asker: Asker) -> Response:
        """Another name for a tag, wherever it is."""
        return await self._retag(asker, _tags([_given(asker).get("name")])[0])

    async def delete_tag(self, asker: Asker) -> Response:
        """Take a tag off every message."""
        return await self._retag(asker, None)

    async def _retag(self, asker: Asker, new: str | None) -> Response:
        [tag] = _tags([asker.request.path_params["tag"]])
        wanted = mails.Wanted(with_tags=(tag.lower(),))
        async with self._database.transaction() as connection:
            ids = [one.id for one in await mails.matching(connection, asker.view, wanted)]
        async for piece in mails.slices(self._database, asker.view, ids):
            changes = {copy.id: {"labels": _renamed(copy.labels, tag, new)} for copy in piece}
            await self._change(asker.view, changes)
        return _ok()

    # Everything else

    async def send(self, asker: Asker) -> Response:
        """Put a message into the mailboxes of those it is for; its id."""
        message = sending.read(asker.body)
        tags = _tags(message.tags)
        rcpt_to = sending.recipients(message)
        clock = self._database.clock
        raw = sending.written(message, clock.uuid7(), clock.now())
        id = await self._inbound.hand_in(asker.caller, raw, message.from_.email, rcpt_to)
        if tags:
            async for piece in mails.slices(self._database, asker.view, [id]):
                await self._change(asker.view, {copy.id: {"labels": tags} for copy in piece})
        return _json({"ID": str(id)})

    async def info(self, asker: Asker) -> Response:
        """The account's mail, in the shape of Mailpit's instance. What concerns the whole server is 0."""
        async with self._database.connection() as connection:
            standing = await mails.standing(connection, asker.view)
            tags = await mails.tags(connection, asker.view)
        version = f"postroom {gateway.__version__}"
        body = {
            "Version": version,
            "LatestVersion": version,
            "Database": "postgresql",
            "DatabaseSize": 0,
            "Messages": standing.total,
            "Unread": standing.unread,
            "Tags": tags,
            "RuntimeStats": {
                "Uptime": int(time.monotonic() - self._began),
                "Memory": 0,
                "MessagesDeleted": 0,
                "SMTPAccepted": 0,
                "SMTPAcceptedSize": 0,
                "SMTPRejected": 0,
                "SMTPIgnored": 0,
            },
        }
        return _json(body)

    async def webui(self, asker: Asker) -> Response:
        """What is switched on: nothing of what is not offered."""
        relay = {
            "Enabled": False,
            "SMTPServer": "",
            "ReturnPath": "",
            "AllowedRecipients": "",
            "BlockedRecipients": "",
            "OverrideFrom": "",
            "PreserveMessageIDs": False,
        }
        body = {
            "Label": "Postroom",
            "MessageRelay": relay,
            "SpamAssassin": False,
            "ChaosEnabled": False,
            "DuplicatesIgnored": False,
            "HideDeleteAllButton": False,
        }
        return _json(body)

    async def chaos(self, asker: Asker) -> Response:
        raise ChaosIsOff

    async def not_offered(self, asker: Asker) -> Response:
        """Rather than an answer that a check could pass by."""
        raise Refused

    async def _live(self, request: Request) -> Response:
        """The Date is for clients that ask for the time here."""
        now = email.utils.format_datetime(self._database.clock.now(), usegmt=True)
        return PlainTextResponse("ok", headers={"date": now})

    async def _ready(self, request: Request) -> Response:
        problems = await self._gateway.problems()
        return PlainTextResponse("; ".join(problems) or "ok", 503 if problems else 200)


def _probe(path: str, handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        edge.exchange(request.scope).route = path
        return await handler(request)

    return answer


# Reading a request


def _token(request: Request) -> str:
    """Of Bearer, or the password of Basic, or its user name where there is no password. Empty = none is given."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        user, _, password = base64.b64decode(given.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise errors.InvalidApiKey from None
    return password or user


def _asks_here(request: Request, public_url: str) -> bool:
    """Whether the name that is asked for can be this host's alone; and what changes is asked for by no other site."""
    host = _hostname(f"//{request.headers.get('host', '')}")
    if not (_is_address(host) or _ANY_HOST.fullmatch(host) or host == _hostname(public_url)):
        return False
    return _is_own(request)


def _is_basic(request: Request) -> bool:
    return request.headers.get("authorization", "").lower().startswith("basic ")


def _is_own(request: Request) -> bool:
    """Whether nothing is to be changed, or no other site's page asks for it."""
    if request.method in {"GET", "HEAD"}:
        return True
    origin = request.headers.get("origin")
    return origin is None or urllib.parse.urlsplit(origin).netloc == request.headers.get("host")


def _hostname(url: str) -> str:
    try:
        return (urllib.parse.urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _given(asker: Asker) -> dict[str, Any]:
    """The body's members, their names in lower case: JSON, or the form that some clients send instead."""
    if not asker.body.strip():
        return {}
    if asker.request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return _of_form(asker.body)
    value = reading.document(asker.body)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise errors.ValidationFailed("The body must be an object.")
    return {name.lower(): member for name, member in value.items()}


def _of_form(body: bytes) -> dict[str, Any]:
    try:
        pairs = urllib.parse.parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_IDS)
    except (UnicodeDecodeError, ValueError):
        raise errors.ValidationFailed("The form cannot be read.") from None
    given: dict[str, Any] = {name.lower(): value for name, value in pairs}
    for name in ("ids", "tags"):
        if name in given:
            given[name] = [value for key, value in pairs if key.lower() == name]
    return given


def _named(given: Mapping[str, Any]) -> list[str]:
    ids = given.get("ids") or []
    if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
        raise errors.invalid("IDs", "must be a list of ids")
    if len(ids) > MAX_IDS:
        raise errors.invalid("IDs", f"at most {MAX_IDS:,}")
    return ids


def _tags(given: Any) -> list[str]:
    tags = given or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) and _TAG.fullmatch(tag.strip()) for tag in tags):
        raise errors.invalid("Tags", "must be a list of words of at most 100 characters")
    if len(tags) > MAX_TAGS:
        raise errors.invalid("Tags", f"at most {MAX_TAGS}")
    return list(dict.fromkeys(tag.strip() for tag in tags))


def _renamed(labels: Sequence[str], tag: str, new: str | None) -> list[str]:
    renamed = (new if label.lower() == tag.lower() else label for label in labels)
    return list(dict.fromkeys(label for label in renamed if label is not None))


def _uuid(text: str) -> UUID | None:
    try:
        return reading.path_id(text)
    except errors.NotFound:
        return None


def _with_pictures(html: str, id: UUID, attachments: Sequence[parse.Attachment]) -> str:
    """`cid:` of the message's own parts, turned into where those are, seen from /view/."""
    places = {one.content_id: one.index + 1 for one in attachments if one.content_id}

    def place(match: re.Match[str]) -> str:
        number = places.get(urllib.parse.unquote(match[1]))
        return match[0] if number is None else f"../api/v1/message/{id}/part/{number}"

    return _CID.sub(place, html)


def _json(body: Any) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")


def _ok() -> Response:
    return PlainTextResponse("ok")
