"""Codes and links: how often they are right on labelled mails, what they cost, the worst of hostile megabytes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import fast_mail_parser

from bench import letters
from bench.report import Row
from bench.setting import Setting
from gateway.mail import extract, parse
from tests.mail import labelled, test_extract_hostile

NAME = "extraction"
ROUNDS = 15
CALLS = 200  # of each round
MEGABYTE = 1_000_000
WORST_MS = 50.0
PRECISION, RECALL = 0.97, 0.95


async def run(setting: Setting) -> list[Row]:
    """No servers are needed: nothing leaves this process."""
    rounds = setting.rounds(ROUNDS)
    scored = [_worth(name, held_out) for name, held_out in (("tuned on", False), ("held out", True))]
    return [*scored, *(_cost(kind, rounds) for kind in ("text", "mixed")), _hostile(2 if setting.quick else 3)]


def _worth(name: str, held_out: bool) -> Row:
    score = labelled.score(mail for mail in labelled.mails() if mail.held_out is held_out)
    return Row(
        what=f"first code right, {score.mails} labelled mails {name}",
        ours=f"precision {score.precision:.3f}, recall {score.recall:.3f}",
        limit_name="",
        limit="",
        ratio=None,
        target=f"≥ {PRECISION} and ≥ {RECALL}",
        met=score.precision >= PRECISION and score.recall >= RECALL,
        note=f"{score.labelled} hold a code; kind right for {score.links_right} of {score.links} links",
    )


def _cost(kind: str, rounds: int) -> Row:
    raw = letters.head(1, b"a@example.com") + letters.body(kind, 5_000).removesuffix(letters.END)
    parsed = parse.parse_slow(raw)
    ours, peer = [], []
    for _ in range(rounds):
        ours.append(_microseconds(lambda: extract.everything(parsed.subject, parsed.text, parsed.html)))
        peer.append(_microseconds(lambda: fast_mail_parser.parse_email(raw)))
    mine, theirs = statistics.median(ours), statistics.median(peer)
    return Row(
        what=f"codes, links and snippet of 5 KB, {'plain text' if kind == 'text' else 'text and HTML'}",
        ours=f"{mine:.0f} µs",
        limit_name="fast-mail-parser alone on it",
        limit=f"{theirs:.0f} µs",
        ratio=mine / theirs,
        target="",
        met=None,
    )


def _microseconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    for _ in range(CALLS):
        work()
    return (time.process_time() - begun) / CALLS * 1e6


def _hostile(rounds: int) -> Row:
    """The best of a few tries of each, in processor time: other work on the machine is none of ours."""
    times: dict[str, float] = {}
    for piece in test_extract_hostile.PIECES:
        huge = piece * (MEGABYTE // len(piece))
        for name, text, html in (("text", huge, None), ("html", None, huge)):
            times[f"{piece!r} as {name}"] = min(_once(huge, text, html) for _ in range(rounds))
    slowest = sorted(times, key=lambda name: -times[name])[:4]
    return Row(
        what=f"the slowest of {len(times)} hostile megabytes",
        ours=f"{times[slowest[0]]:.0f} ms",
        limit_name="",
        limit="",
        ratio=None,
        target=f"≤ {WORST_MS:.0f} ms",
        met=times[slowest[0]] <= WORST_MS,
        note=", ".join(f"{name}: {times[name]:.0f}" for name in slowest).replace("|", "¦"),
    )


def _once(subject: str, text: str | None, html: str | None) -> float:
    begun = time.process_time()
    extract.everything(subject, text, html)
    return (time.process_time() - begun) * 1000
