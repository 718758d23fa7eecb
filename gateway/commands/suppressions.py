"""`postroom suppressions`: addresses that are not written to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from gateway.commands import calling, looks, operating, options, output
from gateway.commands.output import Column
from gateway.errors import ConfigurationError

app = options.commands("Addresses that are not written to.")

Scope = Annotated[str | None, typer.Option(help="Only of this topic or sender domain, as the list has it  [all mail]")]
COLUMNS: Final = (
    Column("address", "address"),
    Column("reason", "reason"),
    Column("scope", "scope", rank=1),
    Column("since", lambda one: looks.moment(one["created_at"])),
    Column("expires", lambda one: looks.moment(one["expires_at"]) if one["expires_at"] else "never", rank=2),
)


@app.command("list", epilog=options.examples("postroom suppressions list --reason bounce --json"))
def list_(
    *,
    reason: Annotated[str | None, typer.Option(help="bounce, complaint, unsubscribe or manual")] = None,
    address: Annotated[str | None, typer.Option(help="Only this address, or with @ in front this domain")] = None,
    scope: Scope = None,
    limit: options.Limit = 50,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List suppressed addresses, newest first."""
    with calling.gateway() as api:
        found = api.items("/suppressions", limit, reason=reason, address=address, scope=scope)
        output.Shape(as_json=as_json, quiet=quiet).many(found, COLUMNS, name="address")


@app.command("add", epilog=options.examples("postroom suppressions add jo@example.com --reason complaint"))
def add(
    addresses: Annotated[list[str], typer.Argument(help="Addresses", metavar="ADDRESS")],
    *,
    reason: Annotated[str, typer.Option(help="bounce, complaint, unsubscribe or manual")] = "manual",
    expires: Annotated[
        str, typer.Option(help="Until when: an RFC 3339 time, or from now on, such as 30d  [for ever]")
    ] = "",
    scope: Scope = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write to these addresses no more."""
    body = {"reason": reason, **({"scope": scope} if scope else {})}
    if expires:
        body["expires_at"] = operating.moment(operating.end(expires))
    shape = output.Shape(as_json=as_json, quiet=quiet)
    with calling.gateway() as api:
        for address in addresses:
            made = api.create("/suppressions", {**body, "address": address})
            output.line(made) if as_json else shape.said(f"suppressed  {made['address']}")


@app.command("remove", epilog=options.examples("postroom suppressions remove jo@example.com"))
def remove(
    addresses: Annotated[list[str], typer.Argument(help="Addresses", metavar="ADDRESS")],
    *,
    scope: Scope = None,
    quiet: options.Quiet = False,
) -> None:
    """Write to these addresses again."""
    with calling.gateway() as api:
        for address in addresses:
            api.delete("/suppressions", address=address, scope=scope)
            output.Shape(quiet=quiet).said(f"removed  {address}")


@app.command(
    "import",
    epilog=options.examples(
        "postroom suppressions import bounced.csv        # a column `address`, or addresses alone",
        "postroom suppressions export | POSTROOM_URL=https://other.example postroom suppressions import -",
    ),
)
def import_(
    file: Annotated[Path, typer.Argument(help="CSV, or NDJSON as an export has it; -: standard input")],
    *,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Put a list of addresses on it. Exit code 4 where some lines are no good; they are listed."""
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror or error}") from None
    kind = "application/x-ndjson" if content.lstrip()[:1] == b"{" else "text/csv"
    with calling.gateway() as api:
        done = api.post("/suppressions/import", content, kind)
    for problem in done["errors"]:
        output.said(f"line {problem['line']}: {problem['message']}")
    output.Shape(as_json=as_json, quiet=quiet).one(done, f"{done['imported']} imported, {done['failed']} failed")
    if done["failed"]:
        raise typer.Exit(calling.PARTLY)


@app.command("export", epilog=options.examples("postroom suppressions export > suppressions.ndjson"))
def export() -> None:
    """Print all of it, one JSON object a line, as `import` reads it."""
    with calling.gateway() as api:
        output.raw(api.content("/suppressions/export"))
