"""DKIM signatures: dkimpy's messages and keys, our own, and what must not pass."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime
from typing import Any

import dkim as dkimpy
import pytest

from gateway.mail.auth import dkim
from tests import suites
from tests.mail.auth import signing

NOW = datetime.now(UTC)
LETTER = (
    b"From: A <a@example.com>\r\nTo: b@example.net\r\nSubject: Hello  there\r\n\r\nOne  line \r\n\r\nAnother\r\n\r\n"
)
FORMS = ("simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed")


def results(raw: bytes, *records: str | bytes, minimum_bits: int = 1024) -> list[str]:
    """What each signature of the message comes to, with these records under its key's name."""
    letter = dkim.Letter(raw)
    return [_result(letter, field, records, minimum_bits) for field in letter.named(b"dkim-signature")]


def _result(letter: dkim.Letter, field: dkim.Field, records: Any, minimum_bits: int) -> str:
    try:
        texts = [text if isinstance(text, bytes) else text.encode() for text in records]
        dkim.verify(letter.hashed(dkim.parse(field), field), dkim.key(texts), NOW, minimum_bits=minimum_bits)
    except dkim.Unacceptable as error:
        return f"{error.result}: {error}"
    return "pass"


# dkimpy's


def data(name: str) -> bytes:
    return suites.path(f"dkimpy-1.1.8/dkim/tests/data/{name}").read_bytes()


def line(name: str) -> bytes:
    """A key record of its data, without what a file ends in."""
    return data(name).strip()


