"""Postgres falls silent, or a worker is gone for good: how long it takes until everybody knows."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests import house, sending
from tests.faults import strain, wire
from tests.flows import letters
from tests.outbound import sink

pytestmark = [pytest.mark.anyio, pytest.mark.faults]

SMTP_SECONDS = 60.0  # a reply comes within; the first clients give up after so much
HTTP_SECONDS = 30.0  # when Heroku's router hangs up
STUCK_SECONDS = 30.0


async def _timed(work: object) -> tuple[object, float]:
    began = time.monotonic()
    return await work, time.monotonic() - began  # type: ignore[misc] # a coroutine of whatever


async def test_while_nothing_comes_back_from_postgres_everybody_is_answered_in_bounded_time(
    dsn: str, redis_url: str
) -> None:
    """In the middle of the work, and of a COMMIT; packets vanish, nothing breaks. Afterwards it goes on by itself."""
    async with wire.laid(dsn) as line:
        settings = {"DATABASE_URL": line.dsn}
        async with (
            house.standing(dsn, redis_url, settings=settings) as home,
            home.client((await home.tenant()).key) as client,
        ):
            box = await letters.mailbox(client)
            line.judge = wire.once("silent", "insert into emails")
            answer, commit = await _timed(client.post("/emails", json=sending.letter(), timeout=90))
            assert answer.status_code == 202  # type: ignore[attr-defined] # it was carried out, and was found
            line.silence()
            work = [letters.sent(home, letters.letter(), box["address"]) for _ in range(12)]
            asked = [client.get("/mailboxes", timeout=90) for _ in range(12)]
            asked += [client.post("/emails", json=sending.letter(), timeout=90) for _ in range(12)]
            heard = await asyncio.gather(*map(_timed, [*work, *asked]))
            line.speak()
            assert await letters.sent(home, letters.letter(), box["address"]) == "250"
            assert (await client.post("/emails", json=sending.letter())).status_code == 202
    smtp, http = heard[: len(work)], heard[len(work) :]
    assert {str(reply)[:9] for reply, _ in smtp} == {"451 4.3.0"}
    assert {answer.status_code for answer, _ in http} == {503}  # type: ignore[attr-defined] # Responses
    slowest = [max(seconds for _, seconds in some) for some in (smtp, http)]
    strain.figure(
        f"silent COMMIT: 202 after {commit:.1f} s; SMTP 451 after {slowest[0]:.1f} s, 503 after {slowest[1]:.1f} s"
    )
    assert slowest[0] < SMTP_SECONDS
    assert max(commit, slowest[1]) < HTTP_SECONDS


async def test_what_a_killed_worker_had_in_hand_is_sent_by_another_with_the_settings_that_everybody_has(
    dsn: str, redis_url: str
) -> None:
    async with (
        sink.Sink() as relay,
        house.standing(dsn, redis_url, settings={"OUTBOUND": relay.url("tls=none")}) as home,
        home.client((await home.tenant()).key) as client,
    ):
        relay.next("dot", sink.stall())
        email_id = await sending.send(client)
        await relay.until(lambda: len(relay.lines("DATA")) == 1)
        home.kill("worker")
        began = time.monotonic()
        home.start("worker-2")
        await sending.resting(client, email_id)
        seconds = time.monotonic() - began
    strain.figure(f"sent by another worker {seconds:.1f} s after kill -9")
    assert seconds < STUCK_SECONDS
