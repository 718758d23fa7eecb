"""Where bounces of mail that leaves go: a return path of each delivery's own (gateway.mail.verp), which leads here.

    reverse path asked for    From's domain                               return path at
    <>                        any                                         none: nobody is to be told of anything
    any other                 the account's, its return path verified     bounces.<the verified domain>
    any other                 any other                                   RETURN_PATH_DOMAIN

A tenant's own return domain is an alias of ours (CNAME), so that its MX and its SPF record are ours, and has the
organizational domain of From, so that SPF alone can pass DMARC (RFC 7489 3.1.2, relaxed). At RETURN_PATH_DOMAIN SPF
passes, too, but is aligned with nobody, and DKIM must carry DMARC alone.

Which provider uses it is the provider's business: an SMTP dialogue says it in MAIL FROM, SES is told where its feedback
is to go. Mailgun and Postmark have return paths of their own, and mail that stays in the house keeps its author's.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final
from uuid import UUID

from gateway.errors import Unavailable
from gateway.mail import address, verp
from gateway.storage import db, domains, emails

BELIEVED_SECONDS: Final = 10.0  # how long it is believed which return domain an account's domain has
MAX_KNOWN: Final = 10_000  # domains in memory


class Returning:
    """Gives deliveries their return paths."""

    def __init__(self, database: db.Database, paths: verp.ReturnPaths | None) -> None:
        """`paths`: None = there are none, and bounces go to the author."""
        self._database = database
        self._paths = paths
        self._known: dict[tuple[UUID, str], tuple[float, str]] = {}  # until when it is believed, and the return domain
        self._looking = asyncio.Lock()

    def applies(self, claimed: emails.Claimed) -> bool:
        """Whether its bounces are to come here."""
        return self._paths is not None and claimed.mail_from != ""

    async def path(self, claimed: emails.Claimed) -> str:
        """The return path of a delivery, the same at each attempt as long as the domain's DNS is; empty = none."""
        if self._paths is None or not claimed.mail_from:
            return ""
        domain = await self._domain(claimed.account_id, address.domain_of(claimed.author), self._paths.domain)
        return self._paths.address(claimed.id, domain)

    async def _domain(self, account_id: UUID, author: str, usual: str) -> str:
        """The return domain of mail from this domain; the usual one where the database cannot say."""
        key = (account_id, author)
        if (known := self._believed(key)) is not None:
            return known
        async with self._looking:
            if (known := self._believed(key)) is not None:  # learned while this one waited
                return known
            try:
                found = await self._look(account_id, author, usual)
            except Unavailable:
                return usual
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[key] = (time.monotonic() + BELIEVED_SECONDS, found)
        return found

    def _believed(self, key: tuple[UUID, str]) -> str | None:
        until, domain = self._known.get(key, (0.0, ""))
        return domain if until > time.monotonic() else None

    async def _look(self, account_id: UUID, author: str, usual: str) -> str:
        async with self._database.connection() as connection:
            owned = await domains.owner(connection, author)
            if owned is None or owned[1] != account_id:
                return usual
            name = owned[0]
            leads_here = await domains.is_alias(connection, account_id, name, purpose="return_path", value=usual)
        return verp.own_domain(name) if leads_here else usual
