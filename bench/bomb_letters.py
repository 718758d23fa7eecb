"""Mails that are made to keep whoever reads them busy. Each is small where its trick is enough, and 25 MB where not."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Final

FULL: Final = 25_000_000  # octets of the large ones
HEAD: Final = b"From: a@example.com\r\nTo: b@postroom.test\r\n"
PLAIN: Final = HEAD + b"Subject: a bomb\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
HTML: Final = HEAD + b"Subject: a bomb\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
MIXED: Final = HEAD + b"Subject: a bomb\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=B\r\n\r\n"
PART: Final = b"--B\r\nContent-Type: text/plain\r\n\r\nx\r\n"
SIGNATURE: Final = (
    b"DKIM-Signature: v=1; a=rsa-sha256; d=example.com; s=key%d; h=From:To:Subject; bh=AAAA; b=AAAA; c=relaxed/relaxed"
)
SEAL: Final = (
    b"ARC-Seal: i=%d; a=rsa-sha256; cv=pass; d=example.com; s=k; b=AAAA\r\n"
    b"ARC-Message-Signature: i=%d; a=rsa-sha256; c=relaxed/relaxed; d=example.com; s=k; h=From; bh=AAAA; b=AAAA\r\n"
    b"ARC-Authentication-Results: i=%d; example.com; none\r\n"
)


def _filled(head: bytes, piece: bytes, size: int, tail: bytes = b"") -> bytes:
    """`piece` again and again, in lines that end, up to `size` octets."""
    line = piece * max(1, 900 // len(piece)) + b"\r\n"
    return head + line * ((size - len(head) - len(tail)) // len(line)) + tail


def _nested(depth: int) -> bytes:
    opened = b"".join(b"--%d\r\nContent-Type: multipart/mixed; boundary=%d\r\n\r\n" % (n, n + 1) for n in range(depth))
    return HEAD + b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=0\r\n\r\n" + opened + b"deep\r\n"


def _embedded(depth: int) -> bytes:
    """Attached messages, each in the next."""
    return HEAD + b"Subject: a bomb\r\n" + b"Content-Type: message/rfc822\r\n\r\n" * depth + PLAIN + b"deep\r\n"


def _attachment(size: int) -> bytes:
    content = base64.encodebytes(bytes(range(256)) * (size * 3 // 4 // 256)).replace(b"\n", b"\r\n")
    return (
        MIXED + PART + b"--B\r\nContent-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n"
        b'Content-Disposition: attachment; filename="a.pdf"\r\n\r\n' + content + b"--B--\r\n"
    )


def _signed(count: int, size: int) -> bytes:
    fields = b"".join(SIGNATURE % number + b"\r\n" for number in range(count))
    return _filled(fields + PLAIN, b"a  b\t", size)


def _sealed(count: int) -> bytes:
    return b"".join(SEAL % (n, n, n) for n in range(count, 0, -1)) + PLAIN + b"sealed\r\n"


BOMBS: Final[dict[str, Callable[[], bytes]]] = {
    "50,000 encoded words in a Subject": lambda: HEAD + b"Subject: " + b"=?utf-8?q?a?= " * 50_000 + b"\r\n\r\nx\r\n",
    "17,000 encoded words in a From": lambda: b"From: " + b"=?utf-8?q?a?= " * 17_000 + b"<a@b.c>\r\n\r\nx\r\n",
    "100,000 parts": lambda: MIXED + PART * 100_000 + b"--B--\r\n",
    "990 parts with 25 MB": lambda: MIXED + (PART + b"y" * 70 + b"\r\n") * 990 + b"y\r\n" * 8_000_000 + b"--B--\r\n",
    "50,000 parameters": lambda: (
        HEAD + b"Content-Type: text/plain" + b"".join(b"; p%d=x" % n for n in range(50_000)) + b"\r\n\r\nx\r\n"
    ),
    "multiparts 3,000 deep": lambda: _nested(3_000),
    "attached messages 3,000 deep": lambda: _embedded(3_000),
    "a header of 10 MB without an end": lambda: HEAD + b"X: " + b"y" * 10_000_000,
    "a header of 10 MB in 400,000 lines": lambda: HEAD + b"X-Field: of no use at all\r\n" * 400_000 + b"\r\nx\r\n",
    "a folded header of 10 MB": lambda: HEAD + b"X: y\r\n" + b" y\r\n" * 2_500_000 + b"\r\nx\r\n",
    "200,000 recipients in To": lambda: b"From: a@b.c\r\nTo: " + b"a@b.c, " * 200_000 + b"a@b.c\r\n\r\nx\r\n",
    "50,000 comments in From": lambda: b"From: " + b"(" * 50_000 + b" a@b.c\r\n\r\nx\r\n",
    "1,000 DKIM signatures": lambda: _signed(1_000, 500_000),
    "5 DKIM signatures over 25 MB": lambda: _signed(5, FULL),
    "5 DKIM signatures over 60 KB of white space": lambda: _signed(5, 60_000),
    "50 ARC seals": lambda: _sealed(50),
    "1,000 Received": lambda: b"Received: from a by b; Sun, 22 Nov 2026 10:00:00 +0000\r\n" * 1_000 + PLAIN + b"x\r\n",
    "500,000 References": lambda: HEAD + b"References: " + b"<a@b> " * 500_000 + b"\r\n\r\nx\r\n",
    "HTML 100,000 deep": lambda: _filled(HTML, b"<div>", 500_000),
    "HTML of 25 MB, deep": lambda: _filled(HTML, b"<div><b>", FULL),
    "a table of 1,000,000 cells": lambda: _filled(HTML, b"<td>x</td>", 10_000_000),
    "styles of 5 MB": lambda: _filled(HTML + b"<style>", b"a{b:c}", 5_000_000, b"</style>x\r\n"),
    "one style attribute of 500 KB": lambda: _filled(HTML + b'<p style="', b"color:red;", 500_000, b'">x</p>\r\n'),
    "100,000 links": lambda: _filled(HTML, b'<a href="https://a.example/verify?token=1">v</a>', 5_000_000),
    "1,000,000 character references": lambda: _filled(HTML, b"&amp;&#x41;", 10_000_000),
    "unclosed tags": lambda: _filled(HTML, b"<a <b <!-- ", 500_000),
    "digits": lambda: _filled(PLAIN, b"1234 56-", 500_000),
    "nothing but code words": lambda: _filled(PLAIN, b"code: ABC-123 ", 500_000),
    "white space": lambda: _filled(PLAIN, b" \t", 500_000),
    "words of one letter, 5 MB": lambda: _filled(PLAIN, b"a b c d ", 5_000_000),
    "text of 25 MB": lambda: _filled(PLAIN, "Größe ".encode(), FULL),
    "CRs and NULs, 25 MB": lambda: _filled(PLAIN, b"\x00\r", FULL),
    "octets above 127 without a charset, 5 MB": lambda: _filled(HEAD + b"\r\n", b"\xff\xfe", 5_000_000),
    "line ends, 5 MB": lambda: PLAIN + b"\r\n" * 2_500_000,
    "dots, 25 MB": lambda: _filled(PLAIN, b".\r\n", FULL),
    "base64 of 25 MB": lambda: _attachment(FULL),
    "quoted-printable of 5 MB": lambda: _filled(
        PLAIN.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"), b"=C3=BC", 5_000_000
    ),
}


def bombs() -> Iterator[tuple[str, bytes]]:
    """Each by its name, made when it is asked for."""
    for name, make in BOMBS.items():
        yield name, make()


def stuffed(raw: bytes) -> bytes:
    """As it goes over the wire, the final dot included (RFC 5321 4.5.2)."""
    wire = raw.replace(b"\r\n.", b"\r\n..")
    return wire + (b".\r\n" if wire.endswith(b"\r\n") else b"\r\n.\r\n")
