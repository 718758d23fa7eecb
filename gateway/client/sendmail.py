"""sendmail(8), as applications call it: `postroom sendmail -t -i < mail`, or this program under the name `sendmail`.

The mail goes to a Postroom by SMTP (POSTROOM_SMTP, or --smtp host:port), else by its API (POSTROOM_URL, or --url); the
key is POSTROOM_API_KEY's, or stands in the file of --key-file. It goes to all of its recipients or to none, and 0 means
that Postroom has it. Everything else is said on standard error and by the exit code, of sysexits.h: 75 (EX_TEMPFAIL)
wherever it may go well later, so that a caller that keeps the mail until 0 never loses one.

    -t                        take the recipients from To, Cc and Bcc, besides those given as arguments
    -i, -oi                   a line with a single dot does not end the mail
    -f, -r address            whom bounces go to; without it the address of From; <> = nobody
    -F name                   the name in From, where the mail has none
    -bs                       speak SMTP on standard input and output
    -v                        say what the server answered
    --smtp, --url, --key-file where Postroom is; environment variables that a server clears can stand here
    --domain name             what follows the @ of addresses without one, such as cron's root
    --                        what follows is a recipient, even if it begins with a dash

Bcc is removed; From, Date, Message-ID and To are written where they are missing. Other options of sendmail's and of
msmtp's are taken and mean nothing here.
"""

from __future__ import annotations

import contextlib
import getopt
import os
import re
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, TextIO

EX_OK: Final = 0
EX_USAGE: Final = 64  # called wrongly, or nobody to write to
EX_DATAERR: Final = 65  # the mail is not taken as it is
EX_NOUSER: Final = 67  # nobody has a recipient's address
EX_NOHOST: Final = 68  # there is no such domain
EX_UNAVAILABLE: Final = 69  # refused for good
EX_TEMPFAIL: Final = 75
EX_NOPERM: Final = 77  # the key is missing, wrong, or may not do this
EX_CONFIG: Final = 78  # nothing says where Postroom is

TIMEOUT: Final = 60.0  # seconds for a connection, and for each answer
TRIES: Final = 3  # of a request to the API

_SHORT: Final = "tiUvnmGxA:B:C:F:L:N:O:R:V:X:a:b:d:f:h:o:p:r:"
_LONG: Final = (
    *("smtp=", "url=", "key-file=", "domain=", "help"),
    *("read-recipients", "from=", "read-envelope-from", "account=", "file="),  # msmtp's
)
_BARE = re.compile(rb"\r\n|\r|\n")
_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")
_DOT = re.compile(rb"(?m)^\.\r?$\n?")
_DROPPED: Final = frozenset((b"bcc", b"resent-bcc", b"return-path"))


class Failed(Exception):
    """The mail is not handed in."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code  # of sysexits.h
        self.message = message
        super().__init__(message)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the command line and the environment say."""

    recipients: tuple[str, ...] = ()
    from_header: bool = False  # recipients are in the header, too
    ignore_dots: bool = False
    sender: str | None = None  # empty = the null reverse path; None = the address of From
    name: str = ""  # for a From that is missing
    mode: str = "m"  # or "s": SMTP on standard input and output
    verbose: bool = False
    smtp: str = ""  # host:port
    url: str = ""
    key: str = field(default="", repr=False)
    domain: str = ""  # of addresses without one; empty = this host's name


