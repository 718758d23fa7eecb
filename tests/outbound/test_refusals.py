"""What rules make of attempts, and how long an account's rules are believed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from gateway.mail import classify
from gateway.outbound import refusals
from gateway.outbound.providers.contract import Outcome, Stage, Verdict
from gateway.outbound.route import Try
from gateway.storage import bounce_rules, db

pytestmark = pytest.mark.anyio

RELAY = "smtp:relay.example:587"
LIMITED = "550 Connection frequency limited"


def tried(
    outcome: Outcome, reply: str, *, stage: Stage | None = "rcpt", code: int | None = None, provider: str = RELAY
) -> Try:
    now = datetime.now(UTC)
    said = code if code is not None or not reply[:3].isdigit() else int(reply[:3])
    return Try(
        provider=provider,
        verdict=Verdict(outcome=outcome, reply=reply, started_at=now, finished_at=now, stage=stage, code=said),
    )


def rule(action: classify.Action | None, **patterns: Any) -> classify.Own:
    return classify.Own(id="mine", kind="soft", action=action, **patterns)


RETRY, BOUNCE = rule("retry", words="said"), rule("bounce", words="said")


@pytest.mark.parametrize(
    ("attempt", "own", "becomes"),
    [
        (tried("bounced", LIMITED), (), "deferred"),
        (tried("failed", LIMITED, stage="mail"), (), "deferred"),
        (tried("bounced", "550 5.1.1 said"), (), "bounced"),
        (tried("bounced", "550 5.1.1 said"), (RETRY,), "deferred"),
        (tried("bounced", "550 5.1.1 said"), (BOUNCE,), "bounced"),
        (tried("deferred", "450 4.2.1 said"), (BOUNCE,), "bounced"),
        (tried("deferred", "450 4.2.1 said"), (RETRY,), "deferred"),
        (tried("deferred", "421 4.2.1 said"), (BOUNCE,), "deferred"),
        (tried("deferred", "450 4.2.1 said", stage="ehlo"), (BOUNCE,), "deferred"),
        (tried("deferred", "connection lost, it said"), (BOUNCE,), "deferred"),
        (tried("provider_fault", "535 5.7.8 said", stage="auth"), (BOUNCE,), "provider_fault"),
        (tried("provider_fault", "550 said"), (RETRY,), "provider_fault"),
        (tried("unknown", "lost, it said", stage="dot"), (BOUNCE,), "unknown"),
        (tried("bounced", "422 said", provider="postmark"), (RETRY,), "bounced"),
        (tried("deferred", "429 said", provider="mailgun:x.example"), (BOUNCE,), "deferred"),
        (tried("deferred", "452 4.2.2 said", provider="local"), (BOUNCE,), "deferred"),
        (tried("failed", "said", provider=""), (RETRY,), "failed"),
        (tried("sent", "250 said", stage="dot"), (BOUNCE,), "sent"),
    ],
)
def test_a_rule_has_a_say_where_a_mail_server_refused_the_mail(
    attempt: Try, own: tuple[classify.Own, ...], becomes: str
) -> None:
    """Seen to fail for 421, what was said to EHLO, APIs and own mailboxes with `_is_about_the_mail` always true."""
    assert refusals.outcome(attempt, refusals.explained(attempt, own)) == becomes


@pytest.mark.parametrize(
    ("attempt", "rule"),
    [
        (tried("sent", "250 ok"), None),
        (tried("bounced", "550 5.1.1 no"), "5.1.1"),
        (tried("deferred", "connection refused", stage="connect"), "no-reply"),
        (tried("unknown", "lost", stage="dot"), "no-reply"),
        (tried("failed", "expired", provider=""), "unsent"),
        (tried("deferred", "every provider is left alone", provider=""), "unsent"),
        (tried("unknown", "the worker was lost after DATA", provider=""), "no-reply"),
        (tried("bounced", "422 InactiveRecipient", provider="postmark"), "none"),  # 422 is HTTP's
        (tried("bounced", "422 InactiveRecipient"), "code.4"),
    ],
)
def test_an_attempt_that_did_not_succeed_is_read_by_a_rule(attempt: Try, rule: str | None) -> None:
    found = refusals.explained(attempt)
    assert (found.rule if found else None) == rule


async def _add(database: db.Database, account_id: UUID) -> None:
    fields = {"words": "said", "enhanced": "", "code": "", "kind": "soft", "suppresses": False}
    async with database.transaction() as connection:
        await bounce_rules.create(
            connection, account_id, uuid7(), {**fields, "action": None, "priority": 1, "note": ""}
        )


async def test_rules_are_looked_up_once_for_a_while(database: db.Database, account_id: UUID) -> None:
    """A wave of refusals is one query; what is new counts when the while is over."""
    known, strict = refusals.Rules(database, valid_seconds=3600), refusals.Rules(database, valid_seconds=0)
    assert await known.of(account_id) == []
    await _add(database, account_id)
    assert await known.of(account_id) == []
    assert [one.words for one in await strict.of(account_id)] == ["said"]
    async with database.connection() as connection:
        assert [one.words for one in await strict.of(account_id, connection)] == ["said"]


async def test_the_rules_of_a_thousand_accounts_are_kept_and_no_more(database: db.Database) -> None:
    rules = refusals.Rules(database, valid_seconds=3600)
    async with database.connection() as connection:
        for _ in range(refusals.MOST_ACCOUNTS + 5):
            await rules.of(uuid7(), connection)
    assert len(rules._known) == refusals.MOST_ACCOUNTS
