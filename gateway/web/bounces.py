"""/v1/bounces: an account's own rules for refusals, the built-in ones to read, and a dry run of both."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, model_validator
from uuid_utils.compat import uuid7

from gateway import errors, models
from gateway.lifecycle import Gateway
from gateway.mail import classify, dsn
from gateway.models import Caller, Input, Origin, Output, Page, Time
from gateway.storage import audit, bounce_rules, db
from gateway.web import api, once

CREATE: Final = "POST /v1/bounces/rules"
LEAST_WORDS: Final = 3  # characters of a pattern, so that it says something
LEAST_SUPPRESSING: Final = 6  # … where addresses are listed by it
_ADDRESS_FAULT: Final = re.compile(r"[45]\.[12]\.(\d{1,3}|x)")  # RFC 3463 3.2, 3.3


def _words(text: str) -> str:
    plain = " ".join(text.lower().split())
    if "@" in plain:
        raise ValueError("addresses are taken out of a reply before words are looked for in it: leave out the @")
    if len(re.sub(r"[*\s]", "", plain)) < LEAST_WORDS:
        raise ValueError(f"at least {LEAST_WORDS} characters besides * and spaces")
    return plain


Words = Annotated[str, Field(max_length=100), AfterValidator(_words)]
Enhanced = Annotated[str, Field(pattern=r"^[45x]\.(\d{1,3}|x)\.(\d{1,3}|x)$")]
Code = Annotated[str, Field(pattern=r"^[45][0-9x][0-9x]$")]
Priority = Annotated[int, Field(ge=0, le=1000)]
Note = Annotated[str, Field(max_length=500)]


class NewRule(Input):
    """Which refusals it is about (all that is given must fit), and what they mean."""

    words: Words | None = Field(
        None, description="Stand in the reply, in any case; * = anything between. Addresses do not count"
    )
    enhanced: Enhanced | None = Field(None, description="RFC 3463 code, x = any: 5.7.x")
    code: Code | None = Field(None, description="SMTP's code, x = any: 55x")
    kind: classify.Kind
    suppresses: bool = Field(
        False, description="Whether a bounce lists the address; only with `hard`, and words or a code of the address"
    )
    action: classify.Action | None = Field(
        None, description="retry: put off what was refused for good; bounce: the reverse; null = as the code says"
    )
    priority: Priority = Field(100, description="Lower = looked at earlier; of the same the older one first")
    note: Note = Field("", description="For people")


class RuleChanges(Input):
    """What is to change."""

    words: Words | None = None
    enhanced: Enhanced | None = None
    code: Code | None = None
    kind: classify.Kind | None = None
    suppresses: bool | None = None
    action: classify.Action | None = None
    priority: Priority | None = None
    note: Note | None = None


class Rule(Output):
    """A rule."""

    object: Literal["bounce_rule"] = "bounce_rule"
    id: str
    builtin: bool = Field(description="Built-in ones cannot be changed; their patterns are regular expressions")
    words: str | None
    enhanced: str | None
    code: str | None
    kind: classify.Kind
    suppresses: bool
    action: classify.Action | None
    priority: int | None = Field(description="null: built-in ones come last, in this order")
    note: str
    created_at: Time | None
    updated_at: Time | None


class RulesQuery(Input):
    """Which table."""

    builtin: bool = Field(False, description="The built-in rules instead of the account's own")


class Refusal(Input):
    """What a server said."""

    reply: str = Field("", max_length=2000, description="An SMTP reply, such as `550 5.1.1 No such user`")
    status: str = Field("", max_length=20, description="RFC 3463 code of a delivery report, where the reply has none")

    dsn: str = Field("", max_length=262_144, description="Instead of both: a bounce as it came, header and all")

    @model_validator(mode="after")
    def _says_something(self) -> Refusal:
        if bool(self.dsn) == bool(self.reply or self.status):
            raise ValueError("give either reply, status or both, or dsn")
        return self


class Classification(Output):
    """What it means, and by which rule."""

    object: Literal["classification"] = "classification"
    rule: str = Field(description="A built-in rule, or the id of one of the account's")
    builtin: bool
    class_: classify.Kind = Field(alias="class")
    suppresses: bool = Field(description="Whether a bounce with it puts the address on the suppression list")
    action: classify.Action = Field(description="What is made of the mail while it is being sent")
    code: str | None
    status: str | None


class Bounces:
    """The operations."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._creations = once.Creations(gateway.database, gateway.settings.idempotency_seconds)

    def operations(self) -> Sequence[api.Operation]:
        changing: dict[str, Any] = {"scope": "admin", "tags": ["Bounces"]}
        reading: dict[str, Any] = {"scope": {"admin", "read"}, "tags": ["Bounces"]}
        return [
            api.op("POST", "/bounces/classify", self.classify, scope="send", tags=["Bounces"]),
            api.op("POST", "/bounces/rules", self.create, status=201, idempotent=True, returns=Rule, **changing),
            api.op("GET", "/bounces/rules", self.list, **reading),
            api.op("GET", "/bounces/rules/{id}", self.get, **reading),
            api.op("PATCH", "/bounces/rules/{id}", self.change, **changing),
            api.op("DELETE", "/bounces/rules/{id}", self.delete, **changing),
        ]

    async def classify(self, caller: Caller, body: Refusal) -> Classification:
        """What a refusal means: the rule that decides, its class, whether it would suppress the address.

        The account's own rules are looked at first. Of a bounce the first recipient that it failed for counts.
        Nothing is stored.
        """
        reply, status = _said(body)
        async with self._gateway.database.connection() as connection:
            own = [rule.own() for rule in await bounce_rules.all_of(connection, caller.account_id)]
        found = classify.classify(reply, status, own)
        return Classification.model_validate(
            {
                "rule": found.rule,
                "builtin": not found.own,
                "class": found.kind,
                "suppresses": found.suppresses,
                "action": found.action,
                "code": found.code or None,
                "status": found.enhanced or None,
            }
        )

    async def create(
        self, caller: Caller, body: NewRule, idempotency_key: str | None, fingerprint: bytes | None, origin: Origin
    ) -> models.Answer:
        """A rule of the account's own, looked at before the built-in ones; at most 200. Workers know it in seconds."""
        wish = once.wish(CREATE, idempotency_key, fingerprint)
        fields = body.model_dump()
        _check(fields)
        rule_id = uuid7()

        async def create(connection: db.Connection, keep: once.Keep) -> dict[str, Any]:
            if not await bounce_rules.create(connection, caller.account_id, rule_id, _stored(fields)):
                raise errors.QuotaExceeded(
                    f"An account has at most {bounce_rules.MOST} rules: delete some.", retry_after=60
                )
            answer = (await self._read(connection, caller.account_id, rule_id)).model_dump(mode="json")
            await keep(answer)
            await audit.write(connection, caller.account_id, "bounce_rule.created", origin, id=rule_id, **fields)
            return answer

        answer, replayed = await self._creations.create(caller.account_id, wish, create)
        if not replayed:
            self._gateway.tell([caller.account_id])
        return once.answered(201, answer, replayed=replayed)

    async def list(self, caller: Caller, query: RulesQuery) -> Page[Rule]:
        """All rules of the account, or all built-in ones, in the order in which they are looked at."""
        if query.builtin:
            return Page(data=[_builtin(rule) for rule in (*classify.RULES, classify.NO_REPLY, classify.UNSENT)])
        async with self._gateway.database.connection() as connection:
            return Page(data=[_shown(rule) for rule in await bounce_rules.all_of(connection, caller.account_id)])

    async def get(self, caller: Caller, id: UUID) -> Rule:
        """One rule of the account's."""
        async with self._gateway.database.connection() as connection:
            return await self._read(connection, caller.account_id, id)

    async def change(self, caller: Caller, id: UUID, body: RuleChanges, origin: Origin) -> Rule:
        """Change it in part; what was decided by it stays."""
        given = body.model_dump(exclude_unset=True)
        for name in ("kind", "suppresses", "priority", "note"):
            if name in given and given[name] is None:
                raise errors.invalid(name, "must not be null")
        async with self._gateway.database.transaction() as connection:
            await bounce_rules.lock(connection, caller.account_id)
            before = await self._read(connection, caller.account_id, id)
            fields = before.model_dump(include=set(RuleChanges.model_fields)) | given
            _check(fields)
            if not await bounce_rules.change(connection, caller.account_id, id, _stored(fields)):
                raise errors.NotFound
            changed = await self._read(connection, caller.account_id, id)
            await audit.write(connection, caller.account_id, "bounce_rule.updated", origin, id=id, changed=given)
        self._gateway.tell([caller.account_id])
        return changed

    async def delete(self, caller: Caller, id: UUID, origin: Origin) -> None:
        """It decides nothing any more."""
        async with self._gateway.database.transaction() as connection:
            if not await bounce_rules.delete(connection, caller.account_id, id):
                raise errors.NotFound
            await audit.write(connection, caller.account_id, "bounce_rule.deleted", origin, id=id)
        self._gateway.tell([caller.account_id])

    async def _read(self, connection: db.Connection, account_id: UUID, rule_id: UUID) -> Rule:
        found = await bounce_rules.get(connection, account_id, rule_id)
        if found is None:
            raise errors.NotFound
        return _shown(found)


