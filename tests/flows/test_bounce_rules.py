"""Rules for refusals: an account's own in front of the built-in ones, what they make of mail, and what is told."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest

from gateway.mail import classify
from gateway.storage import bounce_rules
from tests import house, sending
from tests.flows import letters
from tests.flows.test_mailboxes import MISSING, refused
from tests.mail.test_dsn import REPORT
from tests.outbound import sink

pytestmark = pytest.mark.anyio

LIMITED = "550 Connection frequency limited"
GONE = "550 5.1.1 no such user"


async def made(client: httpx2.AsyncClient, **rule: Any) -> dict[str, Any]:
    answer = await client.post("/bounces/rules", json={"kind": "policy", **rule})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def asked(client: httpx2.AsyncClient, **body: str) -> dict[str, Any]:
    answer = await client.post("/bounces/classify", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def said(client: httpx2.AsyncClient, email_id: str) -> list[tuple[str, Any]]:
    """Type and classification of what was told of an e-mail after it was queued."""
    events = await sending.timeline(client, email_id)
    return [(event["type"], event["data"].get("classification")) for event in events[1:]]


# The table


async def test_rules_are_kept_in_the_order_in_which_they_are_looked_at(client: httpx2.AsyncClient) -> None:
    second = await made(client, words="  Connection   FREQUENCY ", action="retry", note="QQ")
    third = await made(client, enhanced="5.7.x", code="55x")
    first = await made(client, words="connection", priority=1)
    assert [rule["id"] for rule in await letters.listed(client, "/bounces/rules")] == [
        rule["id"] for rule in (first, second, third)
    ]
    assert (second["words"], second["enhanced"], second["code"]) == ("connection frequency", None, None)
    assert (second["kind"], second["suppresses"], second["priority"]) == ("policy", False, 100)
    assert (second["action"], second["builtin"], second["note"]) == ("retry", False, "QQ")
    here = f"/bounces/rules/{second['id']}"
    assert (await client.get(here)).json() == second
    changed = (await client.patch(here, json={"code": "5xx", "words": None, "priority": 0})).json()
    assert changed == second | {
        "code": "5xx",
        "words": None,
        "priority": 0,
        "updated_at": changed["updated_at"],
    }
    assert (await letters.listed(client, "/bounces/rules"))[0] == changed
    assert (await client.delete(here)).status_code == 204
    for method in ("GET", "DELETE"):
        refused(await client.request(method, here), 404, "not_found")
    refused(await client.patch(f"/bounces/rules/{MISSING}", json={"note": "x"}), 404, "not_found")


async def test_the_built_in_table_can_be_read(client: httpx2.AsyncClient) -> None:
    table = await letters.listed(client, "/bounces/rules", builtin="true")
    assert [rule["id"] for rule in table] == [
        *(rule.id for rule in classify.RULES),
        *("no-reply", "unsent"),
    ]
    [rate] = [rule for rule in table if rule["id"] == "words.rate"]
    assert (rate["builtin"], rate["kind"], rate["action"], rate["priority"]) == (True, "policy", "retry", None)
    assert await letters.listed(client, "/bounces/rules") == []


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({}, "words"),
        ({"words": "**"}, "words"),
        ({"words": "a"}, "words"),
        ({"words": "user@example.com is gone"}, "words"),
        ({"words": "x" * 101}, "words"),
        ({"enhanced": "5.7"}, "enhanced"),
        ({"enhanced": "2.1.5"}, "enhanced"),
        ({"code": "250"}, "code"),
        ({"code": "(5|4)+"}, "code"),
        ({"code": "550", "kind": "rude"}, "kind"),
        ({"code": "550", "priority": 1001}, "priority"),
        ({"code": "550", "action": "ignore"}, "action"),
        ({"code": "550", "unheard": 1}, "unheard"),
        ({"code": "550", "suppresses": True}, "suppresses"),
        ({"code": "550", "kind": "hard", "suppresses": True}, "suppresses"),
        ({"words": "user", "kind": "hard", "suppresses": True}, "suppresses"),
        ({"enhanced": "5.x.x", "kind": "hard", "suppresses": True}, "suppresses"),
        ({"words": "is not here", "kind": "hard", "suppresses": True, "action": "retry"}, "suppresses"),
    ],
)
async def test_what_is_wrong_with_a_rule_is_said(client: httpx2.AsyncClient, wish: dict[str, Any], field: str) -> None:
    """A rule that lists addresses must be about addresses. Negative control: with `_check` returning before it looks
    at that, the last five were taken, and the test failed."""
    body = refused(await client.post("/bounces/rules", json={"kind": "policy", **wish}), 422, "validation_error")
    assert [error["field"] for error in body["errors"]] == [field]


async def test_a_change_is_looked_at_as_a_new_rule_is(client: httpx2.AsyncClient) -> None:
    rule = await made(client, words="is not here", kind="hard", suppresses=True)
    for change in (
        {"kind": "soft"},
        {"words": None},
        {"action": "retry"},
        {"kind": None},
        {"words": None, "code": "5xx"},
    ):
        refused(await client.patch(f"/bounces/rules/{rule['id']}", json=change), 422, "validation_error")
    assert (await client.get(f"/bounces/rules/{rule['id']}")).json() == rule


async def test_two_changes_at_once_are_looked_at_together(client: httpx2.AsyncClient) -> None:
    """Each is good alone: one makes the rule soft, the other lets it suppress.

    Negative control: with no lock in `change` both were taken, and a soft rule suppressed; it failed.
    """
    for _ in range(5):
        rule = await made(client, words="is not here", kind="hard")
        changes: list[dict[str, Any]] = [{"kind": "soft"}, {"suppresses": True}]
        answers = await asyncio.gather(
            *(client.patch(f"/bounces/rules/{rule['id']}", json=change) for change in changes)
        )
        assert sorted(answer.status_code for answer in answers) == [200, 422]


async def test_an_account_has_so_many_rules_and_no_more_however_they_come(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    """Negative control: with no lock in `bounce_rules.create` more than two of the ten were taken."""
    async with letters.sql(shared_house) as connection:
        await connection.execute(
            "insert into bounce_rules select $1, gen_random_uuid(), 1, '', '', '550', 'soft', false, null, '', now(), "
            "now() from generate_series(1, $2)",
            *(tenant.account_id, bounce_rules.MOST - 2),
        )
    answers = await asyncio.gather(
        *(client.post("/bounces/rules", json={"kind": "soft", "code": "450"}) for _ in range(10))
    )
    assert sorted(answer.status_code for answer in answers) == [201] * 2 + [429] * 8
    assert {answer.headers.get("retry-after") for answer in answers} == {None, "60"}
    assert len(await letters.listed(client, "/bounces/rules")) == bounce_rules.MOST


async def test_the_same_idempotency_key_makes_one_rule(client: httpx2.AsyncClient) -> None:
    wish, headers = {"kind": "soft", "code": "450"}, {"Idempotency-Key": "once"}
    answers = [await client.post("/bounces/rules", json=wish, headers=headers) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert len(await letters.listed(client, "/bounces/rules")) == 1


# The dry run


async def test_a_refusal_can_be_classified_without_having_one(client: httpx2.AsyncClient) -> None:
    assert await asked(client, reply=GONE) == {
        "object": "classification",
        "rule": "5.1.1",
        "builtin": True,
        "class": "hard",
        "suppresses": True,
        "action": "bounce",
        "code": "550",
        "status": "5.1.1",
    }
    limited = await asked(client, reply=LIMITED)
    assert (limited["class"], limited["action"]) == ("policy", "retry")
    assert (await asked(client, status="4.2.2"))["class"] == "quota"
    assert json.loads(json.dumps(await asked(client, reply="hm")))["rule"] == "none"
    report = await asked(client, dsn=REPORT.decode())
    assert (report["rule"], report["code"], report["status"]) == ("5.1.1", "550", "5.1.1")
    for body in ({}, {"reply": "x" * 2001}, {"replies": "x"}, {"dsn": "x", "reply": "x"}, {"dsn": "Subject: x"}):
        refused(await client.post("/bounces/classify", json=body), 422, "validation_error")


async def test_a_dry_run_asks_the_accounts_own_rules_first_and_nobody_elses(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    """Negative control: with no account in the WHERE clause of `all`, the stranger's answer was by this rule, too."""
    rule = await made(client, words="no such * today", kind="soft", action="retry")
    await made(client, words="no such", kind="content")
    found = await asked(client, reply="550 5.1.1 <a@b.example>: No such user  here TODAY")
    assert (found["rule"], found["builtin"], found["class"]) == (rule["id"], False, "soft")
    assert (found["suppresses"], found["action"]) == (False, "retry")
    async with shared_house.client((await shared_house.tenant()).key) as stranger:
        assert (await asked(stranger, reply="550 5.1.1 No such user here today"))["rule"] == "5.1.1"


