"""The track record: every event is counted once, in its hour, under what it is about."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from gateway.mail import address
from gateway.outbound import latency, record
from gateway.outbound.record import Record
from gateway.storage import audit, db, emails, events, housekeeping, restoring, statistics
from gateway.storage.statistics import SUMMARY, TOTAL, Key, Sum
from tests.storage import rows

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)
EVER = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))


@pytest.fixture
def counter(database: db.Database) -> Record:
    return Record(database, rest=no_rest, saw=lambda account_id, head: None)


async def no_rest(worked: float) -> None:
    """Nobody else is there."""


async def accepted(
    database: db.Database, account_id: UUID, *recipients: str, tags: Sequence[str] = (), sender: str = "a@b.example"
) -> emails.NewEmail:
    """An e-mail, and the event of its acceptance."""
    listed = [dict(zip(("name", "value"), tag.split(":"), strict=True)) for tag in tags]
    new = await rows.email(
        database,
        account_id,
        *(_delivery(recipient) for recipient in recipients),
        tags=msgspec.json.encode(listed).decode(),
        from_address=sender,
    )
    await told(database, account_id, new, "queued", **{"from": sender})
    return new


def _delivery(recipient: str) -> emails.NewDelivery:
    return dataclasses.replace(rows.delivery(address=recipient), domain=address.parse(recipient).ascii_domain)


async def told(database: db.Database, account_id: UUID, email: emails.NewEmail, *whats: str, **data: Any) -> None:
    """Events of an e-mail, of its first recipient unless `data` says otherwise."""
    usual = {"recipient": email.deliveries[0].address, "provider": "mx"} if "from" not in data else {}
    new = [events.NewEvent(type=f"email.{what}", email_id=email.id, data=events.encode(usual | data)) for what in whats]
    async with database.transaction() as connection:
        await events.append(connection, account_id, new)


async def move_log(database: db.Database, account_id: UUID, *times: datetime) -> None:
    """The log's events happened at these times, the rest at the last of them."""
    async with database.transaction() as connection:
        for seq, time in enumerate(times, 1):
            query = "update events set created_at = $3 where account_id = $1 and seq >= $2"
            await connection.execute(query, account_id, seq, time)


async def sums(
    database: db.Database, account_id: UUID, group_by: str = "none", interval: str = "total", **also: Any
) -> list[Sum]:
    usual: dict[str, Any] = {"tag": None if group_by == "tag" else TOTAL, "since": EVER[0], "until": EVER[1]}
    wanted = statistics.Wanted(interval=interval, group_by=group_by, **usual | also)
    async with database.connection() as connection:
        return await statistics.sums(connection, account_id, wanted, limit=200)


def plain(one: Sum) -> str:
    """What is not 0: "accepted 2, sent 1"."""
    return ", ".join(f"{name} {count}" for name, count in one.counts.items() if count)


async def total(database: db.Database, account_id: UUID, **also: Any) -> str:
    """By the rows that answer; those that know of domains must say the same."""
    found = ", ".join(map(plain, await sums(database, account_id, **also)))
    if also.get("tag", TOTAL) == TOTAL and found:
        added: Counter[str] = Counter()
        for one in await sums(database, account_id, "recipient_domain", **also):
            added.update(one.counts)
        assert found == ", ".join(f"{name} {added[name]}" for name in statistics.COUNTERS if added[name])
    return found


async def by_group(database: db.Database, account_id: UUID, group_by: str, **also: Any) -> dict[str, str]:
    return {one.name: plain(one) for one in await sums(database, account_id, group_by, **also)}


# What is counted


