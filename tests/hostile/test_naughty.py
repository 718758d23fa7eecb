"""Texts and JSON as attackers write them, wherever any is taken: never a 5xx, and what is taken stays as it is."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

import httpx2
import pytest

from tests import house
from tests.flows import letters, test_keys
from tests.flows.test_mailboxes import MISSING
from tests.hostile.naughty import STRINGS
from tests.web.test_reading import INVALID_JSON

pytestmark = pytest.mark.anyio

AT_ONCE: Final = 8
MAIL: Final = {"from": "me@postroom.test", "to": "x@elsewhere.example", "subject": "s", "text": "t"}
HOOK: Final = {"url": "http://127.0.0.1:9/", "types": ["mailbox.deleted"]}
Json = dict[str, Any]
Read = Callable[[Json], Any]


async def operations(home: house.House) -> list[tuple[str, str, Json]]:
    """Every operation: method, path below /v1, description."""
    async with httpx2.AsyncClient(base_url=home.url, verify=house.NOBODY) as anybody:
        document = (await anybody.get("/openapi.json")).json()
    return [
        (method.upper(), path.removeprefix("/v1"), described)
        for path, methods in document["paths"].items()
        for method, described in methods.items()
    ]


async def each(client: httpx2.AsyncClient, asked: Iterator[tuple[Any, Json]]) -> list[tuple[Any, httpx2.Response]]:
    """What is answered to each request, a few at once; none of it a 5xx."""
    found = []

    async def ask() -> None:
        for what, request in asked:
            answer = await client.request(**request)
            assert answer.status_code < 500, (what, answer.status_code, answer.text[:300])
            found.append((what, answer))

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(ask())
    return found


# JSON


@pytest.mark.parametrize("share", [12, pytest.param(1, marks=pytest.mark.faults)])
async def test_what_is_not_json_is_400_wherever_a_body_is_taken(
    shared_house: house.House, client: httpx2.AsyncClient, share: int
) -> None:
    """No operation reads JSON in a way of its own; of those of tests/web/test_reading.py each is sent somewhere."""
    bodies = [
        (method, test_keys.PARAMETER.sub(MISSING, path))
        for method, path, described in await operations(shared_house)
        if "application/json" in described.get("requestBody", {}).get("content", {})
        and (method, path) not in test_keys.PUBLIC
    ]
    vectors = list(INVALID_JSON.items())

    def asked() -> Iterator[tuple[Any, Json]]:
        for number, (method, path) in enumerate(bodies):
            for name, content in vectors[number % share :: share]:
                yield (method, path, name), {"method": method, "url": path, "content": content}

    for what, answer in await each(client, asked()):
        is_empty = what[2] == "empty" and answer.status_code in (200, 201, 404, 422)  # where nothing need be said
        assert is_empty or (answer.status_code, answer.json()["name"]) == (400, "invalid_json"), (what, answer.text)
    assert len(bodies) > 20


# Texts

# What takes a text: how it is made with one, and where that is found in the answer; None: it may be put another way.
PLACES: Final[Mapping[str, tuple[str, str, Callable[[str], Any], Read | None]]] = {
    "mailbox": ("POST", "/mailboxes", lambda t: {"local_part": t}, None),
    "mailbox's address": ("POST", "/mailboxes", lambda t: {"address": t}, None),
    "mailbox's domain": ("POST", "/mailboxes", lambda t: {"domain": t}, None),
    "metadata": (
        "POST",
        "/mailboxes",
        lambda t: {"metadata": {"a": [t], "b": {t: 1}}},
        lambda m: m["metadata"]["a"][0],
    ),
    "key": ("POST", "/api-keys", lambda t: {"name": t, "scopes": ["read"]}, lambda m: m["name"]),
    "key's domain": ("POST", "/api-keys", lambda t: {"name": "k", "scopes": ["read"], "domains": [t]}, None),
    "webhook": ("POST", "/webhooks", lambda t: {**HOOK, "url": t}, None),
    "webhook's path": ("POST", "/webhooks", lambda t: {**HOOK, "url": f"http://127.0.0.1:9/{t}"}, None),
    "webhook's type": ("POST", "/webhooks", lambda t: {**HOOK, "types": [t]}, None),
    "webhook's mailbox": ("POST", "/webhooks", lambda t: {**HOOK, "mailbox": t}, None),
    "template": ("POST", "/templates", lambda t: {"name": t, "subject": "s", "text": "t"}, lambda m: m["name"]),
    "template's subject": (
        "POST",
        "/templates",
        lambda t: {"name": "n", "subject": t, "text": "t"},
        lambda m: m["subject"],
    ),
    "template's text": ("POST", "/templates", lambda t: {"name": "n", "subject": "s", "text": t}, lambda m: m["text"]),
    "template's html": ("POST", "/templates", lambda t: {"name": "n", "subject": "s", "html": t}, lambda m: m["html"]),
    "suppression": ("POST", "/suppressions", lambda t: {"address": t}, None),
    "suppression's reason": ("POST", "/suppressions", lambda t: {"address": "a@b.example", "reason": t}, None),
    "domain": ("POST", "/domains", lambda t: {"name": t}, None),
    "domain's catch-all": ("POST", "/domains", lambda t: {"name": "a.example", "catch_all": t}, None),
    "rule's words": ("POST", "/bounces/rules", lambda t: {"words": t, "kind": "policy"}, None),
    "rule's note": (
        "POST",
        "/bounces/rules",
        lambda t: {"words": "full", "kind": "policy", "note": t},
        lambda m: m["note"],
    ),
    "reply to classify": ("POST", "/bounces/classify", lambda t: {"reply": t}, None),
    "bounce to classify": ("POST", "/bounces/classify", lambda t: {"dsn": t}, None),
    "e-mail": ("POST", "/emails", lambda t: {**MAIL, "text": t}, lambda m: m["text"]),
    "e-mail's html": ("POST", "/emails", lambda t: {**MAIL, "html": t}, lambda m: m["html"]),
    "e-mail's subject": ("POST", "/emails", lambda t: {**MAIL, "subject": t}, lambda m: m["subject"]),
    "sender": ("POST", "/emails", lambda t: {**MAIL, "from": t}, None),
    "sender's name": ("POST", "/emails", lambda t: {**MAIL, "from": f"{t} <me@postroom.test>"}, None),
    "recipient": ("POST", "/emails", lambda t: {**MAIL, "to": [t]}, None),
    "blind copy": ("POST", "/emails", lambda t: {**MAIL, "bcc": t}, None),
    "e-mail's metadata": ("POST", "/emails", lambda t: {**MAIL, "metadata": {"a": t}}, lambda m: m["metadata"]["a"]),
    "tag": (
        "POST",
        "/emails",
        lambda t: {**MAIL, "tags": [{"name": "a", "value": t}]},
        lambda m: m["tags"][0]["value"],
    ),
    "time": ("POST", "/emails", lambda t: {**MAIL, "scheduled_at": t}, None),
    "topic": ("POST", "/emails", lambda t: {**MAIL, "unsubscribe": {"topic": t}}, None),
    "header": ("POST", "/emails", lambda t: {**MAIL, "headers": {"X-A": t}}, None),
    "header's name": ("POST", "/emails", lambda t: {**MAIL, "headers": {t: "a"}}, None),
    "file's name": ("POST", "/emails", lambda t: {**MAIL, "attachments": [{"filename": t, "content": "YQ=="}]}, None),
    "file": ("POST", "/emails", lambda t: {**MAIL, "attachments": [{"filename": "a", "content": t}]}, None),
    "variable": ("POST", "/templates/{id}/render", lambda t: {"variables": {"a": t}}, None),
}
IN_PATHS: Final = {  # where an accepted one is read again
    "/mailboxes": "/mailboxes",
    "/api-keys": "/api-keys",
    "/templates": "/templates",
    "/bounces/rules": "/bounces/rules",
    "/emails": "/emails",
}


def same(place: str, read: str, given: str) -> bool:
    """Line ends of mail are one kind; and a body that is not given is made of the other."""
    if place.startswith("e-mail") and place != "e-mail's metadata":
        return read == given or (read or "").replace("\r\n", "\n").rstrip("\n") == given.replace("\r\n", "\n").replace(
            "\r", "\n"
        ).rstrip("\n")
    return read == given


@pytest.mark.parametrize("share", [35, pytest.param(1, marks=pytest.mark.faults)])
async def test_a_naughty_text_is_refused_or_stays_as_it_is(
    shared_house: house.House, client: httpx2.AsyncClient, share: int
) -> None:
    """Each text is in one place at least, and each place has `1/share` of them."""
    template = await client.post("/templates", json={"name": "n", "subject": "s", "text": "{{ a }}"})
    places = list(PLACES.items())

    def asked() -> Iterator[tuple[Any, Json]]:
        for number, (name, (method, path, body, _)) in enumerate(places):
            for text in STRINGS[number % share :: share]:
                url = path.replace("{id}", template.json()["id"])
                yield (name, path, text), {"method": method, "url": url, "json": body(text)}

    taken = []
    for (name, path, text), answer in await each(client, asked()):
        assert answer.status_code < 300 or answer.status_code in (403, 409, 422, 429), (
            name,
            text[:80],
            answer.text[:300],
        )
        read = PLACES[name][3]
        if answer.status_code < 300 and read is not None:
            taken.append((name, path, text, read, answer.json()["id"]))
    requests = ((one, {"method": "GET", "url": f"{IN_PATHS[one[1]]}/{one[4]}"}) for one in taken)
    for (name, _, text, read, _), answer in await each(client, requests):
        assert answer.status_code == 200, (name, answer.text[:200])
        assert same(name, read(answer.json()), text), (name, text[:80], read(answer.json()))
    assert len({name for name, *_ in taken}) >= (8 if share > 1 else 12)


@pytest.mark.parametrize("share", [120, pytest.param(4, marks=pytest.mark.faults)])
async def test_a_naughty_text_in_a_query_or_a_path_is_refused_or_finds_nothing(
    shared_house: house.House, client: httpx2.AsyncClient, share: int
) -> None:
    box = await letters.mailbox(client)
    reads = [one for one in await operations(shared_house) if one[0] == "GET"]
    numbers = itertools.count()

    def asked() -> Iterator[tuple[Any, Json]]:
        for method, path, described in reads:
            at = test_keys.PARAMETER.sub(box["id"] if path.startswith("/mailboxes") else MISSING, path)
            names = [one["name"] for one in described.get("parameters", ()) if one["in"] == "query"]
            short = {name: "0" for name in ("wait", "timeout") if name in names}
            for name in names:
                for text in STRINGS[next(numbers) % share :: share]:
                    url = f"{at}?{name}={quote(text[:2000], safe='')}"
                    rest = "".join(f"&{other}={value}" for other, value in short.items() if other != name)
                    if name not in short:
                        yield (path, name, text), {"method": method, "url": url + rest}
            for text in STRINGS[next(numbers) % share :: share] if "{" in path else ():
                inside = test_keys.PARAMETER.sub(quote(text[:2000], safe=""), path)
                yield (path, "path", text), {"method": method, "url": inside, "params": short or None}

    statuses = {answer.status_code for _, answer in await each(client, asked())}
    assert statuses <= {200, 404, 405, 408, 410, 422}
    assert {200, 404, 422} <= statuses


async def test_emoji_and_all_scripts_pass_through_a_mail_and_a_search(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    said = "Grüße 😀👩\u200d👩\u200d👧 田中 العربية ½ e\u0301"
    box = await letters.mailbox(client)
    answer = await client.post("/emails", json={**MAIL, "to": box["address"], "subject": said, "text": said})
    assert answer.status_code == 202, answer.text
    whole = (await client.get(f"/mailboxes/{box['id']}/wait")).json()["message"]
    assert whole["subject"] == said
    assert whole["text"].strip() == said
