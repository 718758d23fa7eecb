"""What becomes of a recipient: relays that put off, refuse, or hang up, and what is written down about it."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from tests import sending
from tests.outbound import sink

pytestmark = pytest.mark.anyio


async def _events(client: httpx2.AsyncClient, email_id: str) -> list[str]:
    return [event["type"] for event in await sending.timeline(client, email_id)]


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "dot"])
async def test_a_relay_that_says_451_gets_the_mail_again(
    sender: httpx2.AsyncClient, relay: sink.Sink, stage: sink.Stage
) -> None:
    relay.next(stage, sink.reply("451 4.3.0 not now"))
    email_id = await sending.send(sender)
    shown = await sending.resting(sender, email_id)
    assert shown["status"] == "sent"
    assert shown["recipients"][0]["attempts"] == 2
    assert await _events(sender, email_id) == ["email.queued", "email.deferred", "email.sent"]
    made = await sending.attempts(sender, email_id)
    assert [(one["number"], one["outcome"], one["code"]) for one in made] == [(1, "deferred", 451), (2, "sent", 250)]
    assert made[0]["reply"] == "451 4.3.0 not now"
    assert relay.taken == {(shown["message_id"], "user@recipient.example"): 1}


async def test_a_deferred_recipient_says_when_it_is_tried_again(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    relay.always("rcpt", sink.reply("450 4.2.1 greylisted"))
    email_id = await sending.send(sender)
    deferred = await sending.resting(sender, email_id, at={"deferred"})
    assert deferred["status"] == "deferred"
    assert deferred["recipients"][0]["next_attempt_at"] > deferred["created_at"]
    assert deferred["recipients"][0]["reply"] == "450 4.2.1 greylisted"
    relay.always("rcpt", None)
    assert (await sending.resting(sender, email_id))["status"] == "sent"


async def test_a_recipient_that_is_refused_bounces_alone(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    relay.next("rcpt", sink.reply("550 5.1.1 no such user"))
    email_id = await sending.send(sender, to=["one@recipient.example", "two@recipient.example"])
    shown = await sending.resting(sender, email_id)
    assert sorted(recipient["status"] for recipient in shown["recipients"]) == ["bounced", "sent"]
    assert shown["status"] == "bounced"
    bounced = next(one for one in shown["recipients"] if one["status"] == "bounced")
    assert (bounced["attempts"], bounced["reply"]) == (1, "550 5.1.1 no such user")
    events = await sending.timeline(sender, email_id)
    assert sorted(event["type"] for event in events) == ["email.bounced", "email.queued", "email.sent"]
    told = next(event for event in events if event["type"] == "email.bounced")
    assert told["data"]["recipient"] == bounced["address"]
    assert relay.count == 1
    assert bounced["address"] not in {recipient for _, recipient in relay.taken}


async def test_a_line_that_breaks_after_the_dot_is_tried_again_under_the_same_message_id(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    relay.next("dot", sink.cut())
    email_id = await sending.send(sender, on_unknown="retry")
    shown = await sending.resting(sender, email_id)
    assert shown["status"] == "sent"
    assert [message.message_id for message in relay.messages] == [shown["message_id"]] * 2
    assert len({message.raw for message in relay.messages}) == 1
    assert [one["outcome"] for one in await sending.attempts(sender, email_id)] == ["unknown", "sent"]
    assert await _events(sender, email_id) == ["email.queued", "email.deferred", "email.sent"]


async def test_a_held_email_is_sent_twice_only_when_its_sender_says_so(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """With `hold` no longer told apart in Carrier._fate, the e-mail came to rest as `sent`, not `unknown`."""
    relay.next("dot", sink.cut(reset=True))
    email_id = await sending.send(sender, on_unknown="hold")
    held = await sending.resting(sender, email_id)
    assert (held["status"], held["last_event"]) == ("unknown", "unknown")
    assert held["recipients"][0]["next_attempt_at"] is None
    assert await _events(sender, email_id) == ["email.queued", "email.unknown"]
    for _ in range(3):  # others come and go, and the sweeper with them
        await sending.resting(sender, await sending.send(sender))
    assert [message.message_id for message in relay.messages].count(held["message_id"]) == 1
    answer = await sender.post(f"/emails/{email_id}/retry")
    assert (answer.status_code, answer.json()) == (200, {"object": "email", "id": email_id})
    again = await sending.resting(sender, email_id, at=sending.FINAL)
    assert again["status"] == "sent"
    assert [message.message_id for message in relay.messages].count(held["message_id"]) == 2
    assert await _events(sender, email_id) == ["email.queued", "email.unknown", "email.queued", "email.sent"]


async def test_a_held_email_that_did_not_reach_the_dot_is_tried_again(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    relay.next("data", sink.cut())
    email_id = await sending.send(sender, on_unknown="hold")
    shown = await sending.resting(sender, email_id)
    assert shown["status"] == "sent"
    assert relay.count == 1


async def test_a_held_email_can_be_canceled(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    relay.next("dot", sink.cut())
    email_id = await sending.send(sender, on_unknown="hold")
    await sending.resting(sender, email_id)
    assert (await sender.post(f"/emails/{email_id}/cancel")).status_code == 200
    assert (await sending.read(sender, email_id))["status"] == "canceled"
    assert (await sender.post(f"/emails/{email_id}/retry")).json()["name"] == "invalid_state"


async def test_a_bounced_email_is_sent_on_retry_to_whom_it_bounced(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    relay.next("rcpt", sink.reply("550 5.7.1 not from you"))
    email_id = await sending.send(sender, to=["one@recipient.example", "two@recipient.example"])
    await sending.resting(sender, email_id)
    assert (await sender.post(f"/emails/{email_id}/retry")).status_code == 200
    shown = await sending.resting(sender, email_id)
    assert shown["status"] == "sent"
    assert sorted(count for count in relay.taken.values()) == [1, 1]
    assert sorted(recipient["attempts"] for recipient in shown["recipients"]) == [1, 2]
    answer = await sender.post(f"/emails/{email_id}/retry")
    assert (answer.status_code, answer.json()["name"]) == (409, "invalid_state")


async def test_an_email_that_cannot_be_sent_in_time_fails(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    relay.always("rcpt", sink.reply("451 4.7.1 never"))
    email_id = await sending.send(sender, expires_in=1)
    shown = await sending.resting(sender, email_id)
    assert shown["status"] == "failed"
    assert (await _events(sender, email_id))[-1] == "email.failed"
    assert relay.count == 0


async def test_a_transcript_is_the_dialogue_without_the_message(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    relay.next("dot", sink.reply("554 5.6.0 odd content\nsecond line"))
    email_id = await sending.send(sender, text="words that stay between us")
    assert (await sending.resting(sender, email_id))["status"] == "bounced"
    (made,) = await sending.attempts(sender, email_id)
    told = "\n".join(made["transcript"])
    for piece in ("220 ", "EHLO ", "MAIL FROM:<app@sender.example>", "RCPT TO:<user@recipient.example>", "354", "554"):
        assert piece in told
    assert "words that stay" not in told
    assert made["recipient"] == "user@recipient.example"
    assert made["started_at"] <= made["finished_at"]
    assert made["is_stale"] is False


async def test_while_the_relay_thinks_the_email_is_sending_and_cannot_be_canceled(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    thought = asyncio.Event()
    relay.next("dot", sink.late(thought))
    email_id = await sending.send(sender)
    await relay.until(lambda: relay.count == 1)
    assert (await sending.read(sender, email_id))["status"] == "sending"
    for action in ("cancel", "retry"):
        answer = await sender.post(f"/emails/{email_id}/{action}")
        assert (answer.status_code, answer.json()["name"]) == (409, "invalid_state")
    thought.set()
    assert (await sending.resting(sender, email_id))["status"] == "sent"
