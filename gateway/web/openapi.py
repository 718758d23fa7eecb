"""The OpenAPI 3.1 document, made from the operations and the very models that validate their requests."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode
from starlette.routing import compile_path

from gateway import errors
from gateway.web import api

Json = dict[str, Any]

_KEY: Final = "apiKey"
_TOKEN: Final = "mailboxToken"  # noqa: S105 - a scheme's name
_REFS: Final = "#/components/schemas/{model}"


class FieldProblem(BaseModel):
    """One thing wrong with a request."""

    field: str = Field(description="Where: `to[1]`, `attachments[0].filename`, or a query field, such as `limit`")
    message: str


class Error(BaseModel):
    """What every error looks like."""

    model_config = ConfigDict(extra="allow")

    statusCode: int = Field(description="The status, once more")  # noqa: N815 - as Resend's SDKs read it
    name: str = Field(description="The kind of error; it does not change")
    message: str = Field(description="For a person; it may change")
    errors: list[FieldProblem] = Field([], description="Each field that is wrong")
    request_id: str = Field(description="The answer's X-Request-Id")


class _Schema(GenerateJsonSchema):
    """pydantic's JSON Schema without the titles, which repeat the names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def document(described: api.Api, *, title: str, version: str, description: str = "") -> Json:
    """The whole document. DeclarationError where two operations would have one operationId."""
    references, components = _schemas(described.plans)
    paths: dict[str, Json] = {}
    for plan in described.plans:
        path = compile_path(described.prefix + plan.operation.path)[1]
        paths.setdefault(path, {})[plan.operation.method.lower()] = _operation(plan, references)
    _refuse_doubles(paths)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": description},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _security_schemes()},
    }


def encoded(document: Json) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


# Schemas

Place = tuple[str, str]  # an operation's title, and which of its schemas: "body", "query", "result"


def _schemas(plans: Iterable[api.Plan]) -> tuple[dict[Place, Json], Json]:
    """The schema of each place, by reference where it has a name, and the named ones."""
    inputs: list[tuple[Any, JsonSchemaMode, TypeAdapter[Any]]] = [(("", "error"), "validation", TypeAdapter(Error))]
    for plan in plans:
        title = plan.operation.title
        if plan.body is not None and "body" in plan.wants:
            inputs.append(((title, "body"), "validation", plan.body))
        if plan.query_model is not None:
            inputs.append(((title, "query"), "validation", TypeAdapter(plan.query_model)))
        if plan.result is not None:
            inputs.append(((title, "result"), "serialization", plan.result))
    found, rest = TypeAdapter.json_schemas(inputs, ref_template=_REFS, schema_generator=_Schema)
    references = {place: schema for (place, _), schema in found.items()}
    return _queries_apart(references, rest.get("$defs", {}))


def _queries_apart(references: dict[Place, Json], named: Json) -> tuple[dict[Place, Json], Json]:
    """Query models are taken apart into parameters: as components nobody would refer to them."""
    by_reference = {_REFS.format(model=name): schema for name, schema in named.items()}
    queries = {place: schema.get("$ref", "") for place, schema in references.items() if place[1] == "query"}
    whole = {place: by_reference.get(reference, references[place]) for place, reference in queries.items()}
    apart = {name: named[name] for name in sorted(named) if _REFS.format(model=name) not in queries.values()}
    return {**references, **whole}, apart


# Operations


def _operation(plan: api.Plan, references: Mapping[Place, Json]) -> Json:
    operation = plan.operation
    summary, _, rest = (inspect.getdoc(operation.handler) or "").partition("\n")
    described: Json = {
        "operationId": _operation_id(operation),
        "summary": summary.removesuffix("."),
        "tags": list(operation.tags),
        "security": _security(operation),
        "responses": _responses(plan, references),
    }
    if rest.strip():
        described["description"] = rest.strip()
    if parameters := [*_path_parameters(plan), *_query_parameters(plan, references), *_header_parameters(operation)]:
        described["parameters"] = parameters
    if "body" in plan.wants or operation.reads_body:
        described["requestBody"] = _request_body(plan, references)
    return described


def _operation_id(operation: api.Operation) -> str:
    name = getattr(operation.handler, "__name__", "").strip("_")
    chapter = operation.tags[0].lower().replace(" ", "_").replace("-", "_") if operation.tags else ""
    return f"{chapter}_{name}" if chapter else name


def _security(operation: api.Operation) -> list[Json]:
    """Each entry suffices. For bearer schemes OpenAPI 3.1 takes role names, here scopes; [] asks for no key."""
    keys: list[Json] = [{_KEY: [scope]} for scope in sorted(operation.scopes | {"admin"})]
    tokens: list[Json] = [{_TOKEN: []}] if operation.mailbox_token else []
    return [] if operation.public else [*keys, *tokens]


