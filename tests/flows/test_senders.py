"""Who sent it: over real SMTP, with a worker that asks a name server on loopback. 127.0.0.1 is the sender's host."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio.from_thread
import httpx2
import pytest

from tests import house, nameserver
from tests.flows import letters
from tests.mail.auth import signing

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("a house that judges")]

KEY = signing.rsa_key()
ZONE: nameserver.Zone = {
    "good.example": {"TXT": ["v=spf1 ip4:127.0.0.1 -all"]},
    "_dmarc.good.example": {"TXT": ["v=DMARC1; p=reject"]},
    "s._domainkey.good.example": {"TXT": [signing.record(KEY)]},
    "bad.example": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]},
    "_dmarc.bad.example": {"TXT": ["v=DMARC1; p=quarantine; sp=reject"]},
    "plain.example": {"A": ["192.0.2.9"]},
    "closed.example": {"TXT": ["v=spf1 -all"]},
    "silent.example": nameserver.SILENCE,
    "_dmarc.silent.example": nameserver.SILENCE,
}


@contextlib.asynccontextmanager
async def judging_house(
    postgres_dsn: str, redis_url: str, *, programs: tuple[str, ...] = ("serve", "worker"), **settings: str
) -> AsyncIterator[tuple[house.House, httpx2.AsyncClient, nameserver.NameServer]]:
    """A house that asks a name server of its own, and the client of an account in it."""
    async with (
        nameserver.serving(dict(ZONE)) as names,
        letters.own_house(
            postgres_dsn,
            redis_url,
            programs=programs,
            settings={"SENDER_AUTH": "true", "DNS_SERVERS": names.address, **settings},
        ) as home,
        home.client((await home.tenant()).key) as client,
    ):
        yield home, client, names


@pytest.fixture(scope="module")
def standing(postgres_dsn: str, redis_url: str) -> Iterator[tuple[house.House, nameserver.NameServer]]:
    """One for all tests that kill nothing."""
    with (
        anyio.from_thread.start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(judging_house(postgres_dsn, redis_url)) as (home, _, names),
    ):
        yield home, names


@pytest.fixture
def names(standing: tuple[house.House, nameserver.NameServer]) -> nameserver.NameServer:
    """Its name server."""
    return standing[1]


@pytest.fixture
def home(standing: tuple[house.House, nameserver.NameServer]) -> house.House:
    """That house."""
    return standing[0]


@pytest.fixture
async def client(home: house.House) -> AsyncIterator[httpx2.AsyncClient]:
    """An account of the test's own in it."""
    async with home.client((await home.tenant()).key) as client:
        yield client


async def log(client: httpx2.AsyncClient, *types: str, count: int) -> list[dict[str, Any]]:
    """The first `count` events of these types, waited for."""
    found: list[dict[str, Any]] = []
    after = "0"
    async with asyncio.timeout(60):
        while len(found) < count:
            page = (await client.get("/events", params={"types": ",".join(types), "after": after, "wait": 20})).json()
            found += page["data"]
            after = page["next_cursor"] or (page["data"][-1]["cursor"] if page["data"] else after)
    return found


async def judged(client: httpx2.AsyncClient, message_id: str) -> dict[str, Any]:
    answer = await client.get(f"/messages/{message_id}")
    assert answer.status_code == 200, answer.text
    message: dict[str, Any] = answer.json()
    return message


async def until_asked(names: nameserver.NameServer, name: str) -> None:
    """Returns once the name server was asked for the SPF record: mail from there is being judged."""
    async with asyncio.timeout(30):
        while True:
            if names.asked[name, "TXT"]:
                return
            await asyncio.sleep(0.01)


def signed(raw: bytes, domain: str = "good.example") -> bytes:
    return signing.signed(raw, KEY, domain=domain, names="from:subject")


