"""The page that links to unsubscribe lead to: what browsers may do there, and while the database is away."""

from __future__ import annotations

import base64
import hashlib
from html.parser import HTMLParser

import httpx2
import pytest
from uuid_utils.compat import uuid7

from gateway import lifecycle, settings
from gateway.outbound import unsubscribe
from gateway.web import edge
from gateway.web.unsubscribe import Unsubscribe
from tests.house import SECRET_KEY
from tests.web.serving import client_of

pytestmark = pytest.mark.anyio

OFFER = unsubscribe.Offer(
    account_id=uuid7(), email_id=uuid7(), sender="shop.example", topic="news", address="ann@recipient.example"
)
FORM = {"List-Unsubscribe": "One-Click"}


async def _asked(method: str, token: str | None = None, **options: object) -> httpx2.Response:
    """The answer of a process whose database is away."""
    gateway = lifecycle.Gateway(settings.load(database_url="postgresql://127.0.0.1:1/none", secret_key=SECRET_KEY))
    await gateway.database.open()
    try:
        async with client_of(edge.application(Unsubscribe(gateway).routes()), key=None) as client:
            return await client.request(method, f"/u/{token or gateway.links.token(OFFER)}", **options)  # type: ignore[arg-type] # httpx's
    finally:
        await gateway.database.close()


class _Outline(HTMLParser):
    """Elements in their order, and the text of the style sheet."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.style = ""
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "input"}:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.style += data if self._open[-1:] == ["style"] else ""


async def test_the_page_works_without_scripts_and_may_do_nothing_but_post_to_itself() -> None:
    page = await _asked("GET")
    outline = _Outline(page.text)
    names = [name for name, _ in outline.elements]
    assert [names.count(name) for name in ("title", "main", "h1", "form", "button", "script", "img", "link")] == [
        *(1, 1, 1, 1, 1),
        *(0, 0, 0),
    ]
    elements = dict(outline.elements)
    assert (elements["html"], elements["form"], elements["button"]) == (
        {"lang": "en"},
        {"method": "post"},
        {"type": "submit"},
    )
    digest = base64.b64encode(hashlib.sha256(outline.style.encode()).digest()).decode()
    assert page.headers["content-security-policy"].split("; ") == [
        "default-src 'none'",
        f"style-src 'sha256-{digest}'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]


async def test_while_the_database_is_away_nobody_hears_that_they_are_unsubscribed() -> None:
    answer = await _asked("POST", data=FORM)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
    assert "try again" in answer.text


async def test_links_of_nobodys_are_told_from_others_without_the_database() -> None:
    pages = [await _asked(method, "nonsense") for method in ("GET", "POST")]
    assert [(page.status_code, page.headers["content-type"]) for page in pages] == [
        (404, "text/html; charset=utf-8")
    ] * 2
    assert pages[0].content == pages[1].content
    assert "nonsense" not in pages[0].text
