"""Provider `postmark`: `POST /email`, which takes no raw message, only fields of JSON.

So the composed message is taken apart again. Kept: From, Reply-To, Subject, the first text and the first HTML, every
attachment with its name, type and Content-ID, and every other header, Message-ID among them. Not kept: the parts'
order, nesting and encodings; names and parameters of their headers beyond those; To and Cc, for Postmark sends to
whom they name: each recipient reads their own address in To. Our DKIM signature would not verify and is left out,
Postmark's own takes its place; it writes the reverse path and, unless the header is there, the date. Who needs the
octets as they are sends by `smtp://TOKEN:TOKEN@smtp.postmarkapp.com:587`.
"""

from __future__ import annotations

import base64
import email
import email.policy
import email.utils
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any, Final

import msgspec

from gateway.outbound.providers import http
from gateway.outbound.providers.contract import Health, Outgoing

ENDPOINT: Final = "https://api.postmarkapp.com"

# Said by fields, made anew by Postmark, or not true of what it makes
_NOT_COPIED: Final = frozenset(
    {"from", "to", "cc", "bcc", "reply-to", "subject", "return-path", "received", "dkim-signature", "mime-version"}
    | {"content-type", "content-transfer-encoding", "content-disposition", "content-id"}
)
# ErrorCode, by Postmark's "API error codes". Of the whole account: its token, credit, approval, streams
_ACCOUNT: Final = frozenset({10, 405, 412, 413, 1235})
_SENDER: Final = frozenset({400, 401})  # no sender signature, or not confirmed
_BUSY: Final = frozenset({100, 429})
_INACTIVE: Final = 406  # it bounced or complained before
_INVALID: Final = 300  # of which the words tell whether an address is meant


@dataclass(frozen=True, kw_only=True, slots=True)
class Postmark:
    """One server of Postmark's."""

    token: str = field(repr=False)  # of the server
    stream: str = ""  # message stream; empty = `outbound`

    @property
    def name(self) -> str:
        """`postmark`, or `postmark:stream`."""
        return f"postmark:{self.stream}" if self.stream else "postmark"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The token."""
        return (self.token,)

    def request(self, outgoing: Outgoing) -> http.Request:
        """The message's fields."""
        fields = _fields(outgoing)
        if self.stream:
            fields["MessageStream"] = self.stream
        return http.Request(
            path="/email",
            headers={"x-postmark-server-token": self.token, "content-type": "application/json"},
            content=msgspec.json.encode(fields),
        )

    def is_spent(self, text: str) -> bool:
        """Never: it has other answers for that."""
        return False

    def question(self) -> http.Request:
        """The server that the token is of. Its answer holds tokens: nothing of it is shown but its name."""
        headers = {"x-postmark-server-token": self.token}
        return http.Request(method="GET", path="/server", headers=headers, content=b"")

    def health(self, answer: http.Answer) -> Health:
        """By `DeliveryType`: a sandbox server delivers nothing."""
        members = answer.members()
        name = str(members.get("Name", "?"))[:100]
        if answer.status == 200 and members.get("DeliveryType") == "Sandbox":
            advice = "Use the token of a live server, unless mail is to be swallowed here."
            return Health(standing="doubtful", said=f"Postmark's server {name} is a sandbox", advice=advice)
        if answer.status == 200 and "ID" in members:
            return Health(standing="well", said=f"Postmark knows the token, of server {name}")
        code = members.get("ErrorCode")
        said = f"{answer.status} {answer.text('Message')}" + (f" (ErrorCode {code})" if code else "")
        return Health(standing="unwell", said=said, advice="Check the server token in OUTBOUND.")

    def read(self, answer: http.Answer) -> http.Reading:
        """By ErrorCode; 0 is none."""
        members = answer.members()
        code = members.get("ErrorCode", 0)
        text = answer.text("Message")
        if answer.status < 300 and code == 0:
            found = members.get("MessageID")
            return http.Reading(outcome="sent", text=text, provider_id=found if isinstance(found, str) else None)
        return _refused(answer.status, code if isinstance(code, int) else 0, text)


