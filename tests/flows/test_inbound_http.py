"""Mail handed in by HTTP: by callers with a key, and by Mailgun, Postmark and SES with their own signatures."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx2
import pytest
from uuid_utils.compat import uuid7

from gateway import app, lifecycle, signatures
from gateway.settings import Settings
from gateway.web import edge
from tests import amazon, conftest, house
from tests.flows import letters
from tests.flows.test_mailboxes import refused
from tests.inbound.test_handed import POSTMARK, SNS_ACTION, received
from tests.web.serving import serving

pytestmark = [pytest.mark.anyio, pytest.mark.xdist_group("a house that takes mail over HTTP")]

RAW = b"From: a@b.example\r\nSubject: Your code\r\nMessage-ID: <1@b.example>\r\n\r\nYour code is 482913.\r\n"
SIGNING_KEY = "key-3ax6xnjp29jd6fds4gc373sgvjxteol0"
POSTMARK_AUTH = ("postmark", "a password: with a colon")
MAX_BYTES = 200_000


@pytest.fixture(scope="module")
def open_house(postgres_dsn: str, redis_url: str) -> Iterator[house.House]:
    """A house where Mailgun, Postmark and SES may hand in mail."""
    yield from conftest._standing(
        postgres_dsn,
        redis_url,
        MAILGUN_SIGNING_KEY=SIGNING_KEY,
        POSTMARK_WEBHOOK_AUTH=":".join(POSTMARK_AUTH),
        SNS_TOPIC_ARNS=f"arn:aws:sns:us-east-1:1:other {amazon.TOPIC}",
        MAX_MESSAGE_BYTES=str(MAX_BYTES),
    )


@pytest.fixture
async def owner(open_house: house.House) -> AsyncIterator[httpx2.AsyncClient]:
    """An account of the test's own there."""
    async with open_house.client((await open_house.tenant()).key) as client:
        yield client


@pytest.fixture
async def provider(open_house: house.House) -> AsyncIterator[httpx2.AsyncClient]:
    """Somebody without a key."""
    async with httpx2.AsyncClient(base_url=f"{open_house.url}/v1", timeout=30, verify=house.NOBODY) as client:
        yield client


async def raw_of(client: httpx2.AsyncClient, mailbox_id: str) -> list[bytes]:
    """The octets of every message in a mailbox, newest first."""
    messages = await letters.listed(client, f"/mailboxes/{mailbox_id}/messages")
    return [(await client.get(f"/messages/{message['id']}/raw")).content for message in messages]


async def hand_in(
    client: httpx2.AsyncClient, raw: bytes, rcpt_to: Any, *, key: str = "", **query: Any
) -> httpx2.Response:
    headers = {"Content-Type": "message/rfc822", **({"Idempotency-Key": key} if key else {})}
    return await client.post("/inbound/raw", params={"rcpt_to": rcpt_to, **query}, content=raw, headers=headers)


def receipt(answer: httpx2.Response) -> str:
    """The receipt id of a mail that was taken."""
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert set(body) == {"object", "receipt_id"}
    assert body["object"] == "inbound"
    return str(body["receipt_id"])


# By key


@pytest.mark.parametrize(
    "raw",
    [
        RAW,
        RAW.replace(b"\r\n", b"\n"),
        b"From: a@b.example\r\nSubject: \xe9\xff\r\n\r\nbare\nlines\rand\x00all\r\n.\r\n..\r\n.",
        b"\r\n",
        b"no mail at all",
    ],
)
async def test_what_is_handed_in_is_kept_octet_for_octet(client: httpx2.AsyncClient, raw: bytes) -> None:
    box = await letters.mailbox(client)
    receipt_id = receipt(await hand_in(client, raw, box["address"], mail_from="bounce+1@b.example"))
    assert await raw_of(client, box["id"]) == [raw]
    message = await letters.only_message(client, box["id"])
    envelope = message["envelope"]
    assert (envelope["mail_from"], envelope["rcpt_to"]) == ("bounce+1@b.example", [box["address"]])
    assert (envelope["receipt_id"], envelope["remote_ip"], envelope["tls"]) == (receipt_id, "", False)
    assert message["size"] == len(raw)


