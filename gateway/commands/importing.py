"""`postroom import`: mail from files or standard input, handed in over the API as if it came by SMTP.

It may be run again: the gateway derives each mail's receipt id from the mail, its envelope and a word that says which
of several equal ones it is, so that what is stored already stays as it is. What a run that was cut short had handed in
without a gap is written down beside it, and passed over by the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

import typer

from gateway.commands import calling, files, options, output, progress, surroundings
from gateway.commands.files import Found
from gateway.errors import ConfigurationError

app = options.commands("Bring mail in from mbox, maildir or .eml files.")

Item = Found | tuple[str, OSError]  # a mail, or a file that cannot be read and why
AT_ONCE: Final = 8  # requests under way
HELD_BYTES: Final = 67_108_864  # of mail read and not handed in yet
NOTED_SECONDS: Final = 1.0  # between two notes of how far it is
REFUSED: Final = frozenset({400, 413, 422})  # this mail; any other refusal would meet the next one, too


class Kind(StrEnum):
    """What the mail lies in."""

    MBOX = "mbox"
    EML = "eml"
    MAILDIR = "maildir"
    NDJSON = "ndjson"


@dataclass(slots=True)
class Tally:
    """What came of it."""

    taken: int = 0
    passed: int = 0  # handed in by the run before
    failures: list[dict[str, str]] = field(default_factory=list)

    def count(self, item: Item, refusal: str | None) -> None:
        """One more; a refusal is told at once."""
        if refusal is None:
            self.taken += 1
            return
        source = item.source if isinstance(item, Found) else item[0]
        self.failures.append({"source": source, "message": refusal})
        output.said(f"{source}: {refusal}")

    def as_dict(self) -> dict[str, Any]:
        return {
            "object": "import",
            "taken": self.taken,
            "passed_over": self.passed,
            "failed": len(self.failures),
            "failures": self.failures,
        }


@app.command(
    epilog=options.examples(
        "postroom import mbox archive.mbox --to archive@postroom.test",
        "postroom import maildir ~/Maildir --to jo@postroom.test",
        "postroom import eml tests/mails --to '{name}@postroom.test'",
        "cat mail.eml | postroom import eml - --to jo@postroom.test --from shop@example.com",
        "postroom export ndjson - --mailbox jo@postroom.test | POSTROOM_URL=… postroom import ndjson -",
    )
)
def import_(
    kind: Annotated[Kind, typer.Argument(help="What it lies in")],
    path: Annotated[Path, typer.Argument(help="The file or folder; -: standard input")],
    *,
    to: Annotated[
        list[str] | None,
        typer.Option(help="Whom it is for; {name}: what the file is called; may be repeated  [as it was delivered]"),
    ] = None,
    sender: Annotated[str | None, typer.Option("--from", help="The reverse path  [as it was delivered]")] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Bring mail in, as if it came by SMTP now. It may be run again: nothing comes twice.

    The key needs the scope `inbound`. The envelope is what an export wrote down, or what the header still has of it
    (Delivered-To, Return-Path, To). Exit code 4 where some were not taken: they are listed, and the others are there.
    Exit code 1 where it stopped, since the gateway went away or refused the key: run it again to go on."""
    tally = Tally()
    with (
        calling.gateway(attempts=8, total=120) as api,
        progress.shown("import", _total(kind, path), "mails", quiet=quiet) as bar,
    ):
        note = Note.of(path, f"{api.link.place.url} {kind} {to} {sender}")
        tally.passed = note.done
        with Desk(api, to or [], sender) as desk, note:
            for item, refusal in desk.hand_in(_mails(kind, path), note.done):
                bar.advance(1, desk.step(item))
                note.keep(desk.done)
                tally.count(item, refusal)
    words = f"{tally.taken:,} handed in, {len(tally.failures):,} failed"
    words += f", {tally.passed:,} handed in by the run before" if tally.passed else ""
    output.Shape(as_json=as_json, quiet=quiet).one(tally.as_dict(), words)
    if tally.failures:
        raise typer.Exit(calling.PARTLY)


# Handing in


