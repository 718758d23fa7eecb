"""Ports that are all TLS, and certificates that change while the port is open."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path

import pytest
import structlog

from gateway.errors import ConfigurationError
from gateway.inbound import certificates
from gateway.settings import load
from tests.inbound.dialogue import PATIENCE, Port, Tray, expectations, listening, self_signed, until

pytestmark = pytest.mark.anyio


@pytest.fixture(
    params=[pytest.param(("asyncio", {"use_uvloop": uv}), id="uvloop" if uv else "asyncio") for uv in (False, True)]
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


SESSION = b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nhello\r\n.\r\nQUIT\r\n"


# Implicit TLS


async def test_a_session_over_tls_is_encrypted_from_its_first_byte(tmp_path: Path) -> None:
    server, client = self_signed(tmp_path)
    tray = Tray()
    async with listening(tray, tls_context=server, implicit_tls=True) as port:
        peer = await port.connect(client=client)
        assert "STARTTLS" not in await peer.greet()
        await peer.talk(("STARTTLS", "503 5.5.1"))
        await peer.envelope()
        await peer.talk(("DATA", "354"), (b"x" * 300_000 + b"\r\n.\r\n", "250"), ("QUIT", "221"), (b"", ""))
        await port.empty()
    assert [(message.tls, message.remote_ip) for message in tray.messages] == [(True, "127.0.0.1")]


async def test_what_is_sent_with_the_handshake_s_end_is_obeyed(tmp_path: Path) -> None:
    server, client = self_signed(tmp_path)
    tray = Tray()
    async with listening(tray, tls_context=server, implicit_tls=True) as port:
        codes = await asyncio.to_thread(at_once, port, client)
    assert codes == ["220", "250", "250", "250", "354", "250", "221"]
    assert len(tray.messages) == 1


def at_once(port: Port, client: ssl.SSLContext) -> list[str]:
    """The replies to a session that is sent without waiting for the banner."""
    with (
        socket.create_connection(port.address, timeout=PATIENCE) as bare,
        client.wrap_socket(bare, server_hostname="127.0.0.1") as encrypted,
    ):
        encrypted.sendall(SESSION)
        said = b""
        while block := encrypted.recv(4096):
            said += block
    return expectations(said.decode())


async def test_a_handshake_that_comes_with_the_connection_is_heard(tmp_path: Path) -> None:
    """All of it is there before the loop has looked at the connection. Without what Doorway keeps for the handshake
    uvloop's connection was reset: its first bytes were taken for a broken PROXY header."""
    server, client = self_signed(tmp_path)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    shaking = client.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with contextlib.suppress(ssl.SSLWantReadError):
        shaking.do_handshake()
    async with listening(Tray(), tls_context=server, implicit_tls=True) as port:
        with socket.create_connection(port.address, timeout=PATIENCE) as bare:
            bare.sendall(outgoing.read())
            assert (await asyncio.to_thread(greeting, bare, shaking, incoming, outgoing)).startswith(b"220 ")


