"""Bounces and complaints by mail: what leaves has a return path of its own, and what comes back to it is told."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import anyio.from_thread
import httpx2
import pytest
from uuid_utils.compat import uuid7

from gateway import sockets
from gateway.outbound import feedback
from gateway.storage import callbacks
from tests import databases, house, nameserver, sending
from tests.flows import letters
from tests.flows.test_domains import Place, claimed, looked_at, states
from tests.outbound import bounces, sink
from tests.storage import rows

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("a house that bounces come to")]


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    with sockets.bind("127.0.0.1", 0, "a relay") as listener:
        yield listener


@pytest.fixture(scope="module")
def place(postgres_dsn: str, redis_url: str, listener: socket.socket) -> Iterator[Place]:
    """A house with return paths, whose mail leaves through the test's `relay`."""
    zone: nameserver.Zone = {}
    with (
        anyio.from_thread.start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(nameserver.serving(zone)) as server,
        portal.wrap_async_context_manager(
            letters.own_house(
                postgres_dsn,
                redis_url,
                programs=("serve", "worker"),
                settings={
                    "DNS_SERVERS": server.address,
                    "RETURN_PATH_DOMAIN": bounces.RETURN_DOMAIN.title(),
                    "OUTBOUND": f"smtp://127.0.0.1:{sockets.port_of(listener)}?tls=none",
                    "SWEEP_INTERVAL_SECONDS": "0.1",
                    "RETRY_SCHEDULE": "0.05",
                },
            )
        ) as home,
    ):
        yield Place(home=home, zone=zone)


@pytest.fixture
def home(place: Place) -> house.House:
    return place.home


@pytest.fixture
async def relay(listener: socket.socket) -> AsyncIterator[sink.Sink]:
    async with sink.Sink(listener=listener) as relay:
        yield relay


@pytest.fixture
async def client(home: house.House) -> AsyncIterator[httpx2.AsyncClient]:
    """An account of the test's own."""
    async with home.client((await home.tenant()).key) as client:
        yield client


async def sent(client: httpx2.AsyncClient, relay: sink.Sink, **wish: Any) -> tuple[str, str]:
    """An e-mail that the relay took, and the reverse path that it saw."""
    email_id = await sending.send(client, **{"to": "User@Recipient.example", **wish})
    await sending.resting(client, email_id)
    return email_id, relay.messages[-1].mail_from


async def told(client: httpx2.AsyncClient, email_id: str, last: str) -> list[dict[str, Any]]:
    """What was told of the e-mail after it was sent, once it ends with an event of this type."""
    after = None
    while True:
        query = {"email": email_id, "wait": "10", **({} if after is None else {"after": after})}
        after = (await client.get("/events", params=query)).json()["next_cursor"]
        found = await sending.timeline(client, email_id)
        if found[-1]["type"] == f"email.{last}":
            return found[2:]


async def reports(client: httpx2.AsyncClient, email_id: str) -> list[dict[str, Any]]:
    return await letters.listed(client, f"/emails/{email_id}/reports")


async def suppressions(client: httpx2.AsyncClient) -> dict[str, str]:
    return {one["address"]: one["reason"] for one in await letters.listed(client, "/suppressions")}


async def count(home: house.House, query: str, *values: Any) -> int:
    async with letters.sql(home) as connection:
        found: int = await connection.fetchval(query, *values)
    return found


# What leaves


