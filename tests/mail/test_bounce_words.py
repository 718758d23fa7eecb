"""Bounces in words of their own: a corpus of many servers' bounces with its own labels, and mail that is none."""

from __future__ import annotations

import ast
import email.message
from collections import defaultdict
from collections.abc import Mapping

import pytest

from gateway.mail import bounce_words, classify, dsn, header
from tests import suites
from tests.corpus import fetch
from tests.mail import labelled

CPYTHON, BOUNCES = fetch.CORPORA
LABELS = "flufl_bounce-6.0.0/tests/test_detectors.py"
# What is not found: a screen name without a domain, an address that only its reader could guess, and an answer whose
# subject begins as a person's.
MISSED = {
    ("aol_01.txt", "screenname@aol.com"),
    ("yale_01.txt", "userx@yale.edu"),
    ("yale_01.txt", "userx@cs.yale.edu"),
    ("simple_20.txt", "userx@example.com"),
}
# What is found and not labelled: empty = a failure that names nobody; that of simple_42 is in the report as it stands.
BESIDES = {
    ("aol_01.txt", "xxx@lists.xxx.com"),
    ("yale_01.txt", "name@cs.yale.edu"),
    ("simple_42.txt", "david...@gmail.com"),
    ("bounce_01.txt", ""),
    ("dumbass_01.txt", ""),
    ("simple_43.txt", ""),
}
REPORTS = {"msg_16.txt", "msg_25.txt", "msg_43.txt"}  # CPython's test mails that are bounces

Labels = Mapping[str, set[tuple[str, str]]]  # file name: address in lower case and action


def labels() -> Labels:
    """Whom each mail of the corpus is about, by the table of its own tests; read, not run."""
    tree = ast.parse(suites.path(LABELS).read_text("utf-8"))
    [table] = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DETECTORS"
    ]
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for _, name, addresses, is_temporary in ast.literal_eval(table):
        action = "delayed" if is_temporary else "failed"
        found[name] |= {(address.decode().lower(), action) for address in addresses}
    return found


def test_the_addresses_that_bounces_name_are_found() -> None:
    """117 mails with 133 labelled addresses: at least 95 of 100 are found, those that are not are listed here, and so
    is whatever is found besides; a delay is told from a failure for each of them.

    Negative control: with no place but "anywhere", and again without "listed", it failed: addresses of others were
    found besides, and some that are meant were missed.
    """
    wanted = labels()
    mails = fetch.mails(BOUNCES)
    assert (len(mails), sum(map(len, wanted.values()))) == (117, 133)
    missed: set[tuple[str, str]] = set()
    besides: set[tuple[str, str]] = set()
    for path in mails:
        fates = dsn.read(path.read_bytes()).fates
        found = {(fate.recipient.lower(), fate.action) for fate in fates}
        missed |= {(path.name, address) for address, _ in wanted[path.name] - found}
        besides |= {(path.name, address) for address, _ in found - wanted[path.name]}
    recall = 1 - len(missed) / 133
    assert (missed, besides) == (MISSED, BESIDES)
    assert recall >= 0.95


def test_no_ordinary_mail_is_a_bounce() -> None:
    """308 labelled mails, from a shop and from a postmaster, and CPython's test mails, of which three are reports."""
    for mail in labelled.mails():
        for sender in ("Shop <shop@sender.example>", "postmaster@sender.example"):
            assert dsn.read(ordinary(mail, sender)).kind == "other", mail.name
    kinds = {path.name: dsn.read(path.read_bytes()).kind for path in fetch.mails(CPYTHON)}
    assert {name for name, kind in kinds.items() if kind != "other"} == REPORTS


def ordinary(mail: labelled.Mail, sender: str) -> bytes:
    made = email.message.EmailMessage()
    made["From"], made["To"] = sender, "bounces@example.com"
    made["Subject"] = mail.subject
    made.set_content(mail.text or "")
    if mail.html:
        made.add_alternative(mail.html, subtype="html")
    return made.as_bytes()


