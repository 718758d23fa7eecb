"""Nudges through a real server: said once, heard by others, and harmless to lose."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
from collections.abc import AsyncIterator, Sequence
from os import kill
from typing import Any
from uuid import UUID, uuid4

import arq.jobs
import msgspec
import pytest
import redis.asyncio
from prometheus_client import REGISTRY

from gateway import embedded, errors
from gateway.notify import nudges
from tests.notify.certificates import Authority

pytestmark = pytest.mark.anyio

ALICE, BOB = uuid4(), uuid4()


class Ear:
    """A listener's two callbacks, and what they heard."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[list[UUID]] = asyncio.Queue()
        self.subscribed = asyncio.Semaphore(0)  # released each time the subscription holds

    def on_nudge(self, account_ids: Sequence[UUID]) -> None:
        self.heard.put_nowait(list(account_ids))

    def on_reconnect(self) -> None:
        self.subscribed.release()


@contextlib.asynccontextmanager
async def listening(url: str, namespace: str, ear: Ear, **options: Any) -> AsyncIterator[nudges.Listener]:
    listener = nudges.Listener(
        url,
        namespace=namespace,
        on_nudge=ear.on_nudge,
        on_reconnect=ear.on_reconnect,
        pause_seconds=0.01,
        **options,
    )
    task = asyncio.create_task(listener.run())
    try:
        async with asyncio.timeout(20):
            await ear.subscribed.acquire()
            yield listener
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def nudging(url: str, namespace: str, **options: Any) -> AsyncIterator[nudges.Nudger]:
    nudger = nudges.Nudger(url, namespace=namespace, pause_seconds=0.01, **options)
    try:
        async with asyncio.timeout(20):
            yield nudger
    finally:
        await nudger.close()


@contextlib.asynccontextmanager
async def client(url: str) -> AsyncIterator[redis.asyncio.Redis]:
    connected = nudges.redis_from_url(url, answer_seconds=10)
    try:
        yield connected
    finally:
        await connected.aclose()


def dropped() -> float:
    return REGISTRY.get_sample_value("postroom_nudges_dropped_total") or 0.0


# Events


async def test_other_processes_hear_which_accounts_have_new_events(redis_url: str, namespace: str) -> None:
    ear = Ear()
    async with listening(redis_url, namespace, ear), nudging(redis_url, namespace) as nudger:
        nudger.tell([ALICE, BOB])
        assert sorted(await ear.heard.get()) == sorted([ALICE, BOB])


async def test_equal_nudges_that_wait_are_said_once(redis_url: str, namespace: str) -> None:
    ear = Ear()
    async with listening(redis_url, namespace, ear), nudging(redis_url, namespace) as nudger:
        for _ in range(100):
            nudger.tell([ALICE])
        await ear.heard.get()
        nudger.tell([BOB])
        assert await ear.heard.get() == [BOB]


async def test_closing_says_what_was_still_to_be_said(redis_url: str, namespace: str) -> None:
    ear = Ear()
    async with listening(redis_url, namespace, ear):
        async with nudging(redis_url, namespace) as nudger:
            nudger.tell([ALICE])
        assert await ear.heard.get() == [ALICE]


async def test_gateways_that_share_a_server_do_not_hear_each_other(redis_url: str, namespace: str) -> None:
    mine, theirs = Ear(), Ear()
    async with listening(redis_url, namespace, mine), listening(redis_url, f"{namespace}-2", theirs):
        async with nudging(redis_url, namespace) as here, nudging(redis_url, f"{namespace}-2") as there:
            here.tell([ALICE])
            there.tell([BOB])
        assert (await mine.heard.get(), await theirs.heard.get()) == ([ALICE], [BOB])
    assert mine.heard.empty()
    assert theirs.heard.empty()


@pytest.mark.parametrize("rubbish", [b"", b"x", b"{}", b'["x"]', b"\xff", b"[1]"])
async def test_rubbish_on_the_channel_is_passed_over(redis_url: str, namespace: str, rubbish: bytes) -> None:
    ear = Ear()
    async with listening(redis_url, namespace, ear), client(redis_url) as stranger:
        await stranger.publish(nudges.Names(namespace).events, rubbish)
        await stranger.publish(nudges.Names(namespace).events, msgspec.json.encode([ALICE]))
        assert await ear.heard.get() == [ALICE]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_listener_outlives_the_server_and_is_told_to_catch_up(
    valkey: embedded.Valkey, namespace: str, how: signal.Signals
) -> None:
    """With the loop in `follow` taken out (redis-py's own behaviour: one disconnect, and it is over), the listener
    never subscribed again and the test ran into its timeout.
    """
    ear = Ear()
    async with listening(valkey.url, namespace, ear) as listener, nudging(valkey.url, namespace) as nudger:
        assert listener.connected
        for _ in range(2):
            assert valkey.pid is not None
            kill(valkey.pid, how)
            valkey.wait()
            nudger.tell([BOB])  # lost, and nobody the worse for it
            valkey.start()
            await ear.subscribed.acquire()
        while ear.heard.empty():
            nudger.tell([ALICE])
            await asyncio.sleep(0.001)
        assert listener.connected
    assert not listener.connected


