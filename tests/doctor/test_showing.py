"""How `postroom doctor` is run and read: its text, its JSON, its exit code, its bounds, and what it never shows."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway import settings
from gateway.doctor import deployment, examining, report, ways_out
from gateway.doctor.report import Finding, ok, problem, warning
from gateway.errors import ConfigurationError
from tests.outbound import sink

pytestmark = pytest.mark.anyio

PROJECT = Path(__file__).parents[2]
SECRETS = {
    "database": "db-password-1",
    "redis": "redis-password-2",
    "relay": "relay-password-3",
    "mailgun": "mailgun-key-4",
    "aws": "aws/secret+5",
    "session": "session-token-6",
    "key": "Uo3LeDa8sJhNf6cYbR4zTv9qPx2kGm7W",
    "metrics": "metrics-token-7",
    "postmark": "postmark-password-8",
}
EVERYTHING: dict[str, Any] = {
    "database_url": f"postgresql://app:{SECRETS['database']}@127.0.0.1:1/postroom",
    "redis_url": f"redis://:{SECRETS['redis']}@127.0.0.1:1",
    "outbound": (
        f"smtp://app:{SECRETS['relay']}@127.0.0.1:1 "
        f"mailgun://{SECRETS['mailgun']}@mg.example?endpoint=http://127.0.0.1:1 "
        f"ses://AKIA:aws%2Fsecret%2B5@eu-west-1?session_token={SECRETS['session']}&endpoint=http://127.0.0.1:1"
    ),
    "secret_key": SECRETS["key"],
    "metrics_token": SECRETS["metrics"],
    "postmark_webhook_auth": f"user:{SECRETS['postmark']}",
    "mail_domains": "postroom.test",
    "port": 1,
}


def doctor(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    names = {name.upper() for name in settings.Settings.model_fields}
    environment = {name: value for name, value in os.environ.items() if name not in names} | variables
    command = [sys.executable, "-m", "gateway.cli", "doctor", *arguments]
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)


FINDINGS = [
    ok("database", "Postgres 18.6 answers"),
    warning("redis", "not reached: " + "very long words " * 12, "Start Redis, or do not."),
    problem("mx", "the MX record is not there", "Publish: a.example. MX 10 b.example.", subject="a.example"),
]
TEXT = """\
This deployment
  ok       database  Postgres 18.6 answers
  warning  redis     not reached: very long words very long words very long
                     words very long words very long words very long words very
                     long words very long words very long words very long words
                     very long words very long words
                     → Start Redis, or do not.

a.example
  problem  mx        the MX record is not there
                     → Publish: a.example. MX 10 b.example.

Gmail's and Yahoo's rules for senders in bulk: not judged, for no domain was
found that mail goes out from.

