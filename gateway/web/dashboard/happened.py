"""/events: the account's log, newest first, as it grows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from starlette.responses import Response

from gateway.storage import events
from gateway.web.dashboard import desk, shell

PAGE: Final = 100  # events at the most
WINDOWS: Final = (
    200,
    2_000,
    20_000,
    200_000,
)  # numbers looked through for a filter that little fits, further and further back
NARROW: Final = 2_000  # numbers that ten answers hold, whatever the filter
_BEHIND_ALL: Final = "999999999999999999"  # a cursor that no log has reached: the answer says how far it is

# What the filter offers, and the types that it means.
KINDS: Final = {
    "mail": ("message.",),
    "mailboxes": ("mailbox.",),
    "sending": ("email.",),
    "set-up": ("domain.", "webhook.", "api_key.", "account.", "template.", "suppression.", "bounce_rule.", "quota."),
}


class Events:
    """The page."""

    def routes(self) -> Sequence[shell.Door]:
        return [shell.get("/events", self.log)]

    async def log(self, visit: shell.Visit) -> Response:
        """The newest, or those before `before`; narrowed by `kind`, `type` and `mailbox`."""
        oldest, newest = await self._bounds(visit)
        before = visit.query("before") or ""
        until = min(newest, int(before) - 1) if before.isascii() and before.isdigit() and len(before) < 18 else newest
        types = self._types(visit)
        found, reached = await self._before(visit, until, oldest, types)
        return visit.show(
            "events.html",
            found=found,
            older=reached if reached > oldest else None,
            kinds=list(KINDS),
            types=sorted(events.TYPES),
            is_now=not before,
        )

    async def _bounds(self, visit: shell.Visit) -> tuple[int, int]:
        answer = await visit.desk.ask("GET", "/events", query={"after": _BEHIND_ALL, "limit": 1})
        told = answer.json
        if answer.status != 410:
            raise desk.Refused(answer)
        return int(told["oldest"]) + 1, int(told["newest"])  # the cursor before the first event, and the last one's

    def _types(self, visit: shell.Visit) -> str | None:
        wanted, kind = visit.query("type"), KINDS.get(visit.query("kind") or "")
        if wanted in events.TYPES:
            return wanted
        return ",".join(sorted(name for name in events.TYPES if name.startswith(kind))) if kind else None

    async def _before(
        self, visit: shell.Visit, until: int, oldest: int, types: str | None
    ) -> tuple[list[dict[str, Any]], int]:
        """The last events up to number `until`, newest first, and the number that was looked back to."""
        found: list[dict[str, Any]] = []
        start = until + 1
        for window in WINDOWS if types or visit.query("mailbox") else (PAGE,):
            end, start = start - 1, max(oldest, start - window)
            more = await self._between(visit, start, end, types)
            if more is None:
                start = max(oldest, end - NARROW + 1)
                more = await self._between(visit, start, end, types) or []
            found = [*more, *found]
            if len(found) >= PAGE or start <= oldest:
                break
        if len(found) > PAGE:
            found = found[-PAGE:]
            start = int(found[0]["seq"])
        return found[::-1], start

    async def _between(
        self, visit: shell.Visit, start: int, until: int, types: str | None
    ) -> list[dict[str, Any]] | None:
        """The last of those with numbers from `start` to `until`, oldest first; None = they are too many to be read."""
        found: list[dict[str, Any]] = []
        after, pages = start - 1, 0
        while after < until:
            if pages == 10:
                return None
            page = await visit.desk.get(
                "/events", after=str(after), types=types, mailbox=visit.query("mailbox"), limit=200
            )
            found = [*found, *(event for event in page["data"] if event["seq"] <= until)][-2 * PAGE :]
            after, pages = int(page["next_cursor"]), pages + 1
            if not page["has_more"]:
                break
        return found
