"""The shell: signing in and out, forms that are ours, what ends a session, what every page says of itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
import urllib.parse
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx2
import pytest
from playwright.async_api import Page, expect
from uuid_utils.compat import uuid7

from gateway import telemetry, tokens
from gateway.web.dashboard import layout, live, seals
from tests import databases, house
from tests.flows import letters
from tests.flows.test_keys import made_key
from tests.web.dashboard import browser

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("browser-shell")]

SEALS = seals.Seals(house.KEYRING)
FORM_TOKEN = re.compile(r'name="form_token" value="([^"]+)"')


def guest(home: house.House, key: str | None = None) -> httpx2.AsyncClient:
    """A browser without scripts; `key`: of who has signed in."""
    cookies = {}
    if key is not None:
        cookie = browser.session_cookie(key)
        cookies = {cookie["name"]: cookie["value"]}
    return httpx2.AsyncClient(base_url=home.url, cookies=cookies, timeout=30)


def token_in(page: httpx2.Response) -> str:
    found = FORM_TOKEN.search(page.text)
    assert found, page.text
    return found[1]


async def signed_in(visitor: httpx2.AsyncClient, key: str, **more: str) -> httpx2.Response:
    token = token_in(await visitor.get("/sign-in"))
    return await visitor.post("/sign-in", data={"form_token": token, "key": key, **more})


# Coming and going


async def test_a_key_signs_in_and_the_browser_is_not_given_it(shared_house: house.House, tenant: house.Tenant) -> None:
    async with guest(shared_house) as visitor:
        turned_away = await visitor.get("/")
        assert (turned_away.status_code, turned_away.headers["location"]) == (303, "/sign-in")
        answer = await signed_in(visitor, f" {tenant.key}\n", next="/mail?q=a")
        assert (answer.status_code, answer.headers["location"]) == (303, "/mail?q=a")
        cookie = answer.headers["set-cookie"]
        assert re.match(r"postroom-[0-9a-f]{8}-session=pr_ses_[\w-]+; ", cookie)
        assert {"HttpOnly", "SameSite=lax", "Path=/"} <= set(cookie.split("; "))
        assert tenant.key[7:] not in cookie
        assert (await visitor.get("/")).status_code == 200
        assert (await visitor.get("/sign-in")).status_code == 303
        left = await visitor.post("/sign-out", data={"form_token": token_in(await visitor.get("/"))})
        assert left.headers["location"] == "/sign-in"
        assert "You are signed out." in (await visitor.get("/sign-in")).text
        assert (await visitor.get("/")).status_code == 303


async def test_behind_tls_the_cookie_is_for_tls_alone(shared_house: house.House, tenant: house.Tenant) -> None:
    async with guest(shared_house) as visitor:
        page = await visitor.get("/sign-in", headers={"x-forwarded-proto": "https"})
    assert page.headers["set-cookie"].startswith("__Host-postroom-")
    assert "Secure" in page.headers["set-cookie"].split("; ")


async def test_what_does_not_sign_in_is_told_why_and_no_address_leads_elsewhere(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    box = await letters.mailbox(client)
    async with guest(shared_house) as visitor:
        for key, said in (
            ("", "not valid"),
            (tenant.key[:-1] + "!", "not valid"),
            (box["token"], "token of a mailbox"),
        ):
            answer = await signed_in(visitor, key)
            assert (answer.status_code, said in answer.text) == (401, True)
        for following in ("//evil.example/", "https://evil.example/", "/\\evil.example", "javascript:alert(1)", "/\tx"):
            answer = await signed_in(visitor, tenant.key, next=following)
            assert answer.headers["location"] == "/"
            visitor.cookies.clear()


async def test_a_link_signs_in_and_leaves_the_address_bar(shared_house: house.House, tenant: house.Tenant) -> None:
    other = await shared_house.tenant()
    async with guest(shared_house) as visitor:
        answer = await visitor.get(f"/sign-in/{SEALS.ticket(tenant.key)}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert (await visitor.get("/")).status_code == 200
        assert (await visitor.get(f"/sign-in/{SEALS.ticket(tenant.key)}")).status_code == 303
        asked = await visitor.get(f"/sign-in/{SEALS.ticket(other.key)}")  # somebody else's link is asked about first
        assert "another key" in asked.text
        data = {"form_token": token_in(asked)}
        assert (await visitor.post(f"/sign-in/{SEALS.ticket(other.key)}", data=data)).status_code == 303
        visitor.cookies.clear()
        for ticket, said in (
            (SEALS.ticket(tenant.key, seconds=-1), "has expired"),
            (SEALS.ticket(tenant.key)[:-3] + "AAA", "does not work"),
            (seals.Seals(tokens.Keyring(b"k" * 32)).ticket(tenant.key), "does not work"),
            (SEALS.ticket(house.KEYRING.api_key(other.account_id)), "not valid"),
        ):
            answer = await visitor.get(f"/sign-in/{ticket}")
            assert (answer.status_code, said in answer.text) == (401, True), said
        assert (await visitor.get("/")).status_code == 303


def test_neither_a_ticket_nor_a_session_is_an_api_key_or_stands_in_a_log() -> None:
    key = house.KEYRING.api_key(uuid7())
    for secret in (SEALS.ticket(key), browser.session_cookie(key)["value"]):
        assert tokens.kind_of(secret) is None
        assert secret[7:] not in telemetry.redact(f"GET /sign-in/{secret} HTTP/1.1")
    assert SEALS.read_session(SEALS.ticket(key)) is None  # each is sealed for its purpose
    with pytest.raises(tokens.Unreadable):
        SEALS.read_ticket(browser.session_cookie(key)["value"])
    assert SEALS.read_session(SEALS.session(seals.Session(nonce=b"n", key_hash=b"h", until=int(time.time())))) is None


# Forms


async def test_a_post_without_its_forms_token_changes_nothing(shared_house: house.House, tenant: house.Tenant) -> None:
    """Seen to fail with the look at the token taken out of `_read_form`: each of them was answered 303."""
    other = await shared_house.tenant()
    async with guest(shared_house, tenant.key) as visitor, guest(shared_house, other.key) as stranger:
        mine, theirs = token_in(await visitor.get("/")), token_in(await stranger.get("/"))
        for data, headers in (
            ({}, {}),
            ({"form_token": ""}, {}),
            ({"form_token": theirs}, {}),
            ({"form_token": mine}, {"sec-fetch-site": "cross-site"}),
            ({"form_token": mine}, {"sec-fetch-site": "same-site"}),
        ):
            refused = await visitor.post("/sign-out", data={"x": "y", **data}, headers=headers)
            assert (refused.status_code, "not of your present session" in refused.text) == (403, True)
        assert (await visitor.get("/")).status_code == 200, "still signed in"
        assert (await visitor.post("/sign-out", data={"form_token": mine})).status_code == 303


async def test_signing_in_is_a_form_of_ours_too(shared_house: house.House, tenant: house.Tenant) -> None:
    async with guest(shared_house) as visitor:
        assert (await visitor.post("/sign-in", data={"key": tenant.key})).status_code == 403
        assert (await visitor.get("/")).status_code == 303


# The end of a session


async def until_signed_out(visitor: httpx2.AsyncClient) -> None:
    async with asyncio.timeout(30):
        while (await visitor.get("/")).status_code == 200:
            pass  # for a second what was looked up is held to be true


async def test_a_session_and_its_stream_end_with_the_key(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    """Seen to fail with the key's look-up left out of `Shell.caller` (its caller kept from the sign-in): the page was
    there for as long as it was asked for."""
    made = await made_key(client, scopes=["read"])
    async with guest(shared_house, made["key"]) as visitor:
        assert (await visitor.get("/")).status_code == 200
        async with visitor.stream("GET", "/live") as stream, asyncio.timeout(60):
            assert stream.headers["content-type"].startswith("text/event-stream")
            lines = stream.aiter_lines()
            assert await anext(lines) == ": connected"
            assert (await client.delete(f"/api-keys/{made['id']}")).status_code == 204
            async for _ in lines:
                pass
        await until_signed_out(visitor)
        assert "not valid any more" in (await visitor.get("/sign-in")).text
        assert (await visitor.get("/live", headers={"accept": "text/event-stream"})).status_code == 401


async def test_a_session_has_a_bounded_number_of_streams(shared_house: house.House, tenant: house.Tenant) -> None:
    """Seen to fail with the look at the count taken out of `live._Counted`: the ninth stream was let in, too."""
    async with (
        guest(shared_house, tenant.key) as visitor,
        guest(shared_house, tenant.key) as other,
        contextlib.AsyncExitStack() as streams,
    ):
        first, lines = contextlib.AsyncExitStack(), []
        for number in range(live.MOST):
            stream = await (first if number == 0 else streams).enter_async_context(visitor.stream("GET", "/live"))
            lines.append(stream.aiter_lines())  # kept: where its lines are let go of, a stream is closed
            assert await anext(lines[-1]) == ": connected"
        async with visitor.stream("GET", "/live", headers={"x-quiet": "1"}) as refused:
            assert (refused.status_code, refused.headers.get("retry-after")) == (429, "10")
            assert "close some" in json.loads(await refused.aread())["said"]
        async with other.stream("GET", "/live") as stream:  # the same key in another browser
            assert stream.status_code == 200
        await first.aclose()
        async with asyncio.timeout(house.PATIENCE):
            while True:  # until the gateway has noticed that the page is closed
                async with visitor.stream("GET", "/live") as stream:
                    if stream.status_code == 200:
                        break


# A database that is away for a while


@contextlib.asynccontextmanager
async def away(postgres_dsn: str, home: house.House) -> AsyncIterator[None]:
    """Nobody gets to the house's database, who is in it is thrown out."""
    name = urllib.parse.urlsplit(home.dsn).path.removeprefix("/")
    connection = await asyncpg.connect(postgres_dsn)
    try:
        await connection.execute(f'alter database "{name}" allow_connections false')
        await connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", name)
        yield
    finally:
        await connection.execute(f'alter database "{name}" allow_connections true')
        await connection.close()


