"""Metrics and alert rules: what docs/monitoring.md says of them is so, rules speak of what there is, and they fire when
they should."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import httpx2
import prometheus_client
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from uuid_utils.compat import uuid7

import workers.main
from gateway import app, lifecycle, telemetry, tokens
from gateway.outbound import backlog
from gateway.settings import Settings, load
from gateway.storage import accounts, db, vitals
from gateway.web import edge
from tests import databases
from tests.house import SECRET_KEY
from tests.storage import rows

pytestmark = pytest.mark.anyio

ROOT: Final = Path(__file__).parents[1]
RULES: Final = yaml.safe_load((ROOT / "gateway" / "alerts.yml").read_text())["groups"][0]["rules"]
ROW: Final = re.compile(r"^\| `(postroom_\w+)(?:\{([\w,]+)\})?` \| (\w+) \| (.+) \|$", re.MULTILINE)
OPEN_LABELS: Final = {"route", "status", "method", "provider"}  # values that are not listed, few all the same


def documented() -> dict[str, tuple[str, frozenset[str], str]]:
    """Of the page's table: type, labels and meaning, by name."""
    found = ROW.findall((ROOT / "docs" / "monitoring.md").read_text())
    table = {name: (kind, frozenset(filter(None, labels.split(","))), told) for name, labels, kind, told in found}
    assert len(table) == len(found)
    return table


def declared() -> dict[str, tuple[str, frozenset[str]]]:
    """What the processes have."""
    collectors: set[Any] = set(prometheus_client.REGISTRY._collector_to_names)
    assert app is not None, "imported, and with it every metric"
    assert workers.main is not None
    return {
        one._name + ("_total" if one._type == "counter" else ""): (one._type, frozenset(one._labelnames))
        for one in collectors
        if getattr(one, "_name", "").startswith("postroom_")
    }


def test_the_page_tells_of_every_metric_by_name_type_and_labels_and_of_no_other() -> None:
    assert {name: (kind, labels) for name, (kind, labels, _) in documented().items()} == declared()


def _nodes(expression: Any) -> Iterator[Any]:
    yield expression
    inner = [getattr(expression, name, None) for name in ("expr", "lhs", "rhs", "vector_selector", "param")]
    for one in [*inner, *getattr(expression, "args", ())]:
        if one is not None and type(one).__module__ == type(expression).__module__:
            yield from _nodes(one)


def _selectors(expression: str) -> Iterator[Any]:
    for node in _nodes(promql_parser.parse(expression)):
        if isinstance(node, promql_parser.VectorSelector):
            yield node


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_parses_speaks_of_metrics_and_labels_that_there_are_and_says_what_to_do(rule: dict[str, Any]) -> None:
    table, found = documented(), list(_selectors(rule["expr"]))
    assert found
    for selector in found:
        name = re.sub(r"_bucket$", "", selector.name)
        kind, labels, told = table[name]
        assert (kind == "histogram") == selector.name.endswith("_bucket")
        for matcher in selector.matchers.matchers:
            assert matcher.name in labels, (selector.name, matcher.name)
            for value in matcher.value.split("|") if matcher.name not in OPEN_LABELS else ():
                assert f"`{value}`" in told, (selector.name, matcher.name, value)
    grouped = {label for group in re.findall(r"\bby \(([\w, ]+)\)", rule["expr"]) for label in group.split(", ")}
    assert grouped <= {"le"}.union(*(table[re.sub(r"_bucket$", "", one.name)][1] for one in found))
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert all(len(rule["annotations"][what]) > 10 for what in ("summary", "description", "runbook"))
    assert rule["alert"] in (ROOT / "docs" / "monitoring.md").read_text()
    for other in re.findall(r"Postroom[A-Z]\w+", rule["annotations"]["runbook"]):
        assert other in {one["alert"] for one in RULES}


# Rules for real

Vector = dict[frozenset[tuple[str, str]], float]
SIDES: Final[Mapping[str, Callable[[float, float], Any]]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "/": lambda a, b: a / b if b else math.nan,
    "-": operator.sub,
    "+": operator.add,
}


def value(expression: Any, samples: Mapping[str, Vector]) -> Vector:
    """Of an expression that asks for this moment alone, as Prometheus would compute it."""
    if isinstance(expression, promql_parser.ParenExpr):
        return value(expression.expr, samples)
    if isinstance(expression, promql_parser.NumberLiteral):
        return {frozenset(): expression.val}
    if isinstance(expression, promql_parser.VectorSelector):
        wanted = {(one.name, one.value) for one in expression.matchers.matchers}
        return {labels: one for labels, one in samples.get(str(expression.name), {}).items() if wanted <= labels}
    if isinstance(expression, promql_parser.AggregateExpr):
        return _aggregated(expression, value(expression.expr, samples))
    assert isinstance(expression, promql_parser.BinaryExpr), expression
    left, right = value(expression.lhs, samples), value(expression.rhs, samples)
    apply, scalar = SIDES[str(expression.op)], isinstance(expression.rhs, promql_parser.NumberLiteral)
    made = {labels: apply(one, right.get(frozenset() if scalar else labels, math.nan)) for labels, one in left.items()}
    if str(expression.op) in (">", "<", ">="):
        return {labels: left[labels] for labels, holds in made.items() if holds}
    return made


