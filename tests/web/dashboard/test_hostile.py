"""What strangers write runs nowhere in the dashboard and loads nothing: vectors in every place that a mail, a label, a
mailbox or an event has, looked at in a real Chromium, with a server that must hear nothing.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email.header import Header
from typing import Any

import httpx2
import pytest
from playwright.async_api import Page, expect

from tests import house, talking
from tests.flows import letters
from tests.web.dashboard import browser, vectors

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("browser-hostile")]

MESSAGES = 4  # that the vectors are spread over, each with its share in headers, names, files and text
PIXEL = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")


# All at once, in frames that are no sandboxes themselves: what is in them must be harmless alone.
_FRAMES = """(addresses) => Promise.all(addresses.map((address) => new Promise((done) => {
  const frame = document.createElement("iframe");
  frame.onload = () => done(1);
  frame.src = address;
  document.body.append(frame);
}))).then((all) => new Promise((done) => setTimeout(done, 300, all.length)))"""


@dataclass(kw_only=True)
class Canary:
    """A server that writes down what it is asked for."""

    url: str
    heard: list[str] = field(default_factory=list)
    called: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.heard.append(head)
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: image/gif\r\ncontent-length: %d\r\n\r\n" % len(PIXEL) + PIXEL
            )
            await writer.drain()
        self.called.set()


@pytest.fixture
async def canary() -> AsyncIterator[Canary]:
    found = Canary(url="")
    async with talking.serving(found.answer) as port:
        found.url = f"http://127.0.0.1:{port}"
        yield found


def encoded(text: str) -> str:
    """As an encoded word (RFC 2047), which readers decode."""
    return Header(vectors.in_a_header(text), "utf-8", maxlinelen=70).encode(linesep="\r\n")


def hostile_mail(share: list[str], html: str, address: str) -> bytes:
    """`share` in the subject, in names, in header fields, in files, their names and the text; `html` as it is."""
    boundary = "b0undary"
    names = ", ".join(f"{encoded(vector)} <to{number}@x.example>" for number, vector in enumerate(share))
    quoted = vectors.in_a_header(share[0]).encode("ascii", "ignore").decode().replace("\\", "").replace('"', "'")
    head = [
        f"From: {encoded(share[0])} <a@b.example>",
        f"To: <{address}>, {names}",
        f'Cc: {encoded(share[-1])} <"{quoted}"@x.example>',
        f"Subject: {encoded(share[1 % len(share)])}",
        f"Message-ID: <{quoted.replace('>', '').replace('<', '')}@x>",
        *(f"X-Vector-{number}: {vectors.in_a_header(vector)}" for number, vector in enumerate(share)),
        f'Content-Type: multipart/mixed; boundary="{boundary}"',
        "MIME-Version: 1.0",
    ]
    texts = [("text/plain", "\n".join(share)), ("text/html", html)]
    bodies = "".join(
        f"--{boundary}\r\nContent-Type: {kind}; charset=utf-8\r\n"
        f"Content-Transfer-Encoding: base64\r\n\r\n{_base64(text)}"
        for kind, text in texts
    )
    files = "".join(
        f"--{boundary}\r\nContent-Type: {'text/html' if number % 2 else 'image/svg+xml'}\r\n"
        f"Content-Disposition: attachment; filename*=utf-8''{_percent(vector)}\r\n"
        f"Content-ID: <{number}-{_percent(vector)[:60]}>\r\nContent-Transfer-Encoding: base64\r\n\r\n{_base64(vector)}"
        for number, vector in enumerate(share)
    )
    return ("\r\n".join(head) + "\r\n\r\n" + bodies + files + f"--{boundary}--\r\n").encode("utf-8", "replace")


def _base64(text: str) -> str:
    return base64.encodebytes(text.encode("utf-8", "replace")).decode().replace("\n", "\r\n")


def _percent(text: str) -> str:
    return "".join(f"%{octet:02X}" for octet in text.encode("utf-8", "replace"))


async def planted(home: house.House, client: httpx2.AsyncClient, canary: Canary) -> list[dict[str, Any]]:
    """Every vector everywhere; the messages."""
    hostile = vectors.all_of(canary.url)
    metadata = {vector[:60]: vector for vector in hostile[:30]}
    box = await letters.mailbox(client, metadata=metadata)
    shares = [hostile[start::MESSAGES] for start in range(MESSAGES)]
    async with letters.session(home) as peer:
        for share in shares:
            raw = hostile_mail(share, "<hr>".join(share), box["address"])
            assert (await letters.give(peer, raw, box["address"]))[-1].startswith("250")
        for vector in hostile:  # each alone as HTML, so that none hides behind what another one leaves open
            raw = hostile_mail([vector], f"<p>before</p>{vector}<p>after</p>", box["address"])
            assert (await letters.give(peer, raw, box["address"]))[-1].startswith("250")
    found = await letters.every(client, "/messages")
    assert len(found) == len(hostile) + MESSAGES
    for mail, share in zip(found[-MESSAGES:], reversed(shares), strict=True):
        labels = [label for label in map(vectors.in_a_header, share) if label][:50]
        assert (
            await client.patch(f"/messages/{mail['id']}", json={"labels": [x[:100] for x in labels]})
        ).status_code == 200
    return found


async def look(page: Page, path: str) -> None:
    await page.goto(path)
    assert await page.evaluate("window.hacked === undefined"), path
    assert (await page.title()).endswith("Postroom"), path


async def test_nothing_runs_and_nothing_is_loaded_from_anywhere(
    page: Page, seen: browser.Seen, shared_house: house.House, client: httpx2.AsyncClient, canary: Canary
) -> None:
    """On lists, on every view of the messages, in frames and alone.

    Seen to fail, with four of the vectors: templates that do not escape, and HTML handed on as it came, each while all
    policies stood (violations in the console, pictures asked of the canary's address); HTML as it came without the
    frame's policy and sandbox (dialogs came, and the canary heard of nine things).
    """
    found = await planted(shared_house, client, canary)
    box = found[0]["mailbox_id"]
    shared, alone = found[-MESSAGES:], found[:-MESSAGES]
    for path in ("/", "/mail", f"/mailboxes/{box}", "/mailboxes", "/events"):
        await look(page, path)
        await expect(page.locator("#pulse")).to_have_text("Live")
    for mail in shared:
        for view in ("html", "text", "parts", "headers"):
            await look(page, f"/mail/{mail['id']}?view={view}")
        await page.frame_locator(".frame").locator("hr").count()
    for view in ("source", "delivery"):
        await look(page, f"/mail/{shared[0]['id']}?view={view}")
    await look(page, f"/mail/{shared[0]['id']}/reply")
    for mail in shared:
        await page.goto(f"/mail/{mail['id']}/html")
    await look(page, "/mail")
    loaded = await page.evaluate(_FRAMES, [f"/mail/{mail['id']}/html" for mail in alone])
    assert loaded == len(alone)
    await look(page, f"/mail?q={httpx2.QueryParams(q=vectors.all_of('x')[0])['q']}")
    assert canary.heard == []
    assert {url.split("/")[2] for url in seen.requests if url.startswith("http")} == {seen.origin.split("/")[2]}
    seen.check()


async def test_labels_and_names_that_are_hostile_pass_through_the_forms_too(
    page: Page, shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    box = await letters.mailbox(client)
    await letters.hand_in(shared_house, letters.letter("Plain"), box["address"])
    [mail] = await letters.listed(client, "/messages")
    await page.goto(f"/mail/{mail['id']}")
    await page.get_by_label("Label").fill('"><img src=x onerror=alert(1)>')
    await page.get_by_role("button", name="Add").click()
    await expect(page.locator(".labels .chip")).to_contain_text('"><img src=x onerror=alert(1)>')
    await page.locator(".labels .chip").click()
    await expect(page.locator(".labels .chip")).to_have_count(0)
    await page.goto("/mailboxes")
    await page.get_by_text("Make a mailbox").click()
    await page.get_by_label("Address", exact=True).fill("<script>alert(1)</script>")
    await page.get_by_role("button", name="Make it").click()
    await expect(page.get_by_role("alert")).to_be_visible()
    assert json.loads((await client.get("/mailboxes")).text)["data"][0]["id"] == box["id"]


async def test_pictures_of_elsewhere_are_loaded_when_they_are_asked_for_and_not_before(
    visitor: browser.Visitor, shared_house: house.House, client: httpx2.AsyncClient, canary: Canary
) -> None:
    """And by then their server is told neither who reads, nor where: no referrer, no cookie."""
    box = await letters.mailbox(client)
    html = f"<p>Hello</p><img src='{canary.url}/pixel.gif?who=me' width=50 height=50 alt=there><script>1</script>"
    raw = letters.letter("Look", html, Content_Type="text/html; charset=utf-8")
    await letters.hand_in(shared_house, raw, box["address"])
    [mail] = await letters.listed(client, "/messages")
    page = await visitor()
    await page.goto(f"/mail/{mail['id']}")
    await expect(page.frame_locator(".frame").get_by_text("Hello")).to_be_visible()
    await expect(page.locator(".remote")).to_contain_text("not loaded")
    assert canary.heard == []
    await page.get_by_role("link", name="Show pictures").click()
    async with asyncio.timeout(30):
        await canary.called.wait()
    [head] = canary.heard
    assert head.startswith("GET /pixel.gif?who=me HTTP/1.1\r\n")
    assert "referer" not in head.lower()
    assert "cookie" not in head.lower()
    await expect(page.locator(".remote")).to_contain_text("are shown")
    await page.goto(f"/mail/{mail['id']}")  # asked for once, it is not for ever
    await expect(page.locator(".remote")).to_contain_text("not loaded")
    assert len(canary.heard) == 1


async def test_the_frame_of_a_message_is_a_sandbox_that_only_we_may_show(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    box = await letters.mailbox(client)
    raw = letters.letter("Look", "<p onclick=alert(1)>Hello</p>", Content_Type="text/html")
    await letters.hand_in(shared_house, raw, box["address"])
    [mail] = await letters.listed(client, "/messages")
    cookie = browser.session_cookie(tenant.key)
    async with httpx2.AsyncClient(base_url=shared_house.url, cookies={cookie["name"]: cookie["value"]}) as visitor:
        frame = await visitor.get(f"/mail/{mail['id']}/html")
        assert frame.text == "<p>Hello</p>\r\n" or "onclick" not in frame.text
        policy = frame.headers["content-security-policy"]
        assert policy.startswith("sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; ")
        assert "frame-ancestors 'self'" in policy
        assert "http:" not in policy
        assert "allow-scripts" not in policy + (await visitor.get(f"/mail/{mail['id']}")).text
        assert "allow-same-origin" not in policy + (await visitor.get(f"/mail/{mail['id']}")).text