@dataclass(frozen=True, kw_only=True, slots=True)
class Mail:
    """What is handed in."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes = field(repr=False)  # lines end with CRLF


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return run(given, os.environ, sys.stdin.buffer, sys.stdout, sys.stderr)


def run(arguments: Sequence[str], environment: Mapping[str, str], source: BinaryIO, out: TextIO, errors: TextIO) -> int:
    """The same with everything that it touches handed to it."""
    try:
        options = read_options(arguments, environment)
        if options is None:
            out.write(f"{__doc__}\n")
            return EX_OK
        if options.mode == "s":
            return _speak(options, source)
        mail = read_mail(options, source.read())
        said = (_by_smtp if options.smtp else _by_api)(options, mail)
    except Failed as failed:
        later = "; nothing is lost: try again" if failed.code == EX_TEMPFAIL else ""
        errors.write(f"sendmail: {failed.message}{later}\n")
        return failed.code
    if options.verbose:
        out.write(f"{said}\n")
    return EX_OK


# What is asked for


def read_options(arguments: Sequence[str], environment: Mapping[str, str]) -> Options | None:
    """None = help is asked for. Raises Failed."""
    given = [argument for argument in _before_recipients(arguments) if not re.fullmatch(r"-q\S*", argument)]
    try:
        pairs, rest = getopt.getopt(given, _SHORT, list(_LONG))
    except getopt.GetoptError as error:
        raise Failed(EX_USAGE, str(error)) from None
    if "--" not in given and (late := next((one for one in rest if one.startswith("-")), "")):
        raise Failed(EX_USAGE, f"{late} stands behind a recipient: options come first, or -- before the recipients")
    named = {name: value for name, value in pairs}  # noqa: C416 - of options that come twice the last one counts
    if "--help" in named:
        return None
    mode = named.get("-b", "m")
    if mode not in ("m", "s"):
        raise Failed(EX_USAGE, f"-b{mode} is not offered: there is no queue here")
    key_file = named.get("--key-file")
    return Options(
        recipients=tuple(rest),
        from_header="-t" in named or "--read-recipients" in named,
        ignore_dots="-i" in named or ("-o", "i") in pairs or ("-O", "IgnoreDots") in pairs,
        sender=_path(named.get("-f", named.get("-r", named.get("--from")))),
        name=named.get("-F", ""),
        mode=mode,
        verbose="-v" in named,
        smtp=named.get("--smtp") or environment.get("POSTROOM_SMTP", ""),
        url=named.get("--url") or environment.get("POSTROOM_URL", ""),
        key=_read(key_file) if key_file else environment.get("POSTROOM_API_KEY", "").strip(),
        domain=named.get("--domain", ""),
    )


def _before_recipients(arguments: Sequence[str]) -> Sequence[str]:
    """-v, -d and -q may have a value that is written right behind them, or none; getopt knows no such thing."""
    return [argument if not re.fullmatch(r"-[dv]\S+", argument) else "-v" for argument in arguments]


def _path(given: str | None) -> str | None:
    return None if given is None else given.strip().removeprefix("<").removesuffix(">")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes longer to import than the rest
            return file.read().strip()
    except OSError as error:
        raise Failed(EX_CONFIG, f"{path}: {error.strerror}") from None


# The mail


def read_mail(options: Options, raw: bytes) -> Mail:
    """What standard input brought, ready to be handed in. Raises Failed: there is nobody to write to."""
    import email.utils  # noqa: PLC0415 - nobody who calls wrongly waits for it

    if not options.ignore_dots and (end := _DOT.search(raw)):
        raw = raw[: end.start()]
    head, body = _parted(_BARE.sub(b"\r\n", raw))
    fields = _fields(head)
    named = _recipients(fields) if options.from_header else []
    recipients = dict.fromkeys(_qualified(one, options) for one in (*_addresses(options.recipients), *named))
    if not recipients:
        raise Failed(EX_USAGE, "no recipients: give them as arguments, or -t")
    author = next(iter(_addresses([_text(value) for name, value in fields if name == b"from"])), "")
    default = _qualified(author or os.environ.get("LOGNAME") or os.environ.get("USER") or "nobody", options)
    kept = [(name, value) for name, value in fields if name not in _DROPPED]
    names = {name for name, _ in kept}
    lines = [value for _, value in kept]
    if b"from" not in names:
        address = options.sender or default
        lines.append(f"From: {email.utils.formataddr((options.name, address))}".encode())
    if b"date" not in names:
        lines.append(f"Date: {email.utils.formatdate(localtime=True)}".encode())
    if b"message-id" not in names:
        lines.append(f"Message-ID: {email.utils.make_msgid(domain=default.rpartition('@')[2])}".encode())
    if not names & {b"to", b"cc"}:
        lines.append(b"To: undisclosed-recipients:;")  # RFC 5322 3.4
    sender = default if options.sender is None else options.sender
    content = b"\r\n".join([*lines, b"", body])
    return Mail(
        sender=_qualified(sender, options) if sender else "",
        recipients=tuple(recipients),
        content=content if content.endswith(b"\r\n") else content + b"\r\n",
    )


def _parted(raw: bytes) -> tuple[list[bytes], bytes]:
    """The header's fields, each with the lines that continue it, and the body. A mbox's From line is left out."""
    lines: list[bytes] = []
    position = 0
    if raw.startswith((b"From ", b">From ")):
        position = raw.find(b"\r\n") + 2
    while position < len(raw):
        end = raw.find(b"\r\n", position)
        end = len(raw) if end < 0 else end
        line = raw[position:end]
        if not line:
            return lines, raw[end + 2 :]
        if line[:1] in b" \t" and lines:
            lines[-1] += b"\r\n" + line
        elif _FIELD.match(line):
            lines.append(line)
        else:  # the empty line is missing: here the body begins
            break
        position = end + 2
    return lines, raw[position:]


def _fields(lines: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """Lower-case names, and whole fields."""
    return [(line.partition(b":")[0].strip().lower(), line) for line in lines]


def _text(value: bytes) -> str:
    """What a field says, unfolded."""
    return value.partition(b":")[2].decode("utf-8", "replace").replace("\r\n", "").strip()


def _recipients(fields: Sequence[tuple[bytes, bytes]]) -> list[str]:
    """A mail that is sent on goes to those it is sent on to (RFC 5322 3.6.6)."""
    resent = [_text(value) for name, value in fields if name in {b"resent-to", b"resent-cc", b"resent-bcc"}]
    return _addresses(resent or [_text(value) for name, value in fields if name in {b"to", b"cc", b"bcc"}])


def _addresses(texts: Sequence[str]) -> list[str]:
    import email.utils  # noqa: PLC0415 - likewise

    return [address for _, address in email.utils.getaddresses(list(texts)) if address]


def _qualified(address: str, options: Options) -> str:
    if "@" in address:
        return address
    host = options.domain or socket.getfqdn()
    return f"{address}@{host if '.' in host else f'{host}.localdomain'}"


# By SMTP


def _place(options: Options) -> tuple[str, int]:
    host, colon, port = options.smtp.strip().rpartition(":")
    if not colon or not port.isdigit():
        raise Failed(EX_CONFIG, f"{options.smtp!r} is no host:port")
    return host.strip("[]"), int(port)


def _by_smtp(options: Options, mail: Mail) -> str:
    """What the server answered to the final dot. Raises Failed."""
    import smtplib  # noqa: PLC0415 - likewise

    host, port = _place(options)
    try:
        with smtplib.SMTP(host, port, timeout=TIMEOUT) as session:
            _greet(session, options, host)
            return _handed(session, mail)
    except smtplib.SMTPResponseException as error:
        raise Failed(_code(error.smtp_code, _reply(error.smtp_error)), _reply(error.smtp_error)) from None
    except smtplib.SMTPNotSupportedError as error:
        raise Failed(EX_UNAVAILABLE, str(error)) from None
    except (smtplib.SMTPException, OSError) as error:  # an OSError of TLS, too
        raise Failed(EX_TEMPFAIL, f"{host}:{port}: {_why(error)}") from None


def _greet(session: Any, options: Options, host: str) -> None:
    """EHLO, TLS where it is offered, and the key where it is asked for; never in the clear to another host."""
    session.ehlo_or_helo_if_needed()
    is_private = host in {"localhost", "127.0.0.1", "::1"}
    if session.has_extn("starttls"):
        import ssl  # noqa: PLC0415 - likewise

        session.starttls(context=ssl._create_unverified_context() if is_private else ssl.create_default_context())  # noqa: S323, SLF001 - to this very host
        session.ehlo()
        is_private = True
    if options.key and session.has_extn("auth") and is_private:
        session.login("sendmail", options.key)


def _handed(session: Any, mail: Mail) -> str:
    """All recipients are taken, or nothing is said."""
    extra = ["body=8bitmime"] if not mail.content.isascii() and session.has_extn("8bitmime") else []
    if not "".join((mail.sender, *mail.recipients)).isascii():
        if not session.has_extn("smtputf8"):
            raise Failed(EX_UNAVAILABLE, "the server takes no addresses beyond ASCII")
        session.command_encoding = "utf-8"
        extra.append("SMTPUTF8")
    _check(session.mail(mail.sender, extra), mail.sender or "<>")
    for recipient in mail.recipients:
        _check(session.rcpt(recipient), recipient)
    answer = session.data(mail.content)
    _check(answer, "the mail")
    return f"{answer[0]} {_reply(answer[1])}"


def _check(answer: tuple[int, Any], about: str) -> None:
    code, text = answer
    if not 200 <= code < 300:
        said = _reply(text)
        raise Failed(_code(code, said), f"{about}: {code} {said}")


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__


def _reply(text: Any) -> str:
    decoded = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return " ".join(decoded.split())


def _code(code: int, said: str) -> int:
    """Of sysexits.h for a refusal (RFC 5321 4.2, RFC 3463)."""
    if 400 <= code < 500 or code < 0:
        return EX_TEMPFAIL
    if said.startswith(("5.1.1", "5.1.6", "5.1.10", "5.2.1")):
        return EX_NOUSER
    if said.startswith("5.1.2"):
        return EX_NOHOST
    if code in (530, 534, 535, 538):
        return EX_NOPERM
    return EX_DATAERR if code in (501, 552, 554) else EX_UNAVAILABLE


def _speak(options: Options, source: BinaryIO) -> int:
    """-bs: what comes from standard input goes to the server, and back."""
    import threading  # noqa: PLC0415 - likewise

    if not options.smtp:
        raise Failed(EX_CONFIG, "-bs needs POSTROOM_SMTP, or --smtp")
    host, port = _place(options)
    try:
        with socket.create_connection((host, port), TIMEOUT) as peer:
            peer.settimeout(None)
            threading.Thread(target=_feed, args=(source, peer), daemon=True).start()
            while answer := peer.recv(65_536):
                sys.stdout.buffer.write(answer)
                sys.stdout.buffer.flush()
    except OSError as error:
        raise Failed(EX_TEMPFAIL, f"{host}:{port}: {_why(error)}") from None
    return EX_OK


def _feed(source: BinaryIO, peer: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while line := source.readline():
            peer.sendall(line if line.endswith(b"\r\n") else line.rstrip(b"\n") + b"\r\n")
        peer.shutdown(socket.SHUT_WR)


# By the API


def _by_api(options: Options, mail: Mail) -> str:
    """The e-mail's id. Raises Failed."""
    import json  # noqa: PLC0415 - likewise
    import uuid  # noqa: PLC0415 - likewise

    if not options.url:
        raise Failed(
            EX_CONFIG, "where is Postroom? Set POSTROOM_SMTP (host:port), or POSTROOM_URL and POSTROOM_API_KEY"
        )
    if not options.key:
        raise Failed(EX_NOPERM, "POSTROOM_API_KEY is not set")
    if not (options.key.isascii() and options.key.isprintable()):  # http.client would say so with the key in it
        raise Failed(EX_NOPERM, "the key holds what no key has: line breaks, or other than ASCII")
    content = json.dumps(_as_email(mail)).encode()
    headers = {
        "Authorization": f"Bearer {options.key}",
        "Content-Type": "application/json",
        "Idempotency-Key": str(uuid.uuid4()),  # so that a second try sends nothing twice
    }
    for left in reversed(range(TRIES)):
        try:
            return _posted(f"{options.url.rstrip('/').removesuffix('/v1')}/v1/emails", content, headers)
        except Failed as failed:
            if failed.code != EX_TEMPFAIL or not left:
                raise
    raise AssertionError("unreachable")


