"""Reports that come by mail: what they mean for a recipient, kept once, applied once, forgotten in time."""

from __future__ import annotations

import asyncio
import itertools
from uuid import UUID

import pytest

from gateway.inbound import placing, returned
from gateway.mail import dsn
from gateway.outbound import reports
from gateway.outbound.feedback import REPORTS_AT_ONCE, Feedback
from gateway.storage import callbacks, db, emails, housekeeping
from tests.outbound import bounces
from tests.storage import rows

pytestmark = pytest.mark.anyio

OURS = "user@recipient.example"


def fate(action: dsn.Action, recipient: str = OURS, diagnostic: str = bounces.GONE, status: str = "5.1.1") -> dsn.Fate:
    return dsn.Fate(recipient=recipient, action=action, status=status, diagnostic=diagnostic)


def kinds(*fates: dsn.Fate) -> list[str]:
    return [news.kind for news in reports.news(dsn.Report(kind="report", fates=fates), OURS, "id")]


@pytest.mark.parametrize(
    ("action", "meant"),
    [
        *(("failed", ["bounced"]), ("delayed", ["deferred"]), ("delivered", ["delivered"])),
        *(("relayed", []), ("expanded", [])),
    ],
)
def test_what_each_action_means(action: dsn.Action, meant: list[str]) -> None:
    assert kinds(fate(action)) == meant


def test_who_is_named_counts_alone_and_else_the_best_fate() -> None:
    other = "other@elsewhere.example"
    for order in itertools.permutations([fate("failed", OURS.upper()), fate("delivered", other)]):
        assert kinds(*order) == ["bounced"]
    for order in itertools.permutations([fate("failed", other), fate("delivered", "x@y.example")]):
        assert kinds(*order) == ["delivered"]
    for order in itertools.permutations([fate("failed", other), fate("expanded", "x@y.example")]):
        assert kinds(*order) == []
    assert kinds() == []


def test_of_failures_one_that_does_not_suppress_counts() -> None:
    full = fate("failed", "b@y.example", "552 5.2.2 Mailbox full", "5.2.2")
    for order in itertools.permutations([fate("failed", "a@y.example"), full]):
        [news] = reports.news(dsn.Report(kind="report", fates=order), OURS, "id")
        assert news.reply == "552 5.2.2 Mailbox full"


@pytest.mark.parametrize(
    ("feedback", "complains"),
    [("abuse", True), ("fraud", True), ("x-new", True), ("not-spam", False), ("auth-failure", False)],
)
def test_what_is_a_complaint(feedback: str, complains: bool) -> None:
    found = reports.news(dsn.Report(kind="complaint", feedback=feedback), OURS, "id")
    assert [news.kind for news in found] == ["complained"] * complains


# Kept and applied


async def kept(database: db.Database, email: emails.NewEmail, *raws: bytes) -> None:
    """Mail that came to the return path of the e-mail's recipient."""
    desk = returned.Returned(database, bounces.PATHS)
    path = placing.recipient(bounces.PATHS.address(email.deliveries[0].id), "postroom.test")
    assert path is not None
    for raw in raws:
        await desk.keep([path], raw)


async def status_of(database: db.Database, account_id: UUID, email: emails.NewEmail) -> str:
    async with database.connection() as connection:
        [found] = (await emails.recipients(connection, account_id, [email.id]))[email.id]
    return found.status


async def told_of(database: db.Database, account_id: UUID) -> list[str]:
    return [event.type for event in await rows.log_of(database, account_id)]


def feedback_of(database: db.Database) -> Feedback:
    return Feedback(database, told=lambda _: None)


DELAYED = bounces.report(OURS, action="delayed", status="4.4.1", said="451 4.4.1 later")
DELIVERED = bounces.report(OURS, action="delivered", status="2.0.0", said="250 2.0.0 in the box")
FAILED = bounces.report(OURS)


