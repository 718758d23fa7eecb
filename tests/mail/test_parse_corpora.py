"""Other projects' test mails, whole and spoilt: both readers find the same, and neither ever fails."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from gateway.mail import header, parse
from tests.corpus import octets

LONG_SECONDS = float(os.environ.get("MUTATION_SECONDS", "120"))  # of the long run


def leaves(parts: list[parse.Part]) -> list[tuple[str, str | None, str | None, bytes]]:
    """What the parts are; without their last line ends, which readers of mail that was cut off see differently."""
    return [(part.content_type, part.filename, part.content_id, part.content.rstrip(b"\r\n")) for part in parts]


@pytest.mark.parametrize("path", octets.PATHS, ids=octets.name)
def test_where_the_fast_reader_decides_it_finds_what_the_slow_one_finds(path: Path) -> None:
    """Negative control: without the checks for lost boundaries and bodies, eight of CPython's mails failed here."""
    raw = octets.sent(path)
    parts = parse.parts_fast(raw, header.scan(raw))
    fast, slow = parse.parse_fast(raw), parse.parse_slow(raw)
    assert slow.status == "repaired"
    if parts is not None:
        assert fast is not None
        assert leaves(parts) == leaves(parse.parts_slow(raw)[0])
        assert (fast.text or "").rstrip("\n") == (slow.text or "").rstrip("\n")
        assert (fast.html or "").rstrip("\n") == (slow.html or "").rstrip("\n")


def check(raw: bytes) -> None:
    """No reader fails, all keep their caps, and attachments are what the list says."""
    slow = parse.parse_slow(raw)
    fast = parse.parse_fast(raw)
    for parsed in (slow, parse.raw_only(raw), fast):
        if parsed is None:
            continue
        assert len(parsed.attachments) <= parse.MAX_PARTS
        assert len(parsed.warnings) <= parse.MAX_WARNINGS
        assert len(parsed.headers) <= header.MAX_FIELDS
        assert all(found.filename is None or 0 < len(found.filename) <= 255 for found in parsed.attachments)
        derived = repr(parsed)
        assert not any(refused in derived for refused in ("\\x00", "\\ud8", "\\udc"))
    for found in slow.attachments[:3]:
        assert parse.attachment_slow(raw, found.index)[0] == found
    for found in fast.attachments[:3] if fast else ():
        assert parse.attachment_fast(raw, found.index) == (found, parse.attachment(raw, found.index)[1])


@pytest.mark.parametrize("seed", range(8))
def test_spoilt_mail_never_fails(seed: int) -> None:
    """Negative control: with the fast parser's own ParseError not caught, every one of these failed."""
    chance = random.Random(seed)
    for _ in range(60):
        raw = octets.spoilt(octets.sent(chance.choice(octets.PATHS)), chance)
        check(raw)


@pytest.mark.faults
def test_spoilt_mail_never_fails_in_a_long_run() -> None:
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)
    end = time.monotonic() + LONG_SECONDS
    while time.monotonic() < end:
        raw = octets.spoilt(octets.sent(chance.choice(octets.PATHS)), chance)
        try:
            check(raw)
        except BaseException:
            print(f"seed {seed}: {raw!r}")  # noqa: T201 (the mail that did it, for whoever reads the failure)
            raise