ED25519 = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
GMAIL = (
    "k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA1Kd87/UeJjenpabgbFwh+eBCsSTrqmwIYYvywlbhbqoo2Dy"
    "mndFkbjOVIPIldNs/m40KF+yzMn1skyoxcTUGCQs8g3FgD2Ap3ZB5DekAo5wMmk4wimDO+U8QzI3SD07y2+07wlNWwIt8svnxgdx"
    "GkVbbhzY8i+RQ9DpSVpPbF7ykQxtKXkv/ahW3KjViiAH+ghvvIhkx4xYSIc9oSwVmAl5OctMEeWUwg8Istjqz8BZeTWbf41fbNht"
    "e7Y+YqZOwq1Sd0DbvYAD9NOZK9vlfuac0598HY+vtSBczUiKERHv1yRbcaQtZFh5wtiRrN04BLUTD21MycBX5jYchHjPY/wIDAQA"
    "B"
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("message", ["test.message", "rfc6376.msg", "message.mbox"])
def test_what_dkimpy_signs_passes(form: str, message: str) -> None:
    raw = data(message)
    header, body = form.encode().split(b"/")
    made = dkimpy.sign(raw, b"test", b"example.com", data("test.private"), canonicalize=(header, body))
    assert results(made + raw, line("test.txt"))[0] == "pass"
    assert results(made + raw, line("test2.txt"))[0] == "pass"  # a key without k=
    assert results(made + raw + b"foo", line("test.txt"))[0] == "fail: the body is not what was signed"


@pytest.mark.parametrize("form", FORMS)
def test_what_dkimpy_signs_with_a_length_passes_with_more_text(form: str) -> None:
    raw = data("test.message")
    header, body = form.encode().split(b"/")
    key = data("test.private")
    made = dkimpy.sign(raw, b"test", b"example.com", key, canonicalize=(header, body), length=True)
    assert results(made + raw + b"added more text\n", line("test.txt")) == ["pass"]


def test_lines_that_end_in_lf_alone_are_read_as_lines() -> None:
    raw = data("test.message")
    assert b"\r\n" not in raw
    made = dkimpy.sign(raw, b"test", b"example.com", data("test.private"), linesep=b"\n")
    assert results(made + raw, line("test.txt")) == ["pass"]


def test_the_signature_of_rfc_8463_passes() -> None:
    ed25519, rsa = "pass", "pass"
    assert results(data("rfc6376.signed.msg"), ED25519)[0] == ed25519
    assert results(data("rfc6376.signed.rsa.msg"), line("test.txt")) == [rsa]


def test_a_signature_by_exim_passes() -> None:
    assert results(data("ed25519test2.msg"), line("eximtest.dns")) == ["pass"]


def test_degenerate_folding_is_legal() -> None:
    assert results(data("test2.message"), GMAIL) == ["pass"]


@pytest.mark.parametrize("record", ["badversion.txt", "badk.txt"])
def test_keys_that_dkimpy_calls_bad_are(record: str) -> None:
    raw = data("test.message")
    made = dkimpy.sign(raw, b"test", b"example.com", data("test.private"))
    assert results(made + raw, line(record))[0].startswith("permerror")


def test_a_key_with_a_character_missing_is_bad() -> None:
    broken = line("test.txt").replace(b"GSIb3DQ", b"GSIbDQ")
    assert results(data("rfc6376.signed.rsa.msg"), broken)[0].startswith("permerror")


@pytest.mark.parametrize("bits", ["1024", "2048"])
@pytest.mark.parametrize("form", ["", ".rsa"])
def test_both_ways_to_write_an_rsa_key_are_read(bits: str, form: str) -> None:
    raw = data("test.message")
    made = dkimpy.sign(raw, b"test", b"example.com", data(f"{bits}_testkey.key"))
    public = b"".join(data(f"{bits}_testkey_wo_markers.pub{form}.txt").split())
    record = public if b"p=" in public else b"v=DKIM1; k=rsa; p=" + public
    assert results(made + raw, record) == ["pass"]


def test_a_domain_that_is_none_is_refused() -> None:
    assert results(data("test.message.baddomain"), line("test.txt"))[0].startswith("permerror")
    raw = data("test.message")
    made = dkimpy.sign(raw, b"test", b"example.com\xe9", data("test.private"))
    assert results(made + raw, line("test.txt")) == ["permerror: not ASCII"]


def test_folding_within_b_does_not_count() -> None:
    raw = data("test.message")
    for header in (b"simple", b"relaxed"):
        made = dkimpy.sign(raw, b"test", b"example.com", data("test.private"), canonicalize=(header, b"simple"))
        folded = dkimpy.fold(made)
        position = folded.rindex(b"\r\n ")
        tabbed = folded[:position] + b"\r\n\t" + folded[position + 3 :]
        assert results(folded + raw, line("test.txt")) == ["pass"]
        assert results(tabbed + raw, line("test.txt")) == ["pass"]


def test_another_from_breaks_it_and_another_field_does_not() -> None:
    raw = data("test.message")
    header, body = raw.split(b"\n\n", 1)
    made = dkimpy.sign(raw, b"test", b"example.com", data("test.private"))
    evil = b'From: "Resident Evil" <sales@spammer.com>'
    assert results(made + header + b"\nX-Foo: bar\n\n" + body, line("test.txt")) == ["pass"]
    for spoofed in (header + b"\n" + evil, evil + b"\n" + header):
        assert results(made + spoofed + b"\n\n" + body, line("test.txt"))[0].startswith("fail")


def test_signed_received_fields_are_taken_from_the_last_one_up() -> None:
    raw = data("message.mbox")
    signer = dkimpy.DKIM(raw)
    signer.should_not_sign.remove(b"received")
    made = signer.sign(b"test", b"example.com", data("test.private"), include_headers=signer.all_sign_headers())
    assert results(made + raw, line("test.txt"))[0] == "pass"


# Our own


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("private", [signing.rsa_key(), signing.ed25519_key()], ids=["rsa", "ed25519"])
def test_signatures_in_every_form_pass(form: str, private: signing.Private) -> None:
    raw = signing.signed(LETTER, private, domain="example.com", form=form)
    assert results(raw, signing.record(private)) == ["pass"]
    assert results(raw.replace(b"Subject: Hello", b"Subject: HELLO"), signing.record(private))[0].startswith("fail")
    assert results(raw.replace(b"Another", b"Anyother"), signing.record(private))[0].startswith("fail")


def test_dkimpy_agrees_that_our_signatures_pass() -> None:
    for form in FORMS:
        raw = signing.signed(LETTER, signing.rsa_key(), domain="example.com", form=form)
        assert dkimpy.verify(raw, dnsfunc=lambda _name, timeout: signing.record(signing.rsa_key()).encode())


def test_relaxed_forgives_space_and_simple_does_not() -> None:
    for form, expected in (("relaxed/relaxed", "pass"), ("simple/simple", "fail")):
        raw = signing.signed(LETTER, signing.rsa_key(), domain="example.com", form=form)
        changed = raw.replace(b"Subject: Hello  there", b"SUBJECT:   Hello\r\n there").replace(
            b"One  line ", b"One line\t"
        )
        assert results(changed, signing.record(signing.rsa_key()))[0].startswith(expected)


def test_bodies_at_the_edges() -> None:
    """RFC 6376 3.4.3, 3.4.4: an empty body is CRLF when simple and nothing when relaxed."""
    assert dkim.BODY_FORMS["simple"](b"") == b"\r\n"
    assert dkim.BODY_FORMS["relaxed"](b"") == b""
    assert dkim.BODY_FORMS["simple"](b"a\r\n\r\n\r\n") == b"a\r\n"
    assert dkim.BODY_FORMS["relaxed"](b" \t\r\n\r\n") == b""
    assert dkim.BODY_FORMS["relaxed"](b" C \r\nD \t E\r\n\r\n\r\n") == b" C\r\nD E\r\n"
    assert dkim.BODY_FORMS["simple"](b"a\r\r\n") == b"a\r\r\n"


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"v": "2"}, "permerror: v= is not 1"),
        ({"a": "rsa-sha1"}, "permerror: 'rsa-sha1' is no algorithm that counts"),
        ({"q": "dns/other"}, "permerror: q= is not dns/txt"),
        ({"c": "loose/simple"}, "permerror: c= names no canonicalization"),
        ({"i": "@example.org"}, "permerror: i= is not at d="),
        ({"i": "a@evilexample.com"}, "permerror: i= is not at d="),
        ({"i": "a@sub.example.com"}, "pass"),
        ({"x": "1000000000", "t": "900000000"}, "fail: the signature has expired"),
        ({"t": str(int(time.time()) + 100_000)}, "fail: t= is in the future"),
        ({"t": "1000000000", "x": "900000000"}, "permerror: x= is before t="),
        ({"x": "soon"}, "permerror: x= is no number"),
        ({"t": str(int(time.time())), "x": str(int(time.time()) + 1000)}, "pass"),
    ],
)
def test_what_a_signature_says_of_itself_counts(tags: dict[str, Any], expected: str) -> None:
    raw = signing.signed(LETTER, signing.rsa_key(), domain="example.com", form="relaxed/relaxed")
    if "c" in tags or "a" in tags or "v" in tags:
        changed = raw
        for name, text in tags.items():
            old = {"v": b"v=1", "a": b"a=rsa-sha256", "c": b"c=relaxed/relaxed"}[name]
            changed = changed.replace(old, f"{name}={text}".encode(), 1)
    else:
        changed = signing.signed(LETTER, signing.rsa_key(), domain="example.com", **tags)
    assert results(changed, signing.record(signing.rsa_key())) == [expected]


