"""`postroom reclaim`: what a worker does each minute, now and with somebody looking on."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from gateway.commands import operating, options, output, progress

app = options.commands("Remove what deleted and expired mailboxes leave behind, now.")


@app.command(
    epilog=options.examples(
        "postroom reclaim",
        "postroom reclaim --dry-run --json",
        "postroom reclaim --older-than 7d                # expired ones that ended a week ago or earlier",
    )
)
def reclaim(
    *,
    older_than: Annotated[
        float | None,
        options.Duration("--older-than", help="Keep those that expired later  [RETENTION_SECONDS]"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count them")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Remove what deleted mailboxes, and those that expired long ago, leave in the database of DATABASE_URL.

    In slices, each a transaction of its own, beside running processes; Ctrl-C loses nothing. Deleted mailboxes go
    whenever they were deleted."""
    shape = output.Shape(as_json=as_json, quiet=quiet)
    done = operating.run(_reclaim(operating.database_url(), older_than, dry_run=dry_run, quiet=quiet))
    verb = "would go" if dry_run else "went"
    shape.one(done, f"{done['mailboxes']:,} mailboxes with {done['messages']:,} messages {verb}")


async def _reclaim(dsn: str, older_than: float | None, *, dry_run: bool, quiet: bool) -> dict[str, Any]:
    from gateway import settings  # noqa: PLC0415 - see gateway.commands
    from gateway.storage import db, housekeeping, mailboxes  # noqa: PLC0415 - likewise

    retention = settings.load().retention_seconds if older_than is None else older_than
    database = db.Database(dsn, pool_size=1)
    await database.open()
    try:
        async with database.connection() as connection:
            there = await mailboxes.count_gone(connection, retention)
        if dry_run:
            return {"object": "reclaim", "mailboxes": there.mailboxes, "messages": there.messages}
        messages = 0
        with progress.shown("reclaim", there.mailboxes + there.messages, "messages", quiet=quiet) as bar:

            def told(mailboxes: int, messages_gone: int) -> None:
                nonlocal messages
                messages += messages_gone
                bar.advance(messages_gone, mailboxes + messages_gone)

            removed = await housekeeping.reclaim(database, retention, told=told)
        return {"object": "reclaim", "mailboxes": removed, "messages": messages}
    finally:
        await database.close()
