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


@pytest.mark.parametrize(
    ("reply", "rule", "action"),
    [
        ("550 Connection frequency limited", "words.rate", "retry"),
        ("550 Ip frequency limited. http://service.mail.example/detail", "words.rate", "retry"),
        ("550 5.7.1 Too many connections from you", "words.rate", "retry"),
        ("550 5.7.0 Rate-limited", "words.rate", "retry"),
        (
            "550 5.2.1 <a@b.example> is receiving mail at a rate that prevents additional messages",
            "words.rate",
            "retry",
        ),
        ("554 5.7.1 Greylisted, come back", "words.rate", "retry"),
        ("554 5.7.1 blocked by a rate limit", "words.blocked", "bounce"),
        ("550 5.7.1 reputation too low, too many messages", "words.blocked", "bounce"),
        ("552 5.2.2 mailbox full, try again later", "words.full", "bounce"),
        ("554 mailbox has exceeded the number of messages", "words.later", "bounce"),
        ("554 5.4.6 too many hops", "words.later", "bounce"),
        ("554 5.7.1 try again later", "words.later", "bounce"),
        ("550 5.1.1 no such user", "5.1.1", "bounce"),
        ("450 4.2.1 later", "4.x", "retry"),
        ("450 No such user here", "words.no-such-user-maybe", "retry"),
        ("hm", "none", "bounce"),
    ],
)
def test_only_a_rate_that_is_refused_for_good_is_tried_again(reply: str, rule: str, action: str) -> None:
    found = classify.classify(reply)
    assert (found.rule, found.action) == (rule, action)
    assert {rule.id for rule in classify.RULES if rule.action} == {"words.rate"}


def own(**patterns: str) -> classify.Own:
    return classify.Own(id="mine", kind="soft", **patterns)  # type: ignore[arg-type] # patterns alone


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        (own(words="no such user"), True),
        (own(words="no*user"), True),
        (own(words="user*no"), False),
        (own(words="no*no"), False),
        (own(words="*here*"), True),
        (own(words="b.example"), False),
        (own(code="550"), True),
        (own(code="5xx"), True),
        (own(code="4xx"), False),
        (own(enhanced="5.1.1"), True),
        (own(enhanced="x.1.x"), True),
        (own(enhanced="5.1.10"), False),
        (own(enhanced="5.2.x"), False),
        (own(words="no such", code="550", enhanced="5.1.1"), True),
        (own(words="no such", code="551", enhanced="5.1.1"), False),
    ],
)
def test_an_accounts_own_rule_comes_first_where_all_of_it_fits(rule: classify.Own, fits: bool) -> None:
    found = classify.classify("550 5.1.1 <user@b.example> No such  user here", "", [rule])
    assert (found.rule == "mine", found.own) == (fits, fits)


def test_no_rule_of_an_accounts_can_be_slow() -> None:
    """Two hundred of the worst, on the longest reply: nothing in them goes back over what it has read."""
    rules = [own(words="*".join(["aa"] * 33) + "b") for _ in range(200)] + [own(words="a" * 99 + "b")] * 200
    assert classify.classify("550 " + "a" * classify.MAX_READ, "", rules).rule == "none"


def test_a_reports_status_counts_where_the_reply_says_less() -> None:
    assert classify.classify("550 refused", "5.1.1").suppresses
    assert classify.classify("550 5.0.0 refused", "5.1.1").suppresses
    assert classify.classify("550 5.7.1 refused", "5.1.1").rule == "x.7"
    assert classify.classify("", "no status").rule == "none"


def test_only_faults_of_the_address_suppress() -> None:
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
