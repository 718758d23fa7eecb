"""sendmail(8) as programs call it: what is handed in, to whom, and what the exit code says when it is not."""

from __future__ import annotations

import asyncio
import io
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.client import sendmail
from tests import house
from tests.flows import letters
from tests.outbound import sink

pytestmark = pytest.mark.anyio

MAIL = b"From: Shop <shop@postroom.test>\nTo: Jane <%b>\nSubject: Hello\n\nHello.\n"


def options(*arguments: str, **environment: str) -> sendmail.Options:
    found = sendmail.read_options(arguments, environment)
    assert found is not None
    return found


def read(raw: bytes, *arguments: str) -> sendmail.Mail:
    return sendmail.read_mail(options("--domain", "host.test", *arguments), raw)


async def called(raw: bytes, *arguments: str, **environment: str) -> tuple[int, str]:
    """The exit code, and what was said."""
    out = io.StringIO()
    given: Any = (arguments, environment, io.BytesIO(raw), out, out)
    return await asyncio.to_thread(sendmail.run, *given), out.getvalue()


# The command line and the mail


def test_the_ways_in_which_programs_call_it_are_understood() -> None:
    """PHP, cron, git send-email, Perl's modules, exim's and postfix' users, msmtp."""
    php = options("-t", "-i")
    assert (php.from_header, php.ignore_dots, php.recipients) == (True, True, ())
    assert options("-ti").from_header
    assert options("-t", "-oi", "-oem").ignore_dots
    cron = options("-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root")
    assert (cron.name, cron.ignore_dots, cron.recipients) == ("CronDaemon", True, ("root",))
    git = options("-i", "-f", "dev@x.example", "a@y.example", "b@y.example")
    assert (git.sender, git.recipients) == ("dev@x.example", ("a@y.example", "b@y.example"))
    assert options("-rbounce@x.example", "--", "-odd@y.example").recipients == ("-odd@y.example",)
    assert options("-f", "<>", "a@y.example").sender == ""
    assert options("-N", "never", "-R", "hdrs", "-q30m", "-v", "-d0", "-G", "a@y.example").recipients == (
        "a@y.example",
    )
    assert options("--read-recipients", "--from=a@x.example", "-a", "default").from_header
    assert options("--smtp=h:25", POSTROOM_SMTP="other:25").smtp == "h:25"
    assert sendmail.read_options(["--help"], {}) is None
    for wrong in (["-bp"], ["-K"], ["--nothing"], ["a@x.example", "-f", "b@x.example"]):
        with pytest.raises(sendmail.Failed) as failed:
            options(*wrong)
        assert failed.value.code == sendmail.EX_USAGE


def test_a_mail_is_made_whole_and_its_blind_copies_are_told_to_nobody() -> None:
    raw = (
        b'From root Mon Jan  1 00:00:00 2026\nTo: A <a@x.example>, root\ncc: "B, b" <b@x.example>\nBcc: c@x.example,\n'
        b" d@x.example\nSubject: =?utf-8?q?a=2C_b?=\nX-Odd:\tkept\n  as it is\n\nLine\n.\nnot the end\rof it\n"
    )
    mail = read(raw, "-t", "-i", "-F", "Ro Ot", "-f", "root@x.example", "e@x.example")
    assert mail.recipients == (
        "e@x.example",
        "a@x.example",
        "root@host.test",
        "b@x.example",
        "c@x.example",
        "d@x.example",
    )
    assert mail.sender == "root@x.example"
    head, _, body = mail.content.partition(b"\r\n\r\n")
    assert body == b"Line\r\n.\r\nnot the end\r\nof it\r\n"
    assert b"bcc" not in head.lower()
    assert b"c@x.example" not in head
    assert b"\r\nX-Odd:\tkept\r\n  as it is\r\n" in head
    assert b"\r\nFrom: Ro Ot <root@x.example>\r\nDate: " in head
    assert b"\r\nMessage-ID: <" in head
    assert read(raw, "-t").content.endswith(b"\r\n\r\nLine\r\n")
    assert read(b"From: x@x.example\n\nt", "-f", "", "a@x.example").sender == ""
    bare = read(b"no header at all\n", "a@x.example")
    assert bare.content.endswith(b"To: undisclosed-recipients:;\r\n\r\nno header at all\r\n")
    resent = b"Resent-To: new@x.example\nResent-Bcc: blind@x.example\nTo: old@x.example\nFrom: x@x.example\n\nt\n"
    assert read(resent, "-t").recipients == ("new@x.example", "blind@x.example")
    assert b"Resent-Bcc" not in read(resent, "-t").content
    with pytest.raises(sendmail.Failed) as failed:
        read(b"Subject: to nobody\n\nt\n", "-t")
    assert failed.value.code == sendmail.EX_USAGE


