"""The SMTP dialogue of one session: commands, replies, the bytes of a message, deadlines and limits.

What to do with mail is not decided here: a `Desk` judges each recipient and takes each message, and its words are what
the peer hears. aiosmtpd gives the frame (connection, session and envelope records, one `smtp_*` method for each verb);
its command loop, its reader of DATA and its replies are replaced, because they hold a message without bound, answer
exceptions with their text, and cost more than storing the mail does.

Two decisions about the wire. Only CRLF.CRLF ends a message: every other ending is content, kept as it came. A command
may end in a bare LF, for the person at a terminal.
"""

# ruff: noqa: N802 - a verb's method bears the verb's name

from __future__ import annotations

import asyncio
import collections
import contextlib
import enum
import functools
import re
import secrets
import ssl
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import ClassVar, Final, Protocol, cast

import prometheus_client
import structlog
from aiosmtpd import smtp
from uuid_utils.compat import uuid7

from gateway import telemetry, tracing
from gateway.inbound import transcript
from gateway.inbound.proxy import Network
from gateway.settings import Settings

log = structlog.get_logger(__name__)
seldom: Final = telemetry.Seldom(log)

# listener: "inbound", "inbound_tls", "submission", "submission_tls", as named by whoever opened it
MESSAGES = prometheus_client.Counter("postroom_smtp_messages_accepted", "Messages answered with 2xx", ["listener"])
RECEIVED = prometheus_client.Counter("postroom_smtp_bytes_received", "Bytes of messages received whole", ["listener"])
# code_class: "4xx", "5xx"
# reason: one of REASONS' values, "syntax" (and order of commands), "other"
REFUSALS = prometheus_client.Counter("postroom_smtp_refusals", "Refusing replies by reason", ["listener", "reason"])
REASONS: Final = {
    "421 4.3.2": "ending",
    "421 4.4.2": "timeout",
    "421 4.7.0": "too_many",
    "451 4.3.0": "our_fault",
    "452 4.2.2": "over_quota",
    "452 4.3.1": "no_room",
    "452 4.5.3": "recipients",
    "530 5.7.0": "authentication",
    "535 5.7.8": "authentication",
    "550 5.1.1": "no_such_mailbox",
    "550 5.7.1": "not_ours",
    "552 5.3.4": "too_large",
    "554 5.4.6": "loop",
}
REFUSED = prometheus_client.Counter("postroom_smtp_replies_refusing", "Refusing replies", ["listener", "code_class"])

READ_AHEAD = 1 << 16  # bytes held unread before reading pauses (at twice this); a read may bring as much again
COMMAND_BYTES = 4096  # longest command line, its line end included; RFC 5321 4.5.3.1.4 asks for 512
PATH_LENGTH = 512  # longest path, in characters; RFC 5321 4.5.3.1.3 asks for 256
DATA_FLOOR = 1 << 14  # bytes of budget that must be free for a message of undeclared size to begin
SKIP_FLOOR = 1 << 20  # bytes of a refused message that are read away, where messages are limited to less
SLICE = 1 << 20  # bytes of a message that are unstuffed in one go
REPLIES_HELD = 64  # replies to pipelined commands that may wait for one write
END_OF_DATA = b"\r\n.\r\n"  # RFC 5321 4.1.1.4: nothing else ends a message

TOO_BIG = "552 5.3.4 Message is too big"
NO_ROOM = "452 4.3.1 Out of memory for messages, try again later"
TIMED_OUT = "421 4.4.2 Timed out, closing"
SHUTTING_DOWN = "421 4.3.2 Shutting down, try again later"
FAILED = "451 4.3.0 Something went wrong here, try again later"

