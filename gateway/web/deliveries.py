"""/v1/deliveries/export: the delivery log of a time, line by line, for audits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from gateway.lifecycle import Gateway
from gateway.models import Caller, Input, Time
from gateway.storage import deliveries
from gateway.web import api, emails

NDJSON: Final = "application/x-ndjson"
PAGE: Final = 500  # attempts of one look into the database: no snapshot is held longer
LOOK: Final = 5000  # attempts that one such look asks whether they match
Outcome = Literal["sent", "delivered", "deferred", "bounced", "failed", "unknown", "provider_fault"]
_encode: Final = msgspec.json.Encoder().encode


class ExportQuery(Input):
    """Which part of the log."""

    since: Time | None = Field(None, description="Attempts that ended from this time on")
    until: Time | None = Field(None, description="… and before this time; default: all there is")
    outcome: Outcome | None = Field(None, description="What came of the attempt")
    status: emails.Status | None = Field(None, description="What its recipient has become by now")
    provider: str | None = Field(
        None, max_length=320, description="By which it was made, whole or up to its first colon"
    )
    recipient: str | None = Field(None, max_length=320, description="A recipient's address")
    email: UUID | None = Field(None, description="Of this e-mail")
    tag: str | None = Field(None, max_length=513, description="A tag's name, its value, or name:value")


class Deliveries:
    """The operations."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def operations(self) -> Sequence[api.Operation]:
        return [
            api.op("GET", "/deliveries/export", self.export, scope={"send", "read"}, tags=["E-mails"], produces=NDJSON)
        ]

    async def export(self, caller: Caller, query: ExportQuery) -> Response:
        """Every attempt that matches, oldest first, one JSON object a line, with its redacted dialogue.

        A line that is missing its end means that the export broke off: go on from the last whole line's `finished_at`.
        """
        wanted = deliveries.Wanted(
            since=query.since,
            until=query.until,
            outcome=query.outcome,
            status=query.status,
            provider=query.provider,
            recipient=emails.as_listed(query.recipient, "recipient") if query.recipient else None,
            email_id=query.email,
            tag=query.tag,
        )
        first = await self._page(caller.account_id, wanted, None)
        return StreamingResponse(self._lines(caller.account_id, wanted, first), media_type=NDJSON)

    async def _lines(self, account_id: UUID, wanted: deliveries.Wanted, part: deliveries.Part) -> AsyncIterator[bytes]:
        while True:
            yield b"".join(_line(row) for row in part.rows)
            if part.next_id is None:
                return
            part = await self._page(account_id, wanted, part.next_id)

    async def _page(self, account_id: UUID, wanted: deliveries.Wanted, after: UUID | None) -> deliveries.Part:
        width = LOOK if wanted.is_selective else PAGE
        async with self._gateway.database.connection() as connection:
            return await deliveries.page(connection, account_id, wanted, after=after, width=width, limit=PAGE)


def _line(row: Mapping[str, Any]) -> bytes:
    times = {name: row[name].astimezone(UTC) for name in ("started_at", "finished_at")}
    return _encode({**row, **times}) + b"\n"
