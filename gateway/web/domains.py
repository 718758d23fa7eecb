"""/v1/domains: claiming a domain, what must stand in its DNS, and what happens to mail for nobody there."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from pydantic import Field

from gateway import errors, models
from gateway.inbound import domains as claims
from gateway.lifecycle import Gateway
from gateway.models import Caller, Input, ListQuery, Origin, Output, Page, Time
from gateway.storage import audit, db, dkim_keys, domains, mailboxes, period
from gateway.web import api, once, room
from gateway.web.paths import Paths

CREATE: Final = "POST /v1/domains"
_cursors: Final[models.Cursor[tuple[datetime, str]]] = models.Cursor(tuple[Time, str])

Unknown = Literal["drop", "reject", "create"]


class NewDomain(Input):
    """A domain that is to be the account's."""

    name: str = Field(max_length=1000, description="Such as example.com")
    wildcard: bool = Field(False, description="All names below it, too")
    catch_all: str | None = Field(
        None, max_length=320, description="Mailbox (id or address) that takes what nobody else does; it never expires"
    )
    unknown_recipients: Unknown | None = Field(
        None, description="Mail for an unknown address; default UNKNOWN_RECIPIENTS"
    )


class DomainChanges(Input):
    """What is to change."""

    wildcard: bool | None = Field(None, description="All names below it, too")
    catch_all: str | None = Field(
        None, max_length=320, description="Mailbox (id or address), which never expires from here on; null = none"
    )
    unknown_recipients: Unknown | None = None


class DnsRecord(Output):
    """A record that should stand in the domain's DNS."""

    type: Literal["TXT", "MX", "CNAME"]
    name: str
    value: str
    priority: int | None = Field(description="Of an MX record")
    purpose: Literal["ownership", "mx", "spf", "dkim", "dmarc", "return_path"]
    required: bool = Field(description="Without it no mail comes in")
    state: Literal["missing", "ok", "wrong", "unknown"] = Field(
        description="At the last look; unknown: there was none, or the DNS did not answer"
    )
    found: list[str] = Field(description="What stands there instead, where it is wrong")


class DkimKey(Output):
    """A key that mail from the domain is signed with."""

    selector: str
    algorithm: Literal["rsa", "ed25519"]
    status: Literal["waiting", "active", "retired"] = Field(
        description="waiting: its record was not seen yet; retired: a newer key signs, the record stays for a week"
    )
    created_at: Time
    activated_at: Time | None = Field(description="When its record was first seen")
    retired_at: Time | None


class Domain(Output):
    """A domain that the account has claimed."""

    name: str
    status: Literal["pending", "verified", "failed"]
    wildcard: bool
    catch_all: UUID | None
    unknown_recipients: Unknown
    created_at: Time
    verified_at: Time | None
    checked_at: Time | None = Field(description="When the DNS was last looked at")
    records: list[DnsRecord]
    dkim: list[DkimKey] = Field(description="Oldest first; their records are among `records`")


