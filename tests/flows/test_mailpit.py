"""Mailpit's published clients against the house, unchanged but for a URL; whose mail they see, and who may ask."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email.message
import email.policy
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest

from tests import conftest, house, mailpit_python, suites
from tests.flows import letters

pytestmark = pytest.mark.anyio

CALLS: Final = Path(suites.__file__).parent / "mailpit_node" / "calls.mjs"
SUITE: Final = Path(mailpit_python.__file__).parent / "suite.py"
PREFIX: Final = "/compat/mailpit"
LINE: Final = 1 << 20  # bytes of an answer, at most
PATIENCE: Final = 60.0  # seconds until a call is given up
NOBODY: Final = "0194d1a0-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def dev_house(postgres_dsn: str, redis_url: str) -> Iterator[house.House]:
    """As `postroom dev` sets it up: it takes mail for everybody, and asks nobody who he is."""
    yield from conftest._standing(
        postgres_dsn,
        redis_url,
        programs=("serve",),
        POSTROOM_DEV="1",
        MAIL_DOMAINS="postroom.test,*",
        UNKNOWN_RECIPIENTS="create",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Clients:
    """The clients for JavaScript, in a process of Node's."""

    process: asyncio.subprocess.Process

    async def _asked(self, **asked: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked).encode() + b"\n")
        async with asyncio.timeout(PATIENCE):
            line = await self.process.stdout.readline()
        assert line, "node has ended: see what it printed"
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def call(self, name: str, *arguments: Any) -> Any:
        """What a method of mailpit-api's client returns."""
        answer = await self._asked(call=name, **{"with": arguments})
        assert "error" not in answer, answer
        return answer["data"]

    async def refused(self, name: str, *arguments: Any) -> str:
        """What it throws."""
        answer = await self._asked(call=name, **{"with": arguments})
        assert "error" in answer, answer
        return str(answer["error"])

    async def cypress(self, name: str, *arguments: Any) -> Any:
        """What a command of cypress-mailpit yields."""
        answer = await self._asked(cypress=name, **{"with": arguments})
        assert "error" not in answer, answer
        return answer["data"]


