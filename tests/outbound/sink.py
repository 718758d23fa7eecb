"""An SMTP server that takes mail, counts it, and misbehaves as it is told to.

    async with sink.Sink() as relay:
        relay.next("rcpt", sink.reply("550 5.1.1 no such user"))     # once
        relay.always("dot", sink.cut())                              # from now on; what `next` queued goes first
        …
        await relay.until(lambda: len(relay.messages) == 1)
        assert relay.taken == {("<id@example>", "user@example.org"): 1}

Stages, in the order of a session: greeting ehlo starttls auth mail rcpt data body dot rset quit. `body` is reached by
the first octets of a message, `dot` by its end. A message counts as taken when the dot was answered 2xx, or would have
been, had the answer not been held back or lost: that is what makes a second copy a duplicate.

By itself: `python -m tests.outbound.sink [--port N]` prints its port and serves until its stdin closes, then prints
how many it took.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import collections
import datetime as dt
import ipaddress
import re
import socket
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

Stage = Literal["greeting", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "body", "dot", "rset", "quit"]
PATIENCE = 360.0  # seconds until a test gives up on what never comes here
EXTENSIONS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "SIZE 52428800")

_MESSAGE_ID = re.compile(rb"^Message-ID:\s*(\S+)", re.IGNORECASE | re.MULTILINE)
_PATH = re.compile(r"<(.*?)>(?= |$)")
_LOOSE_END = re.compile(rb"(?:\A|\r\n|\r|\n)\0*\.\0*(?:\r\n|\n|\r(?=[^\n]))")  # of servers that forgive, or drop NULs
_VERBS: dict[str, Stage] = {
    "EHLO": "ehlo",
    "STARTTLS": "starttls",
    "AUTH": "auth",
    "MAIL": "mail",
    "RCPT": "rcpt",
    "DATA": "data",
    "RSET": "rset",
    "QUIT": "quit",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Act:
    """What the sink does at a stage instead of behaving."""

    reply: str | None = None  # code and text, further lines after \n; None = the stage's own
    octets: bytes | None = None  # these exactly, instead of a reply
    until: asyncio.Event | None = None  # nothing is answered before it is set
    line: Literal["kept", "cut", "closed", "reset"] = "kept"  # cut: unanswered; closed: after the answer; reset: by RST


def reply(text: str, *, until: asyncio.Event | None = None, then_close: bool = False) -> Act:
    """Answer this, perhaps late, perhaps as the last word."""
    return Act(reply=text, until=until, line="closed" if then_close else "kept")


def cut(*, reset: bool = False, after: bytes = b"") -> Act:
    """Close the connection without an answer, or after a piece of one."""
    return Act(octets=after, line="reset" if reset else "closed") if after else Act(line="reset" if reset else "cut")


def stall() -> Act:
    """Never answer."""
    return Act(until=asyncio.Event())


def late(until: asyncio.Event) -> Act:
    """Behave, but only when the event is set."""
    return Act(until=until)


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """A message whose final dot came."""

    mail_from: str
    parameters: str  # what followed the path in MAIL
    recipients: tuple[str, ...]
    raw: bytes  # dot-unstuffed; empty where bodies are not kept
    message_id: str  # with <>; empty where it had none
    taken: bool  # answered 2xx, or would have been
    connection: int  # which of the sink's connections, from 1
    tls: bool
    user: str | None  # who had authenticated


@dataclass(slots=True)
class _Scripts:
    once: collections.deque[Act] = field(default_factory=collections.deque)
    always: Act | None = None

    def take(self) -> Act | None:
        return self.once.popleft() if self.once else self.always


class Sink:
    """The server; an async context manager."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        listener: socket.socket | None = None,  # one that others go on listening with, instead of host and port
        tls: ssl.SSLContext | None = None,  # STARTTLS is offered with it
        implicit: bool = False,  # TLS from the first byte, with the same context
        credentials: tuple[str, str] | None = None,  # AUTH PLAIN and LOGIN are offered, and needed before MAIL
        mechanisms: str = "PLAIN LOGIN",
        extensions: tuple[str, ...] = EXTENSIONS,
        lenient: bool = False,  # what looks like a line with a dot ends a message, whatever its line ends are
        keep: bool = True,  # messages and dialogue; without it only counts, for long runs
    ) -> None:
        self.host, self.port = host, port
        self._listener = listener
        self.tls, self.implicit = tls, implicit
        self.credentials, self.mechanisms = credentials, mechanisms
        self.extensions = extensions
        self.lenient = lenient
        self.keep = keep
        self.messages: list[Message] = []  # all whose dot came, taken or not
        self.taken: collections.Counter[tuple[str, str]] = collections.Counter()  # by (Message-ID, recipient)
        self.count = 0  # messages taken
        self.connections = 0  # ever made
        self.open = 0  # now
        self.commands: list[tuple[int, str]] = []  # (connection, line) as they came
        self.peers: set[_Peer] = set()
        self._scripts: dict[Stage, _Scripts] = {}
        self._waiters: set[asyncio.Future[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        where: dict[str, Any] = {"host": self.host, "port": self.port, "backlog": 1024}
        if self._listener is not None:
            where = {"sock": self._listener.dup(), "backlog": 1024}
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Peer(self), ssl=self.tls if self.implicit else None, **where
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is not None:
            self._server.close()
        for peer in tuple(self.peers):
            peer.cut()
        await self.until(lambda: not self.peers)

    def url(self, options: str = "", user: str = "") -> str:
        """An OUTBOUND URL of this sink: `url("tls=none", user="name:password")`."""
        scheme = "smtps" if self.implicit else "smtp"
        return f"{scheme}://{user and user + '@'}{self.host}:{self.port}{options and '?' + options}"

    def next(self, stage: Stage, *acts: Act) -> None:
        """Queue acts, one for each time the stage is reached."""
        self._scripts.setdefault(stage, _Scripts()).once.extend(acts)

    def always(self, stage: Stage, act: Act | None) -> None:
        """Act so each time nothing is queued; None = behave again."""
        self._scripts.setdefault(stage, _Scripts()).always = act

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Wait until it is true; it is looked at whenever something happens here. A failure where it never is."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not predicate():
                    await self._something()
        except TimeoutError as waited:
            seen = f"{self.connections} connections ({self.open} open), {self.count} messages; {self.commands[-9:]}"
            raise AssertionError(f"the sink waited in vain for {PATIENCE:g} s: {seen}") from waited

    async def _something(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def lines(self, verb: str = "") -> list[str]:
        """The commands that came and begin so."""
        return [line for _, line in self.commands if line.upper().startswith(verb)]

    def act(self, stage: Stage) -> Act | None:
        """What is scripted for a stage now."""
        scripts = self._scripts.get(stage)
        return scripts.take() if scripts else None

    def is_scripted(self, stage: Stage) -> bool:
        """Whether anything is scripted for a stage now."""
        scripts = self._scripts.get(stage)
        return scripts is not None and bool(scripts.once or scripts.always)

    def changed(self) -> None:
        """Wake those that wait."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class _Peer(asyncio.Protocol):
    """One connection. `_busy` while an act keeps it waiting: what comes meanwhile stays in the buffer."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._number = 0
        self._busy: asyncio.Task[None] | None = None
        self._secure = sink.implicit
        self._user: str | None = None
        self._mode: Literal["commands", "body", "user", "password"] = "commands"
        self._body_begun = False
        self._scanned = 0  # octets of the buffer known not to hold the final dot
        self._login = ""
        self._reset()

    def _reset(self) -> None:
        self._mail_from: str | None = None
        self._parameters = ""
        self._recipients: list[str] = []

    # The connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transports are no subclasses
        if self._number:  # the same connection, encrypted now
            return
        self._sink.connections += 1
        self._sink.open += 1
        self._number = self._sink.connections
        self._sink.peers.add(self)
        self._sink.changed()
        self._answer("greeting", "220 sink.example ESMTP")

    def connection_lost(self, exc: Exception | None) -> None:
        if self not in self._sink.peers:  # a handshake that failed has said so already
            return
        if self._busy is not None:
            self._busy.cancel()
        self._transport = None
        self._sink.open -= 1
        self._sink.peers.discard(self)
        self._sink.changed()

    def cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._work()

    def _work(self) -> None:
        while self._busy is None and self._transport is not None and not self._transport.is_closing():
            if not (self._take_body() if self._mode == "body" else self._take_line()):
                return

    def _answer(self, stage: Stage, own: str, then: Callable[[], None] | None = None) -> None:
        """Answer a stage with its own reply, or do what is scripted; `then` follows a reply of its own."""
        act = self._sink.act(stage)
        if act is None:
            self._write(own)
            if then is not None:
                then()
        elif act.until is not None and not act.until.is_set():
            self._busy = asyncio.get_running_loop().create_task(self._later(act, act.until, own, then))
        else:
            self._perform(act, own, then)

    async def _later(self, act: Act, until: asyncio.Event, own: str, then: Callable[[], None] | None) -> None:
        await until.wait()
        self._busy = None
        self._perform(act, own, then)
        self._work()

    def _perform(self, act: Act, own: str, then: Callable[[], None] | None) -> None:
        if self._transport is None:
            return
        if act.octets is not None:
            self._transport.write(act.octets)
        elif act.line in {"kept", "closed"}:
            self._write(act.reply or own)
        said = act.reply or own
        if act.octets is None and act.line == "kept" and said[0] == own[0] and then is not None:
            then()
        if act.line == "reset":
            self._transport.abort()
        elif act.line != "kept":
            self._transport.close()

    def _write(self, text: str) -> None:
        if self._transport is None:
            return
        code, lines = text[:3], text[4:].split("\n")
        head = "".join(f"{code}-{line}\r\n" for line in lines[:-1])
        self._transport.write(f"{head}{code} {lines[-1]}\r\n".encode("utf-8", "surrogateescape"))

    # Commands

    def _take_line(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return False
        line = self._buffer[:end].decode("utf-8", "surrogateescape")
        del self._buffer[: end + 2]
        if self._mode == "commands":
            self._command(line)
        else:
            self._login_answer(line)
        return True

    def _command(self, line: str) -> None:
        verb = line[:4].upper() if line[:4].upper() in _VERBS else line.partition(" ")[0].upper()
        stage = _VERBS.get(verb)
        if self._sink.keep:
            self._sink.commands.append((self._number, line if stage != "auth" else line[:10]))
        if stage is None:
            self._write("502 5.5.2 what?")
        else:
            getattr(self, f"_on_{stage}")(line)

    def _on_ehlo(self, line: str) -> None:
        words = ["sink.example", *self._sink.extensions]
        if self._sink.tls is not None and not self._secure:
            words.append("STARTTLS")
        if self._sink.credentials is not None:
            words.append(f"AUTH {self._sink.mechanisms}")
        self._reset()
        self._answer("ehlo", "250 " + "\n".join(words))

    def _on_starttls(self, _: str) -> None:
        self._answer("starttls", "220 2.0.0 go ahead", self._encrypt)

    def _encrypt(self) -> None:
        self._buffer.clear()  # RFC 3207 section 4.2
        self._busy = asyncio.get_running_loop().create_task(self._upgrade())

    async def _upgrade(self) -> None:
        assert self._transport is not None
        assert self._sink.tls is not None
        try:
            upgraded = await asyncio.get_running_loop().start_tls(
                self._transport, self, self._sink.tls, server_side=True
            )
        except OSError:  # the client did not like the certificate
            upgraded = None
        self._busy = None
        # asyncio returns a transport even where the line was lost during the handshake, and then tells nobody
        if upgraded is None or upgraded.get_extra_info("cipher") is None:
            self.connection_lost(None)
            return
        self._transport, self._secure = upgraded, True
        self._work()

    def _on_auth(self, line: str) -> None:
        _, mechanism, argument = f"{line}  ".split(" ", 2)
        argument = argument.strip()
        if mechanism.upper() == "PLAIN":
            _, user, password = base64.b64decode(argument).decode().split("\0")
            self._check(user, password)
        elif argument:
            self._login = base64.b64decode(argument).decode()
            self._mode = "password"
            self._write("334 UGFzc3dvcmQ6")
        else:
            self._mode = "user"
            self._write("334 VXNlcm5hbWU6")

    def _login_answer(self, line: str) -> None:
        word = base64.b64decode(line).decode()
        if self._mode == "user":
            self._login, self._mode = word, "password"
            self._write("334 UGFzc3dvcmQ6")
        else:
            self._mode = "commands"
            self._check(self._login, word)

    def _check(self, user: str, password: str) -> None:
        good = (user, password) == self._sink.credentials
        self._user = user if good else None
        self._answer("auth", "235 2.7.0 welcome" if good else "535 5.7.8 authentication failed")

    def _on_mail(self, line: str) -> None:
        if self._sink.credentials is not None and self._user is None:
            self._write("530 5.7.0 authentication required")
            return
        if self._mail_from is not None:
            self._write("503 5.5.1 nested MAIL")
            return
        self._answer("mail", "250 2.1.0 sender ok", lambda: self._begin(line))

    def _begin(self, line: str) -> None:
        found = _PATH.search(line)
        self._mail_from = found[1] if found else ""
        self._parameters = line[found.end() :].strip() if found else ""

    def _on_rcpt(self, line: str) -> None:
        found = _PATH.search(line)
        recipient = found[1] if found else ""
        if self._mail_from is None:
            self._write("503 5.5.1 MAIL first")
        else:
            self._answer("rcpt", "250 2.1.5 recipient ok", lambda: self._recipients.append(recipient))

    def _on_data(self, _: str) -> None:
        if not self._recipients and not self._sink.is_scripted("data"):
            self._write("503 5.5.1 RCPT first")
        else:
            self._answer("data", "354 go ahead", self._begin_body)

    def _begin_body(self) -> None:
        self._mode, self._body_begun, self._scanned = "body", False, 0

    def _on_rset(self, _: str) -> None:
        self._reset()
        self._answer("rset", "250 2.0.0 reset")

    def _on_quit(self, _: str) -> None:
        self._answer("quit", "221 2.0.0 bye", lambda: self._transport.close() if self._transport else None)

    # The message

    def _take_body(self) -> bool:
        if not self._body_begun and self._buffer:
            self._body_begun = True
            act = self._sink.act("body")
            if act is not None:
                self._perform(act, "451 4.3.0 interrupted", None)
                return False
        if self._sink.lenient and (found := _LOOSE_END.search(self._buffer)) is not None:
            self._finish(bytes(self._buffer[: found.start()]) + b"\r\n" * bool(found.start()), found.end())
            return True
        if self._buffer.startswith(b".\r\n"):
            self._finish(b"", 3)
            return True
        end = self._buffer.find(b"\r\n.\r\n", max(0, self._scanned - 4))
        if end < 0:
            self._scanned = len(self._buffer)
            return False
        self._finish(bytes(self._buffer[: end + 2]), end + 5)
        return True

    def _finish(self, stuffed: bytes, length: int) -> None:
        del self._buffer[:length]
        self._mode = "commands"
        act = self._sink.act("dot")
        taken = act is None or act.reply is None or act.reply.startswith("2")
        self._record(stuffed, taken)
        self._reset()
        own = f"250 2.0.0 queued as S{self._sink.count}"
        if act is None:
            self._write(own)
        elif act.until is not None and not act.until.is_set():
            self._busy = asyncio.get_running_loop().create_task(self._later(act, act.until, own, None))
        else:
            self._perform(act, own, None)
        self._sink.changed()

    def _record(self, stuffed: bytes, taken: bool) -> None:
        sink = self._sink
        found = _MESSAGE_ID.search(stuffed)
        message_id = found[1].decode("ascii", "replace") if found else ""
        if taken:
            sink.count += 1
            sink.taken.update((message_id, recipient) for recipient in self._recipients)
        if sink.keep:
            raw = (b"\r\n" + stuffed).replace(b"\r\n.", b"\r\n")[2:]
            sink.messages.append(
                Message(
                    mail_from=self._mail_from or "",
                    parameters=self._parameters,
                    recipients=tuple(self._recipients),
                    raw=raw,
                    message_id=message_id,
                    taken=taken,
                    connection=self._number,
                    tls=self._secure,
                    user=self._user,
                )
            )


def server_tls(folder: Path, *names: str) -> ssl.SSLContext:
    """A server's TLS context with a certificate signed by itself, for 127.0.0.1 and the names; also `folder/ca.pem`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sink.example")])
    now = dt.datetime.now(dt.UTC)
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in ("sink.example", *names)]
    alternatives.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return context


async def _serve(port: int) -> None:
    async with Sink(port=port, keep=False) as sink:
        sys.stdout.write(f"{sink.port}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
        sys.stdout.write(f"{sink.count}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=0)
    uvloop.run(_serve(parser.parse_args().port))