# What becomes of mail


async def test_a_refusal_tells_its_rule_in_events_attempts_and_the_log(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    relay.next("rcpt", sink.reply("450 4.2.1 later"))
    relay.next("rcpt", sink.reply(GONE))
    email_id = await sending.send(sender)
    await sending.resting(sender, email_id)
    soft = {"rule": "4.x", "class": "soft", "suppresses": False}
    hard = {"rule": "5.1.1", "class": "hard", "suppresses": True}
    assert await said(sender, email_id) == [("email.deferred", soft), ("email.bounced", hard)]
    assert [one["classification"] for one in await sending.attempts(sender, email_id)] == [soft, hard]
    lines = [json.loads(line) for line in (await sender.get("/deliveries/export")).text.splitlines()]
    assert [line["classification"] for line in lines] == [soft, hard]
    taken = await sending.send(sender, to="other@recipient.example")
    await sending.resting(sender, taken)
    assert [one["classification"] for one in await sending.attempts(sender, taken)] == [None]
    assert await said(sender, taken) == [("email.sent", None)]


async def test_what_nobody_answered_is_the_networks_and_what_was_not_sent_nobodys(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    relay.next("rcpt", sink.cut())
    email_id = await sending.send(sender)
    await sending.resting(sender, email_id)
    network = {"rule": "no-reply", "class": "network", "suppresses": False}
    assert await said(sender, email_id) == [("email.deferred", network), ("email.sent", None)]
    relay.always("rcpt", sink.reply("450 4.2.1 later"))
    late = await sending.send(sender, expires_in=1)
    assert (await sending.resting(sender, late))["status"] == "failed"
    kind, classification = (await said(sender, late))[-1]
    assert kind == "email.failed"
    assert classification["rule"] in ("4.x", "unsent")  # by its last refusal, or by the clock
    relay.always("rcpt", None)


async def test_who_says_550_to_a_rate_gets_the_mail_again(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    """Negative control: with `refusals.outcome` answering what the provider said, the e-mail bounced."""
    relay.next("rcpt", sink.reply(LIMITED))
    email_id = await sending.send(sender)
    assert (await sending.resting(sender, email_id))["status"] == "sent"
    rate = {"rule": "words.rate", "class": "policy", "suppresses": False}
    assert await said(sender, email_id) == [("email.deferred", rate), ("email.sent", None)]
    refusal, _ = await sending.attempts(sender, email_id)
    assert (refusal["outcome"], refusal["code"], refusal["reply"]) == ("deferred", 550, LIMITED)


async def test_who_says_550_to_a_rate_for_ever_has_bounced_it(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    """The schedule's end is the same as for any mail, and then it is what the server said."""
    relay.always("rcpt", sink.reply(LIMITED))
    email_id = await sending.send(sender, expires_in=1)
    shown = await sending.resting(sender, email_id)
    relay.always("rcpt", None)
    made_attempts = await sending.attempts(sender, email_id)
    assert shown["status"] in ("bounced", "failed")  # failed: the clock said so before the server could again
    if shown["status"] == "bounced":
        assert made_attempts[-1]["outcome"] == "bounced"
    assert {one["outcome"] for one in made_attempts[:-1]} <= {"deferred"}
    assert len(made_attempts) > 1


async def test_an_own_rule_puts_off_what_would_have_bounced_and_listed_the_address(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """Negative control: with `Rules.of` answering no rules, the e-mail bounced and the address was listed."""
    rule = await made(sender, words="no such user", code="55x", kind="soft", action="retry", note="they lie")
    relay.next("rcpt", sink.reply(GONE))
    email_id = await sending.send(sender)
    assert (await sending.resting(sender, email_id))["status"] == "sent"
    soft = {"rule": rule["id"], "class": "soft", "suppresses": False}
    assert await said(sender, email_id) == [("email.deferred", soft), ("email.sent", None)]
    assert (await sending.attempts(sender, email_id))[0]["classification"] == soft
    assert await letters.listed(sender, "/suppressions") == []
    assert (await sender.delete(f"/bounces/rules/{rule['id']}")).status_code == 204
    assert (await sending.attempts(sender, email_id))[0]["classification"] == soft  # as it was read then


async def test_an_own_rule_ends_what_would_have_been_tried_for_days(
    sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    rule = await made(sender, words="mailbox closed", kind="hard", action="bounce", suppresses=True)
    relay.always("rcpt", sink.reply("450 4.2.0 Mailbox  closed"))
    email_id = await sending.send(sender, to="User@recipient.example")
    assert (await sending.resting(sender, email_id))["status"] == "bounced"
    relay.always("rcpt", None)
    hard = {"rule": rule["id"], "class": "hard", "suppresses": True}
    assert await said(sender, email_id) == [("email.bounced", hard)]
    assert [one["outcome"] for one in await sending.attempts(sender, email_id)] == ["bounced"]
    assert [one["address"] for one in await letters.listed(sender, "/suppressions")] == ["user@recipient.example"]


async def test_a_rule_has_no_say_over_connections_and_other_accounts(
    sending_house: house.House, sender: httpx2.AsyncClient, relay: sink.Sink
) -> None:
    """421 is about the connection (RFC 5321 3.8): a rule that ends mail must not end all of it."""
    await made(sender, code="4xx", kind="soft", action="bounce")
    relay.next("rcpt", sink.reply("421 4.3.2 closing", then_close=True))
    email_id = await sending.send(sender)
    assert (await sending.resting(sender, email_id))["status"] == "sent"
    async with sending_house.client((await sending_house.tenant()).key) as stranger:
        relay.next("rcpt", sink.reply("450 4.2.0 later"))
        theirs = await sending.send(stranger)
        assert (await sending.resting(stranger, theirs))["status"] == "sent"