def _posted(url: str, content: bytes, headers: Mapping[str, str]) -> str:
    import http.client  # noqa: PLC0415 - likewise
    import json  # noqa: PLC0415 - likewise
    import urllib.parse  # noqa: PLC0415 - likewise

    parts, port = urllib.parse.urlsplit(url), None
    with contextlib.suppress(ValueError):
        port = parts.port or -1  # -1: the scheme's
    kinds: Mapping[str, Callable[..., http.client.HTTPConnection]] = {
        "http": http.client.HTTPConnection,
        "https": http.client.HTTPSConnection,
    }
    if parts.scheme not in kinds or not parts.hostname or port is None:
        raise Failed(EX_CONFIG, "POSTROOM_URL is no http:// or https:// URL")
    connection = kinds[parts.scheme](parts.hostname, None if port < 0 else port, timeout=TIMEOUT)
    try:
        connection.request("POST", parts.path, content, dict(headers))
        answer = connection.getresponse()
        status, text = answer.status, answer.read(1_048_576)
    except (OSError, http.client.HTTPException) as error:
        raise Failed(EX_TEMPFAIL, f"{parts.hostname}: {_why(error)}") from None
    finally:
        connection.close()
    told: Any = {}
    with contextlib.suppress(ValueError):
        told = json.loads(text)
    if status == 202:
        return f"{status} {told.get('id', '')}"
    said = told.get("message", "") if isinstance(told, dict) else ""
    raise Failed(_of_status(status), f"{status} {said or 'the gateway did not say why'}")


