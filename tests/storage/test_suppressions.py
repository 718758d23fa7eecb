"""Suppressions as the database keeps them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from gateway.storage import db, suppressions

pytestmark = pytest.mark.anyio

LATER = datetime.now(UTC) + timedelta(days=1)


async def test_a_bounce_leaves_what_is_on_the_list_as_it_is_unless_its_time_is_over(
    database: db.Database, account_id: UUID
) -> None:
    """Negative control: with no WHERE behind `do update` in `bounced`, "asked@x.example" became a bounce: it failed."""
    wishes = [
        suppressions.Wish(address="asked@x.example", reason="unsubscribe", expires_at=LATER),
        suppressions.Wish(address="over@x.example", reason="manual", expires_at=LATER),
    ]
    async with database.transaction() as connection:
        await suppressions.put(connection, account_id, wishes)
        await connection.execute("update suppressions set expires_at = now() where address = 'over@x.example'")
    async with database.transaction() as connection:
        await suppressions.bounced(connection, account_id, ["asked@x.example", "new@x.example", "over@x.example"])
        found = await suppressions.behind(connection, account_id, ("", ""), 10)
    assert [(one.address, one.reason, one.expires_at) for one in found] == [
        ("asked@x.example", "unsubscribe", LATER),
        ("new@x.example", "bounce", None),
        ("over@x.example", "bounce", None),
    ]


async def test_whose_time_is_over_already_is_not_listed(database: db.Database, account_id: UUID) -> None:
    past = datetime.now(UTC) - timedelta(days=1)
    wishes = [
        suppressions.Wish(address="a@x.example", reason="manual", expires_at=past),
        suppressions.Wish(address="b@x.example", reason="manual", expires_at=LATER),
    ]
    async with database.transaction() as connection:
        assert [one.address for one in await suppressions.put(connection, account_id, wishes)] == ["b@x.example"]
        assert not await suppressions.delete(connection, account_id, "a@x.example", "")
        assert await suppressions.delete(connection, account_id, "b@x.example", "")


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("", ""),
        ("topic:news", "topic:news"),
        ("topic:a.b_c-9", "topic:a.b_c-9"),
        ("domain:Shop.Example", "domain:shop.example"),
        ("domain:b\u00fccher.example", "domain:xn--bcher-kva.example"),
    ],
)
def test_a_scope_is_kept_in_one_way(said: str, kept: str) -> None:
    assert suppressions.read_scope(said) == kept


@pytest.mark.parametrize(
    "said",
    [
        "news",
        "topic:",
        "topic:News",
        "topic:a b",
        "topic:" + "a" * 65,
        "domain:",
        "domain:no domain",
        "domain:[192.0.2.1]",
    ],
)
def test_what_is_no_scope_is_refused(said: str) -> None:
    with pytest.raises(ValueError, match=r"neither|not a domain"):
        suppressions.read_scope(said)


def test_an_email_is_in_the_scopes_of_all_mail_of_its_senders_domain_and_of_its_topic() -> None:
    assert suppressions.scopes_of("a@News.B\u00fccher.example", "news") == (
        "",
        "domain:news.xn--bcher-kva.example",
        "topic:news",
    )
    for topic in (None, ""):
        assert suppressions.scopes_of("a@x.example", topic) == ("", "domain:x.example")


async def test_an_address_may_be_listed_with_several_scopes_and_each_is_its_own(
    database: db.Database, account_id: UUID
) -> None:
    scopes = ["", "domain:x.example", "topic:a", "topic:b"]
    wishes = [suppressions.Wish(address="a@x.example", reason="manual", scope=scope) for scope in scopes]
    async with database.transaction() as connection:
        assert len(await suppressions.put(connection, account_id, wishes)) == 4
        assert await suppressions.delete(connection, account_id, "a@x.example", "topic:a")
        assert await suppressions.get(connection, account_id, "a@x.example", "topic:a") is None
        found = await suppressions.behind(connection, account_id, ("a@x.example", ""), 10)
    assert [one.scope for one in found] == ["domain:x.example", "topic:b"]
