"""/live: the API's event stream under the session, so that a page changes as things happen."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response

from gateway.web.dashboard import shell

_HEADERS = {"referrer-policy": "no-referrer", "cross-origin-resource-policy": "same-origin"}


class Live:
    """The stream."""

    def routes(self) -> Sequence[shell.Door]:
        return [shell.get("/live", self.stream)]

    async def stream(self, visit: shell.Visit) -> Response:
        """Server-sent events, from now on or from `Last-Event-ID`; it ends when the key does."""
        headers = [(b"accept", b"text/event-stream")]
        if last := visit.request.headers.get("last-event-id"):
            headers.append((b"last-event-id", last.encode("latin-1", "replace")))
        return visit.desk.passed_on("/events", {"after": visit.query("after")}, headers=headers, instead=_HEADERS)
