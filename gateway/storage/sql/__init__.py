"""Named SQL: each file beside this one holds blocks `-- name: comment`, each one statement with :name parameters.

`load("events")` gives the blocks of events.sql as attributes: `sql.append.fetch(connection, account_id=…)`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from asyncpg import Connection, Record

_BLOCK = re.compile(r"^-- (\w+): .*$", re.MULTILINE)
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """One statement, ready for asyncpg."""

    name: str  # "events.append": for errors and logs
    text: str  # with $1, $2, …
    parameters: tuple[str, ...]  # names, in the order of their numbers

    def arguments(self, values: dict[str, Any]) -> list[Any]:
        """`values` in the order of the numbers; a missing or a surplus name is a mistake in the calling code."""
        if len(values) != len(self.parameters):
            odd = set(values) ^ set(self.parameters)
            raise TypeError(f"{self.name}: parameters do not fit: {sorted(odd)}")
        return [values[name] for name in self.parameters]

    async def fetch(self, connection: Connection, **values: Any) -> list[Record]:
        rows: list[Record] = await connection.fetch(self.text, *self.arguments(values))
        return rows

    async def row(self, connection: Connection, **values: Any) -> Record | None:
        return await connection.fetchrow(self.text, *self.arguments(values))

    async def value(self, connection: Connection, **values: Any) -> Any:
        return await connection.fetchval(self.text, *self.arguments(values))

    async def run(self, connection: Connection, **values: Any) -> int:
        """Rows that the statement changed."""
        done: str = await connection.execute(self.text, *self.arguments(values))
        last = done.rpartition(" ")[2]
        return int(last) if last.isdigit() else 0


class Queries:
    """The statements of one file, by name."""

    def __init__(self, file: str, blocks: dict[str, Query]) -> None:
        self._file = file
        self._blocks = blocks

    def __getattr__(self, name: str) -> Query:
        try:
            return self._blocks[name]
        except KeyError:
            raise AttributeError(f"{self._file}.sql has no block {name}") from None

    def names(self) -> list[str]:
        return list(self._blocks)

    def __iter__(self) -> Any:
        return iter(self._blocks.values())


def compile_query(name: str, text: str) -> Query:
    """Turn `:name` into `$n`, the same number for the same name. `::type` and comments are left alone."""
    parameters: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[1] not in parameters:
            parameters.append(match[1])
        return f"${parameters.index(match[1]) + 1}"

    body = "\n".join(line.partition("--")[0].rstrip() for line in text.splitlines())
    statement = _PARAMETER.sub(number, body).strip().rstrip(";")
    return Query(name=name, text=statement, parameters=tuple(parameters))


@cache
def load(file: str) -> Queries:
    """The blocks of `<file>.sql`."""
    text = resources.files(__package__).joinpath(f"{file}.sql").read_text("utf-8")
    pieces = _BLOCK.split(text)
    blocks = {
        name: compile_query(f"{file}.{name}", body) for name, body in zip(pieces[1::2], pieces[2::2], strict=True)
    }
    return Queries(file, blocks)
