"""What is kept of a dialogue, and what is not."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.inbound import protocol, transcript
from tests.inbound.dialogue import Port, Tray, expectations, listening, self_signed

pytestmark = pytest.mark.anyio

OPENING = ["S: 220 postroom.test ESMTP Postroom", "C: EHLO peer.example", "S: 250-postroom.test", "S: 250-PIPELINING"]
OFFERED = ["S: 250-SIZE 26214400", "S: 250-8BITMIME", "S: 250-SMTPUTF8", "S: 250-ENHANCEDSTATUSCODES"]
OFFERED += ["S: 250-CHUNKING", "S: 250 BINARYMIME"]


async def told(port: Port, script: bytes) -> None:
    """A whole session, said at once."""
    peer = await port.connect()
    await peer.send(script)
    await peer.everything()


@pytest.fixture
def tray() -> Tray:
    return Tray()


@pytest.fixture
async def port(tray: Tray) -> AsyncIterator[Port]:
    async with listening(tray) as opened:
        yield opened


def texts(message: protocol.Incoming) -> list[str]:
    return [text for text, _ in message.transcript]


async def test_the_dialogue_is_told_in_order_with_who_each_line_is_about(port: Port, tray: Tray) -> None:
    tray.refusals["x@other.example"] = "550 5.7.1 Relaying denied"
    await told(
        port,
        b"EHLO peer.example\r\nMAIL FROM:<a@b.example> SIZE=9\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<x@other.example>\r\n"
        b"RCPT TO:<@relay.example:E@f.example>\r\nDATA\r\n12345\r\n.\r\nQUIT\r\n",
    )
    (message,) = tray.messages
    assert [line for line in message.transcript if line[1] is None] == [
        (text, None)
        for text in [
            *OPENING,
            *OFFERED,
            "C: MAIL FROM:<a@b.example> SIZE=9",
            "S: 250 2.1.0 OK",
            "C: DATA",
            "S: 354 End with <CR><LF>.<CR><LF>",
            "C: <7 bytes>",
        ]
    ]
    assert message.transcript[len(OPENING + OFFERED) + 2 : -3] == (
        ("C: RCPT TO:<c@d.example>", "c@d.example"),
        ("S: 250 2.1.5 OK", "c@d.example"),
        ("C: RCPT TO:<x@other.example>", "x@other.example"),
        ("S: 550 5.7.1 Relaying denied", "x@other.example"),
        ("C: RCPT TO:<@relay.example:E@f.example>", "E@f.example"),
        ("S: 250 2.1.5 OK", "E@f.example"),
    )
    assert {about for _, about in message.transcript} >= set(message.rcpt_to)


HIDDEN = [
    "RCPT TO:<bob@other.example>",
    "RCPT TO <bob@other.example>",
    "RCPT TO:<bob@other.example",
    "rcpt bob@other.example",
    "VRFY bob@other.example",
    "EXPN bob@other.example",
    "NOOP bob@other.example",
    "HELP bob@other.example",
    "AUTH bob@other.example",
    "RCTP TO:<bob@other.example>",
    "bob@other.example",
]


@pytest.mark.parametrize("line", HIDDEN)
async def test_no_recipient_s_owner_is_shown_another_recipient(port: Port, tray: Tray, line: str) -> None:
    """With RCPT's lines about nobody until its path is read, the broken ones fail; with arguments shown, the other
    verbs; with unknown commands shown, the last two.
    """
    script = f"EHLO peer.example\r\nMAIL FROM:<a@b>\r\n{line}\r\nRCPT TO:<c@d>\r\n{line}\r\nDATA\r\n.\r\nQUIT\r\n"
    await told(port, script.encode())
    (message,) = tray.messages
    mine = [text for text, about in message.transcript if about in {None, "c@d"}]
    assert not any("other.example" in text for text in mine)
    assert "C: RCPT TO:<c@d>" in mine


async def test_messages_of_a_session_share_its_beginning_and_nothing_else(port: Port, tray: Tray) -> None:
    """Without Transcript.over at a message's end this fails: the second is told with the first's recipient."""
    one = b"MAIL FROM:<a%d@b>\r\nRCPT TO:<c%d@d>\r\nDATA\r\n.\r\n"
    await told(port, b"EHLO peer.example\r\n" + one % (1, 1) + b"NOOP\r\n" + one % (2, 2) + b"QUIT\r\n")
    assert texts(tray.messages[1]) == [
        *OPENING,
        *OFFERED,
        "C: NOOP",
        "S: 250 2.0.0 OK",
        "C: MAIL FROM:<a2@b>",
        "S: 250 2.1.0 OK",
        "C: RCPT TO:<c2@d>",
        "S: 250 2.1.5 OK",
        "C: DATA",
        "S: 354 End with <CR><LF>.<CR><LF>",
        "C: <0 bytes>",
    ]


@pytest.mark.parametrize("forgetting", ["RSET", "EHLO peer.example"])
async def test_a_transaction_that_was_given_up_is_forgotten(port: Port, tray: Tray, forgetting: str) -> None:
    script = f"EHLO peer.example\r\nMAIL FROM:<no@b>\r\nRCPT TO:<no@d>\r\n{forgetting}\r\n"
    script += "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\nQUIT\r\n"
    await told(port, script.encode())
    shown = texts(tray.messages[0])
    assert shown[: len(OPENING + OFFERED) + 1] == [*OPENING, *OFFERED, "C: MAIL FROM:<a@b>"]
    assert len(shown) == len(OPENING + OFFERED) + 7


async def test_a_message_that_was_refused_is_not_part_of_the_next(port: Port, tray: Tray) -> None:
    too_big = b"MAIL FROM:<no@b>\r\nRCPT TO:<no@d>\r\nDATA\r\n" + b"x" * 26_300_000 + b"\r\n.\r\n"
    await told(port, b"EHLO peer.example\r\n" + too_big + b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\nQUIT\r\n")
    (message,) = tray.messages
    assert not any("no@" in text or "552" in text for text in texts(message))


async def test_chunks_are_told_by_their_sizes(port: Port, tray: Tray) -> None:
    script = b"EHLO peer.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 5\r\nabcdeBDAT 2 LAST\r\nfgQUIT\r\n"
    await told(port, script)
    assert texts(tray.messages[0])[-5:] == [
        "C: BDAT 5",
        "C: <5 bytes>",
        "S: 250 2.0.0 5 bytes received",
        "C: BDAT 2 LAST",
        "C: <2 bytes>",
    ]


async def test_hello_before_and_after_starttls_is_told(tmp_path: Path) -> None:
    server, client = self_signed(tmp_path)
    tray = Tray()
    async with listening(tray, tls_context=server) as port:
        peer = await port.connect()
        await peer.greet()
        await peer.talk(("STARTTLS", "220"))
        await peer.writer.start_tls(client, server_hostname="127.0.0.1")
        await peer.talk(("EHLO mistake.example", "250"), ("EHLO secret.example", "250"))
        await peer.envelope()
        await peer.talk(("DATA", "354"), (b".\r\n", "250"))
    said = [text for text in texts(tray.messages[0]) if text.startswith("C: ")]
    assert said[:3] == ["C: EHLO peer.example", "C: STARTTLS", "C: EHLO secret.example"]
    assert "S: 220 2.0.0 Go ahead" in texts(tray.messages[0])


SECRET = base64.b64encode(b"\0user\0pr_key_secret").decode()


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        ([f"AUTH PLAIN {SECRET}"], ["C: AUTH PLAIN ***"]),
        (["AUTH LOGIN", SECRET, SECRET], ["C: AUTH LOGIN", "C: ***", "C: ***"]),
        ([f"auth {SECRET}"], ["C: auth ***"]),
        ([f"AUTH X{SECRET} {SECRET}"], ["C: AUTH ***"]),
    ],
)
async def test_secrets_are_not_told(port: Port, tray: Tray, lines: list[str], shown: list[str]) -> None:
    """The port refuses AUTH, and so hears the rest of it as commands. With unknown commands shown, one fails."""
    said = "".join(f"{line}\r\n" for line in lines)
    await told(port, f"EHLO peer.example\r\n{said}MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\nQUIT\r\n".encode())
    told_lines = texts(tray.messages[0])
    assert SECRET not in "".join(told_lines)
    clients = [text for text in told_lines if text.startswith("C: ")]
    assert clients[1 : 1 + len(shown)] == shown


async def test_control_characters_are_escaped_and_lines_are_cut(port: Port, tray: Tray) -> None:
    name = "x\tü\u202e" + "y" * 1000
    await told(port, f"EHLO {name}\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\nQUIT\r\n".encode())
    hello = texts(tray.messages[0])[1]
    assert hello.startswith("C: EHLO x\\tü\\u202ey")
    assert len(hello) == transcript.MAX_LENGTH
    assert all(text.isprintable() for text in texts(tray.messages[0]))


async def test_a_long_dialogue_keeps_its_beginning_and_its_end() -> None:
    """Without the bound on the head this fails: 20,000 lines are kept."""
    tray = Tray()
    async with listening(tray, limits={"recipients": 5}) as port:
        many = b"EHLO x\r\n" * 50 + b"MAIL FROM:<a@b>\r\n" + b"RCPT TO:<c@d>\r\n" * 10_000
        peer = await port.connect()
        sending = asyncio.create_task(peer.send(many + b"DATA\r\n.\r\nQUIT\r\n"))
        codes = expectations(await peer.everything())
        await sending
    assert codes.count("452") == 9_995
    lines = texts(tray.messages[0])
    assert len(lines) <= transcript.MAX_LINES
    assert lines[0].startswith("S: 220")
    assert "C: MAIL FROM:<a@b>" in lines
    assert transcript.LEFT_OUT[0] in lines
    assert lines[-3:] == ["C: DATA", "S: 354 End with <CR><LF>.<CR><LF>", "C: <0 bytes>"]


def test_the_bounds_add_up() -> None:
    assert transcript.MAX_OPENING + transcript.MAX_HEAD + 1 + transcript.TAIL == transcript.MAX_LINES == 200
    assert protocol.COMMAND_BYTES > transcript.MAX_LENGTH
