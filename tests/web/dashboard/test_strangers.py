"""What strangers and forms bring to the dashboard that is made to hurt it: each is answered, and at once."""

from __future__ import annotations

import re

import httpx2
import pytest

from gateway.storage import events
from gateway.web.dashboard import mail, outgoing, seals, shell
from tests import databases, house
from tests.web.dashboard.test_shell import guest, token_in

SEALS = seals.Seals(house.KEYRING)

pytestmark = pytest.mark.anyio


async def test_looking_for_pictures_takes_one_look_at_the_html_whatever_a_stranger_wrote() -> None:
    """By one pattern from each "<img" on, 200 KB took 1.5 s of the only loop, and 10 MB more than a minute."""
    for evil in (b"<img ", b"<img src= ", b"<img <img  src =   ", b"src=http:", b"<a src=http: "):
        assert not mail.has_remote(evil * (10_000_000 // len(evil)))
    assert mail.has_remote(b'"<p>a<IMG alt=\\"x\\" src = \\"https://a.example/x.png\\">"')
    assert mail.has_remote(b"<img\nsrc=http://a.example/x.png>")
    for other in (
        b'<img src="cid:a">',
        b'<img src="cid:a"><script src="https://a.example">',
        b'<imgs src="https://a">',
    ):
        assert not mail.has_remote(other)


async def test_lists_of_addresses_are_cut_in_one_pass_whatever_a_form_brings() -> None:
    """By a pattern that looked for each quote's end anew, 30 KB of quotes and backslashes took 80 s of the loop."""
    for evil in ('"\\', '"', '"a', 'a,"', "\\"):
        assert outgoing.listed(evil * (4_000_000 // len(evil)))
    assert outgoing.listed('a@b, "B, c" <b@c>;d\n"x\\"y, z" <q@r>') == ["a@b", '"B, c" <b@c>', "d", '"x\\"y, z" <q@r>']
    assert outgoing.listed('"open, a@b; c@d') == ['"open', "a@b", "c@d"]
    assert outgoing.listed('"a\\') == ['"a\\']
    assert outgoing.listed(" ,;\n") == []


async def test_numbers_and_json_that_are_none_are_refused_and_break_no_page(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    deep = "[" * 100_000
    async with guest(shared_house, tenant.key) as visitor:
        assert (await visitor.get("/events", params={"before": "\u00b2"})).status_code == 200
        token = token_in(await visitor.get("/mailboxes"))
        for ttl in ("\u00b2", "x", "1.5", "9" * 5000):
            answer = await visitor.post("/mailboxes", data={"form_token": token, "ttl": ttl})
            assert answer.status_code == 422, ttl
        answer = await visitor.post("/mailboxes", data={"form_token": token, "metadata": deep})
        assert answer.status_code == 422
        body = {"form_token": token, "from": "a@b.test", "to": "c@d.test", "template": "t", "variables": deep}
        assert (await visitor.post("/emails", data=body)).status_code == 422


async def test_mailpits_part_gives_no_file_as_a_script_and_another_site_cannot_use_a_remembered_password(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    """Answered as text/javascript a mail's file was a script of this origin, which the dashboard's policy believes."""
    box = (await client.post("/mailboxes", json={})).json()["address"]
    kinds = ("text/javascript", "application/foo+xml", "image/svg+xml", "text/plain")
    files = [{"Filename": "f.bin", "ContentType": kind, "Content": "YWxlcnQoMSk="} for kind in kinds]
    mail_ = {"From": {"Email": "a@b.test"}, "To": [{"Email": box}], "Subject": "s", "Text": "t", "Attachments": files}
    where = f"{shared_house.url}/compat/mailpit/api/v1"
    async with httpx2.AsyncClient(auth=("x", tenant.key), timeout=30) as basic:
        for origin in ("https://evil.example", "null"):
            refused = await basic.post(f"{where}/send", json=mail_, headers={"Origin": origin})
            assert refused.status_code == 403, refused.text
        made = await basic.post(f"{where}/send", json=mail_, headers={"Origin": shared_house.url})
        assert made.status_code == 200, made.text
        parts = [await basic.get(f"{where}/message/{made.json()['ID']}/part/{n}") for n in (1, 2, 3, 4)]
    told = [answer.headers["content-type"].partition(";")[0] for answer in parts]
    assert told == ["application/octet-stream"] * 3 + ["text/plain"]


async def test_the_log_shows_the_newest_of_a_type_however_many_lie_behind_what_else_happened(
    shared_house: house.House, tenant: house.Tenant
) -> None:
    """With windows of 200, then 5,000 numbers, of which ten pages were read from the front, 2,500 events were cut off
    behind the 2,000th: the list began with that one."""
    async with databases.opened(shared_house.dsn) as database, database.transaction() as connection:
        busy = [events.NewEvent(type="message.received") for _ in range(2_500)]
        newest = await events.append(connection, tenant.account_id, busy) + len(busy) - 1
        await events.append(
            connection, tenant.account_id, [events.NewEvent(type="mailbox.updated") for _ in range(300)]
        )
    async with guest(shared_house, tenant.key) as visitor:
        shown: list[int] = []
        for _ in range(3):
            page = await visitor.get(
                "/events", params={"type": "message.received", "before": shown[-1] if shown else ""}
            )
            shown += [int(seq) for seq in re.findall(r'id="e-(\d+)"', page.text)]
    assert shown == list(range(newest, newest - 300, -1))


async def test_what_the_next_page_says_fits_into_a_cookie_in_any_letters() -> None:
    for text in ("x" * 5000, "\u5b57" * 5000, "\U0001f4e8" * 5000, "a\ud800b"):
        sealed = SEALS.said(seals.Said(text=shell.fitting(text)))
        found = SEALS.read_said(sealed)
        assert found is not None
        assert len(sealed) < 3000
        assert len(found.text) > 2
