"""Mail for the flows: written small, handed in over SMTP as bytes."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiosmtplib
import asyncpg
import httpx2

from tests import databases, house
from tests.inbound import dialogue

QUEUED = re.compile(r"250 2\.0\.0 queued as [0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\r\n")


def letter(subject: str = "Hello", text: str = "Hello.", *, sender: str = "a@b.example", **fields: str) -> bytes:
    """A plain message; further header fields by their names."""
    header = {"From": sender, "Subject": subject, **{name.replace("_", "-"): value for name, value in fields.items()}}
    lines = [f"{name}: {value}" for name, value in header.items()]
    return ("\r\n".join([*lines, "", text]) + "\r\n").encode()


def stuffed(raw: bytes) -> bytes:
    """As it goes over the wire (RFC 5321 section 4.5.2), the final dot included; `raw` ends with CRLF."""
    return re.sub(rb"(\A|\r\n)\.", rb"\1..", raw) + b".\r\n"


@contextlib.asynccontextmanager
async def session(home: house.House) -> AsyncIterator[dialogue.Peer]:
    """A greeted SMTP session at the house's inbound port."""
    reader, writer = await asyncio.open_connection("127.0.0.1", home.smtp_port)
    peer = dialogue.Peer(reader, writer)
    try:
        await peer.greet()
        yield peer
    finally:
        peer.close()


async def give(peer: dialogue.Peer, raw: bytes, *recipients: str, sender: str = "a@b.example") -> list[str]:
    """One mail in a session that is open: the replies to MAIL, each RCPT, DATA and the final dot."""
    replies = []
    for line in (f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{recipient}>" for recipient in recipients), "DATA"):
        await peer.send(line.encode() + b"\r\n")
        replies.append(await peer.reply())
    assert replies[-1].startswith("354"), replies
    await peer.send(stuffed(raw))
    return [*replies, await peer.reply()]


async def hand_in(home: house.House, raw: bytes, *recipients: str, sender: str = "a@b.example") -> str:
    """One mail in a session of its own; the receipt id."""
    async with session(home) as peer:
        reply = (await give(peer, raw, *recipients, sender=sender))[-1]
    assert QUEUED.fullmatch(reply), reply
    return reply.split()[-1]


async def mailbox(client: httpx2.AsyncClient, **wish: Any) -> dict[str, Any]:
    """A new mailbox, as the API tells of it."""
    answer = await client.post("/mailboxes", json=wish)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def listed(client: httpx2.AsyncClient, path: str, **query: Any) -> list[dict[str, Any]]:
    """One page of a list: its data."""
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


async def every(client: httpx2.AsyncClient, path: str, **query: str) -> list[dict[str, Any]]:
    """All pages of a list, in its order."""
    return await _pages(client, path, query, "cursor")


async def every_event(client: httpx2.AsyncClient) -> list[dict[str, Any]]:
    """The whole log, oldest first."""
    return await _pages(client, "/events", {"after": "0"}, "after")


async def _pages(client: httpx2.AsyncClient, path: str, query: Mapping[str, str], behind: str) -> list[dict[str, Any]]:
    """`behind`: what the next page's cursor is given as."""
    found: list[dict[str, Any]] = []
    asked = {"limit": "200", **query}
    while True:
        answer = await client.get(path, params=asked)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["data"]
        if not page["has_more"]:
            return found
        asked[behind] = page["next_cursor"]


async def only_message(client: httpx2.AsyncClient, mailbox_id: str) -> dict[str, Any]:
    """The one message of a mailbox, whole."""
    [summary] = await listed(client, f"/mailboxes/{mailbox_id}/messages")
    answer = await client.get(f"/messages/{summary['id']}")
    assert answer.status_code == 200, answer.text
    message: dict[str, Any] = answer.json()
    return message


@contextlib.asynccontextmanager
async def own_house(
    postgres_dsn: str,
    redis_url: str,
    *,
    programs: tuple[str, ...] = ("serve",),
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[house.House]:
    """A house of the test's own, without a worker unless one is asked for."""
    async with (
        databases.fresh(postgres_dsn) as dsn,
        house.standing(dsn, redis_url, programs=programs, settings=settings) as home,
    ):
        yield home


@contextlib.asynccontextmanager
async def sql(home: house.House) -> AsyncIterator[asyncpg.Connection]:
    """The house's database."""
    connection = await asyncpg.connect(home.dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def expire(home: house.House, mailbox_id: str, *, ago: str = "1 second") -> None:
    """The mailbox's time is up, as the database's clock sees it."""
    async with sql(home) as connection:
        done = await connection.execute(
            f"update mailboxes set expires_at = statement_timestamp() - interval '{ago}' where id = $1",  # noqa: S608 - the test's own words
            mailbox_id,
        )
    assert done == "UPDATE 1"


async def sent(home: house.House, raw: bytes, address: str) -> str:
    """What a client's delivery comes to: "250", the whole reply that refused it, or "gone" where the line broke."""
    options: dict[str, Any] = {"hostname": "127.0.0.1", "local_hostname": "client.example", "start_tls": False}
    try:
        await aiosmtplib.send(raw, sender="a@b.example", recipients=[address], port=home.smtp_port, **options)
    except aiosmtplib.SMTPServerDisconnected:
        return "gone"
    except aiosmtplib.SMTPRecipientsRefused as error:
        return f"{error.recipients[0].code} {error.recipients[0].message}"
    except aiosmtplib.SMTPResponseException as error:
        return f"{error.code} {error.message}"
    return "250"


async def owns(home: house.House, tenant: house.Tenant, name: str) -> None:
    """The tenant has the domain, as if it had been proved."""
    async with sql(home) as connection:
        values: tuple[Any, ...] = (tenant.account_id, name)
        await connection.execute("insert into domains (account_id, name, verified_at) values ($1, $2, now())", *values)
        await connection.execute("insert into domain_names (account_id, name) values ($1, $2)", *values)