async def test_each_recipient_has_a_return_path_of_its_own_at_every_attempt(
    home: house.House, client: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    relay.next("rcpt", sink.reply("451 4.3.0 later"))
    email_id = await sending.send(client, to=["a@one.example", "b@two.example"])
    await sending.resting(client, email_id)
    async with letters.sql(home) as connection:
        rows = await connection.fetch("select id, address from deliveries where email_id = $1", UUID(email_id))
    wanted = {row["address"]: bounces.PATHS.address(row["id"]) for row in rows}
    said = relay.lines("MAIL")
    assert len(said) == 3  # one of them twice
    assert {line.split("<")[1].split(">")[0] for line in said} == set(wanted.values())
    assert {message.recipients[0]: message.mail_from for message in relay.messages} == wanted
    assert all(b"bounces+" not in message.raw for message in relay.messages)  # the header is not touched


async def test_the_null_reverse_path_stays_null_and_what_stays_here_keeps_its_author(
    home: house.House, client: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    email_id = await sending.send(client, scheduled_at="in 1 hour")
    async with letters.sql(home) as connection:
        await connection.execute("update emails set mail_from = '' where id = $1", UUID(email_id))
        await connection.execute("update deliveries set due_at = now() where email_id = $1", UUID(email_id))
    await sending.resting(client, email_id)
    assert relay.messages[-1].mail_from == ""
    box = await letters.mailbox(client)
    await sending.resting(client, await sending.send(client, to=box["address"]))
    message = await letters.only_message(client, box["id"])
    assert message["envelope"]["mail_from"] == "app@sender.example"
    noted = "select count(*) from provider_messages p join emails e using (account_id) where e.id = $1"
    assert await count(home, noted, UUID(email_id)) == 0


# What comes back


async def test_a_bounce_is_told_and_its_address_suppressed(
    home: house.House, client: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """The report names an address that the mail was forwarded to: the return path decides."""
    email_id, path = await sent(client, relay)
    raw = bounces.report("forwarded@elsewhere.example")
    await letters.hand_in(home, raw, path, sender="")
    [event] = await told(client, email_id, "bounced")
    data = event["data"]
    assert (data["id"], data["recipient"], data["status"], data["attempt"]) == (
        *(email_id, "User@recipient.example", "bounced"),
        1,
    )
    assert data["reply"] == bounces.GONE
    assert data["classification"] == {"rule": "5.1.1", "class": "hard", "suppresses": True}
    assert data["suppressed"] is True
    assert data["provider"].startswith("smtp:127.0.0.1:")
    shown = await sending.read(client, email_id)
    assert (shown["status"], shown["recipients"][0]["reply"]) == ("bounced", bounces.GONE)
    assert await suppressions(client) == {"user@recipient.example": "bounce"}
    [kept] = await reports(client, email_id)
    assert (kept["id"], kept["recipient"], kept["size"]) == (data["report"], "User@recipient.example", len(raw))
    assert kept["applied_at"] is not None
    answer = await client.get(f"/emails/{email_id}/reports/{kept['id']}")
    assert (answer.headers["content-type"], answer.content) == ("message/rfc822", raw)


async def test_a_complaint_is_told_and_its_address_suppressed(
    home: house.House, client: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    email_id, path = await sent(client, relay)
    await letters.hand_in(home, bounces.complaint(), path, sender="")
    [event] = await told(client, email_id, "complained")
    assert (event["data"]["status"], event["data"]["reply"]) == ("complained", "abuse")
    assert await suppressions(client) == {"user@recipient.example": "complaint"}


async def test_a_feedback_loop_is_heard_where_it_returns_the_mail(
    home: house.House, client: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """It writes to the address that it was given. What names no genuine path is dropped.

    Negative control: with no look at what the mail names the test waited in vain.
    """
    email_id, path = await sent(client, relay)
    forged = f"{path.partition('@')[0][:-16]}{'a' * 16}@{bounces.RETURN_DOMAIN}"
    for named in (forged, path):
        await letters.hand_in(home, bounces.complaint(path=named), f"Complaints@{bounces.RETURN_DOMAIN}", sender="")
    assert [event["type"] for event in await told(client, email_id, "complained")] == ["email.complained"]
    assert len(await reports(client, email_id)) == 1


async def test_a_full_mailbox_bounces_and_is_not_suppressed(
    home: house.House, client: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    email_id, path = await sent(client, relay)
    full = bounces.report("user@recipient.example", status="5.2.2", said="552 5.2.2 Mailbox full")
    await letters.hand_in(home, full, path, sender="")
    [event] = await told(client, email_id, "bounced")
    assert event["data"]["classification"]["class"] == "quota"
    assert event["data"]["suppressed"] is False
    assert await suppressions(client) == {}


async def test_a_delay_is_told_and_then_the_delivery(
    home: house.House, client: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """And what comes after the end changes nothing."""
    email_id, path = await sent(client, relay)
    late = bounces.report("user@recipient.example", action="delayed", status="4.4.1", said="451 4.4.1 not yet")
    await letters.hand_in(home, late, path, sender="")
    [deferred] = await told(client, email_id, "deferred")
    assert (deferred["data"]["status"], deferred["data"]["reply"]) == ("sent", "451 4.4.1 not yet")
    relayed = bounces.report("user@recipient.example", action="relayed", status="2.0.0", said="250 went on")
    done = bounces.report("user@recipient.example", action="delivered", status="2.0.0", said="250 2.0.0 in the box")
    for raw in (relayed, done, late + b"once more\r\n"):
        await letters.hand_in(home, raw, path, sender="")
    await letters.hand_in(home, bounces.complaint(), path, sender="")
    assert [event["type"] for event in await told(client, email_id, "complained")] == [
        *("email.deferred", "email.delivered", "email.complained"),
    ]


async def test_a_report_that_comes_again_by_any_way_changes_nothing(
    home: house.House, client: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """In any case of its path's letters, with other traces on it, and by HTTP.

    Negative control: with `_digest` over the whole mail it failed: `email.deferred` was told twice.
    """
    email_id, path = await sent(client, relay)
    late = bounces.report("user@recipient.example", action="delayed", status="4.4.1", said="451 4.4.1 not yet")
    await letters.hand_in(home, late, path.upper(), sender="")
    await letters.hand_in(home, late, path, path.title(), sender="")
    await letters.hand_in(home, b"Received: by another\r\n" + late, path, sender="")
    query = {"mail_from": "", "rcpt_to": path}
    answer = await client.post("/inbound/raw", params=query, content=late)
    assert answer.status_code == 200, answer.text
    await letters.hand_in(home, bounces.report("user@recipient.example"), path, sender="")
    events = [event["type"] for event in await told(client, email_id, "bounced")]
    assert events == ["email.deferred", "email.bounced"]
    assert len(await reports(client, email_id)) == 2


async def test_vacation_notes_and_other_mail_are_kept_and_change_nothing(
    home: house.House, client: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    email_id, path = await sent(client, relay)
    for raw in (bounces.VACATION, bounces.ORDINARY, bounces.complaint("not-spam")):
        await letters.hand_in(home, raw, path)
    await letters.hand_in(home, bounces.report("user@recipient.example"), path, sender="")
    assert [event["type"] for event in await told(client, email_id, "bounced")] == ["email.bounced"]
    assert [kept["applied_at"] is not None for kept in await reports(client, email_id)] == [True] * 4
    assert relay.count == 1  # nothing was answered


async def test_a_forged_return_path_hears_what_a_genuine_one_hears_and_changes_nothing(
    home: house.House, client: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """Negative controls: with no comparison of the HMAC in `ReturnPaths.delivery` it failed, for a delay was told. With
    RETURN_PATH_DOMAIN unknown to Territory it failed, for `bounces@` and `postmaster@` heard 550 5.7.1."""
    email_id, path = await sent(client, relay)
    local, _, domain = path.partition("@")
    forged = [
        *(f"{local[:-1]}{'b' if local[-1] == 'a' else 'a'}@{domain}", f"bounces+@{domain}", f"bounces+x@{domain}"),
        *(f"bounces@{domain}", f"postmaster@{domain}", f"{local[:-16]}{'a' * 16}@{domain}"),
    ]
    late = bounces.report("user@recipient.example", action="delayed", status="4.4.1", said="451 4.4.1 not yet")
    raw, heard = bounces.report("user@recipient.example"), []
    async with letters.session(home) as peer:
        for recipient in (*forged, path):
            replies = await letters.give(peer, raw if recipient == path else late, recipient, sender="")
            assert letters.QUEUED.fullmatch(replies[-1])
            heard.append([*replies[:-1], replies[-1].rpartition(" ")[0]])
    assert all(replies == heard[-1] for replies in heard)
    assert [event["type"] for event in await told(client, email_id, "bounced")] == ["email.bounced"]
    assert len(await reports(client, email_id)) == 1
    elsewhere = await letters.sent(home, raw, f"{local}@elsewhere.example")
    assert elsewhere.startswith("550 5.7.1")


TABLES = ("emails", "deliveries", "callbacks", "suppressions", "provider_messages")


async def _all_states(home: house.House) -> list[str]:
    """What forged mail must not change, in whoever's account."""
    digest = "select md5(string_agg(t::text, '' order by t::text)) from {} t"
    async with letters.sql(home) as connection:
        found = [await connection.fetchval(digest.format(table)) for table in TABLES]
        told = await connection.fetchval("select count(*) from events where type like 'email.%'")
    return [*map(str, found), str(told)]


def _forged(dice: random.Random, path: str, box: str) -> tuple[str, bytes]:
    """A recipient that somebody made up, or that is for anybody, and what pretends to come back."""
    local, _, domain = path.partition("@")
    letters_of_base32 = "abcdefghijklmnopqrstuvwxyz234567"
    at = dice.randrange(local.index("+") + 1, len(local))
    changed = f"{local[:at]}{dice.choice(letters_of_base32.replace(local[at], ''))}{local[at + 1 :]}@{domain}"
    made_up = f"bounces+{''.join(dice.choices(letters_of_base32, k=42))}@{domain}"
    to = dice.choice((changed, made_up, f"complaints@{domain}", f"postmaster@{domain}", box, "nobody@postroom.test"))
    named = dice.choice((changed, made_up, "user@recipient.example"))
    raw = dice.choice((bounces.report("user@recipient.example"), bounces.complaint(path=named), bounces.VACATION))
    return to, f"Message-ID: <{local}@x>\r\nX-Failed-Recipients: {named}\r\n".encode() + raw


@pytest.mark.parametrize(
    "count_", [pytest.param(60, id="short"), pytest.param(752, id="long", marks=pytest.mark.faults)]
)
async def test_reports_that_anybody_makes_up_change_nothing(
    home: house.House, client: httpx2.AsyncClient, relay: sink.Sink, count_: int
) -> None:
    """Addresses changed by one letter, made up, and such as anybody may write to; then a genuine one, which is heard.

    With no comparison of the HMAC in `ReturnPaths.delivery` reports were kept, and it failed."""
    email_id, path = await sent(client, relay)
    box = await letters.mailbox(client)
    dice, before = random.Random(count_), await _all_states(home)
    async with letters.session(home) as peer:
        for _ in range(count_):
            to, raw = _forged(dice, path, box["address"])
            replies = await letters.give(peer, raw, to, sender=dice.choice(("", "mailer-daemon@recipient.example")))
            assert letters.QUEUED.fullmatch(replies[-1])
    await feedback_round(home)
    assert await _all_states(home) == before
    assert relay.count == 1
    await letters.hand_in(home, bounces.report("user@recipient.example"), path, sender="")
    assert [event["type"] for event in await told(client, email_id, "bounced")] == ["email.bounced"]


async def feedback_round(home: house.House) -> None:
    """Apply what came, as workers do each round."""
    async with databases.opened(home.dsn) as database:
        await feedback.Feedback(database, told=lambda _: None).apply_reports()


@pytest.mark.parametrize(
    "count_", [pytest.param(100, id="short"), pytest.param(1000, id="long", marks=pytest.mark.faults)]
)
async def test_mail_is_never_answered_whoever_it_says_it_is_from(
    home: house.House, client: httpx2.AsyncClient, relay: sink.Sink, count_: int
) -> None:
    """To live, unknown, expired and deleted mailboxes, and to some that are refused: nothing leaves."""
    live, expired, deleted = [await letters.mailbox(client) for _ in range(3)]
    await letters.expire(home, expired["id"])
    await client.delete(f"/mailboxes/{deleted['id']}")
    places = [live["address"], expired["address"], deleted["address"], "nobody@postroom.test", "a@evil.example"]
    senders = ["victim@recipient.example", "", live["address"], "postmaster@postroom.test", '"a b"@recipient.example']
    before = await _all_states(home)
    for first in range(0, count_, 50):  # each session has but so many errors
        async with letters.session(home) as peer:
            for number in range(first, first + 50):
                raw = letters.letter(str(number), Return_Receipt_To="victim@recipient.example", Precedence="bulk")
                sender = senders[number // len(places) % len(senders)]
                to = [places[number % len(places)], live["address"]]
                replies = await letters.give(peer, raw, *to[: 1 + (to[0] == "a@evil.example")], sender=sender)
                assert letters.QUEUED.fullmatch(replies[-1])
    await feedback_round(home)
    assert await _all_states(home) == before
    assert (relay.count, relay.connections) == (0, 0)
    stored = await letters.listed(client, f"/mailboxes/{live['id']}/messages", limit=200)
    assert len(stored) == min(200, count_ // 5 * 2)
    nulls = "select count(*) from messages where mailbox_id = $1 and mail_from = ''"
    assert await count(home, nulls, live["id"]) == count_ // 5 * 2 // 5


async def test_a_report_for_a_return_path_and_a_mailbox_comes_to_both(
    home: house.House, client: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    email_id, path = await sent(client, relay)
    box = await letters.mailbox(client)
    await letters.hand_in(home, bounces.report("user@recipient.example"), box["address"], path, sender="")
    assert [event["type"] for event in await told(client, email_id, "bounced")] == ["email.bounced"]
    message = await letters.only_message(client, box["id"])
    assert message["envelope"]["rcpt_to"] == [box["address"]]


async def test_no_more_than_twenty_reports_of_one_mail_are_kept(
    home: house.House, client: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """Whoever got the mail could fill the disk. Negative control: with no look at `has_room` it failed, with 22."""
    email_id, path = await sent(client, relay)
    async with letters.session(home) as peer:
        for number in range(callbacks.MAX_REPORTS + 2):
            replies = await letters.give(peer, bounces.ORDINARY + b"%d\r\n" % number, path)
            assert letters.QUEUED.fullmatch(replies[-1])
    assert len(await reports(client, email_id)) == callbacks.MAX_REPORTS


async def test_what_a_report_says_belongs_to_its_account_alone(
    home: house.House, client: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    email_id, path = await sent(client, relay)
    await letters.hand_in(home, bounces.report("user@recipient.example"), path, sender="")
    await told(client, email_id, "bounced")
    [kept] = await reports(client, email_id)
    another, _ = await sent(client, relay, to="other@recipient.example")
    assert (await client.get(f"/emails/{another}/reports/{kept['id']}")).status_code == 404
    async with home.client((await home.tenant()).key) as stranger:
        for rest in ("", f"/{kept['id']}"):
            assert (await stranger.get(f"/emails/{email_id}/reports{rest}")).status_code == 404
        assert await suppressions(stranger) == {}


async def test_a_bounce_that_overtakes_the_verdict_waits_for_it(
    home: house.House, client: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """The relay's own bounce is here before its reply to the final dot."""
    answer = asyncio.Event()
    relay.next("dot", sink.late(answer))
    email_id = await sending.send(client)
    await relay.until(lambda: len(relay.messages) == 1)
    await letters.hand_in(home, bounces.report("user@recipient.example"), relay.messages[0].mail_from, sender="")
    [kept] = await reports(client, email_id)
    assert kept["applied_at"] is None
    answer.set()
    await told(client, email_id, "bounced")
    events = [event["type"] for event in await sending.timeline(client, email_id)]
    assert events == ["email.queued", "email.sent", "email.bounced"]


# Whatever dies


async def test_a_report_that_was_confirmed_is_applied_though_the_web_process_is_killed(
    dsn: str, redis_url: str
) -> None:
    """Killed right after its 250; no worker runs yet. (What workers do every second is done here by hand.)

    Negative control: with `Returned.keep` begun by a timer a second after the 250 it failed, for nothing was kept.
    """
    settings = {"RETURN_PATH_DOMAIN": bounces.RETURN_DOMAIN}
    async with (
        house.standing(dsn, redis_url, programs=("serve",), settings=settings) as home,
        databases.opened(dsn) as database,
    ):
        account_id = (await home.tenant()).account_id
        email = await rows.email(database, account_id)
        await rows.handed_over(database, account_id, email)
        path = bounces.PATHS.address(email.deliveries[0].id)
        await letters.hand_in(home, bounces.report("user@recipient.example"), path, sender="")
        home.kill("serve")
        await feedback.Feedback(database, told=lambda _: None).apply_reports()
        assert [event.type for event in await rows.log_of(database, account_id)][-1] == "email.bounced"


# Tenants' own return domains


async def test_mail_from_a_domain_with_an_alias_has_its_return_path_there(
    place: Place, client: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """So that SPF is aligned with From; from the moment on when the alias was seen, until it is seen no more."""
    name = f"d{uuid7().hex}.example"
    made = await claimed(client, name)
    alias = next(record for record in made["records"] if record["purpose"] == "return_path")
    assert (alias["type"], alias["name"], alias["value"], alias["required"]) == (
        *("CNAME", f"bounces.{name}", bounces.RETURN_DOMAIN),
        False,
    )
    del made["records"][-1]
    place.publish(made)
    shown = await looked_at(client, name)
    assert (shown["status"], states(shown)["return_path"]) == ("verified", "missing")
    place.zone[f"bounces.{name}"] = {"CNAME": ["another.example."]}
    assert states(await looked_at(client, name))["return_path"] == "wrong"
    place.zone[f"bounces.{name}"] = {"CNAME": [f"{bounces.RETURN_DOMAIN}."]}
    assert states(await looked_at(client, name))["return_path"] == "ok"
    email_id, path = await sent(client, relay, from_=f"a@{name}")
    assert path.endswith(f"@bounces.{name}")
    async with letters.session(place.home) as peer:
        heard = [
            await letters.give(peer, bounces.report("user@recipient.example"), recipient, sender="")
            for recipient in (f"bounces+{'a' * 42}@bounces.{name}", f"x@bounces.{name}", path)
        ]
    assert len({(*replies[:-1], replies[-1].rpartition(" ")[0]) for replies in heard}) == 1
    assert [event["type"] for event in await told(client, email_id, "bounced")] == ["email.bounced"]
    await client.delete(f"/domains/{name}")
    late = bounces.complaint()
    await letters.hand_in(place.home, late, path, sender="")  # whoever has the domain by now
    await told(client, email_id, "complained")
    assert (await client.post("/domains", json={"name": bounces.RETURN_DOMAIN})).status_code == 422


async def test_mail_from_anywhere_else_has_the_usual_one(
    place: Place, client: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    name = f"d{uuid7().hex}.example"
    made = await claimed(client, name)
    del made["records"][-1]
    place.publish(made)
    assert states(await looked_at(client, name))["return_path"] == "missing"
    for author in (f"a@{name}", "a@postroom.test", "a@sender.example"):
        _, path = await sent(client, relay, from_=author)
        assert path.endswith(f"@{bounces.RETURN_DOMAIN}")
