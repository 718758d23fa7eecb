"""/keys: what opens the account, and how far."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from starlette.responses import Response

from gateway.web.dashboard import desk, shell

SCOPES: Final = {
    "mailboxes": "make, read and delete mailboxes and their mail",
    "send": "send e-mails, and see what became of them",
    "read": "see everything, change nothing",
    "inbound": "hand mail in by HTTP",
    "admin": "all of it, and keys, domains, webhooks, suppressions",
}
LIVES: Final = {
    "": "never",
    "1": "in a day",
    "7": "in a week",
    "30": "in 30 days",
    "90": "in 90 days",
    "365": "in a year",
}


class Keys:
    """The pages."""

    def routes(self) -> Sequence[shell.Door]:
        return [
            shell.get("/keys", self.list),
            shell.post("/keys", self.create),
            shell.post("/keys/{id}/name", self.rename),
            shell.get("/keys/{id}/revoke", self.ask_to_revoke),
            shell.post("/keys/{id}/revoke", self.revoke),
        ]

    async def list(self, visit: shell.Visit) -> Response:
        """All that are not revoked, newest first."""
        return await self._listed(visit, {"scopes": ["mailboxes", "read"]}, None)

    async def _listed(self, visit: shell.Visit, given: dict[str, Any], refused: desk.Refused | None) -> Response:
        page = await visit.desk.get("/api-keys", cursor=visit.query("cursor")) if visit.may("admin") else None
        status = refused.status if refused else 200
        return visit.show(
            "keys.html",
            status=status,
            page=page,
            given=given,
            refused=refused,
            scopes=SCOPES,
            lives=LIVES,
            own=str(visit.caller.key_id),
        )

    async def create(self, visit: shell.Visit) -> Response:
        """Made: the page shows it, this once."""
        form = visit.form
        days = form["days"] if form["days"] in LIVES else ""
        given = {
            "name": form["name"],
            "scopes": [scope for scope in form.all("scopes") if scope in SCOPES],
            "domains": re.split(r"[\s,]+", form["domains"]) if form["domains"] else [],
        }
        # To the hour, so that the same form sent again asks for the same.
        end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(days=int(days)) if days else None
        expires = {"expires_at": end.isoformat()} if end else {}
        try:
            made = await visit.desk.post("/api-keys", {**given, **expires}, once=visit.form["once"])
        except desk.Refused as refused:
            return await self._listed(visit, {**given, "days": days}, refused)
        return visit.show(
            "secret.html",
            title="The new key",
            said_here=f"{made['name']} may {', '.join(made['scopes'])}.",
            secret=made["key"],
            label="API key",
            help=f"Authorization: Bearer <key>, at {visit.base}/v1; or as POSTROOM_API_KEY.",
            following="/keys",
        )

    async def rename(self, visit: shell.Visit) -> Response:
        """Call it something else."""
        try:
            await visit.desk.patch(f"/api-keys/{visit.word('id')}", {"name": visit.form["name"]})
        except desk.Refused as refused:
            return visit.go("/keys", refused=refused)
        return visit.go("/keys", said="Renamed.")

    async def ask_to_revoke(self, visit: shell.Visit) -> Response:
        """Before it opens nothing any more."""
        key = await visit.desk.get(f"/api-keys/{visit.word('id')}")
        own = key["id"] == str(visit.caller.key_id)
        return shell.confirm(
            visit,
            title="Revoke this key?",
            about=key["name"],
            consequence="Whatever uses it is refused within a second, for good."
            + (" You are signed in with it: you will be signed out." if own else ""),
            action="Revoke the key",
            back="/keys",
        )

    async def revoke(self, visit: shell.Visit) -> Response:
        """It opens nothing any more."""
        await visit.desk.delete(f"/api-keys/{visit.word('id')}")
        return visit.go("/keys", said="The key is revoked.")
