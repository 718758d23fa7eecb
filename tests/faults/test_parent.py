"""`postroom serve` with WEB_CONCURRENCY: a parent that only looks after its children, and what dies with whom.

Each child imports everything anew: too long for every day.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator

import psutil
import pytest

from tests import house, processes
from tests.faults import load

pytestmark = [pytest.mark.anyio, pytest.mark.faults]

HASTY = """
import os, signal
from gateway import app, settings

class Parent(app.Parent):
    def _start(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return super()._start()

chosen = settings.load()
Parent(chosen.web_concurrency, app.bind(chosen)).run()
"""


@contextlib.asynccontextmanager
async def _family(dsn: str, redis_url: str) -> AsyncIterator[house.House]:
    """A parent and two children that serve."""
    async with house.standing(dsn, redis_url, programs=("serve",), settings={"WEB_CONCURRENCY": "2"}) as home:
        await _serving(home, 2)
        yield home


async def _serving(home: house.House, count: int) -> set[int]:
    """Ids of the children, once there are so many."""
    parent = psutil.Process(home.processes["serve"].pid)

    def found() -> set[int]:
        living = {one.pid for one in parent.children() if not processes.gone(one.pid)}
        return living if len(living) == count else set()

    return await asyncio.to_thread(processes.until, found, 60)


def _refused(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


async def test_a_child_that_is_killed_is_replaced_and_the_other_serves_meanwhile(dsn: str, redis_url: str) -> None:
    async with _family(dsn, redis_url) as home:
        tenant, ledger, done = await home.tenant(), load.Ledger(), asyncio.Event()
        async with load.Caller([home], tenant.key) as caller, asyncio.TaskGroup() as group:
            box = (await caller.ask("POST", "/mailboxes", json={})).json()
            for seed in range(4):
                group.create_task(load.send_mail([home], [box["address"]] * 3, ledger, done, seed))
            for _ in range(5):
                child = min(await _serving(home, 2))
                await ledger.confirmed.reaches(ledger.confirmed.value + 20)
                psutil.Process(child).kill()
                await ledger.confirmed.reaches(ledger.confirmed.value + 20)  # by the other
            await _serving(home, 2)
            done.set()
        async with home.client(tenant.key) as client:
            shown = (await client.get(f"/mailboxes/{box['id']}")).json()
        assert shown["message_count"] >= len(ledger.mails)


async def test_children_die_with_a_killed_parent_and_nobody_listens_any_more(dsn: str, redis_url: str) -> None:
    async with _family(dsn, redis_url) as home:
        children, ports = await _serving(home, 2), (home.http_port, home.smtp_port)
        home.kill("serve")
        await asyncio.to_thread(processes.until, lambda: all(processes.gone(child) for child in children))
        for listener in home.listeners.values():
            listener.close()  # the test's own
        assert all(_refused(port) for port in ports)


async def test_a_parent_that_is_told_to_end_while_it_starts_a_child_ends_with_it(dsn: str, redis_url: str) -> None:
    """With nobody telling the child that was just being started, the parent waited for it for ever."""
    environment = house.environment(dsn, redis_url, WEB_CONCURRENCY="2", PORT="0", HOST="127.0.0.1")
    command = [sys.executable, "-c", HASTY]
    ended = await asyncio.to_thread(subprocess.run, command, env=environment, timeout=60, check=False)
    assert ended.returncode == 0
