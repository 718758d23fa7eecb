"""Hostile bytes for SMTP sessions: real dialogues spoilt, commands made by a grammar, and plain noise.

`octets(seed, number)` is always the same for the same two numbers, so that what failed once can be tried again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

MAIL: Final = (
    b"From: Ann <a@b.example>\r\nTo: box@postroom.test\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nYour code is 482913.\r\n--b\r\n"
    b'Content-Type: text/html; charset="utf-8"\r\nContent-Transfer-Encoding: base64\r\n\r\nPGI+eDwvYj4=\r\n--b\r\n'
    b'Content-Disposition: attachment; filename="a.bin"\r\n\r\n..\r\n.\x00\xff\r\n--b--\r\n'
)
DIALOGUES: Final[Sequence[bytes]] = (
    b"EHLO peer.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<box@postroom.test>\r\nDATA\r\n"
    + MAIL
    + b".\r\nQUIT\r\n",
    b"HELO peer\r\nMAIL FROM:<> SIZE=100 BODY=8BITMIME\r\nRCPT TO:<x@postroom.test> NOTIFY=NEVER\r\nRSET\r\nNOOP\r\n",
    b"EHLO x\r\nMAIL FROM:<> BODY=BINARYMIME\r\nRCPT TO:<box@postroom.test>\r\nBDAT 4\r\nA: \r\nBDAT 1 LAST\r\n.",
    "EHLO x\r\nMAIL FROM:<ä@例子.example> SMTPUTF8 AUTH=<> ENVID=QQ314\r\nRCPT TO:<üser@postroom.test>\r\n".encode(),
    b'RCPT TO:<@a.example,@b.example:"a b"@postroom.test> ORCPT=rfc822;x\r\nVRFY a\r\nEXPN b\r\nHELP\r\nSTARTTLS\r\n',
    b"AUTH PLAIN AGFueWJvZHkAc2VjcmV0\r\nAUTH LOGIN\r\nYQ==\r\nYg==\r\nAUTH PLAIN\r\n*\r\nAUTH XOAUTH2 =\r\nRSET\r\n",
    b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 25\r\nEHLO x\r\nRSET\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc0\0\x02\x01\x12\x67\0\x19EHLO x\r\nNOOP\r\n",
    MAIL + b".\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<box@postroom.test>\r\nDATA\r\n\r\n.\r\nNOOP\r\n",
    b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(range(64)) + b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
)
VERBS: Final = (
    *(b"EHLO", b"HELO", b"MAIL", b"RCPT", b"DATA", b"BDAT", b"RSET", b"NOOP", b"QUIT", b"VRFY", b"EXPN", b"HELP"),
    *(b"STARTTLS", b"AUTH", b"ETRN", b"XCLIENT", b"PROXY", b"LHLO", b"__init__", b"MAIL FROM:", b"RCPT TO:", b"\xff"),
)
WORDS: Final = (
    *(
        b"<",
        b">",
        b"@",
        b"[",
        b"]",
        b'"',
        b"\\",
        b":",
        b",",
        b".",
        b"..",
        b" ",
        b"\t",
        b"=",
        b"(",
        b")",
        b";",
        b"%",
        b"!",
    ),
    *(b"\0", b"\x7f", b"\x80", b"\xff", b"\xed\xa0\x80", b"\xc2\x85", "\u2028".encode(), "²".encode(), "ü".encode()),
    *(b"a", b"b@c", b"postroom.test", b"box@postroom.test", b"xn--", b"xn--0", b"[IPv6:::1]", b"[127.0.0.1]", b"@x:"),
    *(b"SIZE=", b"SIZE=18446744073709551616", b"BODY=", b"BODY=BINARYMIME", b"SMTPUTF8", b"AUTH=<>", b"NOTIFY=", b"+x"),
    *(b"LAST", b"0", b"1", b"9", b"-1", b"99999999999999999999", b"PLAIN", b"LOGIN", b"AAAA", b"=", b"*", b"AHgAeA=="),
    *(b"TCP4", b"TCP6", b"UNKNOWN", b"127.0.0.1", b"::1", b"x" * 300, b"=?utf-8?q?=0A?=", b"=?utf-8?b?AAAA?="),
)
FORMS: Final = (
    *(b"MAIL FROM:<%b> %b=%b", b"MAIL FROM:<%b> SIZE=%b BODY=%b", b"MAIL FROM:%b %b %b", b"RCPT TO:<%b> %b=%b"),
    *(
        b"RCPT TO:<%b@%b>%b",
        b"BDAT %b %b%b",
        b"AUTH %b %b%b",
        b"EHLO %b%b%b",
        b"VRFY <%b@%b>%b",
        b"RCPT TO:<@%b:%b@%b>",
    ),
)
BREAKS: Final = (b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\n\r", b"\r\r\n", b"\0\r\n", b" \r\n", b"")
ENDS: Final = (
    b"\r\n.\r\n",
    b"\n.\n",
    b"\r.\r",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r\n\0.\r\n",
    b"\r\n..\r\n",
    b"\r\n.\0\r\n",
    b".",
)


def octets(seed: int, number: int) -> bytes:
    """One input, seldom more than 2 KB."""
    dice = random.Random(seed * 1_000_003 + number)
    return dice.choice(_KINDS)(dice)


def _noise(dice: random.Random) -> bytes:
    return dice.randbytes(dice.choice((1, 2, 7, 40, 300, 5000)))


def _commands(dice: random.Random) -> bytes:
    return b"".join(_command(dice) for _ in range(dice.randint(1, 6)))


def _command(dice: random.Random) -> bytes:
    words = b"".join(dice.choices(WORDS, k=dice.randrange(8)))
    return dice.choice(VERBS) + dice.choice((b" ", b"", b"  ", b"\t")) + words + dice.choice(BREAKS)


def _forms(dice: random.Random) -> bytes:
    """Commands that are nearly right."""
    return b"".join(_form(dice) for _ in range(dice.randint(1, 6)))


def _form(dice: random.Random) -> bytes:
    form = dice.choice(FORMS)
    return form % tuple(b"".join(dice.choices(WORDS, k=dice.choice((0, 1, 1, 2)))) for _ in range(3)) + b"\r\n"


def _spoilt(dice: random.Random) -> bytes:
    found = bytearray(dice.choice(DIALOGUES))
    for _ in range(dice.randint(1, 8)):
        dice.choice(_SPOILING)(found, dice)
    return bytes(found)


def _spliced(dice: random.Random) -> bytes:
    one, other = dice.choice(DIALOGUES), dice.choice(DIALOGUES)
    return one[: dice.randrange(len(one))] + dice.choice(ENDS) + other[dice.randrange(len(other)) :]


def _flip(found: bytearray, dice: random.Random) -> None:
    if found:
        found[dice.randrange(len(found))] = dice.randrange(256)


def _insert(found: bytearray, dice: random.Random) -> None:
    at = dice.randint(0, len(found))
    found[at:at] = dice.choice((*WORDS, *ENDS, *BREAKS))


def _remove(found: bytearray, dice: random.Random) -> None:
    at = dice.randint(0, len(found))
    del found[at : at + dice.choice((1, 2, 10, 100))]


def _repeat(found: bytearray, dice: random.Random) -> None:
    at = dice.randint(0, len(found))
    found[at:at] = found[at : at + dice.choice((1, 20, 100))] * dice.choice((1, 2, 20))


def _change_case(found: bytearray, dice: random.Random) -> None:
    at = dice.randint(0, len(found))
    found[at : at + 20] = found[at : at + 20].swapcase()


def _break(found: bytearray, dice: random.Random) -> None:
    """Another line end than the one that stands there."""
    at = found.find(b"\r\n", dice.randint(0, len(found)))
    if at >= 0:
        found[at : at + 2] = dice.choice((*BREAKS, *ENDS))


_SPOILING: Final[Sequence[Callable[[bytearray, random.Random], None]]] = (
    *(_flip, _insert, _remove, _repeat, _change_case, _break),
)
_KINDS: Final[Sequence[Callable[[random.Random], bytes]]] = (
    _spoilt,
    _spoilt,
    _spliced,
    _commands,
    _forms,
    _forms,
    _noise,
)
