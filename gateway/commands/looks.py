"""Mail, events and e-mails as people read them in a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from gateway.commands import output
from gateway.commands.output import Column, cell, clean, details, styled

Item = Mapping[str, Any]


def moment(text: str | None) -> str:
    """A time to the minute, in UTC; as the API has it where nobody looks."""
    return text[:16].replace("T", " ") if text and output.is_seen() else cell(text)


def person(one: Item | None) -> str:
    """Name and address."""
    if not one:
        return "-"
    name, address = one.get("name"), one.get("address")
    return f"{name} <{address}>" if name and address else str(address or name or "-")


def best_code(mail: Item) -> str:
    """The code in it that is surest to be one."""
    return str(max(mail["codes"], key=lambda code: code["confidence"])["value"]) if mail["codes"] else ""


MAILBOXES: Final = (
    Column("id", "id", rank=2),
    Column("address", "address"),
    Column("status", "status"),
    Column("messages", "message_count", rank=1),
    Column("expires", lambda box: moment(box["expires_at"]) if box["expires_at"] else "never"),
)
MESSAGES: Final = (
    Column("id", "id"),
    Column("received", lambda mail: moment(mail["received_at"]), rank=1),
    Column("from", lambda mail: person(mail["from"]), is_whole=False),
    Column("subject", "subject", is_whole=False),
    Column("code", best_code),
)
EMAILS: Final = (
    Column("id", "id"),
    Column("created", lambda email: moment(email["created_at"]), rank=1),
    Column("status", "status"),
    Column("to", "to", is_whole=False),
    Column("subject", "subject", is_whole=False),
)


def mailbox(box: Item) -> str:
    """A mailbox."""
    rows = (
        ("address", box["address"]),
        ("id", box["id"]),
        ("status", box["status"]),
        ("messages", str(box["message_count"])),
        ("expires", box["expires_at"] or "never"),
        ("metadata", box["metadata"]),
        ("token", box.get("token")),
        ("cursor", box["cursor"]),
    )
    return details(rows)


def message(mail: Item, *, headers: bool = False) -> str:
    """A whole message: who, what about, what is in it, and its text."""
    parts = [details(_fields(mail) if headers else _about(mail)), details(_found(mail)), body_of(mail)]
    return "\n\n".join(part for part in parts if part)


def _about(mail: Item) -> Iterator[tuple[str, object]]:
    yield "From", person(mail["from"])
    for name in ("to", "cc", "reply_to"):
        yield name.replace("_", "-").capitalize(), [person(one) for one in mail[name]]
    yield "Subject", mail["subject"]
    yield "Date", mail["date"]
    yield "Received", f"{mail['received_at']}, {mail['size']:,} bytes"
    yield "For", [*mail["envelope"]["rcpt_to"], *([f"tag {mail['tag']}"] if mail["tag"] else [])]


def _fields(mail: Item) -> Iterator[tuple[str, object]]:
    yield from ((name, value) for name, value in mail["headers"])


def _found(mail: Item) -> Iterator[tuple[str, object]]:
    """What was read out of it."""
    for code in mail["codes"]:
        yield "code", f"{code['value']}  ({code['confidence']:.0%}, in {code['source']})"
    for link in mail["links"]:
        yield "link", f"{link['kind']}  {link['url']}"
    for one in mail["attachments"]:
        yield (
            "attached",
            f"{one['index']}  {one['filename'] or '(no name)'}  {one['content_type']}  {one['size']:,} bytes",
        )
    verdicts = {name: mail["auth"].get(name) for name in ("spf", "dkim", "dmarc")}
    yield "auth", ", ".join(f"{name} {verdict}" for name, verdict in verdicts.items() if verdict)
    yield "labels", mail["labels"]
    if mail["parse"] != "ok":
        yield "parse", mail["parse"]
    for warning in mail["warnings"]:
        yield "warning", warning


def body_of(mail: Item) -> str:
    """What it says: its text, or what its HTML says."""
    text = mail["text"]
    if not text and mail["html"]:
        from gateway.mail import plain  # noqa: PLC0415 - see gateway.commands

        text = plain.of_html(mail["html"])
    return clean(text or "").rstrip()


def email(one: Item) -> str:
    """A sent e-mail and what became of it."""
    rows = [
        ("id", one["id"]),
        ("status", one["status"]),
        ("from", one["from"]),
        *((name.replace("_", "-"), one[name]) for name in ("to", "cc", "bcc", "reply_to")),
        ("subject", one["subject"]),
        ("tags", [f"{tag['name']}={tag['value']}" for tag in one["tags"]]),
        ("metadata", one["metadata"]),
        ("created", one["created_at"]),
        ("scheduled", one["scheduled_at"]),
        ("expires", one["expires_at"]),
        ("size", f"{one['size']:,} bytes"),
    ]
    return "\n".join([details(rows), "", *map(fate, one["recipients"])])


def fate(recipient: Item) -> str:
    """What became of one recipient."""
    tried = f"{recipient['attempts']} attempt{'s' * (recipient['attempts'] != 1)}"
    by = f" by {recipient['provider']}" if recipient["provider"] else ""
    again = f", again at {recipient['next_attempt_at']}" if recipient["next_attempt_at"] else ""
    said = f": {cell(recipient['reply'])}" if recipient["reply"] else ""
    status = output.state(recipient["status"])
    return f"  {status}  {cell(recipient['address'])}  {tried}{by}{again}{said}"


def attempt(one: Item) -> str:
    """An attempt, with its dialogue."""
    answer = cell(one["reply"]) if one["reply"] else ""
    head = f"{one['number']}. {cell(one['recipient'])}  {one['outcome']}  by {cell(one['provider'])}"
    lines = [styled(head, "bold"), f"   {one['started_at']} to {one['finished_at']}  {answer}".rstrip()]
    lines += [textwrap.indent(clean(line), "     ") for line in one["transcript"]]
    return "\n".join(lines)


_ABOUT: Final[Mapping[str, Callable[[Any], list[Any]]]] = {  # of an event's data, what a person looks for first
    "message.": lambda data: [person(data.get("from")) if data.get("from") else "", data.get("subject", "")],
    "mailbox.": lambda data: [data.get("address", "")],
    "email.": lambda data: [data.get("recipient", ""), data.get("reply") or ""],
    "domain.": lambda data: [data.get("name", "")],
    "webhook.": lambda data: [data.get("url", "")],
}


def event(one: Item) -> str:
    """An event on one line."""
    return "\t".join((one["cursor"], one["created_at"], one["type"], *_about_event(one)))


def coloured_event(one: Item) -> str:
    """The same for a terminal."""
    word = one["type"].rpartition(".")[2]
    name = output.state(word).replace(word, f"{one['type']:<18}") if word else one["type"]
    about = "  ".join(part for part in _about_event(one) if part != "-")
    return f"{styled(one['created_at'][11:19], 'dim')}  {name}  {about}  {styled('#' + one['cursor'], 'dim')}"


def _about_event(one: Item) -> list[str]:
    data = one["data"]
    told = next((about(data) for begin, about in _ABOUT.items() if one["type"].startswith(begin)), [])
    if one["type"] == "message.received" and data.get("codes"):
        told = [*told, f"code {best_code(data)}"]
    ids = [one[name] for name in ("message_id", "email_id", "mailbox_id") if one.get(name)]
    return [*(cell(part) for part in told), ids[0] if ids else "-"]
