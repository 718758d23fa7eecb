"""Somebody at a terminal: runs commands in this process, against a running house, as the tenant whose key it has."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from typer import testing

from gateway import cli, errors
from tests import house


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str
    content: bytes  # `out` as it was written

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def objects(self) -> list[Any]:
        """One object a line."""
        return [json.loads(line) for line in self.lines]


@dataclass(frozen=True, kw_only=True, slots=True)
class Typist:
    """Whose environment names a gateway and a key."""

    environment: dict[str, str]

    async def say(self, *words: str, given: bytes = b"", fails: int = 0) -> Said:
        """The command, in a thread of its own; it must end with this exit code. `given`: its standard input."""
        said = await asyncio.to_thread(self._invoke, words, given)
        assert said.code == fails, f"{words}: exit code {said.code}\n{said.err}\n{said.out}"
        return said

    def _invoke(self, words: tuple[str, ...], given: bytes) -> Said:
        result = testing.CliRunner().invoke(cli.app, words, input=given, env=self.environment, prog_name="postroom")
        code, err = result.exit_code, result.stderr
        if isinstance(result.exception, errors.PostroomError):  # as `cli.main` has it
            code, err = 2 if isinstance(result.exception, errors.ConfigurationError) else 1, f"{result.exception}\n"
        elif result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Said(code=code, out=result.stdout, err=err, content=result.stdout_bytes)


def environment(home: house.House, tenant: house.Tenant) -> dict[str, str]:
    """What a client of the house is told."""
    return {
        "POSTROOM_URL": home.url,
        "POSTROOM_API_KEY": tenant.key,
        "POSTROOM_SMTP": f"127.0.0.1:{home.smtp_port}",
        "DATABASE_URL": "",
        "NO_COLOR": "",
    }
