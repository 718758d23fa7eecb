"""What stands between a connection and its session: a PROXY header, and the handshake of a port that is all TLS.

The connection has its place among those that may come in while it stands here, and not for long: a header has
`proxy_seconds` to come, a handshake `handshake_seconds`. Whatever is wrong ends it without a word.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final, cast

import structlog

from gateway import telemetry
from gateway.inbound import protocol, proxy

log = structlog.get_logger(__name__)
seldom: Final = telemetry.Seldom(log)

_EARLY_BYTES: Final = 16_384


class Doorway(asyncio.BufferedProtocol):
    """Of one connection. Buffered: it offers as much room as the header lacks, so what follows is left unread.

    A peer that speaks first may be heard before its handshake begins: uvloop reads from a connection once it is made,
    though it was paused then. What is heard so is handed to the handshake."""

    def __init__(self, session: protocol.InboundSMTP, service: protocol.Service) -> None:
        self._session = session
        self._service = service
        self._tls = service.context if service.implicit_tls else None
        self._loop = asyncio.get_running_loop()
        self._header = b""
        self._early = b""  # came before the handshake began; empty = nothing, as ever on asyncio's own loop
        self._room = bytearray(1)  # where the next bytes come
        self._deadline: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        refusal = self._session.approach(transport)
        if refusal is not None:
            self._turn_away(refusal)
        elif proxy.is_trusted(self._service.proxies, self._session.remote_ip):
            self._deadline = self._loop.call_later(self._service.limits.proxy_seconds, self._reject, "late")
        else:
            self._transport.pause_reading()
            self._enter(self._session.remote_ip)

    def connection_lost(self, error: Exception | None) -> None:
        self._cancel_deadline()
        self._session.leave()

    def get_buffer(self, sizehint: int) -> bytearray:
        self._room = bytearray(_EARLY_BYTES if self._is_past_header else max(1, proxy.missing(self._header)))
        return self._room

    @property
    def _is_past_header(self) -> bool:
        return self._deadline is None

    def buffer_updated(self, nbytes: int) -> None:
        if self._is_past_header:
            self._early += self._room[:nbytes]
            self._transport.pause_reading()
            return
        self._header += self._room[:nbytes]
        try:
            if proxy.missing(self._header):
                return
            address = proxy.source(self._header)
        except proxy.Malformed:
            self._reject("malformed")
            return
        self._cancel_deadline()
        self._transport.pause_reading()
        self._enter(address or self._session.remote_ip)

    def _reject(self, why: str) -> None:
        seldom.warning("no PROXY header", proxy=self._session.remote_ip, why=why)
        self._cancel_deadline()
        self._transport.abort()

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _enter(self, address: str) -> None:
        """Goes on to the session, now that the client's address is known."""
        refusal = self._session.identify(address)
        if refusal is not None:
            self._turn_away(refusal)
        elif self._tls is not None:
            self._session.handshake = self._loop.create_task(self._encrypt(self._tls()))
        else:
            self._transport.set_protocol(self._session)
            self._session.connection_made(self._transport)
            self._transport.resume_reading()

    def _hand_over(self) -> None:
        """What came early goes to whoever has the connection now."""
        handshake = cast("asyncio.BufferedProtocol", self._transport.get_protocol())
        while self._early and handshake is not self:
            room = memoryview(handshake.get_buffer(len(self._early)))
            some, self._early = self._early[: len(room)], self._early[len(room) :]
            room[: len(some)] = some
            handshake.buffer_updated(len(some))

    async def _encrypt(self, context: ssl.SSLContext) -> None:
        session = self._session
        shaking = self._loop.create_task(
            self._loop.start_tls(
                self._transport,
                session,
                context,
                server_side=True,
                ssl_handshake_timeout=self._service.limits.handshake_seconds,
            )
        )
        try:
            if self._early:
                await asyncio.sleep(0)  # it has its connection in the loop's next turn
                self._loop.call_soon(self._hand_over)
            encrypted = await shaking
        except (OSError, ssl.SSLError) as error:
            seldom.info(
                "tls handshake failed",
                session_id=session.session_id,
                remote_ip=session.remote_ip,
                error=type(error).__name__,
            )
            self._transport.abort()
            session.leave()
            return
        if session.arrived and encrypted is not None:  # not gone again meanwhile
            session.connection_made(encrypted)

    def _turn_away(self, refusal: str) -> None:
        if self._tls is not None:  # nobody would understand it
            self._transport.close()
        else:
            protocol.turn_away(self._transport, refusal)
