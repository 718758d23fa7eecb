"""The command line: exit codes, what it prints, and that it asks nobody for what it does not need."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from typer import testing

from gateway import cli, settings, tokens

pytestmark = pytest.mark.anyio

PROJECT = Path(__file__).parents[1]
SECRET_KEY = "k" * 40


def postroom(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    ours = {"DATABASE_URL", "REDIS_URL", "SECRET_KEY", "POSTROOM_URL", "POSTROOM_API_KEY"}
    environment = {name: value for name, value in os.environ.items() if name not in ours} | variables
    command = [sys.executable, "-m", "gateway.cli", *arguments]
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)


def test_what_is_configured_wrongly_is_one_line_and_exit_code_2() -> None:
    said = postroom("migrate", DB_POOL_SIZE="many")
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.startswith("postroom: DB_POOL_SIZE: ")
    assert said.stderr.count("\n") == 1


def test_without_a_database_migrate_says_what_to_set() -> None:
    said = postroom("migrate")
    assert said.returncode == 2
    assert "DATABASE_URL" in said.stderr


def test_a_database_that_cannot_be_reached_is_one_line_and_exit_code_1() -> None:
    said = postroom("migrate", "--check", DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert said.returncode == 1
    assert said.stderr.startswith("postroom: DATABASE_URL does not lead to a database")
    assert "Connect" in said.stderr
    assert said.stderr.count("\n") == 1


def test_a_database_that_there_is_not_is_called_by_its_name(postgres_dsn: str) -> None:
    """Seen to fail with the server's word left to Python: a traceback."""
    elsewhere = urlsplit(postgres_dsn)._replace(path="/not_there").geturl()
    for command in (["migrate"], ["keys", "list", "--account", "main"]):
        said = postroom(*command, DATABASE_URL=elsewhere, SECRET_KEY=SECRET_KEY)
        assert (said.returncode, said.stderr.count("\n")) == (1, 1), said.stderr
        assert '"not_there" does not exist' in said.stderr


def test_a_database_url_that_cannot_be_read_is_told_how_it_is_written_and_not_shown() -> None:
    """Seen to fail with the driver's own words: they hold what stands behind the colon."""
    for url in ("postgresql://user:pa/ssword@127.0.0.1:5432/db", "mysql://user:pa/ssword@127.0.0.1/db"):
        said = postroom("migrate", DATABASE_URL=url)
        assert (said.returncode, said.stderr.count("\n")) == (2, 1), said.stderr
        assert "postgresql://user:password@host:5432/database" in said.stderr
        assert "ssword@127" not in said.stderr
        assert "pa" not in said.stderr.replace("password", "")


def test_settings_lists_every_setting() -> None:
    listed = postroom("settings").stdout.splitlines()
    assert [line.split()[0] for line in listed] == [name.upper() for name in settings.Settings.model_fields]


def test_settings_shows_no_secret() -> None:
    assert SECRET_KEY not in postroom("settings", SECRET_KEY=SECRET_KEY).stdout


