"""The command `postroom`: reads arguments, calls what they name, prints.

Each command imports what it needs when it runs, so that none waits for the others' modules. What cannot start as it is
configured says so in one line on standard error and exits with 2; what fails otherwise, with 1.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

import gateway
from gateway.errors import ConfigurationError, PostroomError

if TYPE_CHECKING:
    from gateway.settings import Settings
    from gateway.storage import events
    from gateway.storage import migrate as migrate_

app = typer.Typer(
    name="postroom",
    help="A mail gateway for programs.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
keys_app = typer.Typer(help="API keys of an account.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(keys_app, name="keys")
accounts_app = typer.Typer(help="Accounts (tenants).", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(accounts_app, name="accounts")

NameOrId = Annotated[str, typer.Argument(help="The account's name or id, as `accounts list` shows them")]
AccountName = Annotated[str, typer.Option("--account", help="The account's name")]


@app.command()
def dev(
    http_port: Annotated[
        int | None, typer.Option(help="Port of HTTP; 0: any free one  [8025]", min=0, max=65535)
    ] = None,
    smtp_port: Annotated[int | None, typer.Option(help="Port of SMTP  [1025]", min=0, max=65535)] = None,
    submission_port: Annotated[int | None, typer.Option(help="Port of submission  [1587]", min=0, max=65535)] = None,
    data_dir: Annotated[Path, typer.Option(help="Where everything is kept")] = Path(".postroom"),
    outbound: Annotated[list[str] | None, typer.Option(help="Provider URL; may be repeated  [capture://]")] = None,
) -> None:
    """Run everything: embedded Postgres and Valkey, web, SMTP, worker. Ctrl-C stops it, data stay."""
    from gateway import dev as everything  # noqa: PLC0415 - see the module's docstring
    from gateway import settings  # noqa: PLC0415 - likewise

    options = everything.Options(
        data_dir=data_dir,
        http_port=http_port,
        smtp_port=smtp_port,
        submission_port=submission_port,
        outbound=tuple(outbound or ()),
    )
    raise typer.Exit(everything.main(options, settings.process_environment()))


@app.command()
def serve() -> None:
    """Run the HTTP and SMTP listeners, as the environment's settings say."""
    from gateway import lifeline, settings  # noqa: PLC0415 - see the module's docstring

    to_use = settings.load()
    lifeline.die_with(to_use.postroom_parent)
    from gateway import app as web  # noqa: PLC0415 - the parent may die while this is imported

    web.serve(to_use)


@app.command()
def worker() -> None:
    """Run the worker: deliveries, webhooks, expiry."""
    from gateway import lifeline, settings  # noqa: PLC0415 - see the module's docstring

    to_use = settings.load()
    lifeline.die_with(to_use.postroom_parent)
    import workers.main as work  # noqa: PLC0415 - the parent may die while this is imported

    work.run(to_use)


@app.command()
def migrate(
    check: Annotated[bool, typer.Option("--check", help="Only tell; exit 1 if any are missing")] = False,
    patience: Annotated[float, typer.Option(help="Seconds to try for the locks of one migration", min=0)] = 120,
) -> None:
    """Bring the database of DATABASE_URL up to date. It may be done while mail flows, and again if it gives up."""
    from gateway.storage import migrate as migrations  # noqa: PLC0415 - see the module's docstring

    dsn = _database_url()
    if check:
        _tell(asyncio.run(migrations.state(dsn)))
        return
    names = asyncio.run(migrations.run(dsn, patience=patience))
    for name in names:
        typer.echo(f"applied  {name}")
    if not names:
        typer.echo("up to date")


def _tell(state: migrate_.State) -> None:
    """What a database lacks, and what it has from a newer version; exits with 1 where it lacks something."""
    for name in state.missing:
        typer.echo(f"missing  {name}")
    for name in state.unknown:
        typer.echo(f"newer    {name}")
    if not state.missing:
        typer.echo("up to date")
    raise typer.Exit(1 if state.missing else 0)