async def test_what_is_handed_in_wakes_who_waits(client: httpx2.AsyncClient) -> None:
    box = await letters.mailbox(client)
    waiting = asyncio.create_task(client.get(f"/mailboxes/{box['id']}/wait", params={"for": "code"}))
    receipt(await hand_in(client, RAW, box["address"]))
    assert (await waiting).json()["code"] == "482913"


async def test_a_mail_may_be_for_many(client: httpx2.AsyncClient) -> None:
    boxes = [await letters.mailbox(client) for _ in range(3)]
    addresses = [box["address"] for box in boxes]
    tagged = addresses[0].replace("@", "+tag@")
    receipt(await hand_in(client, RAW, [f"<{tagged}>, {addresses[1]}", addresses[2]], mail_from="<>"))
    for box in boxes:
        [message] = await letters.listed(client, f"/mailboxes/{box['id']}/messages")
        whole = (await client.get(f"/messages/{message['id']}")).json()
        assert whole["envelope"]["mail_from"] == ""
        assert whole["tag"] == ("tag" if box is boxes[0] else None)


async def test_the_answer_does_not_tell_who_lives_there(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    live, expired = await letters.mailbox(client), await letters.mailbox(client)
    await letters.expire(shared_house, expired["id"])
    client.headers["X-Request-Id"] = "the-same"
    answers = []
    for address in (live["address"], expired["address"], f"nobody-{uuid7().hex}@postroom.test"):
        answer = await hand_in(client, RAW, address)
        heard = dict(answer.headers)
        answers.append((answer.status_code, heard, answer.text.replace(receipt(answer), "id")))
    assert answers[0] == answers[1] == answers[2]
    assert len(await raw_of(client, live["id"])) == 1
    assert await raw_of(client, expired["id"]) == []


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ({}, 422, "rcpt_to"),
        ({"rcpt_to": ""}, 422, "rcpt_to"),
        ({"rcpt_to": ","}, 422, "rcpt_to"),
        ({"rcpt_to": "x@elsewhere.example"}, 422, "rcpt_to"),
        ({"rcpt_to": "x@postroom.test,x@elsewhere.example"}, 422, "rcpt_to"),
        ({"rcpt_to": "not an address"}, 422, "rcpt_to"),
        ({"rcpt_to": [f"{n}@postroom.test" for n in range(101)]}, 422, "rcpt_to"),
        ({"rcpt_to": "x@postroom.test", "mail_from": "not an address"}, 422, "mail_from"),
        ({"rcpt_to": "x@postroom.test", "from": "a@b.example"}, 422, "from"),
    ],
)
async def test_what_is_wrong_with_an_envelope_is_said(
    client: httpx2.AsyncClient, query: dict[str, Any], status: int, field: str
) -> None:
    answer = await client.post("/inbound/raw", params=query, content=RAW)
    assert answer.status_code == status, answer.text
    assert {error["field"].partition("[")[0] for error in answer.json()["errors"]} == {field}


async def test_an_empty_body_is_no_mail(client: httpx2.AsyncClient) -> None:
    refused(await hand_in(client, b"", "x@postroom.test"), 422, "validation_error")


async def test_a_mail_of_the_largest_size_is_taken_and_no_larger_one(
    open_house: house.House, owner: httpx2.AsyncClient
) -> None:
    box = await letters.mailbox(owner)
    largest = RAW + b"x" * (MAX_BYTES - len(RAW))
    receipt(await hand_in(owner, largest, box["address"]))
    refused(await hand_in(owner, largest + b"x", box["address"]), 413, "payload_too_large")

    async def undeclared() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 10_000

    answer = await owner.post("/inbound/raw", params={"rcpt_to": box["address"]}, content=undeclared())
    refused(answer, 413, "payload_too_large")
    assert await raw_of(owner, box["id"]) == [largest]


