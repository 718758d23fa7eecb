"""Hostile bytes in every state of a session, against the real desks: nothing fails, hangs, leaks or tells.

Each input goes into sessions that are just connected, greeted, within an envelope and within DATA, and into some that
are encrypted, in chunks, behind a load balancer, or logged in at the submission port. Afterwards the port is as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import re
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import structlog

from gateway.inbound import parsing
from gateway.storage import db
from tests.inbound import fuzzing, test_receive, test_submission
from tests.inbound.dialogue import PATIENCE, Port, listening, self_signed, until
from tests.storage import rows

pytestmark = pytest.mark.anyio

SEED = 20261122
INPUTS = [pytest.param(100, 4, id="short"), pytest.param(20_000, 10, id="storm", marks=pytest.mark.faults)]
AT_ONCE = 20
HUNG = 120.0  # seconds; a child of the parsing pool may take 20 to start where much else is done
ROOM: dict[str, Any] = {"smtp_max_connections": 1000, "smtp_max_connections_per_address": 1000}
REPLY = re.compile(r"(?:([2345]\d\d)-[^\r\n]*\r\n(?:\1-[^\r\n]*\r\n)*\1|[2345]\d\d) [^\r\n\0]*\r\n")

HELLO = b"EHLO peer.example\r\n"
ENVELOPE = HELLO + b"MAIL FROM:<a@b.example>\r\nRCPT TO:<box@postroom.test>\r\n"
CLOSING = b"\r\n.\r\nRSET\r\nNOOP\r\nQUIT\r\n"  # whatever state that is said in, it ends, or the line's end ends it
LEAVING = 3  # every so manieth input is the peer's last word


@pytest.fixture
def anyio_backend() -> object:
    return ("asyncio", {"use_uvloop": True})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """Where a session stands when the input comes."""

    port: Port
    before: bytes = b""  # what brings it there
    tls: ssl.SSLContext | None = None  # after STARTTLS


class Faults:
    """What nobody should ever see in a log, and what the loop is told of."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def event(self, _logger: object, _name: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        if event.get("exc_info") or event.get("log_level") in {"error", "critical"}:
            self.found.append(str(event))
        raise structlog.DropEvent

    def loop(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.found.append(str(context))


@contextlib.contextmanager
def watched() -> Iterator[Faults]:
    faults, usual = Faults(), structlog.get_config()
    asyncio.get_running_loop().set_exception_handler(faults.loop)
    structlog.configure(processors=[structlog.stdlib.add_log_level, faults.event], cache_logger_on_first_use=False)
    try:
        yield faults
    finally:
        structlog.configure(**usual)


@contextlib.asynccontextmanager
async def ports(
    database: db.Database, account_id: UUID, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> AsyncIterator[tuple[list[State], list[State]]]:
    """The states that every input meets, and those that some meet."""
    server, client = contexts
    pool = parsing.ParsingPool()
    desk = test_receive.Desk(database, pool)
    async with (
        contextlib.AsyncExitStack() as stack,
        listening(desk, settings=ROOM, tls_context=server) as inbound,
        listening(desk, settings={**ROOM, "proxy_trusted": "127.0.0.0/8"}) as proxied,
        test_submission.standing(database, account_id, None, **ROOM) as out,
    ):
        stack.push_async_callback(pool.close)
        log_in = HELLO + b"AUTH PLAIN " + test_submission.plain(await out.key()).encode() + b"\r\n"
        usual = [State(port=inbound, before=before) for before in (b"", HELLO, ENVELOPE, ENVELOPE + b"DATA\r\n")]
        logged_in = log_in + b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"
        others = [
            State(port=inbound, tls=client),
            State(port=inbound, before=ENVELOPE + b"BDAT 20\r\n0123456789"),
            State(port=inbound, before=ENVELOPE + b"BDAT 3\r\nabc"),
            State(port=proxied),
            State(port=proxied, before=b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 25\r\n" + HELLO),
            State(port=out.port, before=HELLO + b"AUTH LOGIN\r\n"),
            State(port=out.port, before=log_in),
            State(port=out.port, before=logged_in + b"DATA\r\nFrom: a@b.example\r\n"),
        ]
        yield usual, others


async def said(state: State, given: bytes) -> str:
    """All that is answered to an input, or to an input and what ends the session after it."""
    reader, writer = await asyncio.open_connection(*state.port.address)
    try:
        if state.tls is not None:
            await encrypted(reader, writer, state.tls)
        writer.write(state.before + given)
        if writer.can_write_eof():
            writer.write_eof()
        async with asyncio.timeout(HUNG):
            return (await reader.read()).decode()
    except ConnectionError:  # cut off with bytes unread: so ends who sends no PROXY header
        return ""
    except TimeoutError:
        raise AssertionError(f"no end after {given!r} in {state.before!r}") from None
    finally:
        writer.transport.abort()


async def encrypted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: ssl.SSLContext) -> None:
    writer.write(b"STARTTLS\r\n")
    await reader.readline()
    assert (await reader.readline()).startswith(b"220 2.0.0")
    async with asyncio.timeout(PATIENCE):
        await writer.start_tls(client, server_hostname="127.0.0.1")


async def work(turns: Iterator[tuple[State, int]]) -> None:
    for state, number in turns:
        given = fuzzing.octets(SEED, number)
        if state.tls is not None:  # such a line cannot be closed by half: nothing may leave its session waiting
            given = given.replace(b"BDAT", b"BDAX") + CLOSING
        elif number % LEAVING:
            given += CLOSING
        replies = await said(state, given)
        rest = REPLY.sub("", replies)
        assert not rest, f"input {number} in {state.before!r}: {rest!r} is no reply"
        assert "Error" not in replies, f"input {number} in {state.before!r}: {replies!r}"


@pytest.mark.parametrize(("count", "share"), INPUTS)
async def test_no_bytes_make_a_session_fail_hang_leak_or_tell(
    database: db.Database, account_id: UUID, tmp_path: Path, count: int, share: int
) -> None:
    """`share`: every so manieth input meets the rarer states, too.

    Seen to fail with a delivered message's share of the budget not given back."""
    print(f"seed {SEED}")  # noqa: T201 - shown where it fails
    box = await rows.mailbox(database, account_id, address="box@postroom.test")
    with watched() as faults:
        base = set(asyncio.all_tasks())
        async with ports(database, account_id, self_signed(tmp_path)) as (usual, others):
            first = ((state, number) for number in range(count) for state in usual)
            second = ((state, number) for number in range(0, count, share) for state in others)
            turns = itertools.chain(first, second)
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(work(turns))
            for port in {id(state.port): state.port for state in (*usual, *others)}.values():
                await port.empty()
                await until(lambda port=port: not port.listener.service.commits)  # type: ignore[misc]
                budget = port.budget
                assert (budget.used, budget.storing, list(budget.waiting)) == (0, 0, [])
            codes = await said(State(port=usual[0].port, before=ENVELOPE + b"DATA\r\n"), b"Subject: alive\r\n\r\n.\r\n")
            assert re.findall(r"^250 2\.0\.0 queued as", codes, re.MULTILINE)
        await until(lambda: asyncio.all_tasks() <= base | {asyncio.current_task()})
        assert faults.found == []
    assert await rows.count(database, "select count(*) from messages where mailbox_id = $1 and subject = 'alive'", box)
