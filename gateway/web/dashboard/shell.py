"""What all pages stand in: who is signed in, forms that are ours, templates, headers, and pages that say what is wrong.

A door is a path with a handler behind it. Before a handler runs, the session's key has been looked up anew, and a POST
has brought the token of its form along.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway import errors, models
from gateway.inbound import forms
from gateway.settings import Settings
from gateway.web import access, api, edge, reading
from gateway.web.dashboard import desk as desks
from gateway.web.dashboard import layout, seals

log = structlog.get_logger(__name__)

SIGN_IN: Final = "/sign-in"
MAX_FORM: Final = api.MEBIBYTE
POLICY: Final = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "frame-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "postroom",
}
HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), clipboard-write=(self)",
    "x-robots-tag": "noindex",
}
SAID: Final = "said"
LOOK_AGAIN_SECONDS: Final = 5
THEMES: Final = ("light", "dark")
CHANGING: Final = ("POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_TITLES: Final = {
    403: "Your key may not do this",
    404: "There is no such thing",
    409: "That cannot be done now",
    410: "That is over",
    422: "That is not valid",
    429: "Too many requests",
    503: "Not now, sorry",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Door:
    """One method of one path."""

    method: Literal["GET", "POST"]
    path: str  # as Starlette writes it: "/mail/{id}"
    handler: Callable[[Any], Awaitable[Response]]  # takes a Visit
    is_open: bool = False  # to people who are not signed in
    max_body_bytes: int = MAX_FORM


def get(path: str, handler: Callable[[Any], Awaitable[Response]], *, is_open: bool = False) -> Door:
    return Door(method="GET", path=path, handler=handler, is_open=is_open)


def post(
    path: str,
    handler: Callable[[Any], Awaitable[Response]],
    *,
    is_open: bool = False,
    max_body_bytes: int = MAX_FORM,
) -> Door:
    return Door(method="POST", path=path, handler=handler, is_open=is_open, max_body_bytes=max_body_bytes)


class SignedOut(Exception):
    """Nobody is signed in, or not any more."""

    def __init__(self, why: str = "") -> None:
        self.why = why  # for a person; empty = nobody was
        super().__init__(why)


class Form:
    """What a form brought along. White space around a field is not meant."""

    def __init__(self, parts: Sequence[forms.Part] = ()) -> None:
        self.parts = parts

    def __getitem__(self, name: str) -> str:
        """The first field of that name; empty where there is none."""
        return next((part.text.strip() for part in self.parts if part.name == name and part.filename is None), "")

    def __contains__(self, name: object) -> bool:
        return any(part.name == name for part in self.parts)

    def all(self, name: str) -> list[str]:
        """Each field of that name that is not empty."""
        return [part.text.strip() for part in self.parts if part.name == name and part.text.strip()]

    def files(self, name: str) -> list[forms.Part]:
        return [part for part in self.parts if part.name == name and part.filename]


class Visit:
    """One request of one browser: what a handler is given."""

    def __init__(self, shell: Shell, request: Request, session: seals.Session, caller: models.Caller | None) -> None:
        self.shell = shell
        self.request = request
        self.session = session
        self.form = Form()  # of a POST
        self._caller = caller

    @property
    def is_signed_in(self) -> bool:
        return self._caller is not None

    @property
    def caller(self) -> models.Caller:
        assert self._caller is not None  # noqa: S101 - doors that are open to strangers do not ask
        return self._caller

    @property
    def desk(self) -> desks.Desk:
        return desks.Desk(self.shell.operations, self.caller, self.request.scope)

    @property
    def settings(self) -> Settings:
        return self.shell.settings

    @property
    def form_token(self) -> str:
        """What a POST must bring along."""
        return self.shell.seals.form_token(self.session)

    @property
    def is_quiet(self) -> bool:
        """A script asks, and will show what is said."""
        return self.request.headers.get("x-quiet") == "1"

    @property
    def theme(self) -> str:
        """ "light", "dark", or empty: as the system has it."""
        found = self.request.cookies.get("postroom-theme", "")
        return found if found in THEMES else ""

    @property
    def base(self) -> str:
        """Where the browser reached this gateway: "http://127.0.0.1:8025"."""
        if self.settings.public_url:
            return self.settings.public_url
        return f"{'https' if self.shell.is_secure(self.request) else 'http'}://{self.request.headers.get('host', '')}"

    @property
    def beginning(self) -> dict[str, Any]:
        """Addresses and ports to paste, for who has no mail yet."""
        settings = self.settings
        return {
            "address": f"hello@{settings.first_domain}",
            "host": self.request.url.hostname or "127.0.0.1",
            "port": settings.smtp_port or 25,
            "has_smtp": settings.smtp_port is not None,
            "api": f"{self.base}/v1",
        }

    def may(self, *scopes: str) -> bool:
        """Whether the key has one of these scopes."""
        return self._caller is not None and self._caller.has_any(scopes)

    def has_page(self, path: str) -> bool:
        """Whether the navigation leads there."""
        return self.shell.leads_to(path)

    def word(self, name: str) -> str:
        """What stands in the path."""
        return str(self.request.path_params[name])

    def query(self, name: str) -> str | None:
        """A field of the query string; None where it is missing or empty."""
        return self.request.query_params.get(name) or None

    def with_query(self, **changes: Any) -> str:
        """This page's address with other fields; None takes one away."""
        asked = {name: value for name, value in self.request.query_params.items() if name != "fragment"} | changes
        pairs = [(name, value) for name, value in asked.items() if value not in (None, "")]
        return self.request.url.path + ("?" + urllib.parse.urlencode(pairs) if pairs else "")

    def show(self, template: str, /, *, status: int = 200, **context: Any) -> Response:
        """A page; of one that a script asks for by `X-Fragment`, that block alone."""
        return self.shell.page(self, template, status, context)

    def go(
        self, path: str, *, said: str = "", refused: desks.Refused | None = None, status: int | None = None
    ) -> Response:
        """Elsewhere (303), where `said`, or why it was refused, is told once."""
        text, kind = (explained(refused), "bad") if refused is not None else (said, "good")
        if self.is_quiet:
            told = {"go": path, "said": text, "kind": kind}
            code = refused.status if refused is not None else status or 200
            return Response(json.dumps(told), code, dict(HEADERS), "application/json")
        response = RedirectResponse(path, 303, headers=dict(HEADERS))
        if text:
            sealed = self.shell.seals.said(seals.Said(text=fitting(text), kind=kind))
            self.shell.set_cookie(self.request, response, SAID, sealed, seals.SAID_SECONDS)
        return response