HTML = (
    "From: postmaster@o.example\nSubject: Undeliverable: Hello\nContent-Type: multipart/mixed; boundary=b\n\n"
    "--b\nContent-Type: text/html\nContent-Transfer-Encoding: quoted-printable\n\n"
    "<html><body><p><b>Delivery has failed to these recipients or groups:</b></p>=\n\n"
    '<p><a href=3D"mailto:ann@x.example">Ann Lee (ann@x.example)</a><br>The address you entered couldn&#39;t be =\n'
    "found.</p><p>Remote Server returned '550 5.1.10 RESOLVER.ADR.RecipientNotFound'</p></body></html>\n"
    "--b\nContent-Type: message/rfc822\n\nTo: bob@y.example\n--b--\n"
)


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        pytest.param(
            "From: Mail Delivery System <Mailer-Daemon@mx.example>\nSubject: Mail delivery failed\n\n"
            "A message that you sent could not be delivered to one or more of its\nrecipients. This is a permanent "
            "error. The following address(es) failed:\n\n  ann@x.example\n    host mx.x.example [192.0.2.1]:\n"
            "    550 5.1.1 No such user\n\n------ This is a copy of your message. ------\n\nTo: bob@y.example\n",
            "5.1.1",
            id="exim",
        ),
        pytest.param(
            "From: MAILER-DAEMON@q.example\nSubject: failure notice\n\nI wasn't able to deliver your message to the "
            "following addresses.\n\n<ann@x.example>:\nRemote host said: 550 5.1.1 no such user\n\n"
            "--- Below this line is a copy of the message.\n\nTo: bob@y.example\n",
            "5.1.1",
            id="qmail",
        ),
        pytest.param(
            "From: MAILER-DAEMON@p.example (Mail Delivery System)\nSubject: Undelivered Mail Returned to Sender\n\n"
            "I'm sorry to tell you that your message could not\nbe delivered.\n\n<ann@x.example>: host mx.x.example "
            "said: 550 5.1.1\n    <ann@x.example>: User unknown (in reply to RCPT TO command)\n",
            "5.1.1",
            id="postfix",
        ),
        pytest.param(
            "From: Mail Delivery Subsystem <MAILER-DAEMON@s.example>\nSubject: Returned mail: see transcript\n\n"
            "   ----- The following addresses had permanent fatal errors -----\n<ann@x.example>\n    (reason: 550 "
            "5.1.1 User unknown)\n    (expanded from: <ann@x.example>)\n\n"
            "   ----- Transcript of session follows -----\n",
            "5.1.1",
            id="sendmail",
        ),
        pytest.param(
            "From: Mail Delivery Subsystem <mailer-daemon@g.example>\nX-Failed-Recipients: ann@x.example\n"
            "Subject: Delivery Status Notification (Failure)\n\nDelivery to the following recipient failed permanently:"
            "\n\n     ann@x.example\n\nThe error was: 550 5.1.1 User unknown\n\n----- Original message -----\n",
            "5.1.1",
            id="gmail",
        ),
        pytest.param(HTML, "5.1.10", id="office 365, as HTML"),
        pytest.param(
            "From: System Administrator <postmaster@e.example>\nSubject: Undeliverable: Hello\n\nYour message\n\n"
            "  To:      bob@y.example\n  Sent:    today\n\ndid not reach the following recipient(s):\n\n"
            "c=US;a= ;p=E;o=X;dda:SMTP=ann@x.example; on Fri, 4 Oct 2002\n    The recipient name is not recognized\n",
            "none",
            id="exchange, X.400",
        ),
        pytest.param(
            "From: postmaster@m.example\nSubject: Delivery Status Notification (Failure)\n\nDelivery to the following "
            "recipients failed.\n\n       ann@x.example\n\n",
            "none",
            id="SMTPSVC",
        ),
        pytest.param(
            "From: MAILER-DAEMON@yahoo.example\nSubject: Failure Notice\n\nSorry, we were unable to deliver your "
            "message to the following address.\n\n<ann@x.example>:\n554: delivery error: dd This user doesn't have a "
            "yahoo.example account (ann@x.example) [0]\n\n--- Original message follows.\n",
            "words.no-such-user",
            id="yahoo",
        ),
        pytest.param(
            "From: Postmaster@d.example\nSubject: DELIVERY FAILURE: User ann (ann@x.example) not listed\n\nYour message"
            "\n\n  Subject: Hello\n\nwas not delivered to:\n\n  ann@x.example\n\nbecause:\n\n  User ann "
            "(ann@x.example) not listed in Domino Directory\n",
            "none",
            id="domino",
        ),
        pytest.param(
            "From: Mailer-Daemon@gw.example\nSubject: Message status - undeliverable\nX-Mailer: Novell GroupWise "
            "Internet Agent 8.0\n\nThe message that you sent was undeliverable to the following:\n"
            "\tann@x.example (user not found)\n",
            "words.no-such-user-maybe",
            id="groupwise",
        ),
        pytest.param(
            "From: CompuServe Postmaster <postmaster@c.example>\nSubject: Undeliverable message\n\nYour message could "
            "not be delivered to the following address:\n\n   Receiver not found: ann@x.example\n",
            "none",
            id="compuserve",
        ),
        pytest.param(
            "From: <SMTP32@s.example>\nX-Mailer: <SMTP32 v20.1>\nSubject: Undeliverable Mail\n\nUnknown user: "
            "ann@x.example\n\nRCPT TO generated following response:\n550 5.1.1 <ann@x.example>... Addressee unknown"
            "\n\nOriginal message follows.\n\nTo: bob@y.example\n",
            "5.1.1",
            id="SMTP32",
        ),
    ],
)
def test_a_servers_bounce_names_its_recipient_and_why(raw: str, rule: str) -> None:
    for octets in (raw.encode(), raw.replace("\n", "\r\n").encode()):
        [fate] = dsn.read(octets).fates
        assert (fate.recipient, fate.action) == ("ann@x.example", "failed")
        assert classify.classify(fate.diagnostic, fate.status).rule == rule


