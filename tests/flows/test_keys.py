"""Keys: what they look like, what they open, how they end; and that nobody reaches what is somebody else's."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx2
import pytest

from gateway import tokens
from tests import house
from tests.flows import letters
from tests.flows.test_mailboxes import MISSING, refused
from tests.flows.test_told import PATIENCE, STREAM, rejection, socket_to, sse, until_closed

pytestmark = pytest.mark.anyio

SCOPES = ("mailboxes", "send", "inbound", "read", "admin")
NOBODY = "nobody-has-this@postroom.test"
PUBLIC = {  # who calls these shows it otherwise than by a key: the operations' own tests
    ("POST", "/inbound/mailgun"),
    ("POST", "/inbound/mailgun/mime"),
    ("POST", "/inbound/postmark"),
    ("POST", "/inbound/ses"),
    ("POST", "/callbacks/mailgun"),
    ("POST", "/callbacks/postmark"),
    ("POST", "/callbacks/ses"),
}
PARAMETER = re.compile(r"\{(\w+)\}")


async def made_key(client: httpx2.AsyncClient, **wish: Any) -> dict[str, Any]:
    answer = await client.post("/api-keys", json={"name": "k", **wish})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


# What a key is


async def test_a_key_is_shown_once_and_only_its_hash_is_kept(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    made = await made_key(client, name="CI", scopes=["mailboxes", "read"], domains=["Postroom.TEST"])
    assert set(made) == {"id", "name", "scopes", "domains", "expires_at", "created_at", "last_used_at", "key"}
    assert (made["scopes"], made["domains"], made["expires_at"]) == (["mailboxes", "read"], ["postroom.test"], None)
    assert re.fullmatch(r"pr_key_[0-9A-Za-z]{49}", made["key"])
    assert tokens.looks_like_key(made["key"])
    described = {name: value for name, value in made.items() if name != "key"}
    assert (await client.get(f"/api-keys/{made['id']}")).json() == described
    assert described in await letters.listed(client, "/api-keys")
    box = await letters.mailbox(client)
    async with letters.sql(shared_house) as connection:
        rows = await connection.fetch("select hash, kind from credentials where account_id = $1", tenant.account_id)
        secrets = {"key": made["key"], "mailbox": box["token"]}
        for kind, secret in secrets.items():
            assert (hashlib.sha256(secret.encode()).digest(), kind) in {(row["hash"], row["kind"]) for row in rows}
        for (table,) in await connection.fetch("select tablename from pg_tables where schemaname = 'public'"):
            for secret in secrets.values():
                found = f'select count(*) from "{table}" t where t::text like $1'  # noqa: S608 - a table's name
                assert await connection.fetchval(found, f"%{secret[7:30]}%") == 0, table


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"name": "", "scopes": ["read"]}, "name"),
        ({"name": "k", "scopes": []}, "scopes"),
        ({"name": "k", "scopes": ["everything"]}, "scopes[0]"),
        ({"name": "k", "scopes": ["read"], "domains": ["not a domain"]}, "domains[0]"),
        ({"name": "k", "scopes": ["read"], "expires_at": "tomorrow"}, "expires_at"),
        ({"name": "k", "scopes": ["read"], "key": "pr_key_mine"}, "key"),
    ],
)
async def test_what_is_wrong_with_a_key_is_said(client: httpx2.AsyncClient, wish: dict[str, Any], field: str) -> None:
    body = refused(await client.post("/api-keys", json=wish), 422, "validation_error")
    assert [error["field"] for error in body["errors"]] == [field]


async def test_a_key_that_is_revoked_or_has_expired_opens_nothing(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    revoked, expiring = (
        await made_key(client, scopes=["read"]),
        await made_key(client, scopes=["read"], expires_at=soon),
    )
    past = await made_key(client, scopes=["read"], expires_at="2020-01-01T00:00:00Z")
    async with shared_house.client(past["key"]) as late:
        refused(await late.get("/mailboxes"), 401, "invalid_api_key")
    async with shared_house.client(revoked["key"]) as one, shared_house.client(expiring["key"]) as other:
        assert [(await c.get("/mailboxes")).status_code for c in (one, other)] == [200, 200]
        assert (await client.delete(f"/api-keys/{revoked['id']}")).status_code == 204
        refused(await client.delete(f"/api-keys/{revoked['id']}"), 404, "not_found")
        refused(await client.get(f"/api-keys/{revoked['id']}"), 404, "not_found")
        async with letters.sql(shared_house) as connection:
            await connection.execute("update api_keys set expires_at = now() where id = $1", UUID(expiring["id"]))
        async with asyncio.timeout(20):
            for ended in (one, other):
                while (await ended.get("/mailboxes")).status_code == 200:
                    pass  # for a second what was looked up is held to be true
        for ended in (one, other):
            refused(await ended.get("/mailboxes"), 401, "invalid_api_key")
    assert expiring["id"] in [key["id"] for key in await letters.listed(client, "/api-keys")]


async def test_a_key_may_be_limited_to_domains(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    mail = {"from": "me@postroom.test", "to": "x@elsewhere.example", "subject": "s", "text": "t"}
    for domains, mailbox, email in ((["postroom.test", "two.test"], 201, 202), (["two.test"], 403, 403)):
        limited = await made_key(client, scopes=["mailboxes", "send"], domains=domains)
        async with shared_house.client(limited["key"]) as holder:
            answers = [await holder.post("/mailboxes"), await holder.post("/emails", json=mail)]
        assert [answer.status_code for answer in answers] == [mailbox, email]
    for answer in answers:
        refused(answer, 403, "restricted_api_key")


async def test_the_same_idempotency_key_gives_the_same_api_key_again(client: httpx2.AsyncClient) -> None:
    headers = {"Idempotency-Key": "once"}
    wish = {"name": "k", "scopes": ["read", "send"]}
    answers = await asyncio.gather(*(client.post("/api-keys", json=wish, headers=headers) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["key"] for answer in answers}) == 1
    assert all(answer.json() == answers[0].json() for answer in answers)
    assert sorted(answer.headers.get("idempotent-replayed", "") for answer in answers) == [""] + ["true"] * 9
    other = await client.post("/api-keys", json=wish | {"name": "other"}, headers=headers)
    refused(other, 409, "invalid_idempotent_request")
    assert len(await letters.listed(client, "/api-keys")) == 2  # and the one that the test itself has


# Scopes


@pytest.fixture
async def operations(shared_house: house.House) -> list[tuple[str, str, dict[str, Any]]]:
    """Every operation there is: method, path and what openapi.json says of it."""
    async with httpx2.AsyncClient(base_url=shared_house.url, verify=house.NOBODY) as anybody:
        document = (await anybody.get("/openapi.json")).json()
    return [
        (method.upper(), path.removeprefix("/v1"), operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


async def test_a_scope_opens_what_openapi_says_and_nothing_else(
    shared_house: house.House, tenant: house.Tenant, operations: list[tuple[str, str, dict[str, Any]]]
) -> None:
    """Nothing is created: who is let in is refused for an unknown field, or an id that nobody has."""
    for scope in SCOPES:
        key = (await shared_house.tenant((scope,), account_id=tenant.account_id)).key
        async with shared_house.client(key) as client:
            for method, path, operation in operations:
                opened = {name for entry in operation["security"] for name in entry.get("apiKey", ())}
                body = {"no such field": 1} if "requestBody" in operation else None
                answer = await client.request(method, PARAMETER.sub(MISSING, path), json=body)
                if (method, path) in PUBLIC:
                    assert (answer.status_code, operation["security"]) == (404, [])  # the house has no such provider
                    continue
                let_in = answer.status_code != 403
                assert let_in is (scope in opened), (scope, method, path, answer.text)
                if not let_in:
                    refused(answer, 403, "restricted_api_key")


def contract(method: str, path: str) -> set[str]:
    """The scopes that API.md gives for an operation, besides `admin`."""
    chapter = path.split("/")[1]
    if chapter in ("mailboxes", "messages"):
        needed = {"send" if path.endswith(("/reply", "/forward")) else "mailboxes"}
    elif chapter in ("emails", "suppressions", "templates", "deliveries"):
        needed = {"send"} if chapter == "emails" else set()
    elif chapter in ("statistics", "queue"):
        needed = {"mailboxes"} if path.endswith("/inbound") else {"send"}
    elif chapter == "events":
        needed = {"mailboxes", "send"}
    elif chapter == "inbound":
        needed = {"inbound"}
    elif chapter == "bounces":
        needed = {"send"} if path.endswith("/classify") else set()
    else:
        needed = set()
    return needed | ({"read"} if method == "GET" and chapter != "api-keys" else set())


async def test_openapi_gives_each_scope_what_the_contract_gives_it(
    operations: list[tuple[str, str, dict[str, Any]]],
) -> None:
    known = ("mailboxes", "messages", "emails", "events", "api-keys", "webhooks", "domains", "inbound", "bounces")
    for method, path, operation in operations:
        if (method, path) in PUBLIC:
            assert operation["security"] == []
        elif path.split("/")[1] in (*known, "suppressions", "templates", "statistics", "queue"):
            opened = {name for entry in operation["security"] for name in entry.get("apiKey", ())}
            assert opened - {"admin"} == contract(method, path), (method, path)
            assert "admin" in opened


async def test_a_key_hears_only_of_what_its_scopes_are_about(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    """Who may only send must not read the codes that come in; who may only receive, not to whom is written."""
    made = await letters.mailbox(client)
    await letters.hand_in(shared_house, letters.letter("Your code is 482913"), made["address"])
    mail = {"from": "me@postroom.test", "to": "x@elsewhere.example", "subject": "s", "text": "t"}
    await client.post("/emails", json=mail)
    chapters = {"mailboxes": {"mailbox", "message"}, "send": {"email"}, "read": {"mailbox", "message", "email"}}
    for scope, wanted in chapters.items():
        key = (await shared_house.tenant((scope,), account_id=tenant.account_id)).key
        async with shared_house.client(key) as limited, socket_to(shared_house, key, "/events?after=0") as websocket:
            page = await letters.listed(limited, "/events")
            assert {event["type"].split(".")[0] for event in page} == wanted
            assert json.loads(await websocket.recv()) == page[0]
            for name in ("email.queued", "message.received"):
                answer = await limited.get("/events", params={"types": name})
                if name.split(".")[0] in wanted:
                    assert answer.status_code == 200
                else:
                    refused(answer, 403, "restricted_api_key")
                    status, _ = await rejection(shared_house, key, f"/events?types={name}")
                    assert status == 403
            of_mailbox = await limited.get(f"/mailboxes/{made['id']}/events")
            assert of_mailbox.status_code == (403 if scope == "send" else 200)


# Isolation

BODIES: Mapping[tuple[str, str], Any] = {  # what an operation wants, so that only the id can be wrong
    ("PATCH", "/api-keys/{id}"): {"name": "mine now"},
    ("PATCH", "/mailboxes/{mailbox}"): {"metadata": {"mine": "now"}},
    ("PUT", "/mailboxes/{mailbox}/faults"): [{"stage": "rcpt", "reply": "451 4.7.1 Mine", "times": 1}],
    ("PATCH", "/messages/{id}"): {"seen": True},
    ("POST", "/messages/{id}/reply"): {"text": "mine now"},
    ("POST", "/messages/{id}/forward"): {"to": "me@elsewhere.example"},
    ("PATCH", "/emails/{id}"): {"scheduled_at": "in 1 hour"},
    ("PATCH", "/webhooks/{id}"): {"types": ["*"]},
    ("PATCH", "/domains/{name}"): {"unknown_recipients": "reject"},
    ("PATCH", "/bounces/rules/{id}"): {"note": "mine now"},
    ("PATCH", "/templates/{id}"): {"subject": "mine now"},
    ("POST", "/templates/{id}/render"): {"variables": {}},
}
RULE = {"words": "private words", "kind": "policy"}
TEMPLATE = {"name": "private", "subject": "private", "text": "private"}
LISTS: Mapping[str, str] = {"bounces": "bounces/rules"}  # where a chapter's things are, if not right in it
QUERIES: Mapping[tuple[str, str], str] = {("GET", "/mailboxes/{mailbox}/wait"): "?timeout=0"}


async def suppressed(client: httpx2.AsyncClient, address: str) -> str:
    answer = await client.post("/suppressions", json={"address": address})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["address"])


async def belongings(home: house.House, client: httpx2.AsyncClient) -> dict[str, str]:
    """One of everything that has an id in a path, by the path's chapter."""
    box = await letters.mailbox(client)
    await letters.hand_in(home, letters.letter("private"), box["address"])
    mail = {"from": "me@postroom.test", "to": "x@elsewhere.example", "subject": "private", "text": "private"}
    later = {"scheduled_at": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}
    hook = (await client.post("/webhooks", json={"url": "http://127.0.0.1:9/", "types": ["mailbox.deleted"]})).json()
    return {
        "mailboxes": box["id"],
        "messages": (await letters.only_message(client, box["id"]))["id"],
        "emails": (await client.post("/emails", json=mail | later)).json()["id"],
        "webhooks": hook["id"],
        "domains": (await client.post("/domains", json={"name": f"{box['id']}.example"})).json()["name"],
        "api-keys": (await made_key(client, scopes=["read"]))["id"],
        "suppressions": await suppressed(client, f"{box['id']}@gone.example"),
        "templates": (await client.post("/templates", json=TEMPLATE)).json()["id"],
        "bounces": (await client.post("/bounces/rules", json=RULE)).json()["id"],
    }