def explained(refused: desks.Refused) -> str:
    """Why the API said no, for a person."""
    if refused.name == "rate_limit_exceeded" and refused.retry_after:
        return f"{refused.message} Try again in {refused.retry_after} s."
    return refused.message


class Shell:
    """Everything around the pages."""

    def __init__(
        self, settings: Settings, operations: desks.Operations, access: access.Access, sealing: seals.Seals
    ) -> None:
        self.settings = settings
        self.operations = operations
        self.access = access
        self.seals = sealing
        self.assets = layout.Assets()
        self._templates = layout.templates(self.assets)
        self._navigation: list[layout.Entry] = []

    def routes(self, doors: Sequence[Door]) -> list[Route]:
        """One route a path, and the files."""
        paths: dict[str, dict[str, Door]] = {}
        for door in doors:
            assert door.method not in paths.setdefault(door.path, {}), f"{door.path} has two doors"  # noqa: S101 - ours
            paths[door.path][door.method] = door
        self._navigation = layout.navigation([path for path, found in paths.items() if "GET" in found])
        ordered = sorted(paths, key=lambda path: [segment.startswith("{") for segment in path.split("/")])
        return [
            Route("/static/{version}/{name:path}", self._file, methods=["GET"]),
            *(Route(path, _Entrance(self, path, paths[path])) for path in ordered),
            Route(f"{self.operations.prefix}/{{path:path}}", self._nothing_there, methods=CHANGING),
            Route("/{path:path}", self._nothing_there, methods=["GET"]),
        ]

    def leads_to(self, path: str) -> bool:
        return any(entry.path == path for entry in self._navigation)

    # Who

    def session(self, request: Request) -> seals.Session | None:
        """The browser's; None = it has none that holds."""
        return self.seals.read_session(request.cookies.get(self.cookie(request, "session"), ""))

    async def caller(self, session: seals.Session) -> models.Caller:
        """Who signed in, as the key is now. Raises SignedOut, RestrictedApiKey."""
        if not session.key_hash:
            raise SignedOut
        try:
            return await self.access.holding(session.key_hash)
        except errors.InvalidApiKey:
            raise SignedOut("The key that you were signed in with is not valid any more.") from None

    def is_secure(self, request: Request) -> bool:
        """Whether the browser speaks TLS, to us or to whoever stands before us."""
        said = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip()
        public = urllib.parse.urlsplit(self.settings.public_url)
        is_public = public.scheme == "https" and public.netloc == request.headers.get("host")
        return "https" in (request.url.scheme, said) or is_public

    def cookie(self, request: Request, name: str) -> str:
        """Its name for this gateway (RFC 6265bis 4.1.3.2 for the prefix)."""
        return f"{'__Host-' if self.is_secure(request) else ''}postroom-{self.seals.instance}-{name}"

    def set_cookie(self, request: Request, response: Response, name: str, value: str, seconds: int) -> None:
        secure = self.is_secure(request)
        response.set_cookie(
            self.cookie(request, name), value, max_age=seconds, httponly=True, samesite="lax", secure=secure
        )

    def keep(self, request: Request, response: Response, session: seals.Session) -> Response:
        self.set_cookie(request, response, "session", self.seals.session(session), seals.SESSION_SECONDS)
        return response

    # Pages

    def page(self, visit: Visit, template: str, status: int, context: Mapping[str, Any]) -> Response:
        found = self._templates.get_template(template)
        told = {"visit": visit, "navigation": self._navigation, "said": None, "here": visit.request.url.path, **context}
        fragment = visit.request.headers.get("x-fragment", "")
        if fragment in found.blocks and status < 400:
            text = "".join(found.blocks[fragment](found.new_context(told)))
            return Response(text, status, dict(HEADERS), "text/html")
        told["said"] = self._said(visit)
        response = Response(found.render(told), status, dict(HEADERS), "text/html")
        if told["said"] is not None:
            self.set_cookie(visit.request, response, SAID, "", 0)
        return response

    def _said(self, visit: Visit) -> seals.Said | None:
        text = visit.request.cookies.get(self.cookie(visit.request, SAID))
        return self.seals.read_said(text) if text else None

    def refusal(self, visit: Visit, refused: desks.Refused) -> Response:
        """A page that says what the API said."""
        if visit.is_quiet:
            response = visit.go(visit.request.url.path, refused=refused)
        else:
            title = _TITLES.get(refused.status, "Something went wrong")
            response = visit.show(
                "refused.html",
                status=refused.status,
                title=title,
                refused=refused,
                explained=explained(refused),
                looks_again=looks_again(visit, refused),
            )
        if refused.retry_after:
            response.headers["retry-after"] = refused.retry_after
        if looks_again(visit, refused):
            response.headers["refresh"] = refused.retry_after or str(LOOK_AGAIN_SECONDS)
        return response

    async def _nothing_there(self, request: Request) -> Response:
        """For people a page, for programs what the API answers."""
        is_program = request.url.path.startswith(self.operations.prefix + "/")
        if is_program or "text/html" not in request.headers.get("accept", ""):
            raise errors.NotFound
        visit = Visit(self, request, self.session(request) or seals.stranger(), None)
        with contextlib.suppress(SignedOut, errors.ApiError):
            visit = Visit(self, request, visit.session, await self.caller(visit.session))
        return self.refusal(visit, _as_refused(errors.NotFound(), request.scope))

    async def _file(self, request: Request) -> Response:
        """With its own version in its address it never changes; with another one, it is what it is now."""
        edge.exchange(request.scope).route = "/static"
        file = self.assets.find(request.path_params["name"])
        if file is None:
            raise errors.NotFound
        known = request.path_params["version"] == self.assets.version
        headers = {
            "etag": file.etag,
            "cache-control": "public, max-age=31536000, immutable" if known else "no-cache",
            "cross-origin-resource-policy": "same-origin",
        }
        if file.etag in request.headers.get("if-none-match", ""):  # RFC 9110 13.1.2
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers=headers, media_type=file.media_type)


