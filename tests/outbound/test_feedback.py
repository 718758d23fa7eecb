"""News of mail that left: every piece of it at every status, early, late, repeated and out of order."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from gateway.outbound.feedback import TRANSITIONS, Feedback
from gateway.storage import callbacks, db, emails, housekeeping
from tests.outbound import posts
from tests.storage import rows

pytestmark = pytest.mark.anyio

KINDS = ("delivered", "deferred", "bounced", "failed", "complained", "opened", "clicked")

# Written out here once more, so that a mistake in the table is not repeated by its test.
MEANT = {
    "scheduled": {},
    "queued": {"delivered": "delivered", "complained": "complained"},
    "sending": {"delivered": "delivered", "complained": "complained"},
    "deferred": {"delivered": "delivered", "complained": "complained"},
    "unknown": {kind: kind for kind in ("delivered", "bounced", "failed", "complained")} | {"deferred": "unknown"},
    "sent": {kind: kind for kind in ("delivered", "bounced", "failed", "complained")} | {"deferred": "sent"},
    "delivered": {"bounced": "bounced", "complained": "complained"},
    "canceled": {"complained": "complained"},
    "suppressed": {},
    "failed": {"bounced": "bounced", "complained": "complained"},
    "bounced": {"complained": "complained"},
    "complained": {},
}
NEVER_TRIED = ("scheduled", "suppressed")


def body(kind: str, message_id: str, **changes: Any) -> bytes:
    """A callback of Postmark's with this news."""
    record = {"delivered": "Delivery", "complained": "SpamComplaint", "opened": "Open", "clicked": "Click"}
    types = {"deferred": "Transient", "failed": "SMTPApiError"}
    particular: dict[str, Any] = (
        {"ID": uuid7().int >> 66} if kind in ("deferred", "bounced", "failed", "complained") else {}
    )
    if kind in types:
        particular["Type"] = types[kind]
    return json.dumps(posts.postmark(record.get(kind, "Bounce"), message_id, **particular | changes)).encode()


class Told:
    """Which accounts were said to have grown."""

    def __init__(self) -> None:
        self.accounts: list[UUID] = []

    def __call__(self, account_ids: Iterable[UUID]) -> None:
        self.accounts += account_ids


async def handed_over(database: db.Database, account_id: UUID, status: str = "sent") -> tuple[emails.NewEmail, str]:
    """An e-mail that Postmark took, its recipient in this status since; and Postmark's id of it."""
    email, message_id = await rows.email(database, account_id), str(uuid7())
    async with database.transaction() as connection:
        handed = callbacks.Handed(
            provider="postmark",
            provider_id=message_id,
            recipient="c@d.example",
            account_id=account_id,
            delivery_id=email.deliveries[0].id,
        )
        await callbacks.note_messages(connection, [handed])
        await connection.execute("update deliveries set status = $2 where email_id = $1", email.id, status)
    return email, message_id


async def status_of(database: db.Database, account_id: UUID, email_id: UUID) -> str:
    async with database.connection() as connection:
        [found] = (await emails.recipients(connection, account_id, [email_id]))[email_id]
    return found.status


async def told_of(database: db.Database, account_id: UUID) -> list[str]:
    return [event.type for event in await rows.log_of(database, account_id)]


def test_the_table_is_what_was_meant_and_news_only_move_a_recipient_up() -> None:
    readings = {
        (status, kind): status for status in MEANT if status not in NEVER_TRIED for kind in ("opened", "clicked")
    }
    meant = {(status, kind): to for status, row in MEANT.items() for kind, to in row.items()}
    assert dict(TRANSITIONS) == meant | readings
    assert set(MEANT) == set(emails.ORDER)
    for (status, _), to in TRANSITIONS.items():
        assert emails.ORDER.index(to) >= emails.ORDER.index(status)


async def test_every_news_at_every_status(database: db.Database, account_id: UUID) -> None:
    """What changes something is told once; what changes nothing is not told, and leaves the row as it was.

    Negative control: with `bounced` among the statuses that `delivered` ends it failed, for a late `delivered` then
    made a bounced recipient delivered.
    """
    told = Told()
    feedback = Feedback(database, told=told)
    for status, kind in itertools.product(emails.ORDER, KINDS):
        email, message_id = await handed_over(database, account_id, status)
        before = await told_of(database, account_id)
        told.accounts.clear()
        await feedback.take("postmark", body(kind, message_id))
        meant = MEANT[status].get(kind)
        heard = meant is not None or (kind in ("opened", "clicked") and status not in NEVER_TRIED)
        assert await status_of(database, account_id, email.id) == (meant or status), (status, kind)
        assert (await told_of(database, account_id))[len(before) :] == [f"email.{kind}"] * heard, (status, kind)
        assert told.accounts == [account_id] * heard


async def test_in_whichever_order_news_come_the_end_is_the_same(database: db.Database, account_id: UUID) -> None:
    feedback = Feedback(database, told=Told())
    for order in itertools.permutations(("delivered", "bounced", "complained", "deferred")):
        email, message_id = await handed_over(database, account_id)
        for kind in order:
            await feedback.take("postmark", body(kind, message_id))
        assert await status_of(database, account_id, email.id) == "complained"


