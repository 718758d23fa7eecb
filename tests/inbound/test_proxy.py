"""PROXY headers: their bytes, and whose are believed."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from pathlib import Path

import pytest
import structlog

from gateway.inbound import proxy
from tests.inbound.dialogue import Peer, Port, Tray, expectations, listening, self_signed, until

pytestmark = pytest.mark.anyio


@pytest.fixture(
    params=[pytest.param(("asyncio", {"use_uvloop": uv}), id="uvloop" if uv else "asyncio") for uv in (False, True)]
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


def binary(command: int, family: int, addresses: bytes, *, version: int = 2) -> bytes:
    """A header of version 2."""
    return proxy.SIGNATURE + bytes([version << 4 | command, family]) + len(addresses).to_bytes(2, "big") + addresses


V4 = bytes([192, 0, 2, 7, 198, 51, 100, 1]) + b"\x12\x34\x00\x19"
V6 = ipaddress.IPv6Address("2001:db8::7").packed + ipaddress.IPv6Address("2001:db8::1").packed + b"\x12\x34\x00\x19"
MAPPED = ipaddress.IPv6Address("::ffff:192.0.2.7").packed * 2 + b"\x12\x34\x00\x19"
TLVS = b"\x03\x00\x04\x00\x00\x00\x00" + b"\x04\x01\x00" + b"x" * 256

HEADERS: dict[str, tuple[bytes, str | None]] = {
    "TCP4": (b"PROXY TCP4 192.0.2.7 198.51.100.1 4660 25\r\n", "192.0.2.7"),
    "TCP6": (b"PROXY TCP6 2001:db8::7 2001:db8::1 65535 0\r\n", "2001:db8::7"),
    "the shortest TCP6": (b"PROXY TCP6 :: :: 1 1\r\n", "::"),
    "TCP6 of an IPv4 client": (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 4660 25\r\n", "192.0.2.7"),
    "UNKNOWN": (b"PROXY UNKNOWN\r\n", None),
    "UNKNOWN and whatever": (b"PROXY UNKNOWN ffff::1 ::1 65535 65535\r\n", None),
    "the longest line": (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", None),
    "IPv4": (binary(1, 0x11, V4), "192.0.2.7"),
    "IPv6": (binary(1, 0x21, V6), "2001:db8::7"),
    "IPv6 of an IPv4 client": (binary(1, 0x21, MAPPED), "192.0.2.7"),
    "IPv4 and TLVs": (binary(1, 0x11, V4 + TLVS), "192.0.2.7"),
    "IPv6 and TLVs": (binary(1, 0x21, V6 + TLVS), "2001:db8::7"),
    "UNIX": (binary(1, 0x31, b"/run/x".ljust(108, b"\0") * 2), None),
    "UNSPEC": (binary(1, 0x00, b""), None),
    "UNSPEC and whatever": (binary(1, 0x00, b"whatever"), None),
    "LOCAL": (binary(0, 0x00, b""), None),
    "LOCAL with addresses": (binary(0, 0x11, V4), None),
    "the longest header": (binary(1, 0x11, V4 + b"x" * (proxy.MAX_BYTES - 28)), "192.0.2.7"),
}

MALFORMED: dict[str, bytes] = {
    "a command": b"EHLO x\r\n",
    "nearly the word": b"PROXX UNKNOWN\r\n",
    "in lower case": b"proxy unknown\r\n\0",
    "no family": b"PROXY \r\nPROXY \r\n",
    "another family": b"PROXY UDP4 192.0.2.7 198.51.100.1 1 1\r\n",
    "an address of the other family": b"PROXY TCP4 ::1 ::1 1 1\r\n",
    "no address": b"PROXY TCP4 a.example b.example 1 1\r\n",
    "a leading zero": b"PROXY TCP4 192.0.2.07 198.51.100.1 1 1\r\n",
    "a zone": b"PROXY TCP6 fe80::1%lo ::1 1 1\r\n",
    "two spaces": b"PROXY TCP4  192.0.2.7 198.51.100.1 1 1\r\n",
    "a port too high": b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 1\r\n",
    "a port below nothing": b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 1\r\n",
    "a port with zeros": b"PROXY TCP4 192.0.2.7 198.51.100.1 0025 1\r\n",
    "a word too many": b"PROXY TCP4 192.0.2.7 198.51.100.1 1 1 1\r\n",
    "a bare LF": b"PROXY TCP4 192.0.2.7 198.51.100.1 1 1\nEHLO x\r\n",
    "no end": b"PROXY UNKNOWN " + b"x" * 100,
    "beyond ASCII": "PROXY TCP4 １92.0.2.7 198.51.100.1 1 1\r\n".encode(),
    "nearly the signature": b"\r\n\r\n\0\r\nQUIX\n\x21\x11\x00\x0c" + V4,
    "version 1 in bytes": binary(1, 0x11, V4, version=1),
    "another command": binary(2, 0x11, V4),
    "datagrams": binary(1, 0x12, V4),
    "another family in bytes": binary(1, 0x41, V4),
    "too short for IPv4": binary(1, 0x11, V4[:11]),
    "too short for IPv6": binary(1, 0x21, V6[:35]),
    "too short for UNIX": binary(1, 0x31, b"x" * 215),
    "too long": binary(1, 0x11, V4 + b"x" * (proxy.MAX_BYTES - 27)),
}


def read(data: bytes) -> tuple[str | None, bytes]:
    """The address, and what was left unread, where no more is ever read than is wanted."""
    header = b""
    while wanted := proxy.missing(header):
        piece, data = data[:wanted], data[wanted:]
        if not piece:
            raise EOFError
        header += piece
    return proxy.source(header), data


@pytest.mark.parametrize(("header", "address"), HEADERS.values(), ids=HEADERS.keys())
def test_a_header_is_read_and_not_a_byte_more(header: bytes, address: str | None) -> None:
    assert read(header + b"\r\nEHLO x\r\n") == (address, b"\r\nEHLO x\r\n")


@pytest.mark.parametrize("header", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_header_is_told_from_one(header: bytes) -> None:
    with pytest.raises(proxy.Malformed):
        read(header)


# Over sockets

TRUSTING = {"proxy_trusted": "127.0.0.1,::1", "smtp_max_connections_per_address": 2}
FROM_V4 = b"PROXY TCP4 192.0.2.7 198.51.100.1 4660 25\r\n"
SESSION = b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nhello\r\n.\r\nQUIT\r\n"
CODES = ["220", "250", "250", "250", "354", "250", "221"]


@pytest.mark.parametrize("name", ["TCP4", "TCP6", "IPv4 and TLVs", "IPv6"])
async def test_the_client_s_address_is_the_header_s(name: str) -> None:
    header, address = HEADERS[name]
    tray = Tray()
    async with listening(tray, settings=TRUSTING) as port:
        peer = await port.connect()
        await peer.send(header + SESSION)
        assert expectations(await peer.everything()) == CODES
    assert [message.remote_ip for message in tray.messages] == [address]


@pytest.mark.parametrize("name", ["LOCAL", "UNKNOWN", "UNSPEC", "UNIX"])
async def test_where_the_header_names_nobody_the_connection_is_the_proxy_s(name: str) -> None:
    tray = Tray()
    async with listening(tray, settings=TRUSTING) as port:
        peer = await port.connect()
        await peer.send(HEADERS[name][0] + SESSION)
        assert expectations(await peer.everything()) == CODES
    assert [message.remote_ip for message in tray.messages] == ["127.0.0.1"]


@pytest.mark.parametrize("name", ["TCP4", "IPv4 and TLVs"])
async def test_a_header_in_single_bytes_is_the_same_header(name: str) -> None:
    tray = Tray()
    async with listening(tray, settings=TRUSTING) as port:
        peer = await port.connect()
        peer.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in HEADERS[name][0]:
            await peer.send(bytes([byte]))
            await asyncio.sleep(0)
        await peer.send(SESSION)
        assert expectations(await peer.everything()) == CODES
    assert [message.remote_ip for message in tray.messages] == ["192.0.2.7"]


@pytest.mark.parametrize("name", ["a command", "in lower case", "a port too high", "another command", "too long"])
async def test_a_proxy_that_sends_no_header_is_left_without_a_word(name: str) -> None:
    with structlog.testing.capture_logs() as logs:
        async with listening(Tray(), settings=TRUSTING) as port:
            peer = await port.connect()
            await peer.send(MALFORMED[name])
            assert await silence(peer)
            await port.empty()
    assert [entry["event"] for entry in logs] == ["no PROXY header"]


async def silence(peer: Peer) -> bool:
    """Whether the connection ends, in whatever way, and nothing is said."""
    try:
        return await peer.everything() == ""
    except ConnectionError:
        return True


async def test_a_header_has_to_come_soon() -> None:
    async with listening(Tray(), settings=TRUSTING, limits={"proxy_seconds": 0.05}) as port:
        peer = await port.connect()
        await peer.send(b"PROXY TCP4")
        assert await silence(peer)
        await port.empty()


async def test_a_proxy_that_leaves_within_its_header_holds_no_place() -> None:
    async with listening(Tray(), settings=TRUSTING) as port:
        peer = await port.connect()
        await peer.send(b"PROXY TCP4")
        await until(lambda: len(port.listener.sessions) == 1)
        peer.writer.write_eof()
        await port.empty()


async def test_nobody_else_s_header_is_believed() -> None:
    """With is_trusted made to say yes to all, this fails: the line is read as a header, and no 500 is heard."""
    tray = Tray()
    async with listening(tray, settings={"proxy_trusted": "127.0.0.1,10.0.0.0/8"}) as port:
        peer = await port.connect("127.0.0.2")
        await peer.send(FROM_V4 + SESSION)
        assert expectations(await peer.everything()) == ["220", "500", *CODES[1:]]
    assert [message.remote_ip for message in tray.messages] == ["127.0.0.2"]


async def test_without_proxies_a_header_is_an_unknown_command() -> None:
    tray = Tray()
    async with listening(tray) as port:
        peer = await port.connect()
        await peer.send(FROM_V4 + SESSION)
        assert expectations(await peer.everything()) == ["220", "500", *CODES[1:]]
    assert [message.remote_ip for message in tray.messages] == ["127.0.0.1"]


async def test_networks_may_be_trusted() -> None:
    async with listening(Tray(), settings={"proxy_trusted": "127.0.0.0/30"}) as port:
        (await connected(port, "127.0.0.2", FROM_V4)).close()
        peer = await port.connect("127.0.0.4")
        await peer.greet()


async def connected(port: Port, source: str, header: bytes) -> Peer:
    peer = await port.connect(source, first=header)
    await peer.greet()
    return peer


async def test_connections_are_counted_by_the_client_s_address() -> None:
    """With all clients counted as one this fails: the one at another address is turned away."""
    async with listening(Tray(), settings=TRUSTING) as port:
        first = [await connected(port, "127.0.0.1", FROM_V4) for _ in range(2)]
        third = await port.connect(first=FROM_V4)
        await third.expect("421 4.7.0 Too many connections from your address")
        await connected(port, "127.0.0.1", FROM_V4.replace(b"192.0.2.7", b"192.0.2.8"))
        first[0].reset()
        await until(lambda: len(port.listener.sessions) == 2)
        await connected(port, "127.0.0.1", FROM_V4)


async def test_connections_without_a_header_yet_take_places() -> None:
    async with listening(Tray(), settings={**TRUSTING, "smtp_max_connections": 3}) as port:
        for _ in range(3):
            await port.connect()
        await until(lambda: len(port.listener.sessions) == 3)
        await (await port.connect("127.0.0.2")).expect("421 4.7.0 Too many connections,")


async def test_the_end_waits_for_no_header() -> None:
    async with listening(Tray(), settings=TRUSTING, limits={"proxy_seconds": 60}) as port:
        peer = await port.connect()
        await until(lambda: len(port.listener.sessions) == 1)
        async with asyncio.timeout(10):
            await port.listener.drain(60)
        assert await silence(peer)


# Under TLS


async def test_the_header_comes_before_the_handshake(tmp_path: Path) -> None:
    server, client = self_signed(tmp_path)
    tray = Tray()
    async with listening(tray, settings=TRUSTING, tls_context=server, implicit_tls=True) as port:
        peer = await port.connect(client=client, first=FROM_V4)
        await peer.send(SESSION)
        assert expectations(await peer.everything()) == CODES
    assert [(message.remote_ip, message.tls) for message in tray.messages] == [("192.0.2.7", True)]


async def test_starttls_works_behind_a_proxy(tmp_path: Path) -> None:
    server, client = self_signed(tmp_path)
    tray = Tray()
    async with listening(tray, settings=TRUSTING, tls_context=server) as port:
        peer = await connected(port, "127.0.0.1", FROM_V4)
        await peer.talk(("STARTTLS", "220"))
        await peer.writer.start_tls(client, server_hostname="127.0.0.1")
        await peer.send(SESSION)
        assert expectations(await peer.everything()) == CODES[1:]
    assert [(message.remote_ip, message.tls) for message in tray.messages] == [("192.0.2.7", True)]


async def test_a_proxy_without_a_header_gets_no_handshake(tmp_path: Path) -> None:
    server, client = self_signed(tmp_path)
    async with listening(Tray(), settings=TRUSTING, tls_context=server, implicit_tls=True) as port:
        with pytest.raises(OSError):  # noqa: PT011 - a reset or an end, as it happens
            await port.connect(client=client)
        await port.empty()
