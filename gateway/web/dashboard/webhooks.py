"""/webhooks: who is told of what, how each attempt to tell them went, and telling them again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from starlette.responses import Response

from gateway.storage import events
from gateway.web.dashboard import desk, shell

STATES: Final = ("pending", "delivered", "dead")
_UNTOLD: Final = frozenset(("webhook.test",))  # told to the one that is tested, whatever it hears of


class Webhooks:
    """The pages."""

    def routes(self) -> Sequence[shell.Door]:
        one = "/webhooks/{id}"
        return [
            shell.get("/webhooks", self.list),
            shell.post("/webhooks", self.create),
            shell.get("/webhooks/new", self.new),
            shell.get(one, self.get),
            shell.get(f"{one}/edit", self.edit),
            shell.post(f"{one}/edit", self.change),
            shell.post(f"{one}/test", self.test),
            shell.get(f"{one}/rotate", self.ask_to_rotate),
            shell.post(f"{one}/rotate", self.rotate),
            shell.get(f"{one}/delete", self.ask_to_delete),
            shell.post(f"{one}/delete", self.delete),
            shell.post(f"{one}/status", self.switch),
            shell.post(f"{one}/redeliver", self.redeliver),
        ]

    async def list(self, visit: shell.Visit) -> Response:
        """All of them, newest first."""
        page = await visit.desk.get("/webhooks", cursor=visit.query("cursor"))
        return visit.show("webhooks.html", page=page)

    async def new(self, visit: shell.Visit) -> Response:
        """The form for another one."""
        return self._form(visit, {"types": ["*"]})

    def _form(
        self, visit: shell.Visit, given: dict[str, Any], *, id: str = "", refused: desk.Refused | None = None
    ) -> Response:
        status = refused.status if refused else 200
        return visit.show("webhook_form.html", status=status, given=given, id=id, refused=refused, groups=_groups())

    async def create(self, visit: shell.Visit) -> Response:
        """Made: the page shows its secret, this once."""
        given = _given(visit)
        try:
            made = await visit.desk.post("/webhooks", given, once=visit.form["once"])
        except desk.Refused as refused:
            return self._form(visit, given, refused=refused)
        return self._secret(visit, made, f"{made['url']} is told from now on.")

    def _secret(self, visit: shell.Visit, webhook: dict[str, Any], said: str) -> Response:
        return visit.show(
            "secret.html",
            title="The webhook's secret",
            said_here=said,
            secret=webhook["secret"],
            label="Signing secret",
            help="What arrives is signed with it (Standard Webhooks): check it there before you believe what it says.",
            following=f"/webhooks/{webhook['id']}",
        )

    async def get(self, visit: shell.Visit) -> Response:
        """One webhook, and what it was told."""
        id, asked = visit.word("id"), visit.query("status")
        state = asked if asked in STATES else None
        webhook = await visit.desk.get(f"/webhooks/{id}")
        page = await visit.desk.get(f"/webhooks/{id}/deliveries", status=state, cursor=visit.query("cursor"), limit=25)
        return visit.show("webhook.html", webhook=webhook, page=page, state=state, states=STATES)

    async def edit(self, visit: shell.Visit) -> Response:
        """The form for it."""
        webhook = await visit.desk.get(f"/webhooks/{visit.word('id')}")
        return self._form(visit, {**webhook, "mailbox": webhook["mailbox_id"] or ""}, id=webhook["id"])

    async def change(self, visit: shell.Visit) -> Response:
        """As the form says."""
        id, given = visit.word("id"), _given(visit)
        try:
            await visit.desk.patch(f"/webhooks/{id}", {"mailbox": None, **given})
        except desk.Refused as refused:
            return self._form(visit, given, id=id, refused=refused)
        return visit.go(f"/webhooks/{id}", said="The webhook is changed.")

    async def test(self, visit: shell.Visit) -> Response:
        """Tell it something harmless."""
        return await self._done(visit, "test", "A test event is on its way.", once=visit.form["once"])

    async def _done(self, visit: shell.Visit, what: str, said: str, **more: Any) -> Response:
        here = f"/webhooks/{visit.word('id')}"
        try:
            await visit.desk.post(f"{here}/{what}", **more)
        except desk.Refused as refused:
            return visit.go(here, refused=refused)
        return visit.go(here, said=said)

    async def switch(self, visit: shell.Visit) -> Response:
        """Told nothing until it is enabled, or told again."""
        here, status = f"/webhooks/{visit.word('id')}", "active" if visit.form["status"] == "active" else "disabled"
        try:
            await visit.desk.patch(here, {"status": status})
        except desk.Refused as refused:
            return visit.go(here, refused=refused)
        said = "It is told again what happens from now on." if status == "active" else "It is told nothing any more."
        return visit.go(here, said=said)

    async def redeliver(self, visit: shell.Visit) -> Response:
        """One delivery again, or all that were given up."""
        id, delivery = visit.word("id"), visit.form["delivery"]
        if delivery:
            return await self._done(visit, f"deliveries/{delivery}/redeliver", "It is told again.")
        here = f"/webhooks/{id}"
        try:
            done = await visit.desk.post(f"{here}/redeliver")
        except desk.Refused as refused:
            return visit.go(here, refused=refused)
        more = " More are left: once again, please." if done["has_more"] else ""
        count = done["count"]
        return visit.go(here, said=f"{count} {'is' if count == 1 else 'are'} told again.{more}")

    async def ask_to_rotate(self, visit: shell.Visit) -> Response:
        """Before a new secret is made."""
        webhook = await visit.desk.get(f"/webhooks/{visit.word('id')}")
        return shell.confirm(
            visit,
            title="A new secret?",
            about=webhook["url"],
            consequence="The secret of now signs for 24 hours more, beside the new one. Change the receiver meanwhile.",
            action="Make a new secret",
            is_danger=False,
            with_once=True,
            back=f"/webhooks/{webhook['id']}",
        )

    async def rotate(self, visit: shell.Visit) -> Response:
        """Made: the page shows it, this once."""
        id = visit.word("id")
        try:
            rotated = await visit.desk.post(f"/webhooks/{id}/rotate", once=visit.form["once"])
        except desk.Refused as refused:
            return visit.go(f"/webhooks/{id}", refused=refused)
        return self._secret(visit, rotated, "The secret before signs for 24 hours more.")

    async def ask_to_delete(self, visit: shell.Visit) -> Response:
        """Before it is gone."""
        webhook = await visit.desk.get(f"/webhooks/{visit.word('id')}")
        return shell.confirm(
            visit,
            title="Delete this webhook?",
            about=webhook["url"],
            consequence="It is told nothing more, not even what it waits for, and what it was told is forgotten.",
            action="Delete the webhook",
            back=f"/webhooks/{webhook['id']}",
        )

    async def delete(self, visit: shell.Visit) -> Response:
        """Gone."""
        await visit.desk.delete(f"/webhooks/{visit.word('id')}")
        return visit.go("/webhooks", said="The webhook is deleted.")


def _groups() -> dict[str, list[str]]:
    """Types of events by what they are about."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(events.TYPES - _UNTOLD):
        groups[name.partition(".")[0].replace("_", " ")].append(name)
    return dict(groups)


def _given(visit: shell.Visit) -> dict[str, Any]:
    form = visit.form
    given: dict[str, Any] = {
        "url": form["url"],
        "types": ["*"] if form["all"] else form.all("types"),
        "ordered": bool(form["ordered"]),
    }
    return given | ({"mailbox": form["mailbox"]} if form["mailbox"] else {})
