"""What POST /v1/emails takes, what it refuses, and that a key means one e-mail; cancelling, rescheduling, lists."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx2
import pytest

from tests import house, sending
from tests.outbound import sink

pytestmark = pytest.mark.anyio

CONTROLS = ("\r\nBcc: eve@evil.example", "\nX-Evil: 1", "\rX-Evil: 1", "\0", "\x0b", "\x1b[2J", "\x7f", "\x85")
FILE = {"filename": "a.txt", "content": base64.b64encode(b"a").decode()}


@contextlib.asynccontextmanager
async def _neighbour(
    home: house.House, redis_url: str, client: httpx2.AsyncClient, **settings: str
) -> AsyncIterator[httpx2.AsyncClient]:
    key = client.headers["Authorization"].partition(" ")[2]
    async with (
        house.standing(home.dsn, redis_url, programs=("serve",), settings=settings) as another,
        another.client(key) as client_there,
    ):
        yield client_there


@pytest.fixture
async def second(
    sending_house: house.House, redis_url: str, sender: httpx2.AsyncClient
) -> AsyncIterator[httpx2.AsyncClient]:
    """The same account's client at another web process over the same database."""
    async with _neighbour(sending_house, redis_url, sender) as client:
        yield client


@pytest.fixture
async def narrow(
    sending_house: house.House, redis_url: str, sender: httpx2.AsyncClient
) -> AsyncIterator[httpx2.AsyncClient]:
    """The same, at one that lets three recipients wait."""
    async with _neighbour(sending_house, redis_url, sender, MAX_QUEUED="3") as client:
        yield client


