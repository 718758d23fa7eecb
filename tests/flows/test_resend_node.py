"""Resend's own client for Node, unchanged but for its URL: it sends, lists, changes, and hears of errors as ever."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest

from tests import house, suites
from tests.flows import letters

pytestmark = pytest.mark.anyio

CALLS: Final = Path(suites.__file__).parent / "resend_node" / "calls.mjs"
CLIENT: Final = f"{suites.RESEND_NODE}/node_modules/resend/dist/index.mjs"
LINE: Final = 1 << 20  # bytes of an answer, at most
PATIENCE: Final = 60.0  # seconds until a call is given up


@dataclass(frozen=True, kw_only=True, slots=True)
class Client:
    """The client, in a process of Node's."""

    process: asyncio.subprocess.Process

    async def call(self, call: str, *arguments: Any) -> tuple[Any, Any]:
        """What `resend.emails.send(...)` and its like return: data and error, one of them null."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"call": call, "with": arguments}).encode() + b"\n")
        async with asyncio.timeout(PATIENCE):
            line = await self.process.stdout.readline()
        assert line, "node has ended: see what it printed"
        answer = json.loads(line)
        return answer["data"], answer["error"]


@contextlib.asynccontextmanager
async def resend(key: str, *, base_url: str = "", variable: str = "") -> AsyncIterator[Client]:
    """A client whose URL is given as its option or by RESEND_BASE_URL."""
    process = await asyncio.create_subprocess_exec(
        *(str(suites.node()), str(CALLS), str(suites.path(CLIENT)), key),
        json.dumps({"baseUrl": base_url} if base_url else {}),
        env={"PATH": os.environ.get("PATH", ""), **({"RESEND_BASE_URL": variable} if variable else {})},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE,
    )
    try:
        yield Client(process=process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.fixture
async def sdk(shared_house: house.House, tenant: house.Tenant) -> AsyncIterator[Client]:
    """The tenant's."""
    async with resend(tenant.key, base_url=f"{shared_house.url}/v1") as client:
        yield client


def mail(to: str, **fields: Any) -> dict[str, Any]:
    return {"from": "Shop <shop@postroom.test>", "to": [to], "subject": "Hello", "text": "t", **fields}


async def done(called: tuple[Any, Any]) -> Any:
    """The data of a call that must not fail."""
    data, error = called
    assert error is None, error
    return data


async def test_what_is_sent_with_attachments_arrives_whole(sdk: Client, client: httpx2.AsyncClient) -> None:
    box = await letters.mailbox(client)
    picture = bytes(range(256))
    files = [
        {"filename": "bytes.bin", "content": {"$bytes": base64.b64encode(picture).decode()}},
        {"filename": "text.txt", "content": base64.b64encode(b"as base64").decode(), "contentType": "text/plain"},
        {
            "filename": "logo.png",
            "content": {"$bytes": "iVBORw0KGgo="},
            "contentType": "image/png",
            "contentId": "logo",
        },
    ]
    given = mail(
        box["address"],
        html='<img src="cid:logo">',
        replyTo="r@postroom.test",
        headers={"X-Order": "17"},
        tags=[{"name": "kind", "value": "order"}],
        attachments=files,
    )
    sent = await done(await sdk.call("emails.send", given, {"idempotencyKey": "order-17"}))
    again = await done(await sdk.call("emails.send", given, {"idempotencyKey": "order-17"}))
    assert sent["id"] == again["id"]
    answer = await client.get(f"/mailboxes/{box['id']}/wait", params={"timeout": 60})
    message = answer.json()["message"]
    found = {one["filename"]: one for one in message["attachments"]}
    assert set(found) == {"bytes.bin", "text.txt", "logo.png"}
    for name, content in (("bytes.bin", picture), ("text.txt", b"as base64")):
        kept = await client.get(f"/messages/{message['id']}/attachments/{found[name]['index']}")
        assert kept.content == content
    assert found["logo.png"]["content_id"] == "logo"
    assert ["X-Order", "17"] in message["headers"]
    got = await done(await sdk.call("emails.get", sent["id"]))
    assert (got["object"], got["subject"], got["to"]) == ("email", "Hello", [box["address"]])
    assert (got["reply_to"], got["cc"], got["tags"]) == (["r@postroom.test"], [], [{"name": "kind", "value": "order"}])
    assert (got["html"], got["text"]) == ('<img src="cid:logo">', "t")


