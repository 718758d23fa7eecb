"""One SMTP connection to a relay: opening it, and the three commands and the body of a transaction.

aiosmtplib carries the bytes. Its `sendmail` and `data` are not used: they write DATA and body in one call, so that a
line that broke before the 354 (nothing was taken) looks like one that broke after the final dot (nobody knows).
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, cast

import aiosmtplib

from gateway import authorities
from gateway.mail import address
from gateway.outbound.providers import line
from gateway.outbound.providers.contract import Outcome, Outgoing, Stage

Tls = Literal["implicit", "starttls", "opportunistic", "none"]

SLOWEST_LINK: Final = 65_536  # octets a second; what a big body is given to cross, on top of the dot's own time
FAREWELL_SECONDS: Final = 2.0  # for the reply to QUIT, which nobody needs

_LINE_END = re.compile(rb"\r\n|\r|\n")
_CONTROLS = r"\x00-\x20\x7f"
# RFC 5321 section 4.1.2, loosely: enough that an address cannot end its path early and add parameters or commands.
_PATH = re.compile(
    rf'(?:[^{_CONTROLS}<>"\\@]+|"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*")@[^{_CONTROLS}<>"\\@]+',
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Relay:
    """Where the relay is, and how to speak with it."""

    host: str  # name or address
    port: int
    tls: Tls
    verify: bool  # check its certificate
    username: str | None  # None = no AUTH
    password: str = field(repr=False)  # empty without AUTH
    local_hostname: str  # said in EHLO; ASCII
    connections: int  # at most, at once
    step_seconds: float  # for each reply but the last
    dot_seconds: float  # for the reply to the final dot (RFC 5321 section 4.5.3.2.6: 10 minutes)
    messages_per_connection: int = 500  # then it is replaced; relays that allow fewer say 421, which costs nothing
    address: str | None = None  # where to connect, so that the host's name is not looked up again; None = look it up
    idle_seconds: float = 30.0  # a kept connection unused for so long is closed

    @property
    def authority(self) -> str:
        """`host:port`, `[::1]:port`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def name(self) -> str:
        """Scheme, host and port; no credentials."""
        return f"{'smtps' if self.tls == 'implicit' else 'smtp'}:{self.authority}"


class DialogueError(Exception):
    """The dialogue ended before the message was taken."""

    def __init__(self, stage: Stage, text: str, *, code: int | None = None, outcome: Outcome | None = None) -> None:
        super().__init__(text)
        self.stage = stage
        self.text = text  # the reply's text without its code, or what happened where none came
        self.code = code  # None = no complete reply came
        self.outcome = outcome  # set where the reply alone does not tell


def tls_context(relay: Relay) -> ssl.SSLContext | None:
    """The context for the relay's connections; None where it is never encrypted."""
    if relay.tls == "none":
        return None
    if relay.verify:
        return authorities.for_smtp()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def wire_form(raw: bytes) -> bytes:
    """The body as DATA carries it: CRLF throughout, dots doubled (RFC 5321 section 4.5.2), the final dot at its end.

    A CR or LF of its own never goes out: a relay that took it for a line end could be made to see a second message.
    """
    if not raw.count(b"\r\n") == raw.count(b"\n") == raw.count(b"\r"):
        raw = _LINE_END.sub(b"\r\n", raw)
    if not raw.endswith(b"\r\n"):
        raw += b"\r\n"
    stuffed = raw.replace(b"\r\n.", b"\r\n..")
    return (b"." if stuffed.startswith(b".") else b"") + stuffed + b".\r\n"


def sayable(outgoing: Outgoing) -> Outgoing:
    """With paths as any relay understands them; DialogueError where one would say something else besides."""
    mail_from = outgoing.mail_from and _sayable_path(outgoing.mail_from)  # RFC 5321 section 4.5.5: <> for bounces
    rcpt_to = _sayable_path(outgoing.rcpt_to)
    if (mail_from, rcpt_to) == (outgoing.mail_from, outgoing.rcpt_to):
        return outgoing
    return dataclasses.replace(outgoing, mail_from=mail_from, rcpt_to=rcpt_to)


def _sayable_path(path: str) -> str:
    """The domain in A-labels: only a local part that is not ASCII needs SMTPUTF8."""
    if not _PATH.fullmatch(path):
        raise DialogueError("mail", "not an address that SMTP can carry", outcome="failed")
    if path.isascii():
        return path
    local, _, domain = path.rpartition("@")
    try:
        return f"{local}@{address.Address(local=local, domain=domain).ascii_domain}"
    except address.InvalidAddress as error:
        raise DialogueError("mail", "not a domain that SMTP can carry", outcome="failed") from error


