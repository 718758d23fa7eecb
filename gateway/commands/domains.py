"""`postroom domains`: own domains, and the DNS records that they need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer

from gateway.commands import calling, options, output
from gateway.commands.output import Column

app = options.commands("Own domains and their DNS.")

Name = Annotated[str, typer.Argument(help="The domain", metavar="DOMAIN")]
COLUMNS: Final = (
    Column("name", "name"),
    Column("status", "status"),
    Column("unknown recipients", "unknown_recipients", rank=2),
    Column("wrong", lambda one: sum(record["state"] != "ok" for record in one["records"] if record["required"])),
    Column("checked", lambda one: one["checked_at"] or "never", rank=1),
)
RECORDS: Final = (
    Column("state", "state"),
    Column("type", "type"),
    Column("name", "name"),
    Column("priority", "priority", rank=1),
    Column("value", "value", is_whole=False),
)


@app.command("list", epilog=options.examples("postroom domains list", "postroom domains list --json | jq -r .status"))
def list_(*, limit: options.Limit = 50, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """List domains, newest first."""
    with calling.gateway() as api:
        output.Shape(as_json=as_json, quiet=quiet).many(api.items("/domains", limit), COLUMNS, name="name")


@app.command("add", epilog=options.examples("postroom domains add mail.example.com --unknown-recipients reject"))
def add(
    name: Name,
    *,
    wildcard: Annotated[bool, typer.Option("--wildcard", help="Mail for all its subdomains, too")] = False,
    unknown_recipients: Annotated[
        str | None, typer.Option(help="Mail for unknown addresses: drop, reject or create  [the gateway's]")
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Claim a domain, and print the DNS records to set."""
    body: dict[str, Any] = {"name": name, "wildcard": wildcard}
    if unknown_recipients:
        body["unknown_recipients"] = unknown_recipients
    with calling.gateway() as api:
        _show(api.create("/domains", body), as_json=as_json, quiet=quiet)


@app.command("verify", epilog=options.examples("postroom domains verify mail.example.com && echo ready"))
def verify(name: Name, *, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Look at the domain's DNS now. Exit code 1 where it is not verified."""
    with calling.gateway() as api:
        found = api.call(calling.path("domains", name, "verify"))
    _show(found, as_json=as_json, quiet=quiet)
    if found["status"] != "verified":
        raise typer.Exit(calling.FAILED)


@app.command("show", epilog=options.examples("postroom domains show mail.example.com"))
def show(name: Name, *, as_json: options.Json = False) -> None:
    """Show a domain and the state of its DNS records."""
    with calling.gateway() as api:
        _show(api.get(calling.path("domains", name)), as_json=as_json)


@app.command("records", epilog=options.examples("postroom domains records mail.example.com > records.zone"))
def records(name: Name, *, as_json: options.Json = False) -> None:
    """Print the DNS records to set, as a zone file has them."""
    with calling.gateway() as api:
        found = api.get(calling.path("domains", name))
    for record in found["records"]:
        output.line(record) if as_json else typer.echo(_zone_line(record))


@app.command("delete", epilog=options.examples("postroom domains delete mail.example.com"))
def delete(name: Name, *, quiet: options.Quiet = False) -> None:
    """Give a domain up."""
    with calling.gateway() as api:
        api.delete(calling.path("domains", name))
    output.Shape(quiet=quiet).said(f"deleted  {name}")


def _show(found: Any, *, as_json: bool, quiet: bool = False) -> None:
    if as_json:
        output.document(found)
    elif not quiet:
        typer.echo(f"{output.cell(found['name'])}  {output.state(found['status'])}\n")
        output.Shape().many(found["records"], RECORDS)


def _zone_line(record: Any) -> str:
    """RFC 1035 section 5.1."""
    value = record["value"]
    if record["type"] == "TXT":
        value = " ".join(_strings(value))
    elif record["type"] in {"MX", "CNAME"}:
        value = f"{value.rstrip('.')}."
    priority = f"{record['priority']} " if record["priority"] is not None else ""
    return output.clean(f"{record['name'].rstrip('.')}. IN {record['type']} {priority}{value}")


def _strings(text: str) -> Iterator[str]:
    """Character strings of at most 255 octets (RFC 1035 section 3.3)."""
    escaped = [character if character not in '"\\' else f"\\{character}" for character in text]
    for begin in range(0, len(escaped), 255):
        yield f'"{"".join(escaped[begin : begin + 255])}"'
