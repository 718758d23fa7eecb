"""/: what is happening now, and how to begin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from starlette.responses import Response

from gateway.web.dashboard import desk, shell, statistics

LATEST: Final = 8


class Overview:
    """The first page."""

    def routes(self) -> Sequence[shell.Door]:
        return [shell.get("/", self.now)]

    async def now(self, visit: shell.Visit) -> Response:
        """The newest mail of each direction, what became of a day's sending."""
        receives, sends = visit.may("mailboxes", "read"), visit.may("send", "read")
        mails = await visit.desk.get("/messages", limit=LATEST) if receives else None
        boxes = await visit.desk.get("/mailboxes", limit=200) if receives else None
        unseen = await visit.desk.get("/messages", seen=False, limit=100) if receives else None
        sent = await visit.desk.get("/emails", limit=LATEST) if sends else None
        return visit.show(
            "overview.html",
            mails=mails,
            boxes=boxes,
            unseen=unseen,
            sent=sent,
            day=await self._day(visit) if sends else None,
            sparks=await statistics.sparks(visit),
        )

    async def _day(self, visit: shell.Visit) -> dict[str, Any]:
        """Sums of the last 24 hours; empty where nothing happened."""
        try:
            told = await visit.desk.get("/statistics", interval="total")
        except desk.Refused:
            return {}
        return told["data"][0] if told["data"] else {}
