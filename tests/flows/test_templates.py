"""Templates by API: made, checked, previewed, changed, and e-mails made of them."""

from __future__ import annotations

import email
import email.policy
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests import house, sending
from tests.flows import letters
from tests.flows.test_mailboxes import refused
from tests.outbound import sink

pytestmark = pytest.mark.anyio

WELCOME = {
    "name": "welcome",
    "subject": "Hello {{ who }}",
    "html": "<p>Hello {{ who }}, {{ n }} times</p>",
    "variables": {"who": {"required": True}, "n": {"type": "number", "default": 2}},
}
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


async def made(client: httpx2.AsyncClient, **changes: Any) -> dict[str, Any]:
    answer = await client.post("/templates", json=WELCOME | changes)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def preview(client: httpx2.AsyncClient, template_id: str, **variables: Any) -> httpx2.Response:
    return await client.post(f"/templates/{template_id}/render", json={"variables": variables})


def fields(answer: httpx2.Response) -> list[str]:
    return [error["field"] for error in refused(answer, 422, "validation_error")["errors"]]


async def test_a_template_is_made_read_changed_and_deleted(client: httpx2.AsyncClient) -> None:
    found = await made(client)
    assert found["variables"]["who"] == {"type": "string", "required": True, "default": None}
    assert (await client.get(f"/templates/{found['id']}")).json() == found
    other = await made(client, name="other")
    assert await letters.listed(client, "/templates") == [other, found]
    assert await letters.listed(client, "/templates", order="asc") == [found, other]
    changed = await client.patch(f"/templates/{found['id']}", json={"html": None, "text": "Hi {{ who }}"})
    assert changed.json() == found | {"html": None, "text": "Hi {{ who }}", "updated_at": changed.json()["updated_at"]}
    assert (await client.delete(f"/templates/{found['id']}")).status_code == 204
    for answer in (
        await client.get(f"/templates/{found['id']}"),
        await client.delete(f"/templates/{found['id']}"),
        await preview(client, found["id"]),
    ):
        refused(answer, 404, "not_found")


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"html": "a\n{% if %}"}, "html", "html: line 2: Expected an expression, got 'end of statement block'"),
        (
            {"html": "{% include 'x' %}"},
            "html",
            "html: line 1: include, import and extends are not for templates of mail",
        ),
        ({"subject": "{{ nobody }}"}, "subject", "subject: line 1: the variable nobody is not declared"),
        ({"html": "x" * 262_145}, "html", None),
        ({"variables": {"0": {}}}, "variables.0", None),
        ({"variables": {"n": {"type": "date"}}}, "variables.n.type", None),
    ],
)
async def test_a_wrong_template_is_refused_when_it_is_made_and_when_it_is_changed(
    client: httpx2.AsyncClient, changes: dict[str, Any], field: str, message: str | None
) -> None:
    right = await made(client)
    for answer in (
        await client.post("/templates", json=WELCOME | changes),
        await client.patch(f"/templates/{right['id']}", json=changes),
    ):
        assert fields(answer) == [field]
        assert message in (None, answer.json()["message"])
    assert await letters.listed(client, "/templates") == [right]


async def test_a_template_says_something(client: httpx2.AsyncClient) -> None:
    wish = {name: value for name, value in WELCOME.items() if name != "html"}
    refused(await client.post("/templates", json=wish), 422, "missing_required_field")


async def test_a_preview_shows_what_would_be_said(client: httpx2.AsyncClient) -> None:
    found = await made(client)
    answer = await preview(client, found["id"], who="<Ann>")
    text = "Hello <Ann>, 2 times"
    assert answer.json() == {
        "subject": "Hello <Ann>",
        "html": f"<p>{text}</p>".replace("<Ann>", "&lt;Ann&gt;"),
        "text": text,
    }
    assert fields(await preview(client, found["id"])) == ["variables.who"]
    assert fields(await preview(client, found["id"], who=1)) == ["variables.who"]
    assert fields(await preview(client, found["id"], who="a", typo=1)) == ["variables.typo"]
    assert fields(await preview(client, found["id"], who="a\r\nBcc: b@c.example")) == ["subject"]


