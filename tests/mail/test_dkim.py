"""DKIM signatures that we make: they verify by our own checker and by dkimpy's, and not once an octet was changed."""

from __future__ import annotations

import base64
import functools
import re
from datetime import UTC, datetime

import dkim as dkimpy
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.mail import address, compose, dkim
from gateway.mail.auth import dkim as checking

NOW = datetime.now(UTC)
HEAD = b"From: A <a@example.com>\r\nTo: b@example.net\r\nSubject: Hello\r\nDate: Sun, 22 Nov 2026 04:00:00 +0000\r\n"
PASS = ["pass", "pass"]


@functools.cache
def keys() -> tuple[dkim.Key, ...]:
    """One of each kind."""
    return tuple(
        dkim.Key(domain="example.com", selector=f"{algorithm}-1", private=dkim.generate(algorithm))
        for algorithm in dkim.ALGORITHMS
    )


@functools.cache
def records() -> dict[str, bytes]:
    """What the DNS has of them, by name."""
    return {f"{key.selector}._domainkey.{key.domain}": dkim.public_record(key.private).encode() for key in keys()}


def signed(raw: bytes) -> bytes:
    return dkim.sign(raw, keys(), NOW)


def results(raw: bytes) -> list[str]:
    """What our own checker makes of each signature."""
    letter = checking.Letter(raw)
    return [_result(letter, field) for field in letter.named(b"dkim-signature")]


def _result(letter: checking.Letter, field: checking.Field) -> str:
    try:
        signature = checking.parse(field)
        texts = [records()[signature.key_name]] if signature.key_name in records() else []
        checking.verify(letter.hashed(signature, field), checking.key(texts), NOW)
    except checking.Unacceptable as error:
        return str(error)
    return "pass"


def dkimpy_takes(raw: bytes) -> bool:
    """dkimpy's word on the RSA signature (its Ed25519 needs a library of its own), of the mail as the wire has it."""
    raw = raw if raw.endswith(b"\r\n") else raw + b"\r\n"  # RFC 5321 4.1.1.4
    found: bool = dkimpy.verify(raw, dnsfunc=lambda name, timeout=5: records().get(name.decode().rstrip(".")))
    return found


