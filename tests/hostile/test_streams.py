"""Streams in hostile hands: pages of other origins, garbage in handshakes, odd frames, clients that do not read.

Who calls is said by a header or a subprotocol of the caller's own; by nothing that a browser adds by itself.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import struct
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest

from tests import house
from tests.flows import letters
from tests.flows.test_told import heard, rejection, socket_to

pytestmark = pytest.mark.anyio

EVIL: Final = "https://evil.example"
TEXT, CONTINUED, PING = 0x1, 0x0, 0x9
Raw = tuple[asyncio.StreamReader, asyncio.StreamWriter]


# Other origins


async def test_a_page_of_another_origin_rides_on_nothing(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    """No cookie and no query says who calls, and no CORS header lets a page read an answer or send a key."""
    made = await letters.mailbox(client)
    cookies = {"Origin": EVIL, "Cookie": f"key={tenant.key}; Authorization=Bearer {tenant.key}; token={made['token']}"}
    preflight = {
        "Origin": EVIL,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    async with httpx2.AsyncClient(base_url=shared_house.url, headers=cookies, verify=house.NOBODY) as page:
        answers = [
            await page.get("/v1/mailboxes"),
            await page.post("/v1/mailboxes", content=b"{}", headers={"Content-Type": "text/plain"}),
            await page.get("/v1/events", headers={"Accept": "text/event-stream"}),
            *[await page.get(f"/v1/mailboxes?{name}={tenant.key}") for name in ("key", "access_token", "token")],
        ]
        assert {answer.status_code for answer in answers} == {401}
        for path in ("/v1/mailboxes", "/v1/emails", "/v1/events", "/openapi.json", "/docs", "/metrics", "/nowhere"):
            asked = await page.options(path, headers=preflight)
            assert asked.status_code in (404, 405)
            answers += [
                asked,
                await page.get(path),
                await client.get(path.removeprefix("/v1"), headers={"Origin": EVIL}),
            ]
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control-")], answer.request.url
        assert "set-cookie" not in answer.headers
    for path in ("/events", f"/events?key={tenant.key}", f"/mailboxes/{made['id']}/events?token={made['token']}"):
        assert (await rejection(shared_house, None, path))[1]["name"] == "missing_api_key"
    async with socket_to(shared_house, tenant.key, origin=EVIL, subprotocols=["postroom.v1"]) as websocket:
        assert websocket.response is not None  # who has a key may be anywhere
        assert websocket.response.headers["Sec-WebSocket-Protocol"] == "postroom.v1"


# The handshake


async def opened(
    home: house.House, key: str | None, *, path: str = "/v1/events", protocols: str = ""
) -> tuple[Raw, bytes]:
    """A connection after its handshake, and what was answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", home.http_port, limit=1 << 20)
    fields = [
        "Host: x",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        *([f"Authorization: Bearer {key}"] if key else []),
        *([f"Sec-WebSocket-Protocol: {protocols}"] if protocols else []),
    ]
    writer.write("\r\n".join([f"GET {path} HTTP/1.1", *fields, "", ""]).encode("latin-1"))
    head = await reader.readuntil(b"\r\n\r\n")
    return (reader, writer), head


GARBAGE: Final = (
    "bearer.",
    "bearer.\x7f",
    "bearer." + "a" * 5000,
    "bearer.pr_key_" + "A" * 49,
    "postroom.v1, bearer.é",
    ",,,,",
    "postroom.v1" + ", x" * 1000,
    "Bearer pr_key_x",
    '"bearer.x"',
    "bearer.x, bearer.y",
)


async def test_garbage_in_a_handshake_opens_nothing(shared_house: house.House, tenant: house.Tenant) -> None:
    for protocols in GARBAGE:
        (_, writer), head = await opened(shared_house, None, protocols=protocols)
        assert int(head.split()[1]) in (400, 401, 403), (protocols, head)
        writer.close()
    for key in ("", "é", "pr_key_", "pr_mbx_" + "0" * 49, "a" * 8000, tenant.key[:-1], tenant.key.swapcase()):
        (_, writer), head = await opened(shared_house, key)
        assert int(head.split()[1]) in (400, 401), (key, head)
        writer.close()
    (_, writer), head = await opened(shared_house, tenant.key, protocols="a, postroom.v1, " + "b" * 100)
    assert int(head.split()[1]) == 101
    assert b"Extensions" not in head  # nothing is inflated for anybody
    assert tenant.key.encode() not in head
    writer.close()


# What clients send


def frame(opcode: int, content: bytes, *, fin: bool = True, reserved: int = 0) -> bytes:
    """RFC 6455 5.2, masked with zeros."""
    length = len(content)
    if length < 126:
        size = struct.pack("!B", 0x80 | length)
    elif length < 65_536:
        size = struct.pack("!BH", 0x80 | 126, length)
    else:
        size = struct.pack("!BQ", 0x80 | 127, length)
    return struct.pack("!B", (0x80 if fin else 0) | reserved | opcode) + size + bytes(4) + content


def closing(octets: bytes) -> int | None:
    """The code of the last close frame of the server's."""
    at = octets.rfind(b"\x88")
    return struct.unpack("!H", octets[at + 2 : at + 4])[0] if at >= 0 and len(octets) >= at + 4 else None


