"""A host's clock is wrong, and is stepped while it works: nothing ends early, is forgotten, late or out of order.

One host's clock is an hour, a day, a hundred days off; another one's is right; Postgres is right, too. (That Postgres's
own clock is stepped is not tried: its clock is the one that everything goes by, so lives and leases move with it.)
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx2
import pytest
import standardwebhooks
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from tests import house, sending
from tests.faults import load, stepped
from tests.flows import letters, receiver
from tests.flows.test_inbound_http import SIGNING_KEY, mailgun_form
from tests.outbound import sink

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.faults,  # processes of its own, which import everything anew
    pytest.mark.skipif(stepped.compiler() is None, reason="there is no C compiler, by which a clock is stepped"),
]

HOUR, DAY = 3600, 86_400
STEPS: Final = (HOUR, -HOUR, DAY, -DAY, 100 * DAY, 0)
SETTINGS: Final = {
    "LEASE_SECONDS": "2",
    "HEARTBEAT_SECONDS": "0.5",
    "SWEEP_INTERVAL_SECONDS": "0.2",
    "RECLAIM_INTERVAL_SECONDS": "0.2",
    "EXPIRY_INTERVAL_SECONDS": "0.2",
    "RETRY_SCHEDULE": "0.1",
    "MAILGUN_SIGNING_KEY": SIGNING_KEY,
    "DKIM_SELECTOR": "one",
}
CLOSE: Final = timedelta(seconds=60)  # to the truth, on a busy machine


@dataclass(kw_only=True)
class Scene:
    """A host whose clock is wrong, with the worker, and one whose clock is right."""

    clock: stepped.Clock
    hosts: list[house.House]
    clients: list[httpx2.AsyncClient]  # one for each host
    relay: sink.Sink
    listener: receiver.Receiver
    secret: str  # of the webhook
    box: dict[str, Any]  # a mailbox that is to live for ten minutes
    began: datetime
    sent: list[str] = field(default_factory=list)  # e-mails, in the order in which they were asked for


def _dkim_key(folder: Path) -> str:
    key = ed25519.Ed25519PrivateKey.generate()
    written = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "dkim.pem").write_bytes(written)
    return str(folder / "dkim.pem")


@contextlib.asynccontextmanager
async def _scene(dsn: str, redis_url: str, folder: Path) -> AsyncIterator[Scene]:
    clock = stepped.Clock(folder)
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(sink.Sink())
        listener = await stack.enter_async_context(receiver.Receiver())
        settings = {**SETTINGS, **clock.environment, "OUTBOUND": relay.url("tls=none")}
        settings["DKIM_KEY_FILE"] = _dkim_key(folder)
        wrong = await stack.enter_async_context(house.standing(dsn, redis_url, settings=settings, forked=False))
        right = {name: value for name, value in wrong.environment.items() if name not in clock.environment}
        beside = load.beside(dataclasses.replace(wrong, environment=right, forked=True))
        hosts = [wrong, await stack.enter_async_context(beside)]
        key = (await wrong.tenant()).key
        clients = [await stack.enter_async_context(host.client(key)) for host in hosts]
        hook = (await clients[1].post("/webhooks", json={"url": listener.url(), "types": ["email.sent"]})).json()
        yield Scene(
            clock=clock,
            hosts=hosts,
            clients=clients,
            relay=relay,
            listener=listener,
            secret=hook["secret"],
            box=await letters.mailbox(clients[1], ttl_seconds=600),
            began=datetime.now(UTC),
        )


async def _send(scene: Scene, client: httpx2.AsyncClient, key: str | None = None, **changes: Any) -> str:
    email_id = await sending.send(client, key, **changes)
    scene.sent.append(email_id)
    return email_id


async def _mail_comes_in_and_nobody_expires(scene: Scene, step: int) -> None:
    subject = uuid4().hex
    await letters.hand_in(scene.hosts[0], letters.letter(subject), scene.box["address"])
    shown = (await scene.clients[0].get(f"/mailboxes/{scene.box['id']}/wait", params={"subject": subject})).json()
    assert shown["message"]["subject"] == subject, step
    assert (await scene.clients[0].get(f"/mailboxes/{scene.box['id']}")).json()["status"] == "active"
    form = mailgun_form(scene.box["address"], {"body-mime": letters.letter(uuid4().hex).decode()})
    async with httpx2.AsyncClient(base_url=f"{scene.hosts[0].url}/v1", timeout=30, verify=house.NOBODY) as provider:
        answer = await provider.post("/inbound/mailgun/mime", data=form)
    assert answer.status_code == 200, (step, answer.text)


async def _mail_goes_out(scene: Scene, step: int) -> None:
    """Soon, signed now, also what expires soon and what was put off; and what is for later waits until then."""
    scene.relay.next("rcpt", sink.reply("451 4.3.0 later"))
    deferred = await _send(scene, scene.clients[0], expires_in=120, from_="App <app@postroom.test>")
    shown = await sending.resting(scene.clients[1], deferred)
    assert shown["status"] == "sent", step
    [signed] = [one.raw for one in scene.relay.messages if one.message_id == shown["message_id"]]
    signed_at = int(signed.partition(b" t=")[2].partition(b";")[0])
    assert abs(signed_at - time.time()) < CLOSE.total_seconds(), step
    later = await _send(scene, scene.clients[0], scheduled_at="in 10 min")
    due = datetime.fromisoformat((await sending.read(scene.clients[1], later))["scheduled_at"])
    assert abs(due - datetime.now(UTC) - timedelta(minutes=10)) < CLOSE, step
    for one in await sending.attempts(scene.clients[1], deferred):
        assert abs(datetime.fromisoformat(one["finished_at"]) - datetime.now(UTC)) < CLOSE, step


async def _lists_are_whole_and_in_order(scene: Scene, step: int) -> None:
    """Those of the host with the wrong clock among those of the other."""
    await _send(scene, scene.clients[1], scheduled_at="in 1 day")
    query = {"since": scene.began.isoformat(), "until": (datetime.now(UTC) + CLOSE).isoformat(), "order": "asc"}
    for client in scene.clients:
        answer = await client.get("/emails", params={**query, "limit": "200"})
        assert [one["id"] for one in answer.json()["data"]] == scene.sent, step


async def _an_address_leads_to_its_newest_mailbox(scene: Scene, step: int) -> None:
    name = f"again{step}@postroom.test".replace("-", "minus")
    before = await letters.mailbox(scene.clients[1 if step < 0 else 0], address=name)
    await letters.expire(scene.hosts[1], before["id"])
    after = await letters.mailbox(scene.clients[0 if step < 0 else 1], address=name)
    for client in scene.clients:
        assert (await client.get(f"/mailboxes/{name}")).json()["id"] == after["id"], step


async def _webhooks_are_believed(scene: Scene, step: int) -> None:
    """By a receiver whose clock is right and who tolerates five minutes."""
    shown = [await sending.read(scene.clients[1], one) for one in scene.sent]
    for told in await scene.listener.until(sum(one["status"] == "sent" for one in shown)):
        standardwebhooks.Webhook(scene.secret).verify(told.body, told.headers)


async def test_a_clock_that_is_wrong_and_stepped_changes_nothing(dsn: str, redis_url: str, tmp_path: Path) -> None:
    """For six steps of the clock, hosts and worker running.

    With a Clock that goes on believing the machine, Mailgun's post was refused (401) an hour ahead. With
    housekeeping that goes by the machine, the key was forgotten a day ahead."""
    async with _scene(dsn, redis_url, tmp_path) as scene, asyncio.timeout(240):
        key = uuid4().hex
        first = await _send(scene, scene.clients[0], key)
        held = asyncio.Event()
        scene.relay.next("dot", sink.late(held))
        waiting = await _send(scene, scene.clients[0], on_unknown="hold")
        for step in STEPS:
            scene.clock.step(step)
            await _mail_comes_in_and_nobody_expires(scene, step)
            await _mail_goes_out(scene, step)
            await _lists_are_whole_and_in_order(scene, step)
            await _an_address_leads_to_its_newest_mailbox(scene, step)
            await _webhooks_are_believed(scene, step)
            assert await sending.send(scene.clients[0], key) == first, f"the key is forgotten at {step}"
        held.set()
        shown = await sending.resting(scene.clients[0], waiting)
        assert shown["status"] == "sent"  # its lease was renewed all the time
        assert [one["number"] for one in await sending.attempts(scene.clients[0], waiting)] == [1]
        log = (await scene.clients[0].get("/events", params={"after": "0"})).json()["data"]
        assert log[0]["seq"] == 1