SHAPES = {
    "plain": HEAD + b"\r\nHello.\r\n",
    "no body": HEAD + b"\r\n",
    "no line before the body": HEAD,
    "only empty lines": HEAD + b"\r\n\r\n\r\n\r\n",
    "empty lines at the end": HEAD + b"\r\nHello.\r\n\r\n\r\n\r\n",
    "white space in empty lines at the end": HEAD + b"\r\nHello.\r\n \r\n\t\r\n",
    "white space at the ends of lines": HEAD + b"\r\nHello. \t \r\n  there\t\r\n",
    "no line end at the end": HEAD + b"\r\nHello.",
    "eight bits": HEAD + b"\r\nGr\xc3\xbc\xc3\x9fe \xff\xfe\r\n",
    "a header in UTF-8": HEAD + b"X: y\r\nReply-To: Zo\xc3\xab <z@example.com>\r\n\r\nHello.\r\n",
    "folded": HEAD + b"References: <a@b>\r\n\t<c@d>\r\n  <e@f>\r\nCc: c@d,\r\n d@e\r\n\r\nHello.\r\n",
    "a long header": HEAD
    + b"References: "
    + b" ".join(b"<%d@example.com>" % n for n in range(3000))
    + b"\r\n\r\nHello.\r\n",
    "long lines": HEAD + b"\r\n" + b"x" * 998 + b"\r\n" + b"y " * 499 + b"\r\n",
    "two of a field": HEAD + b"Reply-To: a@b\r\nReply-To: c@d\r\n\r\nHello.\r\n",
    "all fields": HEAD
    + b"Cc: c@d\r\nMessage-ID: <1@example.com>\r\nReply-To: a@b\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n"
    + b"List-Unsubscribe: <https://example.com/u>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
    + b"References: <a@b>\r\nIn-Reply-To: <a@b>\r\n\r\nHello.\r\n",
    "dots": HEAD + b"\r\n.\r\n..\r\n.a\r\n",
    "signed by its author": b"DKIM-Signature: v=1; a=rsa-sha256; d=other.example; s=s; h=from; bh=eA==; b=eA==\r\n"
    + HEAD
    + b"\r\nHello.\r\n",
    "large": HEAD + b"\r\n" + (base64.b64encode(bytes(range(57))) + b"\r\n") * 40_000,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_mail_is_signed_so_that_others_find_both_signatures_good(shape: str) -> None:
    raw = signed(SHAPES[shape])
    assert raw.endswith(SHAPES[shape])
    assert results(raw)[:2] == PASS
    assert dkimpy_takes(raw)


@pytest.mark.parametrize("html", [None, "<p>Grüße</p>"])
@pytest.mark.parametrize("text", ["Hello.", "Grüße\n\n\n", "x" * 5000, "\r\n.\r\n", "a\n" * 2000])
@pytest.mark.parametrize("size", [None, 0, 3_000_000])
def test_what_is_composed_verifies(text: str, html: str | None, size: int | None) -> None:
    files = () if size is None else (compose.Attachment(filename="Ä.bin", content=b"\xff" * size),)
    draft = compose.Draft(
        from_=address.parse_mailbox("Zoë <a@example.com>"),
        to=tuple(address.parse_mailbox(f"user{n}@recipient.example") for n in range(50)),
        subject="Grüße " * 60,
        text=text,
        html=html,
        headers={"List-Unsubscribe": "<https://example.com/u>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"},
        attachments=files,
        message_id="<1@example.com>",
        date=NOW,
    )
    raw = signed(compose.compose(draft))
    assert results(raw) == PASS
    assert dkimpy_takes(raw)


_WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80).map(str.encode)
_BODIES = st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([b"", b" ", b"\t", b".", b"a  b "])), max_size=12)


def _written(subject: bytes, lines: list[bytes], *, ended: bool) -> bytes:
    clean = [re.sub(rb"[\r\n]", b"", line) for line in lines]
    return HEAD + b"Reply-To: " + subject + b"\r\n\r\n" + b"\r\n".join(clean) + (b"\r\n" if ended else b"")


@settings(deadline=None)
@given(_WORDS, _BODIES, st.booleans())
@example(b"", [], False)
@example(b"", [b" "], False)
def test_whatever_is_signed_verifies(subject: bytes, lines: list[bytes], ended: bool) -> None:
    raw = signed(_written(subject, lines, ended=ended))
    assert results(raw) == PASS
    assert dkimpy_takes(raw)


@settings(deadline=None)
@given(st.data())
def test_one_changed_octet_of_a_signed_field_or_of_the_body_breaks_both(data: st.DataObject) -> None:
    """Octets that no canonical form keeps (white space, capitals of a field's name) are left alone."""
    raw = signed(SHAPES["all fields"])
    begin = raw.index(HEAD)
    places = [at for at in range(begin, len(raw)) if raw[at : at + 1] not in b" \t\r\n" and not _in_name(raw, at)]
    at = data.draw(st.sampled_from(places))
    other = data.draw(st.integers(33, 126).filter(lambda octet: octet != raw[at]))
    changed = raw[:at] + bytes([other]) + raw[at + 1 :]
    assert "pass" not in results(changed)


def _in_name(raw: bytes, at: int) -> bool:
    """In the name of a header field, colon included: changed, the field is another one, or none."""
    if at > raw.index(b"\r\n\r\n"):
        return False
    begin = raw.rindex(b"\n", 0, at) + 1
    return raw[begin:at].find(b":") < 0


