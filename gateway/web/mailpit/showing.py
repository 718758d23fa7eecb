"""Mailpit's shapes: lists in snake_case of messages in PascalCase."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from gateway.mail import header, parse
from gateway.storage import mails
from gateway.web.mailpit import asking

INLINE: Final = "inline"  # the disposition of what stands among Inline
_LINK = re.compile(r"<\s*((?:https?|mailto):[^>\s]{1,2000})\s*>", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class People:
    """Whom a mail's header and its envelope name."""

    sender: header.NamedAddress
    to: tuple[header.NamedAddress, ...]
    cc: tuple[header.NamedAddress, ...]
    bcc: tuple[header.NamedAddress, ...]  # those of the envelope, too, whom the header does not name
    reply_to: tuple[header.NamedAddress, ...]


def people(head: header.Head, rcpt_to: Sequence[str]) -> People:
    """`rcpt_to`: for whom it came, as far as the caller may know."""
    named = {name: _addresses(head, name) for name in ("from", "to", "cc", "bcc", "reply-to")}
    known = {one.address.lower() for name in ("to", "cc", "bcc") for one in named[name]}
    blind = tuple(header.NamedAddress(name=None, address=given) for given in rcpt_to if given.lower() not in known)
    return People(
        sender=next(iter(named["from"]), header.NamedAddress(name=None, address="")),
        to=named["to"],
        cc=named["cc"],
        bcc=(*named["bcc"], *blind),
        reply_to=named["reply-to"],
    )


def _addresses(head: header.Head, name: str) -> tuple[header.NamedAddress, ...]:
    found = [one for field, value in head.fields if field.lower() == name for one in header.addresses(value)]
    return tuple(found[: header.MAX_MAILBOXES])


def names(mail: mails.Mail, terms: Iterable[asking.HeaderTerm]) -> bool:
    """Whether the mail's header names all of them, and none of those that it must not."""
    found = people(header.scan(mail.head), mail.rcpt_to)
    return all(_holds(found, term) != term.negated for term in terms)


def _holds(found: People, term: asking.HeaderTerm) -> bool:
    fields: Mapping[asking.Field, Sequence[header.NamedAddress]] = {
        "cc": found.cc,
        "bcc": found.bcc,
        "reply-to": found.reply_to,
        "addressed": (found.sender, *found.to, *found.cc, *found.bcc, *found.reply_to),
    }
    wanted = term.value.casefold()
    return any(wanted in f"{one.name or ''} {one.address}".casefold() for one in fields[term.field])


# Lists


def page(
    standing: mails.Standing, tags: Iterable[str], shown: Sequence[mails.Mail], found: Sequence[mails.Found], start: int
) -> dict[str, Any]:
    """MessagesSummary."""
    return {
        "total": standing.total,
        "unread": standing.unread,
        "count": len(shown),
        "messages_count": len(found),
        "messages_unread": sum(not one.seen for one in found),
        "start": start,
        "tags": list(tags),
        "messages": [summary(mail) for mail in shown],
    }


def summary(mail: mails.Mail) -> dict[str, Any]:
    """MessageSummary."""
    copy = mail.copy
    return {
        **_common(mail, people(header.scan(mail.head), mail.rcpt_to)),
        "Read": mail.seen,
        "Subject": copy.subject,
        "Created": moment(copy.received_at),
        "Attachments": copy.attachment_count,
        "Snippet": copy.snippet,
    }


def _common(mail: mails.Mail, found: People) -> dict[str, Any]:
    return {
        "ID": str(mail.id),
        "MessageID": (mail.copy.message_id or "").strip("<>"),
        "From": _person(found.sender),
        "To": [_person(one) for one in found.to],
        "Cc": [_person(one) for one in found.cc],
        "Bcc": [_person(one) for one in found.bcc],
        "ReplyTo": [_person(one) for one in found.reply_to],
        "Username": "",
        "Tags": list(mail.tags),
        "Size": mail.copy.size,
    }


def _person(one: header.NamedAddress) -> dict[str, str]:
    return {"Name": one.name or "", "Address": one.address}


def moment(value: datetime) -> str:
    """RFC 3339 with milliseconds, as Mailpit keeps them."""
    return f"{value:%Y-%m-%dT%H:%M:%S}.{value.microsecond // 1000:03d}Z"


# A message


def message(mail: mails.Mail, shown: parse.Shown, contents: Mapping[int, bytes]) -> dict[str, Any]:
    """Message; `contents`: of attachments by their index, those that could be had."""
    parsed = shown.parsed
    head = header.scan(mail.head)
    files: dict[bool, list[dict[str, Any]]] = defaultdict(list)
    for one in parsed.attachments:
        files[one.disposition == INLINE].append(attachment(one, contents.get(one.index)))
    return {
        **_common(mail, people(head, mail.rcpt_to)),
        "Read": True,
        "ReturnPath": mail.copy.mail_from,
        "Subject": parsed.subject,
        "ListUnsubscribe": _unsubscribing(head),
        "Date": moment(parsed.date or mail.copy.received_at),
        "Text": _body(shown.text),
        "HTML": _body(shown.html),
        "Inline": files[True],
        "Attachments": files[False],
    }


def _body(encoded: bytes) -> msgspec.Raw:
    return msgspec.Raw(b'""' if encoded == b"null" else encoded)


def attachment(one: parse.Attachment, content: bytes | None) -> dict[str, Any]:
    """Attachment. MD5 and SHA-1 are empty where its octets are not at hand."""
    return {
        "PartID": str(one.index + 1),
        "FileName": one.filename or "",
        "ContentType": one.content_type,
        "ContentID": one.content_id or "",
        "Size": one.size,
        "Checksums": {
            "MD5": "" if content is None else hashlib.md5(content, usedforsecurity=False).hexdigest(),
            "SHA1": "" if content is None else hashlib.sha1(content, usedforsecurity=False).hexdigest(),
            "SHA256": one.sha256,
        },
    }


def _unsubscribing(head: header.Head) -> dict[str, Any]:
    """RFC 2369 3.2 and RFC 8058, as they stand there; at most one link of each kind."""
    value = head.first("list-unsubscribe") or ""
    by_kind = {link.partition(":")[0].lower().removesuffix("s"): link for link in reversed(_LINK.findall(value))}
    return {
        "Header": value,
        "Links": [by_kind[kind] for kind in ("mailto", "http") if kind in by_kind],
        "Errors": "",
        "HeaderPost": head.first("list-unsubscribe-post") or "",
    }


def headers(raw: bytes) -> dict[str, list[str]]:
    """Every header field as it was sent, names in the case that Go writes them in, in the order of the alphabet."""
    fields: dict[str, list[str]] = defaultdict(list)
    for name, value in header.scan(raw).fields:
        fields["-".join(word.capitalize() for word in name.split("-"))].append(value)
    return dict(sorted(fields.items()))