def _check(fields: Mapping[str, Any]) -> None:
    """Raises ValidationFailed. A rule that lists addresses must be about addresses: one slip would cost them all."""
    words, enhanced = fields["words"] or "", fields["enhanced"] or ""
    if not (words or enhanced or fields["code"]):
        raise errors.invalid("words", "give words, enhanced or code, or several of them")
    if not fields["suppresses"]:
        return
    if fields["kind"] != "hard":
        raise errors.invalid("suppresses", "only a rule of kind hard can suppress")
    if fields["action"] == "retry":
        raise errors.invalid("suppresses", "what is tried again is not suppressed")
    if len(re.sub(r"[*\s]", "", words)) < LEAST_SUPPRESSING and not _ADDRESS_FAULT.fullmatch(enhanced):
        raise errors.invalid(
            "suppresses", f"needs words of {LEAST_SUPPRESSING} characters or more, or enhanced 5.1.x or 5.2.x"
        )


def _stored(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: (fields[name] or "") if name in ("words", "enhanced", "code") else fields[name] for name in fields}


def _shown(rule: bounce_rules.BounceRule) -> Rule:
    return Rule(
        id=str(rule.id),
        builtin=False,
        words=rule.words or None,
        enhanced=rule.enhanced or None,
        code=rule.code or None,
        kind=rule.kind,
        suppresses=rule.suppresses,
        action=rule.action,
        priority=rule.priority,
        note=rule.note,
        created_at=rule.created_at.astimezone(UTC),
        updated_at=rule.updated_at.astimezone(UTC),
    )


def _builtin(rule: classify.Rule) -> Rule:
    return Rule(
        id=rule.id,
        builtin=True,
        words=rule.words or None,
        enhanced=rule.enhanced or None,
        code=rule.code or None,
        kind=rule.kind,
        suppresses=rule.suppresses,
        action=rule.action,
        priority=None,
        note="only where the reply has no RFC 3463 code that says anything" if rule.bare else "",
        created_at=None,
        updated_at=None,
    )


def _said(given: Refusal) -> tuple[str, str]:
    """Reply and RFC 3463 code."""
    if not given.dsn:
        return given.reply, given.status
    fates = dsn.read(given.dsn.encode("utf-8", "replace")).fates
    fate = next((fate for fate in fates if fate.action == "failed"), next(iter(fates), None))
    if fate is None:
        raise errors.invalid("dsn", "it tells of no recipient that mail did not come to")
    return fate.diagnostic, fate.status
