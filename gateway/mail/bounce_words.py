"""Bounces in words of their own: qmail, Exim, old Postfix and sendmail, Exchange, Yahoo, GroupWise and many others.

No two of them agree on a format, but all of them do the same: a server writes, names a failure, lists whom it could not
reach, and returns the mail below. So there is no reader for each server; there are tables of what servers say to do
each of these, and of where on a line an address stands that is meant. The strongest such place that occurs decides:

    listed      the first word of a line, in the list that a sentence such as "did not reach the following:" opens
    alone       a line of its own, or `<address>:` in front of what was said of it
    named       behind a word such as user, recipient, mailbox, to
    anywhere    else

Strangers choose the bytes: so many lines of so many characters are looked at and no more, and no pattern has two
repetitions side by side that could share what they match.
"""

from __future__ import annotations

import base64
import binascii
import html
import itertools
import quopri
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from gateway.mail import charsets, header

MAX_PROSE: Final = 65_536  # characters that are looked at
MAX_LINES: Final = 400
MAX_LINE: Final = 1000  # characters of each
REACH: Final = 60  # lines behind a sentence that opens a list
SAID_WITHIN: Final = 8  # lines behind an address in which it is said what is wrong with it

_ADDRESS: Final = r"[^\s<>@,;:\"'()\[\]=]{1,64}(?:=[^\s<>@,;:\"'()\[\]=]{1,64}){0,2}@[A-Za-z0-9.-]{1,254}[A-Za-z]"
ADDRESS: Final = re.compile(rf"(?<![^\s<>@,;:\"'()\[\]=]){_ADDRESS}")  # begins where a word does: one try a word


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """One recipient."""

    address: str  # empty = it is not told whose
    said: str  # what the server said, or the sentence that names a failure; may be empty


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What a bounce says."""

    action: Literal["failed", "delayed"]
    refused: tuple[Refused, ...]  # at least one


# Who writes it

_SERVERS: Final = re.compile(
    r"mailer-?daemon|postmaster|mail ?delivery|mdaemon|mail ?(system|administrator|subsystem)|system ?admin|"
    r"delivery subsystem",
    re.IGNORECASE,
)
_AUTOMATIC: Final = re.compile(r"out of (the )?office|auto(matic)?[- ]?(reply|response|answer)|vacation", re.IGNORECASE)

_PASSED_ON: Final = re.compile(r"\s{0,9}(re|fwd?|aw|wg|tr|sv|vs|rv|enc|res)(\[\d{1,3}\])?\s?:", re.IGNORECASE)

_OF_MAIL: Final = re.compile(r"mail|message|undeliver|non-?deliver|delivery (failure|error|status|report)")  # no parcel

_RECEIPT: Final = "disposition-notification"  # RFC 8098: that it was read, or thrown away unread

# What it says

_DELAYED: Final = re.compile(
    r"(has|have) not yet been delivered|(has|have) not been delivered yet|still trying|no action is required|"
    r"will (keep|continue|be (continued|retried|tried again))\b|could not send message for past|has been postponed|"
    r"warning message only|temporarily delayed|delivery (is )?delayed|delay(ed)? \d{1,4} (hour|minute|day)|"
    r"you do not need to resend|could not be delivered (yet|within)",
)
_FAILED: Final = re.compile(
    r"(could|can) ?not be (delivered|reached)|couldn't be delivered|(wasn't|unable|not able) (able )?to deliver|"
    r"undeliver(ed|able)|non-?deliver(able|y)|not (been )?delivered|could not deliver|did not (reach|receive)|"
    r"rejecting mail|fatal errors|delivery (to .{1,80} )?(has )?(been )?(failed|failure|error|aborted)|"
    r"was aborted|could not find|permanent (error|failure|fatal error)|(failed|failure) (to deliver|in delivery)|"
    r"failure notice|(mail|message|delivery|address(es)?) (has )?fail(ed|ure)|failed (mail|address(es)?)|"
    r"user (unknown|not (found|listed))|unknown (user|recipient|address)|no such user|did not (exactly )?match|"
    r"(mail|message)s? (to .{1,80} )?(has been |was )?(automatically )?(returned|rejected|refused|bounced)|"
    r"returned mail|no mailbox|(receiver|recipient|mailbox|account|user|address) (name )?(is |does |has )?(not|unknown|"
    r"been (closed|disabled))|"
    r"addressee unknown|over quota|quota exceeded|following (recipient|address)(s|es|\(s\)|\(es\))? failed|"
    r"(was|were|is) not (accepted|found|recognized)",
)
_ORIGINAL: Final = re.compile(  # from here on it is the mail that came back; every repetition is bounded
    r"^[ \t>*=|]{0,20}-{0,80} ?(below this line is a copy|this is a copy of (the|your) message|"
    r"original message (follows|header|details|as received|attached)|header of the source mail|included is a copy|"
    r"(the )?(text|body|header)s? of (the|your) (original )?message|message (headers?|text|body) (follows?|suppressed)|"
    r"old message|(start of )?(original|returned|unsent|undelivered) message|the first \d{1,4} lines of your original|"
    r"content-type:[ \t]{0,9}(message/rfc822|text/rfc822-headers))",
    re.IGNORECASE | re.MULTILINE,
)
_SAID: Final = re.compile(r"(?<![\d.])[45]\d\d(?:[ -]|: )\S|(?<![\d.])[45]\.\d{1,3}\.\d{1,3}(?![\d.])")

# Whom it could not reach

_OPENS: Final = re.compile(
    r"\b(following|these|those|failed|undeliverable|bad|list of|some)( \w{1,20})? "
    r"(recipient|address|user|person|people|mailbox)|did not (reach|receive)|delivered to:?$|to this address:?$|"
    r"(recipient|address|user)(s|es|\(s\)|\(es\))? (could|did|were|was|had|follow)|not delivered to",
    re.IGNORECASE,
)
_ENDS: Final = re.compile(r"\b(transcript|session|contact|reply to|questions|regards|detail)\b", re.IGNORECASE)
_PREFIX: Final = r"(?:smtp[:=])?"
_LEADING: Final = re.compile(
    rf"[^\w<\"'\[(]{{0,8}}(?:(?:recipient|address|user|to)\b[^\w<\"'\[]{{0,4}})?[<\"'\[(]{{0,3}}{_PREFIX}({_ADDRESS})",
    re.IGNORECASE,
)
_IN_LIST: Final = re.compile(  # X.400 names with the address in them; what an alias was written as
    rf"\b(?:smtp[:=]|(?:expanded|generated|forwarded) from:? ?<?)({_ADDRESS})", re.IGNORECASE
)
_ALONE: Final = re.compile(rf"\W{{0,8}}({_ADDRESS})\W{{0,4}}$|<({_ADDRESS})>:")
_NAMED: Final = re.compile(
    r"\b(?:user|recipient|mailbox|address|account|addressed|reached|rcpt to|gateway for|to|for|smtp)\b"
    rf"[\s:=,\"'<\[(]{{1,4}}{_PREFIX}({_ADDRESS})|\b[45]\d\d[ -][^@]{{0,40}}<({_ADDRESS})>",
    re.IGNORECASE,
)
_NOBODY: Final = re.compile(  # who is told to be asked, and lists' own addresses
    r"(postmaster|mailer-daemon|abuse|support|helpdesk|hostmaster|webmaster|mailman\..*)@|"
    r".{1,64}-(request|bounces?|owner|admin|errors)@",
    re.IGNORECASE,
)


def read(head: header.Head, text: str) -> Told | None:
    """A mail whose header and whose text behind it these are; None = it is no bounce, or says nothing."""
    subject = header.decode(head.first("subject") or "")[:MAX_LINE]
    if _AUTOMATIC.search(subject) or _is_receipt(head):
        return None
    prose, returned = _prose(head, text[:MAX_PROSE])
    lines = [" ".join(line[:MAX_LINE].split()) for line in prose.split("\n", MAX_LINES)[:MAX_LINES]]
    words = " ".join([subject, *lines]).lower()
    found = _Found.of(head, lines)
    if not _is_bounce(head, subject.lower(), words, found, returned=returned):
        return None
    action: Literal["failed", "delayed"] = "delayed" if _DELAYED.search(words) else "failed"
    return Told(action=action, refused=tuple(_refused(lines, found)) or (Refused(address="", said=_said(lines)),))


def _is_bounce(head: header.Head, subject: str, words: str, found: _Found, *, returned: bool) -> bool:
    by_server = _by_server(head)
    named = _FAILED.search(words) is not None or _DELAYED.search(words) is not None
    if (head.first("auto-submitted") or "").strip().lower().startswith("auto-replied"):  # RFC 3834 5: an answer
        return by_server and named and found.place != "anywhere" and bool(found.at)
    if head.first("x-failed-recipients"):
        return True
    if by_server or _is_report(head):
        return named or (returned and found.place == "alone")  # words of a language that is not in the tables
    if _FAILED.search(subject) is None:
        return False
    return returned or (found.place == "listed" and _OF_MAIL.search(subject) is not None)


def is_persons(head: header.Head) -> bool:
    """Whether somebody answers, or passes on, what may well be a bounce: it is about no mail of ours."""
    if not _PASSED_ON.match(header.decode(head.first("subject") or "")[:MAX_LINE]):
        return False
    return not _is_report(head) and not _by_server(head)


def _is_receipt(head: header.Head) -> bool:
    """A person's; servers use them to reject, too (RFC 5429)."""
    return _RECEIPT in (head.first("content-type") or "")[:MAX_LINE].lower() and not _by_server(head)