FRAMES: Final[dict[str, tuple[bytes, int | None]]] = {  # what is sent, and the code of what answers it; None: it is cut
    "a large message": (frame(TEXT, b"a" * 1_000_000), 1009),
    "a message that will be large": (struct.pack("!BBQ", 0x81, 0xFF, 1 << 62), 1009),
    "a large message in pieces": (
        frame(TEXT, b"a" * 60_000, fin=False) + frame(CONTINUED, b"a" * 60_000, fin=False),
        1009,
    ),
    "empty pieces": (frame(TEXT, b"", fin=False) + frame(CONTINUED, b"", fin=False) * 50_000, None),
    "compressed, though nobody agreed to it": (frame(TEXT, b"\x00" * 100, reserved=0x40), 1002),
    "an unknown opcode": (frame(0x3, b""), 1002),
    "a long ping": (frame(PING, b"a" * 126), 1002),
    "a ping in pieces": (frame(PING, b"", fin=False), 1002),
    "a piece of nothing": (frame(CONTINUED, b"a"), 1002),
    "unmasked": (b"\x81\x01a", 1002),
    "no UTF-8": (frame(TEXT, b"\xff\xfe"), 1007),
    "a close of one byte": (frame(0x8, b"a"), 1002),
}


async def test_what_a_client_sends_is_bounded_and_nobody_else_is_disturbed(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    """Control: without the count of pieces the connection with the empty ones was kept, and the test failed."""
    async with asyncio.timeout(60), socket_to(shared_house, tenant.key) as other:
        for name, (octets, code) in FRAMES.items():
            (reader, writer), head = await opened(shared_house, tenant.key)
            assert b" 101 " in head
            with contextlib.suppress(ConnectionError):
                writer.write(octets)
                await writer.drain()
            answered = b""
            with contextlib.suppress(ConnectionError):
                while piece := await reader.read(65_536):
                    answered += piece
                    if b"\x88" in answered:
                        writer.write(frame(0x8, struct.pack("!H", 1000)))
            assert code is None or closing(answered) == code, (name, answered[:100])
            writer.close()
        (_, writer), _ = await opened(shared_house, tenant.key)
        writer.write(frame(TEXT, b"hello") * 20_000)  # nobody listens, and nobody minds
        made = await letters.mailbox(client)
        assert (await heard(other))["mailbox_id"] == made["id"]
        writer.close()


async def test_pings_whose_answers_are_not_read_do_not_pile_up(shared_house: house.House, tenant: house.Tenant) -> None:
    """Control: without the look at what waits to be read, all 100 MB of pings were taken."""
    flood = frame(PING, b"a" * 125) * 500
    (_, writer), _ = await opened(shared_house, tenant.key)
    writer.transport.pause_reading()  # type: ignore[attr-defined] # it is a socket's
    sent = 0
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionError):
            while sent < 100_000_000:
                writer.write(flood)
                await writer.drain()
                sent += len(flood)
    writer.close()
    assert sent < 100_000_000


# Clients that do not read


def resident(pid: int) -> int:
    """Bytes."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("scale", [(12, 4, 60), pytest.param((200, 20, 2000), marks=pytest.mark.faults)])
async def test_sockets_that_are_never_read_cost_little_and_the_others_miss_nothing(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient, scale: tuple[int, int, int]
) -> None:
    sockets, deaf, events = scale
    made = await letters.mailbox(client)
    pid = shared_house.processes["serve"].pid
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(300):
        silent = [(await opened(shared_house, tenant.key))[0] for _ in range(deaf)]
        for _, writer in silent:
            writer.transport.pause_reading()  # type: ignore[attr-defined] # it is a socket's
            stack.callback(writer.close)
        path = f"/events?after={made['cursor']}"
        reading = [
            await stack.enter_async_context(socket_to(shared_house, tenant.key, path)) for _ in range(sockets - deaf)
        ]
        before = resident(pid)
        note = "x" * 2000
        told = [asyncio.create_task(_seqs(one, events)) for one in reading]
        for number in range(events):
            answer = await client.patch(f"/mailboxes/{made['id']}", json={"metadata": {"n": number, "note": note}})
            assert answer.status_code == 200
        first = int(made["cursor"]) + 1
        for seqs in await asyncio.gather(*told):
            assert seqs == list(range(first, first + events))
        assert resident(pid) - before < 120_000_000


async def _seqs(websocket: Any, count: int) -> list[int]:
    return [(await heard(websocket))["seq"] for _ in range(count)]


async def test_a_stream_that_is_not_read_is_no_obstacle(shared_house: house.House, tenant: house.Tenant) -> None:
    """SSE: its connection has a minute to take something (tests/web/test_connections.py), the log is not held."""
    async with shared_house.client(tenant.key) as client:
        request = client.build_request("GET", "/events", headers={"Accept": "text/event-stream"})
        answer = await client.send(request, stream=True)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        made = await letters.mailbox(client)
        page = (await client.get("/events", params={"mailbox": made["id"]})).json()
        assert [event["mailbox_id"] for event in page["data"]] == [made["id"]]
        await answer.aclose()