def _security_schemes() -> Json:
    return {
        _KEY: {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key, `pr_key_…`, with one of the scopes named",
        },
        _TOKEN: {"type": "http", "scheme": "bearer", "description": "A mailbox's token, `pr_mbx_…`, for that mailbox"},
    }


def _path_parameters(plan: api.Plan) -> list[Json]:
    schemas = {name: TypeAdapter(kind).json_schema() for name, kind in plan.path_types.items()}
    return [{"name": name, "in": "path", "required": True, "schema": schema} for name, schema in schemas.items()]


def _query_parameters(plan: api.Plan, references: Mapping[Place, Json]) -> list[Json]:
    schema = references.get((plan.operation.title, "query"), {})
    required = schema.get("required", ())
    return [_query_parameter(name, field, name in required) for name, field in schema.get("properties", {}).items()]


def _query_parameter(name: str, schema: Json, required: bool) -> Json:
    """A query cannot say null: that option, and null as a default, only mean that the field may be left out."""
    options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    others = {key: value for key, value in schema.items() if key not in ("anyOf", "description")}
    if others.get("default", ...) is None:
        del others["default"]
    shape = {**others, **options[0]} if len(options) == 1 else {**others, **({"anyOf": options} if options else {})}
    parameter = {"name": name, "in": "query", "required": required, "schema": shape}
    if "description" in schema:
        parameter["description"] = schema["description"]
    if shape.get("type") == "array":
        parameter.update(style="form", explode=False)
    return parameter


def _header_parameters(operation: api.Operation) -> list[Json]:
    headers = dict(operation.headers)
    if operation.idempotent:
        headers["Idempotency-Key"] = (
            "The same key and payload give the first answer again; 1 to 255 printable characters"
        )
    return [
        {"name": name, "in": "header", "required": False, "description": meaning, "schema": {"type": "string"}}
        for name, meaning in headers.items()
    ]


def _request_body(plan: api.Plan, references: Mapping[Place, Json]) -> Json:
    schema = references.get((plan.operation.title, "body"), {})  # none for bytes (OpenAPI 3.1.0, 4.8.14.2)
    return {"required": not plan.body_may_be_empty, "content": {plan.operation.consumes: {"schema": schema}}}


# Answers


def _responses(plan: api.Plan, references: Mapping[Place, Json]) -> Json:
    named = [*plan.operation.errors, *_usual_errors(plan)]
    by_status: dict[int, list[type[errors.ApiError]]] = {}
    for error in sorted(set(named), key=lambda error: (error.status, error.name)):
        by_status.setdefault(error.status, []).append(error)
    refused = {str(status): _refusal(kinds, references[("", "error")]) for status, kinds in by_status.items()}
    return {**_success(plan, references), **refused}


def _success(plan: api.Plan, references: Mapping[Place, Json]) -> Json:
    operation = plan.operation
    answer: Json = {"description": HTTPStatus(plan.status).phrase}
    if plan.result is not None:
        answer["content"] = {api.JSON: {"schema": references[(operation.title, "result")]}}
    elif plan.status != 204:
        answer["content"] = {operation.produces: {"schema": {}}}
    if plan.result is not None and operation.produces != api.JSON:
        answer["content"][operation.produces] = {"schema": {}}
    return {str(plan.status): answer}


def _refusal(kinds: Iterable[type[errors.ApiError]], schema: Json) -> Json:
    lines = [f"`{kind.name}`: {(kind.__doc__ or '').strip()}" for kind in kinds]
    return {"description": "\n\n".join(lines), "content": {api.JSON: {"schema": schema}}}


def _usual_errors(plan: api.Plan) -> list[type[errors.ApiError]]:
    """What every operation of this kind may answer, besides what it names itself."""
    usual: list[type[errors.ApiError]] = [errors.ValidationFailed, errors.InternalError, errors.Unavailable]
    if not plan.operation.public:
        usual += [errors.MissingApiKey, errors.InvalidApiKey, errors.RestrictedApiKey, errors.RateLimitExceeded]
    if plan.path:
        usual.append(errors.NotFound)
    if plan.body is not None or plan.query is not None:
        usual.append(errors.MissingRequiredField)
    if plan.body is not None:
        usual.append(errors.InvalidJson)
    if plan.body is not None or "body" in plan.wants or plan.operation.reads_body:
        usual += [errors.PayloadTooLarge, errors.RequestTimeout]
    if not plan.operation.available:
        usual.append(errors.NotFound)
    if plan.operation.idempotent:
        usual += [errors.InvalidIdempotencyKey, errors.InvalidIdempotentRequest, errors.ConcurrentIdempotentRequests]
    return usual


def _refuse_doubles(paths: Mapping[str, Json]) -> None:
    ids = [operation["operationId"] for path in paths.values() for operation in path.values()]
    if doubles := {found for found in ids if ids.count(found) > 1}:
        raise api.DeclarationError(f"operations share an operationId: {sorted(doubles)}")
