"""/templates: mail that is written once, looked at with values in it before anybody gets it."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.responses import Response

from gateway.web import parts
from gateway.web.dashboard import desk, shell

SAMPLES: Final[Mapping[str, Any]] = {"string": "…", "number": 1, "boolean": True, "list": [], "object": {}}
_FRAME: Final = {
    "content-security-policy": parts.NO_LOADING,
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "x-robots-tag": "noindex",
}


class Templates:
    """The pages."""

    def routes(self) -> Sequence[shell.Door]:
        one = "/templates/{id}"
        return [
            shell.get("/templates", self.list),
            shell.post("/templates", self.create),
            shell.get("/templates/new", self.new),
            shell.get(one, self.get),
            shell.get(f"{one}/edit", self.edit),
            shell.post(f"{one}/edit", self.change),
            shell.get(f"{one}/frame", self.frame),
            shell.get(f"{one}/delete", self.ask_to_delete),
            shell.post(f"{one}/delete", self.delete),
        ]

    async def list(self, visit: shell.Visit) -> Response:
        """All of them, newest first."""
        page = await visit.desk.get("/templates", cursor=visit.query("cursor"))
        return visit.show("templates.html", page=page)

    async def new(self, visit: shell.Visit) -> Response:
        """The form for another one."""
        return self._form(visit, {})

    def _form(
        self,
        visit: shell.Visit,
        given: Mapping[str, Any],
        *,
        id: str = "",
        refused: desk.Refused | None = None,
        problem: str = "",
    ) -> Response:
        status = refused.status if refused else 422 if problem else 200
        return visit.show("template_form.html", status=status, given=given, id=id, refused=refused, problem=problem)

    async def create(self, visit: shell.Visit) -> Response:
        """As the form says."""
        wish, problem = _wish(visit)
        if problem:
            return self._form(visit, _echo(visit), problem=problem)
        try:
            made = await visit.desk.post("/templates", wish, once=visit.form["once"])
        except desk.Refused as refused:
            return self._form(visit, _echo(visit), refused=refused)
        return visit.go(f"/templates/{made['id']}", said="The template is made.")

    async def get(self, visit: shell.Visit) -> Response:
        """One template: what it says with these values, and its source."""
        template = await visit.desk.get(f"/templates/{visit.word('id')}")
        given = visit.query("variables")
        text = given if given is not None else _sample(template["variables"])
        preview, problem = await self._preview(visit, template["id"], text)
        return visit.show(
            "template.html",
            template=template,
            variables=text,
            preview=preview,
            problem=problem,
            frame=f"/templates/{template['id']}/frame?" + urllib.parse.urlencode({"variables": text}),
        )

    async def _preview(self, visit: shell.Visit, id: str, text: str) -> tuple[Any, str]:
        """What it would say, or why that cannot be told."""
        if not visit.may("admin"):
            return None, ""
        values, problem = _object(text)
        if problem:
            return None, problem
        try:
            return await visit.desk.post(f"/templates/{id}/render", {"variables": values}), ""
        except desk.Refused as refused:
            if refused.status != 422:
                raise
            return None, refused.message

    async def frame(self, visit: shell.Visit) -> Response:
        """The HTML alone, where nothing runs and nothing is loaded."""
        preview, problem = await self._preview(visit, visit.word("id"), visit.query("variables") or "{}")
        html = problem if preview is None else preview["html"] or ""
        media_type = "text/html" if preview is not None else "text/plain"
        return Response(html, media_type=media_type, headers=dict(_FRAME))

    async def edit(self, visit: shell.Visit) -> Response:
        """The form for it."""
        template = await visit.desk.get(f"/templates/{visit.word('id')}")
        given = {**template, "variables": json.dumps(template["variables"], indent=2, ensure_ascii=False)}
        return self._form(visit, given, id=template["id"])

    async def change(self, visit: shell.Visit) -> Response:
        """As the form says."""
        id = visit.word("id")
        wish, problem = _wish(visit)
        if problem:
            return self._form(visit, _echo(visit), id=id, problem=problem)
        try:
            await visit.desk.patch(f"/templates/{id}", wish)
        except desk.Refused as refused:
            return self._form(visit, _echo(visit), id=id, refused=refused)
        return visit.go(
            f"/templates/{id}", said="The template is changed; e-mails that were accepted stay as they are."
        )

    async def ask_to_delete(self, visit: shell.Visit) -> Response:
        """Before it is gone."""
        template = await visit.desk.get(f"/templates/{visit.word('id')}")
        return shell.confirm(
            visit,
            title="Delete this template?",
            about=template["name"],
            consequence="No e-mail can be made of it any more. Those that were accepted stay as they are.",
            action="Delete the template",
            back=f"/templates/{template['id']}",
        )

    async def delete(self, visit: shell.Visit) -> Response:
        """Gone."""
        await visit.desk.delete(f"/templates/{visit.word('id')}")
        return visit.go("/templates", said="The template is deleted.")


def _echo(visit: shell.Visit) -> dict[str, str]:
    return {name: visit.form[name] for name in ("name", "subject", "html", "text", "variables")}


def _wish(visit: shell.Visit) -> tuple[dict[str, Any], str]:
    """What the API is asked for, or what is wrong with the form."""
    given = _echo(visit)
    declared, problem = _object(given["variables"] or "{}")
    return {
        "name": given["name"],
        "subject": given["subject"],
        "html": given["html"] or None,
        "text": given["text"] or None,
        "variables": declared,
    }, problem


def _object(text: str) -> tuple[dict[str, Any], str]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return {}, f"variables: not JSON: {error}"
    return (value, "") if isinstance(value, dict) else ({}, "variables: must be a JSON object")


def _sample(declared: Mapping[str, Any]) -> str:
    """A value for each variable, to begin with."""
    values = {
        name: one["default"]
        if one["default"] is not None
        else SAMPLES[one["type"]]
        if one["type"] != "string"
        else name
        for name, one in declared.items()
    }
    return json.dumps(values, indent=2, ensure_ascii=False)
