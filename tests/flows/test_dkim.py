"""DKIM from end to end: keys in the DNS, mail at a relay that verifies by them, rotation, and nothing sent unsigned."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import dkim as dkimpy
import httpx2
import pytest
from cryptography.hazmat.primitives import serialization

from gateway.inbound import verdicts
from gateway.mail import dkim
from gateway.mail.auth import dkim as checking
from gateway.resolving import DnsResolver
from tests import house, nameserver, sending
from tests.flows.test_mailboxes import refused
from tests.outbound import sink

pytestmark = pytest.mark.anyio

NAME = "shop.example"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A house whose mail comes to a relay, and the DNS that both ask."""

    home: house.House
    relay: sink.Sink
    zone: nameserver.Zone
    resolver: DnsResolver

    def publish(self, shown: dict[str, Any]) -> None:
        """What the API asks for."""
        nameserver.publish(self.zone, shown["records"])

    async def judged(self, raw: bytes) -> list[tuple[str, str, str]]:
        """Result, domain and kind of each signature, by the judge of mail that comes in."""
        peer = verdicts.Peer(remote_ip="127.0.0.1", mail_from="", helo="")
        verdict = await verdicts.Judge(self.resolver).judge(peer, verdicts.examine(raw), now=datetime.now(UTC))
        return [(one.result, one.domain, one.algorithm) for one in verdict.signatures]


BOTH = [("pass", NAME, "rsa-sha256"), ("pass", NAME, "ed25519-sha256")]


@contextlib.asynccontextmanager
async def placed(dsn: str, redis_url: str, **settings: str) -> AsyncIterator[Place]:
    zone: nameserver.Zone = {}
    async with nameserver.serving(zone) as server, sink.Sink() as relay:
        asked = {
            "DNS_SERVERS": server.address,
            "OUTBOUND": relay.url("tls=none"),
            "RETRY_SCHEDULE": "0.05",
            "SWEEP_INTERVAL_SECONDS": "0.1",
        }
        async with house.standing(dsn, redis_url, settings=asked | settings) as home:
            resolver = DnsResolver([server.address], cache_entries=0)
            yield Place(home=home, relay=relay, zone=zone, resolver=resolver)


async def owned(place: Place, client: httpx2.AsyncClient, **wish: Any) -> dict[str, Any]:
    """A verified domain, all records published."""
    answer = await client.post("/domains", json={"name": NAME, **wish})
    assert answer.status_code == 201, answer.text
    place.publish(answer.json())
    return await looked(client)


async def looked(client: httpx2.AsyncClient) -> dict[str, Any]:
    shown: dict[str, Any] = (await client.post(f"/domains/{NAME}/verify")).json()
    return shown


async def arrived(place: Place, client: httpx2.AsyncClient, **letter: Any) -> bytes:
    """An e-mail as the relay gets it."""
    count = len(place.relay.messages)
    email_id = await sending.send(client, **{"from_": f"App <app@{NAME}>"} | letter)
    assert (await sending.resting(client, email_id))["status"] == "sent"
    await place.relay.until(lambda: len(place.relay.messages) > count)
    return place.relay.messages[-1].raw


def selectors(raw: bytes) -> set[str]:
    return {checking.parse(field).selector for field in checking.Letter(raw).named(b"dkim-signature")}


def by_status(shown: dict[str, Any], status: str) -> set[str]:
    return {key["selector"] for key in shown["dkim"] if key["status"] == status}


