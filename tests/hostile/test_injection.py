"""No text, in any field of any way to send, makes a header, a recipient or a part: counted on the wire.

What leaves, as another reader sees it, is compared with what leaves when the same request says something harmless.
"""

from __future__ import annotations

import base64
import collections
import email.message
import email.policy
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx2
import pytest

from tests import house, sending
from tests.flows import letters
from tests.mail.test_compose import VECTORS
from tests.outbound import sink

pytestmark = pytest.mark.anyio

# A NUL or half a surrogate in it, and a body is refused as a whole (tests/web/test_reading.py).
TEXTS: Final = [text for text in VECTORS if text.isprintable() or not {"\0", "\udc0a"} & set(text)]
HARMLESS: Final = "abc"
FILE: Final = {"filename": "a.txt", "content": "YQ=="}
MARK: Final = "X-Case"  # says which request a message was
Json = dict[str, Any]
Shape = tuple[dict[str, int], tuple[str, ...], list[list[str]]]

FIELDS: Final[dict[str, Callable[[str], Json]]] = {
    "subject": lambda t: {"subject": t},
    "text": lambda t: {"text": t},
    "html": lambda t: {"html": t},
    "from's name": lambda t: {"from_": f"{t} <app@sender.example>"},
    "from's quoted name": lambda t: {"from_": f'"{t}" <app@sender.example>'},
    "from": lambda t: {"from_": f"{t}@sender.example"},
    "from's domain": lambda t: {"from_": f"app@{t}.example"},
    "to's name": lambda t: {"to": f"{t} <user@recipient.example>"},
    "to": lambda t: {"to": [f"{t}@recipient.example"]},
    "to's domain": lambda t: {"to": f"user@{t}.example"},
    "cc's name": lambda t: {"cc": [f'"{t}" <cc@recipient.example>']},
    "bcc's name": lambda t: {"bcc": f"{t} <bcc@recipient.example>"},
    "bcc": lambda t: {"bcc": f"{t}@recipient.example"},
    "reply_to's name": lambda t: {"reply_to": f"{t} <r@recipient.example>"},
    "a header": lambda t: {"headers": {"X-A": t}},
    "List-Unsubscribe": lambda t: {"headers": {"List-Unsubscribe": f"<https://a.example/{t}>"}},
    "In-Reply-To": lambda t: {"headers": {"In-Reply-To": f"<{t}@a.example>"}},
    "a file's name": lambda t: {"attachments": [FILE | {"filename": t}]},
    "a file's type": lambda t: {"attachments": [FILE | {"content_type": f"text/{t}"}]},
    "a file type's parameter": lambda t: {"attachments": [FILE | {"content_type": f'text/plain; a="{t}"'}]},
    "a file's id": lambda t: {"html": "<p>", "attachments": [FILE | {"content_id": t}]},
    "a message as a file": lambda t: {
        "attachments": [
            FILE | {"content_type": "message/rfc822", "content": base64.b64encode(f"A: {t}".encode()).decode()}
        ]
    },
    "a tag": lambda t: {"tags": [{"name": "a", "value": t}]},
    "metadata": lambda t: {"metadata": {"a": t}},
    "metadata's name": lambda t: {"metadata": {t: "a"}},
    "a topic": lambda t: {"unsubscribe": {"topic": t}},
    "a time": lambda t: {"scheduled_at": t},
    "a template's variable": lambda t: {"template": {"id": "", "variables": {"a": t, "b": HARMLESS}}, "text": None},
    "a template's subject": lambda t: {"template": {"id": "", "variables": {"a": HARMLESS, "b": t}}, "text": None},
}
NAMES: Final = "a header's name", lambda t: {"headers": {t: "a"}}


def shape(message: sink.Message) -> Shape:
    """How often there is each header, to whom it went, and each part's headers."""
    read = email.message_from_bytes(message.raw, policy=email.policy.compat32)
    names = collections.Counter(name.lower() for name in read.keys() if name != MARK)  # noqa: SIM118 - not a dict
    names.pop("content-transfer-encoding", None)  # of a text that is alone, by what it says
    return dict(names), message.recipients, [_kind(part) for part in read.walk()]


