"""`postroom demo`: a story told by what really happens, with real ids and timings.

A sign-up form sends its mail to a fresh mailbox, a program waits for the code and the link in it, somebody replies, the
reply's way is followed, a webhook is received and its signature verified. Everything goes through the API and SMTP of
the gateway that is there, or of one that is started for it in a folder of its own; what was made is deleted at the end.
"""

from __future__ import annotations

import contextlib
import http.server
import queue
import re
import secrets
import shutil
import signal
import smtplib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import typer

from gateway.commands import calling, looks, options, output
from gateway.commands.stage import Stage, milliseconds
from gateway.errors import ConfigurationError, PostroomError

app = options.commands("See it work: a sign-up, a code, a reply, a webhook.")

START_SECONDS: Final = 120.0  # an embedded gateway may take, the first time
WAIT_SECONDS: Final = 30.0
REPLY: Final = "Thank you, I am in!"
TTL_SECONDS: Final = 600
HOST: Final = re.compile(r"(.*):(\d+)")


@app.command(
    epilog=options.examples(
        "postroom demo                                   # a minute, in a terminal",
        "postroom demo --fast --no-colour",
        "postroom demo --record story.cast && asciinema play story.cast",
    )
)
def demo(
    *,
    fast: Annotated[bool, typer.Option("--fast", help="Without pauses")] = False,
    no_colour: Annotated[bool, typer.Option("--no-colour", "--no-color", help="Without colours")] = False,
    record: Annotated[
        Path | None, typer.Option(help="Write what is seen to this file, too (asciicast v2)", dir_okay=False)
    ] = None,
) -> None:
    """See it work: a sign-up mail, the code in it, a reply, a webhook; nothing of it is made up.

    It speaks to the gateway that POSTROOM_URL names or that runs in this folder, and else starts one for itself. It
    deletes what it made."""
    coloured = not no_colour and (output.is_coloured() or (record is not None and not fast))
    stage = Stage(is_fast=fast, is_coloured=coloured, is_recorded=record is not None)
    with (
        _somewhere(stage) as target,
        calling.gateway(attempts=6, at=target) as api,
        contextlib.ExitStack() as afterwards,
    ):
        Story(stage=stage, api=api, target=target, afterwards=afterwards).tell()
    stage.line()
    if record is not None:
        try:
            record.parent.mkdir(parents=True, exist_ok=True)
            stage.save(record, "Postroom in a minute")
        except OSError as error:
            raise ConfigurationError(f"{record}: {error.strerror or error}") from None


# Where it is told


@contextlib.contextmanager
def _somewhere(stage: Stage) -> Iterator[calling.Target]:
    """The gateway that is there, or one of our own."""
    found = calling.target()
    if found.url or found.api_key:
        yield found
        return
    stage.told("No gateway is set or runs in this folder, so one is started: Postgres, Valkey, web, SMTP and worker.")
    with tempfile.TemporaryDirectory(prefix="postroom-demo-") as folder:
        began = time.monotonic()
        with _started(Path(folder) / "data") as target:
            stage.marked("ready", target.url, time.monotonic() - began)
            yield target


@contextlib.contextmanager
def _started(folder: Path) -> Iterator[calling.Target]:
    ports = [word for name in ("http", "smtp", "submission") for word in (f"--{name}-port", "0")]
    command = [sys.executable, "-m", "gateway.cli", "dev", *ports, "--data-dir", str(folder)]
    log = folder.parent / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)  # noqa: S603
    try:
        yield _ready(process, folder, log)
    finally:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(WAIT_SECONDS)
        process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _ready(process: subprocess.Popen[bytes], folder: Path, log: Path) -> calling.Target:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        found = calling.target(lambda _: "", folder)
        if found.url:
            return found
        time.sleep(0.05)
    raise PostroomError(f"a gateway could not be started:\n{log.read_text('utf-8', 'replace')[-2000:]}")


# The story


