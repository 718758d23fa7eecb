"""Events by SSE. Whenever the connection ends, another one goes on behind the last event that was handed out."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx2

from . import records
from .transport import Answer, Events, Link, Request, Tries, query_of

NOBODY = "00000000-0000-0000-0000-000000000000"  # no e-mail has this id


class Tape:
    """The log from a cursor on, without an end."""

    def __init__(self, link: Link, path: str, after: str | None, query: dict[str, str]) -> None:
        self._link = link
        self._path = path
        self._query = query
        self._tries = self._anew()
        self.cursor = after  # of the last event that was handed out; None = now, which `begin` makes a cursor of

    async def begin(self) -> None:
        """Fix where it begins, so that nothing that happens from here on is missed."""
        if self.cursor is None:
            page = await self._link.get("/events", email=NOBODY, limit=1)
            self.cursor = str(page["next_cursor"])

    async def play(self) -> AsyncGenerator[records.Event, None]:
        """Events in the log's order, each once. Raises CursorExpired, ApiError, Unreachable."""
        await self.begin()
        self._tries = self._anew()
        while True:
            request = self._request()
            try:
                async with self._link.line.listen(request) as answered:
                    if isinstance(answered, Answer):
                        await self._refused(request, answered)
                        continue
                    async for event in self._heard(answered):
                        yield event
                self._tries = self._anew()  # it was closed as it should be: the gateway restarts
                await self._tries.after_end()
            except httpx2.TransportError as error:
                await self._tries.after_break(request, error)

    def _request(self) -> Request:
        resume = {"last-event-id": self.cursor or "0"}
        return Request(method="GET", path=self._path, query=self._query, headers=resume)

    async def _heard(self, events: Events) -> AsyncIterator[records.Event]:
        async for told in events:
            self._tries = self._anew()
            if not told.data:
                continue
            event = records.read(records.Event, json.loads(told.data))
            self.cursor = event.cursor
            yield event

    async def _refused(self, request: Request, answer: Answer) -> None:
        await self._tries.after_refusal(request, answer.refusal)

    def _anew(self) -> Tries:
        return Tries(self._link, self._link.line.now() + self._link.patience.stream)


def of_account(link: Link, after: str | None, **query: Any) -> Tape:
    """The account's events; `query` as GET /v1/events takes it."""
    return Tape(link, "/events", after, query_of(query))
