"""What another account's caller can say besides paths: its ids in queries, bodies and cursors, its keys and tokens.

Paths, scopes and mailbox tokens are in tests/flows/test_keys.py.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import httpx2
import pytest
from uuid_utils.compat import uuid7

from gateway import tokens
from tests import house, sending
from tests.flows import letters, test_keys
from tests.flows.test_keys import told
from tests.flows.test_mailboxes import MISSING
from tests.flows.test_told import STREAM, heard, rejection, socket_to
from tests.flows.test_unsubscribe import link
from tests.outbound import sink

pytestmark = pytest.mark.anyio

MAIL: Final = {"from": "me@postroom.test", "to": "x@elsewhere.example", "subject": "s", "text": "t"}
HOOK: Final = {"url": "http://127.0.0.1:9/", "types": ["*"]}
Json = dict[str, Any]


def places(theirs: Json, own: dict[str, str]) -> list[tuple[str, str, str, Any]]:
    """Method, path and body with `{}` where somebody's thing is named, and which of their things that is."""
    hook, domain, mine = own["webhooks"], own["domains"], own["mailboxes"]
    return [
        ("GET", "/events?mailbox={}", "mailboxes", None),
        ("GET", "/events?mailbox={}", "address", None),
        ("GET", "/events?email={}", "emails", None),
        ("GET", "/events?mailbox={}&wait=0.01", "mailboxes", None),
        ("GET", "/emails?after={}", "emails", None),
        ("GET", "/emails?before={}", "emails", None),
        ("GET", "/messages?thread={}", "thread", None),
        ("GET", f"/mailboxes/{mine}/messages?thread={{}}", "thread", None),
        ("GET", f"/mailboxes/{mine}/wait?timeout=0&skip={{}}", "messages", None),
        ("GET", "/deliveries/export?email={}", "emails", None),
        ("GET", "/suppressions?address={}", "suppressions", None),
        ("DELETE", "/suppressions?address={}", "suppressions", None),
        ("POST", "/webhooks", "mailboxes", {**HOOK, "mailbox": "{}"}),
        ("POST", "/webhooks", "address", {**HOOK, "mailbox": "{}"}),
        ("PATCH", f"/webhooks/{hook}", "mailboxes", {"mailbox": "{}"}),
        ("PATCH", f"/webhooks/{hook}", "address", {"mailbox": "{}"}),
        ("POST", "/domains", "mailboxes", {"name": f"{uuid7().hex}.example", "catch_all": "{}"}),
        ("POST", "/domains", "address", {"name": f"{uuid7().hex}.example", "catch_all": "{}"}),
        ("PATCH", f"/domains/{domain}", "mailboxes", {"catch_all": "{}"}),
        ("PATCH", f"/domains/{domain}", "address", {"catch_all": "{}"}),
        ("POST", "/emails", "templates", {**MAIL, "text": None, "template": {"id": "{}"}}),
        ("POST", "/emails/batch", "templates", [{**MAIL, "text": None, "template": {"id": "{}"}}]),
        ("GET", f"/emails/{own['emails']}/reports/{{}}", "messages", None),
        ("POST", "/emails/{}/resend", "emails", {"to": "me@elsewhere.example"}),
    ]


def put(into: Any, name: str) -> Any:
    if isinstance(into, str):
        return into.replace("{}", name)
    if isinstance(into, dict):
        return {key: put(value, name) for key, value in into.items()}
    return [put(one, name) for one in into] if isinstance(into, list) else into


