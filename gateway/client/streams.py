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
        self._connected_at: float | None = None  # by the line's clock; None = there is no connection
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
            request, self._connected_at = self._request(), None
            try:
                async with self._link.line.listen(request) as answered:
                    if isinstance(answered, Answer):
                        await self._refused(request, answered)
                        continue
                    self._connected_at = self._link.line.now()
                    async for event in self._heard(answered):
                        yield event
                self._begin_anew_if_it_stood()
                await self._tries.after_end(request)  # it was closed as it should be: the gateway restarts
            except httpx2.TransportError as error:
                self._begin_anew_if_it_stood()
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

    def _begin_anew_if_it_stood(self) -> None:
        """A connection on which nothing happened for hours was none the less one."""
        if self._connected_at is None:
            return
        if self._link.line.now() - self._connected_at > self._link.patience.longest_pause:
            self._tries = self._anew()

    def _anew(self) -> Tries:
        return Tries(self._link, self._link.line.now() + self._link.patience.stream)


def of_account(link: Link, after: str | None, **query: Any) -> Tape:
    """The account's events; `query` as GET /v1/events takes it."""
    return Tape(link, "/events", after, query_of(query))