def greeting(bare: socket.socket, shaking: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> bytes:
    """The first words within a connection whose handshake was begun."""
    while True:
        try:
            shaking.do_handshake()
            return shaking.read(4096)
        except ssl.SSLWantReadError:
            bare.sendall(outgoing.read())
            incoming.write(bare.recv(65_536))


@pytest.mark.parametrize("garbage", [b"EHLO x\r\n", b"\x16\x03\x01 this is no handshake\r\n"])
async def test_who_speaks_no_tls_is_left_and_its_place_is_free(tmp_path: Path, garbage: bytes) -> None:
    server, _ = self_signed(tmp_path)
    patience = {"handshake_seconds": 0.5}  # of a record that says it is longer than what came
    async with listening(Tray(), limits=patience, tls_context=server, implicit_tls=True) as port:
        peer = await port.connect()
        await peer.send(garbage)
        with contextlib.suppress(ConnectionError):
            assert b"220" not in await peer.reader.read()
        await port.empty()


async def test_a_silent_handshake_takes_a_place_and_not_for_long(tmp_path: Path) -> None:
    """With the doorway's approach left to the session's beginning this fails: no place is taken."""
    server, client = self_signed(tmp_path)
    settings, limits = {"smtp_max_connections": 2}, {"handshake_seconds": 0.5}
    async with listening(Tray(), settings=settings, limits=limits, tls_context=server, implicit_tls=True) as port:
        silent = [await port.connect() for _ in range(2)]
        await until(lambda: len(port.listener.sessions) == 2)
        with pytest.raises(OSError):  # noqa: PT011 - a reset or an end, as it happens
            await port.connect("127.0.0.2", client=client)
        for peer in silent:
            await peer.ended_somehow()
        await port.empty()
        await (await port.connect(client=client)).greet()


async def test_the_end_waits_for_no_handshake(tmp_path: Path) -> None:
    server, _ = self_signed(tmp_path)
    async with listening(Tray(), tls_context=server, implicit_tls=True) as port:
        peer = await port.connect()
        await until(lambda: len(port.listener.sessions) == 1)
        async with asyncio.timeout(10):
            await port.listener.drain(60)
        await peer.ended_somehow()


async def test_the_end_waits_for_no_handshake_after_starttls(tmp_path: Path) -> None:
    server, _ = self_signed(tmp_path)
    with structlog.testing.capture_logs() as logs:
        async with listening(Tray(), tls_context=server) as port:
            peer = await port.connect()
            await peer.greet()
            await peer.talk(("STARTTLS", "220"))
            await port.listener.drain(0.05)
            assert not port.listener.sessions
            await peer.ended_somehow()
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == []


@pytest.mark.parametrize("setting", ["smtps_port", "submissions_port"])
def test_a_port_over_tls_needs_a_certificate(setting: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{setting.upper()} needs TLS_CERT_FILE"):
        load(**{setting: 465})


# Certificates


class Clock:
    """Goes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def shown(port: Port) -> bytes:
    """The certificate that a new session gets."""
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    peer = await port.connect(client=anybody)
    await peer.greet()
    certificate = peer.writer.get_extra_info("ssl_object").getpeercert(True)
    assert isinstance(certificate, bytes)
    return certificate


def der(folder: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert((folder / "chain.pem").read_text())


async def test_a_certificate_that_is_replaced_is_shown_to_the_next_session(tmp_path: Path) -> None:
    """Without the looking in Certificates.context this fails: the old one is shown for ever."""
    self_signed(tmp_path)
    clock, first = Clock(), der(tmp_path)
    pair = certificates.Certificates(tmp_path / "chain.pem", tmp_path / "key.pem", clock=clock)
    async with listening(Tray(), tls_context=pair.context, implicit_tls=True) as port:
        assert await shown(port) == first
        (kept,) = port.peers
        self_signed(tmp_path)
        assert await shown(port) == first  # not looked at yet
        clock.now += certificates.LOOK_SECONDS
        assert await shown(port) == der(tmp_path) != first
        await kept.talk(("NOOP", "250"))


@pytest.mark.parametrize("how", ["garbage", "half a pair", "empty", "gone", "encrypted"])
async def test_a_pair_that_cannot_be_used_changes_nothing(tmp_path: Path, how: str) -> None:
    """With the context replaced before the pair is loaded into it, this fails: no handshake succeeds any more."""
    self_signed(tmp_path)
    clock, first = Clock(), der(tmp_path)
    pair = certificates.Certificates(tmp_path / "chain.pem", tmp_path / "key.pem", clock=clock)
    with structlog.testing.capture_logs() as logs:
        async with listening(Tray(), tls_context=pair.context, implicit_tls=True) as port:
            spoil(tmp_path, how)
            for _ in range(2):
                clock.now += certificates.LOOK_SECONDS
                assert await shown(port) == first
            self_signed(tmp_path)
            clock.now += certificates.LOOK_SECONDS
            assert await shown(port) == der(tmp_path) != first
    events = [entry["event"] for entry in logs]
    assert events == ["certificate not loaded, the one before stays", "certificate loaded"]


def spoil(folder: Path, how: str) -> None:
    chain, key = folder / "chain.pem", folder / "key.pem"
    if how == "garbage":
        chain.write_text("-----BEGIN CERTIFICATE-----\nno\n")
    elif how == "half a pair":
        old = key.read_bytes()
        self_signed(folder)
        key.write_bytes(old)
    elif how == "empty":
        chain.write_bytes(b"")
    elif how == "gone":
        chain.unlink()
    else:
        key.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")


def test_the_first_pair_must_be_usable(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="TLS_CERT_FILE"):
        certificates.Certificates(tmp_path / "none.pem", None)


async def test_starttls_shows_the_new_certificate_too(tmp_path: Path) -> None:
    self_signed(tmp_path)
    clock = Clock()
    pair = certificates.Certificates(tmp_path / "chain.pem", tmp_path / "key.pem", clock=clock)
    async with listening(Tray(), tls_context=pair.context) as port:
        _, client = self_signed(tmp_path)
        clock.now += certificates.LOOK_SECONDS
        peer = await port.connect()
        await peer.greet()
        await peer.talk(("STARTTLS", "220"))
        await peer.writer.start_tls(client, server_hostname="127.0.0.1")  # trusts the new one only
        await peer.send(SESSION)
        assert len(expectations(await peer.everything())) == 6


async def test_old_versions_of_tls_are_refused(tmp_path: Path) -> None:
    _, client = self_signed(tmp_path)
    pair = certificates.Certificates(tmp_path / "chain.pem", tmp_path / "key.pem")
    assert pair.context().minimum_version is ssl.TLSVersion.TLSv1_2
    async with listening(Tray(), tls_context=pair.context, implicit_tls=True) as port:
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        await (await port.connect(client=client)).greet()
