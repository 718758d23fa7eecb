"""Whatever comes over an HTTP connection, however slowly, it ends; what is refused is told in the contract's shape."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator
from typing import Any

import prometheus_client
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect

from gateway.web import connections, edge

pytestmark = pytest.mark.anyio


@pytest.fixture(
    params=[pytest.param(("asyncio", {"use_uvloop": uv}), id="uvloop" if uv else "asyncio") for uv in (False, True)]
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


SOON = 0.05  # seconds
HEAD = 0.5  # the same for heads that are to come in time: a busy machine stops for a while
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
BIG = 8_388_608  # bytes; more than the kernel takes on loopback


async def answer(request: Request) -> Response:
    if request.url.path == "/refused":
        return Response("no", status_code=401)  # its body unread
    if request.url.path == "/big":
        return Response(b"x" * BIG)
    body = await request.body()
    said = {"path": request.url.path, "body": len(body), "headers": sorted(request.headers)}
    return Response(json.dumps(said), media_type="application/json")


def limits(**changes: Any) -> connections.Limits:
    usual: dict[str, Any] = {"connections": 1000, "head_seconds": 30, "body_seconds": 600, "body_rate": 500}
    return connections.Limits(**(usual | changes))


class Port:
    """Where the server listens, and what it was asked."""

    def __init__(self, number: int) -> None:
        self.number = number

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.number)

    async def say(self, *pieces: bytes, end: bool = True) -> bytes:
        """All that is answered until the server closes; `end`: nothing more comes."""
        reader, writer = await self.connect()
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
        answers = b""
        with contextlib.suppress(ConnectionError):
            if end:
                writer.write_eof()
            while piece := await reader.read(65_536):
                answers += piece
        writer.close()
        return answers


@contextlib.asynccontextmanager
async def listening(**changes: Any) -> AsyncIterator[Port]:
    methods = ["GET", "POST", "OPTIONS"]
    plain = [Route(f"/{path}", answer, methods=methods) for path in ("", "refused", "big")]
    app: Starlette = edge.application([*plain, WebSocketRoute("/echo", echo)])
    http: Any = connections.protocol(limits(**changes))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, http=http, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    )
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield Port(listener.getsockname()[1])
    finally:
        server.should_exit = True
        await running


def cut(reason: str) -> float:
    return prometheus_client.REGISTRY.get_sample_value("postroom_http_cut_total", {"reason": reason}) or 0.0


STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in STATUS.findall(answers)]


def refusal(answers: bytes) -> dict[str, Any]:
    """The last answer, once its shape was found to be the contract's."""
    head, _, body = answers[answers.rindex(b"HTTP/1.1") :].partition(b"\r\n\r\n")
    told: dict[str, Any] = json.loads(body)
    assert {"statusCode", "name", "message", "request_id"} <= set(told)
    assert f"x-request-id: {told['request_id']}".encode() in head
    assert b"content-type: application/json" in head
    assert b"connection: close" in head
    return told


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)


async def test_a_websocket_outlives_the_deadline_of_heads() -> None:
    """With the head watched again once the connection was the WebSocket's, this failed: every stream was cut off
    HTTP_HEAD_SECONDS after it had begun."""
    loop = asyncio.get_running_loop()
    async with listening(head_seconds=HEAD) as port, connect(f"ws://127.0.0.1:{port.number}/echo") as socket:
        until = loop.time() + 2 * HEAD
        while loop.time() < until:
            await socket.send("here")
            assert await socket.recv() == "here"
            await asyncio.sleep(HEAD / 10)  # time is what it is about


# What never ends


async def test_a_head_that_does_not_end_is_given_up() -> None:
    """Control: without the watch in `connection_made` the test ran into its timeout."""
    begun = (b"G", POST + b"X-A: b", GET + b"GET / HTTP/1.1\r\n")
    async with listening(head_seconds=HEAD) as port, asyncio.timeout(20):
        nothing, *heard = await asyncio.gather(port.say(end=False), *(port.say(one, end=False) for one in begun))
        assert nothing == b""  # nobody speaks first
        assert [refusal(answers)["name"] for answers in heard] == ["request_timeout"] * len(begun)
        reader, writer = await port.connect()
        writer.write(GET)
        await reader.readuntil(b"}")
        writer.write(b"\r\n")
        assert await reader.read() == b""  # an idle one goes without a word
        writer.close()


async def test_a_body_that_does_not_end_is_given_up() -> None:
    """Control: without the watch in `data_received` the test ran into its timeout."""
    bodies = (
        b"Content-Length: 5\r\n\r\nhal",
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5;extension=",
        b"Transfer-Encoding: chunked\r\n\r\n0\r\nTrailer: a\r\n",
        b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    )
    async with listening(pace_seconds=SOON) as port, asyncio.timeout(20):
        for body in bodies:
            answers = await port.say(POST + body, end=False)
            assert refusal(answers)["name"] == "request_timeout", body
        refused = await port.say(b"POST /refused HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhal", end=False)
        assert statuses(refused)[0] == 401  # and then it was closed, too


