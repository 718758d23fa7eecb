"""What refusals mean: replies as large providers and common servers write them."""

from __future__ import annotations

import re

import pytest

from gateway.mail import classify


@pytest.mark.parametrize(
    ("reply", "rule", "kind", "suppresses"),
    [
        ("550-5.1.1 The email account that you tried to reach does not exist. gsmtp", "5.1.1", "hard", True),
        ("550 5.1.1 <spam@blocked.example>: Recipient address rejected: User unknown", "5.1.1", "hard", True),
        ("550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup", "5.1.10", "hard", 1),
        ("554 5.1.2 bad destination system", "5.1.2", "hard", True),
        ("501 5.1.3 Bad recipient address syntax", "5.1.3", "hard", True),
        ("550 5.1.6 mailbox has moved", "5.1.6", "hard", True),
        ("550 5.2.1 The email account that you tried to reach is disabled.", "5.2.1", "hard", True),
        ("552-5.2.2 The email account that you tried to reach is over quota.", "words.full", "quota", False),
        ("550 5.2.2 sorry", "4.2.2", "quota", False),
        ("452 4.2.2 come back", "4.2.2", "quota", False),
        ("554 delivery error: dd This user doesn't have a yahoo.com account (0)", "words.no-such-user", "hard", True),
        ("550 No such user here", "words.no-such-user", "hard", True),
        ("450 No such user here", "words.no-such-user-maybe", "hard", False),
        ("550 Connection frequency limited", "words.rate", "policy", False),
        ("550 5.1.1 Your IP is listed at Spamhaus; user unknown", "words.blocked", "policy", False),
        ("550 5.7.1 Service unavailable; client host blocked", "words.blocked", "policy", False),
        ("550 5.7.26 not accepted", "x.7", "policy", False),
        ("550 5.7.515 not accepted", "x.7", "policy", False),
        ("421 4.7.0 slow down", "x.7", "policy", False),
        ("450 4.2.0 Greylisted, see https://postgrey.example", "words.rate", "policy", False),
        ("550 5.1.8 sender's domain does not resolve", "x.1.sender", "policy", False),
        ("552 5.3.4 message too big", "x.3.4", "content", False),
        ("554 5.6.0 corrupt message", "x.6", "content", False),
        ("550 5.4.1 recipient address rejected", "x.4", "network", False),
        ("451 4.3.0 queue file write error", "4.x", "soft", False),
        ("421 closing", "code.4", "soft", False),
        ("550 5.1.0 address rejected", "5.1", "hard", False),
        ("550 5.0.0 no such user", "words.no-such-user", "hard", True),
        ("550 refused", "none", "unknown", False),
        ("550 host 5.1.1.1 refused", "none", "unknown", False),
        ("", "none", "unknown", False),
    ],
)
def test_a_reply_is_classified(reply: str, rule: str, kind: str, suppresses: bool) -> None:
    found = classify.classify(reply)
    assert (found.rule, found.kind, found.suppresses) == (rule, kind, bool(suppresses))


def test_a_reports_status_counts_where_the_reply_says_less() -> None:
    assert classify.classify("550 refused", "5.1.1").suppresses
    assert classify.classify("550 5.0.0 refused", "5.1.1").suppresses
    assert classify.classify("550 5.7.1 refused", "5.1.1").rule == "x.7"
    assert classify.classify("", "no status").rule == "none"


def test_only_bounces_for_faults_of_the_address_suppress() -> None:
    assert classify.suppresses("bounced", "550 5.1.1 unknown")
    assert not classify.suppresses("deferred", "550 5.1.1 unknown")
    assert not classify.suppresses("bounced", "550 5.7.1 no")
    allowed = {"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1", "words.no-such-user"}
    assert {rule.id for rule in classify.RULES if rule.suppresses} == allowed


def test_rules_have_ids_of_their_own_and_the_last_takes_everything() -> None:
    ids = [rule.id for rule in classify.RULES]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-z0-9.-]+", id) for id in ids)
    assert classify.RULES[-1] == classify.Rule(id="none", kind="unknown")


@pytest.mark.parametrize("odd", ["5." * 5000, "a@" * 5000, "exceeded " * 5000, "user " * 5000, "\x00\ud800" * 1000])
def test_any_text_at_all_is_classified(odd: str) -> None:
    assert classify.classify(odd, odd).rule
