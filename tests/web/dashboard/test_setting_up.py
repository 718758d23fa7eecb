"""Webhooks, domains, keys, suppressions and templates, set up by people: by keyboard, and by nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx2
import pytest
from playwright.async_api import Error, Page, expect

from tests import house, talking
from tests.flows.test_keys import made_key
from tests.web.dashboard import axe, browser
from tests.web.dashboard.test_shell import guest, token_in

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("browser-setting-up")]

HACK: Final = "window.hacked=1;alert(1)"
VECTORS: Final = (
    f"<script>{HACK}</script>",
    f"\"'><img src=x onerror={HACK}>",
    f"</title></textarea></pre><svg onload={HACK}>",
    "{{ 7*7 }}${7*7}<%= 7*7 %>",
)
HOSTILE: Final = "".join(VECTORS[:3])


@contextlib.asynccontextmanager
async def answering(body: str, status: str = "200 OK") -> AsyncIterator[str]:
    """A receiver of webhooks that answers this; its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = re.search(r"content-length: (\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            content = body.encode()
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode())
            writer.write(content)
            await writer.drain()

    async with talking.serving(serve) as port:
        yield f"http://127.0.0.1:{port}"


async def press(page: Page, *keys: str) -> None:
    for key in keys:
        await page.keyboard.press(key)


async def by_key(page: Page, first: str, title: str) -> None:
    """To a page of the navigation, until its scripts have started, too."""
    await expect(page.locator("#pulse")).to_have_text("Live")
    await press(page, "g", first)
    await expect(page.get_by_role("heading", name=title, level=1)).to_be_visible()
    await expect(page.locator("#pulse")).to_have_text("Live")


async def chosen(page: Page, name: str, *, role: Any = "button") -> None:
    """Something is pressed by keyboard, as who tabs to it does."""
    target = page.get_by_role(role, name=name, exact=True)
    await target.focus()
    await press(page, "Enter")


async def unhurt(page: Page, seen: browser.Seen) -> None:
    """Nothing ran, in the page or in a frame of it, whose policy says so of each attempt."""
    blocked = ('"img-src data:"', "Blocked script execution")
    seen.errors[:] = [error for error in seen.errors if not any(one in error for one in blocked)]
    for frame in page.frames:
        assert await frame.evaluate("window.hacked") is None


async def test_a_webhook_is_made_tried_and_given_up_by_keyboard(
    page: Page, client: httpx2.AsyncClient, seen: browser.Seen
) -> None:
    """Its secret is shown once, and stands in no address; what its receiver answers runs nowhere."""
    async with answering(HOSTILE) as url:
        await page.goto("/")
        await by_key(page, "w", "Webhooks")
        await expect(page.get_by_role("heading", name="No webhooks yet")).to_be_visible()
        await press(page, "c")
        await expect(page.get_by_label("URL")).to_be_focused()
        await page.keyboard.type(f"{url}/hook?a='\"><img/src=x>")
        await press(page, "Enter")
        await expect(page.get_by_role("heading", name="The webhook's secret")).to_be_visible()
        secret = await page.get_by_label("Signing secret").inner_text()
        assert secret.startswith("whsec_")
        await page.reload()  # the same form once more makes no other one, and shows the same
        await expect(page.get_by_label("Signing secret")).to_have_text(secret)
        await chosen(page, "I have it", role="link")
        await expect(page.get_by_role("heading", name=url)).to_be_visible()
        assert secret not in await page.content()
        assert len((await client.get("/webhooks")).json()["data"]) == 1
        await expect(page.locator("#pulse")).to_have_text("Live")
        await press(page, "t")
        delivery = page.locator("#deliveries > ol > li")
        await expect(delivery.locator(".badge").first).to_have_text("delivered")
        await delivery.locator("summary").click()
        await expect(delivery.locator("pre")).to_have_text(HOSTILE)
        await delivery.get_by_role("button").press("Enter")
        await expect(page.locator("#toasts")).to_contain_text("It is told again.")
        await expect(delivery.locator("summary")).to_contain_text("2 attempts")
        await chosen(page, "New secret", role="link")
        await chosen(page, "Make a new secret")
        rotated = await page.get_by_label("Signing secret").inner_text()
        assert rotated.startswith("whsec_")
        assert rotated != secret
        await chosen(page, "I have it", role="link")
        await expect(page.locator("#state")).to_contain_text("signs, too")
        await chosen(page, "Disable")
        await expect(page.locator("#state .badge")).to_have_text("disabled")
        await chosen(page, "Enable")
        await expect(page.locator("#state .badge")).to_have_text("active")
        await press(page, "e")
        await page.get_by_label("Everything, also what is new in later versions").uncheck()
        await page.get_by_label("message.received").check()
        await chosen(page, "Save")
        await expect(page.locator("#state .chip")).to_have_text("message.received")
        await chosen(page, "Delete", role="link")
        await chosen(page, "Delete the webhook")
        await expect(page.get_by_text("The webhook is deleted.")).to_be_visible()
        assert (await client.get("/webhooks")).json()["data"] == []
        assert not any(one in url for url in seen.requests for one in (secret, rotated, secret[6:], rotated[6:]))
        await unhurt(page, seen)


