"""The line to a peer: what it keeps of what nobody reads."""

from __future__ import annotations

import asyncio

import pytest

from gateway.outbound.providers import line

pytestmark = pytest.mark.anyio

PATIENCE = 20.0  # seconds until a test gives up on what never comes


@pytest.mark.parametrize("octets", [b"250 " + b"x" * 4000 + b"\r\n", b"250-\r\n"], ids=["replies", "lines"])
async def test_a_peer_that_goes_on_talking_is_left(octets: bytes) -> None:
    """Broken on purpose: with the text of lines and the number of replies counted instead of octets, and the connection
    left open, it was listened to until the test gave up."""
    left = asyncio.Event()

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(octets * 100)
                await writer.drain()
        except ConnectionError:
            left.set()
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with asyncio.timeout(PATIENCE), server:
        port = server.sockets[0].getsockname()[1]
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, "127.0.0.1", port)
        peer = line.taken_over(transport)
        await left.wait()
        assert not peer.quiet
