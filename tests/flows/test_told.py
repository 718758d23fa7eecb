"""What happened, told: the event log by page, long poll, server-sent events and WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests import house
from tests.flows import letters
from tests.flows.test_mailboxes import MISSING, TIME, UUID7, refused

pytestmark = pytest.mark.anyio

PATIENCE = 20.0  # seconds until a test gives up on what never comes
STREAM = {"Accept": "text/event-stream"}


class Sse:
    """A stream of server-sent events that is being read."""

    def __init__(self, answer: httpx2.Response) -> None:
        self.answer = answer
        self.lines = answer.aiter_lines()

    async def next(self) -> dict[str, Any]:
        """The next event; its data must agree with the fields around it."""
        async with asyncio.timeout(PATIENCE):
            fields: dict[str, str] = {}
            while (line := await anext(self.lines)) or "data" not in fields:
                name, _, value = line.partition(": ")
                fields[name] = value
        event: dict[str, Any] = json.loads(fields["data"])
        assert (fields["id"], fields["event"]) == (event["cursor"], event["type"])
        return event

    async def comment(self) -> None:
        """Reads the comment with which the stream begins: from here on nothing is missed."""
        async with asyncio.timeout(PATIENCE):
            assert (await anext(self.lines)).startswith(":")
            assert await anext(self.lines) == ""


@contextlib.asynccontextmanager
async def sse(
    client: httpx2.AsyncClient, path: str = "/events", *, last: str | None = None, **query: Any
) -> AsyncIterator[Sse]:
    headers = STREAM | ({"Last-Event-ID": last} if last is not None else {})
    async with client.stream("GET", path, params=query, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        stream = Sse(answer)
        await stream.comment()
        yield stream


def socket_to(home: house.House, key: str | None, path: str = "/events", **options: Any) -> connect:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = f"ws://127.0.0.1:{home.http_port}/v1{path}"
    settings = {"proxy": None, "max_size": None, "max_queue": None} | options
    return connect(url, additional_headers=headers, **settings)


async def heard(websocket: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE):
        event: dict[str, Any] = json.loads(await websocket.recv())
    return event


async def until_closed(websocket: ClientConnection) -> tuple[list[int], int | None]:
    """What is still heard, by its seq, and the code with which the other side closes; None = it says nothing."""
    seqs: list[int] = []
    try:
        while True:
            seqs.append((await heard(websocket))["seq"])
    except ConnectionClosed as closed:
        return seqs, closed.rcvd.code if closed.rcvd else None


async def rejection(home: house.House, key: str | None, path: str = "/events") -> tuple[int, dict[str, Any]]:
    """How a WebSocket is refused: over HTTP, before its handshake."""
    with pytest.raises(InvalidStatus) as caught:
        async with socket_to(home, key, path):
            pass
    body: dict[str, Any] = json.loads(caught.value.response.body)
    return caught.value.response.status_code, body


async def whole_log(client: httpx2.AsyncClient, after: str | None = None, **query: Any) -> list[dict[str, Any]]:
    """All pages."""
    events: list[dict[str, Any]] = []
    while True:
        cursor = {"after": after} if after is not None else {}
        page = (await client.get("/events", params={"limit": 7, **cursor, **query})).json()
        events += page["data"]
        after = page["next_cursor"]
        if not page["has_more"]:
            return events


async def busy(home: house.House, client: httpx2.AsyncClient, mails: int) -> None:
    """Mailboxes, mail and deletions, all at once."""
    boxes = await asyncio.gather(*(letters.mailbox(client) for _ in range(4)))
    sends = [
        letters.hand_in(home, letters.letter(str(n)), boxes[n % 4]["address"], boxes[(n + 1) % 4]["address"])
        for n in range(mails)
    ]
    changes = [client.patch(f"/mailboxes/{box['id']}", json={"metadata": {}}) for box in boxes]
    await asyncio.gather(*sends, *changes)
    await client.delete(f"/mailboxes/{boxes[0]['id']}")


# The log


async def test_the_log_has_no_gaps_whoever_writes(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    await asyncio.gather(*(busy(shared_house, client, 15) for _ in range(3)))
    events = await whole_log(client)
    assert [event["seq"] for event in events] == list(range(1, 3 * (4 + 30 + 4 + 1) + 1))
    assert [event["cursor"] for event in events] == [str(event["seq"]) for event in events]
    assert len({event["id"] for event in events}) == len(events)
    for event in events:
        assert set(event) <= {"id", "seq", "cursor", "type", "created_at", "mailbox_id", "message_id", "data"}
        assert UUID7.fullmatch(event["id"])
        assert TIME.fullmatch(event["created_at"])


async def test_four_ways_to_read_the_log_tell_the_same(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    """While it is written by many; each ends with the event that the test waits for."""
    start = (await letters.mailbox(client))["cursor"]
    last = "the end"

    def ended(event: dict[str, Any]) -> bool:
        return bool(event["data"].get("subject") == last)

    async def by_sse() -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        async with sse(client, after=start) as stream:
            while not (events and ended(events[-1])):
                events.append(await stream.next())
        return events

    async def by_socket() -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        async with socket_to(shared_house, tenant.key, f"/events?after={start}") as websocket:
            while not (events and ended(events[-1])):
                events.append(await heard(websocket))
        return events

    async def by_long_poll() -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        cursor = start
        while not (events and ended(events[-1])):
            page = (await client.get("/events", params={"after": cursor, "wait": 10, "limit": 5})).json()
            events += page["data"]
            cursor = page["next_cursor"]
        return events

    readers = [asyncio.create_task(reader()) for reader in (by_sse, by_socket, by_long_poll)]
    await asyncio.gather(*(busy(shared_house, client, 15) for _ in range(2)))
    box = await letters.mailbox(client)
    await letters.hand_in(shared_house, letters.letter(last), box["address"])
    told = await asyncio.gather(*readers)
    assert told[0] == told[1] == told[2] == await whole_log(client, start)


async def test_pages_can_be_narrowed(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    one, other = await letters.mailbox(client), await letters.mailbox(client)
    for made in (one, other, one):
        await letters.hand_in(shared_house, letters.letter(), made["address"])
    assert [e["seq"] for e in await whole_log(client, types="message.received")] == [3, 4, 5]
    assert [e["seq"] for e in await whole_log(client, mailbox=one["id"])] == [1, 3, 5]
    assert [
        e["seq"] for e in await whole_log(client, mailbox=other["address"], types="mailbox.created,mailbox.deleted")
    ] == [2]
    assert [e["seq"] for e in await whole_log(client, email=MISSING)] == []
    assert [e["seq"] for e in await whole_log(client, "4")] == [5]
    page = (await client.get("/events", params={"limit": 2})).json()
    assert (page["object"], page["has_more"], page["next_cursor"]) == ("list", True, "2")
    page = (await client.get("/events", params={"types": "mailbox.deleted"})).json()
    assert (page["data"], page["has_more"], page["next_cursor"]) == ([], False, "5")
    for wrong in ("types=mail.read", "after=x", "limit=0", "wait=61", "mailboxes=x", "key=pr_key_x"):
        refused(await client.get(f"/events?{wrong}"), 422, "validation_error")
    refused(await client.get("/events?mailbox=nobody@postroom.test"), 404, "not_found")


async def test_events_of_mail_out_are_found_by_their_email(client: httpx2.AsyncClient) -> None:
    mail = {"from": "me@postroom.test", "to": "you@elsewhere.example", "subject": "Hi", "text": "Hi"}
    ids = [(await client.post("/emails", json=mail)).json()["id"] for _ in range(2)]
    for email_id in ids:
        events = await letters.listed(client, "/events", email=email_id, limit=1)
        assert [(e["type"], e["email_id"]) for e in events] == [("email.queued", email_id)]


# Long poll


async def test_a_long_poll_answers_with_the_first_event_or_with_none(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    made = await letters.mailbox(client)
    empty = (await client.get("/events", params={"after": made["cursor"], "wait": 0.1})).json()
    assert (empty["data"], empty["has_more"], empty["next_cursor"]) == ([], False, made["cursor"])
    at_once = (await client.get("/events", params={"wait": 60})).json()  # from the log's beginning
    assert [e["type"] for e in at_once["data"]] == ["mailbox.created"]
    query = {"after": made["cursor"], "wait": 60, "types": "message.received"}
    poll = asyncio.create_task(client.get("/events", params=query))
    await client.patch(f"/mailboxes/{made['id']}", json={"metadata": {}})  # of another type: waits on
    await letters.hand_in(shared_house, letters.letter(), made["address"])
    page = (await poll).json()
    assert [(e["type"], e["seq"]) for e in page["data"]] == [("message.received", 3)]


# Server-sent events


async def _first_event(client: httpx2.AsyncClient, begun: asyncio.Event) -> dict[str, Any]:
    async with sse(client) as stream:
        begun.set()
        return await stream.next()


async def test_a_stream_begins_with_its_first_byte(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    """What happens after it is told; so the byte must not come while the house still looks where the log ends.

    Negative control: with the first comment sent before the subscription began, it was there while that look was
    held up by a lock, and the test failed.
    """
    async with letters.sql(shared_house) as connection, asyncio.TaskGroup() as tasks:
        async with connection.transaction():
            await connection.execute("lock table event_heads in access exclusive mode")
            begun = asyncio.Event()
            opening = tasks.create_task(_first_event(client, begun))
            async with asyncio.timeout(PATIENCE):
                while not await connection.fetchval("select count(*) from pg_locks where not granted"):
                    pass
            await client.get(f"{shared_house.url}/healthz")  # what the house had said before, has arrived
            assert not begun.is_set()
        await begun.wait()
        made = await letters.mailbox(client)
    assert opening.result()["cursor"] == made["cursor"]


async def test_last_event_id_resumes_without_loss(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    """The stream is broken off after every third event, and wins over `after` when it resumes."""
    start = (await letters.mailbox(client))["cursor"]
    writing = asyncio.create_task(busy(shared_house, client, 15))
    seqs: list[int] = []
    last = start
    while len(seqs) < 4 + 30 + 4 + 1:
        async with sse(client, last=last, after="0") as stream:
            for _ in range(3):
                seqs.append((await stream.next())["seq"])
                last = str(seqs[-1])
    await writing
    assert seqs == list(range(2, 41))


async def test_a_stream_tells_of_one_mailbox_or_some_types_only(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    one, other = await letters.mailbox(client), await letters.mailbox(client)
    async with (
        sse(client, mailbox=one["id"]) as of_one,
        sse(client, f"/mailboxes/{other['address']}/events", types="message.received") as mail,
    ):
        for made in (one, other, one):
            await client.patch(f"/mailboxes/{made['id']}", json={"metadata": {}})
            await letters.hand_in(shared_house, letters.letter(), made["address"])
        assert [(await of_one.next())["seq"] for _ in range(4)] == [3, 4, 7, 8]
        assert (await mail.next())["seq"] == 6


# WebSockets


async def test_a_socket_takes_its_key_from_the_header_or_a_subprotocol(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    bearer: list[Any] = ["postroom.v1", f"bearer.{tenant.key}"]
    async with (
        socket_to(shared_house, tenant.key) as by_header,
        socket_to(shared_house, None, subprotocols=bearer) as by_subprotocol,
        socket_to(shared_house, None, subprotocols=bearer[::-1]) as turned_round,
    ):
        assert by_header.subprotocol is None
        assert by_subprotocol.subprotocol == turned_round.subprotocol == "postroom.v1"
        assert tenant.key not in str(by_subprotocol.response and by_subprotocol.response.headers)
        made = await letters.mailbox(client)
        for websocket in (by_header, by_subprotocol, turned_round):
            await websocket.send("what a client says is not listened to")
            event = await heard(websocket)
            assert (event["type"], event["mailbox_id"]) == ("mailbox.created", made["id"])


async def test_a_socket_that_may_not_be_is_refused_over_http(shared_house: house.House, tenant: house.Tenant) -> None:
    for key, path, status, name in (
        (None, "/events", 401, "missing_api_key"),
        (None, f"/events?key={tenant.key}", 401, "missing_api_key"),
        ("pr_key_nonsense", "/events", 401, "invalid_api_key"),
        (tenant.key, f"/mailboxes/{MISSING}/events", 404, "not_found"),
        (tenant.key, "/events?types=mail.read", 422, "validation_error"),
        (tenant.key, "/events?after=7", 410, "cursor_expired"),
        (tenant.key, "/nowhere", 404, "not_found"),
    ):
        found, body = await rejection(shared_house, key, path)
        assert (found, body["statusCode"], body["name"]) == (status, status, name), path


async def test_a_socket_resumes_by_its_cursor_without_loss(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    cursor = (await letters.mailbox(client))["cursor"]
    writing = asyncio.create_task(busy(shared_house, client, 15))
    seqs: list[int] = []
    while len(seqs) < 4 + 30 + 4 + 1:
        async with socket_to(shared_house, tenant.key, f"/events?after={cursor}") as websocket:
            for _ in range(3):
                event = await heard(websocket)
                seqs.append(event["seq"])
                cursor = event["cursor"]
    await writing
    assert seqs == list(range(2, 41))


async def test_a_token_hears_of_its_mailbox_and_of_no_other(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    mine, other = await letters.mailbox(client), await letters.mailbox(client)
    path = f"/mailboxes/{mine['id']}/events"
    async with (
        shared_house.client(mine["token"]) as holder,
        sse(holder, path) as stream,
        socket_to(shared_house, mine["token"], path) as websocket,
    ):
        poll = asyncio.create_task(holder.get(path, params={"after": mine["cursor"], "wait": 60}))
        for made in (other, mine):
            await letters.hand_in(shared_house, letters.letter(made["id"]), made["address"])
        events = [await stream.next(), await heard(websocket), (await poll).json()["data"][0]]
    assert events[0] == events[1] == events[2]
    assert (events[0]["mailbox_id"], events[0]["data"]["subject"]) == (mine["id"], mine["id"])
    assert (await rejection(shared_house, mine["token"]))[1]["name"] == "restricted_api_key"
    status, body = await rejection(shared_house, mine["token"], f"/mailboxes/{other['id']}/events")
    assert (status, body["name"]) == (404, "not_found")


# Cursors outside the log


async def test_a_cursor_outside_the_log_is_expired_however_it_is_read(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    made = await letters.mailbox(client)
    for _ in range(5):
        await client.patch(f"/mailboxes/{made['id']}", json={"metadata": {}})
    async with letters.sql(shared_house) as connection:  # as forgetting does: a prefix, never the newest
        await connection.execute("delete from events where account_id = $1 and seq <= 3", tenant.account_id)
    for cursor in ("2", "7", "999999999999999999"):
        answers = [
            await client.get("/events", params={"after": cursor}),
            await client.get("/events", params={"after": cursor, "wait": 1}),
            await client.get("/events", params={"after": cursor}, headers=STREAM),
            await client.get("/events", headers=STREAM | {"Last-Event-ID": cursor}),
            await client.get(f"/mailboxes/{made['id']}/events", params={"after": cursor}),
        ]
        bodies = [refused(answer, 410, "cursor_expired") for answer in answers]
        status, body = await rejection(shared_house, tenant.key, f"/events?after={cursor}")
        assert status == 410
        assert {(body["oldest"], body["newest"]) for body in [*bodies, body]} == {("3", "6")}
    assert [e["seq"] for e in await whole_log(client, "3")] == [4, 5, 6]  # `oldest` can be gone on from
    assert [e["seq"] for e in await whole_log(client)] == [4, 5, 6]
    assert await whole_log(client, "6") == []
    async with sse(client, last="3") as stream:
        assert [(await stream.next())["seq"] for _ in range(3)] == [4, 5, 6]


# Who does not read


def _narrow_socket(port: int) -> socket.socket:
    """One into which little fits that is not read."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.connect(("127.0.0.1", port))
    narrow.setblocking(False)
    return narrow


