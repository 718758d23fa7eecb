"""The submission port, over real sockets and a real database: who may send, and what becomes of a message."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email
import email.policy
import json
import smtplib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import aiosmtplib
import pytest
import structlog
from uuid_utils.compat import uuid7

from gateway import sockets, tokens
from gateway.inbound import listener, submission
from gateway.mail import submitted
from gateway.notify import rates
from gateway.outbound import send
from gateway.settings import Settings
from gateway.storage import accounts, db, emails, messages
from gateway.storage.callers import Callers
from tests import databases
from tests.inbound.dialogue import PATIENCE, Peer, Port, self_signed, until

pytestmark = pytest.mark.anyio

KEYRING = tokens.Keyring(b"a secret for tests, long enough to be one")
MESSAGE = "From: app@sender.example\r\nTo: ann@one.example\r\nSubject: Hello\r\n\r\nhello\r\n"
TYPES = "select type from events where account_id = $1 order by seq"
NEVER_ISSUED = KEYRING.api_key(UUID(int=1))


@dataclass
class Desk:
    """A submission port, and the account behind it."""

    port: Port
    database: db.Database
    account_id: UUID

    async def key(self, *scopes: str, domains: tuple[str, ...] = (), key_id: UUID | None = None) -> str:
        key_id = key_id or uuid7()
        key = KEYRING.api_key(key_id)
        async with self.database.transaction() as connection:
            await accounts.create_key(
                connection,
                self.account_id,
                id=key_id,
                hash=tokens.hash_token(key),
                name="test",
                scopes=scopes or ("send",),
                domains=domains,
            )
        return key

    async def peer(self, key: str | None = None) -> Peer:
        """Somebody who said EHLO, and logged in with `key` if one is given."""
        peer = await self.port.connect()
        await peer.greet()
        if key is not None:
            await peer.talk((f"AUTH PLAIN {plain(key)}", "235 2.7.0"))
        return peer

    async def hand_in(
        self,
        message: str | bytes = MESSAGE,
        *,
        key: str | None = None,
        mail_from: str = "app@sender.example",
        rcpt_to: tuple[str, ...] = ("ann@one.example",),
    ) -> str:
        """The reply to the final dot."""
        peer = await self.peer(key or await self.key())
        await peer.talk((f"MAIL FROM:<{mail_from}>", "250"), *((f"RCPT TO:<{one}>", "250") for one in rcpt_to))
        await peer.talk(("DATA", "354"))
        raw = message.encode() if isinstance(message, str) else message
        await peer.send(raw.replace(b"\r\n.", b"\r\n..") + b"\r\n.\r\n")
        return (await peer.reply()).strip()

    async def stored(self, reply: str) -> tuple[emails.Email, bytes, list[emails.Delivery]]:
        """What the reply says is queued."""
        queued, _, email_id = reply.rpartition(" ")
        assert queued == "250 2.0.0 queued as"
        async with self.database.connection() as connection:
            found = await emails.get(connection, self.account_id, UUID(email_id))
            raw = await emails.raw(connection, self.account_id, UUID(email_id))
            recipients = await emails.recipients(connection, self.account_id, [UUID(email_id)])
        assert found is not None
        assert raw is not None
        return found, raw, list(recipients[UUID(email_id)])

    async def count(self) -> int:
        async with self.database.connection() as connection:
            return int(await connection.fetchval("select count(*) from emails where account_id = $1", self.account_id))


@contextlib.asynccontextmanager
async def standing(
    database: db.Database, account_id: UUID, tls_context: ssl.SSLContext | None = None, **changes: Any
) -> AsyncIterator[Desk]:
    """A port in dev, unless `changes` say otherwise."""
    settings = Settings(**{"mail_domains": "postroom.test", "postroom_dev": True, **changes})
    outbox = send.Outbox(database, settings, told=lambda _: None, due=lambda _: None)
    limiter = rates.Limiter(rates.Rates(""), rates.Limits.of(settings))
    bound = sockets.bind("127.0.0.1", 0, "a test")
    opened = await listener.open(
        [bound],
        submission.Submissions(outbox, Callers(database), limiter, settings),
        settings,
        (lambda: tls_context) if tls_context is not None else None,
        name="submission",
        session=submission.SubmissionSMTP,
        limits=submission.limits(settings),
    )
    port = Port(opened, bound.getsockname())
    try:
        yield Desk(port=port, database=database, account_id=account_id)
    finally:
        for peer in port.peers:
            peer.reset()
        await opened.drain(PATIENCE)
        await outbox.drain()


@pytest.fixture
async def desk(database: db.Database, account_id: UUID) -> AsyncIterator[Desk]:
    async with standing(database, account_id) as desk:
        yield desk


def plain(key: str, user: str = "anybody") -> str:
    return base64.b64encode(f"\0{user}\0{key}".encode()).decode()


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


# Who may


async def test_nothing_is_taken_before_authentication(desk: Desk) -> None:
    """Broken on purpose: without `smtp_MAIL`'s look at the key, MAIL was answered with 250 here."""
    peer = await desk.peer()
    await peer.talk(("MAIL FROM:<app@sender.example>", "530 5.7.0"), ("RCPT TO:<a@b.example>", "503"), ("DATA", "503"))


