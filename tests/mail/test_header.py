"""Header blocks of strangers: order and duplicates kept, everything decoded, nothing ever raised."""

from __future__ import annotations

import datetime as dt
import email.header
import email.message
import email.policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mail import charsets, header, words


def test_fields_keep_their_order_their_duplicates_and_their_unfolded_values() -> None:
    head = header.scan(b"B: 1\r\nA: 2\r\n 3\r\n\t4\r\nb:5\r\n\r\nC: body\r\n")
    assert head.fields == (("B", "1"), ("A", "2 3 4"), ("b", "5"))
    assert head.complete


def test_the_block_ends_at_the_first_empty_line_whatever_its_line_ends() -> None:
    assert header.scan(b"A: 1\n\nB: 2\r\n\r\n").fields == (("A", "1"),)
    assert header.scan(b"\r\nA: 1\r\n\r\n").fields == ()
    assert header.scan(b"A: 1").fields == (("A", "1"),)


def test_lines_that_are_no_fields_are_left_out_and_counted() -> None:
    head = header.scan(b"From x@y Mon Jan 1\r\nSubject : a\r\nno field\r\n: no name\r\nTo: b\r\n\r\n")
    assert head.fields == (("Subject", "a"), ("To", "b"))
    assert head.malformed == 2  # a mbox's From line is no mistake of the sender's


def test_eight_bit_fields_are_utf_8_or_else_windows_1252() -> None:
    head = header.scan(b"A: \xc3\xa9\r\nB: \xe9\r\nC: \x80\r\n\r\n")
    assert [value for _, value in head.fields] == ["é", "é", "€"]


def test_a_block_over_the_limit_is_cut_and_says_so() -> None:
    head = header.scan(b"A: " + b"x" * header.MAX_BLOCK + b"\r\n\r\n")
    assert not head.complete
    assert not header.scan(b"A: 1\r\n" * (header.MAX_FIELDS + 1) + b"\r\n").complete


@pytest.mark.parametrize(
    ("value", "decoded"),
    [
        ("plain", "plain"),
        ("=?utf-8?q?H=C3=A9llo_w?= x", "Héllo w x"),
        ("=?utf-8?q?a?= =?utf-8?b?Yg==?=", "ab"),
        ("=?utf-8?b?5pel5g==?= =?utf-8?b?nKw=?=", "日本"),  # a character cut in two
        ("=?iso-2022-jp?B?GyRCRnxLXBsoQg==?=", "日本"),
        ("=?nonsense?q?caf=C3=A9?=", "café"),
        ("=?utf-8*en?q?x?=", "x"),
        ("=?utf-8?q?a=0ABcc:_x=40y.z?=", "a Bcc: x@y.z"),  # no decoded value has a line break
        ("=?utf-8?q?a=00b?=", "a\ufffdb"),
        ("=?utf-7?q?+2AA-?=", "\ufffd"),  # a lone surrogate
        ("=?utf-8?b?!!!?=", ""),
        ("=?utf-8?q?who are you??=", "who are you?"),  # spaces and question marks that should be encoded
        ("=?utf-8?q?what??= =?utf-8?q?_now?=", "what? now"),
        ("=?utf-8?b?5pel5g?= =?UTF-8?B?nKw?=", "日本"),  # no padding, and a character cut in two
        ("=?utf-8?b?5pelZ?=", "日"),  # cut off within a quantum
        ("=?utf-8?b?YQ==Yg==?=", "ab"),
        ("=?utf-8?q?cut off =?utf-8?q?b?=", "=?utf-8?q?cut off b"),
        ('"=?utf-8?q?=22quoted=22?="', '""quoted""'),
        ("=?gb2312?B?6UY=?=", "镕"),
        ("=?utf-8?q?=3D=3Futf-8=3Fq=3Fa=3F=3D?=", "=?utf-8?q?a?="),  # decoded once
        ("=?utf-8?x?a?=", "=?utf-8?x?a?="),
        ("a =? b ?=", "a =? b ?="),
    ],
)
def test_encoded_words_are_decoded_and_cleaned(value: str, decoded: str) -> None:
    assert header.decode(value) == decoded


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("A <a@b>, c@d", [("A", "a@b"), (None, "c@d")]),
        ('"C, D" <c@e>, e@f', [("C, D", "c@e"), (None, "e@f")]),
        ("g: a@b, c@d;, x@y", [(None, "a@b"), (None, "c@d"), (None, "x@y")]),
        ("undisclosed-recipients:;", []),
        ("a@b (Bob)", [("Bob", "a@b")]),
        ("(x) A (y) <a@b> (z)", [("A", "a@b")]),
        ('"john doe"@x.y, b@c', [(None, '"john doe"@x.y'), (None, "b@c")]),
        ('A <"q r"@s>', [("A", '"q r"@s')]),
        ("=?utf-8?q?a=2C_b?= <x@y>", [("a, b", "x@y")]),
        (r'"a\"b" <x@y>', [('a"b', "x@y")]),
        ("<@r,@s:a@b>", [(None, "a@b")]),
        ("MAILER-DAEMON", [(None, "MAILER-DAEMON")]),
        ("Foo Bar", [("Foo Bar", "")]),
        ("A <a@b", [("A", "a@b")]),
        ("a@b;c@d", [(None, "a@b"), (None, "c@d")]),
        ("", []),
    ],
)
def test_address_fields_give_what_can_be_kept(value: str, found: list[tuple[str | None, str]]) -> None:
    assert [(mailbox.name, mailbox.address) for mailbox in header.addresses(value)] == found


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("Mon, 1 Jan 2024 10:00:00 +0100", "2024-01-01T09:00:00+00:00"),
        ("1 Jan 2024 10:00 GMT", "2024-01-01T10:00:00+00:00"),
        ("Mon,  1 Jan 2024 10:00:00 -0800 (PST)", "2024-01-01T18:00:00+00:00"),
        ("Mon, 1 Jan 24 10:00:00 EST", "2024-01-01T15:00:00+00:00"),
        ("Fri, 30 Jun 2017 23:59:60 -0000", "2017-06-30T23:59:59+00:00"),
    ],
)
def test_dates_are_instants_in_utc(value: str, moment: str) -> None:
    assert header.date(value) == dt.datetime.fromisoformat(moment)


