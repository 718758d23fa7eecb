"""What came in with strange line ends and goes out again: no next hop, however forgiving, finds a second message."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import httpx2
import pytest

from gateway import settings
from gateway.outbound.providers import smtp, urls
from gateway.storage import db
from tests import house, sending
from tests.flows import letters
from tests.inbound import test_submission
from tests.inbound.test_protocol import ENDINGS
from tests.outbound import outgoing, sink

pytestmark = pytest.mark.anyio

EVIL = b"MAIL FROM:<evil@evil.example>\r\nRCPT TO:<victim@evil.example>\r\nDATA\r\nSubject: evil\r\n\r\nevil\r\n.\r\n"
SMUGGLED = b"".join(b"a" + ending + EVIL.replace(b".\r\n", b"") for ending in ENDINGS)


@pytest.fixture
async def relay(relay_listener: socket.socket) -> AsyncIterator[sink.Sink]:
    """The relay of `sending_house`, more forgiving than any."""
    async with sink.Sink(listener=relay_listener, lenient=True) as relay:
        yield relay


async def test_what_is_sent_again_smuggles_nothing(
    sending_house: house.House, sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """Every ending within one message: forwarded, answered, and sent by HTTP as text and HTML."""
    box = await letters.mailbox(sender)
    raw = b"From: a@b.example\r\nTo: c@d.example\r\nSubject: odd\r\n\r\n" + SMUGGLED
    await letters.hand_in(sending_house, raw, box["address"])
    message = await letters.only_message(sender, box["id"])
    assert (await sender.get(f"/messages/{message['id']}/raw")).content == raw
    here = f"/messages/{message['id']}"
    answers = [await sender.post(f"{here}/forward", json={"to": "user@recipient.example"})]
    answers += [await sender.post(f"{here}/reply", json={"text": "Thanks."})]
    text = SMUGGLED.replace(b"\0", b"").decode()
    answers += [await sender.post("/emails", json=sending.letter(text=text, html=f"<pre>{text}</pre>"))]
    assert [answer.status_code for answer in answers] == [202] * 3, [answer.text for answer in answers]
    for answer in answers:
        await sending.resting(sender, answer.json()["id"])
    assert [one.mail_from for one in relay.messages if "evil" in one.mail_from] == []
    assert sorted(one for taken in relay.messages for one in taken.recipients) == [
        *("a@b.example", "user@recipient.example", "user@recipient.example"),
    ]
    assert relay.lines("MAIL FROM:<evil") == []
    assert relay.count == 3


async def test_what_is_submitted_smuggles_nothing(database: db.Database, account_id: UUID) -> None:
    """Each ending in a message of its own, and all in one. With the line ends left alone in `submitted.read` and
    `wire_form` 8 e-mails were 14 at the relay."""
    header = b"From: a@b.example\r\nSubject: odd\r\n\r\n"
    bodies = [*(b"a" + ending + EVIL.removesuffix(b".\r\n") for ending in ENDINGS), SMUGGLED]
    async with test_submission.standing(database, account_id) as desk, sink.Sink(lenient=True) as relay:
        key, made = await desk.key(), urls.relay_of(urlsplit(relay.url("tls=none")), settings.load())
        provider = smtp.SmtpProvider(made)
        for body in bodies:
            reply = await desk.hand_in(header + body, key=key)
            if b"\0" in body:
                assert reply.startswith("554 5.6.0 The message cannot be sent: the message holds a NUL")
                continue
            _, raw, _ = await desk.stored(reply)
            verdict = await provider.send(dataclasses.replace(outgoing.message(), raw=raw))
            assert verdict.outcome == "sent"
        await provider.close()
        assert await desk.count() == relay.count == len(bodies) - sum(b"\0" in body for body in bodies)
        assert {message.mail_from for message in relay.messages} == {"app@sender.example"}
        assert relay.lines("MAIL FROM:<evil") == []


async def _injecting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: ssl.SSLContext) -> None:
    """A relay before which somebody stands who puts words of his own behind the go-ahead to STARTTLS."""
    writer.write(b"220 relay.example\r\n")
    while line := await reader.readline():
        if line.startswith(b"STARTTLS"):
            writer.write(b"220 go\r\n250-evil.example\r\n250-AUTH PLAIN\r\n250 SIZE 77\r\n250 more\r\n")
            await writer.start_tls(server)
        elif line.startswith(b"EHLO") and writer.get_extra_info("ssl_object") is None:
            writer.write(b"250-relay.example\r\n250 STARTTLS\r\n")
        elif line.startswith(b"EHLO"):
            writer.write(b"250 relay.example\r\n")
        else:
            writer.write(b"354 go\r\n" if line.startswith(b"DATA") else b"250 ok\r\n")
    writer.close()


async def test_replies_from_before_the_handshake_are_not_taken_for_the_relay_s(tmp_path: Path) -> None:
    """They are forgotten with all that was said in the clear (RFC 3207 4.2; GHSA-vxj7-4xrp-5vr4 of aiosmtplib): what
    the relay offers and answers is what it says under TLS."""
    server = sink.server_tls(tmp_path)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            await _injecting(reader, writer, server)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        provider = smtp.SmtpProvider(
            urls.relay_of(urlsplit(f"smtp://127.0.0.1:{port}?tls=starttls&verify=0"), settings.load())
        )
        verdict = await provider.send(outgoing.message())
        await provider.close()
    assert (verdict.outcome, verdict.tls) == ("sent", True)
    assert not any("SIZE" in line or "evil" in line for line in verdict.transcript)
    behind = verdict.transcript[verdict.transcript.index("S: 220 go") + 1 :]
    assert list(behind[1:3]) == ["S: 250 relay.example", "C: MAIL FROM:<app@sender.example>"]
