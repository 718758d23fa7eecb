"""Mail made to break parsers, indexes and databases, all of it at once with good mail: each is stored as it came and
can be read, nothing fails for it, and whoever reads on afterwards comes to the end.

How long each may be worked on is not measured here: what takes more than two seconds is done by a child that is killed.
"""

from __future__ import annotations

import asyncio
import io
import random
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import httpx2
import pytest

from tests import house
from tests.flows import letters

pytestmark = pytest.mark.anyio

HEAD: Final = b"From: a@b.example\r\nSubject: poison\r\n"
AT_ONCE: Final = 3
Mails = Callable[[], Mapping[str, bytes]]
READ_DEEPLY: Final = 12  # of the smaller ones, also answered and made harmless


def _chinese(seed: int, count: int = 15_900) -> str:
    dice = random.Random(seed)
    return "".join(chr(dice.randrange(0x4E00, 0x9FFF)) for _ in range(count))


def _chinese_all_over() -> bytes:
    """More distinct words than a row of the index takes."""
    sender, recipient, subject, text = map(_chinese, range(4))
    header = f"From: {sender} <a@b.example>\r\nTo: {recipient} <c@d.example>\r\nSubject: {subject}\r\n"
    return f"{header}\r\n{text}\r\n".encode()


def _nested(depth: int) -> bytes:
    opened = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(depth))
    return HEAD + opened + b"\r\nx\r\n"


def _attached(depth: int) -> bytes:
    return HEAD + b"Content-Type: message/rfc822\r\n\r\n" * depth + b"\r\nx\r\n"


def _zip_bomb() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(20_000_000))
    label = b'Content-Type: application/zip\r\nContent-Disposition: attachment; filename="../../a.zip"\r\n\r\n'
    return HEAD + label + packed.getvalue()


def _typed(label: str, body: bytes) -> bytes:
    return HEAD + f"Content-Type: {label}\r\n\r\n".encode() + body


def _codecs() -> dict[str, bytes]:
    names = (
        "punycode",
        "idna",
        "zlib",
        "bz2_codec",
        "hex",
        "rot13",
        "base64_codec",
        "unicode_escape",
        "undefined",
        "utf-7",
    )
    return {f"charset {name}": _typed(f'text/plain; charset="{name}"', b"x\x9c\\ud800+2AA-" * 3000) for name in names}


def _poison() -> Mapping[str, bytes]:
    """What no database takes, or what its limits are written for."""
    return {
        "nothing": b"",
        "a NUL": b"\0",
        "no lines": b"\xff\xfe" * 100,
        "NUL in a header": b"From: a\0@b.x\r\nTo: \0 <\0@\0>\r\nSubject: a\0b\r\nMessage-ID: <\0@x>\r\n\r\n\0\r\n",
        "NUL encoded": HEAD
        + b"Subject: =?utf-8?b?AAAA?= =?utf-8?q?=00=ED=A0=80?=\r\nX-A: =?utf-7?q?+2AA-?=\r\n\r\n\\u0000\r\n",
        "surrogates": b"Subject: \xed\xa0\x80\xed\xb0\x80\r\nMessage-ID: <\xed\xa0\x80@x>\r\n\r\n\xed\xa0\x80",
        "surrogates in UTF-16": _typed("text/html; charset=utf-16", b"\xd8\x00\xd8\x00"),
        "NUL in names of files": _typed("application/x; name*=utf-16''%00%D8%00", b"x").replace(b"x;", b"x\0\xff;"),
        "a subject of 200 KB": b"Subject: " + b"x" * 200_000 + b"\r\n\r\nx\r\n",
        "numbers too big": HEAD + b"X-Metadata: 1e400000\r\n\r\nYour code is " + b"9" * 50_000 + b" or 1e999999\r\n",
        "10,000 codes": HEAD + b"\r\n" + b"".join(b"Your code is %06d\r\n" % (n * 97) for n in range(10_000)),
        "10,000 links": HEAD + b"\r\n" + b"".join(b"https://x.example/verify/%d\r\n" % n for n in range(10_000)),
        "an id of 50 KB": HEAD
        + b"Message-ID: <"
        + b"x" * 50_000
        + b"@x>\r\nReferences: "
        + b"<y@x>" * 5000
        + b"\r\n\r\nx",
        "ids that are none": HEAD + b"Message-ID: <<<<\r\nIn-Reply-To: <>>\r\nReferences: <\r\n\r\nx\r\n",
        "dates that are none": HEAD + b"Date: Mon, 99 Foo 99999 99:99:99 +9999\r\n\r\nx",
        "the beginning of time": HEAD + b"Date: 1 Jan 0001 00:00:00 +2359\r\n\r\nx",
        "the end of time": HEAD + b"Date: Fri, 31 Dec 9999 23:59:59 -9959\r\n\r\nx",
        "words of more than 1 MiB": _chinese_all_over(),
        "letters that grow": ("Subject: " + "\ufdfa\ufdfb\u33c2" * 5000 + "\r\n\r\n" + "\ufdfa" * 16_000).encode(),
        "what a tsvector quotes": HEAD + b"Message-ID: <'\\\\'@x>\r\n\r\n' \\ '' \\' :* & | ! <-> ( :1A 'a':1,2\r\n",
        "999 recipients with names": b"To: "
        + b", ".join(b"N%d <u@%d.example>" % (n, n) for n in range(999))
        + b"\r\n\r\nx",
        "brackets without end": b"From: "
        + b"(" * 20_000
        + b"\r\nTo: "
        + b"<" * 20_000
        + b'\r\nCc: "'
        + b"\\" * 20_001
        + b"\r\n\r\n",
    }