def _by_server(head: header.Head) -> bool:
    return _SERVERS.search((head.first("from") or "")[:MAX_LINE]) is not None


def _is_report(head: header.Head) -> bool:
    """By its type, or by a reverse path that names a server."""
    kind = " ".join((head.first("content-type") or "")[:MAX_LINE].lower().split())
    sender = (head.first("return-path") or "")[:MAX_LINE].lower()
    return kind.startswith("multipart/report") or "mailer-daemon" in sender


# Its text


def _prose(head: header.Head, text: str) -> tuple[str, bool]:
    """What the server wrote, as a reader sees it; and whether the mail that came back stands below."""
    encoding = (head.first("content-transfer-encoding") or "").strip().lower()
    parts = _ORIGINAL.split(_undone(encoding, text) if encoding else text, maxsplit=1)
    prose = parts[0]
    if not encoding:
        prose = "".join(_undone_parts(prose))
    if re.search(r"<(html|body|p|br|div|font)\b", prose, re.IGNORECASE):
        prose = _without_tags(prose)
    return prose, len(parts) > 1


_ENCODED: Final = re.compile(
    r"^content-transfer-encoding:[ \t]{0,9}(base64|quoted-printable)\b", re.IGNORECASE | re.MULTILINE
)
_PARTS: Final = 10


