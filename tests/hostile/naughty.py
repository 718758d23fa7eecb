"""Texts that break programs: each was somewhere run, cut, folded, lost or taken for something else."""

from __future__ import annotations

import itertools
from typing import Final

_WORDS: Final = """
undefined null NULL None nil NaN Infinity -Infinity true false True FALSE 0 -0 -1 1.0 1/2 1e3 1E400 0x1F 0b1 007 1_000
1,000 1.000.000,00 ٣٤٥ ²³ ½ Ⅷ 9223372036854775808 -9223372036854775809 99999999999999999999999999 1e-999 .5 5. + - --
' " ` '' "" ''' \\ \\\\ / // /* */ <!-- --> -- ; # % %% & | || && * ? ! ~ ^ $ @ ( ) [ ] { } < > = == := => .. ...
%s %d %n %x%x%x%x %p %s%s%s%s %1$s %(name)s {0} {} {name} {{7*7}} ${7*7} #{7*7} <%=7*7%> ${jndi:ldap://x/a} $(id) `id`
../ ../../etc/passwd ..\\..\\boot.ini /etc/passwd%00.png C:\\ \\\\server\\share file:///etc/passwd con CON.txt AUX nul
' OR '1'='1 '; DROP TABLE messages;-- 1;SELECT pg_sleep(9) admin'-- ') OR 1=1-- " OR ""=" %' OR '1'='1 E'\\x41' $$a$$
<script>alert(1)</script> <img/src=x/onerror=alert(1)> javascript:alert(1) "><svg/onload=alert(1)> </title> &lt; &#0;
__proto__ constructor toString hasOwnProperty __class__ __init__ self.__class__ id type
=1+1 +1+1 -1+1 @SUM(1) =cmd|'/C_calc'!A0
http://a/%%30%30 http://0/ http://[::1]/ mailto:a@b.c?bcc=x@y.z data:text/html,x
a@b a@b.c@d.e "a@b"@c.d a@[127.0.0.1] a@b..c <a@b.c> a,b@c.d a@b.c,d@e.f @b.c a@ :;@
"""

LINES: Final = (
    "",
    " ",
    "  two  spaces  ",
    "\t",
    "tab\tin it",
    "line\nfeed",
    "line\r\nends",
    "carriage\rreturn",
    "vertical\x0btab",
    "form\x0cfeed",
    "bell\x07",
    "escape\x1b[31mred",
    "delete\x7f",
    "file\x1cgroup\x1drecord\x1eunit\x1f",
    "next\x85line",
    "line\u2028separator",
    "paragraph\u2029separator",
    "no\u00a0break",
    "zero\u200bwidth",
    "soft\u00adhyphen",
    "joiner\u200d\u200c",
    "\ufeffmark",
    "\u202eright to left",
    "\u2066isolate\u2069",
    "\u061c\u200e\u200f",
    "\ufffe\uffff",
    "\U000fffff private",
    "\ud7ff\ue000 next to surrogates",
    "\U0010ffff the last",
    "e\u0301 and \u00e9",
    "\u212b \u00c5 A\u030a",
    "ﬁ ﬀ ǆ ſt",
    "İstanbul ıI ß ẞ ŉ",
    "Ω≈ç√∫˜µ≤≥÷",
    "田中さんにあげて下さい",
    "사회과학원 어학연구소",
    "𠜎𠜱𠝹𠱓",
    "الكل في المجمو عة",
    "בְּרֵאשִׁית",
    "ก็็็็็็็็",
    "Z̸̡̛̖͎a̸͕͝l̵̰͠g̷̘̈́o̶͍͝",
    "раураӏ.com",
    "𝕋𝕙𝕖 𝓺𝓾𝓲𝓬𝓴 ⓑⓡⓞⓦⓝ",
    "😀😍👩\u200d👩\u200d👧\u200d👦🏳\ufe0f\u200d🌈🇩🇪",
    "👍🏻👍🏿",
    "=?utf-8?q?encoded?=",
    "=?utf-8?b?AAAA?=",
    "=?utf-8?q?a=0ABcc:_x=40y.z?=",
    ".",
    "\r\n.\r\n",
    "From the start",
    "X-Header: value",
    "\\u0000",
    "\\x00 %00 &#0; \\0",
    "a" * 64,
    "a" * 255,
    "a" * 256,
    "a" * 998,
    "a" * 70_000,
    "😀" * 5_000,
    "e" + "\u0301" * 2_000,
    " " * 5_000,
    "\n" * 5_000,
    "(" * 3_000,
    "[" * 3_000 + "]" * 3_000,
    '"' * 3_000,
    "-" * 3_000,
    "from:" * 500,
    ",".join("ab"[i % 2] for i in range(3_000)),
    "9" * 5_000,
    "%" * 3_000,
    "{{" * 1_000,
)

STRINGS: Final = tuple(dict.fromkeys(itertools.chain(_WORDS.split(), LINES)))
