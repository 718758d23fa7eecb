"""What is shipped to deploy with: it names commands, settings and files that there are, and where those are installed
whose format it is, they read it."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from typer.main import get_command

from gateway import cli, dev, settings
from tests.docs import pages

ROOT: Final = pages.ROOT
DEPLOY: Final = ROOT / "docs" / "deploy"
UNITS: Final = sorted(DEPLOY.glob("*.service"))
VARIABLE: Final = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
SETTABLE: Final = {name.upper() for name in settings.Settings.model_fields}


def commands() -> set[str]:
    """Of the command line, without those of its groups."""
    group: Any = get_command(cli.app)
    return set(group.commands)


def _postroom(words: list[str]) -> str:
    """The command in a command line of Postroom's."""
    [place] = [index for index, word in enumerate(words) if word.rpartition("/")[2] == "postroom"]
    return words[place + 1]


def test_the_procfile_runs_commands_that_there_are() -> None:
    programs = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    assert set(programs) == {"release", "web", "worker"}
    assert {_postroom(shlex.split(line)) for line in programs.values()} <= commands()


def test_app_json_asks_for_settings_that_there_are_and_processes_of_the_procfile() -> None:
    app = json.loads((ROOT / "app.json").read_text())
    assert set(app["env"]) <= SETTABLE
    assert set(app["formation"]) <= {line.partition(":")[0] for line in (ROOT / "Procfile").read_text().splitlines()}
    given = {name: one["value"] for name, one in app["env"].items() if "value" in one}
    assert dev.settings_of(given).mail_domains == ("mail.example.com",)


def test_requirements_txt_is_the_project_with_the_locked_versions() -> None:
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == ["--constraint requirements.lock", "."]
    locked = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"^(-e|.*\[.*\]|.*--hash)", locked, re.MULTILINE), "pip takes none of these as constraints"


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_runs_a_command_that_there_is_and_has_time_to_drain(unit: Path) -> None:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.read_string(unit.read_text())
    service = parser["Service"]
    assert _postroom(shlex.split(service["ExecStart"])) in commands()
    if "TimeoutStopSec" in service:
        assert int(service["TimeoutStopSec"]) >= settings.Settings.model_fields["drain_seconds"].default + 10


# Containers