@app.command()
def restored(
    *,
    hold: Annotated[bool, typer.Option("--hold", help="Send nothing again, whatever its sender asked for")] = False,
) -> None:
    """Tell the database of DATABASE_URL that it comes from a backup. Nothing else may run over it meanwhile.

    Between the backup and today mail came, was sent and was told of, and the database knows nothing of it. Each
    account's log goes on at a number that no reader of it has ever seen, with an event `log.restored`; recipients that
    were due are held as `unknown` where their sender asked for that, or all of them with --hold."""
    from gateway.storage import restoring  # noqa: PLC0415 - see the module's docstring

    done = asyncio.run(restoring.run(_database_url(), hold_all=hold))
    typer.echo(f"{done.accounts} logs go on, {done.held} recipients held, {done.due} will be tried")


@app.command("settings")
def show_settings() -> None:
    """List every setting: its environment variable, default and meaning."""
    from gateway import settings  # noqa: PLC0415 - see the module's docstring

    fields = settings.Settings.model_fields
    rows = [(name.upper(), _shown(field.default), field.description or "") for name, field in fields.items()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, default, meaning in rows:
        typer.echo(f"{name:<{widths[0]}}  {default:<{widths[1]}}  {meaning}")


@app.command()
def doctor(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs")] = False,
    dev_data: Annotated[
        Path | None, typer.Option("--dev", help="Examine the `postroom dev` that runs over this data folder")
    ] = None,
    domain: Annotated[list[str] | None, typer.Option(help="Only this domain; may be repeated  [all]")] = None,
    address: Annotated[
        list[str] | None, typer.Option(help="Address mail leaves from; may be repeated  [those of SMTP_HOSTNAME]")
    ] = None,
    reach: Annotated[str, typer.Option(help="Domain whose mail hosts are greeted, to see if port 25 is open")] = "",
    send_test: Annotated[str, typer.Option(help="Send a test mail to this address through each provider")] = "",
    loop: Annotated[
        bool, typer.Option("--loop", help="Hand a mail in through the own SMTP port, and see its event")
    ] = False,
    sender: Annotated[str, typer.Option("--from", help="Who it is from  [postmaster@ the first domain]")] = "",
) -> None:
    """Check a deployment from end to end and say what to do. Exit code 1 where there is a problem."""
    from gateway.doctor import examining, report  # noqa: PLC0415 - see the module's docstring

    options = examining.Options(
        domains=tuple(domain or ()),
        addresses=tuple(address or ()),
        reach=reach,
        send_test=send_test,
        loop=loop,
        sender=sender,
    )
    try:
        to_use = _settings(dev_data)
    except ConfigurationError as error:
        found = examining.refused(error)
    else:
        found = asyncio.run(examining.examine(to_use, options))
    typer.echo(json.dumps(found.as_dict(), indent=2) if as_json else report.text(found, style=_coloured))
    raise typer.Exit(1 if found.state == "problem" else 0)


@app.command("mcp")
def serve_agents() -> None:
    """Serve tools for agents (Model Context Protocol) on standard input and output, to the gateway of POSTROOM_URL
    with the key of POSTROOM_API_KEY. A running gateway serves the same at /mcp."""
    from gateway.client import errors  # noqa: PLC0415 - see the module's docstring

    try:
        from gateway.client import mcp  # noqa: PLC0415 - likewise
    except ImportError as missing:
        raise ConfigurationError("the extra `mcp` is not installed: pip install 'postroom[mcp]'") from missing
    try:
        mcp.main()
    except errors.ConfigurationError as unset:
        raise ConfigurationError(str(unset)) from unset


@app.command()
def version() -> None:
    """Tell the version."""
    typer.echo(f"postroom {gateway.__version__}")


@app.command()
def audit(
    account: AccountName = "default",
    limit: Annotated[int, typer.Option(help="The newest so many", min=1, max=100_000)] = 100,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs")] = False,
) -> None:
    """List who changed what of an account's set-up, newest first, as far back as its event log goes."""
    from gateway import keys  # noqa: PLC0415 - see the module's docstring

    found = asyncio.run(keys.trail(_database_url(), account=account, limit=limit))
    if found is None:
        raise PostroomError(f"there is no account {account!r}")
    for event in found:
        typer.echo(event.json().decode() if as_json else _changed(event))


@app.command()
def alerts() -> None:
    """Print the alert rules, for Prometheus (rule_files)."""
    typer.echo(resources.files("gateway").joinpath("alerts.yml").read_text("utf-8"), nl=False)


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What the key is for")],
    scope: Annotated[
        list[str] | None, typer.Option(help="mailboxes, send, inbound, read or admin; may be repeated")
    ] = None,
    account: AccountName = "default",
    domain: Annotated[list[str] | None, typer.Option(help="Only for this domain; may be repeated  [all]")] = None,
    expires: Annotated[
        str, typer.Option(help="When it ends: an RFC 3339 time, or from now on, such as 12h or 90d  [never]")
    ] = "",
) -> None:
    """Make a key and print it: it is shown here and never again. An account that is not there is made."""
    from gateway import keys, settings, tokens  # noqa: PLC0415 - see the module's docstring

    keyring = tokens.keyring(settings.load())
    scopes = scope or ["mailboxes", "send", "read"]
    issuing = keys.issue(
        _database_url(),
        keyring,
        account=account,
        name=name,
        scopes=scopes,
        domains=domain or (),
        expires_at=_end(expires) if expires else None,
    )
    typer.echo(asyncio.run(issuing))


