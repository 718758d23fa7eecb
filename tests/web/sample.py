"""A small API on the real glue, for the tests of the glue: letters that are not sent anywhere."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, Field, JsonValue
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from gateway import errors, models
from gateway.web import api, docs, edge, openapi

ACCOUNT = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
LETTER = UUID("01890a5d-ac96-774b-bcce-b302099a8058")
SECRET = "pr_key_never_to_be_seen"


def _address(text: str) -> str:
    if "@" not in text:
        raise ValueError("not an e-mail address")
    return text


Address = Annotated[str, AfterValidator(_address)]


class Attachment(models.Input):
    filename: str = Field(max_length=20)
    content: str = ""


class Letter(models.Input):
    to: Address | Annotated[list[Address], Field(max_length=50)]
    subject: str
    size: int = Field(0, ge=0, le=2**63 - 1)
    weight: float = 0
    at: models.Time | None = None
    attachments: list[Attachment] = Field([], max_length=10)
    metadata: dict[str, JsonValue] = Field({})


class Stored(models.Output):
    id: UUID
    subject: str
    at: models.Time | None = None
    key: str | None = None
    fingerprint: str | None = None


class LettersQuery(models.ListQuery):
    sender: str | None = Field(None, alias="from", description="Exactly this sender")
    types: models.Words = ()
    seen: bool | None = None


class Told(models.Output):
    """What a handler was handed, told back."""

    values: dict[str, JsonValue]


async def create(
    body: Letter, caller: models.Caller, idempotency_key: str | None, fingerprint: bytes | None
) -> Stored | models.Answer:
    """Write a letter.

    It is not sent.
    """
    if body.subject == "replay":
        return models.Answer(status=201, body=b'{"replayed":true}', headers=(("Idempotent-Replayed", "true"),))
    hexed = fingerprint.hex() if fingerprint else None
    return Stored(id=caller.account_id, subject=body.subject, at=body.at, key=idempotency_key, fingerprint=hexed)


async def search(query: LettersQuery) -> Told:
    return Told(values=query.model_dump(mode="json", by_alias=True))


async def get(letter: UUID) -> Stored:
    if letter != LETTER:
        raise errors.NotFound
    return Stored(id=letter, subject="found")


async def by_name(name: str) -> Told:
    return Told(values={"name": name})


async def newest() -> Told:
    return Told(values={"newest": True})


async def delete(letter: UUID) -> None:
    """Forget a letter."""


async def cancel(letter: UUID, request: Request) -> Told:
    return Told(values={"again": (await request.body()).decode()})


async def raw(body: bytes) -> Told:
    return Told(values={"bytes": len(body)})


async def streamed(request: Request) -> Told:
    return Told(values={"bytes": sum([len(chunk) async for chunk in request.stream()])})


async def broken(caller: models.Caller) -> None:
    raise RuntimeError(f"no caller may read this: {SECRET}")


async def away() -> None:
    raise errors.Unavailable(retry_after=7) from ConnectionError("db-3.internal refused")


async def half() -> Response:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        raise RuntimeError("second")

    return StreamingResponse(chunks())


async def limited(request: Request) -> None:
    edge.exchange(request.scope).headers.append((b"ratelimit-limit", b"10"))
    raise errors.RateLimitExceeded


async def hello() -> Told:
    return Told(values={})


async def batch(body: Annotated[list[Letter], Field(max_length=1000)]) -> Told:
    return Told(values={"letters": len(body)})


KEYS = {
    "pr_key_all": models.Caller(account_id=ACCOUNT, scopes=frozenset(("admin",))),
    "pr_key_send": models.Caller(account_id=ACCOUNT, scopes=frozenset(("send",))),
    "pr_key_read": models.Caller(account_id=ACCOUNT, scopes=frozenset(("read",))),
    "pr_mbx_one": models.Caller(account_id=ACCOUNT, mailbox_id=LETTER),
}


async def authenticate(request: Request) -> models.Caller:
    header = request.headers.get("authorization")
    if header is None:
        raise errors.MissingApiKey
    if (key := header.removeprefix("Bearer ")) not in KEYS:
        raise errors.InvalidApiKey
    return KEYS[key]


LETTERS = [
    api.op(
        "POST", "/letters", create, scope="send", status=201, idempotent=True, tags=["Letters"],
        errors=[errors.AddressTaken], headers={"x-batch-validation": "How strict"},
    ),
    api.op("GET", "/letters", search, scope={"send", "read"}, mailbox_token=True, tags=["Letters"]),
    api.op("GET", "/letters/{letter}", get, scope="read", tags=["Letters"]),
    api.op("DELETE", "/letters/{letter}", delete, scope="send", tags=["Letters"]),
    api.op("GET", "/names/{name}", by_name, scope="read", tags=["Letters"]),
    api.op("GET", "/names/newest", newest, scope="read", tags=["Letters"]),
    api.op("POST", "/letters/{letter}/cancel", cancel, scope="send", tags=["Letters"]),
    api.op("POST", "/emails", batch, scope="send", tags=["Letters"], max_body_bytes=4_000_000),
]  # fmt: skip
OTHERS = [
    api.op("POST", "/raw", raw, scope="inbound", consumes="message/rfc822", max_body_bytes=1000, tags=["Others"]),
    api.op("POST", "/streamed", streamed, scope="inbound", consumes="text/plain", max_body_bytes=1000, tags=["Others"]),
    api.op("GET", "/broken", broken, scope="read", tags=["Others"]),
    api.op("GET", "/away", away, scope="read", tags=["Others"]),
    api.op("GET", "/half", half, scope="read", produces="text/plain", tags=["Others"]),
    api.op("GET", "/limited", limited, scope="read", tags=["Others"]),
    api.op("GET", "/hello", hello, public=True, tags=["Others"]),
]  # fmt: skip


async def socket(websocket: WebSocket) -> None:
    """`?fail=` says where: before the handshake, after it, or not at all."""
    where = websocket.query_params.get("fail")
    if where == "before":
        raise errors.InvalidApiKey
    await websocket.accept()
    if where == "after":
        raise RuntimeError(SECRET)
    await websocket.send_text(json.dumps({"hello": True}))
    await websocket.close()


def described() -> api.Api:
    return api.Api([*LETTERS, *OTHERS], authenticate=authenticate)


@functools.cache  # it has no state
def application() -> Starlette:
    whole = described()
    document = openapi.encoded(openapi.document(whole, title="Sample", version="1"))
    return edge.application([*whole.routes(), WebSocketRoute("/v1/socket", socket), *docs.routes(document)])