class _Entrance:
    """All methods of one path, as the ASGI application of its route."""

    def __init__(self, shell: Shell, path: str, doors: Mapping[str, Door]) -> None:
        self._shell = shell
        self._path = path
        self._doors = {**doors, **({"HEAD": doors["GET"]} if "GET" in doors else {})}
        self._allow = ", ".join(sorted(self._doors)).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        current = edge.exchange(scope)
        current.route = self._path
        door = self._doors.get(scope["method"])
        if door is None:
            current.headers.append((b"allow", self._allow))  # RFC 9110 section 15.5.6
            raise errors.MethodNotAllowed
        request = Request(scope, receive)
        visit = Visit(self._shell, request, self._shell.session(request) or seals.stranger(), None)
        try:
            visit = await self._admitted(visit, door)
            if door.method == "POST":
                await self._read_form(visit, door)
            response = await door.handler(visit)
            await response(scope, receive, send)
        except SignedOut as signed_out:
            await self._turned_away(visit, signed_out)(scope, receive, send)
        except desks.Refused as refused:
            await self._shell.refusal(visit, refused)(scope, receive, send)
        except errors.ApiError as error:
            if current.status:
                raise  # the answer has begun
            await self._shell.refusal(visit, _as_refused(error, scope))(scope, receive, send)
        except (ClientDisconnect, asyncio.CancelledError):
            raise
        except Exception:  # a bug of a page is a page that says so, as the edge does for the API
            if current.status:
                raise  # as above
            log.exception("a page failed", route=self._path)
            await self._shell.refusal(visit, _as_refused(errors.InternalError(), scope))(scope, receive, send)

    async def _admitted(self, visit: Visit, door: Door) -> Visit:
        try:
            caller = await self._shell.caller(visit.session)
        except (SignedOut, errors.RestrictedApiKey, errors.Unavailable):
            if door.is_open:
                return visit
            raise
        edge.exchange(visit.request.scope).account_id = caller.account_id
        return Visit(self._shell, visit.request, visit.session, caller)

    async def _read_form(self, visit: Visit, door: Door) -> None:
        """Raises SignedOut, RestrictedApiKey: the POST is none of a form of ours."""
        request = visit.request
        raw = await reading.body(request.scope, request.receive, door.max_body_bytes)
        try:
            visit.form = Form(forms.read(request.headers.get("content-type", ""), raw))
        except forms.NotAForm as error:
            raise errors.invalid("form", str(error)) from None
        given = request.headers.get("x-form-token") or visit.form["form_token"]
        is_strange = request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
        if is_strange or not self._shell.seals.is_form_token(visit.session, given):
            raise errors.RestrictedApiKey(
                "This form is not of your present session. Go back, reload the page, and try again."
            )

    def _turned_away(self, visit: Visit, signed_out: SignedOut) -> Response:
        request = visit.request
        if (
            visit.is_quiet
            or "x-fragment" in request.headers
            or "text/event-stream" in request.headers.get("accept", "")
        ):
            told = {"go": SIGN_IN, "said": signed_out.why or "Nobody is signed in.", "kind": "bad"}
            return Response(json.dumps(told), 401, dict(HEADERS), "application/json")
        here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        back = "?" + urllib.parse.urlencode({"next": here}) if request.method == "GET" and here != "/" else ""
        response = visit.go(SIGN_IN + back)
        if signed_out.why:
            said = seals.Said(text=signed_out.why, kind="bad")
            self._shell.set_cookie(request, response, SAID, self._shell.seals.said(said), seals.SAID_SECONDS)
        return response