async def test_mail_from_an_own_domain_has_two_good_signatures_and_keeps_them_over_a_rotation(
    dsn: str, redis_url: str
) -> None:
    async with placed(dsn, redis_url) as place, place.home.client((await place.home.tenant()).key) as client:
        shown = await owned(place, client)
        assert {record["state"] for record in shown["records"]} == {"ok"}
        old = by_status(shown, "active")
        assert len(old) == 2
        large = {"filename": "a.bin", "content": "QUFB" * 200_000}
        for letter in ({}, {"text": "Grüße\r\n.\r\n \r\n\r\n", "html": "<p>ß</p>"}, {"attachments": [large]}):
            raw = await arrived(place, client, **letter)
            assert await place.judged(raw) == BOTH
            assert dkimpy.verify(raw, dnsfunc=lambda name, timeout=5: _text(place.zone, name))
        refused(await other_rotation(client, twice=True), 409, "invalid_state")
        rotated = (await client.get(f"/domains/{NAME}")).json()
        new = by_status(rotated, "waiting")
        assert (len(new), by_status(rotated, "active")) == (2, old)
        raw = await arrived(place, client)
        assert (selectors(raw), await place.judged(raw)) == (old, BOTH)
        assert by_status(await looked(client), "active") == old  # for the new records are not there yet
        place.publish(rotated)
        shown = await looked(client)
        assert (by_status(shown, "active"), by_status(shown, "retired")) == (new, old)
        async with asyncio.timeout(sending.PATIENCE):  # the worker believes what it knows for some seconds
            while selectors(raw := await arrived(place, client)) == old:
                assert await place.judged(raw) == BOTH  # for the old records still stand
        assert (selectors(raw), await place.judged(raw)) == (new, BOTH)


async def test_signatures_cover_the_link_to_unsubscribe(dsn: str, redis_url: str) -> None:
    """RFC 8058 4. Negative controls: with either name taken out of `dkim.SIGNED`, or the fields put in front of what is
    signed already, h= lacked them, and it failed."""
    async with placed(dsn, redis_url) as place, place.home.client((await place.home.tenant()).key) as client:
        await owned(place, client)
        raw = await arrived(place, client, unsubscribe={"topic": "news"})
        own = await arrived(place, client, headers={"List-Unsubscribe": "<https://x.example>"})
        assert await place.judged(raw) == await place.judged(own) == BOTH
        assert dkimpy.verify(raw, dnsfunc=lambda name, timeout=5: _text(place.zone, name))
        for field in checking.Letter(raw).named(b"dkim-signature"):
            assert {b"list-unsubscribe", b"list-unsubscribe-post"} <= set(checking.parse(field).signed)
        for there, instead in ((b"/u/", b"/v/"), (b"=One-Click", b"=Two-Click")):
            changed = raw.replace(there, instead)
            assert changed != raw
            assert not dkimpy.verify(changed, dnsfunc=lambda name, timeout=5: _text(place.zone, name))


async def other_rotation(client: httpx2.AsyncClient, *, twice: bool) -> httpx2.Response:
    """Rotate; the second answer, where it is to be done twice."""
    answer = await client.post(f"/domains/{NAME}/dkim/rotate")
    assert answer.status_code == 200, answer.text
    return await client.post(f"/domains/{NAME}/dkim/rotate") if twice else answer


def _text(zone: nameserver.Zone, name: bytes) -> bytes | None:
    records = zone.get(name.decode().rstrip("."), {})
    return records["TXT"][0].encode() if isinstance(records, dict) and "TXT" in records else None


async def test_mail_whose_key_cannot_be_read_waits_and_never_leaves_unsigned(dsn: str, redis_url: str) -> None:
    """With a signer that falls back on the message as it is where no key is usable, it was `sent` and this failed."""
    async with placed(dsn, redis_url, RETRY_SCHEDULE="0.05 0.05 3600") as place:
        tenant = await place.home.tenant()
        async with place.home.client(tenant.key) as client:
            await owned(place, client)
            await spoiled(dsn)
            email_id = await sending.send(client, from_=f"app@{NAME}")
            shown = await sending.resting(client, email_id, at={"deferred", "sent"})
            [recipient] = shown["recipients"]
            assert recipient["status"] == "deferred"
            assert "DKIM key of shop.example cannot be read: SECRET_KEY" in recipient["reply"]
            assert place.relay.messages == []
            refused_once = await other_rotation(client, twice=False)
            place.publish(refused_once.json())
            await looked(client)
            async with asyncio.timeout(sending.PATIENCE):  # a retry may come while a try of before is under way
                while (await sending.resting(client, email_id, at={"deferred", "sent"}))["status"] != "sent":
                    await client.post(f"/emails/{email_id}/retry")
            assert (await sending.resting(client, email_id))["status"] == "sent"
            assert await place.judged(place.relay.messages[0].raw) == BOTH


