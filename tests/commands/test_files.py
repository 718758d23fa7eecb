"""Mail goes into files and comes out of them: every byte, each mail once, wherever it was cut short."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import mailbox as stdlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.commands import exporting, files
from tests import house
from tests.commands.terminal import Typist
from tests.corpus import octets

pytestmark = pytest.mark.anyio

PROJECT = Path(__file__).parents[2]
HOSTILE = (
    b"Subject: a\r\n\r\nFrom the start\r\n>From quoted\r\n>>From twice\r\n\r\nFrom here\r\n",
    b"Subject: b\n\nbare\nline\rends\n\nFrom me",
    b"X-Postroom-Export: size=3\r\nX-Postroom-Rcpt-To: x@y\r\n\r\nFrom a@b Sun Nov 22 12:00:00 2026\r\n\r\n",
    b"\r\n\r\n\r\n",
    b"From nobody Sun Nov 22 12:00:00 2026\nSubject: c\n\n",
    b"Subject: \xff\xfe\x00\x1b[2J\r\n\r\n\x00\xff no line end",
    b"no header at all",
    b"Subject: d\r\n\r\n" + b"x" * 100_000 + b"\r\n.\r\n..\r\n",
)


def mbox(count: int, *, equal: int = 1) -> bytes:
    """So many mails, each `equal` times."""
    one = "From a@b.example Sun Nov 22 12:00:00 2026\nFrom: a@b.example\nSubject: mail {}\n\nHello\n>From me\n\n"
    return "".join(one.format(number) * equal for number in range(count)).encode()


async def box_of(typist: Typist) -> str:
    return (await typist.say("inbox", "new")).out.strip()


async def raws(typist: Typist, box: str) -> list[bytes]:
    """What is in a mailbox, oldest first, byte for byte."""
    lines = (await typist.say("export", "ndjson", "-", "--mailbox", box)).objects
    return [base64.b64decode(line["raw"]) for line in lines]


def test_hostile_mail_goes_into_an_mbox_and_comes_out_as_it_was() -> None:
    """Negative control: without quoting in `write_mbox`, mails broke in two and this failed at the first of them."""
    every = [*HOSTILE, *(path.read_bytes() for path in octets.PATHS[:60])]
    to = ("a@b.example", "\u00fc@b.example")
    at = "Sun Nov 22 12:00:00 2026"
    whole = b"".join(files.write_mbox(raw, mail_from='"a b"@c.example', rcpt_to=to, at=at) for raw in every)
    found = list(files.read_mbox(io.BytesIO(whole), "x"))
    assert [one.raw for one in found] == every
    assert {(one.mail_from, one.rcpt_to) for one in found} == {('"a b"@c.example', to)}
    assert found[-1].end == len(whole)


def test_mail_from_elsewhere_gets_its_line_ends_and_what_the_header_has_of_its_envelope(tmp_path: Path) -> None:
    old = stdlib.mbox(tmp_path / "old")
    for number in range(3):
        old.add(f"Delivered-To: <jo@b.example>\nTo: list@b.example\nSubject: {number}\n\nFrom me\n".encode())
    old.close()
    with (tmp_path / "old").open("rb") as stream:
        found = list(files.read_mbox(stream, "old"))
    assert [one.source for one in found] == ["old#1", "old#2", "old#3"]
    assert found[2].raw.endswith(b"\r\nSubject: 2\r\n\r\nFrom me\r\n")
    assert {one.rcpt_to for one in found} == {("jo@b.example",)}
    one = files.read_one(b"Return-Path: <x@y.example>\r\nTo: A <a@b.example>, c@b.example\r\n\r\n", "one.eml")
    assert (one.mail_from, one.rcpt_to) == ("x@y.example", ("a@b.example", "c@b.example"))
    with pytest.raises(files.Unreadable):
        list(files.read_mbox(io.BytesIO(b"Subject: a mail, no mbox\n\n"), "x"))


@pytest.mark.parametrize("kind", ["mbox", "maildir", "eml", "ndjson"])
async def test_what_is_exported_is_imported_byte_for_byte_and_once(typist: Typist, tmp_path: Path, kind: str) -> None:
    """Negative control: without `once` in the request of `importing`, the second import doubled every mail."""
    box = await box_of(typist)
    for number, raw in enumerate(HOSTILE):
        path = tmp_path / f"{number}.eml"
        path.write_bytes(raw)
    index = [
        {"id": str(number), "file": f"{number}.eml", "envelope": {"mail_from": "a@b.example", "rcpt_to": [box]}}
        for number in range(len(HOSTILE))
    ]
    (tmp_path / files.INDEX).write_text("".join(f"{json.dumps(one)}\n" for one in index))
    done = (await typist.say("import", "eml", str(tmp_path), "--json")).json
    assert (done["taken"], done["failed"]) == (len(HOSTILE), 0)
    before = await raws(typist, box)
    assert sorted(before) == sorted(HOSTILE)
    target = tmp_path / "out"
    assert f"{len(HOSTILE)} taken out" in (await typist.say("export", kind, str(target), "--mailbox", box)).out
    if kind in {"maildir", "eml"}:
        assert "0 taken out, 8 were there" in (await typist.say("export", kind, str(target), "--mailbox", box)).out
    else:
        assert "is there already" in (await typist.say("export", kind, str(target), "--mailbox", box, fails=2)).err
    await typist.say("inbox", "delete", box, "--messages")
    for _ in range(2):
        await typist.say("import", kind, str(target))
        assert sorted(await raws(typist, box)) == sorted(HOSTILE)


async def test_equal_mails_of_one_file_are_kept_apart_and_bad_ones_are_listed(typist: Typist, tmp_path: Path) -> None:
    box = await box_of(typist)
    for _ in range(2):
        assert (
            await typist.say("import", "mbox", "-", "--to", box, given=mbox(3, equal=4))
        ).out == "12 handed in, 0 failed\n"
        assert len(await raws(typist, box)) == 12
    lost = await typist.say("import", "mbox", "-", given=mbox(2), fails=4)
    assert lost.err.startswith("-#1: nobody knows whom it is for")
    assert lost.out == "0 handed in, 2 failed\n"
    (tmp_path / "good.eml").write_bytes(b"Subject: x\n\n")
    (tmp_path / "foreign.eml").write_bytes(b"To: x@elsewhere.example\n\n")
    (tmp_path / "gone.eml").symlink_to(tmp_path / "nowhere")
    partly = (await typist.say("import", "eml", str(tmp_path), "--json", fails=4)).json
    assert [one["source"] for one in partly["failures"]] == ["foreign.eml", "good.eml"]
    local = box.partition("@")[0]
    (tmp_path / f"{local}.eml").write_bytes(b"Subject: named\n\n")
    await typist.say("import", "eml", str(tmp_path / f"{local}.eml"), "--to", "{name}@postroom.test")
    assert len(await raws(typist, box)) == 13
    for words in (
        ("mbox", "none"),
        ("maildir", str(tmp_path)),
        ("mbox", str(tmp_path)),
        ("ndjson", str(tmp_path / "good.eml")),
    ):
        assert (await typist.say("import", *words, fails=2)).err.count("\n") == 1
    wrong = Typist(environment={**typist.environment, "POSTROOM_API_KEY": "pr_key_wrong"})
    assert "invalid_api_key" in (await wrong.say("import", "mbox", "-", "--to", box, given=mbox(1), fails=1)).err


async def test_an_import_that_is_killed_goes_on_and_each_mail_is_there_once(
    typist: Typist, shared_house: house.House, tmp_path: Path
) -> None:
    """kill -9 as soon as some mail is there, and again; then to the end. Negative control: without `once` in the
    request, mails that were under way at a kill came twice."""
    box, count = await box_of(typist), 400
    (tmp_path / "all.mbox").write_bytes(mbox(count))
    environment = {
        **os.environ,
        **typist.environment,
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "PYTHONPATH": str(PROJECT),
    }
    command = [sys.executable, "-m", "gateway.cli", "import", "mbox", str(tmp_path / "all.mbox"), "--to", box]
    for enough in (20, 120):
        process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL)  # noqa: ASYNC220
        async with shared_house.client(typist.environment["POSTROOM_API_KEY"]) as client:
            while process.poll() is None:
                if (await client.get(f"/mailboxes/{box}")).json()["message_count"] >= enough:
                    break
        process.kill()
        process.wait()
    again = Typist(environment={**typist.environment, "XDG_STATE_HOME": str(tmp_path / "state")})
    done = (await again.say("import", "mbox", str(tmp_path / "all.mbox"), "--to", box, "--json")).json
    assert done["taken"] + done["passed_over"] == count
    subjects = [one["subject"] for one in (await typist.say("inbox", "list", box, "-n", "0", "--json")).objects]
    assert sorted(subjects) == sorted(f"mail {number}" for number in range(count))
    assert not list((tmp_path / "state").rglob("*.json"))


async def test_an_export_that_was_cut_short_goes_on_where_its_file_is_whole(typist: Typist, tmp_path: Path) -> None:
    """As kill -9 leaves it: half a mail behind what the note says."""
    box = await box_of(typist)
    await typist.say("import", "mbox", "-", "--to", box, given=mbox(5))
    whole = tmp_path / "whole.mbox"
    await typist.say("export", "mbox", str(whole), "--mailbox", box)
    listed = list(reversed((await typist.say("inbox", "list", box, "--json")).objects))
    with whole.open("rb") as stream:
        ends = [int(one.end) for one in files.read_mbox(stream, "x")]
    cut = tmp_path / "cut.mbox"
    cut.write_bytes(whole.read_bytes()[: ends[1] + 30])
    note = tmp_path / "cut.mbox.unfinished"
    note.write_text(json.dumps({"size": ends[1], "seq": listed[1]["seq"]}))
    assert (await typist.say("export", "mbox", str(cut), "--mailbox", box)).out == "3 taken out, 2 were there\n"
    assert cut.read_bytes() == whole.read_bytes()
    assert not note.exists()
    folder = exporting.Folder(exporting.Kind.EML, tmp_path / "eml")
    folder.close(whole=False)
    (tmp_path / "eml" / files.INDEX).write_bytes(b'{"id": "torn", "fi')
    assert (await typist.say("export", "eml", str(tmp_path / "eml"), "--mailbox", box)).out == "5 taken out\n"
    assert len(files.envelopes(tmp_path / "eml")) == 5


async def test_the_same_mail_under_the_same_word_is_stored_once_at_whatever_moment(
    typist: Typist, shared_house: house.House
) -> None:
    """Negative control: with the whole batch planned, not each receipt once, twenty were stored."""
    box = await box_of(typist)
    async with shared_house.client(typist.environment["POSTROOM_API_KEY"]) as client:

        async def post(word: str, raw: bytes = b"Subject: x\r\n\r\n") -> str:
            answer = await client.post("/inbound/raw", params={"rcpt_to": box, "once": word}, content=raw)
            assert answer.status_code == 200, answer.text
            return str(answer.json()["receipt_id"])

        receipts = await asyncio.gather(*(post(word) for word in ("a", "b") for _ in range(10)))
        assert len(set(receipts)) == 2
        assert len(await raws(typist, box)) == 2
        assert await post("a", b"Subject: another\r\n\r\n") not in receipts
        assert len(await raws(typist, box)) == 3


async def test_reclaim_removes_what_is_over_and_says_how_much(typist: Typist, shared_house: house.House) -> None:
    operator = Typist(environment={"DATABASE_URL": shared_house.dsn, "SECRET_KEY": house.SECRET_KEY})
    box = await box_of(typist)
    await typist.say("import", "mbox", "-", "--to", box, given=mbox(3))
    before = (await operator.say("reclaim", "--dry-run", "--json")).json
    await typist.say("inbox", "delete", box)
    counted = (await operator.say("reclaim", "--dry-run", "--json")).json
    done = (await operator.say("reclaim", "--json")).json  # the house's worker may come before us
    assert set(counted) == set(before) == set(done) == {"object", "mailboxes", "messages"}
    assert (await operator.say("reclaim", "--older-than", "1d", "--dry-run", "--quiet")).out == ""
    async with shared_house.client(typist.environment["POSTROOM_API_KEY"]) as client:
        made = await client.post("/mailboxes", json={"address": box})
    assert made.status_code == 201  # its address is free again
