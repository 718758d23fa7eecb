"""/u/{token}: where a List-Unsubscribe leads; for mail programs one post (RFC 8058), for people a page with a button.

    GET                                       a page; nothing changes, however many scanners of links come by
    POST  List-Unsubscribe=One-Click          unsubscribes; "Unsubscribed" in plain text
    POST  the same, from the page's button    unsubscribes; a page that can take it back
    POST  from that page's button             subscribes again
    any of them, with a token of nobody's     404, always the same page

No cookies, no key, no redirect, no script. The token is the only permission, and stands in no log.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gateway import errors, tokens
from gateway.inbound import forms
from gateway.lifecycle import Gateway
from gateway.outbound import unsubscribe
from gateway.web import edge, reading

log = structlog.get_logger(__name__)

PATH: Final = f"{unsubscribe.PATH}{{token}}"
MAX_BYTES: Final = 4096  # of a form
BUTTON: Final = ("from", "page")  # what the page's form says besides
AGAIN: Final = ("subscribe", "again")  # what the button that takes it back says
RETRY_SECONDS: Final = 60

_STYLE: Final = """
:root { color-scheme: light dark; font: 1.125rem/1.5 system-ui, sans-serif; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; }
main { max-width: 28rem; padding: 2rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 1rem; }
button { font: inherit; margin-top: .5rem; padding: .6rem 1.4rem; border: 2px solid; border-radius: .4rem;
  background: none; color: inherit; cursor: pointer; }
button:focus-visible { outline: 3px solid; outline-offset: 3px; }
"""
_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{content}
</main>
</body>
</html>
"""
_HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": "; ".join(
        (
            "default-src 'none'",
            f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "referrer-policy": "no-referrer",  # the token stands in the address
    "cache-control": "no-store",
    "x-robots-tag": "noindex",
}


class Unsubscribe:
    """The page."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def routes(self) -> Sequence[Route]:
        return [Route(PATH, self.answer, methods=["GET", "POST"])]

    async def answer(self, request: Request) -> Response:
        edge.exchange(request.scope).route = PATH
        try:
            offer = self._gateway.links.read(request.path_params["token"])
        except tokens.Unreadable:
            return _unknown()
        if request.method != "POST":
            return _asked(offer)
        body = await reading.body(request.scope, request.receive, MAX_BYTES)
        said = _said(request.headers.get("content-type", ""), body)
        try:
            return await self._done(offer, said)
        except errors.Unavailable:
            return _unavailable()

    async def _done(self, offer: unsubscribe.Offer, said: set[tuple[str, str]]) -> Response:
        database = self._gateway.database
        if AGAIN in said:
            self._tell(offer, "resubscribed", await unsubscribe.come_back(database, offer))
            return _back(offer)
        if unsubscribe.ONE_CLICK not in said:
            return _asked(offer, 400)
        self._tell(offer, "unsubscribed", await unsubscribe.leave(database, offer))
        return _left(offer) if BUTTON in said else PlainTextResponse("Unsubscribed\n", headers=_HEADERS)

    def _tell(self, offer: unsubscribe.Offer, what: str, changed: bool) -> None:
        if changed:
            log.info(what, account_id=str(offer.account_id), email_id=str(offer.email_id))
            self._gateway.tell([offer.account_id])


def _said(content_type: str, body: bytes) -> set[tuple[str, str]]:
    """The fields of a form (RFC 8058 3.2: either kind); none where it is no form."""
    try:
        return {(part.name, part.text) for part in forms.read(content_type, body)}
    except forms.NotAForm:
        return set()


# Pages


def _asked(offer: unsubscribe.Offer, status: int = 200) -> Response:
    content = f"<p>{_whom(offer)} will get no more mail {_what(offer)}.</p>\n"
    return _page("Unsubscribe?", content + _form("Unsubscribe", unsubscribe.ONE_CLICK, BUTTON), status)


def _left(offer: unsubscribe.Offer) -> Response:
    content = f"<p>{_whom(offer)} gets no more mail {_what(offer)}.</p>\n<p>By mistake?</p>\n"
    return _page("You are unsubscribed", content + _form("Subscribe again", AGAIN))


def _back(offer: unsubscribe.Offer) -> Response:
    content = f"<p>{_whom(offer)} gets mail {_what(offer)} again.</p>\n"
    return _page("You are subscribed again", content + _form("Unsubscribe", unsubscribe.ONE_CLICK, BUTTON))


def _unknown() -> Response:
    content = "<p>It may have lost its end on the way. Please open it from the e-mail once more.</p>"
    return _page("This link does not work", content, 404)


def _unavailable() -> Response:
    content = "<p>Please try again in a few minutes.</p>"
    response = _page("Not now, sorry", content, 503)
    response.headers["retry-after"] = str(RETRY_SECONDS)
    return response


def _page(title: str, content: str, status: int = 200) -> Response:
    """`content` is HTML; whatever a stranger chose in it is escaped."""
    text = _PAGE.format(title=html.escape(title), style=_STYLE, content=content)
    return Response(text, status_code=status, media_type="text/html", headers=dict(_HEADERS))


def _form(label: str, *fields: tuple[str, str]) -> str:
    """A button, which posts to the page's own address."""
    hidden = "".join(f'<input type="hidden" name="{name}" value="{value}">\n' for name, value in fields)
    return f'<form method="post">\n{hidden}<button type="submit">{html.escape(label)}</button>\n</form>'


def _what(offer: unsubscribe.Offer) -> str:
    sender = f"<strong>{html.escape(offer.sender)}</strong>"
    return f"about <strong>{html.escape(offer.topic)}</strong> from {sender}" if offer.topic else f"from {sender}"


def _whom(offer: unsubscribe.Offer) -> str:
    """Enough for its owner to know it; links are passed on, and looked at by scanners."""
    local, _, domain = offer.address.rpartition("@")
    return f"<strong>{html.escape(local[:1])}…@{html.escape(domain)}</strong>"