def _of_status(status: int) -> int:
    if status in (401, 403):
        return EX_NOPERM
    return EX_DATAERR if status in (400, 413, 422) else EX_TEMPFAIL


def _as_email(mail: Mail) -> dict[str, Any]:
    """POST /v1/emails writes the mail anew: what cannot be said to it is refused, never left out."""
    import email.policy  # noqa: PLC0415 - likewise

    message: Any = email.message_from_bytes(mail.content, policy=email.policy.default)
    text, html, files = _bodies(message)
    return {
        "from": str(message["from"]),
        "to": _named(message, "to", mail.recipients) or list(mail.recipients),
        **{name: _named(message, name, mail.recipients) for name in ("cc",) if message[name]},
        **_blind(message, mail.recipients),
        **({"reply_to": [str(one) for one in message["reply-to"].addresses]} if message["reply-to"] else {}),
        "subject": str(message["subject"] or ""),
        "text": text or ("" if html else "\n"),
        **({"html": html} if html else {}),
        "headers": {name: str(value) for name, value in message.items() if name.lower() not in _WRITTEN},
        "attachments": files,
    }


_WRITTEN: Final = frozenset(
    (
        *("from", "to", "cc", "subject", "date", "message-id", "mime-version", "sender", "reply-to", "received"),
        *("content-type", "content-transfer-encoding", "content-disposition", "content-id", "content-language"),
        *(
            "dkim-signature",
            "resent-from",
            "resent-sender",
            "resent-to",
            "resent-cc",
            "resent-date",
            "resent-message-id",
        ),
    )
)


