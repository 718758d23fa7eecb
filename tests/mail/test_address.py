"""Addresses are read strictly, written back as they were, and compared by one canonical form."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mail import address


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("jane@example.com", "jane@example.com"),
        ("Jane.Doe+Tag@EXAMPLE.com", "jane.doe+tag@example.com"),
        ("a%b!c@example.com", "a%b!c@example.com"),
        ("postmaster@localhost", "postmaster@localhost"),
        ('"jane"@example.com', "jane@example.com"),
        ('"a b"@example.com', '"a b"@example.com'),
        ('"a@evil"@example.com', '"a@evil"@example.com'),
        ("Ü@MÜNCHEN.de", "ü@xn--mnchen-3ya.de"),
        ("u\u0308@example.com", "ü@example.com"),
        ("a@XN--MNCHEN-3YA.de", "a@xn--mnchen-3ya.de"),
        ("a@example。com", "a@example.com"),
    ],
)
def test_an_address_has_one_canonical_form(text: str, canonical: str) -> None:
    assert address.parse(text).canonical == canonical


@pytest.mark.parametrize(
    "text",
    [
        *("", "@", "a", "a@", "@b", "a b@c.d", "a@b c", "a@b@c", "a..b@c.d", ".a@b.c", "a.@b.c", "<a@b.c>", "a@b.c>"),
        *("a@b..c", "a@.b", "a@b.", "a@-b.c", "a@b-.c", "a@b_c.d", "a@1.2.3.4", "a@[192.0.2.1]", "a@[IPv6:::1]"),
        *("a@b.c\n", "a\x00@b.c", "a@b.c\x00", "a\r\nb@c.d", "a\x85@b.c", "a\u2028@b.c", "a\ud800@b.c", "a\x7f@b.c"),
        *("a" * 65 + "@b.c", "a@" + "b" * 64 + ".c", "a@" + ".".join(["b" * 60] * 5), "ü" * 33 + "@b.c"),
        *('"a@b.c', 'a"b@c.d', '"a"b@c.d', '"a\n"@b.c', "a,b@c.d", "a@b,c", "Jane <a@b.c>", "a@ü..c", "a@" + "ü" * 300),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(address.InvalidAddress):
        address.parse(text)


@pytest.mark.parametrize(
    ("text", "domain", "canonical"),
    [
        ("Ann@Shop.EXAMPLE", "shop.example", "ann@shop.example"),
        ("<Ann@B\u00dcCHER.example.>", "b\u00fccher.example.>", "<ann@b\u00fccher.example.>"),
        ("<Ann@B\u00dcCHER.example>", "b\u00fccher.example>", "ann@xn--bcher-kva.example"),
        ("ann@B\u00dcCHER.example.", "xn--bcher-kva.example", "ann@b\u00fccher.example."),
        ('"a@b"@X.example', "x.example", '"a@b"@x.example'),
        ("x@[192.0.2.1]", "[192.0.2.1]", "x@[192.0.2.1]"),
        ("Nobody", "", "nobody"),
        ("", "", ""),
    ],
)
def test_what_was_taken_once_has_a_domain_and_a_canonical_form_whatever_it_is(
    text: str, domain: str, canonical: str
) -> None:
    assert (address.domain_of(text), address.canonical_of(text)) == (domain, canonical)


@pytest.mark.parametrize(
    ("domain", "written"),
    [
        ("A.example", {"a.example"}),
        ("B\u00dcCHER.example", {"b\u00fccher.example", "xn--bcher-kva.example"}),
        ("xn--bcher-kva.example", {"b\u00fccher.example", "xn--bcher-kva.example"}),
        ("xn--\u00fc", {"xn--\u00fc"}),
        ("a_b.example", {"a_b.example"}),
        ("[192.0.2.1]", {"[192.0.2.1]"}),
        ("", {""}),
        ("x" * 9000, {"x" * 9000}),
    ],
)
def test_a_domain_has_up_to_two_spellings(domain: str, written: set[str]) -> None:
    assert set(address.spellings(domain)) == written


def test_literals_are_let_in_by_a_flag_alone() -> None:
    assert str(address.parse("a@[192.0.2.1]", literals=True)) == "a@[192.0.2.1]"
    assert str(address.parse("a@[IPv6:2001:db8::1]", literals=True)) == "a@[IPv6:2001:db8::1]"
    for wrong in ("a@[192.0.2.300]", "a@[IPv6:x]", "a@[192.0.2.1", "a@[]", "a@[b.c]"):
        with pytest.raises(address.InvalidAddress):
            address.parse(wrong, literals=True)


@pytest.mark.parametrize(
    ("text", "tag", "without"),
    [
        ("a@b.c", None, "a@b.c"),
        ("a+b@c.d", "b", "a@c.d"),
        ("a+b+c@d.e", "b+c", "a@d.e"),
        ("a+@c.d", "", "a@c.d"),
        ("+b@c.d", None, "+b@c.d"),
        ('"a+b c"@d.e', "b c", "a@d.e"),
    ],
)
def test_the_tag_is_what_stands_behind_the_first_plus(text: str, tag: str | None, without: str) -> None:
    parsed = address.parse(text)
    assert parsed.tag == tag
    assert str(parsed.without_tag) == without


@given(st.emails())
def test_every_usual_address_is_read_and_written_back_unchanged(text: str) -> None:
    try:
        assert str(address.parse(text)) == text
    except address.InvalidAddress:  # hypothesis knows no length limit for the whole
        assert len(text) > address.MAX_ADDRESS or text.rpartition(".")[2].isdigit()


@given(st.text(max_size=80))
def test_reading_any_text_gives_an_address_or_says_that_it_is_none(text: str) -> None:
    for read in (address.parse, address.recipient, address.parse_mailbox):
        with contextlib.suppress(address.InvalidAddress):
            read(text)


@given(st.text(alphabet='a"\\@ .+<>é', max_size=20))
def test_what_is_accepted_is_accepted_again_in_all_its_forms(text: str) -> None:
    try:
        parsed = address.parse(text + "@example.com")
    except address.InvalidAddress:
        return
    assert address.parse(str(parsed)) == parsed
    assert address.parse(parsed.canonical).canonical == parsed.canonical
    assert address.parse(str(parsed.without_tag)) == parsed.without_tag


@pytest.mark.parametrize(
    ("text", "name", "spec"),
    [
        ("a@b.c", None, "a@b.c"),
        (" <a@b.c> ", None, "a@b.c"),
        ("Jane Doe <a@b.c>", "Jane Doe", "a@b.c"),
        ('"Doe, Jane" <a@b.c>', "Doe, Jane", "a@b.c"),
        ("Doe, Jane <a@b.c>", "Doe, Jane", "a@b.c"),
        (r'"a\"b\\c" <a@b.c>', 'a"b\\c', "a@b.c"),
        ('Jane "JD" Doe <a@b.c>', 'Jane "JD" Doe', "a@b.c"),
        ("a@b.c <a@b.c>", "a@b.c", "a@b.c"),
        ("Jöhn 😀 <a@b.c>", "Jöhn 😀", "a@b.c"),
        ('"" <a@b.c>', None, "a@b.c"),
    ],
)
def test_a_mailbox_is_a_name_and_an_address(text: str, name: str | None, spec: str) -> None:
    mailbox = address.parse_mailbox(text)
    assert (mailbox.name, str(mailbox.address)) == (name, spec)
    assert address.parse_mailbox(address.format_mailbox(mailbox)) == mailbox


@pytest.mark.parametrize(
    "text",
    [
        *("a@b.c, d@e.f", "a@b.c, D <d@e.f>", "A <a@b.c>, D <d@e.f>", "A <a@b.c> x", "A <b> <a@b.c>", "<>", "A <>"),
        *(
            "A\r\nBcc: x@y.z <a@b.c>",
            "A\n <a@b.c>",
            "A\x00 <a@b.c>",
            "A\t<a@b.c>",
            "A\u2028 <a@b.c>",
            '"A" "B" <a@b.c>',
        ),
    ],
)
def test_two_mailboxes_or_a_control_character_are_refused(text: str) -> None:
    with pytest.raises(address.InvalidAddress):
        address.parse_mailbox(text)


@pytest.mark.parametrize("path", ["<a@b.c>", "a@b.c", "<@x.y:a@b.c>", "<@x.y,@z.w:a@b.c>", "@x.y:a@b.c"])
def test_an_smtp_path_loses_its_brackets_and_its_route(path: str) -> None:
    assert str(address.recipient(path)) == "a@b.c"


@pytest.mark.parametrize(
    "path",
    [
        "<",
        ">",
        "<>",
        "<a@b.c",
        "a@b.c>",
        "<<a@b.c>>",
        "<@x.y>",
        "<@x.y:>",
        "<@:a@b.c>",
        "<a@b.c>SIZE=1",
        "<a@b.c>\n",
        "<a@[>",
    ],
)
def test_a_broken_path_is_refused(path: str) -> None:
    with pytest.raises(address.InvalidAddress):
        address.recipient(path)
