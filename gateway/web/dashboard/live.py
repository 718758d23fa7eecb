"""/live: the API's event stream under the session, so that a page changes as things happen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway import errors
from gateway.web.dashboard import shell

MOST: Final = 8  # streams of one session in one process; a browser's tabs share one, where it lets them
_TOO_MANY: Final = f"{MOST} pages of this session are live already: close some."
_RETRY_AFTER: Final = 10  # seconds
_HEADERS = {"referrer-policy": "no-referrer", "cross-origin-resource-policy": "same-origin"}


class Live:
    """The stream."""

    def __init__(self) -> None:
        self._open: Counter[bytes] = Counter()  # streams by their session's nonce; those of none are not there

    def routes(self) -> Sequence[shell.Door]:
        return [shell.get("/live", self.stream)]

    async def stream(self, visit: shell.Visit) -> Response:
        """Server-sent events, from now on or from `Last-Event-ID`; it ends when the key does."""
        headers = [(b"accept", b"text/event-stream")]
        if last := visit.request.headers.get("last-event-id"):
            headers.append((b"last-event-id", last.encode("latin-1", "replace")))
        passed = visit.desk.passed_on("/events", {"after": visit.query("after")}, headers=headers, instead=_HEADERS)
        return _Counted(self._open, visit.session.nonce, passed)


class _Counted(Response):
    """A stream that counts for as long as it goes on."""

    def __init__(self, counts: Counter[bytes], session: bytes, stream: Response) -> None:
        super().__init__()
        self._counts = counts
        self._session = session
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises RateLimitExceeded; else what the stream raises."""
        if self._counts.get(self._session, 0) >= MOST:
            raise errors.RateLimitExceeded(_TOO_MANY, retry_after=_RETRY_AFTER)
        self._counts[self._session] += 1
        try:
            await self._stream(scope, receive, send)
        finally:
            self._counts[self._session] -= 1
            if not self._counts[self._session]:
                del self._counts[self._session]
