"""The submission port (RFC 6409): mail that an account's own programs hand in to be sent.

    SubmissionSMTP   the session: AUTH with any user name and an API key, without which there is no MAIL
    Submissions      its desk: what the message and its envelope ask for, put into the outbox like POST /v1/emails

The message is kept as its author wrote it (gateway.mail.submitted says what is taken out and added). To whom it goes
the envelope alone decides; a recipient that neither To nor Cc names is a blind copy.
"""

# ruff: noqa: N802 - a verb's method bears the verb's name

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Final, cast
from uuid import UUID

import msgspec
import prometheus_client
import structlog

from gateway import errors, telemetry, tokens
from gateway.inbound import protocol
from gateway.inbound.protocol import Goodbye, PeerGone, Phase, Refused
from gateway.mail import address, submitted
from gateway.mail.address import Address, Mailbox
from gateway.models import Caller
from gateway.notify.rates import Limiter
from gateway.outbound import moments, send
from gateway.settings import Settings
from gateway.storage import db, idempotency, suppressions
from gateway.storage.callers import Callers

log = structlog.get_logger(__name__)
seldom: Final = telemetry.Seldom(log, most=60)

# outcome: "accepted", "failed" (no such key), "restricted" (a key that may not send), "shut_out" (too many failed from
# this address), "suspended" (the account is), "unavailable"
AUTHENTICATED = prometheus_client.Counter("postroom_submission_authentications", "Attempts to log in", ["outcome"])

ENDPOINT: Final = "SMTP submission"  # what idempotency keys given here belong to
MAX_FAILURES: Final = 3  # of one session
LARGE: Final = 262_144  # bytes; from here on a message is read off the event loop
MAX_DEPTH: Final = 200  # of metadata, nested
MAX_TEXT: Final = 400  # characters of a reply that say why
LONGEST_WAIT: Final = 2_592_000  # seconds until an e-mail expires, as for POST /v1/emails
_KEY = re.compile(r"[ -~]{1,255}")
_TAG_TEXT = re.compile(r"[A-Za-z0-9_-]{1,256}")
_encode: Final = msgspec.json.Encoder().encode

LOG_IN: Final = "530 5.7.0 Authentication required"
ENCRYPT: Final = "530 5.7.0 Must issue a STARTTLS command first"  # RFC 3207 4
ENCRYPT_TO_LOG_IN: Final = "538 5.7.11 Encryption required, say STARTTLS first"  # RFC 4954 4
LOGGED_IN: Final = "235 2.7.0 Authentication succeeded"
NO_SUCH_KEY: Final = "535 5.7.8 The password must be a valid API key"
MAY_NOT_SEND: Final = "535 5.7.8 This API key lacks the scope send"
CANNOT_TELL: Final = "454 4.7.0 Temporary authentication failure, try again later"
SHUT_OUT: Final = "421 4.7.0 Too many failed authentications from your address, try again later"
SUSPENDED: Final = "454 4.7.0 The account is suspended"
TOO_FAST: Final = "450 4.7.1 Too many messages, slow down and try again"
TOO_MANY_FAILURES: Final = "421 4.7.0 Too many failed authentications, closing"
BAD_RECIPIENT: Final = "501 5.1.3 Bad recipient address syntax"
UNUSABLE: Final = "554 5.6.0"
UNKNOWN_WISH: Final = "550 5.5.4"
TOO_MANY_HOPS: Final = "554 5.4.6"
USED_OTHERWISE: Final = "X-Postroom-Idempotency-Key was used with another message or envelope"

