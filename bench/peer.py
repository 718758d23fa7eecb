"""What Postroom is compared with: stock aiosmtpd under uvloop, whose handler says 250 and stores nothing.

`python -m bench.peer` prints its port and serves until it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import warnings
from collections.abc import AsyncIterator

import uvloop
from aiosmtpd import smtp

from bench import setting


class Nothing:
    """A handler that takes everything and keeps nothing."""

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self, server: smtp.SMTP, session: smtp.Session, envelope: smtp.Envelope
    ) -> str:
        return "250 2.0.0 OK"


async def _serve() -> None:
    handler = Nothing()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: smtp.SMTP(handler, hostname="peer.example", data_size_limit=1 << 25), "127.0.0.1", 0, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[int]:
    """Its port, in a process of its own."""
    async with setting.program("bench.peer") as process:
        assert process.stdout is not None
        yield int(await process.stdout.readline())


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable()
    uvloop.run(_serve())