def paths(path: str, ids: Mapping[str, str], address: str) -> Iterator[tuple[str, str]]:
    """The path with somebody's id, and the same with one that nobody has; mailboxes by their address, too."""
    chapter = path.split("/")[1]
    assert chapter in ids, f"say in belongings() how to make what {path} names"
    whole, _, rest = PARAMETER.sub("\0", path, count=1).partition("\0")
    rest = PARAMETER.sub("0" if "index" in rest else MISSING, rest)
    yield f"{whole}{ids[chapter]}{rest}", f"{whole}{MISSING}{rest}"
    if chapter == "mailboxes":
        yield f"{whole}{address}{rest}", f"{whole}{NOBODY}{rest}"


def told(answer: httpx2.Response) -> tuple[int, dict[str, str], bytes]:
    """All of an answer that could tell anything but what is left of the caller's own limit; the request id is the same
    by the caller's wish."""
    headers = {name: value for name, value in answer.headers.items() if not name.startswith("ratelimit-")}
    return answer.status_code, headers, answer.content


async def probe(
    home: house.House, key: str, operations: list[tuple[str, str, dict[str, Any]]], ids: Mapping[str, str], address: str
) -> int:
    """Calls every operation that names something, for what is somebody else's and for what is nobody's."""
    count = 0
    async with home.client(key) as client:
        client.headers["X-Request-Id"] = "the-same"
        for method, path, _ in operations:
            if not PARAMETER.search(path):
                continue
            body = BODIES.get((method, path))
            for theirs, nobodys in paths(path, ids, address):
                for headers in ({}, STREAM) if path.endswith("/events") else ({},):
                    query = QUERIES.get((method, path), "")
                    answers = [
                        told(await client.request(method, f"{at}{query}", headers=headers, json=body))
                        for at in (theirs, nobodys)
                    ]
                    assert answers[0] == answers[1], (method, theirs)
                    assert answers[0][0] in (403, 404), (method, theirs, answers[0])
                    count += 1
                if path.endswith("/events"):
                    refusals = [await rejection(home, key, at) for at in (theirs, nobodys)]
                    assert [(status, body["name"]) for status, body in refusals] == [(404, "not_found")] * 2
    return count