async def test_batches_pages_and_schedules_work(sdk: Client) -> None:
    batch = [mail(f"{n}@elsewhere.example") for n in range(3)]
    ids = [one["id"] for one in (await done(await sdk.call("batch.send", batch)))["data"]]
    some = [mail("no address"), mail("x@elsewhere.example")]
    permissive = await done(await sdk.call("batch.send", some, {"batchValidation": "permissive"}))
    assert (len(permissive["data"]), [one["index"] for one in permissive["errors"]]) == (1, [0])
    first = await done(await sdk.call("emails.list", {"limit": 2}))
    assert (first["object"], first["has_more"]) == ("list", True)
    rest = await done(await sdk.call("emails.list", {"limit": 2, "after": first["data"][-1]["id"]}))
    listed = [one["id"] for one in (*first["data"], *rest["data"])]
    assert listed == [permissive["data"][0]["id"], *reversed(ids)]
    assert rest["has_more"] is False
    back = await done(await sdk.call("emails.list", {"limit": 2, "before": rest["data"][0]["id"]}))
    assert [one["id"] for one in back["data"]] == listed[:2]
    later = await done(await sdk.call("emails.send", mail("x@elsewhere.example", scheduledAt="in 1 hour")))
    then = (datetime.now(UTC) + timedelta(days=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
    moved = await done(await sdk.call("emails.update", {"id": later["id"], "scheduledAt": then}))
    assert (moved["object"], moved["id"]) == ("email", later["id"])
    got = await done(await sdk.call("emails.get", later["id"]))
    assert (got["last_event"], got["scheduled_at"]) == ("scheduled", then)
    canceled = await done(await sdk.call("emails.cancel", later["id"]))
    assert (canceled["object"], canceled["id"]) == ("email", later["id"])
    assert (await done(await sdk.call("emails.get", later["id"])))["last_event"] == "canceled"


async def test_its_errors_have_their_names(sdk: Client) -> None:
    no_body = {name: value for name, value in mail("x@elsewhere.example").items() if name != "text"}
    nobody = "0194d1a0-0000-7000-8000-000000000000"
    keyed = {"idempotencyKey": "order-18"}
    await done(await sdk.call("emails.send", mail("x@elsewhere.example"), keyed))
    for call, arguments, name, status in (
        ("emails.send", [mail("no address")], "validation_error", 422),
        ("emails.send", [no_body], "missing_required_field", 422),
        ("emails.send", [mail("x@elsewhere.example", attachments=[{"path": "https://a.example/b"}])], None, 422),
        ("emails.send", [mail("y@elsewhere.example"), keyed], "invalid_idempotent_request", 409),
        ("emails.send", [mail("x@elsewhere.example"), {"idempotencyKey": "k" * 256}], "invalid_idempotency_key", 400),
        ("emails.get", [nobody], "not_found", 404),
        ("emails.cancel", [nobody], "not_found", 404),
        ("batch.send", [[mail("no address")]], "validation_error", 422),
    ):
        data, error = await sdk.call(call, *arguments)
        assert data is None
        assert (error["statusCode"], error["name"]) == (status, name or "invalid_attachment")
        assert error["message"]


async def test_a_wrong_key_is_told_and_the_url_may_stand_in_the_environment(shared_house: house.House) -> None:
    tenant = await shared_house.tenant(("read",))
    url = f"{shared_house.url}/v1"
    async with resend("pr_key_wrong", variable=url) as stranger, resend(tenant.key, variable=url) as reader:
        _, error = await stranger.call("emails.send", mail("x@elsewhere.example"))
        assert (error["statusCode"], error["name"]) == (403, "invalid_api_key")
        _, error = await reader.call("emails.send", mail("x@elsewhere.example"))
        assert (error["statusCode"], error["name"]) == (403, "restricted_api_key")
        assert (await done(await reader.call("emails.list")))["data"] == []
