"""What providers post, turned into an envelope and octets; form posts read as octets."""

from __future__ import annotations

import base64
import json
import urllib.parse
from typing import Any

import pytest

from gateway.inbound import forms, handed
from gateway.mail import parse

BOUNDARY = "xYzZY-0123456789"
MULTIPART = f'multipart/form-data; boundary="{BOUNDARY}"'

Posted = tuple[str, bytes] | tuple[str, bytes, str, str]  # name, content, and of a file its name and type


def multipart(*parts: Posted, boundary: str = BOUNDARY) -> bytes:
    """A form as HTTP clients write it."""
    written = b""
    for name, content, *file in parts:
        filename = '; filename="{}"'.format(file[0].replace('"', "%22")) if file else ""
        kind = f"Content-Type: {file[1]}\r\n" if file else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n{kind}\r\n'
        written += head.encode() + content + b"\r\n"
    return written + f"--{boundary}--\r\n".encode()


def read(raw: bytes) -> parse.Parsed:
    """By the fast reader, which gives up on anything unusual."""
    parsed = parse.parse_fast(raw)
    assert parsed is not None
    return parsed


# Forms


@pytest.mark.parametrize(
    "content",
    [b"", b"\r\n", b"--", b"\x00\xff\r\r\n\n", b"\r\n--xYzZY-012345678", b"x--xYzZY-0123456789", b"a" * 100_000],
)
def test_a_part_is_read_octet_for_octet(content: bytes) -> None:
    body = multipart(("a", content), ("b", b"last"))
    read = forms.read(MULTIPART, b"preamble\r\n" + body + b"epilogue")
    assert [(part.name, part.filename, part.content) for part in read] == [("a", None, content), ("b", None, b"last")]


def test_files_have_names_and_types_and_their_names_make_no_fields() -> None:
    evil = 'x"; name="token'
    body = multipart(("attachment-1", b"1", evil, "text/plain; charset=x"), ("a", b"2", "ü.txt", ""))
    first, second = forms.read(MULTIPART, body)
    assert (first.name, first.filename, first.content_type) == ("attachment-1", evil, "text/plain; charset=x")
    assert (second.name, second.filename, second.content_type) == ("a", "ü.txt", "")
    escaped = multipart(("a", b"")).replace(b'name="a"', rb'name="a"; filename="x\"; name=\"b\\"')
    assert [(part.name, part.filename) for part in forms.read(MULTIPART, escaped)] == [("a", 'x"; name="b\\')]
    extended = multipart(("a", b"")).replace(b'name="a"', b"name=a; filename=y; filename*=UTF-8''%C3%BC.txt")
    assert [part.filename for part in forms.read(MULTIPART, extended)] == ["ü.txt"]


def test_a_urlencoded_form_is_read_octet_for_octet() -> None:
    octets = bytes(range(256))
    body = urllib.parse.urlencode({"body-mime": octets, "ü": "x y", "empty": ""}).encode()
    read = forms.read("application/x-www-form-urlencoded; charset=utf-8", body)
    assert [(part.name, part.content) for part in read] == [("body-mime", octets), ("ü", b"x y"), ("empty", b"")]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("", b""),
        ("application/json", b"{}"),
        ("multipart/form-data", multipart(("a", b""))),
        (MULTIPART, b""),
        (MULTIPART, b"no delimiter"),
        (MULTIPART, multipart(("a", b"cut"))[:-25]),
        (MULTIPART, f"--{BOUNDARY}\r\n\r\nno header\r\n--{BOUNDARY}--\r\n".encode()),
        (MULTIPART, f"--{BOUNDARY}\r\nX: y\r\n\r\nno name\r\n--{BOUNDARY}--\r\n".encode()),
        (MULTIPART, f"--{BOUNDARY}\r\nX: {'y' * 9000}\r\n\r\n\r\n--{BOUNDARY}--\r\n".encode()),
        (MULTIPART, multipart(*[("a", b"")] * 1001)),
        (MULTIPART, f"--{BOUNDARY}".encode() * 30_000),
        ("application/x-www-form-urlencoded", b"a=b&" * 1001 + b"a=b"),
    ],
)
def test_what_is_no_form_or_too_much_of_one_is_refused(content_type: str, body: bytes) -> None:
    with pytest.raises(forms.NotAForm):
        forms.read(content_type, body)