def looks_again(visit: Visit, refused: desks.Refused) -> bool:
    """Whether the page that says so is fetched again by itself: what is away comes back. A form is not sent again."""
    return refused.status == errors.Unavailable.status and visit.request.method == "GET"


def fitting(text: str) -> str:
    """As much as a cookie holds once it is sealed (RFC 6265 6.1), in whatever letters."""
    return text.encode("utf-8", "replace")[:1500].decode(errors="ignore")


def _as_refused(error: errors.ApiError, scope: Scope) -> desks.Refused:
    status, headers, body = edge.rendered(error, scope)
    return desks.Refused(desks.Answer(status=status, headers=tuple(headers), content=body))


def confirm(
    visit: Visit,
    *,
    title: str,
    about: str,
    consequence: str,
    action: str,
    back: str,
    scope: str = "admin",
    is_danger: bool = True,
    with_once: bool = False,
    target: str | None = None,
) -> Response:
    """The page that asks before something is done: what is done (`title`, `action`), to what (`about`), and what comes
    of it. Its form is posted to `target` (None = this address) by whose key has the scope; `with_once`: to make
    something, once. `back`: where one goes who leaves it as it is."""
    return visit.show(
        "confirm.html",
        title=title,
        about=about,
        consequence=consequence,
        action=action,
        back=back,
        scope=scope,
        is_danger=is_danger,
        with_once=with_once,
        action_url=target or visit.request.url.path,
    )


def local(path: str | None) -> str:
    """An address of ours to go on to; the first page where it is none (no open redirect)."""
    found = path or "/"
    is_ours = found.startswith("/") and not found.startswith(("//", "/\\")) and found.isprintable()
    return found if is_ours else "/"