async def test_a_server_that_falls_silent_is_left_and_found_again(valkey: embedded.Valkey) -> None:
    """Stopped, not killed: connections stay open and nothing is answered, as when a NAT forgets them.

    Without the PING, nobody took notice and the test ran into its timeout.
    """
    subscribed, lost = asyncio.Semaphore(0), asyncio.Semaphore(0)
    async with client(valkey.url) as connected, asyncio.timeout(20):
        following = asyncio.create_task(
            nudges.follow(
                connected,
                "channel",
                on_message=lambda _data: None,
                on_subscribed=subscribed.release,
                on_lost=lost.release,
                pause_seconds=0.01,
                silence_seconds=0.05,
            )
        )
        await subscribed.acquire()
        assert valkey.pid is not None
        kill(valkey.pid, signal.SIGSTOP)
        try:
            await lost.acquire()
        finally:
            kill(valkey.pid, signal.SIGCONT)
        await subscribed.acquire()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_a_quiet_channel_is_not_taken_for_a_dead_one(valkey: embedded.Valkey, namespace: str) -> None:
    """Each silence is ended by a PONG, many times over, and the one subscription holds."""
    ear = Ear()
    options = {"silence_seconds": 0.3}
    async with listening(valkey.url, namespace, ear, **options), client(valkey.url) as stranger:
        before = await _pings(stranger)
        while await _pings(stranger) < before + 3:
            pass
        await stranger.publish(nudges.Names(namespace).events, msgspec.json.encode([ALICE]))
        assert await ear.heard.get() == [ALICE]
        assert ear.subscribed.locked()  # released once only, and taken


async def _pings(connected: redis.asyncio.Redis) -> int:
    """PINGs that the server has answered."""
    statistics = await connected.info("commandstats")
    return int(statistics.get("cmdstat_ping", {}).get("calls", 0))


# Jobs


async def test_a_nudge_is_a_job_as_arq_reads_it(redis_url: str, namespace: str) -> None:
    names = nudges.Names(namespace)
    async with nudging(redis_url, namespace) as nudger:
        nudger.nudge("deliver", ALICE)
    async with client(redis_url) as connected:
        job = arq.jobs.Job(names.job_id("deliver", ALICE), connected, names.queue, nudges.decode)
        info = await job.info()
        assert info is not None
        assert (info.function, list(info.args), info.kwargs) == ("deliver", [str(ALICE)], {})
        assert await job.status() == arq.jobs.JobStatus.queued


async def test_nudges_of_one_kind_and_account_are_one_job_while_it_waits(redis_url: str, namespace: str) -> None:
    async with nudging(redis_url, namespace) as first, nudging(redis_url, namespace) as second:
        for nudger in (first, second):
            for job, account_id in [("deliver", ALICE), ("deliver", ALICE), ("deliver", BOB), ("tell", ALICE)]:
                nudger.nudge(job, account_id)
    async with client(redis_url) as connected:
        assert await connected.zcard(nudges.Names(namespace).queue) == 3


async def test_a_great_many_nudges_arrive_all(redis_url: str, namespace: str) -> None:
    async with nudging(redis_url, namespace) as nudger:
        for _ in range(1234):
            nudger.nudge("deliver", uuid4())
        sending = nudger._sending
        assert sending is not None
        await sending
    async with client(redis_url) as connected:
        assert await connected.zcard(nudges.Names(namespace).queue) == 1234


# Redis away


async def test_without_redis_nudges_cost_nothing() -> None:
    async with nudging("", "nowhere") as nudger:
        nudger.nudge("deliver", ALICE)
        nudger.tell([ALICE])
        assert nudger._sending is None
    await nudges.Listener("", on_nudge=Ear().on_nudge, on_reconnect=Ear().on_reconnect).run()


async def test_while_redis_is_away_nudges_are_dropped_counted_and_never_raise(valkey: embedded.Valkey) -> None:
    valkey.stop()
    before = dropped()
    async with nudging(valkey.url, "away") as nudger:
        nudger.nudge("deliver", ALICE)
        nudger.tell([ALICE, BOB])
        sending = nudger._sending
        assert sending is not None
        await sending
    assert dropped() - before == 3


async def test_a_server_that_does_not_answer_is_given_up_on(valkey: embedded.Valkey) -> None:
    """A black hole: it takes connections and says nothing. Without the bound of each command this never ended."""
    assert valkey.pid is not None
    kill(valkey.pid, signal.SIGSTOP)
    try:
        before = dropped()
        async with nudging(valkey.url, "away") as nudger:
            nudger.nudge("deliver", ALICE)
            sending = nudger._sending
            assert sending is not None
            await sending
        assert dropped() - before == 1
    finally:
        kill(valkey.pid, signal.SIGCONT)


