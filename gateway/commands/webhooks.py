"""`postroom webhooks`: who is told of events by HTTP, and how that went."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final

import typer

from gateway.commands import calling, looks, options, output
from gateway.commands.output import Column

app = options.commands("Who is told of events by HTTP, and how that went.")

Id = Annotated[str, typer.Argument(help="The webhook's id, as `webhooks list` shows it", metavar="ID")]


def _answer(delivery: Any) -> str:
    if not delivery["attempts"]:
        return ""
    last = delivery["attempts"][-1]
    return last["error"] or f"{last['status']} in {last['latency_ms']} ms"


COLUMNS: Final = (
    Column("id", "id"),
    Column("status", "status"),
    Column("url", "url", is_whole=False),
    Column("types", "types", is_whole=False, rank=1),
)
DELIVERIES: Final = (
    Column("id", "id"),
    Column("status", "status"),
    Column("type", "event_type", rank=1),
    Column("created", lambda one: looks.moment(one["created_at"]), rank=2),
    Column("attempts", lambda one: len(one["attempts"]), rank=3),
    Column("last answer", _answer, is_whole=False),
)


@app.command("list", epilog=options.examples("postroom webhooks list", "postroom webhooks list --json | jq -r .url"))
def list_(*, limit: options.Limit = 50, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """List webhooks, newest first."""
    with calling.gateway() as api:
        output.Shape(as_json=as_json, quiet=quiet).many(api.items("/webhooks", limit), COLUMNS)


@app.command(
    "create",
    epilog=options.examples(
        "postroom webhooks create https://app.example.com/hooks/mail",
        "postroom webhooks create http://127.0.0.1:3000/hook --types message.received --mailbox jo@postroom.test",
        "SECRET=$(postroom webhooks create https://app.example.com/hook --json | jq -r .secret)",
    ),
)
def create(
    url: Annotated[str, typer.Argument(help="Where events are posted to")],
    *,
    types: Annotated[
        list[str] | None, typer.Option(help="Events to tell, such as message.received; may be repeated  [all]")
    ] = None,
    mailbox: Annotated[str | None, typer.Option(help="Only of this mailbox: its address or id")] = None,
    ordered: Annotated[bool, typer.Option("--ordered", help="One after the other, in the log's order")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Have events told by HTTP. Prints the secret that signs them: it is shown here and never again."""
    told = [one for given in types or ["*"] for one in given.split(",") if one]
    body = {"url": url, "types": told, "ordered": ordered, **({"mailbox": mailbox} if mailbox else {})}
    with calling.gateway() as api:
        made = api.create("/webhooks", body)
    _show(made, as_json=as_json, quiet=quiet)


@app.command("test", epilog=options.examples("postroom webhooks test 0193b6c6-0000-7000-8000-000000000000"))
def tell_test(id: Id, *, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Tell it of an event that is only a test."""
    with calling.gateway() as api:
        made = api.create(calling.path("webhooks", id, "test"))
    output.Shape(as_json=as_json, quiet=quiet).one(made, f"{made['id']}\t{made['status']}", quietly=made["id"])


@app.command("rotate", epilog=options.examples("postroom webhooks rotate 0193b6c6-0000-7000-8000-000000000000"))
def rotate(id: Id, *, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Give it a new secret and print that. The one before signs as well for 24 h."""
    with calling.gateway() as api:
        made = api.create(calling.path("webhooks", id, "rotate"))
    _show(made, as_json=as_json, quiet=quiet)


@app.command("enable", epilog=options.examples("postroom webhooks enable 0193b6c6-0000-7000-8000-000000000000"))
def enable(id: Id, *, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Tell it again, after it was disabled."""
    with calling.gateway() as api:
        found = api.change(calling.path("webhooks", id), {"status": "active"})
    _show(found, as_json=as_json, quiet=quiet)


@app.command(
    "deliveries",
    epilog=options.examples(
        "postroom webhooks deliveries 0193b6c6-0000-7000-8000-000000000000 --status dead",
        "postroom webhooks deliveries 0193b6c6-0000-7000-8000-000000000000 --json | jq .attempts",
    ),
)
def deliveries(
    id: Id,
    *,
    status: Annotated[str | None, typer.Option(help="pending, delivered or dead")] = None,
    limit: options.Limit = 50,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List what it was told, newest first, and what it answered last."""
    with calling.gateway() as api:
        found = api.items(calling.path("webhooks", id, "deliveries"), limit, status=status)
        output.Shape(as_json=as_json, quiet=quiet).many(found, DELIVERIES)


@app.command(
    "redeliver",
    epilog=options.examples(
        "postroom webhooks redeliver 0193b6c6-0000-7000-8000-000000000000 0193b6c7-0000-7000-8000-000000000000",
        "postroom webhooks redeliver 0193b6c6-0000-7000-8000-000000000000 --since 2026-01-01T00:00:00Z",
    ),
)
def redeliver(
    id: Id,
    delivery: Annotated[str | None, typer.Argument(help="A delivery's id  [all that are dead]")] = None,
    *,
    since: Annotated[str | None, typer.Option(help="Only dead ones of events since this time (RFC 3339)")] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Tell it once more: one delivery, or all that were given up."""
    shape = output.Shape(as_json=as_json, quiet=quiet)
    with calling.gateway() as api:
        if delivery is not None:
            done = api.call(calling.path("webhooks", id, "deliveries", delivery, "redeliver"))
            shape.one(done, f"{done['id']}\t{done['status']}")
            return
        count = sum(done["count"] for done in _redelivered(api, id, since))
    shape.one({"count": count, "has_more": False}, f"{count} will be told again")


def _redelivered(api: calling.Api, id: str, since: str | None) -> Iterator[Any]:
    while True:
        done = api.call(calling.path("webhooks", id, "redeliver"), since=since)
        yield done
        if not done["has_more"]:
            return


@app.command("delete", epilog=options.examples("postroom webhooks delete 0193b6c6-0000-7000-8000-000000000000"))
def delete(id: Id, *, quiet: options.Quiet = False) -> None:
    """Tell it nothing any more."""
    with calling.gateway() as api:
        api.delete(calling.path("webhooks", id))
    output.Shape(quiet=quiet).said(f"deleted  {id}")


def _show(found: Any, *, as_json: bool, quiet: bool) -> None:
    """A webhook; a script would ask for the secret, where it is told."""
    rows = [(name, found.get(name)) for name in ("id", "url", "types", "mailbox_id", "status", "secret")]
    output.Shape(as_json=as_json, quiet=quiet).one(found, output.details(rows), quietly=found.get("secret", ""))