@pytest.mark.parametrize("value", ["", "yesterday", "Mon, 32 Jan 2024 10:00:00 +0100", "31 Dec 9999 23:59:59 -2359"])
def test_dates_that_nobody_can_read_are_none(value: str) -> None:
    assert header.date(value) is None


@given(st.text(max_size=200).filter(lambda text: charsets.clean(text) == text))
def test_what_is_encoded_is_decoded_again_here_and_by_the_standard_library(text: str) -> None:
    pieces = words.encode(text, 9)
    assert all(len(piece) <= 75 for piece in pieces)
    assert words.decode(" ".join(pieces)) == text
    assert str(email.header.make_header(email.header.decode_header("\n ".join(pieces)))) == text


@given(st.binary(max_size=300))
def test_any_bytes_can_be_scanned(raw: bytes) -> None:
    for _, value in header.scan(raw).fields:
        for text in (header.decode(value), *(found.address for found in header.addresses(value)), *header.ids(value)):
            assert charsets.clean(text) == text
        header.date(value)


@given(st.text(alphabet='ab@<>()",;:\\ .=?', max_size=60))
def test_any_address_field_can_be_read(value: str) -> None:
    for mailbox in header.addresses(value):
        assert mailbox.name or mailbox.address


@given(
    st.lists(
        st.tuples(st.from_regex(r"\A[A-Za-z]{1,8}(-[A-Za-z]{1,8})?\Z"), st.from_regex(r"\A[!-~]([ -~]{0,90}[!-~])?\Z"))
    )
)
def test_the_standard_library_reads_the_same_fields(fields: list[tuple[str, str]]) -> None:
    message = email.message.Message(policy=email.policy.compat32)
    for name, value in fields:
        message[name] = value
    raw = b"".join(f"{name}: {value}\r\n".encode() for name, value in fields) + b"\r\n"
    assert list(header.scan(raw).fields) == [(name, str(value)) for name, value in message.items()]


@pytest.mark.parametrize(
    "label", ["punycode", "idna", "unicode_escape", "rot13", "base64", "undefined", "no-such", "x" * 5000]
)
def test_a_strangers_label_never_reaches_the_codec_registry(label: str) -> None:
    text, odd = charsets.decode(b"caf\xc3\xa9", label)
    assert text == "café"
    assert odd == f"has a charset that is not known ({label[:64]}); it was read as UTF-8"


