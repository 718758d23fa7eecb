"""/suppressions: whom the account does not write to."""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from starlette.responses import Response

from gateway.web.dashboard import desk, shell

REASONS: Final = ("bounce", "complaint", "unsubscribe", "manual")
LIVES: Final = {"": "never", "1": "in a day", "7": "in a week", "30": "in 30 days", "365": "in a year"}
MAX_UPLOAD: Final = 33_554_432


class Suppressions:
    """The pages."""

    def routes(self) -> Sequence[shell.Door]:
        return [
            shell.get("/suppressions", self.list),
            shell.post("/suppressions", self.create),
            shell.get("/suppressions/remove", self.ask_to_remove),
            shell.post("/suppressions/remove", self.remove),
            shell.post("/suppressions/import", self.import_, max_body_bytes=MAX_UPLOAD),
            shell.get("/suppressions/export", self.export),
        ]

    async def list(self, visit: shell.Visit) -> Response:
        """Newest first; one address, or one reason."""
        return await self._listed(visit, {}, None)

    async def _listed(self, visit: shell.Visit, given: dict[str, Any], refused: desk.Refused | None) -> Response:
        reason = visit.query("reason")
        page: Any = {"data": [], "has_more": False}
        problem = ""
        try:
            page = await visit.desk.get(
                "/suppressions",
                address=visit.query("address"),
                reason=reason if reason in REASONS else None,
                cursor=visit.query("cursor"),
            )
        except desk.Refused as wrong:
            if wrong.status != 422:
                raise
            problem = wrong.message
        return visit.show(
            "suppressions.html",
            status=refused.status if refused else 200,
            page=page,
            problem=problem,
            given=given,
            refused=refused,
            reasons=REASONS,
            lives=LIVES,
            reason=reason,
        )

    async def create(self, visit: shell.Visit) -> Response:
        """One address more."""
        form = visit.form
        given = {"address": form["address"], "scope": form["scope"], "days": form["days"]}
        days = form["days"] if form["days"] in LIVES else ""
        end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(days=int(days)) if days else None
        wish = {"address": form["address"], "scope": form["scope"]} | ({"expires_at": end.isoformat()} if end else {})
        try:
            made = await visit.desk.post("/suppressions", wish, once=form["once"])
        except desk.Refused as refused:
            return await self._listed(visit, given, refused)
        return visit.go("/suppressions", said=f"Nothing is sent to {made['address']} any more.")

    async def ask_to_remove(self, visit: shell.Visit) -> Response:
        """Before it is written to again."""
        about = {"address": visit.query("address") or "", "scope": visit.query("scope") or ""}
        found = await visit.desk.get("/suppressions", address=about["address"], scope=about["scope"])
        listed = next((one for one in found["data"] if one["scope"] == about["scope"]), None)
        why = f" It stands there for this reason: {listed['reason']}." if listed else " It is not on the list now."
        return shell.confirm(
            visit,
            title="Write to this address again?",
            about=about["address"],
            consequence=f"E-mails to it are sent from then on.{why} Writing to people who complained, or to addresses "
            "that bounce, spoils your reputation.",
            action="Take it off the list",
            back="/suppressions",
            target="/suppressions/remove?" + urllib.parse.urlencode(about),
        )

    async def remove(self, visit: shell.Visit) -> Response:
        """It is written to again."""
        address = visit.query("address") or ""
        await visit.desk.delete("/suppressions", address=address, scope=visit.query("scope"))
        return visit.go("/suppressions", said=f"{address} is written to again.")

    async def import_(self, visit: shell.Visit) -> Response:
        """A file of them: CSV, or a JSON object a line."""
        [file, *_] = [*visit.form.files("file"), None]
        if file is None:
            return visit.go("/suppressions", said="Choose a file first.", status=422)
        is_csv = (file.filename or "").lower().endswith(".csv")
        content_type = "text/csv" if is_csv else "application/x-ndjson"
        answer = await visit.desk.ask("POST", "/suppressions/import", raw=(content_type, file.content))
        if not answer.is_good:
            return visit.go("/suppressions", refused=desk.Refused(answer))
        return visit.show("imported.html", done=answer.json)

    async def export(self, visit: shell.Visit) -> Response:
        """All of them, a JSON object a line."""
        name = 'attachment; filename="suppressions.ndjson"'
        return visit.desk.passed_on("/suppressions/export", instead={"content-disposition": name})