class Session:
    """A connection that has been greeted, encrypted and authenticated as the relay wants it."""

    def __init__(self, client: aiosmtplib.SMTP, relay: Relay) -> None:
        """Takes the client's connection over."""
        self._relay = relay
        self._extensions = client.esmtp_extensions
        # idle: between transactions · envelope: within one, and RSET leaves it · data: the relay waits for a body ·
        # waiting: a reply is owed, or was lost
        self._state: Literal["idle", "envelope", "data", "waiting"] = "idle"
        self.messages = 0  # transactions begun
        self.idle_since = 0.0  # loop time; set when it is kept
        peer = client.get_transport_info("peername")
        self.remote = f"{relay.authority}/{peer[0]}" if peer else relay.authority
        self.tls = client.get_transport_info("sslcontext") is not None
        self._line = line.taken_over(client.transport)

    @property
    def sound(self) -> bool:
        """Whether both sides agree where they are, as far as this one knows."""
        return self._state != "waiting" and self._line.quiet

    @property
    def worn_out(self) -> bool:
        """Whether it has carried as many messages as one connection should."""
        return self.messages >= self._relay.messages_per_connection

    async def begin(self, outgoing: Outgoing, transcript: list[str], *, with_data: bool) -> None:
        """Begin a transaction and name the recipient; one that was left unfinished is reset first.

        `with_data`: say DATA, too. In one group where the relay offers PIPELINING: one round trip instead of three.
        """
        group: list[tuple[Stage, str]] = [("mail", "RSET")] if self._state == "envelope" else []
        group += [("mail", self._mail_line(outgoing)), ("rcpt", f"RCPT TO:<{outgoing.rcpt_to}>")]
        if with_data:
            group.append(("data", "DATA"))
        self.messages += 1
        at_once = len(group) if "pipelining" in self._extensions else 1
        for first in range(0, len(group), at_once):
            await self._say(group[first : first + at_once], transcript)

    async def data(self, outgoing: Outgoing, transcript: list[str]) -> line.Reply:
        """Send the body; the 2xx reply to its final dot. Stage `dot` in an error means that the body was written."""
        if self._state != "data":
            await self._say([("data", "DATA")], transcript)
        if not self._line.quiet:  # what came by itself would be taken for the reply to the final dot
            raise DialogueError("data", "a reply that nobody asked for (at DATA)")
        body = wire_form(outgoing.raw)
        transcript.append(f"C: [{len(outgoing.raw)} octets]")
        reply = await self._body(body)
        transcript.append(f"S: {reply}")
        self._end_transaction()
        if not 200 <= reply.code < 300:
            raise DialogueError("dot", reply.text, code=reply.code)
        return reply

    async def quit(self) -> None:
        """Close politely, if the peer answers soon; at once otherwise."""
        try:
            self._line.write(b"QUIT\r\n")
            await self._line.reply(FAREWELL_SECONDS)
        except (line.Lost, OSError):
            pass
        finally:
            self.abort()

    def abort(self) -> None:
        """Close at once; what is still unsent is dropped, not flushed behind the verdict's back."""
        self._line.abort()

    def _mail_line(self, outgoing: Outgoing) -> str:
        words = [f"MAIL FROM:<{outgoing.reverse_path}>"]
        extensions = self._extensions
        if "size" in extensions:
            words.append(f"SIZE={len(outgoing.raw)}")  # RFC 1870
        if "8bitmime" in extensions and not outgoing.raw.isascii():
            words.append("BODY=8BITMIME")  # RFC 6152
        if outgoing.smtputf8 or not (outgoing.reverse_path + outgoing.rcpt_to).isascii():
            if "smtputf8" not in extensions:  # RFC 6531 section 3.2
                raise DialogueError("mail", "the relay does not offer SMTPUTF8", outcome="failed")
            words.append("SMTPUTF8")
        return " ".join(words)

    async def _say(self, group: Sequence[tuple[Stage, str]], transcript: list[str]) -> None:
        """Commands in one write, and their replies. Raises for the first that is refused, when all are answered."""
        transcript += [f"C: {words}" for _, words in group]
        self._state = "waiting"
        self._write(group[0][0], "".join(f"{words}\r\n" for _, words in group).encode())
        refused: DialogueError | None = None
        for stage, words in group:
            try:
                reply = await self._reply(stage, self._relay.step_seconds)
            except DialogueError as lost:
                raise refused or lost from None
            transcript.append(f"S: {reply}")
            wanted = reply.code == 354 if words == "DATA" else 200 <= reply.code < 300
            if refused is None and not wanted:
                # A refused RSET is about what came before: this line is of no use, and the message is not refused
                refused = DialogueError(stage, reply.text, code=None if words == "RSET" else reply.code)
        if reply.code == 354 and refused is None:
            self._state = "data"
        elif reply.code not in {354, 421}:  # 354 for nobody (RFC 2920 section 3.1), and 421: not to be used again
            self._state = "envelope"
        if refused is not None:
            raise refused

    async def _body(self, body: bytes) -> line.Reply:
        self._state = "waiting"
        self._write("data", body)  # writes nothing where it raises
        return await self._reply("dot", self._relay.dot_seconds + len(body) / SLOWEST_LINK)

    def _write(self, stage: Stage, octets: bytes) -> None:
        try:
            self._line.write(octets)
        except line.Lost as lost:
            raise DialogueError(stage, f"{lost} {_where(stage)}") from lost

    async def _reply(self, stage: Stage, seconds: float) -> line.Reply:
        try:
            return await self._line.reply(seconds)
        except line.Lost as lost:
            raise DialogueError(stage, f"{lost} {_where(stage)}") from lost

    def _end_transaction(self) -> None:
        """The dot was answered. A reply that came before all of the body had left leaves the line out of step."""
        if self._line.all_sent:
            self._state = "idle"


