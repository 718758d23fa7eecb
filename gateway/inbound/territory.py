"""Whose a recipient's domain is, and what happens there to mail for nobody: asked at each RCPT, so remembered briefly.

The domains of MAIL_DOMAINS belong to all accounts and need no look. Any other is looked up in Postgres, and what was
found (or that nothing was) is believed for a few seconds: so long mail for a new domain may be refused, and mail for
one that was given up be taken, to be dropped then.

Domains of return paths (RETURN_PATH_DOMAIN, and bounces.<a tenant's domain>) have no mailboxes: what is not for a
return path of ours (gateway.inbound.returned) is dropped there like mail for anybody unknown.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from gateway.mail import verp
from gateway.settings import Settings
from gateway.storage import db, domains

BELIEVED_SECONDS: Final = 3.0
MAX_REMEMBERED: Final = 10_000  # domains; strangers can ask for any


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """A domain that mail is taken for."""

    owner: UUID | None  # account; None = everybody's
    unknown_recipients: str  # drop, reject, create
    catch_all: UUID | None  # mailbox that takes what nobody else does; None = none
    is_suspended: bool = False  # its owner is: mail is put off


class Territory:
    """All domains that mail is taken for."""

    def __init__(self, database: db.Database, settings: Settings) -> None:
        self._database = database
        self._shared_domains = frozenset(settings.mail_domains)
        self._shared = Ground(owner=None, unknown_recipients=settings.unknown_recipients, catch_all=None)
        self._return_domain = settings.return_path_domain
        self._returns = Ground(owner=None, unknown_recipients="drop", catch_all=None)
        self._elsewhere = self._shared if settings.captures_every_domain else None
        self._remembered: OrderedDict[str, tuple[float, Ground | None]] = OrderedDict()

    async def find(self, domain: str) -> Ground | None:
        """The ground of a domain (lower-case A-labels); None = mail for it is not taken. Raises Unavailable."""
        if domain in self._shared_domains:
            return self._shared
        if domain and domain == self._return_domain:
            return self._returns
        known = self._remembered.get(domain)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        ground = await self._look_up(domain)
        self._remember(domain, ground)
        return ground

    async def _look_up(self, domain: str) -> Ground | None:
        async with self._database.connection() as connection:
            owned = await domains.find(connection, domain)
            above = domain.removeprefix(verp.own_domain(""))
            if owned is None and self._return_domain and above != domain:
                holder = await domains.owner(connection, above)
                return self._returns if holder is not None and holder[0] == above else self._elsewhere
        if owned is None:
            return self._elsewhere
        return Ground(
            owner=owned.account_id,
            unknown_recipients=owned.unknown_recipients,
            catch_all=owned.catch_all,
            is_suspended=owned.is_suspended,
        )

    def _remember(self, domain: str, ground: Ground | None) -> None:
        self._remembered[domain] = (time.monotonic() + BELIEVED_SECONDS, ground)
        self._remembered.move_to_end(domain)
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