3 checks: 1 problem, 1 warning, 1 ok."""


def test_the_text_says_of_each_what_is_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert report.text(report.made(FINDINGS, None)) == TEXT


def test_the_json_is_what_programs_are_promised() -> None:
    more = [
        ok("alignment", "aligned", subject="a.example"),
        problem("dkim", "is not there", "Publish it.", subject="a.example"),
    ]
    assert report.made([*FINDINGS, *more], None).as_dict() | {"findings": []} == {
        "status": "problem",
        "bulk_senders": {"met": False, "lacking": [{"name": "dkim", "subject": "a.example"}]},
        "findings": [],
    }
    shown = report.made(FINDINGS, None).as_dict()
    assert shown["bulk_senders"] == {"met": None, "lacking": []}
    assert shown["findings"][2] == {
        "name": "mx",
        "subject": "a.example",
        "state": "problem",
        "found": "the MX record is not there",
        "todo": "Publish: a.example. MX 10 b.example.",
    }
    assert shown["findings"][0]["todo"] is shown["findings"][0]["subject"] is None
    assert report.made(FINDINGS[:2], None).state == "warning"
    assert report.made(FINDINGS[:1], None).state == "ok"


@pytest.mark.parametrize("what", SECRETS)
def test_a_secret_that_a_check_repeats_is_masked(what: str) -> None:
    """With the masking in `report.made` taken out all of them failed."""
    secret = SECRETS[what]
    said = warning(f"name {secret}"[:4], f"it said: {secret}!", f"Use {secret}.", subject=f"at {secret}")
    shown = str(report.made([said], settings.load(**EVERYTHING)).as_dict())
    assert secret not in shown
    assert secret.replace("/", "%2F").replace("+", "%2B") not in shown


async def test_nothing_of_a_deployment_where_nothing_answers_is_secret() -> None:
    found = await examining.examine(settings.load(**EVERYTHING), examining.Options())
    shown = str(found.as_dict()) + report.text(found)
    assert found.state == "problem"
    assert [name for name, secret in SECRETS.items() if secret in shown] == []
    states = {one.name: one.state for one in found.findings}
    assert (states["database"], states["redis"], states["listeners"]) == ("problem", "warning", "warning")


class _Silent(asyncio.DatagramProtocol):
    """Takes every question and answers none."""


async def test_a_dns_that_never_answers_is_one_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examining, "QUESTION_SECONDS", 0.2)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(_Silent, local_addr=("127.0.0.1", 0))
    server = "127.0.0.1:{}".format(transport.get_extra_info("sockname")[1])
    asked = settings.load(
        secret_key=SECRETS["key"], mail_domains="a.example b.example", dns_servers=server, port=1, outbound="mx://"
    )
    found = await examining.examine(asked, examining.Options())
    transport.close()
    assert [one.state for one in found.findings if one.name == "dns"] == ["problem"]
    assert not {"mx", "spf", "dkim", "dmarc", "hostname", "reverse_dns"} & {one.name for one in found.findings}


async def test_a_relay_and_a_redis_that_never_answer_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways_out, "ASK_SECONDS", 0.2)
    monkeypatch.setattr(deployment, "REDIS_SECONDS", 0.2)
    async with sink.Sink() as silent:
        silent.always("greeting", sink.stall())
        asked = settings.load(
            secret_key=SECRETS["key"], redis_url=f"redis://127.0.0.1:{silent.port}", outbound=silent.url(), port=1
        )
        found = await examining.examine(asked, examining.Options())
    states = {one.name: one.state for one in found.findings}
    assert (states["redis"], states["provider"]) == ("warning", "problem")


async def _never() -> Sequence[Finding]:
    await asyncio.Event().wait()
    return []


async def _broken() -> Sequence[Finding]:
    raise LookupError("odd")


async def test_a_check_that_hangs_or_breaks_is_a_warning_and_the_others_go_on() -> None:
    [hung] = await report.bounded("a", _never(), seconds=0.01)
    [broken] = await report.bounded("b", _broken(), seconds=1, subject="c")
    assert (hung.name, hung.state, broken.name, broken.state, broken.subject) == ("a", "warning", "b", "warning", "c")
    assert "LookupError: odd" in broken.found


# As a program


def test_settings_that_cannot_be_read_are_the_one_finding_and_exit_code_1() -> None:
    said = doctor("--json", DB_POOL_SIZE="many")
    assert (said.returncode, said.stderr) == (1, "")
    [finding] = json.loads(said.stdout)["findings"]
    assert (finding["name"], finding["state"]) == ("settings", "problem")
    assert "DB_POOL_SIZE" in finding["found"]


async def test_options_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="--send-test"):
        await examining.examine(settings.load(), examining.Options(send_test="nobody"))


async def test_it_runs_as_a_program_over_a_database(dsn: str) -> None:
    variables = {"DATABASE_URL": dsn, "SECRET_KEY": SECRETS["key"], "MAIL_DOMAINS": "postroom.test", "PORT": "1"}
    said = await asyncio.to_thread(doctor, **variables)
    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout.startswith("This deployment\n  ok       settings ")
    assert "\x1b" not in said.stdout
    assert SECRETS["key"] not in said.stdout + said.stderr
