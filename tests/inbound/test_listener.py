"""Ports: who gets in, how they close, and what is said of a taken one."""

from __future__ import annotations

import asyncio
import socket

import prometheus_client
import pytest

from gateway import sockets
from gateway.inbound import listener, protocol
from gateway.settings import Settings
from tests.inbound.dialogue import Peer, Tray, listening, until

pytestmark = pytest.mark.anyio


@pytest.fixture(
    params=[pytest.param(("asyncio", {"use_uvloop": uv}), id="uvloop" if uv else "asyncio") for uv in (False, True)]
)
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


def metric(name: str, **labels: str) -> float:
    return prometheus_client.REGISTRY.get_sample_value(name, {"listener": "inbound", **labels}) or 0.0


# Who gets in


async def test_connections_over_the_cap_are_turned_away_until_one_goes() -> None:
    async with listening(Tray(), settings={"smtp_max_connections": 2}) as port:
        first, second = [await port.connect() for _ in range(2)]
        await first.greet()
        await second.greet()
        third = await port.connect("127.0.0.2")
        await third.expect("421 4.7.0 Too many connections,")
        await third.ended()
        await first.talk(("QUIT", "221"))
        await until(lambda: len(port.listener.sessions) == 1)
        await (await port.connect()).greet()


async def test_who_is_silent_for_long_makes_room_for_somebody_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `_make_room` giving False always, this failed: the newcomer heard 421."""
    monkeypatch.setattr(listener, "IDLE_FLOOR", 0.0)
    tray = Tray()
    async with listening(tray, settings={"smtp_max_connections": 2, "smtp_max_connections_per_address": 2}) as port:
        silent, writing = [await port.connect() for _ in range(2)]
        await silent.greet()
        await writing.begin_data()
        same = await port.connect()  # its address has its share: nobody goes for it
        await same.expect("421 4.7.0 Too many connections,")
        await same.ended()
        await until(lambda: any(session.silent_for() > 0 for session in port.listener.sessions))  # uvloop counts in ms
        await (await port.connect("127.0.0.2")).greet()
        await silent.expect("421 4.7.0 Idle while others wait")
        await silent.ended()
        await writing.talk((b"text\r\n.\r\n", "250"))
    assert len(tray.messages) == 1


async def test_one_address_does_not_take_every_place() -> None:
    async with listening(Tray(), settings={"smtp_max_connections_per_address": 2}) as port:
        peers = [await port.connect() for _ in range(3)]
        await peers[0].greet()
        await peers[1].greet()
        await peers[2].expect("421 4.7.0 Too many connections from your address")
        await peers[2].ended()
        await (await port.connect("127.0.0.2")).greet()
        peers[0].reset()
        await until(lambda: len(port.listener.sessions) == 2)
        await (await port.connect()).greet()


async def test_a_flood_of_connections_leaves_room_for_other_addresses() -> None:
    async with listening(Tray(), settings={"smtp_max_connections_per_address": 5}) as port:
        flood = await asyncio.gather(*(port.connect() for _ in range(200)))
        replies = await asyncio.gather(*(peer.reply() for peer in flood))
        assert sorted(reply[:3] for reply in replies) == ["220"] * 5 + ["421"] * 195
        await (await port.connect("127.0.0.2")).greet()
        for peer in flood:
            peer.reset()
        await until(lambda: len(port.listener.sessions) == 1)


async def test_caps_are_shared_out_among_the_processes() -> None:
    async with listening(Tray(), settings={"smtp_max_connections": 4, "web_concurrency": 4}) as port:
        await (await port.connect()).greet()
        await (await port.connect("127.0.0.2")).expect("421 4.7.0")


@pytest.mark.parametrize(("processes", "expected"), [(1, 268_435_456), (4, 67_108_864), (64, 52_428_800)])
def test_the_budget_is_shared_out_but_holds_a_message(processes: int, expected: int) -> None:
    assert listener.budget(Settings(web_concurrency=processes)).limit == expected


async def test_comings_and_messages_are_counted() -> None:
    def counts() -> list[float]:
        return [
            metric("postroom_smtp_connections_total", outcome="taken"),
            metric("postroom_smtp_connections_total", outcome="full"),
            metric("postroom_smtp_messages_accepted_total"),
            metric("postroom_smtp_bytes_received_total"),
            metric("postroom_smtp_replies_refusing_total", code_class="5xx"),
        ]

    before, already_open = counts(), metric("postroom_smtp_connections_open")
    async with listening(Tray(), settings={"smtp_max_connections": 1}) as port:
        peer = await port.connect()
        await peer.begin_data()
        await peer.talk((b"12345\r\n.\r\n", "250"), ("WHAT", "500"))
        await (await port.connect()).expect("421")
        assert metric("postroom_smtp_connections_open") == already_open + 1
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [1, 1, 1, 7, 1]
    assert metric("postroom_smtp_connections_open") == already_open


# How it closes


async def draining(port_listener: listener.Listener, seconds: float) -> asyncio.Task[None]:
    task = asyncio.create_task(port_listener.drain(seconds))
    await until(lambda: port_listener.service.draining)
    return task


async def test_a_closed_port_takes_no_connections_and_keeps_its_sessions() -> None:
    async with listening(Tray()) as port:
        peer = await port.connect()
        await peer.greet()
        port.listener.close()
        await asyncio.sleep(0)
        with pytest.raises(OSError, match=r"refused|Connect call failed|reset"):
            await (await port.connect()).greet()
        await peer.envelope()


async def test_idle_sessions_are_told_of_the_end() -> None:
    async with listening(Tray()) as port:
        peers = [await port.connect() for _ in range(3)]
        for peer in peers:
            await peer.greet()
        await peers[2].envelope()
        ending = await draining(port.listener, 20)
        for peer in peers:
            await peer.expect("421 4.3.2")
            await peer.ended()
            peer.close()
        await ending


async def test_a_message_under_way_is_taken_before_the_end() -> None:
    tray = Tray()
    tray.may_end.clear()
    async with listening(tray) as port:
        receiving, storing = [await port.connect() for _ in range(2)]
        await receiving.begin_data()
        await receiving.send(b"half a mess")
        await storing.begin_data()
        await storing.send(b"x\r\n.\r\n")
        await tray.begun.wait()
        ending = await draining(port.listener, 20)
        await receiving.send(b"age\r\n.\r\n")
        tray.may_end.set()
        for peer in (receiving, storing):
            await peer.talk((b"", "250 2.0.0"), (b"", "421 4.3.2"), (b"", ""))
            peer.close()
        await ending
    assert sorted(message.raw for message in tray.messages) == [b"half a message\r\n", b"x\r\n"]


async def test_the_end_waits_for_deliveries_whose_peers_are_gone() -> None:
    """Where drain waits for sessions alone this fails: it is done while the message is being stored."""
    tray = Tray()
    tray.may_end.clear()
    async with listening(tray) as port:
        peer = await port.connect()
        await peer.begin_data()
        await peer.send(b"x\r\n.\r\n")
        await tray.begun.wait()
        peer.reset()
        await port.empty()
        ending = await draining(port.listener, 20)
        assert not ending.done()
        tray.may_end.set()
        await ending
        assert len(tray.messages) == 1


async def test_sessions_that_do_not_end_are_cut_off() -> None:
    async with listening(Tray()) as port:
        peer = await port.connect()
        await peer.begin_data()
        await port.listener.drain(0.05)
        assert not port.listener.sessions
        await peer.ended_somehow()


async def test_a_subclass_of_the_session_may_be_listened_with() -> None:
    class Polite(protocol.InboundSMTP):
        async def smtp_THANKS(self, arg: str | None) -> None:  # noqa: N802 - a verb
            self._say("250 2.0.0 You are welcome")

    bound = sockets.bind("127.0.0.1", 0, "a test")
    opened = await listener.open([bound], Tray(), Settings(), None, name="submission", session=Polite)
    reader, writer = await asyncio.open_connection(*bound.getsockname())
    peer = Peer(reader, writer)
    await peer.greet()
    await peer.talk(("THANKS", "250 2.0.0 You are welcome"), ("QUIT", "221"))
    writer.close()
    await opened.drain(20)


# Sockets


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
async def test_every_address_family_is_listened_to_on_the_double_colon() -> None:
    bound = sockets.bind("::", 0, "a test")
    opened = await listener.open([bound], Tray(), Settings(), None)
    for host in ("127.0.0.1", "::1"):
        reader, writer = await asyncio.open_connection(host, bound.getsockname()[1])
        await Peer(reader, writer).greet()
        assert host in {session.remote_ip for session in opened.sessions}
        writer.transport.abort()
    await opened.drain(20)
