"""Mail sent anew: header fields that change, and all that does not."""

from __future__ import annotations

import datetime as dt

from gateway.mail import address, resent

NOW = dt.datetime(2026, 1, 31, 12, 0, 0, 5, dt.UTC)
RAW = (
    b"DKIM-Signature: v=1; d=x.example;\r\n\tb=abc\r\nFrom: a@x.example\r\nTO: Ann <ann@y.example>,\r\n b@y.example\r\n"
    b"Cc: c@y.example\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\n"
    b"message-id: <old@x.example>\r\nX-To: kept\r\nReferences: <1@x>\r\n <2@x>\r\n\r\n"
    b"To: a line of the body\r\n\r\nend\r\n"
)


def test_to_the_same_people_all_stays_but_id_date_and_signature() -> None:
    assert resent.written(RAW, message_id="<new@x.example>", date=NOW) == (
        b"From: a@x.example\r\nTO: Ann <ann@y.example>,\r\n b@y.example\r\nCc: c@y.example\r\n"
        b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nX-To: kept\r\nReferences: <1@x>\r\n <2@x>\r\n"
        b"Message-ID: <new@x.example>\r\nDate: Sat, 31 Jan 2026 12:00:00 +0000\r\n"
        b"\r\nTo: a line of the body\r\n\r\nend\r\n"
    )


def test_to_others_the_header_names_them_and_nobody_who_had_it_before() -> None:
    others = [
        address.parse_mailbox(text) for text in ("Zoë <zoe@z.example>", "Ö@bücher.example", '"a, b" <q@z.example>')
    ]
    made = resent.written(RAW, message_id="<new@x.example>", date=NOW, to=others)
    assert b"y.example" not in made
    assert "To: =?utf-8?q?Zo=C3=AB?= <zoe@z.example>, Ö@xn--bcher-kva.example".encode() in made
    assert made.endswith(b"\r\n\r\nTo: a line of the body\r\n\r\nend\r\n")


def test_a_message_without_a_body_stays_one() -> None:
    made = resent.written(b"From: a@x.example\r\n\r\n", message_id="<n@x>", date=NOW)
    assert made == b"From: a@x.example\r\nMessage-ID: <n@x>\r\nDate: Sat, 31 Jan 2026 12:00:00 +0000\r\n\r\n"
