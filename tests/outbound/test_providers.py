"""What every provider does, whichever it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest

from gateway import settings
from gateway.outbound import providers
from gateway.outbound.providers import contract, local
from tests.outbound import outgoing, sink

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both loops: their transports differ, and production runs on the second."""
    return "asyncio", {"use_uvloop": request.param}


SECRET = "open/sesame:42"
USER = "relay-user:open%2Fsesame%3A42"


class Room(Protocol):
    """A provider, and the far side of it."""

    provider: contract.Provider

    def arrived(self) -> list[bytes]:
        """What the next hop took."""

    def answer(self, reply: str) -> None:
        """Let the next hop answer the next message so."""


class SmtpRoom:
    def __init__(self, relay: sink.Sink, provider: contract.Provider) -> None:
        self.relay, self.provider = relay, provider

    def arrived(self) -> list[bytes]:
        return [message.raw for message in self.relay.messages if message.taken]

    def answer(self, reply: str) -> None:
        self.relay.next("dot", sink.reply(reply))


class LocalRoom:
    def __init__(self) -> None:
        self.provider: contract.Provider = local.LocalProvider(self._deliver)
        self._taken: list[bytes] = []
        self._answers: list[str] = []

    def arrived(self) -> list[bytes]:
        return self._taken

    def answer(self, reply: str) -> None:
        self._answers.append(reply)

    async def _deliver(self, message: contract.Outgoing) -> str:
        answer = self._answers.pop() if self._answers else "250 2.0.0 queued as L1"
        if answer.startswith("2"):
            self._taken.append(message.raw)
        return answer


class CaptureRoom:
    """Nothing is beyond it: what it took is what it said it took."""

    def __init__(self) -> None:
        self.provider: contract.Provider = self
        self.name = "capture"
        self._real = providers.from_url("capture://", settings.load())
        self._taken: list[bytes] = []

    def arrived(self) -> list[bytes]:
        return self._taken

    def answer(self, reply: str) -> None:
        pytest.fail(f"nobody there to say {reply}")

    async def send(
        self, message: contract.Outgoing, *, about_to_commit: contract.AboutToCommit | None = None
    ) -> contract.Verdict:
        verdict = await self._real.send(message, about_to_commit=about_to_commit)
        self._taken.append(message.raw)
        return verdict

    async def close(self) -> None:
        await self._real.close()


SMTP = ("smtp", "smtp with AUTH", "smtp with STARTTLS and AUTH", "smtps")
WITH_PEER = (*SMTP, "local")


async def _smtp(kind: str, folder: Path) -> AsyncIterator[Room]:
    encrypted = kind in {"smtp with STARTTLS and AUTH", "smtps"}
    authenticated = "AUTH" in kind
    relay = sink.Sink(
        tls=sink.server_tls(folder) if encrypted else None,
        implicit=kind == "smtps",
        credentials=("relay-user", SECRET) if authenticated else None,
    )
    options = "verify=0" if encrypted else "tls=none"
    async with relay:
        provider = providers.from_url(relay.url(options, USER if authenticated else ""), settings.load())
        yield SmtpRoom(relay, provider)
        await provider.close()


@pytest.fixture(params=[*SMTP, "local", "capture"])
async def room(request: pytest.FixtureRequest, tmp_path: Path, anyio_backend: object) -> AsyncIterator[Room]:
    if request.param in SMTP:
        async for smtp_room in _smtp(request.param, tmp_path):
            yield smtp_room
    elif request.param == "local":
        yield LocalRoom()
    else:
        yield CaptureRoom()


with_peer = pytest.mark.parametrize("room", WITH_PEER, indirect=True)
GOOD = {"sent", "delivered"}


async def test_a_message_is_taken_once_and_byte_for_byte(room: Room) -> None:
    message = outgoing.message(b".\r\n..\r\n.hidden\r\n\r\n" + b"x" * 2000 + b"\r\n\xff\xfe\r\n.\r\n")
    verdict = await room.provider.send(message)
    assert verdict.outcome in GOOD
    assert room.arrived() == [message.raw]