async def test_ids_of_somebody_elses_in_queries_and_bodies_are_as_if_they_were_not(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    """Byte for byte, headers too. Control: with no account in the WHERE clause of `templates.get` POST /emails answered
    202 instead of 422."""
    ids = await test_keys.belongings(shared_house, client)
    before = await test_keys.everything(client, ids)
    theirs = {**ids, "address": before["mailboxes"]["address"], "thread": before["messages"]["thread_id"]}
    nobodys = {"address": test_keys.NOBODY, "suppressions": f"{MISSING}@gone.example"}
    other = await shared_house.tenant()
    async with shared_house.client(other.key) as stranger:
        own = await test_keys.belongings(shared_house, stranger)
        stranger.headers["X-Request-Id"] = "the-same"
        for method, path, kind, body in places(theirs, own):
            answers = []
            for name in (theirs[kind], nobodys.get(kind, MISSING)):
                answer = await stranger.request(method, put(path, name), json=put(body, name))
                answers.append((answer.status_code, told(answer)[1], answer.text.replace(name, "{}")))
            assert answers[0] == answers[1], (method, path, kind)
            assert answers[0][0] in (200, 404, 408, 422), (method, path, answers[0])
    assert await test_keys.everything(client, ids) == before


async def test_a_cursor_of_somebody_elses_shows_nothing_of_theirs(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    """It says where to go on; in what is its reader's own."""
    boxes = [await letters.mailbox(client) for _ in range(3)]
    for _ in range(3):
        await client.post("/emails", json=MAIL)
        await client.post("/templates", json=test_keys.TEMPLATE)
        await letters.hand_in(shared_house, letters.letter("private"), boxes[0]["address"])
        await test_keys.made_key(client, scopes=["read"])
        await test_keys.suppressed(client, f"{uuid7().hex}@gone.example")
    other = await shared_house.tenant()
    async with shared_house.client(other.key) as stranger:
        await test_keys.belongings(shared_house, stranger)
        for path in ("/mailboxes", "/emails", "/templates", "/messages", "/api-keys", "/suppressions"):
            page = (await client.get(path, params={"limit": 1})).json()
            assert page["next_cursor"], path
            private = {one.get("id") or one["address"] for one in await letters.listed(client, path)}
            for order in ("asc", "desc"):
                query = {"cursor": page["next_cursor"], "order": order}
                answer = await stranger.get(path, params=query)
                assert answer.status_code == 200, (path, answer.text)
                assert not private & {one.get("id") or one["address"] for one in answer.json()["data"]}, path


async def test_an_idempotency_key_is_its_accounts_own(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    headers = {"Idempotency-Key": "the same"}
    other = await shared_house.tenant()
    async with shared_house.client(other.key) as stranger:
        for path, body in (
            ("/emails", MAIL),
            ("/emails/batch", [MAIL]),
            ("/mailboxes", {}),
            ("/webhooks", HOOK),
            ("/templates", test_keys.TEMPLATE),
            ("/api-keys", {"name": "k", "scopes": ["read"]}),
            ("/bounces/rules", test_keys.RULE),
        ):
            answers = [await one.post(path, json=body, headers=headers) for one in (client, stranger)]
            assert answers[0].status_code == answers[1].status_code < 300, (path, answers[1].text)
            assert "idempotent-replayed" not in answers[1].headers
            assert answers[0].content != answers[1].content, path


async def test_what_one_account_suppresses_another_may_write_to(
    sending_house: house.House, sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """By hand, or by a link of its own mail's."""
    await sending.send(sender, to="reader@elsewhere.example", unsubscribe={})
    await relay.until(lambda: bool(relay.messages))
    other = await sending_house.tenant()
    async with sending_house.client(other.key) as stranger, httpx2.AsyncClient(verify=house.NOBODY) as anybody:
        left = await anybody.post(link(relay.messages[0].raw), data={"List-Unsubscribe": "One-Click"})
        assert left.status_code == 200
        await test_keys.suppressed(sender, "gone@elsewhere.example")
        assert len(await letters.listed(sender, "/suppressions")) == 2
        assert await letters.listed(stranger, "/suppressions") == []
        for to in ("reader@elsewhere.example", "gone@elsewhere.example"):
            refused = await sender.post("/emails", json=sending.letter(to=to, on_suppressed="reject"))
            assert (refused.status_code, refused.json()["name"]) == (422, "recipient_suppressed")
            await sending.send(stranger, to=to, on_suppressed="reject")


async def test_streams_tell_nobody_of_somebody_else(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    """Both accounts' logs have the same numbers: a cursor of one's is one of the other's."""
    private = await letters.mailbox(client)
    other = await shared_house.tenant()
    async with shared_house.client(other.key) as stranger:
        stranger.headers["X-Request-Id"] = "the-same"
        pages = [told(await stranger.get(f"/events?mailbox={one}")) for one in (private["id"], MISSING)]
        assert pages[0] == pages[1]  # an id may be of what has gone: there are no events of it
        names = (private["address"], test_keys.NOBODY)
        answers = [told(await stranger.get(f"/events?mailbox={name}", headers=STREAM)) for name in names]
        assert answers[0] == answers[1]
        refusals = [await rejection(shared_house, other.key, f"/events?mailbox={name}") for name in names]
        assert [(status, body["name"]) for status, body in refusals] == [(404, "not_found")] * 2
        async with socket_to(shared_house, other.key, "/events?after=0") as websocket:
            await client.patch(f"/mailboxes/{private['id']}", json={"metadata": {"a": 1}})
            await letters.hand_in(shared_house, letters.letter("private"), private["address"])
            own = await letters.mailbox(stranger)
            assert (await heard(websocket))["mailbox_id"] == own["id"]
            await letters.mailbox(stranger)
            assert (await heard(websocket))["seq"] == 2


async def test_no_wrong_key_opens_anything_and_all_are_refused_alike(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    """Whatever is wrong with it: the answer tells nothing of what the key is, and the body is never looked at."""
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    made = await test_keys.made_key(client, scopes=["admin"], expires_at=soon)
    async with letters.sql(shared_house) as connection:
        await connection.execute("update api_keys set expires_at = now() where id = $1", UUID(made["id"]))
    gone = await test_keys.made_key(client, scopes=["admin"])
    await client.delete(f"/api-keys/{gone['id']}")
    box = await letters.mailbox(client)
    await client.delete(f"/mailboxes/{box['id']}")
    keyring = tokens.Keyring(b"another secret, that is long enough for one")
    wrong = {
        "expired": made["key"],
        "revoked": gone["key"],
        "of a deleted mailbox": box["token"],
        "of another deployment": keyring.api_key(uuid7()),
        "of another kind": tenant.key.replace("pr_key_", "pr_mbx_"),
        "a webhook's secret": "whsec_" + "A" * 44,
        "cut": tenant.key[:-1],
        "longer": tenant.key + "A",
        "in other letters": tenant.key.swapcase(),
        "garbage": "../../etc/passwd' OR 1=1 --",
        "long": "a" * 10_000,
    }
    kinds = list(wrong)
    async with httpx2.AsyncClient(base_url=f"{shared_house.url}/v1", verify=house.NOBODY) as stranger:
        stranger.headers["X-Request-Id"] = "the-same"
        for number, (method, path, described) in enumerate(await _operations(shared_house)):
            if not described["security"]:
                continue
            at = test_keys.PARAMETER.sub(MISSING, path)
            answers = set()
            for name in kinds if path == "/mailboxes" else {kinds[0], kinds[1], kinds[number % len(kinds)]}:
                headers = {"Authorization": f"Bearer {wrong[name]}"}
                answer = await stranger.request(method, at, headers=headers, content=b"{")
                answers.add((answer.status_code, str(sorted(answer.headers.items())), answer.content))
            assert len(answers) == 1, (method, path, answers)
            assert {status for status, _, _ in answers} == {403 if path.startswith("/emails") else 401}, path
        for header in ("", "Bearer", "Bearer ", "Basic eDp5", tenant.key, f"Token {tenant.key}", f"Bearer{tenant.key}"):
            answer = await stranger.get("/mailboxes", headers={"Authorization": header.strip() or "x"})
            assert (answer.status_code, answer.json()["name"]) == (401, "missing_api_key"), header


async def _operations(home: house.House) -> list[tuple[str, str, Json]]:
    async with httpx2.AsyncClient(base_url=home.url, verify=house.NOBODY) as anybody:
        document = (await anybody.get("/openapi.json")).json()
    return [
        (method.upper(), path.removeprefix("/v1"), described)
        for path, methods in document["paths"].items()
        for method, described in methods.items()
    ]
