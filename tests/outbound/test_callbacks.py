"""Callbacks read: what each kind of them says of a mail."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.outbound import callbacks
from tests.outbound import posts


def read(provider: str, given: Any) -> callbacks.Post:
    return callbacks.read(provider, given if isinstance(given, bytes) else json.dumps(given).encode())


def sns(message: str) -> dict[str, Any]:
    return {"Type": "Notification", "MessageId": "1", "Message": message}


def of(event: str, **changes: Any) -> callbacks.Post:
    return read("mailgun", {"signature": {}, "event-data": posts.mailgun_event(event, "1@mg.example", **changes)})


GONE = {"kind": "bounced", "reply": "550 5.1.1 The email account that you tried to reach does not exist."}
MG1 = "1@mg.example user@recipient.example"
DELAYED = {"severity": "temporary", "delivery-status": {"code": 452, "message": "4.2.2 full"}}


@pytest.mark.parametrize(
    ("post", "provider_id", "wanted"),
    [
        (of("delivered", **{"delivery-status": {"code": 250, "message": "OK"}}), MG1, {"kind": "delivered"}),
        (of("failed", **posts.MAILGUN_GONE), MG1, {**GONE, "enhanced": "5.1.1"}),
        (of("failed", **DELAYED), MG1, {"kind": "deferred", "reply": "452 4.2.2 full"}),
        (of("failed", severity="permanent", reason="suppress-bounce"), MG1, {"kind": "failed"}),
        (of("rejected", reason="x"), MG1, {"kind": "failed", "reply": "x"}),
        (of("complained"), MG1, {"kind": "complained", "recipient": "user@recipient.example"}),
        (of("opened", ip="192.0.2.1"), MG1, {"kind": "opened", "details": {"ip": "192.0.2.1"}}),
        (of("clicked", url="https://a"), MG1, {"kind": "clicked", "details": {"url": "https://a"}}),
        (of("accepted"), MG1, None),
        (of("unsubscribed"), MG1, None),
        (read("postmark", posts.postmark("Delivery", "p1")), "p1", {"kind": "delivered", "reply": "smtp;250 2.0.0 OK"}),
        (read("postmark", posts.postmark("Bounce", "p1")), "p1", {"kind": "bounced", "reply": f"smtp;{posts.GONE}"}),
        (read("postmark", posts.postmark("Bounce", "p1", Type="Transient")), "p1", {"kind": "deferred"}),
        (read("postmark", posts.postmark("Bounce", "p1", Type="AutoResponder")), "p1", None),
        (read("postmark", posts.postmark("Bounce", "p1", Type="ManuallyDeactivated")), "p1", {"kind": "failed"}),
        (read("postmark", posts.postmark("SpamComplaint", "p1")), "p1", {"kind": "complained"}),
        (read("postmark", posts.postmark("Open", "p1")), "p1", {"kind": "opened"}),
        (read("postmark", posts.postmark("Click", "p1")), "p1", {"kind": "clicked"}),
        (read("postmark", posts.postmark("SubscriptionChange", "p1")), "p1", None),
        (
            read("ses", sns(posts.ses("Delivery", "s1"))),
            "s1",
            {"kind": "delivered", "reply": "250 ok dirdel 1508534478"},
        ),
        (read("ses", sns(posts.ses("Delivery", "s1", key="notificationType"))), "s1", {"kind": "delivered"}),
        (read("ses", sns(posts.ses("Bounce", "s1"))), "s1", {**GONE, "enhanced": "5.1.1"}),
        (read("ses", sns(posts.ses("Complaint", "s1"))), "s1", {"kind": "complained", "reply": "abuse"}),
        (read("ses", sns(posts.ses("DeliveryDelay", "s1"))), "s1", {"kind": "deferred", "enhanced": "4.4.1"}),
        (read("ses", sns(posts.ses("Reject", "s1"))), "s1", {"kind": "failed", "reply": "Bad content"}),
        (read("ses", sns(posts.ses("Rendering Failure", "s1"))), "s1", {"kind": "failed"}),
        (read("ses", sns(posts.ses("Open", "s1"))), "s1", {"kind": "opened"}),
        (read("ses", sns(posts.ses("Click", "s1"))), "s1", {"kind": "clicked"}),
        (read("ses", sns(posts.ses("Send", "s1"))), "s1", None),
    ],
)
def test_each_kind_of_callback_says_what_it_says(
    post: callbacks.Post, provider_id: str, wanted: dict[str, Any] | None
) -> None:
    assert post.provider_id == provider_id
    if wanted is None:
        assert post.news == ()
        return
    [news] = post.news
    assert {name: getattr(news, name) for name in wanted} == wanted
    assert news.recipient == "user@recipient.example"
    assert news.at is not None
    assert news.at.tzinfo is UTC


def test_mailguns_ids_lose_their_brackets() -> None:
    message = {"headers": {"message-id": "<1@mg.example>"}}
    assert of("delivered", message=message).provider_id == MG1


def test_an_out_of_office_note_that_ses_calls_a_transient_bounce_is_no_bounce() -> None:
    bounce = {"bounceType": "Transient", "bounceSubType": "General", "bouncedRecipients": [{"emailAddress": "a@b.c"}]}
    [news] = read("ses", sns(posts.ses("Bounce", "s1", {"bounce": bounce}))).news
    assert news.kind == "deferred"


def test_what_ses_did_not_even_try_failed() -> None:
    bounce = {"bounceType": "Permanent", "bounceSubType": "OnAccountSuppressionList", "bouncedRecipients": [{}]}
    [news] = read("ses", sns(posts.ses("Bounce", "s1", {"bounce": bounce}))).news
    assert news.kind == "failed"


def test_the_same_event_has_the_same_id_and_another_one_another() -> None:
    event = posts.mailgun_event("opened", "1@mg.example")
    first, again = (read("mailgun", {"signature": {"token": token}, "event-data": event}) for token in "ab")
    assert first.event_id == again.event_id != of("opened").event_id
    opens = [posts.postmark("Open", "p1", ReceivedAt=f"2026-11-22T02:33:0{n}Z") for n in (0, 0, 1)]
    ids = [read("postmark", one).event_id for one in opens]
    assert ids[0] == ids[1] != ids[2]
    delivered = posts.ses("Delivery", "s1")
    assert read("ses", sns(delivered) | {"MessageId": "2"}).event_id == read("ses", sns(delivered)).event_id


@pytest.mark.parametrize("provider", ["mailgun", "postmark", "ses"])
@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000, b'{"Message": "[]"}'])
def test_what_is_no_callback_is_unreadable(provider: str, body: bytes) -> None:
    with pytest.raises(callbacks.Unreadable):
        callbacks.read(provider, body)


def test_members_of_any_other_type_are_as_if_they_were_empty() -> None:
    odd: list[Any] = [None, 1, True, [], [[]], "", {"a": 1}, "\x00"]
    for value in odd:
        for member in ("message", "delivery-status", "client-info", "timestamp", "recipient", "severity"):
            [news] = of("failed", **{member: value}).news
            assert "\x00" not in news.reply + news.recipient
        for name in ("bounce", "mail"):
            told = {"bounce": {"bouncedRecipients": [value]}, name: value}
            read("ses", sns(posts.ses("Bounce", "s1", told)))
        read("postmark", posts.postmark("Click", "p1", Geo=value, ReceivedAt=value, Recipient=value))


def test_times_are_read_where_they_can_be() -> None:
    [news] = of("opened", timestamp=1521472262.5).news
    assert news.at == datetime(2018, 3, 19, 15, 11, 2, 500_000, UTC)
    times: list[Any] = ["soon", 1e300, -1e300, None, {}]
    for odd in times:
        [news] = of("opened", timestamp=odd).news
        assert news.at is None
