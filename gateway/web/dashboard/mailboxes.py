"""/mailboxes: those that there are, made, given more time, deleted; and the mail of each."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Sequence
from typing import Any, Final

from starlette.responses import Response

from gateway.web.dashboard import desk, mail, shell

PAGE: Final = 50
LIVES: Final = (
    ("600", "10 minutes"),
    ("3600", "1 hour"),
    ("86400", "1 day"),
    ("604800", "7 days"),
    ("2592000", "30 days"),
)
FOR_EVER: Final = ("never", "for ever")
STATES: Final = ("active", "expired")


class Mailboxes:
    """The pages."""

    def routes(self) -> Sequence[shell.Door]:
        return [
            shell.get("/mailboxes", self.list),
            shell.post("/mailboxes", self.create),
            shell.get("/mailboxes/{mailbox}", self.mailbox),
            shell.post("/mailboxes/{mailbox}/extend", self.extend),
            shell.post("/mailboxes/{mailbox}/empty", self.empty),
            shell.post("/mailboxes/{mailbox}/delete", self.delete),
        ]

    async def list(self, visit: shell.Visit) -> Response:
        """Newest first, those that have the words of `q`, in the state `status`; an address in `find` leads to its
        mailbox."""
        wanted = visit.query("find")
        if wanted:
            answer = await visit.desk.ask("GET", f"/mailboxes/{wanted}" if "/" not in wanted else "/mailboxes/-")
            if answer.is_good:
                return mail.elsewhere(f"/mailboxes/{answer.json['id']}")
        problem = f"There is no mailbox {wanted}." if wanted else ""
        return await self._listed(visit, problem=problem)

    async def _listed(self, visit: shell.Visit, *, status: int = 200, **told: Any) -> Response:
        state = visit.query("status") if visit.query("status") in STATES else None
        page = await visit.desk.get(
            "/mailboxes", q=visit.query("q"), status=state, cursor=visit.query("cursor"), limit=PAGE
        )
        shown = {"made": None, "problem": "", "given": {}, "fields": {}, **told}
        return visit.show("mailboxes.html", status=status, page=page, lives=self._lives(visit), **shown)

    async def create(self, visit: shell.Visit) -> Response:
        """The answer shows the token, this once; sent twice, the form makes one mailbox."""
        form = visit.form
        body: dict[str, Any] = {}
        if "@" in form["address"]:
            body["address"] = form["address"]
        elif form["address"]:
            body["local_part"] = form["address"]
        if form["ttl"]:
            body["ttl_seconds"] = _life(form["ttl"])
        try:
            if form["metadata"]:
                body["metadata"] = json.loads(form["metadata"])
            made = await visit.desk.post("/mailboxes", body, once=form["once"])
        except desk.Refused as refused:
            given = {name: form[name] for name in ("address", "ttl", "metadata")}
            told = {"problem": shell.explained(refused), "given": given, "fields": refused.fields}
            return await self._listed(visit, status=refused.status, **told)
        except (ValueError, RecursionError):
            given = {name: form[name] for name in ("address", "ttl", "metadata")}
            return await self._listed(visit, status=422, problem="metadata: that is no JSON", given=given)
        return await self._listed(visit, made=made)

    async def mailbox(self, visit: shell.Visit) -> Response:
        """One mailbox and its mail."""
        name = visit.word("mailbox")
        box = await visit.desk.get(f"/mailboxes/{name}")
        if name != box["id"]:
            return mail.elsewhere(f"/mailboxes/{box['id']}?{urllib.parse.urlencode(dict(visit.request.query_params))}")
        found = await mail.listed(visit, f"/mailboxes/{name}/messages")
        return visit.show("mailbox.html", box=box, lives=self._lives(visit), **found)

    def _lives(self, visit: shell.Visit) -> Sequence[tuple[str, str]]:
        longest = visit.settings.max_ttl_seconds
        fitting = [life for life in LIVES if int(life[0]) <= longest]
        return [*fitting, FOR_EVER] if visit.settings.allow_permanent_mailboxes else fitting

    async def extend(self, visit: shell.Visit) -> Response:
        here = f"/mailboxes/{visit.word('mailbox')}"
        try:
            await visit.desk.patch(here, {"ttl_seconds": _life(visit.form["ttl"])})
        except desk.Refused as refused:
            return visit.go(here, refused=refused)
        return visit.go(here, said="Its time counts anew from now.")

    async def empty(self, visit: shell.Visit) -> Response:
        here = f"/mailboxes/{visit.word('mailbox')}"
        try:
            await visit.desk.delete(f"{here}/messages")
        except desk.Refused as refused:
            return visit.go(here, refused=refused)
        return visit.go(here, said="All its mail is deleted.")

    async def delete(self, visit: shell.Visit) -> Response:
        try:
            await visit.desk.delete(f"/mailboxes/{visit.word('mailbox')}")
        except desk.Refused as refused:
            return visit.go("/mailboxes", refused=refused)
        return visit.go("/mailboxes", said="The mailbox is deleted, with all its mail.")


def _life(text: str) -> int | None:
    """Seconds; None = for ever; what is no number is 0, which the API refuses."""
    if text == FOR_EVER[0]:
        return None
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0
