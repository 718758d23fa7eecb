"""Mailgun, Postmark and SES, from a request over HTTP to their callbacks: real processes, and APIs on this machine that
answer as the providers' own are documented to."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email
import functools
import json
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from uuid_utils.compat import uuid7

from gateway import sockets
from tests import amazon, conftest, house, nameserver, sending
from tests.flows import letters
from tests.flows.test_callbacks import heard
from tests.flows.test_inbound_http import POSTMARK_AUTH, SIGNING_KEY, listening_to
from tests.outbound import api, posts, sink
from tests.outbound.test_conformance import form_of

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("a house that sends by providers")]

KINDS: Final = ("mailgun", "postmark", "ses")
SECRET = "s3cr3t-of-the-account"
NAMES: Final = {"mailgun": "mailgun:mg.example", "postmark": "postmark", "ses": "ses:eu-west-1"}
URLS: Final = {
    "mailgun": f"mailgun://{SECRET}@mg.example?endpoint=",
    "postmark": f"postmark://{SECRET}@?endpoint=",
    "ses": f"ses://AKIDEXAMPLE:{SECRET}@eu-west-1?endpoint=",
}
NEXT: Final = {"mailgun": "postmark", "postmark": "ses", "ses": "mailgun"}  # whom another one's mail goes to
FAULTS: Final[dict[str, dict[str, api.Act]]] = {
    "key": {
        "mailgun": api.Act(status=401, body=b"Forbidden"),
        "postmark": api.Act(status=401, body=b'{"ErrorCode": 10, "Message": "Bad or missing API token."}'),
        "ses": api.Act(
            status=403,
            headers={"x-amzn-ErrorType": "InvalidSignatureException"},
            body=b'{"message": "The request signature we calculated does not match"}',
        ),
    },
    "quota": {
        "mailgun": api.Act(status=400, body=b'{"message": "Domain mg.example is not allowed to send: limit exceeded"}'),
        "postmark": api.Act(status=422, body=b'{"ErrorCode": 405, "Message": "You ran out of credits."}'),
        "ses": api.Act(
            status=429,
            headers={"x-amzn-ErrorType": "TooManyRequestsException"},
            body=b'{"message": "Daily message quota exceeded."}',
        ),
    },
}


def ways_out(ports: dict[str, int]) -> tuple[str, str]:
    """OUTBOUND and OUTBOUND_ROUTES: each provider, and others of its kind for its faults, with a domain for each."""
    urls, routes = [], []
    for kind in KINDS:
        base = f"{URLS[kind]}http://127.0.0.1:{ports[kind]}"
        urls.append(f"{base}&name={kind}")
        routes.append(f"to:{kind}.example={kind}")
        for fault in FAULTS:
            urls.append(f"{base}&name={kind}-{fault}&only=routed")
            routes.append(f"to:{fault}.{kind}.example={kind}-{fault},{NEXT[kind]}")
    routes += ["from:*.by-postmark.example=postmark", "tag:way:ses=ses"]
    return " ".join(urls), " ".join(routes)


@pytest.fixture(scope="module")
def listeners() -> Iterator[dict[str, socket.socket]]:
    """Where the providers' APIs listen, over all tests."""
    with contextlib.ExitStack() as stack:
        yield {kind: stack.enter_context(sockets.bind("127.0.0.1", 0, kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def connected(postgres_dsn: str, redis_url: str, listeners: dict[str, socket.socket]) -> Iterator[house.House]:
    """A house whose mail leaves by them."""
    outbound, routes = ways_out({kind: sockets.port_of(listener) for kind, listener in listeners.items()})
    yield from conftest._standing(
        postgres_dsn,
        redis_url,
        OUTBOUND=outbound,
        OUTBOUND_ROUTES=routes,
        MAILGUN_SIGNING_KEY=SIGNING_KEY,
        POSTMARK_WEBHOOK_AUTH=":".join(POSTMARK_AUTH),
        RETRY_SCHEDULE="0.05",
        SWEEP_INTERVAL_SECONDS="0.1",
    )


@pytest.fixture
async def owner(connected: house.House) -> AsyncIterator[httpx2.AsyncClient]:
    """An account of the test's own there."""
    async with connected.client((await connected.tenant()).key) as client:
        yield client


def message_of(kind: str, request: api.Request) -> tuple[str, str]:
    """Whom a request is for, and its Message-ID."""
    if kind == "postmark":
        asked = json.loads(request.body)
        return asked["To"], next(one["Value"] for one in asked["Headers"] if one["Name"] == "Message-ID")
    if kind == "ses":
        asked = json.loads(request.body)
        raw = base64.b64decode(asked["Content"]["Raw"]["Data"])
        return asked["Destination"]["ToAddresses"][0], str(email.message_from_bytes(raw)["Message-ID"])
    form = form_of(request)
    return form["to"].decode(), str(email.message_from_bytes(form["message"])["Message-ID"])


def takes(kind: str, request: api.Request) -> api.Act:
    """As they answer: Mailgun with the message's own Message-ID, the others with an id for each request."""
    answer = {
        "mailgun": {"id": message_of(kind, request)[1], "message": "Queued. Thank you."},
        "postmark": {"ErrorCode": 0, "Message": "OK", "MessageID": str(uuid7())},
        "ses": {"MessageId": f"0102{uuid7().hex}-000000"},
    }[kind]
    return api.Act(body=json.dumps(answer).encode())


@pytest.fixture
async def apis(listeners: dict[str, socket.socket]) -> AsyncIterator[dict[str, api.Api]]:
    """The providers, who take whatever comes unless the test says otherwise."""
    async with contextlib.AsyncExitStack() as stack:
        yield {
            kind: await stack.enter_async_context(api.Api(functools.partial(takes, kind), listener=listener))
            for kind, listener in listeners.items()
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Poster:
    """Posts a provider's callbacks."""

    kind: str
    client: httpx2.AsyncClient  # to a web process that believes it
    region: amazon.Amazon

    async def __call__(self, news: str, provider_id: str, recipient: str) -> None:
        """delivered, bounced, complained or opened; posted twice, for they do post again."""
        body = json.dumps(_event(self.kind, news, provider_id))
        event = json.loads(body.replace("user@recipient.example", recipient))
        for _ in range(2):
            heard(await self._post(event))

    async def _post(self, event: dict[str, Any]) -> httpx2.Response:
        if self.kind == "mailgun":
            return await self.client.post("/callbacks/mailgun", json=posts.mailgun(event, SIGNING_KEY))
        if self.kind == "postmark":
            return await self.client.post("/callbacks/postmark", json=event, auth=POSTMARK_AUTH)
        given = self.region.notification(json.dumps(event))
        return await self.client.post(
            "/callbacks/ses", content=amazon.body(given), headers={"Content-Type": "text/plain; charset=UTF-8"}
        )


_POSTMARK: Final = {"delivered": "Delivery", "bounced": "Bounce", "complained": "SpamComplaint", "opened": "Open"}
_SES: Final = {"delivered": "Delivery", "bounced": "Bounce", "complained": "Complaint", "opened": "Open"}


def _event(kind: str, news: str, provider_id: str) -> Any:
    if kind == "postmark":
        return posts.postmark(_POSTMARK[news], provider_id)
    if kind == "ses":
        return json.loads(posts.ses(_SES[news], provider_id))
    if news == "bounced":
        return posts.mailgun_event("failed", provider_id.strip("<>"), **posts.MAILGUN_GONE)
    return posts.mailgun_event(news, provider_id.strip("<>"))


@pytest.fixture
async def post(request: pytest.FixtureRequest, connected: house.House, tmp_path: Path) -> AsyncIterator[Poster]:
    """As the provider of `kind`. Amazon is believed by a web process of its own, which asks the test's for its key."""
    kind, region = request.getfixturevalue("kind"), amazon.Amazon(tmp_path)
    async with contextlib.AsyncExitStack() as stack:
        if kind == "ses":
            client = await stack.enter_async_context(listening_to(region, connected.dsn))
        else:
            anybody = httpx2.AsyncClient(base_url=f"{connected.url}/v1", timeout=30, verify=house.NOBODY)
            client = await stack.enter_async_context(anybody)
        yield Poster(kind=kind, client=client, region=region)


async def told(client: httpx2.AsyncClient, email_id: str) -> dict[str, list[str]]:
    """Types of the events about each recipient, in order."""
    found: dict[str, list[str]] = {}
    for event in (await letters.listed(client, "/events", email=email_id))[1:]:
        found.setdefault(event["data"]["recipient"], []).append(event["type"].removeprefix("email."))
    return found


every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
async def test_each_recipient_is_followed_to_the_end_by_the_providers_callbacks(
    owner: httpx2.AsyncClient, apis: dict[str, api.Api], kind: str, post: Poster
) -> None:
    """Callbacks come twice, the open before the delivery, and a delivery after the bounce.

    Broken on purpose: with `callbacks.name_of` leaving the recipient out, what Mailgun told of the second recipient was
    told of the first, for both mails have the Message-ID as their id there.
    """
    reads, is_gone = f"reads@{kind}.example", f"Is-Gone@{kind}.example"
    email_id = await sending.send(owner, to=reads, cc=is_gone)
    shown = await sending.resting(owner, email_id)
    assert {message_of(kind, one)[0].lower() for one in apis[kind].requests} == {reads, is_gone.lower()}
    assert {message_of(kind, one)[1] for one in apis[kind].requests} == {shown["message_id"]}
    assert [one["status"] for one in shown["recipients"]] == ["sent", "sent"]
    assert {one["provider"] for one in shown["recipients"]} == {NAMES[kind]}
    ids = {one["address"]: one["provider_id"] for one in shown["recipients"]}
    assert all(ids.values())
    await post("opened", ids[reads], reads)
    await post("delivered", ids[reads], reads)
    await post("bounced", ids[is_gone], is_gone)
    await post("delivered", ids[is_gone], is_gone)
    await post("complained", ids[reads], reads)
    assert await told(owner, email_id) == {
        reads: ["sent", "opened", "delivered", "complained"],
        is_gone: ["sent", "bounced"],
    }
    shown = await sending.read(owner, email_id)
    assert {one["address"]: one["status"] for one in shown["recipients"]} == {reads: "complained", is_gone: "bounced"}
    listed = (await owner.get("/suppressions")).json()["data"]
    assert {one["address"]: one["reason"] for one in listed} == {reads: "complaint", is_gone.lower(): "bounce"}


async def test_rules_go_by_author_and_tag_and_else_the_order_decides(
    owner: httpx2.AsyncClient, apis: dict[str, api.Api]
) -> None:
    """The first rule that fits decides; mail for the house stays there whatever they say."""
    box = await letters.mailbox(owner)
    by_ses = [{"name": "way", "value": "ses"}]
    sent = {
        "postmark": await sending.send(owner, from_="a@app.by-postmark.example", tags=by_ses),
        "ses:eu-west-1": await sending.send(owner, tags=by_ses),
        "mailgun:mg.example": await sending.send(owner, tags=[{"name": "way", "value": "other"}]),
        "local": await sending.send(owner, to=box["address"], tags=by_ses),
    }
    for provider, email_id in sent.items():
        assert (await sending.resting(owner, email_id))["recipients"][0]["provider"] == provider
    assert [len(apis[kind].requests) for kind in KINDS] == [1, 1, 1]


@every_kind
async def test_attempts_show_what_was_said_and_no_secret(
    owner: httpx2.AsyncClient, apis: dict[str, api.Api], kind: str
) -> None:
    apis[kind].next(api.Act(status=500, body=f'{{"message": "{SECRET} had a bad day"}}'.encode()))
    email_id = await sending.send(owner, to=f"user@{kind}.example", text="what nobody else should read")
    await sending.resting(owner, email_id)
    first, second = await sending.attempts(owner, email_id)
    assert [(one["outcome"], one["code"]) for one in (first, second)] == [("deferred", 500), ("sent", 200)]
    for one in (first, second):
        said, *heard_lines = one["transcript"]
        assert said.startswith("C: POST http://127.0.0.1:")
        assert heard_lines[0].startswith(f"S: {one['code']} ")
    assert "**** had a bad day" in first["transcript"][-1]
    shown = json.dumps([first, second])
    for secret in (SECRET, base64.b64encode(f"api:{SECRET}".encode()).decode(), "AKIDEXAMPLE", "nobody else"):
        assert secret not in shown


@every_kind
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_of_our_account_there_goes_on_to_the_next_and_bounces_nobody(
    owner: httpx2.AsyncClient, apis: dict[str, api.Api], kind: str, fault: str
) -> None:
    apis[kind].next(FAULTS[fault][kind])
    address = f"user@{fault}.{kind}.example"
    email_id = await sending.send(owner, to=address)
    shown = await sending.resting(owner, email_id)
    assert shown["status"] == "sent"
    assert shown["recipients"][0]["provider"] == NAMES[NEXT[kind]]
    assert [one["outcome"] for one in await sending.attempts(owner, email_id)] == ["provider_fault", "sent"]
    assert await told(owner, email_id) == {address: ["sent"]}
    again = await sending.send(owner, to=address)  # the provider at fault is left alone
    await sending.resting(owner, again)
    assert [one["outcome"] for one in await sending.attempts(owner, again)] == ["sent"]
    assert (len(apis[kind].requests), len(apis[NEXT[kind]].requests)) == (1, 2)
    assert (await owner.get("/suppressions")).json()["data"] == []


@every_kind
async def test_429_is_waited_for_as_long_as_it_says(
    owner: httpx2.AsyncClient, apis: dict[str, api.Api], kind: str
) -> None:
    """The schedule would try again after a twentieth of a second.

    Broken on purpose: with Retry-After not read, `next_attempt_in` was the schedule's."""
    apis[kind].next(api.Act(status=429, headers={"Retry-After": "1"}, body=b'{"message": "Too many requests"}'))
    email_id = await sending.send(owner, to=f"user@{kind}.example")
    assert (await sending.resting(owner, email_id))["status"] == "sent"
    deferred, sent = (await letters.listed(owner, "/events", email=email_id))[1:]
    assert (deferred["type"], deferred["data"]["next_attempt_in"]) == ("email.deferred", 1.0)
    assert sent["type"] == "email.sent"
    assert [one["provider"] for one in await sending.attempts(owner, email_id)] == [NAMES[kind]] * 2


@every_kind
async def test_a_callback_that_overtakes_the_answer_is_not_lost(
    owner: httpx2.AsyncClient, apis: dict[str, api.Api], kind: str, post: Poster
) -> None:
    """It is posted under the id that the provider's answer is going to tell."""
    address, message_id = f"user@{kind}.example", f"{uuid7().hex}@app.example"
    told_id = f"<{message_id}>" if kind == "mailgun" else message_id
    await post("delivered", told_id, address)
    name = {"mailgun": "id", "postmark": "MessageID", "ses": "MessageId"}[kind]
    apis[kind].next(api.Act(body=json.dumps({name: told_id}).encode()))
    email_id = await sending.send(owner, to=address)
    shown = await sending.resting(owner, email_id, at={"delivered"})
    assert shown["recipients"][0]["provider_id"] == told_id
    assert await told(owner, email_id) == {address: ["sent", "delivered"]}


async def test_where_port_25_is_closed_to_us_everything_leaves_by_the_relay(dsn: str, redis_url: str) -> None:
    """Three domains in a row that nobody answers at; from then on nothing waits for dead destinations.

    Broken on purpose: with `Router._record` leaving out what is said of destinations, not all had left after 30 s."""
    names = [f"d{number}.example" for number in range(6)]
    zone: dict[str, nameserver.Records] = {name: {"A": [f"127.0.0.{n}"]} for n, name in enumerate(names, 2)}
    with sockets.bind("127.0.0.1", 0, "nobody") as held:  # so that nobody else is given the port
        async with sink.Sink() as relay, nameserver.serving(zone) as server:
            outbound = f"mx://?port={sockets.port_of(held)}&allow_private=1 {relay.url('tls=none')}"
            async with (
                sending.at_home(
                    dsn, redis_url, OUTBOUND=outbound, DNS_SERVERS=server.address, RETRY_SCHEDULE="0.05"
                ) as client,
                asyncio.timeout(sending.PATIENCE),
            ):
                sent = [await sending.send(client, to=f"user@{name}") for name in names]
                shown = [await sending.resting(client, email_id) for email_id in sent]
            assert {one["recipients"][0]["provider"] for one in shown} == {f"smtp:127.0.0.1:{relay.port}"}
            assert relay.count == len(names)
