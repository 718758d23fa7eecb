"""Tests as an application has them that is tested with Mailpit: nothing here knows of Postroom.

pytest -p mailpit.testing.pytest, with pytest-mailpit and mailpit-api-client installed; MAILPIT_URL and MAILPIT_SMTP say
where Mailpit is.
"""

from __future__ import annotations

import datetime as dt
import email.message
import email.policy
import email.utils
import hashlib
import os
import smtplib
from typing import Any

import pytest

URL = os.environ.get("MAILPIT_URL", "http://localhost:8025")
PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360000002000001e221bc330000"
    "000049454e44ae426082"
)


def send(smtp: Any, to: str, subject: str, text: str, **fields: str) -> email.message.EmailMessage:
    message = email.message.EmailMessage(policy=email.policy.SMTP)
    message["From"] = "Shop <no-reply@shop.example.com>"
    message["To"] = to
    message["Subject"] = subject
    message["Date"] = email.utils.localtime()
    for name, value in fields.items():
        message[name.replace("_", "-")] = value
    message.set_content(text)
    message.add_alternative(
        f'<p>{text}</p><p><a href="https://shop.example.com/reset/abc?a=1&amp;b=2">Reset password</a></p>'
        '<img src="cid:logo">',
        subtype="html",
    )
    html: Any = message.get_payload()[1]  # type: ignore[index] # the parts of a multipart
    html.add_related(PICTURE, "image", "png", cid="<logo>", disposition="inline")
    message.add_attachment(b"%PDF-1.4 invoice", maintype="application", subtype="pdf", filename="invoice-7.pdf")
    with smtplib.SMTP(smtp.host, smtp.port) as session:
        session.send_message(message)
    return message


def test_a_password_reset_arrives(mailpit: Any, mailpit_smtp: Any, mailpit_inbox: Any) -> None:
    before = mailpit.server_time()
    send(mailpit_smtp, mailpit_inbox.address, "Reset your password", "Your code is 482913.")
    message = mailpit_inbox.wait_for_message(subject="Reset your password", sender="no-reply@shop.example.com")
    assert message.sender.name == "Shop"
    assert [one.address for one in message.to] == [mailpit_inbox.address]
    assert message.code() == "482913"
    assert message.link("/reset/") == "https://shop.example.com/reset/abc?a=1&b=2"
    assert message.link(text="Reset password") == message.link("/reset/")
    assert message.return_path == "no-reply@shop.example.com"
    waited = mailpit.wait_for_message(recipient=mailpit_inbox.address, subject="your pass", since=before)
    assert waited.id == message.id


def test_files_come_whole(mailpit: Any, mailpit_smtp: Any, mailpit_inbox: Any) -> None:
    send(mailpit_smtp, mailpit_inbox.address, "Your invoice", "See the file.")
    message = mailpit_inbox.wait_for_message()
    invoice = message.attachment("invoice-*.pdf", content_type="application/pdf")
    assert mailpit.get_attachment(invoice) == b"%PDF-1.4 invoice"
    assert invoice.checksums["MD5"] == hashlib.md5(b"%PDF-1.4 invoice", usedforsecurity=False).hexdigest()
    [logo] = message.inline
    assert (logo.content_id, logo.content_type) == ("logo", "image/png")
    assert mailpit.get_attachment(logo) == PICTURE


def test_one_address_hears_nothing_of_another(mailpit_smtp: Any, mailpit_inbox_factory: Any) -> None:
    one, other = mailpit_inbox_factory(), mailpit_inbox_factory()
    send(mailpit_smtp, f"{one.address}, somebody@example.com", "To two", "t", Cc=other.address)
    assert one.wait_for_message(subject="To two").id == other.wait_for_message(subject="To two").id
    send(mailpit_smtp, one.address, "To one", "t")
    assert [message.subject for message in one.wait_for_messages(2)] == ["To two", "To one"]
    other.assert_no_message(subject="To one", within=0)
    one.clear()
    assert other.messages() == []


def test_blind_copies_are_found(mailpit_smtp: Any, mailpit_inbox: Any) -> None:
    message = email.message.EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@example.com", "b@example.com", "Blind"
    message.set_content("t")
    with smtplib.SMTP(mailpit_smtp.host, mailpit_smtp.port) as session:
        session.send_message(message, to_addrs=["b@example.com", mailpit_inbox.address])
    found = mailpit_inbox.wait_for_message(subject="Blind")
    assert [one.address for one in found.bcc] == [mailpit_inbox.address]


def test_mail_can_be_listed_tagged_read_and_deleted(mailpit: Any, mailpit_smtp: Any, mailpit_inbox: Any) -> None:
    sent = [
        send(mailpit_smtp, mailpit_inbox.address, f"Number {n}", "t", Message_ID=f"<{n}@x.example>") for n in (1, 2)
    ]
    first, second = mailpit_inbox.messages()
    assert (first.subject, first.read, first.message_id) == ("Number 1", False, "1@x.example")
    assert first.created <= second.created <= dt.datetime.now(dt.UTC) + dt.timedelta(seconds=60)
    assert mailpit.get_headers(first.id)["Subject"] == ["Number 1"]
    assert mailpit.get_raw(first.id).startswith(bytes(sent[0])[:40])
    mailpit.set_tags([first.id], ["urgent"])
    assert [one.id for one in mailpit.search('tag:"urgent" is:unread').messages] == [first.id]
    mailpit.mark_read([first.id])
    assert [one.read for one in mailpit_inbox.messages()] == [True, False]
    mailpit.delete_messages([first.id])
    assert [one.id for one in mailpit_inbox.messages()] == [second.id]
    assert mailpit.is_ready()
    assert mailpit.info().messages >= 1


@pytest.mark.parametrize("mailpit_api", [URL], indirect=True)
def test_the_older_client_works_too(mailpit_api: Any, mailpit: Any, mailpit_smtp: Any, mailpit_inbox: Any) -> None:
    for subject in ("Older", "Newest"):
        send(
            mailpit_smtp,
            mailpit_inbox.address,
            subject,
            "t",
            Message_ID=f"<{subject}@x.example>",
            Delivered_To="x@y.example",
        )
    newest, older = (one for one in mailpit_api.get_messages().messages if one.to[0].address == mailpit_inbox.address)
    assert (newest.subject, older.message_id) == ("Newest", "Older@x.example")
    headers = mailpit_api.get_message_headers(newest.id)
    assert headers.message_id == ["<Newest@x.example>"]
    assert mailpit_api.get_message_attachment(newest.id, "2") == "%PDF-1.4 invoice"
    mailpit_api.delete_messages([older.id])
    assert [one.id for one in mailpit_inbox.messages()] == [newest.id]