async def test_what_is_accepted_is_shown_at_once_and_the_verdict_follows(
    home: house.House, client: httpx2.AsyncClient
) -> None:
    box = await letters.mailbox(client)
    assert box["sender_policy"] == "accept"
    raw = signed(letters.letter("Proved", sender="Good <a@good.example>"))
    raw = b"Authentication-Results: evil.example; spf=fail; dmarc=fail\r\n" + raw
    await letters.hand_in(home, raw, box["address"], sender="a@good.example")
    await letters.hand_in(home, letters.letter("Forged", sender="a@bad.example"), box["address"])
    events = await log(client, "message.received", "message.updated", count=4)
    told = {e["message_id"]: e["data"]["auth"] for e in events if e["type"] == "message.updated"}
    by_subject = {e["data"]["subject"]: e["message_id"] for e in events if e["type"] == "message.received"}
    assert told[by_subject["Proved"]] == {"spf": "pass", "dkim": "pass", "dmarc": "pass", "arc": "none"}
    assert told[by_subject["Forged"]] == {"spf": "none", "dkim": "none", "dmarc": "fail", "arc": "none"}
    proved = await judged(client, by_subject["Proved"])
    assert proved["auth"]["details"]["dkim"][0]["domain"] == "good.example"
    assert proved["authentication_results"].startswith("postroom.test; spf=pass ")
    assert "smtp.mailfrom=a@good.example" in proved["authentication_results"]
    assert "dkim=pass header.d=good.example header.s=s" in proved["authentication_results"]
    assert "dmarc=pass header.from=good.example" in proved["authentication_results"]
    assert proved["labels"] == []


async def test_flagged_mail_carries_a_label_and_dropped_mail_is_told_of(
    home: house.House, client: httpx2.AsyncClient
) -> None:
    flagging = await letters.mailbox(client, sender_policy="flag")
    dropping = await letters.mailbox(client)
    changed = await client.patch(f"/mailboxes/{dropping['id']}", json={"sender_policy": "drop-on-fail"})
    assert changed.json()["sender_policy"] == "drop-on-fail"
    to = (flagging["address"], dropping["address"])
    good = signed(letters.letter("Good", sender="a@good.example"))
    await letters.hand_in(home, good, *to, sender="a@good.example")
    receipt = await letters.hand_in(home, letters.letter("Forged", sender="Evil <a@bad.example>"), *to)
    await letters.hand_in(home, letters.letter("Closed", sender="a@closed.example"), *to, sender="a@closed.example")
    await letters.hand_in(home, letters.letter("Plain", sender="a@plain.example"), *to, sender="a@plain.example")
    received = await log(client, "message.received", count=6)
    dropped = await log(client, "message.dropped", count=2)
    labels = {(e["mailbox_id"] == flagging["id"], e["data"]["subject"]): e["data"]["labels"] for e in received}
    assert labels == {
        (True, "Good"): [],
        (True, "Forged"): ["unauthenticated"],
        (True, "Closed"): ["unauthenticated"],
        (True, "Plain"): [],
        (False, "Good"): [],
        (False, "Plain"): [],
    }
    assert {e["data"]["subject"] for e in dropped} == {"Forged", "Closed"}
    [forged] = [e for e in dropped if e["data"]["subject"] == "Forged"]
    assert forged["mailbox_id"] == dropping["id"]
    assert forged["data"]["reason"] == "sender_unauthenticated"
    assert forged["data"]["from"] == {"name": "Evil", "address": "a@bad.example"}
    assert forged["data"]["auth"]["dmarc"] == "fail"
    assert forged["data"]["receipt_id"] == receipt
    assert len(await letters.listed(client, f"/mailboxes/{dropping['id']}/messages")) == 2
    assert len(await letters.listed(client, f"/mailboxes/{flagging['id']}/messages")) == 4
    [one] = [e for e in received if e["data"]["subject"] == "Forged"]
    message = await judged(client, one["message_id"])
    assert message["labels"] == ["unauthenticated"]
    assert message["auth"]["dmarc"] == one["data"]["auth"]["dmarc"] == "fail"
    async with letters.sql(home) as connection:
        mine = "where account_id = (select account_id from mailboxes where id = $1)"
        assert await connection.fetchval(f"select count(*) from held_messages {mine}", flagging["id"]) == 0  # noqa: S608 - a constant
        kept = await connection.fetchval(f"select count(*) from contents {mine}", flagging["id"])  # noqa: S608 - a constant
        assert kept == 4  # those of the flagging mailbox


