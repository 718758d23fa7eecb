"""Both ends of an SMTP session for tests: a desk that keeps what it is given, and a peer that says and expects."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import ipaddress
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway import sockets
from gateway.inbound import listener, protocol
from gateway.settings import Settings

PATIENCE = 20.0  # seconds until a test gives up on what never comes


class Tray:
    """A desk that takes everything, unless told otherwise."""

    def __init__(self) -> None:
        self.messages: list[protocol.Incoming] = []
        self.asked: list[tuple[str, str]] = []
        self.refusals: dict[str, str] = {}
        self.failure: Exception | None = None  # raised by both methods
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def recipient(self, address: str, envelope_from: str) -> str | None:
        if self.failure is not None:
            raise self.failure
        self.asked.append((address, envelope_from))
        return self.refusals.get(address)

    async def deliver(self, incoming: protocol.Incoming) -> str:
        self.begun.set()
        await self.may_end.wait()
        if self.failure is not None:
            raise self.failure
        self.messages.append(incoming)
        return f"250 2.0.0 queued as {incoming.receipt_id}"


class Peer:
    """A raw TCP client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(PATIENCE):
            await self.writer.drain()

    async def reply(self) -> str:
        """The next reply, all its lines; empty at the end of the connection."""
        lines: list[str] = []
        async with asyncio.timeout(PATIENCE):
            while line := (await self.reader.readline()).decode():
                lines.append(line)
                if line[3:4] == " ":
                    break
        return "".join(lines)

    async def expect(self, beginning: str) -> str:
        reply = await self.reply()
        assert reply.startswith(beginning), f"expected {beginning!r}, heard {reply!r}"
        return reply

    async def talk(self, *exchanges: tuple[str | bytes, str]) -> None:
        for said, expected in exchanges:
            line = said if isinstance(said, bytes) else said.encode() + b"\r\n"
            await self.send(line)
            await self.expect(expected)

    async def greet(self) -> str:
        await self.expect("220 ")
        await self.send(b"EHLO peer.example\r\n")
        return await self.expect("250")

    async def envelope(self) -> None:
        await self.talk(("MAIL FROM:<a@b.example>", "250"), ("RCPT TO:<c@d.example>", "250"))

    async def begin_data(self) -> None:
        await self.greet()
        await self.envelope()
        await self.talk(("DATA", "354"))

    async def ended(self) -> None:
        assert await self.reply() == ""

    async def ended_somehow(self) -> None:
        """The connection ends, in good order or not."""
        with contextlib.suppress(ConnectionError):
            await self.ended()

    async def everything(self) -> str:
        """What is said until the connection ends."""
        async with asyncio.timeout(PATIENCE):
            return (await self.reader.read()).decode()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Breaks the connection, as a peer does that is killed with replies unread."""
        connection = self.writer.get_extra_info("socket")
        if connection is not None and connection.fileno() >= 0:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop run until it is so."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - the server says nothing of it; this yields, it does not wait
            await asyncio.sleep(0)


class Port:
    """A listener on loopback, and the peers that a test connects to it."""

    def __init__(self, opened: listener.Listener, address: tuple[str, int]) -> None:
        self.listener = opened
        self.address = address
        self.peers: list[Peer] = []

    @property
    def budget(self) -> protocol.Budget:
        return self.listener.service.budget

    async def connect(
        self, source: str = "127.0.0.1", *, client: ssl.SSLContext | None = None, first: bytes = b""
    ) -> Peer:
        """With `client`, encrypted from the start, but for what is sent `first`."""
        reader, writer = await asyncio.open_connection(*self.address, local_addr=(source, 0))
        writer.write(first)
        if client is not None:
            await writer.start_tls(client, server_hostname="127.0.0.1")
        peer = Peer(reader, writer)
        self.peers.append(peer)
        return peer

    async def empty(self) -> None:
        """Waits until no session is left."""
        await until(lambda: not self.listener.sessions)


@contextlib.asynccontextmanager
async def listening(
    desk: protocol.Desk,
    *,
    settings: dict[str, Any] | None = None,
    limits: dict[str, Any] | None = None,
    budget: protocol.Budget | None = None,
    tls_context: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None,
    implicit_tls: bool = False,
    host: str = "127.0.0.1",
) -> AsyncIterator[Port]:
    """`settings` and `limits` name what is not as usual."""
    chosen = Settings(**{"mail_domains": "postroom.test", **(settings or {})})
    bound = sockets.bind(host, 0, "a test")
    address = bound.getsockname()[:2]
    opened = await listener.open(
        [bound],
        desk,
        chosen,
        (lambda: tls_context) if isinstance(tls_context, ssl.SSLContext) else tls_context,
        implicit_tls=implicit_tls,
        limits=dataclasses.replace(protocol.Limits.of(chosen), **(limits or {})),
        bytes_in_flight=budget,
    )
    port = Port(opened, address)
    try:
        yield port
    finally:
        for peer in port.peers:
            peer.reset()
        await opened.drain(PATIENCE)


def expectations(replies: str) -> list[str]:
    """Each reply's code, of everything that was said."""
    return [line[:3] for line in replies.splitlines() if line[3:4] == " "]


async def said_at_once(port: Port, parts: Iterable[bytes]) -> str:
    """All replies to bytes sent in these parts, each in a packet of its own, without ever waiting for a reply."""
    peer = await port.connect()
    peer.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for part in parts:
        await peer.send(part)
        for _ in range(3):  # the server, in the same loop, reads it
            await asyncio.sleep(0)
    return await peer.everything()


def self_signed(folder: Path, names: Sequence[str] = ("127.0.0.1",)) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS contexts of a server with a certificate made for it, and of a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "postroom.test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(n)) for n in names]), False)
        .sign(key, hashes.SHA256())
    )
    chain, private = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain, private)
    return server, ssl.create_default_context(cafile=chain)
