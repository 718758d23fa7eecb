"""Reads SMTP replies: what one means for a delivery, and what its text tells on the side."""

from __future__ import annotations

import re
from typing import Final

from gateway.outbound.providers.contract import Outcome, Stage

LONGEST_REPLY: Final = 1000  # characters of a reply that are kept
LONGEST_WAIT: Final = 86_400.0  # seconds; a peer that asks for more is not believed

# What 5xx means at each stage, where nothing more particular is known. Before MAIL only the provider can be at fault.
_PERMANENT: Final[dict[Stage, Outcome]] = {
    "connect": "provider_fault",
    "greeting": "provider_fault",
    "ehlo": "provider_fault",
    "tls": "provider_fault",
    "auth": "provider_fault",
    "mail": "failed",
    "rcpt": "bounced",
    "data": "bounced",
    "dot": "bounced",
}
_AUTH_CODES: Final = frozenset({530, 534, 535, 538})  # RFC 4954 section 6: never about a recipient
_AUTH_TEMPORARY: Final = frozenset({432, 454})  # RFC 4954 section 6, as replies to AUTH
OUT_OF_SEQUENCE: Final = 503  # RFC 5321 section 4.2.3: about the dialogue, never about a recipient

# A relay that does not relay for us. With other detail codes the same words may quote a later hop.
_RELAYING = re.compile(
    r"relay(?:ing)? (?:access )?(?:is )?(?:denied|not (?:allowed|permitted)|prohibited)|unable to relay"
    r"|not (?:allowed|permitted|authori[sz]ed) to relay|do(?:es)? not relay|we do not relay"
    r"|authentication (?:is )?required|must (?:first )?authenticate|client (?:was |is )?not authenticated"
    r"|temporary authentication failure",
    re.IGNORECASE,
)
_RELAYING_STATUS: Final = frozenset({None, "5.7.0", "5.7.1", "5.7.3", "5.7.57", "4.7.0", "4.7.1"})
_ACCOUNT = re.compile(r"account\b.{0,40}\b(?:suspended|disabled|paused)|sending\b.{0,40}\bpaused", re.IGNORECASE)
_QUOTA = re.compile(r"daily (?:message |sending |user sending )?(?:quota|limit)|sending quota", re.IGNORECASE)

_STATUS = re.compile(r"\s*([245]\.\d{1,3}\.\d{1,3})(?!\S)")  # RFC 2034: at the head of each line
_QUEUE_IDS = (
    re.compile(r"queued as <?([\w.@/+=-]+)", re.IGNORECASE),  # Postfix, SendGrid, Postroom
    re.compile(r"\bid=([\w.@/+=-]+)", re.IGNORECASE),  # Exim; also Exchange's InternalId=
    re.compile(r"InternalId=(\d+)", re.IGNORECASE),
    re.compile(r"queued\.? \(([\w.-]+)\)", re.IGNORECASE),  # Haraka
    re.compile(r"\bOK\s+\d+ (\S+) - gsmtp", re.IGNORECASE),  # Gmail
    re.compile(r"^(?:2\.\d\.\d )?OK:? (?=\S*\d)([\w.-]{10,})$", re.IGNORECASE),  # SES
)
_WAIT = re.compile(
    r"\b(?:in|after|for|wait|least|every)\s+(?:about\s+|another\s+|approximately\s+)?"
    r"(?:(\d{1,2}):(\d{2}):(\d{2})|(\d{1,6})\s*(s|m|h)(?:ec|econd|in|inute|our|r)?s?)\b",
    re.IGNORECASE,
)
_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}


def classify(stage: Stage, code: int | None, enhanced: str | None, text: str) -> Outcome:
    """What a reply to `stage` means for the delivery; `code` is None where no complete reply came.

    RFC 5321 section 4.2.1: 4yz may be tried again, 5yz not; section 3.8: 421 may come at any time.
    """
    if code is None or not (200 <= code < 300 or 400 <= code < 600):
        return "unknown" if stage == "dot" else "deferred"
    if code < 300:  # before the dot: a reply out of place, from a dialogue that lost step
        return "sent" if stage == "dot" else "deferred"
    if code == 421:
        return "deferred"
    if _is_providers_fault(stage, code, enhanced, text):
        return "provider_fault"
    return "deferred" if code < 500 else _PERMANENT[stage]


def _is_providers_fault(stage: Stage, code: int, enhanced: str | None, text: str) -> bool:
    if code in _AUTH_CODES or (stage == "auth" and code in _AUTH_TEMPORARY):
        return True
    if _QUOTA.search(text):  # SES says 454 for it, at the dot
        return True
    if stage == "dot":
        return False
    if code == OUT_OF_SEQUENCE:
        return True
    if stage == "mail" and _refuses_us(code, enhanced, text):
        return True
    return enhanced in _RELAYING_STATUS and _RELAYING.search(text) is not None


def _refuses_us(code: int, enhanced: str | None, text: str) -> bool:
    """Whether a refused MAIL is the relay's policy against us (5.7.x): no recipient has been named yet."""
    return code >= 500 and ((enhanced or "").startswith("5.7.") or _ACCOUNT.search(text) is not None)


def enhanced_status(text: str) -> str | None:
    """The RFC 3463 status at the head of a reply's text."""
    found = _STATUS.match(text)
    return found[1] if found else None


def queue_id(text: str) -> str | None:
    """The peer's id of the message, from the text of its 250."""
    for pattern in _QUEUE_IDS:
        if found := pattern.search(text):
            return found[1].rstrip(".")
    return None


def retry_after(text: str) -> float | None:
    """Seconds that a text such as "greylisted, try again in 5 minutes" asks to wait."""
    found = _WAIT.search(text)
    if found is None:
        return None
    hours, minutes, seconds, amount, unit = found.groups()
    if amount is not None:
        return min(float(amount) * _UNIT_SECONDS[unit.lower()], LONGEST_WAIT)
    return min(float(int(hours) * 3600 + int(minutes) * 60 + int(seconds)), LONGEST_WAIT)


def one_line(text: str) -> str:
    """The text as one printable line of at most 1,000 characters, storable whatever octets the peer sent."""
    if not (text.isascii() and text.isprintable()):
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text[:LONGEST_REPLY]
