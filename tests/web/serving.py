"""A real uvicorn on a loopback port, and clients for it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import httpx2
import uvicorn
from starlette.types import ASGIApp

from tests import house


@contextlib.asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """Serve `app`; yields its base URL. The socket listens before the server runs, so that nobody has to wait."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await running


@contextlib.asynccontextmanager
async def client_of(app: ASGIApp, key: str | None = "pr_key_all") -> AsyncIterator[httpx2.AsyncClient]:
    """A client of `app` that gives `key` with every request."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with (
        serving(app) as url,
        httpx2.AsyncClient(base_url=url, headers=headers, trust_env=False, verify=house.NOBODY) as client,
    ):
        yield client
