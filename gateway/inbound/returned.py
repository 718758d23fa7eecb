"""Mail that comes to return paths: reports of what became of mail that left here, or what pretends to be one.

    the path is genuine (its HMAC is right)   the mail is kept as it came, committed before its 250, and applied later
                                              by a worker that looks for what was kept (gateway.outbound.feedback)
    complaints@RETURN_PATH_DOMAIN             the same, where the mail itself names a genuine path: feedback loops write
                                              to the address that they were given, and return the mail (RFC 5965 2)
    anything else at RETURN_PATH_DOMAIN       taken with the same reply, and dropped like mail for anybody unknown

What a genuine path received need not be a report: vacation notes come there, too. That is found out when it is applied.
Nothing is ever answered: a bounce is the end of a mail's way (RFC 5321 6.1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final
from uuid import UUID

import prometheus_client
import structlog

from gateway.inbound.placing import Recipient
from gateway.mail import dsn, verp
from gateway.storage import callbacks, db

log = structlog.get_logger(__name__)

# outcome: "kept", "repeated", "over" (too many of one mail: not kept), "forged" (by recipient)
RETURNED = prometheus_client.Counter("postroom_returned_mail", "Mail that came to return paths", ["outcome"])

MAX_KEPT: Final = dsn.MAX_READ  # octets of each that are kept; what a report says stands in front


class Returned:
    """Knows return paths, and keeps what comes to them."""

    def __init__(self, database: db.Database, paths: verp.ReturnPaths | None) -> None:
        """`paths`: None = there are none."""
        self._database = database
        self._paths = paths

    def takes(self, recipient: Recipient) -> bool:
        """Whether it is a return path, or looks like one of RETURN_PATH_DOMAIN."""
        return self._looks_so(recipient) or self.delivery(recipient) is not None

    def delivery(self, recipient: Recipient) -> UUID | None:
        """The delivery whose return path it is; None = it is none, or forged."""
        return self._paths.delivery(_path(recipient)) if self._paths else None

    def others(self, recipients: Iterable[Recipient]) -> Sequence[Recipient]:
        """Those that are no return paths; forged ones lead nowhere, whoever has a mailbox of that name."""
        found = []
        for recipient in recipients:
            if self._looks_so(recipient) and self.delivery(recipient) is None:
                RETURNED.labels("forged").inc()
                found.append(recipient.to_nobody())
            elif self.delivery(recipient) is None:
                found.append(recipient)
        return found

    async def keep(self, recipients: Iterable[Recipient], raw: bytes) -> None:
        """Keep the mail for each delivery that it came about; returns after the commit. Raises Unavailable."""
        about = [self._named(recipient, raw) or self.delivery(recipient) for recipient in recipients]
        for delivery_id in dict.fromkeys(filter(None, about)):
            RETURNED.labels(await self._keep(delivery_id, raw)).inc()

    async def _keep(self, delivery_id: UUID, raw: bytes) -> str:
        report = callbacks.Callback(
            provider=callbacks.MAIL,
            event_id=_digest(delivery_id, raw),
            provider_id=str(delivery_id),
            payload=raw[:MAX_KEPT],
        )
        async with self._database.transaction() as connection:
            has_room = await callbacks.has_room(connection, delivery_id)
            outcome = "over" if not has_room else "kept" if await callbacks.keep(connection, report) else "repeated"
        log.info("report came", outcome=outcome, delivery_id=str(delivery_id), report_id=report.event_id)
        return outcome

    def _named(self, recipient: Recipient, raw: bytes) -> UUID | None:
        """The delivery that the mail names, where that is asked."""
        if self._paths is None or _path(recipient).lower() != f"{verp.COMPLAINTS}@{self._paths.domain}":
            return None
        return self._paths.named(raw[:MAX_KEPT])

    def _looks_so(self, recipient: Recipient) -> bool:
        return self._paths is not None and self._paths.is_ours(_path(recipient))


def _path(recipient: Recipient) -> str:
    return f"{recipient.given.rpartition('@')[0]}@{recipient.domain}"


def _digest(delivery_id: UUID, raw: bytes) -> str:
    """The same for the same report by another way: the header, with the traces of its way, is left out."""
    _, _, body = raw.partition(b"\r\n\r\n")
    return hashlib.sha256(delivery_id.bytes + (body.strip() or raw)).hexdigest()
