"""What SMTP replies mean."""

from __future__ import annotations

import pytest

from gateway.outbound.providers import replies
from gateway.outbound.providers.contract import Outcome, Stage

BEFORE_DOT: tuple[Stage, ...] = ("connect", "greeting", "ehlo", "tls", "auth", "mail", "rcpt", "data")

MEANINGS: list[tuple[Stage, int | None, str, Outcome]] = [
    ("dot", 250, "2.0.0 Ok: queued as A1", "sent"),
    ("dot", 251, "will forward", "sent"),
    ("dot", None, "connection lost", "unknown"),
    ("dot", 354, "more?", "unknown"),
    ("dot", 999, "what?", "unknown"),
    ("dot", 451, "4.3.0 queue file write error", "deferred"),
    ("dot", 421, "4.3.2 shutting down", "deferred"),
    ("dot", 554, "5.7.1 spam", "bounced"),
    ("dot", 550, "5.7.26 unauthenticated mail of this domain is not accepted", "bounced"),
    ("dot", 554, "Message rejected: Email address is not verified", "bounced"),
    ("dot", 454, "Throttling failure: Maximum sending rate exceeded.", "deferred"),
    ("dot", 454, "Throttling failure: Daily message quota exceeded.", "provider_fault"),
    ("dot", 550, "5.4.5 Daily user sending quota exceeded", "provider_fault"),
    ("data", 354, "out of place here", "deferred"),
    ("data", 250, "out of place", "deferred"),
    ("data", 451, "4.3.0 later", "deferred"),
    ("data", 554, "5.5.1 no valid recipients", "bounced"),
    ("rcpt", 450, "4.2.0 greylisted", "deferred"),
    ("rcpt", 452, "4.2.2 mailbox over quota", "deferred"),
    ("rcpt", 550, "5.1.1 no such user", "bounced"),
    ("rcpt", 552, "5.2.2 mailbox full", "bounced"),
    ("rcpt", 550, "5.2.1 account disabled", "bounced"),
    ("rcpt", 550, "no such user", "bounced"),
    ("rcpt", 550, "5.7.1 recipient refuses mail from you", "bounced"),
    ("rcpt", 554, "5.7.1 <u@r.example>: Relay access denied", "provider_fault"),
    ("rcpt", 454, "4.7.1 <u@r.example>: Relay access denied", "provider_fault"),
    ("rcpt", 550, "relaying not allowed", "provider_fault"),
    ("rcpt", 550, "5.7.1 Unable to relay", "provider_fault"),
    ("rcpt", 550, "5.1.1 u@r.example: the host there said: relaying denied", "bounced"),
    ("rcpt", 530, "5.7.0 Authentication required", "provider_fault"),
    ("rcpt", 503, "5.5.1 MAIL first", "provider_fault"),
    ("mail", 421, "4.7.0 too many connections", "deferred"),
    ("mail", 450, "4.1.8 sender domain not found", "deferred"),
    ("mail", 550, "5.7.1 relay access denied", "provider_fault"),
    ("mail", 550, "5.7.60 client does not have permissions to send as this sender", "provider_fault"),
    ("mail", 530, "5.7.57 client not authenticated to send mail", "provider_fault"),
    ("mail", 535, "5.7.8 bad credentials", "provider_fault"),
    ("mail", 454, "4.7.0 Temporary authentication failure", "provider_fault"),
    ("mail", 554, "your account has been suspended", "provider_fault"),
    ("mail", 503, "AUTH first", "provider_fault"),
    ("mail", 552, "5.3.4 message size exceeds fixed limit", "failed"),
    ("mail", 553, "5.1.8 sender address does not exist", "failed"),
    ("mail", 501, "5.1.7 bad sender address syntax", "failed"),
    ("auth", 535, "5.7.8 authentication failed", "provider_fault"),
    ("auth", 454, "4.7.0 temporary authentication failure", "provider_fault"),
    ("auth", 432, "4.7.12 a password transition is needed", "provider_fault"),
    ("auth", 504, "5.5.4 mechanism", "provider_fault"),
    ("auth", 451, "4.3.0 later", "deferred"),
    ("auth", 421, "4.7.0 too many tries", "deferred"),
    ("tls", 454, "4.7.0 TLS not available", "deferred"),
    ("tls", 502, "5.5.1 not implemented", "provider_fault"),
    ("ehlo", 550, "5.7.1 invalid name", "provider_fault"),
    ("ehlo", 451, "4.3.0 later", "deferred"),
    ("greeting", 554, "5.7.1 blocked", "provider_fault"),
    ("greeting", 521, "does not accept mail", "provider_fault"),
    ("greeting", 421, "4.3.2 busy", "deferred"),
]


