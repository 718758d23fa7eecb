"""`postroom templates`: mail that is written once and filled in for each e-mail."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from gateway.commands import calling, looks, options, output
from gateway.commands.output import Column
from gateway.commands.send import content_of, variables_of

app = options.commands("Mail that is written once.")

Id = Annotated[str, typer.Argument(help="The template's id, as `templates list` shows it", metavar="ID")]
Subject = Annotated[str | None, typer.Option("--subject", "-s", help="What it is about; {{ name }} is filled in")]
Text = Annotated[str | None, typer.Option(help="What it says; @FILE reads a file, - standard input")]
Html = Annotated[str | None, typer.Option(help="The same as HTML; @FILE reads a file, - standard input")]
COLUMNS: Final = (
    Column("id", "id"),
    Column("name", "name"),
    Column("subject", "subject", is_whole=False),
    Column("updated", lambda one: looks.moment(one["updated_at"]), rank=1),
)


@app.command("list", epilog=options.examples("postroom templates list --json | jq -r .name"))
def list_(*, limit: options.Limit = 50, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """List templates, newest first."""
    with calling.gateway() as api:
        output.Shape(as_json=as_json, quiet=quiet).many(api.items("/templates", limit), COLUMNS)


@app.command("show", epilog=options.examples("postroom templates show 0193b6c6-0000-7000-8000-000000000000"))
def show(id: Id, *, as_json: options.Json = False) -> None:
    """Show a template."""
    with calling.gateway() as api:
        found = api.get(calling.path("templates", id))
    output.Shape(as_json=as_json).one(found, _shown(found))


@app.command(
    "create",
    epilog=options.examples(
        "postroom templates create welcome --subject 'Welcome, {{ name }}' --html @welcome.html --text @welcome.txt"
    ),
)
def create(
    name: Annotated[str, typer.Argument(help="What it is called")],
    *,
    subject: Annotated[str, typer.Option("--subject", "-s", help="What it is about; {{ name }} is filled in")],
    text: Text = None,
    html: Html = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a template and print its id."""
    body = _given({"name": name, "subject": subject, "text": content_of(text), "html": content_of(html)})
    with calling.gateway() as api:
        made = api.create("/templates", body)
    output.Shape(as_json=as_json, quiet=quiet).one(made, made["id"], quietly=made["id"])


@app.command("update", epilog=options.examples("postroom templates update 0193b6c6-… --html @welcome.html"))
def update(
    id: Id,
    *,
    name: Annotated[str | None, typer.Option(help="What it is called")] = None,
    subject: Subject = None,
    text: Text = None,
    html: Html = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Change what is given of a template."""
    body = _given({"name": name, "subject": subject, "text": content_of(text), "html": content_of(html)})
    with calling.gateway() as api:
        found = api.change(calling.path("templates", id), body)
    output.Shape(as_json=as_json, quiet=quiet).one(found, _shown(found))


@app.command(
    "render", epilog=options.examples("postroom templates render 0193b6c6-… --var name=Jo --var items='[1, 2]'")
)
def render(
    id: Id,
    *,
    var: Annotated[list[str] | None, typer.Option(help="name=value; JSON or words; may be repeated")] = None,
    html: Annotated[bool, typer.Option("--html", help="Print its HTML alone")] = False,
    as_json: options.Json = False,
) -> None:
    """Show what an e-mail made of it would say."""
    with calling.gateway() as api:
        found = api.call(calling.path("templates", id, "render"), {"variables": variables_of(var or [])})
    if html:
        output.raw((found["html"] or "").encode())
    else:
        said = output.clean(found["text"] or found["html"] or "")
        output.Shape(as_json=as_json).one(found, f"{output.details([('Subject', found['subject'])])}\n\n{said}")


@app.command("delete", epilog=options.examples("postroom templates delete 0193b6c6-0000-7000-8000-000000000000"))
def delete(id: Id, *, quiet: options.Quiet = False) -> None:
    """Delete a template; e-mails that were made of it stay as they are."""
    with calling.gateway() as api:
        api.delete(calling.path("templates", id))
    output.Shape(quiet=quiet).said(f"deleted  {id}")


def _given(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


def _shown(found: Any) -> str:
    head = output.details((name, found[name]) for name in ("id", "name", "subject", "variables", "updated_at"))
    bodies = [output.clean(found[name]) for name in ("text", "html") if found[name]]
    return "\n\n".join([head, *bodies])
