"""Mail handed in at the submission port by the usual clients, over TLS, through the worker, to own mailboxes."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from email.message import EmailMessage

import aiosmtplib
import httpx2
import pytest

from tests import conftest, house, sending
from tests.flows import letters
from tests.inbound.dialogue import self_signed

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("a house with TLS")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Port:
    """The submission port of a house outside dev, and an account there."""

    home: house.House
    trusting: ssl.SSLContext  # of a client that knows the house's certificate
    tenant: house.Tenant
    key: str  # may send, and nothing else

    async def submit(
        self, message: bytes, *recipients: str, mail_from: str = "app@sender.example", key: str = ""
    ) -> str:
        """The e-mail's id, by aiosmtplib."""
        _, reply = await aiosmtplib.send(
            message,
            sender=mail_from,
            recipients=list(recipients),
            hostname="127.0.0.1",
            port=self.home.submission_port,
            username="app",
            password=key or self.key,
            start_tls=True,
            tls_context=self.trusting,
        )
        return reply.split()[-1]

    async def refusal(self, message: bytes, *recipients: str, **how: str) -> tuple[int, str]:
        """Code and text of the reply that refuses it."""
        with pytest.raises(aiosmtplib.SMTPResponseException) as caught:
            await self.submit(message, *recipients, **how)
        return caught.value.code, caught.value.message


@pytest.fixture(scope="module")
def trusting_and_house(
    postgres_dsn: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ssl.SSLContext, house.House]]:
    folder = tmp_path_factory.mktemp("certificate")
    _, client = self_signed(folder)
    files = {"TLS_CERT_FILE": str(folder / "chain.pem"), "TLS_KEY_FILE": str(folder / "key.pem")}
    for home in conftest._standing(
        postgres_dsn, redis_url, TLS_CERT_FILE=files["TLS_CERT_FILE"], TLS_KEY_FILE=files["TLS_KEY_FILE"]
    ):
        yield client, home


@pytest.fixture
async def port(trusting_and_house: tuple[ssl.SSLContext, house.House]) -> Port:
    """For an account of the test's own."""
    trusting, home = trusting_and_house
    tenant = await home.tenant()
    sender = await home.tenant(("send",), account_id=tenant.account_id)
    return Port(home=home, trusting=trusting, tenant=tenant, key=sender.key)


@pytest.fixture
async def owner(port: Port) -> AsyncIterator[httpx2.AsyncClient]:
    """The account's HTTP client."""
    async with port.home.client(port.tenant.key) as client:
        yield client


async def test_what_is_submitted_arrives_and_shows_no_blind_copies(port: Port, owner: httpx2.AsyncClient) -> None:
    async with httpx2.AsyncClient(base_url=port.home.url, verify=house.NOBODY) as anybody:
        assert (await anybody.get("/readyz")).json()["listeners"] == {"smtp": True, "submission": True}
    addressee, hidden = [(await owner.post("/mailboxes", json={})).json() for _ in range(2)]
    message = _letter(addressee["address"], hidden["address"])
    queued = await port.submit(message, addressee["address"], hidden["address"])
    assert await port.submit(message, addressee["address"], hidden["address"]) == queued
    for mailbox in (addressee, hidden):
        answer = await owner.get(f"/mailboxes/{mailbox['id']}/wait", params={"for": "code"})
        assert answer.json()["code"] == "482913"
        raw = await owner.get(f"/messages/{answer.json()['message']['id']}/raw")
        assert hidden["address"].encode() not in raw.content
        assert b"X-Postroom" not in raw.content
        stored = (await owner.get(f"/emails/{queued}/raw")).content
        assert raw.content.endswith(stored)
        assert raw.content.startswith(f"List-Unsubscribe: <{port.home.url}/u/".encode())
        listed = (await owner.get(f"/mailboxes/{mailbox['id']}/messages")).json()["data"]
        assert len(listed) == 1
    shown = await sending.resting(owner, queued)
    assert {one["address"]: (one["kind"], one["status"]) for one in shown["recipients"]} == {
        addressee["address"]: ("to", "delivered"),
        hidden["address"]: ("bcc", "delivered"),
    }
    assert shown["tags"] == [{"name": "kind", "value": "sign-in"}]
    assert shown["metadata"] == {"user": 7}
    assert shown["unsubscribe"] == {"topic": "sign-ins"}


