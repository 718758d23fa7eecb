"""Nudges: what Redis is for. One process says "look again", others look into Postgres at once instead of in a second.

A nudge carries no truth. It may be lost, doubled or late, and Redis may be away for days: whoever is nudged polls
Postgres anyway. So `Nudger` is never awaited, keeps a bounded set of what is to be said, and drops it when Redis does
not take it within half a second.

    Nudger     says: an account has work of some kind (an arq job), accounts have new events (a message)
    Listener   hears of new events, for the streams and waits of this process
    follow     a subscription that outlives Redis's restarts, for both ends

Every name in Redis begins with a namespace: pub/sub knows no database numbers, so gateways that share a server are told
apart by it alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from uuid import UUID

import arq.constants
import arq.jobs
import arq.utils
import msgspec
import prometheus_client
import redis.asyncio
import structlog
from redis.asyncio import connection as connections
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from gateway import errors

log = structlog.get_logger(__name__)

DROPPED: Final = prometheus_client.Counter(
    "postroom_nudges_dropped", "Nudges that Redis did not take; the work is found by polling Postgres"
)

NAMESPACE: Final = "postroom"
AWAY: Final = (RedisError, OSError)  # what redis-py raises while Redis is away, TimeoutError among them
ANSWER_SECONDS: Final = 0.5  # connecting; writing a command; its answer
PAUSE_SECONDS: Final = 0.5  # between two tries while Redis is away
SILENCE_SECONDS: Final = 2.0  # of a subscription, then a PING; as long again without an answer, and it is dead
PENDING_MAX: Final = 10_000  # nudges waiting to be said; more are dropped
_JOB_LIFE_MS: Final = 3_600_000  # of a nudge in the queue that no worker takes
_BATCH: Final = 500  # jobs in one transaction


@dataclass(frozen=True, slots=True)
class Names:
    """What things are called in Redis."""

    namespace: str = NAMESPACE

    @property
    def queue(self) -> str:
        """arq's queue, a sorted set of job ids."""
        return f"{self.namespace}:queue"

    @property
    def wake(self) -> str:
        """Channel: something was put into the queue."""
        return f"{self.namespace}:wake"

    @property
    def events(self) -> str:
        """Channel: these accounts have new events (a JSON list of their ids)."""
        return f"{self.namespace}:events"

    def job_id(self, job: str, account_id: UUID) -> str:
        """One id for all nudges of a kind and account: while the job waits, they are one."""
        return f"{self.namespace}:{job}:{account_id}"


class JobError(errors.PostroomError):
    """An exception that came out of a job, read back from Redis: its class's name and text."""


def encode(value: dict[str, Any]) -> bytes:
    """A job or its result as JSON, for arq (whose own choice, pickle, would run what it reads)."""
    return msgspec.json.encode(value, enc_hook=_encode_exception)


def decode(data: bytes) -> dict[str, Any]:
    """A job or its result; an exception among its members becomes a JobError."""
    value = msgspec.json.decode(data, type=dict[str, Any])
    result = value.get("r")
    if isinstance(result, dict) and result.keys() == {"exception", "message"}:
        value["r"] = JobError(f"{result['exception']}: {result['message']}")
    return value


def pool_from_url(
    url: str, *, tls_verify: bool = True, answer_seconds: float = ANSWER_SECONDS
) -> redis.asyncio.ConnectionPool:
    """Connections as REDIS_URL says: redis://, rediss:// or unix://, user and password percent-encoded.

    A private authority's certificate is named in the URL (`?ssl_ca_certs=/path.pem`), or not checked (`tls_verify`).
    A Redis that takes longer than `answer_seconds` for anything is away: ConnectionError.
    """
    try:
        options: dict[str, Any] = {**connections.parse_url(url)}
    except ValueError as error:
        raise errors.ConfigurationError(f"REDIS_URL: {error}") from None
    if url.startswith("rediss://"):
        options |= _tls_options(tls_verify=tls_verify and options.get("ssl_cert_reqs") != "none")
    options |= {
        "connection_class": _BOUNDED[options.get("connection_class", connections.Connection)],
        "answer_seconds": answer_seconds,
        "socket_connect_timeout": answer_seconds,
        "socket_timeout": None,  # see _Bounded; the URL may name one
    }
    return redis.asyncio.ConnectionPool(**options)