async def everything(client: httpx2.AsyncClient, ids: Mapping[str, str]) -> dict[str, Any]:
    """What its owner sees of it."""
    seen = {}
    for chapter, id in ids.items():
        answer = await client.get(f"/{LISTS.get(chapter, chapter)}/{id}")
        assert answer.status_code == 200, answer.text
        seen[chapter] = answer.json()
    return seen


async def test_what_is_somebody_elses_is_as_if_it_were_not(
    shared_house: house.House, client: httpx2.AsyncClient, operations: list[tuple[str, str, dict[str, Any]]]
) -> None:
    """Every operation of openapi.json that names something, called by another account's admin.

    Negative control: with no account in the WHERE clause of `messages.get`, GET /messages/{id} answered 200 instead of
    404, and the test failed.
    """
    ids = await belongings(shared_house, client)
    before = await everything(client, ids)
    other = await shared_house.tenant()
    count = await probe(shared_house, other.key, operations, ids, before["mailboxes"]["address"])
    assert count > 25
    assert await everything(client, ids) == before
    async with shared_house.client(other.key) as stranger:
        stranger.headers["X-Request-Id"] = "the-same"
        for name in ("mailbox", "email"):
            chapter = "mailboxes" if name == "mailbox" else "emails"
            answers = [told(await stranger.get("/events", params={name: id})) for id in (ids[chapter], MISSING)]
            assert answers[0] == answers[1]
        wishes = [{"url": "http://127.0.0.1:9/", "types": ["*"], "mailbox": id} for id in (ids["mailboxes"], MISSING)]
        answers = [told(await stranger.post("/webhooks", json=wish)) for wish in wishes]
        assert answers[0] == answers[1]
        assert answers[0][0] == 422
        for path in (
            "/mailboxes",
            "/messages",
            "/emails",
            "/webhooks",
            "/domains",
            "/suppressions",
            "/templates",
            "/bounces/rules",
            "/events",
            "/statistics",
            "/statistics/inbound",
        ):
            assert await letters.listed(stranger, path) == [], path


