"""What the dashboard gives a browser to keep: sessions, sign-in tickets, and a word for the next page.

Each is encrypted and authenticated under a key that SECRET_KEY gives for its purpose alone (AES-256-GCM,
`tokens.Keyring.seal`). None holds an API key: a session and a ticket hold the SHA-256 by which the database knows one,
so that the key is looked up anew at each request and its end is theirs.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import time
from typing import Any, Final

import msgspec

from gateway import tokens

SESSION_SECONDS: Final = 7 * 86_400
TICKET_SECONDS: Final = 86_400
SAID_SECONDS: Final = 60
TICKET_PREFIX: Final = "pr_tkt_"  # so that logs mask it (gateway.telemetry) and scanners find it
_SESSION_PREFIX: Final = "pr_ses_"
_MAX: Final = 4096  # characters; more is nothing of ours


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One browser, signed in or about to."""

    nonce: bytes  # what its forms' tokens are made of; another one at each sign-in
    key_hash: bytes = b""  # of the API key; empty = nobody has signed in
    until: int = 0  # Unix time


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What the next page says once."""

    text: str
    kind: str = "good"  # or "bad"


class _Ticket(msgspec.Struct, frozen=True, kw_only=True):
    key_hash: bytes
    until: int


class Seals:
    """Those of one SECRET_KEY; what was sealed under those before it is read, too."""

    def __init__(self, keyring: tokens.Keyring) -> None:
        self._keyring = keyring

    @property
    def instance(self) -> str:
        """Tells this gateway from one at another port of the same host: cookies know no ports (RFC 6265 8.5)."""
        return self._keyring.derive("dashboard-instance").hex()[:8]

    def session(self, session: Session) -> str:
        return _SESSION_PREFIX + self._seal("dashboard-session", session)

    def read_session(self, text: str) -> Session | None:
        """None = it is none, or over."""
        found: Session | None = self._unseal("dashboard-session", text.removeprefix(_SESSION_PREFIX), Session)
        return found if found is not None and found.until > time.time() else None

    def ticket(self, api_key: str, seconds: float = TICKET_SECONDS) -> str:
        """What stands in a link that signs in with this key."""
        ticket = _Ticket(key_hash=tokens.hash_token(api_key), until=int(time.time() + seconds))
        return TICKET_PREFIX + self._seal("dashboard-ticket", ticket)

    def read_ticket(self, text: str) -> tuple[bytes, bool]:
        """The key's hash, and whether it still holds. Raises tokens.Unreadable."""
        found = self._unseal("dashboard-ticket", text.removeprefix(TICKET_PREFIX), _Ticket)
        if found is None:
            raise tokens.Unreadable
        return found.key_hash, found.until > time.time()

    def said(self, said: Said) -> str:
        return self._seal("dashboard-said", said)

    def read_said(self, text: str) -> Said | None:
        found: Said | None = self._unseal("dashboard-said", text, Said)
        return found

    def form_token(self, session: Session) -> str:
        """What a form of this session must bring along."""
        digest = hmac.digest(self._keyring.derive("dashboard-forms"), session.nonce, "sha256")
        return base64.urlsafe_b64encode(digest[:18]).decode()

    def is_form_token(self, session: Session, given: str) -> bool:
        return hmac.compare_digest(self.form_token(session).encode(), given.encode())

    def _seal(self, purpose: str, value: Any) -> str:
        sealed = self._keyring.seal(purpose, b"", msgspec.msgpack.encode(value))
        return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def _unseal(self, purpose: str, text: str, shape: type[Any]) -> Any:
        """None = it is not one of ours."""
        if len(text) > _MAX:
            return None
        try:
            sealed = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
            return msgspec.msgpack.decode(self._keyring.unseal(purpose, b"", sealed), type=shape)
        except (binascii.Error, tokens.Unreadable, msgspec.MsgspecError):
            return None


def stranger() -> Session:
    """Before anybody has signed in: good for the sign-in form alone."""
    return Session(nonce=secrets.token_bytes(16), until=int(time.time()) + SESSION_SECONDS)


def signed_in(key_hash: bytes) -> Session:
    return Session(nonce=secrets.token_bytes(16), key_hash=key_hash, until=int(time.time()) + SESSION_SECONDS)