def _undone_parts(prose: str) -> Iterator[str]:
    """The prose with the encodings of its parts undone; a part ends where a line begins with two dashes."""
    at = 0
    for found in itertools.islice(_ENCODED.finditer(prose), _PARTS):
        begins = prose.find("\n\n", found.end())
        if found.start() < at or begins < 0:
            continue
        ends = prose.find("\n--", begins)
        ends = len(prose) if ends < 0 else ends
        yield prose[at:begins]
        yield "\n\n" + _undone(found[1].lower(), prose[begins:ends])
        at = ends
    yield prose[at:]


def _undone(encoding: str, text: str) -> str:
    octets = text.encode("utf-8", "replace")
    try:
        if encoding == "base64":
            octets = base64.b64decode(octets)
        elif encoding == "quoted-printable":
            octets = quopri.decodestring(octets)
    except binascii.Error:
        return text
    return octets.decode("utf-8", "replace").replace("\r\n", "\n")


def _without_tags(text: str) -> str:
    """Tags that break lines as line ends; addresses in angle brackets stay, for no tag has an @."""
    broken = re.sub(r"<(?:br|/?p|/?div|/?tr|/?li)\b[^<>@]{0,300}>", "\n", text, flags=re.IGNORECASE)
    return html.unescape(re.sub(r"<[a-z/!][^<>@]{0,300}>", "", broken, flags=re.IGNORECASE)).replace("\xa0", " ")