def test_each_recipient_has_the_reply_that_stands_with_it() -> None:
    raw = (
        b"From: MAILER-DAEMON@q.example\nSubject: failure notice\n\n<ann@x.example>:\n550 5.1.1 no such user\n\n"
        b"<bob@x.example>:\n552 5.2.2 mailbox full\n\n<cid@x.example>:\nsorry\n"
    )
    ann, bob, cid = dsn.read(raw).fates
    assert (ann.status, bob.status) == ("5.1.1", "5.2.2")
    assert (cid.recipient, cid.diagnostic) == (
        "cid@x.example",
        "550 5.1.1 no such user",
    )  # the first, for want of its own


@pytest.mark.parametrize(
    "raw",
    [
        (
            "Subject: Warning: message 1abc-00 delayed 24 hours\n\nYour message has not yet been delivered to:\n\n"
            "  ann@x.example\n\nNo action is required on your part. Delivery attempts will continue.\n"
        ),
        (
            "Subject: Warning: could not send message for past 4 hours\n\n** THIS IS A WARNING MESSAGE ONLY **\n\n"
            "<ann@x.example>... Deferred: 450 4.2.1 mailbox busy\n"
        ),
        (
            "Subject: Delayed Mail (still being retried)\n\nYour message could not be delivered for 4 hours.\nIt will "
            "be retried until it is 5 days old.\n\n<ann@x.example>: connection timed out\n"
        ),
        (
            'Subject: Mail Delivery Warning\n\nDelivery of email to this address\n\n"ann@x.example"\n\nhas been '
            "postponed due to a full mailbox. We will continue to try.\n"
        ),
    ],
)
def test_a_warning_is_no_failure(raw: str) -> None:
    """Negative control: with `_DELAYED` matching nothing each of them failed as `failed`."""
    [fate] = dsn.read(f"From: MAILER-DAEMON@mx.example\n{raw}".encode()).fates
    assert (fate.recipient, fate.action) == ("ann@x.example", "delayed")


RECEIPT = "multipart/report; report-type=disposition-notification; boundary=b"