class Desk:
    """Hands mails in, several at a time, and says in their order what became of them."""

    def __init__(self, api: calling.Api, to: list[str], sender: str | None) -> None:
        self._api = api
        self._to = to
        self._sender = sender
        self._pool = futures.ThreadPoolExecutor(AT_ONCE)
        self._twins: Counter[bytes] = Counter()  # how often each mail was met
        self._end = 0.0
        self.done = 0  # mails from the beginning on, without a gap, of which it is known what became of them

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def step(self, item: Item) -> float:
        """How much of the source an item is."""
        end = item.end if isinstance(item, Found) else self._end + 1
        before, self._end = self._end, end
        return end - before

    def hand_in(self, items: Iterator[Item], passed: int) -> Iterator[tuple[Item, str | None]]:
        """Each with the refusal, or None; the first `passed` are passed over. Raises what any mail would meet."""
        waiting: deque[tuple[Item, futures.Future[str | None]]] = deque()
        held = 0
        for item in items:
            word = self._word(item)
            if self.done < passed:
                self.done += 1
                self.step(item)
                continue
            waiting.append((item, self._pool.submit(self._refusal, item, word)))
            held += _size(item)
            while len(waiting) >= 2 * AT_ONCE or held > HELD_BYTES:
                held -= _size(waiting[0][0])
                yield self._oldest(waiting)
        while waiting:
            yield self._oldest(waiting)

    def _oldest(self, waiting: deque[tuple[Item, futures.Future[str | None]]]) -> tuple[Item, str | None]:
        item, outcome = waiting[0]
        refusal = outcome.result()
        waiting.popleft()
        self.done += 1
        return item, refusal

    def _word(self, item: Item) -> str:
        """Which of several equal mails this is, so that each comes once."""
        if not isinstance(item, Found):
            return ""
        digest = hashlib.blake2b(repr((item.mail_from, item.rcpt_to)).encode() + item.raw, digest_size=12).digest()
        self._twins[digest] += 1
        return f"import {self._twins[digest]}"

    def _refusal(self, item: Item, word: str) -> str | None:
        from gateway.client import errors  # noqa: PLC0415 - see gateway.commands

        if not isinstance(item, Found):
            return f"cannot be read: {item[1].strerror or item[1]}"
        stem = Path(item.source.partition("#")[0]).stem
        rcpt_to = [to.replace("{name}", stem) for to in self._to] or list(item.rcpt_to)
        if not rcpt_to:
            return "nobody knows whom it is for: say so with --to"
        mail_from = item.mail_from if self._sender is None else self._sender
        query = {"mail_from": mail_from or "", "rcpt_to": rcpt_to, "once": word}
        try:
            self._api.post("/inbound/raw", item.raw, "message/rfc822", **query)
        except errors.ApiError as error:
            if error.status not in REFUSED:
                raise
            return calling.told(error).replace("\n", "; ")
        return None


def _size(item: Item) -> int:
    return len(item.raw) if isinstance(item, Found) else 0


# How far it is


@dataclass(slots=True)
class Note:
    """How far a run came, beside the user's other state; gone when it has come to its end."""

    file: Path | None  # None: standard input, which cannot be read again
    source: str
    done: int
    _kept_at: float = 0.0

    @classmethod
    def of(cls, path: Path, about: str) -> Note:
        """The note that a run over this very file left."""
        if str(path) == "-":
            return cls(None, "", 0)
        state = Path(surroundings.variable("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "postroom"
        with contextlib.suppress(OSError):
            shape = path.stat()
            source = f"{path.resolve()} {shape.st_size} {shape.st_mtime_ns} {about}"
            file = state / f"import-{hashlib.sha256(source.encode()).hexdigest()[:24]}.json"
            return cls(file, source, _noted(file, source))
        return cls(None, "", 0)

    def __enter__(self) -> Note:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self.file is not None and kind is None:
            self.file.unlink(missing_ok=True)
        elif self.file is not None:
            self._write(self.file)

    def keep(self, done: int) -> None:
        """Write it down, now and then."""
        self.done = done
        if self.file is not None and time.monotonic() - self._kept_at > NOTED_SECONDS:
            self._kept_at = time.monotonic()
            self._write(self.file)

    def _write(self, file: Path) -> None:
        with contextlib.suppress(OSError):  # the next run begins at the beginning then, and nothing comes twice
            file.parent.mkdir(parents=True, exist_ok=True)
            beside = file.with_suffix(".new")
            beside.write_text(json.dumps({"source": self.source, "done": self.done}), "utf-8")
            beside.replace(file)


def _noted(file: Path, source: str) -> int:
    with contextlib.suppress(OSError, ValueError, KeyError):
        noted = json.loads(file.read_text("utf-8"))
        return int(noted["done"]) if noted["source"] == source else 0
    return 0


# Reading


def _mails(kind: Kind, path: Path) -> Iterator[Item]:
    try:
        yield from _from_folder(kind, path) if path.is_dir() else _from_file(kind, path)
    except files.Unreadable as error:
        raise ConfigurationError(str(error)) from None
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror or error}") from None


def _from_folder(kind: Kind, folder: Path) -> Iterator[Item]:
    if kind is Kind.MAILDIR:
        yield from files.read_files(files.maildir_files(folder), folder)
    elif kind is Kind.EML:
        yield from files.read_files(files.mails_in(folder, "*.eml"), folder)
    else:
        raise ConfigurationError(f"{folder} is a folder; {kind} is a file")


def _from_file(kind: Kind, path: Path) -> Iterator[Item]:
    if kind is Kind.MAILDIR:
        raise ConfigurationError(f"{path} is no folder; a maildir is one")
    with _opened(path) as stream:
        if kind is Kind.EML:
            yield files.read_one(stream.read(), path.name)
        elif kind is Kind.MBOX:
            yield from files.read_mbox(stream, path.name)
        else:
            yield from files.read_ndjson(stream, path.name)


def _opened(path: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    if str(path) != "-":
        return path.open("rb")
    return contextlib.nullcontext(sys.stdin.buffer)


def _total(kind: Kind, path: Path) -> float | None:
    """Files of a folder, bytes of a file; None = not known."""
    with contextlib.suppress(OSError, files.Unreadable):
        if path.is_dir():
            return len(files.maildir_files(path) if kind is Kind.MAILDIR else files.mails_in(path, "*.eml"))
        return path.stat().st_size if str(path) != "-" else None
    return None
