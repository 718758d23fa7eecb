"""Mailboxes over HTTP: making, reading, changing and ending them; what all answers and lists have in common."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from tests import house
from tests.flows import letters

pytestmark = pytest.mark.anyio

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
MISSING = "0190a5b4-0000-7000-8000-000000000000"


def seconds(text: str) -> float:
    """A time of the API, as seconds since 1970."""
    assert TIME.fullmatch(text), text
    return datetime.fromisoformat(text).timestamp()


def refused(answer: httpx2.Response, status: int, name: str) -> dict[str, Any]:
    """The error's body, which has the one shape that errors have."""
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["statusCode"], body["name"]) == (status, status, name), answer.text
    assert set(body) <= {"statusCode", "name", "message", "errors", "request_id", "oldest", "newest"}
    assert body["message"]
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


# Making


async def test_a_mailbox_is_made_of_nothing(client: httpx2.AsyncClient) -> None:
    answer = await client.post("/mailboxes")
    made = answer.json()
    assert answer.status_code == 201
    assert set(made) == {
        *("id", "address", "token", "status", "created_at", "expires_at", "message_count", "metadata", "cursor"),
        "sender_policy",
    }
    assert UUID7.fullmatch(made["id"])
    assert re.fullmatch(r"[a-z]{8}-[a-z]{8}-[a-z]{6}@postroom\.test", made["address"])
    assert made["token"].startswith("pr_mbx_")
    assert (made["status"], made["message_count"], made["metadata"]) == ("active", 0, {})
    assert seconds(made["expires_at"]) - seconds(made["created_at"]) == 3600
    [event] = await letters.listed(client, "/events")
    assert (event["type"], event["cursor"], event["mailbox_id"]) == ("mailbox.created", made["cursor"], made["id"])
    shown = (await client.get(f"/mailboxes/{made['id']}")).json()
    assert shown == {name: value for name, value in made.items() if name != "token"}


async def test_a_mailbox_is_made_as_asked(client: httpx2.AsyncClient) -> None:
    name = f"Box.{MISSING}"
    wish = {"local_part": name, "domain": "Postroom.TEST", "ttl_seconds": 10, "metadata": {"a": [1, {"b": None}]}}
    made = await letters.mailbox(client, **wish)
    assert made["address"] == f"{name.lower()}@postroom.test"
    assert made["metadata"] == wish["metadata"]
    assert seconds(made["expires_at"]) - seconds(made["created_at"]) == 10
    whole = await letters.mailbox(client, address=f"whole.{made['address']}", ttl_seconds=2_592_000)
    assert seconds(whole["expires_at"]) - seconds(whole["created_at"]) == 2_592_000
    for_ever = await letters.mailbox(client, ttl_seconds=None)
    assert for_ever["expires_at"] is None


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"ttl_seconds": 9}, "ttl_seconds"),
        ({"ttl_seconds": 2_592_001}, "ttl_seconds"),
        ({"ttl_seconds": "10 min"}, "ttl_seconds"),
        ({"address": "no address"}, "address"),
        ({"address": "a@elsewhere.example"}, "address"),
        ({"address": "a@postroom.test", "local_part": "a"}, "address"),
        ({"address": "a+tag@postroom.test"}, "address"),
        ({"local_part": "a b"}, "local_part"),
        ({"local_part": "a\u0000b"}, "local_part"),
        ({"domain": "elsewhere.example"}, "domain"),
        ({"domain": "-not a domain-"}, "domain"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"a": "x" * 20_000}}, "metadata"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_what_is_wrong_with_a_wish_is_said(client: httpx2.AsyncClient, wish: dict[str, Any], field: str) -> None:
    body = refused(await client.post("/mailboxes", json=wish), 422, "validation_error")
    assert [error["field"] for error in body["errors"]] == [field]
    assert body["message"].startswith(f"{field}: ")


