"""Three readers of one message: the fast one knows when to pass, the slow one takes anything, none ever raises."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.mail import parse

Reader = Callable[[bytes], parse.Parsed]


def fast(raw: bytes) -> parse.Parsed:
    parsed = parse.parse_fast(raw)
    assert parsed is not None
    return parsed


both = pytest.mark.parametrize("read", [fast, parse.parse_slow])


def message(content_type: bytes, body: bytes, more: bytes = b"") -> bytes:
    return (
        b"From: a@b.c\r\nSubject: s\r\nMIME-Version: 1.0\r\nContent-Type: "
        + content_type
        + b"\r\n"
        + more
        + b"\r\n"
        + body
    )


def mixed(*parts: bytes) -> bytes:
    body = b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + b"--x--\r\n"
    return message(b"multipart/mixed; boundary=x", body)


USUAL = (
    b"Received: from a.example by b.example; Mon, 1 Jan 2024 10:00:01 +0000\r\n"
    b"Received: from c.example\r\n\tby a.example; Mon, 1 Jan 2024 10:00:00 +0000\r\n"
    b"From: =?utf-8?q?J=C3=B6hn?= <john@example.com>\r\n"
    b'To: "Doe, Jane" <jane@example.org>, b@c.d\r\nTo: third@example.org\r\n'
    b"Cc: list: x@y.z;\r\nReply-To: r@s.t\r\n"
    b"Subject: =?utf-8?q?H=C3=A9llo?=\r\n world\r\n"
    b"Date: Mon, 1 Jan 2024 11:00:00 +0100\r\n"
    b"Message-ID: <1@example.com>\r\nIn-Reply-To: <0@example.com>\r\nReferences: <a@b>\r\n <0@example.com>\r\n"
    b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="outer"\r\n\r\nnot shown\r\n'
    b'--outer\r\nContent-Type: multipart/alternative; boundary="inner"\r\n\r\n'
    b"--inner\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    b"caf=C3=A9\r\nline\r\n--inner\r\nContent-Type: text/html; charset=iso-8859-1\r\n\r\n"
    b"<p>caf\xe9</p>\r\n--inner--\r\n"
    b"--outer\r\nContent-Type: image/png; name=a.png\r\nContent-ID: <cid@x>\r\nContent-Disposition: inline\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\niVBORw==\r\n"
    b"--outer\r\nContent-Disposition: attachment; filename*=utf-8''%E6%97%A5.txt\r\n\r\ndata\r\n--outer--\r\n"
)


@both
def test_a_usual_message_is_read_in_full(read: Reader) -> None:
    parsed = read(USUAL)
    assert parsed.subject == "Héllo world"
    assert parsed.from_ is not None
    assert (parsed.from_.name, parsed.from_.address) == ("Jöhn", "john@example.com")
    assert [to.address for to in parsed.to] == ["jane@example.org", "b@c.d", "third@example.org"]
    assert [cc.address for cc in parsed.cc] == ["x@y.z"]
    assert (parsed.message_id, parsed.in_reply_to) == ("<1@example.com>", "<0@example.com>")
    assert parsed.references == ("<a@b>", "<0@example.com>")
    assert parsed.date is not None
    assert parsed.date.isoformat() == "2024-01-01T10:00:00+00:00"
    assert [name for name, _ in parsed.headers][:4] == ["Received", "Received", "From", "To"]
    assert (parsed.text, parsed.html) == ("café\nline", "<p>café</p>")
    image, data = parsed.attachments
    assert (image.filename, image.content_type, image.size) == ("a.png", "image/png", 4)
    assert (image.content_id, image.disposition) == ("cid@x", "inline")
    assert (data.filename, data.disposition, data.index) == ("日.txt", "attachment", 1)
    assert data.sha256 == hashlib.sha256(b"data").hexdigest()
    assert parsed.status == ("ok" if read is fast else "repaired")


def test_an_attachment_is_cut_out_by_its_index() -> None:
    assert parse.attachment(USUAL, 0)[1] == b"\x89PNG"
    found, content = parse.attachment(USUAL, 1)
    assert (found, content) == (fast(USUAL).attachments[1], b"data")
    for index in (2, -1):
        with pytest.raises(IndexError):
            parse.attachment(USUAL, index)


def test_headers_alone_are_read_by_the_last_resort() -> None:
    parsed = parse.raw_only(USUAL)
    assert (parsed.status, parsed.subject, parsed.text, parsed.attachments) == ("raw_only", "Héllo world", None, ())
    assert parsed.headers == fast(USUAL).headers


@both
@pytest.mark.parametrize(
    ("label", "octets", "text"),
    [
        (b"; charset=windows-1251", "Привет".encode("cp1251"), "Привет"),
        (b"; charset=gb2312", "中文".encode("gbk"), "中文"),
        (b"; charset=iso-2022-jp", "日本".encode("iso-2022-jp"), "日本"),
        (b'; Charset="UTF-8"', "é".encode(), "é"),
        (b"", "café".encode(), "café"),
        (b"", b"caf\xe9", "café"),
        (b"; charset=us-ascii", "café".encode(), "café"),
        (b"; charset=nonsense", "café".encode(), "café"),
        (b"; charset=utf-8", b"a\x00b\xff", "a\ufffdb\ufffd"),
    ],
)
def test_a_body_is_decoded_by_its_label_or_by_what_it_is(read: Reader, label: bytes, octets: bytes, text: str) -> None:
    assert read(message(b"text/plain" + label, octets)).text == text


@both
def test_bodies_and_attachments_are_told_apart(read: Reader) -> None:
    parsed = read(
        mixed(
            b"\r\none",
            b"Content-Type: text/plain\r\nContent-Disposition: attachment\r\n\r\nfile",
            b"Content-Type: text/plain; name=a.txt\r\n\r\nnamed",
            b"Content-Type: text/html\r\n\r\n<b>",
            b"Content-Type: text/plain\r\nContent-Disposition: inline\r\n\r\ntwo",
            b"Content-Type: text/calendar\r\n\r\nBEGIN",
        )
    )
    assert (parsed.text, parsed.html) == ("one\ntwo", "<b>")
    assert [(found.filename, found.content_type) for found in parsed.attachments] == [
        (None, "text/plain"),
        ("a.txt", "text/plain"),
        (None, "text/calendar"),
    ]


@both
def test_an_attached_message_stays_whole(read: Reader) -> None:
    parsed = read(mixed(b"\r\nouter", b"Content-Type: message/rfc822\r\n\r\nSubject: inner\n\ninner text"))
    assert parsed.text == "outer"
    assert [(found.content_type, found.size) for found in parsed.attachments] == [("message/rfc822", 26)]


@both
@pytest.mark.parametrize(
    ("parameter", "filename"),
    [
        (b'filename="a b.txt"', "a b.txt"),
        (rb'filename="a\"b\\c.txt"', "c.txt"),
        (b"filename*=utf-8''a%22%C3%BC.txt", 'a"ü.txt'),
        (b"filename*0*=utf-8''%E6%97%A5; filename*1=\"x.txt\"", "日x.txt"),
        (b'filename="=?utf-8?b?5pel?=.txt"', "日.txt"),
        (b'filename="a;b; c.txt"; x=y', "a;b; c.txt"),
        (b"filename=../../etc/passwd", "passwd"),
        (b'filename="' + b"x" * 300 + b'"', "x" * 255),
        (b'filename=""', None),
    ],
)
def test_a_file_name_is_a_decoded_label(read: Reader, parameter: bytes, filename: str | None) -> None:
    (found,) = read(
        mixed(b"Content-Type: a/b\r\nContent-Disposition: attachment; " + parameter + b"\r\n\r\nx")
    ).attachments
    assert found.filename == filename


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (message(b"multipart/mixed", b"--x\r\n\r\nhi\r\n--x--"), "--x\n\nhi\n--x--"),
        (message(b"multipart/mixed; boundary=x", b"no parts"), "no parts"),
        (message(b"multipart/mixed; boundary*=utf-8''x", b"--x\r\n\r\nhi\r\n--x--"), "hi"),
        (message(b"multipart/mixed; boundary*0=x;\r\n boundary*1=y", b"--xy\r\n\r\nhi\r\n--xy--"), "hi"),
        (mixed(b"hi there"), "hi there"),
        (mixed(b"hi there\r\n\r\nmore"), "hi there\n\nmore"),
        (mixed(b"Hi\r\n\r\nmore"), "Hi\n\nmore"),
        (message(b"text/plain", b"YWJj!!==\r\nZZ", b"Content-Transfer-Encoding: base64\r\n"), "abce"),
    ],
)
def test_what_the_fast_parser_would_lose_is_left_to_the_slow_one(raw: bytes, text: str) -> None:
    assert parse.parse_fast(raw) is None
    assert parse.parse_slow(raw).text == text


def nested(depth: int) -> bytes:
    inner = b"Content-Type: text/plain\r\n\r\ndeep"
    for level in range(depth):
        inner = b"Content-Type: multipart/mixed; boundary=b%d.\r\n\r\n--b%d.\r\n%b\r\n--b%d.--" % (
            level,
            level,
            inner,
            level,
        )
    return b"Subject: s\r\n" + inner


@pytest.mark.parametrize(
    "raw",
    [
        b"A: " + b"x" * 300_000 + b"\r\n\r\nbody",
        b"A: b\r\n" * 1100 + b"\r\nbody",
        mixed(*[b"\r\npart"] * 2100),
        nested(60),
        nested(1500),
        b"Subject: " + b"=?utf-8?q?a?= " * 18_000 + b"\r\n\r\nbody",
        b"Subject: " + b"=?" * 100_000 + b"\r\n\r\nbody",
        mixed(b"Content-Disposition: attachment; filename=" + b"=?a?q?" * 40_000 + b"\r\n\r\nx"),
        b"Content-Type: message/rfc822\r\n\r\n" * 200 + b"\r\n" + b"a" * 400_000,
    ],
    ids=["block", "fields", "parts", "depth", "deeper", "words", "half words", "words in a part", "messages"],
)
def test_what_is_over_the_caps_is_passed_on(raw: bytes) -> None:
    assert parse.parse_fast(raw) is None
    assert parse.raw_only(raw).status == "raw_only"


@pytest.mark.parametrize(
    "raw", [nested(60), nested(1500), nested(4000), b"A: b\r\n" * 1100 + b"\r\nbody", mixed(*[b"\r\np"] * 2100)]
)
def test_the_slow_reader_survives_what_is_over_the_caps(raw: bytes) -> None:
    assert parse.parse_slow(raw).status in {"repaired", "raw_only"}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n",
        b"\n",
        b"body without header",
        b"\x00",
        b"\xff" * 50,
        b"Message-ID: <<<<\r\n\r\n",
        b"From: \r\nTo: ,\r\n\r\n",
    ],
)
def test_even_what_is_no_mail_can_be_read(raw: bytes) -> None:
    for parsed in (parse.parse_fast(raw), parse.parse_slow(raw), parse.raw_only(raw)):
        assert parsed is None or parsed.status


def _mutated(raw: bytes, seed: int) -> bytes:
    chance = random.Random(seed)
    tokens = [
        b"\r\n",
        b"\n",
        b"\r",
        b"--",
        b"=?",
        b"?=",
        b"\x00",
        b"\xff",
        b'"',
        b";",
        b":",
        b"=",
        b"<",
        b"(",
        b"\r\n\r\n",
    ]
    tokens += [
        b"boundary",
        b"multipart/mixed",
        b"message/rfc822",
        b"base64",
        b"charset=utf-7",
        b"=\xe9",
        b"filename*=",
        b"%00",
    ]
    octets = bytearray(raw)
    for _ in range(chance.randint(1, 12)):
        start = chance.randrange(len(octets) + 1)
        end = min(len(octets), start + chance.randint(0, 30))
        octets[start:end] = chance.choice([b"", chance.choice(tokens), octets[start:end] * 2])
    return bytes(octets)


@given(st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_mutated_mail_never_raises_and_everything_derived_can_be_stored(seed: int) -> None:
    raw = _mutated(USUAL, seed)
    for parsed in (parse.parse_fast(raw), parse.parse_slow(raw), parse.raw_only(raw)):
        if parsed is not None:
            derived = repr(parsed).replace("\\x00", "\x00")
            assert "\x00" not in derived
            assert "\\ud" not in derived
            for found in parsed.attachments[:2]:
                assert parsed.status != "ok" or parse.attachment(raw, found.index)[0] == found


@given(st.binary(max_size=500))
@settings(deadline=None)
def test_any_bytes_can_be_read(raw: bytes) -> None:
    parse.parse_fast(raw)
    assert parse.parse_slow(raw).status in {"repaired", "raw_only"}