@contextlib.asynccontextmanager
async def node(url: str, *, user: str = "", password: str = "") -> AsyncIterator[Clients]:
    modules = suites.path(f"{suites.MAILPIT_NODE}/node_modules")
    process = await asyncio.create_subprocess_exec(
        *(str(suites.node()), "--no-warnings", str(CALLS), str(modules), url, user, password),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE,
    )
    try:
        yield Clients(process=process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def with_files(subject: str, to: str) -> bytes:
    message = email.message.EmailMessage(policy=email.policy.SMTP)
    message["From"], message["To"], message["Subject"] = "Shop <shop@x.example>", f"Jane <{to}>", subject
    message["Cc"], message["Reply-To"] = "Carl <carl@x.example>", "help@x.example"
    message["List-Unsubscribe"] = "<mailto:off@x.example>, <https://x.example/off?a=1>"
    message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    message.set_content("The naïve text of it.")
    message.add_alternative('<p onclick="x()">Hello</p><img src="cid:logo">', subtype="html")
    html: Any = message.get_payload()[1]  # type: ignore[index] # the parts of a multipart
    html.add_related(b"\x89PNG\r\n\x1a\nno picture", "image", "png", cid="<logo>", disposition="inline")
    message.add_attachment(b"<script>alert(1)</script>", maintype="text", subtype="html", filename="page.html")
    return bytes(message)


async def test_mailpit_api_works_unchanged(dev_house: house.House) -> None:
    """Every method of npm's mailpit-api, told nothing but the URL."""
    tenant = await dev_house.tenant()  # the oldest account: what mail itself creates is its
    raw = with_files("Welcome to the shop", "jane@anywhere.example")
    async with node(dev_house.url) as clients:
        assert (await clients.call("waitForMessages", {"count": 0}))["messages"] == []
        id = await letters.hand_in(
            dev_house, raw, "jane@anywhere.example", "blind@x.example", sender="bounce@x.example"
        )
        found = await clients.call("waitForMessage", {"query": 'subject:"to the shop" addressed:carl@x.EXAMPLE'})
        assert (found["ID"], found["Subject"], found["ReturnPath"]) == (id, "Welcome to the shop", "bounce@x.example")
        people = {name: [one["Address"] for one in found[name]] for name in ("To", "Cc", "Bcc", "ReplyTo")}
        assert people == {
            "To": ["jane@anywhere.example"],
            "Cc": ["carl@x.example"],
            "Bcc": ["blind@x.example"],
            "ReplyTo": ["help@x.example"],
        }
        assert found["From"] == {"Name": "Shop", "Address": "shop@x.example"}
        assert found["Text"].strip() == "The naïve text of it."
        assert found["ListUnsubscribe"] == {
            "Header": "<mailto:off@x.example>, <https://x.example/off?a=1>",
            "Links": ["mailto:off@x.example", "https://x.example/off?a=1"],
            "Errors": "",
            "HeaderPost": "List-Unsubscribe=One-Click",
        }
        [picture], [page] = found["Inline"], found["Attachments"]
        assert (picture["ContentID"], page["FileName"], page["Size"]) == ("logo", "page.html", 25)
        shown = await clients.call("getMessageAttachment", id, picture["PartID"])
        assert (shown["type"], base64.b64decode(shown["base64"])[:4]) == ("image/png", b"\x89PNG")
        assert (await clients.call("getMessageAttachment", "latest", page["PartID"]))[
            "type"
        ] == "application/octet-stream"
        assert (await clients.call("getMessageSource", id)).encode() == raw
        assert (await clients.call("getMessageHeaders"))["Reply-To"] == ["help@x.example"]
        html = await clients.call("renderMessageHTML", id)
        assert f'src="../api/v1/message/{id}/part/{picture["PartID"]}"' in html
        assert (await clients.call("renderMessageText")).strip() == found["Text"].strip()
        listed = await clients.call("listMessages")
        assert [one["Read"] for one in listed["messages"]] == [True]
        assert (listed["total"], listed["unread"], listed["messages_count"]) == (1, 0, 1)
        await clients.call("setReadStatus", {"IDs": [id], "Read": False})
        await clients.call("setTags", {"IDs": [id], "Tags": ["one", "Two"]})
        assert await clients.call("getTags") == ["Two", "one"]
        await clients.call("renameTag", "one", "three")
        await clients.call("deleteTag", "two")
        assert (await clients.call("getInfo"))["Tags"] == {"three": 1}
        assert (await clients.call("searchMessages", {"query": "tag:THREE -is:read"}))["messages_unread"] == 1
        sent = await clients.call(
            "sendMessage",
            {
                "From": {"Email": "me@x.example", "Name": "Me, myself"},
                "To": [{"Email": "you+bill@y.example"}],
                "Bcc": ["third@y.example"],
                "Subject": "Sent by hand",
                "HTML": "<b>hand</b>",
                "Headers": {"X-Kind": "test"},
                "Tags": ["mine"],
                "Attachments": [{"Filename": "a.txt", "Content": "data:text/plain;base64,aGFuZA=="}],
            },
        )
        mine = await clients.call("getMessageSummary", sent["ID"])
        assert (mine["From"]["Name"], mine["Tags"]) == ("Me, myself", ["bill", "mine"])
        assert [one["Address"] for one in mine["Bcc"]] == ["third@y.example"]
        assert [one["FileName"] for one in mine["Attachments"]] == ["a.txt"]
        found = await clients.call("searchMessages", {"query": "from:me@", "start": 0, "limit": 1})
        assert ([one["ID"] for one in found["messages"]], found["total"]) == ([sent["ID"]], 2)
        second = await clients.call("listMessages", 1, 1)
        assert ([one["ID"] for one in second["messages"]], second["start"]) == ([id], 1)
        await clients.call("deleteMessagesBySearch", {"query": 'subject:"by hand"'})
        assert (await clients.call("listMessages"))["messages_count"] == 1
        await clients.call("deleteMessages", {"IDs": [NOBODY, "nothing"]})
        assert (await clients.call("listMessages"))["messages_count"] == 1
        for call, status in (
            ("getChaosTriggers", 400),
            ("htmlCheck", 501),
            ("linkCheck", 501),
            ("spamAssassinCheck", 501),
        ):
            assert f"Mailpit API Error: {status}" in await clients.refused(call)
        assert (await clients.call("getConfiguration"))["ChaosEnabled"] is False
        assert "400" in await clients.refused("searchMessages", {"query": "larger:than-life"})
        await clients.call("deleteMessages")
        assert "404" in await clients.refused("getMessageSummary")
    async with dev_house.client(tenant.key) as client:
        assert await letters.listed(client, "/messages") == []
        assert len(await letters.listed(client, "/mailboxes")) >= 3


async def test_cypress_mailpit_works_unchanged(dev_house: house.House) -> None:
    await dev_house.tenant()
    async with node(dev_house.url) as clients:
        await clients.cypress("mailpitDeleteAllEmails")
        await clients.cypress("mailpitSendMail", {"subject": "From Cypress", "to": [{"Email": "cy@x.example"}]})
        await clients.cypress("mailpitHasEmailsBySubject", "Cypress")
        await clients.cypress("mailpitHasEmailsByTo", "cy@x.example")
        await clients.cypress("mailpitNotHasEmailsBySubject", "Playwright")
        [listed] = (await clients.cypress("mailpitGetAllMails"))["messages"]
        assert await clients.cypress("mailpitGetRecipientAddress", listed) == ["cy@x.example"]
        mail = await clients.cypress("mailpitGetMail")
        assert await clients.cypress("mailpitGetSubject", mail) == "From Cypress"
        assert await clients.cypress("mailpitGetFromAddress", mail) == "from@example.com"
        assert await clients.cypress("mailpitGetAttachments", mail) == []
        assert (await clients.cypress("mailpitGetMailHTMlBody", mail)).strip() == "<p>hello from mailpit</p>"
        assert (await clients.cypress("mailpitGetMailTextBody", mail)).strip() == "hello from mailpit"
        await clients.cypress("mailpitSetAllEmailStatusAsUnRead")
        assert (await clients.cypress("mailpitSearchEmails", "is:unread"))["messages_count"] == 1
        await clients.cypress("mailpitSetStatusAsRead", [listed])
        await clients.cypress("mailpitNotHasEmailsBySearch", "is:unread")
        await clients.cypress("mailpitDeleteEmailsBySearch", "to:cy@x.example")
        assert (await clients.cypress("mailpitGetAllMails"))["messages"] == []


async def test_a_suite_written_for_mailpit_passes_unchanged(dev_house: house.House, tmp_path: Path) -> None:
    """pytest-mailpit's fixtures and mailpit-api-client's, in a pytest of their own."""
    await dev_house.tenant()
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(tmp_path),
        "PYTHONPATH": str(suites.path(suites.MAILPIT_PYTHON)),
        "MAILPIT_URL": dev_house.url,
        "MAILPIT_SMTP": f"127.0.0.1:{dev_house.smtp_port}",
    }
    options = ["-q", "-p", "mailpit.testing.pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "--noconftest"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", *options, "-c", "/dev/null", "--rootdir", str(tmp_path), str(SUITE)),
        cwd=tmp_path,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert b"6 passed" in output