def _bombs() -> Mapping[str, bytes]:
    """What keeps parsers busy."""
    return {
        "50,000 encoded words": b"Subject: " + b" ".join([b"=?utf-8?q?a?="] * 50_000) + b"\r\n\r\nx\r\n",
        "10,000 parts": _typed("multipart/mixed; boundary=b", b"--b\r\n\r\n\r\n" * 10_000),
        "50,000 parameters": _typed("text/plain" + "; a=b" * 50_000, b"x\r\n"),
        "5,000 continuations": _typed("x/y" + "".join(f"; name*{n}*=a" for n in range(5000)), b"x\r\n"),
        "1,000 deep": _nested(1000),
        "300 mails in mails": _attached(300),
        "one boundary in another": _typed(
            "multipart/mixed; boundary=b", b"--b\r\nContent-Type: multipart/x; boundary=bb\r\n\r\n" * 500
        ),
        "an archive of zeros": _zip_bomb(),
        "uuencode": HEAD + b"\r\nbegin 644 ../../etc/passwd\r\n" + b"M" * 61 + b"\r\n`\r\nend\r\nbegin 644 \r\n" * 200,
        "base64 of anything": _typed("x/y\r\nContent-Transfer-Encoding: base64", b"=\0*AAA\r\n" * 20_000),
        "quoted-printable of ends": _typed(
            "text/plain\r\nContent-Transfer-Encoding: quoted-printable", b"=\r\n" * 60_000
        ),
        "20,000 divs deep": _typed("text/html", b"<div>" * 20_000 + b"<b>x"),
        "brackets of HTML": _typed("text/html", b"<" * 50_000 + b"<!--" * 5000 + b"&#x110000;&#0;&" * 1000),
        "a label of 64 KB": _typed("text/plain; charset=" + "x" * 65_536, b"\xff\r\n"),
        **_codecs(),
    }


def _huge() -> Mapping[str, bytes]:
    """The same, too big for every day."""
    return {
        "a header of 10 MB": HEAD + b"X-Filler: " + b"x" * 10_000_000 + b"\r\n\r\nx\r\n",
        "1,000,000 fields": HEAD + b"A: b\r\n" * 1_000_000 + b"\r\nx\r\n",
        "a subject of 10 MB": b"Subject: " + b"=?utf-8?b?AAAA?= " * 600_000 + b"\r\n\r\nx\r\n",
        "20 MB of one line": HEAD + b"\r\n" + b"<a href=" * 2_500_000 + b"\r\n",
        **{f"{n} parts": _typed("multipart/x; boundary=b", b"--b\r\n\r\n\r\n" * n) for n in (100_000, 1_000_000)},
        "3,000 deep": _nested(3000),
        "2,000,000 empty lines": HEAD + b"\r\n" * 2_000_000,
    }


