"""What was said in a session, as far as it led to one message.

Two parts: how the session began (banner, the last EHLO, STARTTLS, AUTH), kept for every message; and the transaction
under way, forgotten when it is over. Each line says which recipient it is about, if any, so that one recipient's owner
can be shown a message's dialogue without the others': what names a recipient is never about nobody. Secrets are left
out when a line is heard, and so is whatever is no command: a password may be typed anywhere.
"""

from __future__ import annotations

import collections
import functools
from typing import Final

Line = tuple[str, str | None]  # "S: …" or "C: …"; the recipient it is about, as given, or None

MAX_LINES: Final = 200
MAX_LENGTH: Final = 500  # of a line, in characters
MAX_OPENING: Final = 60  # lines of the session's beginning
TAIL: Final = 8  # the transaction's last lines, which are kept whatever had to be left out before them
MAX_HEAD: Final = MAX_LINES - MAX_OPENING - TAIL - 1
LEFT_OUT: Final[Line] = ("…", None)
REDACTED: Final = "***"

_OPENING: Final = frozenset({b"EHLO", b"HELO", b"STARTTLS", b"AUTH"})
_TRANSACTION: Final = frozenset({b"MAIL", b"RCPT", b"DATA", b"BDAT"})
_WHOLE: Final = frozenset({b"EHLO", b"HELO", b"STARTTLS"})
_FORGOTTEN: Final = frozenset({b"RSET", b"QUIT"})  # of no message
_MECHANISMS: Final = frozenset({b"PLAIN", b"LOGIN", b"CRAM-MD5", b"XOAUTH2", b"OAUTHBEARER", b"EXTERNAL"})


class Transcript:
    """Of one session."""

    __slots__ = ("_about", "_base", "_head", "_into", "_omitted", "_opening", "_tail")

    def __init__(self) -> None:
        self._opening: list[Line] = []
        self._base = 0  # lines of it that another EHLO does not replace
        self._head: list[Line] = []
        self._tail: collections.deque[Line] = collections.deque(maxlen=TAIL)
        self._omitted = 0  # lines that came when the head was full
        self._into: list[Line] | None = self._opening  # where lines go; None: they are of no message
        self._about: str | None = None

    def heard(self, verb: bytes | None, line: bytes) -> None:
        """A command with this verb, in upper case; None where it is none that is known."""
        if verb in _TRANSACTION:
            self._into = self._head
            text = _shown(line.decode("utf-8", "replace"))
            self._about = text if verb == b"RCPT" else None  # nobody's, until it is known whose
            self._add("C: " + text)
            return
        self._about = None
        if verb in _OPENING:
            self._begin(verb)
        else:
            self._into = None if verb in _FORGOTTEN else self._head
        self._add("C: " + _guarded(verb, line))

    def about(self, recipient: str) -> None:
        """The command just heard, and its reply, are about this recipient."""
        self._about = recipient
        lines = self._tail if self._omitted else self._head
        lines[-1] = (lines[-1][0], recipient)

    def heard_secret(self) -> None:
        self._add("C: " + REDACTED)

    def content(self, size: int) -> None:
        """The message, or a part of it, of so many bytes."""
        self._add(f"C: <{size} bytes>")

    def said(self, reply: str) -> None:
        if self._into is not None:
            for line in _lines(reply):
                self._add(line)

    def settle(self) -> None:
        """What the session began with stands, whatever EHLO comes next: it is encrypted, or logged in."""
        self._base = len(self._opening)

    def over(self) -> None:
        """The transaction is; the present command's reply goes with it."""
        self._head.clear()
        self._tail.clear()
        self._omitted = 0
        if self._into is self._head:
            self._into = None

    def lines(self) -> tuple[Line, ...]:
        """All that led to the present moment."""
        if not self._omitted:
            return (*self._opening, *self._head)
        gap = (LEFT_OUT,) if self._omitted > TAIL else ()
        return (*self._opening, *self._head, *gap, *self._tail)

    def _begin(self, verb: bytes | None) -> None:
        self._into = self._opening
        if verb in {b"EHLO", b"HELO"}:
            self._base = self._base or min(1, len(self._opening))  # the banner
            del self._opening[self._base :]

    def _add(self, text: str) -> None:
        into = self._into
        if into is self._head:
            if len(into) < MAX_HEAD:
                into.append((text, self._about))
            else:
                self._omitted += 1
                self._tail.append((text, self._about))
        elif into is not None and len(into) < MAX_OPENING:
            into.append((text, self._about))


@functools.lru_cache(maxsize=512)  # most replies are always the same
def _lines(reply: str) -> tuple[str, ...]:
    return tuple("S: " + _shown(line) for line in reply.split("\r\n"))


def _guarded(verb: bytes | None, line: bytes) -> str:
    """What may be shown of a command outside of a transaction: hello whole, of others no more than the verb."""
    if verb is None:
        return REDACTED
    if verb in _WHOLE:
        return _shown(line.decode("utf-8", "replace"))
    name, *arguments = line.split(None, 2)
    shown = name.decode()
    if verb == b"AUTH" and arguments and arguments[0].upper() in _MECHANISMS:
        shown += f" {arguments.pop(0).decode()}"
    return f"{shown} {REDACTED}" if arguments else shown


def _shown(text: str) -> str:
    """In one line with room for "C: " before it, control characters and the like escaped."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:MAX_LENGTH])
    return text if len(text) <= MAX_LENGTH - 3 else text[: MAX_LENGTH - 3]
