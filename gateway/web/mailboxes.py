"""/v1/mailboxes: making, reading and ending mailboxes, and waiting for what arrives in them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from pydantic import AfterValidator, Field, JsonValue
from starlette.responses import Response

from gateway import errors, models, tokens
from gateway.lifecycle import Gateway
from gateway.mail import address
from gateway.models import Caller, Input, ListQuery, Output, Page, Time
from gateway.notify import waiting
from gateway.storage import db, domains, events, mailboxes, period, quotas
from gateway.web import api, messages, once
from gateway.web.paths import Paths

CONSONANTS: Final = "bdfghjklmnprstvz"
VOWELS: Final = "aeiou"
SYLLABLES: Final = 11  # of 80 each: 69 bits
MAX_METADATA_BYTES: Final = 16_384
COUNTED_SECONDS: Final = 1.0  # how long a count of live mailboxes is believed
MAX_COUNTED: Final = 10_000  # accounts whose count is believed at once
SKIPPED: Final = 100  # message ids that a wait may leave out
CREATE: Final = "POST /v1/mailboxes"

_cursors: Final[models.Cursor[tuple[UUID]]] = models.Cursor(tuple[UUID])


def _bounded(metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if len(msgspec.json.encode(metadata)) > MAX_METADATA_BYTES:
        raise ValueError(f"more than {MAX_METADATA_BYTES} bytes of JSON")
    return metadata


SenderPolicy = Literal["accept", "flag", "drop-on-fail"]
Metadata = Annotated[dict[str, JsonValue], AfterValidator(_bounded)]


_POLICY: Final = (
    "Mail whose sender is not who it says: accept (shown at once, the verdict follows), flag (held until judged, at "
    "most 5 s; then it carries the label unauthenticated) or drop-on-fail (held likewise; then message.dropped)"
)


class NewMailbox(Input):
    """What a mailbox should be like; nothing at all is fine."""

    address: str | None = Field(None, max_length=320, description="The whole address, at an own domain")
    local_part: str | None = Field(None, max_length=64, description="Only what stands before the @")
    domain: str | None = Field(None, max_length=255, description="An own domain; default the first of MAIL_DOMAINS")
    ttl_seconds: int | None = Field(None, ge=10, description="Its life; null = for ever, where that is allowed")
    metadata: Metadata = Field(default_factory=dict, description="Yours; told back with it")
    sender_policy: SenderPolicy = Field("accept", description=_POLICY)


class MailboxChanges(Input):
    """What is to change."""

    ttl_seconds: int | None = Field(None, ge=10, description="Counts from now; null = for ever, where that is allowed")
    metadata: Metadata | None = None
    sender_policy: SenderPolicy | None = Field(None, description=_POLICY)


class MailboxesQuery(ListQuery):
    """Which mailboxes."""

    q: str | None = Field(
        None,
        max_length=200,
        description="Words, each of them somewhere in the address or the metadata, in letters of any case",
    )
    status: Literal["active", "expired"] | None = Field(None, description="Only those in this state")


class Mailbox(Output):
    """A mailbox."""

    id: UUID
    address: str
    status: Literal["active", "expired"]
    created_at: Time
    expires_at: Time | None
    message_count: int
    metadata: dict[str, JsonValue]
    sender_policy: SenderPolicy
    cursor: str = Field(description="Where its events begin")


class CreatedMailbox(Mailbox):
    """A new mailbox, with the token that is shown this once."""

    token: str


class WaitQuery(Input):
    """For which message, and how long."""

    timeout: float = Field(25, ge=0, le=120, description="Seconds")
    since: str | None = Field(None, description="A cursor: only messages behind it")
    skip: models.Words = Field((), description="Ids of messages to leave out")
    from_: str | None = Field(None, alias="from", description="An exact address, or @example.com")
    subject: str | None = Field(None, description="Case-insensitive substring")
    text: str | None = Field(None, description="Case-insensitive substring of the body")
    for_: Literal["message", "code", "link"] = Field("message", alias="for", description="What it must carry")
    kind: Literal["verify", "login", "reset", "invite", "unsubscribe", "other"] | None = Field(
        None, description="Of the link; alone it waits for one (`for=link`)"
    )


class Waited(Output):
    """The message that was waited for."""

    message: messages.Message
    code: str | None
    link: str | None
    cursor: str


class Mailboxes:
    """The operations."""

    def __init__(self, gateway: Gateway, paths: Paths) -> None:
        self._gateway = gateway
        self._settings = gateway.settings
        self._paths = paths
        self._counted: dict[UUID, tuple[float, int]] = {}  # live mailboxes of an account, and until when to believe it
        self._creations = once.Creations(gateway.database, gateway.settings.idempotency_seconds)

    def operations(self) -> Sequence[api.Operation]:
        own: dict[str, Any] = {"tags": ["Mailboxes"], "mailbox_token": True}
        readers = {"mailboxes", "read"}
        return [
            api.op(
                "POST",
                "/mailboxes",
                self.create,
                scope="mailboxes",
                status=201,
                idempotent=True,
                returns=CreatedMailbox,
                tags=["Mailboxes"],
                errors=[errors.AddressTaken, errors.QuotaExceeded],
            ),
            api.op("GET", "/mailboxes", self.list, scope=readers, tags=["Mailboxes"]),
            api.op("GET", "/mailboxes/{mailbox}", self.get, scope=readers, **own),
            api.op(
                "PATCH",
                "/mailboxes/{mailbox}",
                self.change,
                scope="mailboxes",
                tags=["Mailboxes"],
                errors=[errors.InvalidState],
            ),
            api.op("DELETE", "/mailboxes/{mailbox}", self.delete, scope="mailboxes", **own),
            api.op(
                "GET",
                "/mailboxes/{mailbox}/wait",
                self.wait,
                scope=readers,
                returns=Waited,
                errors=[errors.WaitTimeout, errors.CursorExpired],
                **own,
            ),
        ]

    async def create(
        self, caller: Caller, body: NewMailbox, idempotency_key: str | None, fingerprint: bytes | None
    ) -> models.Answer:
        """Make a mailbox."""
        wish = once.wish(CREATE, idempotency_key, fingerprint)
        field = "address" if body.address is not None else "domain" if body.local_part is None else "local_part"
        wanted = self._address(caller, body, field)
        new = {
            "address": wanted.canonical,
            "ttl_seconds": self._life(body),
            "metadata": body.metadata,
            "sender_policy": body.sender_policy,
        }

        async def create(connection: db.Connection, keep: once.Keep) -> dict[str, Any]:
            await self._check_domain(connection, caller.account_id, wanted, "domain" if body.domain else field)
            return await self._create(caller.account_id, connection, keep, new)

        answer, replayed = await self._creations.create(caller.account_id, wish, create)
        if replayed:
            answer["cursor"] = await self._cursor(caller.account_id, UUID(answer["id"]))
        else:
            self._gateway.tell([caller.account_id])
        token = self._gateway.keyring.mailbox_token(UUID(answer["id"]))
        return once.answered(201, {**answer, "token": token}, replayed=replayed)

    async def _create(
        self, account_id: UUID, connection: db.Connection, keep: once.Keep, new: dict[str, Any]
    ) -> dict[str, Any]:
        """The answer without its token. Its cursor is not kept: it is the event's number, which comes last."""
        await self._take_room(connection, account_id)
        mailbox_id = self._gateway.database.clock.uuid7()
        token_hash = tokens.hash_token(self._gateway.keyring.mailbox_token(mailbox_id))
        box = await mailboxes.create(connection, account_id, id=mailbox_id, token_hash=token_hash, **new)
        answer = _shown(box).model_dump(mode="json", exclude={"cursor"})
        await keep(answer)
        event = mailboxes.created(mailbox_id, box.address, box.expires_at)
        cursor = await events.append(connection, account_id, [event])
        return {**answer, "cursor": str(cursor)}

    async def _take_room(self, connection: db.Connection, account_id: UUID) -> None:
        """One mailbox more. What was counted a moment ago is believed, so the limit may be passed by what other
        processes make within it. Raises QuotaExceeded."""
        most = self._settings.max_mailboxes
        until, count = self._counted.get(account_id, (0.0, 0))
        if most and time.monotonic() >= until:
            count = await quotas.live_mailboxes(connection, account_id, most)
            until = time.monotonic() + COUNTED_SECONDS
        if most and count >= most:
            raise errors.QuotaExceeded(
                f"The account has {most} live mailboxes, and may have no more (MAX_MAILBOXES): delete some.",
                retry_after=60,
            )
        if len(self._counted) >= MAX_COUNTED:
            self._counted.clear()
        self._counted[account_id] = (until, count + 1)

    async def _cursor(self, account_id: UUID, mailbox_id: UUID) -> str:
        async with self._gateway.database.connection() as connection:
            return str(await mailboxes.cursor(connection, account_id, mailbox_id))

    def _address(self, caller: Caller, body: NewMailbox, field: str) -> address.Address:
        """The address asked for. Raises ValidationFailed, RestrictedApiKey."""
        if body.address is not None and (body.local_part is not None or body.domain is not None):
            raise errors.invalid("address", "give either the address, or local_part and domain")
        given = body.address or f"{body.local_part or random_local_part()}@{body.domain or self._settings.first_domain}"
        try:
            parsed = address.parse(given)
        except address.InvalidAddress as error:
            raise errors.invalid(field, str(error)) from error
        if parsed.tag is not None:
            raise errors.invalid(field, "a + begins a tag; mail to it arrives in the mailbox without it")
        if caller.domains and parsed.ascii_domain not in caller.domains:
            raise errors.RestrictedApiKey(f"The API key may not use {parsed.domain}.")
        return parsed

    async def _check_domain(
        self, connection: db.Connection, account_id: UUID, wanted: address.Address, field: str
    ) -> None:
        """It is everybody's, or the account's until the mailbox is there, too. Raises ValidationFailed."""
        domain = wanted.ascii_domain
        if domain in self._settings.mail_domains:
            return
        owner = await domains.hold_owner(connection, domain)
        if owner != account_id and (owner is not None or not self._settings.captures_every_domain):
            raise errors.invalid(field, f"{wanted.domain} is not a domain of this gateway")

    def _life(self, body: NewMailbox | MailboxChanges) -> float | None:
        """Seconds; None = for ever. Raises ValidationFailed."""
        if "ttl_seconds" not in body.model_fields_set:
            return self._settings.default_ttl_seconds
        if body.ttl_seconds is None and not self._settings.allow_permanent_mailboxes:
            raise errors.invalid("ttl_seconds", "mailboxes that never expire are not allowed here")
        if body.ttl_seconds is not None and body.ttl_seconds > self._settings.max_ttl_seconds:
            raise errors.invalid("ttl_seconds", f"at most {self._settings.max_ttl_seconds}")
        return body.ttl_seconds

    async def list(self, caller: Caller, query: MailboxesQuery) -> Page[Mailbox]:
        """Mailboxes that are active or expired, newest first."""
        after = _cursors.decode(query.cursor)[0] if query.cursor else None
        async with self._gateway.database.connection() as connection:
            found = await mailboxes.page(
                connection,
                caller.account_id,
                after=after,
                limit=query.limit + 1,
                ascending=query.order == "asc",
                retention=self._settings.retention_seconds,
                made=period.of(query),
                words=(query.q or "").replace("\0", " ").split(),
                is_live=None if query.status is None else query.status == "active",
            )
        return models.page(found, query.limit, _shown, lambda box: _cursors.encode((box.id,)))

    async def get(self, caller: Caller, mailbox: str) -> Mailbox:
        """One mailbox, by id or address."""
        return _shown(await self._paths.mailbox(caller, mailbox))

    async def change(self, caller: Caller, mailbox: str, body: MailboxChanges) -> Mailbox:
        """Give it another life, or other metadata."""
        mailbox_id = await self._paths.mailbox_id(caller, mailbox)
        changes: dict[str, Any] = {}
        if "ttl_seconds" in body.model_fields_set:
            changes["ttl_seconds"] = self._life(body)
        if "metadata" in body.model_fields_set:
            changes["metadata"] = body.metadata or {}
        if body.sender_policy is not None:
            changes["sender_policy"] = body.sender_policy
        if changes:
            async with self._gateway.database.transaction() as connection:
                retention = self._settings.retention_seconds
                await mailboxes.change(connection, caller.account_id, mailbox_id, changes=changes, retention=retention)
                if changes.get("ttl_seconds") is not None:
                    await self._check_mortal(connection, caller.account_id, mailbox_id)
            self._gateway.tell([caller.account_id])
        return _shown(await self._paths.mailbox(caller, str(mailbox_id)))

    async def _check_mortal(self, connection: db.Connection, account_id: UUID, mailbox_id: UUID) -> None:
        """After the mailbox was locked: who makes it a catch-all has done so, or waits. Raises InvalidState."""
        domain = await domains.caught_by(connection, account_id, mailbox_id)
        if domain is not None:
            raise errors.InvalidState(f"The mailbox is the catch-all of {domain} and never expires.")

    async def delete(self, caller: Caller, mailbox: str) -> None:
        """End it, with all that is in it."""
        mailbox_id = await self._paths.mailbox_id(caller, mailbox)
        async with self._gateway.database.transaction() as connection:
            if not await mailboxes.delete(connection, caller.account_id, mailbox_id):
                raise errors.NotFound
        self._gateway.tell([caller.account_id])

    async def wait(self, caller: Caller, mailbox: str, query: WaitQuery) -> Response:
        """The next message that matches, as soon as there is one."""
        box = await self._paths.mailbox(caller, mailbox)
        wanted = _wanted(query)
        if wanted.since is not None:
            await self._check_begun(caller.account_id, wanted.since)
        async with self._gateway.admission.required(caller):
            outcome = await waiting.wait(
                self._gateway.live,
                self._gateway.database,
                caller.account_id,
                box.id,
                wanted=wanted,
                timeout=query.timeout,
                read=self._gateway.parsing.read,
            )
        if outcome.message is None:
            raise errors.WaitTimeout(_nothing(query.timeout, outcome.seen))
        message = await messages.full(self._gateway, outcome.message, outcome.raw)
        body = {
            "message": message,
            "code": outcome.code,
            "link": outcome.link,
            "cursor": str(outcome.message.seq),
        }
        return Response(msgspec.json.encode(body), media_type="application/json")

    async def _check_begun(self, account_id: UUID, cursor: int) -> None:
        """Nothing can ever come behind a cursor that the log has not reached. Raises CursorExpired."""
        async with self._gateway.database.connection() as connection:
            bounds = await events.bounds(connection, account_id)
        if cursor > bounds.newest:
            bounds.check(cursor)