async def test_what_waits_is_bounded(valkey: embedded.Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nudges, "PENDING_MAX", 5)
    before = dropped()
    async with nudging(valkey.url, "bounded") as nudger:
        for _ in range(8):
            nudger.nudge("deliver", uuid4())
        assert len(nudger._jobs) == 5
        assert dropped() - before == 3


async def test_nudges_flow_again_once_redis_is_back(valkey: embedded.Valkey, namespace: str) -> None:
    async with nudging(valkey.url, namespace) as nudger, client(valkey.url) as connected:
        nudger.nudge("deliver", ALICE)
        valkey.stop()
        valkey.start()
        while not await connected.zcard(nudges.Names(namespace).queue):
            nudger.nudge("deliver", BOB)
            await asyncio.sleep(0.001)


# REDIS_URL


async def test_user_and_password_are_percent_decoded(valkey: embedded.Valkey) -> None:
    password = "p@ss/w:rd%#é"
    async with client(valkey.url) as admin:
        await admin.acl_setuser(
            "post@room", enabled=True, passwords=[f"+{password}"], keys=["*"], channels=["*"], categories=["+@all"]
        )
    socket = valkey.url.removeprefix("unix://")
    async with client(f"unix://post%40room:p%40ss%2Fw%3Ard%25%23%C3%A9@{socket}") as connected:
        assert await connected.acl_whoami() == "post@room"


@contextlib.asynccontextmanager
async def behind_tls(valkey: embedded.Valkey, context: ssl.SSLContext) -> AsyncIterator[int]:
    """A port that speaks TLS and hands all of it on to the server's socket."""
    path = valkey.url.removeprefix("unix://").partition("?")[0]
    running: set[asyncio.Task[None]] = set()

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()
        with contextlib.suppress(OSError):
            await sink.wait_closed()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(path)
        for pair in ((reader, inner_writer), (inner_reader, writer)):
            running.add(asyncio.create_task(copy(*pair)))

    server = await asyncio.start_server(serve, "localhost", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.gather(*running, return_exceptions=True)
        await server.wait_closed()


@pytest.mark.parametrize(
    ("where", "verify", "reached"),
    [
        ("localhost:{port}?ssl_ca_certs={file}", True, True),
        ("localhost:{port}", True, False),  # a private authority that nobody named
        ("localhost:{port}", False, True),
        ("localhost:{port}?ssl_cert_reqs=none", True, True),
        ("127.0.0.1:{port}?ssl_ca_certs={file}", True, False),  # another name than the certificate's
        ("127.0.0.1:{port}", False, True),
    ],
)
async def test_rediss_checks_authority_and_name_unless_told_not_to(
    valkey: embedded.Valkey, authority: Authority, where: str, *, verify: bool, reached: bool
) -> None:
    async with behind_tls(valkey, authority.server_context("localhost")) as port:
        url = "rediss://" + where.format(port=port, file=authority.file)
        connected = nudges.redis_from_url(url, tls_verify=verify, answer_seconds=10)
        try:
            assert await _answers(connected) == reached
        finally:
            await connected.aclose()


async def _answers(connected: redis.asyncio.Redis) -> bool:
    try:
        return bool(await connected.ping())
    except nudges.AWAY:
        return False


@pytest.mark.parametrize("url", ["http://localhost", "localhost:6379", "redis://localhost:x"])
def test_a_url_that_is_none_of_redis_is_a_configuration_error(url: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="REDIS_URL"):
        nudges.redis_from_url(url)


async def test_whoever_talks_to_redis_can_be_cancelled_at_any_moment(redis_url: str) -> None:
    """With redis-py's `socket_timeout` left in, Python 3.11 swallowed some of these cancellations."""
    async with client(f"{redis_url}&socket_timeout=5") as connected:
        for steps in range(60):
            talking = asyncio.create_task(_talk(connected))
            for _ in range(steps):
                await asyncio.sleep(0)
            talking.cancel()
            done, _running = await asyncio.wait([talking], timeout=5)
            assert done, f"not after {steps} steps"


async def _talk(connected: redis.asyncio.Redis) -> None:
    while True:
        await connected.ping()


# What jobs look like


def test_jobs_are_json_with_exceptions_told() -> None:
    encoded = nudges.encode({"r": ValueError("no such mailbox"), "a": (str(ALICE),), "t": None})
    decoded = nudges.decode(encoded)
    assert decoded["a"] == [str(ALICE)]
    assert isinstance(decoded["r"], nudges.JobError)
    assert str(decoded["r"]) == "ValueError: no such mailbox"


def test_what_has_no_place_in_a_job_is_refused() -> None:
    with pytest.raises(NotImplementedError):
        nudges.encode({"r": object()})
