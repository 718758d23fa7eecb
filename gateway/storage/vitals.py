"""What the database knows of how well the house goes, as gauges: who works, what waits, how far behind the readers are.

It is looked up by the process that is asked for its metrics, whichever it is, so that a house without workers shows it;
at most once in SAMPLE_SECONDS, by statements that look at one end of an index or count up to a limit. Of many accounts
the lags are looked up in turns, LAG_ACCOUNTS at a time. While the database is away the gauges are NaN, but for
`postroom_database_up`.

    beat      a worker says that it lives, every BEAT_SECONDS; who is silent for SILENCE_SECONDS does not
    sample    the look
"""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import structlog
from prometheus_client import Gauge
from uuid_utils.compat import uuid7

from gateway import __version__
from gateway.errors import Unavailable
from gateway.settings import Settings
from gateway.storage import db, statistics
from gateway.storage.sql import load

log = structlog.get_logger(__name__)
sql = load("vitals")

BEAT_SECONDS: Final = 5.0
SILENCE_SECONDS: Final = 30.0  # several beats, and a database that was away for a moment
SAMPLE_SECONDS: Final = 10.0
PATIENCE_SECONDS: Final = 3.0  # shorter than a scrape may take
MOST: Final = 10_000  # of anything that is counted
LAG_ACCOUNTS: Final = 1000  # whose lags are looked up at once
LAG_SPAN: Final = 500  # events behind the last counted one among which one to count is looked for
TABLES: Final = (
    *("attempts", "callbacks", "contents", "deliveries", "emails", "events", "idempotency_keys", "mailboxes"),
    *("message_texts", "messages", "webhook_attempts", "webhook_deliveries"),
)

UP: Final = Gauge("postroom_database_up", "Whether the database answered the last look", multiprocess_mode="mostrecent")
ALIVE: Final = Gauge("postroom_workers_alive", "Workers heard of in the last 30 s", multiprocess_mode="mostrecent")
SILENT: Final = Gauge(
    "postroom_workers_silent",
    "Workers that fell silent within the last day and did not end as they should",
    multiprocess_mode="mostrecent",
)
# state: "pending", "dead"
WEBHOOKS: Final = Gauge(
    "postroom_webhook_deliveries",
    "Events that webhooks are still to be told, or were given up, counted up to 10,000",
    ["state"],
    multiprocess_mode="mostrecent",
)
WEBHOOK_AGE: Final = Gauge(
    "postroom_webhooks_oldest_due_seconds",
    "For how long a webhook has been due to be told that nobody took in hand",
    multiprocess_mode="mostrecent",
)
DISABLED: Final = Gauge("postroom_webhooks_disabled", "Webhooks that are told nothing", multiprocess_mode="mostrecent")
HELD: Final = Gauge(
    "postroom_messages_held", "Mail that is held until its sender is judged", multiprocess_mode="mostrecent"
)
RECLAIMABLE: Final = Gauge(
    "postroom_mailboxes_reclaimable",
    "Expired mailboxes whose retention is over, counted up to 10,000",
    multiprocess_mode="mostrecent",
)
# what: "held" (mail without a verdict), "expiry" (mailboxes to be marked), "idempotency_keys" (to be forgotten)
OVERDUE: Final = Gauge(
    "postroom_overdue_seconds", "How late the oldest of something is", ["what"], multiprocess_mode="mostrecent"
)
# reader: "indexing", "judging", "statistics"
BEHIND: Final = Gauge(
    "postroom_reader_behind_events",
    "Events between the heads of logs and how far a reader of them has come, where it has work",
    ["reader"],
    multiprocess_mode="mostrecent",
)
LAG: Final = Gauge(
    "postroom_reader_lag_seconds",
    "Age of the oldest that a reader of the logs has not come to",
    ["reader"],
    multiprocess_mode="mostrecent",
)
HEADS: Final = Gauge("postroom_events_head", "Events ever written, over all accounts", multiprocess_mode="mostrecent")
ACCOUNTS: Final = Gauge("postroom_accounts", "Accounts there are", multiprocess_mode="mostrecent")
# table: one of TABLES
ROWS: Final = Gauge(
    "postroom_table_rows", "Rows of a table, as Postgres estimates", ["table"], multiprocess_mode="mostrecent"
)
DEAD_ROWS: Final = Gauge(
    "postroom_table_dead_rows", "Rows that a vacuum will remove, estimated", ["table"], multiprocess_mode="mostrecent"
)
BYTES: Final = Gauge("postroom_database_bytes", "Size of the database", multiprocess_mode="mostrecent")
CONNECTIONS: Final = Gauge(
    "postroom_postgres_connections", "Connections to the server, everybody's", multiprocess_mode="mostrecent"
)
CONNECTIONS_LIMIT: Final = Gauge(
    "postroom_postgres_connections_limit", "Connections that the server allows", multiprocess_mode="mostrecent"
)