# Mailgun

RAW = b"From: a@b.example\r\nSubject: caf\xe9\r\n\r\nbare\nlines\x00\r\n.\r\n"


def mailgun(*parts: Posted, recipient: str = "x@postroom.test", sender: str = "a@b.example") -> handed.Handed:
    usual: list[Posted] = [("recipient", recipient.encode()), ("sender", sender.encode())]
    signature: list[Posted] = [("timestamp", b"1"), ("token", b"t"), ("signature", b"s")]
    return handed.mailgun(forms.read(MULTIPART, multipart(*usual, *parts, *signature)))


def test_raw_mail_from_mailgun_stays_octet_for_octet() -> None:
    mail = mailgun(("body-mime", RAW), ("subject", b"another"), recipient="x@postroom.test, y@postroom.test,")
    assert (mail.raw, mail.rcpt_to, mail.mail_from) == (RAW, ("x@postroom.test", "y@postroom.test"), "a@b.example")


def test_the_receipt_is_of_the_mail_and_not_of_its_signature() -> None:
    """Whether Mailgun signs anew when it posts again is not said anywhere."""
    first = mailgun(("body-mime", RAW))
    again = handed.mailgun(
        forms.read(
            MULTIPART,
            multipart(
                ("token", b"another"),
                ("timestamp", b"2"),
                ("signature", b"s2"),
                ("sender", b"a@b.example"),
                ("body-mime", RAW),
                ("recipient", b"x@postroom.test"),
            ),
        )
    )
    assert (again.receipt_id, again.fingerprint) == (first.receipt_id, first.fingerprint)
    others = [
        mailgun(("body-mime", RAW + b"x")),
        mailgun(("body-mime", RAW), recipient="y@postroom.test"),
        mailgun(("body-mime", RAW), sender="c@b.example"),
        mailgun(("body-mime", RAW), ("attachment-1", b"", "f", "text/plain")),
    ]
    assert len({mail.receipt_id for mail in [first, *others]}) == 5
    assert len({mail.fingerprint for mail in [first, *others]}) == 5


def test_parsed_mail_from_mailgun_is_written_as_mail_again() -> None:
    fields = [
        ["Received", "by mxa.mailgun.org with ESMTP id 4f5; Mon, 1 Jan 2026"],
        ["Mime-Version", "1.0"],
        ["Content-Type", 'multipart/mixed; boundary="theirs"'],
        ["Dkim-Signature", "v=1; a=rsa-sha256"],
        ["From", "Jürgen Müller <j@b.example>"],
        ["To", "x@postroom.test"],
        ["Subject", "Grüße\r\nBcc: victim@postroom.test"],
        ["Message-Id", "<1@b.example>"],
        ["In-Reply-To", "<0@b.example>"],
        ["X-Long", "word " * 500],
        ["Bad Name", "x"],
        ["", "x"],
    ]
    mail = mailgun(
        ("message-headers", json.dumps(fields).encode()),
        ("body-plain", "Dein Code ist 482913. Grüße".encode()),
        ("body-html", b'<p>Dein Code ist 482913 <img src="cid:logo@b"></p>'),
        ("stripped-text", b"Dein Code"),
        ("content-id-map", b'{"<logo@b>": "attachment-2"}'),
        ("attachment-1", b"\x00%PDF", "Rechnung ü.pdf", "application/pdf"),
        ("attachment-2", b"\x89PNG", "logo.png", "image/png"),
        ("attachment-3", b"?", "x\x1f\x7fy", "nonsense; x"),
    )
    parsed = read(mail.raw)
    assert parsed.status == "ok", parsed.warnings
    assert parsed.from_ is not None
    assert (parsed.from_.name, parsed.from_.address) == ("Jürgen Müller", "j@b.example")
    assert parsed.subject == "Grüße Bcc: victim@postroom.test"
    assert (parsed.message_id, parsed.in_reply_to) == ("<1@b.example>", "<0@b.example>")
    assert "482913. Grüße" in (parsed.text or "")
    assert "cid:logo@b" in (parsed.html or "")
    names = [name.lower() for name, _ in parsed.headers]
    assert names.count("content-type") == names.count("mime-version") == 1
    assert not {"bcc", "dkim-signature", "bad name"} & set(names)
    assert max(map(len, mail.raw.split(b"\r\n"))) <= 998
    found = {file.filename: (file.content_type, file.content_id) for file in parsed.attachments}
    assert found == {
        "Rechnung ü.pdf": ("application/pdf", None),
        "logo.png": ("image/png", "logo@b"),
        "x y": ("application/octet-stream", None),
    }


