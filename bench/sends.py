"""E-mails accepted by HTTP, one by one and in batches of 100, each answered 202 once it is committed.

The limit of single sends is what bare Starlette answers through the same uvicorn, its JSON body parsed and written
again, nothing stored. The limit of batches is the single sends of the same run. One `serve` process each; every 202 is
counted again in the database.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from bench import echo, http_client
from bench.report import Row
from bench.setting import Setting
from tests import house

NAME = "sends"
CONNECTIONS: Final = 50
BATCH: Final = 100
BATCH_CONNECTIONS: Final = 4
ROUNDS: Final = 5
SECONDS: Final = 3.0
SETTINGS: Final = {  # limits are looked at, and never met
    "MAX_QUEUED": "10000000",
    "RATE_LIMIT_PER_SECOND": "1000000",
    "RATE_LIMIT_BURST": "1000000",
    "ACCOUNT_RATE_LIMIT_PER_SECOND": "1000000",
    "ACCOUNT_RATE_LIMIT_BURST": "1000000",
}


def email(number: int = 0) -> dict[str, Any]:
    """What an application sends: two bodies, a link, some 900 bytes of JSON."""
    link = "https://app.example/verify?token=0123456789abcdef0123456789abcdef"
    return {
        "from": "Example <no-reply@sender.example>",
        "to": f"user{number}@recipient.example",
        "subject": "Confirm your address",
        "text": f"Hello,\n\nplease confirm your address:\n{link}\n\nYour code is 482913.\n"
        + "It ends in an hour.\n" * 8,
        "html": f'<p>Hello,</p><p>please <a href="{link}">confirm your address</a>.</p>'
        + "<p>In an hour it ends.</p>" * 8,
        "tags": [{"name": "kind", "value": "verify"}],
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """One kind of request."""

    port: int
    requests: list[bytes]
    connections: int
    emails: int  # committed by each answer


async def run(setting: Setting) -> list[Row]:
    """Interleaved rounds of the four loads, each cycle on an account of its own."""
    seconds = 1.0 if setting.quick else SECONDS
    results: dict[str, list[http_client.Result]] = defaultdict(list)
    async with (
        setting.database() as dsn,
        setting.house(dsn, settings=SETTINGS) as home,
        echo.started() as bare,
        http_client.started() as client,
    ):
        for cycle in range(1 + setting.rounds(ROUNDS)):
            tenant = await home.tenant()
            owed = 0
            for name, load in _loads(home, tenant, bare.port).items():
                result = await client.round(
                    load.port, load.requests, connections=load.connections, seconds=seconds if cycle else 0.5
                )
                owed += result.count(202) * load.emails
                if cycle:  # the first one warms up
                    results[name].append(result)
            await _check(dsn, tenant, owed)
    return _rows(results)


def _loads(home: house.House, tenant: house.Tenant, bare_port: int) -> dict[str, Load]:
    port, key = home.http_port, tenant.key
    singles = [http_client.post("/v1/emails", key, email(number)) for number in range(100)]
    once = [http_client.post("/v1/emails", key, email(number), idempotent=True) for number in range(100)]
    batch = [http_client.post("/v1/emails/batch", key, [email(number) for number in range(BATCH)])]
    bare = [http_client.post("/", key, email(number)) for number in range(100)]
    return {
        "bare": Load(port=bare_port, requests=bare, connections=CONNECTIONS, emails=0),
        "single": Load(port=port, requests=singles, connections=CONNECTIONS, emails=1),
        "once": Load(port=port, requests=once, connections=CONNECTIONS, emails=1),
        "batch": Load(port=port, requests=batch, connections=BATCH_CONNECTIONS, emails=BATCH),
    }


async def _check(dsn: str, tenant: house.Tenant, owed: int) -> None:
    """Every 202 is an e-mail in the database, and nothing else is."""
    connection = await asyncpg.connect(dsn)
    try:
        stored = await connection.fetchval("select count(*) from emails where account_id = $1", tenant.account_id)
    finally:
        await connection.close()
    if stored != owed:
        raise RuntimeError(f"{owed} e-mails were answered 202, {stored} are stored")


def _rows(results: dict[str, list[http_client.Result]]) -> list[Row]:
    rates = {name: statistics.median(r.count(202) / r.seconds for r in each) for name, each in results.items()}
    batched = rates["batch"] * BATCH
    p99 = statistics.median(result.p99_ms for result in results["single"])
    p99_batch = statistics.median(result.p99_ms for result in results["batch"])
    return [
        Row(
            what=f"POST /v1/emails, durable, {CONNECTIONS} connections, 1 process",
            ours=f"{rates['single']:,.0f} e-mails/s",
            limit_name="bare Starlette JSON echo, same uvicorn",
            limit=f"{rates['bare']:,.0f}/s",
            ratio=rates["single"] / rates["bare"],
            target="≥ 0.1 and ≥ 800/s",
            met=rates["single"] >= 0.1 * rates["bare"] and rates["single"] >= 800,
            note=f"p99 {p99:.0f} ms; each with an Idempotency-Key: {rates['once']:,.0f}/s",
        ),
        Row(
            what=f"POST /v1/emails/batch of {BATCH}, {BATCH_CONNECTIONS} connections",
            ours=f"{batched:,.0f} e-mails/s",
            limit_name="single sends of this run",
            limit=f"{rates['single']:,.0f}/s",
            ratio=batched / rates["single"],
            target="≥ 3 and ≥ 2,000/s",
            met=batched >= 3 * rates["single"] and batched >= 2000,
            note=f"p99 {p99_batch:.0f} ms a batch",
        ),
    ]
