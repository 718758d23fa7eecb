"""`postroom export`: mail into files, every byte of it, with the envelopes that it came by.

An export that was cut short goes on where it was when it is run again: a file of one mail each is there whole or not at
all; of an mbox or NDJSON file a note beside it says up to where it is whole.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent import futures
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, Protocol

import typer

from gateway.commands import calling, completion, files, options, output, progress
from gateway.errors import ConfigurationError

app = options.commands("Take mail out as mbox, maildir, .eml files or JSON.")

AT_ONCE: Final = 8  # mails fetched at a time


class Kind(StrEnum):
    """What the mail is put into."""

    MBOX = "mbox"
    EML = "eml"
    MAILDIR = "maildir"
    NDJSON = "ndjson"


class Target(Protocol):
    """Where mail is put."""

    def has(self, summary: Any) -> bool:
        """It is there from a run before."""

    def put(self, mail: Any, raw: bytes) -> None: ...
    def close(self, *, whole: bool) -> None: ...


@app.command(
    epilog=options.examples(
        "postroom export mbox jo.mbox --mailbox jo@postroom.test",
        "postroom export maildir ~/Mail/postroom --query 'has:attachment after:2026-01-01'",
        "postroom export eml ./mails                     # all mail of the account, a file each",
        "postroom export ndjson - --mailbox jo@postroom.test | jq -r .subject",
    )
)
def export(
    kind: Annotated[Kind, typer.Argument(help="What it is put into")],
    path: Annotated[Path, typer.Argument(help="The file or folder; -: standard output, for mbox and ndjson")],
    *,
    mailbox: Annotated[
        str | None,
        typer.Option(help="Only of this mailbox: its address or id  [all]", autocompletion=completion.addresses),
    ] = None,
    query: Annotated[str | None, typer.Option("--query", help="Only what this search finds")] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Take mail out, oldest first, byte for byte, with its envelopes; `import` brings it in again as it was.

    Run it again where it was cut short, and it goes on. Exit code 4 where mail went away meanwhile: it is listed."""
    with calling.gateway(attempts=8, total=120) as api:
        listed = _listed(api, mailbox, query)
        with _target(kind, path) as target, progress.shown("export", None, "mails", quiet=quiet) as bar:
            taken, there, missing = 0, 0, []
            for summary, found in _fetched(api, listed, target):
                bar.advance(1)
                if found is None:
                    missing.append(summary["id"])
                    output.said(f"{summary['id']}: deleted meanwhile")
                elif found is AGAIN:
                    there += 1
                else:
                    taken += 1
                    target.put(*found)
    told = {"object": "export", "taken": taken, "passed_over": there, "failed": len(missing)}
    if str(path) != "-":
        words = f"{taken:,} taken out" + (f", {there:,} were there" if there else "")
        output.Shape(as_json=as_json, quiet=quiet).one(told, words)
    if missing:
        raise typer.Exit(calling.PARTLY)


AGAIN: Final[Any] = object()


def _listed(api: calling.Api, mailbox: str | None, query: str | None) -> Iterator[Any]:
    """Summaries, oldest first."""
    where = calling.path("mailboxes", mailbox, "messages") if mailbox else "/messages"
    return api.items(where, q=query, order="asc")


def _fetched(api: calling.Api, listed: Iterator[Any], target: Target) -> Iterator[tuple[Any, Any]]:
    """Each summary with the message and its bytes; AGAIN where it is there, None where it is gone."""
    waiting: deque[tuple[Any, futures.Future[Any]]] = deque()
    pool = futures.ThreadPoolExecutor(AT_ONCE)
    try:
        for summary in listed:
            if target.has(summary):
                yield summary, AGAIN
                continue
            waiting.append((summary, pool.submit(_fetch, api, summary["id"])))
            if len(waiting) >= AT_ONCE:
                first, found = waiting.popleft()
                yield first, found.result()
        while waiting:
            first, found = waiting.popleft()
            yield first, found.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _fetch(api: calling.Api, id: str) -> tuple[Any, bytes] | None:
    from gateway.client import errors  # noqa: PLC0415 - see gateway.commands

    here = calling.path("messages", id)
    try:
        return api.get(here), api.content(f"{here}/raw")
    except errors.NotFound:
        return None


# Where it goes


