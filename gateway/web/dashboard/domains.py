"""/domains: domains of one's own, what must stand in their DNS, and whether it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from starlette.responses import Response

from gateway.web.dashboard import desk, shell

UNKNOWN: Final = {
    "drop": "taken and dropped, so that nobody learns who lives there",
    "reject": "refused",
    "create": "given a mailbox of its own",
}
PURPOSES: Final = {
    "ownership": "That the domain is yours",
    "mx": "Mail comes in here",
    "spf": "Mail may leave from here",
    "dkim": "Mail is signed",
    "dmarc": "What others do with mail that is not signed",
    "return_path": "Bounces come back",
}


class Domains:
    """The pages."""

    def routes(self) -> Sequence[shell.Door]:
        one = "/domains/{name}"
        return [
            shell.get("/domains", self.list),
            shell.post("/domains", self.create),
            shell.get(one, self.get),
            shell.post(one, self.change),
            shell.post(f"{one}/verify", self.verify),
            shell.get(f"{one}/rotate", self.ask_to_rotate),
            shell.post(f"{one}/rotate", self.rotate),
            shell.get(f"{one}/delete", self.ask_to_delete),
            shell.post(f"{one}/delete", self.delete),
        ]

    async def list(self, visit: shell.Visit) -> Response:
        """All of them, newest first."""
        return await self._listed(visit, {}, None)

    async def _listed(self, visit: shell.Visit, given: dict[str, Any], refused: desk.Refused | None) -> Response:
        page = await visit.desk.get("/domains", cursor=visit.query("cursor"))
        status = refused.status if refused else 200
        return visit.show("domains.html", status=status, page=page, given=given, refused=refused)

    async def create(self, visit: shell.Visit) -> Response:
        """Claim one."""
        given = {"name": visit.form["name"], "wildcard": bool(visit.form["wildcard"])}
        try:
            made = await visit.desk.post("/domains", given, once=visit.form["once"])
        except desk.Refused as refused:
            return await self._listed(visit, given, refused)
        return visit.go(_path(made["name"]), said="Set these records, then have them looked at.")

    async def get(self, visit: shell.Visit) -> Response:
        """One domain, with its records."""
        return await self._shown(visit, None)

    async def _shown(self, visit: shell.Visit, refused: desk.Refused | None) -> Response:
        domain = await visit.desk.get(_path(visit.word("name")))
        caught = await self._catch_all(visit, domain)
        status = refused.status if refused else 200
        return visit.show(
            "domain.html",
            status=status,
            domain=domain,
            catch_all=caught,
            refused=refused,
            given=visit.form,
            unknown=UNKNOWN,
            purposes=PURPOSES,
            path=_path(domain["name"]),
        )

    async def _catch_all(self, visit: shell.Visit, domain: dict[str, Any]) -> str:
        """Its address; its id where it is gone, or may not be looked at."""
        id = domain["catch_all"]
        if not id or not visit.may("mailboxes", "read"):
            return id or ""
        answer = await visit.desk.ask("GET", f"/mailboxes/{id}")
        return str(answer.json["address"]) if answer.is_good else str(id)

    async def change(self, visit: shell.Visit) -> Response:
        """Mail for nobody, names below."""
        here, form = _path(visit.word("name")), visit.form
        changes = {
            "unknown_recipients": form["unknown_recipients"],
            "catch_all": form["catch_all"] or None,
            "wildcard": bool(form["wildcard"]),
        }
        try:
            await visit.desk.patch(here, changes)
        except desk.Refused as refused:
            if visit.is_quiet or refused.status == 404:
                raise
            return await self._shown(visit, refused)
        return visit.go(here, said="Changed.")

    async def verify(self, visit: shell.Visit) -> Response:
        """Look at the DNS now."""
        here = _path(visit.word("name"))
        try:
            domain = await visit.desk.post(f"{here}/verify")
        except desk.Refused as refused:
            return visit.go(here, refused=refused)
        return visit.go(here, said=_found(domain))

    async def ask_to_rotate(self, visit: shell.Visit) -> Response:
        """Before new DKIM keys are made."""
        domain = await visit.desk.get(_path(visit.word("name")))
        return shell.confirm(
            visit,
            title="New DKIM keys?",
            about=domain["name"],
            consequence="New records will be to set. The keys of now sign until those have been seen in the DNS.",
            action="Make new keys",
            is_danger=False,
            back=_path(domain["name"]),
        )

    async def rotate(self, visit: shell.Visit) -> Response:
        """Made: their records are among the others."""
        here = _path(visit.word("name"))
        try:
            await visit.desk.post(f"{here}/dkim/rotate")
        except desk.Refused as refused:
            return visit.go(here, refused=refused)
        return visit.go(here, said="Set the new DKIM records, then have them looked at.")

    async def ask_to_delete(self, visit: shell.Visit) -> Response:
        """Before it is given up."""
        domain = await visit.desk.get(_path(visit.word("name")))
        return shell.confirm(
            visit,
            title="Give this domain up?",
            about=domain["name"],
            consequence="Mail for it is refused from then on. Its mailboxes keep what they have.",
            action="Give the domain up",
            back=_path(domain["name"]),
        )

    async def delete(self, visit: shell.Visit) -> Response:
        """Given up."""
        await visit.desk.delete(_path(visit.word("name")))
        return visit.go("/domains", said="The domain is given up.")


def _path(name: str) -> str:
    return f"/domains/{name}"


def _found(domain: dict[str, Any]) -> str:
    """What a look at the DNS came to, in a sentence."""
    records = domain["records"]
    right = sum(record["state"] == "ok" for record in records)
    if any(record["state"] == "unknown" for record in records):
        return "The DNS did not answer for all of them: look again in a moment."
    if right == len(records):
        return "All records are there."
    said = f"{right} of {len(records)} records are there."
    return f"{said} The domain is verified." if domain["status"] == "verified" else said