def _aggregated(expression: Any, found: Vector) -> Vector:
    named = set(expression.modifier.labels) if expression.modifier else set()
    groups: dict[frozenset[tuple[str, str]], list[float]] = {}
    for labels, one in found.items():
        groups.setdefault(frozenset(pair for pair in labels if pair[0] in named), []).append(one)
    fold: Any = {"sum": sum, "max": max, "min": min}[str(expression.op)]
    return {labels: fold(values) for labels, values in groups.items()}


def is_of_this_moment(expression: str) -> bool:
    return not re.search(r"rate\(|offset|absent|quantile", expression)


class Scraped:
    """A house in this process, over the test's database, asked for its metrics as Prometheus asks."""

    def __init__(self, served: Starlette) -> None:
        transport = httpx2.ASGITransport(app=served)
        self.client = httpx2.AsyncClient(transport=transport, base_url="http://house")

    async def firing(self) -> set[str]:
        """The rules of this moment that would fire."""
        answer = await self.client.get("/metrics")
        assert answer.status_code == 200
        samples: dict[str, Vector] = {}
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                samples.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
        now = [rule for rule in RULES if is_of_this_moment(rule["expr"])]
        assert len(now) > 15
        return {rule["alert"] for rule in now if value(promql_parser.parse(rule["expr"]), samples)}


def settings_of(dsn: str, **others: Any) -> Settings:
    own = {"secret_key": SECRET_KEY, "database_url": dsn, "redis_url": "", "mail_domains": "postroom.test"}
    return load(**own, postroom_dev=True, sender_auth=False, **others)