class _Bounded(connections.AbstractConnection):
    """Gives up on a server that is silent.

    redis-py's own `socket_timeout` would, too, but goes through asyncio.wait_for, which on Python 3.11 swallows a
    cancellation that comes in the moment of success: the task can no longer be stopped. And a timeout around whole
    operations, from outside, is not enough: redis-py's clean-up of a cancelled one talks to the server again.
    """

    def __init__(self, *, answer_seconds: float, **options: Any) -> None:
        super().__init__(**options)
        self._answer_seconds = answer_seconds

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        async with self._patience():
            await super().send_packed_command(command, check_health)

    async def read_response(
        self,
        disable_decoding: bool = False,
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        if timeout is not None:  # a subscription, which may be silent for as long as it says
            return await super().read_response(disable_decoding, timeout, **options)
        async with self._patience():
            return await super().read_response(disable_decoding, **options)

    @contextlib.asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._answer_seconds):
                yield
        except TimeoutError:
            raise RedisConnectionError(f"no answer within {self._answer_seconds:g} s") from None


class _Tcp(_Bounded, connections.Connection):
    pass


class _Tls(_Bounded, connections.SSLConnection):
    pass


class _Unix(_Bounded, connections.UnixDomainSocketConnection):
    pass


_BOUNDED: Final[dict[type[connections.AbstractConnection], type[connections.AbstractConnection]]] = {
    connections.Connection: _Tcp,
    connections.SSLConnection: _Tls,
    connections.UnixDomainSocketConnection: _Unix,
}


def redis_from_url(url: str, *, tls_verify: bool = True, answer_seconds: float = ANSWER_SECONDS) -> redis.asyncio.Redis:
    """A client of its own pool, see `pool_from_url`; it connects when first used. `aclose` closes both."""
    pool = pool_from_url(url, tls_verify=tls_verify, answer_seconds=answer_seconds)
    return redis.asyncio.Redis.from_pool(pool)


async def follow(
    client: redis.asyncio.Redis,
    channel: str,
    *,
    on_message: Callable[[bytes], None],
    on_subscribed: Callable[[], None],
    on_lost: Callable[[], None] = lambda: None,
    pause_seconds: float = PAUSE_SECONDS,
    silence_seconds: float = SILENCE_SECONDS,
) -> NoReturn:
    """Hear a channel until cancelled, over any number of Redis's absences.

    `on_subscribed` is called each time the subscription holds (again): what was said before it is gone, so catch up.
    The callbacks must not raise.
    """
    held = True  # so that an absence at the start is told, too; each absence is told once

    def subscribed() -> None:
        nonlocal held
        held = True
        on_subscribed()

    while True:
        reason = "silence"
        try:
            await _hear(client, channel, on_message, subscribed, silence_seconds)
        except AWAY as error:
            reason = type(error).__name__
        if held:
            log.warning("redis subscription lost", channel=channel, reason=reason)
            on_lost()
        held = False
        await asyncio.sleep(pause_seconds)


async def _hear(
    client: redis.asyncio.Redis,
    channel: str,
    on_message: Callable[[bytes], None],
    on_subscribed: Callable[[], None],
    silence_seconds: float,
) -> None:
    async with client.pubsub() as subscription:
        await subscription.subscribe(channel)
        pinged = False
        while True:
            message = await subscription.get_message(timeout=silence_seconds)
            if message is None and pinged:
                return
            pinged = message is None
            if message is None:
                await subscription.ping()
            elif message["type"] == "subscribe":
                on_subscribed()
            elif message["type"] == "message":
                on_message(message["data"])


