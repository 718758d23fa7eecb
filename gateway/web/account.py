"""/v1/api-keys: an account's keys. A key is told once, when it is made; stored is only its hash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import Field, StringConstraints
from uuid_utils.compat import uuid7

from gateway import errors, models, tokens
from gateway.lifecycle import Gateway
from gateway.mail import address
from gateway.models import Caller, Input, ListQuery, Origin, Output, Page, Scope, Time
from gateway.storage import accounts, audit, db, period
from gateway.web import api, once, room

CREATE: Final = "POST /v1/api-keys"
_cursors: Final[models.Cursor[tuple[UUID]]] = models.Cursor(tuple[UUID])
Name = Annotated[str, StringConstraints(min_length=1, max_length=100)]


class NewKey(Input):
    """What a key may do."""

    name: Name
    scopes: list[Scope] = Field(min_length=1, max_length=5)
    domains: list[str] = Field(default_factory=list, max_length=100, description="Sender domains; none = all")
    expires_at: Time | None = None


class KeyChanges(Input):
    """What a key is called by; what it may do never changes."""

    name: Name


class Key(Output):
    """A key's description."""

    id: UUID
    name: str
    scopes: list[Scope]
    domains: list[str]
    expires_at: Time | None
    created_at: Time
    last_used_at: Time | None = Field(description="To a minute; null = never")


class CreatedKey(Key):
    """A new key, with the key itself, which is shown this once."""

    key: str


class Keys:
    """The operations."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._creations = once.Creations(gateway.database, gateway.settings.idempotency_seconds)
        self._room = room.Room("api_keys", gateway.settings)

    def operations(self) -> Sequence[api.Operation]:
        common: dict[str, Any] = {"scope": "admin", "tags": ["Keys"]}
        making: dict[str, Any] = {"status": 201, "idempotent": True, "errors": [errors.QuotaExceeded]}
        return [
            api.op("POST", "/api-keys", self.create, returns=CreatedKey, **making, **common),
            api.op("GET", "/api-keys", self.list, **common),
            api.op("GET", "/api-keys/{id}", self.get, **common),
            api.op("PATCH", "/api-keys/{id}", self.rename, **common),
            api.op("DELETE", "/api-keys/{id}", self.revoke, **common),
        ]

    async def create(
        self, caller: Caller, body: NewKey, idempotency_key: str | None, fingerprint: bytes | None, origin: Origin
    ) -> models.Answer:
        """Make a key of the caller's account."""
        wish = once.wish(CREATE, idempotency_key, fingerprint)
        key_id = uuid7()

        async def create(connection: db.Connection, keep: once.Keep) -> dict[str, Any]:
            await self._room.take(connection, caller.account_id)
            await accounts.create_key(
                connection,
                caller.account_id,
                id=key_id,
                hash=tokens.hash_token(self._gateway.keyring.api_key(key_id)),
                name=body.name,
                scopes=body.scopes,
                domains=[_domain(index, name) for index, name in enumerate(body.domains)],
                expires_at=body.expires_at,
            )
            key = await accounts.key(connection, caller.account_id, key_id)
            answer = _shown(key).model_dump(mode="json") if key else {}
            await keep(answer)
            about = {name: answer[name] for name in ("id", "name", "scopes", "domains", "expires_at")}
            await audit.write(connection, caller.account_id, "api_key.created", origin, **about)
            return answer

        answer, replayed = await self._creations.create(caller.account_id, wish, create)
        if not replayed:
            self._gateway.tell([caller.account_id])
        key = self._gateway.keyring.api_key(UUID(answer["id"]))
        return once.answered(201, {**answer, "key": key}, replayed=replayed)

    async def list(self, caller: Caller, query: ListQuery) -> Page[Key]:
        """The account's keys that are not revoked, newest first."""
        after = _cursors.decode(query.cursor)[0] if query.cursor else None
        async with self._gateway.database.connection() as connection:
            found = await accounts.keys(
                connection,
                caller.account_id,
                after=after,
                limit=query.limit + 1,
                ascending=query.order == "asc",
                made=period.of(query),
            )
        return models.page(found, query.limit, _shown, lambda key: _cursors.encode((key.id,)))

    async def get(self, caller: Caller, id: UUID) -> Key:
        """One key's description."""
        async with self._gateway.database.connection() as connection:
            key = await accounts.key(connection, caller.account_id, id)
        if key is None or key.revoked_at is not None:
            raise errors.NotFound
        return _shown(key)

    async def rename(self, caller: Caller, id: UUID, body: KeyChanges) -> Key:
        """Call a key by another name."""
        async with self._gateway.database.transaction() as connection:
            if not await accounts.rename_key(connection, caller.account_id, id, body.name):
                raise errors.NotFound
        return await self.get(caller, id)

    async def revoke(self, caller: Caller, id: UUID, origin: Origin) -> None:
        """The key is worth nothing any more, within a second; streams and waits that it opened end in two."""
        async with self._gateway.database.transaction() as connection:
            if not await accounts.revoke_key(connection, caller.account_id, id):
                raise errors.NotFound
            await audit.write(connection, caller.account_id, "api_key.revoked", origin, id=id)
        self._gateway.tell([caller.account_id])


def _domain(index: int, name: str) -> str:
    try:
        return address.parse(f"postmaster@{name}").ascii_domain
    except address.InvalidAddress:
        raise errors.invalid(f"domains[{index}]", "not a domain") from None


def _shown(key: accounts.Key) -> Key:
    return Key.model_validate(
        {
            "id": key.id,
            "name": key.name,
            "scopes": list(key.scopes),
            "domains": list(key.domains),
            "expires_at": key.expires_at,
            "created_at": key.created_at,
            "last_used_at": key.last_used_at,
        }
    )
