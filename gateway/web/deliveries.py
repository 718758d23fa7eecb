"""/v1/deliveries/export: the delivery log of a time, line by line, for audits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from gateway.lifecycle import Gateway
from gateway.models import Caller, Input, Time
from gateway.storage import deliveries
from gateway.web import api

NDJSON: Final = "application/x-ndjson"
PAGE: Final = 500  # attempts of one look into the database: no snapshot is held longer
_encode: Final = msgspec.json.Encoder().encode


class ExportQuery(Input):
    """Which part of the log."""

    since: Time | None = Field(None, description="Attempts that ended from this time on")
    until: Time | None = Field(None, description="… and before this time; default: up to now")


class Deliveries:
    """The operations."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def operations(self) -> Sequence[api.Operation]:
        return [
            api.op("GET", "/deliveries/export", self.export, scope={"send", "read"}, tags=["E-mails"], produces=NDJSON)
        ]

    async def export(self, caller: Caller, query: ExportQuery) -> Response:
        """Every attempt at every recipient, oldest first, one JSON object a line, with its redacted dialogue.

        A line that is missing its end means that the export broke off: go on from the last whole line's `finished_at`.
        """
        until = query.until or datetime.now(UTC)
        first = await self._page(caller.account_id, query.since, until, None)
        lines = self._lines(caller.account_id, query.since, until, first)
        return StreamingResponse(lines, media_type=NDJSON)

    async def _lines(
        self, account_id: UUID, since: datetime | None, until: datetime, rows: list[dict[str, Any]]
    ) -> AsyncIterator[bytes]:
        while rows:
            yield b"".join(_line(row) for row in rows)
            if len(rows) < PAGE:
                return
            rows = await self._page(account_id, since, until, rows[-1]["id"])

    async def _page(
        self, account_id: UUID, since: datetime | None, until: datetime, after: UUID | None
    ) -> list[dict[str, Any]]:
        async with self._gateway.database.connection() as connection:
            return await deliveries.page(connection, account_id, since=since, until=until, after=after, limit=PAGE)


def _line(row: Mapping[str, Any]) -> bytes:
    times = {name: row[name].astimezone(UTC) for name in ("started_at", "finished_at")}
    return _encode({**row, **times}) + b"\n"
