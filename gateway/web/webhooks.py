"""/v1/webhooks: who is told, every attempt to tell them, and telling them again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import Field
from uuid_utils.compat import uuid7

from gateway import errors, models
from gateway.lifecycle import Gateway
from gateway.models import Caller, Input, ListQuery, Origin, Output, Page, Time
from gateway.notify import guard
from gateway.storage import audit, db, events, period, webhooks
from gateway.web import api, once, room
from gateway.web.paths import Paths

CREATE: Final = "POST /v1/webhooks"
REDELIVER_SLICE: Final = 500  # deliveries of one transaction
REDELIVER_MOST: Final = 10_000  # of one call
_cursors: Final[models.Cursor[tuple[UUID]]] = models.Cursor(tuple[UUID])

Types = Annotated[list[str], Field(min_length=1, max_length=50, description='Event types, or ["*"] for all')]


ORDERED: Final = (
    "Events of one mailbox, or of one e-mail, one after the other in the log's order: each is told when the one before "
    "it was delivered or given up, be that days later"
)


class NewWebhook(Input):
    """Who is to be told of what."""

    url: str = Field(max_length=2000)
    types: Types
    mailbox: str | None = Field(None, max_length=320, description="Only events of this mailbox (id or address)")
    ordered: bool = Field(False, description=ORDERED)


class WebhookChanges(Input):
    """What is to change. A webhook that was given up and is changed is active again."""

    url: str | None = Field(None, max_length=2000)
    types: Types | None = None
    mailbox: str | None = Field(None, max_length=320, description="null = events of all mailboxes")
    ordered: bool | None = Field(None, description=ORDERED)
    status: Literal["active", "disabled"] | None = Field(
        None, description="disabled = told nothing, not even later what happens meanwhile"
    )


class Webhook(Output):
    """A webhook."""

    id: UUID
    url: str
    types: list[str]
    mailbox_id: UUID | None
    status: Literal["active", "disabled"]
    disabled_reason: str | None
    failing_since: Time | None
    created_at: Time
    ordered: bool
    previous_secret_until: Time | None = Field(
        description="Until then the secret before signs, too; null = it does not"
    )


class CreatedWebhook(Webhook):
    """A webhook with its new secret, which signs what it is told."""

    secret: str


class DeliveriesQuery(ListQuery):
    """Which deliveries."""

    status: Literal["pending", "delivered", "dead"] | None = None


class WebhookAttempt(Output):
    """One attempt."""

    number: int
    started_at: Time
    latency_ms: int
    status: int | None = Field(description="HTTP status; null = no answer")
    answer: str = Field(description="Its first 1 KiB")
    error: str | None


class Delivery(Output):
    """One event for one webhook; its id is the event's, and the webhook-id under which it is told."""

    id: UUID
    event_type: str
    seq: int
    status: Literal["pending", "delivered", "dead"]
    created_at: Time
    next_attempt_at: Time | None = Field(description="null = it has ended, or an attempt is under way")
    finished_at: Time | None
    attempts: list[WebhookAttempt] = Field(description=f"The last {webhooks.SHOWN_ATTEMPTS}, in order")


class RedeliverQuery(Input):
    """Which of those that were given up."""

    since: Time | None = Field(None, description="Deliveries of events from this time on; default: all in the log")


class Redelivered(Output):
    """How many are told again."""

    count: int
    has_more: bool = Field(description=f"More are left than one call takes ({REDELIVER_MOST:,}): call again")


