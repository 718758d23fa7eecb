"""What the providers that are spoken to by HTTP have in common: one request for each recipient, and its verdict.

Until the first octet of the request's body is written the mail is known not to have been taken (`deferred`, whatever
broke); from then on only an answer decides, and without one it is `unknown`. Each provider says by its `Dialect` how
its request is made and what its answers mean. Redirects are not followed, proxies of the environment not asked, and
no more of an answer is read than tells what it means.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import email.utils
import re
import ssl
import urllib.parse
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import httpx2
import msgspec

from gateway import authorities
from gateway.outbound.providers import replies, smtp_session
from gateway.outbound.providers.contract import AboutToCommit, Health, Outcome, Outgoing, Stage, Verdict

MOST_READ: Final = 65_536  # octets of an answer; the rest is left unread, and the connection closed
SHORTEST_SECRET: Final = 4  # characters; replacing shorter ones in answers would garble them and tell the secret
IDLE_SECONDS: Final = 30.0  # a kept connection unused for so long is closed

_LIST = re.compile(r"[,;()]")  # where addresses are fields of a form, they would make several of one


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """Where a provider's API is, and how long it is waited for."""

    endpoint: str  # scheme, host and port, without / at its end
    connections: int  # at most, at once
    step_seconds: float  # for a connection, and for each piece of the request
    answer_seconds: float  # for the answer, all of it

    @property
    def remote(self) -> str:
        """`host:port` of the API."""
        url = httpx2.URL(self.endpoint)
        return f"{url.netloc.decode()}" if url.port else f"{url.netloc.decode()}:{443 if url.scheme == 'https' else 80}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What is asked of the API."""

    method: str = "POST"
    path: str  # from /, percent-encoded
    headers: dict[str, str] = field(repr=False)  # credentials among them
    content: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a provider answered."""

    status: int
    headers: httpx2.Headers
    content: bytes  # at most 65,536 octets of it; empty where it broke off at once

    def members(self) -> dict[str, Any]:
        """The JSON object that it is; empty for anything else."""
        try:
            found = msgspec.json.decode(self.content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return {}
        return found if isinstance(found, dict) else {}

    def text(self, *names: str) -> str:
        """The first of these members that is a text, else the body as it is."""
        members = self.members()
        said = next((members[name] for name in names if isinstance(members.get(name), str)), None)
        return said if said is not None else self.content[: 4 * replies.LONGEST_REPLY].decode("utf-8", "replace")

    def retry_after(self) -> float | None:
        """Seconds of Retry-After, RFC 9110 section 10.2.3: a number or a date."""
        value = self.headers.get("retry-after", "").strip()
        if value.isascii() and value.isdecimal():
            return min(float(value[:9]), replies.LONGEST_WAIT)
        try:
            until = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return None
        until = until if until.tzinfo else until.replace(tzinfo=UTC)
        return min(max((until - datetime.now(UTC)).total_seconds(), 0.0), replies.LONGEST_WAIT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What an answer means."""

    outcome: Outcome
    text: str  # the provider's words
    stage: Stage = "dot"  # auth: our whole account is meant · mail: the sender · rcpt: the recipient
    provider_id: str | None = None  # set where it was taken


class Unsendable(Exception):
    """The message cannot be said in this provider's words."""


class Dialect(Protocol):
    """One provider's words."""

    @property
    def name(self) -> str:
        """The provider's name; no credentials."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown."""

    def request(self, outgoing: Outgoing) -> Request:
        """The request that sends the message, to its one recipient; Unsendable where there is none."""

    def is_spent(self, text: str) -> bool:
        """Whether a 429 in these words tells of an allowance that only days bring back, and not of our pace."""

    def question(self) -> Request:
        """A request that changes nothing and needs our credentials."""

    def health(self, answer: Answer) -> Health:
        """What the answer to it tells, other than a redirect, 429 and 5xx."""

    def read(self, answer: Answer) -> Reading:
        """What an answer means, other than a redirect, 429 and 5xx, which mean the same everywhere."""