async def test_what_a_webhook_was_told_is_seen_as_it_happens_and_a_receiver_that_is_gone_disables_it(
    page: Page, client: httpx2.AsyncClient
) -> None:
    async with answering("", "410 Gone") as url:
        made = (await client.post("/webhooks", json={"url": url, "types": ["message.received"]})).json()
        await page.goto(f"/webhooks/{made['id']}?status=dead")
        await expect(page.locator("#pulse")).to_have_text("Live")
        await expect(page.get_by_text("No delivery is in this state.")).to_be_visible()
        assert (await client.post(f"/webhooks/{made['id']}/test")).status_code == 202
        await expect(page.locator("#state .badge")).to_have_text("disabled")
        await expect(page.locator("#deliveries > ol > li")).to_contain_text("410")


async def test_a_key_is_made_named_and_revoked_by_keyboard(
    page: Page, client: httpx2.AsyncClient, shared_house: house.House, seen: browser.Seen
) -> None:
    await page.goto("/")
    await by_key(page, "k", "Keys")
    await expect(page.locator("tr", has_text="you, now")).to_have_count(1)
    await press(page, "c")
    await page.get_by_label("What it is for").focus()
    await page.keyboard.type(VECTORS[0])
    await page.get_by_label("send send e-mails").check()
    await page.get_by_label("It ends").select_option("30")
    await page.get_by_label("Only for these domains").focus()
    await page.keyboard.type("postroom.test")
    await press(page, "Enter")
    secret = await page.get_by_label("API key", exact=True).inner_text()
    async with shared_house.client(secret) as made:
        assert (await made.get("/messages")).status_code == 200
    await chosen(page, "I have it", role="link")
    await expect(page.locator("#pulse")).to_have_text("Live")
    row = page.locator("tr", has_text=VECTORS[0])
    await expect(row).to_contain_text("postroom.test")
    assert secret not in await page.content()
    await row.locator("summary").press("Enter")
    await row.get_by_role("textbox").fill("Renamed")
    await press(page, "Enter")
    await page.locator("tr", has_text="Renamed").get_by_role("link").press("Enter")
    await chosen(page, "Revoke the key")
    await expect(page.get_by_text("The key is revoked.")).to_be_visible()
    await expect(page.locator("tbody tr")).to_have_count(1)
    assert not any(secret in url or secret[7:] in url for url in seen.requests)
    await page.locator("tr", has_text="you, now").get_by_role("link").press("Enter")
    await expect(page.get_by_text("you will be signed out")).to_be_visible()
    await chosen(page, "Revoke the key")
    async with asyncio.timeout(30):
        while "/sign-in" not in page.url:
            with contextlib.suppress(Error):  # the page goes there by itself meanwhile
                await page.goto("/keys")  # for a second what was looked up is held to be true
    await unhurt(page, seen)