# Who asks


def asked(home: house.House, *, token: str = "", **options: Any) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Basic {base64.b64encode(f'any:{token}'.encode()).decode()}"} if token else {}
    return httpx2.AsyncClient(base_url=f"{home.url}{PREFIX}", headers=headers, timeout=30, **options)


CALLED: Final = [  # with the id of somebody else's mail in place of *
    ("GET", "/api/v1/message/*", None),
    ("GET", "/api/v1/message/*/headers", None),
    ("GET", "/api/v1/message/*/raw", None),
    ("GET", "/api/v1/message/*/part/1", None),
    ("GET", "/view/*.html", None),
    ("GET", "/view/*.txt", None),
    ("PUT", "/api/v1/messages", {"IDs": ["*"], "Read": True}),
    ("PUT", "/api/v1/messages", {"Read": True}),
    ("PUT", "/api/v1/tags", {"IDs": ["*"], "Tags": ["mine"]}),
    ("PUT", "/api/v1/tags/theirs", {"Name": "mine"}),
    ("DELETE", "/api/v1/tags/theirs", None),
    ("DELETE", "/api/v1/messages", {"IDs": ["*"]}),
    ("DELETE", "/api/v1/messages", None),
    ("DELETE", "/api/v1/search?query=subject:Private", None),
]


