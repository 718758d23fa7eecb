"""One hot account beside a hundred: the same mixed load, mail in by SMTP and sends by HTTP, over two web processes.

An account's commits queue behind each other at its event log's head, so a single account is slower than many; this says
by how much. Whatever the load, no two transactions may deadlock, and no account's log may have a gap.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

import asyncpg

from bench import client, http_client, sends, tenants
from bench.report import Row
from bench.setting import Setting
from tests import house

NAME = "hot"
ACCOUNTS: Final = 100
BOXES: Final = 5  # of each account, and a hundred times as many of the hot one
SENDERS: Final = 50  # HTTP connections
SESSIONS: Final = 20  # of SMTP
ORDER: Final = 300  # mails of one order to the sender
MAIL: Final = 5_000  # octets
ROUNDS: Final = 5
SECONDS: Final = 4.0
STATISTICS_SECONDS: Final = 1.5  # until a backend's counts are to be seen by others


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """Who gets mail, and who sends."""

    recipients: list[str]
    requests: list[bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """A second's worth of one round."""

    inbound: float
    sends: float

    @property
    def both(self) -> float:
        return self.inbound + self.sends


async def run(setting: Setting) -> list[Row]:
    """Interleaved rounds of both loads on one house."""
    rates: dict[str, list[Rates]] = defaultdict(list)
    async with setting.database() as dsn:
        async with (
            setting.house(dsn, settings={**sends.SETTINGS, "WEB_CONCURRENCY": "2"}) as home,
            http_client.started() as http,
            client.running() as smtp,
        ):
            loads = {
                "hot": await _load(home, accounts=1, boxes=ACCOUNTS * BOXES),
                "spread": await _load(home, accounts=ACCOUNTS, boxes=BOXES),
            }
            for cycle in range(1 + setting.rounds(ROUNDS)):
                for name, load in loads.items():
                    found = await _round(home, http, smtp, load, SECONDS if cycle and not setting.quick else 1.0)
                    rates[name] += [found] if cycle else []  # the first one warms up
        deadlocks, gaps = await _faults(dsn)
    return _rows(rates, deadlocks, gaps)


async def _load(home: house.House, *, accounts: int, boxes: int) -> Load:
    recipients: list[str] = []
    requests: list[bytes] = []
    for number in range(accounts):
        tenant = await home.tenant()
        name = f"of{accounts}n{number}x"
        await tenants.mailboxes(home.dsn, tenant.account_id, boxes, name=name)
        recipients += tenants.addresses(boxes, name=name)
        requests.append(http_client.post("/v1/emails", tenant.key, sends.email(number)))
    return Load(recipients=recipients, requests=requests)


async def _round(home: house.House, http: http_client.Load, smtp: client.Client, load: Load, seconds: float) -> Rates:
    """Both at once; mail counts that was answered while sends were being answered."""
    begun = time.monotonic()
    sending = asyncio.create_task(http.round(home.http_port, load.requests, connections=SENDERS, seconds=seconds))
    answers: list[float] = []
    while not sending.done():
        order = client.Order(
            port=home.smtp_port,
            recipients=load.recipients,
            mails=ORDER,
            size=MAIL,
            sessions=SESSIONS,
            first=len(answers),
        )
        outcome = await smtp.send(order)
        if outcome.refusals:
            raise RuntimeError(f"{len(outcome.refusals)} mails refused: {outcome.refusals[0]}")
        answers += outcome.answers
    sent = await sending
    within = sum(1 for answer in answers if answer <= begun + sent.seconds)
    return Rates(inbound=within / sent.seconds, sends=sent.count(202) / sent.seconds)


async def _faults(dsn: str) -> tuple[int, int]:
    """Deadlocks that Postgres broke, and accounts whose log has a gap."""
    await asyncio.sleep(STATISTICS_SECONDS)
    connection = await asyncpg.connect(dsn)
    try:
        deadlocks = await connection.fetchval(
            "select deadlocks from pg_stat_database where datname = current_database()"
        )
        gaps = await connection.fetchval(
            """select count(*) from event_heads h
            left join (select account_id, count(*) as events, min(seq) as first, max(seq) as last from events
              group by account_id) e using (account_id)
            where h.last_seq <> coalesce(e.last, 0) or h.last_seq <> coalesce(e.events, 0)
              or coalesce(e.first, 1) <> 1"""
        )
    finally:
        await connection.close()
    return deadlocks, gaps


def _rows(rates: dict[str, list[Rates]], deadlocks: int, gaps: int) -> list[Row]:
    hot, spread = (statistics.median(found.both for found in rates[name]) for name in ("hot", "spread"))
    told = {
        name: (statistics.median(r.inbound for r in each), statistics.median(r.sends for r in each))
        for name, each in rates.items()
    }
    shares = ", ".join(f"{name} {inbound:,.0f} in + {sent:,.0f} sent" for name, (inbound, sent) in told.items())
    return [
        Row(
            what=f"one hot account, {SESSIONS} SMTP sessions and {SENDERS} HTTP senders, 2 web processes",
            ours=f"{hot:,.0f}/s",
            limit_name=f"the same load on {ACCOUNTS} accounts",
            limit=f"{spread:,.0f}/s",
            ratio=hot / spread,
            target="≥ 0.5",
            met=hot >= 0.5 * spread,
            note=f"a second: {shares}",
        ),
        Row(
            what="deadlocks and logs with gaps under that load",
            ours=f"{deadlocks} and {gaps}",
            limit_name="",
            limit="",
            ratio=None,
            target="0 and 0",
            met=deadlocks == 0 and gaps == 0,
            note="pg_stat_database; every account's events counted against its head",
        ),
    ]