@pytest.mark.parametrize(
    "raw",
    [
        (
            "From: info@parcel.example\nSubject: Your parcel could not be delivered\n\nWe could not deliver to the "
            "following address:\n\n  ann@x.example\n  1 High Street\n"
        ),
        "From: Bob <bob@x.example>\nReturn-Path: <>\nSubject: Out of office\n\nbob@x.example is not available.\n",
        "From: Bob <bob@x.example>\nAuto-Submitted: auto-replied\nSubject: Undeliverable\n\nMy mailbox is not read.\n",
        (
            "From: Ann <ann@x.example>\nSubject: Re: Undelivered Mail Returned to Sender\n\n"
            "I got this:\n> <bob@x.example>:"
            " 550 5.1.1 user unknown\n\n----- Original message -----\n"
        ),
        (
            "From: Ann <ann@x.example>\nSubject: Fwd: failure\n\n--b\nContent-Type: message/delivery-status\n\n"
            "Reporting-MTA: dns; x\n\nFinal-Recipient: rfc822; bob@x.example\nAction: failed\nStatus: 5.1.1\n\n--b--\n"
        ),
        "From: no-reply@bank.example\nSubject: Your account has been closed\n\nNo such user exists. 550 5.1.1\n",
        "From: postmaster@x.example\nSubject: Quarantine\n\nThe following messages wait for ann@x.example:\n1. Bill\n",
        "From: postmaster@x.example\nSubject: Report Domain: y.example\n\nThis is an aggregate report.\n",
        f"From: bob@x.example\nSubject: Read: Hello\nContent-Type: {RECEIPT}\n\n--b\n\nIt was read.\n--b--\n",
        (
            f"From: bob@x.example\nSubject: Not read: Hello\nContent-Type: {RECEIPT}\n\n--b\n\n"
            "Your message was returned, "
            "the user was not found.\n--b--\n"
        ),
    ],
)
def test_what_people_and_shops_write_is_no_bounce(raw: str) -> None:
    """Negative control: without `is_persons` the answer and the forwarded report were read as failures."""
    assert dsn.read(raw.encode()) == dsn.Report(kind="other")


def test_a_bounce_without_a_servers_code_suppresses_nobody() -> None:
    """Whatever its words are: they are anybody's."""
    raw = b"From: MAILER-DAEMON@x.example\nSubject: failure notice\n\n<ann@x.example>:\nNo such user. User unknown.\n"
    [fate] = dsn.read(raw).fates
    assert not classify.classify(fate.diagnostic, fate.status).suppresses


BIG = 1_048_576


@pytest.mark.parametrize(
    "piece",
    [
        *(b"-", b"\n-", b"a@", b"a", b"a@a.", b"a=", b"a=a=a=a@", b"<", b"<br ", b"<a", b" ", b"\n", b"\n \t", b"550 "),
        *(b"smtp=", b"to:   ", b"550 <a@b", b"message to ", b"delivery to ", b"u@example.com ", b"a@" + b"." * 250),
        *(b"*" * 999 + b"\n", b'"<[({' * 200 + b"\n", b"a@" + b"a" * 900 + b"\n", b"following address\n<a@b.cc>\n"),
        *(b"Content-Transfer-Encoding: base64\n\n", b"Content-Transfer-Encoding: quoted-printable\n"),
        *(b"Content-Type: message/delivery-status\n\n", b"=?utf-8?q?a?= ", b"\xff\xfe\x00"),
    ],
    ids=lambda piece: repr(piece[:12]),
)
def test_a_million_hostile_octets_are_read(piece: bytes) -> None:
    """None takes long, for no more is looked at than so many lines of so many characters. The worst took 0.13 s."""
    body = (piece * (BIG // len(piece) + 1))[:BIG]
    for head in (
        b"From: mailer-daemon@x.example\nSubject: delivery failed\n\n",
        b"Subject: delivery failed<html>",
        b"",
    ):
        report = dsn.read(head + body)
        assert len(report.fates) <= dsn.MAX_RECIPIENTS
        assert all(len(fate.diagnostic) <= bounce_words.MAX_LINE for fate in report.fates)


def test_no_more_than_so_much_is_looked_at() -> None:
    """What stands behind it changes nothing."""
    head = b"From: mailer-daemon@x.example\nSubject: delivery failed\n\n"
    short, long = b"x\n" * bounce_words.MAX_LINES, b"x" * bounce_words.MAX_PROSE
    for filling in (short, long, b"x" * bounce_words.MAX_LINE):
        told = bounce_words.read(header.scan(head), (filling + b" <ann@x.example>:\n550 5.1.1 no\n").decode())
        assert told is not None
        assert [one.address for one in told.refused] == [""]
