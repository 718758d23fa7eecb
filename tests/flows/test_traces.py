"""A request is followed: by its trace into the worker and out with the webhook, by its session through the log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import databases, house
from tests.flows import letters, receiver

pytestmark = pytest.mark.anyio

ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACE = {"traceparent": f"00-{ID}-00f067aa0ba902b7-01", "tracestate": "vendor=value"}


def lines(folder: Path, program: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{program}.log").read_text().splitlines() if line.startswith("{")]


async def test_a_request_is_followed_into_the_worker_and_out_with_the_webhook(
    postgres_dsn: str, redis_url: str, tmp_path: Path
) -> None:
    """The e-mail goes to an own mailbox, so that one request causes an attempt, a message and two events.

    Broken on purpose: where a claim read no trace, the lines of the attempt and the message's webhook had none."""
    async with (
        databases.fresh(postgres_dsn) as dsn,
        house.standing(dsn, redis_url, folder=tmp_path) as home,
        receiver.Receiver() as hearer,
    ):
        async with home.client((await home.tenant()).key) as client:
            box = await letters.mailbox(client)
            hook = {"url": hearer.url(), "types": ["message.received", "email.delivered"]}
            assert (await client.post("/webhooks", json=hook)).status_code == 201
            mail = {"from": "me@postroom.test", "to": box["address"], "subject": "s", "text": "t"}
            sent = (await client.post("/emails", json=mail, headers=TRACE)).json()
            receipt = await letters.hand_in(home, letters.letter("from elsewhere"), box["address"])
            await hearer.until(3)
            answer = await client.post("/emails", json=mail, headers={"traceparent": "00-nonsense"})
            assert answer.status_code == 202
            [outside] = [m for m in await letters.listed(client, "/messages") if m["subject"] == "from elsewhere"]
            envelope = (await client.get(f"/messages/{outside['id']}")).json()["envelope"]
        traced = [told for told in hearer.told if "traceparent" in told.headers]
        assert {told.event["type"] for told in traced} == {"message.received", "email.delivered"}
        for told in traced:
            version, trace_id, span_id, flags = told.headers["traceparent"].split("-")
            assert (version, trace_id, flags, told.headers["tracestate"]) == ("00", ID, "01", "vendor=value")
            assert span_id != TRACE["traceparent"].split("-")[2]
        [untraced] = [told for told in hearer.told if told not in traced]
        assert untraced.event["message_id"] == outside["id"]
    served, worked = lines(tmp_path, "serve"), lines(tmp_path, "worker")
    [asked] = [line for line in served if line.get("trace_id") == ID and line["event"] == "http request"]
    assert asked["route"] == "/v1/emails"
    followed = {line["event"]: line for line in worked if line.get("trace_id") == ID}
    assert followed["delivery attempt"]["email_id"] == sent["id"]
    assert followed["delivery attempt"]["outcome"] == "delivered"
    assert followed["webhook attempt"]["outcome"] == "delivered"
    assert len({line["span_id"] for line in [asked, *followed.values()]}) >= 3
    [taken] = [line for line in served if line.get("receipt_id") == receipt]
    assert (taken["event"], taken["reply"]) == ("message answered", "250 2.0.0")
    assert taken["session_id"] == envelope["session_id"]