async def test_pages_look_again_by_themselves_when_the_database_was_away(
    visitor: browser.Visitor, postgres_dsn: str, redis_url: str
) -> None:
    """The one that said so, and the one that was open, whose list goes on being live.

    Seen to fail with the header `refresh` left out of `Shell.refusal`: it is asked for, and was not there."""
    async with databases.fresh(postgres_dsn) as dsn, house.standing(dsn, redis_url, programs=("serve",)) as home:
        tenant = await home.tenant()
        was_open = await visitor(tenant.key, base_url=home.url)
        opened = await was_open.context.new_page()
        await was_open.goto("/mail")
        await expect(was_open.locator("#pulse")).to_have_text("Live")
        async with away(postgres_dsn, home):
            async with asyncio.timeout(house.PATIENCE):
                while (answer := await opened.goto("/mail")) is not None and answer.status != 503:
                    pass  # for a second what was looked up is held to be true
            await expect(opened.get_by_text("This page looks again by itself")).to_be_visible()
            assert answer is not None
            assert answer.headers["refresh"] == answer.headers["retry-after"]
        await expect(opened.get_by_role("heading", name="Mail", exact=True)).to_be_visible()
        await expect(opened.locator("#pulse")).to_have_text("Live")
        async with home.client(tenant.key) as client:
            box = await letters.mailbox(client)
            await letters.hand_in(home, letters.letter("Back again"), box["address"])
        for page in (was_open, opened):
            await expect(page.locator(".mails .subject")).to_have_text("Back again")