async def test_a_domain_is_claimed_looked_at_and_given_up_by_keyboard(
    page: Page, client: httpx2.AsyncClient, tenant: house.Tenant
) -> None:
    name = f"{tenant.account_id.hex}.example"
    await page.goto("/")
    await by_key(page, "d", "Domains")
    await expect(page.get_by_role("heading", name="No domains yet")).to_be_visible()
    await press(page, "c")
    await page.keyboard.type(HOSTILE)
    await press(page, "Enter")
    await expect(page.get_by_role("alert")).to_be_visible()
    await expect(page.get_by_label("Domain", exact=True)).to_have_value(HOSTILE)
    await page.get_by_label("Domain", exact=True).fill(name)
    await press(page, "Enter")
    await expect(page.get_by_role("heading", name=name)).to_be_visible()
    records = (await client.get(f"/domains/{name}")).json()["records"]
    await expect(page.locator(".records li")).to_have_count(len(records))
    for record in records:
        assert await page.locator(f"button[data-copy='{record['value']}']").count() >= 1
    await expect(page.locator("#pulse")).to_have_text("Live")
    await press(page, "v")
    await expect(page.locator("#toasts .toast")).to_contain_text(re.compile("DNS|records"))
    await page.get_by_label("Mail for an address that nobody has is").select_option("reject")
    await chosen(page, "Save")
    await expect(page.get_by_text("Changed.")).to_be_visible()
    assert (await client.get(f"/domains/{name}")).json()["unknown_recipients"] == "reject"
    await chosen(page, "New DKIM keys", role="link")
    await chosen(page, "Leave it as it is", role="link")
    await chosen(page, "Give up", role="link")
    await chosen(page, "Give the domain up")
    await expect(page.get_by_text("The domain is given up.")).to_be_visible()
    assert (await client.get(f"/domains/{name}")).status_code == 404


async def test_an_address_is_suppressed_looked_for_and_written_to_again_by_keyboard(
    page: Page, client: httpx2.AsyncClient
) -> None:
    await page.goto("/")
    await by_key(page, "x", "Suppressions")
    await page.get_by_label("Address", exact=True).focus()
    await page.keyboard.type("o'brien/x@postroom.test")
    await press(page, "Enter")
    await expect(page.locator("#suppressions tbody tr")).to_have_count(1)
    assert (await client.post("/suppressions", json={"address": "late@postroom.test"})).status_code == 201
    await expect(page.locator("#suppressions tbody tr")).to_have_count(2)  # as it happens
    listed = b"address,reason\nq@postroom.test,bounce\n<script>,bounce\n"
    await page.get_by_label("CSV, or a JSON object a line").set_input_files(
        {"name": "l.csv", "mimeType": "text/csv", "buffer": listed}
    )
    await chosen(page, "Import")
    await expect(page.get_by_role("heading", name="1 address on the list")).to_be_visible()
    await chosen(page, "To the list", role="link")
    await expect(page.locator("#pulse")).to_have_text("Live")
    await press(page, "/")
    await page.keyboard.type("O'Brien/x@POSTROOM.test")
    await press(page, "Enter")
    await expect(page.locator("#suppressions tbody tr")).to_have_count(1)
    await page.locator("#suppressions tbody a").press("Enter")
    await chosen(page, "Take it off the list")
    await expect(page.get_by_text("is written to again")).to_be_visible()
    addresses = [one["address"] for one in (await client.get("/suppressions")).json()["data"]]
    assert addresses == ["q@postroom.test", "late@postroom.test"]
    async with page.expect_download() as download:
        await chosen(page, "Export", role="link")
    assert (await download.value).suggested_filename == "suppressions.ndjson"