@keys_app.command("list")
def list_keys(account: AccountName = "default") -> None:
    """List an account's keys: id, scopes, domains, expiry, last use, name."""
    from gateway import keys  # noqa: PLC0415 - see the module's docstring

    for key in asyncio.run(keys.listing(_database_url(), account=account)):
        expires = f"{key.expires_at:%Y-%m-%dT%H:%M:%SZ}" if key.expires_at else "never expires"
        used = f"used {key.last_used_at:%Y-%m-%dT%H:%MZ}" if key.last_used_at else "never used"
        domains = ",".join(key.domains) or "all domains"
        typer.echo(f"{key.id}  {','.join(key.scopes)}  {domains}  {expires}  {used}  {key.name}")


@keys_app.command("revoke")
def revoke_key(
    key_id: Annotated[UUID, typer.Argument(help="Its id, as `keys list` shows it")], account: AccountName = "default"
) -> None:
    """Make a key invalid, at once and for good."""
    from gateway import keys  # noqa: PLC0415 - see the module's docstring

    if not asyncio.run(keys.revoke(_database_url(), key_id, account=account)):
        raise PostroomError(f"account {account!r} has no key {key_id} in use")
    typer.echo("revoked")


@keys_app.command("reseal")
def reseal_keys() -> None:
    """Encrypt under SECRET_KEY what SECRET_KEY_PREVIOUS can still read. Exit code 1 where something cannot be read."""
    from gateway import keys, settings, tokens  # noqa: PLC0415 - see the module's docstring

    done = asyncio.run(keys.reseal(_database_url(), tokens.keyring(settings.load())))
    for domain, selector in done.unreadable:
        typer.echo(f"unreadable  {selector}._domainkey.{domain}")
    typer.echo(f"{done.resealed} encrypted anew, {done.current} were already, {len(done.unreadable)} unreadable")
    raise typer.Exit(1 if done.unreadable else 0)


@accounts_app.command("create")
def create_account(name: Annotated[str, typer.Argument(help="What it is called")]) -> None:
    """Make an account and print its id. Its first key: postroom keys create NAME --account …"""
    from gateway import keys  # noqa: PLC0415 - see the module's docstring

    typer.echo(asyncio.run(keys.open_account(_database_url(), name=name)))


