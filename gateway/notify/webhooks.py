"""One webhook attempt: signed, sent to a checked address, judged; and when the next one is due.

Signatures follow Standard Webhooks (https://www.standardwebhooks.com, "v1"). An attempt follows no redirect, reads no
proxy variable, ends within its total timeout and reads at most 64 KiB of the answer. Which deliveries are due, and what
becomes of them, is for whoever calls: nothing here touches the database.

    outcome     answer
    delivered   2xx
    gone        410: the receiver wants no more of it, the webhook is to be disabled
    failed      any other status, 3xx among them; no connection; a forbidden target; a timeout before the status line
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email.utils
import hashlib
import hmac
import re
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Literal, Self

import anyio
import httpcore2
import prometheus_client
import structlog

from gateway import authorities
from gateway.notify import guard

log = structlog.get_logger(__name__)

ATTEMPTS: Final = prometheus_client.Counter(
    "postroom_webhook_attempts", "Webhook attempts by outcome: delivered, failed, gone", ["outcome"]
)

Outcome = Literal["delivered", "failed", "gone"]

ANSWER_READ_BYTES: Final = 65_536  # then the connection is closed; the status counts all the same
ANSWER_KEPT_BYTES: Final = 1024
ANSWER_SECONDS: Final = 1.0  # for the rest of an answer whose status is known: it decides nothing any more
RETRY_AFTER_MAX_SECONDS: Final = 86_400.0  # a receiver cannot put a delivery off for longer
_ERROR_MAX_CHARACTERS: Final = 200
_KEEPALIVE_SECONDS: Final = 15.0
_KEEPALIVE_CONNECTIONS: Final = 100
_CONNECT_SECONDS: Final = 5.0  # for one address, so that a dead first one leaves time for the second
_EXCHANGE_ERRORS: Final = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.TimeoutException,
    anyio.BrokenResourceError,  # the connection broke where the library does not translate it
)
_DELAY_SECONDS: Final = re.compile(r"[0-9]{1,9}")  # RFC 9110 10.2.3


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """What came of sending one webhook once."""

    outcome: Outcome
    status: int | None  # of the HTTP answer; None if there was none
    latency: float  # seconds, from look-up to the answer's end or the error; 0 where the target is not allowed
    answer: str  # first 1 KiB of the answer as text, without NUL; may be empty
    error: str | None  # why there was no answer, for the webhook's owner; None if there was one
    retry_after: float | None  # seconds the receiver asked for, 0 to 86,400; None if it asked for none


def sign(secrets: Sequence[str], webhook_id: str, timestamp: datetime, body: bytes) -> dict[str, str]:
    """The three headers of a signed webhook, one signature for each secret (`whsec_…`), newest first while rotating.

    `webhook_id` stays the same over all attempts of a delivery; `timestamp` is the attempt's.
    """
    seconds = str(int(timestamp.timestamp()))
    signed = b".".join((webhook_id.encode(), seconds.encode(), body))
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": seconds,
        "webhook-signature": " ".join(_signature(secret, signed) for secret in secrets),
    }


def next_attempt(
    attempts_made: int, schedule: Sequence[float | str], retry_after: float | None = None, jitter: float = 0.0
) -> float | None:
    """Seconds until the next attempt, None when there is none left (`dead`).

    `schedule`: seconds after the first, second … attempt, as WEBHOOK_RETRY_SCHEDULE has them; the first attempt is due
    at once. `jitter`: a share drawn by the caller, such as -0.2 to 0.2. `retry_after` can only make it later.
    """
    if attempts_made == 0:
        return 0.0
    if attempts_made > len(schedule):
        return None
    wait = float(schedule[attempts_made - 1]) * (1 + jitter)
    return max(wait, min(retry_after or 0.0, RETRY_AFTER_MAX_SECONDS))


class Poster:
    """Sends webhooks over a pool of connections, each made to an address the guard has checked.

    The pool keeps connections by scheme, name and port, so one that is kept was checked under the same name and its
    certificate verified for it. Use as an async context manager, or call `close`.
    """

    def __init__(
        self,
        *,
        allow_private: bool,
        timeout_seconds: float,
        resolver: guard.Resolver = guard.system_resolver,
        ssl_context: ssl.SSLContext | None = None,
        user_agent: str = "Postroom-Webhooks",
    ) -> None:
        """`timeout_seconds`: of a whole attempt. `ssl_context`: None for the system's certificate authorities."""
        self._allow_private = allow_private
        self._timeout_seconds = timeout_seconds
        self._user_agent = user_agent
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=ssl_context or authorities.for_http(),  # with none, the pool reads them for each connection
            max_connections=None,  # whoever leases deliveries says how many run at once
            max_keepalive_connections=_KEEPALIVE_CONNECTIONS,
            keepalive_expiry=_KEEPALIVE_SECONDS,
            network_backend=_CheckedConnections(resolver, allow_private=allow_private),
        )

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Attempt:
        """POST `body` (JSON) to `url`; never raises for what the target does or is."""
        began = time.monotonic()
        answer = _Answer()
        error = await self._attempt(url, headers, body, answer)
        attempt = answer.judge(error, time.monotonic() - began)
        ATTEMPTS.labels(attempt.outcome).inc()
        return attempt

    async def _attempt(self, url: str, headers: Mapping[str, str], body: bytes, answer: _Answer) -> str | None:
        """Why the exchange did not come to its end, None if it did; what was heard until then is in `answer`."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                target = guard.check_url(url, allow_private=self._allow_private)
                await self._exchange(target, headers, body, answer)
        except TimeoutError:
            return f"no answer within {self._timeout_seconds:g} s"
        except guard.ForbiddenTarget as refusal:
            answer.refuse()
            return _describe(refusal)
        except (OSError, *_EXCHANGE_ERRORS) as error:
            return _describe(error)
        except Exception:  # a target that upsets the HTTP library fails its own delivery, nothing else
            log.exception("webhook attempt broke", webhook_id=headers.get("webhook-id"))
            return "internal error"
        return None

    async def close(self) -> None:
        await self._pool.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _exchange(self, target: guard.Target, headers: Mapping[str, str], body: bytes, answer: _Answer) -> None:
        url = httpcore2.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        request_headers = [
            ("Host", target.authority),
            ("Content-Type", "application/json"),
            ("User-Agent", self._user_agent),
            *headers.items(),
        ]
        async with self._pool.stream("POST", url, headers=request_headers, content=body) as response:
            answer.begin(response.status, response.headers)
            with contextlib.suppress(TimeoutError):
                async with (
                    asyncio.timeout(ANSWER_SECONDS),
                    contextlib.aclosing(response.aiter_stream()) as chunks,
                ):
                    await answer.read(chunks)


class _CheckedConnections(httpcore2.AsyncNetworkBackend):
    """Makes connections to the addresses that the guard returns for a name, looked up once for each connection."""

    def __init__(self, resolver: guard.Resolver, *, allow_private: bool) -> None:
        self._resolver = resolver
        self._allow_private = allow_private
        self._plain = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        addresses = await guard.resolve(host, port, self._resolver, allow_private=self._allow_private)
        for address in addresses[:-1]:
            with contextlib.suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                return await self._connect(address, port, socket_options)
        return await self._connect(addresses[-1], port, socket_options)

    async def _connect(
        self, address: guard.Address, port: int, socket_options: Iterable[httpcore2.SOCKET_OPTION] | None
    ) -> httpcore2.AsyncNetworkStream:
        return await self._plain.connect_tcp(str(address), port, _CONNECT_SECONDS, None, socket_options)


class _Answer:
    """What has been heard so far; it counts even where the rest of it never comes."""

    def __init__(self) -> None:
        self._status: int | None = None
        self._retry_after: float | None = None
        self._start = b""
        self._refused = False

    def refuse(self) -> None:
        """The target is not allowed. How long it took to find that out is nobody's business: an inner name that is
        known, one that is not, and one that the DNS does not have are told apart by nothing."""
        self._refused = True

    def begin(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self._status = status
        fields = {name.lower(): value for name, value in headers}
        self._retry_after = parse_retry_after(fields.get(b"retry-after", b"").decode("latin-1"), datetime.now(UTC))

    async def read(self, chunks: AsyncIterator[bytes]) -> None:
        count = 0
        async for chunk in chunks:
            self._start += chunk[: ANSWER_KEPT_BYTES - len(self._start)]
            count += len(chunk)
            if count >= ANSWER_READ_BYTES:
                return

    def judge(self, error: str | None, latency: float) -> Attempt:
        status = self._status
        return Attempt(
            outcome=_outcome(status),
            status=status,
            latency=0.0 if self._refused else latency,
            answer=self._start.decode("utf-8", "replace").replace("\x00", "�"),  # Postgres takes no NUL
            error=error if status is None else None,
            retry_after=self._retry_after,
        )


def parse_retry_after(value: str, now: datetime) -> float | None:
    """Seconds from a Retry-After header (RFC 9110 10.2.3), a number or a date; None if it is neither. At most a day."""
    text = value.strip()
    if _DELAY_SECONDS.fullmatch(text):
        return min(float(text), RETRY_AFTER_MAX_SECONDS)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, IndexError, TypeError, OverflowError):
        return None
    if moment.tzinfo is None:  # "-0000"
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - now).total_seconds(), 0.0), RETRY_AFTER_MAX_SECONDS)


def _outcome(status: int | None) -> Outcome:
    if status is not None and 200 <= status <= 299:
        return "delivered"
    return "gone" if status == 410 else "failed"


def _signature(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode("ascii")


def _describe(error: Exception) -> str:
    """For the webhook's owner: what went wrong, in one short line."""
    said = str(error) or type(error).__name__
    return said.replace("\x00", "�")[:_ERROR_MAX_CHARACTERS]
