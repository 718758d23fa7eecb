"""`postroom send`: one e-mail, from options and standard input."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.commands import calling, looks, options, output
from gateway.errors import ConfigurationError

app = options.commands("Send an e-mail.")


class Reached(StrEnum):
    """What an e-mail is waited for to become."""

    SENT = "sent"
    DELIVERED = "delivered"


@app.command(
    epilog=options.examples(
        "postroom send --from shop@postroom.test --to jo@example.com --subject Hello --text 'Hello!'",
        "echo 'Hello!' | postroom send --from shop@postroom.test --to jo@example.com --subject Hello",
        "postroom send --from shop@postroom.test --to jo@example.com --subject Invoice --html @mail.html \\",
        "    --attach invoice.pdf --tag kind=invoice --wait delivered",
        "postroom send --from shop@postroom.test --to jo@example.com --template 0193b6c6-… --var n=Jo --at 'in 2 min'",
    )
)
def send(  # noqa: PLR0913 - each is an option of the command line
    *,
    sender: Annotated[str, typer.Option("--from", help="Who sends it: a@b.example or 'Name <a@b.example>'")],
    to: Annotated[list[str], typer.Option(help="Who gets it; may be repeated")],
    cc: Annotated[list[str] | None, typer.Option(help="Who gets a copy; may be repeated")] = None,
    bcc: Annotated[list[str] | None, typer.Option(help="Who gets one that nobody sees; may be repeated")] = None,
    reply_to: Annotated[list[str] | None, typer.Option(help="Where answers go; may be repeated")] = None,
    subject: Annotated[str | None, typer.Option("--subject", "-s", help="What it is about")] = None,
    text: Annotated[
        str | None,
        typer.Option(
            help="What it says; @FILE reads a file, - standard input  [standard input, where nothing is given]"
        ),
    ] = None,
    html: Annotated[str | None, typer.Option(help="The same as HTML; @FILE reads a file, - standard input")] = None,
    attach: Annotated[
        list[Path] | None, typer.Option(help="A file to go with it; may be repeated", dir_okay=False)
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option(help="'Name: value', a further header field; may be repeated")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="name=value to find it by; may be repeated")] = None,
    metadata: Annotated[list[str] | None, typer.Option(help="name=value, kept with it; may be repeated")] = None,
    template: Annotated[str | None, typer.Option(help="A template's id, instead of text and HTML")] = None,
    var: Annotated[
        list[str] | None, typer.Option(help="name=value for the template; JSON or words; may be repeated")
    ] = None,
    at: Annotated[str | None, typer.Option(help="When: an RFC 3339 time, or 'in 10 min'  [now]")] = None,
    expires_in: Annotated[float | None, options.Duration("--expires-in", help="Give up after this time")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="A word of yours: with the same one it is sent once, however often you ask")
    ] = None,
    wait: Annotated[
        Reached | None, typer.Option(help="End when it has come that far; exit code 3 where it has not")
    ] = None,
    timeout: Annotated[float, options.Duration("--timeout", "-t", help="How long to wait for that")] = 30.0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Send an e-mail. When this ends, it is committed and will be sent; its id is printed.

    The text comes from standard input where neither text, HTML nor a template is given."""
    if text is None and html is None and template is None:
        text = "-"
    body: dict[str, Any] = {
        "from": sender,
        "to": to,
        "cc": cc,
        "bcc": bcc,
        "reply_to": reply_to,
        "subject": subject,
        "text": content_of(text),
        "html": content_of(html),
        "headers": _named(header, ":", "a header field, such as 'X-Run: 17'"),
        "attachments": list(_attached(attach or [])) or None,
        "tags": [{"name": name, "value": value} for name, value in (_named(tag, "=", "name=value") or {}).items()]
        or None,
        "metadata": _named(metadata, "=", "name=value"),
        "template": {"id": template, "variables": variables_of(var or [])} if template else None,
        "scheduled_at": at,
        "expires_in": None if expires_in is None else round(expires_in),
    }
    with calling.gateway() as api:
        made = api.create(
            "/emails", {name: value for name, value in body.items() if value is not None}, key=idempotency_key
        )
        if wait is not None:
            made = _settled(api, made["id"], wait.value, timeout)
    shown = looks.email(made) if "recipients" in made else f"{made['id']}\t{made['status']}"
    output.Shape(as_json=as_json, quiet=quiet).one(made, shown, quietly=made["id"])


def _settled(api: calling.Api, id: str, status: str, timeout: float) -> Any:
    from gateway.client import waits  # noqa: PLC0415 - see gateway.commands

    api.run(waits.until(api.link, id, status, timeout))
    return api.get(calling.path("emails", id))


def content_of(given: str | None) -> str | None:
    """What is said, or stands in a file or in standard input."""
    if given == "-":
        return sys.stdin.buffer.read().decode("utf-8", "replace")
    if given is None or not given.startswith("@"):
        return given
    with _readable(given[1:]) as content:
        return content.decode("utf-8", "replace")


def _attached(files: list[Path]) -> Iterator[dict[str, str]]:
    from gateway.client import records  # noqa: PLC0415 - see gateway.commands

    for file in files:
        with _readable(str(file)):
            yield records.attachment_body(file)


@contextlib.contextmanager
def _readable(name: str) -> Iterator[bytes]:
    try:
        yield Path(name).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{name}: {error.strerror or error}") from None


def _named(given: list[str] | None, separator: str, what: str) -> dict[str, str] | None:
    return dict(map(options.pairs(separator, what), given)) if given else None


def variables_of(given: list[str]) -> dict[str, Any]:
    """Values as JSON says them; what is none is a word."""
    found: dict[str, Any] = {}
    for name, value in map(options.pairs("=", "name=value"), given):
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
