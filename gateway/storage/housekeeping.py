"""What the clock does: mailboxes expire, delays are told, what is over is removed, what is old is forgotten.

SQL only, in bounded slices, each its own transaction, so that no live mail waits long behind any of it. Every function
may run twice at once or die at any point: whatever is left is found again the next time.

    expire      marks mailboxes whose time is up, with their events; bookkeeping, for no mail depends on it
    tell_late   tells of recipients that wait for long, once
    reclaim     removes the rows of mailboxes that were deleted or expired longer than the retention ago
    empty_void  removes mail that was dropped
    tidy        disables webhooks whose mailbox is gone, and removes those that were deleted
    forget      removes old keys, callbacks, reports, suppressions, attempts, e-mails, statistics and beginnings of logs
    close       removes accounts that were deleted
    abandon     gives up reports of mail that nobody knows of
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import prometheus_client
import structlog

from gateway.storage import (
    accounts,
    callbacks,
    closing,
    db,
    emails,
    events,
    idempotency,
    judgements,
    mailboxes,
    messages,
    old_emails,
    period,
    statistics,
    suppressions,
    webhooks,
)

log = structlog.get_logger(__name__)

# what: "mailbox" (expired), "late" (recipients told of), "reclaimed" (mailboxes), "message", "void", "event",
# "account" (rows of deleted ones), "api_key" (revoked), "callback", "handed_over", "idempotency_key", "suppression",
# "email", "attempt", "statistics", "webhook_delivery"
SWEPT = prometheus_client.Counter("postroom_swept_rows", "Rows that housekeeping changed or removed", ["what"])

EXPIRE_SLICE: Final = 2000  # mailboxes of one statement
RECLAIM_SLICE: Final = 500  # messages of one statement; each may be megabytes
LATE_SLICE: Final = 1000  # recipients told of in one look
EMAIL_SLICE: Final = 200  # e-mails of one transaction
EMAIL_BYTES: Final = 134_217_728  # of those together: no statement may take as long as one of all of the largest would
FORGET_SLICE: Final = 2000  # events, keys, attempts
ACCOUNTS: Final = 2000  # rows looked at to find accounts with work
DELETED_SECONDS: Final = 86_400.0  # how long a deleted webhook's row lies, longer than any transaction that knew it
VOID_SECONDS: Final = 600  # how long dropped mail lies


Forget = Callable[[db.Connection, datetime, int], Awaitable[int]]  # before, slice -> rows removed
Slice = Callable[[db.Connection, UUID, UUID], Awaitable[tuple[int, UUID | None]]]  # account, after -> removed, last


async def expire(database: db.Database) -> AsyncIterator[UUID]:
    """Mark what has expired, slice by slice; yields the accounts whose logs grew."""
    while True:
        async with database.connection() as connection:
            due = await mailboxes.due_accounts(connection, ACCOUNTS)
        marked = 0
        for account_id in due:
            async for count in _expire_account(database, account_id):
                marked += count
                yield account_id
        if not marked:
            return


async def _expire_account(database: db.Database, account_id: UUID) -> AsyncIterator[int]:
    while True:
        async with database.transaction() as connection:
            count = await mailboxes.expire(connection, account_id, EXPIRE_SLICE)
        if not count:
            return
        SWEPT.labels("mailbox").inc(count)
        yield count


async def tell_late(database: db.Database, seconds: float) -> AsyncIterator[UUID]:
    """Tell of recipients that wait for more than so many seconds; yields the accounts whose logs grew."""
    while True:
        async with database.connection() as connection:
            late = await emails.late(connection, seconds, LATE_SLICE)
        told = 0
        for account_id in sorted(late):
            async with database.transaction() as connection:
                count = await emails.tell_late(connection, account_id, late[account_id], seconds)
            if count:
                told += count
                yield account_id
        SWEPT.labels("late").inc(told)
        if not told:
            return


async def reclaim(
    database: db.Database, retention: float, *, told: Callable[[int, int], None] = lambda mailboxes, messages: None
) -> int:
    """Remove what deleted and long expired mailboxes leave behind; how many mailboxes. `told` hears of each slice: so
    many mailboxes and messages went."""
    removed = 0
    while True:
        async with database.connection() as connection:
            gone = await mailboxes.gone(connection, retention, ACCOUNTS)
        for mailbox in gone:
            async for count in _empty(database, mailbox.account_id, mailbox.id):
                told(0, count)
            async with database.transaction() as connection:
                await judgements.forget_mailbox(connection, mailbox.account_id, mailbox.id)
                await mailboxes.remove(connection, mailbox)
            told(1, 0)
        removed += len(gone)
        SWEPT.labels("reclaimed").inc(len(gone))
        if len(gone) < ACCOUNTS:
            return removed


async def _empty(database: db.Database, account_id: UUID, mailbox_id: UUID) -> AsyncIterator[int]:
    while True:
        async with database.transaction() as connection:
            ids, is_last = await messages.slice_of(connection, account_id, mailbox_id, RECLAIM_SLICE)
            await messages.reclaim(connection, account_id, ids)
        SWEPT.labels("message").inc(len(ids))
        yield len(ids)
        if is_last:
            return


async def empty_void(database: db.Database) -> int:
    """Remove dropped mail that has lain for VOID_SECONDS, and its events; how many messages."""
    before = await _ago(database, VOID_SECONDS)
    removed = 0
    async with database.connection() as connection:
        voids = await accounts.voids(connection)
    for account_id in voids:
        while True:
            async with database.transaction() as connection:
                ids = await messages.old_in_void(connection, account_id, before, RECLAIM_SLICE)
                await messages.remove(connection, account_id, ids)
                await events.forget(connection, account_id, before, RECLAIM_SLICE)
            removed += len(ids)
            if len(ids) < RECLAIM_SLICE:
                break
    SWEPT.labels("void").inc(removed)
    return removed


async def forget_events(database: db.Database, retention: float) -> int:
    """Shorten logs that begin more than `retention` seconds ago; how many events went."""
    before = await _ago(database, retention)
    removed, last = 0, UUID(int=0)
    while True:
        async with database.connection() as connection:
            aged = await events.aged_accounts(connection, before, after_id=last, limit=ACCOUNTS)
        for account_id in aged:
            removed += await _forget_account(database, account_id, before)
        if len(aged) < ACCOUNTS:
            SWEPT.labels("event").inc(removed)
            return removed
        last = aged[-1]


async def _forget_account(database: db.Database, account_id: UUID, before: datetime) -> int:
    removed = 0
    while True:
        async with database.transaction() as connection:
            count = await events.forget(connection, account_id, before, FORGET_SLICE)
        removed += count
        if count < FORGET_SLICE:
            return removed


async def forget_callbacks(database: db.Database, retention: float) -> int:
    """Remove what was told of mail more than `retention` seconds ago; how many."""
    return await _forget(database, callbacks.forget, retention, what="callback")


async def forget_handed_over(database: db.Database, retention: float) -> int:
    """Forget whose mail it was that was handed over more than `retention` seconds ago: what is told of it from here on
    is kept and changes nothing; how many."""
    return await _forget(database, callbacks.forget_messages, retention, what="handed_over")


async def abandon_reports(database: db.Database, seconds: float) -> int:
    """Look no more at reports that came more than `seconds` ago and are about mail that nobody knows; how many."""
    before = await _ago(database, seconds)
    async with database.transaction() as connection:
        return await callbacks.abandon(connection, before)


async def forget_keys(database: db.Database, seconds: float) -> int:
    """Remove idempotency keys older than `seconds`; how many."""
    return await _forget(database, idempotency.forget, seconds, what="idempotency_key")


async def forget_revoked(database: db.Database, seconds: float) -> int:
    """Remove API keys that were revoked more than `seconds` ago; how many."""
    return await _forget(database, accounts.forget_keys, seconds, what="api_key")


async def close_accounts(database: db.Database, grace: float = closing.GRACE_SECONDS) -> int:
    """Remove what accounts have that were deleted more than `grace` seconds ago, and in a later round, when nothing was
    left, themselves; how many rows there were."""
    async with database.connection() as connection:
        due = await closing.due(connection, ACCOUNTS, grace)
    removed = 0
    for account_id in due:
        async with database.connection() as connection:
            if await closing.is_in_hand(connection, account_id):
                continue
        count = await closing.empty(database, account_id)
        if not count:
            await closing.remove(database, account_id)
            log.info("account removed", account_id=str(account_id))
        removed += count
    SWEPT.labels("account").inc(removed)
    return removed


async def forget_suppressions(database: db.Database) -> int:
    """Remove suppressions whose time is over; how many. They did not count any more."""
    return await _forget(database, suppressions.forget, 0, what="suppression")


async def forget_statistics(database: db.Database, retention: float) -> int:
    """Remove statistics of hours that began more than `retention` seconds ago; how many rows."""
    removed = await _forget(database, statistics.forget, retention, what="statistics")
    return removed + await _forget(database, statistics.forget_arrivals, retention, what="statistics")


async def _ago(database: db.Database, seconds: float) -> datetime:
    """So long ago by the database's clock: this machine's may be wrong, and what is removed does not come back."""
    async with database.connection() as connection:
        now: datetime = await db.sql.now.value(connection)
    return now - timedelta(seconds=seconds)


async def _forget(database: db.Database, forget: Forget, seconds: float, *, what: str) -> int:
    """Slice by slice, until nothing is left that is older than so many seconds."""
    before = await _ago(database, seconds)
    removed = 0
    while True:
        async with database.connection() as connection:
            count = await forget(connection, before, FORGET_SLICE)
        removed += count
        if not count:
            SWEPT.labels(what).inc(removed)
            return removed


async def forget_emails(database: db.Database, seconds: float) -> int:
    """Remove e-mails that came to their end more than `seconds` ago, whole; how many."""
    until, removed = old_emails.until(await _ago(database, seconds)), 0

    async def slice_of(connection: db.Connection, account_id: UUID, after: UUID) -> tuple[int, UUID | None]:
        return await old_emails.remove(
            connection,
            account_id,
            after=after,
            until=until,
            seconds=seconds,
            limit=EMAIL_SLICE,
            most_bytes=EMAIL_BYTES,
        )

    async for account_id in _each(database, functools.partial(old_emails.accounts_with_emails, until=until)):
        removed += await _walk(database, account_id, slice_of)
    SWEPT.labels("email").inc(removed)
    return removed


async def forget_attempts(database: db.Database, seconds: float) -> int:
    """Remove attempts, dialogues and all, that were made more than `seconds` ago; how many."""
    until, removed = period.first_id(await _ago(database, seconds)), 0

    async def slice_of(connection: db.Connection, account_id: UUID, after: UUID) -> tuple[int, UUID | None]:
        return await old_emails.remove_attempts(connection, account_id, after=after, until=until, limit=FORGET_SLICE)

    async for account_id in _each(database, functools.partial(old_emails.accounts_with_attempts, until=until)):
        removed += await _walk(database, account_id, slice_of)
    SWEPT.labels("attempt").inc(removed)
    return removed


async def forget_deliveries(database: db.Database) -> int:
    """Remove what webhooks were told of events that are not in the log any more, attempts and all; how many."""
    removed = 0
    async for account_id in _each(database, webhooks.accounts):
        async with database.connection() as connection:
            oldest = (await events.bounds(connection, account_id)).oldest
        after: int | None = 0
        while after is not None:
            async with database.transaction() as connection:
                count, after = await webhooks.forget(
                    connection, account_id, after=after, oldest=oldest, limit=FORGET_SLICE
                )
            removed += count
    SWEPT.labels("webhook_delivery").inc(removed)
    return removed


async def tidy_webhooks(database: db.Database) -> AsyncIterator[UUID]:
    """Remove webhooks that were deleted, disable those whose mailbox is gone, give up what waits for those that are
    told nothing; yields the accounts whose logs grew."""
    async for account_id in _each(database, webhooks.accounts):
        async with database.transaction() as connection:
            await webhooks.remove_deleted(connection, account_id, DELETED_SECONDS)
            bereft = await webhooks.bereft(connection, account_id)
            silenced = await webhooks.silenced(connection, account_id)
        for webhook_id in silenced:
            await _give_up(database, account_id, webhook_id)
        for webhook_id in bereft:
            async with database.transaction() as connection:
                disabled = await webhooks.disable(connection, account_id, webhook_id, webhooks.BEREFT)
            if disabled:
                yield account_id


async def _give_up(database: db.Database, account_id: UUID, webhook_id: UUID) -> None:
    more = True
    while more:
        async with database.transaction() as connection:
            more = await webhooks.drop_pending(connection, account_id, webhook_id)


async def _each(database: db.Database, accounts_after: Callable[..., Awaitable[list[UUID]]]) -> AsyncIterator[UUID]:
    """The accounts that a look finds, in the order of ids."""
    last = UUID(int=0)
    while True:
        async with database.connection() as connection:
            found = await accounts_after(connection, after=last, limit=ACCOUNTS)
        for account_id in found:
            yield account_id
        if len(found) < ACCOUNTS:
            return
        last = found[-1]


async def _walk(database: db.Database, account_id: UUID, slice_of: Slice) -> int:
    """All of an account, slice by slice, each a transaction of its own; rows removed."""
    removed, after = 0, UUID(int=0)
    while True:
        async with database.transaction() as connection:
            count, last = await slice_of(connection, account_id, after)
        removed += count
        if last is None:
            return removed
        after = last
