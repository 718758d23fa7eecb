"""`postroom accounts`: the tenants, from the operator's side, in the database of DATABASE_URL."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from gateway.commands import operating, options, output

app = options.commands("Accounts (tenants), in the database of DATABASE_URL.")

NameOrId = Annotated[str, typer.Argument(help="The account's name or id, as `accounts list` shows them")]
COLUMNS: Final = (
    output.Column("id", "id"),
    output.Column("status", "status"),
    output.Column("since", lambda one: one["deleted_at"] or one["suspended_at"] or one["created_at"]),
    output.Column("name", "name", is_whole=False),
)


@app.command(
    "create",
    epilog=options.examples("postroom accounts create acme", "postroom keys create first --account acme --scope admin"),
)
def create_account(
    name: Annotated[str, typer.Argument(help="What it is called")], *, as_json: options.Json = False
) -> None:
    """Make an account and print its id. Its first key: postroom keys create NAME --account …"""
    from gateway import keys  # noqa: PLC0415 - see gateway.commands

    made = str(operating.run(keys.open_account(operating.database_url(), name=name)))
    output.Shape(as_json=as_json).one({"id": made, "name": name}, made)


@app.command("list", epilog=options.examples("postroom accounts list", "postroom accounts list --json | jq -r .name"))
def list_accounts(*, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """List all accounts, oldest first: id, status, since when, name."""
    from gateway import keys  # noqa: PLC0415 - see gateway.commands

    found = operating.run(keys.all_accounts(operating.database_url()))
    described = (
        {
            "id": str(one.id),
            "name": one.name,
            "status": one.state,
            "created_at": operating.moment(one.created_at),
            "suspended_at": operating.moment(one.suspended_at) if one.suspended_at else None,
            "deleted_at": operating.moment(one.deleted_at) if one.deleted_at else None,
        }
        for one in found
    )
    output.Shape(as_json=as_json, quiet=quiet).many(described, COLUMNS)


@app.command("suspend", epilog=options.examples("postroom accounts suspend acme"))
def suspend_account(account: NameOrId, *, quiet: options.Quiet = False) -> None:
    """Stop an account: its keys open nothing, what it has to send waits, mail for its domains is put off."""
    from gateway import keys  # noqa: PLC0415 - see gateway.commands

    done = operating.run(keys.suspend(operating.database_url(), account=account))
    output.Shape(quiet=quiet).said("suspended" if done else "was suspended already")


@app.command("resume", epilog=options.examples("postroom accounts resume acme"))
def resume_account(account: NameOrId, *, quiet: options.Quiet = False) -> None:
    """Let a suspended account go on."""
    from gateway import keys  # noqa: PLC0415 - see gateway.commands

    done = operating.run(keys.resume(operating.database_url(), account=account))
    output.Shape(quiet=quiet).said("resumed" if done else "was not suspended")


@app.command("delete", epilog=options.examples("postroom accounts delete acme", "postroom accounts delete acme --yes"))
def delete_account(account: NameOrId, *, yes: options.Yes = False, quiet: options.Quiet = False) -> None:
    """Delete an account with all that it has, for good. The worker removes its rows within minutes."""
    from gateway import keys  # noqa: PLC0415 - see gateway.commands

    if not yes:
        typer.confirm(f"Delete {account!r} with all of its mail?", abort=True)
    operating.run(keys.delete(operating.database_url(), account=account))
    output.Shape(quiet=quiet).said("deleted")