class Nudger:
    """Says that there is work and that there are events; returns at once, never raises, awaits nothing.

    One background task at a time carries what has gathered since the last; equal nudges meanwhile are one.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        tls_verify: bool = True,
        namespace: str = NAMESPACE,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        """`redis_url`: empty where there is no Redis; then every nudge is a no-op."""
        self._client = redis_from_url(redis_url, tls_verify=tls_verify) if redis_url else None
        self._names = Names(namespace)
        self._pause_seconds = pause_seconds
        self._jobs: set[tuple[str, UUID]] = set()
        self._accounts: set[UUID] = set()
        self._sending: asyncio.Task[None] | None = None
        self._away = False  # whether the last try failed

    def nudge(self, job: str, account_id: UUID) -> None:
        """The account has work of this kind, as committed."""
        if self._has_room():
            self._jobs.add((job, account_id))
            self._stir()

    def tell(self, account_ids: Iterable[UUID]) -> None:
        """These accounts have new events, as committed."""
        if self._has_room():
            self._accounts.update(account_ids)
            self._stir()

    async def close(self) -> None:
        """Say what is still to be said, if Redis takes it, and close the connections."""
        if self._sending is not None:
            sending = self._sending
            await asyncio.wait([sending], timeout=ANSWER_SECONDS)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        if self._client is not None:
            with contextlib.suppress(*AWAY):
                await self._client.aclose()

    def _has_room(self) -> bool:
        if self._client is None:
            return False
        if len(self._jobs) + len(self._accounts) < PENDING_MAX:
            return True
        DROPPED.inc()
        return False

    def _stir(self) -> None:
        if self._sending is None and (self._jobs or self._accounts):
            self._sending = asyncio.create_task(self._send(), name="nudges")

    async def _send(self) -> None:
        try:
            while self._jobs or self._accounts:
                await self._send_what_gathered()
        finally:
            self._sending = None  # in the same step as the look at the sets: no nudge falls between

    async def _send_what_gathered(self) -> None:
        jobs, accounts = list(self._jobs), list(self._accounts)
        self._jobs.clear()
        self._accounts.clear()
        try:
            await self._say(jobs, accounts)
            self._away = False
        except AWAY as error:
            self._drop(len(jobs) + len(accounts), error)
            await asyncio.sleep(self._pause_seconds)

    async def _say(self, jobs: Sequence[tuple[str, UUID]], accounts: Sequence[UUID]) -> None:
        if accounts:
            await self._publish(accounts)
        for start in range(0, len(jobs), _BATCH):
            await self._enqueue(jobs[start : start + _BATCH])

    async def _publish(self, accounts: Sequence[UUID]) -> None:
        assert self._client is not None  # noqa: S101 - nothing is pending without one
        await self._client.publish(self._names.events, msgspec.json.encode(accounts))

    async def _enqueue(self, jobs: Sequence[tuple[str, UUID]]) -> None:
        """What arq's `enqueue_job` does, for many jobs in one round trip, and the wake-up.

        Both writes are NX in one transaction: a job that waits or runs under the same id is left as it is.
        """
        assert self._client is not None  # noqa: S101 - nothing is pending without one
        now = arq.utils.timestamp_ms()
        async with self._client.pipeline(transaction=True) as pipe:
            for job, account_id in jobs:
                job_id = self._names.job_id(job, account_id)
                data = arq.jobs.serialize_job(job, (str(account_id),), {}, None, now, serializer=encode)
                pipe.set(arq.constants.job_key_prefix + job_id, data, px=_JOB_LIFE_MS, nx=True)
                pipe.zadd(self._names.queue, {job_id: now}, nx=True)
            pipe.publish(self._names.wake, b"1")
            await pipe.execute()

    def _drop(self, count: int, error: Exception) -> None:
        DROPPED.inc(count)
        if not self._away:
            log.warning("redis is away, nudges are dropped", error=type(error).__name__)
        self._away = True


class Listener:
    """Hears which accounts have new events, in this process and others."""

    def __init__(
        self,
        redis_url: str,
        *,
        on_nudge: Callable[[Sequence[UUID]], None],
        on_reconnect: Callable[[], None],
        tls_verify: bool = True,
        namespace: str = NAMESPACE,
        pause_seconds: float = PAUSE_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        """`on_nudge` gets the accounts; `on_reconnect` is called when the subscription begins to hold, the first time
        too: catch up with Postgres, for what was said before is lost. Neither may raise.
        """
        self._client = redis_from_url(redis_url, tls_verify=tls_verify) if redis_url else None
        self._channel = Names(namespace).events
        self._on_nudge = on_nudge
        self._on_reconnect = on_reconnect
        self._pause_seconds = pause_seconds
        self._silence_seconds = silence_seconds
        self._connected = False

    @property
    def connected(self) -> bool:
        """Whether nudges arrive; while not, poll Postgres each second."""
        return self._connected

    async def run(self) -> None:
        """Listen until cancelled; without a Redis return at once."""
        if self._client is None:
            return
        try:
            await follow(
                self._client,
                self._channel,
                on_message=self._hear,
                on_subscribed=self._subscribed,
                on_lost=self._lost,
                pause_seconds=self._pause_seconds,
                silence_seconds=self._silence_seconds,
            )
        finally:
            self._lost()
            with contextlib.suppress(*AWAY):
                await self._client.aclose()

    def _hear(self, data: bytes) -> None:
        try:
            accounts = msgspec.json.decode(data, type=list[UUID])
        except (msgspec.DecodeError, UnicodeDecodeError):
            log.warning("not a nudge", channel=self._channel, size=len(data))
            return
        self._on_nudge(accounts)

    def _subscribed(self) -> None:
        self._connected = True
        self._on_reconnect()

    def _lost(self) -> None:
        self._connected = False


def _encode_exception(value: object) -> object:
    if isinstance(value, BaseException):
        return {"exception": type(value).__name__, "message": str(value)}
    raise NotImplementedError(f"a {type(value).__name__} has no place in a job")


def _tls_options(*, tls_verify: bool) -> dict[str, Any]:
    return {
        "ssl_cert_reqs": "required" if tls_verify else "none",
        "ssl_check_hostname": tls_verify,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
    }
