"""Commands for people who use a gateway: each asks the API, prints what it says, and ends as it is documented."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.commands import calling, keys
from tests import house
from tests.commands.terminal import Typist
from tests.flows import letters
from tests.flows.receiver import Receiver

pytestmark = pytest.mark.anyio

SIGN_UP = letters.letter(
    "Your code", "Your code is 482913.\r\nhttps://shop.example/verify?t=1", sender="a@shop.example"
)


async def test_a_mailbox_is_made_waited_on_listed_shown_and_deleted(typist: Typist, shared_house: house.House) -> None:
    made = (await typist.say("inbox", "new", "--ttl", "10m", "--metadata", "run=17", "--json")).json
    box = made["address"]
    assert made["metadata"] == {"run": "17"}
    assert made["token"].startswith("pr_mbx_")
    assert (await typist.say("inbox", "new", "--ttl", "1h")).out.count("@") == 1  # in a pipe, its address alone
    assert "no duration" in (await typist.say("inbox", "new", "--ttl", "soon", fails=2)).err
    nothing = await typist.say("inbox", "wait", box, "--timeout", "0", fails=3)
    assert "wait_timeout" in nothing.err
    await letters.hand_in(shared_house, SIGN_UP, box)
    assert (await typist.say("inbox", "wait", box, "--for", "code")).out == "482913\n"
    assert (await typist.say("inbox", "wait", box, "--kind", "verify")).out == "https://shop.example/verify?t=1\n"
    waited = (await typist.say("inbox", "wait", box, "--from", "@shop.example", "--json")).json
    assert waited["message"]["subject"] == "Your code"
    assert "'Your code'" in (await typist.say("inbox", "wait", box, "--subject", "no", "--timeout", "0", fails=3)).err
    id = waited["message"]["id"]
    assert (await typist.say("inbox", "show", id, "--raw")).content == SIGN_UP
    assert (await typist.say("inbox", "show", box, "--json")).json["id"] == id
    shown = (await typist.say("inbox", "show", box)).out
    assert "a@shop.example" in shown
    assert "482913  (97%, in text)" in shown
    assert (await typist.say("inbox", "show", box, "--transcript")).out.startswith("S: 220 ")
    [line] = (await typist.say("inbox", "list", box)).lines
    assert line.split("\t")[::4] == [id, "482913"]
    assert (await typist.say("inbox", "list", "--all", "from:@shop.example", "--quiet")).lines == [id]
    assert (await typist.say("inbox", "list", "--all", "subject:other", "--json")).objects == []
    assert {one["address"] for one in (await typist.say("inbox", "list", "--json")).objects} >= {box}
    [told] = (await typist.say("inbox", "tail", box, "--all", "--count", "1", "--json")).objects
    assert (told["type"], told["message_id"], told["data"]["subject"]) == ("message.received", id, "Your code")
    await typist.say("inbox", "delete", box, "--messages")
    assert (await typist.say("inbox", "list", box)).lines == []
    assert (await typist.say("inbox", "delete", box, "--quiet")).out == ""
    assert "not_found" in (await typist.say("inbox", "wait", box, fails=1)).err


async def test_what_mail_holds_does_nothing_to_a_terminal(typist: Typist, shared_house: house.House) -> None:
    box = (await typist.say("inbox", "new")).out.strip()
    hostile = "\x1b]0;owned\x07\u202etxt.exe \x9b31m"
    await letters.hand_in(shared_house, letters.letter("=?utf-8?q?a=1B[2Jb=0Ac?=", hostile), box)
    for words in (("list", box), ("show", box), ("show", box, "--headers"), ("tail", box, "--all", "-c", "1")):
        said = (await typist.say("inbox", *words)).out
        assert not {"\x1b", "\x07", "\u202e", "\x9b"} & set(said), words
    assert len((await typist.say("inbox", "list", box)).lines) == 1


async def test_an_email_is_sent_waited_for_shown_and_canceled(typist: Typist, tmp_path: Path) -> None:
    box = (await typist.say("inbox", "new")).out.strip()
    (tmp_path / "mail.html").write_text("<p>Hello</p>")
    words = (
        "--from",
        "Shop <shop@postroom.test>",
        "--to",
        box,
        "--subject",
        "Hi",
        "--tag",
        "kind=x",
        "--header",
        "X-Run: 17",
    )
    sent = await typist.say("send", *words, "--wait", "delivered", "--json", given="Grüße\n".encode())
    assert sent.json["status"] == "delivered"
    files = ("--html", f"@{tmp_path / 'mail.html'}", "--attach", str(tmp_path / "mail.html"))
    second = (await typist.say("send", *words, *files, "--quiet")).out.strip()
    mail = (await typist.say("inbox", "wait", box, "--text", "Gr\u00fc\u00dfe", "--json")).json["message"]
    assert ["X-Run", "17"] in mail["headers"]
    later = (await typist.say("send", *words, "--text", "x", "--at", "in 1 hour", "--quiet")).out.strip()
    assert (await typist.say("emails", "list", "--status", "scheduled", "--quiet")).lines == [later]
    assert (await typist.say("emails", "cancel", later)).out == "canceled\n"
    assert "invalid_state" in (await typist.say("emails", "cancel", later, fails=1)).err
    assert (
        await typist.say(
            "send", *words, "--text", "x", "--at", "in 1 hour", "--wait", "sent", "--timeout", "0", fails=3
        )
    ).out == ""
    shown = (await typist.say("emails", "show", sent.json["id"])).out
    assert f"delivered  {box}  1 attempt" in shown
    assert b"\r\nX-Run: 17\r\n" in (await typist.say("emails", "show", sent.json["id"], "--raw")).content
    assert box in (await typist.say("emails", "attempts", sent.json["id"])).out
    assert (await typist.say("emails", "show", second, "--json")).json["attachments"][0]["filename"] == "mail.html"
    assert (await typist.say("emails", "retry", sent.json["id"], fails=1)).out == ""
    refused = (await typist.say("send", "--from", "x", "--to", "y", "-s", "s", "--text", "z", fails=1)).err
    assert refused.count("\n") <= 2
    assert "validation_error" in refused
    types = ("--types", "email.delivered,email.bounced")
    [told] = (await typist.say("events", "list", *types, "--email", sent.json["id"], "--json")).objects
    assert told["data"]["recipient"] == box
    assert (await typist.say("events", "tail", "--after", "0", "-c", "1", *types)).out.split("\t")[
        2
    ] == "email.delivered"
    assert "cursor_expired" in (await typist.say("events", "tail", "--after", "99999999", fails=1)).err


async def test_keys_are_made_over_the_api_as_over_the_database(
    typist: Typist, shared_house: house.House, tenant: house.Tenant
) -> None:
    """The operator's way is taken where an account is named, whatever else is set."""
    made = (await typist.say("keys", "create", "ci", "--scope", "read", "--expires", "90d", "--json")).json
    over_api = (await typist.say("keys", "list")).lines
    assert [made["id"], "read"] in [line.split("\t")[:2] for line in over_api]
    operator = Typist(
        environment={
            **typist.environment,
            "DATABASE_URL": shared_house.dsn,
            "SECRET_KEY": house.SECRET_KEY,
            "POSTROOM_URL": "",
            "POSTROOM_API_KEY": "",
        }
    )
    name = f"cli {tenant.account_id}"
    first = (await operator.say("keys", "create", "first", "--account", name, "--scope", "admin", "--json")).json
    assert set(first) == set(made)
    [listed] = (await operator.say("keys", "list", "--account", name, "--json")).objects
    other = Typist(environment={**typist.environment, "POSTROOM_API_KEY": first["key"]})
    assert set(listed) == {name for name in first if name != "key"}
    assert (await other.say("keys", "list")).out.split("\t")[0] == first["id"]
    assert (await typist.say("keys", "revoke", made["id"])).out == "revoked\n"
    assert "not_found" in (await typist.say("keys", "revoke", first["id"], fails=1)).err
    assert not keys._asks_database(None, {"DATABASE_URL": "x", "POSTROOM_URL": "y"}.__getitem__)