def _named(message: Any, name: str, recipients: Sequence[str]) -> list[str]:
    """Those of a field whom it is for."""
    found = message[name].addresses if message[name] else ()
    return [str(one) for one in found if one.addr_spec in recipients]


def _blind(message: Any, recipients: Sequence[str]) -> dict[str, list[str]]:
    open_ = {one.addr_spec for name in ("to", "cc") if message[name] for one in message[name].addresses}
    named = [recipient for recipient in recipients if recipient not in open_]
    return {"bcc": named} if named and open_ & set(recipients) else {}


def _bodies(message: Any) -> tuple[str, str, list[dict[str, Any]]]:
    """Text, HTML and files. Raises Failed for what is signed, encrypted or a report: it must stay as it is."""
    import base64  # noqa: PLC0415 - likewise

    text, html = "", ""
    files: list[dict[str, Any]] = []
    for part in message.walk():
        kind = part.get_content_type()
        if kind in {"multipart/signed", "multipart/encrypted", "multipart/report"}:
            raise Failed(EX_DATAERR, f"{kind} cannot be handed in by the API: set POSTROOM_SMTP")
        if part.is_multipart() and kind != "message/rfc822":
            continue
        is_body = part.get_content_disposition() != "attachment" and not part.get_filename() and not part["content-id"]
        if is_body and kind == "text/plain" and not text:
            text = part.get_content()
        elif is_body and kind == "text/html" and not html:
            html = part.get_content()
        else:
            content = bytes(part.get_payload()[0]) if kind == "message/rfc822" else part.get_payload(decode=True)
            files.append(_file(part, kind, base64.b64encode(content or b"").decode()))
    return text, html, files


def _file(part: Any, kind: str, content: str) -> dict[str, Any]:
    filename = part.get_filename() or ("message.eml" if kind == "message/rfc822" else "attachment")
    content_id = str(part["content-id"] or "").strip("<> ")
    return {"filename": filename, "content": content, "content_type": kind} | (
        {"content_id": content_id} if content_id else {}
    )


if __name__ == "__main__":
    sys.exit(main())