class HttpProvider:
    """Sends through one provider's API."""

    def __init__(self, service: Service, dialect: Dialect) -> None:
        self._service = service
        self._dialect = dialect
        self._secrets = _forms(dialect.secrets)
        self._slots = asyncio.Semaphore(service.connections)
        self._client = httpx2.AsyncClient(
            trust_env=False,
            verify=authorities.for_http(),
            follow_redirects=False,
            headers={"user-agent": "postroom", "accept": "application/json", "accept-encoding": "identity"},
            timeout=httpx2.Timeout(service.step_seconds, read=service.answer_seconds, pool=None),
            limits=httpx2.Limits(max_connections=service.connections, keepalive_expiry=IDLE_SECONDS),
        )

    @property
    def name(self) -> str:
        """`mailgun:domain`, `postmark`, `ses:region`."""
        return self._dialect.name

    async def send(self, outgoing: Outgoing, *, about_to_commit: AboutToCommit | None = None) -> Verdict:
        """One request; `about_to_commit` is awaited before it."""
        attempt = _Attempt(self._service, self._secrets)
        async with self._slots:
            try:
                request = await _made(self._dialect, outgoing)
            except Unsendable as error:
                return attempt.verdict(Reading(outcome="failed", text=str(error), stage="mail"))
            if about_to_commit is not None:
                await about_to_commit()
            answer = await self._exchange(request, attempt)
        if isinstance(answer, Reading):
            return attempt.verdict(answer)
        return attempt.verdict(_reading(self._dialect, answer), answer)

    async def examine(self) -> Health:
        """Ask what changes nothing."""
        attempt = _Attempt(self._service, self._secrets)
        answer = await self._exchange(self._dialect.question(), attempt)
        if isinstance(answer, Reading):
            return Health(standing="unwell", said=attempt.shown(f"{self._service.remote}: {answer.text}"))
        if answer.status < 200 or 300 <= answer.status < 400:
            return Health(standing="unwell", said=f"{answer.status}: not an answer of the API")
        if answer.status == 429 or answer.status >= 500:
            return Health(standing="doubtful", said=f"{answer.status}: it is busy or broken", advice="Ask again later.")
        health = self._dialect.health(answer)
        tls = self._service.endpoint.startswith("https:")
        return dataclasses.replace(health, said=attempt.shown(health.said), tls=tls)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _exchange(self, request: Request, attempt: _Attempt) -> Answer | Reading:
        """The answer, or what it means that there was none."""
        crossing = len(request.content) / smtp_session.SLOWEST_LINK
        posted = self._client.build_request(
            request.method,
            self._service.endpoint + request.path,
            headers=request.headers,
            content=request.content,
            extensions={"trace": attempt.trace},
        )
        attempt.transcript.append(f"C: {request.method} {posted.url} [{len(request.content)} octets]")
        try:
            async with asyncio.timeout(2 * self._service.step_seconds + self._service.answer_seconds + crossing):
                return await self._ask(posted, attempt)
        except (httpx2.RequestError, OSError, RuntimeError) as error:  # RuntimeError: the client is closed
            return attempt.broken(error)

    async def _ask(self, posted: httpx2.Request, attempt: _Attempt) -> Answer:
        response = await self._client.send(posted, stream=True)
        try:
            content = await _beginning(response)
        finally:
            await response.aclose()
        attempt.heard(response, content)
        return Answer(status=response.status_code, headers=response.headers, content=content)