def test_fields_stand_in_where_mailgun_gives_no_header_list() -> None:
    parsed = read(mailgun(("from", b"a@b.example"), ("subject", b"Hi"), ("body-plain", b"Hello\0")).raw)
    assert parsed.from_ is not None
    assert (parsed.from_.address, parsed.subject, (parsed.text or "").strip()) == ("a@b.example", "Hi", "Hello")


@pytest.mark.parametrize(
    "posted",
    [
        {"parts": [("body-mime", RAW)], "recipient": ""},
        {"parts": [("body-mime", RAW)], "recipient": ",".join(f"{n}@postroom.test" for n in range(101))},
        {"parts": [("attachments", b'[{"url": "https://api.mailgun.net/v3/x"}]'), ("body-plain", b"x")]},
    ],
)
def test_mailgun_mail_that_can_never_be_taken_is_told_apart(posted: dict[str, Any]) -> None:
    with pytest.raises(handed.Unusable):
        mailgun(*posted.pop("parts"), **posted)


@pytest.mark.parametrize("sender", ["", "<>", "not an address", "MAILER DAEMON", "a@b@c", "x" * 300 + "@b.example"])
def test_a_sender_that_is_no_address_is_the_null_path(sender: str) -> None:
    assert mailgun(("body-mime", RAW), sender=sender).mail_from == ""


# Postmark

POSTMARK: dict[str, Any] = {
    "FromName": "Mueller",
    "From": "j@b.example",
    "FromFull": {"Email": "j@b.example", "Name": 'J. "Jo" Müller', "MailboxHash": ""},
    "ToFull": [{"Email": "x@postroom.test", "Name": "", "MailboxHash": ""}],
    "CcFull": [{"Email": "y@postroom.test", "Name": "Y", "MailboxHash": ""}],
    "BccFull": [],
    "OriginalRecipient": "451d9b70cf9364d23ff6f9d51d870251569e+t@inbound.postmarkapp.com",
    "Subject": "Grüße",
    "MessageID": "73e6d360-66eb-11e1-8e72-a8904824019b",
    "ReplyTo": "",
    "MailboxHash": "t",
    "Date": "Fri, 1 Aug 2014 16:45:32 -04:00",
    "TextBody": "Code 482913",
    "HtmlBody": "<b>Code 482913</b>",
    "Tag": "",
    "Headers": [
        {"Name": "Return-Path", "Value": "<bounce+1@b.example>"},
        {"Name": "Message-ID", "Value": "<1@b.example>"},
        {"Name": "MIME-Version", "Value": "1.0"},
    ],
    "Attachments": [
        {
            "Name": "a.txt",
            "Content": base64.b64encode(b"\x00one").decode(),
            "ContentType": "text/plain",
            "ContentLength": 4,
        },
        {"Name": "b.png", "Data": "Mg==", "ContentType": "image/png", "ContentID": "b@x"},
    ],
}


def postmark(**changes: Any) -> handed.Handed:
    return handed.postmark(json.dumps(POSTMARK | changes).encode())


def test_raw_mail_from_postmark_stays_as_it_is() -> None:
    raw = "From: a@b.example\r\nSubject: Grüße\r\n\r\nbare\nlines\r\n"
    assert postmark(RawEmail=raw).raw == raw.encode()


def test_parsed_mail_from_postmark_is_written_as_mail_again() -> None:
    mail = postmark()
    parsed = read(mail.raw)
    assert parsed.status == "ok", parsed.warnings
    assert parsed.from_ is not None
    assert (parsed.from_.name, parsed.from_.address) == ('J. "Jo" Müller', "j@b.example")
    assert [person.address for person in parsed.to + parsed.cc] == ["x@postroom.test", "y@postroom.test"]
    assert (parsed.subject, parsed.message_id) == ("Grüße", "<1@b.example>")
    assert ("482913" in (parsed.text or ""), "482913" in (parsed.html or "")) == (True, True)
    assert {file.filename: file.content_id for file in parsed.attachments} == {"a.txt": None, "b.png": "b@x"}
    assert mail.mail_from == "bounce+1@b.example"
    assert "return-path" not in [name.lower() for name, _ in parsed.headers]
    assert (mail.rcpt_to, mail.named) == ((POSTMARK["OriginalRecipient"],), ("x@postroom.test", "y@postroom.test"))