def _kind(part: email.message.Message) -> list[str]:
    return [part.get_content_maintype(), *sorted({name.lower() for name in part.keys()} & {"bcc", "x-evil"})]  # noqa: SIM118


def wished(template: str, share: int) -> Iterator[tuple[str, str, Json]]:
    """Field, text, and the request; the harmless ones first."""
    for text in [HARMLESS, *TEXTS]:
        for number, (field, make) in enumerate([*FIELDS.items(), NAMES]):
            if text == HARMLESS or (number + TEXTS.index(text)) % share == 0:
                changes = make(text)
                if "template" in changes:
                    changes["template"]["id"] = template
                    changes["subject"] = None
                yield field, text, changes


def marked(number: int, changes: Json) -> Json:
    headers = {**changes.get("headers", {}), MARK: f"case-{number}"}
    return sending.letter(**{**changes, "headers": headers})


def case_of(message: sink.Message) -> int:
    read = email.message_from_bytes(message.raw, policy=email.policy.compat32)
    [name] = read.get_all(MARK) or [""]
    return int(name.removeprefix("case-"))


@pytest.mark.parametrize("share", [16, pytest.param(1, marks=pytest.mark.faults)])
async def test_no_text_in_a_request_makes_a_header_a_recipient_or_a_part_on_the_wire(
    sender: httpx2.AsyncClient, relay: sink.Sink, share: int
) -> None:
    template = {"name": "n", "subject": "s {{ b }}", "html": "<p>{{ a }}</p>", "text": "t {{ a }}"}
    made = await sender.post("/templates", json=template)
    cases = list(wished(made.json()["id"], share))
    taken: list[int] = []
    for start in range(0, len(cases), 500):
        part = [marked(number, changes) for number, (_, _, changes) in enumerate(cases[start : start + 500], start)]
        answer = await sender.post("/emails/batch", json=part, headers={"x-batch-validation": "permissive"})
        assert answer.status_code == 202, answer.text
        refused = {start + problem["index"] for problem in answer.json().get("errors") or ()}
        taken += [number for number in range(start, start + len(part)) if number not in refused]
    scheduled = {number for number in taken if cases[number][0] == "a time"}
    count = sum(1 + bool({"cc", "bcc"} & set(cases[number][2])) for number in taken if number not in scheduled)
    await relay.until(lambda: len(relay.messages) >= count)
    shapes: dict[int, Shape] = {}
    for message in relay.messages:  # one for each recipient
        names, recipients, kinds = shape(message)
        others = shapes.get(case_of(message), (names, (), kinds))
        assert (names, kinds) == (others[0], others[2])
        shapes[case_of(message)] = names, tuple(sorted((*recipients, *others[1]))), kinds
    harmless = {field: number for number, (field, text, _) in enumerate(cases) if text == HARMLESS}
    intended = {field: shapes[number] for field, number in harmless.items() if number in shapes}
    for number, found in shapes.items():
        field, text, _ = cases[number]
        names, recipients, kinds = found
        if field in ("from", "from's domain", "to", "to's domain", "bcc", NAMES[0]):
            assert len(recipients) == len(intended[field][1]), (field, text)
            assert names.keys() - {text.lower()} <= intended[field][0].keys() | {"x-a"}, (field, text)
        elif field == "a message as a file":  # which may hold any header, and is a mere file where it must be encoded
            assert found[:2] == intended[field][:2], (field, text)
            kinds = kinds[:2]
        else:
            assert found == intended[field], (field, text)
        assert not any(kind[1:] for kind in kinds), (field, text)
        assert "bcc" not in names
    assert len(taken) < len(cases)
    assert {"subject", "text", "metadata"} <= {cases[number][0] for number in shapes}


