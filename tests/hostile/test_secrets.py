"""No secret is said twice: not in the log at its most talkative, in metrics, refusals, by commands, or in a dump.

A house is led through all that has secrets to do with, and then everything it wrote is searched for each of them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import subprocess
import sys
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest

from gateway import embedded
from tests import house, sending
from tests.flows import letters, receiver
from tests.flows.test_told import rejection, socket_to
from tests.flows.test_unsubscribe import link
from tests.outbound import sink

pytestmark = pytest.mark.anyio

SET: Final = {  # what the deployment's owner has set
    "relay": "Rq7hYrelayVq",
    "relay, escaped": "p%40ss%2Fw0rd-Zq",
    "mailgun": "key-3ax6xnjp29jd6fds4gc373sgvjxteol0",
    "postmark": "Pm0stmarkAuthQx",
    "metrics": "M3tricsTokenKd9x",
    "database": "Dbpa55wordNn3",
    "redis": "R3disPa55wordTt",
}
CODE: Final = "739184"  # of a mail
WORDS: Final = "Whom-the-bell-tolls-47"  # of mails
Known = dict[str, str]


def settings(relay: int) -> dict[str, str]:
    second = f"smtp://app:{SET['relay, escaped']}@127.0.0.1:9"
    return {
        "LOG_LEVEL": "debug",
        "OUTBOUND": f"smtp://app:{SET['relay']}@127.0.0.1:{relay}?tls=none {second}",
        "MAILGUN_SIGNING_KEY": SET["mailgun"],
        "POSTMARK_WEBHOOK_AUTH": f"user:{SET['postmark']}",
        "METRICS_TOKEN": SET["metrics"],
        "WEBHOOK_RETRY_SCHEDULE": "0.05",
    }


class Tour:
    """What is done, and what was answered where no secret is to be shown."""

    def __init__(self, home: house.House, tenant: house.Tenant, relay: sink.Sink) -> None:
        self.home = home
        self.tenant = tenant
        self.relay = relay
        self.known: Known = {"admin key": tenant.key, "SECRET_KEY": house.SECRET_KEY, **SET}
        self.said: list[str] = []

    async def go(self, client: httpx2.AsyncClient, hooks: receiver.Receiver) -> None:
        await self.keys(client)
        await self.mail(client)
        await self.webhooks(client, hooks)
        await self.streams()
        await self.submission()
        await self.providers()
        await self.operating()

    async def keys(self, client: httpx2.AsyncClient) -> None:
        headers = {"Idempotency-Key": "once"}
        for _ in range(2):
            made = (await client.post("/api-keys", json={"name": "k", "scopes": ["read"]}, headers=headers)).json()
        self.known["key"] = made["key"]
        self.known["wrong key"] = made["key"][:-4] + "0000"
        async with self.home.client(made["key"]) as holder, self.home.client(self.known["wrong key"]) as stranger:
            answers = [await holder.get("/mailboxes"), await holder.post("/mailboxes"), await stranger.get("/emails")]
            answers += [await holder.get(f"/mailboxes?key={made['key']}"), await client.get("/api-keys")]
        broken = {"name": self.known["key"], "scopes": ["read"], "key": self.known["key"]}
        answers.append(await client.get("/domains/nothing"))
        assert (await client.post("/api-keys", json=broken)).status_code == 422
        self.said += [answer.text for answer in answers]
        domain = await client.post("/domains", json={"name": "secrets.example"})
        assert domain.status_code == 201, domain.text

    async def mail(self, client: httpx2.AsyncClient) -> None:
        box = await letters.mailbox(client)
        self.known["mailbox token"] = box["token"]
        await letters.hand_in(self.home, letters.letter(f"Your code is {CODE}", WORDS), box["address"])
        async with self.home.client(box["token"]) as holder:
            found = (await holder.get(f"/mailboxes/{box['id']}/wait?for=code")).json()
            assert found["code"] == CODE
            self.said.append((await holder.get("/emails")).text)
        template = {"name": "n", "subject": "s", "text": "Code: {{ code }}"}
        made = (await client.post("/templates", json=template)).json()
        sent: dict[str, Any] = {
            "template": {"id": made["id"], "variables": {"code": f"{CODE} {WORDS}"}},
            "unsubscribe": {},
        }
        await sending.send(client, subject=None, text=None, **sent)
        await self.relay.until(lambda: bool(self.relay.messages))
        address = urllib.parse.urlsplit(link(self.relay.messages[0].raw))
        self.known["unsubscribing token"] = address.path.rpartition("/")[2]
        async with httpx2.AsyncClient(base_url=self.home.url, verify=house.NOBODY) as anybody:
            await anybody.get(address.path)
            await anybody.post(address.path, data={"List-Unsubscribe": "One-Click"})
            self.said.append((await anybody.get(f"/u/{WORDS}")).text)

    async def webhooks(self, client: httpx2.AsyncClient, hooks: receiver.Receiver) -> None:
        secret = "Hook-In-Url-77q"
        urls = [hooks.url(), hooks.url().replace("//", f"//user:{secret}@"), "http://127.0.0.1:9/"]
        for url in urls:
            made = await client.post("/webhooks", json={"url": url, "types": ["mailbox.created"]})
            if made.status_code == 201:
                self.known[f"webhook {url[-5:]}"] = made.json()["secret"]
            else:
                self.known["in a refused URL"] = secret
        hooks.answers.append("500 No")
        await letters.mailbox(client)
        await hooks.until(2)

    async def streams(self) -> None:
        key, wrong = self.known["key"], self.known["wrong key"]
        async with socket_to(self.home, None, subprotocols=["postroom.v1", f"bearer.{key}"]):
            pass
        refused = await rejection(self.home, wrong)
        self.said.append(str(refused))

    async def submission(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.home.submission_port)
        plain = base64.b64encode(f"\0app\0{self.known['key']}".encode()).decode()
        self.known["key, encoded"] = plain
        for line in ("EHLO x", f"AUTH PLAIN {plain}", f"AUTH {plain}", f"{self.known['key']}", "QUIT"):
            writer.write(f"{line}\r\n".encode())
        self.said.append((await reader.read()).decode())
        writer.close()

    async def providers(self) -> None:
        async with httpx2.AsyncClient(base_url=f"{self.home.url}/v1", verify=house.NOBODY) as provider:
            form = {"timestamp": "1", "token": "t" * 50, "signature": SET["mailgun"], "body-plain": WORDS}
            auths = [("user", "wrong"), ("user", SET["postmark"])]
            answers = [await provider.post(f"/{way}/mailgun", data=form) for way in ("inbound", "callbacks")]
            answers += [await provider.post("/inbound/postmark", json={"TextBody": CODE}, auth=auth) for auth in auths]
            answers += [await provider.post("/callbacks/postmark", content=b"{", auth=auth) for auth in auths]
        self.said += [answer.text for answer in answers]

    async def operating(self) -> None:
        bearer = {"Authorization": f"Bearer {SET['metrics']}"}
        async with httpx2.AsyncClient(base_url=self.home.url, verify=house.NOBODY) as anybody:
            counted = await anybody.get("/metrics", headers=bearer)
            assert counted.status_code == 200
            answers = [counted, await anybody.get("/metrics", headers={"Authorization": "Bearer M3tricsToken"})]
            answers += [await anybody.get(path) for path in ("/readyz", "/healthz", "/openapi.json")]
        self.said += [answer.text for answer in answers]


def found(known: Mapping[str, str], written: str) -> list[str]:
    """Names of what stands there, as it is, escaped for a URL, as base64 or as hexadecimal digits."""
    return [
        name
        for name, secret in known.items()
        if any(
            form in written
            for form in (
                secret,
                urllib.parse.unquote(secret),
                secret.encode().hex(),
                base64.b64encode(secret.encode()).decode().rstrip("=")[:-1],
            )
        )
    ]


def commanded(environment: Mapping[str, str], *command: str) -> str:
    """What it says, on both streams."""
    words = [sys.executable, "-m", "gateway.cli", *command]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout + done.stderr


def dumped(dsn: str) -> str:
    tool = embedded.postgres_binaries() / "pg_dump"
    return subprocess.run([tool, "--dbname", dsn], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "commands",
    [
        (),
        pytest.param((["settings"], ["doctor"], ["doctor", "--json"], ["migrate"]), marks=pytest.mark.faults),
    ],
)
async def test_no_secret_is_in_anything_that_is_written(
    dsn: str, redis_url: str, tmp_path: Path, commands: tuple[list[str], ...]
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(sink.Sink(credentials=("app", SET["relay"])))
        hooks = await stack.enter_async_context(receiver.Receiver())
        standing = house.standing(dsn, redis_url, folder=tmp_path, settings=settings(relay.port))
        home = await stack.enter_async_context(standing)
        tenant = await home.tenant()
        tour = Tour(home, tenant, relay)
        async with home.client(tenant.key) as client, asyncio.timeout(90):
            await tour.go(client, hooks)
        stored = dumped(dsn)
        environment = home.environment
    logged = "".join((tmp_path / f"{program}.log").read_text() for program in ("serve", "worker"))
    for name in ("http request", '"level":"debug"', "unsubscribed", "webhook"):
        assert name in logged  # it is the log of all that
    contents = {"code": CODE, "words": WORDS, "asked code": f"Your code is {CODE}"}
    assert found(tour.known | contents, logged) == []
    assert [found(tour.known | contents, said) for said in tour.said if found(tour.known | contents, said)] == []
    assert found({name: one for name, one in tour.known.items() if name not in BY_THEIR_OWNERS}, stored) == []
    assert "BEGIN PRIVATE KEY" not in stored
    away = environment | {
        "DATABASE_URL": f"postgresql://postroom:{SET['database']}@127.0.0.1:9/x",
        "REDIS_URL": f"redis://:{SET['redis']}@127.0.0.1:9/0",
        "PORT": "1",
    }
    for command in commands:
        for told in (commanded(environment, *command), commanded(away, *command)):
            assert found(tour.known | contents, told) == [], command


BY_THEIR_OWNERS: Final = (
    "in a refused URL",
    "unsubscribing token",
)  # stand in what their owners gave, or in their mail


def test_the_search_finds_what_is_there() -> None:
    """Its own control."""
    known: Known = {"a": "Rq7hYrelayVq", "b": "p%40ss"}
    for written in ("x Rq7hYrelayVq", b"Rq7hYrelayVq".hex(), base64.b64encode(b"Rq7hYrelayVq").decode()):
        assert found(known, written) == ["a"]
    assert found(known, "p@ss") == ["b"]