@pytest.fixture
async def house(dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[lifecycle.Gateway, Scraped]]:
    monkeypatch.setattr(vitals, "SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr(backlog, "SAMPLE_SECONDS", 0.0)
    async with lifecycle.opened(settings_of(dsn)) as gateway:
        scraped = Scraped(edge.application(app.routes(gateway, dict, app.entry(gateway))))
        async with scraped.client:
            yield gateway, scraped


async def test_rules_fire_for_what_they_are_about_and_are_quiet_else(
    house: tuple[lifecycle.Gateway, Scraped], database: db.Database, account_id: UUID
) -> None:
    gateway, scraped = house
    assert await scraped.firing() == {"PostroomNoWorker"}
    heart = vitals.Heart(gateway.database)
    await heart.beat()
    assert (await scraped.client.get("/readyz")).json()["workers"] == 1
    assert await scraped.firing() == set()
    await rows.email(database, account_id, rows.delivery())
    box = await rows.mailbox(database, account_id)
    ours = f"'{account_id}', gen_random_uuid(), '{box}', gen_random_uuid()"
    made: Mapping[str, str] = {  # each of this file alone
        "PostroomQueueLate": "update deliveries set due_at = now() - interval '5 minutes'",
        "PostroomWebhooksLate": _hooks(account_id, 1, "5 minutes"),
        "PostroomWebhooksBacklog": _hooks(account_id, 10_000, "-5 minutes"),
        "PostroomExpiryLate": f"update mailboxes set expires_at = now() - interval '1 hour' where id = '{box}'",  # noqa: S608
        "PostroomReclaimLate": f"""insert into mailboxes (account_id, id, address, expires_at, is_active, created_at)
            select '{account_id}', gen_random_uuid(), 'a', now() - interval '9 days', false, now()
            from generate_series(1, 10000)""",  # noqa: S608
        "PostroomKeysNotForgotten": f"""insert into idempotency_keys values
            ('{account_id}', 'e', 'k', '', 200, '{{}}', now() - interval '2 days')""",  # noqa: S608
        "PostroomReaderBehind": f"""insert into messages select {ours}, 1, now() - interval '1 hour', 1, '',
            '{{}}', null, null, '[]', '', '', '[]', '[]', 0, null, gen_random_uuid(), null, 'ok', '[]'""",
        "PostroomHeldTooLong": f"""insert into held_messages values
            ({ours}, '{{}}', 'flag', now() - interval '2 minutes', now())""",  # noqa: S608
    }
    async with database.connection() as connection:
        for alert, statement in made.items():
            await connection.execute(statement)
            assert alert in await scraped.firing(), alert
        await _what_has_its_reason_wakes_nobody(scraped, connection, account_id)
        await connection.execute("update workers set beat_at = now() - interval '1 minute'")
    assert {"PostroomNoWorker", "PostroomWorkerDied"} <= await scraped.firing()
    await heart.stop()
    assert "PostroomWorkerDied" not in await scraped.firing()


def _hooks(account_id: UUID, count: int, ago: str) -> str:
    """Deliveries that wait for one webhook."""
    return f"""with hook as (insert into webhooks (account_id, id, url, types)
            values ('{account_id}', gen_random_uuid(), '', '{{*}}') returning id)
        insert into webhook_deliveries (account_id, webhook_id, event_id, seq, event_type, due_at, created_at)
        select '{account_id}', hook.id, gen_random_uuid(), n, 'x', now() - interval '{ago}', now()
        from hook, generate_series(1, {count}) n"""  # noqa: S608 - an id and numbers of this file


async def _what_has_its_reason_wakes_nobody(scraped: Scraped, connection: db.Connection, account_id: UUID) -> None:
    """Seen before it was mended: both rules fired for what a slow receiver, and a suspended account, have waiting."""
    late = {"PostroomQueueLate", "PostroomWebhooksLate"}
    assert late <= await scraped.firing()
    copied = "account_id, webhook_id, gen_random_uuid(), seq, event_type, status, 1, now() + interval '1 minute'"
    await connection.execute(
        f"""insert into webhook_deliveries (account_id, webhook_id, event_id, seq, event_type, status, attempts, due_at,
            created_at, lease_id) select {copied}, now(), gen_random_uuid()
        from webhook_deliveries where due_at < now()"""  # noqa: S608 - columns
    )
    assert late & await scraped.firing() == {"PostroomQueueLate"}
    await accounts.suspend(connection, account_id)
    assert late & await scraped.firing() == set()


async def test_a_database_that_is_away_fires_and_nothing_else_is_claimed(
    monkeypatch: pytest.MonkeyPatch, house: tuple[lifecycle.Gateway, Scraped]
) -> None:
    """Broken on purpose: with gauges that stay as they were, PostroomNoWorker fired, too."""
    gateway, scraped = house
    async with databases.opened("postgresql://127.0.0.1:1/nothing") as away:
        monkeypatch.setattr(gateway.vitals, "_database", away)
        assert await scraped.firing() == {"PostroomDatabaseDown"}
    assert (await scraped.client.get("/healthz")).status_code == 200


async def test_lags_of_many_accounts_are_looked_up_in_turns(
    monkeypatch: pytest.MonkeyPatch, house: tuple[lifecycle.Gateway, Scraped], database: db.Database, account_id: UUID
) -> None:
    """Broken on purpose: told of after each turn instead of after the last one, two accounts were all there were."""
    monkeypatch.setattr(vitals, "LAG_ACCOUNTS", 2)
    others = [await rows.account(database) for _ in range(2)]
    gateway, _ = house
    vitals.ACCOUNTS.set(-1)
    await gateway.vitals.sample()
    assert prometheus_client.REGISTRY.get_sample_value("postroom_accounts") == -1
    await gateway.vitals.sample()
    assert prometheus_client.REGISTRY.get_sample_value("postroom_accounts") == len({account_id, *others})


async def key_of_a_suspended_account(work: workers.main.Work) -> str:
    """An admin's."""
    gateway, key_id = work._gateway, uuid7()
    key = gateway.keyring.api_key(key_id)
    account_id = await rows.account(gateway.database)
    async with gateway.database.transaction() as connection:
        hashed = tokens.hash_token(key)
        await accounts.create_key(connection, account_id, id=key_id, hash=hashed, name="k", scopes=["admin"])
        await accounts.suspend(connection, account_id)
    return key


async def test_a_worker_shows_its_metrics_at_a_port_of_its_own(dsn: str) -> None:
    taken = settings_of(dsn, worker_metrics_port=0, metrics_token="a token for metrics")
    strict = taken.model_copy(update={"postroom_dev": False})
    async with workers.main.working(strict) as work:
        base = f"http://127.0.0.1:{work.window_port}"
        async with httpx2.AsyncClient(base_url=base) as client:
            assert (await client.get("/healthz")).text == "ok\n"
            assert [(await client.get(path)).status_code for path in ("/metrics", "/elsewhere")] == [401, 404]
            assert (await client.post("/healthz")).status_code == 405
            suspended = await key_of_a_suspended_account(work)
            for key in ("pr_key_nobody", suspended):
                assert (await client.get("/metrics", headers={"Authorization": f"Bearer {key}"})).status_code == 401
            answer = await client.get("/metrics", headers={"Authorization": "Bearer a token for metrics"})
            assert answer.status_code == 200
            assert "postroom_workers_alive 1.0" in answer.text
            assert "postroom_queue_oldest_due_seconds 0.0" in answer.text


async def test_series_are_few_and_nobodys(house: tuple[lifecycle.Gateway, Scraped], account_id: UUID) -> None:
    """Whatever this process has done so far."""
    text = telemetry.exposition()[0].decode()
    for family in text_string_to_metric_families(text):
        if family.name.startswith("postroom_"):
            most = 2000 if family.name.startswith("postroom_http_request") else 500
            assert len(family.samples) < most, family.name
            values = {pair for sample in family.samples for pair in sample.labels.items() if pair[0] != "le"}
            assert not [pair for pair in values if re.search(r"@|[0-9a-f]{8}-[0-9a-f]{4}", pair[1])]
