"""What was found: findings, what they come to together, and how they are shown to people and to programs."""

from __future__ import annotations

import asyncio
import shutil
import textwrap
import urllib.parse
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import SecretStr

from gateway import telemetry
from gateway.settings import Settings

State = Literal["ok", "warning", "problem"]

SHORTEST_SECRET: Final = 4  # characters; masking shorter ones would garble the text and tell the secret
WIDEST: Final = 100  # columns; lines longer than that are hard to read
# What Gmail and Yahoo want of whoever sends in bulk (rules of February 2024, enforced by refusal since November 2025)
BULK_RULES: Final = frozenset(
    {"spf", "dkim", "dmarc", "alignment", "hostname", "reverse_dns", "one_click", "complaints", "provider"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One check's result."""

    name: str  # of the check, such as database.durability; programs go by it
    state: State
    found: str  # what is, for people
    todo: str = ""  # one sentence; empty where nothing is to be done
    subject: str = ""  # the domain, provider or address it is about; empty = the deployment


def ok(name: str, found: str, *, subject: str = "") -> Finding:
    return Finding(name=name, state="ok", found=found, subject=subject)


def warning(name: str, found: str, todo: str, *, subject: str = "") -> Finding:
    return Finding(name=name, state="warning", found=found, todo=todo, subject=subject)


def problem(name: str, found: str, todo: str, *, subject: str = "") -> Finding:
    return Finding(name=name, state="problem", found=found, todo=todo, subject=subject)


async def bounded(
    name: str,
    check: Coroutine[Any, Any, Sequence[Finding]],
    *,
    seconds: float,
    subject: str = "",
    silence: State = "warning",
) -> Sequence[Finding]:
    """What the check found; a finding of its own where it took too long (`silence`) or broke."""
    try:
        async with asyncio.timeout(seconds):
            return await check
    except TimeoutError:
        todo = "Look whether what it asks can be reached from here, then run the doctor again."
        said = f"not known: no answer within {seconds:g} s"
        return [Finding(name=name, state=silence, found=said, todo=todo, subject=subject)]
    except Exception as error:  # noqa: BLE001 - a check that breaks must not take the other findings along
        todo = "Please report this: the check itself is broken."
        return [warning(name, f"not known: {type(error).__name__}: {error}", todo, subject=subject)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All findings, without secrets."""

    findings: tuple[Finding, ...]

    @property
    def state(self) -> State:
        """The worst there is."""
        states = {finding.state for finding in self.findings}
        return "problem" if "problem" in states else "warning" if "warning" in states else "ok"

    @property
    def bulk_lacking(self) -> list[Finding]:
        """What keeps the deployment from sending in bulk to Gmail and Yahoo."""
        return [finding for finding in self.findings if finding.name in BULK_RULES and finding.state != "ok"]

    @property
    def bulk_judged(self) -> bool:
        """Whether any domain was looked at from which mail goes out into the world."""
        return any(finding.name == "alignment" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For programs: `status`, `bulk_senders` (`met`: None where no domain could be judged) and `findings`."""
        shown = [
            {
                "name": finding.name,
                "subject": finding.subject or None,
                "state": finding.state,
                "found": finding.found,
                "todo": finding.todo or None,
            }
            for finding in self.findings
        ]
        lacking = [{"name": finding.name, "subject": finding.subject or None} for finding in self.bulk_lacking]
        met = not lacking if self.bulk_judged else None
        return {"status": self.state, "bulk_senders": {"met": met, "lacking": lacking}, "findings": shown}


def made(findings: Iterable[Finding], settings: Settings | None) -> Report:
    """The report, with every secret of the settings masked, should something that was asked have repeated it."""
    masked = telemetry.Redact(_secrets(settings) if settings else ())

    def clean(text: str) -> str:
        return " ".join(masked(None, "", text).split())

    return Report(
        findings=tuple(
            Finding(
                name=finding.name,
                state=finding.state,
                found=clean(finding.found),
                todo=clean(finding.todo),
                subject=clean(finding.subject),
            )
            for finding in findings
        )
    )


def _secrets(settings: Settings) -> list[str]:
    """Secrets by value, as they are written in the settings and as they are meant; the longest first."""
    written = [value.get_secret_value() for _, value in settings if isinstance(value, SecretStr)]
    written += [piece for value in written for piece in value.replace(",", " ").replace(":", " ").split()]
    for url in (settings.database_url, settings.redis_url):
        written.append(_parts(url)[1])
    for url in settings.outbound:
        user, password, query = _parts(url)
        written += [password, *urllib.parse.parse_qs(query).get("session_token", [])]
        written += [] if url.lower().startswith("smtp") else [user]  # there the key stands before the @
    forms = {form for text in written for form in (text, urllib.parse.unquote(text))}
    return sorted((form for form in forms if len(form) >= SHORTEST_SECRET), key=len, reverse=True)


def _parts(url: str) -> tuple[str, str, str]:
    """User, password and query, as they are written; empty ones where it is no URL."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return "", "", ""
    return parts.username or "", parts.password or "", parts.query


# For people


Style = Callable[[str, State], str]  # puts colours around a word


def text(report: Report, *, style: Style = lambda word, _: word) -> str:
    """The report as lines: a section for the deployment, one for each domain and provider."""
    width = min(shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST)
    column = max((len(finding.name) for finding in report.findings), default=0) + 2
    lines: list[str] = []
    for subject in dict.fromkeys(finding.subject for finding in report.findings):
        lines += ["", subject or "This deployment"]
        for finding in report.findings:
            if finding.subject == subject:
                lines += _lines(finding, width, column, style)
    return "\n".join([*lines[1:], "", *_bulk(report, width), "", _summary(report)])


def _lines(finding: Finding, width: int, column: int, style: Style) -> list[str]:
    indent = " " * (11 + column)
    body = textwrap.wrap(finding.found, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False)
    body[0] = f"  {style(f'{finding.state:<7}', finding.state)}  {finding.name:<{column}}{body[0].lstrip()}"
    if finding.todo:
        body += textwrap.wrap(
            finding.todo, width, initial_indent=indent + "→ ", subsequent_indent=indent + "  ", break_long_words=False
        )
    return body


def _bulk(report: Report, width: int) -> list[str]:
    lacking = [f"{one.name} ({one.subject})" if one.subject else one.name for one in report.bulk_lacking]
    said = _met(lacking) if report.bulk_judged else "not judged, for no domain was found that mail goes out from."
    return textwrap.wrap(f"Gmail's and Yahoo's rules for senders in bulk: {said}", width, break_long_words=False)


def _met(lacking: Sequence[str]) -> str:
    return f"not met: {', '.join(lacking)}." if lacking else "met, as far as can be seen from here."


def _summary(report: Report) -> str:
    counts = [
        (sum(finding.state == state for finding in report.findings), state) for state in ("problem", "warning", "ok")
    ]
    told = [f"{count} {state}{'s' if count != 1 and state != 'ok' else ''}" for count, state in counts if count]
    checks = f"{len(report.findings)} check{'s' if len(report.findings) != 1 else ''}"
    return f"{checks}: {', '.join(told)}."
