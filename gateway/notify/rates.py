"""Rate limits: how many requests a key, an account or a client's address may make, over all processes.

A token bucket for each, in this process's memory: a request is judged at once and awaits nothing. Ten times a second
what was let in is added up in Redis for all processes together, one round trip for all buckets, and what Redis answers
is from then on what this process goes by. So Redis is never the truth and never in anybody's way:

    connected     every process judges by what all of them let in, a moment ago. In any time of T seconds at most
                  burst + rate T are let in, and by each process but the first at most burst + rate (GATHER_SECONDS +
                  ANSWER_SECONDS) more, once: what was let in too much is owed, and nobody is let in before it is paid
    away, silent  or slower than ANSWER_SECONDS, or no REDIS_URL: every process judges by its own share. A request
                  counts as many times as there are processes: those that Redis last knew of, at least WEB_CONCURRENCY

After a failure Redis is left alone for PAUSE_SECONDS. What was let in meanwhile is not told later.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid4

import prometheus_client
import structlog

from gateway.models import Caller
from gateway.notify import nudges
from gateway.settings import Settings

log = structlog.get_logger(__name__)

# limit: "key", "account", "failed_authentication"
REFUSED: Final = prometheus_client.Counter("postroom_rate_limited", "What was refused by a rate limit", ["limit"])

GATHER_SECONDS: Final = 0.1  # between two reports
ANSWER_SECONDS: Final = 0.25  # nobody waits for it, but what all let in is known only so late
PAUSE_SECONDS: Final = 1.0
BATCH: Final = 500  # buckets of one report
REMEMBERED: Final = 50_000  # buckets; over it those that are full of tokens are forgotten, then the oldest
_FORGOTTEN: Final = REMEMBERED // 10
_ROUNDING: Final = 1e-6  # tokens

# KEYS: a sorted set of the processes at work, by when each was last heard of; then one key a bucket, holding the time
# at which it will be full of tokens again. ARGV: this process; then rate and tokens taken of each bucket. Answers how
# many processes there are, and of each bucket how many seconds it takes until it is full. The time is Redis's own.
_REPORT: Final = """
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 60)
redis.call('EXPIRE', KEYS[1], 120)
local answer = {tostring(redis.call('ZCARD', KEYS[1]))}
for i = 2, #KEYS do
  local rate, taken = tonumber(ARGV[2 * i - 2]), tonumber(ARGV[2 * i - 1])
  local full = math.max(tonumber(redis.call('GET', KEYS[i]) or '0'), now) + taken / rate
  redis.call('SET', KEYS[i], string.format('%.6f', full), 'PX', math.ceil((full - now) * 1000) + 1000)
  answer[i] = string.format('%.6f', full - now)
end
return answer
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """How often something may be done."""

    name: str  # as in REFUSED, and in Redis
    per_second: float  # tokens that come back
    burst: int  # tokens of a full bucket

    @property
    def is_off(self) -> bool:
        return self.per_second <= 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Those of the settings."""

    key: Limit  # a key's, and a mailbox token's
    account: Limit  # all of an account's keys and tokens together
    failed: Limit  # authentications that failed, from one address

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        return cls(
            key=Limit(name="key", per_second=settings.rate_limit_per_second, burst=settings.rate_limit_burst),
            account=Limit(
                name="account",
                per_second=settings.account_rate_limit_per_second,
                burst=settings.account_rate_limit_burst,
            ),
            failed=Limit(
                name="failed_authentication",
                per_second=settings.auth_failures_per_minute / 60,
                burst=max(1, settings.auth_failures_per_minute),
            ),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How a bucket is after it was asked."""

    name: str  # of the limit
    per_second: float  # tokens that come back
    allowed: bool
    limit: int  # tokens of the full bucket
    remaining: int  # requests that would be let in now
    reset: int  # seconds until it is full again, rounded up
    retry_after: int  # seconds until there is a token, at least 1; 0 = there is one now


_Key = tuple[str, UUID | str]  # the limit's name, and whom it is about