class _Attempt:
    """What is gathered for the verdict."""

    def __init__(self, service: Service, secrets: tuple[str, ...]) -> None:
        self.transcript: list[str] = []
        self._started_at = datetime.now(UTC)
        self._remote = service.remote
        self._tls = service.endpoint.startswith("https:")
        self._secrets = secrets
        self._committed = False  # the body may have left
        self._connected = False

    async def trace(self, event: str, _: dict[str, Any]) -> None:
        """Called by httpcore2 as it goes on."""
        if event.endswith(".send_request_body.started"):
            self._committed = True
        elif event.endswith(".send_request_headers.started"):
            self._connected = True

    def heard(self, response: httpx2.Response, content: bytes) -> None:
        stream = response.extensions.get("network_stream")
        peer = stream.get_extra_info("server_addr") if stream is not None else None
        if peer:
            self._remote = f"{self._remote}/{peer[0]}"
        self.transcript.append(f"S: {response.status_code} {response.reason_phrase}")
        self.transcript.append(f"S: {content[: 4 * replies.LONGEST_REPLY].decode('utf-8', 'replace')}")

    def broken(self, error: Exception) -> Reading:
        """The line broke, or nobody answered in time."""
        what = str(error) or type(error).__name__
        self.transcript.append(f"* {what}")
        if self._committed:
            return Reading(outcome="unknown", text=f"{what} (after the request was sent)", stage="dot")
        if reason := _distrust(error):
            return Reading(outcome="provider_fault", text=f"TLS: {reason}", stage="tls")
        stage: Stage = "data" if self._connected else "connect"
        return Reading(outcome="deferred", text=f"{what} (before the request was sent)", stage=stage)

    def verdict(self, reading: Reading, answer: Answer | None = None) -> Verdict:
        waits = reading.outcome in {"deferred", "provider_fault"} and answer is not None
        return Verdict(
            outcome=reading.outcome,
            reply=self.shown(reading.text if answer is None else f"{answer.status} {reading.text}"),
            started_at=self._started_at,
            finished_at=datetime.now(UTC),
            stage=reading.stage,
            code=answer.status if answer else None,
            enhanced=replies.enhanced_status(reading.text) if answer else None,
            provider_id=replies.one_line(reading.provider_id) if reading.provider_id else None,
            retry_after=answer.retry_after() if waits and answer else None,
            transcript=tuple(map(self.shown, self.transcript)),
            remote=self._remote,
            tls=self._tls,
        )

    def shown(self, text: str) -> str:
        """The text without our credentials, should the provider repeat them."""
        for secret in self._secrets:
            text = text.replace(secret, "****")
        return replies.one_line(text)


def _reading(dialect: Dialect, answer: Answer) -> Reading:
    text = answer.text("Message", "message")
    if answer.status < 200 or 300 <= answer.status < 400:
        return Reading(outcome="provider_fault", text=f"not an answer of the API: {text}", stage="auth")
    if answer.status == 504:  # RFC 9110 section 15.6.5: said by a gateway that got no answer itself
        return Reading(outcome="unknown", text=text)
    if answer.status == 429 and dialect.is_spent(text):
        return Reading(outcome="provider_fault", text=text, stage="auth")
    if answer.status == 429 or answer.status >= 500:
        return Reading(outcome="deferred", text=text)
    return dialect.read(answer)


async def _made(dialect: Dialect, outgoing: Outgoing) -> Request:
    """The request, by a thread where the message is big: reading and encoding it would hold everything else up."""
    try:
        outgoing = smtp_session.sayable(outgoing)
    except smtp_session.DialogueError as error:
        raise Unsendable(error.text) from error
    if not outgoing.rcpt_to.startswith('"') and _LIST.search(outgoing.rcpt_to):
        raise Unsendable("not one address")
    if len(outgoing.raw) > MOST_READ:
        return await asyncio.to_thread(dialect.request, outgoing)
    return dialect.request(outgoing)


async def _beginning(response: httpx2.Response) -> bytes:
    """What can be had of an answer. Its status has come and decides, so that a line that breaks now changes nothing."""
    content = b""
    try:
        async with asyncio.timeout(response.request.extensions["timeout"]["read"]):
            async for piece in response.aiter_raw():
                content += piece
                if len(content) >= MOST_READ:
                    break
    except (httpx2.RequestError, OSError):
        pass
    return content[:MOST_READ]


def _distrust(error: BaseException | None) -> str | None:
    """Why the API's certificate is not trusted, where that is what happened."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        error = error.__cause__ or error.__context__
    return None


def _forms(secrets: tuple[str, ...]) -> tuple[str, ...]:
    """The secrets, and the forms in which a request says them; the longest first."""
    encoded = [base64.b64encode(secret.encode()).decode() for secret in secrets]
    quoted = [urllib.parse.quote(secret, safe="") for secret in secrets]
    return tuple(sorted({s for s in (*secrets, *encoded, *quoted) if len(s) >= SHORTEST_SECRET}, key=len, reverse=True))