@pytest.mark.parametrize("name", [name.decode() for name in dkim.SIGNED])
def test_a_field_that_is_taken_away_breaks_both(name: str) -> None:
    raw = signed(SHAPES["all fields"])
    block = re.compile(rb"^%s:.*\r\n" % name.encode(), re.MULTILINE | re.IGNORECASE)
    changed, count = block.subn(b"", raw)
    assert count == 1
    assert "pass" not in results(changed)


@pytest.mark.parametrize("at_top", [True, False])
def test_a_second_from_breaks_both(at_top: bool) -> None:
    """Both checkers see to that by themselves; for those that do not, h= names From once more (asserted below)."""
    raw = signed(SHAPES["plain"])
    added = b"From: ceo@example.com\r\n"
    changed = added + raw if at_top else raw.replace(b"\r\n\r\n", b"\r\n" + added + b"\r\n", 1)
    assert "pass" not in results(changed)
    assert not dkimpy_takes(changed)


def test_relays_may_fold_and_trim() -> None:
    raw = signed(SHAPES["plain"])
    changed = raw.replace(b"From: A <a@", b"from :\tA\r\n  <a@").replace(b"Hello.\r\n", b"Hello. \r\n\r\n")
    assert changed != raw
    assert results(changed) == PASS


def test_the_lines_of_a_signature_are_short() -> None:
    raw = signed(SHAPES["all fields"])
    assert max(len(line) for line in raw[: raw.index(HEAD)].split(b"\r\n")) <= 78
    assert b"h=from:from:to:cc:" in raw


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n\r\nHello.\r\n",
        b"To: a@b\r\n\r\nHello.\r\n",
        HEAD + b"Cc: a@b\r\n" * 300 + b"\r\nHello.\r\n",
        HEAD + b"X: y\r\n" * 3000 + b"\r\n",
        HEAD + b"X: " + b"y" * 1_100_000 + b"\r\n\r\n",
    ],
)
def test_what_no_checker_would_take_is_not_signed(raw: bytes) -> None:
    with pytest.raises(dkim.Unsignable):
        signed(raw)


def test_the_author_is_who_stands_in_from() -> None:
    assert dkim.author(HEAD + b"\r\nHello.\r\n") == "example.com"
    assert dkim.author("From: a@Bücher.example\r\n\r\n".encode()) == "xn--bcher-kva.example"
    for raw in (b"To: a@b.example\r\n\r\n", b"From: nobody\r\n\r\n", b"From: a@b.example\r\nFrom: c@d.example\r\n\r\n"):
        with pytest.raises(dkim.Unsignable):
            dkim.author(raw)


@pytest.mark.parametrize("algorithm", dkim.ALGORITHMS)
def test_a_key_survives_being_stored(algorithm: dkim.Algorithm) -> None:
    private = dkim.generate(algorithm)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for read in (dkim.from_der(dkim.to_der(private)), dkim.from_pem(pem)):
        assert dkim.public_record(read) == dkim.public_record(private)


def test_what_is_no_key_is_said_to_be_none() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - to be read all the same
    assert dkim.from_der(dkim.to_der(weak)).key_size == 1024  # type: ignore[union-attr] # it is RSA
    curve = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for octets in (b"", b"nonsense", curve):
        with pytest.raises(dkim.UnusableKey):
            dkim.from_der(octets)
        with pytest.raises(dkim.UnusableKey):
            dkim.from_pem(octets)


def test_a_record_is_found_however_it_is_written() -> None:
    [rsa_key, other] = (dkim.public_record(key.private) for key in keys())
    material = rsa_key.partition("p=")[2]
    assert dkim.is_published(rsa_key, [rsa_key])
    assert dkim.is_published(rsa_key, [f"v=DKIM1;p={material[:50]} {material[50:]};"])
    assert dkim.is_published(rsa_key, ["some other text", rsa_key])
    for found in ([], [other], ["v=DKIM1; p="], ["v=spf1 -all"], [rsa_key.replace(material[60:64], "AAAA")]):
        assert not dkim.is_published(rsa_key, found)
