"""Mail about other mail, as it comes to return paths."""

from __future__ import annotations

from gateway.mail import verp
from tests import house

RETURN_DOMAIN = "bounces.postroom.test"
PATHS = verp.ReturnPaths(house.KEYRING, RETURN_DOMAIN)
GONE = "550 5.1.1 No such user here"


def report(recipient: str, *, action: str = "failed", status: str = "5.1.1", said: str = GONE, more: str = "") -> bytes:
    """A delivery report (RFC 3464); `more`: fields of further recipients."""
    return f"""\
Received: from mx.recipient.example by somebody\r
From: MAILER-DAEMON@mx.recipient.example (Mail Delivery System)\r
Subject: Undelivered Mail Returned to Sender\r
MIME-Version: 1.0\r
Content-Type: multipart/report; report-type=delivery-status; boundary="b"\r
\r
--b\r
\r
This is the mail system.\r
--b\r
Content-Type: message/delivery-status\r
\r
Reporting-MTA: dns; mx.recipient.example\r
\r
Final-Recipient: rfc822; {recipient}\r
Action: {action}\r
Status: {status}\r
Diagnostic-Code: smtp; {said}\r
{more}\r
--b\r
Content-Type: message/rfc822\r
\r
Subject: Hello\r
\r
hello\r
--b--\r
""".encode()


def complaint(feedback: str = "abuse", *, path: str = "a@sender.example") -> bytes:
    """A complaint (RFC 5965) that returns mail with this reverse path."""
    return f"""\
From: <abusedesk@recipient.example>\r
Content-Type: multipart/report; report-type=feedback-report; boundary="b"\r
\r
--b\r
\r
This is an email abuse report.\r
--b\r
Content-Type: message/feedback-report\r
\r
Feedback-Type: {feedback}\r
User-Agent: Desk/1.0\r
Version: 1\r
\r
--b\r
Content-Type: message/rfc822\r
\r
Return-Path: <{path}>\r
Subject: Hello\r
\r
hello\r
--b--\r
""".encode()


VACATION = b"""\
From: User <user@recipient.example>\r
Subject: Out of office: Hello\r
Auto-Submitted: auto-replied\r
\r
I am away. Your mail was not delivered to anybody else.\r
"""

ORDINARY = b"From: user@recipient.example\r\nSubject: Re: Hello\r\n\r\nHello to you.\r\n"
