"""DMARC records, authors and alignment (RFC 7489)."""

from __future__ import annotations

import pytest

from gateway.mail.auth import dkim, dmarc


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["v=DMARC1; p=none"], ("none", "none", "none", False, False, 100)),
        (["v=DMARC1; p=reject; sp=quarantine"], ("reject", "quarantine", "quarantine", False, False, 100)),
        (["v=DMARC1; p=none; sp=reject; np=quarantine"], ("none", "reject", "quarantine", False, False, 100)),
        (["v=DMARC1;p=quarantine;adkim=s;aspf=s;pct=20;"], ("quarantine", "quarantine", "quarantine", True, True, 20)),
        (["v=DMARC1; p=reject; pct=many"], ("reject", "reject", "reject", False, False, 100)),
        (["unrelated", "v=DMARC1; p=none", "v=spf1 -all"], ("none", "none", "none", False, False, 100)),
        (["v=DMARC1; p=whatever; rua=mailto:a@b.example"], ("none", "none", "none", False, False, 100)),
        (["v=DMARC1; rua=mailto:a@b.example"], ("none", "none", "none", False, False, 100)),
        (["v=DMARC1; p=whatever"], None),
        (["v=DMARC1"], None),
        (["v=DMARC1; p=none", "v=DMARC1; p=reject"], None),
        (["v=DMARC2; p=none"], None),
        (["v=DMARC10; p=none"], None),
        (["p=none; v=DMARC1"], None),
        (["v=DMARC1; =; p=none"], None),
        ([], None),
    ],
)
def test_records(texts: list[str], expected: tuple[str, str, str, bool, bool, int] | None) -> None:
    record = dmarc.select([text.encode() for text in texts])
    found = record and (
        record.policy,
        record.subdomains,
        record.absent,
        record.strict_dkim,
        record.strict_spf,
        record.percent,
    )
    assert found == expected


def author(header: str) -> str:
    return dmarc.author(dkim.Letter(f"{header}\r\n\r\nHello\r\n".encode()))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("From: A <a@Example.COM>", "example.com"),
        ("From: a@example.com, b@EXAMPLE.com", "example.com"),
        ("From:\r\n =?utf-8?q?=C3=A4?= <a@sub.example.com>", "sub.example.com"),
        ("From: a@bücher.example", "xn--bcher-kva.example"),
        ('From: "ceo@bank.example" <a@evil.example>', "evil.example"),
    ],
)
def test_authors(header: str, expected: str) -> None:
    assert author(header) == expected


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("From: a@example.com, b@example.org", "several domains"),
        ("From: a@example.com\r\nFrom: b@example.com", "several From fields"),
        ("FROM: a@example.com\r\nfrom: a@example.com", "several From fields"),
        ("To: a@example.com", "no From field"),
        ("From: nobody", "no address"),
        ("From: a@[127.0.0.1]", "no domain name"),
    ],
)
def test_mail_without_exactly_one_author_has_none(header: str, why: str) -> None:
    with pytest.raises(dmarc.NoAuthor, match=why):
        author(header)


@pytest.mark.parametrize(
    ("domain", "author", "relaxed", "strict"),
    [
        ("example.com", "example.com", True, True),
        ("mail.example.com", "example.com", True, False),
        ("example.com", "mail.example.com", True, False),
        ("a.example.com", "b.example.com", True, False),
        ("example.co.uk", "other.co.uk", False, False),
        ("a.example.co.uk", "example.co.uk", True, False),
        ("co.uk", "example.co.uk", False, False),
        ("evilexample.com", "example.com", False, False),
        ("alice.github.io", "bob.github.io", False, False),
        ("", "example.com", False, False),
    ],
)
def test_alignment(domain: str, author: str, relaxed: bool, strict: bool) -> None:
    assert dmarc.aligned(domain, author, strict=False) is relaxed
    assert dmarc.aligned(domain, author, strict=True) is strict
