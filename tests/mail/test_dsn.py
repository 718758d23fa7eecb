"""Mail that is about other mail: standard reports and complaints; bounces in words are in test_bounce_words."""

from __future__ import annotations

import base64

import pytest

from gateway.mail import dsn

REPORT = b"""\
From: MAILER-DAEMON@mx.example (Mail Delivery System)\r
Subject: Undelivered Mail Returned to Sender\r
MIME-Version: 1.0\r
Content-Type: multipart/report; report-type=delivery-status; boundary="b"\r
\r
--b\r
\r
I'm sorry.\r
--b\r
Content-Description: Delivery report\r
Content-Type: message/delivery-status\r
\r
Reporting-MTA: dns; mx.example\r
\r
Final-Recipient: rfc822; new@recipient.example\r
Original-Recipient: rfc822;user@recipient.example\r
Action: failed\r
Status: 5.1.1\r
Diagnostic-Code: smtp; 550 5.1.1 <new@recipient.example>:\r
    User unknown\r
\r
Final-Recipient: rfc822; late@recipient.example\r
Action: delayed\r
Status: 4.4.1\r
Will-Retry-Until: Sun, 22 Nov 2026 02:30:00 +0000\r
\r
--b\r
Content-Type: message/rfc822\r
\r
Content-Type: message/delivery-status\r
\r
Action: failed\r
Status: 5.9.9\r
\r
--b--\r
"""

COMPLAINT = b"""\
From: <abusedesk@recipient.example>\r
Content-Type: multipart/report; report-type=feedback-report; boundary="b"\r
\r
--b\r
Content-Type: text/plain\r
\r
This is an email abuse report.\r
--b\r
Content-Type: message/feedback-report\r
\r
Feedback-Type: abuse\r
User-Agent: SomeGenerator/1.0\r
Version: 1\r
Original-Mail-From: <somespammer@sender.example>\r
\r
--b\r
Content-Type: message/rfc822\r
\r
From: a@b.example\r
--b--\r
"""


def test_a_report_tells_what_became_of_each_recipient() -> None:
    report = dsn.read(REPORT)
    assert report.kind == "report"
    failed, delayed = report.fates
    assert (failed.recipient, failed.action, failed.status) == ("user@recipient.example", "failed", "5.1.1")
    assert failed.diagnostic == "550 5.1.1 <new@recipient.example>: User unknown"
    assert (delayed.recipient, delayed.action, delayed.status) == ("late@recipient.example", "delayed", "4.4.1")


def test_a_report_is_read_with_any_line_ends_and_encodings() -> None:
    unix = REPORT.replace(b"\r\n", b"\n")
    assert dsn.read(unix) == dsn.read(REPORT)
    head, _, rest = unix.partition(b"Content-Type: message/delivery-status\n\n")
    body, boundary, rest = rest.partition(b"--b\n")
    encoded = b"Content-Type: message/delivery-status\nContent-Transfer-Encoding: base64\n\n"
    assert dsn.read(head + encoded + base64.encodebytes(body) + boundary + rest) == dsn.read(REPORT)


def test_a_complaint_tells_its_kind() -> None:
    assert dsn.read(COMPLAINT) == dsn.Report(kind="complaint", feedback="abuse")
    assert dsn.read(COMPLAINT.replace(b"abuse\r\nUser", b"not-spam\r\nUser")).feedback == "not-spam"


@pytest.mark.parametrize(
    "raw",
    [
        b"From: a@b.example\r\nSubject: Hello\r\n\r\nIt could not be delivered, he said.\r\n",
        b"From: a@b.example\r\nSubject: Out of office: undeliverable\r\n\r\nI am away.\r\n",
        b"From: postmaster@b.example\r\nAuto-Submitted: auto-replied\r\n\r\ndelivery failed\r\n",
        b"From: MAILER-DAEMON@b.example\r\nSubject: Hello\r\n\r\nNothing of note.\r\n",
        b"From: a@b.example\r\nSubject: Fwd: failure\r\n"
        + REPORT.partition(b"MIME-Version: 1.0\r\n")[2].partition(b"\r\n")[2],
        b"Content-Type: message/delivery-status\r\n\r\nAction: dance\r\n",
        b"",
        b"\r\n",
        b"Content-Type: message/delivery-status",
    ],
)
def test_other_mail_says_nothing(raw: bytes) -> None:
    assert dsn.read(raw) == dsn.Report(kind="other")


def test_the_mail_that_came_back_says_nothing() -> None:
    """Only what stands in front of it counts."""
    raw = (
        b"From: MAILER-DAEMON@mx.example\r\nSubject: failure notice\r\n\r\n<user@recipient.example>:\r\n"
        b"550 5.1.1 no such user\r\n\r\n--- Below this line is a copy of the message.\r\n\r\n421 4.7.0 x@y.example\r\n"
    )
    [fate] = dsn.read(raw).fates
    assert (fate.recipient, fate.action, fate.status) == ("user@recipient.example", "failed", "5.1.1")
    assert fate.diagnostic == "550 5.1.1 no such user"


@pytest.mark.parametrize(
    "odd",
    [
        b"-" * 300_000,
        b"\n-" * 150_000,
        b"Content-Type: message/delivery-status\n\n" * 20_000,
        b"Content-Type: message/delivery-status\n\n" + b"Action: failed\n\n" * 60_000,
        b"From: mailer-daemon@x\nSubject: failed\n\n" + b"a@" * 200_000,
        b"From: mailer-daemon@x\nSubject: failed\n\n" + b"message to " * 30_000,
        b"From: mailer-daemon@x\nSubject: failed\n\n" + b"=" * 70_000 + b"-" * 70_000,
        b"Content-Type:" + b" " * 500_000,
        b"\n \t" * 200_000,
        bytes(range(256)) * 2000,
    ],
)
def test_any_octets_at_all_are_read(odd: bytes) -> None:
    report = dsn.read(odd)
    assert len(report.fates) <= dsn.MAX_RECIPIENTS
    assert "\x00" not in str(report)