@dataclass(kw_only=True)
class Story:
    """What is told, step after step."""

    stage: Stage
    api: calling.Api
    target: calling.Target
    afterwards: contextlib.ExitStack  # deletes what was made
    code: str = field(default_factory=lambda: f"{secrets.randbelow(900_000) + 100_000}")
    _handed_in: float = 0.0  # when the gateway said 250

    def tell(self) -> None:
        stage = self.stage
        stage.chapter("A program signs up somewhere, and needs an address of its own.")
        user = self._mailbox("inbox new --ttl 10m")
        shop = self.api.create("/mailboxes", {"ttl_seconds": TTL_SECONDS, "metadata": {"demo": "the shop"}})
        self.afterwards.callback(self._delete, f"/mailboxes/{shop['id']}")
        self._webhook(user, lambda: self._mail(user, shop))

    def _mail(self, user: Any, shop: Any) -> None:
        stage = self.stage
        stage.chapter("The form it filled in sends a mail, by plain SMTP.")
        self._hand_in(user["address"], shop["address"])
        stage.chapter("The program waits for the code. It asks once, and is answered as it comes.")
        message = self._wait(user, "code")
        self._wait(user, "link")
        stage.chapter("It answers, in the thread, and follows what becomes of that.")
        self._reply(message)

    def _mailbox(self, command: str) -> Any:
        self.stage.typed(f"postroom {command}")
        made, took = _timed(lambda: self.api.create("/mailboxes", {"ttl_seconds": TTL_SECONDS}))
        self.afterwards.callback(self._delete, f"/mailboxes/{made['id']}")
        self.stage.marked("address", made["address"], took, "green", "bold")
        self.stage.marked("id", made["id"], None, "dim")
        self.stage.marked("expires", made["expires_at"], None, "dim")
        return made

    def _hand_in(self, to: str, sender: str) -> None:
        raw = _sign_up(to, sender, self.code)
        found = HOST.fullmatch(self.target.smtp)
        if found is None:
            query = {"mail_from": sender, "rcpt_to": to}
            said, took = _timed(lambda: self.api.post("/inbound/raw", raw, "message/rfc822", **query))
            self.stage.told("POSTROOM_SMTP is not set: it comes in over HTTP instead.")
            self.stage.marked("receipt", said["receipt_id"], took)
            self._handed_in = time.monotonic()
            return
        with smtplib.SMTP(found[1].strip("[]"), int(found[2]), timeout=WAIT_SECONDS) as client:
            steps = {"ehlo": "shop.example", "mail": sender, "rcpt": to, "data": raw}
            for name, argument in steps.items():
                (status, said), took = _timed(lambda: getattr(client, name)(argument))  # noqa: B023 - called at once
                line = said.decode("utf-8", "replace").splitlines()[-1]
                words = {"ehlo": "EHLO shop.example", "mail": f"MAIL FROM:<{sender}>", "rcpt": f"RCPT TO:<{to}>"}.get(
                    name, name.upper()
                )
                self.stage.line(f"  C: {words}", "dim")
                if not 200 <= status < 300:
                    raise PostroomError(f"the gateway's SMTP answered {status} {line}")
                self.stage.line(f"  S: {status} {line}" + (f"   {milliseconds(took)}" if name == "data" else ""))
        self._handed_in = time.monotonic()
        self.stage.told("The 250 came after the commit: from here on the mail survives kill -9.")

    def _wait(self, box: Any, what: str) -> Any:
        kind = {"kind": "verify"} if what == "link" else {}
        self.stage.typed(f"postroom inbox wait {box['address']} --for {what}{' --kind verify' if kind else ''}")
        where = f"/mailboxes/{box['id']}/wait"
        found, took = _timed(lambda: self.api.get(where, wait=25.0, timeout=25, **{"for": what}, **kind))
        self.stage.marked(what, found[what], took, "green", "bold")
        if what == "code":
            message = found["message"]
            self.stage.marked("subject", message["subject"], None, "dim")
            self.stage.marked("from", looks.person(message["from"]), None, "dim")
            if found["code"] != self.code:
                raise PostroomError(f"the code was {self.code}")
        return found["message"]

    def _reply(self, message: Any) -> None:
        self.stage.typed(f'curl … /v1/messages/{message["id"]}/reply -d \'{{"text": "{REPLY}"}}\'')
        where = f"/messages/{message['id']}/reply"
        began = time.monotonic()
        made, took = _timed(lambda: self.api.create(where, {"text": REPLY}))
        self.stage.marked(made["status"], made["id"], took)
        from gateway.client import waits  # noqa: PLC0415 - see gateway.commands

        self.api.run(waits.until(self.api.link, made["id"], "delivered", WAIT_SECONDS))
        took = time.monotonic() - began
        self.stage.typed(f"postroom events list --email {made['id']}")
        told = self.api.get("/events", email=made["id"], limit=200)["data"]
        for event in told:
            at = event["created_at"][11:23]
            about = " ".join(part for part in (event["data"].get("recipient"), event["data"].get("reply")) if part)
            style = "green" if event["type"] == "email.delivered" else "cyan"
            self.stage.marked(at, f"{event['type']:<16} {about}", None, style)
        self.stage.told(f"Delivered {milliseconds(took)} after it was asked for; each attempt's dialogue is kept.")

    def _delete(self, path: str) -> None:
        with contextlib.suppress(Exception):  # it expires by itself
            self.api.delete(path)

    # Webhooks

    def _webhook(self, user: Any, then: Any) -> None:
        """The rest of the story, with a server of our own that is told of it."""
        from gateway.client import errors, verify_webhook  # noqa: PLC0415 - see gateway.commands

        with _listening() as (url, told):
            try:
                body = {"url": url, "types": ["message.received"], "mailbox": user["id"]}
                made = self.api.create("/webhooks", body)
            except errors.ApiError as error:
                then()
                self.stage.told(f"Webhooks are left out: {error.message}")
            else:
                self.afterwards.callback(self._delete, f"/webhooks/{made['id']}")
                then()
                self.stage.chapter("Meanwhile a server of the program's own was told, by a signed webhook.")
                headers, content, at = _heard(told)
                event = verify_webhook(content, headers, made["secret"])
                self._show_webhook(headers, event, at)
        self._end()

    def _show_webhook(self, headers: dict[str, str], event: Any, at: float) -> None:
        stage = self.stage
        stage.line("  POST /hook", "dim")
        for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
            stage.line(f"  {name}: {headers[name]}", "dim")
        took = at - self._handed_in
        stage.marked("event", f"{event.type}: {event.data['subject']}", None)
        stage.marked("code", str(event.data["codes"][0]["value"]), None, "green", "bold")
        check = "\N{CHECK MARK} verified with the secret that only the two of them know"
        stage.marked("signature", check, None, "green", "bold")
        when = f"{milliseconds(took)} after the 250" if took > 0 else "before the sender had read its 250"
        stage.told(f"It came {when}. Had nobody answered, it would be told again for days.")

    def _end(self) -> None:
        self.stage.chapter("That was all real. Now yours:")
        page = f"{urlsplit(self.target.url).scheme}://{urlsplit(self.target.url).netloc}"
        self.stage.line(f"  from gateway.client import Postroom     # {page}", "dim")
        self.stage.line("  with Postroom() as postroom, postroom.mailbox() as inbox:")
        self.stage.line("      sign_up(email=inbox.address)")
        self.stage.line("      code = inbox.wait(code=True).code")
        self.stage.told("The mailboxes and the webhook of this story are deleted.")


