"""Who lives here? Replies and reply times of probes at live, expired, deleted and unknown addresses, interleaved.

AUC: how often a guess by the time alone tells two kinds of addresses apart; 0.5 = never better than a coin. Beside them
mailboxes that hold mail until its sender is judged, and one of an account that is over its quota; and by HTTP somebody
else's message against one that there is not.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

import asyncpg
import httpx2
from uuid_utils.compat import uuid7

from bench import tenants
from bench.report import Row
from bench.setting import Setting
from tests import house, nameserver
from tests.inbound import dialogue

NAME = "enumeration"
PROBES: Final = 6_000
WARM: Final = 120  # probes that are not counted
BOXES: Final = 20  # of each kind
LOW, HIGH = 0.45, 0.55
EQUAL: Final = ("live", "expired", "deleted", "unknown", "held", "over quota")  # that nobody is to tell apart
LETTER: Final = b"From: a@example.com\r\nSubject: are you there\r\n\r\n" + b"Is anybody there?\r\n" * 100 + b".\r\n"
ZONE: Final[nameserver.Zone] = {"example.com": {"TXT": ["v=spf1 +all"]}}
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Times = dict[str, list[float]]  # seconds, by kind


async def run(setting: Setting) -> list[Row]:
    async with setting.database() as dsn, nameserver.serving(dict(ZONE)) as names:
        await _people(dsn)
        settings = {"SENDER_AUTH": "true", "DNS_SERVERS": names.address}
        async with setting.house(dsn, settings=settings) as home:
            probes = setting.scaled(PROBES, 600)
            data, recipients, replies = await _probe(home, probes)
            http, answers = await _ask(home, probes // 6)
    return [
        _row("reply to the final dot", data, EQUAL, replies),
        _row("reply to RCPT", recipients, EQUAL, replies),
        _row("GET of a message: somebody else's, and none", http, tuple(http), answers),
    ]


async def _people(dsn: str) -> None:
    """Mailboxes `<kind><n>@postroom.test`; there is none of kind "unknown"."""
    account, poor = await tenants.account(dsn), await tenants.account(dsn, "over quota")
    for kind in ("live", "expired", "deleted", "held"):
        expires = "now() - interval '1 hour'" if kind == "expired" else "now() + interval '1 day'"
        await tenants.mailboxes(dsn, account, BOXES, name=kind, expires=expires)
    await tenants.mailboxes(dsn, poor, BOXES, name="overquota")
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("update mailboxes set deleted_at = now() where address like 'deleted%'")
        await connection.execute("update mailboxes set sender_policy = 'flag' where address like 'held%'")
        await connection.execute("update event_heads set stored_bytes = 1::bigint << 50 where account_id = $1", poor)
    finally:
        await connection.close()


async def _probe(home: house.House, count: int) -> tuple[Times, Times, set[str]]:
    """Times of the replies to the final dot and to RCPT, and what was said, ids left out."""
    kinds = [kind for kind in EQUAL for _ in range(count // len(EQUAL))]
    random.Random(7).shuffle(kinds)
    data: Times = defaultdict(list)
    recipients: Times = defaultdict(list)
    said: set[str] = set()
    reader, writer = await asyncio.open_connection("127.0.0.1", home.smtp_port)
    peer = dialogue.Peer(reader, writer)
    await peer.greet()
    for number, kind in enumerate([*kinds[:WARM], *kinds]):
        address = f"{kind.replace(' ', '')}{number % BOXES + 1}@postroom.test"
        to_rcpt, to_dot, replies = await _mail(peer, address)
        if number >= WARM:
            recipients[kind].append(to_rcpt)
            data[kind].append(to_dot)
            said.add(_ID.sub("…", replies))
    for line in ("VRFY %s", "EXPN %s"):
        said_here = {await _said(peer, line % f"{kind.replace(' ', '')}1@postroom.test") for kind in EQUAL}
        said |= said_here if len(said_here) > 1 else set()
    peer.close()
    return data, recipients, said


async def _mail(peer: dialogue.Peer, address: str) -> tuple[float, float, str]:
    replies = await _said(peer, "MAIL FROM:<a@example.com>")
    began = time.perf_counter()
    replies += await _said(peer, f"RCPT TO:<{address}>")
    to_rcpt = time.perf_counter() - began
    replies += await _said(peer, "DATA")
    began = time.perf_counter()
    await peer.send(LETTER)
    replies += await peer.reply()
    return to_rcpt, time.perf_counter() - began, replies


async def _said(peer: dialogue.Peer, line: str) -> str:
    await peer.send(line.encode() + b"\r\n")
    return await peer.reply()


async def _ask(home: house.House, count: int) -> tuple[Times, set[str]]:
    """Times of answers to who asks for what is somebody else's, and for what is not there."""
    stranger = await home.tenant()
    connection = await asyncpg.connect(home.dsn)
    try:
        others = [str(row["id"]) for row in await connection.fetch("select id from messages limit 100")]
    finally:
        await connection.close()
    kinds = ["somebody else's", "none"] * (count // 2)
    random.Random(7).shuffle(kinds)
    times: Times = defaultdict(list)
    said: set[str] = set()
    async with home.client(stranger.key) as caller:
        for number, kind in enumerate([*kinds[:20], *kinds]):
            wanted = others[number % len(others)] if kind != "none" else str(uuid7())
            began = time.perf_counter()
            answer = await caller.get(f"/messages/{wanted}")
            if number >= 20:
                times[kind].append(time.perf_counter() - began)
                said.add(_ID.sub("…", f"{answer.status_code} {sorted(_lasting(answer))} {answer.text}"))
    return times, said


def _lasting(answer: httpx2.Response) -> list[tuple[str, str]]:
    """The header fields that are not another for every answer."""
    passing = {"x-request-id", "ratelimit-remaining", "ratelimit-reset"}
    return [(name, value) for name, value in answer.headers.items() if name not in passing]


def auc(ones: Sequence[float], others: Sequence[float]) -> float:
    """How often one of `others` is larger than one of `ones`; ties count half (Mann and Whitney)."""
    counts = Counter(ones)
    below = equal = smaller = 0
    pending = sorted(counts)
    place = 0
    for value in sorted(others):
        while place < len(pending) and pending[place] < value:
            below += counts[pending[place]]
            place += 1
        smaller += below
        equal += counts.get(value, 0)
    return (smaller + equal / 2) / (len(ones) * len(others))


def _row(what: str, times: Times, kinds: Sequence[str], said: set[str]) -> Row:
    pairs = {(a, b): auc(times[a], times[b]) for a, b in itertools.combinations(kinds, 2)}
    (a, b), worst = max(pairs.items(), key=lambda one: abs(one[1] - 0.5))
    return Row(
        what=f"AUC, {what}: {', '.join(kinds)}",
        ours=f"{min(pairs.values()):.3f} … {max(pairs.values()):.3f}",
        limit_name="blind",
        limit="0.5",
        ratio=None,
        target=f"{LOW} … {HIGH}, replies equal",
        met=min(pairs.values()) >= LOW and max(pairs.values()) <= HIGH and len(said) == 1,
        note=f"{sum(map(len, times.values())):,} probes; worst {a} / {b} {worst:.3f}; {len(said)} dialogue(s)",
    )
