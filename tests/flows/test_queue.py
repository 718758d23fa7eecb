"""The queue as its callers see it: delays told, recipients tried again or left, e-mails sent anew, old ones gone."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable
from typing import Any

import asyncpg
import httpx2
import pytest

from tests import house, sending
from tests.flows.test_mailboxes import refused
from tests.outbound import sink

pytestmark = pytest.mark.anyio

REFUSED = sink.reply("550 5.7.1 not from you")  # a bounce that suppresses nobody


async def bounced(client: httpx2.AsyncClient, relay: sink.Sink, **changes: Any) -> str:
    """An e-mail all of whose recipients bounced."""
    relay.always("rcpt", REFUSED)
    email_id = await sending.send(client, **changes)
    await sending.resting(client, email_id)
    relay.always("rcpt", None)
    return email_id


async def statuses(client: httpx2.AsyncClient, *email_ids: str) -> list[dict[str, str]]:
    found = [(await sending.read(client, email_id))["recipients"] for email_id in email_ids]
    return [{one["address"]: one["status"] for one in recipients} for recipients in found]


async def moved(client: httpx2.AsyncClient, what: str, key: str | None = None, **wish: Any) -> dict[str, Any]:
    headers = {"Idempotency-Key": key} if key else {}
    answer = await client.post(f"/emails/{what}", json=wish, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def to(relay: sink.Sink) -> list[str]:
    """To whom the relay took something, sorted."""
    return sorted(recipient for message in relay.messages for recipient in message.recipients)


def fields(raw: bytes) -> dict[str, str]:
    block = raw.partition(b"\r\n\r\n")[0].decode()
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in block.split("\r\n"))}


def without(raw: bytes, names: Iterable[bytes]) -> bytes:
    return b"\r\n".join(line for line in raw.split(b"\r\n") if line.partition(b":")[0] not in names)


async def test_who_waits_too_long_is_told_of_once_and_what_ended_long_ago_is_gone(dsn: str, redis_url: str) -> None:
    """Times are a second long here: one relay that only ever puts off, and mail for an own mailbox, which ends."""
    hurry = {
        "DELAY_WARNING_SECONDS": "1",
        "EMAIL_RETENTION_SECONDS": "1",
        "ATTEMPT_RETENTION_SECONDS": "1",
        "EXPIRY_INTERVAL_SECONDS": "0.1",
        "RECLAIM_INTERVAL_SECONDS": "0.1",
        "RETRY_SCHEDULE": "0.7",
    }
    async with sink.Sink() as relay:
        relay.always("rcpt", sink.reply("451 4.3.0 not now"))
        async with sending.at_home(dsn, redis_url, None, OUTBOUND=relay.url("tls=none"), **hurry) as client:
            waiting = await sending.send(client)
            key = {"Idempotency-Key": "ended"}
            ended = await client.post("/emails", json=sending.letter(to="nobody@postroom.test"), headers=key)
            path = f"/emails/{ended.json()['id']}"
            async with asyncio.timeout(sending.PATIENCE):
                while (await client.get(path)).status_code == 200:
                    pass
                types: list[str] = []
                while types.count("email.deferred") < 3:
                    told = await sending.timeline(client, waiting)
                    types = [event["type"] for event in told]
            assert types.count("email.delayed") == 1
            [delayed] = [event["data"] for event in told if event["type"] == "email.delayed"]
            assert delayed["recipient"] == "user@recipient.example"
            assert delayed["reply"] == "451 4.3.0 not now"
            assert delayed["provider"] == f"smtp:127.0.0.1:{relay.port}"
            for gone in (path, f"{path}/attempts", f"{path}/raw"):
                assert (await client.get(gone)).json()["name"] == "not_found"
            assert (await client.post(f"{path}/retry")).status_code == 404
            again = await client.post("/emails", json=sending.letter(to="nobody@postroom.test"), headers=key)
            assert (again.json(), again.headers["Idempotent-Replayed"]) == (ended.json(), "true")
            assert [event["type"] for event in await sending.timeline(client, ended.json()["id"])] == [
                "email.queued",
                "email.delivered",
            ]
            assert [one["id"] for one in (await client.get("/emails")).json()["data"]] == [waiting]
            assert len(await sending.attempts(client, waiting)) >= 3
            await _until_suppressions_are_swept(dsn)


async def _until_suppressions_are_swept(dsn: str) -> None:
    """Of two, the one whose time is over, though what is swept before it fails. Negative controls: with no
    `forget_suppressions` among what is swept, and with one failure ending the round, the test gave up waiting."""
    insert = (
        "insert into suppressions (account_id, address, reason, expires_at) select a.id, t.address, 'manual', t.until"
        " from accounts a, (values ('over@x.example', now()), ('stays@x.example', null)) as t (address, until)"
        " where not a.is_void"
    )
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("alter table callbacks rename to elsewhere")
        await connection.execute(insert)
        async with asyncio.timeout(sending.PATIENCE):
            while len(rows := await connection.fetch("select address from suppressions")) > 1:
                pass
        assert [row["address"] for row in rows] == ["stays@x.example"]
    finally:
        await connection.close()


# One recipient, one e-mail


async def test_one_recipient_alone_is_tried_again(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    email_id = await bounced(sender, relay, to=["one@x.example", "Two@x.example"])
    path = f"/emails/{email_id}/retry"
    sending.refused(await sender.post(path, json={"recipients": ["one@x.example", "three@x.example"]}), "recipients[1]")
    sending.refused(await sender.post(path, json={"recipients": ["?"]}), "recipients[0]")
    sending.refused(await sender.post(path, json={"recipients": []}), "recipients")
    assert relay.messages == []
    answer = await sender.post(path, json={"recipients": ["Second <TWO@x.example>"]})
    assert (answer.status_code, answer.json()) == (200, {"object": "email", "id": email_id})
    await relay.until(lambda: len(relay.messages) == 1)
    await sending.resting(sender, email_id)
    assert await statuses(sender, email_id) == [{"one@x.example": "bounced", "Two@x.example": "sent"}]
    both = await sender.post(path, json={"recipients": ["one@x.example", "Two@x.example"]})
    assert "two@x.example is sent" in refused(both, 409, "invalid_state")["message"]
    assert await statuses(sender, email_id) == [{"one@x.example": "bounced", "Two@x.example": "sent"}]
    assert to(relay) == ["Two@x.example"]


async def test_who_is_held_for_gets_it_again_or_is_taken_to_have_it_as_the_caller_says(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """Two recipients whose line broke after the dot: "it did not arrive" is a retry, "it did" is a cancel."""
    relay.always("dot", sink.cut())
    email_id = await sending.send(sender, to=["lost@x.example", "there@x.example"], on_unknown="hold")
    held = await sending.resting(sender, email_id)
    assert held["status"] == "unknown"
    relay.always("dot", None)
    assert (await moved(sender, "retry"))["recipients"] == 0  # nobody who is held is among many, unasked
    assert (
        await sender.post(f"/emails/{email_id}/cancel", json={"recipients": ["there@x.example"]})
    ).status_code == 200
    assert (await sender.post(f"/emails/{email_id}/retry", json={"recipients": ["lost@x.example"]})).status_code == 200
    await sending.resting(sender, email_id, at=sending.FINAL)
    assert await statuses(sender, email_id) == [{"lost@x.example": "sent", "there@x.example": "canceled"}]
    assert to(relay) == ["lost@x.example", "lost@x.example", "there@x.example"]
    assert len({message.message_id for message in relay.messages}) == 1


# Many


async def test_many_are_tried_again_by_what_they_are(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    spring = [{"name": "campaign", "value": "spring"}]
    first = await bounced(sender, relay, to=["a@x.example", "b@x.example"], tags=spring)
    second = await bounced(sender, relay, to="c@x.example", tags=spring)
    other = await bounced(sender, relay, to="a@x.example")
    nothing = {"emails": 0, "recipients": 0, "has_more": False, "next_cursor": None}
    assert await moved(sender, "retry") == nothing  # who bounced is not tried again unless that is said
    for wish in (
        {"tag": "autumn"},
        {"provider": "mailgun"},
        {"to": "nobody@x.example"},
        {"until": (await sending.read(sender, first))["created_at"]},
    ):
        assert await moved(sender, "retry", status="bounced", **wish) == nothing
    page = await moved(sender, "retry", status="bounced", tag="campaign:spring", provider="smtp", limit=2)
    assert (page["emails"], page["recipients"], page["has_more"]) == (1, 2, True)
    page = await moved(sender, "retry", status="bounced", tag="spring", cursor=page["next_cursor"])
    assert page == {"emails": 1, "recipients": 1, "has_more": False, "next_cursor": None}
    for email_id in (first, second):
        await sending.resting(sender, email_id, at={"sent"})
    assert await statuses(sender, other) == [{"a@x.example": "bounced"}]
    assert to(relay) == ["a@x.example", "b@x.example", "c@x.example"]
    assert (await moved(sender, "retry", status="bounced", to="A@X.example"))["recipients"] == 0
    assert (await moved(sender, "retry", status="bounced", to="a@X.example"))["recipients"] == 1
    await sending.resting(sender, other, at={"sent"})
    told = [event["type"] for event in await sending.timeline(sender, first)]
    assert told.count("email.queued") == 2


async def test_many_are_tried_again_once_for_a_key(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    email_id = await bounced(sender, relay)
    first = await moved(sender, "retry", "k", status="bounced")
    await sending.resting(sender, email_id, at={"sent"})
    await bounced(sender, relay)
    answer = await sender.post("/emails/retry", json={"status": "bounced"}, headers={"Idempotency-Key": "k"})
    assert (answer.json(), answer.headers["Idempotent-Replayed"]) == (first, "true")
    assert relay.count == 1
    other = await sender.post("/emails/retry", json={}, headers={"Idempotency-Key": "k"})
    refused(other, 409, "invalid_idempotent_request")


async def test_many_are_canceled_by_what_they_are(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    later = {"scheduled_at": "in 1 day"}
    ids = [await sending.send(sender, to=[f"a{n}@x.example", "b@x.example"], **later) for n in range(3)]
    sent = await sending.send(sender)
    await sending.resting(sender, sent)
    assert (await moved(sender, "cancel", status="deferred"))["recipients"] == 0
    assert (await moved(sender, "cancel", to="b@x.example"))["recipients"] == 3
    assert await statuses(sender, ids[1]) == [{"a1@x.example": "scheduled", "b@x.example": "canceled"}]
    assert await moved(sender, "cancel") == {"emails": 3, "recipients": 3, "has_more": False, "next_cursor": None}
    assert await statuses(sender, sent) == [{"user@recipient.example": "sent"}]
    assert to(relay) == ["user@recipient.example"]
    sending.refused(await sender.post("/emails/cancel", json={"status": "sent"}), "status")
    sending.refused(await sender.post("/emails/retry", json={"cursor": "x"}), "cursor")


async def test_nobody_moves_what_is_anothers_nor_a_key_what_is_from_elsewhere(
    sending_house: house.House, sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """Negative controls: with the look at `domains` taken out of `among`, the key of one domain had both tried again;
    without the look at From in `resend` or `retry`, those were carried out; without it in `cancel`, 409 told of it."""
    mine = await bounced(sender, relay)
    theirs = await bounced(sender, relay, from_="app@other.example")
    async with sending_house.client((await sending_house.tenant()).key) as stranger:
        assert (await moved(stranger, "retry", status="bounced"))["recipients"] == 0
        assert (await moved(stranger, "cancel"))["recipients"] == 0
    made = await sender.post("/api-keys", json={"name": "one", "scopes": ["send"], "domains": ["sender.example"]})
    async with sending_house.client(made.json()["key"]) as limited:
        for what in ("retry", "resend", "cancel"):
            refused(await limited.post(f"/emails/{theirs}/{what}"), 403, "restricted_api_key")
        refused(await limited.patch(f"/emails/{theirs}", json={"scheduled_at": "in 1 hour"}), 403, "restricted_api_key")
        assert (await moved(limited, "retry", status="bounced"))["recipients"] == 1
    await sending.resting(sender, mine, at={"sent"})
    assert await statuses(sender, theirs) == [{"user@recipient.example": "bounced"}]


# Anew


async def test_an_email_is_sent_anew_as_another_one(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    """Message-ID and Date are its own, all else is as it was, to every recipient it had."""
    file = {"filename": "größe.txt", "content": base64.b64encode(b"x" * 100).decode()}
    first = await sending.send(
        sender,
        to="Zoë <zoe@x.example>",
        cc="c@x.example",
        bcc="b@x.example",
        html="<p>hello</p>",
        attachments=[file],
        tags=[{"name": "kind", "value": "receipt"}],
        metadata={"order": 7},
        headers={"X-Campaign": "spring"},
    )
    await sending.resting(sender, first)
    wishes = [sender.post(f"/emails/{first}/resend", headers={"Idempotency-Key": "k"}) for _ in range(5)]
    answers = await asyncio.gather(*wishes)
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    second = answers[0].json()["id"]
    assert answers[0].json() == {"id": second, "status": "queued"} != {"id": first, "status": "queued"}
    shown = [await sending.resting(sender, one) for one in (first, second)]
    for name in ("from", "to", "cc", "bcc", "subject", "tags", "metadata", "text", "html", "attachments"):
        assert shown[0][name] == shown[1][name], name
    raws = [(await sender.get(f"/emails/{one}/raw")).content for one in (first, second)]
    own = [(fields(raw)["message-id"], fields(raw)["date"]) for raw in raws]
    assert own[1][0] == shown[1]["message_id"] == f"<{second}@sender.example>" != own[0][0]
    assert sorted(without(raws[0], (b"Message-ID", b"Date")).splitlines()) == sorted(
        without(raws[1], (b"Message-ID", b"Date")).splitlines()
    )
    assert sorted(relay.taken.values()) == [1] * 6
    assert to(relay) == sorted(["zoe@x.example", "c@x.example", "b@x.example"] * 2)


async def test_an_email_is_sent_anew_to_others_and_later(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    first = await bounced(sender, relay, to="ann@x.exmaple", cc="c@x.example", bcc="b@x.example")
    await sender.post("/suppressions", json={"address": "gone@x.example"})
    wish = {"to": ["Ann Lee <ann@x.example>", "gone@x.example"]}
    answer = await sender.post(f"/emails/{first}/resend", json=wish)
    assert answer.status_code == 202
    second = await sending.resting(sender, answer.json()["id"])
    assert (second["to"], second["cc"], second["bcc"]) == (["Ann Lee <ann@x.example>", "gone@x.example"], [], [])
    assert await statuses(sender, second["id"]) == [{"ann@x.example": "sent", "gone@x.example": "suppressed"}]
    [message] = relay.messages
    head = fields(message.raw)
    assert (head["to"], head.get("cc"), head.get("bcc")) == ("Ann Lee <ann@x.example>, gone@x.example", None, None)
    later = await sender.post(f"/emails/{first}/resend", json={"scheduled_at": "in 1 hour"})
    assert later.json()["status"] == "scheduled"
    assert (await sending.read(sender, later.json()["id"]))["to"] == ["ann@x.exmaple"]
    for body, field in (({"to": []}, "to"), ({"to": ["?"]}, "to[0]"), ({"scheduled_at": "soonish"}, "scheduled_at")):
        sending.refused(await sender.post(f"/emails/{first}/resend", json=body), field)


@pytest.mark.parametrize("content", [b"", b"null", b"{}"])
async def test_who_says_nothing_means_all_recipients(
    sender: httpx2.AsyncClient, relay: sink.Sink, content: bytes
) -> None:
    later = {"scheduled_at": "in 1 day"}
    email_id = await sending.send(sender, to=["a@x.example", "b@x.example"], **later)
    headers = {"Content-Type": "application/json"}
    answer = await sender.post(f"/emails/{email_id}/cancel", content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    assert (await sending.read(sender, email_id))["status"] == "canceled"
    again = await bounced(sender, relay, to=["a@x.example", "b@x.example"])
    answer = await sender.post(f"/emails/{again}/retry", content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    await sending.resting(sender, again, at={"sent"})