async def test_a_key_is_a_password_for_any_user_name(desk: Desk) -> None:
    key = await desk.key()
    for user in ("", "api", "änne"):
        peer = await desk.peer()
        await peer.talk((f"AUTH PLAIN {plain(key, user)}", "235 2.7.0"), ("MAIL FROM:<a@b.example>", "250"))


async def test_plain_and_login_may_ask_and_be_answered_at_once(desk: Desk) -> None:
    key = await desk.key("admin")
    dialogues: list[list[tuple[str | bytes, str]]] = [
        [("auth plain", "334 \r\n"), (plain(key), "235 2.7.0")],
        [("AUTH LOGIN", "334 VXNlcm5hbWU6"), (encoded("me"), "334 UGFzc3dvcmQ6"), (encoded(key), "235 2.7.0")],
        [(f"AUTH LOGIN {encoded('me')}", "334 UGFzc3dvcmQ6"), (encoded(key), "235 2.7.0")],
        [("AUTH LOGIN =", "334 UGFzc3dvcmQ6"), (encoded(key), "235 2.7.0")],
        [("AUTH PLAIN", "334"), ("*", "501 5.0.0"), (f"AUTH PLAIN {plain(key)}", "235"), ("AUTH PLAIN", "503 5.5.1")],
        [("AUTH", "504 5.5.4"), ("AUTH CRAM-MD5", "504 5.5.4"), ("AUTH PLAIN ???", "501 5.5.2")],
        [("AUTH PLAIN =", "501 5.5.2"), (f"AUTH PLAIN {encoded(key)}", "501 5.5.2"), ("AUTH PLAIN é", "501 5.5.2")],
    ]
    for dialogue in dialogues:
        await (await desk.peer()).talk(*dialogue)


async def test_hello_comes_before_authentication(desk: Desk) -> None:
    peer = await desk.port.connect()
    await peer.expect("220")
    await peer.talk((f"AUTH PLAIN {plain(await desk.key())}", "503 5.5.1"))


@pytest.mark.parametrize("password", ["", "secret", NEVER_ISSUED, NEVER_ISSUED[:-1] + "x", "\ufffd" * 500])
async def test_what_is_no_key_is_refused(desk: Desk, password: str) -> None:
    await (await desk.peer()).talk((f"AUTH PLAIN {plain(password)}", "535 5.7.8"), ("MAIL FROM:<a@b.example>", "530"))


async def test_a_key_that_may_not_send_is_refused_and_told_why(desk: Desk) -> None:
    key = await desk.key("read", "mailboxes", "inbound")
    await (await desk.peer()).talk((f"AUTH PLAIN {plain(key)}", "535 5.7.8 This API key lacks the scope send"))


async def test_the_third_failure_ends_the_session(desk: Desk) -> None:
    """Broken on purpose: without the look at the number of failures no 421 came, and the test timed out."""
    wrong = f"AUTH PLAIN {plain(NEVER_ISSUED)}"
    peer = await desk.peer()
    await peer.talk((wrong, "535"), (wrong, "535"), (wrong, "535"))
    await peer.expect("421 4.7.0")
    await peer.ended()


async def test_an_address_that_fails_too_often_is_shut_out_but_for_keys_that_were_good(
    database: db.Database, account_id: UUID
) -> None:
    """Over any number of sessions. Seen to fail without the look at `shut_out`: the fourth heard 535."""
    async with standing(database, account_id, auth_failures_per_minute=3) as desk:
        good, late = await desk.key(), await desk.key()
        await (await desk.peer()).talk((f"AUTH PLAIN {plain(good)}", "235"))
        for _ in range(3):
            await (await desk.peer()).talk((f"AUTH PLAIN {plain(NEVER_ISSUED)}", "535"))
        for unknown in (NEVER_ISSUED, late):
            peer = await desk.peer()
            await peer.talk((f"AUTH PLAIN {plain(unknown)}", "421 4.7.0 Too many failed"))
            await peer.ended()
        await (await desk.peer()).talk((f"AUTH PLAIN {plain(good)}", "235"))