async def test_held_mail_is_seen_by_nobody_before_its_verdict(
    home: house.House, client: httpx2.AsyncClient, names: nameserver.NameServer
) -> None:
    """Lists, counts, waits, searches and events show nothing of it; with no answer from the DNS it comes after at most
    5 s, as temperror, also where failing mail is dropped."""
    box = await letters.mailbox(client, sender_policy="drop-on-fail")
    await letters.hand_in(
        home, letters.letter("Secret", sender="a@silent.example"), box["address"], sender="a@silent.example"
    )
    await until_asked(names, "silent.example")
    assert await letters.listed(client, f"/mailboxes/{box['id']}/messages") == []
    assert await letters.listed(client, "/messages") == []
    assert await letters.listed(client, "/messages", q="Secret") == []
    assert (await client.get(f"/mailboxes/{box['id']}")).json()["message_count"] == 0
    waited = await client.get(f"/mailboxes/{box['id']}/wait", params={"timeout": 0})
    assert waited.status_code == 408
    assert "nothing arrived" in waited.text
    assert await letters.listed(client, "/events", types="message.received,message.dropped") == []
    waited = await client.get(f"/mailboxes/{box['id']}/wait", params={"timeout": 20})
    assert waited.status_code == 200
    message = waited.json()["message"]
    assert (message["subject"], message["auth"]["dmarc"], message["labels"]) == ("Secret", "temperror", [])
    async with letters.sql(home) as connection:
        held = await connection.fetchval(
            "select extract(epoch from e.created_at - m.received_at) from messages m, "
            "events e where e.seq = m.seq and e.account_id = m.account_id and m.mailbox_id = $1",
            box["id"],
        )
    assert float(held) < 5.5


async def test_a_worker_killed_between_claim_and_release_loses_nothing(postgres_dsn: str, redis_url: str) -> None:
    """kill -9 while the message is being judged; another worker shows it, once, as temperror."""
    async with judging_house(postgres_dsn, redis_url) as (home, client, names):
        box = await letters.mailbox(client, sender_policy="flag")
        await letters.hand_in(
            home, letters.letter("Survivor", sender="a@silent.example"), box["address"], sender="a@silent.example"
        )
        await until_asked(names, "silent.example")
        home.kill("worker")
        home.start("worker")
        home.start("worker-2")
        [event] = await log(client, "message.received", count=1)
        assert event["data"]["subject"] == "Survivor"
        assert event["data"]["auth"]["spf"] == "temperror"
        await letters.hand_in(home, letters.letter("Next"), box["address"])
        received = await log(client, "message.received", count=2)
        assert [e["data"]["subject"] for e in received] == ["Survivor", "Next"]


async def test_held_mail_outlives_its_mailboxs_life(postgres_dsn: str, redis_url: str) -> None:
    async with judging_house(postgres_dsn, redis_url, programs=("serve",)) as (home, client, _):
        box = await letters.mailbox(client, sender_policy="flag")
        await letters.hand_in(home, letters.letter("Just in time"), box["address"])
        await letters.expire(home, box["id"])
        home.start("worker")
        received = await log(client, "message.received", "mailbox.expired", count=1)
        assert received[0]["type"] == "message.received"
        [listed] = await letters.listed(client, f"/mailboxes/{box['id']}/messages")
        assert listed["subject"] == "Just in time"


async def test_where_nothing_is_judged_policies_hold_nothing(postgres_dsn: str, redis_url: str) -> None:
    async with judging_house(postgres_dsn, redis_url, SENDER_AUTH="false") as (home, client, names):
        box = await letters.mailbox(client, sender_policy="drop-on-fail")
        await letters.hand_in(home, letters.letter("Forged", sender="a@bad.example"), box["address"])
        message = await letters.only_message(client, box["id"])
        assert message["auth"] == {"spf": None, "dkim": None, "dmarc": None, "arc": None, "details": {}}
        assert message["authentication_results"] is None
        assert not names.asked
