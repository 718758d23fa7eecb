"""What every provider is given, and what it answers.

A provider hands one message for one recipient to a next hop, once, and says what became of it. Trying again is the
queue's business. Trouble with the peer is a verdict, never an exception; what `about_to_commit` raises, and
cancellation, pass through.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

Outcome = Literal[
    "sent",  # the next hop took it
    "delivered",  # the final hop took it
    "deferred",  # not now: a later attempt may succeed
    "bounced",  # refused for good, on account of this recipient or this message
    "failed",  # cannot go this way at all, and the recipient is not to blame (its sender, size or addresses)
    "unknown",  # the line broke after the final dot and before its reply: it may or may not have been taken
    "provider_fault",  # the provider's own trouble (credentials, relaying, quota): blame no recipient, try the next one
]

# How far a dialogue came. Anything before `dot` is known not to have been taken.
Stage = Literal["connect", "greeting", "ehlo", "tls", "auth", "mail", "rcpt", "data", "dot"]

# Awaited right before the point of no return, so that "in data" can be committed first.
AboutToCommit = Callable[[], Awaitable[None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outgoing:
    """One message for one recipient."""

    delivery_id: uuid.UUID  # the recipient's row; the same in every attempt
    account_id: uuid.UUID  # whose it is
    mail_from: str  # reverse path without <>; empty for bounces
    rcpt_to: str  # forward path without <>; exactly one
    raw: bytes  # the message as it is to arrive: CRLF line ends, signed, not dot-stuffed
    return_path: str = ""  # where bounces go instead, of this recipient's alone (VERP); empty = to mail_from
    smtputf8: bool = False  # its headers need SMTPUTF8 (RFC 6531); non-ASCII addresses need it anyway
    author: str = ""  # the address in From, by which rules of routing go; empty = the reverse path stands for it
    tags: tuple[tuple[str, str], ...] = ()  # name and value; for rules of routing

    @property
    def reverse_path(self) -> str:
        """What MAIL FROM says, where the provider says it."""
        return self.return_path or self.mail_from


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What became of one attempt."""

    outcome: Outcome
    reply: str  # what the peer said, or what happened where it said nothing; one line, at most 1,000 characters
    started_at: datetime  # UTC
    finished_at: datetime  # UTC
    stage: Stage | None = None  # where it ended; None where there was no dialogue
    code: int | None = None  # the SMTP reply's code; None = no complete reply came
    enhanced: str | None = None  # RFC 3463 status, such as 5.1.1
    provider_id: str | None = None  # the peer's own id of the message, where its 250 told one
    retry_after: float | None = None  # seconds that the peer asked to wait
    transcript: tuple[str, ...] = ()  # the dialogue, a line each; credentials replaced, the message left out
    remote: str = ""  # host:port/ip of the peer; without the ip where nothing was reached; empty in process
    tls: bool = False  # whether the message went, or would have gone, encrypted
    of_one_domain: bool = False  # it tells of the recipient's domain alone, and nothing of how the provider is


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """What a way out is found to be when it is asked without sending anything."""

    standing: Literal["well", "doubtful", "unwell"]  # doubtful: it may work, but somebody should look
    said: str  # one line for people; credentials replaced
    advice: str = ""  # one sentence; empty where the check knows no better than what was said
    tls: bool = False  # whether the line was encrypted in the end


class Provider(Protocol):
    """A way out."""

    @property
    def name(self) -> str:
        """What callers see, such as `smtp:relay.example:587`; holds no credentials."""

    async def send(self, outgoing: Outgoing, *, about_to_commit: AboutToCommit | None = None) -> Verdict:
        """Hand the message over, once. Until `about_to_commit` has returned nothing that counts has been sent."""

    async def close(self) -> None:
        """Let go of connections; may be called again."""
