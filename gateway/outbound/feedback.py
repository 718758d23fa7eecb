"""News of mail that left: what a provider tells afterwards changes a recipient's status, or is told, or is nothing.

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
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import prometheus_client
import structlog

from gateway.mail import address, classify
from gateway.outbound import callbacks as posts
from gateway.outbound import refusals
from gateway.outbound.callbacks import News, Post
from gateway.storage import callbacks, db, events
from gateway.storage.callbacks import Callback, Standing

log = structlog.get_logger(__name__)

# outcome: "applied", "unknown" (nobody's mail, or not yet), "repeated"
CALLBACKS = prometheus_client.Counter("postroom_callbacks", "Callbacks of providers", ["provider", "outcome"])

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
        await self._apply(callback, post)
        return post

    async def catch_up(self, provider: str, provider_ids: Iterable[str]) -> None:
        """Apply what came before it was written down whose mails these are. Raises Unavailable."""
        async with self._database.connection() as connection:
            waiting = await callbacks.waiting(connection, provider, list(provider_ids))
        for callback in waiting:
            await self._apply(callback, posts.read(provider, callback.payload))

    async def _apply(self, callback: Callback, post: Post) -> None:
        account_id = None
        async with self._database.transaction() as connection:
            found = await callbacks.delivery_of(connection, callback.provider, post.provider_id)
            used = found is not None and await callbacks.use(connection, callback)
            standing = await callbacks.lock(connection, *found) if found and used else None
            own = await self._rules.of(standing.account_id, connection) if standing is not None else ()
            if standing is not None and await _tell(connection, callback.provider, standing, post.news, own):
                account_id = standing.account_id
        CALLBACKS.labels(callback.provider, "unknown" if found is None else "applied" if used else "repeated").inc()
        if found is None:
            log.info("callback kept", provider=callback.provider, event_id=callback.event_id)
        if account_id is not None:
            self._told([account_id])


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
            await callbacks.suppress(connection, standing.account_id, _canonical(standing.address), reason)
        told.append(_event(provider, standing, status, one, verdict))
    if told:
        await events.append(connection, standing.account_id, told)
    return bool(told)


def _suppresses(news: News, verdict: classify.Classified | None) -> str | None:
    """For which reason the address is not to be written to again; None = it may be."""
    if news.kind == "complained":
        return "complaint"
    return "bounce" if news.kind == "bounced" and verdict is not None and verdict.suppresses else None


def _canonical(recipient: str) -> str:
    try:
        return address.recipient(recipient).canonical
    except address.InvalidAddress:
        return recipient.lower()


def _event(
    provider: str, standing: Standing, status: str, news: News, verdict: classify.Classified | None
) -> events.NewEvent:
    data: dict[str, Any] = {
        "id": standing.email_id,
        "recipient": standing.address,
        "status": status,
        "attempt": standing.attempts,
        "reply": news.reply,
        "provider": provider,
        "next_attempt_in": None,
        "occurred_at": news.at,
        **news.details,
    }
    if verdict is not None:
        data["classification"] = refusals.shown(verdict)
    return events.NewEvent(type=f"email.{news.kind}", email_id=standing.email_id, data=events.encode(data))
