"""`postroom events`: the account's log, from the beginning or as it grows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from gateway.commands import calling, completion, looks, options, output, streaming

app = options.commands("What happens, as it happens.")

PAGE = 200
Types = Annotated[
    list[str] | None,
    typer.Option("--types", help="Only these, such as message.received,email.bounced; may be repeated  [all]"),
]
Mailbox = Annotated[
    str | None, typer.Option(help="Only of this mailbox: its address or id", autocompletion=completion.addresses)
]
Email = Annotated[str | None, typer.Option(help="Only of this e-mail, by its id")]


@app.command(
    "tail",
    epilog=options.examples(
        "postroom events tail",
        "postroom events tail --types email.bounced,email.complained --json | jq -r .data.recipient",
        "postroom events tail --after 0                  # from the log's beginning on",
    ),
)
def tail(
    *,
    after: Annotated[str | None, typer.Option(help="Begin behind this cursor; 0: the log's beginning  [now]")] = None,
    types: Types = None,
    mailbox: Mailbox = None,
    email: Email = None,
    count: Annotated[int, typer.Option("--count", "-c", help="End after so many; 0: never", min=0)] = 0,
    as_json: options.Json = False,
) -> None:
    """Follow what happens, one line for each event, until Ctrl-C. Connections that break are made anew where they were.

    Columns: cursor, time, type, what about. Exit code 1 where the log does not reach back to the cursor."""
    wanted = {"types": _apart(types), "mailbox": mailbox, "email": email}
    with calling.gateway(attempts=6) as api, contextlib.closing(streaming.events(api, after, wanted)) as told:
        for event in streaming.first(told, count):
            _tell(event, as_json=as_json)


@app.command("list", epilog=options.examples("postroom events list --after 41 --types email.delivered --json"))
def list_(
    *,
    after: Annotated[str | None, typer.Option(help="Begin behind this cursor  [the log's beginning]")] = None,
    types: Types = None,
    mailbox: Mailbox = None,
    email: Email = None,
    limit: options.Limit = 200,
    as_json: options.Json = False,
) -> None:
    """List what happened, oldest first."""
    wanted = {"types": _apart(types), "mailbox": mailbox, "email": email}
    with calling.gateway() as api:
        for event in streaming.first(_past(api, after, wanted), limit):
            _tell(event, as_json=as_json)


def _past(api: calling.Api, after: str | None, wanted: dict[str, Any]) -> Iterator[dict[str, Any]]:
    while True:
        page = api.get("/events", after=after, limit=PAGE, **wanted)
        yield from page["data"]
        after = page["next_cursor"]
        if not page["has_more"]:
            return


def _tell(event: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.line(event)
    else:
        typer.echo(looks.coloured_event(event) if output.is_coloured() else looks.event(event))


def _apart(types: list[str] | None) -> list[str] | None:
    """Each by itself, however they were given."""
    return [one for given in types for one in given.split(",") if one] if types else None
