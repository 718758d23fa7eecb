"""SPF, by the test suite of RFC 7208, every case of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from gateway.inbound import spf
from tests import suites
from tests.inbound.records import Records

pytestmark = pytest.mark.anyio


def _scenarios() -> list[dict[str, Any]]:
    text = suites.path("pyspf-2.0.14/test/rfc7208-tests.yml").read_text("utf-8")
    return list(yaml.safe_load_all(text))


def _zone(scenario: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: list(_as_txt(records)) for name, records in scenario["zonedata"].items()}


def _as_txt(records: list[Any]) -> Iterator[Any]:
    """The suite's SPF records stand for TXT records, unless a name has those as well."""
    has_txt = any(isinstance(record, dict) and "TXT" in record for record in records)
    for record in records:
        if isinstance(record, dict) and "SPF" in record:
            if not has_txt:
                yield {"TXT": record["SPF"]}
        elif record != {"TXT": "NONE"}:
            yield record


@pytest.mark.parametrize("scenario", _scenarios(), ids=lambda scenario: scenario["description"].replace(" ", "-"))
async def test_the_suite_of_rfc_7208_agrees(scenario: dict[str, Any]) -> None:
    resolver = Records(_zone(scenario))
    wrong = {}
    for name, case in scenario["tests"].items():
        outcome = await spf.check(resolver, remote_ip=case["host"], mail_from=case["mailfrom"], helo=str(case["helo"]))
        expected = case["result"] if isinstance(case["result"], list) else [case["result"]]
        if outcome.result not in expected:
            wrong[name] = (expected, outcome)
    assert wrong == {}


def test_the_suite_is_whole() -> None:
    assert sum(len(scenario["tests"]) for scenario in _scenarios()) == 203