def _sign_up(to: str, sender: str, code: str) -> bytes:
    lines = (
        f"From: Sprockets & Co. <{sender}>",
        f"To: {to}",
        f"Subject: {code} is your Sprockets code",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
        f"Message-ID: <{secrets.token_hex(8)}@shop.example>",
        "",
        "Welcome to Sprockets & Co.!",
        "",
        f"Your verification code is {code}.",
        "",
        "Or confirm your address here:",
        f"https://shop.example/verify?token={secrets.token_urlsafe(12)}",
        "",
    )
    return "\r\n".join(lines).encode()


def _timed(work: Any) -> tuple[Any, float]:
    began = time.monotonic()
    return work(), time.monotonic() - began


# Being told


Told = queue.Queue[tuple[dict[str, str], bytes, float]]


@contextlib.contextmanager
def _listening() -> Iterator[tuple[str, Told]]:
    """A server on this machine: its URL, and what is posted to it."""
    told: Told = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            told.put(({name.lower(): value for name, value in self.headers.items()}, content, time.monotonic()))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/hook", told
        finally:
            server.shutdown()


def _heard(told: Told) -> tuple[dict[str, str], bytes, float]:
    try:
        return told.get(timeout=WAIT_SECONDS)
    except queue.Empty:
        raise PostroomError(f"no webhook came within {WAIT_SECONDS:g} s: does a worker run?") from None
