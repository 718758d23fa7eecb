"""Templates of mail, as their authors wrote them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from asyncpg import Record

from gateway.storage import db, period
from gateway.storage.sql import load

sql = load("templates")


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """A template."""

    id: UUID
    name: str  # for people; several may have the same
    subject: str  # Jinja2
    html: str | None  # Jinja2; None = none
    text: str | None  # Jinja2; None = made from the HTML
    variables: dict[str, Any]  # what is declared of each: type, required, default; empty = whatever is given is taken
    created_at: datetime
    updated_at: datetime

    @classmethod
    def from_row(cls, row: Record) -> Template:
        return cls(**dict(row))


async def create(connection: db.Connection, account_id: UUID, id: UUID, fields: dict[str, Any]) -> None:
    """`fields`: name, subject, html, text, variables."""
    await sql.create.run(connection, account_id=account_id, id=id, **fields)


async def get(connection: db.Connection, account_id: UUID, template_id: UUID) -> Template | None:
    row = await sql.get.row(connection, account_id=account_id, id=template_id)
    return Template.from_row(row) if row else None


async def change(connection: db.Connection, account_id: UUID, template_id: UUID, fields: dict[str, Any]) -> bool:
    """Set all `fields`, as in `create`; False = there is no such template."""
    return await sql.change.run(connection, account_id=account_id, id=template_id, **fields) > 0


async def delete(connection: db.Connection, account_id: UUID, template_id: UUID) -> bool:
    """Whether there was such a template."""
    return await sql.delete.run(connection, account_id=account_id, id=template_id) > 0


async def page(
    connection: db.Connection,
    account_id: UUID,
    *,
    after: UUID | None,
    limit: int,
    ascending: bool,
    made: period.Period = period.ALWAYS,
) -> list[Template]:
    """By when they were made."""
    query = sql.page_asc if ascending else sql.page_desc
    rows = await query.fetch(connection, account_id=account_id, after=after, limit=limit, **made.values)
    return [Template.from_row(row) for row in rows]
