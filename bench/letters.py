"""The mails that are sent: each with a number of its own in the head, over a body made once.

text    plain text
mixed   text and HTML, and what is missing to the size as an attachment
"""

from __future__ import annotations

import base64
import random

LINE = 76
WORDS = (
    "the",
    "quick",
    "brown",
    "fox",
    "sends",
    "a",
    "letter",
    "to",
    "every",
    "lazy",
    "dog",
    "on",
    "Sunday",
    "by",
    "noon",
)
LINK = "https://app.example.com/verify?token=0b9f6d1c5a7e4c2f8d31"
BOUNDARY = "=_bench_boundary"
END = b"\r\n.\r\n"


def head(number: int, recipient: bytes) -> bytes:
    """The headers that differ from mail to mail; the rest comes with `body`."""
    return (
        b"From: Example App <no-reply@app.example.com>\r\nTo: <%b>\r\nSubject: [a%d] your code is 482913\r\n"
        b"Date: Sun, 22 Nov 2026 10:00:00 +0000\r\nMessage-ID: <%d.bench@app.example.com>\r\n"
    ) % (recipient, number, number)


def body(kind: str, size: int) -> bytes:
    """The rest of a mail of about `size` octets, up to and with the final dot."""
    if kind == "text":
        plain = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
        return plain + _text(size - 320) + END
    return _mixed(size) + END


def _text(size: int) -> bytes:
    """Lines of words, with a code and a link such as people are sent."""
    chosen = random.Random(5)
    lines = ["Hello,", "", "your verification code is 482913.", f"Or follow this link: {LINK}", ""]
    total = sum(len(line) + 2 for line in lines)
    while total < size:
        line = ""
        while len(line) < LINE - 10:
            line += chosen.choice(WORDS) + " "
        lines.append(line.rstrip())
        total += len(lines[-1]) + 2
    return "\r\n".join(lines).encode()


def _mixed(size: int) -> bytes:
    text = _text(1200)
    paragraphs = b"".join(b"<p style='margin:0'>%b</p>\r\n" % line for line in text.split(b"\r\n"))
    link = b'<a href="%b">Verify your address</a>' % LINK.encode()
    html = b"<html><head><style>p{color:#333}</style></head><body>\r\n" + paragraphs + link + b"</body></html>"
    parts = [(b"text/plain; charset=utf-8", b"", text), (b"text/html; charset=utf-8", b"", html)]
    missing = size - len(text) - len(html) - 900
    if missing > 0:
        content = base64.encodebytes(random.Random(5).randbytes(missing * 3 // 4)).replace(b"\n", b"\r\n")
        extra = b'Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment; filename="paper.pdf"\r\n'
        parts.append((b"application/pdf", extra, content))
    delimiter = b"--" + BOUNDARY.encode()
    top = b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="%b"\r\n\r\n' % BOUNDARY.encode()
    written = [b"%b\r\nContent-Type: %b\r\n%b\r\n%b\r\n" % (delimiter, *part) for part in parts]
    return top + b"".join(written) + delimiter + b"--"