@accounts_app.command("list")
def list_accounts() -> None:
    """List all accounts, oldest first: id, state, since when, name."""
    from gateway import keys  # noqa: PLC0415 - see the module's docstring

    for account in asyncio.run(keys.all_accounts(_database_url())):
        since = account.deleted_at or account.suspended_at or account.created_at
        typer.echo(f"{account.id}  {account.state:<9}  {since:%Y-%m-%dT%H:%M:%SZ}  {account.name}")


@accounts_app.command("suspend")
def suspend_account(account: NameOrId) -> None:
    """Stop an account: its keys open nothing, what it has to send waits, mail for its domains is put off."""
    from gateway import keys  # noqa: PLC0415 - see the module's docstring

    done = asyncio.run(keys.suspend(_database_url(), account=account))
    typer.echo("suspended" if done else "was suspended already")


@accounts_app.command("resume")
def resume_account(account: NameOrId) -> None:
    """Let a suspended account go on."""
    from gateway import keys  # noqa: PLC0415 - see the module's docstring

    typer.echo("resumed" if asyncio.run(keys.resume(_database_url(), account=account)) else "was not suspended")


@accounts_app.command("delete")
def delete_account(
    account: NameOrId, *, yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether it is meant")] = False
) -> None:
    """Delete an account with all that it has, for good. The worker removes its rows within minutes."""
    from gateway import keys  # noqa: PLC0415 - see the module's docstring

    if not yes:
        typer.confirm(f"Delete {account!r} with all of its mail?", abort=True)
    asyncio.run(keys.delete(_database_url(), account=account))
    typer.echo("deleted")


def main() -> None:
    """The entry point."""
    try:
        app(prog_name="postroom")
    except ConfigurationError as error:
        typer.echo(f"postroom: {error}", err=True)
        sys.exit(2)
    except PostroomError as error:
        typer.echo(f"postroom: {error}", err=True)
        sys.exit(1)


def _settings(dev_data: Path | None) -> Settings:
    """Those of the environment, or of the `postroom dev` that runs over a data folder."""
    from gateway import dev as everything  # noqa: PLC0415 - see the module's docstring
    from gateway import settings  # noqa: PLC0415 - likewise

    return everything.running(dev_data, settings.process_environment()) if dev_data else settings.load()


def _changed(event: events.Event) -> str:
    """One line of the audit trail: when, what, who, from where, about what."""
    about = json.loads(event.data)
    actor, address = about.pop("actor", {}), about.pop("remote_ip", None)
    who = actor.get("id") or actor.get("type") or "postroom"
    said = json.dumps(about, separators=(",", ":"))
    return f"{event.created_at:%Y-%m-%dT%H:%M:%SZ}  {event.type:<20}  {who:<36}  {address or '-':<15}  {said}"


def _end(text: str) -> datetime:
    """An RFC 3339 time, or so many minutes, hours or days from now."""
    from gateway import models  # noqa: PLC0415 - see the module's docstring

    unit = {"m": "minutes", "h": "hours", "d": "days"}.get(text[-1])
    try:
        return datetime.now(UTC) + timedelta(**{unit: int(text[:-1])}) if unit else models.time_of(text)
    except (ValueError, OverflowError):
        raise ConfigurationError(f"--expires {text}: not an RFC 3339 time, nor one from now on such as 90d") from None


def _coloured(word: str, state: str) -> str:
    """For terminals; anything else gets the word alone."""
    return typer.style(word, fg={"ok": "green", "warning": "yellow", "problem": "red"}[state], bold=state == "problem")


def _database_url() -> str:
    from gateway import settings  # noqa: PLC0415 - see the module's docstring

    if not (url := settings.load().database_url):
        raise ConfigurationError("DATABASE_URL must be set, such as postgresql://user:pass@host:5432/postroom")
    return url


def _shown(default: object) -> str:
    """A default as it would be written in the environment; secrets have none."""
    if default is None or "Secret" in type(default).__name__:
        return "-"
    if isinstance(default, bool):
        return "true" if default else "false"
    return (",".join(default) if isinstance(default, tuple) else str(default)) or "-"


if __name__ == "__main__":
    main()