def test_from_must_be_signed() -> None:
    raw = signing.signed(LETTER, signing.rsa_key(), domain="example.com", names="to:subject")
    assert results(raw, signing.record(signing.rsa_key())) == ["permerror: From is not signed"]


def test_a_length_leaves_the_rest_uncovered_and_that_is_noticed() -> None:
    raw = signing.signed(LETTER, signing.rsa_key(), domain="example.com", length=4) + b"Evil\r\n"
    letter = dkim.Letter(raw)
    [field] = letter.named(b"dkim-signature")
    assert letter.hashed(dkim.parse(field), field).uncovered > 4
    assert results(raw, signing.record(signing.rsa_key())) == ["pass"]
    short = signing.signed(LETTER, signing.rsa_key(), domain="example.com", length=4).partition(b"\r\n\r\n")[0]
    assert results(short + b"\r\n\r\n", signing.record(signing.rsa_key())) == ["fail: l= is more than the body"]


RSA_RAW = signing.signed(LETTER, signing.rsa_key(), domain="example.com")


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], "permerror: there is no key"),
        (["v=DKIM1; k=rsa; p="], "permerror: the key is revoked"),
        (["v=DKIM1; k=rsa"], "permerror: the key has no p="),
        ([signing.record(signing.ed25519_key())], "permerror: the key is of another kind than the signature"),
        ([signing.record(signing.rsa_key(1024))], "fail: the signature is not by this key, or the header was changed"),
        ([signing.record(signing.rsa_key(), s="tlsrpt")], "permerror: the key is not for e-mail"),
        ([signing.record(signing.rsa_key(), s="email:other")], "pass"),
        ([signing.record(signing.rsa_key(), h="sha1")], "permerror: the key is not for SHA-256"),
        ([signing.record(signing.rsa_key(), h="sha1:sha256", t="y")], "pass"),
        ([signing.record(signing.rsa_key()).replace("v=DKIM1", "v=DKIM2")], "permerror: the key's v= is not DKIM1"),
        (["unrelated text", signing.record(signing.rsa_key())], "pass"),
        (["v=DKIM1; p=AAAA"], "permerror: the key cannot be read"),
        (["v=DKIM1; p=%%%"], "permerror: the key's p= is no base64"),
    ],
)
def test_what_the_key_says_counts(records: list[str], expected: str) -> None:
    assert results(RSA_RAW, *records) == [expected]