async def test_the_same_idempotency_key_makes_one_template(client: httpx2.AsyncClient) -> None:
    answers = [await client.post("/templates", json=WELCOME, headers={"Idempotency-Key": "once"}) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert len(await letters.listed(client, "/templates")) == 1


# E-mails


async def test_an_email_says_what_its_template_says(sender: httpx2.AsyncClient, relay: sink.Sink) -> None:
    found = await made(sender)
    use = {"id": found["id"], "variables": {"who": "Zoë", "n": 3}}
    email_id = await sending.send(sender, template=use, text=None, subject=None)
    await sending.resting(sender, email_id)
    mail = email.message_from_bytes(relay.messages[0].raw, policy=email.policy.default)
    plain, rich = mail.get_body(("plain",)), mail.get_body(("html",))
    assert plain is not None
    assert rich is not None
    assert mail["Subject"] == "Hello Zoë"
    assert (plain.get_content().strip(), rich.get_content().strip()) == (
        "Hello Zoë, 3 times",
        "<p>Hello Zoë, 3 times</p>",
    )
    own = await sending.send(sender, template=use, text=None, subject="Mine")
    assert (await sending.resting(sender, own))["subject"] == "Mine"


async def test_a_template_stands_alone_and_must_fit(shared_house: house.House, client: httpx2.AsyncClient) -> None:
    found = await made(client)
    async with shared_house.client((await shared_house.tenant()).key) as other:
        theirs = await made(other)
    use = {"id": found["id"], "variables": {"who": "a"}}
    wishes: list[tuple[str, dict[str, Any]]] = [
        ("text", {"template": use}),
        ("html", {"template": use, "text": None, "html": "<p>x</p>"}),
        ("template.variables.who", {"template": {"id": found["id"]}, "text": None}),
        ("template.id", {"template": {"id": str(uuid4())}, "text": None}),
        ("template.id", {"template": {"id": theirs["id"]}, "text": None}),
        ("template.subject", {"template": {"id": found["id"], "variables": {"who": "a\nb"}}, "text": None}),
    ]
    for field, changes in wishes:
        assert fields(await client.post("/emails", json=sending.letter(**changes))) == [field]
        batch = [sending.letter(), sending.letter(**changes)]
        assert fields(await client.post("/emails/batch", json=batch)) == [f"[1].{field}"]
    no_subject = sending.letter(subject=None)
    body = refused(await client.post("/emails", json=no_subject), 422, "missing_required_field")
    assert [error["field"] for error in body["errors"]] == ["subject"]
    assert await letters.listed(client, "/emails") == []


async def test_a_batch_takes_templates_and_leaves_out_those_that_do_not_fit(client: httpx2.AsyncClient) -> None:
    found = await made(client)
    batch = [
        sending.letter(template={"id": found["id"], "variables": variables}, text=None, subject=None)
        for variables in ({"who": "a"}, {}, {"who": "c"})
    ]
    answer = await client.post("/emails/batch", json=batch, headers={"x-batch-validation": "permissive"})
    assert answer.json()["errors"] == [{"index": 1, "message": "template.variables.who: required"}]
    subjects = [one["subject"] for one in await letters.listed(client, "/emails", order="asc")]
    assert sorted(subjects) == ["Hello a", "Hello c"]


async def test_a_repeated_call_is_answered_though_its_template_has_gone(client: httpx2.AsyncClient) -> None:
    """Negative control: with no `Emails._as_before`, the repeated call was answered with 422, and the test failed."""
    found = await made(client)
    wish = sending.letter(template={"id": found["id"], "variables": {"who": "a"}}, text=None)
    calls = {"/emails": wish, "/emails/batch": [wish]}
    headers = {"Idempotency-Key": "once"}
    first = {path: await client.post(path, json=body, headers=headers) for path, body in calls.items()}
    await client.delete(f"/templates/{found['id']}")
    for path, body in calls.items():
        again = await client.post(path, json=body, headers=headers)
        assert (again.status_code, again.json()) == (202, first[path].json())
        assert again.headers["idempotent-replayed"] == "true"
    other = {"template": {"id": found["id"], "variables": {"who": "b"}}}
    refused(await client.post("/emails", json=wish | other, headers=headers), 409, "invalid_idempotent_request")


async def test_an_endless_template_is_given_up(client: httpx2.AsyncClient) -> None:
    found = await made(client, html=ENDLESS, variables={})
    assert fields(await preview(client, found["id"], who="a")) == ["html"]
    answer = await client.post(
        "/emails", json=sending.letter(template={"id": found["id"], "variables": {"who": "a"}}, text=None)
    )
    assert fields(answer) == ["template.html"]