async def test_a_verdict_tells_the_reply_and_the_time(room: Room) -> None:
    verdict = await room.provider.send(outgoing.message())
    assert verdict.code == 250
    assert verdict.reply.startswith("250 ")
    assert "\n" not in verdict.reply
    assert verdict.started_at <= verdict.finished_at
    assert verdict.started_at.utcoffset() is not None


async def test_the_message_is_not_in_the_transcript(room: Room) -> None:
    verdict = await room.provider.send(outgoing.message(b"a private matter\r\n"))
    assert "private" not in repr(verdict)


async def test_about_to_commit_is_awaited_once_before_anything_is_handed_over(room: Room) -> None:
    """Broken on purpose: with DATA sent before `about_to_commit` in smtp.py, the SMTP rooms failed here."""
    seen: list[list[bytes]] = []

    async def about_to_commit() -> None:
        if isinstance(room, SmtpRoom):
            assert room.relay.lines("RCPT")
            assert not room.relay.lines("DATA")
        seen.append(list(room.arrived()))

    verdict = await room.provider.send(outgoing.message(), about_to_commit=about_to_commit)
    assert verdict.outcome in GOOD
    assert seen == [[]]


async def test_nothing_is_handed_over_when_about_to_commit_raises(room: Room) -> None:
    async def lease_lost() -> None:
        raise TimeoutError("another worker has it")

    with pytest.raises(TimeoutError, match="another worker"):
        await room.provider.send(outgoing.message(), about_to_commit=lease_lost)
    assert room.arrived() == []
    assert (await room.provider.send(outgoing.message())).outcome in GOOD


async def test_a_cancelled_send_leaves_the_provider_usable(room: Room) -> None:
    reached = asyncio.Event()

    async def held() -> None:
        reached.set()
        await asyncio.Event().wait()

    sending = asyncio.create_task(room.provider.send(outgoing.message(), about_to_commit=held))
    await reached.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert room.arrived() == []
    assert (await room.provider.send(outgoing.message())).outcome in GOOD


async def test_many_at_once_arrive_once_each(room: Room) -> None:
    messages = [outgoing.message(b"%d\r\n" % n) for n in range(120)]
    verdicts = await asyncio.gather(*map(room.provider.send, messages))
    assert {verdict.outcome for verdict in verdicts} <= GOOD
    assert sorted(room.arrived()) == sorted(message.raw for message in messages)


@with_peer
async def test_4xx_defers_and_5xx_bounces_and_the_next_message_goes(room: Room) -> None:
    room.answer("451 4.3.0 try again in 90 seconds")
    deferred = await room.provider.send(outgoing.message())
    room.answer("550 5.7.1 content refused")
    bounced = await room.provider.send(outgoing.message())
    assert (deferred.outcome, deferred.code, deferred.enhanced) == ("deferred", 451, "4.3.0")
    assert deferred.retry_after == 90
    assert (bounced.outcome, bounced.code, bounced.enhanced) == ("bounced", 550, "5.7.1")
    assert room.arrived() == []
    assert (await room.provider.send(outgoing.message())).outcome in GOOD


@with_peer
async def test_the_peers_id_of_the_message_is_kept(room: Room) -> None:
    room.answer("250 2.0.0 Ok: queued as 4bXyZ1")
    assert (await room.provider.send(outgoing.message())).provider_id == "4bXyZ1"


async def test_no_credentials_are_shown(room: Room) -> None:
    """Broken on purpose: without the replacing in `_Attempt._shown` the rooms with AUTH failed here."""
    if isinstance(room, SmtpRoom):
        room.relay.next("mail", sink.reply(f"250 2.1.0 hello {SECRET}"))
        room.answer(f"250 2.0.0 thanks for the password {SECRET}")
    verdict = await room.provider.send(outgoing.message())
    shown = repr(verdict) + room.provider.name + repr(room.provider)
    if isinstance(room, SmtpRoom) and room.relay.credentials is None:
        return  # then it is no secret
    assert SECRET not in shown
    assert "relay-user" not in shown


async def test_a_provider_can_be_closed_twice(room: Room) -> None:
    await room.provider.send(outgoing.message())
    await room.provider.close()
    await room.provider.close()