async def test_nobody_reaches_the_mail_of_somebody_else(
    shared_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    """Whatever is called for it, by another account's admin and by the token of another mailbox of the same account:
    what is asked about is not there, and nothing changes.

    Seen to fail with the mailbox left out of `copies_after` in mails.sql (the token emptied the other one), and with
    the account left out of `standing` and of `tags` (the other account heard how much there is, and the tag). With the
    mailbox left out of `named` and `shown` reading was still refused: `messages.get` looks again."""
    box, other = await letters.mailbox(client), await letters.mailbox(client)
    id = await letters.hand_in(shared_house, with_files("Private", box["address"]), box["address"])
    async with asked(shared_house, token=tenant.key) as owner:
        assert (await owner.put("/api/v1/tags", json={"IDs": [id], "Tags": ["theirs"]})).text == "ok"
        before = (await owner.get("/api/v1/messages")).json()
        assert [one["Tags"] for one in before["messages"]] == [["theirs"]]
        stranger = await shared_house.tenant()
        for token in (stranger.key, other["token"]):
            async with asked(shared_house, token=token) as intruder:
                for method, path, body in CALLED:
                    content = json.dumps(body).replace("*", id) if body is not None else ""
                    answer = await intruder.request(method, path.replace("*", id), content=content)
                    unknown = await intruder.request(
                        method, path.replace("*", NOBODY), content=content.replace(id, NOBODY)
                    )
                    assert answer.status_code == (404 if method == "GET" else 200), (path, answer.text)
                    assert (answer.status_code, answer.text) == (unknown.status_code, unknown.text)
                for path in ("/api/v1/messages", "/api/v1/search?query=Private"):
                    nothing = (await intruder.get(path)).json()
                    assert (nothing["total"], nothing["messages"], nothing["tags"]) == (0, [], [])
                assert (await intruder.get("/api/v1/info")).json()["Messages"] == 0
                assert (await intruder.get("/api/v1/message/latest")).status_code == 404
        assert (await owner.get("/api/v1/messages")).json() == before


async def test_a_mailboxs_token_sees_its_mailbox_as_if_it_were_all_of_mailpit(
    shared_house: house.House, client: httpx2.AsyncClient
) -> None:
    one, other = await letters.mailbox(client), await letters.mailbox(client)
    raw = letters.letter("To both", To=one["address"])
    id = await letters.hand_in(shared_house, raw, one["address"], other["address"])
    async with asked(shared_house, token=one["token"]) as mine, asked(shared_house, token=other["token"]) as theirs:
        [seen] = (await mine.get("/api/v1/messages")).json()["messages"]
        assert (seen["ID"], seen["Bcc"]) == (id, [])  # who else got a copy is not this mailbox's business
        assert (await mine.get(f"/api/v1/message/{id}")).status_code == 200
        assert [(await holder.get("/api/v1/messages")).json()["unread"] for holder in (mine, theirs)] == [0, 1]
        assert (await mine.delete("/api/v1/messages")).text == "ok"
        assert [(await holder.get("/api/v1/messages")).json()["total"] for holder in (mine, theirs)] == [0, 1]
        assert (await mine.post("/api/v1/send", json={})).status_code == 403


async def test_who_may_ask_and_what_a_refusal_looks_like(
    shared_house: house.House, dev_house: house.House, tenant: house.Tenant, client: httpx2.AsyncClient
) -> None:
    box = await letters.mailbox(client)
    await letters.hand_in(shared_house, letters.letter("Hello"), box["address"])
    reader = await shared_house.tenant(("read",), account_id=tenant.account_id)
    sender = await shared_house.tenant(("send",), account_id=tenant.account_id)
    async with asked(shared_house) as nobody:
        answer = await nobody.get("/api/v1/messages")
        assert (answer.status_code, answer.headers["content-type"]) == (401, "text/plain; charset=utf-8")
        assert answer.headers["www-authenticate"].startswith("Basic ")
        assert (await nobody.get("/livez")).text == (await nobody.get("/readyz")).text == "ok"
        answer = await nobody.post("/api/v1/send", json={})
        assert (answer.status_code, list(answer.json())) == (401, ["Error"])
    async with httpx2.AsyncClient(base_url=shared_house.url, headers=tenant.headers) as rooted:
        for path in ("/api/v1/messages", "/livez", "/view/latest.html"):
            assert (await rooted.get(path)).status_code == 404  # outside dev there is nothing at the root
        assert (await rooted.get(f"{PREFIX}/api/v1/messages")).json()["total"] == 1  # a bearer token does, too
    async with asked(shared_house, token=reader.key) as one:
        assert (await one.get("/api/v1/message/latest")).status_code == 200
        assert (await one.get("/api/v1/messages")).json()["unread"] == 1  # who may only read changes nothing by it
        for method, path in (("DELETE", "/messages"), ("PUT", "/messages"), ("PUT", "/tags"), ("POST", "/send")):
            assert (await one.request(method, f"/api/v1{path}", json={})).status_code == 403
    async with asked(shared_house, token=sender.key) as one:
        assert (await one.get("/api/v1/messages")).status_code == 403
    async with asked(shared_house, token="wrong") as one:
        assert (await one.get("/api/v1/messages")).status_code == 401
    await dev_house.tenant()
    async with httpx2.AsyncClient(base_url=dev_house.url) as anybody:
        rebound = {"Host": "mail.attacker.example"}  # a name that was made to lead here
        assert (await anybody.get("/api/v1/messages", headers=rebound)).status_code == 401
        foreign = {"Origin": "https://attacker.example"}
        for method, path in (("POST", "/api/v1/send"), ("DELETE", "/api/v1/messages")):
            assert (await anybody.request(method, path, headers=foreign)).status_code == 401
        own = {"Origin": dev_house.url}
        assert (await anybody.delete("/api/v1/messages", headers=own)).text == "ok"
        assert (await anybody.get("/api/v1/messages", headers={"Host": "postroom:8025"})).status_code == 200
        assert (await anybody.post("/api/v1/messages")).status_code == 405
