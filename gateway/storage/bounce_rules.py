"""An account's own rules for refusals, in the order in which they are looked at."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from asyncpg import Record

from gateway.mail import classify
from gateway.storage import db
from gateway.storage.sql import load

sql = load("bounce_rules")

MOST: Final = 200  # rules of one account


@dataclass(frozen=True, kw_only=True, slots=True)
class BounceRule:
    """A rule of an account's; of the three patterns those that are empty are not asked for."""

    id: UUID
    priority: int  # lower = looked at earlier; of the same the older one first
    words: str  # lower case, pieces with * between
    enhanced: str  # RFC 3463 code, x for any number
    code: str  # three digits, x for any
    kind: classify.Kind
    suppresses: bool
    action: classify.Action | None  # None = as the server's code says
    note: str  # for people; may be empty
    created_at: datetime
    updated_at: datetime

    @classmethod
    def from_row(cls, row: Record) -> BounceRule:
        return cls(**dict(row))

    def own(self) -> classify.Own:
        """As refusals are compared with it."""
        return classify.Own(
            id=str(self.id),
            kind=self.kind,
            suppresses=self.suppresses,
            enhanced=self.enhanced,
            words=self.words,
            code=self.code,
            action=self.action,
        )


async def lock(connection: db.Connection, account_id: UUID) -> None:
    """Those who change one account's rules take turns, so that what is looked at together stays together."""
    await sql.lock.fetch(connection, account_id=account_id)


async def create(connection: db.Connection, account_id: UUID, id: UUID, fields: dict[str, Any]) -> bool:
    """`fields`: those of BounceRule that are neither id nor time. False = there are MOST of them already."""
    await lock(connection, account_id)
    return await sql.create.run(connection, account_id=account_id, id=id, most=MOST, **fields) > 0


async def get(connection: db.Connection, account_id: UUID, rule_id: UUID) -> BounceRule | None:
    row = await sql.get.row(connection, account_id=account_id, id=rule_id)
    return BounceRule.from_row(row) if row else None


async def change(connection: db.Connection, account_id: UUID, rule_id: UUID, fields: dict[str, Any]) -> bool:
    """Set all `fields`, as in `create`; False = there is no such rule."""
    return await sql.change.run(connection, account_id=account_id, id=rule_id, **fields) > 0


async def delete(connection: db.Connection, account_id: UUID, rule_id: UUID) -> bool:
    """Whether there was such a rule."""
    return await sql.delete.run(connection, account_id=account_id, id=rule_id) > 0


async def all_of(connection: db.Connection, account_id: UUID) -> list[BounceRule]:
    """At most MOST, in the order in which they are looked at."""
    return [BounceRule.from_row(row) for row in await sql.all.fetch(connection, account_id=account_id)]
