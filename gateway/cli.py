"""The command `postroom`: reads arguments, calls what they name, prints.

Here are the commands that run it and look after it; those for people who use it are in gateway.commands. Each imports
what it needs when it runs, so that none waits for the others' modules. What cannot start as it is configured says so in
one line on standard error and exits with 2; what fails otherwise, with 1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
import typer.completion

import gateway
from gateway.commands import lazily, operating, options, output, surroundings
from gateway.commands.operating import AccountName
from gateway.errors import ConfigurationError, PostroomError

if TYPE_CHECKING:
    from gateway.settings import Settings
    from gateway.storage import events
    from gateway.storage import migrate as migrate_

ELSEWHERE: Final = {
    "inbox": ("gateway.commands.inbox", "Mailboxes and the mail in them"),
    "send": ("gateway.commands.send", "Send an e-mail"),
    "emails": ("gateway.commands.emails", "What was sent, and what became of it"),
    "events": ("gateway.commands.events", "What happens, as it happens"),
    "import": ("gateway.commands.importing", "Bring mail in from mbox, maildir or .eml files"),
    "export": ("gateway.commands.exporting", "Take mail out as mbox, maildir, .eml files or JSON"),
    "demo": ("gateway.commands.demo", "See it work: a sign-up, a code, a reply, a webhook"),
    "keys": ("gateway.commands.keys", "API keys of an account"),
    "domains": ("gateway.commands.domains", "Own domains and their DNS"),
    "webhooks": ("gateway.commands.webhooks", "Who is told of events by HTTP, and how that went"),
    "suppressions": ("gateway.commands.suppressions", "Addresses that are not written to"),
    "templates": ("gateway.commands.templates", "Mail that is written once"),
    "accounts": ("gateway.commands.accounts", "Accounts (tenants)"),
    "reclaim": ("gateway.commands.reclaim", "Remove what deleted and expired mailboxes leave behind, now"),
    "completion": ("gateway.commands.completion", "Print what makes a shell complete these commands"),
}
CHAPTERS: Final = {
    "Mail": ("inbox", "send", "emails", "events", "import", "export", "demo"),
    "An account": ("keys", "domains", "webhooks", "suppressions", "templates"),
    "A gateway": (
        *("dev", "serve", "worker", "migrate", "settings", "doctor", "accounts", "audit"),
        *("reclaim", "restored", "alerts", "completion", "version"),
    ),
}

app = typer.Typer(
    name="postroom",
    cls=lazily.group(ELSEWHERE, CHAPTERS),
    help="A mail gateway for programs.",
    epilog="`postroom COMMAND --help` tells of a command, with examples.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command(
    epilog=options.examples(
        "postroom dev",
        "postroom dev --http-port 0 --smtp-port 0 --data-dir /tmp/mail",
        "postroom dev --outbound smtp://user:pass@smtp.example.com:587",
    )
)
def dev(
    http_port: Annotated[
        int | None, typer.Option(help="Port of HTTP; 0: any free one  [8025]", min=0, max=65535)
    ] = None,
    smtp_port: Annotated[int | None, typer.Option(help="Port of SMTP  [1025]", min=0, max=65535)] = None,
    submission_port: Annotated[int | None, typer.Option(help="Port of submission  [1587]", min=0, max=65535)] = None,
    data_dir: Annotated[Path, typer.Option(help="Where everything is kept")] = Path(".postroom"),
    outbound: Annotated[list[str] | None, typer.Option(help="Provider URL; may be repeated  [capture://]")] = None,
) -> None:
    """Run a whole gateway here, with servers of its own. Ctrl-C stops it, data stay."""
    from gateway import dev as everything  # noqa: PLC0415 - see the module's docstring
    from gateway import settings  # noqa: PLC0415 - likewise

    wanted = everything.Options(
        data_dir=data_dir,
        http_port=http_port,
        smtp_port=smtp_port,
        submission_port=submission_port,
        outbound=tuple(outbound or ()),
    )
    raise typer.Exit(everything.main(wanted, settings.process_environment()))


@app.command(
    epilog=options.examples("DATABASE_URL=postgresql://… REDIS_URL=redis://… SECRET_KEY=… PORT=8000 postroom serve")
)
def serve() -> None:
    """Run the HTTP and SMTP listeners. `postroom settings` lists what the environment may say."""
    from gateway import lifeline, settings  # noqa: PLC0415 - see the module's docstring

    to_use = settings.load()
    lifeline.die_with(to_use.postroom_parent)
    from gateway import app as web  # noqa: PLC0415 - the parent may die while this is imported

    web.serve(to_use)


@app.command(epilog=options.examples("DATABASE_URL=postgresql://… REDIS_URL=redis://… SECRET_KEY=… postroom worker"))
def worker() -> None:
    """Run the worker: deliveries, webhooks, expiry."""
    from gateway import lifeline, settings  # noqa: PLC0415 - see the module's docstring

    to_use = settings.load()
    lifeline.die_with(to_use.postroom_parent)
    import workers.main as work  # noqa: PLC0415 - the parent may die while this is imported

    work.run(to_use)


@app.command(
    epilog=options.examples("postroom migrate", "postroom migrate --check   # exit code 1 where migrations are missing")
)
def migrate(
    check: Annotated[bool, typer.Option("--check", help="Only tell; exit 1 if any are missing")] = False,
    patience: Annotated[float, typer.Option(help="Seconds to try for the locks of one migration", min=0)] = 120,
    *,
    as_json: options.Json = False,
) -> None:
    """Bring the database of DATABASE_URL up to date. It may be done while mail flows, and again if it gives up."""
    from gateway.storage import migrate as migrations  # noqa: PLC0415 - see the module's docstring

    dsn = operating.database_url()
    if check:
        _tell(operating.run(migrations.state(dsn)), as_json=as_json)
        return
    names = operating.run(migrations.run(dsn, patience=patience))
    if as_json:
        output.document({"applied": list(names)})
        return
    for name in names:
        typer.echo(f"applied  {name}")
    if not names:
        typer.echo("up to date")


def _tell(state: migrate_.State, *, as_json: bool) -> None:
    """What a database lacks, and what it has from a newer version; exits with 1 where it lacks something."""
    if as_json:
        output.document({"missing": list(state.missing), "newer": list(state.unknown)})
        raise typer.Exit(1 if state.missing else 0)
    for name in state.missing:
        typer.echo(f"missing  {name}")
    for name in state.unknown:
        typer.echo(f"newer    {name}")
    if not state.missing:
        typer.echo("up to date")
    raise typer.Exit(1 if state.missing else 0)


@app.command(epilog=options.examples("postroom restored", "postroom restored --hold"))
def restored(
    *,
    hold: Annotated[bool, typer.Option("--hold", help="Send nothing again, whatever its sender asked for")] = False,
) -> None:
    """Tell a database that it comes from a backup. Nothing else may run over that of DATABASE_URL meanwhile.

    Between the backup and today mail came, was sent and was told of, and the database knows nothing of it. Each
    account's log goes on at a number that no reader of it has ever seen, with an event `log.restored`; recipients that
    were due are held as `unknown` where their sender asked for that, or all of them with --hold."""
    from gateway.storage import restoring  # noqa: PLC0415 - see the module's docstring

    done = operating.run(restoring.run(operating.database_url(), hold_all=hold))
    typer.echo(f"{done.accounts} logs go on, {done.held} recipients held, {done.due} will be tried")


@app.command("settings", epilog=options.examples("postroom settings", "postroom settings --json | jq -r .name"))
def show_settings(*, as_json: options.Json = False) -> None:
    """List every setting, its default and its meaning."""
    from gateway import settings  # noqa: PLC0415 - see the module's docstring

    fields = settings.Settings.model_fields
    rows = [(name.upper(), _shown(field.default), field.description or "") for name, field in fields.items()]
    if as_json:
        for name, default, meaning in rows:
            output.line({"name": name, "default": default, "description": meaning})
        return
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, default, meaning in rows:
        typer.echo(f"{name:<{widths[0]}}  {default:<{widths[1]}}  {meaning}")


@app.command(
    epilog=options.examples(
        "postroom doctor", "postroom doctor --dev .postroom --loop", "postroom doctor --json | jq .state"
    )
)
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

    wanted = examining.Options(
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
        found = operating.run(examining.examine(to_use, wanted))
    typer.echo(json.dumps(found.as_dict(), indent=2) if as_json else report.text(found, style=_coloured))
    raise typer.Exit(1 if found.state == "problem" else 0)


@app.command("mcp", epilog=options.examples("postroom mcp   # as an agent is told to start it"))
def serve_agents() -> None:
    """Serve tools for agents (MCP) on standard input and output. They are those of the gateway of POSTROOM_URL, with
    the key of POSTROOM_API_KEY; a running gateway serves the same at /mcp."""
    try:
        from gateway.client import mcp  # noqa: PLC0415 - see the module's docstring
    except ImportError as missing:
        raise ConfigurationError("the extra `mcp` is not installed: pip install 'postroom[mcp]'") from missing
    mcp.main()


@app.command(epilog=options.examples("postroom version"))
def version(*, as_json: options.Json = False) -> None:
    """Tell the version."""
    if as_json:
        output.document({"name": "postroom", "version": gateway.__version__})
    else:
        typer.echo(f"postroom {gateway.__version__}")


@app.command(
    add_help_option=False,
    epilog=options.examples("postroom sendmail -t -i < mail.eml"),
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def sendmail() -> None:
    """Hand in a mail as sendmail(8) does, from standard input. `postroom sendmail --help` lists the options."""
    from gateway.client import sendmail as program  # noqa: PLC0415 - see the module's docstring

    sys.exit(program.main(sys.argv[sys.argv.index("sendmail") + 1 :]))


@app.command(epilog=options.examples("postroom audit --account acme --limit 20", "postroom audit --json"))
def audit(
    account: AccountName = "default",
    limit: Annotated[int, typer.Option(help="The newest so many", min=1, max=100_000)] = 100,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs")] = False,
) -> None:
    """List who changed what of an account's set-up. Newest first, as far back as its event log goes."""
    from gateway import keys  # noqa: PLC0415 - see the module's docstring

    found = operating.run(keys.trail(operating.database_url(), account=account, limit=limit))
    if found is None:
        raise PostroomError(f"there is no account {account!r}")
    for event in found:
        typer.echo(event.json().decode() if as_json else _changed(event))


