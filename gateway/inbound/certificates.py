"""The certificate that listeners show, read anew when its files change.

Whoever renews certificates only has to replace the files. A pair that cannot be used (half written, a key that does
not fit, gone for a moment) is logged once, and the one before stays in use.
"""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from gateway.errors import ConfigurationError
from gateway.settings import Settings

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 2.0  # how long a pair is shown without looking whether the files have changed


class Certificates:
    """The TLS context of the newest pair of files that could be used. ConfigurationError where the first cannot."""

    def __init__(self, chain: Path, key: Path | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._chain = chain
        self._key = key or chain  # one file may hold both
        self._clock = clock
        self._looked = clock()
        self._seen = self._fingerprint()  # of the files as they were last read, usable or not
        try:
            self._context = self._load()
        except OSError as error:
            raise ConfigurationError(f"TLS_CERT_FILE and TLS_KEY_FILE cannot be used: {error}") from error

    def context(self) -> ssl.SSLContext:
        """For the handshake that begins now."""
        now = self._clock()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._look()
        return self._context

    def _look(self) -> None:
        found = self._fingerprint()
        if found == self._seen:
            return
        self._seen = found
        try:
            self._context = self._load()
            log.info("certificate loaded", file=str(self._chain))
        except OSError as error:  # ssl.SSLError is one
            log.warning("certificate not loaded, the one before stays", file=str(self._chain), error=str(error))

    def _fingerprint(self) -> bytes:
        """Of what the files hold; empty while one cannot be read."""
        try:
            return b"".join(hashlib.sha256(file.read_bytes()).digest() for file in (self._chain, self._key))
        except OSError:
            return b""

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996, RFC 8997
        context.load_cert_chain(self._chain, self._key, password=_none)
        if self._fingerprint() != self._seen:
            self._seen = b""  # replaced while it was read: look again
        return context


def _none() -> str:
    """No password: an encrypted key is refused rather than asked for at a terminal."""
    return ""


def of(settings: Settings) -> Certificates | None:
    """None where no certificate is set."""
    if not settings.tls_cert_file:
        return None
    return Certificates(Path(settings.tls_cert_file), Path(settings.tls_key_file) if settings.tls_key_file else None)
