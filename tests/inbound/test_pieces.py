"""Bytes of a session one by one, against the real desk: each value in each place, and the session cut at each point."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

import pytest

from gateway.inbound import parsing
from gateway.storage import db
from tests.inbound import test_receive
from tests.inbound.dialogue import expectations, listening, said_at_once
from tests.inbound.test_fuzz import HELLO, REPLY, State, said, watched
from tests.inbound.test_protocol import SESSION_CODES
from tests.storage import rows

pytestmark = pytest.mark.anyio

FORMS = (
    *(
        b"%cNOOP",
        b"NO%cOP",
        b"NOOP%c",
        b"EHLO %c",
        b"VRFY %c",
        b"MAIL FROM:<%ca@b.example>",
        b"MAIL FROM:<a@b%c.example>",
    ),
    *(b"MAIL FROM:<a@b.example>%c", b"MAIL FROM:<a@b.example> SIZE=%c", b"RCPT TO:<%c@postroom.test>"),
    b"RCPT TO:%c",
)
ANSWERS = frozenset(["220", "221", "250", "252", "500", "501", "503", "550", "552", "553"])
SESSION = (
    b"EHLO peer.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<box@postroom.test>\r\nDATA\r\n"
    b"Subject: s\r\n\r\n..dot\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<box+tag@postroom.test>\r\nDATA\r\n.\r\nQUIT\r\n"
)
STORED = (
    "select g.mail_from, g.subject, g.tag, g.size, g.envelope->'rcpt_to' as rcpt_to, g.transcript, c.raw"
    " from messages g join contents c on c.id = g.content_id and c.account_id = g.account_id"
    " where g.account_id = $1 and g.seq > $2 order by g.seq"
)


async def test_every_byte_in_every_place_of_a_command_is_answered(database: db.Database) -> None:
    """With octets that are no UTF-8 left to fail, some heard 451."""
    pool = parsing.ParsingPool()
    lines = [form.replace(b"%c", bytes([byte])) for form in FORMS for byte in range(256)]
    begin = b"MAIL FROM:<a@b.example>\r\n"
    script = b"".join(begin * line.startswith(b"RCPT") + line + b"\r\nEHLO x\r\n" for line in lines)
    with watched() as faults:
        async with listening(test_receive.Desk(database, pool), limits={"errors": 10**9}) as port:
            replies = await said(State(port=port, before=HELLO), script + b"QUIT\r\n")
        assert REPLY.sub("", replies) == ""
        assert set(re.findall(r"^\d\d\d(?= )", replies, re.MULTILINE)) <= ANSWERS
        assert len(expectations(replies)) >= 2 * len(lines)
        assert faults.found == []
    await pool.close()


async def test_a_session_cut_anywhere_stores_the_same(database: db.Database, account_id: UUID) -> None:
    await rows.mailbox(database, account_id, address="box@postroom.test")
    pool = parsing.ParsingPool()
    wanted: list[dict[str, Any]] | None = None
    async with listening(test_receive.Desk(database, pool)) as port:
        for at in range(0, len(SESSION), 5):
            async with database.connection() as connection:
                head = await connection.fetchval("select last_seq from event_heads where account_id = $1", account_id)
            codes = expectations(await said_at_once(port, [SESSION[:at], SESSION[at:]]))
            assert codes == SESSION_CODES, f"cut at {at}"
            async with database.connection() as connection:
                stored = [dict(row) for row in await connection.fetch(STORED, account_id, head)]
            wanted = wanted or stored
            assert stored == wanted, f"cut at {at}"
    assert wanted is not None
    assert [row["raw"] for row in wanted] == [b"Subject: s\r\n\r\n.dot\r\n", b""]
    await pool.close()
