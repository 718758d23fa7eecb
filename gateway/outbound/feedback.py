"""News of mail that left: what is told of it afterwards changes a recipient's status, or is told, or is nothing.

Every piece of news at every status, late and repeated ones included; what is not here changes and tells nothing:

    status              delivered    bounced   failed   complained   deferred  opened, clicked
    queued              delivered                       complained             told
    sending             delivered                       complained             told
    deferred            delivered                       complained             told
    unknown             delivered    bounced   failed   complained   told      told
    sent                delivered    bounced   failed   complained   told      told
    delivered                        bounced            complained             told
    canceled                                            complained             told
    failed                           bounced            complained             told
    bounced                                             complained             told
    complained                                                                 told
    scheduled, suppressed            nothing: there was never anything written to them

News only ever moves a recipient up in the order of statuses, so that it does not matter in which order they come: a
`delivered` after the `bounced` is late, and nothing. A recipient that waits for another attempt (queued, sending,
deferred) is not bounced by news of an earlier one, but done with if that one did arrive. What a provider puts off it
tries again itself: told, and still `sent`.

A callback is kept first (committed), then applied: status, event, suppression and the mark that it was used in one
transaction. A callback that came before it was known whose mail it speaks of is applied when that is written down.

Reports that come by mail, to return paths, are kept by the inbound pipeline (gateway.inbound.returned) and applied by
workers, which look for what is not applied: the same look finds what was kept a moment ago, what came before the
verdict, and what a process that died had not come to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import prometheus_client
import structlog

from gateway.errors import Unavailable
from gateway.mail import address, classify, dsn
from gateway.outbound import callbacks as posts
from gateway.outbound import refusals, reports
from gateway.outbound.callbacks import News, Post
from gateway.storage import callbacks, db, emails, events
from gateway.storage.callbacks import Callback, Standing

log = structlog.get_logger(__name__)

# outcome: "applied", "unknown" (nobody's mail, or not yet), "repeated"
CALLBACKS = prometheus_client.Counter("postroom_callbacks", "Callbacks of providers", ["provider", "outcome"])
# kind: "report" (RFC 3464), "complaint" (RFC 5965), "bounce" (in words of its own), "other" (vacation notes, answers)
REPORTS = prometheus_client.Counter(
    "postroom_reports", "Mail to return paths that was applied, by what it is", ["kind"]
)

REPORTS_AT_ONCE: Final = 16  # of one look; each may be a megabyte
LARGE: Final = 65_536  # bytes of a report; from here on it is read off the event loop

_WAITING: Final = ("queued", "sending", "deferred")
_TRIED: Final = (*_WAITING, "unknown", "sent", "delivered", "canceled", "failed", "bounced", "complained")
_FROM: Final[Mapping[str, tuple[str, ...]]] = {  # kind of news → the statuses that it ends
    "delivered": (*_WAITING, "unknown", "sent"),
    "bounced": ("unknown", "sent", "delivered", "failed"),
    "failed": ("unknown", "sent"),
    "complained": (*_WAITING, "unknown", "sent", "delivered", "canceled", "failed", "bounced"),
}
_TOLD: Final[Mapping[str, tuple[str, ...]]] = {  # kind of news → the statuses at which it is told and changes nothing
    "deferred": ("unknown", "sent"),
    "opened": _TRIED,
    "clicked": _TRIED,
}
TRANSITIONS: Final[Mapping[tuple[str, str], str]] = {
    **{(status, kind): kind for kind, statuses in _FROM.items() for status in statuses},
    **{(status, kind): status for kind, statuses in _TOLD.items() for status in statuses},
}


class Feedback:
    """Where callbacks go."""

    def __init__(self, database: db.Database, *, told: Callable[[Iterable[UUID]], None]) -> None:
        self._database = database
        self._told = told
        self._rules = refusals.Rules(database)

    async def take(self, provider: str, body: bytes) -> Post:
        """Keep a verified callback and apply its news, if it is known whose they are. Raises callbacks.Unreadable, and
        Unavailable: then it must come again, and nothing is done twice."""
        post = posts.read(provider, body)
        callback = Callback(
            provider=provider, event_id=post.event_id, provider_id=post.provider_id or None, payload=body
        )
        async with self._database.transaction() as connection:
            await callbacks.keep(connection, callback)
        await self._take(callback, post)
        return post

    async def catch_up(self, provider: str, provider_ids: Iterable[str]) -> None:
        """Apply what came before it was written down whose mails these are. Raises Unavailable."""
        async with self._database.connection() as connection:
            waiting = await callbacks.waiting(connection, provider, list(provider_ids))
        for callback in waiting:
            await self._take(callback, posts.read(provider, callback.payload))

    async def apply_reports(self) -> None:
        """Apply what came by mail and is not applied yet, as far as it can be now. Raises Unavailable.

        May run in several processes at once: each report is used by one of them."""
        last: Callback | None = None
        while True:
            async with self._database.connection() as connection:
                found = await callbacks.unapplied(connection, last, REPORTS_AT_ONCE)
            for kept in found:
                await self._apply_report(kept)
            if len(found) < REPORTS_AT_ONCE:
                return
            last = found[-1]

    async def _apply_report(self, kept: Callback) -> None:
        try:
            report = await _read(kept.payload)
            used = await self._apply(
                kept, kept.provider_id or "", lambda to: reports.news(report, to.address, kept.event_id)
            )
        except Unavailable:
            raise
        except Exception:  # a report that nobody can make sense of must not stand in front of the others
            log.exception("report not applied", report_id=kept.event_id)
            async with self._database.transaction() as connection:
                await callbacks.use(connection, kept)
        else:
            if used:
                REPORTS.labels(report.kind).inc()

    async def _take(self, callback: Callback, post: Post) -> None:
        await self._apply(callback, post.provider_id, lambda _: post.news)

    async def _apply(self, callback: Callback, provider_id: str, news: Callable[[Standing], Sequence[News]]) -> bool:
        """Whether it was applied now, and by nobody before."""
        account_id, used = None, False
        async with self._database.transaction() as connection:
            found = await callbacks.delivery_of(connection, callback.provider, provider_id)
            standing = await callbacks.lock(connection, *found) if found else None
            if callback.provider == callbacks.MAIL and standing is not None and standing.status == "sending":
                return False  # perhaps it is about the attempt that is being made: its verdict first
            used = found is not None and await callbacks.use(connection, callback)
            own = await self._rules.of(standing.account_id, connection) if standing is not None and used else ()
            if (
                standing is not None
                and used
                and await _tell(connection, callback.provider, standing, news(standing), own)
            ):
                account_id = standing.account_id
        CALLBACKS.labels(callback.provider, "unknown" if found is None else "applied" if used else "repeated").inc()
        if found is None:
            log.info("callback kept", provider=callback.provider, event_id=callback.event_id)
        if account_id is not None:
            self._told([account_id])
        return used


async def _read(raw: bytes) -> dsn.Report:
    return await asyncio.to_thread(dsn.read, raw) if len(raw) >= LARGE else dsn.read(raw)


async def _tell(
    connection: db.Connection, provider: str, standing: Standing, news: Iterable[News], own: Sequence[classify.Own]
) -> bool:
    """Change and tell what the news mean for a recipient, by its account's `own` rules; whether there was anything."""
    status, told = standing.status, []
    for one in news:
        becomes = TRANSITIONS.get((status, one.kind))
        if becomes is None:
            continue
        if becomes != status:
            await callbacks.move(connection, standing, becomes, one.reply)
        status = becomes
        refused = one.kind in ("bounced", "deferred", "failed")
        verdict = classify.classify(one.reply, one.enhanced, own) if refused else None
        reason = _suppresses(one, verdict)
        if reason is not None:
            await callbacks.suppress(connection, standing.account_id, address.canonical_of(standing.address), reason)
        told.append(_event(provider, standing, status, one, verdict))
    if told:
        await events.append(connection, standing.account_id, told)
    return bool(told)


def _suppresses(news: News, verdict: classify.Classified | None) -> str | None:
    """For which reason the address is not to be written to again; None = it may be."""
    if news.kind == "complained":
        return "complaint"
    return "bounce" if news.kind == "bounced" and verdict is not None and verdict.suppresses else None


def _event(
    provider: str, standing: Standing, status: str, news: News, verdict: classify.Classified | None
) -> events.NewEvent:
    more: dict[str, Any] = {"occurred_at": news.at, **news.details}
    if verdict is not None:
        more["classification"] = refusals.shown(verdict)
    if news.kind == "bounced":  # as where the bounce is a reply to our own dialogue
        more["suppressed"] = _suppresses(news, verdict) is not None
    return emails.told_of(
        standing.email_id,
        news.kind,
        standing.address,
        status=status,
        attempt=standing.attempts,
        reply=news.reply,
        provider=standing.provider if provider == callbacks.MAIL else provider,
        again_in=None,
        more=more,
    )