# Handing it in


async def test_programs_hand_their_mail_in_by_smtp(
    shared_house: house.House, client: httpx2.AsyncClient, tmp_path: Path
) -> None:
    """Under the name `sendmail`, as PHP does: by a shell, with nothing in the environment."""
    program = tmp_path / "sendmail"
    program.write_text(f"#!{sys.executable}\nfrom gateway.entry import main\nmain()\n")
    program.chmod(0o755)
    box, blind = await letters.mailbox(client), await letters.mailbox(client)
    raw = MAIL % box["address"].encode() + "Grüße.\n".encode()
    raw = raw.replace(b"\n\n", b"\nBcc: %b\n\n" % blind["address"].encode(), 1)
    command = f"{program} -t -i -v --smtp=127.0.0.1:{shared_house.smtp_port} -fbounce@postroom.test"
    tree = str(Path(sendmail.__file__).parents[2])
    process = await asyncio.create_subprocess_shell(
        command, stdin=-1, stdout=-1, stderr=-1, cwd=tmp_path, env={"PYTHONPATH": tree}
    )
    said, problems = await process.communicate(raw)
    assert (process.returncode, problems) == (0, b"")
    assert said.startswith(b"250 2.0.0 queued as ")
    for one in (box, blind):
        [message] = await letters.listed(client, f"/mailboxes/{one['id']}/messages")
        whole = (await client.get(f"/messages/{message['id']}")).json()
        assert (whole["envelope"]["mail_from"], whole["subject"]) == ("bounce@postroom.test", "Hello")
        assert "Grüße." in whole["text"]
        assert "bcc" not in {name.lower() for name, _ in whole["headers"]}


async def test_the_exit_code_says_whether_it_may_go_well_later(shared_house: house.House) -> None:
    """And nobody gets a mail that its caller is told is not handed in."""
    async with sink.Sink() as relay:
        place, closed = f"127.0.0.1:{relay.port}", "127.0.0.1:1"
        refusals: tuple[tuple[sink.Stage, sink.Act, int], ...] = (
            ("greeting", sink.reply("421 4.3.2 later"), sendmail.EX_TEMPFAIL),
            ("mail", sink.reply("452 4.3.1 no room"), sendmail.EX_TEMPFAIL),
            ("rcpt", sink.reply("451 4.3.0 later"), sendmail.EX_TEMPFAIL),
            ("rcpt", sink.reply("550 5.1.1 nobody"), sendmail.EX_NOUSER),
            ("rcpt", sink.reply("550 5.1.2 nowhere"), sendmail.EX_NOHOST),
            ("rcpt", sink.reply("550 5.7.1 no"), sendmail.EX_UNAVAILABLE),
            ("data", sink.reply("451 4.3.0 later"), sendmail.EX_TEMPFAIL),
            ("dot", sink.reply("552 5.3.4 too big"), sendmail.EX_DATAERR),
            ("body", sink.cut(), sendmail.EX_TEMPFAIL),
        )
        for stage, act, code in refusals:
            relay.next(stage, act)
            found, said = await called(MAIL % b"a@x.example", "-t", "b@x.example", POSTROOM_SMTP=place)
            assert found == code, (stage, said)
            assert said.startswith("sendmail: ")
            assert ("try again" in said) is (code == sendmail.EX_TEMPFAIL)
        assert not relay.taken
        assert await called(MAIL % b"a@x.example", "-t", POSTROOM_SMTP=place) == (0, "")
        assert [message.recipients for message in relay.messages if message.taken] == [("a@x.example",)]
    for environment, code in (
        ({"POSTROOM_SMTP": closed}, sendmail.EX_TEMPFAIL),
        ({"POSTROOM_SMTP": "nowhere.invalid:25"}, sendmail.EX_TEMPFAIL),
        ({"POSTROOM_SMTP": "no port"}, sendmail.EX_CONFIG),
        ({}, sendmail.EX_CONFIG),
        ({"POSTROOM_URL": shared_house.url}, sendmail.EX_NOPERM),
        ({"POSTROOM_URL": shared_house.url, "POSTROOM_API_KEY": "pr_key_wrong"}, sendmail.EX_NOPERM),
        ({"POSTROOM_URL": f"{shared_house.url}/v1/", "POSTROOM_API_KEY": "pr_key_wrong"}, sendmail.EX_NOPERM),
        ({"POSTROOM_URL": shared_house.url, "POSTROOM_API_KEY": "pr_key_wrong\n"}, sendmail.EX_NOPERM),
        ({"POSTROOM_URL": shared_house.url, "POSTROOM_API_KEY": "pr_key_one\npr_key_two"}, sendmail.EX_NOPERM),
        ({"POSTROOM_URL": "http://127.0.0.1:80a", "POSTROOM_API_KEY": "pr_key_wrong"}, sendmail.EX_CONFIG),
        ({"POSTROOM_URL": "http://127.0.0.1:1", "POSTROOM_API_KEY": "pr_key_x"}, sendmail.EX_TEMPFAIL),
    ):
        found, said = await called(MAIL % b"a@x.example", "-t", **environment)
        assert (found, "pr_key_" in said) == (code, False), said