async def test_every_kind_of_event_is_counted_under_its_domains_and_its_provider(
    database: db.Database, account_id: UUID, counter: Record
) -> None:
    one = await accepted(
        database, account_id, "c@One.example", "d@bücher.example", "e@one.example", sender="a@X.example"
    )
    await told(database, account_id, one, "deferred", "deferred", "sent")
    await told(database, account_id, one, "delivered", recipient="d@bücher.example", provider="local")
    await told(database, account_id, one, "bounced", recipient="e@one.example")
    await told(database, account_id, one, "opened", "opened", "clicked", "complained")
    two = await accepted(database, account_id, "f@two.example")
    await told(database, account_id, two, "suppressed", provider=None)
    await told(database, account_id, two, "canceled", "delayed", recipients=1)
    await told(database, account_id, two, "unknown", "failed")
    await told(database, account_id, two, "queued", recipients=1, recipient=None, provider=None)  # tried again: not new
    await counter.drain(account_id)
    assert await total(database, account_id) == (
        "accepted 4, sent 1, delivered 1, deferred 2, bounced 1, failed 1, suppressed 1, complained 1, opened 2, "
        "clicked 1, unknown 1, taken 2"
    )
    by_sender = await by_group(database, account_id, "sender_domain")
    assert by_sender["b.example"] == "accepted 1, failed 1, suppressed 1, unknown 1"
    assert by_sender["x.example"].startswith("accepted 3, sent 1, delivered 1, deferred 2")
    by_recipient = await by_group(database, account_id, "recipient_domain")
    assert by_recipient["xn--bcher-kva.example"] == "accepted 1, delivered 1, taken 1"
    assert by_recipient["two.example"] == "accepted 1, failed 1, suppressed 1, unknown 1"
    by_provider = await by_group(database, account_id, "provider")
    assert by_provider[""] == "accepted 4, suppressed 1"
    assert by_provider["local"] == "delivered 1, taken 1"
    mx = "sent 1, deferred 2, bounced 1, complained 1, opened 2, clicked 1, taken 1"
    assert await total(database, account_id, recipient_domain="one.example", provider="mx") == mx


async def test_who_is_sent_to_and_delivered_is_taken_once_and_may_come_back(
    database: db.Database, account_id: UUID, counter: Record
) -> None:
    """Across slices, too. Seen to fail, with "taken 3", where `_entries` did not ask what was told before."""
    one = await accepted(database, account_id, "c@d.example", "e@f.example")
    await told(database, account_id, one, "sent")
    await counter.drain(account_id)
    await told(database, account_id, one, "delivered", "bounced")
    await told(database, account_id, one, "bounced", recipient="e@f.example")
    await told(database, account_id, one, "sent", "delivered", recipient="e@f.example")  # by POST …/retry
    await counter.drain(account_id)
    assert await total(database, account_id) == "accepted 2, sent 2, delivered 2, bounced 2, taken 2, returned 1"


async def test_what_a_provider_tells_later_counts_under_the_name_by_which_the_mail_left(
    database: db.Database, account_id: UUID, counter: Record
) -> None:
    """Seen to fail, with a group "mailgun" beside it, where `_provider` took what the news said."""
    one = await accepted(database, account_id, "c@d.example")
    async with database.connection() as connection:
        await connection.execute("update deliveries set provider = 'mailgun:mg.example' where email_id = $1", one.id)
    await told(database, account_id, one, "sent", provider="mailgun:mg.example")
    await told(database, account_id, one, "delivered", "complained", provider="mailgun")
    await told(database, account_id, one, "bounced", provider=None)
    await told(database, account_id, one, "opened", provider="ses")  # somebody else's
    await counter.drain(account_id)
    found = await by_group(database, account_id, "provider")
    assert set(found) == {"", "mailgun:mg.example", "ses"}
    assert found["mailgun:mg.example"] == "sent 1, delivered 1, bounced 1, complained 1, taken 1, returned 1"


async def test_tags_count_each_and_the_total_once(database: db.Database, account_id: UUID, counter: Record) -> None:
    """Seen to fail, with "accepted 9, sent 9", where all rows were added up, whatever their tags."""
    one = await accepted(database, account_id, "c@d.example", tags=("kind:welcome", "list:a", "kind:welcome"))
    two = await accepted(database, account_id, "c@d.example", tags=("kind:welcome",))
    three = await accepted(database, account_id, "c@d.example")
    for email in (one, two, three):
        await told(database, account_id, email, "sent")
    await counter.drain(account_id)
    assert await total(database, account_id) == "accepted 3, sent 3, taken 3"
    assert await by_group(database, account_id, "tag") == {
        "kind:welcome": "accepted 2, sent 2, taken 2",
        "list:a": "accepted 1, sent 1, taken 1",
    }
    assert await total(database, account_id, tag="list:a", provider="mx") == "sent 1, taken 1"
    assert set(await by_group(database, account_id, "tag", tag="list:a")) == {"list:a"}