# What every page says of itself


async def addresses(home: house.House, key: str) -> list[str]:
    """Of every page that the navigation leads to, the one for signing in, and one that is not there."""
    async with guest(home, key) as visitor:
        page = (await visitor.get("/")).text
    return [*(entry.path for entry in layout.NAVIGATION if f'<a href="{entry.path}"' in page), "/sign-in", "/nowhere"]


async def test_every_page_forbids_whatever_is_not_its_own(shared_house: house.House, tenant: house.Tenant) -> None:
    for path in await addresses(shared_house, tenant.key):
        async with guest(shared_house, None if path == "/sign-in" else tenant.key) as visitor:
            page = await visitor.get(path, headers={"accept": "text/html"})
        policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'", path
        assert policy["script-src"] == policy["style-src"] == "'self'", path
        assert policy["require-trusted-types-for"] == "'script'", path
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["referrer-policy"] == "no-referrer"
        assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=|javascript:", page.text), path
        assert not re.search(r'(?:src|href|action)="(?!/|#|\?)', page.text), path


async def test_files_are_kept_for_good_under_the_address_of_their_content(shared_house: house.House) -> None:
    async with guest(shared_house) as visitor:
        page = (await visitor.get("/sign-in")).text
        for url in re.findall(r'(?:src|href)="(/static/[^"]+)"', page):
            file = await visitor.get(url)
            assert (file.status_code, file.headers["cache-control"]) == (200, "public, max-age=31536000, immutable")
            again = await visitor.get(url, headers={"if-none-match": file.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            older = await visitor.get(re.sub(r"/static/\w+/", "/static/older/", url))
            assert (older.content, older.headers["cache-control"]) == (file.content, "no-cache")
        assert (await visitor.get("/static/x/../../dashboard/shell.py")).status_code == 404


# The desk


async def test_a_key_is_shown_what_it_may_see_and_its_limits_count(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    made = await made_key(client, scopes=["inbound"])
    async with guest(shared_house, made["key"]) as visitor:
        page = await visitor.get("/")
        assert page.status_code == 200
        live = await visitor.get("/live")
        assert (live.status_code, "needs the scope" in live.text) == (403, True)


# In a browser


async def test_signing_in_works_in_a_browser_which_then_is_live_until_the_key_ends(
    visitor: browser.Visitor, seen: browser.Seen, client: httpx2.AsyncClient, tenant: house.Tenant
) -> None:
    """While the first tab held its lock after the key's end, the third one never became live."""
    made = await made_key(client, scopes=["read"])
    page = await visitor(key=None)
    await page.goto("/")
    await page.get_by_label("API key").fill(made["key"])
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.locator("#pulse")).to_have_text("Live")
    second = await page.context.new_page()  # another tab shares the stream of the first
    seen.watch(second)
    await second.goto("/")
    await expect(second.locator("#pulse")).to_have_text("Live")
    assert sum("/live" in url and "/static/" not in url for url in seen.requests) == 1
    assert (await client.delete(f"/api-keys/{made['id']}")).status_code == 204
    for tab in (page, second):
        await expect(tab.locator("#pulse")).to_have_text("Signed out")
    cookie = browser.session_cookie(tenant.key)
    await page.context.add_cookies([{"name": cookie["name"], "value": cookie["value"], "url": seen.origin}])
    third = await page.context.new_page()  # in which somebody has signed in anew
    seen.watch(third)
    await third.goto("/")
    await expect(third.locator("#pulse")).to_have_text("Live")
    seen.check()


async def test_the_sheet_of_shortcuts_and_the_switch_of_colours_work(page: Page) -> None:
    await page.goto("/")
    await expect(page.locator("#pulse")).to_have_text("Live")
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Dark colours").click()
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    await page.reload()
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    background: Any = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(20, 22, 27)"