_PATH = r'(?:[^\s<>"]++|"(?:[^"\\]|\\.)*+")'
_PARAMETERS = r"(?:[ \t]++(?P<parameters>.*))?\Z"
# Brackets may be missing, as many devices leave them out; a half pair is refused.
_PATH_ARGUMENT = rf"[ \t]*(?:<(?P<path>{_PATH}*+)>|(?P<bare>{_PATH}++)){_PARAMETERS}"
_FROM = re.compile("FROM:" + _PATH_ARGUMENT, re.IGNORECASE)
_TO = re.compile("TO:" + _PATH_ARGUMENT, re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SIZE = re.compile(r"[0-9]{1,20}\Z")  # RFC 1870 4
_CHUNK = re.compile(r"(?P<size>[0-9]{1,20})(?P<last>[ \t]+LAST)?\Z", re.IGNORECASE)  # RFC 3030 2
_SANE_DOMAIN = re.compile(r"[^\[\]]*\Z|\[[0-9A-Za-z:.\-]+\]\Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class Incoming:
    """One message as the peer handed it over, not yet acknowledged."""

    receipt_id: uuid.UUID  # version 7, drawn when DATA begins; named in the reply whatever the outcome
    mail_from: str  # reverse path without brackets or source route; empty for <>
    rcpt_to: tuple[str, ...]  # accepted recipients as given, in order, duplicates included; never empty
    helo: str  # what the peer called itself; never verified
    remote_ip: str  # the peer's address; may be empty where the socket has none
    tls: bool  # whether the session is encrypted
    smtputf8: bool  # whether MAIL asked for SMTPUTF8 (RFC 6531)
    raw: bytes  # the message, dots unstuffed, otherwise byte for byte; may be empty
    # What was said until the message was there, in order: "S: …" or "C: …" of at most 500 characters, and the
    # recipient, as in rcpt_to, that the line is about, if any. No secrets; empty where no dialogue led to the message.
    transcript: tuple[transcript.Line, ...] = ()
    session_id: str = ""  # of the SMTP session, as it stands in its log lines; empty = there was none
    trace: str | None = field(default_factory=tracing.stored)  # of the request that brought it; None = it had none


class Desk(Protocol):
    """Who judges recipients and takes mail. Either method may raise HungUp."""

    async def recipient(self, address: str, envelope_from: str) -> str | None:
        """None takes the recipient; otherwise the whole reply line that refuses it, such as "550 5.7.1 …".

        Asked at RCPT with the session waiting: it should seldom need I/O.
        """

    async def deliver(self, incoming: Incoming) -> str:
        """The reply to the final dot, such as "250 2.0.0 queued as …". It is not cancelled when the peer hangs up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one session may take of this process."""

    message_bytes: int  # octets of a message, dots unstuffed (RFC 1870)
    recipients: int  # of one message; more hear 452
    messages: int  # of one session; then 421
    errors: int  # refused commands (5xx) and failures of one session; then 421
    idle_seconds: float  # silence between commands
    session_seconds: float  # the whole session; looked at between messages
    data_seconds: float  # one message, from 354 to the final dot
    min_data_rate: int  # bytes a second, averaged over DATA so far; 0 = any
    rate_grace_seconds: float = 30  # how long DATA may be slower than that
    linger_seconds: float = 2  # how long the peer has to read the last reply of a session that was cut off
    handshake_seconds: float = 30  # a TLS handshake
    proxy_seconds: float = 5  # the PROXY header, from a proxy

    @property
    def shortest(self) -> float:
        """The nearest that a deadline can be."""
        waits = (self.idle_seconds, self.session_seconds, self.data_seconds, self.rate_grace_seconds)
        return min(waits)

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        return cls(
            message_bytes=settings.max_message_bytes,
            recipients=settings.smtp_max_recipients,
            messages=settings.smtp_max_messages_per_session,
            errors=settings.smtp_max_errors,
            idle_seconds=settings.smtp_idle_seconds,
            session_seconds=settings.smtp_session_seconds,
            data_seconds=settings.smtp_data_seconds,
            min_data_rate=settings.smtp_min_data_rate,
        )


class Refused(Exception):
    """A command is refused with this reply; the session goes on."""

    def __init__(self, reply: str) -> None:
        super().__init__(reply)
        self.reply = reply


class Goodbye(Refused):
    """The session ends with this reply."""


class HungUp(Exception):
    """The desk wants the connection dropped, and no reply said to what it was asked."""


class PeerGone(Exception):
    """The peer closed the connection, or it broke."""


class Budget:
    """Bytes that messages in flight may hold in this process; one for all its listeners.

    A message counts once while it arrives and four times while it is stored, which is what it costs then. So that
    messages that wait for their other three shares cannot block each other for ever, one is always let through: the
    true bound is the limit and three times the largest message.
    """

    STORING = 4

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.storing = 0  # messages that hold their four shares
        self.waiting: collections.deque[tuple[int, asyncio.Future[None]]] = collections.deque()  # shares asked for

    def has_room(self, size: int) -> bool:
        return self.used + size <= self.limit

    def hold(self) -> Hold:
        """A new message's share, empty as yet."""
        return Hold(self)

    def wake(self) -> None:
        """Lets those begin whose turn has come."""
        while self.waiting and self.may_store(self.waiting[0][0]):
            size, turn = self.waiting.popleft()
            if not turn.done():
                self.used += size
                self.storing += 1
                turn.set_result(None)

    def may_store(self, size: int) -> bool:
        return self.storing == 0 or self.has_room(size)


class Hold:
    """What one message holds of the budget."""

    __slots__ = ("_budget", "_size", "_storing")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._size = 0
        self._storing = False

    def resize(self, size: int) -> bool:
        """Holds `size` bytes from now on; False, and as many as before, where that is too much."""
        more = size - self._size
        if more > 0 and not self._budget.has_room(more):
            return False
        self._budget.used += more
        self._size = size
        return True

    async def store(self) -> None:
        """Waits until the message may be stored, and holds its four shares then."""
        budget, more = self._budget, self._size * (Budget.STORING - 1)
        if not budget.waiting and budget.may_store(more):
            budget.used += more
            budget.storing += 1
        else:
            await self._turn(more)
        self._size += more
        self._storing = True

    async def _turn(self, more: int) -> None:
        budget = self._budget
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        budget.waiting.append((more, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it came at the very moment the peer left
                budget.used -= more
                budget.storing -= 1
            with contextlib.suppress(ValueError):
                budget.waiting.remove((more, turn))
            budget.wake()
            raise

    def release(self) -> None:
        """Gives everything back; may be called again."""
        self._budget.used -= self._size
        self._budget.storing -= self._storing
        self._size, self._storing = 0, False
        if self._budget.waiting:
            self._budget.wake()


class Inlet(asyncio.StreamReader):
    """The stream reader, with two ways of reading that know SMTP: a command line and a message.

    The attributes declared here are asyncio's own and private; a test fails where they are gone.
    """

    _buffer: bytearray
    _eof: bool
    _exception: BaseException | None
    _transport: asyncio.BaseTransport | None
    _waiter: asyncio.Future[None] | None
    _wait_for_data: Callable[[str], Awaitable[None]]

    _dropped = 0  # bytes of the present message that were thrown away, or taken as chunks
    _interruption: Exception | None = None
    _overlong = False  # within a command line of which the beginning was thrown away

    def arrived(self) -> int:
        """Bytes of the present message so far."""
        return len(self._buffer) + self._dropped

    def clear(self) -> None:
        self._buffer.clear()

    def has(self, size: int) -> bool:
        """Whether so many bytes are here."""
        return len(self._buffer) >= size

    def follow(self, transport: asyncio.BaseTransport) -> None:
        """Reads from `transport` from now on."""
        self._transport = transport

    async def more(self) -> bool:
        """Waits for bytes; False when there will be none. PeerGone where the connection broke."""
        if self._interruption is not None:
            raise self._interruption
        if self._exception is not None:
            raise PeerGone from self._exception
        if self._eof:
            return False
        try:
            await self._wait_for_data("more")
        except OSError as error:
            raise PeerGone from error
        return True

    def interrupt(self, error: Exception) -> None:
        """Raises `error` in whoever waits for bytes, or does so next."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            self._interruption = error
        else:
            self._waiter = None
            waiter.set_exception(error)

    async def exhaust(self) -> None:
        """Throws away what comes until nothing more will."""
        self._interruption = None
        while await self.more():
            self._buffer.clear()

    def line(self) -> bytes | None:
        """The next command without its line end, or None while it is not whole."""
        buffer = self._buffer
        end = buffer.find(b"\n")
        if end < 0:
            if len(buffer) > COMMAND_BYTES:
                buffer.clear()
                self._overlong = True
            return None
        line = bytes(buffer[:end])
        del buffer[: end + 1]
        if self._overlong or end >= COMMAND_BYTES:
            self._overlong = False
            raise Refused("500 5.5.6 Command line is too long")
        return line.removesuffix(b"\r")

    async def message(self, limit: int, hold: Hold) -> bytes:
        """The message, dots unstuffed; at most `limit` bytes, held in the budget as they arrive.

        Refused where it is too big or the budget is spent, after reading to its end; Goodbye where the end is far;
        PeerGone where the peer left.
        """
        buffer = self._buffer
        buffer[:0] = b"\r\n"  # DATA's own line end: a lone dot right away is found by the same search
        wire_limit = limit + limit // 3 + len(END_OF_DATA)  # every line may be a stuffed dot
        start = self._dropped = 0
        while (end := buffer.find(END_OF_DATA, start)) < 0:
            held = len(buffer)
            if held > wire_limit:
                await self._skip(TOO_BIG, max(limit, SKIP_FLOOR), hold)
            if not hold.resize(held):
                await self._skip(NO_ROOM, max(limit, SKIP_FLOOR), hold)
            start = max(0, held - len(END_OF_DATA) + 1)
            if not await self.more():
                raise PeerGone
        return await self._take(end, limit, hold)

    def begin_chunks(self) -> None:
        """A new message comes, in chunks."""
        self._dropped = 0

    async def chunk(self, size: int, body: bytearray, hold: Hold) -> None:
        """Moves the next `size` bytes to the end of `body`, which is held in the budget.

        Refused where the budget is spent, after reading on to the chunk's end; PeerGone where the peer left.
        """
        while True:
            with memoryview(self._buffer) as view:
                body += view[:size]
            size -= self._drop(size)
            if not hold.resize(len(body)):
                await self.skip(size)
                raise Refused(NO_ROOM)
            if not size:
                return
            if not await self.more():
                raise PeerGone

    async def skip(self, size: int) -> None:
        """Throws the next `size` bytes away."""
        while size := size - self._drop(size):
            if not await self.more():
                raise PeerGone

    def _drop(self, size: int) -> int:
        count = min(size, len(self._buffer))
        del self._buffer[:count]
        self._dropped += count
        return count

    async def _take(self, end: int, limit: int, hold: Hold) -> bytes:
        fits = hold.resize(end)
        raw = await _unstuffed(self._buffer, end) if fits else b""
        del self._buffer[: end + len(END_OF_DATA)]
        if not fits:
            raise Refused(NO_ROOM)
        if len(raw) > limit:
            raise Refused(TOO_BIG)
        return raw

    async def _skip(self, reply: str, bound: int, hold: Hold) -> None:
        """Reads on to the end of the message, so that the peer hears the reply rather than a reset."""
        hold.resize(0)
        buffer = self._buffer
        keep = len(END_OF_DATA) - 1
        while (end := buffer.find(END_OF_DATA)) < 0:
            surplus = max(0, len(buffer) - keep)
            self._dropped += surplus
            if self._dropped > bound:
                raise Goodbye(reply)
            del buffer[:surplus]
            if not await self.more():
                raise PeerGone
        del buffer[: end + len(END_OF_DATA)]
        raise Refused(reply)


async def _unstuffed(buffer: bytearray, end: int) -> bytes:
    """The message before `end` in a buffer that starts with DATA's line end (RFC 5321 4.5.2). Of a large one a slice at
    a time: between two of them others have their turn."""
    begin, end, pieces = 2, end + 2, []
    if end > begin and buffer[begin] == 0x2E:
        begin += 1
    while begin < end:
        cut = min(_whole(buffer, begin + SLICE), end)
        with memoryview(buffer) as view:
            piece = bytes(view[begin:cut])
        pieces.append(piece.replace(b"\r\n.", b"\r\n") if b"\r\n." in piece else piece)
        begin = cut
        if begin < end:
            await asyncio.sleep(0)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _whole(buffer: bytearray, cut: int) -> int:
    """The same place, or the next one that divides no stuffed dot from its line end."""
    for before in (1, 2):
        if buffer[cut - before : cut - before + 3] == b"\r\n.":
            return cut - before + 3
    return cut


@dataclass(kw_only=True, slots=True)
class Chunks:
    """A message that comes in chunks (RFC 3030), as far as it is here."""

    receipt_id: uuid.UUID
    hold: Hold
    began: float  # when the first chunk was announced, by the loop's clock
    body: bytearray = field(default_factory=bytearray)
    refused: bool = False  # whatever follows is read away, until RSET or the last chunk

    def refuse(self) -> None:
        self.refused = True
        self.discard()

    def discard(self) -> None:
        self.hold.release()
        self.body = bytearray()


@dataclass(kw_only=True, slots=True)
class Service:
    """What the sessions of one listener share."""

    desk: Desk
    limits: Limits
    budget: Budget
    hostname: str  # said in the banner and in the reply to EHLO
    context: Callable[[], ssl.SSLContext] | None = None  # for the handshake that begins; None = no TLS
    implicit_tls: bool = False  # the port is all TLS: the handshake comes first
    proxies: tuple[Network, ...] = ()  # whose connections begin with a PROXY header
    listener: str = "inbound"  # the metrics' label
    draining: bool = False  # no new transaction begins
    arrive: Callable[[InboundSMTP], str | None] = lambda _session: None  # the reply that turns a connection away
    identify: Callable[[InboundSMTP], str | None] = lambda _session: None  # likewise, when it is known whose it is
    depart: Callable[[InboundSMTP], None] = lambda _session: None  # called once for each that arrived
    # messages being delivered, their peers gone or not; None instead of a reply: hang up
    commits: set[asyncio.Task[str | None]] = field(default_factory=set)
    accepted: prometheus_client.Counter = field(init=False)
    received: prometheus_client.Counter = field(init=False)
    refused: dict[str, prometheus_client.Counter] = field(init=False)  # by a reply's first digit

    def __post_init__(self) -> None:
        self.accepted = MESSAGES.labels(self.listener)
        self.received = RECEIVED.labels(self.listener)
        self.refused = {digit: REFUSED.labels(self.listener, f"{digit}xx") for digit in "45"}

    def commit(self, incoming: Incoming, hold: Hold) -> asyncio.Task[str | None]:
        """Delivers the message in a task of its own, which gives back what it holds of the budget."""
        task = asyncio.get_running_loop().create_task(self._deliver(incoming, hold))
        self.commits.add(task)
        task.add_done_callback(self.commits.discard)
        return task

    async def _deliver(self, incoming: Incoming, hold: Hold) -> str | None:
        try:
            reply = await self.desk.deliver(incoming)
        except HungUp:
            return None
        except Exception:
            log.exception("message not delivered", receipt_id=str(incoming.receipt_id))
            return FAILED
        finally:
            hold.release()
        if reply.startswith("2"):
            self.accepted.inc()
        log.info(
            "message answered",
            receipt_id=str(incoming.receipt_id),
            listener=self.listener,
            remote_ip=incoming.remote_ip,
            size=len(incoming.raw),
            recipients=len(incoming.rcpt_to),
            reply=reply[:9],  # codes; what follows may name somebody
        )
        return reply


class Phase(enum.Enum):
    """What a session waits for, and so which deadline holds."""

    ENTERING = enum.auto()  # its own beginning, in the doorway, which has deadlines of its own
    COMMAND = enum.auto()  # the peer's next command, or for it to read our replies
    DATA = enum.auto()  # the peer's message
    DESK = enum.auto()  # ourselves; no deadline of the session's
    OVER = enum.auto()  # the peer's going, after the last reply


Method = Callable[["InboundSMTP", str | None], Awaitable[None]]


def _reason(reply: str) -> str:
    known = REASONS.get(reply[:9])
    return known or ("syntax" if reply.startswith("5.5", 4) else "other")


@functools.cache  # as many as there are series
def _refusal(listener: str, reason: str) -> prometheus_client.Counter:
    return REFUSALS.labels(listener, reason)


class InboundSMTP(smtp.SMTP):
    """One SMTP session. A subclass adds a verb by a method `smtp_<VERB>(arg)`, and a line to EHLO by `extensions`.

    A method answers by `_say`, or refuses by raising `Refused`; `Goodbye` ends the session.
    """

    commands: ClassVar[dict[bytes, Method]] = {}  # by verb, in upper case
    takes_binary: ClassVar[bool] = True  # whether BINARYMIME is offered: nothing is sent on, so nothing is converted
    ident: ClassVar[str] = "ESMTP Postroom"

    # Read by methods of aiosmtpd's that stay in use; never changed here.
    enable_SMTPUTF8 = True  # noqa: N815 - aiosmtpd's name
    event_handler = None
    _original_transport = None
    _tls_protocol = None

    # Declared for the reader; set by aiosmtpd.
    loop: asyncio.AbstractEventLoop
    session: smtp.Session
    envelope: smtp.Envelope
    transport: asyncio.Transport | None
    _reader: Inlet
    _writer: asyncio.StreamWriter
    _timeout_handle: asyncio.TimerHandle | None
    _handler_coroutine: asyncio.Task[None] | None
    _paused: bool  # asyncio's: the peer reads more slowly than it is answered

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.commands = _commands(cls)

    def __init__(self, service: Service) -> None:
        # aiosmtpd's own __init__ inspects its methods and the handler's: 0.2 ms for each connection.
        self.loop = asyncio.get_running_loop()
        asyncio.StreamReaderProtocol.__init__(
            self, Inlet(limit=READ_AHEAD, loop=self.loop), self._cb_client_connected, loop=self.loop
        )
        self.hostname = service.hostname
        self.transport = None
        self.remote_ip = ""
        self.session_id = secrets.token_hex(6)
        self.tls = False
        self._timeout_handle = None
        self._handler_coroutine = None
        self._service = service
        self._limits = service.limits
        self._phase = Phase.ENTERING
        self._replies: list[bytes] = []  # said, not yet written
        self._transcript = transcript.Transcript()
        self._chunks: Chunks | None = None
        self._binary = False  # the transaction's MAIL asked for BINARYMIME
        self._errors = 0
        self._messages = 0
        self.handshake: asyncio.Task[None] | None = None  # who waits for TLS, while somebody does
        self.arrived = False  # between arrive() and depart() of the service
        self._began = 0.0  # the session, by the loop's clock
        self._waiting_since = 0.0  # the present phase, by the loop's clock

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not self.arrived:
            refusal = self.approach(transport) or self.identify(self.remote_ip)
            if refusal is not None:
                turn_away(cast("asyncio.Transport", transport), refusal)
                return
        self.transport = self.handshake = None  # aiosmtpd sets the former
        self.tls = transport.get_extra_info("ssl_object") is not None
        self._phase = Phase.COMMAND
        super().connection_made(transport)

    def approach(self, transport: asyncio.BaseTransport) -> str | None:
        """The connection is there, which may not be all that a session needs; the reply that turns it away, or None."""
        self.transport = cast("asyncio.Transport", transport)
        self.remote_ip = _address(transport)
        refusal = self._service.arrive(self)
        self.arrived = refusal is None
        return refusal

    def identify(self, address: str) -> str | None:
        """It is a client's at `address`; the reply that turns it away, or None."""
        self.remote_ip = address
        refusal = self._service.identify(self)
        if refusal is not None:
            self.leave()
        return refusal

    def leave(self) -> None:
        """Makes room for another; may be called again."""
        if self.arrived:
            self.arrived = False
            self._service.depart(self)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.arrived:  # turned away, or lost already in the TLS handshake
            return
        if self._phase is not Phase.ENTERING:
            self._phase = Phase.OVER
            super().connection_lost(error)
        self.leave()

    def eof_received(self) -> bool | None:
        """A peer that says no more may still listen: what it sent is obeyed and answered."""
        return asyncio.StreamReaderProtocol.eof_received(self)

    def retire(self) -> None:
        """Ends the session as soon as no message is under way."""
        if self._phase is Phase.ENTERING:
            self.abort()
        elif self._phase is Phase.COMMAND:
            self._reader.interrupt(Goodbye(SHUTTING_DOWN))

    def silent_for(self) -> float:
        """Seconds since the session has waited for a command; 0 where it waits for something else, or is over."""
        return self.loop.time() - self._waiting_since if self._phase is Phase.COMMAND else 0.0

    def dismiss(self, reply: str) -> None:
        """Ends a session that waits for a command."""
        if self._paused:  # it would not read the reply either
            self.abort()
        else:
            self._reader.interrupt(Goodbye(reply))

    def abort(self) -> None:
        """Cuts the connection; a delivery under way goes on."""
        if self.transport is not None:
            self.transport.abort()
        if self.handshake is not None:  # the TLS layer tells nobody of a connection that it never handed over
            self.handshake.cancel()
            self.connection_lost(None)

    def _set_rset_state(self) -> None:
        """No transaction; aiosmtpd's name for it."""
        self.envelope = smtp.Envelope()
        self._binary = False
        if self._chunks is not None:
            self._chunks.discard()
            self._chunks = None

    # Deadlines: one timer, which looks again when it was early

    def _reset_timeout(self, duration: float | None = None) -> None:
        """Starts the session's clock; aiosmtpd calls it when the connection is made."""
        self._began = self._waiting_since = self.loop.time()
        self._look_again(self._seconds_left(self._began))

    def _look_again(self, seconds: float) -> None:
        seconds = max(0.001, min(seconds, self._limits.shortest))  # the next phase's deadline may be nearer
        self._timeout_handle = self.loop.call_later(seconds, self._on_clock)

    def _on_clock(self) -> None:
        left = self._seconds_left(self.loop.time())
        if left > 0:
            self._look_again(left)
        elif self._phase is Phase.OVER or self._paused:  # it does not even read our replies
            self.abort()
        else:
            self._reader.interrupt(Goodbye(TIMED_OUT))
            self._look_again(1.0)

    def _seconds_left(self, now: float) -> float:
        limits = self._limits
        if self._phase is Phase.DATA:
            return self._seconds_left_of_data(now - self._waiting_since)
        if self._phase is Phase.DESK:
            return 1.0
        if self._phase is Phase.OVER:
            return self._waiting_since + limits.linger_seconds - now
        left = min(self._waiting_since + limits.idle_seconds, self._began + limits.session_seconds) - now
        return left if self._chunks is None else min(left, self._seconds_left_of_data(now - self._chunks.began))

    def _seconds_left_of_data(self, spent: float) -> float:
        limits = self._limits
        left = limits.data_seconds - spent
        if not limits.min_data_rate or left <= 0:
            return left
        if spent < limits.rate_grace_seconds:
            return min(left, limits.rate_grace_seconds - spent)
        enough_until = self._reader.arrived() / limits.min_data_rate
        return min(left, enough_until - spent)

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._waiting_since = self.loop.time()

    # The dialogue

    async def _handle_client(self) -> None:
        """The session from banner to end; aiosmtpd runs it in a task when the connection is made."""
        structlog.contextvars.bind_contextvars(session_id=self.session_id)  # in this task, and those it starts
        try:
            await self._dialogue()
        except Goodbye as goodbye:
            with contextlib.suppress(PeerGone):
                await self._part(goodbye.reply)
        except HungUp:
            with contextlib.suppress(PeerGone):
                await self._flush()  # what was said before stands
            self.abort()
        except PeerGone:
            pass  # a message that was received whole is delivered all the same
        finally:
            self._set_rset_state()
            self._enter(Phase.OVER)
            self._writer.close()

    async def _dialogue(self) -> None:
        self._say(f"220 {self.hostname} {self.ident}")
        while self._phase is not Phase.OVER:
            try:
                line = await self._next_command()
                if line is None:
                    break
                await self._obey(line)
            except (Goodbye, PeerGone, HungUp):
                raise
            except Refused as refused:
                self._say(refused.reply)
            except Exception as error:  # noqa: BLE001 - one session's failure is answered there, whatever it was
                self._say(await self.handle_exception(error))
            if self._errors >= self._limits.errors:
                raise Goodbye("421 4.7.0 Too many errors, closing")
        await self._flush()

    async def _next_command(self) -> bytes | None:
        """The next command line, or None when there will be none. Replies are written when it is not here yet."""
        if self._service.draining:
            raise Goodbye(SHUTTING_DOWN)
        line = self._reader.line()
        if line is not None:
            if len(self._replies) >= REPLIES_HELD:
                await self._flush()
                await asyncio.sleep(0)  # others have a turn
            return line
        self._enter(Phase.COMMAND)
        while line is None:
            await self._flush()
            if not await self._reader.more():
                return None
            line = self._reader.line()
        return line

    async def _obey(self, line: bytes) -> None:
        verb, _, rest = line.partition(b" ")
        method = self.commands.get(verb)
        if method is None:
            verb = verb.upper()
            method = self.commands.get(verb)
        self._transcript.heard(verb if method is not None else None, line)
        if method is None:
            raise Refused("500 5.5.2 Command not recognized")
        await method(self, _argument(rest) if rest else None)

    def _say(self, reply: str) -> None:
        """Answers a command; written together with the answers to what the peer sent along (RFC 2920 3.2)."""
        self._replies.append(reply.encode("utf-8", "replace") + b"\r\n")
        self._transcript.said(reply)
        digit = reply[:1]
        if digit in self._service.refused:
            self._service.refused[digit].inc()
            _refusal(self._service.listener, _reason(reply)).inc()
            self._errors += digit == "5"
        if reply.startswith("421"):
            self._phase = Phase.OVER

    async def _flush(self) -> None:
        if not self._replies:
            return
        if self._phase is not Phase.OVER:
            self._enter(Phase.COMMAND)
        self._writer.write(b"".join(self._replies))
        self._replies.clear()
        try:
            await self._writer.drain()
        except OSError as error:
            raise PeerGone from error

    async def push(self, status: str | bytes) -> None:
        """Says it at once; for aiosmtpd's own methods, which wait for the peer next."""
        self._say(status if isinstance(status, str) else status.decode("ascii"))
        await self._flush()

    async def _part(self, reply: str) -> None:
        """Says the last reply and lets the peer read it: closing on unread bytes would reset the connection."""
        self._say(reply)
        self._enter(Phase.OVER)
        self._rearm(self._limits.linger_seconds)
        await self._flush()
        if self.transport is None or not self.transport.can_write_eof():
            return
        self.transport.write_eof()
        await self._reader.exhaust()

    def _rearm(self, seconds: float) -> None:
        if self._timeout_handle is not None:
            self._timeout_handle.cancel()
        self._look_again(seconds)

    async def handle_exception(self, error: Exception) -> str:
        """The reply to a command that failed here. What failed is for the log, not for the peer."""
        self._errors += 1
        log.error("smtp command failed", remote_ip=self.remote_ip, exc_info=error)
        return FAILED

    # Verbs: hello and company

    def extensions(self) -> list[str]:
        """The keywords of the reply to EHLO."""
        size = f"SIZE {self._limits.message_bytes}"
        offered = ["PIPELINING", size, "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "CHUNKING"]
        if self.takes_binary:
            offered.append("BINARYMIME")
        return [*offered, "STARTTLS"] if self.offers_tls and not self.tls else offered

    @property
    def offers_tls(self) -> bool:
        return self._service.context is not None

    async def smtp_EHLO(self, arg: str | None) -> None:
        self._greeted(arg, extended=True)
        *lines, last = [self.hostname, *self.extensions()]
        self._say("".join(f"250-{line}\r\n" for line in lines) + f"250 {last}")

    async def smtp_HELO(self, arg: str | None) -> None:
        self._greeted(arg, extended=False)
        self._say(f"250 {self.hostname}")

    def _greeted(self, name: str | None, *, extended: bool) -> None:
        if not name:
            raise Refused("501 5.5.4 Say your name after HELO or EHLO")
        self._forget()  # RFC 5321 4.1.4
        self.session.host_name = name
        self.session.extended_smtp = extended

    async def smtp_STARTTLS(self, arg: str | None) -> None:
        if arg:
            raise Refused("501 5.5.4 STARTTLS takes no argument")
        if self._service.context is None:
            raise Refused("502 5.5.1 STARTTLS is not offered")
        if self.tls:
            raise Refused("503 5.5.1 TLS is already on")
        self._say("220 2.0.0 Go ahead")
        await self._flush()
        self._enter(Phase.DESK)  # the handshake has a deadline of its own
        self._reader.clear()  # said in the clear by whoever; later bytes are the handshake's (RFC 3207 6)
        await self._encrypt(self._service.context())

    async def _encrypt(self, context: ssl.SSLContext) -> None:
        patience = min(self._limits.handshake_seconds, self._limits.idle_seconds)
        self.handshake = self._handler_coroutine
        try:
            await self._writer.start_tls(context, ssl_handshake_timeout=patience)
        except (OSError, ssl.SSLError) as error:
            seldom.info("tls handshake failed", remote_ip=self.remote_ip, error=type(error).__name__)
            self._writer.close()
            self.connection_lost(None)  # the TLS layer tells nobody of a connection that it never handed over
            raise PeerGone from error
        self.handshake = None
        self.transport = cast("asyncio.Transport", self._writer.transport)
        self._reader.follow(self.transport)
        self.tls = True
        self.session.host_name = None  # RFC 3207 4.2: all that was said in the clear is forgotten
        self._forget()
        self._transcript.settle()

    async def smtp_NOOP(self, arg: str | None) -> None:
        self._say("250 2.0.0 OK")

    async def smtp_RSET(self, arg: str | None) -> None:
        if arg:
            raise Refused("501 5.5.4 RSET takes no argument")
        self._forget()
        self._say("250 2.0.0 OK")

    async def smtp_QUIT(self, arg: str | None) -> None:
        if arg:
            raise Refused("501 5.5.4 QUIT takes no argument")
        self._say("221 2.0.0 Bye")
        self._enter(Phase.OVER)

    async def smtp_HELP(self, arg: str | None) -> None:
        self._say("214 2.0.0 See RFC 5321")

    async def smtp_VRFY(self, arg: str | None) -> None:
        """The same for every address, so that nobody learns which exist (RFC 5321 7.3)."""
        if not arg:
            raise Refused("501 5.5.4 VRFY takes an address")
        self._say("252 2.1.5 Not verified; send some mail and see")

    async def smtp_EXPN(self, arg: str | None) -> None:
        raise Refused("502 5.5.1 EXPN is not offered")

    async def smtp_AUTH(self, arg: str | None) -> None:
        raise Refused("502 5.5.1 AUTH is not offered")

    # Verbs: a mail transaction

    def _forget(self) -> None:
        """The transaction, and what was said of it."""
        self._set_rset_state()
        self._transcript.over()

    async def smtp_MAIL(self, arg: str | None) -> None:
        self._require_hello()
        if self.envelope.mail_from is not None:
            raise Refused("503 5.5.1 A transaction is under way already")
        path, parameters = _path(_FROM, arg, "501 5.5.4 Syntax: MAIL FROM:<address>")
        if _SANE_DOMAIN.match(path, path.rfind("@") + 1) is None:
            raise Refused("553 5.1.7 Malformed sender")
        asked = self._mail_parameters(parameters) if parameters else frozenset()
        _require_ascii(path, "SMTPUTF8" in asked)
        if self._messages >= self._limits.messages:
            raise Goodbye("421 4.7.0 Too many messages in one session, connect again")
        self.envelope.mail_from = path
        self.envelope.smtp_utf8 = "SMTPUTF8" in asked
        self._binary = "BODY=BINARYMIME" in asked
        self._say("250 2.1.0 OK")

    def _mail_parameters(self, text: str) -> frozenset[str]:
        """All of them, in upper case. What is unknown (AUTH=, RET=, …) is ignored: refusing it bounces mail."""
        parameters = frozenset(text.upper().split())
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name == "SIZE":
                self._require_room(value)
            elif name == "BODY":
                self._require_body(value)
            elif name == "SMTPUTF8" and parameter != "SMTPUTF8":  # RFC 6531 3.4
                raise Refused("501 5.5.4 SMTPUTF8 takes no value")
        return parameters

    def _require_body(self, kind: str) -> None:
        kinds = ["7BIT", "8BITMIME", "BINARYMIME"] if self.takes_binary else ["7BIT", "8BITMIME"]
        if kind not in kinds:  # RFC 6152 2, RFC 3030 3
            raise Refused(f"501 5.5.4 BODY is {' or '.join(kinds)}")

    def _require_room(self, declared: str) -> None:
        if not _SIZE.match(declared):
            raise Refused("501 5.5.4 SIZE is a number of bytes")
        if int(declared) > self._limits.message_bytes:
            raise Refused(TOO_BIG)  # RFC 1870 6.1
        if not self._service.budget.has_room(int(declared)):
            raise Refused(NO_ROOM)

    async def smtp_RCPT(self, arg: str | None) -> None:
        envelope = self._require_mail()
        path, _ = _path(_TO, arg, "501 5.5.4 Syntax: RCPT TO:<address>")
        if not path:
            raise Refused("553 5.1.3 A recipient is needed")
        self._transcript.about(path)
        if self._chunks is not None:
            raise Refused("503 5.5.1 The message has begun already")
        _require_ascii(path, envelope.smtp_utf8)
        if len(envelope.rcpt_tos) >= self._limits.recipients:
            raise Refused("452 4.5.3 Too many recipients")
        self._phase = Phase.DESK
        refusal = await self._service.desk.recipient(path, envelope.mail_from or "")
        if refusal is not None:
            raise Refused(refusal)
        envelope.rcpt_tos.append(path)
        self._say("250 2.1.5 OK")

    async def smtp_DATA(self, arg: str | None) -> None:
        envelope = self._require_recipients()
        if arg:
            raise Refused("501 5.5.4 DATA takes no argument")
        if self._chunks is not None:  # RFC 3030 2
            raise Refused("503 5.5.1 The message came by BDAT so far")
        if self._binary:  # RFC 3030 3
            raise Refused("503 5.5.1 BINARYMIME comes by BDAT")
        if not self._service.budget.has_room(DATA_FLOOR):
            raise Refused(NO_ROOM)
        receipt_id = uuid7()
        self._say("354 End with <CR><LF>.<CR><LF>")
        await self._flush()
        self._set_rset_state()  # whatever comes of it, the transaction is over then
        hold = self._service.budget.hold()
        try:
            raw = await self._receive(hold)
            self._transcript.content(len(raw))
            await self._hand_over(receipt_id, envelope, raw, hold)
        finally:
            self._transcript.over()

    async def _receive(self, hold: Hold) -> bytes:
        self._enter(Phase.DATA)
        try:
            return await self._reader.message(self._limits.message_bytes, hold)
        except BaseException:
            hold.release()
            raise
        finally:
            self._enter(Phase.DESK)

    async def _hand_over(self, receipt_id: uuid.UUID, envelope: smtp.Envelope, raw: bytes, hold: Hold) -> None:
        """Has a message delivered as soon as it may be stored, and says what came of it."""
        self._messages += 1
        self._service.received.inc(len(raw))
        try:
            await hold.store()
        except BaseException:
            hold.release()
            raise
        task = self._service.commit(self._incoming(receipt_id, envelope, raw), hold)
        self._transcript.over()
        reply = await asyncio.shield(task)  # a peer that hangs up now cancels the waiting, not the commit
        if reply is None:
            raise HungUp
        self._say(reply)

    async def smtp_BDAT(self, arg: str | None) -> None:
        """One chunk of a message (RFC 3030 2). Its bytes are read even where it is refused: they are no commands."""
        match = _CHUNK.match(arg or "")
        if match is None:
            raise Goodbye("501 5.5.4 Syntax: BDAT size [LAST]")  # where the chunk ends nobody can tell
        size, last = int(match["size"]), match["last"] is not None
        if not self._reader.has(size):
            await self._flush()
        try:
            chunks = await self._receive_chunk(size)
        except Refused:
            if last and self._chunks is not None:
                self._forget()
            raise
        self._transcript.content(size)
        if last:
            await self._finish(chunks)
        else:
            self._say(f"250 2.0.0 {size} bytes received")

    async def _receive_chunk(self, size: int) -> Chunks:
        """All chunks so far, this one included. The deadlines are the message's: they began with its first chunk."""
        refusal = self._chunk_refusal(size)
        chunks = self._chunks or self._first_chunk()
        self._phase, self._waiting_since = Phase.DATA, chunks.began
        try:
            if refusal is not None:
                await self._skip_chunk(size, refusal)
            await self._reader.chunk(size, chunks.body, chunks.hold)
        except Refused:
            chunks.refuse()
            raise
        finally:
            self._enter(Phase.DESK)
        return chunks

    def _chunk_refusal(self, size: int) -> str | None:
        chunks, limit = self._chunks, self._limits.message_bytes
        try:
            self._require_recipients()
        except Refused as refused:
            return refused.reply
        if chunks is not None and chunks.refused:  # RFC 3030 2
            return "503 5.5.1 The message was refused, say RSET"
        if size + (len(chunks.body) if chunks is not None else 0) > limit:
            return TOO_BIG
        if chunks is None and not self._service.budget.has_room(DATA_FLOOR):
            return NO_ROOM
        return None

    def _first_chunk(self) -> Chunks:
        self._reader.begin_chunks()
        chunks = Chunks(receipt_id=uuid7(), hold=self._service.budget.hold(), began=self.loop.time())
        if self.envelope.rcpt_tos:
            self._chunks = chunks
        return chunks

    async def _skip_chunk(self, size: int, reply: str) -> None:
        """Refuses a chunk, after reading it away."""
        if size > max(self._limits.message_bytes, SKIP_FLOOR):
            raise Goodbye(reply)
        await self._reader.skip(size)
        raise Refused(reply)

    async def _finish(self, chunks: Chunks) -> None:
        envelope, raw = self.envelope, bytes(chunks.body)
        chunks.body = bytearray()
        self._chunks = None  # no longer the session's to release
        self._set_rset_state()
        await self._hand_over(chunks.receipt_id, envelope, raw, chunks.hold)

    def _incoming(self, receipt_id: uuid.UUID, envelope: smtp.Envelope, raw: bytes) -> Incoming:
        return Incoming(
            receipt_id=receipt_id,
            mail_from=envelope.mail_from or "",
            rcpt_to=tuple(envelope.rcpt_tos),
            helo=self.session.host_name or "",
            remote_ip=self.remote_ip,
            tls=self.tls,
            smtputf8=envelope.smtp_utf8,
            raw=raw,
            transcript=self._transcript.lines(),
            session_id=self.session_id,
        )

    def _require_hello(self) -> None:
        if not self.session.host_name:
            raise Refused("503 5.5.1 Say EHLO or HELO first")

    def _require_mail(self) -> smtp.Envelope:
        self._require_hello()
        if self.envelope.mail_from is None:
            raise Refused("503 5.5.1 MAIL comes first")
        return self.envelope

    def _require_recipients(self) -> smtp.Envelope:
        envelope = self._require_mail()
        if not envelope.rcpt_tos:
            raise Refused("503 5.5.1 RCPT comes first")
        return envelope


def _commands(cls: type[InboundSMTP]) -> dict[bytes, Method]:
    return {name[5:].encode(): getattr(cls, name) for name in dir(cls) if name.startswith("smtp_")}


InboundSMTP.commands = _commands(InboundSMTP)


def _argument(rest: bytes) -> str | None:
    try:
        text = rest.decode().strip()
    except UnicodeDecodeError:
        raise Refused("501 5.5.2 Commands are UTF-8") from None
    if not text.isprintable() and _CONTROL.search(text):
        raise Refused("501 5.5.2 Control characters in a command")
    return text or None


def _path(pattern: re.Pattern[str], arg: str | None, syntax: str) -> tuple[str, str]:
    """Address and parameters of MAIL or RCPT: without brackets, without source route; the address may be empty."""
    match = pattern.match(arg or "")
    if match is None:
        raise Refused(syntax)
    path, bare, parameters = match.groups("")
    path = path or bare
    if len(path) > PATH_LENGTH:
        raise Refused("553 5.1.3 The address is too long")
    if path.startswith("@"):  # RFC 5321 4.1.2: A-d-l, to be ignored
        path = path.partition(":")[2]
        if not path:
            raise Refused(syntax)
    return path, parameters


def _require_ascii(path: str, smtputf8: bool) -> None:
    if not smtputf8 and not path.isascii():  # RFC 6531 3.5
        raise Refused("553 5.6.7 Such an address needs SMTPUTF8")


def _address(transport: asyncio.BaseTransport) -> str:
    """The peer's address; an IPv4 one also where it came by an IPv6 socket. Empty where there is none."""
    peer = transport.get_extra_info("peername")
    if not isinstance(peer, tuple) or not peer:
        return ""
    return str(peer[0]).removeprefix("::ffff:")


def turn_away(transport: asyncio.Transport, reply: str) -> None:
    """Says a session's first and last reply."""
    transport.write(reply.encode() + b"\r\n")
    transport.close()
