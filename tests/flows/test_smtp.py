"""SMTP as the real processes speak it: ports, what is stored byte for byte, what literals hear."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from pathlib import Path

import pytest

from gateway import sockets
from gateway.app import bind
from gateway.settings import Settings
from tests import house
from tests.inbound.dialogue import Peer, self_signed

pytestmark = pytest.mark.anyio


async def test_binary_mail_in_chunks_over_tls_from_behind_a_proxy_is_stored_byte_for_byte(
    dsn: str, redis_url: str, tmp_path: Path
) -> None:
    _, client = self_signed(tmp_path)
    settings = {
        "TLS_CERT_FILE": str(tmp_path / "chain.pem"),
        "TLS_KEY_FILE": str(tmp_path / "key.pem"),
        "PROXY_TRUSTED": "127.0.0.1",
    }
    raw = b"From: a@b.example\r\nSubject: bytes\r\n\r\n" + bytes(range(256)) + b"\n.\n\r\n.\r\nno end"
    async with house.standing(dsn, redis_url, programs=(), settings=settings) as home:
        smtps = home.listeners["smtps"] = sockets.bind("127.0.0.1", 0, "a test")
        home.start("serve")
        await home.ready()
        tenant = await home.tenant()
        async with home.client(tenant.key) as caller:
            box = (await caller.post("/mailboxes", json={})).json()
            peer = await _encrypted(sockets.port_of(smtps), client, b"PROXY TCP4 192.0.2.7 198.51.100.1 4660 465\r\n")
            await peer.greet()
            await peer.talk(("MAIL FROM:<a@b.example> BODY=BINARYMIME", "250"), (f"RCPT TO:<{box['address']}>", "250"))
            await peer.talk(("RCPT TO:<a@[IPv6:2001:db8::1]>", "5"), ("RCPT TO:<a@[192.0.2.1]>", "5"))
            await peer.talk((b"BDAT 20\r\n" + raw[:20], "250 2.0.0 20"))
            await peer.talk((b"BDAT %d LAST\r\n" % len(raw[20:]) + raw[20:], "250 2.0.0 queued"), ("QUIT", "221"))
            summary = (await caller.get(f"/mailboxes/{box['id']}/messages")).json()["data"][0]
            message = (await caller.get(f"/messages/{summary['id']}")).json()
            assert (await caller.get(f"/messages/{summary['id']}/raw")).content == raw
            assert (message["envelope"]["remote_ip"], message["envelope"]["tls"]) == ("192.0.2.7", True)


async def _encrypted(port: int, client: ssl.SSLContext, first: bytes) -> Peer:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(first)
    await writer.start_tls(client, server_hostname="127.0.0.1")
    return Peer(reader, writer)


async def test_every_address_of_smtp_host_is_listened_on_by_one_port() -> None:
    listeners = bind(Settings(host="127.0.0.1", port=0, smtp_host="127.0.0.1, ::1", smtp_port=0))
    try:
        assert list(listeners) == ["http", "smtp", "smtp.2"]
        assert len({sockets.port_of(listener) for listener in sockets.named(listeners, "smtp")}) == 1
        assert [listener.getsockname()[0] for listener in sockets.named(listeners, "smtp")] == ["127.0.0.1", "::1"]
    finally:
        for listener in listeners.values():
            listener.close()


async def test_a_client_of_the_standard_library_is_served(shared_house: house.House, client: object) -> None:
    def greet() -> tuple[int, bytes]:
        with smtplib.SMTP("127.0.0.1", shared_house.smtp_port, timeout=30) as session:
            code, offered = session.ehlo("peer.example")
            assert b"CHUNKING" in offered
            return code, session.noop()[1]

    assert (await asyncio.to_thread(greet))[0] == 250