async def test_in_whichever_order_reports_come_and_whoever_applies_them_the_end_is_the_same(
    database: db.Database, account_id: UUID
) -> None:
    """Each of four at once, twice.

    Negative control: without the look at `callbacks.use` it failed, with an event for each of those who looked.
    """
    for order in itertools.permutations([DELIVERED, FAILED, bounces.complaint(), DELAYED]):
        email = await rows.email(database, account_id)
        await rows.handed_over(database, account_id, email)
        before = len(await told_of(database, account_id))
        await kept(database, email, *order, *order)
        await asyncio.gather(*(feedback_of(database).apply_reports() for _ in range(4)))
        await feedback_of(database).apply_reports()
        told = (await told_of(database, account_id))[before:]
        assert await status_of(database, account_id, email) == "complained"
        assert len(told) == len(set(told))


async def test_a_report_waits_while_its_recipient_is_being_written_to(database: db.Database, account_id: UUID) -> None:
    """It may be about this very attempt, whose verdict is not written yet; an earlier one had been handed over, too.

    Negative control: with the look at the status left out it failed: the bounce was used, and meant nothing then.
    """
    email = await rows.email(database, account_id)
    await rows.handed_over(database, account_id, email, "sending")
    await kept(database, email, FAILED)
    await feedback_of(database).apply_reports()
    assert await status_of(database, account_id, email) == "sending"
    await rows.handed_over(database, account_id, email, "sent")
    await feedback_of(database).apply_reports()
    assert await status_of(database, account_id, email) == "bounced"


async def test_reports_that_wait_hold_up_no_others(database: db.Database, account_id: UUID) -> None:
    """Negative control: with every look beginning at the oldest it never ended."""
    for _ in range(2 * REPORTS_AT_ONCE):
        waiting = await rows.email(database, account_id)
        await rows.handed_over(database, account_id, waiting, "sending")
        await kept(database, waiting, FAILED)
    email = await rows.email(database, account_id)
    await rows.handed_over(database, account_id, email)
    await kept(database, email, FAILED)
    await feedback_of(database).apply_reports()
    assert await status_of(database, account_id, email) == "bounced"
    assert (await told_of(database, account_id)).count("email.bounced") == 1


async def test_a_bounce_of_mail_that_waits_for_another_attempt_does_not_end_it(
    database: db.Database, account_id: UUID
) -> None:
    email = await rows.email(database, account_id)
    await rows.handed_over(database, account_id, email, "deferred")
    await kept(database, email, FAILED)
    await feedback_of(database).apply_reports()
    assert await status_of(database, account_id, email) == "deferred"


async def test_what_comes_after_it_is_forgotten_whose_mail_it_was_changes_nothing(
    database: db.Database, account_id: UUID
) -> None:
    """It is kept, and at last looked at no more."""
    old, new = await rows.email(database, account_id), await rows.email(database, account_id)
    for email in (old, new):
        await rows.handed_over(database, account_id, email)
    async with database.connection() as connection:
        query = "update provider_messages set created_at = created_at - interval '31 days' where delivery_id = $1"
        await connection.execute(query, old.deliveries[0].id)
    assert await housekeeping.forget_handed_over(database, 30 * 86_400) == 1
    for email in (old, new):
        await kept(database, email, FAILED)
    assert await housekeeping.abandon_reports(database, 3600) == 0  # not so soon
    await rows.count(database, "update callbacks set received_at = received_at - interval '2 hours' returning 1")
    assert await housekeeping.abandon_reports(database, 3600) == 1  # and not what can still be applied
    await feedback_of(database).apply_reports()
    assert [await status_of(database, account_id, email) for email in (old, new)] == ["sent", "bounced"]
    async with database.connection() as connection:
        assert len(await callbacks.reports(connection, [old.deliveries[0].id])) == 1


async def test_a_report_longer_than_is_read_is_kept_as_far_as_it_is_read(
    database: db.Database, account_id: UUID
) -> None:
    email = await rows.email(database, account_id)
    await rows.handed_over(database, account_id, email)
    await kept(database, email, FAILED + b"x" * (2 * returned.MAX_KEPT))
    async with database.connection() as connection:
        [found] = await callbacks.reports(connection, [email.deliveries[0].id])
    assert found.size == returned.MAX_KEPT
    await feedback_of(database).apply_reports()
    assert await status_of(database, account_id, email) == "bounced"