async def test_without_smtp_it_is_sent_by_the_api(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    box = await letters.mailbox(client)
    raw = (
        b"From: Shop <shop@postroom.test>\nTo: Jane <%b>\nReply-To: help@postroom.test\nX-Kind: receipt\n"
        b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n"
        b"--b\nContent-Type: text/html; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n<b>\xc3\xa4</b>\n"
        b"--b\nContent-Type: application/pdf; name=a.pdf\nContent-Disposition: attachment; filename=a.pdf\n"
        b"Content-Transfer-Encoding: base64\n\nJVBERg==\n--b--\n"
    ) % box["address"].encode()
    api = {"POSTROOM_URL": shared_house.url, "POSTROOM_API_KEY": tenant.key}
    code, said = await called(raw, "-t", "-v", "blind@elsewhere.example", **api)
    assert (code, said[:4]) == (0, "202 ")
    [email] = await letters.listed(client, "/emails")
    assert (email["from"], email["bcc"]) == ("Shop <shop@postroom.test>", ["blind@elsewhere.example"])
    assert (email["subject"], email["reply_to"]) == ("Grüße", ["help@postroom.test"])
    whole = (await client.get(f"/emails/{email['id']}")).json()
    assert whole["html"].strip() == "<b>ä</b>"
    assert [(one["filename"], one["size"]) for one in whole["attachments"]] == [("a.pdf", 4)]
    assert ["X-Kind", "receipt"] in whole["headers"]
    signed = b"From: shop@postroom.test\nContent-Type: multipart/signed; boundary=b\n\n--b\n\nt\n--b--\n"
    assert (await called(signed, "a@x.example", **api))[0] == sendmail.EX_DATAERR
    assert (await called(b"From: no address\n\nt\n", "a@x.example", **api))[0] == sendmail.EX_DATAERR


async def test_it_imports_no_more_than_it_needs() -> None:
    """It is started for each mail: neither the gateway nor the commands' library nor an HTTP client come along."""
    code = (
        "import sys\nfrom gateway import entry\nsys.argv = ['sendmail', '-bp']\n"
        "try: entry.main()\nexcept SystemExit as e: print(e.code)\n"
        "print({'typer', 'httpx2', 'pydantic', 'asyncio', 'smtplib', 'gateway.cli'} & set(sys.modules))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=-1, stderr=-1)
    out, _ = await process.communicate()
    assert out.decode().split() == ["64", "set()"]