@app.command(epilog=options.examples("postroom alerts > /etc/prometheus/postroom.yml"))
def alerts() -> None:
    """Print the alert rules, for Prometheus (rule_files)."""
    from importlib import resources  # noqa: PLC0415 - see the module's docstring

    typer.echo(resources.files("gateway").joinpath("alerts.yml").read_text("utf-8"), nl=False)


def main() -> None:
    """The entry point."""
    if surroundings.variable("_POSTROOM_COMPLETE"):
        # typer does this by itself only where it installs scripts of its own, and has no public name for it
        typer.completion.completion_init()  # type: ignore[attr-defined]
    try:
        app(prog_name="postroom")
    except ConfigurationError as error:
        typer.echo(f"postroom: {error}", err=True)
        sys.exit(2)
    except PostroomError as error:
        typer.echo(f"postroom: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


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


def _coloured(word: str, state: str) -> str:
    """For terminals; anything else gets the word alone."""
    return typer.style(word, fg={"ok": "green", "warning": "yellow", "problem": "red"}[state], bold=state == "problem")


def _shown(default: object) -> str:
    """A default as it would be written in the environment; secrets have none."""
    if default is None or "Secret" in type(default).__name__:
        return "-"
    if isinstance(default, bool):
        return "true" if default else "false"
    return (",".join(default) if isinstance(default, tuple) else str(default)) or "-"


if __name__ == "__main__":
    main()