async def open_session(relay: Relay, context: ssl.SSLContext | None, transcript: list[str]) -> Session:
    """Connect, greet, encrypt and authenticate; DialogueError with the stage that failed."""
    client = aiosmtplib.SMTP(
        hostname=relay.address or relay.host,
        port=relay.port,
        local_hostname=relay.local_hostname,
        timeout=relay.step_seconds,
        use_tls=relay.tls == "implicit",
        start_tls=False,
        tls_context=context,
    )
    try:
        await _connect(client, relay, transcript)
        await _ehlo(client, transcript)
        if relay.tls in {"starttls", "opportunistic"}:
            await _starttls(client, relay, transcript)
        if relay.username is not None:
            await _authenticate(client, relay, transcript)
        return Session(client, relay)
    except aiosmtplib.SMTPServerDisconnected as error:  # between two steps
        _abort(client)
        raise _broken("ehlo", error) from error
    except BaseException:
        _abort(client)
        raise


async def _connect(client: aiosmtplib.SMTP, relay: Relay, transcript: list[str]) -> None:
    transcript.append(f"* connecting to {relay.authority}")
    try:
        transcript.append(_said(await client.connect()))
    except aiosmtplib.SMTPResponseException as error:
        transcript.append(f"S: {error.code} {error.message}")
        raise _broken("greeting", error) from error
    except aiosmtplib.SMTPException as error:
        raise _tls_fault(error.__cause__) or _broken("connect", error) from error


async def _ehlo(client: aiosmtplib.SMTP, transcript: list[str]) -> None:
    transcript.append(f"C: EHLO {client.local_hostname}")
    try:
        transcript.append(_said(await client.ehlo()))
    except aiosmtplib.SMTPException as error:
        raise _broken("ehlo", error) from error


async def _starttls(client: aiosmtplib.SMTP, relay: Relay, transcript: list[str]) -> None:
    """Encrypt. `opportunistic` goes on in the clear where the relay does not offer it or says no; never with AUTH."""
    required = relay.tls == "starttls" or relay.username is not None
    if not client.supports_extension("starttls"):
        if required:
            raise DialogueError("tls", "the relay does not offer STARTTLS", outcome="provider_fault")
        return
    transcript.append("C: STARTTLS")
    try:
        transcript.append(_said(await client.starttls(server_hostname=relay.host)))
    except aiosmtplib.SMTPResponseException as error:
        transcript.append(f"S: {error.code} {error.message}")
        if required:
            raise _broken("tls", error) from error
        return
    except (aiosmtplib.SMTPException, OSError) as error:
        raise _tls_fault(error) or _broken("tls", error) from error
    await _ehlo(client, transcript)  # RFC 3207 section 4.2: what was said before is forgotten


async def _authenticate(client: aiosmtplib.SMTP, relay: Relay, transcript: list[str]) -> None:
    mechanism = next((name for name in ("plain", "login") if name in client.server_auth_methods), None)
    if mechanism is None:
        raise DialogueError("auth", "the relay offers neither AUTH PLAIN nor AUTH LOGIN", outcome="provider_fault")
    transcript.append(f"C: AUTH {mechanism.upper()} ****")
    authenticate = client.auth_plain if mechanism == "plain" else client.auth_login
    try:
        transcript.append(_said(await authenticate(relay.username or "", relay.password)))
    except aiosmtplib.SMTPException as error:
        raise _broken("auth", error) from error


def _abort(client: aiosmtplib.SMTP) -> None:
    transport = cast("asyncio.WriteTransport | None", client.transport)  # uvloop's transports are no subclasses
    if transport is not None:
        transport.abort()
    client.close()


def _said(reply: aiosmtplib.SMTPResponse) -> str:
    return f"S: {reply.code} {reply.message}"


def _tls_fault(error: BaseException | None) -> DialogueError | None:
    """A handshake that ended in disagreement is the relay's or its URL's fault; one that broke off is not."""
    if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return None
    reason = getattr(error, "verify_message", "") or error.reason or "handshake failed"
    return DialogueError("tls", f"TLS: {reason}", outcome="provider_fault")


def _broken(stage: Stage, error: Exception) -> DialogueError:
    """What aiosmtplib raised, as an end at `stage`; it says -1 for a reply that is none."""
    if isinstance(error, aiosmtplib.SMTPResponseException) and error.code >= 0:
        return DialogueError(stage, error.message, code=error.code)
    text = error.message if isinstance(error, aiosmtplib.SMTPResponseException) else str(error)
    return DialogueError(stage, f"{text or type(error).__name__} {_where(stage)}")


def _where(stage: Stage) -> str:
    return "(after the final dot)" if stage == "dot" else f"(at {stage.upper()})"