class Domains:
    """The operations."""

    def __init__(self, gateway: Gateway, paths: Paths) -> None:
        self._gateway = gateway
        self._paths = paths
        self._creations = once.Creations(gateway.database, gateway.settings.idempotency_seconds)
        self._room = room.Room("domains", gateway.settings)

    def operations(self) -> Sequence[api.Operation]:
        changing: dict[str, Any] = {"scope": "admin", "tags": ["Domains"]}
        reading: dict[str, Any] = {"scope": {"admin", "read"}, "tags": ["Domains"]}
        return [
            api.op(
                "POST",
                "/domains",
                self.create,
                status=201,
                idempotent=True,
                returns=Domain,
                errors=[errors.InvalidState, errors.QuotaExceeded],
                **changing,
            ),
            api.op("GET", "/domains", self.list, **reading),
            api.op("GET", "/domains/{name}", self.get, **reading),
            api.op("PATCH", "/domains/{name}", self.change, **changing),
            api.op("DELETE", "/domains/{name}", self.delete, **changing),
            api.op("POST", "/domains/{name}/verify", self.verify, **changing),
            api.op("POST", "/domains/{name}/dkim/rotate", self.rotate, errors=[errors.InvalidState], **changing),
        ]

    async def create(
        self, caller: Caller, body: NewDomain, idempotency_key: str | None, fingerprint: bytes | None, origin: Origin
    ) -> models.Answer:
        """Claim a domain. It is the account's once `verify` has found the ownership record in its DNS."""
        wish = once.wish(CREATE, idempotency_key, fingerprint)
        name = _canonical(body.name)
        await asyncio.to_thread(self._gateway.domains.check, name, wildcard=body.wildcard)
        keys = await self._gateway.domains.new_keys()

        async def create(connection: db.Connection, keep: once.Keep) -> dict[str, Any]:
            catch_all = await self._catch_all(caller, body.catch_all)
            await self._room.take(connection, caller.account_id)
            made = await domains.create(
                connection,
                caller.account_id,
                name=name,
                wildcard=body.wildcard,
                unknown_recipients=body.unknown_recipients or self._gateway.settings.unknown_recipients,
                catch_all=catch_all.id if catch_all else None,
            )
            if not made:
                raise errors.InvalidState("The account has claimed the domain already.")
            await dkim_keys.add(connection, caller.account_id, name, keys)
            answer = (await self._read(connection, caller.account_id, name)).model_dump(mode="json")
            await keep(answer)
            await self._make_permanent(connection, caller.account_id, catch_all)
            about = {name: answer[name] for name in ("name", "wildcard", "catch_all", "unknown_recipients")}
            await audit.write(connection, caller.account_id, "domain.created", origin, **about)
            return answer

        answer, replayed = await self._creations.create(caller.account_id, wish, create)
        if not replayed:
            self._gateway.tell([caller.account_id])
        return once.answered(201, answer, replayed=replayed)

    async def list(self, caller: Caller, query: ListQuery) -> Page[Domain]:
        """The domains that the account has claimed, newest first."""
        after = _cursors.decode(query.cursor) if query.cursor else None
        async with self._gateway.database.connection() as connection:
            found = await domains.page(
                connection,
                caller.account_id,
                after=after,
                limit=query.limit + 1,
                ascending=query.order == "asc",
                claimed=period.of(query),
            )
            keys = await dkim_keys.of_domains(connection, caller.account_id, [claim.name for claim in found])
        return models.page(
            found,
            query.limit,
            lambda claim: self._shown(caller.account_id, claim, keys[claim.name]),
            lambda claim: _cursors.encode((claim.created_at, claim.name)),
        )

    async def get(self, caller: Caller, name: str) -> Domain:
        """One domain, with the DNS records to set and their state at the last look."""
        async with self._gateway.database.connection() as connection:
            return await self._read(connection, caller.account_id, _named(name))

    async def change(self, caller: Caller, name: str, body: DomainChanges, origin: Origin) -> Domain:
        """Have mail for it treated otherwise."""
        name = _named(name)
        await self.get(caller, name)
        if body.wildcard:
            await asyncio.to_thread(self._gateway.domains.check, name, wildcard=True)
        catch_all = await self._catch_all(caller, body.catch_all)
        async with self._gateway.database.transaction() as connection:
            await domains.take_turn(connection, name)
            claim = await domains.get(connection, caller.account_id, name)
            if claim is None:
                raise errors.NotFound
            kept = claim.catch_all if "catch_all" not in body.model_fields_set else None
            await domains.change(
                connection,
                caller.account_id,
                name,
                wildcard=claim.wildcard if body.wildcard is None else body.wildcard,
                unknown_recipients=body.unknown_recipients or claim.unknown_recipients,
                catch_all=catch_all.id if catch_all else kept,
            )
            changed = await self._read(connection, caller.account_id, name)
            await self._make_permanent(connection, caller.account_id, catch_all)
            about = {name: getattr(changed, name) for name in body.model_fields_set}
            await audit.write(connection, caller.account_id, "domain.updated", origin, name=name, changed=about)
        self._gateway.tell([caller.account_id])
        return changed

    async def delete(self, caller: Caller, name: str, origin: Origin) -> None:
        """Give it up: mail for it is refused; its mailboxes keep what they have."""
        name = _named(name)
        async with self._gateway.database.transaction() as connection:
            await domains.take_turn(connection, name)
            if not await domains.delete(connection, caller.account_id, name):
                raise errors.NotFound
            await audit.write(connection, caller.account_id, "domain.deleted", origin, name=name)
        self._gateway.tell([caller.account_id])

    async def verify(self, caller: Caller, name: str) -> Domain:
        """Look at the DNS now. Records whose state is `unknown` could not be looked at; then nothing has changed."""
        name = _named(name)
        await self._gateway.domains.verify(caller.account_id, name)
        return await self.get(caller, name)

    async def rotate(self, caller: Caller, name: str, origin: Origin) -> Domain:
        """Make new DKIM keys. The old ones sign until `verify` has seen the new ones' records in the DNS."""
        name = _named(name)
        await self._gateway.domains.rotate(caller.account_id, name, origin)
        return await self.get(caller, name)

    # Reading

    async def _read(self, connection: db.Connection, account_id: UUID, name: str) -> Domain:
        claim = await domains.get(connection, account_id, name)
        if claim is None:
            raise errors.NotFound
        return self._shown(account_id, claim, await dkim_keys.of_domain(connection, account_id, name))

    def _shown(self, account_id: UUID, claim: domains.Claim, keys: Sequence[dkim_keys.DkimKey]) -> Domain:
        records = self._gateway.domains.records(account_id, claim, keys)
        return Domain.model_validate(
            {
                "name": claim.name,
                "status": claim.status,
                "wildcard": claim.wildcard,
                "catch_all": claim.catch_all,
                "unknown_recipients": claim.unknown_recipients,
                "created_at": claim.created_at,
                "verified_at": claim.verified_at,
                "checked_at": claim.checked_at,
                "records": [{**dataclasses.asdict(record), "found": list(record.found)} for record in records],
                "dkim": [{name: getattr(key, name) for name in DkimKey.model_fields} for key in keys],
            }
        )

    # The catch-all

    async def _catch_all(self, caller: Caller, mailbox: str | None) -> mailboxes.Mailbox | None:
        """The mailbox that is meant. Raises ValidationFailed where it takes no mail."""
        if mailbox is None:
            return None
        try:
            box = await self._paths.mailbox(caller, mailbox)
        except errors.NotFound:
            raise errors.invalid("catch_all", "there is no such mailbox") from None
        if not box.is_live:
            raise errors.invalid("catch_all", "the mailbox has expired")
        return box

    async def _make_permanent(self, connection: db.Connection, account_id: UUID, box: mailboxes.Mailbox | None) -> None:
        """A catch-all never expires; last in the transaction, for it tells of the change."""
        if box is None or box.expires_at is None:
            return
        retention = self._gateway.settings.retention_seconds
        try:
            await mailboxes.change(connection, account_id, box.id, changes={"ttl_seconds": None}, retention=retention)
        except (errors.NotFound, errors.InvalidState):  # in this moment
            raise errors.invalid("catch_all", "the mailbox has expired") from None


def _canonical(name: str) -> str:
    try:
        return claims.canonical(name)
    except ValueError as error:
        raise errors.invalid("name", str(error)) from error


def _named(name: str) -> str:
    """What a path names. What cannot be a domain is as unknown as one that nobody has claimed."""
    try:
        return claims.canonical(name)
    except ValueError:
        raise errors.NotFound from None
