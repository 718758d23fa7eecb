"""What refusals mean: a dry run, the account's own rules, and the built-in ones to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, get_args

from starlette.responses import Response

from gateway.mail import classify
from gateway.web.dashboard import desk, layout, shell

KINDS: Final = get_args(classify.Kind)
_TEXTS: Final = ("words", "enhanced", "code", "kind", "action", "note")


class Bounces:
    """/bounces."""

    def routes(self) -> Sequence[shell.Door]:
        return [
            shell.get("/bounces", self.list),
            shell.post("/bounces", self.create),
            shell.post("/bounces/classify", self.classify),
            shell.post("/bounces/{id}/delete", self.delete),
        ]

    async def list(self, visit: shell.Visit) -> Response:
        return await self._page(visit)

    async def classify(self, visit: shell.Visit) -> Response:
        """What a reply would mean; nothing is kept."""
        reply = visit.form["reply"]
        try:
            found = await visit.desk.post("/bounces/classify", {"reply": reply})
        except desk.Refused as refused:
            return await self._page(visit, status=refused.status, reply=reply, said=refused)
        return await self._page(visit, reply=reply, verdict=found)

    async def create(self, visit: shell.Visit) -> Response:
        given = {name: visit.form[name] for name in _TEXTS}
        body: dict[str, Any] = {name: text for name, text in given.items() if text}
        body["suppresses"] = "suppresses" in visit.form
        if priority := visit.form["priority"]:
            body["priority"] = int(priority) if priority.isdecimal() and len(priority) < 12 else priority
        try:
            await visit.desk.post("/bounces/rules", body, once=visit.form["once"])
        except desk.Refused as refused:
            if refused.status != 422:
                raise
            return await self._page(visit, status=422, given=given, refused=refused)
        return visit.go("/bounces", said="The rule is there. Workers know it in seconds.")

    async def delete(self, visit: shell.Visit) -> Response:
        try:
            await visit.desk.delete(f"/bounces/rules/{visit.word('id')}")
        except desk.Refused as refused:
            return visit.go("/bounces", refused=refused)
        return visit.go("/bounces", said="The rule decides nothing any more.")

    async def _page(self, visit: shell.Visit, *, status: int = 200, **told: Any) -> Response:
        may_read = visit.may("admin", "read")
        own = (await visit.desk.get("/bounces/rules"))["data"] if may_read else []
        builtin = (await visit.desk.get("/bounces/rules", builtin=True))["data"] if may_read else []
        nothing: dict[str, Any] = {
            "given": dict.fromkeys(_TEXTS, ""),
            "refused": None,
            "verdict": None,
            "reply": "",
            "said": None,
        }
        shown = {**nothing, **told}
        wrong = shown.pop("said")
        return visit.show(
            "bounces.html",
            status=status,
            own=own,
            builtin=builtin,
            kinds=KINDS,
            key=layout.once(),
            wrong=wrong,
            **shown,
        )