async def test_a_mailboxs_token_reaches_nothing_else_of_its_account(
    shared_house: house.House, client: httpx2.AsyncClient, operations: list[tuple[str, str, dict[str, Any]]]
) -> None:
    """Negative control: with no look at the token's mailbox in `Paths.mailbox_id`, GET /mailboxes/{mailbox} answered
    200 instead of 404, and the test failed."""
    ids = await belongings(shared_house, client)
    before = await everything(client, ids)
    token = (await letters.mailbox(client))["token"]
    await probe(shared_house, token, operations, ids, before["mailboxes"]["address"])
    assert await everything(client, ids) == before
    async with shared_house.client(token) as holder:
        for method, path, operation in operations:
            if not PARAMETER.search(path) and (method, path) not in PUBLIC:
                refused(
                    await holder.request(method, path, json={} if "requestBody" in operation else None),
                    403,
                    "restricted_api_key",
                )


# The end of what a key opened


async def opened_by(home: house.House, key: str, path: str, ended: asyncio.TaskGroup) -> list[asyncio.Task[Any]]:
    """A stream, a socket and a long poll at `path`; each task gives how it ended, once it has begun."""
    begun = asyncio.Barrier(4)

    async def stream() -> str:
        async with home.client(key) as client, sse(client, path) as events:
            await begun.wait()
            async with asyncio.timeout(PATIENCE):
                return "".join([line async for line in events.lines])

    async def socket() -> int | None:
        async with socket_to(home, key, path) as websocket:
            await begun.wait()
            return (await until_closed(websocket))[1]

    async def poll() -> tuple[int, str]:
        async with home.client(key) as client:
            head = (await client.get(path)).json()["next_cursor"]
            await begun.wait()
            answer = await client.get(path, params={"wait": 60, "after": head, "types": "mailbox.expired"})
            return answer.status_code, answer.json().get("name")

    tasks = [ended.create_task(task()) for task in (stream, socket, poll)]
    async with asyncio.timeout(PATIENCE):
        await begun.wait()
    return tasks