async def _cut(client: httpx2.AsyncClient) -> bool:
    """Whether the house counts a subscription that was cut."""
    metrics = (await client.get(f"http://{client.base_url.netloc.decode()}/metrics")).text
    return "postroom_live_cut_total 1.0" in metrics


async def test_a_socket_that_is_not_read_is_cut_off_and_resumes_by_its_cursor(
    postgres_dsn: str, redis_url: str
) -> None:
    """With 1013, while another that is read stays; neither misses anything.

    Negative control: with `Subscription.hand` putting no limit to its buffer nobody was cut, and the test gave up.
    """
    fields = {"To": ",\r\n ".join(f"Somebody {n} <somebody-number-{n}@elsewhere.example>" for n in range(250))}
    async with letters.own_house(postgres_dsn, redis_url, settings={"STREAM_BUFFER_EVENTS": "60"}) as home:
        tenant = await home.tenant()
        async with home.client(tenant.key) as client:
            boxes = await asyncio.gather(*(letters.mailbox(client) for _ in range(20)))
            start = (await client.get("/events")).json()["next_cursor"]
            narrow = _narrow_socket(home.http_port)
            async with (
                socket_to(home, tenant.key, f"/events?after={start}") as attentive,
                socket_to(home, tenant.key, sock=narrow, max_queue=1, ping_interval=None) as deaf,
            ):
                read: list[int] = []
                async with asyncio.timeout(PATIENCE):
                    while not await _cut(client):
                        raw = letters.letter(**fields)
                        await letters.hand_in(home, raw, *(box["address"] for box in boxes))
                        read += [(await heard(attentive))["seq"] for _ in boxes]  # 20 events of 20 KB
                newest = int((await client.get("/events", params={"after": read[-1]})).json()["next_cursor"])
                assert read == list(range(int(start) + 1, newest + 1))
                late, code = await until_closed(deaf)
                assert code == 1013
                assert len(late) < len(read)
            cursor = late[-1] if late else start
            async with socket_to(home, tenant.key, f"/events?after={cursor}") as resumed:
                while not late or late[-1] < newest:
                    late.append((await heard(resumed))["seq"])
            assert late == read