class _Bucket:
    """What was taken out of one bucket."""

    __slots__ = ("at", "key", "limit", "taken", "unreported")

    def __init__(self, key: _Key, limit: Limit, now: float) -> None:
        self.key = key
        self.limit = limit
        self.taken = 0.0  # tokens that have not come back, as of `at`
        self.at = now
        self.unreported = 0  # let in since the last report


class Rates:
    """All buckets of this process."""

    def __init__(
        self,
        redis_url: str,
        *,
        processes: int = 1,
        tls_verify: bool = True,
        namespace: str = nudges.NAMESPACE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`redis_url`: empty where there is none. `processes`: that there are at least."""
        self._client = (
            nudges.redis_from_url(redis_url, tls_verify=tls_verify, answer_seconds=ANSWER_SECONDS)
            if redis_url
            else None
        )
        self._report = self._client.register_script(_REPORT) if self._client is not None else None
        self._prefix = f"{nudges.Names(namespace).namespace}:rate"
        self._at_least = self._processes = processes
        self._clock = clock
        self._name = uuid4().hex
        self._buckets: dict[_Key, _Bucket] = {}
        self._grown: set[_Key] = set()  # those with something to report
        self._reporting: asyncio.Task[None] | None = None
        self._again_at = 0.0  # when Redis may be asked again, on the clock
        self.shared = False  # whether what all processes let in is known

    def take(self, *wanted: tuple[Limit, UUID | str]) -> Standing:
        """Let one more in, if there is a token for it in each of these buckets, of which the first that has none, else
        the one closest to its end, tells its standing. Who is refused takes none."""
        now = self._clock()
        buckets = [self._bucket(limit, subject, now) for limit, subject in wanted]
        for bucket in buckets:
            if not self._has_one(bucket):
                REFUSED.labels(bucket.limit.name).inc()
                return self._standing(bucket, allowed=False)
        for bucket in buckets:
            bucket.taken += self._price(bucket)
            self._note(bucket)
        return self._standing(min(buckets, key=_left), allowed=True)

    def look(self, limit: Limit, subject: UUID | str) -> Standing:
        """Whether one more would be let in; nothing is taken."""
        bucket = self._bucket(limit, subject, self._clock())
        return self._standing(bucket, allowed=self._has_one(bucket))

    async def close(self) -> None:
        """Tell nothing more, and close the connections."""
        if self._reporting is not None:
            self._reporting.cancel()
            await asyncio.gather(self._reporting, return_exceptions=True)
        if self._client is not None:
            with contextlib.suppress(*nudges.AWAY):
                await self._client.aclose()

    def _bucket(self, limit: Limit, subject: UUID | str, now: float) -> _Bucket:
        """As it is now."""
        key = limit.name, subject
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= REMEMBERED:
                self._forget(now)
            bucket = self._buckets[key] = _Bucket(key, limit, now)
        bucket.limit = limit
        bucket.taken = max(0.0, bucket.taken - (now - bucket.at) * limit.per_second)
        bucket.at = now
        return bucket

    def _price(self, bucket: _Bucket) -> int:
        return 1 if self.shared else min(self._processes, bucket.limit.burst)

    def _has_one(self, bucket: _Bucket) -> bool:
        return bucket.taken + self._price(bucket) <= bucket.limit.burst + _ROUNDING

    def _standing(self, bucket: _Bucket, *, allowed: bool) -> Standing:
        limit, price = bucket.limit, self._price(bucket)
        lacking = 0.0 if allowed else bucket.taken + price - limit.burst
        return Standing(
            name=limit.name,
            per_second=limit.per_second,
            allowed=allowed,
            limit=limit.burst,
            remaining=int((_left(bucket) + _ROUNDING) // price),
            reset=math.ceil(bucket.taken / limit.per_second),
            retry_after=max(1, math.ceil(lacking / limit.per_second)) if lacking else 0,
        )

    def _forget(self, now: float) -> None:
        full = [key for key, one in self._buckets.items() if (now - one.at) * one.limit.per_second >= one.taken]
        for key in full or list(self._buckets)[:_FORGOTTEN]:
            del self._buckets[key]
            self._grown.discard(key)

    # Redis

    def _note(self, bucket: _Bucket) -> None:
        if self._report is None or bucket.at < self._again_at:
            return
        bucket.unreported += 1
        if bucket.unreported == 1:
            self._grown.add(bucket.key)
            if self._reporting is None:
                self._reporting = asyncio.create_task(self._keep_reporting(), name="rates")

    async def _keep_reporting(self) -> None:
        """Until nothing was let in for a while, or Redis is away."""
        try:
            while self._grown:
                await asyncio.sleep(GATHER_SECONDS)
                await self._tell()
        except nudges.AWAY as error:
            self._away(error)
        finally:
            self._reporting = None  # in the same step as the look at the set: nothing falls between

    async def _tell(self) -> None:
        grown = [key for key in self._grown if key in self._buckets]
        self._grown.clear()
        for start in range(0, len(grown), BATCH):
            await self._tell_some(grown[start : start + BATCH])

    async def _tell_some(self, keys: Sequence[_Key]) -> None:
        assert self._report is not None  # noqa: S101 - nothing has grown without one
        names, values = [f"{self._prefix}:processes"], [self._name]
        for key in keys:
            bucket = self._buckets[key]
            names.append(f"{self._prefix}:{key[0]}:{key[1]}")
            values += [repr(bucket.limit.per_second), str(bucket.unreported)]
            bucket.unreported = 0
        processes, *seconds = await self._report(keys=names, args=values)
        if not self.shared:
            log.info("rate limits are shared", processes=int(processes))
        self.shared = True
        self._processes = max(self._at_least, int(processes))
        self._learn(keys, [float(text) for text in seconds])

    def _learn(self, keys: Sequence[_Key], seconds: Sequence[float]) -> None:
        """From here on the buckets are as all processes together have left them."""
        now = self._clock()
        for key, until_full in zip(keys, seconds, strict=True):
            bucket = self._buckets.get(key)
            if bucket is not None:
                bucket.taken, bucket.at = until_full * bucket.limit.per_second + bucket.unreported, now

    def _away(self, error: Exception) -> None:
        if self.shared:
            log.warning("redis is away, rate limits are this process's share", error=type(error).__name__)
        self.shared = False
        self._again_at = self._clock() + PAUSE_SECONDS
        self._grown.clear()
        for bucket in self._buckets.values():
            bucket.unreported = 0


def _left(bucket: _Bucket) -> float:
    """Tokens."""
    return max(0.0, bucket.limit.burst - bucket.taken)


class Limiter:
    """The limits of the settings, asked by those who let people in."""

    def __init__(self, rates: Rates, limits: Limits) -> None:
        self._rates = rates
        self._limits = limits
        self._has_any = not (limits.key.is_off and limits.account.is_off)

    def request(self, caller: Caller) -> Standing | None:
        """One more of the caller's: its own standing or its account's, whichever is closer to its end. Who is over one
        of them takes nothing of the other. None = there is no limit."""
        return self._rates.take(*self._wanted(caller)) if self._has_any else None

    def _wanted(self, caller: Caller) -> Iterator[tuple[Limit, UUID]]:
        if not self._limits.key.is_off:
            yield self._limits.key, caller.key_id or caller.mailbox_id or caller.account_id
        if not self._limits.account.is_off:
            yield self._limits.account, caller.account_id

    def shut_out(self, address: str) -> int:
        """Seconds for which nobody new is to try to authenticate from this address; 0 = now."""
        limit = self._limits.failed
        return 0 if limit.is_off else self._rates.look(limit, network(address)).retry_after

    def failed(self, address: str) -> None:
        """Somebody failed to authenticate from this address."""
        limit = self._limits.failed
        if not limit.is_off:
            self._rates.take((limit, network(address)))


def network(address: str) -> str:
    """What one client has for itself: an IPv4 address, of IPv6 the first 64 bits; "" for what is no address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
