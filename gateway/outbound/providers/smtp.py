"""Provider `smtp`: a relay, spoken to over connections that are kept and used again.

The verdict tells apart what SMTP can tell apart: until the body is written the message is known not to have been
taken (`deferred`, whatever broke); once it is written only a complete reply decides, and without one it is `unknown`.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from datetime import UTC, datetime
from typing import Final

from gateway.outbound.providers import line, replies, smtp_session
from gateway.outbound.providers.contract import AboutToCommit, Health, Outcome, Outgoing, Verdict

SHORTEST_SECRET: Final = 4  # characters; replacing shorter ones in replies would garble them and tell the secret


class SmtpProvider:
    """Sends through one relay."""

    def __init__(self, relay: smtp_session.Relay, *, context: ssl.SSLContext | None = None) -> None:
        """`context`: instead of the one that the relay's own fields ask for."""
        self._relay = relay
        self._context = context or smtp_session.tls_context(relay)
        self._secrets = _secrets(relay)
        self._slots = asyncio.Semaphore(relay.connections)
        self._idle: list[smtp_session.Session] = []  # longest unused first
        self._reaper: asyncio.TimerHandle | None = None  # set while connections are kept
        self._farewells: set[asyncio.Task[None]] = set()  # QUITs under way
        self._closed = False

    @property
    def name(self) -> str:
        """`smtp:host:port` or `smtps:host:port`."""
        return self._relay.name

    async def send(self, outgoing: Outgoing, *, about_to_commit: AboutToCommit | None = None) -> Verdict:
        """One transaction; `about_to_commit` is awaited between the reply to RCPT and DATA."""
        attempt = _Attempt(outgoing, self._relay.authority, self._secrets)
        try:
            attempt.outgoing = smtp_session.sayable(outgoing)
            async with self._slots:
                return attempt.taken(await self._transact(attempt, about_to_commit))
        except smtp_session.DialogueError as ended:
            return attempt.ended(ended)

    async def examine(self) -> Health:
        """The dialogue up to MAIL (connect, EHLO, STARTTLS, AUTH), then QUIT."""
        try:
            session = await smtp_session.open_session(self._relay, self._context, [])
        except smtp_session.DialogueError as end:
            said = end.text if end.code is None else f"{end.code} {end.text}"
            return Health(standing="unwell", said=f"{end.stage.upper()}: {_masked(said, self._secrets)}")
        await session.quit()
        encrypted = "encrypted" if session.tls else "in the clear"
        known = ", logged in" if self._relay.username is not None else ""
        return Health(standing="well", said=f"{session.remote} answers, {encrypted}{known}", tls=session.tls)

    async def close(self) -> None:
        """Say QUIT on what is kept; connections in use close when their message is done."""
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        while self._idle:
            self._retire(self._idle.pop())
        await asyncio.gather(*self._farewells)

    async def _transact(self, attempt: _Attempt, about_to_commit: AboutToCommit | None) -> line.Reply:
        try:
            session = await self._begin(attempt, with_data=about_to_commit is None)
            if about_to_commit is not None:
                await about_to_commit()
            return await session.data(attempt.outgoing, attempt.transcript)
        finally:
            if attempt.session is not None:
                self._give_back(attempt.session)

    async def _begin(self, attempt: _Attempt, *, with_data: bool) -> smtp_session.Session:
        """MAIL and RCPT, on a kept connection or a new one. A kept one that turns out dead is replaced once, unseen."""
        session = self._kept()
        if session is not None and await self._begin_on_kept(session, attempt, with_data=with_data):
            return session
        session = await smtp_session.open_session(self._relay, self._context, attempt.transcript)
        attempt.use(session)
        await session.begin(attempt.outgoing, attempt.transcript, with_data=with_data)
        return session

    async def _begin_on_kept(self, session: smtp_session.Session, attempt: _Attempt, *, with_data: bool) -> bool:
        attempt.use(session)
        attempt.transcript.append(f"* connection to {session.remote}, message {session.messages + 1}")
        try:
            await session.begin(attempt.outgoing, attempt.transcript, with_data=with_data)
            return True
        except smtp_session.DialogueError as ended:
            if ended.outcome is not None or ended.stage != "mail" or ended.code not in {None, 421}:
                raise
            session.abort()
            attempt.transcript.append(f"* that connection is gone: {ended.text}")
            return False

    def _kept(self) -> smtp_session.Session | None:
        """The connection used last; those that closed meanwhile are dropped."""
        while self._idle:
            session = self._idle.pop()
            if session.sound:
                return session
            session.abort()
        return None

    def _give_back(self, session: smtp_session.Session) -> None:
        if not session.sound:
            session.abort()
        elif self._closed or session.worn_out:
            self._retire(session)
        else:
            self._keep(session)

    def _keep(self, session: smtp_session.Session) -> None:
        loop = asyncio.get_running_loop()
        session.idle_since = loop.time()
        self._idle.append(session)
        if self._reaper is None:
            self._reaper = loop.call_later(self._relay.idle_seconds, self._reap)

    def _reap(self) -> None:
        """Let go of connections unused for too long; look again when the next one would be."""
        self._reaper = None
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0].idle_since + self._relay.idle_seconds <= loop.time():
            self._retire(self._idle.pop(0))
        if self._idle:
            self._reaper = loop.call_at(self._idle[0].idle_since + self._relay.idle_seconds, self._reap)

    def _retire(self, session: smtp_session.Session) -> None:
        farewell = asyncio.get_running_loop().create_task(session.quit())
        self._farewells.add(farewell)
        farewell.add_done_callback(self._farewells.discard)


