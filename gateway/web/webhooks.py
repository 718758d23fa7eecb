"""/v1/webhooks: who is told, and every attempt to tell them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import Field
from uuid_utils.compat import uuid7

from gateway import errors, models
from gateway.lifecycle import Gateway
from gateway.models import Caller, Input, ListQuery, Output, Page, Time
from gateway.notify import guard
from gateway.storage import db, events, webhooks
from gateway.web import api, once, room
from gateway.web.paths import Paths

CREATE: Final = "POST /v1/webhooks"
FIRST_GENERATION: Final = 1
_cursors: Final[models.Cursor[tuple[UUID]]] = models.Cursor(tuple[UUID])

Types = Annotated[list[str], Field(min_length=1, max_length=50, description='Event types, or ["*"] for all')]


class NewWebhook(Input):
    """Who is to be told of what."""

    url: str = Field(max_length=2000)
    types: Types
    mailbox: str | None = Field(None, max_length=320, description="Only events of this mailbox (id or address)")


class WebhookChanges(Input):
    """What is to change. A webhook that is changed is active again."""

    url: str | None = Field(None, max_length=2000)
    types: Types | None = None
    mailbox: str | None = Field(None, max_length=320)


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


class CreatedWebhook(Webhook):
    """A new webhook, with the secret that signs what it is told."""

    secret: str


class DeliveriesQuery(ListQuery):
    """Which deliveries."""

    order: Literal["desc"] = "desc"
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
    next_attempt_at: Time | None
    finished_at: Time | None
    attempts: list[WebhookAttempt]


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
        making: dict[str, Any] = {"status": 201, "idempotent": True, "errors": [errors.QuotaExceeded]}
        return [
            api.op("POST", "/webhooks", self.create, returns=CreatedWebhook, **making, **changing),
            api.op("GET", "/webhooks", self.list, **reading),
            api.op("GET", "/webhooks/{id}", self.get, **reading),
            api.op("PATCH", "/webhooks/{id}", self.change, **changing),
            api.op("DELETE", "/webhooks/{id}", self.delete, **changing),
            api.op("GET", "/webhooks/{id}/deliveries", self.deliveries, **reading),
        ]

    async def create(
        self, caller: Caller, body: NewWebhook, idempotency_key: str | None, fingerprint: bytes | None
    ) -> models.Answer:
        """Tell a URL what happens from now on."""
        wish = once.wish(CREATE, idempotency_key, fingerprint)
        types = _types(body.types)
        await self._check(body.url)
        mailbox_id = await self._mailbox(caller, body.mailbox)
        webhook_id = uuid7()

        async def create(connection: db.Connection, keep: once.Keep) -> dict[str, Any]:
            await self._room.take(connection, caller.account_id)
            await webhooks.create(
                connection, caller.account_id, id=webhook_id, url=body.url, types=types, mailbox_id=mailbox_id
            )
            found = await webhooks.get(connection, caller.account_id, webhook_id)
            answer = _shown(found).model_dump(mode="json") if found else {}
            await keep(answer)
            return answer

        answer, replayed = await self._creations.create(caller.account_id, wish, create)
        secret = self._gateway.keyring.webhook_secret(UUID(answer["id"]), FIRST_GENERATION)
        return once.answered(201, {**answer, "secret": secret}, replayed=replayed)

    async def list(self, caller: Caller, query: ListQuery) -> Page[Webhook]:
        """The account's webhooks, newest first."""
        after = _cursors.decode(query.cursor)[0] if query.cursor else None
        async with self._gateway.database.connection() as connection:
            found = await webhooks.page(connection, caller.account_id, after=after, limit=query.limit + 1)
        return models.page(found, query.limit, _shown, lambda webhook: _cursors.encode((webhook.id,)))

    async def get(self, caller: Caller, id: UUID) -> Webhook:
        """One webhook."""
        return _shown(await self._find(caller.account_id, id))

    async def change(self, caller: Caller, id: UUID, body: WebhookChanges) -> Webhook:
        """Tell another URL, or of other things; a disabled webhook is active again."""
        webhook = await self._find(caller.account_id, id)
        url = body.url or webhook.url
        await self._check(url)
        given = "mailbox" in body.model_fields_set
        mailbox_id = await self._mailbox(caller, body.mailbox) if given else webhook.mailbox_id
        types = _types(body.types) if body.types is not None else list(webhook.types)
        changes = {"url": url, "types": types, "mailbox_id": mailbox_id}
        async with self._gateway.database.transaction() as connection:
            if not await webhooks.change(connection, caller.account_id, id, changes):
                raise errors.NotFound
        return _shown(await self._find(caller.account_id, id))

    async def delete(self, caller: Caller, id: UUID) -> None:
        """Tell it nothing more, not even what it waits for."""
        async with self._gateway.database.transaction() as connection:
            if not await webhooks.delete(connection, caller.account_id, id):
                raise errors.NotFound

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
        await guard.validate(url, guard.system_resolver, allow_private=allow_private)

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
        }
    )


def _delivery(delivery: webhooks.Delivery, attempts: Sequence[dict[str, Any]]) -> Delivery:
    return Delivery.model_validate(
        {
            "id": delivery.event_id,
            "event_type": delivery.event_type,
            "seq": delivery.seq,
            "status": delivery.status,
            "created_at": delivery.created_at,
            "next_attempt_at": delivery.due_at.astimezone(UTC) if delivery.status == "pending" else None,
            "finished_at": delivery.finished_at,
            "attempts": attempts,
        }
    )