@pytest.mark.parametrize("how", ["revoked", "expired", "suspended"])
async def test_what_a_key_opened_ends_with_it(
    shared_house: house.House, client: httpx2.AsyncClient, tenant: house.Tenant, how: str
) -> None:
    """Streams, sockets (1008), long polls and waits; in a house whose nudges say nothing of it.

    Negative control: with `Admission._end` doing nothing all of them stayed open, and the test timed out.
    """
    made = await made_key(client, scopes=["read"])
    box = await letters.mailbox(client)
    async with shared_house.client(made["key"]) as holder, asyncio.TaskGroup() as ended:
        tasks = await opened_by(shared_house, made["key"], "/events", ended)
        waiting = ended.create_task(holder.get(f"/mailboxes/{box['id']}/wait", params={"timeout": 60}))
        if how == "revoked":
            assert (await client.delete(f"/api-keys/{made['id']}")).status_code == 204
        else:
            change = {
                "expired": "update api_keys set expires_at = now() where account_id = $1 and scopes = '{read}'",
                "suspended": "update accounts set suspended_at = now() where id = $1",
            }
            async with letters.sql(shared_house) as connection:
                await connection.execute(change[how], tenant.account_id)
    assert [task.result() for task in tasks[1:]] == [1008, (401, "invalid_api_key")]
    assert (waiting.result().status_code, waiting.result().json()["name"]) in (
        (401, "invalid_api_key"),
        (403, "restricted_api_key"),  # it came late, to a door that was closed already
    )
    async with shared_house.client(made["key"]) as late:
        expected = (403, "restricted_api_key") if how == "suspended" else (401, "invalid_api_key")
        async with asyncio.timeout(PATIENCE):
            while (await late.get("/mailboxes")).status_code == 200:
                pass  # for a second what was looked up is held to be true
        refused(await late.get("/mailboxes"), *expected)