async def test_a_body_that_keeps_its_pace_ends_at_the_latest_when_all_bodies_do() -> None:
    async with listening(body_seconds=SOON, body_rate=0) as port, asyncio.timeout(20):
        answers = await port.say(POST + b"Content-Length: 5\r\n\r\nhal", end=False)
        assert refusal(answers)["statusCode"] == 408


async def test_a_body_in_single_bytes_is_a_body() -> None:
    async with listening() as port, asyncio.timeout(20):
        request = POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"
        answers = await port.say(*(request[at : at + 1] for at in range(len(request))))
        assert statuses(answers) == [200]
        said = json.loads(answers.partition(b"\r\n\r\n")[2])
        assert said["body"] == 5
        assert "x-t" not in said["headers"]  # what comes behind the body cannot be a header any more


async def test_an_answer_that_nobody_reads_is_given_up() -> None:
    """Control: without the watch in `pause_writing` the test ran into its timeout."""
    before = cut("unread")
    async with listening(unread_seconds=SOON) as port, asyncio.timeout(20):
        _, writer = await port.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined] # it is a socket's
        writer.write(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        while cut("unread") == before:
            assert statuses(await port.say(GET + b"\r\n"))[0] == 200
        writer.close()


# What is too much

ENDLESS = b"a" * 1_000_000
TOO_LARGE = {
    "a path": b"GET /" + ENDLESS + b" HTTP/1.1\r\n\r\n",
    "a path without an end": b"GET /" + ENDLESS,
    "a query": b"GET /?" + ENDLESS + b" HTTP/1.1\r\n\r\n",
    "a field's name": b"GET / HTTP/1.1\r\n" + ENDLESS,
    "a field": b"GET / HTTP/1.1\r\nA: " + ENDLESS,
    "a field in whole": b"GET / HTTP/1.1\r\nA: " + ENDLESS + b"\r\n\r\n",
    "many fields": b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 201 + b"\r\n",
    "many large fields": b"GET / HTTP/1.1\r\n" + (b"A: " + b"b" * 999 + b"\r\n") * 100 + b"\r\n",
    "the extension of a chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n5;" + ENDLESS,
    "a trailer": POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nA: " + ENDLESS,
    "trailers": POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 200_000,
}


async def test_what_is_large_before_it_is_a_body_is_refused() -> None:
    """Control: with no count of bytes that bring nothing, the test ran into its timeout at the first without an end."""
    async with listening() as port, asyncio.timeout(20):
        for name, request in TOO_LARGE.items():
            pieces = [request[at : at + 65_536] for at in range(0, len(request), 65_536)]
            answers = await port.say(*pieces, end=False)
            assert answers == b"" or refusal(answers)["name"] == "headers_too_large", name  # unread bytes: a reset
            assert 200 not in statuses(answers), name
        assert cut("head") >= len(TOO_LARGE)


async def test_requests_that_wait_for_each_other_are_counted() -> None:
    before = cut("pipeline")
    async with listening() as port, asyncio.timeout(20):
        few = await port.say(GET * 20 + LAST, end=False)
        assert statuses(few) == [200] * 21
        many = await port.say(GET * 2000, end=False)
        assert len(statuses(many)) < 100
    assert cut("pipeline") == before + 1


async def test_connections_over_the_count_hear_so_until_one_goes() -> None:
    """Control: without the count the fourth connection was served like the others."""
    async with listening(connections=3) as port, asyncio.timeout(20):
        held = [await port.connect() for _ in range(3)]
        for reader, writer in held:
            writer.write(GET)
            await reader.readuntil(b"}")
        answers = await port.say(GET, end=False)
        assert refusal(answers)["name"] == "unavailable"
        assert b"retry-after: 1" in answers
        held[0][1].close()
        while statuses(await port.say(GET + b"GET / HTTP/1.0\r\n\r\n"))[0] != 200:
            pass
        for _, writer in held:
            writer.close()


async def test_a_flood_of_connections_leaves_those_that_are_there_alone() -> None:
    async with listening(connections=1) as port, asyncio.timeout(20):
        reader, writer = await port.connect()
        writer.write(GET)
        await reader.readuntil(b"}")
        flood = await asyncio.gather(*(port.say(end=False) for _ in range(300)))
        assert {tuple(statuses(answers)) for answers in flood} <= {(503,), ()}
        writer.write(GET)
        assert b"200" in await reader.readuntil(b"\r\n")
        writer.close()


# What is no request

MALFORMED = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "words": b"hello there\r\n\r\n",
    "SMTP": b"EHLO x\r\nMAIL FROM:<a@b.c>\r\n",
    "an unknown method": b"STEAL / HTTP/1.1\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a bare CR in a field": b"GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n",
    "a bare LF in a field's place": b"GET / HTTP/1.1\r\nA\n: b\r\n\r\n",
    "NUL in a field": b"GET / HTTP/1.1\r\nA: b\x00c\r\n\r\n",
    "a folded field's name": b"GET / HTTP/1.1\r\n A: b\r\n\r\n",
    "space before the colon": b"POST / HTTP/1.1\r\nContent-Length : 5\r\n\r\nhello",
    "both lengths": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled",
    "both lengths, the other way round": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "a list of lengths": POST + b"Content-Length: 5, 5\r\n\r\nhello",
    "a signed length": POST + b"Content-Length: +5\r\n\r\nhello",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "a hexadecimal length": POST + b"Content-Length: 0x5\r\n\r\nhello",
    "a length beyond 64 bits": POST + b"Content-Length: 99999999999999999999\r\n\r\n",
    "an encoding that is not chunked": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "an encoding that hides": POST + b"Transfer-Encoding: xchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "an encoding that hides behind a tab": POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "a chunk's size that is none": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a chunk's size beyond 64 bits": POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n",
    "a chunk that is longer than it says": POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n",
    "a target in Latin-1": b"GET /\xe9 HTTP/1.1\r\n\r\n",
    "a target with NUL": b"GET /\x00 HTTP/1.1\r\n\r\n",
    "a target that is a word": b"GET index HTTP/1.1\r\n\r\n",
    "a tunnel": b"CONNECT example.com:443 HTTP/1.1\r\n\r\n",
}