async def _handed_in(home: house.House, mails: Mapping[str, bytes], address: str) -> dict[str, str]:
    """Receipt ids by name; each mail is followed by a good one."""
    slots, receipts = asyncio.Semaphore(AT_ONCE), dict[str, str]()

    async def give(name: str, raw: bytes) -> None:
        async with slots:
            receipts[name] = await letters.hand_in(home, raw if raw.endswith(b"\r\n") else raw + b"\r\n", address)

    async with asyncio.TaskGroup() as group:
        for number, (name, raw) in enumerate(mails.items()):
            group.create_task(give(name, raw))
            group.create_task(give(f"good {number}", letters.letter(f"good {number}", "Wholesome.")))
    return receipts


async def _messages(client: httpx2.AsyncClient, mailbox_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": 200}
    while True:
        answer = await client.get(f"/mailboxes/{mailbox_id}/messages", params=query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["data"]
        if not page["has_more"]:
            return found
        query["cursor"] = page["next_cursor"]


async def _read(client: httpx2.AsyncClient, message_id: str, *, deeply: bool) -> tuple[dict[str, Any], bytes]:
    """A message in all its forms, none of which is an error of ours."""
    here = f"/messages/{message_id}"
    shown, raw = await client.get(here), await client.get(f"{here}/raw")
    assert (shown.status_code, raw.status_code) == (200, 200), shown.text
    message: dict[str, Any] = shown.json()
    for form in ("text", "html", "transcript"):
        assert (await client.get(f"{here}/{form}")).status_code in {200, 404}
    cut = await client.get(f"{here}/attachments/0")  # 503: not now, the children that cut are busy, or it took too long
    assert cut.status_code in {200, 404} or (cut.status_code == 503 and message["parse"] != "ok")
    if deeply:
        assert (await client.get(f"{here}/html", params={"sanitized": "1"})).status_code in {200, 404}
        forwarded = await client.post(f"{here}/forward", json={"to": "user@recipient.example"})
        answered = await client.post(f"{here}/reply", json={"text": "Thanks.", "reply_all": True})
        assert forwarded.status_code in {202, 422}, forwarded.text
        assert answered.status_code in {202, 422}, answered.text
    return message, raw.content


async def _indexed(home: house.House, account_id: object) -> None:
    """Until the worker has read everything."""
    behind = (
        "select exists (select 1 from messages m left join indexing i using (account_id)"
        " where m.account_id = $1 and m.seq > coalesce(i.indexed_seq, 0))"
    )
    async with asyncio.timeout(120), letters.sql(home) as connection:
        while await connection.fetchval(behind, account_id):  # noqa: ASYNC110 - another process's doings
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "made",
    [
        pytest.param((_poison, _bombs), id="every day"),
        pytest.param((_huge,), id="huge", marks=pytest.mark.faults),
    ],
)
async def test_hostile_mail_is_stored_as_it_came_and_holds_up_nobody(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient, made: Sequence[Mails]
) -> None:
    """With the words of a message not counted before they are indexed, the worker never came to its end."""
    mails = {name: raw for make in made for name, raw in make().items()}
    box = await letters.mailbox(client)
    receipts = await _handed_in(shared_house, mails, box["address"])
    listed = await _messages(client, box["id"])
    assert len(listed) == 2 * len(mails)
    names = {receipt: name for name, receipt in receipts.items()}
    deep = sorted(mails, key=lambda name: len(mails[name]))[:READ_DEEPLY]
    for summary in listed:
        if summary["subject"].startswith("good "):
            continue
        message, raw = await _read(client, summary["id"], deeply=False)
        name = names[message["envelope"]["receipt_id"]]
        assert raw.removesuffix(b"\r\n") == mails[name].removesuffix(b"\r\n"), name
        assert message["parse"] in {"ok", "repaired", "raw_only"}
        if name in deep:
            await _read(client, summary["id"], deeply=True)
    await _indexed(shared_house, tenant.account_id)
    found = await letters.listed(client, "/messages", q="wholesome", limit=200)
    assert len(found) == len(mails)
    assert (await client.get("/events", params={"limit": 200})).status_code == 200