class Webhooks:
    """The operations."""

    def __init__(self, gateway: Gateway, paths: Paths) -> None:
        self._gateway = gateway
        self._paths = paths
        self._creations = once.Creations(gateway.database, gateway.settings.idempotency_seconds)
        self._room = room.Room("webhooks", gateway.settings)

    def operations(self) -> Sequence[api.Operation]:
        changing: dict[str, Any] = {"scope": "admin", "tags": ["Webhooks"]}
        reading: dict[str, Any] = {"scope": {"admin", "read"}, "tags": ["Webhooks"]}
        once_: dict[str, Any] = {"idempotent": True}
        full, unable = [errors.QuotaExceeded], [errors.InvalidState]
        again: dict[str, Any] = {"status": 202, "errors": unable, **changing}
        deliveries, this = "/webhooks/{id}/deliveries", "/webhooks/{id}/deliveries/{delivery}/redeliver"
        return [
            api.op(
                "POST", "/webhooks", self.create, status=201, errors=full, returns=CreatedWebhook, **once_, **changing
            ),
            api.op("GET", "/webhooks", self.list, **reading),
            api.op("GET", "/webhooks/{id}", self.get, **reading),
            api.op("PATCH", "/webhooks/{id}", self.change, **changing),
            api.op("DELETE", "/webhooks/{id}", self.delete, **changing),
            api.op("POST", "/webhooks/{id}/test", self.test, returns=Delivery, **once_, **again),
            api.op("POST", "/webhooks/{id}/rotate", self.rotate, returns=CreatedWebhook, **once_, **changing),
            api.op("POST", "/webhooks/{id}/redeliver", self.redeliver_dead, **again),
            api.op("GET", deliveries, self.deliveries, **reading),
            api.op("POST", this, self.redeliver, **again),
        ]

    async def create(
        self, caller: Caller, body: NewWebhook, idempotency_key: str | None, fingerprint: bytes | None, origin: Origin
    ) -> models.Answer:
        """Tell a URL what happens from now on."""
        wish = once.wish(CREATE, idempotency_key, fingerprint)
        types = _types(body.types)
        await self._check(body.url)
        mailbox_id = await self._mailbox(caller, body.mailbox)
        webhook_id = uuid7()

        async def create(connection: db.Connection, keep: once.Keep) -> dict[str, Any]:
            await self._room.take(connection, caller.account_id)
            wanted: dict[str, Any] = {"url": body.url, "types": types, "mailbox_id": mailbox_id}
            await webhooks.create(connection, caller.account_id, id=webhook_id, ordered=body.ordered, **wanted)
            found = await webhooks.get(connection, caller.account_id, webhook_id)
            answer = _shown(found).model_dump(mode="json") if found else {}
            await keep(answer)
            about = {"id": webhook_id, **wanted, "url": audit.shown_url(body.url), "ordered": body.ordered}
            await audit.write(connection, caller.account_id, "webhook.created", origin, **about)
            return answer

        answer, replayed = await self._creations.create(caller.account_id, wish, create)
        self._gateway.tell([caller.account_id])
        secret = self._gateway.keyring.webhook_secret(UUID(answer["id"]), webhooks.FIRST_GENERATION)
        return once.answered(201, {**answer, "secret": secret}, replayed=replayed)

    async def list(self, caller: Caller, query: ListQuery) -> Page[Webhook]:
        """The account's webhooks, newest first."""
        after = _cursors.decode(query.cursor)[0] if query.cursor else None
        async with self._gateway.database.connection() as connection:
            found = await webhooks.page(
                connection,
                caller.account_id,
                after=after,
                limit=query.limit + 1,
                ascending=query.order == "asc",
                made=period.of(query),
            )
        return models.page(found, query.limit, _shown, lambda webhook: _cursors.encode((webhook.id,)))

    async def get(self, caller: Caller, id: UUID) -> Webhook:
        """One webhook."""
        return _shown(await self._find(caller.account_id, id))

    async def change(self, caller: Caller, id: UUID, body: WebhookChanges, origin: Origin) -> Webhook:
        """Tell another URL, or of other things; or nothing, until it is active again.

        A webhook that was given up is active again when it is changed; one that its owner disabled, when `status` says
        so. What happened while it was disabled is in the log (GET /v1/events), and not told.
        """
        webhook = await self._find(caller.account_id, id)
        changes = await self._changes(caller, webhook, body)
        revive = body.status == "active" or (body.status is None and webhook.disabled_reason != webhooks.OWNERS_WISH)
        if body.url is not None or (revive and webhook.status != "active"):
            await self._check(changes["url"])
        async with self._gateway.database.transaction() as connection:
            if not await webhooks.change(connection, caller.account_id, id, changes, revive=revive):
                raise errors.NotFound
            if body.status == "disabled":
                await webhooks.disable(connection, caller.account_id, id, webhooks.OWNERS_WISH)
            about = {"id": id, "changed": _told_of(body)}
            await audit.write(connection, caller.account_id, "webhook.updated", origin, **about)
        self._gateway.tell([caller.account_id])
        return _shown(await self._find(caller.account_id, id))

    async def _changes(self, caller: Caller, webhook: webhooks.Webhook, body: WebhookChanges) -> dict[str, Any]:
        given = "mailbox" in body.model_fields_set
        return {
            "url": body.url or webhook.url,
            "types": _types(body.types) if body.types is not None else list(webhook.types),
            "mailbox_id": await self._mailbox(caller, body.mailbox) if given else webhook.mailbox_id,
            "ordered": webhook.ordered if body.ordered is None else body.ordered,
        }

    async def rotate(
        self, caller: Caller, id: UUID, idempotency_key: str | None, fingerprint: bytes | None, origin: Origin
    ) -> models.Answer:
        """A new secret. For 24 hours the one before signs, too, so that the receiver can be changed meanwhile."""
        wish = once.wish(f"POST /v1/webhooks/{id}/rotate", idempotency_key, fingerprint)

        async def rotate(connection: db.Connection, keep: once.Keep) -> dict[str, Any]:
            rotated = await webhooks.rotate(connection, caller.account_id, id)
            if rotated is None:
                raise errors.NotFound
            answer = {"generation": rotated.secret_generation, **_shown(rotated).model_dump(mode="json")}
            await keep(answer)
            await audit.write(connection, caller.account_id, "webhook.rotated", origin, id=id)
            return answer

        kept, replayed = await self._creations.create(caller.account_id, wish, rotate, status=200)
        self._gateway.tell([caller.account_id])
        answer = {name: value for name, value in kept.items() if name != "generation"}
        secret = self._gateway.keyring.webhook_secret(id, kept["generation"])
        return once.answered(200, {**answer, "secret": secret}, replayed=replayed)

    async def test(
        self, caller: Caller, id: UUID, idempotency_key: str | None, fingerprint: bytes | None
    ) -> models.Answer:
        """Tell it a `webhook.test` event, whatever types it hears of.

        The event is in the log, for streams to see; of all webhooks this one alone is told of it.
        """
        wish = once.wish(f"POST /v1/webhooks/{id}/test", idempotency_key, fingerprint)

        async def test(connection: db.Connection, keep: once.Keep) -> dict[str, Any]:
            _check_active(await webhooks.get(connection, caller.account_id, id))
            event_id = uuid7()
            await keep({"id": str(event_id)})
            await webhooks.test(connection, caller.account_id, id, event_id)
            return {"id": str(event_id)}

        kept, replayed = await self._creations.create(caller.account_id, wish, test, status=202)
        self._gateway.tell([caller.account_id])
        shown = await self._delivery(caller.account_id, id, UUID(kept["id"]))
        return once.answered(202, shown.model_dump(mode="json"), replayed=replayed)

    async def redeliver(self, caller: Caller, id: UUID, delivery: UUID) -> Delivery:
        """Tell it again, under the same webhook-id, whether it was delivered or given up.

        One that ended begins its retries anew, one that waits is tried now."""
        async with self._gateway.database.transaction() as connection:
            webhook = await webhooks.get(connection, caller.account_id, id)
            found = await webhooks.delivery(connection, caller.account_id, id, delivery)
            if webhook is None or found is None:
                raise errors.NotFound
            _check_active(webhook)
            if not await webhooks.can_be_told(connection, caller.account_id, found.seq):
                raise errors.InvalidState("The event is not in the log any more.")
            await webhooks.tell_again(connection, caller.account_id, id, delivery)
        self._gateway.tell([caller.account_id])
        return await self._delivery(caller.account_id, id, delivery)

    async def redeliver_dead(self, caller: Caller, id: UUID, query: RedeliverQuery) -> Redelivered:
        """Tell again all that was given up and is in the log still."""
        count, last = 0, REDELIVER_SLICE
        while last == REDELIVER_SLICE and count < REDELIVER_MOST:
            async with self._gateway.database.transaction() as connection:
                _check_active(await webhooks.get(connection, caller.account_id, id))
                last = await webhooks.tell_dead_again(
                    connection, caller.account_id, id, since=query.since, limit=REDELIVER_SLICE
                )
            count += last
            self._gateway.tell([caller.account_id])
        return Redelivered(count=count, has_more=last == REDELIVER_SLICE)

    async def _delivery(self, account_id: UUID, webhook_id: UUID, event_id: UUID) -> Delivery:
        async with self._gateway.database.connection() as connection:
            found = await webhooks.delivery(connection, account_id, webhook_id, event_id)
            made = await webhooks.attempts(connection, account_id, webhook_id, [event_id])
        if found is None:
            raise errors.NotFound
        return _delivery(found, made[event_id])

    async def delete(self, caller: Caller, id: UUID, origin: Origin) -> None:
        """Tell it nothing more, not even what it waits for."""
        async with self._gateway.database.transaction() as connection:
            if not await webhooks.delete(connection, caller.account_id, id):
                raise errors.NotFound
            await audit.write(connection, caller.account_id, "webhook.deleted", origin, id=id)
        self._gateway.tell([caller.account_id])

    async def deliveries(self, caller: Caller, id: UUID, query: DeliveriesQuery) -> Page[Delivery]:
        """What it was told and how that went, newest first."""
        await self._find(caller.account_id, id)
        async with self._gateway.database.connection() as connection:
            found = await webhooks.deliveries(
                connection,
                caller.account_id,
                id,
                status=query.status,
                after=_cursors.decode(query.cursor)[0] if query.cursor else None,
                limit=query.limit + 1,
                ascending=query.order == "asc",
                made=period.of(query),
            )
            event_ids = [delivery.event_id for delivery in found]
            made = await webhooks.attempts(connection, caller.account_id, id, event_ids)
        return models.page(
            found,
            query.limit,
            lambda delivery: _delivery(delivery, made[delivery.event_id]),
            lambda delivery: _cursors.encode((delivery.event_id,)),
        )

    async def _find(self, account_id: UUID, webhook_id: UUID) -> webhooks.Webhook:
        async with self._gateway.database.connection() as connection:
            found = await webhooks.get(connection, account_id, webhook_id)
        if found is None:
            raise errors.NotFound
        return found

    async def _check(self, url: str) -> None:
        """A target that must not be reached is refused here, and again at every connection."""
        allow_private = self._gateway.settings.webhook_allow_private
        resolver = guard.system_resolver if allow_private else guard.over_dns(self._gateway.resolver)
        await guard.validate(url, resolver, allow_private=allow_private)

    async def _mailbox(self, caller: Caller, mailbox: str | None) -> UUID | None:
        if mailbox is None:
            return None
        try:
            return (await self._paths.mailbox(caller, mailbox)).id
        except errors.NotFound:
            raise errors.invalid("mailbox", "there is no such mailbox") from None