def _dockerfile() -> Iterator[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            instruction, _, rest = line.partition(" ")
            yield instruction, rest


def test_the_dockerfile_copies_what_there_is_and_what_dockerignore_lets_through() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [
        rest.split()[:-1] for instruction, rest in _dockerfile() if instruction == "COPY" and "--from" not in rest
    ]
    names = {name for names in copied for name in names}
    assert names
    assert [name for name in names if not (ROOT / name).exists()] == []
    assert names == let_through


def test_the_dockerfile_copies_all_that_the_wheel_is_made_of() -> None:
    """By what tests/test_packaging.py builds the wheel from."""
    needed = re.search(r'for name in \(("pyproject.toml"[^)]*)\)', (ROOT / "tests" / "test_packaging.py").read_text())
    assert needed
    copied = " ".join(rest for instruction, rest in _dockerfile() if instruction == "COPY")
    assert [name for name in re.findall(r'"([^"]+)"', needed[1]) if name not in copied.split()] == []


def test_the_dockerfile_begins_a_command_that_there_is_and_listens_where_the_ports_are() -> None:
    found = list(_dockerfile())
    last = dict(found)
    assert {instruction for instruction, _ in found} <= {
        *("FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD")
    }
    assert json.loads(last["ENTRYPOINT"]) == ["postroom"]
    assert json.loads(last["CMD"])[0] in commands()
    assert last["EXPOSE"].split() == ["8000", "2525", "1587"]


def _filled(value: str, given: Mapping[str, str]) -> str:
    def fill(match: re.Match[str]) -> str:
        name, kind, other = match.groups()
        assert kind == "-" or name in given, f"{name} has no default"
        return given.get(name) or (other if kind == "-" else "")

    return VARIABLE.sub(fill, value)


def _compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return loaded


def test_compose_gives_each_service_settings_that_are_read_and_a_command_that_there_is() -> None:
    given = {"POSTGRES_PASSWORD": "p", "SECRET_KEY": "s" * 40, "MAIL_DOMAINS": "mail.example.com"}
    services = _compose()["services"]
    ours = {name: one for name, one in services.items() if one.get("image") == "postroom"}
    assert set(ours) == {"migrate", "web", "worker"}
    for name, service in ours.items():
        assert service["command"][0] in commands(), name
        assert set(service["environment"]) <= SETTABLE, name
        read = dev.settings_of({key: _filled(value, given) for key, value in service["environment"].items()})
        settings.require_secret_key(read)
        assert read.database_url == "postgresql://postroom:p@postgres:5432/postroom"
        assert read.mail_domains == ("mail.example.com",)
    exposed = {port.rpartition(":")[2] for port in ours["web"]["ports"]}
    assert exposed == {ours["web"]["environment"][name] for name in ("PORT", "SMTP_PORT", "SUBMISSION_PORT")}


def test_compose_knows_each_service_and_volume_that_it_speaks_of() -> None:
    found = _compose()
    for name, service in found["services"].items():
        for other, when in service.get("depends_on", {}).items():
            assert other in found["services"], name
            assert when["condition"] in {"service_healthy", "service_started", "service_completed_successfully"}
            assert when["condition"] != "service_healthy" or "healthcheck" in found["services"][other]
        for volume in service.get("volumes", ()):
            assert volume.partition(":")[0] in found["volumes"]
    hosts = re.findall(r"@?([a-z]+):(?:5432|6379)", (ROOT / "compose.yaml").read_text())
    assert set(hosts) <= set(found["services"])


# By those whose format it is


def _tool(name: str) -> str:
    """Debian has some of them where only root looks."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if found is None:
        pytest.skip(f"{name} is not installed: its configuration is not checked by it")
    return found


def certificate(folder: Path) -> None:
    """mail.example.com.pem with both halves, and .key."""
    pem, key = folder / "mail.example.com.pem", folder / "mail.example.com.key"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subprocess.run(
        [*made, "-subj", "/CN=mail.example.com", "-keyout", key, "-out", pem], check=True, capture_output=True
    )
    pem.write_text(pem.read_text() + key.read_text())


def test_haproxy_reads_its_configuration(tmp_path: Path) -> None:
    haproxy = _tool("haproxy")
    certificate(tmp_path)
    file = tmp_path / "haproxy.cfg"
    file.write_text((DEPLOY / "haproxy.cfg").read_text().replace("/etc/haproxy/", f"{tmp_path}/"))
    done = subprocess.run([haproxy, "-c", "-f", str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, "WARNING" in done.stderr) == (0, False), done.stderr


def test_nginx_reads_its_configuration(tmp_path: Path) -> None:
    nginx = _tool("nginx")
    certificate(tmp_path)
    file = tmp_path / "nginx.conf"
    text = (DEPLOY / "nginx.conf").read_text().replace("/etc/nginx/mail", f"{tmp_path}/mail")
    file.write_text(f"pid {tmp_path}/pid;\nerror_log stderr;\n{text}")
    done = subprocess.run([nginx, "-t", "-c", str(file)], capture_output=True, text=True, check=False)
    if 'unknown directive "stream"' in done.stderr:
        pytest.skip("nginx has no stream module here: its configuration is not checked by it")
    assert done.returncode == 0, done.stderr


def test_systemd_reads_the_units(tmp_path: Path) -> None:
    analyze = _tool("systemd-analyze")
    program = tmp_path / "postroom"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for unit in UNITS:
        name = unit.name.replace("@.", "@1.")
        (tmp_path / name).write_text(unit.read_text().replace("/opt/postroom/bin/postroom", str(program)))
    names = [str(tmp_path / unit.name.replace("@.", "@1.")) for unit in UNITS]
    done = subprocess.run([analyze, "verify", *names], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
