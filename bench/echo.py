"""What the web server itself can do, as a limit to measure against: bare Starlette, through the same uvicorn.

`POST /` answers its JSON body with 202, parsed and written again; `/ws` sends each frame back. In a process of its own:

    async with echo.started() as server:
        … server.port, server.pid …
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from bench import setting
from gateway import sockets


@dataclass(frozen=True, kw_only=True, slots=True)
class Echo:
    """The running server."""

    port: int
    pid: int


@contextlib.asynccontextmanager
async def started() -> AsyncIterator[Echo]:
    """An echo server, ended afterwards."""
    async with setting.program("bench.echo") as process:
        assert process.stdout is not None
        yield Echo(port=int(await process.stdout.readline()), pid=process.pid)


async def _echo(request: Request) -> JSONResponse:
    return JSONResponse(await request.json(), status_code=202)


async def _frames(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


async def _serve() -> None:
    listener = sockets.bind("127.0.0.1", 0, "the echo server")
    app = Starlette(routes=[Route("/", _echo, methods=["POST"]), WebSocketRoute("/ws", _frames)])
    config = uvicorn.Config(
        app,
        loop="none",
        http="httptools",
        ws="websockets-sansio",
        lifespan="off",
        log_config=None,
        access_log=False,
        ws_per_message_deflate=False,
        backlog=sockets.BACKLOG,
    )
    print(sockets.port_of(listener), flush=True)
    await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    uvloop.run(_serve())