async def test_a_template_is_written_and_seen_filled_in_and_nothing_in_it_runs(
    page: Page, client: httpx2.AsyncClient, seen: browser.Seen
) -> None:
    """Seen to fail with `autoescape` off: the name, told back by the form, was an element of its own."""
    await page.goto("/")
    await by_key(page, "t", "Templates")
    await press(page, "c")
    await expect(page.get_by_label("Name", exact=True)).to_be_focused()
    await page.keyboard.type(VECTORS[1])
    await page.get_by_label("Subject").fill("Hello {{ name }}")
    await page.get_by_label("HTML", exact=True).fill(f"<p id=p>Dear {{{{ name }}}}</p>{HOSTILE}")
    await page.get_by_label("Variables", exact=True).fill('{"name": {"required": true')
    await chosen(page, "Make the template")
    await expect(page.get_by_role("alert")).to_contain_text("not JSON")
    await page.get_by_label("Variables", exact=True).fill('{"name": {"required": true}}')
    await chosen(page, "Make the template")
    await expect(page.get_by_role("heading", name=VECTORS[1])).to_be_visible()
    await expect(page.locator("dl", has_text="Subject").first).to_contain_text("Hello name")
    await page.get_by_label("Values").fill('{"name": "<i>Ada</i>"}')
    await chosen(page, "Show with these values")
    frame = page.frame_locator("iframe")
    await expect(frame.locator("#p")).to_have_text("Dear <i>Ada</i>")
    await unhurt(page, seen)
    await page.get_by_label("Values").fill("[")
    await chosen(page, "Show with these values")
    await expect(page.get_by_role("alert")).to_contain_text("JSON")
    await chosen(page, "Delete", role="link")
    await chosen(page, "Delete the template")
    await expect(page.get_by_text("The template is deleted.")).to_be_visible()
    await unhurt(page, seen)
    assert (await client.get("/templates")).json()["data"] == []


# Who may not


POSTS: Final = (  # with the ids of what there is
    "/webhooks",
    "/webhooks/{webhook}/edit",
    "/webhooks/{webhook}/test",
    "/webhooks/{webhook}/rotate",
    "/webhooks/{webhook}/status",
    "/webhooks/{webhook}/redeliver",
    "/webhooks/{webhook}/delete",
    "/domains",
    "/domains/{domain}",
    "/domains/{domain}/verify",
    "/domains/{domain}/rotate",
    "/domains/{domain}/delete",
    "/keys",
    "/keys/{key}/name",
    "/keys/{key}/revoke",
    "/suppressions",
    "/suppressions/remove?address=a@postroom.test",
    "/suppressions/import",
    "/templates",
    "/templates/{template}/edit",
    "/templates/{template}/delete",
)
PAGES: Final = (
    "/webhooks",
    "/webhooks/{webhook}",
    "/domains",
    "/domains/{domain}",
    "/suppressions",
    "/templates",
    "/templates/{template}",
)
FORM: Final = {
    "url": "http://127.0.0.1:9/",
    "all": "1",
    "name": "changed",
    "scopes": "read",
    "address": "b@postroom.test",
    "subject": "changed",
    "text": "changed",
    "unknown_recipients": "create",
    "status": "disabled",
}


async def furnished(client: httpx2.AsyncClient, tenant: house.Tenant) -> dict[str, str]:
    """One of everything; their ids, by kind."""
    key = await made_key(client, scopes=["read"], name="of somebody")
    webhook = (await client.post("/webhooks", json={"url": f"http://127.0.0.1:9/{HOSTILE}", "types": ["*"]})).json()
    domain = f"{tenant.account_id.hex}.example"
    assert (await client.post("/domains", json={"name": domain})).status_code == 201
    assert (await client.post("/suppressions", json={"address": "a@postroom.test"})).status_code == 201
    template = {"name": HOSTILE, "subject": HOSTILE, "html": f"<p>{HOSTILE}</p>", "variables": {"a": {}}}
    made = (await client.post("/templates", json=template)).json()
    return {"key": key["id"], "webhook": webhook["id"], "domain": domain, "template": made["id"]}