@pytest.mark.parametrize(
    ("label", "octets", "text", "odd"),
    [
        (None, b"plain", "plain", None),
        ("no-such", b"plain", "plain", None),
        ("us-ascii", "é".encode(), "é", "is labelled us-ascii but holds 8-bit characters; it was read as UTF-8"),
        ("ASCII", b"\xe9", "é", "is labelled ascii but holds 8-bit characters; it was read as windows-1252"),
        ("iso-8859-1", "é".encode(), "é", "is labelled iso-8859-1 but is UTF-8"),
        ("ISO-8859-1", b"\x93\xe9\x94", "“é”", None),
        ("iso8859_1", b"\xe9", "é", None),
        ("UTF_8", "é".encode(), "é", None),
        ("iso8859_2", b"\xb1", "ą", None),
        ("gb2312", "镕".encode("gbk"), "镕", None),
        ("gbk", "㐀".encode("gb18030"), "㐀", None),
        ("utf-8", b"a\xff", "a\ufffd", "is not valid utf-8; what is not is shown as \ufffd"),
        (None, b"\xe9", "é", "has no charset and is not UTF-8; it was read as windows-1252"),
    ],
)
def test_a_wrong_label_is_told_and_the_octets_are_read_as_what_they_are(
    label: str | None, octets: bytes, text: str, odd: str | None
) -> None:
    assert charsets.decode(octets, label) == (text, odd)


@given(
    st.binary(max_size=100),
    st.sampled_from(["utf-8", "utf-7", "utf-16", "iso-2022-jp", "gb2312", "big5", "hz", "x", ""]),
)
def test_any_octets_become_storable_text(octets: bytes, label: str) -> None:
    text, _ = charsets.decode(octets, label)
    assert "\x00" not in text
    text.encode()


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("text/plain", {}),
        ('text/plain; Charset="utf-8"; format=flowed', {"charset": "utf-8", "format": "flowed"}),
        (r'a; filename="a\"b\\c.txt"; x=y', {"filename": r'a"b\c.txt', "x": "y"}),
        (r'a; filename="C:\docs\a.txt"', {"filename": r"C:\docs\a.txt"}),
        ("a; filename=two words.txt; size=3", {"filename": "two words.txt", "size": "3"}),
        ('a; filename="a"b".pdf"; size=3', {"filename": 'a"b".pdf', "size": "3"}),
        ('a; filename="no end; x=y', {"filename": "no end; x=y"}),
        ("a; name*=iso-8859-1'en'%E9%2", {"name": "é%2"}),
        ("a; name*0*=gb2312''%D6%D0; name*1*=%CE%C4; name*2=\".txt\"", {"name": "中文.txt"}),
        ("a; name*1=b; name*0=a; name*2*=%20c", {"name": "ab c"}),
        ("a; name=plain; name*=utf-8''better", {"name": "better"}),
        ("a; name*=%41", {"name": "A"}),
        ("a; name*=no-such''%C3%A9", {"name": "é"}),
        ("a; name=first; name=second", {"name": "first"}),
    ],
)
def test_parameters_are_joined_and_decoded(value: str, found: dict[str, str]) -> None:
    assert header.parameters(value) == found


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("a b.txt", "a b.txt"),
        ("../../etc/passwd", "passwd"),
        ("/etc/passwd", "passwd"),
        (r"C:\Users\me\a.doc", "a.doc"),
        (r"\\server\share\a.doc", "a.doc"),
        (r"..\a.doc", "a.doc"),
        ("Offer 1/2.pdf", "Offer 1_2.pdf"),
        ("photo\u202egpj.exe", "photogpj.exe"),
        ("\u2066a\u2069\u200f.txt", "a.txt"),
        ("a\r\nb\x1b.txt", "a  b .txt"),
        ("a\x00b", "a\ufffdb"),
        ("=?utf-8?q?=2E=2E/x?=", "x"),
        ("x" * 300 + ".pdf", "x" * 251 + ".pdf"),
        ("x" * 300, "x" * 255),
        ("日本.txt", "日本.txt"),
        ("..", None),
        ("../", None),
        (" ", None),
    ],
)
def test_a_file_name_misleads_nobody(sent: str, shown: str | None) -> None:
    assert header.filename(sent) == shown


@given(st.text(max_size=300))
def test_any_file_name_becomes_one_short_storable_line_without_a_path(sent: str) -> None:
    shown = header.filename(sent)
    assert shown is None or (
        0 < len(shown) <= 255
        and not {"/", "\\", "\n", "\x00", "\u202e"} & set(shown)
        and shown not in {".", ".."}
        and charsets.clean(shown) == shown
    )
