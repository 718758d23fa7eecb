"""`postroom emails`: what was sent, and what became of it."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.commands import calling, looks, options, output

app = options.commands("What was sent, and what became of it.")

Id = Annotated[str, typer.Argument(help="The e-mail's id, as `emails list` shows it", metavar="ID")]
Recipients = Annotated[list[str] | None, typer.Option("--to", help="Only for this recipient; may be repeated  [all]")]


@app.command(
    "list",
    epilog=options.examples(
        "postroom emails list --status bounced --since 2026-01-01T00:00:00Z",
        "postroom emails list --to jo@example.com --json | jq -r .last_event",
    ),
)
def list_(
    *,
    status: Annotated[str | None, typer.Option(help="queued, scheduled, deferred, sent, delivered, bounced, …")] = None,
    to: Annotated[str | None, typer.Option(help="Sent to this address")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="Sent from this address")] = None,
    subject: Annotated[str | None, typer.Option(help="With this in its subject")] = None,
    tag: Annotated[str | None, typer.Option(help="With this tag: name or name:value")] = None,
    since: Annotated[str | None, typer.Option(help="Made at this time or later (RFC 3339)")] = None,
    until: Annotated[str | None, typer.Option(help="Made before this time")] = None,
    limit: options.Limit = 50,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List e-mails, newest first."""
    query = {"status": status, "to": to, "from": from_, "subject": subject, "tag": tag, "since": since, "until": until}
    with calling.gateway() as api:
        output.Shape(as_json=as_json, quiet=quiet).many(api.items("/emails", limit, **query), looks.EMAILS)


@app.command(
    "show",
    epilog=options.examples(
        "postroom emails show 0193b6c6-0000-7000-8000-000000000000",
        "postroom emails show 0193b6c6-0000-7000-8000-000000000000 --raw > sent.eml",
    ),
)
def show(
    id: Id,
    *,
    raw: Annotated[bool, typer.Option("--raw", help="The composed mail, byte for byte")] = False,
    as_json: options.Json = False,
) -> None:
    """Show an e-mail and what became of each recipient."""
    with calling.gateway() as api:
        if raw:
            output.raw(api.content(calling.path("emails", id, "raw")))
            return
        found = api.get(calling.path("emails", id))
    output.Shape(as_json=as_json).one(found, looks.email(found))


@app.command("attempts", epilog=options.examples("postroom emails attempts 0193b6c6-0000-7000-8000-000000000000"))
def attempts(id: Id, *, as_json: options.Json = False) -> None:
    """Show every attempt to hand it over, with its dialogue."""
    with calling.gateway() as api:
        for one in api.get(calling.path("emails", id, "attempts"))["data"]:
            output.line(one) if as_json else typer.echo(looks.attempt(one))


@app.command(
    "cancel",
    epilog=options.examples("postroom emails cancel 0193b6c6-0000-7000-8000-000000000000 --to jo@example.com"),
)
def cancel(id: Id, *, to: Recipients = None, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Do not send it to those it was not sent to yet."""
    with calling.gateway() as api:
        done = api.call(calling.path("emails", id, "cancel"), {"recipients": to} if to else None)
    output.Shape(as_json=as_json, quiet=quiet).one(done, "canceled")


@app.command("retry", epilog=options.examples("postroom emails retry 0193b6c6-0000-7000-8000-000000000000"))
def retry(id: Id, *, to: Recipients = None, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Try again now: what is deferred, failed, bounced or of unknown fate."""
    with calling.gateway() as api:
        done = api.call(calling.path("emails", id, "retry"), {"recipients": to} if to else None)
    output.Shape(as_json=as_json, quiet=quiet).one(done, "will be tried again")