async def spoiled(dsn: str) -> None:
    """As if SECRET_KEY were another one."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            "update dkim_keys set private_key = set_byte(private_key, 20, 255 - get_byte(private_key, 20))"
        )
    finally:
        await connection.close()


async def test_a_wildcard_signs_for_what_is_below_it_and_other_domains_go_as_they_are(dsn: str, redis_url: str) -> None:
    async with placed(dsn, redis_url) as place, place.home.client((await place.home.tenant()).key) as client:
        await owned(place, client, wildcard=True)
        assert await place.judged(await arrived(place, client, from_=f"a@news.{NAME}")) == BOTH
        for sender in ("a@relayed.example", "a@postroom.test"):
            assert b"DKIM-Signature" not in await arrived(place, client, from_=sender)


async def test_the_houses_key_signs_mail_from_the_shared_domain(dsn: str, redis_url: str, tmp_path: Path) -> None:
    private = dkim.generate("rsa")
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "dkim.pem").write_bytes(pem)
    key_file = str(tmp_path / "dkim.pem")
    async with (
        placed(dsn, redis_url, DKIM_KEY_FILE=key_file, DKIM_SELECTOR="house") as place,
        place.home.client((await place.home.tenant()).key) as client,
    ):
        place.zone["house._domainkey.postroom.test"] = {"TXT": [dkim.public_record(private)]}
        raw = await arrived(place, client, from_="a@postroom.test")
        assert await place.judged(raw) == [("pass", "postroom.test", "rsa-sha256")]


async def test_nobody_sends_from_a_domain_that_another_account_has_verified(dsn: str, redis_url: str) -> None:
    async with placed(dsn, redis_url) as place:
        keys = [(await place.home.tenant()).key for _ in range(2)]
        async with place.home.client(keys[0]) as mine, place.home.client(keys[1]) as theirs:
            later = sending.letter(from_=f"ceo@{NAME}", scheduled_at=f"{datetime.now(UTC).year + 1}-01-02T00:00:00Z")
            waiting = (await theirs.post("/emails", json=later)).json()["id"]  # nobody had the domain then
            await owned(place, mine, wildcard=True)
            async with asyncio.timeout(sending.PATIENCE):  # who has a domain is believed for some seconds
                while (await theirs.post("/emails", json=later)).status_code == 202:
                    pass
            for sender in (f"ceo@{NAME}", f"CEO <ceo@a.{NAME.upper()}>"):
                letter = sending.letter(from_=sender)
                refused(await theirs.post("/emails", json=letter), 403, "restricted_api_key")
                refused(await theirs.post("/emails/batch", json=[letter]), 403, "restricted_api_key")
                headers = {"x-batch-validation": "permissive"}
                answer = await theirs.post("/emails/batch", json=[letter, sending.letter()], headers=headers)
                assert [len(answer.json()[part]) for part in ("data", "errors")] == [1, 1]
            soon = await theirs.patch(f"/emails/{waiting}", json={"scheduled_at": "in 1 second"})
            assert soon.status_code == 200, soon.text
            shown = await sending.resting(theirs, waiting)
            assert (shown["status"], shown["recipients"][0]["reply"]) == (
                "failed",
                f"550 5.7.1 another account has verified {NAME}",
            )
            await place.relay.until(lambda: place.relay.count == 2)
            assert {message.mail_from for message in place.relay.messages} == {"app@sender.example"}
