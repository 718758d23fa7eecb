"""Whom mail is taken for: however an address that leads elsewhere is written, it is refused and nothing is stored."""

from __future__ import annotations

from uuid import UUID

import pytest

from gateway.inbound import parsing, receive
from gateway.storage import db
from tests.inbound import test_receive
from tests.inbound.dialogue import Peer, listening
from tests.storage import rows

pytestmark = pytest.mark.anyio

OURS = "postroom.test"

# Another host's, each in its way
RELAYED = [
    *("<a@evil.example>", "<a@EVIL.example>", "<a@evil.example.>", "a@evil.example", "<a@sub.postroom.test>"),
    *("<a@postroom.test.evil.example>", "<a@evil-postroom.test>", "<a@postroom.tes>", "<a@ostroom.test>"),
    *("<a@test>", "<a@postroom>", "<a@localhost>", "<a@postroom.test.>", "<a@.postroom.test>"),
    *("<a@postroom..test>", "<a@evil.example@evil.example>", "<a@postroom.test@evil.example>"),
    *("<a@evil.example@postroom.test>", "<@postroom.test:a@evil.example>"),
    *("<@postroom.test,@b.example:a@evil.example>", "<@evil.example:a@evil.example>"),
    *('<"a@postroom.test"@evil.example>', '<"a"@evil.example>', '<"a b"@evil.example>'),
    *('<"a>@postroom.test"@evil.example>', "<a@[127.0.0.1]>", "<a@[IPv6:::1]>", "<a@[postroom.test]>"),
    *("<a@127.0.0.1>", "<a@2130706433>", "<a@[]>", "<a@[>", "<postmaster@evil.example>", "<postmaster@>", "<a@>"),
    *("<@evil.example>", "<@postroom.test>", "<@>", "<@:>", "<:a@x>", "<a@evil.example> <b@postroom.test>"),
    *("<a@evil.example>,<b@postroom.test>", "<b@postroom.test>,<a@evil.example>"),
    *("<a@evil.example>b@postroom.test", "b@postroom.test,a@evil.example", "<a@evil.example,b@postroom.test>"),
    *("<a@evil.example;b@postroom.test>", "<a@postroom.test a@evil.example>", "<a @postroom.test>"),
    *("<a@ postroom.test>", "<a@evil.example(@postroom.test)>", "<a@postroom.test(@evil.example)>"),
    *("<(x)a@evil.example>", "<a@evil.example#x>", "<a@postroom.test", "a@postroom.test>", "<<a@postroom.test>>"),
    *("<a@evil.example\x00@postroom.test>", "<a@postroom.test\x00>", "<a@evil.example\t@postroom.test>"),
    *("<a@postroom.test\x7f>", "<a@postroom.test\x85>", "<a@postroom\u3002test\u3002evil>"),
    *("<a@xn--postroom-.test>", "<a@pos\u0442room.test>", "<a@xn--posroom-rmf.test>", "<a@post\xadroom.evil>", "a"),
    *("<a>", "<a%evil.example>", "<evil.example!a>", "<>", "", '<"a@evil.example>'),
    *("<a@evil.example/postroom.test>", "<mailto:a@evil.example>", "<a@postroom.test?x@evil.example>"),
    *("<a@postroom.test%00.evil.example>", "<a@@postroom.test>"),
]
# Ours, and everything before the last @ is a name like any other: nothing is routed by it (RFC 5321 section 2.3.11)
TAKEN = {
    "<box@postroom.test>": "box@postroom.test",
    "<BOX@PostRoom.TEST>": "box@postroom.test",
    "box@postroom.test": "box@postroom.test",
    "<box+tag@postroom.test>": "box@postroom.test",
    "<@evil.example:box@postroom.test>": "box@postroom.test",
    "<@a.example,@b.example:box@postroom.test>": "box@postroom.test",
    '<"box"@postroom.test>': "box@postroom.test",
    '<"b\\ox"@postroom.test>': "box@postroom.test",
    "<box@postroom.test> NOTIFY=NEVER ORCPT=rfc822;a@evil.example": "box@postroom.test",
    "<a%evil.example@postroom.test>": "a%evil.example@postroom.test",
    "<evil.example!a@postroom.test>": "evil.example!a@postroom.test",
    '<"a@evil.example"@postroom.test>': '"a@evil.example"@postroom.test',
    '<"a@evil.example> x"@postroom.test>': '"a@evil.example> x"@postroom.test',
    "<a@b\u00fccher.test>": "a@xn--bcher-kva.test",
    "<a@xn--bcher-kva.test>": "a@xn--bcher-kva.test",
    "<a@B\u00dcCHER\u3002test>": "a@xn--bcher-kva.test",
}


async def ask(peer: Peer, path: str, *, mail_from: str = "<a@b.example>") -> tuple[str, str]:
    """The replies to RCPT and to what follows it: DATA, or its end."""
    await peer.talk((f"MAIL FROM:{mail_from} SMTPUTF8", "250"))
    await peer.send(f"RCPT TO:{path}\r\n".encode())
    answer = await peer.reply()
    await peer.send(b"DATA\r\n")
    end = await peer.reply()
    if end.startswith("354"):
        await peer.send(b"Subject: x\r\n\r\n.\r\n")
        end = await peer.reply()
    await peer.talk(("RSET", "250"))
    return answer, end


async def test_nothing_is_taken_for_anybody_elsewhere_however_it_is_written(
    database: db.Database, account_id: UUID
) -> None:
    """Not even where the sender is ours. With `endswith` in Territory a@sub.postroom.test was taken."""
    pool = parsing.ParsingPool()
    desk = test_receive.Desk(database, pool, mail_domains=(OURS, "xn--bcher-kva.test"))
    places = {name: await rows.mailbox(database, account_id, address=name) for name in set(TAKEN.values())}
    async with listening(desk, limits={"errors": 10**9}) as port:
        peer = await port.connect()
        await peer.greet()
        assert len(RELAYED) >= 60
        for path in RELAYED:
            for mail_from in ("<a@b.example>", "<box@postroom.test>"):
                answer, end = await ask(peer, path, mail_from=mail_from)
                assert answer.startswith(("550 5.7.1 ", "501 5", "553 5.1.3 ")), (path, answer)
                assert end.startswith("503 5.5.1 "), path
        assert await ask(peer, "<a@evil.example>") == (
            receive.RELAYING_DENIED + "\r\n",
            "503 5.5.1 RCPT comes first\r\n",
        )
        assert await rows.count(database, "select count(*) from contents") == 0
        for path in TAKEN:
            answer, end = await ask(peer, path)
            assert (answer[:9], end[:9]) == ("250 2.1.5", "250 2.0.0"), (path, answer, end)
    for name, box in places.items():
        wanted = sum(leads_to == name for leads_to in TAKEN.values())
        assert await rows.count(database, "select count(*) from messages where mailbox_id = $1", box) == wanted, name
    assert await test_receive.dropped(database) == 0
    assert await rows.count(database, "select count(*) from emails") == 0
    await pool.close()