def _refused(status: int, code: int, text: str) -> http.Reading:
    said = f"{text} (ErrorCode {code})" if code else text
    if code in _SENDER:
        return http.Reading(outcome="provider_fault", text=said, stage="mail")
    if code in _BUSY or status == 408:
        return http.Reading(outcome="deferred", text=said)
    if code == _INACTIVE or (code == _INVALID and "'To'" in text):
        return http.Reading(outcome="bounced", text=said, stage="rcpt")
    if code in _ACCOUNT or status in {401, 403, 404}:
        return http.Reading(outcome="provider_fault", text=said, stage="auth")
    return http.Reading(outcome="failed", text=said)


def _fields(outgoing: Outgoing) -> dict[str, Any]:
    message = email.message_from_bytes(outgoing.raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)  # noqa: S101 - by that policy
    fields: dict[str, Any] = {
        "From": _header(message, "from") or outgoing.mail_from,
        "To": outgoing.rcpt_to,
        "Subject": _header(message, "subject"),
        "TrackOpens": False,
        "TrackLinks": "None",
        "Headers": [
            {"Name": name, "Value": _header(message, name, nth)}
            for name, nth in _numbered(message.keys())
            if name.lower() not in _NOT_COPIED
        ],
    }
    if reply_to := _header(message, "reply-to"):
        fields["ReplyTo"] = reply_to
    _add_parts(message, fields)
    return fields


def _add_parts(message: EmailMessage, fields: dict[str, Any]) -> None:
    attachments: list[dict[str, str]] = []
    for part in _leaves(message):
        kind = {"text/plain": "TextBody", "text/html": "HtmlBody"}.get(part.get_content_type())
        is_body = kind and part.get_content_disposition() != "attachment" and not part.get_filename()
        if kind and is_body and kind not in fields:
            fields[kind] = _text(part)
        else:
            attachments.append(_attachment(part, len(attachments) + 1))
    if not {"TextBody", "HtmlBody"} & fields.keys():
        fields["TextBody"] = " "  # Postmark refuses a message without a body
    if attachments:
        fields["Attachments"] = attachments


def _leaves(part: EmailMessage) -> list[EmailMessage]:
    """The parts that hold something; a message within the message is one."""
    if part.get_content_maintype() != "multipart" or not part.is_multipart():
        return [part]
    return [leaf for child in part.iter_parts() if isinstance(child, EmailMessage) for leaf in _leaves(child)]


def _attachment(part: EmailMessage, number: int) -> dict[str, str]:
    content_type = part.get_content_type()
    name = part.get_filename() or f"attachment-{number}{'.eml' if content_type == 'message/rfc822' else ''}"
    told = {
        "Name": name,
        "Content": base64.b64encode(_octets(part)).decode(),
        "ContentType": content_type,
    }
    if content_id := str(part.get("content-id", "")).strip().strip("<>"):
        told["ContentID"] = f"cid:{content_id}"
    return told


def _octets(part: EmailMessage) -> bytes:
    if part.is_multipart():  # message/rfc822 holds a message, not octets
        return b"".join(child.as_bytes() for child in part.iter_parts())
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _text(part: EmailMessage) -> str:
    charset = part.get_content_charset("utf-8")
    try:
        return _octets(part).decode(charset, "replace")
    except LookupError:  # no such charset
        return _octets(part).decode("utf-8", "replace")


def _header(message: EmailMessage, name: str, nth: int = 0) -> str:
    """A header's value, decoded, on one line, whatever octets it had."""
    values = message.get_all(name, [])
    text = str(values[nth]) if nth < len(values) else ""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return " ".join(text.splitlines()).strip()


def _numbered(names: list[str]) -> list[tuple[str, int]]:
    """Each name with how often it came before."""
    seen: dict[str, int] = {}
    numbered = []
    for name in names:
        numbered.append((name, seen.get(name.lower(), 0)))
        seen[name.lower()] = seen.get(name.lower(), 0) + 1
    return numbered
