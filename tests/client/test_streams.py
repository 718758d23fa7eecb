"""Streams that resume, through both clients, over the running house."""

from __future__ import annotations

import asyncio

import pytest

from gateway.client import AsyncPostroom, CursorExpired, NotFound, Postroom
from tests import house
from tests.client.conftest import Deliver


def test_a_stream_begins_when_it_is_made(postroom: Postroom, deliver: Deliver) -> None:
    postroom.mailbox()
    with postroom.events(types=["mailbox.created", "message.received"]) as events:
        inbox = postroom.mailbox(metadata={"a": 1})
        deliver(inbox.address, "Hello")
        created, received = next(events), next(events)
        assert (created.type, created.mailbox_id) == ("mailbox.created", inbox.id)
        assert (received.type, received.data["subject"]) == ("message.received", "Hello")
        assert events.cursor == received.cursor
    with postroom.events(created.cursor) as events:
        assert next(events).id == received.id
    with inbox.events(types=["message.received"]) as events:
        assert next(events).id == received.id


def test_a_cursor_that_the_log_does_not_reach_is_an_error_with_its_bounds(postroom: Postroom) -> None:
    postroom.mailbox()
    with pytest.raises(CursorExpired, match="the log reaches from") as caught, postroom.events("9000") as events:
        next(events)
    assert caught.value.oldest is not None
    assert caught.value.newest is not None
    assert int(caught.value.oldest) <= int(caught.value.newest) < 9000


@pytest.mark.anyio
async def test_the_asynchronous_client_does_the_same(
    shared_house: house.House, tenant: house.Tenant, deliver: Deliver
) -> None:
    async with AsyncPostroom(shared_house.url, tenant.key) as postroom:
        async with postroom.mailbox(ttl=600) as inbox, postroom.events(types=["email.queued"]) as events:
            waiting = asyncio.create_task(inbox.wait(code=True, timeout=30))
            await asyncio.to_thread(deliver, inbox.address, "Your code", "Your verification code is 482913.")
            assert (await waiting).code == "482913"
            sent = await postroom.send(
                from_="shop@postroom.test", to=inbox.address, subject="Your verification code is 771204", text="…"
            )
            assert (await anext(events)).email_id == sent.id
            assert (await sent.wait("delivered")).recipients[0].status == "delivered"
            assert (await inbox.wait()).code == "771204"
            assert [one.subject async for one in inbox.messages()][1] == "Your code"
            await inbox.expect_no_mail(0)
        with pytest.raises(NotFound):
            await postroom.mailboxes.get(inbox.id)
        assert (await postroom.mailbox(ttl=600)).status == "active"