@contextlib.contextmanager
def _target(kind: Kind, path: Path) -> Iterator[Target]:
    try:
        target: Target = Folder(kind, path) if kind in {Kind.EML, Kind.MAILDIR} else Stream(kind, path)
        whole = False
        try:
            yield target
            whole = True
        finally:
            target.close(whole=whole)
    except OSError as error:
        if error.filename is None:
            raise
        raise ConfigurationError(f"{error.filename}: {error.strerror or error}") from None


class Folder:
    """A file for each mail; one that is there is whole, for it gets its name last."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        if str(folder) == "-":
            raise ConfigurationError(f"{kind} is a folder, and cannot be written to standard output")
        self._kind = kind
        self._folder = folder
        for name in ("cur", "new", "tmp") if kind is Kind.MAILDIR else ("",):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._there = {one["id"] for one in files.envelopes(folder).values()}
        self._index = (folder / files.INDEX).open("a+b")
        if self._index.tell() and not (folder / files.INDEX).read_bytes().endswith(b"\n"):
            self._index.write(b"\n")  # behind the half line of one that was killed

    def has(self, summary: Any) -> bool:
        return summary["id"] in self._there

    def put(self, mail: Any, raw: bytes) -> None:
        name = f"{mail['id']}.eml" if self._kind is Kind.EML else self._maildir_name(mail)
        beside = self._folder / ("tmp" if self._kind is Kind.MAILDIR else "") / f"{mail['id']}.part"
        beside.write_bytes(raw)
        beside.replace(self._folder / name)
        line = {"id": mail["id"], "file": name, "envelope": _envelope(mail), "received_at": mail["received_at"]}
        self._index.write(json.dumps(line).encode() + b"\n")
        self._index.flush()

    def _maildir_name(self, mail: Any) -> str:
        at = int(datetime.fromisoformat(mail["received_at"]).timestamp())
        return f"cur/{at}.{mail['id']}.postroom:2,{'S' if mail['seen'] else ''}"

    def close(self, *, whole: bool) -> None:
        self._index.close()


class Stream:
    """One mail after the other; beside a file that is not whole yet lies a note of how far it is."""

    def __init__(self, kind: Kind, path: Path) -> None:
        self._kind = kind
        self._note = None if str(path) == "-" else path.with_name(f"{path.name}.unfinished")
        self._last = -1  # seq of the last mail in it
        self._out: BinaryIO = sys.stdout.buffer if self._note is None else self._opened(path, self._note)

    def _opened(self, path: Path, note: Path) -> BinaryIO:
        size = 0
        if note.exists():
            with contextlib.suppress(ValueError, KeyError):
                noted = json.loads(note.read_text("utf-8"))
                size, self._last = int(noted["size"]), int(noted["seq"])
        elif path.exists() and path.stat().st_size:
            raise ConfigurationError(f"{path} is there already: give another name, or move it away")
        note.write_text(json.dumps({"size": size, "seq": self._last}), "utf-8")
        path.touch()
        stream = path.open("r+b")
        stream.truncate(size)
        stream.seek(size)
        return stream

    def has(self, summary: Any) -> bool:
        return bool(summary["seq"] <= self._last)

    def put(self, mail: Any, raw: bytes) -> None:
        self._out.write(_line(mail, raw) if self._kind is Kind.NDJSON else _mbox(mail, raw))
        self._out.flush()
        self._last = mail["seq"]
        if self._note is not None:
            beside = self._note.with_name(f"{self._note.name}.new")
            beside.write_text(json.dumps({"size": self._out.tell(), "seq": self._last}), "utf-8")
            beside.replace(self._note)

    def close(self, *, whole: bool) -> None:
        if self._note is not None:
            self._out.close()
            if whole:
                self._note.unlink(missing_ok=True)


def _line(mail: Any, raw: bytes) -> bytes:
    left_out = ("text", "html", "headers")  # which `raw` has
    told = {name: value for name, value in mail.items() if name not in left_out}
    return json.dumps({**told, "raw": base64.b64encode(raw).decode()}, separators=(",", ":")).encode() + b"\n"


def _mbox(mail: Any, raw: bytes) -> bytes:
    at = time.asctime(datetime.fromisoformat(mail["received_at"]).timetuple())
    return files.write_mbox(raw, at=at, **_envelope(mail))


def _envelope(mail: Any) -> dict[str, Any]:
    return {"mail_from": mail["envelope"]["mail_from"], "rcpt_to": mail["envelope"]["rcpt_to"]}