async def test_mail_that_comes_too_fast_is_put_off(database: db.Database, account_id: UUID) -> None:
    """Each MAIL counts as a request of the key does."""
    async with standing(database, account_id, rate_limit_per_second=0.001, rate_limit_burst=2) as desk:
        key = await desk.key()
        mails = [step for _ in range(2) for step in (("MAIL FROM:<a@b.example>", "250"), ("RSET", "250"))]
        await (await desk.peer()).talk(
            (f"AUTH PLAIN {plain(key)}", "235"), *mails, ("MAIL FROM:<a@b.example>", "450 4.7.1")
        )


async def test_failures_are_logged_without_what_was_said(desk: Desk) -> None:
    """Broken on purpose: with the user name logged, too, it was found here."""
    with structlog.testing.capture_logs() as logs:
        await (await desk.peer()).talk((f"AUTH PLAIN {plain(NEVER_ISSUED, 'my-user-name')}", "535"))
    failures = [entry for entry in logs if entry["event"] == "authentication failed"]
    assert [entry["failures"] for entry in failures] == [1]
    for secret in (NEVER_ISSUED, "my-user-name", plain(NEVER_ISSUED, "my-user-name")):
        assert secret not in str(logs)


async def test_a_revoked_key_ends_with_the_next_message(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken on purpose: with the caller of the first MAIL kept, the second was answered with 250."""
    monkeypatch.setattr("gateway.storage.callers.BELIEVED_SECONDS", 0.0)
    key_id = uuid7()
    peer = await desk.peer(await desk.key(key_id=key_id))
    await peer.talk(("MAIL FROM:<a@b.example>", "250"), ("RSET", "250"))
    async with desk.database.transaction() as connection:
        assert await accounts.revoke_key(connection, desk.account_id, key_id)
    await peer.talk(("MAIL FROM:<a@b.example>", "530 5.7.0"))


async def test_a_database_that_is_away_is_no_failure_of_the_peer() -> None:
    away = db.Database("postgresql://nobody@127.0.0.1:1/none", pool_size=2)
    await away.open()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(away.close)
        desk = await stack.enter_async_context(standing(away, uuid7()))
        said = f"AUTH PLAIN {plain(NEVER_ISSUED)}"
        peer = await desk.peer()
        await peer.talk(*[(said, "454 4.7.0")] * (submission.MAX_FAILURES + 1))


async def test_authentication_is_offered_over_tls_alone(
    database: db.Database, account_id: UUID, tmp_path: Path
) -> None:
    """Broken on purpose: with `_may_log_in` always true, EHLO offered AUTH in the clear."""
    server, client = self_signed(tmp_path)
    async with standing(database, account_id, server, postroom_dev=False) as desk:
        key = await desk.key()
        peer = await desk.port.connect()
        assert "AUTH" not in await peer.greet()
        await peer.talk((f"AUTH PLAIN {plain(key)}", "538 5.7.11"), ("MAIL FROM:<a@b.example>", "530 5.7.0 Must issue"))
        heard = await asyncio.to_thread(_logged_in_by_smtplib, desk.port.address, client, key)
        assert heard == ("PLAIN LOGIN", {})
    assert await desk.count() == 1


def _logged_in_by_smtplib(where: tuple[str, int], context: ssl.SSLContext, key: str) -> tuple[str, dict[str, Any]]:
    """What AUTH offers once TLS is on, and whom sending refused."""
    with smtplib.SMTP(*where[:2], timeout=PATIENCE) as session:
        session.starttls(context=context)
        session.ehlo()
        offered = str(session.esmtp_features["auth"]).strip()
        session.login("anybody", key)
        return offered, session.sendmail("app@sender.example", ["ann@one.example"], MESSAGE)


async def test_starttls_forgets_who_logged_in_before(database: db.Database, account_id: UUID, tmp_path: Path) -> None:
    """RFC 3207 4.2. Broken on purpose: with the key kept, MAIL was answered with 250 after the handshake."""
    server, client = self_signed(tmp_path)
    async with standing(database, account_id, server) as desk:
        peer = await desk.peer(await desk.key())
        await peer.talk(("STARTTLS", "220"))
        await peer.writer.start_tls(client, server_hostname="127.0.0.1")
        await peer.talk(("EHLO x", "250"), ("MAIL FROM:<a@b.example>", "530"))


async def test_without_a_certificate_nobody_logs_in_outside_dev(database: db.Database, account_id: UUID) -> None:
    async with standing(database, account_id, postroom_dev=False) as desk:
        peer = await desk.port.connect()
        assert "AUTH" not in await peer.greet()
        await peer.talk(
            (f"AUTH PLAIN {plain(await desk.key())}", "538"), ("MAIL FROM:<a@b.example>", "530 5.7.0 Authentication")
        )


# What becomes of a message


async def test_a_message_is_queued_as_the_reply_says(desk: Desk) -> None:
    found, raw, (delivery,) = await desk.stored(await desk.hand_in())
    assert (found.from_address, found.subject, found.source) == ("app@sender.example", "Hello", "smtp")
    assert (delivery.address, delivery.kind, delivery.status) == ("ann@one.example", "to", "queued")
    assert raw.startswith(MESSAGE.partition("\r\n\r\n")[0].encode())
    async with desk.database.connection() as connection:
        types = [row["type"] for row in await connection.fetch(TYPES, desk.account_id)]
    assert types == ["email.queued"]


async def test_recipients_that_no_header_names_are_blind_copies(desk: Desk) -> None:
    """Broken on purpose: with "bcc" not among the fields taken out, `dora` was found in the message."""
    message = (
        "From: App <app@sender.example>\r\nTo: Ann Lee <ANN@one.example>, absent@x.example\r\n"
        "Cc: =?utf-8?q?Carl_=C3=84?= <carl@three.example>\r\nBcc: dora@four.example,\r\n eve@five.example\r\n"
        "Resent-Bcc: dora@four.example\r\nReturn-Path: <x@y.example>\r\n"
        "bcc : dora@four.example\r\nSubject: s\r\n\r\nb\r\n"
    )
    rcpt_to = ("dora@four.example", "aNN@one.example", "carl@three.example", "ann@one.example")
    found, raw, deliveries = await desk.stored(await desk.hand_in(message, rcpt_to=rcpt_to))
    assert {(one.kind, one.address) for one in deliveries} == {
        ("to", "aNN@one.example"),
        ("cc", "carl@three.example"),
        ("bcc", "dora@four.example"),
    }
    assert found.recipients["cc"] == [{"name": "Carl Ä", "address": "carl@three.example"}]
    assert [person["address"] for person in found.recipients["to"]] == ["aNN@one.example"]
    head = raw.partition(b"\r\n\r\n")[0].lower()
    for absent in (b"dora", b"eve@", b"bcc:", b"bcc :", b"return-path", b"x@y.example"):
        assert absent not in head


async def test_the_message_is_kept_octet_for_octet(desk: Desk) -> None:
    message = (
        b"Received: from x\r\n\tby y\r\nDATE:  Tue, 1 Jul 2025 10:00:00 +0200\r\nFrom:   app@sender.example\r\n"
        b"message-id:\r\n <1@sender.example>\r\nSubject: =?utf-8?q?=C3=84?=\r\n  folded \r\n"
        b"Content-Type: text/plain; charset=iso-8859-1\r\n\r\n.dot\r\n\xe4\xff trailing \r\n\r\n\r\n.\r.\r\nend"
    )
    found, raw, _ = await desk.stored(await desk.hand_in(message))
    assert raw == message.replace(b".\r.", b".\r\n.") + b"\r\n"
    assert (found.message_id, found.subject) == ("1@sender.example", "Ä  folded")


async def test_message_id_and_date_are_added_where_they_are_missing(desk: Desk) -> None:
    reply = await desk.hand_in(b"From: app@Sender.example\nMessage-ID: \nSubject: s\n\nbare\nline ends\n")
    found, raw, _ = await desk.stored(reply)
    mail = email.message_from_bytes(raw, policy=email.policy.default)
    assert mail["Message-ID"] == f"<{found.message_id}>" == f"<{found.id}@sender.example>"
    assert abs((datetime.now(UTC) - mail["Date"].datetime).total_seconds()) < 3600
    assert raw.lower().count(b"message-id:") == 1
    assert raw.endswith(b"\r\n\r\nbare\r\nline ends\r\n\r\n")
    assert raw.count(b"\n") == raw.count(b"\r\n") == raw.count(b"\r")


async def test_tags_and_metadata_are_read_and_removed(desk: Desk) -> None:
    message = EmailMessage(policy=email.policy.SMTP)
    message["From"], message["To"], message["Subject"] = "app@sender.example", "ann@one.example", "s"
    metadata = {"order": 7, "note": "ä" * 60, "deep": [{"a": None}]}
    message["X-Postroom-Tag"] = "welcome"
    message["x-postroom-tag"] = "campaign=spring-2"
    message["X-Postroom-Metadata"] = json.dumps(metadata)
    message.set_content("hello")
    found, raw, _ = await desk.stored(await desk.hand_in(message.as_bytes()))
    assert found.tags == [{"name": "tag", "value": "welcome"}, {"name": "campaign", "value": "spring-2"}]
    assert found.metadata == metadata
    assert b"postroom-" not in raw.lower().replace(b"postroom.test", b"")


def wishing(*fields: str) -> str:
    return "".join(f"X-Postroom-{field}\r\n" for field in fields) + MESSAGE


async def test_when_and_how_it_is_sent_may_be_said_too(desk: Desk) -> None:
    wishes = wishing("Scheduled-At: in 2 hours", "Expires-In: 600", "on-unknown: HOLD", "On-Suppressed: skip")
    found, raw, (delivery,) = await desk.stored(await desk.hand_in(wishes))
    assert found.scheduled_at is not None
    assert found.expires_at is not None
    assert 7000 < (found.scheduled_at - datetime.now(UTC)).total_seconds() <= 7200
    assert (found.expires_at - found.scheduled_at).total_seconds() == 600
    assert (found.on_unknown, delivery.status) == ("hold", "scheduled")
    assert b"X-Postroom" not in raw
    found, _, (delivery,) = await desk.stored(await desk.hand_in(wishing("Scheduled-At: 2020-01-01T00:00:00Z")))
    assert (found.scheduled_at, found.on_unknown, delivery.status) == (None, "retry", "queued")


async def test_a_wish_that_there_is_not_is_refused_and_named(desk: Desk) -> None:
    """Broken on purpose: without `_check_wishes` the mail was queued at once, and its recipients saw the field."""
    for field in ("Schedule-At: in 2 hours", "Tags: a", ": x", "Idempotency: 1"):
        reply = await desk.hand_in(wishing(field))
        name = f"X-Postroom-{field.partition(':')[0]}"
        assert reply.startswith(
            f"550 5.5.4 The message cannot be sent: there is no field {name}; there are X-Postroom-"
        )
        assert "X-Postroom-Scheduled-At" in reply
    assert await desk.count() == 0


async def test_who_would_rather_be_told_of_suppressed_recipients_is(desk: Desk) -> None:
    async with desk.database.transaction() as connection:
        await connection.execute(
            "insert into suppressions (account_id, address, reason, created_at) values ($1, $2, 'manual', now())",
            desk.account_id,
            "ann@one.example",
        )
    wish = wishing("On-Suppressed: reject", "Idempotency-Key: once")
    for _ in range(2):
        reply = await desk.hand_in(wish, rcpt_to=("ann@one.example", "bob@two.example"))
        assert reply == "550 5.7.1 On the suppression list: ann@one.example."
    assert await desk.count() == 0


async def test_the_envelope_says_where_bounces_go(desk: Desk) -> None:
    for mail_from in ("bounces@sender.example", ""):
        found, _, _ = await desk.stored(await desk.hand_in(mail_from=mail_from))
        assert found.mail_from == mail_from


async def test_suppressed_recipients_are_left_out(desk: Desk) -> None:
    async with desk.database.transaction() as connection:
        await connection.execute(
            "insert into suppressions (account_id, address, reason, created_at) values ($1, $2, 'manual', now())",
            desk.account_id,
            "ann@one.example",
        )
    _, _, deliveries = await desk.stored(await desk.hand_in(rcpt_to=("ann@one.example", "bob@two.example")))
    assert {one.address: one.status for one in deliveries} == {
        "ann@one.example": "suppressed",
        "bob@two.example": "queued",
    }


# Once


def keyed(key: str = "order-7", body: str = "hello") -> str:
    return f"X-Postroom-Idempotency-Key: {key}\r\nFrom: app@sender.example\r\nSubject: s\r\n\r\n{body}\r\n"


async def test_the_same_message_with_the_same_key_is_sent_once(desk: Desk) -> None:
    """Broken on purpose: with `_once` always None, the second submission was queued under an id of its own."""
    key = await desk.key()
    first = await desk.hand_in(keyed(), key=key)
    assert await desk.hand_in(keyed(), key=key) == first
    assert await desk.count() == 1
    _, raw, _ = await desk.stored(first)
    assert b"order-7" not in raw


async def test_submissions_at_once_with_one_key_are_one(desk: Desk) -> None:
    """They gather behind a commit that is held up, where they would make one batch of theirs.

    Broken on purpose: without turns that batch failed (CardinalityViolationError), and the replies came too late."""
    key, commits = await desk.key(), desk.port.listener.service.commits
    async with asyncio.TaskGroup() as group, desk.database.transaction() as connection:
        await connection.execute("lock table emails in exclusive mode")
        first = group.create_task(desk.hand_in(key=key))
        await until(lambda: len(commits) == 1)
        others = [group.create_task(desk.hand_in(keyed(), key=key)) for _ in range(8)]
        await until(lambda: len(commits) == 9)
    assert len({reply.result() for reply in others}) == 1
    assert {reply.result()[:3] for reply in [first, *others]} == {"250"}
    assert await desk.count() == 2


async def test_another_message_or_envelope_with_the_same_key_is_refused(desk: Desk) -> None:
    await desk.stored(await desk.hand_in(keyed()))
    for reply in (
        await desk.hand_in(keyed(body="other")),
        await desk.hand_in(keyed(), rcpt_to=("bob@two.example",)),
        await desk.hand_in(keyed(), mail_from="other@sender.example"),
    ):
        assert reply == f"550 5.7.1 {submission.USED_OTHERWISE}"
    assert await desk.count() == 1


# Refusals


@pytest.mark.parametrize(
    ("message", "mail_from"),
    [
        ("From: a@other.example\r\n\r\nb", "app@sender.example"),
        ("From: a@sender.example\r\nSender: a@other.example\r\n\r\nb", "app@sender.example"),
        ("From: a@sender.example\r\n\r\nb", "app@other.example"),
        ("From: a@sub.sender.example\r\n\r\nb", ""),
        ("From: a@other.example (<b@sender.example>)\r\n\r\nb", ""),
        ('From: "b@sender.example" <a@other.example>\r\n\r\nb', ""),
    ],
)
async def test_a_key_limited_to_domains_sends_from_no_other(desk: Desk, message: str, mail_from: str) -> None:
    """Broken on purpose: with only From looked at, the second and the third were queued."""
    key = await desk.key(domains=("sender.example",))
    reply = await desk.hand_in(message, key=key, mail_from=mail_from)
    assert reply.startswith("550 5.7.1 The API key may not send from ")
    assert await desk.count() == 0
    await desk.stored(await desk.hand_in("From: A <a@SENDER.example>\r\n\r\nb", key=key, mail_from=""))


UNUSABLE: dict[str, bytes] = {
    "no From": b"Subject: x\r\n\r\nb",
    "nothing": b"",
    "no header": b"\r\nFrom: a@sender.example\r\n\r\nb",
    "two From fields": b"From: a@sender.example\r\nFrom: b@sender.example\r\n\r\nb",
    "two mailboxes": b"From: a@sender.example, b@sender.example\r\n\r\nb",
    "a group": b"From: undisclosed-recipients:;\r\n\r\nb",
    "no address": b"From: root\r\n\r\nb",
    "two in angle brackets": b"From: <a@evil.example> <b@sender.example>\r\n\r\nb",
    "a line that is no field": b"From: a@sender.example\r\nwhat is this\r\nSubject: x\r\n\r\nb",
    "an mbox line": b"From a@sender.example Tue Jul 1\r\nFrom: a@sender.example\r\n\r\nb",
    "a fold first": b" From: b@evil.example\r\nFrom: a@sender.example\r\n\r\nb",
    "a NUL": b"From: a@sender.example\r\n\r\nb\0",
    "a control character": b"From: a@sender.example\r\nSubject: x\x0bBcc: y@z.example\r\n\r\nb",
    "a line separator": "From: a@sender.example\r\nSubject: x\u2028Bcc: y@z.example\r\n\r\nb".encode(),
    "Latin-1": b"From: a@sender.example\r\nSubject: \xe4\r\n\r\nb",
    "a header without end": b"From: a@sender.example\r\n" + b"X-Filler: y\r\n" * 30_000 + b"\r\nb",
    "too many tags": b"From: a@sender.example\r\n" + b"X-Postroom-Tag: y\r\n" * 51 + b"\r\nb",
    "a tag of several words": b"From: a@sender.example\r\nX-Postroom-Tag: a b\r\n\r\nb",
    "a tag without a name": b"From: a@sender.example\r\nX-Postroom-Tag: =b\r\n\r\nb",
    "metadata that is a list": b"From: a@sender.example\r\nX-Postroom-Metadata: []\r\n\r\nb",
    "metadata that is no JSON": b"From: a@sender.example\r\nX-Postroom-Metadata: {a}\r\n\r\nb",
    "metadata with NUL": b'From: a@sender.example\r\nX-Postroom-Metadata: {"a": "\\u0000"}\r\n\r\nb',
    "metadata without floor": b'From: a@sender.example\r\nX-Postroom-Metadata: {"a": ' + b"[" * 5000 + b"\r\n\r\nb",
    "deep metadata": b'From: a@sender.example\r\nX-Postroom-Metadata: {"a": ' + b"[" * 300 + b"]" * 300 + b"}\r\n\r\nb",
    "long metadata": b'From: a@sender.example\r\nX-Postroom-Metadata: {"a": "' + b"x" * 16_384 + b'"}\r\n\r\nb',
    "metadata twice": b"From: a@sender.example\r\nX-Postroom-Metadata: {}\r\nX-Postroom-Metadata: {}\r\n\r\nb",
    "a topic of several words": b"From: a@sender.example\r\nX-Postroom-Unsubscribe: a b\r\n\r\nb",
    "two ways to unsubscribe": b"From: a@b.example\r\nX-Postroom-Unsubscribe: *\r\nList-Unsubscribe: <x:y>\r\n\r\nb",
    "no time": b"X-Postroom-Scheduled-At: some day\r\nFrom: a@sender.example\r\n\r\nb",
    "a far time": b"X-Postroom-Scheduled-At: in 99999 weeks\r\nFrom: a@sender.example\r\n\r\nb",
    "two times": b"X-Postroom-Scheduled-At: in 5 min\r\n" * 2 + b"From: a@sender.example\r\n\r\nb",
    "no number": b"X-Postroom-Expires-In: 5 min\r\nFrom: a@sender.example\r\n\r\nb",
    "no seconds": b"X-Postroom-Expires-In: 0\r\nFrom: a@sender.example\r\n\r\nb",
    "too many seconds": b"X-Postroom-Expires-In: 2592001\r\nFrom: a@sender.example\r\n\r\nb",
    "no such way": b"X-Postroom-On-Unknown: drop\r\nFrom: a@sender.example\r\n\r\nb",
    "an empty choice": b"X-Postroom-On-Suppressed:\r\nFrom: a@sender.example\r\n\r\nb",
    "two idempotency keys": b"X-Postroom-Idempotency-Key: a\r\n" * 2 + b"From: a@sender.example\r\n\r\nb",
    "an empty idempotency key": b"X-Postroom-Idempotency-Key:\r\nFrom: a@sender.example\r\n\r\nb",
    "a long idempotency key": b"X-Postroom-Idempotency-Key: " + b"k" * 256 + b"\r\nFrom: a@sender.example\r\n\r\nb",
}


@pytest.mark.parametrize("message", UNUSABLE.values(), ids=UNUSABLE.keys())
async def test_a_message_that_cannot_be_used_is_refused_for_good(desk: Desk, message: bytes) -> None:
    assert (await desk.hand_in(message)).startswith("554 5.6.0 The message cannot be sent: ")
    assert await desk.count() == 0


async def test_a_message_with_more_than_fifty_hops_is_refused_for_good(desk: Desk) -> None:
    """RFC 5321 6.3."""
    hops = "Received: from a.example by b.example; Mon, 1 Jan 2024 00:00:00 +0000\r\n"
    assert (await desk.hand_in(hops * 51 + MESSAGE)).startswith("554 5.4.6 ")
    assert await desk.count() == 0
    await desk.stored(await desk.hand_in(hops * 50 + MESSAGE))


async def test_bad_addresses_of_the_envelope_are_refused(desk: Desk) -> None:
    peer = await desk.peer(await desk.key())
    await peer.talk(
        ("MAIL FROM:<app@sender.example>", "250"),
        ("RCPT TO:<postmaster>", "501 5.1.3"),
        ("RCPT TO:<a@[127.0.0.1]>", "501 5.1.3"),
        ("RCPT TO:<a@b..example>", "501 5.1.3"),
        ("RCPT TO:<anybody@anywhere.example>", "250"),
    )
    assert (await desk.hand_in(mail_from="root")).startswith("554 5.6.0")


async def test_an_email_has_fifty_recipients_at_most(desk: Desk) -> None:
    peer = await desk.peer(await desk.key())
    await peer.talk(("MAIL FROM:<app@sender.example>", "250"))
    await peer.talk(*((f"RCPT TO:<u{number}@one.example>", "250") for number in range(50)))
    await peer.talk(("RCPT TO:<u50@one.example>", "452 4.5.3"), ("DATA", "354"))
    await peer.send(MESSAGE.encode() + b".\r\n")
    _, _, deliveries = await desk.stored((await peer.reply()).strip())
    assert len(deliveries) == 50


async def test_a_message_over_the_limit_is_refused_before_it_is_sent_and_after(
    database: db.Database, account_id: UUID
) -> None:
    async with standing(database, account_id, max_message_bytes=2000) as desk:
        peer = await desk.peer(await desk.key())
        await peer.talk(("MAIL FROM:<app@sender.example> SIZE=2001", "552 5.3.4"))
        assert (await desk.hand_in(MESSAGE + "x" * 70 + ("\r\n" + "x" * 70) * 40)).startswith("552 5.3.4")
        await desk.stored(await desk.hand_in())


async def test_a_full_queue_is_a_refusal_for_now(database: db.Database, account_id: UUID) -> None:
    async with standing(database, account_id, max_queued=1) as desk:
        await desk.stored(await desk.hand_in())
        assert (await desk.hand_in()).startswith("452 4.3.1 1 recipients wait")


class Cable:
    """A way to Postgres that can be cut."""

    def __init__(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        self._database = parts.path
        self._socket = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
        self._ends: list[asyncio.StreamWriter] = []

    async def laid(self) -> str:
        """The DSN that goes through it."""
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return f"postgresql://postroom@127.0.0.1:{port}{self._database}?sslmode=disable"

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(self._socket)
        self._ends += [writer, back]
        with contextlib.suppress(OSError):
            await asyncio.gather(_pour(reader, back), _pour(there, writer))

    def cut(self) -> None:
        self._server.close()
        for end in self._ends:
            end.transport.abort()


async def _pour(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while some := await source.read(65_536):
        target.write(some)
        await target.drain()
    target.close()


async def test_a_database_that_goes_away_is_a_refusal_for_now(dsn: str, account_id: UUID) -> None:
    cable = Cable(dsn)
    async with databases.opened(await cable.laid()) as database, standing(database, account_id) as desk:
        peer = await desk.peer(await desk.key())
        await peer.talk(
            ("MAIL FROM:<app@sender.example>", "250"), ("RCPT TO:<ann@one.example>", "250"), ("DATA", "354")
        )
        cable.cut()
        await peer.send(MESSAGE.encode() + b".\r\n")
        await peer.expect("451 4.3.0")


async def test_a_large_message_is_taken_whole(desk: Desk) -> None:
    body = b"x" * 70 + b"\r\n"
    _, raw, _ = await desk.stored(await desk.hand_in(MESSAGE.encode() + body * 10_000))
    assert raw.endswith(b"hello\r\n" + body * 10_000 + b"\r\n")


async def test_a_usual_client_is_told_the_id(desk: Desk) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "App <app@sender.example>", "ann@one.example", "Grüße"
    message.set_content("hello")
    host, port = desk.port.address
    refused, reply = await aiosmtplib.send(
        message, hostname=host, port=port, username="me", password=await desk.key(), start_tls=False
    )
    assert refused == {}
    found, _, _ = await desk.stored(f"250 {reply}")
    assert found.subject == "Grüße"
    async with desk.database.connection() as connection:
        assert await messages.content_exists(connection, desk.account_id, found.id)


@pytest.mark.parametrize("raw", [b"From: a@b.example", b"From: a@b.example\r\n", b"From: a@b.example\r\n\r\n"])
def test_a_header_alone_is_a_message(raw: bytes) -> None:
    read = submitted.read(raw, name="n", now=datetime(2025, 7, 1, tzinfo=UTC))
    assert read.raw == (
        b"From: a@b.example\r\nMessage-ID: <n@b.example>\r\nDate: Tue, 01 Jul 2025 00:00:00 +0000\r\n\r\n"
    )