def test_a_strict_key_wants_its_own_domain_in_i() -> None:
    raw = signing.signed(LETTER, signing.rsa_key(), domain="example.com", i="@sub.example.com")
    assert results(raw, signing.record(signing.rsa_key(), t="s")) == ["permerror: i= is not d=, as the key wants"]


def test_short_rsa_keys_do_not_count() -> None:
    """RFC 8301 3.2. The key is dkimpy's, of 512 bits; cryptography may not even read it."""
    record = (
        "k=rsa; p=MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBANmBe10IgY+u7h3enWTukkqtUD5PR52Tb/mPfjC0QJTocVBq6Za/PlzfV+P"
        "y92VaCak19F4WrbVTK5Gg5tW220MCAwEAAQ=="
    )
    assert results(RSA_RAW, record)[0].startswith("permerror")
    record = signing.record(signing.rsa_key(1024))
    made = signing.signed(LETTER, signing.rsa_key(1024), domain="example.com")
    assert results(made, record) == ["pass"]
    assert results(made, record, minimum_bits=2048) == ["permerror: an RSA key of 1024 bits does not count"]


def test_a_stranger_cannot_keep_it_busy() -> None:
    """The forms take time linear in the body: megabytes of what a naive pattern tries again and again."""
    for hostile in (b" " * 4_000_000, b"\r\n" * 2_000_000 + b"x", b" \r\n" * 1_000_000, b"\r" * 4_000_000):
        for form in dkim.BODY_FORMS.values():
            form(hostile)
    raw = b"DKIM-Signature: " + b";" * 200_000 + b"\r\n" + LETTER
    assert results(raw, "")[0].startswith("permerror")


def test_nothing_that_is_no_signature_raises() -> None:
    for junk in (b"", b"\r\n", b"no header at all", b"\xff\xfe: x\r\n\r\n", b" folded first\r\nFrom: a@b.c\r\n\r\n"):
        letter = dkim.Letter(junk)
        assert letter.named(b"dkim-signature") == []
    for value in ("", "v=1", "v=1; v=1", "b", "=", "v=1; a=rsa-sha256; b=!!", base64.b64encode(b"x").decode()):
        raw = f"DKIM-Signature: {value}\r\nFrom: a@b.c\r\n\r\n".encode()
        assert results(raw, "")[0].startswith("permerror")
