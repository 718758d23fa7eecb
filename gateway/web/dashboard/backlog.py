"""What waits to go out, how the ways there stand, and what can be done about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from gateway.web.dashboard import desk, layout, outgoing, shell


class Queue:
    """/queue."""

    def routes(self) -> Sequence[shell.Door]:
        return [
            shell.get("/queue", self.look),
            shell.post("/queue/retry", self.retry),
            shell.post("/queue/cancel", self.cancel),
        ]

    async def look(self, visit: shell.Visit) -> Response:
        found = await visit.desk.get("/queue")
        return visit.show("queue.html", queue=found, happens=outgoing.HAPPENS, key=layout.once())

    async def retry(self, visit: shell.Visit) -> Response:
        return await self._move(visit, "retry", "tried again now")

    async def cancel(self, visit: shell.Visit) -> Response:
        return await self._move(visit, "cancel", "not written to any more")

    async def _move(self, visit: shell.Visit, what: str, done: str) -> Response:
        """One call of the API: up to 10,000 recipients; what is left over is said."""
        body: dict[str, Any] = {"limit": 10_000}
        body |= {name: visit.form[name] for name in ("status", "provider", "recipient_domain") if visit.form[name]}
        try:
            moved = await visit.desk.post(f"/emails/{what}", body, once=visit.form["once"])
        except desk.Refused as refused:
            return visit.go("/queue", refused=refused)
        more = " There are more: do it once again." if moved["has_more"] else ""
        verb = "is" if moved["recipients"] == 1 else "are"
        return visit.go("/queue", said=f"{layout.count(moved['recipients'], 'recipient')} {verb} {done}.{more}")