async def test_what_a_mailboxs_token_opened_ends_with_the_mailbox(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    box = await letters.mailbox(client)
    async with shared_house.client(box["token"]) as holder, asyncio.TaskGroup() as ended:
        tasks = await opened_by(shared_house, box["token"], f"/mailboxes/{box['id']}/events", ended)
        waiting = ended.create_task(holder.get(f"/mailboxes/{box['id']}/wait", params={"timeout": 60}))
        assert (await client.delete(f"/mailboxes/{box['id']}")).status_code == 204
    assert tasks[1].result() == 1008
    assert waiting.result().status_code in (401, 404)


async def test_a_key_can_be_renamed_and_tells_when_it_was_used(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    made = await made_key(client, scopes=["read"])
    assert made["last_used_at"] is None
    answer = await client.patch(f"/api-keys/{made['id']}", json={"name": "another"})
    assert (answer.status_code, answer.json()["name"], answer.json()["scopes"]) == (200, "another", ["read"])
    refused(await client.patch(f"/api-keys/{made['id']}", json={"scopes": ["admin"]}), 422, "validation_error")
    refused(await client.patch(f"/api-keys/{MISSING}", json={"name": "x"}), 404, "not_found")
    async with shared_house.client(made["key"]) as holder:
        assert (await holder.get("/mailboxes")).status_code == 200
    async with asyncio.timeout(PATIENCE):
        while (await client.get(f"/api-keys/{made['id']}")).json()["last_used_at"] is None:
            pass  # it is written down within a second or two


async def test_a_suspended_accounts_mail_is_put_off_or_goes_nowhere_as_to_nobody(
    shared_house: house.House,
) -> None:
    """At its own domain the sender's queue holds it, for every local part alike; at a shared one it hears what mail for
    nobody hears.

    Seen to fail with nobody asked whether the ground is suspended: mail heard 250 for as long as the test let it."""
    tenant = await shared_house.tenant()
    async with shared_house.client(tenant.key) as client:
        await letters.owns(shared_house, tenant, f"{tenant.account_id}.example")
        own = await letters.mailbox(client, address=f"box@{tenant.account_id}.example")
        shared = await letters.mailbox(client)
    async with letters.sql(shared_house) as connection:
        stored = "select count(*) from messages where account_id = $1"
        await connection.execute("update accounts set suspended_at = now() where id = $1", tenant.account_id)
        async with asyncio.timeout(PATIENCE):  # for seconds what was looked up is held to be true
            while await letters.sent(shared_house, letters.letter("n"), own["address"]) == "250":
                pass
        before = await connection.fetchval(stored, tenant.account_id)
        names = (own["address"], f"nobody@{tenant.account_id}.example")
        replies = {await letters.sent(shared_house, letters.letter("n"), name) for name in names}
        assert len(replies) == 1
        assert replies.pop().startswith("451 4.2.1 ")
        for name in (shared["address"], NOBODY):
            assert await letters.sent(shared_house, letters.letter("n"), name) == "250"
        assert await connection.fetchval(stored, tenant.account_id) == before
        await connection.execute("update accounts set suspended_at = null where id = $1", tenant.account_id)
    assert await letters.sent(shared_house, letters.letter("n"), shared["address"]) == "250"
    async with shared_house.client(tenant.key) as client, asyncio.timeout(PATIENCE):
        while (await client.get("/mailboxes")).status_code != 200:
            pass
        assert len(await letters.listed(client, f"/mailboxes/{shared['id']}/messages")) == 1