def test_version_needs_nothing_of_the_gateway() -> None:
    program = (
        "import sys\nfrom gateway import cli\ntry: cli.app(['version'])\nexcept SystemExit: pass\nprint(*sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert said.stdout.startswith("postroom ")
    assert not {"starlette", "asyncpg", "sqlalchemy", "structlog"} & set(said.stdout.split())


async def test_migrate_check_tells_what_is_missing_and_migrate_applies_it(postgres_dsn: str, dsn: str) -> None:
    migrated = postroom("migrate", "--check", DATABASE_URL=dsn)
    assert (migrated.returncode, migrated.stdout) == (0, "up to date\n")
    bare = postroom("migrate", "--check", DATABASE_URL=postgres_dsn)
    assert bare.returncode == 1
    assert bare.stdout.startswith("missing  ")


async def test_keys_are_made_listed_and_revoked(dsn: str) -> None:
    made = postroom(
        "keys", "create", "ci", "--scope", "send", "--account", "a", DATABASE_URL=dsn, SECRET_KEY=SECRET_KEY
    )
    assert tokens.kind_of(made.stdout.strip()) == "key"
    listed = postroom("keys", "list", "--account", "a", DATABASE_URL=dsn).stdout.splitlines()
    assert len(listed) == 1
    key_id, scopes, *_, name = listed[0].split("\t")
    assert (scopes, name) == ("send", "ci")
    assert made.stdout.strip() not in listed[0]
    assert postroom("keys", "revoke", key_id, "--account", "other", DATABASE_URL=dsn).returncode == 1
    assert postroom("keys", "revoke", key_id, "--account", "a", DATABASE_URL=dsn).stdout == "revoked\n"
    assert postroom("keys", "list", "--account", "a", DATABASE_URL=dsn).stdout == ""


async def test_accounts_are_made_listed_suspended_resumed_and_deleted(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process: each command of one that is started takes a second."""
    monkeypatch.setenv("DATABASE_URL", dsn)
    monkeypatch.setenv("SECRET_KEY", SECRET_KEY)
    runner = testing.CliRunner()

    async def said(*arguments: str) -> str:
        result = await asyncio.to_thread(runner.invoke, cli.app, arguments)
        return result.stdout or str(result.exception)

    first, second, twin = [(await said("accounts", "create", name)).strip() for name in ("first", "second", "twin")]
    assert "already" in await said("accounts", "create", "second")
    made = await said(
        "keys", "create", "k", "--account", "second", "--domain", "B\u00dcCHER.example", "--expires", "90d"
    )
    assert tokens.looks_like_key(made.strip())
    assert "not a domain" in await said("keys", "create", "k", "--account", "second", "--domain", "a b")
    assert "--expires soon" in await said("keys", "create", "k", "--account", "second", "--expires", "soon")
    listed = await said("keys", "list", "--account", "second")
    in_90_days = datetime.now(UTC) + timedelta(days=90)
    assert re.search(rf"\txn--bcher-kva.example\t{in_90_days:%Y-%m-%d}T\S+\tnever used\tk$", listed.strip()), listed
    assert await said("accounts", "suspend", "second") == "suspended\n"
    assert await said("accounts", "suspend", second) == "was suspended already\n"
    states = [line.split()[1] for line in (await said("accounts", "list")).splitlines()]
    assert states == ["active", "suspended", "active"]
    assert await said("accounts", "resume", second) == "resumed\n"
    assert await said("accounts", "resume", "second") == "was not suspended\n"
    assert "cannot be deleted" in await said("accounts", "delete", first, "--yes")
    assert "Delete 'twin'" in await said("accounts", "delete", "twin")  # nobody says yes
    assert await said("accounts", "delete", "twin", "--yes") == "deleted\n"
    assert "no account 'twin'" in await said("accounts", "suspend", "twin")
    assert "no account" in await said("accounts", "delete", "00000000-0000-7000-8000-000000000000", "--yes")  # the void
    [line] = [line for line in (await said("accounts", "list")).splitlines() if twin in line]
    assert line.split()[1] == "deleted"
    assert '"status":"suspended"' in await said("audit", "--account", "second")


async def test_keys_reseal_tells_what_it_did(dsn: str) -> None:
    said = postroom("keys", "reseal", DATABASE_URL=dsn, SECRET_KEY=SECRET_KEY, SECRET_KEY_PREVIOUS="o" * 40)
    assert (said.returncode, said.stdout) == (0, "0 encrypted anew, 0 were already, 0 unreadable\n")


async def test_a_scope_that_there_is_not_is_refused(dsn: str) -> None:
    said = postroom("keys", "create", "ci", "--scope", "root", DATABASE_URL=dsn, SECRET_KEY=SECRET_KEY)
    assert said.returncode == 2
    assert "root" in said.stderr