async def state(client: httpx2.AsyncClient) -> list[Any]:
    found = [(await client.get(path)).json() for path in ("/webhooks", "/domains", "/suppressions", "/templates")]
    keys = (await client.get("/api-keys")).json()
    return [*found, [{name: value for name, value in key.items() if name != "last_used_at"} for key in keys["data"]]]


async def test_nothing_changes_without_a_form_of_ours_or_a_key_that_may(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    """Each POST by an admin without the form's token, and by a key that may only read, with it; which sees all the
    pages, and is told what it may not.

    Seen to fail with the look at the form's token taken out of `_read_form` (the first POST, /webhooks, was answered
    200), with that at scopes taken out of `api._authorize` (so was the reader's), and with `autoescape` off (the
    webhook's URL stood in the page as it was given)."""
    ids = await furnished(client, tenant)
    reader = await shared_house.tenant(("read",), account_id=tenant.account_id)
    before = await state(client)
    async with guest(shared_house, tenant.key) as admin, guest(shared_house, reader.key) as onlooker:
        token = token_in(await onlooker.get("/webhooks"))
        for path in (path.format(**ids) for path in POSTS):
            forged = await admin.post(path, data=FORM)
            assert (forged.status_code, "not of your present session" in forged.text) == (403, True), path
            refused = await onlooker.post(path, data=FORM | {"form_token": token})
            told = refused.status_code in (403, 422) or refused.status_code == 303
            assert told, (path, refused.status_code)
            if refused.status_code == 303:  # back where it came from, where it is said
                page = await onlooker.get(refused.headers["location"])
                assert "needs the scope" in page.text, path
        for path in (path.format(**ids) for path in PAGES):
            page = await onlooker.get(path)
            assert (page.status_code, "needs the scope" in page.text) == (200, True), path
            assert not re.search(r'<form method="post" action="(?!/theme|/sign-out)', page.text), path
            assert HOSTILE not in page.text
        assert "needs the scope" in (await onlooker.get("/keys")).text
    assert await state(client) == before


async def test_the_pages_can_be_used_by_everybody(
    visitor: browser.Visitor, seen: browser.Seen, client: httpx2.AsyncClient, tenant: house.Tenant
) -> None:
    """axe-core finds nothing serious, in the light, in the dark and on a phone; and hostile names run nothing."""
    ids = await furnished(client, tenant)
    more = ("/webhooks/new", "/webhooks/{webhook}/delete", "/keys", "/templates/new")
    paths = [path.format(**ids) for path in (*PAGES, *more)]
    for options in ({"color_scheme": "light"}, {"color_scheme": "dark", "viewport": browser.PHONE}):
        page = await visitor(**options)
        for path in paths:
            await page.goto(path)
            assert await axe.problems(page) == [], (path, options)
            await unhurt(page, seen)
            width = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert width <= 0, (path, options, "it must not be pushed sideways")
    seen.check()


async def test_they_work_without_scripts(
    visitor: browser.Visitor, client: httpx2.AsyncClient, tenant: house.Tenant
) -> None:
    """What cannot be undone is asked about on a page of its own."""
    ids = await furnished(client, tenant)
    page = await visitor(java_script_enabled=False)
    await page.goto(f"/webhooks/{ids['webhook']}")
    await page.get_by_role("link", name="Delete").click()
    await page.get_by_role("button", name="Delete the webhook").click()
    await expect(page.get_by_text("The webhook is deleted.")).to_be_visible()
    await page.goto("/suppressions")
    await page.get_by_role("link", name="Remove a@postroom.test").click()
    await page.get_by_role("button", name="Take it off the list").click()
    assert (await client.get("/suppressions")).json()["data"] == []
