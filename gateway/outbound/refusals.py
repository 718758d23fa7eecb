"""What refusals mean for an account: its own rules first, then the built-in ones; and what is made of the mail by them.

    what came of it           rule says    becomes
    bounced, failed by 5xx    retry        deferred, by the schedule as for a 450; after its last attempt what it was
    deferred by 4xx           bounce       bounced; of the account's own rules only
    anything else                          what it is

A rule has a say only where a mail server refused the sender, the recipient or the message: never where the trouble is
the line's, a provider's with us, or ours, nor over what the APIs of providers answer.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from gateway.mail import classify
from gateway.outbound.providers.contract import Outcome
from gateway.outbound.providers.local import LocalProvider
from gateway.outbound.route import Try
from gateway.storage import bounce_rules, callbacks, db

VALID_SECONDS: Final = 3.0  # how long an account's rules are taken to be what they were
MOST_ACCOUNTS: Final = 1000  # whose rules are kept in this process
READ: Final[frozenset[Outcome]] = frozenset({"deferred", "bounced", "failed", "provider_fault", "unknown"})


@dataclass(frozen=True, kw_only=True, slots=True)
class _Known:
    until: float  # monotonic
    rules: Sequence[classify.Own]


class Rules:
    """Accounts' own rules as they were a few seconds ago at most, so that a wave of refusals is no wave of queries."""

    def __init__(self, database: db.Database, *, valid_seconds: float = VALID_SECONDS) -> None:
        self._database = database
        self._valid_seconds = valid_seconds
        self._known: OrderedDict[UUID, _Known] = OrderedDict()  # in the order in which they were looked up

    async def of(self, account_id: UUID, connection: db.Connection | None = None) -> Sequence[classify.Own]:
        """In the order in which they are looked at. Raises Unavailable."""
        known = self._known.get(account_id)
        if known is not None and time.monotonic() < known.until:
            return known.rules
        until = time.monotonic() + self._valid_seconds
        if connection is not None:
            return self._keep(account_id, await bounce_rules.all_of(connection, account_id), until)
        async with self._database.connection() as own:
            return self._keep(account_id, await bounce_rules.all_of(own, account_id), until)

    def _keep(self, account_id: UUID, found: Sequence[bounce_rules.BounceRule], until: float) -> Sequence[classify.Own]:
        known = _Known(until=until, rules=[rule.own() for rule in found])
        self._known[account_id] = known
        self._known.move_to_end(account_id)
        while len(self._known) > MOST_ACCOUNTS:
            self._known.popitem(last=False)
        return known.rules


def explained(tried: Try, own: Sequence[classify.Own] = ()) -> classify.Classified | None:
    """Which rule an attempt's outcome is read by; None = the mail was taken."""
    verdict = tried.verdict
    if verdict.outcome not in READ:
        return None
    if verdict.outcome == "unknown" or (tried.provider and verdict.code is None and verdict.enhanced is None):
        return classify.by(classify.NO_REPLY)
    if not tried.provider:
        return classify.by(classify.UNSENT)
    return classify.classify(_said(tried), verdict.enhanced or "", own)


def outcome(tried: Try, found: classify.Classified | None) -> Outcome:
    """What an attempt came to, by what the rule says of it."""
    verdict = tried.verdict
    if found is None or not _is_about_the_mail(tried):
        return verdict.outcome
    if verdict.outcome in ("bounced", "failed") and found.action == "retry":
        return "deferred"
    if verdict.outcome == "deferred" and found.action == "bounce" and found.own:
        return "bounced"
    return verdict.outcome


def shown(found: classify.Classified) -> dict[str, Any]:
    """As events and attempts have it."""
    return {"rule": found.rule, "class": found.kind, "suppresses": found.suppresses}


def _is_about_the_mail(tried: Try) -> bool:
    """Whether a mail server said it of sender, recipient or message. RFC 5321 3.8: 421 is about the connection."""
    verdict = tried.verdict
    if tried.provider == LocalProvider.name or _is_api(tried) or verdict.code is None:
        return False
    return 400 <= verdict.code < 600 and verdict.code != 421 and verdict.stage in ("mail", "rcpt", "data", "dot")


def _is_api(tried: Try) -> bool:
    return tried.provider.partition(":")[0] in callbacks.PROVIDERS


def _said(tried: Try) -> str:
    """The reply; that of an API without HTTP's own status, which says nothing about mail."""
    verdict = tried.verdict
    return verdict.reply.removeprefix(f"{verdict.code} ") if _is_api(tried) else verdict.reply
