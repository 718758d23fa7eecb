"""Mail as it should not be, and mail of rarer kinds: what people read, what they can download, what they are told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.mail import parse

Reader = Callable[[bytes], parse.Parsed]


def usual(raw: bytes) -> parse.Parsed:
    """As a session reads it: the fast reader where it can, else the slow one."""
    return parse.parse_fast(raw) or parse.parse_slow(raw)


both = pytest.mark.parametrize("read", [usual, parse.parse_slow])


def tree(kind: bytes, *parts: bytes, boundary: bytes = b"x", end: bytes = b"--x--\r\n") -> bytes:
    """A multipart, as a part of another one or as the end of a message."""
    head = b"Content-Type: multipart/" + kind + b"; boundary=" + boundary + b"\r\n\r\n"
    return head + b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + end


def part(kind: bytes, body: bytes, *fields: bytes) -> bytes:
    return b"".join(field + b"\r\n" for field in (b"Content-Type: " + kind, *fields)) + b"\r\n" + body


def mail(content: bytes) -> bytes:
    return b"From: a@b.example\r\nSubject: s\r\nMIME-Version: 1.0\r\n" + content


def kinds(parsed: parse.Parsed) -> list[tuple[str, str | None]]:
    return [(found.content_type, found.filename) for found in parsed.attachments]


PLAIN, HTML = part(b"text/plain", b"text"), part(b"text/html", b"<p>html")
IMAGE = part(b"image/png", b"png", b"Content-ID: <logo@x>", b"Content-Disposition: inline")
NESTED = (
    b"From: inner@b.example\r\nSubject: inner \r\nContent-Type: multipart/mixed; boundary=in\r\n\r\n"
    b"--in\r\n\r\ninner text\n with a bare LF\r\n--in\r\nContent-Type: a/b; name=n.txt\r\n\r\n\xff\x00\r\n--in--\r\n"
)


# Which text is the message's


@both
def test_of_an_alternative_the_first_text_and_the_first_html_are_the_bodies(read: Reader) -> None:
    later = part(b"text/plain", b"another text"), part(b"text/html", b"<p>another")
    parsed = read(mail(tree(b"alternative", PLAIN, HTML, *later)))
    assert (parsed.text, parsed.html) == ("text", "<p>html")
    assert kinds(parsed) == [("text/plain", None), ("text/html", None)]  # not lost


@both
def test_a_branch_of_an_alternative_gives_all_of_its_texts(read: Reader) -> None:
    branch = tree(b"mixed", HTML, IMAGE, part(b"text/html", b"<p>end"), boundary=b"y", end=b"--y--\r\n")
    parsed = read(mail(tree(b"alternative", PLAIN, branch)))
    assert (parsed.text, parsed.html) == ("text", "<p>html\n<p>end")


@both
def test_texts_around_an_alternative_are_joined(read: Reader) -> None:
    inner = tree(b"alternative", PLAIN, HTML, boundary=b"y", end=b"--y--\r\n")
    parsed = read(mail(tree(b"mixed", part(b"text/plain", b"before"), inner, part(b"text/plain", b"after"))))
    assert (parsed.text, parsed.html) == ("before\ntext\nafter", "<p>html")


@both
def test_what_html_shows_is_an_attachment_and_its_root_may_stand_anywhere(read: Reader) -> None:
    frame = part(b"text/html", b"<p>frame", b"Content-ID: <frame@x>")
    root = part(b"text/html", b"<p>root", b"Content-ID: <root@x>")
    parsed = read(mail(tree(b"related", root, frame, IMAGE)))
    assert (parsed.html, kinds(parsed)) == ("<p>root", [("text/html", None), ("image/png", None)])
    image = parsed.attachments[1]
    assert (image.content_id, image.disposition) == ("logo@x", "inline")
    parsed = read(mail(tree(b'related; start="<root@x>"', frame, IMAGE, root)))
    assert parsed.html == "<p>root"


@both
def test_flowed_text_and_uuencode_in_it_are_left_as_they_are(read: Reader) -> None:
    text = "flowed \nline\n\nbegin 644 a.txt\n#86)C\n`\nend\n"
    raw = mail(part(b"text/plain; format=flowed", text.replace("\n", "\r\n").encode()))
    assert (read(raw).text, kinds(read(raw))) == (text, [])


# Parts that stay whole


@both
@pytest.mark.parametrize("end", [b"--x--\r\n", b""], ids=["closed", "cut off"])
def test_an_attached_message_is_downloaded_byte_for_byte(read: Reader, end: bytes) -> None:
    raw = mail(tree(b"mixed", PLAIN, part(b"message/rfc822", NESTED, b"Content-Disposition: attachment"), end=end))
    parsed = read(raw)
    assert parsed.text == "text"
    assert kinds(parsed) == [("message/rfc822", None)]
    for cut in (parse.attachment, parse.attachment_slow):
        assert cut(raw, 0)[1].rstrip() == NESTED.rstrip()
    if end:
        assert parse.attachment(raw, 0)[1] == parse.attachment_slow(raw, 0)[1] == NESTED


@both
@pytest.mark.parametrize(
    ("raw", "attached"),
    [
        (tree(b"alternative", PLAIN, HTML, part(b"text/calendar; method=REQUEST", b"BEGIN")), ["text/calendar"]),
        (part(b"text/calendar; method=REQUEST", b"BEGIN"), ["text/calendar"]),
        (part(b"application/pkcs7-mime; smime-type=enveloped-data", b"der"), ["application/pkcs7-mime"]),
        (tree(b"signed", PLAIN, part(b"application/pkcs7-signature", b"der")), ["application/pkcs7-signature"]),
        (tree(b"signed", PLAIN, part(b"application/pgp-signature", b"pgp")), ["application/pgp-signature"]),
        (
            tree(b"encrypted", part(b"application/pgp-encrypted", b"1"), part(b"application/octet-stream", b"pgp")),
            ["application/pgp-encrypted", "application/octet-stream"],
        ),
        (
            tree(b"report", PLAIN, part(b"message/delivery-status", b"A: b\r\n\r\nC: d\r\n")),
            ["message/delivery-status"],
        ),
    ],
)
def test_invitations_signatures_and_reports_are_attachments_of_their_types(
    read: Reader, raw: bytes, attached: list[str]
) -> None:
    parsed = read(mail(raw))
    assert [found.content_type for found in parsed.attachments] == attached


@both
@pytest.mark.parametrize(
    ("label", "filename"),
    [(b"application/ms-tnef", "winmail.dat"), (b"application/octet-stream; name=WINMAIL.DAT", "WINMAIL.DAT")],
)
def test_outlooks_own_format_is_called_by_its_name(read: Reader, label: bytes, filename: str) -> None:
    parsed = read(mail(tree(b"mixed", PLAIN, part(label, b"x"))))
    assert [found.filename for found in parsed.attachments] == [filename]
    assert (
        "an attachment is in Outlook's own format, TNEF (winmail.dat): what it holds is not unpacked" in parsed.warnings
    )
    assert parsed.status == ("ok" if read is usual else "repaired")


# What is broken


@pytest.mark.parametrize(
    ("raw", "texts"),
    [
        (tree(b"mixed", PLAIN, part(b"text/plain", b"two\r\n--xy\r\nno boundary")), ["text", "two", "no boundary"]),
        (tree(b"mixed", PLAIN, part(b"text/plain", b"two\r\n--x--and more")), ["text", "two", "and more"]),
        (tree(b"mixed", PLAIN, end=b"--x--\r\n--x\r\n\r\nbehind\r\n--x--\r\n"), ["text"]),
        (tree(b"mixed", PLAIN, boundary=b'"x "', end=b"--x--\r\n").replace(b'--"x "', b"--x"), ["text"]),
        (tree(b"mixed", PLAIN).replace(b"--x\r\n", b"--x \r\n"), ["text"]),
        (tree(b"mixed").replace(b"--x--", b"--x\r\rtext\r--x--"), ["text"]),
        (
            tree(
                b"mixed",
                part(b"text/plain", b"begin 644 a\r\n$=&5X=```\r\nend", b"Content-Transfer-Encoding: x-uuencode"),
            ),
            ["text"],
        ),
        (tree(b"mixed", part(b"text/plain", b"dGV4dA", b"Content-Transfer-Encoding: base64")), ["t"]),
        (tree(b"mixed", part(b"text/plain", b"dGV4dGR", b"Content-Transfer-Encoding: base64"), end=b""), ["text"]),
    ],
    ids=[
        "prefix",
        "text behind the end",
        "parts behind the end",
        "space",
        "trailing space",
        "CR",
        "uuencode",
        "padding",
        "cut off",
    ],
)
def test_what_the_fast_reader_would_lose_is_read_by_the_slow_one(raw: bytes, texts: list[str]) -> None:
    assert parse.parse_fast(mail(raw)) is None
    parsed = parse.parse_slow(mail(raw))
    assert parsed.status == "repaired"
    assert parsed.warnings
    assert all(text in (parsed.text or "") for text in texts)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (tree(b"mixed", PLAIN, end=b""), "a closing boundary is missing; the message may have been cut off"),
        (
            tree(b"mixed", PLAIN, boundary=b"z", end=b"").replace(b"--z", b"--other"),
            "a boundary was not found; what it should divide was read as text",
        ),
        (b"Content-Type: multipart/mixed\r\n\r\n--x\r\n\r\ntext", "a multipart names no boundary; it was read as text"),
        (b"not a field\r\n" + PLAIN, "1 line of the header is no header field"),
        (
            part(b"text/plain; charset=us-ascii", "text ü".encode()),
            "the text/plain body is labelled us-ascii but holds 8-bit characters; it was read as UTF-8",
        ),
        (
            part(b"text/plain; charset=x-no-such", b"text \xfc"),
            "the text/plain body has a charset that is not known (x-no-such); it was read as windows-1252",
        ),
    ],
)
def test_what_was_repaired_is_told_in_a_sentence(raw: bytes, told: str) -> None:
    parsed = usual(mail(raw))
    assert (parsed.status, told in parsed.warnings) == ("repaired", True), parsed.warnings
    assert "text" in (parsed.text or "")


@both
def test_a_long_line_bare_line_ends_and_nul_are_text(read: Reader) -> None:
    parsed = read(mail(part(b"text/plain", b"a" * 5000 + b"\nb\rc\r\nd\x00")))
    assert parsed.text == "a" * 5000 + "\nb\nc\nd\ufffd"


@both
def test_a_header_in_utf_8_and_one_in_a_codepage_are_read(read: Reader) -> None:
    raw = "Subject: Grüße\r\nFrom: Jürgen <jürgen@bücher.example>\r\n".encode() + b"X-Old: \xe9\r\n\r\ntext"
    parsed = read(raw)
    assert parsed.subject == "Grüße"
    assert parsed.from_ is not None
    assert parsed.from_.address == "jürgen@bücher.example"
    assert dict(parsed.headers)["X-Old"] == "é"


@both
@pytest.mark.parametrize(
    ("fields", "filename"),
    [
        (b"filename*0*=gb2312''%D6%D0; filename*1*=%CE%C4;\r\n filename*2=\".txt\"", "中文.txt"),
        (b'filename="\xfcber.txt"', "über.txt"),
        ('filename="über.txt"'.encode(), "über.txt"),
        (b'filename="=?utf-8?q?a=22b=2Etxt?="', 'a"b.txt'),
        (b'filename="=?iso-2022-jp?b?GyRCRnxLXBsoQg==?="', "日本"),
        ('filename="photo\u202egpj.exe"'.encode(), "photogpj.exe"),
        (rb'filename="C:\temp\a.txt"', "a.txt"),
        (b"filename=", None),
    ],
)
def test_an_attachments_name_is_read_however_it_is_written(read: Reader, fields: bytes, filename: str | None) -> None:
    parsed = read(mail(tree(b"mixed", PLAIN, part(b"a/b", b"x", b"Content-Disposition: attachment; " + fields))))
    assert kinds(parsed) == [("a/b", filename)]
