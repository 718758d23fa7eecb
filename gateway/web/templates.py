"""/v1/templates: mail that is written once and filled in for each e-mail; checked when made, previewed before sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from pydantic import AfterValidator, Field, JsonValue, StringConstraints
from uuid_utils.compat import uuid7

from gateway import errors, models
from gateway.inbound import rendering
from gateway.lifecycle import Gateway
from gateway.mail import template
from gateway.models import Caller, Input, ListQuery, Origin, Output, Page, Time
from gateway.storage import audit, db, period, templates
from gateway.web import api, once, room

CREATE: Final = "POST /v1/templates"
MAX_SOURCE: Final = 262_144  # characters of a body
MAX_VARIABLES: Final = 200
MAX_VARIABLES_BYTES: Final = 262_144  # as JSON
NEEDED: Final = "html or text is needed"
_cursors: Final[models.Cursor[tuple[UUID]]] = models.Cursor(tuple[UUID])

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]


def _bounded(given: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if len(msgspec.json.encode(given)) > MAX_VARIABLES_BYTES:
        raise ValueError(f"more than {MAX_VARIABLES_BYTES:,} bytes of JSON")
    return given


Given = Annotated[dict[str, JsonValue], AfterValidator(_bounded)]
Declared = Annotated[dict[Name, "Variable"], Field(max_length=MAX_VARIABLES)]


class Variable(Input):
    """A variable that the template has."""

    type: Literal["string", "number", "boolean", "list", "object"] = "string"
    required: bool = False
    default: JsonValue = Field(None, description="null = none")


class NewTemplate(Input):
    """Jinja2 for each part of a mail."""

    name: str = Field(min_length=1, max_length=200)
    subject: str = Field(max_length=2000)
    html: str | None = Field(None, max_length=MAX_SOURCE, description="This or text is needed; values are escaped")
    text: str | None = Field(None, max_length=MAX_SOURCE, description="null = made from the HTML")
    variables: Declared = Field({}, description="None declared: any may be given. Otherwise these and no others")


class TemplateChanges(Input):
    """What is to change."""

    name: str | None = Field(None, min_length=1, max_length=200)
    subject: str | None = Field(None, max_length=2000)
    html: str | None = Field(None, max_length=MAX_SOURCE, description="null = none")
    text: str | None = Field(None, max_length=MAX_SOURCE, description="null = made from the HTML")
    variables: Declared | None = None


class TemplateVariable(Output):
    """A variable that the template has."""

    type: Literal["string", "number", "boolean", "list", "object"]
    required: bool
    default: JsonValue


class Template(Output):
    """A template."""

    id: UUID
    name: str
    subject: str
    html: str | None
    text: str | None
    variables: dict[str, TemplateVariable]
    created_at: Time
    updated_at: Time


class Values(Input):
    """What the variables are this time."""

    variables: Given = Field({})


class Preview(Output):
    """What an e-mail would say."""

    subject: str
    html: str | None
    text: str | None


class Templates:
    """The operations."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._creations = once.Creations(gateway.database, gateway.settings.idempotency_seconds)
        self._room = room.Room("templates", gateway.settings)

    def operations(self) -> Sequence[api.Operation]:
        changing: dict[str, Any] = {"scope": "admin", "tags": ["Templates"]}
        reading: dict[str, Any] = {"scope": {"admin", "read"}, "tags": ["Templates"]}
        making: dict[str, Any] = {"status": 201, "idempotent": True, "errors": [errors.QuotaExceeded]}
        return [
            api.op("POST", "/templates", self.create, returns=Template, **making, **changing),
            api.op("GET", "/templates", self.list, **reading),
            api.op("GET", "/templates/{id}", self.get, **reading),
            api.op("PATCH", "/templates/{id}", self.change, **changing),
            api.op("DELETE", "/templates/{id}", self.delete, **changing),
            api.op("POST", "/templates/{id}/render", self.render, **changing),
        ]

    async def create(
        self, caller: Caller, body: NewTemplate, idempotency_key: str | None, fingerprint: bytes | None, origin: Origin
    ) -> models.Answer:
        """A new template. What is wrong with it is said with its line."""
        wish = once.wish(CREATE, idempotency_key, fingerprint)
        fields = body.model_dump(mode="json")
        await self._check(fields)
        template_id = uuid7()

        async def create(connection: db.Connection, keep: once.Keep) -> dict[str, Any]:
            await self._room.take(connection, caller.account_id)
            await templates.create(connection, caller.account_id, template_id, fields)
            answer = (await self._read(connection, caller.account_id, template_id)).model_dump(mode="json")
            await keep(answer)
            about = {"id": template_id, "name": body.name}
            await audit.write(connection, caller.account_id, "template.created", origin, **about)
            return answer

        answer, replayed = await self._creations.create(caller.account_id, wish, create)
        if not replayed:
            self._gateway.tell([caller.account_id])
        return once.answered(201, answer, replayed=replayed)

    async def list(self, caller: Caller, query: ListQuery) -> Page[Template]:
        """The account's templates, newest first."""
        after = _cursors.decode(query.cursor)[0] if query.cursor else None
        async with self._gateway.database.connection() as connection:
            found = await templates.page(
                connection,
                caller.account_id,
                after=after,
                limit=query.limit + 1,
                ascending=query.order == "asc",
                made=period.of(query),
            )
        return models.page(found, query.limit, _shown, lambda one: _cursors.encode((one.id,)))

    async def get(self, caller: Caller, id: UUID) -> Template:
        """One template."""
        async with self._gateway.database.connection() as connection:
            return await self._read(connection, caller.account_id, id)

    async def change(self, caller: Caller, id: UUID, body: TemplateChanges, origin: Origin) -> Template:
        """Write it anew, in part or whole; e-mails that were accepted stay as they are."""
        given = body.model_dump(mode="json", exclude_unset=True)
        for name in ("name", "subject", "variables"):
            if name in given and given[name] is None:
                raise errors.invalid(name, "must not be null")
        before = (await self.get(caller, id)).model_dump(mode="json", exclude={"id", "created_at", "updated_at"})
        fields = before | given
        await self._check(fields)
        async with self._gateway.database.transaction() as connection:
            if not await templates.change(connection, caller.account_id, id, fields):
                raise errors.NotFound
            changed = await self._read(connection, caller.account_id, id)
            about = {"id": id, "name": changed.name, "changed": sorted(given)}
            await audit.write(connection, caller.account_id, "template.updated", origin, **about)
        self._gateway.tell([caller.account_id])
        return changed

    async def delete(self, caller: Caller, id: UUID, origin: Origin) -> None:
        """No e-mail can be made of it any more."""
        async with self._gateway.database.transaction() as connection:
            if not await templates.delete(connection, caller.account_id, id):
                raise errors.NotFound
            await audit.write(connection, caller.account_id, "template.deleted", origin, id=id)
        self._gateway.tell([caller.account_id])

    async def render(self, caller: Caller, id: UUID, body: Values) -> Preview:
        """What an e-mail would say; nothing is sent."""
        async with self._gateway.database.connection() as connection:
            found = await templates.get(connection, caller.account_id, id)
        if found is None:
            raise errors.NotFound
        try:
            made = await self._gateway.rendering.render(source(found), body.variables)
        except template.Problem as problem:
            raise errors.invalid(problem.field, problem.message) from problem
        return Preview(subject=made.subject, html=made.html, text=made.text)

    async def _read(self, connection: db.Connection, account_id: UUID, template_id: UUID) -> Template:
        found = await templates.get(connection, account_id, template_id)
        if found is None:
            raise errors.NotFound
        return _shown(found)

    async def _check(self, fields: Mapping[str, Any]) -> None:
        """Raises MissingRequiredField, ValidationFailed."""
        if fields["html"] is None and fields["text"] is None:
            raise errors.MissingRequiredField(NEEDED, errors=[errors.FieldError(field="html", message=NEEDED)])
        _bounded_defaults(fields["variables"])
        try:
            await self._gateway.rendering.check(_source(fields))
        except template.Problem as problem:
            raise errors.invalid(problem.field, problem.message) from problem


