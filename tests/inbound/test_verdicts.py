"""One message judged as a whole: over real DNS packets, with names that answer, lie, fail and are silent."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import dkim as dkimpy
import pytest

from gateway.inbound import judging, parsing, verdicts
from gateway.mail.auth import arc, dkim, results
from gateway.resolving import DnsResolver
from tests import nameserver
from tests.flows.letters import letter
from tests.mail.auth import signing
from tests.mail.auth.test_dkim import data, line

pytestmark = pytest.mark.anyio

KEY = signing.rsa_key()
ZONE: nameserver.Zone = {
    "example.com": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]},
    "_dmarc.example.com": {"TXT": ["v=DMARC1; p=reject; sp=quarantine; np=none; pct=10"]},
    "s._domainkey.example.com": {"TXT": [signing.record(KEY)]},
    "e._domainkey.example.com": {"TXT": [signing.record(signing.ed25519_key())]},
    "sub.example.com": {"TXT": ["v=spf1 include:example.com -all"], "A": ["192.0.2.1"]},
    "strict.example": {"TXT": ["v=spf1 include:example.com -all"]},
    "mail.strict.example": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]},
    "_dmarc.strict.example": {"TXT": ["v=DMARC1; p=reject; adkim=s; aspf=s"]},
    "s._domainkey.mail.strict.example": {"TXT": [signing.record(KEY)]},
    "helo.example": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]},
    "plain.example": {"A": ["192.0.2.1"]},
    "other.example": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]},
    "s._domainkey.other.example": {"TXT": [signing.record(KEY)]},
    "failing.example": nameserver.SERVFAIL,
    "_dmarc.failing.example": {"TXT": ["v=DMARC1; p=reject"]},
    "silent.example": nameserver.SILENCE,
    "s._domainkey.silent.example": nameserver.SILENCE,
    "_dmarc.silent.example": {"TXT": ["v=DMARC1; p=reject"]},
    "test._domainkey.example.com": {"TXT": [line("test.txt").decode()]},
    "test._domainkey.list.example": {"TXT": [line("test.txt").decode()]},
}


async def judge(
    raw: bytes,
    *,
    mail_from: str = "a@example.com",
    ip: str = "192.0.2.1",
    helo: str = "helo.example",
    trusted: tuple[str, ...] = (),
    seconds: float = 5.0,
) -> verdicts.Verdict:
    async with nameserver.serving(dict(ZONE)) as server:
        judging = verdicts.Judge(DnsResolver([server.address]), trusted_sealers=trusted)
        peer = verdicts.Peer(remote_ip=ip, mail_from=mail_from, helo=helo)
        return await judging.judge(peer, verdicts.examine(raw), now=datetime.now(UTC), seconds=seconds)


def mail(author: str = "a@example.com", signer: str = "", **more: Any) -> bytes:
    raw = letter("Hello", sender=author)
    return signing.signed(raw, KEY, domain=signer, names="from:subject", **more) if signer else raw


FORGER = "198.51.100.7"


@pytest.mark.parametrize(
    ("raw", "peer", "expected", "fails"),
    [
        (mail(), {}, "pass none pass", False),  # SPF alone
        (mail(signer="example.com"), {"ip": FORGER}, "fail pass pass", False),  # DKIM alone, as when forwarded
        (mail(), {"ip": FORGER}, "fail none fail", True),
        (mail(), {"mail_from": "a@other.example"}, "pass none fail", True),  # passes, for somebody else
        (mail(signer="other.example"), {"mail_from": "a@other.example"}, "pass pass fail", True),
        (mail("a@sub.example.com"), {}, "pass none pass", False),  # aligned: the same organization
        (mail(signer="example.com", selector="none"), {"ip": FORGER}, "fail permerror fail", True),
        (mail("a@strict.example"), {"mail_from": "a@mail.strict.example"}, "pass none fail", True),
        (mail("a@strict.example", "mail.strict.example"), {"mail_from": ""}, "pass pass fail", True),
        (mail("a@strict.example"), {"mail_from": "a@strict.example"}, "pass none pass", False),
        (mail("a@plain.example"), {"mail_from": "a@plain.example"}, "none none none", False),
        (mail("a@other.example"), {"mail_from": "a@other.example", "ip": FORGER}, "fail none none", True),
        (
            mail("a@other.example", "other.example"),
            {"mail_from": "a@other.example", "ip": FORGER},
            "fail pass none",
            False,
        ),
        (mail("a@helo.example"), {"mail_from": ""}, "pass none none", False),  # the null reverse path
        (mail("a@failing.example"), {"mail_from": "a@failing.example"}, "temperror none temperror", False),
        (mail("a@example.com, b@evil.example"), {}, "pass none permerror", True),
        (b"From: a@example.com\r\n" + mail(), {}, "pass none permerror", True),
        (b"Subject: nobody\r\n\r\n", {}, "pass none permerror", True),
        (mail(), {"ip": ""}, "none none none", False),  # handed in by HTTP: SPF cannot be asked
        (mail(signer="example.com"), {"ip": ""}, "none pass pass", False),
        (mail(), {"ip": "::ffff:192.0.2.1"}, "pass none pass", False),
    ],
)
async def test_verdicts(raw: bytes, peer: dict[str, Any], expected: str, fails: bool) -> None:
    verdict = await judge(raw, **peer)
    told = verdict.told()
    assert f"{told['spf']} {told['dkim']} {told['dmarc']}" == expected, verdict
    assert verdict.fails is fails
    assert verdict.stored()["details"]["spf"] is not None


async def test_ed25519_and_rsa_side_by_side() -> None:
    raw = signing.signed(mail(signer="example.com"), signing.ed25519_key(), domain="example.com", selector="e")
    verdict = await judge(raw)
    assert [(one.result, one.algorithm) for one in verdict.signatures] == [
        ("pass", "ed25519-sha256"),
        ("pass", "rsa-sha256"),
    ]


async def test_the_policy_of_a_subdomain_is_the_one_that_its_organization_sets() -> None:
    assert (await judge(mail("a@sub.example.com"))).dmarc.policy == "quarantine"
    assert (await judge(mail("a@nowhere.example.com"))).dmarc.policy == "none"  # np=, for a name that is not there
    assert (await judge(mail("a@example.com"))).dmarc.policy == "reject"
    assert (await judge(mail("a@example.com"))).stored()["details"]["dmarc"]["pct"] == 10


async def test_at_most_five_signatures_are_judged_the_authors_first() -> None:
    raw = mail(signer="example.com")
    for _ in range(20):
        raw = signing.signed(raw, KEY, domain="other.example", names="from:subject")
    verdict = await judge(raw, ip=FORGER)
    assert len(verdict.signatures) == verdicts.MAX_SIGNATURES
    assert verdict.signatures[0].domain == "example.com"
    assert verdict.dmarc.result == "pass"


async def test_large_mail_is_examined_by_a_child_with_the_same_result() -> None:
    """In a thread, as before, 25 MB under five signatures kept the loop of `worker` waiting for 3 s."""
    pool = parsing.ParsingPool(judging.EXAMINER, workers=1, seconds=20)
    try:
        for raw in (mail(signer="example.com"), mail(), ONE, TWO, b""):
            answer = await pool.ask(raw)
            assert answer is not None
            assert judging.evidence(answer) == verdicts.examine(raw)
    finally:
        await pool.close()


async def test_a_silent_name_server_takes_no_longer_than_is_given() -> None:
    """What is known by then counts; the rest is temperror, and no reason to drop anything."""
    raw = mail("a@silent.example", "silent.example")
    async with asyncio.timeout(30):
        verdict = await judge(raw, mail_from="a@silent.example", seconds=0.3)
    assert verdict.told() == {"spf": "temperror", "dkim": "temperror", "dmarc": "temperror", "arc": "none"}
    assert not verdict.fails
    verdict = await judge(raw, mail_from="a@example.com", seconds=0.5)
    assert verdict.told() == {"spf": "pass", "dkim": "temperror", "dmarc": "temperror", "arc": "none"}
    late = await judge(mail(), seconds=0)
    assert late.told() == {"spf": "temperror", "dkim": "none", "dmarc": "temperror", "arc": "none"}


async def test_results_that_others_wrote_are_not_believed() -> None:
    forged = b"Authentication-Results: postroom.test; spf=pass; dkim=pass; dmarc=pass\r\n" + mail()
    assert (await judge(forged, ip=FORGER)).fails


def test_what_stands_in_the_field_cannot_break_out_of_it() -> None:
    auth = {"spf": "fail", "dkim": "none", "dmarc": "fail", "details": {"dmarc": {"domain": "a.b", "reason": 'x"; y'}}}
    evil = 'a;dmarc=pass "\\\r\nX: y@evil.example'
    value = results.value("mx.example", auth, evil, "")
    assert value == (
        'mx.example; spf=fail smtp.mailfrom="a;dmarc=pass \\"\\\\??X: y@evil.example"; dkim=none; '
        'dmarc=fail reason="x\\"; y" header.from=a.b'
    )
    assert results.value("mx.example", {}, "a@b.c", "") is None


# ARC


def sealed(raw: bytes, domain: str, reported: str) -> bytes:
    """Passed on by `domain`, which says what it found."""
    raw = f"Authentication-Results: {domain}; {reported}\r\n".encode() + raw
    lines = dkimpy.arc_sign(raw, b"test", domain.encode(), data("test.private"), domain.encode())
    return b"".join(lines) + raw


ONE = sealed(mail(signer="example.com"), "list.example", "arc=none; spf=pass; dkim=pass; dmarc=pass")
TWO = sealed(ONE, "example.com", "arc=pass; spf=fail; dmarc=fail")


async def test_chains_that_hold() -> None:
    for raw, length, sealer in ((ONE, 1, "list.example"), (TWO, 2, "example.com")):
        chain = (await judge(raw)).chain
        assert (chain.result, chain.length, chain.sealer) == ("pass", length, sealer), chain.reason


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Hello.", b"Evil."),
        (b"Subject: Hello", b"Subject: Evil"),
        (b"cv=pass", b"cv=none"),
        (b"cv=none", b"cv=pass"),
        (b"ARC-Seal: i=1", b"X-Seal: i=1"),
        (b"ARC-Seal: i=1", b"ARC-Seal: i=3"),
        (b"ARC-Seal: i=1; ", b"ARC-Seal: i=1; h=from; "),
        (b"dkim=pass", b"dkim=fail"),
        (b"ARC-Authentication-Results: i=1", b"ARC-Authentication-Results: 1"),
    ],
)
async def test_chains_that_do_not(old: bytes, new: bytes) -> None:
    assert old in TWO
    assert (await judge(TWO.replace(old, new))).chain.result == "fail"


async def test_dkimpys_chain_with_h_in_its_seal_fails() -> None:
    lines = dkimpy.arc_sign(
        data("test.message"), b"test", b"example.com", data("test.private"), b"lists.example.org", timestamp="12345"
    )
    assert (await judge(b"".join(lines) + data("test.message"))).chain.result == "pass"
    broken = b"".join(lines).replace(b"t=12345;", b"t=12345; h=message-id : date : from;", 1)
    assert (await judge(broken + data("test.message"))).chain.result == "fail"


async def test_a_trusted_sealer_vouches_for_mail_that_a_list_has_changed() -> None:
    changed = mail(signer="example.com").replace(b"Subject: Hello", b"Subject: [list] Hello")
    passed_on = sealed(changed, "list.example", "arc=none; dkim=pass; dmarc=pass")
    refused = sealed(changed, "list.example", "arc=none; dkim=fail; dmarc=fail")
    verdict = await judge(passed_on, ip=FORGER, trusted=("list.example",))
    assert (verdict.dmarc.result, verdict.dmarc.by) == ("pass", ("arc",))
    assert "arc" in verdict.dmarc.reason
    assert not verdict.fails
    assert (await judge(passed_on, ip=FORGER)).dmarc.result == "fail"
    assert (await judge(passed_on, ip=FORGER, trusted=("other.example",))).dmarc.result == "fail"
    assert (await judge(refused, ip=FORGER, trusted=("list.example",))).dmarc.result == "fail"
    tampered = passed_on.replace(b"Hello.", b"Evil.")
    assert (await judge(tampered, ip=FORGER, trusted=("list.example",))).dmarc.result == "fail"


def test_too_many_sets_are_no_chain() -> None:
    sets = b"".join(
        b"ARC-Seal: i=%d; a=rsa-sha256\r\nARC-Message-Signature: i=%d\r\nARC-Authentication-Results: i=%d; x\r\n"
        % (n, n, n)
        for n in range(1, 60)
    )
    chain = arc.read(dkim.Letter(sets + mail()))
    assert chain.broken