async def test_the_time_that_mail_takes_runs_from_when_it_was_due(
    database: db.Database, account_id: UUID, counter: Record
) -> None:
    """One that was scheduled, one at once, one that its sender had tried again, one that is tried again later."""
    due = [NOON - timedelta(seconds=seconds) for seconds in (10, 1, 100, -50)]
    mails = [await accepted(database, account_id, "c@d.example") for _ in due]
    for email in mails:
        await told(database, account_id, email, "sent", "delivered")
    await move_log(database, account_id, NOON)
    async with database.connection() as connection:
        for email, time in zip(mails, due, strict=True):
            await connection.execute("update deliveries set waits_since = $2 where email_id = $1", email.id, time)
        query = "update emails set created_at = $2, scheduled_at = $3 where id = $1"
        await connection.execute(query, mails[3].id, NOON - timedelta(days=1), NOON - timedelta(seconds=1000))
    await counter.drain(account_id)
    [found] = await sums(database, account_id)
    took = {bucket: count for bucket, count in found.latencies.items() if count}
    assert took == {latency.bucket_of(seconds): 1 for seconds in (1, 10, 100, 1000)}


async def test_hours_and_days_are_utcs_whatever_the_session_says(
    database: db.Database, account_id: UUID, counter: Record
) -> None:
    """Over midnight, and over the nights in which Europe's clocks are put forward and back, at 01:00Z.

    Seen to fail, with a first day that began at 23:00Z, where `date_trunc` was not told UTC."""
    times = ["03-28T23:59", "03-29T00:00", "03-29T00:59", "03-29T01:00", "03-29T23:30", "10-25T00:30", "10-25T01:30"]
    one = await accepted(database, account_id, "c@d.example")
    await told(database, account_id, one, *["deferred"] * 6)
    await move_log(database, account_id, *(datetime.fromisoformat(f"2026-{time}+00:00") for time in times))
    await counter.drain(account_id)
    found = {}
    for interval in ("hour", "day"):
        wanted = statistics.Wanted(since=EVER[0], until=EVER[1], interval=interval, group_by="none", tag=TOTAL)
        async with database.transaction() as connection:
            await connection.execute("set local timezone = 'Europe/Berlin'")
            sums = await statistics.sums(connection, account_id, wanted, limit=1)
        found[interval] = [(one.start.astimezone(UTC).isoformat()[5:16], plain(one)) for one in sums]
    assert found["hour"] == [
        ("03-28T23:00", "accepted 1"),
        ("03-29T00:00", "deferred 2"),
        ("03-29T01:00", "deferred 1"),
        ("03-29T23:00", "deferred 1"),
        ("10-25T00:00", "deferred 1"),
        ("10-25T01:00", "deferred 1"),
    ]
    assert found["day"] == [
        ("03-28T00:00", "accepted 1"),
        ("03-29T00:00", "deferred 4"),
        ("10-25T00:00", "deferred 2"),
    ]


# Once, and all of it