def _bounded_defaults(declared: Mapping[str, Any]) -> None:
    if len(msgspec.json.encode(declared)) > MAX_VARIABLES_BYTES:
        raise errors.invalid("variables", f"more than {MAX_VARIABLES_BYTES:,} bytes of JSON")


def _source(fields: Mapping[str, Any]) -> template.Source:
    declared = {name: template.Variable(**one) for name, one in fields["variables"].items()}
    return template.Source(subject=fields["subject"], html=fields["html"], text=fields["text"], declared=declared)


def source(found: templates.Template) -> template.Source:
    """As it is rendered."""
    return _source(
        {"subject": found.subject, "html": found.html, "text": found.text, "variables": found.variables},
    )


def _shown(found: templates.Template) -> Template:
    return Template.model_validate({name: getattr(found, name) for name in templates.Template.__dataclass_fields__})


# For e-mails


class Fillings:
    """Fills templates in for the e-mails of one request; each template is looked up once."""

    def __init__(self, gateway: Gateway, account_id: UUID) -> None:
        self._gateway = gateway
        self._account_id = account_id
        self._found: dict[UUID, template.Source | None] = {}  # None = there is none
        self._given_up: rendering.TookTooLong | None = None

    async def rendered(self, template_id: UUID, variables: Mapping[str, Any]) -> template.Rendered:
        """Raises ValidationFailed, which names the field. After one that took too long no other is tried."""
        if template_id not in self._found:
            self._found[template_id] = await self._look_up(template_id)
        wanted = self._found[template_id]
        if wanted is None:
            raise errors.invalid("template.id", "there is no such template")
        try:
            if self._given_up is not None:
                raise self._given_up
            return await self._gateway.rendering.render(wanted, variables)
        except template.Problem as problem:
            if isinstance(problem, rendering.TookTooLong):
                self._given_up = problem
            raise errors.invalid(f"template.{problem.field}", problem.message) from problem

    async def _look_up(self, template_id: UUID) -> template.Source | None:
        async with self._gateway.database.connection() as connection:
            found = await templates.get(connection, self._account_id, template_id)
        return source(found) if found is not None else None