# How an error's kind is said; the first that fits. RFC 3463.
_CODES: Final[Sequence[tuple[type[errors.ApiError], str]]] = (
    (db.NoRoom, "452 4.3.1"),
    (errors.QuotaExceeded, "452 4.3.1"),
    (errors.RateLimitExceeded, "452 4.3.1"),
    (errors.Unavailable, "451 4.3.0"),
    (errors.ConcurrentIdempotentRequests, "451 4.3.0"),
    (errors.RestrictedApiKey, "550 5.7.1"),
    (errors.InvalidIdempotentRequest, "550 5.7.1"),
    (errors.RecipientSuppressed, "550 5.7.1"),
    (errors.InternalError, "451 4.3.0"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission(protocol.Incoming):
    """A message, and who submits it."""

    caller: Caller  # as the key was when MAIL was said


class Submissions:
    """The desk of the submission port."""

    def __init__(self, outbox: send.Outbox, callers: Callers, limiter: Limiter, settings: Settings) -> None:
        self.callers = callers
        self.limiter = limiter
        self.allows_clear = settings.postroom_dev  # AUTH without TLS
        self._outbox = outbox
        self._turns = idempotency.Turns()

    async def recipient(self, address: str, envelope_from: str) -> str | None:
        """None takes the recipient: whoever may send may send to everybody."""
        return None if _address(address) else BAD_RECIPIENT

    async def deliver(self, incoming: protocol.Incoming) -> str:
        """The reply to the final dot: "250 2.0.0 queued as <e-mail id>" after the commit, or what is wrong."""
        if not isinstance(incoming, Submission):
            raise TypeError("the submission port is spoken by SubmissionSMTP")
        try:
            email_id, replayed = await self._send(incoming)
        except submitted.GoesInCircles as error:
            return _reply(TOO_MANY_HOPS, f"The message goes in circles: {error}")
        except submitted.UnknownWish as error:
            return _reply(UNKNOWN_WISH, f"The message cannot be sent: {error}")
        except submitted.Unusable as error:
            return _reply(UNUSABLE, f"The message cannot be sent: {error}")
        except errors.ApiError as error:
            return refusal(error)
        log.info(
            "email submitted", account_id=str(incoming.caller.account_id), email_id=str(email_id), replayed=replayed
        )
        return f"250 2.0.0 queued as {email_id}"

    async def _send(self, incoming: Submission) -> tuple[UUID, bool]:
        """The e-mail's id, and whether it is the one of an earlier submission."""
        clock = self._outbox.clock
        email_id, now = clock.uuid7(), clock.now()
        message = await _read(incoming, name=str(email_id), now=now)
        mail_from = _reverse_path(incoming)
        named = (message.from_, message.sender)
        _check_senders(incoming.caller, [mail_from, *(mailbox.address for mailbox in named if mailbox)])
        prepared = send.Prepared(
            id=email_id,
            request=_request(incoming.rcpt_to, message, now),
            raw=message.raw,
            message_id=message.message_id,
            mail_from=str(mail_from or ""),
        )
        account_id, once = incoming.caller.account_id, _once(incoming, message)
        async with self._turns.turn(account_id, once):
            receipt = await self._outbox.send_written(account_id, prepared, once)
        return UUID(receipt.answer["id"]), receipt.replayed


class SubmissionSMTP(protocol.InboundSMTP):
    """One session: nothing is taken before AUTH, and nothing is authenticated in the clear (but in dev)."""

    takes_binary = False  # the next hop may not

    def __init__(self, service: protocol.Service) -> None:
        super().__init__(service)
        self._desk = cast("Submissions", service.desk)
        self._key: bytes | None = None  # hash of the key that the peer logged in with
        self._caller: Caller | None = None  # whose it was when MAIL was said
        self._failures = 0

    @property
    def _may_log_in(self) -> bool:
        return self.tls or self._desk.allows_clear

    def extensions(self) -> list[str]:
        offered = super().extensions()
        return [*offered, f"AUTH {' '.join(self.mechanisms)}"] if self._may_log_in else offered

    async def smtp_STARTTLS(self, arg: str | None) -> None:
        await super().smtp_STARTTLS(arg)
        self._key = None  # RFC 3207 4.2: all that was said in the clear is forgotten

    async def smtp_MAIL(self, arg: str | None) -> None:
        self._require_hello()
        if self._key is None:
            raise Refused(LOG_IN if self._may_log_in or not self.offers_tls else ENCRYPT)
        self._caller = await self._still(self._key)
        standing = self._desk.limiter.request(self._caller)
        if standing is not None and not standing.allowed:
            raise Refused(TOO_FAST)
        await super().smtp_MAIL(arg)

    async def _still(self, key: bytes) -> Caller:
        """Whose the key is: sessions are long, and keys are revoked."""
        self._phase = Phase.DESK
        try:
            caller = await self._desk.callers.holding(key)
        except errors.InvalidApiKey:
            self._key = None
            raise Refused(LOG_IN) from None
        except errors.RestrictedApiKey:
            raise Refused(SUSPENDED) from None
        except errors.Unavailable:
            raise Refused(protocol.FAILED) from None
        return caller

    def _incoming(self, receipt_id: UUID, envelope: Any, raw: bytes) -> protocol.Incoming:
        incoming = super()._incoming(receipt_id, envelope, raw)
        values = {field.name: getattr(incoming, field.name) for field in dataclasses.fields(incoming)}
        return Submission(**values, caller=cast("Caller", self._caller))

    # AUTH (RFC 4954)

    async def smtp_AUTH(self, arg: str | None) -> None:
        self._require_hello()
        if self._key is not None:
            raise Refused("503 5.5.1 Authenticated already")
        if not self._may_log_in:
            raise Refused(ENCRYPT_TO_LOG_IN)
        name, _, initial = (arg or "").partition(" ")
        mechanism = self.mechanisms.get(name.upper())
        if mechanism is None:
            raise Refused(f"504 5.5.4 Mechanisms are {' and '.join(self.mechanisms)}")
        await self._log_in(await mechanism(self, initial.strip() or None))

    async def _plain(self, initial: str | None) -> str:
        """The password of RFC 4616: whom to act for, user name, password; between them NUL."""
        response = _decoded(initial) if initial is not None else await self._ask(b"")
        parts = response.split(b"\0")
        if len(parts) != 3:
            raise Refused("501 5.5.2 Not a PLAIN response")
        return parts[2].decode("utf-8", "replace")

    async def _login(self, initial: str | None) -> str:
        """The password, asked for after the user name (draft-murchison-sasl-login)."""
        if initial is None:
            await self._ask(b"Username:")
        return (await self._ask(b"Password:")).decode("utf-8", "replace")

    async def _ask(self, challenge: bytes) -> bytes:
        self._say(f"334 {base64.b64encode(challenge).decode()}")
        line = await self._next_command()
        if line is None:
            raise PeerGone
        self._transcript.heard_secret()
        response = line.decode("ascii", "replace").strip()
        if response == "*":
            raise Refused("501 5.0.0 Authentication cancelled")
        return _decoded(response)

    async def _log_in(self, password: str) -> None:
        """The user name does not matter: a key says whose it is."""
        self._phase = Phase.DESK
        if not self._desk.callers.remembers(password) and self._desk.limiter.shut_out(self.remote_ip):
            AUTHENTICATED.labels("shut_out").inc()
            raise Goodbye(SHUT_OUT)
        try:
            caller = await self._desk.callers.of(password)
        except errors.InvalidApiKey:
            self._desk.limiter.failed(self.remote_ip)
            self._fail(NO_SUCH_KEY, "failed")
            return
        except errors.RestrictedApiKey:
            AUTHENTICATED.labels("suspended").inc()
            raise Refused(SUSPENDED) from None
        except errors.Unavailable:
            AUTHENTICATED.labels("unavailable").inc()
            raise Refused(CANNOT_TELL) from None
        if not caller.has_any({"send"}):
            self._fail(MAY_NOT_SEND, "restricted")
            return
        self._key = tokens.hash_token(password)
        AUTHENTICATED.labels("accepted").inc()
        self._say(LOGGED_IN)
        self._transcript.settle()

    def _fail(self, reply: str, outcome: str) -> None:
        """Nothing that the peer said is logged: keys are typed into the wrong field, too."""
        self._failures += 1
        AUTHENTICATED.labels(outcome).inc()
        seldom.info("authentication failed", remote_ip=self.remote_ip, outcome=outcome, failures=self._failures)
        self._say(reply)
        if self._failures >= MAX_FAILURES:
            raise Goodbye(TOO_MANY_FAILURES)

    # By name; each takes the initial response, where there is one, and returns the password.
    mechanisms: ClassVar[Mapping[str, Callable[[SubmissionSMTP, str | None], Awaitable[str]]]] = {
        "PLAIN": _plain,
        "LOGIN": _login,
    }


def limits(settings: Settings) -> protocol.Limits:
    """Those of mail coming in, and no more recipients than an e-mail may have."""
    usual = protocol.Limits.of(settings)
    return dataclasses.replace(usual, recipients=min(usual.recipients, send.MAX_RECIPIENTS))


def refusal(error: errors.ApiError) -> str:
    """The reply that says an error of the API's."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), UNUSABLE)
    return _reply(code, USED_OTHERWISE if isinstance(error, errors.InvalidIdempotentRequest) else error.message)


def _reply(code: str, text: str) -> str:
    """One line of ASCII."""
    line = " ".join(text.encode("ascii", "replace").decode().split())
    return f"{code} {line[:MAX_TEXT]}"


def _decoded(response: str) -> bytes:
    if response == "=":  # RFC 4954 4: an initial response that is empty
        return b""
    try:
        return base64.b64decode(response, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("501 5.5.2 Not base64") from None


# From the message to a request


async def _read(incoming: Submission, *, name: str, now: datetime) -> submitted.Submitted:
    if len(incoming.raw) < LARGE:
        return submitted.read(incoming.raw, name=name, now=now)
    return await asyncio.to_thread(submitted.read, incoming.raw, name=name, now=now)


def _address(text: str) -> Address | None:
    with contextlib.suppress(address.InvalidAddress):
        return address.parse(text)
    return None


def _reverse_path(incoming: Submission) -> Address | None:
    """None for <>. Raises Unusable."""
    mail_from = _address(incoming.mail_from)
    if incoming.mail_from and mail_from is None:
        raise submitted.Unusable("the sender of its envelope is no valid address")
    return mail_from


def _check_senders(caller: Caller, senders: Iterable[Address | None]) -> None:
    """Raise RestrictedApiKey for the first whose domain the key may not use."""
    for sender in senders:
        if sender is not None and caller.domains and sender.ascii_domain not in caller.domains:
            raise errors.RestrictedApiKey(f"The API key may not send from {sender.ascii_domain}.")


def _request(rcpt_to: Sequence[str], message: submitted.Submitted, now: datetime) -> send.Request:
    to, cc, bcc = _kinds(rcpt_to, message)
    return send.Request(
        from_=message.from_,
        to=to,
        cc=cc,
        bcc=bcc,
        reply_to=message.reply_to,
        subject=message.subject,
        tags=_tags(message.tags),
        metadata=_metadata(message.metadata),
        scheduled_at=_moment(message.scheduled_at, now),
        expires_in=_seconds(submitted.EXPIRES_IN, message.expires_in),
        on_unknown=_choice(submitted.ON_UNKNOWN, message.on_unknown, ("retry", "hold")),
        on_suppressed=_choice(submitted.ON_SUPPRESSED, message.on_suppressed, ("skip", "reject")),
        source="smtp",
        topic=_topic(message.unsubscribe),
    )


def _kinds(
    rcpt_to: Sequence[str], message: submitted.Submitted
) -> tuple[tuple[Mailbox, ...], tuple[Mailbox, ...], tuple[Mailbox, ...]]:
    """The envelope's recipients, each once: those that To names, those that Cc names, and the others."""
    wanted: dict[str, Mailbox] = {}
    for recipient in filter(None, map(_address, rcpt_to)):
        wanted.setdefault(recipient.canonical, Mailbox(address=recipient))
    named = [
        {mailbox.address.canonical: mailbox.name for mailbox in reversed(mailboxes)}
        for mailboxes in (message.to, message.cc)
    ]
    kinds: tuple[list[Mailbox], list[Mailbox], list[Mailbox]] = ([], [], [])
    for canonical, mailbox in wanted.items():
        place = next((index for index, names in enumerate(named) if canonical in names), 2)
        name = named[place][canonical] if place < len(named) else None
        kinds[place].append(dataclasses.replace(mailbox, name=name))
    to, cc, bcc = kinds
    return tuple(to), tuple(cc), tuple(bcc)


def _tags(values: Sequence[str]) -> tuple[Mapping[str, str], ...]:
    """`name=value`, or a value alone, which is named "tag"."""
    if len(values) > send.MAX_TAGS:
        raise submitted.Unusable(f"more than {send.MAX_TAGS} X-Postroom-Tag fields")
    return tuple(_tag(value) for value in values)


def _tag(text: str) -> Mapping[str, str]:
    name, equals, value = text.partition("=")
    tag = {"name": name, "value": value} if equals else {"name": "tag", "value": text}
    if not all(_TAG_TEXT.fullmatch(part) for part in tag.values()):
        raise submitted.Unusable("X-Postroom-Tag takes letters, digits, _ and -, or two such words with = between")
    return tag


def _topic(text: str | None) -> str | None:
    """`*` is all mail of the sender's domain, and then empty."""
    if text is None or text == "*":
        return "" if text else None
    if not suppressions.is_topic(text):
        raise submitted.Unusable("X-Postroom-Unsubscribe takes a topic (lower-case letters, digits, ., _ and -) or *")
    return text


def _metadata(text: str | None) -> Mapping[str, Any]:
    if text is None:
        return {}
    try:
        metadata = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        raise submitted.Unusable("X-Postroom-Metadata is not a JSON object") from None
    if _is_deep(metadata, MAX_DEPTH):
        raise submitted.Unusable(f"X-Postroom-Metadata is nested more than {MAX_DEPTH} deep")
    encoded = _encode(metadata)
    if len(encoded) > send.MAX_METADATA_BYTES:
        raise submitted.Unusable(f"X-Postroom-Metadata has more than {send.MAX_METADATA_BYTES} bytes of JSON")
    if b"\\u0000" in encoded.replace(b"\\\\", b""):  # Postgres has no NUL in text
        raise submitted.Unusable("X-Postroom-Metadata holds a NUL")
    return metadata


def _moment(text: str | None, now: datetime) -> datetime | None:
    try:
        return moments.read(text, now)
    except errors.ValidationFailed as error:
        raise submitted.Unusable(f"{submitted.SCHEDULED_AT.title()}: {error.errors[0].message}") from None


def _choice(name: str, text: str | None, choices: Sequence[str]) -> str:
    """The first one where the field is missing."""
    word = choices[0] if text is None else text.strip().lower()
    if word not in choices:
        raise submitted.Unusable(f"{name.title()} is {' or '.join(choices)}")
    return word


def _seconds(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    digits = text.strip()
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= len(str(LONGEST_WAIT))):
        raise submitted.Unusable(f"{name.title()} is a number of seconds")
    if not 1 <= int(digits) <= LONGEST_WAIT:
        raise submitted.Unusable(f"{name.title()} is 1 to {LONGEST_WAIT} seconds")
    return int(digits)


def _is_deep(value: Any, left: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return left == 0 or any(_is_deep(one, left - 1) for one in inner)


def _once(incoming: Submission, message: submitted.Submitted) -> idempotency.Once | None:
    """Where the message carries a key. The same again is the same octets in the same envelope."""
    key = message.idempotency_key
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise submitted.Unusable("X-Postroom-Idempotency-Key must be 1 to 255 printable characters")
    envelope = "\0".join((incoming.mail_from, *incoming.rcpt_to, ""))
    return idempotency.Once(
        endpoint=ENDPOINT, key=key, fingerprint=hashlib.sha256(envelope.encode() + incoming.raw).digest()
    )
