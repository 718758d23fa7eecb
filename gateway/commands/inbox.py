"""`postroom inbox`: mailboxes and the mail in them."""

from __future__ import annotations

import contextlib
import time
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from gateway.commands import calling, completion, looks, options, output, streaming

app = options.commands("Mailboxes and the mail in them.")

POLL_SECONDS: Final = 25.0  # of one request: Heroku's router cuts at 30
Address = Annotated[
    str, typer.Argument(help="The mailbox: its address or id", autocompletion=completion.addresses, metavar="MAILBOX")
]
From = Annotated[str | None, typer.Option("--from", help="From this address, or from @this-domain")]
Subject = Annotated[str | None, typer.Option("--subject", help="With this in its subject, in any case")]


class For(StrEnum):
    """What is waited for."""

    MESSAGE = "message"
    CODE = "code"
    LINK = "link"


@app.command(
    "new",
    epilog=options.examples(
        "postroom inbox new                             # prints its address",
        "postroom inbox new --ttl 10m --json",
        "BOX=$(postroom inbox new --ttl 10m --quiet)",
        "postroom inbox new --address jo@postroom.test --metadata run=17",
    ),
)
def new(
    *,
    ttl: Annotated[
        str | None, typer.Option(help="How long it lives: 90s, 10m, 2h, 7d, or never  [the gateway's default: 1h]")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Its whole address  [a random one]")] = None,
    local_part: Annotated[str | None, typer.Option(help="What stands before the @")] = None,
    domain: Annotated[str | None, typer.Option(help="What stands behind it  [the gateway's first domain]")] = None,
    metadata: Annotated[list[str] | None, typer.Option(help="name=value, kept with it; may be repeated")] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a mailbox. On a terminal it is described; in a pipe, and with --quiet, only its address is printed."""
    wanted: dict[str, Any] = {"address": address, "local_part": local_part, "domain": domain}
    body = {name: value for name, value in wanted.items() if value is not None}
    if ttl is not None:
        body["ttl_seconds"] = None if ttl == "never" else round(options.duration(ttl))
    if metadata:
        body["metadata"] = dict(map(options.pairs("=", "name=value"), metadata))
    with calling.gateway() as api:
        made = api.create("/mailboxes", body)
    shape = output.Shape(as_json=as_json, quiet=quiet or not output.is_seen())
    shape.one(made, looks.mailbox(made), quietly=made["address"])


@app.command(
    "wait",
    epilog=options.examples(
        "CODE=$(postroom inbox wait jo@postroom.test --for code)",
        "LINK=$(postroom inbox wait jo@postroom.test --for link --kind verify --timeout 1m)",
        "postroom inbox wait jo@postroom.test --from @shop.example --json | jq -r .message.subject",
    ),
)
def wait(
    mailbox: Address,
    *,
    wanted: Annotated[
        For, typer.Option("--for", help="A message that carries this; it alone is printed")
    ] = For.MESSAGE,
    kind: Annotated[
        str | None, typer.Option(help="Kind of link: verify, login, reset, invite, unsubscribe or other")
    ] = None,
    from_: From = None,
    subject: Subject = None,
    text: Annotated[str | None, typer.Option(help="With this in its text, in any case")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only what came after this cursor  [all that is there counts]")
    ] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Not this message, by its id; may be repeated")] = None,
    timeout: Annotated[float, options.Duration("--timeout", "-t", help="How long to wait")] = 30.0,
    as_json: options.Json = False,
) -> None:
    """Wait for a message and print the code, the link or the whole of it. Exit code 3 where none comes in time.

    What is there already counts, oldest first. The message on standard error tells what did arrive instead."""
    query = {
        "since": since,
        "skip": skip or None,
        "from": from_,
        "subject": subject,
        "text": text,
        "for": (For.LINK if kind and wanted is For.MESSAGE else wanted).value,
        "kind": kind,
    }
    with calling.gateway(attempts=6) as api:
        found = _waited(api, mailbox, query, timeout)
    carried = found[query["for"]] if query["for"] != For.MESSAGE else None
    if as_json:
        output.document(found)
    else:
        typer.echo(output.clean(carried) if carried else looks.message(found["message"]))


def _waited(api: calling.Api, mailbox: str, query: dict[str, Any], timeout: float) -> Any:
    """The answer of the poll that found something. Ends the command where none does."""
    from gateway.client import errors  # noqa: PLC0415 - see gateway.commands

    until = time.monotonic() + timeout
    while True:
        left = max(0.0, until - time.monotonic())
        seconds = round(min(POLL_SECONDS, left), 3)
        try:
            return api.get(calling.path("mailboxes", mailbox, "wait"), wait=seconds, timeout=seconds, **query)
        except errors.ApiError as error:
            if error.name != "wait_timeout":
                raise
            if left <= POLL_SECONDS:
                calling.fail(f"{error.message.rstrip('.')} (wait_timeout after {timeout:g} s)", code=calling.TIMED_OUT)


@app.command(
    "list",
    epilog=options.examples(
        "postroom inbox list",
        "postroom inbox list jo@postroom.test",
        "postroom inbox list --all 'from:@shop.example has:attachment after:2026-01-01'",
        "postroom inbox list jo@postroom.test --json | jq -r .subject",
    ),
)
def list_(
    mailbox: Annotated[
        str | None,
        typer.Argument(
            help="Mail in this mailbox (address or id)  [the mailboxes]", autocompletion=completion.addresses
        ),
    ] = None,
    query: Annotated[str | None, typer.Argument(help="Only mail that this search finds")] = None,
    *,
    everywhere: Annotated[
        bool, typer.Option("--all", help="Mail of all mailboxes; the first argument is the search then")
    ] = False,
    unseen: Annotated[bool, typer.Option("--unseen", help="Only mail that nobody has read")] = False,
    limit: options.Limit = 50,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List mailboxes; or the mail in one, or in all, newest first."""
    shape = output.Shape(as_json=as_json, quiet=quiet)
    seen = False if unseen else None
    with calling.gateway() as api:
        if everywhere:
            words = " ".join(part for part in (mailbox, query) if part) or None
            shape.many(api.items("/messages", limit, q=words, seen=seen), looks.MESSAGES)
        elif mailbox is None:
            shape.many(api.items("/mailboxes", limit), looks.MAILBOXES, name="address")
        else:
            mails = api.items(calling.path("mailboxes", mailbox, "messages"), limit, q=query, seen=seen)
            shape.many(mails, looks.MESSAGES)


@app.command(
    "show",
    epilog=options.examples(
        "postroom inbox show 0193b6c6-0000-7000-8000-000000000000",
        "postroom inbox show jo@postroom.test            # its newest message",
        "postroom inbox show jo@postroom.test --raw > mail.eml",
        "postroom inbox show jo@postroom.test --attachment 0 > invoice.pdf",
    ),
)
def show(
    message: Annotated[
        str,
        typer.Argument(
            help="A message's id; or a mailbox's address, for its newest", autocompletion=completion.addresses
        ),
    ],
    *,
    raw: Annotated[bool, typer.Option("--raw", help="As it came over the wire, byte for byte")] = False,
    html: Annotated[bool, typer.Option("--html", help="Its HTML, as it was sent")] = False,
    text: Annotated[bool, typer.Option("--text", help="Only its text")] = False,
    headers: Annotated[bool, typer.Option("--headers", help="With all of its header fields")] = False,
    transcript: Annotated[bool, typer.Option("--transcript", help="The SMTP dialogue that it came by")] = False,
    attachment: Annotated[int | None, typer.Option(help="The bytes of this attachment, by its number", min=0)] = None,
    as_json: options.Json = False,
) -> None:
    """Show a message: who, what about, the codes and links in it, its text."""
    with calling.gateway() as api:
        id = _newest(api, message) if "@" in message else message
        here = calling.path("messages", id)
        if raw:
            output.raw(api.content(f"{here}/raw"))
        elif html:
            output.raw(api.content(f"{here}/html"))
        elif attachment is not None:
            output.raw(api.content(f"{here}/attachments/{attachment}"))
        elif transcript:
            found = api.get(f"{here}/transcript")
            output.Shape(as_json=as_json).one(found, output.clean("\n".join(found["lines"])))
        else:
            mail = api.get(here)
            shown = looks.body_of(mail) if text else looks.message(mail, headers=headers)
            output.Shape(as_json=as_json).one(mail, shown)


def _newest(api: calling.Api, address: str) -> str:
    found = list(api.items(calling.path("mailboxes", address, "messages"), 1))
    if not found:
        calling.fail(f"no mail at {address}")
    return str(found[0]["id"])


@app.command(
    "tail",
    epilog=options.examples(
        "postroom inbox tail                             # all mail, as it comes",
        "postroom inbox tail jo@postroom.test --all      # from its first mail on",
        "postroom inbox tail --json | jq -r '.cursor, .data.subject'",
        "postroom inbox tail --after 4711                # goes on behind that cursor",
    ),
)
def tail(
    mailbox: Annotated[
        str | None, typer.Argument(help="Only this one: its address or id", autocompletion=completion.addresses)
    ] = None,
    *,
    after: Annotated[str | None, typer.Option(help="Begin behind this cursor  [now]")] = None,
    whole: Annotated[bool, typer.Option("--all", help="Begin with what is there")] = False,
    count: Annotated[int, typer.Option("--count", "-c", help="End after so many; 0: never", min=0)] = 0,
    as_json: options.Json = False,
) -> None:
    """Follow the mail that comes, one line for each, until Ctrl-C. Connections that break are made anew, and nothing is
    missed or told twice."""
    begin = after or ("0" if whole else None)
    wanted = {"types": ["message.received"], "mailbox": mailbox}
    with calling.gateway(attempts=6) as api, contextlib.closing(streaming.events(api, begin, wanted)) as told:
        for event in streaming.first(told, count):
            output.line(event) if as_json else typer.echo(_told(event))


def _told(event: dict[str, Any]) -> str:
    """A mail that came, on one line."""
    mail = event["data"]
    if mail.get("redacted"):
        return f"{event['created_at']}\t{event['message_id']}\t(deleted)"
    to = ", ".join(looks.person(one) for one in mail["to"])
    columns = [event["created_at"], event["message_id"], looks.person(mail["from"]), to, mail["subject"]]
    code = looks.best_code(mail)
    if not output.is_coloured():
        return "\t".join([*map(output.cell, columns), code or "-"])
    at, _, sender, to, subject = map(output.cell, columns)
    shown = f"{output.styled(at[11:19], 'dim')}  {output.styled(subject, 'bold')}  {sender} \N{RIGHTWARDS ARROW} {to}"
    return f"{shown}  {output.styled(code, 'green', 'bold')}" if code else shown


@app.command(
    "delete",
    epilog=options.examples(
        "postroom inbox delete jo@postroom.test", "postroom inbox delete jo@postroom.test --messages"
    ),
)
def delete(
    mailboxes: Annotated[
        list[str],
        typer.Argument(help="Mailboxes by address or id", autocompletion=completion.addresses, metavar="MAILBOX"),
    ],
    *,
    messages: Annotated[bool, typer.Option("--messages", help="Only the mail in them; they stay")] = False,
    quiet: options.Quiet = False,
) -> None:
    """End mailboxes, with all that is in them."""
    shape = output.Shape(quiet=quiet)
    with calling.gateway() as api:
        for one in mailboxes:
            api.delete(calling.path("mailboxes", one, *(["messages"] if messages else [])))
            shape.said(f"{'emptied' if messages else 'deleted'}  {one}")