async def test_an_address_is_taken_while_its_mailbox_lives(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    """For everybody; when it has expired, its account may have the address again."""
    made = await letters.mailbox(client)
    wish = {"address": made["address"].upper()}
    refused(await client.post("/mailboxes", json=wish), 409, "address_taken")
    other = await shared_house.tenant()
    async with shared_house.client(other.key) as stranger:
        refused(await stranger.post("/mailboxes", json=wish), 409, "address_taken")
        await letters.expire(shared_house, made["id"])
        refused(await stranger.post("/mailboxes", json=wish), 409, "address_taken")
    again = await letters.mailbox(client, **wish)
    assert (again["address"], again["id"] != made["id"]) == (made["address"], True)
    assert (await client.get(f"/mailboxes/{made['address']}")).json()["id"] == again["id"]
    assert (await client.get(f"/mailboxes/{made['id']}")).json()["status"] == "expired"


async def test_twenty_callers_of_one_address_make_one_mailbox(client: httpx2.AsyncClient) -> None:
    wish = {"local_part": f"race-{(await letters.mailbox(client))['id']}"}
    answers = await asyncio.gather(*(client.post("/mailboxes", json=wish) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 19


# Reading, changing, ending


async def test_a_mailbox_is_named_by_its_id_or_its_address(client: httpx2.AsyncClient) -> None:
    made = await letters.mailbox(client)
    by_id = await client.get(f"/mailboxes/{made['id']}")
    assert (await client.get(f"/mailboxes/{made['address']}")).json() == by_id.json()
    assert (await client.get(f"/mailboxes/{made['address'].upper().replace('@', '%40')}")).json() == by_id.json()
    for unknown in (MISSING, "nobody@postroom.test", "not an address@@", "nothing"):
        refused(await client.get(f"/mailboxes/{unknown}"), 404, "not_found")


async def test_a_new_life_counts_from_now(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    made = await letters.mailbox(client)
    changed = (await client.patch(f"/mailboxes/{made['id']}", json={"ttl_seconds": 60, "metadata": {"a": 1}})).json()
    async with letters.sql(shared_house) as connection:
        now = await connection.fetchval("select extract(epoch from clock_timestamp())")
    assert seconds(made["created_at"]) + 60 <= seconds(changed["expires_at"]) <= float(now) + 60
    assert changed["metadata"] == {"a": 1}
    assert (await client.patch(f"/mailboxes/{made['address']}", json={"ttl_seconds": None})).json()[
        "expires_at"
    ] is None
    assert (await client.get(f"/mailboxes/{made['id']}")).json()["metadata"] == {"a": 1}
    refused(await client.patch(f"/mailboxes/{made['id']}", json={"ttl_seconds": 9}), 422, "validation_error")
    refused(await client.patch(f"/mailboxes/{made['id']}", json={"address": "x@y"}), 422, "validation_error")
    types = [event["type"] for event in await letters.listed(client, "/events", mailbox=made["id"])]
    assert types == ["mailbox.created", "mailbox.updated", "mailbox.updated"]


async def test_an_expired_mailbox_keeps_its_messages_and_cannot_come_back(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    made = await letters.mailbox(client)
    await letters.hand_in(shared_house, letters.letter("kept"), made["address"])
    await letters.expire(shared_house, made["id"])
    for ttl in (60, None):
        answer = await client.patch(f"/mailboxes/{made['id']}", json={"ttl_seconds": ttl})
        refused(answer, 409, "invalid_state")
    assert (await client.patch(f"/mailboxes/{made['id']}", json={"metadata": {"still": "mine"}})).status_code == 200
    assert (await client.get(f"/mailboxes/{made['id']}")).json()["status"] == "expired"
    assert (await letters.only_message(client, made["id"]))["subject"] == "kept"


async def test_a_deleted_mailbox_is_gone_with_all_that_was_in_it(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    made = await letters.mailbox(client)
    await letters.hand_in(shared_house, letters.letter(), made["address"])
    message = await letters.only_message(client, made["id"])
    assert (await client.delete(f"/mailboxes/{made['address']}")).status_code == 204
    for path in (f"/mailboxes/{made['id']}", f"/mailboxes/{made['address']}", f"/mailboxes/{made['id']}/messages"):
        refused(await client.get(path), 404, "not_found")
    refused(await client.delete(f"/mailboxes/{made['id']}"), 404, "not_found")
    refused(await client.patch(f"/mailboxes/{made['id']}", json={"metadata": {}}), 404, "not_found")
    for path in ("", "/raw", "/text"):
        refused(await client.get(f"/messages/{message['id']}{path}"), 404, "not_found")
    assert await letters.listed(client, "/messages") == []
    assert await letters.listed(client, "/mailboxes") == []
    assert (await letters.listed(client, "/events"))[-1]["type"] == "mailbox.deleted"
    again = await letters.mailbox(client, address=made["address"])
    assert await letters.listed(client, f"/mailboxes/{again['id']}/messages") == []


async def test_a_token_reaches_its_mailbox_and_ends_with_it(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    made = await letters.mailbox(client)
    await letters.hand_in(shared_house, letters.letter("for the holder"), made["address"])
    async with shared_house.client(made["token"]) as holder:
        assert (await holder.get(f"/mailboxes/{made['id']}")).json()["message_count"] == 1
        message = await letters.only_message(holder, made["id"])
        assert (await holder.get(f"/mailboxes/{made['address']}/wait")).json()["message"]["id"] == message["id"]
        events = await letters.listed(holder, f"/mailboxes/{made['id']}/events")
        assert [event["type"] for event in events] == ["mailbox.created", "message.received"]
        assert (await holder.get(f"/messages/{message['id']}/raw")).status_code == 200
        refused(await holder.patch(f"/mailboxes/{made['id']}", json={"ttl_seconds": 60}), 403, "restricted_api_key")
        refused(await holder.post("/mailboxes"), 403, "restricted_api_key")
        refused(await holder.get("/messages"), 403, "restricted_api_key")
        refused(await holder.get("/events"), 403, "restricted_api_key")
        assert (await holder.delete(f"/messages/{message['id']}")).status_code == 204
        assert (await holder.delete(f"/mailboxes/{made['id']}")).status_code == 204
        async with asyncio.timeout(20):
            while (await holder.get(f"/mailboxes/{made['id']}")).status_code != 401:
                pass  # for a second what was looked up is held to be true: until then it finds nothing


# Lists


async def test_a_list_is_paged_without_gaps_or_doubles_while_it_grows(client: httpx2.AsyncClient) -> None:
    first = [(await letters.mailbox(client))["id"] for _ in range(5)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        query: dict[str, Any] = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = (await client.get("/mailboxes", params=query)).json()
        assert set(page) == {"object", "data", "has_more", "next_cursor"}
        assert page["object"] == "list"
        assert page["has_more"] == (page["next_cursor"] is not None)
        seen += [box["id"] for box in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        await letters.mailbox(client)  # newer than the cursor: of no concern to it
    assert seen == first[::-1]
    oldest = await letters.listed(client, "/mailboxes", order="asc", limit=5)
    assert [box["id"] for box in oldest] == first
    assert "token" not in oldest[0]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=many", "limit"),
        ("order=up", "order"),
        ("cursor=nonsense", "cursor"),
        ("colour=red", "colour"),
        ("limit=1&limit=2", "limit"),
    ],
)
@pytest.mark.parametrize("path", ["/mailboxes", "/messages", "/api-keys"])
async def test_a_list_refuses_what_it_does_not_know(
    client: httpx2.AsyncClient, path: str, query: str, field: str
) -> None:
    body = refused(await client.get(f"{path}?{query}"), 422, "validation_error")
    assert [error["field"] for error in body["errors"]] == [field]


# Conventions and errors


async def test_every_answer_has_a_request_id_and_errors_have_one_shape(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    answer = await client.get("/mailboxes", headers={"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    refused(await client.get("/nowhere"), 404, "not_found")
    wrong = await client.put("/mailboxes")
    assert wrong.status_code == 405
    assert wrong.headers["allow"]
    assert wrong.json()["request_id"] == wrong.headers["x-request-id"]
    refused(
        await client.post("/mailboxes", content=b"{", headers={"content-type": "application/json"}), 400, "invalid_json"
    )
    refused(await client.post("/mailboxes", json=[]), 422, "validation_error")
    refused(await client.post("/api-keys", json={"name": "a"}), 422, "missing_required_field")
    refused(await client.post("/mailboxes", content=b" " * 1_100_000), 413, "payload_too_large")
    async with httpx2.AsyncClient(base_url=f"{shared_house.url}/v1", verify=house.NOBODY) as nobody:
        refused(await nobody.get("/mailboxes"), 401, "missing_api_key")
        for key in ("nonsense", f"{client.headers['authorization'].split()[1]}x", "pr_key_" + "a" * 49):
            headers = {"authorization": f"Bearer {key}"}
            refused(await nobody.get("/mailboxes", headers=headers), 401, "invalid_api_key")
            refused(await nobody.get("/emails", headers=headers), 403, "invalid_api_key")


# Idempotency


async def test_the_same_key_and_payload_give_the_first_answer_again(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    """Secrets included, whatever has happened to the mailbox meanwhile; how the payload is spelt does not count."""
    headers = {"Idempotency-Key": "one of a kind", "content-type": "application/json"}
    first = await client.post("/mailboxes", content=b'{"ttl_seconds": 60, "metadata": {"a": 1}}', headers=headers)
    made = first.json()
    assert "idempotent-replayed" not in first.headers
    await letters.hand_in(shared_house, letters.letter(), made["address"])
    await client.patch(f"/mailboxes/{made['id']}", json={"metadata": {"b": 2}})
    again = await client.post("/mailboxes", content=b'{"metadata":{"a":1},"ttl_seconds":60}', headers=headers)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "true")
    assert again.json() == made
    assert len(await letters.listed(client, "/mailboxes")) == 1
    types = [event["type"] for event in await letters.listed(client, "/events")]
    assert types == ["mailbox.created", "message.received", "mailbox.updated"]
    other = await client.post("/mailboxes", json={"ttl_seconds": 61, "metadata": {"a": 1}}, headers=headers)
    refused(other, 409, "invalid_idempotent_request")


async def test_twenty_requests_with_one_key_make_one_mailbox(client: httpx2.AsyncClient) -> None:
    headers = {"Idempotency-Key": "all at once"}
    answers = await asyncio.gather(*(client.post("/mailboxes", json={}, headers=headers) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({(a.json()["id"], a.json()["token"], a.json()["cursor"]) for a in answers}) == 1
    assert sorted(a.headers.get("idempotent-replayed", "") for a in answers) == [""] + ["true"] * 19
    assert len(await letters.listed(client, "/mailboxes")) == 1


async def test_what_was_refused_does_not_use_up_its_key(client: httpx2.AsyncClient) -> None:
    made = await letters.mailbox(client)
    headers = {"Idempotency-Key": "k"}
    wish = {"address": made["address"]}
    refused(await client.post("/mailboxes", json=wish, headers=headers), 409, "address_taken")
    await client.delete(f"/mailboxes/{made['id']}")
    answer = await client.post("/mailboxes", json=wish, headers=headers)
    assert (answer.status_code, "idempotent-replayed" in answer.headers) == (201, False)


async def test_a_key_belongs_to_an_account_and_an_endpoint_and_is_remembered_for_a_day(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    headers = {"Idempotency-Key": "k"}
    made = (await client.post("/mailboxes", headers=headers)).json()
    other = await shared_house.tenant()
    async with shared_house.client(other.key) as stranger:
        theirs = await stranger.post("/mailboxes", headers=headers)
    assert (theirs.status_code, "idempotent-replayed" in theirs.headers) == (201, False)
    key = await client.post("/api-keys", json={"name": "k", "scopes": ["read"]}, headers=headers)
    assert (key.status_code, "idempotent-replayed" in key.headers) == (201, False)
    for age, replayed in ((timedelta(hours=23), True), (timedelta(hours=25), False)):
        async with letters.sql(shared_house) as connection:
            await connection.execute(
                "update idempotency_keys set created_at = $1 where account_id = $2",
                datetime.now(UTC) - age,
                tenant.account_id,
            )
        again = await client.post("/mailboxes", headers=headers)
        assert again.status_code == 201
        assert (again.json()["id"] == made["id"]) is replayed


async def test_a_first_request_that_still_runs_elsewhere_is_awaited_then_409(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    """The other process is this test: it has taken the key in a transaction that is still open."""
    headers = {"Idempotency-Key": "elsewhere"}
    async with letters.sql(shared_house) as connection:
        elsewhere = connection.transaction()
        await elsewhere.start()
        await connection.execute(
            "insert into idempotency_keys (account_id, endpoint, key, fingerprint, status, answer, created_at)"
            " values ($1, 'POST /v1/mailboxes', 'elsewhere', '', 201, '{}', now())",
            tenant.account_id,
        )
        answer = await client.post("/mailboxes", headers=headers)
        refused(answer, 409, "concurrent_idempotent_requests")
        assert int(answer.headers["retry-after"]) >= 1
        waiting = asyncio.create_task(client.post("/mailboxes", headers=headers))
        await elsewhere.rollback()
        assert (await waiting).status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "grün".encode().decode("latin-1")])
async def test_a_key_that_is_none_is_refused(client: httpx2.AsyncClient, key: str) -> None:
    answer = await client.post("/mailboxes", headers={b"Idempotency-Key": key.encode("latin-1")})
    refused(answer, 400, "invalid_idempotency_key")
    assert (await client.post("/mailboxes", headers={"Idempotency-Key": "x" * 255})).status_code == 201