async def test_only_keys_that_may_hand_in_mail_do_and_only_for_their_domains(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    for wish, status in (
        ({"scopes": ["mailboxes", "send", "read"]}, 403),
        ({"scopes": ["inbound"]}, 200),
        ({"scopes": ["inbound"], "domains": ["postroom.test"]}, 200),
        ({"scopes": ["inbound"], "domains": ["elsewhere.example"]}, 403),
    ):
        made = (await client.post("/api-keys", json={"name": "k", **wish})).json()
        async with shared_house.client(made["key"]) as holder:
            answer = await hand_in(holder, RAW, "x@postroom.test")
            assert answer.status_code == status, (wish, answer.text)
    token = (await letters.mailbox(client))["token"]
    async with shared_house.client(token) as holder:
        refused(await hand_in(holder, RAW, "x@postroom.test"), 403, "restricted_api_key")


async def test_a_mail_with_an_idempotency_key_is_one_mail(client: httpx2.AsyncClient) -> None:
    box = await letters.mailbox(client)
    answers = await asyncio.gather(*(hand_in(client, RAW, box["address"], key="once") for _ in range(10)))
    answers.append(await hand_in(client, RAW, box["address"], key="once"))
    assert len({receipt(answer) for answer in answers}) == 1
    assert sorted(answer.headers.get("idempotent-replayed", "") for answer in answers) == [""] + ["true"] * 10
    assert await raw_of(client, box["id"]) == [RAW]
    for raw, query in ((RAW + b"x", {}), (RAW, {"mail_from": "c@b.example"})):
        answer = await hand_in(client, raw, box["address"], key="once", **query)
        refused(answer, 409, "invalid_idempotent_request")
    receipt(await hand_in(client, RAW, box["address"], key="twice"))
    receipt(await hand_in(client, RAW, box["address"]))
    assert len(await raw_of(client, box["id"])) == 3


async def test_a_key_whose_mail_never_came_to_be_stored_is_tried_again_under_the_same_receipt(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    """As after a crash between the key and the mail, and between the mail and its answer.

    Negative control: with a new receipt id for each attempt it failed, for the ids differed.
    """
    box = await letters.mailbox(client)
    for stored in (1, 1):  # the second time the mail is there already
        first = receipt(await hand_in(client, RAW, box["address"], key="once"))
        async with letters.sql(shared_house) as connection:
            await connection.execute(
                "update idempotency_keys set answer = jsonb_build_object('receipt_id', answer -> 'receipt_id') "
                "where account_id = $1 and key = 'once'",
                tenant.account_id,
            )
        again = await hand_in(client, RAW, box["address"], key="once")
        assert receipt(again) == first
        assert len(await raw_of(client, box["id"])) == stored


# Mailgun


def mailgun_form(
    recipient: str, fields: Mapping[str, str], *, key: str = SIGNING_KEY, age: float = 0
) -> dict[str, str]:
    """The fields of a route's post, signed."""
    timestamp, token = str(int(time.time() - age)), uuid7().hex + "0" * 18
    signature = hmac.new(key.encode(), (timestamp + token).encode(), hashlib.sha256).hexdigest()
    form = {"recipient": recipient, "sender": "a@b.example", "subject": "Your code", "from": "a@b.example"}
    return {**form, "timestamp": timestamp, "token": token, "signature": signature, **fields}


async def test_mail_from_mailgun_arrives_as_it_came(provider: httpx2.AsyncClient, owner: httpx2.AsyncClient) -> None:
    box = await letters.mailbox(owner)
    form = mailgun_form(box["address"], {"body-mime": RAW.decode()})
    urlencoded = await provider.post("/inbound/mailgun/mime", data=form)
    other = RAW.replace(b"482913", b"111222")
    form = mailgun_form(box["address"], {})
    multipart = await provider.post("/inbound/mailgun", data=form, files={"body-mime": ("", other)})
    assert receipt(urlencoded) != receipt(multipart)
    assert await raw_of(owner, box["id"]) == [other, RAW]


async def test_mail_that_mailgun_read_arrives_with_its_files(
    provider: httpx2.AsyncClient, owner: httpx2.AsyncClient
) -> None:
    box = await letters.mailbox(owner)
    header = [["From", "Jo <a@b.example>"], ["Subject", "Grüße"], ["Content-Type", "text/plain"]]
    form = mailgun_form(box["address"], {"body-plain": "Your code is 482913", "message-headers": json.dumps(header)})
    receipt(
        await provider.post(
            "/inbound/mailgun", data=form, files={"attachment-1": ("ü.pdf", b"%PDF", "application/pdf")}
        )
    )
    message = await letters.only_message(owner, box["id"])
    assert (message["subject"], message["from"]["name"], message["parse"]) == ("Grüße", "Jo", "ok")
    assert [code["value"] for code in message["codes"]] == ["482913"]
    [file] = message["attachments"]
    assert (file["filename"], file["content_type"], file["size"]) == ("ü.pdf", "application/pdf", 4)
    assert (await owner.get(f"/messages/{message['id']}/attachments/0")).content == b"%PDF"


async def test_mail_that_mailgun_posts_again_changes_nothing(
    provider: httpx2.AsyncClient, owner: httpx2.AsyncClient
) -> None:
    """Whether it signs the second post anew or not.

    Negative control: with a receipt id drawn for each post it failed, with four mails instead of one, as did the same
    tests of Postmark and SES.
    """
    box = await letters.mailbox(owner)
    mime = {"body-mime": RAW.decode()}
    form = mailgun_form(box["address"], mime)
    again = [form, form, mailgun_form(box["address"], mime), mailgun_form(box["address"], mime, age=60)]
    answers = await asyncio.gather(*(provider.post("/inbound/mailgun", data=form) for form in again))
    assert len({receipt(answer) for answer in answers}) == 1
    assert await raw_of(owner, box["id"]) == [RAW]
    events = await letters.listed(owner, "/events", types="message.received")
    assert len(events) == 1


async def test_a_token_is_good_for_one_mail(provider: httpx2.AsyncClient, owner: httpx2.AsyncClient) -> None:
    """Mailgun's signature says nothing of the body: who has seen one post must not be able to make others.

    Negative control: without `spend` it failed, with 200 instead of 401.
    """
    box, other = await letters.mailbox(owner), await letters.mailbox(owner)
    form = mailgun_form(box["address"], {"body-mime": RAW.decode()})
    receipt(await provider.post("/inbound/mailgun", data=form))
    for change in (
        {"body-mime": "Subject: forged\r\n\r\n"},
        {"recipient": other["address"]},
        {"sender": "x@y.example"},
    ):
        refused(await provider.post("/inbound/mailgun", data=form | change), 401, "invalid_api_key")
    assert await raw_of(owner, box["id"]) == [RAW]
    assert await raw_of(owner, other["id"]) == []


@pytest.mark.parametrize("forgery", ["key", "old", "early", "token", "none", "no form"])
async def test_what_mailgun_did_not_sign_is_not_taken(
    provider: httpx2.AsyncClient, owner: httpx2.AsyncClient, forgery: str
) -> None:
    """Negative control: without `check_mailgun` all failed but the last, with 200 instead of 401."""
    box = await letters.mailbox(owner)
    mime = {"body-mime": RAW.decode()}
    form = {
        "key": mailgun_form(box["address"], mime, key="another"),
        "old": mailgun_form(box["address"], mime, age=1000),
        "early": mailgun_form(box["address"], mime, age=-1000),
        "token": mailgun_form(box["address"], {**mime, "token": "x" * 50}),
        "none": {"recipient": box["address"], **mime},
        "no form": {},
    }[forgery]
    if forgery == "no form":
        answer = await provider.post("/inbound/mailgun", json=mime)
    else:
        answer = await provider.post("/inbound/mailgun", data=form)
    refused(answer, 401, "invalid_api_key")
    assert await raw_of(owner, box["id"]) == []


async def test_mailgun_hears_406_of_mail_that_can_never_be_taken(provider: httpx2.AsyncClient) -> None:
    """Any other refusal it would post again, for hours."""
    mime = {"body-mime": RAW.decode()}
    for form in (
        mailgun_form("x@elsewhere.example", mime),
        mailgun_form("", mime),
        mailgun_form("x@postroom.test", {"body-mime": "x" * (MAX_BYTES + 1)}),
        mailgun_form("x@postroom.test", {"attachments": '[{"url": "https://x"}]'}),
    ):
        refused(await provider.post("/inbound/mailgun", data=form), 406, "validation_error")


async def test_mail_for_some_of_ours_among_others_is_taken_for_ours(
    provider: httpx2.AsyncClient, owner: httpx2.AsyncClient
) -> None:
    box = await letters.mailbox(owner)
    form = mailgun_form(f"x@elsewhere.example,{box['address']}", {"body-mime": RAW.decode()})
    receipt(await provider.post("/inbound/mailgun", data=form))
    assert (await letters.only_message(owner, box["id"]))["envelope"]["rcpt_to"] == [box["address"]]


# Postmark


async def test_mail_from_postmark_arrives_once(provider: httpx2.AsyncClient, owner: httpx2.AsyncClient) -> None:
    box = await letters.mailbox(owner)
    body = POSTMARK | {"OriginalRecipient": box["address"], "MessageID": str(uuid7()), "RawEmail": RAW.decode()}
    answers = [await provider.post("/inbound/postmark", json=body, auth=POSTMARK_AUTH) for _ in range(3)]
    assert len({receipt(answer) for answer in answers}) == 1
    assert await raw_of(owner, box["id"]) == [RAW]


async def test_mail_that_was_forwarded_to_postmark_comes_for_whom_it_names(
    provider: httpx2.AsyncClient, owner: httpx2.AsyncClient
) -> None:
    """Its envelope names an address of Postmark's own then."""
    box = await letters.mailbox(owner)
    people = {"ToFull": [{"Email": box["address"]}, {"Email": "x@elsewhere.example"}], "CcFull": []}
    body = POSTMARK | people | {"MessageID": str(uuid7())}
    receipt(await provider.post("/inbound/postmark", json=body, auth=POSTMARK_AUTH))
    message = await letters.only_message(owner, box["id"])
    assert message["envelope"]["rcpt_to"] == [box["address"]]
    assert {file["filename"] for file in message["attachments"]} == {"a.txt", "b.png"}


async def test_what_does_not_come_from_postmark_is_not_taken(
    provider: httpx2.AsyncClient, owner: httpx2.AsyncClient
) -> None:
    """Negative control: without `signatures.basic` it failed, with 200 instead of 401."""
    box = await letters.mailbox(owner)
    body = POSTMARK | {"OriginalRecipient": box["address"], "MessageID": str(uuid7())}
    auths: list[tuple[str, str]] = [("postmark", "another"), ("another", POSTMARK_AUTH[1]), ("", "")]
    refused(await provider.post("/inbound/postmark", json=body), 401, "invalid_api_key")
    for auth in auths:
        refused(await provider.post("/inbound/postmark", json=body, auth=auth), 401, "invalid_api_key")
    assert await raw_of(owner, box["id"]) == []


async def test_postmark_hears_403_of_mail_that_can_never_be_taken(provider: httpx2.AsyncClient) -> None:
    bodies: list[Any] = [
        POSTMARK | {"ToFull": [], "CcFull": []},
        POSTMARK | {"OriginalRecipient": "x@elsewhere.example", "ToFull": [], "CcFull": []},
        POSTMARK | {"OriginalRecipient": "x@postroom.test", "RawEmail": "x" * (MAX_BYTES + 1)},
        {},
        [],
    ]
    for body in bodies:
        refused(await provider.post("/inbound/postmark", json=body, auth=POSTMARK_AUTH), 403, "validation_error")


# SES


@contextlib.asynccontextmanager
async def inside(dsn: str, fetch: signatures.Fetch) -> AsyncIterator[tuple[lifecycle.Gateway, httpx2.AsyncClient]]:
    """The application in this process."""
    settings = Settings(
        database_url=dsn,
        redis_url="",
        secret_key=house.SECRET_KEY,
        mail_domains=("postroom.test",),
        unknown_recipients="create",
        sns_topic_arns=(amazon.TOPIC,),
    )
    async with lifecycle.opened(settings, fetch=fetch) as gateway:
        application = edge.application(app.routes(gateway, dict, app.entry(gateway)))
        async with (
            serving(application) as url,
            httpx2.AsyncClient(base_url=f"{url}/v1", timeout=30, trust_env=False, verify=house.NOBODY) as client,
        ):
            yield gateway, client


@contextlib.asynccontextmanager
async def listening_to(region: amazon.Amazon, dsn: str) -> AsyncIterator[httpx2.AsyncClient]:
    """The same, its fetcher leading to the test's Amazon."""
    async with region.serving(), inside(dsn, region.fetcher()) as (_, client):
        yield client


async def post(client: httpx2.AsyncClient, given: dict[str, Any]) -> httpx2.Response:
    headers = {"Content-Type": "text/plain; charset=UTF-8", "x-amz-sns-topic-arn": given["TopicArn"]}
    return await client.post("/inbound/ses", content=amazon.body(given), headers=headers)


async def stored(home: house.House) -> list[bytes]:
    async with letters.sql(home) as connection:
        rows = await connection.fetch(
            "select c.raw from messages m join contents c on c.account_id = m.account_id and c.id = m.content_id"
        )
        return [row["raw"] for row in rows]


async def test_mail_from_ses_arrives_once_and_subscriptions_are_confirmed(dsn: str, tmp_path: Path) -> None:
    region, home = amazon.Amazon(tmp_path), house.House(dsn=dsn, environment={}, listeners={})
    await home.tenant()
    async with listening_to(region, dsn) as client:
        confirmed = await post(client, region.confirmation())
        assert (confirmed.status_code, confirmed.json()) == (200, {"object": "inbound", "receipt_id": None})
        assert region.asked[-1] == amazon.SUBSCRIBE.removeprefix(f"https://{amazon.HOST}")
        ready = region.notification(json.dumps({"notificationType": "AmazonSnsSubscriptionSucceeded", "message": "…"}))
        assert (await post(client, ready)).json()["receipt_id"] is None
        encoded = base64.b64encode(RAW).decode()
        message = received(encoded, SNS_ACTION | {"encoding": "BASE64"})
        given = region.notification(message)
        answers = [await post(client, given), await post(client, given)]
        answers.append(await post(client, region.notification(message)))  # by another topic's notification
        answers.append(await post(client, region.notification(message, SignatureVersion="1")))
        assert len({receipt(answer) for answer in answers}) == 1
        gone = await post(client, region.confirmation("UnsubscribeConfirmation"))
        assert gone.status_code == 200
    assert await stored(home) == [RAW]
    assert len(region.asked) == 2  # the certificate once, and the confirmation of the subscription


async def test_what_sns_did_not_sign_or_cannot_be_taken_is_refused(dsn: str, tmp_path: Path) -> None:
    """Negative control: without `signatures.sns` it failed, with 200 instead of 401."""
    region, home = amazon.Amazon(tmp_path), house.House(dsn=dsn, environment={}, listeners={})
    await home.tenant()
    message = received("Subject: x\r\n\r\n", SNS_ACTION)
    async with listening_to(region, dsn) as client:
        good = region.notification(message)
        forged = [
            good | {"Message": message.replace("x@postroom.test", "y@postroom.test")},
            region.notification(message, TopicArn="arn:aws:sns:eu-west-1:666666666666:mail-in"),
            region.notification(message, SigningCertURL="https://sns.evil.example/x.pem"),
            region.confirmation(TopicArn="arn:aws:sns:eu-west-1:666666666666:mail-in"),
            region.confirmation(SubscribeURL="https://evil.example/?Action=ConfirmSubscription"),
            {"TopicArn": amazon.TOPIC},
        ]
        for given in forged:
            refused(await post(client, given), 401, "invalid_api_key")
        for unusable in (received(None, {"type": "S3", "bucketName": "b"}), "{}"):
            refused(await post(client, region.notification(unusable)), 422, "validation_error")
        elsewhere = message.replace("x@postroom.test", "x@elsewhere.example")
        refused(await post(client, region.notification(elsewhere)), 422, "validation_error")
        assert await stored(home) == []
        region.pages.clear()
        region.pages[amazon.CERTIFICATE.removeprefix(f"https://{amazon.HOST}")] = (503, b"")
        assert (await post(client, region.confirmation())).status_code == 503  # it is not confirmed: SNS comes again


# All of them


async def test_where_a_provider_is_not_configured_there_is_nothing(shared_house: house.House) -> None:
    """Negative control: with routes for operations that are not available it failed, with 422 instead of 404."""
    async with httpx2.AsyncClient(
        base_url=f"{shared_house.url}/v1", headers={"X-Request-Id": "the-same"}, verify=house.NOBODY
    ) as anybody:
        for method in ("POST", "GET", "OPTIONS"):
            nothing = await anybody.request(method, "/inbound/nothing-here?x=1", content=b"x")
            for path in ("mailgun", "mailgun/mime", "postmark", "ses"):
                answer = await anybody.request(method, f"/inbound/{path}?x=1", content=b"x")
                assert answer.status_code == 404
                assert (dict(answer.headers), answer.content) == (dict(nothing.headers), nothing.content)
        paths = (await anybody.get(f"{shared_house.url}/openapi.json")).json()["paths"]
        assert {f"/v1/inbound/{path}" for path in ("raw", "mailgun", "mailgun/mime", "postmark", "ses")} <= set(paths)


async def test_mail_by_http_counts_among_the_bytes_in_flight(dsn: str) -> None:
    """Negative control: without `hold.resize` it failed, with 200 instead of 503."""
    home = house.House(dsn=dsn, environment={}, listeners={})
    tenant = await home.tenant()
    async with inside(dsn, signatures.Fetcher()) as (gateway, client):
        client.headers |= tenant.headers
        budget = gateway.in_flight
        budget.used = budget.limit - len(RAW) + 1
        answer = await hand_in(client, RAW, "x@postroom.test")
        refused(answer, 503, "unavailable")
        assert int(answer.headers["retry-after"]) > 0
        budget.used = 0
        receipt(await hand_in(client, RAW, "x@postroom.test"))
        refused(await hand_in(client, RAW, "x@postroom.test", mail_from="no address"), 422, "validation_error")
        assert (budget.used, budget.storing) == (0, 0)


async def test_without_the_database_everybody_is_to_come_again(postgres_dsn: str, redis_url: str) -> None:
    """And who comes again is served: nothing is lost and nothing doubled."""
    settings = {"MAILGUN_SIGNING_KEY": SIGNING_KEY, "POSTMARK_WEBHOOK_AUTH": ":".join(POSTMARK_AUTH)}
    async with letters.own_house(postgres_dsn, redis_url, settings=settings) as home:
        name = urlsplit(home.dsn).path[1:]
        async with home.client((await home.tenant()).key) as client:
            box = await letters.mailbox(client)
            form = mailgun_form(box["address"], {"body-mime": RAW.decode()})
            body = POSTMARK | {"OriginalRecipient": box["address"], "RawEmail": RAW.decode()}

            async def everybody() -> list[httpx2.Response]:
                return [
                    await hand_in(client, RAW, box["address"], key="once"),
                    await client.post("/inbound/mailgun", data=form),
                    await client.post("/inbound/postmark", json=body, auth=POSTMARK_AUTH),
                ]

            async with _server(postgres_dsn) as connection:
                await connection.execute(f"alter database {name} allow_connections false")
                await connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", name
                )
                while await connection.fetchval("select count(*) from pg_stat_activity where datname = $1", name):
                    pass  # backends end in their own time
                while (await client.get(f"{home.url}/readyz")).status_code == 200:
                    pass  # and the process hears of it in its own
                for answer in await everybody():
                    assert answer.status_code == 503, answer.text
                    assert int(answer.headers["retry-after"]) > 0
                await connection.execute(f"alter database {name} allow_connections true")
            for _ in range(2):
                for answer in await everybody():
                    receipt(answer)
            assert await raw_of(client, box["id"]) == [RAW] * 3


@contextlib.asynccontextmanager
async def _server(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()