def original(text: str, file: str) -> bytes:
    """A mail whose every field says `text`, encoded as mail can say anything."""
    word = f"=?utf-8?b?{base64.b64encode(text.encode()).decode()}?="
    folded = word if len(word) < 900 else "abc"
    quoted = "".join(f"%{octet:02X}" for octet in text.encode()[:200])
    return (
        f"From: {folded} <friend@elsewhere.example>\r\nReply-To: {folded} <friend@elsewhere.example>\r\n"
        f"To: {folded} <box@postroom.test>\r\nSubject: {folded}\r\nMessage-ID: <{folded}@elsewhere.example>\r\n"
        f"References: <a@b.example> <{folded}>\r\nDate: Mon, 01 Jan 2024 00:00:00 +0000\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/mixed; boundary="x"\r\n\r\n--x\r\n'
        "Content-Type: text/html; charset=utf-8\r\n\r\nhi\r\n"
        f"--x\r\nContent-Type: text/plain; name*=utf-8''{quoted}\r\nContent-ID: <{folded}>\r\n"
        f"Content-Disposition: attachment; filename*=utf-8''{quoted or file}\r\n\r\nfile\r\n--x--\r\n"
    ).encode()


@pytest.mark.parametrize("share", [8, pytest.param(1, marks=pytest.mark.faults)])
async def test_what_strangers_wrote_makes_no_header_in_a_reply_or_a_forward(
    sending_house: house.House, sender: httpx2.AsyncClient, relay: sink.Sink, share: int
) -> None:
    """CVE-2024-6923's way: encoded words that hold line ends, in a mail that is answered and passed on."""
    texts = [HARMLESS, *TEXTS[::share]]
    box = await letters.mailbox(sender)
    expected: list[tuple[str, str]] = []
    for text in texts:
        await letters.hand_in(
            sending_house, original(text, HARMLESS), box["address"], sender="friend@elsewhere.example"
        )
        skip = ",".join(id for id, _ in expected)
        message = (await sender.get(f"/mailboxes/{box['id']}/wait", params={"skip": skip} if skip else None)).json()
        expected.append((message["message"]["id"], text))
    shapes: dict[tuple[str, str], list[Any]] = collections.defaultdict(list)
    for id, text in expected:
        wishes = {
            "reply": {"text": text},
            "forward": {"to": f"{text} <other@elsewhere.example>", "text": text},
            "forward again": {"to": "other@elsewhere.example"},
        }
        for way, body in wishes.items():
            before = len(relay.messages)
            answer = await sender.post(f"/messages/{id}/{way.split()[0]}", json=body)
            assert answer.status_code in (202, 422), (way, text, answer.text)
            if answer.status_code == 202:
                await relay.until(lambda before=before: len(relay.messages) > before)  # type: ignore[misc] # bound now
                shapes[way, text].append(shape(relay.messages[-1]))
    for (way, text), found in shapes.items():
        [(names, recipients, kinds)] = found
        usual, to, _ = shapes[way, HARMLESS][0]
        assert recipients == to, (way, text)
        assert all(count == 1 for count in names.values()), (way, text, names)
        assert names.keys() <= usual.keys() | {"references", "in-reply-to"}, (way, text)
        assert not any(kind[1:] for kind in kinds), (way, text)
    assert len(shapes) > 2 * len(texts)


async def test_a_line_end_in_what_a_provider_hands_in_makes_no_header(client: httpx2.AsyncClient) -> None:
    """Paths are said in the query there; they are addresses or refused, and the mail is what came."""
    box = await letters.mailbox(client)
    raw = b"Subject: s\r\n\r\nt\r\n"
    kind = {"Content-Type": "message/rfc822"}
    for text in itertools.islice(TEXTS, 0, None, 3):
        for query in (
            {"mail_from": f"{text}@a.example", "rcpt_to": box["address"]},
            {"mail_from": "a@a.example", "rcpt_to": f"{text}{box['address']}"},
        ):
            answer = await client.post("/inbound/raw", params=query, content=raw, headers=kind)
            assert answer.status_code in (200, 201, 202, 422), (query, answer.text)
    for message in await letters.listed(client, f"/mailboxes/{box['id']}/messages"):
        assert (await client.get(f"/messages/{message['id']}/raw")).content == raw