async def test_webhooks_are_made_tested_rotated_and_told_again(typist: Typist) -> None:
    async with Receiver() as receiver:
        receiver.answers.append("500 Oops")
        made = (
            await typist.say("webhooks", "create", receiver.url(), "--types", "message.received,email.sent", "--json")
        ).json
        assert sorted(made["types"]) == ["email.sent", "message.received"]
        tested = (await typist.say("webhooks", "test", made["id"], "--quiet")).out.strip()
        await receiver.until(1)
        await typist.say("webhooks", "redeliver", made["id"], tested)
        await receiver.until(2)
        deliveries = (await typist.say("webhooks", "deliveries", made["id"], "--json")).objects
        assert [one["id"] for one in deliveries] == [tested]
        assert (await typist.say("webhooks", "deliveries", made["id"])).out.split("\t")[0] == tested
        assert (await typist.say("webhooks", "redeliver", made["id"])).out == "0 will be told again\n"
        secret = (await typist.say("webhooks", "rotate", made["id"], "--quiet")).out.strip()
        assert secret.startswith("whsec_")
        assert secret != made["secret"]
        assert (await typist.say("webhooks", "list", "--quiet")).lines == [made["id"]]
        assert (await typist.say("webhooks", "enable", made["id"], "--json")).json["status"] == "active"
        await typist.say("webhooks", "delete", made["id"])
        assert (await typist.say("webhooks", "list")).out == ""