def _types(types: Sequence[str]) -> list[str]:
    for index, name in enumerate(types):
        if name not in events.TYPES and name != "*":
            raise errors.invalid(f"types[{index}]", f"there are no events of type {name[:64]!r}")
    return sorted(set(types) & {"*", *events.AUDITED} if "*" in types else set(types))


def _shown(webhook: webhooks.Webhook) -> Webhook:
    return Webhook.model_validate(
        {
            "id": webhook.id,
            "url": webhook.url,
            "types": list(webhook.types),
            "mailbox_id": webhook.mailbox_id,
            "status": webhook.status,
            "disabled_reason": webhook.disabled_reason,
            "failing_since": webhook.failing_since,
            "created_at": webhook.created_at,
            "ordered": webhook.ordered,
            "previous_secret_until": webhook.previous_secret_until,
        }
    )


def _told_of(body: WebhookChanges) -> dict[str, Any]:
    """For the audit trail."""
    changed = body.model_dump(mode="json", exclude_unset=True)
    return {**changed, "url": audit.shown_url(body.url)} if body.url is not None else changed


def _check_active(webhook: webhooks.Webhook | None) -> None:
    """Raises NotFound, InvalidState."""
    if webhook is None:
        raise errors.NotFound
    if webhook.status != "active":
        raise errors.InvalidState("The webhook is disabled.")


def _delivery(delivery: webhooks.Delivery, attempts: Sequence[dict[str, Any]]) -> Delivery:
    waits = delivery.status == "pending" and delivery.lease_id is None
    return Delivery.model_validate(
        {
            "id": delivery.event_id,
            "event_type": delivery.event_type,
            "seq": delivery.seq,
            "status": delivery.status,
            "created_at": delivery.created_at,
            "next_attempt_at": delivery.due_at.astimezone(UTC) if waits else None,
            "finished_at": delivery.finished_at,
            "attempts": attempts,
        }
    )
