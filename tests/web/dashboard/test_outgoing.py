"""Mail that leaves, as people see it: the log as it changes, one form that is one e-mail, buttons where they work, and
strangers' words that stay words. In a real Chromium; and without scripts, by plain requests."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from playwright.async_api import Page, expect

from gateway.web.dashboard import outgoing, statistics
from tests import house, sending
from tests.flows import letters
from tests.flows.test_keys import made_key
from tests.flows.test_statistics import counted
from tests.web.dashboard import axe, browser
from tests.web.dashboard.test_shell import guest, token_in

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("browser-outgoing")]

NASTY = "\"'><img src=x onerror=alert(1)><script>alert(2)</script><svg onload=alert(3)> {{ 7*7 }} ${alert(4)}"
NASTY_HTML = (
    "<script>alert(1)</script><img src=https://elsewhere.example/x.png onerror=alert(2)>"
    "<a href=javascript:alert(3)>x</a><form action=https://elsewhere.example/><meta http-equiv=refresh content='0;url=https://elsewhere.example/'>"
    "<style>@import url(https://elsewhere.example/x.css)</style><iframe src=https://elsewhere.example/></iframe><p>harmless"
)


async def moved(home: house.House, tenant: house.Tenant, email_id: str, status: str, **columns: Any) -> None:
    """The e-mail's recipients stand like this now, as if it had happened; nobody is due."""
    values = {"status": status, "due_at": None, "lease_id": None, **columns}
    sets = ", ".join(f"{name} = ${number}" for number, name in enumerate(values, 3))
    sets = sets.replace("status = $3", "status = cast($3 as text)::delivery_status")
    async with letters.sql(home) as connection:
        await connection.execute(
            f"update deliveries set {sets} where account_id = $1 and email_id = $2",  # noqa: S608 - the test's own words
            tenant.account_id,
            email_id,
            *values.values(),
        )


def soon() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).isoformat()


# Live


async def test_an_e_mails_row_goes_from_queued_to_delivered_without_a_reload(
    page: Page, client: httpx2.AsyncClient
) -> None:
    """It is scheduled, so that it rests in the list first; then it is due."""
    await page.goto("/emails")
    await expect(page.locator("#pulse")).to_have_text("Live")
    await expect(page.get_by_text("Nothing was sent yet")).to_be_visible()
    await page.evaluate("window.isTheSamePage = true")
    email_id = await sending.send(client, to="user@postroom.test", subject="Good morning", scheduled_at=soon())
    row = page.locator(f"#e-{email_id}")
    await expect(row.locator(".badge")).to_have_text("scheduled")
    await client.patch(f"/emails/{email_id}", json={"scheduled_at": datetime.now(UTC).isoformat()})
    await expect(row.locator(".badge")).to_have_text("delivered")
    await row.get_by_role("link", name="Good morning").click()
    await expect(page.locator("#timeline li .badge")).to_have_text(["scheduled", "scheduled", "delivered"])
    await expect(page.locator("#attempts summary")).to_contain_text("user@postroom.test")
    assert await page.evaluate("window.isTheSamePage") is None


# Sending


async def test_send_pressed_twice_sends_one_e_mail(page: Page, client: httpx2.AsyncClient) -> None:
    """The form's key is the Idempotency-Key of both requests."""
    await page.goto("/emails/new")
    await page.get_by_label("To", exact=True).fill('"Doe, Ann" <ann@postroom.test>; bob@postroom.test')
    await page.get_by_label("Subject").fill("Only once")
    await page.get_by_label("Text", exact=True).fill("Hello.")
    await page.get_by_label("Tags").fill("kind:welcome")
    await page.get_by_role("button", name="Send").dblclick()
    await expect(page.get_by_role("heading", name="Only once")).to_be_visible()
    await expect(page.get_by_text("It is on its way.")).to_be_visible()
    [sent] = await letters.listed(client, "/emails")
    assert sent["to"] == ['"Doe, Ann" <ann@postroom.test>', "bob@postroom.test"]
    assert sent["tags"] == [{"name": "kind", "value": "welcome"}]


