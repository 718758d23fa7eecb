"""Resend's own Python client, unchanged but for its URL: it sends, lists, changes and raises as against its maker."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import httpx2
import pytest
import resend
from resend import exceptions

from tests import house
from tests.flows import letters

pytestmark = pytest.mark.anyio

Answer = TypeVar("Answer")


@pytest.fixture
def sdk(shared_house: house.House, tenant: house.Tenant) -> Iterator[None]:
    """The client is a module; this test's house and key are put into it."""
    before = resend.api_url, resend.api_key
    resend.api_url, resend.api_key = f"{shared_house.url}/v1", tenant.key
    yield
    resend.api_url, resend.api_key = before


async def called(function: Callable[..., Answer], *arguments: Any) -> Answer:
    return await asyncio.to_thread(function, *arguments)


def mail(to: str, **fields: Any) -> Any:
    return {"from": "Shop <shop@postroom.test>", "to": [to], "subject": "Hello", "text": "t", **fields}


@pytest.mark.usefixtures("sdk")
async def test_what_is_sent_with_attachments_arrives_whole(client: httpx2.AsyncClient) -> None:
    box = await letters.mailbox(client)
    files = [
        {"filename": "list.txt", "content": list(b"as numbers")},
        {"filename": "text.txt", "content": base64.b64encode(b"as base64").decode(), "content_type": "text/plain"},
    ]
    given = mail(
        box["address"],
        html="<b>x</b>",
        reply_to="r@postroom.test",
        headers={"X-Order": "17"},
        tags=[{"name": "kind", "value": "order"}],
        attachments=files,
    )
    sent = await called(resend.Emails.send, given, {"idempotency_key": "order-17"})
    again = await called(resend.Emails.send, given, {"idempotency_key": "order-17"})
    assert sent["id"] == again["id"]
    answer = await client.get(f"/mailboxes/{box['id']}/wait", params={"timeout": 60})
    message = answer.json()["message"]
    assert [one["filename"] for one in message["attachments"]] == ["list.txt", "text.txt"]
    for index, content in enumerate((b"as numbers", b"as base64")):
        assert (await client.get(f"/messages/{message['id']}/attachments/{index}")).content == content
    assert ["X-Order", "17"] in message["headers"]
    got = await called(resend.Emails.get, sent["id"])
    assert (got["subject"], got["to"], got["reply_to"]) == ("Hello", [box["address"]], ["r@postroom.test"])


@pytest.mark.usefixtures("sdk")
async def test_batches_pages_and_schedules_work() -> None:
    batch = [mail(f"{n}@elsewhere.example") for n in range(3)]
    ids = [one["id"] for one in (await called(resend.Batch.send, batch))["data"]]
    permissive: Any = {"batch_validation": "permissive"}
    some = await called(resend.Batch.send, [mail("no address"), mail("x@elsewhere.example")], permissive)
    assert (len(some["data"]), [one["index"] for one in some["errors"]]) == (1, [0])
    first = await called(resend.Emails.list, {"limit": 2})
    rest = await called(resend.Emails.list, {"limit": 2, "after": first["data"][-1]["id"]})
    listed = [one["id"] for one in (*first["data"], *rest["data"])]
    assert listed == [some["data"][0]["id"], *reversed(ids)]
    later = await called(resend.Emails.send, mail("x@elsewhere.example", scheduled_at="in 1 hour"))
    moved = await called(resend.Emails.update, {"id": later["id"], "scheduled_at": "in 2 hours"})
    assert (moved["object"], moved["id"]) == ("email", later["id"])
    assert (await called(resend.Emails.cancel, later["id"]))["id"] == later["id"]
    assert (await called(resend.Emails.get, later["id"]))["last_event"] == "canceled"


@pytest.mark.usefixtures("sdk")
async def test_its_errors_are_of_their_types(monkeypatch: pytest.MonkeyPatch) -> None:
    no_body = {name: value for name, value in mail("x@elsewhere.example").items() if name != "text"}
    for wish, error, code in (
        (mail("no address"), exceptions.ValidationError, 422),
        (no_body, exceptions.MissingRequiredFieldsError, 422),
    ):
        with pytest.raises(error) as caught:
            await called(resend.Emails.send, wish)
        assert caught.value.code == code
    with pytest.raises(exceptions.ResendError) as missing:
        await called(resend.Emails.get, "0194d1a0-0000-7000-8000-000000000000")
    assert missing.value.code == 404
    keyed: Any = {"idempotency_key": "order-18"}
    await called(resend.Emails.send, mail("x@elsewhere.example"), keyed)
    with pytest.raises(exceptions.ResendError) as conflict:
        await called(resend.Emails.send, mail("y@elsewhere.example"), keyed)
    assert (conflict.value.code, conflict.value.error_type) == (409, "invalid_idempotent_request")
    monkeypatch.setattr(resend, "api_key", "pr_key_wrong")
    with pytest.raises(exceptions.InvalidApiKeyError):
        await called(resend.Emails.send, mail("x@elsewhere.example"))
