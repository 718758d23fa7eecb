"""The queue as its callers see it: delays told, recipients tried again or left, e-mails sent anew, old ones gone."""

from __future__ import annotations

import asyncio

import pytest

from tests import sending
from tests.outbound import sink

pytestmark = pytest.mark.anyio


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
