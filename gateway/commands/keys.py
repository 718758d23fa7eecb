"""`postroom keys`: over the API of a running gateway, or, for operators, over its database.

The API is asked where POSTROOM_URL is set, as the account whose key POSTROOM_API_KEY is. The database is asked where
--account names an account, or where only DATABASE_URL is set: that is how a first key comes to be. What is printed is
the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import typer

from gateway.commands import calling, operating, options, output, surroundings
from gateway.errors import PostroomError

if TYPE_CHECKING:
    from gateway.storage import accounts

app = options.commands("API keys of an account.")

FIRST: Final = "default"  # the account that is meant where the database is asked and none is named
SCOPES: Final = ("mailboxes", "send", "read")  # of a key for which none are given
Account = Annotated[
    str | None,
    typer.Option("--account", help="Ask the database of DATABASE_URL about this account  [default, with no gateway]"),
]
COLUMNS: Final = (
    output.Column("id", "id"),
    output.Column("scopes", lambda key: ",".join(key["scopes"])),
    output.Column("domains", lambda key: ",".join(key["domains"]) or "all domains"),
    output.Column("expires", lambda key: key["expires_at"] or "never expires"),
    output.Column("used", lambda key: f"used {key['last_used_at']}" if key["last_used_at"] else "never used"),
    output.Column("name", "name", is_whole=False),
)


@app.command(
    "create",
    epilog=options.examples(
        "postroom keys create ci --scope mailboxes --scope send --expires 90d",
        "postroom keys create shop --account acme --domain shop.example   # over DATABASE_URL",
        "POSTROOM_API_KEY=$(postroom keys create tests --scope mailboxes)",
    ),
)
def create_key(
    name: Annotated[str, typer.Argument(help="What the key is for")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="mailboxes, send, inbound, read or admin; may be repeated  [mailboxes, send, read]"),
    ] = None,
    account: Account = None,
    domain: Annotated[list[str] | None, typer.Option(help="Only for this domain; may be repeated  [all]")] = None,
    expires: Annotated[
        str, typer.Option(help="When it ends: an RFC 3339 time, or from now on, such as 12h or 90d  [never]")
    ] = "",
    *,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a key and print it: it is shown here and never again. An --account that is not there is made."""
    ends = operating.end(expires) if expires else None
    wanted: dict[str, Any] = {"name": name, "scopes": scope or list(SCOPES), "domains": domain or []}
    if _asks_database(account):
        made = _issued(account or FIRST, {**wanted, "expires_at": ends}, whole=as_json)
    else:
        with calling.gateway() as api:
            made = api.create("/api-keys", {**wanted, "expires_at": operating.moment(ends) if ends else None})
    output.Shape(as_json=as_json, quiet=quiet).one(made, made["key"], quietly=made["key"])


@app.command("list", epilog=options.examples("postroom keys list", "postroom keys list --account acme --json"))
def list_keys(
    account: Account = None,
    *,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List an account's keys: id, scopes, domains, expiry, last use, name."""
    shape = output.Shape(as_json=as_json, quiet=quiet)
    if _asks_database(account):
        from gateway import keys  # noqa: PLC0415 - see gateway.commands

        found = operating.run(keys.listing(operating.database_url(), account=account or FIRST))
        shape.many(map(_described, found), COLUMNS)
        return
    with calling.gateway() as api:
        shape.many(api.items("/api-keys"), COLUMNS)


@app.command("revoke", epilog=options.examples("postroom keys revoke 0193b6c6-0000-7000-8000-000000000000"))
def revoke_key(
    key_id: Annotated[UUID, typer.Argument(help="Its id, as `keys list` shows it")],
    account: Account = None,
    *,
    quiet: options.Quiet = False,
) -> None:
    """Make a key invalid, at once and for good."""
    if _asks_database(account):
        from gateway import keys  # noqa: PLC0415 - see gateway.commands

        name = account or FIRST
        if not operating.run(keys.revoke(operating.database_url(), key_id, account=name)):
            raise PostroomError(f"account {name!r} has no key {key_id} in use")
    else:
        with calling.gateway() as api:
            api.delete(calling.path("api-keys", str(key_id)))
    output.Shape(quiet=quiet).said("revoked")


@app.command("reseal", epilog=options.examples("SECRET_KEY=new SECRET_KEY_PREVIOUS=old postroom keys reseal"))
def reseal_keys(*, as_json: options.Json = False) -> None:
    """Encrypt under SECRET_KEY what SECRET_KEY_PREVIOUS can still read, in the database of DATABASE_URL.

    Exit code 1 where something cannot be read."""
    from gateway import keys, settings, tokens  # noqa: PLC0415 - see gateway.commands

    done = operating.run(keys.reseal(operating.database_url(), tokens.keyring(settings.load())))
    names = [f"{selector}._domainkey.{domain}" for domain, selector in done.unreadable]
    if as_json:
        output.document({"resealed": done.resealed, "current": done.current, "unreadable": names})
        raise typer.Exit(1 if names else 0)
    for name in names:
        typer.echo(f"unreadable  {name}")
    typer.echo(f"{done.resealed} encrypted anew, {done.current} were already, {len(names)} unreadable")
    raise typer.Exit(1 if names else 0)


def _asks_database(account: str | None, variable: Callable[[str], str] = surroundings.variable) -> bool:
    """Whether the operator's way is meant."""
    if account is not None:
        return True
    return bool(variable("DATABASE_URL")) and not variable("POSTROOM_URL")


def _issued(account: str, wanted: Mapping[str, Any], *, whole: bool) -> Mapping[str, Any]:
    """A new key made in the database; `whole`: with all that is known of it."""
    from gateway import keys, settings, tokens  # noqa: PLC0415 - see gateway.commands

    keyring = tokens.keyring(settings.load())
    dsn = operating.database_url()
    token = operating.run(keys.issue(dsn, keyring, account=account, **wanted))
    if not whole:
        return {"key": token}
    listed = operating.run(keys.listing(dsn, account=account))
    key = next(key for key in listed if keyring.api_key(key.id) == token)
    return {**_described(key), "key": token}


def _described(key: accounts.Key) -> dict[str, Any]:
    """As GET /v1/api-keys has it."""
    return {
        "id": str(key.id),
        "name": key.name,
        "scopes": list(key.scopes),
        "domains": list(key.domains),
        "expires_at": operating.moment(key.expires_at) if key.expires_at else None,
        "created_at": operating.moment(key.created_at),
        "last_used_at": operating.moment(key.last_used_at) if key.last_used_at else None,
    }
