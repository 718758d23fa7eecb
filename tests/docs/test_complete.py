"""What there is stands on a page, and no other: settings, operations, errors, event types, alerts, commands.

Tables that say nothing but what the code says are made of it:

    POSTROOM_DOCS=write pytest tests/docs/test_complete.py       # writes them anew
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import httpx2
import pytest
import yaml

from gateway import errors, settings
from gateway.storage import events
from tests.commands import reference
from tests.docs import conftest, pages

DOCS: Final = pages.ROOT / "docs"
_TOKEN: Final = re.compile(r"`(\w+)\.(\w+(?:\|\w+)*)`")
_ERROR: Final = re.compile(r"^\| (\d{3}) \| `(\w+)` \|", re.MULTILINE)


def _made(page: str, name: str, lines: Sequence[str]) -> None:
    """The table between the page's marks is this one; it is written there where that is asked for."""
    path = DOCS / page
    text = path.read_text()
    before, mark, rest = text.partition(f"<!-- {name}: ")
    assert mark, f"{page} has no place for {name}"
    comment, _, rest = rest.partition("-->\n")
    shown, _, after = rest.partition("<!-- end -->")
    made = "\n".join(lines) + "\n"
    if os.environ.get("POSTROOM_DOCS") == "write" and shown != made:
        path.write_text(f"{before}{mark}{comment}-->\n{made}<!-- end -->{after}")
        return
    missing = "\n".join(line for line in lines if line not in shown.splitlines())
    assert shown == made, f"{page} is behind: POSTROOM_DOCS=write pytest tests/docs/test_complete.py\n{missing}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# Settings


def _groups() -> Mapping[str, str]:
    """Under which comment of the class each field stands."""
    found, group = {}, ""
    for line in inspect.getsource(settings.Settings).splitlines():
        if title := re.fullmatch(r"    # (.+)", line):
            group = title[1]
        if field := re.match(r"    (\w+): ", line):
            found[field[1]] = group
    return found


def _shown(default: object) -> str:
    """A default as it would be written in the environment; empty = none."""
    if default is None or "Secret" in type(default).__name__:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return " ".join(default) if isinstance(default, tuple) else str(default)


def _settings() -> Iterator[str]:
    groups, group = _groups(), None
    yield from ("| variable | default | meaning |", "|---|---|---|")
    for name, field in settings.Settings.model_fields.items():
        if groups[name] != group:
            group = groups[name]
            yield f"| **{group}** | | |"
        default = _shown(field.default)
        yield f"| `{name.upper()}` | {f'`{default}`' if default else ''} | {_cell(field.description or '')} |"


def test_every_setting_stands_on_its_page_with_default_and_meaning() -> None:
    assert all(field.description for field in settings.Settings.model_fields.values())
    _made("settings.md", "settings", list(_settings()))


def test_pages_speak_of_settings_that_there_are() -> None:
    """Variables in capitals that are said to be settings; others are listed here."""
    others = {"POSTROOM_DOCS", "PATH", "HOME", "CODE"}
    known = {name.upper() for name in settings.Settings.model_fields} | others
    families = {name.split("_")[0] for name in known if "_" in name}
    for page in pages.files():
        for word in re.findall(r"`([A-Z]+(?:_[A-Z]+)+)(?:=[^`]*)?`", pages.prose(page)):
            if word.split("_")[0] in families and not word.startswith("POSTROOM_"):
                assert word in known, f"{page.name}: there is no setting {word}"


# Operations


def _scopes(operation: Mapping[str, Any]) -> str:
    found = [scope for one in operation["security"] for scope in (one.get("apiKey") or ["token"])]
    return ", ".join(f"`{one}`" for one in found if one != "admin" or len(found) == 1)


def _operations(document: Mapping[str, Any]) -> Iterator[str]:
    chapters: dict[str, list[str]] = {}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            row = f"| `{method.upper()} {path}` | {_scopes(operation)} | {_cell(operation['summary'])} |"
            chapters.setdefault(operation["tags"][0], []).append(row)
    yield from ("| operation | open to | |", "|---|---|---|")
    for tag, rows in chapters.items():
        yield f"| **{tag}** | | |"
        yield from rows


@pytest.mark.xdist_group("docs")
def test_every_operation_stands_on_its_page_with_who_may_call_it(gateway: conftest.Gateway) -> None:
    document = httpx2.get(f"{gateway.home.url}/openapi.json", timeout=60).json()
    _made("api.md", "operations", list(_operations(document)))


# Errors and events


def test_every_error_stands_on_its_page_with_its_status() -> None:
    def below(one: type[errors.ApiError]) -> Iterator[type[errors.ApiError]]:
        for each in one.__subclasses__():
            yield each
            yield from below(each)

    ours = [one for one in below(errors.ApiError) if one.__module__ == errors.__name__]  # Mailpit's have its shape
    there = {(str(one.status), one.name) for one in ours}
    assert set(_ERROR.findall((DOCS / "api.md").read_text())) == there


def test_every_type_of_event_stands_on_its_page() -> None:
    found = {
        f"{what}.{one}" for what, each in _TOKEN.findall((DOCS / "events.md").read_text()) for one in each.split("|")
    }
    kinds = {name.partition(".")[0] for name in events.TYPES}
    assert {name for name in found if name.partition(".")[0] in kinds and name != "data.ended"} == events.TYPES


# Alerts


def _alerts() -> Iterator[str]:
    rules = yaml.safe_load((pages.ROOT / "gateway" / "alerts.yml").read_text())["groups"][0]["rules"]
    yield from ("| alert | | what to do |", "|---|---|---|")
    for rule in rules:
        said = f"{rule['annotations']['summary']} {rule['annotations']['runbook']}"
        said = re.sub(r"{{ \$labels\.(\w+) }}", r"`\1`", said)
        yield f"| `{rule['alert']}` | {rule['labels']['severity']} | {_cell(said)} |"


def test_every_alert_stands_on_its_page_with_what_to_do() -> None:
    _made("monitoring.md", "alerts", list(_alerts()))


# Commands


def test_every_command_and_option_stands_on_its_page() -> None:
    """`python -m tests.commands.reference` writes them there."""
    text = (DOCS / "cli.md").read_text()
    missing = []
    for name, command, _ in reference.commands():
        if not re.search(rf"`{name}[ `]", text):
            missing.append(name)
        options = [one.opts[0] for one in command.params if one.param_type_name == "option"]
        missing += [f"{name} {one}" for one in options if not re.search(rf"{one}\b", text)]
    assert missing == []