@pytest.mark.parametrize(("stage", "code", "text", "outcome"), MEANINGS)
def test_a_reply_means(stage: Stage, code: int | None, text: str, outcome: Outcome) -> None:
    assert replies.classify(stage, code, replies.enhanced_status(text), text) == outcome


@pytest.mark.parametrize("stage", BEFORE_DOT)
def test_no_reply_before_the_dot_defers_and_421_always_does(stage: Stage) -> None:
    assert replies.classify(stage, None, None, "connection lost") == "deferred"
    assert replies.classify(stage, 421, "4.7.0", "relay access denied") == "deferred"


@pytest.mark.parametrize("stage", BEFORE_DOT)
def test_only_the_dot_sends_or_leaves_it_unknown(stage: Stage) -> None:
    outcomes = {replies.classify(stage, code, None, "text") for code in (None, *range(1000))}
    assert outcomes.isdisjoint({"sent", "unknown", "delivered"})


@pytest.mark.parametrize("stage", [stage for stage in BEFORE_DOT if stage not in {"rcpt", "data"}])
def test_no_recipient_is_blamed_before_it_is_named(stage: Stage) -> None:
    assert "bounced" not in {replies.classify(stage, code, None, "text") for code in range(1000)}


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("5.1.1 no such user", "5.1.1"),
        ("2.0.0\nqueued", "2.0.0"),
        ("no such user 5.1.1", None),
        ("5.1.1x", None),
        ("10.0.0.1 is blocked", None),
        ("3.0.0 no class", None),
        ("", None),
    ],
)
def test_the_enhanced_status_stands_at_the_head(text: str, status: str | None) -> None:
    assert replies.enhanced_status(text) == status


@pytest.mark.parametrize(
    ("text", "queue_id"),
    [
        ("2.0.0 Ok: queued as 4bXyZ1", "4bXyZ1"),
        ("2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 9F2C", "9F2C"),
        ("OK id=1rXabc-00000000ABC-1a2b", "1rXabc-00000000ABC-1a2b"),
        ("2.0.0 queued as 018f0000-0000-7000-8000-000000000001", "018f0000-0000-7000-8000-000000000001"),
        (
            "Ok 0102018fabcdef12-1a2b3c4d-0000-0000-0000-000000000000-000000",
            "0102018fabcdef12-1a2b3c4d-0000-0000-0000-000000000000-000000",
        ),
        ("2.0.0 OK  1700000000 a1-20020a05.123 - gsmtp", "a1-20020a05.123"),
        ("Message Queued (1A2B3C.1)", "1A2B3C.1"),
        ("2.6.0 <x@y.example> [InternalId=123, Hostname=h.example] Queued mail for delivery", "123"),
        ("OK", None),
        ("2.0.0 message accepted for delivery", None),
        ("Ok accepted-with-thanks", None),
    ],
)
def test_the_peers_id_is_found(text: str, queue_id: str | None) -> None:
    assert replies.queue_id(text) == queue_id


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("4.7.1 Greylisted, try again in 300 seconds", 300),
        ("4.2.0 Greylisting in action, please come back in 00:04:59", 299),
        ("4.7.0 please wait 5 minutes and try again", 300),
        ("4.7.0 try again after 1 hour", 3600),
        ("greylisted for 5 min", 300),
        ("retry in 30s", 30),
        ("try again in 999999 hours", replies.LONGEST_WAIT),
        ("4.3.0 try again later", None),
        ("the mailbox of 5 members", None),
        ("connected for 3 messages", None),
    ],
)
def test_the_wait_that_is_asked_for_is_found(text: str, seconds: float | None) -> None:
    assert replies.retry_after(text) == seconds


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb\x00", "\x1b[0m a\tb", "a\udcff b", "a\u2028b", "x" * 5000, ""])
def test_any_text_becomes_one_storable_line(text: str) -> None:
    line = replies.one_line(text)
    assert line.isprintable()
    assert len(line) <= replies.LONGEST_REPLY
    line.encode()