def random_local_part() -> str:
    """Unguessable, and pronounceable enough to be read out: "tibodamu-kelorapi-vunasu"."""
    syllables = [secrets.choice(CONSONANTS) + secrets.choice(VOWELS) for _ in range(SYLLABLES)]
    return "-".join("".join(syllables[start : start + 4]) for start in range(0, SYLLABLES, 4))


def _shown(box: mailboxes.Mailbox) -> Mailbox:
    return Mailbox(
        id=box.id,
        address=box.address,
        status="active" if box.is_live else "expired",
        created_at=box.created_at,
        expires_at=box.expires_at,
        message_count=box.message_count,
        metadata=box.metadata,
        sender_policy=box.sender_policy,
        cursor=str(box.cursor),
    )


def _wanted(query: WaitQuery) -> waiting.Wanted:
    if len(query.skip) > SKIPPED:
        raise errors.invalid("skip", f"at most {SKIPPED} ids")
    return waiting.Wanted(
        since=models.seq(query.since, "since") if query.since is not None else None,
        skip=frozenset(_id(word) for word in query.skip),
        from_=query.from_.lower() if query.from_ else None,
        subject=query.subject,
        text=query.text,
        carries="link" if query.kind and "for_" not in query.model_fields_set else query.for_,
        kind=query.kind,
    )


def _id(word: str) -> UUID:
    try:
        return UUID(word)
    except ValueError:
        raise errors.invalid("skip", f"{word[:64]!r} is not a message id") from None


def _nothing(timeout: float, seen: Sequence[str]) -> str:
    """What a failing test shows: what did arrive instead."""
    said = f"No matching message within {timeout:g} s; "
    if not seen:
        return said + "nothing arrived."
    return said + f"{len(seen)} arrived that did not match: " + ", ".join(repr(subject) for subject in seen) + "."