async def test_the_authors_octets_arrive_and_only_what_is_missing_is_added(
    port: Port, owner: httpx2.AsyncClient
) -> None:
    """By smtplib, as scripts have it: it doubles the dots, and sends the headers as they stand."""
    box = await letters.mailbox(owner)
    wanted = b"From:  app@sender.example\r\nSubject: =?utf-8?q?=C3=84?=\r\n folded\r\nX-Own:\tx "
    text = b".dot\r\n..\r\n\xe4 end\r\n"
    queued = await asyncio.to_thread(_by_smtplib, port, wanted + b"\r\n\r\n" + text, box["address"])
    assert queued == {}
    answer = await owner.get(f"/mailboxes/{box['id']}/wait", params={"timeout": 60})
    raw = (await owner.get(f"/messages/{answer.json()['message']['id']}/raw")).content
    head, _, rest = raw.partition(b"\r\n\r\n")
    assert (head[: len(wanted)], rest) == (wanted, text)
    added = [line.partition(b":")[0] for line in head[len(wanted) :].split(b"\r\n") if line]
    assert added == [b"Message-ID", b"Date"]


async def test_a_time_can_be_asked_for_and_taken_back(port: Port, owner: httpx2.AsyncClient) -> None:
    box = await letters.mailbox(owner)
    message = b"From: app@sender.example\r\nX-Postroom-Scheduled-At: in 1 hour\r\nSubject: s\r\n\r\nb\r\n"
    queued = await port.submit(message, box["address"])
    assert (await sending.read(owner, queued))["status"] == "scheduled"
    assert (await owner.post(f"/emails/{queued}/cancel")).status_code == 200
    assert (await sending.read(owner, queued))["status"] == "canceled"


async def test_nobody_logs_in_in_the_clear_or_with_a_key_that_may_not_send(port: Port) -> None:
    reader = await port.home.tenant(("read",), account_id=port.tenant.account_id)
    message = b"From: app@sender.example\r\n\r\nb\r\n"
    assert await port.refusal(message, "a@b.example", key=reader.key) == (
        535,
        "5.7.8 This API key lacks the scope send",
    )
    assert (await port.refusal(message, "a@b.example", key="wrong"))[0] == 535
    async with aiosmtplib.SMTP(hostname="127.0.0.1", port=port.home.submission_port, start_tls=False) as clear:
        await clear.ehlo()
        assert not clear.supports_extension("auth")
        assert (await clear.execute_command(b"AUTH", b"PLAIN", b"AGEAYg==")).code == 538
        assert (await clear.execute_command(b"MAIL", b"FROM:<a@b.example>")).code == 530


async def test_refusals_are_for_good_and_say_why(port: Port, owner: httpx2.AsyncClient) -> None:
    limited = (
        await owner.post("/api-keys", json={"name": "one domain", "scopes": ["send"], "domains": ["postroom.test"]})
    ).json()["key"]
    message = b"From: app@sender.example\r\n\r\nb\r\n"
    assert await port.refusal(message, "a@b.example", mail_from="x@postroom.test", key=limited) == (
        550,
        "5.7.1 The API key may not send from sender.example.",
    )
    keyed = b"X-Postroom-Idempotency-Key: k\r\n" + message
    await port.submit(keyed, "a@b.example")
    code, text = await port.refusal(keyed + b"other\r\n", "a@b.example")
    assert (code, text[:5]) == (550, "5.7.1")
    assert "X-Postroom-Idempotency-Key was used with another message or envelope" in text
    code, text = await port.refusal(b"X-Postroom-Schedule-At: in 1 hour\r\n" + message, "a@b.example")
    assert (code, text[:5]) == (550, "5.5.4")
    assert "X-Postroom-Schedule-At" in text
    await owner.post("/suppressions", json={"address": "gone@b.example", "reason": "manual"})
    shown = await sending.read(owner, await port.submit(message, "gone@b.example", "a@b.example"))
    assert {one["address"]: one["status"] == "suppressed" for one in shown["recipients"]} == {
        "gone@b.example": True,
        "a@b.example": False,
    }
    rather = b"X-Postroom-On-Suppressed: reject\r\n" + message
    assert await port.refusal(rather, "gone@b.example") == (550, "5.7.1 On the suppression list: gone@b.example.")


def _letter(to: str, bcc: str) -> bytes:
    message = EmailMessage()
    message["From"], message["To"], message["Bcc"] = "App <app@sender.example>", to, bcc
    message["Subject"] = "Sign in"
    message["X-Postroom-Tag"] = "kind=sign-in"
    message["X-Postroom-Metadata"] = '{"user": 7}'
    message["X-Postroom-Idempotency-Key"] = "sign-in-7"
    message["X-Postroom-Unsubscribe"] = "sign-ins"
    message.set_content("Your code is 482913.")
    return message.as_bytes()


def _by_smtplib(port: Port, message: bytes, *recipients: str) -> dict[str, tuple[int, bytes]]:
    """Whom it was refused for."""
    with smtplib.SMTP("127.0.0.1", port.home.submission_port, timeout=60) as session:
        session.starttls(context=port.trusting)
        session.login("anybody", port.key)
        return session.sendmail("app@sender.example", list(recipients), message)