READERS: Final = ("indexing", "judging", "statistics")
_SINGLE: Final = (ALIVE, SILENT, WEBHOOK_AGE, DISABLED, HELD, RECLAIMABLE, HEADS, ACCOUNTS, BYTES)
_LABELLED: Final[Mapping[Gauge, Sequence[str]]] = {
    WEBHOOKS: ("pending", "dead"),
    OVERDUE: ("held", "expiry", "idempotency_keys"),
    BEHIND: READERS,
    LAG: READERS,
    ROWS: TABLES,
    DEAD_ROWS: TABLES,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    """How many there are."""

    alive: int
    silent: int  # fell silent in the last day, and did not end as they should


class Heart:
    """One worker's sign of life."""

    def __init__(self, database: db.Database, standing: Callable[[], str] = lambda: "{}") -> None:
        """`standing`: what else it tells each time, a JSON object."""
        self._database = database
        self._standing = standing
        self._id = uuid7()

    async def beat(self) -> None:
        """To be called every BEAT_SECONDS. Raises Unavailable."""
        async with self._database.connection() as connection:
            who = {"id": self._id, "host": socket.gethostname()[:200], "version": __version__}
            await sql.beat.run(connection, standing=self._standing(), **who)

    async def stop(self) -> None:
        """It ends, and nobody need look for it. Raises Unavailable."""
        async with self._database.connection() as connection:
            await sql.leave.run(connection, id=self._id)


async def workers(connection: db.Connection) -> Workers:
    """Who was heard of."""
    row = await sql.workers.row(connection, silence=SILENCE_SECONDS)
    return Workers(alive=row["alive"], silent=row["silent"]) if row else Workers(alive=0, silent=0)


async def standings(connection: db.Connection) -> list[tuple[Any, float]]:
    """What each worker that lives told with its last sign of life, and how many seconds ago that was."""
    rows = await sql.standings.fetch(connection, silence=SILENCE_SECONDS)
    return [(row["standing"], float(row["age"])) for row in rows]


async def overdue(connection: db.Connection, settings: Settings) -> dict[str, timedelta]:
    """How late the oldest of each kind of housekeeping is."""
    row = await _work(connection, settings)
    found = {"held mail": "held_for", "expiry of mailboxes": "expiry_overdue", "old idempotency keys": "keys_overdue"}
    return {what: timedelta(seconds=float(row[name])) for what, name in found.items()}


async def _work(connection: db.Connection, settings: Settings) -> Any:
    return await sql.work.row(
        connection,
        limit=MOST,
        retention=float(settings.retention_seconds),
        remembered=float(settings.idempotency_seconds),
    )


class Vitals:
    """The gauges of one process."""

    def __init__(self, database: db.Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._sampled = float("-inf")  # monotonic time
        self._turn = asyncio.Lock()
        self._tour = _Tour()

    async def sample(self) -> None:
        """Look, unless that was done just now. Never raises for a database that is away or slow."""
        async with self._turn:
            if time.monotonic() < self._sampled + SAMPLE_SECONDS:
                return
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._look()
            except (Unavailable, TimeoutError):
                _unknown()
            else:
                UP.set(1)
            self._sampled = time.monotonic()

    async def _look(self) -> None:
        async with self._database.connection() as connection:
            found = await workers(connection)
            ALIVE.set(found.alive)
            SILENT.set(found.silent)
            await self._work(connection)
            await self._room(connection)
            await self._lags(connection)

    async def _work(self, connection: db.Connection) -> None:
        row = await _work(connection, self._settings)
        WEBHOOKS.labels("pending").set(row["webhooks_pending"])
        WEBHOOKS.labels("dead").set(math.nan if row["webhooks_dead"] is None else row["webhooks_dead"])
        WEBHOOK_AGE.set(row["webhook_overdue"])
        DISABLED.set(row["webhooks_disabled"])
        HELD.set(row["messages_held"])
        RECLAIMABLE.set(row["mailboxes_reclaimable"])
        OVERDUE.labels("held").set(row["held_for"])
        OVERDUE.labels("expiry").set(row["expiry_overdue"])
        OVERDUE.labels("idempotency_keys").set(row["keys_overdue"])

    async def _room(self, connection: db.Connection) -> None:
        for row in await sql.tables.fetch(connection, names=list(TABLES)):
            ROWS.labels(row["name"]).set(row["rows"])
            DEAD_ROWS.labels(row["name"]).set(row["dead"])
        row = await sql.room.row(connection)
        assert row is not None  # noqa: S101 - a select of values has one row
        BYTES.set(row["bytes"])
        CONNECTIONS.set(row["connections"] or 0)
        CONNECTIONS_LIMIT.set(row["connections_limit"])

    async def _lags(self, connection: db.Connection) -> None:
        row = await sql.lags.row(
            connection,
            after=self._tour.after,
            limit=LAG_ACCOUNTS,
            judges=self._settings.sender_auth,
            span=LAG_SPAN,
            types=statistics.ALL_TYPES,
        )
        tour = self._tour.gone_on(row)
        if tour is None:
            return
        ACCOUNTS.set(tour["accounts"])
        HEADS.set(tour["head"])
        for reader, behind, lag in zip(READERS, _BEHIND, _LAGS, strict=True):
            BEHIND.labels(reader).set(tour[behind])
            LAG.labels(reader).set(tour[lag])


_BEHIND: Final = ("unindexed", "unjudged", "uncounted")
_LAGS: Final = ("indexing", "judging", "counting")


class _Tour:
    """All accounts, some at a time."""

    def __init__(self) -> None:
        self.after = UUID(int=0)
        self._so_far: dict[str, float] = {}

    def gone_on(self, row: Any) -> dict[str, float] | None:
        """What all of them are, once the last ones were looked at; then it begins anew."""
        for name in ("accounts", "head", *_BEHIND):
            self._so_far[name] = self._so_far.get(name, 0.0) + float(row[name])
        for name in _LAGS:
            self._so_far[name] = max(self._so_far.get(name, 0.0), float(row[name]))
        if row["accounts"] == LAG_ACCOUNTS:
            self.after = row["last"]
            return None
        whole, self._so_far, self.after = self._so_far, {}, UUID(int=0)
        return whole


def _unknown() -> None:
    """What was true a while ago must not look as if it still were."""
    UP.set(0)
    for gauge in (*_SINGLE, CONNECTIONS, CONNECTIONS_LIMIT):
        gauge.set(math.nan)
    for gauge, labels in _LABELLED.items():
        for label in labels:
            gauge.labels(label).set(math.nan)
