"""/: what is happening now, and how to begin."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response

from gateway.web.dashboard import shell


class Overview:
    """The first page."""

    def routes(self) -> Sequence[shell.Door]:
        return [shell.get("/", self.now)]

    async def now(self, visit: shell.Visit) -> Response:
        """The newest mail of each direction."""
        mails = await visit.desk.get("/messages", limit=8) if visit.may("mailboxes", "read") else None
        sent = await visit.desk.get("/emails", limit=8) if visit.may("send", "read") else None
        return visit.show("overview.html", mails=mails, sent=sent)