async def _only_mark_arrives(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    """Whatever was asked before has left nothing: the next e-mail is the only one there."""
    mark = await sending.send(sender, subject="mark")
    shown = await sending.resting(sender, mark)
    assert [message.message_id for message in relay.messages] == [shown["message_id"]]
    listed = (await sender.get("/emails")).json()["data"]
    assert [one["id"] for one in listed] == [mark]


# Idempotency


async def test_two_hundred_requests_with_one_key_are_one_email(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    """With every key taken for a new one in Outbox._claim, the 200 answers were 200 different ones."""
    headers = {"Idempotency-Key": "order 42 / confirmation"}
    posts = [sender.post("/emails", json=sending.letter(), headers=headers) for _ in range(200)]
    answers = await asyncio.gather(*posts)
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    replayed = [answer.headers.get("Idempotent-Replayed") for answer in answers]
    assert replayed.count("true") == 199
    assert replayed.count(None) == 1
    await sending.resting(sender, answers[0].json()["id"])
    assert relay.count == 1
    assert len((await sender.get("/emails")).json()["data"]) == 1


async def test_a_key_means_one_email_over_all_processes(
    sender: httpx2.AsyncClient, second: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    keys = [f"key-{number}" for number in range(3)]

    async def post(client: httpx2.AsyncClient, key: str) -> tuple[str, str]:
        answer = await client.post("/emails", json=sending.letter(), headers={"Idempotency-Key": key})
        assert answer.status_code == 202, answer.text
        return key, answer.json()["id"]

    told = await asyncio.gather(*(post(client, key) for _ in range(10) for key in keys for client in (sender, second)))
    ids = dict(told)
    assert set(told) == set(ids.items())
    for email_id in ids.values():
        await sending.resting(sender, email_id)
    assert relay.count == 3


async def test_the_same_key_with_another_payload_is_refused(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    email_id = await sending.send(sender, key="k")
    headers = {"Idempotency-Key": "k"}
    other = await sender.post("/emails", json=sending.letter(subject="Other"), headers=headers)
    assert (other.status_code, other.json()["name"]) == (409, "invalid_idempotent_request")
    reordered = dict(reversed(sending.letter().items()))  # the same JSON value in another order
    again = await sender.post("/emails", json=reordered, headers=headers)
    assert (again.json(), again.headers["Idempotent-Replayed"]) == ({"id": email_id, "status": "queued"}, "true")
    await sending.resting(sender, email_id)
    assert relay.count == 1


async def test_a_key_belongs_to_its_account_and_its_path(
    sending_house: house.House, sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    headers = {"Idempotency-Key": "k"}
    first = await sending.send(sender, key="k")
    batch = await sender.post("/emails/batch", json=[sending.letter()], headers=headers)
    async with sending_house.client((await sending_house.tenant()).key) as stranger:
        theirs = await sending.send(stranger, key="k")
        await sending.resting(stranger, theirs)
    assert "Idempotent-Replayed" not in batch.headers
    for email_id in (first, batch.json()["data"][0]["id"]):
        await sending.resting(sender, email_id)
    assert relay.count == 3


async def test_a_request_that_was_refused_leaves_its_key_free(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    headers = {"Idempotency-Key": "k"}
    refused = await sender.post("/emails", json=sending.letter(to="nobody"), headers=headers)
    assert refused.status_code == 422
    await sending.resting(sender, await sending.send(sender, key="k"))
    assert relay.count == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there"])
async def test_a_key_is_1_to_255_printable_characters(sender: httpx2.AsyncClient, key: str) -> None:
    answer = await sender.post("/emails", json=sending.letter(), headers={"Idempotency-Key": key})
    assert (answer.status_code, answer.json()["name"]) == (400, "invalid_idempotency_key")


async def test_a_key_whose_first_request_still_runs_elsewhere_is_told_so(
    sending_house: house.House, sender: httpx2.AsyncClient
) -> None:
    """Another process that does not come to its end: a transaction that holds the key's row and is rolled back."""
    email_id = await sending.send(sender, key="k")
    connection = await asyncpg.connect(sending_house.dsn)
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(
            "insert into idempotency_keys (account_id, endpoint, key, fingerprint, status, answer, created_at)"
            " select account_id, endpoint, 'other', fingerprint, status, answer, created_at from idempotency_keys"
            " where account_id = (select account_id from emails where id = $1)",
            email_id,
        )
        answer = await sender.post("/emails", json=sending.letter(), headers={"Idempotency-Key": "other"})
        assert (answer.status_code, answer.json()["name"]) == (409, "concurrent_idempotent_requests")
        assert int(answer.headers["Retry-After"]) >= 1
        await transaction.rollback()
    finally:
        await connection.close()
    other = await sending.send(sender, key="other")
    assert other != email_id
    for one in (email_id, other):
        await sending.resting(sender, one)


# Quotas


async def test_more_waiting_recipients_than_max_queued_are_refused(narrow: httpx2.AsyncClient) -> None:
    later = {"scheduled_at": "in 1 day"}
    first = await sending.send(narrow, key="first", to=["a@x.example", "b@x.example"], **later)
    over = await narrow.post("/emails", json=sending.letter(to=["c@x.example", "d@x.example"], **later))
    assert (over.status_code, over.json()["name"]) == (429, "quota_exceeded")
    assert int(over.headers["Retry-After"]) >= 1
    batch = await narrow.post("/emails/batch", json=[sending.letter(**later)] * 2)
    assert (batch.status_code, batch.json()["name"]) == (429, "quota_exceeded")
    await sending.send(narrow, to="c@x.example", **later)
    assert len((await narrow.get("/emails")).json()["data"]) == 2
    assert (await narrow.post(f"/emails/{first}/cancel")).status_code == 200
    async with asyncio.timeout(sending.PATIENCE):  # a count is believed for a second
        while (await narrow.post("/emails", json=sending.letter(**later))).status_code != 202:
            pass


async def test_who_waits_already_may_be_tried_again_however_many_wait_and_others_not(
    narrow: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """Negative control: with a look at the quota for them, too, those that an outage had put off were refused (429)."""
    relay.next("rcpt", sink.reply("550 5.7.1 not from you"))
    bounced = await sending.send(narrow)
    await sending.resting(narrow, bounced)
    relay.always("rcpt", sink.reply("451 4.3.0 not now"))
    deferred = await sending.send(narrow)
    await sending.resting(narrow, deferred, at={"deferred"})
    later = sending.letter(to=["a@x.example", "b@x.example"], scheduled_at="in 1 day")
    async with asyncio.timeout(sending.PATIENCE):
        while (await narrow.post("/emails", json=later)).status_code == 429:
            pass  # how many wait is believed for a second, and the bounced one was among them
    for wish in ({"status": "deferred"}, {}):
        assert (await narrow.post("/emails/retry", json=wish)).status_code == 200
    over = await narrow.post("/emails/retry", json={"status": "bounced"})
    assert (over.status_code, over.json()["name"]) == (429, "quota_exceeded")
    assert (await sending.read(narrow, bounced))["status"] == "bounced"
    relay.always("rcpt", None)
    await sending.resting(narrow, deferred)
    assert (await narrow.post("/emails/retry", json={"status": "bounced"})).json()["recipients"] == 1
    await sending.resting(narrow, bounced, at={"sent"})


async def test_a_repeated_request_is_answered_whatever_waits(narrow: httpx2.AsyncClient) -> None:
    letter = {"to": ["a@x.example", "b@x.example", "c@x.example"], "scheduled_at": "in 1 day"}
    email_id = await sending.send(narrow, key="k", **letter)
    for _ in range(3):
        assert await sending.send(narrow, key="k", **letter) == email_id


# Batches


async def test_a_strict_batch_with_one_bad_email_sends_nothing(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    batch = [sending.letter(), sending.letter(to=["ok@x.example", "not an address"]), sending.letter()]
    answer = await sender.post("/emails/batch", json=batch)
    sending.refused(answer, "[1].to[1]")
    unknown = await sender.post("/emails/batch", json=[sending.letter(), sending.letter(colour="red")])
    sending.refused(unknown, "[1].colour")
    await _only_mark_arrives(sender, relay)


async def test_a_permissive_batch_sends_the_good_ones(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    batch = [sending.letter(to="a@x.example"), sending.letter(to="?"), 7, sending.letter(to="b@x.example")]
    headers = {"x-batch-validation": "permissive", "Idempotency-Key": "k"}
    answer = await sender.post("/emails/batch", json=batch, headers=headers)
    assert answer.status_code == 202
    assert [problem["index"] for problem in answer.json()["errors"]] == [1, 2]
    assert all(problem["message"] for problem in answer.json()["errors"])
    ids = [one["id"] for one in answer.json()["data"]]
    for email_id in ids:
        await sending.resting(sender, email_id)
    assert sorted(message.recipients for message in relay.messages) == [("a@x.example",), ("b@x.example",)]
    again = await sender.post("/emails/batch", json=batch, headers=headers)
    assert (again.json(), again.headers["Idempotent-Replayed"]) == (answer.json(), "true")


async def test_a_batch_is_sent_once_for_a_key_with_its_attachments(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    batch = [sending.letter(to=f"user{number}@x.example", attachments=[FILE]) for number in range(20)]
    posts = [sender.post("/emails/batch", json=batch, headers={"Idempotency-Key": "k"}) for _ in range(10)]
    answers = await asyncio.gather(*posts)
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert list(answers[0].json()) == ["data"]
    for one in answers[0].json()["data"]:
        await sending.resting(sender, one["id"])
    assert relay.count == 20
    assert set(relay.taken.values()) == {1}
    assert all(b"a.txt" in message.raw for message in relay.messages)


async def test_a_permissive_batch_of_bad_ones_alone_sends_nothing(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    headers = {"x-batch-validation": "permissive"}
    answer = await sender.post("/emails/batch", json=[{}, sending.letter(to="?")], headers=headers)
    assert answer.status_code == 202
    assert answer.json()["data"] == []
    assert [problem["index"] for problem in answer.json()["errors"]] == [0, 1]
    await _only_mark_arrives(sender, relay)


@pytest.mark.parametrize("count", [0, 1001])
async def test_a_batch_has_1_to_1000_emails(sender: httpx2.AsyncClient, count: int) -> None:
    answer = await sender.post("/emails/batch", json=[sending.letter()] * count)
    assert (answer.status_code, answer.json()["name"]) == (422, "validation_error")


# What is refused at the door


async def test_controls_in_a_header_are_refused_wherever_they_are_put(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """Two guards: without compose's look at the controls, reading back what was composed still refused the e-mail, but
    named no field; without both, the first e-mail with a Bcc in its subject was answered 202."""
    for evil in CONTROLS:
        wanted: list[tuple[str, dict[str, Any]]] = [
            ("subject", {"subject": f"Hello{evil}"}),
            ("from", {"from_": f"App{evil} <app@sender.example>"}),
            ("from", {"from_": f"app@sender.example{evil}"}),
            ("headers", {"headers": {"X-Tag": f"a{evil}"}}),
            ("headers", {"headers": {f"X-Tag{evil}": "a"}}),
            ("attachments[0].filename", {"attachments": [{**FILE, "filename": f"a{evil}.txt"}]}),
            ("attachments[0].content_type", {"attachments": [{**FILE, "content_type": f"text/plain{evil}"}]}),
            ("attachments[0].content_id", {"attachments": [{**FILE, "content_id": f"a{evil}"}]}),
            ("tags[0].value", {"tags": [{"name": "a", "value": f"a{evil}"}]}),
        ]
        for field in ("to", "cc", "bcc", "reply_to"):
            wanted += [
                (field, {field: f"Ann{evil} <ann@x.example>"}),
                (field, {field: f"ann@x.example{evil}"}),
                (f"{field}[1]", {field: ["bob@x.example", f'"Ann{evil}" <ann@x.example>']}),
            ]
        for field, changes in wanted:
            answer = await sender.post("/emails", json=sending.letter(**changes))
            assert answer.status_code == 422, (field, evil, answer.text)
            named = [error["field"] for error in answer.json()["errors"]]
            assert any(name.startswith(field) for name in named), (field, evil, answer.text)
    await _only_mark_arrives(sender, relay)


@pytest.mark.parametrize("name", ["", "X Tag", "X:Tag", "Ünïcode", "X-Tag:", "X\tTag"])
async def test_header_names_outside_rfc_5322_are_refused(sender: httpx2.AsyncClient, name: str) -> None:
    answer = await sender.post("/emails", json=sending.letter(headers={name: "x"}))
    assert (answer.status_code, answer.json()["name"]) == (422, "validation_error")


@pytest.mark.parametrize(
    "name", ["From", "SENDER", "bcc", "Return-Path", "Received", "DKIM-Signature", "dkim-signature"]
)
async def test_headers_that_are_ours_are_refused(sender: httpx2.AsyncClient, name: str) -> None:
    answer = await sender.post("/emails", json=sending.letter(headers={name: "x@y.example"}))
    assert (answer.status_code, answer.json()["name"]) == (422, "validation_error")
    assert any(error["field"].startswith("headers") for error in answer.json()["errors"])


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("to", {"to": []}),
        ("to", {"to": "nobody"}),
        ("to[1]", {"to": ["a@b.example", "a@b@c.example"]}),
        ("to", {"to": [f"user{number}@x.example" for number in range(51)]}),
        ("to", {"to": [f"user{number}@x.example" for number in range(30)], "cc": ["c@x.example"] * 21}),
        ("from", {"from_": "a@b.example, c@d.example"}),
        ("colour", {"colour": "red"}),
        ("expires_in", {"expires_in": 0}),
        ("on_unknown", {"on_unknown": "maybe"}),
        ("scheduled_at", {"scheduled_at": "soonish"}),
        ("scheduled_at", {"scheduled_at": "2199-01-01T00:00:00Z"}),
        ("tags[0].name", {"tags": [{"name": "a b", "value": "c"}]}),
    ],
)
async def test_what_cannot_be_sent_is_refused_by_the_field(
    sender: httpx2.AsyncClient, field: str, changes: dict[str, Any]
) -> None:
    sending.refused(await sender.post("/emails", json=sending.letter(**changes)), field)


@pytest.mark.parametrize(("field", "missing"), [("from", "from_"), ("to", "to"), ("subject", "subject")])
async def test_what_is_missing_is_named(sender: httpx2.AsyncClient, field: str, missing: str) -> None:
    answer = await sender.post("/emails", json=sending.letter(**{missing: None}))
    sending.refused(answer, field, "missing_required_field")


async def test_an_email_needs_a_body(sender: httpx2.AsyncClient) -> None:
    answer = await sender.post("/emails", json=sending.letter(text=None))
    assert (answer.status_code, answer.json()["name"]) == (422, "missing_required_field")


@pytest.mark.parametrize(
    ("field", "attachment"),
    [
        ("attachments[0].path", {"filename": "a.txt", "path": "https://evil.example/a.txt"}),
        ("attachments[0].content", {"filename": "a.txt"}),
        ("attachments[0].content", {"filename": "a.txt", "content": "not base64!"}),
    ],
)
async def test_an_attachment_that_cannot_be_used_is_refused(
    sender: httpx2.AsyncClient, field: str, attachment: dict[str, Any]
) -> None:
    answer = await sender.post("/emails", json=sending.letter(attachments=[attachment]))
    sending.refused(answer, field, "invalid_attachment")


async def test_byte_values_of_an_attachment_are_0_to_255(sender: httpx2.AsyncClient) -> None:
    answer = await sender.post("/emails", json=sending.letter(attachments=[{"filename": "a", "content": [0, 256]}]))
    sending.refused(answer, "attachments[0].content[1]")


async def test_a_key_without_the_scope_may_not_send_and_one_for_a_domain_only_from_it(
    sending_house: house.House, sender: httpx2.AsyncClient
) -> None:
    reader = await sending_house.tenant(("read",))
    async with sending_house.client(reader.key) as client:
        answer = await client.post("/emails", json=sending.letter())
    assert (answer.status_code, answer.json()["name"]) == (403, "restricted_api_key")
    made = await sender.post("/api-keys", json={"name": "one", "scopes": ["send"], "domains": ["sender.example"]})
    async with sending_house.client(made.json()["key"]) as client:
        answer = await client.post("/emails", json=sending.letter(from_="app@other.example", scheduled_at="in 1 day"))
        assert (answer.status_code, answer.json()["name"]) == (403, "restricted_api_key")
        await sending.send(client, scheduled_at="in 1 day")


# Later


async def test_a_scheduled_email_waits_and_is_rescheduled_and_sent(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    answer = await sender.post("/emails", json=sending.letter(scheduled_at="in 10 min"))
    assert answer.json()["status"] == "scheduled"
    email_id = answer.json()["id"]
    shown = await sending.read(sender, email_id)
    assert shown["status"] == "scheduled"
    wait = datetime.fromisoformat(shown["scheduled_at"]) - datetime.fromisoformat(shown["created_at"])
    assert timedelta(minutes=9) < wait <= timedelta(minutes=10, seconds=5)
    body = {"scheduled_at": datetime.now(UTC).isoformat(), "id": email_id}  # Resend's clients repeat the id
    changed = await sender.patch(f"/emails/{email_id}", json=body)
    assert (changed.status_code, changed.json()) == (200, {"object": "email", "id": email_id})
    assert (await sending.resting(sender, email_id))["status"] == "sent"
    assert relay.count == 1
    events = [event["type"] for event in await sending.timeline(sender, email_id)]
    assert events == ["email.scheduled", "email.scheduled", "email.sent"]
    late = await sender.patch(f"/emails/{email_id}", json={"scheduled_at": "in 1 hour"})
    assert (late.status_code, late.json()["name"]) == (409, "invalid_state")


async def test_a_scheduled_email_that_is_canceled_is_never_sent(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    moment = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    email_id = await sending.send(sender, scheduled_at=moment, to=["a@x.example", "b@x.example"])
    answer = await sender.post(f"/emails/{email_id}/cancel")
    assert (answer.status_code, answer.json()) == (200, {"object": "email", "id": email_id})
    shown = await sending.read(sender, email_id)
    assert (shown["status"], shown["last_event"]) == ("canceled", "canceled")
    assert {one["next_attempt_at"] for one in shown["recipients"]} == {None}
    events = [event["type"] for event in await sending.timeline(sender, email_id)]
    assert events == ["email.scheduled", "email.canceled"]
    again = await sender.post(f"/emails/{email_id}/cancel")
    assert (again.status_code, again.json()["name"]) == (409, "invalid_state")
    back = await sender.patch(f"/emails/{email_id}", json={"scheduled_at": "in 1 min"})
    assert (back.status_code, back.json()["name"]) == (409, "invalid_state")
    await sending.resting(sender, await sending.send(sender, subject="mark"))
    assert relay.count == 1


async def test_rescheduling_moves_the_end_along(sender: httpx2.AsyncClient) -> None:
    """`expires_in` counts from when the e-mail is due: put off for longer than that, it must not expire unsent."""
    email_id = await sending.send(sender, scheduled_at="in 10 min", expires_in=60)
    await sender.patch(f"/emails/{email_id}", json={"scheduled_at": "in 2 hours"})
    shown = await sending.read(sender, email_id)
    due, end = (datetime.fromisoformat(shown[name]) for name in ("scheduled_at", "expires_at"))
    assert abs(end - due - timedelta(seconds=60)) < timedelta(seconds=1)
    assert (await sender.post(f"/emails/{email_id}/cancel")).status_code == 200


async def test_rescheduling_with_another_id_is_refused(sender: httpx2.AsyncClient) -> None:
    first, second = [await sending.send(sender, scheduled_at="in 1 day") for _ in range(2)]
    sending.refused(await sender.patch(f"/emails/{first}", json={"scheduled_at": "in 1 min", "id": second}), "id")


async def test_strangers_emails_are_not_there(sending_house: house.House, sender: httpx2.AsyncClient) -> None:
    email_id = await sending.send(sender, scheduled_at="in 1 day")
    async with sending_house.client((await sending_house.tenant()).key) as stranger:
        answers = [
            await stranger.get(f"/emails/{email_id}"),
            await stranger.get(f"/emails/{email_id}/attempts"),
            await stranger.get(f"/emails/{email_id}/raw"),
            await stranger.post(f"/emails/{email_id}/cancel"),
            await stranger.post(f"/emails/{email_id}/retry"),
            await stranger.patch(f"/emails/{email_id}", json={"scheduled_at": "in 1 min"}),
        ]
        assert (await stranger.get("/emails")).json()["data"] == []
    assert {(answer.status_code, answer.json()["name"]) for answer in answers} == {(404, "not_found")}
    assert (await sending.read(sender, email_id))["status"] == "scheduled"


# Lists


async def _ids(client: httpx2.AsyncClient, **query: Any) -> list[str]:
    answer = await client.get("/emails", params=query)
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json()["data"]]


async def test_lists_are_filtered_by_what_is_asked_for(sender: httpx2.AsyncClient) -> None:
    later = {"scheduled_at": "in 1 day"}
    plain = await sending.send(sender, **later)
    tagged = await sending.send(sender, tags=[{"name": "kind", "value": "receipt"}], **later)
    others = await sending.send(sender, to=["x@y.example", "Ann <Ann@Other.Example>"], **later)
    canceled = await sending.send(sender, **later)
    await sender.post(f"/emails/{canceled}/cancel")
    assert await _ids(sender) == [canceled, others, tagged, plain]
    assert await _ids(sender, order="asc") == [plain, tagged, others, canceled]
    assert await _ids(sender, status="scheduled") == [others, tagged, plain]
    assert await _ids(sender, status="canceled") == [canceled]
    assert await _ids(sender, status="sent") == []
    assert await _ids(sender, to="Ann@other.example") == [others]
    assert await _ids(sender, to="user@recipient.example") == [canceled, tagged, plain]
    for tag in ("kind", "receipt", "kind:receipt"):
        assert await _ids(sender, tag=tag) == [tagged]
    assert await _ids(sender, tag="kind:other") == []
    middle = (await sending.read(sender, others))["created_at"]
    assert await _ids(sender, since=middle) == [canceled, others]
    assert await _ids(sender, until=middle) == [tagged, plain]
    sending.refused(await sender.get("/emails", params={"status": "lost"}), "status")
    sending.refused(await sender.get("/emails", params={"since": "yesterday"}), "since")


async def test_lists_are_paged_by_cursor_and_by_ids(sender: httpx2.AsyncClient) -> None:
    later = [sending.letter(scheduled_at="in 1 day") for _ in range(5)]
    answer = await sender.post("/emails/batch", json=later)
    e1, e2, e3, e4, e5 = [one["id"] for one in answer.json()["data"]]
    pages: list[list[str]] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = (await sender.get("/emails", params=query)).json()
        pages.append([one["id"] for one in page["data"]])
        assert page["object"] == "list"
        assert page["has_more"] == (page["next_cursor"] is not None)
        if not page["has_more"]:
            break
        query["cursor"] = page["next_cursor"]
    assert pages == [[e5, e4], [e3, e2], [e1]]
    assert await _ids(sender, limit=2, after=e4) == [e3, e2]
    assert await _ids(sender, limit=2, after=e4, order="asc") == [e5]
    assert await _ids(sender, after=e1) == []
    assert await _ids(sender, before=e3) == [e5, e4]
    assert await _ids(sender, limit=2, before=e1) == [e3, e2]  # the page in front of it, as Resend's clients page back
    assert await _ids(sender, limit=2, before=e5, order="asc") == [e3, e4]
    front = (await sender.get("/emails", params={"limit": 2, "before": e1})).json()
    assert (front["has_more"], front["next_cursor"]) == (True, None)
    assert await _ids(sender, after=e5, before=e2) == [e4, e3]