async def test_however_the_log_is_sliced_and_by_whomever_every_event_is_counted_once(
    database: db.Database, account_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three readers at once, slices of a few events, news while they read; against counts made here.

    Seen to fail, with counts nearly twice as high, where `take` did not lock the row."""
    monkeypatch.setattr(record, "SLICE_EVENTS", 7)
    chance = random.Random(5)
    expected: Counter[tuple[str, str]] = Counter()
    readers = [Record(database, rest=no_rest, saw=lambda account_id, head: None) for _ in range(3)]
    for _ in range(8):
        for _ in range(6):
            domain = chance.choice(["one.example", "two.example", "three.example"])
            email = await accepted(database, account_id, f"c@{domain}", tags=chance.sample(["a:b", "c:d", "e:f"], 2))
            whats = chance.choices(["deferred", "sent", "bounced", "opened"], k=chance.randint(0, 5))
            await told(database, account_id, email, *whats)
            expected.update((domain, what) for what in ["accepted", *whats])
        await asyncio.gather(*(reader.drain(account_id) for reader in readers))
    await readers[0].drain(account_id)
    found: Counter[tuple[str, str]] = Counter()
    for one in await sums(database, account_id, "recipient_domain"):
        found.update({(one.name, what): count for what, count in one.counts.items() if what in statistics.OUTCOMES})
        found[one.name, "accepted"] += one.counts["accepted"]
    assert +found == expected
    hours = await sums(database, account_id, "recipient_domain", "hour")
    by_hour: Counter[tuple[str, str]] = Counter()
    for one in hours:
        by_hour.update({(one.name, what): count for what, count in one.counts.items() if what in statistics.OUTCOMES})
        by_hour[one.name, "accepted"] += one.counts["accepted"]
    assert +by_hour == expected


async def test_the_gap_that_restoring_a_backup_leaves_is_not_gone_through(
    database: db.Database, account_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the statistics, whose readers took a transaction for each SPAN of it, nor by the audit trail."""
    monkeypatch.setattr(restoring, "GAP", 100 * statistics.SPAN)
    slices: list[float] = []

    async def rest(worked: float) -> None:
        slices.append(worked)

    reader = Record(database, rest=rest, saw=lambda account_id, head: None)
    async with database.transaction() as connection:
        await audit.write(connection, account_id, "template.created", audit.OPERATOR, name="n")
    await accepted(database, account_id, "b@c.example")
    await reader.drain(account_id)
    async with database.transaction() as connection:
        await restoring.account(connection, account_id, hold_all=False)
    await accepted(database, account_id, "d@e.example")
    await reader.drain(account_id)
    [found] = await sums(database, account_id)
    assert found.counts["accepted"] == 2
    assert len(slices) < 5
    trail = audit.trail(database, account_id, limit=5)
    assert [event.type async for event in trail] == ["template.created"]


async def test_counting_goes_on_where_the_log_begins(
    database: db.Database, account_id: UUID, counter: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "SPAN", 10)
    one = await accepted(database, account_id, "c@d.example")
    await told(database, account_id, one, *["deferred"] * 40)
    await counter.drain(account_id)
    await told(database, account_id, one, *["opened"] * 60)
    async with database.connection() as connection:
        await connection.execute("delete from events where account_id = $1 and seq <= 90", account_id)
    assert await counter.look() == [account_id]
    await counter.drain(account_id)
    assert await total(database, account_id) == "accepted 1, deferred 40, opened 11"
    assert await counter.look() == []


async def test_a_log_without_news_of_mail_is_passed_over_and_says_that_it_is_counted(
    database: db.Database, account_id: UUID, counter: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "SPAN", 10)
    for _ in range(25):
        await rows.mailbox(database, account_id)
    assert await counter.look() == [account_id]
    await counter.drain(account_id)
    assert await counter.look() == []
    async with database.connection() as connection:
        covered = await statistics.coverage(connection, account_id)
    assert (covered.seq, covered.is_complete) == (25, True)
    one = await accepted(database, account_id, "c@d.example")
    assert await counter.look() == [account_id]
    async with database.connection() as connection:
        covered = await statistics.coverage(connection, account_id)
        [happened] = await connection.fetchrow("select created_at from events where email_id = $1", one.id)
    assert (covered.is_complete, covered.until) == (False, happened)
    assert covered.seq < 26


async def test_accounts_are_counted_apart(database: db.Database, account_id: UUID, counter: Record) -> None:
    """Seen to fail, with "accepted 2, sent 1, bounced 2", where `totals` did not ask for the account."""
    other = await rows.account(database)
    one = await accepted(database, account_id, "c@d.example", tags=("a:b",))
    await told(database, account_id, one, "sent")
    two = await accepted(database, other, "c@d.example", tags=("a:b",))
    await told(database, other, two, "bounced", "bounced")
    assert set(await counter.look()) == {account_id, other}
    for id in (account_id, other):
        await counter.drain(id)
    assert await total(database, account_id) == "accepted 1, sent 1, taken 1"
    assert await total(database, other) == "accepted 1, bounced 2"
    assert await by_group(database, other, "tag") == {"a:b": "accepted 1, bounced 2"}


# Bounds


async def test_an_hour_tells_so_many_values_apart_the_busiest_first_and_keeps_the_rest_together(
    database: db.Database, account_id: UUID, counter: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "PLACES", dict.fromkeys(record.PLACES, 2))
    for name, count in (("rare", 1), ("some", 2), ("most", 3)):
        for _ in range(count):
            await accepted(database, account_id, f"c@{name}.example", tags=(f"t:{name}",), sender=f"a@{name}.example")
    await counter.drain(account_id)
    for name in ("late", "rare"):  # no place is left, whoever comes
        recipients = [f"c{number}@{name}.example" for number in range(5)]
        one = await accepted(database, account_id, *recipients, tags=("t:x", "t:y", "t:most"))
        await told(database, account_id, one, "sent", provider="second")
        await told(database, account_id, one, "sent", provider="third")
    await counter.drain(account_id)

    async def grouped(group_by: str) -> dict[str, int]:
        return {one.name: one.counts["accepted"] for one in await sums(database, account_id, group_by)}

    assert await grouped("recipient_domain") == {"some.example": 2, "most.example": 3, "": 11}
    assert await grouped("sender_domain") == {"some.example": 2, "most.example": 3, "": 11}
    assert await grouped("tag") == {"t:some": 2, "t:most": 13, "*": 11}
    assert await grouped("provider") == {"": 16, "second": 0, "*": 0}
    assert await total(database, account_id) == "accepted 16, sent 4, taken 4"


async def test_an_hour_has_so_many_rows_and_no_more(
    database: db.Database, account_id: UUID, counter: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "ROWS", 5)
    for number in range(12):
        await accepted(
            database, account_id, f"c@d{number}.example", tags=(f"a:{number}",), sender=f"a@s{number}.example"
        )
    await counter.drain(account_id)
    assert await total(database, account_id) == "accepted 12"
    assert sum(one.counts["accepted"] for one in await sums(database, account_id, "tag")) == 12
    assert await rows.count(database, "select count(*) from delivery_statistics where is_day") <= 5 + 2
    assert await rows.count(database, "select count(*) from delivery_statistics where not is_day") <= 5 + 2


async def test_old_hours_are_forgotten_and_young_ones_are_not(
    database: db.Database, account_id: UUID, counter: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "FORGET_SLICE", 2)
    for number in range(7):
        await accepted(database, account_id, f"c@d{number}.example")
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    today = midnight + timedelta(hours=12)
    await move_log(database, account_id, *[today - timedelta(days=days) for days in (9, 8, 7, 6, 5, 1, 0)])
    await counter.drain(account_id)
    async with database.connection() as connection:
        arrived = "insert into inbound_statistics values ($1, $2, 1, 0), ($1, $3, 1, 0)"
        await connection.execute(arrived, account_id, today - timedelta(days=6), today - timedelta(days=5))
    kept = now - midnight + timedelta(days=5.25)
    removed = await housekeeping.forget_statistics(database, kept.total_seconds())
    assert removed == 16 + 1  # hours and days, each twice; an hour of mail that came in
    assert await total(database, account_id) == "accepted 3"


def test_what_is_added_is_what_changed() -> None:
    held = {Key(False, NOON, TOTAL, "s.example", f"d{n}.example", "mx"): statistics.Tally() for n in range(3)}
    entry = record.Entry(
        hour=NOON, sender_domain="s.example", recipient_domain="d1.example", provider="mx", tags=(), counts={"sent": 1}
    )
    changed = record.added(held, [entry])
    assert sorted((key.is_day, key.hour.hour, key.tag, key.recipient_domain) for key in changed) == [
        (False, 12, TOTAL, "d1.example"),
        (False, 12, SUMMARY, ""),
        (True, 0, TOTAL, "d1.example"),
        (True, 0, SUMMARY, ""),
    ]