class _Attempt:
    """What is gathered for the verdict while the dialogue goes on."""

    def __init__(self, outgoing: Outgoing, remote: str, secrets: tuple[str, ...]) -> None:
        self.outgoing = outgoing
        self.transcript: list[str] = []
        self.session: smtp_session.Session | None = None
        self._started_at = datetime.now(UTC)
        self._remote = remote
        self._secrets = secrets

    def use(self, session: smtp_session.Session) -> None:
        self.session = session
        self._remote = session.remote

    def taken(self, reply: line.Reply) -> Verdict:
        end = smtp_session.DialogueError("dot", reply.text, code=reply.code)
        return self._verdict(end, "sent")

    def ended(self, end: smtp_session.DialogueError) -> Verdict:
        status = replies.enhanced_status(end.text)
        return self._verdict(end, end.outcome or replies.classify(end.stage, end.code, status, end.text))

    def _verdict(self, end: smtp_session.DialogueError, outcome: Outcome) -> Verdict:
        return Verdict(
            outcome=outcome,
            reply=self._shown(end.text if end.code is None else f"{end.code} {end.text}"),
            started_at=self._started_at,
            finished_at=datetime.now(UTC),
            stage=end.stage,
            code=end.code,
            enhanced=replies.enhanced_status(end.text) if end.code is not None else None,
            provider_id=replies.queue_id(end.text) if outcome == "sent" else None,
            retry_after=replies.retry_after(end.text) if outcome in {"deferred", "provider_fault"} else None,
            transcript=tuple(map(self._shown, self.transcript)),
            remote=self._remote,
            tls=self.session is not None and self.session.tls,
        )

    def _shown(self, text: str) -> str:
        """The text without the relay's credentials, should its replies repeat them."""
        return _masked(text, self._secrets)


def _masked(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        text = text.replace(secret, "****")
    return replies.one_line(text)


def _secrets(relay: smtp_session.Relay) -> tuple[str, ...]:
    """The password, and the forms in which AUTH says it; the longest first."""
    if relay.username is None:
        return ()
    user, password = relay.username.encode(), relay.password.encode()
    forms = (b"\0" + user + b"\0" + password, user, password)
    encoded = [base64.b64encode(form).decode() for form in forms]
    return tuple(sorted({s for s in (*encoded, relay.password) if len(s) >= SHORTEST_SECRET}, key=len, reverse=True))