async def test_what_is_no_http_is_refused_and_nothing_behind_it_is_a_request() -> None:
    async with listening() as port, asyncio.timeout(20):
        for name, request in MALFORMED.items():
            answers = await port.say(request + GET)
            assert len(statuses(answers)) <= 1, (name, answers)
            assert refusal(answers)["name"] == "bad_request", (name, answers)


TARGETS = {
    b"/": 200,
    b"http://elsewhere.example/": 200,  # absolute-form (RFC 9112 3.2.2): the path counts, the host does not
    b"//": 404,
    b"/%2e%2e/": 404,
    b"/..": 404,
    b"/../../etc/passwd": 404,
    b"/%00": 404,
    b"/%0d%0aX-Evil:%20yes": 404,
    b"/%252f": 404,
    b"/%2F": 404,
    b"/%": 404,
    b"/%zz": 404,
    b"/%ff%fe": 404,
    b"/refused%2f..": 404,
    b"/;a=b": 404,
    b"/" + b"a/" * 10_000: 404,
    b"/" + b"%41" * 10_000: 404,
    b"/?" + b"a=b&" * 10_000: 200,
}


async def test_odd_targets_are_found_or_not() -> None:
    async with listening() as port, asyncio.timeout(20):
        for target, status in TARGETS.items():
            answers = await port.say(b"GET " + target + b" HTTP/1.1\r\nConnection: close\r\n\r\n")
            assert statuses(answers) == [status], (target[:50], answers[:200])
            assert b"evil" not in answers.partition(b"\r\n\r\n")[0].lower()


@pytest.mark.parametrize(
    "request_line", [b"OPTIONS * HTTP/1.1", b"TRACE / HTTP/1.1", b"DELETE / HTTP/1.1", b"PROPFIND / HTTP/1.1"]
)
async def test_what_a_path_does_not_take_is_refused_and_said_back_to_nobody(request_line: bytes) -> None:
    async with listening() as port, asyncio.timeout(20):
        answers = await port.say(request_line + b"\r\nHost: x\r\nX-Secret: hush\r\nConnection: close\r\n\r\n")
        assert statuses(answers)[0] in (400, 404, 405), answers
        assert b"hush" not in answers


async def test_a_header_cannot_change_the_method_or_the_path() -> None:
    headers = b"X-HTTP-Method-Override: DELETE\r\nX-Original-URL: /big\r\nX-Rewrite-URL: /big\r\nX-Forwarded-Prefix: /a"
    async with listening() as port, asyncio.timeout(20):
        answers = await port.say(b"GET / HTTP/1.1\r\nConnection: close\r\n" + headers + b"\r\n\r\n")
        assert statuses(answers) == [200]
        assert json.loads(answers.partition(b"\r\n\r\n")[2])["path"] == "/"


async def test_an_upgrade_to_what_is_not_spoken_is_passed_over() -> None:
    async with listening() as port, asyncio.timeout(20):
        upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
        answers = await port.say(b"GET / HTTP/1.1\r\n" + upgrade + GET)
        assert statuses(answers)[0] == 200