async def test_what_is_wrong_is_said_at_its_field_and_nothing_typed_is_lost(page: Page) -> None:
    await page.goto("/emails/new")
    await page.get_by_label("To", exact=True).fill("nobody")
    await page.get_by_label("Text", exact=True).fill("Hello.")
    await page.get_by_role("button", name="Send").click()
    field = page.get_by_label("To", exact=True)
    await expect(field).to_have_attribute("aria-invalid", "true")
    await expect(field).to_have_value("nobody")
    await expect(page.get_by_label("Text", exact=True)).to_have_value("Hello.")
    await expect(page.get_by_role("alert")).to_contain_text("to[0]")


def test_addresses_are_told_apart_at_commas_outside_quotes() -> None:
    assert outgoing.listed('a@b.example, "X, Y" <c@d.example>;\n e@f.example ,') == [
        *("a@b.example", '"X, Y" <c@d.example>', "e@f.example")
    ]


# What can be done


async def test_buttons_are_there_where_the_state_allows_them_and_do_it(
    page: Page, shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    """Seen to fail with RETRYABLE and CANCELABLE exchanged in `_allowed`: a scheduled one was offered a retry."""
    await page.add_init_script("window.confirm = () => true")
    email_id = await sending.send(client, to="user@postroom.test", scheduled_at=soon())
    offered = {
        "scheduled": (False, True),
        "deferred": (True, True),
        "unknown": (True, True),
        "failed": (True, False),
        "bounced": (True, False),
        "sent": (False, False),
        "canceled": (False, False),
        "complained": (False, False),
    }
    for status, (retry, cancel) in offered.items():
        await moved(shared_house, tenant, email_id, status)
        await page.goto(f"/emails/{email_id}")
        assert await page.get_by_role("button", name="Retry").count() == int(retry), status
        assert await page.get_by_role("button", name="Cancel").count() == int(cancel), status
        assert await page.get_by_role("button", name="Reschedule").count() == int(status == "scheduled"), status
    await moved(shared_house, tenant, email_id, "failed")
    await page.goto(f"/emails/{email_id}")
    await page.get_by_role("button", name="Retry").click()
    await expect(page.locator("#email-head .badge")).to_have_text("delivered")


async def test_a_scheduled_e_mail_is_put_off_and_then_canceled(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    """Without scripts: the buttons are forms, and what they did is said on the next page."""
    email_id = await sending.send(client, to="user@postroom.test", scheduled_at=soon())
    async with guest(shared_house, tenant.key) as visitor:
        here = f"/emails/{email_id}"
        token = {"form_token": token_in(await visitor.get(here))}
        wrong = await visitor.post(
            f"{here}/reschedule", data={**token, "scheduled_at": "someday"}, follow_redirects=True
        )
        assert "scheduled_at" in wrong.text
        at = (datetime.now(UTC) + timedelta(days=200)).strftime("%Y-%m-%dT%H:%M")
        later = await visitor.post(f"{here}/reschedule", data={**token, "scheduled_at": at}, follow_redirects=True)
        assert "It goes out at that time." in later.text
        assert (await sending.read(client, email_id))["scheduled_at"] == f"{at}:00Z"
        canceled = await visitor.post(f"{here}/cancel", data=token, follow_redirects=True)
        assert "will not get it" in canceled.text
        assert (await sending.read(client, email_id))["status"] == "canceled"
        again = await visitor.post(f"{here}/cancel", data=token, follow_redirects=True)
        assert re.search(r'class="said bad" role="alert">[^<]+cancel', again.text), "the 409 is a sentence"
        anew = {**token, "once": "once", "to": "other@postroom.test"}
        answers = [await visitor.post(f"{here}/resend", data=anew) for _ in range(2)]
        assert answers[0].headers["location"] == answers[1].headers["location"] != here


async def test_a_key_that_may_only_read_is_offered_nothing_that_changes(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    email_id = await sending.send(client, to="user@postroom.test", scheduled_at=soon())
    made = await made_key(client, scopes=["read"])
    async with guest(shared_house, made["key"]) as visitor:
        for path in ("/emails", f"/emails/{email_id}", "/queue", "/bounces", "/statistics"):
            answer = await visitor.get(path)
            assert answer.status_code == 200, path
            forms = re.findall(r'<form method="post" action="([^"]+)"', answer.text)
            assert set(forms) <= {"/theme", "/sign-out", "/bounces/classify"}, path
        token = token_in(answer)
        assert (await visitor.post(f"/emails/{email_id}/cancel", data={"form_token": token})).status_code == 303
    assert (await sending.read(client, email_id))["status"] == "scheduled"


# The queue, the numbers, the rules


async def test_the_queue_shows_what_waits_and_empties_without_a_reload(
    page: Page, shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    await page.add_init_script("window.confirm = () => true")
    await page.goto("/queue")
    await expect(page.locator("#pulse")).to_have_text("Live")
    await expect(page.get_by_text("Nothing waits")).to_be_visible()
    first = await sending.send(client, to=["a@slow.example", "b@slow.example"], scheduled_at=soon())
    await sending.send(client, to="c@fast.example", scheduled_at=soon())
    await expect(page.locator("#q-all")).to_have_text("3")
    await moved(
        shared_house, tenant, first, "deferred", due_at=datetime(2031, 1, 1, tzinfo=UTC), reply="451 4.3.0 not now"
    )
    await page.reload()
    slow = page.get_by_role("row", name="slow.example")
    await expect(slow).to_contain_text("451 4.3.0 not now")
    await slow.get_by_role("button", name="Cancel").click()
    await expect(page.locator("#q-all")).to_have_text("1")
    assert (await sending.read(client, first))["status"] == "canceled"


async def test_charts_say_what_the_statistics_say(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    box = await letters.mailbox(client)
    await letters.hand_in(shared_house, letters.letter("one"), box["address"])
    await sending.resting(client, await sending.send(client, to=box["address"]))
    await counted(client)
    async with guest(shared_house, tenant.key) as visitor:
        for over, window in statistics.WINDOWS.items():
            page = (await visitor.get("/statistics", params={"over": over, "by": "recipient_domain"})).text
            assert page.count('<figure class="chart">') == 4
            assert page.count('<tr><th scope="row">') >= 4 * window.steps
            assert re.search(r"Received <b>2</b>", page)
            assert re.search(r"Delivered <b>1</b>", page)
            assert '<th scope="row">postroom.test</th>' in page
        assert (await visitor.get("/statistics", params={"over": "nothing", "by": "x"})).status_code == 200


async def test_a_reply_is_tried_and_a_rule_made_and_deleted(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    async with guest(shared_house, tenant.key) as visitor:
        page = await visitor.get("/bounces")
        token = {"form_token": token_in(page)}
        tried = await visitor.post("/bounces/classify", data={**token, "reply": "550 5.1.1 No such user"})
        assert "is suppressed" in tried.text
        wrong = await visitor.post("/bounces", data={**token, "kind": "soft", "note": NASTY, "once": "a"})
        assert (wrong.status_code, NASTY in wrong.text, "words, enhanced or code" in wrong.text) == (422, False, True)
        rule = {**token, "kind": "soft", "words": "come back", "note": NASTY, "once": "b"}
        made = await visitor.post("/bounces", data=rule, follow_redirects=True)
        assert "The rule is there." in made.text
        assert NASTY not in made.text
        [kept] = await letters.listed(client, "/bounces/rules")
        await visitor.post(f"/bounces/{kept['id']}/delete", data=token)
        assert await letters.listed(client, "/bounces/rules") == []


# Strangers' words


@pytest.fixture
async def nasty_id(shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient) -> str:
    """An e-mail all of whose fields are attacks, replies and dialogue among them."""
    email_id = await sending.send(
        client,
        to=["Nasty <user@postroom.test>"],
        subject=NASTY,
        html=NASTY_HTML,
        text=NASTY,
        metadata={"m": NASTY},
        headers={"X-Nasty": "<script>alert(5)</script>"},
    )
    await sending.resting(client, email_id)
    async with letters.sql(shared_house) as connection:
        values = (tenant.account_id, email_id, NASTY)
        await connection.execute(
            "update attempts set reply = $3, provider = $3, rule = $3, class = 'hard', suppresses = false, "
            "transcript = jsonb_build_array(cast($3 as text)) where account_id = $1 and email_id = $2",
            *values,
        )
        await connection.execute(
            "update events set data = cast(data as jsonb) || jsonb_build_object('reply', cast($3 as text), "
            "'provider', cast($3 as text)) where account_id = $1 and email_id = $2",
            *values,
        )
    due = datetime(2031, 1, 1, tzinfo=UTC)
    await moved(
        shared_house,
        tenant,
        email_id,
        "deferred",
        reply=NASTY,
        provider=NASTY,
        provider_id=NASTY,
        domain=NASTY,
        due_at=due,
    )
    return email_id


async def test_strangers_words_run_nothing_and_load_nothing(page: Page, seen: browser.Seen, nasty_id: str) -> None:
    """Dialogs, requests to other hosts and errors of the policy are looked for at the end of `page`, too. Seen to fail
    with `|safe` behind the attempts' reply: three elements of the attacker's, and the policy's word about them."""
    for path in ("/emails", f"/emails/{nasty_id}", f"/emails/{nasty_id}?show=text", f"/emails/{nasty_id}?show=headers"):
        await page.goto(path)
        assert await page.locator("main script, main img, main svg[onload]").count() == 0, path
    await page.goto(f"/emails/{nasty_id}")
    await page.locator("#attempts summary").click()
    await expect(page.locator("#attempts pre")).to_contain_text(NASTY)
    frame = page.frame_locator("iframe.letter")
    await expect(frame.get_by_text("harmless")).to_be_visible()
    await page.goto("/queue")
    await expect(page.get_by_role("row").filter(has_text="<script>").first).to_be_visible()
    answer = await page.request.get(f"/emails/{nasty_id}/html")
    assert answer.headers["content-security-policy"].startswith(
        "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'"
    )
    seen.check()


# For everybody


async def test_every_page_reads_without_scripts(visitor: browser.Visitor, nasty_id: str) -> None:
    page = await visitor(java_script_enabled=False)
    for path, words in (
        ("/emails", "<script>"),
        (f"/emails/{nasty_id}", "What happened"),
        ("/emails/new", "New e-mail"),
        ("/queue", "Destinations"),
        ("/statistics", "Mail that came in"),
        ("/bounces", "Try a reply"),
    ):
        await page.goto(path)
        await expect(page.get_by_text(words).first).to_be_visible()
    await page.goto("/emails?status=delivered")
    await expect(page.get_by_text("No e-mail is like that")).to_be_visible()
    await page.goto("/emails?to=nonsense")
    await expect(page.get_by_role("alert")).to_contain_text("not an e-mail address")
    await expect(page.get_by_role("textbox", name="To")).to_have_value("nonsense")


async def test_axe_finds_nothing_serious_in_light_dark_and_on_a_phone(
    visitor: browser.Visitor, nasty_id: str, client: httpx2.AsyncClient
) -> None:
    """Seen to fail with the check box of the bounce rules at its usual size: a target of less than 24 pixels."""
    await counted(client)
    paths = ("/emails", f"/emails/{nasty_id}", f"/emails/{nasty_id}?show=headers", "/emails/new")
    found = {}
    for options in ({"color_scheme": "light"}, {"color_scheme": "dark", "viewport": browser.PHONE}):
        page = await visitor(**options)
        for path in (*paths, "/queue", "/statistics?over=month", "/bounces"):
            await page.goto(path)
            await page.evaluate("for (const one of document.querySelectorAll('main details')) one.open = true")
            if problems := await axe.problems(page):
                found[path, options["color_scheme"]] = problems
            if options["color_scheme"] == "dark":
                wide = await page.evaluate("document.documentElement.scrollWidth")
                assert wide <= browser.PHONE["width"], path
    assert found == {}