async def test_domains_suppressions_and_templates_come_and_go(
    typist: Typist, tenant: house.Tenant, tmp_path: Path
) -> None:
    name = f"d{tenant.account_id.hex}.example"
    added = (await typist.say("domains", "add", name, "--unknown-recipients", "reject", "--json")).json
    assert added["unknown_recipients"] == "reject"
    zone = (await typist.say("domains", "records", name)).lines
    assert len(zone) == len(added["records"])
    assert all(" IN " in line for line in zone)
    assert name in (await typist.say("domains", "show", name)).out
    assert (await typist.say("domains", "list", "--quiet")).lines == [name]
    await typist.say("domains", "delete", name)
    assert "not_found" in (await typist.say("domains", "show", name, fails=1)).err

    await typist.say("suppressions", "add", "a@x.example", "b@x.example", "--reason", "complaint", "--expires", "30d")
    listed = (await typist.say("suppressions", "list", "--json")).objects
    assert {one["address"]: one["reason"] for one in listed} == dict.fromkeys(
        ("a@x.example", "b@x.example"), "complaint"
    )
    exported = (await typist.say("suppressions", "export")).content
    await typist.say("suppressions", "remove", "a@x.example", "b@x.example")
    assert (await typist.say("suppressions", "list")).out == ""
    assert (await typist.say("suppressions", "import", "-", given=exported)).out == "2 imported, 0 failed\n"
    (tmp_path / "list.csv").write_text("address\nc@x.example\nnobody\n")
    partly = await typist.say("suppressions", "import", str(tmp_path / "list.csv"), fails=4)
    assert partly.err.startswith("line 3: ")

    template = (
        await typist.say("templates", "create", "t", "--subject", "Hi {{ name }}", "--text", "-", given=b"{{ n }}!")
    ).out.strip()
    rendered = (await typist.say("templates", "render", template, "--var", "name=Jo", "--var", "n=17", "--json")).json
    assert (rendered["subject"], rendered["text"]) == ("Hi Jo", "17!")
    assert (await typist.say("templates", "update", template, "--name", "u", "--json")).json["name"] == "u"
    assert (await typist.say("templates", "list")).out.startswith(f"{template}\tu\tHi {{{{ name }}}}\t")
    assert "Hi {{ name }}" in (await typist.say("templates", "show", template)).out
    await typist.say("templates", "delete", template, "--quiet")


def said(environment: dict[str, str]) -> Callable[[str], str]:
    return lambda name: environment.get(name, "")


def test_the_gateway_is_that_of_the_environment_or_of_the_folder_and_no_key_goes_elsewhere(tmp_path: Path) -> None:
    """Negative control: with `target` completing what the environment lacks from the folder, the third case fails: the
    environment's key would go to the folder's URL."""
    folder = tmp_path / ".postroom"
    folder.mkdir()
    (folder / "dev.json").write_text(
        '{"http_url": "http://127.0.0.1:8025", "api_key": "its", "smtp_host": "127.0.0.1", "smtp_port": 1025}'
    )
    told = calling.target(said({}), folder)
    assert (told.url, told.api_key, told.smtp) == ("http://127.0.0.1:8025", "its", "127.0.0.1:1025")
    named = {"POSTROOM_URL": "https://mail.example", "POSTROOM_API_KEY": "mine", "POSTROOM_SMTP": "mail.example:25"}
    told = calling.target(said(named), folder)
    assert (told.url, told.api_key, told.smtp) == ("https://mail.example", "mine", "mail.example:25")
    assert calling.target(said({"POSTROOM_API_KEY": "mine"}), folder).url == ""
    assert calling.target(said({}), tmp_path / "nothing").url == ""


async def test_without_a_gateway_one_line_says_what_to_set(
    typist: Typist, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    lost = Typist(environment={"POSTROOM_URL": "", "POSTROOM_API_KEY": "", "DATABASE_URL": ""})
    for words in (("inbox", "list"), ("keys", "list")):
        said = await lost.say(*words, fails=2)
        assert "POSTROOM_URL" in said.err
        assert said.err.count("\n") == 1
    dead = Typist(environment={**typist.environment, "POSTROOM_URL": "http://127.0.0.1:9"})
    assert "Nothing answers at http://127.0.0.1:9" in (await dead.say("inbox", "list", fails=1)).err
    wrong = Typist(environment={**typist.environment, "POSTROOM_API_KEY": "pr_key_wrong"})
    assert "invalid_api_key" in (await wrong.say("inbox", "list", fails=1)).err