# Its recipients

Place = Literal["listed", "alone", "named", "anywhere"]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """Addresses, and the line that each stands on."""

    place: Place  # the strongest one that occurs
    at: dict[str, int]  # as written; -1 = not on a line

    @classmethod
    def of(cls, head: header.Head, lines: Sequence[str]) -> _Found:
        if given := ADDRESS.findall((head.first("x-failed-recipients") or "")[:MAX_LINE]):  # Exim, Gmail
            return cls(place="listed", at={one: _line_of(one, lines) for one in given})
        not_meant = _ends_of(head)
        for place, candidates in _by_place(lines):
            at: dict[str, int] = {}
            for address, number in candidates:
                if address.lower() not in not_meant and not _NOBODY.match(address):
                    at.setdefault(address, number)
            if at:
                return cls(place=place, at=at)
        return cls(place="anywhere", at={})


def _by_place(lines: Sequence[str]) -> Iterator[tuple[Place, Iterator[tuple[str, int]]]]:
    yield "listed", _listed(lines)
    yield "alone", _matching(_ALONE, lines)
    yield "named", _matching(_NAMED, lines, anywhere=True)
    yield "anywhere", ((one, number) for number, line in enumerate(lines) for one in _plain(line))


def _plain(line: str) -> list[str]:
    """Addresses in a line that is no boundary between parts."""
    return [] if line.startswith("--") else ADDRESS.findall(line)


def _listed(lines: Sequence[str]) -> Iterator[tuple[str, int]]:
    left = 0  # lines that the list may still have
    for number, line in enumerate(lines):
        found = _LEADING.match(line) or _IN_LIST.search(line)
        if found and left:
            yield found[1], number
        if _OPENS.search(line):
            left = REACH
        elif _ENDS.search(line) and not found:
            left = 0
        left = max(0, left - 1)


def _matching(pattern: re.Pattern[str], lines: Sequence[str], *, anywhere: bool = False) -> Iterator[tuple[str, int]]:
    """Addresses that the pattern's one group that took part holds."""
    for number, line in enumerate(lines):
        matches = pattern.finditer(line) if anywhere else filter(None, [pattern.match(line)])
        for found in matches:
            yield next(filter(None, found.groups())), number


def _ends_of(head: header.Head) -> set[str]:
    """Who wrote the bounce and whom to: not the ones that it is about."""
    fields = ((head.first(name) or "")[:MAX_LINE] for name in ("from", "to", "sender", "errors-to"))
    return {one.lower() for field in fields for one in ADDRESS.findall(field)}


def _line_of(address: str, lines: Sequence[str]) -> int:
    return next((number for number, line in enumerate(lines) if address in line), -1)


# What was said of them


def _refused(lines: Sequence[str], found: _Found) -> Iterator[Refused]:
    numbers = sorted({number for number in found.at.values() if number >= 0})
    of_all = _said(lines)
    for address, number in found.at.items():
        if number < 0:
            yield Refused(address=charsets.clean(address), said=of_all)
            continue
        next_one = next((other for other in numbers if other > number), len(lines))
        own = lines[number : min(next_one, number + SAID_WITHIN)]
        yield Refused(address=charsets.clean(address), said=_said(own) or of_all)


def _said(lines: Sequence[str]) -> str:
    """The first reply of a server's, else the first line that names a failure; empty = neither."""
    return _reply(lines) or charsets.clean(next((line for line in lines if _FAILED.search(line.lower())), ""))


def _reply(lines: Sequence[str]) -> str:
    """The first line with a server's reply from there on, and what it continues on; empty = none."""
    for number, line in enumerate(lines):
        if found := _SAID.search(line):
            continued = itertools.takewhile(bool, lines[number + 1 : number + 3])
            said = charsets.clean(" ".join([line[found.start() :], *continued])[:MAX_LINE])
            return said.replace(": ", " ", 1) if said[3:5] == ": " else said
    return ""