async def test_a_callback_that_comes_again_changes_nothing(database: db.Database, account_id: UUID) -> None:
    """Also at once, and also news that leave the status as it is.

    Negative control: without the look at `callbacks.use` it failed, with an event for each post.
    """
    feedback = Feedback(database, told=Told())
    email, message_id = await handed_over(database, account_id)
    clicked, deferred = body("clicked", message_id), body("deferred", message_id)
    before = await told_of(database, account_id)
    await asyncio.gather(*(feedback.take("postmark", given) for given in [clicked, deferred] * 5))
    await feedback.take("postmark", clicked)
    await feedback.take("postmark", deferred)
    assert sorted((await told_of(database, account_id))[len(before) :]) == ["email.clicked", "email.deferred"]
    assert await rows.count(database, "select count(*) from callbacks") == 2
    assert await status_of(database, account_id, email.id) == "sent"


async def test_a_callback_that_overtakes_the_verdict_is_applied_with_it(
    database: db.Database, account_id: UUID
) -> None:
    feedback, early = Feedback(database, told=Told()), str(uuid7())
    await feedback.take("postmark", body("delivered", early))
    email = await rows.email(database, account_id)
    async with database.transaction() as connection:
        lease_id = uuid7()
        [claimed] = await emails.claim(connection, account_id, lease_id=lease_id, lease_seconds=60, limit=1)
    now = datetime.now(UTC)
    verdict = emails.Settled(
        attempt_id=uuid7(),
        account_id=account_id,
        delivery_id=claimed.id,
        email_id=email.id,
        lease_id=claimed.lease_id,
        recipient=claimed.address,
        number=1,
        status="sent",
        again_in=None,
        provider="postmark",
        provider_id=early,
        started_at=now,
        finished_at=now,
        outcome="sent",
        code=200,
        reply="OK",
        transcript="[]",
        event=None,
    )
    async with database.transaction() as connection:
        await emails.settle(connection, [verdict])
    assert await status_of(database, account_id, email.id) == "sent"
    await feedback.catch_up("postmark", [early])
    assert await status_of(database, account_id, email.id) == "delivered"
    await feedback.catch_up("postmark", [early])
    assert (await told_of(database, account_id)).count("email.delivered") == 1


async def test_who_complained_or_does_not_exist_is_suppressed_and_nobody_else(
    database: db.Database, account_id: UUID
) -> None:
    feedback = Feedback(database, told=Told())
    for given, reason in (
        (body("complained", ""), "complaint"),
        (body("bounced", "", Details=f"smtp;{posts.GONE}"), "bounce"),
        (body("bounced", "", Details="smtp;550 5.7.1 blocked by policy"), None),
        (body("bounced", "", Details="smtp;552 5.2.2 over quota", Type="SoftBounce"), None),
        (body("delivered", ""), None),
    ):
        _, message_id = await handed_over(database, account_id)
        await feedback.take("postmark", given.replace(b'"MessageID": ""', f'"MessageID": "{message_id}"'.encode()))
        async with database.connection() as connection:
            found = await connection.fetch("delete from suppressions returning address, reason")
        assert [tuple(row) for row in found] == ([("c@d.example", reason)] if reason else [])


async def test_what_arrived_after_all_is_not_sent_again(database: db.Database, account_id: UUID) -> None:
    """Nobody has the lease of it any more, and it is never due."""
    feedback = Feedback(database, told=Told())
    for status in ("queued", "sending", "deferred"):
        email, message_id = await handed_over(database, account_id, status)
        await feedback.take("postmark", body("delivered", message_id))
        async with database.connection() as connection:
            [found] = (await emails.recipients(connection, account_id, [email.id]))[email.id]
        assert (found.status, found.due_at, found.lease_id) == ("delivered", None, None)


async def test_callbacks_are_forgotten_when_they_are_old(database: db.Database, account_id: UUID) -> None:
    feedback = Feedback(database, told=Told())
    old, new = str(uuid7()), str(uuid7())
    for message_id in (old, new):
        await feedback.take("postmark", body("delivered", message_id))
    async with database.connection() as connection:
        query = "update callbacks set received_at = received_at - interval '8 days' where provider_id = $1"
        await connection.execute(query, old)
    assert await housekeeping.forget_callbacks(database, 7 * 86_400) == 1
    async with database.connection() as connection:
        assert await callbacks.waiting(connection, "postmark", [old]) == []
        assert len(await callbacks.waiting(connection, "postmark", [new])) == 1


@pytest.mark.parametrize(
    ("name", "provider"),
    [
        ("postmark", "postmark"),
        ("mailgun:mg.example.com", "mailgun"),
        ("ses:eu-west-1", "ses"),
        ("smtp:smtp.postmarkapp.com:587", "postmark"),
        ("smtp:smtp.eu.mailgun.org:587", "mailgun"),
        ("smtps:email-smtp.eu-west-1.amazonaws.com:465", "ses"),
        ("smtp:relay.example:587", None),
        ("smtp:amazonaws.com.evil.example:25", None),
        ("local", None),
        ("", None),
    ],
)
def test_mail_is_found_again_by_who_took_it(name: str, provider: str | None) -> None:
    assert callbacks.provider_of(name) == provider