# Several processes


@pytest.mark.parametrize("with_redis", [True, False], ids=["with Redis", "without Redis"])
async def test_what_one_process_commits_reaches_the_streams_of_another(
    postgres_dsn: str, redis_url: str, with_redis: bool
) -> None:
    """The first process is stopped while the second takes the request, so that it cannot have done so itself.

    Negative control: with no poll of the heads (`Live.open`) nothing came without Redis, and the test gave up; with
    Redis it passed.
    """
    async with letters.own_house(postgres_dsn, redis_url if with_redis else "") as home:
        tenant = await home.tenant()
        async with home.client(tenant.key) as client, socket_to(home, tenant.key) as websocket, sse(client) as stream:
            made = await letters.mailbox(client)
            poll = asyncio.create_task(client.get(f"/mailboxes/{made['id']}/wait", params={"timeout": 60}))
            assert (await heard(websocket))["seq"] == (await stream.next())["seq"] == 1
            home.start("serve-2")
            home.processes["serve"].send_signal(signal.SIGSTOP)
            try:
                async with home.client(tenant.key) as second:
                    await second.patch(f"/mailboxes/{made['id']}", json={"metadata": {"by": "the second"}})
                await letters.hand_in(home, letters.letter("by the second"), made["address"])
            finally:
                home.processes["serve"].send_signal(signal.SIGCONT)
            for _ in range(2):
                assert await heard(websocket) == await stream.next()
            assert (await poll).json()["message"]["subject"] == "by the second"


async def test_sigterm_ends_streams_with_a_word_and_the_process_with_0(postgres_dsn: str, redis_url: str) -> None:
    async with letters.own_house(postgres_dsn, redis_url) as home:
        tenant = await home.tenant()
        async with home.client(tenant.key) as client, socket_to(home, tenant.key) as websocket, sse(client) as stream:
            made = await letters.mailbox(client)
            waiting = asyncio.create_task(client.get(f"/mailboxes/{made['id']}/wait", params={"timeout": 120}))
            assert (await heard(websocket))["seq"] == (await stream.next())["seq"] == 1
            stopping = asyncio.create_task(asyncio.to_thread(home.stop, "serve"))
            assert await until_closed(websocket) == ([], 1012)
            with pytest.raises(StopAsyncIteration):
                await stream.next()
            answer = await waiting
            refused(answer, 503, "unavailable")
            assert int(answer.headers["retry-after"]) >= 1
            assert await stopping == 0