def test_postmarks_receipt_is_of_its_message_id_and_recipient() -> None:
    first = postmark()
    assert postmark(TextBody="changed").receipt_id == first.receipt_id
    assert postmark(OriginalRecipient="z@postroom.test").receipt_id != first.receipt_id
    assert postmark(MessageID="73e6d360-66eb-11e1-8e72-a8904824019c").receipt_id != first.receipt_id


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        json.dumps(POSTMARK | {"Headers": "x"}).encode(),
        json.dumps(POSTMARK | {"Attachments": [{"Name": "x", "Content": "%"}]}).encode(),
        json.dumps(POSTMARK | {"Attachments": [{"Name": "x", "Content": "abcde"}]}).encode(),
        json.dumps({"RecordType": "Delivery", "MessageID": "x", "Recipient": "x@postroom.test"}).encode(),
    ],
)
def test_what_is_no_mail_from_postmark_is_told_apart(body: bytes) -> None:
    with pytest.raises(handed.Unusable):
        handed.postmark(body)


# SES


def received(content: str | None, action: dict[str, Any], **mail: Any) -> str:
    """The message that SES publishes to SNS."""
    body: dict[str, Any] = {
        "notificationType": "Received",
        "mail": {
            "timestamp": "2026-11-22T02:30:00.000Z",
            "source": "0000014a-f4d4@amazonses.com",
            "messageId": "d6iitobk75ur44p8kdnnp7g2n800",
            "destination": ["x@postroom.test", "other@b.example"],
            "headersTruncated": False,
            "headers": [],
            "commonHeaders": {},
            **mail,
        },
        "receipt": {
            "timestamp": "2026-11-22T02:30:00.000Z",
            "processingTimeMillis": 574,
            "recipients": ["x@postroom.test"],
            "spamVerdict": {"status": "PASS"},
            "action": action,
        },
    }
    return json.dumps(body | ({} if content is None else {"content": content}))


SNS_ACTION = {"type": "SNS", "topicArn": "arn:aws:sns:eu-west-1:123456789012:mail-in"}


def test_mail_in_a_notification_of_ses_stays_as_it_is() -> None:
    encoded = base64.b64encode(RAW).decode()
    mail = handed.ses(received(encoded, SNS_ACTION | {"encoding": "BASE64"}))
    assert mail is not None
    assert (mail.raw, mail.rcpt_to, mail.mail_from) == (RAW, ("x@postroom.test",), "0000014a-f4d4@amazonses.com")
    for action in (SNS_ACTION, SNS_ACTION | {"encoding": "UTF8"}):
        text = handed.ses(received("Subject: Grüße\r\n\r\nbare\nline", action))
        assert text is not None
        assert (text.raw, text.receipt_id) == ("Subject: Grüße\r\n\r\nbare\nline".encode(), mail.receipt_id)
    other = handed.ses(received("x", SNS_ACTION, messageId="another"))
    assert other is not None
    assert other.receipt_id != mail.receipt_id


def test_what_ses_says_to_try_a_topic_is_no_mail() -> None:
    for message in (
        json.dumps(
            {"notificationType": "AmazonSnsSubscriptionSucceeded", "message": "You have successfully subscribed"}
        ),
        "Successfully validated SNS topic for Amazon SES publishing.",
    ):
        assert handed.ses(message) is None


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (received(None, {"type": "S3", "bucketName": "b", "objectKey": "k"}), "S3"),
        (received(None, SNS_ACTION), "SNS"),
        (received("%", SNS_ACTION | {"encoding": "BASE64"}), "base64"),
        (received("x", SNS_ACTION, messageId=""), "received mail"),
        (received("x", SNS_ACTION).replace("Received", "Bounce"), "received mail"),
        ("", "publishes"),
        ("{}", "recipient"),
        ("null", "publishes"),
    ],
)
def test_what_is_no_mail_from_ses_is_told_apart(message: str, said: str) -> None:
    with pytest.raises(handed.Unusable, match=said):
        handed.ses(message)
